//! Whose account and whose app configuration apply where a call leaves that to the provider.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey::{
    Result, account,
    context::{Kind, Policy},
    id::ProviderName,
    scope::{self, Change, Setting},
};

use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path},
    state::AppState,
};

/// What is set for one kind of credential.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScopePolicy {
    /// Whose applies: `site`, `user`, `agent` or `principal`.
    policy: String,
    /// Whether the site's stands in where the one chosen has none.
    fallback: bool,
}

impl From<Setting> for ScopePolicy {
    fn from(setting: Setting) -> Self {
        Self { policy: setting.policy.to_string(), fallback: setting.fallback }
    }
}

/// What is set for a provider.
#[derive(Serialize, ToSchema)]
pub(crate) struct ScopePolicies {
    /// For accounts.
    account: ScopePolicy,
    /// For app configurations.
    config: ScopePolicy,
}

/// What to change for one kind of credential; absent parts stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScopePolicyChange {
    /// Whose applies: `site`, `user`, `agent` or `principal`.
    policy: Option<String>,
    /// Whether the site's stands in where the one chosen has none. Whoever has none uses the site's then.
    fallback: Option<bool>,
}

impl ScopePolicyChange {
    fn read(&self) -> Result<Change> {
        let policy = self.policy.as_deref().map(str::parse::<Policy>).transpose()?;
        Ok(Change { policy, fallback: self.fallback })
    }
}

/// What to change for a provider; absent parts stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScopePoliciesChange {
    /// For accounts.
    account: Option<ScopePolicyChange>,
    /// For app configurations.
    config: Option<ScopePolicyChange>,
}

/// Whose account and configuration apply at a provider where a call leaves that open.
#[utoipa::path(get, path = "/v1/providers/{provider}/scope-policies", tag = "providers", params(("provider" = String, Path)),
    responses((status = 200, body = ScopePolicies)))]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(provider): Path<ProviderName>,
) -> Answer<Json<ScopePolicies>> {
    Ok(Json(policies(&state, &caller, &provider).await?))
}

/// Changes whose account and configuration apply at a provider where a call leaves that open.
#[utoipa::path(patch, path = "/v1/providers/{provider}/scope-policies", tag = "providers", params(("provider" = String, Path)),
    request_body = ScopePoliciesChange, responses((status = 200, body = ScopePolicies)))]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(provider): Path<ProviderName>,
    Body(change): Body<ScopePoliciesChange>,
) -> Answer<Json<ScopePolicies>> {
    account::known(state.outside(), caller.site()?, &provider).await?;
    let (site, actor) = (caller.site()?, caller.actor()?);
    // Both are read before either is written.
    let mut changes = Vec::new();
    for (kind, change) in [(Kind::Account, change.account), (Kind::Config, change.config)] {
        if let Some(change) = change {
            changes.push((kind, change.read()?));
        }
    }
    let mut tx = state.base().db.begin().await?;
    for (kind, change) in changes {
        scope::set_in(state.base(), &mut tx, site, &actor, &provider, kind, change).await?;
    }
    tx.commit().await?;
    Ok(Json(policies(&state, &caller, &provider).await?))
}

async fn policies(state: &AppState, caller: &Caller, provider: &ProviderName) -> Result<ScopePolicies> {
    account::known(state.outside(), caller.site()?, provider).await?;
    let (db, site) = (&state.base().db, caller.site()?);
    Ok(ScopePolicies {
        account: scope::setting(db, site, provider, Kind::Account).await?.into(),
        config: scope::setting(db, site, provider, Kind::Config).await?.into(),
    })
}
