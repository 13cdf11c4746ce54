//! Sites: the tenants. Everything belongs to exactly one, and nothing crosses.

mod policy;

pub use policy::{Policy, policy, set_policy};

use serde::Serialize;
use serde_json::json;
use url::Url;

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
    text,
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
    /// The platform's page that signs people in; nobody can sign in where there is none.
    pub signin_url: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when nobody may do anything there but the operator.
    pub disabled_at: Option<Timestamp>,
}

row! {
    struct SiteRow {
        id: String,
        title: String,
        return_to: String,
        unproven_links_at: Option<i64>,
        signin_url: Option<String>,
        created_at: i64,
        disabled_at: Option<i64>,
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
            signin_url: row.signin_url,
            created_at: Timestamp(row.created_at),
            disabled_at: row.disabled_at.map(Timestamp),
        })
    }
}

/// Makes a site with its own keys and the event that says so, in one transaction: no crash leaves a site that nothing can be
/// recorded for, nor one whose making is not recorded.
pub async fn create(base: &Base, actor: &Actor, id: &SiteId, title: &str) -> Result<Site> {
    text::check("title", title, text::LABEL)?;
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
    let key = base.ring.found(&mut tx, id, &[Place::PLATFORM], AUDIT_LABEL).await?;
    base.audit.record_founding(&mut tx, Event::new(id, actor, "site.create"), &key).await?;
    tx.commit().await?;
    // Read back from the committed rows, before anything is sealed for the site.
    prepare(base, id).await?;
    require(&base.db, id).await
}

/// Makes the keys that a site needs before anything can be recorded about it. Doing it again changes nothing.
pub async fn prepare(base: &Base, id: &SiteId) -> Result<()> {
    base.ring.derived(&base.db, id, AUDIT_LABEL).await?;
    base.ring.ensure(&base.db, id.as_str(), Place::PLATFORM).await
}

/// One site, if there is one by that id.
pub async fn get(db: &Db, id: &SiteId) -> Result<Option<Site>> {
    let row: Option<SiteRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, title, return_to, unproven_links_at, signin_url, created_at, disabled_at FROM sites WHERE id = $1"
    )
    .bind(id.as_str())
    .fetch_optional(c)
    .await?);
    row.map(Site::try_from).transpose()
}

/// One site that must be there.
pub async fn require(db: &Db, id: &SiteId) -> Result<Site> {
    get(db, id).await?.ok_or_else(|| not_there(id))
}

/// Whether a site is disabled: then nobody may do anything there. One that is not there is not.
pub async fn is_disabled(db: &Db, id: &SiteId) -> Result<bool> {
    let row: Option<(String,)> = on!(db, |c| sqlx::query_as("SELECT id FROM sites WHERE id = $1 AND disabled_at IS NOT NULL")
        .bind(id.as_str())
        .fetch_optional(c)
        .await?);
    Ok(row.is_some())
}

fn not_there(id: &SiteId) -> Error {
    Error::new(Code::NotFound, format!("there is no site `{id}`; `valetkey site list` shows those there are"))
}

/// Every site, by id.
pub async fn list(db: &Db) -> Result<Vec<Site>> {
    let rows: Vec<SiteRow> = on!(db, |c| sqlx::query_as(
        "SELECT id, title, return_to, unproven_links_at, signin_url, created_at, disabled_at FROM sites ORDER BY id"
    )
    .fetch_all(c)
    .await?);
    rows.into_iter().map(Site::try_from).collect()
}

/// Where somebody signs in of whom nothing is known: at the site that is named, else at the only one where people sign in.
/// Absent where there is no such page, or more than one and nobody said which: tenants are not listed to strangers.
pub async fn signin_url(db: &Db, named: Option<&SiteId>) -> Result<Option<Url>> {
    let rows: Vec<(String,)> = on!(db, |c| sqlx::query_as(
        "SELECT signin_url FROM sites
         WHERE signin_url IS NOT NULL AND disabled_at IS NULL AND ($1 = '' OR id = $1) LIMIT 2"
    )
    .bind(named.map_or("", SiteId::as_str))
    .fetch_all(c)
    .await?);
    match rows.as_slice() {
        [(url,)] => Url::parse(url).map(Some).map_err(Error::internal),
        _ => Ok(None),
    }
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
    /// The platform's page that signs people in; empty takes it away.
    pub signin_url: Option<String>,
}

/// Changes a site.
pub async fn change(base: &Base, actor: &Actor, id: &SiteId, change: SiteChange) -> Result<Site> {
    if let Some(title) = &change.title {
        text::check("title", title, text::LABEL)?;
    }
    text::check_list("return_to", change.return_to.as_ref().map_or(0, Vec::len), MOST_RETURN_TO)?;
    for url in change.return_to.iter().flatten() {
        check_url("return_to", url)?;
    }
    if let Some(url) = change.signin_url.as_deref().filter(|url| !url.is_empty()) {
        check_url("signin_url", url)?;
    }
    let mut tx = base.db.begin().await?;
    // Only what is given is written: a rename must not bring back a switch that somebody turns off meanwhile.
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE sites SET title = COALESCE($2, title), return_to = COALESCE($3, return_to),
            unproven_links_at = CASE WHEN $4 = 1 THEN COALESCE(unproven_links_at, $5) WHEN $4 = 0 THEN NULL
                                     ELSE unproven_links_at END,
            signin_url = CASE WHEN $6 IS NULL THEN signin_url WHEN $6 = '' THEN NULL ELSE $6 END
         WHERE id = $1"
    )
    .bind(id.as_str())
    .bind(&change.title)
    .bind(change.return_to.as_ref().map(|urls| json!(urls).to_string()))
    .bind(change.unproven_links.map(i64::from))
    .bind(base.clock.now().0)
    .bind(&change.signin_url)
    .execute(c)
    .await?
    .rows_affected());
    if changed != 1 {
        return Err(not_there(id));
    }
    let facts = json!({
        "title": change.title, "return_to": change.return_to, "unproven_links": change.unproven_links,
        "signin_url": change.signin_url,
    });
    let event = Event::new(id, actor, "site.change").facts(facts);
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    require(&base.db, id).await
}

/// Disables a site, or lets it go on. From when this returns, its agents' tokens and its platform's keys are refused on every
/// replica, nothing is connected to it, and the keeper renews nothing of it; what is owed to providers is still revoked there.
/// Nothing is lost: a site that is enabled again goes on with what it had. Doing it again changes nothing.
///
/// # Errors
/// `not_found`.
pub async fn set_disabled(base: &Base, actor: &Actor, id: &SiteId, disabled: bool) -> Result<Site> {
    let mut tx = base.db.begin().await?;
    let changed = on!(&mut tx, |c| sqlx::query(
        "UPDATE sites SET disabled_at = CASE WHEN $3 = 1 THEN $2 ELSE NULL END
         WHERE id = $1 AND CASE WHEN disabled_at IS NULL THEN 0 ELSE 1 END <> $3"
    )
    .bind(id.as_str())
    .bind(base.clock.now().0)
    .bind(i64::from(disabled))
    .execute(c)
    .await?
    .rows_affected());
    if changed == 1 {
        let action = if disabled { "site.disable" } else { "site.enable" };
        base.audit.record(&mut tx, Event::new(id, actor, action)).await?;
        tx.commit().await?;
    }
    require(&base.db, id).await
}

/// The most places a site's flows may return to.
const MOST_RETURN_TO: usize = 100;

fn check_url(what: &str, text: &str) -> Result<()> {
    // A parser drops line breaks and tabs; the text is what is compared and sent.
    let plain = text.len() <= 2_000 && text.bytes().all(|byte| byte.is_ascii_graphic());
    let fine = plain
        && Url::parse(text).is_ok_and(|url| {
            let loopback = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
            (url.scheme() == "https" || (url.scheme() == "http" && loopback))
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
    if fine {
        Ok(())
    } else {
        let why = format!("{what}: a full https URL without fragment or user (http only on loopback)");
        Err(Error::new(Code::InvalidRequest, why))
    }
}
