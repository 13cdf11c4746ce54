//! The look-up of facts: shared by those who ask at the same time, and with the authority cache of the embedded database.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use futures_util::future::join_all;
use sqlx::{Row as _, postgres::PgRow};

use super::facts::{self, Facts, Unread, Who};
use crate::{
    clock::Timestamp,
    db::{Db, Either, Line, Memory, Question, Target as _, Together, of_each},
    error::{Code, Error, Result},
    id::{ConnectionId, ProviderName, SessionName, SiteId, TaskName, UserId},
    on,
    token::TokenHash,
};

/// How many (token, connection) pairs are remembered.
const CAPACITY: usize = 20_000;
/// How many lists of connections at a provider are remembered.
const PLACES: usize = 2_000;

/// Loads facts; on SQLite it remembers them as long as nothing was committed since.
#[derive(Clone)]
pub struct Authority {
    db: Db,
    facts: Together<FactsOf>,
    /// On PostgreSQL. SQLite remembers what is found.
    sought: Option<Together<CandidatesOf>>,
    pairs: Memory<Pair, Arc<Facts>>,
    asked_about: Memory<About, Arc<Facts>>,
    at_providers: Memory<Place, Arc<Vec<ConnectionId>>>,
}

/// The facts of pairs.
struct FactsOf;

impl Question for FactsOf {
    type Key = Pair;
    type Found = Arc<Unread>;

    async fn ask(line: &mut Line, keys: &[Pair]) -> Result<Vec<Arc<Unread>>> {
        Ok(facts::for_many(line, keys).await?.into_iter().map(Arc::new).collect())
    }
}

/// The connections of tokens at providers. A list that cannot be read is nobody else's concern.
struct CandidatesOf;

impl Question for CandidatesOf {
    type Key = Sought;
    type Found = Result<Arc<Vec<ConnectionId>>>;

    async fn ask(line: &mut Line, keys: &[Sought]) -> Result<Vec<Self::Found>> {
        Ok(candidates_of_many(line, keys).await?.into_iter().map(|ids| ids.map(Arc::new)).collect())
    }
}

/// What is looked for by a provider's name. Whoever asks for the same at nearly the same time shares the answer, so the time is no
/// part of what it is: what ended in between may be among what is found.
#[derive(Clone)]
struct Sought {
    token: TokenHash,
    provider: ProviderName,
    most: usize,
    now: Timestamp,
}

impl Sought {
    fn what(&self) -> (&TokenHash, &ProviderName, usize) {
        (&self.token, &self.provider, self.most)
    }
}

impl PartialEq for Sought {
    fn eq(&self, other: &Self) -> bool {
        self.what() == other.what()
    }
}

impl Eq for Sought {}

impl Hash for Sought {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.what().hash(state);
    }
}

/// What is asked about: a token and a connection.
pub(super) type Pair = (TokenHash, ConnectionId);
/// Who is asked about without a token, where, and with which connection.
type About = (SiteId, Who, ConnectionId);
/// What is remembered of a provider's name: for whom, at which provider, and how many at most.
type Place = (Of, ProviderName, usize);

impl Authority {
    /// The look-up for a database.
    pub fn new(db: Db) -> Self {
        Self {
            pairs: Memory::new(&db, CAPACITY),
            asked_about: Memory::new(&db, CAPACITY),
            at_providers: Memory::new(&db, PLACES),
            facts: Together::new(db.clone()),
            sought: (!db.is_sqlite()).then(|| Together::new(db.clone())),
            db,
        }
    }

    /// The facts for a presented token and a connection; nothing when there is no such token.
    pub async fn facts(&self, token: &TokenHash, connection: &ConnectionId) -> Result<Option<Arc<Facts>>> {
        let pair = (token.clone(), connection.clone());
        let load = async { self.facts.ask((token.clone(), connection.clone())).await?.read() };
        self.pairs.or_load(&self.db, pair, load).await
    }

    /// The facts for a presented token, without a connection: who shows it. Nothing when there is no such token.
    pub async fn holder(&self, token: &TokenHash) -> Result<Option<Arc<Facts>>> {
        self.facts(token, &nowhere()?).await
    }

    /// The facts for an agent as if it held a fresh token; nothing when there is no such agent.
    pub async fn about(&self, site: &SiteId, who: &Who, connection: &ConnectionId) -> Result<Option<Arc<Facts>>> {
        let db = &self.db;
        let load = async { Ok::<_, Error>(facts::for_agent(db, site, who, connection).await?.map(Arc::new)) };
        self.asked_about.or_load(db, (site.clone(), who.clone(), connection.clone()), load).await
    }

    /// The connections at a provider that might be used now, by id; `most` of them at most. None for a token or an agent that there
    /// is not. What ended since it was remembered may still be among them, and nothing else is missing.
    pub async fn candidates(
        &self,
        of: &Of,
        provider: &ProviderName,
        most: usize,
        now: Timestamp,
    ) -> Result<Arc<Vec<ConnectionId>>> {
        if let (Some(sought), Of::Token(token)) = (&self.sought, of) {
            return sought.ask(Sought { token: token.clone(), provider: provider.clone(), most, now }).await?;
        }
        let db = &self.db;
        let load = async {
            // Nothing is sought for strangers, of whom any number may come: they are looked up together.
            if let Of::Token(token) = of
                && self.holder(token).await?.is_none()
            {
                return Ok(None);
            }
            let found = candidates(db, of, provider, most, now).await?;
            Ok::<_, Error>((!found.is_empty()).then(|| Arc::new(found)))
        };
        Ok(self.at_providers.or_load(db, (of.clone(), provider.clone(), most), load).await?.unwrap_or_default())
    }

    /// The facts of many pairs at once: with one statement on PostgreSQL, and from the cache on SQLite. A pair whose rows
    /// cannot be read is left out, so that it does not stand in the way of the others; to whoever needed it, it is as if it
    /// were not there, which denies.
    pub async fn facts_of_many(&self, pairs: &[Pair]) -> Result<HashMap<Pair, Arc<Facts>>> {
        if pairs.is_empty() {
            return Ok(HashMap::new());
        }
        let each = match self.db.is_sqlite() {
            true => join_all(pairs.iter().map(|(token, connection)| self.facts(token, connection))).await,
            false => facts::for_many(&mut self.db.line().await?, pairs).await?.iter().map(Unread::read).collect(),
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

/// A connection's id that no connection has, always the same: for facts about who acts alone, which can be remembered.
fn nowhere() -> Result<ConnectionId> {
    format!("{}{}", ConnectionId::PREFIX, "0".repeat(32)).parse()
}

/// Whose connections are looked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Of {
    /// Those of the agent that shows a token.
    Token(TokenHash),
    /// Those of an agent as if it held a fresh token.
    Agent(SiteId, Who),
}

/// The most connections that a provider's name is looked up among.
const CANDIDATES: usize = 100;

/// The connections at a provider on which a token's agent has a grant that might be for this token.
#[derive(Debug)]
pub struct Candidates {
    /// The facts of each.
    pub facts: Vec<Arc<Facts>>,
    /// There are more of them than are looked at.
    pub more: bool,
}

/// Whether a grant `g` is for the session and the task of the token, and has not ended at `$4`.
macro_rules! is_for_the_work {
    ($who:literal) => {
        concat!(
            " AND (g.session_name IS NULL OR g.session_name = (SELECT t.session_name FROM ",
            $who,
            ")) AND (g.task_name IS NULL OR g.task_name = (SELECT t.task_name FROM ",
            $who,
            ")) AND (g.expires_at IS NULL OR g.expires_at > $4)"
        )
    };
}

/// The connections that may be meant by a provider's name, by id. `$who` is what stands for the token, as `t`: with columns
/// `site`, `agent`, `person`, `session_name` and `task_name`; `$2` is the provider, `$3` the most to find, `$4` the time.
///
/// An agent may hold a grant of every person of a site, and many at each provider. What is granted for its owner alone is
/// found by its owner, and the rest by the provider in the order of an index, so that no call costs a look at everything
/// else that was granted. (`CROSS JOIN` is what keeps SQLite to that order; to PostgreSQL it is a join like any other.)
///
/// What cannot be for this token (another's session, task or list of people, or over) is left out here: there may be any number
/// of them, and those that count must not be cut off behind them. A person's call may give them up, so what is granted for nobody
/// may be theirs, too. A list is searched for the person's id in quotes, which stand in no id.
macro_rules! candidates {
    ($who:literal) => {
        candidates!($who, "$2", "$3")
    };
    ($who:literal, $provider:literal, $most:literal) => {
        concat!(
            "SELECT found.id FROM (
               SELECT any_caller.id FROM (
                 SELECT DISTINCT g.connection AS id FROM grants g
                 JOIN connections c ON c.site = g.site AND c.id = g.connection AND c.status <> 'revoked'
                 WHERE g.site = (SELECT t.site FROM ",
            $who,
            ") AND g.agent = (SELECT t.agent FROM ",
            $who,
            ")
                   AND g.provider = ",
            $provider,
            " AND g.revoked_at IS NULL AND g.effect <> 'deny' AND g.for_whom <> '\"owner\"'
",
            is_for_the_work!($who),
            " AND (g.for_whom = '\"unattended\"'
                        OR (g.for_whom = '\"operators\"' AND (SELECT t.person FROM ",
            $who,
            ") IS NOT NULL)
                        OR REPLACE(g.for_whom, '\"' || (SELECT t.person FROM ",
            $who,
            ") || '\"', '') <> g.for_whom)
                 ORDER BY g.connection LIMIT ",
            $most,
            ") any_caller
               UNION
               SELECT c.id FROM (SELECT t.site, t.agent, t.person FROM ",
            $who,
            ") t CROSS JOIN connections c CROSS JOIN grants g
                 WHERE c.site = t.site AND c.provider = ",
            $provider,
            " AND c.owner = 'user:' || t.person AND c.status <> 'revoked'
                   AND g.site = t.site AND g.agent = t.agent AND g.connection = c.id
                   AND g.revoked_at IS NULL AND g.effect <> 'deny' AND g.for_whom = '\"owner\"'
",
            is_for_the_work!($who),
            " ) found ORDER BY found.id LIMIT ",
            $most
        )
    };
}

async fn candidates(db: &Db, of: &Of, provider: &ProviderName, most: usize, now: Timestamp) -> Result<Vec<ConnectionId>> {
    let most = i64::try_from(most).map_err(Error::internal)?;
    let rows: Vec<(String,)> = match of {
        Of::Token(token) => {
            on!(db, |c| sqlx::query_as(candidates!("agent_tokens t WHERE t.token_hash = $1 AND t.revoked_at IS NULL"))
                .bind(token.as_str())
                .bind(provider.as_str())
                .bind(most)
                .bind(now.0)
                .fetch_all(c)
                .await?)
        }
        Of::Agent(site, who) => on!(db, |c| sqlx::query_as(candidates!(
            "(SELECT CAST($1 AS TEXT) AS site, CAST($5 AS TEXT) AS agent, CAST($6 AS TEXT) AS person,
                     CAST($7 AS TEXT) AS session_name, CAST($8 AS TEXT) AS task_name) t"
        ))
        .bind(site.as_str())
        .bind(provider.as_str())
        .bind(most)
        .bind(now.0)
        .bind(who.agent.as_str())
        .bind(who.person.as_ref().map(UserId::as_str))
        .bind(who.session.as_ref().map(SessionName::as_str))
        .bind(who.task.as_ref().map(TaskName::as_str))
        .fetch_all(c)
        .await?),
    };
    rows.iter().map(|(id,)| id.parse()).collect()
}

/// The connections of many tokens at providers, with one statement; for PostgreSQL. What comes of each stands at its place.
///
/// As text and one at a time, for the reasons that stand at the facts of many pairs.
async fn candidates_of_many(line: &mut Line, sought: &[Sought]) -> Result<Vec<Result<Vec<ConnectionId>>>> {
    let Either::Postgres(line) = line.split() else { return Err(Error::internal("a statement of PostgreSQL's, elsewhere")) };
    let listed = |each: fn(&Sought) -> Cow<'_, str>| sought.iter().map(each).collect::<Vec<_>>().join(",");
    let now = sought.iter().map(|sought| sought.now.0).min().unwrap_or_default();
    let rows = sqlx::query(concat!(
        "SELECT asked.number, f.id
         FROM ROWS FROM (STRING_TO_TABLE($1, ','), STRING_TO_TABLE($2, ','), STRING_TO_TABLE($3, ',')) WITH ORDINALITY
              AS asked (token, provider, most, number)
         CROSS JOIN LATERAL (",
        candidates!(
            "agent_tokens t WHERE t.token_hash = asked.token AND t.revoked_at IS NULL",
            "asked.provider",
            "CAST(asked.most AS BIGINT)"
        ),
        ") f"
    ))
    .bind(listed(|sought| sought.token.as_str().into()))
    .bind(listed(|sought| sought.provider.as_str().into()))
    .bind(listed(|sought| sought.most.to_string().into()))
    .bind(now)
    .fetch_all(line)
    .await?;
    let read = |row: &PgRow| row.try_get::<&str, _>("id")?.parse();
    Ok(of_each(rows, sought.len())?.into_iter().map(|rows| rows.iter().map(read).collect()).collect())
}

/// What a call that names only a provider could mean; nothing for a token that there is not.
pub async fn usable_at(authority: &Authority, token: &TokenHash, provider: &ProviderName, now: Timestamp) -> Result<Candidates> {
    // One more, to know that there are more.
    let found = authority.candidates(&Of::Token(token.clone()), provider, CANDIDATES + 1, now).await?;
    let mut pairs: Vec<Pair> = found.iter().map(|id| (token.clone(), id.clone())).collect();
    let more = pairs.len() > CANDIDATES;
    pairs.truncate(CANDIDATES);
    let mut found = authority.facts_of_many(&pairs).await?;
    let facts = pairs.iter().filter_map(|pair| found.remove(pair)).collect();
    Ok(Candidates { facts, more })
}
