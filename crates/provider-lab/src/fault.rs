//! Misbehaviour on demand: a [`Rule`] says where, for whom and how often; a [`Fault`] says what goes wrong.
//!
//! Every rule that matches a request applies to it, so that a delay and a lost answer can be combined. The order is
//! fixed: wait, refuse instead of working, work, change the answer, wait again, break the transport.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::Person;

/// No fault waits longer than this.
const LONGEST: Duration = Duration::from_secs(120);
/// No fault answers with more than this.
const LARGEST: u64 = 1 << 30;

/// Where a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// The decision at `/authorize` or `/oauth1/authorize`, and its callback (not the showing of the consent page).
    Authorize,
    /// `/token`, whatever the grant type.
    Token,
    /// `/token` with `grant_type=authorization_code`.
    Code,
    /// `/token` with `grant_type=refresh_token`.
    Refresh,
    /// `/token` with the device grant (RFC 8628 section 3.4).
    DeviceToken,
    /// `/device/authorize` (RFC 8628 section 3.1).
    Device,
    /// `/register`: a new app.
    Register,
    /// `/pages`: the list of a person's pages, with their tokens.
    Pages,
    /// `/exchange`: from short-lived to long-lived, and extending.
    Exchange,
    /// `/revoke` and `/oauth1/revoke`.
    Revoke,
    /// `/introspect`.
    Introspect,
    /// `/userinfo` and `/oauth1/me`.
    Userinfo,
    /// `/.well-known/oauth-authorization-server`.
    Metadata,
    /// `/oauth1/request_token`: temporary credentials.
    TemporaryToken,
    /// `/oauth1/access_token`: a verifier for a token.
    VerifiedToken,
    /// A login for a token: `/session`, `/login`, `/assertion`, `/installations/{id}/tokens`.
    Login,
    /// `/resolve` and `/did/{did}`.
    Directory,
    /// Anything under `/api/` and `/oauth1/api/`.
    Api,
    /// Every one of these.
    Any,
    /// Of a [`crate::Mimic`]: the calls about an account or a client that have no name above.
    Details,
}

impl At {
    /// The name in counters and in the log.
    pub fn name(self) -> &'static str {
        match self {
            At::Authorize => "authorize",
            At::Token => "token.other",
            At::Code => "token.authorization_code",
            At::Refresh => "token.refresh_token",
            At::DeviceToken => "token.device_code",
            At::Device => "device",
            At::Register => "register",
            At::Pages => "pages",
            At::Exchange => "exchange",
            At::Revoke => "revoke",
            At::Introspect => "introspect",
            At::Userinfo => "userinfo",
            At::Metadata => "metadata",
            At::TemporaryToken => "oauth1.request_token",
            At::VerifiedToken => "oauth1.access_token",
            At::Login => "login",
            At::Directory => "directory",
            At::Api => "api",
            At::Any => "unknown",
            At::Details => "details",
        }
    }

    fn covers(self, place: At) -> bool {
        self == At::Any || self == place || (self == At::Token && matches!(place, At::Code | At::Refresh | At::DeviceToken))
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Wait before the work. Never longer than two minutes.
    DelayBefore {
        /// Milliseconds.
        ms: u64,
    },
    /// Do the work, then wait before the answer. Never longer than two minutes.
    DelayAfter {
        /// Milliseconds.
        ms: u64,
    },
    /// Wait before the work until [`crate::Control::release`], at most two minutes.
    HoldBefore,
    /// Do the work, then wait until [`crate::Control::release`], at most two minutes.
    HoldAfter,
    /// Close the connection without doing the work.
    Drop,
    /// Do the work, then close the connection without an answer.
    LoseResponse,
    /// Do the work, then stay silent for two minutes and close the connection.
    NeverAnswer,
    /// Answer with this status. The body says nothing useful.
    Status {
        /// The HTTP status.
        status: u16,
        /// The value of `Retry-After`: seconds or an HTTP date.
        #[serde(default)]
        retry_after: Option<String>,
        /// Do the work nevertheless.
        #[serde(default)]
        work: bool,
    },
    /// An OAuth error (RFC 6749 section 5.2) instead of the work, such as `invalid_grant`.
    OauthError {
        /// The error code.
        error: String,
        /// The HTTP status; 400 when absent. 200 plays the providers that fail with a success status.
        #[serde(default = "bad_request")]
        status: u16,
    },
    /// Answer with this status and this JSON instead of the work: an error in a provider's own form.
    Reply {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Value,
    },
    /// The person says no; the callback carries this error. Only at [`At::Authorize`].
    Deny {
        /// The error code, usually `access_denied`.
        error: String,
    },
    /// Set a member of the JSON answer, or a parameter of the callback, to this value.
    Set {
        /// Its name.
        field: String,
        /// Its value; a callback parameter becomes text.
        value: Value,
    },
    /// Leave a member of the JSON answer, or a parameter of the callback, out.
    Omit {
        /// Its name.
        field: String,
    },
    /// Give a member or a parameter twice: first with this value, then with the true one.
    Duplicate {
        /// Its name.
        field: String,
        /// The false value.
        value: Value,
    },
    /// The access token dies after so many seconds, whatever `expires_in` says.
    EarlyExpiry {
        /// Seconds.
        seconds: u64,
    },
    /// The tokens contain a line feed and an escape character. They work when they are sent back as they are.
    ControlCharacters,
    /// Somebody else signs in than was chosen; at [`At::Userinfo`], somebody else is described.
    Subject {
        /// The username of the other person.
        person: String,
    },
    /// Only these scopes are granted.
    Scope {
        /// Scopes, separated by spaces.
        scope: String,
    },
    /// Send the body a few bytes at a time.
    SlowBody {
        /// Bytes at a time; at least 1.
        chunk: usize,
        /// Milliseconds between two pieces.
        ms: u64,
    },
    /// Add so many spaces after the body. JSON stays valid.
    HugeBody {
        /// How many; at most 1 GiB.
        bytes: u64,
    },
    /// Send half of the body, then close the connection.
    TruncatedBody,
    /// Do the work, then answer 200 with a page of HTML.
    HtmlBody,
    /// Do the work, then answer with this text as body.
    Body {
        /// The body.
        text: String,
    },
    /// Name another content type; an empty one leaves the header out.
    ContentType {
        /// The header's value.
        value: String,
    },
}

fn bad_request() -> u16 {
    400
}

impl Fault {
    /// Its name in the log.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Fault::DelayBefore { .. } => "delay_before",
            Fault::DelayAfter { .. } => "delay_after",
            Fault::HoldBefore => "hold_before",
            Fault::HoldAfter => "hold_after",
            Fault::Drop => "drop",
            Fault::LoseResponse => "lose_response",
            Fault::NeverAnswer => "never_answer",
            Fault::Status { .. } => "status",
            Fault::OauthError { .. } => "oauth_error",
            Fault::Reply { .. } => "reply",
            Fault::Deny { .. } => "deny",
            Fault::Set { .. } => "set",
            Fault::Omit { .. } => "omit",
            Fault::Duplicate { .. } => "duplicate",
            Fault::EarlyExpiry { .. } => "early_expiry",
            Fault::ControlCharacters => "control_characters",
            Fault::Subject { .. } => "subject",
            Fault::Scope { .. } => "scope",
            Fault::SlowBody { .. } => "slow_body",
            Fault::HugeBody { .. } => "huge_body",
            Fault::TruncatedBody => "truncated_body",
            Fault::HtmlBody => "html_body",
            Fault::Body { .. } => "body",
            Fault::ContentType { .. } => "content_type",
        }
    }

    /// The status and `Retry-After` that a provider sends when it throttles.
    pub fn too_many(retry_after: &str) -> Self {
        Fault::Status { status: 429, retry_after: Some(retry_after.to_owned()), work: false }
    }

    /// A failure before the work, such as 503.
    pub fn status(status: u16) -> Self {
        Fault::Status { status, retry_after: None, work: false }
    }

    /// An OAuth error with status 400, such as `invalid_grant`.
    pub fn oauth(error: &str) -> Self {
        Fault::OauthError { error: error.to_owned(), status: 400 }
    }

    /// An error in a body with status 200.
    pub fn error_with_200(error: &str) -> Self {
        Fault::OauthError { error: error.to_owned(), status: 200 }
    }

    /// Another value for a member or a callback parameter.
    pub fn set(field: &str, value: impl Into<Value>) -> Self {
        Fault::Set { field: field.to_owned(), value: value.into() }
    }

    /// A member or a callback parameter left out.
    pub fn omit(field: &str) -> Self {
        Fault::Omit { field: field.to_owned() }
    }
}

/// A fault, and where, for whom and how often it happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Where.
    pub at: At,
    /// What.
    pub fault: Fault,
    /// How often; absent is always.
    #[serde(default)]
    pub times: Option<u32>,
    /// How many matching requests pass before the first.
    #[serde(default)]
    pub skip: u32,
    /// Only for this client; absent is for all.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Only for exactly this path; absent is for all.
    #[serde(default)]
    pub path: Option<String>,
}

impl Rule {
    /// A rule that always applies there.
    pub fn always(at: At, fault: Fault) -> Self {
        Self { at, fault, times: None, skip: 0, client_id: None, path: None }
    }

    /// A rule that applies once.
    pub fn once(at: At, fault: Fault) -> Self {
        Self::always(at, fault).times(1)
    }

    /// So many times only.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Let so many matching requests pass first.
    #[must_use]
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Only for that client.
    #[must_use]
    pub fn client(mut self, client_id: &str) -> Self {
        self.client_id = Some(client_id.to_owned());
        self
    }

    /// Only for exactly that path.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// What is wrong with the rule, if anything: a status that is none, a header that cannot be sent, nobody known.
    pub(crate) fn fault_in_rule(&self) -> Option<&'static str> {
        match &self.fault {
            Fault::Status { status, .. } | Fault::OauthError { status, .. } | Fault::Reply { status, .. }
                if StatusCode::from_u16(*status).is_err() =>
            {
                Some("`status` is not an HTTP status")
            }
            Fault::Status { retry_after: Some(value), .. } | Fault::ContentType { value }
                if HeaderValue::from_str(value).is_err() =>
            {
                Some("the value cannot stand in a header")
            }
            Fault::Subject { person } if Person::named(person).is_none() => Some("`person` is nobody at the lab"),
            Fault::Deny { .. } if self.at != At::Authorize => Some("`deny` is for `authorize`"),
            _ => None,
        }
    }

    /// Counts one matching request and says whether the rule applies to it.
    pub(crate) fn strikes(&mut self, place: At, client_id: Option<&str>, path: &str) -> bool {
        let here = self.at.covers(place)
            && self.client_id.as_deref().is_none_or(|wanted| client_id == Some(wanted))
            && self.path.as_deref().is_none_or(|wanted| wanted == path);
        if !here || self.times == Some(0) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

/// How a finished answer is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The connection is closed at once.
    HangUp,
    /// The connection is closed after a long silence.
    Silence,
}

/// A change of one member or parameter.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Set(String, Value),
    Omit(String),
    Duplicate(String, Value),
}

/// What replaces the body of an answer.
#[derive(Clone, Debug)]
pub(crate) enum NewBody {
    Html,
    Text(String),
}

/// What changes inside the work of making tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    /// Seconds until the access token dies.
    pub(crate) early_expiry: Option<u64>,
    pub(crate) control_characters: bool,
    pub(crate) subject: Option<&'static Person>,
    pub(crate) scope: Option<String>,
    pub(crate) deny: Option<String>,
    pub(crate) edits: Vec<Edit>,
}

/// All the faults of one request, sorted by when they happen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) names: Vec<&'static str>,
    pub(crate) delay_before: Duration,
    pub(crate) hold_before: bool,
    pub(crate) drop: bool,
    pub(crate) status: Option<(StatusCode, Option<String>)>,
    pub(crate) work_despite_status: bool,
    pub(crate) oauth_error: Option<(StatusCode, String)>,
    pub(crate) reply: Option<(StatusCode, Value)>,
    pub(crate) effects: Effects,
    pub(crate) new_body: Option<NewBody>,
    pub(crate) content_type: Option<String>,
    pub(crate) padding: u64,
    pub(crate) slow: Option<(usize, Duration)>,
    pub(crate) truncated: bool,
    pub(crate) delay_after: Duration,
    pub(crate) hold_after: bool,
    pub(crate) loss: Option<Loss>,
}

impl Plan {
    pub(crate) fn add(&mut self, fault: &Fault) {
        self.names.push(fault.name());
        let wait = |ms: u64| Duration::from_millis(ms).min(LONGEST);
        let status_of = |status: u16| StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match fault.clone() {
            Fault::DelayBefore { ms } => self.delay_before = (self.delay_before + wait(ms)).min(LONGEST),
            Fault::DelayAfter { ms } => self.delay_after = (self.delay_after + wait(ms)).min(LONGEST),
            Fault::HoldBefore => self.hold_before = true,
            Fault::HoldAfter => self.hold_after = true,
            Fault::Drop => self.drop = true,
            Fault::LoseResponse => self.loss = Some(Loss::HangUp),
            Fault::NeverAnswer => self.loss = Some(Loss::Silence),
            Fault::Status { status, retry_after, work } => {
                self.status = Some((status_of(status), retry_after));
                self.work_despite_status = work;
            }
            Fault::OauthError { error, status } => self.oauth_error = Some((status_of(status), error)),
            Fault::Reply { status, body } => self.reply = Some((status_of(status), body)),
            Fault::Deny { error } => self.effects.deny = Some(error),
            Fault::Set { field, value } => self.effects.edits.push(Edit::Set(field, value)),
            Fault::Omit { field } => self.effects.edits.push(Edit::Omit(field)),
            Fault::Duplicate { field, value } => self.effects.edits.push(Edit::Duplicate(field, value)),
            Fault::EarlyExpiry { seconds } => self.effects.early_expiry = Some(seconds),
            Fault::ControlCharacters => self.effects.control_characters = true,
            Fault::Subject { person } => self.effects.subject = Person::named(&person),
            Fault::Scope { scope } => self.effects.scope = Some(scope),
            Fault::SlowBody { chunk, ms } => self.slow = Some((chunk.max(1), wait(ms))),
            Fault::HugeBody { bytes } => self.padding = bytes.min(LARGEST),
            Fault::TruncatedBody => self.truncated = true,
            Fault::HtmlBody => self.new_body = Some(NewBody::Html),
            Fault::Body { text } => self.new_body = Some(NewBody::Text(text)),
            Fault::ContentType { value } => self.content_type = Some(value),
        }
    }

    /// Whether the answer's body must be looked at.
    pub(crate) fn touches_body(&self) -> bool {
        !self.effects.edits.is_empty() || self.new_body.is_some() || self.padding > 0 || self.slow.is_some() || self.truncated
    }
}
