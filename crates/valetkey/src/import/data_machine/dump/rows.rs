//! The rows that are kept, as types.

use std::{fmt, ops};

use zeroize::Zeroize;

use crate::secret::SecretBytes;

/// The bytes of a column. Silent in `Debug`, wiped on drop: it may be anything.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(Vec<u8>);

impl Text {
    /// The text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// The bytes, without a copy.
    pub(super) fn into_secret(mut self) -> SecretBytes {
        SecretBytes::new(std::mem::take(&mut self.0))
    }
}

impl ops::Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a statement gave for a column: nothing, `NULL`, or bytes.
pub(super) type Cell = Option<Option<Vec<u8>>>;

/// How a column becomes a field of a row.
pub(super) trait Column: Sized {
    fn read(cell: Cell) -> Option<Self>;
}

impl Column for u64 {
    fn read(cell: Cell) -> Option<Self> {
        std::str::from_utf8(&cell??).ok()?.parse().ok()
    }
}

impl Column for Text {
    fn read(cell: Cell) -> Option<Self> {
        cell?.map(Text)
    }
}

impl Column for Option<u64> {
    fn read(cell: Cell) -> Option<Self> {
        match cell.flatten() {
            None => Some(None),
            some => u64::read(Some(some)).map(Some),
        }
    }
}

impl Column for Option<Text> {
    fn read(cell: Cell) -> Option<Self> {
        Some(cell.flatten().map(Text))
    }
}

macro_rules! rows {
    ($($(#[$doc:meta])* $row:ident { $($(#[$column_doc:meta])* $column:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $row { $($(#[$column_doc])* pub $column: $type,)* }

        impl $row {
            /// The columns that are kept, as the table names them.
            pub(super) const COLUMNS: &'static [&'static str] = &[$(stringify!($column),)*];

            /// Makes a row of its cells, in the order of the columns; else the name of the column at fault.
            pub(super) fn read(cells: &mut [Cell]) -> Result<Self, &'static str> {
                let mut cells = cells.iter_mut().map(Option::take);
                Ok(Self { $($column: Column::read(cells.next().flatten()).ok_or(stringify!($column))?,)* })
            }
        }
    )*};
}

rows! {
    /// A row of `datamachine_agents`.
    AgentRow {
        /// The agent's number.
        agent_id: u64,
        /// Its short name; unique together with owner and instance.
        agent_slug: Text,
        /// Its display name.
        agent_name: Option<Text>,
        /// The number of the user who owns it.
        owner_id: u64,
        /// Which instance of the agent this is; `default` for most.
        instance_key: Option<Text>,
        /// The SHA-256 of the instance key, in hex.
        instance_key_hash: Option<Text>,
        /// The claim of whoever provisions it.
        provisioning_token: Option<Text>,
        /// When provisioning began (UTC, `YYYY-MM-DD hh:mm:ss`).
        provisioning_started_at: Option<Text>,
        /// When it was provisioned.
        provisioned_at: Option<Text>,
        /// The blog it is limited to.
        site_scope: Option<u64>,
        /// Its configuration, JSON.
        agent_config: Option<Text>,
        /// When it was made.
        created_at: Option<Text>,
        /// When it was changed.
        updated_at: Option<Text>,
    }

    /// A row of `datamachine_agent_tokens`.
    TokenRow {
        /// The token's number.
        token_id: u64,
        /// The agent's number.
        agent_id: u64,
        /// The SHA-256 of the token, in hex.
        token_hash: Text,
        /// What the token begins with, for listings.
        token_prefix: Option<Text>,
        /// A name for people.
        label: Option<Text>,
        /// Its limits, JSON; `NULL` for none.
        capabilities: Option<Text>,
        /// When it was last used.
        last_used_at: Option<Text>,
        /// When it ends; `0000-00-00 00:00:00` occurs.
        expires_at: Option<Text>,
        /// When it was made.
        created_at: Option<Text>,
    }

    /// A row of `datamachine_agent_access`: what a user may do with an agent.
    AccessRow {
        /// The row's number.
        id: u64,
        /// The agent's number.
        agent_id: u64,
        /// The user's number.
        user_id: u64,
        /// `viewer`, `operator` or `admin`.
        role: Text,
        /// When it was granted.
        granted_at: Option<Text>,
    }

    /// A row of `datamachine_agent_principal_access`: what somebody who is no user may do with an agent.
    PrincipalAccessRow {
        /// The row's number.
        id: u64,
        /// The agent's number.
        agent_id: u64,
        /// What kind of principal it is.
        principal_type: Text,
        /// Which one.
        principal_id: Text,
        /// `viewer`, `operator` or `admin`.
        role: Text,
        /// When it was granted.
        granted_at: Option<Text>,
    }
}
