//! Revocation (RFC 7009): a client gives back what was issued to it.

use super::{Client, Fault, Outcome, Params, Server, Word, hash, store, token::REFRESH_PREFIX};
use crate::{
    error::Code,
    principal::Actor,
    token::{self, Audience, TokenHash, family},
};

const REASON: &str = "given back by its client";

impl Server {
    /// Ends a refresh token or an access token of a client that proved itself, with everything that came of the same consent.
    /// When it returns, no request that arrives anywhere is served by it.
    ///
    /// For what is unknown, over or another client's it does nothing, and says nothing (section 2.2).
    pub async fn revoke(&self, client: &Client, params: &Params) -> Outcome<()> {
        // The hint is not looked at: both kinds tell themselves apart (section 2.1).
        let presented = params.secret("token").ok_or_else(|| Fault::new(Word::InvalidRequest, "`token` is missing"))?;
        let base = self.base();
        if token::is_checked(REFRESH_PREFIX, presented.expose()) {
            let Some(stored) = store::refresh(&base.db, &hash(presented)).await? else { return Ok(()) };
            let Some(family) = family::get(&base.db, &stored.site, &stored.family).await? else { return Ok(()) };
            if family.client == client.id && stored.site == client.site {
                family::end(base, &client.site, &Actor::User(family.person), &family.id, REASON).await?;
            }
            return Ok(());
        }
        let Some(plain) = TokenHash::of_presented(presented.expose()) else { return Ok(()) };
        for audience in Audience::ALL {
            let Some(facts) = self.authority.holder(&plain.at(audience)).await? else { continue };
            let Some(token) = &facts.token else { continue };
            // Whether it is taken now is not asked: what is given back while its agent is switched off must not come to life
            // with the agent.
            let is_over = token.revoked || token.expires_at.is_some_and(|at| at <= self.now());
            if is_over || token.origin.client.as_ref() != Some(&client.id) || facts.site != client.site {
                continue;
            }
            let user = facts.person.as_ref().map(|person| person.id.clone());
            let actor = Actor::Agent { agent: facts.agent.id.clone(), token: token.id.clone(), user };
            match token::revoke(base, &client.site, &actor, &token.id, REASON).await {
                // Swept out meanwhile: it had ended.
                Err(error) if error.code() == Code::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }
}
