//! The one type for every call to a provider that is not a proxied one.
//!
//! A step is complete when it comes out of the loader: the headers of every call, the client's way to authenticate and
//! the standard members of a token request are in it. [`Step::render`] makes the request, whoever holds the HTTP client
//! sends it, [`Step::read`] reads the answer. Nothing here does I/O, waits, or knows the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use serde::{Serialize, Serializer};
use serde_json::Value;
use url::form_urlencoded;
use zeroize::Zeroizing;

pub use super::answer::{FailureClass, MAX_ANSWER, Outputs, StepFailure};
use super::{
    definition::{as_map, optional_duration_text},
    only::Only,
    proxy::Inject,
    template::{Client, TOKEN_SECRET, Template, Vars},
    url_template::UrlTemplate,
    value_path::ValuePath,
    words::{Auth, BodyFormat, ClientAuth, ExpiresAtFormat, ExpiresFrom, OAuth1Signature, Select},
};
use crate::{
    error::{Code, Error, Result},
    oauth1::{self, Keys, Stamp},
    secret::Secret,
};

/// Where in an answer each output stands: a name with the places to look, the first that is there counts.
pub type OutPaths = BTreeMap<String, Vec<ValuePath>>;

/// The content type of a form body.
const FORM: &str = "application/x-www-form-urlencoded";

/// One call to a provider.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The method.
    #[serde(serialize_with = "as_text")]
    pub method: Method,
    /// Where to.
    pub url: UrlTemplate,
    /// Query parameters.
    #[serde(serialize_with = "as_map")]
    pub query: Vec<(String, Template)>,
    /// Members of a form body.
    #[serde(serialize_with = "as_map")]
    pub form: Vec<(String, Template)>,
    /// A JSON body.
    pub json: Option<JsonTemplate>,
    /// Headers, those of every call among them.
    #[serde(serialize_with = "as_map")]
    pub headers: Vec<(String, Template)>,
    /// How it authenticates.
    pub auth: Auth,
    /// How the client authenticates, where `auth` is `client`.
    pub client: ClientStyle,
    /// Where the credential goes, where `auth` is `proxy`.
    #[serde(skip)]
    pub inject: Vec<Inject>,
    /// How the answer is written.
    pub format: BodyFormat,
    /// Answers that look like a success and are not.
    pub fail_when: Vec<FailWhen>,
    /// Where an error's word stands; without it the usual places are tried.
    pub error_path: Option<ValuePath>,
    /// What is read out of the answer.
    pub out: OutPaths,
    /// The lifetime when the answer names none.
    #[serde(serialize_with = "optional_duration_text")]
    pub default_expires_in: Option<Duration>,
    /// How `expires_at` is written.
    pub expires_at_format: ExpiresAtFormat,
    /// Where the lifetime stands when no member says it.
    pub expires_from: Option<ExpiresFrom>,
    /// What stands between scopes in the answer, beside white space.
    pub scope_separator: String,
    /// Whether a secret may stand in the URL.
    pub secret_in_query: bool,
    /// Where the list stands, in a step that reads one.
    pub list: Option<ValuePath>,
    /// Where the next part of the list begins, where it comes in pages.
    pub next: Option<NextPage>,
    /// Which entries count.
    #[serde(rename = "where")]
    pub where_: Option<Where>,
    /// Which entry is taken.
    pub select: Option<Select>,
    /// The slot that the entries' tokens belong to.
    pub slot: Option<String>,
    /// The only calls that may be made through the proxy where a person chooses from this list; empty: the choice binds none.
    pub only: Vec<Only>,
    /// Whether the answer brings a token: then an `error` in it always counts, and a token must be there.
    pub brings_token: bool,
    /// Token types that are taken, lower case (RFC 6749 section 7.1).
    pub token_types: Vec<String>,
    /// Error words that end the connection, beside `invalid_grant`. Lower case.
    pub terminal_errors: Vec<String>,
}

/// How the client authenticates at this provider, and what its parameters are called.
#[derive(Clone, Debug, Serialize)]
pub struct ClientStyle {
    /// The way.
    pub auth: ClientAuth,
    /// The name of `client_id`.
    pub id_param: String,
    /// The name of `client_secret`.
    pub secret_param: String,
    /// How calls are signed, where they are (`oauth1.signature`).
    #[serde(skip)]
    pub signature: OAuth1Signature,
}

impl Default for ClientStyle {
    fn default() -> Self {
        Self {
            auth: ClientAuth::None,
            id_param: "client_id".to_owned(),
            secret_param: "client_secret".to_owned(),
            signature: OAuth1Signature::HmacSha1,
        }
    }
}

/// An answer that looks like a success and is not.
#[derive(Clone, Debug, Serialize)]
pub struct FailWhen {
    /// Where to look.
    pub path: ValuePath,
    /// What must hold there.
    #[serde(flatten)]
    pub test: Test,
    /// The error's word.
    pub error: Option<String>,
    /// Where the error's word stands.
    pub error_path: Option<ValuePath>,
}

/// A test on one value. A missing value equals nothing, so it passes `not_equals`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// It is there, and is not an empty text, or it is not.
    Exists(bool),
    /// It is this.
    Equals(Value),
    /// It is not this.
    NotEquals(Value),
}

impl Test {
    pub(super) fn holds(&self, value: Option<&Value>) -> bool {
        match self {
            Test::Exists(wanted) => value.is_some_and(|value| value.as_str() != Some("")) == *wanted,
            Test::Equals(wanted) => value == Some(wanted),
            Test::NotEquals(unwanted) => value != Some(unwanted),
        }
    }
}

/// How a list goes on.
#[derive(Clone, Debug, Serialize)]
pub struct NextPage {
    /// Where a page says where the next one begins; the last one does not say.
    pub path: ValuePath,
    /// The query parameter that takes it.
    pub query: String,
}

/// Which entries of a list count.
#[derive(Clone, Debug, Serialize)]
pub struct Where {
    /// Where to look in the entry.
    pub path: ValuePath,
    /// What must hold there.
    #[serde(flatten)]
    pub test: Test,
}

/// A JSON body with templates in its texts.
#[derive(Clone, Debug)]
pub enum JsonTemplate {
    /// A text; a member whose text renders to nothing is left out.
    Text(Template),
    /// A number or truth value.
    Plain(Value),
    /// A list.
    List(Vec<JsonTemplate>),
    /// An object.
    Object(Vec<(String, JsonTemplate)>),
}

impl JsonTemplate {
    fn render(&self, vars: &Vars<'_>) -> Result<Option<Value>> {
        Ok(match self {
            JsonTemplate::Text(template) => template.render(vars)?.map(|text| Value::String(text.expose().to_owned())),
            JsonTemplate::Plain(value) => Some(value.clone()),
            JsonTemplate::List(items) => {
                let items = items.iter().filter_map(|item| item.render(vars).transpose()).collect::<Result<_>>()?;
                Some(Value::Array(items))
            }
            JsonTemplate::Object(members) => {
                let mut map = serde_json::Map::new();
                for (name, member) in members {
                    if let Some(value) = member.render(vars)? {
                        map.insert(name.clone(), value);
                    }
                }
                Some(Value::Object(map))
            }
        })
    }

    pub(super) fn templates(&self) -> Vec<&Template> {
        match self {
            JsonTemplate::Text(template) => vec![template],
            JsonTemplate::Plain(_) => Vec::new(),
            JsonTemplate::List(items) => items.iter().flat_map(JsonTemplate::templates).collect(),
            JsonTemplate::Object(members) => members.iter().flat_map(|(_, member)| member.templates()).collect(),
        }
    }
}

impl Serialize for JsonTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            JsonTemplate::Text(template) => template.serialize(serializer),
            JsonTemplate::Plain(value) => value.serialize(serializer),
            JsonTemplate::List(items) => serializer.collect_seq(items),
            JsonTemplate::Object(members) => as_map(members, serializer),
        }
    }
}

impl Step {
    /// The request. A parameter that renders to nothing is left out.
    ///
    /// With `auth = "signed"` it is signed anew each time, over itself as it is sent. Parameters of the protocol that the step
    /// names (`oauth_callback`) then stand in the header with the others, and in no second place (RFC 5849 section 3.5).
    ///
    /// Errors: `not_configured` or `no_credentials` where a needed value is missing, `host_refused` where an instance's
    /// address is not an origin.
    pub fn render(&self, vars: &Vars<'_>) -> Result<Request<Bytes>> {
        self.render_page(vars, None)
    }

    /// The request for one page of a list: the first, or the one that begins where the page before said
    /// ([`Step::read_page`]).
    ///
    /// Errors: as [`Step::render`].
    pub fn render_page(&self, vars: &Vars<'_>, begins: Option<&Secret>) -> Result<Request<Bytes>> {
        let mut draft = Draft { query: pairs(&self.query, vars)?, form: pairs(&self.form, vars)?, ..Draft::default() };
        if let (Some(next), Some(begins)) = (&self.next, begins) {
            draft.query.push((next.query.clone(), open(begins)));
        }
        for (name, template) in &self.headers {
            if let Some(value) = template.render(vars)? {
                draft.set_header(name, &value)?;
            }
        }
        if let Some(json) = &self.json {
            draft.json = json.render(vars)?;
        }
        self.authenticate(&mut draft, vars)?;
        if !draft.is_signed {
            return draft.into_request(&self.method, &self.url.render(vars)?);
        }
        let keys = signing_keys(self.client.signature, vars)?;
        let now = vars.now.ok_or_else(|| Error::internal("a signed step needs the time of its sending"))?;
        let protocol = draft.take_protocol();
        let mut request = draft.into_request(&self.method, &self.url.render(vars)?)?;
        sign(&mut request, &keys, &protocol, &Stamp::new(now)?)?;
        Ok(request)
    }

    /// Whether the tokens that the step names are there. A revocation step whose token the connection does not have is
    /// left out.
    pub fn applies(&self, vars: &Vars<'_>) -> bool {
        use super::template::Var;
        let slots = self.templates().flat_map(Template::slots).chain(self.url.slots());
        let tokens = slots.filter(|slot| matches!(slot.var, Var::Token(_) | Var::SlotToken));
        let named = tokens.into_iter().all(|slot| slot.render(vars).is_ok_and(|value| !value.is_empty()));
        named
            && match self.auth {
                Auth::Bearer | Auth::Signed => has_token(vars, "access_token"),
                Auth::BearerRefresh => has_token(vars, "refresh_token"),
                Auth::Proxy => self.inject.iter().all(|inject| inject.is_complete(vars)),
                Auth::None | Auth::Client | Auth::ClientBasic | Auth::Jwt => true,
            }
    }

    /// Whether the request can hold a secret, beside what `auth` adds.
    pub(super) fn is_secret(&self) -> bool {
        self.url.is_secret() || self.templates().any(Template::is_secret)
    }

    /// The members of an account that the request is made of: those that the step names, and the tokens that `auth` adds. An
    /// assertion (`auth = "jwt"`) is made of more: of whatever `[jwt]` names.
    pub fn members(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let injected = self.inject.iter().filter(|_| self.auth == Auth::Proxy);
        let values = self.templates().chain(injected.clone().flat_map(Inject::templates)).flat_map(Template::slots);
        values.chain(self.url.slots()).for_each(|slot| slot.add_members(&mut names));
        let signs = self.auth == Auth::Signed || injected.into_iter().any(|inject| matches!(inject, Inject::Oauth1Signature));
        let tokens: &[&str] = match self.auth {
            _ if signs => &["access_token", TOKEN_SECRET],
            Auth::Bearer => &["access_token"],
            Auth::BearerRefresh => &["refresh_token"],
            Auth::None | Auth::Client | Auth::ClientBasic | Auth::Proxy | Auth::Jwt | Auth::Signed => &[],
        };
        names.extend(tokens.iter().map(|name| (*name).to_owned()));
        names
    }

    /// Every template beside those of the URL.
    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        let json = self.json.iter().flat_map(JsonTemplate::templates);
        self.query.iter().chain(&self.form).chain(&self.headers).map(|(_, template)| template).chain(json)
    }

    fn authenticate(&self, draft: &mut Draft, vars: &Vars<'_>) -> Result<()> {
        let token = |name: &'static str| {
            let token = vars.account.and_then(|account| account.text(name));
            token.ok_or_else(|| Error::new(Code::NoCredentials, format!("the connection has no {name}")))
        };
        match self.auth {
            Auth::None => Ok(()),
            Auth::Signed => {
                draft.is_signed = true;
                Ok(())
            }
            Auth::Bearer => draft.bearer(&token("access_token")?),
            Auth::BearerRefresh => draft.bearer(&token("refresh_token")?),
            Auth::Jwt => draft.bearer(vars.jwt.ok_or_else(|| Error::internal("the step needs an assertion and got none"))?),
            Auth::ClientBasic => {
                let client = client(vars)?;
                let secret = client.secret.ok_or_else(no_client_secret)?;
                draft.set_header("authorization", &client_basic(client.id, secret))
            }
            Auth::Client => {
                let client = client(vars)?;
                let id = (self.client.id_param.clone(), Zeroizing::new(client.id.to_owned()));
                match (self.client.auth, client.secret) {
                    // A public client names itself and proves nothing (RFC 6749 section 3.2.1).
                    (ClientAuth::None, _) | (_, None) => draft.form.push(id),
                    (ClientAuth::Body, Some(secret)) => {
                        draft.form.push(id);
                        draft.form.push((self.client.secret_param.clone(), Zeroizing::new(secret.expose().to_owned())));
                    }
                    (ClientAuth::Basic, Some(secret)) => {
                        draft.set_header("authorization", &client_basic(client.id, secret))?;
                    }
                    (ClientAuth::BasicAndClientId, Some(secret)) => {
                        draft.form.push(id);
                        draft.set_header("authorization", &client_basic(client.id, secret))?;
                    }
                }
                Ok(())
            }
            Auth::Proxy => {
                for inject in &self.inject {
                    draft.inject(inject, vars)?;
                }
                Ok(())
            }
        }
    }
}

impl Inject {
    /// Whether every value is there that must be.
    fn is_complete(&self, vars: &Vars<'_>) -> bool {
        match self {
            Inject::Header { value, omit_empty, .. }
            | Inject::Query { value, omit_empty, .. }
            | Inject::Form { value, omit_empty, .. }
            | Inject::Json { value, omit_empty, .. } => *omit_empty || value.is_complete(vars),
            Inject::Basic { user, password } => user.is_complete(vars) && password.is_complete(vars),
            Inject::Oauth1Signature => has_token(vars, "access_token"),
        }
    }
}

/// A request under construction.
#[derive(Default)]
struct Draft {
    query: Vec<(String, Zeroizing<String>)>,
    form: Vec<(String, Zeroizing<String>)>,
    json: Option<Value>,
    headers: http::HeaderMap,
    /// Whether the request is signed when it is complete.
    is_signed: bool,
}

impl Draft {
    fn bearer(&mut self, token: &Secret) -> Result<()> {
        self.set_header("authorization", &Secret::new(format!("Bearer {}", token.expose())))
    }

    fn set_header(&mut self, name: &str, value: &Secret) -> Result<()> {
        let name: HeaderName = name.parse().map_err(|_| Error::internal("a definition names a header that is none"))?;
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_| Error::new(Code::NotConfigured, format!("a value for the header `{name}` holds a control character")))?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(())
    }

    fn inject(&mut self, inject: &Inject, vars: &Vars<'_>) -> Result<()> {
        let text = |value: &Template, omit_empty: bool| match value.render(vars) {
            Ok(Some(text)) => Ok(Some(text)),
            Ok(None) if omit_empty => Ok(None),
            Err(_) if omit_empty => Ok(None),
            Ok(None) => Err(value.slots().next().map_or_else(|| Error::internal("an empty credential"), |slot| slot.missing())),
            Err(error) => Err(error),
        };
        match inject {
            Inject::Header { name, value, omit_empty } => match text(value, *omit_empty)? {
                Some(text) => self.set_header(name, &text),
                None => Ok(()),
            },
            Inject::Query { name, value, omit_empty } => {
                self.query.extend(text(value, *omit_empty)?.map(|text| (name.clone(), open(&text))));
                Ok(())
            }
            Inject::Form { name, value, omit_empty } => {
                self.form.extend(text(value, *omit_empty)?.map(|text| (name.clone(), open(&text))));
                Ok(())
            }
            Inject::Json { name, value, omit_empty } => {
                if let Some(text) = text(value, *omit_empty)? {
                    let body = self.json.get_or_insert_with(|| Value::Object(serde_json::Map::new()));
                    if let Value::Object(map) = body {
                        map.insert(name.clone(), Value::String(text.expose().to_owned()));
                    }
                }
                Ok(())
            }
            Inject::Basic { user, password } => {
                // A name cannot hold a colon: it would end there (RFC 7617 section 2).
                let (Some(user), Some(password)) = (text(user, false)?, text(password, false)?) else {
                    return Err(Error::internal("an empty credential"));
                };
                if user.expose().contains(':') {
                    return Err(Error::new(Code::NotConfigured, "a user name for HTTP Basic cannot hold a colon"));
                }
                let pair = Zeroizing::new(format!("{}:{}", user.expose(), password.expose()));
                let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()));
                self.set_header("authorization", &Secret::new(value))
            }
            Inject::Oauth1Signature => {
                self.is_signed = true;
                Ok(())
            }
        }
    }

    /// The parameters of OAuth 1.0a, taken out of query and form.
    fn take_protocol(&mut self) -> Vec<(String, Zeroizing<String>)> {
        let is_protocol = |(name, _): &mut (String, Zeroizing<String>)| name.starts_with(oauth1::PREFIX);
        let of_query = self.query.extract_if(.., is_protocol);
        of_query.chain(self.form.extract_if(.., is_protocol)).collect()
    }

    fn into_request(self, method: &Method, url: &str) -> Result<Request<Bytes>> {
        let mut url = Zeroizing::new(url.to_owned());
        if !self.query.is_empty() {
            url.push('?');
            url.push_str(&encode(&self.query));
        }
        let (content_type, body) = match (&self.json, self.form.is_empty()) {
            (Some(json), _) => {
                let body = serde_json::to_vec(json).map_err(Error::internal)?;
                (Some("application/json"), Bytes::from(body))
            }
            (None, false) => (Some(FORM), Bytes::from(encode(&self.form).as_bytes().to_vec())),
            (None, true) => (None, Bytes::new()),
        };
        let mut request = Request::builder().method(method).uri(url.as_str()).body(body).map_err(|_| {
            // The URL may hold a secret: it is not part of the error.
            Error::internal("a step's URL is not a URL after filling it in")
        })?;
        *request.headers_mut() = self.headers;
        if let Some(content_type) = content_type {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if !request.headers().contains_key(header::ACCEPT) {
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        }
        Ok(request)
    }
}

/// The `Authorization` value of a client (RFC 6749 section 2.3.1): id and secret are form-encoded *before* Base64.
pub fn client_basic(id: &str, secret: &Secret) -> Secret {
    let mut pair = Zeroizing::new(String::new());
    pair.extend(form_urlencoded::byte_serialize(id.as_bytes()));
    pair.push(':');
    pair.extend(form_urlencoded::byte_serialize(secret.expose().as_bytes()));
    Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair.as_bytes())))
}

/// What calls are signed with: the app's keys, and the connection's where there are any.
///
/// Errors: `not_configured` where the app's are missing, `no_credentials` where a token has no secret.
pub fn signing_keys(signature: OAuth1Signature, vars: &Vars<'_>) -> Result<Keys> {
    let client = client(vars)?;
    let consumer_secret = client.secret.ok_or_else(no_client_secret)?.clone();
    let member = |name| vars.account.and_then(|account| account.text(name));
    let token = match (member("access_token"), member(TOKEN_SECRET)) {
        (None, _) => None,
        (Some(token), Some(secret)) => Some((token, secret)),
        (Some(_), None) => {
            return Err(Error::new(Code::NoCredentials, "the account has a token without its secret; connect it again"));
        }
    };
    let hash = match signature {
        OAuth1Signature::HmacSha1 => oauth1::Hash::Sha1,
        OAuth1Signature::HmacSha256 => oauth1::Hash::Sha256,
    };
    Ok(Keys { hash, consumer_key: client.id.to_owned(), consumer_secret, token })
}

/// Signs a request that is complete.
fn sign(request: &mut Request<Bytes>, keys: &Keys, more: &[(String, Zeroizing<String>)], stamp: &Stamp) -> Result<()> {
    let is_form = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == FORM);
    let form: &[u8] = if is_form { request.body() } else { &[] };
    let call = oauth1::Call { method: request.method(), uri: request.uri(), form, more };
    let mut value = HeaderValue::from_str(keys.authorization(&call, stamp)?.expose()).map_err(Error::internal)?;
    value.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, value);
    Ok(())
}

fn client<'a>(vars: &Vars<'a>) -> Result<Client<'a>> {
    vars.client.ok_or_else(|| Error::new(Code::NotConfigured, "the provider's app is not configured: it has no client id"))
}

fn no_client_secret() -> Error {
    Error::new(Code::NotConfigured, "the provider's app is not configured: it has no client secret")
}

fn has_token(vars: &Vars<'_>, name: &str) -> bool {
    vars.account.is_some_and(|account| account.text(name).is_some())
}

fn pairs(templates: &[(String, Template)], vars: &Vars<'_>) -> Result<Vec<(String, Zeroizing<String>)>> {
    let mut pairs = Vec::with_capacity(templates.len());
    for (name, template) in templates {
        if let Some(value) = template.render(vars)? {
            pairs.push((name.clone(), open(&value)));
        }
    }
    Ok(pairs)
}

fn open(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(secret.expose().to_owned())
}

fn encode(pairs: &[(String, Zeroizing<String>)]) -> Zeroizing<String> {
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Zeroizing::new(form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

fn as_text<S: Serializer>(method: &Method, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(method.as_str())
}
