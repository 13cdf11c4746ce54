//! The one error type of the library: transport-free, with a stable code.
//!
//! An error has two texts. `message` is for whoever made the request: it says what to do and holds nothing
//! that the caller may not know. `detail` is for the log. They are different fields, so that one cannot be
//! printed where the other was meant. The HTTP status is chosen in `valetkey-http`, in one place.

use std::{borrow::Cow, fmt, time::Duration};

/// The result of everything that can fail here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What went wrong, as a stable word that programs may compare.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code, for documentation and tests.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The stable word, as it stands in answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }
        }
    };
}

codes! {
    // The caller.
    /// No credential was given, or none that is valid. Every reason gives this one code.
    Unauthenticated = "unauthenticated",
    /// The caller is known and may not do this.
    Forbidden = "forbidden",
    /// A platform key lacks the scope that the call needs.
    MissingScope = "missing_scope",
    /// The person signed in too long ago for an act like this; they prove anew who they are.
    FreshProofNeeded = "fresh_proof_needed",
    /// A grant, ceiling or role does not allow this use.
    GrantDenied = "grant_denied",
    /// The call waits for a person's word; nothing was sent. No failure: the answer says where to look.
    ApprovalRequired = "approval_required",
    /// A person said no to this call.
    ApprovalRefused = "approval_refused",
    /// The approval carried a call already: each carries one.
    ApprovalUsed = "approval_used",
    /// The approval was not given, or not used, in time.
    ApprovalExpired = "approval_expired",
    /// The approval is for another call than this one.
    ApprovalMismatch = "approval_mismatch",
    /// The request cannot be understood.
    InvalidRequest = "invalid_request",
    /// It does not exist, or the caller may not know that it does.
    NotFound = "not_found",
    /// It exists already, or changed meanwhile.
    Conflict = "conflict",
    /// A stale copy was offered: `If-Match` does not match.
    PreconditionFailed = "precondition_failed",
    /// `If-Match` or `replace=true` is needed.
    PreconditionRequired = "precondition_required",
    /// Several candidates; the answer lists those the caller may use.
    Ambiguous = "ambiguous",
    /// The body is larger than this operation reads.
    PayloadTooLarge = "payload_too_large",
    /// Too many requests.
    RateLimited = "rate_limited",
    /// The call says that it comes through more agents than the site lets call one another.
    ChainTooDeep = "chain_too_deep",
    /// Protocol upgrades are not proxied.
    UpgradeRefused = "upgrade_refused",
    /// The method is never proxied.
    MethodRefused = "method_refused",
    /// The path holds something that is refused rather than normalised.
    PathRefused = "path_refused",
    /// The path mints, refreshes, lists or revokes credentials at the provider.
    CredentialPath = "credential_path",
    /// The host is not one of the provider's.
    HostRefused = "host_refused",
    /// The provider is not reached over HTTP, such as a mailbox: there is nothing to proxy.
    NotProxied = "not_proxied",

    // Accounts (mission documents 001 and 004).
    /// No account is connected in that scope.
    NoCredentials = "no_credentials",
    /// The person has not connected an account.
    NoPerUserCredentials = "no_per_user_credentials",
    /// The provider's app configuration is missing.
    NotConfigured = "not_configured",
    /// There is an account, and it must be connected again.
    NotAuthenticated = "not_authenticated",
    /// The account's upstream identity was not confirmed since its tokens were written.
    IdentityUnverified = "identity_unverified",

    // Connecting (mission document 001).
    /// The person or the provider refused.
    OauthDenied = "oauth_denied",
    /// The state is unknown, used, expired, or belongs to another browser.
    InvalidState = "invalid_state",
    /// The authorization server named another issuer than the one asked (RFC 9207).
    IssuerMismatch = "issuer_mismatch",
    /// The code could not be exchanged for tokens.
    TokenExchangeFailed = "token_exchange_failed",
    /// A second-stage exchange failed.
    TokenTransformFailed = "token_transform_failed",
    /// The account's identity could not be read.
    AccountFetchFailed = "account_fetch_failed",
    /// The database failed.
    StorageFailed = "storage_failed",
    /// Another upstream account than the one connected before.
    SubjectMismatch = "subject_mismatch",
    // Connecting by OAuth 1.0a (mission document 001).
    /// The provider gave no temporary token, or did not confirm our callback.
    RequestTokenFailed = "request_token_failed",
    /// The person refused.
    AccessDenied = "access_denied",
    /// The provider's answer lacks the token or the verifier.
    MissingParameters = "missing_parameters",
    /// The temporary secret of the token in the answer is not there: used, expired, or another browser's.
    TokenSecretExpired = "token_secret_expired",
    /// The verifier could not be exchanged for a token.
    AccessTokenFailed = "access_token_failed",
    /// Connecting this kind of provider is not built yet.
    EngineMissing = "engine_missing",

    // Refresh.
    /// A refresh is under way and nothing else can serve; try again after `Retry-After`.
    RefreshPending = "refresh_pending",
    /// The refresh failed and no valid token is left; try again later.
    RefreshFailed = "refresh_failed",

    // Upstream.
    /// The provider could not be reached.
    UpstreamUnreachable = "upstream_unreachable",
    /// The provider did not answer in time.
    UpstreamTimeout = "upstream_timeout",
    /// The provider's answer cannot be used.
    UpstreamInvalid = "upstream_invalid",
    /// The address is private, loopback or otherwise not public.
    AddressRefused = "address_refused",
    /// No trusted encrypted connection: no TLS there, or a certificate that is not trusted or for another name.
    TlsFailed = "tls_failed",
    /// The mail server does not offer STARTTLS, or somebody between took the offer out; nothing goes there in the clear.
    StarttlsMissing = "starttls_missing",
    /// The server refused the user name, password or token.
    LoginRefused = "login_refused",

    // The installation.
    /// A setting is wrong.
    InvalidConfig = "invalid_config",
    /// A provider definition is wrong.
    InvalidDefinition = "invalid_definition",
    /// The root key is missing, wrong or readable by others.
    KeyUnavailable = "key_unavailable",
    /// A sealed value cannot be opened.
    Unsealable = "unsealable",
    /// The audit queue is full; nothing is done that cannot be recorded.
    AuditUnavailable = "audit_unavailable",
    /// The service is shutting down or not ready.
    Unavailable = "unavailable",
    /// A defect of ours.
    Internal = "internal",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, for the caller and for the log.
///
/// Boxed inside, so that a `Result` stays small on the hot path.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: Cow<'static, str>,
    detail: Option<String>,
    retry_after: Option<Duration>,
    extra: Option<serde_json::Value>,
}

impl Error {
    /// An error with its text for the caller: lower case, no full stop, says what to do.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { code, message: message.into(), detail: None, retry_after: None, extra: None }))
    }

    /// A defect of ours; the detail goes to the log only.
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::new(Code::Internal, "something went wrong here; the log says what").with_detail(detail)
    }

    /// The same error with a text for the log. It must not hold a secret or an upstream body.
    #[must_use]
    pub fn with_detail(mut self, detail: impl fmt::Display) -> Self {
        self.0.detail = Some(detail.to_string());
        self
    }

    /// The same error with the time after which trying again makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// The same error with members for the caller's problem document, such as the choices of an ambiguity.
    #[must_use]
    pub fn with_extra(mut self, extra: serde_json::Value) -> Self {
        self.0.extra = Some(extra);
        self
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The text for the caller.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The text for the log, if it differs.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// After which time trying again makes sense.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Further members of the problem document.
    pub fn extra(&self) -> Option<&serde_json::Value> {
        self.0.extra.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match &self.0.detail {
            Some(detail) => write!(f, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::new(Code::StorageFailed, "the database did not do its part; try again").with_detail(error)
    }
}
