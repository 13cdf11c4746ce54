//! Fills a database for `benches/run`: an agent with a token, and many connections that it may use.
//!
//! A million connect flows in a browser would take days, so the rows are written by the calls that the flows end in:
//! sealed, audited and granted one by one, in transactions of a thousand. The server must not be running on SQLite.
//!
//! `bench_seed (--data DIR | --database URL --root-key-file FILE) --provider NAME --host HOST --connections N --ids FILE`
//!
//! The ids of the connections go to FILE, one a line; standard output is the agent's token.
#![expect(clippy::print_stdout, reason = "a command of its own")]

use std::{collections::BTreeSet, error::Error, io::Write as _, path::PathBuf, time::Duration};

use serde_json::json;
use tokio::task::JoinSet;
use valetkey::{
    agent::{self, NewAgent},
    audit::{Audit, Mode},
    base::Base,
    clock::{Clock, Timestamp},
    connection::{self, Identity, NewConnection, Renewal, Tokens},
    db::{Db, DbConfig},
    grant::{self, ForWhom, NewGrant},
    id::{AccountName, ConnectionId, ProviderName, SiteId, UserId},
    principal::{Actor, Delivery, Owner},
    seal::{RootSource, start},
    secret::{Secret, SecretBytes, SecretMap},
    site,
    token::{self, NewToken},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const BATCH: usize = 1_000;
const WRITERS: usize = 4;
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::main]
async fn main() -> Result<()> {
    let provider: ProviderName = required("--provider")?.parse()?;
    let host = required("--host")?;
    let wanted: usize = required("--connections")?.parse()?;
    let ids_file = PathBuf::from(required("--ids")?);
    let base = open().await?;

    let site: SiteId = "default".parse()?;
    if site::get(&base.db, &site).await?.is_none() {
        site::create(&base, &Actor::Operator, &site, "Default").await?;
    }
    base.ring.ensure(&base.db, site.as_str(), provider.as_str()).await?;
    let new_agent = NewAgent { id: None, slug: "bench".to_owned(), title: String::new(), owner: None };
    let agent = agent::create(&base, &site, &Actor::Operator, new_agent).await?;
    let label = NewToken { label: "bench".to_owned(), ..NewToken::default() };
    let (_, text) = token::mint(&base, &site, &Actor::Operator, &agent.id, label).await?;

    // SQLite has one writer and takes them in turn; PostgreSQL takes several at once.
    let mut writers = JoinSet::new();
    for first in 0..WRITERS {
        let (base, site, provider, host, agent) = (base.clone(), site.clone(), provider.clone(), host.clone(), agent.id.clone());
        let numbers: Vec<usize> = (first + 1..=wanted).step_by(WRITERS).collect();
        writers.spawn(async move {
            let mut ids = Vec::with_capacity(numbers.len());
            for batch in numbers.chunks(BATCH) {
                let mut tx = base.db.begin().await?;
                for &number in batch {
                    let new = new_connection(&base, &site, &provider, &host, number)?;
                    let id = connection::insert(&base, &mut tx, &Actor::Operator, &new).await?;
                    let delivery = BTreeSet::from([Delivery::Proxy, Delivery::Reveal]);
                    let new = NewGrant { delivery, ..NewGrant::proxy(&agent, &id, ForWhom::Unattended) };
                    grant::create_in(&base, &mut tx, &site, &Actor::Operator, new).await?;
                    ids.push(id);
                }
                tx.commit().await?;
            }
            Result::Ok(ids)
        });
    }
    let mut ids: Vec<ConnectionId> = Vec::with_capacity(wanted);
    while let Some(done) = writers.join_next().await {
        ids.extend(done??);
    }

    let mut file = std::io::BufWriter::new(std::fs::File::create(ids_file)?);
    for id in &ids {
        writeln!(file, "{id}")?;
    }
    file.flush()?;
    println!("{}", text.expose());
    base.db.close().await;
    Ok(())
}

async fn open() -> Result<Base> {
    let clock = Clock::default();
    let (config, default_key) = match (flag("--data").map(PathBuf::from), flag("--database")) {
        (Some(dir), None) => {
            let key = dir.join("root.key");
            (DbConfig::Sqlite { dir, patience: Duration::from_secs(5) }, Some(key))
        }
        (None, Some(url)) => (DbConfig::Postgres { url: Secret::new(url), max_connections: 4 }, None),
        _ => return Err("give --data or --database".into()),
    };
    let key = RootSource::choose(flag("--root-key-file").map(PathBuf::from), None, None, default_key)?;
    let db = Db::open(&config).await?;
    let ring = start(&db, &key, true, clock.clone()).await?.ring;
    let audit = Audit::new(clock.clone(), ring.clone(), Mode::Batched);
    Ok(Base { db, ring, clock, audit })
}

/// An account as a finished flow leaves it: tokens of a usual length, good for a month.
fn new_connection(base: &Base, site: &SiteId, provider: &ProviderName, host: &str, number: usize) -> Result<NewConnection> {
    let now = base.clock.now();
    let user: UserId = number.to_string().parse()?;
    let account = json!({
        "access_token": format!("bench-access-{number:012}-{}", "a".repeat(64)),
        "refresh_token": format!("bench-refresh-{number:012}-{}", "r".repeat(64)),
        "token_type": "Bearer",
        "username": format!("user{number}"),
    });
    let expires_at = Timestamp(now.0 + 30 * i64::try_from(DAY.as_micros())?);
    Ok(NewConnection {
        site: site.clone(),
        provider: provider.clone(),
        owner: Owner::User(user),
        name: AccountName::default(),
        account: SecretMap::from_json(&SecretBytes::new(serde_json::to_vec(&account)?))?,
        tokens: Tokens {
            renewal: Renewal::RefreshToken,
            issued_at: Some(now),
            expires_at: Some(expires_at),
            usual_life: Some(i64::try_from((30 * DAY).as_secs())?),
            refresh_expires_at: None,
            refresh_at: Some(Timestamp(expires_at.0 - i64::try_from(DAY.as_micros())?)),
            scopes: Some(vec!["read".to_owned()]),
        },
        app_config: None,
        client_id: Some("bench".to_owned()),
        subject: Some(format!("subject-{number}")),
        subject_name: Some(format!("user{number}")),
        identity: Identity::Verified,
        wanted_scopes: vec!["read".to_owned()],
        hosts: vec![host.to_owned()],
        call_hosts: Some(vec![host.to_owned()]),
    })
}

fn flag(name: &str) -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().and_then(|_| arguments.next())
}

fn required(name: &str) -> Result<String> {
    flag(name).ok_or_else(|| format!("{name} is missing").into())
}
