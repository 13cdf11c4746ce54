//! Oversized and malformed: whatever is sent, the answer is one of the caller's faults and never ours, says what is wrong, and
//! nothing has changed.

use axum::body::Body;
use http::{HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;
use valetkey::platform::{Asserts, Scope};
use valetkey_http::ROUTES;

use super::reveal;
use crate::{
    access::filled,
    approvals::Asking,
    oauth::{CALLBACK, Front, authorize, encoded, posted, refused},
    pages::{Pages, csrf, location},
    pages_approvals,
    sessions::OURS,
    support::{Answer, App, As, on_each_db, text},
};

/// A body of bytes, as JSON or as what claims to be.
async fn send(app: &App, who: &As, method: &Method, path: &str, body: Vec<u8>) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    if let As::Bearer(text) = who {
        request = request.header(header::AUTHORIZATION, format!("Bearer {text}"));
    }
    let mut request = request.body(Body::from(body)).unwrap();
    if let As::Operator = who {
        request.extensions_mut().insert(valetkey_http::LocalOperator);
    }
    app.send(request).await
}

/// Arrays in one another.
fn nested(depth: usize) -> Vec<u8> {
    [vec![b'['; depth], vec![b']'; depth]].concat()
}

on_each_db! {
    async fn a_credential_of_any_size_and_any_bytes_is_none(app: App) {
        let agent = app.agent("a", "alice").await;
        let (_, live) = app.token(&agent, json!({})).await;
        let As::Bearer(token) = &live else { unreachable!() };
        let long = "x".repeat(1024 * 1024);
        let odd: Vec<Vec<u8>> = vec![
            format!("Bearer {long}").into(),
            format!("Bearer vk_{long}").into(),
            format!("Bearer datamachine_{long}_{}", "0".repeat(64)).into(),
            format!("Bearer vkp_{long}").into(),
            format!("Bearer {token}{token}").into(),
            format!("Bearer {token},{token}").into(),
            format!("Bearer {token} {token}").into(),
            format!("Bearer\t{token}").into(),
            format!("Bearer={token}").into(),
            format!("Basic {token}").into(),
            format!("Bearer \"{token}\"").into(),
            format!("Bearer {}", token.to_uppercase()).into(),
            token.clone().into(),
            b"Bearer \xff\xfe".to_vec(),
            b"Bearer vk_\xc3\xa9".to_vec(),
            b"Bearer ".to_vec(),
            b" ".to_vec(),
            Vec::new(),
        ];
        for value in odd {
            for path in ["/v1/me", "/v1/connections", "/v1/sites"] {
                let value = HeaderValue::from_bytes(&value).unwrap();
                let request = Request::get(path).header(header::AUTHORIZATION, value).body(Body::empty()).unwrap();
                app.send(request).await.refused(401, "unauthenticated");
            }
        }
        app.get(&live, "/v1/me").await.expect(200);
    }

    async fn json_that_is_no_json_or_too_much_of_it_is_refused_and_changes_nothing(app: App) {
        let many = |count: usize| (0..count).map(|n| format!("\"m{n}\":1")).collect::<Vec<_>>().join(",");
        let odd: Vec<(Vec<u8>, u16)> = vec![
            (nested(30_000), 400),
            (format!("{{\"slug\":{}}}", "{\"a\":".repeat(10_000)).into(), 400),
            (nested(5 * 1024 * 1024), 413),
            (format!("{{\"slug\":\"{}\"}}", "x".repeat(1024 * 1024)).into(), 413),
            (format!("{{{}}}", many(5_000)).into(), 400),
            (br#"{"slug":"a","slug":"b"}"#.to_vec(), 400),
            (br#"{"slug":"a","sl\u0075g":"b"}"#.to_vec(), 400),
            (br#"{"slug":"a","owner":"alice","owner":"bob"}"#.to_vec(), 400),
            (br#"{"slug":"a","Slug":"b"}"#.to_vec(), 400),
            (br#"{"slug":"a","__proto__":{"owner":"alice"}}"#.to_vec(), 400),
            (br#"{"slug":"a"} {"slug":"b"}"#.to_vec(), 400),
            (br#"{"slug":"a","owner":"al\u0000ice"}"#.to_vec(), 400),
            (br#"{"slug":"\ud800"}"#.to_vec(), 400),
            (b"{\"slug\":\"a\xff\"}".to_vec(), 400),
            (b"\xef\xbb\xbf{\"slug\":\"a\"}".to_vec(), 400),
            (b"\xff\xfe{\0}\0".to_vec(), 400),
            (br#"{"slug":1e999}"#.to_vec(), 400),
            (br#"{"slug":NaN}"#.to_vec(), 400),
            (br#"{"slug":["a"]}"#.to_vec(), 400),
            (br#"{"slug":"a",}"#.to_vec(), 400),
            (b"slug=a".to_vec(), 400),
            (b"null".to_vec(), 400),
            (b"".to_vec(), 400),
        ];
        for (body, status) in odd {
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            let answer = send(&app, &As::Operator, &Method::POST, "/v1/agents", body).await;
            assert_eq!(answer.status.as_u16(), status, "{shown}: {answer:?}");
            assert!(answer.bytes.len() < 2_000, "{shown}: the answer is as long as the question");
        }
        assert_eq!(app.get(&As::Operator, "/v1/agents").await.expect(200).json()["agents"], json!([]));
    }

    /// Also where the names are not ours: parsers do not agree which of two counts, and somebody may have looked at the other.
    async fn a_member_that_stands_twice_is_refused_wherever_it_stands(app: App) {
        let account = "/v1/providers/http_basic/accounts/users/alice";
        let twice = r#"{"account":{"account":"i","base_url":"https://intranet.example.com","base_url":"https://evil.example","username":"u","password":"p"}}"#;
        let values = r#"{"values":{"client_id":"a","client_secret":"b","developer_username":"c","client_id":"d"}}"#;
        let session = r#"{"provider":"mastodon","owner":"user:alice","fields":{"instance":"https://a.example","instance":"https://b.example"}}"#;
        let question = r#"{"subject":{"type":"agent","id":"a","properties":{"person":"alice","person":"bob"}},"action":{"name":"use"},"resource":{"type":"provider","id":"reddit"}}"#;
        for (method, path, body) in [
            (Method::PUT, account, twice),
            (Method::PATCH, account, r#"{"account":{"note":"a","note":"b"}}"#),
            (Method::PUT, "/v1/providers/reddit/config", values),
            (Method::PATCH, "/v1/providers/reddit/config", r#"{"values":{"client_id":"a","client_id":"b"}}"#),
            (Method::POST, "/v1/connect-sessions", session),
            (Method::POST, "/access/v1/evaluation", question),
        ] {
            let answer = send(&app, &As::Operator, &method, path, body.as_bytes().to_vec()).await.refused(400, "invalid_request");
            assert!(text(&answer.json(), "/detail").contains("twice"), "{path}: {answer:?}");
        }
        assert_eq!(app.get(&As::Operator, "/v1/connections").await.expect(200).json()["connections"], json!([]));
    }

    /// Every route that takes a body, whoever may call it.
    async fn no_body_whatever_is_a_fault_of_ours(app: App) {
        let agent = app.agent("a", "alice").await;
        let (_, token) = app.token(&agent, json!({})).await;
        let key = app.key(&Scope::ALL, Asserts::Any).await;
        let bodies = [nested(20_000), b"{\"\xff\":1}".to_vec(), b"[]".to_vec(), b"\"x\"".to_vec(), b"-0".to_vec(), b"{\"a\":1,\"a\":2}".to_vec()];
        let mut sent = 0;
        for route in ROUTES {
            let method: Method = match route.method {
                "any" => Method::POST,
                one => one.to_ascii_uppercase().parse().unwrap(),
            };
            if ![Method::POST, Method::PUT, Method::PATCH].contains(&method) {
                continue;
            }
            for body in &bodies {
                for who in [&key, &token] {
                    let answer = send(&app, who, &method, &filled(route.path, "nobody"), body.clone()).await;
                    assert!(answer.status.as_u16() < 500, "{method} {}: {answer:?}", route.path);
                    sent += 1;
                }
            }
        }
        assert!(sent > 300, "{sent}");
    }

    async fn a_query_or_a_path_that_could_be_read_in_two_ways_is_refused(app: App) {
        let agent = app.agent("a", "alice").await;
        for query in ["limit=1&limit=2", "limit=1&%6cimit=2", "limit=one", "limit=-1", "limit=99999999999999999999", "Limit=1", "limit[]=1", "user=%00", "user=%ff", "user=a%20b"] {
            app.get(&As::Operator, &format!("/v1/agents?{query}")).await.refused(400, "invalid_request");
        }
        let many: Vec<String> = (0..5_000).map(|n| format!("a{n}")).collect();
        for path in ["/healthz", "/v1/agents", "/openapi.json"] {
            app.get(&As::Operator, &format!("{path}?{}", many.join("&"))).await.refused(400, "invalid_request");
        }
        for odd in ["%ff", "%c3%28", "%00", "a%00b", &"x".repeat(192), "%e2%80%8b", "..%2f..", "%2e%2e"] {
            let answer = app.put(&As::Operator, &format!("/v1/agents/{agent}/roles/{odd}"), json!({ "role": "admin" })).await;
            assert!([204, 400].contains(&answer.status.as_u16()), "{odd}: {answer:?}");
            // Two dots are a name of two dots here, and lead nowhere.
            assert!(answer.status == StatusCode::BAD_REQUEST || odd == "%2e%2e", "{odd}: {answer:?}");
        }
        app.get(&As::Operator, &format!("/v1/agents/{agent}/%2e%2e/%2e%2e/sites")).await.refused(404, "not_found");
        app.get(&As::Operator, "/v1//agents").await.refused(404, "not_found");
        app.get(&As::Operator, "/V1/agents").await.refused(404, "not_found");
        app.get(&As::Operator, "/v1/agents/").await.expect(404);
    }

    async fn lists_and_texts_without_end_are_refused(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let list = |count: usize| (0..count).map(|n| format!("u{n}")).collect::<Vec<_>>();
        for (name, value) in [
            ("for_whom", json!(list(1_001))),
            ("scopes", json!(list(1_001))),
            ("operations", json!(list(1_001).iter().map(|one| format!("GET /{one}")).collect::<Vec<_>>())),
            ("operations", json!([format!("GET /{}", "x".repeat(600))])),
            ("scopes", json!(["x".repeat(2_001)])),
            ("note", json!("x".repeat(2_001))),
            ("rate", json!("9".repeat(400))),
            ("rate", json!("1/99999999999999999999d")),
            ("max_uses", json!(-1)),
            ("max_uses", json!(1.5)),
            ("session", json!("x".repeat(192))),
            ("expires_at", json!("999999-01-01T00:00:00Z")),
            ("delivery", json!(["proxy", "reveal", "email"])),
        ] {
            let mut new = json!({ "agent": agent, "connection": connection });
            new[name] = value;
            let answer = app.post(&As::Operator, "/v1/grants", new).await;
            assert!([400, 413].contains(&answer.status.as_u16()), "{name}: {answer:?}");
        }
        assert_eq!(app.get(&As::Operator, &format!("/v1/grants?agent={agent}")).await.expect(200).json()["grants"], json!([]));
        let scopes = list(200).join(" ");
        app.post(&As::Operator, "/v1/clients", json!({ "name": "x", "confidential": true, "scope": scopes })).await.refused(400, "invalid_request");
        app.put(&As::Operator, "/v1/sites/default/policy", json!({ "ceiling": { "providers": list(1_001) } })).await.refused(400, "invalid_request");
    }

    /// What is matched is what is sent, byte for byte: nothing is put right on the way.
    async fn a_proxied_path_that_could_mean_another_is_refused(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        let grant = json!({ "agent": agent, "connection": connection, "operations": ["GET /public/**"] });
        app.grant(grant).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let base = format!("/v1/proxy/{connection}");
        for path in [
            "/public/..%2fsecret",
            "/public/%2e%2e/secret",
            "/public/%2E%2E%2Fsecret",
            "/public/../secret",
            "/public/./x",
            "/public/..;/secret",
            "/public//secret",
            "//public/x",
            "/public/x%00",
            "/public/%5c..%5csecret",
            "/public/%252e%252e/secret",
            "/public/%zz",
            "/public/%",
            "/public/%c0%ae%c0%ae/secret",
            "/public/%0d%0aHost:evil",
            "/%70ublic/x",
        ] {
            app.get(&token, &format!("{base}{path}")).await.refused(400, "path_refused");
        }
        for path in ["/~evil.example/public/x", "/~/public/x", "/~intranet.example.com@evil.example/public/x", "/~intranet.example.com:81/public/x", "/~intranet.example.com.evil.example/public/x", "/~127.0.0.1/public/x", "/~%69ntranet.example.com/public/x"] {
            app.get(&token, &format!("{base}{path}")).await.refused(403, "host_refused");
        }
        // In other letters it is another path, which nobody granted.
        for path in ["/Public/x", "/PUBLIC/x", "/public", "/publicx", "/secret"] {
            app.get(&token, &format!("{base}{path}")).await.refused(403, "grant_denied");
        }
        for header in [("x-http-method-override", "DELETE"), ("x_http_method_override", "DELETE"), ("x-method-override", "GET")] {
            app.call(&token, Method::GET, &format!("{base}/public/x"), None, &[header]).await.refused(405, "method_refused");
        }
        for query in ["_method=DELETE", "%5fmethod=DELETE", "a=1;_method=DELETE", "X-HTTP-Method-Override=DELETE", "method=delete"] {
            app.get(&token, &format!("{base}/public/x?{query}")).await.refused(405, "method_refused");
        }
        for method in ["TRACE", "TRACK", "CONNECT"] {
            let answer = app.call(&token, method.parse().unwrap(), &format!("{base}/public/x"), None, &[]).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}: {answer:?}");
        }
        for header in [("upgrade", "websocket"), ("http2-settings", "x")] {
            let answer = app.call(&token, Method::GET, &format!("{base}/public/x"), None, &[header]).await;
            answer.refused(400, "upgrade_refused");
        }
    }

    async fn headers_of_ours_that_cannot_be_read_are_refused(app: App) {
        let asking = Asking::new(&app).await;
        let path = format!("/v1/proxy/{}/x", asking.connection);
        let long = "x".repeat(10_000);
        for header in [
            ("valet-approval", long.as_str()),
            ("valet-approval", "apr_1"),
            ("valet-unattended", long.as_str()),
            ("x-agents-api-caller-agent", long.as_str()),
            ("x-agents-api-chain-depth", long.as_str()),
            ("x-agents-api-chain-depth", "1.0"),
            ("x-agents-api-chain-depth", "0x1"),
            ("x-agents-api-caller-host", "javascript:alert(1)"),
            ("x-agents-api-caller-user", "-1"),
        ] {
            app.call(&asking.token, Method::GET, &path, None, &[header]).await.refused(400, "invalid_request");
        }
        let bytes = HeaderValue::from_bytes(b"\xff\xfe").unwrap();
        let As::Bearer(token) = &asking.token else { unreachable!() };
        for name in ["valet-approval", "valet-unattended", "valet-user", "x-agents-api-caller-agent", "x-agents-api-chain-root"] {
            let request = Request::get(&path).header(header::AUTHORIZATION, format!("Bearer {token}")).header(name, bytes.clone());
            app.send(request.body(Body::empty()).unwrap()).await.refused(400, "invalid_request");
        }
        let waits = app.get(&As::Operator, "/v1/approvals").await.expect(200).json();
        assert_eq!(waits["approvals"], json!([]), "nothing of it was held");
    }

    /// The wish of a reveal is read by the same rules as any body.
    async fn the_wish_of_a_reveal_is_read_strictly(app: App) {
        let agent = app.agent("a", "alice").await;
        let connection = app.account("users/alice", "").await;
        app.grant(json!({ "agent": agent, "connection": connection, "delivery": ["reveal"] })).await;
        let (_, token) = app.token(&agent, json!({ "person": "alice" })).await;
        let path = format!("/v1/connections/{connection}/token");
        for body in [&b"{\"min_life\":1,\"min_life\":2}"[..], b"{\"min_life\":-1}", b"{\"min_life\":99999999999}", b"{\"slot\":\"a\\u0000\"}", b"\xff", b"{", b"{\"min_life\":1}{}"] {
            send(&app, &token, &Method::POST, &path, body.to_vec()).await.refused(400, "invalid_request");
        }
        send(&app, &token, &Method::POST, &path, nested(30_000)).await.refused(400, "invalid_request");
        send(&app, &token, &Method::POST, &path, nested(100_000)).await.refused(413, "payload_too_large");
        reveal(&app, &token, &connection, &[]).await.expect(200);
    }

    /// RFC 6749 section 3.1: request parameters must not be included more than once.
    async fn the_authorization_server_is_asked_in_one_way(front: Front) {
        let client = front.public().await;
        let mut browser = front.browser("alice").await;
        let fine = authorize(&client, &[]);
        browser.get(&fine).await.expect(200);
        for twice in ["client_id=x", "redirect_uri=https%3A%2F%2Fevil.example%2F", "scope=reveal", "state=x", "code_challenge=x", "response_type=token", "client_i%64=x"] {
            let answer = browser.get(&format!("{fine}&{twice}")).await.expect(400);
            assert!(!answer.headers.contains_key(header::LOCATION), "{twice}");
        }
        for more in [
            ("scope", "x ".repeat(5_000)),
            ("scope", "proxy ".repeat(200)),
            ("state", "x".repeat(4_001)),
            ("code_challenge", "x".repeat(5_000)),
            ("resource", "x".repeat(5_000)),
            ("response_mode", "fragment".to_owned()),
            ("code_challenge_method", "plain".to_owned()),
        ] {
            let answer = browser.get(&authorize(&client, &[(more.0, more.1.as_str())])).await.expect(303);
            let place = location(&answer).to_owned();
            assert!(place.starts_with(&format!("{CALLBACK}?error=")) && place.len() < 2_000, "{}: {place}", more.0);
        }
        for more in [("client_id", "x".repeat(5_000)), ("redirect_uri", "x".repeat(5_000)), ("state", "\0".to_owned())] {
            browser.get(&authorize(&client, &[(more.0, more.1.as_str())])).await.expect(400);
        }
        let many: Vec<(String, String)> = (0..101).map(|n| (format!("p{n}"), "x".to_owned())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for endpoint in ["token", "device_authorization", "revoke", "introspect"] {
            let path = format!("/oauth/{endpoint}");
            refused(front.post(&path, &many).await, 400, "invalid_request");
            for (body, kind) in [
                (&b"client_id=%ff&token=%c3%28"[..], "application/x-www-form-urlencoded"),
                (&b"client_id=a&client_id=b"[..], "application/x-www-form-urlencoded"),
                (&b"client_id=%00"[..], "application/x-www-form-urlencoded"),
                (&b"\xff\xfe=\xff"[..], "application/x-www-form-urlencoded"),
                (&b"{\"client_id\":\"a\"}"[..], "application/json"),
                (&b"client_id=a"[..], "text/plain"),
                (&b"client_id=a"[..], ""),
            ] {
                let request = Request::post(&path).header(header::CONTENT_TYPE, kind).body(Body::from(body)).unwrap();
                let answer = front.send(request).await;
                assert!([400, 401].contains(&answer.status.as_u16()), "{path} {kind}: {answer:?}");
                let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
                assert!(["invalid_request", "invalid_client"].contains(&error.as_str()), "{path}: {error}");
            }
            for credential in ["Basic", "Basic =", "Basic Og==", "Basic //79", "Basic YQ==", "Basic YTpi YTpi", "Bearer ", "Digest a"] {
                let answer = front.post_with(&path, &[("token", "x")], &[("authorization", credential)]).await;
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {credential}");
            }
            let huge = posted(&path, &[]).body(Body::from(encoded(&[("token", &"x".repeat(1024 * 1024))]))).unwrap();
            refused(front.send(huge).await, 400, "invalid_request");
        }
    }

    async fn a_form_of_a_page_that_is_odd_decides_nothing(pages: Pages) {
        let asking = pages_approvals::Asking::new(&pages).await;
        let held = asking.hold(&pages).await;
        let path = format!("/approvals/{held}");
        let mut browser = pages.browser();
        browser.enter("alice", "/").await.expect(303);
        let token = csrf(&browser.get(&path).await.expect(200));
        let (long, token) = ("x".repeat(2_001), token.as_str());
        let long = long.as_str();
        for form in [
            &[("csrf", token), ("decision", "no"), ("reason", "a\0b")][..],
            &[("csrf", token), ("decision", "no"), ("reason", "\u{1b}[2J")],
            &[("csrf", token), ("decision", "no"), ("reason", long)],
            &[("csrf", token), ("decision", "no"), ("reason", "a"), ("reason", "b")],
            &[("csrf", token), ("decision", "")],
            &[("csrf", token), ("decision", "YES")],
            &[("csrf", token), ("decision", "yes"), ("decision", "yes")],
            &[("csrf", token)],
        ] {
            browser.post_with(&path, form, OURS).await.expect(400);
        }
        let huge = "x".repeat(100_000);
        let answer = browser.post_with(&path, &[("csrf", token), ("decision", "no"), ("reason", &huge)], OURS).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        for odd in ["/approvals/%00", "/approvals/%ff", "/proposals/..%2f", "/connect/%00", "/account/connections/%ff/disconnect"] {
            let answer = browser.get(odd).await;
            assert!(answer.status.is_client_error(), "{odd}: {answer:?}");
        }
        assert_eq!(pages_approvals::status(&pages, &held).await.as_str(), "pending");
    }
}
