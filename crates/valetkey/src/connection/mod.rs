//! Connections: one outside account of one owner at one provider.
//!
//! A row has a *version*, which moves only when its tokens change and is what a refresh spends, and a
//! *revision*, which moves with every change of the sealed account and is what a merge compares. The lease and
//! journal of a refresh are columns of their own that touch neither. Status, listing and `is_authenticated`
//! read plain columns only; nothing here opens a sealed value unless its name says `open` or it takes a key.

pub mod accounts;
mod answer;
pub mod calls;
pub mod elsewhere;
pub mod hosts;
pub mod import;
mod outbox;
mod row;
mod store;
mod timing;
mod write;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    base::Base,
    clock::Timestamp,
    db::Db,
    error::{Code, Error, Result},
    id::{AccountName, AppConfigId, ConnectionId, ProviderName, SiteId},
    principal::{Owner, Slot},
    provider::Definition,
    seal::Place,
    secret::SecretMap,
};

pub use answer::{due_at, keep_hosts, merge_answer, store_outputs};
pub use outbox::{Owed, UpstreamWish, can_revoke_with, last_revocation_status, owe_revocation};
pub(crate) use row::ConnectionRow;
pub use row::Stored;
pub use store::{Filter, ageing, get, is_stored, list, load, load_in, page, slot, stored_slot};
pub use timing::{RefreshWindow, refresh_at};
pub use write::{
    Connected, NewConnection, Tokens, erase, forget, insert, replace_account, set_needs_reauth, set_resources, set_warned,
    upsert_connected,
};

/// Where a connection stands. Expiring and expired are derived from its times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    /// It can be used.
    Active,
    /// The person must connect again; a live access token is still served until it expires.
    NeedsReauth {
        /// Why, as a stable word: `invalid_grant`, `answer_lost`, ...
        reason: String,
    },
    /// It is over; connecting again makes another id.
    Revoked {
        /// Since when.
        at: Timestamp,
    },
}

/// How sure we are whose account it is upstream (decisions 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The identity step said so with these tokens.
    Verified,
    /// Tokens were written from outside since; agents' grants wait.
    Unverified,
    /// The owner says so, or the definition has no identity step.
    Owner,
}

impl Identity {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Identity::Verified => "verified",
            Identity::Unverified => "unverified",
            Identity::Owner => "owner",
        }
    }
}

/// How a connection's access token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Renewal {
    /// It is not: the token lives until it does not.
    None,
    /// By a refresh token (RFC 6749 section 6).
    RefreshToken,
    /// By extending the access token itself.
    Extend,
    /// By minting anew from long-lived fields.
    Remint,
}

impl Renewal {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Renewal::None => "none",
            Renewal::RefreshToken => "refresh_token",
            Renewal::Extend => "extend",
            Renewal::Remint => "remint",
        }
    }
}

/// A connection as everybody who may see it sees it: no secret is among this.
#[derive(Clone, Debug, Serialize)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The site it belongs to.
    pub site: SiteId,
    /// Whose it is.
    pub owner: Owner,
    /// At which provider.
    pub provider: ProviderName,
    /// Which of the owner's accounts there.
    pub name: AccountName,
    /// Where it stands.
    #[serde(flatten)]
    pub status: Status,
    /// The version of its tokens.
    pub version: i64,
    /// The revision of its sealed account; with the version, an account's ETag.
    #[serde(skip)]
    pub revision: i64,
    /// The app configuration whose client minted its tokens.
    #[serde(skip)]
    pub app_config: Option<AppConfigId>,
    /// The client id that minted its tokens.
    pub client_id: Option<String>,
    /// The upstream subject.
    pub subject: Option<String>,
    /// What the upstream calls the subject.
    pub subject_name: Option<String>,
    /// How sure we are of the subject.
    pub identity: Identity,
    /// The scopes granted; absent while unknown.
    pub scopes: Option<Vec<String>>,
    /// The scopes asked for.
    pub wanted_scopes: Vec<String>,
    /// The hosts its credential may go to, as they were when it was connected.
    pub hosts: Vec<String>,
    /// How it is renewed.
    pub renewal: Renewal,
    /// When the access token ends; absent while unknown.
    pub expires_at: Option<Timestamp>,
    /// When the access token was issued.
    pub issued_at: Option<Timestamp>,
    /// The life in seconds that the provider usually gives an access token.
    #[serde(skip)]
    pub usual_life: Option<i64>,
    /// When the refresh token ends.
    pub refresh_expires_at: Option<Timestamp>,
    /// When it was last refreshed.
    pub last_refreshed_at: Option<Timestamp>,
    /// Since when.
    pub connected_at: Timestamp,
    /// When anything about it last changed.
    pub updated_at: Timestamp,
    /// Failed refreshes in a row.
    pub failures: i64,
    /// Not to be tried again before.
    pub retry_at: Option<Timestamp>,
    /// The stable word of the last refresh failure.
    pub last_error: Option<String>,
    /// What was chosen from the provider's lists.
    pub resources: Resources,
    /// The end of life that the owner was warned of.
    #[serde(skip)]
    pub warned_end: Option<Timestamp>,
}

impl Connection {
    /// Which account it is.
    pub fn slot(&self) -> Slot {
        let Self { site, provider, owner, name, .. } = self;
        Slot { site: site.clone(), provider: provider.clone(), owner: owner.clone(), name: name.clone() }
    }

    /// Where its account is sealed.
    pub fn place<'a>(&'a self, owner: &'a str) -> Place<'a> {
        Place::connection(&self.site, &self.provider, owner, &self.name, &self.id)
    }

    /// Whether it can serve now or after a refresh, told from plain columns. A token that is extended by itself counts for nothing
    /// once it has ended, whatever a definition may still try with it.
    pub fn is_authenticated(&self, now: Timestamp) -> bool {
        match self.status {
            Status::Active => {
                matches!(self.renewal, Renewal::RefreshToken | Renewal::Remint) || self.expires_at.is_none_or(|at| at > now)
            }
            Status::NeedsReauth { .. } => self.expires_at.is_some_and(|at| at > now),
            Status::Revoked { .. } => false,
        }
    }

    /// When it ends of age unless it is connected again; told once somebody was warned of that, and as long as it is so.
    pub fn ends_at(&self) -> Option<Timestamp> {
        let warned = self.warned_end.filter(|_| self.status == Status::Active)?;
        // An end that an answer told anew lies some seconds beside the one before.
        let still = self.age_end().is_some_and(|end| end <= warned.plus(DAY));
        still.then_some(warned)
    }

    /// The end behind which nothing renews it, as far as that is known: that of the refresh token, or of an access token that
    /// is extended, or that nothing renews.
    pub fn age_end(&self) -> Option<Timestamp> {
        match self.renewal {
            Renewal::RefreshToken => self.refresh_expires_at,
            Renewal::None | Renewal::Extend => self.expires_at,
            Renewal::Remint => None,
        }
    }

    /// The scopes that were asked for and not granted; none while it is not known which were granted.
    pub fn missing_scopes(&self, definition: Option<&Definition>) -> Vec<&String> {
        match &self.scopes {
            Some(granted) => missing_scopes(definition, &self.wanted_scopes, granted, self.renewal),
            None => Vec::new(),
        }
    }

    /// The word people read: `active`, `expiring`, `expired`, `needs_reauth`, `revoked`.
    pub fn display_status(&self, now: Timestamp) -> &'static str {
        match &self.status {
            Status::Revoked { .. } => "revoked",
            Status::NeedsReauth { .. } => "needs_reauth",
            Status::Active if self.ends_at().is_some_and(|end| end > now) => "expiring",
            Status::Active => match self.expires_at {
                Some(at) if at <= now => "expired",
                Some(at) if self.renewal == Renewal::None && at.since(now).as_secs() < 7 * 86_400 => "expiring",
                _ => "active",
            },
        }
    }
}

/// Which of the scopes that were asked for are not among those granted. One that unlocks a refresh token was granted where one
/// came, whatever the answer lists: Microsoft's names `offline_access` nowhere.
pub fn missing_scopes<'w>(
    definition: Option<&Definition>,
    wanted: &'w [String],
    granted: &[String],
    renewal: Renewal,
) -> Vec<&'w String> {
    let oauth2 = definition.and_then(|definition| definition.oauth2.as_ref()).filter(|_| renewal == Renewal::RefreshToken);
    let unlocked = oauth2.map(|oauth2| oauth2.scopes.offline.as_slice()).unwrap_or_default();
    wanted.iter().filter(|scope| !granted.contains(scope) && !unlocked.contains(scope)).collect()
}

/// What was chosen from a provider's lists, by list: pages, properties, accounts.
pub type Resources = BTreeMap<String, Vec<Chosen>>;

/// An entry of a provider's list that was chosen. Its token, if it brings one, is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Its id at the provider.
    pub id: String,
    /// What the provider calls it.
    pub label: String,
}

/// The member of an account under which the chosen entries stand, with their tokens.
pub const RESOURCES: &str = "resources";

/// What an account's chosen entries look like without their tokens.
pub fn resources_of(account: &SecretMap) -> Resources {
    let Some(lists) = account.expose().get(RESOURCES).and_then(Value::as_object) else { return Resources::new() };
    let entries = |list: &Value| -> Vec<Chosen> {
        let chosen = |entry: &Value| {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
            Some(Chosen { id: text("id")?, label: text("label").unwrap_or_default() })
        };
        list.as_array().into_iter().flatten().filter_map(chosen).collect()
    };
    lists.iter().map(|(name, list)| (name.clone(), entries(list))).filter(|(_, list)| !list.is_empty()).collect()
}

const DAY: Duration = Duration::from_secs(86_400);

/// Opens the account a connection seals.
pub async fn open_account(base: &Base, connection: &Connection, sealed: &[u8]) -> Result<SecretMap> {
    let owner = connection.owner.to_string();
    let bytes = base.ring.open(&base.db, &connection.place(&owner), sealed).await?;
    SecretMap::from_json(&bytes)
        .map_err(|_| Error::new(Code::Unsealable, "a sealed account cannot be read").with_detail("it is no JSON object"))
}

/// One connection that must be there and not be over.
pub async fn require(db: &Db, site: &SiteId, id: &ConnectionId) -> Result<Connection> {
    match get(db, site, id).await? {
        Some(connection) if !matches!(connection.status, Status::Revoked { .. }) => Ok(connection),
        _ => Err(Error::new(Code::NotFound, format!("there is no connection `{id}`"))),
    }
}
