//! The keeper: renews ahead of time what is due, and keeps idle refresh tokens alive.
//!
//! Every replica runs one. The lease makes that safe, and each begins at another moment and takes rows in another order,
//! so that they seldom meet.
//!
//! 1. It looks again and again which providers have something due, and sweeps each of them on its own, beside the others: one
//!    that is slow, or has very much to renew, holds up nobody but itself. It is swept again once its sweep is over.
//! 2. Where each account may be at a server of its own, a sweep waits for each only a moment ([`super::Settings::keeper_patience`]):
//!    the renewal goes on, and those at other servers are not kept waiting for it. One server that is slow is waited for.
//! 3. A sweep passes each due row of its provider once, whatever comes of it: a row that cannot be renewed now does not stand
//!    in the way of the next.

use std::{collections::HashSet, time::Duration};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Refresher,
    breaker::fraction,
    store::{self, Due},
    tasks::{self, Job, Key, Purpose},
};
use crate::{
    error::{Error, Result},
    principal::Actor,
};

/// How many rows are read at a time.
const PAGE: i64 = 64;

pub(super) async fn keep(refresher: &Refresher, stop: &CancellationToken) {
    let interval = refresher.0.settings.keeper_interval;
    let mut look_at = Instant::now() + fraction(interval);
    let mut sweeps: FuturesUnordered<BoxFuture<'_, String>> = FuturesUnordered::new();
    let mut swept: HashSet<String> = HashSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(over) = sweeps.next() => {
                swept.remove(&over);
            }
            () = tokio::time::sleep_until(look_at) => {
                refresher.forget_old_sightings();
                match store::providers_due(refresher.db(), refresher.now()).await {
                    Ok(providers) => {
                        let new: Vec<String> = providers.into_iter().filter(|provider| swept.insert(provider.clone())).collect();
                        sweeps.extend(new.into_iter().map(|provider| sweep_of(refresher, provider).boxed()));
                    }
                    Err(error) => could_not_look(&error),
                }
                look_at = Instant::now() + interval / 2 + fraction(interval);
            }
        }
    }
}

/// Sweeps one provider, and gives back which.
async fn sweep_of(refresher: &Refresher, provider: String) -> String {
    if let Err(error) = sweep(refresher, &provider).await {
        could_not_look(&error);
    }
    provider
}

fn could_not_look(error: &Error) {
    tracing::warn!(error = ?error, "the keeper could not look for tokens that are due; it tries again");
}

/// Passes every due row of a provider once.
async fn sweep(refresher: &Refresher, provider: &str) -> Result<()> {
    let now = refresher.now();
    let mut after = Due::start();
    let patience = patience(refresher, provider);
    // Apps, by site, with which the provider cannot be asked just now.
    let mut skipped: HashSet<(String, Option<String>)> = HashSet::new();
    loop {
        let page = store::due(refresher.db(), provider, now, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.clone();
        let is_last = i64::try_from(page.len()).unwrap_or(PAGE) < PAGE;
        let mut rows: Vec<Due> =
            page.into_iter().filter(|row| !skipped.contains(&(row.site.clone(), row.app_config_id.clone()))).collect();
        // Replicas that begin at the other end meet in the middle instead of all along.
        if fraction(Duration::from_secs(2)) > Duration::from_secs(1) {
            rows.reverse();
        }
        let at_once = refresher.0.settings.keeper_at_once.max(1);
        let mut outcomes = stream::iter(rows.into_iter().map(|row| renew(refresher, row, patience))).buffer_unordered(at_once);
        while let Some(row) = outcomes.next().await {
            skipped.extend(row.map(|row| (row.site, row.app_config_id)));
        }
        if is_last {
            return Ok(());
        }
    }
}

/// How long each renewal at a provider is waited for: a moment where its accounts are at servers of their own, else to its end.
fn patience(refresher: &Refresher, provider: &str) -> Option<Duration> {
    let definition = refresher.0.outside.catalogue.get(&provider.parse().ok()?)?;
    let mut steps = definition.refresh.step.iter().chain(definition.minting_step());
    steps.any(|step| step.url.fixed_host().is_none()).then_some(refresher.0.settings.keeper_patience)
}

/// Renews one; gives it back where its provider cannot be asked at present for any account of its app.
async fn renew(refresher: &Refresher, row: Due, patience: Option<Duration>) -> Option<Due> {
    let (site, id) = match row.ids() {
        Ok(ids) => ids,
        Err(error) => {
            tracing::error!(connection.id = %row.id, error = ?error, "a row cannot be read");
            return None;
        }
    };
    let job = Job { purpose: Purpose::Due, actor: Actor::System };
    let (running, _) = refresher.join_or_start(&Key { site, id }, &job);
    let outcome = tasks::outcome(running);
    let outcome = match patience {
        Some(patience) => tokio::time::timeout(patience, outcome).await.ok()?,
        None => outcome.await,
    };
    match outcome {
        Err(trouble) if trouble.concerns_all => Some(row),
        // Each tells of its own trouble.
        _ => None,
    }
}
