//! The hosts that a connection's secrets may go to: fixed when it was connected, for proxied calls (`hosts`) and for our own
//! ([`calls`]: renewals, revocations at the provider, its lists). A definition that names others later applies to it only after
//! the operator accepted them (decisions 4).

use serde::Serialize;
use serde_json::json;

use super::{Connection, accounts, calls, open_account, store, write};
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
    /// Where proxied calls may take its credential.
    pub accepted: Vec<String>,
    /// Where the definition would have them take it.
    pub defined: Vec<String>,
    /// Where our own calls may take its secrets; absent while nothing is fixed.
    pub calls_accepted: Option<Vec<String>>,
    /// Where the definition would have them take them; absent where that cannot be told.
    pub calls_defined: Option<Vec<String>>,
}

impl Hosts {
    /// The hosts of proxied calls that wait for the operator.
    pub fn waiting(&self) -> impl Iterator<Item = &String> {
        self.defined.iter().filter(|host| !self.accepted.contains(host))
    }

    /// The hosts of our own calls that wait for the operator; none while nothing is fixed.
    pub fn calls_waiting(&self) -> impl Iterator<Item = &String> {
        let accepted = self.calls_accepted.as_ref();
        let is_new = move |host: &&String| accepted.is_some_and(|accepted| !accepted.contains(host));
        self.calls_defined.iter().flatten().filter(is_new)
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

/// The operator accepts that proxied calls take a connection's credential to these hosts and no others, each of which its
/// definition must name; and, where `own` is given, the same for our own calls. Doing it again changes nothing.
///
/// # Errors
/// `not_found`; `host_refused` for a host that the definition does not name; `conflict` where the account changes faster than
/// it can be written.
pub async fn accept(
    outside: &Outside,
    site: &SiteId,
    actor: &Actor,
    id: &ConnectionId,
    hosts: &[String],
    own: Option<&[String]>,
) -> Result<Connection> {
    let base = &outside.base;
    for _ in 0..TRIES {
        let (connection, known) = read(outside, site, id).await?;
        let named = known.calls_defined.as_deref().unwrap_or_default();
        for (given, defined) in [(hosts, known.defined.as_slice()), (own.unwrap_or_default(), named)] {
            if let Some(other) = given.iter().find(|host| !defined.contains(host)) {
                return Err(Error::new(
                    Code::HostRefused,
                    format!("the definition does not name {other} for this account; it names {}", defined.join(", ")),
                ));
            }
        }
        // In the definition's order: the first one stands for the rest where only one can be shown.
        let hosts: Vec<String> = known.defined.iter().filter(|host| hosts.contains(host)).cloned().collect();
        let own: Option<Vec<String>> = own.map(|own| named.iter().filter(|host| own.contains(host)).cloned().collect());
        if hosts == known.accepted && (own.is_none() || own == known.calls_accepted) {
            return Ok(connection);
        }
        let mut tx = base.db.begin().await?;
        if !write::set_hosts(&mut tx, &connection, &hosts, own.as_deref(), base.clock.now()).await? {
            continue;
        }
        let facts = json!({
            "provider": connection.provider, "before": known.accepted, "hosts": hosts, "calls_before": known.calls_accepted,
            "calls": own,
        });
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
    let hosts = Hosts {
        accepted: stored.connection.hosts.clone(),
        defined,
        calls_accepted: calls::fixed(&outside.base.db, site, id).await?,
        calls_defined: calls::defined(outside, &stored.connection, &definition, &account).await?,
    };
    Ok((stored.connection, hosts))
}
