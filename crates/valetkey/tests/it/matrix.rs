//! The access matrix of decisions: caller x state x action. It is a golden file, so that a changed cell is a decision that
//! somebody reviews. `UPDATE_GOLDEN=1` writes it anew.
//!
//! The world: agent `a` is alice's. On her connection the agent may read posts for its owner and for operators, must ask before
//! it posts, may never delete, and may reveal the token in the session `night`. Each state changes one thing of that world.

use std::{collections::BTreeSet, fmt::Write as _, path::Path, time::Duration};

use http::Method;
use valetkey::{
    Code,
    agent::{self, Role},
    connection,
    db::Db,
    decision::{Effect, Request, decide, decide_approved, decide_running},
    grant::{self, ForWhom, Limits, NewGrant},
    id::{AgentId, ConnectionId, GrantId, SiteId},
    on, on_each_db, person,
    principal::{Actor, Delivery},
    provider::pattern::PathPattern,
    site::{self, Policy},
    token::{self, NewToken, TokenHash},
};

use crate::support::{House, ceiling};

const OPERATOR: Actor = Actor::Operator;
const HOUR: Duration = Duration::from_secs(3600);
/// Who calls: what it is called, for whom its token is, its session, its task, and whether it gives its person up.
type Caller = (&'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>, bool);
const CALLERS: [Caller; 8] = [
    ("owner", Some("alice"), None, None, false),
    ("owner, unattended", Some("alice"), None, None, true),
    ("operator", Some("carol"), None, None, false),
    ("lost their role", Some("dora"), None, None, false),
    ("unattended", None, None, None, false),
    ("owner, session night", Some("alice"), Some("night"), None, false),
    ("session night", None, Some("night"), None, false),
    ("operator, task post-1", Some("carol"), None, Some("post-1"), false),
];
type Action = (&'static str, Delivery, Option<(Method, &'static str)>);
const ACTIONS: [Action; 7] = [
    ("proxy", Delivery::Proxy, None),
    ("read", Delivery::Proxy, Some((Method::GET, "/posts/1"))),
    ("post", Delivery::Proxy, Some((Method::POST, "/posts"))),
    ("post, misspelled", Delivery::Proxy, Some((Method::POST, "/posts/"))),
    ("delete", Delivery::Proxy, Some((Method::DELETE, "/posts/1"))),
    ("something else", Delivery::Proxy, Some((Method::GET, "/settings"))),
    ("reveal", Delivery::Reveal, Some((Method::GET, "/"))),
];

/// Everything that a state may change.
struct World {
    house: House,
    db: Db,
    agent: AgentId,
    connection: ConnectionId,
    reads: Vec<GrantId>,
    asks: Vec<GrantId>,
    denial: GrantId,
    reveals: Vec<GrantId>,
    tokens: Vec<TokenHash>,
    limits: Limits,
    /// The grant under which the calls run, where they do.
    running: Option<GrantId>,
    /// The grant that asks under which a person approved the calls, where somebody did.
    approved: Option<GrantId>,
}

impl World {
    async fn new(db: &Db, house: House, token: impl Fn() -> NewToken) -> Self {
        let agent = house.agent("a", Some("alice")).await;
        house.role(&agent, "carol", Role::Operator).await;
        house.role(&agent, "dora", Role::Operator).await;
        let connection = house.connection("user:alice").await;
        let mut tokens = Vec::new();
        for (_, person, session, task, _) in CALLERS {
            let (person, session) = (person.map(|name| name.parse().unwrap()), session.map(|name| name.parse().unwrap()));
            let task = task.map(|name| name.parse().unwrap());
            tokens.push(house.token_with(&agent, NewToken { person, session, task, ..token() }).await.1);
        }
        house.role(&agent, "dora", Role::Viewer).await;
        let operations = |text: &str| Some(vec![text.parse::<PathPattern>().unwrap()].into());
        let given = |whom| NewGrant::proxy(&agent, &connection, whom);
        let (mut reads, mut asks) = (Vec::new(), Vec::new());
        for whom in [ForWhom::Owner, ForWhom::Operators] {
            reads.push(house.grant_with(NewGrant { operations: operations("GET /posts/*"), ..given(whom.clone()) }).await);
            let ask = NewGrant { effect: Effect::Ask, operations: operations("POST /posts"), ..given(whom) };
            asks.push(house.grant_with(ask).await);
        }
        let denial = NewGrant {
            effect: Effect::Deny,
            operations: operations("DELETE /**"),
            expires_at: Some(house.base.clock.now().plus(HOUR)),
            ..given(ForWhom::Anyone)
        };
        let denial = house.grant_with(denial).await;
        let mut reveals = Vec::new();
        for whom in [ForWhom::Owner, ForWhom::Unattended] {
            let delivery = BTreeSet::from([Delivery::Reveal]);
            let session = Some("night".parse().unwrap());
            reveals.push(house.grant_with(NewGrant { delivery, session, max_uses: Some(1), ..given(whom) }).await);
        }
        let (limits, running, approved) = (Limits::default(), None, None);
        Self { house, db: db.clone(), agent, connection, reads, asks, denial, reveals, tokens, limits, running, approved }
    }

    async fn revoke(&self, grants: &[GrantId]) {
        for id in grants {
            grant::revoke(&self.house.base, &self.house.site, &OPERATOR, id, "test").await.unwrap();
        }
    }

    async fn write(&self, sql: &'static str, id: &str) {
        let mut tx = self.db.begin().await.unwrap();
        on!(&mut tx, |c| sqlx::query(sql).bind(id).execute(c).await.map(|_| ()).unwrap());
        tx.commit().await.unwrap();
    }

    async fn disable(&self, person: &str) {
        person::set_disabled(&self.house.base, &self.house.site, &OPERATOR, &person.parse().unwrap(), true).await.unwrap();
    }

    /// Brings the world into a state.
    async fn enter(&mut self, state: &str) {
        let (base, site) = (&self.house.base, &self.house.site);
        match state {
            "as it is"
            | "the tokens are for the proxy"
            | "the tokens are for GET /posts/1"
            | "the tokens are for another provider" => {}
            "nothing is granted" => {
                for grants in [&self.reads, &self.asks, &self.reveals] {
                    self.revoke(grants).await;
                }
                self.revoke(std::slice::from_ref(&self.denial)).await;
            }
            "only the denial is left" => {
                for grants in [&self.reads, &self.asks, &self.reveals] {
                    self.revoke(grants).await;
                }
            }
            "the denial is taken back" => self.revoke(std::slice::from_ref(&self.denial)).await,
            "the denial has ended" => base.clock.advance(HOUR),
            "everything else is allowed to operators" => {
                self.house.grant(&self.agent, &self.connection, ForWhom::Operators).await;
            }
            "everything may be done in one task" => {
                let task = Some("post-1".parse().unwrap());
                let all = NewGrant::proxy(&self.agent, &self.connection, ForWhom::Operators);
                self.house.grant_with(NewGrant { task, ..all }).await;
            }
            "everything is denied" => {
                let denial = NewGrant {
                    effect: Effect::Deny,
                    delivery: BTreeSet::new(),
                    ..NewGrant::proxy(&self.agent, &self.connection, ForWhom::Anyone)
                };
                self.house.grant_with(denial).await;
            }
            "everything is asked about for the owner" => {
                let asks = NewGrant { effect: Effect::Ask, ..NewGrant::proxy(&self.agent, &self.connection, ForWhom::Owner) };
                self.house.grant_with(asks).await;
            }
            "the reveal is used up" => {
                for id in &self.reveals {
                    assert!(grant::take_use(&self.db, site, id).await.unwrap());
                }
            }
            "a list of people may do everything else" => {
                let people = ["carol".parse().unwrap()].into();
                self.house.grant(&self.agent, &self.connection, ForWhom::People(people)).await;
            }
            "what is granted has ended" => {
                self.write("UPDATE grants SET expires_at = 1 WHERE agent = $1", self.agent.as_str()).await
            }
            "whoever granted may no longer" => {
                self.write("UPDATE grants SET grantor = 'bob' WHERE agent = $1", self.agent.as_str()).await
            }
            "the account can do more than is granted" => {
                self.write("UPDATE grants SET scopes = '[\"read\"]' WHERE agent = $1", self.agent.as_str()).await
            }
            "the rate of the reading is reached" => {
                for id in &self.reads {
                    self.write("UPDATE grants SET rate = '1/1h' WHERE id = $1", id.as_str()).await;
                    self.limits.take(&self.db, site, id, "1/1h".parse().unwrap(), base.clock.now()).await.unwrap();
                }
            }
            // One that was taken back: the call has no other's use.
            "the calls run already" => self.running = Some(GrantId::new()),
            // Under the one that asks the owner's calls.
            "a person approved the calls" => self.approved = Some(self.asks[0].clone()),
            "there is no such connection" => self.connection = ConnectionId::new(),
            "the site's policy is for another provider" => {
                let ceiling = Some(ceiling(r#"{"providers":["reddit"]}"#));
                site::set_policy(base, &OPERATOR, site, &Policy { ceiling, chain_limit: None }).await.unwrap();
            }
            "the site's policy cannot be read" => {
                self.write("UPDATE sites SET ceiling = 'nonsense' WHERE id = $1", site.as_str()).await
            }
            "the agent's ceiling is for the proxy" => {
                let ceiling = ceiling(r#"{"delivery":["proxy"]}"#);
                agent::set_ceiling(base, site, &OPERATOR, &self.agent, Some(&ceiling)).await.unwrap();
            }
            "the agent's ceiling cannot be read" => {
                self.write("UPDATE agents SET ceiling = 'nonsense' WHERE id = $1", self.agent.as_str()).await
            }
            "the tokens' ceilings cannot be read" => {
                self.write("UPDATE agent_tokens SET ceiling = 'nonsense' WHERE agent = $1", self.agent.as_str()).await
            }
            "whoever minted the tokens lost their role" => {
                self.write("UPDATE agent_tokens SET minter = 'dora' WHERE agent = $1", self.agent.as_str()).await
            }
            "the owner is disabled, and the agent is another's" => {
                self.write("UPDATE agents SET owner_user = 'erin' WHERE id = $1", self.agent.as_str()).await;
                self.disable("alice").await;
            }
            "the reading cannot be read" => {
                for id in &self.reads {
                    self.write("UPDATE grants SET operations = 'nonsense' WHERE id = $1", id.as_str()).await;
                }
            }
            // Nobody is its owner then: what is for the owner is for none of them.
            "the account is the site's" => {
                self.write("UPDATE connections SET owner = 'site' WHERE id = $1", self.connection.as_str()).await
            }
            "the account is an agent's" => {
                self.write("UPDATE connections SET owner = 'agent:b' WHERE id = $1", self.connection.as_str()).await
            }
            "an effect cannot be read" => {
                self.write("UPDATE grants SET effect = 'maybe' WHERE id = $1", self.asks[0].as_str()).await
            }
            "the identity is not confirmed" => {
                self.write("UPDATE connections SET identity = 'unverified' WHERE id = $1", self.connection.as_str()).await;
            }
            "the connection is revoked" => {
                let mut tx = self.db.begin().await.unwrap();
                assert!(connection::erase(&mut tx, site, &self.connection, &OPERATOR, "test", base.clock.now()).await.unwrap());
                tx.commit().await.unwrap();
            }
            "the operator is disabled" => self.disable("carol").await,
            "the owner is disabled" => self.disable("alice").await,
            "the agent is disabled" => agent::set_disabled(base, site, &OPERATOR, &self.agent, true).await.unwrap(),
            "the agent is deleted" => agent::delete(base, site, &OPERATOR, &self.agent).await.unwrap(),
            "the site is disabled" => self.write("UPDATE sites SET disabled_at = 1 WHERE id = $1", site.as_str()).await,
            "the tokens are revoked" => {
                token::revoke_all(base, site, &OPERATOR, &self.agent, "test").await.unwrap();
            }
            "the tokens have ended" => base.clock.advance(HOUR * 2),
            other => panic!("there is no state {other:?}"),
        }
    }

    /// A cell: what becomes of it, and the fact that decided where it is no yes.
    async fn cell(&self, caller: usize, action: usize) -> String {
        let hash = &self.tokens[caller];
        let (_, delivery, call) = &ACTIONS[action];
        let operation = call.as_ref().map(|(method, path)| (method, "api.lab.example", path.as_bytes()));
        let facts = self.house.authority.facts(hash, &self.connection).await.unwrap().unwrap();
        let request = Request { delivery: *delivery, operation, unattended: CALLERS[caller].4 };
        let now = self.house.base.clock.now();
        let decision = match (&self.running, &self.approved) {
            (Some(under), _) => decide_running(&facts, &request, under, now),
            (None, Some(under)) => decide_approved(&facts, &request, under, now),
            (None, None) => decide(&facts, &request, now),
        };
        // What is reached in a stretch of time stands in no fact: it is asked last, and every replica's uses are in it.
        let is_reached = match (decision.rate, &decision.grant) {
            (Some(rate), Some(grant)) => self.limits.wait(&self.db, &self.house.site, grant, rate, now).await.unwrap().is_some(),
            _ => false,
        };
        match decision.effect {
            Effect::Allow if is_reached => "no rate".to_owned(),
            Effect::Allow => "allow".to_owned(),
            Effect::Ask => "ask".to_owned(),
            Effect::Deny => {
                let facts: BTreeSet<_> = decision.reasons.iter().map(|reason| reason.fact).collect();
                let facts = facts.into_iter().collect::<Vec<_>>().join("+");
                // What the agent is told beside a 403 with the reason: that there is nothing, or that it is nobody.
                match decision.code.unwrap() {
                    Code::NotFound => format!("404 {facts}"),
                    Code::Unauthenticated => format!("401 {facts}"),
                    _ => format!("no {facts}"),
                }
            }
        }
    }
}

const STATES: [&str; 41] = [
    "as it is",
    "nothing is granted",
    "only the denial is left",
    "the denial is taken back",
    "the denial has ended",
    "everything else is allowed to operators",
    "everything is denied",
    "everything is asked about for the owner",
    "the reveal is used up",
    "the reading cannot be read",
    "an effect cannot be read",
    "the identity is not confirmed",
    "the connection is revoked",
    "the operator is disabled",
    "the owner is disabled",
    "the agent is disabled",
    "the agent is deleted",
    "the site is disabled",
    "the tokens are revoked",
    "the tokens have ended",
    "the tokens are for the proxy",
    "the tokens are for GET /posts/1",
    "the tokens are for another provider",
    "a list of people may do everything else",
    "what is granted has ended",
    "whoever granted may no longer",
    "the account can do more than is granted",
    "the rate of the reading is reached",
    "the calls run already",
    "there is no such connection",
    "the site's policy is for another provider",
    "the site's policy cannot be read",
    "the agent's ceiling is for the proxy",
    "the agent's ceiling cannot be read",
    "the tokens' ceilings cannot be read",
    "whoever minted the tokens lost their role",
    "the owner is disabled, and the agent is another's",
    "everything may be done in one task",
    "the account is the site's",
    "the account is an agent's",
    "a person approved the calls",
];

fn token_in(state: &str, now: valetkey::clock::Timestamp) -> NewToken {
    let narrowed = |json| NewToken { ceiling: Some(ceiling(json)), ..NewToken::default() };
    match state {
        "the tokens have ended" => NewToken { expires_at: Some(now.plus(HOUR * 2)), ..NewToken::default() },
        "the tokens are for the proxy" => narrowed(r#"{"delivery":["proxy"]}"#),
        "the tokens are for GET /posts/1" => narrowed(r#"{"operations":["GET /posts/1"]}"#),
        "the tokens are for another provider" => narrowed(r#"{"providers":["reddit"]}"#),
        _ => NewToken::default(),
    }
}

on_each_db! {
    async fn what_every_caller_may_do_in_every_state(db: Db) {
        let base = House::new(&db).await.base;
        let mut text = String::new();
        for (number, state) in STATES.into_iter().enumerate() {
            let id: SiteId = format!("state-{number}").parse().unwrap();
            site::create(&base, &OPERATOR, &id, state).await.unwrap();
            let house = House::at(base.clone(), id);
            let now = base.clock.now();
            let mut world = World::new(&db, house, || token_in(state, now)).await;
            world.enter(state).await;
            let mut rows = vec![["".to_owned()].into_iter().chain(ACTIONS.map(|(name, ..)| name.to_owned())).collect::<Vec<_>>()];
            for (caller, (name, ..)) in CALLERS.into_iter().enumerate() {
                let mut row = vec![name.to_owned()];
                for action in 0..ACTIONS.len() {
                    row.push(world.cell(caller, action).await);
                }
                rows.push(row);
            }
            writeln!(text, "{state}\n{}", table(&rows)).unwrap();
        }
        compare(&text);
    }
}

/// Every word that the decision has for a fact, read from where it decides, stands in a cell: none of its ways to say no is
/// without a state. The two facts of a yes stand there as `allow` and `ask`.
#[test]
fn every_fact_that_decides_stands_in_the_matrix() {
    let golden = std::fs::read_to_string(golden()).unwrap();
    let cells = golden.lines().filter(|line| line.starts_with(' ')).flat_map(|line| line.split("  ")).map(str::trim);
    let cells: BTreeSet<&str> = cells.filter_map(refused).flat_map(|facts| facts.split('+')).collect();
    let is_word = |text: &&str| text.len() > 2 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let lines = include_str!("../../src/decision/decide.rs").lines().map(str::trim_start);
    let code = lines.filter(|line| !line.starts_with("//") && !line.starts_with("#["));
    let words: BTreeSet<&str> = code.flat_map(|line| line.split('"').skip(1).step_by(2)).filter(is_word).collect();
    assert!(words.len() > 25 && words.contains("minter_role") && words.contains("rate"), "{words:?}");
    let missing: Vec<_> = words.iter().filter(|word| !["grant", "asks"].contains(*word) && !cells.contains(*word)).collect();
    assert!(missing.is_empty(), "no state of the matrix shows {missing:?}");
}

/// The facts of a cell that is a no.
fn refused(cell: &str) -> Option<&str> {
    ["no ", "401 ", "404 "].into_iter().find_map(|begin| cell.strip_prefix(begin))
}

fn golden() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/matrix.golden")
}

fn table(rows: &[Vec<String>]) -> String {
    let wide: Vec<usize> = (0..rows[0].len()).map(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&wide).map(|(cell, wide)| format!("{cell:wide$}", wide = *wide)).collect();
        format!("    {}", cells.join("  ")).trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn compare(now: &str) {
    let path = golden();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(now, golden, "the access matrix changed; if that is meant, run this test with UPDATE_GOLDEN=1");
}
