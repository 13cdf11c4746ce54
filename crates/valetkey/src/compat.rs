//! The calls of before, for code that was written against them (mission document 004). Nothing else in this crate calls
//! them, and the numbers that stand for nobody are read here only.
//!
//! - The context-array calls [`Legacy::get_account`], [`Legacy::save_account`] and [`Legacy::clear_account`]: without a
//!   context they mean the site. With one, the provider's policy chooses, and a warning is logged. What is missing is an
//!   empty object here, for ever.
//! - [`calling_user_id`] reads the payload of mission document 001.

use serde_json::{Map, Value};

use crate::{
    account::Accounts,
    context::Context,
    error::{Code, Error, Result},
    extend::{Entry, Level},
    id::{AgentId, UserId},
    principal::{Owner, Slot},
    secret::SecretMap,
};

/// The label of the one log entry that a call with a context makes.
pub const DEPRECATED: &str = "context-array account call; name the scope in the call, or use account_for_context";

/// The context-array calls over a provider's accounts.
#[derive(Clone, Debug)]
pub struct Legacy {
    accounts: Accounts,
    acting: Context,
}

impl Legacy {
    /// The old calls, and who is acting where they are made: what the old ones asked of their surroundings.
    pub fn new(accounts: Accounts, acting: Context) -> Self {
        Self { accounts, acting }
    }

    /// The account that applies; an empty one where there is none.
    #[deprecated(note = "use `site_account`, `account_for_user` or `account_for_agent`; `account_for_context` asks the policy")]
    pub async fn get_account(&self, context: &Map<String, Value>) -> Result<SecretMap> {
        let found = match self.context(context)? {
            None => self.accounts.read(Owner::Site).await?,
            Some(named) => {
                let resolution = self.accounts.resolve(&named).await?;
                self.warn(&resolution.owner);
                let mut found = None;
                for owner in resolution.owners() {
                    found = self.accounts.read(owner.clone()).await?;
                    if found.is_some() {
                        break;
                    }
                }
                found
            }
        };
        Ok(found.unwrap_or_default())
    }

    /// Stores the account that applies, whole: the one that the policy chooses, and no other.
    #[deprecated(note = "use `save_site_account`, `save_account_for_user` or `save_account_for_agent`")]
    pub async fn save_account(&self, account: SecretMap, context: &Map<String, Value>) -> Result<()> {
        let owner = self.owner(context).await?;
        self.accounts.save(owner, account).await
    }

    /// Deletes the account that applies: the one that the policy chooses, and no other.
    #[deprecated(note = "use `delete_site_account`, `delete_account_for_user` or `delete_account_for_agent`")]
    pub async fn clear_account(&self, context: &Map<String, Value>) -> Result<()> {
        let owner = self.owner(context).await?;
        self.accounts.delete(owner).await
    }

    async fn owner(&self, context: &Map<String, Value>) -> Result<Owner> {
        let Some(named) = self.context(context)? else { return Ok(Owner::Site) };
        let owner = self.accounts.resolve(&named).await?.owner;
        self.warn(&owner);
        Ok(owner)
    }

    /// What a context array names, with who is acting; nothing for an empty one.
    fn context(&self, context: &Map<String, Value>) -> Result<Option<Context>> {
        if context.is_empty() {
            return Ok(None);
        }
        let agent = named::<AgentId>(context, "agent_id")?;
        let user = named::<UserId>(context, "user_id")?;
        Ok(Some(Context { agent, user, ..self.acting.clone() }))
    }

    fn warn(&self, owner: &Owner) {
        let slot: Slot = self.accounts.slot(owner.clone());
        tracing::warn!(provider = %slot.provider, owner = %slot.owner, "{DEPRECATED}");
        let entry = Entry { level: Level::Warning, label: DEPRECATED, slot: &slot, source: None };
        self.accounts.outside().extensions.tell(|sink| sink.log(&entry));
    }
}

/// The person for whom an agent acts, from an invocation's payload (`calling_user_id`); 0 for nobody: where it is missing,
/// no number, or not above zero.
pub fn calling_user_id(payload: &Map<String, Value>) -> u64 {
    payload.get("calling_user_id").and_then(number).and_then(|id| u64::try_from(id).ok()).unwrap_or(0)
}

/// The same, as our own calls name a person: nobody is absent.
pub fn calling_user(payload: &Map<String, Value>) -> Option<UserId> {
    match calling_user_id(payload) {
        0 => None,
        id => id.to_string().parse().ok(),
    }
}

/// An id that a context array names. 0, null and the empty text are nobody. What is no number, or a negative one, is refused:
/// taken for nobody it would reach the site's account, and without its sign another person's.
fn named<T: std::str::FromStr<Err = Error>>(context: &Map<String, Value>, key: &'static str) -> Result<Option<T>> {
    let value = match context.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.is_empty() => return Ok(None),
        Some(value) => value,
    };
    match number(value) {
        Some(0) => Ok(None),
        Some(id) if id > 0 => id.to_string().parse().map(Some),
        _ => Err(Error::new(Code::InvalidRequest, format!("{key}: it is a whole number above zero, or 0 for nobody"))),
    }
}

/// A number, or a text that is one, without what follows its point.
fn number(value: &Value) -> Option<i64> {
    let whole = |number: f64| (number.is_finite() && number.abs() < 9.0e15).then(|| number.trunc() as i64);
    match value {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
            // Words that Rust reads as numbers, and PHP does not.
            let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
            text.parse().ok().or_else(|| plain.then(|| text.parse().ok()).flatten().and_then(whole))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// T-211 to T-215.
    /// whole numbers above zero are the person, everything else is nobody.
    #[test]
    fn the_calling_user_is_read_from_a_payload_as_it_was() {
        let table = [
            (json!({ "calling_user_id": 42 }), 42),
            (json!({ "calling_user_id": 1 }), 1),
            (json!({ "calling_user_id": "99" }), 99),
            (json!({}), 0),
            (json!({ "user_id": 99, "agent_id": 7 }), 0),
            (json!({ "calling_user_id": 0 }), 0),
            (json!({ "calling_user_id": -5 }), 0),
            (json!({ "calling_user_id": null }), 0),
            (json!({ "calling_user_id": "abc" }), 0),
            (json!({ "calling_user_id": [42] }), 0),
            (json!({ "calling_user_id": true }), 0),
            (json!({ "calling_user_id": "inf" }), 0),
            (json!({ "calling_user_id": " 7 " }), 7),
            (json!({ "calling_user_id": "42.9" }), 42),
            (json!({ "calling_user_id": 42, "user_id": 99, "agent_id": 7 }), 42),
        ];
        for (payload, id) in table {
            let payload = map(payload);
            assert_eq!(calling_user_id(&payload), id, "{payload:?}");
            assert_eq!(calling_user(&payload).map(|user| user.to_string()), (id > 0).then(|| id.to_string()), "{payload:?}");
        }
    }

    #[test]
    fn an_id_in_a_context_array_is_nobody_or_somebody_and_never_somebody_else() {
        let read = |value: Value| named::<UserId>(&map(json!({ "user_id": value })), "user_id");
        for nobody in [json!(0), json!("0"), json!(null), json!("")] {
            assert_eq!(read(nobody.clone()).unwrap(), None, "{nobody}");
        }
        for (value, id) in [(json!(42), "42"), (json!("42"), "42"), (json!("007"), "7")] {
            assert_eq!(read(value).unwrap().unwrap().as_str(), id);
        }
        for wrong in [json!(-5), json!("-5"), json!("abc"), json!([42]), json!(true)] {
            assert_eq!(read(wrong.clone()).unwrap_err().code(), Code::InvalidRequest, "{wrong}");
        }
    }
}
