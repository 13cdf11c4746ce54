//! From entered values to an account that can be stored: a static key, a mailbox, a login, a signed assertion (RFC 7523),
//! client credentials (RFC 6749 section 4.4). One way for the page of a link and for whoever stores an account by the account
//! routes ([`store`]).
//!
//! 1. Where the definition says how, it is looked up which server the account is at, before anything secret leaves us.
//! 2. The values are tried for real: the login, the exchange of the assertion, the token request; of a static key the
//!    harmless call that the definition names (`verify`); of a mailbox the login to its servers.
//! 3. The account is asked who it is, like every other one, and its hosts are fixed.
//!
//! Nothing is stored here, and nothing that was there before is touched.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Fault, callback, input,
    oauth2::{self, App, Drawn, Ground, Obtained},
};
use crate::{
    app_config,
    base::Outside,
    connection::{
        Identity,
        accounts::{self, Known, Precondition, Put},
        keep_hosts, merge_answer,
    },
    error::{Code, Error, Result},
    id::SiteId,
    mail,
    principal::{Actor, Owner, Slot},
    provider::{
        self, Definition, FieldLevel, Kind, OwnClient, Vars,
        step::{FailureClass, StepFailure},
    },
    secret::SecretMap,
};

/// The app of whoever the account will belong to, where the definition has one; absent where it has none.
pub(super) async fn app(outside: &Outside, site: &SiteId, definition: &Definition, owner: &Owner) -> Result<Option<App>> {
    if definition.fields_of(FieldLevel::App).next().is_none() {
        return Ok(None);
    }
    if app_config::is_configured(definition, None) {
        let db = &outside.base.db;
        let own = app_config::current(db, site, &definition.name, owner).await?;
        let any = match own {
            Some(own) => Some(own),
            None => app_config::current(db, site, &definition.name, &Owner::Site).await?,
        };
        if any.is_none() {
            return Ok(None);
        }
    }
    App::choose(outside, site, definition, owner).await.map(Some)
}

/// What one account is made with.
pub(super) struct Entry<'a> {
    pub(super) outside: &'a Outside,
    pub(super) definition: &'a Arc<Definition>,
    pub(super) app: Option<&'a App>,
    /// The entered values, checked and brought into one form.
    pub(super) fields: &'a SecretMap,
    pub(super) scopes: &'a [String],
    /// Which account it will be.
    pub(super) slot: &'a Slot,
}

impl Entry<'_> {
    /// The client that the app and the entered values make.
    pub(super) fn client(&self) -> OwnClient {
        OwnClient::of(self.definition, self.app.map(|app| &app.values), Some(self.fields))
    }

    /// Whether the entered values can be what they must be, as far as can be told without asking anybody.
    ///
    /// Errors: `invalid_request` for a private key or a mail server that is none, `not_configured` where it is the app's.
    pub(super) fn check(&self) -> Result<()> {
        if self.definition.kind == Kind::Mail {
            mail::servers(self.definition, self.fields)?;
        }
        let Some(jwt) = &self.definition.jwt else { return Ok(()) };
        let client = self.client();
        let ground = self.ground(&client);
        let scopes = ground.joined_scopes();
        let vars = Vars { scopes: Some(&scopes), ..ground.plain_vars() };
        match jwt.sign(&vars, self.outside.base.clock.now()) {
            Ok(_) => Ok(()),
            Err(error) if self.definition.mints_as_app() => Err(error),
            Err(error) => Err(Error::new(Code::InvalidRequest, error.message().to_owned())),
        }
    }

    /// Tries the values with the provider; the account they make.
    pub(super) async fn obtain(&self) -> Result<Obtained, Fault> {
        let client = self.client();
        let ground = self.ground(&client);
        let mut drawn = if self.is_kept() { self.kept()? } else { minted(&ground).await? };
        let identified = async {
            if let Some(step) = &self.definition.verify {
                let vars = Vars { account: Some(&drawn.account), id: drawn.id.as_deref(), ..ground.plain_vars() };
                ground.call(step, Code::LoginRefused, &vars).await?;
            }
            oauth2::complete(&ground, self.slot, &mut drawn).await
        };
        match identified.await {
            Ok(mut identified) => {
                let stated = matches!(self.definition.identity, provider::Identity::Static(_));
                if self.is_kept() && stated && self.definition.verify.is_none() {
                    // Nobody but the owner says whose it is.
                    identified.identity = Identity::Owner;
                }
                drawn.obtained(&ground, identified)
            }
            // What was entered was there before and is nobody's to revoke.
            Err(fault) if self.is_kept() => Err(fault),
            Err(fault) => Err(fault.with_issued(drawn.account)),
        }
    }

    fn ground<'g>(&'g self, client: &'g OwnClient) -> Ground<'g> {
        Ground {
            outside: self.outside,
            definition: self.definition,
            app: self.app.map(|app| &app.values),
            client,
            fields: self.fields,
            scopes: self.scopes,
            redirect_uri: "",
        }
    }

    /// Whether the entered values are the credential, and nothing is begun with them.
    fn is_kept(&self) -> bool {
        matches!(self.definition.kind, Kind::Static | Kind::Mail)
    }

    fn kept(&self) -> Result<Drawn, Fault> {
        let now = self.outside.base.clock.now();
        let tokens = accounts::tokens(self.definition, self.fields, now)?;
        Ok(Drawn { account: self.fields.clone(), tokens, id: None, hosts: Vec::new() })
    }
}

/// What a look-up found.
struct Found {
    /// The entered values, and what was found beside them.
    account: SecretMap,
    /// Whose account it should turn out to be.
    id: Option<String>,
    /// Whether the account's server is among it.
    server: bool,
}

/// The call that makes the tokens.
async fn minted(ground: &Ground<'_>) -> Result<Drawn, Fault> {
    let definition = ground.definition;
    let found = look_up(ground).await?;
    let step = definition.minting_step().ok_or_else(|| Fault::new(Code::Internal, "no_step"))?;
    let scopes = ground.joined_scopes();
    let vars = Vars { scopes: Some(&scopes), account: Some(&found.account), id: found.id.as_deref(), ..ground.plain_vars() };
    let assertion = match &definition.jwt {
        Some(jwt) => Some(jwt.sign(&vars, ground.outside.base.clock.now())?),
        None => None,
    };
    let vars = Vars { jwt: assertion.as_ref(), ..vars };
    let (outputs, sent_at) = ground.call_one(step, Code::LoginRefused, &vars).await?;
    let (mut account, tokens) = merge_answer(definition, Some(&found.account), &outputs, sent_at);
    if found.server {
        // The directory said where the account is, and that is where the secrets went.
        keep_hosts(definition, &found.account, &mut account);
    }
    if let (Some(expected), Some(told)) = (&found.id, &outputs.id)
        && expected != told
    {
        return Err(Fault::new(Code::UpstreamInvalid, "another_account").with_issued(account));
    }
    Ok(Drawn { account, tokens, id: outputs.id.or(found.id), hosts: Vec::new() })
}

/// Which server the account is at, as the definition's look-ups say. A directory that cannot be reached is an error, because
/// the login would go somewhere else without it; one that knows nothing leaves the defaults.
async fn look_up(ground: &Ground<'_>) -> Result<Found, Fault> {
    let definition = ground.definition;
    let mut found = Found { account: ground.fields.clone(), id: None, server: false };
    let Some(session) = &definition.session else { return Ok(found) };
    let is_said = session.resolve_unless.as_deref().and_then(|name| definition.field(name)).is_some_and(|field| {
        let given = ground.fields.expose().get(&field.name).and_then(Value::as_str);
        given.is_some_and(|given| field.default.as_deref() != Some(given))
    });
    if is_said {
        return Ok(found);
    }
    for step in &session.resolve {
        let vars = Vars { account: Some(&found.account), id: found.id.as_deref(), ..ground.plain_vars() };
        let (read, _) = ground.ask(step, Code::UpstreamInvalid, &vars).await?;
        let outputs = match read {
            Ok(outputs) => outputs.into_iter().next(),
            Err(failure) if knows_nothing(&failure) => None,
            Err(failure) => {
                let code = match meaning(definition, &failure) {
                    // No secret was shown, so none was refused.
                    Code::LoginRefused | Code::NotConfigured => Code::UpstreamInvalid,
                    code => code,
                };
                return Err(Fault::told(code, &failure));
            }
        };
        let Some(outputs) = outputs else { break };
        found.account.expose_mut().extend(outputs.extra);
        found.id = outputs.id.or(found.id);
    }
    found.server = definition.extras_deciding_hosts().iter().any(|name| found.account.expose().contains_key(*name));
    Ok(found)
}

/// Whether a look-up was told that there is nothing to find: 400, 404 and 410 say so.
fn knows_nothing(failure: &StepFailure) -> bool {
    matches!(failure.status.as_u16(), 400 | 404 | 410) && !matches!(failure.class, FailureClass::Transient { .. })
}

/// What a provider's refusal means to the person before a form: that what was entered is wrong, that the app is, or that the
/// provider does not work as it should.
pub(super) fn meaning(definition: &Definition, failure: &StepFailure) -> Code {
    // Our own words for an answer that cannot be used, and those for a request that was not made as it should be.
    const OURS: &[&str] =
        &["unreadable_answer", "no_token_in_answer", "malformed_token", "unknown_token_type", "redirect", "unnamed_error"];
    const MALFORMED: &[&str] = &["invalid_scope", "invalid_request", "unsupported_grant_type"];
    let refused = match failure.class {
        FailureClass::Transient { .. } if failure.status.as_u16() == 429 => return Code::RateLimited,
        FailureClass::Transient { .. } => return Code::UpstreamUnreachable,
        FailureClass::Terminal | FailureClass::ClientFault | FailureClass::Denied => true,
        FailureClass::Other if OURS.contains(&failure.error.as_str()) || MALFORMED.contains(&failure.error.as_str()) => false,
        // A success that the definition knows for a refusal, or a plain one.
        FailureClass::Other => failure.status.is_success() || matches!(failure.status.as_u16(), 400 | 401 | 403),
    };
    let by_app = definition.mints_as_app() && definition.kind != Kind::Static;
    match refused {
        // The app's key is good, and what was entered names nothing.
        false if by_app && failure.status.as_u16() == 404 => Code::LoginRefused,
        true if by_app => Code::NotConfigured,
        true => Code::LoginRefused,
        false => Code::UpstreamInvalid,
    }
}

/// Whether an account that somebody stores is made of entered values alone, so that [`store`] can try it: a platform that
/// brings tokens it drew elsewhere stores those as they are.
pub fn is_entry(definition: &Definition, account: &SecretMap) -> bool {
    definition.is_entered() && ["access_token", "refresh_token"].iter().all(|name| account.text(name).is_none())
}

/// Stores an account that is made of entered values, after they were tried with the provider as on the page of a link.
///
/// What is not a field of the definition stays beside it as it is.
///
/// # Errors
/// As [`accounts::put`]; `login_refused` where the provider refuses the values, `upstream_unreachable` and the like where it
/// cannot be asked, `not_configured` where its app is missing or refused. Nothing is stored then.
pub async fn store(outside: &Outside, actor: &Actor, slot: &Slot, given: SecretMap, precondition: &Precondition) -> Result<Put> {
    let definition = outside.definition(&slot.provider)?;
    // Before a login is spent on it.
    accounts::check(precondition, accounts::status(&outside.base, slot).await?.as_ref())?;
    let accepted = input::accept_entered(outside, &definition, &given)?;
    let mut fields = given;
    for (name, value) in accepted.expose() {
        // What says the same already stays as it came: a number is read back as a number.
        let same = matches!(fields.expose().get(name), Some(Value::Number(number)) if *value == number.to_string());
        if !same {
            fields.expose_mut().insert(name.clone(), value.clone());
        }
    }
    let app = app(outside, &slot.site, &definition, &slot.owner).await?;
    let scopes = definition.needed_scopes();
    let entry = Entry { outside, definition: &definition, app: app.as_ref(), fields: &fields, scopes: &scopes, slot };
    entry.check()?;
    let obtained = match entry.obtain().await {
        Ok(obtained) => obtained,
        Err(fault) => {
            give_back(&entry, fault.issued.as_ref()).await;
            return Err(told(&definition, &fault));
        }
    };
    let known = Known {
        tokens: obtained.tokens,
        subject: obtained.subject,
        subject_name: obtained.subject_name,
        identity: obtained.identity,
        wanted_scopes: scopes.clone(),
    };
    let stored = accounts::put_known(outside, actor, slot, obtained.account.clone(), &known, precondition).await;
    if stored.is_err() && !entry.is_kept() {
        give_back(&entry, Some(&obtained.account)).await;
    }
    stored
}

/// Owes the provider the end of what was begun there and that nobody will hold. What cannot be noted is at least logged.
async fn give_back(entry: &Entry<'_>, account: Option<&SecretMap>) {
    let Some(account) = account else { return };
    let (outside, slot) = (entry.outside, entry.slot);
    let noted = async {
        let base = &outside.base;
        base.ring.ensure(&base.db, slot.site.as_str(), slot.provider.as_str()).await?;
        let mut tx = base.db.begin_bookkeeping().await?;
        let config = entry.app.map(|app| &app.config.id);
        callback::discard(outside, entry.definition, slot, config, account, &mut tx).await?;
        tx.commit().await
    };
    if let Err(error) = noted.await {
        tracing::error!(error = ?error, provider = %slot.provider, "an account that was not stored could not be given back");
    }
}

/// A fault as whoever entered the values is told of it.
pub(super) fn told(definition: &Definition, fault: &Fault) -> Error {
    let title = &definition.title;
    let message = match &fault.said {
        Some(said) => said.clone(),
        None => match fault.code {
            Code::LoginRefused => format!("{title} refused what was entered (`{}`); check it and try again", fault.word),
            Code::RateLimited => format!("{title} wants no more attempts for now; wait a while and try again"),
            Code::UpstreamUnreachable | Code::UpstreamTimeout => {
                format!("{title} could not be reached, so what was entered was not tried; try again later")
            }
            Code::AddressRefused => {
                format!("the server of this account of {title} is not at a public address; it is not spoken to")
            }
            Code::HostRefused => format!("the server of this account of {title} cannot be used"),
            Code::UpstreamInvalid => format!("{title} answered in a way that cannot be used (`{}`); try again later", fault.word),
            Code::NotConfigured => {
                format!("{title} refuses the app that is configured here (`{}`); tell your operator", fault.word)
            }
            Code::AccountFetchFailed => format!("{title} did not say whose account it is (`{}`); try again later", fault.word),
            Code::SubjectMismatch => format!(
                "this is another account of {title} than the one that is connected here; enter that one, or ask for a link that may \
             replace it"
            ),
            Code::InvalidRequest => "what was entered cannot be used; check it and try again".to_owned(),
            code => return Error::new(code, "the account could not be connected; the log says why").with_detail(&fault.word),
        },
    };
    let error = Error::new(fault.code, message);
    match &fault.detail {
        Some(detail) => error.with_detail(detail),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::provider::Catalogue;

    #[test]
    fn a_wrong_password_is_told_apart_from_a_provider_that_does_not_work() {
        let catalogue = Catalogue::embedded().unwrap();
        let definition = catalogue.get(&"bluesky".parse().unwrap()).unwrap();
        let failure = |class, error: &str, status: u16| StepFailure {
            class,
            error: error.to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
        };
        let transient = FailureClass::Transient { retry_after: None };
        for (failure, code) in [
            (failure(FailureClass::Other, "authenticationrequired", 401), Code::LoginRefused),
            (failure(FailureClass::Other, "http_403", 403), Code::LoginRefused),
            (failure(FailureClass::Other, "login_refused", 200), Code::LoginRefused),
            (failure(FailureClass::Terminal, "invalid_grant", 400), Code::LoginRefused),
            (failure(FailureClass::ClientFault, "invalid_client", 401), Code::LoginRefused),
            (failure(FailureClass::Other, "unreadable_answer", 200), Code::UpstreamInvalid),
            (failure(FailureClass::Other, "invalid_scope", 400), Code::UpstreamInvalid),
            (failure(FailureClass::Other, "redirect", 302), Code::UpstreamInvalid),
            (failure(FailureClass::Other, "http_404", 404), Code::UpstreamInvalid),
            (failure(transient, "http_503", 503), Code::UpstreamUnreachable),
            (failure(transient, "ratelimitexceeded", 429), Code::RateLimited),
        ] {
            assert_eq!(meaning(definition, &failure), code, "{failure}");
        }
        // An installation of an app has no secret of its own: what is refused is the app's key.
        let app = catalogue.get(&"github_app".parse().unwrap()).unwrap();
        assert_eq!(meaning(app, &failure(FailureClass::Other, "http_401", 401)), Code::NotConfigured);
        assert_eq!(meaning(app, &failure(FailureClass::Other, "http_404", 404)), Code::LoginRefused);
    }
}
