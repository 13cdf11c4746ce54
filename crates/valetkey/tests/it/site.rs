//! Sites, and what is set for them.

use serde_json::json;
use valetkey::{
    agent::{self, NewAgent},
    app_config,
    audit::{self, Audit, Mode},
    base::Base,
    error::Code,
    grant::{self, ForWhom, NewGrant},
    id::SiteId,
    on, on_each_db,
    principal::{Actor, Owner},
    provider::Catalogue,
    seal::KeyRing,
    site::{self, SiteChange},
    token::{self, NewToken},
};

use crate::support::House;

const OPERATOR: Actor = Actor::Operator;

on_each_db! {
    async fn a_site_is_made_with_its_keys_and_its_event_or_not_at_all(db: Db) {
        let House { base, .. } = House::new(&db).await;
        let id: SiteId = "second".parse().unwrap();
        let clock = base.clock.clone();
        let keyless = Base {
            ring: KeyRing::empty(),
            audit: Audit::new(clock, KeyRing::empty(), Mode::Strict),
            ..base.clone()
        };
        assert_eq!(site::create(&keyless, &OPERATOR, &id, "Second").await.unwrap_err().code(), Code::KeyUnavailable);
        assert!(site::get(&db, &id).await.unwrap().is_none(), "half a site was made");
        site::create(&base, &OPERATOR, &id, "Second").await.unwrap();
        let actions = || async {
            let rows = audit::page(&db, &id, None, 10).await.unwrap();
            rows.into_iter().map(|row| row.action).collect::<Vec<_>>()
        };
        assert_eq!(actions().await, ["site.create"]);
        assert_eq!(site::create(&base, &OPERATOR, &id, "Again").await.unwrap_err().code(), Code::Conflict);
        // What is recorded and sealed afterwards goes by the very keys that were made with it.
        site::change(&base, &OPERATOR, &id, SiteChange { title: Some("New".into()), ..SiteChange::default() }).await.unwrap();
        assert_eq!(actions().await, ["site.change", "site.create"]);
        let made = on!(&db, |c| sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM data_keys WHERE site = 'second'")
            .fetch_one(c)
            .await
            .unwrap());
        assert_eq!(made, (2,));
    }

    async fn a_site_is_disabled_and_enabled_once_each_and_both_are_recorded(db: Db) {
        let House { base, site: id, .. } = House::new(&db).await;
        let now = base.clock.now();
        let set = async |disabled: bool| site::set_disabled(&base, &OPERATOR, &id, disabled).await.unwrap().disabled_at;
        assert_eq!(set(false).await, None);
        assert_eq!(set(true).await, Some(now));
        base.clock.advance(std::time::Duration::from_secs(60));
        assert_eq!(set(true).await, Some(now), "the time at which it was disabled moved");
        assert!(site::is_disabled(&db, &id).await.unwrap());
        assert_eq!(set(false).await, None);
        let rows = audit::page(&db, &id, None, 10).await.unwrap();
        let actions: Vec<_> = rows.into_iter().map(|row| row.action).collect();
        assert_eq!(actions, ["site.enable", "site.disable", "site.create"]);
        let nowhere: SiteId = "nowhere".parse().unwrap();
        assert_eq!(site::set_disabled(&base, &OPERATOR, &nowhere, true).await.unwrap_err().code(), Code::NotFound);
    }

    async fn two_changes_at_once_both_count(db: Db) {
        let House { base, site, .. } = House::new(&db).await;
        for n in 0..40 {
            let on = SiteChange { unproven_links: Some(true), ..SiteChange::default() };
            site::change(&base, &OPERATOR, &site, on).await.unwrap();
            let off = SiteChange { unproven_links: Some(false), ..SiteChange::default() };
            let rename = SiteChange { title: Some(format!("title {n}")), ..SiteChange::default() };
            let (a, b) = tokio::join!(site::change(&base, &OPERATOR, &site, rename), site::change(&base, &OPERATOR, &site, off));
            a.and(b).unwrap();
            let now = site::require(&db, &site).await.unwrap();
            assert_eq!((now.unproven_links, now.title), (false, format!("title {n}")));
        }
    }

    async fn a_place_to_return_to_is_a_plain_url(db: Db) {
        let House { base, site, .. } = House::new(&db).await;
        for text in ["https://a.example/\n", "https://:word@a.example/", "https://u@a.example/", "http://a.example/", "https://a.example/#x", "ftp://a"] {
            let change = SiteChange { return_to: Some(vec![text.to_owned()]), ..SiteChange::default() };
            assert_eq!(site::change(&base, &OPERATOR, &site, change).await.unwrap_err().code(), Code::InvalidRequest, "{text:?}");
        }
    }

    async fn of_two_app_configurations_at_once_none_brings_an_old_secret_back(db: Db) {
        let House { base, site, .. } = House::new(&db).await;
        let catalogue = Catalogue::embedded().unwrap();
        let definition = catalogue.get(&"reddit".parse().unwrap()).unwrap();
        let set = async |secret: Option<String>, agent: &str| {
            let mut values = json!({ "client_id": "client", "developer_username": agent });
            if let Some(secret) = secret {
                values["client_secret"] = secret.into();
            }
            app_config::update(&base, &site, &OPERATOR, definition, &Owner::Site, values.as_object().unwrap()).await
        };
        set(Some("secret-0".to_owned()), "someone").await.unwrap();
        for n in 1..=30 {
            let secret = format!("secret-{n}");
            let name = format!("someone{n}");
            let (rotated, edited) = tokio::join!(set(Some(secret.clone()), "someone"), set(None, &name));
            assert!(edited.is_ok() || edited.unwrap_err().code() == Code::Conflict);
            let config = app_config::current(&db, &site, &definition.name, &Owner::Site).await.unwrap().unwrap();
            let stored = app_config::open(&base, &config).await.unwrap().text("client_secret").unwrap();
            match rotated {
                Ok(_) => assert_eq!(stored.expose(), secret),
                Err(error) => assert_eq!(error.code(), Code::Conflict),
            }
        }
    }

    /// What a database cannot hold, or should not, is refused before it is asked.
    async fn texts_from_outside_are_bounded_and_plain(db: Db) {
        let house = House::new(&db).await;
        let (base, site) = (&house.base, &house.site);
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        for text in ["a\0b".to_owned(), "x".repeat(5_000)] {
            let new = NewAgent { id: None, slug: "b".into(), title: text.clone(), owner: None };
            assert_eq!(agent::create(base, site, &OPERATOR, new).await.unwrap_err().code(), Code::InvalidRequest);
            let new = NewToken { label: text.clone(), ..NewToken::default() };
            assert_eq!(token::mint(base, site, &OPERATOR, &agent, new).await.unwrap_err().code(), Code::InvalidRequest);
            let new = NewGrant { note: text.clone(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) };
            assert_eq!(grant::create(base, site, &OPERATOR, new).await.unwrap_err().code(), Code::InvalidRequest);
            let grant = house.grant(&agent, &connection, ForWhom::Unattended).await;
            assert_eq!(grant::revoke(base, site, &OPERATOR, &grant, &text).await.unwrap_err().code(), Code::InvalidRequest);
            let (id, _) = house.token(&agent, None).await;
            assert_eq!(token::revoke(base, site, &OPERATOR, &id, &text).await.unwrap_err().code(), Code::InvalidRequest);
            let other: SiteId = "other".parse().unwrap();
            assert_eq!(site::create(base, &OPERATOR, &other, &text).await.unwrap_err().code(), Code::InvalidRequest);
        }
        let many = (0..5_000).map(|n| format!("u{n}").parse().unwrap()).collect();
        let new = NewGrant::proxy(&agent, &connection, ForWhom::People(many));
        assert_eq!(grant::create(base, site, &OPERATOR, new).await.unwrap_err().code(), Code::InvalidRequest);
    }
}
