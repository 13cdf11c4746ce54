//! The controls: what a test says to the lab, and asks of it.
//!
//! [`Control`] is for a test in the same process. The same over HTTP, JSON both ways; bodies may be left out where
//! everything in them is optional:
//!
//! | route | does |
//! |---|---|
//! | `POST /lab/misbehave` | [`Control::misbehave`]: one [`Rule`] or a list of them |
//! | `DELETE /lab/misbehave` | [`Control::behave`] |
//! | `POST /lab/release` | [`Control::release`] |
//! | `GET /lab/counters`, `/lab/log`, `/lab/families`, `/lab/revoked`, `/lab/spends/{sha256}` | the records |
//! | `POST /lab/clients` | [`Control::register`]: a [`Client`]; `GET` lists them |
//! | `POST /lab/auto-approve` | [`Control::auto_approve`]: `{"person"}` |
//! | `POST /lab/device` | [`Control::answer_device`]: `{"user_code","person"}`, without a person: no |
//! | `POST /lab/tokens` | [`Control::issue`]: `{"client_id","person","scope"}` |
//! | `POST /lab/withdraw` | [`Control::withdraw`]: `{"client_id","person"}` |
//! | `POST /lab/expire-access-tokens`, `/lab/expire-refresh-tokens` | `{"client_id"}` or nothing for all |
//! | `POST /lab/advance` | [`Control::advance`]: `{"seconds"}` |
//! | `POST /lab/reset`, `/lab/reset-records` | [`Control::reset`], [`Control::reset_records`] |
//! | `GET /lab/definition` | [`Control::definition`]: options in the query |

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    fault::Rule,
    records::{Counters, FamilyState, LogEntry, Records, RevokedToken},
    settings::{Client, Person, Settings},
    tokens::FamilyEnd,
    world::World,
};

/// Steers and asks a lab.
#[derive(Clone, Debug)]
pub struct Control {
    pub(crate) world: Arc<World>,
}

/// Tokens that were made without a flow. They are credentials of the lab: not secret to anybody, but recognisable.
#[derive(Clone, Debug, Serialize)]
pub struct Issued {
    /// The access token.
    pub access_token: String,
    /// The refresh token, if the client gets one.
    pub refresh_token: Option<String>,
    /// Seconds that the access token lives.
    pub expires_in: u64,
    /// The granted scopes, separated by spaces.
    pub scope: String,
}

impl Control {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self { world }
    }

    /// The lab's address.
    pub fn addr(&self) -> SocketAddr {
        self.world.addr
    }

    /// The lab's origin and issuer, such as `http://127.0.0.1:4411`.
    pub fn origin(&self) -> String {
        self.world.origin.clone()
    }

    /// Adds a rule. All rules that match a request apply to it; one that has applied as often as it should is
    /// forgotten.
    pub fn misbehave(&self, rule: Rule) {
        self.world.with(|state, _| state.rules.push(rule));
    }

    /// Forgets all rules, and lets held requests go on.
    pub fn behave(&self) {
        self.world.with(|state, _| state.rules.clear());
        self.release();
    }

    /// Lets every request that is held now go on ([`crate::Fault::HoldBefore`], [`crate::Fault::HoldAfter`]).
    pub fn release(&self) {
        self.world.release();
    }

    /// Registers a client, or replaces the one of the same id. Its tokens stay.
    pub fn register(&self, client: Client) {
        self.world.with(|state, _| state.clients.insert(client.client_id.clone(), client));
    }

    /// Changes the settings of a client. False if there is no such client.
    pub fn settings(&self, client_id: &str, change: impl FnOnce(&mut Settings)) -> bool {
        self.world.with(|state, _| state.clients.get_mut(client_id).map(|client| change(&mut client.settings)).is_some())
    }

    /// Lets this person approve every request at once, without the consent page; none ends it. False if nobody of
    /// that name lives here.
    pub fn auto_approve(&self, person: Option<&str>) -> bool {
        let known = person.is_none_or(|person| Person::named(person).is_some());
        if known {
            self.world.with(|state, _| state.auto_approve = person.map(str::to_owned));
        }
        known
    }

    /// Somebody types in the code of another device, and approves as this person, or says no. False where nobody waits with
    /// such a code, or nobody of that name lives here.
    pub fn answer_device(&self, user_code: &str, person: Option<&str>) -> bool {
        let known = match person {
            Some(name) => match Person::named(name) {
                Some(person) => Some(person),
                None => return false,
            },
            None => None,
        };
        self.world.with(|state, now| state.tokens.answer_device(user_code, known, now))
    }

    /// Takes a page out of everybody's list at `/pages`, or puts it back.
    pub fn list_page(&self, id: &str, listed: bool) {
        self.world.with(|state, _| {
            state.gone_pages.retain(|gone| gone != id);
            if !listed {
                state.gone_pages.push(id.to_owned());
            }
        });
    }

    /// Makes tokens as if the person had just consented. None if there is no such client or person.
    pub fn issue(&self, client_id: &str, person: &str, scope: &str) -> Option<Issued> {
        let person = Person::named(person)?;
        self.world.with(|state, now| {
            let client = state.clients.get(client_id)?;
            let tokens = state.tokens.issue(client, person, scope, now).ok()?;
            Some(Issued {
                access_token: tokens.access_token,
                refresh_token: tokens.refresh_token,
                expires_in: tokens.expires_in,
                scope: tokens.scope,
            })
        })
    }

    /// The person withdraws what they gave to this client, at the provider. Says how many authorizations ended.
    pub fn withdraw(&self, client_id: &str, person: &str) -> usize {
        let Some(person) = Person::named(person) else { return 0 };
        self.world.with(|state, _| state.tokens.end_all(client_id, person, FamilyEnd::Withdrawn))
    }

    /// Lets access tokens expire now: of one client, or all.
    pub fn expire_access_tokens(&self, client_id: Option<&str>) {
        self.world.with(|state, now| state.tokens.expire_access(client_id, now));
    }

    /// Lets refresh tokens expire now: of one client, or all.
    pub fn expire_refresh_tokens(&self, client_id: Option<&str>) {
        self.world.with(|state, now| state.tokens.expire_refresh(client_id, now));
    }

    /// Puts the lab's clock forward.
    pub fn advance(&self, by: Duration) {
        self.world.with(|state, _| state.advance(by));
    }

    /// Forgets everything: clients, tokens, rules, posts, records and the clock's lead.
    pub fn reset(&self) {
        self.world.reset();
    }

    /// Forgets the records only: counters, log, spends and revocations.
    pub fn reset_records(&self) {
        self.world.with(|state, _| state.records = Records::new());
    }

    /// Everything that is counted.
    pub fn counters(&self) -> Counters {
        self.world.counters()
    }

    /// How many requests met that endpoint, by its name in [`LogEntry::endpoint`].
    pub fn requests(&self, endpoint: &str) -> u64 {
        self.world.with(|state, _| state.records.requests.get(endpoint).copied().unwrap_or(0))
    }

    /// How many refresh requests arrived, whatever came of them.
    pub fn refresh_requests(&self) -> u64 {
        self.requests(crate::At::Refresh.name())
    }

    /// How often a refresh token (its [`crate::fingerprint`]) reached the work of the token endpoint, whether or not it
    /// was still good and whether or not the answer arrived. A request that a fault refused before the work does not
    /// count.
    pub fn spends_of_refresh_token(&self, sha256: &str) -> u64 {
        self.world.with(|state, _| state.records.spends.find(&sha256.to_owned()).map_or(0, |spend| spend.spent))
    }

    /// How many refresh requests carried this refresh token (its [`crate::fingerprint`]).
    pub fn presentations_of_refresh_token(&self, sha256: &str) -> u64 {
        self.world.with(|state, _| state.records.spends.find(&sha256.to_owned()).map_or(0, |spend| spend.presented))
    }

    /// The largest [`Control::spends_of_refresh_token`] of all refresh tokens.
    pub fn most_spends_of_one_refresh_token(&self) -> u64 {
        self.world.with(|state, _| state.records.spends.iter().map(|(_, spend)| spend.spent).max().unwrap_or(0))
    }

    /// How many access tokens of a person work now.
    pub fn live_access_tokens(&self, person: &str) -> usize {
        let families = self.families();
        families.iter().filter(|family| family.person == person).map(|family| family.live_access_tokens).sum()
    }

    /// How many refresh tokens of a person work now.
    pub fn live_refresh_tokens(&self, person: &str) -> usize {
        let families = self.families();
        families.iter().filter(|family| family.person == person).map(|family| family.live_refresh_tokens).sum()
    }

    /// Whether this access token works now.
    pub fn is_live(&self, access_token: &str) -> bool {
        self.world.with(|state, now| state.tokens.live(access_token, now).is_some())
    }

    /// Whether this OAuth 1.0a token works now.
    pub fn is_live_oauth1(&self, token: &str) -> bool {
        self.world.with(|state, _| state.oauth1.is_live(token))
    }

    /// Every authorization and what is left of it, oldest first.
    pub fn families(&self) -> Vec<FamilyState> {
        self.world.with(|state, now| state.tokens.families(now))
    }

    /// The tokens that were revoked at `/revoke`, oldest first.
    pub fn revoked_tokens(&self) -> Vec<RevokedToken> {
        self.world.with(|state, _| state.records.revoked.iter().cloned().collect())
    }

    /// The requests, oldest first. Older ones than the last few thousand are forgotten.
    pub fn log(&self) -> Vec<LogEntry> {
        self.world.with(|state, _| state.records.log.iter().cloned().collect())
    }

    /// How many requests are held now.
    pub fn held(&self) -> usize {
        self.world.held()
    }

    /// Waits until `what` is true, asked again after every arrival. False if it is still not true after `patience`.
    pub async fn wait_until(&self, patience: Duration, what: impl Fn(&Control) -> bool + Send) -> bool {
        let mut arrivals = self.world.arrivals();
        let waiting = async {
            while !what(self) {
                // The sender lives in the world, so this cannot fail.
                let _ = arrivals.changed().await;
            }
        };
        tokio::time::timeout(patience, waiting).await.is_ok()
    }
}
