//! Provider definitions: what we know of each outside service, as data.
//!
//! 1. One TOML file describes one provider. Those of `/providers` are built in; an operator may add a folder.
//! 2. [`Catalogue`] reads them. Every mistake is reported with its file, line, column and key, and with what is
//!    allowed there; a file with a mistake does not load. Past the loader a [`Definition`] is valid.
//! 3. Every call to a provider that is not a proxied one (exchange, refresh, revoke, identity, registration,
//!    login, minting, resource lists) is one type, [`Step`](step::Step): [`render`](step::Step::render) makes the
//!    request out of [`Vars`], [`read`](step::Step::read) reads the answer. Both are pure; somebody else sends.
//! 4. Templates substitute and do nothing else: no conditions, no loops, no code.
//!
//! There is no per-provider Rust here or anywhere else. What data cannot say (locks, signatures, the order of
//! writes) lives in the engines, which are chosen by [`Kind`] and never by a provider's name.

mod answer;
pub mod pattern;
pub mod step;

mod catalogue;
mod check;
mod credential_query;
mod definition;
mod entered;
mod field;
mod load;
mod load_mail;
mod load_oauth;
mod load_proxy;
mod load_step;
mod only;
mod proxy;
mod spanned;
mod strict_json;
mod template;
mod url_template;
mod value_path;
mod words;

#[cfg(test)]
mod tests;

pub(crate) use answer::retry_after;
pub use catalogue::{Catalogue, Problem, Trust};
pub use credential_query::{BodyKind, CredentialQuery, kind as body_kind};
pub use definition::{
    Definition, Device, Facts, Fallback, Identity, Jwt, Mail, MailServer, OAuth1, OAuth2, Refresh, Revoke, Scopes, Session, Slot,
    Source, Variants,
};
pub use entered::OwnClient;
pub use field::{Field, FieldPattern};
pub use only::Only;
pub use proxy::{HostRule, Inject, Proxy, RateLimit};
pub use template::{Broker, Client, TOKEN_SECRET, Template, Vars};
pub use url_template::UrlTemplate;
pub use value_path::ValuePath;
pub use words::{
    Auth, BodyFormat, ClientAuth, ExpiresAtFormat, ExpiresFrom, FieldLevel, FieldType, Flow, JwtAlg, Kills, Kind, MailCheck,
    MailMechanism, Normalize, OAuth1Signature, Parse, Pkce, PkceEncoding, RedirectRule, RefreshStrategy, Role, Rotation, Select,
};
