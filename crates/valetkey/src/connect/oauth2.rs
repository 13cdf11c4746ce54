//! The OAuth 2.0 authorization code flow with PKCE (RFC 6749 section 4.1, RFC 7636), as definitions describe it.
//!
//! 1. [`authorize_url`] builds where the browser goes: `response_type=code` and nothing else, `state` always, and an
//!    S256 challenge unless the definition says that the provider takes none. `plain` cannot be written here.
//! 2. [`obtain`] trades the code for tokens, runs the second-stage exchanges of the definition in order, and asks who
//!    the account is. Each call is one [`Step`], sent once; nothing is stored here.
//!
//! No body of an answer is logged or put into an error: a failure is a code of ours and one bounded word.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use serde_json::{Map, Value};
use url::Url;

use super::Fault;
use crate::{
    app_config::{self, AppConfig},
    base::Outside,
    clock::Timestamp,
    connection::{Identity, Tokens, accounts, due_at, merge_answer},
    error::{Code, Error, Result},
    id::{AppConfigId, SiteId},
    mail,
    principal::{Owner, Slot},
    provider::{
        self, Broker, Client, Definition, OAuth2, Pkce, PkceEncoding, RedirectRule, Role, Vars,
        step::{Outputs, Step},
    },
    secret::{Secret, SecretMap},
    upstream::Limits,
};

/// How long a provider may take for one call.
const DEADLINE: Duration = Duration::from_secs(30);

/// The longest text that is kept of a slot's token answer, in bytes.
const MAX_SLOT_TEXT: usize = 16 * 1024;

/// Our app at a provider, opened.
pub(super) struct App {
    pub(super) config: AppConfig,
    values: SecretMap,
    pub(super) client_id: String,
    client_secret: Option<Secret>,
}

impl App {
    /// The app that a new connection of this owner is made with: the owner's own where one is stored, else the site's.
    /// Which one it was is recorded in the flow and in the connection.
    pub(super) async fn choose(outside: &Outside, site: &SiteId, definition: &Definition, owner: &Owner) -> Result<Self> {
        let db = &outside.base.db;
        let own = app_config::current(db, site, &definition.name, owner).await?;
        let config = match own {
            Some(config) => Some(config),
            None => app_config::current(db, site, &definition.name, &Owner::Site).await?,
        };
        match config {
            Some(config) if app_config::is_configured(definition, Some(&config)) => Self::open(outside, definition, config).await,
            _ => Err(not_configured(definition)),
        }
    }

    /// The app that a flow was started with, though it may have been replaced meanwhile.
    pub(super) async fn of_flow(outside: &Outside, site: &SiteId, definition: &Definition, id: &AppConfigId) -> Result<Self> {
        match app_config::get(&outside.base.db, site, id).await? {
            Some(config) => Self::open(outside, definition, config).await,
            None => Err(not_configured(definition)),
        }
    }

    async fn open(outside: &Outside, definition: &Definition, config: AppConfig) -> Result<Self> {
        let values = app_config::open(&outside.base, &config).await?;
        let role = |role| definition.field_with_role(role).and_then(|field| values.text(&field.name));
        let client_id = role(Role::ClientId).ok_or_else(|| not_configured(definition))?.expose().to_owned();
        let client_secret = role(Role::ClientSecret);
        Ok(Self { config, values, client_id, client_secret })
    }
}

fn not_configured(definition: &Definition) -> Error {
    Error::new(
        Code::NotConfigured,
        format!("{} is not configured: store its client id and secret first (`valetkey provider configure`)", definition.title),
    )
}

/// Whether this build can connect the provider in a browser, and the part of the definition that says how.
pub(super) fn connectable(definition: &Definition) -> Result<&OAuth2> {
    definition.is_connectable()?;
    if definition.register.is_some() {
        return Err(Error::new(
            Code::EngineMissing,
            format!("connecting {} is not built yet: it registers a client at each server first", definition.title),
        ));
    }
    definition.oauth2.as_ref().ok_or_else(|| Error::internal("a connectable definition without oauth2"))
}

/// Checks that the provider takes the redirect URI.
pub(super) fn check_redirect(definition: &Definition, oauth2: &OAuth2, redirect_uri: &str) -> Result<()> {
    let refuse = |why: String| Err(Error::new(Code::InvalidConfig, why));
    let Ok(url) = Url::parse(redirect_uri) else {
        return refuse("the public URL is not an absolute URL; set --public-url".to_owned());
    };
    if oauth2.takes_redirect(&url) {
        return Ok(());
    }
    refuse(match oauth2.redirect_rule {
        RedirectRule::Https => format!("{} takes only https redirect URIs; set --public-url to one", definition.title),
        RedirectRule::HttpsOrLoopbackIp => {
            format!("{} takes only https or loopback-IP redirect URIs; set --public-url to one", definition.title)
        }
        RedirectRule::Any => "a redirect URI is https, or http on loopback; set --public-url to one".to_owned(),
    })
}

/// Everything a call of one flow is filled in with.
pub(super) struct Ground<'a> {
    pub(super) outside: &'a Outside,
    pub(super) definition: &'a Arc<Definition>,
    pub(super) oauth2: &'a OAuth2,
    pub(super) app: &'a App,
    pub(super) fields: &'a SecretMap,
    pub(super) scopes: &'a [String],
    pub(super) redirect_uri: &'a str,
}

impl Ground<'_> {
    fn with_vars<T>(&self, account: Option<&SecretMap>, act: impl FnOnce(Vars<'_>) -> T) -> T {
        let scopes = self.oauth2.join_scopes(self.scopes);
        act(Vars { scopes: Some(&scopes), account, ..self.plain_vars() })
    }

    fn plain_vars(&self) -> Vars<'_> {
        Vars {
            app: Some(&self.app.values),
            fields: Some(self.fields),
            client: Some(Client { id: &self.app.client_id, secret: self.app.client_secret.as_ref() }),
            callback: Some(self.redirect_uri),
            broker: Broker { url: self.outside.public_url.as_str().trim_end_matches('/'), ..Broker::default() },
            ..Vars::default()
        }
    }

    /// Sends one step once and reads its answer. The moment is when it was sent: lifetimes count from there.
    async fn call(&self, step: &Step, code: Code, vars: &Vars<'_>) -> Result<(Vec<Outputs>, Timestamp), Fault> {
        let request = step.render(vars).map_err(|error| Fault::of(code, &error))?;
        let sent_at = self.outside.base.clock.now();
        let answer = self.outside.upstream.exchange(request, Limits::within(DEADLINE)).await;
        let answer = answer.map_err(|failure| Fault::of(code, &failure.error))?;
        let body = answer.body.expose();
        let read = if step.list.is_some() {
            step.read_list(answer.status, &answer.headers, body)
        } else {
            step.read(answer.status, &answer.headers, body).map(|outputs| vec![outputs])
        };
        let outputs = read.map_err(|failure| Fault::told(code, &failure))?;
        Ok((outputs, sent_at))
    }

    async fn call_one(&self, step: &Step, code: Code, vars: &Vars<'_>) -> Result<(Outputs, Timestamp), Fault> {
        let (outputs, sent_at) = self.call(step, code, vars).await?;
        let first = outputs.into_iter().next().ok_or_else(|| Fault::new(code, "empty_list"))?;
        Ok((first, sent_at))
    }
}

/// The URL the browser is sent to, with everything in it.
pub(super) fn authorize_url(ground: &Ground<'_>, state: &Secret, verifier: &Secret) -> Result<Url> {
    let oauth2 = ground.oauth2;
    let mut url = authorize_endpoint(ground)?;
    let joined = oauth2.join_scopes(ground.scopes);
    let mut pairs: Vec<(String, String)> = vec![
        ("response_type".to_owned(), "code".to_owned()),
        (oauth2.client_id_param.clone(), ground.app.client_id.clone()),
        ("redirect_uri".to_owned(), ground.redirect_uri.to_owned()),
        ("state".to_owned(), state.expose().to_owned()),
    ];
    if !joined.is_empty() {
        pairs.push((oauth2.scope_param.clone(), joined));
    }
    for (param, slot) in &oauth2.scope_params {
        let scopes = ground.definition.slots.iter().find(|(name, _)| name == slot).map(|(_, slot)| slot.scopes.as_slice());
        if let Some(scopes) = scopes.filter(|scopes| !scopes.is_empty()) {
            pairs.push((param.clone(), oauth2.join_scopes(scopes)));
        }
    }
    if oauth2.pkce != Pkce::Off {
        pairs.push(("code_challenge".to_owned(), challenge(verifier, oauth2.pkce_encoding)));
        pairs.push(("code_challenge_method".to_owned(), "S256".to_owned()));
    }
    ground.with_vars(None, |vars| {
        for (name, template) in &oauth2.authorize_params {
            // What the flow rests on is not for a definition to replace.
            if pairs.iter().any(|(known, _)| known == name) {
                return Err(Error::internal(format_args!("authorize_params of {} name `{name}`", ground.definition.name)));
            }
            if let Some(value) = template.render(&vars)? {
                pairs.push((name.clone(), value.expose().to_owned()));
            }
        }
        Ok(())
    })?;
    url.query_pairs_mut().extend_pairs(pairs);
    Ok(url)
}

/// The authorization endpoint without its parameters: https, or http on loopback where the definition is one for
/// development. Nothing else is ever handed to a browser (R24).
pub(super) fn authorize_endpoint(ground: &Ground<'_>) -> Result<Url> {
    endpoint(ground.definition, ground.oauth2, &ground.plain_vars())
}

/// The same before an app is chosen.
pub(super) fn endpoint_for(definition: &Definition, oauth2: &OAuth2, fields: &SecretMap) -> Result<Url> {
    endpoint(definition, oauth2, &Vars { fields: Some(fields), ..Vars::default() })
}

fn endpoint(definition: &Definition, oauth2: &OAuth2, vars: &Vars<'_>) -> Result<Url> {
    let refuse = || Error::new(Code::HostRefused, format!("the authorization address of {} cannot be used", definition.title));
    let template = oauth2.authorize_url.as_ref().ok_or_else(refuse)?;
    let url = Url::parse(&template.render(vars)?).map_err(|_| refuse())?;
    let fine = match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(url::Host::Ipv4(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Ipv6(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Domain(name))) => name == "localhost",
        _ => false,
    };
    if fine && url.username().is_empty() && url.password().is_none() { Ok(url) } else { Err(refuse()) }
}

/// The S256 challenge of a verifier (RFC 7636 section 4.2), in the way the provider reads it.
fn challenge(verifier: &Secret, encoding: PkceEncoding) -> String {
    match encoding {
        PkceEncoding::Base64Url => {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.expose().as_bytes());
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest)
        }
        PkceEncoding::Hex => crate::id::sha256_hex(verifier.expose().as_bytes()),
    }
}

/// What a finished exchange brought.
pub(super) struct Obtained {
    /// What is sealed.
    pub(super) account: SecretMap,
    /// The facts about its tokens.
    pub(super) tokens: Tokens,
    /// Whose account it is upstream.
    pub(super) subject: Option<String>,
    /// What upstream calls them.
    pub(super) subject_name: Option<String>,
    /// How sure we are.
    pub(super) identity: Identity,
    /// The scopes asked for and not granted.
    pub(super) missing: Vec<String>,
    /// The hosts the credential may go to.
    pub(super) hosts: Vec<String>,
}

/// From an authorization code to an account that can be stored. Each call is sent once: the code is spent by the first.
pub(super) async fn obtain(ground: &Ground<'_>, slot: &Slot, code: &Secret, verifier: &Secret) -> Result<Obtained, Fault> {
    let oauth2 = ground.oauth2;
    let stripped = oauth2.code_strip_suffix.as_deref().and_then(|suffix| code.expose().strip_suffix(suffix)).map(Secret::new);
    let code = stripped.as_ref().unwrap_or(code);
    let joined = oauth2.join_scopes(ground.scopes);
    let vars = Vars {
        scopes: Some(&joined),
        code: Some(code),
        code_verifier: (oauth2.pkce != Pkce::Off).then_some(verifier),
        ..ground.plain_vars()
    };
    let (outputs, sent_at) = ground.call_one(&oauth2.token, Code::TokenExchangeFailed, &vars).await?;
    let mut drawn = Drawn::first(ground, outputs, sent_at);
    // From here on there are tokens: whatever fails must not leave them lying about at the provider.
    match complete(ground, slot, &mut drawn).await {
        Ok(identified) => drawn.obtained(ground, identified),
        Err(fault) => Err(fault.with_issued(drawn.account)),
    }
}

/// What the answers so far brought.
struct Drawn {
    account: SecretMap,
    tokens: Tokens,
    /// The subject, where a token answer names one.
    id: Option<String>,
    hosts: Vec<String>,
}

/// Whose account it is.
struct Identified {
    subject: Option<String>,
    subject_name: Option<String>,
    identity: Identity,
}

impl Drawn {
    fn first(ground: &Ground<'_>, outputs: Outputs, sent_at: Timestamp) -> Self {
        let slots = slot_accounts(ground.definition, &outputs.raw);
        let (mut account, tokens) = merge_answer(ground.definition, Some(ground.fields), &outputs, sent_at);
        if !slots.is_empty() {
            account.expose_mut().insert("slots".to_owned(), Value::Object(slots));
        }
        Self { account, tokens, id: outputs.id, hosts: Vec::new() }
    }

    /// A second-stage answer on top. A new access token brings its own lifetime: where its answer names none, the old
    /// one's does not count for it.
    fn follow(&mut self, definition: &Definition, outputs: Outputs, sent_at: Timestamp) {
        let refresh_token = self.account.text("refresh_token");
        let (account, mut tokens) = merge_answer(definition, Some(&self.account), &outputs, sent_at);
        let same_refresh_token = match (&refresh_token, account.text("refresh_token")) {
            (Some(old), Some(new)) => old.matches(&new),
            _ => false,
        };
        if outputs.access_token.is_none() {
            tokens.issued_at = self.tokens.issued_at;
            tokens.expires_at = self.tokens.expires_at;
            tokens.usual_life = self.tokens.usual_life;
        }
        if same_refresh_token {
            tokens.refresh_expires_at = tokens.refresh_expires_at.or(self.tokens.refresh_expires_at);
        }
        tokens.scopes = tokens.scopes.or_else(|| self.tokens.scopes.take());
        tokens.refresh_at = due_at(definition, tokens.renewal, tokens.issued_at, tokens.expires_at, tokens.refresh_expires_at);
        self.account = account;
        self.tokens = tokens;
        self.id = outputs.id.or_else(|| self.id.take());
    }

    /// What the platform makes of what was issued. Where it changes something, the times are read anew.
    async fn transform(&mut self, ground: &Ground<'_>, slot: &Slot) -> Result<(), Fault> {
        let failed = |error: Error| Fault::of(Code::TokenTransformFailed, &error);
        let before = self.account.clone();
        let mut account = ground.outside.extensions.transformed(slot, before).await.map_err(failed)?;
        if account != self.account {
            // A new life counts from now: when the old one ended says nothing any more.
            let kept = |name: &str| account.expose().get(name) == self.account.expose().get(name);
            if !kept("expires_in") && kept("expires_at") {
                account.expose_mut().remove("expires_at");
            }
            let now = ground.outside.base.clock.now();
            let mut tokens = accounts::tokens(ground.definition, &account, now).map_err(failed)?;
            tokens.scopes = tokens.scopes.or_else(|| self.tokens.scopes.take());
            tokens.issued_at = Some(now);
            self.tokens = tokens;
            self.account = account;
        }
        Ok(())
    }

    fn obtained(self, ground: &Ground<'_>, identified: Identified) -> Result<Obtained, Fault> {
        let Self { mut account, tokens, hosts, .. } = self;
        let missing = match &tokens.scopes {
            Some(granted) => {
                account.expose_mut().insert("scope".to_owned(), Value::String(granted.join(" ")));
                ground.scopes.iter().filter(|scope| !granted.contains(scope)).cloned().collect()
            }
            None => Vec::new(),
        };
        let Identified { subject, subject_name, identity } = identified;
        Ok(Obtained { account, tokens, subject, subject_name, identity, missing, hosts })
    }
}

/// The second-stage exchanges, the identity, the scopes, and the hosts.
async fn complete(ground: &Ground<'_>, slot: &Slot, drawn: &mut Drawn) -> Result<Identified, Fault> {
    let joined = ground.oauth2.join_scopes(ground.scopes);
    for (_, step) in &ground.oauth2.exchange {
        let vars = Vars { scopes: Some(&joined), account: Some(&drawn.account), ..ground.plain_vars() };
        let (outputs, sent_at) = ground.call_one(step, Code::TokenTransformFailed, &vars).await?;
        drawn.follow(ground.definition, outputs, sent_at);
    }
    drawn.transform(ground, slot).await?;
    let identified = match details(ground, slot, &mut drawn.account).await? {
        Some(identified) => identified,
        None => identify(ground, drawn.id.as_deref(), &mut drawn.account).await?,
    };
    drawn.tokens.scopes = granted_scopes(ground, drawn.tokens.scopes.take(), &drawn.account).await;
    // Where the token opens a mailbox, that is tried as well.
    let checked = mail::check(ground.outside, ground.definition, &drawn.account).await;
    checked.map_err(|error| Fault::of(Code::AccountFetchFailed, &error))?;
    if let Some(proxy) = &ground.definition.proxy {
        let vars = Vars { account: Some(&drawn.account), ..ground.plain_vars() };
        drawn.hosts = proxy.host_set(&vars).map_err(|error| Fault::of(Code::AccountFetchFailed, &error))?;
    }
    Ok(identified)
}

/// Whose account it is, where the platform says so.
async fn details(ground: &Ground<'_>, slot: &Slot, account: &mut SecretMap) -> Result<Option<Identified>, Fault> {
    let found = ground.outside.extensions.details_of(slot, account).await;
    let Some(found) = found.map_err(|error| Fault::of(Code::AccountFetchFailed, &error))? else { return Ok(None) };
    account.expose_mut().extend(found.members);
    let identity = if found.id.is_some() { Identity::Verified } else { Identity::Owner };
    Ok(Some(Identified { subject: found.id, subject_name: found.name, identity }))
}

async fn identify(ground: &Ground<'_>, told: Option<&str>, account: &mut SecretMap) -> Result<Identified, Fault> {
    const FAILED: Code = Code::AccountFetchFailed;
    let joined = ground.oauth2.join_scopes(ground.scopes);
    match &ground.definition.identity {
        provider::Identity::Step(step) => {
            let vars = Vars { scopes: Some(&joined), account: Some(account), id: told, ..ground.plain_vars() };
            let (found, _) = ground.call_one(step, FAILED, &vars).await?;
            let Some(id) = found.id.clone() else { return Err(Fault::new(FAILED, "no_id_in_answer")) };
            found.store_into(account);
            let name = found.username.or(found.display_name).or(found.email);
            Ok(Identified { subject: Some(id), subject_name: name, identity: Identity::Verified })
        }
        provider::Identity::Static(members) => {
            let mut found = Map::new();
            {
                let vars = Vars { scopes: Some(&joined), account: Some(account), id: told, ..ground.plain_vars() };
                for (name, template) in members {
                    if let Some(value) = template.render(&vars).map_err(|error| Fault::of(FAILED, &error))? {
                        found.insert(name.clone(), Value::String(value.expose().to_owned()));
                    }
                }
            }
            let text = |name: &str| found.get(name).and_then(Value::as_str).map(str::to_owned);
            let Some(id) = text("id") else { return Err(Fault::new(FAILED, "no_id_in_answer")) };
            let name = text("username").or_else(|| text("display_name")).or_else(|| text("email"));
            account.expose_mut().extend(found);
            Ok(Identified { subject: Some(id), subject_name: name, identity: Identity::Verified })
        }
        // Nothing upstream says who it is: what the owner connected counts as the owner's word (decisions 4).
        provider::Identity::None { .. } => Ok(Identified { subject: None, subject_name: None, identity: Identity::Owner }),
    }
}

/// The scopes that were granted: as a list call says, else as the token answers said, else those that were asked for,
/// because an answer that names none grants them all (RFC 6749 section 5.1). Absent where the list could not be had.
async fn granted_scopes(ground: &Ground<'_>, told: Option<Vec<String>>, account: &SecretMap) -> Option<Vec<String>> {
    let Some(step) = &ground.definition.scope_check else {
        return Some(told.unwrap_or_else(|| ground.scopes.to_vec()));
    };
    let joined = ground.oauth2.join_scopes(ground.scopes);
    let vars = Vars { scopes: Some(&joined), account: Some(account), ..ground.plain_vars() };
    match ground.call(step, Code::AccountFetchFailed, &vars).await {
        Ok((entries, _)) => Some(entries.into_iter().filter_map(|entry| entry.scope).flatten().collect()),
        Err(fault) => {
            tracing::warn!(provider = %ground.definition.name, error = fault.word, "the granted scopes could not be listed");
            None
        }
    }
}

/// The further tokens that the token answer holds, by slot (Slack's user token beside its bot token).
fn slot_accounts(definition: &Definition, raw: &SecretMap) -> Map<String, Value> {
    let mut slots = Map::new();
    let answer = Value::Object(raw.expose().clone());
    for (name, slot) in &definition.slots {
        let mut found = Map::new();
        for (member, paths) in &slot.out {
            let value = paths.iter().find_map(|path| path.find(&answer)).filter(|value| match value {
                Value::String(text) => !text.is_empty() && text.len() <= MAX_SLOT_TEXT,
                Value::Number(_) | Value::Bool(_) => true,
                _ => false,
            });
            if let Some(value) = value {
                found.insert(member.clone(), value.clone());
            }
        }
        if found.contains_key("access_token") {
            slots.insert(name.clone(), Value::Object(found));
        }
    }
    // The copy is of secrets: it does not stay behind.
    if let Value::Object(map) = answer {
        drop(SecretMap::new(map));
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of RFC 7636 appendix B.
    ///
    #[test]
    fn the_challenge_is_the_s256_of_the_verifier() {
        let verifier = Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge(&verifier, PkceEncoding::Base64Url), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert_eq!(challenge(&verifier, PkceEncoding::Hex), "13d31e961a1ad8ec2f16b10c4c982e0876a878ad6df144566ee1894acb70f9c3");
    }
}
