//! The built-in definitions: all load, and the facts that matter hold.

use http::Method;

use super::{Catalogue, map, name};
use crate::provider::{Definition, HostRule, Identity, Kind, RefreshStrategy, Vars};

fn all() -> Catalogue {
    Catalogue::embedded().unwrap_or_else(|error| panic!("{}", error.detail().unwrap_or_default()))
}

fn get(provider: &str) -> Definition {
    Definition::clone(all().get(&name(provider)).unwrap())
}

#[test]
fn every_built_in_definition_loads() {
    assert!(all().len() >= 55);
}

#[test]
fn every_built_in_definition_says_where_its_facts_come_from() {
    for definition in all().iter() {
        let facts = definition.facts.as_ref().unwrap_or_else(|| panic!("{} has no facts", definition.name));
        // One source alone agrees with nobody.
        assert!(facts.sources.len() > 1 || !facts.unverified.is_empty(), "{}", definition.name);
    }
}

#[test]
fn whatever_is_called_by_a_proxy_keeps_credentials_closed_or_says_why() {
    for definition in all().iter() {
        let Some(proxy) = &definition.proxy else { continue };
        assert!(!proxy.credential_paths.is_empty() || proxy.credential_paths_none_reason.is_some(), "{}", definition.name);
    }
}

/// It answers with their long names, so that the short ones would look as if they had not been granted, for ever.
#[test]
fn nothing_asks_google_for_a_scope_by_its_short_name() {
    let all = all();
    let google = |definition: &Definition| {
        definition.oauth2.as_ref().is_some_and(|oauth2| oauth2.token_url.to_string().contains("oauth2.googleapis.com"))
    };
    let named: Vec<_> = all.iter().filter(|definition| google(definition)).collect();
    assert!(named.len() >= 8, "{}", named.len());
    for definition in named {
        for short in ["email", "profile"] {
            assert!(!definition.needed_scopes().iter().any(|scope| scope == short), "{}: {short}", definition.name);
        }
    }
}

/// A file that says nothing gets the loader's sentence, which fits every one of them and tells of none.
#[test]
fn where_nothing_says_whose_an_account_is_the_definition_says_why() {
    for definition in all().iter() {
        let Identity::None { reason } = &definition.identity else { continue };
        assert_ne!(reason, crate::provider::load::OWNERS_WORD, "{}", definition.name);
    }
}

/// What is chosen binds where the calls say what they are about, through whatever a definition is built on.
#[test]
fn what_is_chosen_binds_the_calls_of_those_that_name_it() {
    let bound = ["gsc", "jira", "confluence"];
    for definition in all().iter() {
        assert_eq!(definition.is_bound(), bound.contains(&definition.name.as_str()), "{}", definition.name);
    }
    let lets = |provider: &str, method: &str, host: &str, path: &str, id: &'static str| {
        let definition = get(provider);
        definition
            .resources
            .iter()
            .all(|(_, step)| step.only.iter().any(|only| only.lets((method, host, path.as_bytes()), [id].into_iter())))
    };
    let site = "https://a.example/";
    let query = "/webmasters/v3/sites/https%3A%2F%2Fa.example%2F/searchAnalytics/query";
    assert!(lets("gsc", "POST", "www.googleapis.com", query, site));
    assert!(!lets("gsc", "POST", "www.googleapis.com", query, "https://b.example/"));
    assert!(!lets("gsc", "GET", "www.googleapis.com", "/webmasters/v3/sites", site));
    assert!(lets("gsc", "POST", "searchconsole.googleapis.com", "/v1/urlInspection/index:inspect", site));
    assert!(lets("jira", "POST", "api.atlassian.com", "/ex/jira/c1/rest/api/3/issue", "c1"));
    assert!(!lets("jira", "GET", "api.atlassian.com", "/ex/jira/c2/rest/api/3/myself", "c1"));
    assert!(lets("confluence", "GET", "api.atlassian.com", "/ex/confluence/c1/wiki/api/v2/pages", "c1"));
    assert!(!lets("confluence", "GET", "api.atlassian.com", "/ex/jira/c1/rest/api/3/myself", "c1"));
}

/// An operation that no call could be would read as a permission and give nothing.
#[test]
fn every_named_operation_is_a_call_that_the_proxy_would_make() {
    let mut named = 0;
    for definition in all().iter() {
        let Some(proxy) = &definition.proxy else { continue };
        let base = proxy.base_url.as_ref().and_then(|url| url.fixed_host()).unwrap_or_default();
        for pattern in definition.operations.iter().flat_map(|(_, patterns)| patterns) {
            let place = pattern.as_str().split_once(' ').unwrap().1.replace("**", "x").replace('*', "x");
            let (host, path) = match place.strip_prefix("//") {
                Some(rest) => rest.split_at(rest.find('/').unwrap()),
                None => (base, place.as_str()),
            };
            let method: Method = pattern.method().unwrap().parse().unwrap();
            let what = format!("{}: {}", definition.name, pattern.as_str());
            assert!(pattern.matches(method.as_str(), host, path.as_bytes()), "{what}");
            assert!(!proxy.is_credential_path(&method, host, path.as_bytes()), "{what}");
            assert!(proxy.path_is_allowed(&method, host, path.as_bytes()), "{what}");
            let is_its = |rule: &HostRule| matches!(rule, HostRule::Exact(known) if known == host);
            assert!(base.is_empty() || proxy.hosts.iter().any(is_its), "{what}");
            named += 1;
        }
    }
    assert!(named > 200, "{named}");
}

/// Whoever lets an agent post should not have to look the path up, nor let it delete as well.
#[test]
fn the_calls_of_what_is_used_most_have_names() {
    for (provider, operation) in [
        ("bluesky", "record.create"),
        ("discord_bot", "message.create"),
        ("dropbox", "file.read"),
        ("facebook", "page_post.create"),
        ("github", "issue.create"),
        ("gitlab", "merge_request.create"),
        ("gmail", "mail.send"),
        ("google_calendar", "event.create"),
        ("google_drive", "file.read"),
        ("hubspot", "contact.create"),
        ("instagram", "media.publish"),
        ("instagram_fb", "media.publish"),
        ("linkedin", "post.create"),
        ("mastodon", "status.create"),
        ("notion", "page.create"),
        ("outlook", "mail.send"),
        ("pinterest", "pin.create"),
        ("reddit", "post.submit"),
        ("slack", "message.post"),
        ("spotify", "player.control"),
        ("stripe", "invoice.create"),
        ("threads", "post.publish"),
        ("wordpress", "post.create"),
        ("wpcom", "post.create"),
        ("x", "post.create"),
        ("youtube", "video.upload"),
    ] {
        assert!(get(provider).operations.iter().any(|(name, _)| name == operation), "{provider}: {operation}");
    }
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
fn every_built_in_definition_can_be_connected() {
    for definition in all().iter() {
        assert!(definition.is_connectable().is_ok(), "{}: {:?}", definition.name, definition.is_connectable());
        assert!(matches!(definition.kind, Kind::OAuth2 | Kind::OAuth1) || definition.is_entered(), "{}", definition.name);
    }
    assert!(!get("x").is_entered() && get("amazon_creators").is_entered());
}

#[test]
fn what_decides_a_host_is_told_apart_from_what_does_not() {
    assert_eq!(get("bluesky").extras_deciding_hosts(), ["pds"]);
    assert!(get("github").extras_deciding_hosts().is_empty() && get("slack_bot").extras_deciding_hosts().is_empty());
    // Whose secret a refusal is about: the app's, or the one account's.
    assert!(get("github_app").mints_as_app());
    assert!(!get("google_service_account").mints_as_app() && !get("amazon_creators").mints_as_app());
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
        ("gmail", "POST", "gmail.googleapis.com", "/batch/gmail/v1"),
        ("outlook", "POST", "graph.microsoft.com", "/v1.0/applications/7/addPassword"),
        ("outlook", "POST", "graph.microsoft.com", "/v1.0/$batch"),
        ("notion", "POST", "api.notion.com", "/v1/oauth/token"),
        ("zoom", "GET", "api.zoom.us", "/v2/users/me/token"),
        ("dropbox", "POST", "api.dropboxapi.com", "/2/auth/token/revoke"),
        ("gitlab", "POST", "gitlab.com", "/api/v4/projects/group%2Fproject/access_tokens"),
        ("gitlab", "POST", "gitlab.com", "/api/graphql"),
        ("jira", "POST", "api.atlassian.com", "/oauth/token"),
        ("salesforce", "POST", "acme.my.salesforce.com", "/services/data/v60.0/composite/batch"),
        ("shopify", "POST", "acme.myshopify.com", "/admin/api/2026-10/storefront_access_tokens.json"),
        ("trello", "DELETE", "api.trello.com", "/1/tokens/abc"),
        ("stripe", "POST", "api.stripe.com", "/v1/ephemeral_keys"),
        ("openai", "POST", "api.openai.com", "/v1/organization/admin_api_keys"),
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
        ("gmail", "POST", "gmail.googleapis.com", "/gmail/v1/users/me/messages/send"),
        ("google_calendar", "GET", "www.googleapis.com", "/calendar/v3/calendars/primary/events"),
        ("google_drive", "POST", "www.googleapis.com", "/upload/drive/v3/files"),
        ("outlook", "POST", "graph.microsoft.com", "/v1.0/me/sendMail"),
        ("notion", "POST", "api.notion.com", "/v1/pages"),
        ("linear", "POST", "api.linear.app", "/graphql"),
        ("hubspot", "POST", "api.hubapi.com", "/crm/v3/objects/contacts"),
        ("stripe", "POST", "api.stripe.com", "/v1/payment_intents"),
        ("zoom", "POST", "api.zoom.us", "/v2/users/me/meetings"),
        ("dropbox", "POST", "content.dropboxapi.com", "/2/files/upload"),
        ("discord", "GET", "discord.com", "/api/v10/users/@me/guilds"),
        ("gitlab", "POST", "gitlab.com", "/api/v4/projects/group%2Fproject/issues"),
        ("jira", "POST", "api.atlassian.com", "/ex/jira/11111111-1111/rest/api/3/issue"),
        ("confluence", "GET", "api.atlassian.com", "/ex/confluence/11111111-1111/wiki/api/v2/pages"),
        ("airtable", "POST", "api.airtable.com", "/v0/app1/Tasks"),
        ("asana", "POST", "app.asana.com", "/api/1.0/tasks"),
        ("trello", "POST", "api.trello.com", "/1/cards"),
        ("clickup", "POST", "api.clickup.com", "/api/v2/list/1/task"),
        ("salesforce", "POST", "acme.my.salesforce.com", "/services/data/v60.0/sobjects/Contact"),
        ("mailchimp", "POST", "us1.api.mailchimp.com", "/3.0/lists/1/members"),
        ("shopify", "GET", "acme.myshopify.com", "/admin/api/2026-10/orders.json"),
        ("openai", "POST", "api.openai.com", "/v1/responses"),
        ("anthropic", "POST", "api.anthropic.com", "/v1/messages"),
        ("sendgrid", "POST", "api.sendgrid.com", "/v3/mail/send"),
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

/// The client's secret goes there.
#[test]
fn a_shop_is_a_host_of_the_provider() {
    let shop = get("shopify");
    let shop = shop.field("shop").unwrap();
    assert_eq!(shop.accept("acme.myshopify.com").unwrap().as_deref(), Some("https://acme.myshopify.com"));
    for entered in [
        "https://evil.example",
        "https://evil.example/.myshopify.com",
        "https://evil.example?x=.myshopify.com",
        "https://evil.example#.myshopify.com",
        "https://evil.example\\.myshopify.com",
        "https://acme.myshopify.com@evil.example",
        "https://evil.example:.myshopify.com",
        "https://x@acme.myshopify.com",
    ] {
        assert!(shop.accept(entered).is_err(), "{entered} was taken");
    }
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
