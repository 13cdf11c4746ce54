//! Secrets as types: no `Display`, no `Serialize`, a silent `Debug`, zeroised on drop (promise 1).
//!
//! `expose` is the only way in; a search for it lists every place where a secret is opened.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A secret text: a token, a client secret, a password.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Opens the secret. Callers hand it on at once and keep no copy.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares two secrets in constant time for equal lengths.
    pub fn matches(&self, other: &Secret) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Secret bytes: an opened envelope, a key.
#[derive(Clone, Default)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes bytes into custody.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Opens the secret.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret JSON object: the account a connection seals, an app configuration.
///
/// Free-form: what a provider or a caller stored comes back unchanged (design, "Account").
#[derive(Clone, Default, PartialEq)]
pub struct SecretMap(serde_json::Map<String, serde_json::Value>);

impl SecretMap {
    /// Takes an object into custody.
    pub fn new(map: serde_json::Map<String, serde_json::Value>) -> Self {
        Self(map)
    }

    /// Reads an object from its JSON text.
    pub fn from_json(bytes: &SecretBytes) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes.expose()).map(Self)
    }

    /// The JSON text, for sealing.
    pub fn to_json(&self) -> SecretBytes {
        // A map of JSON values always serialises.
        SecretBytes::new(serde_json::to_vec(&self.0).unwrap_or_default())
    }

    /// Opens the object.
    pub fn expose(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.0
    }

    /// Opens the object for writing.
    pub fn expose_mut(&mut self) -> &mut serde_json::Map<String, serde_json::Value> {
        &mut self.0
    }

    /// One text member, as a secret; absent when it is missing, empty or not a text.
    pub fn text(&self, key: &str) -> Option<Secret> {
        match self.0.get(key) {
            Some(serde_json::Value::String(text)) if !text.is_empty() => Some(Secret::new(text.as_str())),
            _ => None,
        }
    }

    /// Sets one text member.
    pub fn set_text(&mut self, key: &str, value: &Secret) {
        if let Some(old) = self.0.insert(key.to_owned(), serde_json::Value::String(value.expose().to_owned())) {
            wipe(old);
        }
    }
}

impl fmt::Debug for SecretMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Drop for SecretMap {
    fn drop(&mut self) {
        for (_, value) in std::mem::take(&mut self.0) {
            wipe(value);
        }
    }
}

fn wipe(value: serde_json::Value) {
    match value {
        serde_json::Value::String(mut text) => text.zeroize(),
        serde_json::Value::Array(items) => items.into_iter().for_each(wipe),
        serde_json::Value::Object(map) => map.into_iter().for_each(|(_, value)| wipe(value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_every_secret_type_is_silent() {
        let mut map = SecretMap::default();
        map.set_text("access_token", &Secret::new("canary"));
        let texts =
            [format!("{:?}", Secret::new("canary")), format!("{:?}", SecretBytes::new(b"canary".to_vec())), format!("{map:?}")];
        for text in texts {
            assert_eq!(text, "[redacted]");
        }
    }

    #[test]
    fn a_map_comes_back_unchanged() {
        let json = br#"{"access_token":"a","nested":{"n":[1,2.5,null,true]}}"#.to_vec();
        let map = SecretMap::from_json(&SecretBytes::new(json.clone())).unwrap();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(map.to_json().expose()).unwrap(),
            serde_json::from_slice::<serde_json::Value>(&json).unwrap()
        );
    }
}
