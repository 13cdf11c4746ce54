//! What can only be judged on a finished definition: sections that belong to another kind, values used where there are
//! none, and calls of our own that the proxy would let an agent make.

use super::{
    definition::{Definition, Identity},
    load_step::Steps,
    proxy::{HostRule, Inject},
    spanned::Table,
    step::{JsonTemplate, Step},
    template::{Part, Var},
    words::{Auth, Kind, RefreshStrategy, Role},
};

/// Reports what is wrong with the whole.
pub(super) fn whole(definition: &Definition, steps: &Steps<'_, '_>, top: &Table<'_>) {
    kinds(definition, steps, top);
    values(definition, top);
    slots(definition, top);
    own_calls_are_credential_paths(definition, top);
    no_password_grant(definition, top);
}

fn kinds(definition: &Definition, steps: &Steps<'_, '_>, top: &Table<'_>) {
    let kind = definition.kind;
    for (section, belongs) in [
        ("oauth2", Kind::OAuth2),
        ("oauth1", Kind::OAuth1),
        ("jwt", Kind::JwtBearer),
        ("mint", Kind::JwtBearer),
        ("session", Kind::Session),
        ("mail", Kind::Mail),
    ] {
        // The tokens of OAuth 2.0 may open a mailbox as well.
        let also = section == "mail" && kind == Kind::OAuth2;
        if top.has(section) && kind != belongs && !also {
            top.wrong(section, format!("belongs to kind = \"{belongs}\", and this is \"{kind}\""));
        }
        if !top.has(section) && kind == belongs && !matches!(section, "oauth1" | "oauth2") {
            top.missing(section, &format!("kind = \"{kind}\""));
        }
    }
    if kind == Kind::OAuth2 && !steps.client_is_known() {
        top.wrong("fields", "one field has role = \"client_id\", or [register] brings one");
    }
    for role in [Role::ClientId, Role::ClientSecret] {
        if kind == Kind::OAuth1 && definition.field_with_role(role).is_none() {
            top.wrong("fields", format!("one field has role = \"{role}\": calls are signed with it"));
        }
    }
    if kind == Kind::Static && definition.refresh.strategy != RefreshStrategy::None {
        top.wrong("refresh", "a static key is not refreshed");
    }
    if kind == Kind::Static {
        for (key, step) in all_steps(definition) {
            if matches!(step.auth, Auth::Bearer | Auth::BearerRefresh | Auth::Client | Auth::ClientBasic) {
                top.wrong(&key, "a static key has no token and no client; auth = \"proxy\" sends the key as calls do");
            }
        }
    }
    if definition.session.as_ref().is_some_and(|session| session.login.list.is_some()) {
        top.wrong("session", "a login answers with one account, not with a list");
    }
}

/// Values that exist in one place only.
fn values(definition: &Definition, top: &Table<'_>) {
    let has_jwt = definition.kind == Kind::JwtBearer;
    for (key, step) in all_steps(definition) {
        let in_token = matches!(key.as_str(), "oauth2.token" | "oauth2.device token" | "oauth1.token")
            || (key == "refresh" && definition.refresh.strategy == RefreshStrategy::Remint);
        for template in step.templates() {
            for slot in template.slots() {
                match slot.var {
                    Var::Code | Var::CodeVerifier if !in_token => {
                        top.wrong(&key, format!("uses `{template}`, which there is in a token request only"));
                    }
                    Var::Jwt if !has_jwt => top.wrong(&key, format!("uses `{template}`, which there is with [jwt] only")),
                    _ => {}
                }
            }
        }
    }
}

fn slots(definition: &Definition, top: &Table<'_>) {
    let declared = |name: &str| definition.slots.iter().any(|(known, _)| known == name);
    if let Some(oauth2) = &definition.oauth2 {
        for (param, slot) in &oauth2.scope_params {
            if !declared(slot) {
                top.table_or_empty("oauth2").wrong("scope_params", format!("{param}: \"{slot}\" is not declared in [slots]"));
            }
        }
    }
    let Some(proxy) = &definition.proxy else { return };
    let table = top.table_or_empty("proxy");
    if proxy.slots.iter().filter(|name| !declared(name)).count() > 1 {
        table.wrong("slots", "at most one name may be undeclared: that of the connection's own token");
    }
    let uses_slot = proxy.inject.iter().any(|inject| match inject {
        Inject::Header { value, .. } | Inject::Query { value, .. } | Inject::Form { value, .. } | Inject::Json { value, .. } => {
            value.slots().any(|slot| matches!(slot.var, Var::SlotToken))
        }
        Inject::Basic { .. } | Inject::Oauth1Signature => false,
    });
    if uses_slot == proxy.slots.is_empty() {
        table.wrong("slots", "proxy.slots and slot.access_token in proxy.inject come together");
    }
}

/// The calls by which we mint, refresh, list and revoke must not be open to an agent through the proxy.
fn own_calls_are_credential_paths(definition: &Definition, top: &Table<'_>) {
    let Some(proxy) = &definition.proxy else { return };
    for (key, step) in all_steps(definition) {
        let of_credentials = step.brings_token
            || step.out.contains_key("token")
            || matches!(key.as_str(), "register" | "oauth2.device")
            || key.starts_with("revoke");
        let reached = match step.url.fixed_host() {
            Some(host) => proxy.hosts.iter().any(|rule| matches!(rule, HostRule::Exact(known) if known == host)),
            None => proxy.hosts.iter().any(|rule| matches!(rule, HostRule::Instance(_))),
        };
        if !of_credentials || !reached {
            continue;
        }
        let path = step.url.sample_path();
        let host = step.url.fixed_host().unwrap_or_default();
        if !proxy.is_credential_path(&step.method, host, path.as_bytes()) {
            let table = top.table_or_empty("proxy");
            table.wrong("credential_paths", format!("lacks {} {path}, which {key} calls", step.method));
        }
    }
}

/// RFC 9700 section 2.4: with the password grant a person's password passes through whoever asks, and no second factor helps.
/// A `session` logs in with a password by its nature, and not by OAuth.
fn no_password_grant(definition: &Definition, top: &Table<'_>) {
    if definition.kind == Kind::Session {
        return;
    }
    for (key, step) in all_steps(definition) {
        let members = step.json.iter().flat_map(|json| match json {
            JsonTemplate::Object(members) => members.as_slice(),
            _ => &[],
        });
        let in_json = members.filter_map(|(name, value)| match value {
            JsonTemplate::Text(template) => Some((name, template)),
            _ => None,
        });
        let mut all = step.query.iter().chain(&step.form).map(|(name, template)| (name, template)).chain(in_json);
        let asks = all.any(|(name, template)| {
            name.eq_ignore_ascii_case("grant_type") && template.to_string().trim().eq_ignore_ascii_case("password")
        });
        if asks || step.url.as_str().to_ascii_lowercase().contains("grant_type=password") {
            top.wrong(&key, "asks for the password grant, which RFC 9700 forbids; use the code flow");
        }
    }
}

/// Every step with the key it stands under.
pub(super) fn all_steps(definition: &Definition) -> Vec<(String, &Step)> {
    let mut steps: Vec<(String, &Step)> = Vec::new();
    if let Some(oauth2) = &definition.oauth2 {
        steps.push(("oauth2.token".to_owned(), &oauth2.token));
        if let Some(device) = &oauth2.device {
            steps.push(("oauth2.device".to_owned(), &device.request));
            steps.push(("oauth2.device token".to_owned(), &device.token));
        }
        steps.extend(oauth2.exchange.iter().map(|(name, step)| (format!("oauth2.exchange {name}"), step)));
    }
    if let Some(oauth1) = &definition.oauth1 {
        steps.push(("oauth1.request_token_url".to_owned(), &oauth1.request));
        steps.push(("oauth1.token".to_owned(), &oauth1.token));
    }
    steps.extend(definition.revoke.iter().flat_map(|revoke| revoke.steps.iter()).map(|step| ("revoke".to_owned(), step)));
    if let Identity::Step(step) = &definition.identity {
        steps.push(("identity".to_owned(), step));
    }
    for (key, step) in [
        ("mint", definition.mint.as_ref()),
        ("session.login", definition.session.as_ref().map(|session| &session.login)),
        ("register", definition.register.as_ref()),
        ("refresh", definition.refresh.step.as_ref()),
        ("scope_check", definition.scope_check.as_ref()),
        ("verify", definition.verify.as_ref()),
    ] {
        steps.extend(step.map(|step| (key.to_owned(), step)));
    }
    let resolve = definition.session.iter().flat_map(|session| &session.resolve);
    steps.extend(resolve.map(|step| ("session.resolve".to_owned(), step)));
    steps.extend(definition.resources.iter().map(|(name, step)| (format!("resources.{name}"), step)));
    steps
}

impl super::url_template::UrlTemplate {
    /// The path with `x` for every value.
    fn sample_path(&self) -> String {
        let path: String = self
            .path_parts()
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Value(_) => "x",
            })
            .collect();
        if path.is_empty() { "/".to_owned() } else { path }
    }
}
