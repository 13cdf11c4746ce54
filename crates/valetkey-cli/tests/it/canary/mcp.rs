//! The same by MCP: nothing of what a client sends to `/mcp` is in a log or an answer, and no credential is in what a tool tells.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::Cage;
use crate::scene::Usable;

/// Every tool that changes nothing, as it should be and as it should not.
pub(super) async fn by_mcp(cage: &mut Cage, usable: &Usable) {
    let (header, query, body, odd) = (
        cage.trap.plant("a header by MCP"),
        cage.trap.plant("a query by MCP"),
        cage.trap.plant("a body by MCP"),
        cage.trap.plant("an odd argument by MCP"),
    );
    let connection = usable.connection.as_str();
    let call = |more: Value| {
        let mut call = json!({ "connection": connection, "method": "POST", "path": "/echo-nothing" });
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "name": "call", "arguments": call })
    };
    let calls = [
        json!({ "name": "list", "arguments": {} }),
        call(json!({ "path": format!("/echo-nothing?x={query}"), "headers": { "x-own": header }, "body": body })),
        call(json!({ "method": "GET", "path": "/me" })),
        call(json!({ "method": "GET", "path": "/echo-credential" })),
        call(json!({ "connection": "lab", "headers": { "authorization": format!("Bearer {odd}") } })),
        call(json!({ "body_base64": { "a": odd } })),
        call(json!({ "approval": odd })),
        json!({ "name": "status", "arguments": { "id": odd } }),
        json!({ "name": "revoke", "arguments": { "token": odd } }),
        json!({ "name": odd, "arguments": { "a": odd } }),
    ];
    let bearers = [(usable.token.token.clone(), StatusCode::OK), (odd, StatusCode::UNAUTHORIZED)];
    for (bearer, status) in bearers {
        for call in &calls {
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call });
            let url = cage.at("/mcp");
            let request = cage.scene.http.post(url).header("accept", "application/json, text/event-stream");
            let request = request.header("mcp-protocol-version", "2025-06-18").bearer_auth(&bearer).json(&message);
            let (answer, _) = cage.trap.ask("POST /mcp", request).await;
            assert_eq!(answer.status, status, "{call}");
        }
    }
}
