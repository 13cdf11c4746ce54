//! Connections.

use std::{collections::BTreeMap, time::Duration};

use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use valetkey::{
    Code, Error,
    connect::again,
    connection::{self, Filter, Status, UpstreamWish, accounts, hosts},
    id::{ConnectionId, ProviderName},
    principal::Owner,
    resource, revoke,
    secret::Secret,
};

use super::{accounts::precondition, connect_sessions::MadeConnectSession, limited, maybe, moment, next};
use crate::{
    caller::Caller,
    error::Answer,
    extract::{Body, Json, Path, Query},
    state::AppState,
};

/// The longest that an ending waits for the provider, in seconds: less than proxies in front of us wait for an answer.
const LONGEST_WAIT: u64 = 30;
/// What no revocation takes back.
const NOTICE: &str = "a secret that was revealed before lives until it ends at the provider";

/// A connected account. No secret is among this.
#[derive(Serialize, ToSchema)]
pub(crate) struct Connection {
    /// Its id.
    pub(super) id: String,
    /// Whose it is: `site`, `user:<id>` or `agent:<id>`.
    pub(super) owner: String,
    /// At which provider.
    pub(super) provider: String,
    /// Which of the owner's accounts there.
    pub(super) name: String,
    /// `active`, `expiring`, `expired`, `needs_reauth` or `revoked`.
    pub(super) status: String,
    /// Why it must be connected again, as a stable word.
    pub(super) reason: Option<String>,
    /// Whether it can serve now, or after a refresh.
    pub(super) authenticated: bool,
    /// The version of its tokens.
    pub(super) version: i64,
    /// The upstream subject.
    pub(super) subject: Option<String>,
    /// What upstream calls the subject.
    pub(super) subject_name: Option<String>,
    /// How sure we are of the subject: `verified`, `unverified`, `owner`.
    pub(super) identity: String,
    /// The client id that minted its tokens.
    pub(super) client_id: Option<String>,
    /// The scopes granted; absent while unknown.
    pub(super) scopes: Option<Vec<String>>,
    /// The scopes asked for.
    pub(super) wanted_scopes: Vec<String>,
    /// The scopes asked for and not granted; empty while it is not known which were.
    pub(super) missing_scopes: Vec<String>,
    /// What is chosen from the provider's lists (pages, properties), by list.
    pub(super) resources: BTreeMap<String, Vec<Chosen>>,
    /// When it ends of age unless it is connected again; told once a warning was given.
    pub(super) ends_at: Option<String>,
    /// The hosts its credential may go to.
    pub(super) hosts: Vec<String>,
    /// How it is renewed: `none`, `refresh_token`, `extend`, `remint`.
    pub(super) renewal: String,
    /// When the access token ends; absent while unknown.
    pub(super) expires_at: Option<String>,
    /// When the refresh token ends; absent while unknown.
    pub(super) refresh_expires_at: Option<String>,
    /// When it was last refreshed.
    pub(super) last_refreshed_at: Option<String>,
    /// Failed refreshes in a row.
    pub(super) failures: i64,
    /// Not to be refreshed before.
    pub(super) retry_at: Option<String>,
    /// The stable word of the last failed refresh.
    pub(super) last_error: Option<String>,
    /// Since when.
    pub(super) connected_at: String,
    /// When anything about it last changed.
    pub(super) updated_at: String,
    /// Since when it is revoked.
    pub(super) revoked_at: Option<String>,
}

impl Connection {
    pub(super) fn new(state: &AppState, connection: connection::Connection) -> Self {
        let now = state.base().clock.now();
        let definition = state.outside().catalogue.get(&connection.provider).map(AsRef::as_ref);
        let (reason, revoked_at) = match &connection.status {
            Status::Active => (None, None),
            Status::NeedsReauth { reason } => (Some(reason.clone()), None),
            Status::Revoked { at } => (None, Some(moment(*at))),
        };
        Self {
            status: connection.display_status(now).to_owned(),
            authenticated: connection.is_authenticated(now),
            missing_scopes: connection.missing_scopes(definition).into_iter().cloned().collect(),
            resources: chosen(&connection),
            ends_at: maybe(connection.ends_at()),
            reason,
            revoked_at,
            id: connection.id.to_string(),
            owner: connection.owner.to_string(),
            provider: connection.provider.to_string(),
            name: connection.name.to_string(),
            version: connection.version,
            subject: connection.subject,
            subject_name: connection.subject_name,
            identity: connection.identity.as_str().to_owned(),
            client_id: connection.client_id,
            scopes: connection.scopes,
            wanted_scopes: connection.wanted_scopes,
            hosts: connection.hosts,
            renewal: connection.renewal.as_str().to_owned(),
            expires_at: maybe(connection.expires_at),
            refresh_expires_at: maybe(connection.refresh_expires_at),
            last_refreshed_at: maybe(connection.last_refreshed_at),
            failures: connection.failures,
            retry_at: maybe(connection.retry_at),
            last_error: connection.last_error,
            connected_at: moment(connection.connected_at),
            updated_at: moment(connection.updated_at),
        }
    }
}

/// An entry of a provider's list that is chosen.
#[derive(Serialize, ToSchema)]
pub(crate) struct Chosen {
    /// Its id at the provider.
    id: String,
    /// What the provider calls it.
    label: String,
}

/// What is chosen for a connection, by list.
pub(super) fn chosen(connection: &connection::Connection) -> BTreeMap<String, Vec<Chosen>> {
    let entry = |one: &connection::Chosen| Chosen { id: one.id.clone(), label: one.label.clone() };
    connection.resources.iter().map(|(name, list)| (name.clone(), list.iter().map(entry).collect())).collect()
}

/// Which connections.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only at this provider.
    #[param(value_type = Option<String>)]
    provider: Option<ProviderName>,
    /// Only this owner's: `site`, `user:<id>` or `agent:<id>`.
    #[param(value_type = Option<String>)]
    owner: Option<Owner>,
    /// The revoked ones, too.
    #[serde(default)]
    revoked: bool,
    /// Only those that came after this one: the `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<ConnectionId>,
    /// How many at most, up to 1000.
    limit: Option<u32>,
}

/// A page of connections.
#[derive(Serialize, ToSchema)]
pub(crate) struct Connections {
    /// The connections, the oldest first.
    connections: Vec<Connection>,
    /// Where the next page begins; absent on the last.
    next: Option<String>,
}

/// Lists connections. A platform sees the site's, the agents' and those of the people it may speak for.
#[utoipa::path(get, path = "/v1/connections", tag = "connections", params(Which), responses((status = 200, body = Connections)))]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller, Query(which): Query<Which>) -> Answer<Json<Connections>> {
    if let Some(owner) = &which.owner {
        caller.require_reaches(owner)?;
    }
    let limit = limited(which.limit);
    let filter = Filter { provider: which.provider, owner: which.owner, revoked: which.revoked };
    let page = connection::page(&state.base().db, caller.site()?, &filter, which.after.as_ref(), limit).await?;
    let next = next(&page, limit, |connection| connection.id.to_string());
    let seen = page.into_iter().filter(|connection| caller.reaches(&connection.owner));
    Ok(Json(Connections { connections: seen.map(|connection| Connection::new(&state, connection)).collect(), next }))
}

/// One connection.
#[utoipa::path(get, path = "/v1/connections/{id}", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, body = Connection)))]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
) -> Answer<Json<Connection>> {
    let connection = reached(&state, &caller, &id).await?;
    Ok(Json(Connection::new(&state, connection)))
}

/// How to end a connection.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Ending {
    /// `skip` leaves the tokens as they are at the provider; `force` revokes them there also where other connections of
    /// the same account die with them.
    #[param(inline)]
    pub(super) upstream: Option<Upstream>,
    /// Why, in your words.
    pub(super) reason: Option<String>,
    /// How many seconds to wait for what the provider says, at most 30; without it the answer does not wait. The connection
    /// is over before the provider is asked.
    pub(super) wait: Option<u64>,
}

/// What to do at the provider.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Upstream {
    /// Nothing.
    Skip,
    /// Revoke, whatever dies with it.
    Force,
}

impl Ending {
    pub(super) fn wish(&self) -> UpstreamWish {
        match self.upstream {
            None => UpstreamWish::IfPossible,
            Some(Upstream::Skip) => UpstreamWish::Skip,
            Some(Upstream::Force) => UpstreamWish::Force,
        }
    }

    pub(super) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("asked for")
    }

    pub(super) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.unwrap_or_default().min(LONGEST_WAIT))
    }
}

/// How a connection ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct Ended {
    /// Whether there was something to end.
    ended: bool,
    /// The connection that is over.
    connection: Option<String>,
    /// What became of its tokens at the provider so far: `revoked`; `pending`, to be tried at `next_at`; `unsupported`, where
    /// the provider has no way to revoke them; `skipped`; or `failed`, where it refused and will not be asked again.
    upstream: String,
    /// Why it is skipped or failed, or why the last attempt did not work.
    why: Option<String>,
    /// How often the provider was asked.
    attempts: i64,
    /// When it is asked again.
    next_at: Option<String>,
    /// When the access token ends by itself, where that is known and to come.
    token_until: Option<String>,
    /// What no revocation takes back, in words.
    notice: String,
}

impl Ended {
    /// Where nothing was there to end.
    pub(super) fn nothing() -> Self {
        Self::not_here(false, "there was no account".to_owned())
    }

    /// Where a resolver kept the account, and ended it.
    pub(super) fn elsewhere(keeper: &str) -> Self {
        Self::not_here(true, format!("{keeper} kept the account"))
    }

    fn not_here(ended: bool, why: String) -> Self {
        Self {
            ended,
            connection: None,
            upstream: "skipped".to_owned(),
            why: Some(why),
            attempts: 0,
            next_at: None,
            token_until: None,
            notice: NOTICE.to_owned(),
        }
    }
}

/// Ends a connection that the caller reaches, and says what the provider said.
pub(super) async fn end(
    state: &AppState,
    caller: &Caller,
    connection: &connection::Connection,
    ending: &Ending,
) -> Answer<Ended> {
    let (actor, outside) = (caller.actor()?, state.outside());
    let was_live = !matches!(connection.status, Status::Revoked { .. });
    let ended = revoke::connection(outside, &connection.site, &actor, &connection.id, ending.reason(), ending.wish()).await?;
    let owed = revoke::ask_now(outside, state.tasks(), &connection.site, &connection.id, ending.wait()).await?;
    let (upstream, why) = match ended.upstream {
        connection::Owed::Pending => ("pending", None),
        connection::Owed::Unsupported => ("unsupported", None),
        connection::Owed::Skipped(why) => ("skipped", Some(why)),
    };
    Ok(Ended {
        ended: was_live,
        connection: Some(connection.id.to_string()),
        upstream: owed.as_ref().map_or_else(|| upstream.to_owned(), |owed| owed.status.clone()),
        why: owed.as_ref().map_or(why, |owed| owed.last_error.clone()),
        attempts: owed.as_ref().map_or(0, |owed| owed.attempts),
        next_at: maybe(owed.and_then(|owed| owed.next_at)),
        token_until: maybe(connection.expires_at.filter(|end| *end > state.base().clock.now())),
        notice: NOTICE.to_owned(),
    })
}

/// Ends a connection: from now on it is refused everywhere, and its account is erased. Ending it again changes nothing.
#[utoipa::path(delete, path = "/v1/connections/{id}", tag = "connections",
    params(("id" = String, Path), Ending, ("If-Match" = Option<String>, Header, description = "The account's ETag.")),
    responses((status = 200, body = Ended)))]
pub(crate) async fn revoke(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
    Query(ending): Query<Ending>,
    headers: HeaderMap,
) -> Answer<Json<Ended>> {
    let connection = reached(&state, &caller, &id).await?;
    accounts::check(&precondition(&headers, true)?, Some(&connection))?;
    Ok(Json(end(&state, &caller, &connection, &ending).await?))
}

/// A connection after it was asked to refresh.
#[derive(Serialize, ToSchema)]
pub(crate) struct Refreshed {
    /// Whether its token is another one than before the call.
    refreshed: bool,
    /// Why not: `too_young` where the token is younger than a minute.
    why: Option<String>,
    /// The connection.
    #[serde(flatten)]
    state: Connection,
}

/// Refreshes a connection's token now, also where it expired; one that is younger than a minute stays.
#[utoipa::path(post, path = "/v1/connections/{id}/refresh", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, body = Refreshed)))]
pub(crate) async fn refresh(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
) -> Answer<Json<Refreshed>> {
    let connection = reached(&state, &caller, &id).await?;
    let served = state.refresher().refresh_now(&connection.site, &id, &caller.actor()?).await?;
    let refreshed = served.connection.version != connection.version;
    Ok(Json(Refreshed {
        refreshed,
        why: (!refreshed).then(|| "too_young".to_owned()),
        state: Connection::new(&state, served.connection),
    }))
}

/// The owner vouches for the upstream account of tokens that were written from outside. With `If-Match` for exactly the
/// version that was looked at.
#[utoipa::path(post, path = "/v1/connections/{id}/confirm", tag = "connections",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The account's ETag.")),
    responses((status = 200, body = Connection)))]
pub(crate) async fn confirm(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
    headers: HeaderMap,
) -> Answer<Json<Connection>> {
    let connection = reached(&state, &caller, &id).await?;
    caller.require_word_of(&connection.owner)?;
    accounts::check(&precondition(&headers, true)?, Some(&connection))?;
    let connection = accounts::confirm(state.base(), &caller.actor()?, &connection).await?;
    Ok(Json(Connection::new(&state, connection)))
}

/// The lists of which a connection takes something.
#[derive(Serialize, ToSchema)]
pub(crate) struct Lists {
    /// The lists, as the provider has them now.
    lists: Vec<List>,
}

/// A provider's list: pages, properties, accounts.
#[derive(Serialize, ToSchema)]
pub(crate) struct List {
    /// Its name.
    name: String,
    /// Whether somebody chooses from it; otherwise the provider's definition does.
    choose: bool,
    /// The slot for which its entries bring tokens, if they do.
    slot: Option<String>,
    /// Whether a proxied call about an entry that is not chosen is refused; otherwise the choice limits nothing.
    binds: bool,
    /// What stands in it.
    entries: Vec<Entry>,
}

/// An entry of a list.
#[derive(Serialize, ToSchema)]
pub(crate) struct Entry {
    /// Its id at the provider.
    id: String,
    /// What the provider calls it.
    label: String,
    /// Whether it is chosen.
    chosen: bool,
}

/// The provider's lists of which a connection takes something, read there now.
#[utoipa::path(get, path = "/v1/connections/{id}/resources", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, body = Lists)))]
pub(crate) async fn resources(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
) -> Answer<Json<Lists>> {
    let connection = reached(&state, &caller, &id).await?;
    let lists = state.refresher().lists(&connection.site, &id).await?;
    let entry = |one: resource::Entry| Entry { id: one.id, label: one.label, chosen: one.chosen };
    let list = |list: resource::List| List {
        name: list.name,
        choose: list.person_chooses,
        slot: list.slot,
        binds: list.is_binding,
        entries: list.entries.into_iter().map(entry).collect(),
    };
    Ok(Json(Lists { lists: lists.into_iter().map(list).collect() }))
}

/// What somebody chooses.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    /// By list the ids of all entries that are chosen from now on. A list that is not named stays as it is.
    chosen: BTreeMap<String, Vec<String>>,
}

/// Chooses from a provider's lists, without connecting again. Doing it again changes nothing.
#[utoipa::path(put, path = "/v1/connections/{id}/resources", tag = "connections", params(("id" = String, Path)),
    request_body = Choice, responses((status = 200, body = Connection)))]
pub(crate) async fn choose(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
    Body(choice): Body<Choice>,
) -> Answer<Json<Connection>> {
    let connection = reached(&state, &caller, &id).await?;
    let connection = state.refresher().choose(&connection.site, &caller.actor()?, &id, &choice.chosen).await?;
    Ok(Json(Connection::new(&state, connection)))
}

/// What a connection is connected again for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reconnect {
    /// The scopes that are needed; those that were asked for before when absent. What was granted before is always asked for
    /// with them.
    scopes: Option<Vec<String>>,
    /// Where the browser goes afterwards; exactly one of the site's places.
    return_to: Option<String>,
    /// Carried along until the flow is over; at most 4 KiB.
    #[schema(value_type = Option<String>)]
    payload: Option<Secret>,
    /// The person signs in on another device, with a code.
    #[serde(default)]
    device: bool,
}

/// Makes a link by which the same account is connected again, for scopes that are missing or before it ends. Who may make it is
/// as for any other link.
#[utoipa::path(post, path = "/v1/connections/{id}/reconnect", tag = "connections", params(("id" = String, Path)),
    request_body = Reconnect, responses((status = 201, body = MadeConnectSession)))]
pub(crate) async fn reconnect(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
    Body(wanted): Body<Reconnect>,
) -> Answer<(StatusCode, Json<MadeConnectSession>)> {
    let connection = reached(&state, &caller, &id).await?;
    caller.require_word_of(&connection.owner)?;
    let Reconnect { scopes, return_to, payload, device } = wanted;
    let wanted = again::Wanted { scopes, return_to, payload, device };
    let made = again::create(state.outside(), &connection.site, &caller.actor()?, &id, wanted).await?;
    Ok((StatusCode::CREATED, Json(MadeConnectSession::new(&state, &made))))
}

/// The hosts that a connection's secrets may go to.
#[derive(Serialize, ToSchema)]
pub(crate) struct Hosts {
    /// Where proxied calls may take its credential, as it was fixed at connect or accepted since.
    accepted: Vec<String>,
    /// Where the definition would have them take it by now.
    defined: Vec<String>,
    /// Those that wait to be accepted.
    waiting: Vec<String>,
    /// The same for renewals, revocations at the provider and its lists.
    calls: CallHosts,
}

/// The hosts that the broker's own calls may take a connection's secrets to.
#[derive(Serialize, ToSchema)]
pub(crate) struct CallHosts {
    /// Where they may go; null while nothing is fixed: then the next call fixes what the definition names.
    accepted: Option<Vec<String>>,
    /// Where the definition would have them go by now; null where that cannot be told.
    defined: Option<Vec<String>>,
    /// Those that wait to be accepted.
    waiting: Vec<String>,
}

impl From<hosts::Hosts> for Hosts {
    fn from(hosts: hosts::Hosts) -> Self {
        Self {
            waiting: hosts.waiting().cloned().collect(),
            calls: CallHosts {
                waiting: hosts.calls_waiting().cloned().collect(),
                accepted: hosts.calls_accepted,
                defined: hosts.calls_defined,
            },
            accepted: hosts.accepted,
            defined: hosts.defined,
        }
    }
}

/// The hosts that a connection's secrets may go to, and those that its definition names by now.
#[utoipa::path(get, path = "/v1/connections/{id}/hosts", tag = "connections", params(("id" = String, Path)),
    responses((status = 200, body = Hosts)))]
pub(crate) async fn hosts(State(state): State<AppState>, caller: Caller, Path(id): Path<ConnectionId>) -> Answer<Json<Hosts>> {
    Ok(Json(hosts::look(state.outside(), caller.site()?, &id).await?.into()))
}

/// Hosts to accept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcceptHosts {
    /// All hosts that proxied calls may take the credential to from now on; each is one that the definition names.
    hosts: Vec<String>,
    /// All hosts that renewals, revocations at the provider and its lists may go to from now on; they stay when absent.
    calls: Option<Vec<String>>,
}

/// Accepts hosts that a definition names since the connection was made. Doing it again changes nothing.
#[utoipa::path(put, path = "/v1/connections/{id}/hosts", tag = "connections", params(("id" = String, Path)),
    request_body = AcceptHosts, responses((status = 200, body = Connection)))]
pub(crate) async fn accept_hosts(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<ConnectionId>,
    Body(accept): Body<AcceptHosts>,
) -> Answer<Json<Connection>> {
    let AcceptHosts { hosts, calls } = accept;
    let connection = hosts::accept(state.outside(), caller.site()?, &caller.actor()?, &id, &hosts, calls.as_deref()).await?;
    Ok(Json(Connection::new(&state, connection)))
}

/// A connection that the caller may know of.
pub(super) async fn reached(state: &AppState, caller: &Caller, id: &ConnectionId) -> Answer<connection::Connection> {
    let connection = connection::get(&state.base().db, caller.site()?, id).await?;
    let connection = connection.filter(|connection| caller.reaches(&connection.owner));
    Ok(connection.ok_or_else(|| Error::new(Code::NotFound, format!("there is no connection `{id}`")))?)
}

/// A member that is always a JSON object or list, for answers that repeat what was stored as such.
pub(super) fn json_or_null<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
