//! Every route on one page, with who may call it. What the page says is enforced by `caller::gate`: a route that is not
//! here is not served, and a caller whom its line does not name is refused before the handler sees anything. Beyond that a
//! handler asks only whose things are meant: a key reaches a person's things if it may speak for them.
//!
//! The pages have a router of their own: nobody calls them with a credential, they are for browsers. So have the endpoints of the
//! authorization server ([`routes::oauth`]): their callers prove themselves as the standards say, and their errors are the standards'.
//! So has the MCP server ([`routes::mcp`]): each of its tools is a call of what stands on this page.

use std::{collections::HashMap, sync::OnceLock};

use axum::{Router, middleware::from_fn_with_state};
use http::Method;
use valetkey::{Code, Error, platform::Scope};

use crate::{
    caller::{Who, gate, served_as},
    edge::edge,
    error::Problem,
    pages, routes,
    state::AppState,
};

/// One line of the page.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The method in lower case, or `any`.
    pub method: &'static str,
    /// The path's pattern.
    pub path: &'static str,
    /// Who may call it.
    pub who: Who,
    /// The handler, as `_room_handler`: what the operation is called in the description, where no two share a name.
    pub handler: &'static str,
}

const ADMIN: Who = Who::Scope(&[Scope::Admin]);
const AGENTS: Who = Who::Scope(&[Scope::Agents]);
const CONNECT: Who = Who::Scope(&[Scope::Connect]);
const GRANTS: Who = Who::Scope(&[Scope::Grants]);
const AGENT_OR_GRANTS: Who = Who::AgentOr(&[Scope::Grants]);
const SHOW: Who = Who::Scope(&[Scope::AccountsRead, Scope::AccountsReveal]);
const READ: Who = Who::Scope(&[Scope::AccountsRead]);
const SIGNIN: Who = Who::Scope(&[Scope::Signin, Scope::Admin]);
const WRITE: Who = Who::Scope(&[Scope::AccountsWrite]);

macro_rules! page {
    ($($method:ident $path:literal => $($handler:ident)::+, $who:expr;)*) => {
        /// Every route of the API.
        pub const ROUTES: &[Route] = &[$(Route {
            method: stringify!($method),
            path: $path,
            who: $who,
            handler: concat!($("_", stringify!($handler)),+),
        },)*];

        fn api() -> Router<AppState> {
            Router::new()$(.route($path, axum::routing::$method(routes::$($handler)::+)))*
        }

        /// The handlers' own descriptions.
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($(routes::$($handler)::+),*))]
        pub(crate) struct Described;
    };
}

page! {
    // The process itself.
    get "/healthz" => health::live, Who::Anybody;
    get "/readyz" => health::ready, Who::Anybody;
    get "/metrics" => health::metrics, Who::Monitoring;
    get "/openapi.json" => health::openapi, Who::Anybody;

    get "/v1/status" => status::show, Who::Operator;

    // Sites: the operator's. A key with `admin` sees its own and changes where flows may return to.
    get "/v1/sites" => sites::list, Who::Operator;
    post "/v1/sites" => sites::create, Who::Operator;
    get "/v1/sites/{id}" => sites::show, ADMIN;
    patch "/v1/sites/{id}" => sites::change, ADMIN;
    // What nobody there may exceed is the operator's word, beyond which no platform widens its own agents.
    get "/v1/sites/{id}/policy" => sites::policy, ADMIN;
    put "/v1/sites/{id}/policy" => sites::set_policy, Who::Operator;

    // Providers, for every platform; the apps there, by named scope, for whoever administers the site.
    get "/v1/providers" => providers::list, Who::Platform;
    get "/v1/providers/{provider}" => providers::show, Who::Platform;
    get "/v1/providers/{provider}/callback" => app_config::callback, ADMIN;
    put "/v1/providers/{provider}/callback" => app_config::set_callback, ADMIN;
    delete "/v1/providers/{provider}/callback" => app_config::reset_callback, ADMIN;
    get "/v1/providers/{provider}/config" => app_config::short::show, ADMIN;
    put "/v1/providers/{provider}/config" => app_config::short::put, ADMIN;
    patch "/v1/providers/{provider}/config" => app_config::short::patch, ADMIN;
    delete "/v1/providers/{provider}/config" => app_config::short::delete, ADMIN;
    get "/v1/providers/{provider}/config/site" => app_config::site::show, ADMIN;
    put "/v1/providers/{provider}/config/site" => app_config::site::put, ADMIN;
    patch "/v1/providers/{provider}/config/site" => app_config::site::patch, ADMIN;
    delete "/v1/providers/{provider}/config/site" => app_config::site::delete, ADMIN;
    get "/v1/providers/{provider}/config/users/{user}" => app_config::user::show, ADMIN;
    put "/v1/providers/{provider}/config/users/{user}" => app_config::user::put, ADMIN;
    patch "/v1/providers/{provider}/config/users/{user}" => app_config::user::patch, ADMIN;
    delete "/v1/providers/{provider}/config/users/{user}" => app_config::user::delete, ADMIN;
    get "/v1/providers/{provider}/config/agents/{agent}" => app_config::agents::show, ADMIN;
    put "/v1/providers/{provider}/config/agents/{agent}" => app_config::agents::put, ADMIN;
    patch "/v1/providers/{provider}/config/agents/{agent}" => app_config::agents::patch, ADMIN;
    delete "/v1/providers/{provider}/config/agents/{agent}" => app_config::agents::delete, ADMIN;
    // The one that the provider's policy gives a context.
    get "/v1/providers/{provider}/config/context" => app_config::context, ADMIN;
    get "/v1/providers/{provider}/scope-policies" => scope_policies::show, ADMIN;
    patch "/v1/providers/{provider}/scope-policies" => scope_policies::change, ADMIN;

    // Accounts by named scope: for platforms, never for agents. A person's needs a key that may speak for them, or `admin`.
    // What is in an account needs `accounts:reveal`, which nothing implies.
    get "/v1/providers/{provider}/accounts/site" => accounts::site::show, SHOW;
    put "/v1/providers/{provider}/accounts/site" => accounts::site::put, WRITE;
    patch "/v1/providers/{provider}/accounts/site" => accounts::site::patch, WRITE;
    delete "/v1/providers/{provider}/accounts/site" => accounts::site::delete, WRITE;
    get "/v1/providers/{provider}/accounts/users/{user}" => accounts::user::show, SHOW;
    put "/v1/providers/{provider}/accounts/users/{user}" => accounts::user::put, WRITE;
    patch "/v1/providers/{provider}/accounts/users/{user}" => accounts::user::patch, WRITE;
    delete "/v1/providers/{provider}/accounts/users/{user}" => accounts::user::delete, WRITE;
    get "/v1/providers/{provider}/accounts/agents/{agent}" => accounts::agent_account::show, SHOW;
    put "/v1/providers/{provider}/accounts/agents/{agent}" => accounts::agent_account::put, WRITE;
    patch "/v1/providers/{provider}/accounts/agents/{agent}" => accounts::agent_account::patch, WRITE;
    delete "/v1/providers/{provider}/accounts/agents/{agent}" => accounts::agent_account::delete, WRITE;
    // The one that the provider's policy gives a context.
    get "/v1/providers/{provider}/accounts/context" => accounts::context, SHOW;

    // Connections. A person's needs a key that may speak for them, or `admin`; only the former can confirm one.
    get "/v1/connections" => connections::list, READ;
    get "/v1/connections/{id}" => connections::show, READ;
    delete "/v1/connections/{id}" => connections::revoke, WRITE;
    post "/v1/connections/{id}/refresh" => connections::refresh, WRITE;
    post "/v1/connections/{id}/confirm" => connections::confirm, WRITE;
    get "/v1/connections/{id}/resources" => connections::resources, READ;
    put "/v1/connections/{id}/resources" => connections::choose, WRITE;
    // A link to connect the same account again: who may make it is as for any other.
    post "/v1/connections/{id}/reconnect" => connections::reconnect, CONNECT;
    // Where a connection's secrets may go is the operator's.
    get "/v1/connections/{id}/hosts" => connections::hosts, Who::Operator;
    put "/v1/connections/{id}/hosts" => connections::accept_hosts, Who::Operator;
    get "/v1/revocations" => revocations::list, ADMIN;

    // Links. For a person by a key that may speak for them; for the site or an agent `admin` is needed, too.
    post "/v1/connect-sessions" => connect_sessions::create, CONNECT;
    get "/v1/connect-sessions/{id}" => connect_sessions::show, CONNECT;
    // Without a page: who sits at this machine is shown the code.
    post "/v1/connect-sessions/{id}/device" => connect_sessions::begin_device, Who::Operator;

    // Agents, roles and tokens. In a call for a person: as far as that person's role on the agent goes.
    get "/v1/agents" => agents::list, AGENTS;
    post "/v1/agents" => agents::create, AGENTS;
    get "/v1/agents/{agent}" => agents::show, AGENTS;
    patch "/v1/agents/{agent}" => agents::change, AGENTS;
    delete "/v1/agents/{agent}" => agents::delete, AGENTS;
    get "/v1/agents/{agent}/ceiling" => agents::ceiling, AGENTS;
    put "/v1/agents/{agent}/ceiling" => agents::set_ceiling, AGENTS;
    get "/v1/agents/{agent}/roles" => agents::roles, AGENTS;
    get "/v1/agents/{agent}/roles/{user}" => agents::check_role, AGENTS;
    put "/v1/agents/{agent}/roles/{user}" => agents::set_role, AGENTS;
    delete "/v1/agents/{agent}/roles/{user}" => agents::remove_role, AGENTS;
    get "/v1/agents/{agent}/tokens" => tokens::list, AGENTS;
    post "/v1/agents/{agent}/tokens" => tokens::mint, AGENTS;
    delete "/v1/agents/{agent}/tokens" => tokens::revoke_all, AGENTS;
    // An agent gives up its own.
    delete "/v1/tokens/{id}" => tokens::revoke, Who::AgentOr(&[Scope::Agents]);

    // Grants and decisions. On a person's connection by a key that may speak for them, who is then the grantor; on the
    // site's or an agent's `admin` is needed, too.
    get "/v1/grants" => grants::list, GRANTS;
    post "/v1/grants" => grants::create, GRANTS;
    delete "/v1/grants/{id}" => grants::revoke, GRANTS;
    post "/v1/explain" => decisions::explain, GRANTS;
    get "/v1/agents/{agent}/reach" => reach::reach, GRANTS;
    get "/v1/connections/{id}/who-can" => reach::who_can, GRANTS;
    // The same question in the form of AuthZEN. An agent asks about itself alone.
    get "/.well-known/authzen-configuration" => authzen::configuration, Who::Anybody;
    post "/access/v1/evaluation" => authzen::evaluation, Who::AgentOr(&[Scope::Grants]);
    post "/access/v1/evaluations" => authzen::evaluations, Who::AgentOr(&[Scope::Grants]);

    // Calls that wait for a person's word, and what agents ask for. Agents see their own and answer nothing; a person answers
    // for what is theirs, by a key that may speak for them; for the site's and an agent's things `admin` is needed, too.
    get "/v1/approvals" => approvals::list, GRANTS;
    get "/v1/approvals/{id}" => approvals::show, AGENT_OR_GRANTS;
    post "/v1/approvals/{id}/approve" => approvals::approve, GRANTS;
    post "/v1/approvals/{id}/refuse" => approvals::refuse, GRANTS;
    get "/v1/proposals" => proposals::list, GRANTS;
    post "/v1/proposals" => proposals::create, Who::Agent;
    get "/v1/proposals/{id}" => proposals::show, AGENT_OR_GRANTS;
    post "/v1/proposals/{id}/accept" => proposals::accept, GRANTS;
    post "/v1/proposals/{id}/refuse" => proposals::refuse, GRANTS;

    // Clients of the authorization server, and what people consented to. In a call for a person: that person's own consents, and
    // those for the agents that they administer.
    get "/v1/clients" => clients::list, ADMIN;
    post "/v1/clients" => clients::create, ADMIN;
    get "/v1/clients/{id}" => clients::show, ADMIN;
    delete "/v1/clients/{id}" => clients::revoke, ADMIN;
    get "/v1/client-registration" => clients::registration, ADMIN;
    put "/v1/client-registration" => clients::set_registration, ADMIN;
    get "/v1/consents" => consents::list, AGENTS;
    delete "/v1/consents/{id}" => consents::end, AGENTS;

    // Platform keys, people, the audit.
    get "/v1/keys" => keys::list, ADMIN;
    post "/v1/keys" => keys::create, Who::Operator;
    patch "/v1/keys/{id}" => keys::change, Who::Operator;
    delete "/v1/keys/{id}" => keys::revoke, Who::Operator;
    patch "/v1/people/{id}" => people::change, ADMIN;
    delete "/v1/people/{id}" => people::erase, ADMIN;
    // Who is signed in, and the signing out: also by a key that signs in the people it may speak for.
    get "/v1/people/{id}/sessions" => people::sessions, SIGNIN;
    delete "/v1/people/{id}/sessions" => people::sign_out, SIGNIN;
    get "/v1/audit" => audit::list, ADMIN;
    get "/v1/audit/head" => audit::head, ADMIN;
    post "/v1/audit/export" => audit::export, ADMIN;
    post "/v1/audit/verify" => audit::verify, ADMIN;

    // Where the site is told what happened.
    get "/v1/webhooks" => webhooks::list, ADMIN;
    post "/v1/webhooks" => webhooks::create, ADMIN;
    get "/v1/webhooks/{id}" => webhooks::show, ADMIN;
    patch "/v1/webhooks/{id}" => webhooks::change, ADMIN;
    delete "/v1/webhooks/{id}" => webhooks::delete, ADMIN;
    post "/v1/webhooks/{id}/rotate" => webhooks::rotate, ADMIN;
    get "/v1/webhooks/{id}/deliveries" => webhooks::deliveries, ADMIN;
    post "/v1/webhooks/{id}/replay" => webhooks::replay, ADMIN;

    // Sealing keys: whoever holds the machine.
    get "/v1/seal-keys" => seal_keys::list, Who::Operator;
    post "/v1/seal-keys/rotate" => seal_keys::rotate, Who::Operator;
    post "/v1/seal-keys/verify" => seal_keys::verify, Who::Operator;
    post "/v1/seal-keys/reload" => seal_keys::reload, Who::Operator;
    post "/v1/seal-keys/new-root" => seal_keys::new_root, Who::Operator;
    post "/v1/seal-keys/rewrap" => seal_keys::rewrap, Who::Operator;
    post "/v1/seal-keys/drop-old-roots" => seal_keys::drop_old_roots, Who::Operator;

    // Moving in from Data Machine, and out again: everything at once, secrets and all, so whoever holds the machine.
    post "/v1/imports/data-machine" => imports::data_machine, Who::Operator;
    post "/v1/exports/data-machine" => exports::data_machine, Who::Operator;

    // What an agent may use.
    get "/v1/me" => decisions::me, Who::Agent;

    // The two deliveries: an agent's, by its own token. What it may use is decided behind this.
    post "/v1/connections/{id}/token" => deliver::reveal, Who::Agent;
    any "/v1/proxy/{connection}/" => deliver::proxy_root, Who::Agent;
    any "/v1/proxy/{connection}/{*path}" => deliver::proxy, Who::Agent;
}

/// The whole HTTP face.
pub fn router(state: AppState) -> Router {
    let pages = pages::router(pages::Deps { outside: state.outside().clone(), tasks: state.tasks().clone() });
    let api = api().layer(from_fn_with_state(state.clone(), gate)).with_state(state.clone());
    // What a tool calls passes the same gate and the same edge as whatever comes from outside.
    let tools = api.clone().layer(from_fn_with_state(state.clone(), edge));
    Router::new()
        .merge(api)
        .merge(routes::oauth::router(state.clone()))
        .merge(routes::mcp::router(state.clone(), tools))
        .merge(pages)
        .fallback(|| async { Problem(Error::new(Code::NotFound, "there is nothing at this path")) })
        .layer(from_fn_with_state(state, edge))
}

/// The page's line for a method and a path's pattern.
pub(crate) fn route(method: &Method, path: &str) -> Option<&'static Route> {
    let method = served_as(method).as_str();
    by_path().get(path)?.iter().find(|route| route.method == "any" || route.method.eq_ignore_ascii_case(method)).copied()
}

/// The page's own text of a path's pattern.
pub(crate) fn path(path: &str) -> Option<&'static str> {
    by_path().get_key_value(path).map(|(path, _)| *path)
}

/// The methods of a path, in capitals.
pub(crate) fn methods(path: &str) -> Vec<String> {
    let mut methods: Vec<String> =
        by_path().get(path).into_iter().flatten().map(|route| route.method.to_ascii_uppercase()).collect();
    if methods.iter().any(|method| method == "GET") {
        methods.push("HEAD".to_owned());
    }
    methods
}

fn by_path() -> &'static HashMap<&'static str, Vec<&'static Route>> {
    static PATHS: OnceLock<HashMap<&'static str, Vec<&'static Route>>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let mut paths: HashMap<_, Vec<_>> = HashMap::new();
        for route in ROUTES {
            paths.entry(route.path).or_default().push(route);
        }
        paths
    })
}
