//! What of the audit is told to the outside: messages for webhooks, queued in the transaction that records the event.
//!
//! 1. A change is recorded, and its action has one or several types here.
//! 2. The endpoints of the site are read in the same transaction. Where none is for that type, nothing is written.
//! 3. Otherwise there is one message, and one delivery for each endpoint that is enabled. `webhook` sends them.
//!
//! So an event is told if, and only if, what it tells of was committed. This is here, below `webhook`, because every room
//! records what it does, and nobody but the audit sees all of it. A row of the audit goes out as its ids and as those of its
//! facts that are named here; nothing that somebody typed in, such as a reason, is among them.

use std::collections::{HashMap, hash_map::Entry};

use serde_json::{Map, Value, json};

use super::{Event, Outcome};
use crate::{
    clock::Timestamp,
    db::Tx,
    error::Result,
    id::{MessageId, SiteId},
    on, row,
};

/// Every type of event that a webhook can be for, with the facts that its message holds.
pub const EVENT_TYPES: &[(&str, &[&str])] = &[
    ("connection.connected", &["provider", "owner", "name", "session", "again", "missing_scopes", "replaced"]),
    ("connection.needs_reauth", &["provider", "reason", "error"]),
    ("connection.revoked", &["provider", "owner", "name"]),
    ("connection.warned", &["provider", "owner", "name", "ends_at", "reconnect", "command"]),
    ("refresh.failed", &["provider", "error", "answer_lost", "app_config"]),
    ("connect.finished", &["session", "provider", "owner", "name", "code"]),
    ("grant.created", &["grant", "delivery", "for_whom", "expires_at"]),
    ("grant.revoked", &["grant"]),
    ("token.minted", &["token", "person", "expires_at"]),
    ("token.revoked", &["token", "tokens"]),
    ("approval.requested", &["approval", "grant", "delivery", "method", "host"]),
    ("approval.decided", &["approval", "grant"]),
    ("approval.expired", &["approval", "grant"]),
    ("proposal.requested", &["proposal", "provider", "addressee", "delivery", "for_whom"]),
    ("proposal.decided", &["proposal", "provider", "grant"]),
    ("proposal.expired", &["proposal", "provider", "addressee"]),
    ("webhook.disabled", &["webhook", "reason"]),
];

/// A message that is to be queued, if anybody wants it.
pub(super) struct Message {
    site: SiteId,
    kind: &'static str,
    at: Timestamp,
    body: String,
}

/// What of an event is told: the row `id` of the audit, recorded at `at`.
pub(super) fn messages(event: &Event, id: &str, at: Timestamp) -> Vec<Message> {
    kinds(event).iter().map(|kind| message(event, kind, id, at)).collect()
}

/// The types of an event.
fn kinds(event: &Event) -> &'static [&'static str] {
    let fact = |name: &str| event.facts.get(name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
    match (event.action, event.outcome) {
        ("connection.connect", Outcome::Ok) if fact("replaced") => {
            &["connection.revoked", "connection.connected", "connect.finished"]
        }
        ("connection.connect", Outcome::Ok) => &["connection.connected", "connect.finished"],
        // An attempt after which the link still works is not the end.
        ("connection.connect", Outcome::Denied | Outcome::Failed) if fact("over") => &["connect.finished"],
        ("connect.cancel", _) => &["connect.finished"],
        ("account.put", _) if fact("replaced") => &["connection.revoked", "connection.connected"],
        ("account.put", _) if fact("created") => &["connection.connected"],
        ("connection.revoke", _) => &["connection.revoked"],
        ("connection.ageing", _) => &["connection.warned"],
        ("refresh.needs_reauth", _) => &["connection.needs_reauth"],
        ("refresh.failed", _) => &["refresh.failed"],
        ("grant.create", Outcome::Ok) => &["grant.created"],
        ("grant.revoke", Outcome::Ok) => &["grant.revoked"],
        ("token.mint", Outcome::Ok) => &["token.minted"],
        ("token.revoke" | "token.revoke_all", Outcome::Ok) => &["token.revoked"],
        ("approval.hold", Outcome::Ok) => &["approval.requested"],
        ("approval.approve" | "approval.refuse", Outcome::Ok) => &["approval.decided"],
        ("approval.expire", Outcome::Ok) => &["approval.expired"],
        ("proposal.create", Outcome::Ok) => &["proposal.requested"],
        ("proposal.accept" | "proposal.refuse", Outcome::Ok) => &["proposal.decided"],
        ("proposal.expire", Outcome::Ok) => &["proposal.expired"],
        ("webhook.disable", _) => &["webhook.disabled"],
        _ => &[],
    }
}

fn message(event: &Event, kind: &'static str, id: &str, at: Timestamp) -> Message {
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            data.insert(name.to_owned(), value);
        }
    };
    put("site", json!(event.site));
    put("event", json!(id));
    put("actor", json!(event.actor));
    put("outcome", json!(event.outcome.as_str()));
    put("agent", json!(event.agent));
    let replaced = event.facts.get("replaced").filter(|value| kind == "connection.revoked" && !value.is_null());
    let answer = match event.action {
        "approval.approve" => Some("approved"),
        "proposal.accept" => Some("accepted"),
        "approval.refuse" | "proposal.refuse" => Some("refused"),
        _ => None,
    };
    put("answer", json!(answer));
    put("connection", replaced.cloned().unwrap_or_else(|| json!(event.connection)));
    let named = EVENT_TYPES.iter().find(|(name, _)| *name == kind).map_or(&[][..], |(_, named)| named);
    for name in named {
        put(name, event.facts.get(name).cloned().unwrap_or_default());
    }
    // The form that Standard Webhooks names: `type`, `timestamp`, `data`.
    let body = json!({ "type": kind, "timestamp": at, "data": data });
    Message { site: event.site.clone(), kind, at, body: body.to_string() }
}

row! {
    struct EndpointRow {
        id: String,
        events: Option<String>,
        disabled_at: Option<i64>,
    }
}

/// Queues messages for those endpoints of their sites that want them.
///
/// Nothing here can be violated: a change must not fail because somebody removes an endpoint at the same moment. What is left
/// of such a one is swept.
pub(super) async fn queue(tx: &mut Tx, messages: Vec<Message>) -> Result<()> {
    let mut endpoints: HashMap<SiteId, Vec<EndpointRow>> = HashMap::new();
    for message in messages {
        let all = match endpoints.entry(message.site.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(endpoints_of(tx, &message.site).await?),
        };
        let wanting: Vec<&EndpointRow> = all.iter().filter(|endpoint| wants(endpoint, message.kind)).collect();
        if wanting.is_empty() {
            continue;
        }
        let id = MessageId::new();
        on!(&mut *tx, |c| sqlx::query("INSERT INTO webhook_messages (site, id, type, at, body) VALUES ($1, $2, $3, $4, $5)")
            .bind(message.site.as_str())
            .bind(id.as_str())
            .bind(message.kind)
            .bind(message.at.0)
            .bind(&message.body)
            .execute(c)
            .await
            .map(|_| ())?);
        // One that is disabled gets nothing now; the message is there to be replayed.
        for endpoint in wanting.into_iter().filter(|endpoint| endpoint.disabled_at.is_none()) {
            on!(&mut *tx, |c| sqlx::query(
                "INSERT INTO webhook_deliveries (site, webhook, message, status, attempts, claim, next_at, created_at)
                 VALUES ($1, $2, $3, 'pending', 0, 0, $4, $4)"
            )
            .bind(message.site.as_str())
            .bind(&endpoint.id)
            .bind(id.as_str())
            .bind(message.at.0)
            .execute(c)
            .await
            .map(|_| ())?);
        }
    }
    Ok(())
}

async fn endpoints_of(tx: &mut Tx, site: &SiteId) -> Result<Vec<EndpointRow>> {
    Ok(on!(tx, |c| sqlx::query_as("SELECT id, events, disabled_at FROM webhooks WHERE site = $1 ORDER BY id")
        .bind(site.as_str())
        .fetch_all(c)
        .await?))
}

fn wants(endpoint: &EndpointRow, kind: &str) -> bool {
    let Some(events) = &endpoint.events else { return true };
    match serde_json::from_str::<Vec<String>>(events) {
        Ok(events) => events.iter().any(|event| event == kind),
        Err(_) => {
            tracing::error!(webhook.id = endpoint.id, "the events of a webhook cannot be read; it is told nothing");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::ConnectionId, principal::Actor};

    fn told(action: &'static str, outcome: Outcome, facts: Value) -> Vec<Value> {
        let event = Event::new(&SiteId::default_site(), &Actor::System, action).outcome(outcome).facts(facts);
        let event = event.connection(&ConnectionId::new());
        messages(&event, "evt_1", Timestamp(0)).iter().map(|message| serde_json::from_str(&message.body).unwrap()).collect()
    }

    #[test]
    fn every_type_is_told_of_by_something_and_nothing_else_is() {
        let yes = json!({ "replaced": "con_old", "over": true, "created": true });
        let mut seen: Vec<String> = Vec::new();
        for action in [
            "connection.connect",
            "connect.cancel",
            "account.put",
            "connection.revoke",
            "connection.ageing",
            "refresh.needs_reauth",
            "refresh.failed",
            "grant.create",
            "grant.revoke",
            "token.mint",
            "token.revoke",
            "token.revoke_all",
            "approval.hold",
            "approval.approve",
            "approval.refuse",
            "approval.expire",
            "proposal.create",
            "proposal.accept",
            "proposal.refuse",
            "proposal.expire",
            "webhook.disable",
            "connection.use",
            "account.reveal",
            "agent.create",
        ] {
            seen.extend(told(action, Outcome::Ok, yes.clone()).iter().map(|body| body["type"].as_str().unwrap().to_owned()));
        }
        seen.sort();
        seen.dedup();
        let mut all: Vec<_> = EVENT_TYPES.iter().map(|(name, _)| (*name).to_owned()).collect();
        all.sort();
        assert_eq!(seen, all);
    }

    #[test]
    fn what_is_not_named_here_does_not_leave() {
        let facts = json!({ "provider": "lab", "reason": "canary", "note": "canary", "revocation": { "x": "canary" } });
        let told = told("connection.revoke", Outcome::Ok, facts);
        assert_eq!((told.len(), &told[0]["data"]["provider"]), (1, &json!("lab")));
        assert!(!told[0].to_string().contains("canary"), "{}", told[0]);
    }

    #[test]
    fn an_account_in_the_place_of_another_is_told_of_as_both() {
        let told = told("connection.connect", Outcome::Ok, json!({ "replaced": "con_old", "session": "cse_1" }));
        let types: Vec<_> = told.iter().map(|body| body["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["connection.revoked", "connection.connected", "connect.finished"]);
        assert_eq!(told[0]["data"]["connection"], "con_old");
        assert_ne!(told[1]["data"]["connection"], "con_old");
    }

    #[test]
    fn an_attempt_after_which_the_link_still_works_is_not_the_end() {
        assert!(told("connection.connect", Outcome::Failed, json!({ "over": false })).is_empty());
        let end = told("connection.connect", Outcome::Failed, json!({ "over": true, "code": "oauth_denied", "word": "canary" }));
        assert_eq!((&end[0]["type"], &end[0]["data"]["code"]), (&json!("connect.finished"), &json!("oauth_denied")));
        assert!(!end[0].to_string().contains("canary"));
    }
}
