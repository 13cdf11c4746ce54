//! The definition of one provider, as the rest of the broker sees it: complete and valid.
//!
//! What a file leaves out is filled in at load: the standard members of a token request, the headers of every call,
//! the defaults. So a step can be rendered as it stands, and no engine asks "and if this is missing".

use std::{path::PathBuf, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use url::{Host, Url};

use super::{
    field::Field,
    pattern::PathPattern,
    proxy::Proxy,
    step::{OutPaths, Step},
    template::{Template, Vars},
    url_template::UrlTemplate,
    words::{
        ClientAuth, FieldLevel, Flow, JwtAlg, Kills, Kind, MailCheck, MailMechanism, Normalize, OAuth1Signature, Pkce,
        PkceEncoding, RedirectRule, RefreshStrategy, Role, Rotation, Select,
    },
};
use crate::{
    error::{Code, Error, Result},
    id::ProviderName,
};

/// What we know of one provider. Holds no secret.
#[derive(Clone, Debug, Serialize)]
pub struct Definition {
    /// Its name: the file's name without `.toml`.
    pub name: ProviderName,
    /// Its name for people.
    pub title: String,
    /// Which engine connects it.
    pub kind: Kind,
    /// The definition this one builds on.
    pub extends: Option<ProviderName>,
    /// Where an app is registered, or a key made.
    pub setup_url: Option<String>,
    /// The version that URLs and headers name.
    pub api_version: Option<String>,
    /// What a person or an operator enters, in the order of the file.
    pub fields: Vec<Field>,
    /// By which field constants are chosen, such as a region's hosts.
    pub variants: Option<Variants>,
    /// For `oauth2`.
    pub oauth2: Option<OAuth2>,
    /// For `oauth1`.
    pub oauth1: Option<OAuth1>,
    /// For `jwt_bearer`: the assertion.
    pub jwt: Option<Jwt>,
    /// For `jwt_bearer`: the exchange of the assertion for a token.
    pub mint: Option<Step>,
    /// For `session`.
    pub session: Option<Session>,
    /// For `mail`, and for `oauth2` whose tokens open a mailbox.
    pub mail: Option<Mail>,
    /// How a client is registered at an instance before the first connect.
    pub register: Option<Step>,
    /// How tokens are renewed.
    pub refresh: Refresh,
    /// How tokens are revoked at the provider.
    pub revoke: Option<Revoke>,
    /// Who the account is.
    pub identity: Identity,
    /// How the granted scopes are listed.
    pub scope_check: Option<Step>,
    /// A harmless call that shows whether a key works.
    pub verify: Option<Step>,
    /// Lists to choose from: pages, properties, accounts.
    #[serde(serialize_with = "as_map")]
    pub resources: Vec<(String, Step)>,
    /// Further tokens of one connection.
    #[serde(serialize_with = "as_map")]
    pub slots: Vec<(String, Slot)>,
    /// How calls are proxied; absent where there is nothing to call.
    pub proxy: Option<Proxy>,
    /// Operations that grants may name (`post.create`), each with the calls it stands for.
    #[serde(serialize_with = "as_map")]
    pub operations: Vec<(String, Vec<PathPattern>)>,
    /// Where its facts come from; absent where the file does not say.
    pub facts: Option<Facts>,
    /// Where the definition came from.
    pub source: Source,
}

impl Definition {
    /// The scopes that a new connection asks for: the defaults, then those that unlock a refresh token.
    pub fn needed_scopes(&self) -> Vec<String> {
        match (&self.oauth2, &self.jwt) {
            (Some(oauth2), _) => oauth2.scopes.default.iter().chain(&oauth2.scopes.offline).cloned().collect(),
            (None, Some(jwt)) => jwt.scopes.clone(),
            (None, None) => Vec::new(),
        }
    }

    /// Whether this build can connect an account: OAuth 2.0 with the code flow or the device grant, OAuth 1.0a, and whatever is
    /// made of entered values ([`Definition::is_entered`]).
    ///
    /// Other kinds load, list and validate; this says plainly that connecting them is not built.
    pub fn is_connectable(&self) -> Result<()> {
        if self.is_entered() {
            return Ok(());
        }
        match &self.oauth2 {
            None if self.oauth1.is_some() => Ok(()),
            Some(oauth2) if oauth2.flows.iter().any(|flow| matches!(flow, Flow::Code | Flow::Device)) => Ok(()),
            Some(_) => Err(Error::new(
                Code::EngineMissing,
                format!("connecting {} is not built yet: it has no authorization code flow", self.title),
            )),
            None => Err(Error::new(
                Code::EngineMissing,
                format!("connecting {} is not built yet: its kind is {}", self.title, self.kind),
            )),
        }
    }

    /// Whether the provider takes a redirect URI (RFC 6749 section 3.1.2: absolute, without a fragment; https, or http on
    /// loopback as far as its rule goes).
    pub fn takes_redirect(&self, url: &Url) -> bool {
        let rule = self.oauth2.as_ref().map_or(RedirectRule::Any, |oauth2| oauth2.redirect_rule);
        let fits = match (url.scheme(), url.host()) {
            ("https", _) => true,
            ("http", Some(Host::Ipv4(ip))) => ip.is_loopback() && rule != RedirectRule::Https,
            ("http", Some(Host::Ipv6(ip))) => ip.is_loopback() && rule != RedirectRule::Https,
            ("http", Some(Host::Domain("localhost"))) => rule == RedirectRule::Any,
            _ => false,
        };
        fits && url.fragment().is_none()
    }

    /// The fields of one level, in order.
    pub fn fields_of(&self, level: FieldLevel) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| field.level == level)
    }

    /// The fields of one level whose values decide a host: they change only together with fresh secrets (decisions 4).
    pub fn fields_deciding_hosts(&self, level: FieldLevel) -> impl Iterator<Item = &Field> {
        let by = self.variants.as_ref().map(|variants| variants.by.as_str());
        self.fields_of(level).filter(move |field| {
            field.normalize == Some(Normalize::HttpsOrigin)
                || by == Some(field.name.as_str())
                || self.mail.as_ref().is_some_and(|mail| mail.is_decided_by(&field.name))
        })
    }

    /// The hosts that calls of our own go to once an account is connected: those that renew its token, revoke it at the provider
    /// and read its lists. Sorted; absent where one of them cannot be told from these values.
    pub fn call_hosts(&self, vars: &Vars<'_>) -> Option<Vec<String>> {
        let renewals = self.refresh.step.iter().chain(self.minting_step());
        let revocations = self.revoke.iter().flat_map(|revoke| &revoke.steps);
        let lists = self.resources.iter().map(|(_, step)| step);
        let steps = renewals.chain(revocations).chain(lists);
        let mut hosts = steps.map(|step| step.url.host(vars).ok()).collect::<Option<Vec<_>>>()?;
        hosts.sort_unstable();
        hosts.dedup();
        Some(hosts)
    }

    /// The field with this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Under which name an app configuration holds the client id or secret: that of the field with the role. Where a client
    /// is registered at each instance ([`Definition::register`]) and no field has the role, its plain name.
    pub fn client_member(&self, role: Role) -> Option<&str> {
        match (self.field_with_role(role), &self.register) {
            (Some(field), _) => Some(&field.name),
            (None, Some(_)) if matches!(role, Role::ClientId | Role::ClientSecret) => Some(role.as_str()),
            (None, _) => None,
        }
    }

    /// The names of the lists to read again after a refresh; absent where there is none.
    pub fn refreshed_lists(&self) -> Option<Vec<String>> {
        let names = self.refresh.then.iter().filter_map(|name| name.strip_prefix("resources.")).map(str::to_owned);
        let names: Vec<String> = names.collect();
        (!names.is_empty()).then_some(names)
    }

    /// The lists from which a person chooses.
    pub fn choices(&self) -> impl Iterator<Item = (&str, &Step)> {
        self.resources.iter().filter(|(_, step)| step.select == Some(Select::User)).map(|(name, step)| (name.as_str(), step))
    }

    /// The lists of which what a person chooses binds the calls that are made through the proxy.
    pub fn binding(&self) -> impl Iterator<Item = (&str, &Step)> {
        self.resources.iter().filter(|(_, step)| !step.only.is_empty()).map(|(name, step)| (name.as_str(), step))
    }

    /// Whether there is any.
    pub fn is_bound(&self) -> bool {
        self.binding().next().is_some()
    }

    /// The first field with this role.
    pub fn field_with_role(&self, role: Role) -> Option<&Field> {
        self.fields.iter().find(|field| field.role == Some(role))
    }

    /// The fields as JSON: an object by name, each with its label, type and rules; for forms and `--json`.
    pub fn field_definitions(&self) -> serde_json::Value {
        let members = self.fields.iter().filter_map(|field| Some((field.name.clone(), serde_json::to_value(field).ok()?)));
        serde_json::Value::Object(members.collect())
    }

    /// The whole definition as JSON, for `provider show --json`.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(Error::internal)
    }
}

/// OAuth 2.0 at this provider.
#[derive(Clone, Debug, Serialize)]
pub struct OAuth2 {
    /// Where the browser goes; present with the code flow. Never holds a secret.
    pub authorize_url: Option<UrlTemplate>,
    /// The token endpoint.
    pub token_url: UrlTemplate,
    /// The expected `iss` (RFC 9207), where the provider is known to send one.
    pub issuer: Option<String>,
    /// Whether the provider always sends `iss`: then its absence is an error.
    pub iss_supported: bool,
    /// The ways to a token.
    pub flows: Vec<Flow>,
    /// How the client authenticates.
    pub client_auth: ClientAuth,
    /// What the provider calls `client_id`, in the authorization request as in the token request.
    pub client_id_param: String,
    /// What the provider calls `client_secret`.
    pub client_secret_param: String,
    /// Whether a challenge is sent.
    pub pkce: Pkce,
    /// How the challenge is written.
    pub pkce_encoding: PkceEncoding,
    /// What stands between scopes in a request.
    pub scope_separator: String,
    /// What stands between scopes in an answer. White space separates them always.
    pub scope_separator_out: String,
    /// The name of the scope parameter.
    pub scope_param: String,
    /// Further scope parameters of the authorization request, each with the slot whose scopes it carries.
    #[serde(serialize_with = "as_map")]
    pub scope_params: Vec<(String, String)>,
    /// The scopes asked for.
    pub scopes: Scopes,
    /// Further parameters of the authorization request. Never hold a secret.
    #[serde(serialize_with = "as_map")]
    pub authorize_params: Vec<(String, Template)>,
    /// What the provider appends to the code and must be cut off.
    pub code_strip_suffix: Option<String>,
    /// Which redirect URIs are taken.
    pub redirect_rule: RedirectRule,
    /// The token request. With the code flow it carries `grant_type`, `code`, `redirect_uri` and `code_verifier`; with
    /// client credentials `grant_type` and `scope`.
    pub token: Step,
    /// Second-stage exchanges, in order, after the token request.
    pub exchange: Vec<(String, Step)>,
    /// The device grant, where it is among the flows.
    pub device: Option<Device>,
}

/// The two calls of the device grant (RFC 8628).
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// Asks for the codes (section 3.1).
    pub request: Step,
    /// Asks whether the person is done (section 3.4). `{{code}}` is the device code.
    pub token: Step,
}

impl OAuth2 {
    /// Scopes in the form in which a request carries them.
    pub fn join_scopes<S: AsRef<str>>(&self, scopes: &[S]) -> String {
        scopes.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(&self.scope_separator)
    }
}

/// The scopes asked for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scopes {
    /// Always.
    pub default: Vec<String>,
    /// To be given a refresh token.
    pub offline: Vec<String>,
}

/// OAuth 1.0a at this provider (RFC 5849).
#[derive(Clone, Debug, Serialize)]
pub struct OAuth1 {
    /// The temporary credential request, with our callback in it. Signed.
    pub request: Step,
    /// Where the browser goes.
    pub authorize_url: UrlTemplate,
    /// The token request, with the verifier in it. Signed with the temporary credentials.
    pub token: Step,
    /// The signature method.
    pub signature: OAuth1Signature,
    /// How long the temporary secret is kept.
    #[serde(serialize_with = "duration_text")]
    pub temp_ttl: Duration,
    /// The callback parameter that says the person refused.
    pub denied_param: Option<String>,
}

/// The assertion of a `jwt_bearer` provider.
#[derive(Clone, Debug, Serialize)]
pub struct Jwt {
    /// How it is signed.
    pub alg: JwtAlg,
    /// The private key, PEM.
    pub key: Template,
    /// The claims beside `iat` and `exp`; one that renders empty is left out.
    #[serde(serialize_with = "as_map")]
    pub claims: Vec<(String, Template)>,
    /// The scopes that `{{scopes}}` stands for where a new connection names none, separated by spaces.
    pub scopes: Vec<String>,
    /// How far `iat` lies in the past, against clocks that run behind.
    #[serde(serialize_with = "duration_text")]
    pub backdate: Duration,
    /// From now to `exp`.
    #[serde(serialize_with = "duration_text")]
    pub ttl: Duration,
}

/// A login that gives a session token.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Looks up which server the account is at, before anything secret is sent: in order, each without a credential. What
    /// one finds is there for the next and for the login as `extra.NAME`. Where one is told that there is nothing to
    /// find, the rest is left out and the defaults count.
    pub resolve: Vec<Step>,
    /// The field by which the person says which server it is; where that was done nothing is looked up.
    pub resolve_unless: Option<String>,
    /// The login call.
    pub login: Step,
}

/// A mailbox: the servers to which a mail program logs in.
#[derive(Clone, Debug, Serialize)]
pub struct Mail {
    /// How the account is checked before it is stored.
    pub check: Vec<MailCheck>,
    /// The SASL mechanisms that may be used, the preferred one first.
    pub mechanisms: Vec<MailMechanism>,
    /// Where mail is read.
    pub imap: Option<MailServer>,
    /// Where mail is sent.
    pub smtp: Option<MailServer>,
}

impl Mail {
    /// The servers there are.
    pub fn servers(&self) -> impl Iterator<Item = &MailServer> {
        self.imap.iter().chain(&self.smtp)
    }

    /// Whether a field says where credentials go.
    fn is_decided_by(&self, field: &str) -> bool {
        self.servers().any(|server| server.host.uses_field(field) || server.port.uses_field(field))
    }
}

/// One server of a mailbox. A server whose host renders to nothing is not there.
#[derive(Clone, Debug, Serialize)]
pub struct MailServer {
    /// Its host.
    pub host: Template,
    /// Its port.
    pub port: Template,
    /// How the connection is secured: `ssl` from the first byte, `starttls` (or Data Machine's `tls`) by STARTTLS.
    pub security: Template,
    /// The user name: the first of these that is there. With none, the e-mail address that the identity step found.
    pub user: Vec<Template>,
    /// The password: the first of these that is there. With none, the connection's access token is used.
    pub password: Vec<Template>,
    /// What the server is needed for, in the words of a grant's operations (`MAIL /read`).
    pub operations: Vec<String>,
}

/// Constants chosen by a field's value.
#[derive(Clone, Debug, Serialize)]
pub struct Variants {
    /// The name of the field.
    pub by: String,
    /// For each value of the field, the constants by name; every value has the same names.
    pub map: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>,
}

/// How tokens are renewed.
#[derive(Clone, Debug, Serialize)]
pub struct Refresh {
    /// In which way.
    pub strategy: RefreshStrategy,
    /// The request; absent only where the strategy is `none`.
    pub step: Option<Step>,
    /// How long before the expiry a refresh is due.
    #[serde(serialize_with = "duration_text")]
    pub before: Duration,
    /// The usual life of an access token, where it is known.
    #[serde(serialize_with = "optional_duration_text")]
    pub access_ttl: Option<Duration>,
    /// How old a token must be before the provider renews it.
    #[serde(serialize_with = "optional_duration_text")]
    pub min_age: Option<Duration>,
    /// Whether an expired access token can still be renewed.
    pub accept_expired: bool,
    /// Whether the refresh token changes.
    pub rotation: Rotation,
    /// Whether using an old refresh token kills all that came from it. An engine never uses one twice, whatever this says;
    /// `provider try` plays it.
    pub replay_kills_family: bool,
    /// How long an old refresh token still answers after a rotation; absent: not at all, or unknown.
    #[serde(serialize_with = "optional_duration_text")]
    pub grace: Option<Duration>,
    /// The life of the refresh token.
    #[serde(serialize_with = "optional_duration_text")]
    pub refresh_ttl: Option<Duration>,
    /// Whether a refresh starts that life anew.
    pub refresh_ttl_sliding: bool,
    /// Error words that end the connection, beside `invalid_grant`. Lower case.
    pub terminal_errors: Vec<String>,
    /// Resource lists to read again after a refresh.
    pub then: Vec<String>,
    /// What to try when the refresh token is refused for good.
    pub fallback: Option<Fallback>,
}

/// What to try when a refresh is refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Fallback {
    /// `session.login` with the stored login.
    #[serde(rename = "session.login")]
    SessionLogin,
}

/// How tokens are revoked at the provider.
#[derive(Clone, Debug, Serialize)]
pub struct Revoke {
    /// The calls, in order: refresh token first, then access token (RFC 7009 section 2.1).
    pub steps: Vec<Step>,
    /// What dies with it.
    pub kills: Kills,
}

impl Revoke {
    /// The calls to make for one connection, in order. A call whose token the connection does not have is left out
    /// ([`Step::applies`]). Where more than the named token dies with a call, the first is all: a second one would only
    /// be told that its token is unknown.
    pub fn calls<'r>(&'r self, vars: &'r Vars<'_>) -> impl Iterator<Item = &'r Step> {
        let most = if self.kills == Kills::Token { usize::MAX } else { 1 };
        self.steps.iter().filter(|step| step.applies(vars)).take(most)
    }
}

/// Who the account is.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A call answers it.
    Step(Box<Step>),
    /// What was entered says it: output names with their templates. `id` is always there.
    Static(Vec<(String, Template)>),
    /// Nothing does.
    None {
        /// Why, in words.
        reason: String,
    },
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Identity::Step(step) => step.serialize(serializer),
            Identity::Static(members) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("static", &AsMap(members))?;
                map.end()
            }
            Identity::None { reason } => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("none", reason)?;
                map.end()
            }
        }
    }
}

/// A further token of a connection.
#[derive(Clone, Debug, Serialize)]
pub struct Slot {
    /// How long it lives; absent: as the answer says, or until revoked.
    #[serde(serialize_with = "optional_duration_text")]
    pub ttl: Option<Duration>,
    /// The scopes asked for it.
    pub scopes: Vec<String>,
    /// Where the token answer holds it; empty where a resource list brings it.
    pub out: OutPaths,
}

/// Where the facts of a definition come from. Nothing in a definition was tried against the live provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Who says so: documentation, catalogues, public code.
    pub sources: Vec<String>,
    /// The day on which they were read, such as `2026-11-22`.
    pub read: String,
    /// The keys for which fewer than two sources agree, named as errors name them (`revoke.kills`). A section that is not
    /// there is named where it is unverified that the provider has no such thing.
    pub unverified: Vec<String>,
}

/// Where a definition came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// It is built in.
    Embedded,
    /// A file of the operator's.
    File(PathBuf),
    /// A text handed over by a program, under this name.
    Text(String),
}

/// Writes a duration as definition files do: `15m`.
pub(super) fn duration_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&spelled(*duration))
}

/// A duration as a whole number of its largest unit: `90s`, `2h`.
pub(super) fn spelled(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(24 * 3600, "d"), (3600, "h"), (60, "m")];
    let whole = units.iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    let (count, unit) = whole.map_or((seconds, "s"), |(unit, letter)| (seconds / unit, *letter));
    format!("{count}{unit}")
}

/// Writes a duration that may be absent.
pub(super) fn optional_duration_text<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => duration_text(duration, serializer),
        None => serializer.serialize_none(),
    }
}

/// Pairs written as an object.
struct AsMap<'a, V>(&'a [(String, V)]);

impl<V: Serialize> Serialize for AsMap<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Writes pairs as an object.
pub(super) fn as_map<V: Serialize, S: Serializer>(pairs: &[(String, V)], serializer: S) -> Result<S::Ok, S::Error> {
    AsMap(pairs).serialize(serializer)
}
