//! A house with an authorization server, clients, and a person who consents.

use std::{collections::BTreeSet, sync::Arc};

use url::Url;
use valetkey::{
    agent::Role,
    base::Outside,
    connection,
    db::Db,
    decision::Authority,
    deliver::Deliverer,
    grant::{ForWhom, NewGrant},
    id::{AgentId, ConnectionId, SiteId, UserId},
    oauth::{
        Asker, Client, GrantType, Issued, NewClient, Outcome, Params, Presented, Scopes, Server, Word,
        authorize::{Asked, Choice, Life, Misasked},
        client,
    },
    platform::{self, Asserts, Minted, NewKey, Scope},
    principal::{Actor, CallerChain},
    provider::Catalogue,
    refresh::{self, Refresher},
    secret::Secret,
    token::{LastUsed, TokenHash},
    upstream::{self, Upstream},
};

use crate::support::{House, both};

pub(crate) const ISSUER: &str = "https://keys.example.test";
pub(crate) const CALLBACK: &str = "https://app.example/cb";
/// The pair of RFC 7636 appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// A house with an authorization server; alice owns the agent.
pub(crate) struct Hall {
    pub(crate) house: House,
    pub(crate) outside: Outside,
    pub(crate) oauth: Server,
    pub(crate) agent: AgentId,
}

impl Hall {
    pub(crate) async fn new(db: &Db) -> Self {
        let house = House::new(db).await;
        let outside = Outside {
            base: house.base.clone(),
            catalogue: Arc::new(Catalogue::embedded().unwrap()),
            upstream: Upstream::new(upstream::Settings::default()).unwrap(),
            public_url: format!("{ISSUER}/").parse().unwrap(),
            extensions: Default::default(),
        };
        let authority = Authority::new(db.clone());
        let refresher = Refresher::new(outside.clone(), refresh::Settings::default());
        let deliverer = Deliverer::new(outside.clone(), authority.clone(), refresher, LastUsed::default());
        let oauth = Server::new(outside.clone(), authority, deliverer);
        let agent = house.agent("a", Some("alice")).await;
        Self { house, outside, oauth, agent }
    }

    pub(crate) fn site(&self) -> &SiteId {
        &self.house.site
    }

    pub(crate) async fn client(&self, new: NewClient) -> (Client, Option<Secret>) {
        client::create(&self.house.base, self.site(), &Actor::Operator, new).await.unwrap()
    }

    /// A client without a secret, with everything that such a one may use.
    pub(crate) async fn public(&self) -> Client {
        self.client(NewClient {
            name: "App".to_owned(),
            redirect_uris: vec![CALLBACK.to_owned()],
            grant_types: BTreeSet::from([GrantType::AuthorizationCode, GrantType::RefreshToken, GrantType::DeviceCode]),
            ..NewClient::default()
        })
        .await
        .0
    }

    /// A client with a secret that may exchange tokens.
    pub(crate) async fn exchanger(&self, scopes: Option<&str>) -> Client {
        self.client(NewClient {
            name: "Exchanger".to_owned(),
            confidential: true,
            grant_types: BTreeSet::from([GrantType::TokenExchange]),
            scopes: scopes.map(|scopes| scopes.parse().unwrap()),
            ..NewClient::default()
        })
        .await
        .0
    }

    /// A platform key that speaks for everybody.
    pub(crate) async fn platform(&self) -> Minted {
        let new = NewKey { label: "k".to_owned(), scopes: [Scope::Agents].into(), asserts: Asserts::Any, expires_at: None };
        platform::create(&self.house.base, self.site(), &Actor::Operator, new).await.unwrap()
    }

    pub(crate) async fn asker(&self) -> Asker {
        Asker::Platform(Box::new(self.platform().await.key))
    }

    /// Reads an authorization request: the usual one, with some parameters in place of its own. An empty value takes one out.
    pub(crate) async fn asked(&self, client: &Client, more: &[(&str, &str)]) -> Result<Asked, Misasked> {
        let id = client.id.to_string();
        let mut all = vec![
            ("client_id", id.as_str()),
            ("redirect_uri", CALLBACK),
            ("response_type", "code"),
            ("state", "the state"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        all.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        all.extend(more);
        self.oauth.asked(&form(&all)).await
    }

    /// The address to which a refused request leads.
    pub(crate) async fn sent_back(&self, client: &Client, more: &[(&str, &str)]) -> Url {
        match self.asked(client, more).await {
            Err(Misasked::There { address, .. }) => address.parse().unwrap(),
            Err(Misasked::Here(error)) => panic!("told here: {error}"),
            Ok(_) => panic!("understood"),
        }
    }

    pub(crate) fn choice(&self, scopes: &str) -> Choice {
        Choice { agent: self.agent.clone(), scopes: scopes.parse().unwrap(), life: Life::Month }
    }

    /// Alice consents to everything that is asked for; the address that her browser is sent to.
    pub(crate) async fn approve(&self, client: &Client, more: &[(&str, &str)]) -> Url {
        let asked = self.asked(client, more).await.unwrap_or_else(|misasked| panic!("{misasked:?}"));
        let choice = Choice { scopes: Scopes::of(&asked.ceiling), ..self.choice("proxy") };
        let address = self.oauth.approve(self.site(), &alice(), &asked, &choice).await.unwrap();
        address.expose().parse().unwrap()
    }

    /// The code that comes of that.
    pub(crate) async fn code(&self, client: &Client, more: &[(&str, &str)]) -> String {
        in_query(&self.approve(client, more).await, "code").unwrap()
    }

    pub(crate) async fn redeem(&self, client: &Client, code: &str) -> Outcome<Issued> {
        self.redeem_with(client, code, &[]).await
    }

    /// The same with some parameters in place of the usual ones.
    pub(crate) async fn redeem_with(&self, client: &Client, code: &str, more: &[(&str, &str)]) -> Outcome<Issued> {
        let mut all =
            vec![("grant_type", "authorization_code"), ("code", code), ("redirect_uri", CALLBACK), ("code_verifier", VERIFIER)];
        all.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        all.extend(more);
        self.oauth.token(client, &form(&all), &CallerChain::default()).await
    }

    /// The first tokens of a consent to everything that is asked for.
    pub(crate) async fn tokens(&self, client: &Client, more: &[(&str, &str)]) -> Issued {
        let code = self.code(client, more).await;
        self.redeem(client, &code).await.unwrap()
    }

    pub(crate) async fn refresh(&self, client: &Client, token: &Secret) -> Outcome<Issued> {
        self.refresh_with(client, token, &[]).await
    }

    pub(crate) async fn refresh_with(&self, client: &Client, token: &Secret, more: &[(&str, &str)]) -> Outcome<Issued> {
        let mut all = vec![("grant_type", "refresh_token"), ("refresh_token", token.expose())];
        all.extend(more);
        self.oauth.token(client, &form(&all), &CallerChain::default()).await
    }

    /// Exchanges by RFC 8693.
    pub(crate) async fn exchange(&self, client: &Client, more: &[(&str, &str)]) -> Outcome<Issued> {
        let mut all = vec![("grant_type", GrantType::TokenExchange.as_str())];
        all.extend(more);
        self.oauth.token(client, &form(&all), &CallerChain::default()).await
    }

    pub(crate) async fn introspect(&self, asker: &Asker, token: &str) -> serde_json::Value {
        let inspected = self.oauth.introspect(asker, &form(&[("token", token)])).await.unwrap();
        serde_json::to_value(inspected).unwrap()
    }

    /// An account of alice's at Reddit with an access token that lives, which the agent may use for its owner in both ways.
    pub(crate) async fn account(&self) -> ConnectionId {
        let id = self.ungranted().await;
        self.house.grant_with(NewGrant { delivery: both(), ..NewGrant::proxy(&self.agent, &id, ForWhom::Owner) }).await;
        id
    }

    /// The same, without a grant.
    pub(crate) async fn ungranted(&self) -> ConnectionId {
        let base = &self.house.base;
        let mut new = self.house.new_connection("user:alice", "");
        new.provider = "reddit".parse().unwrap();
        base.ring.ensure(&base.db, self.site().as_str(), new.provider.as_str()).await.unwrap();
        let mut tx = base.db.begin().await.unwrap();
        let id = connection::insert(base, &mut tx, &Actor::Operator, &new).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// Whether a token is taken by the API, as every decision sees it.
    pub(crate) async fn is_taken(&self, token: &Secret) -> bool {
        let hash = TokenHash::of_presented(token.expose()).unwrap();
        let Some(facts) = self.house.authority.holder(&hash).await.unwrap() else { return false };
        valetkey::decision::principal(&facts, self.house.base.clock.now()).is_ok()
    }

    pub(crate) async fn role(&self, user: &str, role: Role) {
        self.house.role(&self.agent, user, role).await;
    }
}

/// What a client without a secret says of itself.
pub(crate) fn named(client: &Client) -> Presented {
    Presented::read(None, &form(&[("client_id", client.id.as_str())])).unwrap()
}

pub(crate) fn alice() -> UserId {
    "alice".parse().unwrap()
}

/// Parameters as a form brings them.
pub(crate) fn form(pairs: &[(&str, &str)]) -> Params {
    let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    Params::parse(text.as_bytes()).unwrap()
}

/// A parameter of an address, which is there at most once.
pub(crate) fn in_query(url: &Url, name: &str) -> Option<String> {
    let found: Vec<_> = url.query_pairs().filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect();
    assert!(found.len() <= 1, "{name} comes twice in {url}");
    found.into_iter().next()
}

/// The word of a refusal.
#[track_caller]
pub(crate) fn word<T>(outcome: Outcome<T>) -> Word {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(fault) => fault.word().unwrap_or_else(|| panic!("no refusal: {fault}")),
    }
}

pub(crate) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub(crate) const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
