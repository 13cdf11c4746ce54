//! The description of the API.

use std::{collections::BTreeSet, path::Path};

use http::Method;
use serde_json::{Value, json};
use valetkey_http::{ROUTES, Who, document};

use crate::{
    access::{body, filled},
    support::{App, As, text},
};

fn described() -> Value {
    serde_json::from_str(&document().to_json().unwrap()).unwrap()
}

#[test]
fn the_description_is_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let now = document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(now == golden, "docs/openapi.json is not what the code says; run this test with UPDATE_GOLDEN=1");
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let described = described();
    let mut in_document = BTreeSet::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            in_document.insert(format!("{method} {path}"));
        }
    }
    // What is served with any method is described with one.
    let described_as = |method: &str| if method == "any" { "get".to_owned() } else { method.to_owned() };
    let on_page: BTreeSet<_> =
        ROUTES.iter().map(|route| format!("{} {}", described_as(route.method), route.path.replace("{*", "{"))).collect();
    assert_eq!(in_document, on_page);
    assert_eq!(ROUTES.len(), on_page.len(), "a route stands on the page twice");
}

#[test]
fn it_is_openapi_3_1_and_every_operation_says_who_may_call_it_and_what_an_error_is() {
    let described = described();
    assert!(described["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in described["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let text = operation["description"].as_str().unwrap_or_default();
            assert!(text.contains("Who may call it:"), "{method} {path}");
            assert!(operation["responses"]["default"]["content"]["application/problem+json"].is_object(), "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{method} {path}");
            // Every parameter of the path is described.
            let names: BTreeSet<_> = path.split(['{', '}']).skip(1).step_by(2).map(str::to_owned).collect();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let known: BTreeSet<_> =
                parameters.iter().filter(|p| p["in"] == "path").map(|p| p["name"].as_str().unwrap().to_owned()).collect();
            assert_eq!(names, known, "{method} {path}");
        }
    }
}

#[test]
fn no_two_operations_share_a_name() {
    let described = described();
    let mut names = BTreeSet::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = text(operation, "/operationId");
            // What generators make functions of.
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            assert!(!name.starts_with('_') && names.insert(name.clone()), "{name}: {method} {path}");
        }
    }
    assert_eq!(names.len(), ROUTES.len());
}

/// A mistyped parameter must not pass for one that is not there.
#[tokio::test]
async fn no_route_takes_a_query_parameter_that_the_description_does_not_name() {
    let app = App::sqlite().await;
    let agent = app.agent("a", "alice").await;
    let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
    for route in ROUTES.iter().filter(|route| route.method != "any") {
        let method: Method = route.method.to_ascii_uppercase().parse().unwrap();
        let path = filled(route.path, &agent);
        let who = if route.who == Who::Agent { &token } else { &As::Operator };
        for query in ["nosuch=canary", "Limit=1", "nosuch=canary&site=default", "reveal%20=true"] {
            // Where the site is not read, it is one of those that nobody knows.
            let refused = app.call(who, method.clone(), &format!("{path}?{query}"), body(&method, route.path), &[]).await;
            let refused = refused.refused(400, "invalid_request");
            assert!(!String::from_utf8_lossy(&refused.bytes).contains("canary"), "{method} {path}?{query}");
        }
    }
    // The gate reads the description: whatever it names is taken.
    app.get(&As::Operator, "/v1/connections?limit=1&provider=reddit&site=default").await.expect(200);
    // The name of a stranger's parameter tells a stranger nothing.
    app.get(&As::Stranger, "/v1/connections?nosuch=1").await.refused(401, "unauthenticated");
    app.broker.stop().await;
}

#[test]
fn every_reference_leads_somewhere() {
    let described = described();
    let text = described.to_string();
    let mut seen = 0;
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(described.pointer(pointer).is_some(), "{pointer}");
        seen += 1;
    }
    assert!(seen > 50);
}

#[tokio::test]
async fn it_is_served_to_anybody() {
    let app = App::sqlite().await;
    let served = app.get(&As::Stranger, "/openapi.json").await.expect(200).json();
    assert_eq!(served, described());
    app.broker.stop().await;
}
