//! Moving out: what is here as the items it came as, opened, for whoever may have it all.
//!
//! 1. That it was asked for is recorded before anything leaves ([`record`]).
//! 2. [`run`] hands out agents, roles and tokens, then configurations, accounts and lent mailboxes as they are now, each with
//!    the place it had in its source, and the places that held nothing. What nothing of the old format stands for is a
//!    [`Loss`]. Whoever writes the old format says what of the rest it cannot hold.
//! 3. The source's own rows may still be there. So a token that was revoked here, or whose person is disabled here, goes out as
//!    one that has ended, and roles and agents that are no more here are said.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    apply::{DATA_MACHINE, FROM_CONFIG},
    item::{Item, Plain, Rest},
    store::{self, Row},
};
use crate::{
    agent, app_config,
    audit::Event,
    base::Base,
    clock::Timestamp,
    connection::{self, Status},
    error::{Code, Error, Result},
    grant::{self, Effect},
    id::{AgentId, ConnectionId, ProviderName, SiteId, UserId},
    platform,
    principal::{Actor, Ceiling, Owner, PlatformCeiling},
    secret::{Secret, SecretBytes},
    token::{self, Token, TokenHash},
};

/// One line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "all but the last line is an item; a box for each would cost more")]
pub enum Line {
    /// Something as it is now.
    Item {
        /// Where it stood in its source; absent for what was made here.
        at: Option<u64>,
        /// What it is.
        item: Item,
    },
    /// Something that no item stands for.
    Loss(Loss),
    /// The end.
    End {
        /// How many items there were.
        items: u64,
    },
}

/// Something that the old format cannot hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// What it is.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Records that everything was asked for.
pub async fn record(base: &Base, site: &SiteId, actor: &Actor) -> Result<()> {
    let mut tx = base.db.begin_bookkeeping().await?;
    let event = Event::new(site, actor, "export.data_machine").facts(json!({ "source": DATA_MACHINE }));
    base.audit.record(&mut tx, event).await?;
    tx.commit().await
}

/// Hands out everything.
///
/// # Errors
/// What the database says, `unsealable` for a value that cannot be opened, and `unavailable` where nobody takes them.
pub async fn run(base: &Base, site: &SiteId, lines: mpsc::Sender<Line>) -> Result<()> {
    let rows = store::all(&base.db, site, DATA_MACHINE).await?;
    let mut out = Out { lines, rows: rows.into_iter().map(|row| (row.item.clone(), row)).collect(), items: 0 };
    out.agents(base, site).await?;
    out.configs(base, site).await?;
    let lent_by = out.accounts(base, site).await?;
    out.grants(base, site, &lent_by).await?;
    out.nothings().await?;
    let items = out.items;
    out.send(Line::End { items }).await
}

struct Out {
    lines: mpsc::Sender<Line>,
    rows: HashMap<String, Row>,
    items: u64,
}

/// An account, as grants on it need to know it.
type Account = (ProviderName, Owner, String);

impl Out {
    async fn give(&mut self, item: Item) -> Result<()> {
        self.items += 1;
        let at = self.rows.get(&item.id()).and_then(|row| u64::try_from(row.position).ok());
        self.send(Line::Item { at, item }).await
    }

    async fn lose(&self, what: impl Into<String>, why: impl Into<String>) -> Result<()> {
        self.send(Line::Loss(Loss { what: what.into(), why: why.into() })).await
    }

    async fn send(&self, line: Line) -> Result<()> {
        let gone = |_| Error::new(Code::Unavailable, "whoever asked for the export is gone");
        self.lines.send(line).await.map_err(gone)
    }

    fn rest(&self, item: &str) -> Result<Rest> {
        self.rows.get(item).map_or_else(|| Ok(Rest::default()), Row::rest)
    }

    async fn agents(&mut self, base: &Base, site: &SiteId) -> Result<()> {
        let agents = agent::list(&base.db, site).await?;
        self.lose_deleted(&agents).await?;
        let mut roles_that_came = self.roles_that_came();
        for agent in agents {
            let rest = self.rest(&format!("agent/{}", agent.id))?;
            if agent.disabled_at.is_some() {
                self.lose(format!("agent {}", agent.id), "Data Machine knows no disabled agent; it would act again").await?;
                continue;
            }
            let roles = agent::roles(&base.db, site, &agent.id).await?;
            let tokens = token::list_hashed(&base.db, site, &agent.id).await?;
            let is_narrowed = agent::is_narrowed(&base.db, site, &agent.id).await?;
            let owner_is_disabled = is_disabled(base, site, agent.owner.as_ref()).await?;
            let id = agent.id.clone();
            let owner = agent.owner.clone();
            let created_at = Some(agent.created_at);
            self.give(Item::Agent { agent: id.clone(), slug: agent.slug, title: agent.title, owner, created_at, rest }).await?;
            let mut taken_away = roles_that_came.remove(id.as_str()).unwrap_or_default();
            taken_away.retain(|user| roles.iter().all(|role| role.user.as_str() != user.as_str()));
            taken_away.sort_unstable();
            for role in roles {
                self.give(Item::Role { agent: id.clone(), user: role.user, role: role.role }).await?;
            }
            for user in taken_away {
                let what = format!("role of {user} on agent {id}");
                self.lose(what, "it was taken away here, and Data Machine still has it; take it away there, too").await?;
            }
            for token::Hashed { token, hash, minter, ceiling } in tokens {
                let what = format!("token {}", token.id);
                let came = self.rows.contains_key(&format!("token/{}", hash.as_str()));
                let another = token.person.as_ref().filter(|person| agent.owner.as_ref() != Some(*person));
                let serves_nobody = owner_is_disabled || is_disabled(base, site, another).await?;
                let over_since = token.revoked_at.or_else(|| serves_nobody.then(|| base.clock.now()));
                if let Some(over_since) = over_since {
                    // Its row is still there. An end in the past keeps it from coming back to life.
                    match (came, agent.owner.clone()) {
                        (false, _) => {}
                        (true, None) => {
                            self.lose(what, "it is over here, and Data Machine still has it; revoke it there, too").await?;
                        }
                        (true, Some(person)) => {
                            let expires_at = Some(token.expires_at.map_or(over_since, |at| at.min(over_since)));
                            self.give(item_of(token, &hash, person, Some(allows_nothing()?), expires_at)).await?;
                        }
                    }
                    continue;
                }
                if !came {
                    self.lose(what, "its text has a form that Data Machine does not take").await?;
                } else if token.person.is_none() || token.person != agent.owner || minter.is_some() {
                    self.lose(what, "at Data Machine a token acts for its agent's owner, and it does not").await?;
                } else if is_narrowed {
                    self.lose(what, "a ceiling of its agent or site narrows it, which Data Machine does not know").await?;
                } else if let Some(person) = token.person.clone() {
                    // One that cannot be read goes on denying.
                    let ceiling = ceiling.map(|text| serde_json::from_str(&text).unwrap_or_else(|_| json!("unreadable")));
                    let expires_at = token.expires_at;
                    self.give(item_of(token, &hash, person, ceiling, expires_at)).await?;
                }
            }
        }
        Ok(())
    }

    /// The people whose roles came from the source, by agent.
    fn roles_that_came(&self) -> HashMap<String, Vec<String>> {
        let mut came: HashMap<String, Vec<String>> = HashMap::new();
        for item in self.rows.keys() {
            if let Some((agent, user)) = item.strip_prefix("role/").and_then(|rest| rest.split_once('/')) {
                came.entry(agent.to_owned()).or_default().push(user.to_owned());
            }
        }
        came
    }

    /// Says which agents of the source are no more here.
    async fn lose_deleted(&self, agents: &[agent::Agent]) -> Result<()> {
        let live: BTreeSet<&str> = agents.iter().map(|agent| agent.id.as_str()).collect();
        let came = self.rows.keys().filter_map(|item| item.strip_prefix("agent/"));
        let deleted: BTreeSet<&str> = came.filter(|id| !live.contains(id)).collect();
        for id in deleted {
            self.lose(format!("agent {id}"), "it was deleted here, and Data Machine still has it; delete it there, too").await?;
        }
        Ok(())
    }

    async fn configs(&mut self, base: &Base, site: &SiteId) -> Result<()> {
        for config in app_config::list(&base.db, site).await? {
            let values = plain(&app_config::open_text(base, &config).await?)?;
            let rest = self.rest(&format!("config/{}/{}", config.provider, config.owner))?;
            self.give(Item::Config { provider: config.provider, owner: config.owner, values, rest }).await?;
        }
        Ok(())
    }

    async fn accounts(&mut self, base: &Base, site: &SiteId) -> Result<BTreeMap<ConnectionId, Account>> {
        let mut lent_by = BTreeMap::new();
        let mut after = None;
        loop {
            let page = connection::import::page(&base.db, site, after.as_ref()).await?;
            let Some(last) = page.last() else { return Ok(lent_by) };
            after = Some(last.connection.id.clone());
            for stored in page {
                let found = stored.connection;
                let name = found.name.as_stored().to_owned();
                let key = super::item::account_id(&found.provider, &found.owner, &name);
                let rest = self.rest(&key)?;
                if rest.out_of.as_deref() == Some(FROM_CONFIG) {
                    if found.revision > 1 {
                        let why = "it came out of a configuration and changed since; the configuration is written as it is";
                        self.lose(format!("connection {}", found.id), why).await?;
                    }
                    continue;
                }
                if matches!(&found.status, Status::NeedsReauth { reason } if reason == "unreadable") {
                    self.lose(format!("connection {}", found.id), "a part of it could not be opened when it came").await?;
                }
                let owner = found.owner.to_string();
                let place = crate::seal::Place::connection(site, &found.provider, &owner, &found.name, &found.id);
                let Some(sealed) = &stored.sealed else { continue };
                let account = plain(&base.ring.open(&base.db, &place, sealed).await?)?;
                lent_by.insert(found.id.clone(), (found.provider.clone(), found.owner.clone(), name.clone()));
                let (provider, owner) = (found.provider, found.owner);
                self.give(Item::Account { provider, owner, name, account, incomplete: false, rest }).await?;
            }
        }
    }

    async fn grants(&mut self, base: &Base, site: &SiteId, accounts: &BTreeMap<ConnectionId, Account>) -> Result<()> {
        let mut lent: BTreeSet<(AgentId, ConnectionId)> = BTreeSet::new();
        let mut live = grant::list(&base.db, site, None, None).await?;
        live.retain(|grant| grant.revoked_at.is_none());
        // What asks or denies here would hold nothing back there.
        let held: BTreeSet<(AgentId, ConnectionId)> = live
            .iter()
            .filter(|grant| grant.effect != Effect::Allow)
            .map(|grant| (grant.agent.clone(), grant.connection.clone()))
            .collect();
        for grant in live {
            let what = format!("grant {}", grant.id);
            let Some((provider, owner, name)) = accounts.get(&grant.connection) else {
                // On a connection that is over, or on one that stays a configuration.
                self.lose(what, "Data Machine has no account that it could be for").await?;
                continue;
            };
            if matches!(owner, Owner::Agent(agent) if *agent == grant.agent) {
                continue;
            }
            let operations: Vec<String> =
                grant.operations.iter().flat_map(|operations| &operations.patterns).map(ToString::to_string).collect();
            let is_plain = grant.effect == Effect::Allow && grant.session.is_none() && grant.task.is_none();
            let has_an_end = grant.expires_at.is_some() || grant.max_uses.is_some() || grant.rate.is_some();
            let mail = provider.as_str() == "email_imap" && operations.iter().all(|operation| operation.starts_with("MAIL /"));
            if !mail || operations.is_empty() || !is_plain || has_an_end {
                self.lose(what, "Data Machine lends mailboxes for operations, without end, and nothing else").await?;
            } else if held.contains(&(grant.agent.clone(), grant.connection.clone())) {
                self.lose(what, "another grant holds the agent back here, which Data Machine does not know").await?;
            } else if lent.insert((grant.agent.clone(), grant.connection.clone())) {
                let (provider, owner, name) = (provider.clone(), owner.clone(), name.clone());
                let rest = self.rest(&format!("grant/{provider}/{owner}/{name}/{}", grant.agent))?;
                self.give(Item::Grant { provider, owner, name, agent: grant.agent, operations, rest }).await?;
            }
        }
        Ok(())
    }

    async fn nothings(&mut self) -> Result<()> {
        let mut nothings: Vec<(String, Rest)> = Vec::new();
        for row in self.rows.values() {
            if let Some(path) = row.item.strip_prefix("nothing/") {
                nothings.push((path.to_owned(), row.rest()?));
            }
        }
        for (path, rest) in nothings {
            if let Some((provider, path)) = path.split_once('/') {
                self.give(Item::Nothing { provider: provider.parse()?, path: path.to_owned(), rest }).await?;
            }
        }
        Ok(())
    }
}

/// Whether somebody is disabled here, so that no token serves for them. Nobody is not.
async fn is_disabled(base: &Base, site: &SiteId, user: Option<&UserId>) -> Result<bool> {
    match user {
        Some(user) => platform::person_is_disabled(&base.db, site, user).await,
        None => Ok(false),
    }
}

/// A token as it moves out: all of it is as it stands here, but for whom it acts, what it may do and when it ends.
fn item_of(
    token: Token,
    hash: &TokenHash,
    person: UserId,
    ceiling: Option<serde_json::Value>,
    expires_at: Option<Timestamp>,
) -> Item {
    Item::Token {
        hash: hash.as_str().to_owned(),
        agent: token.agent,
        label: token.label,
        prefix: token.prefix,
        person,
        ceiling,
        created_at: Some(token.created_at),
        expires_at,
        last_used_at: token.last_used_at,
    }
}

/// A ceiling under which Data Machine lets a token do nothing.
fn allows_nothing() -> Result<serde_json::Value> {
    let platform = PlatformCeiling { capabilities: Some(Vec::new()), ..PlatformCeiling::default() };
    serde_json::to_value(Ceiling { platform: Some(platform), ..Ceiling::default() }).map_err(Error::internal)
}

fn plain(bytes: &SecretBytes) -> Result<Plain> {
    let text = std::str::from_utf8(bytes.expose());
    text.map(|text| Plain(Secret::new(text)))
        .map_err(|_| Error::new(Code::Unsealable, "a sealed value cannot be read").with_detail("it is no text"))
}
