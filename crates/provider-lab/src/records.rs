//! What happened: counters, a log of requests, and how often each refresh token was used. Fingerprints stand where a
//! credential would.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::Hash,
};

use serde::Serialize;

use crate::{
    fault::{At, Plan},
    tokens::FamilyEnd,
};

/// How many requests the log remembers.
const LOG_LINES: usize = 5_000;
/// How many refresh tokens are counted, and how many revocations remembered.
const SPENDS: usize = 50_000;

/// A map that forgets its oldest entries.
pub(crate) struct Capped<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
    limit: usize,
}

impl<K: Hash + Eq + Clone, V> Capped<K, V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { map: HashMap::new(), order: VecDeque::new(), limit }
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if self.map.insert(key.clone(), value).is_none() {
            self.remember(key);
        }
    }

    pub(crate) fn find_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if !self.map.contains_key(&key) {
            self.remember(key.clone());
        }
        self.map.entry(key).or_default()
    }

    /// Notes a key that is new, and forgets the oldest where there are too many.
    fn remember(&mut self, key: K) {
        self.order.push_back(key);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.map.remove(&oldest);
        }
    }

    pub(crate) fn find(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    pub(crate) fn find_mut(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().filter_map(|key| self.map.get_key_value(key))
    }

    /// In no order.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.map.values_mut()
    }
}

/// One request that the lab received.
#[derive(Clone, Debug, Serialize)]
pub struct LogEntry {
    /// Counts from 1 since the last reset.
    pub number: u64,
    /// When it arrived: milliseconds since 1970, on the lab's own clock.
    pub at_ms: u64,
    /// Which part of the lab it met, such as `token.refresh_token` or `api`.
    pub endpoint: &'static str,
    /// The HTTP method.
    pub method: String,
    /// The path as it was sent, without the query.
    pub path: String,
    /// The client it names, or the one whose token it carries.
    pub client_id: Option<String>,
    /// SHA-256 (hex) of the code or token it is about.
    pub credential_sha256: Option<String>,
    /// The faults that were applied.
    pub faults: Vec<&'static str>,
    /// The status of the answer as the lab made it, also where the answer was then lost. Absent while at work, and
    /// where the lab hung up before the work.
    pub status: Option<u16>,
}

/// A token that was revoked at `/revoke`, or withdrawn by the person.
#[derive(Clone, Debug, Serialize)]
pub struct RevokedToken {
    /// SHA-256 (hex) of the token.
    pub sha256: String,
    /// `access_token` or `refresh_token`.
    pub kind: &'static str,
    /// The client that it belonged to.
    pub client_id: String,
}

/// What is left of one authorization: the tokens that descend from one consent.
#[derive(Clone, Debug, Serialize)]
pub struct FamilyState {
    /// Counts from 1 since the last reset.
    pub id: u64,
    /// The client.
    pub client_id: String,
    /// The username of the person who consented.
    pub person: String,
    /// The granted scopes, separated by spaces.
    pub scope: String,
    /// Why it is over, if it is.
    pub ended: Option<FamilyEnd>,
    /// How many refreshes succeeded.
    pub refreshes: u64,
    /// How many of its access tokens work now.
    pub live_access_tokens: usize,
    /// How many of its refresh tokens work now.
    pub live_refresh_tokens: usize,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Requests that arrived, by endpoint (`token.refresh_token`, `userinfo`, `api`, ...).
    pub requests: BTreeMap<&'static str, u64>,
    /// Refreshes that yielded tokens, whether or not the answer arrived.
    pub refreshes: u64,
    /// The largest number of times one refresh token reached the work of the token endpoint.
    pub most_spends_of_one_refresh_token: u64,
    /// Live access tokens by username.
    pub live_access_tokens: BTreeMap<&'static str, usize>,
    /// Live refresh tokens by username.
    pub live_refresh_tokens: BTreeMap<&'static str, usize>,
    /// Revoked tokens, by `/revoke` or by the person.
    pub revoked_tokens: usize,
    /// Families that a replayed refresh token has ended.
    pub families_ended_by_reuse: u64,
    /// Requests that wait for a release now.
    pub held: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spend {
    /// Requests that carried the token.
    pub(crate) presented: u64,
    /// Those that reached the work, whatever came of it.
    pub(crate) spent: u64,
}

/// A request as the records see it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: At,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) client_id: Option<String>,
    pub(crate) credential_sha256: Option<String>,
}

pub(crate) struct Records {
    pub(crate) requests: BTreeMap<&'static str, u64>,
    pub(crate) log: VecDeque<LogEntry>,
    pub(crate) spends: Capped<String, Spend>,
    pub(crate) refreshes: u64,
    pub(crate) reuse_ends: u64,
    pub(crate) revoked: VecDeque<RevokedToken>,
    arrived: u64,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self {
            requests: BTreeMap::new(),
            log: VecDeque::new(),
            spends: Capped::new(SPENDS),
            refreshes: 0,
            reuse_ends: 0,
            revoked: VecDeque::new(),
            arrived: 0,
        }
    }

    /// Counts and logs a request on arrival. The number finds it again.
    pub(crate) fn arrive(&mut self, call: &Call, plan: &Plan, now: u64) -> u64 {
        *self.requests.entry(call.at.name()).or_default() += 1;
        if call.at == At::Refresh
            && let Some(sha256) = &call.credential_sha256
        {
            self.spend(sha256).presented += 1;
        }
        self.arrived += 1;
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(LogEntry {
            number: self.arrived,
            at_ms: now,
            endpoint: call.at.name(),
            method: call.method.clone(),
            path: call.path.clone(),
            client_id: call.client_id.clone(),
            credential_sha256: call.credential_sha256.clone(),
            faults: plan.names.clone(),
            status: None,
        });
        self.arrived
    }

    pub(crate) fn answered(&mut self, number: u64, status: u16) {
        let first = self.log.front().map_or(0, |entry| entry.number);
        let entry = number.checked_sub(first).and_then(|at| usize::try_from(at).ok()).and_then(|at| self.log.get_mut(at));
        if let Some(entry) = entry {
            entry.status = Some(status);
        }
    }

    pub(crate) fn spend(&mut self, sha256: &str) -> &mut Spend {
        self.spends.find_or_default(sha256.to_owned())
    }

    pub(crate) fn revoke(&mut self, token: RevokedToken) {
        if self.revoked.len() == SPENDS {
            self.revoked.pop_front();
        }
        self.revoked.push_back(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capped_map_forgets_its_oldest_entry() {
        let mut map = Capped::new(2);
        for key in ["a", "b", "b", "c"] {
            *map.find_or_default(key) += 1;
        }
        assert_eq!(map.iter().map(|(key, count)| (*key, *count)).collect::<Vec<_>>(), [("b", 2), ("c", 1)]);
        map.insert("d", 9);
        assert_eq!((map.find(&"b"), map.find(&"d")), (None, Some(&9)));
    }

    #[test]
    fn the_log_is_bounded_and_still_finds_its_entries() {
        let mut records = Records::new();
        let call = Call { at: At::Api, method: "GET".to_owned(), path: "/".to_owned(), client_id: None, credential_sha256: None };
        let numbers: Vec<u64> = (0..LOG_LINES + 2).map(|_| records.arrive(&call, &Plan::default(), 0)).collect();
        assert_eq!(records.log.len(), LOG_LINES);
        // The first is forgotten, the third is the oldest that is left.
        records.answered(numbers[0], 500);
        records.answered(numbers[2], 204);
        assert_eq!(records.log.iter().filter_map(|entry| entry.status).collect::<Vec<_>>(), [204]);
        assert_eq!(records.log[0].number, numbers[2]);
    }
}
