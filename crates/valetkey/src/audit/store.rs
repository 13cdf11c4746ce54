//! The audit's rows and how they are linked.

use std::sync::LazyLock;

use aws_lc_rs::hmac;

use crate::{
    clock::Timestamp,
    db::{Db, Tx},
    error::Result,
    id::{EventId, SiteId},
    on, row,
};

row! {
    /// One event as it is stored.
    #[derive(Clone, Debug)]
    pub struct Row {
        /// The site.
        pub site: String,
        /// The chain's writer.
        pub writer: String,
        /// The place in the chain, from 1.
        pub seq: i64,
        /// The event's id.
        pub id: String,
        /// When, in microseconds.
        pub at: i64,
        /// Who.
        pub actor: String,
        /// What, as `noun.verb`.
        pub action: String,
        /// `ok`, `denied` or `failed`.
        pub outcome: String,
        /// The agent concerned.
        pub agent: Option<String>,
        /// The connection concerned.
        pub connection: Option<String>,
        /// Further facts: a JSON object.
        pub facts: String,
        /// HMAC-SHA-256 over the link before and this row.
        pub chain: Vec<u8>,
    }
}

impl Row {
    /// Its link, as it is shown and as heads hold it.
    pub fn chain_hex(&self) -> String {
        hex::encode(&self.chain)
    }

    /// The keyed link of this row to the one before: every field with its length in front, so that nothing can
    /// move from one field to the next.
    pub fn link(&self, key: &hmac::Key, before: &[u8]) -> Vec<u8> {
        // Put together first: every row has some thirty pieces, and each would be a call into the cryptography.
        let mut message = Vec::with_capacity(1024);
        let mut add = |bytes: &[u8]| {
            message.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            message.extend_from_slice(bytes);
        };
        add(before);
        add(self.site.as_bytes());
        add(self.writer.as_bytes());
        add(&self.seq.to_be_bytes());
        add(self.id.as_bytes());
        add(&self.at.to_be_bytes());
        for text in [&self.actor, &self.action, &self.outcome] {
            add(text.as_bytes());
        }
        for text in [&self.agent, &self.connection] {
            add(&[u8::from(text.is_some())]);
            add(text.as_deref().unwrap_or_default().as_bytes());
        }
        add(self.facts.as_bytes());
        hmac::sign(key, &message).as_ref().to_vec()
    }
}

/// How many rows a statement inserts: the largest of these that there are rows for. So few that each statement stays prepared, and
/// no more than fit: SQLite takes 32,766 parameters, PostgreSQL 65,535.
const SIZES: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

/// How many columns a row has.
const COLUMNS: usize = 12;

/// The statements, one for each of [`SIZES`].
static NUMBERED: LazyLock<[String; SIZES.len()]> =
    LazyLock::new(|| SIZES.map(|rows| insertion(rows, |place| format!("${place}"))));

/// The same for SQLite, where no place has a name. To bind a parameter sqlx asks what it is called, and SQLite walks a list of all
/// names to find that one: of 768 names that took as long as writing the rows.
static NAMELESS: LazyLock<[String; SIZES.len()]> = LazyLock::new(|| SIZES.map(|rows| insertion(rows, |_| "?".to_owned())));

/// The statement that inserts so many rows; `place` is how the parameter of a number, from 1, is written.
fn insertion(rows: usize, place: impl Fn(usize) -> String) -> String {
    let row = |row: usize| {
        let places: Vec<String> = (1..=COLUMNS).map(|column| place(row * COLUMNS + column)).collect();
        format!("({})", places.join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!(
        "INSERT INTO audit (site, writer, seq, id, at, actor, action, outcome, agent, connection, facts, chain) VALUES {}",
        rows.join(", ")
    )
}

/// Inserts rows, as few statements as may be.
pub(super) async fn insert(tx: &mut Tx, rows: Vec<Row>) -> Result<()> {
    let texts = if tx.db().is_sqlite() { &*NAMELESS } else { &*NUMBERED };
    let mut rows = rows.into_iter();
    for (&size, text) in SIZES.iter().zip(texts) {
        while rows.len() >= size {
            on!(&mut *tx, |c| {
                let mut query = sqlx::query(text.as_str());
                for row in rows.by_ref().take(size) {
                    // Given away, so that nothing is copied once more.
                    query = query
                        .bind(row.site)
                        .bind(row.writer)
                        .bind(row.seq)
                        .bind(row.id)
                        .bind(row.at)
                        .bind(row.actor)
                        .bind(row.action)
                        .bind(row.outcome)
                        .bind(row.agent)
                        .bind(row.connection)
                        .bind(row.facts)
                        .bind(row.chain);
                }
                query.execute(c).await.map(|_| ())?
            });
        }
    }
    Ok(())
}

row! {
    /// The last row of a chain.
    pub(super) struct Tip {
        pub(super) writer: String,
        pub(super) seq: i64,
        pub(super) chain: Vec<u8>,
    }
}

/// Where each chain of a site stands, by writer.
///
/// It steps from writer to writer along the primary key and reads one row of each, however long the chains are.
pub(super) async fn tips(db: &Db, site: &SiteId) -> Result<Vec<Tip>> {
    Ok(on!(db, |c| sqlx::query_as(
        "WITH RECURSIVE writers (writer) AS (
             SELECT MIN(writer) FROM audit WHERE site = $1
             UNION ALL
             SELECT (SELECT MIN(a.writer) FROM audit a WHERE a.site = $1 AND a.writer > w.writer)
             FROM writers w WHERE w.writer IS NOT NULL
         )
         SELECT a.writer, a.seq, a.chain
         FROM writers w JOIN audit a ON a.site = $1 AND a.writer = w.writer
            AND a.seq = (SELECT MAX(b.seq) FROM audit b WHERE b.site = $1 AND b.writer = w.writer)
         ORDER BY a.writer"
    )
    .bind(site.as_str())
    .fetch_all(c)
    .await?))
}

/// The rows of a chain after the place `after` up to the place `to`, in order; at most `limit`.
pub(super) async fn between(db: &Db, site: &SiteId, writer: &str, after: i64, to: i64, limit: usize) -> Result<Vec<Row>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, writer, seq, id, at, actor, action, outcome, agent, connection, facts, chain
         FROM audit WHERE site = $1 AND writer = $2 AND seq > $3 AND seq <= $4 ORDER BY seq LIMIT $5"
    )
    .bind(site.as_str())
    .bind(writer)
    .bind(after)
    .bind(to)
    .bind(limit)
    .fetch_all(c)
    .await?))
}

/// The most events in one listing.
const MOST_LISTED: i64 = 1_000;

/// The newest events of a site, newest first, older than `before` where one is given; at most `limit`, which counts as
/// 1 when it is less and as 1,000 when it is more.
pub async fn list(db: &Db, site: &SiteId, before: Option<Timestamp>, limit: i64) -> Result<Vec<Row>> {
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT site, writer, seq, id, at, actor, action, outcome, agent, connection, facts, chain
         FROM audit WHERE site = $1 AND at < $2 ORDER BY at DESC, id DESC LIMIT $3"
    )
    .bind(site.as_str())
    .bind(before.map_or(i64::MAX, |t| t.0))
    // What is less than zero means "all" to SQLite and is an error to PostgreSQL.
    .bind(limit.clamp(1, MOST_LISTED))
    .fetch_all(c)
    .await?))
}

/// The newest events of a site, newest first; at most `limit`, older than the event `before` where one is given.
pub async fn page(db: &Db, site: &SiteId, before: Option<&EventId>, limit: i64) -> Result<Vec<Row>> {
    let Some(before) = before else { return list(db, site, None, limit).await };
    Ok(on!(db, |c| sqlx::query_as(
        "SELECT a.site, a.writer, a.seq, a.id, a.at, a.actor, a.action, a.outcome, a.agent, a.connection, a.facts, a.chain
         FROM audit a JOIN (SELECT at, id FROM audit WHERE site = $1 AND id = $2) b
            ON a.at < b.at OR (a.at = b.at AND a.id < b.id)
         WHERE a.site = $1 ORDER BY a.at DESC, a.id DESC LIMIT $3"
    )
    .bind(site.as_str())
    .bind(before.as_str())
    .bind(limit)
    .fetch_all(c)
    .await?))
}
