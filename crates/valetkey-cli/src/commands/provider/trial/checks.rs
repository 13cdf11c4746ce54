//! What is tried of one definition, in order. Each check leaves a working account behind, or the next one connects it.

use std::time::{Duration, Instant};

use http::{Method, Request, header};
use provider_lab::{At, FORGED, Fault, Rule, script::Said};
use serde_json::{Value, json};
use valetkey::provider::{Identity, Inject, RefreshStrategy, Rotation};

use super::{
    Cell,
    stage::{Connected, DEADLINE, Stage, Trouble},
    tree,
};
use crate::output::{cell, items};

/// How much longer than the deadline a call that is never answered may take us.
const SLACK: Duration = Duration::from_secs(12);
/// How long a revocation may take that is tried again.
const OUTBOX: Duration = Duration::from_secs(20);
/// More than any answer may have.
const HUGE: u64 = 10 << 20;
/// What the lab wants of whoever asks too often, in seconds.
const WAIT: u64 = 7;

/// Why a check is not passed.
pub(super) enum Miss {
    /// There is nothing to check, for this reason.
    NotApplicable(String),
    /// This build cannot do it.
    NotBuilt(String),
    /// It went wrong.
    Red(String),
}

impl From<String> for Miss {
    fn from(what: String) -> Self {
        Self::Red(what)
    }
}

impl From<Trouble> for Miss {
    fn from(trouble: Trouble) -> Self {
        Self::Red(trouble.to_string())
    }
}

type Checked = Result<(), Miss>;

/// Every check, by its name in `--json` and in words.
pub(super) const CHECKS: [(&str, &str); 24] = [
    ("connect", "connect"),
    ("identity", "identity"),
    ("wrong_state", "wrong state"),
    ("wrong_issuer", "wrong iss"),
    ("denied", "denied"),
    ("token_error", "token error"),
    ("html", "HTML answer"),
    ("content_type", "wrong content type"),
    ("huge", "10 MiB answer"),
    ("duplicate", "duplicate keys"),
    ("control_characters", "control characters in a token"),
    ("slow", "slow for ever"),
    ("omitted", "omitted expires_in and refresh_token"),
    ("reveal", "reveal"),
    ("proxy", "proxy"),
    ("rejected", "401, then refresh"),
    ("refresh", "refresh"),
    ("rotates", "refresh rotates"),
    ("lost", "refresh loses the answer"),
    ("invalid_grant", "invalid_grant"),
    ("too_many", "429 with Retry-After"),
    ("server_error", "500"),
    ("error_with_200", "200 with an error"),
    ("revoke", "revoke: ok, failed, retried"),
];

/// Runs every check.
pub(super) async fn run(stage: &mut Stage) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (name, _) in CHECKS {
        let checked = match (name, cells.first()) {
            (_, Some(Cell::Red(_))) => Err(Miss::NotApplicable("it could not be connected".to_owned())),
            _ => Box::pin(check(stage, name)).await,
        };
        stage.mimic.behave();
        stage.mimic.leave_out(&[]);
        let complaints = stage.mimic.complaints();
        cells.push(match checked {
            Ok(()) if complaints.is_empty() => Cell::Ok,
            Ok(()) => Cell::Red(format!("the lab saw: {}", complaints.join("; "))),
            Err(Miss::NotApplicable(why)) => Cell::NotApplicable(why),
            Err(Miss::NotBuilt(why)) => Cell::NotBuilt(why),
            Err(Miss::Red(what)) if complaints.is_empty() => Cell::Red(what),
            Err(Miss::Red(what)) => Cell::Red(format!("{what}; the lab saw: {}", complaints.join("; "))),
        });
    }
    cells
}

async fn check(stage: &mut Stage, name: &str) -> Checked {
    match name {
        "connect" => connect(stage).await,
        "identity" => identity(stage).await,
        "wrong_state" => {
            in_the_browser(stage)?;
            // By OAuth 1.0a the temporary token is what a flow is found by.
            let (name, code) = match stage.definition.oauth1.is_some() {
                true => ("oauth_token", "token_secret_expired"),
                false => ("state", "invalid_state"),
            };
            refused_with(stage, At::Authorize, Fault::set(name, "nobody-knows-this"), code).await
        }
        "wrong_issuer" => {
            in_the_browser(stage)?;
            if stage.plan.script.authorize.as_ref().is_none_or(|authorize| authorize.issuer.is_none()) {
                return not_applicable("the provider is not known to send iss");
            }
            refused_with(stage, At::Authorize, Fault::set("iss", "https://elsewhere.example"), "issuer_mismatch").await
        }
        "denied" => {
            in_the_browser(stage)?;
            let code = match &stage.definition.oauth1 {
                Some(oauth1) if oauth1.denied_param.is_none() => {
                    return not_applicable("the definition does not say how a refusal comes back");
                }
                Some(_) => "access_denied",
                None => "oauth_denied",
            };
            refused_with(stage, At::Authorize, Fault::Deny { error: "access_denied".to_owned() }, code).await
        }
        "token_error" => {
            let body = match &stage.plan.first {
                Some(first) => tree::refusal(&first.step, "invalid_request"),
                None => Value::Null,
            };
            at_connect(stage, Fault::Reply { status: 400, body }, true).await
        }
        "html" => at_connect(stage, Fault::HtmlBody, is_read(stage)).await,
        // JSON under another name is still JSON: what counts is that it is one or the other, clearly.
        "content_type" => at_connect(stage, Fault::ContentType { value: "text/plain".to_owned() }, false).await,
        "huge" => at_connect(stage, Fault::HugeBody { bytes: HUGE }, true).await,
        "duplicate" => {
            let Some(field) = stage.plan.first.as_ref().and_then(|first| first.member.clone()) else {
                return not_applicable("nothing is read of the provider's answer");
            };
            at_connect(stage, Fault::Duplicate { field, value: json!("another") }, true).await
        }
        "control_characters" if !stage.plan.mints => not_applicable("the provider gives out no token"),
        "control_characters" => at_connect(stage, Fault::ControlCharacters, true).await,
        "slow" => at_connect(stage, Fault::NeverAnswer, true).await,
        "omitted" => omitted(stage).await,
        "reveal" => reveal(stage).await,
        "proxy" => proxy(stage).await,
        "rejected" => rejected(stage).await,
        "refresh" => refresh(stage).await,
        "rotates" => rotates(stage).await,
        "lost" => lost(stage).await,
        "invalid_grant" => invalid_grant(stage).await,
        "too_many" => fails_for_now(stage, Fault::too_many(&WAIT.to_string()), Some(WAIT)).await,
        "server_error" => fails_for_now(stage, Fault::status(500), None).await,
        "error_with_200" => {
            let Some((_, step)) = &stage.plan.refresh else { return not_applicable(NOT_RENEWED) };
            if step.fail_when.iter().any(|rule| rule.error.is_some()) {
                return not_applicable("its errors with 200 say that the credential is refused, and nothing else");
            }
            let body = tree::refusal(step, "temporarily_unavailable");
            fails_for_now(stage, Fault::Reply { status: 200, body }, None).await
        }
        "revoke" => revoke(stage).await,
        other => Err(Miss::Red(format!("there is no check {other}"))),
    }
}

const NOT_RENEWED: &str = "its credential is not renewed";
const ASKS_NOTHING: &str = "connecting asks nothing of the provider";

fn not_applicable<T>(why: &str) -> Result<T, Miss> {
    Err(Miss::NotApplicable(why.to_owned()))
}

fn red<T>(what: impl Into<String>) -> Result<T, Miss> {
    Err(Miss::Red(what.into()))
}

fn in_the_browser(stage: &Stage) -> Checked {
    if stage.plan.script.authorize.is_some() { Ok(()) } else { not_applicable("no browser is sent to the provider") }
}

fn is_read(stage: &Stage) -> bool {
    stage.plan.first.as_ref().is_some_and(|first| first.is_read)
}

/// How an account stands.
struct Look {
    id: String,
    status: String,
    version: Value,
    subject: Option<String>,
    renewal: String,
}

impl Look {
    fn is_active(&self) -> bool {
        matches!(self.status.as_str(), "active" | "expiring")
    }
}

async fn look(stage: &Stage) -> Result<Look, Miss> {
    let Some(id) = stage.connection.clone() else { return red("there is no account") };
    let found = stage.api(Method::GET, &format!("/v1/connections/{id}"), None).await?;
    Ok(Look {
        status: cell(&found, "/status"),
        version: found.get("version").cloned().unwrap_or_default(),
        subject: found.get("subject").and_then(Value::as_str).map(str::to_owned),
        renewal: cell(&found, "/renewal"),
        id,
    })
}

/// An account that works: the one that is there, or one that is connected again.
async fn ready(stage: &mut Stage) -> Result<Look, Miss> {
    if stage.connection.is_some() {
        let found = look(stage).await?;
        if found.is_active() {
            return Ok(found);
        }
    }
    match stage.connect().await? {
        Connected::Yes => {
            let found = look(stage).await?;
            if found.is_active() { Ok(found) } else { red(format!("a connected account is {}", found.status)) }
        }
        Connected::No(code) => red(format!("the account could not be connected again: {code}")),
    }
}

/// A call of the API by the agent, which the lab answers only to the right credential.
async fn works(stage: &Stage) -> Checked {
    if stage.plan.api.is_none() {
        return Ok(());
    }
    call(stage, &Forgery::default()).await
}

/// What a caller puts in the places of a credential.
#[derive(Default)]
struct Forgery {
    query: String,
    headers: Vec<String>,
    /// A body with its content type.
    body: Option<(&'static str, String)>,
}

async fn call(stage: &Stage, forgery: &Forgery) -> Checked {
    let (Some(api), Some(connection)) = (&stage.plan.api, &stage.connection) else { return Ok(()) };
    let mut request = Request::builder()
        .method(api.method.clone())
        .uri(format!("/v1/proxy/{connection}{}{}", api.path, forgery.query))
        .header(header::ACCEPT, "application/json");
    for name in &forgery.headers {
        request = request.header(name, FORGED);
    }
    let mut text = String::new();
    if let Some((content_type, body)) = &forgery.body {
        request = request.header(header::CONTENT_TYPE, *content_type);
        text.clone_from(body);
    }
    let answer = stage.agent(request, text).await?;
    match answer.get("played") {
        Some(Value::Bool(true)) => Ok(()),
        _ => red("the call did not reach the provider's API"),
    }
}

async fn connect(stage: &mut Stage) -> Checked {
    match stage.connect().await? {
        Connected::No(code) => return red(format!("it ended with {code}")),
        Connected::Yes => {}
    }
    let found = look(stage).await?;
    if !found.is_active() {
        return red(format!("the account is {}", found.status));
    }
    works(stage).await
}

async fn identity(stage: &mut Stage) -> Checked {
    if let Identity::None { reason } = &stage.definition.identity {
        return Err(Miss::NotApplicable(format!("nothing says whose account it is: {reason}")));
    }
    let found = ready(stage).await?;
    if found.subject != stage.plan.subject {
        return red(format!("the account is of {:?} and not of {:?}", found.subject, stage.plan.subject));
    }
    if !matches!(stage.definition.identity, Identity::Step(_)) {
        return Ok(());
    }
    refused_connect(stage, At::Userinfo, Fault::status(500), true).await.map(|_| ())
}

/// Connects again while something goes wrong there. What was connected before must be as it was, and work.
async fn refused_connect(stage: &mut Stage, at: At, fault: Fault, must: bool) -> Result<Option<String>, Miss> {
    let before = ready(stage).await?;
    stage.mimic.misbehave(Rule::always(at, fault));
    let began = Instant::now();
    let ended = stage.connect().await;
    stage.mimic.behave();
    if began.elapsed() > DEADLINE + SLACK {
        return red(format!("it took {} s", began.elapsed().as_secs()));
    }
    let code = match ended? {
        Connected::Yes if must => return red("the account was connected nevertheless"),
        Connected::Yes => None,
        Connected::No(code) if ["internal", "storage_failed", "unavailable"].contains(&code.as_str()) => {
            return red(format!("it ended with {code}, as if the fault were ours"));
        }
        Connected::No(code) => Some(code),
    };
    let after = look(stage).await?;
    if code.is_some() && (after.id != before.id || after.version != before.version || !after.is_active()) {
        return red("the account that was there before did not stay as it was");
    }
    works(stage).await?;
    Ok(code)
}

async fn refused_with(stage: &mut Stage, at: At, fault: Fault, wanted: &str) -> Checked {
    match refused_connect(stage, at, fault, true).await? {
        Some(code) if code == wanted => Ok(()),
        code => red(format!("it ended with {} and not with {wanted}", code.unwrap_or_default())),
    }
}

async fn at_connect(stage: &mut Stage, fault: Fault, must: bool) -> Checked {
    let Some(at) = stage.plan.first.as_ref().map(|first| first.at) else { return not_applicable(ASKS_NOTHING) };
    refused_connect(stage, at, fault, must).await.map(|_| ())
}

/// An answer without the members that RFC 6749 section 5.1 lets a provider leave out.
async fn omitted(stage: &mut Stage) -> Checked {
    if !stage.plan.mints {
        return not_applicable("the provider gives out no token");
    }
    ready(stage).await?;
    let all = [
        Said::ExpiresIn,
        Said::ExpiresAtSeconds,
        Said::ExpiresAtMs,
        Said::ExpiresAtText,
        Said::RefreshToken,
        Said::RefreshExpiresIn,
    ];
    stage.mimic.leave_out(&all);
    if let Connected::No(code) = stage.connect().await? {
        return red(format!("it could not be connected: {code}"));
    }
    works(stage).await?;
    stage.mimic.leave_out(&[]);
    // Connected again, so that there is a refresh token; then a refresh that does not name one: the old one stays.
    if let Connected::No(code) = stage.connect().await? {
        return red(format!("it could not be connected again: {code}"));
    }
    if look(stage).await?.renewal != "refresh_token" {
        return Ok(());
    }
    stage.mimic.leave_out(&[Said::RefreshToken, Said::ExpiresIn]);
    for _ in 0..2 {
        stage.advance(stage.plan.young);
        renewed(stage).await?;
    }
    stage.mimic.leave_out(&[]);
    match stage.connect().await? {
        Connected::Yes => Ok(()),
        Connected::No(code) => red(format!("it could not be connected again: {code}")),
    }
}

async fn revealed(stage: &Stage) -> Result<Value, Miss> {
    Ok(asked_to_reveal(stage).await??)
}

/// What the broker said to the agent that asked for the token.
async fn asked_to_reveal(stage: &Stage) -> Result<Result<Value, Trouble>, Miss> {
    let Some(connection) = &stage.connection else { return red("there is no account") };
    let request = Request::post(format!("/v1/connections/{connection}/token")).header(header::CONTENT_TYPE, "application/json");
    Ok(stage.agent(request, "{}".to_owned()).await)
}

async fn reveal(stage: &mut Stage) -> Checked {
    ready(stage).await?;
    if stage.definition.is_bound() {
        return match asked_to_reveal(stage).await? {
            Err(refused) if refused.code == "grant_denied" => {
                not_applicable("what is chosen binds the proxy, so its token is not handed out")
            }
            Err(other) => Err(other.into()),
            Ok(_) => red("a token was handed out that reaches what was not chosen"),
        };
    }
    let answer = revealed(stage).await?;
    if answer.get("refresh_token").is_some() {
        return red("a refresh token was handed out");
    }
    if stage.plan.mints {
        return match answer.get("access_token").and_then(Value::as_str) {
            Some(token) if stage.mimic.works(token) => Ok(()),
            Some(_) => red("the token that was handed out does not work"),
            None => red("no token was handed out"),
        };
    }
    let secrets = stage.definition.fields.iter().filter(|field| field.secret);
    for field in secrets {
        let entered = stage.plan.entered.get(&field.name).map(|value| Value::from(value.as_str()));
        if entered.is_some() && answer.get(&field.name) != entered.as_ref() && answer.get("access_token") != entered.as_ref() {
            return red(format!("{} is not handed out", field.name));
        }
    }
    Ok(())
}

/// The credential stands where the definition says, and a caller cannot put another in its place.
async fn proxy(stage: &mut Stage) -> Checked {
    let Some(proxy) = stage.definition.proxy.clone() else { return not_applicable("there is nothing to proxy") };
    ready(stage).await?;
    if stage.plan.api.is_none() {
        return red("no path could be found that the definition lets an agent call");
    }
    works(stage).await?;
    let mut names: Vec<&str> = proxy.strip_query.iter().map(String::as_str).collect();
    let mut forgery = Forgery::default();
    for inject in &proxy.inject {
        match inject {
            Inject::Query { name, .. } => names.push(name),
            // The agent's own bearer stands in that one, in every call.
            Inject::Header { name, .. } if name.eq_ignore_ascii_case("authorization") => {}
            Inject::Header { name, .. } => forgery.headers.push(name.clone()),
            Inject::Form { name, .. } => {
                forgery.body = Some(("application/x-www-form-urlencoded", format!("{name}={FORGED}&a=1")));
            }
            Inject::Json { name, .. } => forgery.body = Some(("application/json", json!({ name: FORGED, "a": 1 }).to_string())),
            Inject::Oauth1Signature => names.push("oauth_token"),
            Inject::Basic { .. } => {}
        }
    }
    names.sort_unstable();
    names.dedup();
    let query: Vec<String> = names.iter().map(|name| format!("{name}={FORGED}")).collect();
    if !query.is_empty() {
        forgery.query = format!("?{}", query.join("&"));
    }
    match call(stage, &forgery).await {
        // Refused, or called with the true credential: the lab complains of anything else.
        Ok(()) => {}
        Err(Miss::Red(what)) if what.contains(" 400 ") || what.contains(" 403 ") => {
            tracing::debug!(what, "a forged call was refused")
        }
        Err(miss) => return Err(miss),
    }
    works(stage).await
}

/// Renews now.
async fn renewed(stage: &Stage) -> Checked {
    let Some(connection) = &stage.connection else { return red("there is no account") };
    let answer = stage.api(Method::POST, &format!("/v1/connections/{connection}/refresh"), None).await?;
    match answer.get("refreshed") {
        Some(Value::Bool(true)) => works(stage).await,
        _ => red("the token that was there stayed"),
    }
}

/// An account whose token is old enough to be renewed, and where misbehaviour is told for that.
async fn renewable(stage: &mut Stage) -> Result<(At, Look), Miss> {
    let Some(at) = stage.plan.refresh.as_ref().map(|(at, _)| *at) else { return not_applicable(NOT_RENEWED) };
    let found = ready(stage).await?;
    if found.renewal == "none" {
        return red("the definition says how it is renewed, and the account cannot be");
    }
    stage.advance(stage.plan.young);
    Ok((at, found))
}

async fn refresh(stage: &mut Stage) -> Checked {
    let (at, _) = renewable(stage).await?;
    let before = stage.mimic.requests(at.name());
    renewed(stage).await?;
    match stage.mimic.requests(at.name()) - before {
        1 => Ok(()),
        other => red(format!("the provider was asked {other} times")),
    }
}

async fn rotates(stage: &mut Stage) -> Checked {
    let refresh = &stage.definition.refresh;
    if refresh.strategy != RefreshStrategy::RefreshToken {
        return not_applicable("it is renewed without a refresh token");
    }
    if refresh.rotation == Rotation::Never {
        return not_applicable("its refresh token is never replaced");
    }
    renewable(stage).await?;
    renewed(stage).await?;
    stage.advance(stage.plan.young);
    // With the second one: the lab takes the first no more.
    renewed(stage).await
}

async fn lost(stage: &mut Stage) -> Checked {
    let (at, _) = renewable(stage).await?;
    let refresh = &stage.definition.refresh;
    let (strategy, rotation, grace) = (refresh.strategy, refresh.rotation, refresh.grace);
    let before = stage.mimic.requests(at.name());
    stage.mimic.misbehave(Rule::once(at, Fault::LoseResponse));
    let outcome = renewed(stage).await;
    stage.mimic.behave();
    let asked = stage.mimic.requests(at.name()) - before;
    match (&outcome, grace) {
        // Within the window a spent refresh token still yields its successor.
        (Ok(()), Some(_)) if asked == 2 => return Ok(()),
        (Ok(()), _) => return red("it counts as renewed, and the answer was lost"),
        (Err(_), None) if asked == 1 => {}
        (Err(Miss::Red(_)), Some(_)) if asked <= 2 => {}
        (Err(_), _) => return red(format!("the provider was asked {asked} times")),
    }
    // What is there still serves.
    works(stage).await?;
    let can_be_lost = strategy == RefreshStrategy::RefreshToken && rotation != Rotation::Never;
    if !can_be_lost {
        stage.advance(stage.plan.young);
        return renewed(stage).await;
    }
    if stage.plan.api.is_none() {
        return Ok(());
    }
    // Once it has ended there is one more attempt, and no other.
    stage.advance(stage.plan.life);
    for _ in 0..3 {
        // Whether it serves hangs on the provider: one that spent the token refuses it.
        let _ = works(stage).await;
    }
    let asked = stage.mimic.requests(at.name()) - before;
    if asked > 2 + u64::from(grace.is_some()) {
        return red(format!("the provider was asked {asked} times for one refresh token"));
    }
    ready(stage).await?;
    works(stage).await
}

async fn invalid_grant(stage: &mut Stage) -> Checked {
    let (at, before) = renewable(stage).await?;
    let Some((_, step)) = &stage.plan.refresh else { return not_applicable(NOT_RENEWED) };
    let word = stage.definition.refresh.terminal_errors.first().map_or("invalid_grant", String::as_str);
    let body = tree::refusal(step, word);
    stage.mimic.misbehave(Rule::once(at, Fault::Reply { status: 400, body }));
    let outcome = renewed(stage).await;
    stage.mimic.behave();
    let after = look(stage).await?;
    match outcome {
        // A login that is stored, too, may have brought another session.
        Ok(()) if stage.definition.refresh.fallback.is_some() => return Ok(()),
        Ok(()) => return red("it counts as renewed, and was refused"),
        Err(_) if after.status != "needs_reauth" && stage.definition.refresh.strategy != RefreshStrategy::Remint => {
            return red(format!("refused for good with {word}, the account is {}", after.status));
        }
        Err(_) => {}
    }
    // A token that lives is served until it ends.
    works(stage).await?;
    let again = match stage.connect().await? {
        Connected::Yes => look(stage).await?,
        Connected::No(code) => return red(format!("it could not be connected again: {code}")),
    };
    if before.subject.is_some() && again.id != before.id {
        return red("the same account got another id when it was connected again");
    }
    if again.is_active() { works(stage).await } else { red(format!("connected again, the account is {}", again.status)) }
}

/// A renewal that fails for now: nothing is lost, what is there serves, and the next one works.
async fn fails_for_now(stage: &mut Stage, fault: Fault, wait: Option<u64>) -> Checked {
    let (at, before) = renewable(stage).await?;
    stage.mimic.misbehave(Rule::once(at, fault));
    let path = format!("/v1/connections/{}/refresh", before.id);
    let outcome = stage.api(Method::POST, &path, None).await;
    stage.mimic.behave();
    let trouble = match outcome {
        Ok(_) => return red("it counts as renewed, and was refused"),
        Err(trouble) => trouble,
    };
    if trouble.status.is_client_error() && trouble.code == "not_authenticated" {
        return red(format!("it was taken as refused for good: {trouble}"));
    }
    if let Some(wait) = wait
        && trouble.retry_after.is_none_or(|told| told < wait)
    {
        return red(format!("the provider asked for {wait} s, and the caller is told {:?}", trouble.retry_after));
    }
    let after = look(stage).await?;
    if !after.is_active() || after.version != before.version {
        return red(format!("the account is {}, version {}", after.status, after.version));
    }
    works(stage).await?;
    stage.advance(stage.plan.young);
    renewed(stage).await
}

async fn rejected(stage: &mut Stage) -> Checked {
    if stage.plan.api.is_none() {
        return not_applicable("there is nothing to proxy");
    }
    let (at, _) = renewable(stage).await?;
    if stage.definition.refresh.strategy == RefreshStrategy::Extend {
        return not_applicable("a token that the provider refuses cannot be extended");
    }
    let before = stage.mimic.requests(at.name());
    stage.mimic.end_access_tokens();
    works(stage).await?;
    match stage.mimic.requests(at.name()) - before {
        1 => Ok(()),
        other => red(format!("the provider was asked {other} times")),
    }
}

async fn revoke(stage: &mut Stage) -> Checked {
    let says_how = stage.definition.revoke.is_some();
    let found = ready(stage).await?;
    let token = match stage.plan.mints && !stage.definition.is_bound() {
        true => revealed(stage).await?.get("access_token").and_then(Value::as_str).map(str::to_owned),
        false => None,
    };
    let ended = end(stage, &found.id).await?;
    let upstream = cell(&ended, "/upstream");
    match (says_how, upstream.as_str()) {
        (false, "unsupported") => return not_applicable("the provider has no way to revoke"),
        (true, "unsupported") => {
            return Err(Miss::NotBuilt(format!("it is revoked in a way that is not built: {}", cell(&ended, "/why"))));
        }
        (true, "revoked") => {}
        (_, other) => return red(format!("at the provider it is {other} {}", cell(&ended, "/why"))),
    }
    if token.is_some_and(|token| stage.mimic.works(&token)) {
        return red("the token still works at the provider");
    }
    // Failed, and tried again by the outbox.
    let found = ready(stage).await?;
    stage.mimic.misbehave(Rule::always(At::Revoke, Fault::status(500)));
    let ended = end(stage, &found.id).await?;
    if cell(&ended, "/upstream") != "pending" || cell(&ended, "/next_at").is_empty() {
        return red(format!("the provider failed, and it is {} without a next attempt", cell(&ended, "/upstream")));
    }
    stage.mimic.behave();
    stage.advance(Duration::from_secs(120));
    let began = Instant::now();
    loop {
        let owed = stage.api(Method::GET, &format!("/v1/revocations?connection={}", found.id), None).await?;
        match items(&owed, "revocations").first().map(|owed| cell(owed, "/status")).as_deref() {
            Some("revoked") => return Ok(()),
            Some("pending") if began.elapsed() < OUTBOX => tokio::time::sleep(Duration::from_millis(200)).await,
            other => return red(format!("tried again, it is {}", other.unwrap_or("not there"))),
        }
    }
}

/// Ends an account. Nothing of it is handed out any more.
async fn end(stage: &mut Stage, id: &str) -> Result<Value, Miss> {
    let ended = stage.api(Method::DELETE, &format!("/v1/connections/{id}?wait=10"), None).await?;
    if revealed(stage).await.is_ok() {
        return red("an ended account was still handed out");
    }
    stage.connection = None;
    Ok(ended)
}
