//! Several tokens in one connection, and what of a provider's lists may be used: the person chooses.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use provider_lab::{At, DefinitionOptions, Fault, Rule};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use valetkey::{
    Code, Result,
    connect::{Ended, choice, session},
    connection::UpstreamWish,
    db::Db,
    decision::{Authority, Request},
    deliver::{AuthenticatedClient, Caller, Deliverer, explain, proxy::Target, slot::Named},
    grant::{ForWhom, NewGrant},
    id::{ConnectSessionId, ConnectionId},
    on_each_db,
    principal::Delivery,
    refresh::{self, Refresher},
    revoke,
    secret::Secret,
    token,
};

use super::{
    sessions::allow,
    world::{OPERATOR, World, alices, connected},
};
use crate::support::both;

/// A world whose people have pages.
async fn world_of(db: &Db) -> World {
    World::with(db, &DefinitionOptions { pages: true, ..DefinitionOptions::default() }, |text| text).await
}

fn refresher(world: &World) -> Refresher {
    Refresher::new(world.outside.clone(), refresh::Settings::default())
}

fn choice_of(ids: &[&str]) -> BTreeMap<String, Vec<String>> {
    BTreeMap::from([("page".to_owned(), ids.iter().map(|id| (*id).to_owned()).collect())])
}

async fn choose(world: &World, id: &ConnectionId, ids: &[&str]) -> Result<Vec<String>> {
    let chosen = refresher(world).choose(&world.house.site, &OPERATOR, id, &choice_of(ids)).await?;
    Ok(chosen.resources.get("page").into_iter().flatten().map(|one| one.id.clone()).collect())
}

/// The whole way, with what binds the browser afterwards.
async fn connect(world: &World) -> (Ended, ConnectSessionId, Secret) {
    let link = world.link(alices()).await;
    let visit = world.open(&link, &alices().owner).await;
    let started = world.approve(&link, &visit).await;
    let query = world.sign_in(&started, "alice").await;
    let ended = world.come_back(&query, Some(&started.binding.value)).await;
    (ended, link.id, started.binding.value)
}

/// An agent that may do everything with the connection.
async fn caller(world: &World, id: &ConnectionId) -> Caller {
    let agent = world.house.agent("a", Some("alice")).await;
    world.house.grant_with(NewGrant { delivery: both(), ..NewGrant::proxy(&agent, id, ForWhom::Owner) }).await;
    Caller::new(world.house.token(&agent, Some("alice")).await.1)
}

fn deliverer(world: &World) -> Deliverer {
    let authority = Authority::new(world.house.base.db.clone());
    Deliverer::new(world.outside.clone(), authority, refresher(world), token::LastUsed::default())
}

/// With which token the provider sees a call: its scope says so.
async fn seen_scope(world: &World, caller: &Caller, id: &ConnectionId, slot: Option<&str>) -> Result<String> {
    let mut request = http::Request::builder().uri("/");
    if let Some(slot) = slot {
        request = request.header("valet-slot", slot);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let target = Target { host: None, path: "/me", query: None };
    let answer = deliverer(world).proxy(caller, id, target, parts, Empty::<Bytes>::new()).await?;
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&bytes).unwrap();
    Ok(answer["scope"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned())
}

/// A world in which what is chosen binds the calls: by their path, or by a member of their body.
async fn bound_world(db: &Db) -> World {
    let only = "only = [\"GET /api/me\", \"/api/echo/{id}/**\", { path = \"POST /api/echo\", json = \"pageId\" }]";
    let change = |text: String| text.replace("[slots.page]", &format!("{only}\n\n[slots.page]"));
    World::with(db, &DefinitionOptions { pages: true, ..DefinitionOptions::default() }, change).await
}

/// What becomes of a call with a body.
async fn called(
    world: &World,
    caller: &Caller,
    id: &ConnectionId,
    (method, path, body): (Method, &str, &'static str),
) -> std::result::Result<StatusCode, Code> {
    let request = http::Request::builder().method(method).uri("/").header("content-type", "application/json");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let target = Target { host: None, path, query: None };
    let body = Full::new(Bytes::from_static(body.as_bytes()));
    let answer = deliverer(world).proxy(caller, id, target, parts, body).await;
    answer.map(|answer| answer.status()).map_err(|error| error.code())
}

on_each_db! {
    /// However a call names what it is about, it is about what was chosen, or it is not made.
    async fn what_was_not_chosen_is_not_reached(db: Db) {
        let world = bound_world(&db).await;
        let id = connected(&connect(&world).await.0);
        let caller = caller(&world, &id).await;
        let (ok, refused) = (Ok(StatusCode::OK), Err(Code::PathRefused));
        let open = (Method::GET, "/me", "");
        let (in_path, in_body) = ((Method::GET, "/echo/p2/feed", ""), (Method::POST, "/echo", r#"{"pageId":"p2"}"#));
        assert_eq!(called(&world, &caller, &id, open.clone()).await, ok);
        for call in [&in_path, &in_body] {
            assert_eq!(called(&world, &caller, &id, call.clone()).await, refused, "nothing is chosen: {call:?}");
        }
        choose(&world, &id, &["p2"]).await.unwrap();
        for call in [open, in_path.clone(), in_body.clone()] {
            assert_eq!(called(&world, &caller, &id, call.clone()).await, ok, "{call:?}");
        }
        for call in [
            (Method::GET, "/echo/p1/feed", ""),
            (Method::GET, "/echo/P2/feed", ""),
            (Method::GET, "/echo/p2;x=1/feed", ""),
            (Method::GET, "/posts", ""),
            (Method::GET, "/echo", ""),
            (Method::POST, "/echo", r#"{"pageId":"p1"}"#),
            (Method::POST, "/echo", r#"{"pageId":"p2","page_id":"p1"}"#),
            (Method::POST, "/echo", "{}"),
            (Method::POST, "/echo", ""),
        ] {
            assert_eq!(called(&world, &caller, &id, call.clone()).await, refused, "{call:?}");
        }
        choose(&world, &id, &["p1", "p3"]).await.unwrap();
        for call in [in_path, in_body] {
            assert_eq!(called(&world, &caller, &id, call.clone()).await, refused, "not chosen any more: {call:?}");
        }
        assert_eq!(called(&world, &caller, &id, (Method::GET, "/echo/p3/feed", "")).await, ok);
    }

    /// The platform's own call, too. (That of an agent, on two replicas: `revocation.rs` of the command line.)
    async fn the_owners_call_ends_when_what_it_is_about_is_chosen_no_more(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        choose(&world, &id, &["p1"]).await.unwrap();
        let deliverer = deliverer(&world);
        let watching = tokio::spawn({
            let deliverer = deliverer.clone();
            async move { deliverer.watch_streams(CancellationToken::new()).await }
        });
        let client = AuthenticatedClient::for_owner(&deliverer, world.house.site.clone(), OPERATOR, id.clone());
        let request = http::Request::get("/stream?ms=20&n=100000").header("valet-slot", "page/p1");
        let mut body = client.send(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        choose(&world, &id, &["p2"]).await.unwrap();
        let end = async {
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return error.code(),
                    None => panic!("it ended as if it were complete"),
                }
            }
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), end).await.expect("it ran on"), Code::GrantDenied);
        watching.abort();
    }

    /// A token that is handed out would reach everything. Whoever asks beforehand is told the same as whoever does it.
    async fn where_a_choice_binds_no_token_is_handed_out_and_explain_says_so(db: Db) {
        let world = bound_world(&db).await;
        let id = connected(&connect(&world).await.0);
        choose(&world, &id, &["p2"]).await.unwrap();
        let caller = caller(&world, &id).await;
        let revealed = deliverer(&world).reveal(&caller, &id, None).await;
        assert_eq!(revealed.unwrap_err().code(), Code::GrantDenied);
        let facts = Authority::new(db.clone()).facts(&caller.token, &id).await.unwrap().unwrap();
        let host = world.lab.addr().to_string();
        let get = Method::GET;
        let asked = |delivery, path: Option<&str>| {
            let operation = path.map(|path| (&get, host.as_str(), path.as_bytes()));
            let request = Request { delivery, operation, unattended: false };
            explain(&world.outside, &facts, &request, world.house.base.clock.now()).code
        };
        assert_eq!(asked(Delivery::Reveal, None), Some(Code::GrantDenied));
        assert_eq!(asked(Delivery::Proxy, Some("/api/echo/p1/feed")), Some(Code::PathRefused));
        assert_eq!(asked(Delivery::Proxy, Some("/api/echo/p2/feed")), None);
    }

    async fn nothing_is_chosen_for_a_person(db: Db) {
        let world = world_of(&db).await;
        let (ended, session, binding) = connect(&world).await;
        let id = connected(&ended);
        assert_eq!(ended.choose, Some((world.house.site.clone(), session.clone())));
        assert!(world.connection(&id).await.resources.is_empty());
        let choosing = choice::open(&world.outside, &world.house.site, &session, Some(&binding)).await.unwrap();
        let entries: Vec<_> = choosing.lists[0].entries.iter().map(|one| (one.id.as_str(), one.chosen)).collect();
        assert_eq!(entries, [("p1", false), ("p2", false), ("p3", false)]);

        let (site, picked) = (&world.house.site, choice_of(&["p2"]));
        let taken = choice::take(&world.outside, site, &session, Some(&binding), &choosing.csrf, &picked).await;
        assert_eq!(taken.unwrap().choose, None);
        let chosen = &world.connection(&id).await.resources["page"];
        assert_eq!(chosen.iter().map(|one| (one.id.as_str(), one.label.as_str())).collect::<Vec<_>>(), [("p2", "Garden")]);
        assert_eq!(world.audited("connection.choose").await.len(), 1);
    }

    /// Who has more than a provider puts into one page can choose any of them.
    async fn a_list_that_comes_in_pages_is_read_to_its_end(db: Db) {
        let paged = |text: String| {
            let next = "next = { path = \"paging.cursors.after\", query = \"after\" }";
            text.replace("list = \"data\"\n", &format!("query = {{ limit = \"2\" }}\nlist = \"data\"\n{next}\n"))
        };
        let world = World::with(&db, &DefinitionOptions { pages: true, ..DefinitionOptions::default() }, paged).await;
        let (ended, ..) = connect(&world).await;
        let id = connected(&ended);
        let before = world.lab.requests("pages");
        let lists = refresher(&world).lists(&world.house.site, &id).await.unwrap();
        assert_eq!(lists[0].entries.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["p1", "p2", "p3"]);
        assert_eq!(world.lab.requests("pages") - before, 3, "two, one, and nothing behind it");
        assert_eq!(choose(&world, &id, &["p3"]).await.unwrap(), ["p3"]);
    }

    async fn the_page_to_choose_on_belongs_to_the_browser_that_connected(db: Db) {
        let world = world_of(&db).await;
        let (ended, session, binding) = connect(&world).await;
        let site = &world.house.site;
        for other in [None, Some(Secret::new("x".repeat(43)))] {
            assert_eq!(choice::open(&world.outside, site, &session, other.as_ref()).await.unwrap_err().code(), Code::NotFound);
        }
        let forged = Secret::new("0".repeat(64));
        let refused = choice::take(&world.outside, site, &session, Some(&binding), &forged, &choice_of(&["p1"])).await;
        assert_eq!(refused.unwrap_err().code(), Code::Forbidden);
        assert!(world.connection(&connected(&ended)).await.resources.is_empty());
    }

    /// R65: of the session in which a person chooses for it.
    async fn an_open_choice_ends_with_its_connection(db: Db) {
        let world = world_of(&db).await;
        let (ended, session, binding) = connect(&world).await;
        let (id, site) = (connected(&ended), &world.house.site);
        let choosing = choice::open(&world.outside, site, &session, Some(&binding)).await.unwrap();
        revoke::connection(&world.outside, site, &OPERATOR, &id, "enough", UpstreamWish::Skip).await.unwrap();
        assert_eq!(choice::open(&world.outside, site, &session, Some(&binding)).await.unwrap_err().code(), Code::NotFound);
        let taken = choice::take(&world.outside, site, &session, Some(&binding), &choosing.csrf, &choice_of(&["p1"])).await;
        assert_eq!(taken.unwrap_err().code(), Code::NotFound);
        assert!(world.audited("connection.choose").await.is_empty());
    }

    /// R19: of the list as it is when the browser goes on.
    async fn who_chose_is_not_sent_to_a_return_url_that_was_taken_off_the_list(db: Db) {
        let world = world_of(&db).await;
        allow(&world, &["https://p.example/done"]).await;
        let new = session::NewSession { return_to: Some("https://p.example/done".into()), ..alices() };
        let link = world.link(new).await;
        let visit = world.open(&link, &alices().owner).await;
        let started = world.approve(&link, &visit).await;
        let query = world.sign_in(&started, "alice").await;
        let ended = world.come_back(&query, Some(&started.binding.value)).await;
        assert!(ended.choose.is_some() && ended.return_to.is_some());
        let (site, binding) = (&world.house.site, Some(&started.binding.value));
        let choosing = choice::open(&world.outside, site, &link.id, binding).await.unwrap();
        allow(&world, &[]).await;
        let ended = choice::take(&world.outside, site, &link.id, binding, &choosing.csrf, &choice_of(&["p1"])).await.unwrap();
        assert_eq!(ended.return_url(), None);
    }

    /// Nobody has to connect again to choose something else, and only what the list holds can be chosen.
    async fn a_choice_is_changed_without_connecting_again(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        let version = world.connection(&id).await.version;
        assert_eq!(choose(&world, &id, &["p3", "p1"]).await.unwrap(), ["p1", "p3"]);
        assert_eq!(choose(&world, &id, &["p2"]).await.unwrap(), ["p2"]);
        assert_eq!(choose(&world, &id, &["p2", "p9"]).await.unwrap_err().code(), Code::InvalidRequest);
        let wrong = BTreeMap::from([("property".to_owned(), vec!["p2".to_owned()])]);
        let refused = refresher(&world).choose(&world.house.site, &OPERATOR, &id, &wrong).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidRequest);
        assert_eq!(world.connection(&id).await.resources["page"].len(), 1);
        assert_eq!(choose(&world, &id, &[]).await.unwrap(), [""; 0]);
        assert_eq!(world.connection(&id).await.version, version);
    }

    /// Two who choose at once, and a refresh between them: each write is whole, and no token is lost.
    async fn choosing_at_once_loses_nothing(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        let before = world.account(&id).await.text("access_token").unwrap();
        let (one, two) = tokio::join!(choose(&world, &id, &["p1"]), choose(&world, &id, &["p2"]));
        one.unwrap();
        two.unwrap();
        let account = world.account(&id).await;
        assert!(account.text("access_token").unwrap().matches(&before));
        let chosen = account.expose()["resources"]["page"].as_array().unwrap();
        assert_eq!(chosen.len(), 1);
        assert!(chosen[0]["access_token"].as_str().unwrap().starts_with(provider_lab::ACCESS_PREFIX));
    }

    async fn a_call_is_made_with_the_token_that_it_names(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        let caller = caller(&world, &id).await;
        let code = async |slot| seen_scope(&world, &caller, &id, slot).await.unwrap_err().code();
        let own = seen_scope(&world, &caller, &id, None).await.unwrap();
        assert!(own.contains("posts:read"), "{own}");
        assert_eq!(seen_scope(&world, &caller, &id, Some("user")).await.unwrap(), own);
        assert_eq!(code(Some("page")).await, Code::NoCredentials);
        choose(&world, &id, &["p2"]).await.unwrap();
        assert_eq!(seen_scope(&world, &caller, &id, Some("page")).await.unwrap(), "page:p2");
        choose(&world, &id, &["p1", "p2"]).await.unwrap();
        assert_eq!(code(Some("page")).await, Code::Ambiguous);
        assert_eq!(seen_scope(&world, &caller, &id, Some("page/p1")).await.unwrap(), "page:p1");
        assert_eq!(code(Some("page/p3")).await, Code::NoCredentials);
        assert_eq!(code(Some("shop")).await, Code::InvalidRequest);
        assert_eq!(seen_scope(&world, &caller, &id, None).await.unwrap(), own, "the choice changed the connection's own token");
    }

    /// A grant on the connection is what counts, whichever of its tokens is used.
    async fn a_slot_needs_the_grant_that_the_connection_needs(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        choose(&world, &id, &["p2"]).await.unwrap();
        let agent = world.house.agent("b", Some("alice")).await;
        let stranger = Caller::new(world.house.token(&agent, Some("alice")).await.1);
        assert!(seen_scope(&world, &stranger, &id, Some("page")).await.is_err());
        world.house.grant(&agent, &id, ForWhom::Owner).await;
        assert_eq!(seen_scope(&world, &stranger, &id, Some("page")).await.unwrap(), "page:p2");
        let named = Named::parse("page").unwrap();
        let revealed = deliverer(&world).reveal_slot(&stranger, &id, None, Some(&named)).await;
        assert_eq!(revealed.unwrap_err().code(), Code::GrantDenied);
    }

    async fn a_slot_is_revealed_alone(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        choose(&world, &id, &["p2"]).await.unwrap();
        let caller = caller(&world, &id).await;
        let named = Named::parse("page/p2").unwrap();
        let revealed = deliverer(&world).reveal_slot(&caller, &id, None, Some(&named)).await.unwrap();
        assert_eq!(revealed.secrets.expose().keys().collect::<Vec<_>>(), ["access_token"]);
        let own = deliverer(&world).reveal(&caller, &id, None).await.unwrap();
        assert_ne!(revealed.secrets.expose()["access_token"], own.secrets.expose()["access_token"]);
        assert_eq!((revealed.expires_at, revealed.scopes), (None, None));
    }

    /// Connecting the same account again keeps the choice, with new tokens, and asks nothing.
    async fn connecting_again_keeps_the_choice_with_new_tokens(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        choose(&world, &id, &["p2"]).await.unwrap();
        let token = async || world.account(&id).await.expose()["resources"]["page"][0]["access_token"].clone();
        let before = token().await;
        let (again, ..) = connect(&world).await;
        assert_eq!((connected(&again), again.choose), (id.clone(), None));
        assert_eq!(world.connection(&id).await.resources["page"][0].id, "p2");
        assert_ne!(token().await, before);
    }

    /// A provider that does not give out its list loses nobody's account.
    async fn a_list_that_cannot_be_had_loses_nothing(db: Db) {
        let world = world_of(&db).await;
        let id = connected(&connect(&world).await.0);
        choose(&world, &id, &["p2"]).await.unwrap();
        for fault in [Fault::status(500), Fault::HtmlBody, Fault::HugeBody { bytes: 20 << 20 }, Fault::Body { text: "[]".into() }] {
            world.lab.misbehave(Rule::once(At::Pages, fault.clone()));
            let refused = choose(&world, &id, &["p1"]).await;
            assert!(refused.is_err(), "{fault:?}");
        }
        assert_eq!(world.connection(&id).await.resources["page"][0].id, "p2");
        world.lab.misbehave(Rule::once(At::Pages, Fault::status(500)));
        let (again, ..) = connect(&world).await;
        assert_eq!(connected(&again), id);
    }

    /// The further tokens of an answer (a bot's and a user's) are kept apart, and each call names its own.
    async fn an_answer_with_two_tokens_fills_two_slots(db: Db) {
        let world = World::with(&db, &DefinitionOptions::default(), |text| {
            let text = text.replace("Bearer {{token.access_token}}", "Bearer {{slot.access_token}}");
            let text = text.replace("inject = [", "slots = [\"bot\", \"user\"]\ninject = [");
            text + "\n[slots.user]\nout = { access_token = \"authed_user.access_token\", expires_in = \"authed_user.expires_in\" }\n"
        })
        .await;
        let bots_own = world.lab.issue(provider_lab::CLIENT_ID, "alice", "of:user").unwrap();
        let authed = json!({ "access_token": bots_own.access_token, "expires_in": 60 });
        world.lab.misbehave(Rule::once(At::Code, Fault::set("authed_user", authed)));
        let id = connected(&world.connect(alices(), "alice").await);
        let caller = caller(&world, &id).await;
        assert_eq!(seen_scope(&world, &caller, &id, Some("user")).await.unwrap(), "of:user");
        let bot = seen_scope(&world, &caller, &id, Some("bot")).await.unwrap();
        assert!(bot.contains("posts:read") && bot == seen_scope(&world, &caller, &id, None).await.unwrap());
        world.house.base.clock.advance(Duration::from_secs(61));
        let ended = seen_scope(&world, &caller, &id, Some("user")).await.unwrap_err();
        assert_eq!(ended.code(), Code::NotAuthenticated);
    }
}

/// The status of a session is that of its flow, whatever is chosen afterwards.
#[tokio::test]
async fn a_session_is_connected_before_anything_is_chosen() {
    let (db, _dir) = valetkey::db::testing::sqlite().await;
    let world = world_of(&db).await;
    let (_, id, _) = connect(&world).await;
    let status = session::status(&world.house.base, &world.house.site, &id).await.unwrap().unwrap();
    assert_eq!(status.state, "connected");
}
