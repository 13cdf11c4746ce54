//! Agent tokens: the bearers by which agents call us. Only their SHA-256 is stored; the text is shown once.
//!
//! Ours are `vk_`, 43 characters of URL-safe base64 (256 bits) and, after a `_`, six hex digits that check the
//! rest, so that a mistyped token is refused before the database is asked. Imported ones keep the form
//! `datamachine_<slug>_<64 hex>`; the slug in them is not an identity. Who a token acts for is decided in
//! `decision`, by one look-up on the hash.
//!
//! A token is minted by hand, or issued by the authorization server (the room `oauth`): then it comes of a consent
//! ([`family`]), or was exchanged for another token, its parent. It ends with either. An issued token is taken at one place
//! only ([`Audience`]).

pub mod family;
mod issue;
mod last_used;
mod store;

pub use issue::{Issue, Standing, count_revocations, depth, hold, issue, revocation_epoch, standing, sweep};
pub use last_used::LastUsed;

use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    agent::{self, Role},
    audit::Event,
    base::Base,
    clock::Timestamp,
    db::{Db, Tx},
    error::{Code, Error, Result},
    id::{self, AgentId, SessionName, SiteId, TaskName, TokenId, UserId, sha256_hex},
    principal::{Actor, Ceiling},
    secret::Secret,
    text,
};

const PREFIX: &str = "vk_";
const BODY: usize = 43;
const CHECK: usize = 6;

/// The SHA-256 of a token, as it is stored: 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash(String);

impl TokenHash {
    /// The hash of a presented token, or nothing when its form alone shows that it cannot be one.
    pub fn of_presented(text: &str) -> Option<Self> {
        let ours = || is_checked(PREFIX, text).then_some(());
        let imported = || {
            let rest = text.strip_prefix("datamachine_")?;
            let (slug, secret) = rest.rsplit_once('_')?;
            (!slug.is_empty() && text.len() <= 400 && secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit()))
                .then_some(())
        };
        ours().or_else(imported)?;
        Some(Self(sha256_hex(text.as_bytes())))
    }

    /// The hash by which a token for one place is stored (RFC 8707): another place looks for another hash, and so cannot find
    /// it. That of the API is the plain one.
    #[must_use]
    pub fn at(&self, audience: Audience) -> Self {
        match audience {
            Audience::Api => self.clone(),
            Audience::Mcp => Self(sha256_hex(format!("valetkey token at mcp\n{}", self.0).as_bytes())),
        }
    }

    /// A hash that another system stored: 64 hex digits.
    pub fn stored(text: &str) -> Option<Self> {
        (text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| Self(text.to_ascii_lowercase()))
    }

    /// The hash as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where an issued token is taken. One that was minted by hand is taken everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// The HTTP API.
    Api,
    /// The MCP server.
    Mcp,
}

impl Audience {
    /// Every place.
    pub const ALL: [Audience; 2] = [Audience::Api, Audience::Mcp];

    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Audience::Api => "api",
            Audience::Mcp => "mcp",
        }
    }
}

impl FromStr for Audience {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|audience| audience.as_str() == text);
        found.ok_or_else(|| Error::new(Code::InvalidRequest, "an audience is api or mcp"))
    }
}

/// The text of a token made of 32 secret bytes.
pub(crate) fn compose(bytes: &[u8; 32]) -> Secret {
    Secret::new(checked(PREFIX, bytes))
}

/// A bearer of ours: prefix, 43 characters, and the digits that check both.
pub(crate) fn checked(prefix: &str, bytes: &[u8; 32]) -> String {
    let body = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes));
    let check = &sha256_hex(body.as_bytes())[..CHECK];
    format!("{body}_{check}")
}

/// Whether a text has the form of [`checked`].
pub(crate) fn is_checked(prefix: &str, text: &str) -> bool {
    let Some(rest) = text.strip_prefix(prefix) else { return false };
    if !rest.is_ascii() || rest.len() != BODY + 1 + CHECK || rest.as_bytes()[BODY] != b'_' {
        return false;
    }
    sha256_hex(&text.as_bytes()[..prefix.len() + BODY])[..CHECK] == rest[BODY + 1..]
}

/// A token as it is listed: never its text, never its hash.
#[derive(Clone, Debug, Serialize)]
pub struct Token {
    /// Its id, which is no secret.
    pub id: TokenId,
    /// The agent that holds it.
    pub agent: AgentId,
    /// The first characters of its text, to tell tokens apart.
    pub prefix: String,
    /// What somebody called it.
    pub label: String,
    /// The person it acts for; absent means unattended.
    pub person: Option<UserId>,
    /// The session it was minted for: what is granted for that session is granted to it.
    pub session: Option<SessionName>,
    /// The task it was minted for.
    pub task: Option<TaskName>,
    /// The most it may do, besides what is granted.
    pub ceiling: Option<Ceiling>,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What a new token is made of.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// What to call it.
    pub label: String,
    /// The person it acts for; absent means unattended. Whether the caller may name them is checked before.
    pub person: Option<UserId>,
    /// The session it is for. It opens what is granted for that session, so it is named by whoever may mint, and never by the
    /// agent in a call.
    pub session: Option<SessionName>,
    /// The task it is for.
    pub task: Option<TaskName>,
    /// The most it may do.
    pub ceiling: Option<Ceiling>,
    /// Until when.
    pub expires_at: Option<Timestamp>,
}

/// Mints a token and returns it with its text, which is shown this once.
///
/// A token acts for a person only while that person has a role of operator or more on the agent; it is refused
/// at once where it could never work.
pub async fn mint(base: &Base, site: &SiteId, actor: &Actor, agent: &AgentId, new: NewToken) -> Result<(Token, Secret)> {
    text::check("label", &new.label, text::LABEL)?;
    new.ceiling.iter().try_for_each(Ceiling::check)?;
    agent::require(&base.db, site, agent).await?;
    let minter = actor.user().cloned();
    for user in [&new.person, &minter].into_iter().flatten() {
        if agent::role_of(&base.db, site, agent, user).await? < Some(Role::Operator) {
            return Err(Error::new(
                Code::Forbidden,
                format!(
                    "user {user} has no role of operator or more on this agent, so the token could do nothing; give them one first"
                ),
            ));
        }
    }
    let now = base.clock.now();
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(Error::new(Code::InvalidRequest, "expires_at is in the past"));
    }
    let text = compose(&id::random::<32>()?);
    let hash = TokenHash(sha256_hex(text.expose().as_bytes()));
    let token = Token {
        id: TokenId::new(),
        agent: agent.clone(),
        prefix: text.expose()[..PREFIX.len() + 6].to_owned(),
        label: new.label,
        person: new.person,
        session: new.session,
        task: new.task,
        ceiling: new.ceiling,
        created_at: now,
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    let mut tx = base.db.begin().await?;
    store::insert(&mut tx, site, &token, &hash, minter.as_ref(), actor).await?;
    let facts = json!({
        "token": token.id, "label": token.label, "person": token.person, "session": token.session, "task": token.task,
        "expires_at": token.expires_at,
    });
    base.audit.record(&mut tx, Event::new(site, actor, "token.mint").agent(agent).facts(facts)).await?;
    tx.commit().await?;
    Ok((token, text))
}

/// A token that comes from elsewhere: only its hash is known, and its ceiling is stored as it is.
#[derive(Clone, Debug)]
pub struct Arriving {
    /// The id it will have.
    pub id: TokenId,
    /// Its SHA-256.
    pub hash: TokenHash,
    /// The agent.
    pub agent: AgentId,
    /// The first characters of its text.
    pub prefix: String,
    /// What it was called.
    pub label: String,
    /// The person it acts for.
    pub person: UserId,
    /// The ceiling's JSON. One that cannot be read denies everything.
    pub ceiling: Option<serde_json::Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
}

/// Takes a token over from elsewhere: the same bearer works. `over` writes it over the live one with the same hash. False
/// where one with that hash is here already and stays.
pub async fn import(base: &Base, tx: &mut Tx, site: &SiteId, actor: &Actor, token: &Arriving, over: bool) -> Result<bool> {
    let done = match over {
        false => store::insert_free(tx, site, token, actor).await?,
        true => store::update(tx, site, token).await?,
    };
    if done {
        let facts = json!({
            "token": token.id, "label": token.label, "person": token.person, "expires_at": token.expires_at, "imported": true,
        });
        base.audit.record(tx, Event::new(site, actor, "token.mint").agent(&token.agent).facts(facts)).await?;
    }
    Ok(done)
}

/// An agent's tokens, newest first, the ended ones among them.
pub async fn list(db: &Db, site: &SiteId, agent: &AgentId) -> Result<Vec<Token>> {
    store::of_agent(db, site, agent).await
}

/// A page of an agent's tokens, the newest first: at most `limit`, after the one with id `after`.
pub async fn page(db: &Db, site: &SiteId, agent: &AgentId, after: Option<&TokenId>, limit: u32) -> Result<Vec<Token>> {
    store::page(db, site, agent, after, limit).await
}

/// A token as it moves out.
#[derive(Clone, Debug)]
pub struct Hashed {
    /// The token.
    pub token: Token,
    /// Its SHA-256.
    pub hash: TokenHash,
    /// The person whose role it needs, besides.
    pub minter: Option<UserId>,
    /// The text of its ceiling, which may be one that cannot be read.
    pub ceiling: Option<String>,
}

/// An agent's tokens as they move out, oldest first. Those that were issued to an OAuth client stay: they live for minutes.
pub async fn list_hashed(db: &Db, site: &SiteId, agent: &AgentId) -> Result<Vec<Hashed>> {
    store::hashed(db, site, agent).await
}

/// The agent that a token belongs to, if there is a token by that id.
pub async fn agent_of(db: &Db, site: &SiteId, id: &TokenId) -> Result<Option<AgentId>> {
    store::agent_of_now(db, site, id).await
}

/// Revokes a token: no request that arrives after this returned is served. Doing it again changes nothing.
///
/// A token that comes of a consent takes the consent along, or its holder would fetch the next one; whatever was exchanged for
/// it ends with it.
pub async fn revoke(base: &Base, site: &SiteId, actor: &Actor, id: &TokenId, reason: &str) -> Result<()> {
    text::check("reason", reason, text::NOTE)?;
    let now = base.clock.now();
    let mut tx = base.db.begin().await?;
    let Some(agent) = store::agent_of(&mut tx, site, id).await? else {
        return Err(Error::new(Code::NotFound, format!("there is no token `{id}`")));
    };
    // The family before the token, as everybody does: two that end tokens of one family must not wait for each other.
    let family = family::of_token(&mut tx, site, id).await?;
    if let Some(family) = &family {
        family::close(&mut tx, site, family, actor, reason, now).await?;
    }
    let mut ended = 0;
    if store::revoke(&mut tx, site, id, actor, reason, now).await? {
        ended += 1;
        let facts = json!({ "token": id, "reason": reason, "family": family });
        base.audit.record(&mut tx, Event::new(site, actor, "token.revoke").agent(&agent).facts(facts)).await?;
    }
    if let Some(family) = &family {
        ended += family::revoke_tokens(&mut tx, site, family, actor, reason, now).await?;
    }
    ended += issue::revoke_exchanged(&mut tx, site, actor, reason, now).await?;
    count_revocations(&mut tx, site, ended).await?;
    tx.commit().await
}

/// Revokes every token of an agent and says how many lived. What people consented to for it ends, too.
pub async fn revoke_all(base: &Base, site: &SiteId, actor: &Actor, agent: &AgentId, reason: &str) -> Result<u64> {
    text::check("reason", reason, text::NOTE)?;
    let now = base.clock.now();
    let mut tx = base.db.begin().await?;
    family::close_of_agent(&mut tx, site, agent, actor, reason, now).await?;
    let ended = store::revoke_all(&mut tx, site, agent, actor, reason, now).await?;
    let ended = ended + issue::revoke_exchanged(&mut tx, site, actor, reason, now).await?;
    let facts = json!({ "tokens": ended, "reason": reason });
    base.audit.record(&mut tx, Event::new(site, actor, "token.revoke_all").agent(agent).facts(facts)).await?;
    count_revocations(&mut tx, site, ended).await?;
    tx.commit().await?;
    Ok(ended)
}

/// Revokes every token that acts for a person, or was minted by them, and what was exchanged for one, in the transaction that
/// erases the person. Their consents are removed before. Says how many lived, which the caller counts
/// ([`count_revocations`]).
pub async fn revoke_of_person(
    tx: &mut Tx,
    site: &SiteId,
    actor: &Actor,
    user: &UserId,
    reason: &str,
    now: Timestamp,
) -> Result<u64> {
    let ended = store::revoke_of_person(tx, site, user, actor, reason, now).await?;
    Ok(ended + issue::revoke_exchanged(tx, site, actor, reason, now).await?)
}

/// Notes that tokens were used. Called in batches, off the hot path, at most once a minute for each token.
pub async fn touch(db: &Db, used: &[(SiteId, TokenId, Timestamp)]) -> Result<()> {
    let mut tx = db.begin_bookkeeping().await?;
    // In one order, so that two replicas that write the same tokens wait for one another and do not lock up.
    let mut used: Vec<_> = used.iter().collect();
    used.sort_by_key(|(_, id, _)| id);
    for (site, id, at) in used {
        store::touch(&mut tx, site, id, *at).await?;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> String {
        compose(&id::random::<32>().unwrap()).expose().to_owned()
    }

    /// R83: what is stored for one place is not what another looks for.
    #[test]
    fn a_token_for_one_place_has_another_hash_at_another() {
        let hash = TokenHash::of_presented(&ours()).unwrap();
        assert_eq!(hash.at(Audience::Api), hash);
        assert_ne!(hash.at(Audience::Mcp), hash);
    }

    #[test]
    fn a_token_with_one_changed_character_is_refused_by_its_form() {
        let token = ours();
        assert!(TokenHash::of_presented(&token).is_some());
        for i in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[i] = if bytes[i] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(TokenHash::of_presented(&changed).is_none(), "{i}");
        }
    }

    #[test]
    fn the_reference_form_is_taken_whole() {
        let text = format!("datamachine_my_agent_{}", "0a".repeat(32));
        assert_eq!(TokenHash::of_presented(&text).unwrap().as_str(), sha256_hex(text.as_bytes()));
    }

    /// T-014: of whoever else's form it is.
    #[test]
    fn strange_forms_are_no_tokens() {
        for text in [
            "",
            "vk_",
            "vk_é",
            "datamachine__",
            "datamachine_a_00",
            &"x".repeat(10_000),
            &ours().replacen("vk_", "gh_", 1),
            &format!("datamatrix_a_{}", "00".repeat(32)),
            &format!("datamachine__{}", "00".repeat(32)),
        ] {
            assert!(TokenHash::of_presented(text).is_none(), "{text:.20}");
        }
    }
}
