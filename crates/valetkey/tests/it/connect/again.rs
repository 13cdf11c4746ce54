//! Missing scopes, and the link by which an account is connected again.

use provider_lab::{At, DefinitionOptions, Fault, Rule};
use valetkey::{
    Code,
    connect::{
        Outcome,
        again::{self, Wanted},
        session,
    },
    id::ConnectionId,
    on_each_db, revoke,
};

use super::world::{OPERATOR, World, alices, connected, param};

/// The scopes that a link to connect again asks the provider for.
async fn asked(world: &World, id: &ConnectionId, scopes: Option<&[&str]>) -> Vec<String> {
    let scopes = scopes.map(|scopes| scopes.iter().map(|scope| (*scope).to_owned()).collect());
    let wanted = Wanted { scopes, ..Wanted::default() };
    let link = again::create(&world.outside, &world.house.site, &OPERATOR, id, wanted).await.unwrap();
    let visit = world.open(&link, &alices().owner).await;
    let started = world.approve(&link, &visit).await;
    let mut scopes: Vec<String> = param(&started, "scope").unwrap().split(' ').map(str::to_owned).collect();
    scopes.sort();
    scopes
}

on_each_db! {
    /// R33: a scope that was not granted is told by its name.
    async fn a_missing_scope_is_told_by_its_name(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::once(At::Code, Fault::Scope { scope: "profile posts:read".into() }));
        let id = connected(&world.connect(alices(), "alice").await);
        let connection = world.connection(&id).await;
        assert_eq!(connection.missing_scopes(None), ["posts:write"]);
        connected(&world.connect(alices(), "alice").await);
        assert!(world.connection(&id).await.missing_scopes(None).is_empty());
    }

    /// Microsoft lists `offline_access` in no answer; the refresh token that it unlocks says that it was granted.
    async fn a_scope_that_unlocks_a_refresh_token_is_not_missing_where_one_came(db: Db) {
        let offline = |text: String| {
            text.replace(r#"default = ["profile", "#, r#"offline = ["offline_access"], default = ["profile", "#)
        };
        let world = World::with(&db, &DefinitionOptions::default(), offline).await;
        world.lab.misbehave(Rule::once(At::Code, Fault::Scope { scope: "profile posts:read".into() }));
        let ended = world.connect(alices(), "alice").await;
        let Outcome::Connected { missing_scopes, .. } = &ended.outcome else { panic!("{ended:?}") };
        assert_eq!(missing_scopes, &["posts:write"]);
        let connection = world.connection(&connected(&ended)).await;
        assert!(connection.wanted_scopes.iter().any(|scope| scope == "offline_access"));
        let definition = world.outside.definition(&connection.provider).unwrap();
        assert_eq!(connection.missing_scopes(Some(&definition)), ["posts:write"]);
    }

    async fn a_link_to_connect_again_asks_for_exactly_what_was_granted_and_is_needed(db: Db) {
        let world = World::new(&db).await;
        world.lab.misbehave(Rule::once(At::Code, Fault::Scope { scope: "profile extra".into() }));
        let id = connected(&world.connect(alices(), "alice").await);
        assert_eq!(asked(&world, &id, None).await, ["extra", "posts:read", "posts:write", "profile"]);
        assert_eq!(asked(&world, &id, Some(&["calendar"])).await, ["calendar", "extra", "profile"]);
    }

    /// The account is the same, or it is refused: a link to connect again replaces nobody.
    async fn a_link_to_connect_again_is_for_the_same_account(db: Db) {
        let world = World::new(&db).await;
        let id = connected(&world.connect(alices(), "alice").await);
        let wanted = || again::create(&world.outside, &world.house.site, &OPERATOR, &id, Wanted::default());
        let link = wanted().await.unwrap();
        let view = session::view(&world.outside, &link.link).await.unwrap();
        assert_eq!((view.owner.to_string(), view.new_subject), ("user:alice".to_owned(), false));
        let (wish, site) = (valetkey::connection::UpstreamWish::Skip, &world.house.site);
        revoke::connection(&world.outside, site, &OPERATOR, &id, "enough", wish).await.unwrap();
        assert_eq!(wanted().await.unwrap_err().code(), Code::NotFound);
    }
}
