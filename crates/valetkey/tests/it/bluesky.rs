//! The built-in definition of Bluesky at a PDS that this project did not write: `scripts/peers/up pds`.
//!
//! Only the addresses of the definition are replaced: the public directories by the PDS's own and the directory beside it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use provider_lab::Lab;
use serde_json::{Value, json};
use valetkey::{
    Code,
    connection::{self, Identity, Renewal, UpstreamWish},
    db::Db,
    on_each_db,
    refresh::{Refresher, Wish},
    revoke,
    upstream::Limits,
};

use crate::{
    connect::world::{OPERATOR, PUBLIC, World},
    entered::of,
    town::{HOUR, access},
};

struct Pds(Value);

impl Pds {
    fn running() -> Self {
        let text = std::env::var("VALETKEY_TEST_PDS").unwrap_or_else(|_| {
            panic!("VALETKEY_TEST_PDS is not set: run ./scripts/test, or ./scripts/test --peers for a shell")
        });
        Self(serde_json::from_str(&text).unwrap())
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap()
    }

    fn authority(&self, name: &str) -> String {
        self.text(name).split_once("://").unwrap().1.to_owned()
    }

    async fn world(&self, db: &Db) -> World {
        let text = include_str!("../../../../providers/bluesky.toml")
            .replace("https://public.api.bsky.app", self.text("url"))
            .replace("https://plc.directory", self.text("directory"))
            .replace("https://bsky.social", self.text("url"));
        let lab = Lab::start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let allowed = vec![self.authority("url"), self.authority("directory")];
        World::of(db, lab, &[("pds", text)], allowed, PUBLIC).await
    }

    fn login(&self, password: &str) -> Value {
        json!({ "username": self.text("handle"), "app_password": password })
    }
}

/// The status and the DID with which the PDS answers for a token.
async fn who(world: &World, pds: &Pds, token: &str) -> (u16, Option<String>) {
    let url = format!("{}/xrpc/com.atproto.server.getSession", pds.text("url"));
    let request = Request::get(url).header(header::AUTHORIZATION, format!("Bearer {token}")).body(Bytes::new()).unwrap();
    let answer = world.outside.upstream.exchange(request, Limits::within(Duration::from_secs(10))).await.unwrap();
    let body: Value = serde_json::from_slice(answer.body.expose()).unwrap_or_default();
    (answer.status.as_u16(), body["did"].as_str().map(str::to_owned))
}

on_each_db! {
    async fn a_bluesky_account_is_connected_used_refreshed_and_revoked(db: Db) {
        let pds = Pds::running();
        let world = pds.world(&db).await;
        let refused = world.refusal(of("pds", "user:alice"), pds.login("wrong-app-password")).await;
        assert_eq!(refused, Code::LoginRefused);

        let id = world.enter(of("pds", "user:alice"), pds.login(pds.text("appPassword"))).await;
        let connection = world.connection(&id).await;
        let did = connection.subject.clone().unwrap();
        assert!(did.starts_with("did:plc:"), "{did}");
        assert_eq!((connection.identity, connection.renewal), (Identity::Verified, Renewal::RefreshToken));
        assert_eq!(connection.hosts, [pds.authority("url")]);

        let refresher = Refresher::new(world.outside.clone(), Default::default());
        let (base, site) = (&world.house.base, &world.house.site);
        let stored = connection::load(&base.db, site, &id).await.unwrap().unwrap();
        let served = refresher.serve(Arc::new(stored), Wish::default()).await.unwrap();
        assert_eq!(who(&world, &pds, &access(&served)).await, (200, Some(did.clone())));

        let before = world.account(&id).await.text("refresh_token").unwrap();
        base.clock.advance(HOUR);
        let renewed = refresher.refresh_now(site, &id, &OPERATOR).await.unwrap();
        assert_eq!(who(&world, &pds, &access(&renewed)).await, (200, Some(did)));
        let after = world.account(&id).await.text("refresh_token").unwrap();
        assert!(!before.matches(&after), "each refresh brings another refresh token");

        revoke::connection(&world.outside, site, &OPERATOR, &id, "enough", UpstreamWish::IfPossible).await.unwrap();
        revoke::work_off(&world.outside, &revoke::Settings::default()).await.unwrap();
        assert_eq!(world.owed().await, [("enough".to_owned(), "revoked".to_owned())]);
        let url = format!("{}/xrpc/com.atproto.server.refreshSession", pds.text("url"));
        let request = Request::post(url).header(header::AUTHORIZATION, format!("Bearer {}", after.expose()));
        let request = request.body(Bytes::new()).unwrap();
        let answer = world.outside.upstream.exchange(request, Limits::within(Duration::from_secs(10))).await.unwrap();
        assert!(!answer.status.is_success(), "the session is over there too");
    }
}
