//! The way back: from the provider's redirect to a stored connection (RFC 6749 section 4.1.2, RFC 9207, RFC 5849 section
//! 2.2).
//!
//! 1. The query is read once. A parameter that decides something and comes twice is refused; unknown ones are ignored.
//! 2. The flow is taken out by its key, provider and browser in one statement: the key is `state`, or the temporary token of
//!    OAuth 1.0a. Whoever gets nothing is told `invalid_state` (`token_secret_expired`), whatever the reason was.
//! 3. `iss` is compared before anything else in the answer counts, an error among it.
//! 4. Whoever the flow is for, its maker and its site must not have been stopped since it began: that is looked up before the
//!    exchange, and again before anything is stored.
//! 5. The code or verifier is exchanged and the outcome stored, with its audit row, in one transaction.

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde_json::json;
use tokio_util::task::TaskTracker;
use url::form_urlencoded;

use super::{
    Ended, Fault, Outcome, attempts, cookie_key, oauth1,
    oauth2::{self, App, Ground, Obtained},
    payload, session,
    store::{self, Flow},
};
use crate::{
    audit::{AUDIT_LABEL, Event, Outcome as Audited},
    base::Outside,
    connection::{self, Connected, Connection, NewConnection, Status, Stored, UpstreamWish, accounts},
    db::Tx,
    error::{Code, Error, Result},
    extend::held_elsewhere,
    id::{AppConfigId, ConnectSessionId, ProviderName, SiteId, sha256_hex},
    principal::{Owner, Slot},
    provider::{Definition, FieldLevel, Kills, OAuth1},
    resource,
    seal::Place,
    secret::{Secret, SecretMap},
};

/// The longest query that is read, in bytes.
const MAX_QUERY: usize = 16 * 1024;
/// How often storing is tried: the tokens are there once only.
const STORE_TRIES: u32 = 4;

/// The error codes of RFC 6749 section 4.1.2.1, and those OpenID Connect adds: the only words of a provider that we
/// repeat.
pub const ERROR_WORDS: [&str; 11] = [
    "access_denied",
    "invalid_request",
    "unauthorized_client",
    "unsupported_response_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
    "login_required",
    "consent_required",
    "interaction_required",
    "account_selection_required",
];

/// What the browser brought back, unverified.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    state: Option<Secret>,
    code: Option<Secret>,
    iss: Option<String>,
    /// A word of our list, or `other`; never the provider's text.
    error: Option<&'static str>,
    /// The temporary token of OAuth 1.0a.
    pub(super) token: Option<Secret>,
    /// Its verifier.
    pub(super) verifier: Option<Secret>,
    /// Everything else, among which a definition may know the word that the person refused.
    others: Vec<(String, Secret)>,
}

impl Answer {
    /// Reads the query of a callback.
    ///
    /// Errors: `invalid_request` when `code`, `state`, `iss`, `error`, `oauth_token` or `oauth_verifier` stands in it twice
    /// (R21), or it is too long.
    pub fn parse(query: &str) -> Result<Self> {
        if query.len() > MAX_QUERY {
            return Err(Error::new(Code::InvalidRequest, "the provider's answer is too long"));
        }
        let mut answer = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let twice = match &*name {
                "state" => answer.state.replace(taken(value)).is_some(),
                "code" => answer.code.replace(taken(value)).is_some(),
                "iss" => answer.iss.replace(value.into_owned()).is_some(),
                "error" => {
                    let word = ERROR_WORDS.into_iter().find(|word| *word == value).unwrap_or("other");
                    answer.error.replace(word).is_some()
                }
                "oauth_token" => answer.token.replace(taken(value)).is_some(),
                "oauth_verifier" => answer.verifier.replace(taken(value)).is_some(),
                _ => {
                    answer.others.push((name.into_owned(), taken(value)));
                    false
                }
            };
            if twice {
                return Err(Error::new(Code::InvalidRequest, "the provider's answer names a parameter twice"));
            }
        }
        Ok(answer)
    }

    /// The key of the binding's cookie that belongs to this answer, at this provider.
    pub fn binding_key(&self, definition: &Definition) -> Option<String> {
        self.flow_key(definition).map(cookie_key)
    }

    /// What the flow is found by: `state`, or the temporary token of OAuth 1.0a, which some providers return under another
    /// name where the person refused.
    fn flow_key(&self, definition: &Definition) -> Option<&Secret> {
        match &definition.oauth1 {
            None => self.state.as_ref(),
            Some(oauth1) => self.token.as_ref().or_else(|| self.denied(oauth1)),
        }
        .filter(|key| !key.is_empty())
    }

    /// Whether the person refused, in the words of OAuth 1.0a: RFC 5849 has none, so the definition says which.
    pub(super) fn is_denied(&self, oauth1: &OAuth1) -> bool {
        self.denied(oauth1).is_some() || self.error == Some("access_denied")
    }

    fn denied(&self, oauth1: &OAuth1) -> Option<&Secret> {
        let param = oauth1.denied_param.as_deref()?;
        self.others.iter().find(|(name, _)| name == param).map(|(_, value)| value)
    }
}

fn taken(value: Cow<'_, str>) -> Secret {
    Secret::new(value.into_owned())
}

/// Finishes a flow: `binding` is the value of the browser's cookie under [`Answer::binding_key`].
///
/// The work runs in a task of `tasks`. Whoever stops waiting cancels nothing; shutdown waits for the tracker.
pub async fn callback(
    outside: &Outside,
    tasks: &TaskTracker,
    provider: &ProviderName,
    answer: Answer,
    binding: Option<Secret>,
) -> Ended {
    let (outside, provider) = (outside.clone(), provider.clone());
    let task = tasks.spawn(async move { finish(&outside, &provider, answer, binding).await });
    task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a connect flow broke off");
        Ended::unknown(Code::Internal)
    })
}

async fn finish(outside: &Outside, provider: &ProviderName, answer: Answer, binding: Option<Secret>) -> Ended {
    let nothing = |code| Ended { provider: Some(provider.clone()), ..Ended::unknown(code) };
    let Ok(definition) = outside.definition(provider) else { return Ended::unknown(Code::NotFound) };
    let flow = match take(outside, &definition, &answer, binding).await {
        Ok(Some(flow)) => flow,
        Ok(None) if definition.oauth1.is_some() => {
            return nothing(oauth1::refusal(&definition, &answer).map_or(Code::TokenSecretExpired, |fault| fault.code));
        }
        Ok(None) => return nothing(Code::InvalidState),
        Err(error) => {
            tracing::error!(error = ?error, "a connect flow could not be read");
            return nothing(Code::StorageFailed);
        }
    };
    let completed = complete(outside, &definition, &flow, &answer).await;
    conclude(outside, &definition, flow, completed).await
}

/// What is left to do for a flow that is over: to read the provider's lists, or to record the failure.
pub(super) async fn conclude(
    outside: &Outside,
    definition: &Arc<Definition>,
    flow: Flow,
    completed: Result<(Connected, Vec<String>), Fault>,
) -> Ended {
    match completed {
        Ok((connected, missing_scopes)) => settled(outside, definition, flow, &connected, missing_scopes).await,
        Err(fault) => {
            note_failure(outside, definition, &flow, &fault, true).await;
            over(outside, flow, Outcome::Failed { code: fault.code, word: word_of(&fault) }, None).await
        }
    }
}

/// What is left to do once an account is stored: to read the provider's lists, and to ask what of them the person wants.
/// Whatever comes of the lists, the account is connected, and what is open can be chosen later.
pub(super) async fn settled(
    outside: &Outside,
    definition: &Definition,
    flow: Flow,
    connected: &Connected,
    missing_scopes: Vec<String>,
) -> Ended {
    let is_open = match resource::read_again(outside, &flow.site, connected.id(), None).await {
        Ok(is_open) => is_open,
        Err(error) => {
            tracing::warn!(connection.id = %connected.id(), error = ?error, "the lists of a new connection could not be read");
            definition.choices().next().is_some()
        }
    };
    let choose = is_open.then(|| (flow.site.clone(), flow.session.clone()));
    over(outside, flow, Outcome::Connected { connection: connected.id().clone(), missing_scopes }, choose).await
}

pub(super) async fn over(outside: &Outside, flow: Flow, outcome: Outcome, choose: Option<(SiteId, ConnectSessionId)>) -> Ended {
    let payload = payload::carried_by(outside, &flow).await;
    let return_to = super::still_listed(&outside.base.db, &flow.site, flow.return_to).await;
    Ended { provider: Some(flow.provider), outcome, return_to, payload, choose }
}

fn word_of(fault: &Fault) -> Option<&'static str> {
    if fault.code != Code::OauthDenied { None } else { ERROR_WORDS.into_iter().find(|word| *word == fault.word) }
}

/// Takes the flow out, once. Nothing comes to a key that is unknown or used, to another provider's callback, or to
/// another browser; and in the last case the flow stays for the right one.
async fn take(outside: &Outside, definition: &Definition, answer: &Answer, binding: Option<Secret>) -> Result<Option<Flow>> {
    let Some(key) = answer.flow_key(definition) else { return Ok(None) };
    let (db, provider) = (&outside.base.db, &definition.name);
    let state_hash = match &definition.oauth1 {
        None => sha256_hex(key.expose().as_bytes()),
        Some(_) => oauth1::flow_hash(provider, key),
    };
    if let Some(binding) = binding {
        let browser_hash = sha256_hex(binding.expose().as_bytes());
        let mut tx = db.begin_bookkeeping().await?;
        let flow = store::take_flow(&mut tx, &state_hash, provider, &browser_hash).await?;
        tx.commit().await?;
        if flow.is_some() {
            return Ok(flow);
        }
    }
    // Somebody has the key of a flow of ours and not the browser it belongs to: that is worth a row.
    if let Some(flow) = store::peek_flow(db, &state_hash).await? {
        let facts = json!({ "session": flow.session, "provider": flow.provider, "callback": provider });
        let event = Event::new(&flow.site, &flow.created_by, "connect.callback").outcome(Audited::Denied).facts(facts);
        let mut tx = db.begin_bookkeeping().await?;
        outside.base.audit.record(&mut tx, event).await?;
        tx.commit().await?;
    }
    Ok(None)
}

async fn complete(
    outside: &Outside,
    definition: &Arc<Definition>,
    flow: &Flow,
    answer: &Answer,
) -> Result<(Connected, Vec<String>), Fault> {
    let base = &outside.base;
    let is_late = flow.expires_at <= base.clock.now();
    if let Some(fault) = oauth1::refusal(definition, answer) {
        return Err(fault);
    }
    if is_late {
        let code = if definition.oauth1.is_some() { Code::TokenSecretExpired } else { Code::InvalidState };
        return Err(Fault::new(code, "expired"));
    }
    oauth2::connectable(definition)?;
    if let Some(oauth2) = &definition.oauth2 {
        check_issuer(flow, oauth2.iss_supported, answer)?;
        if let Some(word) = answer.error {
            return Err(Fault::new(Code::OauthDenied, word));
        }
    }
    session::flow_still_may(outside, flow).await?;
    let owner = flow.owner.to_string();
    let place = Place::flow(&flow.site, &flow.provider, &owner, &flow.name, &flow.id);
    let kept = SecretMap::from_json(&base.ring.open(&base.db, &place, &flow.sealed).await?)
        .map_err(|_| Fault::new(Code::Internal, "flow_unreadable"))?;
    let fields = kept.expose().get("fields").and_then(serde_json::Value::as_object).cloned().unwrap_or_default();
    let fields = SecretMap::new(fields);
    let unreadable = || Fault::new(Code::Internal, "flow_unreadable");
    let config = flow.app_config.as_ref().ok_or_else(unreadable)?;
    let app = App::of_flow(outside, &flow.site, definition, config).await?;
    let ground = Ground {
        outside,
        definition,
        app: Some(&app.values),
        client: &app.client,
        fields: &fields,
        scopes: &flow.scopes,
        redirect_uri: &flow.redirect_uri,
    };
    let slot = flow.slot();
    let given = |value: &Option<Secret>| value.clone().filter(|value| !value.is_empty());
    let obtained = match (&definition.oauth1, &definition.oauth2) {
        (Some(oauth1), _) => {
            let temporary = oauth1::temporary(&kept).ok_or_else(unreadable)?;
            let verifier = given(&answer.verifier).ok_or_else(unreadable)?;
            oauth1::obtain(&ground, oauth1, &slot, &temporary, &verifier).await?
        }
        (None, Some(oauth2)) => {
            let code = given(&answer.code).ok_or_else(|| Fault::new(Code::TokenExchangeFailed, "no_code"))?;
            let verifier = kept.text("verifier").ok_or_else(unreadable)?;
            oauth2::obtain(&ground, oauth2, &slot, &code, &verifier).await?
        }
        (None, None) => return Err(Fault::new(Code::Internal, "no_engine")),
    };
    let client_id = app.client.id().map(str::to_owned);
    store_obtained(outside, definition, flow, client_id, &fields, obtained).await
}

/// RFC 9207 section 2.4: plain string equality after form-decoding, nothing normalised (R12 to R15).
///
/// Where the definition names no issuer there is nothing to compare with; the redirect URI, which is another one for
/// every provider, is the defence against mix-up then (RFC 9700 section 4.4.2.1).
fn check_issuer(flow: &Flow, always_sent: bool, answer: &Answer) -> Result<(), Fault> {
    let fine = match (&flow.issuer, &answer.iss) {
        (Some(expected), Some(named)) => expected == named,
        (_, None) => !always_sent,
        (None, Some(_)) => true,
    };
    if fine { Ok(()) } else { Err(Fault::new(Code::IssuerMismatch, "iss")) }
}

/// Stores what a flow brought in its slot, with its audit row and an agent's grants, in one transaction.
pub(super) async fn store_obtained(
    outside: &Outside,
    definition: &Definition,
    flow: &Flow,
    client_id: Option<String>,
    fields: &SecretMap,
    obtained: Obtained,
) -> Result<(Connected, Vec<String>), Fault> {
    let base = &outside.base;
    let new = NewConnection {
        site: flow.site.clone(),
        provider: flow.provider.clone(),
        owner: flow.owner.clone(),
        name: flow.name.clone(),
        account: obtained.account,
        tokens: obtained.tokens,
        app_config: flow.app_config.clone(),
        client_id,
        subject: obtained.subject,
        subject_name: obtained.subject_name,
        identity: obtained.identity,
        wanted_scopes: flow.scopes.clone(),
        hosts: obtained.hosts,
        call_hosts: obtained.call_hosts,
    };
    // The provider may have been slow, or the person on another device.
    if let Err(error) = session::flow_still_may(outside, flow).await {
        return Err(Fault::from(error).with_issued(new.account));
    }
    if let Err(error) = hand_over(outside, &flow.slot(), &new.account).await {
        return Err(Fault::of(Code::StorageFailed, &error).with_issued(new.account));
    }
    let mut tried = 0;
    loop {
        tried += 1;
        let stored = async {
            base.ring.ensure(&base.db, flow.site.as_str(), flow.provider.as_str()).await?;
            let mut tx = base.db.begin().await?;
            let connected = store_in(outside, definition, flow, &new, fields, &obtained.missing, &mut tx).await?;
            // An entered account uses its link up only now; of two at once, one gets it.
            if definition.is_entered() && !attempts::use_up(&mut tx, flow, base.clock.now()).await? {
                return Err(session::gone());
            }
            tx.commit().await?;
            Ok::<_, Error>(connected)
        };
        match stored.await {
            Ok(connected) => {
                if let Connected::Replaced { old, .. } = &connected {
                    outside.extensions.tell(|sink| sink.revoked(&flow.slot(), old));
                }
                return Ok((connected, obtained.missing));
            }
            Err(error) if matches!(error.code(), Code::SubjectMismatch | Code::NotFound) => {
                return Err(Fault::from(error).with_issued(new.account));
            }
            // A refresh of the same row came between, or the database was away for a moment.
            Err(error) if tried < STORE_TRIES => {
                tracing::warn!(error = ?error, tried, "a connected account could not be stored yet");
                tokio::time::sleep(Duration::from_millis(100) * 4_u32.pow(tried - 1)).await;
            }
            Err(error) => return Err(Fault::of(Code::StorageFailed, &error).with_issued(new.account)),
        }
    }
}

/// Gives the account to whoever takes a copy. One that is held elsewhere is not stored beside it.
async fn hand_over(outside: &Outside, slot: &Slot, account: &SecretMap) -> Result<()> {
    if let Some(held) = outside.extensions.held(slot).await? {
        return Err(held_elsewhere(slot, held.resolver.name()));
    }
    outside.extensions.hand_over(slot, account).await
}

async fn store_in(
    outside: &Outside,
    definition: &Definition,
    flow: &Flow,
    new: &NewConnection,
    fields: &SecretMap,
    missing: &[String],
    tx: &mut Tx,
) -> Result<Connected> {
    let base = &outside.base;
    let actor = &flow.created_by;
    let old = connection::stored_slot(&mut *tx, &new.site, &new.provider, &new.owner, &new.name).await?;
    let moved = match &old {
        Some(old) => has_moved(outside, definition, old, fields, &new.account).await?,
        None => false,
    };
    let was_unknown = old.as_ref().is_some_and(|old| old.connection.subject.is_none());
    let (connected, replaced) = match old {
        // The same subject id at another server is somebody else, and the old grants are not for that server.
        Some(_) if moved && !flow.new_subject => {
            return Err(Error::new(
                Code::SubjectMismatch,
                "this account is at another server than the one connected here; connect again and say that another account may \
                 take its place",
            ));
        }
        Some(old) if moved => {
            let id = &old.connection.id;
            let reason = "an account at another server took its place";
            connection::erase(&mut *tx, &new.site, id, actor, reason, base.clock.now()).await?;
            let fresh = connection::insert(base, tx, actor, new).await?;
            (Connected::Replaced { old: id.clone(), new: fresh }, Some(old))
        }
        _ => {
            let new = match &old {
                Some(old) if old.connection.subject == new.subject => resource::carry_over(base, old, new).await?,
                _ => Cow::Borrowed(new),
            };
            connection::upsert_connected(base, tx, actor, &new, flow.new_subject).await?
        }
    };
    if let Some(old) = &replaced {
        let account = match &old.sealed {
            Some(sealed) => connection::open_account(base, &old.connection, sealed).await.ok(),
            None => None,
        };
        let (wish, reason) = (UpstreamWish::IfPossible, "another account took its place");
        connection::owe_revocation(base, tx, Some(definition), &old.connection, account.as_ref(), wish, reason).await?;
    }
    if let (Owner::Agent(agent), Connected::New(id) | Connected::Replaced { new: id, .. }) = (&new.owner, &connected) {
        accounts::grant_to_owner(base, tx, &new.site, actor, agent, id).await?;
    }
    let again = matches!(connected, Connected::Again(_));
    let facts = json!({
        "session": flow.session, "provider": new.provider, "owner": new.owner, "name": new.name, "subject": new.subject,
        "identity_established": again && was_unknown && new.subject.is_some(),
        "identity": new.identity, "scopes": new.tokens.scopes, "missing_scopes": missing, "config": new.app_config,
        "client_id": new.client_id, "again": again,
        "replaced": replaced.as_ref().map(|old| &old.connection.id), "for_agent": flow.agent, "proven": flow.proven_user,
    });
    let event = Event::new(&new.site, actor, "connection.connect").connection(connected.id()).facts(facts);
    base.audit.record(tx, event).await?;
    store::set_outcome(tx, &flow.site, &flow.session, "connected", Some(connected.id())).await?;
    Ok(connected)
}

/// Whether a field that decides a host has another value than the one the connection was made with (decisions 4).
///
/// So has one whose server an answer named, where that is another one now.
async fn has_moved(
    outside: &Outside,
    definition: &Definition,
    old: &Stored,
    fields: &SecretMap,
    new: &SecretMap,
) -> Result<bool> {
    let mut deciding = definition.fields_deciding_hosts(FieldLevel::Connection).peekable();
    let extras = definition.extras_deciding_hosts();
    if deciding.peek().is_none() && extras.is_empty() {
        return Ok(false);
    }
    let Some(sealed) = &old.sealed else { return Ok(true) };
    let account = connection::open_account(&outside.base, &old.connection, sealed).await?;
    let entered_differs = deciding.any(|field| accounts::said(field, &account) != accounts::said(field, fields));
    let answered_differs = extras.iter().any(|name| match (account.expose().get(*name), new.expose().get(*name)) {
        (Some(old), Some(new)) => old != new,
        _ => false,
    });
    let hosts = |account: &SecretMap| accounts::hosts(outside, definition, account).ok();
    Ok(entered_differs || answered_differs || (!extras.is_empty() && hosts(&account) != hosts(new)))
}

/// Records a flow that failed; with `over`, that this is what became of its session. What cannot be recorded is at least
/// logged: the flow is over either way.
pub(super) async fn note_failure(outside: &Outside, definition: &Definition, flow: &Flow, fault: &Fault, over: bool) {
    let refused = matches!(fault.code, Code::OauthDenied | Code::AccessDenied | Code::Forbidden);
    let audited = if refused { Audited::Denied } else { Audited::Failed };
    tracing::warn!(
        flow.id = %flow.id, provider = %flow.provider, code = %fault.code, word = fault.word, detail = fault.detail,
        "a connect flow failed"
    );
    let facts = json!({
        "session": flow.session, "provider": flow.provider, "owner": flow.owner, "name": flow.name,
        "code": fault.code.as_str(), "word": fault.word, "over": over,
    });
    let event = Event::new(&flow.site, &flow.created_by, "connection.connect").outcome(audited).facts(facts);
    let noted = async {
        outside.base.ring.ensure(&outside.base.db, flow.site.as_str(), flow.provider.as_str()).await?;
        let mut tx = outside.base.db.begin_bookkeeping().await?;
        if let Some(account) = &fault.issued {
            discard(outside, definition, &flow.slot(), flow.app_config.as_ref(), account, &mut tx).await?;
        }
        outside.base.audit.record(&mut tx, event).await?;
        if over {
            store::set_outcome(&mut tx, &flow.site, &flow.session, fault.outcome(), None).await?;
        }
        tx.commit().await
    };
    if let Err(error) = noted.await {
        tracing::error!(error = ?error, flow.id = %flow.id, "a failed connect flow could not be recorded");
    }
}

/// Tokens came for a flow that somebody else ended meanwhile: they must not lie about at the provider.
pub(super) async fn discard_late(
    outside: &Outside,
    definition: &Definition,
    flow: &Flow,
    account: Option<SecretMap>,
) -> Result<()> {
    tracing::warn!(flow.id = %flow.id, provider = %flow.provider, "tokens came for a flow that was over");
    let Some(account) = account else { return Ok(()) };
    outside.base.ring.ensure(&outside.base.db, flow.site.as_str(), flow.provider.as_str()).await?;
    let mut tx = outside.base.db.begin_bookkeeping().await?;
    discard(outside, definition, &flow.slot(), flow.app_config.as_ref(), &account, &mut tx).await?;
    tx.commit().await
}

/// Ends a flow that nobody can go on with: what asked for it is not there any more.
pub(super) async fn forget(outside: &Outside, flow: &Flow, code: Code) -> Result<()> {
    let facts = json!({
        "session": flow.session, "provider": flow.provider, "owner": flow.owner, "name": flow.name,
        "code": code.as_str(), "over": true,
    });
    let event = Event::new(&flow.site, &flow.created_by, "connection.connect").outcome(Audited::Failed).facts(facts);
    outside.base.ring.derived(&outside.base.db, &flow.site, AUDIT_LABEL).await?;
    let mut tx = outside.base.db.begin_bookkeeping().await?;
    if store::end_flow(&mut tx, flow).await? {
        store::set_outcome(&mut tx, &flow.site, &flow.session, code.as_str(), None).await?;
        outside.base.audit.record(&mut tx, event).await?;
    }
    tx.commit().await
}

/// Owes the provider the revocation of tokens that were issued and that nobody will hold. Not where a revocation ends
/// every token of that person for our client: other connections may live on them.
pub(super) async fn discard(
    outside: &Outside,
    definition: &Definition,
    slot: &Slot,
    app_config: Option<&AppConfigId>,
    account: &SecretMap,
    tx: &mut Tx,
) -> Result<()> {
    if definition.revoke.as_ref().is_none_or(|revoke| revoke.kills == Kills::Grant) {
        return Ok(());
    }
    let now = outside.base.clock.now();
    let never_made =
        Connection { status: Status::Revoked { at: now }, app_config: app_config.cloned(), ..Connection::of_nothing(slot, now) };
    let (wish, reason) = (UpstreamWish::IfPossible, "the account was not connected after all");
    connection::owe_revocation(&outside.base, tx, Some(definition), &never_made, Some(account), wish, reason).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R21: what decides something may stand there once; what we do not know may stand there as often as it likes.
    #[test]
    fn a_parameter_that_comes_twice_is_refused_and_unknown_ones_are_ignored() {
        for query in ["code=a&code=a", "state=a&code=b&state=c", "iss=a&iss=b", "error=x&error=y", "code=a&c%6Fde=b"] {
            assert_eq!(Answer::parse(query).unwrap_err().code(), Code::InvalidRequest, "{query}");
        }
        let answer = Answer::parse("session_state=1&session_state=2&code=a%2Bb&state=s&scope=x&hd=y").unwrap();
        assert_eq!(answer.code.unwrap().expose(), "a+b");
    }

    #[test]
    fn a_providers_word_is_repeated_only_from_our_list() {
        assert_eq!(Answer::parse("error=access_denied").unwrap().error, Some("access_denied"));
        assert_eq!(Answer::parse("error=%3Cscript%3E").unwrap().error, Some("other"));
    }
}
