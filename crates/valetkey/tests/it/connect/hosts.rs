//! Where a connection's credential may go: fixed at connect, and widened by the operator alone (decisions 4).

use std::sync::Arc;

use provider_lab::{DefinitionOptions, Lab};
use serde_json::json;
use valetkey::{
    Code,
    connection::{
        accounts::{self, Precondition, Slot},
        hosts::{self, Hosts},
    },
    id::ConnectionId,
    on_each_db,
    provider::{Catalogue, Trust},
    secret::SecretMap,
};

use super::world::{OPERATOR, PUBLIC, World, alices, connected, failure, provider};

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
    let catalogue = Catalogue::embedded().unwrap().with_text(&provider(), &grown, Trust::Dev);
    world.outside.catalogue = Arc::new(catalogue.unwrap_or_else(|problems| panic!("{problems:#?}")));
}

async fn look(world: &World, id: &ConnectionId) -> Hosts {
    hosts::look(&world.outside, &world.house.site, id).await.unwrap()
}

async fn accept(world: &World, id: &ConnectionId, hosts: &[&str]) -> Result<Vec<String>, Code> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let accepted = hosts::accept(&world.outside, &world.house.site, &OPERATOR, id, &hosts).await;
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
