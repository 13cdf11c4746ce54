//! Agents, roles and tokens as SQL for the database of a Data Machine site, to undo a move.
//!
//! The tables are still there: rows are inserted or brought up to date by their keys, and nothing that we never had, such as
//! an agent's settings, is touched. Every text is a hex literal, so that no text of ours can be anything but a text.

use std::fmt::Write as _;

use serde_json::Value;

use super::ceiling;
use crate::{
    clock::Timestamp,
    id::sha256_hex,
    import::{export::Loss, item::Item},
    principal::Ceiling,
};

/// Whether a text may begin the names of tables.
pub fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= 64 && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The statements for agents, roles and tokens, in one transaction; and the tokens that they cannot hold.
pub fn write(prefix: &str, items: &[Item]) -> (String, Vec<Loss>) {
    let mut out = String::from("SET NAMES utf8mb4;\nSTART TRANSACTION;\n");
    let mut losses = Vec::new();
    for item in items {
        match item {
            Item::Agent { agent, slug, title, owner, created_at, rest } => {
                let key = rest.instance_key.as_deref().unwrap_or("default");
                let created = created_at.map_or_else(|| "UTC_TIMESTAMP()".to_owned(), moment);
                let scope = rest.site_scope.map_or_else(|| "NULL".to_owned(), |scope| scope.to_string());
                let owner = owner.as_ref().map_or("0", |owner| owner.as_str());
                let _ = writeln!(
                    out,
                    "INSERT INTO `{prefix}datamachine_agents` (agent_id, agent_slug, agent_name, owner_id, instance_key, \
                     instance_key_hash, site_scope, agent_config, created_at, updated_at) VALUES ({agent}, {}, {}, {owner}, {}, \
                     '{}', {scope}, '[]', {created}, UTC_TIMESTAMP()) ON DUPLICATE KEY UPDATE agent_slug = VALUES(agent_slug), \
                     agent_name = VALUES(agent_name), owner_id = VALUES(owner_id);",
                    text(slug),
                    text(title),
                    text(key),
                    sha256_hex(key.as_bytes()),
                );
            }
            Item::Role { agent, user, role } => {
                let _ = writeln!(
                    out,
                    "INSERT INTO `{prefix}datamachine_agent_access` (agent_id, user_id, role, granted_at) VALUES ({agent}, {user}, \
                     '{role}', UTC_TIMESTAMP()) ON DUPLICATE KEY UPDATE role = VALUES(role);"
                );
            }
            Item::Token { hash, agent, label, prefix: begins, ceiling, created_at, expires_at, .. } => {
                let Some(capabilities) = capabilities(ceiling.as_ref(), hash, &mut losses) else { continue };
                let when = |at: &Option<Timestamp>| at.map_or_else(|| "NULL".to_owned(), moment);
                let _ = writeln!(
                    out,
                    "INSERT INTO `{prefix}datamachine_agent_tokens` (agent_id, token_hash, token_prefix, label, capabilities, \
                     expires_at, created_at) VALUES ({agent}, '{hash}', {}, {}, {capabilities}, {}, {}) ON DUPLICATE KEY UPDATE \
                     label = VALUES(label), capabilities = VALUES(capabilities), expires_at = VALUES(expires_at);",
                    text(begins),
                    text(label),
                    when(expires_at),
                    created_at.map_or_else(|| "UTC_TIMESTAMP()".to_owned(), moment),
                );
            }
            Item::GonePerson { .. } | Item::Config { .. } | Item::Account { .. } | Item::Grant { .. } | Item::Nothing { .. } => {}
        }
    }
    out.push_str("COMMIT;\n");
    (out, losses)
}

/// The column `capabilities`; nothing where it could not hold the token to what holds it here.
fn capabilities(stored: Option<&Value>, hash: &str, losses: &mut Vec<Loss>) -> Option<String> {
    let mut lose = |why: &str| losses.push(Loss { what: format!("token {}", &hash[..8.min(hash.len())]), why: why.to_owned() });
    let Some(stored) = stored else { return Some("NULL".to_owned()) };
    let Ok(ceiling) = serde_json::from_value::<Ceiling>(stored.clone()) else {
        lose("its ceiling cannot be read; it is written so that it allows nothing");
        return Some(text("[]"));
    };
    let ours = Ceiling { platform: None, ..ceiling.clone() };
    if ours != Ceiling::default() {
        lose("its ceiling holds it to deliveries, connections, providers or operations, which Data Machine does not know");
        return None;
    }
    Some(ceiling::write(Some(&ceiling)).map_or_else(|| "NULL".to_owned(), |value| text(&value.to_string())))
}

/// A text as a hex literal; MySQL takes it for bytes, in the column's charset.
fn text(text: &str) -> String {
    if text.is_empty() {
        return "''".to_owned();
    }
    let mut out = String::with_capacity(2 + text.len() * 2);
    out.push_str("0x");
    for byte in text.bytes() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// A moment as a column of MySQL holds it, in UTC.
fn moment(at: Timestamp) -> String {
    match jiff::Timestamp::from_microsecond(at.0) {
        Ok(moment) => format!("'{}'", moment.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S")),
        Err(_) => "'1970-01-01 00:00:00'".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(ceiling: Option<Value>) -> Item {
        Item::Token {
            hash: "ab".repeat(32),
            agent: "1".parse().unwrap(),
            label: "it's \\ x'".to_owned(),
            prefix: "datamachine_".to_owned(),
            person: "1".parse().unwrap(),
            ceiling,
            created_at: Some(Timestamp::from_unix_seconds(1_795_314_149)),
            expires_at: None,
            last_used_at: None,
        }
    }

    #[test]
    fn no_text_leaves_its_literal() {
        let (sql, losses) = write("wp_", &[token(None)]);
        assert!(sql.contains("0x69742773205c207827") && !sql.contains("it's"), "{sql}");
        assert!(sql.contains("'2026-11-22 02:22:29'") && losses.is_empty(), "{sql}");
        assert!(!is_prefix("wp_`; DROP"));
    }

    #[test]
    fn a_token_is_never_written_with_more_than_it_has_here() {
        let (sql, losses) = write("wp_", &[token(Some(json!("unreadable")))]);
        assert!(sql.contains(&text("[]")) && losses.len() == 1, "{sql}");
        let (sql, losses) = write("wp_", &[token(Some(json!({ "delivery": ["proxy"] })))]);
        assert!(!sql.contains("agent_tokens") && losses.len() == 1, "{sql}");
    }
}
