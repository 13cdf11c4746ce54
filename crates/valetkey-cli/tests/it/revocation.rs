//! Revoked means refused (promise 3, decisions 2): on every request that any replica gets after the revoking call
//! returned, with warm caches and under load; and streams that run end at once there, and within three seconds elsewhere. So do
//! those about something that a person chose, when it is chosen no more. The same of whatever else narrows what may be done: a role,
//! a ceiling, a policy, a denial, somebody who is disabled.

use std::{
    fmt::Debug,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::scene::{Answer, On, PATIENCE, Plan, Scene, Token, Usable, eventually, on_each, proxy, reveal, text};

/// How long a stream may go on at the replica that did not revoke.
const ELSEWHERE: Duration = Duration::from_secs(3);
/// "At once", for a machine on which many other tests run: far from [`ELSEWHERE`], so that the two are not mistaken.
const AT_ONCE: Duration = Duration::from_millis(700);

/// What is taken back.
#[derive(Clone, Copy, Debug)]
enum What {
    Token,
    Grant,
    Connection,
}

impl What {
    fn refusal(self) -> Refusal {
        match self {
            What::Token => NOBODY,
            // Without a grant an agent does not learn that there is such a connection.
            What::Grant | What::Connection => (StatusCode::NOT_FOUND, "not_found"),
        }
    }
}

/// What is said to whoever asks too late.
type Refusal = (StatusCode, &'static str);
const NOBODY: Refusal = (StatusCode::UNAUTHORIZED, "unauthenticated");
const BEYOND: Refusal = (StatusCode::FORBIDDEN, "grant_denied");

/// What narrows authority that stays: nothing is revoked, and each can be put back.
#[derive(Clone, Copy, Debug)]
enum Narrowing {
    /// The role of the person for whom the token acts.
    RoleOfPerson,
    /// The role of whoever minted the token, which acts for nobody.
    RoleOfMinter,
    CeilingOfAgent,
    PolicyOfSite,
    Denial,
    AgentDisabled,
    PersonDisabled,
}

impl Narrowing {
    const ALL: [Self; 7] = [
        Self::RoleOfPerson,
        Self::RoleOfMinter,
        Self::CeilingOfAgent,
        Self::PolicyOfSite,
        Self::Denial,
        Self::AgentDisabled,
        Self::PersonDisabled,
    ];

    fn refusal(self) -> Refusal {
        match self {
            Self::RoleOfPerson | Self::CeilingOfAgent | Self::PolicyOfSite | Self::Denial => BEYOND,
            Self::RoleOfMinter | Self::AgentDisabled | Self::PersonDisabled => NOBODY,
        }
    }
}

/// Somebody with a role on the agent.
const PERSON: &str = "43";

impl Scene {
    /// Takes it back, by the given replica.
    async fn take_back(&self, at: usize, what: What, usable: &Usable) {
        let path = match what {
            What::Token => format!("/v1/tokens/{}", usable.token.id),
            What::Grant => format!("/v1/grants/{}", usable.grant),
            What::Connection => format!("/v1/connections/{}", usable.connection),
        };
        let answer = self.call(at, &self.key.key, Method::DELETE, &path, None).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    /// What every replica says to both deliveries.
    async fn everywhere(&self, usable: &Usable) -> Vec<Answer> {
        let mut answers = Vec::new();
        for at in 0..self.replicas.len() {
            answers.push(self.reveal(at, usable).await);
            answers.push(self.proxy(at, usable, "me").await);
        }
        answers
    }

    /// An answer without end by every replica, and when each was cut off. They run by now, and go on while nothing is taken back.
    async fn endless(&self, usable: &Usable, slot: Option<&str>) -> Vec<JoinHandle<Instant>> {
        let mut streams = Vec::new();
        for replica in &self.replicas {
            let url = replica.at(&format!("/v1/proxy/{}/stream?ms=20&n=100000", usable.connection));
            let mut request = self.http.get(url).bearer_auth(&usable.token.token);
            if let Some(slot) = slot {
                request = request.header("valet-slot", slot);
            }
            let mut response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert!(response.chunk().await.unwrap().is_some());
            streams.push(tokio::spawn(async move {
                loop {
                    // Cut off, not closed as if that were all.
                    match response.chunk().await {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("it ended as if it were complete"),
                        Err(_) => return Instant::now(),
                    }
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(streams.iter().all(|stream| !stream.is_finished()), "they run while nothing is taken back");
        streams
    }

    /// Callers who use it without a pause, on every replica and by both deliveries, until told to stop. Each says when those
    /// of its requests began that were not refused: served, or cut off in the middle.
    fn load(&self, usable: &Usable, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Vec<Instant>>> {
        let callers = (0..8).map(|n| {
            let (http, usable, stop) = (self.http.clone(), usable.clone(), Arc::clone(stop));
            let url = self.replicas[n % self.replicas.len()].url();
            tokio::spawn(async move {
                let mut served = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let answer = match n < 4 {
                        true => reveal(&http, &url, &usable).await,
                        false => proxy(&http, &url, &usable, "me").await,
                    };
                    match answer {
                        Ok(answer) if answer.status == StatusCode::OK => served.push(began),
                        Ok(answer) => assert!(answer.status.is_client_error(), "{answer:?}"),
                        // A proxied answer that was on its way.
                        Err(_) if n >= 4 => served.push(began),
                        Err(error) => panic!("{error}"),
                    }
                }
                served
            })
        });
        callers.collect()
    }
}

#[track_caller]
fn refused(expected: Refusal, answers: &[Answer]) {
    for answer in answers {
        assert_eq!((answer.status, answer.code()), expected, "{answer:?}");
    }
}

impl Scene {
    /// Takes something back by `taking`, while every replica is asked without a pause: whoever asks after that returned is refused.
    /// What `taking` says, and how many requests were served before.
    async fn taken_under_load<T>(
        &self,
        usable: &Usable,
        round: usize,
        expected: Refusal,
        taking: impl Future<Output = T>,
    ) -> (T, usize) {
        // Every replica has used it, so that whatever one may keep of it is kept.
        for answer in self.everywhere(usable).await {
            assert_eq!(answer.status, StatusCode::OK, "round {round}: {answer:?}");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let load = self.load(usable, &stop);
        // Somewhere in the middle of their calls, and not always at the same place.
        tokio::time::sleep(Duration::from_millis(20 + 7 * (round as u64 % 5))).await;
        let said = taking.await;
        let returned = Instant::now();
        refused(expected, &self.everywhere(usable).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        stop.store(true, Ordering::Relaxed);
        let mut served = 0;
        for caller in load {
            let began = caller.await.unwrap();
            served += began.len();
            let late: Vec<_> = began.iter().filter(|began| **began > returned).map(|began| *began - returned).collect();
            assert!(late.is_empty(), "round {round}: {expected:?} was due, and was served {late:?} after it was taken back");
        }
        refused(expected, &self.everywhere(usable).await);
        (said, served)
    }
}

async fn refused_from_then_on(on: On, what: What, rounds: usize) {
    let scene = Scene::usual(on).await;
    let mut usable = scene.usable("lab").await;
    let mut served = 0;
    for round in 0..rounds {
        match what {
            _ if round == 0 => {}
            What::Token => usable.token = scene.token(&usable.agent).await,
            What::Grant => usable.grant = scene.grant(&usable.agent, &usable.connection).await,
            What::Connection => {
                usable.connection = scene.connect("lab").await;
                usable.grant = scene.grant(&usable.agent, &usable.connection).await;
            }
        }
        let taking = scene.take_back(round % scene.replicas.len(), what, &usable);
        served += scene.taken_under_load(&usable, round, what.refusal(), taking).await.1;
    }
    assert!(served > rounds * 4, "hardly anything was served before: {served}");
}

/// Two tokens of one agent: one acts for [`PERSON`], the other was minted by them and acts for nobody.
struct Tokens {
    by_person: Usable,
    by_minter: Usable,
}

impl Scene {
    async fn two_tokens(&self) -> Tokens {
        let connection = self.connect("lab").await;
        let agent = json!({ "slug": self.fresh("agent"), "owner": "41" });
        let agent = text(&self.platform(Method::POST, "/v1/agents", Some(agent)).await, "id");
        self.give_role(0, &agent).await;
        let tokens = format!("/v1/agents/{agent}/tokens");
        let of_person = self.platform(Method::POST, &tokens, Some(json!({ "person": PERSON }))).await;
        let minted = self.http.post(self.replicas[0].at(&tokens)).bearer_auth(&self.key.key).header("Valet-User", PERSON);
        let minted = minted.json(&json!({ "unattended": true })).send().await.unwrap();
        let minted = Answer::read(minted).await.unwrap();
        assert_eq!(minted.status, StatusCode::CREATED, "{minted:?}");
        let token = |made: &Value| Token { id: text(made, "id"), token: text(made, "token") };
        let operators = json!({
            "agent": agent, "connection": connection, "for_whom": "operators", "delivery": ["proxy", "reveal"],
        });
        let operators = text(&self.platform(Method::POST, "/v1/grants", Some(operators)).await, "id");
        let unattended = self.grant(&agent, &connection).await;
        let usable = |token, grant| Usable { connection: connection.clone(), agent: agent.clone(), token, grant };
        Tokens { by_person: usable(token(&of_person), operators), by_minter: usable(token(&minted.body), unattended) }
    }

    async fn give_role(&self, at: usize, agent: &str) {
        let path = format!("/v1/agents/{agent}/roles/{PERSON}");
        self.by_platform(at, Method::PUT, &path, Some(json!({ "role": "operator" }))).await;
    }

    /// A request of the platform to any replica, which must succeed.
    async fn by_platform(&self, at: usize, method: Method, path: &str, body: Option<Value>) -> Value {
        let answer = self.call(at, &self.key.key, method, path, body).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        answer.body
    }

    /// Narrows, by the given replica; the policy of the site is the operator's, by a command. The denial's id, where it is one.
    async fn narrow(&self, at: usize, what: Narrowing, usable: &Usable) -> Option<String> {
        let agent = &usable.agent;
        let (method, path, body) = match what {
            Narrowing::RoleOfPerson | Narrowing::RoleOfMinter => {
                (Method::DELETE, format!("/v1/agents/{agent}/roles/{PERSON}"), None)
            }
            Narrowing::CeilingOfAgent => {
                let ceiling = json!({ "ceiling": { "providers": ["reddit"] } });
                (Method::PUT, format!("/v1/agents/{agent}/ceiling"), Some(ceiling))
            }
            Narrowing::PolicyOfSite => {
                self.home.json(&["site", "policy", "--only-provider", "reddit"]);
                return None;
            }
            Narrowing::Denial => {
                let denial = json!({ "agent": agent, "connection": usable.connection, "effect": "deny" });
                (Method::POST, "/v1/grants".to_owned(), Some(denial))
            }
            Narrowing::AgentDisabled => (Method::PATCH, format!("/v1/agents/{agent}"), Some(json!({ "disabled": true }))),
            Narrowing::PersonDisabled => (Method::PATCH, format!("/v1/people/{PERSON}"), Some(json!({ "disabled": true }))),
        };
        let said = self.by_platform(at, method, &path, body).await;
        matches!(what, Narrowing::Denial).then(|| text(&said, "id"))
    }

    /// Puts back what was narrowed.
    async fn widen(&self, at: usize, what: Narrowing, usable: &Usable, denial: Option<String>) {
        let agent = &usable.agent;
        let (method, path, body) = match what {
            Narrowing::RoleOfPerson | Narrowing::RoleOfMinter => return self.give_role(at, agent).await,
            Narrowing::CeilingOfAgent => (Method::PUT, format!("/v1/agents/{agent}/ceiling"), Some(json!({ "ceiling": null }))),
            Narrowing::PolicyOfSite => {
                self.home.json(&["site", "policy", "--clear"]);
                return;
            }
            Narrowing::Denial => (Method::DELETE, format!("/v1/grants/{}", denial.unwrap()), None),
            Narrowing::AgentDisabled => (Method::PATCH, format!("/v1/agents/{agent}"), Some(json!({ "disabled": false }))),
            Narrowing::PersonDisabled => (Method::PATCH, format!("/v1/people/{PERSON}"), Some(json!({ "disabled": false }))),
        };
        self.by_platform(at, method, &path, body).await;
    }
}

/// How often each is narrowed and put back.
const TURNS: usize = 3;

on_each! {
    /// R106: by every replica, with streams that run; a client that gives a token back (RFC 7009) ends it by the same call.
    async fn a_revoked_token_is_refused_from_then_on(on: On) {
        refused_from_then_on(on, What::Token, 20).await;
    }

    async fn a_revoked_grant_is_refused_from_then_on(on: On) {
        refused_from_then_on(on, What::Grant, 20).await;
    }

    /// R65: of its uses.
    async fn a_revoked_connection_is_refused_from_then_on(on: On) {
        refused_from_then_on(on, What::Connection, 10).await;
    }

    /// Nobody's token was revoked for it, and no row of the token, the grant or the connection changed: what a replica may have kept
    /// of those does not matter. The next turn shows that it was this and nothing else.
    async fn whatever_is_narrowed_is_refused_from_then_on(on: On) {
        let scene = Scene::usual(on).await;
        let tokens = scene.two_tokens().await;
        for what in Narrowing::ALL {
            let usable = match what {
                Narrowing::RoleOfMinter => &tokens.by_minter,
                _ => &tokens.by_person,
            };
            let mut served = 0;
            for turn in 0..TURNS {
                let at = turn % scene.replicas.len();
                let narrowing = scene.narrow(at, what, usable);
                let (denial, before) = scene.taken_under_load(usable, turn, what.refusal(), narrowing).await;
                served += before;
                scene.widen((turn + 1) % scene.replicas.len(), what, usable, denial).await;
            }
            assert!(served > TURNS * 4, "{what:?}: hardly anything was served before: {served}");
            for answer in scene.everywhere(usable).await {
                assert_eq!(answer.status, StatusCode::OK, "{what:?}: {answer:?}");
            }
        }
    }

    async fn a_running_answer_ends_when_its_permission_does(on: On) {
        let scene = Scene::usual(on).await;
        for what in [What::Token, What::Grant, What::Connection] {
            let usable = scene.usable("lab").await;
            let streams = scene.endless(&usable, None).await;
            scene.take_back(0, what, &usable).await;
            end_in_time(streams, Instant::now(), what).await;
        }
    }

    /// A call that names an entry of a provider's list is about that one: choosing another ends it, and choosing more does not.
    async fn a_running_answer_ends_when_what_it_is_about_is_chosen_no_more(on: On) {
        let mut plan = Plan::new(on);
        plan.providers[0].definition.pages = true;
        let scene = Scene::start(plan).await;
        let usable = scene.usable("lab").await;
        let choose = async |ids: &[&str]| {
            let path = format!("/v1/connections/{}/resources", usable.connection);
            scene.platform(Method::PUT, &path, Some(json!({ "chosen": { "page": ids } }))).await;
        };
        choose(&["p1"]).await;
        let about_it = scene.endless(&usable, Some("page/p1")).await;
        let without = scene.endless(&usable, None).await;
        choose(&["p1", "p2"]).await;
        // Longer than the other replica needs to notice.
        tokio::time::sleep(ELSEWHERE).await;
        assert!(about_it.iter().all(|stream| !stream.is_finished()), "more was chosen, and it ended");
        choose(&["p2"]).await;
        end_in_time(about_it, Instant::now(), "the choice").await;
        assert!(without.iter().all(|stream| !stream.is_finished()), "what hangs on no choice ended with it");
        without.iter().for_each(JoinHandle::abort);
    }

    async fn a_running_upload_ends_when_its_permission_does(on: On) {
        let (upstream, mut ends) = swallower().await;
        let mut plan = Plan::new(on);
        // The swallower is another of the lab's hosts.
        plan.allowed.push(upstream);
        plan.providers[0].edits = vec![
            ("hosts = [".to_owned(), format!("hosts = [\"{upstream}\", ")),
            ("path_allow = { ".to_owned(), format!("path_allow = {{ \"{upstream}\" = [\"/**\"], ")),
        ];
        let scene = Scene::start(plan).await;
        for what in [What::Token, What::Grant, What::Connection] {
            let usable = scene.usable("lab").await;
            let mut uploads = Vec::new();
            for replica in &scene.replicas {
                uploads.push(upload(&replica.url(), &usable, &format!("/~{upstream}/sink")).await);
                // One after the other, so that it is known whose end it is.
                let event = tokio::time::timeout(PATIENCE, ends.recv()).await.unwrap().unwrap();
                assert!(matches!(event, Upstream::Began), "an upload ended by itself");
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(ends.try_recv().is_err(), "{what:?}: an upload ended by itself");
            scene.take_back(0, what, &usable).await;
            let returned = Instant::now();
            end_in_time(uploads, returned, what).await;
            for _ in &scene.replicas {
                let end = tokio::time::timeout(PATIENCE, ends.recv()).await.unwrap().unwrap();
                let Upstream::Ended { at, whole } = end else { panic!("it began once more") };
                assert!(!whole, "{what:?}: the provider was told that the upload is complete");
                let after = at.saturating_duration_since(returned);
                assert!(after <= ELSEWHERE, "{what:?}: the provider got {after:?} more of it");
            }
        }
    }
}

/// Decisions 2: nobody knows then whether a permission still holds. On SQLite the server itself is the only one who could have changed
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_answers_end_when_the_database_gives_no_answer() {
    let scene = Scene::usual(On::Postgres).await;
    let usable = scene.usable("lab").await;
    let streams = scene.endless(&usable, None).await;
    let mut database = sqlx::PgConnection::connect(scene.variable("VALETKEY_DATABASE")).await.unwrap();
    let mut held = database.begin().await.unwrap();
    // Whoever asks about a token waits until this is over.
    sqlx::query("LOCK TABLE agent_tokens IN ACCESS EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let silent = Instant::now();
    for (at, stream) in streams.into_iter().enumerate() {
        let ended = tokio::time::timeout(PATIENCE, stream).await.expect("it ran on").unwrap();
        let after = ended.saturating_duration_since(silent);
        assert!(after <= ELSEWHERE + AT_ONCE, "replica {at} went on for {after:?}");
    }
    held.rollback().await.unwrap();
    eventually(|| async { (scene.proxy(0, &usable, "me").await.status == StatusCode::OK).then_some(()) }).await;
}

/// They end by then at the first replica, where something was taken back, and soon afterwards at the others.
async fn end_in_time(running: Vec<JoinHandle<Instant>>, returned: Instant, what: impl Debug) {
    for (at, running) in running.into_iter().enumerate() {
        let ended = tokio::time::timeout(PATIENCE, running).await.expect("it ran on").unwrap();
        let after = ended.saturating_duration_since(returned);
        let limit = if at == 0 { AT_ONCE } else { ELSEWHERE };
        assert!(after <= limit, "{what:?}: replica {at} went on for {after:?}");
    }
}

/// What the provider sees of an upload.
enum Upstream {
    Began,
    /// Whether the last piece said that it is the last.
    Ended {
        at: Instant,
        whole: bool,
    },
}

/// A provider that reads and reads, and never answers.
async fn swallower() -> (SocketAddr, mpsc::UnboundedReceiver<Upstream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (events, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let events = events.clone();
            tokio::spawn(async move {
                let (mut all, mut piece) = (Vec::new(), vec![0; 4096]);
                let mut began = false;
                while let Ok(length) = stream.read(&mut piece).await {
                    if length == 0 {
                        break;
                    }
                    all.extend_from_slice(&piece[..length]);
                    if !began && all.windows(4).any(|four| four == b"piec") {
                        began = true;
                        let _ = events.send(Upstream::Began);
                    }
                }
                if began {
                    let _ = events.send(Upstream::Ended { at: Instant::now(), whole: all.ends_with(b"0\r\n\r\n") });
                }
            });
        }
    });
    (address, seen)
}

/// Begins an upload without end, and says when the broker ended it.
async fn upload(server: &str, usable: &Usable, path: &str) -> JoinHandle<Instant> {
    let to = server.trim_start_matches("http://");
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "POST /v1/proxy/{}{path} HTTP/1.1\r\nHost: {to}\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        usable.connection, usable.token.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::spawn(async move {
        let (mut read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            while write.write_all(b"5\r\npiece\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = [0; 4096];
        let length = read.read(&mut answer).await.unwrap_or(0);
        let ended = Instant::now();
        sending.abort();
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 403 "), "an answer to an upload that was ended: {text}");
        ended
    })
}
