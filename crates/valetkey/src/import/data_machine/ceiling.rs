//! The ceilings of Data Machine's agent tokens.
//!
//! A row's `capabilities` is NULL for none, a JSON list of capabilities, or a JSON object that also names abilities. Data
//! Machine takes whatever else stands there for "no ceiling"; here it denies everything, for it was meant to narrow.

use serde_json::{Value, json};

use crate::principal::{Ceiling, PlatformCeiling};

/// The ceiling of a token, as it will be stored: absent for none, and something that no ceiling is where it cannot be read.
pub(super) fn read(capabilities: Option<&[u8]>, site_scope: Option<i64>) -> Option<Value> {
    let platform = match capabilities {
        None => PlatformCeiling::default(),
        Some(text) => match serde_json::from_slice::<Value>(text).ok().and_then(|scope| PlatformCeiling::from_scope(&scope)) {
            Some(platform) => platform,
            None => return Some(json!("unreadable")),
        },
    };
    let platform = PlatformCeiling { site_scope, ..platform };
    if platform == PlatformCeiling::default() {
        return None;
    }
    // What cannot be written denies, too.
    Some(serde_json::to_value(Ceiling { platform: Some(platform), ..Ceiling::default() }).unwrap_or_else(|_| json!("unreadable")))
}

/// What Data Machine stored, from a ceiling of ours: the reverse of [`read`].
pub(super) fn write(ceiling: Option<&Ceiling>) -> Option<Value> {
    let platform = ceiling?.platform.as_ref()?;
    let capabilities = platform.capabilities.as_ref()?;
    Some(match &platform.abilities {
        None => json!(capabilities),
        Some(abilities) => json!({
            "scope": abilities.scope, "label": abilities.label, "ability_categories": abilities.ability_categories,
            "ability_allow": abilities.ability_allow, "ability_deny": abilities.ability_deny, "capabilities": capabilities,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Option<Value> {
        read(Some(text.as_bytes()), None)
    }

    #[test]
    fn no_ceiling_is_none_and_what_cannot_be_read_is_one_that_denies() {
        assert_eq!(read(None, None), None);
        for text in ["", "0", "null", "{not json", "\"datamachine_chat\"", "7", "true"] {
            let stored = read_text(text).unwrap();
            assert!(serde_json::from_value::<Ceiling>(stored).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        let ceiling: Ceiling = serde_json::from_value(read_text("[]").unwrap()).unwrap();
        assert_eq!(ceiling.platform.as_ref().unwrap().capabilities, Some(Vec::new()));
        assert!(!ceiling.platform.unwrap().may_use_accounts());
    }

    #[test]
    fn a_ceiling_comes_back_as_it_was_stored() {
        for text in [
            r#"["datamachine_chat","5","manage_options"]"#,
            r#"{"scope":"readonly","label":"R","ability_categories":["a"],"ability_allow":[],"ability_deny":["b"],"capabilities":[]}"#,
        ] {
            let ceiling: Ceiling = serde_json::from_value(read_text(text).unwrap()).unwrap();
            assert_eq!(write(Some(&ceiling)).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn the_part_of_a_network_is_kept_beside_it() {
        let ceiling: Ceiling = serde_json::from_value(read(None, Some(3)).unwrap()).unwrap();
        assert_eq!(ceiling.platform.as_ref().unwrap().site_scope, Some(3));
        assert!(ceiling.platform.unwrap().may_use_accounts());
    }
}
