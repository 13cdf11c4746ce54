//! Changing keys while everything runs: new data keys, new root keys, and proof that the old ones are out of use.
//!
//! **Data keys** ([`rotate`]):
//! 1. Every (site, provider) gets a new version, unless an earlier run was cut off: then that one goes on.
//! 2. All sealed tables are walked. A row under an older version is opened, sealed anew and put back only where the
//!    ciphertext is still the one that was read. Whoever writes meanwhile wins, and the next walk meets their row again.
//! 3. The walks end when two of them, far enough apart for every other process to have seen the new version, found
//!    nothing old. Then the old versions are marked retired. They stay: a backup may need them.
//!
//! **Root keys**: put a new line first in the key file ([`super::root::add_new_current`]), load it in every process
//! ([`KeyRing::reload_roots`]), [`rewrap`], and then take the old lines away ([`super::root::drop_others`]).
//!
//! Old and new are read side by side all the time. No transaction lasts longer than 50 ms.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    envelope::{self, Envelope, KeyBytes},
    ring::{AUDIT, KeyRing},
    root::{RootKeyId, unavailable},
    store::{self, DataKeyRow, Scope, SealedRow, Table},
};
use crate::{
    clock::Timestamp,
    db::Db,
    error::{Code, Error, Result},
    id::{ProviderName, SiteId},
};

/// How far a walk over the sealed tables has come.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Progress {
    /// Which walk it is, from 1; a later one meets only what was written meanwhile.
    pub walk: u32,
    /// The table it is in.
    pub table: &'static str,
    /// Rows that were looked at.
    pub done: u64,
    /// Rows there were when the walk began.
    pub total: u64,
    /// Rows sealed anew, over all walks.
    pub resealed: u64,
}

/// What a rotation did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Rotated {
    /// New data keys.
    pub new_keys: u64,
    /// Rows sealed anew.
    pub resealed: u64,
    /// Data keys that nothing uses any more.
    pub retired: u64,
    /// Rows that could not be opened. They were left as they are; their keys stay, as every key does.
    pub unreadable: Unreadable,
}

/// Rows that could not be opened: how many, and the first of them.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Unreadable {
    /// How many.
    pub count: u64,
    /// The first thousand.
    pub rows: Vec<UnreadableRow>,
}

/// A row that could not be opened.
#[derive(Clone, Debug, serde::Serialize)]
pub struct UnreadableRow {
    /// The table.
    pub table: &'static str,
    /// The tenant.
    pub site: String,
    /// The provider.
    pub provider: String,
    /// The row's id.
    pub row: String,
    /// Why, for the operator.
    pub why: String,
}

/// Seals everything in scope under new data keys. Run again after an interruption, it goes on.
///
/// # Errors
/// [`Code::Unavailable`] when another process goes on sealing under an old version; a later run goes on.
pub async fn rotate(
    db: &Db,
    ring: &KeyRing,
    site: Option<&SiteId>,
    provider: Option<&ProviderName>,
    mut progress: impl FnMut(&Progress),
) -> Result<Rotated> {
    let scope = Scope { site: site.map_or("", SiteId::as_str), provider: provider.map_or("", ProviderName::as_str) };
    let mut outcome = Rotated::default();
    let targets = Targets::begin(db, ring, scope, &mut outcome).await?;
    let mut clean = false;
    for walk in 1..=MOST_WALKS {
        let stale = reseal(db, ring, scope, &targets, walk, &mut outcome, &mut progress).await?;
        if stale == 0 && clean {
            retire(db, ring, scope, &targets, &mut outcome).await?;
            return Ok(outcome);
        }
        clean = stale == 0;
        // Twice the time in which every process has looked for a newer version.
        tokio::time::sleep(if clean { ring.freshness() * 2 } else { ring.freshness() / 4 }).await;
    }
    Err(Error::new(
        Code::Unavailable,
        "another process goes on sealing under an old key; check that every replica runs and reaches the database, then run it again",
    ))
}

/// What a look at every sealed value found.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Every data key.
    pub keys: Vec<KeyUse>,
    /// Values that opened.
    pub opened: u64,
    /// Of those, values under a version that is not the newest.
    pub stale: u64,
    /// Data keys that are wrapped by a root key that is not the current one.
    pub old_roots: u64,
    /// Values that did not open.
    pub unreadable: Unreadable,
}

impl Report {
    /// Whether everything opens, under the newest data keys and the current root key.
    pub fn is_clean(&self) -> bool {
        self.stale == 0 && self.old_roots == 0 && self.unreadable.count == 0
    }
}

/// One data key and what uses it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KeyUse {
    /// Its id.
    pub id: String,
    /// The tenant.
    pub site: String,
    /// The provider, or a name of ours that begins with `_`.
    pub provider: String,
    /// Its version.
    pub version: i64,
    /// Whether new values are sealed under it.
    pub newest: bool,
    /// The id of the root key that wraps it.
    pub root: String,
    /// Values that open under it.
    pub rows: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When nothing used it any more.
    pub retired_at: Option<Timestamp>,
}

/// Opens every sealed value and says what was found. Changes nothing.
pub async fn verify(db: &Db, ring: &KeyRing, mut progress: impl FnMut(&Progress)) -> Result<Report> {
    let mut report = Report::default();
    let mut rows_of: HashMap<KeyBytes, u64> = HashMap::new();
    let mut walk = Walk::begin(db, EVERYTHING, 1).await?;
    while let Some((table, rows)) = walk.next(db).await? {
        for row in &rows {
            match ring.open(db, &row.place(table), &row.sealed).await {
                Ok(_) => {
                    report.opened += 1;
                    *rows_of.entry(Envelope::read(&row.sealed)?.key()).or_default() += 1;
                }
                Err(error) => report.unreadable.add(table, row, error)?,
            }
        }
        progress(&walk.progress(table, 0));
    }
    // Read after the walk, so that a key made meanwhile is there.
    let keys = store::data_keys(db).await?;
    let current = ring.roots()?.current().id().clone();
    for (at, key) in keys.iter().enumerate() {
        let newest = keys.get(at + 1).is_none_or(|next| (&next.site, &next.provider) != (&key.site, &key.provider));
        let rows = rows_of.get(&bytes_of(key)?).copied().unwrap_or(0);
        report.stale += if newest { 0 } else { rows };
        report.old_roots += u64::from(key.root_id != current.as_str());
        report.keys.push(KeyUse {
            id: key.id.clone(),
            site: key.site.clone(),
            provider: key.provider.clone(),
            version: key.version,
            newest,
            root: key.root_id.clone(),
            rows,
            created_at: Timestamp(key.created_at),
            retired_at: key.retired_at.map(Timestamp),
        });
    }
    Ok(report)
}

/// Puts every data key under the current root key; returns how many moved. The rows they seal stay as they are.
///
/// # Errors
/// [`Code::KeyUnavailable`] when a data key needs a root key that is not loaded, [`Code::Unavailable`] when another
/// process goes on making keys under an old one.
pub async fn rewrap(db: &Db, ring: &KeyRing, mut progress: impl FnMut(&Progress)) -> Result<u64> {
    let mut moved = 0;
    for walk in 1..=MOST_WALKS {
        let roots = ring.roots()?;
        let current = roots.current();
        let mut old = Vec::new();
        for key in store::data_keys(db).await?.into_iter().filter(|key| key.root_id != current.id().as_str()) {
            let root = roots.find(&key.root_id).ok_or_else(|| {
                unavailable(format!("data key {} is wrapped by root key {}, which is not loaded", key.id, key.root_id))
            })?;
            let data_key = root
                .unwrap(&key.slot(), &key.wrapped)
                .ok_or_else(|| unavailable(format!("data key {} was changed in the database", key.id)))?;
            let wrapped = current.wrap(&key.slot(), &data_key)?;
            old.push((key, wrapped));
        }
        if old.is_empty() {
            return Ok(moved);
        }
        let total = old.len() as u64;
        let mut old = old.into_iter().peekable();
        while old.peek().is_some() {
            let mut tx = db.begin_bookkeeping().await?;
            let began = Instant::now();
            while let Some((key, wrapped)) = old.next_if(|_| began.elapsed() < HOLD) {
                moved += u64::from(store::replace_wrapped(&mut tx, &key, current.id().as_str(), &wrapped).await?);
            }
            tx.commit().await?;
            progress(&Progress { walk, table: "data_keys", done: total - old.len() as u64, total, resealed: moved });
        }
        tokio::time::sleep(ring.freshness() / 4).await;
    }
    Err(Error::new(
        Code::Unavailable,
        "another process goes on making data keys under an old root key; load the new one in every process, then run it again",
    ))
}

/// A data key as it is listed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ListedKey {
    /// Its id.
    pub id: String,
    /// The tenant.
    pub site: String,
    /// The provider, or a name of ours that begins with `_`.
    pub provider: String,
    /// Its version.
    pub version: i64,
    /// The id of the root key that wraps it.
    pub root: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When nothing used it any more.
    pub retired_at: Option<Timestamp>,
}

/// Every data key, by site, provider and version. Opens nothing.
pub async fn data_keys(db: &Db) -> Result<Vec<ListedKey>> {
    let listed = |key: DataKeyRow| ListedKey {
        id: key.id,
        site: key.site,
        provider: key.provider,
        version: key.version,
        root: key.root_id,
        created_at: Timestamp(key.created_at),
        retired_at: key.retired_at.map(Timestamp),
    };
    Ok(store::data_keys(db).await?.into_iter().map(listed).collect())
}

/// The root keys that data keys are wrapped by.
pub async fn roots_in_use(db: &Db) -> Result<Vec<RootKeyId>> {
    Ok(store::roots_in_use(db).await?.into_iter().map(|(id, _)| RootKeyId::stored(id)).collect())
}

/// The version that every row of a (site, provider) must have reached.
struct Targets(HashMap<String, HashMap<String, i64>>);

impl Targets {
    async fn begin(db: &Db, ring: &KeyRing, scope: Scope<'_>, outcome: &mut Rotated) -> Result<Self> {
        let mut targets = Self(HashMap::new());
        let keys = store::data_keys(db).await?;
        for versions in keys.chunk_by(|a, b| (&a.site, &a.provider) == (&b.site, &b.provider)) {
            let Some((newest, older)) = versions.split_last() else { continue };
            if !in_scope(newest, scope) {
                continue;
            }
            // An older version that was never retired: a run that was cut off. Its new version is the one.
            let mut target = newest.version;
            if older.iter().all(|key| key.retired_at.is_some()) {
                target += 1;
                ring.add_version(db, &newest.site, &newest.provider, target).await?;
                outcome.new_keys += 1;
            } else {
                ring.take(versions)?;
            }
            targets.0.entry(newest.site.clone()).or_default().insert(newest.provider.clone(), target);
        }
        Ok(targets)
    }

    fn of(&self, site: &str, provider: &str) -> Option<i64> {
        self.0.get(site)?.get(provider).copied()
    }
}

fn in_scope(key: &DataKeyRow, scope: Scope<'_>) -> bool {
    // What is derived from a site's own key must stay what it is.
    key.provider != AUDIT
        && (scope.site.is_empty() || scope.site == key.site)
        && (scope.provider.is_empty() || scope.provider == key.provider)
}

/// One walk. Returns how many readable rows it met under an old version: put right by now, or changed by somebody meanwhile.
async fn reseal(
    db: &Db,
    ring: &KeyRing,
    scope: Scope<'_>,
    targets: &Targets,
    walk: u32,
    outcome: &mut Rotated,
    progress: &mut impl FnMut(&Progress),
) -> Result<u64> {
    let mut stale = 0;
    outcome.unreadable = Unreadable::default();
    let mut walk = Walk::begin(db, scope, walk).await?;
    while let Some((table, rows)) = walk.next(db).await? {
        let mut changes = Vec::new();
        for row in rows {
            let Some(target) = targets.of(&row.site, &row.provider) else { continue };
            match renewed(db, ring, table, &row, target).await {
                Ok(None) => {}
                Ok(Some(new)) => changes.push((row, new)),
                Err(error) => outcome.unreadable.add(table, &row, error)?,
            }
        }
        stale += changes.len() as u64;
        outcome.resealed += put_back(db, table, changes).await?;
        progress(&walk.progress(table, outcome.resealed));
    }
    Ok(stale)
}

/// The row's value sealed anew, unless it has reached the target already.
async fn renewed(db: &Db, ring: &KeyRing, table: Table, row: &SealedRow, target: i64) -> Result<Option<Vec<u8>>> {
    if ring.version_of(db, Envelope::read(&row.sealed)?.key()).await? >= target {
        return Ok(None);
    }
    let plain = ring.open(db, &row.place(table), &row.sealed).await?;
    ring.seal_now(&row.place(table), &plain).map(Some)
}

/// Writes where the old ciphertext still stands; returns for how many rows it did.
async fn put_back(db: &Db, table: Table, changes: Vec<(SealedRow, Vec<u8>)>) -> Result<u64> {
    let mut replaced = 0;
    let mut changes = changes.into_iter().peekable();
    while changes.peek().is_some() {
        let mut tx = db.begin_bookkeeping().await?;
        let began = Instant::now();
        for (row, new) in changes.by_ref() {
            replaced += u64::from(store::replace_sealed(&mut tx, table, &row, &new).await?);
            // On PostgreSQL one row at a time: a transaction that holds several row locks can deadlock with a caller's.
            if !db.is_sqlite() || began.elapsed() >= HOLD {
                break;
            }
        }
        tx.commit().await?;
    }
    Ok(replaced)
}

async fn retire(db: &Db, ring: &KeyRing, scope: Scope<'_>, targets: &Targets, outcome: &mut Rotated) -> Result<()> {
    let now = ring.clock().now();
    for key in store::data_keys(db).await?.iter().filter(|key| in_scope(key, scope) && key.retired_at.is_none()) {
        let old = targets.of(&key.site, &key.provider).is_some_and(|target| key.version < target);
        if old {
            let mut tx = db.begin_bookkeeping().await?;
            outcome.retired += u64::from(store::retire_data_key(&mut tx, &key.id, now).await?);
            tx.commit().await?;
        }
    }
    Ok(())
}

impl Unreadable {
    /// Notes a row that cannot be opened. Any other failure is the walk's own and goes on up.
    fn add(&mut self, table: Table, row: &SealedRow, error: Error) -> Result<()> {
        if error.code() != Code::Unsealable {
            return Err(error);
        }
        self.count += 1;
        if self.rows.len() < MOST_LISTED {
            self.rows.push(UnreadableRow {
                table: table.name(),
                site: row.site.clone(),
                provider: row.provider.clone(),
                row: row.id.clone(),
                why: error.detail().unwrap_or(error.message()).to_owned(),
            });
        }
        Ok(())
    }
}

/// A walk over every sealed row in scope, table by table, in the order of their keys.
struct Walk<'a> {
    scope: Scope<'a>,
    tables: std::vec::IntoIter<Table>,
    table: Option<Table>,
    after: (String, String),
    number: u32,
    done: u64,
    total: u64,
}

impl<'a> Walk<'a> {
    async fn begin(db: &Db, scope: Scope<'a>, number: u32) -> Result<Self> {
        let mut total = 0;
        for table in Table::ALL {
            total += store::count_sealed(db, table, scope).await?;
        }
        let mut tables = Table::ALL.to_vec().into_iter();
        let table = tables.next();
        Ok(Self { scope, tables, table, after: Default::default(), number, done: 0, total })
    }

    /// The next rows; nothing at the end.
    async fn next(&mut self, db: &Db) -> Result<Option<(Table, Vec<SealedRow>)>> {
        while let Some(table) = self.table {
            let rows = store::sealed_after(db, table, self.scope, (&self.after.0, &self.after.1)).await?;
            if let Some(last) = rows.last() {
                self.after = (last.site.clone(), last.id.clone());
                self.done += rows.len() as u64;
                return Ok(Some((table, rows)));
            }
            self.table = self.tables.next();
            self.after = Default::default();
        }
        Ok(None)
    }

    fn progress(&self, table: Table, resealed: u64) -> Progress {
        // Rows may be added while it walks.
        Progress { walk: self.number, table: table.name(), done: self.done, total: self.total.max(self.done), resealed }
    }
}

fn bytes_of(key: &DataKeyRow) -> Result<KeyBytes> {
    key.id.parse().and_then(|id| envelope::key_bytes(&id))
}

const EVERYTHING: Scope<'static> = Scope { site: "", provider: "" };
/// How long a transaction may keep the writer from others.
const HOLD: Duration = Duration::from_millis(50);
const MOST_WALKS: u32 = 200;
const MOST_LISTED: usize = 1000;
