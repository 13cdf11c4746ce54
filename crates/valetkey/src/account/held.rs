//! Accounts that a registered resolver holds: whatever is done with one is done there, and recorded here.

use serde_json::json;

use super::{Account, Kept, Saved};
use crate::{
    audit::Event,
    base::Outside,
    connection::accounts::{IfMatch, Precondition},
    error::{Code, Error, Result},
    extend::Held,
    principal::{Actor, Slot},
    secret::SecretMap,
};

/// An account held elsewhere has no entity tag of ours: whoever names one read something else.
pub(super) fn check(precondition: &Precondition) -> Result<()> {
    let failed = |text: &'static str| Err(Error::new(Code::PreconditionFailed, text));
    match precondition {
        Precondition { if_none: true, .. } => failed("there is an account already"),
        Precondition { if_match: Some(IfMatch::Tags(_)), .. } => failed("the account is kept elsewhere, and has no ETag"),
        _ => Ok(()),
    }
}

pub(super) async fn reveal(outside: &Outside, actor: &Actor, slot: &Slot, held: Held) -> Result<Account> {
    outside.base.audit.record_use(event(actor, slot, "account.reveal", &held)).await?;
    Ok(Account { account: held.account, kept: Kept::By(held.resolver.name()) })
}

pub(super) async fn save(outside: &Outside, actor: &Actor, slot: &Slot, held: &Held, account: &SecretMap) -> Result<Saved> {
    held.resolver.save(slot, account).await?;
    outside.base.audit.record_use(event(actor, slot, "account.put", held)).await?;
    Ok(Saved { kept: Kept::By(held.resolver.name()), created: false })
}

pub(super) async fn delete(outside: &Outside, actor: &Actor, slot: &Slot, held: &Held) -> Result<()> {
    held.resolver.delete(slot).await?;
    outside.base.audit.record_use(event(actor, slot, "account.delete", held)).await
}

fn event(actor: &Actor, slot: &Slot, action: &'static str, held: &Held) -> Event {
    let facts = json!({ "provider": slot.provider, "owner": slot.owner, "name": slot.name, "kept_by": held.resolver.name() });
    Event::new(&slot.site, actor, action).facts(facts)
}
