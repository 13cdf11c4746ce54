//! The keeper: renews ahead of time what is due, and keeps idle refresh tokens alive.
//!
//! Every replica runs one. The lease makes that safe, and each begins at another moment and takes rows in another order,
//! so that they seldom meet. A sweep passes each due row once, whatever comes of it: a row that cannot be renewed now
//! does not stand in the way of the next.

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{
    Refresher,
    breaker::fraction,
    store::{self, Due},
    tasks::{self, Job, Key, Purpose},
};
use crate::{error::Result, principal::Actor};

/// How many rows are read at a time.
const PAGE: i64 = 64;

pub(super) async fn keep(refresher: &Refresher, stop: &CancellationToken) {
    let interval = refresher.0.settings.keeper_interval;
    let mut pause = fraction(interval);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            swept = sweep(refresher) => if let Err(error) = swept {
                tracing::warn!(error = ?error, "the keeper could not look for tokens that are due; it tries again");
            },
        }
        pause = interval / 2 + fraction(interval);
    }
}

/// Passes every due row once.
async fn sweep(refresher: &Refresher) -> Result<()> {
    refresher.forget_old_sightings();
    let now = refresher.now();
    let mut after = Due::start();
    // Providers that are left alone just now.
    let mut skipped: HashSet<(String, String)> = HashSet::new();
    loop {
        let page = store::due(refresher.db(), now, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.clone();
        let is_last = i64::try_from(page.len()).unwrap_or(PAGE) < PAGE;
        let mut rows: Vec<Due> =
            page.into_iter().filter(|row| !skipped.contains(&(row.site.clone(), row.provider.clone()))).collect();
        // Replicas that begin at the other end meet in the middle instead of all along.
        if fraction(Duration::from_secs(2)) > Duration::from_secs(1) {
            rows.reverse();
        }
        let at_once = refresher.0.settings.keeper_at_once.max(1);
        let mut outcomes = stream::iter(rows.into_iter().map(|row| renew(refresher, row))).buffer_unordered(at_once);
        while let Some(row) = outcomes.next().await {
            skipped.extend(row.map(|row| (row.site, row.provider)));
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Renews one; gives it back where its provider cannot be asked at present.
async fn renew(refresher: &Refresher, row: Due) -> Option<Due> {
    let (site, id) = match row.ids() {
        Ok(ids) => ids,
        Err(error) => {
            tracing::error!(connection.id = %row.id, error = ?error, "a row cannot be read");
            return None;
        }
    };
    let job = Job { purpose: Purpose::Due, actor: Actor::System };
    let (running, _) = refresher.join_or_start(&Key { site, id }, &job);
    match tasks::outcome(running).await {
        Err(trouble) if trouble.concerns_all => Some(row),
        // Each tells of its own trouble.
        _ => None,
    }
}
