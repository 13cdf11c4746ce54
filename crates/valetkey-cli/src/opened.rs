//! The broker opened in this process, and its router to ask.

use std::time::Duration;

use axum::{Router, body::Body};
use http::{Request, Response};
use tower::ServiceExt as _;
use url::Url;
use valetkey::{Broker, Error, db::DbConfig, upstream};
use valetkey_http::{AppState, HttpSettings, LocalOperator, Peer};

use crate::{
    failure::{Failure, Result},
    settings::{Place, Settings},
};

/// Where the broker is reached when nothing else is said.
pub(crate) const USUAL_LISTEN: &str = "127.0.0.1:8320";
/// The database in a data folder.
pub(crate) const DATABASE: &str = "valetkey.db";
/// How many connections a server opens to PostgreSQL at most.
pub(crate) const USUAL_CONNECTIONS: u32 = 16;
/// How many a command opens.
const CONNECTIONS_OF_A_COMMAND: u32 = 4;
/// How long a command waits for another process to let go of the data folder.
const PATIENCE: Duration = Duration::from_millis(200);

/// An open broker and its router.
pub(crate) struct Opened {
    broker: Broker,
    router: Router,
}

impl Opened {
    /// Opens the broker for one command.
    ///
    /// # Errors
    /// The exit code is 5, and the text says what to do.
    pub(crate) async fn open(settings: &Settings) -> Result<Self> {
        let db = match &settings.place {
            Place::Folder(dir) => DbConfig::Sqlite { dir: dir.clone(), patience: PATIENCE },
            Place::Postgres(url) => DbConfig::Postgres { url: url.clone(), max_connections: CONNECTIONS_OF_A_COMMAND },
        };
        if let Place::Folder(dir) = &settings.place
            && !dir.join(DATABASE).exists()
        {
            // A mistyped folder shall not become a new, empty broker with a key of its own.
            return Err(Failure::unreachable(format!(
                "there is no database in {0}; `valetkey serve --data {0}` makes one, --data names another folder",
                dir.display()
            )));
        }
        let opened = async {
            let public_url = match &settings.public_url {
                Some(url) => url.clone(),
                None => Url::parse(&format!("http://{USUAL_LISTEN}")).map_err(Error::internal)?,
            };
            // What stands in the database waits for its key; only a server makes the first one.
            let mut settings = broker_settings(settings, db, public_url)?;
            settings.create_root = false;
            // A command is over long before: what is due is refreshed by the servers.
            settings.refresh.keeper_interval = Duration::from_secs(7 * 86_400);
            let started = Broker::start(settings).await?;
            let state = AppState::new(started.broker.clone(), HttpSettings::default())?;
            Ok::<_, Error>(Self { broker: started.broker, router: valetkey_http::router(state) })
        };
        opened.await.map_err(|error| Failure::opening(&error))
    }

    /// Answers a request as the operator's.
    pub(crate) async fn answer(&self, mut request: Request<Body>) -> Result<Response<Body>> {
        // Whoever can open the database is the operator; nothing less opens it.
        request.extensions_mut().insert(Peer::Local { uid: rustix::process::getuid().as_raw() });
        request.extensions_mut().insert(LocalOperator);
        let Ok(response) = self.router.clone().oneshot(request).await;
        Ok(response)
    }

    /// Ends the background work and closes the database.
    pub(crate) async fn close(&self) {
        self.broker.stop().await;
    }
}

/// What the broker is made of, by the settings of this run.
pub(crate) fn broker_settings(settings: &Settings, db: DbConfig, public_url: Url) -> valetkey::Result<valetkey::Settings> {
    let root = settings.root.as_ref().map_err(again)?.clone();
    Ok(valetkey::Settings {
        providers: settings.providers.clone(),
        trust: settings.trust,
        upstream: upstream::Settings { allow_private: settings.allow_private.clone(), ..upstream::Settings::default() },
        refresh: settings.refresh,
        ..valetkey::Settings::new(db, root, public_url)
    })
}

/// The plain word on the root key, once, when it is made.
pub(crate) fn tell_root_key(path: &str) {
    use std::io::Write as _;
    // Nobody reads stderr: the log has a line about it, too.
    let _ = writeln!(
        std::io::stderr(),
        "A root key was made: {path}\n\
         Everything stored is sealed by it. Copy it now to a safe place, apart from the database and its backups:\n\
         without it nothing can be opened again, and whoever has both has everything.\n"
    );
}

fn again(error: &Error) -> Error {
    let again = Error::new(error.code(), error.message().to_owned());
    match error.detail() {
        Some(detail) => again.with_detail(detail),
        None => again,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    /// What a broker counts with that a command opens.
    fn lease(variables: &[(&str, &str)]) -> Result<Duration> {
        let cli = Cli::try_parse_from(["valetkey", "doctor", "--data", "/d"]).unwrap();
        let settings = Settings::read(&cli.global, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })?;
        let db = DbConfig::Sqlite { dir: "/d".into(), patience: PATIENCE };
        Ok(broker_settings(&settings, db, Url::parse("http://127.0.0.1:8320").unwrap())?.refresh.lease())
    }

    #[test]
    fn a_command_counts_with_the_lease_that_the_servers_have() {
        let said = [("VALETKEY_REFRESH_DEADLINE", "2m"), ("VALETKEY_REFRESH_LEASE_EXTRA", "20s")];
        assert_eq!(lease(&said).unwrap(), Duration::from_secs(140));
        assert_eq!(lease(&said[..1]).unwrap(), Duration::from_secs(135));
        assert_eq!(lease(&[]).unwrap(), Duration::from_secs(45));
        let wrong = lease(&[("VALETKEY_REFRESH_LEASE_EXTRA", "soon")]).unwrap_err().to_string();
        assert!(wrong.contains("VALETKEY_REFRESH_LEASE_EXTRA"), "{wrong}");
    }
}
