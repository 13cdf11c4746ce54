//! What agents ask to be granted: written down, narrowed by a person, and never more than was asked for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use valetkey::{
    Code, Result,
    agent::{self, Role},
    approval::Decider,
    audit,
    db::Db,
    grant::{self, Effect, ForWhom, Grant, NewGrant},
    id::{ConnectionId, ProposalId, SiteId, UserId},
    oauth::{self, GrantType, NewClient, client},
    on_each_db,
    principal::{Actor, Ceiling, Delivery},
    proposal::{self, Asker, Proposal, Status, Terms, Which, Wish},
    revoke::{self, UpstreamWish},
    secret::Secret,
    site,
    token::{self, Audience, Issue},
};

use crate::{
    approval::{endpoint, told},
    deliver::Yard,
    support::both,
};

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Alice's agent, which has no grant yet, beside an account of hers.
struct Desk {
    yard: Yard,
    asker: Asker,
}

impl Desk {
    async fn new(db: &Db) -> Self {
        let yard = Yard::new(db).await;
        let asker = asker(&yard, Some("alice")).await;
        Self { yard, asker }
    }

    fn site(&self) -> &SiteId {
        &self.yard.house.site
    }

    async fn propose(&self, wish: Wish) -> Result<Proposal> {
        proposal::propose(&self.yard.outside, &self.asker, wish).await
    }

    async fn asked(&self) -> ProposalId {
        self.propose(wish()).await.unwrap().id
    }

    async fn accept(&self, by: &str, id: &ProposalId, terms: Terms) -> Result<(Proposal, Grant)> {
        proposal::accept(&self.yard.outside, self.site(), &person(by), id, terms).await
    }

    async fn status(&self, id: &ProposalId) -> Status {
        let base = &self.yard.house.base;
        proposal::get(&base.db, self.site(), id).await.unwrap().unwrap().status(base.clock.now())
    }

    async fn grants(&self) -> Vec<Grant> {
        grant::list(&self.yard.house.base.db, self.site(), Some(&self.yard.agent), None).await.unwrap()
    }

    /// With the account that there is.
    fn with(&self) -> Terms {
        Terms { connection: Some(self.yard.connection.clone()), ..Terms::default() }
    }
}

async fn asker(yard: &Yard, person: Option<&str>) -> Asker {
    let (token, _) = yard.house.token(&yard.agent, person).await;
    let person = person.map(|id| id.parse().unwrap());
    Asker { site: yard.house.site.clone(), agent: yard.agent.clone(), token, person }
}

/// What the agent usually asks for.
fn wish() -> Wish {
    let operations = Some(vec!["GET /api/me".to_owned(), "POST /api/posts".to_owned()]);
    Wish { provider: Some("lab".parse().unwrap()), operations, reason: "to post the report".to_owned(), ..Wish::default() }
}

fn person(id: &str) -> Decider {
    Decider { actor: Actor::User(id.parse().unwrap()), administers: false }
}

fn people(ids: &[&str]) -> ForWhom {
    ForWhom::People(ids.iter().map(|id| id.parse().unwrap()).collect())
}

#[track_caller]
fn code<T>(outcome: Result<T>) -> Code {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.code(),
    }
}

fn patterns(grant: &Grant) -> Vec<&str> {
    grant.operations.iter().flat_map(|operations| &operations.patterns).map(|pattern| pattern.as_str()).collect()
}

on_each_db! {
    async fn nothing_is_granted_by_asking_and_the_person_it_acts_for_is_asked(db: Db) {
        let desk = Desk::new(&db).await;
        let asked = desk.propose(wish()).await.unwrap();
        assert_eq!(asked.addressee.as_ref().map(UserId::as_str), Some("alice"));
        assert_eq!((asked.wanted.for_whom, asked.wanted.delivery), (ForWhom::Owner, BTreeSet::from([Delivery::Proxy])));
        assert!(desk.grants().await.is_empty());
        let caller = desk.yard.caller(Some("alice")).await;
        assert_eq!(code(desk.yard.get(&caller, "/me").await), Code::NotFound);
    }

    async fn the_person_grants_what_was_asked_for_and_is_the_grantor(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        let (accepted, granted) = desk.accept("alice", &id, desk.with()).await.unwrap();
        assert_eq!((accepted.status(desk.yard.house.base.clock.now()), accepted.grant.as_ref()), (Status::Accepted, Some(&granted.id)));
        assert_eq!((accepted.connection.as_ref(), &granted.connection), (Some(&desk.yard.connection), &desk.yard.connection));
        assert_eq!(granted.grantor.as_ref().map(UserId::as_str), Some("alice"));
        assert_eq!(patterns(&granted), ["GET /api/me", "POST /api/posts"]);
        let caller = desk.yard.caller(Some("alice")).await;
        assert_eq!(desk.yard.json(&caller, "/me").await["username"], "alice");
        assert_eq!(code(desk.yard.get(&caller, "/posts").await), Code::GrantDenied);
    }

    async fn the_person_narrows_and_nobody_widens(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        let operations = |list: &[&str]| Some(list.iter().map(|text| (*text).to_owned()).collect());
        for wider in [
            Terms { delivery: Some(both()), ..desk.with() },
            Terms { operations: operations(&["GET /api/**"]), ..desk.with() },
            Terms { operations: operations(&["GET /api/me", "DELETE /api/posts"]), ..desk.with() },
            Terms { for_whom: Some(ForWhom::Operators), ..desk.with() },
            Terms { for_whom: Some(ForWhom::Unattended), ..desk.with() },
            Terms { for_whom: Some(ForWhom::Anyone), ..desk.with() },
            Terms { for_whom: Some(people(&["alice", "bob"])), ..desk.with() },
            Terms { effect: Effect::Deny, ..desk.with() },
            Terms { max_uses: Some(0), ..desk.with() },
            Terms { connection: None, ..desk.with() },
        ] {
            assert_eq!(code(desk.accept("alice", &id, wider.clone()).await), Code::InvalidRequest, "{wider:?}");
        }
        assert!(desk.grants().await.is_empty());
        assert_eq!(desk.status(&id).await, Status::Pending);
        let expires_at = Some(desk.yard.house.base.clock.now().plus(WEEK));
        let less =
            Terms { operations: operations(&["GET /api/me"]), effect: Effect::Ask, max_uses: Some(3), expires_at, ..desk.with() };
        let (_, granted) = desk.accept("alice", &id, less).await.unwrap();
        assert_eq!(patterns(&granted), ["GET /api/me"]);
        assert_eq!((granted.effect, granted.max_uses, granted.expires_at), (Effect::Ask, Some(3), expires_at));
    }

    async fn a_call_within_what_was_asked_for_is_granted_in_its_place(db: Db) {
        let desk = Desk::new(&db).await;
        let wide = |text: &str| Some(vec![text.to_owned()]);
        for (asked, said, fine) in [
            (wide("GET /api/**"), "GET /api/me", true),
            (wide("/api/**"), "POST /api/posts", true),
            (None, "GET /api/me", true),
            (wide("GET /api/**"), "/api/me", false),
            (wide("GET /api/posts/*"), "GET /api/**", false),
        ] {
            let id = desk.propose(Wish { operations: asked.clone(), ..wish() }).await.unwrap().id;
            let accepted = desk.accept("alice", &id, Terms { operations: wide(said), ..desk.with() }).await;
            match fine {
                true => assert_eq!(patterns(&accepted.unwrap().1), [said], "{asked:?}"),
                false => assert_eq!(code(accepted), Code::InvalidRequest, "{asked:?} {said}"),
            }
        }
    }

    async fn it_is_granted_for_those_for_whom_it_was_asked_or_fewer(db: Db) {
        let desk = Desk::new(&db).await;
        let (all, some, others) = (people(&["alice", "bob"]), people(&["bob"]), people(&["bob", "carol"]));
        for (asked, said, fine) in [
            (&all, &some, true),
            (&all, &ForWhom::Owner, true),
            (&all, &others, false),
            (&some, &all, false),
            (&some, &ForWhom::Operators, false),
            (&ForWhom::Operators, &others, true),
            (&ForWhom::Operators, &ForWhom::Unattended, false),
            (&ForWhom::Unattended, &ForWhom::Owner, true),
            (&ForWhom::Unattended, &ForWhom::Operators, false),
        ] {
            let id = desk.propose(Wish { for_whom: Some(asked.clone()), ..wish() }).await.unwrap().id;
            let accepted = desk.accept("alice", &id, Terms { for_whom: Some(said.clone()), ..desk.with() }).await;
            match fine {
                true => assert_eq!(&accepted.unwrap().1.for_whom, said),
                false => assert_eq!(code(accepted), Code::InvalidRequest, "{asked:?} {said:?}"),
            }
        }
    }

    async fn only_who_is_asked_answers(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        let (base, site) = (&desk.yard.house.base, desk.site());
        desk.yard.house.role(&desk.yard.agent, "carol", Role::Admin).await;
        let by_token = Actor::Agent { agent: desk.asker.agent.clone(), token: desk.asker.token.clone(), user: desk.asker.person.clone() };
        for by in [
            person("carol"),
            person("mallory"),
            Decider { actor: Actor::User("carol".parse().unwrap()), administers: true },
            Decider { actor: by_token, administers: true },
            Decider { actor: Actor::System, administers: true },
        ] {
            assert_eq!(code(proposal::accept(&desk.yard.outside, site, &by, &id, desk.with()).await), Code::Forbidden, "{by:?}");
            assert_eq!(code(proposal::refuse(base, site, &by, &id, "").await), Code::Forbidden, "{by:?}");
        }
        valetkey::person::set_disabled(base, site, &Actor::Operator, &"alice".parse().unwrap(), true).await.unwrap();
        assert_eq!(code(desk.accept("alice", &id, desk.with()).await), Code::Forbidden);
        assert_eq!((desk.status(&id).await, desk.grants().await.len()), (Status::Pending, 0));
    }

    async fn it_is_accepted_with_an_account_of_who_is_asked_at_the_provider_that_was_named(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        let bobs = desk.yard.connect("user:bob", "").await;
        let sites = desk.yard.connect("site", "").await;
        let mut elsewhere = desk.yard.house.new_connection("user:alice", "");
        elsewhere.provider = "reddit".parse().unwrap();
        let elsewhere = desk.yard.insert(&elsewhere).await;
        let gone = desk.yard.connect("user:alice", "gone").await;
        let by = Actor::Operator;
        revoke::connection(&desk.yard.outside, desk.site(), &by, &gone, "test", UpstreamWish::Skip).await.unwrap();
        for connection in [bobs, sites, elsewhere, gone, ConnectionId::new()] {
            let terms = Terms { connection: Some(connection), ..Terms::default() };
            assert_eq!(code(desk.accept("alice", &id, terms.clone()).await), Code::NotFound, "{terms:?}");
        }
        assert!(desk.grants().await.is_empty());
    }

    async fn an_agent_names_only_a_connection_that_it_has_a_grant_on(db: Db) {
        let desk = Desk::new(&db).await;
        let named = |connection: &ConnectionId| Wish { provider: None, connection: Some(connection.clone()), ..wish() };
        let connection = desk.yard.connection.clone();
        // One that is there and one that is not are the same to it.
        for id in [&connection, &ConnectionId::new()] {
            assert_eq!(code(desk.propose(named(id)).await), Code::NotFound);
        }
        let old = desk.yard.house.grant(&desk.yard.agent, &connection, ForWhom::Unattended).await;
        let asked = desk.propose(named(&connection)).await.unwrap();
        assert_eq!((asked.connection.as_ref(), asked.provider.as_str()), (Some(&connection), "lab"));
        let other = desk.yard.connect("user:alice", "work").await;
        let terms = Terms { connection: Some(other), ..Terms::default() };
        assert_eq!(code(desk.accept("alice", &asked.id, terms).await), Code::InvalidRequest, "it asked for another one");
        desk.accept("alice", &asked.id, Terms::default()).await.unwrap();
        let base = &desk.yard.house.base;
        for grant in desk.grants().await {
            grant::revoke(base, desk.site(), &Actor::Operator, &grant.id, "test").await.unwrap();
        }
        assert!(grant::get(&db, desk.site(), &old).await.unwrap().unwrap().revoked_at.is_some());
        let denial = NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&desk.yard.agent, &connection, ForWhom::Anyone) };
        desk.yard.house.grant_with(denial).await;
        assert_eq!(code(desk.propose(named(&connection)).await), Code::NotFound);
        let wrong = Wish { provider: Some("reddit".parse().unwrap()), ..named(&connection) };
        desk.yard.house.grant(&desk.yard.agent, &connection, ForWhom::Unattended).await;
        assert_eq!(code(desk.propose(wrong).await), Code::InvalidRequest);
    }

    async fn for_the_sites_account_whoever_administers_the_site_is_asked(db: Db) {
        let mut desk = Desk::new(&db).await;
        let connection = desk.yard.connect("site", "").await;
        let new = NewGrant::proxy(&desk.yard.agent, &connection, ForWhom::Unattended);
        desk.yard.house.grant_with(new).await;
        desk.asker = asker(&desk.yard, Some("alice")).await;
        let wish = Wish { connection: Some(connection), for_whom: Some(ForWhom::Operators), ..wish() };
        let asked = desk.propose(wish).await.unwrap();
        assert_eq!(asked.addressee, None);
        let administers = |user: &str| Decider { actor: Actor::User(user.parse().unwrap()), administers: true };
        // Not in the name of the person for whom it was asked.
        for by in [person("alice"), administers("alice")] {
            let refused = proposal::accept(&desk.yard.outside, desk.site(), &by, &asked.id, Terms::default()).await;
            assert_eq!(code(refused), Code::Forbidden, "{by:?}");
        }
        let by = administers("dora");
        let (_, granted) = proposal::accept(&desk.yard.outside, desk.site(), &by, &asked.id, Terms::default()).await.unwrap();
        assert_eq!(granted.grantor, None);
    }

    async fn whoever_is_behind_a_token_does_not_answer_for_the_site(db: Db) {
        let desk = Desk::new(&db).await;
        let (yard, house) = (&desk.yard, &desk.yard.house);
        let sites = yard.connect("site", "").await;
        house.role(&yard.agent, "carol", Role::Operator).await;
        house.grant(&yard.agent, &sites, ForWhom::Operators).await;
        // Her token, in a call that gives her up.
        let asker = Asker { person: None, ..asker(yard, Some("carol")).await };
        let wish = Wish { connection: Some(sites.clone()), provider: None, for_whom: Some(ForWhom::Unattended), ..wish() };
        let id = proposal::propose(&yard.outside, &asker, wish).await.unwrap().id;
        let administers = |user: &str| Decider { actor: Actor::User(user.parse().unwrap()), administers: true };
        let terms = || Terms { connection: Some(sites.clone()), ..Terms::default() };
        let refused = proposal::accept(&yard.outside, desk.site(), &administers("carol"), &id, terms()).await;
        assert_eq!(code(refused), Code::Forbidden);
        proposal::accept(&yard.outside, desk.site(), &administers("dora"), &id, terms()).await.unwrap();
    }

    /// An issued token is swept out a day after its end, and a wish waits for a week.
    async fn whoever_is_behind_a_wish_still_is_when_its_token_is_gone(db: Db) {
        let desk = Desk::new(&db).await;
        let (yard, house) = (&desk.yard, &desk.yard.house);
        let base = &house.base;
        let sites = yard.connect("site", "").await;
        house.role(&yard.agent, "carol", Role::Operator).await;
        house.grant(&yard.agent, &sites, ForWhom::Operators).await;
        let ways = BTreeSet::from([GrantType::AuthorizationCode]);
        let new = NewClient {
            name: "App".into(),
            redirect_uris: vec!["https://app.example/cb".into()],
            grant_types: ways,
            ..NewClient::default()
        };
        let (client, _) = client::create(base, desk.site(), &Actor::Operator, new).await.unwrap();
        let (carol, mina): (UserId, UserId) = ("carol".parse().unwrap(), "mina".parse().unwrap());
        let text = Secret::new("the text of an issued token");
        let issue = Issue {
            text: &text,
            agent: &yard.agent,
            person: Some(&carol),
            // Whoever minted the token that it was exchanged for.
            minter: Some(&mina),
            client: &client.id,
            family: None,
            parent: None,
            session: None,
            task: None,
            label: "App",
            ceiling: &Ceiling::default(),
            audience: Audience::Api,
            expires_at: base.clock.now().plus(oauth::ACCESS_LIFE),
        };
        let by = Actor::User(carol.clone());
        base.ring.derived(&base.db, desk.site(), audit::AUDIT_LABEL).await.unwrap();
        let mut tx = base.db.begin().await.unwrap();
        let (token, _) = token::issue(base, &mut tx, desk.site(), &by, issue).await.unwrap();
        tx.commit().await.unwrap();
        // Her token, in a call that gives her up.
        let asker = Asker { site: desk.site().clone(), agent: yard.agent.clone(), token: token.clone(), person: None };
        let wish = Wish { connection: Some(sites), provider: None, for_whom: Some(ForWhom::Unattended), ..wish() };
        let id = proposal::propose(&yard.outside, &asker, wish).await.unwrap().id;
        base.clock.advance(oauth::ACCESS_LIFE + Duration::from_secs(2 * 86_400));
        oauth::sweep(base).await.unwrap();
        assert_eq!(token::agent_of(&db, desk.site(), &token).await.unwrap(), None, "the token is gone");
        let administers = |user: &str| Decider { actor: Actor::User(user.parse().unwrap()), administers: true };
        for user in ["carol", "mina"] {
            let refused = proposal::accept(&yard.outside, desk.site(), &administers(user), &id, Terms::default()).await;
            assert_eq!(code(refused), Code::Forbidden, "{user}");
        }
        proposal::accept(&yard.outside, desk.site(), &administers("dora"), &id, Terms::default()).await.unwrap();
    }

    async fn an_unattended_agents_owner_is_asked(db: Db) {
        let mut desk = Desk::new(&db).await;
        desk.asker = asker(&desk.yard, None).await;
        assert_eq!(code(desk.propose(wish()).await), Code::InvalidRequest, "for whom must be said");
        let asked = desk.propose(Wish { for_whom: Some(ForWhom::Unattended), ..wish() }).await.unwrap();
        assert_eq!((asked.addressee.as_ref().map(UserId::as_str), asked.person), (Some("alice"), None));
    }

    async fn the_same_wish_is_the_same_question_and_a_no_stands(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        let again = desk.propose(Wish { reason: "really".to_owned(), ..wish() }).await.unwrap();
        assert_eq!((again.id, again.reason.as_str()), (id.clone(), "to post the report"));
        let base = &desk.yard.house.base;
        proposal::refuse(base, desk.site(), &person("alice"), &id, "no need").await.unwrap();
        let refused = desk.propose(wish()).await.unwrap();
        assert_eq!((&refused.id, refused.status(base.clock.now())), (&id, Status::Refused));
        assert_eq!(refused.decided.unwrap().reason, "no need");
        assert_eq!(code(desk.accept("alice", &id, desk.with()).await), Code::Conflict);
        base.clock.advance(WEEK);
        assert_ne!(desk.asked().await, id);
    }

    async fn a_wish_that_nobody_answered_ends(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        desk.yard.house.base.clock.advance(WEEK);
        assert_eq!(desk.status(&id).await, Status::Expired);
        assert_eq!(code(desk.accept("alice", &id, desk.with()).await), Code::Conflict);
        assert!(desk.grants().await.is_empty());
    }

    async fn of_eight_that_accept_at_once_one_grants(db: Db) {
        let desk = Arc::new(Desk::new(&db).await);
        let id = desk.asked().await;
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (desk, id) = (Arc::clone(&desk), id.clone());
                tokio::spawn(async move { desk.accept("alice", &id, desk.with()).await.map(|_| ()) })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(()) => done += 1,
                Err(error) => assert_eq!(error.code(), Code::Conflict),
            }
        }
        assert_eq!((done, desk.grants().await.len()), (1, 1));
    }

    async fn an_agent_that_is_gone_is_granted_nothing(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        agent::delete(&desk.yard.house.base, desk.site(), &Actor::Operator, &desk.yard.agent).await.unwrap();
        for by in [person("alice"), Decider { actor: Actor::Operator, administers: true }] {
            let refused = proposal::accept(&desk.yard.outside, desk.site(), &by, &id, desk.with()).await;
            assert!(matches!(code(refused), Code::Forbidden | Code::NotFound), "{by:?}");
        }
        assert!(desk.grants().await.is_empty());
        assert_eq!(desk.status(&id).await, Status::Pending);
    }

    async fn what_makes_no_sense_is_not_asked(db: Db) {
        let desk = Desk::new(&db).await;
        for (wrong, refused) in [
            (Wish { reason: " \n".to_owned(), ..wish() }, Code::InvalidRequest),
            (Wish { reason: "x".repeat(2_001), ..wish() }, Code::InvalidRequest),
            (Wish { reason: "\u{1b}[2J".to_owned(), ..wish() }, Code::InvalidRequest),
            (Wish { operations: Some(Vec::new()), ..wish() }, Code::InvalidRequest),
            (Wish { operations: Some(vec!["GET no-slash".to_owned()]), ..wish() }, Code::InvalidRequest),
            (Wish { for_whom: Some(ForWhom::Anyone), ..wish() }, Code::InvalidRequest),
            (Wish { provider: None, ..wish() }, Code::InvalidRequest),
            (Wish { provider: Some("nosuch".parse().unwrap()), ..wish() }, Code::NotFound),
        ] {
            assert_eq!(code(desk.propose(wrong.clone()).await), refused, "{wrong:?}");
        }
        for n in 0..20 {
            let operations = Some(vec![format!("GET /api/posts/{n}")]);
            desk.propose(Wish { operations, ..wish() }).await.unwrap();
        }
        assert_eq!(code(desk.propose(wish()).await), Code::RateLimited);
    }

    async fn another_sites_proposal_is_not_there(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        let (base, elsewhere): (_, SiteId) = (&desk.yard.house.base, "elsewhere".parse().unwrap());
        site::create(base, &Actor::Operator, &elsewhere, "Elsewhere").await.unwrap();
        let by = Decider { actor: Actor::Operator, administers: true };
        assert_eq!(code(proposal::accept(&desk.yard.outside, &elsewhere, &by, &id, desk.with()).await), Code::NotFound);
        assert_eq!(code(proposal::refuse(base, &elsewhere, &by, &id, "").await), Code::NotFound);
        assert!(proposal::page(base, &elsewhere, &Which::default(), None, 10).await.unwrap().is_empty());
        assert_eq!(desk.status(&id).await, Status::Pending);
    }

    async fn what_an_erased_person_was_asked_is_forgotten(db: Db) {
        let mut desk = Desk::new(&db).await;
        desk.asked().await;
        desk.yard.house.role(&desk.yard.agent, "carol", Role::Operator).await;
        desk.asker = asker(&desk.yard, Some("carol")).await;
        let hers = desk.asked().await;
        let base = &desk.yard.house.base;
        let mut tx = base.db.begin().await.unwrap();
        proposal::forget(&mut tx, desk.site(), &"alice".parse().unwrap()).await.unwrap();
        tx.commit().await.unwrap();
        let left = proposal::page(base, desk.site(), &Which::default(), None, 10).await.unwrap();
        assert_eq!(left.iter().map(|one| &one.id).collect::<Vec<_>>(), [&hers]);
    }

    async fn a_site_is_told_what_is_proposed_and_what_is_said_to_it(db: Db) {
        let desk = Desk::new(&db).await;
        endpoint(&desk.yard).await;
        let id = desk.asked().await;
        let (_, granted) = desk.accept("alice", &id, desk.with()).await.unwrap();
        let other = desk.propose(Wish { operations: None, ..wish() }).await.unwrap().id;
        proposal::refuse(&desk.yard.house.base, desk.site(), &person("alice"), &other, "canary").await.unwrap();
        let told = told(&db).await;
        let said: Vec<_> = told.iter().map(|(kind, body)| (kind.as_str(), body["data"]["answer"].as_str())).collect();
        let expected = [
            ("proposal.requested", None),
            ("grant.created", None),
            ("proposal.decided", Some("accepted")),
            ("proposal.requested", None),
            ("proposal.decided", Some("refused")),
        ];
        assert_eq!(said, expected);
        let (asked, accepted) = (&told[0].1["data"], &told[2].1["data"]);
        assert_eq!((asked["proposal"].as_str(), asked["addressee"].as_str()), (Some(id.as_str()), Some("alice")));
        assert_eq!((accepted["proposal"].as_str(), accepted["grant"].as_str()), (Some(id.as_str()), Some(granted.id.as_str())));
        // Neither why the agent asks nor why a person says no.
        assert!(told.iter().all(|(_, body)| !body.to_string().contains("canary") && !body.to_string().contains("the report")));
    }

    /// Whoever is told that an agent asks is told that nobody answered.
    async fn a_time_that_ran_out_is_recorded_and_told_once(db: Db) {
        let desk = Desk::new(&db).await;
        endpoint(&desk.yard).await;
        let base = &desk.yard.house.base;
        let (accepted, refused) = (desk.asked().await, desk.propose(Wish { operations: None, ..wish() }).await.unwrap().id);
        desk.accept("alice", &accepted, desk.with()).await.unwrap();
        proposal::refuse(base, desk.site(), &person("alice"), &refused, "").await.unwrap();
        let third = || Wish { operations: Some(vec!["GET /api/me".to_owned()]), ..wish() };
        let unanswered = desk.propose(third()).await.unwrap().id;
        base.clock.advance(WEEK - Duration::from_secs(1));
        assert_eq!(proposal::expire(base).await.unwrap(), 0);
        base.clock.advance(Duration::from_secs(1));
        // The same wish, asked anew before anybody looked, takes nothing away from what is told of the old one.
        let anew = desk.propose(third()).await.unwrap().id;
        assert_ne!(anew, unanswered);
        // Two replicas at the same moment.
        let (one, other) = tokio::join!(proposal::expire(base), proposal::expire(base));
        assert_eq!(one.unwrap() + other.unwrap(), 1);
        assert_eq!(proposal::expire(base).await.unwrap(), 0);
        assert_eq!((desk.status(&unanswered).await, desk.status(&anew).await), (Status::Expired, Status::Pending));
        assert_eq!((desk.status(&accepted).await, desk.status(&refused).await), (Status::Accepted, Status::Refused));
        assert_eq!(code(desk.accept("alice", &unanswered, desk.with()).await), Code::Conflict);
        let told: Vec<_> = told(&db).await.into_iter().filter(|(kind, _)| kind == "proposal.expired").collect();
        assert_eq!(told.len(), 1);
        let data = &told[0].1["data"];
        let said = [&data["proposal"], &data["provider"], &data["addressee"], &data["agent"]].map(|said| said.as_str());
        assert_eq!(said, [Some(unanswered.as_str()), Some("lab"), Some("alice"), Some(desk.yard.agent.as_str())]);
        assert!(!told[0].1.to_string().contains("the report"));
    }

    async fn each_answer_leaves_a_row_in_the_audit(db: Db) {
        let desk = Desk::new(&db).await;
        let id = desk.asked().await;
        desk.accept("alice", &id, desk.with()).await.unwrap();
        let other = desk.propose(Wish { operations: None, ..wish() }).await.unwrap().id;
        proposal::refuse(&desk.yard.house.base, desk.site(), &person("alice"), &other, "").await.unwrap();
        let mut rows = audit::list(&db, desk.site(), None, 100).await.unwrap();
        rows.sort_by(|one, other| one.id.cmp(&other.id));
        let told: Vec<_> = rows.iter().map(|row| row.action.as_str()).filter(|action| action.starts_with("proposal.")).collect();
        assert_eq!(told, ["proposal.create", "proposal.accept", "proposal.create", "proposal.refuse"]);
        // What an agent says of itself is for the person who decides, not for the ledger.
        assert!(rows.iter().all(|row| !row.facts.contains("to post the report")));
    }
}
