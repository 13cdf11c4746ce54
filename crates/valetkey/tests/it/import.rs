//! Moving in: all or nothing, once, and nothing that cannot be opened.

use std::collections::BTreeSet;

use serde_json::json;
use valetkey::{
    Code,
    agent::{self, Role},
    app_config, audit,
    connection::{self, Status},
    decision::{self, Request, Who, decide},
    extend::Extensions,
    grant::{self, ForWhom},
    id::{AgentId, ConnectionId},
    import::{
        apply::{Import, held_elsewhere},
        data_machine::{option, plan::Source, salts::Salts},
        item::{Header, Item, OnConflict, Plain, Rest},
    },
    on, on_each_db,
    principal::{Actor, Delivery, Owner},
    revoke,
    secret::{Secret, SecretBytes},
};

use crate::{
    extend::Vault,
    moving::{Harbour, fixture, header, salts},
};

const SITE: &str = "single-wpconfig";

on_each_db! {
    async fn a_second_import_changes_nothing(db: Db) {
        let harbour = Harbour::new(&db).await;
        let (first, _) = harbour.bring_dump(SITE, header()).await.unwrap();
        let before = rows(&db).await;
        let (second, _) = harbour.bring_dump(SITE, header()).await.unwrap();
        assert_eq!(rows(&db).await, before);
        for (kind, counts) in &second.counts {
            assert_eq!((counts.created, counts.replaced, counts.skipped), (0, 0, first.counts[kind].skipped), "{kind}");
        }
    }

    async fn a_dry_run_says_what_would_happen_and_writes_nothing(db: Db) {
        let harbour = Harbour::new(&db).await;
        let before = rows(&db).await;
        let (report, _) = harbour.bring_dump(SITE, Header { dry_run: true, ..header() }).await.unwrap();
        assert_eq!(rows(&db).await, before);
        assert!(report.dry_run);
        let (done, _) = harbour.bring_dump(SITE, header()).await.unwrap();
        assert_eq!(report.counts, done.counts);
    }

    /// An account is never in two places: what a resolver holds is not stored here beside it.
    async fn an_account_that_a_resolver_holds_is_left_out_and_said(db: Db) {
        let mut harbour = Harbour::new(&db).await;
        let vault = Vault::with("user:1", json!({ "access_token": "held" }));
        harbour.outside.extensions = Extensions::default().resolve_users(std::sync::Arc::new(vault));
        let items = || [account("user:1", "one"), account("user:2", "two"), account("site", "site")];
        let mut held = std::collections::HashMap::new();
        for item in items() {
            held.extend(held_elsewhere(&harbour.outside, &harbour.site, &item).await.unwrap());
        }
        assert_eq!(held.values().collect::<Vec<_>>(), [&"vault"]);
        let header = Header { providers: vec!["acme".parse().unwrap()], ..header() };
        let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, header).await.unwrap();
        import.keep_out(held);
        for (at, item) in (0..).zip(items()) {
            import.item(at, item).await.unwrap();
        }
        let report = import.end(3, 0).await.unwrap();
        assert_eq!((report.counts["account"].created, report.counts["account"].skipped), (2, 1));
        assert!(report.left_out.rows[0].why.contains("vault"), "{:?}", report.left_out);
        let stored = connection::list(&db, &harbour.site, &connection::Filter::default()).await.unwrap();
        assert!(stored.len() == 2 && stored.iter().all(|connection| connection.owner.to_string() != "user:1"));
    }

    /// The same where it is made of a configuration, which stays.
    async fn no_account_is_made_of_a_configuration_where_a_resolver_holds_it(db: Db) {
        let mut harbour = Harbour::new(&db).await;
        let vault = Vault::with("user:1", json!({ "password": "held" }));
        harbour.outside.extensions = Extensions::default().resolve_users(std::sync::Arc::new(vault));
        let config = || Item::Config {
            provider: "http_basic".parse().unwrap(),
            owner: "user:1".parse().unwrap(),
            values: Plain(Secret::new(json!({ "username": "u", "password": "p" }).to_string())),
            rest: Rest::default(),
        };
        let held = held_elsewhere(&harbour.outside, &harbour.site, &config()).await.unwrap();
        let header = Header { providers: vec!["http_basic".parse().unwrap()], ..header() };
        let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, header).await.unwrap();
        import.keep_out(held.into_iter().collect());
        import.item(0, config()).await.unwrap();
        let report = import.end(1, 0).await.unwrap();
        assert_eq!((report.counts["config"].created, report.counts["account_from_config"].skipped), (1, 1));
        assert!(report.left_out.rows[0].why.contains("vault"), "{:?}", report.left_out);
        assert!(connections(&harbour).await.is_empty());
    }

    async fn an_import_that_breaks_off_never_happened(db: Db) {
        let harbour = Harbour::new(&db).await;
        let before = rows(&db).await;
        // One batch is begun with, one is sealed, and one is on its way to the database.
        for cut in [1, 600, 1_100, 1_700] {
            let providers = vec!["acme".parse().unwrap()];
            let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, Header { providers, ..header() }).await.unwrap();
            for at in 0..cut {
                import.item(at, account(&format!("user:{}", at + 1), "token")).await.unwrap();
            }
            match cut {
                // The end says how many there should have been.
                1_700 => assert_eq!(import.end(1_701, 0).await.unwrap_err().code(), Code::InvalidRequest),
                _ => drop(import),
            }
            assert_eq!(without_keys(rows(&db).await), without_keys(before.clone()), "cut after {cut}");
        }
    }

    /// Many are sealed together, while others are being inserted: all of them arrive, and of two in one place the first.
    async fn as_many_accounts_as_come_arrive_each_with_its_own_token(db: Db) {
        let harbour = Harbour::new(&db).await;
        let header = Header { providers: vec!["acme".parse().unwrap()], on_conflict: OnConflict::Skip, ..header() };
        let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, header).await.unwrap();
        for at in 0..1_700 {
            import.item(at, account(&format!("user:{}", at + 1), &format!("token-{at}"))).await.unwrap();
        }
        import.item(1_700, account("user:1", "another")).await.unwrap();
        let report = import.end(1_701, 0).await.unwrap();
        assert_eq!((report.counts["account"].created, report.counts["account"].skipped, report.conflicts.count), (1_700, 1, 1));
        for at in 0..1_700 {
            let owner = format!("user:{}", at + 1).parse().unwrap();
            let token = harbour.account("acme", owner, "").await.unwrap().text("access_token").unwrap();
            assert_eq!(token.expose(), format!("token-{at}"));
        }
    }

    async fn an_account_among_many_takes_the_place_of_what_was_here(db: Db) {
        let harbour = Harbour::new(&db).await;
        one(&harbour, header(), account("user:7", "ours")).await.unwrap();
        forget(&db).await;
        let providers = vec!["acme".parse().unwrap()];
        let header = Header { providers, on_conflict: OnConflict::Replace, ..header() };
        let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, header).await.unwrap();
        for at in 0..1_700 {
            import.item(at, account(&format!("user:{}", at + 1), &format!("token-{at}"))).await.unwrap();
        }
        let report = import.end(1_700, 0).await.unwrap();
        assert_eq!((report.counts["account"].created, report.counts["account"].replaced), (1_699, 1));
        for at in [5, 6, 1_699] {
            let owner = format!("user:{}", at + 1).parse().unwrap();
            let token = harbour.account("acme", owner, "").await.unwrap().text("access_token").unwrap();
            assert_eq!(token.expose(), format!("token-{at}"));
        }
    }

    /// A dump may say a thing twice, and every database takes it.
    async fn what_comes_twice_is_here_once(db: Db) {
        let harbour = Harbour::new(&db).await;
        let agent = || Item::Agent {
            agent: "7".parse().unwrap(),
            slug: "twin".to_owned(),
            title: "Twin".to_owned(),
            owner: Some("1".parse().unwrap()),
            created_at: None,
            rest: Rest::default(),
        };
        let role = || Item::Role { agent: "7".parse().unwrap(), user: "2".parse().unwrap(), role: Role::Viewer };
        let header = || Header { on_conflict: OnConflict::Replace, ..header() };
        let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, header()).await.unwrap();
        for (at, item) in (0..).zip([agent(), agent(), role(), role()]) {
            import.item(at, item).await.unwrap();
        }
        import.end(4, 0).await.unwrap();
        let roles = agent::roles(&db, &harbour.site, &"7".parse().unwrap()).await.unwrap();
        assert_eq!(roles.len(), 1);

        let before = rows(&db).await;
        let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, header()).await.unwrap();
        for (at, item) in (0..).zip([agent(), role()]) {
            import.item(at, item).await.unwrap();
        }
        assert_eq!(import.end(2, 0).await.unwrap().counts["agent"].unchanged, 1);
        assert_eq!(rows(&db).await, before);
    }

    async fn an_account_that_is_no_object_ends_the_whole_import(db: Db) {
        let harbour = Harbour::new(&db).await;
        let mut wrong = account("user:1", "canary");
        let Item::Account { account, .. } = &mut wrong else { panic!("an account") };
        *account = Plain(Secret::new("[\"canary\"]"));
        let refused = one(&harbour, header(), wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidRequest);
        assert!(!format!("{refused:?}").contains("canary") && connections(&harbour).await.is_empty());
    }

    async fn what_is_here_already_is_a_conflict_that_refuses_the_whole_import(db: Db) {
        let harbour = Harbour::new(&db).await;
        one(&harbour, header(), account("user:1", "ours")).await.unwrap();
        forget(&db).await;
        let before = rows(&db).await;
        let refused = one(&harbour, header(), account("user:1", "theirs")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Conflict);
        assert_eq!(rows(&db).await, before);

        let skipped = one(&harbour, Header { on_conflict: OnConflict::Skip, ..header() }, account("user:1", "theirs")).await.unwrap();
        assert_eq!((skipped.conflicts.count, skipped.counts["account"].skipped), (1, 1));
        assert_eq!(token(&harbour).await, "ours");

        let replaced = Header { on_conflict: OnConflict::Replace, ..header() };
        assert_eq!(one(&harbour, replaced, account("user:1", "theirs")).await.unwrap().counts["account"].replaced, 1);
        assert_eq!(token(&harbour).await, "theirs");
    }

    async fn what_changed_at_its_source_is_replaced_where_that_is_said_and_keeps_its_id(db: Db) {
        let harbour = Harbour::new(&db).await;
        one(&harbour, header(), account("user:1", "first")).await.unwrap();
        let id = connections(&harbour).await[0].id.clone();
        assert_eq!(one(&harbour, header(), account("user:1", "second")).await.unwrap_err().code(), Code::Conflict);
        let replaced = Header { on_conflict: OnConflict::Replace, ..header() };
        one(&harbour, replaced, account("user:1", "second")).await.unwrap();
        assert_eq!((token(&harbour).await.as_str(), connections(&harbour).await[0].id.clone()), ("second", id));
    }

    async fn a_connection_whose_place_another_took_is_named_and_its_tokens_are_owed_to_its_provider(db: Db) {
        let harbour = Harbour::new(&db).await;
        let token = |text: &str| json!({ "access_token": text, "refresh_token": format!("refresh {text}") });
        let bring = async |text: &str| {
            forget(&db).await;
            let old = connections(&harbour).await.first().map(|connection| connection.id.clone());
            let header = Header { on_conflict: OnConflict::Replace, ..header() };
            many(&harbour, header, vec![account_of("reddit", "user:1", "", &token(text))]).await.unwrap();
            old
        };
        bring("ours").await;
        let old = bring("theirs").await.unwrap();
        assert_eq!(owed(&harbour, &old).await, ["pending"]);
        assert_eq!(ended(&harbour).await, [Some(old.to_string())]);

        // Its tokens live on in what took its place.
        let old = bring("theirs").await.unwrap();
        assert!(owed(&harbour, &old).await.is_empty());
        assert_eq!(ended(&harbour).await.len(), 2);
    }

    async fn an_account_that_became_somebody_elses_at_its_source_ends_and_is_named(db: Db) {
        let harbour = Harbour::new(&db).await;
        let mailbox = |user: &str| account_of("email_imap", "user:1", "ops", &json!({ "imap_user": user }));
        many(&harbour, header(), vec![mailbox("one@example.test")]).await.unwrap();
        let old = connections(&harbour).await[0].id.clone();
        let header = Header { on_conflict: OnConflict::Replace, ..header() };
        many(&harbour, header, vec![mailbox("two@example.test")]).await.unwrap();
        assert_eq!(owed(&harbour, &old).await, ["unsupported"]);
        assert_eq!(ended(&harbour).await, [Some(old.to_string())]);
    }

    async fn a_permission_that_changed_at_its_source_is_a_conflict_and_replaces_the_old_one_where_that_is_said(db: Db) {
        let harbour = Harbour::new(&db).await;
        let bring = async |header: Header, operations: &[&str]| {
            let agent = Item::Agent {
                agent: "7".parse().unwrap(),
                slug: "clerk".to_owned(),
                title: "Clerk".to_owned(),
                owner: Some("1".parse().unwrap()),
                created_at: None,
                rest: Rest::default(),
            };
            let grant = Item::Grant {
                provider: "email_imap".parse().unwrap(),
                owner: "user:1".parse().unwrap(),
                name: "ops".to_owned(),
                agent: "7".parse().unwrap(),
                operations: operations.iter().map(|&operation| operation.to_owned()).collect(),
                rest: Rest::default(),
            };
            let mailbox = account_of("email_imap", "user:1", "ops", &json!({ "imap_user": "ops@example.test" }));
            many(&harbour, header, vec![agent, mailbox, grant]).await
        };
        let live = async || {
            let grants = grant::list(&db, &harbour.site, None, None).await.unwrap();
            let live = grants.into_iter().filter(|grant| grant.revoked_at.is_none());
            live.map(|grant| grant.operations.unwrap().patterns.len()).collect::<Vec<_>>()
        };
        bring(header(), &["MAIL /read", "MAIL /send"]).await.unwrap();
        assert_eq!(live().await, [2, 2]);

        assert_eq!(bring(header(), &["MAIL /read"]).await.unwrap_err().code(), Code::Conflict);
        let skip = Header { on_conflict: OnConflict::Skip, ..header() };
        assert_eq!(bring(skip, &["MAIL /read"]).await.unwrap().counts["grant"].skipped, 1);
        assert_eq!(live().await, [2, 2]);

        let replace = Header { on_conflict: OnConflict::Replace, ..header() };
        assert_eq!(bring(replace, &["MAIL /read"]).await.unwrap().counts["grant"].replaced, 1);
        assert_eq!(live().await, [1, 1]);
        let events = audit::list(&db, &harbour.site, None, 1_000).await.unwrap();
        assert_eq!(events.iter().filter(|event| event.action == "grant.revoke").count(), 2);
        assert_eq!(bring(header(), &["MAIL /read"]).await.unwrap().counts["grant"].unchanged, 1);
    }

    async fn what_is_larger_than_an_account_may_be_is_left_out_by_name_and_the_rest_is_brought(db: Db) {
        let harbour = Harbour::new(&db).await;
        let large = json!({ "access_token": "x".repeat(70_000) });
        let small = json!({ "access_token": "small" });
        let accounts = json!({ "user:1": { "account": small, "accounts": { "big": large } } });
        let accounts = json!({ "acme": { "config": large, "account": large, "principals": accounts } }).to_string();
        let peers = json!({ "other.example/clerk": large }).to_string();
        let (accounts, peers) = (option::read(accounts.as_bytes()).unwrap(), option::read(peers.as_bytes()).unwrap());
        let source = Source { auth_data: Some(&accounts), external_tokens: Some(&peers), ..Source::default() };
        let (_, found) = harbour.bring_source(&source, None, header()).await.unwrap();
        assert!(found.skipped.iter().all(|skipped| skipped.reason.contains("65536")), "{:?}", found.skipped);
        let left_out: BTreeSet<&str> = found.skipped.iter().map(|skipped| skipped.path.as_str()).collect();
        let all = ["acme/config", "acme/account", "acme/principals/user:1/accounts/big", "datamachine_external_tokens/other.example/clerk"];
        assert_eq!(left_out, BTreeSet::from(all));
        assert_eq!((token(&harbour).await.as_str(), connections(&harbour).await.len()), ("small", 1));
    }

    async fn under_the_wrong_salts_everything_sealed_is_listed_and_no_envelope_is_stored(db: Db) {
        let harbour = Harbour::new(&db).await;
        let part = |text: &str| SecretBytes::new(text.as_bytes().to_vec());
        let wrong = Salts::given(part("another key"), part("another salt"));
        let option = fixture(SITE, "auth_data.serialized");
        let (_, found) = harbour.bring_option(&option, Some(&wrong), header()).await.unwrap();
        assert_eq!(found.unreadable.len() as u64, found.sealed);
        let one = found.unreadable.iter().find(|one| one.member.provider.as_str() == "reddit").unwrap();
        assert_eq!((one.member.owner.to_string().as_str(), one.member.part.as_str(), one.reason), ("site", "config", "does_not_open"));
        for connection in connections(&harbour).await {
            let account = harbour.account(connection.provider.as_str(), connection.owner.clone(), connection.name.as_stored()).await;
            assert!(!serde_json::to_string(account.unwrap().expose()).unwrap().contains("dm:enc:v1:"), "{}", connection.provider);
        }
        let reddit = harbour.slot("reddit", Owner::Site, "");
        let reddit = connection::slot(&db, &reddit.site, &reddit.provider, &reddit.owner, &reddit.name).await.unwrap().unwrap();
        assert_eq!(reddit.status, Status::NeedsReauth { reason: "unreadable".to_owned() });
    }

    async fn an_agents_own_account_brings_its_grants_and_no_other_is_made_up(db: Db) {
        let harbour = Harbour::new(&db).await;
        let (report, _) = harbour.bring_dump(SITE, header()).await.unwrap();
        let twitter = harbour.slot("twitter", Owner::Agent("1".parse().unwrap()), "");
        let own = connection::slot(&db, &harbour.site, &twitter.provider, &twitter.owner, &twitter.name).await.unwrap().unwrap();
        let grants = grant::list(&db, &harbour.site, None, Some(&own.id)).await.unwrap();
        assert_eq!(grants.iter().map(|g| g.for_whom.clone()).collect::<Vec<_>>(), [ForWhom::Unattended, ForWhom::Operators]);
        assert!(grants.iter().all(|grant| grant.agent.as_str() == "1"));
        let site = harbour.slot("twitter", Owner::Site, "");
        let site = connection::slot(&db, &harbour.site, &site.provider, &site.owner, &site.name).await.unwrap().unwrap();
        assert!(grant::list(&db, &harbour.site, None, Some(&site.id)).await.unwrap().is_empty());
        let named = report.to_grant.rows.iter().find(|row| row.connection == site.id).unwrap();
        assert_eq!(named.agents.len(), 7);
        // Those of agents that nobody brought are said.
        assert!(report.agents_missing.contains(&"88".parse::<AgentId>().unwrap()));
    }

    /// T-278.
    /// A-232: what a mailbox was lent for is allowed to its agent, and nothing else, and to no other agent.
    async fn a_lent_mailbox_is_a_grant_for_the_same_operations(db: Db) {
        let harbour = Harbour::new(&db).await;
        harbour.bring_dump(SITE, header()).await.unwrap();
        let slot = harbour.slot("email_imap", Owner::User("2".parse().unwrap()), "ops.mail_1");
        let lent = connection::slot(&db, &slot.site, &slot.provider, &slot.owner, &slot.name).await.unwrap().unwrap();
        let may = async |agent: &str, operation: &str| {
            let agent: AgentId = agent.parse().unwrap();
            let facts = decision::for_agent(&db, &harbour.site, &Who::new(agent.clone(), None), &lent.id).await.unwrap().unwrap();
            let (method, path) = (http::Method::from_bytes(b"MAIL").unwrap(), format!("/{operation}"));
            let request = Request { delivery: Delivery::Proxy, operation: Some((&method, "", path.as_bytes())), unattended: false };
            decide(&facts, &request, harbour.outside.base.clock.now()).allowed()
        };
        for (operation, allowed) in [("read", true), ("send", true), ("reply", true), ("search", false), ("delete", false)] {
            assert_eq!(may("2", operation).await, allowed, "{operation}");
        }
        assert!(!may("1", "read").await);
    }

    async fn a_lent_mailbox_is_not_handed_to_its_agent_and_every_word_of_it_has_a_server(db: Db) {
        let harbour = Harbour::new(&db).await;
        harbour.bring_dump(SITE, header()).await.unwrap();
        let slot = harbour.slot("email_imap", Owner::User("2".parse().unwrap()), "ops.mail_1");
        let lent = connection::slot(&db, &slot.site, &slot.provider, &slot.owner, &slot.name).await.unwrap().unwrap();
        let agent: AgentId = "2".parse().unwrap();
        let facts = decision::for_agent(&db, &harbour.site, &Who::new(agent.clone(), None), &lent.id).await.unwrap().unwrap();
        let reveal = Request { delivery: Delivery::Reveal, operation: None, unattended: false };
        assert!(!decide(&facts, &reveal, harbour.outside.base.clock.now()).allowed());
        let definition = harbour.outside.definition(&slot.provider).unwrap();
        let words: BTreeSet<&str> =
            definition.mail.as_ref().unwrap().servers().flat_map(|server| &server.operations).map(String::as_str).collect();
        let lendable = ["read", "search", "draft", "send", "reply", "organize", "delete", "unsubscribe"];
        assert_eq!(words, BTreeSet::from(lendable));
    }

    async fn credentials_that_the_source_keeps_in_a_configuration_can_be_granted_and_stay_one(db: Db) {
        let harbour = Harbour::new(&db).await;
        harbour.bring(SITE, header()).await.unwrap();
        for (provider, field) in [("email_imap", "imap_password"), ("http_basic", "password"), ("bluesky", "app_password")] {
            let config = harbour.config(provider, &Owner::Site).await.unwrap();
            let account = harbour.account(provider, Owner::Site, "config").await.unwrap();
            assert_eq!(config.text(field).unwrap().expose(), account.text(field).unwrap().expose(), "{provider}");
            let listed = app_config::current(&db, &harbour.site, &provider.parse().unwrap(), &Owner::Site).await.unwrap().unwrap();
            assert_eq!(listed.values[field], json!(null), "{provider}: a secret is shown");
        }
    }

    async fn imported_tokens_for_other_sites_are_connections_of_their_own(db: Db) {
        let harbour = Harbour::new(&db).await;
        harbour.bring_dump(SITE, header()).await.unwrap();
        let peer = harbour.account("data_machine_site", Owner::Site, "extrachill.example/sarai").await.unwrap();
        assert!(peer.text("token").unwrap().expose().starts_with("datamachine_sarai_"));
    }

    async fn an_import_is_recorded_with_its_counts_and_no_secret(db: Db) {
        let harbour = Harbour::new(&db).await;
        harbour.bring_dump(SITE, header()).await.unwrap();
        let events = audit::list(&db, &harbour.site, None, 1_000).await.unwrap();
        let import = events.iter().find(|event| event.action == "import.data_machine").unwrap();
        assert!(import.facts.contains("\"account\""), "{}", import.facts);
        assert!(events.iter().all(|event| !event.facts.contains("tw-site-token") && !event.facts.contains("dm:enc")));
    }

    async fn a_provider_that_the_source_named_oddly_is_renamed_and_keeps_its_accounts(db: Db) {
        let harbour = Harbour::new(&db).await;
        let option = br#"{"My Provider!": {"account": {"access_token": "odd"}}, "my_provider": {"account": {"access_token": "even"}}}"#;
        let (_, found) = harbour.bring_option(option, Some(&salts(SITE)), header()).await.unwrap();
        assert_eq!(found.renamed.len(), 1);
        let odd = harbour.account(&found.renamed[0].name, Owner::Site, "").await.unwrap();
        assert_eq!(odd.text("access_token").unwrap().expose(), "odd");
    }
}

/// One account of `acme` with a token.
fn account(owner: &str, token: &str) -> Item {
    account_of("acme", owner, "", &json!({ "access_token": token }))
}

fn account_of(provider: &str, owner: &str, name: &str, account: &serde_json::Value) -> Item {
    Item::Account {
        provider: provider.parse().unwrap(),
        owner: owner.parse().unwrap(),
        name: name.to_owned(),
        account: Plain(Secret::new(account.to_string())),
        incomplete: false,
        rest: Rest::default(),
    }
}

async fn many(harbour: &Harbour, header: Header, items: Vec<Item>) -> valetkey::Result<valetkey::import::apply::Report> {
    let providers = ["email_imap", "reddit"].iter().map(|name| name.parse().unwrap()).collect();
    let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, Header { providers, ..header }).await?;
    let count = items.len() as u64;
    for (at, item) in (0..).zip(items) {
        import.item(at, item).await?;
    }
    import.end(count, 0).await
}

/// What became of what is owed for a connection.
async fn owed(harbour: &Harbour, id: &ConnectionId) -> Vec<String> {
    let owed = revoke::list(&harbour.outside.base.db, &harbour.site, id).await.unwrap();
    owed.into_iter().map(|owed| owed.status).collect()
}

/// The connections that the audit says ended.
async fn ended(harbour: &Harbour) -> Vec<Option<String>> {
    let events = audit::list(&harbour.outside.base.db, &harbour.site, None, 1_000).await.unwrap();
    events.into_iter().filter(|event| event.action == "connection.revoke").map(|event| event.connection).collect()
}

async fn one(harbour: &Harbour, header: Header, item: Item) -> valetkey::Result<valetkey::import::apply::Report> {
    let providers = vec!["acme".parse().unwrap()];
    let mut import = Import::begin(&harbour.outside, &harbour.site, &Actor::Operator, Header { providers, ..header }).await?;
    import.item(0, item).await?;
    import.end(1, 0).await
}

async fn token(harbour: &Harbour) -> String {
    let account = harbour.account("acme", "user:1".parse().unwrap(), "").await.unwrap();
    account.text("access_token").unwrap().expose().to_owned()
}

async fn connections(harbour: &Harbour) -> Vec<connection::Connection> {
    connection::list(&harbour.outside.base.db, &harbour.site, &connection::Filter::default()).await.unwrap()
}

/// As if what is here had been made here.
async fn forget(db: &valetkey::db::Db) {
    valetkey::db::testing::execute(db, "DELETE FROM imports").await;
}

/// What is in every table that an import could touch.
async fn rows(db: &valetkey::db::Db) -> Vec<(String, String)> {
    on!(db, |c| {
        sqlx::query_as(
        "SELECT 'connections', id || '/' || owner || '/' || CAST(version AS TEXT) || '/' || CAST(revision AS TEXT) FROM connections
         UNION ALL SELECT 'app_configs', id || COALESCE(CAST(replaced_at AS TEXT), '') FROM app_configs
         UNION ALL SELECT 'agents', id || slug FROM agents UNION ALL SELECT 'agent_tokens', id FROM agent_tokens
         UNION ALL SELECT 'agent_access', agent || user_id || role FROM agent_access UNION ALL SELECT 'grants', id FROM grants
         UNION ALL SELECT 'people', id FROM people UNION ALL SELECT 'imports', item || digest FROM imports
         UNION ALL SELECT 'data_keys', id FROM data_keys ORDER BY 1, 2"
    )
    .fetch_all(c)
    .await
    .unwrap()
    })
}

/// A key that was made for an import and seals nothing is no harm.
fn without_keys(mut rows: Vec<(String, String)>) -> Vec<(String, String)> {
    rows.retain(|(table, _)| table != "data_keys");
    rows
}
