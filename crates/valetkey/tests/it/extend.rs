//! What a platform registers of its own: resolvers that hold accounts elsewhere.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use valetkey::{
    Code, Error,
    account::{self, Kept},
    compat::Legacy,
    connect::session::{self, NewSession},
    connection::accounts::{IfMatch, Precondition},
    context::Context,
    extend::{AccountResolver, Answer, Extensions},
    on_each_db,
    principal::{Actor, Owner, Slot},
    secret::SecretMap,
};

use crate::desk::{Desk, access, account as an_account, agent, token, user};

/// A vault of the platform's own.
#[derive(Default)]
pub(crate) struct Vault {
    pub(crate) accounts: Mutex<BTreeMap<String, Value>>,
    asked: Mutex<Vec<String>>,
    takes_changes: bool,
    broken: bool,
}

impl Vault {
    pub(crate) fn with(owner: &str, account: Value) -> Self {
        Self { accounts: Mutex::new([(owner.to_owned(), account)].into()), ..Self::default() }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl AccountResolver for Vault {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn account<'a>(&'a self, slot: &'a Slot) -> Answer<'a, Option<SecretMap>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(format!("{} {} {}", slot.provider, slot.owner, slot.name));
            if self.broken {
                return Err(Error::new(Code::Unavailable, "the vault is closed"));
            }
            Ok(self.accounts.lock().unwrap().get(&slot.owner.to_string()).cloned().map(an_account))
        })
    }

    fn save<'a>(&'a self, slot: &'a Slot, account: &'a SecretMap) -> Answer<'a, ()> {
        Box::pin(async move {
            if !self.takes_changes {
                return Err(valetkey::extend::held_elsewhere(slot, self.name()));
            }
            self.accounts.lock().unwrap().insert(slot.owner.to_string(), Value::Object(account.expose().clone()));
            Ok(())
        })
    }

    fn delete<'a>(&'a self, slot: &'a Slot) -> Answer<'a, ()> {
        Box::pin(async move {
            if !self.takes_changes {
                return Err(valetkey::extend::held_elsewhere(slot, self.name()));
            }
            self.accounts.lock().unwrap().remove(&slot.owner.to_string());
            Ok(())
        })
    }
}

fn secret(text: &str) -> Value {
    json!({ "access_token": text, "refresh_token": "r" })
}

fn shown(account: Option<SecretMap>) -> Value {
    account.map_or(Value::Null, |account| Value::Object(account.expose().clone()))
}

/// It has no entity tag of ours, so none is the one that was read.
#[test]
fn an_account_that_a_resolver_holds_is_not_what_an_if_match_names() {
    let held = Kept::By("vault");
    let check = |if_match| account::check(&Precondition { if_match: Some(if_match), ..Precondition::default() }, Some(&held));
    let refused = check(IfMatch::Tags(vec!["con_0.1.1".to_owned()])).unwrap_err();
    assert_eq!(refused.code(), Code::PreconditionFailed);
    check(IfMatch::Any).unwrap();
}

on_each_db! {
    /// A-084: a resolver that answers is believed, and what it says is taken as it is; it is told provider and person.
    async fn a_resolver_that_answers_wins_over_what_is_stored(db: Db) {
        let vault = Arc::new(Vault::with("user:707", json!({ "access_token": "dm:enc:v1:not:an:envelope", "n": 1 })));
        let desk = Desk::with(&db, Extensions::default().resolve_users(vault.clone())).await;
        let read = shown(desk.reddit().account_for_user(&user("707")).await.unwrap());
        assert_eq!(read, json!({ "access_token": "dm:enc:v1:not:an:envelope", "n": 1 }));
        assert_eq!(vault.asked(), ["reddit user:707 default"]);
        assert_eq!(desk.heard.take(), ["debug: account resolved (reddit, user:707, vault)"]);
    }

    /// A-085, A-086: a resolver that answers nothing, or an empty account, leaves it to what is stored here.
    async fn a_resolver_that_holds_nothing_is_passed_by(db: Db) {
        let vault = Arc::new(Vault::with("user:43", json!({})));
        let desk = Desk::with(&db, Extensions::default().resolve_users(vault)).await;
        for id in ["42", "43"] {
            desk.reddit().save_account_for_user(&user(id), token(id)).await.unwrap();
            assert_eq!(access(desk.reddit().account_for_user(&user(id)).await.unwrap()), id);
        }
        assert_eq!(desk.connections().await.len(), 2);
    }

    async fn the_first_resolver_to_answer_wins(db: Db) {
        let (one, two) = (Vault::with("user:1", secret("one")), Vault::with("user:1", secret("two")));
        let extensions = Extensions::default()
            .resolve_users(Arc::new(Vault::default()))
            .resolve_users(Arc::new(one))
            .resolve_users(Arc::new(two));
        let desk = Desk::with(&db, extensions).await;
        assert_eq!(access(desk.reddit().account_for_user(&user("1")).await.unwrap()), "one");
    }

    async fn agents_have_resolvers_of_their_own_and_the_site_has_none(db: Db) {
        let accounts = [("agent:303", "a"), ("user:42", "u"), ("site", "s")];
        let accounts = accounts.map(|(owner, text)| (owner.to_owned(), secret(text)));
        let vault = Arc::new(Vault { accounts: Mutex::new(accounts.into()), ..Vault::default() });
        let desk = Desk::with(&db, Extensions::default().resolve_agents(vault.clone())).await;
        assert_eq!(access(desk.reddit().account_for_agent(&agent("303")).await.unwrap()), "a");
        assert!(desk.reddit().account_for_user(&user("42")).await.unwrap().is_none());
        assert!(desk.reddit().site_account().await.unwrap().is_none());
        assert_eq!(vault.asked(), ["reddit agent:303 default"]);
    }

    /// A-075: an update of what a resolver holds goes to it; nothing is stored here.
    async fn changes_of_an_account_that_a_resolver_holds_go_to_it(db: Db) {
        let vault = Arc::new(Vault { takes_changes: true, ..Vault::with("user:707", secret("old")) });
        let desk = Desk::with(&db, Extensions::default().resolve_users(vault.clone())).await;
        let (reddit, u707) = (desk.reddit(), user("707"));
        reddit.update_account_for_user(&u707, &token("new")).await.unwrap();
        assert_eq!(vault.accounts.lock().unwrap()["user:707"], secret("new"));
        reddit.save_account_for_user(&u707, token("whole")).await.unwrap();
        assert_eq!(vault.accounts.lock().unwrap()["user:707"], json!({ "access_token": "whole" }));
        assert!(desk.connections().await.is_empty(), "nothing is stored beside it");
        reddit.delete_account_for_user(&u707).await.unwrap();
        assert!(vault.accounts.lock().unwrap().is_empty());
        assert!(reddit.account_for_user(&u707).await.unwrap().is_none());
    }

    async fn changes_that_a_resolver_does_not_take_are_refused_and_never_split(db: Db) {
        let vault = Arc::new(Vault::with("user:707", secret("kept")));
        let desk = Desk::with(&db, Extensions::default().resolve_users(vault.clone())).await;
        let (reddit, u707) = (desk.reddit(), user("707"));
        assert_eq!(reddit.save_account_for_user(&u707, token("x")).await.unwrap_err().code(), Code::Conflict);
        assert_eq!(reddit.update_account_for_user(&u707, &token("x")).await.unwrap_err().code(), Code::Conflict);
        assert_eq!(reddit.delete_account_for_user(&u707).await.unwrap_err().code(), Code::Conflict);
        let slot = Slot {
            site: desk.house.site.clone(),
            provider: "reddit".parse().unwrap(),
            owner: Owner::User(u707.clone()),
            name: Default::default(),
        };
        let wish = valetkey::connection::UpstreamWish::IfPossible;
        assert_eq!(account::delete(&desk.outside, &Actor::Operator, &slot, wish).await.unwrap_err().code(), Code::Conflict);
        assert!(desk.connections().await.is_empty());
        assert_eq!(access(reddit.account_for_user(&u707).await.unwrap()), "kept");
        assert!(matches!(reddit.kept(&Owner::User(u707)).await.unwrap(), Some(Kept::By("vault"))));
    }

    /// What one place holds and the other one keeps from before ends in both, or in neither.
    async fn an_account_that_was_stored_before_a_resolver_held_it_ends_in_both_places_or_in_neither(db: Db) {
        let stored = Desk::new(&db).await;
        let (u707, u708) = (user("707"), user("708"));
        for id in [&u707, &u708] {
            stored.reddit().save_account_for_user(id, token("from before")).await.unwrap();
        }
        let with = async |takes_changes: bool| {
            let accounts = ["user:707", "user:708"].map(|owner| (owner.to_owned(), secret("held")));
            let vault = Arc::new(Vault { takes_changes, accounts: Mutex::new(accounts.into()), ..Vault::default() });
            let mut outside = stored.outside.clone();
            outside.extensions = Extensions::default().resolve_users(vault.clone());
            (vault, outside)
        };
        let site = stored.house.site.clone();
        let (by_id, by_name) = (stored.connections().await, stored.reddit());
        let id = by_id.iter().find(|connection| connection.owner == Owner::User(u707.clone())).unwrap().id.clone();
        let wish = valetkey::connection::UpstreamWish::IfPossible;

        let (vault, outside) = with(false).await;
        let refused = valetkey::revoke::connection(&outside, &site, &Actor::Operator, &id, "test", wish).await;
        assert_eq!(refused.unwrap_err().code(), Code::Conflict);
        assert_eq!(access(by_name.account_for_user(&u707).await.unwrap()), "from before");
        assert_eq!(vault.accounts.lock().unwrap().len(), 2);

        let (vault, outside) = with(true).await;
        valetkey::revoke::connection(&outside, &site, &Actor::Operator, &id, "test", wish).await.unwrap();
        assert!(by_name.account_for_user(&u707).await.unwrap().is_none());
        assert_eq!(vault.accounts.lock().unwrap().keys().collect::<Vec<_>>(), ["user:708"]);
        // Again: what is over here says nothing of what is held there by now.
        vault.accounts.lock().unwrap().insert("user:707".to_owned(), secret("another"));
        valetkey::revoke::connection(&outside, &site, &Actor::Operator, &id, "test", wish).await.unwrap();
        assert_eq!(vault.accounts.lock().unwrap().len(), 2);

        let reddit = account::Accounts::new(&outside, site, "reddit".parse().unwrap(), Actor::Operator);
        reddit.delete_account_for_user(&u708).await.unwrap();
        assert!(reddit.account_for_user(&u708).await.unwrap().is_none(), "the one from before came to light");
        assert!(stored.connections().await.is_empty());
    }

    async fn no_link_is_made_for_an_account_that_is_held_elsewhere(db: Db) {
        let vault = Arc::new(Vault::with("user:707", secret("kept")));
        let desk = Desk::with(&db, Extensions::default().resolve_users(vault)).await;
        let definition = desk.outside.definition(&"reddit".parse().unwrap()).unwrap();
        let values = json!({ "client_id": "id", "client_secret": "s", "developer_username": "dev" });
        let (base, site, operator) = (&desk.house.base, &desk.house.site, Actor::Operator);
        valetkey::app_config::set(base, site, &operator, &definition, &Owner::Site, values.as_object().unwrap()).await.unwrap();
        let link = async |owner: &str| {
            let new = NewSession::new("reddit".parse().unwrap(), owner.parse().unwrap());
            session::create(&desk.outside, site, &operator, new).await.map(|_| ())
        };
        assert_eq!(link("user:707").await.unwrap_err().code(), Code::Conflict);
        link("user:708").await.unwrap();
    }

    async fn a_resolver_that_fails_is_not_taken_for_one_that_holds_nothing(db: Db) {
        let stored = Desk::new(&db).await;
        stored.reddit().save_account_for_user(&user("42"), token("stored")).await.unwrap();
        let vault = Arc::new(Vault { broken: true, ..Vault::default() });
        let mut outside = stored.outside.clone();
        outside.extensions = Extensions::default().resolve_users(vault);
        let site = stored.house.site.clone();
        let reddit = account::Accounts::new(&outside, site, "reddit".parse().unwrap(), Actor::Operator);
        let u42 = user("42");
        assert_eq!(reddit.account_for_user(&u42).await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(reddit.save_account_for_user(&u42, token("x")).await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(reddit.delete_account_for_user(&u42).await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(access(stored.reddit().account_for_user(&u42).await.unwrap()), "stored");
    }

    #[expect(deprecated, reason = "the calls of before ask resolvers as well")]
    async fn a_resolver_is_asked_by_the_policys_look_up_and_by_the_calls_of_before(db: Db) {
        let vault = Arc::new(Vault::with("user:707", secret("held")));
        let desk = Desk::with(&db, Extensions::default().resolve_users(vault)).await;
        desk.reddit().save_site_account(token("site")).await.unwrap();
        desk.policy("user", true).await;
        let found = desk.reddit().account_for_context(&Context::of_user(user("707"))).await.unwrap();
        assert_eq!(access(found.value.map(|found| found.account)), "held");
        assert_eq!((found.resolved_from, found.fell_back), (Some(Owner::User(user("707"))), false));
        let old = Legacy::new(desk.reddit(), Context::default());
        let context = json!({ "user_id": 707 });
        assert_eq!(access(Some(old.get_account(context.as_object().unwrap()).await.unwrap())), "held");
    }

    async fn what_is_held_elsewhere_is_recorded_when_it_is_used_and_never_logged(db: Db) {
        let vault = Arc::new(Vault { takes_changes: true, ..Vault::with("user:707", secret("canary")) });
        let desk = Desk::with(&db, Extensions::default().resolve_users(vault)).await;
        desk.reddit().account_for_user(&user("707")).await.unwrap().unwrap();
        desk.reddit().update_account_for_user(&user("707"), &token("canary")).await.unwrap();
        let base = &desk.house.base;
        base.audit.close();
        base.audit.run(base.db.clone()).await;
        let rows = valetkey::audit::list(&base.db, &desk.house.site, None, 100).await.unwrap();
        let rows: Vec<_> = rows.iter().filter(|row| row.facts.contains("vault")).collect();
        let mut actions: Vec<_> = rows.iter().map(|row| row.action.as_str()).collect();
        actions.sort_unstable();
        assert_eq!(actions, ["account.put", "account.reveal"]);
        assert!(!format!("{rows:?}").contains("canary"));
    }

    async fn an_account_that_ends_is_told(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_account_for_user(&user("42"), token("t")).await.unwrap();
        desk.reddit().delete_account_for_user(&user("42")).await.unwrap();
        assert_eq!(desk.heard.take(), ["revoked: user:42"]);
    }
}
