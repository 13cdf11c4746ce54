//! Where a connection's secrets may go: fixed at connect, and widened by the operator alone (decisions 4).

use std::{sync::Arc, time::Duration};

use provider_lab::{DefinitionOptions, Lab};
use serde_json::json;
use valetkey::{
    Code,
    connection::{
        accounts::{self, Precondition, Slot},
        calls,
        hosts::{self, Hosts},
        load,
    },
    db::testing,
    id::ConnectionId,
    on, on_each_db,
    provider::{Catalogue, Trust},
    refresh::{self, Refresher, Wish},
    revoke::{self, Owed, UpstreamWish},
    secret::SecretMap,
};

use super::world::{OPERATOR, PUBLIC, Stub, TOKENS, World, alices, connected, failure, provider};

/// A world, and the definition of its lab.
async fn world(db: &valetkey::db::Db) -> (World, String, String) {
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (text, host) = (lab.definition(&DefinitionOptions::default()), lab.addr().to_string());
    let allowed = vec![host.clone()];
    (World::around(db, lab, &text, allowed, PUBLIC).await, text, host)
}

/// Somebody changes the definition's hosts, and the broker is started with that.
fn redefine(world: &mut World, text: &str, hosts: &[&str], host: &str) {
    let known = format!("hosts = [\"{host}\"]");
    assert!(text.contains(&known));
    let grown = text.replace(&known, &format!("hosts = {}", json!(hosts)));
    begin_with(world, &grown);
}

/// The broker is started with this definition.
fn begin_with(world: &mut World, text: &str) {
    let catalogue = Catalogue::embedded().unwrap().with_text(&provider(), text, Trust::Dev);
    world.outside.catalogue = Arc::new(catalogue.unwrap_or_else(|problems| panic!("{problems:#?}")));
}

/// A world, the definition of its lab, another server, and a definition by which one of the lab's endpoints is there.
async fn lured(db: &valetkey::db::Db, endpoint: &str) -> (World, String, Stub, String) {
    let stub = Stub::start(TOKENS).await;
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (text, host) = (lab.definition(&DefinitionOptions::default()), lab.addr().to_string());
    let known = format!("\"http://{host}/{endpoint}\"");
    assert_eq!(text.matches(&known).count(), 1, "{text}");
    let changed = text.replace(&known, &format!("\"http://{}/{endpoint}\"", stub.addr));
    let allowed = vec![host, stub.addr.to_string()];
    (World::around(db, lab, &text, allowed, PUBLIC).await, text, stub, changed)
}

/// What the row says of a revocation that is owed: how it stands, and the last error.
async fn owed(world: &World) -> Vec<(String, Option<String>)> {
    on!(&world.house.base.db, |c| sqlx::query_as("SELECT status, last_error FROM revocations").fetch_all(c).await.unwrap())
}

async fn work_off(world: &World) -> usize {
    revoke::work_off(&world.outside, &revoke::Settings::default()).await.unwrap()
}

async fn look(world: &World, id: &ConnectionId) -> Hosts {
    hosts::look(&world.outside, &world.house.site, id).await.unwrap()
}

async fn accept(world: &World, id: &ConnectionId, hosts: &[&str]) -> Result<Vec<String>, Code> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let accepted = hosts::accept(&world.outside, &world.house.site, &OPERATOR, id, &hosts, None).await;
    accepted.map(|connection| connection.hosts).map_err(|error| error.code())
}

on_each_db! {
    async fn a_definition_that_names_more_hosts_waits_for_the_operator(db: Db) {
        let (mut world, text, host) = world(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        redefine(&mut world, &text, &[&host, "evil.example"], &host);
        // Connecting the same account again is the person's act, and does not send it elsewhere.
        assert_eq!(connected(&world.connect(alices(), "alice").await), id);
        assert_eq!(world.connection(&id).await.hosts, [host.as_str()]);
        let known = look(&world, &id).await;
        assert_eq!(known.waiting().collect::<Vec<_>>(), ["evil.example"]);
        assert_eq!(accept(&world, &id, &[&host, "other.example"]).await, Err(Code::HostRefused));
        assert_eq!(world.connection(&id).await.hosts, [host.as_str()]);

        let version = world.connection(&id).await.version;
        let all = [host.clone(), "evil.example".to_owned()];
        for _ in 0..2 {
            assert_eq!(accept(&world, &id, &["evil.example", &host]).await.unwrap(), all);
        }
        assert_eq!(look(&world, &id).await.waiting().count(), 0);
        let audited = world.audited("connection.accept_hosts").await;
        assert_eq!(audited.len(), 1);
        assert_eq!((&audited[0].1["before"], &audited[0].1["hosts"]), (&json!([host]), &json!(all)));
        assert_eq!(world.connection(&id).await.version, version, "its tokens are the same");
        // From then on it stays so.
        assert_eq!(connected(&world.connect(alices(), "alice").await), id);
        assert_eq!(world.connection(&id).await.hosts, all);
        // And the operator can take one back.
        assert_eq!(accept(&world, &id, &[&host]).await.unwrap(), [host.as_str()]);
    }

    /// A changed definition does not have refresh tokens and the client's secret sent elsewhere; what is there is served.
    async fn a_definition_that_renews_elsewhere_waits_for_the_operator(db: Db) {
        let (mut world, _, stub, changed) = lured(&db, "token").await;
        let id = connected(&world.connect(alices(), "alice").await);
        let first = world.account(&id).await.text("access_token").unwrap();
        begin_with(&mut world, &changed);
        let (site, clock) = (world.house.site.clone(), world.house.base.clock.clone());
        let refresher = Refresher::new(world.outside.clone(), refresh::Settings::default());
        for _ in 0..2 {
            clock.advance(Duration::from_secs(120));
            let error = refresher.refresh_now(&site, &id, &OPERATOR).await.unwrap_err();
            assert_eq!(error.code(), Code::HostRefused, "{error}");
            assert!(error.message().contains("accept-hosts") && error.message().contains(&stub.addr.to_string()), "{error}");
            let stored = load(&db, &site, &id).await.unwrap().unwrap();
            assert_eq!(stored.connection.last_error.as_deref(), Some("host_refused"));
            let served = refresher.serve(Arc::new(stored), Wish::default()).await.unwrap();
            assert!(served.account.text("access_token").unwrap().matches(&first), "a valid token is withheld");
        }
        let refused = world.audited("refresh.refused").await;
        assert_eq!((refused.len(), refused[0].0.as_str(), &refused[0].1["error"]), (1, "denied", &json!("host_refused")));
        assert!(stub.seen().is_empty());
        // Nor does the person accept it by connecting again.
        let lab = world.lab.addr().to_string();
        let known = look(&world, &id).await;
        assert_eq!(known.calls_accepted.as_deref(), Some([lab.clone()].as_slice()));
        assert_eq!(known.calls_waiting().collect::<Vec<_>>(), [&stub.addr.to_string()]);
        assert_eq!(known.waiting().count(), 0);

        let (all, base, outside) = (known.calls_defined.unwrap(), &world.house.base, &world.outside);
        let strange = ["evil.example".to_owned()];
        let error = hosts::accept(outside, &site, &OPERATOR, &id, std::slice::from_ref(&lab), Some(&strange)).await.unwrap_err();
        assert_eq!(error.code(), Code::HostRefused);
        for _ in 0..2 {
            hosts::accept(outside, &site, &OPERATOR, &id, std::slice::from_ref(&lab), Some(&all)).await.unwrap();
        }
        assert_eq!(world.audited("connection.accept_hosts").await.len(), 1);
        assert_eq!(look(&world, &id).await.calls_waiting().count(), 0);
        base.clock.advance(Duration::from_secs(120));
        let renewed = refresher.refresh_now(&site, &id, &OPERATOR).await.unwrap();
        assert_eq!(renewed.account.text("access_token").unwrap().expose(), "stub_at");
        assert_eq!(stub.seen().len(), 1);
    }

    async fn a_definition_that_revokes_elsewhere_is_not_followed_for_what_is_connected(db: Db) {
        let (mut world, text, stub, changed) = lured(&db, "revoke").await;
        let id = connected(&world.connect(alices(), "alice").await);
        begin_with(&mut world, &changed);
        let site = world.house.site.clone();
        let ended = revoke::connection(&world.outside, &site, &OPERATOR, &id, "enough", UpstreamWish::IfPossible).await.unwrap();
        assert_eq!(ended.upstream, Owed::Pending);
        for _ in 0..2 {
            assert_eq!(work_off(&world).await, 1);
            assert_eq!(owed(&world).await, [("pending".to_owned(), Some("host_refused".to_owned()))]);
            world.house.base.clock.advance(Duration::from_secs(120));
        }
        assert_eq!(world.audited("revocation.refused").await.len(), 1);
        assert_eq!((stub.seen().len(), world.lab.requests("revoke")), (0, 0));
        // Put right, it is done.
        begin_with(&mut world, &text);
        assert_eq!(work_off(&world).await, 1);
        assert_eq!(owed(&world).await, [("revoked".to_owned(), None)]);
        assert_eq!((stub.seen().len(), world.lab.requests("revoke")), (0, 1));
    }

    /// Rows of an older release: a start fixes what the definitions name then.
    async fn where_older_connections_secrets_go_is_fixed_by_the_next_start(db: Db) {
        let (mut world, _, stub, changed) = lured(&db, "token").await;
        let id = connected(&world.connect(alices(), "alice").await);
        testing::execute(&db, "UPDATE connections SET call_hosts = NULL").await;
        assert_eq!(look(&world, &id).await.calls_accepted, None);
        let stop = tokio_util::sync::CancellationToken::new();
        assert_eq!(calls::fix_open(&world.outside, &stop).await.unwrap(), 1);
        assert_eq!(calls::fix_open(&world.outside, &stop).await.unwrap(), 0);
        begin_with(&mut world, &changed);
        world.house.base.clock.advance(Duration::from_secs(120));
        let refresher = Refresher::new(world.outside.clone(), refresh::Settings::default());
        let site = world.house.site.clone();
        assert_eq!(refresher.refresh_now(&site, &id, &OPERATOR).await.unwrap_err().code(), Code::HostRefused);
        // One that the start did not come to is fixed by its first renewal.
        testing::execute(&db, "UPDATE connections SET call_hosts = NULL, retry_at = NULL").await;
        world.house.base.clock.advance(Duration::from_secs(120));
        refresher.refresh_now(&site, &id, &OPERATOR).await.unwrap();
        assert_eq!(stub.seen().len(), 1);
        assert_eq!(look(&world, &id).await.calls_waiting().count(), 0);
    }

    async fn a_new_account_goes_where_the_definition_says(db: Db) {
        let (mut world, text, host) = world(&db).await;
        let first = connected(&world.connect(alices(), "alice").await);
        redefine(&mut world, &text, &[&host, "more.example"], &host);
        let mut another = alices();
        another.name = "second".parse().unwrap();
        let second = connected(&world.connect(another, "alice").await);
        assert_eq!(world.connection(&second).await.hosts, [host.as_str(), "more.example"]);
        // Somebody else's account in the same place is a new one, too.
        assert_eq!(failure(&world.connect(alices(), "bob").await), Code::SubjectMismatch);
        let mut bobs = alices();
        bobs.new_subject = true;
        let bobs = connected(&world.connect(bobs, "bob").await);
        assert_ne!(bobs, first);
        assert_eq!(world.connection(&bobs).await.hosts, [host.as_str(), "more.example"]);
        assert_eq!(hosts::look(&world.outside, &world.house.site, &first).await.unwrap_err().code(), Code::NotFound);
    }

    /// Tokens written from outside are as little a reason to send them elsewhere; nor do they make the account another.
    async fn a_stored_account_keeps_its_hosts(db: Db) {
        let (mut world, text, host) = world(&db).await;
        let owner = alices().owner;
        let slot = Slot { site: world.house.site.clone(), provider: provider(), owner, name: "".parse().unwrap() };
        let account = |token: &str| SecretMap::new(json!({ "access_token": token, "note": 1 }).as_object().unwrap().clone());
        let put = async |world: &World, token: &str| {
            accounts::put(&world.outside, &OPERATOR, &slot, account(token), &Precondition::default()).await.unwrap()
        };
        let first = put(&world, "a").await;
        redefine(&mut world, &text, &[&host, "more.example"], &host);
        let again = put(&world, "b").await;
        assert_eq!((&again.connection.id, again.replaced.is_none()), (&first.connection.id, true));
        assert_eq!(again.connection.hosts, [host.as_str()]);
        let change = SecretMap::new(json!({ "note": 2 }).as_object().unwrap().clone());
        let patched = accounts::patch(&world.outside, &OPERATOR, &slot, &change, &Precondition::default()).await.unwrap();
        assert_eq!(patched.hosts, [host.as_str()]);
    }
}
