//! What Data Machine stored, as items of ours.
//!
//! 1. A provider's node holds `config`, `account`, `accounts` (named ones), `principals` (the same three for each person
//!    and agent) and `delegations` (mailboxes lent to agents). Each part becomes one [`Item`]; a part that holds nothing is
//!    kept in mind, so that an export is complete.
//! 2. Envelopes are opened here. Data Machine itself seals a list of members, and plugins add theirs, which nobody can know
//!    from outside; so every envelope in a member of an account or configuration is opened where it opens. One that does
//!    not is left out of the account and listed; only what is no envelope by its form stays as the text it is.
//! 3. What Data Machine could never have read itself (an owner or a name outside its grammar) is skipped and listed, and so is an
//!    account or configuration that is larger than an account may be here.
//! 4. A provider's name outside our grammar gets one inside it; what it was called is kept for an export.

use std::{borrow::Cow, collections::BTreeSet, ops::ControlFlow};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{
    envelope,
    php::{Entries, Key, Value},
    tables::Tables,
    value,
};
use crate::{
    connection::accounts::MAX_ACCOUNT,
    id::{AgentId, ProviderName, UserId, sha256_hex},
    import::item::{Item, Line, Plain, Rest},
    principal::Owner,
    secret::Secret,
};

/// The provider whose accounts are other Data Machine sites.
pub const PEER_PROVIDER: &str = "data_machine_site";
/// The member of such an account that is ours.
pub const PEER_URL: &str = "url";
/// The provider whose mailboxes can be lent to agents.
const MAIL_PROVIDER: &str = "email_imap";
/// What a mailbox may be lent for.
const MAIL_OPERATIONS: [&str; 8] = ["read", "search", "draft", "send", "reply", "organize", "delete", "unsubscribe"];

/// What became of the source beside its items.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// How many items there are.
    pub items: u64,
    /// Values that could not be opened; they are in no item.
    pub unreadable: Vec<Unreadable>,
    /// What is not brought over.
    pub skipped: Vec<Skipped>,
    /// What is called otherwise here.
    pub renamed: Vec<Renamed>,
    /// Members that were opened although Data Machine alone would have handed out the envelope.
    pub opened_beyond: Vec<Member>,
    /// Whether there was any envelope at all.
    pub sealed: u64,
}

/// One member of one account or configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// The provider.
    pub provider: ProviderName,
    /// Whose.
    pub owner: Owner,
    /// `config`, `account`, or `accounts/NAME`.
    pub part: String,
    /// The member.
    pub field: String,
}

/// A value that could not be opened.
#[derive(Clone, Debug, Serialize)]
pub struct Unreadable {
    /// Where it is.
    #[serde(flatten)]
    pub member: Member,
    /// A stable word.
    pub reason: &'static str,
}

/// Something that is not brought over.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// Where it is in the source.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Something that is called otherwise here.
#[derive(Clone, Debug, Serialize)]
pub struct Renamed {
    /// Where it is in the source.
    pub path: String,
    /// What it is called here.
    pub name: String,
}

/// Opens envelopes, and hands the items on.
pub(super) struct Planner<'p> {
    key: Option<&'p envelope::Key>,
    each: &'p mut dyn FnMut(Line) -> ControlFlow<()>,
    at: u64,
    pub(super) findings: Findings,
}

/// Whoever takes the items wants no more of them.
#[derive(Debug)]
pub struct Stopped;

type Planned = Result<(), Stopped>;

/// Every provider that the items of these options will name.
pub fn providers(auth_data: Option<&Value<'_>>, external_tokens: Option<&Value<'_>>) -> BTreeSet<ProviderName> {
    let mut names = BTreeSet::new();
    if let Some(Value::Array(entries)) = auth_data {
        names.extend(entries.iter().filter_map(|(slug, _)| provider_name(slug)));
    }
    if external_tokens.is_some() {
        names.extend(provider_name(&value::key_of(PEER_PROVIDER)));
    }
    names
}

impl<'p> Planner<'p> {
    pub(super) fn new(key: Option<&'p envelope::Key>, each: &'p mut dyn FnMut(Line) -> ControlFlow<()>) -> Self {
        Self { key, each, at: 0, findings: Findings::default() }
    }

    /// Hands an item on.
    pub(super) fn give(&mut self, at: u64, item: Item) -> Planned {
        self.findings.items += 1;
        match (self.each)(Line::Item { at, item }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stopped),
        }
    }

    pub(super) fn skip(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.findings.skipped.push(Skipped { path: path.into(), reason: reason.into() });
    }

    /// The option that holds every account.
    pub(super) fn auth_data(&mut self, option: &Value<'_>) -> Planned {
        let Value::Array(providers) = option else {
            self.skip("", format!("the option is no array but {}", option.kind()));
            return Ok(());
        };
        for (slug, node) in providers {
            let begin = self.at;
            let label = printable(slug);
            let Some(provider) = provider_name(slug) else {
                self.skip(label, "no provider can have this name");
                continue;
            };
            let renamed = slug.to_bytes() != provider.as_str().as_bytes();
            if renamed {
                self.findings.renamed.push(Renamed { path: label.clone(), name: provider.to_string() });
            }
            let slug = renamed.then(|| STANDARD.encode(slug.to_bytes()));
            // Configurations first: an account is linked with the app whose client minted it.
            for configs in [true, false] {
                self.at = begin;
                Node { planner: self, provider: &provider, label: &label, slug: &slug, configs }.provider(node)?;
            }
        }
        Ok(())
    }

    /// The option that holds the tokens for other sites.
    pub(super) fn external_tokens(&mut self, option: &Value<'_>) -> Planned {
        let Value::Array(peers) = option else {
            self.skip("datamachine_external_tokens", format!("the option is no array but {}", option.kind()));
            return Ok(());
        };
        let Some(provider) = provider_name(&value::key_of(PEER_PROVIDER)) else { return Ok(()) };
        for (peer, entry) in peers {
            let path = format!("datamachine_external_tokens/{}", printable(peer));
            let at = self.next();
            let Value::Array(members) = entry else {
                self.skip(path, format!("it is no array but {}", entry.kind()));
                continue;
            };
            let Some(name) = text_of(peer).filter(|name| name.parse::<crate::id::AccountName>().is_ok() && name != "default")
            else {
                self.skip(path, "no account can have this name");
                continue;
            };
            // Ours besides: the address that the proxy goes to, which there is put together when it is used.
            let address = address_of(members).map(|url| Value::Text(Cow::Owned(url.into_bytes())));
            let url = value::key_of(PEER_URL);
            let ours = address.iter().filter(|_| members.get(PEER_URL).is_none()).map(|address| (&url, address));
            let mut out = String::new();
            if value::write_object(&mut out, value::each(members).chain(ours)).is_err() {
                self.skip(path, TOO_DEEP);
                continue;
            }
            let account = Plain(Secret::new(out));
            if account.0.expose().len() > MAX_ACCOUNT {
                self.skip(path, too_large());
                continue;
            }
            let provider = provider.clone();
            let rest = Rest { url_came: members.get(PEER_URL).is_some(), ..Rest::default() };
            self.give(at, Item::Account { provider, owner: Owner::Site, name, account, incomplete: false, rest })?;
        }
        Ok(())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.at += 1;
        self.at - 1
    }

    /// The JSON object of an account or configuration with its envelopes opened; or why it is not brought over.
    fn object(&mut self, member: &Member, entries: &Entries<'_>) -> Result<Opened, String> {
        let (mut sealed, mut incomplete) = (Vec::new(), false);
        // What stands in the place of an envelope: the opened text, or nothing at all.
        let mut instead: Vec<(usize, Option<Value<'static>>)> = Vec::new();
        let mut length = 2;
        for (at, (key, value)) in entries.iter().enumerate() {
            let Value::Text(bytes) = value else {
                length += 32;
                continue;
            };
            length += bytes.len() + 32;
            if !envelope::is_envelope(bytes) {
                continue;
            }
            let name = text_of(key).unwrap_or_else(|| printable(key));
            let listed = envelope::is_sealed_field(member.provider.as_str(), &key.to_bytes());
            let member = || Member { field: name.clone(), ..member.clone() };
            self.findings.sealed += 1;
            let reason = match self.key.map(|key| key.open(bytes)) {
                Some(Ok(plain)) => {
                    instead.push((at, Some(Value::Text(Cow::Owned(plain.expose().to_vec())))));
                    if !listed {
                        self.findings.opened_beyond.push(member());
                        sealed.push(name);
                    }
                    continue;
                }
                // It only begins like one: Data Machine hands it out as the text it is, and so do we.
                Some(Err(reason)) if !listed && reason != envelope::Unreadable::DoesNotOpen => continue,
                Some(Err(reason)) => reason.as_str(),
                None => "no_salts",
            };
            self.findings.unreadable.push(Unreadable { member: member(), reason });
            instead.push((at, None));
            incomplete = true;
        }
        let mut out = String::with_capacity(length);
        let entries = entries.iter().enumerate().filter_map(|(at, (key, value))| {
            match instead.binary_search_by_key(&at, |(at, _)| *at).map(|found| &instead[found].1) {
                Ok(Some(opened)) => Some((key, opened)),
                Ok(None) => None,
                Err(_) => Some((key, value)),
            }
        });
        value::write_object(&mut out, entries).map_err(|_| TOO_DEEP.to_owned())?;
        let object = Plain(Secret::new(out));
        if object.0.expose().len() > MAX_ACCOUNT { Err(too_large()) } else { Ok(Opened { object, sealed, incomplete }) }
    }
}

const TOO_DEEP: &str = "it is nested too deeply";

/// What cannot be stored by the account routes could never be changed here.
fn too_large() -> String {
    format!("it is larger than {MAX_ACCOUNT} bytes; make it smaller at the source, or connect it here")
}

struct Opened {
    object: Plain,
    sealed: Vec<String>,
    incomplete: bool,
}

/// One walk over a provider's node: either for its configurations or for everything else. Both walks count the same.
struct Node<'w, 'p> {
    planner: &'w mut Planner<'p>,
    provider: &'w ProviderName,
    label: &'w str,
    slug: &'w Option<String>,
    configs: bool,
}

impl Node<'_, '_> {
    fn provider(&mut self, node: &Value<'_>) -> Planned {
        let Value::Array(parts) = node else {
            self.planner.next();
            return self.skip("", format!("it is no array but {}", node.kind()));
        };
        if parts.is_empty() {
            return self.nothing("");
        }
        for (part, value) in parts {
            match part.to_bytes().as_ref() {
                b"principals" => self.principals(value)?,
                b"delegations" => self.delegations(value)?,
                _ => self.part(&Owner::Site, "", part, value)?,
            }
        }
        Ok(())
    }

    fn principals(&mut self, node: &Value<'_>) -> Planned {
        let Value::Array(principals) = node else {
            self.planner.next();
            return self.skip("principals", format!("it is no array but {}", node.kind()));
        };
        if principals.is_empty() {
            return self.nothing("principals");
        }
        for (key, node) in principals {
            let path = format!("principals/{}", printable(key));
            let Some(owner) = principal(key) else {
                self.planner.next();
                self.skip(&path, "no person or agent has this name")?;
                continue;
            };
            match node {
                Value::Array(parts) if parts.is_empty() => self.nothing(&path)?,
                Value::Array(parts) => {
                    for (part, value) in parts {
                        self.part(&owner, &format!("{path}/"), part, value)?;
                    }
                }
                other => {
                    self.planner.next();
                    self.skip(&path, format!("it is no array but {}", other.kind()))?;
                }
            }
        }
        Ok(())
    }

    fn part(&mut self, owner: &Owner, path: &str, part: &Key<'_>, value: &Value<'_>) -> Planned {
        let path = format!("{path}{}", printable(part));
        match part.to_bytes().as_ref() {
            b"config" => self.config(owner, &path, value),
            b"account" => self.account(owner, &path, "", None, value),
            b"accounts" => {
                let Value::Array(named) = value else {
                    self.planner.next();
                    return self.skip(&path, format!("it is no array but {}", value.kind()));
                };
                if named.is_empty() {
                    return self.nothing(&path);
                }
                for (name, account) in named {
                    let path = format!("{path}/{}", printable(name));
                    match account_name(name) {
                        Some((ours, theirs)) => self.account(owner, &path, &ours, theirs, account)?,
                        None => {
                            self.planner.next();
                            self.skip(&path, "an account's name is made of a-z, 0-9, dot, hyphen and underscore")?;
                        }
                    }
                }
                Ok(())
            }
            _ => {
                self.planner.next();
                self.skip(&path, "it is no part of a provider")
            }
        }
    }

    fn config(&mut self, owner: &Owner, path: &str, value: &Value<'_>) -> Planned {
        let Value::Array(entries) = value else {
            self.planner.next();
            return self.skip(path, format!("it is no array but {}", value.kind()));
        };
        if entries.is_empty() {
            return self.nothing(path);
        }
        let at = self.planner.next();
        if !self.configs {
            return Ok(());
        }
        let member = self.member(owner, path);
        let opened = match self.planner.object(&member, entries) {
            Ok(opened) => opened,
            Err(why) => {
                // Said here: the other walk does not look into a configuration.
                self.planner.skip(format!("{}/{path}", self.label), why);
                return Ok(());
            }
        };
        let rest = Rest { slug: self.slug.clone(), sealed: opened.sealed, ..Rest::default() };
        let (provider, owner) = (self.provider.clone(), owner.clone());
        self.planner.give(at, Item::Config { provider, owner, values: opened.object, rest })
    }

    fn account(&mut self, owner: &Owner, path: &str, name: &str, theirs: Option<String>, value: &Value<'_>) -> Planned {
        let Value::Array(entries) = value else {
            self.planner.next();
            return self.skip(path, format!("it is no array but {}", value.kind()));
        };
        if entries.is_empty() {
            return self.nothing(path);
        }
        let at = self.planner.next();
        if self.configs {
            return Ok(());
        }
        let member = self.member(owner, path);
        let opened = match self.planner.object(&member, entries) {
            Ok(opened) => opened,
            Err(why) => return self.skip(path, why),
        };
        if theirs.is_some() {
            let path = format!("{}/{path}", self.label);
            self.planner.findings.renamed.push(Renamed { path, name: name.to_owned() });
        }
        let rest = Rest { slug: self.slug.clone(), name: theirs, sealed: opened.sealed, ..Rest::default() };
        let item = Item::Account {
            provider: self.provider.clone(),
            owner: owner.clone(),
            name: name.to_owned(),
            account: opened.object,
            incomplete: opened.incomplete,
            rest,
        };
        self.planner.give(at, item)
    }

    /// `delegations.<owner>.<account>.<agent>`: for each, what the agent may do with the mailbox.
    fn delegations(&mut self, node: &Value<'_>) -> Planned {
        let Value::Array(owners) = node else {
            self.planner.next();
            return self.skip("delegations", format!("it is no array but {}", node.kind()));
        };
        if owners.is_empty() {
            return self.nothing("delegations");
        }
        for (owner_key, accounts) in owners {
            let owner = match owner_key.to_bytes().as_ref() {
                b"site:0" => Some(Owner::Site),
                _ => principal(owner_key),
            };
            let path = format!("delegations/{}", printable(owner_key));
            let (Some(owner), Value::Array(accounts)) = (owner, accounts) else {
                self.planner.next();
                self.skip(&path, "no mailbox belongs to this")?;
                continue;
            };
            for (name, agents) in accounts {
                let path = format!("{path}/{}", printable(name));
                let (Some((name, _)), Value::Array(agents)) = (account_name(name), agents) else {
                    self.planner.next();
                    self.skip(&path, "no mailbox has this name")?;
                    continue;
                };
                for (agent, terms) in agents {
                    let at = self.planner.next();
                    let path = format!("{path}/{}", printable(agent));
                    self.delegation(at, &path, &owner, &name, agent, terms)?;
                }
            }
        }
        Ok(())
    }

    fn delegation(&mut self, at: u64, path: &str, owner: &Owner, name: &str, agent: &Key<'_>, terms: &Value<'_>) -> Planned {
        if self.configs {
            return Ok(());
        }
        if self.provider.as_str() != MAIL_PROVIDER {
            return self.skip(path, "Data Machine lends mailboxes only");
        }
        let (Some(Owner::Agent(agent)), Value::Array(terms)) = (principal(agent), terms) else {
            return self.skip(path, "it is lent to no agent");
        };
        let mut operations = Vec::new();
        if let Some(Value::Array(list)) = terms.get("operations") {
            for (_, operation) in list {
                if let Value::Text(word) = operation
                    && let Some(word) = MAIL_OPERATIONS.iter().find(|known| known.as_bytes() == word.as_ref())
                {
                    operations.push(format!("MAIL /{word}"));
                }
            }
        }
        if operations.is_empty() {
            return self.skip(path, "it allows no operation");
        }
        let text = |name: &str| match terms.get(name) {
            Some(Value::Text(bytes)) => std::str::from_utf8(bytes).ok().filter(|text| text.len() <= 64).map(str::to_owned),
            _ => None,
        };
        let granted_by = match terms.get("granted_by") {
            Some(Value::Int(number)) => Some(*number),
            _ => None,
        };
        let rest = Rest { slug: self.slug.clone(), granted_at: text("granted_at"), granted_by, ..Rest::default() };
        let (provider, owner, name) = (self.provider.clone(), owner.clone(), name.to_owned());
        self.planner.give(at, Item::Grant { provider, owner, name, agent, operations, rest })
    }

    fn nothing(&mut self, path: &str) -> Planned {
        let at = self.planner.next();
        if self.configs {
            return Ok(());
        }
        let rest = Rest { slug: self.slug.clone(), ..Rest::default() };
        self.planner.give(at, Item::Nothing { provider: self.provider.clone(), path: path.to_owned(), rest })
    }

    fn skip(&mut self, path: &str, reason: impl Into<String>) -> Planned {
        // Said once, though there are two walks.
        if !self.configs {
            let path = format!("{}/{path}", self.label);
            self.planner.skip(path.trim_end_matches('/'), reason);
        }
        Ok(())
    }

    fn member(&self, owner: &Owner, path: &str) -> Member {
        // The owner is said beside it.
        let part = match owner {
            Owner::Site => path,
            _ => path.splitn(3, '/').nth(2).unwrap_or(path),
        };
        Member { provider: self.provider.clone(), owner: owner.clone(), part: part.to_owned(), field: String::new() }
    }
}

/// The owner that `user:3` or `agent:2` names. Data Machine asks by positive whole numbers only.
fn principal(key: &Key<'_>) -> Option<Owner> {
    let text = text_of(key)?;
    let (kind, id) = text.split_once(':')?;
    let number = id.parse::<i64>().ok().filter(|number| *number > 0 && number.to_string() == id)?;
    match kind {
        "user" => number.to_string().parse::<UserId>().ok().map(Owner::User),
        "agent" => number.to_string().parse::<AgentId>().ok().map(Owner::Agent),
        _ => None,
    }
}

/// Our name for a named account, and theirs where it is another. Nothing where Data Machine could not ask for it.
fn account_name(key: &Key<'_>) -> Option<(String, Option<String>)> {
    let text = text_of(key)?;
    let first = text.bytes().next()?;
    let fine = (first.is_ascii_lowercase() || first.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    match text.as_str() {
        _ if !fine => None,
        // Here that is another way to speak of the account without a name.
        "default" => Some(("default.named".to_owned(), Some(text))),
        _ if text.len() > 191 => Some((format!("{}.{}", &text[..180], &sha256_hex(text.as_bytes())[..8]), Some(text))),
        _ => Some((text, None)),
    }
}

/// Our name for a provider: its slug, or where that is outside our grammar one made of it, with a hash so that two stay two.
pub fn provider_name(slug: &Key<'_>) -> Option<ProviderName> {
    let bytes = slug.to_bytes();
    if let Some(name) = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()) {
        return Some(name);
    }
    let mut name: String = bytes
        .iter()
        .take(48)
        .map(|byte| byte.to_ascii_lowercase())
        .map(|byte| if byte.is_ascii_alphanumeric() || b"_.-".contains(&byte) { char::from(byte) } else { '-' })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        name.insert(0, 'p');
    }
    let name = format!("{name}.{}", &sha256_hex(&bytes)[..12]);
    name.parse().ok()
}

fn text_of(key: &Key<'_>) -> Option<String> {
    String::from_utf8(key.to_bytes().into_owned()).ok()
}

/// The address of another site, where it names a host and nothing else.
fn address_of(members: &Entries<'_>) -> Option<String> {
    let Some(Value::Text(host)) = members.get("remote_site") else { return None };
    let url = url::Url::parse(&format!("https://{}/", std::str::from_utf8(host).ok()?)).ok()?;
    (url.path() == "/" && url.query().is_none() && url.username().is_empty() && url.has_host())
        .then(|| url.origin().ascii_serialization())
}

/// A key as it may stand in a report.
fn printable(key: &Key<'_>) -> String {
    let text =
        String::from_utf8_lossy(&key.to_bytes()).chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    text.chars().take(200).collect()
}

/// What there is to bring over. The options borrow the bytes they were read from.
#[derive(Clone, Copy, Default)]
pub struct Source<'s, 'a> {
    /// The option `datamachine_auth_data`.
    pub auth_data: Option<&'s Value<'a>>,
    /// The option `datamachine_external_tokens`.
    pub external_tokens: Option<&'s Value<'a>>,
    /// The tables of agents.
    pub tables: Option<Tables<'s>>,
}

impl Source<'_, '_> {
    /// Every provider that the items will name, for the header of an import.
    pub fn providers(&self) -> Vec<ProviderName> {
        providers(self.auth_data, self.external_tokens).into_iter().collect()
    }

    /// How many items there will be at most, for a progress bar.
    pub fn count(&self) -> u64 {
        let inside = |value: &Value<'_>| match value {
            Value::Array(entries) => entries.len() as u64,
            _ => 0,
        };
        let parts = |node: &Value<'_>| match node {
            Value::Array(parts) => {
                parts.iter().map(|(part, value)| if part.to_bytes().as_ref() == b"accounts" { inside(value) } else { 1 }).sum()
            }
            _ => 1,
        };
        let principals = |node: &Value<'_>| match node {
            Value::Array(all) => all.iter().map(|(_, node)| parts(node)).sum::<u64>(),
            _ => 1,
        };
        let provider = |node: &Value<'_>| match node {
            Value::Array(entries) => parts(node) + entries.get("principals").map_or(0, principals),
            _ => 1,
        };
        let accounts = match self.auth_data {
            Some(Value::Array(providers)) => providers.iter().map(|(_, node)| provider(node)).sum(),
            _ => 0,
        };
        let rows = self.tables.map_or(0, |tables| tables.agents.len() + tables.tokens.len() + tables.access.len());
        accounts + self.external_tokens.map_or(0, inside) + rows as u64
    }

    /// Hands every item to `each`, and at the end says what became of the rest. Without a key everything sealed is
    /// unreadable.
    ///
    /// # Errors
    /// [`Stopped`], when `each` breaks off.
    pub fn plan(&self, key: Option<&envelope::Key>, each: &mut dyn FnMut(Line) -> ControlFlow<()>) -> Result<Findings, Stopped> {
        let mut planner = Planner::new(key, each);
        // Agents first: accounts and lent mailboxes name them.
        if let Some(tables) = &self.tables {
            planner.tables(tables)?;
        }
        if let Some(option) = self.auth_data {
            planner.auth_data(option)?;
        }
        if let Some(option) = self.external_tokens {
            planner.external_tokens(option)?;
        }
        Ok(planner.findings)
    }
}
