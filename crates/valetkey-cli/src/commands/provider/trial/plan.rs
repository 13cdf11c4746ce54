//! What a definition says, as a script for the lab, and what a person would enter for it.
//!
//! Read from the definition's own texts and not by the code that carries it out, so that the two are compared.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use provider_lab::{
    At,
    script::{
        Answer, Authorize, Call, Challenge, Param, Pattern, Piece, Place, Role as For, Said, Script, Signing, TokenLife, Tree,
        Value,
    },
};
use serde_json::{Map, Value as Json};
use valetkey::provider::{
    Auth, BodyFormat, ClientAuth, Definition, ExpiresAtFormat, ExpiresFrom, FieldLevel, Flow, HostRule, Identity, Inject, Kind,
    Pkce, PkceEncoding, Proxy, RefreshStrategy, Role, Rotation, Template, ValuePath,
    step::{JsonTemplate, Step},
};

use super::{
    entries,
    pieces::{header, joined, signs, text_param},
    tree,
};

/// The account that somebody signs in with at the lab.
const SUBJECT: &str = "1001";
/// How many entries a list has to choose from.
const ENTRIES: usize = 2;
/// The id of the first of them, which is the one that is chosen.
const CHOSEN: &str = "1001-0";
/// How long a token lives where the definition does not say.
const LIFE: Duration = Duration::from_secs(3600);
/// How long after a refresh the next one may be asked for.
const PAUSE: Duration = Duration::from_secs(120);

/// A definition, ready to be tried.
pub(super) struct Plan {
    /// What the lab plays.
    pub(super) script: Script,
    /// What is entered for the app.
    pub(super) app: Map<String, Json>,
    /// What is entered for an account.
    pub(super) entered: BTreeMap<String, String>,
    /// Whose account it will be, where something upstream says so.
    pub(super) subject: Option<String>,
    /// The call that connecting hangs on.
    pub(super) first: Option<First>,
    /// Whether the provider gives out tokens.
    pub(super) mints: bool,
    /// The call that renews.
    pub(super) refresh: Option<(At, Step)>,
    /// How long a token lives.
    pub(super) life: Duration,
    /// How old a token must be before it is renewed.
    pub(super) young: Duration,
    /// A call of the API that an agent may make.
    pub(super) api: Option<Api>,
}

/// The call that connecting hangs on.
pub(super) struct First {
    /// Where misbehaviour is told for it.
    pub(super) at: At,
    /// The call.
    pub(super) step: Step,
    /// Whether what it answers is read.
    pub(super) is_read: bool,
    /// A member of its answer.
    pub(super) member: Option<String>,
}

/// A call of the API that an agent may make.
pub(super) struct Api {
    /// The method: one that has a body, where the credential goes into it.
    pub(super) method: Method,
    /// The path, below the base of the proxy.
    pub(super) path: String,
}

/// Why a definition cannot be tried.
pub(super) enum NoPlan {
    /// It is not for the lab.
    NotForTheLab(String),
    /// It cannot be carried out.
    Wrong(String),
}

/// The values that texts of the definition are filled with.
struct Words<'d> {
    definition: &'d Definition,
    values: BTreeMap<String, String>,
    extras: BTreeMap<String, String>,
    callback: &'d str,
}

impl Plan {
    /// What is to be played and entered for a definition. `callback` is where a browser comes back to.
    pub(super) fn new(definition: &Definition, callback: &str) -> Result<Self, NoPlan> {
        if definition.mail.is_some() {
            return not_for_the_lab("it leads to a mailbox, and mail is not HTTP; our tests try that against Dovecot and Exim");
        }
        match definition.kind {
            Kind::Mail => return Err(NoPlan::Wrong("a definition of mail has no [mail]".to_owned())),
            Kind::OAuth1 | Kind::OAuth2 | Kind::JwtBearer | Kind::Session | Kind::Static => {}
        }
        if definition.oauth2.as_ref().is_some_and(|oauth2| oauth2.flows == [Flow::Device]) {
            return not_for_the_lab("our tests try signing in on another device, and not here");
        }
        let mut values = BTreeMap::new();
        for field in &definition.fields {
            let value = entries::value_of(definition, field).map_err(NoPlan::Wrong)?;
            let accepted = field.accept(&value);
            let accepted = accepted.map_err(|error| NoPlan::Wrong(format!("no value fits a field: {}", error.message())))?;
            values.insert(field.name.clone(), accepted.unwrap_or_default());
        }
        let mut extras = entries::extras_of(definition).map_err(NoPlan::Wrong)?;
        // What stands in the place of the id is the id.
        for (_, step) in steps(definition) {
            let place = |paths: &[ValuePath]| paths.first().map(|path| path.as_str().to_owned());
            let Some(id) = step.out.get("id").and_then(|paths| place(paths)) else { continue };
            for (name, paths) in &step.out {
                if let (Some(extra), true) = (name.strip_prefix("extra."), place(paths).as_deref() == Some(&*id)) {
                    extras.insert(extra.to_owned(), SUBJECT.to_owned());
                }
            }
        }
        let words = Words { definition, values, extras, callback };
        words.plan().map_err(NoPlan::Wrong)
    }
}

fn not_for_the_lab<T>(why: &str) -> Result<T, NoPlan> {
    Err(NoPlan::NotForTheLab(why.to_owned()))
}

/// The calls of a definition, each with what it is for. One that is made for two reasons stands here once.
fn steps(definition: &Definition) -> Vec<(For, &Step)> {
    let mut all: Vec<(For, Option<&Step>)> = vec![(For::Register, definition.register.as_ref())];
    if let Some(oauth1) = &definition.oauth1 {
        all.extend([(For::Temporary, Some(&oauth1.request)), (For::First, Some(&oauth1.token))]);
    }
    if let Some(oauth2) = &definition.oauth2 {
        all.push((For::First, Some(&oauth2.token)));
        all.extend(oauth2.exchange.iter().map(|(_, step)| (For::Exchange, Some(step))));
    }
    // What finds out where an account is comes before anybody logs in there.
    all.extend(definition.session.iter().flat_map(|session| &session.resolve).map(|step| (For::Details, Some(step))));
    all.push((For::First, definition.session.as_ref().map(|session| &session.login)));
    all.push((For::First, definition.mint.as_ref()));
    all.push((For::Refresh, definition.refresh.step.as_ref()));
    all.extend(definition.revoke.iter().flat_map(|revoke| &revoke.steps).map(|step| (For::Revoke, Some(step))));
    if let Identity::Step(step) = &definition.identity {
        all.push((For::Identity, Some(step)));
    }
    for step in [&definition.scope_check, &definition.verify] {
        all.push((For::Details, step.as_ref()));
    }
    all.extend(definition.resources.iter().map(|(_, step)| (For::Details, Some(step))));
    let mut steps: Vec<(For, &Step)> = Vec::new();
    for (role, step) in all.into_iter().filter_map(|(role, step)| Some((role, step?))) {
        if !steps.iter().any(|(_, known)| is_same(known, step)) {
            steps.push((role, step));
        }
    }
    steps
}

/// Whether two steps make the same request.
fn is_same(a: &Step, b: &Step) -> bool {
    let texts = |step: &Step| {
        let pairs = step.query.iter().chain(&step.form).map(|(name, value)| format!("{name}={value}"));
        (step.method.clone(), step.url.as_str().to_owned(), step.auth, step.json.is_some(), pairs.collect::<Vec<_>>())
    };
    texts(a) == texts(b)
}

impl Words<'_> {
    fn plan(&self) -> Result<Plan, String> {
        let definition = self.definition;
        let mut calls = Vec::new();
        for (role, step) in steps(definition) {
            calls.push(self.call(role, step)?);
        }
        let proxy = definition.proxy.as_ref();
        let authorize = self.authorize()?;
        let mut hosts: Vec<String> = calls.iter().map(|call| call.host.clone()).collect();
        hosts.extend(authorize.iter().map(|authorize| authorize.host.clone()));
        for rule in proxy.into_iter().flat_map(|proxy| &proxy.hosts) {
            hosts.push(match rule {
                HostRule::Exact(host) => host.clone(),
                HostRule::Instance(template) => self.known(template.as_str()).unwrap_or_default(),
            });
        }
        hosts.retain(|host| !host.is_empty());
        hosts.sort();
        hosts.dedup();
        let refresh = &definition.refresh;
        let first = self.first();
        let life = self.life();
        let mints = calls.iter().any(|call| call.role == For::First);
        let place_of = |step: &Step| {
            let role = steps(definition).into_iter().find(|(_, known)| is_same(known, step)).map(|(role, _)| role);
            match role {
                Some(For::First) => At::Code,
                Some(For::Exchange) => At::Exchange,
                _ => At::Refresh,
            }
        };
        let script = Script {
            hosts,
            authorize,
            calls,
            credential: proxy.map(|proxy| self.injected(&proxy.inject)).unwrap_or_default(),
            tokens: TokenLife {
                access: life.as_secs(),
                refresh: refresh.refresh_ttl.map_or(30 * 86_400, |life| life.as_secs()),
                rotates: refresh.rotation != Rotation::Never,
                grace: refresh.grace.map_or(0, |grace| grace.as_secs()),
                reuse_kills_family: refresh.replay_kills_family,
                jwt: steps(definition).iter().any(|(_, step)| step.expires_from == Some(ExpiresFrom::JwtExp)),
            },
            signing: definition.oauth1.as_ref().map(|oauth1| Signing {
                key: self.client_id(),
                secret: self.client_secret().unwrap_or_default(),
                denied_param: oauth1.denied_param.clone(),
                api: proxy.is_some_and(|proxy| signs(&proxy.inject)),
            }),
        };
        let of_level = |level| definition.fields_of(level).filter_map(|field| Some((&field.name, self.values.get(&field.name)?)));
        let entered = |(_, value): &(&String, &String)| !value.is_empty();
        Ok(Plan {
            script,
            app: of_level(FieldLevel::App)
                .filter(entered)
                .map(|(name, value)| (name.clone(), Json::from(value.as_str())))
                .collect(),
            entered: of_level(FieldLevel::Connection)
                .filter(entered)
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            subject: match &definition.identity {
                Identity::Step(_) => Some(SUBJECT.to_owned()),
                Identity::Static(members) => {
                    members.iter().find(|(name, _)| name == "id").and_then(|(_, id)| self.known(id.as_str()))
                }
                Identity::None { .. } => None,
            },
            first,
            mints,
            refresh: refresh.step.as_ref().map(|step| (place_of(step), step.clone())),
            life,
            young: refresh.min_age.map_or(PAUSE, |age| age + PAUSE),
            api: proxy.and_then(|proxy| self.api(proxy)),
        })
    }

    /// How long an access token lives.
    fn life(&self) -> Duration {
        let definition = self.definition;
        let said = steps(definition).into_iter().filter_map(|(_, step)| step.default_expires_in).max();
        definition.refresh.access_ttl.or(said).unwrap_or(LIFE)
    }

    fn first(&self) -> Option<First> {
        let calls = steps(self.definition);
        let of = |role: For| calls.iter().find(|(known, _)| *known == role).map(|(_, step)| *step);
        let details = || self.definition.verify.as_ref().map(|step| (At::Details, step));
        let (at, step) = of(For::First)
            .map(|step| (At::Code, step))
            .or_else(|| of(For::Identity).map(|step| (At::Userinfo, step)))
            .or_else(details)?;
        let output = if step.brings_token { "access_token" } else { "id" };
        let is_read = step.brings_token || !step.out.is_empty() || !step.fail_when.is_empty();
        Some(First { at, step: step.clone(), is_read, member: tree::first_member(step, output) })
    }

    fn authorize(&self) -> Result<Option<Authorize>, String> {
        if let Some(oauth1) = &self.definition.oauth1 {
            let (host, path) = self.page(oauth1.authorize_url.as_str())?;
            let token = Param { value: Pattern::value(Value::AccessToken), ..text_param("oauth_token", "") };
            return Ok(Some(Authorize {
                host,
                path,
                params: vec![token],
                redirect_uri: self.callback.to_owned(),
                challenge: None,
                issuer: None,
                code_suffix: None,
                by_token: true,
            }));
        }
        let Some(oauth2) = self.definition.oauth2.as_ref().filter(|oauth2| oauth2.flows.contains(&Flow::Code)) else {
            return Ok(None);
        };
        let Some(url) = &oauth2.authorize_url else { return Ok(None) };
        let (host, path) = self.page(url.as_str())?;
        let mut params = vec![
            text_param("response_type", "code"),
            text_param(&oauth2.client_id_param, &self.client_id()),
            text_param("redirect_uri", self.callback),
        ];
        let scopes = self.definition.needed_scopes();
        if !scopes.is_empty() {
            params.push(text_param(&oauth2.scope_param, &scopes.join(&oauth2.scope_separator)));
        }
        for (name, slot) in &oauth2.scope_params {
            let scopes = self.definition.slots.iter().find(|(known, _)| known == slot).map(|(_, slot)| slot.scopes.as_slice());
            if let Some(scopes) = scopes.filter(|scopes| !scopes.is_empty()) {
                params.push(text_param(name, &scopes.join(&oauth2.scope_separator)));
            }
        }
        params.extend(self.params(Place::Query, &oauth2.authorize_params));
        Ok(Some(Authorize {
            host,
            path,
            params,
            redirect_uri: self.callback.to_owned(),
            challenge: (oauth2.pkce != Pkce::Off).then_some(match oauth2.pkce_encoding {
                PkceEncoding::Base64Url => Challenge::Base64Url,
                PkceEncoding::Hex => Challenge::Hex,
            }),
            issuer: oauth2.issuer.clone(),
            code_suffix: oauth2.code_strip_suffix.clone(),
            by_token: false,
        }))
    }

    /// The host and the path of a page that a browser is sent to.
    fn page(&self, url: &str) -> Result<(String, String), String> {
        let (host, path) = self.place(url)?;
        match path.0.as_slice() {
            [Piece::Text(path)] => Ok((host, path.clone())),
            _ => Err(format!("{url} is not one address")),
        }
    }

    fn call(&self, role: For, step: &Step) -> Result<Call, String> {
        let (host, path) = self.place(step.url.as_str())?;
        let mut params = self.params(Place::Query, &step.query);
        let is_signed = step.auth == Auth::Signed || signs(&step.inject);
        params.extend(self.params(Place::Form, &step.form));
        if is_signed {
            // They stand in one place only, which is the header (RFC 5849 section 3.5).
            for param in params.iter_mut().filter(|param| param.place == Place::Form && param.name.starts_with("oauth_")) {
                param.place = Place::Signature;
            }
        }
        params.extend(self.params(Place::Header, &step.headers));
        if let Some(json) = &step.json {
            self.members(json, "", &mut params);
        }
        params.extend(self.proof(step));
        Ok(Call { role, method: step.method.to_string(), host, path, params, is_signed, answer: self.answer(role, step) })
    }

    /// How a step authenticates.
    fn proof(&self, step: &Step) -> Vec<Param> {
        let bearer = |value| vec![header("authorization", vec![Piece::Text("Bearer ".to_owned()), Piece::Value(value)])];
        let basic =
            |pair: String| header("authorization", vec![Piece::Text("Basic ".to_owned()), Piece::Base64(Pattern::text(pair))]);
        let form = |name: &str, value: &str| Param { place: Place::Form, ..text_param(name, value) };
        let (id, secret) = (self.client_id(), self.client_secret());
        let style = &step.client;
        match step.auth {
            Auth::None | Auth::Signed => Vec::new(),
            Auth::Bearer => bearer(Value::AccessToken),
            Auth::BearerRefresh => bearer(Value::RefreshToken),
            Auth::Jwt => bearer(Value::Assertion),
            Auth::ClientBasic => vec![basic(format!("{id}:{}", secret.unwrap_or_default()))],
            Auth::Proxy => self.injected(&step.inject),
            Auth::Client => match (style.auth, secret) {
                (ClientAuth::None, _) | (_, None) => vec![form(&style.id_param, &id)],
                (ClientAuth::Body, Some(secret)) => vec![form(&style.id_param, &id), form(&style.secret_param, &secret)],
                (ClientAuth::Basic, Some(secret)) => vec![basic(format!("{id}:{secret}"))],
                (ClientAuth::BasicAndClientId, Some(secret)) => {
                    vec![form(&style.id_param, &id), basic(format!("{id}:{secret}"))]
                }
            },
        }
    }

    /// Where the credential stands in a call of the API.
    fn injected(&self, inject: &[Inject]) -> Vec<Param> {
        let one = |inject: &Inject| match inject {
            Inject::Header { name, value, .. } => self.param(Place::Header, name, value.as_str()),
            Inject::Query { name, value, .. } => self.param(Place::Query, name, value.as_str()),
            Inject::Form { name, value, .. } => self.param(Place::Form, name, value.as_str()),
            Inject::Json { name, value, .. } => {
                let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
                self.param(Place::Json, &pointer, value.as_str())
            }
            Inject::Basic { user, password } => {
                let mut pair = self.pattern(user.as_str());
                pair.0.push(Piece::Text(":".to_owned()));
                pair.0.extend(self.pattern(password.as_str()).0);
                Some(header("authorization", vec![Piece::Text("Basic ".to_owned()), Piece::Base64(joined(pair))]))
            }
            Inject::Oauth1Signature => None,
        };
        inject.iter().filter_map(one).collect()
    }

    fn answer(&self, role: For, step: &Step) -> Answer {
        let form = step.format == BodyFormat::Form;
        if role == For::Revoke && step.out.is_empty() && step.fail_when.is_empty() {
            return Answer { form, body: None };
        }
        let entries = match step.out.contains_key("scope") {
            true if step.list.is_some() => self.definition.needed_scopes().len(),
            _ => ENTRIES,
        };
        let mut body = tree::success(step, entries, |name, number| self.output(role, step, name, number));
        if role == For::Temporary {
            // RFC 5849 section 2.1: without it the callback was not understood.
            tree::put(&mut body, "oauth_callback_confirmed", Tree::Plain("true".into()));
        }
        Answer { form, body: Some(body) }
    }

    /// What an answer says of one output.
    fn output(&self, role: For, step: &Step, name: &str, number: usize) -> Option<Tree> {
        let definition = self.definition;
        let plain = |text: &str| Some(Tree::Plain(text.into()));
        let ends = definition.refresh.step.is_some() || definition.refresh.access_ttl.is_some();
        let renews_by_refresh_token = definition.refresh.strategy == RefreshStrategy::RefreshToken && role != For::Exchange;
        match name {
            "access_token" => tree::said(Said::AccessToken),
            "token_secret" => tree::said(Said::TokenSecret),
            "refresh_token" if renews_by_refresh_token => tree::said(Said::RefreshToken),
            "token" => tree::said(Said::ResourceToken),
            "token_type" => {
                plain(step.token_types.first().map_or("Bearer", |kind| if kind == "bearer" { "Bearer" } else { kind.as_str() }))
            }
            "expires_in" if ends && !step.out.contains_key("expires_at") => tree::said(Said::ExpiresIn),
            "expires_at" if ends => tree::said(match step.expires_at_format {
                ExpiresAtFormat::Seconds => Said::ExpiresAtSeconds,
                ExpiresAtFormat::Ms => Said::ExpiresAtMs,
                ExpiresAtFormat::Rfc3339 => Said::ExpiresAtText,
            }),
            "refresh_expires_in" => definition.refresh.refresh_ttl.and_then(|_| tree::said(Said::RefreshExpiresIn)),
            "scope" if step.list.is_some() => definition.needed_scopes().get(number).and_then(|scope| plain(scope)),
            "scope" => {
                let scopes = definition.needed_scopes();
                let separator = if step.scope_separator.is_empty() { " " } else { step.scope_separator.as_str() };
                (!scopes.is_empty()).then(|| Tree::Plain(scopes.join(separator).into()))
            }
            "id" if step.list.is_some() && role != For::Identity => plain(&format!("{SUBJECT}-{number}")),
            "id" => plain(SUBJECT),
            "username" => plain("alice"),
            "display_name" => plain("Alice Archer"),
            "email" => plain("alice@lab.example"),
            "label" => plain(&format!("Number {number}")),
            "client_id" => plain(&self.client_id()),
            "client_secret" => plain(&self.client_secret().unwrap_or_default()),
            other => other.strip_prefix("extra.").and_then(|extra| plain(self.extras.get(extra)?)),
        }
    }

    /// A call that an agent may make.
    fn api(&self, proxy: &Proxy) -> Option<Api> {
        let base = match &proxy.base_url {
            Some(url) => self.place(url.as_str()).ok()?,
            None => match proxy.hosts.first()? {
                HostRule::Exact(host) => (host.clone(), Pattern::default()),
                HostRule::Instance(host) => (self.known(host.as_str())?, Pattern::default()),
            },
        };
        let below = match base.1.0.as_slice() {
            [] => "",
            [Piece::Text(path)] => path.trim_end_matches('/'),
            _ => return None,
        };
        let in_body = |inject: &Inject| matches!(inject, Inject::Form { .. } | Inject::Json { .. });
        let method = if proxy.inject.iter().any(in_body) { Method::POST } else { Method::GET };
        let host = &base.0;
        let bound = || self.definition.binding().map(|(_, step)| step);
        let may = |path: &str| {
            let whole = format!("{below}{path}");
            let call = (method.as_str(), host.as_str(), whole.as_bytes());
            let is_chosen =
                |step: &Step| step.only.iter().any(|only| !only.names_in_body() && only.lets(call, [CHOSEN].into_iter()));
            proxy.path_is_allowed(&method, host, whole.as_bytes())
                && !proxy.is_credential_path(&method, host, whole.as_bytes())
                && bound().all(is_chosen)
        };
        let patterns = proxy.path_allow.iter().filter(|(known, _)| known.eq_ignore_ascii_case(host)).flat_map(|(_, all)| all);
        let bound = bound().flat_map(|step| &step.only).map(|only| only.as_str().replace("{id}", CHOSEN));
        let samples = bound.chain(patterns.map(ToString::to_string)).filter_map(|text| {
            let path = text.rsplit(' ').next()?.strip_prefix(below)?.to_owned();
            Some(path.replace("/**", "/lab/try").replace('*', "x"))
        });
        let path = ["/lab/try".to_owned(), "/try".to_owned()].into_iter().chain(samples).find(|path| may(path))?;
        Some(Api { method, path })
    }

    fn of_role(&self, role: Role) -> Option<String> {
        let field = self.definition.field_with_role(role)?;
        self.values.get(&field.name).filter(|value| !value.is_empty()).cloned()
    }

    fn client_id(&self) -> String {
        self.of_role(Role::ClientId).unwrap_or_else(|| "registered-client".to_owned())
    }

    fn client_secret(&self) -> Option<String> {
        let registered = || {
            let register = self.definition.register.as_ref()?;
            register.out.contains_key("client_secret").then(|| "registered-secret".to_owned())
        };
        self.of_role(Role::ClientSecret).or_else(registered)
    }

    /// The host and the path of an address.
    fn place(&self, url: &str) -> Result<(String, Pattern), String> {
        let wrong = || format!("{url} does not begin with an address");
        let mut pattern = self.pattern(url);
        let Some(Piece::Text(start)) = pattern.0.first_mut() else { return Err(wrong()) };
        let (_, rest) = start.split_once("://").ok_or_else(wrong)?;
        let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (host, path) = (host.to_ascii_lowercase(), path.to_owned());
        *start = path;
        if matches!(pattern.0.as_slice(), [Piece::Text(path)] if path.is_empty()) {
            // What a request without a path asks for.
            pattern = Pattern::text("/");
        }
        Ok((host, pattern))
    }

    fn members(&self, json: &JsonTemplate, at: &str, params: &mut Vec<Param>) {
        match json {
            JsonTemplate::Text(template) => params.extend(self.param(Place::Json, at, template.as_str())),
            JsonTemplate::Plain(_) => {}
            JsonTemplate::List(items) => {
                items.iter().enumerate().for_each(|(number, item)| self.members(item, &format!("{at}/{number}"), params));
            }
            JsonTemplate::Object(all) => {
                for (name, member) in all {
                    self.members(member, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), params);
                }
            }
        }
    }

    fn params(&self, place: Place, pairs: &[(String, Template)]) -> Vec<Param> {
        pairs.iter().filter_map(|(name, value)| self.param(place, name, value.as_str())).collect()
    }

    /// A parameter as a request carries it; nothing where it is left out because it is empty.
    fn param(&self, place: Place, name: &str, template: &str) -> Option<Param> {
        let value = self.pattern(template);
        // Which scopes a renewal names hangs on what was granted.
        let optional = template.contains("{{scopes}}");
        (!value.0.is_empty()).then(|| Param { place, name: name.to_owned(), value, optional })
    }

    /// The text, where all of it is known beforehand.
    fn known(&self, template: &str) -> Option<String> {
        match self.pattern(template).0.as_slice() {
            [Piece::Text(text)] => Some(text.clone()),
            _ => None,
        }
    }

    fn pattern(&self, template: &str) -> Pattern {
        let mut pieces = Vec::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{{") {
            let (slot, after) = after.split_once("}}").unwrap_or((after, ""));
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(self.slot(slot));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        joined(Pattern(pieces))
    }

    fn slot(&self, slot: &str) -> Piece {
        let (name, filter) = slot.split_once('|').map_or((slot, None), |(name, filter)| (name, Some(filter)));
        let value = self.value(name);
        match (filter, value) {
            (None, value) => value,
            (Some("host"), Piece::Text(origin)) => {
                Piece::Text(origin.split_once("://").map_or(origin.as_str(), |(_, host)| host).to_owned())
            }
            (Some("b64"), value) => Piece::Base64(joined(Pattern(vec![value]))),
            (Some(filter), Piece::Value(of)) => {
                let key = filter.strip_prefix("hmac_sha256_hex(field.").and_then(|rest| rest.strip_suffix(')'));
                match key.and_then(|key| self.values.get(key)) {
                    Some(key) => Piece::Hmac { key: key.clone(), of },
                    None => Piece::Value(Value::Anything),
                }
            }
            (Some(_), _) => Piece::Value(Value::Anything),
        }
    }

    fn value(&self, name: &str) -> Piece {
        let known = |text: Option<String>| Piece::Text(text.unwrap_or_default());
        let Some((family, rest)) = name.split_once('.') else {
            return match name {
                "code" => Piece::Value(Value::Code),
                "code_verifier" => {
                    let sends = self.definition.oauth2.as_ref().is_some_and(|oauth2| oauth2.pkce != Pkce::Off);
                    if sends { Piece::Value(Value::Verifier) } else { known(None) }
                }
                "jwt" => Piece::Value(Value::Assertion),
                "scopes" => {
                    let scopes = self.definition.needed_scopes();
                    if scopes.is_empty() { known(None) } else { Piece::Value(Value::Anything) }
                }
                "callback" => known(Some(self.callback.to_owned())),
                "api_version" => known(self.definition.api_version.clone()),
                "id" => known(Some(SUBJECT.to_owned())),
                _ => Piece::Value(Value::Anything),
            };
        };
        match (family, rest) {
            ("field", rest) => match rest.split_once('.') {
                None => known(self.values.get(rest).cloned()),
                Some((field, member)) => {
                    let object: Map<String, Json> =
                        self.values.get(field).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
                    known(object.get(member).and_then(Json::as_str).map(str::to_owned))
                }
            },
            ("token", "refresh_token") => Piece::Value(Value::RefreshToken),
            ("token" | "slot", _) => Piece::Value(Value::AccessToken),
            ("extra", rest) => known(self.extras.get(rest).cloned()),
            ("variant", rest) => known(self.variant(rest)),
            ("broker", "app_id") => known(Some("valetkey".to_owned())),
            ("broker", "version") => known(Some(env!("CARGO_PKG_VERSION").to_owned())),
            _ => Piece::Value(Value::Anything),
        }
    }

    fn variant(&self, name: &str) -> Option<String> {
        let variants = self.definition.variants.as_ref()?;
        let by = variants.by.strip_prefix("field.").unwrap_or(&variants.by);
        variants.map.get(self.values.get(by)?)?.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use valetkey::provider::Catalogue;

    use super::*;

    const CALLBACK: &str = "https://keys.example/callback/x";

    #[test]
    fn every_built_in_definition_over_http_has_a_script_whose_calls_are_at_its_own_hosts() {
        let mut played = 0;
        for definition in Catalogue::embedded().unwrap().iter() {
            let plan = match Plan::new(definition, CALLBACK) {
                Ok(plan) => plan,
                Err(NoPlan::NotForTheLab(_)) => continue,
                Err(NoPlan::Wrong(why)) => panic!("{}: {why}", definition.name),
            };
            for call in &plan.script.calls {
                assert!(plan.script.hosts.contains(&call.host), "{}", definition.name);
                assert!(!call.host.contains(['/', '{']), "{}: {}", definition.name, call.host);
            }
            assert_eq!(plan.api.is_some(), definition.proxy.is_some(), "{}: a call to try", definition.name);
            played += 1;
        }
        assert!(played > 30, "{played}");
    }

    #[test]
    fn what_a_definition_says_becomes_what_the_lab_expects() {
        let catalogue = Catalogue::embedded().unwrap();
        let plan = Plan::new(catalogue.get(&"facebook".parse().unwrap()).unwrap(), CALLBACK).ok().unwrap();
        let exchange = plan.script.calls.iter().find(|call| call.role == For::Exchange).unwrap();
        assert_eq!((exchange.host.as_str(), exchange.method.as_str()), ("graph.facebook.com", "GET"));
        let token = exchange.params.iter().find(|param| param.name == "fb_exchange_token").unwrap();
        assert_eq!(token.value, Pattern::value(Value::AccessToken));
        // It extends by the same call, which is therefore played once.
        assert_eq!(plan.refresh.as_ref().unwrap().0, At::Exchange);
        assert!(!plan.script.calls.iter().any(|call| call.role == For::Refresh));
        let proof = plan.script.credential.iter().find(|param| param.name == "appsecret_proof").unwrap();
        assert!(matches!(proof.value.0.as_slice(), [Piece::Hmac { of: Value::AccessToken, .. }]));
    }
}
