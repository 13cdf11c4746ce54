//! Sites: the tenants. Everything belongs to exactly one, and nothing crosses.

use serde::Serialize;
use serde_json::json;

use crate::{
    audit::{AUDIT_LABEL, Event},
    base::Base,
    clock::Timestamp,
    db::{Db, is_unique_violation},
    error::{Code, Error, Result},
    id::SiteId,
    on,
    principal::Actor,
    row,
    seal::Place,
};

/// A tenant.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// What people call it.
    pub title: String,
    /// Where a finished connect flow may return to, compared as whole strings.
    pub return_to: Vec<String>,
    /// Whether a link to a person's account works without proof of who opened it (decisions 6).
    pub unproven_links: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

row! {
    struct SiteRow {
        id: String,
        title: String,
        return_to: String,
        unproven_links_at: Option<i64>,
        created_at: i64,
    }
}

impl TryFrom<SiteRow> for Site {
    type Error = Error;

    fn try_from(row: SiteRow) -> Result<Self> {
        Ok(Self {
            id: row.id.parse()?,
            title: row.title,
            return_to: serde_json::from_str(&row.return_to).map_err(Error::internal)?,
            unproven_links: row.unproven_links_at.is_some(),
            created_at: Timestamp(row.created_at),
        })
    }
}

/// Makes a site with its own keys.
pub async fn create(base: &Base, actor: &Actor, id: &SiteId, title: &str) -> Result<Site> {
    let now = base.clock.now();
    let mut tx = base.db.begin().await?;
    let inserted =
        on!(&mut tx, |c| sqlx::query("INSERT INTO sites (id, title, return_to, created_at) VALUES ($1, $2, '[]', $3)")
            .bind(id.as_str())
            .bind(title)
            .bind(now.0)
            .execute(c)
            .await
            .map(|_| ()));
    match inserted {
        Err(e) if is_unique_violation(&e) => {
            return Err(Error::new(Code::Conflict, format!("there is a site `{id}` already")));
        }
        other => other?,
    }
    tx.commit().await?;
    prepare(base, id).await?;
    let mut tx = base.db.begin_bookkeeping().await?;
    base.audit.record(&mut tx, Event::new(id, actor, "site.create")).await?;
    tx.commit().await?;
    require(&base.db, id).await
}

/// Makes the keys that a site needs before anything can be recorded about it. Doing it again changes nothing.
pub async fn prepare(base: &Base, id: &SiteId) -> Result<()> {
    base.ring.derived(&base.db, id, AUDIT_LABEL).await?;
    base.ring.ensure(&base.db, id.as_str(), Place::PLATFORM).await
}

/// One site, if there is one by that id.
pub async fn get(db: &Db, id: &SiteId) -> Result<Option<Site>> {
    let row: Option<SiteRow> =
        on!(db, |c| sqlx::query_as("SELECT id, title, return_to, unproven_links_at, created_at FROM sites WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(c)
            .await?);
    row.map(Site::try_from).transpose()
}

/// One site that must be there.
pub async fn require(db: &Db, id: &SiteId) -> Result<Site> {
    get(db, id)
        .await?
        .ok_or_else(|| Error::new(Code::NotFound, format!("there is no site `{id}`; `valetkey site list` shows those there are")))
}

/// Every site, by id.
pub async fn list(db: &Db) -> Result<Vec<Site>> {
    let rows: Vec<SiteRow> =
        on!(db, |c| sqlx::query_as("SELECT id, title, return_to, unproven_links_at, created_at FROM sites ORDER BY id")
            .fetch_all(c)
            .await?);
    rows.into_iter().map(Site::try_from).collect()
}

/// What may be changed about a site; absent parts stay as they are.
#[derive(Clone, Debug, Default)]
pub struct SiteChange {
    /// What people call it.
    pub title: Option<String>,
    /// The whole new list of places a flow may return to.
    pub return_to: Option<Vec<String>>,
    /// The operator's switch for links without proof.
    pub unproven_links: Option<bool>,
}

/// Changes a site.
pub async fn change(base: &Base, actor: &Actor, id: &SiteId, change: SiteChange) -> Result<Site> {
    for url in change.return_to.iter().flatten() {
        check_return_to(url)?;
    }
    let now = base.clock.now();
    let site = require(&base.db, id).await?;
    let title = change.title.unwrap_or(site.title);
    let return_to = change.return_to.unwrap_or(site.return_to);
    let unproven = change.unproven_links.unwrap_or(site.unproven_links);
    let mut tx = base.db.begin().await?;
    on!(&mut tx, |c| sqlx::query("UPDATE sites SET title = $2, return_to = $3, unproven_links_at = $4 WHERE id = $1")
        .bind(id.as_str())
        .bind(&title)
        .bind(json!(return_to).to_string())
        .bind(unproven.then_some(now.0))
        .execute(c)
        .await
        .map(|_| ())?);
    let event = Event::new(id, actor, "site.change").facts(json!({ "return_to": return_to, "unproven_links": unproven }));
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    require(&base.db, id).await
}

fn check_return_to(text: &str) -> Result<()> {
    let fine = url::Url::parse(text).is_ok_and(|url| {
        let loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        (url.scheme() == "https" || (url.scheme() == "http" && loopback)) && url.fragment().is_none() && url.username().is_empty()
    });
    if fine {
        Ok(())
    } else {
        Err(Error::new(Code::InvalidRequest, "return_to: a full https URL without fragment or user (http only on loopback)"))
    }
}
