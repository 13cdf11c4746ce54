//! Keeping accounts fresh that are made of entered values: sessions, what is minted anew, and the login that is left when a
//! refresh token is over. What is minted spends nothing, so an answer that is lost costs nothing.

use std::{sync::Arc, time::Duration};

use provider_lab::{APP_PASSWORD, At, CLIENT_ID, CLIENT_SECRET, Fault, INSTALLATION, Rule, Signing};
use serde_json::{Value, json};
use valetkey::{
    Code, Result,
    connection::{self, Renewal, Status, Stored, accounts},
    db::Db,
    id::ConnectionId,
    on_each_db,
    principal::Owner,
    refresh::{Refresher, Served, Wish},
    revoke,
    secret::SecretMap,
};

use crate::{
    connect::world::{OPERATOR, World},
    entered::{alice, key_file, of, values, world},
    town::{HOUR, access, quick, reauth},
};

struct Keeper {
    world: World,
    refresher: Refresher,
}

impl Keeper {
    async fn new(db: &Db) -> Self {
        let world = world(db).await;
        let refresher = Refresher::new(world.outside.clone(), quick());
        Self { world, refresher }
    }

    async fn stored(&self, id: &ConnectionId) -> Stored {
        connection::load(&self.world.house.base.db, &self.world.house.site, id).await.unwrap().unwrap()
    }

    async fn serve(&self, id: &ConnectionId) -> Result<Served> {
        self.refresher.serve(Arc::new(self.stored(id).await), Wish::default()).await
    }

    fn advance(&self, by: Duration) {
        self.world.house.base.clock.advance(by);
    }

    async fn session(&self) -> ConnectionId {
        self.world.enter(of("blue", "user:alice"), alice(APP_PASSWORD)).await
    }

    async fn robot(&self) -> ConnectionId {
        let file = key_file(&self.world.lab, Signing::Rs256);
        self.world.enter(of("robot", "site"), json!({ "service_account_json": file })).await
    }

    fn logins(&self) -> u64 {
        self.world.lab.requests("login")
    }

    async fn members(&self, id: &ConnectionId, name: &str) -> Option<Value> {
        self.world.account(id).await.expose().get(name).cloned()
    }
}

on_each_db! {
    async fn a_session_is_renewed_by_its_refresh_token(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.session().await;
        let first = access(&keeper.serve(&id).await.unwrap());
        keeper.advance(HOUR);
        let second = access(&keeper.serve(&id).await.unwrap());
        assert_ne!(first, second);
        assert!(keeper.world.lab.is_live(&second));
        assert_eq!((keeper.logins(), keeper.world.lab.refresh_requests()), (1, 1));
    }

    async fn a_dead_refresh_token_falls_back_on_the_login_once(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.session().await;
        keeper.world.lab.withdraw(CLIENT_ID, "alice");
        // The provider would have us go somewhere else from now on; the account stays where it was connected.
        keeper.world.lab.move_accounts(Some("http://127.0.0.1:1"));
        let pds = keeper.members(&id, "pds").await;
        keeper.advance(HOUR);
        let served = keeper.serve(&id).await.unwrap();
        assert!(keeper.world.lab.is_live(&access(&served)));
        assert_eq!((keeper.logins(), keeper.world.lab.refresh_requests()), (2, 1));
        let stored = keeper.stored(&id).await;
        assert_eq!((stored.connection.status, stored.connection.renewal, stored.connection.version), (Status::Active, Renewal::RefreshToken, 2));
        assert_eq!(keeper.members(&id, "pds").await, pds);
        assert_eq!(keeper.world.audited("refresh.fell_back").await.len(), 1);
        assert!(keeper.world.audited("refresh.needs_reauth").await.is_empty());
        // And goes on as before.
        keeper.advance(HOUR);
        keeper.serve(&id).await.unwrap();
        assert_eq!((keeper.logins(), keeper.world.lab.refresh_requests()), (2, 2));
    }

    async fn a_login_that_is_refused_ends_the_account_without_a_storm(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.session().await;
        keeper.world.lab.withdraw(CLIENT_ID, "alice");
        keeper.world.lab.change_password("alice", "another");
        keeper.advance(HOUR);
        for _ in 0..5 {
            let error = keeper.serve(&id).await.unwrap_err();
            assert_eq!(error.code(), Code::NotAuthenticated);
            assert_eq!(error.extra().unwrap()["reason"], "credentials_refused");
        }
        assert_eq!((keeper.logins(), keeper.world.lab.refresh_requests()), (2, 1));
        assert_eq!(keeper.stored(&id).await.connection.status, reauth("credentials_refused"));
        assert_eq!(keeper.world.audited("refresh.needs_reauth").await.len(), 1);
        // Entered again, with what is right now, it is the same connection.
        assert_eq!(keeper.world.enter(of("blue", "user:alice"), alice("another")).await, id);
        keeper.serve(&id).await.unwrap();
    }

    async fn a_session_whose_answer_is_lost_logs_in_again(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.session().await;
        keeper.advance(HOUR);
        keeper.world.lab.misbehave(Rule::once(At::Refresh, Fault::LoseResponse));
        assert_eq!(keeper.serve(&id).await.unwrap_err().code(), Code::RefreshFailed);
        // The one recovery attempt is told that the token was used before.
        keeper.advance(HOUR);
        assert!(keeper.world.lab.is_live(&access(&keeper.serve(&id).await.unwrap())));
        assert_eq!(keeper.stored(&id).await.connection.status, Status::Active);
        assert_eq!((keeper.logins(), keeper.world.lab.refresh_requests()), (2, 2));
    }

    async fn without_a_stored_login_a_dead_refresh_token_is_the_end(db: Db) {
        let keeper = Keeper::new(&db).await;
        let world = &keeper.world;
        let issued = world.lab.issue(CLIENT_ID, "alice", "profile").unwrap();
        let slot = accounts::Slot {
            site: world.house.site.clone(),
            provider: "blue".parse().unwrap(),
            owner: Owner::Site,
            name: Default::default(),
        };
        let account = values(json!({
            "username": "alice.lab.example", "access_token": issued.access_token, "refresh_token": issued.refresh_token,
            "expires_in": 60,
        }));
        let id = accounts::put(&world.outside, &OPERATOR, &slot, account, &Default::default()).await.unwrap().connection.id;
        world.lab.withdraw(CLIENT_ID, "alice");
        keeper.advance(HOUR);
        assert_eq!(keeper.serve(&id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(keeper.stored(&id).await.connection.status, reauth("invalid_grant"));
        assert_eq!(keeper.logins(), 0);
    }

    async fn a_stored_login_without_tokens_is_used_when_it_is_needed_and_not_before(db: Db) {
        let keeper = Keeper::new(&db).await;
        let world = &keeper.world;
        let slot = accounts::Slot {
            site: world.house.site.clone(),
            provider: "blue".parse().unwrap(),
            owner: Owner::Site,
            name: Default::default(),
        };
        // As an import brings it.
        let put = accounts::put(&world.outside, &OPERATOR, &slot, values(alice(APP_PASSWORD)), &Default::default()).await.unwrap();
        assert_eq!((put.connection.renewal, keeper.logins()), (Renewal::Remint, 0));
        assert!(put.connection.is_authenticated(world.house.base.clock.now()));
        assert!(world.lab.is_live(&access(&keeper.serve(&put.connection.id).await.unwrap())));
        assert_eq!(keeper.logins(), 1);
    }

    async fn what_is_minted_loses_nothing_with_an_answer(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.robot().await;
        for fault in [Fault::LoseResponse, Fault::TruncatedBody, Fault::status(503), Fault::HtmlBody, Fault::Drop] {
            keeper.advance(HOUR);
            let before = keeper.stored(&id).await.connection.version;
            keeper.world.lab.misbehave(Rule::once(At::Login, fault.clone()));
            assert_eq!(keeper.serve(&id).await.unwrap_err().code(), Code::RefreshFailed, "{fault:?}");
            let stored = keeper.stored(&id).await;
            assert_eq!((stored.connection.status, stored.spending_version, stored.lease_holder), (Status::Active, None, None));
            keeper.advance(HOUR);
            assert!(keeper.world.lab.is_live(&access(&keeper.serve(&id).await.unwrap())), "{fault:?}");
            assert_eq!(keeper.stored(&id).await.connection.version, before + 1);
        }
        assert!(keeper.world.audited("refresh.needs_reauth").await.is_empty());
    }

    async fn many_callers_mint_one_token(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.robot().await;
        let before = keeper.logins();
        keeper.advance(HOUR);
        let stored = Arc::new(keeper.stored(&id).await);
        let callers: Vec<_> = (0..32)
            .map(|_| {
                let (refresher, stored) = (keeper.refresher.clone(), stored.clone());
                tokio::spawn(async move { refresher.serve(stored, Wish::default()).await })
            })
            .collect();
        let mut tokens = Vec::new();
        for caller in callers {
            tokens.push(access(&caller.await.unwrap().unwrap()));
        }
        assert!(tokens.iter().all(|token| *token == tokens[0]));
        assert_eq!(keeper.logins(), before + 1);
    }

    async fn an_account_s_own_client_that_is_refused_ends_that_account(db: Db) {
        let keeper = Keeper::new(&db).await;
        let right = json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET });
        let id = keeper.world.enter(of("client", "site"), right).await;
        keeper.advance(HOUR);
        assert!(keeper.world.lab.is_live(&access(&keeper.serve(&id).await.unwrap())));
        keeper.world.lab.register(provider_lab::Client::new(CLIENT_ID, "another secret"));
        keeper.advance(HOUR);
        assert_eq!(keeper.serve(&id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(keeper.stored(&id).await.connection.status, reauth("credentials_refused"));
    }

    async fn an_app_s_key_that_is_refused_ends_no_installation(db: Db) {
        let keeper = Keeper::new(&db).await;
        let world = &keeper.world;
        let key = world.lab.signing_key("77", Signing::Rs256).unwrap();
        world.configure_provider("installation", &json!({ "app_id": "77", "app_key": key })).await;
        let id = world.enter(of("installation", "site"), json!({ "installation": INSTALLATION })).await;
        keeper.advance(HOUR);
        keeper.serve(&id).await.unwrap();
        world.lab.signing_key("77", Signing::Rs256).unwrap();
        keeper.advance(HOUR);
        assert_eq!(keeper.serve(&id).await.unwrap_err().code(), Code::RefreshFailed);
        assert_eq!(keeper.stored(&id).await.connection.status, Status::Active);
        let mut failed = world.audited("refresh.failed").await;
        failed.retain(|(_, facts)| facts["app_config"].is_string());
        assert_eq!(failed.len(), 1, "somebody is told, once");
    }

    async fn a_login_for_a_token_is_made_again_when_that_ends(db: Db) {
        let keeper = Keeper::new(&db).await;
        let login = json!({ "email": "carol@lab.example", "password": APP_PASSWORD });
        let id = keeper.world.enter(of("login", "site"), login).await;
        keeper.advance(HOUR);
        keeper.serve(&id).await.unwrap();
        assert_eq!(keeper.logins(), 2);
        keeper.world.lab.change_password("carol", "another");
        keeper.advance(HOUR);
        // The provider says so with status 200; the definition knows the word.
        assert_eq!(keeper.serve(&id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(keeper.serve(&id).await.unwrap_err().code(), Code::NotAuthenticated);
        assert_eq!(keeper.logins(), 3);
    }

    async fn a_revoked_session_is_deleted_at_its_server(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.session().await;
        let (world, token) = (&keeper.world, access(&keeper.serve(&id).await.unwrap()));
        let wish = connection::UpstreamWish::IfPossible;
        revoke::connection(&world.outside, &world.house.site, &OPERATOR, &id, "enough", wish).await.unwrap();
        revoke::work_off(&world.outside, &revoke::Settings::default()).await.unwrap();
        assert!(!world.lab.is_live(&token));
        assert_eq!(world.owed().await, [("enough".to_owned(), "revoked".to_owned())]);
        assert!(keeper.stored(&id).await.sealed.is_none());
    }

    async fn nothing_entered_and_nothing_minted_is_in_the_open(db: Db) {
        let keeper = Keeper::new(&db).await;
        let id = keeper.session().await;
        let account: SecretMap = keeper.world.account(&id).await;
        let (token, base) = (account.text("access_token").unwrap(), &keeper.world.house.base);
        let rows = valetkey::audit::list(&base.db, &keeper.world.house.site, None, 1000).await.unwrap();
        for row in rows {
            assert!(!row.facts.contains(APP_PASSWORD) && !row.facts.contains(token.expose()), "{}", row.facts);
        }
        let session: Vec<(String, Option<String>)> = valetkey::on!(&base.db, |c| sqlx::query_as(
            "SELECT fields, outcome FROM connect_sessions"
        )
        .fetch_all(c)
        .await
        .unwrap());
        assert!(session.iter().all(|(fields, _)| !fields.contains(APP_PASSWORD)));
    }
}
