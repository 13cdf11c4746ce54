//! Templates: texts with `{{name}}` in them, parsed at load, filled in at use.
//!
//! ```text
//! {{field.NAME}} {{field.NAME.MEMBER}}   what was entered; MEMBER only of a field with `parse = "json"`
//! {{token.access_token}}                 the connection's access_token, refresh_token or token_secret
//! {{slot.access_token}}                  the token of the chosen slot
//! {{extra.NAME}}                         what an earlier answer's `extra.NAME` brought
//! {{variant.NAME}}                       a constant chosen by a field's value
//! {{broker.app_id}} {{broker.version}} {{broker.url}}
//! {{scopes}} {{callback}} {{api_version}} {{jwt}} {{id}}
//! {{code}} {{code_verifier}}             in a token request only; `code` is the verifier of OAuth 1.0a
//!
//! {{x|b64}} {{x|host}} {{x|hmac_sha256_hex(field.NAME)}}
//! ```
//!
//! A template that is one value and nothing else may render to nothing; the parameter is then left out. In any other
//! template a missing value is an error: half a header is worse than none.

use std::{collections::BTreeSet, fmt, sync::Arc};

use base64::Engine as _;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::{
    definition::Variants,
    field::{Field, origin},
    words::{FieldLevel, Parse},
};
use crate::{
    clock::Timestamp,
    error::{Code, Error, Result},
    secret::{Secret, SecretMap},
};

/// What an account calls the secret of an OAuth 1.0a token, as the accounts of Data Machine do. Definitions say `token_secret`.
pub const TOKEN_SECRET: &str = "access_token_secret";

/// The values that templates and steps are filled with. Everything is borrowed: no secret is copied before it is used.
#[derive(Clone, Copy, Default)]
pub struct Vars<'a> {
    /// The app configuration: fields of level `app`.
    pub app: Option<&'a SecretMap>,
    /// What was entered for the connection: fields of level `connection`.
    pub fields: Option<&'a SecretMap>,
    /// The connection's account: `token.*`, and `extra.*` under their own names, as
    /// [`Outputs::store_into`](super::step::Outputs::store_into) puts them there.
    pub account: Option<&'a SecretMap>,
    /// The account of the chosen slot; without one `slot.*` is read from `account`.
    pub slot: Option<&'a SecretMap>,
    /// Who we are as a client.
    pub client: Option<Client<'a>>,
    /// Scopes, joined by [`OAuth2::join_scopes`](super::OAuth2::join_scopes).
    pub scopes: Option<&'a str>,
    /// Our redirect URI.
    pub callback: Option<&'a str>,
    /// Another version than the definition's.
    pub api_version: Option<&'a str>,
    /// The upstream id of the account or the chosen resource.
    pub id: Option<&'a str>,
    /// The signed assertion.
    pub jwt: Option<&'a Secret>,
    /// The authorization code; of OAuth 1.0a the verifier.
    pub code: Option<&'a Secret>,
    /// The PKCE verifier.
    pub code_verifier: Option<&'a Secret>,
    /// The moment of sending: what is signed names it (RFC 5849 section 3.3).
    pub now: Option<Timestamp>,
    /// This installation.
    pub broker: Broker<'a>,
}

impl fmt::Debug for Vars<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vars([redacted])")
    }
}

/// Who we are as a client.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The client identifier.
    pub id: &'a str,
    /// The client secret; a public client has none.
    pub secret: Option<&'a Secret>,
}

/// This installation, as it names itself to providers.
#[derive(Clone, Copy, Debug)]
pub struct Broker<'a> {
    /// A short name of the program, such as `valetkey`.
    pub app_id: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Where it is reached, or where the program comes from.
    pub url: &'a str,
}

impl Default for Broker<'_> {
    fn default() -> Self {
        Self { app_id: "valetkey", version: env!("CARGO_PKG_VERSION"), url: env!("CARGO_PKG_REPOSITORY") }
    }
}

/// A text with values to fill in.
#[derive(Clone)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone)]
pub(super) enum Part {
    Text(String),
    Value(Slot),
}

/// A value and what is done to it.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) var: Var,
    filter: Option<Filter>,
}

#[derive(Clone)]
pub(super) enum Var {
    Field(FieldRef),
    Token(&'static str),
    SlotToken,
    Extra { name: String, default: Option<Arc<Template>> },
    Variant { by: FieldRef, name: String, variants: Arc<Variants> },
    BrokerAppId,
    BrokerVersion,
    BrokerUrl,
    Scopes,
    Callback,
    ApiVersion(Option<String>),
    Jwt,
    Id,
    Code,
    CodeVerifier,
}

/// A field with all that rendering needs of its declaration.
#[derive(Clone)]
pub(super) struct FieldRef {
    pub(super) name: String,
    member: Option<String>,
    level: FieldLevel,
    pub(super) secret: bool,
    pub(super) is_origin: bool,
    pub(super) loopback_http: bool,
    default: Option<String>,
}

#[derive(Clone)]
enum Filter {
    Base64,
    Host,
    HmacSha256Hex(FieldRef),
}

/// The names that a template may use in one definition.
pub(super) struct Names<'a> {
    pub(super) fields: &'a [Field],
    pub(super) extras: &'a [String],
    pub(super) extra_defaults: &'a [(String, Arc<Template>)],
    pub(super) variants: Option<&'a Arc<Variants>>,
    pub(super) api_version: Option<&'a str>,
}

impl Template {
    /// Reads a template. The error says which name is not known and which are.
    pub(super) fn parse(text: &str, names: &Names<'_>) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            let Some(length) = rest[start + 2..].find("}}") else { return Err("`{{` without `}}`".to_owned()) };
            parts.push(Part::Value(Slot::parse(&rest[start + 2..start + 2 + length], names)?));
            rest = &rest[start + 2 + length + 2..];
        }
        if rest.contains("}}") {
            return Err("`}}` without `{{`".to_owned());
        }
        if !rest.is_empty() || parts.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { source: text.to_owned(), parts })
    }

    /// The text with its values. Absent when the template is one value and that is missing or empty; an error when a
    /// value is missing anywhere else.
    pub fn render(&self, vars: &Vars<'_>) -> Result<Option<Secret>> {
        let mut out = Zeroizing::new(String::new());
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(slot) => {
                    let value = slot.render(vars)?;
                    if value.is_empty() && self.parts.len() > 1 {
                        return Err(slot.missing());
                    }
                    out.push_str(&value);
                }
            }
        }
        Ok((!out.is_empty()).then(|| Secret::new(out.as_str())))
    }

    /// Whether every value that it needs is there.
    pub(super) fn is_complete(&self, vars: &Vars<'_>) -> bool {
        self.slots().all(|slot| slot.render(vars).is_ok_and(|value| !value.is_empty()))
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether it can hold a secret.
    pub fn is_secret(&self) -> bool {
        self.slots().any(Slot::is_secret)
    }

    /// Whether a field's value is part of it.
    pub(super) fn uses_field(&self, name: &str) -> bool {
        self.slots().any(|slot| match &slot.var {
            Var::Field(field) | Var::Variant { by: field, .. } => field.name == name,
            _ => false,
        })
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value(slot) => Some(slot),
            Part::Text(_) => None,
        })
    }
}

impl Slot {
    fn parse(text: &str, names: &Names<'_>) -> Result<Self, String> {
        let (name, filter) = match text.split_once('|') {
            Some((name, filter)) => (name, Some(filter)),
            None => (text, None),
        };
        let var = Var::parse(name, names)?;
        let filter = match filter {
            None => None,
            Some("b64") => Some(Filter::Base64),
            Some("host") => Some(Filter::Host),
            Some(other) => match other.strip_prefix("hmac_sha256_hex(field.").and_then(|rest| rest.strip_suffix(')')) {
                Some(key) => Some(Filter::HmacSha256Hex(FieldRef::parse(key, names)?)),
                None => return Err(format!("`{other}` is not one of the filters b64, host, hmac_sha256_hex(field.NAME)")),
            },
        };
        Ok(Self { var, filter })
    }

    /// Whether what comes out must be kept secret. A keyed hash of a token is a proof of having it: it counts.
    pub(super) fn is_secret(&self) -> bool {
        if matches!(self.filter, Some(Filter::HmacSha256Hex(_))) {
            return true;
        }
        match &self.var {
            Var::Field(field) => field.secret,
            Var::Token(_) | Var::SlotToken | Var::Jwt | Var::Code | Var::CodeVerifier => true,
            Var::Extra { default, .. } => default.as_ref().is_some_and(|default| default.is_secret()),
            _ => false,
        }
    }

    /// Adds the members of an account from which its value is made.
    pub(super) fn add_members(&self, names: &mut BTreeSet<String>) {
        let mut add = |field: &FieldRef| {
            if field.level == FieldLevel::Connection {
                names.insert(field.name.clone());
            }
        };
        if let Some(Filter::HmacSha256Hex(key)) = &self.filter {
            add(key);
        }
        match &self.var {
            Var::Field(field) | Var::Variant { by: field, .. } => add(field),
            Var::Token(name) => {
                names.insert((*name).to_owned());
            }
            Var::SlotToken => {
                names.insert("access_token".to_owned());
            }
            Var::Extra { name, default } => {
                names.insert(name.clone());
                default.iter().flat_map(|default| default.slots()).for_each(|slot| slot.add_members(names));
            }
            // Whoever has no connection any more takes it from the account.
            Var::Id => {
                names.insert("id".to_owned());
            }
            Var::BrokerAppId
            | Var::BrokerVersion
            | Var::BrokerUrl
            | Var::Scopes
            | Var::Callback
            | Var::ApiVersion(_)
            | Var::Jwt
            | Var::Code
            | Var::CodeVerifier => {}
        }
    }

    pub(super) fn is_host(&self) -> bool {
        matches!(self.filter, Some(Filter::Host))
    }

    pub(super) fn is_plain(&self) -> bool {
        self.filter.is_none()
    }

    pub(super) fn render(&self, vars: &Vars<'_>) -> Result<Zeroizing<String>> {
        let value = self.var.value(vars)?;
        if value.is_empty() {
            return Ok(value);
        }
        Ok(match &self.filter {
            None => value,
            Some(Filter::Base64) => Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(value.as_bytes())),
            Some(Filter::Host) => {
                // What came from an answer is checked as strictly as what was entered.
                let origin = origin(&value, self.var.takes_loopback_http()).map_err(|_| bad_instance())?;
                Zeroizing::new(origin.split_once("://").map(|(_, host)| host.to_owned()).unwrap_or_default())
            }
            Some(Filter::HmacSha256Hex(key)) => {
                let key = key.value(vars)?;
                if key.is_empty() {
                    return Ok(key);
                }
                let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
                let tag = aws_lc_rs::hmac::sign(&key, value.as_bytes());
                Zeroizing::new(hex::encode(tag))
            }
        })
    }

    /// The error for a value that is needed and not there.
    pub(super) fn missing(&self) -> Error {
        match &self.var {
            Var::Field(field) | Var::Variant { by: field, .. } if field.level == FieldLevel::App => {
                Error::new(Code::NotConfigured, format!("the app configuration lacks `{}`", field.name))
            }
            Var::Field(field) | Var::Variant { by: field, .. } => {
                Error::new(Code::NotConfigured, format!("the connection lacks `{}`", field.name))
            }
            Var::Token(name) => Error::new(Code::NoCredentials, format!("the connection has no {name}")),
            Var::SlotToken => Error::new(Code::NoCredentials, "the connection has no token of that slot"),
            Var::Extra { name, .. } => Error::new(Code::NoCredentials, format!("the account lacks `{name}`; connect it again")),
            other => Error::internal(format!("a template needs `{}` and was given none", other.word())),
        }
    }
}

fn bad_instance() -> Error {
    Error::new(Code::HostRefused, "the account's server address cannot be used; connect it again")
}

impl Var {
    fn parse(name: &str, names: &Names<'_>) -> Result<Self, String> {
        const KNOWN: &str = "field.NAME, token.NAME, slot.access_token, extra.NAME, variant.NAME, broker.app_id, \
                             broker.version, broker.url, scopes, callback, api_version, jwt, id";
        let unknown = || format!("`{name}` is not one of {KNOWN}");
        let Some((family, rest)) = name.split_once('.') else {
            return Ok(match name {
                "scopes" => Var::Scopes,
                "callback" => Var::Callback,
                "api_version" => Var::ApiVersion(names.api_version.map(str::to_owned)),
                "jwt" => Var::Jwt,
                "id" => Var::Id,
                "code" => Var::Code,
                "code_verifier" => Var::CodeVerifier,
                _ => return Err(unknown()),
            });
        };
        Ok(match (family, rest) {
            ("field", rest) => Var::Field(FieldRef::parse(rest, names)?),
            ("token", "access_token") => Var::Token("access_token"),
            ("token", "refresh_token") => Var::Token("refresh_token"),
            ("token", "token_secret") => Var::Token(TOKEN_SECRET),
            ("token", rest) => {
                return Err(format!("`token.{rest}` is not one of token.access_token, token.refresh_token, token.token_secret"));
            }
            ("slot", "access_token") => Var::SlotToken,
            ("slot", rest) => return Err(format!("`slot.{rest}` is not slot.access_token")),
            ("broker", "app_id") => Var::BrokerAppId,
            ("broker", "version") => Var::BrokerVersion,
            ("broker", "url") => Var::BrokerUrl,
            ("extra", rest) if names.extras.iter().any(|extra| extra == rest) => Var::Extra {
                name: rest.to_owned(),
                default: names.extra_defaults.iter().find(|(name, _)| name == rest).map(|(_, default)| default.clone()),
            },
            ("extra", rest) => return Err(format!("no answer brings `extra.{rest}`; an `out` must name it")),
            ("variant", rest) => {
                let Some(variants) = names.variants else { return Err("there is no [variants] table".to_owned()) };
                if !variants.map.values().all(|row| row.contains_key(rest)) {
                    return Err(format!("not every row of [variants] has `{rest}`"));
                }
                let by = FieldRef::parse(&variants.by, names)?;
                Var::Variant { by, name: rest.to_owned(), variants: variants.clone() }
            }
            _ => return Err(unknown()),
        })
    }

    fn word(&self) -> &'static str {
        match self {
            Var::Field(_) => "field",
            Var::Token(_) => "token",
            Var::SlotToken => "slot.access_token",
            Var::Extra { .. } => "extra",
            Var::Variant { .. } => "variant",
            Var::BrokerAppId => "broker.app_id",
            Var::BrokerVersion => "broker.version",
            Var::BrokerUrl => "broker.url",
            Var::Scopes => "scopes",
            Var::Callback => "callback",
            Var::ApiVersion(_) => "api_version",
            Var::Jwt => "jwt",
            Var::Id => "id",
            Var::Code => "code",
            Var::CodeVerifier => "code_verifier",
        }
    }

    pub(super) fn takes_loopback_http(&self) -> bool {
        match self {
            Var::Field(field) => field.loopback_http,
            Var::Extra { default: Some(default), .. } => default.slots().any(|slot| slot.var.takes_loopback_http()),
            _ => false,
        }
    }

    /// The value as text; empty when it is missing.
    fn value(&self, vars: &Vars<'_>) -> Result<Zeroizing<String>> {
        let plain = |text: Option<&str>| Ok(Zeroizing::new(text.unwrap_or_default().to_owned()));
        let secret = |secret: Option<&Secret>| Ok(Zeroizing::new(secret.map(Secret::expose).unwrap_or_default().to_owned()));
        match self {
            Var::Field(field) => field.value(vars),
            Var::Token(name) => member(vars.account, name),
            Var::SlotToken => member(vars.slot.or(vars.account), "access_token"),
            Var::Extra { name, default } => {
                let value = member(vars.account, name)?;
                match default {
                    Some(default) if value.is_empty() => {
                        Ok(Zeroizing::new(default.render(vars)?.map(|text| text.expose().to_owned()).unwrap_or_default()))
                    }
                    _ => Ok(value),
                }
            }
            Var::Variant { by, name, variants } => {
                let chosen = by.value(vars)?;
                plain(variants.map.get(chosen.as_str()).and_then(|row| row.get(name)).map(String::as_str))
            }
            Var::BrokerAppId => plain(Some(vars.broker.app_id)),
            Var::BrokerVersion => plain(Some(vars.broker.version)),
            Var::BrokerUrl => plain(Some(vars.broker.url)),
            Var::Scopes => plain(vars.scopes),
            Var::Callback => plain(vars.callback),
            Var::ApiVersion(default) => plain(vars.api_version.or(default.as_deref())),
            Var::Jwt => secret(vars.jwt),
            Var::Id => plain(vars.id),
            Var::Code => secret(vars.code),
            Var::CodeVerifier => secret(vars.code_verifier),
        }
    }
}

impl FieldRef {
    fn parse(text: &str, names: &Names<'_>) -> Result<Self, String> {
        let (name, path) = match text.split_once('.') {
            Some((name, path)) => (name, Some(path)),
            None => (text, None),
        };
        let Some(field) = names.fields.iter().find(|field| field.name == name) else {
            let known: Vec<&str> = names.fields.iter().map(|field| field.name.as_str()).collect();
            return Err(format!("there is no field `{name}`; the fields are {}", known.join(", ")));
        };
        if path.is_some() && field.parse != Some(Parse::Json) {
            return Err(format!("the field `{name}` has no members: it lacks parse = \"json\""));
        }
        if path.is_some_and(|path| path.is_empty() || path.contains('.')) {
            return Err(format!("`field.{text}` goes deeper than one member"));
        }
        Ok(Self {
            name: field.name.clone(),
            member: path.map(str::to_owned),
            level: field.level,
            secret: field.secret && !path.is_some_and(|path| field.public_members.iter().any(|public| public == path)),
            is_origin: field.normalize == Some(super::words::Normalize::HttpsOrigin),
            loopback_http: field.loopback_http,
            default: field.default.clone(),
        })
    }

    fn value(&self, vars: &Vars<'_>) -> Result<Zeroizing<String>> {
        let map = match self.level {
            FieldLevel::App => vars.app,
            FieldLevel::Connection => vars.fields,
        };
        let Some(path) = &self.member else {
            let value = member(map, &self.name)?;
            return Ok(match &self.default {
                Some(default) if value.is_empty() => Zeroizing::new(default.clone()),
                _ => value,
            });
        };
        // A member of a JSON field: the field may be stored as text or as the object itself.
        match map.and_then(|map| map.expose().get(&self.name)) {
            Some(serde_json::Value::Object(object)) => text_of(object.get(path), &self.name),
            Some(serde_json::Value::String(text)) if !text.is_empty() => {
                let object = SecretMap::from_json(&crate::secret::SecretBytes::new(text.clone().into_bytes()))
                    .map_err(|_| Error::new(Code::NotConfigured, format!("`{}` is not a JSON object", self.name)))?;
                text_of(object.expose().get(path), &self.name)
            }
            _ => Ok(Zeroizing::default()),
        }
    }
}

fn member(map: Option<&SecretMap>, name: &str) -> Result<Zeroizing<String>> {
    text_of(map.and_then(|map| map.expose().get(name)), name)
}

/// A JSON value as a template writes it. Lists and objects have no such form.
fn text_of(value: Option<&serde_json::Value>, name: &str) -> Result<Zeroizing<String>> {
    use serde_json::Value;
    Ok(Zeroizing::new(match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(truth)) => truth.to_string(),
        Some(Value::Array(_) | Value::Object(_)) => {
            return Err(Error::new(Code::NotConfigured, format!("`{name}` is stored as a list or an object, not as a text")));
        }
    }))
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({})", self.source)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}
