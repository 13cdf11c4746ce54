//! The access matrix: every route, for every kind of caller. It is a golden file, so that a changed cell is a decision that
//! somebody reviews. `UPDATE_GOLDEN=1` writes it anew.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use http::Method;
use serde_json::{Value, json};
use valetkey::platform::{Asserts, Scope};
use valetkey_http::ROUTES;

use crate::support::{App, As, on_each_db};

on_each_db! {
    /// T-093, T-152, T-231.
    async fn every_route_admits_whom_the_page_names_and_nobody_else(app: App) {
        let agent = app.agent("a", "alice").await;
        let (_, by_token) = app.token(&agent, json!({ "person": "alice" })).await;
        let another = app.agent("b", "alice").await;
        let mut callers = vec![("stranger".to_owned(), As::Stranger), ("agent".to_owned(), by_token)];
        for scope in Scope::ALL {
            callers.push((scope.as_str().to_owned(), app.key(&[scope], Asserts::Any).await));
        }
        callers.push(("operator".to_owned(), As::Operator));

        let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for route in ROUTES {
            let methods: &[Method] = match route.method {
                "any" => &[Method::GET, Method::POST],
                one => &[one.to_ascii_uppercase().parse().unwrap()],
            };
            let asked = methods.iter().map(|method| (method, ""));
            // One route, two things to ask for.
            let reveal = asked.clone().filter(|(method, _)| **method == Method::GET && route.path.contains("/accounts/"));
            let reveal = reveal.map(|(method, _)| (method, "?reveal=true"));
            for (method, query) in asked.chain(reveal) {
                let path = filled(route.path, &another) + query;
                for (_, who) in &callers {
                    let answer = app.call(who, method.clone(), &path, body(method, route.path), &[]).await;
                    let cell = match answer.status.as_u16() {
                        401 => "401".to_owned(),
                        403 => answer.code(),
                        500 | 503 => panic!("{method} {path}: {}", String::from_utf8_lossy(&answer.bytes)),
                        _ => "in".to_owned(),
                    };
                    rows.entry(format!("{}{query} {method}", route.path)).or_default().push(cell);
                }
            }
        }
        let names: Vec<_> = callers.iter().map(|(name, _)| name.as_str()).collect();
        compare("access", &table(&names, &rows));
    }

    /// T-093, T-171, T-233: what a person may do with an agent goes by their role on it, whatever the key may do that speaks for them.
    async fn every_route_of_an_agent_asks_for_the_role_that_the_page_names(app: App) {
        let key = app.key_text(&Scope::ALL, Asserts::Any).await;
        let others = app.key_text(&Scope::ALL, Asserts::People(["somebody".parse().unwrap()].into())).await;
        let people = [("none", "nora"), ("viewer", "vera"), ("operator", "otto"), ("admin", "ada"), ("owner", "olga")];
        let mut callers: Vec<_> = people.iter().map(|(role, person)| (*role, As::For(key.clone(), person))).collect();
        callers.push(("another's key", As::For(others, "olga")));

        let mut rows: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for route in ROUTES.iter().filter(|route| route.path.starts_with("/v1/agents/{agent}")) {
            let method: Method = route.method.to_ascii_uppercase().parse().unwrap();
            for (at, (_, who)) in callers.iter().enumerate() {
                // One of its own: some calls change it, or end it.
                let row = format!("{} {method}", route.path);
                let agent = app.agent(&format!("agent-{}-{at}", rows.len()), "olga").await;
                for (role, person) in &people[1..4] {
                    app.role(&agent, person, role).await;
                }
                let path = route.path.replace("{agent}", &agent).replace("{user}", "zoe");
                let answer = app.call(who, method.clone(), &path, body(&method, route.path), &[]).await;
                let cell = match answer.status.as_u16() {
                    401 | 500 | 503 => panic!("{method} {path}: {}", String::from_utf8_lossy(&answer.bytes)),
                    403 | 404 => answer.code(),
                    _ => "in".to_owned(),
                };
                rows.entry(row).or_default().push(cell);
            }
        }
        let names: Vec<_> = callers.iter().map(|(name, _)| *name).collect();
        compare("roles", &table(&names, &rows));
    }
}

/// A path of the pattern that names nothing there is, so that whoever gets in changes nothing for the next.
pub(crate) fn filled(pattern: &str, agent: &str) -> String {
    let hex = "0".repeat(32);
    let id = match pattern {
        p if p.starts_with("/v1/connections/") => format!("con_{hex}"),
        p if p.starts_with("/v1/connect-sessions/") => format!("cse_{hex}"),
        p if p.starts_with("/v1/tokens/") => format!("tok_{hex}"),
        p if p.starts_with("/v1/grants/") => format!("gra_{hex}"),
        p if p.starts_with("/v1/clients/") => format!("vkc_{hex}"),
        p if p.starts_with("/v1/consents/") => format!("fam_{hex}"),
        p if p.starts_with("/v1/keys/") => format!("pkey_{hex}"),
        p if p.starts_with("/v1/webhooks/") => format!("whk_{hex}"),
        p if p.starts_with("/v1/approvals/") => format!("apr_{hex}"),
        p if p.starts_with("/v1/proposals/") => format!("pro_{hex}"),
        _ => "default".to_owned(),
    };
    let named = if pattern.contains("/accounts/agents/") || pattern.ends_with("/tokens") { agent } else { "nobody" };
    pattern
        .replace("{id}", &id)
        .replace("{provider}", "http_basic")
        .replace("{user}", "alice")
        .replace("{agent}", named)
        .replace("{connection}", &format!("con_{hex}"))
        .replace("{*path}", "x")
}

/// A body that is understood and does little.
pub(crate) fn body(method: &Method, pattern: &str) -> Option<Value> {
    let hex = "0".repeat(32);
    if method == Method::GET || method == Method::DELETE || pattern.starts_with("/v1/proxy") {
        return None;
    }
    Some(match pattern {
        "/v1/sites" => json!({ "id": "default" }),
        "/v1/agents" => json!({ "slug": "NOT A SLUG" }),
        "/v1/connect-sessions" => json!({ "provider": "http_basic", "owner": "user:alice" }),
        "/v1/grants" => json!({ "agent": "nobody", "connection": format!("con_{hex}") }),
        "/v1/explain" => json!({ "agent": "nobody", "connection": format!("con_{hex}"), "delivery": "proxy" }),
        "/v1/keys" => json!({ "label": "", "scopes": [] }),
        "/v1/clients" => json!({ "name": "" }),
        "/v1/client-registration" => json!({ "open": false }),
        "/v1/keys/{id}" => json!({ "jwks_url": "" }),
        "/v1/people/{id}" => json!({ "disabled": false }),
        "/v1/agents/{agent}" => json!({ "disabled": false }),
        "/v1/agents/{agent}/roles/{user}" => json!({ "role": "viewer" }),
        "/v1/agents/{agent}/tokens" => json!({ "expires_at": "2000-01-01T00:00:00Z" }),
        "/v1/providers/{provider}/callback" => json!({ "url": "" }),
        p if p.contains("/config") => json!({ "values": { "unknown": "x" } }),
        p if p.contains("/accounts/") => json!({ "account": {} }),
        _ => json!({}),
    })
}

fn table(callers: &[&str], rows: &BTreeMap<String, Vec<String>>) -> String {
    let wide = rows.keys().map(String::len).max().unwrap_or_default();
    let mut text = format!("{:wide$}", "");
    for name in callers {
        write!(text, "  {name:15}").unwrap();
    }
    text = text.trim_end().to_owned() + "\n";
    for (route, cells) in rows {
        let mut line = format!("{route:wide$}");
        for cell in cells {
            write!(line, "  {cell:15}").unwrap();
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn compare(name: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(format!("{name}.golden"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(now, golden, "the access matrix changed; if that is meant, run this test with UPDATE_GOLDEN=1");
}
