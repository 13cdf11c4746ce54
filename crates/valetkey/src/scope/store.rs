//! The rows of scope policies.

use super::{Change, Setting};
use crate::{
    clock::Timestamp,
    context::{Kind, Policy},
    db::{Db, Tx},
    error::{Error, Result},
    id::{ProviderName, SiteId},
    on, row,
};

row! {
    struct PolicyRow {
        policy: String,
        fallback_at: Option<i64>,
    }
}

pub(super) async fn get(db: &Db, site: &SiteId, provider: &ProviderName, kind: Kind) -> Result<Option<Setting>> {
    let row: Option<PolicyRow> = on!(db, |c| sqlx::query_as(
        "SELECT policy, fallback_at FROM scope_policies WHERE site = $1 AND provider = $2 AND kind = $3"
    )
    .bind(site.as_str())
    .bind(provider.as_str())
    .bind(kind.as_str())
    .fetch_optional(c)
    .await?);
    let Some(row) = row else { return Ok(None) };
    // A word that is none must not be taken for the site.
    let policy: Policy = row.policy.parse().map_err(|_| Error::internal("a stored scope policy cannot be read"))?;
    Ok(Some(Setting { policy, fallback: row.fallback_at.is_some() }))
}

pub(super) async fn set(
    tx: &mut Tx,
    site: &SiteId,
    provider: &ProviderName,
    kind: Kind,
    change: Change,
    now: Timestamp,
) -> Result<()> {
    let written = on!(tx, |c| sqlx::query(
        "INSERT INTO scope_policies (site, provider, kind, policy, fallback_at, updated_at)
         VALUES ($1, $2, $3, COALESCE($4, 'site'), CASE WHEN $5 = 1 THEN $6 END, $6)
         ON CONFLICT (site, provider, kind) DO UPDATE SET policy = COALESCE($4, scope_policies.policy),
            fallback_at = CASE WHEN $5 = 1 THEN COALESCE(scope_policies.fallback_at, $6) WHEN $5 = 0 THEN NULL
                               ELSE scope_policies.fallback_at END,
            updated_at = $6"
    )
    .bind(site.as_str())
    .bind(provider.as_str())
    .bind(kind.as_str())
    .bind(change.policy.map(Policy::as_str))
    .bind(change.fallback.map(i64::from))
    .bind(now.0)
    .execute(c)
    .await?
    .rows_affected());
    if written == 1 { Ok(()) } else { Err(Error::internal("a scope policy was not written")) }
}
