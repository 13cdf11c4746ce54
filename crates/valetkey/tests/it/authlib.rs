//! OAuth 1.0a at a provider that none of us wrote: Authlib's (`scripts/peers/oauth1-provider.py`). It checks signatures over
//! query and form, nonces and times, and has an app whose secret needs encoding.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use provider_lab::Lab;
use serde_json::{Value, json};
use valetkey::{
    Code,
    account::Accounts,
    clock::Clock,
    connect::session::{self, Started},
    connection::Renewal,
    db::Db,
    decision::Authority,
    deliver::{AuthenticatedClient, Deliverer},
    on_each_db,
    principal::{Actor, Owner},
    refresh::{self, Refresher},
    revoke::{self, UpstreamWish},
    secret::SecretMap,
    token,
    upstream::Limits,
};

use crate::{
    connect::world::{OPERATOR, PUBLIC, World, alices, connected, failure},
    desk::user,
};

const SECRET: &str = "test secret & more/~";

/// The provider's address.
fn peer() -> String {
    std::env::var("VALETKEY_TEST_OAUTH1")
        .unwrap_or_else(|_| panic!("VALETKEY_TEST_OAUTH1 is not set: run ./scripts/test, or ./scripts/test --peers for a shell"))
}

async fn world(db: &Db, signature: &str) -> World {
    let peer = peer();
    let host = peer.trim_start_matches("http://");
    let definition = format!(
        r#"title = "Authlib"
kind = "oauth1"

[fields]
client_id = {{ label = "Consumer key", type = "text", required = true, level = "app", role = "client_id" }}
client_secret = {{ label = "Consumer secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }}

[oauth1]
request_token_url = "{peer}/oauth/request_token"
authorize_url = "{peer}/oauth/authorize"
token_url = "{peer}/oauth/access_token"
signature = "{signature}"

[refresh]
strategy = "none"

[revoke]
kills = "token"
method = "POST"
url = "{peer}/oauth/revoke"
auth = "signed"

[identity]
method = "GET"
url = "{peer}/me"
auth = "signed"
out = {{ id = "id" }}

[proxy]
base_url = "{peer}/api"
hosts = ["{host}"]
credential_paths = ["/oauth/**"]
inject = [{{ in = "oauth1_signature" }}]
"#
    );
    world_of(db, &definition, &json!({ "client_id": "test-key", "client_secret": SECRET })).await
}

async fn world_of(db: &Db, definition: &str, app: &Value) -> World {
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let allowed = vec![peer().trim_start_matches("http://").to_owned()];
    let world = World::around_unconfigured(db, lab, definition, allowed, PUBLIC).await;
    // The provider looks at its own clock: a request is at most five minutes old.
    let clock = &world.house.base.clock;
    clock.advance(Clock::System.now().since(clock.now()));
    world.configure_provider("lab", app).await;
    world
}

/// Somebody approves at the provider, or nobody does; the query with which the browser comes back.
async fn sign_in(world: &World, started: &Started, who: &str) -> String {
    let request = Request::post(started.authorize_url.expose()).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let request = request.body(Bytes::from(who.to_owned())).unwrap();
    let answer = world.outside.upstream.exchange(request, Limits::within(Duration::from_secs(10))).await.unwrap();
    let location = answer.headers[header::LOCATION].to_str().unwrap();
    let back = format!("{PUBLIC}/callback/lab?");
    location.strip_prefix(&back).unwrap_or_else(|| panic!("not our callback: {location}")).to_owned()
}

async fn client(world: &World, owner: &str) -> AuthenticatedClient {
    let refresher = Refresher::new(world.outside.clone(), refresh::Settings::default());
    let authority = Authority::new(world.house.base.db.clone());
    let deliverer = Deliverer::new(world.outside.clone(), authority, refresher, token::LastUsed::default());
    let connection = accounts(world).connection(Owner::User(user(owner))).await.unwrap();
    AuthenticatedClient::for_owner(&deliverer, world.house.site.clone(), OPERATOR, connection)
}

fn accounts(world: &World) -> Accounts {
    Accounts::new(&world.outside, world.house.site.clone(), "lab".parse().unwrap(), Actor::Operator)
}

async fn call(client: &AuthenticatedClient, method: Method, uri: &str, form: &str) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(uri);
    if !form.is_empty() {
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    let answer = client.send(request.body(Full::new(Bytes::from(form.to_owned()))).unwrap()).await.unwrap();
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes))))
}

on_each_db! {
    /// R48, R62: by both methods: three legs, the identity, calls with queries and forms, and the revocation.
    async fn authlib_s_provider_takes_what_we_sign(db: Db) {
        for signature in ["HMAC-SHA1", "HMAC-SHA256"] {
            let (fresh, _folder) = crate::connect::tokens::sibling(&db).await;
            let world = world(&fresh, signature).await;
            let started = world.start(alices()).await;
            let query = sign_in(&world, &started, "user=ann").await;
            let id = connected(&world.come_back(&query, Some(&started.binding.value)).await);
            assert_eq!(world.connection(&id).await.subject.as_deref(), Some("ann"));
            assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::TokenSecretExpired);

            // Under Flask it cannot read a query with letters beyond ASCII, nor a form that names a field twice; the lab can.
            let alice = client(&world, "alice").await;
            for (method, uri, form, query, body) in [
                (Method::GET, "/echo", "", json!([]), json!([])),
                (
                    Method::GET,
                    "/echo?a=b%20c&a=1+x&plus=a%2Bb&tilde=~-._*",
                    "",
                    json!([["a", "b c"], ["a", "1 x"], ["plus", "a+b"], ["tilde", "~-._*"]]),
                    json!([]),
                ),
                (
                    Method::POST,
                    "/echo?x=a%20b",
                    "status=h%C3%A9+%7E%2B%2F&more=%26%3D%25",
                    json!([["x", "a b"]]),
                    json!([["status", "h\u{e9} ~+/"], ["more", "&=%"]]),
                ),
                (Method::PUT, "/echo", "a=1", json!([]), json!([["a", "1"]])),
                (Method::DELETE, "/echo?id=7", "", json!([["id", "7"]]), json!([])),
            ] {
                let (status, seen) = call(&alice, method.clone(), uri, form).await;
                assert_eq!((status, &seen["id"]), (StatusCode::OK, &json!("ann")), "{signature} {method} {uri}: {seen}");
                assert_eq!((&seen["query"], &seen["form"]), (&query, &body), "{uri}");
            }

            // Somebody else's copy of the token shows that it is dead afterwards.
            let account = world.account(&id).await;
            let copy = SecretMap::new(account.expose().clone());
            accounts(&world).save_account_for_user(&user("bob"), copy).await.unwrap();
            let bob = client(&world, "bob").await;
            assert_eq!(call(&bob, Method::GET, "/echo", "").await.0, StatusCode::OK);
            let (outside, site) = (&world.outside, &world.house.site);
            revoke::connection(outside, site, &OPERATOR, &id, "enough", UpstreamWish::Force).await.unwrap();
            assert_eq!(revoke::work_off(outside, &revoke::Settings::default()).await.unwrap(), 1);
            assert_eq!(revoke::list(&fresh, site, &id).await.unwrap().pop().unwrap().status, "revoked");
            assert_eq!(call(&bob, Method::GET, "/echo", "").await.0, StatusCode::UNAUTHORIZED);
        }
    }

    /// The built-in definition of X (OAuth 1.0a), of which only the addresses are replaced: three legs, whose account it is by the
    /// token answer and by the call, a signed call, the revocation, and a person's no, which comes back as `denied`.
    async fn the_definition_of_twitter_is_carried_out(db: Db) {
        let peer = peer();
        let host = peer.trim_start_matches("http://");
        let definition = include_str!("../../../../providers/twitter.toml")
            .replace("https://api.x.com/oauth/authenticate", &format!("{peer}/oauth/authorize"))
            .replace("https://api.x.com", &peer)
            .replace("\"api.x.com\"", &format!("\"{host}\""));
        let world = world_of(&db, &definition, &json!({ "api_key": "test-key", "api_secret": SECRET })).await;
        let started = world.start(alices()).await;
        let refused = sign_in(&world, &started, "refuse=1").await;
        assert!(refused.contains("denied="), "{refused}");
        assert_eq!(failure(&world.come_back(&refused, Some(&started.binding.value)).await), Code::AccessDenied);

        let started = world.start(alices()).await;
        let query = sign_in(&world, &started, "user=ann").await;
        let id = connected(&world.come_back(&query, Some(&started.binding.value)).await);
        let connection = world.connection(&id).await;
        assert_eq!((connection.subject.as_deref(), connection.subject_name.as_deref()), (Some("id-ann"), Some("ann")));
        assert_eq!(connection.renewal, Renewal::None);
        let alice = client(&world, "alice").await;
        let (status, seen) = call(&alice, Method::POST, "/api/echo", "text=hello+world").await;
        assert_eq!((status, &seen["id"], &seen["form"]), (StatusCode::OK, &json!("ann"), &json!([["text", "hello world"]])));

        let copy = SecretMap::new(world.account(&id).await.expose().clone());
        accounts(&world).save_account_for_user(&user("bob"), copy).await.unwrap();
        let bob = client(&world, "bob").await;
        assert_eq!(call(&bob, Method::GET, "/api/echo", "").await.0, StatusCode::OK);
        let (outside, site) = (&world.outside, &world.house.site);
        revoke::connection(outside, site, &OPERATOR, &id, "enough", UpstreamWish::Force).await.unwrap();
        revoke::work_off(outside, &revoke::Settings::default()).await.unwrap();
        assert_eq!(revoke::list(&db, site, &id).await.unwrap().pop().unwrap().status, "revoked");
        assert_eq!(call(&bob, Method::GET, "/api/echo", "").await.0, StatusCode::UNAUTHORIZED);
    }

    async fn authlib_s_provider_refuses_a_wrong_secret_and_says_when_nobody_approves(db: Db) {
        let world = world(&db, "HMAC-SHA1").await;
        let started = world.start(alices()).await;
        let query = sign_in(&world, &started, "").await;
        assert_eq!(failure(&world.come_back(&query, Some(&started.binding.value)).await), Code::AccessDenied);

        world.configure("test-key", "another").await;
        let link = world.link(alices()).await;
        let visit = world.open(&link, &"user:alice".parse().unwrap()).await;
        let page = session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap();
        let error = session::approve(&world.outside, &link.link, Some(&visit), &page.csrf.unwrap()).await.unwrap_err();
        assert_eq!(error.code(), Code::RequestTokenFailed);
    }
}
