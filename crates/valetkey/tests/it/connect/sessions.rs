//! Links: who may open one, what the page says, and how often it works.

use std::time::Duration;

use provider_lab::{At, Fault, Rule};
use serde_json::json;
use valetkey::{
    Code,
    connect::session::{self, NewSession, Proof},
    id::{PlatformKeyId, UserId},
    on, on_each_db, person,
    platform::{self, Asserts, NewKey, Scope},
    principal::{Actor, Owner},
    secret::Secret,
    site::{self, SiteChange},
};

use super::world::{OPERATOR, World, alices, connected, failure, fields, of};

on_each_db! {
    async fn a_link_works_once(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(alices()).await;
        let visit = world.open(&link, &alices().owner).await;
        let csrf = session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap().csrf.unwrap();
        let approve = || session::approve(&world.outside, &link.link, Some(&visit), &csrf);
        let (a, b) = tokio::join!(approve(), approve());
        assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1, "of two at once one wins");
        assert_eq!(approve().await.unwrap_err().code(), Code::NotFound);
        assert_eq!(session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap_err().code(), Code::NotFound);
        let (flows,): (i64,) = on!(&db, |c| sqlx::query_as("SELECT COUNT(*) FROM flows").fetch_one(c).await.unwrap());
        assert_eq!(flows, 1);
    }

    async fn a_link_works_for_ten_minutes(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(of("site")).await;
        world.house.base.clock.advance(Duration::from_secs(599));
        session::view(&world.outside, &link.link).await.unwrap();
        world.house.base.clock.advance(Duration::from_secs(1));
        assert_eq!(session::view(&world.outside, &link.link).await.unwrap_err().code(), Code::NotFound);
        for unknown in ["", "x", &"A".repeat(43)] {
            assert_eq!(session::view(&world.outside, &Secret::new(unknown)).await.unwrap_err().code(), Code::NotFound);
        }
    }

    /// R19: `return_to` is one of the site's list as a whole text, or there is no link.
    async fn return_to_is_matched_exactly(db: Db) {
        let world = World::new(&db).await;
        allow(&world, &["https://p.example/done?keep=%2F"]).await;
        for crafted in [
            "https://p.example/done", "https://p.example/done?keep=/", "https://p.example/done?keep=%2F&x=1",
            "https://p.example/done?keep=%2F#", "https://P.example/done?keep=%2F", "https://p.example.evil.example/done?keep=%2F",
            "https://p.example@evil.example/", "//evil.example", "/done", "javascript:alert(1)", "", "https://p.example:443/done?keep=%2F",
        ] {
            let mut new = alices();
            new.return_to = Some(crafted.into());
            assert_eq!(world.refused(new).await, Code::InvalidRequest, "{crafted}");
        }
        let mut new = alices();
        new.return_to = Some("https://p.example/done?keep=%2F".into());
        let ended = world.connect(new, "alice").await;
        let id = connected(&ended);
        assert_eq!(
            ended.return_url().unwrap(),
            format!("https://p.example/done?keep=%2F&auth_success=1&provider=lab&connection={id}")
        );
    }

    /// R19: of the list as it is when the browser goes on.
    async fn a_return_url_that_was_taken_off_the_list_gets_no_browser(db: Db) {
        let world = World::new(&db).await;
        let gone = "https://p.example/done";
        allow(&world, &[gone]).await;
        let to = |owner: &str| NewSession { return_to: Some(gone.into()), ..of(owner) };
        let started = world.start(to("user:alice")).await;
        let query = world.sign_in(&started, "alice").await;
        let link = world.link(to("site")).await;
        let visit = world.open(&link, &Owner::Site).await;
        let page = session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap();
        assert_eq!(page.view.return_to.as_deref(), Some(gone));
        allow(&world, &["https://p.example/other"]).await;
        let ended = world.come_back(&query, Some(&started.binding.value)).await;
        connected(&ended);
        assert_eq!(ended.return_url(), None);
        assert_eq!(session::view(&world.outside, &link.link).await.unwrap().return_to, None);
        let ended = session::cancel(&world.outside, &link.link, Some(&visit), &page.csrf.unwrap()).await.unwrap();
        assert_eq!((failure(&ended), ended.return_url()), (Code::OauthDenied, None));
    }

    ///
    async fn a_payload_of_four_kib_is_carried_and_a_larger_one_is_refused(db: Db) {
        let world = World::new(&db).await;
        let mut new = alices();
        new.payload = Some(Secret::new("x".repeat(4097)));
        assert_eq!(world.refused(new.clone()).await, Code::InvalidRequest);
        new.payload = Some(Secret::new("é".repeat(2048)));
        let ended = world.connect(new.clone(), "alice").await;
        connected(&ended);
        assert!(ended.payload.unwrap().matches(&new.payload.unwrap()));
    }

    async fn what_cannot_be_connected_gets_no_link(db: Db) {
        let world = World::new(&db).await;
        for (name, code) in [
            ("nowhere", Code::NotFound),
            ("mastodon", Code::InvalidRequest),
            ("twitter", Code::NotConfigured),
            ("github_app", Code::NotConfigured),
            ("github", Code::NotConfigured),
        ] {
            let mut new = alices();
            new.provider = name.parse().unwrap();
            assert_eq!(world.refused(new).await, code, "{name}");
        }
        assert_eq!(world.refused(of("agent:nobody")).await, Code::NotFound);
        let mut new = alices();
        new.agent = Some("nobody".parse().unwrap());
        assert_eq!(world.refused(new).await, Code::NotFound);
        let mut new = alices();
        new.fields = fields(json!({ "instance": "https://a.example" }));
        assert_eq!(world.refused(new).await, Code::InvalidRequest);
    }

    async fn a_scope_is_one_word(db: Db) {
        let world = World::new(&db).await;
        for scope in ["", "a b", "a\"b", "a\\b", "é", "a\n", &"x".repeat(257)] {
            let mut new = alices();
            new.scopes = Some(vec![scope.into()]);
            assert_eq!(world.refused(new).await, Code::InvalidRequest, "{scope:?}");
        }
        let mut new = alices();
        new.scopes = Some((0..101).map(|n| format!("s{n}")).collect());
        assert_eq!(world.refused(new).await, Code::InvalidRequest);
    }

    /// R26: what the page needs to say: who, what, which scopes, which host, on whose account, and where to afterwards.
    ///
    async fn the_view_says_who_what_and_where(db: Db) {
        let world = World::new(&db).await;
        allow(&world, &["https://p.example/done"]).await;
        let agent = world.house.agent("scribe", None).await;
        let new = NewSession {
            agent: Some(agent),
            return_to: Some("https://p.example/done".into()),
            name: "work".parse().unwrap(),
            scopes: Some(vec!["profile".into()]),
            ..alices()
        };
        let link = world.link(new).await;
        let view = session::view(&world.outside, &link.link).await.unwrap();
        assert_eq!((view.title.as_str(), view.owner_words.as_str(), view.site_title.as_str()), ("Lab", "user alice", "Default"));
        assert_eq!((view.agent.as_deref(), view.name.to_string().as_str()), (Some("scribe"), "work"));
        assert_eq!(view.scopes, ["profile"]);
        assert_eq!((view.host, view.authorize_origin), (world.lab.addr().to_string(), world.lab.origin()));
        assert_eq!((view.return_to.as_deref(), view.proof), (Some("https://p.example/done"), Proof::Missing));
    }

    /// Decisions 6: a link to a person's account needs proof, and only proof of exactly that person.
    async fn a_persons_link_is_opened_by_proof_of_that_person_only(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(alices()).await;
        let other = world.link(alices()).await;
        let bare = session::visit(&world.outside, &link.link, None).await.unwrap();
        assert_eq!((bare.view.proof, bare.csrf.is_none(), bare.fresh.is_none()), (Proof::Missing, true, true));

        let (outside, secret) = (&world.outside, &link.link);
        let prove = |assertion: Secret| async move { session::prove(outside, secret, &assertion).await };
        assert_eq!(prove(world.assertion(&link, "mallory")).await.unwrap_err().code(), Code::Forbidden);
        assert_eq!(prove(world.assertion(&other, "alice")).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(prove(Secret::new("x.y.z")).await.unwrap_err().code(), Code::Unauthenticated);
        let good = world.assertion(&link, "alice");
        let visit = prove(good.clone()).await.unwrap();
        assert_eq!(prove(good).await.unwrap_err().code(), Code::Unauthenticated, "an assertion works once");
        // Whatever is refused to somebody who has the link leaves a row.
        let mut told: Vec<_> = world.audited("connect.prove").await.into_iter().map(|(outcome, _)| outcome).collect();
        told.sort_unstable();
        assert_eq!(told, ["denied", "denied", "denied", "denied", "ok"]);

        let proven = session::visit(&world.outside, &link.link, Some(&visit.value)).await.unwrap();
        assert_eq!((proven.view.proof, proven.csrf.is_some()), (Proof::Proven, true));
        // Whoever only has the link still gets nothing.
        let stranger = session::visit(&world.outside, &link.link, Some(&Secret::new("A".repeat(43)))).await.unwrap();
        assert_eq!((stranger.view.proof, stranger.csrf.is_none()), (Proof::Missing, true));
        let csrf = proven.csrf.unwrap();
        for visit in [None, Some(Secret::new("A".repeat(43)))] {
            let error = session::approve(&world.outside, &link.link, visit.as_ref(), &csrf).await.unwrap_err();
            assert_eq!(error.code(), Code::Forbidden);
        }
        assert_eq!(world.audited("connect.answer").await.len(), 2);
    }

    /// What JWT libraries add of themselves is no reason to refuse; for whom and when still is.
    async fn an_assertion_may_have_the_usual_claims(db: Db) {
        let world = World::new(&db).await;
        let (base, site) = (&world.house.base, &world.house.site);
        let new = NewKey { label: "p".into(), scopes: [Scope::Connect].into(), asserts: Asserts::Any, expires_at: None };
        let minted = platform::create(base, site, &OPERATOR, new).await.unwrap();
        let link = world.link(alices()).await;
        let now = base.clock.now().unix_seconds();
        let prove = async |changes: serde_json::Value| {
            let mut claims = json!({
                "iss": "https://p.example", "sub": "alice", "aud": ["valetkey:connect"], "sid": link.id, "iat": now, "nbf": now,
                "exp": now + 60, "jti": format!("0123456789abcdef{changes}"), "name": "Alice",
            });
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
            header.kid = Some(minted.key.id.to_string());
            let key = jsonwebtoken::EncodingKey::from_secret(minted.assertion_secret.expose().as_bytes());
            let text = Secret::new(jsonwebtoken::encode(&header, &claims, &key).unwrap());
            session::prove(&world.outside, &link.link, &text).await.map(|_| ()).map_err(|error| error.code())
        };
        prove(json!({})).await.unwrap();
        for wrong in [
            json!({ "aud": ["valetkey:connect", "others"] }),
            json!({ "aud": "others" }),
            json!({ "aud": null }),
            json!({ "nbf": now + 30 }),
            json!({ "iat": now + 30 }),
        ] {
            assert_eq!(prove(wrong.clone()).await, Err(Code::Unauthenticated), "{wrong}");
        }
    }

    /// A proof that comes later takes the session over to the browser that brings it.
    async fn a_second_proof_moves_the_session_to_its_browser(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(alices()).await;
        let first = world.open(&link, &alices().owner).await;
        let second = world.open(&link, &alices().owner).await;
        let seen = session::visit(&world.outside, &link.link, Some(&first)).await.unwrap();
        assert_eq!((seen.view.proof, seen.csrf.is_none()), (Proof::Missing, true));
        world.approve(&link, &second).await;
    }

    async fn a_links_without_proof_need_the_operators_switch_at_the_moment_of_the_answer(db: Db) {
        let world = World::new(&db).await;
        switch(&world, true).await;
        let link = world.link(alices()).await;
        let page = session::visit(&world.outside, &link.link, None).await.unwrap();
        assert_eq!(page.view.proof, Proof::Waived);
        let (visit, csrf) = (page.fresh.unwrap().value, page.csrf.unwrap());
        switch(&world, false).await;
        let error = session::approve(&world.outside, &link.link, Some(&visit), &csrf).await.unwrap_err();
        assert_eq!(error.code(), Code::Forbidden);
        switch(&world, true).await;
        let started = session::approve(&world.outside, &link.link, Some(&visit), &csrf).await.unwrap();
        let query = world.sign_in(&started, "alice").await;
        connected(&world.come_back(&query, Some(&started.binding.value)).await);
        let (_, facts) = world.audited("connection.connect").await.remove(0);
        assert_eq!(facts["proven"], json!(null));
    }

    /// Whatever ended since the link was made ends it, at each of its steps; and no new one is made.
    async fn a_link_ends_with_its_person_its_key_and_its_site(db: Db) {
        let world = World::new(&db).await;
        let (base, site) = (&world.house.base, &world.house.site);
        let (key, by_key) = key_of(&world).await;
        let disable = async |on: bool| disable_alice(&world, on).await;
        let close = async |on: bool| close_site(&world, on).await;
        let link = session::create(&world.outside, site, &by_key, alices()).await.unwrap();
        let visit = world.open(&link, &alices().owner).await;
        let csrf = session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap().csrf.unwrap();
        let refused = async |why: &str| {
            let (outside, secret) = (&world.outside, &link.link);
            let codes = [
                session::create(outside, site, &by_key, alices()).await.unwrap_err().code(),
                session::view(outside, secret).await.unwrap_err().code(),
                session::visit(outside, secret, Some(&visit)).await.unwrap_err().code(),
                session::prove(outside, secret, &world.assertion(&link, "alice")).await.unwrap_err().code(),
                session::approve(outside, secret, Some(&visit), &csrf).await.unwrap_err().code(),
            ];
            assert_eq!(codes, [Code::Forbidden; 5], "{why}");
        };
        disable(true).await;
        refused("the person is disabled").await;
        disable(false).await;
        close(true).await;
        refused("the site is disabled").await;
        close(false).await;
        // What somebody else's link is for goes on.
        let others = world.link(of("user:bob")).await;
        platform::revoke(base, site, &OPERATOR, &key).await.unwrap();
        refused("the key was revoked").await;
        session::view(&world.outside, &others.link).await.unwrap();
    }

    /// Whatever was stopped while the person was away at the provider, nothing is exchanged for it; and what was issued in that
    /// moment is given back.
    async fn a_flow_ends_with_its_person_its_key_and_its_site(db: Db) {
        let world = World::new(&db).await;
        let (base, site) = (&world.house.base, &world.house.site);
        let (key, by_key) = key_of(&world).await;
        let disable = async |on: bool| disable_alice(&world, on).await;
        let close = async |on: bool| close_site(&world, on).await;
        let begun = async |owner: &str| {
            let link = session::create(&world.outside, site, &by_key, of(owner)).await.unwrap();
            let visit = world.open(&link, &of(owner).owner).await;
            let started = world.approve(&link, &visit).await;
            let query = world.sign_in(&started, "alice").await;
            (link, started, query)
        };
        let refused = async |flow: (session::Created, session::Started, String), why: &str| {
            let (link, started, query) = flow;
            let ended = world.come_back(&query, Some(&started.binding.value)).await;
            assert_eq!(failure(&ended), Code::Forbidden, "{why}");
            assert_eq!(state_of(&world, &link).await, "forbidden", "{why}");
            assert_eq!(world.audited("connection.connect").await[0].0, "denied", "{why}");
        };
        let flow = begun("user:alice").await;
        disable(true).await;
        refused(flow, "the person is disabled").await;
        disable(false).await;
        let flow = begun("user:alice").await;
        close(true).await;
        refused(flow, "the site is disabled").await;
        close(false).await;
        assert_eq!(world.token_requests(), 0, "a code was exchanged for nobody");

        // Stopped while the provider takes its time.
        let (_, started, query) = begun("user:alice").await;
        world.lab.misbehave(Rule::once(At::Code, Fault::HoldAfter));
        let stop = async {
            assert!(world.lab.wait_until(Duration::from_secs(5), |lab| lab.held() == 1).await);
            disable(true).await;
            world.lab.release();
        };
        let (ended, ()) = tokio::join!(world.come_back(&query, Some(&started.binding.value)), stop);
        assert_eq!(failure(&ended), Code::Forbidden);
        assert_eq!(world.owed().await, [("the account was not connected after all".into(), "pending".into())]);
        disable(false).await;

        // The link of an account that belongs to no person hangs on the key alone.
        let flow = begun("site").await;
        platform::revoke(base, site, &OPERATOR, &key).await.unwrap();
        refused(flow, "the key was revoked").await;
        assert!(world.connections().await.is_empty());
    }

    /// A chat looks at a link before the person does. Whoever answers first is the one who goes on.
    async fn a_look_binds_nobody_and_the_first_answer_does(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(of("site")).await;
        let preview = session::visit(&world.outside, &link.link, None).await.unwrap();
        let page = session::visit(&world.outside, &link.link, None).await.unwrap();
        let (mine, csrf) = (page.fresh.unwrap().value, page.csrf.unwrap());
        assert_ne!(preview.csrf.as_ref().unwrap().expose(), csrf.expose(), "each browser has a form of its own");
        let again = session::visit(&world.outside, &link.link, Some(&mine)).await.unwrap();
        assert_eq!((again.view.proof, again.fresh.is_none(), again.csrf.unwrap().expose()), (Proof::NotNeeded, true, csrf.expose()));
        let error = session::prove(&world.outside, &link.link, &world.assertion(&link, "alice")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest);
        // The form of one browser is of no use in another.
        for visit in [None, Some(&preview.fresh.as_ref().unwrap().value)] {
            assert_eq!(session::approve(&world.outside, &link.link, visit, &csrf).await.unwrap_err().code(), Code::Forbidden);
        }
        session::approve(&world.outside, &link.link, Some(&mine), &csrf).await.unwrap();
        let late = (preview.fresh.unwrap().value, preview.csrf.unwrap());
        let error = session::approve(&world.outside, &link.link, Some(&late.0), &late.1).await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        let mut told: Vec<_> = world.audited("connect.answer").await.into_iter().map(|(_, facts)| facts["why"].to_string()).collect();
        told.sort_unstable();
        assert_eq!(told, ["\"another browser\"", "\"another form\""]);
    }

    /// The platform's own page carries the assertion, and no page of somebody else's.
    async fn an_assertion_is_taken_from_the_platforms_pages_only(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(alices()).await;
        let check = async |origin: &str| session::check_origin(&world.outside, &link.link, origin).await.map_err(|error| error.code());
        assert_eq!(check("https://anywhere.example").await, Ok(()), "nothing tells where this site's platform is");
        allow(&world, &["https://p.example/done", "https://p.example:8443/done"]).await;
        let ours = world.outside.public_url.origin().ascii_serialization();
        for origin in ["https://p.example", "https://p.example:8443", "null", &ours] {
            assert_eq!(check(origin).await, Ok(()), "{origin}");
        }
        for origin in ["https://evil.example", "http://p.example", "https://p.example.evil.example", "https://p.example/", ""] {
            assert_eq!(check(origin).await, Err(Code::Forbidden), "{origin}");
        }
        assert_eq!(world.audited("connect.prove").await.len(), 5);
    }

    /// R26: an answer counts only with the token of the page that this browser was shown.
    async fn a_form_from_elsewhere_is_refused(db: Db) {
        let world = World::new(&db).await;
        let (mine, other) = (world.link(of("site")).await, world.link(of("site")).await);
        let visit = world.open(&mine, &Owner::Site).await;
        let others = session::visit(&world.outside, &other.link, None).await.unwrap();
        for csrf in [Secret::new(""), Secret::new("0".repeat(64)), others.csrf.unwrap()] {
            let error = session::approve(&world.outside, &mine.link, Some(&visit), &csrf).await.unwrap_err();
            assert_eq!(error.code(), Code::Forbidden);
            let error = session::cancel(&world.outside, &mine.link, Some(&visit), &csrf).await.unwrap_err();
            assert_eq!(error.code(), Code::Forbidden);
        }
        world.approve(&mine, &visit).await;
    }

    async fn who_cancels_is_sent_back_and_nothing_changes(db: Db) {
        let world = World::new(&db).await;
        allow(&world, &["https://p.example/done"]).await;
        let mut new = alices();
        new.return_to = Some("https://p.example/done".into());
        let link = world.link(new).await;
        let visit = world.open(&link, &alices().owner).await;
        let csrf = session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap().csrf.unwrap();
        let ended = session::cancel(&world.outside, &link.link, Some(&visit), &csrf).await.unwrap();
        assert_eq!(failure(&ended), Code::OauthDenied);
        assert_eq!(ended.return_url().unwrap(), "https://p.example/done?auth_error=oauth_denied&provider=lab");
        assert_eq!(state_of(&world, &link).await, "oauth_denied");
        assert_eq!(session::view(&world.outside, &link.link).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(world.lab.requests("authorize"), 0);
    }

    async fn who_made_a_session_can_ask_what_became_of_it(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(alices()).await;
        assert_eq!(state_of(&world, &link).await, "waiting");
        let visit = world.open(&link, &alices().owner).await;
        let started = world.approve(&link, &visit).await;
        assert_eq!(state_of(&world, &link).await, "started");
        let query = world.sign_in(&started, "alice").await;
        let id = connected(&world.come_back(&query, Some(&started.binding.value)).await);
        assert_eq!(state_of(&world, &link).await, "connected");
        let status = session::status(&world.house.base, &world.house.site, &link.id).await.unwrap().unwrap();
        assert_eq!(status.connection, Some(id));
        let elsewhere = session::status(&world.house.base, &"other".parse().unwrap(), &link.id).await.unwrap();
        assert!(elsewhere.is_none(), "another site sees it");
        let unused = world.link(alices()).await;
        world.house.base.clock.advance(Duration::from_secs(600));
        assert_eq!(state_of(&world, &unused).await, "expired");
    }

    /// Of what makes a link or a flow work, the database holds hashes only.
    async fn neither_link_nor_visit_is_stored(db: Db) {
        let world = World::new(&db).await;
        let link = world.link(alices()).await;
        let visit = world.open(&link, &alices().owner).await;
        let rows: Vec<(String, Option<String>)> =
            on!(&db, |c| sqlx::query_as("SELECT link_hash, browser_hash FROM connect_sessions").fetch_all(c).await.unwrap());
        for (link_hash, browser_hash) in rows {
            assert!(!link_hash.contains(link.link.expose()) && !browser_hash.unwrap().contains(visit.expose()));
        }
        assert!(format!("{link:?}").contains("[redacted]"));
    }

    /// The maker of a link is remembered as such; whoever was proven acts from then on.
    async fn the_proven_person_is_the_one_who_acts(db: Db) {
        let world = World::new(&db).await;
        connected(&world.connect(alices(), "alice").await);
        connected(&world.connect(of("site"), "bob").await);
        let rows: Vec<(String, String)> = on!(&db, |c| sqlx::query_as("SELECT owner, created_by FROM connections ORDER BY owner")
            .fetch_all(c)
            .await
            .unwrap());
        let expected = [("site", Actor::Operator), ("user:alice", Actor::User("alice".parse().unwrap()))];
        let expected: Vec<_> = expected.into_iter().map(|(owner, actor)| (owner.to_owned(), actor.to_string())).collect();
        assert_eq!(rows, expected);
    }
}

async fn state_of(world: &World, link: &session::Created) -> String {
    session::status(&world.house.base, &world.house.site, &link.id).await.unwrap().unwrap().state
}

pub(super) async fn allow(world: &World, urls: &[&str]) {
    let change = SiteChange { return_to: Some(urls.iter().map(|url| (*url).to_owned()).collect()), ..SiteChange::default() };
    site::change(&world.house.base, &OPERATOR, &world.house.site, change).await.unwrap();
}

async fn switch(world: &World, on: bool) {
    let change = SiteChange { unproven_links: Some(on), ..SiteChange::default() };
    site::change(&world.house.base, &OPERATOR, &world.house.site, change).await.unwrap();
}

/// A platform's key that may make links for anybody, and its holder as the one who acts.
async fn key_of(world: &World) -> (PlatformKeyId, Actor) {
    let new = NewKey { label: "p".into(), scopes: [Scope::Connect].into(), asserts: Asserts::Any, expires_at: None };
    let key = platform::create(&world.house.base, &world.house.site, &OPERATOR, new).await.unwrap().key.id;
    (key.clone(), Actor::Platform { key, user: None })
}

async fn disable_alice(world: &World, on: bool) {
    let person: UserId = "alice".parse().unwrap();
    person::set_disabled(&world.house.base, &world.house.site, &OPERATOR, &person, on).await.unwrap();
}

async fn close_site(world: &World, on: bool) {
    site::set_disabled(&world.house.base, &OPERATOR, &world.house.site, on).await.unwrap();
}
