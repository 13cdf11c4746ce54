//! Sites.

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use valetkey::{Code, Error, id::SiteId, principal::Ceiling, site};

use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path},
    state::AppState,
};

/// A tenant.
#[derive(Serialize, ToSchema)]
pub(crate) struct Site {
    /// Its id.
    #[schema(value_type = String)]
    id: SiteId,
    /// What people call it.
    title: String,
    /// Where a finished connect flow may return to, compared as whole strings.
    return_to: Vec<String>,
    /// Whether a link to a person's account works without proof of who opened it.
    unproven_links: bool,
    /// The platform's page that signs people in; absent where nobody can sign in.
    signin_url: Option<String>,
    /// Since when.
    created_at: String,
    /// Since when it is disabled: its tokens and keys are refused, and nothing of it is renewed.
    disabled_at: Option<String>,
}

impl From<site::Site> for Site {
    fn from(site: site::Site) -> Self {
        Self {
            id: site.id,
            title: site.title,
            return_to: site.return_to,
            unproven_links: site.unproven_links,
            signin_url: site.signin_url,
            created_at: site.created_at.to_string(),
            disabled_at: site.disabled_at.map(|at| at.to_string()),
        }
    }
}

/// A list of sites.
#[derive(Serialize, ToSchema)]
pub(crate) struct Sites {
    /// The sites, by id.
    sites: Vec<Site>,
}

/// Lists every site.
#[utoipa::path(get, path = "/v1/sites", tag = "sites", responses((status = 200, body = Sites)))]
pub(crate) async fn list(State(state): State<AppState>) -> Answer<Json<Sites>> {
    let sites = site::list(&state.base().db).await?;
    Ok(Json(Sites { sites: sites.into_iter().map(Site::from).collect() }))
}

/// A new site.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSite {
    /// Its id.
    #[schema(value_type = String)]
    id: SiteId,
    /// What people call it; its id when absent.
    title: Option<String>,
}

/// Makes a site with its own keys.
#[utoipa::path(post, path = "/v1/sites", tag = "sites", request_body = NewSite, responses((status = 201, body = Site)))]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(new): Body<NewSite>,
) -> Answer<(StatusCode, Json<Site>)> {
    let title = new.title.unwrap_or_else(|| new.id.to_string());
    let site = site::create(state.base(), &caller.actor()?, &new.id, &title).await?;
    Ok((StatusCode::CREATED, Json(site.into())))
}

/// One site; a platform sees its own only.
#[utoipa::path(get, path = "/v1/sites/{id}", tag = "sites", params(("id" = String, Path)), responses((status = 200, body = Site)))]
pub(crate) async fn show(State(state): State<AppState>, caller: Caller, Path(id): Path<SiteId>) -> Answer<Json<Site>> {
    own(&caller, &id)?;
    Ok(Json(site::require(&state.base().db, &id).await?.into()))
}

/// What changes about a site; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteChange {
    /// What people call it. The operator only.
    title: Option<String>,
    /// The whole new list of places a flow may return to.
    return_to: Option<Vec<String>>,
    /// Whether links work without proof of who opened them. The operator only.
    unproven_links: Option<bool>,
    /// Whether the site is disabled: its tokens and keys are refused at once, nothing is connected to it, and nothing of it is
    /// renewed. Nothing is lost by it. The operator only, and with no other change.
    disabled: Option<bool>,
    /// The platform's page that signs people in; an empty text takes it away. The operator only.
    signin_url: Option<String>,
}

/// Changes a site.
#[utoipa::path(patch, path = "/v1/sites/{id}", tag = "sites", params(("id" = String, Path)), request_body = SiteChange,
    responses((status = 200, body = Site)))]
pub(crate) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SiteId>,
    Body(change): Body<SiteChange>,
) -> Answer<Json<Site>> {
    own(&caller, &id)?;
    let others = change.title.is_some() || change.unproven_links.is_some() || change.signin_url.is_some();
    if matches!(caller, Caller::Platform { .. }) && (others || change.disabled.is_some()) {
        return Err(Error::new(Code::Forbidden, "a platform changes return_to only; the rest is the operator's").into());
    }
    if let Some(disabled) = change.disabled {
        if others || change.return_to.is_some() {
            return Err(
                Error::new(Code::InvalidRequest, "disabled is changed alone: send the rest in a request of its own").into()
            );
        }
        return Ok(Json(site::set_disabled(state.base(), &caller.actor()?, &id, disabled).await?.into()));
    }
    let SiteChange { title, return_to, unproven_links, signin_url, disabled: _ } = change;
    let change = site::SiteChange { title, return_to, unproven_links, signin_url };
    Ok(Json(site::change(state.base(), &caller.actor()?, &id, change).await?.into()))
}

/// What nobody at a site may exceed.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SitePolicy {
    /// The most that any agent there may do, whatever is granted; each part that is present narrows: `delivery`, `connections`,
    /// `providers`, `operations`. Absent or empty for no ceiling.
    #[schema(value_type = Option<Object>)]
    ceiling: Option<Ceiling>,
    /// At which depth a chain of agents is exhausted: 1 to 10; absent for 3.
    chain_limit: Option<u32>,
}

impl From<site::Policy> for SitePolicy {
    fn from(policy: site::Policy) -> Self {
        Self { ceiling: policy.ceiling, chain_limit: policy.chain_limit }
    }
}

/// What nobody at a site may exceed; a platform sees its own site's only.
#[utoipa::path(get, path = "/v1/sites/{id}/policy", tag = "sites", params(("id" = String, Path)),
    responses((status = 200, body = SitePolicy)))]
pub(crate) async fn policy(State(state): State<AppState>, caller: Caller, Path(id): Path<SiteId>) -> Answer<Json<SitePolicy>> {
    own(&caller, &id)?;
    Ok(Json(site::policy(&state.base().db, &id).await?.into()))
}

/// Sets the whole policy of a site. It holds from the next request on.
#[utoipa::path(put, path = "/v1/sites/{id}/policy", tag = "sites", params(("id" = String, Path)), request_body = SitePolicy,
    responses((status = 200, body = SitePolicy)))]
pub(crate) async fn set_policy(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<SiteId>,
    Body(new): Body<SitePolicy>,
) -> Answer<Json<SitePolicy>> {
    let policy = site::Policy { ceiling: new.ceiling, chain_limit: new.chain_limit };
    site::set_policy(state.base(), &caller.actor()?, &id, &policy).await?;
    Ok(Json(site::policy(&state.base().db, &id).await?.into()))
}

/// A platform may know of no site but its own.
fn own(caller: &Caller, id: &SiteId) -> Answer<()> {
    match caller {
        Caller::Platform { key, .. } if key.site != *id => {
            Err(Error::new(Code::NotFound, format!("there is no site `{id}`")).into())
        }
        _ => Ok(()),
    }
}
