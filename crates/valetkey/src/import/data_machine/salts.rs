//! The two salts of a WordPress site, as `wp_salt('auth')` puts them together.
//!
//! Key and salt are decided separately, each by the first of these that gives something:
//!
//! 1. what the person who imports gives, as it is;
//! 2. the constant `AUTH_KEY` (or `AUTH_SALT`), if it is usable;
//! 3. the constant `SECRET_KEY` (or `SECRET_SALT`), if it is usable;
//! 4. the site option `auth_key` (or `auth_salt`), which WordPress makes where it finds no usable constant.
//!
//! A constant is usable if PHP holds it for true (so neither `''` nor `'0'`), no other of the ten key and salt constants
//! has the same value, and it is not the phrase of the sample configuration. Nothing is trimmed.
//!
//! Where a constant is there and its value is not certain, the site option is not taken in its stead: it may be a
//! leftover. That is an error, which says to give the value.

use std::{collections::BTreeMap, fmt};

use super::wp_config::{Definition, Reason, WpConfig};
use crate::secret::SecretBytes;

/// The constants that WordPress compares with each other.
pub const CONSTANTS: [&str; 10] = [
    "AUTH_KEY",
    "AUTH_SALT",
    "SECURE_AUTH_KEY",
    "SECURE_AUTH_SALT",
    "LOGGED_IN_KEY",
    "LOGGED_IN_SALT",
    "NONCE_KEY",
    "NONCE_SALT",
    "SECRET_KEY",
    "SECRET_SALT",
];

/// What the sample configuration has for all of them.
const SAMPLE: &[u8] = b"put your unique phrase here";

/// Both salts of a site, and where each came from.
#[derive(Clone, Debug)]
pub struct Salts {
    key: (SecretBytes, Origin),
    salt: (SecretBytes, Origin),
}

/// Where a salt came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The person who imports gave it.
    Given,
    /// This constant of `wp-config.php`.
    Constant(&'static str),
    /// This site option of the database.
    Database(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given"),
            Self::Constant(name) => write!(f, "{name} in wp-config.php"),
            Self::Database(name) => write!(f, "{name} in the database"),
        }
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The key: `AUTH_KEY`.
    Key,
    /// The salt: `AUTH_SALT`.
    Salt,
}

impl Part {
    /// The constant that usually holds it.
    pub const fn constant(self) -> &'static str {
        match self {
            Self::Key => "AUTH_KEY",
            Self::Salt => "AUTH_SALT",
        }
    }

    /// The older constant that stands in for it.
    const fn older(self) -> &'static str {
        match self {
            Self::Key => "SECRET_KEY",
            Self::Salt => "SECRET_SALT",
        }
    }

    /// The site option in the database that stands in for both, which is also how settings name this part.
    pub const fn option(self) -> &'static str {
        match self {
            Self::Key => "auth_key",
            Self::Salt => "auth_salt",
        }
    }
}

/// What the salts are put together from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sources<'a> {
    /// The key, given.
    pub given_key: Option<&'a SecretBytes>,
    /// The salt, given.
    pub given_salt: Option<&'a SecretBytes>,
    /// The site's `wp-config.php`.
    pub config: Option<&'a WpConfig>,
    /// The site option `auth_key` (of the network, where there is one).
    pub database_key: Option<&'a SecretBytes>,
    /// The site option `auth_salt`.
    pub database_salt: Option<&'a SecretBytes>,
}

/// A part that cannot be known from the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Which part.
    pub part: Part,
    /// Why.
    pub why: Why,
}

/// Why a part cannot be known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// No source has it.
    Absent,
    /// This constant is there, and what it holds is not certain without running PHP.
    NotEvaluated {
        /// The constant's name.
        constant: &'static str,
        /// The line in `wp-config.php`.
        line: usize,
        /// What makes it uncertain.
        reason: Reason,
    },
    /// The constant is not in `wp-config.php`, but these lines of it include other files or define constants whose names
    /// they compute, so it may be there.
    Elsewhere {
        /// The lines in `wp-config.php`.
        lines: Vec<usize>,
    },
}

impl Missing {
    /// The stable word for programs.
    pub const fn as_str(&self) -> &'static str {
        match self.why {
            Why::Absent => "absent",
            Why::NotEvaluated { .. } => "not_evaluated",
            Why::Elsewhere { .. } => "elsewhere",
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (constant, option) = (self.part.constant(), self.part.option());
        match &self.why {
            Why::Absent => write!(f, "neither {constant} nor the site option {option} is in what was given")?,
            Why::NotEvaluated { constant, line, reason } => {
                write!(f, "wp-config.php line {line}: {constant} {reason}, and PHP is never run here")?;
            }
            Why::Elsewhere { lines } => {
                let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
                write!(
                    f,
                    "wp-config.php may define {constant} through what it includes or computes (line {})",
                    lines.join(", ")
                )?;
            }
        }
        write!(f, "; give the value of {constant} as the site has it")
    }
}

impl Salts {
    /// Salts that are known.
    pub fn given(key: SecretBytes, salt: SecretBytes) -> Self {
        Self { key: (key, Origin::Given), salt: (salt, Origin::Given) }
    }

    /// The key part.
    pub fn key(&self) -> &SecretBytes {
        &self.key.0
    }

    /// The salt part.
    pub fn salt(&self) -> &SecretBytes {
        &self.salt.0
    }

    /// Where a part came from.
    pub fn origin(&self, part: Part) -> Origin {
        match part {
            Part::Key => self.key.1,
            Part::Salt => self.salt.1,
        }
    }

    /// Puts the salts together as WordPress does.
    ///
    /// # Errors
    ///
    /// Each part that cannot be known, with the reason.
    pub fn compose(sources: &Sources<'_>) -> Result<Self, Vec<Missing>> {
        let key = part(Part::Key, sources.given_key, sources.config, sources.database_key);
        let salt = part(Part::Salt, sources.given_salt, sources.config, sources.database_salt);
        match (key, salt) {
            (Ok(key), Ok(salt)) => Ok(Self { key, salt }),
            (key, salt) => Err([key.err(), salt.err()].into_iter().flatten().collect()),
        }
    }
}

fn part(
    part: Part,
    given: Option<&SecretBytes>,
    config: Option<&WpConfig>,
    database: Option<&SecretBytes>,
) -> Result<(SecretBytes, Origin), Missing> {
    if let Some(value) = given {
        return Ok((value.clone(), Origin::Given));
    }
    if let Some(config) = config {
        for constant in [part.constant(), part.older()] {
            match usable(config, constant) {
                Ok(Some(value)) => return Ok((value, Origin::Constant(constant))),
                Ok(None) => {}
                Err(why) => return Err(Missing { part, why }),
            }
        }
    }
    match database {
        Some(value) if truthy(value) => Ok((value.clone(), Origin::Database(part.option()))),
        _ => Err(Missing { part, why: Why::Absent }),
    }
}

/// A constant's value if WordPress would use it; an error where that is not certain.
fn usable(config: &WpConfig, constant: &'static str) -> Result<Option<SecretBytes>, Why> {
    let value = match config.constant(constant) {
        Some(Definition::Value { value, .. }) => value.to_text(),
        Some(Definition::NotEvaluated { line, reason }) => {
            return Err(Why::NotEvaluated { constant, line: *line, reason: reason.clone() });
        }
        // The older constants are found in no current site; that one is hidden in an included file is not assumed.
        None if !config.elsewhere().is_empty() && !constant.starts_with("SECRET_") => {
            return Err(Why::Elsewhere { lines: config.elsewhere().to_vec() });
        }
        None => return Ok(None),
    };
    // PHP compares them as the keys of an array, where numbers, true and texts of digits meet as their texts do.
    let mut seen: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for name in CONSTANTS {
        if let Some(Definition::Value { value, .. }) = config.constant(name) {
            *seen.entry(value.to_text().expose().to_vec()).or_default() += 1;
        }
    }
    let once = seen.get(value.expose()).is_none_or(|count| *count < 2);
    for (mut text, _) in seen {
        zeroize::Zeroize::zeroize(&mut text);
    }
    Ok((truthy(&value) && once && value.expose() != SAMPLE).then_some(value))
}

/// Whether PHP holds a text for true.
fn truthy(text: &SecretBytes) -> bool {
    !matches!(text.expose(), b"" | b"0")
}
