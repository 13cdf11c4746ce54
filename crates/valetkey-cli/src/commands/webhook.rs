//! `valetkey webhook`: where a site wants to be told what happened.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use valetkey::{audit::EVENT_TYPES, clock::Timestamp};

use super::Session;
use crate::{
    client::{segment, with_query},
    failure::{Failure, Result},
    moments::Until,
    output::{cell, facts, items, table},
};

/// Webhooks.
#[derive(Debug, Subcommand)]
pub(crate) enum Webhook {
    /// Name an endpoint; the secret that signs its messages is shown once
    Create {
        /// Where messages are sent: https, at a public address
        url: String,
        /// What to call it
        #[arg(long, default_value = "")]
        title: String,
        /// Which events it is for; may be repeated. All of them when left out
        #[arg(long = "event", value_name = "EVENT", value_delimiter = ',', value_parser = event)]
        events: Vec<String>,
    },
    /// List the site's endpoints
    List,
    /// Show an endpoint and how it is
    Show {
        /// Its id
        id: String,
    },
    /// Change an endpoint; what is not named stays
    Update(Update),
    /// Give an endpoint a new secret, shown once; the one before signs, too, for a day
    Rotate {
        /// Its id
        id: String,
    },
    /// Remove an endpoint, with everything that waits for it
    Delete {
        /// Its id
        id: String,
    },
    /// List what became of an endpoint's messages, the newest first
    Deliveries {
        /// Its id
        id: String,
        /// Only those in this state
        #[arg(long, value_parser = ["pending", "delivered", "failed", "stopped"])]
        status: Option<String>,
        /// Only those of messages that came before this one
        #[arg(long, value_name = "MESSAGE")]
        before: Option<String>,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Send messages again, with their old ids: one, or what an endpoint missed in a span of time
    Replay(Replay),
}

/// What changes.
#[derive(Args, Debug)]
pub(crate) struct Update {
    /// Its id
    id: String,
    /// Where messages are sent
    #[arg(long)]
    url: Option<String>,
    /// What to call it
    #[arg(long)]
    title: Option<String>,
    /// Which events it is for; may be repeated
    #[arg(long = "event", value_name = "EVENT", value_delimiter = ',', value_parser = event)]
    events: Vec<String>,
    /// It is for all events
    #[arg(long, conflicts_with = "events")]
    all_events: bool,
    /// Tell it what happens from now on
    #[arg(long)]
    enable: bool,
    /// Tell it nothing any more
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
}

/// What is sent again.
#[derive(Args, Debug)]
pub(crate) struct Replay {
    /// The endpoint's id
    id: String,
    /// This message, whatever became of it
    #[arg(long, value_name = "MESSAGE", required_unless_present = "since", conflicts_with_all = ["since", "until", "delivered"])]
    message: Option<String>,
    /// What came since then and was not delivered: so long ago, such as 2h, or a moment such as 2027-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = Until::parse)]
    since: Option<Until>,
    /// Until when: so long ago, or a moment
    #[arg(long, value_name = "WHEN", value_parser = Until::parse, requires = "since")]
    until: Option<Until>,
    /// Also what was delivered
    #[arg(long, requires = "since")]
    delivered: bool,
}

fn event(text: &str) -> Result<String, String> {
    if EVENT_TYPES.iter().any(|(name, _)| *name == text) {
        return Ok(text.to_owned());
    }
    let all: Vec<_> = EVENT_TYPES.iter().map(|(name, _)| *name).collect();
    Err(format!("there is no such event; there are {}", all.join(", ")))
}

impl Webhook {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::Create { url, title, events } => {
                let events = (!events.is_empty()).then_some(events);
                let body = json!({ "url": url, "title": title, "events": events });
                session.ask(Method::POST, "/v1/webhooks", Some(&body), made).await
            }
            Self::List => session.ask(Method::GET, "/v1/webhooks", None, list).await,
            Self::Show { id } => session.ask(Method::GET, &path(&id, "")?, None, shown).await,
            Self::Update(update) => {
                let path = path(&update.id, "")?;
                session.ask(Method::PATCH, &path, Some(&update.body()?), changed).await
            }
            Self::Rotate { id } => session.ask(Method::POST, &path(&id, "/rotate")?, None, made).await,
            Self::Delete { id } => session.ask(Method::DELETE, &path(&id, "")?, None, |_| format!("{id} is removed")).await,
            Self::Deliveries { id, status, before, limit } => {
                let limit = limit.to_string();
                let parameters = [("status", status.as_deref()), ("after", before.as_deref()), ("limit", Some(limit.as_str()))];
                let path = with_query(&path(&id, "/deliveries")?, &parameters);
                session.ask(Method::GET, &path, None, deliveries).await
            }
            Self::Replay(replay) => {
                let path = path(&replay.id, "/replay")?;
                let body = replay.body(session.clock.now());
                session.ask(Method::POST, &path, Some(&body), |answer| format!("{} queued again", cell(answer, "/queued"))).await
            }
        }
    }
}

impl Update {
    fn body(&self) -> Result<Value> {
        let mut body = Map::new();
        for (name, value) in [("url", &self.url), ("title", &self.title)] {
            if let Some(value) = value {
                body.insert(name.to_owned(), json!(value));
            }
        }
        if self.all_events || !self.events.is_empty() {
            body.insert("events".to_owned(), if self.all_events { Value::Null } else { json!(self.events) });
        }
        if self.enable || self.disable {
            body.insert("enabled".to_owned(), json!(self.enable));
        }
        if body.is_empty() {
            return Err(Failure::usage("say what changes: --url, --title, --event, --all-events, --enable or --disable"));
        }
        Ok(Value::Object(body))
    }
}

impl Replay {
    fn body(&self, now: Timestamp) -> Value {
        let mut body = Map::new();
        let since = self.since.map(|when| when.before(now));
        let until = self.until.map(|when| when.before(now));
        for (name, value) in [("message", json!(self.message)), ("since", json!(since)), ("until", json!(until))] {
            if !value.is_null() {
                body.insert(name.to_owned(), value);
            }
        }
        if self.delivered {
            body.insert("delivered_too".to_owned(), json!(true));
        }
        Value::Object(body)
    }
}

fn path(id: &str, tail: &str) -> Result<String> {
    Ok(format!("/v1/webhooks/{}{tail}", segment(id)?))
}

fn state(webhook: &Value) -> String {
    let since = cell(webhook, "/disabled_at");
    let failing = cell(webhook, "/failing_since");
    match (since.as_str(), failing.as_str()) {
        ("", "") => "enabled".to_owned(),
        ("", failing) => format!("failing since {failing}"),
        (since, _) => format!("disabled since {since} ({})", cell(webhook, "/disabled_why")),
    }
}

fn events(webhook: &Value) -> String {
    let named = cell(webhook, "/events");
    if named.is_empty() { "all".to_owned() } else { named }
}

fn shown(webhook: &Value) -> String {
    facts(&[
        ("id", cell(webhook, "/id")),
        ("title", cell(webhook, "/title")),
        ("url", cell(webhook, "/url")),
        ("events", events(webhook)),
        ("state", state(webhook)),
        ("old secret signs until", cell(webhook, "/old_secret_until")),
        ("since", cell(webhook, "/created_at")),
        ("secret", cell(webhook, "/secret")),
    ])
}

fn made(webhook: &Value) -> String {
    format!(
        "{}\n\nThe secret is shown this once. Whoever receives the messages verifies their signatures by it: see docs/webhooks.md.",
        shown(webhook)
    )
}

fn changed(webhook: &Value) -> String {
    let id = cell(webhook, "/id");
    match webhook.get("enabled") {
        Some(Value::Bool(true)) => {
            format!("{}\n\nWhat it missed before is sent by: valetkey webhook replay {id} --since WHEN", shown(webhook))
        }
        _ => shown(webhook),
    }
}

fn list(answer: &Value) -> String {
    let row = |webhook: &Value| {
        vec![cell(webhook, "/id"), cell(webhook, "/title"), cell(webhook, "/url"), events(webhook), state(webhook)]
    };
    table(
        &["id", "title", "url", "events", "state"],
        items(answer, "webhooks").iter().map(row).collect(),
        "there is no webhook; make one with `valetkey webhook create`",
    )
}

fn deliveries(answer: &Value) -> String {
    let columns = ["/message", "/event", "/at", "/status", "/attempts", "/last_status", "/last_error", "/next_at"];
    let row = |delivery: &Value| columns.map(|at| cell(delivery, at)).to_vec();
    let heads = ["message", "event", "at", "state", "tries", "answer", "error", "next"];
    table(&heads, items(answer, "deliveries").iter().map(row).collect(), "nothing was sent there, and nothing waits")
}
