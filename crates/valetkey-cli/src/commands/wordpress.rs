//! What WordPress seals with: its salts, from wherever the person has them.

use std::{
    fs::File,
    io::Read,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use valetkey::{
    import::data_machine::{
        dump::MAX_KEPT,
        envelope::Key,
        salts::{Missing, Part, Salts, Sources},
        wp_config::{Definition, WpConfig},
    },
    secret::SecretBytes,
};
use zeroize::Zeroizing;

use crate::{
    failure::{Failure, Result},
    secrets,
};

/// The largest file that is read whole: an option alone may be as large as in a dump.
const LARGEST: u64 = MAX_KEPT as u64;

/// Where the salts are. Values are never arguments: other users see those in the list of processes.
#[derive(Args, Clone, Debug)]
pub(crate) struct SaltArgs {
    /// The site's wp-config.php, for its salts; it is read and never run
    #[arg(long, value_name = "FILE")]
    pub(crate) wp_config: Option<PathBuf>,
    /// A file that holds the value of AUTH_KEY [env: VALETKEY_WP_AUTH_KEY, the value itself]
    #[arg(long, value_name = "FILE")]
    auth_key_file: Option<PathBuf>,
    /// A file that holds the value of AUTH_SALT [env: VALETKEY_WP_AUTH_SALT, the value itself]
    #[arg(long, value_name = "FILE")]
    auth_salt_file: Option<PathBuf>,
}

/// The salts that a database holds, where it holds them.
#[derive(Debug, Default)]
pub(crate) struct InDatabase<'a> {
    pub(crate) key: Option<&'a SecretBytes>,
    pub(crate) salt: Option<&'a SecretBytes>,
}

impl SaltArgs {
    /// Whether anything is said about salts.
    pub(crate) fn said(&self) -> bool {
        let variable = |name: &str| std::env::var_os(name).is_some();
        self.wp_config.is_some()
            || self.auth_key_file.is_some()
            || self.auth_salt_file.is_some()
            || variable("VALETKEY_WP_AUTH_KEY")
            || variable("VALETKEY_WP_AUTH_SALT")
    }

    /// The site's configuration, where one is given. Each call reads the file, which may be a pipe and so come once.
    pub(crate) fn config(&self) -> Result<Option<WpConfig>> {
        let Some(path) = &self.wp_config else { return Ok(None) };
        let parsed = WpConfig::parse(&whole(path)?);
        parsed.map(Some).map_err(|why| Failure::failed(format!("{} cannot be read: {why}", path.display())))
    }

    /// The salts, put together as WordPress does; or why they cannot be known.
    pub(crate) fn compose(&self, config: Option<&WpConfig>, database: &InDatabase<'_>) -> Result<Result<Salts, Vec<Missing>>> {
        let given = |file: &Option<PathBuf>, variable: &str| -> Result<Option<SecretBytes>> {
            match (file, std::env::var_os(variable)) {
                (Some(file), _) => Ok(Some(SecretBytes::new(secrets::one_from(file)?.expose().as_bytes().to_vec()))),
                // As bytes: a salt need not be a text.
                (None, Some(value)) => Ok(Some(SecretBytes::new(value.into_vec()))),
                (None, None) => Ok(None),
            }
        };
        let key = given(&self.auth_key_file, "VALETKEY_WP_AUTH_KEY")?;
        let salt = given(&self.auth_salt_file, "VALETKEY_WP_AUTH_SALT")?;
        Ok(Salts::compose(&Sources {
            given_key: key.as_ref(),
            given_salt: salt.as_ref(),
            config,
            database_key: database.key,
            database_salt: database.salt,
        }))
    }

    /// The key that salts make, for a command that cannot do without.
    pub(crate) fn key(&self) -> Result<Key> {
        let config = self.config()?;
        let salts = self.compose(config.as_ref(), &InDatabase::default())?.map_err(|missing| Failure::usage(told(&missing)))?;
        Ok(Key::derive(&salts)?)
    }
}

/// What the tables of a site begin with, as its configuration says; nothing where it does not say it for certain.
pub(crate) fn table_prefix(config: &WpConfig) -> Option<String> {
    match config.table_prefix()? {
        Definition::Value { value, .. } => std::str::from_utf8(value.to_text().expose()).ok().map(str::to_owned),
        Definition::NotEvaluated { .. } => None,
    }
}

/// What is missing, and how to give it.
pub(crate) fn told(missing: &[Missing]) -> String {
    let option = |part| match part {
        Part::Key => "--auth-key-file",
        Part::Salt => "--auth-salt-file",
    };
    let each: Vec<String> = missing.iter().map(|missing| format!("{missing} ({})", option(missing.part))).collect();
    each.join("; ")
}

/// A whole file, or standard input for `-`.
pub(crate) fn whole(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: std::io::Error| Failure::failed(format!("{} cannot be read", path.display())).with_detail(error);
    let too_large = || Failure::failed(format!("{} is larger than {LARGEST} bytes", path.display()));
    let mut bytes = Zeroizing::new(Vec::new());
    let mut read = |from: &mut dyn Read| from.take(LARGEST + 1).read_to_end(&mut bytes);
    if path == Path::new("-") {
        read(&mut std::io::stdin().lock()).map_err(failed)?;
    } else {
        let mut file = File::open(path).map_err(failed)?;
        // Known beforehand, so that no copy is left behind by growing.
        let length = file.metadata().map(|about| about.len()).unwrap_or(0);
        if length > LARGEST {
            return Err(too_large());
        }
        let mut sized = Vec::new();
        let _ = sized.try_reserve_exact(usize::try_from(length).unwrap_or(0) + 1);
        let mut sized = Zeroizing::new(sized);
        (&mut file).take(LARGEST + 1).read_to_end(&mut sized).map_err(failed)?;
        bytes = sized;
    }
    if bytes.len() as u64 > LARGEST {
        return Err(too_large());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_larger_than_an_option_of_a_dump_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LARGEST + 1).unwrap();
        let Err(failure) = whole(file.path()) else { panic!("it was read") };
        assert!(failure.to_string().contains("is larger than 268435456 bytes"), "{failure}");
    }
}
