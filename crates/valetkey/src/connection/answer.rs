//! What a token answer makes of an account: the sealed members and the plain facts beside them.
//!
//! Connecting and refreshing both end here, so that an account has the same member names however it came to be:
//! `access_token`, `refresh_token`, `token_type`, `expires_at` (seconds since the Unix epoch, a number), `scope` (as
//! granted, separated by spaces), and whatever else the provider answered under its own names.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{RefreshWindow, Renewal, Tokens, refresh_at};
use crate::{
    clock::Timestamp,
    provider::{Definition, FieldLevel, RefreshStrategy, Rotation, step::Outputs},
    secret::SecretMap,
};

/// What a definition's step reads out of an answer. These come from where the definition says they stand, and a member
/// of the answer that happens to have the same name does not count.
const READ_BY_THE_STEP: &[&str] = &[
    "access_token",
    "refresh_token",
    "token_secret",
    "access_token_secret",
    "token_type",
    "expires_in",
    "expires_at",
    "refresh_expires_in",
    "refresh_expires_at",
    "scope",
    "slots",
    "resources",
];

/// Who the account is. A refresh must not overwrite what the identity step found out.
const IDENTITY: &[&str] = &["id", "username", "display_name", "email"];

/// A refresh token that lives shorter is not kept alive by schedule: an end that comes nearer with every answer, as
/// some providers tell it, would make refreshes follow one another faster and faster.
const SHORTEST_KEPT_ALIVE: Duration = Duration::from_secs(600);

/// The longest text that is kept of a slot's token answer, in bytes.
const MAX_SLOT_TEXT: usize = 16 * 1024;

/// Merges a token answer into an account. `now` is the moment at which the request was sent; `old` is the account as it
/// was, absent for a fresh consent.
///
/// What the answer does not name stays as it was: a missing refresh token keeps the old one (RFC 6749 section 6). Of the
/// returned facts, `scopes`, `usual_life` and `refresh_expires_at` are absent where the answer says nothing about them:
/// after a connect the scopes are then those that were asked for (RFC 6749 section 5.1), after a refresh all three stay
/// as they were.
pub fn merge_answer(definition: &Definition, old: Option<&SecretMap>, outputs: &Outputs, now: Timestamp) -> (SecretMap, Tokens) {
    let mut account = old.cloned().unwrap_or_default();
    for (name, value) in outputs.raw.expose() {
        let ours = READ_BY_THE_STEP.contains(&name.as_str())
            || (IDENTITY.contains(&name.as_str()) && account.expose().contains_key(name))
            // What was entered at connect may decide a host (decisions 4): no answer changes it.
            || definition.fields_of(FieldLevel::Connection).any(|field| &field.name == name);
        if !ours && !value.is_null() {
            account.expose_mut().insert(name.clone(), value.clone());
        }
    }
    let old_refresh_token = account.text("refresh_token");
    store_outputs(definition, outputs, &mut account);
    for (name, slot) in slot_tokens(definition, &outputs.raw, now) {
        let slots = account.expose_mut().entry("slots").or_insert_with(|| Value::Object(Map::new()));
        match slots.as_object_mut() {
            Some(slots) => drop(slots.insert(name, slot)),
            None => *slots = Value::Object(Map::from_iter([(name, slot)])),
        }
    }

    // R32: an absent lifetime is unknown. So is one that is over when it arrives: a provider that says so means that
    // it does not say, and to believe it would buy a new token for every call.
    let in_the_future = |end: &Timestamp| *end > now;
    let expires_at = outputs.access_expiry(now).filter(in_the_future);
    match expires_at {
        Some(end) => account.expose_mut().insert("expires_at".to_owned(), Value::from(end.unix_seconds())),
        None if outputs.access_token.is_some() => account.expose_mut().remove("expires_at"),
        None => None,
    };
    if let Some(scopes) = &outputs.scope {
        account.expose_mut().insert("scope".to_owned(), Value::from(scopes.join(" ")));
    }

    let refresh = &definition.refresh;
    let refresh_token = account.text("refresh_token");
    let renewal = renewal_of(definition, &account);
    let is_new = match (&old_refresh_token, &refresh_token) {
        (Some(old), Some(new)) => !old.matches(new),
        (None, Some(_)) => true,
        (_, None) => false,
    };
    let refresh_expires_at = match refresh_token {
        None => None,
        Some(_) => outputs.refresh_expiry(now).filter(in_the_future).or_else(|| {
            let begins_anew = is_new || refresh.refresh_ttl_sliding;
            refresh.refresh_ttl.filter(|_| begins_anew).map(|life| now.plus(life))
        }),
    };
    let life = expires_at.map(|end| end.since(now)).or(refresh.access_ttl);
    let tokens = Tokens {
        renewal,
        issued_at: Some(now),
        expires_at,
        usual_life: life.map(|life| i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
        refresh_expires_at,
        refresh_at: due_at(definition, renewal, Some(now), expires_at, refresh_expires_at),
        scopes: outputs.scope.clone(),
    };
    (account, tokens)
}

/// Writes what an answer brought into an account. What was entered at connect stays as it was entered: it may decide a host
/// (decisions 4), and it may be the name that the next login must be made with.
pub fn store_outputs(definition: &Definition, outputs: &Outputs, account: &mut SecretMap) {
    let fields = definition.fields_of(FieldLevel::Connection);
    let entered: Vec<_> = fields.filter_map(|field| account.expose_mut().remove_entry(&field.name)).collect();
    outputs.store_into(account);
    account.expose_mut().extend(entered);
}

/// How an account with these members is renewed.
///
/// Where a login is what a refresh falls back on, an account without a refresh token is minted by that login.
pub(super) fn renewal_of(definition: &Definition, account: &SecretMap) -> Renewal {
    let has = |name: &str| account.text(name).is_some();
    match definition.refresh.strategy {
        RefreshStrategy::RefreshToken if has("refresh_token") => Renewal::RefreshToken,
        RefreshStrategy::RefreshToken if definition.can_mint_from(account) => Renewal::Remint,
        RefreshStrategy::Extend if has("access_token") => Renewal::Extend,
        RefreshStrategy::Remint => Renewal::Remint,
        RefreshStrategy::RefreshToken | RefreshStrategy::Extend | RefreshStrategy::None => Renewal::None,
    }
}

/// Puts back what decides a host, after a renewal: whatever a provider answers, the account stays at the server where it was
/// connected (decisions 4).
pub fn keep_hosts(definition: &Definition, old: &SecretMap, account: &mut SecretMap) {
    for name in definition.extras_deciding_hosts() {
        match old.expose().get(name) {
            Some(value) => drop(account.expose_mut().insert(name.to_owned(), value.clone())),
            None => drop(account.expose_mut().remove(name)),
        }
    }
}

/// The further tokens that a token answer holds, by slot (Slack's user token beside its bot token). `expires_at` says when
/// one ends, in seconds since the Unix epoch, where the answer or the definition says how long it lives.
fn slot_tokens(definition: &Definition, raw: &SecretMap, now: Timestamp) -> Vec<(String, Value)> {
    let mut slots = Vec::new();
    if definition.slots.iter().all(|(_, slot)| slot.out.is_empty()) {
        return slots;
    }
    let answer = Value::Object(raw.expose().clone());
    for (name, slot) in &definition.slots {
        let mut found = Map::new();
        for (member, paths) in &slot.out {
            let value = paths.iter().find_map(|path| path.find(&answer)).filter(|value| match value {
                Value::String(text) => !text.is_empty() && text.len() <= MAX_SLOT_TEXT,
                Value::Number(_) | Value::Bool(_) => true,
                _ => false,
            });
            if let Some(value) = value {
                found.insert(member.clone(), value.clone());
            }
        }
        let told = found.get("expires_in").and_then(Value::as_u64).map(Duration::from_secs);
        if let Some(life) = told.or(slot.ttl) {
            found.insert("expires_at".to_owned(), Value::from(now.plus(life).unix_seconds()));
        }
        if found.contains_key("access_token") {
            slots.push((name.clone(), Value::Object(found)));
        }
    }
    // The copy is of secrets: it does not stay behind.
    if let Value::Object(map) = answer {
        drop(SecretMap::new(map));
    }
    slots
}

/// When an access token should be renewed, or nothing when it never should be: ahead of its end, and often enough to
/// keep an idle refresh token alive.
///
/// Where the token's end is unknown, the life that the definition knows decides when to ask for a new one; it never
/// decides that a token is over.
pub fn due_at(
    definition: &Definition,
    renewal: Renewal,
    issued_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    refresh_expires_at: Option<Timestamp>,
) -> Option<Timestamp> {
    let refresh = &definition.refresh;
    let window = RefreshWindow { before: refresh.before, refresh_life: None };
    // What was imported may have an end without a beginning; then the whole window counts.
    let issued = match (issued_at, expires_at) {
        (Some(issued), _) => issued,
        (None, Some(end)) => end.minus(refresh.before.max(Duration::from_secs(60)) * 3),
        (None, None) => return None,
    };
    let end = expires_at.or_else(|| refresh.access_ttl.map(|life| issued.plus(life)));
    match renewal {
        Renewal::None => None,
        Renewal::Remint => refresh_at(issued, end, None, window),
        Renewal::RefreshToken => {
            // A refresh prolongs the life of a refresh token only where it brings another one or slides the old one's.
            let prolongs = refresh.refresh_ttl_sliding || refresh.rotation != Rotation::Never;
            let kept_alive = refresh_expires_at.filter(|end| prolongs && end.since(issued) >= SHORTEST_KEPT_ALIVE);
            refresh_at(issued, end, kept_alive, window)
        }
        Renewal::Extend => {
            let due = refresh_at(issued, end, None, window)?;
            // Too young a token is not renewed; too old a one perhaps neither.
            let due = due.max(issued.plus(refresh.min_age.unwrap_or_default()));
            let in_time = refresh.accept_expired || expires_at.is_none_or(|end| due < end);
            in_time.then_some(due)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        provider::{Catalogue, Trust},
        secret::SecretBytes,
    };

    const DAY: Duration = Duration::from_secs(86_400);
    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn definition(refresh: &str) -> Definition {
        let text = format!(
            r#"
title = "Some"
kind = "oauth2"
identity = "none"
identity_none_reason = "a test"
[fields]
client_id = {{ label = "Id", type = "text", required = true, level = "app", role = "client_id" }}
server = {{ label = "Server", type = "url", required = true, level = "connection", normalize = "https_origin" }}
[oauth2]
authorize_url = "https://some.example/authorize"
token_url = "https://some.example/token"
client_auth = "none"
pkce = "required"
scope_separator = " "
scopes = {{ default = ["a"] }}
[refresh]
{refresh}
"#
        );
        let name = "some".parse().unwrap();
        let catalogue = Catalogue::default().with_text(&name, &text, Trust::Normal).unwrap_or_else(|e| panic!("{e:#?}"));
        Definition::clone(catalogue.get(&name).unwrap())
    }

    fn read(definition: &Definition, answer: serde_json::Value) -> Outputs {
        let step = definition.refresh.step.as_ref().unwrap();
        step.read(http::StatusCode::OK, &http::HeaderMap::new(), answer.to_string().as_bytes()).unwrap()
    }

    fn account(json: serde_json::Value) -> SecretMap {
        SecretMap::from_json(&SecretBytes::new(json.to_string().into_bytes())).unwrap()
    }

    const ROTATES: &str = "strategy = \"refresh_token\"\nrotation = \"always\"\nbefore = \"5m\"";

    /// R34.
    #[test]
    fn an_answer_is_merged_and_erases_nothing() {
        let definition = definition(ROTATES);
        let old = account(json!({ "access_token": "a1", "refresh_token": "r1", "scope": "x", "expires_at": 5, "note": "kept" }));
        let answer = json!({ "access_token": "a2", "token_type": "Bearer", "tenant": { "id": 7 }, "nothing": null });
        let (merged, tokens) = merge_answer(&definition, Some(&old), &read(&definition, answer), NOW);
        assert_eq!(
            serde_json::Value::Object(merged.expose().clone()),
            json!({
                "access_token": "a2", "refresh_token": "r1", "token_type": "bearer", "scope": "x", "note": "kept",
                "tenant": { "id": 7 },
            })
        );
        assert_eq!((tokens.expires_at, tokens.scopes, tokens.usual_life), (None, None, None));
        assert_eq!(tokens.renewal, Renewal::RefreshToken);
    }

    #[test]
    fn an_answer_changes_neither_what_was_entered_nor_who_the_account_is() {
        let definition = definition(ROTATES);
        let old = account(json!({ "server": "https://mine.example", "id": "1001", "slots": { "bot": {} } }));
        let answer = json!({
            "access_token": "a", "server": "https://other.example", "id": "666", "slots": "gone", "refresh_expires_at": "x",
        });
        let (merged, _) = merge_answer(&definition, Some(&old), &read(&definition, answer), NOW);
        assert_eq!(
            serde_json::Value::Object(merged.expose().clone()),
            json!({ "server": "https://mine.example", "id": "1001", "slots": { "bot": {} }, "access_token": "a" })
        );
    }

    #[test]
    fn the_account_says_the_end_and_the_scopes_of_its_token() {
        let definition = definition(ROTATES);
        let answer = json!({ "access_token": "a", "refresh_token": "r", "expires_in": 3600, "scope": "b a" });
        let (merged, tokens) = merge_answer(&definition, None, &read(&definition, answer), NOW);
        assert_eq!(merged.expose()["expires_at"], json!(1_800_003_600));
        assert_eq!(merged.expose()["scope"], json!("a b"));
        assert_eq!(tokens.expires_at, Some(NOW.plus(HOUR)));
        assert_eq!(tokens.usual_life, Some(3600));
        assert_eq!(tokens.refresh_at, Some(NOW.plus(HOUR).minus(Duration::from_secs(300))));
    }

    #[test]
    fn a_refresh_token_of_fixed_life_is_not_kept_alive_in_vain() {
        let fixed = definition("strategy = \"refresh_token\"\nrotation = \"never\"\nrefresh_ttl = \"30d\"");
        let answer = json!({ "access_token": "a", "refresh_token": "r" });
        let (first, tokens) = merge_answer(&fixed, None, &read(&fixed, answer), NOW);
        assert_eq!((tokens.refresh_expires_at, tokens.refresh_at), (Some(NOW.plus(30 * DAY)), None));
        // A later answer does not begin its life anew.
        let (_, tokens) = merge_answer(&fixed, Some(&first), &read(&fixed, json!({ "access_token": "b" })), NOW.plus(DAY));
        assert_eq!(tokens.refresh_expires_at, None);
    }

    #[test]
    fn a_new_or_sliding_refresh_token_lives_anew_and_is_kept_alive() {
        let rotates = definition(&format!("{ROTATES}\nrefresh_ttl = \"30d\""));
        let slides = "strategy = \"refresh_token\"\nrotation = \"never\"\nrefresh_ttl = \"30d\"\nrefresh_ttl_sliding = true";
        let slides = definition(slides);
        let old = account(json!({ "access_token": "a", "refresh_token": "r" }));
        for (definition, answer) in
            [(&rotates, json!({ "access_token": "b", "refresh_token": "r2" })), (&slides, json!({ "access_token": "b" }))]
        {
            let (_, tokens) = merge_answer(definition, Some(&old), &read(definition, answer), NOW);
            assert_eq!((tokens.refresh_expires_at, tokens.refresh_at), (Some(NOW.plus(30 * DAY)), Some(NOW.plus(20 * DAY))));
        }
    }

    #[test]
    fn a_refresh_token_whose_end_comes_nearer_with_every_answer_makes_few_refreshes() {
        let definition = definition(&format!(
            "{ROTATES}\nout = {{ access_token = \"access_token\", \
            refresh_token = \"refresh_token\", refresh_expires_in = \"left\" }}"
        ));
        let end = NOW.plus(365 * DAY);
        let (mut now, mut refreshes) = (NOW, 0);
        loop {
            let left = end.since(now).as_secs();
            let answer = json!({ "access_token": "a", "refresh_token": format!("r{refreshes}"), "left": left });
            let (_, tokens) = merge_answer(&definition, None, &read(&definition, answer), now);
            let Some(next) = tokens.refresh_at else { break };
            assert!(next > now);
            (now, refreshes) = (next, refreshes + 1);
            assert!(refreshes < 15, "refreshes follow one another faster and faster");
        }
    }

    #[test]
    fn a_token_that_is_extended_is_neither_too_young_nor_too_old_for_it() {
        let extend = |more: &str| {
            definition(&format!(
                "strategy = \"extend\"\nmethod = \"GET\"\nurl = \"https://some.example/extend\"\nauth = \"bearer\"\nbefore = \"7d\"\n{more}"
            ))
        };
        let due =
            |definition: &Definition, life: Duration| due_at(definition, Renewal::Extend, Some(NOW), Some(NOW.plus(life)), None);
        let plain = extend("min_age = \"24h\"\naccept_expired = false");
        assert_eq!(due(&plain, 60 * DAY), Some(NOW.plus(53 * DAY)));
        assert_eq!(due(&plain, 30 * HOUR), Some(NOW.plus(24 * HOUR)));
        assert_eq!(due(&plain, HOUR), None);
        assert_eq!(due(&extend("min_age = \"24h\"\naccept_expired = true"), HOUR), Some(NOW.plus(24 * HOUR)));
    }

    #[test]
    fn what_cannot_be_renewed_is_never_due() {
        let definition = definition(ROTATES);
        let (_, tokens) =
            merge_answer(&definition, None, &read(&definition, json!({ "access_token": "a", "expires_in": 60 })), NOW);
        assert_eq!((tokens.renewal, tokens.refresh_at), (Renewal::None, None));
    }
}
