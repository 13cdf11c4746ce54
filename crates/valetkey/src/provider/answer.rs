//! Reading what a provider answers: untrusted text, small and strict.
//!
//! 1. A redirect, an error status or an answer that `fail_when` names is a [`StepFailure`]. So is, in a step that brings a
//!    token, any answer with an `error` and no token, whatever its status (GitHub and Slack answer errors with 200).
//! 2. A failure carries a class, by which engines decide, and one bounded word. The provider's description stays out:
//!    it is free text and may hold what we sent.
//! 3. Else the outputs are read by the step's paths. What is missing is absent; what is malformed is an error for
//!    tokens and absent for the rest. No number makes anything panic.

use std::{collections::BTreeMap, fmt, time::Duration};

use base64::Engine as _;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use super::{
    definition::Slot,
    step::Step,
    strict_json::json_value,
    template::TOKEN_SECRET,
    value_path::ValuePath,
    words::{BodyFormat, ExpiresAtFormat, ExpiresFrom},
};
use crate::{
    clock::Timestamp,
    secret::{Secret, SecretMap},
};

/// The largest answer that is read, in bytes. Token answers are a few KB; resource lists come in pages.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// The longest token that is taken, in bytes. It must still fit into a header.
const MAX_TOKEN: usize = 16 * 1024;

/// The longest name, id or label that is taken, in characters; longer ones are absent.
const MAX_TEXT: usize = 1024;

/// How many entries of a list are read.
const MAX_ENTRIES: usize = 1000;

/// No lifetime is longer: a hundred years.
const MAX_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// No provider makes us wait longer than a day.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What an answer brought. Absent is unknown, for lifetimes too: it is neither zero nor for ever (RFC 6749 section 5.1).
#[derive(Clone, Default)]
pub struct Outputs {
    /// The access token.
    pub access_token: Option<Secret>,
    /// The refresh token; absent means that the old one stays.
    pub refresh_token: Option<Secret>,
    /// The OAuth 1.0a token secret.
    pub token_secret: Option<Secret>,
    /// The token of a resource.
    pub token: Option<Secret>,
    /// The token's type, lower case.
    pub token_type: Option<String>,
    /// The life of the access token from now. Zero: it is over already.
    pub expires_in: Option<Duration>,
    /// The end of the access token.
    pub expires_at: Option<Timestamp>,
    /// The life of the refresh token from now.
    pub refresh_expires_in: Option<Duration>,
    /// The end of the refresh token.
    pub refresh_expires_at: Option<Timestamp>,
    /// The scopes that were granted; absent: those that were asked for.
    pub scope: Option<Vec<String>>,
    /// The upstream id. Numbers are written as text.
    pub id: Option<String>,
    /// The upstream name.
    pub username: Option<String>,
    /// The name for people.
    pub display_name: Option<String>,
    /// The e-mail address.
    pub email: Option<String>,
    /// What to call a resource in a list.
    pub label: Option<String>,
    /// A client id that was registered.
    pub client_id: Option<String>,
    /// A client secret that was registered.
    pub client_secret: Option<Secret>,
    /// Further values, by name. Texts, numbers and truth values.
    pub extra: BTreeMap<String, Value>,
    /// The whole answer.
    pub raw: SecretMap,
}

/// Silent: an answer is made of tokens and of somebody's name.
impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outputs([redacted])")
    }
}

/// The names that `out` may use, beside `extra.NAME`.
pub(super) const OUT_NAMES: &[&str] = &[
    "access_token",
    "refresh_token",
    "token_secret",
    "token",
    "token_type",
    "expires_in",
    "expires_at",
    "refresh_expires_in",
    "scope",
    "id",
    "username",
    "display_name",
    "email",
    "label",
    "client_id",
    "client_secret",
];

impl Outputs {
    /// When the access token ends, counted from `now`, the moment at which the request was sent.
    pub fn access_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.expires_at.or_else(|| self.expires_in.map(|life| now.plus(life)))
    }

    /// When the refresh token ends.
    pub fn refresh_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.refresh_expires_at.or_else(|| self.refresh_expires_in.map(|life| now.plus(life)))
    }

    /// Writes tokens, token type, identity and extras into an account, each under its own name; what is absent stays as
    /// it was there (RFC 6749 section 6: without a new refresh token the old one stays). Lifetimes and scopes are
    /// columns of the connection and are not written.
    pub fn store_into(&self, account: &mut SecretMap) {
        let secrets =
            [("access_token", &self.access_token), ("refresh_token", &self.refresh_token), (TOKEN_SECRET, &self.token_secret)];
        for (name, secret) in secrets {
            if let Some(secret) = secret {
                account.set_text(name, secret);
            }
        }
        let texts = [
            ("token_type", &self.token_type),
            ("id", &self.id),
            ("username", &self.username),
            ("display_name", &self.display_name),
            ("email", &self.email),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                account.expose_mut().insert(name.to_owned(), Value::String(text.clone()));
            }
        }
        for (name, value) in &self.extra {
            account.expose_mut().insert(name.clone(), value.clone());
        }
    }
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFailure {
    /// What it means for the connection.
    pub class: FailureClass,
    /// The provider's word, or ours where it has none: at most 64 of `a-z0-9_.-`. Never a description.
    pub error: String,
    /// The status of the answer.
    pub status: StatusCode,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The credential is dead: `invalid_grant`, or a word that the definition lists. Ask the person again.
    Terminal,
    /// Our client is refused (`invalid_client`, `unauthorized_client`): the app configuration is wrong, the tokens are not.
    ClientFault,
    /// It may work later: 408, 429, 5xx, `temporarily_unavailable`.
    Transient {
        /// After which time the provider wants to be asked again; at most a day.
        retry_after: Option<Duration>,
    },
    /// The person or the provider said no: `access_denied`.
    Denied,
    /// Anything else, an unreadable answer among it.
    Other,
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the provider answered {} with `{}`", self.status.as_u16(), self.error)
    }
}

impl std::error::Error for StepFailure {}

impl Step {
    /// Reads an answer.
    ///
    /// `headers` are read for `Content-Type`, `Retry-After` and `Date` only. `body` is the whole body, read with a limit
    /// of [`MAX_ANSWER`] bytes.
    pub fn read(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Outputs, StepFailure> {
        let answer = self.parse(status, headers, body)?;
        let outputs = self.outputs(&answer, status)?;
        let Value::Object(raw) = answer else { return Ok(outputs) };
        Ok(Outputs { raw: SecretMap::new(raw), ..outputs })
    }

    /// Reads an answer that holds a list: the outputs of every entry that counts, at most a thousand.
    pub fn read_list(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Outputs>, StepFailure> {
        self.read_page(status, headers, body).map(|(found, _)| found)
    }

    /// The same of a list that comes in pages, with where the next one begins; the last page does not say.
    pub fn read_page(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<(Vec<Outputs>, Option<Secret>), StepFailure> {
        let answer = self.parse(status, headers, body)?;
        let next = match self.next.as_ref().and_then(|next| next.path.find(&answer)) {
            Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_TOKEN => Some(Secret::new(text.as_str())),
            Some(Value::Number(number)) => Some(Secret::new(number.to_string())),
            _ => None,
        };
        let entries = match &self.list {
            Some(path) => path.find(&answer).and_then(Value::as_array),
            None => answer.as_array(),
        };
        let counts = |entry: &&Value| match &self.where_ {
            Some(condition) => condition.test.holds(condition.path.find(entry)),
            None => true,
        };
        let entries = entries.map(Vec::as_slice).unwrap_or_default();
        let found = entries.iter().filter(counts).take(MAX_ENTRIES).map(|entry| self.outputs(entry, status));
        // An entry without any of the things asked for is no candidate (a page without an Instagram account).
        let found = found.filter(|outputs| !matches!(outputs, Ok(o) if o.id.is_none() && o.scope.is_none() && o.token.is_none()));
        Ok((found.collect::<Result<_, _>>()?, next))
    }

    /// The token of a slot, read out of the whole answer that this step brought; absent where it holds none.
    pub fn read_slot(&self, slot: &Slot, answer: &Outputs, status: StatusCode) -> Result<Option<Outputs>, StepFailure> {
        let step = Step { out: slot.out.clone(), token_types: Vec::new(), default_expires_in: None, ..self.clone() };
        let mut raw = Value::Object(answer.raw.expose().clone());
        let outputs = step.outputs(&raw, status);
        if let Value::Object(copy) = raw.take() {
            // Wiped where it is dropped.
            drop(SecretMap::new(copy));
        }
        outputs.map(|outputs| outputs.access_token.is_some().then_some(outputs))
    }

    fn parse(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Value, StepFailure> {
        let parsed = if body.len() > MAX_ANSWER { None } else { self.body(headers, body) };
        if !status.is_success() {
            return Err(self.failure(status, headers, parsed.as_ref().and_then(|answer| self.error_word(answer))));
        }
        let reads_something = self.brings_token || !self.out.is_empty() || !self.fail_when.is_empty() || self.list.is_some();
        let Some(answer) = parsed else {
            return if reads_something {
                Err(self.failure(status, headers, Some("unreadable_answer".to_owned())))
            } else {
                // A revocation endpoint may answer 200 with nothing at all (RFC 7009 section 2.2).
                Ok(Value::Null)
            };
        };
        for rule in &self.fail_when {
            if rule.test.holds(rule.path.find(&answer)) {
                let named = rule.error.clone().or_else(|| {
                    let word = rule.error_path.as_ref().and_then(|path| word_at(path, &answer));
                    word.or_else(|| self.error_word(&answer))
                });
                return Err(self.failure(status, headers, named));
            }
        }
        if self.brings_token {
            let has_token = self.find("access_token", &answer).is_some();
            // R40: an answer with an error and no token is an error, whatever its status.
            if !has_token && answer.get("error").is_some_and(|error| !error.is_null()) {
                return Err(self.failure(status, headers, self.error_word(&answer)));
            }
            if !has_token {
                return Err(self.failure(status, headers, Some("no_token_in_answer".to_owned())));
            }
        }
        Ok(answer)
    }

    fn body(&self, headers: &HeaderMap, body: &[u8]) -> Option<Value> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_form = content_type.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded");
        match self.format {
            // A provider that answers forms may still answer errors in JSON.
            BodyFormat::Form if is_form || !looks_like_json(body) => form_object(body),
            BodyFormat::Form | BodyFormat::Json => json_value(body),
        }
    }

    fn outputs(&self, answer: &Value, status: StatusCode) -> Result<Outputs, StepFailure> {
        let unusable = |word: &str| StepFailure { class: FailureClass::Other, error: word.to_owned(), status };
        let secret = |name: &str| match self.find(name, answer) {
            None => Ok(None),
            Some(value) => token(value).map(Some).ok_or_else(|| unusable("malformed_token")),
        };
        let mut outputs = Outputs {
            access_token: secret("access_token")?,
            refresh_token: secret("refresh_token")?,
            token_secret: secret("token_secret")?,
            token: secret("token")?,
            client_secret: secret("client_secret")?,
            token_type: self.find("token_type", answer).and_then(text).map(|kind| kind.to_ascii_lowercase()),
            expires_in: self.find("expires_in", answer).and_then(lifetime),
            expires_at: self.find("expires_at", answer).and_then(|value| moment(value, self.expires_at_format)),
            refresh_expires_in: self.find("refresh_expires_in", answer).and_then(lifetime),
            refresh_expires_at: None,
            scope: self.find("scope", answer).and_then(|value| scopes(value, &self.scope_separator)),
            id: self.find("id", answer).and_then(text),
            username: self.find("username", answer).and_then(text),
            display_name: self.find("display_name", answer).and_then(text),
            email: self.find("email", answer).and_then(text),
            label: self.find("label", answer).and_then(text),
            client_id: self.find("client_id", answer).and_then(text),
            extra: BTreeMap::new(),
            raw: SecretMap::default(),
        };
        // R31: a token of a type that we do not know is not used.
        if let Some(kind) = &outputs.token_type
            && self.brings_token
            && !self.token_types.is_empty()
            && !self.token_types.contains(kind)
        {
            return Err(unusable("unknown_token_type"));
        }
        for (name, paths) in &self.out {
            let Some(name) = name.strip_prefix("extra.") else { continue };
            let value = paths.iter().find_map(|path| path.find(answer));
            match value {
                Some(Value::String(text)) if text.chars().count() <= MAX_TEXT => {
                    outputs.extra.insert(name.to_owned(), Value::String(text.clone()));
                }
                Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                    outputs.extra.insert(name.to_owned(), value.clone());
                }
                _ => {}
            }
        }
        if self.expires_from == Some(ExpiresFrom::JwtExp) {
            outputs.expires_at = outputs.expires_at.or_else(|| outputs.access_token.as_ref().and_then(jwt_expiry));
            outputs.refresh_expires_at = outputs.refresh_token.as_ref().and_then(jwt_expiry);
        }
        if outputs.expires_in.is_none() && outputs.expires_at.is_none() && outputs.access_token.is_some() {
            outputs.expires_in = self.default_expires_in;
        }
        Ok(outputs)
    }

    fn find<'v>(&self, name: &str, answer: &'v Value) -> Option<&'v Value> {
        let paths = self.out.get(name)?;
        // An empty text is as good as none.
        paths.iter().find_map(|path| path.find(answer).filter(|value| value.as_str() != Some("")))
    }

    /// The provider's word for what went wrong, where one is found.
    fn error_word(&self, answer: &Value) -> Option<String> {
        if let Some(word) = self.error_path.as_ref().and_then(|path| word_at(path, answer)) {
            return Some(word);
        }
        let error = answer.get("error").unwrap_or(&Value::Null);
        let inside = ["code", "type", "status"].iter().find_map(|name| error.get(name));
        let outside = ["error_code", "code"].iter().find_map(|name| answer.get(name));
        [Some(error), inside, outside].into_iter().flatten().find_map(word)
    }

    fn failure(&self, status: StatusCode, headers: &HeaderMap, named: Option<String>) -> StepFailure {
        let error = match named {
            Some(word) => word,
            None if status.is_redirection() => "redirect".to_owned(),
            None if status.is_success() => "unnamed_error".to_owned(),
            None => format!("http_{}", status.as_u16()),
        };
        let transient_status = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
        let transient_word =
            matches!(error.as_str(), "temporarily_unavailable" | "server_error" | "slow_down" | "rate_limited" | "ratelimited");
        let class = if transient_status || transient_word {
            FailureClass::Transient { retry_after: retry_after(headers) }
        } else if self.brings_token && (error == "invalid_grant" || self.terminal_errors.contains(&error)) {
            FailureClass::Terminal
        } else {
            match error.as_str() {
                "invalid_client" | "unauthorized_client" => FailureClass::ClientFault,
                "access_denied" => FailureClass::Denied,
                _ => FailureClass::Other,
            }
        };
        StepFailure { class, error, status }
    }
}

fn word_at(path: &ValuePath, answer: &Value) -> Option<String> {
    path.find(answer).and_then(word)
}

/// A word that may stand in a log: 1 to 64 of `a-z0-9_.-`, lower-cased. Anything else is no word.
fn word(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.to_ascii_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let fine = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b));
    fine.then_some(text)
}

/// A token: a text without control characters, or a number written as one.
fn token(value: &Value) -> Option<Secret> {
    match value {
        Value::String(text) if text.len() <= MAX_TOKEN && !text.chars().any(char::is_control) => Some(Secret::new(text.as_str())),
        _ => None,
    }
}

/// A name or id; numbers keep their digits. Numbers too large for that are absent rather than wrong. Control characters
/// are left out: PostgreSQL takes no NUL, and an answer that could not be stored would be a rotated token lost.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.chars().count() <= MAX_TEXT => Some(text.chars().filter(|c| !c.is_control()).collect()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// Seconds, as a number or as a text (R32). Zero and less: it is over. Larger than any life: a hundred years.
fn lifetime(value: &Value) -> Option<Duration> {
    let seconds = number(value)?;
    if seconds <= 0.0 {
        return Some(Duration::ZERO);
    }
    Some(if seconds >= MAX_LIFE.as_secs_f64() { MAX_LIFE } else { Duration::from_secs_f64(seconds) })
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (!number.is_nan()).then_some(number)
}

fn moment(value: &Value, format: ExpiresAtFormat) -> Option<Timestamp> {
    let in_seconds = |seconds: f64| {
        // `as` saturates, and so does the timestamp.
        #[expect(clippy::cast_possible_truncation, reason = "a float is cut to the nearest end of time")]
        let seconds = seconds as i64;
        Timestamp::from_unix_seconds(seconds)
    };
    match format {
        ExpiresAtFormat::Seconds => number(value).map(in_seconds),
        ExpiresAtFormat::Ms => number(value).map(|millis| in_seconds(millis / 1000.0)),
        ExpiresAtFormat::Rfc3339 => {
            let moment: jiff::Timestamp = value.as_str()?.parse().ok()?;
            Some(Timestamp(moment.as_microsecond()))
        }
    }
}

/// Granted scopes: a list, or a text. White space separates them always: no scope can hold any (RFC 6749 section 3.3).
fn scopes(value: &Value, separator: &str) -> Option<Vec<String>> {
    let split = |text: &str| {
        let pieces = text.split(char::is_whitespace).flat_map(|piece| {
            let separator = separator.trim();
            if separator.is_empty() { vec![piece] } else { piece.split(separator).collect() }
        });
        pieces.filter(|piece| !piece.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut scopes = match value {
        Value::String(text) => split(text),
        Value::Array(items) => items.iter().filter_map(Value::as_str).flat_map(split).collect(),
        _ => return None,
    };
    scopes.sort();
    scopes.dedup();
    Some(scopes)
}

/// The `exp` claim of a JWT (RFC 7519 section 4.1.4). The signature is not checked: the token came from its issuer over
/// TLS, we are not its audience, and the claim only says when to refresh.
fn jwt_expiry(token: &Secret) -> Option<Timestamp> {
    let payload = token.expose().split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims = json_value(&payload)?;
    moment(claims.get("exp")?, ExpiresAtFormat::Seconds)
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date that is compared with the answer's own `Date`, so that
/// nobody's clock is trusted.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = |text: &str| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
            let sent = date(headers.get(header::DATE)?.to_str().ok()?)?;
            Duration::from_secs(u64::try_from(date(text)?.as_second().saturating_sub(sent.as_second())).unwrap_or(0))
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

fn looks_like_json(body: &[u8]) -> bool {
    body.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| matches!(b, b'{' | b'['))
}

/// A form as an object. A repeated name is refused: nobody could say which one counts.
fn form_object(body: &[u8]) -> Option<Value> {
    let mut map = Map::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        if map.insert(name.into_owned(), Value::String(value.into_owned())).is_some() {
            return None;
        }
    }
    (!map.is_empty()).then_some(Value::Object(map))
}
