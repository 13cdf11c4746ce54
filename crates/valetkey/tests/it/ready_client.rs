//! Ready clients as a broker hands them out: for an owner, for a context, for an agent, and for what a resolver holds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use provider_lab::{CLIENT_ID, CLIENT_SECRET, Lab};
use serde_json::{Value, json};
use valetkey::{
    Broker, Code, Result, Settings,
    account::Accounts,
    agent::{self, NewAgent},
    app_config, audit,
    connection::accounts::confirm,
    context::{Context, Kind, Policy},
    db::{DbConfig, testing},
    deliver::{AuthenticatedClient, Caller},
    extend::Extensions,
    grant::{self, ForWhom, NewGrant},
    id::{AgentId, ConnectionId, SiteId},
    principal::{Actor, Owner},
    provider::Trust,
    scope::{self, Change},
    seal::{RootKey, RootSource},
    secret::Secret,
    token::{self, NewToken, TokenHash},
};

use crate::{
    desk::{Ears, account, user},
    extend::Vault,
};

const OPERATOR: Actor = Actor::Operator;

/// A broker with the lab outside, and a vault that holds Ada's account.
struct Shop {
    broker: Broker,
    lab: Lab,
    vault: Arc<Vault>,
    heard: Arc<Ears>,
    _dir: tempfile::TempDir,
}

impl Shop {
    async fn open(db: impl FnOnce(&std::path::Path) -> DbConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let issued = lab.issue(CLIENT_ID, "alice", "profile").unwrap();
        let vault = Arc::new(Vault::with("user:ada", json!({ "access_token": issued.access_token })));
        let heard = Arc::new(Ears::default());
        let root = RootSource::Text(RootKey::generate().unwrap().to_line());
        let mut settings = Settings::new(db(dir.path()), root, "http://127.0.0.1:7777".parse().unwrap());
        settings.trust = Trust::Dev;
        settings.upstream.allow_private = vec![lab.addr().to_string().parse().unwrap()];
        settings.audit = audit::Mode::Strict;
        settings.extensions = Extensions::default()
            .provider("lab".parse().unwrap(), lab.definition_toml())
            .resolve_users(vault.clone())
            .events(heard.clone());
        let broker = Broker::start(settings).await.unwrap().broker;
        let shop = Self { broker, lab, vault, heard, _dir: dir };
        let definition = shop.broker.outside().definition(&"lab".parse().unwrap()).unwrap();
        let app = json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET });
        let (base, site, app) = (shop.broker.base(), site(), app.as_object().unwrap());
        app_config::set(base, &site, &OPERATOR, &definition, &Owner::Site, app).await.unwrap();
        shop
    }

    /// One for each database.
    async fn each() -> [Self; 2] {
        let url = Secret::new(testing::postgres_url().await);
        let sqlite = |dir: &std::path::Path| DbConfig::Sqlite { dir: dir.join("data"), patience: Duration::from_secs(5) };
        [Self::open(sqlite).await, Self::open(|_| DbConfig::Postgres { url, max_connections: 8 }).await]
    }

    fn accounts(&self) -> Accounts {
        self.broker.provider("lab").unwrap()
    }

    /// Somebody's account at the lab, stored and confirmed.
    async fn stored(&self, owner: &str, name: &str) -> ConnectionId {
        let issued = self.lab.issue(CLIENT_ID, owner, "profile").unwrap();
        let accounts = self.accounts().named(name).unwrap();
        let new = account(json!({ "access_token": issued.access_token }));
        accounts.save_account_for_user(&user(owner), new).await.unwrap();
        let id = accounts.connection(Owner::User(user(owner))).await.unwrap();
        let connection = valetkey::connection::require(&self.broker.base().db, &site(), &id).await.unwrap();
        confirm(self.broker.base(), &OPERATOR, &connection).await.unwrap();
        id
    }

    async fn agent(&self, slug: &str) -> (AgentId, Caller) {
        let base = self.broker.base();
        let new = NewAgent { id: None, slug: slug.to_owned(), title: String::new(), owner: None };
        let agent = agent::create(base, &site(), &OPERATOR, new).await.unwrap().id;
        let (_, text) = token::mint(base, &site(), &OPERATOR, &agent, NewToken::default()).await.unwrap();
        (agent, Caller::new(TokenHash::of_presented(text.expose()).unwrap()))
    }

    async fn refused(&self, caller: &Caller, named: &str) -> Code {
        self.broker.client_for_agent(caller.clone(), named).await.map(|_| ()).unwrap_err().code()
    }
}

fn site() -> SiteId {
    SiteId::default_site()
}

/// Whom the lab takes a client for.
async fn me(client: &AuthenticatedClient) -> Result<Value> {
    let answer = client.send(Request::get("/me").body(Empty::<Bytes>::new()).unwrap()).await?;
    let body: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes()).unwrap();
    Ok(body["username"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_client_uses_what_the_agent_was_granted_and_nothing_else() {
    for shop in Shop::each().await {
        let (agent, caller) = shop.agent("helper").await;
        let (_, other) = shop.agent("other").await;
        let alices = shop.stored("alice", "").await;
        assert_eq!(shop.refused(&caller, "lab").await, Code::NoCredentials);
        let base = shop.broker.base();
        let new = NewGrant::proxy(&agent, &alices, ForWhom::Unattended);
        let granted = grant::create(base, &site(), &OPERATOR, new).await.unwrap().id;

        let client = shop.broker.client_for_agent(caller.clone(), "lab").await.unwrap();
        assert_eq!(client.connection(), Some(&alices));
        assert_eq!(me(&client).await.unwrap(), "alice");
        let by_id = shop.broker.client_for_agent(caller.clone(), alices.as_str()).await.unwrap();
        assert_eq!(me(&by_id).await.unwrap(), "alice");

        // An id is no permission: it is decided on when it is used.
        assert_eq!(shop.refused(&other, "lab").await, Code::NoCredentials);
        let not_theirs = shop.broker.client_for_agent(other, alices.as_str()).await.unwrap();
        assert_eq!(me(&not_theirs).await.unwrap_err().code(), Code::NotFound);
        let nobody = TokenHash::of_presented(&format!("datamachine_x_{}", "0".repeat(64))).unwrap();
        let nobody = Caller::new(nobody);
        assert_eq!(shop.refused(&nobody, "lab").await, Code::Unauthenticated);

        // Of two none is chosen.
        let second = shop.stored("alice", "work").await;
        let new = NewGrant::proxy(&agent, &second, ForWhom::Unattended);
        grant::create(base, &site(), &OPERATOR, new).await.unwrap();
        assert_eq!(shop.refused(&caller, "lab").await, Code::Ambiguous);

        grant::revoke(base, &site(), &OPERATOR, &granted, "test").await.unwrap();
        assert_eq!(me(&client).await.unwrap_err().code(), Code::NotFound);
        shop.broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_for_an_account_that_a_resolver_holds_makes_calls_with_it_and_stores_nothing() {
    for shop in Shop::each().await {
        let client = shop.broker.client(&shop.accounts(), Owner::User(user("ada"))).await.unwrap();
        assert_eq!(client.connection(), None);
        shop.heard.take();
        assert_eq!(me(&client).await.unwrap(), "alice");
        assert_eq!(shop.heard.take(), ["debug: account resolved (lab, user:ada, vault)"]);
        let base = shop.broker.base();
        assert!(!valetkey::connection::is_stored(&base.db, &site(), &"lab".parse().unwrap()).await.unwrap());
        let rows = audit::list(&base.db, &site(), None, 1000).await.unwrap();
        let calls: Vec<_> = rows.iter().filter(|row| row.action == "connection.proxy").collect();
        let facts: Value = serde_json::from_str(&calls[0].facts).unwrap();
        assert_eq!((calls.len(), &facts["kept_by"], &facts["owner"]), (1, &json!("vault"), &json!("user:ada")));

        // The rules are those of every call.
        let elsewhere = Request::get("https://evil.example/me").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(client.send(elsewhere).await.unwrap_err().code(), Code::HostRefused);
        let credentials = Request::get("/echo-credential").body(Empty::<Bytes>::new()).unwrap();
        assert_eq!(client.send(credentials).await.unwrap_err().code(), Code::CredentialPath);
        shop.broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ended_where_it_is_held_is_refused_by_the_holders_name() {
    for shop in Shop::each().await {
        let client = shop.broker.client(&shop.accounts(), Owner::User(user("ada"))).await.unwrap();
        me(&client).await.unwrap();
        let set = |account: Value| shop.vault.accounts.lock().unwrap().insert("user:ada".to_owned(), account);
        let before = shop.lab.requests("api");
        for unusable in
            [json!({ "access_token": "old", "refresh_token": "r", "expires_at": 1_000_000_000 }), json!({ "refresh_token": "r" })]
        {
            set(unusable);
            let error = me(&client).await.unwrap_err();
            assert_eq!(error.code(), Code::NotAuthenticated);
            assert!(error.message().contains("vault"), "{error}");
        }
        assert_eq!((shop.lab.requests("api"), shop.lab.refresh_requests()), (before, 0));
        // What the holder renewed is used from the next call on, and what it gave away is gone.
        let fresh = shop.lab.issue(CLIENT_ID, "bob", "profile").unwrap();
        set(json!({ "access_token": fresh.access_token }));
        assert_eq!(me(&client).await.unwrap(), "bob");
        shop.vault.accounts.lock().unwrap().clear();
        assert_eq!(me(&client).await.unwrap_err().code(), Code::NoPerUserCredentials);
        shop.broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_gets_a_client_for_whom_the_policy_chooses_wherever_the_account_is() {
    for shop in Shop::each().await {
        shop.stored("bob", "").await;
        let change = Change { policy: Some(Policy::User), fallback: Some(false) };
        let (base, provider) = (shop.broker.base(), "lab".parse().unwrap());
        scope::set(base, &site(), &OPERATOR, &provider, Kind::Account, change).await.unwrap();
        for (person, username) in [("ada", "alice"), ("bob", "bob")] {
            let found = shop.broker.client_for_context(&shop.accounts(), &Context::of_user(user(person))).await.unwrap();
            assert_eq!(found.resolved_from, Some(Owner::User(user(person))));
            assert_eq!(me(&found.value.unwrap()).await.unwrap(), username);
        }
        let none = shop.broker.client_for_context(&shop.accounts(), &Context::of_user(user("eve"))).await.unwrap();
        assert!(none.value.is_none());
        shop.broker.stop().await;
    }
}
