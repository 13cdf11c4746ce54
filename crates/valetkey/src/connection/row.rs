//! The row of a connection, and how it is read.

use super::{Connection, Identity, Renewal, Resources, Status};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    row,
};

/// The columns of [`ConnectionRow`], for the queries that read one.
macro_rules! columns {
    () => {
        "site, id, provider, owner, name, status, status_reason, sealed, version, revision, app_config_id, client_id, subject,
         subject_name, identity, scopes, wanted_scopes, hosts, renewal, access_expires_at, access_issued_at, usual_life,
         refresh_expires_at, last_refreshed_at, connected_at, updated_at, lease_number, lease_holder, spending_version,
         spending_lease, recovered_version, failures, retry_at, last_error, forced_at, revoked_at, resources, warned_end"
    };
}
pub(crate) use columns;

row! {
    #[derive(Clone)]
    pub(crate) struct ConnectionRow {
        pub(crate) site: String,
        pub(crate) id: String,
        pub(crate) provider: String,
        pub(crate) owner: String,
        pub(crate) name: String,
        pub(crate) status: String,
        pub(crate) status_reason: Option<String>,
        pub(crate) sealed: Option<Vec<u8>>,
        pub(crate) version: i64,
        pub(crate) revision: i64,
        pub(crate) app_config_id: Option<String>,
        pub(crate) client_id: Option<String>,
        pub(crate) subject: Option<String>,
        pub(crate) subject_name: Option<String>,
        pub(crate) identity: String,
        pub(crate) scopes: Option<String>,
        pub(crate) wanted_scopes: String,
        pub(crate) hosts: String,
        pub(crate) renewal: String,
        pub(crate) access_expires_at: Option<i64>,
        pub(crate) access_issued_at: Option<i64>,
        pub(crate) usual_life: Option<i64>,
        pub(crate) refresh_expires_at: Option<i64>,
        pub(crate) last_refreshed_at: Option<i64>,
        pub(crate) connected_at: i64,
        pub(crate) updated_at: i64,
        pub(crate) lease_number: i64,
        pub(crate) lease_holder: Option<String>,
        pub(crate) spending_version: Option<i64>,
        pub(crate) spending_lease: Option<i64>,
        pub(crate) recovered_version: Option<i64>,
        pub(crate) failures: i64,
        pub(crate) retry_at: Option<i64>,
        pub(crate) last_error: Option<String>,
        pub(crate) forced_at: Option<i64>,
        pub(crate) revoked_at: Option<i64>,
        pub(crate) resources: Option<String>,
        pub(crate) warned_end: Option<i64>,
    }
}

/// A connection with its sealed account and the state of its refresh.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What everybody who may see it sees.
    pub connection: Connection,
    /// The sealed account; gone once revoked.
    pub sealed: Option<Vec<u8>>,
    /// The lease: a number that grows with each taking.
    pub lease_number: i64,
    /// Who holds the lease; nobody when absent.
    pub lease_holder: Option<String>,
    /// The version that is being spent, as journaled.
    pub spending_version: Option<i64>,
    /// The lease under which it is being spent.
    pub spending_lease: Option<i64>,
    /// The version for which the one recovery attempt was made.
    pub recovered_version: Option<i64>,
    /// When a refresh was last forced by an upstream 401.
    pub forced_at: Option<Timestamp>,
}

impl ConnectionRow {
    pub(crate) fn read(self) -> Result<Stored> {
        let list = |text: &str| serde_json::from_str::<Vec<String>>(text).map_err(Error::internal);
        let status = match (self.status.as_str(), self.revoked_at) {
            ("active", None) => Status::Active,
            ("needs_reauth", None) => Status::NeedsReauth { reason: self.status_reason.unwrap_or_default() },
            ("revoked", Some(at)) => Status::Revoked { at: Timestamp(at) },
            _ => return Err(Error::internal(format!("connection {} has a status that makes no sense", self.id))),
        };
        let connection = Connection {
            id: self.id.parse()?,
            site: self.site.parse()?,
            owner: self.owner.parse()?,
            provider: self.provider.parse()?,
            name: self.name.parse()?,
            status,
            version: self.version,
            revision: self.revision,
            app_config: self.app_config_id.map(|id| id.parse()).transpose()?,
            client_id: self.client_id,
            subject: self.subject,
            subject_name: self.subject_name,
            identity: match self.identity.as_str() {
                "verified" => Identity::Verified,
                "owner" => Identity::Owner,
                // Anything else is not known to be verified.
                _ => Identity::Unverified,
            },
            scopes: self.scopes.as_deref().map(list).transpose()?,
            wanted_scopes: list(&self.wanted_scopes)?,
            hosts: list(&self.hosts)?,
            renewal: match self.renewal.as_str() {
                "refresh_token" => Renewal::RefreshToken,
                "extend" => Renewal::Extend,
                "remint" => Renewal::Remint,
                _ => Renewal::None,
            },
            expires_at: self.access_expires_at.map(Timestamp),
            issued_at: self.access_issued_at.map(Timestamp),
            usual_life: self.usual_life,
            refresh_expires_at: self.refresh_expires_at.map(Timestamp),
            last_refreshed_at: self.last_refreshed_at.map(Timestamp),
            connected_at: Timestamp(self.connected_at),
            updated_at: Timestamp(self.updated_at),
            failures: self.failures,
            retry_at: self.retry_at.map(Timestamp),
            last_error: self.last_error,
            resources: match &self.resources {
                Some(text) => serde_json::from_str(text).map_err(Error::internal)?,
                None => Resources::new(),
            },
            warned_end: self.warned_end.map(Timestamp),
        };
        Ok(Stored {
            connection,
            sealed: self.sealed,
            lease_number: self.lease_number,
            lease_holder: self.lease_holder,
            spending_version: self.spending_version,
            spending_lease: self.spending_lease,
            recovered_version: self.recovered_version,
            forced_at: self.forced_at.map(Timestamp),
        })
    }
}
