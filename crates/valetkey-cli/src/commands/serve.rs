//! `valetkey serve`: the broker with its HTTP faces.
//!
//! 1. The port is taken first: whoever cannot have it leaves the database alone.
//! 2. The broker starts, which opens the database and refuses what is not safe to run with.
//! 3. On SQLite the operator's socket is opened in the data folder. Only the holder of the folder's lock gets here, so an
//!    old socket file is a dead process's.
//! 4. A first start says how to go on.
//! 5. SIGTERM or SIGINT: `/readyz` says no, nothing new is accepted, open requests end, the background work ends, the
//!    database is closed. A second signal ends it at once. SIGHUP reads the root keys again.

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde_json::json;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use url::Url;
use valetkey::{Broker, Started, audit, db::DbConfig, refresh};
use valetkey_http::{AppState, HttpSettings, Lanes};

use super::Session;
use crate::{
    failure::{Failure, Result},
    moments::duration,
    opened::{self, USUAL_CONNECTIONS, USUAL_LISTEN},
    output::quoted,
    settings::{Place, is_loopback},
};

/// How long a starting server waits for a former one to let go of the data folder (decisions 10).
const PATIENCE: Duration = Duration::from_secs(5);

/// How to serve.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Where to listen, without TLS, which stands in front
    #[arg(long, env = "VALETKEY_LISTEN", value_name = "ADDR", default_value = USUAL_LISTEN)]
    listen: SocketAddr,
    /// A proxy in front whose X-Forwarded-* headers count, such as 10.0.0.5/32; may be repeated
    #[arg(long, env = "VALETKEY_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    trusted_proxy: Vec<IpNet>,
    /// When the answer to a use may leave: batched (a crash can lose the last 200 ms of the audit's uses) or strict (after
    /// the commit that holds its row)
    #[arg(long, env = "VALETKEY_AUDIT", value_name = "MODE", value_enum, default_value_t)]
    audit: AuditMode,
    /// How long a provider may take to answer a refresh
    #[arg(long, env = "VALETKEY_REFRESH_DEADLINE", value_name = "TIME", default_value = "30s", value_parser = duration)]
    refresh_deadline: Duration,
    /// How much longer a refresh is left to its holder, before another replica may take over
    #[arg(long, env = "VALETKEY_REFRESH_LEASE_EXTRA", value_name = "TIME", default_value = "15s", value_parser = duration)]
    refresh_lease_extra: Duration,
    /// How often tokens are looked for that are to be refreshed ahead of time
    #[arg(long, env = "VALETKEY_REFRESH_INTERVAL", value_name = "TIME", default_value = "15s", value_parser = duration)]
    refresh_interval: Duration,
    /// The most connections to PostgreSQL, 6 or more: look-ups keep up to three
    #[arg(long, env = "VALETKEY_MAX_CONNECTIONS", value_name = "N", default_value_t = USUAL_CONNECTIONS,
        value_parser = clap::value_parser!(u32).range(6..=1000))]
    max_connections: u32,
    /// A file of further root certificates (PEM) for providers inside your own network
    #[arg(long, env = "VALETKEY_EXTRA_ROOTS", value_name = "FILE")]
    extra_roots: Option<PathBuf>,
    /// Let /metrics answer without a key: where only the monitoring reaches this port
    #[arg(long, env = "VALETKEY_OPEN_METRICS")]
    open_metrics: bool,
}

/// When the answer to a use may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditMode {
    /// When its row is queued.
    #[default]
    Batched,
    /// When its row is committed.
    Strict,
}

impl Serve {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let settings = &session.settings;
        let listener = listen(self.listen).await?;
        let address = listener.local_addr().map_err(|error| Failure::failed("the port has no address").with_detail(error))?;
        let public_url = public_url(settings.public_url.as_ref(), address)?;
        let (db, folder) = match &settings.place {
            Place::Folder(dir) => (DbConfig::Sqlite { dir: dir.clone(), patience: PATIENCE }, Some(dir.clone())),
            Place::Postgres(url) => (DbConfig::Postgres { url: url.clone(), max_connections: self.max_connections }, None),
        };
        let mut broker = opened::broker_settings(settings, db, public_url.clone()).map_err(|error| Failure::opening(&error))?;
        broker.audit = match self.audit {
            AuditMode::Batched => audit::Mode::Batched,
            AuditMode::Strict => audit::Mode::Strict,
        };
        broker.refresh = refresh::Settings {
            deadline: self.refresh_deadline,
            lease_extra: self.refresh_lease_extra,
            keeper_interval: self.refresh_interval,
            ..refresh::Settings::default()
        };
        if let Some(path) = &self.extra_roots {
            let pem = std::fs::read(path).map_err(|error| {
                Failure::usage(format!("--extra-roots: {} cannot be read", path.display())).with_detail(error)
            })?;
            broker.upstream.extra_roots_pem = Some(pem);
        }
        let started = Broker::start(broker).await.map_err(|error| Failure::opening(&error))?;
        let http = HttpSettings { trusted_proxies: self.trusted_proxy, open_metrics: self.open_metrics };
        let running = Running::start(&started, http, listener, folder.as_deref()).await;
        let running = match running {
            Ok(running) => running,
            Err(failure) => {
                started.broker.stop().await;
                return Err(failure);
            }
        };
        tell(session, &started, &public_url, address, folder.as_deref())?;
        running.until_told().await
    }
}

/// A broker with its listeners.
pub(super) struct Running {
    state: AppState,
    shutdown: CancellationToken,
    faces: Vec<tokio::task::JoinHandle<()>>,
    socket: Option<PathBuf>,
    /// Kept until the broker has stopped.
    _lanes: Lanes,
}

impl Running {
    /// Opens the faces of a started broker: the port, and the operator's socket where there is a data folder.
    pub(super) async fn start(
        started: &Started,
        http: HttpSettings,
        listener: TcpListener,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let state = AppState::new(started.broker.clone(), http)?;
        let router = valetkey_http::router(state.clone());
        let shutdown = CancellationToken::new();
        let mut faces = Vec::new();
        let socket = folder.map(|dir| dir.join(crate::client::SOCKET));
        if let Some(path) = &socket {
            let local = bind_local(path)?;
            faces.push(tokio::spawn(valetkey_http::serve_local(local, router.clone(), shutdown.clone())));
        }
        let lanes = Lanes::start().map_err(|error| Failure::failed("no thread could be started").with_detail(error))?;
        faces.push(tokio::spawn(valetkey_http::serve(listener, router, lanes.clone(), shutdown.clone())));
        Ok(Self { state, shutdown, faces, socket, _lanes: lanes })
    }

    /// Serves until a signal says to end, then ends in order.
    pub(super) async fn until_told(self) -> Result<()> {
        let mut signals = Signals::new()?;
        loop {
            match signals.next().await {
                Told::End => break,
                Told::Reload => match self.state.broker().reload_roots().await {
                    Ok(()) => tracing::info!("the root keys were read again"),
                    Err(error) => tracing::error!(?error, "the root keys could not be read again; the old ones stay"),
                },
            }
        }
        tracing::info!("shutting down: open requests are answered first");
        tokio::select! {
            () = self.stop() => Ok(()),
            () = signals.end() => Err(Failure::failed("told twice to end: stopped without waiting for open requests")),
        }
    }

    /// Ends in order: no new work, open requests, background work, database.
    pub(super) async fn stop(self) {
        self.state.drain();
        self.shutdown.cancel();
        for face in self.faces {
            if let Err(error) = face.await {
                tracing::error!(%error, "a listener ended by a defect of ours");
            }
        }
        if let Some(socket) = &self.socket {
            // Gone before the lock is let go: whoever takes it next makes its own.
            let _ = std::fs::remove_file(socket);
        }
        self.state.broker().stop().await;
    }
}

enum Told {
    End,
    Reload,
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let catch = |kind| signal(kind).map_err(|error| Failure::failed("signals cannot be caught").with_detail(error));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    async fn end(&mut self) {
        while !matches!(self.next().await, Told::End) {}
    }
}

/// Takes a port.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::unreachable(format!("cannot listen on {address}: {error}; choose another with --listen")))
}

fn bind_local(path: &Path) -> Result<UnixListener> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::unreachable(format!("the operator's socket {} cannot be made: {why}", path.display()))
    };
    if std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).len() > 107 {
        return Err(failed(&"its path is longer than the 107 bytes that a socket's may have; choose a shorter --data"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| failed(&error))?;
    // Until this is done somebody else may connect; the server turns them away by their uid.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|error| failed(&error))?;
    Ok(listener)
}

fn public_url(given: Option<&Url>, address: SocketAddr) -> Result<Url> {
    match given {
        Some(url) => {
            if is_loopback(url) && !address.ip().is_loopback() {
                tracing::warn!("the public URL names this machine only, though the port is open to others");
            }
            Ok(url.clone())
        }
        None if address.ip().is_loopback() => {
            Url::parse(&format!("http://{address}")).map_err(|error| Failure::failed("the address is no URL").with_detail(error))
        }
        None => Err(Failure::usage(format!(
            "listening on {address}, say how browsers and agents reach it: --public-url https://keys.example.com"
        ))),
    }
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("`{text}` is neither an address nor a network such as 10.0.0.0/24"))
}

/// Says that it runs, and on a first start how to go on.
fn tell(session: &Session, started: &Started, public_url: &Url, address: SocketAddr, folder: Option<&Path>) -> Result<()> {
    if let Some(path) = &started.created_root {
        opened::tell_root_key(&path.display().to_string());
    }
    let url = public_url.as_str().trim_end_matches('/');
    if session.out.json {
        return session.out.document(&json!({
            "url": url,
            "listen": address,
            "socket": folder.map(|dir| dir.join(crate::client::SOCKET)),
            "first_start": started.created_site,
            "created_root_key": started.created_root,
        }));
    }
    let mut text = format!("Valet Key serves {url}\n");
    if started.created_site {
        text.push_str(&first_steps(folder));
    }
    session.out.text(&text)
}

fn first_steps(folder: Option<&Path>) -> String {
    let (valetkey, who) = match folder {
        // Another terminal may be somewhere else.
        Some(dir) => {
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            (
                format!("valetkey --data {}", quoted(&dir.display().to_string())),
                "whoever runs commands as this user on this machine is",
            )
        }
        None => (
            "valetkey".to_owned(),
            "whoever runs commands with this database and root key (VALETKEY_DATABASE, VALETKEY_ROOT_KEY_FILE) is",
        ),
    };
    format!(
        "
This is its first start. There is no password to set: {who}
the operator. In another terminal:

  {valetkey} doctor
      looks at everything that has to be right
  {valetkey} provider list
      shows what can be connected; `provider configure NAME` takes your own app's client id and secret
  {valetkey} key create --label backend --scope connect,agents,grants --assert any
      makes the key by which your platform's backend signs in here and speaks for its people
  {valetkey} connect PROVIDER --site-account
      makes a link by which you connect a first account yourself
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_public_url_only_this_machine_is_served() {
        let url = |address: &str| public_url(None, address.parse().unwrap());
        assert_eq!(url("127.0.0.1:80").unwrap().as_str(), "http://127.0.0.1/");
        assert_eq!(url("[::1]:8321").unwrap().as_str(), "http://[::1]:8321/");
        assert!(url("0.0.0.0:8321").is_err() && url("192.0.2.1:80").is_err());
    }

    #[test]
    fn a_trusted_proxy_is_an_address_or_a_network() {
        assert_eq!(cidr("10.0.0.5").unwrap().to_string(), "10.0.0.5/32");
        assert_eq!(cidr("10.0.0.0/24").unwrap().to_string(), "10.0.0.0/24");
        assert!(cidr("proxy.example").is_err());
    }

    #[test]
    fn the_first_steps_can_be_pasted_into_another_terminal() {
        let here = std::env::current_dir().unwrap();
        let said = first_steps(Some(Path::new("my data")));
        assert!(said.contains(&format!("valetkey --data '{}/my data' doctor", here.display())), "{said}");
    }
}
