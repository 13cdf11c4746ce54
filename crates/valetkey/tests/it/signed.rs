//! Calls that are signed by OAuth 1.0a: at the proxy, by the ready client, and when a token is revoked. The lab checks every
//! signature, and takes no nonce twice.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full};
use serde_json::{Value, json};
use valetkey::{
    Code, Result,
    account::Accounts,
    db::Db,
    decision::Authority,
    deliver::{AuthenticatedClient, Caller, Deliverer, Guarded, proxy::Target},
    grant::{ForWhom, NewGrant},
    id::{ConnectionId, sha256_hex},
    on_each_db,
    principal::{Actor, Owner},
    refresh::{self, Refresher},
    revoke::{self, Owed, UpstreamWish},
    secret::SecretMap,
    token,
};

use crate::{
    connect::{
        oauth1::world_with,
        world::{OPERATOR, World, alices, connected},
    },
    desk::user,
    support::both,
};

const FORM: &str = "application/x-www-form-urlencoded";

/// Alice's account at a lab that speaks OAuth 1.0a, and an agent that may use it.
struct Pen {
    world: World,
    deliverer: Deliverer,
    connection: ConnectionId,
    caller: Caller,
}

impl Pen {
    async fn new(db: &Db) -> Self {
        Self::by(db, "HMAC-SHA1").await
    }

    async fn by(db: &Db, signature: &str) -> Self {
        let world = world_with(db, signature, |text| text).await;
        let connection = connected(&world.connect(alices(), "alice").await);
        let refresher = Refresher::new(world.outside.clone(), refresh::Settings::default());
        let authority = Authority::new(db.clone());
        let deliverer = Deliverer::new(world.outside.clone(), authority, refresher, token::LastUsed::default());
        tokio::spawn({
            let deliverer = deliverer.clone();
            async move { deliverer.watch_streams(tokio_util::sync::CancellationToken::new()).await }
        });
        let agent = world.house.agent("a", Some("alice")).await;
        let new = NewGrant { delivery: both(), ..NewGrant::proxy(&agent, &connection, ForWhom::Owner) };
        world.house.grant_with(new).await;
        let caller = Caller::new(world.house.token(&agent, Some("alice")).await.1);
        world.lab.reset_records();
        Self { world, deliverer, connection, caller }
    }

    async fn send(&self, method: Method, at: (Option<&str>, &str), kind: &str, body: Bytes) -> Result<http::Response<Guarded>> {
        let (host, path) = at;
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut request = Request::builder().method(method).uri("/").header(header::AUTHORIZATION, "Bearer vk_agent");
        if !kind.is_empty() {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = Target { host, path, query };
        match body.is_empty() {
            true => self.deliverer.proxy(&self.caller, &self.connection, target, parts, Empty::<Bytes>::new()).await,
            false => self.deliverer.proxy(&self.caller, &self.connection, target, parts, Full::new(body)).await,
        }
    }

    /// What the lab saw of a call that it took for Alice's.
    async fn echoed(&self, method: Method, path: &str, kind: &str, body: &[u8]) -> Value {
        let answer = self.send(method, (None, path), kind, Bytes::copy_from_slice(body)).await.unwrap();
        let (status, seen) = (answer.status(), read(answer).await);
        assert_eq!((status, &seen["username"]), (StatusCode::OK, &json!("alice")), "{path}: {seen}");
        assert_eq!(seen["body"]["sha256"], sha256_hex(body), "{path}");
        seen
    }

    async fn refused(&self, method: Method, path: &str, kind: &str, body: &[u8]) -> Code {
        self.send(method, (None, path), kind, Bytes::copy_from_slice(body)).await.unwrap_err().code()
    }

    /// A client of the platform's for somebody's account.
    async fn client_of(&self, owner: &str) -> AuthenticatedClient {
        let accounts = self.accounts();
        let connection = accounts.connection(Owner::User(user(owner))).await.unwrap();
        AuthenticatedClient::for_owner(&self.deliverer, self.world.house.site.clone(), OPERATOR, connection)
    }

    fn accounts(&self) -> Accounts {
        Accounts::new(&self.world.outside, self.world.house.site.clone(), "lab".parse().unwrap(), Actor::Operator)
    }

    async fn save(&self, owner: &str, account: Value) {
        let account = SecretMap::new(account.as_object().unwrap().clone());
        self.accounts().save_account_for_user(&user(owner), account).await.unwrap();
    }
}

async fn read(answer: http::Response<Guarded>) -> Value {
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

on_each_db! {
    /// R48: the signature is over what is sent: the method, the query, and the body where it is a form.
    async fn a_proxied_call_is_signed_over_its_query_and_its_form(db: Db) {
        for signature in ["HMAC-SHA1", "HMAC-SHA256"] {
            let (fresh, _folder) = crate::connect::tokens::sibling(&db).await;
            let pen = Pen::by(&fresh, signature).await;
            for path in ["/echo", "/echo?a=b%20c&a=%C3%A9+x&A=&b", "/echo?q=%7B%22a%22%3A1%7D&r=~-._*!'()&s=a%2Bb", "/echo?&&x=1=2&"] {
                let seen = pen.echoed(Method::GET, path, "", b"").await;
                assert_eq!(seen["query"].as_str(), path.split_once('?').map(|(_, query)| query), "the query is sent as it came");
            }
            let forms: [&[u8]; 4] = [b"status=h%C3%A9+%7E%2B%2F&a=1&a=0", b"a", b"{\"a\":1}", "raw=\u{e9} \u{2603}".as_bytes()];
            for form in forms {
                pen.echoed(Method::POST, "/echo?x=a%20b", FORM, form).await;
                pen.echoed(Method::PUT, "/echo", "application/x-www-form-urlencoded; charset=UTF-8", form).await;
            }
            pen.echoed(Method::POST, "/echo?a=1", "application/json", b"{\"a\":1}").await;
            pen.echoed(Method::POST, "/echo", "", b"a=1").await;
            pen.echoed(Method::DELETE, "/echo?id=7", "", b"").await;
        }
    }

    /// A form that cannot be read whole is refused, never sent unsigned; other bodies are streamed.
    async fn a_form_of_more_than_a_mebibyte_is_refused(db: Db) {
        let pen = Pen::new(&db).await;
        let body = |size: usize| [b"a=".as_slice(), &vec![b'x'; size - 2]].concat();
        assert_eq!(pen.refused(Method::POST, "/echo", FORM, &body((1 << 20) + 1)).await, Code::PayloadTooLarge);
        assert_eq!(pen.world.lab.requests("api"), 0);
        pen.echoed(Method::POST, "/echo", FORM, &body(1 << 20)).await;
        pen.echoed(Method::POST, "/echo", "application/octet-stream", &body(3 << 19)).await;
    }

    /// An agent cannot bring parameters of the protocol along, in whatever place.
    async fn a_call_with_parameters_of_the_protocol_is_refused(db: Db) {
        let pen = Pen::new(&db).await;
        for (path, kind, body) in [
            ("/echo?oauth_token=mine", "", &b""[..]),
            ("/echo?a=1&OAuth_Verifier=x", "", b""),
            ("/echo", FORM, b"a=1&oauth%5Fconsumer_key=mine"),
        ] {
            assert_eq!(pen.refused(Method::POST, path, kind, body).await, Code::InvalidRequest, "{path}");
        }
        assert_eq!(pen.world.lab.requests("api"), 0);
    }

    async fn the_calls_that_mint_and_revoke_are_not_signed_for_an_agent(db: Db) {
        let pen = Pen::new(&db).await;
        let own = pen.world.lab.addr().to_string();
        for path in ["/oauth1/request_token", "/oauth1/access_token", "/oauth1/revoke"] {
            let error = pen.send(Method::POST, (Some(&own), path), "", Bytes::new()).await.unwrap_err();
            assert_eq!(error.code(), Code::CredentialPath, "{path}");
        }
        let elsewhere = pen.send(Method::GET, (Some("evil.example"), "/echo"), "", Bytes::new()).await;
        assert_eq!(elsewhere.unwrap_err().code(), Code::HostRefused);
    }

    async fn the_ready_client_signs_its_calls(db: Db) {
        let pen = Pen::new(&db).await;
        let client = pen.client_of("alice").await;
        let request = Request::post("/echo?x=1").header(header::CONTENT_TYPE, FORM);
        let answer = client.send(request.body(Full::new(Bytes::from_static(b"status=hello+there"))).unwrap()).await.unwrap();
        assert_eq!((answer.status(), &read(answer).await["username"]), (StatusCode::OK, &json!("alice")));
    }

    /// An account that was stored or imported, with the names that Data Machine has for it, signs like one that was connected.
    async fn a_stored_account_signs_with_both_halves_of_its_token_or_not_at_all(db: Db) {
        let pen = Pen::new(&db).await;
        let account = pen.world.account(&pen.connection).await;
        let half = |name: &str| account.text(name).unwrap().expose().to_owned();
        pen.save("bob", json!({ "access_token": half("access_token"), "access_token_secret": half("access_token_secret") })).await;
        let get = || Request::get("/echo").body(Empty::<Bytes>::new()).unwrap();
        let answer = pen.client_of("bob").await.send(get()).await.unwrap();
        assert_eq!(read(answer).await["username"], "alice");

        pen.save("carol", json!({ "access_token": half("access_token") })).await;
        assert_eq!(pen.client_of("carol").await.send(get()).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(pen.world.lab.requests("api"), 1);
    }

    /// Decisions 4: the app that minted the token signs for it, whatever app is configured by now.
    async fn a_connection_signs_with_the_app_it_was_made_with(db: Db) {
        let pen = Pen::new(&db).await;
        pen.world.configure("another-client", "another-secret").await;
        let seen = pen.echoed(Method::GET, "/echo", "", b"").await;
        assert_eq!(seen["app"], "lab-client");
    }

    async fn reveal_hands_out_both_halves_of_the_token_and_nothing_of_the_app(db: Db) {
        let pen = Pen::new(&db).await;
        let revealed = pen.deliverer.reveal(&pen.caller, &pen.connection, None).await.unwrap();
        let members: Vec<_> = revealed.secrets.expose().keys().map(String::as_str).collect();
        assert_eq!(members, ["access_token", "access_token_secret"]);
        assert_eq!(revealed.token_type.as_deref(), Some("oauth1"));
    }

    /// R62: the provider is told by a signed call.
    async fn a_token_is_revoked_by_a_signed_call(db: Db) {
        let pen = Pen::new(&db).await;
        let (outside, site) = (&pen.world.outside, &pen.world.house.site);
        let token = pen.world.account(&pen.connection).await.text("access_token").unwrap();
        let ended = revoke::connection(outside, site, &OPERATOR, &pen.connection, "enough", UpstreamWish::IfPossible).await.unwrap();
        assert_eq!(ended.upstream, Owed::Pending);
        assert!(pen.world.lab.is_live_oauth1(token.expose()));
        assert_eq!(revoke::work_off(outside, &revoke::Settings::default()).await.unwrap(), 1);
        assert!(!pen.world.lab.is_live_oauth1(token.expose()));
        assert_eq!(revoke::list(&db, site, &pen.connection).await.unwrap().pop().unwrap().status, "revoked");
        assert!(pen.send(Method::GET, (None, "/echo"), "", Bytes::new()).await.is_err());
    }

    async fn what_comes_back_does_not_show_what_it_was_signed_with(db: Db) {
        let pen = Pen::new(&db).await;
        let answer = pen.send(Method::GET, (None, "/echo"), "", Bytes::new()).await.unwrap();
        let headers: &HeaderMap = answer.headers();
        assert!(headers.values().all(|value| !value.as_bytes().windows(7).any(|window| window == b"lab_at_")));
        assert!(!read(answer).await.to_string().contains("lab_"), "the lab shows no credential");
    }
}
