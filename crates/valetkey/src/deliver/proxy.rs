//! The proxy: we make the call, and the agent never sees the secret (decisions 7).
//!
//! 1. The path and what else the rules name are refused or passed, exactly as they will be sent; so is what does not belong to
//!    what a person chose of the account. A refusal is recorded.
//! 2. The host is the definition's base, or another one that was fixed for the connection; never the caller's.
//! 3. The decision is asked for this operation, on the bytes that will be sent.
//! 4. Where a grant asks, the body is read and the call held, or compared with what a person approved.
//! 5. The access token is served or refreshed. From here on a permission that is taken back ends the call.
//! 6. Headers are cleaned, the credential is injected last, and where calls are signed, the signature after everything; the
//!    use is recorded, and the call goes out once.
//! 7. Status, header values, body bytes and trailers come back as a stream, except what decisions 7 names.
//!
//! A 401 forces a refresh where the token used is still the current one, once per connection and minute. A call
//! without a body is then made once more with the new token; any other is the caller's to repeat.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header, request::Parts, uri::Authority, uri::Scheme};
use http_body::Body;
use serde_json::json;

use super::{
    Allowed, Caller, Deliverer, Guarded, Right,
    approved::{self, Use},
    choice,
    echo::Needles,
    headers,
    inject::{self, Injection},
    path::CleanPath,
    query, rules,
    slot::{self, Named},
    streams::{Operation, Upload},
};
use crate::{
    app_config,
    audit::Outcome,
    connection::{Connection, open_account},
    decision::{Request, decide},
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    oauth1::Keys,
    principal::{Actor, Delivery, Slot},
    provider::{self, Client, Definition, Inject, Proxy, Role, Vars, step},
    refresh::{Served, Wish},
    secret::{Secret, SecretMap},
    upstream,
};

/// Where a call goes, as the caller wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Another of the connection's hosts than the base's (`/~host/...`).
    pub host: Option<&'a str>,
    /// The raw path, from its first `/`.
    pub path: &'a str,
    /// The raw query.
    pub query: Option<&'a str>,
}

/// A caller's body: none, read whole because it had to be, or passed on as it comes.
enum Payload<B> {
    Empty,
    Whole(Bytes),
    Stream(B),
}

impl<B> Payload<B> {
    /// What of it was read here.
    fn read(&self) -> &[u8] {
        match self {
            Payload::Whole(whole) => whole,
            Payload::Empty | Payload::Stream(_) => &[],
        }
    }
}

impl Deliverer {
    /// Makes a call with a connection's credential and streams its answer.
    pub async fn proxy<B>(
        &self,
        caller: &Caller,
        connection: &ConnectionId,
        target: Target<'_>,
        parts: Parts,
        body: B,
    ) -> Result<http::Response<Guarded>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<upstream::BoxError>,
    {
        let allowed = self.allow(caller, connection, Delivery::Proxy, None, None).await?;
        self.call(allowed, target, parts, body).await
    }

    /// Makes a call as the owner of the connection: under all the rules above, and without a grant.
    pub(super) async fn proxy_as_owner<B>(
        &self,
        site: &SiteId,
        actor: &Actor,
        connection: &ConnectionId,
        target: Target<'_>,
        parts: Parts,
        body: B,
    ) -> Result<http::Response<Guarded>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<upstream::BoxError>,
    {
        let allowed = self.allow_owner(site, actor, connection).await?;
        self.call(allowed, target, parts, body).await
    }

    /// Makes a call as the owner of an account that a registered resolver holds: under all the rules above, without a grant, and
    /// without a renewal.
    pub(super) async fn proxy_as_holder<B>(
        &self,
        actor: &Actor,
        slot: &Slot,
        target: Target<'_>,
        parts: Parts,
        body: B,
    ) -> Result<http::Response<Guarded>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<upstream::BoxError>,
    {
        let allowed = self.allow_held(actor, slot).await?;
        self.call(allowed, target, parts, body).await
    }

    async fn call<B>(&self, allowed: Allowed, target: Target<'_>, mut parts: Parts, body: B) -> Result<http::Response<Guarded>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<upstream::BoxError>,
    {
        let row = &allowed.stored.connection;
        let definition = self.outside.definition(&row.provider)?;
        let slot = Named::of(&parts.headers)?;
        let named = approved::named(&parts.headers)?;
        let proxy = proxied(&definition)?;
        let app = self.app(&allowed, &definition).await?;
        let uri = match self.url(&allowed, &definition, proxy, app.as_ref(), &parts, target).await {
            Ok(uri) => uri,
            Err(error) => return Err(self.refuse_by_rule(&allowed, error, &parts.method, target.path).await?),
        };
        let host = uri.authority().map(|a| a.as_str().to_ascii_lowercase()).unwrap_or_default();

        // The decision for exactly this operation.
        let operation = (&parts.method, host.as_str(), uri.path().as_bytes());
        let allowed = self.decide_operation(allowed, operation).await?;

        // Where the body is read here, it is read before anything is spent on it.
        let compared = allowed.is_compared(named.as_ref());
        let adds_to_body = proxy.inject.iter().any(|inject| matches!(inject, Inject::Form { .. } | Inject::Json { .. }));
        let call = (parts.method.as_str(), host.as_str(), uri.path().as_bytes());
        let chosen_in_body = choice::is_in_body(&definition, &allowed.stored.connection, call);
        let body = if body.is_end_stream() {
            Payload::Empty
        } else if compared || adds_to_body || chosen_in_body || proxy.body_must_be_read(&parts.headers) {
            let whole = whole(body).await?;
            // An answer's content can hang on the body (Graph's `fields`).
            if proxy.is_credential_body(&parts.headers, &whole) {
                return Err(self.refuse_by_rule(&allowed, credential_path(), &parts.method, target.path).await?);
            }
            Payload::Whole(whole)
        } else {
            Payload::Stream(body)
        };

        let read = body.read();
        let chosen = |row: &Connection| {
            choice::check(&definition, row, call)?;
            choice::check_body(&definition, row, call, target.query, &parts.headers, read)
        };
        if let Err(error) = chosen(&allowed.stored.connection) {
            return Err(self.refuse_by_rule(&allowed, error, &parts.method, target.path).await?);
        }

        let operation = Some((&parts.method, host.as_str(), uri.path().as_bytes()));
        let (allowed, approval) = if compared {
            let mut going = parts.headers.clone();
            headers::clean_request(&mut going, &[]);
            let used = Use {
                delivery: Delivery::Proxy,
                operation,
                url: &uri.to_string(),
                path: uri.path(),
                query: target.query,
                slot: slot.as_ref().map(ToString::to_string),
                headers: &going,
                body: read,
            };
            self.approved(allowed, &used, named.as_ref()).await?
        } else {
            (allowed, None)
        };
        let (allowed, served) = self.serve(allowed, Delivery::Proxy, operation, Wish::default(), slot.as_ref()).await?;
        // Somebody may have chosen otherwise while it waited.
        if let Err(error) = chosen(&allowed.stored.connection) {
            return Err(self.refuse_by_rule(&allowed, error, &parts.method, target.path).await?);
        }
        let injections =
            self.injections(&definition, &served, app.as_ref(), slot.as_ref()).map_err(|error| allowed.told_of_holder(error))?;
        let injected: Vec<HeaderName> = injections.iter().filter_map(Injection::header_name).collect();
        headers::clean_request(&mut parts.headers, &injected);
        self.add_headers(&mut parts, &definition, &served, app.as_ref())?;

        let mut facts =
            json!({ "grant": allowed.grant(), "method": parts.method.as_str(), "host": host, "path": shortened(uri.path()) });
        if let Some(approval) = &approval {
            facts["approval"] = json!(approval.id);
        }
        if let Right::Held { by, .. } = &allowed.right {
            let Connection { provider, owner, name, .. } = &allowed.stored.connection;
            for (member, value) in
                [("kept_by", json!(by)), ("provider", json!(provider)), ("owner", json!(owner)), ("name", json!(name))]
            {
                facts[member] = value;
            }
        }
        if let Some(slot) = &slot {
            facts["slot"] = slot.to_string().into();
        }
        let op = Operation { method: parts.method.clone(), host, path: uri.path().to_owned() };
        let hangs_on_choice = definition.is_bound() || slot.is_some();
        let ticket = Arc::new(self.streams.register(&allowed, op, hangs_on_choice)?);
        parts.uri = uri.clone();
        // What the server noted beside the caller's request is not for the provider.
        parts.extensions.clear();
        let strip: Vec<&str> = proxy.strip_query.iter().map(String::as_str).collect();
        let again = matches!(body, Payload::Empty).then(|| (parts.method.clone(), parts.headers.clone()));

        inject::into_head(&mut parts, &injections, &strip)?;
        let body = match (body, injections.iter().any(Injection::needs_body)) {
            (Payload::Empty, false) => Payload::Empty,
            (Payload::Empty, true) => Payload::Whole(inject::into_body(&mut parts.headers, Bytes::new(), &injections)?),
            (Payload::Whole(whole), true) => Payload::Whole(inject::into_body(&mut parts.headers, whole, &injections)?),
            (Payload::Stream(_), true) => return Err(Error::internal("a body that takes a credential was not read")),
            (body, false) => body,
        };
        let now = self.outside.base.clock.now();
        inject::sign(&mut parts, body.read(), &injections, now)?;
        let body = match body {
            Payload::Empty => upstream::Body::empty(),
            Payload::Whole(whole) => whole.into(),
            Payload::Stream(inner) => upstream::Body::stream(Upload::new(inner, injected, Arc::clone(&ticket))),
        };
        self.take_use(&allowed, approval.as_ref()).await?;
        self.outside.base.audit.record_use(self.event(&allowed, "connection.proxy", facts)).await?;
        metrics::counter!("valetkey_deliveries_total", "delivery" => "proxy").increment(1);
        let answer = self.send(&ticket, http::Request::from_parts(parts, body)).await?;
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(fresh) = self.after_rejection(&allowed, &served).await
            && let Some((method, headers)) = again
        {
            let injections = self.injections(&definition, &fresh, app.as_ref(), slot.as_ref())?;
            let (mut parts, ()) = http::Request::new(()).into_parts();
            (parts.method, parts.uri, parts.headers) = (method, uri.clone(), headers);
            inject::into_head(&mut parts, &injections, &strip)?;
            let body = match injections.iter().any(Injection::needs_body) {
                true => inject::into_body(&mut parts.headers, Bytes::new(), &injections)?,
                false => Bytes::new(),
            };
            inject::sign(&mut parts, &body, &injections, self.outside.base.clock.now())?;
            let body = if body.is_empty() { upstream::Body::empty() } else { body.into() };
            let answer = self.send(&ticket, http::Request::from_parts(parts, body)).await?;
            return Ok(cleaned(answer, &injections, &fresh, ticket, (&uri, &self.outside.public_url)));
        }
        Ok(cleaned(answer, &injections, &served, ticket, (&uri, &self.outside.public_url)))
    }

    /// The decision for exactly one operation. The owner's was made when the connection was found to be theirs.
    async fn decide_operation(&self, allowed: Allowed, operation: (&http::Method, &str, &[u8])) -> Result<Allowed> {
        let Right::Agent { caller, facts, .. } = &allowed.right else { return Ok(allowed) };
        let request = Request { delivery: Delivery::Proxy, operation: Some(operation), unattended: caller.unattended };
        let decision = decide(facts, &request, self.outside.base.clock.now());
        // What a grant asks about is held or carried by an approval, once its body is read.
        if decision.denied() {
            let connection = &allowed.stored.connection.id;
            return Err(self.refuse(caller, facts, &decision, &allowed.actor, connection, Delivery::Proxy).await?);
        }
        let right = Right::Agent { caller: caller.clone(), facts: Arc::clone(facts), decision };
        Ok(Allowed { right, ..allowed })
    }

    /// The URL of a call, where the rules let it pass.
    async fn url(
        &self,
        allowed: &Allowed,
        definition: &Definition,
        proxy: &Proxy,
        app: Option<&SecretMap>,
        parts: &Parts,
        target: Target<'_>,
    ) -> Result<Uri> {
        headers::check_request(&parts.headers)?;
        let clean = CleanPath::parse(target.path, proxy.allow_encoded_slashes)?;
        if let Some(raw) = target.query {
            query::check(raw)?;
        }
        rules::check_override(&parts.headers, target.query, proxy.allow_method_override)?;
        let row = &allowed.stored.connection;
        let uri = match fixed_base(definition) {
            Some(base) => url_of(row, base, &clean, target)?,
            None => {
                // The host is in the sealed account: it is opened only now that the agent may use the connection.
                let account = match &allowed.right {
                    Right::Held { account, .. } => account.clone(),
                    Right::Agent { .. } | Right::Owner => {
                        let missing = || Error::internal("an active connection without account");
                        let sealed = allowed.stored.sealed.as_deref().ok_or_else(missing)?;
                        open_account(&self.outside.base, row, sealed).await?
                    }
                };
                let vars = self.vars(row, &account, app);
                let base = match &proxy.base_url {
                    Some(template) => template.render(&vars)?,
                    None => format!("https://{}", row.hosts.first().map(String::as_str).unwrap_or_default()),
                };
                url_of(row, &base, &clean, target)?
            }
        };
        let host = uri.authority().map(|a| a.as_str().to_ascii_lowercase()).unwrap_or_default();
        check_operation(definition, proxy, row, (&parts.method, &host, uri.path()), target.query)?;
        Ok(uri)
    }

    /// Records a call that the rules refuse. Other errors are no refusals, and pass as they are.
    async fn refuse_by_rule(&self, allowed: &Allowed, error: Error, method: &http::Method, path: &str) -> Result<Error> {
        let refusals = [
            Code::MethodRefused,
            Code::PathRefused,
            Code::HostRefused,
            Code::CredentialPath,
            Code::UpgradeRefused,
            Code::InvalidRequest,
        ];
        if refusals.contains(&error.code()) {
            let code = error.code().as_str();
            let facts = json!({ "delivery": Delivery::Proxy, "code": code, "method": shortened(method.as_str()), "path": shortened(path) });
            let event = self.event(allowed, "connection.use", facts).outcome(Outcome::Denied);
            self.outside.base.audit.record_use(event).await?;
            metrics::counter!("valetkey_denials_total", "code" => code).increment(1);
        }
        Ok(error)
    }

    /// Sends, and gives up at once when the permission is taken back meanwhile.
    async fn send(
        &self,
        ticket: &Arc<super::streams::Ticket>,
        request: http::Request<upstream::Body>,
    ) -> Result<http::Response<hyper::body::Incoming>> {
        ticket.while_it_lasts(self.outside.upstream.forward(request)).await
    }

    /// A newer token after an upstream 401, where a refresh is due for it; nothing when the 401 stands.
    async fn after_rejection(&self, allowed: &Allowed, served: &Served) -> Option<Served> {
        if let Right::Held { .. } = allowed.right {
            return None;
        }
        let wish = Wish { min_life: None, rejected_version: Some(served.connection.version) };
        match self.refresher.serve(Arc::clone(&allowed.stored), wish).await {
            Ok(fresh) if fresh.connection.version != served.connection.version => Some(fresh),
            Ok(_) => None,
            Err(error) => {
                tracing::info!(connection.id = %served.connection.id, %error, "the provider refused the token, and no newer one was had");
                None
            }
        }
    }

    /// The app configuration's values, where this provider's calls carry one of them.
    async fn app(&self, allowed: &Allowed, definition: &Definition) -> Result<Option<SecretMap>> {
        if !self.needs_app.contains(&definition.name) {
            return Ok(None);
        }
        let base = &self.outside.base;
        let Some(id) = &allowed.stored.connection.app_config else { return Ok(None) };
        let Some(config) = app_config::get(&base.db, &allowed.site, id).await? else { return Ok(None) };
        app_config::open(base, &config).await.map(Some)
    }

    fn vars<'a>(&'a self, row: &'a Connection, account: &'a SecretMap, app: Option<&'a SecretMap>) -> Vars<'a> {
        Vars {
            app,
            fields: Some(account),
            account: Some(account),
            id: row.subject.as_deref(),
            broker: provider::Broker { url: self.outside.public_url.as_str(), ..provider::Broker::default() },
            ..Vars::default()
        }
    }

    fn injections(
        &self,
        definition: &Definition,
        served: &Served,
        app: Option<&SecretMap>,
        named: Option<&Named>,
    ) -> Result<Vec<Injection>> {
        let now = self.outside.base.clock.now();
        let slot = slot::token(definition, &served.connection, &served.account, named, now)?;
        let vars = Vars { slot: slot.as_ref().map(|slot| &slot.account), ..self.vars(&served.connection, &served.account, app) };
        let missing = || Error::new(Code::NotAuthenticated, "the account lacks what its calls must carry; connect it again");
        let mut injections = Vec::new();
        let injects = definition.proxy.as_ref().map(|proxy| proxy.inject.as_slice()).unwrap_or_default();
        for inject in injects {
            let (value, omit) = match inject {
                Inject::Header { value, omit_empty, .. }
                | Inject::Query { value, omit_empty, .. }
                | Inject::Form { value, omit_empty, .. }
                | Inject::Json { value, omit_empty, .. } => (value.render(&vars)?, *omit_empty),
                Inject::Basic { user, password } => {
                    let user = user.render(&vars)?.ok_or_else(missing)?;
                    let password = password.render(&vars)?.ok_or_else(missing)?;
                    injections.push(Injection::Basic { user, password });
                    continue;
                }
                Inject::Oauth1Signature => {
                    injections.push(Injection::Signature(signing_keys(definition, &vars)?));
                    continue;
                }
            };
            let Some(value) = value.filter(|value: &Secret| !value.is_empty()) else {
                if omit {
                    continue;
                }
                return Err(missing());
            };
            injections.push(match inject {
                Inject::Header { name, .. } => {
                    Injection::Header { name: HeaderName::from_bytes(name.as_bytes()).map_err(Error::internal)?, value }
                }
                Inject::Query { name, .. } => Injection::Query { name: name.clone(), value },
                Inject::Form { name, .. } => Injection::Form { name: name.clone(), value },
                Inject::Json { name, .. } => Injection::Json { name: name.clone(), value },
                Inject::Basic { .. } | Inject::Oauth1Signature => continue,
            });
        }
        Ok(injections)
    }

    /// The definition's own headers, where the caller sent none of that name.
    fn add_headers(&self, parts: &mut Parts, definition: &Definition, served: &Served, app: Option<&SecretMap>) -> Result<()> {
        let Some(proxy) = &definition.proxy else { return Ok(()) };
        if proxy.headers.is_empty() {
            return Ok(());
        }
        let vars = self.vars(&served.connection, &served.account, app);
        for (name, value) in &proxy.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(Error::internal)?;
            // A User-Agent is the provider's condition for service, and the agent's library sends one of its own.
            if parts.headers.contains_key(&name) && name != header::USER_AGENT {
                continue;
            }
            if let Some(value) = value.render(&vars)? {
                let value = HeaderValue::from_str(value.expose()).map_err(|_| {
                    Error::new(Code::NotConfigured, format!("the header {name} cannot hold what is configured for it"))
                })?;
                parts.headers.insert(name, value);
            }
        }
        Ok(())
    }
}

/// How a provider's calls are made, where the proxy makes them.
pub(super) fn proxied(definition: &Definition) -> Result<&Proxy> {
    definition.proxy.as_ref().ok_or_else(|| {
        let text = match &definition.mail {
            Some(_) => "is not reached over HTTP, so there is nothing to proxy: ask for its servers and its login (reveal)",
            None => "is not reached through the proxy",
        };
        Error::new(Code::NotProxied, format!("{} {text}", definition.title))
    })
}

/// The rules on a call's method, host, whole path and query that hold whatever is granted, and what of the account was
/// chosen. Explaining asks them too (promise 6).
///
/// Errors: `method_refused`, `path_refused`, `host_refused`, `credential_path`.
pub(super) fn check_operation(
    definition: &Definition,
    proxy: &Proxy,
    connection: &Connection,
    (method, host, path): (&http::Method, &str, &str),
    query: Option<&str>,
) -> Result<()> {
    rules::check_method(method)?;
    CleanPath::parse(path, proxy.allow_encoded_slashes)?;
    if !is_among(&connection.hosts, host) {
        return Err(host_refused(&connection.hosts));
    }
    rules::check_batch(method, path, query, proxy.allow_batch)?;
    if query.is_some_and(|raw| proxy.is_credential_query(raw)) || proxy.is_credential_path(method, host, path.as_bytes()) {
        return Err(credential_path());
    }
    if !proxy.path_is_allowed(method, host, path.as_bytes()) {
        return Err(Error::new(
            Code::PathRefused,
            format!("the definition of {} does not allow this path at {host}", definition.title),
        ));
    }
    choice::check(definition, connection, (method.as_str(), host, path.as_bytes()))
}

fn is_among(hosts: &[String], host: &str) -> bool {
    hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
}

fn host_refused(hosts: &[String]) -> Error {
    Error::new(Code::HostRefused, format!("this connection's credential goes to {} only", hosts.join(", ")))
}

/// What calls are signed with. The app is the one that the connection was made with; its secret never leaves here.
fn signing_keys(definition: &Definition, vars: &Vars<'_>) -> Result<Keys> {
    let lacks_app =
        || Error::new(Code::NotConfigured, format!("calls of {} are signed, and its app is not stored", definition.title));
    let oauth1 = definition.oauth1.as_ref().ok_or_else(|| Error::internal("a signed call of another kind"))?;
    let of_role = |role| vars.app?.text(&definition.field_with_role(role)?.name);
    let (id, secret) = (of_role(Role::ClientId).ok_or_else(lacks_app)?, of_role(Role::ClientSecret).ok_or_else(lacks_app)?);
    let client = Client { id: id.expose(), secret: Some(&secret) };
    let keys = step::signing_keys(oauth1.signature, &Vars { client: Some(client), ..*vars });
    match keys {
        Ok(keys) if keys.token.is_some() => Ok(keys),
        _ => Err(Error::new(Code::NotAuthenticated, "the account lacks a token or its secret; connect it again")),
    }
}

fn credential_path() -> Error {
    Error::new(Code::CredentialPath, "this call deals in credentials; it is never proxied, whatever is granted")
}

/// The base URL where it holds no template.
fn fixed_base(definition: &Definition) -> Option<&str> {
    let base = definition.proxy.as_ref()?.base_url.as_ref()?;
    (!base.as_str().contains("{{")).then(|| base.as_str())
}

/// The URL of a call. Its host is one that was fixed for the connection.
fn url_of(row: &Connection, base: &str, clean: &CleanPath<'_>, target: Target<'_>) -> Result<Uri> {
    let base: Uri = base.parse().map_err(|_| Error::new(Code::NotConfigured, "the provider's base URL cannot be read"))?;
    let base_authority = base.authority().ok_or_else(|| Error::internal("a base URL without authority"))?;
    let refused = || host_refused(&row.hosts);
    let scheme = base.scheme().cloned().unwrap_or(Scheme::HTTPS);
    let (scheme, authority, base_path) = match target.host {
        None => (scheme, base_authority.clone(), base.path()),
        Some(host) => {
            let authority: Authority = host.parse().map_err(|_| refused())?;
            if authority.as_str().contains('@') {
                return Err(refused());
            }
            // Plain HTTP only where the base itself is, which is a stand-in on this machine.
            let scheme = if authority.host() == base_authority.host() { scheme } else { Scheme::HTTPS };
            (scheme, authority, "")
        }
    };
    if !is_among(&row.hosts, authority.as_str()) {
        return Err(refused());
    }
    clean.under(scheme, authority, base_path, target.query)
}

/// The longest path in the audit, in characters: an agent chooses it, and every call leaves a row.
const AUDITED_PATH: usize = 512;

fn shortened(path: &str) -> String {
    match path.char_indices().nth(AUDITED_PATH) {
        None => path.to_owned(),
        Some((at, _)) => format!("{}... ({} bytes in all)", &path[..at], path.len()),
    }
}

/// How long a body that must be read here may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(60);

async fn whole<B>(body: B) -> Result<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: Into<upstream::BoxError>,
{
    let late = |_| Error::new(Code::InvalidRequest, "the request body did not come within a minute");
    tokio::time::timeout(BODY_PATIENCE, inject::buffer(body)).await.map_err(late)?
}

/// The answer for the caller, to a call that went to `sent` and to what was injected into that.
fn cleaned(
    answer: http::Response<hyper::body::Incoming>,
    injections: &[Injection],
    served: &Served,
    ticket: Arc<super::streams::Ticket>,
    (sent, ours): (&Uri, &url::Url),
) -> http::Response<Guarded> {
    let secrets = injections.iter().flat_map(|injection| match injection {
        Injection::Header { value, .. }
        | Injection::Query { value, .. }
        | Injection::Form { value, .. }
        | Injection::Json { value, .. } => {
            let bare = value.expose().split_once(' ').map(|(_, bare)| Secret::new(bare));
            vec![Some(value.clone()), bare]
        }
        Injection::Basic { user: _, password } => vec![Some(password.clone())],
        Injection::Signature(keys) => {
            let (token, token_secret) = keys.token.clone().unzip();
            vec![token, token_secret, Some(keys.consumer_secret.clone())]
        }
    });
    // A header may hold more than the token, and an echo the token alone.
    let secrets: Vec<Secret> = secrets.flatten().chain(served.account.text("access_token")).collect();
    let needles = Arc::new(Needles::new(&secrets));
    let (mut parts, body) = answer.into_parts();
    headers::clean_response(&mut parts, &needles, sent, ours);
    http::Response::from_parts(parts, Guarded::new(body, needles, ticket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    #[test]
    fn a_mailbox_is_not_proxied_though_what_it_builds_on_is() {
        let catalogue = Catalogue::embedded().unwrap();
        let built_on = catalogue.get(&"google".parse().unwrap()).unwrap();
        assert!(proxied(built_on).is_ok());
        for mail in catalogue.iter().filter(|definition| definition.mail.is_some()) {
            assert_eq!(proxied(mail).unwrap_err().code(), Code::NotProxied, "{}", mail.name);
        }
    }
}
