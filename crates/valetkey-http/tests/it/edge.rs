//! What holds for every request, whatever its route.

use http::{Method, Request, header};
use valetkey::platform::{Asserts, Scope};

use crate::support::{App, As, on_each_db};

on_each_db! {
    async fn an_unknown_path_is_a_problem_document(app: App) {
        app.get(&As::Operator, "/v1/nothing").await.refused(404, "not_found");
        app.get(&As::Stranger, "/nothing").await.refused(404, "not_found");
    }
}

#[tokio::test]
async fn an_unknown_method_is_a_problem_document_that_names_the_known_ones() {
    let app = App::sqlite().await;
    let answer = app.delete(&As::Operator, "/v1/sites").await.refused(405, "method_refused");
    assert_eq!(answer.headers[header::ALLOW], "GET, POST, HEAD");
    app.broker.stop().await;
}

#[tokio::test]
async fn every_answer_of_the_api_has_an_id_and_may_not_be_kept() {
    let app = App::sqlite().await;
    for who in [As::Operator, As::Stranger] {
        let answer = app.get(&who, "/v1/sites").await;
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(answer.headers["x-request-id"].len(), 32);
    }
    app.broker.stop().await;
}

#[tokio::test]
async fn a_request_id_of_a_stranger_is_not_taken() {
    let app = App::sqlite().await;
    let answer = app.call(&As::Stranger, Method::GET, "/healthz", None, &[("x-request-id", "chosen-by-me")]).await.expect(200);
    assert_ne!(answer.headers["x-request-id"], "chosen-by-me");
    app.broker.stop().await;
}

#[tokio::test]
async fn no_header_makes_a_caller_the_operator() {
    let app = App::sqlite().await;
    for header in
        [("valet-user", "1"), ("x-operator", "true"), ("x-forwarded-for", "127.0.0.1"), ("authorization", "Bearer operator")]
    {
        app.call(&As::Stranger, Method::GET, "/v1/sites", None, &[header]).await.refused(401, "unauthenticated");
    }
    app.broker.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_strange_or_no_json_is_refused() {
    let app = App::sqlite().await;
    let long = serde_json::json!({ "id": "a", "title": "x".repeat(70_000) });
    app.post(&As::Operator, "/v1/sites", long).await.refused(413, "payload_too_large");
    app.post(&As::Operator, "/v1/sites", serde_json::json!({ "id": "a", "colour": "red" })).await.refused(400, "invalid_request");
    app.post(&As::Operator, "/v1/sites", serde_json::json!({ "id": "a", "title": "a\0b" })).await.refused(400, "invalid_request");
    let mut form = Request::post("/v1/sites").header(header::CONTENT_TYPE, "text/plain").body("{\"id\":\"a\"}".into()).unwrap();
    form.extensions_mut().insert(valetkey_http::LocalOperator);
    app.send(form).await.refused(400, "invalid_request");
    app.broker.stop().await;
}

on_each_db! {
    async fn a_nul_in_a_path_or_query_is_refused_before_the_database_meets_it(app: App) {
        for path in ["/v1/agents/a%00b", "/v1/providers/reddit/accounts/site?name=a%00b", "/v1/grants?agent=%00"] {
            app.get(&As::Operator, path).await.refused(400, "invalid_request");
        }
        app.get(&As::Stranger, "/v1/agents/a%00b").await.refused(401, "unauthenticated");
    }
}

#[tokio::test]
async fn a_stranger_is_refused_before_the_body_is_looked_at() {
    let app = App::sqlite().await;
    app.post(&As::Stranger, "/v1/sites", serde_json::json!("nonsense")).await.refused(401, "unauthenticated");
    let key = app.key(&[Scope::Connect], Asserts::None).await;
    app.post(&key, "/v1/sites", serde_json::json!("nonsense")).await.refused(403, "forbidden");
    app.broker.stop().await;
}

#[tokio::test]
async fn metrics_are_for_those_who_may_see_them() {
    let app = App::sqlite().await;
    app.get(&As::Stranger, "/metrics").await.refused(401, "unauthenticated");
    let key = app.key(&[Scope::Connect], Asserts::None).await;
    app.get(&key, "/metrics").await.refused(403, "missing_scope");
    let admin = app.key(&[Scope::Admin], Asserts::None).await;
    let text = String::from_utf8(app.get(&admin, "/metrics").await.expect(200).bytes).unwrap();
    assert!(text.contains("valetkey_http_requests_total"), "{text}");
    app.broker.stop().await;
}

#[tokio::test]
async fn requests_are_counted_by_method_route_and_status() {
    let app = App::sqlite().await;
    app.get(&As::Stranger, "/v1/me").await.expect(401);
    app.get(&As::Stranger, "/nothing/of/this/name").await.expect(404);
    app.call(&As::Operator, Method::from_bytes(b"BREW").unwrap(), "/v1/sites", None, &[]).await.expect(405);
    app.get(&As::Stranger, "/.well-known/oauth-authorization-server").await.expect(200);
    let text = String::from_utf8(app.get(&As::Operator, "/metrics").await.expect(200).bytes).unwrap();
    for (method, route, status) in [
        ("GET", "/v1/me", "401"),
        ("GET", "none", "404"),
        ("other", "/v1/sites", "405"),
        ("GET", "/.well-known/oauth-authorization-server", "200"),
    ] {
        let labels = [format!("method=\"{method}\""), format!("route=\"{route}\""), format!("status=\"{status}\"")];
        let mut lines = text.lines().filter(|line| line.starts_with("valetkey_http_requests_total{"));
        assert!(lines.any(|line| labels.iter().all(|label| line.contains(label))), "{labels:?} in {text}");
        let mut lines = text.lines().filter(|line| line.starts_with("valetkey_http_request_seconds_count{"));
        assert!(lines.any(|line| line.contains(&labels[1])), "{route} in {text}");
    }
    app.broker.stop().await;
}

#[tokio::test]
async fn it_is_not_ready_once_it_is_on_its_way_out() {
    let app = App::sqlite().await;
    app.get(&As::Stranger, "/readyz").await.expect(200);
    app.broker.stop().await;
    app.get(&As::Stranger, "/readyz").await.refused(503, "unavailable");
    app.get(&As::Stranger, "/healthz").await.expect(200);
}
