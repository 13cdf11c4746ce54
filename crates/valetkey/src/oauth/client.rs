//! OAuth clients: programs that ask for tokens of agents.
//!
//! The operator or a platform makes them; where a site allows it, they register themselves ([`super::register`]). A client is
//! *public* (a program on somebody's machine, which keeps no secret and proves itself by PKCE), or *confidential* (it has a
//! secret, of which we keep the SHA-256).

use std::{collections::BTreeSet, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use super::{
    Server,
    fault::{Fault, Outcome, Word},
    params::Params,
    scope::Scopes,
    store,
};
use crate::{
    agent,
    audit::Event,
    base::Base,
    clock::Timestamp,
    db::Db,
    error::{Code, Error, Result},
    id::{self, AgentId, ClientId, SiteId, sha256_hex},
    platform::{self, PlatformKey},
    principal::{Actor, Ceiling},
    secret::Secret,
    text,
    token::{self, family},
};

/// What every client secret begins with.
pub const SECRET_PREFIX: &str = "vkcs_";
/// The most redirect URIs of a client.
const MOST_REDIRECTS: usize = 20;
/// The longest redirect URI, in bytes.
const LONGEST_REDIRECT: usize = 2_000;

/// What a client may ask for tokens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GrantType {
    /// A person consents in their browser, and the client gets a code (RFC 6749 section 4.1).
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    /// A person consents on another device (RFC 8628).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:device_code")]
    DeviceCode,
    /// A refresh token (RFC 6749 section 6).
    #[serde(rename = "refresh_token")]
    RefreshToken,
    /// A token for another one (RFC 8693).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:token-exchange")]
    TokenExchange,
}

impl GrantType {
    /// Every grant there is here.
    pub const ALL: [GrantType; 4] =
        [GrantType::AuthorizationCode, GrantType::DeviceCode, GrantType::RefreshToken, GrantType::TokenExchange];

    /// What a client uses of which nothing is said: a browser where it has somewhere to return to, else another device.
    pub fn usual(has_redirect: bool) -> BTreeSet<Self> {
        BTreeSet::from([if has_redirect { Self::AuthorizationCode } else { Self::DeviceCode }, Self::RefreshToken])
    }

    /// The word of the standards.
    pub fn as_str(self) -> &'static str {
        match self {
            GrantType::AuthorizationCode => "authorization_code",
            GrantType::DeviceCode => "urn:ietf:params:oauth:grant-type:device_code",
            GrantType::RefreshToken => "refresh_token",
            GrantType::TokenExchange => "urn:ietf:params:oauth:grant-type:token-exchange",
        }
    }
}

impl FromStr for GrantType {
    type Err = Fault;

    fn from_str(word: &str) -> std::result::Result<Self, Fault> {
        Self::ALL
            .into_iter()
            .find(|grant| grant.as_str() == word)
            .ok_or_else(|| Fault::new(Word::UnsupportedGrantType, "there is no such grant type here"))
    }
}

/// A client as it is listed: never its secret.
#[derive(Clone, Debug, Serialize)]
pub struct Client {
    /// Its id, which is no secret.
    pub id: ClientId,
    /// The site it belongs to.
    pub site: SiteId,
    /// What people read.
    pub name: String,
    /// Whether it has a secret.
    pub confidential: bool,
    /// Where browsers may be sent back to.
    pub redirect_uris: Vec<String>,
    /// What it may ask for tokens with.
    pub grant_types: BTreeSet<GrantType>,
    /// The most that its tokens may do.
    pub ceiling: Option<Ceiling>,
    /// The only agent it may act as.
    pub agent: Option<AgentId>,
    /// Since when, where it registered itself.
    pub registered_at: Option<Timestamp>,
    /// When a token was last issued to it, to the minute.
    pub used_at: Option<Timestamp>,
    /// Since when there is such a client.
    pub created_at: Timestamp,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
    /// The SHA-256 of its secret.
    #[serde(skip)]
    pub(super) secret_hash: Option<String>,
}

impl Client {
    /// Whether the site made it: where it registered itself nobody vouches for it, and no browser is sent to it without the
    /// person's word (RFC 9700 section 4.11).
    pub fn is_vouched_for(&self) -> bool {
        self.registered_at.is_none()
    }

    /// Where to send the browser, for the redirect URI of a request; nothing where that is not one of the client's. Compared as
    /// whole texts, except the port on loopback (RFC 8252 section 7.3). That counts for `localhost`, too, which section 8.3 advises
    /// against and many programs use; but it is not the same as `127.0.0.1`: what is registered with one is not taken with the other.
    pub(super) fn redirect(&self, sent: Option<&str>) -> Option<String> {
        let Some(sent) = sent else {
            return match self.redirect_uris.as_slice() {
                [only] => Some(only.clone()),
                _ => None,
            };
        };
        let same = |known: &String| known == sent || loopback(known).is_some_and(|known| Some(known) == loopback(sent));
        self.redirect_uris.iter().any(same).then(|| sent.to_owned())
    }
}

/// The host and what follows the port of a redirect URI on loopback.
fn loopback(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.strip_prefix("http://")?;
    let host = ["127.0.0.1", "localhost", "[::1]"].into_iter().find(|host| rest.starts_with(host))?;
    let rest = &rest[host.len()..];
    let rest = match rest.strip_prefix(':') {
        None => rest,
        Some(after) => {
            let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            after[..digits].parse::<u16>().ok().filter(|port| *port > 0)?;
            &after[digits..]
        }
    };
    // Whatever else could follow (`@`, `.evil.example`) would make it another host.
    (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((host, rest))
}

/// Refuses a redirect URI that is not https (http on loopback), or that two parsers could read in two ways.
pub(super) fn check_redirect(uri: &str) -> Result<()> {
    let plain = uri.len() <= LONGEST_REDIRECT && uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let fine = plain
        && Url::parse(uri).is_ok_and(|url| {
            let host = uri.strip_prefix("https://").and_then(|rest| rest.chars().next());
            (host.is_some_and(|first| first.is_ascii_alphanumeric() || first == '[') || loopback(uri).is_some())
                && url.has_host()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
    if fine {
        Ok(())
    } else {
        Err(Error::new(
            Code::InvalidRequest,
            "redirect_uris: each is a whole https URL without fragment or user (http on 127.0.0.1, [::1] and localhost only)",
        ))
    }
}

/// What a new client is made of.
#[derive(Clone, Debug, Default)]
pub struct NewClient {
    /// What people read.
    pub name: String,
    /// Whether it can keep a secret, and so gets one.
    pub confidential: bool,
    /// Where browsers may be sent back to.
    pub redirect_uris: Vec<String>,
    /// What it may ask for tokens with.
    pub grant_types: BTreeSet<GrantType>,
    /// The most it may ask for; absent for anything.
    pub scopes: Option<Scopes>,
    /// The only agent it may act as.
    pub agent: Option<AgentId>,
}

/// Makes a client. Its secret, where it has one, is shown this once.
pub async fn create(base: &Base, site: &SiteId, actor: &Actor, new: NewClient) -> Result<(Client, Option<Secret>)> {
    insert(base, site, actor, new, false).await
}

/// Makes a client, by somebody's hand or by its own.
pub(super) async fn insert(
    base: &Base,
    site: &SiteId,
    actor: &Actor,
    new: NewClient,
    by_itself: bool,
) -> Result<(Client, Option<Secret>)> {
    check(&new)?;
    if let Some(agent) = &new.agent {
        agent::require(&base.db, site, agent).await?;
    }
    let secret = match new.confidential {
        true => Some(Secret::new(format!("{SECRET_PREFIX}{}", id::random_text::<32>()?))),
        false => None,
    };
    let now = base.clock.now();
    let nothing = || Error::new(Code::InvalidRequest, "scopes: they leave nothing that could be done");
    let ceiling = new.scopes.map(|scopes| scopes.narrow(&Ceiling::default()).ok_or_else(nothing)).transpose()?;
    let client = Client {
        id: ClientId::new(),
        site: site.clone(),
        name: new.name,
        confidential: new.confidential,
        redirect_uris: new.redirect_uris,
        grant_types: new.grant_types,
        ceiling,
        agent: new.agent,
        registered_at: by_itself.then_some(now),
        used_at: None,
        created_at: now,
        revoked_at: None,
        secret_hash: secret.as_ref().map(|secret| sha256_hex(secret.expose().as_bytes())),
    };
    let mut tx = base.db.begin().await?;
    store::insert_client(&mut tx, &client, actor).await?;
    let facts = json!({
        "client": client.id, "name": client.name, "confidential": client.confidential, "registered": by_itself,
        "redirect_uris": client.redirect_uris, "grant_types": client.grant_types, "agent": client.agent,
    });
    base.audit.record(&mut tx, Event::new(site, actor, "client.create").facts(facts)).await?;
    tx.commit().await?;
    Ok((client, secret))
}

fn check(new: &NewClient) -> Result<()> {
    let refuse = |why: &'static str| Err(Error::new(Code::InvalidRequest, why));
    text::check_line("name", &new.name, text::LABEL)?;
    if new.name.trim().is_empty() {
        return refuse("name: it is what people read when they consent; it is not empty");
    }
    text::check_list("redirect_uris", new.redirect_uris.len(), MOST_REDIRECTS)?;
    new.redirect_uris.iter().try_for_each(|uri| check_redirect(uri))?;
    let has = |grant| new.grant_types.contains(&grant);
    if new.grant_types.is_empty() {
        return refuse("grant_types: at least one");
    }
    if has(GrantType::AuthorizationCode) == new.redirect_uris.is_empty() {
        return refuse("redirect_uris: the grant authorization_code needs at least one, and no other grant has any");
    }
    if has(GrantType::TokenExchange) && !new.confidential {
        return refuse("grant_types: a token exchange is for confidential clients only");
    }
    if has(GrantType::RefreshToken) && !has(GrantType::AuthorizationCode) && !has(GrantType::DeviceCode) {
        return refuse("grant_types: refresh_token comes with authorization_code or the device code");
    }
    Ok(())
}

/// One client of a site.
pub async fn get(db: &Db, site: &SiteId, id: &ClientId) -> Result<Option<Client>> {
    Ok(store::client(db, id).await?.filter(|client| client.site == *site))
}

/// A page of a site's clients, the newest first, the revoked ones among them: at most `limit`, after the one with id `after`.
pub async fn page(db: &Db, site: &SiteId, after: Option<&ClientId>, limit: u32) -> Result<Vec<Client>> {
    store::clients(db, site, after, limit).await
}

/// Revokes a client with everything that was issued to it: no request that arrives after this returned is served. Doing it
/// again changes nothing. Says how many tokens lived.
pub async fn revoke(base: &Base, site: &SiteId, actor: &Actor, id: &ClientId) -> Result<u64> {
    if get(&base.db, site, id).await?.is_none() {
        return Err(Error::new(Code::NotFound, format!("there is no client `{id}`")));
    }
    let now = base.clock.now();
    let mut tx = base.db.begin().await?;
    // The client before its consents: whoever redeems a code holds the client first.
    let revoked = store::revoke_client(&mut tx, site, id, actor, now).await?;
    let tokens = family::end_of_client(&mut tx, site, id, actor, now).await?;
    if revoked {
        let facts = json!({ "client": id, "tokens": tokens });
        base.audit.record(&mut tx, Event::new(site, actor, "client.revoke").facts(facts)).await?;
    }
    token::count_revocations(&mut tx, site, tokens).await?;
    tx.commit().await?;
    Ok(tokens)
}

/// How a caller says who it is.
#[derive(Clone, Debug)]
pub enum Presented {
    /// A client by its id, with its secret where it sent one.
    Client {
        /// Its id, as it was sent.
        id: String,
        /// Its secret.
        secret: Option<Secret>,
    },
    /// A platform key, as a bearer or as the password of its id.
    Key {
        /// The id that came with it.
        id: Option<String>,
        /// Its text.
        text: Secret,
    },
}

impl Presented {
    /// What a request says of its caller: `authorization` is the header, where exactly one was sent.
    ///
    /// # Errors
    /// `invalid_request` where it says so in two ways (RFC 6749 section 2.3); `invalid_client` where it says nothing.
    pub fn read(authorization: Option<&str>, params: &Params) -> Outcome<Self> {
        let id = params.get("client_id");
        let Some(header) = authorization else {
            let id =
                id.ok_or_else(|| Fault::new(Word::InvalidClient, "say which client this is, by `client_id` or HTTP Basic"))?;
            return Ok(Self::Client { id: id.to_owned(), secret: params.secret("client_secret").cloned() });
        };
        if params.get("client_secret").is_some() {
            return Err(Fault::new(Word::InvalidRequest, "a client proves itself in one way only"));
        }
        let odd = || Fault::new(Word::InvalidClient, "the Authorization header cannot be read");
        let (scheme, rest) = header.split_once(' ').ok_or_else(odd)?;
        let rest = rest.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("bearer") && rest.starts_with(platform::PREFIX) {
            return Ok(Self::Key { id: None, text: Secret::new(rest) });
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(odd());
        }
        let (name, password) = basic(rest).ok_or_else(odd)?;
        if id.is_some_and(|id| id != name) {
            return Err(Fault::new(Word::InvalidRequest, "`client_id` names another client than the Authorization header"));
        }
        Ok(match password.expose().starts_with(platform::PREFIX) {
            true => Self::Key { id: Some(name), text: password },
            false => Self::Client { id: name, secret: Some(password).filter(|secret| !secret.is_empty()) },
        })
    }

    /// The id of the client that it claims to be, to count its failures by.
    pub fn claimed(&self) -> Option<&str> {
        match self {
            Self::Client { id, .. } => Some(id),
            Self::Key { id, .. } => id.as_deref(),
        }
    }
}

/// User and password of HTTP Basic, both form-encoded before (RFC 6749 section 2.3.1).
fn basic(encoded: &str) -> Option<(String, Secret)> {
    let text = Secret::new(String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?);
    let (name, password) = text.expose().split_once(':')?;
    let decoded = |part: &str| percent_decode_str(&part.replace('+', " ")).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    Some((decoded(name)?, Secret::new(decoded(password)?)))
}

/// Who asks about tokens.
#[derive(Clone, Debug)]
pub enum Asker {
    /// A site's own backend.
    Platform(Box<PlatformKey>),
    /// A confidential client.
    Client(Box<Client>),
}

impl Asker {
    /// The site it belongs to.
    pub fn site(&self) -> &SiteId {
        match self {
            Self::Platform(key) => &key.site,
            Self::Client(client) => &client.site,
        }
    }
}

impl Server {
    /// The client that a caller proves to be. Every reason to refuse gives one and the same answer.
    pub async fn client(&self, presented: &Presented) -> Outcome<Client> {
        let Presented::Client { id, secret, .. } = presented else { return Err(unproven()) };
        let id: ClientId = id.parse().map_err(|_| unproven())?;
        let client = store::live_client(&self.base().db, &id).await?.ok_or_else(unproven)?;
        let proven = match (&client.secret_hash, secret) {
            (None, None) => true,
            (Some(known), Some(secret)) => {
                Secret::new(known.as_str()).matches(&Secret::new(sha256_hex(secret.expose().as_bytes())))
            }
            // A public client that sends a secret is not the one we know; a confidential one must send it.
            (None, Some(_)) | (Some(_), None) => false,
        };
        if proven { Ok(client) } else { Err(unproven()) }
    }

    /// Who asks about tokens: a platform key, or a client with a secret. Whoever proves nothing is nobody.
    pub async fn asker(&self, presented: &Presented) -> Outcome<Asker> {
        match presented {
            Presented::Key { id, text } => {
                let key = match self.keys.authenticate(text.expose(), self.now()).await {
                    Err(error) if error.code() == Code::Unauthenticated => return Err(unproven()),
                    found => found?,
                };
                if id.as_deref().is_some_and(|id| id != key.id.as_str()) {
                    return Err(unproven());
                }
                Ok(Asker::Platform(Box::new(Arc::unwrap_or_clone(key))))
            }
            Presented::Client { .. } => match self.client(presented).await? {
                client if client.confidential => Ok(Asker::Client(Box::new(client))),
                _ => Err(unproven()),
            },
        }
    }
}

/// The one answer to a caller who did not prove to be anybody.
fn unproven() -> Fault {
    Fault::new(Word::InvalidClient, "the client is not known, or did not prove itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(redirects: &[&str]) -> Client {
        Client {
            id: ClientId::new(),
            site: SiteId::default_site(),
            name: "c".to_owned(),
            confidential: false,
            redirect_uris: redirects.iter().map(|uri| (*uri).to_owned()).collect(),
            grant_types: BTreeSet::from([GrantType::AuthorizationCode]),
            ceiling: None,
            agent: None,
            registered_at: None,
            used_at: None,
            created_at: Timestamp(0),
            revoked_at: None,
            secret_hash: None,
        }
    }

    /// R70: redirect URIs are compared as whole texts, except for the port on loopback.
    #[test]
    fn a_redirect_uri_is_compared_as_a_whole_but_for_the_port_on_loopback() {
        let client =
            with(&["https://app.example/cb", "http://127.0.0.1/cb", "http://[::1]:1/cb", "http://localhost:8080/cb?a=1"]);
        for fine in [
            "https://app.example/cb",
            "http://127.0.0.1/cb",
            "http://127.0.0.1:51000/cb",
            "http://[::1]:2/cb",
            "http://localhost/cb?a=1",
            "http://localhost:9/cb?a=1",
        ] {
            assert_eq!(client.redirect(Some(fine)).as_deref(), Some(fine));
        }
        for wrong in [
            "",
            "https://app.example/cb/",
            "https://app.example/CB",
            "https://app.example:443/cb",
            "https://app.example/cb?x=1",
            "https://app.example/cb#f",
            "https://app.example.evil.example/cb",
            "https://evil.example/cb",
            "https://user@app.example/cb",
            "http://app.example/cb",
            "http://127.0.0.1:0/cb",
            "http://127.0.0.1:65536/cb",
            "http://127.0.0.1:80@evil.example/cb",
            "http://127.0.0.1.evil.example/cb",
            "http://127.0.0.1:/cb",
            "http://127.0.0.1:1/other",
            "https://127.0.0.1:1/cb",
            "http://localhost:9/cb?a=2",
            "http://127.0.0.2:1/cb",
        ] {
            assert_eq!(client.redirect(Some(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn a_redirect_uri_is_left_out_only_where_there_is_one() {
        assert_eq!(with(&["https://a.example/"]).redirect(None).as_deref(), Some("https://a.example/"));
        assert_eq!(with(&["https://a.example/", "https://b.example/"]).redirect(None), None);
    }

    /// R74: https, or http on loopback; nothing that two parsers read in two ways.
    #[test]
    fn a_redirect_uri_that_is_not_safe_cannot_be_registered() {
        for fine in
            ["https://app.example/cb", "https://app.example", "http://localhost:1/x", "http://[::1]/x", "http://127.0.0.1"]
        {
            check_redirect(fine).unwrap();
        }
        for wrong in [
            "",
            "app.example/cb",
            "http://app.example/cb",
            "http://localhost.evil.example/cb",
            "http://127.0.0.1:1@evil.example/",
            "https://user:pass@app.example/cb",
            "https://app.example/cb#x",
            "https://app.example\\@evil.example/",
            "https://app.example/a b",
            "https://*.example/cb\n",
            "com.example.app:/cb",
            "javascript:alert(1)",
            "https:///cb",
            "https:app.example/cb",
        ] {
            assert!(check_redirect(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn basic_credentials_are_form_encoded() {
        let header = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let read = |header: &str| Presented::read(Some(header), &Params::default());
        let Presented::Client { id, secret } = read(&header("a%3Ab:c+d%25")).unwrap() else { panic!("no client") };
        assert_eq!((id.as_str(), secret.unwrap().expose()), ("a:b", "c d%"));
        for odd in ["Basic", "Basic !", &header("no colon"), "Digest x", "Bearer vk_x"] {
            assert_eq!(read(odd).unwrap_err().word(), Some(Word::InvalidClient), "{odd}");
        }
    }

    #[test]
    fn a_client_that_proves_itself_twice_is_refused() {
        let params = Params::parse(b"client_id=a&client_secret=s").unwrap();
        let header = format!("Basic {}", STANDARD.encode("a:s"));
        assert_eq!(Presented::read(Some(&header), &params).unwrap_err().word(), Some(Word::InvalidRequest));
        let another = Params::parse(b"client_id=b").unwrap();
        assert_eq!(Presented::read(Some(&header), &another).unwrap_err().word(), Some(Word::InvalidRequest));
        assert_eq!(Presented::read(None, &Params::default()).unwrap_err().word(), Some(Word::InvalidClient));
    }
}
