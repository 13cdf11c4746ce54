//! A refresh storm for `benches/run storm`: many connections over several stand-in providers, all about to expire.
//!
//! 1. It starts the labs, each a provider of its own, and writes their definitions.
//! 2. It fills a database with connections whose tokens the labs really gave out. The server must not be running yet.
//! 3. It writes down which is which (`--plan`), says `ready`, and plays the labs until its standard input ends: each call
//!    takes a while, those of one provider take long, and one provider is not there any more.
//!
//! `bench_storm --data DIR --definitions DIR --plan FILE --providers N --connections N --soonest S --latest S --delay MS
//! --slow MS`
#![expect(clippy::print_stdout, reason = "a command of its own")]

use std::{error::Error, io::Read as _, path::PathBuf, time::Duration};

use provider_lab::{At, CLIENT_ID, CLIENT_SECRET, DefinitionOptions, Fault, Lab, Rule, fingerprint};
use serde_json::json;
use valetkey::{
    app_config,
    audit::{Audit, Mode},
    base::Base,
    clock::{Clock, Timestamp},
    connection::{self, Identity, NewConnection, Renewal, Tokens},
    db::{Db, DbConfig},
    id::{AppConfigId, ProviderName, SiteId},
    principal::{Actor, Owner},
    provider::{Catalogue, Definition, Trust},
    seal::{RootSource, start},
    secret::{Secret, SecretMap},
    site,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long an access token of the labs lives.
const LIFE: Duration = Duration::from_secs(3600);
const BATCH: usize = 1_000;
const SCOPES: &str = "posts:read posts:write profile";

/// One provider of the storm.
struct Played {
    name: ProviderName,
    lab: Lab,
    kind: &'static str,
}

#[tokio::main]
async fn main() -> Result<()> {
    let definitions = PathBuf::from(required("--definitions")?);
    let data = PathBuf::from(required("--data")?);
    let plan = PathBuf::from(required("--plan")?);
    let number = |name: &str| -> Result<u64> { Ok(required(name)?.parse()?) };
    let (providers, connections) = (number("--providers")?, number("--connections")?);
    let (soonest, latest) = (number("--soonest")?, number("--latest")?);
    let (delay, slow) = (number("--delay")?, number("--slow")?);
    if providers < 3 || latest <= soonest {
        return Err("a storm needs three providers or more, and a while to go on".into());
    }

    std::fs::create_dir_all(&definitions)?;
    let mut played = Vec::new();
    for index in 0..providers {
        let lab = Lab::start("127.0.0.1:0".parse()?).await?;
        let name: ProviderName = format!("storm_{index:02}").parse()?;
        let text = lab.definition(&DefinitionOptions { access_ttl: Some("1h".to_owned()), ..DefinitionOptions::default() });
        std::fs::write(definitions.join(format!("{name}.toml")), text)?;
        let kind = match index {
            0 => "dead",
            1 => "slow",
            _ => "healthy",
        };
        played.push(Played { name, lab, kind });
    }
    let catalogue = Catalogue::embedded()?.with_folder(&definitions, Trust::Dev).map_err(|problems| format!("{problems:?}"))?;

    let base = open(data).await?;
    let site = SiteId::default_site();
    site::create(&base, &Actor::Operator, &site, "Default").await?;
    let mut apps = Vec::new();
    for provider in &played {
        let definition = catalogue.get(&provider.name).ok_or("a definition that was written is not there")?.clone();
        let values = json!({ "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET });
        let values = values.as_object().ok_or("no object")?;
        let app = app_config::set(&base, &site, &Actor::Operator, &definition, &Owner::Site, values).await?;
        base.ring.ensure(&base.db, site.as_str(), provider.name.as_str()).await?;
        apps.push((definition, app.id));
    }

    let now = base.clock.now();
    let mut rows = Vec::new();
    let numbers: Vec<u64> = (0..connections).collect();
    for batch in numbers.chunks(BATCH) {
        let mut tx = base.db.begin().await?;
        for &number in batch {
            let index = usize::try_from(number % providers)?;
            let (provider, (definition, app)) = (&played[index], &apps[index]);
            // Evenly over the time, and each provider's too.
            let left = Duration::from_millis(soonest * 1000 + (latest - soonest) * 1000 * number / connections);
            let ends = now.plus(left);
            let (new, refresh_token) = new_connection(&site, provider, definition, app, number, now, ends)?;
            connection::insert(&base, &mut tx, &Actor::Operator, &new).await?;
            rows.push(json!({ "provider": index, "sha256": fingerprint(&refresh_token), "ends_ms": ends.0 / 1000 }));
        }
        tx.commit().await?;
    }
    base.db.close().await;
    // With it goes the lock on the folder, which the server takes next.
    drop(base);

    let mut told = Vec::new();
    let mut running = Vec::new();
    for Played { name, lab, kind } in played {
        told.push(json!({ "name": name, "host": lab.addr().to_string(), "kind": kind }));
        match kind {
            // Nobody listens there from now on.
            "dead" => lab.stop().await,
            kind => {
                let ms = if kind == "slow" { slow } else { delay };
                lab.misbehave(Rule::always(At::Refresh, Fault::DelayBefore { ms }));
                running.push(lab);
            }
        }
    }
    std::fs::write(plan, json!({ "providers": told, "connections": rows }).to_string())?;
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    for lab in running {
        lab.stop().await;
    }
    Ok(())
}

async fn open(dir: PathBuf) -> Result<Base> {
    let clock = Clock::default();
    let key = RootSource::File(dir.join("root.key"));
    let db = Db::open(&DbConfig::Sqlite { dir, patience: Duration::from_secs(5) }).await?;
    let ring = start(&db, &key, true, clock.clone()).await?.ring;
    let audit = Audit::new(clock.clone(), ring.clone(), Mode::Batched);
    Ok(Base { db, ring, clock, audit })
}

/// An account as a finished flow leaves it, most of an hour ago; and its refresh token.
fn new_connection(
    site: &SiteId,
    provider: &Played,
    definition: &Definition,
    app: &AppConfigId,
    number: u64,
    now: Timestamp,
    ends: Timestamp,
) -> Result<(NewConnection, String)> {
    let issued = provider.lab.issue(CLIENT_ID, "alice", SCOPES).ok_or("the lab knows no such client")?;
    let refresh_token = issued.refresh_token.ok_or("the lab gave no refresh token")?;
    let mut account = SecretMap::default();
    account.set_text("access_token", &Secret::new(issued.access_token));
    account.set_text("refresh_token", &Secret::new(refresh_token.as_str()));
    account.set_text("token_type", &Secret::new("bearer"));
    let issued_at = ends.minus(LIFE).min(now);
    let scopes: Vec<String> = SCOPES.split(' ').map(str::to_owned).collect();
    let new = NewConnection {
        site: site.clone(),
        provider: provider.name.clone(),
        // No person's id is 0.
        owner: Owner::User((number + 1).to_string().parse()?),
        name: "".parse()?,
        account,
        tokens: Tokens {
            renewal: Renewal::RefreshToken,
            issued_at: Some(issued_at),
            expires_at: Some(ends),
            usual_life: Some(i64::try_from(LIFE.as_secs())?),
            refresh_expires_at: None,
            refresh_at: connection::due_at(definition, Renewal::RefreshToken, Some(issued_at), Some(ends), None),
            scopes: Some(scopes.clone()),
        },
        app_config: Some(app.clone()),
        client_id: Some(CLIENT_ID.to_owned()),
        subject: Some(format!("subject-{number}")),
        subject_name: Some("alice".to_owned()),
        identity: Identity::Verified,
        wanted_scopes: scopes,
        hosts: vec![provider.lab.addr().to_string()],
        call_hosts: Some(vec![provider.lab.addr().to_string()]),
    };
    Ok((new, refresh_token))
}

fn required(name: &str) -> Result<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.next().and_then(|_| arguments.next()).ok_or_else(|| format!("{name} is missing").into())
}
