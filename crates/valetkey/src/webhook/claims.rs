//! Claims that nobody will settle: whoever held them died, or stands still.
//!
//! Nobody trusts another machine's clock (decisions 1): a claim bears no time, but a number that grows. A replica takes one back
//! after it has itself seen the same number for as long as a claim lives, by its own monotonic clock. The number grows again by
//! that, so that what the former holder may still write down is compared with it and counts for nothing.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::store::{self, Held};
use crate::{base::Base, error::Result};

/// The claims that this process sees, and since when.
#[derive(Default)]
pub(super) struct Sightings(HashMap<Held, Instant>);

impl Sightings {
    /// Looks at the claims that there are, and takes those back that were seen unchanged for `life`; says how many. What is taken
    /// back is due at once.
    pub(super) async fn take_back(&mut self, base: &Base, life: Duration) -> Result<usize> {
        let held: HashSet<Held> = store::claims(&base.db).await?.into_iter().collect();
        self.0.retain(|claim, _| held.contains(claim));
        let mut taken = 0;
        for claim in held {
            let since = *self.0.entry(claim.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= life && store::take_back(&base.db, &claim, base.clock.now()).await? {
                tracing::info!(
                    webhook.id = claim.webhook,
                    message.id = claim.message,
                    "a message was claimed and not settled; it is sent again"
                );
                taken += 1;
            }
        }
        Ok(taken)
    }
}
