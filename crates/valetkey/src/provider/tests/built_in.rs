//! The built-in definitions: all load, and the facts that matter hold.

use http::Method;

use super::{Catalogue, map, name};
use crate::{
    error::Code,
    provider::{Definition, Kind, RefreshStrategy, Vars},
};

fn all() -> Catalogue {
    Catalogue::embedded().unwrap_or_else(|error| panic!("{}", error.detail().unwrap_or_default()))
}

fn get(provider: &str) -> Definition {
    Definition::clone(all().get(&name(provider)).unwrap())
}

#[test]
fn every_built_in_definition_loads() {
    assert_eq!(all().len(), 44);
}

#[test]
fn every_built_in_definition_reads_back_as_json() {
    for definition in all().iter() {
        let json = definition.to_json().unwrap();
        assert_eq!(json["name"], definition.name.as_str());
        assert!(!definition.field_definitions().as_object().unwrap().is_empty());
    }
}

#[test]
fn what_cannot_be_connected_says_so() {
    for definition in all().iter() {
        match definition.is_connectable() {
            Ok(()) => assert_eq!(definition.kind, Kind::OAuth2),
            Err(error) => {
                assert_eq!(error.code(), Code::EngineMissing);
                assert!(error.message().starts_with(&format!("connecting {} is not built yet: ", definition.title)));
            }
        }
    }
    assert!(get("x").is_connectable().is_ok());
    let error = get("amazon_creators").is_connectable().unwrap_err();
    assert!(error.message().ends_with("it has no authorization code flow"));
    let error = get("bluesky").is_connectable().unwrap_err();
    assert!(error.message().ends_with("its kind is session"));
}

#[test]
fn what_is_proxied_with_tokens_keeps_its_credential_paths_closed() {
    let closed: &[(&str, &str, &str, &str)] = &[
        ("x", "POST", "api.x.com", "/2/oauth2/token"),
        ("x", "POST", "api.twitter.com", "/2/oauth%32/revoke"),
        ("twitter", "POST", "api.x.com", "/1.1/oauth/invalidate_token.json"),
        ("reddit", "POST", "oauth.reddit.com", "/api/v1/Access_Token"),
        ("facebook", "GET", "graph.facebook.com", "/me/accounts"),
        ("facebook", "GET", "graph.facebook.com", "/v19.0/me/accounts"),
        ("facebook", "GET", "graph.facebook.com", "/v19.0/1234/accounts/"),
        ("facebook", "GET", "graph.facebook.com", "/v23.0/oauth/access_token"),
        ("facebook", "GET", "graph.facebook.com", "/debug_token"),
        ("facebook", "POST", "graph.facebook.com", "/"),
        ("facebook", "POST", "graph.facebook.com", "/v23.0"),
        ("facebook", "POST", "graph.facebook.com", "/v23.0/1234/access_tokens"),
        ("facebook", "DELETE", "graph.facebook.com", "/v23.0/me/permissions"),
        ("instagram", "GET", "graph.instagram.com", "/v23.0/refresh_access_token"),
        ("threads", "GET", "graph.threads.com", "/access_token"),
        ("bluesky", "POST", "pds.example", "/xrpc/com.atproto.server.createAppPassword"),
        ("bluesky", "GET", "pds.example", "/xrpc/COM.atproto.server.listAppPasswords"),
        ("mastodon", "POST", "m.example", "/api/v1/apps"),
        ("mastodon", "POST", "m.example", "/oauth/token"),
        ("github", "POST", "api.github.com", "/app/installations/7/access_tokens"),
        ("github", "DELETE", "api.github.com", "/applications/Iv1/token"),
        ("github_pat", "POST", "api.github.com", "/user/keys"),
        ("github_app", "DELETE", "api.github.com", "/installation/token"),
        ("github", "POST", "api.github.com", "/repos/a/b/actions/runners/registration-token"),
        ("slack", "POST", "slack.com", "/api/oauth.v2.access"),
        ("slack_bot", "POST", "slack.com", "/api/tooling.tokens.rotate"),
        ("linkedin", "POST", "www.linkedin.com", "/oauth/v2/introspectToken"),
        ("google", "POST", "www.googleapis.com", "/oauth2/v4/token"),
        ("youtube", "POST", "www.googleapis.com", "/batch/youtube/v3"),
        ("tiktok", "POST", "open.tiktokapis.com", "/v2/oauth/token/"),
        ("pinterest", "POST", "api.pinterest.com", "/v5/oauth/token"),
        ("tumblr", "POST", "api.tumblr.com", "/v2/oauth2/token"),
        ("wpcom", "POST", "public-api.wordpress.com", "/rest/v1.1/me/two-step/application-passwords/new"),
        ("wordpress", "POST", "blog.example", "/wp-json/wp/v2/users/1/application-passwords"),
        ("discord_bot", "GET", "discord.com", "/api/v10/channels/1/webhooks"),
        ("cloudflare", "POST", "api.cloudflare.com", "/client/v4/user/tokens"),
    ];
    let all = all();
    for (provider, method, host, path) in closed {
        let proxy = all.get(&name(provider)).unwrap().proxy.as_ref().unwrap();
        let method: Method = method.parse().unwrap();
        assert!(proxy.is_credential_path(&method, host, path.as_bytes()), "{provider}: {method} {path} is open");
    }
}

#[test]
fn the_everyday_calls_stay_open() {
    let open: &[(&str, &str, &str, &str)] = &[
        ("x", "POST", "api.x.com", "/2/tweets"),
        ("reddit", "GET", "oauth.reddit.com", "/api/v1/me"),
        ("facebook", "POST", "graph.facebook.com", "/v23.0/1234/feed"),
        ("facebook", "GET", "graph.facebook.com", "/v23.0/1234/insights"),
        ("instagram", "POST", "graph.instagram.com", "/v23.0/1234/media"),
        ("threads", "POST", "graph.threads.net", "/v1.0/1234/threads_publish"),
        ("bluesky", "POST", "pds.example", "/xrpc/com.atproto.repo.createRecord"),
        ("bluesky", "GET", "pds.example", "/xrpc/com.atproto.identity.resolveHandle"),
        ("mastodon", "POST", "m.example", "/api/v1/statuses"),
        ("mastodon", "GET", "m.example", "/api/v1/accounts/verify_credentials"),
        ("github", "POST", "api.github.com", "/repos/a/b/issues"),
        ("github", "GET", "api.github.com", "/user"),
        ("slack", "POST", "slack.com", "/api/chat.postMessage"),
        ("linkedin", "POST", "api.linkedin.com", "/rest/posts"),
        ("youtube", "GET", "www.googleapis.com", "/youtube/v3/channels"),
        ("wordpress", "POST", "blog.example", "/wp-json/wp/v2/posts"),
        ("discord_bot", "POST", "discord.com", "/api/v10/channels/1/messages"),
    ];
    let all = all();
    for (provider, method, host, path) in open {
        let proxy = all.get(&name(provider)).unwrap().proxy.as_ref().unwrap();
        let method: Method = method.parse().unwrap();
        assert!(!proxy.is_credential_path(&method, host, path.as_bytes()), "{provider}: {method} {path} is closed");
        assert!(proxy.path_is_allowed(&method, host, path.as_bytes()), "{provider}: {path} is not allowed");
    }
}

#[test]
fn a_query_that_asks_for_a_credential_is_known() {
    let facebook = get("facebook").proxy.unwrap();
    for query in [
        "fields=id,access_token",
        "fields=name%2Caccess_token",
        "fields=access%255Ftoken",
        "FIELDS=Access_Token",
        "x=1&fields=accounts%7Bname%7D",
        "fields[]=access_token",
    ] {
        assert!(facebook.is_credential_query(query), "{query} slipped past");
    }
    for query in ["", "fields=id,name,message", "q=access_token"] {
        assert!(!facebook.is_credential_query(query), "{query} was caught");
    }
    let wordpress = get("wordpress").proxy.unwrap();
    assert!(wordpress.is_credential_query("rest_route=/wp/v2/users/1/application-passwords"));
    assert!(!wordpress.is_credential_query("rest_route=/wp/v2/posts"));
}

#[test]
fn other_paths_of_a_shared_host_are_not_allowed() {
    let linkedin = get("linkedin").proxy.unwrap();
    assert!(linkedin.path_is_allowed(&Method::PUT, "www.linkedin.com", b"/dms-uploads/a/b"));
    assert!(!linkedin.path_is_allowed(&Method::GET, "www.linkedin.com", b"/feed"));
    assert!(!linkedin.path_is_allowed(&Method::GET, "www.linkedin.com", b"/dms-uploads/../feed"));
    assert!(linkedin.path_is_allowed(&Method::GET, "api.linkedin.com", b"/v2/userinfo"));
}

#[test]
fn an_instance_decides_the_host_set() {
    let mastodon = get("mastodon").proxy.unwrap();
    let fields = map(serde_json::json!({"instance": "https://Social.example:8443"}));
    let hosts = mastodon.host_set(&Vars { fields: Some(&fields), ..Vars::default() }).unwrap();
    assert_eq!(hosts, ["social.example:8443"]);
    assert!(mastodon.host_set(&Vars::default()).is_err());
}

#[test]
fn where_the_login_names_no_server_the_one_that_was_asked_counts() {
    let bluesky = get("bluesky").proxy.unwrap();
    let empty = map(serde_json::json!({}));
    let hosts = bluesky.host_set(&Vars { fields: Some(&empty), ..Vars::default() }).unwrap();
    assert_eq!(hosts, ["bsky.social"]);
    let account = map(serde_json::json!({"pds": "https://morel.example"}));
    let hosts = bluesky.host_set(&Vars { account: Some(&account), fields: Some(&empty), ..Vars::default() }).unwrap();
    assert_eq!(hosts, ["morel.example"]);
    let evil = map(serde_json::json!({"pds": "http://morel.example/x"}));
    assert!(bluesky.host_set(&Vars { account: Some(&evil), fields: Some(&empty), ..Vars::default() }).is_err());
}

#[test]
fn the_refresh_of_every_definition_can_be_called() {
    for definition in all().iter() {
        let needs_none = definition.refresh.strategy == RefreshStrategy::None;
        assert_eq!(definition.refresh.step.is_none(), needs_none, "{}", definition.name);
        if let Some(step) = &definition.refresh.step {
            assert!(step.brings_token);
        }
    }
}

#[test]
fn scopes_that_unlock_a_refresh_token_are_asked_for() {
    assert_eq!(get("x").needed_scopes(), ["tweet.read", "tweet.write", "users.read", "offline.access"]);
    assert_eq!(get("tumblr").needed_scopes(), ["basic", "write", "offline_access"]);
    assert!(get("github_pat").needed_scopes().is_empty());
}
