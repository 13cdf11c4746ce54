//! What engines ask of a definition whose accounts are made of entered values: whether it is one, who the client is, the
//! signed assertion, and what decides the hosts.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use super::{
    check::all_steps,
    definition::{Definition, Jwt},
    step::Step,
    template::{Client, Slot, Var, Vars},
    words::{FieldLevel, Flow, JwtAlg, Kind, RefreshStrategy, Role},
};
use crate::{
    clock::Timestamp,
    error::{Code, Error, Result},
    secret::{Secret, SecretMap},
};

impl Definition {
    /// Whether an account here is made of what somebody enters, instead of at the provider's own pages: a static key, a
    /// mailbox, a login, a signed assertion, client credentials (RFC 6749 section 4.4).
    pub fn is_entered(&self) -> bool {
        match self.kind {
            Kind::Static | Kind::Mail | Kind::Session | Kind::JwtBearer => true,
            Kind::OAuth2 => self.oauth2.as_ref().is_some_and(|oauth2| oauth2.flows == [Flow::ClientCredentials]),
            Kind::OAuth1 => false,
        }
    }

    /// The call that makes an account's tokens out of what was entered; absent where the entered values are the credential.
    pub fn minting_step(&self) -> Option<&Step> {
        match self.kind {
            Kind::Session => self.session.as_ref().map(|session| &session.login),
            Kind::JwtBearer => self.mint.as_ref(),
            Kind::OAuth2 => self.oauth2.as_ref().filter(|_| self.is_entered()).map(|oauth2| &oauth2.token),
            Kind::Static | Kind::OAuth1 | Kind::Mail => None,
        }
    }

    /// Whether an account can be minted anew from what is in it, where its definition mints or falls back on a login:
    /// every field that must be entered for it is there.
    pub fn can_mint_from(&self, account: &SecretMap) -> bool {
        let mints = self.refresh.strategy == RefreshStrategy::Remint || self.refresh.fallback.is_some();
        let is_there = |name: &str| account.expose().get(name).is_some_and(|value| !value.is_null() && value != "");
        mints && self.fields_of(FieldLevel::Connection).all(|field| !field.required || is_there(&field.name))
    }

    /// Whether what mints a token is the app's own, so that a refusal of it is the app configuration's fault and not one
    /// account's: nothing secret is entered for an account.
    pub fn mints_as_app(&self) -> bool {
        !self.fields_of(FieldLevel::Connection).any(|field| field.secret)
    }

    /// The names of what answers bring and that decides a host, for a call of ours or for one that is proxied: fixed when
    /// the account is connected, like the fields that do so (decisions 4).
    pub fn extras_deciding_hosts(&self) -> Vec<&str> {
        fn extra(slot: &Slot) -> Option<&str> {
            match &slot.var {
                Var::Extra { name, .. } => Some(name),
                _ => None,
            }
        }
        let steps = all_steps(self);
        let mut names: Vec<&str> = steps.iter().filter_map(|(_, step)| step.url.instance()).filter_map(extra).collect();
        if let Some(proxy) = &self.proxy {
            names.extend(proxy.base_url.as_ref().and_then(|url| url.instance()).and_then(extra));
            names.extend(proxy.host_templates().flat_map(|template| template.slots()).filter_map(extra));
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// Our client at a provider, wherever its id and secret were entered: for the app, or for the one account.
#[derive(Clone, Debug, Default)]
pub struct OwnClient {
    id: Option<Secret>,
    secret: Option<Secret>,
}

impl OwnClient {
    /// The client that these values make. Absent members are those that nobody entered.
    pub fn of(definition: &Definition, app: Option<&SecretMap>, account: Option<&SecretMap>) -> Self {
        let of_role = |role| {
            let of_account = definition.field_with_role(role).is_some_and(|field| field.level == FieldLevel::Connection);
            let values = if of_account { account? } else { app? };
            values.text(definition.client_member(role)?)
        };
        Self { id: of_role(Role::ClientId), secret: of_role(Role::ClientSecret) }
    }

    /// Its id.
    pub fn id(&self) -> Option<&str> {
        self.id.as_ref().map(Secret::expose)
    }

    /// What steps are filled with.
    pub fn borrow(&self) -> Option<Client<'_>> {
        self.id.as_ref().map(|id| Client { id: id.expose(), secret: self.secret.as_ref() })
    }
}

impl Jwt {
    /// The signed assertion (RFC 7515 compact form): the claims that render, with `iat` and `exp` (RFC 7523 section 3).
    ///
    /// # Errors
    /// `not_configured` where the key or a claim is missing, or the key is not a private key of the right kind: PEM,
    /// PKCS#1 or PKCS#8 for RS256, PKCS#8 for ES256.
    pub fn sign(&self, vars: &Vars<'_>, now: Timestamp) -> Result<Secret> {
        let unusable = || {
            let kind = match self.alg {
                JwtAlg::Rs256 => "an RSA key in PEM form",
                JwtAlg::Es256 => "a P-256 key in PEM form, PKCS#8",
            };
            Error::new(Code::NotConfigured, format!("the private key cannot be used: it must be {kind}"))
        };
        let mut claims = Map::new();
        for (name, template) in &self.claims {
            if let Some(value) = template.render(vars)? {
                claims.insert(name.clone(), Value::from(value.expose()));
            }
        }
        claims.insert("iat".to_owned(), Value::from(now.minus(self.backdate).unix_seconds()));
        claims.insert("exp".to_owned(), Value::from(now.plus(self.ttl).unix_seconds()));
        let pem = self.key.render(vars)?.ok_or_else(unusable)?;
        let (algorithm, key) = match self.alg {
            JwtAlg::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem.expose().as_bytes())),
            JwtAlg::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(pem.expose().as_bytes())),
        };
        let key = key.map_err(|_| unusable())?;
        // The library's error may quote what it read; it is not part of ours.
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).map(Secret::new).map_err(|_| unusable())
    }
}
