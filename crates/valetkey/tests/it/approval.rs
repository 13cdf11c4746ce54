//! Calls that a grant asks about: held, answered by a person, and made once (decisions 2, 3 and 9), against a provider that
//! really answers.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use provider_lab::{At, Fault, Rule};
use serde_json::Value;
use valetkey::{
    Code, Error, Result,
    agent::{self, Role},
    approval::{self, Approval, Decider, Status, Which},
    audit,
    base::Base,
    db::Db,
    deliver::Caller,
    grant::{self, Effect, ForWhom, NewGrant},
    id::{AgentId, ApprovalId, ConnectionId, GrantId, SiteId, TokenId, UserId},
    on, on_each_db,
    principal::Actor,
    revoke::{self, UpstreamWish},
    site,
    token::{self, NewToken, TokenHash},
    webhook::{self, NewWebhook},
};

use crate::{deliver::Yard, support::both};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

/// A yard in which a grant asks about whatever Alice's agent does with her account.
pub(crate) struct Asking {
    pub(crate) yard: Yard,
    pub(crate) caller: Caller,
    pub(crate) grant: GrantId,
    token: TokenId,
}

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: &'static str,
}

/// The call that most of these tests are about.
pub(crate) fn usual() -> Made {
    Made {
        method: Method::POST,
        path: "/echo?to=canary",
        headers: vec![("content-type", "application/json"), ("x-order", "1")],
        body: r#"{"say":"canary"}"#,
    }
}

impl Made {
    pub(crate) fn header_map(&self, approval: Option<&ApprovalId>) -> HeaderMap {
        let pair =
            |&(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut headers: HeaderMap = self.headers.iter().map(pair).collect();
        if let Some(id) = approval {
            headers.insert("valet-approval", id.as_str().parse().unwrap());
        }
        headers
    }
}

impl Asking {
    pub(crate) async fn new(db: &Db) -> Self {
        Self::over(Yard::new(db).await).await
    }

    async fn over(yard: Yard) -> Self {
        let grant = yard.house.grant_with(asks(&yard.agent, &yard.connection, ForWhom::Owner)).await;
        let (token, hash) = yard.house.token(&yard.agent, Some("alice")).await;
        Self { yard, caller: Caller::new(hash), grant, token }
    }

    /// The same with another agent, account, grant and token.
    async fn again(self, name: &str) -> Self {
        let mut yard = self.yard;
        yard.agent = yard.house.agent(name, Some("alice")).await;
        yard.connection = yard.connect("user:alice", name).await;
        Self::over(yard).await
    }

    pub(crate) fn base(&self) -> &Base {
        &self.yard.house.base
    }

    pub(crate) fn site(&self) -> &SiteId {
        &self.yard.house.site
    }

    async fn send(&self, caller: &Caller, made: &Made, approval: Option<&ApprovalId>) -> Result<StatusCode> {
        let body = Bytes::from_static(made.body.as_bytes());
        let answer = self.yard.call(caller, made.method.clone(), made.path, made.header_map(approval), body).await?;
        Ok(answer.status())
    }

    async fn make(&self, approval: Option<&ApprovalId>) -> Result<StatusCode> {
        self.send(&self.caller, &usual(), approval).await
    }

    /// Makes the call, which is held.
    pub(crate) async fn hold(&self) -> ApprovalId {
        held(&self.make(None).await.unwrap_err())
    }

    pub(crate) async fn approve(&self, id: &ApprovalId) -> Result<Approval> {
        approval::approve(self.base(), self.site(), &person("alice"), id).await
    }

    /// Makes the call, which is held, and Alice says yes.
    pub(crate) async fn approved(&self) -> ApprovalId {
        let id = self.hold().await;
        self.approve(&id).await.unwrap();
        id
    }

    pub(crate) async fn status(&self, id: &ApprovalId) -> Status {
        approval::get(&self.base().db, self.site(), id).await.unwrap().unwrap().status(self.base().clock.now())
    }

    pub(crate) async fn all(&self) -> Vec<Approval> {
        approval::page(self.base(), self.site(), &Which::default(), None, 100).await.unwrap()
    }

    /// How many calls reached the provider.
    pub(crate) fn sent(&self) -> u64 {
        self.yard.lab.control().requests("api")
    }
}

pub(crate) fn asks(agent: &AgentId, connection: &ConnectionId, whom: ForWhom) -> NewGrant {
    NewGrant { effect: Effect::Ask, delivery: both(), ..NewGrant::proxy(agent, connection, whom) }
}

pub(crate) fn person(id: &str) -> Decider {
    Decider { actor: Actor::User(id.parse().unwrap()), administers: false }
}

fn people(ids: &[&str]) -> ForWhom {
    ForWhom::People(ids.iter().map(|id| id.parse().unwrap()).collect::<BTreeSet<UserId>>())
}

/// An endpoint that is told everything. Nobody sends anything to it.
pub(crate) async fn endpoint(yard: &Yard) {
    let url = "https://example.com/hook".parse().unwrap();
    let new = NewWebhook { url, title: String::new(), events: None };
    webhook::create(&yard.outside, &yard.house.site, &Actor::Operator, new).await.unwrap();
}

/// What is queued for endpoints, in its order: the type and the body of each.
pub(crate) async fn told(db: &Db) -> Vec<(String, Value)> {
    let rows: Vec<(String, String)> =
        on!(db, |c| sqlx::query_as("SELECT type, body FROM webhook_messages ORDER BY id").fetch_all(c).await.unwrap());
    rows.into_iter().map(|(kind, body)| (kind, serde_json::from_str(&body).unwrap())).collect()
}

/// The approval of a call that waits.
#[track_caller]
pub(crate) fn held(error: &Error) -> ApprovalId {
    assert_eq!(error.code(), Code::ApprovalRequired, "{error}");
    error.extra().unwrap()["approval"].as_str().unwrap().parse().unwrap()
}

#[track_caller]
pub(crate) fn code<T>(outcome: Result<T>) -> Code {
    match outcome {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error.code(),
    }
}

on_each_db! {
    /// T-251, T-252, T-261.
    async fn a_call_that_a_grant_asks_about_is_held_and_not_sent(db: Db) {
        let asking = Asking::new(&db).await;
        let error = asking.make(None).await.unwrap_err();
        let id = held(&error);
        let told = error.extra().unwrap();
        assert_eq!(told["status"], "pending");
        assert_eq!(told["poll"], format!("/v1/approvals/{id}"));
        assert_eq!(told["page"], format!("https://keys.example.test/approvals/{id}?site=default"));
        assert!(told["expires_at"].is_string());
        assert_eq!(asking.sent(), 0);
        let all = asking.all().await;
        let [waiting] = &all[..] else { panic!("one call waits") };
        assert_eq!((&waiting.id, waiting.status(asking.base().clock.now())), (&id, Status::Pending));
        assert_eq!((&waiting.grant, waiting.person.as_ref().map(UserId::as_str)), (&asking.grant, Some("alice")));
        assert_eq!((waiting.summary.method.as_str(), waiting.summary.path.as_str()), ("POST", "/api/echo"));
        assert_eq!((&waiting.summary.query[..], waiting.summary.body), (&["to".to_owned()][..], 16));
    }

    /// T-274.
    async fn neither_a_body_nor_a_value_of_the_query_is_kept_anywhere(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.approved().await;
        asking.make(Some(&id)).await.unwrap();
        assert!(!format!("{:?}", asking.all().await).contains("canary"));
        for row in asking.yard.audited().await {
            assert!(!row.facts.contains("canary"), "{}", row.facts);
        }
    }

    /// T-272.
    async fn an_approved_call_is_made_once_and_a_replay_is_refused(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.approved().await;
        assert_eq!(asking.make(Some(&id)).await.unwrap(), StatusCode::OK);
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalUsed);
        assert_eq!((asking.sent(), asking.status(&id).await), (1, Status::Used));
        // The next call of the same kind is a question of its own.
        assert_ne!(asking.hold().await, id);
    }

    async fn the_same_call_again_is_the_same_question(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.hold().await;
        assert_eq!(asking.hold().await, id);
        assert_eq!(held(&asking.make(Some(&id)).await.unwrap_err()), id, "named too early, it still waits");
        asking.approve(&id).await.unwrap();
        let error = asking.make(None).await.unwrap_err();
        assert_eq!((held(&error), error.extra().unwrap()["status"].as_str()), (id, Some("approved")), "a yes is told");
        assert_eq!((asking.sent(), asking.all().await.len()), (0, 1));
    }

    async fn a_no_stands_as_long_as_the_question_would_have(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.hold().await;
        approval::refuse(asking.base(), asking.site(), &person("alice"), &id, "not on a Sunday").await.unwrap();
        for approval in [None, Some(&id)] {
            let error = asking.make(approval).await.unwrap_err();
            assert_eq!(error.code(), Code::ApprovalRefused);
            assert!(error.message().contains("not on a Sunday"));
        }
        assert_eq!(code(asking.approve(&id).await), Code::Conflict, "a no is not taken back");
        asking.base().clock.advance(DAY);
        assert_ne!(asking.hold().await, id);
        assert_eq!(asking.sent(), 0);
    }

    /// T-270.
    async fn a_call_that_differs_in_anything_is_not_carried(db: Db) {
        let mut asking = Asking::new(&db).await;
        let id = asking.approved().await;
        let with = |name, value| {
            let mut made = usual();
            made.headers.push((name, value));
            made
        };
        for other in [
            Made { method: Method::PUT, ..usual() },
            Made { path: "/echo?to=other", ..usual() },
            Made { path: "/echo?to=canary&cc=other", ..usual() },
            Made { path: "/echo", ..usual() },
            Made { path: "/echo/?to=canary", ..usual() },
            Made { body: r#"{"say":"another"}"#, ..usual() },
            Made { body: "", ..usual() },
            Made { headers: vec![("content-type", "text/plain"), ("x-order", "1")], ..usual() },
            Made { headers: vec![("content-type", "application/json"), ("x-order", "2")], ..usual() },
            with("x-also", "1"),
            with("valet-slot", "page/1"),
        ] {
            assert_eq!(code(asking.send(&asking.caller, &other, Some(&id)).await), Code::ApprovalMismatch, "{other:?}");
        }
        let own = asking.yard.connection.clone();
        asking.yard.connection = asking.yard.connect("user:alice", "work").await;
        asking.yard.house.grant_with(asks(&asking.yard.agent, &asking.yard.connection, ForWhom::Owner)).await;
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalMismatch, "another connection");
        asking.yard.connection = own;
        assert_eq!((asking.sent(), asking.status(&id).await), (0, Status::Approved));
        // What says nothing of what is done may differ, and the approval is still there for its call.
        assert_eq!(asking.send(&asking.caller, &with("user-agent", "another/2"), Some(&id)).await.unwrap(), StatusCode::OK);
    }

    /// T-271.
    async fn an_approval_serves_nobody_but_its_agent_and_its_person(db: Db) {
        let mut asking = Asking::new(&db).await;
        let (house, agent) = (&asking.yard.house, asking.yard.agent.clone());
        house.role(&agent, "carol", Role::Operator).await;
        grant::revoke(asking.base(), asking.site(), &Actor::Operator, &asking.grant, "another in its place").await.unwrap();
        house.grant_with(asks(&agent, &asking.yard.connection, people(&["alice", "carol"]))).await;
        let id = asking.approved().await;
        let carol = asking.yard.caller(Some("carol")).await;
        assert_eq!(code(asking.send(&carol, &usual(), Some(&id)).await), Code::ApprovalMismatch);

        let other = asking.yard.house.agent("b", Some("alice")).await;
        asking.yard.house.grant_with(asks(&other, &asking.yard.connection, ForWhom::Owner)).await;
        asking.yard.agent = other;
        let others = asking.yard.caller(Some("alice")).await;
        assert_eq!(code(asking.send(&others, &usual(), Some(&id)).await), Code::NotFound);
        assert!(approval::of_agent(&db, asking.site(), &id, &asking.yard.agent, None).await.unwrap().is_none());
        assert_eq!(asking.sent(), 0);
    }

    /// T-268.
    async fn another_sites_approval_is_not_there(db: Db) {
        let mut asking = Asking::new(&db).await;
        let id = asking.approved().await;
        let elsewhere: SiteId = "elsewhere".parse().unwrap();
        site::create(asking.base(), &Actor::Operator, &elsewhere, "Elsewhere").await.unwrap();
        asking.yard.house.site = elsewhere;
        let asking = asking.again("b").await;
        assert_eq!(code(asking.make(Some(&id)).await), Code::NotFound);
        assert_eq!(code(asking.approve(&id).await), Code::NotFound);
        assert!(asking.all().await.is_empty());
        assert_eq!(asking.sent(), 0);
    }

    /// T-266.
    async fn nobody_answers_their_own_request(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.hold().await;
        // The agent, however it is called: with its token, with its person, as background work.
        let by_token = Actor::Agent { agent: asking.yard.agent.clone(), token: asking.token.clone(), user: Some("alice".parse().unwrap()) };
        for actor in [by_token, Actor::System] {
            let by = Decider { actor, administers: true };
            assert_eq!(code(approval::approve(asking.base(), asking.site(), &by, &id).await), Code::Forbidden);
        }
        // Carol has the agent act with an account that is not hers: whoever administers says yes, and not in Carol's name.
        let mut asking = asking;
        asking.yard.connection = asking.yard.connect("site", "").await;
        let house = &asking.yard.house;
        house.role(&asking.yard.agent, "carol", Role::Admin).await;
        house.grant_with(asks(&asking.yard.agent, &asking.yard.connection, ForWhom::Operators)).await;
        let carol = asking.yard.caller(Some("carol")).await;
        let id = held(&asking.send(&carol, &usual(), None).await.unwrap_err());
        let administers = |user: &str| Decider { actor: Actor::User(user.parse().unwrap()), administers: true };
        for by in [person("carol"), person("alice"), administers("carol")] {
            assert_eq!(code(approval::approve(asking.base(), asking.site(), &by, &id).await), Code::Forbidden, "{by:?}");
        }
        assert_eq!(asking.status(&id).await, Status::Pending);
        approval::approve(asking.base(), asking.site(), &administers("dora"), &id).await.unwrap();
        assert_eq!(asking.send(&carol, &usual(), Some(&id)).await.unwrap(), StatusCode::OK);
    }

    /// T-266: Whose token it is counts, not whom a call says it is made for.
    async fn whoever_is_behind_a_token_is_no_second_pair_of_eyes(db: Db) {
        let mut asking = Asking::new(&db).await;
        asking.yard.connection = asking.yard.connect("site", "").await;
        let (house, agent) = (&asking.yard.house, &asking.yard.agent);
        house.role(agent, "carol", Role::Operator).await;
        house.grant_with(asks(agent, &asking.yard.connection, ForWhom::Unattended)).await;
        let carol = Actor::User("carol".parse().unwrap());
        let (_, minted) = token::mint(&house.base, &house.site, &carol, agent, NewToken::default()).await.unwrap();
        let minted = Caller::new(TokenHash::of_presented(minted.expose()).unwrap());
        let given_up = Caller { unattended: true, ..asking.yard.caller(Some("carol")).await };
        let administers = |user: &str| Decider { actor: Actor::User(user.parse().unwrap()), administers: true };
        for caller in [minted, given_up] {
            let made = Made { path: if caller.unattended { "/echo" } else { "/echo?x=1" }, ..usual() };
            let id = held(&asking.send(&caller, &made, None).await.unwrap_err());
            let by = administers("carol");
            assert_eq!(code(approval::approve(asking.base(), asking.site(), &by, &id).await), Code::Forbidden);
            approval::approve(asking.base(), asking.site(), &administers("dora"), &id).await.unwrap();
            assert_eq!(asking.send(&caller, &made, Some(&id)).await.unwrap(), StatusCode::OK);
        }
    }

    /// An exchange proves a person beside the one who minted the token that is shown. Neither of the two is a second pair of eyes.
    async fn neither_who_is_acted_for_nor_who_minted_the_token_answers(db: Db) {
        let mut asking = Asking::new(&db).await;
        asking.yard.connection = asking.yard.connect("site", "").await;
        let (house, agent) = (&asking.yard.house, &asking.yard.agent);
        for user in ["carol", "mina"] {
            house.role(agent, user, Role::Operator).await;
        }
        house.grant_with(asks(agent, &asking.yard.connection, ForWhom::Operators)).await;
        let caller = asking.yard.caller(Some("carol")).await;
        valetkey::db::testing::execute(&db, "UPDATE agent_tokens SET minter = 'mina' WHERE person = 'carol'").await;
        let id = held(&asking.send(&caller, &usual(), None).await.unwrap_err());
        let administers = |user: &str| Decider { actor: Actor::User(user.parse().unwrap()), administers: true };
        for user in ["carol", "mina"] {
            let refused = approval::approve(asking.base(), asking.site(), &administers(user), &id).await;
            assert_eq!(code(refused), Code::Forbidden, "{user}");
        }
        approval::approve(asking.base(), asking.site(), &administers("dora"), &id).await.unwrap();
        assert_eq!(asking.send(&caller, &usual(), Some(&id)).await.unwrap(), StatusCode::OK);
    }

    /// T-267.
    async fn the_owner_answers_who_may_have_the_agent_act_and_nobody_else(db: Db) {
        let asking = Asking::new(&db).await;
        let mut yard = asking.yard;
        yard.agent = yard.house.agent("bobs", Some("bob")).await;
        yard.house.grant_with(asks(&yard.agent, &yard.connection, ForWhom::Unattended)).await;
        let caller = yard.caller(None).await;
        let asking = Asking { yard, caller, ..asking };
        let id = asking.hold().await;
        // Bob owns the agent and not the account; Alice owns the account and may not have the agent act.
        for by in ["bob", "alice", "mallory"] {
            let by = person(by);
            assert_eq!(code(approval::approve(asking.base(), asking.site(), &by, &id).await), Code::Forbidden);
            assert_eq!(code(approval::refuse(asking.base(), asking.site(), &by, &id, "").await), Code::Forbidden);
        }
        asking.yard.house.role(&asking.yard.agent, "alice", Role::Viewer).await;
        assert_eq!(code(asking.approve(&id).await), Code::Forbidden);
        asking.yard.house.role(&asking.yard.agent, "alice", Role::Operator).await;
        asking.approve(&id).await.unwrap();
        assert_eq!(asking.make(Some(&id)).await.unwrap(), StatusCode::OK);
    }

    /// T-257, T-286.
    async fn what_was_taken_back_after_a_yes_is_not_done(db: Db) {
        let mut asking = Asking::new(&db).await;
        for (what, refused) in [
            ("grant", Code::NotFound),
            ("denied", Code::GrantDenied),
            ("token", Code::Unauthenticated),
            ("agent", Code::Unauthenticated),
            ("connection", Code::NotFound),
        ] {
            let id = asking.approved().await;
            let (base, site, by) = (asking.base(), asking.site(), &Actor::Operator);
            match what {
                "grant" => grant::revoke(base, site, by, &asking.grant, "test").await.unwrap(),
                "denied" => {
                    let new = NewGrant { effect: Effect::Deny, ..NewGrant::proxy(&asking.yard.agent, &asking.yard.connection, ForWhom::Anyone) };
                    asking.yard.house.grant_with(new).await;
                }
                "token" => token::revoke(base, site, by, &asking.token, "test").await.unwrap(),
                "agent" => agent::set_disabled(base, site, by, &asking.yard.agent, true).await.unwrap(),
                _ => {
                    let connection = &asking.yard.connection;
                    revoke::connection(&asking.yard.outside, site, by, connection, "test", UpstreamWish::Skip).await.unwrap();
                }
            }
            assert_eq!(code(asking.make(Some(&id)).await), refused, "{what}");
            assert_eq!((asking.sent(), asking.status(&id).await), (0, Status::Approved), "{what}");
            asking = asking.again(what).await;
        }
        let id = asking.approved().await;
        valetkey::person::set_disabled(asking.base(), asking.site(), &Actor::Operator, &"alice".parse().unwrap(), true).await.unwrap();
        assert_eq!(code(asking.make(Some(&id)).await), Code::Unauthenticated, "the person");
        assert_eq!(asking.sent(), 0);
    }

    /// The yes of somebody who may no longer say it is none; their no was one all the same.
    async fn an_approval_counts_only_while_its_approver_does(db: Db) {
        let asking = Asking::new(&db).await;
        let mut yard = asking.yard;
        yard.agent = yard.house.agent("bobs", Some("bob")).await;
        yard.house.role(&yard.agent, "alice", Role::Operator).await;
        yard.house.grant_with(asks(&yard.agent, &yard.connection, ForWhom::Unattended)).await;
        let caller = yard.caller(None).await;
        let asking = Asking { yard, caller, ..asking };
        let id = asking.approved().await;
        let (base, site, agent, alice) = (asking.base(), asking.site(), &asking.yard.agent, "alice".parse().unwrap());
        agent::remove_role(base, site, &Actor::Operator, agent, &alice).await.unwrap();
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalRefused);
        assert_eq!(asking.sent(), 0);
        asking.yard.house.role(agent, "alice", Role::Operator).await;
        assert_eq!(asking.make(Some(&id)).await.unwrap(), StatusCode::OK);
    }

    /// T-271.
    async fn a_yes_and_a_question_end_with_their_time(db: Db) {
        let asking = Asking::new(&db).await;
        let unanswered = asking.hold().await;
        asking.base().clock.advance(DAY);
        assert_eq!(asking.status(&unanswered).await, Status::Expired);
        assert_eq!(code(asking.approve(&unanswered).await), Code::Conflict);
        assert_eq!(code(asking.make(Some(&unanswered)).await), Code::ApprovalExpired);
        let unused = asking.approved().await;
        assert_ne!(unused, unanswered);
        asking.base().clock.advance(HOUR);
        assert_eq!(code(asking.make(Some(&unused)).await), Code::ApprovalExpired);
        assert_eq!((asking.status(&unused).await, asking.sent()), (Status::Expired, 0));
    }

    async fn a_time_that_ran_out_is_recorded_once(db: Db) {
        let asking = Asking::new(&db).await;
        let used = asking.approved().await;
        asking.make(Some(&used)).await.unwrap();
        asking.hold().await;
        asking.base().clock.advance(DAY);
        let unused = asking.approved().await;
        asking.base().clock.advance(HOUR);
        let waits = held(&asking.send(&asking.caller, &Made { path: "/echo", ..usual() }, None).await.unwrap_err());
        // Two replicas at the same moment.
        let (one, other) = tokio::join!(approval::expire(asking.base()), approval::expire(asking.base()));
        assert_eq!(one.unwrap() + other.unwrap(), 2);
        assert_eq!(approval::expire(asking.base()).await.unwrap(), 0);
        assert_eq!((asking.status(&unused).await, asking.status(&waits).await), (Status::Expired, Status::Pending));
        assert_eq!(code(asking.make(Some(&unused)).await), Code::ApprovalExpired);
        // And the same call can be asked about again.
        assert_ne!(asking.hold().await, unused);
        let audited = asking.yard.audited().await;
        let told: Vec<_> = audited.iter().filter(|row| row.action == "approval.expire").collect();
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|row| row.actor == "system" && row.agent.as_deref() == Some(asking.yard.agent.as_str())));
        assert!(told.iter().any(|row| row.facts.contains(unused.as_str())));
    }

    async fn a_site_is_told_what_is_asked_and_what_is_said_to_it(db: Db) {
        let asking = Asking::new(&db).await;
        endpoint(&asking.yard).await;
        asking.approved().await;
        let refused = held(&asking.send(&asking.caller, &Made { path: "/echo", ..usual() }, None).await.unwrap_err());
        approval::refuse(asking.base(), asking.site(), &person("alice"), &refused, "canary").await.unwrap();
        asking.base().clock.advance(DAY);
        approval::expire(asking.base()).await.unwrap();
        let told = told(&db).await;
        let said: Vec<_> = told.iter().map(|(kind, body)| (kind.as_str(), body["data"]["answer"].as_str())).collect();
        let expected = [
            ("approval.requested", None),
            ("approval.decided", Some("approved")),
            ("approval.requested", None),
            ("approval.decided", Some("refused")),
            ("approval.expired", None),
        ];
        assert_eq!(said, expected);
        assert_eq!(told[4].1["data"]["approval"], told[0].1["data"]["approval"]);
        assert!(told.iter().all(|(_, body)| !body.to_string().contains("canary")), "{told:?}");
    }

    /// T-272: As after a process that died between taking the approval and sending the call.
    async fn an_approval_that_was_taken_and_not_sent_stays_used(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.approved().await;
        let found = approval::get(&db, asking.site(), &id).await.unwrap().unwrap();
        assert!(approval::take(asking.base(), asking.site(), &Actor::System, &found, false).await.unwrap());
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalUsed);
        assert_eq!(asking.sent(), 0);
    }

    async fn a_call_whose_answer_was_lost_is_not_made_again(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.approved().await;
        asking.yard.lab.control().misbehave(Rule::once(At::Api, Fault::LoseResponse));
        assert!(asking.make(Some(&id)).await.is_err());
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalUsed);
        assert_eq!(asking.sent(), 1);
    }

    async fn a_body_that_is_too_large_to_compare_is_refused(db: Db) {
        let asking = Asking::new(&db).await;
        let post = async |length: usize| {
            let body = Bytes::from(vec![b'x'; length]);
            asking.yard.call(&asking.caller, Method::POST, "/echo", HeaderMap::new(), body).await.map(|answer| answer.status())
        };
        assert_eq!(code(post((1 << 20) + 1).await), Code::PayloadTooLarge);
        assert!(asking.all().await.is_empty());
        held(&post(1 << 20).await.unwrap_err());
        assert_eq!(asking.sent(), 0);
    }

    async fn an_agent_cannot_bury_people_under_questions(db: Db) {
        let asking = Asking::new(&db).await;
        let ask = async |n: usize| asking.yard.get(&asking.caller, &format!("/posts/{n}")).await.map(|answer| answer.status());
        for n in 0..50 {
            held(&ask(n).await.unwrap_err());
        }
        assert_eq!(code(ask(50).await), Code::RateLimited);
        held(&ask(49).await.unwrap_err());
        let first = asking.all().await.remove(0).id;
        approval::refuse(asking.base(), asking.site(), &person("alice"), &first, "").await.unwrap();
        held(&ask(50).await.unwrap_err());
    }

    async fn a_reveal_is_held_and_handed_out_once_too(db: Db) {
        let asking = Asking::new(&db).await;
        let reveal = async |approval: Option<&ApprovalId>| {
            asking.yard.deliverer.reveal_approved(&asking.caller, &asking.yard.connection, None, None, approval).await
        };
        let id = held(&reveal(None).await.unwrap_err());
        assert_eq!(code(reveal(Some(&id)).await), Code::ApprovalRequired);
        asking.approve(&id).await.unwrap();
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalMismatch, "it is for no call");
        let revealed = reveal(Some(&id)).await.unwrap();
        assert_eq!(revealed.secrets.expose()["access_token"], asking.yard.access_token.as_str());
        assert_eq!(code(reveal(Some(&id)).await), Code::ApprovalUsed);
    }

    async fn an_approval_is_for_the_grant_that_asked(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.approved().await;
        asking.yard.house.grant_with(asks(&asking.yard.agent, &asking.yard.connection, ForWhom::Owner)).await;
        grant::revoke(asking.base(), asking.site(), &Actor::Operator, &asking.grant, "test").await.unwrap();
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalMismatch);
        assert_ne!(asking.hold().await, id);
        assert_eq!(asking.sent(), 0);
    }

    async fn a_use_that_names_an_approval_is_that_approvals_or_none(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.hold().await;
        grant::revoke(asking.base(), asking.site(), &Actor::Operator, &asking.grant, "test").await.unwrap();
        asking.yard.house.grant(&asking.yard.agent, &asking.yard.connection, ForWhom::Owner).await;
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalMismatch);
        assert_eq!(asking.make(None).await.unwrap(), StatusCode::OK);
    }

    async fn a_refused_approval_costs_no_use_of_a_counted_grant(db: Db) {
        let asking = Asking::new(&db).await;
        let grant = asking.counted(2).await;
        let id = asking.approved().await;
        asking.make(Some(&id)).await.unwrap();
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalUsed);
        assert_eq!(grant::get(&db, asking.site(), &grant).await.unwrap().unwrap().uses, 1);
    }

    async fn an_approved_stream_goes_on_and_ends_with_its_grant(db: Db) {
        let asking = Asking::new(&db).await;
        let get = |path: &'static str| Made { method: Method::GET, path, headers: Vec::new(), body: "" };
        let open = async |made: &Made| {
            let id = held(&asking.send(&asking.caller, made, None).await.unwrap_err());
            asking.approve(&id).await.unwrap();
            let answer = asking.yard.call(&asking.caller, Method::GET, made.path, made.header_map(Some(&id)), Bytes::new()).await;
            answer.unwrap().into_body()
        };
        // Longer than the look that is taken each second.
        let whole = open(&get("/stream?ms=50&n=40")).await.collect().await;
        assert!(whole.is_ok(), "{:?}", whole.err());
        let mut cut = open(&get("/stream?ms=50&n=400")).await;
        assert!(cut.frame().await.unwrap().is_ok());
        grant::revoke(asking.base(), asking.site(), &Actor::Operator, &asking.grant, "test").await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(3), async {
            while let Some(frame) = cut.frame().await {
                if let Err(error) = frame {
                    return Some(error.code());
                }
            }
            None
        });
        assert_eq!(ended.await.expect("it goes on"), Some(Code::GrantDenied));
    }

    /// T-253.
    async fn each_step_leaves_a_row_in_the_audit(db: Db) {
        let asking = Asking::new(&db).await;
        let id = asking.approved().await;
        asking.make(Some(&id)).await.unwrap();
        assert_eq!(code(asking.make(Some(&id)).await), Code::ApprovalUsed);
        let refused = held(&asking.send(&asking.caller, &Made { path: "/echo", ..usual() }, None).await.unwrap_err());
        approval::refuse(asking.base(), asking.site(), &person("alice"), &refused, "no").await.unwrap();
        let site = asking.site().clone();
        let agent = asking.yard.agent.to_string();
        let rows = asking.yard.audited().await;
        assert_eq!(rows.len(), audit::list(&db, &site, None, 100).await.unwrap().len());
        let mut steps: Vec<_> = rows.iter().filter(|row| row.action.starts_with("approval.")).collect();
        steps.sort_by(|one, other| one.id.cmp(&other.id));
        let told: Vec<_> = steps.iter().map(|row| (row.action.as_str(), row.actor.split(['/', ':']).next().unwrap())).collect();
        let expected = [
            ("approval.hold", "agent"),
            ("approval.approve", "user"),
            ("approval.use", "agent"),
            ("approval.hold", "agent"),
            ("approval.refuse", "user"),
        ];
        assert_eq!(told, expected);
        for row in &steps {
            assert_eq!(row.agent.as_deref(), Some(agent.as_str()));
            assert!(row.facts.contains("\"digest\"") && row.facts.contains("/api/echo"), "{}", row.facts);
        }
        let sent = rows.iter().find(|row| row.action == "connection.proxy").unwrap();
        assert!(sent.facts.contains(id.as_str()), "{}", sent.facts);
        let replay = rows.iter().find(|row| row.outcome == "denied" && row.facts.contains("approval_used"));
        assert!(replay.is_some(), "a replay is told in the audit");
    }

    async fn an_erased_persons_calls_are_forgotten_and_nobody_elses(db: Db) {
        let asking = Asking::new(&db).await;
        asking.hold().await;
        let bobs = asking.yard.connect("user:bob", "").await;
        let new = asks(&asking.yard.agent, &bobs, ForWhom::Unattended);
        asking.yard.house.grant_with(new).await;
        let asking = Asking { yard: Yard { connection: bobs, ..asking.yard }, ..asking };
        let unattended = asking.yard.caller(None).await;
        let his = held(&asking.send(&unattended, &usual(), None).await.unwrap_err());
        let mut tx = asking.base().db.begin().await.unwrap();
        approval::forget(&mut tx, asking.site(), &"alice".parse().unwrap()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(asking.all().await.iter().map(|one| &one.id).collect::<Vec<_>>(), [&his]);
        let mut tx = asking.base().db.begin().await.unwrap();
        approval::forget(&mut tx, asking.site(), &"bob".parse().unwrap()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(asking.all().await.is_empty());
    }

    async fn what_ended_long_ago_is_swept_out_and_nothing_else(db: Db) {
        let asking = Asking::new(&db).await;
        let old = asking.hold().await;
        asking.base().clock.advance(DAY * 31 - HOUR);
        let young = asking.hold().await;
        assert_eq!(approval::sweep(asking.base()).await.unwrap(), 0);
        asking.base().clock.advance(HOUR);
        assert_eq!(approval::sweep(asking.base()).await.unwrap(), 1);
        assert!(approval::get(&db, asking.site(), &old).await.unwrap().is_none());
        assert_eq!(asking.status(&young).await, Status::Pending);
    }
}
