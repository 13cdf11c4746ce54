//! The account that a provider's policy gives a context, and the calls of before.

use serde_json::{Map, Value, json};
use valetkey::{
    Code, app_config,
    compat::Legacy,
    context::{Context, Kind, Policy},
    extend::{Extensions, PolicyQuestion, ScopePolicy},
    on_each_db,
    principal::{Actor, Owner},
    scope::{self, Change, Setting},
};

use crate::desk::{Desk, access, account, agent, token, user};

/// What was found: the token, whose it is, and whether it fell back.
type Seen = (Option<String>, Option<String>, bool);

async fn look(desk: &Desk, context: &Context) -> Seen {
    let found = desk.reddit().account_for_context(context).await.unwrap();
    let token = found.value.map(|found| access(Some(found.account)));
    (token, found.resolved_from.map(|owner| owner.to_string()), found.fell_back)
}

fn seen(token: &str, from: &str, fell_back: bool) -> Seen {
    (Some(token.to_owned()), Some(from.to_owned()), fell_back)
}

const NOTHING: Seen = (None, None, false);

fn of_user(id: &str) -> Context {
    Context::of_user(user(id))
}

fn of_both(agent_id: &str, user_id: &str) -> Context {
    Context { agent: Some(agent(agent_id)), ..of_user(user_id) }
}

/// The site's account, user 42's and agent 303's.
async fn three(desk: &Desk) {
    let reddit = desk.reddit();
    reddit.save_site_account(token("site")).await.unwrap();
    reddit.save_account_for_user(&user("42"), token("u42")).await.unwrap();
    reddit.save_account_for_agent(&agent("303"), token("a303")).await.unwrap();
}

fn array(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn legacy(desk: &Desk) -> Legacy {
    Legacy::new(desk.reddit(), Context::default())
}

const WARNING: &str = "warning: context-array account call; name the scope in the call, or use account_for_context";

on_each_db! {
    /// A-060, A-066: where nothing is stored nothing is found, whatever the policy; and it is absent, not empty.
    async fn nothing_stored_is_absent_in_a_context(db: Db) {
        let desk = Desk::new(&db).await;
        assert_eq!(look(&desk, &Context::default()).await, NOTHING);
        desk.policy("user", true).await;
        assert_eq!(look(&desk, &of_user("42")).await, NOTHING);
    }

    /// A-061, A-062: without a setting the site's account applies, whoever is named.
    async fn the_policy_is_the_site_until_it_is_set(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        assert_eq!(look(&desk, &Context::default()).await, seen("site", "site", false));
        assert_eq!(look(&desk, &of_user("42")).await, seen("site", "site", false));
    }

    /// A-063: the policy `user` gives a person their own.
    async fn the_policy_user_gives_a_person_their_own(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        desk.policy("user", false).await;
        assert_eq!(look(&desk, &of_user("42")).await, seen("u42", "user:42", false));
        // An agent is not a person, and nobody's account stands in for it.
        assert_eq!(look(&desk, &Context::of_agent(agent("303"))).await, seen("site", "site", false));
    }

    /// A-064: the policy `principal` prefers the agent that is named.
    async fn the_policy_principal_prefers_the_named_agent(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        desk.policy("principal", false).await;
        assert_eq!(look(&desk, &of_both("303", "42")).await, seen("a303", "agent:303", false));
        let acting = Context { acting_agent: Some(agent("303")), ..of_user("42") };
        assert_eq!(look(&desk, &acting).await, seen("u42", "user:42", false));
    }

    /// A-065: where the setting says so, the site's stands in for a person's that is missing, and the answer says so.
    async fn the_sites_account_stands_in_only_where_the_setting_says_so(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_site_account(token("site")).await.unwrap();
        desk.policy("user", false).await;
        assert_eq!(look(&desk, &of_user("42")).await, NOTHING);
        desk.policy("user", true).await;
        assert_eq!(look(&desk, &of_user("42")).await, seen("site", "site", true));
    }

    async fn what_an_import_brought_falls_back_and_keeps_its_policy(db: Db) {
        let desk = Desk::new(&db).await;
        desk.policy("user", false).await;
        let (base, site) = (&desk.house.base, &desk.house.site);
        let provider = "reddit".parse().unwrap();
        for _ in 0..2 {
            let mut tx = base.db.begin().await.unwrap();
            scope::set_imported(base, &mut tx, site, &Actor::Operator, &provider).await.unwrap();
            tx.commit().await.unwrap();
        }
        let set = async |kind| scope::setting(&base.db, site, &provider, kind).await.unwrap();
        assert_eq!(set(Kind::Account).await, Setting { policy: Policy::User, fallback: true });
        assert_eq!(set(Kind::Config).await, Setting { policy: Policy::Site, fallback: true });
        let other = scope::setting(&base.db, site, &"github".parse().unwrap(), Kind::Account).await.unwrap();
        assert_eq!(other, Setting { policy: Policy::Site, fallback: false });
    }

    async fn a_change_of_one_part_of_a_setting_leaves_the_other(db: Db) {
        let desk = Desk::new(&db).await;
        let (base, site) = (&desk.house.base, &desk.house.site);
        let provider = "reddit".parse().unwrap();
        let set = async |change| {
            scope::set(base, site, &Actor::Operator, &provider, Kind::Account, change).await.unwrap()
        };
        let on = set(Change { fallback: Some(true), policy: None }).await;
        assert_eq!(on, Setting { policy: Policy::Site, fallback: true });
        let agent = set(Change { policy: Some(Policy::Agent), fallback: None }).await;
        assert_eq!(agent, Setting { policy: Policy::Agent, fallback: true });
        let off = set(Change { fallback: Some(false), policy: None }).await;
        assert_eq!(off, Setting { policy: Policy::Agent, fallback: false });
    }

    /// A-067: an update in a context changes exactly the account that the policy chooses, and keeps what it does not name.
    async fn an_update_in_a_context_merges_into_the_one_that_is_chosen(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        desk.policy("principal", true).await;
        let reddit = desk.reddit();
        let whole = account(json!({ "access_token": "old", "refresh_token": "r", "scope": "read" }));
        reddit.save_account_for_agent(&agent("303"), whole).await.unwrap();
        reddit.update_account_for_context(&token("new"), &of_both("303", "42")).await.unwrap();
        let read = reddit.account_for_agent(&agent("303")).await.unwrap().unwrap();
        let expected = json!({ "access_token": "new", "refresh_token": "r", "scope": "read" });
        assert_eq!(Value::Object(read.expose().clone()), expected);
        assert_eq!(access(reddit.account_for_user(&user("42")).await.unwrap()), "u42");
        assert_eq!(access(reddit.site_account().await.unwrap()), "site");
    }

    /// A-068: an update of an account that is missing stores what is given alone; nothing of the site's is copied.
    async fn an_update_in_a_context_copies_nothing_from_the_site(db: Db) {
        let desk = Desk::new(&db).await;
        desk.policy("user", true).await;
        let reddit = desk.reddit();
        let site = json!({ "access_token": "site", "refresh_token": "r" });
        reddit.save_site_account(account(site.clone())).await.unwrap();
        reddit.update_account_for_context(&token("u42"), &of_user("42")).await.unwrap();
        let read = |account: Option<valetkey::secret::SecretMap>| Value::Object(account.unwrap().expose().clone());
        assert_eq!(read(reddit.account_for_user(&user("42")).await.unwrap()), json!({ "access_token": "u42" }));
        assert_eq!(read(reddit.site_account().await.unwrap()), site);
    }

    /// A-069: under the policy `agent` the agent's own account is read; another agent has its own.
    async fn the_policy_agent_reads_the_agents_own(db: Db) {
        let desk = Desk::new(&db).await;
        desk.policy("agent", false).await;
        let reddit = desk.reddit();
        reddit.save_account_for_agent(&agent("303"), token("a303")).await.unwrap();
        reddit.save_account_for_agent(&agent("404"), token("a404")).await.unwrap();
        assert_eq!(look(&desk, &Context::of_agent(agent("303"))).await, seen("a303", "agent:303", false));
        assert_eq!(access(reddit.account_for_agent(&agent("404")).await.unwrap()), "a404");
    }

    /// A-070: a call that names the person finds nothing; the call that asks the policy finds the site's.
    async fn only_the_call_that_asks_the_policy_finds_the_sites(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_site_account(token("site")).await.unwrap();
        assert!(desk.reddit().account_for_user(&user("404")).await.unwrap().is_none());
        assert_eq!(look(&desk, &of_user("404")).await, seen("site", "site", false));
    }

    /// A-071: app configurations have a policy of their own, and the same resolver.
    async fn an_app_configuration_is_chosen_by_its_own_policy(db: Db) {
        let desk = Desk::new(&db).await;
        let (base, site) = (&desk.house.base, &desk.house.site);
        let provider = "reddit".parse().unwrap();
        let definition = desk.outside.definition(&provider).unwrap();
        for id in ["101", "202"] {
            let values = array(json!({ "client_id": format!("id-{id}"), "client_secret": "s", "developer_username": "d" }));
            app_config::set(base, site, &Actor::Operator, &definition, &Owner::User(user(id)), &values).await.unwrap();
        }
        let change = Change { policy: Some(Policy::User), fallback: None };
        scope::set(base, site, &Actor::Operator, &provider, Kind::Config, change).await.unwrap();
        for id in ["101", "202"] {
            let chosen = scope::resolve(&desk.outside, site, &provider, Kind::Config, &of_user(id)).await.unwrap();
            let config = app_config::current(&base.db, site, &provider, &chosen.owner).await.unwrap().unwrap();
            assert_eq!(config.client_id.unwrap(), format!("id-{id}"));
            // Accounts are not meant.
            let accounts = scope::resolve(&desk.outside, site, &provider, Kind::Account, &of_user(id)).await.unwrap();
            assert_eq!(accounts.owner, Owner::Site);
        }
    }

    async fn a_policy_in_code_goes_before_the_setting_where_it_has_a_say(db: Db) {
        struct OnlyReddit;
        impl ScopePolicy for OnlyReddit {
            fn policy(&self, question: &PolicyQuestion<'_>) -> Option<Policy> {
                (question.provider.as_str() == "reddit" && question.kind == Kind::Account).then_some(Policy::User)
            }
        }
        let desk = Desk::with(&db, Extensions::default().policy(std::sync::Arc::new(OnlyReddit))).await;
        desk.policy("agent", false).await;
        three(&desk).await;
        assert_eq!(look(&desk, &of_both("303", "42")).await, seen("u42", "user:42", false));
        desk.at("github").save_site_account(token("github")).await.unwrap();
        let found = desk.at("github").account_for_context(&of_user("42")).await.unwrap();
        assert_eq!((found.policy, found.resolved_from), (Policy::Site, Some(Owner::Site)));
    }

    async fn a_setting_that_cannot_be_read_is_never_the_site(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        desk.policy("user", true).await;
        valetkey::db::testing::execute(&db, "UPDATE scope_policies SET policy = 'newer'").await;
        let error = desk.reddit().account_for_context(&of_user("42")).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
    }

    /// A-052: the calls without a context mean the site, whoever is signed in and whatever the policy.
    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn without_a_context_the_calls_of_before_mean_the_site(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        desk.policy("user", true).await;
        let signed_in = Context { current_user: Some(user("42")), ..Context::default() };
        let old = Legacy::new(desk.reddit(), signed_in);
        assert_eq!(access(Some(old.get_account(&Map::new()).await.unwrap())), "site");
        assert_eq!(access(desk.reddit().site_account().await.unwrap()), "site");
    }

    /// A-026, A-028, A-033, A-035, A-049: one slot by two names; what is missing is empty by the old one.
    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn the_calls_of_before_and_the_sites_are_one_account(db: Db) {
        let desk = Desk::new(&db).await;
        let (old, none) = (legacy(&desk), Map::new());
        assert!(old.get_account(&none).await.unwrap().expose().is_empty());
        old.clear_account(&none).await.unwrap();
        let stored = json!({ "access_token": "t", "user_id": "7", "username": "ada" });
        old.save_account(account(stored.clone()), &none).await.unwrap();
        assert_eq!(Value::Object(desk.reddit().site_account().await.unwrap().unwrap().expose().clone()), stored);
        desk.reddit().save_site_account(token("by its name")).await.unwrap();
        assert_eq!(access(Some(old.get_account(&none).await.unwrap())), "by its name");
        old.clear_account(&none).await.unwrap();
        assert!(old.get_account(&none).await.unwrap().expose().is_empty());
        assert!(desk.reddit().site_account().await.unwrap().is_none());
    }

    /// A-029: the old save replaces, too.
    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn the_save_of_before_replaces_the_whole_account(db: Db) {
        let desk = Desk::new(&db).await;
        let (old, none) = (legacy(&desk), Map::new());
        let whole = account(json!({ "access_token": "old", "refresh_token": "r", "scope": "read" }));
        old.save_account(whole, &none).await.unwrap();
        old.save_account(token("new"), &none).await.unwrap();
        let read = old.get_account(&none).await.unwrap();
        assert_eq!(Value::Object(read.expose().clone()), json!({ "access_token": "new" }));
    }

    /// A-248, A-252, A-254: without a context none of the three warns.
    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn without_a_context_the_calls_of_before_are_quiet(db: Db) {
        let desk = Desk::new(&db).await;
        let (old, none) = (legacy(&desk), Map::new());
        old.save_account(token("t"), &none).await.unwrap();
        old.get_account(&none).await.unwrap();
        old.clear_account(&none).await.unwrap();
        let warnings: Vec<_> = desk.heard.take().into_iter().filter(|entry| entry.starts_with("warning")).collect();
        assert_eq!(warnings, [""; 0]);
    }

    /// A-249, A-250: with a context the old read warns once and asks the policy; what is missing is empty.
    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn with_a_context_the_read_of_before_warns_once_and_asks_the_policy(db: Db) {
        let desk = Desk::new(&db).await;
        let old = legacy(&desk);
        let found = old.get_account(&array(json!({ "user_id": 42 }))).await.unwrap();
        assert!(found.expose().is_empty());
        assert_eq!(desk.heard.take(), [format!("{WARNING} (reddit, site, -)")]);
        three(&desk).await;
        desk.policy("principal", false).await;
        let both = array(json!({ "user_id": "42", "agent_id": 303 }));
        assert_eq!(access(Some(old.get_account(&both).await.unwrap())), "a303");
        assert_eq!(desk.heard.take().iter().filter(|entry| entry.starts_with("warning")).count(), 1);
    }

    /// A-253: the old save with a context warns once and writes what the policy chooses.
    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn with_a_context_the_save_of_before_warns_once_and_asks_the_policy(db: Db) {
        let desk = Desk::new(&db).await;
        desk.policy("principal", true).await;
        let both = array(json!({ "user_id": 42, "agent_id": 303 }));
        legacy(&desk).save_account(token("t"), &both).await.unwrap();
        assert_eq!(desk.heard.take(), [format!("{WARNING} (reddit, agent:303, -)")]);
        assert_eq!(access(desk.reddit().account_for_agent(&agent("303")).await.unwrap()), "t");
        assert!(desk.reddit().account_for_user(&user("42")).await.unwrap().is_none());
        assert!(desk.reddit().site_account().await.unwrap().is_none());
    }

    /// A-255: the old clear with a context warns once, ends what the policy chooses, and leaves the site's.
    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn with_a_context_the_clear_of_before_warns_once_and_leaves_the_sites(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        desk.policy("principal", true).await;
        desk.heard.take();
        legacy(&desk).clear_account(&array(json!({ "agent_id": 303 }))).await.unwrap();
        let warnings: Vec<_> = desk.heard.take().into_iter().filter(|entry| entry.starts_with("warning")).collect();
        assert_eq!(warnings, [format!("{WARNING} (reddit, agent:303, -)")]);
        assert!(desk.reddit().account_for_agent(&agent("303")).await.unwrap().is_none());
        assert_eq!(access(desk.reddit().site_account().await.unwrap()), "site");
    }

    /// A-251: it is the call to use, and not deprecated.
    async fn the_look_up_by_policy_under_its_own_name_does_not_warn(db: Db) {
        let desk = Desk::new(&db).await;
        desk.reddit().save_site_account(token("site")).await.unwrap();
        desk.policy("user", true).await;
        assert_eq!(look(&desk, &of_user("42")).await, seen("site", "site", true));
        assert_eq!(desk.heard.take(), [""; 0]);
    }

    #[expect(deprecated, reason = "this is what the calls of before do")]
    async fn an_id_that_is_none_never_reaches_the_sites_account(db: Db) {
        let desk = Desk::new(&db).await;
        three(&desk).await;
        desk.policy("user", false).await;
        for id in [json!(-42), json!("abc"), json!([42])] {
            let context = array(json!({ "user_id": id }));
            assert_eq!(legacy(&desk).get_account(&context).await.unwrap_err().code(), Code::InvalidRequest);
            assert_eq!(legacy(&desk).save_account(token("x"), &context).await.unwrap_err().code(), Code::InvalidRequest);
            assert_eq!(legacy(&desk).clear_account(&context).await.unwrap_err().code(), Code::InvalidRequest);
        }
        assert_eq!(access(desk.reddit().site_account().await.unwrap()), "site");
    }
}
