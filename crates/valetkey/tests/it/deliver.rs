//! Reveal and proxy against a provider that really answers (decisions 7).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full};
use provider_lab::Lab;
use serde_json::{Value, json};
use valetkey::{
    Code, Result,
    agent::Role,
    app_config::{self, AppConfig},
    base::Outside,
    connection::{self, Identity, NewConnection},
    db::{Db, testing},
    decision::Authority,
    deliver::{Caller, Deliverer, Guarded, proxy::Target},
    grant::{self, Effect, ForWhom, NewGrant},
    id::{AgentId, ConnectionId},
    on_each_db,
    principal::{Actor, Owner},
    provider::{Catalogue, Trust, pattern::PathPattern},
    refresh::{self, Refresher},
    token::{self, TokenHash},
    upstream::{self, Upstream},
};

use crate::support::{House, both};

/// A house beside a lab, with a connection that works.
pub(crate) struct Yard {
    pub(crate) house: House,
    pub(crate) lab: Lab,
    pub(crate) deliverer: Deliverer,
    pub(crate) outside: Outside,
    pub(crate) agent: AgentId,
    pub(crate) connection: ConnectionId,
    pub(crate) access_token: String,
}

impl Yard {
    pub(crate) async fn new(db: &Db) -> Self {
        Self::with(db, true, "").await
    }

    pub(crate) async fn with(db: &Db, allow_lab: bool, more: &str) -> Self {
        let house = House::new(db).await;
        let lab = Lab::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let text = format!("{}{more}", lab.control().definition_toml());
        let catalogue = Catalogue::embedded().unwrap().with_text(&"lab".parse().unwrap(), &text, Trust::Dev).unwrap();
        let allow_private = if allow_lab { vec![lab.addr().to_string().parse().unwrap()] } else { Vec::new() };
        let upstream = Upstream::new(upstream::Settings { allow_private, ..upstream::Settings::default() }).unwrap();
        let public_url = "https://keys.example.test".parse().unwrap();
        let outside = Outside {
            base: house.base.clone(),
            catalogue: Arc::new(catalogue),
            upstream,
            public_url,
            extensions: Default::default(),
        };
        let authority = Authority::new(db.clone());
        let refresher = Refresher::new(outside.clone(), refresh::Settings::default());
        let deliverer = Deliverer::new(outside.clone(), authority, refresher, token::LastUsed::default());
        tokio::spawn({
            let deliverer = deliverer.clone();
            async move { deliverer.watch_streams(tokio_util::sync::CancellationToken::new()).await }
        });
        let agent = house.agent("a", Some("alice")).await;
        let issued = lab.control().issue("lab-client", "alice", "profile posts:read posts:write").unwrap();
        let mut yard =
            Self { house, lab, deliverer, outside, agent, connection: ConnectionId::new(), access_token: issued.access_token };
        yard.connection = yard.connect("user:alice", "").await;
        yard
    }

    pub(crate) async fn connect(&self, owner: &str, name: &str) -> ConnectionId {
        let mut new = self.house.new_connection(owner, name);
        new.account.set_text("access_token", &self.access_token.clone().into());
        new.hosts = vec![self.lab.addr().to_string(), "other.example".into()];
        self.insert(&new).await
    }

    pub(crate) async fn insert(&self, new: &NewConnection) -> ConnectionId {
        let base = &self.house.base;
        base.ring.ensure(&base.db, self.house.site.as_str(), new.provider.as_str()).await.unwrap();
        let mut tx = base.db.begin().await.unwrap();
        let id = connection::insert(base, &mut tx, &Actor::Operator, new).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// The site's own app at the lab.
    pub(crate) async fn app(&self) -> AppConfig {
        let definition = self.outside.definition(&"lab".parse().unwrap()).unwrap();
        let values = json!({ "client_id": "lab-client", "client_secret": "lab-secret" });
        let (base, site, values) = (&self.house.base, &self.house.site, values.as_object().unwrap());
        app_config::set(base, site, &Actor::Operator, &definition, &Owner::Site, values).await.unwrap()
    }

    /// An account of alice's whose token can be renewed; it has ended, or lives for an hour.
    pub(crate) async fn renewable(&self, app: &AppConfig, name: &str, ended: bool) -> ConnectionId {
        let issued = self.lab.control().issue("lab-client", "alice", "profile posts:read posts:write").unwrap();
        let mut new = self.house.new_connection("user:alice", name);
        new.account.set_text("access_token", &issued.access_token.into());
        new.account.set_text("refresh_token", &issued.refresh_token.unwrap().into());
        new.app_config = Some(app.id.clone());
        new.client_id = Some("lab-client".to_owned());
        new.hosts = vec![self.lab.addr().to_string()];
        if ended {
            new.tokens.expires_at = Some(self.house.base.clock.now());
        }
        self.insert(&new).await
    }

    /// Alice's token with a grant of everything on the connection.
    pub(crate) async fn granted(&self) -> Caller {
        let new = NewGrant { delivery: both(), ..NewGrant::proxy(&self.agent, &self.connection, ForWhom::Owner) };
        self.house.grant_with(new).await;
        self.caller(Some("alice")).await
    }

    pub(crate) async fn caller(&self, person: Option<&str>) -> Caller {
        Caller::new(self.house.token(&self.agent, person).await.1)
    }

    pub(crate) async fn get(&self, caller: &Caller, path: &str) -> Result<http::Response<Guarded>> {
        self.call(caller, Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    pub(crate) async fn call(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<http::Response<Guarded>> {
        self.call_host(caller, method, None, path, headers, body).await
    }

    pub(crate) async fn call_host(
        &self,
        caller: &Caller,
        method: Method,
        host: Option<&str>,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<http::Response<Guarded>> {
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let mut request = http::Request::builder().method(method).uri("/").body(()).unwrap();
        *request.headers_mut() = headers;
        let (parts, ()) = request.into_parts();
        let target = Target { host, path, query };
        if body.is_empty() {
            self.deliverer.proxy(caller, &self.connection, target, parts, Empty::<Bytes>::new()).await
        } else {
            self.deliverer.proxy(caller, &self.connection, target, parts, Full::new(body)).await
        }
    }

    /// What is in the audit once its queue is written down; nothing can be used after that.
    pub(crate) async fn audited(&self) -> Vec<valetkey::audit::Row> {
        let base = &self.house.base;
        base.audit.close();
        base.audit.run(base.db.clone()).await;
        valetkey::audit::list(&base.db, &self.house.site, None, 100).await.unwrap()
    }

    pub(crate) async fn json(&self, caller: &Caller, path: &str) -> Value {
        read_json(self.get(caller, path).await.unwrap()).await
    }
}

async fn read_json(response: http::Response<Guarded>) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&bytes)))
}

on_each_db! {
    /// A-210, A-211.
    async fn a_proxied_call_carries_the_providers_credential_and_not_the_agents(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        assert_eq!(yard.json(&caller, "/me").await["username"], "alice");
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer vk_agent".parse().unwrap());
        headers.insert(header::COOKIE, "session=1".parse().unwrap());
        headers.insert("x-forwarded-for", "1.2.3.4".parse().unwrap());
        headers.insert("x-kept", "yes".parse().unwrap());
        let answer = yard.call(&caller, Method::POST, "/echo?a=1&b=%20", headers, Bytes::from_static(b"hello")).await.unwrap();
        let seen = read_json(answer).await;
        let text = seen.to_string();
        assert!(text.contains("a=1&b=%20") && text.contains("x-kept"), "{text}");
        assert!(!text.contains("vk_agent") && !text.contains("session=1") && !text.contains("1.2.3.4"), "{text}");
    }

    async fn credential_paths_are_never_proxied_however_they_are_spelled(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        for path in ["/echo-credential", "/Echo-Credential", "/echo-credential/", "/echo-credential?x=1"] {
            let error = yard.get(&caller, path).await.unwrap_err();
            assert!(matches!(error.code(), Code::CredentialPath | Code::PathRefused), "{path}: {error}");
        }
        for path in ["/echo%2dcredential", "/%65cho-credential", "/x/../echo-credential", "//echo-credential", "/..%2ftoken"] {
            assert!(yard.get(&caller, path).await.is_err(), "{path}");
        }
        assert_eq!(yard.lab.control().requests("api"), 0);
    }

    async fn a_body_that_asks_for_a_credential_is_refused_where_the_provider_reads_bodies(db: Db) {
        let more = "credential_query = [{ name = \"fields\", contains = \"access_token\" }]\nbody_parameters = true\n";
        let yard = Yard::with(&db, true, more).await;
        let caller = yard.granted().await;
        let post = async |kind: &str, path: &str, body: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            yard.call(&caller, Method::POST, path, headers, Bytes::from_static(body.as_bytes())).await.map(|answer| answer.status())
        };
        let form = "application/x-www-form-urlencoded";
        for (kind, path, body) in [
            (form, "/echo", "a=1&fields=id,access_token"),
            (form, "/echo", "%66ields=access%5Ftoken"),
            ("application/json", "/echo", r#"{"fields":"name,access_token"}"#),
            ("text/plain", "/echo?fields=access_token", "x"),
        ] {
            assert_eq!(post(kind, path, body).await.unwrap_err().code(), Code::CredentialPath, "{body}");
        }
        assert_eq!(yard.lab.control().requests("api"), 0);
        assert_eq!(post(form, "/echo", "fields=id,name").await.unwrap(), StatusCode::OK);
    }

    /// R65b.
    async fn the_credential_goes_to_no_host_but_the_connections_own(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let own = yard.lab.addr().to_string();
        let get = async |host: &str| {
            yard.call_host(&caller, Method::GET, Some(host), "/api/me", HeaderMap::new(), Bytes::new()).await.map(|a| a.status())
        };
        assert_eq!(get(&own).await.unwrap(), StatusCode::OK);
        for host in ["evil.example", "127.0.0.1", "user@other.example", "other.example:444", "other.example.evil.example", ""] {
            assert_eq!(get(host).await.unwrap_err().code(), Code::HostRefused, "{host}");
        }
    }

    async fn an_answer_loses_what_would_act_on_our_origin(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let answer = yard.get(&caller, "/set-cookie").await.unwrap();
        assert!(answer.headers().get(header::SET_COOKIE).is_none());
        assert_eq!(answer.headers()[header::CONTENT_SECURITY_POLICY], "sandbox");
        assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }

    /// R65b.
    async fn a_redirect_is_handed_on_and_not_followed(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let answer = yard.get(&caller, "/redirect?to=/api/me").await.unwrap();
        assert!(answer.status().is_redirection());
        assert_eq!(yard.lab.control().requests("api"), 1);
    }

    async fn bodies_pass_unchanged_in_both_directions(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let sha = valetkey::id::sha256_hex(&body);
        let seen = read_json(yard.call(&caller, Method::PUT, "/echo", HeaderMap::new(), body.into()).await.unwrap()).await;
        assert!(seen.to_string().contains(&sha), "{seen}");
        let answer = yard.get(&caller, "/bytes?n=5000000").await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 5_000_000);
    }

    async fn methods_overrides_and_upgrades_that_would_slip_past_are_refused(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let refused = async |method: &str, path: &str, name: &str| {
            let mut headers = HeaderMap::new();
            if !name.is_empty() {
                headers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "DELETE".parse().unwrap());
            }
            yard.call(&caller, method.parse().unwrap(), path, headers, Bytes::new()).await.unwrap_err().code()
        };
        assert_eq!(refused("TRACE", "/me", "").await, Code::MethodRefused);
        assert_eq!(refused("CONNECT", "/me", "").await, Code::MethodRefused);
        assert_eq!(refused("POST", "/me", "x-http-method-override").await, Code::MethodRefused);
        assert_eq!(refused("POST", "/me?_method=DELETE", "").await, Code::MethodRefused);
        assert_eq!(refused("GET", "/me", "upgrade").await, Code::UpgradeRefused);
    }

    async fn a_running_stream_ends_when_its_permission_does(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let mut body = yard.get(&caller, "/stream?ms=50&n=400").await.unwrap().into_body();
        assert!(body.frame().await.unwrap().is_ok());
        let grants = grant::list(&db, &yard.house.site, Some(&yard.agent), None).await.unwrap();
        grant::revoke(&yard.house.base, &yard.house.site, &Actor::Operator, &grants[0].id, "test").await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(3), async {
            while let Some(frame) = body.frame().await {
                if let Err(error) = frame {
                    return Some(error);
                }
            }
            None
        });
        assert_eq!(ended.await.expect("it goes on").expect("it came to its end").code(), Code::GrantDenied);
    }

    async fn a_counted_grant_serves_so_often_and_no_more(db: Db) {
        let yard = Yard::new(&db).await;
        yard.house.grant_with(NewGrant { max_uses: Some(2), ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Owner) }).await;
        let caller = yard.caller(Some("alice")).await;
        for _ in 0..2 {
            assert!(yard.get(&caller, "/me").await.is_ok());
        }
        assert_eq!(yard.get(&caller, "/me").await.unwrap_err().code(), Code::GrantDenied);
        assert_eq!(yard.lab.control().requests("api"), 2);
    }

    async fn a_private_address_is_refused_without_its_exact_exception(db: Db) {
        let yard = Yard::with(&db, false, "").await;
        let caller = yard.granted().await;
        assert_eq!(yard.get(&caller, "/me").await.unwrap_err().code(), Code::AddressRefused);
    }

    async fn reveal_hands_out_the_access_token_and_nothing_that_makes_another(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let revealed = yard.deliverer.reveal(&caller, &yard.connection, None).await.unwrap();
        assert_eq!(revealed.secrets.expose().keys().collect::<Vec<_>>(), ["access_token"]);
        assert_eq!(revealed.secrets.expose()["access_token"], json!(yard.access_token));
    }

    async fn reveal_needs_a_grant_that_says_so(db: Db) {
        let yard = Yard::new(&db).await;
        yard.house.grant(&yard.agent, &yard.connection, ForWhom::Owner).await;
        let caller = yard.caller(Some("alice")).await;
        assert_eq!(yard.deliverer.reveal(&caller, &yard.connection, None).await.unwrap_err().code(), Code::GrantDenied);
    }

    async fn an_unconfirmed_identity_makes_grants_wait(db: Db) {
        let yard = Yard::new(&db).await;
        let mut new = yard.house.new_connection("user:alice", "work");
        new.identity = Identity::Unverified;
        let work = yard.insert(&new).await;
        let new = NewGrant { delivery: both(), ..NewGrant::proxy(&yard.agent, &work, ForWhom::Owner) };
        yard.house.grant_with(new).await;
        let caller = yard.caller(Some("alice")).await;
        assert_eq!(yard.deliverer.reveal(&caller, &work, None).await.unwrap_err().code(), Code::IdentityUnverified);
    }

    async fn a_provider_named_alone_is_taken_where_exactly_one_connection_can_be_used(db: Db) {
        let yard = Yard::new(&db).await;
        let resolve = async |caller: &Caller, provider: &str| {
            yard.deliverer.resolve(caller, provider, valetkey::principal::Delivery::Proxy).await
        };
        let caller = yard.granted().await;
        assert_eq!(resolve(&caller, "lab").await.unwrap(), yard.connection);

        // Bob's account is not among the choices, for it is not Alice's to use.
        let bobs = yard.connect("user:bob", "").await;
        yard.house.grant(&yard.agent, &bobs, ForWhom::Owner).await;
        assert_eq!(resolve(&caller, "lab").await.unwrap(), yard.connection);

        let work = yard.connect("user:alice", "work").await;
        yard.house.grant(&yard.agent, &work, ForWhom::Owner).await;
        let error = resolve(&caller, "lab").await.unwrap_err();
        assert_eq!(error.code(), Code::Ambiguous);
        let choices = error.extra().unwrap().to_string();
        assert!(choices.contains(work.as_str()) && choices.contains(yard.connection.as_str()) && !choices.contains(bobs.as_str()));
    }

    /// A-139.
    async fn with_nothing_to_use_the_code_says_what_is_missing(db: Db) {
        let yard = Yard::new(&db).await;
        let resolve = async |caller: &Caller| {
            yard.deliverer.resolve(caller, "lab", valetkey::principal::Delivery::Proxy).await.unwrap_err().code()
        };
        let alice = yard.caller(Some("alice")).await;
        let nobody = yard.caller(None).await;
        assert_eq!(resolve(&alice).await, Code::NotConfigured);
        let definition = yard.outside.definition(&"lab".parse().unwrap()).unwrap();
        let values = json!({ "client_id": "lab-client", "client_secret": "lab-secret" });
        let values = values.as_object().unwrap();
        app_config::set(&yard.house.base, &yard.house.site, &Actor::Operator, &definition, &Owner::Site, values).await.unwrap();
        assert_eq!(resolve(&alice).await, Code::NoPerUserCredentials);
        assert_eq!(resolve(&nobody).await, Code::NoCredentials);
    }

    /// A-234.
    async fn a_stranger_learns_nothing_and_is_not_remembered(db: Db) {
        let yard = Yard::new(&db).await;
        let stranger = Caller::new(TokenHash::of_presented(&format!("datamachine_x_{}", "0".repeat(64))).unwrap());
        assert_eq!(yard.get(&stranger, "/me").await.unwrap_err().code(), Code::Unauthenticated);
        let stranger_at_provider = yard.deliverer.resolve(&stranger, "lab", valetkey::principal::Delivery::Proxy).await.unwrap_err();
        assert_eq!(stranger_at_provider.code(), Code::Unauthenticated);
    }

    async fn a_revoked_token_is_refused_on_the_next_call(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        assert!(yard.get(&caller, "/me").await.is_ok());
        let tokens = token::list(&db, &yard.house.site, &yard.agent).await.unwrap();
        token::revoke(&yard.house.base, &yard.house.site, &Actor::Operator, &tokens[0].id, "test").await.unwrap();
        assert_eq!(yard.get(&caller, "/me").await.unwrap_err().code(), Code::Unauthenticated);
    }

    async fn an_operator_of_the_agent_does_not_use_what_is_alices(db: Db) {
        let yard = Yard::new(&db).await;
        yard.house.role(&yard.agent, "carol", Role::Operator).await;
        yard.house.grant(&yard.agent, &yard.connection, ForWhom::Owner).await;
        let carol = yard.caller(Some("carol")).await;
        assert_eq!(yard.get(&carol, "/me").await.unwrap_err().code(), Code::GrantDenied);
        assert_eq!(yard.lab.control().requests("api"), 0);
    }

    /// A use of another grant must be taken by a new call; a running one lives by the grant that allowed it.
    async fn a_stream_is_not_carried_on_by_a_grant_that_is_used_up(db: Db) {
        let yard = Yard::new(&db).await;
        yard.house.grant_with(NewGrant { max_uses: Some(1), ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Owner) }).await;
        let caller = yard.caller(Some("alice")).await;
        assert!(yard.get(&caller, "/me").await.is_ok());
        let lasting = yard.house.grant(&yard.agent, &yard.connection, ForWhom::Owner).await;
        let body = yard.get(&caller, "/stream?ms=50&n=400").await.unwrap().into_body();
        grant::revoke(&yard.house.base, &yard.house.site, &Actor::Operator, &lasting, "test").await.unwrap();
        assert_eq!(end_of(body).await, Some(Code::GrantDenied));
    }

    async fn a_stream_under_a_counted_grant_goes_on_when_the_count_is_used_up(db: Db) {
        let yard = Yard::new(&db).await;
        yard.house.grant_with(NewGrant { max_uses: Some(1), ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Owner) }).await;
        let caller = yard.caller(Some("alice")).await;
        let body = yard.get(&caller, "/stream?ms=50&n=50").await.unwrap().into_body();
        assert_eq!(end_of(body).await, None);
    }

    async fn a_stream_ends_when_its_grant_expires(db: Db) {
        let yard = Yard::new(&db).await;
        let expires_at = Some(yard.house.base.clock.now().plus(Duration::from_secs(60)));
        yard.house.grant_with(NewGrant { expires_at, ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Owner) }).await;
        let caller = yard.caller(Some("alice")).await;
        let body = yard.get(&caller, "/stream?ms=50&n=400").await.unwrap().into_body();
        yard.house.base.clock.advance(Duration::from_secs(60));
        assert_eq!(end_of(body).await, Some(Code::GrantDenied));
    }

    /// The permission counts when the credential leaves, not when the call came.
    async fn a_call_that_waited_for_a_refresh_is_refused_when_its_grant_was_revoked_meanwhile(db: Db) {
        let yard = Yard::new(&db).await;
        let (base, app) = (&yard.house.base, yard.app().await);
        for (name, proxied) in [("one", false), ("two", true)] {
            let connection = yard.renewable(&app, name, true).await;
            let grant = NewGrant { delivery: both(), ..NewGrant::proxy(&yard.agent, &connection, ForWhom::Owner) };
            let grant = yard.house.grant_with(grant).await;
            let caller = yard.caller(Some("alice")).await;
            yard.lab.control().misbehave(provider_lab::Rule::once(provider_lab::At::Refresh, provider_lab::Fault::HoldAfter));
            let waiting = tokio::spawn({
                let (deliverer, caller, connection) = (yard.deliverer.clone(), caller.clone(), connection.clone());
                async move {
                    if proxied {
                        let (parts, ()) = http::Request::new(()).into_parts();
                        let target = Target { host: None, path: "/me", query: None };
                        deliverer.proxy(&caller, &connection, target, parts, Empty::<Bytes>::new()).await.map(|_| ())
                    } else {
                        deliverer.reveal(&caller, &connection, None).await.map(|_| ())
                    }
                }
            });
            while yard.lab.control().held() == 0 {
                assert!(!waiting.is_finished(), "{:?}", waiting.await);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            grant::revoke(base, &yard.house.site, &Actor::Operator, &grant, "test").await.unwrap();
            yard.lab.control().release();
            assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::NotFound, "{name}");
        }
        assert_eq!(yard.lab.control().requests("api"), 0);
    }

    async fn a_dead_token_learns_nothing_where_only_a_provider_is_named(db: Db) {
        let yard = Yard::new(&db).await;
        let expires_at = Some(yard.house.base.clock.now().plus(Duration::from_secs(60)));
        let new = valetkey::token::NewToken { expires_at, ..Default::default() };
        let caller = Caller::new(yard.house.token_with(&yard.agent, new).await.1);
        yard.house.base.clock.advance(Duration::from_secs(60));
        let error = yard.deliverer.resolve(&caller, "lab", valetkey::principal::Delivery::Proxy).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
    }

    /// A-234.
    async fn a_call_that_the_rules_refuse_is_recorded(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let own = yard.lab.addr().to_string();
        let long = format!("/me?{}", "x".repeat(10));
        assert!(yard.get(&caller, &long).await.is_ok());
        assert_eq!(yard.get(&caller, "/echo-credential").await.unwrap_err().code(), Code::CredentialPath);
        assert_eq!(yard.get(&caller, "/a/../b").await.unwrap_err().code(), Code::PathRefused);
        let elsewhere = yard.call_host(&caller, Method::GET, Some("evil.example"), "/", HeaderMap::new(), Bytes::new()).await;
        assert_eq!(elsewhere.unwrap_err().code(), Code::HostRefused);
        assert!(yard.call_host(&caller, Method::GET, Some(&own), "/api/me", HeaderMap::new(), Bytes::new()).await.is_ok());
        let rows = yard.audited().await;
        let denied: Vec<_> = rows.iter().filter(|row| row.outcome == "denied").map(|row| row.facts.as_str()).collect();
        assert_eq!(denied.len(), 3, "{denied:?}");
        for code in ["credential_path", "path_refused", "host_refused"] {
            assert!(denied.iter().any(|facts| facts.contains(code)), "{code}: {denied:?}");
        }
    }

    async fn what_no_call_may_say_is_refused_before_a_token_is_opened_or_spent_and_is_recorded(db: Db) {
        let yard = Yard::new(&db).await;
        // Over, and nothing is known by which it could be renewed: whoever gets as far as the token gets another code.
        let mut new = yard.house.new_connection("user:alice", "over");
        new.tokens.expires_at = Some(yard.house.base.clock.now());
        new.hosts = vec![yard.lab.addr().to_string()];
        let connection = yard.insert(&new).await;
        yard.house.grant(&yard.agent, &connection, ForWhom::Owner).await;
        let caller = yard.caller(Some("alice")).await;
        let call = async |headers: &[(&str, &str)]| {
            let mut request = http::Request::builder().method("POST").uri("/");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let target = Target { host: None, path: "/me", query: None };
            yard.deliverer.proxy(&caller, &connection, target, parts, Empty::<Bytes>::new()).await.unwrap_err().code()
        };
        assert_eq!(call(&[("connection", "upgrade"), ("upgrade", "websocket")]).await, Code::UpgradeRefused);
        assert_eq!(call(&[("content-length", "5"), ("content-length", "6")]).await, Code::InvalidRequest);
        assert_eq!(call(&[("content-length", "5"), ("transfer-encoding", "chunked")]).await, Code::InvalidRequest);
        let further = call(&[]).await;
        assert!(!matches!(further, Code::UpgradeRefused | Code::InvalidRequest), "{further}");
        let rows = yard.audited().await;
        let denied: Vec<_> = rows.iter().filter(|row| row.outcome == "denied").map(|row| row.facts.as_str()).collect();
        assert_eq!(denied.len(), 3, "{denied:?}");
        assert_eq!(denied.iter().filter(|facts| facts.contains("upgrade_refused")).count(), 1, "{denied:?}");
    }

    async fn a_call_that_could_mean_nothing_or_several_is_recorded(db: Db) {
        let yard = Yard::new(&db).await;
        let resolve = async |caller: &Caller, provider: &str| {
            yard.deliverer.resolve(caller, provider, valetkey::principal::Delivery::Proxy).await.unwrap_err().code()
        };
        let alone = yard.caller(Some("alice")).await;
        assert_eq!(resolve(&alone, "lab").await, Code::NotConfigured);
        let caller = yard.granted().await;
        let work = yard.connect("user:alice", "work").await;
        yard.house.grant(&yard.agent, &work, ForWhom::Owner).await;
        assert_eq!(resolve(&caller, "lab").await, Code::Ambiguous);
        // A mistyped name is no refusal, and a stranger leaves no row.
        assert_eq!(resolve(&caller, "nowhere").await, Code::NotFound);
        let stranger = Caller::new(TokenHash::of_presented(&format!("datamachine_x_{}", "0".repeat(64))).unwrap());
        assert_eq!(resolve(&stranger, "lab").await, Code::Unauthenticated);
        let rows = yard.audited().await;
        let denied: Vec<_> = rows.iter().filter(|row| row.outcome == "denied").collect();
        assert_eq!(denied.len(), 2, "{denied:?}");
        for code in ["ambiguous", "not_configured"] {
            assert!(denied.iter().any(|row| row.facts.contains(code)), "{code}: {denied:?}");
        }
        for row in denied {
            assert!(row.facts.contains("\"lab\""), "{row:?}");
            assert!(row.actor.starts_with(&format!("agent:{}/tok_", yard.agent)) && row.actor.ends_with("/user:alice"), "{row:?}");
        }
    }

    /// The body is gone when the 401 comes. Whoever made the call makes it again, by then with the new token.
    async fn a_call_with_a_body_is_not_made_again_after_a_401(db: Db) {
        let yard = Yard::new(&db).await;
        let app = yard.app().await;
        for (refreshed, (name, body, calls)) in (1..).zip([("bare", "", 2), ("full", "{}", 1)]) {
            let connection = yard.renewable(&app, name, false).await;
            yard.house.grant(&yard.agent, &connection, ForWhom::Owner).await;
            let caller = yard.caller(Some("alice")).await;
            let before = yard.lab.control().requests("api");
            let (parts, ()) = http::Request::post("/").body(()).unwrap().into_parts();
            let target = Target { host: None, path: "/status/401", query: None };
            let answer = match body {
                "" => yard.deliverer.proxy(&caller, &connection, target, parts, Empty::<Bytes>::new()).await,
                body => yard.deliverer.proxy(&caller, &connection, target, parts, Full::new(Bytes::from_static(body.as_bytes()))).await,
            };
            assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
            assert_eq!(yard.lab.control().requests("api") - before, calls, "{name}");
            assert_eq!(yard.lab.control().refresh_requests(), refreshed, "{name}: the token is renewed all the same");
        }
    }

    /// The hot path: on SQLite what is remembered decides, on PostgreSQL one statement does, and nothing is written but the
    /// audit, whose queue nobody empties here.
    async fn a_warm_reveal_asks_the_database_as_little_as_can_be(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let reveals = async |count: u64| {
            let before = testing::asked(&db);
            for _ in 0..count {
                yard.deliverer.reveal(&caller, &yard.connection, None).await.unwrap();
            }
            let after = testing::asked(&db);
            (after.statements - before.statements, after.transactions - before.transactions)
        };
        let each = u64::from(!db.is_sqlite());
        assert_eq!(reveals(1).await, (1, 0), "the first one knows nothing");
        assert_eq!(reveals(20).await, (20 * each, 0));
        // What was committed since makes what is remembered count for nothing, once.
        yard.house.agent("b", None).await;
        assert_eq!(reveals(1).await, (1, 0));
        assert_eq!(reveals(20).await, (20 * each, 0));
        assert_eq!(yard.audited().await.iter().filter(|row| row.action == "connection.reveal").count(), 42);
    }

    async fn an_audit_row_is_small_however_long_the_path(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let _ = yard.get(&caller, &format!("/posts/{}", "x".repeat(30_000))).await;
        let rows = yard.audited().await;
        let row = rows.iter().find(|row| row.action == "connection.proxy").unwrap();
        assert!(row.facts.len() < 2_000, "{}", row.facts.len());
    }

    async fn a_call_that_could_not_be_made_costs_no_use(db: Db) {
        let yard = Yard::new(&db).await;
        let mut new = yard.house.new_connection("user:alice", "broken");
        new.account.set_text("access_token", &"two\nlines".to_owned().into());
        new.hosts = vec![yard.lab.addr().to_string()];
        let connection = yard.insert(&new).await;
        let new = NewGrant { max_uses: Some(1), ..NewGrant::proxy(&yard.agent, &connection, ForWhom::Owner) };
        let grant = yard.house.grant_with(new).await;
        let caller = yard.caller(Some("alice")).await;
        let (parts, ()) = http::Request::new(()).into_parts();
        let target = Target { host: None, path: "/me", query: None };
        let error = yard.deliverer.proxy(&caller, &connection, target, parts, Empty::<Bytes>::new()).await.unwrap_err();
        assert_eq!(error.code(), Code::NotAuthenticated);
        assert_eq!(grant::get(&db, &yard.house.site, &grant).await.unwrap().unwrap().uses, 0);
    }
}

on_each_db! {
    async fn a_grant_with_a_rate_refuses_what_is_beyond_it_and_says_how_long_to_wait(db: Db) {
        let yard = Yard::new(&db).await;
        let rate = Some("2/1m".parse().unwrap());
        yard.house.grant_with(NewGrant { rate, ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Owner) }).await;
        let caller = yard.caller(Some("alice")).await;
        for _ in 0..2 {
            assert!(yard.get(&caller, "/me").await.is_ok());
        }
        let error = yard.get(&caller, "/me").await.unwrap_err();
        assert_eq!((error.code(), error.retry_after()), (Code::RateLimited, Some(Duration::from_secs(60))));
        assert_eq!(yard.lab.control().requests("api"), 2);
        yard.house.base.clock.advance(Duration::from_secs(60));
        assert!(yard.get(&caller, "/me").await.is_ok());
    }

    /// Everything is allowed, and one operation is asked about: that one leaves in no spelling, and the token not at all.
    async fn what_a_person_must_approve_is_not_sent_without_them(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let asks = NewGrant {
            effect: Effect::Ask,
            delivery: both(),
            operations: Some(vec!["POST /api/echo".parse::<PathPattern>().unwrap()].into()),
            ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Owner)
        };
        let asking = yard.house.grant_with(asks).await;
        let post = async |path: &str| yard.call(&caller, Method::POST, path, HeaderMap::new(), Bytes::from_static(b"x")).await;
        let error = post("/echo").await.unwrap_err();
        assert_eq!(error.code(), Code::ApprovalRequired);
        assert_eq!(error.extra().unwrap()["grant"], json!(asking));
        assert_eq!(post("/echo/").await.unwrap_err().code(), Code::GrantDenied);
        assert_eq!(yard.deliverer.reveal(&caller, &yard.connection, None).await.unwrap_err().code(), Code::GrantDenied);
        assert_eq!(yard.lab.control().requests("api"), 0);
        assert!(yard.get(&caller, "/echo").await.is_ok() && post("/echo/other").await.is_ok());
    }

    async fn a_denial_ends_what_runs_and_keeps_back_what_comes(db: Db) {
        let yard = Yard::new(&db).await;
        let caller = yard.granted().await;
        let body = yard.get(&caller, "/stream?ms=50&n=400").await.unwrap().into_body();
        let denial = NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Anyone) };
        let denial = yard.house.grant_with(denial).await;
        assert_eq!(end_of(body).await, Some(Code::GrantDenied));
        assert_eq!(yard.get(&caller, "/me").await.unwrap_err().code(), Code::GrantDenied);
        grant::revoke(&yard.house.base, &yard.house.site, &Actor::Operator, &denial, "test").await.unwrap();
        assert!(yard.get(&caller, "/me").await.is_ok());
    }
}

/// The code with which a stream ends within three seconds; nothing when it comes to its own end.
async fn end_of(mut body: Guarded) -> Option<Code> {
    let ended = async {
        while let Some(frame) = body.frame().await {
            if let Err(error) = frame {
                return Some(error.code());
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_secs(3), ended).await.expect("it goes on")
}
