//! A provider's lists for whoever looks at them later than at connect: read with a token that serves.

use std::sync::Arc;

use super::{Refresher, Served, Wish, not_there};
use crate::{
    connection::{self, Connection},
    error::Result,
    id::{ConnectionId, SiteId},
    principal::Actor,
    resource::{self, Choice, List},
};

impl Refresher {
    /// The lists of a connection as the provider has them now, with what is chosen.
    ///
    /// # Errors
    /// `not_found`, and as [`Refresher::serve`] and [`resource::lists`].
    pub async fn lists(&self, site: &SiteId, id: &ConnectionId) -> Result<Vec<List>> {
        let served = self.served(site, id).await?;
        resource::lists(&self.0.outside, &served.connection, &served.account).await
    }

    /// Chooses from a connection's lists, without a new consent.
    ///
    /// # Errors
    /// As [`Refresher::serve`] and [`resource::choose`].
    pub async fn choose(&self, site: &SiteId, actor: &Actor, id: &ConnectionId, choice: &Choice) -> Result<Connection> {
        let served = self.served(site, id).await?;
        resource::choose(&self.0.outside, site, actor, id, &served.account, choice).await
    }

    async fn served(&self, site: &SiteId, id: &ConnectionId) -> Result<Served> {
        let stored = connection::load(self.db(), site, id).await?.ok_or_else(|| not_there(id))?;
        self.serve(Arc::new(stored), Wish::default()).await
    }
}
