//! Client credentials and revocation (RFC 6749 section 4.4, RFC 7009) at a server that this project did not write:
//! oidc-provider (`scripts/peers/oidc-provider.mjs`). What became of a token is asked of that server itself (RFC 7662).

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Request, header};
use provider_lab::Lab;
use serde_json::{Value, json};
use valetkey::{
    Code,
    connection::Renewal,
    db::Db,
    on_each_db,
    refresh::Refresher,
    revoke::{self, UpstreamWish},
    upstream::Limits,
};

use crate::{
    connect::world::{OPERATOR, PUBLIC, World},
    entered::of,
    town::{HOUR, access},
};

fn issuer() -> String {
    std::env::var("VALETKEY_TEST_OIDC")
        .unwrap_or_else(|_| panic!("VALETKEY_TEST_OIDC is not set: run ./scripts/test, or ./scripts/test --peers for a shell"))
}

/// A world that knows it, as a provider whose accounts are clients.
async fn world(db: &Db) -> World {
    let issuer = issuer();
    let host = issuer.trim_start_matches("http://");
    let definition = format!(
        r#"title = "OIDC client"
kind = "oauth2"

[fields]
client_id = {{ label = "Client ID", type = "text", required = true, level = "connection", role = "client_id" }}
client_secret = {{ label = "Client secret", type = "password", required = true, secret = true, level = "connection", role = "client_secret" }}

[oauth2]
flows = ["client_credentials"]
token_url = "{issuer}/token"
client_auth = "basic"
scopes = {{ default = [] }}

[refresh]
strategy = "remint"
before = "2m"
access_ttl = "1h"

[revoke]
kills = "token"
method = "POST"
url = "{issuer}/token/revocation"
auth = "client"
form = {{ token = "{{{{token.access_token}}}}", token_type_hint = "access_token" }}

[identity]
static = {{ id = "{{{{field.client_id}}}}" }}

[proxy]
base_url = "{issuer}"
hosts = ["{host}"]
credential_paths = ["/token", "/token/**", "/auth", "/auth/**", "/reg", "/reg/**", "/device/**", "/request", "/session/**"]
inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{token.access_token}}}}" }}]
"#
    );
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    World::of(db, lab, &[("oidc", definition)], vec![host.to_owned()], PUBLIC).await
}

/// A request to that server, and its answer.
async fn ask(world: &World, request: http::request::Builder, body: String) -> Value {
    let request = request.body(Bytes::from(body)).unwrap();
    let answer = world.outside.upstream.exchange(request, Limits::within(Duration::from_secs(10))).await.unwrap();
    assert!(answer.status.is_success(), "{}: {}", answer.status, String::from_utf8_lossy(answer.body.expose()));
    serde_json::from_slice(answer.body.expose()).unwrap()
}

/// A client that may only draw tokens for itself.
async fn register(world: &World) -> (String, String) {
    let client = json!({
        "redirect_uris": [], "response_types": [], "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "client_secret_basic",
    });
    let request = Request::post(format!("{}/reg", issuer())).header(header::CONTENT_TYPE, "application/json");
    let made = ask(world, request, client.to_string()).await;
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("client_id"), text("client_secret"))
}

/// What that server says of a token.
async fn inspected(world: &World, (id, secret): &(String, String), token: &str) -> Value {
    let proof = base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}"));
    let request = Request::post(format!("{}/token/introspection", issuer()))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::AUTHORIZATION, format!("Basic {proof}"));
    ask(world, request, format!("token={token}")).await
}

on_each_db! {
    async fn a_client_draws_its_tokens_anew_at_oidc_provider_and_they_end_with_the_connection(db: Db) {
        let world = world(&db).await;
        let client = register(&world).await;
        let wrong = json!({ "client_id": client.0, "client_secret": "wrong" });
        assert_eq!(world.refusal(of("oidc", "site"), wrong).await, Code::LoginRefused);
        let id = world.enter(of("oidc", "site"), json!({ "client_id": client.0, "client_secret": client.1 })).await;
        let connection = world.connection(&id).await;
        assert_eq!((connection.subject.as_deref(), connection.renewal), (Some(client.0.as_str()), Renewal::Remint));
        let first = world.account(&id).await.text("access_token").unwrap();
        let told = inspected(&world, &client, first.expose()).await;
        assert_eq!((&told["active"], &told["client_id"]), (&json!(true), &json!(client.0)));

        let refresher = Refresher::new(world.outside.clone(), Default::default());
        let (base, site) = (&world.house.base, &world.house.site);
        base.clock.advance(HOUR);
        let second = access(&refresher.refresh_now(site, &id, &OPERATOR).await.unwrap());
        assert_ne!(second, first.expose());
        assert_eq!(inspected(&world, &client, &second).await["active"], json!(true));

        revoke::connection(&world.outside, site, &OPERATOR, &id, "enough", UpstreamWish::Force).await.unwrap();
        revoke::work_off(&world.outside, &revoke::Settings::default()).await.unwrap();
        assert_eq!(world.owed().await, [("enough".to_owned(), "revoked".to_owned())]);
        assert_eq!(inspected(&world, &client, &second).await, json!({ "active": false }));
    }
}
