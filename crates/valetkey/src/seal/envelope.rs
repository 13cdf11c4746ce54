//! One sealed value: how its bytes look, and what it is bound to.
//!
//! ```text
//! format 1 | data key id 16 | nonce 12 | ciphertext and tag (AES-256-GCM)
//! ```
//!
//! 1. The key of a row is HKDF-SHA-256 (RFC 5869) of its data key, expanded with the table and the row's id. So one
//!    key seals one row only, and random 96-bit nonces stay far from their limit (2^32 values of one key, NIST SP
//!    800-38D 8.3).
//! 2. The associated data are the header before the nonce and every part of the [`Place`]. A ciphertext copied to
//!    another row, owner, provider, site or field does not open there.
//! 3. Parts are written with their lengths, so that two different places never give the same bytes.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk, Salt},
};
use zeroize::Zeroizing;

use super::store::Table;
use crate::{
    error::{Code, Error, Result},
    id::{
        self, AccountName, AppConfigId, ConnectSessionId, ConnectionId, DataKeyId, FlowId, PlatformKeyId, ProviderName,
        RevocationId, SiteId,
    },
    secret::SecretBytes,
};

/// Where a value is sealed: the whole identity of its row. All of it is bound to the ciphertext, so a row whose owner
/// or name changes is sealed again.
///
/// Made by one function per table, so that whoever seals, opens or re-seals a row means the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    pub(super) site: &'a str,
    /// A provider's name, or a name of ours that begins with `_` and so can be no provider's.
    pub(super) provider: &'a str,
    /// Empty where the row has none.
    pub(super) owner: &'a str,
    /// Empty where the row has none.
    pub(super) name: &'a str,
    pub(super) table: &'a str,
    pub(super) row: &'a str,
    pub(super) field: &'a str,
}

impl<'a> Place<'a> {
    /// The account of a connection.
    pub fn connection(
        site: &'a SiteId,
        provider: &'a ProviderName,
        owner: &'a str,
        name: &'a AccountName,
        id: &'a ConnectionId,
    ) -> Self {
        Table::Connections.place(site.as_str(), provider.as_str(), owner, name.as_stored(), id.as_str())
    }

    /// The values of an app configuration.
    pub fn app_config(site: &'a SiteId, provider: &'a ProviderName, owner: &'a str, id: &'a AppConfigId) -> Self {
        Table::AppConfigs.place(site.as_str(), provider.as_str(), owner, "", id.as_str())
    }

    /// What the maker of a connect session gave to be carried along.
    pub fn connect_session(
        site: &'a SiteId,
        provider: &'a ProviderName,
        owner: &'a str,
        name: &'a AccountName,
        id: &'a ConnectSessionId,
    ) -> Self {
        Table::ConnectSessions.place(site.as_str(), provider.as_str(), owner, name.as_stored(), id.as_str())
    }

    /// What a connect flow keeps until its callback: verifier or temporary secret, and the fields that were entered.
    pub fn flow(site: &'a SiteId, provider: &'a ProviderName, owner: &'a str, name: &'a AccountName, id: &'a FlowId) -> Self {
        Table::Flows.place(site.as_str(), provider.as_str(), owner, name.as_stored(), id.as_str())
    }

    /// The secret by which a platform signs its assertions. Its data key is that of [`Place::PLATFORM`].
    pub fn platform_key(site: &'a SiteId, id: &'a PlatformKeyId) -> Self {
        Table::PlatformKeys.place(site.as_str(), Self::PLATFORM, "", "", id.as_str())
    }

    /// What an upstream revocation still needs.
    pub fn revocation(
        site: &'a SiteId,
        provider: &'a ProviderName,
        owner: &'a str,
        name: &'a AccountName,
        id: &'a RevocationId,
    ) -> Self {
        Table::Revocations.place(site.as_str(), provider.as_str(), owner, name.as_stored(), id.as_str())
    }

    /// Stands for the provider where a sealed value belongs to none.
    pub const PLATFORM: &'static str = "_platform";

    /// The site whose data key seals here.
    pub fn site(&self) -> &'a str {
        self.site
    }

    /// The provider whose data key seals here.
    pub fn provider(&self) -> &'a str {
        self.provider
    }

    /// The header and the place, each part after its length; and where in it the table and the row stand.
    fn bound(&self, header: &[u8; HEADER]) -> (Vec<u8>, std::ops::Range<usize>) {
        let parts = [self.site, self.provider, self.owner, self.name, self.table, self.row, self.field];
        let mut bytes = Vec::with_capacity(HEADER + parts.iter().map(|part| 4 + part.len()).sum::<usize>());
        bytes.extend_from_slice(header);
        let mut row = 0..0;
        for (at, part) in parts.iter().enumerate() {
            if at == 4 {
                row.start = bytes.len();
            }
            put(&mut bytes, part.as_bytes());
            if at == 5 {
                row.end = bytes.len();
            }
        }
        (bytes, row)
    }
}

/// The 16 bytes by which an envelope names its data key.
pub(super) type KeyBytes = [u8; 16];

/// A data key in memory, as the two keys derived from it. Zeroised on drop.
pub(super) struct DataKey {
    pub(super) bytes: KeyBytes,
    pub(super) version: i64,
    rows: Prk,
    derived: Prk,
}

impl DataKey {
    /// Takes the 32 bytes of a data key.
    pub(super) fn new(id: &DataKeyId, version: i64, key: &[u8; 32]) -> Result<Self> {
        let extracted = Salt::new(HKDF_SHA256, b"valetkey data key v1").extract(key);
        let part = |label: &'static [u8]| extracted.expand(&[label], HKDF_SHA256).map(Prk::from);
        let (Ok(rows), Ok(derived)) = (part(b"rows"), part(b"derived")) else {
            return Err(Error::internal("the keys of a data key could not be derived"));
        };
        Ok(Self { bytes: key_bytes(id)?, version, rows, derived })
    }

    /// Seals bytes at a place.
    pub(super) fn seal(&self, place: &Place<'_>, plain: &SecretBytes) -> Result<Vec<u8>> {
        let mut header = [FORMAT; HEADER];
        header[1..].copy_from_slice(&self.bytes);
        let (bound, row) = place.bound(&header);
        let nonce = id::random::<NONCE>()?;
        let plain = plain.expose();
        let mut out = Vec::with_capacity(HEADER + NONCE + plain.len() + TAG);
        out.extend_from_slice(&header);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let tag = self
            .row_key(&bound[row])?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&bound), &mut out[HEADER + NONCE..])
            .map_err(|_| Error::internal("a value could not be sealed"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens what was sealed at this place under this key.
    pub(super) fn open(&self, place: &Place<'_>, envelope: &Envelope<'_>) -> Result<SecretBytes> {
        let (bound, row) = place.bound(envelope.header);
        let mut buffer = Zeroizing::new(envelope.sealed.to_vec());
        let length = self
            .row_key(&bound[row])?
            .open_in_place(Nonce::assume_unique_for_key(*envelope.nonce), Aad::from(&bound), &mut buffer)
            .map_err(|_| {
                unsealable(format_args!(
                    "the tag does not match: {} {} of {}/{} was changed, or sealed elsewhere",
                    place.table, place.row, place.site, place.provider
                ))
            })?
            .len();
        buffer.truncate(length);
        Ok(SecretBytes::new(std::mem::take(&mut *buffer)))
    }

    /// 32 bytes for another purpose, by its label.
    pub(super) fn derive(&self, label: &str) -> Result<SecretBytes> {
        expand(&self.derived, label.as_bytes()).map(|key| SecretBytes::new(key.to_vec()))
    }

    fn row_key(&self, row: &[u8]) -> Result<LessSafeKey> {
        gcm(&*expand(&self.rows, row)?)
    }
}

/// The parts of sealed bytes.
pub(super) struct Envelope<'a> {
    header: &'a [u8; HEADER],
    nonce: &'a [u8; NONCE],
    sealed: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Takes sealed bytes apart; refuses a format that is not known.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let parts = bytes
            .split_first_chunk::<HEADER>()
            .and_then(|(header, rest)| rest.split_first_chunk::<NONCE>().map(|(nonce, sealed)| (header, nonce, sealed)));
        match parts {
            Some((header, nonce, sealed)) if header[0] == FORMAT && sealed.len() >= TAG => Ok(Self { header, nonce, sealed }),
            _ => Err(unsealable(format_args!("{} bytes that are no envelope of format {FORMAT}", bytes.len()))),
        }
    }

    /// Which data key sealed it.
    pub(super) fn key(&self) -> KeyBytes {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.header[1..]);
        bytes
    }
}

/// A value that cannot be opened. The caller never learns why; the log does.
pub(super) fn unsealable(detail: impl std::fmt::Display) -> Error {
    Error::new(Code::Unsealable, "a stored value cannot be opened; the log says why").with_detail(detail)
}

/// The bytes of a data key's id.
pub(super) fn key_bytes(id: &DataKeyId) -> Result<KeyBytes> {
    let hex = &id.as_str()[DataKeyId::PREFIX.len()..];
    uuid::Uuid::try_parse(hex).map(uuid::Uuid::into_bytes).map_err(|_| Error::internal("a data key's id is no UUID"))
}

/// The data key's id that these bytes are.
pub(super) fn key_id(bytes: KeyBytes) -> String {
    format!("{}{}", DataKeyId::PREFIX, uuid::Uuid::from_bytes(bytes).simple())
}

/// Writes a part after its length in four bytes, most significant first.
pub(super) fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    // Nothing we bind is longer than a column; a longer part would still differ by its own bytes.
    bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(part);
}

pub(super) fn expand(key: &Prk, info: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let mut out = Zeroizing::new([0; 32]);
    key.expand(&[info], HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut *out))
        .map_err(|_| Error::internal("a key could not be derived"))?;
    Ok(out)
}

pub(super) fn gcm(key: &[u8; 32]) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Error::internal("a key could not be set up"))?;
    Ok(LessSafeKey::new(key))
}

const FORMAT: u8 = 1;
const HEADER: usize = 17;
pub(super) const NONCE: usize = 12;
pub(super) const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: Place<'static> = Place {
        site: "default",
        provider: "github",
        owner: "user:42",
        name: "",
        table: "connections",
        row: "con_1",
        field: "account",
    };

    fn key() -> DataKey {
        DataKey::new(&DataKeyId::new(), 1, &id::random().unwrap()).unwrap()
    }

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    fn open(key: &DataKey, place: &Place<'_>, bytes: &[u8]) -> Result<SecretBytes> {
        key.open(place, &Envelope::read(bytes)?)
    }

    #[test]
    fn what_was_sealed_opens_at_its_place_and_names_its_key() {
        let key = key();
        for text in ["", "{}", &"x".repeat(100_000)] {
            let sealed = key.seal(&HERE, &secret(text)).unwrap();
            assert_eq!(open(&key, &HERE, &sealed).unwrap().expose(), text.as_bytes());
            assert_eq!(Envelope::read(&sealed).unwrap().key(), key.bytes);
        }
    }

    #[test]
    fn the_id_of_a_data_key_and_its_bytes_are_the_same() {
        let id = DataKeyId::new();
        assert_eq!(key_id(key_bytes(&id).unwrap()), id.as_str());
    }

    #[test]
    fn a_ciphertext_moved_to_another_place_does_not_open() {
        let key = key();
        let sealed = key.seal(&HERE, &secret("canary")).unwrap();
        let elsewhere = [
            Place { site: "other", ..HERE },
            Place { provider: "gitlab", ..HERE },
            Place { owner: "user:43", ..HERE },
            Place { name: "work", ..HERE },
            Place { table: "app_configs", ..HERE },
            Place { row: "con_2", ..HERE },
            Place { field: "config", ..HERE },
            // The same letters, cut elsewhere.
            Place { site: "defaultg", provider: "ithub", ..HERE },
            Place { table: "connectionsc", row: "on_1", ..HERE },
        ];
        for place in elsewhere {
            assert_eq!(open(&key, &place, &sealed).unwrap_err().code(), Code::Unsealable, "{place:?}");
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_refused() {
        let key = key();
        let sealed = key.seal(&HERE, &secret("canary")).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key, &HERE, &changed).is_err(), "byte {at}");
            assert!(open(&key, &HERE, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_data_key_does_not_open_it() {
        let bytes = id::random().unwrap();
        let (one, two) = (DataKeyId::new(), DataKeyId::new());
        let sealed = DataKey::new(&one, 1, &bytes).unwrap().seal(&HERE, &secret("canary")).unwrap();
        assert!(open(&key(), &HERE, &sealed).is_err());
        // The key's id is bound as well: the same bytes under another id do not open an envelope that names the other.
        let twin = DataKey::new(&two, 1, &bytes).unwrap();
        let mut renamed = sealed;
        renamed[1..17].copy_from_slice(&twin.bytes);
        assert!(open(&twin, &HERE, &renamed).is_err());
    }

    #[test]
    fn the_caller_is_not_told_why_and_the_log_is() {
        let key = key();
        let sealed = key.seal(&HERE, &secret("canary")).unwrap();
        let tag = open(&key, &Place { row: "con_2", ..HERE }, &sealed).unwrap_err();
        let format = open(&key, &HERE, b"{\"access_token\":\"canary\"}").unwrap_err();
        assert_eq!(tag.message(), format.message());
        assert_ne!(tag.detail(), format.detail());
        assert!(!format!("{tag:?}{format:?}").contains("canary"));
    }

    #[test]
    fn two_seals_of_one_value_differ() {
        let key = key();
        let seal = || key.seal(&HERE, &secret("canary")).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn labels_give_different_keys_and_the_same_label_the_same() {
        let key = key();
        let derive = |label| key.derive(label).unwrap().expose().to_vec();
        assert_eq!(derive("audit"), derive("audit"));
        assert_ne!(derive("audit"), derive("webhook"));
    }

    /// The bytes on disk must not change unnoticed: a fixed key and a fixed envelope, checked against another
    /// implementation of HKDF and AES-GCM (Python's `cryptography`).
    #[test]
    fn an_envelope_of_format_1_still_opens() {
        let id: DataKeyId = "dek_000102030405060708090a0b0c0d0e0f".parse().unwrap();
        let key = DataKey::new(&id, 1, &[7; 32]).unwrap();
        let sealed = unhex(KNOWN);
        assert_eq!(open(&key, &HERE, &sealed).unwrap().expose(), br#"{"access_token":"t"}"#);
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    const KNOWN: &str = "01000102030405060708090a0b0c0d0e0f202122232425262728292a2b0fed71c562fe9b5c95bb9888dc76c566\
        01fd791a3e8a720b24861ea1df45b8e68e3267dc";

    proptest! {
        #[test]
        fn strange_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(open(&key(), &HERE, &bytes).is_err());
        }

        #[test]
        fn two_places_are_bound_to_different_bytes(a in "[ab:]{0,3}", b in "[ab:]{0,3}", c in "[ab:]{0,3}", d in "[ab:]{0,3}") {
            let one = Place { site: &a, provider: &b, ..HERE };
            let two = Place { site: &c, provider: &d, ..HERE };
            prop_assert_eq!(one == two, one.bound(&[1; HEADER]).0 == two.bound(&[1; HEADER]).0);
        }
    }
}
