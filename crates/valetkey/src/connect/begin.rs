//! The beginning of a flow: what it stands on, whichever way it goes; and, as the definition's kind has it, what a browser is
//! sent away with and what is kept for its return. With a sign-in on another device, [`super::device`] goes on instead.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use url::Url;

use super::{
    FLOW_LIFE, Fault, oauth1,
    oauth2::{self, App, Ground},
    register::{self, NewApp},
    session,
    store::{Flow, Session},
};
use crate::{
    app_config::callback,
    audit::{Event, Outcome},
    base::Outside,
    error::{Error, Result},
    id::{self, FlowId, sha256_hex},
    principal::Actor,
    provider::Definition,
    seal::Place,
    secret::{Secret, SecretMap},
};

/// What a flow begins with, whichever way it goes.
pub(super) struct Begun {
    definition: Arc<Definition>,
    app: App,
    fields: SecretMap,
    redirect_uri: String,
}

/// How a browser leaves for the provider.
pub(super) struct Leaving {
    /// Where it goes.
    pub(super) authorize_url: Url,
    /// What it brings back.
    pub(super) key: Secret,
    /// What the flow is found by then.
    pub(super) hash: String,
    /// What only we may know until then.
    pub(super) kept: SecretMap,
    /// How long it may stay away.
    pub(super) life: Duration,
}

impl Begun {
    /// The definition, our app there (registered now where each server is an instance), and the redirect URI.
    pub(super) async fn prepare(outside: &Outside, session: &Session, actor: &Actor) -> Result<Self> {
        let definition = outside.definition(&session.provider)?;
        oauth2::connectable(&definition)?;
        let redirect_uri = callback::of(outside, &session.site, &session.provider).await?.url;
        if !session.device {
            oauth2::check_redirect(&definition, &redirect_uri)?;
        }
        let fields = SecretMap::new(session.fields.clone());
        let app = match &definition.register {
            None => App::choose(outside, &session.site, &definition, &session.owner).await?,
            Some(step) => {
                let scopes = definition.oauth2.as_ref().map(|oauth2| oauth2.join_scopes(&session.scopes)).unwrap_or_default();
                let new = NewApp { definition: &definition, step, fields: &fields, scopes: &scopes, redirect_uri: &redirect_uri };
                register::app(outside, &session.site, actor, &new).await?
            }
        };
        Ok(Self { definition, app, fields, redirect_uri })
    }

    /// What its calls are filled in with.
    pub(super) fn ground<'g>(&'g self, outside: &'g Outside, session: &'g Session) -> Ground<'g> {
        Ground {
            outside,
            definition: &self.definition,
            app: Some(&self.app.values),
            client: &self.app.client,
            fields: &self.fields,
            scopes: &session.scopes,
            redirect_uri: &self.redirect_uri,
        }
    }

    /// What the flow seals, before its own secrets.
    pub(super) fn kept(&self, session: &Session) -> SecretMap {
        let mut kept = SecretMap::default();
        kept.expose_mut().insert("fields".to_owned(), Value::Object(session.fields.clone()));
        kept
    }

    /// The flow of a session, bound to whoever holds `browser`.
    pub(super) async fn flow(
        &self,
        outside: &Outside,
        session: &Session,
        kept: &SecretMap,
        browser: &Secret,
        actor: &Actor,
    ) -> Result<Flow> {
        let base = &outside.base;
        base.ring.ensure(&base.db, session.site.as_str(), session.provider.as_str()).await?;
        let (now, flow_id, owner) = (base.clock.now(), FlowId::new(), session.owner.to_string());
        let place = Place::flow(&session.site, &session.provider, &owner, &session.name, &flow_id);
        Ok(Flow {
            sealed: base.ring.seal_now(&place, &kept.to_json())?,
            site: session.site.clone(),
            id: flow_id,
            session: session.id.clone(),
            provider: session.provider.clone(),
            owner: session.owner.clone(),
            name: session.name.clone(),
            issuer: self.definition.oauth2.as_ref().and_then(|oauth2| oauth2.issuer.clone()),
            redirect_uri: self.redirect_uri.clone(),
            app_config: Some(self.app.config.id.clone()),
            scopes: session.scopes.clone(),
            browser_hash: session::hash(browser),
            proven_user: session.proven_user.clone(),
            agent: session.agent.clone(),
            return_to: session.return_to.clone(),
            new_subject: session.new_subject,
            created_by: actor.clone(),
            created_at: now,
            expires_at: now.plus(FLOW_LIFE),
            poll: None,
        })
    }

    /// Sends a browser away, as the definition's kind has it. Nothing is used up here: where a provider cannot be asked, the
    /// link still works.
    pub(super) async fn leave(&self, outside: &Outside, session: &Session, actor: &Actor) -> Result<Leaving> {
        let ground = self.ground(outside, session);
        let mut kept = self.kept(session);
        match (&self.definition.oauth1, &self.definition.oauth2) {
            (Some(oauth1), _) => {
                let begun = match oauth1::begin(&ground, oauth1).await {
                    Ok(begun) => begun,
                    Err(fault) => return Err(not_begun(&ground, session, actor, &fault).await?),
                };
                let oauth1::Begun { authorize_url, token, temporary, life } = begun;
                kept.expose_mut().insert(oauth1::TEMPORARY.to_owned(), Value::Object(temporary.expose().clone()));
                let hash = oauth1::flow_hash(&self.definition.name, &token);
                Ok(Leaving { authorize_url, key: token, hash, kept, life })
            }
            (None, Some(oauth2)) => {
                // Independent of one another: neither can be told from the other, nor from the binding.
                let state = Secret::new(id::random_text::<32>()?);
                let verifier = Secret::new(id::random_text::<32>()?);
                let authorize_url = oauth2::authorize_url(&ground, oauth2, &state, &verifier)?;
                kept.set_text("verifier", &verifier);
                let hash = sha256_hex(state.expose().as_bytes());
                Ok(Leaving { authorize_url, key: state, hash, kept, life: FLOW_LIFE })
            }
            (None, None) => Err(Error::internal("a connectable definition without a flow")),
        }
    }
}

/// Records that the provider did not let a flow begin, and says so to the person.
async fn not_begun(ground: &Ground<'_>, session: &Session, actor: &Actor, fault: &Fault) -> Result<Error> {
    let base = &ground.outside.base;
    tracing::warn!(
        session.id = %session.id, provider = %session.provider, code = %fault.code, word = fault.word, detail = fault.detail,
        "a provider gave no temporary token"
    );
    let facts = json!({
        "session": session.id, "provider": session.provider, "owner": session.owner, "name": session.name,
        "code": fault.code.as_str(), "word": fault.word,
    });
    let event = Event::new(&session.site, actor, "connect.approve").outcome(Outcome::Failed).facts(facts);
    let mut tx = base.db.begin_bookkeeping().await?;
    base.audit.record(&mut tx, event).await?;
    tx.commit().await?;
    Ok(Error::new(
        fault.code,
        format!(
            "{} did not let this begin; your link still works: go back and try again, and if it stays, tell your operator",
            ground.definition.title
        ),
    ))
}
