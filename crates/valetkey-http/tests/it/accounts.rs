//! Accounts by named scope.

use std::{collections::BTreeSet, sync::Arc};

use http::{Method, header};
use serde_json::{Value, json};
use valetkey::{
    connection::{
        self, Filter,
        accounts::{self, Precondition, Slot},
    },
    id::SiteId,
    platform::{Asserts, Scope},
    principal::{Actor, Owner},
    secret::SecretMap,
};

use crate::support::{Answer, App, As, basic, on_each_db, text};

const ALICE: &str = "/v1/providers/reddit/accounts/users/alice";

fn tokens(access: &str, refresh: &str) -> Value {
    json!({ "account": { "access_token": access, "refresh_token": refresh, "expires_in": 3600, "note": "kept" } })
}

fn etag(answer: &Answer) -> String {
    answer.headers[header::ETAG].to_str().unwrap().to_owned()
}

fn alice() -> Asserts {
    Asserts::People(["alice".parse().unwrap()].into())
}

on_each_db! {
    async fn a_stale_copy_cannot_overwrite_a_renewed_token(app: App) {
        let key = app.key(&[Scope::AccountsWrite, Scope::AccountsRead], alice()).await;
        let first = app.put(&key, ALICE, tokens("a1", "r1")).await.expect(201);
        let put = async |headers: &[(&str, &str)], body: Value| app.call(&key, Method::PUT, ALICE, Some(body), headers).await;

        put(&[], tokens("a2", "r2")).await.refused(428, "precondition_required");
        put(&[("if-match", "\"con_0.1.1\"")], tokens("a2", "r2")).await.refused(412, "precondition_failed");
        put(&[("if-match", &format!("W/{}", etag(&first)))], tokens("a2", "r2")).await.refused(412, "precondition_failed");
        let second = put(&[("if-match", &etag(&first))], tokens("a2", "r2")).await.expect(200);
        assert_ne!(etag(&first), etag(&second));
        assert_eq!(first.json()["connection"], second.json()["connection"]);
        put(&[("if-match", &etag(&first))], tokens("a3", "r3")).await.refused(412, "precondition_failed");
        put(&[("if-match", &format!("\"x\", {}", etag(&second)))], tokens("a3", "r3")).await.expect(200);
        app.put(&key, &format!("{ALICE}?replace=true"), tokens("a4", "r4")).await.expect(200);
        put(&[("if-none-match", "*")], tokens("a5", "r5")).await.refused(412, "precondition_failed");
    }

    async fn a_copy_from_before_a_patch_cannot_undo_it(app: App) {
        let key = app.key(&[Scope::AccountsWrite, Scope::AccountsReveal], alice()).await;
        let first = app.put(&key, ALICE, tokens("a", "r")).await.expect(201);
        let patched = app.patch(&key, ALICE, json!({ "account": { "karma": 7 } })).await.expect(200);
        let put = async |tag: &str| app.call(&key, Method::PUT, ALICE, Some(tokens("a", "r")), &[("if-match", tag)]).await;
        put(&etag(&first)).await.refused(412, "precondition_failed");
        let revealed = app.get(&key, &format!("{ALICE}?reveal=true")).await.expect(200);
        assert_eq!((&revealed.json()["account"]["karma"], etag(&revealed)), (&json!(7), etag(&patched)));
        put(&etag(&patched)).await.expect(200);
    }

    async fn a_stale_copy_cannot_end_a_newer_account(app: App) {
        let key = app.key(&[Scope::AccountsWrite, Scope::AccountsRead], alice()).await;
        let first = app.put(&key, ALICE, tokens("a1", "r1")).await.expect(201);
        let second = app.put(&key, &format!("{ALICE}?replace=true"), tokens("a2", "r2")).await.expect(200);
        let delete = async |path: &str, tag: &str| {
            app.call(&key, Method::DELETE, &format!("{path}?upstream=skip"), None, &[("if-match", tag)]).await
        };
        let connection = format!("/v1/connections/{}", text(&first.json(), "/connection"));
        for path in [ALICE, connection.as_str()] {
            delete(path, &etag(&first)).await.refused(412, "precondition_failed");
            delete(path, "1").await.refused(400, "invalid_request");
        }
        assert_eq!(etag(&app.get(&key, ALICE).await.expect(200)), etag(&second));
        assert_eq!(delete(&connection, &etag(&second)).await.expect(200).json()["ended"], true);
    }

    async fn an_account_of_every_scope_is_deleted_as_it_was_read(app: App) {
        let agent = app.agent("a", "alice").await;
        for place in ["site".to_owned(), "users/alice".to_owned(), format!("agents/{agent}")] {
            app.account(&place, "").await;
            let path = format!("/v1/providers/http_basic/accounts/{place}");
            let read = etag(&app.get(&As::Operator, &path).await.expect(200));
            let delete = async |tag: &str| app.call(&As::Operator, Method::DELETE, &path, None, &[("if-match", tag)]).await;
            delete("\"con_0.1.1\"").await.refused(412, "precondition_failed");
            assert_eq!(delete(&read).await.expect(200).json()["ended"], true);
            // Nothing is there that could be what was read.
            delete("*").await.refused(412, "precondition_failed");
            assert_eq!(app.delete(&As::Operator, &path).await.expect(200).json()["ended"], false);
        }
    }

    async fn a_mailbox_whose_server_may_not_be_reached_is_not_stored(app: App) {
        let key = app.key(&[Scope::AccountsWrite, Scope::AccountsRead], alice()).await;
        let path = "/v1/providers/email_imap/accounts/users/alice";
        let mailbox = |host: &str, encryption: &str| {
            json!({ "account": { "imap_host": host, "imap_encryption": encryption, "imap_user": "u", "imap_password": "p" } })
        };
        app.put(&key, path, mailbox("127.0.0.1", "ssl")).await.refused(403, "address_refused");
        app.put(&key, path, mailbox("imap.example.com", "none")).await.refused(400, "invalid_request");
        app.get(&key, path).await.refused(404, "no_per_user_credentials");
    }

    async fn an_if_match_where_nothing_is_fails(app: App) {
        let key = app.key(&[Scope::AccountsWrite], alice()).await;
        app.call(&key, Method::PUT, ALICE, Some(tokens("a", "r")), &[("if-match", "*")]).await.refused(412, "precondition_failed");
        app.call(&key, Method::PUT, ALICE, Some(tokens("a", "r")), &[("if-none-match", "*")]).await.expect(201);
    }

    async fn the_same_tokens_again_leave_version_and_identity_alone(app: App) {
        let key = app.key(&[Scope::AccountsWrite, Scope::AccountsRead], alice()).await;
        let first = app.put(&key, ALICE, tokens("a", "r")).await.expect(201);
        let id = text(&first.json(), "/connection");
        app.post(&key, &format!("/v1/connections/{id}/confirm"), json!({})).await.expect(200);
        let mut same = tokens("a", "r");
        same["account"]["note"] = "changed".into();
        let again = app.call(&key, Method::PUT, ALICE, Some(same), &[("if-match", &etag(&first))]).await.expect(200);
        assert_eq!(first.json()["version"], again.json()["version"]);
        assert_eq!(again.json()["identity"], "owner");
    }

    async fn a_patch_merges_and_cannot_touch_tokens(app: App) {
        let key = app.key(&[Scope::AccountsWrite, Scope::AccountsReveal], alice()).await;
        let first = app.put(&key, ALICE, tokens("a", "r")).await.expect(201);
        let patched = app.patch(&key, ALICE, json!({ "account": { "karma": 7, "note": null } })).await.expect(200);
        assert_eq!(first.json()["version"], patched.json()["version"], "the tokens are the same, so is their version");
        let account = app.get(&key, &format!("{ALICE}?reveal=true")).await.expect(200).json()["account"].clone();
        assert_eq!(account, json!({ "access_token": "a", "refresh_token": "r", "expires_in": 3600, "karma": 7 }));
        for member in ["access_token", "refresh_token", "expires_at", "scope"] {
            app.patch(&key, ALICE, json!({ "account": { member: "x" } })).await.refused(400, "invalid_request");
        }
        app.call(&key, Method::PATCH, ALICE, Some(json!({ "account": { "a": 1 } })), &[("if-match", "\"x\"")])
            .await
            .refused(412, "precondition_failed");
        let bob = "/v1/providers/reddit/accounts/users/bob";
        let any = app.key(&[Scope::AccountsWrite], Asserts::Any).await;
        app.patch(&any, bob, json!({ "account": { "a": 1 } })).await.refused(404, "no_per_user_credentials");
    }

    async fn what_was_stored_comes_back_unchanged_and_only_where_it_may(app: App) {
        let stored = json!({ "access_token": "canary", "odd": { "n": [1, 2.5, null, true] }, "empty": "", "umlaut": "ü" });
        let write = app.key(&[Scope::AccountsWrite], alice()).await;
        let put = app.put(&write, ALICE, json!({ "account": stored })).await.expect(201);
        let read = app.key(&[Scope::AccountsRead], alice()).await;
        let status = app.get(&read, ALICE).await.expect(200);
        for answer in [&put, &status] {
            assert!(!String::from_utf8_lossy(&answer.bytes).contains("canary"));
            assert!(answer.json().get("account").is_none());
        }
        app.get(&read, &format!("{ALICE}?reveal=true")).await.refused(403, "missing_scope");
        app.get(&write, ALICE).await.refused(403, "missing_scope");
        let reveal = app.key(&[Scope::AccountsReveal], alice()).await;
        app.get(&reveal, ALICE).await.refused(403, "missing_scope");
        let revealed = app.get(&reveal, &format!("{ALICE}?reveal=true")).await.expect(200);
        assert_eq!(revealed.json()["account"], stored);
        assert_eq!(revealed.headers[header::CACHE_CONTROL], "no-store");
        let admin = app.key(&[Scope::Admin, Scope::Agents, Scope::Grants, Scope::Connect], Asserts::Any).await;
        app.get(&admin, &format!("{ALICE}?reveal=true")).await.refused(403, "missing_scope");
    }

    async fn a_key_reaches_the_accounts_of_those_it_may_speak_for(app: App) {
        let bob = "/v1/providers/reddit/accounts/users/bob";
        let only_alice = app.key(&[Scope::AccountsWrite, Scope::AccountsRead], alice()).await;
        app.put(&only_alice, bob, tokens("a", "r")).await.refused(403, "forbidden");
        app.get(&only_alice, bob).await.refused(403, "forbidden");
        app.delete(&only_alice, bob).await.refused(403, "forbidden");
        let admin = app.key_text(&[Scope::AccountsWrite, Scope::AccountsRead, Scope::Admin], Asserts::None).await;
        app.put(&As::Bearer(admin.clone()), bob, tokens("a", "r")).await.expect(201);
        // A call for one person is that person's call, whatever else the key may do.
        let any = app.key_text(&[Scope::AccountsWrite, Scope::AccountsRead, Scope::Admin], Asserts::Any).await;
        app.get(&As::Bearer(any.clone()), bob).await.expect(200);
        app.get(&As::For(any, "alice"), bob).await.refused(403, "forbidden");
        app.get(&As::For(admin, "alice"), bob).await.refused(403, "forbidden");
    }

    async fn no_scope_falls_back_to_another(app: App) {
        app.put(&As::Operator, "/v1/providers/reddit/accounts/site", tokens("a", "r")).await.expect(201);
        app.agent("a", "alice").await;
        let agent = text(&app.get(&As::Operator, "/v1/agents/a").await.expect(200).json(), "/id");
        app.get(&As::Operator, ALICE).await.refused(404, "no_per_user_credentials");
        app.get(&As::Operator, &format!("/v1/providers/reddit/accounts/agents/{agent}")).await.refused(404, "no_credentials");
        app.get(&As::Operator, "/v1/providers/reddit/accounts/site?name=other").await.refused(404, "no_credentials");
        app.get(&As::Operator, "/v1/providers/reddit/accounts/agents/nobody").await.refused(404, "not_found");
        app.get(&As::Operator, "/v1/providers/nowhere/accounts/site").await.refused(404, "not_found");
    }

    async fn ids_that_are_none_are_refused_and_never_the_site(app: App) {
        for id in ["0", "-1", "007", "a%20b", "%00"] {
            let path = format!("/v1/providers/reddit/accounts/users/{id}");
            app.put(&As::Operator, &path, tokens("a", "r")).await.refused(400, "invalid_request");
        }
        app.get(&As::Operator, "/v1/providers/reddit/accounts/site").await.refused(404, "no_credentials");
    }

    async fn deleting_is_idempotent_and_erases(app: App) {
        let id = app.account("users/alice", "").await;
        let path = "/v1/providers/http_basic/accounts/users/alice";
        assert_eq!(app.delete(&As::Operator, path).await.expect(200).json()["ended"], true);
        assert_eq!(app.delete(&As::Operator, path).await.expect(200).json()["ended"], false);
        app.get(&As::Operator, path).await.refused(404, "no_per_user_credentials");
        let gone = app.get(&As::Operator, &format!("/v1/connections/{id}")).await.expect(200).json();
        assert_eq!(gone["status"], "revoked");
        let again = app.account("users/alice", "").await;
        assert_ne!(id, again, "a revoked id stays over");
    }

    async fn tokens_from_outside_wait_until_the_owner_vouches_for_them(app: App) {
        let key = app.key(&[Scope::AccountsWrite, Scope::AccountsRead], alice()).await;
        let put = app.put(&key, ALICE, tokens("a", "r")).await.expect(201).json();
        assert_eq!((&put["identity"], &put["renewal"]), (&json!("unverified"), &json!("refresh_token")));
        let connection = text(&put, "/connection");
        let agent = app.agent("a", "alice").await;
        let grant = json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] });
        app.grant(grant).await;
        let (_, token) = app.token(&agent, json!({})).await;
        let reveal = format!("/v1/connections/{connection}/token");
        app.post(&token, &reveal, json!({})).await.refused(403, "identity_unverified");
        // `admin` reaches the connection, and is not its owner's word.
        let admin = app.key(&[Scope::AccountsWrite, Scope::Admin], Asserts::None).await;
        app.post(&admin, &format!("/v1/connections/{connection}/confirm"), json!({})).await.refused(403, "forbidden");
        app.call(&key, Method::POST, &format!("/v1/connections/{connection}/confirm"), None, &[("if-match", "\"x\"")])
            .await
            .refused(412, "precondition_failed");
        let confirmed = app.post(&key, &format!("/v1/connections/{connection}/confirm"), json!({})).await.expect(200).json();
        assert_eq!(confirmed["identity"], "owner");
        assert_eq!(app.post(&token, &reveal, json!({})).await.expect(200).json()["access_token"], "a");
        // Other tokens, and it has to be said anew.
        app.put(&key, &format!("{ALICE}?replace=true"), tokens("b", "s")).await.expect(200);
        app.post(&token, &reveal, json!({})).await.refused(403, "identity_unverified");
    }

    async fn an_agents_own_account_comes_with_its_grants(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account(&format!("agents/{agent}"), "").await;
        let grants = app.get(&As::Operator, &format!("/v1/grants?connection={connection}")).await.expect(200).json();
        let whom: BTreeSet<_> = grants["grants"].as_array().unwrap().iter().map(|g| g["for_whom"].to_string()).collect();
        assert_eq!(whom, BTreeSet::from(["\"operators\"".to_owned(), "\"unattended\"".to_owned()]));
        let (_, token) = app.token(&agent, json!({})).await;
        let me = app.get(&token, "/v1/me").await.expect(200).json();
        assert_eq!((&me["connections"][0]["id"], &me["connections"][0]["delivery"]), (&json!(connection), &json!(["proxy"])));
        // A second write is the same connection, with the same grants.
        app.put(&As::Operator, &format!("/v1/providers/http_basic/accounts/agents/{agent}"), basic("other")).await.expect(200);
        let grants = app.get(&As::Operator, &format!("/v1/grants?connection={connection}")).await.expect(200).json();
        assert_eq!(grants["grants"].as_array().unwrap().len(), 2);
    }

    async fn a_static_providers_fields_are_checked_and_name_no_value(app: App) {
        let path = "/v1/providers/http_basic/accounts/site";
        let put = async |change: Value| {
            let mut body = basic("canary");
            body["account"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            app.put(&As::Operator, path, body).await
        };
        for change in [
            json!({ "base_url": "http://intranet.example.com" }),
            json!({ "base_url": "https://10.0.0.1" }),
            json!({ "base_url": "https://169.254.169.254" }),
            json!({ "base_url": "https://u:canary@intranet.example.com" }),
            json!({ "base_url": "https://localhost" }),
            json!({ "username": "" }),
            json!({ "password": ["canary"] }),
        ] {
            let refused = put(change.clone()).await;
            assert!(refused.status.is_client_error(), "{change}");
            assert!(!String::from_utf8_lossy(&refused.bytes).contains("canary"));
        }
        let stored = put(json!({ "base_url": "intranet.example.com" })).await.expect(201).json();
        assert_eq!(stored["hosts"], json!(["intranet.example.com"]));
        assert_eq!(stored["identity"], "owner");
    }

    async fn another_server_needs_a_word_and_gets_a_new_id_without_the_grants(app: App) {
        let path = "/v1/providers/http_basic/accounts/users/alice";
        let old = app.account("users/alice", "").await;
        let agent = app.agent("a", "alice").await;
        app.grant(json!({ "agent": agent, "connection": old, "for_whom": "unattended" })).await;
        let mut moved = basic("secret");
        moved["account"]["base_url"] = "https://evil.example.com".into();
        app.put(&As::Operator, path, moved.clone()).await.refused(409, "subject_mismatch");
        app.patch(&As::Operator, path, json!({ "account": { "base_url": "https://evil.example.com" } }))
            .await
            .refused(400, "invalid_request");
        let new = text(&app.put(&As::Operator, &format!("{path}?replace=true"), moved).await.expect(200).json(), "/connection");
        assert_ne!(old, new);
        let (_, token) = app.token(&agent, json!({})).await;
        assert_eq!(app.get(&token, "/v1/me").await.expect(200).json()["connections"], json!([]));
    }

    async fn an_account_of_another_kind_cannot_be_moved_by_a_member_that_decides_its_host(app: App) {
        let path = "/v1/providers/bluesky/accounts/users/alice";
        let account = json!({ "username": "a.bsky.social", "access_token": "a", "refresh_token": "r", "pds": "https://pds.example.com" });
        app.put(&As::Operator, path, json!({ "account": account })).await.expect(201);
        app.patch(&As::Operator, path, json!({ "account": { "pds": "https://evil.example.com" } }))
            .await
            .refused(400, "invalid_request");
        app.patch(&As::Operator, path, json!({ "account": { "service": "https://evil.example.com" } }))
            .await
            .refused(400, "invalid_request");
        let mut inside = account.clone();
        inside["pds"] = "https://10.0.0.1".into();
        let inside = json!({ "account": inside });
        app.put(&As::Operator, &format!("{path}?replace=true"), inside).await.refused(403, "address_refused");
    }

    async fn agent_tokens_are_never_accepted(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "for_whom": "unattended", "delivery": ["reveal"] })).await;
        let (_, token) = app.token(&agent, json!({})).await;
        let path = "/v1/providers/http_basic/accounts/users/alice?reveal=true";
        app.get(&token, path).await.refused(403, "forbidden");
    }

    async fn who_read_the_secrets_stands_in_the_audit(app: App) {
        app.account("site", "").await;
        app.get(&As::Operator, "/v1/providers/http_basic/accounts/site?reveal=true").await.expect(200);
        // Uses are written in batches.
        let mut noted = false;
        for _ in 0..100 {
            let events = app.get(&As::Operator, "/v1/audit?limit=5").await.expect(200).json();
            let all = events["events"].as_array().unwrap();
            assert!(!events.to_string().contains("secret\""), "{events}");
            noted = all.iter().any(|event| event["action"] == "account.reveal" && event["actor"] == "operator");
            if noted {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(noted, "no event says so");
    }

    /// Promise 9: a write is one row, and none is lost.
    async fn two_thousand_saves_at_once_lose_none(app: App) {
        let (broker, tries) = (app.broker.clone(), Arc::new(tokio::sync::Semaphore::new(64)));
        let mut saves = tokio::task::JoinSet::new();
        for i in 1..=2_000 {
            let (broker, tries) = (broker.clone(), Arc::clone(&tries));
            saves.spawn(async move {
                let _place = tries.acquire().await.unwrap();
                save(&broker, &format!("u{i}"), i).await
            });
        }
        while let Some(saved) = saves.join_next().await {
            saved.unwrap();
        }
        let (db, site) = (&broker.base().db, SiteId::default_site());
        let all = connection::list(db, &site, &Filter::default()).await.unwrap();
        assert_eq!(all.len(), 2_000);
        for i in [1, 77, 1_999, 2_000] {
            let slot = slot(&format!("u{i}"));
            let (_, account) = accounts::reveal(broker.base(), &Actor::Operator, &slot).await.unwrap().unwrap();
            assert_eq!(account.expose()["n"], i);
        }
    }

    async fn saves_of_one_account_at_once_never_mix_two_versions(app: App) {
        let mut saves = tokio::task::JoinSet::new();
        for i in 1..=40 {
            let broker = app.broker.clone();
            saves.spawn(async move { save(&broker, "alice", i).await });
        }
        while let Some(saved) = saves.join_next().await {
            saved.unwrap();
        }
        let (_, account) = accounts::reveal(app.broker.base(), &Actor::Operator, &slot("alice")).await.unwrap().unwrap();
        assert_eq!(account.expose()["n"], account.expose()["m"]);
        let grants = connection::list(&app.broker.base().db, &SiteId::default_site(), &Filter::default()).await.unwrap();
        assert_eq!(grants.len(), 1);
    }

    async fn patches_of_one_account_at_once_lose_none(app: App) {
        save(&app.broker, "alice", 0).await;
        let mut patches = tokio::task::JoinSet::new();
        for i in 0..20 {
            let broker = app.broker.clone();
            patches.spawn(async move {
                let change = map(json!({ format!("k{i}"): i }));
                accounts::patch(broker.outside(), &Actor::Operator, &slot("alice"), &change, &Precondition::default()).await.unwrap();
            });
        }
        while let Some(patched) = patches.join_next().await {
            patched.unwrap();
        }
        let (connection, account) = accounts::reveal(app.broker.base(), &Actor::Operator, &slot("alice")).await.unwrap().unwrap();
        assert!((0..20).all(|i| account.expose()[&format!("k{i}")] == i));
        assert_eq!(connection.version, 1);
    }
}

fn slot(user: &str) -> Slot {
    Slot {
        site: SiteId::default_site(),
        provider: "geonames".parse().unwrap(),
        owner: Owner::User(user.parse().unwrap()),
        name: Default::default(),
    }
}

fn map(json: Value) -> SecretMap {
    SecretMap::new(json.as_object().unwrap().clone())
}

/// Saves an account whose members `n` and `m` are the same.
async fn save(broker: &valetkey::Broker, user: &str, n: i64) {
    let account = map(json!({ "username": format!("geo{n}"), "n": n, "m": n }));
    let precondition = Precondition { replace: true, ..Precondition::default() };
    accounts::put(broker.outside(), &Actor::Operator, &slot(user), account, &precondition).await.unwrap();
}

const CONTEXT: &str = "/v1/providers/reddit/accounts/context";
const POLICIES: &str = "/v1/providers/reddit/scope-policies";

on_each_db! {
    async fn the_account_of_a_context_says_where_it_came_from(app: App) {
        let agent = app.agent("a", "alice").await;
        let put = async |owner: &str, token: &str| {
            let path = format!("/v1/providers/reddit/accounts/{owner}");
            app.put(&As::Operator, &path, json!({ "account": { "access_token": token } })).await.expect(201);
        };
        let ask = async |query: &str| app.get(&As::Operator, &format!("{CONTEXT}{query}")).await.expect(200).json();
        let nothing = ask("?user=alice").await;
        assert_eq!(nothing["found"], Value::Null);
        assert_eq!((&nothing["resolved_from"], &nothing["fell_back"]), (&Value::Null, &json!(false)));
        put("site", "s").await;
        assert_eq!(ask("?user=alice").await["resolved_from"], "site");

        let set = app.patch(&As::Operator, POLICIES, json!({ "account": { "policy": "principal" } })).await.expect(200).json();
        assert_eq!(set["account"], json!({ "policy": "principal", "fallback": false }));
        assert_eq!(set["config"], json!({ "policy": "site", "fallback": false }));
        let missing = ask("?user=alice").await;
        assert_eq!((&missing["wanted"], &missing["found"]), (&json!("user:alice"), &Value::Null));
        app.patch(&As::Operator, POLICIES, json!({ "account": { "fallback": true } })).await.expect(200);
        let fallen = ask("?user=alice&reveal=true").await;
        assert_eq!((&fallen["resolved_from"], &fallen["fell_back"]), (&json!("site"), &json!(true)));
        assert_eq!(fallen["found"]["account"]["access_token"], "s");

        put("users/alice", "u").await;
        put(&format!("agents/{agent}"), "a").await;
        let both = ask(&format!("?user=alice&agent={agent}")).await;
        assert_eq!(both["resolved_from"], json!(format!("agent:{agent}")));
        assert!(both["found"].get("account").is_none(), "{both}");
        let own = ask("?user=alice").await;
        assert_eq!((&own["resolved_from"], &own["fell_back"]), (&json!("user:alice"), &json!(false)));
        assert_eq!(own["found"]["owner"], "user:alice");
    }

    async fn the_person_a_call_speaks_for_is_who_acts_in_it(app: App) {
        app.patch(&As::Operator, POLICIES, json!({ "account": { "policy": "user" } })).await.expect(200);
        app.put(&As::Operator, ALICE, tokens("a", "r")).await.expect(201);
        let key = app.key_text(&[Scope::AccountsRead], alice()).await;
        let mine = app.get(&As::For(key.clone(), "alice"), CONTEXT).await.expect(200).json();
        assert_eq!(mine["resolved_from"], "user:alice");
        // Without a person nobody is calling: the policy has nobody to choose.
        let nobody = app.get(&As::Bearer(key.clone()), CONTEXT).await.expect(200).json();
        assert_eq!((&nobody["wanted"], &nobody["found"]), (&json!("site"), &Value::Null));
        app.get(&As::Bearer(key), &format!("{CONTEXT}?user=bob")).await.refused(403, "forbidden");
    }

    async fn what_is_in_the_account_of_a_context_needs_the_scope_for_it(app: App) {
        app.put(&As::Operator, "/v1/providers/reddit/accounts/site", tokens("a", "r")).await.expect(201);
        let read = app.key(&[Scope::AccountsRead], Asserts::Any).await;
        app.get(&read, CONTEXT).await.expect(200);
        app.get(&read, &format!("{CONTEXT}?reveal=true")).await.refused(403, "missing_scope");
        let reveal = app.key(&[Scope::AccountsReveal], Asserts::Any).await;
        app.get(&reveal, CONTEXT).await.refused(403, "missing_scope");
        app.get(&reveal, &format!("{CONTEXT}?reveal=true")).await.expect(200);
        app.get(&read, POLICIES).await.refused(403, "missing_scope");
        app.patch(&read, POLICIES, json!({})).await.refused(403, "missing_scope");
    }

    async fn a_context_that_names_nobody_there_is_refused(app: App) {
        for query in ["?user=0", "?user=-1", "?agent=0", "?user=a%20b", "?owner=site"] {
            app.get(&As::Operator, &format!("{CONTEXT}{query}")).await.refused(400, "invalid_request");
        }
        app.get(&As::Operator, &format!("{CONTEXT}?agent=nobody")).await.refused(404, "not_found");
        app.get(&As::Operator, "/v1/providers/nowhere/accounts/context").await.refused(404, "not_found");
        app.patch(&As::Operator, POLICIES, json!({ "account": { "policy": "everybody" } })).await.refused(400, "invalid_request");
        app.patch(&As::Operator, "/v1/providers/nowhere/scope-policies", json!({})).await.refused(404, "not_found");
    }

    /// A-083, A-098: 0 and negative numbers are no ids, whatever is asked of them.
    async fn an_id_that_is_none_is_refused_by_every_method(app: App) {
        for owner in ["users/0", "users/-5", "agents/0", "agents/-5"] {
            let path = format!("/v1/providers/reddit/accounts/{owner}");
            app.get(&As::Operator, &path).await.refused(400, "invalid_request");
            app.put(&As::Operator, &path, tokens("a", "r")).await.refused(400, "invalid_request");
            app.patch(&As::Operator, &path, json!({ "account": { "a": 1 } })).await.refused(400, "invalid_request");
            app.delete(&As::Operator, &path).await.refused(400, "invalid_request");
        }
    }
}
