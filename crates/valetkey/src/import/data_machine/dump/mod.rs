//! A WordPress database as mysqldump or mariadb-dump writes it, read as a stream.
//!
//! 1. The bytes are plain, gzip or zstd, told apart by their first ones.
//! 2. Statements stream by. Rows of the few tables that matter are kept, everything else is passed over; memory is
//!    bounded by what is kept ([`MAX_KEPT`]) and by a window of 64 KiB, whatever the dump's size.
//! 3. When all is read, the tables of one WordPress are picked, by their database and prefix: the one with traces of Data
//!    Machine. Of a network that is the main site, whose prefix the blogs' begin with. Where that leaves a choice, the
//!    choices are an error.
//!
//! Understood are rows with and without column names, one or many to a statement, MySQL's escapes, hex texts, comments of
//! all kinds and those that a server runs, changed delimiters, and tables that are dropped or made again.

mod input;
mod rows;
mod statement;
mod tables;

use std::{collections::BTreeSet, fmt, io::Read};

pub use rows::{AccessRow, AgentRow, PrincipalAccessRow, Text, TokenRow};

use crate::secret::SecretBytes;

/// The most bytes of rows that are kept of one dump, 256 MiB. The accounts of 90,000 people are a quarter of that.
pub const MAX_KEPT: usize = 256 << 20;

/// Which WordPress of a dump is meant, where the dump leaves a choice.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// What the names of its tables begin with (`$table_prefix`).
    pub table_prefix: Option<String>,
    /// The same as the site's configuration says it: it decides where several would do.
    pub likely_prefix: Option<String>,
    /// The network's number (`SITE_ID_CURRENT_SITE`), for an installation of several networks.
    pub network: Option<u64>,
}

/// What a dump has of one WordPress. What is not in it is absent. `Debug` counts only.
pub struct Dump {
    /// What the names of its tables begin with.
    pub table_prefix: String,
    /// The network's number; none for a single site.
    pub network: Option<u64>,
    /// The option `datamachine_auth_data` as the column has it: all accounts.
    pub auth_data: Option<SecretBytes>,
    /// The option `datamachine_external_tokens` of the main site as the column has it.
    pub external_tokens: Option<SecretBytes>,
    /// The site option `auth_key`, see [`super::salts`].
    pub auth_key: Option<SecretBytes>,
    /// The site option `auth_salt`.
    pub auth_salt: Option<SecretBytes>,
    /// The address of the main site's WordPress.
    pub siteurl: Option<Text>,
    /// The address of the main site.
    pub home: Option<Text>,
    /// The agents, by number; none where the table is not in the dump. So for all that follow.
    pub agents: Option<Vec<AgentRow>>,
    /// The agent tokens.
    pub tokens: Option<Vec<TokenRow>>,
    /// What users may do with agents.
    pub access: Option<Vec<AccessRow>>,
    /// What other principals may do with agents.
    pub principal_access: Option<Vec<PrincipalAccessRow>>,
    /// The numbers of the users that exist.
    pub users: Option<BTreeSet<u64>>,
    /// What else in the dump is Data Machine's and not this WordPress's own, for a report: tables of blogs and other
    /// installations, options where they are not read.
    pub unused: Vec<String>,
}

impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump")
            .field("table_prefix", &self.table_prefix)
            .field("network", &self.network)
            .field("auth_data", &self.auth_data)
            .field("agents", &self.agents.as_ref().map(Vec::len))
            .field("tokens", &self.tokens.as_ref().map(Vec::len))
            .field("users", &self.users.as_ref().map(BTreeSet::len))
            .finish_non_exhaustive()
    }
}

/// Why a dump cannot be read. Never holds a value of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read or unpacked.
    Read(std::io::Error),
    /// It is packed in this format, which is not read.
    Packed(&'static str),
    /// It is UTF-16, as PowerShell's `>` writes it.
    Utf16,
    /// It ends in the middle of a statement, or without the line that its kind ends with.
    Ended,
    /// No statement of SQL is in it.
    NoSql,
    /// A statement is malformed.
    Syntax {
        /// The offset in the unpacked dump.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A statement brings rows into a table that matters, in a way that is not read: `INSERT ... SELECT`, or a value
    /// that is computed.
    Unsupported {
        /// The table.
        table: String,
        /// The offset in the unpacked dump.
        offset: u64,
    },
    /// Rows come without the names of their columns, and the table was not made in the dump.
    NoColumns {
        /// The table.
        table: String,
    },
    /// A row's value is missing or not of its kind.
    Value {
        /// The table.
        table: String,
        /// The column.
        column: &'static str,
        /// The offset of the row in the unpacked dump.
        offset: u64,
    },
    /// Two rows have the same key.
    Duplicate {
        /// The table.
        table: String,
        /// The offset of the second in the unpacked dump.
        offset: u64,
    },
    /// The dump was made for another charset, so texts are not the bytes that the site has.
    Charset {
        /// The charset.
        name: String,
    },
    /// More than [`MAX_KEPT`] bytes would have to be kept.
    TooMuch,
    /// Nothing of Data Machine is in it.
    Nothing {
        /// The prefixes that are.
        prefixes: Vec<String>,
    },
    /// No tables begin with the prefix that was asked for.
    NoSuchPrefix {
        /// The prefixes that there are.
        prefixes: Vec<String>,
    },
    /// Several WordPress installations in it have Data Machine.
    Ambiguous {
        /// Their prefixes.
        prefixes: Vec<String>,
    },
    /// The network that was asked for is not in it.
    NoSuchNetwork {
        /// The numbers of those that are.
        networks: Vec<u64>,
    },
    /// Several databases in it have Data Machine.
    Databases {
        /// Their names; empty for the one that no statement named.
        names: Vec<String>,
    },
    /// Several networks in it have accounts.
    Networks {
        /// Their numbers.
        networks: Vec<u64>,
    },
}

impl Error {
    /// The stable word for programs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Packed(_) => "packed",
            Self::Utf16 => "utf16",
            Self::Ended => "ended",
            Self::NoSql => "no_sql",
            Self::Syntax { .. } => "syntax",
            Self::Unsupported { .. } => "unsupported",
            Self::NoColumns { .. } => "no_columns",
            Self::Value { .. } => "value",
            Self::Duplicate { .. } => "duplicate",
            Self::Charset { .. } => "charset",
            Self::TooMuch => "too_much",
            Self::Nothing { .. } => "nothing",
            Self::NoSuchPrefix { .. } => "no_such_prefix",
            Self::Ambiguous { .. } => "ambiguous",
            Self::NoSuchNetwork { .. } => "no_such_network",
            Self::Databases { .. } => "databases",
            Self::Networks { .. } => "networks",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "the dump cannot be read: {error}"),
            Self::Packed(how) => write!(f, "the dump is packed with {how}; unpack it, or use gzip or zstd"),
            Self::Utf16 => f.write_str("the dump is UTF-16, as PowerShell's > writes it; make it with --result-file"),
            Self::Ended => f.write_str("the dump ends before its end: it was cut off; copy or make it again"),
            Self::NoSql => f.write_str("no statement of SQL is in it; give what mysqldump or mariadb-dump writes"),
            Self::Syntax { offset, what } => write!(f, "the dump, at byte {offset}: {what}"),
            Self::Unsupported { table, offset } => {
                write!(f, "the dump, at byte {offset}: rows of {table} are computed; give what mysqldump or mariadb-dump writes")
            }
            Self::NoColumns { table } => {
                write!(
                    f,
                    "the dump does not say the columns of {table}; make it without --no-create-info or with --complete-insert"
                )
            }
            Self::Value { table, column, offset } => {
                write!(f, "the dump, at byte {offset}: {column} of a row of {table} is missing or not of its kind")
            }
            Self::Duplicate { table, offset } => write!(f, "the dump, at byte {offset}: a row of {table} has the key of another"),
            Self::Charset { name } => {
                write!(f, "the dump was made for {name:?}; make it with --default-character-set=utf8mb4")
            }
            Self::TooMuch => write!(f, "the dump's accounts and agents are larger than {} MiB", MAX_KEPT >> 20),
            Self::Nothing { prefixes } => {
                write!(f, "nothing of Data Machine is in the dump (table prefixes in it: {})", prefixes.join(", "))
            }
            Self::NoSuchPrefix { prefixes } => {
                write!(f, "no tables in the dump begin with that prefix; those in it are: {}", prefixes.join(", "))
            }
            Self::Ambiguous { prefixes } => {
                write!(f, "several sites in the dump have Data Machine; say which by its table prefix: {}", prefixes.join(", "))
            }
            Self::NoSuchNetwork { networks } if networks.is_empty() => {
                f.write_str("the dump is of no network; leave --network out")
            }
            Self::NoSuchNetwork { networks } => {
                let networks: Vec<String> = networks.iter().map(u64::to_string).collect();
                write!(f, "no network in the dump has that number; those in it are: {}", networks.join(", "))
            }
            Self::Databases { names } => {
                write!(f, "several databases in the dump have Data Machine; make a dump of one of them: {}", names.join(", "))
            }
            Self::Networks { networks } => {
                let networks: Vec<String> = networks.iter().map(u64::to_string).collect();
                write!(f, "several networks in the dump have accounts; say which by its number: {}", networks.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Ended,
            _ => Self::Read(error),
        }
    }
}

/// Reads a dump.
///
/// # Errors
///
/// See [`Error`]. A dump that mysqldump began and that does not end with its last line is refused as cut off.
pub fn read<'r>(source: impl Read + 'r, choice: &Choice) -> Result<Dump, Error> {
    let mut tables = tables::Tables::new();
    statement::Statements::new(input::unpacked(source)?).read(&mut tables)?;
    tables.choose(choice)
}
