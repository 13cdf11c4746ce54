//! Clients that register themselves (RFC 7591), where a site allows it. Nobody vouches for such a client: the page of consent says
//! so, no browser is sent to it without the person's word, and it cannot exchange tokens.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Client, Fault, GrantType, NewClient, Outcome, Scopes, Server, Word,
    client::{self, check_redirect},
    metadata::CLIENT_AUTH,
    store,
};
use crate::{
    audit::Event,
    base::Base,
    error::{Code, Result},
    id::SiteId,
    principal::Actor,
    secret::Secret,
};

/// What a client says of itself. What is not here is ignored (section 2).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    client_name: Option<String>,
    redirect_uris: Vec<String>,
    grant_types: Option<Vec<String>>,
    response_types: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    scope: Option<String>,
}

impl Server {
    /// Registers a client at a site that allows it. What it is told of itself; its secret, where it has one, this once.
    ///
    /// # Errors
    /// `access_denied` where no site allows it, or none is named and several do.
    pub async fn register(&self, site: Option<&SiteId>, request: Request) -> Outcome<Value> {
        let site = self.registration_site(site).await?.ok_or_else(|| {
            Fault::new(Word::AccessDenied, "clients cannot register themselves here; its operator makes one for you")
        })?;
        let (new, method) = read(request)?;
        // Whoever asks is nobody yet.
        let made = client::insert(self.base(), &site, &Actor::System, new, true).await;
        let (client, secret) = made.map_err(|error| match error.code() {
            Code::InvalidRequest => Fault::new(Word::InvalidClientMetadata, error.message().to_owned()),
            _ => error.into(),
        })?;
        Ok(described(&client, secret.as_ref(), method))
    }
}

fn read(request: Request) -> Outcome<(NewClient, &'static str)> {
    let odd = |text: &'static str| Fault::new(Word::InvalidClientMetadata, text);
    let redirect_uris = kept(request.redirect_uris)?;
    if request.response_types.is_some_and(|types| types.iter().any(|one| one != "code")) {
        return Err(odd("the only response type here is code"));
    }
    let asked = request.token_endpoint_auth_method.as_deref().unwrap_or("client_secret_basic");
    let method = CLIENT_AUTH.into_iter().find(|known| *known == asked);
    let method = method.ok_or_else(|| odd("a client proves itself by none, client_secret_basic or client_secret_post"))?;
    // What it may use of what it asks for; the rest it is told that it has not (section 3.2.1).
    let mut grant_types: BTreeSet<GrantType> = match &request.grant_types {
        None => BTreeSet::from([GrantType::AuthorizationCode]),
        Some(asked) => asked.iter().filter_map(|word| word.parse().ok()).collect(),
    };
    grant_types.remove(&GrantType::TokenExchange);
    if !grant_types.contains(&GrantType::AuthorizationCode) && !grant_types.contains(&GrantType::DeviceCode) {
        return Err(odd("a client uses the authorization code or the device code"));
    }
    let scopes: Option<Scopes> = match &request.scope {
        None => None,
        Some(scope) => Some(scope.parse().map_err(|_| odd("a scope is unknown"))?),
    };
    let new = NewClient {
        name: request.client_name.filter(|name| !name.is_empty()).unwrap_or_else(|| "A program without a name".to_owned()),
        confidential: method != "none",
        redirect_uris,
        grant_types,
        scopes: scopes.filter(|scopes| scopes.iter().next().is_some()),
        agent: None,
    };
    Ok((new, method))
}

/// The redirect URIs that can be taken; the answer says which they are (section 3.2.1). A client may name one for each of its ways
/// to run, such as a scheme of its own beside loopback, and uses what it is told. What is left out leads nowhere.
fn kept(mut uris: Vec<String>) -> Outcome<Vec<String>> {
    let mut refused = None;
    uris.retain(|uri| match check_redirect(uri) {
        Ok(()) => true,
        Err(error) => {
            refused = Some(error);
            false
        }
    });
    match refused {
        Some(error) if uris.is_empty() => Err(Fault::new(Word::InvalidRedirectUri, error.message().to_owned())),
        _ => Ok(uris),
    }
}

fn described(client: &Client, secret: Option<&Secret>, method: &'static str) -> Value {
    let mut told = json!({
        "client_id": client.id,
        "client_id_issued_at": client.created_at.unix_seconds(),
        "client_name": client.name,
        "redirect_uris": client.redirect_uris,
        "grant_types": client.grant_types,
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
    });
    if let Some(ceiling) = &client.ceiling {
        told["scope"] = Scopes::of(ceiling).to_string().into();
    }
    if let Some(secret) = secret {
        told["client_secret"] = secret.expose().into();
        // It does not end by itself.
        told["client_secret_expires_at"] = 0.into();
    }
    told
}

/// Whether clients may register themselves at a site.
pub async fn is_open(base: &Base, site: &SiteId) -> Result<bool> {
    store::is_open(&base.db, site).await
}

/// Lets clients register themselves at a site, or no longer. Those that did stay.
pub async fn set_open(base: &Base, site: &SiteId, actor: &Actor, open: bool) -> Result<()> {
    let mut tx = base.db.begin().await?;
    if store::set_open(&mut tx, site, open, base.clock.now()).await? {
        base.audit.record(&mut tx, Event::new(site, actor, "client.registration").facts(json!({ "open": open }))).await?;
    }
    tx.commit().await
}
