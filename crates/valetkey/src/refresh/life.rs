//! How an access token stands: whether it serves, whether it is due, whether it can be renewed at all. Pure.

use std::time::Duration;

use super::MINUTE;
use crate::{
    clock::Timestamp,
    connection::{Connection, Renewal, Stored, due_at},
    provider::{Definition, RefreshStrategy, Rotation},
};

/// A token that ends sooner is renewed before it is handed out: it must still live when it arrives.
pub(super) const MARGIN: Duration = Duration::from_secs(10);

/// A connection's token, at one moment.
pub(super) struct Life<'a> {
    stored: &'a Stored,
    definition: Option<&'a Definition>,
    now: Timestamp,
}

impl<'a> Life<'a> {
    pub(super) fn new(stored: &'a Stored, definition: Option<&'a Definition>, now: Timestamp) -> Self {
        Self { stored, definition, now }
    }

    /// Whether the token's end is known and has come.
    pub(super) fn has_ended(&self) -> bool {
        self.connection().expires_at.is_some_and(|end| end <= self.now)
    }

    /// Whether the token can be handed out as it is. One whose end is unknown can (R32).
    pub(super) fn serves(&self) -> bool {
        if !self.is_renewable() {
            return !self.has_ended();
        }
        serves(self.connection(), self.now)
    }

    /// Whether there is a way to another token.
    pub(super) fn is_renewable(&self) -> bool {
        let Some(refresh) = self.definition.map(|definition| &definition.refresh) else { return false };
        if refresh.step.is_none() {
            return false;
        }
        match (self.connection().renewal, refresh.strategy) {
            (Renewal::RefreshToken, RefreshStrategy::RefreshToken) => true,
            (Renewal::Extend, RefreshStrategy::Extend) => {
                let old_enough = match (refresh.min_age, self.connection().issued_at) {
                    (Some(least), Some(issued)) => self.now.since(issued) >= least,
                    _ => true,
                };
                old_enough && (refresh.accept_expired || !self.has_ended())
            }
            (Renewal::Remint, RefreshStrategy::Remint) => true,
            (Renewal::Remint, RefreshStrategy::RefreshToken) => refresh.fallback.is_some(),
            _ => false,
        }
    }

    /// Whether it should be renewed ahead of its end, now.
    pub(super) fn is_due(&self) -> bool {
        let connection = self.connection();
        let Some(definition) = self.definition else { return false };
        let due =
            due_at(definition, connection.renewal, connection.issued_at, connection.expires_at, connection.refresh_expires_at);
        due.is_some_and(|due| due <= self.now) && self.is_renewable() && !self.is_resting() && !self.answer_was_lost()
    }

    /// When the keeper should look at it again, if nothing is to be done now; absent for never.
    pub(super) fn look_again_at(&self) -> Option<Timestamp> {
        let connection = self.connection();
        if self.answer_was_lost() {
            return connection.expires_at;
        }
        let definition = self.definition?;
        let due =
            due_at(definition, connection.renewal, connection.issued_at, connection.expires_at, connection.refresh_expires_at)?;
        Some(connection.retry_at.map_or(due, |at| due.max(at)))
    }

    /// Whether a wish for so much life is a reason to renew it.
    pub(super) fn is_worth_renewing_for(&self, least: Duration) -> bool {
        let connection = self.connection();
        let Some(end) = connection.expires_at else { return false };
        if connection.issued_at.is_some_and(|issued| self.now.since(issued) < MINUTE) {
            return false;
        }
        let usual = match (connection.usual_life, connection.issued_at) {
            (Some(seconds), _) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            (None, Some(issued)) => end.since(issued),
            (None, None) => return false,
        };
        let short = end.since(self.now) < least.min(usual / 2);
        short && self.is_renewable() && !self.is_resting() && !self.answer_was_lost()
    }

    /// Whether a failed attempt says to wait.
    pub(super) fn is_resting(&self) -> bool {
        self.connection().retry_at.is_some_and(|at| at > self.now)
    }

    /// Whether the present version was sent and nobody knows what came of it.
    ///
    /// Only a refresh token that rotates can be lost so. One that never rotates, an access token that is extended, and what
    /// a token is minted from are as good after an answer as before it.
    pub(super) fn answer_was_lost(&self) -> bool {
        let spends = self.connection().renewal != Renewal::Remint && self.definition.is_none_or(Self::rotates);
        spends && self.stored.spending_version == Some(self.connection().version)
    }

    /// Whether what a refresh spends may be worth nothing afterwards.
    pub(super) fn rotates(definition: &Definition) -> bool {
        definition.refresh.strategy == RefreshStrategy::RefreshToken && definition.refresh.rotation != Rotation::Never
    }

    fn connection(&self) -> &Connection {
        &self.stored.connection
    }
}

/// Whether a token that can be renewed is handed out as it is.
pub(super) fn serves(connection: &Connection, now: Timestamp) -> bool {
    let Some(end) = connection.expires_at else { return true };
    let life = connection.issued_at.map_or(Duration::MAX, |issued| end.since(issued));
    now.plus(MARGIN.min(life / 4)) < end
}
