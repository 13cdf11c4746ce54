//! `call`: a request to the proxy of the API, and what a tool tells of its answer.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::{
    Answer,
    arguments::Call,
    tools::{Refused, name, request, with},
};

/// How much of a provider's body is told, in bytes.
const LARGEST_BODY: usize = 1024 * 1024;
/// For how long a provider's body is read.
const PATIENCE: Duration = Duration::from_secs(60);
/// How it goes on with a call that waits.
const HELD: &str = "nothing was sent. Show `page` to a person who may approve it, or `command` where there is no page, ask `status` \
    with this id, and once it is approved make exactly the same call with `approval`";
/// The header that only the broker's own errors have, with their code.
const OUR_ERROR: HeaderName = HeaderName::from_static("valet-error");
/// The header by which a call names its approval, and by which the broker says that one waits.
const APPROVAL: HeaderName = HeaderName::from_static("valet-approval");

/// The request that a call is: the same that an agent without MCP would send.
///
/// # Errors
/// `invalid_request` for what is no request at all. What may be called, and how, is found out behind the API.
pub(crate) fn build(call: Call) -> Result<http::Request<Bytes>, Refused> {
    let connection = name("connection", &call.connection)?;
    if !call.path.starts_with('/') {
        return Err(Refused::invalid("path: it begins with `/`"));
    }
    let path = match &call.host {
        None => format!("/v1/proxy/{connection}{}", call.path),
        Some(host) if host.contains(['/', '?', '#']) => return Err(Refused::invalid("host: a host, as `list` names them")),
        Some(host) => format!("/v1/proxy/{connection}/~{host}{}", call.path),
    };
    if path.contains('#') {
        return Err(Refused::invalid("path: it has no fragment; write %23 for a `#`"));
    }
    let method =
        Method::from_bytes(call.method.as_bytes()).map_err(|_| Refused::invalid("method: it is a method such as GET"))?;
    let (body, kind) = match (call.body, call.body_base64) {
        (None, None) => (Bytes::new(), None),
        (Some(text), None) => (Bytes::from(text), Some("application/json")),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| Refused::invalid("body_base64: it is no base64"))?;
            (Bytes::from(bytes), Some("application/octet-stream"))
        }
        (Some(_), Some(_)) => return Err(Refused::invalid("a call has a `body` or a `body_base64`, not both")),
    };
    let mut request = request(method, &path, body, call.unattended)?;
    let headers = request.headers_mut();
    add(headers, call.headers)?;
    if let Some(kind) = kind {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
    }
    for (name, value) in [(HeaderName::from_static("valet-slot"), call.slot), (APPROVAL, call.approval)] {
        if let Some(value) = value {
            let odd = || Refused::invalid(&format!("{}: it is plain text", name.as_str().trim_start_matches("valet-")));
            let value = HeaderValue::from_str(&value).map_err(|_| odd())?;
            headers.insert(name, value);
        }
    }
    Ok(request)
}

/// Adds the headers that a call names. Those that frame a message, or say to the broker who calls, are not the caller's here.
fn add(headers: &mut HeaderMap, named: BTreeMap<String, String>) -> Result<(), Refused> {
    for (name, value) in named {
        let odd = || Refused::invalid("headers: names and values are what HTTP takes for such");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| odd())?;
        let ours = ["authorization", "connection", "content-length", "expect", "host", "transfer-encoding", "upgrade"];
        let prefixes = ["mcp-", "valet-", "x-agents-api-"];
        if ours.contains(&name.as_str()) || prefixes.iter().any(|prefix| name.as_str().starts_with(prefix)) {
            return Err(Refused::invalid(&format!("headers: the broker sets {name} itself; leave it out")));
        }
        headers.append(name, HeaderValue::from_str(&value).map_err(|_| odd())?);
    }
    Ok(())
}

/// What a tool tells of an answer of the proxy: the provider's answer, or that a person must approve the call first.
///
/// # Errors
/// What the broker itself said against it.
pub(crate) async fn told(answer: Answer) -> Result<Value, Refused> {
    let (parts, body) = answer.into_parts();
    // The proxy lets no header of such a name through from a provider: these are the broker's words.
    let (refused, held) = (parts.headers.contains_key(OUR_ERROR), parts.headers.contains_key(APPROVAL));
    let (bytes, whole) = read(body, LARGEST_BODY).await?;
    if refused {
        return Err(Refused::problem(&parts, &bytes));
    }
    if held {
        let told: Value = serde_json::from_slice(&bytes).map_err(|_| Refused::unreadable())?;
        return with(told, &[("outcome", "approval_required"), ("next", HELD)]);
    }
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &parts.headers {
        if matches!(name.as_str(), "connection" | "content-length" | "transfer-encoding") {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        let line = headers.entry(name.as_str()).or_default();
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(&value);
    }
    let mut told = json!({ "outcome": "answered", "status": parts.status.as_u16(), "headers": headers, "truncated": !whole });
    let body = match std::str::from_utf8(&bytes) {
        Ok(text) => Some(text),
        // Cut in the middle of a character.
        Err(why) if !whole && why.error_len().is_none() => std::str::from_utf8(&bytes[..why.valid_up_to()]).ok(),
        Err(_) => None,
    };
    match body {
        Some(text) => told["body"] = text.into(),
        None => told["body_base64"] = STANDARD.encode(&bytes).into(),
    }
    Ok(told)
}

/// A body as far as it comes in time and fits, and whether that is all of it.
///
/// # Errors
/// It broke off.
pub(crate) async fn read<B>(mut body: B, most: usize) -> Result<(Bytes, bool), Refused>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut all = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) => return Ok((all.freeze(), false)),
            Ok(None) => return Ok((all.freeze(), true)),
            Ok(Some(Err(_))) => return Err(Refused::broke_off()),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let room = most - all.len();
        if data.len() > room {
            all.extend_from_slice(&data[..room]);
            return Ok((all.freeze(), false));
        }
        all.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    fn call(more: Value) -> Result<http::Request<Bytes>, Refused> {
        let mut call = json!({ "connection": "con_1", "method": "POST", "path": "/x?y=1" });
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        build(serde_json::from_value(call).unwrap())
    }

    fn answered(status: u16, headers: &[(&'static str, &'static str)], body: Vec<u8>) -> Answer {
        let mut answer = http::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()).unwrap()
    }

    #[test]
    fn a_call_is_the_request_that_an_agent_without_mcp_would_send() {
        let request = call(json!({
            "headers": { "X-Own": "1" }, "body": "{}", "slot": "page/1", "approval": "apr_1", "unattended": true,
        }))
        .unwrap();
        assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "/v1/proxy/con_1/x?y=1"));
        for (name, value) in [
            ("x-own", "1"),
            ("content-type", "application/json"),
            ("valet-slot", "page/1"),
            ("valet-approval", "apr_1"),
            ("valet-unattended", "true"),
        ] {
            assert_eq!(request.headers()[name], value, "{name}");
        }
        assert_eq!(request.body().as_ref(), b"{}");
        let elsewhere = call(json!({ "host": "uploads.example:8443" })).unwrap();
        assert_eq!(elsewhere.uri(), "/v1/proxy/con_1/~uploads.example:8443/x?y=1");
        assert!(!elsewhere.headers().contains_key("content-type"));
    }

    #[test]
    fn bytes_travel_as_base64_and_headers_may_say_what_they_are() {
        let request = call(json!({ "body_base64": "AAE=", "headers": { "content-type": "image/png" } })).unwrap();
        assert_eq!(
            (request.body().as_ref(), &request.headers()["content-type"]),
            (&[0, 1][..], &HeaderValue::from_static("image/png"))
        );
        assert!(call(json!({ "body_base64": "***" })).is_err());
        assert!(call(json!({ "body_base64": "AAE=", "body": "x" })).is_err());
    }

    #[test]
    fn no_header_says_who_calls_or_frames_the_message() {
        for name in [
            "Authorization",
            "host",
            "Content-Length",
            "transfer-encoding",
            "valet-user",
            "Valet-Approval",
            "x-agents-api-user",
            "mcp-session-id",
        ] {
            assert!(call(json!({ "headers": { name: "1" } })).is_err(), "{name}");
        }
        assert!(call(json!({ "headers": { "x-own": "a\r\nvalet-user: bob" } })).is_err());
        assert!(call(json!({ "headers": { "x own": "1" } })).is_err());
    }

    #[test]
    fn a_connection_stays_within_its_segment() {
        for odd in ["", ".", "..", "con_1/../me", "con_1?x", "con_1%2f", "con 1", "con_1#"] {
            assert!(call(json!({ "connection": odd })).is_err(), "{odd:?}");
        }
        for odd in ["x", "", "/x#y", "https://evil.example/"] {
            assert!(call(json!({ "path": odd })).is_err(), "{odd:?}");
        }
        assert!(call(json!({ "host": "a/b" })).is_err() && call(json!({ "host": "a?b" })).is_err());
        assert!(call(json!({ "method": "G T" })).is_err());
    }

    #[tokio::test]
    async fn a_providers_answer_is_told_whatever_its_status() {
        let answer = answered(404, &[("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2")], b"gone".to_vec());
        let told = told(answer).await.unwrap();
        let expected = json!({
            "outcome": "answered", "status": 404, "headers": { "content-type": "text/plain", "x-a": "1, 2" }, "body": "gone",
            "truncated": false,
        });
        assert_eq!(told, expected);
    }

    #[tokio::test]
    async fn a_body_that_is_no_text_is_base64_and_one_too_large_is_cut() {
        let told_of = async |body: Vec<u8>| told(answered(200, &[], body)).await.unwrap();
        assert_eq!(told_of(vec![0xff, 0]).await["body_base64"], "/wA=");
        // Of two bytes each, beginning at an odd place: the last is cut in two.
        let large = format!("x{}", "\u{e4}".repeat(LARGEST_BODY));
        let cut = told_of(large.into_bytes()).await;
        assert_eq!((cut["body"].as_str().unwrap().len(), &cut["truncated"]), (LARGEST_BODY - 1, &json!(true)));
    }

    #[tokio::test]
    async fn the_brokers_own_word_is_told_from_a_providers_that_looks_like_it() {
        let body = br#"{"type":"about:blank","title":"Not Found","status":404,"code":"not_found","detail":"no"}"#.to_vec();
        let kind = ("content-type", "application/problem+json");
        assert_eq!(told(answered(404, &[kind], body.clone())).await.unwrap()["outcome"], "answered");
        let refused = told(answered(404, &[kind, ("valet-error", "not_found"), ("retry-after", "7")], body)).await.unwrap_err();
        assert_eq!(refused.0, json!({ "code": "not_found", "detail": "no", "retry_after": 7 }));
        let held = br#"{"code":"approval_required","approval":"apr_1","status":"pending"}"#.to_vec();
        let told = told(answered(202, &[("valet-approval", "apr_1")], held)).await.unwrap();
        assert_eq!((&told["outcome"], &told["approval"]), (&json!("approval_required"), &json!("apr_1")));
    }
}
