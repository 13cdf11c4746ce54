//! Apps at providers by named scope, and where their flows return to.

use serde_json::{Map, Value, json};
use valetkey::{
    Code, Result,
    app_config::{self, AppConfig, MASK},
    base::Base,
    db::Db,
    id::SiteId,
    on_each_db,
    principal::{Actor, Owner},
    provider::{Catalogue, Definition, Trust},
    secret::SecretMap,
};

use crate::support::House;

const OPERATOR: Actor = Actor::Operator;

const SHOP: &str = r#"
title = "Shop"
kind = "oauth2"
identity = "none"
identity_none_reason = "a test"
[fields]
client_id = { label = "Id", type = "text", required = true, level = "app", role = "client_id" }
client_secret = { label = "Secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }
cookie = { label = "Cookie", type = "password", secret = true, level = "app" }
jar = { label = "Jar", type = "textarea", secret = true, level = "app" }
server = { label = "Server", type = "url", level = "app", normalize = "https_origin" }
note = { label = "Note", type = "text", level = "app" }
port = { label = "Port", type = "number", level = "app", default = "993" }
[oauth2]
authorize_url = "https://shop.example/authorize"
token_url = "https://shop.example/token"
client_auth = "basic"
pkce = "required"
scope_separator = " "
scopes = { default = [] }
[refresh]
strategy = "none"
"#;

/// A public client: it has no secret.
const PUBLIC: &str = r#"
title = "Public"
kind = "oauth2"
identity = "none"
identity_none_reason = "a test"
[fields]
client_id = { label = "Id", type = "text", required = true, level = "app", role = "client_id" }
[oauth2]
authorize_url = "https://public.example/authorize"
token_url = "https://public.example/token"
client_auth = "none"
pkce = "required"
scope_separator = " "
scopes = { default = [] }
[refresh]
strategy = "none"
"#;

fn definition(name: &str, text: &str) -> Definition {
    let name = name.parse().unwrap();
    let catalogue = Catalogue::default().with_text(&name, text, Trust::Normal).unwrap_or_else(|e| panic!("{e:#?}"));
    Definition::clone(catalogue.get(&name).unwrap())
}

/// The site's, a person's and an agent's apps at the shop.
struct Apps {
    base: Base,
    site: SiteId,
    shop: Definition,
}

impl Apps {
    async fn new(db: &Db) -> Self {
        let House { base, site, .. } = House::new(db).await;
        Self { base, site, shop: definition("shop", SHOP) }
    }

    async fn set(&self, owner: &str, values: Value) -> Result<AppConfig> {
        let (owner, values) = (owner.parse().unwrap(), values.as_object().unwrap().clone());
        app_config::set(&self.base, &self.site, &OPERATOR, &self.shop, &owner, &values).await
    }

    async fn update(&self, owner: &str, values: Value) -> Result<AppConfig> {
        let (owner, values) = (owner.parse().unwrap(), values.as_object().unwrap().clone());
        app_config::update(&self.base, &self.site, &OPERATOR, &self.shop, &owner, &values).await
    }

    async fn current(&self, owner: &str) -> Option<AppConfig> {
        let owner: Owner = owner.parse().unwrap();
        app_config::current(&self.base.db, &self.site, &self.shop.name, &owner).await.unwrap()
    }

    async fn stored(&self, owner: &str) -> Map<String, Value> {
        let config = self.current(owner).await.unwrap();
        let opened: SecretMap = app_config::open(&self.base, &config).await.unwrap();
        opened.expose().clone()
    }
}

fn whole() -> Value {
    json!({ "client_id": "id", "client_secret": "s3cret", "note": "mine" })
}

on_each_db! {
    /// A-027, A-031, A-040: nothing is there before, and what is saved reads back exactly, its secrets masked.
    async fn what_is_saved_reads_back_exactly_and_is_shown_masked(db: Db) {
        let apps = Apps::new(&db).await;
        assert!(apps.current("site").await.is_none());
        assert!(!app_config::is_configured(&apps.shop, None));
        let saved = apps.set("site", whole()).await.unwrap();
        let expected = json!({ "client_id": "id", "client_secret": "s3cret", "note": "mine", "port": "993" });
        assert_eq!(Value::Object(apps.stored("site").await), expected);
        assert_eq!(Value::Object(saved.masked()), json!({ "client_id": "id", "client_secret": MASK, "note": "mine", "port": "993" }));
        assert!(!format!("{saved:?}").contains("s3cret"));
    }

    /// A-039, A-128, A-129, A-130, A-131, A-132, A-133.
    async fn configured_is_what_has_everything_that_its_definition_needs(db: Db) {
        let apps = Apps::new(&db).await;
        let saved = apps.set("site", whole()).await.unwrap();
        assert!(app_config::is_configured(&apps.shop, Some(&saved)));
        assert!(!app_config::is_configured(&apps.shop, None));
        // Half an app is not stored at all, so that nobody takes it for one.
        let half = apps.set("user:1", json!({ "client_id": "id" })).await.unwrap_err();
        assert_eq!((half.code(), half.message()), (Code::InvalidRequest, "client_secret: Secret is needed"));
        assert!(apps.current("user:1").await.is_none());
        // A public client has no secret to tell.
        let public = Apps { shop: definition("public", PUBLIC), base: apps.base.clone(), site: apps.site.clone() };
        assert!(!app_config::is_configured(&public.shop, None));
        assert_eq!(public.set("site", json!({})).await.unwrap_err().code(), Code::InvalidRequest);
        let saved = public.set("site", json!({ "client_id": "id" })).await.unwrap();
        assert!(app_config::is_configured(&public.shop, Some(&saved)));
        assert_eq!(public.set("site", json!({ "client_id": "id", "client_secret": "x" })).await.unwrap_err().code(), Code::InvalidRequest);
    }

    async fn a_save_replaces_and_an_update_merges(db: Db) {
        let apps = Apps::new(&db).await;
        apps.set("site", whole()).await.unwrap();
        apps.update("site", json!({ "note": "other" })).await.unwrap();
        let stored = apps.stored("site").await;
        assert_eq!((&stored["client_secret"], &stored["note"]), (&json!("s3cret"), &json!("other")));
        apps.set("site", json!({ "client_id": "id", "client_secret": "new" })).await.unwrap();
        assert!(!apps.stored("site").await.contains_key("note"));
        // A save that leaves out what is needed changes nothing.
        assert_eq!(apps.set("site", json!({ "client_id": "id" })).await.unwrap_err().code(), Code::InvalidRequest);
        assert_eq!(apps.stored("site").await["client_secret"], "new");
        // An update needs nothing to be there.
        apps.update("agent:7", whole()).await.unwrap();
        assert_eq!(apps.stored("agent:7").await["client_secret"], "s3cret");
    }

    /// A-191, A-192: secrets are kept byte for byte, and what is shown can be sent back with a changed neighbour.
    async fn a_form_that_is_sent_back_keeps_its_secrets(db: Db) {
        let apps = Apps::new(&db).await;
        let (cookie, jar) = ("sid=a%22b%3Ac$d;e", "one=%22;\ntwo=$%3A");
        let mut values = whole();
        (values["cookie"], values["jar"]) = (cookie.into(), jar.into());
        let mut shown = Value::Object(apps.set("site", values).await.unwrap().masked());
        assert_eq!((&shown["cookie"], &shown["jar"]), (&json!(MASK), &json!(MASK)));
        assert_eq!(MASK, "*".repeat(16));
        for save in [true, false] {
            shown["note"] = format!("changed {save}").into();
            let again = if save { apps.set("site", shown.clone()).await } else { apps.update("site", shown.clone()).await };
            assert_eq!(again.unwrap().masked()["note"], shown["note"]);
            let stored = apps.stored("site").await;
            assert_eq!((&stored["cookie"], &stored["jar"]), (&json!(cookie), &json!(jar)));
        }
    }

    async fn a_field_can_be_cleared_and_zero_is_a_value(db: Db) {
        let apps = Apps::new(&db).await;
        let mut values = whole();
        values["cookie"] = "c".into();
        apps.set("site", values).await.unwrap();
        apps.update("site", json!({ "cookie": null, "note": "", "port": 0 })).await.unwrap();
        let stored = apps.stored("site").await;
        assert!(!stored.contains_key("cookie") && !stored.contains_key("note"), "{:?}", stored.keys());
        assert_eq!(stored["port"], "0");
        let needed = apps.update("site", json!({ "client_secret": null })).await.unwrap_err();
        assert_eq!(needed.message(), "client_secret: Secret is needed");
    }

    async fn a_mask_is_never_stored_as_if_it_were_a_secret(db: Db) {
        let apps = Apps::new(&db).await;
        for mask in [MASK, "*"] {
            let error = apps.set("site", json!({ "client_id": "id", "client_secret": mask })).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidRequest);
            assert!(error.message().contains("client_secret"), "{error}");
        }
        apps.set("site", whole()).await.unwrap();
        assert_eq!(apps.update("site", json!({ "cookie": MASK })).await.unwrap_err().code(), Code::InvalidRequest);
        // What is no secret may be stars.
        apps.update("site", json!({ "note": "***" })).await.unwrap();
        assert_eq!(apps.stored("site").await["note"], "***");
    }

    async fn a_field_that_there_is_none_of_is_refused_with_those_there_are(db: Db) {
        let apps = Apps::new(&db).await;
        apps.set("site", whole()).await.unwrap();
        for update in [true, false] {
            let values = json!({ "client_id": "id", "client_secret": "x", "clientsecret": "canary" });
            let error = if update { apps.update("site", values).await } else { apps.set("site", values).await }.unwrap_err();
            assert_eq!(error.code(), Code::InvalidRequest);
            assert!(error.message().contains("client_id, client_secret, cookie, jar, server, note, port"), "{error}");
            assert_eq!(error.extra().unwrap()["allowed"][1], "client_secret");
            assert!(!format!("{error:?}").contains("canary"));
        }
        let error = apps.update("site", json!({ "s3cret=canary value": "x" })).await.unwrap_err();
        assert!(!format!("{error:?} {:?}", error.extra()).contains("canary"), "what slipped into a name may be a secret");
        assert_eq!(apps.stored("site").await["client_secret"], "s3cret");
    }

    /// A secret that was entered for one server is not sent to another by changing the server alone.
    async fn the_server_changes_only_together_with_the_secrets(db: Db) {
        let apps = Apps::new(&db).await;
        let mut values = whole();
        values["server"] = "https://one.example".into();
        apps.set("site", values).await.unwrap();
        let error = apps.update("site", json!({ "server": "https://other.example" })).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidRequest);
        assert!(error.message().contains("server") && error.message().contains("client_secret"), "{error}");
        let masked = json!({ "server": "https://other.example", "client_secret": MASK });
        assert_eq!(apps.update("site", masked).await.unwrap_err().code(), Code::InvalidRequest);
        assert_eq!(apps.stored("site").await["server"], "https://one.example");
        apps.update("site", json!({ "server": "https://other.example", "client_secret": "again" })).await.unwrap();
    }

    /// Blank fields of one are not filled from another's.
    async fn the_apps_of_site_people_and_agents_are_apart(db: Db) {
        let apps = Apps::new(&db).await;
        apps.set("site", whole()).await.unwrap();
        let owners = ["user:101", "user:202", "agent:101"];
        for owner in owners {
            assert!(apps.current(owner).await.is_none());
            let error = apps.update(owner, json!({ "client_id": "theirs" })).await.unwrap_err();
            assert_eq!(error.message(), "client_secret: Secret is needed", "the site's secret was not lent");
            apps.set(owner, json!({ "client_id": owner, "client_secret": format!("of {owner}") })).await.unwrap();
        }
        for owner in owners {
            assert_eq!(apps.stored(owner).await["client_secret"], format!("of {owner}"));
        }
        let owner: Owner = "user:101".parse().unwrap();
        for _ in 0..2 {
            app_config::delete(&apps.base, &apps.site, &OPERATOR, &apps.shop.name, &owner).await.unwrap();
        }
        assert!(apps.current("user:101").await.is_none());
        assert_eq!(apps.stored("user:202").await["client_id"], "user:202");
        assert_eq!(apps.stored("site").await["client_id"], "id");
    }

    /// A save that changes nothing succeeds, and is no event.
    async fn saving_the_same_again_is_fine_and_writes_nothing(db: Db) {
        let apps = Apps::new(&db).await;
        let first = apps.set("site", whole()).await.unwrap();
        let again = apps.set("site", whole()).await.unwrap();
        assert_eq!((first.id, first.updated_at), (again.id, again.updated_at));
        let events = valetkey::audit::page(&db, &apps.site, None, 100).await.unwrap();
        assert_eq!(events.iter().filter(|event| event.action == "app_config.set").count(), 1);
    }
}
