//! The key ring: opened data keys in memory, shared by everything in the process.
//!
//! 1. At start every data key is opened; one that no loaded root key opens stops the start.
//! 2. A site and provider get their first data key when something is first sealed there. Two replicas may try at
//!    once: each inserts unless it is there, commits, and then uses whatever the committed row holds.
//! 3. A value that names an unknown key makes the ring look for that key once, because another replica may have made it.
//! 4. New values are sealed under the newest version known here. A process that writes looks for a newer one at most
//!    once a second, so after a rotation on another replica it goes over by itself.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

use super::{
    envelope::{self, DataKey, Envelope, KeyBytes, Place, unsealable},
    root::{self, RootKeyId, RootKeys, RootSource, Slot, unavailable},
    store::{self, DataKeyRow},
};
use crate::{
    clock::Clock,
    db::{Db, Tx},
    error::{Error, Result},
    id::{self, DataKeyId, SiteId},
    secret::SecretBytes,
};

/// A ring that is ready, and whether its root key was made just now.
#[derive(Debug)]
pub struct Started {
    /// The ring.
    pub ring: KeyRing,
    /// The file of a new root key. Say plainly that it must be backed up, apart from the database.
    pub created: Option<PathBuf>,
}

/// Reads the root keys and opens the ring; makes the first root key where that is allowed.
///
/// It is made only if `create` is set, the database is SQLite and there is no data key yet (decisions 8): so a lost key
/// file is never silently replaced.
///
/// # Errors
/// [`crate::Code::KeyUnavailable`], saying what to do: no key, a wrong key, a file that others can read.
pub async fn start(db: &Db, source: &RootSource, create: bool, clock: Clock) -> Result<Started> {
    if let Some(roots) = source.load()? {
        let ring = KeyRing::load(db, roots, clock).await?;
        // A site gets its own key right after its row. A process that died in between left a site that nothing can be
        // recorded for, and inside the transaction that records, a key cannot be made.
        for site in store::sites_without(db, AUDIT).await? {
            ring.ensure(db, &site, AUDIT).await?;
        }
        return Ok(Started { ring, created: None });
    }
    let in_use = store::roots_in_use(db).await?;
    if !in_use.is_empty() {
        return Err(unavailable(format!(
            "the root key file {source} is missing but the database has keys sealed by root {}; put it back from your backup",
            names(in_use.iter().map(|(id, _)| id))
        )));
    }
    let RootSource::File(path) = source else {
        return Err(unavailable(format!("there is no root key in {source}")));
    };
    if !db.is_sqlite() {
        return Err(unavailable(format!(
            "the root key file {source} does not exist; PostgreSQL needs it given, the same to every replica"
        )));
    }
    if !create {
        return Err(unavailable(format!("the root key file {source} does not exist; put it there, or start the server once")));
    }
    let roots = root::create(path)?;
    tracing::info!(root.id = %roots.current().id(), "a root key was made; keep a copy of it apart from the database");
    Ok(Started { ring: KeyRing::load(db, roots, clock).await?, created: Some(path.clone()) })
}

/// The opened data keys. Clones share them.
#[derive(Clone)]
pub struct KeyRing(Arc<Inner>);

struct Inner {
    roots: RwLock<Option<Arc<RootKeys>>>,
    keys: RwLock<Keys>,
    /// Ids that were looked for and do not exist, and when.
    looked_for: Mutex<HashMap<KeyBytes, Instant>>,
    /// One look at a time, so that a crowd with one unknown id makes one query.
    looking: tokio::sync::Mutex<()>,
    clock: Clock,
    fresh: Duration,
}

#[derive(Default)]
struct Keys {
    by_id: HashMap<KeyBytes, Arc<DataKey>>,
    /// By site, then provider: so that a look-up copies no text.
    slots: HashMap<String, HashMap<String, Versions>>,
}

struct Versions {
    first: Arc<DataKey>,
    newest: Arc<DataKey>,
    /// When the database was last asked for a newer one.
    checked: Instant,
}

impl KeyRing {
    /// Opens every data key.
    ///
    /// # Errors
    /// [`crate::Code::KeyUnavailable`] with the ids of the root keys that are needed and not loaded.
    pub async fn load(db: &Db, roots: RootKeys, clock: Clock) -> Result<Self> {
        Self::load_with(db, roots, clock, FRESH).await
    }

    /// The same with another time after which a newer version is looked for; for tests.
    #[cfg(any(test, feature = "testing"))]
    pub async fn load_with_freshness(db: &Db, roots: RootKeys, clock: Clock, fresh: Duration) -> Result<Self> {
        Self::load_with(db, roots, clock, fresh).await
    }

    async fn load_with(db: &Db, roots: RootKeys, clock: Clock, fresh: Duration) -> Result<Self> {
        let ring = Self::new(None, clock, fresh);
        ring.reload_roots(db, roots).await?;
        Ok(ring)
    }

    /// A ring that can open and seal nothing, for what answers without a key (status, listing).
    pub fn empty() -> Self {
        Self::new(None, Clock::System, FRESH)
    }

    fn new(roots: Option<Arc<RootKeys>>, clock: Clock, fresh: Duration) -> Self {
        Self(Arc::new(Inner {
            roots: RwLock::new(roots),
            keys: RwLock::default(),
            looked_for: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            clock,
            fresh,
        }))
    }

    /// Opens a sealed value with what is in memory; nothing when its data key is not known here.
    ///
    /// This is the hot path: no waiting, no database. Go on with [`KeyRing::open`] where it gives nothing.
    ///
    /// # Errors
    /// [`crate::Code::Unsealable`]; only the detail says why.
    pub fn try_open(&self, place: &Place<'_>, sealed: &[u8]) -> Option<Result<SecretBytes>> {
        let envelope = match Envelope::read(sealed) {
            Ok(envelope) => envelope,
            Err(error) => return Some(Err(error)),
        };
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.by_id.get(&envelope.key()).map(|key| key.open(place, &envelope))
    }

    /// Opens a sealed value; looks once in the database for a data key that is not known here.
    ///
    /// # Errors
    /// [`crate::Code::Unsealable`]; only the detail says why. [`crate::Code::KeyUnavailable`] when no root key is loaded.
    pub async fn open(&self, db: &Db, place: &Place<'_>, sealed: &[u8]) -> Result<SecretBytes> {
        if let Some(opened) = self.try_open(place, sealed) {
            return opened;
        }
        let key = Envelope::read(sealed)?.key();
        self.look_for(db, key).await?;
        self.try_open(place, sealed)
            .unwrap_or_else(|| Err(unsealable(format_args!("data key {} is not known", envelope::key_id(key)))))
    }

    /// Seals a value under the newest data key, which is made if there is none.
    ///
    /// Not while this task holds a transaction: making a key needs one, and SQLite has only one that writes. There,
    /// [`KeyRing::ensure`] before it begins, and [`KeyRing::seal_now`] inside.
    pub async fn seal(&self, db: &Db, place: &Place<'_>, plain: &SecretBytes) -> Result<Vec<u8>> {
        self.ensure(db, place.site, place.provider).await?;
        self.seal_now(place, plain)
    }

    /// Makes sure that a site and provider have a data key, and that the newest is known here.
    ///
    /// # Errors
    /// [`crate::Code::KeyUnavailable`] when no root key is loaded, or none that opens the data key.
    pub async fn ensure(&self, db: &Db, site: &str, provider: &str) -> Result<()> {
        let checked = self.with_slot(site, provider, |versions| versions.checked);
        if checked.is_some_and(|at| at.elapsed() < self.0.fresh) {
            return Ok(());
        }
        let rows = store::data_keys_of(db, site, provider).await?;
        if rows.is_empty() {
            return self.add_version(db, site, provider, 1).await;
        }
        match self.take(&rows) {
            Err(error) if checked.is_some() => {
                // Another process went over to a root key that is not loaded here. What we have still reads everywhere.
                tracing::warn!(error = ?error, "a newer data key cannot be opened; sealing under the one that can");
                self.mark_checked(site, provider);
                Ok(())
            }
            taken => taken,
        }
    }

    /// Seals a value under the newest data key in memory.
    ///
    /// # Errors
    /// [`crate::Code::KeyUnavailable`] when there is none in memory: [`KeyRing::ensure`] comes first.
    pub fn seal_now(&self, place: &Place<'_>, plain: &SecretBytes) -> Result<Vec<u8>> {
        match self.with_slot(place.site, place.provider, |versions| versions.newest.clone()) {
            Some(key) => key.seal(place, plain),
            None => {
                self.roots()?;
                Err(Error::internal(format_args!("no data key of {}/{} was made sure of", place.site, place.provider)))
            }
        }
    }

    /// 32 bytes for another purpose, such as the key of a site's audit chain: always the same for a site and label.
    ///
    /// They come from a random data key of the site's own, so they outlive a change of the root key, and rotation
    /// leaves that key alone. May make the key, so not while this task holds a transaction.
    pub async fn derived(&self, db: &Db, site: &SiteId, label: &str) -> Result<SecretBytes> {
        let first = || self.with_slot(site.as_str(), AUDIT, |versions| versions.first.clone());
        let key = match first() {
            Some(key) => Some(key),
            None => {
                self.ensure(db, site.as_str(), AUDIT).await?;
                first()
            }
        };
        key.ok_or_else(|| Error::internal("the key that was made sure of is not there"))?.derive(label)
    }

    /// The ids of the loaded root keys, the current one first; none in an empty ring.
    pub fn root_ids(&self) -> Vec<RootKeyId> {
        self.roots().map(|roots| roots.ids().cloned().collect()).unwrap_or_default()
    }

    /// Takes other root keys while running. The old ones stay where a data key still needs one that is missing.
    ///
    /// # Errors
    /// [`crate::Code::KeyUnavailable`] with the ids that are needed; nothing changed then.
    pub async fn reload_roots(&self, db: &Db, roots: RootKeys) -> Result<()> {
        let rows = store::data_keys(db).await?;
        let mut missing: Vec<&String> =
            rows.iter().map(|row| &row.root_id).filter(|root_id| roots.find(root_id).is_none()).collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            return Err(unavailable(format!(
                "the database has keys sealed by root {}, and the root keys given are {}; give the right one, all of them together \
                 where there are several",
                names(missing),
                names(roots.ids())
            )));
        }
        // The keys are opened by the new root keys before they count.
        let opened = rows.iter().map(|row| open_data_key(&roots, row)).collect::<Result<Vec<_>>>()?;
        *self.0.roots.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(roots));
        self.put(rows.iter().zip(opened));
        Ok(())
    }

    /// The version of a data key, which is looked for where it is not known here.
    pub(super) async fn version_of(&self, db: &Db, key: KeyBytes) -> Result<i64> {
        let known = || {
            let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
            keys.by_id.get(&key).map(|key| key.version)
        };
        if let Some(version) = known() {
            return Ok(version);
        }
        self.look_for(db, key).await?;
        known().ok_or_else(|| Error::internal("a data key that was found is gone"))
    }

    /// Makes a version unless it is there, and reads back what is.
    pub(super) async fn add_version(&self, db: &Db, site: &str, provider: &str, version: i64) -> Result<()> {
        let row = self.fresh_row(site, provider, version)?;
        let mut tx = db.begin_bookkeeping().await?;
        let added = store::add_data_key(&mut tx, &row).await?;
        tx.commit().await?;
        if added {
            tracing::info!(site, provider, version, data_key.id = row.id, "a data key was made");
        }
        // INVARIANT: nothing is sealed under a key that was not read back from its committed row. Another replica may
        // have been first, and then its key is the one.
        self.take(&store::data_keys_of(db, site, provider).await?)
    }

    /// Makes the first data keys of a site in the transaction that makes the site, and gives what [`KeyRing::derived`] will
    /// give for a label once that is committed.
    ///
    /// Nobody else can make keys for a site that is not there yet, so this one is its key if the transaction commits. It
    /// is not in this ring until [`KeyRing::ensure`] read it back; nothing is sealed under it before.
    pub async fn found(&self, tx: &mut Tx, site: &SiteId, providers: &[&str], label: &str) -> Result<SecretBytes> {
        let roots = self.roots()?;
        let own = self.fresh_row(site.as_str(), AUDIT, 1)?;
        let derived = open_data_key(&roots, &own)?.derive(label)?;
        let mut rows = vec![own];
        for provider in providers {
            rows.push(self.fresh_row(site.as_str(), provider, 1)?);
        }
        for row in rows {
            if !store::add_data_key(tx, &row).await? {
                return Err(Error::internal("a site that is being made has a data key already"));
            }
        }
        Ok(derived)
    }

    fn fresh_row(&self, site: &str, provider: &str, version: i64) -> Result<DataKeyRow> {
        let roots = self.roots()?;
        let key = Zeroizing::new(id::random::<32>()?);
        let id = DataKeyId::new();
        let root = roots.current();
        Ok(DataKeyRow {
            site: site.to_owned(),
            provider: provider.to_owned(),
            version,
            id: id.as_str().to_owned(),
            root_id: root.id().as_str().to_owned(),
            wrapped: root.wrap(&Slot { site, provider, version, id: id.as_str() }, &key)?,
            created_at: self.0.clock.now().0,
            retired_at: None,
        })
    }

    pub(super) fn roots(&self) -> Result<Arc<RootKeys>> {
        let roots = self.0.roots.read().unwrap_or_else(PoisonError::into_inner);
        roots.clone().ok_or_else(|| unavailable("no root key is loaded, so nothing can be opened or sealed"))
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// How long another process may go on sealing under a version that is no longer the newest.
    pub(super) fn freshness(&self) -> Duration {
        self.0.fresh
    }

    async fn look_for(&self, db: &Db, key: KeyBytes) -> Result<()> {
        let id = envelope::key_id(key);
        let _one_at_a_time = self.0.looking.lock().await;
        if self.0.keys.read().unwrap_or_else(PoisonError::into_inner).by_id.contains_key(&key) {
            return Ok(());
        }
        self.roots()?;
        let unknown = || unsealable(format_args!("data key {id} is not known"));
        let recently = |looked_for: &HashMap<KeyBytes, Instant>| looked_for.get(&key).is_some_and(|at| at.elapsed() < AGAIN);
        // A key is committed before a row names it. So an id that was not found does not exist, and asking again is only load.
        if recently(&self.0.looked_for.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Err(unknown());
        }
        let Some(row) = store::data_key(db, &id).await? else {
            let mut looked_for = self.0.looked_for.lock().unwrap_or_else(PoisonError::into_inner);
            if looked_for.len() >= MOST_LOOKED_FOR {
                looked_for.clear();
            }
            looked_for.insert(key, Instant::now());
            return Err(unknown());
        };
        self.take(&[row]).map_err(|error| unsealable(format_args!("{error:?}")))
    }

    /// Opens the data keys that are not in memory yet.
    pub(super) fn take(&self, rows: &[DataKeyRow]) -> Result<()> {
        let roots = self.roots()?;
        let mut opened = Vec::with_capacity(rows.len());
        for row in rows {
            let id = row.id.parse().map_err(|_| unsealable(format_args!("`{}` is no data key's id", row.id)))?;
            let bytes = envelope::key_bytes(&id)?;
            let known = self.0.keys.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&bytes).cloned();
            opened.push(match known {
                Some(key) => key,
                None => open_data_key(&roots, row)?,
            });
        }
        self.put(rows.iter().zip(opened));
        Ok(())
    }

    fn put<'a>(&self, opened: impl Iterator<Item = (&'a DataKeyRow, Arc<DataKey>)>) {
        let now = Instant::now();
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        for (row, key) in opened {
            keys.by_id.insert(key.bytes, key.clone());
            let providers = keys.slots.entry(row.site.clone()).or_default();
            let versions = providers.entry(row.provider.clone()).or_insert_with(|| Versions {
                first: key.clone(),
                newest: key.clone(),
                checked: now,
            });
            if key.version > versions.newest.version {
                versions.newest = key.clone();
            }
            if key.version < versions.first.version {
                versions.first = key;
            }
            versions.checked = now;
        }
    }

    fn mark_checked(&self, site: &str, provider: &str) {
        let mut keys = self.0.keys.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = keys.slots.get_mut(site).and_then(|providers| providers.get_mut(provider)) {
            versions.checked = Instant::now();
        }
    }

    fn with_slot<T>(&self, site: &str, provider: &str, read: impl FnOnce(&Versions) -> T) -> Option<T> {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.slots.get(site)?.get(provider).map(read)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.0.keys.read().unwrap_or_else(PoisonError::into_inner);
        write!(f, "KeyRing({} data keys)", keys.by_id.len())
    }
}

fn open_data_key(roots: &RootKeys, row: &DataKeyRow) -> Result<Arc<DataKey>> {
    let root = roots.find(&row.root_id).ok_or_else(|| {
        unavailable(format!(
            "data key {} is wrapped by root key {}, and the loaded ones are {}",
            row.id,
            row.root_id,
            names(roots.ids())
        ))
    })?;
    let key = root
        .unwrap(&row.slot(), &row.wrapped)
        .ok_or_else(|| unavailable(format!("data key {} was changed in the database; restore it from a backup", row.id)))?;
    let id = row.id.parse().map_err(|_| unavailable(format!("`{}` is no data key's id", row.id)))?;
    DataKey::new(&id, row.version, &key).map(Arc::new)
}

impl DataKeyRow {
    pub(super) fn slot(&self) -> Slot<'_> {
        Slot { site: &self.site, provider: &self.provider, version: self.version, id: &self.id }
    }
}

fn names(ids: impl IntoIterator<Item: fmt::Display>) -> String {
    ids.into_iter().map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

/// The name that stands for the provider of a site's own data key, which is never rotated.
pub(super) const AUDIT: &str = "_audit";

const FRESH: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(200);
const MOST_LOOKED_FOR: usize = 4096;
