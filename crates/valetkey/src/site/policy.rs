//! A site's policy: what nobody there may exceed, whatever their agent, token and grants say.

use serde::Serialize;
use serde_json::json;

use super::not_there;
use crate::{
    audit::Event,
    base::Base,
    db::Db,
    error::{Code, Error, Result},
    id::SiteId,
    on,
    principal::{Actor, CallerChain, Ceiling},
};

/// What nobody at a site may exceed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// What narrows everything; absent for none.
    pub ceiling: Option<Ceiling>,
    /// At which depth a chain of agents is exhausted, 1 to 10; absent for [`CallerChain::USUAL_LIMIT`].
    pub chain_limit: Option<u32>,
}

/// The policy of a site that must be there.
///
/// # Errors
/// `not_found`; `internal` where its ceiling cannot be read, and so everything is denied.
pub async fn policy(db: &Db, id: &SiteId) -> Result<Policy> {
    let row: Option<(Option<String>, Option<i64>)> =
        on!(db, |c| sqlx::query_as("SELECT ceiling, chain_limit FROM sites WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(c)
            .await?);
    let (ceiling, chain_limit) = row.ok_or_else(|| not_there(id))?;
    Ok(Policy {
        ceiling: Ceiling::from_column(ceiling.as_deref())?,
        chain_limit: chain_limit.and_then(|limit| u32::try_from(limit).ok()),
    })
}

/// Sets the whole policy of a site. It holds from the next request on, for everybody there.
///
/// # Errors
/// `not_found`; `invalid_request` for a limit that is none, and for lists without an end.
pub async fn set_policy(base: &Base, actor: &Actor, id: &SiteId, policy: &Policy) -> Result<()> {
    let highest = CallerChain::HIGHEST_LIMIT;
    if policy.chain_limit.is_some_and(|limit| !(1..=highest).contains(&limit)) {
        return Err(Error::new(Code::InvalidRequest, format!("chain_limit: it is 1 to {highest}")));
    }
    let column = Ceiling::to_column(policy.ceiling.as_ref())?;
    let mut tx = base.db.begin().await?;
    let changed = on!(&mut tx, |c| sqlx::query("UPDATE sites SET ceiling = $2, chain_limit = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(&column)
        .bind(policy.chain_limit.map(i64::from))
        .execute(c)
        .await?
        .rows_affected());
    if changed != 1 {
        return Err(not_there(id));
    }
    base.audit.record(&mut tx, Event::new(id, actor, "site.policy").facts(json!(policy))).await?;
    tx.commit().await
}
