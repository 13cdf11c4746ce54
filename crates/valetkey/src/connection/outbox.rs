//! What an ended connection still owes its provider: an upstream revocation, kept sealed until it is done.
//!
//! The row is written in the transaction that ends the connection, by whoever ends it. `revoke` works it off. It is
//! here, below both, because a refresh that comes back to a revoked connection owes one too.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Connection, accounts, calls};
use crate::{
    base::Base,
    clock::Timestamp,
    db::Tx,
    error::Result,
    id::{AppConfigId, ConnectionId, RevocationId},
    on,
    provider::{Auth, Definition, FieldLevel, Kills, Role, step::Step},
    seal::Place,
    secret::SecretMap,
};

/// What shall be revoked at the provider too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamWish {
    /// Yes, unless other live connections of the same account would die with it.
    #[default]
    IfPossible,
    /// Yes, whatever dies with it.
    Force,
    /// No.
    Skip,
}

/// What becomes of the tokens at the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "upstream", content = "why")]
pub enum Owed {
    /// They will be revoked there; the outbox shows how it goes.
    Pending,
    /// The provider has no way to revoke them, or none that is built.
    Unsupported,
    /// They are left as they are, for this reason.
    Skipped(String),
}

/// Whether a step of a revocation can be sent by this build.
pub fn can_revoke_with(step: &Step) -> bool {
    !matches!(step.auth, Auth::Jwt)
}

/// Notes what an ended connection owes its provider, in the transaction that ends it.
///
/// `account` is what it had sealed; absent where that cannot be opened. The provider's data key must be there already
/// (`KeyRing::ensure`). Tokens are kept only where they will be revoked.
pub async fn owe_revocation(
    base: &Base,
    tx: &mut Tx,
    definition: Option<&Definition>,
    connection: &Connection,
    account: Option<&SecretMap>,
    wish: UpstreamWish,
    reason: &str,
) -> Result<Owed> {
    let owed = match (definition.and_then(|definition| definition.revoke.as_ref()), account) {
        _ if wish == UpstreamWish::Skip => Owed::Skipped("nobody asked for it".to_owned()),
        (None, _) => Owed::Unsupported,
        (Some(revoke), _) if !revoke.steps.iter().any(can_revoke_with) => Owed::Unsupported,
        (Some(_), None) => Owed::Skipped("the sealed account cannot be opened".to_owned()),
        (Some(revoke), Some(_)) if revoke.kills == Kills::Grant && wish != UpstreamWish::Force => {
            match others_of_the_account(tx, connection).await? {
                0 => Owed::Pending,
                others => Owed::Skipped(format!(
                    "{others} other connection{} of the same account would stop working; force it to revoke them all there",
                    if others == 1 { "" } else { "s" }
                )),
            }
        }
        (Some(_), Some(_)) => Owed::Pending,
    };
    let id = RevocationId::new();
    let sealed = match (&owed, account) {
        (Owed::Pending, Some(account)) => {
            let account = definition.map_or_else(SecretMap::default, |definition| needed(definition, account));
            let owner = connection.owner.to_string();
            let place = Place::revocation(&connection.site, &connection.provider, &owner, &connection.name, &id);
            Some(base.ring.seal_now(&place, &account.to_json())?)
        }
        _ => None,
    };
    let (status, error) = match &owed {
        Owed::Pending => ("pending", None),
        Owed::Unsupported => ("unsupported", None),
        Owed::Skipped(why) => ("skipped", Some(why.as_str())),
    };
    let call_hosts = match calls::fixed_in(tx, &connection.site, &connection.id).await? {
        Some(hosts) => Some(hosts),
        // Never stored, or nothing fixed: what was issued a moment ago goes where it came from.
        None => definition.zip(account).and_then(|(definition, account)| definition.call_hosts(&accounts::vars(account))),
    };
    insert(tx, &id, connection, sealed, call_hosts, status, reason, error, base.clock.now()).await?;
    Ok(owed)
}

/// What of an account its revocation still needs: the members that the calls are made of, what decides their host, and the client
/// where the account itself holds one. An assertion may be made of any field.
fn needed(definition: &Definition, account: &SecretMap) -> SecretMap {
    let steps: Vec<&Step> = definition.revoke.iter().flat_map(|revoke| &revoke.steps).collect();
    let mut names: BTreeSet<String> = steps.iter().flat_map(|step| step.members()).collect();
    names.extend(definition.fields_deciding_hosts(FieldLevel::Connection).map(|field| field.name.clone()));
    let signs = steps.iter().any(|step| step.auth == Auth::Jwt);
    let of_client = |role: Option<Role>| matches!(role, Some(Role::ClientId | Role::ClientSecret));
    let fields = definition.fields_of(FieldLevel::Connection);
    names.extend(fields.filter(|field| signs || of_client(field.role)).map(|field| field.name.clone()));
    let members = account.expose().iter().filter(|(name, _)| names.contains(*name));
    let mut kept = SecretMap::new(members.map(|(name, value)| (name.clone(), value.clone())).collect());
    // Where it does not die with the connection's own, a slot's token has to be revoked as well.
    let kills_all = definition.revoke.as_ref().is_some_and(|revoke| revoke.kills == Kills::Grant);
    let slots = account.expose().get("slots").and_then(Value::as_object).filter(|_| !kills_all);
    let slots: Map<String, Value> =
        slots.into_iter().flatten().map(|(slot, token)| (slot.clone(), tokens(token, &names))).collect();
    if !slots.is_empty() {
        kept.expose_mut().insert("slots".to_owned(), Value::Object(slots));
    }
    kept
}

/// The tokens of a slot that are among these names.
fn tokens(slot: &Value, names: &BTreeSet<String>) -> Value {
    let named = ["access_token", "refresh_token"].into_iter().filter(|name| names.contains(*name));
    Value::Object(named.filter_map(|name| Some((name.to_owned(), slot.get(name)?.clone()))).collect())
}

/// What was decided about a connection's tokens when it ended; absent while nothing was.
pub async fn last_revocation_status(tx: &mut Tx, connection: &Connection) -> Result<Option<String>> {
    let row: Option<(String,)> = on!(tx, |c| sqlx::query_as(
        "SELECT status FROM revocations WHERE site = $1 AND connection = $2 ORDER BY created_at DESC, id DESC LIMIT 1"
    )
    .bind(connection.site.as_str())
    .bind(connection.id.as_str())
    .fetch_optional(c)
    .await?);
    Ok(row.map(|(status,)| status))
}

/// How many other live connections may be of the same upstream account and client. One whose subject is unknown may be.
async fn others_of_the_account(tx: &mut Tx, connection: &Connection) -> Result<i64> {
    let (count,): (i64,) = on!(tx, |c| sqlx::query_as(
        "SELECT COUNT(*) FROM connections
         WHERE site = $1 AND provider = $2 AND id <> $3 AND status <> 'revoked' AND COALESCE(client_id, '') = $4
           AND ($5 = '' OR subject IS NULL OR subject = $5)"
    )
    .bind(connection.site.as_str())
    .bind(connection.provider.as_str())
    .bind(connection.id.as_str())
    .bind(connection.client_id.as_deref().unwrap_or_default())
    .bind(connection.subject.as_deref().unwrap_or_default())
    .fetch_one(c)
    .await?);
    Ok(count)
}

#[expect(clippy::too_many_arguments, reason = "one statement, one row; a struct for one call would only repeat the names")]
async fn insert(
    tx: &mut Tx,
    id: &RevocationId,
    connection: &Connection,
    sealed: Option<Vec<u8>>,
    call_hosts: Option<Vec<String>>,
    status: &str,
    reason: &str,
    error: Option<&str>,
    now: Timestamp,
) -> Result<()> {
    let pending = status == "pending";
    let connection_id: &ConnectionId = &connection.id;
    on!(tx, |c| sqlx::query(
        "INSERT INTO revocations (site, id, provider, owner, name, connection, app_config_id, sealed, status, reason, attempts,
            next_at, last_error, created_at, done_at, call_hosts)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11, $12, $13, $14, $15)"
    )
    .bind(connection.site.as_str())
    .bind(id.as_str())
    .bind(connection.provider.as_str())
    .bind(connection.owner.to_string())
    .bind(connection.name.as_stored())
    .bind(connection_id.as_str())
    .bind(connection.app_config.as_ref().map(AppConfigId::as_str))
    .bind(sealed)
    .bind(status)
    .bind(reason)
    .bind(pending.then_some(now.0))
    .bind(error)
    .bind(now.0)
    .bind((!pending).then_some(now.0))
    .bind(call_hosts.map(|hosts| serde_json::json!(hosts).to_string()))
    .execute(c)
    .await
    .map(|_| ())?);
    Ok(())
}
