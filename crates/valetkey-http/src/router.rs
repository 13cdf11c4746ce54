//! Every route on one page, with who may call it. What the page says is enforced by `caller::gate`: a route that is not
//! here is not served, and a caller whom its line does not name is refused before the handler sees anything. Beyond that a
//! handler asks only whose things are meant: a key reaches a person's things if it may speak for them.
//!
//! The pages have a router of their own: nobody calls them with a credential, they are for browsers.

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
}

const ADMIN: Who = Who::Scope(&[Scope::Admin]);
const AGENTS: Who = Who::Scope(&[Scope::Agents]);
const CONNECT: Who = Who::Scope(&[Scope::Connect]);
const GRANTS: Who = Who::Scope(&[Scope::Grants]);
const READ: Who = Who::Scope(&[Scope::AccountsRead]);
const WRITE: Who = Who::Scope(&[Scope::AccountsWrite]);

macro_rules! page {
    ($($method:ident $path:literal => $noun:ident::$handler:ident, $who:expr;)*) => {
        /// Every route of the API.
        pub const ROUTES: &[Route] = &[$(Route { method: stringify!($method), path: $path, who: $who },)*];

        fn api() -> Router<AppState> {
            Router::new()$(.route($path, axum::routing::$method(routes::$noun::$handler)))*
        }

        /// The handlers' own descriptions.
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($(routes::$noun::$handler),*))]
        pub(crate) struct Described;
    };
}

page! {
    // The process itself.
    get "/healthz" => health::live, Who::Anybody;
    get "/readyz" => health::ready, Who::Anybody;
    get "/metrics" => health::metrics, Who::Monitoring;
    get "/openapi.json" => health::openapi, Who::Anybody;

    // Sites: the operator's. A key with `admin` sees its own and changes where flows may return to.
    get "/v1/sites" => sites::list, Who::Operator;
    post "/v1/sites" => sites::create, Who::Operator;
    get "/v1/sites/{id}" => sites::show, ADMIN;
    patch "/v1/sites/{id}" => sites::change, ADMIN;

    // The two deliveries: an agent's, by its own token. What it may use is decided behind this.
    post "/v1/connections/{id}/token" => deliver::reveal, Who::Agent;
    any "/v1/proxy/{connection}/{*path}" => deliver::proxy, Who::Agent;
}

/// The whole HTTP face.
pub fn router(state: AppState) -> Router {
    let pages = pages::router(pages::Deps { outside: state.outside().clone(), tasks: state.tasks().clone() });
    let api = api().layer(from_fn_with_state(state.clone(), gate)).with_state(state.clone());
    Router::new()
        .merge(api)
        .merge(pages)
        .fallback(|| async { Problem(Error::new(Code::NotFound, "there is nothing at this path")) })
        .layer(from_fn_with_state(state, edge))
}

/// The page's line for a method and a path's pattern.
pub(crate) fn route(method: &Method, path: &str) -> Option<&'static Route> {
    let method = served_as(method).as_str();
    by_path().get(path)?.iter().find(|route| route.method == "any" || route.method.eq_ignore_ascii_case(method)).copied()
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
