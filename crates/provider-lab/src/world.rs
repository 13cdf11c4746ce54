//! The lab's memory and its clock, shared by the listener, the routes and the controls.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::{self, Write as _},
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use base64::Engine as _;
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    CLIENT_ID, CLIENT_SECRET,
    entered::Entered,
    fault::{Plan, Rule},
    oauth1::OAuth1,
    records::{Call, Counters, Records},
    settings::{Client, PEOPLE},
    tokens::{Refusal, Tokens},
};

/// How long a held request waits at most.
const LONGEST_HOLD: Duration = Duration::from_secs(120);
/// How many posts the social network remembers.
const POSTS: usize = 500;

/// SHA-256 of a credential, as 64 hex digits: the form in which the lab's records speak of it.
pub fn fingerprint(credential: &str) -> String {
    hex(digest::digest(&digest::SHA256, credential.as_bytes()).as_ref())
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 256 random bits as text.
pub(crate) fn random_text() -> Result<String, Refusal> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Refusal::new("server_error", "no random bytes"))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// Compares two secrets without telling by time where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

/// A post of the social network.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Post {
    pub(crate) id: u64,
    pub(crate) author: &'static str,
    pub(crate) text: String,
    /// The app that wrote it.
    pub(crate) via: String,
    pub(crate) at_ms: u64,
}

pub(crate) struct State {
    pub(crate) clients: BTreeMap<String, Client>,
    pub(crate) tokens: Tokens,
    pub(crate) oauth1: OAuth1,
    pub(crate) records: Records,
    pub(crate) rules: Vec<Rule>,
    pub(crate) entered: Entered,
    /// Who approves at once, whatever the client.
    pub(crate) auto_approve: Option<String>,
    /// The pages that `/pages` lists no more, by id.
    pub(crate) gone_pages: Vec<String>,
    posts: VecDeque<Post>,
    last_post: u64,
    /// How far the lab's clock was put forward, in milliseconds.
    ahead_ms: u64,
}

impl State {
    fn new() -> Self {
        let mut lab_client = Client::new(CLIENT_ID, CLIENT_SECRET);
        "Valet Key (lab)".clone_into(&mut lab_client.name);
        Self {
            clients: BTreeMap::from([(CLIENT_ID.to_owned(), lab_client)]),
            tokens: Tokens::new(),
            oauth1: OAuth1::new(),
            records: Records::new(),
            rules: Vec::new(),
            entered: Entered::default(),
            auto_approve: None,
            gone_pages: Vec::new(),
            posts: VecDeque::new(),
            last_post: 0,
            ahead_ms: 0,
        }
    }

    /// Newest first.
    pub(crate) fn posts(&self) -> impl Iterator<Item = &Post> {
        self.posts.iter().rev()
    }

    pub(crate) fn post(&mut self, author: &'static str, text: String, via: String, now: u64) -> Post {
        self.last_post += 1;
        let post = Post { id: self.last_post, author, text, via, at_ms: now };
        if self.posts.len() == POSTS {
            self.posts.pop_front();
        }
        self.posts.push_back(post.clone());
        post
    }

    /// Puts the clock forward.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.ahead_ms = self.ahead_ms.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
    }

    fn plan(&mut self, call: &Call) -> Plan {
        let mut plan = Plan::default();
        for rule in &mut self.rules {
            if rule.strikes(call.at, call.client_id.as_deref(), &call.path) {
                plan.add(&rule.fault);
            }
        }
        self.rules.retain(|rule| rule.times != Some(0));
        plan
    }
}

pub(crate) struct World {
    pub(crate) addr: SocketAddr,
    /// The issuer: `http://` and the address, without a slash at the end.
    pub(crate) origin: String,
    started: Instant,
    started_ms: u64,
    state: Mutex<State>,
    arrivals: watch::Sender<u64>,
    releases: watch::Sender<u64>,
    held: AtomicUsize,
    stop: watch::Sender<bool>,
}

impl World {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the outside world has a clock of its own; it is put forward by a control")]
        let wall = std::time::SystemTime::now();
        let started_ms =
            wall.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        Self {
            addr,
            origin: format!("http://{addr}"),
            started: Instant::now(),
            started_ms,
            state: Mutex::new(State::new()),
            arrivals: watch::Sender::new(0),
            releases: watch::Sender::new(0),
            held: AtomicUsize::new(0),
            stop: watch::Sender::new(false),
        }
    }

    /// Looks at the state, or changes it. The second argument is now, in milliseconds since 1970.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = self.started_ms.saturating_add(elapsed).saturating_add(state.ahead_ms);
        look(&mut state, now)
    }

    /// Counts and logs a request, and says what shall go wrong with it.
    pub(crate) fn arrive(&self, call: &Call) -> (u64, Plan) {
        let arrival = self.with(|state, now| {
            let plan = state.plan(call);
            (state.records.arrive(call, &plan, now), plan)
        });
        self.arrivals.send_modify(|count| *count = count.wrapping_add(1));
        arrival
    }

    /// Changes whenever a request arrives or begins to wait.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Forgets everything: clients, tokens, rules, posts, records and the clock's lead.
    pub(crate) fn reset(&self) {
        self.with(|state, _| *state = State::new());
        self.release();
    }

    pub(crate) fn counters(&self) -> Counters {
        self.with(|state, now| {
            let families = state.tokens.families(now);
            let live = |count: fn(&crate::FamilyState) -> usize| {
                let of = |name: &str| families.iter().filter(|family| family.person == name).map(count).sum();
                PEOPLE.iter().map(|person| (person.username, of(person.username))).collect()
            };
            Counters {
                requests: state.records.requests.clone(),
                refreshes: state.records.refreshes,
                most_spends_of_one_refresh_token: state.records.spends.iter().map(|(_, spend)| spend.spent).max().unwrap_or(0),
                live_access_tokens: live(|family| family.live_access_tokens),
                live_refresh_tokens: live(|family| family.live_refresh_tokens),
                revoked_tokens: state.records.revoked.len(),
                families_ended_by_reuse: state.records.reuse_ends,
                held: self.held.load(Ordering::SeqCst),
            }
        })
    }

    /// How many requests wait for a release.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Waits for [`World::release`], for the stop of the lab, or two minutes.
    pub(crate) async fn hold(&self) {
        let mut releases = self.releases.subscribe();
        let _held = Held::count(&self.held);
        self.arrivals.send_modify(|count| *count = count.wrapping_add(1));
        tokio::select! {
            _ = releases.changed() => {}
            () = self.pause(LONGEST_HOLD) => {}
        }
    }

    /// Lets every held request go on.
    pub(crate) fn release(&self) {
        self.releases.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Waits so long, or until the lab is stopped.
    pub(crate) async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.stopped() => {}
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Returns once the lab is told to stop.
    pub(crate) async fn stopped(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }
}

/// Without the state, which holds credentials.
impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Counts a held request for as long as it lives: a caller may leave while it is held.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn count(held: &'a AtomicUsize) -> Self {
        held.fetch_add(1, Ordering::SeqCst);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
