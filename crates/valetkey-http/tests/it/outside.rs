//! The access matrix of what browsers, OAuth clients and MCP clients ask for, which stands on no page of routes: each path, as each
//! kind of caller meets it. It is a golden file like that of the API. `UPDATE_GOLDEN=1` writes it anew.
//!
//! The paths name things of alice's that are there: what bob may not see, he does not. What is asked for is asked in the order of
//! the list, and alice comes last, so that what ends by her word was there for the others.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use axum::body::Body;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;
use url::form_urlencoded;
use valetkey::{
    id::SiteId,
    oauth::{GrantType, NewClient, client, metadata::path},
    platform::{self, Asserts, NewKey, Scope},
    principal::{Actor, Ceiling},
    session,
    token::{Audience, family, family::NewFamily},
};
use valetkey_http::LocalOperator;

use crate::{
    pages::{HTTPS, Pages},
    pages_approvals::Asking,
    support::{Answer, on_each_db},
};

/// What is asked for: the method, the path's pattern, the query, and the form that comes with it.
type Line = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

const LINES: &[Line] = &[
    ("GET", "/assets/page.css", "", &[]),
    ("GET", "/", "", &[]),
    ("GET", "/signin", "", &[]),
    ("POST", "/signin", "", &[("assertion", "x")]),
    ("GET", "/approvals", "", &[]),
    ("GET", "/approvals/{id}", "", &[]),
    ("POST", "/approvals/{id}", "", &[("decision", "no"), ("reason", "")]),
    ("GET", "/proposals/{id}", "", &[]),
    ("POST", "/proposals/{id}", "", &[("decision", "no"), ("reason", "")]),
    ("POST", "/account/grants/{grant}/revoke", "", &[]),
    ("POST", "/account/programs/{consent}/end", "", &[]),
    ("GET", "/account/connections/{connection}/reconnect", "", &[]),
    ("POST", "/account/connections/{connection}/reconnect", "", &[]),
    ("GET", "/account/connections/{connection}/disconnect", "", &[]),
    ("POST", "/account/connections/{connection}/disconnect", "", &[]),
    ("GET", "/connect/done", "", &[]),
    ("GET", "/connect/device/{site}/{session}", "", &[]),
    ("GET", "/connect/choose/{site}/{session}", "", &[]),
    ("POST", "/connect/choose/{site}/{session}", "", &[]),
    ("GET", "/connect/{link}", "", &[]),
    ("POST", "/connect/{link}", "", &[("decision", "cancel")]),
    ("GET", "/callback/{provider}", "?state=x&code=x", &[]),
    ("GET", "/oauth/authorize", AUTHORIZE, &[]),
    ("POST", "/oauth/authorize", AUTHORIZE, &[("decision", "deny")]),
    ("GET", "/oauth/device", "", &[]),
    ("POST", "/oauth/device", "", &[("user_code", "BCDF-GHJK")]),
    ("POST", "/oauth/token", "", &[("grant_type", "authorization_code"), ("client_id", "{client}"), ("code", "x")]),
    ("POST", "/oauth/device_authorization", "", &[("client_id", "{client}")]),
    ("POST", "/oauth/introspect", "", &[("token", "x")]),
    ("POST", "/oauth/revoke", "", &[("client_id", "{client}"), ("token", "x")]),
    ("POST", "/oauth/register", "", &[]),
    ("GET", "/.well-known/oauth-authorization-server", "", &[]),
    ("GET", "/.well-known/oauth-protected-resource", "", &[]),
    ("GET", "/.well-known/oauth-protected-resource/mcp", "", &[]),
    ("GET", "/mcp", "", &[]),
    ("POST", "/mcp", "", &[]),
    ("POST", "/signout", "", &[]),
];

const AUTHORIZE: &str = "?client_id={client}&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&response_type=code&state=s\
                         &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";

/// Who asks.
struct Seen {
    name: &'static str,
    bearer: Option<String>,
    /// The session's cookie and the token of its forms.
    signed_in: Option<(String, String)>,
    origin: &'static str,
    operator: bool,
}

/// The things of alice's that the paths name.
struct Things {
    approval: String,
    proposal: String,
    grant: String,
    consent: String,
    connection: String,
    client: String,
    agents: String,
    keys: String,
}

impl Things {
    async fn new(pages: &Pages) -> Self {
        let (base, site) = (pages.broker.base(), SiteId::default_site());
        let asking = Asking::new(pages).await;
        let approval = asking.hold(pages).await;
        let wish = json!({ "provider": "signed", "reason": "to post" }).to_string();
        let wish = Request::post("/v1/proposals")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", asking.bearer))
            .body(Body::from(wish));
        let proposal = send(pages, wish.unwrap()).await.expect(201).json()["id"].as_str().unwrap().to_owned();
        let grants = valetkey::grant::list(&base.db, &site, Some(&asking.agent), None).await.unwrap();
        let new = NewClient {
            name: "App".to_owned(),
            redirect_uris: vec!["https://app.example/cb".to_owned()],
            grant_types: [GrantType::AuthorizationCode, GrantType::DeviceCode].into(),
            ..NewClient::default()
        };
        let client = client::create(base, &site, &Actor::Operator, new).await.unwrap().0.id;
        let new = NewFamily {
            agent: asking.agent.clone(),
            person: "alice".parse().unwrap(),
            client: client.clone(),
            ceiling: Ceiling::default(),
            audience: Audience::Api,
            expires_at: base.clock.now().plus(std::time::Duration::from_secs(3600)),
        };
        let mut tx = base.db.begin().await.unwrap();
        let consent = family::open(base, &mut tx, &site, &Actor::User("alice".parse().unwrap()), new).await.unwrap();
        tx.commit().await.unwrap();
        let new = NewKey { label: "k".to_owned(), scopes: Scope::ALL.into(), asserts: Asserts::Any, expires_at: None };
        let keys = platform::create(base, &site, &Actor::Operator, new).await.unwrap().text.expose().to_owned();
        Self {
            approval,
            proposal,
            grant: grants[0].id.to_string(),
            consent: consent.id.to_string(),
            connection: asking.connection.to_string(),
            client: client.to_string(),
            agents: asking.bearer,
            keys,
        }
    }

    fn filled(&self, pattern: &str) -> String {
        let id = if pattern.starts_with("/proposals") { &self.proposal } else { &self.approval };
        pattern
            .replace("{id}", id)
            .replace("{grant}", &self.grant)
            .replace("{consent}", &self.consent)
            .replace("{connection}", &self.connection)
            .replace("{client}", &self.client)
            .replace("{provider}", "lab")
            .replace("{site}", "default")
            .replace("{session}", &format!("cse_{}", "0".repeat(32)))
            .replace("{link}", "nobody")
    }
}

/// A browser in which somebody is signed in, on a page of `origin`.
async fn signed_in(pages: &Pages, name: &'static str, user: &str, origin: &'static str) -> Seen {
    let (base, site) = (pages.broker.base(), SiteId::default_site());
    let (secret, _) = session::open(base, &site, &user.parse().unwrap(), pages.platform_key()).await.unwrap();
    let cookie = format!("__Host-vk_session={}", secret.expose());
    Seen { name, bearer: None, signed_in: Some((cookie, secret.form_token().expose().to_owned())), origin, operator: false }
}

async fn send(pages: &Pages, request: Request<Body>) -> Answer {
    let (parts, body) = pages.router.clone().oneshot(request).await.unwrap().into_parts();
    Answer { status: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes().to_vec() }
}

/// What one of them meets: the status, and where a redirect leads.
async fn cell(pages: &Pages, things: &Things, (method, pattern, query, form): &Line, who: &Seen) -> String {
    let method: Method = method.parse().unwrap();
    let mut request = Request::builder().method(&method).uri(things.filled(&format!("{pattern}{query}")));
    request = request.header(header::HOST, "keys.example.test");
    if let Some(bearer) = &who.bearer {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    if let Some((cookie, _)) = &who.signed_in {
        request = request.header(header::COOKIE, cookie);
    }
    let body = match (*pattern, method == Method::POST) {
        (_, false) => Body::empty(),
        ("/mcp", true) => {
            request = request.header(header::CONTENT_TYPE, "application/json").header("mcp-method", "ping");
            request = request.header(header::ACCEPT, "application/json, text/event-stream");
            Body::from(json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }).to_string())
        }
        ("/oauth/register", true) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Body::from(json!({ "redirect_uris": ["https://app.example/cb"] }).to_string())
        }
        _ => {
            request =
                request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").header(header::ORIGIN, who.origin);
            let mut text = form_urlencoded::Serializer::new(String::new());
            text.extend_pairs(form.iter().map(|(name, value)| (*name, things.filled(value))));
            if let Some((_, csrf)) = who.signed_in.as_ref().filter(|_| !is_for_clients(pattern)) {
                text.append_pair("csrf", csrf);
            }
            Body::from(text.finish())
        }
    };
    let mut request = request.body(body).unwrap();
    if who.operator {
        request.extensions_mut().insert(LocalOperator);
    }
    let answer = send(pages, request).await;
    assert!(answer.status.as_u16() < 500, "{method} {pattern} as {}: {}", who.name, String::from_utf8_lossy(&answer.bytes));
    let leads = answer.headers.get(header::LOCATION).map(|location| place(location.to_str().unwrap()));
    leads.map_or_else(|| answer.status.as_u16().to_string(), |place| format!("{} > {place}", answer.status.as_u16()))
}

/// Whether an endpoint is one of the standards', which take no parameter that they do not know from a page of ours.
fn is_for_clients(pattern: &str) -> bool {
    pattern.starts_with("/oauth/") && !["/oauth/authorize", "/oauth/device"].contains(&pattern)
}

/// Where somebody is led, without what differs from run to run.
fn place(location: &str) -> String {
    match location.strip_prefix('/') {
        Some(rest) => format!("/{}", rest.split(['/', '?']).next().unwrap_or_default()),
        None => location.split(['?', '#']).next().unwrap_or_default().to_owned(),
    }
}

on_each_db! {
    async fn every_path_of_browsers_and_clients_lets_in_whom_it_is_for(pages: Pages) {
        let things = Things::new(&pages).await;
        let plain = |name| Seen { name, bearer: None, signed_in: None, origin: HTTPS, operator: false };
        let callers = [
            plain("stranger"),
            Seen { bearer: Some(things.agents.clone()), ..plain("agent") },
            Seen { bearer: Some(things.keys.clone()), ..plain("platform") },
            Seen { operator: true, ..plain("operator") },
            signed_in(&pages, "alice, elsewhere", "alice", "https://evil.example").await,
            signed_in(&pages, "bob", "bob", HTTPS).await,
            signed_in(&pages, "alice", "alice", HTTPS).await,
        ];
        let mut table = vec![["".to_owned()].into_iter().chain(callers.iter().map(|who| who.name.to_owned())).collect::<Vec<_>>()];
        for line in LINES {
            let mut row = vec![format!("{} {}", line.0, line.1)];
            for who in &callers {
                row.push(cell(&pages, &things, line, who).await);
            }
            // What is alice's opens to nobody else, whatever they bring.
            if line.1.contains('{') && !line.1.starts_with("/connect") && !line.1.starts_with("/callback") {
                let own = row.last().unwrap().clone();
                assert!(own == "200" || own.starts_with("303 > /"), "{row:?}");
                let others = &row[1..row.len() - 1];
                let shown = |cell: &String| line.0 == "GET" && cell == "200" || line.0 == "POST" && *cell == own;
                // A form of a page elsewhere comes without the cookie; here it does not, and is refused all the same.
                let reads_along = |at: usize| line.0 == "GET" && callers[at].name == "alice, elsewhere";
                assert!(!others.iter().enumerate().any(|(at, cell)| shown(cell) && !reads_along(at)), "{row:?}");
            }
            table.push(row);
        }
        compare(&told(&table));
    }
}

/// The list names what is routed, no less and no more.
#[test]
fn every_path_beside_the_page_of_routes_is_in_the_list() {
    let names = [
        ("AUTHORIZE", path::AUTHORIZE),
        ("TOKEN", path::TOKEN),
        ("DEVICE_AUTHORIZATION", path::DEVICE_AUTHORIZATION),
        ("DEVICE", path::DEVICE),
        ("INTROSPECT", path::INTROSPECT),
        ("REVOKE", path::REVOKE),
        ("REGISTER", path::REGISTER),
        ("SERVER", path::SERVER),
        ("RESOURCE", path::RESOURCE),
    ];
    let sources = [
        include_str!("../../src/pages/mod.rs"),
        include_str!("../../src/routes/oauth/mod.rs"),
        include_str!("../../src/routes/mcp.rs"),
    ];
    let mut routed = BTreeSet::new();
    let lines = sources.iter().flat_map(|source| source.split("#[cfg(test)]").next().unwrap_or_default().lines());
    for line in lines.filter(|line| line.contains(".route(")) {
        let rest = line.split_once(".route(").unwrap().1;
        let at = ["get(", "post(", "any("].into_iter().filter_map(|method| rest.find(method)).min();
        let (target, handlers) = rest.split_at(at.unwrap_or_else(|| panic!("{line}")));
        let named = names.iter().find(|(name, _)| target.starts_with(&format!("path::{name},")));
        let pattern = match (target.strip_prefix('"'), named) {
            (Some(pattern), _) => pattern.split('"').next().unwrap().to_owned(),
            (None, Some((_, path))) => (*path).to_owned(),
            (None, None) if target.contains("{}/mcp") => format!("{}/mcp", path::RESOURCE),
            (None, None) if target.starts_with("PATH") => "/mcp".to_owned(),
            (None, None) => panic!("{line}"),
        };
        for (method, handler) in [("GET", "get("), ("POST", "post(")] {
            if handlers.contains(handler) || handlers.contains("any(") {
                routed.insert((method, pattern.clone()));
            }
        }
    }
    let listed: BTreeSet<_> = LINES.iter().map(|(method, pattern, ..)| (*method, (*pattern).to_owned())).collect();
    assert_eq!(listed, routed);
}

fn told(table: &[Vec<String>]) -> String {
    let wide: Vec<usize> =
        (0..table[0].len()).map(|at| table.iter().map(|row| row[at].len()).max().unwrap_or_default()).collect();
    let mut text = String::new();
    for row in table {
        let cells: Vec<String> = row.iter().zip(&wide).map(|(cell, wide)| format!("{cell:wide$}", wide = *wide)).collect();
        writeln!(text, "{}", cells.join("  ").trim_end()).unwrap();
    }
    text
}

fn compare(now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/outside.golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(now, golden, "who gets in where changed; if that is meant, run this test with UPDATE_GOLDEN=1");
}
