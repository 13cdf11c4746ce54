//! What a token answer makes of an account: the sealed members and the plain facts beside them.
//!
//! Connecting and refreshing both end here, so that an account has the same member names however it came to be:
//! `access_token`, `refresh_token`, `token_type`, `expires_at` (seconds since the Unix epoch, a number), `scope` (as
//! granted, separated by spaces), and whatever else the provider answered under its own names.

use std::time::Duration;

use serde_json::Value;

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
    "token_type",
    "expires_in",
    "expires_at",
    "refresh_expires_in",
    "refresh_expires_at",
    "scope",
    "slots",
];

/// Who the account is. A refresh must not overwrite what the identity step found out.
const IDENTITY: &[&str] = &["id", "username", "display_name", "email"];

/// A refresh token that lives shorter is not kept alive by schedule: an end that comes nearer with every answer, as
/// some providers tell it, would make refreshes follow one another faster and faster.
const SHORTEST_KEPT_ALIVE: Duration = Duration::from_secs(600);

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
    outputs.store_into(&mut account);

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
    let renewal = match refresh.strategy {
        RefreshStrategy::RefreshToken if refresh_token.is_some() => Renewal::RefreshToken,
        RefreshStrategy::Extend if account.text("access_token").is_some() => Renewal::Extend,
        RefreshStrategy::Remint => Renewal::Remint,
        RefreshStrategy::RefreshToken | RefreshStrategy::Extend | RefreshStrategy::None => Renewal::None,
    };
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
