//! Registering an app at an instance before its first connect (RFC 7591, and what came before it).
//!
//! The person's input decides which server is asked: it was brought into the form of an https origin and checked by the
//! address guard when the link was made, and the client to the outside checks every address again. An app is made once for
//! each request, however many people connect at once, and used again for everybody on that instance.

use std::time::Duration;

use super::oauth2::App;
use crate::{
    app_config::registered::{self, Turn, Wanted},
    base::Outside,
    error::{Code, Error, Result},
    id::{SiteId, sha256_hex},
    principal::Actor,
    provider::{
        Broker, Definition, Vars,
        step::{Step, StepFailure},
    },
    secret::SecretMap,
    upstream::Limits,
};

/// How long an instance may take to answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long nobody else registers meanwhile.
const TURN: Duration = Duration::from_secs(60);
/// How long somebody waits for another one's registration, and how often they look.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(150);

/// The app of this instance: the one that is there, or a new one.
pub(super) async fn app(outside: &Outside, site: &SiteId, actor: &Actor, wanted: &NewApp<'_>) -> Result<App> {
    let NewApp { definition, step, fields, scopes, redirect_uri } = *wanted;
    let url = outside.public_url.as_str().trim_end_matches('/');
    let vars = Vars {
        fields: Some(fields),
        scopes: Some(scopes),
        callback: Some(redirect_uri),
        broker: Broker { url, ..Broker::default() },
        ..Vars::default()
    };
    let request = step.render(&vars)?;
    let instance = format!(
        "{}://{}",
        request.uri().scheme_str().unwrap_or_default(),
        request.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default()
    );
    let mut whole = format!("{} {}\n", request.method(), request.uri()).into_bytes();
    whole.extend_from_slice(request.body());
    let digest = sha256_hex(&whole);
    let wanted = Wanted { site, provider: &definition.name, digest: &digest, instance: &instance };
    let base = &outside.base;
    let begun = tokio::time::Instant::now();
    loop {
        match registered::turn(base, &wanted, base.clock.now().plus(TURN)).await? {
            Turn::Registered(config) => return App::open(outside, definition, *config).await,
            Turn::Ours => break,
            Turn::Wait if begun.elapsed() > PATIENCE => {
                return Err(Error::new(Code::Unavailable, "an app is being registered at that server; try again in a minute"));
            }
            Turn::Wait => tokio::time::sleep(LOOK).await,
        }
    }
    let made = async {
        let answer = outside.upstream.exchange(request, Limits::within(DEADLINE)).await.map_err(|failure| failure.error)?;
        let outputs =
            step.read(answer.status, &answer.headers, answer.body.expose()).map_err(|failure| refused(definition, &failure))?;
        let client_id = outputs.client_id.as_deref().filter(|id| !id.is_empty()).ok_or_else(|| {
            Error::new(
                Code::UpstreamInvalid,
                format!("the server registered an app of {} and named no client id", definition.title),
            )
        })?;
        registered::store(base, actor, &wanted, client_id, outputs.client_secret.as_ref()).await
    };
    match made.await {
        Ok(config) => App::open(outside, definition, config).await,
        Err(error) => {
            if let Err(storage) = registered::give_up(base, &wanted).await {
                tracing::warn!(error = ?storage, "the turn to register an app could not be given back; it ends by itself");
            }
            Err(error)
        }
    }
}

/// What an app is registered with.
pub(super) struct NewApp<'a> {
    pub(super) definition: &'a Definition,
    pub(super) step: &'a Step,
    pub(super) fields: &'a SecretMap,
    pub(super) scopes: &'a str,
    pub(super) redirect_uri: &'a str,
}

fn refused(definition: &Definition, failure: &StepFailure) -> Error {
    Error::new(
        Code::UpstreamInvalid,
        format!("the server did not register an app of {}; is it a server of that kind, and open to new apps?", definition.title),
    )
    .with_detail(failure)
}
