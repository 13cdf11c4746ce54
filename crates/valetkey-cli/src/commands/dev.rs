//! `valetkey dev`: everything on this machine, by one command.
//!
//! 1. The provider lab starts on a loopback port of its own; it is the outside world.
//! 2. The broker starts on SQLite in a folder that `dev` made, and in no other: it changes the site and revokes accounts
//!    there. It knows the lab by a definition in that folder, and the lab's address is the only private one it speaks to.
//! 3. Through the API: the app at the lab, a platform key, an agent `demo` that belongs to alice.
//! 4. The demo platform starts (`dev/platform.rs`), and its URL is printed.
//!
//! What is here is for trying out: the demo platform signs everybody in as alice, and the lab lets anybody be anybody. So
//! all three listen on loopback only.

mod api;
mod pages;
mod platform;

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use clap::Args;
use http::Method;
use provider_lab::Lab;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;
use valetkey::{Broker, db::DbConfig, id::SiteId, provider::Trust, seal::RootSource, secret::Secret, upstream::AllowPrivate};
use valetkey_http::HttpSettings;

use self::{api::Api, platform::Platform};
use super::{Session, serve::Running};
use crate::{
    client::{Client, segment, with_query},
    failure::{Failure, Result},
    opened,
    output::{cell, items, quoted},
    settings::Place,
};

/// The folder where no other is named.
const FOLDER: &str = ".valetkey-dev";
/// The file by which a folder is known as ours to change and to empty.
const MARK: &str = "made-by-valetkey-dev";
/// The provider's name.
const PROVIDER: &str = "lab";
/// What the platform's key is called.
const KEY_LABEL: &str = "demo platform";
/// The person who is signed in at the demo platform, and their agent.
const USER: &str = "alice";
const AGENT: &str = "demo";
const BROKER_PORT: u16 = 8320;
const LAB_PORT: u16 = 8321;
const PLATFORM_PORT: u16 = 8322;

/// How to try it.
#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Where the broker listens; loopback only [default: 127.0.0.1:8320, or a free port]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

impl Dev {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let folder = self.folder(session)?;
        let _ = fs::create_dir_all(folder.join("providers"));
        let lab = start_lab().await?;
        let broker_port = match self.listen {
            Some(address) if address.ip().is_loopback() => super::serve::listen(address).await?,
            Some(_) => return Err(Failure::usage("`dev` listens on loopback only; `valetkey serve` is for others")),
            None => usual_or_free(BROKER_PORT).await?,
        };
        let platform_port = usual_or_free(PLATFORM_PORT).await?;
        let (broker_address, platform_address) = (address(&broker_port)?, address(&platform_port)?);

        let started = start_broker(session, &folder, &lab, broker_address).await?;
        let running = Running::start(&started, HttpSettings::default(), broker_port, Some(&folder)).await?;
        let operator = Client::at(folder.join(crate::client::SOCKET), SiteId::default_site());
        let platform = set_up(&operator, &lab, broker_address, platform_address, &folder).await?;

        let url = platform.url();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(platform::serve(platform_port, platform, stop.clone()));
        if session.out.json {
            session.out.document(&json!({
                "url": url,
                "broker": format!("http://{broker_address}"),
                "lab": lab.origin(),
                "data": folder,
            }))?;
        } else {
            session.out.text(&format!(
                "\nOpen this in your browser:\n\n    {url}\n\nThe broker is at http://{broker_address}, the lab at {}, the data in {}. Ctrl-C ends all of it.\n",
                lab.origin(),
                folder.display()
            ))?;
        }
        let outcome = running.until_told().await;
        stop.cancel();
        if tokio::time::timeout(Duration::from_secs(2), serving).await.is_err() {
            tracing::debug!("the demo platform was still answering");
        }
        lab.stop().await;
        outcome
    }

    /// The folder to work in: the one that was named, or a fresh one.
    fn folder(&self, session: &Session) -> Result<PathBuf> {
        let settings = &session.settings;
        if let Some(first) = settings.only_for_servers.first() {
            return Err(Failure::usage(format!("`dev` brings its own; leave out {first}")));
        }
        let folder = match (&settings.place, settings.place_was_said) {
            (Place::Postgres(_), _) => {
                return Err(Failure::usage("`dev` uses the embedded database; try PostgreSQL with `valetkey serve`"));
            }
            (Place::Folder(dir), true) => dir.clone(),
            (Place::Folder(_), false) => PathBuf::from(FOLDER),
        };
        match settings.place_was_said {
            true => named(&folder)?,
            false => fresh(&folder)?,
        }
        Ok(folder)
    }
}

/// Makes the folder that was named, or goes on in it where an earlier `dev` made it.
fn named(folder: &Path) -> Result<()> {
    let is_empty = fs::read_dir(folder).map(|mut inside| inside.next().is_none());
    match is_empty {
        Ok(false) => refuse_others(folder),
        Ok(true) => mark(folder),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(folder),
        Err(error) => Err(Failure::usage(format!("{} is no folder that can be read", folder.display())).with_detail(error)),
    }
}

/// Refuses a folder without our mark: there may be a database of somebody's in it.
fn refuse_others(folder: &Path) -> Result<()> {
    if folder.join(MARK).exists() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} exists and was not made by `valetkey dev`, which would change the site in it and revoke accounts; name another \
         folder with --data",
        folder.display()
    )))
}

fn make(folder: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700).recursive(true).create(folder).map_err(|e| failed(folder, e))?;
    mark(folder)
}

fn mark(folder: &Path) -> Result<()> {
    fs::write(folder.join(MARK), "`valetkey dev` made this folder, and empties it whenever it starts without --data.\n")
        .map_err(|e| failed(folder, e))?;
    // Nothing in it is for a repository.
    fs::write(folder.join(".gitignore"), "*\n").map_err(|e| failed(folder, e))
}

fn failed(folder: &Path, error: std::io::Error) -> Failure {
    Failure::unreachable(format!("{} cannot be made", folder.display())).with_detail(error)
}

/// Makes the usual folder, or empties the one that an earlier `dev` made.
fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        refuse_others(folder)?;
        if let Some(holder) = valetkey::db::holder(folder) {
            return Err(Failure::unreachable(format!(
                "{holder} runs in {}; end it first, or name another folder with --data",
                folder.display()
            )));
        }
        fs::remove_dir_all(folder).map_err(|e| failed(folder, e))?;
    }
    make(folder)
}

async fn start_lab() -> Result<Lab> {
    let failed = |error: std::io::Error| Failure::unreachable("the provider lab could not be started").with_detail(error);
    match Lab::start(loopback(LAB_PORT)).await {
        Ok(lab) => Ok(lab),
        Err(_) => Lab::start(loopback(0)).await.map_err(failed),
    }
}

async fn start_broker(session: &Session, folder: &Path, lab: &Lab, address: SocketAddr) -> Result<valetkey::Started> {
    let providers = folder.join("providers");
    fs::write(providers.join(format!("{PROVIDER}.toml")), lab.definition_toml())
        .map_err(|error| Failure::unreachable(format!("{} cannot be written", providers.display())).with_detail(error))?;
    let url = |text: String| Url::parse(&text).map_err(|error| Failure::failed("the address is no URL").with_detail(error));
    let allowed: AllowPrivate = lab.addr().to_string().parse()?;
    let db = DbConfig::Sqlite { dir: folder.to_owned(), patience: Duration::from_secs(5) };
    let usual = opened::broker_settings(&session.settings, db, url(format!("http://{address}"))?)?;
    let settings = valetkey::Settings {
        root: RootSource::File(folder.join("root.key")),
        providers: Some(providers),
        trust: Trust::Dev,
        upstream: valetkey::upstream::Settings { allow_private: vec![allowed], ..valetkey::upstream::Settings::default() },
        ..usual
    };
    Broker::start(settings).await.map_err(|error| Failure::opening(&error))
}

/// What an operator would set up once, through the API.
async fn set_up(operator: &Client, lab: &Lab, broker: SocketAddr, platform: SocketAddr, folder: &Path) -> Result<Platform> {
    let app = json!({ "values": { "client_id": provider_lab::CLIENT_ID, "client_secret": provider_lab::CLIENT_SECRET } });
    operator.call(Method::PUT, &format!("/v1/providers/{PROVIDER}/config"), Some(&app)).await?;
    let site = json!({
        "title": "the demo platform",
        "return_to": [format!("http://{platform}/")],
        "signin_url": format!("http://{platform}/signin"),
    });
    operator.call(Method::PATCH, "/v1/sites/default", Some(&site)).await?;
    forget_earlier_runs(operator).await?;
    let key = json!({
        "label": KEY_LABEL,
        "scopes": ["connect", "signin", "agents", "grants", "accounts:read"],
        "asserts": [USER],
    });
    let key = operator.call(Method::POST, "/v1/keys", Some(&key)).await?;
    let agent = match operator.call(Method::GET, &format!("/v1/agents/{AGENT}"), None).await {
        Err(failure) if failure.code() == "not_found" => {
            let agent = json!({ "slug": AGENT, "title": "Demo agent", "owner": USER });
            operator.call(Method::POST, "/v1/agents", Some(&agent)).await?
        }
        found => found?,
    };
    Ok(Platform {
        address: platform,
        api: Api { broker, key: Secret::new(cell(&key, "/key")) },
        key_id: cell(&key, "/id").parse()?,
        assertion_secret: Secret::new(cell(&key, "/assertion_secret")),
        user: USER.parse()?,
        agent: (cell(&agent, "/id"), AGENT.to_owned()),
        provider: PROVIDER.to_owned(),
        lab: lab.origin(),
        valetkey: command_line(folder),
        handed: Mutex::new(HashMap::new()),
    })
}

/// Ends what an earlier run in the same folder left: the lab forgot its accounts, and nobody has its platform key any more.
async fn forget_earlier_runs(operator: &Client) -> Result<()> {
    let connections = operator.call(Method::GET, &with_query("/v1/connections", &[("provider", Some(PROVIDER))]), None).await?;
    for connection in items(&connections, "connections") {
        let path = format!("/v1/connections/{}", segment(&cell(connection, "/id"))?);
        let path = with_query(&path, &[("upstream", Some("skip")), ("reason", Some("the lab that knew it has ended"))]);
        operator.call(Method::DELETE, &path, None).await?;
    }
    let keys = operator.call(Method::GET, "/v1/keys", None).await?;
    let ours = |key: &&Value| cell(key, "/label") == KEY_LABEL && cell(key, "/revoked_at").is_empty();
    for key in items(&keys, "keys").iter().filter(ours) {
        operator.call(Method::DELETE, &format!("/v1/keys/{}", segment(&cell(key, "/id"))?), None).await?;
    }
    Ok(())
}

/// How this very program is called again for that folder, from where it was called now.
fn command_line(folder: &Path) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("valetkey"));
    let here = std::env::current_dir().unwrap_or_default();
    let program = program.strip_prefix(&here).unwrap_or(&program);
    format!("{} --data {}", quoted(&program.display().to_string()), quoted(&folder.display().to_string()))
}

async fn usual_or_free(port: u16) -> Result<TcpListener> {
    match TcpListener::bind(loopback(port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => super::serve::listen(loopback(0)).await,
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| Failure::failed("the port has no address").with_detail(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_that_dev_made_is_emptied() {
        let base = tempfile::tempdir().unwrap();
        let (ours, theirs) = (base.path().join("ours"), base.path().join("theirs"));
        fresh(&ours).unwrap();
        fs::write(ours.join("old"), "x").unwrap();
        fresh(&ours).unwrap();
        assert!(!ours.join("old").exists() && ours.join(MARK).exists());
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("thesis.txt"), "x").unwrap();
        assert!(fresh(&theirs).is_err());
        assert!(theirs.join("thesis.txt").exists());
    }

    #[test]
    fn a_folder_that_is_named_is_kept_and_must_be_empty_or_ours() {
        let base = tempfile::tempdir().unwrap();
        let (fresh, empty, theirs) = (base.path().join("a/b"), base.path().join("empty"), base.path().join("theirs"));
        fs::create_dir(&empty).unwrap();
        for folder in [&fresh, &empty] {
            named(folder).unwrap();
            fs::write(folder.join(opened::DATABASE), "x").unwrap();
            named(folder).unwrap();
            assert!(folder.join(opened::DATABASE).exists() && folder.join(MARK).exists());
        }
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join(opened::DATABASE), "x").unwrap();
        assert!(named(&theirs).is_err());
        assert!(!theirs.join(MARK).exists());
    }
}
