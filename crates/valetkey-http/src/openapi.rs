//! The description of the API as OpenAPI 3.1, made from the handlers themselves and from the router's page.

use std::{
    collections::{BTreeSet, HashMap},
    sync::OnceLock,
};

use utoipa::{
    OpenApi as _,
    openapi::{
        ContentBuilder, InfoBuilder, OpenApi, RefOr, Required, ResponseBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem},
        schema::{ObjectBuilder, Schema, Type},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use crate::{
    caller::Who,
    router::{Described, ROUTES, Route},
};

/// The document that `/openapi.json` serves.
pub fn document() -> OpenApi {
    let mut document = Described::openapi();
    document.info = InfoBuilder::new()
        .title("Valet Key")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Connected accounts for agents. Errors are problem documents (RFC 9457) with a stable `code`. \
             On the operator's local socket no credential is needed, and `?site=` names the site.",
        ))
        .license(None)
        .build();
    let components = document.components.get_or_insert_with(Default::default);
    for (name, text) in [("platform", "A platform key, `vkp_...`"), ("agent", "An agent token, `vk_...`")] {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(text.to_owned());
        components.add_security_scheme(name, SecurityScheme::Http(scheme));
    }
    components.schemas.insert("Problem".to_owned(), RefOr::T(problem()));
    for route in ROUTES {
        if let Some(item) = document.paths.paths.get_mut(&documented_path(route.path)) {
            for operation in operations(item, route) {
                operation.operation_id = Some(route.handler.trim_start_matches('_').to_owned());
                complete(operation, route.who);
                if names_a_site(route) {
                    operation.parameters.get_or_insert_default().push(site());
                }
            }
        }
    }
    document
}

/// The query parameters that a route knows: those that the description names, and no others.
pub(crate) fn query_of(route: &Route) -> Option<&'static BTreeSet<String>> {
    static KNOWN: OnceLock<HashMap<(&'static str, &'static str), BTreeSet<String>>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let mut document = document();
        let mut known = HashMap::new();
        for route in ROUTES {
            let Some(item) = document.paths.paths.get_mut(&documented_path(route.path)) else { continue };
            let parameters = operations(item, route).into_iter().flat_map(|operation| operation.parameters.iter().flatten());
            let names = parameters.filter_map(|parameter| match parameter {
                RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.clone()),
                _ => None,
            });
            known.insert((route.method, route.path), names.collect());
        }
        known
    });
    known.get(&(route.method, route.path))
}

/// A path's pattern as OpenAPI writes it: `{*rest}` is a parameter like others there.
pub(crate) fn documented_path(path: &str) -> String {
    path.replace("{*", "{")
}

/// What every operation has in common: who may call it, and what an error looks like.
fn complete(operation: &mut Operation, who: Who) {
    let (security, text) = match who {
        Who::Anybody => (vec![], "Anybody."),
        Who::Operator => (vec![], "The operator only, on the local socket."),
        Who::Platform => (vec![SecurityRequirement::new("platform", [""; 0])], "Any platform key; the operator."),
        Who::Agent => (vec![SecurityRequirement::new("agent", [""; 0])], "An agent by its token."),
        Who::Scope(scopes) => (vec![SecurityRequirement::new("platform", scopes.iter().map(|s| s.as_str()))], ""),
        Who::AgentOr(scopes) => (
            vec![
                SecurityRequirement::new("agent", [""; 0]),
                SecurityRequirement::new("platform", scopes.iter().map(|s| s.as_str())),
            ],
            "",
        ),
        Who::Monitoring => (
            vec![SecurityRequirement::new("platform", ["admin"])],
            "A platform key with the scope `admin`; the operator; anybody where a setting says so.",
        ),
    };
    let text = match who {
        Who::Scope(scopes) | Who::AgentOr(scopes) => {
            let names: Vec<_> = scopes.iter().map(|scope| format!("`{}`", scope.as_str())).collect();
            let agent = if matches!(who, Who::AgentOr(_)) { "An agent by its token, about itself; a" } else { "A" };
            format!("{agent} platform key with the scope {}; the operator.", names.join(" or "))
        }
        _ => text.to_owned(),
    };
    operation.security = Some(security);
    let description = operation.description.take().unwrap_or_default();
    operation.description = Some(format!("{description}\n\nWho may call it: {text}").trim().to_owned());
    let content = ContentBuilder::new().schema(Some(utoipa::openapi::Ref::from_schema_name("Problem"))).build();
    let problem = ResponseBuilder::new().description("What went wrong.").content("application/problem+json", content).build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(problem));
}

/// Whether the operator says on this route which site is meant.
fn names_a_site(route: &Route) -> bool {
    let of_all_sites = ["/v1/sites", "/v1/seal-keys"].iter().any(|path| route.path.starts_with(path));
    route.path.starts_with("/v1/") && !of_all_sites && route.who != Who::Agent
}

fn site() -> RefOr<Parameter> {
    let text = "The operator's: which site is meant; `default` when absent. A platform's site is that of its key.";
    let parameter = ParameterBuilder::new()
        .name("site")
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()));
    RefOr::T(parameter.build())
}

fn operations<'a>(item: &'a mut PathItem, route: &Route) -> Vec<&'a mut Operation> {
    let all = [
        ("get", &mut item.get),
        ("put", &mut item.put),
        ("post", &mut item.post),
        ("delete", &mut item.delete),
        ("options", &mut item.options),
        ("head", &mut item.head),
        ("patch", &mut item.patch),
    ];
    all.into_iter().filter(|(name, _)| route.method == "any" || route.method == *name).filter_map(|(_, o)| o.as_mut()).collect()
}

fn problem() -> Schema {
    let text = |description: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(description)).build();
    let object = ObjectBuilder::new()
        .property("type", text("Always `about:blank`; compare `code`."))
        .property("title", text("The status phrase."))
        .property("status", ObjectBuilder::new().schema_type(Type::Integer).build())
        .property("code", text("What went wrong, as a stable word."))
        .property("detail", text("What went wrong and what to do, for people."))
        .required("type")
        .required("title")
        .required("status")
        .required("code")
        .required("detail")
        .build();
    Schema::Object(object)
}
