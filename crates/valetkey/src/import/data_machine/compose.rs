//! Items of ours as what Data Machine stores: the reverse of [`super::plan`].
//!
//! 1. Items are put where they stood in their source, those made here at the end; so what did not change is written as it was.
//! 2. The members that Data Machine seals are sealed under the given salts, and so are those that were sealed when they came.
//! 3. What the old format cannot hold is a loss with its reason: ids that are no numbers, names outside its grammar.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    envelope,
    php::{Entries, Key, Value},
    plan::{PEER_PROVIDER, PEER_URL},
    value::{self, Json},
};
use crate::{
    error::Result,
    id::{ProviderName, UserId},
    import::{
        export::Loss,
        item::{Item, Plain, Rest},
    },
    principal::Owner,
};

/// What Data Machine stores.
#[derive(Debug, Default)]
pub struct Composed {
    /// The option `datamachine_auth_data`.
    pub auth_data: Value<'static>,
    /// The option `datamachine_external_tokens`.
    pub external_tokens: Value<'static>,
    /// Agents, roles and tokens whose ids are numbers.
    pub tables: Vec<Item>,
    /// What it cannot hold.
    pub losses: Vec<Loss>,
}

/// Puts items together. Without a key nothing is sealed.
///
/// # Errors
/// A value cannot be sealed.
pub fn compose(mut items: Vec<(Option<u64>, Item)>, key: Option<&envelope::Key>) -> Result<Composed> {
    items.sort_by_key(|(at, _)| at.unwrap_or(u64::MAX));
    let mut composer =
        Composer { key, options: Entries::default(), peers: Entries::default(), tables: Vec::new(), losses: Vec::new() };
    for (_, item) in items {
        composer.item(item)?;
    }
    Ok(Composed {
        auth_data: Value::Array(composer.options),
        external_tokens: Value::Array(composer.peers),
        tables: composer.tables,
        losses: composer.losses,
    })
}

struct Composer<'k> {
    key: Option<&'k envelope::Key>,
    options: Entries<'static>,
    peers: Entries<'static>,
    tables: Vec<Item>,
    losses: Vec<Loss>,
}

impl Composer<'_> {
    fn item(&mut self, item: Item) -> Result<()> {
        match item {
            Item::GonePerson { .. } => {}
            Item::Agent { ref agent, ref owner, .. } => {
                let fine = number(agent.as_str()).is_some() && owner.as_ref().is_some_and(is_number);
                self.table(format!("agent {agent}"), fine, item);
            }
            Item::Role { ref agent, ref user, .. } => {
                let fine = number(agent.as_str()).is_some() && is_number(user);
                self.table(format!("role of {user} on agent {agent}"), fine, item);
            }
            Item::Token { ref agent, ref person, ref hash, .. } => {
                let fine = number(agent.as_str()).is_some() && is_number(person);
                self.table(format!("token {}", &hash[..8.min(hash.len())]), fine, item);
            }
            Item::Config { provider, owner, values, rest } => {
                let what = format!("configuration of {provider}, {owner}");
                self.put(what, &provider, &owner, &[text_key("config")], &values, &rest)?;
            }
            Item::Account { provider, owner, name, account, rest, .. } if provider.as_str() == PEER_PROVIDER => {
                self.peer(&owner, name, &account, &rest);
            }
            Item::Account { provider, owner, name, account, rest, .. } => {
                let what = format!("account `{name}` of {provider}, {owner}");
                let name = rest.name.clone().unwrap_or(name);
                if name.is_empty() {
                    self.put(what, &provider, &owner, &[text_key("account")], &account, &rest)?;
                } else if is_account_name(&name) {
                    self.put(what, &provider, &owner, &[text_key("accounts"), value::key_of(&name)], &account, &rest)?;
                } else {
                    self.lose(what, "its name is none at Data Machine");
                }
            }
            Item::Grant { provider, owner, name, agent, operations, rest } => {
                let what = format!("what agent {agent} may do with `{name}` of {provider}, {owner}");
                let (Some(holder), Some(_)) = (owner_key(&owner, "site:0"), number(agent.as_str())) else {
                    self.lose(what, "an id is no number");
                    return Ok(());
                };
                let words = operations.iter().filter_map(|operation| operation.strip_prefix("MAIL /"));
                let words = words.enumerate().map(|(at, word)| (Key::Int(at as i64), text(word))).collect();
                let mut terms = vec![(text_key("operations"), Value::Array(words))];
                terms.extend(rest.granted_at.as_deref().map(|at| (text_key("granted_at"), text(at))));
                terms.extend(rest.granted_by.map(|by| (text_key("granted_by"), Value::Int(by))));
                let path = [text_key("delegations"), text_key(&holder), value::key_of(&name)];
                let place = self.place(&provider, &rest, &path);
                set(place, text_key(&format!("agent:{agent}")), Value::Array(Entries::from(terms)));
            }
            Item::Nothing { provider, path, rest } => {
                let keys: Vec<Key<'static>> = path.split('/').filter(|part| !part.is_empty()).map(value::key_of).collect();
                self.place(&provider, &rest, &keys);
            }
        }
        Ok(())
    }

    fn table(&mut self, what: String, fine: bool, item: Item) {
        if fine {
            self.tables.push(item);
        } else {
            self.lose(what, "an id is no number, or there is no owner");
        }
    }

    /// Puts an account or configuration where it belongs.
    fn put(
        &mut self,
        what: String,
        provider: &ProviderName,
        owner: &Owner,
        path: &[Key<'static>],
        object: &Plain,
        rest: &Rest,
    ) -> Result<()> {
        let Some(holder) = owner_key(owner, "") else {
            self.lose(what, "its owner's id is no number");
            return Ok(());
        };
        let Some(mut entries) = entries_of(object) else {
            self.lose(what, "it is no object");
            return Ok(());
        };
        if let Some(key) = self.key {
            key.seal_fields(provider.as_str(), &mut entries)?;
            for (name, value) in entries.iter_mut() {
                if let Value::Text(text) = value
                    && rest.sealed.iter().any(|sealed| sealed.as_bytes() == name.to_bytes().as_ref())
                    && !envelope::is_envelope(text)
                {
                    *value = Value::Text(Cow::Owned(key.seal(text)?.into_bytes()));
                }
            }
        }
        let mut place = Vec::new();
        if !holder.is_empty() {
            place.extend([text_key("principals"), text_key(&holder)]);
        }
        place.extend_from_slice(path);
        let Some(last) = place.pop() else { return Ok(()) };
        set(self.place(provider, rest, &place), last, Value::Array(entries));
        Ok(())
    }

    fn peer(&mut self, owner: &Owner, name: String, account: &Plain, rest: &Rest) {
        match (owner, entries_of(account)) {
            (Owner::Site, Some(mut entries)) if !name.is_empty() => {
                if !rest.url_came {
                    entries.retain(|(key, _)| *key != text_key(PEER_URL));
                }
                let name = rest.name.clone().unwrap_or(name);
                set(&mut self.peers, value::key_of(&name), Value::Array(entries));
            }
            _ => self.lose(
                format!("account `{name}` of {PEER_PROVIDER}, {owner}"),
                "a token for another site is the site's, and has a name",
            ),
        }
    }

    /// The array at a path below a provider; made where it is not there yet.
    fn place(&mut self, provider: &ProviderName, rest: &Rest, path: &[Key<'static>]) -> &mut Entries<'static> {
        let slug = rest.slug.as_ref().and_then(|slug| STANDARD.decode(slug).ok());
        let first = slug.map_or_else(|| value::key_of(provider.as_str()), |slug| Key::from_text(Cow::Owned(slug)));
        let mut place = step(&mut self.options, &first);
        for key in path {
            place = step(place, key);
        }
        place
    }

    fn lose(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.losses.push(Loss { what: what.into(), why: why.into() });
    }
}

/// The array under a key.
fn step<'e>(entries: &'e mut Entries<'static>, key: &Key<'static>) -> &'e mut Entries<'static> {
    // Items come in order, so it is nearly always the last one.
    let at = match entries.iter().rposition(|(known, _)| known == key) {
        Some(at) => at,
        None => {
            entries.push((key.clone(), Value::Array(Entries::default())));
            entries.len() - 1
        }
    };
    if !matches!(entries[at].1, Value::Array(_)) {
        entries[at].1 = Value::Array(Entries::default());
    }
    match &mut entries[at].1 {
        Value::Array(inner) => inner,
        // It was made one just now.
        _ => unreachable!("it is an array"),
    }
}

fn set(entries: &mut Entries<'static>, key: Key<'static>, value: Value<'static>) {
    match entries.iter_mut().find(|(known, _)| *known == key) {
        Some((_, present)) => *present = value,
        None => entries.push((key, value)),
    }
}

/// The entries of a stored object.
fn entries_of(object: &Plain) -> Option<Entries<'static>> {
    let json: Json = serde_json::from_str(object.0.expose()).ok()?;
    match value::to_php(&json) {
        Value::Array(entries) => Some(entries),
        _ => None,
    }
}

/// How Data Machine names an owner; nothing where the id is no number of its kind.
fn owner_key(owner: &Owner, site: &str) -> Option<String> {
    match owner {
        Owner::Site => Some(site.to_owned()),
        Owner::User(user) => number(user.as_str()).map(|id| format!("user:{id}")),
        Owner::Agent(agent) => number(agent.as_str()).map(|id| format!("agent:{id}")),
    }
}

fn is_number(user: &UserId) -> bool {
    number(user.as_str()).is_some()
}

fn number(id: &str) -> Option<i64> {
    id.parse().ok().filter(|number: &i64| *number > 0 && number.to_string() == id)
}

fn is_account_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

fn text(text: &str) -> Value<'static> {
    Value::Text(Cow::Owned(text.as_bytes().to_vec()))
}

fn text_key(name: &str) -> Key<'static> {
    Key::Text(Cow::Owned(name.as_bytes().to_vec()))
}
