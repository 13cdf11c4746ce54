//! Connections that die of age: their refresh token has a fixed life, or nothing renews their access token. Their owner is
//! warned before that, once.
//!
//! 1. What a refresh prolongs never comes near its end: the keeper renews it long before ([`due_at`](connection::due_at)). So
//!    whatever is that near will die unless somebody connects it again.
//! 2. Every replica looks. The note of the warning and its audit row are one commit, compared before it is set: of several at
//!    once one warns, and after a restart nobody does. The event is told after it; the audit is the record.
//! 3. A link to a provider works for minutes and a warning is read days later. So the warning leads a person to a page of their own
//!    that makes such a link when it is wanted (`/account/connections/{id}/reconnect`), and whoever keeps an account of the site or
//!    of an agent, for whom there is no page, to the command that does. A platform makes one by
//!    `POST /v1/connections/{id}/reconnect`.

use std::time::Duration;

use serde_json::json;

use super::{Refresher, store};
use crate::{
    audit::{AUDIT_LABEL, Event},
    clock::Timestamp,
    connection::{self, Connection, Renewal, Status, set_warned},
    error::Result,
    principal::Principal,
    provider::{Definition, Rotation},
};

/// How long before its end a connection is warned of, at most.
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// How many rows are read at a time.
const PAGE: i64 = 256;

/// How long before the end the owner is warned: a week, and no more than a quarter of the life; for what should have been
/// prolonged by then, so late that it is clear that it was not.
pub(super) fn window(definition: Option<&Definition>, connection: &Connection) -> Option<Duration> {
    let end = connection.age_end()?;
    let life = connection.issued_at.map(|issued| end.since(issued));
    let quarter = |life: Duration| WEEK.min(life / 4);
    let refresh = definition.map(|definition| &definition.refresh);
    Some(match connection.renewal {
        Renewal::Remint => return None,
        // Nothing renews it.
        Renewal::None => life.map_or(WEEK, quarter),
        // The keeper extends it `before` its end, or a third of its life.
        Renewal::Extend => {
            let before = refresh.map_or(WEEK, |refresh| refresh.before);
            WEEK.min(life.map_or(before, |life| before.min(life / 3)) / 2)
        }
        Renewal::RefreshToken => {
            let fixed = refresh.is_some_and(|refresh| refresh.rotation == Rotation::Never && !refresh.refresh_ttl_sliding);
            // What every refresh begins anew is renewed after two thirds of its life, so that it is never so near its end.
            match (fixed, refresh.and_then(|refresh| refresh.refresh_ttl)) {
                (true, Some(ttl)) => quarter(ttl),
                (true, None) => quarter(end.since(connection.connected_at)),
                (false, _) => life.map_or(Duration::ZERO, quarter),
            }
        }
    })
}

/// Warns of every connection that is near its end and was not warned of. Says of how many.
pub(super) async fn sweep(refresher: &Refresher) -> Result<usize> {
    let now = refresher.now();
    let mut after = (String::new(), String::new());
    let mut warned = 0;
    loop {
        let page = store::near_their_end(refresher.db(), now, now.plus(WEEK), (&after.0, &after.1), PAGE).await?;
        let Some(last) = page.last() else { return Ok(warned) };
        after = (last.site.clone(), last.id.clone());
        let is_last = i64::try_from(page.len()).unwrap_or(PAGE) < PAGE;
        for row in page {
            match warn(refresher, &row, now).await {
                Ok(true) => warned += 1,
                Ok(false) => {}
                // The next one is not to wait for it.
                Err(error) => {
                    tracing::warn!(connection.id = %row.id, error = ?error, "somebody could not be warned of a connection's end");
                }
            }
        }
        if is_last {
            return Ok(warned);
        }
    }
}

async fn warn(refresher: &Refresher, row: &store::Near, now: Timestamp) -> Result<bool> {
    let outside = &refresher.0.outside;
    let base = &outside.base;
    let (site, id) = (row.site.parse()?, row.id.parse()?);
    let Some(connection) = connection::get(&base.db, &site, &id).await? else { return Ok(false) };
    let definition = outside.catalogue.get(&connection.provider);
    let (Some(end), Some(window)) = (connection.age_end(), window(definition.map(AsRef::as_ref), &connection)) else {
        return Ok(false);
    };
    let near = end > now && end.minus(window) <= now;
    if connection.status != Status::Active || !near {
        return Ok(false);
    }
    base.ring.derived(&base.db, &site, AUDIT_LABEL).await?;
    let mut tx = base.db.begin().await?;
    if !set_warned(&mut tx, &connection, end, window).await? {
        return Ok(false);
    }
    let (path, words) = (format!("/account/connections/{id}/reconnect"), format!("connection reconnect {id}"));
    let (page, command) = outside.page_or_command(connection.owner.user(), &path, &words, &site);
    let facts = json!({
        "provider": connection.provider, "owner": connection.owner, "name": connection.name, "ends_at": end.to_string(),
        "reconnect": page, "command": command,
    });
    base.audit.record(&mut tx, Event::by(&Principal::system(site), "connection.ageing").connection(&id).facts(facts)).await?;
    tx.commit().await?;
    outside.extensions.tell(|sink| sink.connection_ageing(&connection.slot(), &id, end));
    metrics::counter!("valetkey_connections_ageing_total").increment(1);
    tracing::warn!(
        connection.id = %id, provider = %connection.provider, owner = %connection.owner, ends_at = %end,
        "the account will end of age; it must be connected again before"
    );
    Ok(true)
}
