//! What the tests of moving in share: a broker of its own time, the fixtures, and the way from one to the other.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use serde_json::Value;
use valetkey::{
    Result, app_config,
    base::Outside,
    clock::{Clock, Timestamp},
    connection::accounts::{self, Slot},
    db::Db,
    id::SiteId,
    import::{
        apply::{Import, Report},
        data_machine::{
            dump, envelope, option,
            plan::{Findings, Source},
            salts::Salts,
            tables::Tables,
        },
        item::{Header, Line, OnConflict},
    },
    principal::{Actor, Owner},
    provider::Catalogue,
    secret::{SecretBytes, SecretMap},
    site,
    upstream::{self, Upstream},
};

use crate::support::House;

/// When the fixtures were made: 2026-11-22 02:22:30 UTC.
pub(crate) const MADE: i64 = 1_795_314_150;
/// The two sites that were written down.
pub(crate) const SITES: [&str; 2] = ["single-wpconfig", "multisite-dbsalts"];

/// A broker that knows the built-in providers.
pub(crate) struct Harbour {
    pub(crate) outside: Outside,
    pub(crate) site: SiteId,
}

/// How to move in.
pub(crate) fn header() -> Header {
    Header { dry_run: false, on_conflict: OnConflict::Fail, trust_identities: false, providers: Vec::new() }
}

impl Harbour {
    pub(crate) async fn new(db: &Db) -> Self {
        let mut house = House::new(db).await;
        house.base.clock = Clock::manual(Timestamp::from_unix_seconds(MADE));
        let outside = Outside {
            base: house.base,
            catalogue: Arc::new(Catalogue::embedded().unwrap()),
            upstream: Upstream::new(upstream::Settings::default()).unwrap(),
            public_url: "https://keys.example.test".parse().unwrap(),
            extensions: valetkey::extend::Extensions::default(),
        };
        Self { outside, site: house.site }
    }

    /// The same broker with another, empty site.
    pub(crate) async fn also(&self, name: &str) -> Self {
        let site = name.parse().unwrap();
        site::create(&self.outside.base, &Actor::Operator, &site, name).await.unwrap();
        Self { outside: self.outside.clone(), site }
    }

    /// Moves a fixture in.
    pub(crate) async fn bring(&self, site: &str, header: Header) -> Result<(Report, Findings)> {
        let bytes = fixture(site, "auth_data.serialized");
        self.bring_option(&bytes, Some(&salts(site)), header).await
    }

    /// Moves an option in.
    pub(crate) async fn bring_option(&self, bytes: &[u8], salts: Option<&Salts>, header: Header) -> Result<(Report, Findings)> {
        let option = option::read(bytes).unwrap();
        let key = salts.map(|salts| envelope::Key::derive(salts).unwrap());
        self.bring_source(&Source { auth_data: Some(&option), ..Source::default() }, key.as_ref(), header).await
    }

    /// Moves a fixture's dump in: accounts, agents, tokens, roles, tokens for other sites.
    pub(crate) async fn bring_dump(&self, site: &str, header: Header) -> Result<(Report, Findings)> {
        let dump = dump::read(&fixture(site, "dump.extended.sql")[..], &dump::Choice::default()).unwrap();
        let auth_data = option::read(dump.auth_data.as_ref().unwrap().expose()).unwrap();
        let external_tokens = option::read(dump.external_tokens.as_ref().unwrap().expose()).unwrap();
        let tables = Tables {
            agents: dump.agents.as_deref().unwrap(),
            tokens: dump.tokens.as_deref().unwrap(),
            access: dump.access.as_deref().unwrap(),
            principals: dump.principal_access.as_deref().unwrap(),
            users: dump.users.as_ref(),
        };
        let key = envelope::Key::derive(&salts(site)).unwrap();
        let source = Source { auth_data: Some(&auth_data), external_tokens: Some(&external_tokens), tables: Some(tables) };
        self.bring_source(&source, Some(&key), header).await
    }

    pub(crate) async fn bring_source(
        &self,
        source: &Source<'_, '_>,
        key: Option<&envelope::Key>,
        header: Header,
    ) -> Result<(Report, Findings)> {
        let mut lines = Vec::new();
        let found = source
            .plan(key, &mut |line| {
                // As it travels: written and read again.
                lines.push(serde_json::to_string(&line).unwrap());
                ControlFlow::Continue(())
            })
            .unwrap();
        let header = Header { providers: source.providers(), ..header };
        let mut import = Import::begin(&self.outside, &self.site, &Actor::Operator, header).await?;
        for line in &lines {
            let Line::Item { at, item } = serde_json::from_str(line).unwrap() else { panic!("an end") };
            import.item(at, item).await?;
        }
        let report = import.end(lines.len() as u64, found.unreadable.len() as u64).await?;
        Ok((report, found))
    }

    pub(crate) fn slot(&self, provider: &str, owner: Owner, name: &str) -> Slot {
        Slot { site: self.site.clone(), provider: provider.parse().unwrap(), owner, name: name.parse().unwrap() }
    }

    /// The account in a slot.
    pub(crate) async fn account(&self, provider: &str, owner: Owner, name: &str) -> Option<SecretMap> {
        let slot = self.slot(provider, owner, name);
        accounts::reveal(&self.outside.base, &Actor::Operator, &slot).await.unwrap().map(|(_, account)| account)
    }

    /// An owner's configuration.
    pub(crate) async fn config(&self, provider: &str, owner: &Owner) -> Option<SecretMap> {
        let base = &self.outside.base;
        let config = app_config::current(&base.db, &self.site, &provider.parse().unwrap(), owner).await.unwrap()?;
        Some(app_config::open(base, &config).await.unwrap())
    }
}

/// A file of the fixtures.
pub(crate) fn fixture(site: &str, name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-machine").join(site).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of the fixtures as JSON.
pub(crate) fn fixture_json(site: &str, name: &str) -> Value {
    serde_json::from_slice(&fixture(site, name)).unwrap()
}

/// A site's salts.
pub(crate) fn salts(site: &str) -> Salts {
    let salts = fixture_json(site, "salts.json");
    let part = |name: &str| SecretBytes::new(salts[name]["value"].as_str().unwrap().as_bytes().to_vec());
    Salts::given(part("auth_key"), part("auth_salt"))
}
