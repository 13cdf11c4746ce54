//! `valetkey auth status`: how accounts stand. Told from plain columns; nothing is opened, minted or asked outside.

use clap::Args;
use http::Method;
use serde_json::{Value, json};
use valetkey::{clock::Timestamp, principal::Owner};

use super::{connections, moment_of, named, provider_path};
use crate::{
    client::Client,
    commands::{Session, owner::Whose, provider::app_path},
    failure::Result,
    output::{cell, facts, items, table},
};

/// What is shown.
#[derive(Args, Debug)]
pub(crate) struct Status {
    /// Only this provider, with what is known of it
    provider: Option<String>,
    #[command(flatten)]
    whose: Whose,
    /// Everybody's accounts: the site's, people's and agents'
    #[arg(long, conflicts_with_all = ["user", "agent"])]
    all: bool,
}

impl Status {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let now = session.clock.now();
        let answer = session
            .with(async |client| {
                let owner = if self.all { None } else { Some(self.whose.owner(client).await?) };
                let connections = connections(client, self.provider.as_deref(), owner.as_ref()).await?;
                let mut providers = match &self.provider {
                    Some(name) => match client.call(Method::GET, &provider_path(name)?, None).await {
                        Err(failure) if failure.code() == "not_found" => {
                            let unknown = unknown(client, name).await?;
                            if connections.is_empty() && unknown["configured"] == false {
                                return Err(failure);
                            }
                            vec![unknown]
                        }
                        found => vec![found?],
                    },
                    None => items(&client.call(Method::GET, "/v1/providers", None).await?, "providers").to_vec(),
                };
                // An import may have brought accounts of providers that are not known here.
                for connection in &connections {
                    let name = connection.get("provider").and_then(Value::as_str).unwrap_or_default();
                    if !providers.iter().any(|provider| provider["name"] == name) {
                        providers.push(unknown(client, name).await?);
                    }
                }
                let accounts = accounts(&providers, &connections, owner.as_ref(), now);
                Ok(match (&self.provider, providers.into_iter().next()) {
                    (Some(_), Some(provider)) => one(&provider, accounts),
                    _ => json!({ "accounts": accounts }),
                })
            })
            .await?;
        let single = self.provider.is_some();
        if !single && !session.out.json {
            let bare = items(&answer, "accounts").iter().filter(|account| is_bare(account)).count();
            if bare > 0 {
                session
                    .out
                    .note(&format!("{bare} more providers are neither configured nor connected: `valetkey provider list`"));
            }
        }
        session.out.show(&answer, |answer| if single { show(answer) } else { list(answer) })
    }
}

/// What there is to say of a provider that is not known here: whether an import brought the site's app there.
async fn unknown(client: &Client, name: &str) -> Result<Value> {
    let app = match client.call(Method::GET, &app_path(name, &Owner::Site)?, None).await {
        Err(failure) if failure.code() == "not_found" => Value::Null,
        found => found?,
    };
    let configured = app.get("configured").and_then(Value::as_bool).unwrap_or(false);
    Ok(json!({ "name": name, "kind": null, "needs_app": false, "configured": configured }))
}

/// One entry for each account, and one for each provider that has none.
fn accounts(providers: &[Value], connections: &[Value], owner: Option<&Owner>, now: Timestamp) -> Vec<Value> {
    let mut accounts = Vec::new();
    for provider in providers {
        let name = provider.get("name");
        let mut there = connections.iter().filter(|connection| connection.get("provider") == name).peekable();
        let mut entry = json!({
            "provider": name,
            "kind": provider.get("kind"),
            "needs_app": provider.get("needs_app"),
            "configured": provider.get("configured"),
            "connected": false,
            "owner": owner.map(ToString::to_string),
        });
        if there.peek().is_none() {
            accounts.push(entry);
            continue;
        }
        for connection in there {
            entry["connected"] = json!(true);
            for member in
                ["owner", "name", "status", "reason", "authenticated", "renewal", "expires_at", "last_refreshed_at", "last_error"]
            {
                entry[member] = connection.get(member).cloned().unwrap_or_default();
            }
            entry["connection"] = connection.get("id").cloned().unwrap_or_default();
            entry["account"] = connection.get("subject_name").cloned().unwrap_or_default();
            let (health, days) = health(connection, now);
            entry["health"] = json!(health);
            entry["days"] = json!(days);
            accounts.push(entry.clone());
        }
    }
    accounts
}

/// A word for how an account does, and for one that ends by itself the days that are left, begun ones counted whole.
fn health(connection: &Value, now: Timestamp) -> (&'static str, Option<u64>) {
    let is = |at: &str, what: &str| cell(connection, at) == what;
    let renewable = !is("/renewal", "none");
    match moment_of(connection, "/expires_at") {
        _ if is("/status", "needs_reauth") => ("needs_reauth", None),
        // A token that is made longer by itself is past that once it has ended, at every provider of the catalogue.
        Some(end) if end <= now && renewable && !is("/renewal", "extend") => ("expired_renewable", None),
        Some(end) if end <= now => ("expired", None),
        _ if connection.get("failures").and_then(Value::as_i64).is_some_and(|failures| failures > 0) => ("failing", None),
        Some(end) if !renewable => ("ends", Some(end.since(now).as_secs().div_ceil(86_400))),
        _ => ("ok", None),
    }
}

fn in_words(account: &Value) -> String {
    match cell(account, "/health").as_str() {
        "expired" => "EXPIRED, connect it again".to_owned(),
        "expired_renewable" => "EXPIRED, can be refreshed".to_owned(),
        "needs_reauth" => format!("needs reauth ({})", cell(account, "/reason")),
        "failing" => format!("refresh fails ({})", cell(account, "/last_error")),
        "ends" => match cell(account, "/days").as_str() {
            "1" => "1 day".to_owned(),
            days => format!("{days} days"),
        },
        other => other.to_owned(),
    }
}

/// Whether nobody has told anything of a provider yet. One that needs no app counts as configured from the start.
fn is_bare(account: &Value) -> bool {
    let is = |what: &str| account.get(what) == Some(&Value::Bool(true));
    !(is("connected") || is("needs_app") && is("configured"))
}

fn one(provider: &Value, accounts: Vec<Value>) -> Value {
    let mut answer = json!({ "accounts": accounts });
    for member in ["name", "title", "kind", "configured", "waits_for", "setup_url", "callback_url", "callback_overridden"] {
        answer[member] = provider.get(member).cloned().unwrap_or_default();
    }
    answer
}

fn list(answer: &Value) -> String {
    let shown = items(answer, "accounts").iter().filter(|account| !is_bare(account));
    let none = "nothing is configured and nothing is connected; `valetkey auth config PROVIDER` tells of your app at one";
    rows(shown, none)
}

fn rows<'a>(accounts: impl Iterator<Item = &'a Value>, none: &str) -> String {
    let row = |account: &Value| {
        let mut row = ["/provider", "/kind", "/configured", "/connected", "/owner"].map(|at| cell(account, at)).to_vec();
        row.extend([named(account), cell(account, "/account"), cell(account, "/expires_at"), in_words(account)]);
        row
    };
    let heads = ["provider", "kind", "configured", "connected", "owner", "name", "account", "expires", "health"];
    table(&heads, accounts.map(row).collect(), none)
}

fn show(answer: &Value) -> String {
    let about = facts(&[
        ("provider", cell(answer, "/name")),
        ("title", cell(answer, "/title")),
        ("kind", cell(answer, "/kind")),
        ("configured", cell(answer, "/configured")),
        ("waits for", cell(answer, "/waits_for")),
        ("your app is made at", cell(answer, "/setup_url")),
        ("callback to register", cell(answer, "/callback_url")),
    ]);
    format!("{about}\n\n{}", rows(items(answer, "accounts").iter(), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_told_from_end_renewal_and_failures() {
        let now = Timestamp::from_unix_seconds(1_800_000_000);
        let of = |renewal: &str, status: &str, left: i64, failures: i64| {
            let end = Timestamp::from_unix_seconds(1_800_000_000 + left).to_string();
            let connection = json!({ "renewal": renewal, "status": status, "expires_at": end, "failures": failures });
            health(&connection, now)
        };
        assert_eq!(of("none", "active", 6 * 86_400 + 1, 0), ("ends", Some(7)));
        assert_eq!(of("none", "active", 60, 0), ("ends", Some(1)));
        assert_eq!(of("none", "expired", 0, 0), ("expired", None));
        assert_eq!(of("refresh_token", "expired", -1, 3), ("expired_renewable", None));
        assert_eq!(of("extend", "expired", -1, 0), ("expired", None));
        assert_eq!(of("extend", "active", 60, 0), ("ok", None));
        assert_eq!(of("refresh_token", "active", 60, 0), ("ok", None));
        assert_eq!(of("refresh_token", "active", 60, 1), ("failing", None));
        assert_eq!(of("refresh_token", "needs_reauth", 60, 1), ("needs_reauth", None));
        assert_eq!(health(&json!({ "renewal": "none", "status": "active", "expires_at": null }), now), ("ok", None));
    }
}
