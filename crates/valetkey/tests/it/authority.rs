//! Authority only shrinks: what a token may do lies within its own ceiling, its agent's and its site's, within the live roles of
//! its people, and within what is granted; and whatever becomes narrower takes nothing but away.

use std::{cell::Cell, collections::BTreeSet};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use valetkey::{
    agent::{self, Role},
    clock::Timestamp,
    db::testing,
    decision::{self, Authority, Facts, Over, Parsed, Request, Who, decide},
    error::Code,
    grant::{ForWhom, NewGrant},
    id::{AgentId, ConnectionId, ProviderName, UserId},
    on_each_db, person,
    principal::{Actor, AuthSource, CallerChain, Ceiling, Delivery},
    provider::pattern::PathPattern,
    site,
    token::{self, NewToken, TokenHash},
};

use crate::support::{House, both, ceiling};

const OPERATOR: Actor = Actor::Operator;
const PROXY: Request<'static> = Request { delivery: Delivery::Proxy, operation: None, unattended: false };
const REVEAL: Request<'static> = Request { delivery: Delivery::Reveal, operation: None, unattended: false };

/// Sets the ceiling over a place.
pub(crate) async fn narrow(house: &House, over: Over, agent: &AgentId, ceiling: Option<Ceiling>) {
    match over {
        Over::Site => {
            let policy = site::Policy { ceiling, ..site::Policy::default() };
            site::set_policy(&house.base, &OPERATOR, &house.site, &policy).await.unwrap();
        }
        _ => agent::set_ceiling(&house.base, &house.site, &OPERATOR, agent, ceiling.as_ref()).await.unwrap(),
    }
}

on_each_db! {
    async fn a_ceiling_over_an_agent_or_a_site_holds_from_the_next_request_on(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        house.grant_with(NewGrant { delivery: both(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let (_, token) = house.token(&agent, None).await;
        for (over, fact) in [(Over::Agent, "agent_ceiling"), (Over::Site, "site_ceiling")] {
            for (json, proxy, reveal) in [
                ("{}", true, true),
                (r#"{"delivery":["proxy"]}"#, true, false),
                (r#"{"connections":[]}"#, false, false),
                (r#"{"providers":["reddit"]}"#, false, false),
                (r#"{"providers":["lab"]}"#, true, true),
                (r#"{"operations":["GET /x"]}"#, true, false),
            ] {
                narrow(&house, over, &agent, Some(ceiling(json))).await;
                for (request, allowed) in [(&PROXY, proxy), (&REVEAL, reveal)] {
                    let decision = house.ask_for(&token, &connection, request).await.unwrap();
                    assert_eq!(decision.allowed(), allowed, "{over:?} {json} {request:?}");
                    if !allowed {
                        assert_eq!((decision.code, decision.reasons[0].fact), (Some(Code::GrantDenied), fact));
                    }
                    // Explaining is enforcing, for whoever has no token yet as well.
                    let facts = decision::for_agent(&db, &house.site, &Who::new(agent.clone(), None), &connection).await.unwrap().unwrap();
                    assert_eq!(decide(&facts, request, house.base.clock.now()), decision);
                }
            }
            narrow(&house, over, &agent, None).await;
            assert!(house.ask(&token, &connection).await.unwrap().allowed());
        }
        // Another agent of the site is narrowed by the site alone.
        let other = house.agent("b", None).await;
        house.grant(&other, &connection, ForWhom::Unattended).await;
        let (_, others) = house.token(&other, None).await;
        narrow(&house, Over::Agent, &agent, Some(ceiling(r#"{"connections":[]}"#))).await;
        assert!(house.ask(&others, &connection).await.unwrap().allowed());
        narrow(&house, Over::Site, &agent, Some(ceiling(r#"{"connections":[]}"#))).await;
        assert!(!house.ask(&others, &connection).await.unwrap().allowed());
    }

    async fn what_is_remembered_of_authority_does_not_outlive_a_narrower_ceiling(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        let (_, token) = house.token(&agent, None).await;
        let authority = Authority::new(db.clone());
        let allowed = async || {
            let facts = authority.facts(&token, &connection).await.unwrap().unwrap();
            decide(&facts, &PROXY, house.base.clock.now()).allowed()
        };
        for over in [Over::Agent, Over::Site] {
            assert!(allowed().await);
            narrow(&house, over, &agent, Some(ceiling(r#"{"providers":[]}"#))).await;
            assert!(!allowed().await);
            narrow(&house, over, &agent, None).await;
        }
    }

    async fn a_ceiling_that_cannot_be_read_denies_everything_below_it(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        let (_, token) = house.token(&agent, None).await;
        for table in ["agents", "sites"] {
            assert!(house.ask(&token, &connection).await.unwrap().allowed());
            testing::execute(&db, &format!("UPDATE {table} SET ceiling = '{{\"budget\":1}}'")).await;
            let decision = house.ask(&token, &connection).await.unwrap();
            assert_eq!((decision.code, decision.reasons[0].fact), (Some(Code::Unauthenticated), "ceiling_unreadable"), "{table}");
            // It is not shown as if nothing narrowed.
            let shown = match table {
                "agents" => agent::ceiling(&db, &house.site, &agent).await.map(|_| ()),
                _ => site::policy(&db, &house.site).await.map(|_| ()),
            };
            assert_eq!(shown.unwrap_err().code(), Code::Internal);
            testing::execute(&db, &format!("UPDATE {table} SET ceiling = NULL")).await;
        }
    }

    async fn a_policy_that_is_none_is_refused_and_changes_nothing(db: Db) {
        let house = House::new(&db).await;
        let set = async |policy: site::Policy| site::set_policy(&house.base, &OPERATOR, &house.site, &policy).await;
        set(site::Policy { chain_limit: Some(5), ..site::Policy::default() }).await.unwrap();
        for limit in [0, 11, u32::MAX] {
            let error = set(site::Policy { chain_limit: Some(limit), ..site::Policy::default() }).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidRequest);
        }
        let endless = (0..1_001).map(|_| ConnectionId::new()).collect();
        let endless = Ceiling { connections: Some(endless), ..Ceiling::default() };
        assert!(set(site::Policy { ceiling: Some(endless.clone()), ..site::Policy::default() }).await.is_err());
        assert_eq!(site::policy(&db, &house.site).await.unwrap().chain_limit, Some(5));
        let agent = house.agent("a", None).await;
        assert!(agent::set_ceiling(&house.base, &house.site, &OPERATOR, &agent, Some(&endless)).await.is_err());
        assert_eq!(agent::ceiling(&db, &house.site, &agent).await.unwrap(), None);
        let nobody = "nobody".parse().unwrap();
        assert_eq!(agent::set_ceiling(&house.base, &house.site, &OPERATOR, &nobody, None).await.unwrap_err().code(), Code::NotFound);
    }

    /// T-001, T-002, T-003, T-175: an operator may what a viewer may, and not what an admin may.
    async fn a_check_a_list_and_the_decision_see_the_same_role(db: Db) {
        let house = House::new(&db).await;
        let (people, roles) = (["alice", "bob", "carol", "dora", "erin"], [Role::Viewer, Role::Operator, Role::Admin]);
        let first = house.agent("first", Some("alice")).await;
        let second = house.agent("second", Some("bob")).await;
        let gone = house.agent("gone", Some("alice")).await;
        for agent in [&first, &gone] {
            house.role(agent, "bob", Role::Operator).await;
            house.role(agent, "carol", Role::Viewer).await;
            house.role(agent, "erin", Role::Admin).await;
        }
        agent::delete(&house.base, &house.site, &OPERATOR, &gone).await.unwrap();
        agent::set_disabled(&house.base, &house.site, &OPERATOR, &second, true).await.unwrap();
        // A stored word that is no role is none.
        house.role(&second, "carol", Role::Admin).await;
        testing::execute(&db, "UPDATE agent_access SET role = 'owner' WHERE role = 'admin' AND user_id = 'carol'").await;
        let connection = house.connection("site").await;
        let mut held = 0;
        for stopped in [false, true] {
            let erin = "erin".parse().unwrap();
            person::set_disabled(&house.base, &house.site, &OPERATOR, &erin, stopped).await.unwrap();
            for person in people {
                let user: UserId = person.parse().unwrap();
                for least in roles {
                    let all = agent::held(&db, &house.site, &user, least, None, None, 100).await.unwrap();
                    let all: Vec<_> = all.into_iter().map(|held| held.agent.id).collect();
                    for agent in [&first, &second, &gone] {
                        let may = agent::may(&house.base, &house.site, &user, agent, least).await.unwrap();
                        assert_eq!(may, all.contains(agent), "{person} {agent} {least}");
                        let who = Who::new(agent.clone(), Some(user.clone()));
                        let facts = decision::for_agent(&db, &house.site, &who, &connection).await.unwrap().unwrap();
                        let person_of = facts.person.as_ref().filter(|person| !person.gone);
                        let decided = agent != &gone && person_of.is_some_and(|person| person.role >= Some(least));
                        assert_eq!(may, decided, "{person} {agent} {least}");
                        held += usize::from(may);
                    }
                }
            }
        }
        // Twice: alice and bob their own (3 each), bob and carol what they were given (2 and 1); erin once (3).
        assert_eq!(held, 2 * (3 + 3 + 2 + 1) + 3);
    }

    async fn a_list_of_agents_by_role_comes_in_pages(db: Db) {
        let house = House::new(&db).await;
        let mut all = Vec::new();
        for n in 0..5 {
            let agent = house.agent(&format!("a{n}"), None).await;
            house.role(&agent, "bob", if n == 2 { Role::Viewer } else { Role::Operator }).await;
            all.push(agent);
            house.base.clock.advance(std::time::Duration::from_secs(1));
        }
        let bob: UserId = "bob".parse().unwrap();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = agent::held(&db, &house.site, &bob, Role::Operator, None, after.as_ref(), 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.agent.id.clone());
            seen.extend(page.into_iter().map(|held| held.agent.id));
        }
        all.remove(2);
        assert_eq!(seen, all);
    }

    async fn the_owner_of_an_agent_is_not_made_less_than_its_admin(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", Some("alice")).await;
        let alice: UserId = "alice".parse().unwrap();
        for role in [Role::Viewer, Role::Operator] {
            let error = agent::set_role(&house.base, &house.site, &OPERATOR, &agent, &alice, role).await.unwrap_err();
            assert_eq!(error.code(), Code::Conflict);
        }
        let error = agent::remove_role(&house.base, &house.site, &OPERATOR, &agent, &alice).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        agent::set_role(&house.base, &house.site, &OPERATOR, &agent, &alice, Role::Admin).await.unwrap();
        assert_eq!(agent::role_of(&db, &house.site, &agent, &alice).await.unwrap(), Some(Role::Admin));
    }

    /// T-011, T-061, T-108, T-136: a token resolves to the person, the agent and the token, and to what narrows it.
    async fn a_token_is_a_whole_principal(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", Some("olga")).await;
        house.role(&agent, "alice", Role::Operator).await;
        let new = NewToken {
            label: "laptop".to_owned(),
            person: Some("alice".parse().unwrap()),
            ceiling: Some(ceiling(r#"{"delivery":["proxy"]}"#)),
            ..NewToken::default()
        };
        let (token, text) = token::mint(&house.base, &house.site, &OPERATOR, &agent, new).await.unwrap();
        narrow(&house, Over::Site, &agent, Some(ceiling(r#"{"providers":["lab"]}"#))).await;
        let hash = TokenHash::of_presented(text.expose()).unwrap();
        let facts = house.authority.holder(&hash).await.unwrap().unwrap();
        let now = house.base.clock.now();
        let principal = decision::calling(&facts, false, &CallerChain::default(), now).unwrap();
        let alice: Option<UserId> = Some("alice".parse().unwrap());
        assert_eq!((&principal.source, &principal.site, principal.agent.as_ref()), (&AuthSource::AgentToken, &house.site, Some(&agent)));
        assert_eq!((&principal.user, &principal.calling_user), (&alice, &alice));
        assert_eq!(principal.owner, Some("olga".parse().unwrap()), "who owns the agent is not acting");
        assert_eq!(principal.token.as_ref(), Some(&token.id));
        assert_eq!((principal.token_prefix.as_deref(), principal.token_label.as_deref()), (Some(&*token.prefix), Some("laptop")));
        assert_eq!(principal.ceilings, [ceiling(r#"{"providers":["lab"]}"#), ceiling(r#"{"delivery":["proxy"]}"#)]);
        assert_eq!(principal.actor().to_string(), format!("agent:{agent}/{}/user:alice", token.id));
        // A call that gives its person up is bounded by them all the same.
        let alone = decision::calling(&facts, true, &CallerChain::default(), now).unwrap();
        assert_eq!((alone.user, alone.calling_user), (alice, None));
    }

    async fn whatever_is_narrowed_takes_nothing_but_away(db: Db) {
        let stage = Stage::new(&db).await;
        let (allowed, lost) = (Cell::new(0), Cell::new(0));
        runner()
            .run(&(start(&stage.connection), step(&stage.connection), request()), |(start, step, request)| {
                let before = start.facts(&stage);
                let mut after = before.clone();
                step.take(&mut after, stage.now);
                let (was, is) = (decide(&before, &request, stage.now).allowed(), decide(&after, &request, stage.now).allowed());
                prop_assert!(was || !is, "{:?} widened {:?} for {:?}", step, start, request);
                allowed.set(allowed.get() + usize::from(was));
                lost.set(lost.get() + usize::from(was && !is));
                Ok(())
            })
            .unwrap();
        assert!(allowed.get() > 100 && lost.get() > 10, "{} allowed, {} lost", allowed.get(), lost.get());
    }

    /// T-019, T-027, T-028, T-122.
    async fn what_is_allowed_lies_within_every_ceiling(db: Db) {
        let stage = Stage::new(&db).await;
        let allowed = Cell::new(0);
        runner()
            .run(&(start(&stage.connection), request()), |(start, request)| {
                let facts = start.facts(&stage);
                if decide(&facts, &request, stage.now).allowed() {
                    allowed.set(allowed.get() + 1);
                    for ceiling in start.ceilings.iter().flatten() {
                        prop_assert!(admits(ceiling, &stage.connection, &request), "{:?} beyond {:?}", request, ceiling);
                    }
                    prop_assert!(start.person.is_none_or(|role| role >= Some(Role::Operator)));
                    prop_assert!(start.minter >= Some(Role::Operator));
                }
                Ok(())
            })
            .unwrap();
        assert!(allowed.get() > 100, "{} allowed", allowed.get());
    }

    async fn what_a_chain_claims_decides_nothing_but_its_end(db: Db) {
        let stage = Stage::new(&db).await;
        let seen = Cell::new((0, 0));
        runner()
            .run(&(start(&stage.connection), 0_u32..=16, any::<bool>()), |(start, depth, unattended)| {
                let facts = start.facts(&stage);
                let chain = chain(depth);
                let plain = decision::calling(&facts, unattended, &CallerChain::default(), stage.now);
                match (decision::calling(&facts, unattended, &chain, stage.now), plain) {
                    (Ok(mut chained), Ok(plain)) => {
                        prop_assert!(depth < facts.chain_limit);
                        prop_assert_eq!(&chained.chain, &chain);
                        chained.chain = CallerChain::default();
                        prop_assert!(chained == plain, "the chain changed who is acting");
                        seen.set((seen.get().0 + 1, seen.get().1));
                    }
                    (Err(error), Ok(_)) => {
                        prop_assert_eq!(error.code(), Code::ChainTooDeep);
                        prop_assert!(depth >= facts.chain_limit);
                        seen.set((seen.get().0, seen.get().1 + 1));
                    }
                    // A dead token learns nothing of chains.
                    (Err(error), Err(_)) => prop_assert_eq!(error.code(), Code::Unauthenticated),
                    (Ok(_), Err(_)) => return Err(TestCaseError::fail("a chain made somebody of nobody")),
                }
                Ok(())
            })
            .unwrap();
        assert!(seen.get().0 > 20 && seen.get().1 > 20, "{:?}", seen.get());
    }
}

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: 2_000, failure_persistence: None, ..Config::default() })
}

/// A chain of this depth.
fn chain(depth: u32) -> CallerChain {
    let mut headers = http::HeaderMap::new();
    if depth > 0 {
        for (name, value) in [
            ("x-agents-api-caller-agent", "scout".to_owned()),
            ("x-agents-api-caller-user", "1".to_owned()),
            ("x-agents-api-caller-host", "https://other.example".to_owned()),
            ("x-agents-api-chain-depth", depth.to_string()),
            ("x-agents-api-chain-root", "root".to_owned()),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
    }
    CallerChain::from_headers(&headers).unwrap()
}

/// Real facts, which the cases below change: a token that mina minted for alice, and alice's connection with three grants.
struct Stage {
    facts: Facts,
    connection: ConnectionId,
    now: Timestamp,
}

impl Stage {
    async fn new(db: &valetkey::db::Db) -> Self {
        let house = House::new(db).await;
        let agent = house.agent("a", Some("olga")).await;
        house.role(&agent, "alice", Role::Admin).await;
        house.role(&agent, "mina", Role::Admin).await;
        let connection = house.connection("user:alice").await;
        for for_whom in [ForWhom::Owner, ForWhom::Operators, ForWhom::Unattended] {
            house.grant_with(NewGrant { delivery: both(), ..NewGrant::proxy(&agent, &connection, for_whom) }).await;
        }
        let mina = Actor::User("mina".parse().unwrap());
        let new = NewToken { person: Some("alice".parse().unwrap()), ..NewToken::default() };
        let (_, text) = token::mint(&house.base, &house.site, &mina, &agent, new).await.unwrap();
        let token = TokenHash::of_presented(text.expose()).unwrap();
        let facts = house.authority.facts(&token, &connection).await.unwrap().unwrap();
        let now = house.base.clock.now();
        assert!(decide(&facts, &PROXY, now).allowed() && decide(&facts, &REVEAL, now).allowed());
        Self { facts: (*facts).clone(), connection, now }
    }
}

/// From where a case begins.
#[derive(Clone, Debug)]
struct Start {
    /// Over the site, the agent and the token.
    ceilings: [Option<Ceiling>; 3],
    /// The token's person, by their role.
    person: Option<Option<Role>>,
    minter: Option<Role>,
    /// Which grants there are, and which of them reveal too.
    grants: [(bool, bool); 3],
    chain_limit: u32,
    dead: bool,
}

impl Start {
    fn facts(&self, stage: &Stage) -> Facts {
        let mut facts = stage.facts.clone();
        for (over, ceiling) in PLACES.into_iter().zip(&self.ceilings) {
            *place(&mut facts, over) = ceiling.clone().map(Parsed::Read);
        }
        facts.person = facts.person.take().filter(|_| self.person.is_some());
        if let (Some(person), Some(role)) = (&mut facts.person, self.person) {
            person.role = role;
        }
        let token = facts.token.as_mut().unwrap();
        token.minter.as_mut().unwrap().role = self.minter;
        token.revoked = self.dead;
        facts.chain_limit = self.chain_limit;
        let mut shapes = self.grants.iter();
        facts.grants.retain_mut(|grant| {
            let (there, reveals) = *shapes.next().unwrap();
            if !reveals {
                grant.delivery = Parsed::Read(BTreeSet::from([Delivery::Proxy]));
            }
            there
        });
        facts
    }
}

const PLACES: [Over; 3] = [Over::Site, Over::Agent, Over::Token];

fn place(facts: &mut Facts, over: Over) -> &mut Option<Parsed<Ceiling>> {
    match over {
        Over::Site => &mut facts.site_ceiling,
        Over::Agent => &mut facts.agent.ceiling,
        Over::Token => &mut facts.token.as_mut().unwrap().ceiling,
    }
}

/// One thing that becomes narrower.
#[derive(Clone, Debug)]
enum Step {
    /// A ceiling where there was none.
    Over(Over, Box<Ceiling>),
    /// One entry less in each list of a ceiling that there is.
    Less(Over, usize),
    /// A ceiling that cannot be read any more.
    Garbled(Over),
    /// The person's role, and the minter's, become at most this.
    Role(Option<Role>, bool),
    /// Somebody or something is gone, by number.
    Gone(u8),
    /// One grant less.
    Revoked(usize),
    /// A grant whose time is over, whose grantor is gone, that is used up, or that no longer reveals.
    Weaker(usize, u8),
}

impl Step {
    fn take(&self, facts: &mut Facts, now: Timestamp) {
        match self {
            Step::Over(over, ceiling) => {
                place(facts, *over).get_or_insert_with(|| Parsed::Read((**ceiling).clone()));
            }
            Step::Less(over, which) => {
                if let Some(Parsed::Read(ceiling)) = place(facts, *over) {
                    less(&mut ceiling.delivery, *which);
                    less(&mut ceiling.connections, *which);
                    less(&mut ceiling.providers, *which);
                    if let Some(list) = ceiling.operations.as_mut().filter(|list| !list.is_empty()) {
                        list.remove(which % list.len());
                    }
                }
            }
            Step::Garbled(over) => *place(facts, *over) = Some(Parsed::Unreadable),
            Step::Role(most, of_minter) => {
                let whose = match of_minter {
                    true => facts.token.as_mut().unwrap().minter.as_mut(),
                    false => facts.person.as_mut(),
                };
                if let Some(person) = whose {
                    person.role = person.role.min(*most);
                }
            }
            Step::Gone(0) => facts.site_disabled = true,
            Step::Gone(1) => facts.agent.gone = true,
            Step::Gone(2) => facts.agent.owner_gone = true,
            Step::Gone(3) => facts.token.as_mut().unwrap().revoked = true,
            Step::Gone(4) => facts.token.as_mut().unwrap().expires_at = Some(now),
            Step::Gone(5) => facts.token.as_mut().unwrap().minter.as_mut().unwrap().gone = true,
            Step::Gone(6) => facts.connection.as_mut().unwrap().owner_gone = true,
            Step::Gone(7) => facts.connection = None,
            Step::Gone(_) => facts.person.iter_mut().for_each(|person| person.gone = true),
            Step::Revoked(which) => {
                let mut place = 0;
                facts.grants.retain(|_| {
                    place += 1;
                    place != which + 1
                });
            }
            Step::Weaker(which, how) => {
                let Some(grant) = facts.grants.get_mut(*which) else { return };
                match how {
                    0 => grant.expires_at = Some(now),
                    1 => grant.grantor_may = false,
                    2 => (grant.max_uses, grant.uses) = (Some(1), 1),
                    3 => grant.delivery = Parsed::Unreadable,
                    _ => {
                        if let Parsed::Read(delivery) = &mut grant.delivery {
                            delivery.remove(&Delivery::Reveal);
                        }
                    }
                }
            }
        }
    }
}

/// Takes one entry out of a set that there is.
fn less<T: Ord + Clone>(set: &mut Option<BTreeSet<T>>, which: usize) {
    let Some(set) = set.as_mut().filter(|set| !set.is_empty()) else { return };
    if let Some(gone) = set.iter().nth(which % set.len()).cloned() {
        set.remove(&gone);
    }
}

/// Whether a ceiling by itself admits a request: what the documents say, written a second time.
fn admits(ceiling: &Ceiling, connection: &ConnectionId, request: &Request<'_>) -> bool {
    let reveal = request.delivery == Delivery::Reveal;
    let operation = |pattern: &PathPattern| {
        let (method, host, path) = request.operation.unwrap();
        pattern.matches(method.as_str(), host, path)
    };
    ceiling.delivery.as_ref().is_none_or(|list| list.contains(&request.delivery))
        && ceiling.connections.as_ref().is_none_or(|list| list.contains(connection))
        && ceiling.providers.as_ref().is_none_or(|list| list.iter().any(|name| name.as_str() == "lab"))
        && ceiling.operations.as_ref().is_none_or(|list| !reveal && list.iter().any(operation))
}

fn role() -> impl Strategy<Value = Option<Role>> {
    prop::sample::select(vec![
        None,
        Some(Role::Viewer),
        Some(Role::Operator),
        Some(Role::Operator),
        Some(Role::Admin),
        Some(Role::Admin),
    ])
}

fn over() -> impl Strategy<Value = Over> {
    prop::sample::select(PLACES.to_vec())
}

fn some_of<T: Clone + std::fmt::Debug + 'static>(all: Vec<T>) -> impl Strategy<Value = Option<Vec<T>>> {
    let most = all.len();
    prop::option::weighted(0.4, prop::sample::subsequence(all, 0..=most))
}

fn a_ceiling(connection: &ConnectionId) -> impl Strategy<Value = Ceiling> + use<> {
    let patterns = ["GET /posts/*", "POST /posts/*", "/**", "GET /me"].map(|text| text.parse::<PathPattern>().unwrap()).to_vec();
    let providers = ["lab", "reddit"].map(|text| text.parse::<ProviderName>().unwrap()).to_vec();
    (
        some_of(vec![Delivery::Proxy, Delivery::Reveal]),
        some_of(vec![connection.clone(), ConnectionId::new()]),
        some_of(providers),
        some_of(patterns),
    )
        .prop_map(|(delivery, connections, providers, operations)| Ceiling {
            delivery: delivery.map(|list| list.into_iter().collect()),
            connections: connections.map(|list| list.into_iter().collect()),
            providers: providers.map(|list| list.into_iter().collect()),
            operations,
            platform: None,
        })
}

fn start(connection: &ConnectionId) -> impl Strategy<Value = Start> + use<> {
    let ceilings = prop::array::uniform3(prop::option::weighted(0.5, a_ceiling(connection)));
    let grants = prop::array::uniform3((prop::bool::weighted(0.8), prop::bool::weighted(0.7)));
    let rest = (prop::option::weighted(0.8, role()), role(), 1_u32..=10, prop::bool::weighted(0.05));
    (ceilings, grants, rest).prop_map(|(ceilings, grants, (person, minter, chain_limit, dead))| Start {
        ceilings,
        person,
        minter,
        grants,
        chain_limit,
        dead,
    })
}

fn step(connection: &ConnectionId) -> impl Strategy<Value = Step> + use<> {
    prop_oneof![
        (over(), a_ceiling(connection)).prop_map(|(over, ceiling)| Step::Over(over, Box::new(ceiling))),
        (over(), 0_usize..4).prop_map(|(over, which)| Step::Less(over, which)),
        over().prop_map(Step::Garbled),
        (role(), any::<bool>()).prop_map(|(most, of_minter)| Step::Role(most, of_minter)),
        (0_u8..9).prop_map(Step::Gone),
        (0_usize..3).prop_map(Step::Revoked),
        (0_usize..3, 0_u8..5).prop_map(|(which, how)| Step::Weaker(which, how)),
    ]
}

fn request() -> impl Strategy<Value = Request<'static>> {
    static GET: http::Method = http::Method::GET;
    static POST: http::Method = http::Method::POST;
    let calls: Vec<(&'static http::Method, &'static str, &'static [u8])> = vec![
        (&GET, "api.lab.example", b"/posts/1".as_slice()),
        (&POST, "api.lab.example", b"/posts/1".as_slice()),
        (&GET, "api.lab.example", b"/me".as_slice()),
    ];
    // A reveal asks for everything, which no pattern but that of a mailbox names.
    let proxy = prop::sample::select(calls).prop_map(|call| (Delivery::Proxy, Some(call)));
    let all: Option<(&'static http::Method, &'static str, &'static [u8])> = Some((&GET, "", b"/".as_slice()));
    (prop_oneof![3 => proxy, 1 => Just((Delivery::Reveal, all))], prop::bool::weighted(0.3))
        .prop_map(|((delivery, operation), unattended)| Request { delivery, operation, unattended })
}
