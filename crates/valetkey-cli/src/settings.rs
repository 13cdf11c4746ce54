//! The settings that every command takes, and where they come from.
//!
//! A flag wins over a variable. Two flags that say different things, or two variables, are refused: nothing is chosen
//! silently.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use url::Url;
use valetkey::{id::SiteId, provider::Trust, refresh, seal::RootSource, secret::Secret, upstream::AllowPrivate};

use crate::{
    failure::{Failure, Result},
    logging::{LogFormat, LogLevel},
    moments::duration,
};

/// The options of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// The folder that holds the embedded database [env: VALETKEY_DATA] [default: ~/.local/share/valetkey]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// PostgreSQL instead of a folder: postgres://user:password@host/name. Better given by a variable, which no list of
    /// processes shows [env: VALETKEY_DATABASE, or VALETKEY_DATABASE_FILE for a file that holds it]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data")]
    pub(crate) database: Option<String>,
    /// The file that holds the root keys [env: VALETKEY_ROOT_KEY_FILE, or VALETKEY_ROOT_KEY for the keys themselves]
    /// [default: root.key in the data folder; none with PostgreSQL]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) root_key_file: Option<PathBuf>,
    /// A folder of your own provider definitions, on top of the built-in ones [env: VALETKEY_PROVIDERS]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) providers: Option<PathBuf>,
    /// The site the command is about [env: VALETKEY_SITE] [default: default]
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) site: Option<String>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Let this broker speak to one private or loopback address; may be repeated [env: VALETKEY_ALLOW_PRIVATE, with
    /// commas]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) allow_private: Vec<String>,
    /// Let your own definitions name plain http on loopback, for a stand-in provider on this machine; its address also
    /// needs --allow-private [env: VALETKEY_LOOPBACK_HTTP=1]
    #[arg(long, global = true)]
    pub(crate) loopback_http: bool,
    /// Where browsers and agents reach the broker: an origin, https unless it is on this machine [env:
    /// VALETKEY_PUBLIC_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) public_url: Option<String>,
    /// What to log to stderr: error, warn, info, debug, trace, or a filter such as info,valetkey=debug [env: VALETKEY_LOG]
    /// [default: info for servers, warn for other commands]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<LogLevel>,
    /// How to log [env: VALETKEY_LOG_FORMAT] [default: text]
    #[arg(long, global = true, value_name = "FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,
}

/// Where the data is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// SQLite in a folder.
    Folder(PathBuf),
    /// PostgreSQL at a URL.
    Postgres(Secret),
}

/// The settings of one run, read and checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the data is.
    pub(crate) place: Place,
    /// Whether that was said, or is the usual folder.
    pub(crate) place_was_said: bool,
    /// Where the root keys are; a missing choice is told only when they are needed.
    pub(crate) root: Result<RootSource, valetkey::Error>,
    /// The operator's own definitions.
    pub(crate) providers: Option<PathBuf>,
    /// How far definitions are trusted to name plain http.
    pub(crate) trust: Trust,
    /// The site.
    pub(crate) site: SiteId,
    /// Whether the site was said, or is the usual one.
    pub(crate) site_was_said: bool,
    /// The exceptions to the rule that only public addresses are spoken to.
    pub(crate) allow_private: Vec<AllowPrivate>,
    /// Where browsers and agents reach the broker, if that was said.
    pub(crate) public_url: Option<Url>,
    /// How refreshes are timed. The lease is that of all processes on one database.
    pub(crate) refresh: refresh::Settings,
    /// Flags on the command line that a running server does not take from a command: they are its own.
    pub(crate) only_for_servers: Vec<&'static str>,
}

impl Settings {
    /// Reads the settings from the command line and the environment.
    ///
    /// # Errors
    /// Two settings that contradict each other, or one that cannot be read.
    pub(crate) fn read(global: &Global, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let (place, place_was_said) = match place(global, &variable)? {
            Some(place) => (place, true),
            None => (default_folder(&variable)?, false),
        };
        let default = match &place {
            Place::Folder(dir) => Some(dir.join("root.key")),
            Place::Postgres(_) => None,
        };
        // A flag wins over the variables.
        let (text, file) = match global.root_key_file {
            Some(_) => (None, None),
            None => (variable("VALETKEY_ROOT_KEY").map(Secret::new), variable("VALETKEY_ROOT_KEY_FILE").map(PathBuf::from)),
        };
        let root = RootSource::choose(global.root_key_file.clone(), text, file, default);
        let site = global.site.clone().or_else(|| variable("VALETKEY_SITE"));
        let site_was_said = site.is_some();
        let allow_private = match global.allow_private.as_slice() {
            [] => variable("VALETKEY_ALLOW_PRIVATE")
                .map(|list| list.split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect())
                .unwrap_or_default(),
            flags => flags.to_vec(),
        };
        let loopback_http = match (global.loopback_http, variable("VALETKEY_LOOPBACK_HTTP").as_deref()) {
            (true, _) | (false, Some("1")) => true,
            (false, None | Some("0")) => false,
            (false, Some(_)) => return Err(Failure::usage("VALETKEY_LOOPBACK_HTTP is 1 or 0")),
        };
        let only_for_servers = [
            (global.root_key_file.is_some(), "--root-key-file"),
            (global.providers.is_some(), "--providers"),
            (global.public_url.is_some(), "--public-url"),
            (global.loopback_http, "--loopback-http"),
            (!global.allow_private.is_empty(), "--allow-private"),
        ];
        Ok(Self {
            place,
            place_was_said,
            root,
            providers: global.providers.clone().or_else(|| variable("VALETKEY_PROVIDERS").map(PathBuf::from)),
            trust: if loopback_http { Trust::Dev } else { Trust::Normal },
            site: match site {
                Some(site) => {
                    site.parse().map_err(|error: valetkey::Error| Failure::usage(format!("--site: {}", error.message())))?
                }
                None => SiteId::default_site(),
            },
            site_was_said,
            allow_private: allow_private
                .iter()
                .map(|one| {
                    one.parse().map_err(|error: valetkey::Error| Failure::usage(format!("--allow-private: {}", error.message())))
                })
                .collect::<Result<_>>()?,
            public_url: global
                .public_url
                .clone()
                .or_else(|| variable("VALETKEY_PUBLIC_URL"))
                .map(|url| public_url(&url))
                .transpose()?,
            refresh: timing(&variable)?,
            only_for_servers: only_for_servers.into_iter().filter_map(|(is, name)| is.then_some(name)).collect(),
        })
    }
}

/// An origin. Plain http is for loopback only: sessions and assertions go there.
fn public_url(text: &str) -> Result<Url> {
    let wrong =
        || Failure::usage("--public-url: an origin such as https://keys.example.com, without a path; http only on loopback");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    let fine = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
    if fine && bare && url.path() == "/" { Ok(url) } else { Err(wrong()) }
}

/// How refreshes are timed, by the variables that a server's flags have, too: a command that counted with a shorter lease would
/// take a server that still waits for its provider for dead, and spend the same token a second time.
fn timing(variable: &impl Fn(&str) -> Option<String>) -> Result<refresh::Settings> {
    let usual = refresh::Settings::default();
    let read = |name: &str, usual: Duration| match variable(name) {
        Some(text) => duration(&text).map_err(|why| Failure::usage(format!("{name}: {why}"))),
        None => Ok(usual),
    };
    Ok(refresh::Settings {
        deadline: read("VALETKEY_REFRESH_DEADLINE", usual.deadline)?,
        lease_extra: read("VALETKEY_REFRESH_LEASE_EXTRA", usual.lease_extra)?,
        ..usual
    })
}

/// Whether a URL names this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn place(global: &Global, variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Place>> {
    if let Some(dir) = &global.data {
        return Ok(Some(Place::Folder(dir.clone())));
    }
    if let Some(url) = &global.database {
        return Ok(Some(Place::Postgres(Secret::new(url.as_str()))));
    }
    let given: Vec<_> = ["VALETKEY_DATA", "VALETKEY_DATABASE", "VALETKEY_DATABASE_FILE"]
        .into_iter()
        .filter_map(|name| Some((name, variable(name)?)))
        .collect();
    match given.as_slice() {
        [] => Ok(None),
        [("VALETKEY_DATA", dir)] => Ok(Some(Place::Folder(dir.into()))),
        [("VALETKEY_DATABASE", url)] => Ok(Some(Place::Postgres(Secret::new(url.as_str())))),
        [(name, path)] => {
            let text = crate::secrets::read_file(path.as_ref()).map_err(|why| Failure::usage(format!("{name}: {why}")))?;
            Ok(Some(Place::Postgres(Secret::new(text.expose().trim()))))
        }
        several => {
            let names: Vec<_> = several.iter().map(|(name, _)| *name).collect();
            Err(Failure::usage(format!(
                "the place of the data is given more than once: {}; keep one (`unset NAME` takes another away)",
                names.join(" and ")
            )))
        }
    }
}

fn default_folder(variable: &impl Fn(&str) -> Option<String>) -> Result<Place> {
    let base = variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        // A relative path there is to be ignored (XDG base directory specification).
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")))
        .ok_or_else(|| Failure::usage("say where the data is: --data DIR, or --database URL"))?;
    Ok(Place::Folder(base.join("valetkey")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn read(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Settings> {
        let cli = Cli::try_parse_from([&["valetkey", "doctor"], arguments].concat()).unwrap();
        Settings::read(&cli.global, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn folder(settings: &Settings) -> &str {
        match &settings.place {
            Place::Folder(dir) => dir.to_str().unwrap(),
            Place::Postgres(_) => "postgres",
        }
    }

    #[test]
    fn a_flag_wins_over_the_variables() {
        let variables =
            [("VALETKEY_DATABASE", "postgres://x"), ("VALETKEY_SITE", "a"), ("VALETKEY_ALLOW_PRIVATE", "127.0.0.1:1")];
        let settings = read(&["--data", "/d", "--site", "b", "--allow-private", "127.0.0.1:2"], &variables).unwrap();
        assert_eq!((folder(&settings), settings.site.as_str()), ("/d", "b"));
        assert_eq!(settings.allow_private.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:2"]);
        let settings = read(&[], &variables).unwrap();
        assert_eq!((folder(&settings), settings.site.as_str()), ("postgres", "a"));
        let variables = [("VALETKEY_ROOT_KEY", "vkroot1_"), ("HOME", "/h")];
        assert!(matches!(read(&["--root-key-file", "/k"], &variables).unwrap().root, Ok(RootSource::File(_))));
        assert!(matches!(read(&[], &variables).unwrap().root, Ok(RootSource::Text(_))));
    }

    #[test]
    fn the_data_is_in_the_home_folder_unless_said_otherwise() {
        assert_eq!(folder(&read(&[], &[("HOME", "/h")]).unwrap()), "/h/.local/share/valetkey");
        assert_eq!(folder(&read(&[], &[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]).unwrap()), "/x/valetkey");
        assert!(read(&[], &[]).is_err());
    }

    #[test]
    fn two_places_are_refused_by_name_and_without_the_password() {
        let twice = [("VALETKEY_DATA", "/d"), ("VALETKEY_DATABASE", "postgres://me:hunter2@x")];
        let text = read(&[], &twice).unwrap_err().to_string();
        assert!(text.contains("VALETKEY_DATA and VALETKEY_DATABASE") && text.contains("unset"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(Cli::try_parse_from(["valetkey", "doctor", "--data", "/d", "--database", "postgres://x"]).is_err());
    }

    #[test]
    fn the_database_url_can_come_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://me:hunter2@x/y\n").unwrap();
        let settings = read(&[], &[("VALETKEY_DATABASE_FILE", file.path().to_str().unwrap())]).unwrap();
        assert!(matches!(&settings.place, Place::Postgres(url) if url.expose() == "postgres://me:hunter2@x/y"));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
