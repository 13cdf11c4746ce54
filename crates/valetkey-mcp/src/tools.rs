//! The tools by name, and what each asks of the API.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header, response};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, Implementation, JsonObject, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
    },
    schemars::JsonSchema,
    service::RequestContext,
};
use serde_json::{Map, Value, json};

use crate::{Api, Unreachable, arguments, proxied};

/// The largest answer of the API itself that is read, in bytes.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// What a client's model is told of all this.
const INSTRUCTIONS: &str = "Valet Key lets you use people's accounts at other services without ever seeing their credentials. \
    `list` says which connections you may use. `call` makes a request to a provider with one of them; the broker adds the \
    credential. Where you lack access, `connect` or `request` asks a person for it: show them the `page` that comes back, or the \
    `command` where there is no page. Where a call answers `approval_required`, show the same, ask `status`, and repeat exactly the \
    same call with `approval`. Errors have a stable `code` and a `detail` that says what to do.";

/// How it goes on after a proposal.
const PROPOSED: &str = "nothing is granted yet. Show `page` to the person: there they connect an account where they have none, and \
    say yes or no. Where it is null, show `command` to whoever administers the site. Ask `status` with this id";

/// The tools for one agent, over the API.
pub(crate) struct Tools<A>(Arc<A>);

impl<A> Clone for Tools<A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Why a tool has no result: what the agent is told.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Value);

impl Refused {
    pub(crate) fn invalid(detail: &str) -> Self {
        Self(json!({ "code": "invalid_request", "detail": detail }))
    }

    pub(crate) fn unreadable() -> Self {
        Self(json!({ "code": "unavailable", "detail": "the broker's answer cannot be read; try again later" }))
    }

    pub(crate) fn broke_off() -> Self {
        Self(json!({ "code": "unavailable", "detail": "the answer broke off before its end; whether it was done is not known" }))
    }

    /// A problem document (RFC 9457) of the API, less what is HTTP's.
    pub(crate) fn problem(parts: &response::Parts, body: &[u8]) -> Self {
        let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else { return Self::unreadable() };
        for name in ["type", "title", "status"] {
            members.remove(name);
        }
        let wait = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        if let Some(seconds) = wait.and_then(|wait| wait.parse::<u64>().ok()) {
            members.insert("retry_after".to_owned(), seconds.into());
        }
        Self(Value::Object(members))
    }
}

impl From<Unreachable> for Refused {
    fn from(Unreachable(detail): Unreachable) -> Self {
        Self(json!({ "code": "unavailable", "detail": detail }))
    }
}

impl<A: Api> Tools<A> {
    pub(crate) fn new(api: Arc<A>) -> Self {
        Self(api)
    }

    /// Does what a tool does; nothing where there is no tool of that name.
    async fn run(&self, tool: &str, arguments: JsonObject) -> Option<Result<Value, Refused>> {
        Some(match tool {
            "list" => self.list(arguments).await,
            "connect" => self.connect(arguments).await,
            "request" => self.request(arguments).await,
            "call" => self.call(arguments).await,
            "status" => self.status(arguments).await,
            "revoke" => self.revoke(arguments).await,
            _ => return None,
        })
    }

    async fn list(&self, arguments: JsonObject) -> Result<Value, Refused> {
        let arguments::List { after, limit, unattended } = arguments::read(arguments)?;
        let path = match &after {
            Some(after) => format!("/v1/me?limit={limit}&after={}", name("after", after)?),
            None => format!("/v1/me?limit={limit}"),
        };
        self.ask(request(Method::GET, &path, Bytes::new(), unattended)?).await
    }

    async fn connect(&self, arguments: JsonObject) -> Result<Value, Refused> {
        let arguments::Connect { provider, reason, for_whom, unattended } = arguments::read(arguments)?;
        let wish = arguments::Request {
            connection: None,
            provider: Some(provider),
            operations: None,
            delivery: Vec::new(),
            for_whom,
            reason,
            unattended,
        };
        self.propose(wish).await
    }

    async fn request(&self, arguments: JsonObject) -> Result<Value, Refused> {
        self.propose(arguments::read(arguments)?).await
    }

    /// Asks a person. Nothing is granted by asking.
    async fn propose(&self, wish: arguments::Request) -> Result<Value, Refused> {
        let body = arguments::wish([
            ("connection", wish.connection.map(Value::from)),
            ("provider", wish.provider.map(Value::from)),
            ("operations", wish.operations.map(Value::from)),
            ("delivery", Some(Value::from(wish.delivery))),
            ("for_whom", wish.for_whom.and_then(|whom| serde_json::to_value(whom).ok())),
            ("reason", Some(Value::from(wish.reason))),
        ]);
        let told = self.ask(json_request("/v1/proposals", &body, wish.unattended)?).await?;
        with(told, &[("next", PROPOSED)])
    }

    async fn call(&self, arguments: JsonObject) -> Result<Value, Refused> {
        let request = proxied::build(arguments::read(arguments)?)?;
        proxied::told(self.0.send(request).await?).await
    }

    async fn status(&self, arguments: JsonObject) -> Result<Value, Refused> {
        let arguments::Status { id, wait, unattended } = arguments::read(arguments)?;
        let path = match (name("id", &id)?, wait) {
            (id, 0) if id.starts_with("apr_") => format!("/v1/approvals/{id}"),
            (id, wait) if id.starts_with("apr_") => format!("/v1/approvals/{id}?wait={wait}"),
            (id, _) if id.starts_with("pro_") => format!("/v1/proposals/{id}"),
            _ => return Err(Refused::invalid("id: of an approval, `apr_...`, or of a proposal, `pro_...`")),
        };
        self.ask(request(Method::GET, &path, Bytes::new(), unattended)?).await
    }

    async fn revoke(&self, arguments: JsonObject) -> Result<Value, Refused> {
        let arguments::Revoke { token } = arguments::read(arguments)?;
        let path = format!("/v1/tokens/{}", name("token", &token)?);
        self.ask(request(Method::DELETE, &path, Bytes::new(), false)?).await?;
        Ok(json!({ "revoked": token }))
    }

    /// Sends a request whose answer is the API's own, and returns that; null where it is empty.
    async fn ask(&self, request: Request<Bytes>) -> Result<Value, Refused> {
        let (parts, body) = self.0.send(request).await?.into_parts();
        let (bytes, whole) = proxied::read(body, LARGEST_ANSWER).await?;
        if !parts.status.is_success() {
            return Err(Refused::problem(&parts, &bytes));
        }
        match (whole, bytes.is_empty()) {
            (false, _) => Err(Refused::unreadable()),
            (true, true) => Ok(Value::Null),
            (true, false) => serde_json::from_slice(&bytes).map_err(|_| Refused::unreadable()),
        }
    }
}

impl<A: Api> ServerHandler for Tools<A> {
    fn get_info(&self) -> ServerConfig {
        let this = Implementation::new("valetkey", env!("CARGO_PKG_VERSION")).with_title("Valet Key");
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(this)
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(all().to_vec()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        all().iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let ran = tokio::select! {
            ran = self.run(&request.name, request.arguments.unwrap_or_default()) => ran,
            // The client gave the call up, or is gone: what it waits for is dropped, as that of any other caller who leaves.
            () = context.ct.cancelled() => return Err(ErrorData::internal_error("the call was cancelled", None)),
        };
        let result = match ran {
            Some(Ok(told)) => CallToolResult::structured(told),
            Some(Err(Refused(why))) => CallToolResult::structured_error(why),
            None => {
                return Err(ErrorData::invalid_params("there is no tool of that name; `tools/list` says which there are", None));
            }
        };
        Ok(result.into())
    }
}

/// An object with further members.
///
/// # Errors
/// It is none.
pub(crate) fn with(told: Value, more: &[(&str, &str)]) -> Result<Value, Refused> {
    let Value::Object(mut members) = told else { return Err(Refused::unreadable()) };
    members.extend(more.iter().map(|(name, text)| ((*name).to_owned(), Value::from(*text))));
    Ok(Value::Object(members))
}

/// An id or a name that becomes one segment of a path.
pub(crate) fn name<'a>(argument: &str, text: &'a str) -> Result<&'a str, Refused> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if text.is_empty() || matches!(text, "." | "..") || text.len() > 200 || !text.bytes().all(plain) {
        return Err(Refused::invalid(&format!("{argument}: an id or a name, as `list` tells it")));
    }
    Ok(text)
}

/// A request of the agent's.
pub(crate) fn request(method: Method, path: &str, body: Bytes, unattended: bool) -> Result<Request<Bytes>, Refused> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .map_err(|_| Refused::invalid("path: it holds something that no URL does; percent-encode it"))?;
    if unattended {
        request.headers_mut().insert("valet-unattended", HeaderValue::from_static("true"));
    }
    Ok(request)
}

fn json_request(path: &str, body: &Value, unattended: bool) -> Result<Request<Bytes>, Refused> {
    let mut request = request(Method::POST, path, Bytes::from(body.to_string()), unattended)?;
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(request)
}

/// Every tool, as clients are told of it.
fn all() -> &'static [Tool] {
    static ALL: OnceLock<Vec<Tool>> = OnceLock::new();
    ALL.get_or_init(|| {
        let looks = || ToolAnnotations::new().read_only(true).open_world(false);
        let asks = || ToolAnnotations::new().read_only(false).destructive(false).idempotent(true).open_world(false);
        let acts = || ToolAnnotations::new().read_only(false).destructive(true).open_world(true);
        let ends = || ToolAnnotations::new().read_only(false).destructive(true).idempotent(true).open_world(false);
        vec![
            tool::<arguments::List>(
                "list",
                "What may I use",
                "Says who you are and which connections (accounts at providers) you can use now: how (`delivery`), at which \
                 `hosts`, for which `operations`, and whether a person must approve each use first (`asks`). They come in pages: \
                 `next` says that there are more.",
                looks(),
                json!({
                    "agent": text("Your id."),
                    "token": maybe("Your token's id."),
                    "user": maybe("The person you act for; null means nobody."),
                    "connections": {
                        "type": "array",
                        "items": object(json!({
                            "id": text("Its id, for `call` and `request`."),
                            "provider": text("The provider's short name."),
                            "title": text("The provider's name for people."),
                            "name": text("Which of the owner's accounts there."),
                            "subject_name": maybe("What the provider calls the account."),
                            "hosts": list("Where `call` can go; the first is the usual one."),
                            "delivery": list("How: `proxy` (`call` works) and `reveal`."),
                            "asks": list("In which of these ways a person must approve each use first."),
                            "operations": {
                                "type": ["array", "null"],
                                "items": { "type": "string" },
                                "description": "The calls that are granted, as patterns; null for all that the broker lets through.",
                            },
                        }), &["id", "provider", "delivery"]),
                    },
                    "next": maybe("Ask again with this as `after`: there are more. Null where there are none."),
                }),
                &["agent", "connections"],
            ),
            tool::<arguments::Connect>(
                "connect",
                "Ask for an account",
                "Asks a person to let you use an account at a provider; on the `page` that comes back they connect one where they \
                 have none yet. Nothing is granted by asking. The same wish again is the same proposal.",
                asks(),
                proposal(),
                &["id", "status", "page"],
            ),
            tool::<arguments::Request>(
                "request",
                "Ask for access",
                "Asks a person for access that you do not have, or for more: to a connection that `list` names, or to any account \
                 at a provider. They see your reason on the `page` that comes back, may narrow the wish, and decide.",
                asks(),
                proposal(),
                &["id", "status", "page"],
            ),
            tool::<arguments::Call>(
                "call",
                "Call a provider",
                "Makes a request to a provider with a connection of yours. The broker checks it, adds the credential and tells the \
                 answer: `outcome` is `answered`, whatever the provider's `status`; or `approval_required`, where a person must \
                 approve it first and nothing was sent.",
                acts(),
                json!({
                    "outcome": { "type": "string", "enum": ["answered", "approval_required"] },
                    "status": { "description": "The provider's status; of a call that waits, where it stands." },
                    "headers": { "type": "object", "description": "The answer's headers." },
                    "body": text("The answer's body, where it is text."),
                    "body_base64": text("The answer's body, where it is no text."),
                    "truncated": { "type": "boolean", "description": "Whether there was more of the body." },
                    "code": text("`approval_required`."),
                    "detail": text("What to do."),
                    "approval": text("The approval's id."),
                    "page": maybe("Where a person approves it."),
                    "command": maybe("What whoever administers the site types to approve it, where there is no page."),
                    "expires_at": text("Until when."),
                    "next": text("What to do."),
                }),
                &["outcome"],
            ),
            tool::<arguments::Status>(
                "status",
                "Where does it stand",
                "Where an approval or a proposal stands: `pending`, `approved`, `accepted`, `refused`, `used` or `expired`.",
                looks(),
                json!({ "id": text("Its id."), "status": text("Where it stands.") }),
                &["id", "status"],
            ),
            tool::<arguments::Revoke>(
                "revoke",
                "Give up my token",
                "Ends your own token, for good: no further request is served by it, and what it came of (a consent) ends with it. \
                 For when your work is done, or you think that somebody else has the token.",
                ends(),
                json!({ "revoked": text("The token's id.") }),
                &["revoked"],
            ),
        ]
    })
}

fn tool<T: JsonSchema + 'static>(
    name: &'static str,
    title: &str,
    description: &'static str,
    annotations: ToolAnnotations,
    properties: Value,
    required: &[&str],
) -> Tool {
    // A refusal has a structure too, and the official client compares it with this schema, as anything that a tool tells.
    let refused = json!({ "code": text("A stable word for what went wrong."), "detail": text("What to do.") });
    let mut members = Map::new();
    for more in [refused, properties] {
        if let Value::Object(more) = more {
            members.extend(more);
        }
    }
    let mut told = Map::new();
    told.insert("type".to_owned(), "object".into());
    told.insert("properties".to_owned(), Value::Object(members));
    told.insert("anyOf".to_owned(), json!([{ "required": required }, { "required": ["code", "detail"] }]));
    Tool::new(name, description, JsonObject::new())
        .with_title(title)
        .with_input_schema::<T>()
        .with_raw_output_schema(Arc::new(told))
        .annotate(annotations)
}

/// The schema of an object. It may have further members: those that the API has.
fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn maybe(description: &str) -> Value {
    json!({ "type": ["string", "null"], "description": description })
}

fn list(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

/// What is told of a proposal.
fn proposal() -> Value {
    json!({
        "id": text("The proposal's id, for `status`."),
        "status": text("`pending`, `accepted`, `refused` or `expired`."),
        "page": maybe("Where the person decides, and connects an account where they have none."),
        "command": maybe("What whoever administers the site types to accept it, where there is no page."),
        "provider": text("At which provider."),
        "expires_at": text("Until when it can be answered."),
        "next": text("What to do."),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every argument is described, none is unknown to the schema, and a misspelt one is refused by it.
    #[test]
    fn every_tool_says_exactly_what_it_takes() {
        let takes: [(&str, &[&str], &[&str]); 6] = [
            ("list", &["after", "limit", "unattended"], &[]),
            ("connect", &["for_whom", "provider", "reason", "unattended"], &["provider", "reason"]),
            ("request", &["connection", "delivery", "for_whom", "operations", "provider", "reason", "unattended"], &["reason"]),
            (
                "call",
                &["approval", "body", "body_base64", "connection", "headers", "host", "method", "path", "slot", "unattended"],
                &["connection", "method", "path"],
            ),
            ("status", &["id", "unattended", "wait"], &["id"]),
            ("revoke", &["token"], &["token"]),
        ];
        assert_eq!(all().iter().map(|tool| tool.name.as_ref()).collect::<Vec<_>>(), takes.map(|(name, ..)| name));
        for (tool, (name, arguments, required)) in all().iter().zip(takes) {
            let schema = &tool.input_schema;
            let mut known: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            known.sort_unstable();
            assert_eq!(known, arguments, "{name}");
            let mut needed: Vec<_> =
                schema.get("required").and_then(Value::as_array).into_iter().flatten().map(|one| one.as_str().unwrap()).collect();
            needed.sort_unstable();
            assert_eq!(needed, required, "{name}");
            assert_eq!(schema["additionalProperties"], false, "{name}");
            let described = |property: &Value| property["description"].as_str().is_some_and(|text| !text.is_empty());
            assert!(schema["properties"].as_object().unwrap().values().all(described), "{name}: {schema:?}");
            assert_eq!(tool.output_schema.as_ref().unwrap()["type"], "object", "{name}");
        }
    }

    #[test]
    fn arguments_that_cannot_be_read_are_not_repeated() {
        for odd in [json!({ "token": { "canary": 1 } }), json!({ "token": ["canary"] }), json!({})] {
            let Value::Object(odd) = odd else { unreachable!() };
            let Refused(why) = arguments::read::<arguments::Revoke>(odd).unwrap_err();
            assert_eq!(why["code"], "invalid_request");
            assert!(!why.to_string().contains("canary"), "{why}");
        }
    }
}
