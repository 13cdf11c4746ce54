//! Moving in from another system, and out again.
//!
//! 1. Whoever holds the source reads it, opens what it seals and makes [`item::Item`]s of it: for Data Machine
//!    [`data_machine`]. Nothing of that touches a database.
//! 2. Where items come over a wire, they are put aside until the last of them is there ([`spool`]): no transaction waits for
//!    whoever sends them.
//! 3. [`apply::Import`] takes the items one after the other, seals them in our ring and writes them in one transaction: all
//!    or nothing, also when the process is killed. Whoever waits for the one writer of SQLite waits as long as the items take.
//! 4. What came from where is remembered in `imports`, so that a second import changes nothing, and [`export`] can give back
//!    what there was, as it is now.

pub mod apply;
pub mod data_machine;
pub mod export;
pub mod item;
pub mod spool;
mod store;

use crate::{
    db::Tx,
    error::{Error, Result},
    id::{SiteId, UserId},
};

/// Takes a person out of what is remembered beside the things that were brought over, in the transaction that erases the person.
/// What a thing of theirs was called in its source stays: by that a second import knows that it was there.
pub async fn forget_person(tx: &mut Tx, site: &SiteId, user: &UserId) -> Result<()> {
    for (source, item, stored) in store::naming(tx, site, user).await? {
        let Ok(mut rest) = serde_json::from_str::<item::Rest>(&stored) else { continue };
        // The numbers of a WordPress are the ids here.
        if rest.granted_by.take_if(|by| by.to_string() == user.as_str()).is_some() {
            let left = if rest.is_empty() { None } else { Some(serde_json::to_string(&rest).map_err(Error::internal)?) };
            store::set_rest(tx, site, (&source, &item), left.as_deref()).await?;
        }
    }
    Ok(())
}
