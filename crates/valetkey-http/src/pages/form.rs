//! A form as a browser sends it.

use http::{HeaderMap, header};
use url::form_urlencoded::{self, Parse};
use valetkey::{Code, Error, Result, secret::Secret};

/// The fields of a form, in their order.
///
/// # Errors
/// `invalid_request` where the body is of another kind.
pub(crate) fn pairs<'b>(headers: &HeaderMap, body: &'b [u8]) -> Result<Parse<'b>> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Error::new(Code::InvalidRequest, "a form is sent as application/x-www-form-urlencoded"));
    }
    Ok(form_urlencoded::parse(body))
}

/// A form's fields, where several may share a name. Any of them may be a secret, so none is printed.
pub(crate) struct Fields(Vec<(String, Secret)>);

impl Fields {
    /// Reads a form.
    ///
    /// # Errors
    /// As [`pairs`].
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self> {
        Ok(Self(pairs(headers, body)?.map(|(name, value)| (name.into_owned(), Secret::new(value.into_owned()))).collect()))
    }

    /// The one field of a name; absent where there is none.
    ///
    /// # Errors
    /// `invalid_request` where it stands there twice: which one counts is not ours to choose.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&Secret>> {
        let mut found = self.all(name);
        match (found.next(), found.next()) {
            (one, None) => Ok(one),
            _ => Err(Error::new(Code::InvalidRequest, "the form names a field twice")),
        }
    }

    /// Every field of a name: boxes that were ticked.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &Secret> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value)
    }
}
