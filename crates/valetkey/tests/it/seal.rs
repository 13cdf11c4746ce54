//! Sealing: what is stored opens in its own place only, under keys that can change while everything runs.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use valetkey::{
    Code, Result,
    clock::Clock,
    db::{Db, testing},
    id::{AccountName, ConnectionId, PlatformKeyId, ProviderName, SiteId},
    on, on_each_db,
    seal::{KeyRing, Place, RootKey, RootKeys, RootSource, root, rotate, start},
    secret::{Secret, SecretBytes},
};

on_each_db! {
    async fn a_ciphertext_moved_to_another_row_owner_provider_or_site_does_not_open(db: Db) {
        let ring = ring(&db, &roots()).await;
        let home = Home::new(&db, "default", "github", "user:1").await;
        let mut others = [
            Home::new(&db, "default", "github", "user:1").await,
            Home::new(&db, "default", "github", "user:2").await,
            Home::new(&db, "default", "gitlab", "user:1").await,
            Home::new(&db, "other", "github", "user:1").await,
            Home { name: "work".parse().unwrap(), ..home.clone() },
        ];
        for (at, other) in others.iter_mut().enumerate().take(4) {
            // The slot of a connection is unique, so each needs a name of its own to be stored.
            other.name = format!("n{at}").parse().unwrap();
        }
        home.save(&db, &ring, "canary").await;
        let sealed = home.read(&db).await;
        assert_eq!(open(&db, &ring, &home, &sealed).await.unwrap(), "canary");
        for other in &others[..4] {
            other.save(&db, &ring, "its own").await;
            other.overwrite(&db, &sealed).await;
            let error = open(&db, &ring, other, &other.read(&db).await).await.unwrap_err();
            assert_eq!(error.code(), Code::Unsealable, "{other:?}");
        }
        assert_eq!(open(&db, &ring, &others[4], &sealed).await.unwrap_err().code(), Code::Unsealable);
    }

    async fn two_replicas_that_make_a_data_key_at_once_use_the_same_one(db: Db) {
        let roots = roots();
        let (one, two) = (ring(&db, &roots).await, ring(&db, &roots).await);
        let site = add_site(&db, "default").await;
        for n in 0..20 {
            let provider: ProviderName = format!("p{n}").parse().unwrap();
            let id = ConnectionId::new();
            let name = AccountName::default();
            let place = Place::connection(&site, &provider, "site", &name, &id);
            let plain = bytes("canary");
            let (a, b) = tokio::join!(one.seal(&db, &place, &plain), two.seal(&db, &place, &plain));
            for sealed in [a.unwrap(), b.unwrap()] {
                for ring in [&one, &two] {
                    assert_eq!(ring.try_open(&place, &sealed).unwrap().unwrap().expose(), b"canary");
                }
            }
        }
        assert_eq!(data_keys(&db).await.len(), 20);
    }

    async fn a_value_sealed_by_a_key_that_another_replica_made_meanwhile_opens(db: Db) {
        let roots = roots();
        let (one, two) = (ring(&db, &roots).await, ring(&db, &roots).await);
        let home = Home::new(&db, "default", "github", "user:1").await;
        home.save(&db, &one, "canary").await;
        let sealed = home.read(&db).await;
        assert!(two.try_open(&home.place(), &sealed).is_none());
        assert_eq!(open(&db, &two, &home, &sealed).await.unwrap(), "canary");
        assert!(two.try_open(&home.place(), &sealed).is_some());
    }

    /// T-287.
    async fn a_value_that_names_a_key_that_does_not_exist_is_an_error(db: Db) {
        let ring = ring(&db, &roots()).await;
        let home = Home::new(&db, "default", "github", "user:1").await;
        home.save(&db, &ring, "canary").await;
        let mut sealed = home.read(&db).await;
        sealed[5] ^= 1;
        for _ in 0..3 {
            let error = open(&db, &ring, &home, &sealed).await.unwrap_err();
            assert_eq!(error.code(), Code::Unsealable);
            assert!(error.detail().unwrap().contains("is not known"), "{error:?}");
        }
    }

    async fn an_empty_ring_opens_and_seals_nothing(db: Db) {
        let home = Home::new(&db, "default", "github", "user:1").await;
        home.save(&db, &ring(&db, &roots()).await, "canary").await;
        let empty = KeyRing::empty();
        let sealed = home.read(&db).await;
        assert_eq!(open(&db, &empty, &home, &sealed).await.unwrap_err().code(), Code::KeyUnavailable);
        for place in [home.place(), Home { provider: "new".parse().unwrap(), ..home.clone() }.place()] {
            assert_eq!(empty.seal(&db, &place, &bytes("x")).await.unwrap_err().code(), Code::KeyUnavailable);
            assert_eq!(empty.seal_now(&place, &bytes("x")).unwrap_err().code(), Code::KeyUnavailable);
        }
        assert!(rotate::verify(&db, &empty, |_| ()).await.is_err());
    }

    async fn a_start_with_the_wrong_root_key_is_refused_and_names_the_right_one(db: Db) {
        let right = roots();
        let home = Home::new(&db, "default", "github", "user:1").await;
        home.save(&db, &ring(&db, &right).await, "canary").await;
        let wrong = RootSource::Text(roots());
        let error = start(&db, &wrong, true, Clock::System).await.unwrap_err();
        assert_eq!(error.code(), Code::KeyUnavailable);
        assert!(error.message().contains(parse(&right).current().id().as_str()), "{error}");

        let started = start(&db, &RootSource::Text(right), true, Clock::System).await.unwrap();
        assert!(started.created.is_none());
        assert_eq!(open(&db, &started.ring, &home, &home.read(&db).await).await.unwrap(), "canary");
    }

    async fn a_start_without_the_key_file_is_refused_where_something_is_sealed(db: Db) {
        let roots = roots();
        let home = Home::new(&db, "default", "github", "user:1").await;
        home.save(&db, &ring(&db, &roots).await, "canary").await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let error = start(&db, &RootSource::File(path.clone()), true, Clock::System).await.unwrap_err();
        assert_eq!(error.code(), Code::KeyUnavailable);
        assert!(error.message().contains("put it back from your backup"), "{error}");
        assert!(error.message().contains(parse(&roots).current().id().as_str()), "{error}");
        assert!(!path.exists(), "a lost key was replaced");
    }

    async fn a_start_with_a_key_file_that_others_can_read_is_refused(db: Db) {
        use std::os::unix::fs::PermissionsExt as _;
        let (_folder, path) = key_file(&roots());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = start(&db, &RootSource::File(path.clone()), true, Clock::System).await.unwrap_err();
        assert_eq!(error.code(), Code::KeyUnavailable);
        assert!(error.message().contains(&format!("chmod 600 {}", path.display())), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        start(&db, &RootSource::File(path), true, Clock::System).await.unwrap();
    }

    async fn the_first_root_key_is_made_on_sqlite_only_and_only_when_asked(db: Db) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let source = RootSource::File(path.clone());
        assert_eq!(start(&db, &source, false, Clock::System).await.unwrap_err().code(), Code::KeyUnavailable);
        assert!(!path.exists());
        let started = start(&db, &source, true, Clock::System).await;
        if db.is_sqlite() {
            assert_eq!(started.unwrap().created.as_deref(), Some(path.as_path()));
            assert!(start(&db, &source, true, Clock::System).await.unwrap().created.is_none());
        } else {
            assert!(started.unwrap_err().message().contains("PostgreSQL needs it given"));
            assert!(!path.exists());
        }
    }

    async fn a_wrapped_key_that_was_changed_in_the_database_stops_the_start(db: Db) {
        let roots = roots();
        Home::new(&db, "default", "github", "user:1").await.save(&db, &ring(&db, &roots).await, "canary").await;
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("UPDATE data_keys SET provider = 'gitlab'").execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        let error = KeyRing::load(&db, parse(&roots), Clock::System).await.unwrap_err();
        assert_eq!(error.code(), Code::KeyUnavailable);
    }

    async fn a_rotation_under_concurrent_writers_loses_nothing_and_ends_with_no_old_key(db: Db) {
        let roots = roots();
        // Two rings stand for two replicas; only the first one rotates.
        let rings = [ring(&db, &roots).await, ring(&db, &roots).await];
        let mut homes = Vec::new();
        for n in 0..300 {
            let provider = if n % 2 == 0 { "github" } else { "gitlab" };
            let home = Home::new(&db, "default", provider, &format!("user:{}", n + 1)).await;
            home.save(&db, &rings[0], "0").await;
            homes.push(home);
        }
        add_platform_key(&db, &rings[0], "default", "canary").await;
        let homes = Arc::new(homes);
        // The writers change some of them; the others wait for the rotation.
        const BUSY: usize = 100;
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..6)
            .map(|writer| {
                let (db, ring, homes) = (db.clone(), rings[writer % 2].clone(), homes.clone());
                let (stop, written) = (stop.clone(), written.clone());
                tokio::spawn(async move {
                    let mut at = writer * 41;
                    while !stop.load(Ordering::SeqCst) {
                        at = (at + 7) % BUSY;
                        written.fetch_add(u64::from(homes[at].count_up(&db, &ring).await), Ordering::SeqCst);
                        // What is read meanwhile is always readable, under whichever key it is.
                        let other = &homes[(at * 13 + 5) % homes.len()];
                        open(&db, &ring, other, &other.read(&db).await).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut seen = 0;
        let rotated = rotate::rotate(&db, &rings[0], None, None, |progress| {
            assert!(progress.done <= progress.total && progress.resealed >= seen);
            seen = progress.resealed;
        })
        .await
        .unwrap();
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!((rotated.new_keys, rotated.retired, rotated.unreadable.count), (3, 3, 0));
        assert!(rotated.resealed > 200, "{rotated:?}");

        let report = rotate::verify(&db, &rings[1], |_| ()).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.opened, 301);
        for key in &report.keys {
            assert_eq!((key.version == 2, key.rows > 0, key.retired_at.is_none()), (key.newest, key.newest, key.newest), "{key:?}");
        }
        let mut sum = 0;
        for home in homes.iter() {
            sum += open(&db, &rings[1], home, &home.read(&db).await).await.unwrap().parse::<u64>().unwrap();
            let (version, revision) = home.numbers(&db).await;
            assert_eq!(version, 1, "sealing anew is no change of the tokens");
            assert_eq!(revision.to_string(), open(&db, &rings[0], home, &home.read(&db).await).await.unwrap());
        }
        assert_eq!(sum, written.load(Ordering::SeqCst));
        assert!(sum > 50, "the writers hardly wrote: {sum}");
    }

    async fn a_rotation_that_was_cut_off_goes_on_with_the_key_it_had_made(db: Db) {
        let ring = ring(&db, &roots()).await;
        let homes = many(&db, &ring, 450).await;
        // Dropped at its first report: some rows are new by then, most are old.
        let (told, mut cut) = tokio::sync::mpsc::unbounded_channel();
        {
            let run = rotate::rotate(&db, &ring, None, None, |progress| {
                let _ = told.send(progress.resealed);
            });
            tokio::select! {
                biased;
                first = cut.recv() => assert!(first.unwrap() > 0),
                _ = run => panic!("it ended before it was cut off"),
            }
        }
        let half = rotate::verify(&db, &ring, |_| ()).await.unwrap();
        assert!(half.stale > 0 && half.stale < 450, "{}", half.stale);
        assert_eq!(half.opened, 450, "old and new are read side by side");

        let rotated = rotate::rotate(&db, &ring, None, None, |_| ()).await.unwrap();
        assert_eq!((rotated.new_keys, rotated.resealed, rotated.retired), (0, half.stale, 1));
        assert_eq!(data_keys(&db).await.len(), 2);
        assert!(rotate::verify(&db, &ring, |_| ()).await.unwrap().is_clean());
        assert_eq!(open(&db, &ring, &homes[449], &homes[449].read(&db).await).await.unwrap(), "canary 449");
    }

    async fn a_rotation_of_one_provider_leaves_the_others_alone(db: Db) {
        let ring = ring(&db, &roots()).await;
        let (one, two) =
            (Home::new(&db, "default", "github", "user:1").await, Home::new(&db, "default", "gitlab", "user:1").await);
        one.save(&db, &ring, "canary").await;
        two.save(&db, &ring, "canary").await;
        let before = (one.read(&db).await, two.read(&db).await);
        let rotated = rotate::rotate(&db, &ring, None, Some(&one.provider), |_| ()).await.unwrap();
        assert_eq!((rotated.new_keys, rotated.resealed), (1, 1));
        assert_ne!(one.read(&db).await, before.0);
        assert_eq!(two.read(&db).await, before.1);
    }

    async fn a_row_that_cannot_be_opened_is_listed_and_stops_neither_this_rotation_nor_the_next(db: Db) {
        let ring = ring(&db, &roots()).await;
        let homes = many(&db, &ring, 3).await;
        let stolen = homes[0].read(&db).await;
        homes[1].overwrite(&db, &stolen).await;
        homes[2].overwrite(&db, br#"{"access_token":"in the clear"}"#).await;
        for version in [2, 3] {
            let rotated = rotate::rotate(&db, &ring, None, None, |_| ()).await.unwrap();
            assert_eq!((rotated.new_keys, rotated.resealed, rotated.unreadable.count), (1, 1, 2), "to version {version}");
        }
        let report = rotate::verify(&db, &ring, |_| ()).await.unwrap();
        assert!(!report.is_clean());
        let mut listed: Vec<_> = report.unreadable.rows.iter().map(|row| row.row.as_str()).collect();
        listed.sort_unstable();
        assert_eq!(listed, [homes[1].id.as_str(), homes[2].id.as_str()]);
        assert!(!format!("{report:?}").contains("in the clear"));
        assert_eq!(homes[1].read(&db).await, stolen, "what cannot be read is left as it is");
    }

    async fn a_replica_that_only_writes_goes_over_to_the_new_key_by_itself(db: Db) {
        let roots = roots();
        let (one, two) = (ring(&db, &roots).await, ring(&db, &roots).await);
        let home = Home::new(&db, "default", "github", "user:1").await;
        home.save(&db, &two, "before").await;
        rotate::rotate(&db, &one, None, None, |_| ()).await.unwrap();
        // Longer than the rings' freshness ago by now.
        let sealed = two.seal(&db, &home.place(), &bytes("after")).await.unwrap();
        assert_ne!(sealed[1..17], home_key(&db, 1).await);
        assert_eq!(sealed[1..17], home_key(&db, 2).await);
    }

    async fn the_root_key_changes_while_everything_runs(db: Db) {
        let (_folder, path) = key_file(&roots());
        let load = || RootSource::File(path.clone()).load().unwrap().unwrap();
        let old = load().current().id().clone();
        let running = KeyRing::load(&db, load(), Clock::System).await.unwrap();
        let homes = many(&db, &running, 3).await;
        let derived = running.derived(&db, &homes[0].site, "audit").await.unwrap();

        let new = root::add_new_current(&path).unwrap();
        running.reload_roots(&db, load()).await.unwrap();
        assert_eq!(running.root_ids(), [new.clone(), old.clone()]);
        let before = homes[0].read(&db).await;
        assert_eq!(rotate::verify(&db, &running, |_| ()).await.unwrap().old_roots, 2);
        assert_eq!(rotate::roots_in_use(&db).await.unwrap(), std::slice::from_ref(&old));
        assert_eq!(root::drop_others(&path, std::slice::from_ref(&old)).unwrap_err().code(), Code::KeyUnavailable);

        let mut told = Vec::new();
        let moved = rotate::rewrap(&db, &running, |progress| told.push((progress.done, progress.total))).await.unwrap();
        assert_eq!((moved, told.last()), (2, Some(&(2, 2))));
        assert_eq!(rotate::rewrap(&db, &running, |_| ()).await.unwrap(), 0);
        let in_use = rotate::roots_in_use(&db).await.unwrap();
        assert_eq!(in_use, [new]);
        assert!(rotate::verify(&db, &running, |_| ()).await.unwrap().is_clean());
        assert_eq!(root::drop_others(&path, &in_use).unwrap(), [old]);
        assert_eq!(homes[0].read(&db).await, before, "rows stay as they are");

        running.reload_roots(&db, load()).await.unwrap();
        let again = start(&db, &RootSource::File(path.clone()), false, Clock::System).await.unwrap().ring;
        for ring in [&running, &again] {
            assert_eq!(open(&db, ring, &homes[0], &before).await.unwrap(), "canary 0");
            assert_eq!(ring.derived(&db, &homes[0].site, "audit").await.unwrap().expose(), derived.expose());
        }
    }

    async fn root_keys_that_lack_one_in_use_are_not_taken_by_a_running_ring(db: Db) {
        let roots = roots();
        let running = ring(&db, &roots).await;
        let home = Home::new(&db, "default", "github", "user:1").await;
        home.save(&db, &running, "canary").await;
        let other = RootKeys::single(RootKey::generate().unwrap());
        assert_eq!(running.reload_roots(&db, other).await.unwrap_err().code(), Code::KeyUnavailable);
        assert_eq!(running.root_ids(), [parse(&roots).current().id().clone()]);
        home.save(&db, &running, "still works").await;
    }

    async fn a_start_gives_a_site_the_own_key_that_a_crash_kept_from_it(db: Db) {
        let site = add_site(&db, "default").await;
        let ring = start(&db, &RootSource::Text(roots()), false, Clock::System).await.unwrap().ring;
        assert_eq!(data_keys(&db).await.len(), 1);
        // So nothing has to be made while a transaction is open, which on SQLite could only wait for itself.
        let tx = db.begin().await.unwrap();
        let derived = tokio::time::timeout(Duration::from_secs(5), ring.derived(&db, &site, "audit")).await;
        derived.unwrap().unwrap();
        drop(tx);
    }

    async fn a_key_derived_for_a_site_is_its_own_and_outlives_every_rotation(db: Db) {
        let roots = roots();
        let (one, two) = (ring(&db, &roots).await, ring(&db, &roots).await);
        let (a, b) = (add_site(&db, "a").await, add_site(&db, "b").await);
        let key = one.derived(&db, &a, "audit").await.unwrap();
        assert_eq!(two.derived(&db, &a, "audit").await.unwrap().expose(), key.expose());
        assert_ne!(one.derived(&db, &a, "webhook").await.unwrap().expose(), key.expose());
        assert_ne!(one.derived(&db, &b, "audit").await.unwrap().expose(), key.expose());
        let rotated = rotate::rotate(&db, &one, None, None, |_| ()).await.unwrap();
        assert_eq!(rotated.new_keys, 0);
        assert_eq!(ring(&db, &roots).await.derived(&db, &a, "audit").await.unwrap().expose(), key.expose());
    }
}

/// Two processes with connections of their own, as two replicas have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_on_postgres_read_what_each_other_sealed() {
    let url = testing::postgres_url().await;
    let (db_one, db_two) = (testing::open_postgres(&url).await, testing::open_postgres(&url).await);
    let roots = roots();
    let (one, two) = (ring(&db_one, &roots).await, ring(&db_two, &roots).await);
    for n in 0..10 {
        let a = Home::new(&db_one, "default", &format!("p{n}"), "user:1").await;
        let b = Home { id: ConnectionId::new(), owner: "user:2".to_owned(), ..a.clone() };
        tokio::join!(a.save(&db_one, &one, "from one"), b.save(&db_two, &two, "from two"));
        assert_eq!(open(&db_two, &two, &a, &a.read(&db_two).await).await.unwrap(), "from one");
        assert_eq!(open(&db_one, &one, &b, &b.read(&db_one).await).await.unwrap(), "from two");
    }
    assert_eq!(data_keys(&db_one).await.len(), 10);
}

#[tokio::test]
async fn nothing_that_was_sealed_stands_in_the_clear_in_any_database_file() {
    let (db, dir) = testing::sqlite().await;
    let ring = ring(&db, &roots()).await;
    let home = Home::new(&db, "default", "github", "user:visible-owner").await;
    for n in 0..20 {
        home.save(&db, &ring, &format!("canary-{n}")).await;
    }
    let key = add_platform_key(&db, &ring, "default", "canary-platform").await;
    rotate::rotate(&db, &ring, None, None, |_| ()).await.unwrap();
    home.save(&db, &ring, "canary-last").await;
    assert_eq!(open(&db, &ring, &home, &home.read(&db).await).await.unwrap(), "canary-last");

    let found = |needle: &str| {
        std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| std::fs::read(path).unwrap().windows(needle.len()).any(|part| part == needle.as_bytes()))
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // What is not secret is found, so the search can find something; in the log before the checkpoint too.
    assert!(found("user:visible-owner").contains(&"valetkey.db-wal".to_owned()));
    assert!(!found(key.as_str()).is_empty());
    assert_eq!(found("canary"), [""; 0]);
    db.close().await;
    assert!(found("user:visible-owner").contains(&"valetkey.db".to_owned()));
    assert_eq!(found("canary"), [""; 0]);
}

// What the tests stand on.

/// One connection.
#[derive(Clone, Debug)]
struct Home {
    site: SiteId,
    provider: ProviderName,
    owner: String,
    name: AccountName,
    id: ConnectionId,
}

impl Home {
    async fn new(db: &Db, site: &str, provider: &str, owner: &str) -> Self {
        Self {
            site: add_site(db, site).await,
            provider: provider.parse().unwrap(),
            owner: owner.to_owned(),
            name: AccountName::default(),
            id: ConnectionId::new(),
        }
    }

    fn place(&self) -> Place<'_> {
        Place::connection(&self.site, &self.provider, &self.owner, &self.name, &self.id)
    }

    async fn save(&self, db: &Db, ring: &KeyRing, text: &str) {
        let sealed = ring.seal(db, &self.place(), &bytes(text)).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| {
            sqlx::query(
            "INSERT INTO connections (site, id, provider, owner, name, status, sealed, version, revision, identity, wanted_scopes,
                                      hosts, renewal, connected_at, updated_at, created_by, lease_number, failures)
             VALUES ($1, $2, $3, $4, $5, 'active', $6, 1, 0, 'owner', '[]', '[]', 'none', 0, 0, 'test', 0, 0)
             ON CONFLICT (site, id) DO UPDATE SET sealed = excluded.sealed"
        )
        .bind(self.site.as_str())
        .bind(self.id.as_str())
        .bind(self.provider.as_str())
        .bind(&self.owner)
        .bind(self.name.as_stored())
        .bind(sealed)
        .execute(c)
        .await
        .map(|_| ())
        .unwrap()
        });
        tx.commit().await.unwrap();
    }

    async fn overwrite(&self, db: &Db, sealed: &[u8]) {
        let mut tx = db.begin().await.unwrap();
        let changed = on!(&mut tx, |c| sqlx::query("UPDATE connections SET sealed = $1 WHERE site = $2 AND id = $3")
            .bind(sealed)
            .bind(self.site.as_str())
            .bind(self.id.as_str())
            .execute(c)
            .await
            .unwrap()
            .rows_affected());
        tx.commit().await.unwrap();
        assert_eq!(changed, 1);
    }

    async fn read(&self, db: &Db) -> Vec<u8> {
        self.read_with_revision(db).await.0
    }

    async fn read_with_revision(&self, db: &Db) -> (Vec<u8>, i64) {
        on!(db, |c| sqlx::query_as("SELECT sealed, revision FROM connections WHERE site = $1 AND id = $2")
            .bind(self.site.as_str())
            .bind(self.id.as_str())
            .fetch_one(c)
            .await
            .unwrap())
    }

    async fn numbers(&self, db: &Db) -> (i64, i64) {
        on!(db, |c| sqlx::query_as("SELECT version, revision FROM connections WHERE site = $1 AND id = $2")
            .bind(self.site.as_str())
            .bind(self.id.as_str())
            .fetch_one(c)
            .await
            .unwrap())
    }

    /// Adds one to the sealed number as a merge does: false when somebody else was faster.
    async fn count_up(&self, db: &Db, ring: &KeyRing) -> bool {
        let (sealed, revision) = self.read_with_revision(db).await;
        let number: u64 = open(db, ring, self, &sealed).await.unwrap().parse().unwrap();
        ring.ensure(db, self.site.as_str(), self.provider.as_str()).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        let sealed = ring.seal_now(&self.place(), &bytes(&(number + 1).to_string())).unwrap();
        let changed = on!(&mut tx, |c| sqlx::query(
            "UPDATE connections SET sealed = $1, revision = revision + 1 WHERE site = $2 AND id = $3 AND revision = $4"
        )
        .bind(sealed)
        .bind(self.site.as_str())
        .bind(self.id.as_str())
        .bind(revision)
        .execute(c)
        .await
        .unwrap()
        .rows_affected());
        tx.commit().await.unwrap();
        changed == 1
    }
}

async fn many(db: &Db, ring: &KeyRing, count: usize) -> Vec<Home> {
    let mut homes = Vec::new();
    for n in 0..count {
        let home = Home::new(db, "default", "github", &format!("user:{}", n + 1)).await;
        home.save(db, ring, &format!("canary {n}")).await;
        homes.push(home);
    }
    homes
}

async fn add_platform_key(db: &Db, ring: &KeyRing, site: &str, text: &str) -> PlatformKeyId {
    let (site, id) = (add_site(db, site).await, PlatformKeyId::new());
    let sealed = ring.seal(db, &Place::platform_key(&site, &id), &bytes(text)).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    on!(&mut tx, |c| sqlx::query(
        "INSERT INTO platform_keys (site, id, key_hash, prefix, label, scopes, asserts, sealed, created_by, created_at)
         VALUES ($1, $2, $2, '', '', '[]', '\"none\"', $3, 'test', 0)"
    )
    .bind(site.as_str())
    .bind(id.as_str())
    .bind(sealed)
    .execute(c)
    .await
    .map(|_| ())
    .unwrap());
    tx.commit().await.unwrap();
    id
}

async fn add_site(db: &Db, id: &str) -> SiteId {
    let mut tx = db.begin().await.unwrap();
    on!(&mut tx, |c| sqlx::query(
        "INSERT INTO sites (id, title, return_to, created_at) VALUES ($1, $1, '[]', 0) ON CONFLICT DO NOTHING"
    )
    .bind(id)
    .execute(c)
    .await
    .map(|_| ())
    .unwrap());
    tx.commit().await.unwrap();
    id.parse().unwrap()
}

async fn data_keys(db: &Db) -> Vec<(String, i64)> {
    on!(db, |c| sqlx::query_as("SELECT id, version FROM data_keys ORDER BY version").fetch_all(c).await.unwrap())
}

/// The bytes by which an envelope names the one data key of this version.
async fn home_key(db: &Db, version: i64) -> [u8; 16] {
    let keys = data_keys(db).await;
    let (id, _) = keys.iter().find(|(_, v)| *v == version).unwrap();
    let hex = id.strip_prefix("dek_").unwrap();
    std::array::from_fn(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
}

async fn open(db: &Db, ring: &KeyRing, home: &Home, sealed: &[u8]) -> Result<String> {
    ring.open(db, &home.place(), sealed).await.map(|plain| String::from_utf8(plain.expose().to_vec()).unwrap())
}

async fn ring(db: &Db, roots: &Secret) -> KeyRing {
    KeyRing::load_with_freshness(db, parse(roots), Clock::System, Duration::from_millis(100)).await.unwrap()
}

fn roots() -> Secret {
    RootKey::generate().unwrap().to_line()
}

fn parse(roots: &Secret) -> RootKeys {
    RootKeys::parse(roots).unwrap()
}

fn key_file(roots: &Secret) -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path: &Path = &folder.path().join("root.key");
    std::fs::write(path, roots.expose()).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    (folder, path.to_owned())
}

fn bytes(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}
