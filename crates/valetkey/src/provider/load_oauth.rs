//! Reading the sections by which tokens come and go: OAuth 2.0, OAuth 1.0a, refresh, revoke, resources.

use std::time::Duration;

use http::Method;

use super::{
    definition::{Device, Fallback, OAuth1, OAuth2, Refresh, Revoke, Scopes},
    load_step::{Basis, Steps},
    spanned::{Item, Table},
    step::Step,
    template::Template,
    url_template::UrlTemplate,
    words::{Auth, BodyFormat, ClientAuth, Flow, Kills, Kind, Pkce, PkceEncoding, RedirectRule, RefreshStrategy, Role, Rotation},
};

const OAUTH2: &[&str] = &[
    "authorize_url",
    "token_url",
    "issuer",
    "iss_supported",
    "flows",
    "client_auth",
    "client_id_param",
    "client_secret_param",
    "pkce",
    "pkce_encoding",
    "scope_separator",
    "scope_separator_out",
    "scope_param",
    "scope_params",
    "scopes",
    "authorize_params",
    "code_strip_suffix",
    "redirect_rule",
    "token_types",
    "token",
    "exchange",
    "device_url",
    "device",
];

const OAUTH1: &[&str] =
    &["request_token_url", "authorize_url", "token_url", "signature", "temp_ttl", "denied_param", "request", "token"];

const REFRESH: &[&str] = &[
    "strategy",
    "use",
    "before",
    "access_ttl",
    "min_age",
    "accept_expired",
    "rotation",
    "replay_kills_family",
    "grace",
    "refresh_ttl",
    "refresh_ttl_sliding",
    "terminal_errors",
    "then",
    "fallback",
];

/// How long before the expiry a refresh is due, where a definition says nothing.
const BEFORE: Duration = Duration::from_secs(5 * 60);

impl Steps<'_, '_> {
    /// The section `oauth2`.
    pub(super) fn oauth2(&self) -> Option<OAuth2> {
        let loader = self.loader;
        if loader.kind != Kind::OAuth2 {
            return None;
        }
        let Some(table) = loader.top.table("oauth2") else {
            loader.top.missing("oauth2", "kind = \"oauth2\"");
            return None;
        };
        table.allow(OAUTH2);
        let flows: Vec<Flow> = match table.has("flows") {
            true => table.list("flows").iter().filter_map(Item::word).collect(),
            false => vec![Flow::Code],
        };
        let with_code = flows.contains(&Flow::Code);
        if with_code {
            for key in ["authorize_url", "pkce", "scope_separator"] {
                if !table.has(key) {
                    table.missing(key, "the code flow");
                }
            }
        }
        let authorize_url = loader.url(&table, "authorize_url");
        if authorize_url.as_ref().is_some_and(|url| url.is_secret()) {
            table.wrong("authorize_url", "holds a secret; the browser sees it");
        }
        let authorize_params = loader.templates(&table, "authorize_params");
        // What the flow rests on, and what the engine fills in.
        let mut taken = vec!["response_type", "redirect_uri", "state", "code_challenge", "code_challenge_method"];
        taken.extend([self.client().id_param.as_str(), table.text("scope_param").unwrap_or("scope")]);
        for (name, template) in &authorize_params {
            if taken.contains(&name.as_str()) {
                table.table_or_empty("authorize_params").wrong(name, "is set by us");
            }
            if template.is_secret() {
                table.table_or_empty("authorize_params").wrong(name, "holds a secret; the browser sees it");
            }
        }
        if !table.has("token_url") {
            table.missing("token_url", "");
        }
        if !table.has("client_auth") {
            table.missing("client_auth", "one of none, body, basic, basic+client_id");
        }
        let scopes = self.scopes(&table);
        let token_url = loader.url(&table, "token_url")?;
        let own = |name: &str, text: &str| Some((name.to_owned(), Template::parse(text, &loader.names()).ok()?));
        let form: Vec<_> = if with_code {
            vec![
                own("grant_type", "authorization_code"),
                own("code", "{{code}}"),
                own("redirect_uri", "{{callback}}"),
                own("code_verifier", "{{code_verifier}}"),
            ]
        } else if flows.contains(&Flow::ClientCredentials) {
            vec![own("grant_type", "client_credentials"), own("scope", "{{scopes}}")]
        } else {
            device_form(&own)
        };
        let basis = Basis {
            method: Some(Method::POST),
            url: Some(token_url.clone()),
            form: form.into_iter().flatten().collect(),
            auth: Some(Auth::Client),
            brings_token: true,
            ..Basis::default()
        };
        let token = self.read_on(&table.table_or_empty("token"), basis)?;
        let device = match flows.contains(&Flow::Device) {
            true => self.device(&table, &token_url),
            false => None,
        };
        for key in ["device_url", "device"] {
            if table.has(key) && !flows.contains(&Flow::Device) {
                table.wrong(key, "belongs to flows = [\"device\"]");
            }
        }
        let exchange = table.list("exchange").iter().filter_map(|item| self.exchange(item)).collect();
        let text = |key: &str| table.text(key).map(str::to_owned);
        Some(OAuth2 {
            authorize_url,
            token_url,
            issuer: self.issuer(&table),
            iss_supported: table.flag("iss_supported"),
            flows,
            client_auth: self.client().auth,
            client_id_param: self.client().id_param.clone(),
            client_secret_param: self.client().secret_param.clone(),
            pkce: table.word("pkce").unwrap_or(Pkce::Off),
            pkce_encoding: table.word("pkce_encoding").unwrap_or(PkceEncoding::Base64Url),
            scope_separator: text("scope_separator").unwrap_or_else(|| " ".to_owned()),
            scope_separator_out: self.separator_out().to_owned(),
            scope_param: text("scope_param").unwrap_or_else(|| "scope".to_owned()),
            scope_params: match table.table("scope_params") {
                Some(params) => {
                    params.items().filter_map(|(name, item)| Some((name.to_owned(), item.text()?.to_owned()))).collect()
                }
                None => Vec::new(),
            },
            scopes,
            authorize_params,
            code_strip_suffix: text("code_strip_suffix"),
            redirect_rule: table.word("redirect_rule").unwrap_or(RedirectRule::Any),
            token,
            exchange,
            device,
        })
    }

    /// The device grant (RFC 8628 sections 3.1 and 3.4). `[oauth2.token]` is about its token request too.
    fn device(&self, table: &Table<'_>, token_url: &UrlTemplate) -> Option<Device> {
        let loader = self.loader;
        let own = |name: &str, text: &str| Some((name.to_owned(), Template::parse(text, &loader.names()).ok()?));
        if !table.has("device_url") {
            table.missing("device_url", "flows = [\"device\"]");
        }
        let request = Basis {
            method: Some(Method::POST),
            url: Some(loader.url(table, "device_url")?),
            form: [own("scope", "{{scopes}}")].into_iter().flatten().collect(),
            auth: Some(Auth::Client),
            ..Basis::default()
        };
        let token = Basis {
            method: Some(Method::POST),
            url: Some(token_url.clone()),
            form: device_form(&own).into_iter().flatten().collect(),
            auth: Some(Auth::Client),
            brings_token: true,
            ..Basis::default()
        };
        Some(Device {
            request: self.read_on(&table.table_or_empty("device"), request)?,
            token: self.read_on(&table.table_or_empty("token"), token)?,
        })
    }

    fn scopes(&self, table: &Table<'_>) -> Scopes {
        let Some(scopes) = table.table("scopes") else {
            table.missing("scopes", "`default`, and `offline` for those that unlock a refresh token");
            return Scopes::default();
        };
        scopes.allow(&["default", "offline"]);
        if !scopes.has("default") {
            scopes.missing("default", "an empty list is fine");
        }
        for key in ["default", "offline"] {
            for item in scopes.list(key) {
                // RFC 6749 section 3.3: visible ASCII without space, `"` and `\`.
                let fine =
                    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
                if item.text().is_some_and(|text| !fine(text)) {
                    item.report("a scope is one word; write several as a list");
                }
            }
        }
        Scopes { default: scopes.texts("default"), offline: scopes.texts("offline") }
    }

    fn issuer(&self, table: &Table<'_>) -> Option<String> {
        if table.flag("iss_supported") && !table.has("issuer") {
            table.missing("issuer", "iss_supported says that one is sent");
        }
        let issuer = table.text("issuer")?;
        // RFC 9207 section 2: https, no query, no fragment. Compared as it is written.
        let scheme_is_fine = issuer.starts_with("https://") || (self.loader.loopback_http && issuer.starts_with("http://"));
        if !scheme_is_fine || issuer.contains(['?', '#', '{', ' ']) || url::Url::parse(issuer).is_err() {
            table.wrong("issuer", "an issuer is an https:// URL without query and fragment");
        }
        Some(issuer.to_owned())
    }

    fn exchange(&self, item: &Item<'_>) -> Option<(String, Step)> {
        let table = Table::of(item)?;
        let name = table.needed_text("name").unwrap_or_default().to_owned();
        let step = self.read_on(&table, Basis { more_keys: &["name"], brings_token: true, ..Basis::default() })?;
        Some((name, step))
    }

    /// The section `oauth1`.
    pub(super) fn oauth1(&self) -> Option<OAuth1> {
        let loader = self.loader;
        if loader.kind != Kind::OAuth1 {
            return None;
        }
        let Some(table) = loader.top.table("oauth1") else {
            loader.top.missing("oauth1", "kind = \"oauth1\"");
            return None;
        };
        table.allow(OAUTH1);
        for key in ["request_token_url", "authorize_url", "token_url"] {
            if !table.has(key) {
                table.missing(key, "");
            }
        }
        let authorize_url = loader.url(&table, "authorize_url");
        if authorize_url.as_ref().is_some_and(|url| url.is_secret()) {
            table.wrong("authorize_url", "holds a secret; the browser sees it");
        }
        let own = |name: &str, text: &str| Some((name.to_owned(), Template::parse(text, &loader.names()).ok()?));
        let step = |section: &str, url: &str, member: Option<(String, Template)>| {
            let basis = Basis {
                method: Some(Method::POST),
                url: Some(loader.url(&table, url)?),
                form: member.into_iter().collect(),
                auth: Some(Auth::Signed),
                format: Some(BodyFormat::Form),
                brings_token: true,
                ..Basis::default()
            };
            self.read_on(&table.table_or_empty(section), basis)
        };
        // RFC 5849 sections 2.1 and 2.3.
        let request = step("request", "request_token_url", own("oauth_callback", "{{callback}}"));
        let token = step("token", "token_url", own("oauth_verifier", "{{code}}"));
        Some(OAuth1 {
            request: request?,
            authorize_url: authorize_url?,
            token: token?,
            signature: self.client().signature,
            temp_ttl: table.duration("temp_ttl").unwrap_or(Duration::from_secs(15 * 60)),
            denied_param: table.text("denied_param").map(str::to_owned),
        })
    }

    /// The section `refresh`.
    pub(super) fn refresh(&self, oauth2: Option<&OAuth2>, mint: Option<&Step>, login: Option<&Step>) -> Refresh {
        let top = &self.loader.top;
        if !top.has("refresh") && !matches!(self.loader.kind, Kind::Static | Kind::Mail) {
            top.missing("refresh", "strategy = \"none\" says that tokens live until they are revoked");
        }
        let table = top.table_or_empty("refresh");
        let strategy = match top.has("refresh") {
            true => table.needed_word("strategy").unwrap_or(RefreshStrategy::None),
            false => RefreshStrategy::None,
        };
        let terminal_errors: Vec<String> = table.texts("terminal_errors").iter().map(|word| word.to_ascii_lowercase()).collect();
        let step = match strategy {
            RefreshStrategy::None => {
                table.allow(REFRESH);
                None
            }
            RefreshStrategy::RefreshToken if table.has("url") => self.refresh_step(&table, Basis::default()),
            RefreshStrategy::RefreshToken => match oauth2 {
                Some(oauth2) => self.standard_refresh(&table, oauth2),
                None => {
                    // An oauth2 section that could not be read has been reported.
                    if self.loader.kind != Kind::OAuth2 {
                        table.missing("url", "only oauth2 has a standard refresh request");
                    }
                    None
                }
            },
            RefreshStrategy::Extend => match table.text("use") {
                Some(name) => {
                    table.allow(REFRESH);
                    let exchange = oauth2.and_then(|oauth2| oauth2.exchange.iter().find(|(known, _)| known == name));
                    if exchange.is_none() && oauth2.is_some() {
                        table.wrong("use", format!("there is no oauth2.exchange with the name \"{name}\""));
                    }
                    exchange.map(|(_, step)| step.clone())
                }
                None => self.refresh_step(&table, Basis::default()),
            },
            RefreshStrategy::Remint => {
                table.allow(REFRESH);
                let credentials = oauth2.filter(|oauth2| oauth2.flows == [Flow::ClientCredentials]).map(|oauth2| &oauth2.token);
                let again = mint.or(login).or(credentials).cloned();
                if again.is_none() {
                    table
                        .wrong("strategy", "there is nothing to mint with: no [mint], no [session.login], no client credentials");
                }
                again
            }
        };
        let then = table.texts("then");
        for item in table.list("then") {
            let known = item.text().and_then(|text| text.strip_prefix("resources."));
            if !known.is_some_and(|name| top.table_or_empty("resources").has(name)) {
                item.report("is not `resources.NAME` of a declared list");
            }
        }
        let fallback = table.text("fallback").and_then(|text| match text {
            "session.login" if login.is_some() => Some(Fallback::SessionLogin),
            _ => {
                table.wrong("fallback", format!("\"{text}\" is not session.login, or there is none"));
                None
            }
        });
        let rotation = table.word("rotation").unwrap_or(Rotation::Maybe);
        let grace = table.duration("grace");
        if grace.is_some() && rotation == Rotation::Never {
            table.wrong("grace", "a refresh token that never changes needs none");
        }
        Refresh {
            strategy,
            step: step.map(|step| Step { terminal_errors: terminal_errors.clone(), ..step }),
            before: table.duration("before").unwrap_or(BEFORE),
            access_ttl: table.duration("access_ttl"),
            min_age: table.duration("min_age"),
            accept_expired: table.truth("accept_expired").unwrap_or(true),
            rotation,
            replay_kills_family: table.flag("replay_kills_family"),
            grace,
            refresh_ttl: table.duration("refresh_ttl"),
            refresh_ttl_sliding: table.flag("refresh_ttl_sliding"),
            terminal_errors,
            then,
            fallback,
        }
    }

    fn refresh_step(&self, table: &Table<'_>, basis: Basis<'_>) -> Option<Step> {
        self.read_on(table, Basis { more_keys: REFRESH, brings_token: true, ..basis })
    }

    /// RFC 6749 section 6, with answers that look like those of the token request.
    fn standard_refresh(&self, table: &Table<'_>, oauth2: &OAuth2) -> Option<Step> {
        let own = |name: &str, text: &str| Some((name.to_owned(), Template::parse(text, &self.loader.names()).ok()?));
        let form = [own("grant_type", "refresh_token"), own("refresh_token", "{{token.refresh_token}}")];
        let basis = Basis {
            method: Some(Method::POST),
            url: Some(oauth2.token_url.clone()),
            form: form.into_iter().flatten().collect(),
            auth: Some(Auth::Client),
            like: Some(&oauth2.token),
            ..Basis::default()
        };
        self.refresh_step(table, basis)
    }

    /// The section `revoke`: one step, or a list of them under `steps`.
    pub(super) fn revoke(&self, table: &Table<'_>) -> Option<Revoke> {
        let kills = table.needed_word::<Kills>("kills");
        let steps: Vec<Step> = match table.has("steps") {
            true => {
                table.allow(&["kills", "steps"]);
                table.list("steps").iter().filter_map(|item| self.read(&Table::of(item)?)).collect()
            }
            false => self.read_on(table, Basis { more_keys: &["kills", "steps"], ..Basis::default() }).into_iter().collect(),
        };
        Some(Revoke { steps, kills: kills? })
    }

    /// The section `resources`.
    pub(super) fn resources(&self) -> Vec<(String, Step)> {
        let top = &self.loader.top;
        let Some(resources) = top.table("resources") else { return Vec::new() };
        let read = |(name, item): (&str, Item<'_>)| {
            let table = Table::of(&item)?;
            let step = self.read(&table)?;
            if step.list.is_none() {
                table.missing("list", "where the entries stand");
            }
            if step.out.contains_key("token") != step.slot.is_some() {
                table.wrong("slot", "a list whose entries bring a token names the slot for it, and no other list does");
            }
            if step.slot.as_ref().is_some_and(|slot| !top.table_or_empty("slots").has(slot)) {
                table.wrong("slot", "is not declared in [slots]");
            }
            Some((name.to_owned(), step))
        };
        resources.items().filter_map(read).collect()
    }

    /// Whether the client can name itself: a field with the role, or a registration.
    pub(super) fn client_is_known(&self) -> bool {
        let top = &self.loader.top;
        top.has("register")
            || self.client().auth == ClientAuth::None
            || self.loader.names().fields.iter().any(|field| field.role == Some(Role::ClientId))
    }
}

/// The members of RFC 8628 section 3.4.
fn device_form<T>(own: &impl Fn(&str, &str) -> Option<T>) -> Vec<Option<T>> {
    vec![own("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), own("device_code", "{{code}}")]
}
