//! An account that somebody else holds, described as a connection is: for one call, and never stored.

use super::{Connection, Identity, Renewal, Resources, Status, Stored, accounts, resources_of};
use crate::{app_config, base::Outside, clock::Timestamp, error::Result, id::ConnectionId, principal::Slot, secret::SecretMap};

impl Connection {
    /// A connection that there is not: a place with nothing in it.
    pub(crate) fn of_nothing(slot: &Slot, now: Timestamp) -> Self {
        Self {
            id: ConnectionId::new(),
            site: slot.site.clone(),
            owner: slot.owner.clone(),
            provider: slot.provider.clone(),
            name: slot.name.clone(),
            status: Status::Active,
            version: 0,
            revision: 0,
            app_config: None,
            client_id: None,
            subject: None,
            subject_name: None,
            identity: Identity::Unverified,
            scopes: None,
            wanted_scopes: Vec::new(),
            hosts: Vec::new(),
            renewal: Renewal::None,
            expires_at: None,
            issued_at: None,
            usual_life: None,
            refresh_expires_at: None,
            last_refreshed_at: None,
            connected_at: now,
            updated_at: now,
            failures: 0,
            retry_at: None,
            last_error: None,
            resources: Resources::new(),
            warned_end: None,
        }
    }
}

/// What a call needs to know of an account that is held elsewhere: the hosts that it may go to, by the definition as it is
/// now, each checked; when its token ends; and the app that would have asked for it.
///
/// # Errors
/// `not_found` without a definition; `invalid_request` and `address_refused` where the account names no server that it may go
/// to, or an end that is no time.
pub async fn describe(outside: &Outside, slot: &Slot, account: &SecretMap) -> Result<Stored> {
    let definition = outside.definition(&slot.provider)?;
    let now = outside.base.clock.now();
    let app = app_config::applying(outside, &slot.site, &slot.provider, &slot.owner).await?;
    let tokens = accounts::tokens(&definition, account, now)?;
    let connection = Connection {
        hosts: accounts::hosts(outside, &definition, account)?,
        expires_at: tokens.expires_at,
        scopes: tokens.scopes,
        resources: resources_of(account),
        client_id: app.as_ref().and_then(|app| app.client_id.clone()),
        app_config: app.map(|app| app.id),
        ..Connection::of_nothing(slot, now)
    };
    Ok(Stored {
        connection,
        sealed: None,
        lease_number: 0,
        lease_holder: None,
        spending_version: None,
        spending_lease: None,
        recovered_version: None,
        forced_at: None,
    })
}
