//! A house for the tests: a site with its keys, and short words for what lives in it.

use std::collections::BTreeSet;

use valetkey::{
    agent::{self, NewAgent, Role},
    audit::{Audit, Mode},
    base::Base,
    clock::{Clock, Timestamp},
    connection::{self, Identity, NewConnection, Renewal, Tokens},
    db::Db,
    decision::{Authority, Decision, Request, decide},
    grant::{self, ForWhom, NewGrant},
    id::{AgentId, ConnectionId, GrantId, SiteId, TokenId},
    principal::{Actor, Ceiling, Delivery, Owner},
    seal::{KeyRing, RootKey, RootKeys},
    secret::{Secret, SecretMap},
    site,
    token::{self, NewToken, TokenHash},
};

/// A site and short words for it.
pub(crate) struct House {
    pub(crate) base: Base,
    pub(crate) site: SiteId,
    pub(crate) authority: Authority,
}

impl House {
    pub(crate) async fn new(db: &Db) -> Self {
        let clock = Clock::manual(Timestamp::from_unix_seconds(1_800_000_000));
        let ring = KeyRing::load(db, RootKeys::single(RootKey::generate().unwrap()), clock.clone()).await.unwrap();
        let audit = Audit::new(clock.clone(), ring.clone(), Mode::Batched);
        let base = Base { db: db.clone(), ring, clock, audit };
        let site = SiteId::default_site();
        site::create(&base, &Actor::Operator, &site, "Default").await.unwrap();
        Self::at(base, site)
    }

    /// The house of a site that is there.
    pub(crate) fn at(base: Base, site: SiteId) -> Self {
        Self { authority: Authority::new(base.db.clone()), base, site }
    }

    pub(crate) async fn agent(&self, slug: &str, owner: Option<&str>) -> AgentId {
        let new = NewAgent { id: None, slug: slug.into(), title: String::new(), owner: owner.map(|o| o.parse().unwrap()) };
        agent::create(&self.base, &self.site, &Actor::Operator, new).await.unwrap().id
    }

    pub(crate) async fn role(&self, agent: &AgentId, user: &str, role: Role) {
        agent::set_role(&self.base, &self.site, &Actor::Operator, agent, &user.parse().unwrap(), role).await.unwrap();
    }

    pub(crate) async fn connection(&self, owner: &str) -> ConnectionId {
        self.named_connection(owner, "").await
    }

    pub(crate) async fn named_connection(&self, owner: &str, name: &str) -> ConnectionId {
        let new = self.new_connection(owner, name);
        self.base.ring.ensure(&self.base.db, self.site.as_str(), new.provider.as_str()).await.unwrap();
        let mut tx = self.base.db.begin().await.unwrap();
        let id = connection::insert(&self.base, &mut tx, &Actor::Operator, &new).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) fn new_connection(&self, owner: &str, name: &str) -> NewConnection {
        let mut account = SecretMap::default();
        account.set_text("access_token", &Secret::new(format!("at-{owner}-{name}")));
        account.set_text("refresh_token", &Secret::new("rt"));
        NewConnection {
            site: self.site.clone(),
            provider: "lab".parse().unwrap(),
            owner: owner.parse::<Owner>().unwrap(),
            name: name.parse().unwrap(),
            account,
            tokens: Tokens {
                renewal: Renewal::RefreshToken,
                issued_at: Some(self.base.clock.now()),
                expires_at: Some(self.base.clock.now().plus(std::time::Duration::from_secs(3600))),
                usual_life: Some(3600),
                refresh_expires_at: None,
                refresh_at: None,
                scopes: Some(vec!["read".into(), "write".into()]),
            },
            app_config: None,
            client_id: Some("client".into()),
            subject: Some(format!("subject of {owner}")),
            subject_name: Some(owner.into()),
            identity: Identity::Verified,
            wanted_scopes: vec!["read".into()],
            hosts: vec!["api.lab.example".into()],
            call_hosts: None,
        }
    }

    pub(crate) async fn grant(&self, agent: &AgentId, connection: &ConnectionId, for_whom: ForWhom) -> GrantId {
        self.grant_with(NewGrant::proxy(agent, connection, for_whom)).await
    }

    pub(crate) async fn grant_with(&self, new: NewGrant) -> GrantId {
        grant::create(&self.base, &self.site, &Actor::Operator, new).await.unwrap().id
    }

    pub(crate) async fn token(&self, agent: &AgentId, person: Option<&str>) -> (TokenId, TokenHash) {
        self.token_with(agent, NewToken { person: person.map(|p| p.parse().unwrap()), ..NewToken::default() }).await
    }

    pub(crate) async fn token_with(&self, agent: &AgentId, new: NewToken) -> (TokenId, TokenHash) {
        let (token, text) = token::mint(&self.base, &self.site, &Actor::Operator, agent, new).await.unwrap();
        (token.id, TokenHash::of_presented(text.expose()).unwrap())
    }

    pub(crate) async fn ask(&self, token: &TokenHash, connection: &ConnectionId) -> Option<Decision> {
        self.ask_for(token, connection, &Request { delivery: Delivery::Proxy, operation: None, unattended: false }).await
    }

    pub(crate) async fn ask_for(&self, token: &TokenHash, connection: &ConnectionId, request: &Request<'_>) -> Option<Decision> {
        let facts = self.authority.facts(token, connection).await.unwrap()?;
        Some(decide(&facts, request, self.base.clock.now()))
    }
}

pub(crate) fn both() -> BTreeSet<Delivery> {
    BTreeSet::from([Delivery::Proxy, Delivery::Reveal])
}

pub(crate) fn ceiling(json: &str) -> Ceiling {
    serde_json::from_str(json).unwrap()
}
