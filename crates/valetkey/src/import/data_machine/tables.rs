//! Agents, tokens and roles out of a dump, as items of ours.
//!
//! 1. An agent keeps its number as its id. One without an owner is brought; its tokens are not, for at Data Machine they do
//!    not work either.
//! 2. A token keeps its hash, so the same bearer works, and acts for its agent's owner. A moment that cannot be read ends it.
//! 3. Where the dump has the users, an owner who is not among them is no more: everything of theirs stops.
//! 4. Roles of what is no user (audiences, services) have no counterpart here, and are listed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ceiling,
    dump::{AccessRow, AgentRow, PrincipalAccessRow, TokenRow},
    plan::{Planner, Stopped},
};
use crate::{
    clock::Timestamp,
    id::{AgentId, UserId},
    import::item::{Item, Rest},
};

/// What a dump holds of agents.
#[derive(Clone, Copy, Default)]
pub struct Tables<'t> {
    /// The agents.
    pub agents: &'t [AgentRow],
    /// Their tokens.
    pub tokens: &'t [TokenRow],
    /// The roles of users.
    pub access: &'t [AccessRow],
    /// The roles of others.
    pub principals: &'t [PrincipalAccessRow],
    /// The users there are; absent where the dump does not say.
    pub users: Option<&'t BTreeSet<u64>>,
}

/// The longest title or label that is kept, in characters; the columns hold as many.
const LONGEST: usize = 200;

impl Planner<'_> {
    pub(super) fn tables(&mut self, tables: &Tables<'_>) -> Result<(), Stopped> {
        let gone = |user: u64| tables.users.is_some_and(|users| !users.contains(&user));
        let owners: BTreeMap<u64, &AgentRow> = tables.agents.iter().map(|agent| (agent.agent_id, agent)).collect();
        let missing: BTreeSet<u64> =
            owners.values().map(|agent| agent.owner_id).filter(|user| *user > 0 && gone(*user)).collect();
        for user in missing {
            if let Some(user) = user_id(user) {
                let at = self.next();
                self.give(at, Item::GonePerson { user })?;
            }
        }
        for row in tables.agents {
            self.agent(row)?;
        }
        for row in tables.access {
            self.role(row, owners.contains_key(&row.agent_id))?;
        }
        for row in tables.principals {
            self.next();
            let who = format!("{}:{}", clean(&row.principal_type), clean(&row.principal_id));
            self.skip(format!("agents/{}/access/{who}", row.agent_id), "only a person has a role on an agent here");
        }
        for row in tables.tokens {
            self.token(row, owners.get(&row.agent_id).copied())?;
        }
        Ok(())
    }

    fn agent(&mut self, row: &AgentRow) -> Result<(), Stopped> {
        let at = self.next();
        let path = format!("agents/{}", row.agent_id);
        let Some(agent) = agent_id(row.agent_id) else {
            self.skip(path, "its number is none");
            return Ok(());
        };
        let settings = row.agent_config.as_deref().is_some_and(|config| !matches!(config, b"" | b"[]" | b"{}" | b"null"));
        if settings {
            self.skip(format!("{path}/agent_config"), "an agent's settings stay at Data Machine");
        }
        let slug = clean(&row.agent_slug);
        let title = row.agent_name.as_deref().map(clean).unwrap_or_default();
        let rest = Rest {
            instance_key: row.instance_key.as_deref().map(clean).filter(|key| key != "default"),
            site_scope: row.site_scope.map(blog),
            ..Rest::default()
        };
        let title = if title.is_empty() { slug.clone() } else { title };
        let created_at = row.created_at.as_deref().and_then(moment);
        self.give(at, Item::Agent { agent, slug, title, owner: user_id(row.owner_id), created_at, rest })
    }

    fn role(&mut self, row: &AccessRow, known: bool) -> Result<(), Stopped> {
        let at = self.next();
        let path = format!("agents/{}/access/user:{}", row.agent_id, row.user_id);
        let role = row.role.as_str().and_then(|role| role.parse().ok());
        match (agent_id(row.agent_id).filter(|_| known), user_id(row.user_id), role) {
            (Some(agent), Some(user), Some(role)) => self.give(at, Item::Role { agent, user, role }),
            (None, ..) => {
                self.skip(path, "its agent is no more");
                Ok(())
            }
            _ => {
                self.skip(path, "it names no person, or no role");
                Ok(())
            }
        }
    }

    fn token(&mut self, row: &TokenRow, agent: Option<&AgentRow>) -> Result<(), Stopped> {
        let at = self.next();
        let path = format!("tokens/{}", row.token_id);
        let Some(owner) = agent else {
            self.skip(path, "its agent is no more");
            return Ok(());
        };
        let (Some(agent), Some(person)) = (agent_id(row.agent_id), user_id(owner.owner_id)) else {
            self.skip(path, "its agent has no owner, so it works for nobody");
            return Ok(());
        };
        let Some(hash) = row.token_hash.as_str().filter(|hash| hash.len() == 64) else {
            self.skip(path, "its hash is none");
            return Ok(());
        };
        let scope = owner.site_scope.map(blog);
        let item = Item::Token {
            hash: hash.to_ascii_lowercase(),
            agent,
            label: row.label.as_deref().map(clean).unwrap_or_default(),
            prefix: row.token_prefix.as_deref().map(clean).unwrap_or_default(),
            person,
            ceiling: ceiling::read(row.capabilities.as_deref(), scope),
            created_at: row.created_at.as_deref().and_then(moment),
            // What cannot be read is over: the beginning of time is in the past.
            expires_at: row.expires_at.as_deref().map(|text| moment(text).unwrap_or(Timestamp(0))),
            last_used_at: row.last_used_at.as_deref().and_then(moment),
        };
        self.give(at, item)
    }
}

fn user_id(number: u64) -> Option<UserId> {
    number.to_string().parse().ok()
}

fn agent_id(number: u64) -> Option<AgentId> {
    number.to_string().parse().ok()
}

/// The part of a network with this number. One that is none still holds an agent to itself, and so to nothing.
fn blog(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A moment as MySQL writes it, in UTC. Nothing for `0000-00-00 00:00:00` and whatever else is none.
fn moment(text: &[u8]) -> Option<Timestamp> {
    let moment: jiff::civil::DateTime = std::str::from_utf8(text).ok()?.trim().replace(' ', "T").parse().ok()?;
    let moment = moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp(moment.as_microsecond()))
}

/// A text as it may be stored and shown: what is not UTF-8 or would act on a terminal is a mark of replacement.
fn clean(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_utc_and_a_zero_date_is_none() {
        assert_eq!(moment(b"2026-11-22 02:22:29"), Some(Timestamp::from_unix_seconds(1_795_314_149)));
        assert_eq!(moment(b"2038-01-19 03:14:08"), Some(Timestamp::from_unix_seconds(2_147_483_648)));
        for text in ["0000-00-00 00:00:00", "", "tomorrow", "2026-13-01 00:00:00"] {
            assert_eq!(moment(text.as_bytes()), None, "{text}");
        }
    }
}
