//! What goes wrong at the OAuth endpoints, in the words of the standards.

use std::{borrow::Cow, fmt};

use serde_json::Value;

use crate::error::Error;

/// What an endpoint gives, or why it does not.
pub type Outcome<T> = Result<T, Fault>;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// An error code of OAuth (RFC 6749 sections 4.1.2.1 and 5.2, RFC 8628 section 3.5, RFC 8707 section 2, RFC 7591
        /// section 3.2.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Word { $($(#[$doc])* $name,)* }

        impl Word {
            /// The code as it is sent.
            pub fn as_str(self) -> &'static str {
                match self { $(Word::$name => $text,)* }
            }
        }
    };
}

words! {
    /// Something is missing, repeated or malformed.
    InvalidRequest = "invalid_request",
    /// The client is unknown, or did not prove itself.
    InvalidClient = "invalid_client",
    /// The code, refresh token or device code is not, or no longer, good for anything.
    InvalidGrant = "invalid_grant",
    /// The client may not use this grant.
    UnauthorizedClient = "unauthorized_client",
    /// There is no such grant here.
    UnsupportedGrantType = "unsupported_grant_type",
    /// There is no such response type here.
    UnsupportedResponseType = "unsupported_response_type",
    /// A scope is unknown, or more than may be asked for.
    InvalidScope = "invalid_scope",
    /// The target is unknown, or may not be reached.
    InvalidTarget = "invalid_target",
    /// The person said no.
    AccessDenied = "access_denied",
    /// A person has not answered yet (also of an upstream token that a grant asks about).
    AuthorizationPending = "authorization_pending",
    /// Asked too often.
    SlowDown = "slow_down",
    /// The device code's time is over.
    ExpiredToken = "expired_token",
    /// A redirect URI cannot be registered.
    InvalidRedirectUri = "invalid_redirect_uri",
    /// Something else about a client cannot be registered.
    InvalidClientMetadata = "invalid_client_metadata",
}

/// Why an endpoint refuses or fails.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The caller is told this.
    Refused {
        /// The code.
        word: Word,
        /// What to do, for people. Holds nothing that the caller sent.
        text: Cow<'static, str>,
        /// Further members of the answer, for programs: an object without secrets.
        more: Option<Box<Value>>,
    },
    /// It is ours, or the database's.
    Failed(Error),
}

impl Fault {
    /// A refusal.
    pub fn new(word: Word, text: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused { word, text: text.into(), more: None }
    }

    /// The same refusal with further members in its answer.
    #[must_use]
    pub fn with_more(mut self, members: Value) -> Self {
        if let Self::Refused { more, .. } = &mut self {
            *more = Some(Box::new(members));
        }
        self
    }

    /// The further members of a refusal's answer.
    pub fn more(&self) -> Option<&Value> {
        match self {
            Self::Refused { more, .. } => more.as_deref(),
            Self::Failed(_) => None,
        }
    }

    /// The code of a refusal.
    pub fn word(&self) -> Option<Word> {
        match self {
            Self::Refused { word, .. } => Some(*word),
            Self::Failed(_) => None,
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { word, text, .. } => write!(f, "{}: {text}", word.as_str()),
            Self::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Fault {}
