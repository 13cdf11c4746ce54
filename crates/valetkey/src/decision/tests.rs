//! What holds of every decision, whatever the facts: tried on small worlds that proptest makes up.

use std::{collections::BTreeSet, sync::Arc};

use http::Method;
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    agent::Role,
    clock::Timestamp,
    connection::{Connection, Identity, Renewal, Status, Stored},
    error::Code,
    grant::ForWhom,
    id::{ConnectionId, GrantId, SiteId, TokenId, UserId},
    principal::{CallerChain, Ceiling, Delivery, Owner},
    provider::pattern::PathPattern,
};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const PEOPLE: [&str; 3] = ["alice", "bob", "carol"];
const HOST: &str = "api.lab.example";
const PATTERNS: [&str; 5] = ["GET /posts", "POST /posts", "/posts/*", "/**", "POST //api.lab.example/posts"];
/// Some are plainly spelled, some mean the same in another way.
const CALLS: [(Method, &str); 6] = [
    (Method::GET, "/posts"),
    (Method::POST, "/posts"),
    (Method::POST, "/posts/"),
    (Method::POST, "/%70osts"),
    (Method::DELETE, "/posts/1"),
    (Method::GET, "/"),
];

fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

/// Alice's connection, whose token can read and write.
fn connection() -> ConnectionFacts {
    let connection = Connection {
        id: ConnectionId::new(),
        site: SiteId::default_site(),
        owner: Owner::User(user("alice")),
        provider: "lab".parse().unwrap(),
        name: "".parse().unwrap(),
        status: Status::Active,
        version: 1,
        revision: 1,
        app_config: None,
        client_id: None,
        subject: None,
        subject_name: None,
        identity: Identity::Verified,
        scopes: Some(vec!["read".to_owned(), "write".to_owned()]),
        wanted_scopes: Vec::new(),
        hosts: vec![HOST.to_owned()],
        renewal: Renewal::RefreshToken,
        expires_at: None,
        issued_at: None,
        usual_life: None,
        refresh_expires_at: None,
        last_refreshed_at: None,
        connected_at: NOW,
        updated_at: NOW,
        failures: 0,
        retry_at: None,
        last_error: None,
        resources: Default::default(),
        warned_end: None,
    };
    let stored = Stored {
        connection,
        sealed: None,
        lease_number: 0,
        lease_holder: None,
        spending_version: None,
        spending_lease: None,
        recovered_version: None,
        forced_at: None,
    };
    ConnectionFacts { stored: Arc::new(stored), owner_gone: false }
}

/// Something that was read, or now and then something that could not be.
fn parsed<T: Clone + std::fmt::Debug + 'static>(value: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Parsed<T>> {
    prop_oneof![19 => value.prop_map(Parsed::Read), 1 => Just(Parsed::Unreadable)].boxed()
}

fn patterns() -> impl Strategy<Value = Vec<PathPattern>> {
    vec(select(PATTERNS.to_vec()), 0..3).prop_map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn deliveries() -> impl Strategy<Value = BTreeSet<Delivery>> {
    select(vec![
        BTreeSet::from([Delivery::Proxy]),
        BTreeSet::from([Delivery::Reveal]),
        BTreeSet::from([Delivery::Proxy, Delivery::Reveal]),
    ])
}

fn whom() -> impl Strategy<Value = ForWhom> {
    let list = vec(select(PEOPLE.to_vec()), 1..3).prop_map(|names| ForWhom::People(names.into_iter().map(user).collect()));
    prop_oneof![
        4 => Just(ForWhom::Owner),
        3 => Just(ForWhom::Unattended),
        3 => Just(ForWhom::Operators),
        1 => Just(ForWhom::Anyone),
        2 => list
    ]
}

fn grant(effect: impl Strategy<Value = Effect>) -> impl Strategy<Value = GrantFacts> {
    let work = || option::weighted(0.2, Just("night"));
    let scopes = option::weighted(0.2, parsed(select(vec![vec!["read"], vec!["read", "write"]])));
    let limits = (option::weighted(0.3, 1i64..3), 0i64..3, option::weighted(0.2, select(vec![-1i64, 1])));
    let rest = (parsed(whom()), parsed(deliveries()), option::weighted(0.4, parsed(patterns())), prop::bool::weighted(0.9));
    (effect, rest, (work(), work()), scopes, limits).prop_map(
        |(effect, (for_whom, delivery, operations, grantor_may), (session, task), scopes, (max_uses, uses, life))| GrantFacts {
            id: GrantId::new(),
            effect,
            for_whom,
            session: session.map(|name| name.parse().unwrap()),
            task: task.map(|name| name.parse().unwrap()),
            delivery,
            scopes: scopes.map(|scopes| match scopes {
                Parsed::Read(scopes) => Parsed::Read(scopes.into_iter().map(str::to_owned).collect()),
                Parsed::Unreadable => Parsed::Unreadable,
            }),
            operations,
            rate: None,
            max_uses,
            uses,
            expires_at: life.map(|seconds| Timestamp(NOW.0 + seconds)),
            grantor_may,
        },
    )
}

fn any_effect() -> impl Strategy<Value = Effect> {
    prop_oneof![3 => Just(Effect::Allow), 2 => Just(Effect::Ask), 1 => Just(Effect::Deny)]
}

fn ceiling() -> impl Strategy<Value = Ceiling> {
    (option::weighted(0.2, deliveries()), option::weighted(0.3, patterns())).prop_map(|(delivery, operations)| Ceiling {
        delivery,
        operations,
        ..Ceiling::default()
    })
}

fn role() -> impl Strategy<Value = Option<Role>> {
    prop_oneof![1 => Just(None), 1 => Just(Some(Role::Viewer)), 8 => Just(Some(Role::Operator))]
}

fn facts() -> impl Strategy<Value = Facts> {
    let person = option::weighted(0.7, (select(vec!["alice", "alice", "alice", "bob", "carol"]), role()));
    let work = || option::weighted(0.5, Just("night"));
    (person, (work(), work()), option::weighted(0.3, ceiling()), vec(grant(any_effect()), 0..6)).prop_map(
        |(person, (session, task), ceiling, grants)| Facts {
            site: SiteId::default_site(),
            site_disabled: false,
            site_ceiling: None,
            chain_limit: CallerChain::USUAL_LIMIT,
            token: Some(TokenFacts {
                id: TokenId::new(),
                prefix: "vk_".to_owned(),
                label: String::new(),
                expires_at: None,
                revoked: false,
                ceiling: ceiling.map(Parsed::Read),
                minter: None,
                origin: Origin { created_at: NOW, client: None, family: None, parent: None, audience: None },
            }),
            agent: AgentFacts { id: "a".parse().unwrap(), gone: false, owner: None, owner_gone: false, ceiling: None },
            person: person.map(|(name, role)| PersonFacts { id: user(name), gone: false, role }),
            session: session.map(|name| name.parse().unwrap()),
            task: task.map(|name| name.parse().unwrap()),
            connection: Some(connection()),
            grants,
        },
    )
}

/// What is asked: the way, the call, and whether the person is given up.
type Ask = (Delivery, Option<usize>, bool);

fn ask() -> impl Strategy<Value = Ask> {
    (select(vec![Delivery::Proxy, Delivery::Reveal]), option::weighted(0.8, 0..CALLS.len()), any::<bool>())
}

fn request(ask: &Ask) -> Request<'static> {
    let (delivery, call, unattended) = *ask;
    static ASKED: std::sync::LazyLock<Vec<(Method, &str)>> = std::sync::LazyLock::new(|| CALLS.to_vec());
    let operation = call.map(|call| (&ASKED[call].0, HOST, ASKED[call].1.as_bytes()));
    Request { delivery, operation, unattended }
}

fn effect(facts: &Facts, ask: &Ask) -> Effect {
    decide(facts, &request(ask), NOW).effect
}

/// Ways to make something narrower. Each is tried on one of the grants, or on what stands beside them.
#[derive(Clone, Debug)]
enum Narrower {
    /// An allowing grant is taken back.
    Revoked,
    /// An allowing grant is for others.
    For(ForWhom),
    /// An allowing grant reveals nothing, or proxies nothing.
    Without(Delivery),
    /// An allowing grant is for these operations only, or for fewer of its own.
    Only(Vec<PathPattern>),
    /// An allowing grant admits fewer scopes.
    Scopes,
    /// An allowing grant has ended, is used up, or its grantor lost the connection.
    Ended(u8),
    /// An allowing grant is for another session, or another task.
    OtherWork(bool),
    /// A part of an allowing grant cannot be read.
    Unreadable(u8),
    /// A grant is stricter than it was.
    Stricter(Effect),
    /// A denial denies more.
    WiderDenial(u8),
    /// The token may do less.
    Ceiling(Box<Ceiling>),
    /// The person has a lower role.
    Role(Option<Role>),
    /// Somebody or something is gone.
    Gone(u8),
}

fn narrower() -> impl Strategy<Value = Narrower> {
    prop_oneof![
        Just(Narrower::Revoked),
        Just(Narrower::For(ForWhom::People(BTreeSet::new()))),
        Just(Narrower::For(ForWhom::Anyone)),
        select(vec![Delivery::Proxy, Delivery::Reveal]).prop_map(Narrower::Without),
        patterns().prop_map(Narrower::Only),
        Just(Narrower::Scopes),
        (0u8..3).prop_map(Narrower::Ended),
        any::<bool>().prop_map(Narrower::OtherWork),
        (0u8..4).prop_map(Narrower::Unreadable),
        select(vec![Effect::Ask, Effect::Deny]).prop_map(Narrower::Stricter),
        (0u8..4).prop_map(Narrower::WiderDenial),
        ceiling().prop_map(|ceiling| Narrower::Ceiling(Box::new(ceiling))),
        select(vec![None, Some(Role::Viewer)]).prop_map(Narrower::Role),
        (0u8..7).prop_map(Narrower::Gone),
    ]
}

/// Facts that are narrower by one thing. `which` chooses the grant.
fn narrowed(facts: &Facts, by: Narrower, which: usize) -> Facts {
    let mut facts = facts.clone();
    let allowing: Vec<usize> = (0..facts.grants.len()).filter(|at| facts.grants[*at].effect == Effect::Allow).collect();
    let denying: Vec<usize> = (0..facts.grants.len()).filter(|at| facts.grants[*at].effect == Effect::Deny).collect();
    let at = |of: &[usize]| of.get(which % of.len().max(1)).copied();
    match by {
        Narrower::Ceiling(ceiling) => {
            if let Some(token) = &mut facts.token {
                let mut both = match token.ceiling.take() {
                    Some(Parsed::Read(known)) => known,
                    _ => Ceiling::default(),
                };
                both.delivery = match (both.delivery, ceiling.delivery) {
                    (Some(a), Some(b)) => Some(a.intersection(&b).copied().collect()),
                    (a, b) => a.or(b),
                };
                both.operations = match (both.operations, ceiling.operations) {
                    (Some(a), Some(b)) => Some(a.into_iter().filter(|pattern| b.contains(pattern)).collect()),
                    (a, b) => a.or(b),
                };
                token.ceiling = Some(Parsed::Read(both));
            }
        }
        Narrower::Role(role) => {
            if let Some(person) = &mut facts.person {
                person.role = person.role.min(role);
            }
        }
        Narrower::Gone(what) => match what {
            0 => facts.site_disabled = true,
            1 => facts.agent.gone = true,
            2 => facts.agent.owner_gone = true,
            3 => facts.token.iter_mut().for_each(|token| token.revoked = true),
            4 => facts.person.iter_mut().for_each(|person| person.gone = true),
            5 => facts.connection.iter_mut().for_each(|connection| connection.owner_gone = true),
            _ => facts.connection = None,
        },
        Narrower::Stricter(effect) => {
            if !facts.grants.is_empty() {
                let at = which % facts.grants.len();
                facts.grants[at].effect = facts.grants[at].effect.max(effect);
            }
        }
        Narrower::WiderDenial(what) => {
            if let Some(at) = at(&denying) {
                let grant = &mut facts.grants[at];
                match what {
                    0 => grant.operations = None,
                    1 => grant.for_whom = Parsed::Read(ForWhom::Anyone),
                    2 => grant.delivery = Parsed::Unreadable,
                    _ => (grant.session, grant.task, grant.expires_at) = (None, None, None),
                }
            }
        }
        by => {
            let Some(at) = at(&allowing) else { return facts };
            let grant = &mut facts.grants[at];
            match by {
                Narrower::Revoked => drop(facts.grants.remove(at)),
                Narrower::For(whom) => grant.for_whom = Parsed::Read(whom),
                Narrower::Without(delivery) => {
                    if let Parsed::Read(known) = &mut grant.delivery {
                        known.remove(&delivery);
                    }
                }
                Narrower::Only(fewer) => {
                    if let Some(Parsed::Read(known)) = &mut grant.operations {
                        known.retain(|pattern| fewer.contains(pattern));
                    // Scopes that the token exceeds give nothing until operations are named: those hold the proxy instead.
                    } else if grant.operations.is_none() && grant.scopes.is_none() {
                        grant.operations = Some(Parsed::Read(fewer));
                    }
                }
                Narrower::Scopes if grant.scopes != Some(Parsed::Unreadable) => {
                    grant.scopes = Some(Parsed::Read(BTreeSet::new()));
                }
                Narrower::Ended(0) => grant.expires_at = Some(NOW),
                Narrower::Ended(1) => (grant.max_uses, grant.uses) = (Some(1), 1),
                Narrower::Ended(_) => grant.grantor_may = false,
                Narrower::OtherWork(true) => grant.session = Some("another".parse().unwrap()),
                Narrower::OtherWork(false) => grant.task = Some("another".parse().unwrap()),
                Narrower::Unreadable(0) => grant.for_whom = Parsed::Unreadable,
                Narrower::Unreadable(1) => grant.delivery = Parsed::Unreadable,
                Narrower::Unreadable(2) => grant.operations = Some(Parsed::Unreadable),
                Narrower::Unreadable(_) => grant.scopes = Some(Parsed::Unreadable),
                _ => {}
            }
        }
    }
    facts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn adding_a_denial_never_allows_more(facts in facts(), denial in grant(Just(Effect::Deny)), ask in ask()) {
        let mut stricter = facts.clone();
        stricter.grants.push(denial);
        prop_assert!(effect(&stricter, &ask) >= effect(&facts, &ask));
    }

    #[test]
    fn narrowing_any_part_never_allows_more(facts in facts(), by in narrower(), which in 0usize..8, ask in ask()) {
        let fewer = narrowed(&facts, by, which);
        prop_assert!(effect(&fewer, &ask) >= effect(&facts, &ask), "{:?} became {:?}", facts, fewer);
    }

    /// With nothing allowed without asking, what asks only gives: then it can be narrowed like any other.
    #[test]
    fn a_grant_that_asks_gives_nothing_when_it_ends(facts in facts(), which in 0usize..8, ask in ask()) {
        let mut facts = facts;
        facts.grants.retain(|grant| grant.effect != Effect::Allow);
        let mut fewer = facts.clone();
        let asking: Vec<usize> = (0..facts.grants.len()).filter(|at| facts.grants[*at].effect == Effect::Ask).collect();
        if let Some(at) = asking.get(which % asking.len().max(1)) {
            fewer.grants.remove(*at);
        }
        prop_assert!(effect(&facts, &ask) != Effect::Allow);
        prop_assert!(asking.len() != 1 || effect(&fewer, &ask) == Effect::Deny);
    }

    /// The general question stands before the one about the call. It must never stop a call that may be made.
    #[test]
    fn what_may_be_done_is_not_denied_in_general(facts in facts(), ask in ask()) {
        let general = (ask.0, None, ask.2);
        if ask.0 == Delivery::Proxy && effect(&facts, &ask) != Effect::Deny {
            prop_assert!(effect(&facts, &general) != Effect::Deny);
        }
    }

    /// What introspection and exchange tell of a token is never too little for what a use of it gets.
    #[test]
    fn what_is_not_in_the_most_is_denied(
        facts in facts(),
        above in (option::weighted(0.5, ceiling()), option::weighted(0.5, ceiling())),
        ask in ask(),
    ) {
        let mut facts = facts;
        (facts.agent.ceiling, facts.site_ceiling) = (above.0.map(Parsed::Read), above.1.map(Parsed::Read));
        let most = most(&facts, facts.person.as_ref());
        if !most.is_some_and(|most| most.delivery.is_some_and(|left| left.contains(&ask.0))) {
            prop_assert_eq!(effect(&facts, &ask), Effect::Deny);
        }
    }

    /// A person's word turns an ask into a yes, under the grant that asked; it turns no denial.
    #[test]
    fn an_approval_turns_an_ask_and_nothing_else(facts in facts(), ask in ask()) {
        let asked = decide(&facts, &request(&ask), NOW);
        for grant in &facts.grants {
            let approved = decide_approved(&facts, &request(&ask), &grant.id, NOW);
            match asked.effect {
                Effect::Allow => prop_assert!(approved.allowed()),
                Effect::Deny => prop_assert!(approved.denied()),
                Effect::Ask if asked.grant.as_ref() == Some(&grant.id) => {
                    prop_assert!(approved.allowed() && approved.approved && approved.grant == asked.grant);
                    prop_assert!(decide_running(&facts, &request(&ask), &grant.id, NOW).allowed());
                }
                Effect::Ask => prop_assert!(!approved.denied() && (!approved.allowed() || grant.effect == Effect::Ask)),
            }
        }
    }

    /// A call goes on under the grant that let it pass, as long as nothing changes.
    #[test]
    fn a_running_call_goes_on(facts in facts(), ask in ask()) {
        let decision = decide(&facts, &request(&ask), NOW);
        if let (true, Some(grant)) = (decision.allowed(), &decision.grant) {
            prop_assert!(decide_running(&facts, &request(&ask), grant, NOW).allowed());
        }
    }

    #[test]
    fn every_answer_says_why(facts in facts(), ask in ask()) {
        let decision = decide(&facts, &request(&ask), NOW);
        prop_assert!(!decision.reasons.is_empty());
        prop_assert_eq!(decision.code.is_none(), decision.allowed());
        prop_assert_eq!(decision.grant.is_none(), decision.denied());
        prop_assert!(decision.code != Some(Code::Internal));
        prop_assert_eq!(decision, decide(&facts, &request(&ask), NOW));
    }
}

/// The strategies make all three answers often enough to be worth something.
#[test]
fn the_worlds_are_not_all_alike() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen = [0; 3];
    for _ in 0..4_000 {
        let (facts, ask) = (facts(), ask()).new_tree(&mut runner).unwrap().current();
        seen[effect(&facts, &ask) as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count > 60), "{seen:?}");
}
