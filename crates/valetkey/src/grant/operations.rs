//! The operations of a grant: patterns, and the provider's own names for some of them.
//!
//! A definition names operations (`post.create`), each by its patterns. A name is looked up once, when the grant is made: a
//! grant keeps the patterns, so that a definition which changes later widens no grant that was given before.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    error::{Code, Error, Result},
    provider::{Definition, pattern::PathPattern},
};

/// What a grant is about: it holds for a call that fits one of the patterns.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Operations {
    /// The patterns, those of the names among them.
    pub patterns: Vec<PathPattern>,
    /// The names that some of the patterns came from, for people.
    pub names: BTreeSet<String>,
}

impl From<Vec<PathPattern>> for Operations {
    fn from(patterns: Vec<PathPattern>) -> Self {
        Self { patterns, names: BTreeSet::new() }
    }
}

impl Operations {
    /// Reads a list of patterns (`GET /api/**`) and of names that the definition knows (`post.create`). A pattern has a
    /// slash and a name has none.
    ///
    /// # Errors
    /// `invalid_request` for a pattern that cannot be read, and for a name that the provider does not have, with those it has.
    pub fn read<T: AsRef<str>>(definition: &Definition, wanted: &[T]) -> Result<Self> {
        let mut found = Self::default();
        for text in wanted.iter().map(AsRef::as_ref) {
            if text.contains('/') {
                let pattern = PathPattern::parse(text);
                found.add(pattern.map_err(|error| Error::new(Code::InvalidRequest, format!("operations: {}", error.message())))?);
                continue;
            }
            let Some((name, patterns)) = definition.operations.iter().find(|(name, _)| name == text) else {
                let known: Vec<_> = definition.operations.iter().map(|(name, _)| name.as_str()).collect();
                let known = if known.is_empty() { "names none".to_owned() } else { format!("names {}", known.join(", ")) };
                let text = format!(
                    "operations: `{text:.64}` is neither a pattern such as `GET /api/**` nor a name; {} {known}",
                    definition.title
                );
                return Err(Error::new(Code::InvalidRequest, text));
            };
            patterns.iter().for_each(|pattern| found.add(pattern.clone()));
            found.names.insert(name.clone());
        }
        Ok(found)
    }

    fn add(&mut self, pattern: PathPattern) {
        if !self.patterns.contains(&pattern) {
            self.patterns.push(pattern);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    #[test]
    fn a_name_stands_for_the_patterns_of_its_definition() {
        let catalogue = Catalogue::embedded().unwrap();
        let definition = catalogue.get(&"github".parse().unwrap()).unwrap();
        let read = Operations::read(definition, &["issue.create", "GET /user"]).unwrap();
        let patterns: Vec<_> = read.patterns.iter().map(PathPattern::as_str).collect();
        assert_eq!(patterns, ["POST /repos/*/*/issues", "GET /user"]);
        assert_eq!(read.names, BTreeSet::from(["issue.create".to_owned()]));
    }

    #[test]
    fn a_name_that_the_provider_does_not_have_is_refused_with_those_it_has() {
        let catalogue = Catalogue::embedded().unwrap();
        let definition = catalogue.get(&"github".parse().unwrap()).unwrap();
        for text in ["issue.crate", "", "issue", "GET", "\u{e9}", &"x".repeat(500)] {
            let error = Operations::read(definition, &[text]).unwrap_err();
            assert_eq!(error.code(), Code::InvalidRequest);
            assert!(error.message().contains("issue.create") && error.message().len() < 2_000, "{}", error.message());
        }
        assert_eq!(Operations::read(definition, &["GET /a//b"]).unwrap_err().code(), Code::InvalidRequest);
    }
}
