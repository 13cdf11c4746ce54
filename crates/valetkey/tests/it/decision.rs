//! Who may use what: tokens, people, roles, grants, and the one function that decides.

use std::time::Duration;

use futures_util::future::join_all;
use valetkey::{
    agent::{self, Role},
    connection,
    db::testing::asked,
    decision::{self, Authority, Request, Who, decide},
    error::Code,
    grant::{self, ForWhom, NewGrant},
    id::{ConnectionId, SiteId},
    on, on_each_db, person,
    principal::{Actor, Delivery},
    provider::pattern::PathPattern,
    token::{self, NewToken, TokenHash},
};

use crate::support::{House, both, ceiling};

const OPERATOR: Actor = Actor::Operator;

on_each_db! {
    /// T-023, T-024, T-200.
    /// A-233.
    async fn a_new_agent_may_do_nothing(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", Some("alice")).await;
        let connection = house.connection("user:alice").await;
        let (_, token) = house.token(&agent, Some("alice")).await;
        assert_eq!(house.ask(&token, &connection).await.unwrap().code, Some(Code::NotFound));
    }

    /// T-219, T-220, T-221.
    /// Alice and Bob both grant agent A; Carol operates A: Carol must not read Alice's mail (decisions 3).
    async fn an_operator_does_not_reach_what_others_granted_for_themselves(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        for user in ["alice", "bob", "carol"] {
            house.role(&agent, user, Role::Operator).await;
        }
        let alices = house.connection("user:alice").await;
        let bobs = house.connection("user:bob").await;
        house.grant(&agent, &alices, ForWhom::Owner).await;
        house.grant(&agent, &bobs, ForWhom::Owner).await;
        let (_, carol) = house.token(&agent, Some("carol")).await;
        let (_, alice) = house.token(&agent, Some("alice")).await;
        let (_, nobody) = house.token(&agent, None).await;
        assert_eq!(house.ask(&carol, &alices).await.unwrap().code, Some(Code::GrantDenied));
        assert_eq!(house.ask(&carol, &bobs).await.unwrap().code, Some(Code::GrantDenied));
        assert_eq!(house.ask(&alice, &bobs).await.unwrap().code, Some(Code::GrantDenied));
        assert_eq!(house.ask(&nobody, &alices).await.unwrap().code, Some(Code::GrantDenied));
        assert!(house.ask(&alice, &alices).await.unwrap().allowed());
    }

    async fn a_grant_for_unattended_use_serves_calls_without_a_person_only(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", Some("alice")).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        let (_, alice) = house.token(&agent, Some("alice")).await;
        let (_, nobody) = house.token(&agent, None).await;
        assert!(house.ask(&nobody, &connection).await.unwrap().allowed());
        assert!(!house.ask(&alice, &connection).await.unwrap().allowed());
        // A call may give up its person.
        let request = Request { delivery: Delivery::Proxy, operation: None, unattended: true };
        assert!(house.ask_for(&alice, &connection, &request).await.unwrap().allowed());
    }

    async fn a_grant_for_operators_needs_the_live_role(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        house.role(&agent, "carol", Role::Operator).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Operators).await;
        let (_, carol) = house.token(&agent, Some("carol")).await;
        assert!(house.ask(&carol, &connection).await.unwrap().allowed());
        house.role(&agent, "carol", Role::Viewer).await;
        assert_eq!(house.ask(&carol, &connection).await.unwrap().code, Some(Code::GrantDenied));
        agent::remove_role(&house.base, &house.site, &OPERATOR, &agent, &"carol".parse().unwrap()).await.unwrap();
        assert_eq!(house.ask(&carol, &connection).await.unwrap().code, Some(Code::GrantDenied));
    }

    /// T-009, T-010.
    async fn every_way_for_a_token_to_be_dead_gives_the_same_code(db: Db) {
        let house = House::new(&db).await;
        let base = &house.base;
        let agent = house.agent("a", Some("alice")).await;
        let connection = house.connection("user:alice").await;
        house.grant(&agent, &connection, ForWhom::Owner).await;
        let dead = async |token: &TokenHash| {
            assert_eq!(house.ask(token, &connection).await.unwrap().code, Some(Code::Unauthenticated));
        };

        let (id, revoked) = house.token(&agent, Some("alice")).await;
        token::revoke(base, &house.site, &OPERATOR, &id, "test").await.unwrap();
        dead(&revoked).await;

        let soon = Some(base.clock.now().plus(Duration::from_secs(60)));
        let new = NewToken { person: Some("alice".parse().unwrap()), expires_at: soon, ..NewToken::default() };
        let (_, expired) = house.token_with(&agent, new).await;
        assert!(house.ask(&expired, &connection).await.unwrap().allowed());
        base.clock.advance(Duration::from_secs(60));
        dead(&expired).await;

        let (id, unreadable) = house.token(&agent, Some("alice")).await;
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("UPDATE agent_tokens SET ceiling = '{\"budget\":1}' WHERE id = $1")
            .bind(id.as_str()).execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        dead(&unreadable).await;

        let (_, fine) = house.token(&agent, Some("alice")).await;
        assert!(house.ask(&fine, &connection).await.unwrap().allowed());
        person::set_disabled(base, &house.site, &OPERATOR, &"alice".parse().unwrap(), true).await.unwrap();
        dead(&fine).await;
        person::set_disabled(base, &house.site, &OPERATOR, &"alice".parse().unwrap(), false).await.unwrap();
        agent::set_disabled(base, &house.site, &OPERATOR, &agent, true).await.unwrap();
        dead(&fine).await;
        agent::set_disabled(base, &house.site, &OPERATOR, &agent, false).await.unwrap();
        assert!(house.ask(&fine, &connection).await.unwrap().allowed());
        agent::delete(base, &house.site, &OPERATOR, &agent).await.unwrap();
        dead(&fine).await;
    }

    async fn removing_a_minters_role_narrows_what_they_minted(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        house.role(&agent, "mina", Role::Admin).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        let mina = Actor::User("mina".parse().unwrap());
        let (_, text) = token::mint(&house.base, &house.site, &mina, &agent, NewToken::default()).await.unwrap();
        let token = TokenHash::of_presented(text.expose()).unwrap();
        assert!(house.ask(&token, &connection).await.unwrap().allowed());
        agent::remove_role(&house.base, &house.site, &OPERATOR, &agent, &"mina".parse().unwrap()).await.unwrap();
        assert_eq!(house.ask(&token, &connection).await.unwrap().code, Some(Code::Unauthenticated));
    }

    async fn a_token_is_not_minted_for_somebody_without_a_role(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let new = NewToken { person: Some("dora".parse().unwrap()), ..NewToken::default() };
        let error = token::mint(&house.base, &house.site, &OPERATOR, &agent, new).await.unwrap_err();
        assert_eq!(error.code(), Code::Forbidden);
    }

    async fn a_grant_of_the_proxy_does_not_reveal(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (_, token) = house.token(&agent, None).await;
        let reveal = Request { delivery: Delivery::Reveal, operation: None, unattended: false };
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        assert_eq!(house.ask_for(&token, &connection, &reveal).await.unwrap().code, Some(Code::GrantDenied));
        let new = NewGrant { delivery: both(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) };
        house.grant_with(new).await;
        assert!(house.ask_for(&token, &connection, &reveal).await.unwrap().allowed());
    }

    /// T-098, T-109.
    async fn a_grant_with_operations_allows_those_alone_and_no_reveal(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (_, token) = house.token(&agent, None).await;
        let operations: Vec<PathPattern> = ["GET /api/posts/*", "POST /api/drafts"].map(|text| text.parse().unwrap()).into();
        let operations = Some(operations.into());
        house.grant_with(NewGrant { operations, delivery: both(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let ask = async |method: http::Method, path: &str| {
            let operation = Some((&method, "api.lab.example", path.as_bytes()));
            house.ask_for(&token, &connection, &Request { delivery: Delivery::Proxy, operation, unattended: false }).await.unwrap().allowed()
        };
        assert!(ask(http::Method::GET, "/api/posts/1").await && ask(http::Method::POST, "/api/drafts").await);
        assert!(!ask(http::Method::POST, "/api/posts/1").await);
        assert!(!ask(http::Method::GET, "/api/posts/1/x").await);
        let reveal = Request { delivery: Delivery::Reveal, operation: None, unattended: false };
        assert!(!house.ask_for(&token, &connection, &reveal).await.unwrap().allowed());
    }

    async fn a_grants_scopes_hold_back_a_token_that_can_do_more(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let (_, token) = house.token(&agent, None).await;
        let scopes = Some(["read".to_owned()].into());
        house.grant_with(NewGrant { scopes, delivery: both(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let reveal = Request { delivery: Delivery::Reveal, operation: None, unattended: false };
        assert_eq!(house.ask_for(&token, &connection, &reveal).await.unwrap().code, Some(Code::GrantDenied));
    }

    /// The proxy cannot narrow a token either: only named operations can.
    async fn a_grants_scopes_are_not_slipped_past_through_the_proxy(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let (_, token) = house.token(&agent, None).await;
        let allowed = async |scopes: &[&str], operations: Option<&str>| {
            let connection = house.named_connection("site", &format!("{scopes:?}{operations:?}")).await;
            let scopes = Some(scopes.iter().map(|scope| (*scope).to_owned()).collect());
            let operations = operations.map(|pattern| vec![pattern.parse::<PathPattern>().unwrap()].into());
            house.grant_with(NewGrant { scopes, operations, ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
            house.ask(&token, &connection).await.unwrap().allowed()
        };
        assert!(!allowed(&["read"], None).await);
        assert!(allowed(&["read"], Some("GET /posts/*")).await);
        assert!(allowed(&["read", "write"], None).await);
    }

    async fn who_lost_their_role_does_not_go_on_by_giving_up_their_person(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        house.role(&agent, "carol", Role::Operator).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        let (_, carol) = house.token(&agent, Some("carol")).await;
        let request = Request { delivery: Delivery::Proxy, operation: None, unattended: true };
        assert!(house.ask_for(&carol, &connection, &request).await.unwrap().allowed());
        house.role(&agent, "carol", Role::Viewer).await;
        assert_eq!(house.ask_for(&carol, &connection, &request).await.unwrap().code, Some(Code::GrantDenied));
    }

    async fn one_unreadable_row_does_not_hide_the_facts_of_others(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let (_, token) = house.token(&agent, None).await;
        let (sound, odd) = (house.named_connection("site", "").await, house.named_connection("site", "odd").await);
        for connection in [&sound, &odd] {
            house.grant(&agent, connection, ForWhom::Unattended).await;
        }
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("UPDATE connections SET hosts = 'no list' WHERE id = $1")
            .bind(odd.as_str()).execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        let pairs = [(token.clone(), odd), (token, sound)];
        let many = Authority::new(db.clone()).facts_of_many(&pairs).await.unwrap();
        assert!(!many.contains_key(&pairs[0]) && many.contains_key(&pairs[1]));
    }

    /// T-018, T-019.
    async fn a_ceiling_narrows_whatever_is_granted(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        house.grant_with(NewGrant { delivery: both(), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        for (json, proxy, reveal) in [
            ("{}", true, true),
            (r#"{"delivery":["proxy"]}"#, true, false),
            (r#"{"connections":[]}"#, false, false),
            (r#"{"providers":["reddit"]}"#, false, false),
            (r#"{"providers":["lab"]}"#, true, true),
            (r#"{"operations":["GET /x"]}"#, true, false),
        ] {
            let (_, token) = house.token_with(&agent, NewToken { ceiling: Some(ceiling(json)), ..NewToken::default() }).await;
            for (delivery, expected) in [(Delivery::Proxy, proxy), (Delivery::Reveal, reveal)] {
                let request = Request { delivery, operation: None, unattended: false };
                assert_eq!(house.ask_for(&token, &connection, &request).await.unwrap().allowed(), expected, "{json} {delivery}");
            }
        }
    }

    /// T-281.
    /// A-238.
    async fn a_revoked_connection_or_grant_yields_nothing_and_does_not_come_back(db: Db) {
        let house = House::new(&db).await;
        let base = &house.base;
        let agent = house.agent("a", Some("alice")).await;
        let connection = house.connection("user:alice").await;
        let grant = house.grant(&agent, &connection, ForWhom::Owner).await;
        let (_, token) = house.token(&agent, Some("alice")).await;
        assert!(house.ask(&token, &connection).await.unwrap().allowed());
        grant::revoke(base, &house.site, &OPERATOR, &grant, "test").await.unwrap();
        assert_eq!(house.ask(&token, &connection).await.unwrap().code, Some(Code::NotFound));

        house.grant(&agent, &connection, ForWhom::Owner).await;
        assert!(house.ask(&token, &connection).await.unwrap().allowed());
        let mut tx = db.begin().await.unwrap();
        assert!(connection::erase(&mut tx, &house.site, &connection, &OPERATOR, "test", base.clock.now()).await.unwrap());
        tx.commit().await.unwrap();
        assert_eq!(house.ask(&token, &connection).await.unwrap().code, Some(Code::NotFound));
        let again = house.connection("user:alice").await;
        assert_ne!(again, connection);
        assert_eq!(house.ask(&token, &again).await.unwrap().code, Some(Code::NotFound));
    }

    async fn a_grant_ends_with_its_grantors_right_to_the_connection(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("user:alice").await;
        house.role(&agent, "alice", Role::Operator).await;
        let grantor = Some("bob".parse().unwrap());
        house.grant_with(NewGrant { grantor, ..NewGrant::proxy(&agent, &connection, ForWhom::Owner) }).await;
        let (_, token) = house.token(&agent, Some("alice")).await;
        assert_eq!(house.ask(&token, &connection).await.unwrap().reasons[0].fact, "grantor");
    }

    async fn an_expired_grant_is_over(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let expires_at = Some(house.base.clock.now().plus(Duration::from_secs(10)));
        house.grant_with(NewGrant { expires_at, ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let (_, token) = house.token(&agent, None).await;
        assert!(house.ask(&token, &connection).await.unwrap().allowed());
        house.base.clock.advance(Duration::from_secs(10));
        assert_eq!(house.ask(&token, &connection).await.unwrap().reasons[0].fact, "grant_expired");
    }

    async fn the_last_use_of_a_counted_grant_is_taken_once(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let grant = house.grant_with(NewGrant { max_uses: Some(5), ..NewGrant::proxy(&agent, &connection, ForWhom::Unattended) }).await;
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (db, site, grant) = (db.clone(), house.site.clone(), grant.clone());
                tokio::spawn(async move { grant::take_use(&db, &site, &grant).await.unwrap() })
            })
            .collect();
        let mut taken = 0;
        for task in tasks {
            taken += i32::from(task.await.unwrap());
        }
        assert_eq!(taken, 5);
        let (_, token) = house.token(&agent, None).await;
        assert_eq!(house.ask(&token, &connection).await.unwrap().reasons[0].fact, "used_up");
    }

    async fn a_grant_without_a_limit_is_used_before_one_that_has_one(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        let proxy = || NewGrant::proxy(&agent, &connection, ForWhom::Unattended);
        house.grant_with(NewGrant { max_uses: Some(1), ..proxy() }).await;
        house.grant_with(NewGrant { rate: Some("1/1h".parse().unwrap()), ..proxy() }).await;
        let (_, token) = house.token(&agent, None).await;
        let limited = house.ask(&token, &connection).await.unwrap();
        assert!(limited.allowed() && (limited.counted || limited.rate.is_some()));
        let free = house.grant_with(proxy()).await;
        let decision = house.ask(&token, &connection).await.unwrap();
        assert_eq!((decision.grant, decision.counted, decision.rate), (Some(free), false, None));
    }

    /// T-249.
    async fn nothing_of_another_site_is_seen(db: Db) {
        let house = House::new(&db).await;
        let other: SiteId = "other".parse().unwrap();
        valetkey::site::create(&house.base, &OPERATOR, &other, "Other").await.unwrap();
        let foreign = House::at(house.base.clone(), other);
        let agent = foreign.agent("a", None).await;
        let (_, token) = foreign.token(&agent, None).await;
        let connection = house.connection("site").await;
        assert_eq!(foreign.ask(&token, &connection).await.unwrap().reasons[0].fact, "no_connection");
        let error = grant::create(&foreign.base, &foreign.site, &OPERATOR, NewGrant::proxy(&agent, &connection, ForWhom::Unattended))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
    }

    async fn explaining_an_agent_gives_what_its_fresh_token_gets(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        house.role(&agent, "carol", Role::Operator).await;
        let site = house.connection("site").await;
        let carols = house.connection("user:carol").await;
        house.grant(&agent, &site, ForWhom::Operators).await;
        house.grant(&agent, &carols, ForWhom::Owner).await;
        let request = Request { delivery: Delivery::Proxy, operation: None, unattended: false };
        for person in [None, Some("carol")] {
            let (_, token) = house.token(&agent, person).await;
            for connection in [&site, &carols, &ConnectionId::new()] {
                let enforced = house.ask_for(&token, connection, &request).await.unwrap();
                let user = person.map(|p| p.parse().unwrap());
                let facts = decision::for_agent(&db, &house.site, &Who::new(agent.clone(), user), connection).await.unwrap().unwrap();
                assert_eq!(decide(&facts, &request, house.base.clock.now()), enforced);
            }
        }
    }

    async fn many_facts_at_once_are_the_same_facts(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let (mut pairs, mut ids) = (Vec::new(), Vec::new());
        for name in ["", "x", "y"] {
            let connection = house.named_connection("site", name).await;
            house.grant(&agent, &connection, ForWhom::Unattended).await;
            house.grant(&agent, &connection, ForWhom::Operators).await;
            let (id, token) = house.token(&agent, None).await;
            ids.push(id);
            pairs.push((token, connection));
        }
        pairs.push((pairs[0].0.clone(), pairs[1].1.clone()));
        ids.push(ids[0].clone());
        let authority = Authority::new(db.clone());
        let many = authority.facts_of_many(&pairs).await.unwrap();
        assert_eq!(many.len(), 4);
        for (pair, id) in pairs.iter().zip(&ids) {
            let one = decision::for_token_id(&db, &house.site, id, &pair.1).await.unwrap().unwrap();
            assert_eq!(format!("{one:?}"), format!("{:?}", many[pair]));
        }
    }

    async fn look_ups_that_meet_each_get_their_own_answer(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let (mut pairs, mut ids) = (Vec::new(), Vec::new());
        for name in ["", "x", "y", "z"] {
            let connection = house.named_connection("site", name).await;
            house.grant(&agent, &connection, ForWhom::Unattended).await;
            let (id, token) = house.token(&agent, None).await;
            ids.push(Some(id));
            pairs.push((token, connection));
        }
        // A connection that is not there is somebody's mistake; a token that is not there is nobody's.
        pairs.push((pairs[0].0.clone(), ConnectionId::new()));
        ids.push(ids[0].clone());
        let unknown = TokenHash::of_presented(&format!("datamachine_x_{}", "0".repeat(64))).unwrap();
        pairs.push((unknown, pairs[0].1.clone()));
        ids.push(None);
        let authority = Authority::new(db.clone());
        let tasks: Vec<_> = (0..300)
            .map(|n| {
                let (authority, pair) = (authority.clone(), pairs[n % pairs.len()].clone());
                tokio::spawn(async move { (authority.facts(&pair.0, &pair.1).await.unwrap(), pair) })
            })
            .collect();
        // Callers who leave take nobody's answer along.
        tasks.iter().step_by(7).for_each(tokio::task::JoinHandle::abort);
        for (n, task) in tasks.into_iter().enumerate() {
            let Ok((facts, pair)) = task.await else { continue };
            let alone = match &ids[n % pairs.len()] {
                Some(id) => decision::for_token_id(&db, &house.site, id, &pair.1).await.unwrap(),
                None => None,
            };
            assert_eq!(format!("{:?}", facts.as_deref()), format!("{:?}", alone.as_ref()), "pair {}", n % pairs.len());
        }
    }

    /// 10,000 unknown tokens a second cost the others less than a third of their throughput: they come together, and are looked up
    /// together, whatever they ask for.
    async fn strangers_who_come_together_are_looked_up_together(db: Db) {
        let house = House::new(&db).await;
        let connection = house.connection("site").await;
        let strangers: Vec<_> = (0..64).map(|n| TokenHash::of_presented(&format!("datamachine_x_{n:064x}")).unwrap()).collect();
        let (provider, now) = ("lab".parse().unwrap(), house.base.clock.now());
        let before = asked(&db).statements;
        let by_id = strangers.iter().map(|token| house.authority.facts(token, &connection));
        assert!(join_all(by_id).await.into_iter().all(|facts| facts.unwrap().is_none()));
        let by_name = strangers.iter().map(|token| decision::usable_at(&house.authority, token, &provider, now));
        assert!(join_all(by_name).await.into_iter().all(|found| found.unwrap().facts.is_empty()));
        let holders = strangers.iter().map(|token| house.authority.holder(token));
        assert!(join_all(holders).await.into_iter().all(|facts| facts.unwrap().is_none()));
        // Three for each of them, if each were looked up alone.
        let statements = asked(&db).statements - before;
        assert!(statements < 32, "{statements} statements for 64 strangers, three times");
    }

    async fn an_unreadable_row_is_an_error_for_whoever_needs_it(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        let (_, token) = house.token(&agent, None).await;
        let mut tx = db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query("UPDATE connections SET hosts = 'no list' WHERE id = $1")
            .bind(connection.as_str()).execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
        assert_eq!(Authority::new(db.clone()).facts(&token, &connection).await.unwrap_err().code(), Code::Internal);
    }

    async fn the_authority_cache_never_outlives_a_revocation(db: Db) {
        let house = House::new(&db).await;
        let agent = house.agent("a", None).await;
        let connection = house.connection("site").await;
        house.grant(&agent, &connection, ForWhom::Unattended).await;
        let authority = Authority::new(db.clone());
        let request = Request { delivery: Delivery::Proxy, operation: None, unattended: false };
        for _ in 0..20 {
            let (id, token) = house.token(&agent, None).await;
            let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            // A reader keeps the cache warm all the time.
            let reader = tokio::spawn({
                let (authority, token, connection, stop) = (authority.clone(), token.clone(), connection.clone(), stop.clone());
                async move {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        authority.facts(&token, &connection).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
            });
            tokio::time::sleep(Duration::from_millis(2)).await;
            token::revoke(&house.base, &house.site, &OPERATOR, &id, "test").await.unwrap();
            let facts = authority.facts(&token, &connection).await.unwrap().unwrap();
            assert!(!decide(&facts, &request, house.base.clock.now()).allowed());
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.await.unwrap();
        }
    }
}
