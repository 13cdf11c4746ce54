//! How calls are proxied at one provider: where a credential may go, how it gets there, and what is never called.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

use super::{
    credential_query::{self, BodyKind, CredentialQuery},
    definition::{as_map, duration_text, spelled},
    pattern::{PathPattern, Readings},
    spanned::duration,
    template::{Template, Vars},
    url_template::UrlTemplate,
};
use crate::error::{Code, Error, Result};

/// How calls are proxied.
#[derive(Clone, Debug, Serialize)]
pub struct Proxy {
    /// What relative paths are added to.
    pub base_url: Option<UrlTemplate>,
    /// The hosts a credential may be sent to.
    pub hosts: Vec<HostRule>,
    /// For a host named here, the only paths that may be called.
    #[serde(serialize_with = "as_map")]
    pub path_allow: Vec<(String, Vec<PathPattern>)>,
    /// Headers added to every call where the caller sends none of that name.
    #[serde(serialize_with = "as_map")]
    pub headers: Vec<(String, Template)>,
    /// Where the credential goes.
    pub inject: Vec<Inject>,
    /// Query parameters that a caller may not send; they are cut off.
    pub strip_query: Vec<String>,
    /// The slots whose token may be used; empty: the connection's own.
    pub slots: Vec<String>,
    /// What mints, refreshes, lists or revokes credentials at these hosts: never proxied.
    pub credential_paths: Vec<PathPattern>,
    /// Why there is none, where there is none.
    pub credential_paths_none_reason: Option<String>,
    /// Parameters that make an answer hold a credential, or turn the call into another one: never proxied.
    pub credential_query: Vec<CredentialQuery>,
    /// Whether the provider reads parameters from a form or JSON body as from the query: then the rules of
    /// `credential_query` hold there too, and such a body must be read before it is sent.
    pub body_parameters: bool,
    /// Whether `%2F` may stand in a path.
    pub allow_encoded_slashes: bool,
    /// Whether method-override headers and queries may pass.
    pub allow_method_override: bool,
    /// Whether batch endpoints may be called.
    pub allow_batch: bool,
}

impl Proxy {
    /// The hosts of one connection: host names in lower case, with `:port` where an instance names another than 443.
    pub fn host_set(&self, vars: &Vars<'_>) -> Result<Vec<String>> {
        self.hosts.iter().map(|rule| rule.render(vars)).collect()
    }

    /// The templates of the hosts that the account itself decides.
    pub(super) fn host_templates(&self) -> impl Iterator<Item = &Template> {
        self.hosts.iter().filter_map(|rule| match rule {
            HostRule::Instance(template) => Some(template),
            HostRule::Exact(_) => None,
        })
    }

    /// Whether this call would mint, refresh, list or revoke a credential. `path` is what is sent, without the query.
    pub fn is_credential_path(&self, method: &http::Method, host: &str, path: &[u8]) -> bool {
        let path = Readings::of(path);
        self.credential_paths.iter().any(|pattern| pattern.catches(method.as_str(), host, &path))
    }

    /// Whether this query asks for a credential in the answer.
    pub fn is_credential_query(&self, query: &str) -> bool {
        self.credential_query.iter().any(|rule| rule.matches(query))
    }

    /// Whether a body with these headers must be read whole and shown to [`is_credential_body`](Self::is_credential_body)
    /// before it is sent, or because it is signed. Other bodies may be streamed.
    pub fn body_must_be_read(&self, headers: &http::HeaderMap) -> bool {
        let kind = credential_query::kind(headers);
        let is_signed = self.is_signed() && matches!(kind, BodyKind::Form | BodyKind::Unclear);
        is_signed || (self.body_parameters && kind != BodyKind::Other)
    }

    /// Whether calls are signed by OAuth 1.0a.
    pub fn is_signed(&self) -> bool {
        self.inject.iter().any(|inject| matches!(inject, Inject::Oauth1Signature))
    }

    /// Whether this body asks for a credential in the answer. A body that cannot be read as what it says it is counts
    /// as one that does.
    pub fn is_credential_body(&self, headers: &http::HeaderMap, body: &[u8]) -> bool {
        let kind = credential_query::kind(headers);
        self.body_parameters && self.credential_query.iter().any(|rule| rule.matches_body(kind, body))
    }

    /// Whether the path may be called at that host: yes, unless `path_allow` names the host and not the path.
    pub fn path_is_allowed(&self, method: &http::Method, host: &str, path: &[u8]) -> bool {
        match self.path_allow.iter().find(|(name, _)| name.eq_ignore_ascii_case(host)) {
            Some((_, patterns)) => patterns.iter().any(|pattern| pattern.matches(method.as_str(), host, path)),
            None => true,
        }
    }
}

/// A host that a credential may be sent to.
#[derive(Clone, Debug)]
pub enum HostRule {
    /// This one.
    Exact(String),
    /// The host of an instance that was fixed at connect.
    Instance(Template),
}

impl HostRule {
    /// The host name in lower case, with `:port` where the instance names another than 443.
    pub fn render(&self, vars: &Vars<'_>) -> Result<String> {
        match self {
            HostRule::Exact(host) => Ok(host.clone()),
            HostRule::Instance(template) => match template.render(vars)? {
                Some(host) => Ok(host.expose().to_ascii_lowercase()),
                None => Err(Error::new(Code::NotConfigured, "the account has no instance; connect it again")),
            },
        }
    }
}

impl Serialize for HostRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            HostRule::Exact(host) => serializer.serialize_str(host),
            HostRule::Instance(template) => template.serialize(serializer),
        }
    }
}

/// Where the credential of a proxied call goes. Injected last.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "in", rename_all = "snake_case")]
pub enum Inject {
    /// A header; one of that name that the caller sent is replaced.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: Template,
        /// Whether it is left out when its value is empty, rather than an error.
        omit_empty: bool,
    },
    /// A query parameter.
    Query {
        /// Its name.
        name: String,
        /// Its value.
        value: Template,
        /// Whether it is left out when its value is empty.
        omit_empty: bool,
    },
    /// A member of a form body.
    Form {
        /// Its name.
        name: String,
        /// Its value.
        value: Template,
        /// Whether it is left out when its value is empty.
        omit_empty: bool,
    },
    /// A member of a JSON object body.
    Json {
        /// Its name.
        name: String,
        /// Its value.
        value: Template,
        /// Whether it is left out when its value is empty.
        omit_empty: bool,
    },
    /// HTTP Basic (RFC 7617).
    Basic {
        /// The name.
        user: Template,
        /// The password.
        password: Template,
    },
    /// An OAuth 1.0a signature over the final request.
    Oauth1Signature,
}

impl Inject {
    /// The templates of its values.
    pub(super) fn templates(&self) -> Vec<&Template> {
        match self {
            Inject::Header { value, .. }
            | Inject::Query { value, .. }
            | Inject::Form { value, .. }
            | Inject::Json { value, .. } => {
                vec![value]
            }
            Inject::Basic { user, password } => vec![user, password],
            Inject::Oauth1Signature => Vec::new(),
        }
    }
}

/// So many calls in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// How many.
    pub count: u32,
    /// In how much time.
    #[serde(serialize_with = "duration_text")]
    pub per: Duration,
}

impl RateLimit {
    /// Reads a count and a time, such as `30/5m` or `5/s`; nothing where it is neither or the count is zero.
    pub fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let per = if per.starts_with(|c: char| c.is_ascii_digit()) { duration(per)? } else { duration(&format!("1{per}"))? };
        Some(Self { count: count.parse().ok().filter(|count| *count > 0)?, per })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, spelled(self.per))
    }
}
