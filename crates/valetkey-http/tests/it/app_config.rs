//! Apps at providers by named scope, where their flows return to, and how the site's account stands beside them.

use http::Method;
use serde_json::{Value, json};
use valetkey::{
    app_config::MASK,
    platform::{Asserts, Scope},
};
use valetkey_http::ROUTES;

use crate::support::{App, As, on_each_db, text};

const SITE: &str = "/v1/providers/reddit/config/site";
const ALICE: &str = "/v1/providers/reddit/config/users/alice";
const ACCOUNT: &str = "/v1/providers/reddit/accounts/site";
const CALLBACK: &str = "/v1/providers/reddit/callback";
const OP: As = As::Operator;

fn values(id: &str, secret: &str) -> Value {
    json!({ "values": { "client_id": id, "client_secret": secret, "developer_username": "dev" } })
}

fn account(token: &str) -> Value {
    json!({ "account": { "access_token": token, "user_id": 42, "username": "alice", "scope": "identity" } })
}

on_each_db! {
    async fn a_secret_of_an_app_is_never_shown_and_kept_when_it_is_not_given(app: App) {
        app.get(&OP, SITE).await.refused(404, "not_found");
        app.reddit().await;
        let admin = app.key(&[Scope::Admin], Asserts::None).await;
        let shown = app.get(&admin, SITE).await.expect(200).json();
        assert_eq!(shown["values"], json!({ "client_id": "id", "client_secret": MASK, "developer_username": "dev" }));
        let changed = app.patch(&admin, SITE, json!({ "values": { "developer_username": "other" } })).await.expect(200).json();
        assert_eq!((&changed["configured"], &changed["id"]), (&json!(true), &shown["id"]));
        // The whole answer can be sent back.
        let back = app.put(&admin, SITE, json!({ "values": changed["values"] })).await.expect(200).json();
        assert_eq!(back["values"], changed["values"]);
        app.delete(&admin, SITE).await.expect(204);
        app.delete(&admin, SITE).await.expect(204);
        app.get(&admin, SITE).await.refused(404, "not_found");
    }

    async fn a_save_replaces_an_update_merges_and_a_refusal_repeats_no_value(app: App) {
        app.put(&OP, SITE, json!({ "values": { "client_id": "canary-id" } })).await.refused(400, "invalid_request");
        app.get(&OP, SITE).await.refused(404, "not_found");
        app.patch(&OP, SITE, values("id", "canary-1")).await.expect(200);
        for body in [
            json!({ "values": { "client_id": "id", "client_secret": "canary-2", "colour": "red" } }),
            json!({ "values": { "client_id": "id", "client_secret": ["canary-2"], "developer_username": "d" } }),
            json!({ "values": { "client_id": "id", "client_secret": "canary-2\u{1}", "developer_username": "d" } }),
            json!({ "values": { "client_secret": null } }),
            json!({ "values": { "client_secret": "canary-2" }, "more": 1 }),
        ] {
            for method in [Method::PUT, Method::PATCH] {
                let refused = app.call(&OP, method, SITE, Some(body.clone()), &[]).await.refused(400, "invalid_request");
                assert!(!String::from_utf8_lossy(&refused.bytes).contains("canary"), "{}", String::from_utf8_lossy(&refused.bytes));
            }
        }
        let refused = app.patch(&OP, SITE, json!({ "values": { "colour": "red" } })).await.refused(400, "invalid_request").json();
        assert_eq!(refused["allowed"], json!(["client_id", "client_secret", "developer_username"]));
        assert!(text(&refused, "/detail").contains("client_id, client_secret, developer_username"));
        let shown = app.get(&OP, SITE).await.expect(200);
        assert!(!String::from_utf8_lossy(&shown.bytes).contains("canary"));
    }

    /// A-189, A-190: an unknown provider, and none at all, are told apart from an app that is not there.
    async fn the_scope_in_the_path_is_the_scope_that_is_meant(app: App) {
        app.reddit().await;
        assert_eq!(app.get(&OP, "/v1/providers/reddit/config").await.expect(200).json()["owner"], "site");
        app.get(&OP, ALICE).await.refused(404, "not_found");
        app.put(&OP, ALICE, values("hers", "s")).await.expect(200);
        let agent = app.agent("a", "alice").await;
        let agents = format!("/v1/providers/reddit/config/agents/{agent}");
        assert_eq!(app.put(&OP, &agents, values("its", "s")).await.expect(200).json()["owner"], format!("agent:{agent}"));
        for (path, id) in [(SITE, "id"), (ALICE, "hers"), (agents.as_str(), "its")] {
            assert_eq!(app.get(&OP, path).await.expect(200).json()["values"]["client_id"], id, "{path}");
        }
        app.delete(&OP, ALICE).await.expect(204);
        app.get(&OP, ALICE).await.refused(404, "not_found");
        assert_eq!(app.get(&OP, SITE).await.expect(200).json()["values"]["client_id"], "id");

        app.put(&OP, "/v1/providers/reddit/config/agents/nobody", values("x", "s")).await.refused(404, "not_found");
        for id in ["0", "-5", "007", "a%20b"] {
            app.put(&OP, &format!("/v1/providers/reddit/config/users/{id}"), values("x", "s")).await.refused(400, "invalid_request");
        }
        app.put(&OP, &format!("{SITE}?owner=user:alice"), values("x", "s")).await.refused(400, "invalid_request");
        for (provider, code) in [("nowhere", "not_found"), ("Not%20One", "invalid_request")] {
            let status = if code == "not_found" { 404 } else { 400 };
            app.put(&OP, &format!("/v1/providers/{provider}/config/site"), values("x", "s")).await.refused(status, code);
            app.delete(&OP, &format!("/v1/providers/{provider}/accounts/site")).await.refused(status, code);
            app.get(&OP, &format!("/v1/providers/{provider}")).await.refused(status, code);
        }
        assert_eq!(app.get(&OP, SITE).await.expect(200).json()["values"]["client_id"], "id");
    }

    async fn a_context_gets_the_app_of_whom_the_policy_chooses_and_is_told(app: App) {
        let context = "/v1/providers/reddit/config/context";
        app.reddit().await;
        app.put(&OP, ALICE, values("hers", "canary-secret")).await.expect(200);
        let agent = app.agent("a", "alice").await;
        let look = async |query: &str| {
            let answer = app.get(&OP, &format!("{context}{query}")).await.expect(200);
            assert!(!String::from_utf8_lossy(&answer.bytes).contains("canary"));
            let answer = answer.json();
            (answer["found"]["values"]["client_id"].clone(), answer["resolved_from"].clone(), answer["fell_back"].clone())
        };
        let of_site = |fell_back| (json!("id"), json!("site"), json!(fell_back));
        assert_eq!(look("?user=alice").await, of_site(false));
        let policies = "/v1/providers/reddit/scope-policies";
        app.patch(&OP, policies, json!({ "config": { "policy": "user" } })).await.expect(200);
        assert_eq!(look("?user=alice").await, (json!("hers"), json!("user:alice"), json!(false)));
        assert_eq!(look("?user=bob").await, (Value::Null, Value::Null, json!(false)));
        assert_eq!(look(&format!("?agent={agent}")).await, of_site(false));
        app.patch(&OP, policies, json!({ "config": { "fallback": true } })).await.expect(200);
        assert_eq!(look("?user=bob").await, of_site(true));

        // The person of a call is acting.
        let admin = app.key_text(&[Scope::Admin], Asserts::Any).await;
        let hers = app.get(&As::For(admin.clone(), "alice"), context).await.expect(200).json();
        assert_eq!(hers["wanted"], "user:alice");
        app.get(&As::For(admin, "bob"), &format!("{context}?user=alice")).await.refused(403, "forbidden");
        app.get(&OP, &format!("{context}?agent=nobody")).await.refused(404, "not_found");
        app.get(&OP, &format!("{context}?reveal=true")).await.refused(400, "invalid_request");
        app.get(&OP, "/v1/providers/nowhere/config/context").await.refused(404, "not_found");
        let reads = app.key(&[Scope::AccountsRead, Scope::AccountsReveal], Asserts::Any).await;
        app.get(&reads, context).await.refused(403, "missing_scope");
    }

    /// A-198: whoever may not administer reaches no app; and a call for one person reaches no other's.
    async fn an_app_is_reached_by_whom_the_page_names(app: App) {
        app.put(&OP, ALICE, values("hers", "s")).await.expect(200);
        app.get(&As::Stranger, ALICE).await.refused(401, "unauthenticated");
        app.put(&As::Stranger, SITE, values("x", "s")).await.refused(401, "unauthenticated");
        let reads = app.key(&[Scope::AccountsRead, Scope::AccountsReveal, Scope::Connect], Asserts::Any).await;
        app.get(&reads, ALICE).await.refused(403, "missing_scope");
        let admin = app.key_text(&[Scope::Admin], Asserts::Any).await;
        app.get(&As::Bearer(admin.clone()), ALICE).await.expect(200);
        app.get(&As::For(admin.clone(), "bob"), ALICE).await.refused(403, "forbidden");
        app.put(&As::For(admin.clone(), "bob"), ALICE, values("x", "s")).await.refused(403, "forbidden");
        app.delete(&As::For(admin, "bob"), ALICE).await.refused(403, "forbidden");
        assert_eq!(app.get(&OP, ALICE).await.expect(200).json()["values"]["client_id"], "hers");
    }

    /// A-042, A-043, A-044, A-045: the callback names the provider; a site may set another for one provider, and no other
    /// provider's changes.
    async fn a_site_may_have_its_flows_return_elsewhere(app: App) {
        let own = "https://keys.example.test/callback/reddit";
        assert_eq!(app.get(&OP, CALLBACK).await.expect(200).json(), json!({ "url": own, "own": own, "overridden": false }));
        let old = "https://blog.example.com/datamachine-auth/reddit/";
        let set = app.put(&OP, CALLBACK, json!({ "url": old })).await.expect(200).json();
        assert_eq!(set, json!({ "url": old, "own": own, "overridden": true }));
        let shown = app.get(&OP, "/v1/providers/reddit").await.expect(200).json();
        assert_eq!((&shown["callback_url"], &shown["callback_overridden"]), (&json!(old), &json!(true)));
        let google = app.get(&OP, "/v1/providers/google").await.expect(200).json();
        assert_eq!(google["callback_url"], "https://keys.example.test/callback/google");
        // One address for two providers would not tell their answers apart.
        app.put(&OP, "/v1/providers/google/callback", json!({ "url": old })).await.refused(409, "conflict");
        for wrong in [
            "",
            "callback",
            "http://blog.example.com/",
            "https://u:p@blog.example.com/",
            "https://blog.example.com/#x",
            "https://blog.example.com/\n",
            "ftp://blog.example.com/",
            "https://keys.example.test/callback/google",
        ] {
            app.put(&OP, CALLBACK, json!({ "url": wrong })).await.refused(400, "invalid_request");
        }
        app.put(&OP, "/v1/providers/http_basic/callback", json!({ "url": "https://a.example/" })).await.refused(400, "invalid_request");
        assert_eq!(app.get(&OP, CALLBACK).await.expect(200).json()["url"], old);
        for _ in 0..2 {
            assert_eq!(app.delete(&OP, CALLBACK).await.expect(200).json()["url"], own);
        }
        app.put(&OP, CALLBACK, json!({ "url": old })).await.expect(200);
        assert_eq!(app.put(&OP, CALLBACK, json!({ "url": own })).await.expect(200).json()["overridden"], false);
    }

    /// A-026, A-028, A-029, A-032, A-033, A-034, A-035, A-036: the site's account and app at a provider are two things, read
    /// back as they were stored, replaced whole, and deleted apart; another provider's are not touched.
    async fn the_sites_account_and_app_are_two_things(app: App) {
        let reveal = format!("{ACCOUNT}?reveal=true");
        app.get(&OP, &reveal).await.refused(404, "no_credentials");
        assert_eq!(app.delete(&OP, ACCOUNT).await.expect(200).json()["ended"], false);
        app.reddit().await;
        app.put(&OP, ACCOUNT, account("one")).await.expect(201);
        assert_eq!(app.get(&OP, &reveal).await.expect(200).json()["account"], account("one")["account"]);
        app.put(&OP, ACCOUNT, json!({ "account": { "access_token": "two" } })).await.expect(200);
        assert_eq!(app.get(&OP, &reveal).await.expect(200).json()["account"], json!({ "access_token": "two" }));
        app.put(&OP, "/v1/providers/github/accounts/site", account("other")).await.expect(201);
        assert_eq!(app.get(&OP, SITE).await.expect(200).json()["values"]["client_id"], "id");

        assert_eq!(app.delete(&OP, ACCOUNT).await.expect(200).json()["ended"], true);
        app.get(&OP, &reveal).await.refused(404, "no_credentials");
        assert_eq!(app.get(&OP, SITE).await.expect(200).json()["configured"], true);
        let other = app.get(&OP, "/v1/providers/github/accounts/site?reveal=true").await.expect(200).json();
        assert_eq!(other["account"], account("other")["account"]);
    }

    /// A-037, A-038, A-134, A-135, A-136, A-137, A-138: an account can serve with a token that has not ended, and says
    /// so; without one, with an empty one or with one that ended and cannot be renewed it cannot.
    async fn an_account_says_whether_it_can_serve(app: App) {
        let stands = async || app.get(&OP, ACCOUNT).await.expect(200).json()["authenticated"].clone();
        let now = 1_800_000_000;
        app.get(&OP, ACCOUNT).await.refused(404, "no_credentials");
        app.put(&OP, ACCOUNT, json!({ "account": { "access_token": "" } })).await.refused(400, "invalid_request");
        app.get(&OP, ACCOUNT).await.refused(404, "no_credentials");
        for (end, serves) in [(json!(now + 3600), true), (Value::Null, true), (json!(now - 100), false)] {
            let token = json!({ "account": { "access_token": format!("t{end}"), "token_expires_at": end } });
            app.put(&OP, &format!("{ACCOUNT}?replace=true"), token).await;
            assert_eq!(stands().await, serves, "{end}");
        }
        // One that ended and can be renewed can serve.
        let renewable = json!({ "account": { "access_token": "a", "refresh_token": "r", "token_expires_at": now - 100 } });
        app.put(&OP, &format!("{ACCOUNT}?replace=true"), renewable).await.expect(200);
        assert_eq!(stands().await, true);
    }

    /// A-041, argued: what is shown of an account for display never holds its token.
    async fn the_details_of_an_account_hold_no_token(app: App) {
        let secret = json!({ "account": { "access_token": "canary-a", "refresh_token": "canary-r", "access_token_secret": "canary-s",
            "username": "alice", "cookie": "canary-c" } });
        let put = app.put(&OP, ACCOUNT, secret).await.expect(201);
        let id = text(&put.json(), "/connection");
        for path in [ACCOUNT.to_owned(), format!("/v1/connections/{id}"), "/v1/connections".into(), "/v1/providers".into(),
            "/v1/providers/reddit".into(), "/v1/audit".into()]
        {
            let answer = app.get(&OP, &path).await.expect(200);
            assert!(!String::from_utf8_lossy(&answer.bytes).contains("canary"), "{path}");
        }
    }

    /// A-193, argued: a text is stored as it was entered or refused; it is never changed on the way, tags and all.
    async fn a_text_is_stored_as_it_was_entered_or_refused(app: App) {
        let tags = json!({ "values": { "client_id": "<b>id</b> &amp;", "client_secret": "s", "developer_username": "d" } });
        let stored = app.put(&OP, SITE, tags).await.expect(200).json();
        assert_eq!(stored["values"]["client_id"], "<b>id</b> &amp;");
        let lines = json!({ "values": { "developer_username": "two\nlines" } });
        app.patch(&OP, SITE, lines).await.refused(400, "invalid_request");
        assert_eq!(app.get(&OP, SITE).await.expect(200).json()["values"]["developer_username"], "d");
    }

    /// A-194, argued: the owner of a token is the one in the path, and never whoever happens to be calling.
    /// A-196: a person's token is that person's alone.
    async fn a_token_is_stored_for_whom_it_is_said(app: App) {
        let token = "opaque%22;$ token/+=";
        let key = app.key_text(&[Scope::AccountsWrite, Scope::AccountsReveal], Asserts::Any).await;
        app.put(&As::For(key.clone(), "7"), ACCOUNT, account(token)).await.expect(201);
        let stored = app.get(&OP, &format!("{ACCOUNT}?reveal=true")).await.expect(200).json();
        assert_eq!(stored["account"]["access_token"], token);
        app.get(&OP, "/v1/providers/reddit/accounts/users/7").await.refused(404, "no_per_user_credentials");
        app.delete(&OP, ACCOUNT).await.expect(200);

        let of = |user: &str| format!("/v1/providers/reddit/accounts/users/{user}");
        app.put(&As::Bearer(key), &of("42"), account(token)).await.expect(201);
        app.get(&OP, &of("42")).await.expect(200);
        app.get(&OP, ACCOUNT).await.refused(404, "no_credentials");
        app.get(&OP, &of("99")).await.refused(404, "no_per_user_credentials");
    }

    async fn an_ended_account_is_told_with_what_comes_of_its_tokens(app: App) {
        app.reddit().await;
        let ends = json!({ "account": { "access_token": "a", "refresh_token": "r", "expires_in": 3600 } });
        app.put(&OP, ACCOUNT, ends.clone()).await.expect(201);
        let ended = app.delete(&OP, ACCOUNT).await.expect(200).json();
        assert_eq!((&ended["ended"], &ended["upstream"], &ended["attempts"]), (&json!(true), &json!("pending"), &json!(0)));
        assert!(text(&ended, "/notice").contains("revealed") && text(&ended, "/token_until").starts_with("2027-"), "{ended}");
        // Nothing outside is reached here: the attempt fails, the account is over all the same.
        app.put(&OP, ACCOUNT, ends.clone()).await.expect(201);
        let ended = app.delete(&OP, &format!("{ACCOUNT}?wait=30&reason=enough")).await.expect(200).json();
        assert_eq!((&ended["upstream"], &ended["attempts"]), (&json!("pending"), &json!(1)), "{ended}");
        assert!(ended["why"].is_string() && ended["next_at"].is_string(), "{ended}");
        app.get(&OP, ACCOUNT).await.refused(404, "no_credentials");
        let owed = app.get(&OP, "/v1/revocations?limit=1").await.expect(200).json();
        assert_eq!((&owed["revocations"][0]["reason"], &owed["revocations"][0]["status"]), (&json!("enough"), &json!("pending")));
        // A provider without a way says so; who asks to leave the tokens is told that they live.
        app.account("site", "").await;
        let ended = app.delete(&OP, "/v1/providers/http_basic/accounts/site").await.expect(200).json();
        assert_eq!(ended["upstream"], "unsupported");
        app.put(&OP, ACCOUNT, ends).await.expect(201);
        assert_eq!(app.delete(&OP, &format!("{ACCOUNT}?upstream=skip")).await.expect(200).json()["upstream"], "skipped");
    }

    /// Only what is named ends: the others of the same owner, and the same name of another owner, stay.
    async fn a_named_account_ends_alone(app: App) {
        for (owner, name) in [("site", ""), ("site", "archive"), ("users/42", ""), ("users/42", "archive")] {
            app.account(owner, name).await;
        }
        let agent = app.agent("a", "alice").await;
        app.account(&format!("agents/{agent}"), "").await;
        let there = async |owner: &str, name: &str| {
            app.get(&OP, &format!("/v1/providers/http_basic/accounts/{owner}?name={name}")).await.status.as_u16() == 200
        };
        let gone = app.delete(&OP, "/v1/providers/http_basic/accounts/users/42?name=archive").await.expect(200).json();
        assert_eq!(gone["ended"], true);
        assert!(!there("users/42", "archive").await && there("users/42", "").await);
        assert!(there("site", "archive").await && there("site", "").await);
        // An agent's account ends also after the agent was deleted; ending it twice is no error.
        app.delete(&OP, &format!("/v1/agents/{agent}")).await.expect(204);
        let gone = app.delete(&OP, &format!("/v1/providers/http_basic/accounts/agents/{agent}")).await.expect(200).json();
        assert_eq!(gone["ended"], true);
        let again = app.delete(&OP, &format!("/v1/providers/http_basic/accounts/agents/{agent}")).await.expect(200).json();
        assert_eq!((&again["ended"], &again["why"]), (&json!(false), &json!("there was no account")));
    }

    /// A-195, argued: without an account a refresh has nothing to refresh; one that cannot be renewed says so.
    async fn a_refresh_without_anything_to_renew_is_refused(app: App) {
        let missing = format!("/v1/connections/con_{}/refresh", "0".repeat(32));
        app.post(&OP, &missing, json!({})).await.refused(404, "not_found");
        let put = app.put(&OP, ACCOUNT, account("t")).await.expect(201).json();
        app.post(&OP, &format!("/v1/connections/{}/refresh", text(&put, "/connection")), json!({})).await.refused(400, "invalid_request");
    }
}

/// A-188: status, disconnecting and storing a configuration are each there under their own route.
#[test]
fn status_disconnecting_and_configuring_have_their_routes() {
    for (method, path) in [
        ("get", "/v1/providers/{provider}/accounts/site"),
        ("delete", "/v1/providers/{provider}/accounts/site"),
        ("put", "/v1/providers/{provider}/config/site"),
    ] {
        assert!(ROUTES.iter().any(|route| route.method == method && route.path == path), "{method} {path}");
    }
}
