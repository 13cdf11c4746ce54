//! A link by which a connection's owner connects it again: for scopes that are missing, before it dies of age, or after its
//! provider took the tokens back.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::session::{self, Created, NewSession};
use crate::{
    base::Outside,
    connection::{self, Connection, Status, open_account},
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    principal::Actor,
    provider::{Definition, FieldLevel},
    secret::Secret,
};

/// What the new link is for, beside the connection.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The scopes that are needed; those that the connection asked for before when absent.
    pub scopes: Option<Vec<String>>,
    /// Where the browser goes afterwards: exactly one of the site's list.
    pub return_to: Option<String>,
    /// Carried along until the flow is over.
    pub payload: Option<Secret>,
    /// The person signs in on another device.
    pub device: bool,
}

/// Makes a link that connects the same account again. It asks for exactly those scopes that were granted before or are needed
/// now, so that nothing is lost and nothing slips in. Whether the caller may do that for the owner is checked before.
///
/// # Errors
/// As [`session::create`]; `not_found` for a connection that is over.
pub async fn create(outside: &Outside, site: &SiteId, actor: &Actor, id: &ConnectionId, wanted: Wanted) -> Result<Created> {
    let missing = || Error::new(Code::NotFound, format!("there is no connection `{id}`"));
    let stored = connection::load(&outside.base.db, site, id).await?.ok_or_else(missing)?;
    let connection = &stored.connection;
    let (false, Some(sealed)) = (matches!(connection.status, Status::Revoked { .. }), &stored.sealed) else {
        return Err(missing());
    };
    let definition = outside.definition(&connection.provider)?;
    let account = open_account(&outside.base, connection, sealed).await?;
    let new = NewSession {
        name: connection.name.clone(),
        scopes: Some(union(connection, wanted.scopes)),
        return_to: wanted.return_to,
        payload: wanted.payload,
        device: wanted.device,
        fields: fields(&definition, account.expose()),
        ..NewSession::new(connection.provider.clone(), connection.owner.clone())
    };
    session::create(outside, site, actor, new).await
}

/// What was granted, then what is needed beyond it.
fn union(connection: &Connection, needed: Option<Vec<String>>) -> Vec<String> {
    let needed = needed.unwrap_or_else(|| connection.wanted_scopes.clone());
    let mut seen = BTreeSet::new();
    let all = connection.scopes.iter().flatten().cloned().chain(needed);
    all.filter(|scope| seen.insert(scope.clone())).collect()
}

/// What was entered for the connection and is no secret: its server, say.
fn fields(definition: &Definition, account: &Map<String, Value>) -> Map<String, Value> {
    let plain = definition.fields_of(FieldLevel::Connection).filter(|field| !field.secret);
    plain.filter_map(|field| Some((field.name.clone(), account.get(&field.name)?.clone()))).collect()
}
