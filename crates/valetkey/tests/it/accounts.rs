//! Accounts by named scope, as whoever embeds the library handles them.

use serde_json::{Value, json};
use valetkey::{Code, id::UserId, on_each_db, principal::Owner, secret::SecretMap};

use crate::desk::{Desk, access, account, agent, token, user};

fn full(access: &str) -> SecretMap {
    account(json!({ "access_token": access, "refresh_token": "r", "scope": "read", "username": "ada" }))
}

fn shown(account: Option<SecretMap>) -> Value {
    account.map_or(Value::Null, |account| Value::Object(account.expose().clone()))
}

on_each_db! {
    /// A-046, A-047, A-051: missing is absent, what is saved is read back, and deleting nothing is fine.
    async fn a_sites_account_is_absent_until_it_is_saved(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        assert_eq!(shown(reddit.site_account().await.unwrap()), Value::Null);
        reddit.delete_site_account().await.unwrap();
        let stored = json!({ "access_token": "t", "username": "ada", "odd": { "n": [1, 2.5, null, true] }, "empty": "" });
        reddit.save_site_account(account(stored.clone())).await.unwrap();
        assert_eq!(shown(reddit.site_account().await.unwrap()), stored);
    }

    /// A-030, A-048: a new token leaves what stands beside it.
    async fn an_update_of_the_sites_account_keeps_what_it_does_not_name(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_site_account(full("old")).await.unwrap();
        reddit.update_site_account(&token("new")).await.unwrap();
        assert_eq!(
            shown(reddit.site_account().await.unwrap()),
            json!({ "access_token": "new", "refresh_token": "r", "scope": "read", "username": "ada" })
        );
        reddit.update_site_account(&account(json!({ "username": null }))).await.unwrap();
        assert_eq!(shown(reddit.site_account().await.unwrap()).get("username"), None);
    }

    /// A-053: of two saves the last stays, and nothing of a person or an agent comes to be.
    async fn saving_again_replaces_the_whole_account(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_site_account(full("first")).await.unwrap();
        reddit.save_site_account(token("second")).await.unwrap();
        assert_eq!(shown(reddit.site_account().await.unwrap()), json!({ "access_token": "second" }));
        let connections = desk.connections().await;
        assert_eq!(connections.iter().map(|c| c.owner.clone()).collect::<Vec<_>>(), [Owner::Site]);
    }

    /// A-050: the site's account goes, a person's stays.
    async fn deleting_the_sites_account_leaves_a_persons(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_site_account(token("site")).await.unwrap();
        reddit.save_account_for_user(&user("42"), token("u42")).await.unwrap();
        reddit.delete_site_account().await.unwrap();
        assert!(reddit.site_account().await.unwrap().is_none());
        assert_eq!(access(reddit.account_for_user(&user("42")).await.unwrap()), "u42");
    }

    /// A-036: two providers do not mix.
    async fn accounts_at_two_providers_do_not_mix(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_site_account(token("reddit")).await.unwrap();
        assert!(desk.at("github").site_account().await.unwrap().is_none());
        desk.at("github").save_site_account(token("github")).await.unwrap();
        assert_eq!(access(desk.reddit().site_account().await.unwrap()), "reddit");
    }

    /// A-054, A-055: a name is read from exactly the owner it was saved for.
    async fn a_named_account_is_its_owners_alone(db: Db) {
        let desk = Desk::new(&db).await;
        let named = |name: &str| desk.reddit().named(name).unwrap();
        named("primary").save_site_account(token("s1")).await.unwrap();
        named("archive").save_site_account(token("s2")).await.unwrap();
        named("user-primary").save_account_for_user(&user("42"), token("u")).await.unwrap();
        named("agent-primary").save_account_for_agent(&agent("303"), token("a")).await.unwrap();
        for (name, owner) in [("primary", "s1"), ("archive", "s2"), ("user-primary", "u"), ("agent-primary", "a")] {
            let found = [
                named(name).site_account().await.unwrap(),
                named(name).account_for_user(&user("42")).await.unwrap(),
                named(name).account_for_user(&user("43")).await.unwrap(),
                named(name).account_for_agent(&agent("303")).await.unwrap(),
                named(name).account_for_agent(&agent("404")).await.unwrap(),
            ];
            let found: Vec<_> = found.into_iter().flatten().map(|account| access(Some(account))).collect();
            assert_eq!(found, [owner], "{name}");
        }
        assert!(desk.reddit().site_account().await.unwrap().is_none(), "the default account is another one");
    }

    /// A-056: here every owner has names of their own.
    async fn one_name_may_be_used_by_every_owner(db: Db) {
        let desk = Desk::new(&db).await;
        let primary = desk.reddit().named("primary").unwrap();
        primary.save_site_account(token("site")).await.unwrap();
        // Nobody can keep a name from somebody else, or learn that somebody has it.
        primary.save_account_for_user(&user("42"), token("u42")).await.unwrap();
        assert_eq!(access(primary.site_account().await.unwrap()), "site");
        assert_eq!(access(primary.account_for_user(&user("42")).await.unwrap()), "u42");
    }

    /// A-057: deleting one named account leaves the other and the default one.
    async fn deleting_a_named_account_leaves_the_others(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_site_account(token("default")).await.unwrap();
        let (one, two) = (desk.reddit().named("one").unwrap(), desk.reddit().named("two").unwrap());
        one.save_site_account(token("1")).await.unwrap();
        two.save_site_account(token("2")).await.unwrap();
        one.delete_site_account().await.unwrap();
        assert!(one.site_account().await.unwrap().is_none());
        assert_eq!(access(two.site_account().await.unwrap()), "2");
        assert_eq!(access(desk.reddit().site_account().await.unwrap()), "default");
    }

    /// A-059, A-025, A-024: what is stored holds no token in the clear, whatever the account is called and whose it is.
    async fn a_stored_token_is_sealed(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().named("valid-ref").unwrap().save_site_account(token("canary-1")).await.unwrap();
        desk.reddit().save_account_for_user(&user("202"), token("canary-2")).await.unwrap();
        desk.reddit().save_site_account(token("canary-3")).await.unwrap();
        let raw = String::from_utf8_lossy(&desk.raw().await).into_owned();
        assert!(raw.contains("valid-ref") && !raw.contains("canary"), "{raw}");
        assert_eq!(access(desk.reddit().account_for_user(&user("202")).await.unwrap()), "canary-2");
    }

    /// A-058: a name may hold spaces and capitals here; one that is none is refused.
    async fn a_name_that_is_none_is_refused(db: Db) {
        let desk = Desk::new(&db).await;
        let odd = desk.reddit().named("Bad Ref!").unwrap();
        odd.save_site_account(token("t")).await.unwrap();
        assert_eq!(access(odd.site_account().await.unwrap()), "t");
        for name in [" x", "x\n", "\u{0}", &"x".repeat(192)] {
            assert_eq!(desk.reddit().named(name).unwrap_err().code(), Code::InvalidRequest, "{name:?}");
        }
    }

    /// A-072, A-073, A-074: missing is absent; what is saved is read back; an update merges.
    async fn a_persons_account_is_saved_read_and_updated(db: Db) {
        let desk = Desk::new(&db).await;
        let (reddit, u42) = (desk.reddit(), user("42"));
        assert!(reddit.account_for_user(&u42).await.unwrap().is_none());
        reddit.save_account_for_user(&u42, full("old")).await.unwrap();
        let read = shown(reddit.account_for_user(&u42).await.unwrap());
        assert_eq!(read, json!({ "access_token": "old", "refresh_token": "r", "scope": "read", "username": "ada" }));
        reddit.update_account_for_user(&u42, &token("new")).await.unwrap();
        let read = shown(reddit.account_for_user(&u42).await.unwrap());
        assert_eq!(read, json!({ "access_token": "new", "refresh_token": "r", "scope": "read", "username": "ada" }));
    }

    /// A-076, A-077, A-078, A-079: deleting removes, does it again without complaint, and leaves everybody else alone.
    async fn deleting_a_persons_account_is_idempotent_and_touches_nobody_else(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_account_for_user(&user("42"), token("u42")).await.unwrap();
        reddit.save_account_for_user(&user("43"), token("u43")).await.unwrap();
        reddit.delete_account_for_user(&user("42")).await.unwrap();
        assert!(reddit.account_for_user(&user("42")).await.unwrap().is_none());
        reddit.delete_account_for_user(&user("42")).await.unwrap();
        reddit.delete_account_for_user(&user("nobody")).await.unwrap();
        assert_eq!(access(reddit.account_for_user(&user("43")).await.unwrap()), "u43");
    }

    async fn deleting_an_account_leaves_its_owners_named_accounts_and_app_configuration(db: Db) {
        let desk = Desk::new(&db).await;
        let (reddit, u42) = (desk.reddit(), user("42"));
        let owner = Owner::User(u42.clone());
        let (base, site) = (&desk.house.base, &desk.house.site);
        let definition = desk.outside.definition(reddit.provider()).unwrap();
        let values = json!({ "client_id": "id", "client_secret": "s", "developer_username": "dev" });
        let operator = valetkey::principal::Actor::Operator;
        let set = valetkey::app_config::set(base, site, &operator, &definition, &owner, values.as_object().unwrap());
        set.await.unwrap();
        reddit.save_account_for_user(&u42, token("default")).await.unwrap();
        reddit.named("work").unwrap().save_account_for_user(&u42, token("work")).await.unwrap();
        reddit.delete_account_for_user(&u42).await.unwrap();
        assert_eq!(access(reddit.named("work").unwrap().account_for_user(&u42).await.unwrap()), "work");
        assert!(valetkey::app_config::current(&base.db, site, reddit.provider(), &owner).await.unwrap().is_some());
    }

    /// A-080: two people never see each other's account; each is kept under its owner, and none under the site.
    async fn two_people_never_see_each_others_account(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_account_for_user(&user("101"), token("t101")).await.unwrap();
        reddit.save_account_for_user(&user("202"), token("t202")).await.unwrap();
        assert_eq!(access(reddit.account_for_user(&user("101")).await.unwrap()), "t101");
        assert_eq!(access(reddit.account_for_user(&user("202")).await.unwrap()), "t202");
        let owners: Vec<_> = desk.connections().await.iter().map(|c| c.owner.to_string()).collect();
        assert_eq!(owners, ["user:101", "user:202"]);
        assert!(reddit.site_account().await.unwrap().is_none());
    }

    /// A-081, A-082, A-096, A-097: no scope falls back to another, and none touches another.
    async fn the_scopes_stand_beside_each_other(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_site_account(token("site")).await.unwrap();
        assert!(reddit.account_for_user(&user("42")).await.unwrap().is_none());
        assert!(reddit.account_for_agent(&agent("303")).await.unwrap().is_none());
        reddit.save_account_for_user(&user("42"), token("u42")).await.unwrap();
        reddit.save_account_for_agent(&agent("303"), token("a303")).await.unwrap();
        assert_eq!(access(reddit.site_account().await.unwrap()), "site");
        assert_eq!(access(reddit.account_for_user(&user("42")).await.unwrap()), "u42");
        assert_eq!(access(reddit.account_for_agent(&agent("303")).await.unwrap()), "a303");
    }

    /// A-090, A-091, A-092, A-093, A-094, A-095: an agent's account goes the way of a person's.
    async fn an_agents_account_is_saved_read_updated_and_deleted(db: Db) {
        let desk = Desk::new(&db).await;
        let (reddit, a303, a404) = (desk.reddit(), agent("303"), agent("404"));
        assert!(reddit.account_for_agent(&a303).await.unwrap().is_none());
        reddit.save_account_for_agent(&a303, full("old")).await.unwrap();
        reddit.save_account_for_agent(&a404, token("other")).await.unwrap();
        assert_eq!(access(reddit.account_for_agent(&a303).await.unwrap()), "old");
        reddit.update_account_for_agent(&a303, &token("new")).await.unwrap();
        let read = shown(reddit.account_for_agent(&a303).await.unwrap());
        assert_eq!(read, json!({ "access_token": "new", "refresh_token": "r", "scope": "read", "username": "ada" }));
        reddit.delete_account_for_agent(&a303).await.unwrap();
        reddit.delete_account_for_agent(&a303).await.unwrap();
        reddit.delete_account_for_agent(&agent("999")).await.unwrap();
        assert!(reddit.account_for_agent(&a303).await.unwrap().is_none());
        assert_eq!(access(reddit.account_for_agent(&a404).await.unwrap()), "other");
    }

    /// A-099: it is kept under the agent.
    async fn an_agents_account_is_kept_under_the_agent(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_account_for_agent(&agent("303"), token("a")).await.unwrap();
        let owners: Vec<_> = desk.connections().await.iter().map(|c| c.owner.to_string()).collect();
        assert_eq!(owners, ["agent:303"]);
    }

    async fn an_account_of_an_agent_that_there_is_not_is_refused(db: Db) {
        let desk = Desk::new(&db).await;
        let (reddit, nobody) = (desk.reddit(), agent("999"));
        assert_eq!(reddit.save_account_for_agent(&nobody, token("t")).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(reddit.update_account_for_agent(&nobody, &token("t")).await.unwrap_err().code(), Code::NotFound);
        assert!(reddit.account_for_agent(&nobody).await.unwrap().is_none());
    }

    async fn an_update_where_nothing_is_stores_what_is_given_alone(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_site_account(full("site")).await.unwrap();
        reddit.update_account_for_user(&user("42"), &token("u42")).await.unwrap();
        assert_eq!(shown(reddit.account_for_user(&user("42")).await.unwrap()), json!({ "access_token": "u42" }));
    }

    async fn an_empty_account_is_refused_and_leaves_what_is_there(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_site_account(token("kept")).await.unwrap();
        assert_eq!(reddit.save_site_account(SecretMap::default()).await.unwrap_err().code(), Code::InvalidRequest);
        assert_eq!(access(reddit.site_account().await.unwrap()), "kept");
    }

    async fn of_updates_at_the_same_moment_none_is_lost(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_site_account(full("t")).await.unwrap();
        let updates: Vec<_> = (0..16)
            .map(|n| {
                let reddit = desk.reddit();
                tokio::spawn(async move {
                    let changes = account(json!({ format!("note-{n}"): n, "access_token": format!("t{n}") }));
                    reddit.update_site_account(&changes).await
                })
            })
            .collect();
        for update in updates {
            update.await.unwrap().unwrap();
        }
        let read = shown(desk.reddit().site_account().await.unwrap());
        for n in 0..16 {
            assert_eq!(read[format!("note-{n}")], json!(n), "{read}");
        }
        assert_eq!(read["refresh_token"], "r");
    }

    /// A-087, A-088, A-089: what was found is logged once, with its source; what was not is not; and no entry holds a token.
    async fn a_resolved_account_makes_one_log_entry_and_a_missing_one_none(db: Db) {
        let desk = Desk::new(&db).await;
        let reddit = desk.reddit();
        reddit.save_account_for_user(&user("101"), token("canary")).await.unwrap();
        assert!(reddit.account_for_user(&user("102")).await.unwrap().is_none());
        assert_eq!(desk.heard.take(), [""; 0]);
        reddit.account_for_user(&user("101")).await.unwrap().unwrap();
        assert_eq!(desk.heard.take(), ["debug: account resolved (reddit, user:101, default)"]);
    }
}

/// A-083, A-098: 0 is nobody's id, so there is no call that could read, save or delete an account under it.
#[test]
fn zero_and_negative_numbers_are_no_ids() {
    for text in ["0", "-5", ""] {
        assert_eq!(text.parse::<UserId>().unwrap_err().code(), Code::InvalidRequest, "{text:?}");
        assert_eq!(text.parse::<valetkey::id::AgentId>().unwrap_err().code(), Code::InvalidRequest, "{text:?}");
    }
}
