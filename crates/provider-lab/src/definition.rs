//! The provider definition by which a broker knows this lab.

use serde::Deserialize;

use crate::control::Control;

/// What the definition says beyond the usual. All off is [`Control::definition_toml`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefinitionOptions {
    /// The short-lived token is exchanged for a long-lived one, which is then extended instead of refreshed.
    pub exchange: bool,
    /// There is no identity step.
    pub without_identity: bool,
    /// For how long a rotated refresh token still yields its successor, such as `30s`.
    pub grace: Option<String>,
    /// A replayed refresh token kills its whole family.
    pub replay_kills_family: bool,
    /// Revoking one token ends everything of the person at this client ([`crate::Settings::revoke_ends_all`]).
    pub revoke_ends_all: bool,
    /// How long an access token lives by the definition's word; `1h` when absent.
    pub access_ttl: Option<String>,
    /// The lab as an OAuth 1.0a provider, with this signature method: `HMAC-SHA1` or `HMAC-SHA256`. Of the other options only
    /// `without_identity` counts then.
    pub oauth1: Option<String>,
    /// A person may sign in on another device, too.
    pub device: bool,
    /// The person chooses from their pages, each of which has a token of its own; they are read again after a refresh.
    pub pages: bool,
}

impl Control {
    /// The definition of this lab as TOML.
    pub fn definition_toml(&self) -> String {
        self.definition(&DefinitionOptions::default())
    }

    /// The definition of this lab as TOML, with options.
    pub fn definition(&self, options: &DefinitionOptions) -> String {
        let (origin, host) = (self.origin(), self.addr().to_string());
        if let Some(signature) = &options.oauth1 {
            return oauth1(&origin, &host, signature, options.without_identity);
        }
        let exchange = if options.exchange { exchange(&origin) } else { String::new() };
        let refresh = if options.exchange { extend(&origin) } else { refresh(options) };
        let (identity, no_identity) = match options.without_identity {
            true => (
                String::new(),
                "identity = \"none\"\nidentity_none_reason = \"the lab was asked for a definition without one\"\n",
            ),
            false => (identity(&origin), ""),
        };
        let device = if options.device {
            format!("flows = [\"code\", \"device\"]\ndevice_url = \"{origin}/device/authorize\"\n")
        } else {
            String::new()
        };
        let (bearer, slots, pages) = if options.pages {
            ("slot.access_token", "slots = [\"user\", \"page\"]\n", pages(&origin))
        } else {
            ("token.access_token", "", String::new())
        };
        let refresh = if options.pages { refresh + "then = [\"resources.page\"]\n" } else { refresh };
        let revoked = if options.exchange { "access_token" } else { "refresh_token" };
        let kills = match (options.revoke_ends_all, options.exchange) {
            (true, _) => "grant",
            (false, true) => "token",
            (false, false) => "family",
        };
        format!(
            r#"title = "Lab"
kind = "oauth2"
{no_identity}
[fields]
client_id = {{ label = "Client ID", type = "text", required = true, level = "app", role = "client_id" }}
client_secret = {{ label = "Client secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }}

[oauth2]
authorize_url = "{origin}/authorize"
token_url = "{origin}/token"
client_auth = "basic"
pkce = "required"
issuer = "{origin}"
iss_supported = true
scope_separator = " "
scopes = {{ default = ["profile", "posts:read", "posts:write"] }}
{device}{exchange}
{refresh}
[revoke]
kills = "{kills}"
method = "POST"
url = "{origin}/revoke"
auth = "client"
form = {{ token = "{{{{token.{revoked}}}}}", token_type_hint = "{revoked}" }}

{identity}[proxy]
base_url = "{origin}/api"
hosts = ["{host}"]
path_allow = {{ "{host}" = ["/api/**"] }}
credential_paths = ["/token", "/revoke", "/introspect", "/exchange", "/device/**", "/register", "/pages", "/api/echo-credential", "/lab/**"]
{slots}inject = [{{ in = "header", name = "Authorization", value = "Bearer {{{{{bearer}}}}}" }}]
{pages}"#
        )
    }
}

fn oauth1(origin: &str, host: &str, signature: &str, without_identity: bool) -> String {
    let (no_identity, identity) = match without_identity {
        true => {
            ("identity = \"none\"\nidentity_none_reason = \"the lab was asked for a definition without one\"\n", String::new())
        }
        false => (
            "",
            format!(
                "[identity]\nmethod = \"GET\"\nurl = \"{origin}/oauth1/me\"\nauth = \"signed\"\n\
                 out = {{ id = \"id\", username = \"username\", display_name = \"name\" }}\n"
            ),
        ),
    };
    format!(
        r#"title = "Lab"
kind = "oauth1"
{no_identity}
[fields]
client_id = {{ label = "Consumer key", type = "text", required = true, level = "app", role = "client_id" }}
client_secret = {{ label = "Consumer secret", type = "password", required = true, secret = true, level = "app", role = "client_secret" }}

[oauth1]
request_token_url = "{origin}/oauth1/request_token"
authorize_url = "{origin}/oauth1/authorize"
token_url = "{origin}/oauth1/access_token"
signature = "{signature}"
denied_param = "denied"

[refresh]
strategy = "none"

[revoke]
kills = "token"
method = "POST"
url = "{origin}/oauth1/revoke"
auth = "signed"

{identity}
[proxy]
base_url = "{origin}/oauth1/api"
hosts = ["{host}"]
path_allow = {{ "{host}" = ["/oauth1/api/**"] }}
credential_paths = ["/oauth1/request_token", "/oauth1/access_token", "/oauth1/revoke", "/lab/**"]
inject = [{{ in = "oauth1_signature" }}]
"#
    )
}

fn exchange(origin: &str) -> String {
    format!(
        r#"
[[oauth2.exchange]]
name = "long_lived"
method = "GET"
url = "{origin}/exchange"
query = {{ grant_type = "lab_exchange_token", client_secret = "{{{{field.client_secret}}}}", access_token = "{{{{token.access_token}}}}" }}
secret_in_query = true
out = {{ access_token = "access_token", expires_in = "expires_in" }}
default_expires_in = "60d"
"#
    )
}

fn extend(origin: &str) -> String {
    format!(
        r#"[refresh]
strategy = "extend"
method = "GET"
url = "{origin}/exchange"
query = {{ grant_type = "lab_extend_token", access_token = "{{{{token.access_token}}}}" }}
secret_in_query = true
before = "7d"
accept_expired = false
"#
    )
}

fn refresh(options: &DefinitionOptions) -> String {
    let access_ttl = options.access_ttl.as_deref().unwrap_or("1h");
    let grace = options.grace.as_deref().map_or(String::new(), |grace| format!("grace = \"{grace}\"\n"));
    let replay = if options.replay_kills_family { "replay_kills_family = true\n" } else { "" };
    format!(
        r#"[refresh]
strategy = "refresh_token"
rotation = "always"
before = "5m"
access_ttl = "{access_ttl}"
refresh_ttl = "30d"
{grace}{replay}"#
    )
}

fn pages(origin: &str) -> String {
    format!(
        r#"
[resources.page]
method = "GET"
url = "{origin}/pages"
auth = "bearer"
list = "data"
out = {{ id = "id", label = "name", token = "access_token" }}
select = "user"
slot = "page"

[slots.page]
ttl = "none"
"#
    )
}

fn identity(origin: &str) -> String {
    format!(
        r#"[identity]
method = "GET"
url = "{origin}/userinfo"
auth = "bearer"
out = {{ id = "id", username = "username", display_name = "name", email = "email" }}

"#
    )
}
