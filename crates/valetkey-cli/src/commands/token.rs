//! `valetkey agent token`: the bearers by which agents call the broker.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use valetkey::{clock::Timestamp, principal::PlatformCeiling};

use super::Session;
use crate::{
    client::{segment, with_query},
    failure::{Failure, Result},
    moments::{Until, seconds},
    output::{Output, cell, facts, items, table, word},
};

/// Agent tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Mint a token; it is shown once
    Create {
        /// The agent's id or slug
        agent: String,
        /// What to call it
        #[arg(long, default_value = "")]
        label: String,
        /// The person it acts for, who needs a role of operator or more on the agent; without one it is unattended
        #[arg(long, alias = "person", value_name = "USER")]
        user: Option<String>,
        /// The session it is for, as you call it: what is granted for that session is granted to it
        #[arg(long)]
        session: Option<String>,
        /// The task it is for, likewise
        #[arg(long)]
        task: Option<String>,
        #[command(flatten)]
        ceiling: CeilingArgs,
        /// Until when: 90d, or a moment such as 2027-01-31T12:00:00Z
        #[arg(long, value_name = "WHEN", value_parser = Until::parse)]
        expires: Option<Until>,
        /// The same as a number of seconds from now
        #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "expires", allow_hyphen_values = true)]
        expires_in: Option<Duration>,
        /// The most it may do at its platform, in the form of Data Machine: a JSON list of capabilities, or an object with
        /// `capabilities`, `ability_categories`, `ability_allow`, `ability_deny`, `scope` and `label`. Accounts can be used only with
        /// `datamachine_use_tools` among the capabilities
        #[arg(long, value_name = "JSON", value_parser = capabilities)]
        capabilities: Option<Box<PlatformCeiling>>,
    },
    /// List an agent's tokens
    List {
        /// The agent's id or slug
        agent: String,
        /// How to print them; `json` is what --json prints
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Revoke a token; no request that comes after this is served by it
    #[command(allow_missing_positional = true)]
    Revoke {
        /// The agent's id or slug: a token of another agent is not found then
        agent: Option<String>,
        /// The token's id
        token: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Revoke every token of an agent, those among them that people consented to; no request that comes after this is served by one
    RevokeAll {
        /// The agent's id or slug
        agent: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        /// That it is meant: there is no way back
        #[arg(long)]
        yes: bool,
    },
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Reads a scope of Data Machine.
fn capabilities(text: &str) -> std::result::Result<Box<PlatformCeiling>, String> {
    let scope = serde_json::from_str::<Value>(text).ok();
    let read = scope.and_then(|scope| PlatformCeiling::from_scope(&scope));
    read.map(Box::new).ok_or_else(|| "it is neither a JSON list nor a JSON object".to_owned())
}

/// The most that may be done, whatever is granted. Each part that is given narrows.
#[derive(Args, Clone, Debug)]
pub(crate) struct CeilingArgs {
    /// At most this delivery, whatever is granted: proxy, reveal
    #[arg(long, value_name = "HOW", value_delimiter = ',', value_parser = ["proxy", "reveal"])]
    only_deliver: Vec<String>,
    /// At most these connections; may be repeated
    #[arg(long, value_name = "CONNECTION")]
    only_connection: Vec<String>,
    /// At most connections at these providers; may be repeated
    #[arg(long, value_name = "PROVIDER")]
    only_provider: Vec<String>,
    /// At most these operations, such as 'GET /v1/**'; may be repeated
    #[arg(long, value_name = "OPERATION")]
    only_operation: Vec<String>,
}

impl CeilingArgs {
    /// The ceiling; nothing where no part is given.
    pub(super) fn body(self) -> Option<Value> {
        let parts = [
            ("delivery", self.only_deliver),
            ("connections", self.only_connection),
            ("providers", self.only_provider),
            ("operations", self.only_operation),
        ];
        let parts: serde_json::Map<_, _> =
            parts.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name.to_owned(), json!(list))).collect();
        (!parts.is_empty()).then_some(Value::Object(parts))
    }
}

impl Token {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let of = |agent: &str| Ok::<_, Failure>(format!("/v1/agents/{}/tokens", segment(agent)?));
        match self {
            Self::Create { agent, label, user, session: work, task, ceiling, expires, expires_in, capabilities } => {
                let mut ceiling = ceiling.body();
                if let Some(platform) = capabilities {
                    ceiling.get_or_insert_with(|| json!({}))["platform"] = json!(platform);
                }
                let expires = expires.or(expires_in.map(Until::After));
                let body = json!({
                    "label": label,
                    "person": user,
                    "session": work,
                    "task": task,
                    "ceiling": ceiling,
                    "expires_at": expires.map(|until| until.from(session.clock.now())),
                });
                session.ask(Method::POST, &of(&agent)?, Some(&body), minted).await
            }
            Self::List { agent, format } => {
                let path = of(&agent)?;
                let answer = session.with(async |client| client.all(&path, "tokens").await).await?;
                let out = Output { json: session.out.json || format == Format::Json };
                out.show(&answer, |answer| list(answer, session.clock.now()))
            }
            Self::Revoke { agent, token, reason } => {
                let path = format!("/v1/tokens/{}", segment(&token)?);
                let path = with_query(&path, &[("agent", agent.as_deref()), ("reason", reason.as_deref())]);
                session.ask(Method::DELETE, &path, None, |_| format!("{token} is revoked")).await
            }
            Self::RevokeAll { agent, yes: false, .. } => {
                Err(Failure::usage(format!("revoking every token of {agent} cannot be undone; say --yes where that is meant")))
            }
            Self::RevokeAll { agent, reason, yes: true } => {
                let path = with_query(&of(&agent)?, &[("reason", reason.as_deref())]);
                let said = |answer: &Value| format!("{} tokens are revoked", cell(answer, "/revoked"));
                session.ask(Method::DELETE, &path, None, said).await
            }
        }
    }
}

/// A ceiling for people.
pub(super) fn shown_ceiling(ceiling: Option<&Value>) -> String {
    let Some(ceiling) = ceiling.filter(|ceiling| !ceiling.is_null()) else { return "nothing narrows besides grants".to_owned() };
    let parts =
        [("delivery", "/delivery"), ("connections", "/connections"), ("providers", "/providers"), ("operations", "/operations")];
    // An empty list allows nothing, and is not shown as if it were not there.
    let parts = parts.map(|(name, at)| match ceiling.pointer(at) {
        Some(Value::Array(list)) if list.is_empty() => (name, "none".to_owned()),
        _ => (name, cell(ceiling, at)),
    });
    facts(&parts)
}

fn minted(answer: &Value) -> String {
    let person = cell(answer, "/person");
    let shown = facts(&[
        ("id", cell(answer, "/id")),
        ("agent", cell(answer, "/agent")),
        ("acts for", if person.is_empty() { "nobody: unattended".to_owned() } else { person }),
        ("session", cell(answer, "/session")),
        ("task", cell(answer, "/task")),
        ("until", cell(answer, "/expires_at")),
        ("capabilities", cell(answer, "/ceiling/platform/capabilities")),
        ("token", cell(answer, "/token")),
    ]);
    format!("{shown}\n\nThe token is shown this once.")
}

fn list(answer: &Value, now: Timestamp) -> String {
    let columns = ["/id", "/label", "/prefix", "/person", "/created_at", "/expires_at", "/last_used_at"];
    let row = |token: &Value| {
        let mut row = columns.map(|at| cell(token, at)).to_vec();
        row.insert(4, scope(token.get("ceiling").unwrap_or(&Value::Null)));
        row.push(status(token, now));
        row
    };
    let heads = ["id", "label", "begins", "acts for", "scope", "since", "until", "last used", "status"];
    table(&heads, items(answer, "tokens").iter().map(row).collect(), "the agent has no token")
}

/// How many words of a list a cell shows.
const SHOWN: usize = 3;

/// What a token may do at most, here and at its platform, in a cell; empty where nothing narrows it but what is granted.
fn scope(ceiling: &Value) -> String {
    let parts = [
        ("", "delivery", "/delivery"),
        ("at ", "provider", "/providers"),
        ("with ", "connection", "/connections"),
        ("", "operation", "/operations"),
        ("may ", "capability", "/platform/capabilities"),
    ];
    let mut shown: Vec<String> = Vec::new();
    let abilities = ["/platform/abilities/label", "/platform/abilities/scope"].map(|at| cell(ceiling, at));
    shown.extend(abilities.into_iter().find(|word| !word.is_empty()));
    for (before, one, at) in parts {
        match ceiling.pointer(at) {
            None | Some(Value::Null) => {}
            // An empty list allows nothing.
            Some(Value::Array(list)) if list.is_empty() => shown.push(format!("no {one}")),
            Some(Value::Array(list)) => {
                let words: Vec<_> = list.iter().take(SHOWN).map(word).collect();
                let more = list.len().saturating_sub(SHOWN);
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                shown.push(format!("{before}{}{more}", words.join(", ")));
            }
            Some(other) => shown.push(word(other)),
        }
    }
    shown.join("; ")
}

/// Where a token stands, for people. One whose end cannot be read is not shown as if it lived.
fn status(token: &Value, now: Timestamp) -> String {
    let ends = token.get("expires_at").and_then(Value::as_str).map(str::parse::<Timestamp>);
    let over = ends.is_some_and(|end| end.map_or(true, |at| at <= now));
    match cell(token, "/revoked_at") {
        revoked if !revoked.is_empty() => format!("revoked {revoked}"),
        _ if over => "expired".to_owned(),
        _ => "active".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_may_at_most_is_told_in_one_cell() {
        assert_eq!(scope(&Value::Null), "");
        let ceiling = json!({ "delivery": ["proxy"], "providers": ["reddit", "x"], "operations": [] });
        assert_eq!(scope(&ceiling), "proxy; at reddit, x; no operation");
        let platform = json!({ "platform": { "capabilities": ["a", "b", "c", "d", "e"] } });
        assert_eq!(scope(&platform), "may a, b, c and 2 more");
        let preset = json!({ "platform": { "capabilities": [], "abilities": { "label": "Read-only", "scope": "read_only" } } });
        assert_eq!(scope(&preset), "Read-only; no capability");
    }

    #[test]
    fn a_token_is_active_until_its_end_and_not_at_it() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let stands = |token: Value| status(&token, now);
        let (before, after) = (now.minus(Duration::from_secs(1)), now.plus(Duration::from_secs(1)));
        assert_eq!(stands(json!({ "expires_at": null, "revoked_at": null })), "active");
        assert_eq!(stands(json!({ "expires_at": after })), "active");
        for over in [json!(now), json!(before), json!("some day")] {
            assert_eq!(stands(json!({ "expires_at": over })), "expired");
        }
        assert!(stands(json!({ "expires_at": before, "revoked_at": before })).starts_with("revoked 20"));
    }
}
