//! Apps that are registered at an instance before the first connect.

use provider_lab::{At, DefinitionOptions, Fault, Lab, Rule};
use serde_json::json;
use url::Url;
use valetkey::{
    Code, app_config,
    connect::session::{self, NewSession},
    db::Db,
    on, on_each_db,
    principal::Owner,
};

use super::{
    request::with_instance,
    world::{PUBLIC, World, alices, connected, fields, of, param},
};

/// The lab as a provider of which every server is an instance, and at which an app is registered first.
fn with_registration(text: String) -> String {
    let text = with_instance(text);
    let fields_at = text.find("client_id = {").unwrap();
    let fields_end = text.find("[oauth2]").unwrap();
    let without_app = format!("{}\n{}", &text[..fields_at], &text[fields_end..]);
    without_app
        + r#"
[register]
method = "POST"
url = "{{field.instance}}/register"
form = { client_name = "{{broker.app_id}}", redirect_uris = "{{callback}}", scopes = "{{scopes}}", website = "{{broker.url}}" }
out = { client_id = "client_id", client_secret = "client_secret" }
"#
}

async fn world_of(db: &Db, labs: &[&Lab]) -> World {
    let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let text = with_registration(lab.definition(&DefinitionOptions::default()));
    let mut allowed: Vec<String> = labs.iter().map(|lab| lab.addr().to_string()).collect();
    allowed.push(lab.addr().to_string());
    World::around_unconfigured(db, lab, &text, allowed, PUBLIC).await
}

fn at(lab: &Lab, new: NewSession) -> NewSession {
    NewSession { fields: fields(json!({ "instance": lab.origin() })), ..new }
}

async fn registrations(db: &Db) -> i64 {
    let (count,): (i64,) = on!(db, |c| sqlx::query_as("SELECT COUNT(*) FROM registrations WHERE app_config_id IS NOT NULL")
        .fetch_one(c)
        .await
        .unwrap());
    count
}

on_each_db! {
    async fn an_app_is_registered_once_and_used_by_everybody_on_that_server(db: Db) {
        let other = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let world = world_of(&db, &[&other]).await;
        let alice = connected(&world.connect(at(&world.lab, alices()), "alice").await);
        let bob = connected(&world.connect(at(&world.lab, of("user:bob")), "bob").await);
        assert_eq!((world.lab.requests("register"), registrations(&db).await), (1, 1));
        let client = |connection: valetkey::connection::Connection| connection.client_id.unwrap();
        let first = client(world.connection(&alice).await);
        assert!(first.starts_with("lab-app-"));
        assert_eq!(client(world.connection(&bob).await), first);

        let elsewhere = connected(&world.connect(at(&other, of("user:carol")), "carol").await);
        assert_eq!((other.requests("register"), world.lab.requests("register")), (1, 1));
        assert_ne!(client(world.connection(&elsewhere).await), first);
        // It is no configuration of the site's, and its secret is sealed.
        let (base, site) = (&world.house.base, &world.house.site);
        assert!(app_config::current(&base.db, site, &"lab".parse().unwrap(), &Owner::Site).await.unwrap().is_none());
        let (shown,): (String,) = on!(&db, |c| sqlx::query_as("SELECT shown FROM app_configs WHERE client_id = $1")
            .bind(&first)
            .fetch_one(c)
            .await
            .unwrap());
        assert_eq!(shown, json!({ "client_id": first, "client_secret": null }).to_string());
    }

    async fn many_who_connect_at_once_register_one_app(db: Db) {
        let world = world_of(&db, &[]).await;
        world.lab.misbehave(Rule::always(At::Register, Fault::DelayBefore { ms: 200 }));
        let people = ["alice", "bob", "carol", "dave", "erin"];
        let starts = people.map(|person| world.start(at(&world.lab, of(&format!("user:{person}")))));
        let started = futures_util::future::join_all(starts).await;
        let clients: std::collections::BTreeSet<_> = started.iter().map(|started| param(started, "client_id")).collect();
        assert_eq!((clients.len(), world.lab.requests("register")), (1, 1));
    }

    /// An app is bound to its callback: at another public address another one is needed.
    async fn another_callback_is_another_app(db: Db) {
        let mut world = world_of(&db, &[]).await;
        world.start(at(&world.lab, alices())).await;
        world.outside.public_url = Url::parse("http://127.0.0.1:8888").unwrap();
        world.start(at(&world.lab, alices())).await;
        assert_eq!((world.lab.requests("register"), registrations(&db).await), (2, 2));
    }

    /// A server that registers nothing is told of, the link still works, and the next attempt asks again.
    async fn a_server_that_registers_nothing_is_told_of(db: Db) {
        let world = world_of(&db, &[]).await;
        let link = world.link(at(&world.lab, of("site"))).await;
        let visit = world.open(&link, &Owner::Site).await;
        for fault in [Fault::status(404), Fault::HtmlBody, Fault::omit("client_id"), Fault::too_many("60")] {
            world.lab.misbehave(Rule::once(At::Register, fault.clone()));
            let page = session::visit(&world.outside, &link.link, Some(&visit)).await.unwrap();
            let refused = session::approve(&world.outside, &link.link, Some(&visit), &page.csrf.unwrap()).await;
            assert_eq!(refused.unwrap_err().code(), Code::UpstreamInvalid, "{fault:?}");
        }
        assert_eq!(registrations(&db).await, 0);
        world.approve(&link, &visit).await;
        assert_eq!(registrations(&db).await, 1);
    }

    /// R43: no server on this machine or inside gets a registration, nor one without TLS, whatever the person types.
    async fn no_app_is_registered_at_an_address_that_is_not_public(db: Db) {
        let closed = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let world = world_of(&db, &[]).await;
        for instance in [closed.origin(), "http://social.example".into(), "https://10.0.0.1".into(), "https://localhost".into()] {
            let new = NewSession { fields: fields(json!({ "instance": instance })), ..alices() };
            let code = world.refused(new).await;
            assert!(matches!(code, Code::InvalidRequest | Code::AddressRefused), "{instance}: {code}");
        }
        assert_eq!(closed.requests("register"), 0);
    }
}
