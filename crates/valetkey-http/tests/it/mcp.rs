//! The MCP server, as a client meets it: what the protocol asks for, who is let in, and each tool.

use std::time::Duration;

use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use valetkey::{
    agent::{self, NewAgent},
    approval::{self, Decider},
    audit,
    grant::{self, Effect, ForWhom, NewGrant},
    id::{AgentId, ConnectionId, GrantId, SiteId},
    principal::Actor,
    provider::pattern::PathPattern,
    token::{self, NewToken},
};

use crate::{
    pages::{HTTPS, Pages},
    support::{Answer, on_each_db},
};

const HOST: &str = "keys.example.test";

/// An agent of Alice's with her account at the lab, and an MCP client that shows its token.
struct Client<'p> {
    pages: &'p Pages,
    agent: AgentId,
    connection: ConnectionId,
    grant: GrantId,
    token: String,
    bearer: String,
}

impl<'p> Client<'p> {
    async fn new(pages: &'p Pages) -> Self {
        let base = pages.broker.base();
        let (connection, grant) = pages.connected("alice").await;
        let agent = grant::get(&base.db, &site(), &grant).await.unwrap().unwrap().agent;
        let (token, bearer) = mint(pages, &agent, "alice").await;
        Self { pages, agent, connection, grant, token, bearer }
    }

    /// A message as a client sends it.
    fn message(&self, message: &Value) -> http::request::Builder {
        let request = Request::post("/mcp").header(header::HOST, HOST).header(header::CONTENT_TYPE, "application/json");
        let request = request.header(header::ACCEPT, "application/json, text/event-stream");
        let version = message.pointer("/params/_meta/io.modelcontextprotocol~1protocolVersion").and_then(Value::as_str);
        request
            .header("mcp-protocol-version", version.unwrap_or("2025-06-18"))
            .header("mcp-method", message["method"].as_str().unwrap())
            .header(header::AUTHORIZATION, format!("Bearer {}", self.bearer))
    }

    async fn post(&self, request: http::request::Builder, message: &Value) -> Answer {
        let answer = self.pages.browser().send(request, Body::from(message.to_string())).await;
        let seen = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.bytes));
        for secret in [self.bearer.as_str(), provider_lab::ACCESS_PREFIX, provider_lab::REFRESH_PREFIX] {
            assert!(!seen.contains(secret), "a credential is in the answer: {seen}");
        }
        answer
    }

    async fn send(&self, message: &Value) -> Answer {
        self.post(self.message(message), message).await
    }

    /// The result of a request.
    async fn ask(&self, method: &str, params: Value) -> Value {
        let answer = self.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await.expect(200);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        let answer = answer.json();
        assert_eq!(answer["id"], 1, "{answer}");
        assert!(answer.get("error").is_none(), "{answer}");
        answer["result"].clone()
    }

    async fn tool(&self, name: &str, arguments: Value) -> Value {
        let result = self.ask("tools/call", json!({ "name": name, "arguments": arguments })).await;
        // For clients that read no structure, the same as text.
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"]);
        result
    }

    /// What a tool tells.
    async fn told(&self, name: &str, arguments: Value) -> Value {
        let result = self.tool(name, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        result["structuredContent"].clone()
    }

    /// Why a tool has no result: its code and what to do.
    async fn refused(&self, name: &str, arguments: Value) -> (String, String) {
        let result = self.tool(name, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        let text = |name: &str| result["structuredContent"][name].as_str().unwrap_or_default().to_owned();
        assert!(!text("detail").is_empty(), "{result}");
        (text("code"), text("detail"))
    }

    async fn asking(&self) {
        let base = self.pages.broker.base();
        grant::revoke(base, &site(), &Actor::Operator, &self.grant, "asks now").await.unwrap();
        let asks = NewGrant { effect: Effect::Ask, ..NewGrant::proxy(&self.agent, &self.connection, ForWhom::Owner) };
        grant::create(base, &site(), &Actor::Operator, asks).await.unwrap();
    }
}

fn site() -> SiteId {
    SiteId::default_site()
}

async fn mint(pages: &Pages, agent: &AgentId, person: &str) -> (String, String) {
    let new = NewToken { person: Some(person.parse().unwrap()), ..NewToken::default() };
    let (token, text) = token::mint(pages.broker.base(), &site(), &Actor::Operator, agent, new).await.unwrap();
    (token.id.to_string(), text.expose().to_owned())
}

/// The events of a kind, once there is one: who, what came of it, and its facts. Those of uses are written beside the answer.
async fn audited(pages: &Pages, action: &str) -> Vec<(String, String, Value)> {
    for _ in 0..400 {
        let mut rows = audit::list(&pages.broker.base().db, &site(), None, 1000).await.unwrap();
        rows.retain(|row| row.action == action);
        if !rows.is_empty() {
            return rows.into_iter().map(|row| (row.actor, row.outcome, serde_json::from_str(&row.facts).unwrap())).collect();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("there is no {action}");
}

on_each_db! {
    async fn a_client_of_the_revisions_with_a_handshake_is_greeted(pages: Pages) {
        let client = Client::new(&pages).await;
        for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
            let hello = json!({ "protocolVersion": version, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello });
            let mut request = client.message(&message);
            request.headers_mut().unwrap().insert("mcp-protocol-version", version.parse().unwrap());
            let greeted = client.post(request, &message).await.expect(200);
            assert!(!greeted.headers.contains_key("mcp-session-id"), "there are no sessions");
            let greeted = greeted.json()["result"].clone();
            assert_eq!((&greeted["protocolVersion"], &greeted["serverInfo"]["name"]), (&json!(version), &json!("valetkey")));
            assert!(greeted["capabilities"]["tools"].is_object() && greeted["instructions"].is_string(), "{greeted}");
        }
        client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await.expect(202);
        assert_eq!(client.ask("ping", json!({})).await, json!({}));
    }

    async fn a_client_of_the_revision_without_a_handshake_is_told_what_there_is(pages: Pages) {
        let client = Client::new(&pages).await;
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        });
        let told = client.ask("server/discover", json!({ "_meta": meta })).await;
        assert!(told["supportedVersions"].as_array().unwrap().contains(&json!("2026-07-28")), "{told}");
        let told = client.ask("tools/list", json!({ "_meta": meta })).await;
        assert_eq!(told["tools"].as_array().unwrap().len(), 6);
    }

    async fn every_tool_says_what_it_takes_and_tells(pages: Pages) {
        let client = Client::new(&pages).await;
        let tools = client.ask("tools/list", json!({})).await["tools"].as_array().unwrap().clone();
        let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["list", "connect", "request", "call", "status", "revoke"]);
        for tool in &tools {
            assert_eq!((&tool["inputSchema"]["type"], &tool["outputSchema"]["type"]), (&json!("object"), &json!("object")));
            assert_eq!(tool["inputSchema"]["additionalProperties"], false, "{tool}");
            assert!(tool["description"].as_str().is_some_and(|text| text.len() > 20) && tool["title"].is_string(), "{tool}");
            let reads = ["list", "status"].contains(&tool["name"].as_str().unwrap());
            assert_eq!(tool["annotations"]["readOnlyHint"], reads, "{tool}");
        }
    }

    /// R79: the 401 names the metadata of this place, and those name it as the resource.
    async fn who_shows_no_token_is_told_where_tokens_come_from(pages: Pages) {
        let client = Client::new(&pages).await;
        let metadata = format!("{HTTPS}/.well-known/oauth-protected-resource/mcp");
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        let mut nobody = client.message(&message);
        nobody.headers_mut().unwrap().remove(header::AUTHORIZATION);
        let mut unknown = client.message(&message);
        unknown.headers_mut().unwrap().insert(header::AUTHORIZATION, format!("Bearer datamachine_a_{}", "0".repeat(64)).parse().unwrap());
        let mut platform = client.message(&message);
        platform.headers_mut().unwrap().insert(header::AUTHORIZATION, format!("Bearer vkp_{}", "A".repeat(43)).parse().unwrap());
        // A client that looks for a stream first.
        let stream = Request::get("/mcp").header(header::HOST, HOST).header(header::ACCEPT, "text/event-stream");
        for request in [nobody, unknown, platform, stream] {
            let answer = client.post(request, &message).await.refused(401, "unauthenticated");
            let challenge = format!("Bearer resource_metadata=\"{metadata}\", scope=\"proxy\"");
            assert_eq!(answer.headers[header::WWW_AUTHENTICATE], challenge.as_str());
        }
        let told = pages.browser().get(metadata.strip_prefix(HTTPS).unwrap()).await.expect(200).json();
        assert_eq!((&told["resource"], &told["authorization_servers"]), (&json!(format!("{HTTPS}/mcp")), &json!([HTTPS])));
        // With a token there is no stream to open either: there are no sessions.
        let stream = Request::get("/mcp").header(header::HOST, HOST).header(header::AUTHORIZATION, format!("Bearer {}", client.bearer));
        let answer = client.post(stream, &json!(null)).await.expect(405);
        assert_eq!(answer.headers[header::ALLOW], "POST");
    }

    async fn a_revoked_token_is_refused_on_the_next_request(pages: Pages) {
        let client = Client::new(&pages).await;
        client.told("list", json!({})).await;
        token::revoke(pages.broker.base(), &site(), &Actor::Operator, &client.token.parse().unwrap(), "over").await.unwrap();
        for method in ["ping", "tools/list", "tools/call"] {
            client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": method })).await.refused(401, "unauthenticated");
        }
    }

    /// DNS rebinding: the page of a stranger leads its own name to us, and says so in `Host` or `Origin`.
    async fn another_host_or_origin_is_refused(pages: Pages) {
        let client = Client::new(&pages).await;
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        let with = |name: header::HeaderName, value: &str| {
            let mut request = client.message(&message);
            request.headers_mut().unwrap().insert(name, value.parse().unwrap());
            request
        };
        for host in ["evil.example", "keys.example.test.evil.example", "evil.example:443", "169.254.169.254"] {
            client.post(with(header::HOST, host), &message).await.expect(403);
        }
        for origin in ["https://evil.example", "http://keys.example.test", "https://keys.example.test:8443", "null", "http://127.0.0.1:1"] {
            client.post(with(header::ORIGIN, origin), &message).await.expect(403);
        }
        client.post(with(header::ORIGIN, HTTPS), &message).await.expect(200);
        for host in [HOST, "KEYS.example.test:443", "localhost:8320", "127.0.0.1:8320", "[::1]:8320"] {
            client.post(with(header::HOST, host), &message).await.expect(200);
        }
    }

    async fn what_is_too_large_or_no_message_is_refused(pages: Pages) {
        let client = Client::new(&pages).await;
        let large = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "x".repeat(3 * 1024 * 1024) } });
        client.send(&large).await.refused(413, "payload_too_large");
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        let answer = pages.browser().send(client.message(&ping), Body::from("nonsense")).await;
        assert!(answer.status.is_client_error(), "{answer:?}");
        let told = client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "reveal" } })).await;
        assert_eq!(told.expect(200).json()["error"]["code"], -32602);
        for (tool, wrong) in [
            ("list", json!({ "unatended": true })),
            ("list", json!({ "limit": "all" })),
            ("list", json!({ "after": "con_1/../../grants" })),
            ("list", json!({ "after": "con_1" })),
            ("call", json!({ "connection": "lab", "method": "GET" })),
            ("call", json!({ "connection": "lab", "method": "GET", "path": "/x", "headers": { "authorization": "Bearer x" } })),
            ("status", json!({ "id": "con_1" })),
            ("revoke", json!({ "token": 7 })),
        ] {
            assert_eq!(client.refused(tool, wrong).await.0, "invalid_request");
        }
    }

    async fn an_agent_is_told_what_it_may_use_and_nothing_else(pages: Pages) {
        let client = Client::new(&pages).await;
        pages.connected("bob").await;
        let told = client.told("list", json!({})).await;
        assert_eq!((&told["agent"], &told["user"], &told["token"]), (&json!(client.agent), &json!("alice"), &json!(client.token)));
        let [only] = told["connections"].as_array().unwrap().as_slice() else { panic!("{told}") };
        assert_eq!((&only["id"], &only["provider"], &only["delivery"]), (&json!(client.connection), &json!("lab"), &json!(["proxy"])));
        assert_eq!((&only["operations"], &only["asks"]), (&Value::Null, &json!([])));
        assert_eq!(only["hosts"], json!([pages.lab.addr().to_string()]));
        // Her grant is for her alone.
        assert_eq!(client.told("list", json!({ "unattended": true })).await["connections"], json!([]));

        let base = pages.broker.base();
        let narrow = NewGrant {
            operations: Some(vec!["GET /api/me".parse::<PathPattern>().unwrap()].into()),
            ..NewGrant::proxy(&client.agent, &client.connection, ForWhom::Owner)
        };
        grant::create(base, &site(), &Actor::Operator, narrow).await.unwrap();
        assert_eq!(client.told("list", json!({})).await["connections"][0]["operations"], Value::Null, "the wider one counts too");
        grant::revoke(base, &site(), &Actor::Operator, &client.grant, "narrower").await.unwrap();
        assert_eq!(client.told("list", json!({})).await["connections"][0]["operations"], json!(["GET /api/me"]));
    }

    async fn what_an_agent_may_use_is_told_in_pages(pages: Pages) {
        let client = Client::new(&pages).await;
        let first = client.told("list", json!({ "limit": 1 })).await;
        assert_eq!((&first["connections"][0]["id"], &first["next"]), (&json!(client.connection), &json!(client.connection)));
        let last = client.told("list", json!({ "limit": 1, "after": first["next"] })).await;
        assert_eq!((&last["connections"], &last["next"]), (&json!([]), &Value::Null));
        assert_eq!(client.told("list", json!({})).await["next"], Value::Null);
    }

    /// The same code as of every other call of an agent: the same rules, and the same row.
    async fn a_call_goes_through_the_proxy_and_is_recorded(pages: Pages) {
        let client = Client::new(&pages).await;
        let call = json!({
            "connection": client.connection, "method": "POST", "path": "/echo?to=x", "headers": { "x-own": "1", "x-forwarded-for": "1.2.3.4" },
            "body": "{\"say\":\"hello\"}",
        });
        let told = client.told("call", call).await;
        assert_eq!((&told["outcome"], &told["status"], &told["truncated"]), (&json!("answered"), &json!(200), &json!(false)));
        assert_eq!(told["headers"]["content-security-policy"], "sandbox");
        let seen: Value = serde_json::from_str(told["body"].as_str().unwrap()).unwrap();
        assert_eq!((&seen["method"], &seen["path"], &seen["query"]), (&json!("POST"), &json!("/api/echo"), &json!("to=x")));
        assert_eq!((&seen["authorization"]["live"], &seen["body"]["length"]), (&json!(true), &json!(15)));
        let headers = seen["headers"].as_array().unwrap();
        assert!(headers.contains(&json!(["x-own", "1"])) && headers.contains(&json!(["content-type", "application/json"])), "{seen}");
        for gone in ["x-forwarded-for", "valet-error", "mcp-method", "mcp-protocol-version"] {
            assert!(!headers.iter().any(|header| header[0] == gone), "{gone}: {seen}");
        }
        let facts = json!({ "grant": client.grant, "method": "POST", "host": pages.lab.addr().to_string(), "path": "/api/echo" });
        let events = audited(&pages, "connection.proxy").await;
        let [(who, outcome, told)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((outcome.as_str(), told), ("ok", &facts));
        assert!(who.starts_with(&format!("agent:{}/{}", client.agent, client.token)) && who.ends_with("user:alice"), "{who}");

        // By the provider's name, where only one can be meant.
        let call = json!({ "connection": "lab", "method": "GET", "path": "/nothing-is-here" });
        let told = client.told("call", call).await;
        assert_eq!((&told["outcome"], &told["status"]), (&json!("answered"), &json!(404)));
    }

    async fn what_the_rules_refuse_is_refused_with_its_code(pages: Pages) {
        let client = Client::new(&pages).await;
        let (others, _) = pages.connected("bob").await;
        for (changed, code) in [
            (json!({ "connection": others }), "not_found"),
            (json!({ "connection": format!("con_{}", "0".repeat(32)) }), "not_found"),
            (json!({ "path": "/echo-credential" }), "credential_path"),
            (json!({ "path": "/../token" }), "path_refused"),
            (json!({ "host": "evil.example" }), "host_refused"),
            (json!({ "method": "TRACE" }), "method_refused"),
            (json!({ "headers": { "x-http-method-override": "DELETE" } }), "method_refused"),
            (json!({ "unattended": true }), "grant_denied"),
        ] {
            let mut call = json!({ "connection": client.connection, "method": "GET", "path": "/me" });
            call.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
            assert_eq!(client.refused("call", call.clone()).await.0, code, "{call}");
        }
        assert_eq!(pages.lab.requests("api"), 0);
    }

    /// A client that is set up to be unattended is so whatever its model asks for.
    async fn a_header_of_the_client_gives_up_the_person_for_every_tool(pages: Pages) {
        let client = Client::new(&pages).await;
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "list", "arguments": {} } });
        let told = client.post(client.message(&message).header("valet-unattended", "true"), &message).await.expect(200).json();
        let told = &told["result"]["structuredContent"];
        assert_eq!((&told["user"], &told["connections"]), (&Value::Null, &json!([])));
        client.post(client.message(&message).header("valet-user", "bob"), &message).await.refused(400, "invalid_request");
    }

    async fn a_call_that_a_grant_asks_about_waits_and_is_made_once(pages: Pages) {
        let client = Client::new(&pages).await;
        client.asking().await;
        let call = |more: Value| {
            let mut call = json!({ "connection": client.connection, "method": "POST", "path": "/echo", "body": "{}" });
            call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            call
        };
        let held = client.told("call", call(json!({}))).await;
        assert_eq!((&held["outcome"], &held["code"], &held["status"]), (&json!("approval_required"), &json!("approval_required"), &json!("pending")));
        let id = held["approval"].as_str().unwrap().to_owned();
        assert_eq!(held["page"], format!("{HTTPS}/approvals/{id}?site=default"));
        assert_eq!((client.told("status", json!({ "id": id })).await["status"].clone(), pages.lab.requests("api")), (json!("pending"), 0));
        let decider = Decider { actor: Actor::User("alice".parse().unwrap()), administers: false };
        approval::approve(pages.broker.base(), &site(), &decider, &id.parse().unwrap()).await.unwrap();
        let stands = client.told("status", json!({ "id": id, "wait": 30 })).await;
        assert_eq!((&stands["status"], &stands["decided_by"]), (&json!("approved"), &Value::Null));
        let other = client.refused("call", call(json!({ "approval": id, "body": "{\"more\":1}" }))).await;
        assert_eq!(other.0, "approval_mismatch");
        let made = client.told("call", call(json!({ "approval": id }))).await;
        assert_eq!((&made["outcome"], &made["status"]), (&json!("answered"), &json!(200)));
        assert_eq!(client.refused("call", call(json!({ "approval": id }))).await.0, "approval_used");
        assert_eq!(pages.lab.requests("api"), 1);
    }

    async fn asking_for_access_grants_nothing_and_names_the_page(pages: Pages) {
        let client = Client::new(&pages).await;
        let made = client.told("connect", json!({ "provider": "signed", "reason": "to post for you" })).await;
        let id = made["id"].as_str().unwrap();
        assert_eq!((&made["status"], &made["provider"], &made["addressee"]), (&json!("pending"), &json!("signed"), &json!("alice")));
        assert_eq!(made["page"], format!("{HTTPS}/proposals/{id}?site=default"));
        let again = client.told("connect", json!({ "provider": "signed", "reason": "to post for you" })).await;
        assert_eq!(again["id"], made["id"], "the same wish is the same question");
        assert_eq!(client.told("status", json!({ "id": id })).await["status"], "pending");

        let wish = json!({ "connection": client.connection, "operations": ["GET /api/me"], "for_whom": "operators", "reason": "for all" });
        let made = client.told("request", wish).await;
        assert_eq!((&made["operations"], &made["for_whom"], &made["delivery"]), (&json!(["GET /api/me"]), &json!("operators"), &json!(["proxy"])));
        assert_eq!(client.refused("connect", json!({ "provider": "nowhere", "reason": "x" })).await.0, "not_found");
        assert_eq!(client.refused("request", json!({ "provider": "lab", "reason": " " })).await.0, "invalid_request");
        let grants = grant::list(&pages.broker.base().db, &site(), Some(&client.agent), None).await.unwrap();
        assert_eq!(grants.len(), 1);
    }

    /// Whoever administers the site is asked, for whom there is no page.
    async fn what_no_page_shows_names_a_command(pages: Pages) {
        let client = Client::new(&pages).await;
        let base = pages.broker.base();
        let new = NewAgent { id: None, slug: "nobodys".into(), title: String::new(), owner: None };
        let agent = agent::create(base, &site(), &Actor::Operator, new).await.unwrap().id;
        let (_, bearer) = token::mint(base, &site(), &Actor::Operator, &agent, NewToken::default()).await.unwrap();
        let client = Client { bearer: bearer.expose().to_owned(), ..client };
        let made = client.told("connect", json!({ "provider": "lab", "for_whom": "unattended", "reason": "to post" })).await;
        let command = format!("valetkey proposal accept {}", made["id"].as_str().unwrap());
        assert_eq!((&made["page"], &made["command"]), (&Value::Null, &json!(command)));
        assert!(made["next"].as_str().unwrap().contains("`command`"), "{made}");
    }

    async fn an_agent_gives_up_its_own_token_and_no_other(pages: Pages) {
        let client = Client::new(&pages).await;
        let (second, other) = mint(&pages, &client.agent, "alice").await;
        let base = pages.broker.base();
        let new = NewAgent { id: None, slug: "b".into(), title: String::new(), owner: Some("bob".parse().unwrap()) };
        let bobs = agent::create(base, &site(), &Actor::Operator, new).await.unwrap().id;
        let (theirs, _) = mint(&pages, &bobs, "bob").await;
        for foreign in [&second, &theirs] {
            assert_eq!(client.refused("revoke", json!({ "token": foreign })).await.0, "not_found");
        }
        assert_eq!(client.told("revoke", json!({ "token": client.token })).await, json!({ "revoked": client.token }));
        client.send(&json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" })).await.refused(401, "unauthenticated");
        let events = audited(&pages, "token.revoke").await;
        assert_eq!((events.len(), &events[0].2["token"]), (1, &json!(client.token)));
        assert!(events[0].0.starts_with(&format!("agent:{}/{}", client.agent, client.token)), "{events:?}");
        Client { bearer: other, ..client }.told("list", json!({})).await;
    }
}
