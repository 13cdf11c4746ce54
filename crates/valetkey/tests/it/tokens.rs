//! Tokens, agents and what narrows them: the cases of docs/conformance/tokens.md that no other test is about.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use valetkey::{
    Code, Result,
    agent::{self, Agent, NewAgent, Role},
    decision::Request,
    deliver::Caller,
    grant::{self, Effect, ForWhom, NewGrant},
    id::{AgentId, SiteId, UserId},
    on_each_db,
    principal::{Actor, Delivery},
    provider::pattern::PathPattern,
    site,
    token::{NewToken, TokenHash},
};

use crate::{
    deliver::Yard,
    support::{House, both, ceiling},
};

const OPERATOR: Actor = Actor::Operator;
const GENERAL: Request<'static> = Request { delivery: Delivery::Proxy, operation: None, unattended: false };

impl House {
    /// Makes an agent of alice's that is called like all others here.
    async fn helper(&self, id: Option<&str>) -> Result<Agent> {
        let id = id.map(|id| id.parse().unwrap());
        let new = NewAgent { id, slug: "helper".to_owned(), title: String::new(), owner: Some("alice".parse().unwrap()) };
        agent::create(&self.base, &self.site, &OPERATOR, new).await
    }
}

on_each_db! {
    /// T-020, T-024, T-026, T-105, T-110: what a ceiling names is not granted by that, however much it names.
    async fn a_ceiling_grants_nothing(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", Some("alice")).await;
        let connection = house.connection("site").await;
        let whole = format!(r#"{{"delivery":["proxy","reveal"],"connections":["{connection}"],"providers":["lab"],"operations":["GET /**"]}}"#);
        agent::set_ceiling(&house.base, &house.site, &OPERATOR, &agent, Some(&ceiling(&whole))).await.unwrap();
        let capable = r#"{"platform":{"capabilities":["datamachine_use_tools","publish_posts"]}}"#;
        let mut tokens = vec![house.token(&agent, Some("alice")).await.1];
        for most in [whole.as_str(), capable] {
            tokens.push(house.token_with(&agent, NewToken { ceiling: Some(ceiling(most)), ..NewToken::default() }).await.1);
        }
        for token in &tokens {
            assert_eq!(house.ask(token, &connection).await.unwrap().code, Some(Code::NotFound));
        }
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        for token in &tokens[1..] {
            assert!(house.ask(token, &connection).await.unwrap().allowed());
        }
    }

    /// T-101: a denial stays whatever is narrowed beside it.
    async fn narrowing_what_is_allowed_keeps_what_is_denied(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (_, token) = house.token(&agent, None).await;
        let given = |effect, whom, operation: &str| NewGrant {
            effect,
            delivery: BTreeSet::new(),
            operations: Some(vec![operation.parse::<PathPattern>().unwrap()].into()),
            ..NewGrant::proxy(&agent, &connection, whom)
        };
        let ask = async |method: Method, path: &str| {
            let operation = Some((&method, "api.lab.example", path.as_bytes()));
            house.ask_for(&token, &connection, &Request { operation, ..GENERAL }).await.unwrap().allowed()
        };
        let wide = house.grant_with(given(Effect::Allow, ForWhom::Unattended, "/**")).await;
        house.grant_with(given(Effect::Deny, ForWhom::Anyone, "DELETE /posts/*")).await;
        assert!(ask(Method::GET, "/drafts/1").await && ask(Method::GET, "/posts/1").await);
        assert!(!ask(Method::DELETE, "/posts/1").await);
        grant::revoke(&house.base, &house.site, &OPERATOR, &wide, "narrower").await.unwrap();
        house.grant_with(given(Effect::Allow, ForWhom::Unattended, "/posts/*")).await;
        assert!(ask(Method::GET, "/posts/1").await && !ask(Method::GET, "/drafts/1").await);
        assert!(!ask(Method::DELETE, "/posts/1").await);
        let most = ceiling(r#"{"operations":["/posts/1"]}"#);
        agent::set_ceiling(&house.base, &house.site, &OPERATOR, &agent, Some(&most)).await.unwrap();
        assert!(ask(Method::GET, "/posts/1").await && !ask(Method::DELETE, "/posts/1").await);
    }

    /// T-145, T-147, T-148, T-153: an agent is its id, of which every character counts.
    async fn an_agent_is_its_id_whatever_else_is_the_same(db: Db) {
        let house = House::new(&db).await;
        let (first, second) = (house.helper(None).await.unwrap(), house.helper(None).await.unwrap());
        assert_ne!(first.id, second.id);
        let long = |end: char| format!("{}{end}", "x".repeat(190));
        let (third, fourth) = (house.helper(Some(&long('a'))).await.unwrap(), house.helper(Some(&long('b'))).await.unwrap());
        for one in [&first, &second, &third, &fourth] {
            let (_, token) = house.token(&one.id, Some("alice")).await;
            let facts = house.authority.holder(&token).await.unwrap().unwrap();
            assert_eq!(facts.agent.id, one.id);
            assert_eq!(agent::get(&db, &house.site, &one.id).await.unwrap().unwrap().id, one.id);
        }
        // Who is told an id that is there makes no second one, and changes nothing of the first.
        let taken = NewAgent { id: Some(third.id.clone()), slug: "other".to_owned(), title: String::new(), owner: None };
        let error = agent::create(&house.base, &house.site, &OPERATOR, taken).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        let kept = agent::get(&db, &house.site, &third.id).await.unwrap().unwrap();
        assert_eq!((kept.slug, kept.owner), (third.slug, third.owner));
    }

    /// T-004, T-150: what is at another site is not there, and is not changed from here.
    async fn an_agent_and_its_roles_are_of_one_site(db: Db) {
        let house = House::new(&db).await;
        let other: SiteId = "other".parse().unwrap();
        site::create(&house.base, &OPERATOR, &other, "Other").await.unwrap();
        let agent = house.helper(Some("the-agent")).await.unwrap();
        house.role(&agent.id, "bob", Role::Operator).await;
        let bob: UserId = "bob".parse().unwrap();
        assert!(agent::get(&db, &other, &agent.id).await.unwrap().is_none());
        assert_eq!(agent::find(&db, &other, "helper").await.unwrap_err().code(), Code::NotFound);
        assert!(agent::held(&db, &other, &bob, Role::Viewer, None, None, 100).await.unwrap().is_empty());
        let changed = agent::set_disabled(&house.base, &other, &OPERATOR, &agent.id, true).await;
        assert_eq!(changed.unwrap_err().code(), Code::NotFound);
        assert!(agent::get(&db, &house.site, &agent.id).await.unwrap().unwrap().disabled_at.is_none());
        // An agent with the same id there is another one: nobody's role here counts for it.
        let foreign = House::at(house.base.clone(), other.clone());
        foreign.helper(Some("the-agent")).await.unwrap();
        assert!(!agent::may(&house.base, &other, &bob, &agent.id, Role::Viewer).await.unwrap());
        assert!(agent::may(&house.base, &house.site, &bob, &agent.id, Role::Operator).await.unwrap());
    }

    /// T-143, T-193: a name is taken as it is or refused; nothing is made of it that somebody else could have meant.
    async fn a_slug_is_refused_and_not_mended(db: Db) {
        let house = House::new(&db).await;
        let make = async |slug: &str, title: &str| {
            let new = NewAgent { id: None, slug: slug.to_owned(), title: title.to_owned(), owner: None };
            agent::create(&house.base, &house.site, &OPERATOR, new).await
        };
        for odd in ["", "Research Assistant", "Research-Assistant", " a", "a/b", "caf\u{e9}", &"x".repeat(65)] {
            assert_eq!(make(odd, "").await.unwrap_err().code(), Code::InvalidRequest, "{odd:?}");
        }
        assert_eq!(make("research-assistant", "").await.unwrap().title, "research-assistant");
        assert_eq!(make("research_assistant", "Research Assistant").await.unwrap().title, "Research Assistant");
        for odd in ["", "0", "-1", "a b"] {
            assert!(odd.parse::<AgentId>().is_err(), "{odd:?}");
        }
    }

    /// T-179, T-180, T-181, T-182, T-191: each agent once, with the most that the person has on it.
    async fn a_persons_agents_are_listed_once_each_with_their_role(db: Db) {
        let house = House::new(&db).await;
        let own = house.agent("own", Some("alice")).await;
        house.role(&own, "alice", Role::Admin).await;
        let plain = house.agent("plain", Some("alice")).await;
        let shared = house.agent("shared", Some("bob")).await;
        house.role(&shared, "alice", Role::Viewer).await;
        house.agent("others", Some("bob")).await;
        let held = async |user: &str, least| {
            let all = agent::held(&db, &house.site, &user.parse().unwrap(), least, None, None, 100).await.unwrap();
            all.into_iter().map(|held| (held.agent.id, held.role)).collect::<Vec<_>>()
        };
        let mut all = held("alice", Role::Viewer).await;
        all.sort();
        let mut expected = vec![(own.clone(), Role::Admin), (plain.clone(), Role::Admin), (shared, Role::Viewer)];
        expected.sort();
        assert_eq!(all, expected);
        let mut admin: Vec<_> = held("alice", Role::Operator).await.into_iter().map(|(id, _)| id).collect();
        admin.sort();
        let mut expected = vec![own, plain];
        expected.sort();
        assert_eq!(admin, expected);
        assert!(held("dora", Role::Viewer).await.is_empty());
    }

    /// T-116, T-117, T-118, T-124, T-125, T-126: what is refused does not leave, and is on record once, without what it held.
    async fn a_refused_call_does_not_leave_and_is_recorded_without_its_content(db: Db) {
        let yard = Yard::new(&db).await;
        let person = Some("alice".parse().unwrap());
        let before = yard.caller(Some("alice")).await;
        assert_eq!(yard.get(&before, "/me").await.map(|_| ()).unwrap_err().code(), Code::NotFound, "nothing is granted");
        yard.house.grant_with(NewGrant { delivery: both(), ..NewGrant::proxy(&yard.agent, &yard.connection, ForWhom::Owner) }).await;
        let most = Some(ceiling(r#"{"operations":["GET /api/me"]}"#));
        let (token, hash) = yard.house.token_with(&yard.agent, NewToken { person, ceiling: most, ..NewToken::default() }).await;
        let caller = Caller::new(hash);
        assert_eq!(yard.lab.control().requests("api"), 0);
        assert!(yard.get(&caller, "/me").await.is_ok());
        assert_eq!(yard.lab.control().requests("api"), 1);
        for _ in 0..2 {
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static("api-key"), HeaderValue::from_static("canary"))]);
            let body = Bytes::from_static(b"canary");
            let refused = yard.call(&caller, Method::POST, "/echo?secret=canary", headers, body).await;
            assert_eq!(refused.map(|_| ()).unwrap_err().code(), Code::GrantDenied);
        }
        assert_eq!(yard.lab.control().requests("api"), 1);
        let rows = yard.audited().await;
        let denied: Vec<_> = rows.iter().filter(|row| row.outcome == "denied" && row.facts.contains("grant_denied")).collect();
        assert_eq!(denied.len(), 2, "one for each call");
        for row in denied {
            assert_eq!(row.actor, format!("agent:{}/{token}/user:alice", yard.agent));
            assert_eq!((row.agent.as_deref(), row.connection.as_deref()), (Some(yard.agent.as_str()), Some(yard.connection.as_str())));
            assert!(row.facts.contains("\"ceiling\""), "{}", row.facts);
        }
        assert!(rows.iter().all(|row| !row.facts.contains("canary")));
        let made: Vec<_> = rows.iter().filter(|row| row.action == "connection.proxy").collect();
        assert!(made.len() == 1 && made[0].outcome == "ok", "{}", made.len());
    }

    /// T-119, T-120, T-127: nobody makes no call, and fills no ledger.
    async fn a_call_of_nobody_does_not_leave_and_is_nobodys_row(db: Db) {
        let yard = Yard::new(&db).await;
        yard.house.grant(&yard.agent, &yard.connection, ForWhom::Unattended).await;
        let stranger = Caller::new(TokenHash::of_presented(&format!("datamachine_x_{}", "0".repeat(64))).unwrap());
        assert_eq!(yard.get(&stranger, "/me").await.map(|_| ()).unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(yard.lab.control().requests("api"), 0);
        assert!(yard.audited().await.iter().all(|row| !row.action.starts_with("connection.use")));
    }
}
