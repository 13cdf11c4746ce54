//! What a client of the lab is, and how the lab treats it: lifetimes, rotation, and what a replayed token costs.

use serde::{Deserialize, Serialize};

/// Somebody who has an account at the lab.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Person {
    /// The stable subject, as `/userinfo` says it.
    pub id: &'static str,
    /// The name by which the lab's controls speak of this person.
    pub username: &'static str,
    /// The name for people.
    pub name: &'static str,
    /// An address that cannot exist (RFC 2606).
    pub email: &'static str,
}

/// Everybody who can sign in at the lab.
pub const PEOPLE: [Person; 3] = [
    Person { id: "1001", username: "alice", name: "Alice Archer", email: "alice@lab.example" },
    Person { id: "1002", username: "bob", name: "Bob Baker", email: "bob@lab.example" },
    Person { id: "1003", username: "carol", name: "Carol Cooper", email: "carol@lab.example" },
];

impl Person {
    /// The person of that username.
    pub fn named(username: &str) -> Option<&'static Person> {
        PEOPLE.iter().find(|person| person.username == username)
    }
}

/// What happens to a refresh token when it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// It stays, and the answer does not name it.
    Never,
    /// It stays, and the answer repeats it.
    Same,
    /// It is replaced; the old one is spent.
    #[default]
    Always,
    /// Every second use replaces it, beginning with the first.
    Maybe,
}

/// How a client may prove itself at the token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Basic or body, but not both at once.
    #[default]
    Any,
    /// Only the `Authorization: Basic` header.
    Basic,
    /// Only `client_id` and `client_secret` in the form.
    Body,
}

/// How the lab treats one client. Lifetimes are in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long an access token lives, and what `expires_in` says.
    pub access_ttl: u64,
    /// How long a refresh token lives since it was made.
    pub refresh_ttl: u64,
    /// How long an authorization code lives.
    pub code_ttl: u64,
    /// How long a token made by `/exchange` lives.
    pub long_lived_ttl: u64,
    /// How long temporary credentials of OAuth 1.0a live.
    pub temporary_ttl: u64,
    /// What happens to a refresh token when it is used.
    pub rotation: Rotation,
    /// A rotated refresh token that comes back kills every token of its family.
    pub reuse_kills_family: bool,
    /// For how many seconds a rotated refresh token still yields its successor instead.
    pub grace: u64,
    /// A refresh also ends the access tokens made before it.
    pub refresh_ends_access: bool,
    /// Revoking one token ends every token of the same person at this client.
    pub revoke_ends_all: bool,
    /// Whether a refresh token is issued at all.
    pub refresh_tokens: bool,
    /// Whether an authorization request without a PKCE challenge is refused.
    pub pkce_required: bool,
    /// How the client may prove itself.
    pub client_auth: ClientAuth,
    /// Who approves at once, without the consent page.
    pub auto_approve: Option<String>,
    /// How long a device code lives.
    pub device_ttl: u64,
    /// How many seconds must lie between two questions with a device code; five more after each that comes too early.
    pub device_interval: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access_ttl: 3600,
            refresh_ttl: 30 * 86_400,
            code_ttl: 60,
            long_lived_ttl: 60 * 86_400,
            temporary_ttl: 3600,
            rotation: Rotation::default(),
            reuse_kills_family: false,
            grace: 0,
            refresh_ends_access: false,
            revoke_ends_all: false,
            refresh_tokens: true,
            pkce_required: true,
            client_auth: ClientAuth::default(),
            auto_approve: None,
            device_ttl: 600,
            device_interval: 5,
        }
    }
}

/// A client (an app) that is registered at the lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The client id.
    pub client_id: String,
    /// The secret; none makes it a public client.
    #[serde(default)]
    pub client_secret: Option<String>,
    /// What the consent page calls it.
    #[serde(default)]
    pub name: String,
    /// Where it may be called back, compared byte by byte. Empty accepts any absolute http or https URL without a
    /// fragment, because a broker under test does not know its port beforehand.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// How it is treated.
    #[serde(default)]
    pub settings: Settings,
}

impl Client {
    /// A confidential client with default settings.
    pub fn new(client_id: &str, client_secret: &str) -> Self {
        Self { client_secret: Some(client_secret.to_owned()), ..Self::public(client_id) }
    }

    /// A public client: it has no secret and names only its id.
    pub fn public(client_id: &str) -> Self {
        Self {
            client_id: client_id.to_owned(),
            client_secret: None,
            name: String::new(),
            redirect_uris: Vec::new(),
            settings: Settings::default(),
        }
    }

    /// The same client with other settings.
    #[must_use]
    pub fn with(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// What the consent page calls it.
    pub(crate) fn title(&self) -> &str {
        if self.name.is_empty() { &self.client_id } else { &self.name }
    }

    /// Whether it may be called back there.
    pub(crate) fn accepts_redirect(&self, uri: &str) -> bool {
        if self.redirect_uris.is_empty() {
            url::Url::parse(uri).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && !uri.contains('#'))
        } else {
            self.redirect_uris.iter().any(|known| known == uri)
        }
    }
}
