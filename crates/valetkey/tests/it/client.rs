//! A ready client for one account: the proxy's rules, and the secret in nobody's hands.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full};
use serde_json::{Value, json};
use valetkey::{
    Code, Result,
    account::Accounts,
    db::Db,
    decision::Authority,
    deliver::{AuthenticatedClient, Caller, Deliverer, Guarded},
    grant::ForWhom,
    on_each_db,
    principal::{Actor, Owner},
    refresh::{self, Refresher},
    secret::SecretMap,
    token,
};

use crate::{connect::world::World, desk::user};

/// Alice's account at the lab, and a client for it.
struct Shop {
    world: World,
    deliverer: Deliverer,
    accounts: Accounts,
    access_token: String,
}

impl Shop {
    async fn new(db: &Db) -> Self {
        Self::with(db, 3600).await
    }

    /// With a token that has so many seconds left.
    async fn with(db: &Db, left: i64) -> Self {
        let world = World::new(db).await;
        let (outside, base) = (world.outside.clone(), &world.house.base);
        let refresher = Refresher::new(outside.clone(), refresh::Settings::default());
        let deliverer = Deliverer::new(outside.clone(), Authority::new(db.clone()), refresher, token::LastUsed::default());
        tokio::spawn({
            let deliverer = deliverer.clone();
            async move { deliverer.watch_streams(tokio_util::sync::CancellationToken::new()).await }
        });
        let accounts = Accounts::new(&outside, world.house.site.clone(), "lab".parse().unwrap(), Actor::Operator);
        let issued = world.lab.issue("lab-client", "alice", "profile posts:read posts:write").unwrap();
        let account = json!({
            "access_token": issued.access_token, "refresh_token": issued.refresh_token,
            "expires_at": base.clock.now().0 / 1_000_000 + left,
        });
        accounts.save_account_for_user(&user("alice"), SecretMap::new(account.as_object().unwrap().clone())).await.unwrap();
        Self { world, deliverer, accounts, access_token: issued.access_token }
    }

    async fn client(&self) -> AuthenticatedClient {
        let connection = self.accounts.connection(Owner::User(user("alice"))).await.unwrap();
        AuthenticatedClient::for_owner(&self.deliverer, self.world.house.site.clone(), Actor::Operator, connection)
    }

    fn origin(&self) -> String {
        self.world.lab.origin()
    }
}

async fn get(client: &AuthenticatedClient, uri: &str) -> Result<http::Response<Guarded>> {
    client.send(Request::get(uri).body(Empty::<Bytes>::new()).unwrap()).await
}

async fn refused(client: &AuthenticatedClient, uri: &str) -> Code {
    get(client, uri).await.unwrap_err().code()
}

async fn read(answer: http::Response<Guarded>) -> Value {
    serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

on_each_db! {
    /// the provider gets the account's bearer, whatever the caller put there.
    async fn a_call_carries_the_accounts_credential_and_not_the_callers(db: Db) {
        let shop = Shop::new(&db).await;
        let client = shop.client().await;
        assert_eq!(read(get(&client, "/me").await.unwrap()).await["username"], "alice");
        for name in ["authorization", "AUTHORIZATION", "AuthoriZation"] {
            let mut request = Request::post("/echo?a=1&b=%20").header("x-kept", "yes");
            request = request.header(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "Bearer mine");
            let answer = client.send(request.body(Full::new(Bytes::from_static(b"hello"))).unwrap()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "the lab takes the account's token only");
            let seen = read(answer).await.to_string();
            assert!(seen.contains("a=1&b=%20") && seen.contains("x-kept") && !seen.contains("Bearer mine"), "{seen}");
        }
    }

    async fn a_whole_url_goes_to_the_providers_hosts_only(db: Db) {
        let shop = Shop::new(&db).await;
        let client = shop.client().await;
        assert_eq!(get(&client, &format!("{}/api/me", shop.origin())).await.unwrap().status(), StatusCode::OK);
        let before = shop.world.lab.requests("api");
        for uri in ["https://evil.example/api/me", "http://127.0.0.1/api/me", "https://lab.evil.example/"] {
            assert_eq!(refused(&client, uri).await, Code::HostRefused, "{uri}");
        }
        let host = shop.world.lab.addr();
        assert_eq!(refused(&client, &format!("http://a@{host}/api/me")).await, Code::HostRefused);
        assert_eq!(shop.world.lab.requests("api"), before);
    }

    async fn an_expired_token_is_renewed_once_before_the_call(db: Db) {
        let shop = Shop::with(&db, -60).await;
        shop.world.lab.expire_access_tokens(None);
        let client = shop.client().await;
        let (one, two) = tokio::join!(get(&client, "/me"), get(&client, "/me"));
        assert_eq!((one.unwrap().status(), two.unwrap().status()), (StatusCode::OK, StatusCode::OK));
        assert_eq!(shop.world.lab.refresh_requests(), 1);
        let account = shop.accounts.account_for_user(&user("alice")).await.unwrap().unwrap();
        assert_ne!(account.text("access_token").unwrap().expose(), shop.access_token);
    }

    async fn a_redirect_comes_back_and_is_not_followed(db: Db) {
        let shop = Shop::new(&db).await;
        let client = shop.client().await;
        let answer = get(&client, "/redirect?to=/api/me").await.unwrap();
        assert!(answer.status().is_redirection());
        assert_eq!(shop.world.lab.requests("api"), 1);
    }

    async fn what_deals_in_credentials_is_refused_for_the_owner_too(db: Db) {
        let shop = Shop::new(&db).await;
        let client = shop.client().await;
        for uri in ["/echo-credential", "/Echo-Credential", &format!("{}/token", shop.origin())] {
            assert!(matches!(refused(&client, uri).await, Code::CredentialPath | Code::PathRefused), "{uri}");
        }
        for uri in ["/echo%2dcredential", "/x/../me", "//me"] {
            assert!(get(&client, uri).await.is_err(), "{uri}");
        }
        let trace = Request::builder().method(Method::TRACE).uri("/me").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(client.send(trace).await.unwrap_err().code(), Code::MethodRefused);
        assert_eq!(shop.world.lab.requests("api"), 0);
    }

    async fn no_answer_tells_the_secret_in_its_headers(db: Db) {
        let shop = Shop::new(&db).await;
        let client = shop.client().await;
        for uri in ["/me", "/set-cookie", "/status/403"] {
            let answer = get(&client, uri).await.unwrap();
            assert!(answer.headers().get(header::SET_COOKIE).is_none());
            assert!(!format!("{:?}", answer.headers()).contains(&shop.access_token), "{uri}");
        }
        assert!(!format!("{client:?}").contains(&shop.access_token));
    }

    async fn every_call_is_in_the_audit_with_who_made_it(db: Db) {
        let shop = Shop::new(&db).await;
        get(&shop.client().await, "/me").await.unwrap();
        let base = &shop.world.house.base;
        base.audit.close();
        base.audit.run(base.db.clone()).await;
        let calls = shop.world.audited("connection.proxy").await;
        assert_eq!(calls.len(), 1);
        assert_eq!((&calls[0].1["path"], &calls[0].1["grant"]), (&json!("/api/me"), &Value::Null));
    }

    async fn a_revoked_account_is_refused_and_another_does_not_take_its_place(db: Db) {
        let shop = Shop::new(&db).await;
        let client = shop.client().await;
        shop.accounts.delete_account_for_user(&user("alice")).await.unwrap();
        assert_eq!(refused(&client, "/me").await, Code::NotFound);
        let account = json!({ "access_token": shop.access_token });
        let account = SecretMap::new(account.as_object().unwrap().clone());
        shop.accounts.save_account_for_user(&user("alice"), account).await.unwrap();
        assert_eq!(refused(&client, "/me").await, Code::NotFound);
        assert_eq!(get(&shop.client().await, "/me").await.unwrap().status(), StatusCode::OK);
    }

    async fn a_running_answer_ends_when_the_account_does(db: Db) {
        let shop = Shop::new(&db).await;
        let client = shop.client().await;
        let mut body = get(&client, "/stream?ms=50&n=400").await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        shop.accounts.delete_account_for_user(&user("alice")).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), async {
            while let Some(frame) = body.frame().await {
                if let Err(error) = frame {
                    return Some(error.code());
                }
            }
            None
        });
        assert_eq!(ended.await.expect("it goes on"), Some(Code::GrantDenied));
    }

    async fn an_agents_client_is_decided_on_at_every_call(db: Db) {
        let shop = Shop::new(&db).await;
        let house = &shop.world.house;
        let agent = house.agent("a", Some("alice")).await;
        let alice = user("alice");
        let connection = shop.accounts.connection(Owner::User(alice)).await.unwrap();
        let stored = shop.world.connection(&connection).await;
        valetkey::connection::accounts::confirm(&house.base, &Actor::Operator, &stored).await.unwrap();
        let grant = house.grant(&agent, &connection, ForWhom::Owner).await;
        let caller = Caller::new(house.token(&agent, Some("alice")).await.1);
        let client = AuthenticatedClient::for_agent(&shop.deliverer, caller, connection);
        assert_eq!(get(&client, "/me").await.unwrap().status(), StatusCode::OK);
        valetkey::grant::revoke(&house.base, &house.site, &Actor::Operator, &grant, "test").await.unwrap();
        // Without the grant the agent may not even know of the connection.
        assert_eq!(refused(&client, "/me").await, Code::NotFound);
    }

    async fn there_is_no_client_for_an_account_that_is_not_there(db: Db) {
        let shop = Shop::new(&db).await;
        let none = async |owner: Owner| shop.accounts.connection(owner).await.unwrap_err().code();
        assert_eq!(none(Owner::User(user("bob"))).await, Code::NoPerUserCredentials);
        assert_eq!(none(Owner::Site).await, Code::NoCredentials);
    }
}
