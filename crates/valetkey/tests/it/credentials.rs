//! Credentials that nobody connects in a browser: names with passwords, mailboxes.

use serde_json::{Value, json};
use valetkey::{
    agent::{self, NewAgent},
    connection::{
        UpstreamWish,
        accounts::{self, Precondition, Slot},
    },
    decision::{self, Request, Who, decide},
    grant::{self, ForWhom, NewGrant},
    id::{AgentId, ConnectionId},
    on, on_each_db,
    principal::{Actor, Delivery},
    revoke,
    secret::SecretMap,
};

use crate::town::{Replica, Town};

const OPERATOR: Actor = Actor::Operator;

on_each_db! {
    /// T-282.
    ///
    async fn a_password_is_stored_sealed_and_the_credential_is_read_back_by_its_name(db: Db) {
        let replica = Town::new().await.replica(&db).await;
        let basic = json!({
            "account": "logstash", "base_url": "https://logs.example.com", "username": "u", "password": "canary-b",
            "proxy_url": "http://proxy.example.com:3128",
        });
        for (provider, name, account) in [("http_basic", "logstash", basic), ("email_imap", "", mailbox("canary-m"))] {
            store(&replica, provider, "site", name, &account).await;
            let slot = slot(&replica, provider, "site", name);
            let (_, read) = accounts::reveal(&replica.outside.base, &OPERATOR, &slot).await.unwrap().unwrap();
            assert_eq!(&Value::Object(read.expose().clone()), &account);
        }
        let rows: Vec<(Vec<u8>,)> =
            on!(&db, |c| sqlx::query_as("SELECT sealed FROM connections").fetch_all(c).await.unwrap());
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|(sealed,)| !sealed.windows(6).any(|bytes| bytes == b"canary")));
    }

    /// T-276, T-277.
    ///
    async fn each_owner_has_mailboxes_of_their_own_and_may_have_several(db: Db) {
        let replica = Town::new().await.replica(&db).await;
        let agents = format!("agent:{}", agent(&replica, "a").await);
        let all = [("site", ""), ("user:42", ""), ("user:42", "work"), (agents.as_str(), "")];
        for (owner, name) in all {
            store(&replica, "email_imap", owner, name, &mailbox(&format!("{owner} {name}"))).await;
        }
        for (owner, name) in all {
            let slot = slot(&replica, "email_imap", owner, name);
            let (_, read) = accounts::reveal(&replica.outside.base, &OPERATOR, &slot).await.unwrap().unwrap();
            assert_eq!(read.text("imap_password").unwrap().expose(), format!("{owner} {name}"));
        }
        for (owner, name) in [("site", "work"), ("user:43", ""), (agents.as_str(), "work")] {
            let slot = slot(&replica, "email_imap", owner, name);
            assert!(accounts::reveal(&replica.outside.base, &OPERATOR, &slot).await.unwrap().is_none(), "{owner} {name}");
        }
    }

    /// R65: of its grants. T-279, T-280, T-281.
    ///
    async fn a_mailbox_is_an_agents_by_a_grant_alone_and_as_long_as_both_are_there(db: Db) {
        let replica = Town::new().await.replica(&db).await;
        let agent = agent(&replica, "a").await;
        let (base, site) = (&replica.outside.base, &replica.site);
        let sites = store(&replica, "email_imap", "site", "", &mailbox("s")).await;
        let lent = store(&replica, "email_imap", "user:42", "Work", &mailbox("w")).await;
        assert_eq!((may(&replica, &agent, &sites).await, may(&replica, &agent, &lent).await), (false, false));

        let lend = async |to: &ConnectionId| {
            grant::create(base, site, &OPERATOR, NewGrant::proxy(&agent, to, ForWhom::Unattended)).await.unwrap().id
        };
        let first = lend(&lent).await;
        assert_eq!((may(&replica, &agent, &sites).await, may(&replica, &agent, &lent).await), (false, true));
        grant::revoke(base, site, &OPERATOR, &first, "enough").await.unwrap();
        assert!(!may(&replica, &agent, &lent).await);

        lend(&lent).await;
        revoke::connection(&replica.outside, site, &OPERATOR, &lent, "gone", UpstreamWish::Skip).await.unwrap();
        let again = store(&replica, "email_imap", "user:42", "Work", &mailbox("w")).await;
        assert_eq!((may(&replica, &agent, &lent).await, may(&replica, &agent, &again).await), (false, false));
    }
}

fn mailbox(password: &str) -> Value {
    json!({ "imap_host": "imap.example.com", "imap_port": 993, "imap_user": "u@example.com", "imap_password": password })
}

fn slot(replica: &Replica, provider: &str, owner: &str, name: &str) -> Slot {
    Slot {
        site: replica.site.clone(),
        provider: provider.parse().unwrap(),
        owner: owner.parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

async fn store(replica: &Replica, provider: &str, owner: &str, name: &str, account: &Value) -> ConnectionId {
    let slot = slot(replica, provider, owner, name);
    let account = SecretMap::new(account.as_object().unwrap().clone());
    accounts::put(&replica.outside, &OPERATOR, &slot, account, &Precondition::default()).await.unwrap().connection.id
}

async fn agent(replica: &Replica, slug: &str) -> AgentId {
    let new = NewAgent { id: None, slug: slug.to_owned(), title: String::new(), owner: None };
    agent::create(&replica.outside.base, &replica.site, &OPERATOR, new).await.unwrap().id
}

/// Whether an agent may use a connection while nobody is calling.
async fn may(replica: &Replica, agent: &AgentId, connection: &ConnectionId) -> bool {
    let facts =
        decision::for_agent(&replica.outside.base.db, &replica.site, &Who::new(agent.clone(), None), connection).await.unwrap();
    let request = Request { delivery: Delivery::Proxy, operation: None, unattended: false };
    facts.is_some_and(|facts| decide(&facts, &request, replica.now()).allowed())
}
