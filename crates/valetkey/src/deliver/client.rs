//! A ready client for one account: whoever has it makes calls as the account and never holds its secret.
//!
//! It is the proxy as a Rust value, the same code: the token is renewed when it must be, the credential is put in last, and
//! the call goes to the provider's hosts only. Redirects come back to the caller, and what deals in credentials is refused.

use bytes::Bytes;
use http_body::Body;

use super::{Caller, Deliverer, Guarded, proxy::Target};
use crate::{
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    principal::{Actor, Slot},
    upstream,
};

/// Makes calls as one connected account.
#[derive(Clone)]
pub struct AuthenticatedClient {
    deliverer: Deliverer,
    whose: Whose,
}

#[derive(Clone)]
enum Whose {
    /// An agent's calls: what it may do is decided for each.
    Agent { caller: Caller, connection: ConnectionId },
    /// The platform's own calls.
    Owner { site: SiteId, actor: Actor, connection: ConnectionId },
    /// The platform's own calls as an account that a registered resolver holds.
    Held { actor: Actor, slot: Slot },
}

impl AuthenticatedClient {
    /// A client for an agent. Each call is decided on, as at the proxy.
    pub fn for_agent(deliverer: &Deliverer, caller: Caller, connection: ConnectionId) -> Self {
        Self { deliverer: deliverer.clone(), whose: Whose::Agent { caller, connection } }
    }

    /// A client for the platform itself, which handles the account as its owner's. Whether it may is settled before.
    pub fn for_owner(deliverer: &Deliverer, site: SiteId, actor: Actor, connection: ConnectionId) -> Self {
        Self { deliverer: deliverer.clone(), whose: Whose::Owner { site, actor, connection } }
    }

    /// A client for the platform itself, for an account that a registered resolver holds. The resolver is asked for each call,
    /// and what it hands out is taken as it is: it is not renewed here.
    pub fn for_holder(deliverer: &Deliverer, actor: Actor, slot: Slot) -> Self {
        Self { deliverer: deliverer.clone(), whose: Whose::Held { actor, slot } }
    }

    /// The connection that the calls are made with; none where a resolver holds the account. It stays this one: where it is
    /// revoked calls are refused, also after another account was connected in its place.
    pub fn connection(&self) -> Option<&ConnectionId> {
        match &self.whose {
            Whose::Agent { connection, .. } | Whose::Owner { connection, .. } => Some(connection),
            Whose::Held { .. } => None,
        }
    }

    /// Makes a call and streams its answer.
    ///
    /// A URI that is a path alone goes below the provider's base URL; a whole one names one of the connection's hosts. The
    /// scheme is the provider's, whatever the URI says.
    ///
    /// # Errors
    /// `host_refused`, `path_refused`, `method_refused` and `credential_path` for what is never sent; `not_authenticated`,
    /// `refresh_pending` and `refresh_failed` where no token can be had; `upstream_unreachable` and `upstream_timeout`;
    /// `not_found` where the connection is over, `no_credentials` or `no_per_user_credentials` where its resolver holds it no
    /// more; for an agent's client what the decision says. An answer of whatever status
    /// is no error.
    pub async fn send<B>(&self, request: http::Request<B>) -> Result<http::Response<Guarded>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<upstream::BoxError>,
    {
        let (parts, body) = request.into_parts();
        let uri = parts.uri.clone();
        let path = match (uri.authority(), uri.path()) {
            (Some(_), "") => "/",
            (_, path) if path.starts_with('/') => path,
            _ => return Err(Error::new(Code::PathRefused, "the URI is a path from its first `/`, or a whole URL")),
        };
        let target = Target { host: uri.authority().map(http::uri::Authority::as_str), path, query: uri.query() };
        match &self.whose {
            Whose::Agent { caller, connection } => self.deliverer.proxy(caller, connection, target, parts, body).await,
            Whose::Owner { site, actor, connection } => {
                self.deliverer.proxy_as_owner(site, actor, connection, target, parts, body).await
            }
            Whose::Held { actor, slot } => self.deliverer.proxy_as_holder(actor, slot, target, parts, body).await,
        }
    }
}

impl std::fmt::Debug for AuthenticatedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.whose {
            Whose::Agent { connection, .. } | Whose::Owner { connection, .. } => write!(f, "AuthenticatedClient({connection})"),
            Whose::Held { slot, .. } => write!(f, "AuthenticatedClient({} at {})", slot.owner, slot.provider),
        }
    }
}
