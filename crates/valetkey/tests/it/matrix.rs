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
    decision::{Effect, Request, decide, for_token},
    grant::{self, ForWhom, NewGrant},
    id::{AgentId, ConnectionId, GrantId, SiteId},
    on, on_each_db, platform,
    principal::{Actor, Delivery},
    provider::pattern::PathPattern,
    site,
    token::{self, NewToken, TokenHash},
};

use crate::support::{House, ceiling};

const OPERATOR: Actor = Actor::Operator;
const HOUR: Duration = Duration::from_secs(3600);
/// Who calls: what it is called, for whom its token is, its session, and whether it gives its person up.
const CALLERS: [(&str, Option<&str>, Option<&str>, bool); 7] = [
    ("owner", Some("alice"), None, false),
    ("owner, unattended", Some("alice"), None, true),
    ("operator", Some("carol"), None, false),
    ("lost their role", Some("dora"), None, false),
    ("unattended", None, None, false),
    ("owner, session night", Some("alice"), Some("night"), false),
    ("session night", None, Some("night"), false),
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
}

impl World {
    async fn new(db: &Db, house: House, token: impl Fn() -> NewToken) -> Self {
        let agent = house.agent("a", Some("alice")).await;
        house.role(&agent, "carol", Role::Operator).await;
        house.role(&agent, "dora", Role::Operator).await;
        let connection = house.connection("user:alice").await;
        let mut tokens = Vec::new();
        for (_, person, session, _) in CALLERS {
            let (person, session) = (person.map(|name| name.parse().unwrap()), session.map(|name| name.parse().unwrap()));
            tokens.push(house.token_with(&agent, NewToken { person, session, ..token() }).await.1);
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
        Self { house, db: db.clone(), agent, connection, reads, asks, denial, reveals, tokens }
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
        platform::set_person_disabled(&self.house.base, &self.house.site, &OPERATOR, &person.parse().unwrap(), true)
            .await
            .unwrap();
    }

    /// Brings the world into a state.
    async fn enter(&self, state: &str) {
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
            "the reading cannot be read" => {
                for id in &self.reads {
                    self.write("UPDATE grants SET operations = 'nonsense' WHERE id = $1", id.as_str()).await;
                }
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
        let facts = for_token(&self.db, hash, &self.connection).await.unwrap().unwrap();
        let request = Request { delivery: *delivery, operation, unattended: CALLERS[caller].3 };
        let decision = decide(&facts, &request, self.house.base.clock.now());
        match decision.effect {
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

const STATES: [&str; 23] = [
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
            let house = House { base: base.clone(), site: id };
            let now = base.clock.now();
            let world = World::new(&db, house, || token_in(state, now)).await;
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

fn table(rows: &[Vec<String>]) -> String {
    let wide: Vec<usize> = (0..rows[0].len()).map(|at| rows.iter().map(|row| row[at].len()).max().unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&wide).map(|(cell, wide)| format!("{cell:wide$}", wide = *wide)).collect();
        format!("    {}", cells.join("  ")).trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn compare(now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/matrix.golden");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(now, golden, "the access matrix changed; if that is meant, run this test with UPDATE_GOLDEN=1");
}
