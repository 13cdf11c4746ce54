//! The look-up of facts, with the authority cache of the embedded database.

use std::{collections::HashMap, sync::Arc};

use quick_cache::sync::Cache;

use super::{
    facts::{self, Facts},
    together::Together,
};
use crate::{
    db::Db,
    error::{Code, Error, Result},
    id::{ConnectionId, ProviderName, SiteId},
    on,
    token::TokenHash,
};

/// How many (token, connection) pairs are remembered.
const CAPACITY: usize = 20_000;

/// Loads facts; on SQLite it remembers them as long as nothing was committed since.
#[derive(Clone)]
pub struct Authority(Source);

#[derive(Clone)]
enum Source {
    Remembered {
        db: Db,
        cache: Arc<Cache<Pair, Remembered>>,
    },
    /// PostgreSQL caches no authority: another replica may revoke at any moment.
    Asked(Together),
}

/// What is asked about: a token and a connection.
pub(super) type Pair = (TokenHash, ConnectionId);
/// Facts, and the epoch that was read before they were loaded.
type Remembered = (u64, Arc<Facts>);

impl Authority {
    /// The look-up for a database.
    pub fn new(db: Db) -> Self {
        Self(if db.is_sqlite() {
            Source::Remembered { db, cache: Arc::new(Cache::new(CAPACITY)) }
        } else {
            Source::Asked(Together::new(db))
        })
    }

    /// The facts for a presented token and a connection; nothing when there is no such token.
    pub async fn facts(&self, token: &TokenHash, connection: &ConnectionId) -> Result<Option<Arc<Facts>>> {
        let pair = (token.clone(), connection.clone());
        let (db, cache) = match &self.0 {
            Source::Remembered { db, cache } => (db, cache),
            Source::Asked(together) => return together.facts(pair).await,
        };
        // INVARIANT: the epoch is read before loading. A commit in between makes what was loaded count for nothing.
        let epoch = db.epoch();
        if let Some((then, facts)) = cache.get(&pair)
            && then == epoch
        {
            return Ok(Some(facts));
        }
        let Some(loaded) = facts::for_token(db, token, connection).await?.map(Arc::new) else {
            // Unknown tokens are not remembered: a stranger could fill the cache with them.
            return Ok(None);
        };
        cache.insert(pair, (epoch, Arc::clone(&loaded)));
        Ok(Some(loaded))
    }

    /// The facts of many pairs at once: on PostgreSQL with one statement, on SQLite from the cache. A pair whose rows
    /// cannot be read is left out, so that it does not stand in the way of the others; to whoever needed it, it is as if it
    /// were not there, which denies.
    pub async fn facts_of_many(&self, pairs: &[Pair]) -> Result<HashMap<Pair, Arc<Facts>>> {
        let each = match &self.0 {
            Source::Asked(together) => {
                let db = together.db();
                facts::for_many(db, &mut *facts::line(db).await?, pairs).await?
            }
            Source::Remembered { .. } => {
                let mut each = Vec::with_capacity(pairs.len());
                for (token, connection) in pairs {
                    each.push(self.facts(token, connection).await);
                }
                each
            }
        };
        let mut found = HashMap::with_capacity(pairs.len());
        for (pair, facts) in pairs.iter().zip(each) {
            match facts {
                Ok(Some(facts)) => {
                    found.insert(pair.clone(), facts);
                }
                Ok(None) => {}
                Err(error) if error.code() == Code::Internal => {
                    tracing::error!(%error, detail = error.detail(), "rows that a decision needs cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// The most connections that a provider's name is looked up among.
const CANDIDATES: usize = 100;

/// The connections at a provider on which a token's agent has a grant that might be for this token.
#[derive(Debug)]
pub struct Candidates {
    /// The token's site.
    pub site: SiteId,
    /// Whether the token has a person.
    pub person: bool,
    /// The facts of each.
    pub facts: Vec<Arc<Facts>>,
    /// There are more of them than are looked at.
    pub more: bool,
}

/// What a call that names only a provider could mean; nothing when there is no such token.
///
/// An agent may hold a grant of every person of a site. What is granted for its owner alone is left to the owner here,
/// so that a call costs no look at everybody else's.
pub async fn usable_at(db: &Db, authority: &Authority, token: &TokenHash, provider: &ProviderName) -> Result<Option<Candidates>> {
    let rows: Vec<(String, Option<String>, Option<String>)> = on!(db, |c| sqlx::query_as(
        "SELECT DISTINCT t.site, t.person, c.id
         FROM agent_tokens t
         LEFT JOIN grants g ON g.site = t.site AND g.agent = t.agent AND g.revoked_at IS NULL
         LEFT JOIN connections c ON c.site = g.site AND c.id = g.connection AND c.provider = $2 AND c.status <> 'revoked'
             AND (g.for_whom <> '\"owner\"' OR c.owner = 'user:' || t.person)
         WHERE t.token_hash = $1 AND t.revoked_at IS NULL ORDER BY c.id LIMIT $3"
    )
    .bind(token.as_str())
    .bind(provider.as_str())
    // One more to know that there are more, and one for the row that stands for grants elsewhere.
    .bind(i64::try_from(CANDIDATES + 2).map_err(Error::internal)?)
    .fetch_all(c)
    .await?);
    let Some((site, person, _)) = rows.first() else { return Ok(None) };
    let (site, person) = (site.parse()?, person.is_some());
    let mut pairs = Vec::with_capacity(rows.len());
    for id in rows.iter().filter_map(|(_, _, id)| id.as_deref()) {
        pairs.push((token.clone(), id.parse()?));
    }
    let more = pairs.len() > CANDIDATES;
    pairs.truncate(CANDIDATES);
    let mut found = authority.facts_of_many(&pairs).await?;
    let facts = pairs.iter().filter_map(|pair| found.remove(pair)).collect();
    Ok(Some(Candidates { site, person, facts, more }))
}
