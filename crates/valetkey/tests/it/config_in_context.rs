//! The app configuration that a provider's policy gives a context, and the app that accounts are connected and renewed with.

use provider_lab::{CLIENT_ID, CLIENT_SECRET};
use serde_json::json;
use valetkey::{
    Code,
    account::Accounts,
    app_config,
    connect::session::NewSession,
    context::{Context, Kind},
    id::ConnectionId,
    on_each_db,
    principal::{Actor, Owner},
    refresh::{self, Refresher},
    scope::{self, Change},
    secret::SecretMap,
};

use crate::{
    connect::world::{OPERATOR, World},
    desk::{Desk, agent, user},
};

/// Stores an owner's app at Reddit.
async fn app(desk: &Desk, owner: Owner, client_id: &str) {
    let definition = desk.outside.definition(&"reddit".parse().unwrap()).unwrap();
    let values = json!({ "client_id": client_id, "client_secret": "canary", "developer_username": "d" });
    let (base, site) = (&desk.house.base, &desk.house.site);
    app_config::set(base, site, &Actor::Operator, &definition, &owner, values.as_object().unwrap()).await.unwrap();
}

/// The client id that was found, whose it is, and whether it fell back.
async fn look(desk: &Desk, context: &Context) -> (Option<String>, Option<String>, bool) {
    let found = desk.reddit().config_for_context(context).await.unwrap();
    let id = found.value.and_then(|config| config.client_id);
    (id, found.resolved_from.map(|owner| owner.to_string()), found.fell_back)
}

async fn policy(world: &World, policy: &str, fallback: bool) {
    let change = Change { policy: Some(policy.parse().unwrap()), fallback: Some(fallback) };
    let (base, site) = (&world.house.base, &world.house.site);
    scope::set(base, site, &OPERATOR, &"lab".parse().unwrap(), Kind::Config, change).await.unwrap();
}

fn alice() -> NewSession {
    NewSession::new("lab".parse().unwrap(), Owner::User(user("alice")))
}

/// Stores an app of alice's own that has nothing but another client id than the site's.
async fn own_app(world: &World, client_id: &str, client_secret: &str) {
    let definition = world.outside.definition(&"lab".parse().unwrap()).unwrap();
    let values = json!({ "client_id": client_id, "client_secret": client_secret });
    let (base, site, owner) = (&world.house.base, &world.house.site, Owner::User(user("alice")));
    app_config::set(base, site, &OPERATOR, &definition, &owner, values.as_object().unwrap()).await.unwrap();
}

/// An account of alice's that ended a minute ago and was stored when there was no app at all.
async fn before_any_app(world: &World) -> ConnectionId {
    let (base, site) = (&world.house.base, &world.house.site);
    app_config::delete(base, site, &OPERATOR, &"lab".parse().unwrap(), &Owner::Site).await.unwrap();
    let accounts = Accounts::new(&world.outside, site.clone(), "lab".parse().unwrap(), OPERATOR);
    let issued = world.lab.issue(CLIENT_ID, "alice", "profile").unwrap();
    let account = json!({
        "access_token": issued.access_token, "refresh_token": issued.refresh_token,
        "expires_at": base.clock.now().0 / 1_000_000 - 60,
    });
    accounts.save_account_for_user(&user("alice"), SecretMap::new(account.as_object().unwrap().clone())).await.unwrap();
    accounts.connection(Owner::User(user("alice"))).await.unwrap()
}

on_each_db! {
    async fn a_context_gets_the_app_that_the_policy_says_and_is_told_whose_it_is(db: Db) {
        let desk = Desk::new(&db).await;
        let (u42, a303) = (Context::of_user(user("42")), Context::of_agent(agent("303")));
        assert_eq!(look(&desk, &u42).await, (None, None, false));
        app(&desk, Owner::Site, "of-site").await;
        let found = |id: &str, whose: &str, fell_back| (Some(id.to_owned()), Some(whose.to_owned()), fell_back);
        assert_eq!(look(&desk, &u42).await, found("of-site", "site", false));
        let set = async |policy: &str, fallback| {
            let change = Change { policy: Some(policy.parse().unwrap()), fallback: Some(fallback) };
            let provider = "reddit".parse().unwrap();
            scope::set(&desk.house.base, &desk.house.site, &OPERATOR, &provider, Kind::Config, change).await.unwrap();
        };
        set("principal", false).await;
        assert_eq!(look(&desk, &u42).await, (None, None, false));
        set("principal", true).await;
        assert_eq!(look(&desk, &u42).await, found("of-site", "site", true));
        app(&desk, Owner::User(user("42")), "of-42").await;
        app(&desk, Owner::Agent(agent("303")), "of-303").await;
        assert_eq!(look(&desk, &u42).await, found("of-42", "user:42", false));
        assert_eq!(look(&desk, &a303).await, found("of-303", "agent:303", false));
        // The policy for accounts is another one, and says nothing here.
        desk.policy("site", false).await;
        assert_eq!(look(&desk, &u42).await, found("of-42", "user:42", false));
    }

    async fn a_look_up_of_an_app_shows_no_secret(db: Db) {
        let desk = Desk::new(&db).await;
        app(&desk, Owner::Site, "of-site").await;
        let found = desk.reddit().config_for_context(&Context::default()).await.unwrap();
        assert!(!format!("{found:?}").contains("canary"));
    }

    /// Decisions 5: nothing widens silently.
    async fn the_sites_app_is_not_lent_where_the_policy_asks_for_a_persons_own(db: Db) {
        let world = World::new(&db).await;
        world.link(alice()).await;
        policy(&world, "user", false).await;
        assert_eq!(world.refused(alice()).await, Code::NotConfigured);
        policy(&world, "user", true).await;
        let started = world.start(alice()).await;
        assert!(started.authorize_url.expose().contains(&format!("client_id={CLIENT_ID}")));
    }

    async fn an_app_that_is_a_persons_own_goes_before_the_policy(db: Db) {
        let world = World::new(&db).await;
        own_app(&world, "alices-app", "s").await;
        let started = world.start(alice()).await;
        assert!(started.authorize_url.expose().contains("client_id=alices-app"));
        // Somebody else's app is nobody else's.
        let bob = world.start(NewSession::new("lab".parse().unwrap(), Owner::User(user("bob")))).await;
        assert!(bob.authorize_url.expose().contains(&format!("client_id={CLIENT_ID}")));
    }

    async fn tokens_that_came_before_any_app_are_renewed_with_the_one_that_the_policy_gives(db: Db) {
        let world = World::new(&db).await;
        let id = before_any_app(&world).await;
        world.configure(CLIENT_ID, CLIENT_SECRET).await;
        let (site, refresher) = (&world.house.site, Refresher::new(world.outside.clone(), refresh::Settings::default()));
        refresher.refresh_now(site, &id, &OPERATOR).await.unwrap();
        assert_eq!(world.lab.refresh_requests(), 1);
    }

    async fn tokens_are_not_renewed_with_an_app_that_the_policy_does_not_give(db: Db) {
        let world = World::new(&db).await;
        let id = before_any_app(&world).await;
        world.configure(CLIENT_ID, CLIENT_SECRET).await;
        policy(&world, "user", false).await;
        let (site, refresher) = (&world.house.site, Refresher::new(world.outside.clone(), refresh::Settings::default()));
        assert!(refresher.refresh_now(site, &id, &OPERATOR).await.is_err());
        assert_eq!(world.lab.refresh_requests(), 0);
    }
}
