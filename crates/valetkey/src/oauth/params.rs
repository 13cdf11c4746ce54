//! The parameters of a request to an OAuth endpoint (RFC 6749 section 3.2).

use url::form_urlencoded;

use super::fault::{Fault, Outcome, Word};
use crate::secret::Secret;

/// Parameters: each at most once, the empty ones left out, unknown ones kept and ignored. Any of them may be a secret.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, Secret)>);

/// Those that may come several times (RFC 8707 section 2, RFC 8693 section 2.1).
const SEVERAL: [&str; 2] = ["resource", "audience"];
/// The most parameters of a request.
const MOST: usize = 100;

impl Params {
    /// Reads a form's body, or a query.
    ///
    /// # Errors
    /// `invalid_request` where one comes twice, or holds a NUL.
    pub fn parse(encoded: &[u8]) -> Outcome<Self> {
        let mut pairs: Vec<(String, Secret)> = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for (name, value) in form_urlencoded::parse(encoded) {
            if name.contains('\0') || value.contains('\0') {
                return Err(Fault::new(Word::InvalidRequest, "a parameter holds a NUL"));
            }
            if seen.len() >= MOST {
                return Err(Fault::new(Word::InvalidRequest, "there are too many parameters"));
            }
            let several = SEVERAL.contains(&&*name);
            if !several && seen.iter().any(|known| *known == name) {
                return Err(Fault::new(Word::InvalidRequest, "a parameter comes more than once"));
            }
            seen.push(name.clone().into_owned());
            // Sent without a value is as good as not sent.
            if !value.is_empty() {
                pairs.push((name.into_owned(), Secret::new(value.into_owned())));
            }
        }
        Ok(Self(pairs))
    }

    /// A parameter that may be missing, as a secret.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A parameter that may be missing.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.secret(name).map(Secret::expose)
    }

    /// A parameter that must be there.
    pub fn require(&self, name: &'static str) -> Outcome<&str> {
        self.get(name).ok_or_else(|| Fault::new(Word::InvalidRequest, format!("`{name}` is missing")))
    }

    /// Every value of a parameter that may come several times.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R68: a parameter that is repeated is refused, an unknown one ignored, an empty one is as good as not sent.
    #[test]
    fn a_parameter_comes_once_and_an_empty_one_not_at_all() {
        for twice in ["code=a&code=a", "code=a&%63ode=b", "what=1&what=2", "code=&code=a"] {
            assert_eq!(Params::parse(twice.as_bytes()).unwrap_err().word(), Some(Word::InvalidRequest), "{twice}");
        }
        let params = Params::parse(b"a=1&b=&what=ever&resource=x&resource=y").unwrap();
        assert_eq!((params.get("a"), params.get("b")), (Some("1"), None));
        assert_eq!(params.require("b").unwrap_err().word(), Some(Word::InvalidRequest));
        assert_eq!(params.all("resource").collect::<Vec<_>>(), ["x", "y"]);
        assert!(Params::parse(b"a=%00").is_err());
    }

    #[test]
    fn what_was_sent_is_not_shown() {
        let params = Params::parse(b"client_secret=canary").unwrap();
        assert!(!format!("{params:?}").contains("canary"));
        let twice = Params::parse(b"code=canary&code=canary").unwrap_err();
        assert!(!format!("{twice} {twice:?}").contains("canary"));
    }
}
