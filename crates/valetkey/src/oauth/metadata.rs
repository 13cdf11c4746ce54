//! What there is, for programs: the authorization server (RFC 8414) and the resources (RFC 9728). Made from what the endpoints
//! themselves go by, so that it cannot say something else.

use serde_json::{Value, json};

use super::{GrantType, Server, store};
use crate::{error::Result, id::SiteId, token::Audience};

/// The path of each endpoint under our origin. The router serves these, and the metadata name them.
pub mod path {
    /// Where browsers are sent (RFC 6749 section 3.1).
    pub const AUTHORIZE: &str = "/oauth/authorize";
    /// Where tokens come from (RFC 6749 section 3.2).
    pub const TOKEN: &str = "/oauth/token";
    /// Where a sign-in on another device begins (RFC 8628 section 3.1).
    pub const DEVICE_AUTHORIZATION: &str = "/oauth/device_authorization";
    /// Where a person types the code of a device.
    pub const DEVICE: &str = "/oauth/device";
    /// Where tokens are asked about (RFC 7662).
    pub const INTROSPECT: &str = "/oauth/introspect";
    /// Where tokens are given back (RFC 7009).
    pub const REVOKE: &str = "/oauth/revoke";
    /// Where clients register themselves (RFC 7591).
    pub const REGISTER: &str = "/oauth/register";
    /// The metadata of the authorization server.
    pub const SERVER: &str = "/.well-known/oauth-authorization-server";
    /// The metadata of the API as a resource; those of another one have its path behind it.
    pub const RESOURCE: &str = "/.well-known/oauth-protected-resource";
}

/// How a client proves itself at the token endpoint.
pub const CLIENT_AUTH: [&str; 3] = ["none", "client_secret_basic", "client_secret_post"];
/// The same where a secret is needed.
pub const SECRET_AUTH: [&str; 2] = ["client_secret_basic", "client_secret_post"];
/// The scopes that are no pattern.
const SCOPES: [&str; 2] = ["proxy", "reveal"];

impl Server {
    /// The metadata of the authorization server.
    pub async fn metadata(&self) -> Result<Value> {
        let at = |path: &str| format!("{}{path}", self.issuer());
        let mut metadata = json!({
            "issuer": self.issuer(),
            "authorization_endpoint": at(path::AUTHORIZE),
            "token_endpoint": at(path::TOKEN),
            "device_authorization_endpoint": at(path::DEVICE_AUTHORIZATION),
            "introspection_endpoint": at(path::INTROSPECT),
            "revocation_endpoint": at(path::REVOKE),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": GrantType::ALL.map(GrantType::as_str),
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": CLIENT_AUTH,
            "introspection_endpoint_auth_methods_supported": SECRET_AUTH,
            "revocation_endpoint_auth_methods_supported": CLIENT_AUTH,
            "scopes_supported": SCOPES,
            "authorization_response_iss_parameter_supported": true,
            "protected_resources": Audience::ALL.map(|audience| self.resource(audience)),
        });
        if self.registration_site(None).await?.is_some() {
            metadata["registration_endpoint"] = at(path::REGISTER).into();
        }
        Ok(metadata)
    }

    /// The metadata of a place where tokens are taken.
    pub fn resource_metadata(&self, audience: Audience) -> Value {
        json!({
            "resource": self.resource(audience),
            "authorization_servers": [self.issuer()],
            "scopes_supported": SCOPES,
            "bearer_methods_supported": ["header"],
            "resource_name": match audience {
                Audience::Api => "Valet Key",
                Audience::Mcp => "Valet Key, by MCP",
            },
        })
    }

    /// Where the metadata of a place are: what a 401 there tells (RFC 9728 section 5.1).
    pub fn resource_metadata_url(&self, audience: Audience) -> String {
        let path = self.resource(audience).strip_prefix(self.issuer()).unwrap_or_default().to_owned();
        format!("{}{}{path}", self.issuer(), path::RESOURCE)
    }

    /// The site at which a client that registers itself will be: the one that is named, where it allows that; without a name the
    /// only one that does.
    pub(super) async fn registration_site(&self, named: Option<&SiteId>) -> Result<Option<SiteId>> {
        let open = store::open_sites(&self.base().db).await?;
        Ok(match (named, open.as_slice()) {
            (Some(named), open) => open.contains(named).then(|| named.clone()),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        })
    }
}
