//! Which of a connection's tokens a call is made with. A connection may hold several: a bot's and a user's, a person's and
//! those of the pages that were chosen.
//!
//! A caller names a slot (`user`, `page`), or one chosen entry of it (`page/1234`). A caller who names none gets the
//! connection's own token, never another. The grant is for the connection, whichever of its tokens is used.

use http::HeaderMap;

use crate::{
    clock::Timestamp,
    connection::Connection,
    error::{Code, Error, Result},
    provider::Definition,
    resource::{self, SlotToken},
    secret::SecretMap,
};

/// The header by which a proxied call names a slot.
pub const HEADER: &str = "valet-slot";
/// The longest name of a slot with its entry, in bytes.
const LONGEST: usize = 512;

/// A slot as a caller named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    slot: String,
    entry: Option<String>,
}

impl Named {
    /// Reads `slot` or `slot/entry`.
    ///
    /// # Errors
    /// `invalid_request`.
    pub fn parse(text: &str) -> Result<Self> {
        let (slot, entry) = text.split_once('/').map_or((text, None), |(slot, entry)| (slot, Some(entry)));
        let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        if text.len() > LONGEST || !plain(slot) || !entry.is_none_or(plain) {
            return Err(Error::new(Code::InvalidRequest, "a slot is named as `page`, or as `page/ID` for one that was chosen"));
        }
        Ok(Self { slot: slot.to_owned(), entry: entry.map(str::to_owned) })
    }

    /// Which slot, whichever of its entries.
    pub(super) fn slot(&self) -> &str {
        &self.slot
    }

    /// What a call's headers name; absent where they name none.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>> {
        let mut values = headers.get_all(HEADER).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => Self::parse(value.to_str().unwrap_or_default()).map(Some),
            _ => Err(Error::new(Code::InvalidRequest, "Valet-Slot: it is sent once")),
        }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.entry {
            Some(entry) => write!(f, "{}/{entry}", self.slot),
            None => f.write_str(&self.slot),
        }
    }
}

/// The token of the slot that was named; nothing where it is the connection's own.
///
/// # Errors
/// `invalid_request` for a slot that the provider does not have; `no_credentials`, `ambiguous` and `not_authenticated` where its
/// token is not there, is not the only one, or has ended.
pub(super) fn token(
    definition: &Definition,
    connection: &Connection,
    account: &SecretMap,
    named: Option<&Named>,
    now: Timestamp,
) -> Result<Option<SlotToken>> {
    let Some(named) = named else { return Ok(None) };
    let slots = definition.proxy.as_ref().map(|proxy| proxy.slots.as_slice()).unwrap_or_default();
    let is_own = !definition.slots.iter().any(|(declared, _)| *declared == named.slot);
    if !slots.contains(&named.slot) || (is_own && named.entry.is_some()) {
        let known = if slots.is_empty() { "one token only".to_owned() } else { format!("the slots {}", slots.join(", ")) };
        return Err(Error::new(Code::InvalidRequest, format!("{} has {known}", definition.title)));
    }
    // The one name that proxy.slots holds without a declaration is that of the connection's own token.
    if is_own {
        return Ok(None);
    }
    let token = resource::slot_token(definition, connection, account, &named.slot, named.entry.as_deref())?;
    if token.expires_at.is_some_and(|end| end <= now) {
        let why = format!("the token of `{named}` has ended and cannot be renewed; connect the account again");
        return Err(Error::new(Code::NotAuthenticated, why));
    }
    Ok(Some(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_alone_or_with_one_entry() {
        assert_eq!(Named::parse("page").unwrap().to_string(), "page");
        assert_eq!(Named::parse("page/12/3").unwrap(), Named { slot: "page".into(), entry: Some("12/3".into()) });
        for wrong in ["", "/1", "page/", "pa\nge", "page/\u{7f}", &"x".repeat(LONGEST + 1)] {
            assert_eq!(Named::parse(wrong).unwrap_err().code(), Code::InvalidRequest, "{wrong:?}");
        }
    }

    #[test]
    fn a_header_that_comes_twice_names_nothing() {
        let mut headers = HeaderMap::new();
        assert_eq!(Named::of(&headers).unwrap(), None);
        headers.append(HEADER, "page".parse().unwrap());
        assert_eq!(Named::of(&headers).unwrap(), Some(Named::parse("page").unwrap()));
        headers.append(HEADER, "user".parse().unwrap());
        assert!(Named::of(&headers).is_err());
    }
}
