//! The OAuth 2.0 authorization code flow with PKCE (RFC 6749 section 4.1, RFC 7636), as definitions describe it.
//!
//! 1. [`authorize_url`] builds where the browser goes: `response_type=code` and nothing else, `state` always, and an
//!    S256 challenge unless the definition says that the provider takes none. `plain` cannot be written here.
//! 2. [`obtain`] trades the code for tokens, runs the second-stage exchanges of the definition in order, and asks who
//!    the account is. Each call is one [`Step`], sent once; nothing is stored here.
//! 3. With the device grant (RFC 8628) [`device_codes`] asks for the codes and [`ask_device`] whether the person is done;
//!    what comes then goes the same way.
//!
//! What is not the code flow's alone is here too, and `oauth1` uses it: the app, the calls, and everything after the token.
//!
//! No body of an answer is logged or put into an error: a failure is a code of ours and one bounded word.

use std::{sync::Arc, time::Duration};

use base64::Engine as _;
use serde_json::{Map, Value};
use url::Url;

use super::{Fault, entered};
use crate::{
    app_config::{self, AppConfig},
    base::Outside,
    clock::Timestamp,
    connection::{self, Identity, Tokens, accounts, due_at, merge_answer, store_outputs},
    error::{Code, Error, Result},
    id::{AppConfigId, SiteId},
    mail,
    principal::{Owner, Slot},
    provider::{
        self, Broker, Definition, Device, FieldLevel, OAuth2, OwnClient, Pkce, PkceEncoding, RedirectRule, Vars,
        step::{FailureClass, Outputs, Step, StepFailure},
    },
    secret::{Secret, SecretMap},
    upstream::Limits,
};

/// How long a provider may take for one call.
const DEADLINE: Duration = Duration::from_secs(30);

/// Our app at a provider, opened.
pub(super) struct App {
    pub(super) config: AppConfig,
    pub(super) values: SecretMap,
    pub(super) client: OwnClient,
}

impl App {
    /// The app that a new connection of this owner is made with: the owner's own where one is stored, else the one that the
    /// provider's policy gives them. Which one it was is recorded in the flow and in the connection.
    pub(super) async fn choose(outside: &Outside, site: &SiteId, definition: &Definition, owner: &Owner) -> Result<Self> {
        match app_config::applying(outside, site, &definition.name, owner).await? {
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

    pub(super) async fn open(outside: &Outside, definition: &Definition, config: AppConfig) -> Result<Self> {
        let values = app_config::open(&outside.base, &config).await?;
        let client = OwnClient::of(definition, Some(&values), None);
        if client.id().is_none() && !definition.is_entered() {
            return Err(not_configured(definition));
        }
        Ok(Self { config, values, client })
    }
}

fn not_configured(definition: &Definition) -> Error {
    Error::new(
        Code::NotConfigured,
        format!(
            "{} is not configured: store its client id and secret first (`valetkey provider configure {}`)",
            definition.title, definition.name
        ),
    )
}

/// Whether this build can connect the provider in a browser.
pub(super) fn connectable(definition: &Definition) -> Result<()> {
    definition.is_connectable()?;
    if definition.is_entered() {
        return Err(Error::new(
            Code::InvalidRequest,
            format!("an account of {} is connected by entering its values, not by signing in there", definition.title),
        ));
    }
    Ok(())
}

/// Checks that the provider takes the redirect URI.
pub(super) fn check_redirect(definition: &Definition, redirect_uri: &str) -> Result<()> {
    let refuse = |why: String| Err(Error::new(Code::InvalidConfig, why));
    let Ok(url) = Url::parse(redirect_uri) else {
        return refuse("the public URL is not an absolute URL; set --public-url".to_owned());
    };
    if definition.takes_redirect(&url) {
        return Ok(());
    }
    refuse(match definition.oauth2.as_ref().map_or(RedirectRule::Any, |oauth2| oauth2.redirect_rule) {
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
    /// What the app configuration holds; absent where there is none.
    pub(super) app: Option<&'a SecretMap>,
    pub(super) client: &'a OwnClient,
    pub(super) fields: &'a SecretMap,
    pub(super) scopes: &'a [String],
    pub(super) redirect_uri: &'a str,
}

impl Ground<'_> {
    fn with_vars<T>(&self, account: Option<&SecretMap>, act: impl FnOnce(Vars<'_>) -> T) -> T {
        let scopes = self.joined_scopes();
        act(Vars { scopes: Some(&scopes), account, ..self.plain_vars() })
    }

    /// The scopes as requests carry them.
    pub(super) fn joined_scopes(&self) -> String {
        match &self.definition.oauth2 {
            Some(oauth2) => oauth2.join_scopes(self.scopes),
            None => self.scopes.join(" "),
        }
    }

    /// The provider's refusal. Of entered values it says more than the step at which it came: whether they were refused.
    fn told(&self, code: Code, failure: &StepFailure) -> Fault {
        let code = if self.definition.is_entered() { entered::meaning(self.definition, failure) } else { code };
        Fault::told(code, failure)
    }

    /// Everything that is known before there is an account.
    pub(super) fn plain_vars(&self) -> Vars<'_> {
        Vars {
            now: Some(self.outside.base.clock.now()),
            app: self.app,
            fields: Some(self.fields),
            client: self.client.borrow(),
            callback: Some(self.redirect_uri),
            broker: Broker { url: self.outside.public_url.as_str().trim_end_matches('/'), ..Broker::default() },
            ..Vars::default()
        }
    }

    /// Sends one step once and reads its answer. The moment is when it was sent: lifetimes count from there.
    pub(super) async fn call(&self, step: &Step, code: Code, vars: &Vars<'_>) -> Result<(Vec<Outputs>, Timestamp), Fault> {
        let (read, sent_at) = self.ask(step, code, vars).await?;
        Ok((read.map_err(|failure| self.told(code, &failure))?, sent_at))
    }

    /// The same where a refusal is told apart from what keeps us from asking.
    pub(super) async fn ask(
        &self,
        step: &Step,
        code: Code,
        vars: &Vars<'_>,
    ) -> Result<(Result<Vec<Outputs>, StepFailure>, Timestamp), Fault> {
        // Where somebody waits before a form it matters whether the provider could be asked at all.
        let unasked = |error: &Error| Fault::of(if self.definition.is_entered() { error.code() } else { code }, error);
        let request = step.render(vars).map_err(|error| unasked(&error))?;
        let sent_at = self.outside.base.clock.now();
        let answer = self.outside.upstream.exchange(request, Limits::within(DEADLINE)).await;
        let answer = answer.map_err(|failure| unasked(&failure.error))?;
        let body = answer.body.expose();
        let read = if step.list.is_some() {
            step.read_list(answer.status, &answer.headers, body)
        } else {
            step.read(answer.status, &answer.headers, body).map(|outputs| vec![outputs])
        };
        Ok((read, sent_at))
    }

    pub(super) async fn call_one(&self, step: &Step, code: Code, vars: &Vars<'_>) -> Result<(Outputs, Timestamp), Fault> {
        let (outputs, sent_at) = self.call(step, code, vars).await?;
        let first = outputs.into_iter().next().ok_or_else(|| Fault::new(code, "empty_list"))?;
        Ok((first, sent_at))
    }
}

/// The URL the browser is sent to, with everything in it.
pub(super) fn authorize_url(ground: &Ground<'_>, oauth2: &OAuth2, state: &Secret, verifier: &Secret) -> Result<Url> {
    let client_id = ground.client.id().ok_or_else(|| not_configured(ground.definition))?;
    let mut url = authorize_endpoint(ground)?;
    let joined = oauth2.join_scopes(ground.scopes);
    let mut pairs: Vec<(String, String)> = vec![
        ("response_type".to_owned(), "code".to_owned()),
        (oauth2.client_id_param.clone(), client_id.to_owned()),
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
    endpoint(ground.definition, &ground.plain_vars())
}

/// Where a person signs in, before an app is chosen: the authorization endpoint, or the server that gives out the codes for
/// another device.
pub(super) fn sign_in_place(definition: &Definition, fields: &SecretMap, device: bool) -> Result<Url> {
    let vars = Vars { fields: Some(fields), ..Vars::default() };
    if !device {
        return endpoint(definition, &vars);
    }
    Url::parse(&device_of(definition)?.1.request.url.render(&vars)?).map_err(Error::internal)
}

fn endpoint(definition: &Definition, vars: &Vars<'_>) -> Result<Url> {
    let refuse = || Error::new(Code::HostRefused, format!("the authorization address of {} cannot be used", definition.title));
    let of_oauth1 = definition.oauth1.as_ref().map(|oauth1| &oauth1.authorize_url);
    let template =
        definition.oauth2.as_ref().and_then(|oauth2| oauth2.authorize_url.as_ref()).or(of_oauth1).ok_or_else(refuse)?;
    let url = Url::parse(&template.render(vars)?).map_err(|_| refuse())?;
    if may_be_opened(&url) { Ok(url) } else { Err(refuse()) }
}

/// Whether a browser may be sent there: https, or http on loopback, which only definitions for development name.
fn may_be_opened(url: &Url) -> bool {
    let fine = match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(url::Host::Ipv4(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Ipv6(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Domain(name))) => name == "localhost",
        _ => false,
    };
    fine && url.username().is_empty() && url.password().is_none()
}

/// What a provider gives out for a person to sign in on another device (RFC 8628 section 3.2).
pub(super) struct Codes {
    pub(super) device_code: Secret,
    /// What the person types in there.
    pub(super) user_code: Secret,
    /// Where.
    pub(super) verification_uri: String,
    /// The same with the code in it.
    pub(super) verification_uri_complete: Option<Secret>,
    /// How long the codes live.
    pub(super) life: Duration,
    /// Seconds between two questions.
    pub(super) interval: i64,
    pub(super) sent_at: Timestamp,
}

/// How often a provider is asked that does not say (RFC 8628 section 3.2), and never more slowly than, in seconds.
const USUAL_INTERVAL: i64 = 5;
const LONGEST_INTERVAL: i64 = 300;
/// The longest code that a person has to type, in bytes.
const MAX_USER_CODE: usize = 64;
/// The longest device code, and the longest address, in bytes.
const MAX_DEVICE_TEXT: usize = 4096;

/// The two calls of the device grant, which a session for it has.
fn device_of(definition: &Definition) -> Result<(&OAuth2, &Device)> {
    let both = definition.oauth2.as_ref().and_then(|oauth2| Some((oauth2, oauth2.device.as_ref()?)));
    both.ok_or_else(|| Error::new(Code::InvalidRequest, "this provider has no sign-in on another device"))
}

/// Asks for the codes (RFC 8628 section 3.1).
pub(super) async fn device_codes(ground: &Ground<'_>) -> Result<Codes> {
    const NO_CODE: Code = Code::UpstreamInvalid;
    let (oauth2, device) = device_of(ground.definition)?;
    let joined = oauth2.join_scopes(ground.scopes);
    let vars = Vars { scopes: Some(&joined), ..ground.plain_vars() };
    let (outputs, sent_at) = ground.call_one(&device.request, NO_CODE, &vars).await.map_err(|fault| {
        let why = format!("{} gives out no code to sign in with: {}", ground.definition.title, fault.word);
        Error::new(fault.code, why).with_detail(fault.detail.unwrap_or_default())
    })?;
    let unusable = || Error::new(NO_CODE, format!("{} answered with codes that cannot be used", ground.definition.title));
    let text = |name: &str, most: usize| {
        let text = outputs.raw.text(name)?;
        let plain = text.expose().len() <= most && !text.expose().chars().any(char::is_control);
        plain.then_some(text)
    };
    // Some name the address as drafts of the standard did.
    let address = |name: &str| {
        let text = text(name, MAX_DEVICE_TEXT)?;
        let url = Url::parse(text.expose()).ok()?;
        may_be_opened(&url).then_some(text)
    };
    let verification_uri = address("verification_uri").or_else(|| address("verification_url")).ok_or_else(unusable)?;
    let seconds = |name: &str| outputs.raw.expose().get(name).and_then(Value::as_i64).filter(|seconds| *seconds > 0);
    Ok(Codes {
        device_code: text("device_code", MAX_DEVICE_TEXT).ok_or_else(unusable)?,
        user_code: text("user_code", MAX_USER_CODE).ok_or_else(unusable)?,
        verification_uri: verification_uri.expose().to_owned(),
        verification_uri_complete: address("verification_uri_complete"),
        life: seconds("expires_in").and_then(|life| u64::try_from(life).ok()).map_or(Duration::MAX, Duration::from_secs),
        interval: seconds("interval").unwrap_or(USUAL_INTERVAL).min(LONGEST_INTERVAL),
        sent_at,
    })
}

/// What a provider says when it is asked whether the person is done (RFC 8628 section 3.5).
pub(super) enum Asked {
    /// Not yet.
    Pending,
    /// Not yet, and it was asked too often.
    SlowDown,
    /// Nothing that can be understood; it may answer later.
    Later,
    /// The tokens, and when they were asked for.
    Done(Box<Outputs>, Timestamp),
    /// It is over.
    Over(Fault),
}

/// Asks once whether the person is done.
pub(super) async fn ask_device(ground: &Ground<'_>, device_code: &Secret) -> Asked {
    const FAILED: Code = Code::TokenExchangeFailed;
    let (oauth2, step) = match device_of(ground.definition) {
        Ok((oauth2, device)) => (oauth2, &device.token),
        Err(error) => return Asked::Over(Fault::of(FAILED, &error)),
    };
    let joined = oauth2.join_scopes(ground.scopes);
    let vars = Vars { scopes: Some(&joined), code: Some(device_code), ..ground.plain_vars() };
    let request = match step.render(&vars) {
        Ok(request) => request,
        Err(error) => return Asked::Over(Fault::of(FAILED, &error)),
    };
    let sent_at = ground.outside.base.clock.now();
    let answer = match ground.outside.upstream.exchange(request, Limits::within(DEADLINE)).await {
        Ok(answer) => answer,
        Err(failure) if failure.error.code() == Code::AddressRefused => {
            return Asked::Over(Fault::of(FAILED, &failure.error));
        }
        Err(_) => return Asked::Later,
    };
    match step.read(answer.status, &answer.headers, answer.body.expose()) {
        Ok(outputs) => Asked::Done(Box::new(outputs), sent_at),
        Err(failure) => match (failure.error.as_str(), failure.class) {
            ("authorization_pending", _) => Asked::Pending,
            ("slow_down", _) => Asked::SlowDown,
            ("expired_token", _) => Asked::Over(Fault::expired()),
            (_, FailureClass::Transient { .. }) => Asked::Later,
            (_, FailureClass::Denied) => Asked::Over(Fault::told(Code::OauthDenied, &failure)),
            _ => Asked::Over(Fault::told(FAILED, &failure)),
        },
    }
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
    /// The hosts that proxied calls may take the credential to.
    pub(super) hosts: Vec<String>,
    /// The hosts that our own calls take its secrets to.
    pub(super) call_hosts: Option<Vec<String>>,
}

/// From an authorization code to an account that can be stored. Each call is sent once: the code is spent by the first.
pub(super) async fn obtain(
    ground: &Ground<'_>,
    oauth2: &OAuth2,
    slot: &Slot,
    code: &Secret,
    verifier: &Secret,
) -> Result<Obtained, Fault> {
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
    finish(ground, slot, outputs, sent_at).await
}

/// From a token answer to an account that can be stored.
pub(super) async fn finish(ground: &Ground<'_>, slot: &Slot, outputs: Outputs, sent_at: Timestamp) -> Result<Obtained, Fault> {
    let mut drawn = Drawn::first(ground, outputs, sent_at);
    // From here on there are tokens: whatever fails must not leave them lying about at the provider.
    match complete(ground, slot, &mut drawn).await {
        Ok(identified) => drawn.obtained(ground, identified),
        Err(fault) => Err(fault.with_issued(drawn.account)),
    }
}

/// What the answers so far brought.
pub(super) struct Drawn {
    pub(super) account: SecretMap,
    pub(super) tokens: Tokens,
    /// The subject, where a token answer names one.
    pub(super) id: Option<String>,
    pub(super) hosts: Vec<String>,
}

/// Whose account it is.
pub(super) struct Identified {
    subject: Option<String>,
    subject_name: Option<String>,
    pub(super) identity: Identity,
}

impl Drawn {
    fn first(ground: &Ground<'_>, outputs: Outputs, sent_at: Timestamp) -> Self {
        let (account, tokens) = merge_answer(ground.definition, Some(ground.fields), &outputs, sent_at);
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

    pub(super) fn obtained(self, ground: &Ground<'_>, identified: Identified) -> Result<Obtained, Fault> {
        let Self { mut account, tokens, hosts, .. } = self;
        let missing = match &tokens.scopes {
            Some(granted) => {
                account.expose_mut().insert("scope".to_owned(), Value::String(granted.join(" ")));
                let missing = connection::missing_scopes(Some(ground.definition), ground.scopes, granted, tokens.renewal);
                missing.into_iter().cloned().collect()
            }
            None => Vec::new(),
        };
        let Identified { subject, subject_name, identity } = identified;
        let call_hosts = ground.definition.call_hosts(&Vars { account: Some(&account), ..ground.plain_vars() });
        Ok(Obtained { account, tokens, subject, subject_name, identity, missing, hosts, call_hosts })
    }
}

/// The second-stage exchanges, the identity, the scopes, and the hosts.
pub(super) async fn complete(ground: &Ground<'_>, slot: &Slot, drawn: &mut Drawn) -> Result<Identified, Fault> {
    let joined = ground.joined_scopes();
    for (_, step) in ground.definition.oauth2.iter().flat_map(|oauth2| &oauth2.exchange) {
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
    let vars = Vars { account: Some(&drawn.account), ..ground.plain_vars() };
    let hosts = accounts::hosts_with(ground.outside, ground.definition, &vars);
    drawn.hosts = hosts.map_err(|error| Fault::of(Code::AccountFetchFailed, &error))?;
    // Where the account opens a mailbox, that is tried as well.
    if let Err(error) = mail::check(ground.outside, ground.definition, &drawn.account).await {
        return Err(match ground.definition.is_entered() {
            true => Fault::said(error),
            false => Fault::of(Code::AccountFetchFailed, &error),
        });
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
    let joined = ground.joined_scopes();
    match &ground.definition.identity {
        provider::Identity::Step(step) => {
            let vars = Vars { scopes: Some(&joined), account: Some(account), id: told, ..ground.plain_vars() };
            let (found, _) = ground.call_one(step, FAILED, &vars).await?;
            let Some(id) = found.id.clone() else { return Err(Fault::new(FAILED, "no_id_in_answer")) };
            store_outputs(ground.definition, &found, account);
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
            // What was entered stays as it was entered.
            for (name, value) in found {
                if !ground.definition.fields_of(FieldLevel::Connection).any(|field| field.name == name) {
                    account.expose_mut().insert(name, value);
                }
            }
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
        // Where there are no scopes at all, none are known.
        return told.or_else(|| ground.definition.oauth2.is_some().then(|| ground.scopes.to_vec()));
    };
    let joined = ground.joined_scopes();
    let vars = Vars { scopes: Some(&joined), account: Some(account), ..ground.plain_vars() };
    match ground.call(step, Code::AccountFetchFailed, &vars).await {
        Ok((entries, _)) => Some(entries.into_iter().filter_map(|entry| entry.scope).flatten().collect()),
        Err(fault) => {
            tracing::warn!(provider = %ground.definition.name, error = fault.word, "the granted scopes could not be listed");
            None
        }
    }
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
