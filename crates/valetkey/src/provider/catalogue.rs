//! The catalogue: all definitions, the built-in ones and the operator's on top.

use std::{fmt, sync::Arc};

/// How far a definition is trusted to name plain HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Https only.
    #[default]
    Normal,
    /// `http://` passes for loopback hosts: for development against a stand-in on this machine, and for tests.
    Dev,
}

/// A mistake in a definition file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key, with the tables it stands in; empty where the file as a whole is meant.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Every definition by name.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    definitions: std::collections::BTreeMap<crate::id::ProviderName, Arc<super::Definition>>,
}

impl Catalogue {
    /// The definition of a provider.
    pub fn get(&self, name: &crate::id::ProviderName) -> Option<&Arc<super::Definition>> {
        self.definitions.get(name)
    }

    /// Every definition, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<super::Definition>> {
        self.definitions.values()
    }
}
