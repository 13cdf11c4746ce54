//! The hosts that proxied calls may take a connection's credential to: fixed when it was connected. A definition that names
//! others later applies to it only after the operator accepted them (decisions 4).
//!
//! This is about proxied calls alone. Refreshes and upstream revocations go where the definition says now, with the client's
//! secret and the account's tokens: whoever may change a definition file is trusted with the accounts of that provider.

use serde::Serialize;
use serde_json::json;

use super::{Connection, accounts, open_account, store, write};
use crate::{
    audit::Event,
    base::Outside,
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    principal::Actor,
};

/// A connection's hosts, and those its definition names by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hosts {
    /// Where its credential may go.
    pub accepted: Vec<String>,
    /// Where the definition would have it go.
    pub defined: Vec<String>,
}

impl Hosts {
    /// The hosts that wait for the operator.
    pub fn waiting(&self) -> impl Iterator<Item = &String> {
        self.defined.iter().filter(|host| !self.accepted.contains(host))
    }
}

/// How often a connection that changes under our hands is looked at again.
const TRIES: usize = 16;

/// A connection's hosts, and those its definition names. Opens the account, which may decide some.
///
/// # Errors
/// `not_found`; `unsealable` where the account cannot be opened.
pub async fn look(outside: &Outside, site: &SiteId, id: &ConnectionId) -> Result<Hosts> {
    Ok(read(outside, site, id).await?.1)
}

/// The operator accepts that a connection's credential goes to these hosts and no others, each of which its definition must
/// name. Doing it again changes nothing.
///
/// # Errors
/// `not_found`; `host_refused` for a host that the definition does not name; `conflict` where the account changes faster than
/// it can be written.
pub async fn accept(outside: &Outside, site: &SiteId, actor: &Actor, id: &ConnectionId, hosts: &[String]) -> Result<Connection> {
    let base = &outside.base;
    for _ in 0..TRIES {
        let (connection, known) = read(outside, site, id).await?;
        if let Some(other) = hosts.iter().find(|host| !known.defined.contains(host)) {
            return Err(Error::new(
                Code::HostRefused,
                format!("the definition does not name {other} for this account; it names {}", known.defined.join(", ")),
            ));
        }
        // In the definition's order: the first one stands for the rest where only one can be shown.
        let hosts: Vec<String> = known.defined.iter().filter(|host| hosts.contains(host)).cloned().collect();
        if hosts == known.accepted {
            return Ok(connection);
        }
        let mut tx = base.db.begin().await?;
        if !write::set_hosts(&mut tx, &connection, &hosts, base.clock.now()).await? {
            continue;
        }
        let facts = json!({ "provider": connection.provider, "before": known.accepted, "hosts": hosts });
        base.audit.record(&mut tx, Event::new(site, actor, "connection.accept_hosts").connection(id).facts(facts)).await?;
        tx.commit().await?;
        return super::require(&base.db, site, id).await;
    }
    Err(Error::new(Code::Conflict, "the connection changes all the time; try again"))
}

async fn read(outside: &Outside, site: &SiteId, id: &ConnectionId) -> Result<(Connection, Hosts)> {
    let missing = || Error::new(Code::NotFound, format!("there is no connection `{id}`"));
    let stored = store::load(&outside.base.db, site, id).await?.ok_or_else(missing)?;
    let sealed = stored.sealed.as_deref().ok_or_else(missing)?;
    let definition = outside.definition(&stored.connection.provider)?;
    let account = open_account(&outside.base, &stored.connection, sealed).await?;
    let defined = accounts::hosts(outside, &definition, &account)?;
    let hosts = Hosts { accepted: stored.connection.hosts.clone(), defined };
    Ok((stored.connection, hosts))
}
