//! `valetkey connection`: connected accounts.

use std::collections::{BTreeMap, BTreeSet};

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Session;
use crate::{
    client::{segment, with_query},
    failure::Result,
    output::{cell, facts, items, table, word},
};

/// Connections.
#[derive(Debug, Subcommand)]
pub(crate) enum Connection {
    /// List the site's connections
    List {
        /// Only at this provider
        #[arg(long)]
        provider: Option<String>,
        /// Only this owner's: site, user:ID or agent:ID
        #[arg(long)]
        owner: Option<String>,
        /// The revoked ones, too
        #[arg(long)]
        all: bool,
    },
    /// Show a connection; no secret is among it
    Show {
        /// Its id
        id: String,
    },
    /// End a connection: its account is erased, its tokens are revoked at the provider where that is possible
    Revoke {
        /// Its id
        id: String,
        /// Revoke at the provider also where that ends other connections of the same account
        #[arg(long, conflicts_with = "skip_upstream")]
        force: bool,
        /// Leave the tokens as they are at the provider
        #[arg(long)]
        skip_upstream: bool,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Refresh a connection's token now
    Refresh {
        /// Its id
        id: String,
    },
    /// List the revocations that are owed to providers, and what became of them
    Revocations {
        /// Only this connection's
        id: Option<String>,
    },
    /// Say that a connection's account is the right one, after its tokens were written from outside
    Confirm {
        /// Its id
        id: String,
    },
    /// List what a connection can take of the provider's lists, such as pages or properties, as they are there now
    Resources {
        /// Its id
        id: String,
    },
    /// Choose from the provider's lists, in place of what was chosen from them; nobody has to connect again
    Choose {
        /// Its id
        id: String,
        /// An entry of a list, by its id there; repeat for several. `LIST=` alone takes back what was chosen
        #[arg(required = true, value_name = "LIST=ID", value_parser = super::provider::pair)]
        chosen: Vec<(String, String)>,
    },
    /// Make a link to connect the same account again: for scopes that are missing, or before it ends
    Reconnect {
        /// Its id
        id: String,
        /// A scope that is needed, beside those granted before; may be repeated. Those asked for before when none is named
        #[arg(long)]
        scope: Vec<String>,
    },
    /// Let a connection's secrets go to the hosts that its definition names by now, by agents' calls and by renewals, revocations and
    /// lists; until then they go only where they went
    AcceptHosts {
        /// Its id
        #[arg(required_unless_present = "provider")]
        id: Option<String>,
        /// Every connection at this provider for which hosts wait
        #[arg(long, conflicts_with = "id")]
        provider: Option<String>,
        /// Do not ask whether it is meant
        #[arg(long)]
        yes: bool,
    },
}

impl Connection {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let of = |id: &str| Ok::<_, crate::failure::Failure>(format!("/v1/connections/{}", segment(id)?));
        match self {
            Self::List { provider, owner, all } => {
                let all = all.then_some("true");
                let filter = [("provider", provider.as_deref()), ("owner", owner.as_deref()), ("revoked", all)];
                session.ask_all(&with_query("/v1/connections", &filter), "connections", list).await
            }
            Self::Show { id } => {
                let path = of(&id)?;
                let owed = with_query("/v1/revocations", &[("connection", Some(id.as_str()))]);
                let answer = session
                    .with(async |client| {
                        let mut connection = client.call(Method::GET, &path, None).await?;
                        // What became of its tokens at the provider.
                        if cell(&connection, "/status") == "revoked" {
                            let owed = client.call(Method::GET, &owed, None).await?;
                            if let Some(members) = connection.as_object_mut() {
                                members.insert("revocations".to_owned(), owed.get("revocations").cloned().unwrap_or_default());
                            }
                        }
                        Ok(connection)
                    })
                    .await?;
                session.out.show(&answer, show)
            }
            Self::Revoke { id, force, skip_upstream, reason } => {
                let upstream = if force { Some("force") } else { skip_upstream.then_some("skip") };
                let path = with_query(&of(&id)?, &[("upstream", upstream), ("reason", reason.as_deref())]);
                session.ask(Method::DELETE, &path, None, |answer| revoked(&id, answer)).await
            }
            Self::Refresh { id } => {
                session.ask(Method::POST, &format!("{}/refresh", of(&id)?), Some(&json!({})), refreshed).await
            }
            Self::Revocations { id } => {
                session
                    .ask(Method::GET, &with_query("/v1/revocations", &[("connection", id.as_deref())]), None, revocations)
                    .await
            }
            Self::Resources { id } => session.ask(Method::GET, &format!("{}/resources", of(&id)?), None, resources).await,
            Self::Choose { id, chosen } => {
                let body = json!({ "chosen": by_list(chosen) });
                session.ask(Method::PUT, &format!("{}/resources", of(&id)?), Some(&body), show).await
            }
            Self::Reconnect { id, scope } => {
                let body = json!({ "scopes": (!scope.is_empty()).then_some(scope) });
                let path = format!("{}/reconnect", of(&id)?);
                let answer = session
                    .with(async |client| {
                        session.check_link(client)?;
                        client.call(Method::POST, &path, Some(&body)).await
                    })
                    .await?;
                session.out.show(&answer, super::connect::show)
            }
            Self::AcceptHosts { id: Some(id), yes, .. } => accept_hosts(session, &of(&id)?, yes).await,
            Self::AcceptHosts { id: None, provider, yes } => {
                accept_everywhere(session, provider.as_deref().unwrap_or_default(), yes).await
            }
            Self::Confirm { id } => session.ask(Method::POST, &format!("{}/confirm", of(&id)?), Some(&json!({})), show).await,
        }
    }
}

async fn accept_hosts(session: &Session, connection: &str, yes: bool) -> Result<()> {
    let path = format!("{connection}/hosts");
    let known = session.with(async |client| client.call(Method::GET, &path, None).await).await?;
    let (accepted, defined) = (cell(&known, "/accepted"), cell(&known, "/defined"));
    let (own, own_defined) = (cell(&known, "/calls/accepted"), cell(&known, "/calls/defined"));
    super::auth::confirm(
        yes,
        &format!(
            "Calls of agents take its credential to {accepted}; renewals, revocations and lists go to {own}. Let them go to {defined}, \
             and to {own_defined}?"
        ),
    )?;
    // What was looked at, and not what may be defined by now.
    let body = json!({ "hosts": known.get("defined"), "calls": known.pointer("/calls/defined") });
    session.ask(Method::PUT, &path, Some(&body), show).await
}

/// Accepts what waits for any connection at a provider.
async fn accept_everywhere(session: &Session, provider: &str, yes: bool) -> Result<()> {
    let listed = with_query("/v1/connections", &[("provider", Some(provider))]);
    let (mut hosts, mut waiting) = (BTreeSet::new(), Vec::new());
    session
        .with(async |client| {
            for connection in items(&client.all(&listed, "connections").await?, "connections") {
                let id = cell(connection, "/id");
                let path = format!("/v1/connections/{}/hosts", segment(&id)?);
                let known = client.call(Method::GET, &path, None).await?;
                let calls = known.get("calls").cloned().unwrap_or_default();
                let new: Vec<&Value> = items(&known, "waiting").iter().chain(items(&calls, "waiting")).collect();
                if !new.is_empty() {
                    hosts.extend(new.into_iter().filter_map(Value::as_str).map(str::to_owned));
                    // What was looked at, and not what may be defined by then.
                    waiting.push((id, path, json!({ "hosts": known.get("defined"), "calls": calls.get("defined") })));
                }
            }
            Ok(())
        })
        .await?;
    if !waiting.is_empty() {
        let hosts = hosts.into_iter().collect::<Vec<_>>().join(", ");
        super::auth::confirm(
            yes,
            &format!("{} connections at {provider} wait. Let their secrets go to {hosts}?", waiting.len()),
        )?;
    }
    let accepted = session
        .with(async |client| {
            let mut accepted = Vec::new();
            for (id, path, body) in &waiting {
                client.call(Method::PUT, path, Some(body)).await?;
                accepted.push(id.clone());
            }
            Ok(accepted)
        })
        .await?;
    session.out.show(&json!({ "accepted": accepted }), |answer| {
        let rows = items(answer, "accepted").iter().map(|id| vec![word(id)]).collect();
        table(&["accepted for"], rows, "nothing waits")
    })
}

/// The chosen ids by list. A list with an empty id alone has none.
fn by_list(chosen: Vec<(String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (list, id) in chosen {
        let ids = lists.entry(list).or_default();
        if !id.is_empty() {
            ids.push(id);
        }
    }
    lists
}

fn resources(answer: &Value) -> String {
    let mut rows = Vec::new();
    for list in items(answer, "lists") {
        for entry in items(list, "entries") {
            rows.push(vec![
                cell(list, "/name"),
                cell(entry, "/id"),
                cell(entry, "/label"),
                cell(entry, "/chosen"),
                cell(list, "/slot"),
            ]);
        }
    }
    table(&["list", "id", "label", "chosen", "slot"], rows, "the provider has no list to choose from")
}

/// What is chosen, by list, as one line.
fn chosen(connection: &Value) -> String {
    let Some(lists) = connection.get("resources").and_then(Value::as_object) else { return String::new() };
    let of = |(name, entries): (&String, &Value)| {
        let labels =
            entries.as_array().into_iter().flatten().map(|entry| format!("{} ({})", cell(entry, "/label"), cell(entry, "/id")));
        format!("{name}: {}", labels.collect::<Vec<_>>().join(", "))
    };
    lists.iter().map(of).collect::<Vec<_>>().join("; ")
}

fn list(answer: &Value) -> String {
    let columns = ["/id", "/provider", "/owner", "/name", "/status", "/subject_name", "/expires_at", "/ends_at", "/connected_at"];
    let row = |connection: &Value| columns.map(|at| cell(connection, at)).to_vec();
    let heads = ["id", "provider", "owner", "name", "status", "account", "token until", "ends of age", "since"];
    let none = "nothing is connected; make a link with `valetkey connect`";
    table(&heads, items(answer, "connections").iter().map(row).collect(), none)
}

fn revocations(answer: &Value) -> String {
    let columns = ["/connection", "/provider", "/attempts", "/last_error", "/created_at", "/done_at"];
    let row = |one: &Value| {
        let mut cells = columns.map(|at| cell(one, at)).to_vec();
        cells.insert(2, outcome(one));
        cells
    };
    let heads = ["connection", "provider", "outcome", "attempts", "last error", "since", "over"];
    table(&heads, items(answer, "revocations").iter().map(row).collect(), "nothing was owed to a provider")
}

/// How a revocation stands, in words.
fn outcome(revocation: &Value) -> String {
    let (status, next) = (cell(revocation, "/status"), cell(revocation, "/next_at"));
    let begun = revocation.get("attempts").and_then(Value::as_i64).is_some_and(|attempts| attempts > 0);
    match status.as_str() {
        "pending" if begun => format!("failed, next try at {next}"),
        "pending" => format!("owed, first try at {next}"),
        _ => status,
    }
}

fn show(connection: &Value) -> String {
    let at_the_provider: Vec<String> = items(connection, "revocations").iter().map(outcome).collect();
    facts(&[
        ("id", cell(connection, "/id")),
        ("provider", cell(connection, "/provider")),
        ("owner", cell(connection, "/owner")),
        ("name", cell(connection, "/name")),
        ("status", cell(connection, "/status")),
        ("reason", cell(connection, "/reason")),
        ("account", cell(connection, "/subject_name")),
        ("subject", cell(connection, "/subject")),
        ("identity", cell(connection, "/identity")),
        ("scopes", cell(connection, "/scopes")),
        ("missing scopes", missing(connection)),
        ("chosen", chosen(connection)),
        ("hosts", cell(connection, "/hosts")),
        ("token until", cell(connection, "/expires_at")),
        ("ends of age", ends(connection)),
        ("renewed by", cell(connection, "/renewal")),
        ("last refresh", cell(connection, "/last_refreshed_at")),
        ("last error", cell(connection, "/last_error")),
        ("since", cell(connection, "/connected_at")),
        ("version", cell(connection, "/version")),
        ("at the provider", at_the_provider.join(", ")),
    ])
}

/// What the provider did not grant, and what to do about it.
fn missing(connection: &Value) -> String {
    match cell(connection, "/missing_scopes") {
        none if none.is_empty() => none,
        scopes => format!("{scopes} (`valetkey connection reconnect {}` makes a link that asks again)", cell(connection, "/id")),
    }
}

/// When it ends of age, and what to do about it.
fn ends(connection: &Value) -> String {
    match cell(connection, "/ends_at") {
        none if none.is_empty() => none,
        end => format!("{end} (`valetkey connection reconnect {}` makes a link)", cell(connection, "/id")),
    }
}

fn refreshed(answer: &Value) -> String {
    let what = match answer.get("refreshed") {
        Some(Value::Bool(true)) => "the token is a new one",
        _ => "nothing was refreshed: the token is younger than a minute",
    };
    format!("{what}\n{}", show(answer))
}

fn revoked(id: &str, answer: &Value) -> String {
    format!("{id} is revoked, and its account is erased\n{}", super::auth::there(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_revocation_stands_is_said_in_words() {
        for (status, attempts, said) in [
            ("revoked", 1, "revoked"),
            ("unsupported", 0, "unsupported"),
            ("failed", 20, "failed"),
            ("pending", 0, "owed, first try at 2026-03-05 10:00:00"),
            ("pending", 3, "failed, next try at 2026-03-05 10:00:00"),
        ] {
            let next = (status == "pending").then_some("2026-03-05T10:00:00.123Z");
            assert_eq!(outcome(&json!({ "status": status, "attempts": attempts, "next_at": next })), said);
        }
    }
}
