//! Grants in full: what allows, asks and denies; for which work; how often; and what becomes of them all together.

use std::{collections::BTreeSet, time::Duration};

use valetkey::{
    Code,
    agent::Role,
    decision::{Authority, Of, Request, Who, decide_approved, for_agent},
    deliver::Caller,
    grant::{self, Effect, ForWhom, Limits, NewGrant, Operations},
    id::{ConnectionId, GrantId},
    on_each_db,
    principal::{Actor, Delivery},
    provider::{Catalogue, pattern::PathPattern},
    reach::{self, Subject},
    token::NewToken,
};

use crate::{
    deliver::Yard,
    support::{House, both},
    town::Town,
};

const OPERATOR: Actor = Actor::Operator;
const GENERAL: Request<'static> = Request { delivery: Delivery::Proxy, operation: None, unattended: false };

fn operations(texts: &[&str]) -> Option<Operations> {
    Some(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<PathPattern>>().into())
}

on_each_db! {
    /// T-097, T-262.
    async fn a_denial_beats_and_an_ask_comes_before_what_is_allowed(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (_, token) = house.token(&agent, None).await;
        let given = |effect| NewGrant { effect, ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) };
        let asked = async || house.ask(&token, &connection).await.unwrap();
        house.grant_with(given(Effect::Allow)).await;
        assert_eq!(asked().await.effect, Effect::Allow);
        let asks = house.grant_with(given(Effect::Ask)).await;
        let answer = asked().await;
        assert_eq!((answer.effect, answer.code, answer.grant), (Effect::Ask, Some(Code::ApprovalRequired), Some(asks.clone())));
        house.grant_with(given(Effect::Deny)).await;
        let answer = asked().await;
        assert_eq!((answer.effect, answer.code, answer.reasons[0].fact), (Effect::Deny, Some(Code::GrantDenied), "denied"));
        let facts = house.authority.facts(&token, &connection).await.unwrap().unwrap();
        assert!(decide_approved(&facts, &GENERAL, &asks, house.base.clock.now()).denied());
    }

    async fn a_denial_alone_tells_nothing_of_the_connection(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (_, token) = house.token(&agent, None).await;
        house.grant_with(NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&agent, &connection, ForWhom::Anyone) }).await;
        assert_eq!(house.ask(&token, &connection).await.unwrap().code, Some(Code::NotFound));
    }

    /// T-096, T-100.
    async fn a_denial_of_an_operation_denies_every_spelling_of_it_and_the_token(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (_, token) = house.token(&agent, None).await;
        house.grant_with(NewGrant { delivery: both(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        house.grant_with(NewGrant {
            effect: Effect::Deny,
            delivery: BTreeSet::new(),
            operations: operations(&["DELETE /posts/*"]),
            ..NewGrant::proxy(&agent, &connection, ForWhom::Anyone)
        }).await;
        let ask = async |method: http::Method, path: &str| {
            let operation = Some((&method, "api.lab.example", path.as_bytes()));
            house.ask_for(&token, &connection, &Request { operation, ..GENERAL }).await.unwrap().allowed()
        };
        for path in ["/posts/1", "/posts/1/", "//posts/1", "/POSTS/1", "/posts%2f1", "/x/../posts/1", "/posts/1;a=b"] {
            assert!(!ask(http::Method::DELETE, path).await, "{path}");
        }
        assert!(ask(http::Method::GET, "/posts/1").await && ask(http::Method::DELETE, "/drafts/1").await);
        assert!(house.ask(&token, &connection).await.unwrap().allowed());
        let reveal = Request { delivery: Delivery::Reveal, ..GENERAL };
        assert_eq!(house.ask_for(&token, &connection, &reveal).await.unwrap().reasons[0].fact, "denied");
    }

    async fn what_would_mean_nothing_beside_a_denial_is_refused(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let deny = || NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&agent, &connection, ForWhom::Anyone) };
        let scopes = Some(["read".to_owned()].into());
        for new in [
            NewGrant { max_uses: Some(1), ..deny() },
            NewGrant { rate: Some("1/s".parse().unwrap()), ..deny() },
            NewGrant { scopes, ..deny() },
            NewGrant::proxy(&agent, &connection, ForWhom::Anyone),
            NewGrant { effect: Effect::Ask, ..NewGrant::proxy(&agent, &connection, ForWhom::Anyone) },
        ] {
            let error = grant::create(&house.base, &house.site, &OPERATOR, new).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidRequest);
        }
    }

    async fn a_grant_for_a_session_or_a_task_serves_its_tokens_alone(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (session, task) = (Some("night".parse().unwrap()), Some("t-1".parse().unwrap()));
        house.grant_with(NewGrant { session: session.clone(), task: task.clone(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let other = Some("day".parse().unwrap());
        for (session, task, expected) in [
            (None, None, false),
            (session.clone(), None, false),
            (None, task.clone(), false),
            (other, task.clone(), false),
            (session.clone(), task.clone(), true),
        ] {
            let (_, token) = house.token_with(&agent, NewToken { session: session.clone(), task: task.clone(), ..NewToken::default() }).await;
            let answer = house.ask(&token, &connection).await.unwrap();
            assert_eq!(answer.allowed(), expected, "{session:?} {task:?}");
            if !expected {
                assert_eq!((answer.code, answer.reasons[0].fact), (Some(Code::GrantDenied), "session"));
            }
            let who = Who { session, task, ..Who::new(agent.clone(), None) };
            let facts = for_agent(&db, &house.site, &who, &connection).await.unwrap().unwrap();
            assert_eq!(valetkey::decision::decide(&facts, &GENERAL, house.base.clock.now()), answer);
        }
    }

    async fn a_grant_is_read_as_it_was_given(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("user:alice").await;
        let catalogue = Catalogue::embedded().unwrap();
        let github = catalogue.get(&"github".parse().unwrap()).unwrap();
        let new = NewGrant {
            effect: Effect::Ask,
            session: Some("night".parse().unwrap()),
            task: Some("t-1".parse().unwrap()),
            operations: Some(Operations::read(github, &["issue.create", "GET /user"]).unwrap()),
            rate: Some("100/1h".parse().unwrap()),
            max_uses: Some(7),
            ..NewGrant::proxy(&agent, &connection, ForWhom::People(["alice".parse().unwrap()].into()))
        };
        let id = house.grant_with(new.clone()).await;
        let read = grant::get(&db, &house.site, &id).await.unwrap().unwrap();
        assert_eq!((read.effect, &read.for_whom, &read.session, &read.task), (new.effect, &new.for_whom, &new.session, &new.task));
        assert_eq!((&read.operations, read.rate, read.max_uses), (&new.operations, new.rate, new.max_uses));
        let listed = grant::list(&db, &house.site, Some(&agent), None).await.unwrap();
        assert_eq!((listed.len(), &listed[0].operations), (1, &new.operations));
    }

    /// Two processes, many callers: together they get what the limit says and no more.
    async fn a_rate_holds_over_replicas(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let rate = "40/1m".parse().unwrap();
        let id = house.grant_with(NewGrant { rate: Some(rate), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let replicas = [Limits::default(), Limits::default()];
        let now = house.base.clock.now();
        let tasks: Vec<_> = (0..60)
            .map(|n| {
                let (limits, db, site, id) = (replicas[n % 2].clone(), db.clone(), house.site.clone(), id.clone());
                tokio::spawn(async move { limits.take(&db, &site, &id, rate, now).await })
            })
            .collect();
        let mut taken = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(()) => taken += 1,
                Err(error) => assert_eq!((error.code(), error.retry_after()), (Code::RateLimited, Some(Duration::from_secs(60)))),
            }
        }
        assert_eq!(taken, 40);
        replicas[0].take(&db, &house.site, &id, rate, now.plus(Duration::from_secs(60))).await.unwrap();
    }

    /// A process that is killed takes the uses of its block along, and gives nobody more.
    async fn a_block_that_nobody_uses_up_is_lost_and_not_given_twice(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let rate = "640/1h".parse().unwrap();
        let id = house.grant_with(NewGrant { rate: Some(rate), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let now = house.base.clock.now();
        let mut taken = 0;
        // Each takes one use of its block of ten, and is gone.
        while Limits::default().take(&db, &house.site, &id, rate, now).await.is_ok() {
            taken += 1;
        }
        assert_eq!(taken, 64);
    }

    /// What is granted for owners is found by the owner, and the rest in order; what is denied, revoked or over is not.
    async fn a_providers_name_means_what_the_agent_might_use_there(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        house.role(&agent, "alice", Role::Operator).await;
        let (alices, bobs) = (house.connection("user:alice").await, house.connection("user:bob").await);
        let (sites, denied) = (house.connection("site").await, house.named_connection("site", "denied").await);
        house.grant(&agent, &alices, ForWhom::Owner).await;
        house.grant(&agent, &bobs, ForWhom::Owner).await;
        house.grant(&agent, &sites, ForWhom::Operators).await;
        house.grant(&agent, &sites, ForWhom::Unattended).await;
        house.grant_with(NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&agent, &denied, ForWhom::Anyone) }).await;
        let taken_back = house.named_connection("site", "back").await;
        let gone = house.grant(&agent, &taken_back, ForWhom::Operators).await;
        grant::revoke(&house.base, &house.site, &OPERATOR, &gone, "test").await.unwrap();
        let (lab, other) = ("lab".parse().unwrap(), "reddit".parse().unwrap());
        let now = house.base.clock.now();
        for (person, expected) in [(Some("alice"), vec![&alices, &sites]), (None, vec![&sites])] {
            let (_, token) = house.token(&agent, person).await;
            let who = Who::new(agent.clone(), person.map(|person| person.parse().unwrap()));
            let mut expected: Vec<ConnectionId> = expected.into_iter().cloned().collect();
            expected.sort();
            let authority = Authority::new(db.clone());
            for of in [Of::Token(token), Of::Agent(house.site.clone(), who)] {
                assert_eq!(*authority.candidates(&of, &lab, 10, now).await.unwrap(), expected, "{of:?}");
                assert_eq!(*authority.candidates(&of, &lab, 1, now).await.unwrap(), expected[..1], "{of:?}");
                assert!(authority.candidates(&of, &other, 10, now).await.unwrap().is_empty());
            }
        }
    }

    /// A hundred are looked at, and what cannot be for the token is not among them.
    async fn a_usable_connection_is_found_behind_any_number_of_others_grants(db: Db) {
        let yard = Yard::new(&db).await;
        let (house, agent) = (&yard.house, &yard.agent);
        house.role(agent, "carol", Role::Operator).await;
        let mut ids = Vec::new();
        for n in 0..121 {
            ids.push(yard.connect("site", &format!("n{n}")).await);
        }
        ids.sort();
        let last = ids.pop().unwrap();
        let soon = house.base.clock.now().plus(Duration::from_secs(60));
        for (n, id) in ids.iter().enumerate() {
            let mut new = NewGrant::proxy(agent, id, ForWhom::Operators);
            match n % 5 {
                0 => new.expires_at = Some(soon),
                1 => new.session = Some("night".parse().unwrap()),
                2 => new.task = Some("post-1".parse().unwrap()),
                3 => new.for_whom = ForWhom::People(["bob".parse().unwrap(), "carolyn".parse().unwrap()].into()),
                _ => new.for_whom = ForWhom::Owner,
            }
            house.grant_with(new).await;
        }
        house.base.clock.advance(Duration::from_secs(60));
        let (lab, carol) = ("lab".parse().unwrap(), Some("carol".parse().unwrap()));
        let (_, token) = house.token(agent, Some("carol")).await;
        let caller = Caller::new(token);
        let authority = Authority::new(db.clone());
        let subjects = [Subject::Token(caller.clone()), Subject::Agent(house.site.clone(), Who::new(agent.clone(), carol))];
        let ways = [Delivery::Proxy];
        let refused = yard.deliverer.resolve(&caller, "lab", Delivery::Proxy).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotConfigured, "none is for her");
        for whom in [ForWhom::Operators, ForWhom::People(["carol".parse().unwrap()].into())] {
            let given = house.grant(agent, &last, whom).await;
            assert_eq!(yard.deliverer.resolve(&caller, "lab", Delivery::Proxy).await.unwrap(), last);
            for subject in &subjects {
                let limits = Limits::default();
                let found = reach::at_provider(&yard.outside, &authority, &limits, subject, &lab, &ways, |_| Ok(true)).await;
                assert_eq!(found.unwrap().map(|(id, decision)| (id, decision.effect)), Some((last.clone(), Effect::Allow)));
            }
            grant::revoke(&house.base, &house.site, &OPERATOR, &given, "test").await.unwrap();
        }
    }

    /// Where more might be meant than are looked at, nobody is told that there is nothing.
    async fn too_many_to_look_at_are_no_plain_no(db: Db) {
        let yard = Yard::new(&db).await;
        let (house, agent) = (&yard.house, &yard.agent);
        for n in 0..101 {
            let id = yard.connect("site", &format!("n{n}")).await;
            house.grant(agent, &id, ForWhom::Unattended).await;
        }
        let caller = yard.caller(None).await;
        let refused = yard.deliverer.resolve(&caller, "lab", Delivery::Reveal).await.unwrap_err();
        assert_eq!((refused.code(), &refused.extra().unwrap()["choices"]), (Code::Ambiguous, &serde_json::json!([])));
        assert!(refused.message().contains("there are more"), "{refused}");
        let (authority, lab) = (Authority::new(db.clone()), "lab".parse().unwrap());
        let subjects = [Subject::Token(caller), Subject::Agent(house.site.clone(), Who::new(agent.clone(), None))];
        for subject in &subjects {
            let (limits, ways) = (Limits::default(), [Delivery::Reveal]);
            let found = reach::at_provider(&yard.outside, &authority, &limits, subject, &lab, &ways, |_| Ok(true)).await;
            assert_eq!(found.unwrap_err().code(), Code::Ambiguous);
        }
    }

    /// Explaining, listing and evaluating are the one decision.
    async fn reach_and_who_can_list_what_the_decision_allows(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let house = House::at(replica.outside.base.clone(), replica.site.clone());
        let (agent, other) = (house.agent("a", None).await, house.agent("b", Some("bob")).await);
        house.role(&agent, "alice", Role::Operator).await;
        house.role(&agent, "carol", Role::Operator).await;
        house.role(&agent, "dora", Role::Viewer).await;
        let (alices, sites) = (house.connection("user:alice").await, house.connection("site").await);
        house.grant(&agent, &alices, ForWhom::Owner).await;
        house.grant_with(NewGrant { effect: Effect::Ask, ..NewGrant::proxy(&agent, &sites, ForWhom::Operators) }).await;
        let session = Some("night".parse().unwrap());
        house.grant_with(NewGrant { session, delivery: both(), ..NewGrant::proxy(&agent, &sites, ForWhom::Unattended) }).await;
        house.grant(&other, &sites, ForWhom::Operators).await;
        house.grant_with(NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&other, &sites, ForWhom::Anyone) }).await;

        let shown = |ways: &[reach::Way]| -> BTreeSet<String> {
            ways.iter().map(|way| {
                let text = |name: Option<String>| name.unwrap_or_else(|| "-".to_owned());
                let person = text(way.who.person.as_ref().map(ToString::to_string));
                let session = text(way.who.session.as_ref().map(ToString::to_string));
                format!("{} {person} {session} {} {}", way.connection.owner, way.proxy.effect.as_str(), way.reveal.effect.as_str())
            }).collect()
        };
        let (ways, next) = reach::reach(&replica.outside, &house.site, &agent, None, 10).await.unwrap();
        let expected = ["site - night allow allow", "site alice - ask deny", "site carol - ask deny", "user:alice alice - allow deny"];
        assert_eq!((shown(&ways), next), (expected.map(str::to_owned).into(), None));
        let (ways, _) = reach::who_can(&replica.outside, &house.site, &sites, None, 10).await.unwrap();
        assert_eq!(shown(&ways), expected[..3].iter().map(|way| (*way).to_owned()).collect());
        // In pages of one, each connection comes once.
        let (first, next) = reach::reach(&replica.outside, &house.site, &agent, None, 1).await.unwrap();
        let (second, end) = reach::reach(&replica.outside, &house.site, &agent, next.as_ref(), 1).await.unwrap();
        let (none, over) = reach::reach(&replica.outside, &house.site, &agent, end.as_ref(), 1).await.unwrap();
        assert_eq!((first.len() + second.len(), none.len(), over), (4, 0, None));
        assert_eq!(reach::reach(&replica.outside, &house.site, &"nobody".parse().unwrap(), None, 1).await.unwrap_err().code(), Code::NotFound);
    }

    async fn a_provider_is_answered_for_by_a_connection_that_can_serve(db: Db) {
        let town = Town::new().await;
        let replica = town.replica(&db).await;
        let house = House::at(replica.outside.base.clone(), replica.site.clone());
        let agent = house.agent("a", None).await;
        let sites = house.connection("site").await;
        let (authority, lab) = (Authority::new(db.clone()), "lab".parse().unwrap());
        let (_, token) = house.token(&agent, None).await;
        let subjects = [
            Subject::Token(Caller::new(token)),
            Subject::Agent(house.site.clone(), Who::new(agent.clone(), None)),
        ];
        let ask = async |subject: &Subject, deliveries: &[Delivery]| {
            let found = reach::at_provider(&replica.outside, &authority, &Limits::default(), subject, &lab, deliveries, |_| Ok(true)).await.unwrap();
            found.map(|(id, decision)| (id, decision.effect))
        };
        let both_ways = [Delivery::Proxy, Delivery::Reveal];
        for subject in &subjects {
            assert_eq!(ask(subject, &both_ways).await, None);
        }
        let given: GrantId = house.grant(&agent, &sites, ForWhom::Unattended).await;
        for subject in &subjects {
            assert_eq!(ask(subject, &both_ways).await, Some((sites.clone(), Effect::Allow)));
            assert_eq!(ask(subject, &[Delivery::Reveal]).await, None);
            assert_eq!(reach::at_provider(&replica.outside, &authority, &Limits::default(), subject, &lab, &both_ways, |_| Ok(false)).await.unwrap(), None);
        }
        let asks = house.grant_with(NewGrant { effect: Effect::Ask, ..NewGrant::proxy(&agent, &sites, ForWhom::Unattended) }).await;
        for subject in &subjects {
            assert_eq!(ask(subject, &both_ways).await, Some((sites.clone(), Effect::Ask)));
        }
        for id in [asks, given] {
            grant::revoke(&house.base, &house.site, &OPERATOR, &id, "test").await.unwrap();
        }
        for subject in &subjects {
            assert_eq!(ask(subject, &both_ways).await, None, "the cache does not outlive the revocation");
        }
    }
}
