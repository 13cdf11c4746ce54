//! Where one definition is tried: a broker with a fresh folder, the lab that plays the provider, and a browser.
//!
//! The definition is used as it is. Every host that it names is an exact exception of the broker's address guard, every
//! look-up leads to the lab on loopback, and the lab's certificates are by an authority that only this broker trusts. So
//! the router, the guard, TLS and the engines are those of production, and nothing leaves this machine. Time is a clock
//! that stands still until it is turned.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use provider_lab::Mimic;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use url::{Url, form_urlencoded};
use valetkey::{
    Broker,
    clock::Clock,
    db::DbConfig,
    provider::{Catalogue, Definition, Trust},
    refresh,
    seal::{RootKey, RootSource},
    upstream::{self, AllowPrivate, Limits, Resolver},
};
use valetkey_http::{AppState, HttpSettings, LocalOperator, Peer};

use super::plan::{NoPlan, Plan};
use crate::output::cell;

/// Where browsers reach the broker; nobody does, they are played too.
const PUBLIC: &str = "https://valetkey.lab.example";
/// How long the broker waits for the provider here.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const LARGEST: usize = 16 << 20;
/// How many pages and redirects lead to an account at most.
const PAGES: usize = 12;
/// The agent that uses the account.
const AGENT: &str = "try";
/// Longer than any trial: the keeper begins somewhere within it, and shall not begin before the end.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// Where one definition is tried.
pub(super) struct Stage {
    pub(super) definition: Arc<Definition>,
    pub(super) plan: Plan,
    pub(super) mimic: Mimic,
    /// The account that is connected, and has a grant.
    pub(super) connection: Option<String>,
    broker: Broker,
    router: Router,
    clock: Clock,
    token: String,
    /// Goes away with everything in it.
    _folder: tempfile::TempDir,
}

/// Where definitions come from.
#[derive(Clone)]
pub(super) struct Library {
    /// The operator's folder, if there is one, and files on top of it.
    pub(super) folder: Option<PathBuf>,
    pub(super) files: Vec<PathBuf>,
    pub(super) trust: Trust,
}

/// Why there is no stage.
pub(super) enum NoStage {
    /// The definition cannot be tried.
    Plan(NoPlan),
    /// Something of ours did not work.
    Broken(String),
}

/// What came of connecting.
pub(super) enum Connected {
    /// There is an account.
    Yes,
    /// There is none, with this code.
    No(String),
}

/// A call that was refused.
#[derive(Debug)]
pub(super) struct Trouble {
    /// What was asked.
    what: String,
    /// The status.
    pub(super) status: StatusCode,
    /// The stable code.
    pub(super) code: String,
    /// The text.
    text: String,
    /// How many seconds to wait.
    pub(super) retry_after: Option<u64>,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answered {} {}: {}", self.what, self.status.as_u16(), self.code, self.text)
    }
}

impl From<Trouble> for String {
    fn from(trouble: Trouble) -> Self {
        trouble.to_string()
    }
}

/// A whole answer of the broker's router.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Library {
    /// The folder that a broker reads: byte for byte what is to be tried, under its own name.
    fn copied_to(&self, to: &std::path::Path) -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        if let Some(folder) = &self.folder {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if let (Some(name), true) = (path.file_name(), path.extension().is_some_and(|extension| extension == "toml")) {
                    std::fs::copy(&path, to.join(name))?;
                }
            }
        }
        for file in &self.files {
            if let Some(name) = file.file_name() {
                let named = |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", file.display()));
                std::fs::copy(file, to.join(name)).map_err(named)?;
            }
        }
        Ok(())
    }

    /// All definitions.
    pub(super) fn catalogue(&self) -> Result<Catalogue, String> {
        let broken = |error: &dyn std::fmt::Display| error.to_string();
        let folder = tempfile::tempdir().map_err(|error| broken(&error))?;
        self.copied_to(folder.path()).map_err(|error| broken(&error))?;
        let embedded = Catalogue::embedded().map_err(|error| error.message().to_owned())?;
        embedded.with_folder(folder.path(), self.trust).map_err(|problems| {
            // The copy's folder is nothing to anybody.
            let copied = format!("{}/", folder.path().display());
            problems.iter().map(|problem| problem.to_string().replace(&copied, "")).collect::<Vec<_>>().join("; ")
        })
    }
}

impl Stage {
    /// Sets everything up; nothing is connected yet.
    pub(super) async fn set(definition: &Arc<Definition>, library: &Library) -> Result<Self, NoStage> {
        let callback = format!("{PUBLIC}/callback/{}", definition.name);
        let plan = Plan::new(definition, &callback).map_err(NoStage::Plan)?;
        let script = plan.script.clone();
        let mimic = Mimic::start(script).await.map_err(|error| NoStage::Broken(format!("the lab did not start: {error}")))?;
        let set = Self::set_around(definition, library, plan, mimic).await;
        set.map_err(NoStage::Broken)
    }

    async fn set_around(definition: &Arc<Definition>, library: &Library, plan: Plan, mimic: Mimic) -> Result<Self, String> {
        let broken = |error: &dyn std::fmt::Display| format!("the broker did not start: {error}");
        let folder = tempfile::tempdir().map_err(|error| broken(&error))?;
        let providers = folder.path().join("providers");
        library.copied_to(&providers).map_err(|error| broken(&error))?;
        let mut allow_private = Vec::new();
        for host in &plan.script.hosts {
            let entry = if has_port(host) { host.clone() } else { format!("{host}:443") };
            allow_private.push(entry.parse::<AllowPrivate>().map_err(|error| broken(&error.message()))?);
        }
        let root = RootKey::generate().map_err(|error| broken(&error.message()))?;
        let clock = Clock::manual(Clock::System.now());
        let db = DbConfig::Sqlite { dir: folder.path().join("data"), patience: Duration::from_secs(5) };
        let public_url = Url::parse(PUBLIC).map_err(|error| broken(&error))?;
        let settings = valetkey::Settings {
            providers: Some(providers),
            trust: library.trust,
            clock: clock.clone(),
            upstream: upstream::Settings {
                connect_timeout: DEADLINE,
                header_timeout: DEADLINE,
                exchange_timeout: DEADLINE,
                allow_private,
                extra_roots_pem: Some(mimic.root_pem().as_bytes().to_vec()),
                resolver: Resolver::StandIn(mimic.addr()),
            },
            // What is renewed here is renewed because a check asks for it, and one that fails does not stop the next.
            refresh: refresh::Settings {
                deadline: DEADLINE,
                keeper_interval: NEVER,
                breaker_after: u32::MAX,
                ..refresh::Settings::default()
            },
            ..valetkey::Settings::new(db, RootSource::Text(root.to_line()), public_url)
        };
        let broker = Broker::start(settings).await.map_err(|error| broken(&error.message()))?.broker;
        let state = AppState::new(broker.clone(), HttpSettings::default()).map_err(|error| broken(&error.message()))?;
        let router = valetkey_http::router(state);
        let mut stage = Self {
            definition: definition.clone(),
            plan,
            mimic,
            connection: None,
            broker,
            router,
            clock,
            token: String::new(),
            _folder: folder,
        };
        match stage.furnish().await {
            Ok(()) => Ok(stage),
            Err(trouble) => {
                let why = trouble.to_string();
                stage.strike().await;
                Err(why)
            }
        }
    }

    /// What an operator sets up once: the app, an agent, its token.
    async fn furnish(&mut self) -> Result<(), Trouble> {
        if !self.plan.app.is_empty() {
            let values = json!({ "values": self.plan.app });
            self.api(Method::PUT, &format!("/v1/providers/{}/config", self.definition.name), Some(&values)).await?;
        }
        let agent = json!({ "slug": AGENT, "title": "Trial" });
        self.api(Method::POST, "/v1/agents", Some(&agent)).await?;
        let token = self.api(Method::POST, &format!("/v1/agents/{AGENT}/tokens"), Some(&json!({ "label": "try" }))).await?;
        self.token = cell(&token, "/token");
        Ok(())
    }

    /// Ends the broker and the lab.
    pub(super) async fn strike(self) {
        // Whatever still waits for the lab is let go, so that the broker can end.
        self.mimic.stop().await;
        self.broker.stop().await;
    }

    /// Turns both clocks.
    pub(super) fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.mimic.advance(by);
    }

    /// Asks the API as the operator.
    pub(super) async fn api(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Trouble> {
        let what = format!("{method} {}", path.split('?').next().unwrap_or(path));
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map(|mut request| {
            request.extensions_mut().insert(Peer::Local { uid: rustix::process::getuid().as_raw() });
            request.extensions_mut().insert(LocalOperator);
            request
        });
        read(what, self.send(request).await)
    }

    /// Asks as the agent, with its token.
    pub(super) async fn agent(&self, request: http::request::Builder, body: String) -> Result<Value, Trouble> {
        let request = request.header(header::HOST, "valetkey.lab.example");
        let request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token)).body(Body::from(body));
        let path = request.as_ref().map_or_else(|_| String::new(), |request| request.uri().path().to_owned());
        read(format!("the agent's call of {path}"), self.send(request).await)
    }

    async fn send(&self, request: http::Result<Request<Body>>) -> Answer {
        let failed = |text: String| Answer {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            headers: HeaderMap::new(),
            body: Bytes::from(json!({ "code": "no_answer", "detail": text }).to_string()),
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return failed(format!("that cannot be asked for: {error}")),
        };
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        match Limited::new(body, LARGEST).collect().await {
            Ok(body) => Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() },
            Err(error) => failed(format!("the answer broke off: {error}")),
        }
    }

    /// Connects an account as a person does: a link, its page, the provider, and back. An account that is there already is
    /// connected again.
    ///
    /// # Errors
    /// The way itself is broken; a refusal with a code is an outcome.
    pub(super) async fn connect(&mut self) -> Result<Connected, String> {
        let public: BTreeMap<&String, &String> =
            self.plan.entered.iter().filter(|(name, _)| self.definition.field(name).is_some_and(|field| !field.secret)).collect();
        let new = json!({ "provider": self.definition.name, "owner": "site", "fields": public });
        let session = self.api(Method::POST, "/v1/connect-sessions", Some(&new)).await?;
        let (id, link) = (cell(&session, "/id"), cell(&session, "/url"));
        let code = self.walk(link).await?;
        if code != "connected" {
            return Ok(Connected::No(code));
        }
        let session = self.api(Method::GET, &format!("/v1/connect-sessions/{id}"), None).await?;
        let connection = cell(&session, "/connection");
        if connection.is_empty() {
            return Err("it is connected, and there is no connection".to_owned());
        }
        if self.connection.as_ref() != Some(&connection) {
            let grant = json!({
                "agent": AGENT, "connection": connection, "for_whom": "unattended", "delivery": ["proxy", "reveal"],
            });
            self.api(Method::POST, "/v1/grants", Some(&grant)).await?;
            self.connection = Some(connection);
        }
        Ok(Connected::Yes)
    }

    /// A browser on its way from a link to an outcome: fills in what a page asks for, goes on, follows what leads elsewhere.
    async fn walk(&self, link: String) -> Result<String, String> {
        let mut jar = BTreeMap::new();
        let mut next = link;
        for _ in 0..PAGES {
            let ours = next.strip_prefix(PUBLIC).map(str::to_owned).or_else(|| next.starts_with('/').then(|| next.clone()));
            let Some(path) = ours else {
                next = self.visit(&next).await?;
                continue;
            };
            if let Some(query) = path.strip_prefix("/connect/done?") {
                let mut pairs = form_urlencoded::parse(query.as_bytes());
                let outcome = pairs.find(|(name, _)| name == "outcome").map(|(_, value)| value.into_owned());
                return outcome.ok_or_else(|| "the outcome names none".to_owned());
            }
            let page = self.browse(&mut jar, Request::get(&path), String::new()).await;
            next = match location(&page) {
                Some(location) => location,
                None if page.status.is_success() => {
                    let html = String::from_utf8_lossy(&page.body).into_owned();
                    let (action, form) = self.filled(&html).ok_or_else(|| format!("the page at {path} asks nothing"))?;
                    let request = Request::post(action.as_deref().unwrap_or(&path))
                        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                    let answer = self.browse(&mut jar, request, form).await;
                    match location(&answer) {
                        Some(location) => location,
                        // The form again: what was entered was not taken.
                        None if answer.status.is_success() => return Err(format!("the form of {path} leads nowhere")),
                        None => return Ok(code_of(&answer)),
                    }
                }
                None => return Ok(code_of(&page)),
            };
        }
        Err(format!("{PAGES} pages led nowhere"))
    }

    /// A page of the provider, by the same way as the broker's own calls; where it leads to.
    async fn visit(&self, url: &str) -> Result<String, String> {
        let request = Request::get(url).body(Bytes::new()).map_err(|error| format!("the browser was sent astray: {error}"))?;
        let answer = self.broker.outside().upstream.exchange(request, Limits::within(DEADLINE)).await;
        let answer = answer.map_err(|failure| format!("the provider's page was not reached: {}", failure.error.message()))?;
        let to = answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).map(str::to_owned);
        let refused = || match self.mimic.complaints().as_slice() {
            [] => format!("the provider's page answered {}", answer.status),
            complaints => complaints.join("; "),
        };
        to.ok_or_else(refused)
    }

    async fn browse(&self, jar: &mut BTreeMap<String, String>, mut request: http::request::Builder, body: String) -> Answer {
        if !jar.is_empty() {
            let cookies: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        let answer = self.send(request.header(header::HOST, "valetkey.lab.example").body(Body::from(body))).await;
        for cookie in answer.headers.get_all(header::SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok()) {
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let Some((name, value)) = pair.split_once('=') else { continue };
            if attributes.contains("Max-Age=0") {
                jar.remove(name);
            } else {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    /// Where the first form of a page goes, and what a person puts in: what is to be entered, the first of every choice, the
    /// first button.
    fn filled(&self, html: &str) -> Option<(Option<String>, String)> {
        let start = html.find("<form")?;
        let form = &html[start..html[start..].find("</form>").map_or(html.len(), |end| start + end)];
        let action = attribute(form.split('>').next()?, "action").filter(|action| !action.is_empty());
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut select = None;
        for tag in form.split('<').skip(1) {
            let head = tag.split('>').next().unwrap_or(tag);
            let element = head.split_whitespace().next().unwrap_or_default();
            if element == "option" {
                let value = attribute(head, "value").unwrap_or_default();
                if let (false, Some(name)) = (value.is_empty(), select.take()) {
                    pairs.push((name, value));
                }
                continue;
            }
            let Some(name) = attribute(head, "name") else { continue };
            let entered = self.plan.entered.iter().find(|(field, _)| is_named(&name, field)).map(|(_, value)| value.clone());
            let is_new = !pairs.iter().any(|(known, _)| *known == name);
            match (element, entered) {
                ("input" | "textarea" | "select", Some(value)) if is_new => pairs.push((name, value)),
                ("select", None) => select = Some(name),
                ("input" | "textarea" | "button", None) if is_new => {
                    pairs.push((name, attribute(head, "value").unwrap_or_default()));
                }
                _ => {}
            }
        }
        Some((action, form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()))
    }
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(before, port)| {
        port.bytes().all(|b| b.is_ascii_digit()) && (!before.contains(':') || before.ends_with(']'))
    })
}

/// Whether a form's control is for a field: `name`, `field.name`, `fields[name]`.
fn is_named(control: &str, field: &str) -> bool {
    let rest = control.strip_suffix(']').unwrap_or(control).strip_suffix(field);
    rest.is_some_and(|before| before.is_empty() || before.ends_with(['.', '[', ':', '/']))
}

/// An attribute of a tag, as our own pages write them.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    let plain = [("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&"), ("&#38;", "&")];
    Some(plain.iter().fold(value.to_owned(), |text, (coded, sign)| text.replace(coded, sign)))
}

fn location(answer: &Answer) -> Option<String> {
    let is_redirect = answer.status.is_redirection();
    answer.headers.get(header::LOCATION).filter(|_| is_redirect)?.to_str().ok().map(str::to_owned)
}

/// The stable code that one of our pages shows of a refusal. A form that is shown again says it in words only.
fn code_of(page: &Answer) -> String {
    if page.status == StatusCode::INTERNAL_SERVER_ERROR {
        return "internal".to_owned();
    }
    let html = String::from_utf8_lossy(&page.body).into_owned();
    let shown = |code: &&&str| html.contains(&format!("<code>{code}</code>"));
    let codes: Vec<&str> = valetkey::Code::ALL.iter().map(|code| code.as_str()).collect();
    codes.iter().find(shown).map_or_else(|| format!("refused with {}", page.status.as_u16()), |code| (*code).to_owned())
}

fn read(what: String, answer: Answer) -> Result<Value, Trouble> {
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status.is_success() {
        return Ok(value);
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let retry_after =
        answer.headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()).and_then(|wait| wait.parse().ok());
    Err(Trouble { what, status: answer.status, code: text("/code"), text: text("/detail"), retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_a_name_and_an_address() {
        assert!(has_port("127.0.0.1:4411") && has_port("[::1]:9") && has_port("pds.example:8443"));
        assert!(!has_port("api.example") && !has_port("[::1]"));
    }

    #[test]
    fn a_control_is_found_by_the_field_that_it_is_for() {
        assert!(is_named("api_key", "api_key") && is_named("field.api_key", "api_key") && is_named("fields[api_key]", "api_key"));
        assert!(!is_named("other_api_key", "api_key") && !is_named("api_key2", "api_key"));
    }

    #[test]
    fn an_attribute_is_read_as_the_browser_reads_it() {
        let tag = r#"input type="hidden" name="csrf" value="a&amp;b&quot;"#;
        assert_eq!((attribute(tag, "name").as_deref(), attribute(tag, "value")), (Some("csrf"), None));
        assert_eq!(attribute(r#"input value="a&amp;b""#, "value").as_deref(), Some("a&b"));
    }
}
