//! Form and query parameters as RFC 6749 sections 3.1 and 3.2 want them: repeated is an error, empty is omitted.

use crate::tokens::Refusal;

/// Parsed parameters, each name once.
#[derive(Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Parses `application/x-www-form-urlencoded` bytes.
    pub(crate) fn parse(encoded: &[u8]) -> Result<Self, Refusal> {
        let mut params = Vec::<(String, String)>::new();
        for (name, value) in url::form_urlencoded::parse(encoded) {
            if params.iter().any(|(known, _)| *known == name) {
                return Err(Refusal::request("a parameter is repeated"));
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        params.retain(|(_, value)| !value.is_empty());
        Ok(Self(params))
    }

    /// The value of that name.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of that name, or a refusal that names it.
    pub(crate) fn need(&self, name: &'static str) -> Result<&str, Refusal> {
        self.find(name).ok_or_else(|| Refusal::request(format!("`{name}` is missing")))
    }

    /// All of them, in the order they came.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
