//! Ids as types, so that one cannot be passed for another, and the random bits behind them.
//!
//! Two families. *Ours* (`ConnectionId`, `GrantId`, ...) are made here and print with a prefix. *The
//! platform's* (`UserId`, `AgentId`, `SiteId`) are chosen outside and parsed at the edge (decisions 10):
//! 1 to 191 of `A-Za-z0-9._~@:+-`, compared as bytes; an all-digit id is positive and has no leading zero.

use std::{fmt, str::FromStr};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

use crate::error::{Code, Error, Result};

/// Fills `N` random bytes from the operating system's generator.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::internal("the operating system gave no random bytes"))?;
    Ok(bytes)
}

/// Random bytes as unpadded URL-safe base64, for states, links and verifiers. 32 bytes give 43 characters.
pub fn random_text<const N: usize>() -> Result<String> {
    use base64::Engine as _;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random::<N>()?))
}

/// The lower-case hex SHA-256 of some bytes: how tokens, links and states are stored.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

macro_rules! our_ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id: a UUIDv7, so that ids sort by age.
            #[expect(clippy::new_without_default, reason = "a fresh id is not a default value")]
            pub fn new() -> Self {
                Self(format!(concat!($prefix, "{}"), uuid::Uuid::now_v7().simple()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let body = text.strip_prefix($prefix).filter(|body| {
                    body.len() == 32 && body.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                });
                match body {
                    Some(_) => Ok(Self(text.to_owned())),
                    None => Err(Error::new(Code::InvalidRequest, concat!("an id of this kind is `", $prefix, "` and 32 hex digits"))),
                }
            }
        }

        id_traits!($name);
    )*};
}

macro_rules! platform_ids {
    ($($(#[$doc:meta])* $name:ident = $what:literal,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                check_platform_id(text, $what)?;
                Ok(Self(text.to_owned()))
            }
        }

        id_traits!($name);
    )*};
}

macro_rules! id_traits {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(|e: Error| serde::de::Error::custom(e.message()))
            }
        }
    };
}

our_ids! {
    /// One outside account of one owner at one provider.
    ConnectionId = "con_",
    /// One permission of an agent to use a connection.
    GrantId = "gra_",
    /// One agent token; the id is no secret.
    TokenId = "tok_",
    /// One connect flow under way.
    FlowId = "flo_",
    /// One connect session: a link a person opens.
    ConnectSessionId = "cse_",
    /// One session of a person; the id is no secret.
    SessionId = "ses_",
    /// One app configuration.
    AppConfigId = "app_",
    /// One platform key; the id is no secret.
    PlatformKeyId = "pkey_",
    /// One wrapped data key.
    DataKeyId = "dek_",
    /// One upstream revocation owed.
    RevocationId = "rev_",
    /// One audit event.
    EventId = "evt_",
    /// One place outside that wants to be told what happened.
    WebhookId = "whk_",
    /// One message to webhooks; the same however often and to whomever it is sent.
    MessageId = "msg_",
    /// One OAuth client of ours; the id is no secret.
    ClientId = "vkc_",
    /// One consent: a family of tokens.
    FamilyId = "fam_",
    /// One call that waits, or waited, for a person's word.
    ApprovalId = "apr_",
    /// One wish of an agent to be granted something.
    ProposalId = "pro_",
}

platform_ids! {
    /// A person, as the platform names them.
    UserId = "user",
    /// An agent, as the platform names it, or as we named it when the platform gave no id.
    AgentId = "agent",
    /// A tenant.
    SiteId = "site",
    /// A session of work that tokens are minted for, as whoever mints them calls it. A person's sign-in is something else.
    SessionName = "session",
    /// A single task that tokens are minted for.
    TaskName = "task",
}

impl AgentId {
    /// A fresh id, for an agent whose platform gives none.
    pub fn fresh() -> Self {
        Self(format!("agt_{}", uuid::Uuid::now_v7().simple()))
    }
}

impl SiteId {
    /// The one site of the embedded default.
    pub fn default_site() -> Self {
        Self("default".to_owned())
    }
}

fn check_platform_id(text: &str, what: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::new(Code::InvalidRequest, format!("{what} id: {why}")));
    if text.is_empty() || text.len() > 191 {
        return refuse("it has 1 to 191 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~@:+-".contains(&b)) {
        return refuse("it is made of A-Z, a-z, 0-9 and ._~@:+- only");
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() != text.len() || digits.starts_with('0') || digits.is_empty())
    {
        return refuse("a number is positive and has no leading zero");
    }
    Ok(())
}

/// The name of a provider definition: 1 to 64 of `a-z0-9_.-`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderName(String);

impl ProviderName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProviderName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fine = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
            && text.as_bytes()[0].is_ascii_alphanumeric();
        if fine {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(Code::InvalidRequest, "a provider's name is 1 to 64 of a-z, 0-9, _, . and -"))
        }
    }
}

id_traits!(ProviderName);

/// The name of an owner's account at a provider. The default account's stored name is empty (decisions 4).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

impl AccountName {
    /// The name of the default account.
    pub fn default_account() -> Self {
        Self::default()
    }

    /// The stored form: empty for the default account.
    pub fn as_stored(&self) -> &str {
        &self.0
    }

    /// Whether this is the default account.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for AccountName {
    type Err = Error;

    /// Reads a name; the empty text and `default` are the default account.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text == "default" {
            return Ok(Self::default());
        }
        if text.chars().count() > 191 || text.chars().any(char::is_control) || text.trim() != text {
            return Err(Error::new(
                Code::InvalidRequest,
                "an account's name has 1 to 191 characters, no control characters and no space at its ends",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_default() { "default" } else { &self.0 })
    }
}

impl serde::Serialize for AccountName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T-074, T-075.
    #[test]
    fn platform_ids_are_refused_when_empty_zero_negative_padded_or_strange() {
        for text in ["", "0", "-1", "-", "007", "a b", "é", "a\0", "a/b", &"x".repeat(192)] {
            assert!(text.parse::<UserId>().is_err() && text.parse::<AgentId>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn platform_ids_are_taken_as_they_are() {
        for text in ["42", "a", "user@example.test", "0197c1e2-aaaa", "A", "1a", &"x".repeat(191)] {
            assert_eq!(text.parse::<UserId>().unwrap().as_str(), text);
        }
    }

    /// T-078.
    #[test]
    fn an_id_of_one_kind_is_not_read_as_another() {
        let id = ConnectionId::new();
        assert!(id.as_str().parse::<GrantId>().is_err());
        for odd in ["", "0", "456", "tok_", "tok_456"] {
            assert!(odd.parse::<TokenId>().is_err(), "{odd:?}");
        }
        assert_eq!(id.as_str().parse::<ConnectionId>().unwrap(), id);
    }

    #[test]
    fn the_default_account_is_spoken_of_as_default_and_stored_as_nothing() {
        for text in ["", "default"] {
            let name: AccountName = text.parse().unwrap();
            assert_eq!((name.as_stored(), name.to_string().as_str()), ("", "default"));
        }
    }
}
