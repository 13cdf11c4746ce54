//! Writing connections: each write is one row, compared before it is set.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Connection, Identity, Renewal, Stored, open_account, resources_of, stored_slot};
use crate::{
    base::Base,
    clock::Timestamp,
    db::{Tx, is_unique_violation},
    error::{Code, Error, Result},
    id::{AccountName, AppConfigId, ConnectionId, ProviderName, SiteId},
    on,
    principal::{Actor, Owner},
    seal::Place,
    secret::SecretMap,
};

/// The plain facts about an account's tokens, kept beside the sealed account.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// How the access token is renewed.
    pub renewal: Renewal,
    /// When the access token was issued.
    pub issued_at: Option<Timestamp>,
    /// When it ends; absent while unknown.
    pub expires_at: Option<Timestamp>,
    /// The life in seconds the provider gave it.
    pub usual_life: Option<i64>,
    /// When the refresh token ends.
    pub refresh_expires_at: Option<Timestamp>,
    /// When the keeper should look at it.
    pub refresh_at: Option<Timestamp>,
    /// The scopes granted.
    pub scopes: Option<Vec<String>>,
}

/// What a connection is made of.
#[derive(Clone, Debug)]
pub struct NewConnection {
    /// The site.
    pub site: SiteId,
    /// The provider.
    pub provider: ProviderName,
    /// Whose it is.
    pub owner: Owner,
    /// Which of the owner's accounts.
    pub name: AccountName,
    /// What is sealed.
    pub account: SecretMap,
    /// The facts about its tokens.
    pub tokens: Tokens,
    /// The app configuration whose client minted them.
    pub app_config: Option<AppConfigId>,
    /// That client's id.
    pub client_id: Option<String>,
    /// The upstream subject.
    pub subject: Option<String>,
    /// What upstream calls the subject.
    pub subject_name: Option<String>,
    /// How sure we are of it.
    pub identity: Identity,
    /// The scopes asked for.
    pub wanted_scopes: Vec<String>,
    /// The hosts that proxied calls may take the credential to from now on.
    pub hosts: Vec<String>,
    /// The hosts that our own calls take its secrets to from now on; absent where that cannot be told yet ([`super::calls`]).
    pub call_hosts: Option<Vec<String>>,
}

impl NewConnection {
    fn call_hosts(&self) -> Option<String> {
        self.call_hosts.as_ref().map(|hosts| json!(hosts).to_string())
    }
}

/// What became of a finished connect flow.
#[derive(Clone, Debug)]
pub enum Connected {
    /// A connection that was not there before.
    New(ConnectionId),
    /// The same upstream subject in the same slot: the id stays, and so do its grants.
    Again(ConnectionId),
    /// Another subject took the slot, because somebody said so: a new id without the old grants.
    Replaced {
        /// The one that is over.
        old: ConnectionId,
        /// The one that is there now.
        new: ConnectionId,
    },
}

impl Connected {
    /// The connection that is there now.
    pub fn id(&self) -> &ConnectionId {
        match self {
            Connected::New(id) | Connected::Again(id) | Connected::Replaced { new: id, .. } => id,
        }
    }
}

/// Inserts a connection. The provider's data key must be there already (`KeyRing::ensure`).
pub async fn insert(base: &Base, tx: &mut Tx, actor: &Actor, new: &NewConnection) -> Result<ConnectionId> {
    let id = ConnectionId::new();
    let owner = new.owner.to_string();
    let place = Place::connection(&new.site, &new.provider, &owner, &new.name, &id);
    let sealed = base.ring.seal_now(&place, &new.account.to_json())?;
    let now = base.clock.now();
    let inserted = on!(&mut *tx, |c| {
        sqlx::query(
        "INSERT INTO connections (site, id, provider, owner, name, status, sealed, version, revision, app_config_id, client_id,
            subject, subject_name, identity, scopes, wanted_scopes, hosts, renewal, access_expires_at, access_issued_at, usual_life,
            refresh_expires_at, refresh_at, connected_at, updated_at, created_by, lease_number, failures, resources, call_hosts)
         VALUES ($1, $2, $3, $4, $5, 'active', $6, 1, 1, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21,
            $21, $22, 0, 0, $23, $24)"
    )
    .bind(new.site.as_str())
    .bind(id.as_str())
    .bind(new.provider.as_str())
    .bind(&owner)
    .bind(new.name.as_stored())
    .bind(&sealed)
    .bind(new.app_config.as_ref().map(AppConfigId::as_str))
    .bind(&new.client_id)
    .bind(&new.subject)
    .bind(&new.subject_name)
    .bind(new.identity.as_str())
    .bind(new.tokens.scopes.as_ref().map(|s| json!(s).to_string()))
    .bind(json!(new.wanted_scopes).to_string())
    .bind(json!(new.hosts).to_string())
    .bind(new.tokens.renewal.as_str())
    .bind(new.tokens.expires_at.map(|t| t.0))
    .bind(new.tokens.issued_at.map(|t| t.0))
    .bind(new.tokens.usual_life)
    .bind(new.tokens.refresh_expires_at.map(|t| t.0))
    .bind(new.tokens.refresh_at.map(|t| t.0))
    .bind(now.0)
    .bind(actor.to_string())
    .bind(shown(&new.account))
    .bind(new.call_hosts())
    .execute(c)
    .await
    .map(|_| ())
    });
    match inserted {
        Err(e) if is_unique_violation(&e) => Err(Error::new(Code::Conflict, "that account was connected meanwhile; look again")),
        Err(e) => Err(e.into()),
        Ok(()) => Ok(id),
    }
}

/// Replaces what a connection seals and the facts about it; its tokens are new, so its version moves.
///
/// Compared on the revision that was read: false means that somebody else was faster, and nothing was written.
pub async fn replace_account(base: &Base, tx: &mut Tx, old: &Connection, new: &NewConnection) -> Result<bool> {
    let owner = old.owner.to_string();
    let sealed = base.ring.seal_now(&old.place(&owner), &new.account.to_json())?;
    let changed = on!(&mut *tx, |c| {
        sqlx::query(
        "UPDATE connections SET status = 'active', status_reason = NULL, sealed = $4, version = version + 1, revision = revision + 1,
            app_config_id = $5, client_id = $6, subject = $7, subject_name = $8, identity = $9, scopes = $10, wanted_scopes = $11,
            hosts = $12, renewal = $13, access_expires_at = $14, access_issued_at = $15, usual_life = $16, refresh_expires_at = $17,
            refresh_at = $18, updated_at = $19, failures = 0, retry_at = NULL, last_error = NULL, resources = $20,
            warned_end = NULL, call_hosts = COALESCE(call_hosts, $21)
         WHERE site = $1 AND id = $2 AND revision = $3 AND status <> 'revoked'"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.revision)
    .bind(&sealed)
    .bind(new.app_config.as_ref().map(AppConfigId::as_str))
    .bind(&new.client_id)
    .bind(&new.subject)
    .bind(&new.subject_name)
    .bind(new.identity.as_str())
    .bind(new.tokens.scopes.as_ref().map(|s| json!(s).to_string()))
    .bind(json!(new.wanted_scopes).to_string())
    .bind(json!(new.hosts).to_string())
    .bind(new.tokens.renewal.as_str())
    .bind(new.tokens.expires_at.map(|t| t.0))
    .bind(new.tokens.issued_at.map(|t| t.0))
    .bind(new.tokens.usual_life)
    .bind(new.tokens.refresh_expires_at.map(|t| t.0))
    .bind(new.tokens.refresh_at.map(|t| t.0))
    .bind(base.clock.now().0)
    .bind(shown(&new.account))
    .bind(new.call_hosts())
    .execute(c)
    .await?
    .rows_affected()
    });
    Ok(changed == 1)
}

/// What may be shown of an account's chosen entries; nothing where there is none.
fn shown(account: &SecretMap) -> Option<String> {
    let chosen = resources_of(account);
    (!chosen.is_empty()).then(|| json!(chosen).to_string())
}

/// Writes the entries that were chosen, with their tokens, over the revision that was read. The version stays: what a refresh
/// spends is another token.
///
/// False means that somebody else was faster, and nothing was written.
pub async fn set_resources(base: &Base, tx: &mut Tx, old: &Connection, account: &SecretMap) -> Result<bool> {
    patch_account(base, tx, old, account).await
}

/// Notes that the owner is warned of this end of life. False where that was done before, or the connection is not active any
/// more. `window` is how long before the end a warning comes: an end that lies no further behind the one that was warned of
/// is the same, told anew.
pub async fn set_warned(tx: &mut Tx, old: &Connection, end: Timestamp, window: Duration) -> Result<bool> {
    let changed = on!(&mut *tx, |c| sqlx::query(
        "UPDATE connections SET warned_end = $4
         WHERE site = $1 AND id = $2 AND version = $3 AND status = 'active' AND (warned_end IS NULL OR warned_end < $5)"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.version)
    .bind(end.0)
    .bind(end.minus(window).0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Replaces what a connection seals where its tokens stay the same: its version does not move.
///
/// Compared on the revision that was read: false means that somebody else was faster, and nothing was written.
pub(super) async fn patch_account(base: &Base, tx: &mut Tx, old: &Connection, account: &SecretMap) -> Result<bool> {
    let owner = old.owner.to_string();
    let sealed = base.ring.seal_now(&old.place(&owner), &account.to_json())?;
    let changed = on!(&mut *tx, |c| sqlx::query(
        "UPDATE connections SET sealed = $4, revision = revision + 1, updated_at = $5, resources = $6
         WHERE site = $1 AND id = $2 AND revision = $3 AND status <> 'revoked'"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.revision)
    .bind(&sealed)
    .bind(base.clock.now().0)
    .bind(shown(account))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Keeps everybody else from changing a connection until this transaction ends; false when somebody did since it was read.
pub(super) async fn lock_revision(tx: &mut Tx, old: &Connection) -> Result<bool> {
    let locked = on!(&mut *tx, |c| sqlx::query(
        "UPDATE connections SET revision = revision WHERE site = $1 AND id = $2 AND revision = $3 AND status <> 'revoked'"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.revision)
    .execute(c)
    .await?
    .rows_affected());
    Ok(locked == 1)
}

/// Notes the hosts that the operator accepted, for proxied calls and for our own; absent ones stay. A renewal that was refused
/// before may be tried at once. False when the account changed since.
pub(super) async fn set_hosts(
    tx: &mut Tx,
    old: &Connection,
    hosts: &[String],
    calls: Option<&[String]>,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(&mut *tx, |c| sqlx::query(
        "UPDATE connections SET hosts = $4, updated_at = $5, call_hosts = COALESCE($6, call_hosts),
            retry_at = CASE WHEN last_error = 'host_refused' THEN NULL ELSE retry_at END
         WHERE site = $1 AND id = $2 AND revision = $3 AND status <> 'revoked'"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.revision)
    .bind(json!(hosts).to_string())
    .bind(now.0)
    .bind(calls.map(|hosts| json!(hosts).to_string()))
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Notes that the owner vouches for the account behind these tokens; false when the tokens changed since.
pub(super) async fn confirm_identity(tx: &mut Tx, old: &Connection, now: Timestamp) -> Result<bool> {
    let changed = on!(&mut *tx, |c| sqlx::query(
        "UPDATE connections SET identity = $4, updated_at = $5
         WHERE site = $1 AND id = $2 AND version = $3 AND status <> 'revoked'"
    )
    .bind(old.site.as_str())
    .bind(old.id.as_str())
    .bind(old.version)
    .bind(Identity::Owner.as_str())
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    Ok(changed == 1)
}

/// Stores the outcome of a connect flow in its slot (decisions 4).
///
/// The same upstream subject keeps the id; another one is refused unless `new_subject` says that the owner meant
/// it, and then gets a new id. The old one is returned for its upstream revocation. Where the subject was unknown, what the
/// account says of itself is compared.
pub async fn upsert_connected(
    base: &Base,
    tx: &mut Tx,
    actor: &Actor,
    new: &NewConnection,
    new_subject: bool,
) -> Result<(Connected, Option<Stored>)> {
    let Some(old) = stored_slot(&mut *tx, &new.site, &new.provider, &new.owner, &new.name).await? else {
        return Ok((Connected::New(insert(base, tx, actor, new).await?), None));
    };
    let same = match (&old.connection.subject, &new.subject) {
        (Some(before), Some(subject)) => before == subject,
        (Some(_), None) => false,
        // Nobody can say who it is: then both are the owner's word.
        (None, None) => true,
        // Tokens came from outside, and nobody has asked whose they are: what the account says of itself is all there is. Where
        // it says nothing, the owner's own connecting is the owner's word (decisions 4).
        (None, Some(subject)) => match &old.sealed {
            Some(sealed) => match open_account(base, &old.connection, sealed).await {
                Ok(account) => says_the_same(&account, &new.account, subject),
                Err(error) if error.code() == Code::Unsealable => false,
                Err(error) => return Err(error),
            },
            None => false,
        },
    };
    if same {
        // A definition that names more hosts by now applies only after the operator accepted it (decisions 4).
        let new = NewConnection { hosts: old.connection.hosts.clone(), ..new.clone() };
        if !replace_account(base, tx, &old.connection, &new).await? {
            return Err(Error::new(Code::Conflict, "that account changed meanwhile; connect again"));
        }
        return Ok((Connected::Again(old.connection.id.clone()), None));
    }
    if !new_subject {
        let name = |n: &Option<String>| n.clone().unwrap_or_else(|| "another account".to_owned());
        return Err(Error::new(
            Code::SubjectMismatch,
            format!(
                "this is {}, but {} is connected here; sign in as that one, or connect again and say that another account may take its place",
                name(&new.subject_name),
                name(&old.connection.subject_name),
            ),
        ));
    }
    erase(&mut *tx, &old.connection.site, &old.connection.id, actor, "another account took its place", base.clock.now()).await?;
    let id = insert(base, tx, actor, new).await?;
    Ok((Connected::Replaced { old: old.connection.id.clone(), new: id }, Some(old)))
}

/// Whether nothing that an account says of itself contradicts the one that was connected now. The surest members in which both
/// say something decide: names change, and ids do not.
fn says_the_same(before: &SecretMap, now: &SecretMap, subject: &str) -> bool {
    let said = |account: &SecretMap, names: &[&str]| -> Vec<String> {
        let values = names.iter().filter_map(|name| account.expose().get(*name));
        let texts = values.filter_map(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        texts.filter(|text| !text.is_empty() && text != "0").collect()
    };
    for (place, names) in SELF.iter().enumerate() {
        let (before, mut now) = (said(before, names), said(now, names));
        if place == 0 {
            now.push(subject.to_owned());
        }
        if !before.is_empty() && !now.is_empty() {
            return before.iter().any(|text| now.contains(text));
        }
    }
    true
}

/// By which members an account says whose it is, the surest first. Beside those that an identity step stores stand those that
/// Data Machine stored (mission document 004).
const SELF: [&[&str]; 3] = [&["id", "user_id", "person_id"], &["username", "screen_name"], &["email"]];

/// Ends a connection: its sealed account is erased with the same statement. False when it was over already.
pub async fn erase(tx: &mut Tx, site: &SiteId, id: &ConnectionId, actor: &Actor, reason: &str, now: Timestamp) -> Result<bool> {
    let changed = on!(tx, |c| {
        sqlx::query(
        "UPDATE connections SET status = 'revoked', sealed = NULL, refresh_at = NULL, revision = revision + 1, revoked_at = $3,
            revoked_by = $4, revoke_reason = $5, updated_at = $3
         WHERE site = $1 AND id = $2 AND status <> 'revoked'"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(now.0)
    .bind(actor.to_string())
    .bind(reason)
    .execute(c)
    .await?
    .rows_affected()
    });
    Ok(changed == 1)
}

/// Forgets what is known of whose the ended accounts of an owner were, for an owner who is no more.
pub async fn forget(tx: &mut Tx, site: &SiteId, owner: &Owner) -> Result<()> {
    on!(tx, |c| sqlx::query(
        "UPDATE connections SET subject = NULL, subject_name = NULL, resources = NULL, last_error = NULL
         WHERE site = $1 AND owner = $2 AND status = 'revoked'"
    )
    .bind(site.as_str())
    .bind(owner.to_string())
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}

/// Notes that the person must connect again, unless the tokens changed meanwhile. False when they did.
pub async fn set_needs_reauth(
    tx: &mut Tx,
    site: &SiteId,
    id: &ConnectionId,
    version: i64,
    reason: &str,
    now: Timestamp,
) -> Result<bool> {
    let changed = on!(tx, |c| {
        sqlx::query(
        "UPDATE connections SET status = 'needs_reauth', status_reason = $4, refresh_at = NULL, last_error = $4, updated_at = $5
         WHERE site = $1 AND id = $2 AND version = $3 AND status = 'active'"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(version)
    .bind(reason)
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected()
    });
    Ok(changed == 1)
}
