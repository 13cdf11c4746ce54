//! The decision: may this caller do this with that connection?
//!
//! 1. [`facts`] loads everything the answer depends on, with one statement on the primary (decisions 2).
//! 2. [`decide`] answers. It is a pure function of the facts, the request and the time, and every face asks it:
//!    both deliveries, `explain`, and whatever comes later (promise 6). So what `explain` says is what happens.
//!
//! On SQLite, where this process is the only writer, loaded facts are cached together with the epoch that was
//! read *before* loading; they count only while that epoch is current. PostgreSQL caches no authority. On both,
//! look-ups that meet share a statement.

mod cache;
mod decide;
mod facts;
#[cfg(test)]
mod tests;

pub use crate::grant::Effect;
pub use cache::{Authority, Candidates, Of, usable_at};
pub(crate) use decide::RATE;
pub use decide::{
    Decision, Reason, Request, calling, decide, decide_approved, decide_running, most, principal, require_role, unauthenticated,
};
pub use facts::{
    AgentFacts, ConnectionFacts, Facts, GrantFacts, Origin, Over, Parsed, PersonFacts, TokenFacts, Who, for_agent, for_token_id,
    for_token_page,
};
