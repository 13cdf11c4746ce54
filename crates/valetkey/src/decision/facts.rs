//! Everything a decision depends on, loaded by one statement.
//!
//! One row comes for each live grant of the agent on the connection, and one without a grant where there is
//! none. What cannot be read (a ceiling, a for-whom, a list) is kept as unreadable, and denies.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use sqlx::{FromRow as _, PgConnection, SqliteConnection, postgres::PgRow, sqlite::SqliteRow};

use crate::{
    agent::Role,
    clock::Timestamp,
    connection::{ConnectionRow, Stored},
    db::{Db, Either, Line, Target as _, by_key, of_each},
    error::{Error, Result},
    grant::{Effect, ForWhom, Rate},
    id::{AgentId, ClientId, ConnectionId, FamilyId, GrantId, SessionName, SiteId, TaskName, TokenId, UserId},
    on,
    principal::{CallerChain, Ceiling, Delivery},
    provider::pattern::PathPattern,
    row,
    token::{Audience, TokenHash},
};

/// Something stored as text that may not be readable; unreadable denies (promise 4).
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed<T> {
    /// It was read.
    Read(T),
    /// It could not be.
    Unreadable,
}

/// All facts of one decision.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The site everything happens in.
    pub site: SiteId,
    /// Whether the site is disabled.
    pub site_disabled: bool,
    /// What narrows everything at the site; absent for none.
    pub site_ceiling: Option<Parsed<Ceiling>>,
    /// At which depth a chain of agents is exhausted there.
    pub chain_limit: u32,
    /// The token that was shown; absent when an agent is asked about without one.
    pub token: Option<TokenFacts>,
    /// The agent.
    pub agent: AgentFacts,
    /// The person the token acts for, with their live role on the agent.
    pub person: Option<PersonFacts>,
    /// The session that the token was minted for. Nothing in a call can name another one.
    pub session: Option<SessionName>,
    /// The task that the token was minted for.
    pub task: Option<TaskName>,
    /// The connection, where there is one by that id in this site.
    pub connection: Option<ConnectionFacts>,
    /// The agent's grants on it that are not revoked, oldest first.
    pub grants: Vec<GrantFacts>,
}

impl Facts {
    /// Every ceiling that there is over a use, the widest first.
    pub fn ceilings(&self) -> impl Iterator<Item = (Over, &Parsed<Ceiling>)> {
        let token = self.token.as_ref().and_then(|token| token.ceiling.as_ref());
        let all = [(Over::Site, self.site_ceiling.as_ref()), (Over::Agent, self.agent.ceiling.as_ref()), (Over::Token, token)];
        all.into_iter().filter_map(|(over, ceiling)| Some((over, ceiling?)))
    }
}

/// Over what a ceiling stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Everything at the site.
    Site,
    /// All tokens of the agent.
    Agent,
    /// One token.
    Token,
}

/// What a decision needs of a token.
#[derive(Clone, Debug)]
pub struct TokenFacts {
    /// Its id.
    pub id: TokenId,
    /// The first characters of its text.
    pub prefix: String,
    /// What somebody called it.
    pub label: String,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// Its ceiling; absent for none.
    pub ceiling: Option<Parsed<Ceiling>>,
    /// The person who minted it, with their live role: its authority includes theirs (decisions 3).
    pub minter: Option<PersonFacts>,
    /// Where it comes from. Nothing is decided by this; introspection tells it.
    pub origin: Origin,
}

/// Where a token comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Since when there is such a token.
    pub created_at: Timestamp,
    /// The OAuth client that it was issued to; absent where it was minted by hand.
    pub client: Option<ClientId>,
    /// The consent that it comes of.
    pub family: Option<FamilyId>,
    /// The token that it was exchanged for.
    pub parent: Option<TokenId>,
    /// Where it is taken; absent for everywhere.
    pub audience: Option<Audience>,
}

/// What a decision needs of an agent.
#[derive(Clone, Debug)]
pub struct AgentFacts {
    /// Its id.
    pub id: AgentId,
    /// Whether it is disabled or deleted.
    pub gone: bool,
    /// The person it belongs to.
    pub owner: Option<UserId>,
    /// Whether its owner is disabled.
    pub owner_gone: bool,
    /// What narrows all its tokens; absent for none.
    pub ceiling: Option<Parsed<Ceiling>>,
}

/// What a decision needs of a person.
#[derive(Clone, Debug)]
pub struct PersonFacts {
    /// Their id.
    pub id: UserId,
    /// Whether they are disabled.
    pub gone: bool,
    /// Their live role on the agent.
    pub role: Option<Role>,
}

/// What a decision and a delivery need of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionFacts {
    /// The row, with its sealed account.
    pub stored: Arc<Stored>,
    /// Whether the person who owns it is disabled.
    pub owner_gone: bool,
}

/// What a decision needs of a grant.
#[derive(Clone, Debug)]
pub struct GrantFacts {
    /// Its id.
    pub id: GrantId,
    /// Whether it allows, asks or denies; what cannot be read denies.
    pub effect: Effect,
    /// For whom.
    pub for_whom: Parsed<ForWhom>,
    /// For tokens of this session only.
    pub session: Option<SessionName>,
    /// For tokens of this task only.
    pub task: Option<TaskName>,
    /// How.
    pub delivery: Parsed<BTreeSet<Delivery>>,
    /// The most scopes.
    pub scopes: Option<Parsed<BTreeSet<String>>>,
    /// The operations.
    pub operations: Option<Parsed<Vec<PathPattern>>>,
    /// How often in a stretch of time.
    pub rate: Option<Parsed<Rate>>,
    /// How often in all.
    pub max_uses: Option<i64>,
    /// How often so far.
    pub uses: i64,
    /// Until when.
    pub expires_at: Option<Timestamp>,
    /// Whether the person who granted it may still dispose of the connection: they live, and it is theirs.
    pub grantor_may: bool,
}

row! {
    struct FactRow {
        t_site: String,
        s_disabled: Option<i64>,
        s_ceiling: Option<String>,
        s_chain: Option<i64>,
        t_id: Option<String>,
        t_prefix: Option<String>,
        t_label: Option<String>,
        t_expires: Option<i64>,
        t_revoked: Option<i64>,
        t_ceiling: Option<String>,
        t_minter: Option<String>,
        t_created: Option<i64>,
        t_client: Option<String>,
        t_family: Option<String>,
        t_parent: Option<String>,
        t_audience: Option<String>,
        minter_disabled: Option<i64>,
        minter_role: Option<String>,
        t_person: Option<String>,
        t_session: Option<String>,
        t_task: Option<String>,
        person_disabled: Option<i64>,
        person_role: Option<String>,
        a_id: String,
        a_owner: Option<String>,
        a_disabled: Option<i64>,
        a_deleted: Option<i64>,
        a_ceiling: Option<String>,
        a_owner_disabled: Option<i64>,
        c_owner_disabled: Option<i64>,
        g_id: Option<String>,
        g_effect: Option<String>,
        g_for_whom: Option<String>,
        g_session: Option<String>,
        g_task: Option<String>,
        g_delivery: Option<String>,
        g_scopes: Option<String>,
        g_operations: Option<String>,
        g_rate: Option<String>,
        g_max_uses: Option<i64>,
        g_uses: Option<i64>,
        g_expires: Option<i64>,
        g_grantor: Option<String>,
        g_grantor_disabled: Option<i64>,
        c_id: Option<String>,
    }
}

/// What is selected of a token, its agent, their site and their people. `t` is the token or what stands for it.
macro_rules! who_columns {
    () => {
        "t.site AS t_site, s.disabled_at AS s_disabled, s.ceiling AS s_ceiling, s.chain_limit AS s_chain,
         t.id AS t_id, t.prefix AS t_prefix, t.label AS t_label, t.expires_at AS t_expires, t.revoked_at AS t_revoked,
         t.ceiling AS t_ceiling, t.minter AS t_minter, pm.disabled_at AS minter_disabled, rm.role AS minter_role,
         t.created_at AS t_created, t.client AS t_client, t.family AS t_family, t.parent AS t_parent, t.audience AS t_audience,
         t.person AS t_person, pp.disabled_at AS person_disabled, rp.role AS person_role,
         t.session_name AS t_session, t.task_name AS t_task,
         a.id AS a_id, a.owner_user AS a_owner, a.disabled_at AS a_disabled, a.deleted_at AS a_deleted,
         a.ceiling AS a_ceiling, po.disabled_at AS a_owner_disabled"
    };
}

/// What is selected of a connection and the agent's grants on it.
macro_rules! what_columns {
    () => {
        "pc.disabled_at AS c_owner_disabled,
         g.id AS g_id, g.effect AS g_effect, g.for_whom AS g_for_whom, g.session_name AS g_session, g.task_name AS g_task,
         g.delivery AS g_delivery, g.scopes AS g_scopes, g.operations AS g_operations, g.rate AS g_rate,
         g.max_uses AS g_max_uses, g.uses AS g_uses, g.expires_at AS g_expires, g.grantor AS g_grantor,
         pg.disabled_at AS g_grantor_disabled, c.id AS c_id,
         c.site, c.provider, c.owner, c.name, c.status, c.status_reason, c.sealed, c.version, c.revision, c.app_config_id,
         c.client_id, c.subject, c.subject_name, c.identity, c.scopes, c.wanted_scopes, c.hosts, c.renewal, c.access_expires_at,
         c.access_issued_at, c.usual_life, c.refresh_expires_at, c.last_refreshed_at, c.connected_at, c.updated_at,
         c.lease_number, c.lease_holder, c.spending_version, c.spending_lease, c.recovered_version, c.failures, c.retry_at,
         c.last_error, c.forced_at, c.revoked_at, c.resources, c.warned_end, c.id"
    };
}

/// Both.
macro_rules! fact_columns {
    () => {
        concat!(who_columns!(), ", ", what_columns!())
    };
}

/// The people around a token: the agent's owner, whom it acts for and who minted it, with their live roles.
macro_rules! people_joins {
    () => {
        "LEFT JOIN people po ON po.site = t.site AND po.id = a.owner_user
         LEFT JOIN people pp ON pp.site = t.site AND pp.id = t.person
         LEFT JOIN agent_access rp ON rp.site = t.site AND rp.agent = t.agent AND rp.user_id = t.person
         LEFT JOIN people pm ON pm.site = t.site AND pm.id = t.minter
         LEFT JOIN agent_access rm ON rm.site = t.site AND rm.agent = t.agent AND rm.user_id = t.minter"
    };
}

/// The token's site and agent, and their people.
macro_rules! who_joins {
    () => {
        concat!("JOIN sites s ON s.id = t.site JOIN agents a ON a.site = t.site AND a.id = t.agent ", people_joins!())
    };
}

/// The person who owns the connection, where they are disabled, at a site. By their key, which is what stands behind `user:`: to
/// try each disabled person of the site instead would cost every call as much as there are of them.
macro_rules! owner_join {
    ($site:literal) => {
        concat!(
            "LEFT JOIN people pc ON pc.site = ",
            $site,
            " AND pc.id = SUBSTR(c.owner, 6) AND c.owner = 'user:' || pc.id AND pc.disabled_at IS NOT NULL"
        )
    };
}

/// The connection with an id, and an agent's grants on it that are not taken back.
macro_rules! what_joins {
    ($site:literal, $agent:literal, $wanted:literal) => {
        concat!(
            "LEFT JOIN connections c ON c.site = ",
            $site,
            " AND c.id = ",
            $wanted,
            " ",
            owner_join!($site),
            " LEFT JOIN grants g ON g.site = ",
            $site,
            " AND g.agent = ",
            $agent,
            " AND g.connection = c.id AND g.revoked_at IS NULL LEFT JOIN people pg ON pg.site = ",
            $site,
            " AND pg.id = g.grantor"
        )
    };
}

/// Both, for the connection with the id `$2`.
macro_rules! fact_joins {
    () => {
        concat!(who_joins!(), " ", what_joins!("t.site", "t.agent", "$2"))
    };
}

/// A row of facts and, where there is one, the connection's row.
struct Both {
    fact: FactRow,
    connection: Option<ConnectionRow>,
}

impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for Both
where
    FactRow: sqlx::FromRow<'r, R>,
    ConnectionRow: sqlx::FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> std::result::Result<Self, sqlx::Error> {
        let fact = FactRow::from_row(row)?;
        let connection = fact.c_id.is_some().then(|| ConnectionRow::from_row(row)).transpose()?;
        Ok(Self { fact, connection })
    }
}

/// The facts for a token by its id and a connection, to explain what becomes of its uses; nothing when the site has no such token.
/// Nobody proves anything by an id.
pub async fn for_token_id(db: &Db, site: &SiteId, token: &TokenId, connection: &ConnectionId) -> Result<Option<Facts>> {
    let rows: Vec<Both> = on!(db, |c| sqlx::query_as(concat!(
        "SELECT ",
        fact_columns!(),
        " FROM agent_tokens t ",
        fact_joins!(),
        " WHERE t.site = $1 AND t.id = $3 ORDER BY g.created_at, g.id"
    ))
    .bind(site.as_str())
    .bind(connection.as_str())
    .bind(token.as_str())
    .fetch_all(c)
    .await?);
    assemble(rows)
}

/// The facts for a presented token and each connection on which its agent has a grant that is not taken back, by connection id: at
/// most `limit` of them, after the one with id `after`.
pub async fn for_token_page(db: &Db, token: &TokenHash, after: Option<&ConnectionId>, limit: u32) -> Result<Vec<Facts>> {
    let rows: Vec<Both> = on!(db, |c| sqlx::query_as(concat!(
        "SELECT ",
        fact_columns!(),
        " FROM agent_tokens t
          JOIN sites s ON s.id = t.site
          JOIN agents a ON a.site = t.site AND a.id = t.agent
          JOIN grants g ON g.site = t.site AND g.agent = t.agent AND g.revoked_at IS NULL
          JOIN connections c ON c.site = t.site AND c.id = g.connection ",
        people_joins!(),
        " ",
        owner_join!("t.site"),
        " LEFT JOIN people pg ON pg.site = t.site AND pg.id = g.grantor
          WHERE t.token_hash = $1
            AND g.connection IN (SELECT DISTINCT found.connection
                                 FROM agent_tokens shown
                                 JOIN grants found ON found.site = shown.site AND found.agent = shown.agent
                                 JOIN connections there ON there.site = found.site AND there.id = found.connection
                                 WHERE shown.token_hash = $1 AND found.revoked_at IS NULL AND found.effect <> 'deny'
                                   AND there.status <> 'revoked' AND found.connection > $2
                                 ORDER BY found.connection LIMIT $3)
          ORDER BY c.id, g.created_at, g.id"
    ))
    .bind(token.as_str())
    .bind(after.map_or("", ConnectionId::as_str))
    .bind(i64::from(limit))
    .fetch_all(c)
    .await?);
    let mut all = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while let Some(first) = rows.next() {
        let id = first.fact.c_id.clone();
        let mut group = vec![first];
        while let Some(next) = rows.next_if(|row| row.fact.c_id == id) {
            group.push(next);
        }
        all.extend(assemble(group)?);
    }
    Ok(all)
}

/// Who is asked about where no token is shown: an agent as if it held a fresh token without a ceiling of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Who {
    /// The agent.
    pub agent: AgentId,
    /// The person the token would be for; absent means unattended.
    pub person: Option<UserId>,
    /// The session it would be minted for.
    pub session: Option<SessionName>,
    /// The task it would be minted for.
    pub task: Option<TaskName>,
}

impl Who {
    /// An agent with a person or unattended, in no session and no task.
    pub fn new(agent: AgentId, person: Option<UserId>) -> Self {
        Self { agent, person, session: None, task: None }
    }
}

/// The facts for an agent as if it held a fresh token.
pub async fn for_agent(db: &Db, site: &SiteId, who: &Who, connection: &ConnectionId) -> Result<Option<Facts>> {
    let rows: Vec<Both> = on!(db, |c| sqlx::query_as(concat!(
        "SELECT ",
        fact_columns!(),
        " FROM (SELECT x.site AS site, x.id AS agent, $4 AS person, CAST(NULL AS TEXT) AS id, CAST(NULL AS TEXT) AS prefix,
                       CAST(NULL AS TEXT) AS label, CAST(NULL AS BIGINT) AS expires_at,
                       CAST(NULL AS BIGINT) AS revoked_at, CAST(NULL AS TEXT) AS ceiling, CAST(NULL AS TEXT) AS minter,
                       CAST(NULL AS BIGINT) AS created_at, CAST(NULL AS TEXT) AS client, CAST(NULL AS TEXT) AS family,
                       CAST(NULL AS TEXT) AS parent, CAST(NULL AS TEXT) AS audience, $5 AS session_name, $6 AS task_name
                FROM agents x WHERE x.site = $1 AND x.id = $3) t ",
        fact_joins!(),
        " ORDER BY g.created_at, g.id"
    ))
    .bind(site.as_str())
    .bind(connection.as_str())
    .bind(who.agent.as_str())
    .bind(who.person.as_ref().map(UserId::as_str))
    .bind(who.session.as_ref().map(SessionName::as_str))
    .bind(who.task.as_ref().map(TaskName::as_str))
    .fetch_all(c)
    .await?);
    assemble(rows)
}

/// The rows of one pair, as the database sent them.
pub(super) struct Unread {
    rows: Either<Vec<SqliteRow>, Vec<PgRow>>,
    read: OnceLock<Result<Option<Arc<Facts>>>>,
}

impl Unread {
    fn new(rows: Either<Vec<SqliteRow>, Vec<PgRow>>) -> Self {
        Self { rows, read: OnceLock::new() }
    }

    /// The facts: nothing where there is no such token, an error where the rows cannot be read.
    ///
    /// Each row has some eighty columns. So the first of those who asked for a pair reads it, while the next statement is under way.
    pub(super) fn read(&self) -> Result<Option<Arc<Facts>>> {
        let read = || {
            let rows: std::result::Result<Vec<_>, sqlx::Error> = match &self.rows {
                Either::Sqlite(rows) => rows.iter().map(Both::from_row).collect(),
                Either::Postgres(rows) => rows.iter().map(Both::from_row).collect(),
            };
            Ok(assemble(rows?)?.map(Arc::new))
        };
        self.read.get_or_init(read).clone()
    }
}

/// The facts of many pairs of a presented token and a connection, with one statement. What comes of each stands at its place.
pub(super) async fn for_many(line: &mut Line, pairs: &[(TokenHash, ConnectionId)]) -> Result<Vec<Unread>> {
    match line.split() {
        Either::Sqlite(line) => {
            let rows = of_each(many_on_sqlite(line, pairs).await?, pairs.len())?;
            Ok(rows.into_iter().map(|rows| Unread::new(Either::Sqlite(rows))).collect())
        }
        Either::Postgres(line) => {
            let rows = of_each(many_on_postgres(line, pairs).await?, pairs.len())?;
            Ok(rows.into_iter().map(|rows| Unread::new(Either::Postgres(rows))).collect())
        }
    }
}

/// SQLite walks the joins in this order, for one pair after the other: `CROSS JOIN` keeps it from beginning elsewhere.
async fn many_on_sqlite(line: &mut SqliteConnection, pairs: &[(TokenHash, ConnectionId)]) -> Result<Vec<SqliteRow>> {
    let pairs: Vec<_> = pairs.iter().map(|(token, connection)| [token.as_str(), connection.as_str()]).collect();
    let query = sqlx::query(concat!(
        "SELECT asked.key + 1 AS number, ",
        who_columns!(),
        ", ",
        what_columns!(),
        " FROM json_each($1) asked CROSS JOIN agent_tokens t ON t.token_hash = asked.value ->> 0 ",
        who_joins!(),
        " ",
        what_joins!("t.site", "t.agent", "asked.value ->> 1"),
        " ORDER BY number, g.created_at, g.id"
    ));
    Ok(query.bind(serde_json::to_string(&pairs).map_err(Error::internal)?).fetch_all(line).await?)
}

/// Each token is looked up once, and each pair of its own, by subqueries which the planner cannot merge with the others
/// (`OFFSET 0`): they walk the indexes for one key at a time, however many are asked for and however small the tables are.
async fn many_on_postgres(line: &mut PgConnection, pairs: &[(TokenHash, ConnectionId)]) -> Result<Vec<PgRow>> {
    let (tokens, wanted) = by_key(pairs.iter().map(|(token, connection)| (token.as_str(), connection.as_str())).collect());
    // Rows are numbered from 1.
    let places: Vec<String> = wanted.iter().map(|(_, place)| (place + 1).to_string()).collect();
    let connections: Vec<&str> = wanted.iter().map(|(connection, _)| *connection).collect();
    // None of them holds a comma. An array in the place of a text would show its length to the planner, which then plans every
    // call anew: that takes a hundred times as long as the look-up.
    let query = sqlx::query(concat!(
        "SELECT asked.number, who.*, what.*
         FROM STRING_TO_TABLE($1, ',') WITH ORDINALITY AS shown (token, place)
         CROSS JOIN LATERAL (SELECT t.agent AS t_agent, ",
        who_columns!(),
        " FROM agent_tokens t ",
        who_joins!(),
        " WHERE t.token_hash = shown.token OFFSET 0) who
         JOIN ROWS FROM (STRING_TO_TABLE($2, ','), STRING_TO_TABLE($3, ',')) WITH ORDINALITY AS asked (place, wanted, number)
            ON CAST(asked.place AS BIGINT) = shown.place
         CROSS JOIN LATERAL (SELECT ",
        what_columns!(),
        " FROM (SELECT 1) one ",
        what_joins!("who.t_site", "who.t_agent", "asked.wanted"),
        " ORDER BY g.created_at, g.id OFFSET 0) what"
    ));
    let query = query.bind(tokens.join(",")).bind(places.join(",")).bind(connections.join(","));
    Ok(query.fetch_all(line).await?)
}

fn assemble(rows: Vec<Both>) -> Result<Option<Facts>> {
    let mut rows = rows.into_iter();
    let Some(first) = rows.next() else { return Ok(None) };
    let fact = &first.fact;
    let owner = fact.a_owner.clone();
    let person = |id: &Option<String>, disabled: Option<i64>, role: &Option<String>| {
        id.as_ref().map(|text| {
            let role = match role {
                _ if owner.as_ref() == Some(text) => Some(Role::Admin),
                // A role that cannot be read is no role.
                Some(role) => role.parse().ok(),
                None => None,
            };
            Ok::<_, Error>(PersonFacts { id: text.parse()?, gone: disabled.is_some(), role })
        })
    };
    let token = match &fact.t_id {
        None => None,
        Some(id) => Some(TokenFacts {
            id: id.parse()?,
            prefix: fact.t_prefix.clone().unwrap_or_default(),
            label: fact.t_label.clone().unwrap_or_default(),
            expires_at: fact.t_expires.map(Timestamp),
            revoked: fact.t_revoked.is_some(),
            ceiling: fact.t_ceiling.as_deref().map(parsed),
            minter: person(&fact.t_minter, fact.minter_disabled, &fact.minter_role).transpose()?,
            origin: Origin {
                created_at: Timestamp(fact.t_created.unwrap_or_default()),
                client: fact.t_client.as_deref().map(str::parse).transpose()?,
                family: fact.t_family.as_deref().map(str::parse).transpose()?,
                parent: fact.t_parent.as_deref().map(str::parse).transpose()?,
                audience: fact.t_audience.as_deref().map(str::parse).transpose()?,
            },
        }),
    };
    let connection = match first.connection {
        None => None,
        Some(row) => Some(ConnectionFacts { stored: Arc::new(row.read()?), owner_gone: fact.c_owner_disabled.is_some() }),
    };
    let owner_user = connection.as_ref().map(|c| c.stored.connection.owner.clone());
    let mut facts = Facts {
        site: fact.t_site.parse()?,
        site_disabled: fact.s_disabled.is_some(),
        site_ceiling: fact.s_ceiling.as_deref().map(parsed),
        chain_limit: chain_limit(fact.s_chain),
        token,
        agent: AgentFacts {
            id: fact.a_id.parse()?,
            gone: fact.a_disabled.is_some() || fact.a_deleted.is_some(),
            owner: owner.as_deref().map(str::parse).transpose()?,
            owner_gone: fact.a_owner_disabled.is_some(),
            ceiling: fact.a_ceiling.as_deref().map(parsed),
        },
        person: person(&fact.t_person, fact.person_disabled, &fact.person_role).transpose()?,
        session: fact.t_session.as_deref().map(str::parse).transpose()?,
        task: fact.t_task.as_deref().map(str::parse).transpose()?,
        connection,
        grants: Vec::new(),
    };
    for fact in std::iter::once(first.fact).chain(rows.map(|both| both.fact)) {
        if let Some(id) = &fact.g_id {
            let grantor_may = match &fact.g_grantor {
                // The site itself granted it.
                None => true,
                Some(grantor) => {
                    fact.g_grantor_disabled.is_none()
                        && owner_user.as_ref().and_then(|o| o.user()).is_some_and(|user| user.as_str() == grantor)
                }
            };
            facts.grants.push(GrantFacts {
                id: id.parse()?,
                effect: match fact.g_effect.as_deref() {
                    Some("allow") => Effect::Allow,
                    Some("ask") => Effect::Ask,
                    Some(_) | None => Effect::Deny,
                },
                for_whom: fact.g_for_whom.as_deref().map_or(Parsed::Unreadable, parsed),
                session: fact.g_session.as_deref().map(str::parse).transpose()?,
                task: fact.g_task.as_deref().map(str::parse).transpose()?,
                delivery: fact.g_delivery.as_deref().map_or(Parsed::Unreadable, parsed),
                scopes: fact.g_scopes.as_deref().map(parsed),
                operations: fact.g_operations.as_deref().map(parsed),
                rate: fact.g_rate.as_deref().map(|text| text.parse().map_or(Parsed::Unreadable, Parsed::Read)),
                max_uses: fact.g_max_uses,
                uses: fact.g_uses.unwrap_or(i64::MAX),
                expires_at: fact.g_expires.map(Timestamp),
                grantor_may,
            });
        }
    }
    Ok(Some(facts))
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Parsed<T> {
    serde_json::from_str(text).map_or(Parsed::Unreadable, Parsed::Read)
}

/// A stored limit within what a site can set. One that was written by somebody else narrows and never widens.
fn chain_limit(stored: Option<i64>) -> u32 {
    let usual = CallerChain::USUAL_LIMIT;
    stored.map_or(usual, |limit| u32::try_from(limit).unwrap_or(1).clamp(1, CallerChain::HIGHEST_LIMIT))
}
