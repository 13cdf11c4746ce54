//! Lists at a provider of which a connection takes something: the pages of a person, the properties of a site.
//!
//! 1. A definition names a list and says whether the first entry is taken, all are, or the person chooses.
//! 2. After an account was connected, and after a refresh where the definition says so, the lists are read again
//!    ([`read_again`]): what was chosen stays chosen, and gets its present token. Nothing is chosen for a person.
//! 3. The person chooses on a page, and whoever may speak for them by the API ([`choose`]); both read the list as it is now,
//!    so that only what it holds can be chosen. No new consent is needed.
//!
//! The chosen entries are sealed with the account, with their tokens; beside it stand id and label, for listings. Entries
//! that were not chosen are not kept.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    app_config,
    audit::Event,
    base::{Base, Outside},
    clock::Timestamp,
    connection::{self, Connection, NewConnection, RESOURCES, Stored, calls, open_account},
    error::{Code, Error, Result},
    id::{ConnectionId, SiteId},
    principal::Actor,
    provider::{
        Broker, Definition, OwnClient, Select, Vars,
        step::{Outputs, Step},
    },
    secret::{Secret, SecretMap},
    upstream::Limits,
};

/// How long a provider may take for one list.
const DEADLINE: Duration = Duration::from_secs(30);
/// The most pages of one list that are read.
const MOST_PAGES: usize = 50;
/// The most entries of one list that are read.
const MOST_READ: usize = 1_000;
/// The most entries of one list that can be chosen.
const MOST_CHOSEN: usize = 100;
/// How often a write that met another one is tried again.
const TRIES: usize = 16;

/// A list, as the provider has it now.
#[derive(Clone, Debug, Serialize)]
pub struct List {
    /// Its name in the definition.
    pub name: String,
    /// Whether a person chooses from it; otherwise the definition does.
    pub person_chooses: bool,
    /// The slot for which its entries bring tokens, if they do.
    pub slot: Option<String>,
    /// Whether the choice binds calls ([`Definition::is_bound`]): one about an entry that is not chosen is refused.
    pub is_binding: bool,
    /// What stands in it, in the provider's order.
    pub entries: Vec<Entry>,
}

/// An entry of a list. Its token is not part of it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its id at the provider.
    pub id: String,
    /// What the provider calls it.
    pub label: String,
    /// Whether it is chosen.
    pub chosen: bool,
}

/// What somebody chooses: ids by list. A list that is not named stays as it is.
pub type Choice = BTreeMap<String, Vec<String>>;

/// The lists from which somebody has still to choose.
pub fn open_choices(definition: &Definition, connection: &Connection) -> Vec<String> {
    let open = definition.choices().filter(|(name, _)| !connection.resources.contains_key(*name));
    open.map(|(name, _)| name.to_owned()).collect()
}

/// The lists of a connection as the provider has them now. `account` is what the connection seals, with a token that serves.
///
/// # Errors
/// `upstream_unreachable`, `upstream_timeout`, `upstream_invalid` where a list cannot be had; `host_refused` where the definition
/// names another host for it than it did for this connection.
pub async fn lists(outside: &Outside, connection: &Connection, account: &SecretMap) -> Result<Vec<List>> {
    let definition = outside.definition(&connection.provider)?;
    let mut lists = Vec::new();
    for (name, step) in &definition.resources {
        let found = read(outside, &definition, step, connection, account).await?;
        let chosen = connection.resources.get(name).map(Vec::as_slice).unwrap_or_default();
        let entries = found.into_iter().map(|found| Entry {
            chosen: chosen.iter().any(|one| one.id == found.id),
            id: found.id,
            label: found.label,
        });
        let entries = entries.collect();
        lists.push(List {
            name: name.clone(),
            person_chooses: step.select == Some(Select::User),
            slot: step.slot.clone(),
            is_binding: !step.only.is_empty(),
            entries,
        });
    }
    Ok(lists)
}

/// Chooses from lists, in place of what was chosen from them before. An empty choice takes everything back.
///
/// # Errors
/// `not_found`; `invalid_request` for a list from which nobody chooses, for an entry that is not in it, and for too many;
/// `conflict` where the account changes faster than it can be written; and as [`lists`].
pub async fn choose(
    outside: &Outside,
    site: &SiteId,
    actor: &Actor,
    id: &ConnectionId,
    account: &SecretMap,
    choice: &Choice,
) -> Result<Connection> {
    let connection = connection::require(&outside.base.db, site, id).await?;
    let definition = outside.definition(&connection.provider)?;
    let mut chosen = Vec::new();
    for (name, ids) in choice {
        let Some((_, step)) = definition.choices().find(|(known, _)| known == name) else {
            let known: Vec<_> = definition.choices().map(|(name, _)| name).collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            return Err(Error::new(
                Code::InvalidRequest,
                format!("`{}` is not a list to choose from; {} has {known}", shortened(name), definition.title),
            ));
        };
        if ids.len() > MOST_CHOSEN {
            return Err(Error::new(Code::InvalidRequest, format!("{name}: at most {MOST_CHOSEN} entries can be chosen")));
        }
        let found = read(outside, &definition, step, &connection, account).await?;
        if let Some(other) = ids.iter().find(|id| !found.iter().any(|found| &found.id == *id)) {
            return Err(Error::new(
                Code::InvalidRequest,
                format!("{name}: the provider's list holds no `{}`; look at it again", shortened(other)),
            ));
        }
        chosen.push((name.clone(), found.into_iter().filter(|found| ids.contains(&found.id)).collect()));
    }
    let (connection, _) = write(outside, site, actor, id, "connection.choose", |_| chosen.clone()).await?;
    Ok(connection)
}

/// Reads the lists again, all or those named: what was chosen gets its present label and token, and what the definition
/// chooses is chosen. Says whether somebody has still to choose.
///
/// An entry that was chosen and is not listed any more stays without a token, so that its use tells of it.
///
/// # Errors
/// As [`lists`]; nothing was changed then.
pub async fn read_again(outside: &Outside, site: &SiteId, id: &ConnectionId, names: Option<&[String]>) -> Result<bool> {
    let Some(stored) = connection::load(&outside.base.db, site, id).await? else { return Ok(false) };
    let definition = outside.definition(&stored.connection.provider)?;
    if definition.resources.is_empty() {
        return Ok(false);
    }
    let Some(sealed) = &stored.sealed else { return Ok(false) };
    let account = open_account(&outside.base, &stored.connection, sealed).await?;
    let mut found = Vec::new();
    for (name, step) in &definition.resources {
        // Where a person chooses and nobody did, there is nothing to bring up to date.
        let idle = step.select == Some(Select::User) && !stored.connection.resources.contains_key(name);
        if idle || names.is_some_and(|names| !names.contains(name)) {
            continue;
        }
        found.push((name.clone(), step.select, read(outside, &definition, step, &stored.connection, &account).await?));
    }
    if found.is_empty() {
        return Ok(!open_choices(&definition, &stored.connection).is_empty());
    }
    let (connection, _) = write(outside, site, &Actor::System, id, "connection.lists", |now| {
        let settled = found.iter().map(|(name, select, found)| {
            let entries = match select {
                Some(Select::User) => now.get(name).into_iter().flatten().map(|old| renewed(old, found)).collect(),
                Some(Select::All) | None => found.iter().take(MOST_CHOSEN).cloned().collect(),
            };
            (name.clone(), entries)
        });
        settled.collect()
    })
    .await?;
    Ok(!open_choices(&definition, &connection).is_empty())
}

/// A new connection of the same account, with what was chosen before. The tokens are read again afterwards.
pub async fn carry_over<'n>(base: &Base, old: &Stored, new: &'n NewConnection) -> Result<Cow<'n, NewConnection>> {
    let (Some(sealed), false) = (&old.sealed, old.connection.resources.is_empty()) else {
        return Ok(Cow::Borrowed(new));
    };
    let mut account = open_account(base, &old.connection, sealed).await?;
    let Some(chosen) = account.expose_mut().remove(RESOURCES) else { return Ok(Cow::Borrowed(new)) };
    let mut new = new.clone();
    new.account.expose_mut().insert(RESOURCES.to_owned(), chosen);
    Ok(Cow::Owned(new))
}

/// The token of a chosen entry, for the slot of its list.
#[derive(Debug)]
pub struct SlotToken {
    /// Which entry it is; absent for a slot that the token answer brought.
    pub id: Option<String>,
    /// What is injected: `access_token`.
    pub account: SecretMap,
    /// When it ends; absent while unknown.
    pub expires_at: Option<Timestamp>,
}

/// The token of a slot: that which the token answer brought, or that of the chosen entry. `entry` says which one, where
/// several are chosen.
///
/// # Errors
/// `no_credentials` where there is none; `ambiguous` where several are chosen and none is named, with the choices.
pub fn slot_token(
    definition: &Definition,
    connection: &Connection,
    account: &SecretMap,
    slot: &str,
    entry: Option<&str>,
) -> Result<SlotToken> {
    let none = |why: String| Err(Error::new(Code::NoCredentials, why));
    let Some((list, _)) = definition.resources.iter().find(|(_, step)| step.slot.as_deref() == Some(slot)) else {
        let found = account.expose().get("slots").and_then(|slots| slots.get(slot)).and_then(Value::as_object);
        return match found.map(|found| taken(found, None)) {
            Some(Some(token)) if entry.is_none() => Ok(token),
            _ => none(format!("the account has no token for the slot `{slot}`; connect it again and grant what it needs")),
        };
    };
    let chosen = account.expose().get(RESOURCES).and_then(|lists| lists.get(list)).and_then(Value::as_array);
    let chosen: Vec<&Map<String, Value>> = chosen.into_iter().flatten().filter_map(Value::as_object).collect();
    let id_of = |one: &Map<String, Value>| one.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let one = match (entry, chosen.as_slice()) {
        (Some(wanted), _) => chosen.iter().find(|one| id_of(one) == wanted),
        (None, [only]) => Some(only),
        (None, []) => return none(format!("nothing of `{list}` is chosen yet; whoever owns the account chooses")),
        (None, several) => {
            let named = several.len();
            let choices = connection.resources.get(list).cloned().unwrap_or_default();
            return Err(Error::new(
                Code::Ambiguous,
                format!("{named} entries of `{list}` are chosen; name one by its id: `{slot}/ID`"),
            )
            .with_extra(json!({ "choices": choices })));
        }
    };
    match one.map(|one| taken(one, Some(id_of(one)))) {
        Some(Some(token)) => Ok(token),
        Some(None) => none(format!("the provider does not list that entry of `{list}` any more; choose again")),
        None => none(format!("that entry of `{list}` is not chosen")),
    }
}

fn taken(found: &Map<String, Value>, id: Option<String>) -> Option<SlotToken> {
    let token = found.get("access_token").and_then(Value::as_str).filter(|token| !token.is_empty())?;
    let mut account = SecretMap::default();
    account.set_text("access_token", &Secret::new(token));
    let expires_at = found.get("expires_at").and_then(Value::as_i64).map(Timestamp::from_unix_seconds);
    Some(SlotToken { id, account, expires_at })
}

/// An entry as it was read, with its token.
#[derive(Clone)]
struct Found {
    id: String,
    label: String,
    token: Option<Secret>,
}

/// The chosen entries of an account, by list.
type Now = BTreeMap<String, Vec<Found>>;

/// What was chosen, as the list has it now; without a token where the list does not hold it.
fn renewed(old: &Found, found: &[Found]) -> Found {
    let gone = || Found { token: None, ..old.clone() };
    found.iter().find(|found| found.id == old.id).cloned().unwrap_or_else(gone)
}

/// Brings what `settle` makes of the present choice into the account, by compare-and-set. The connection as it is then, and
/// whether anything changed.
async fn write(
    outside: &Outside,
    site: &SiteId,
    actor: &Actor,
    id: &ConnectionId,
    action: &'static str,
    settle: impl Fn(&Now) -> Vec<(String, Vec<Found>)>,
) -> Result<(Connection, bool)> {
    let base = &outside.base;
    let missing = || Error::new(Code::NotFound, format!("there is no connection `{id}`"));
    for _ in 0..TRIES {
        let stored = connection::load(&base.db, site, id).await?.ok_or_else(missing)?;
        let old = stored.connection;
        let sealed = stored.sealed.ok_or_else(missing)?;
        let mut account = open_account(base, &old, &sealed).await?;
        let before = account.expose().get(RESOURCES).cloned();
        let mut now = present(&account);
        for (name, entries) in settle(&now) {
            now.insert(name, entries);
        }
        now.retain(|_, entries| !entries.is_empty());
        let after = as_json(&now);
        let changed = match (&before, now.is_empty()) {
            (None, true) => false,
            (before, _) => before.as_ref() != Some(&after),
        };
        if !changed {
            return Ok((old, false));
        }
        if now.is_empty() {
            account.expose_mut().remove(RESOURCES);
        } else {
            account.expose_mut().insert(RESOURCES.to_owned(), after);
        }
        base.ring.ensure(&base.db, site.as_str(), old.provider.as_str()).await?;
        let mut tx = base.db.begin().await?;
        if !connection::set_resources(base, &mut tx, &old, &account).await? {
            continue;
        }
        let chosen = connection::resources_of(&account);
        let facts = json!({ "provider": old.provider, "before": old.resources, "chosen": chosen });
        base.audit.record(&mut tx, Event::new(site, actor, action).connection(id).facts(facts)).await?;
        tx.commit().await?;
        return Ok((connection::require(&base.db, site, id).await?, true));
    }
    Err(Error::new(Code::Conflict, "the connection changes all the time; try again"))
}

fn present(account: &SecretMap) -> Now {
    let Some(lists) = account.expose().get(RESOURCES).and_then(Value::as_object) else { return Now::new() };
    let entry = |one: &Value| {
        let text = |name: &str| one.get(name).and_then(Value::as_str);
        Some(Found {
            id: text("id")?.to_owned(),
            label: text("label").unwrap_or_default().to_owned(),
            token: text("access_token").map(Secret::new),
        })
    };
    let entries = |list: &Value| list.as_array().into_iter().flatten().filter_map(entry).collect();
    lists.iter().map(|(name, list)| (name.clone(), entries(list))).collect()
}

fn as_json(now: &Now) -> Value {
    let entry = |found: &Found| {
        let mut one = Map::new();
        one.insert("id".to_owned(), Value::from(found.id.as_str()));
        one.insert("label".to_owned(), Value::from(found.label.as_str()));
        if let Some(token) = &found.token {
            one.insert("access_token".to_owned(), Value::from(token.expose()));
        }
        Value::Object(one)
    };
    Value::Object(now.iter().map(|(name, entries)| (name.clone(), entries.iter().map(entry).collect())).collect())
}

/// Reads one list.
async fn read(
    outside: &Outside,
    definition: &Definition,
    step: &Step,
    connection: &Connection,
    account: &SecretMap,
) -> Result<Vec<Found>> {
    let Connection { site, provider, owner, app_config, .. } = connection;
    let app = app_config::of_account(outside, site, provider, owner, app_config.as_ref()).await?.map(|(_, app)| app);
    let client = OwnClient::of(definition, app.as_ref(), Some(account));
    let vars = Vars {
        app: app.as_ref(),
        fields: Some(account),
        account: Some(account),
        client: client.borrow(),
        id: connection.subject.as_deref(),
        now: Some(outside.base.clock.now()),
        broker: Broker { url: outside.public_url.as_str(), ..Broker::default() },
        ..Vars::default()
    };
    let hosts = calls::known(outside, connection, definition, &vars).await?;
    // One deadline for all the pages: whoever has very many of them is slow.
    let limits = Limits::within(DEADLINE);
    let mut found: Vec<Found> = Vec::new();
    let mut begins: Option<Secret> = None;
    for _ in 0..MOST_PAGES {
        let request = step.render_page(&vars, begins.as_ref())?;
        calls::require(hosts.as_deref(), connection, definition, request.uri())?;
        let answer = outside.upstream.exchange(request, limits).await.map_err(|failure| failure.error)?;
        let page = step.read_page(answer.status, &answer.headers, answer.body.expose()).map_err(|failure| {
            Error::new(Code::UpstreamInvalid, format!("{} did not give out its list: `{}`", definition.title, failure.error))
                .with_detail(&failure)
        })?;
        let (outputs, next) = page;
        for Outputs { id, label, username, display_name, token, .. } in outputs {
            // Without an id nothing can be chosen; of two with the same one the first counts.
            let Some(id) = id.filter(|id| !found.iter().any(|found| &found.id == id)) else { continue };
            let label = label.or(display_name).or(username).unwrap_or_else(|| id.clone());
            found.push(Found { id, label, token });
        }
        let goes_on = match (&next, &begins) {
            (None, _) => false,
            // A page that leads to itself would lead there for ever.
            (Some(next), Some(begins)) => !next.matches(begins),
            (Some(_), None) => true,
        };
        if !goes_on || found.len() >= MOST_READ {
            break;
        }
        begins = next;
    }
    found.truncate(MOST_READ);
    Ok(found)
}

/// What a caller gave, as far as it is repeated to them.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}
