//! Accounts by named scope: what a platform reads and writes of a site's, a person's or an agent's own account
//! (decisions 5; mission document 004). The scope that is named is the scope that is meant: nothing falls back.
//!
//! 1. A *slot* is site, provider, owner and name; the live connection in it is the account.
//! 2. [`put`] stores a whole account. Where one is there that can be refreshed, it needs the entity tag that was read
//!    ([`etag`]) or `replace`, so that a stale copy cannot overwrite a rotated token.
//! 3. [`patch`] merges members that are no tokens and decide no host, by compare-and-set: of two at once, none is lost.
//! 4. [`reveal`] opens the account, for whoever may; it is recorded before it leaves.
//!
//! Tokens that come in this way were obtained by somebody else. Where the definition can ask upstream whose they are, the
//! identity is unverified until that was done or the owner vouches for it ([`confirm`]); agents' grants wait meanwhile. An
//! agent's own account comes with the agent's grants on it.

use serde_json::{Map, Value, json};

use super::{
    Connection, Identity, NewConnection, Renewal, Stored, Tokens, UpstreamWish, answer, due_at, erase, insert, open_account,
    owe_revocation, replace_account,
    store::{self, stored_slot_now},
    write,
};
use crate::{
    app_config,
    audit::Event,
    base::{Base, Outside},
    clock::Timestamp,
    db::Tx,
    error::{Code, Error, Result},
    grant::{self, ForWhom, NewGrant},
    id::{AgentId, ConnectionId, SiteId},
    principal::{Actor, Owner},
    provider::{self, Definition, Field, FieldLevel, HostRule, Kind, Normalize, Role, Template, Vars},
    secret::SecretMap,
};

pub use crate::principal::Slot;

/// The largest account, in bytes of JSON.
pub const MAX_ACCOUNT: usize = 64 * 1024;
/// How often a write that met another one is tried again. Each time somebody else's write went through.
const TRIES: usize = 64;

/// Members that are tokens or say how long tokens live. Only whoever brings the whole account may set them.
const TOKEN_MEMBERS: &[&str] = &[
    "access_token",
    "refresh_token",
    "token_secret",
    "access_token_secret",
    "oauth_token",
    "oauth_token_secret",
    "id_token",
    "session_token",
    "token_type",
    "expires_in",
    "expires_at",
    "token_expires_at",
    "scope",
    "slots",
    "resources",
];

/// What a writer says about what is there before (RFC 9110 section 13).
#[derive(Clone, Debug, Default)]
pub struct Precondition {
    /// The entity tags of which the present one must be one (`If-Match`).
    pub if_match: Option<IfMatch>,
    /// There must be no account yet (`If-None-Match: *`).
    pub if_none: bool,
    /// Whatever is there may be replaced, also by somebody else's account.
    pub replace: bool,
}

/// The value of an `If-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: there must be an account, whichever.
    Any,
    /// One of these, without their quotes. A weak tag matches nothing.
    Tags(Vec<String>),
}

/// What [`put`] did.
#[derive(Clone, Debug)]
pub struct Put {
    /// The connection that is there now.
    pub connection: Connection,
    /// Whether there was none before.
    pub created: bool,
    /// The connection whose place it took, because it is somebody else's account or at another server.
    pub replaced: Option<ConnectionId>,
}

/// The entity tag of an account, without quotes: its connection, the version of its tokens, and the revision of all that is
/// sealed, which a change beside the tokens moves, too. So whoever read before somebody's patch does not undo it.
pub fn etag(connection: &Connection) -> String {
    format!("{}.{}.{}", connection.id, connection.version, connection.revision)
}

/// The account in a slot, without its secrets; opens nothing.
pub async fn status(base: &Base, slot: &Slot) -> Result<Option<Connection>> {
    super::slot(&base.db, &slot.site, &slot.provider, &slot.owner, &slot.name).await
}

/// The account in a slot with its secrets. Who may see them is checked before; that somebody did is recorded here.
pub async fn reveal(base: &Base, actor: &Actor, slot: &Slot) -> Result<Option<(Connection, SecretMap)>> {
    let Some(stored) = load(base, slot).await? else { return Ok(None) };
    let Some(sealed) = &stored.sealed else { return Ok(None) };
    let account = open_account(base, &stored.connection, sealed).await?;
    let facts = json!({ "provider": slot.provider, "owner": slot.owner, "name": slot.name });
    let event = Event::new(&slot.site, actor, "account.reveal").connection(&stored.connection.id).facts(facts);
    base.audit.record_use(event).await?;
    Ok(Some((stored.connection, account)))
}

/// Stores a whole account in a slot.
///
/// # Errors
/// `precondition_required` and `precondition_failed` as [`Precondition`] says; `invalid_request` for a field that is
/// missing or wrong; `storage_failed` where a registered sink refuses it; `address_refused`; `subject_mismatch` where it is
/// somebody else's account or at another server and `replace` is not said; `conflict` where the account changes faster than it
/// can be written.
pub async fn put(outside: &Outside, actor: &Actor, slot: &Slot, account: SecretMap, precondition: &Precondition) -> Result<Put> {
    put_with(outside, actor, slot, account, None, precondition).await
}

/// What was found out about an account with its provider before it is stored.
#[derive(Clone, Debug)]
pub struct Known {
    /// The facts about its tokens.
    pub tokens: Tokens,
    /// Whose it is upstream.
    pub subject: Option<String>,
    /// What upstream calls them.
    pub subject_name: Option<String>,
    /// How sure we are of that.
    pub identity: Identity,
    /// The scopes asked for.
    pub wanted_scopes: Vec<String>,
}

/// Stores a whole account that was tried with its provider; else as [`put`].
///
/// # Errors
/// As [`put`].
pub async fn put_known(
    outside: &Outside,
    actor: &Actor,
    slot: &Slot,
    account: SecretMap,
    known: &Known,
    precondition: &Precondition,
) -> Result<Put> {
    put_with(outside, actor, slot, account, Some(known), precondition).await
}

async fn put_with(
    outside: &Outside,
    actor: &Actor,
    slot: &Slot,
    account: SecretMap,
    known: Option<&Known>,
    precondition: &Precondition,
) -> Result<Put> {
    let base = &outside.base;
    let definition = outside.definition(&slot.provider)?;
    let account = accept(outside, &definition, account)?;
    let hosts = hosts(outside, &definition, &account)?;
    let client = client_of(outside, slot).await?;
    for _ in 0..TRIES {
        base.ring.ensure(&base.db, slot.site.as_str(), slot.provider.as_str()).await?;
        let old = load(base, slot).await?;
        check(precondition, old.as_ref().map(|old| &old.connection))?;
        let old_account = match &old {
            Some(old) => opened(base, old).await,
            None => None,
        };
        let write =
            Write { outside, actor, slot, definition: &definition, account: &account, hosts: &hosts, client: &client, known };
        match write.once(old.as_ref(), old_account.as_ref(), precondition.replace).await {
            // Somebody else was faster: look again, and check again what was said about it.
            Ok(None) => {}
            Ok(Some(put)) => return Ok(put),
            Err(error) if error.code() == Code::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(Code::Conflict, "the account changes all the time; try again"))
}

/// Merges members into an account, tokens among them; one that is null is taken out. Where there is no account, what is
/// given is all there is: nothing is copied from another one.
///
/// What was there and what comes are brought together inside one compare-and-set, so that neither a patch nor a renewal
/// that comes between is lost.
///
/// # Errors
/// As [`put`]; `subject_mismatch` where this would make it somebody else's account or one at another server, and
/// `unsealable` where what is there cannot be read.
pub async fn merge(outside: &Outside, actor: &Actor, slot: &Slot, changes: &SecretMap) -> Result<Put> {
    let base = &outside.base;
    let definition = outside.definition(&slot.provider)?;
    let client = client_of(outside, slot).await?;
    for _ in 0..TRIES {
        base.ring.ensure(&base.db, slot.site.as_str(), slot.provider.as_str()).await?;
        let old = load(base, slot).await?;
        let old_account = match old.as_ref().and_then(|old| Some((old, old.sealed.as_deref()?))) {
            Some((old, sealed)) => Some(open_account(base, &old.connection, sealed).await?),
            None => None,
        };
        let mut account = old_account.clone().unwrap_or_default();
        apply(&mut account, changes);
        let account = accept(outside, &definition, account)?;
        let hosts = hosts(outside, &definition, &account)?;
        let write = Write {
            outside,
            actor,
            slot,
            definition: &definition,
            account: &account,
            hosts: &hosts,
            client: &client,
            known: None,
        };
        match write.once(old.as_ref(), old_account.as_ref(), false).await {
            Ok(None) => {}
            Ok(Some(put)) => return Ok(put),
            Err(error) if error.code() == Code::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(Code::Conflict, "the account changes all the time; try again"))
}

/// Merges members into others; null takes one out.
pub fn apply(account: &mut SecretMap, changes: &SecretMap) {
    for (name, value) in changes.expose() {
        match value {
            Value::Null => drop(account.expose_mut().remove(name)),
            value => drop(account.expose_mut().insert(name.clone(), value.clone())),
        }
    }
}

/// Merges members into an account; one that is null is taken out. Tokens and what decides a host cannot be touched.
///
/// # Errors
/// As [`put`], and `no_credentials` or `no_per_user_credentials` where there is none.
pub async fn patch(
    outside: &Outside,
    actor: &Actor,
    slot: &Slot,
    changes: &SecretMap,
    precondition: &Precondition,
) -> Result<Connection> {
    let base = &outside.base;
    let definition = outside.definition(&slot.provider)?;
    for name in changes.expose().keys() {
        if is_token(&definition, name)
            || definition.fields_deciding_hosts(FieldLevel::Connection).any(|field| &field.name == name)
        {
            return Err(Error::new(
                Code::InvalidRequest,
                format!("{name}: a patch does not change tokens, secrets and what decides a host; store the whole account"),
            ));
        }
    }
    for _ in 0..TRIES {
        let old = load(base, slot).await?.ok_or_else(|| slot.empty())?;
        check(&Precondition { replace: true, ..precondition.clone() }, Some(&old.connection))?;
        let sealed = old.sealed.as_ref().ok_or_else(|| slot.empty())?;
        let mut account = open_account(base, &old.connection, sealed).await?;
        let before = self::hosts(outside, &definition, &account)?;
        apply(&mut account, changes);
        let account = accept(outside, &definition, account)?;
        if self::hosts(outside, &definition, &account)? != before {
            return Err(Error::new(Code::InvalidRequest, "this would change a host that the account's secrets are sent to"));
        }
        hand_over(outside, slot, &account).await?;
        base.ring.ensure(&base.db, slot.site.as_str(), slot.provider.as_str()).await?;
        let mut tx = base.db.begin().await?;
        if !write::patch_account(base, &mut tx, &old.connection, &account).await? {
            continue;
        }
        let members: Vec<_> = changes.expose().keys().collect();
        record(base, &mut tx, actor, slot, "account.patch", &old.connection.id, json!({ "members": members })).await?;
        tx.commit().await?;
        return status(base, slot).await?.ok_or_else(|| slot.empty());
    }
    Err(Error::new(Code::Conflict, "the account changes all the time; try again"))
}

/// The owner vouches for the upstream account of these very tokens. Doing it again changes nothing.
///
/// # Errors
/// `not_found`; `conflict` where the tokens changed since `connection` was read.
pub async fn confirm(base: &Base, actor: &Actor, connection: &Connection) -> Result<Connection> {
    if connection.identity == Identity::Unverified {
        let mut tx = base.db.begin().await?;
        if !write::confirm_identity(&mut tx, connection, base.clock.now()).await? {
            return Err(Error::new(Code::Conflict, "the account changed meanwhile; look at it again and confirm that"));
        }
        let event = Event::new(&connection.site, actor, "connection.confirm")
            .connection(&connection.id)
            .facts(json!({ "subject": connection.subject, "version": connection.version }));
        base.audit.record(&mut tx, event).await?;
        tx.commit().await?;
    }
    super::require(&base.db, &connection.site, &connection.id).await
}

/// The grants that come with an agent's own account: for when nobody is calling, and for whoever may operate the agent;
/// by the proxy only. They are grants like any other, to be seen and revoked.
pub async fn grant_to_owner(
    base: &Base,
    tx: &mut Tx,
    site: &SiteId,
    actor: &Actor,
    agent: &AgentId,
    connection: &ConnectionId,
) -> Result<()> {
    for whom in [ForWhom::Unattended, ForWhom::Operators] {
        let note = "comes with the agent's own account".to_owned();
        grant::create_in(base, tx, site, actor, NewGrant { note, ..NewGrant::proxy(agent, connection, whom) }).await?;
    }
    Ok(())
}

/// One attempt at writing a whole account.
struct Write<'a> {
    outside: &'a Outside,
    actor: &'a Actor,
    slot: &'a Slot,
    definition: &'a Definition,
    account: &'a SecretMap,
    hosts: &'a [String],
    client: &'a Option<app_config::AppConfig>,
    known: Option<&'a Known>,
}

impl Write<'_> {
    /// Nothing when somebody else wrote meanwhile.
    async fn once(&self, old: Option<&Stored>, old_account: Option<&SecretMap>, replace: bool) -> Result<Option<Put>> {
        let (base, slot) = (&self.outside.base, self.slot);
        let new = self.connection(old)?;
        let another = old.is_some_and(|old| self.is_another(old, old_account, &new));
        let new = match old {
            // A definition that names more hosts by now applies only after the operator accepted it (decisions 4).
            Some(old) if !another => NewConnection { hosts: old.connection.hosts.clone(), ..new },
            _ => new,
        };
        if another && !replace {
            return Err(Error::new(
                Code::SubjectMismatch,
                "this is somebody else's account, or one at another server, than the one stored here; say replace=true if it shall \
                 take its place, without the grants on the old one",
            ));
        }
        hand_over(self.outside, slot, self.account).await?;
        let mut tx = base.db.begin().await?;
        let (id, replaced) = match old {
            None => (self.insert(&mut tx, &new).await?, None),
            Some(old) if another => {
                let reason = "another account took its place";
                let wish = UpstreamWish::IfPossible;
                let before = &old.connection;
                if !write::lock_revision(&mut tx, before).await? {
                    return Ok(None);
                }
                owe_revocation(base, &mut tx, Some(self.definition), before, old_account, wish, reason).await?;
                erase(&mut tx, &slot.site, &before.id, self.actor, reason, base.clock.now()).await?;
                (self.insert(&mut tx, &new).await?, Some(before.id.clone()))
            }
            // The same tokens: a change of what stands beside them, which leaves version and identity alone.
            Some(old)
                if (self.known.is_none() || old.connection.identity == new.identity)
                    && old_account.is_some_and(|before| same_tokens(self.definition, before, self.account)) =>
            {
                if !write::patch_account(base, &mut tx, &old.connection, self.account).await? {
                    return Ok(None);
                }
                (old.connection.id.clone(), None)
            }
            Some(old) => {
                if !replace_account(base, &mut tx, &old.connection, &new).await? {
                    return Ok(None);
                }
                (old.connection.id.clone(), None)
            }
        };
        let facts = json!({
            "identity": new.identity, "scopes": new.tokens.scopes, "client_id": new.client_id, "hosts": new.hosts,
            "created": old.is_none(), "replaced": replaced,
        });
        record(base, &mut tx, self.actor, slot, "account.put", &id, facts).await?;
        let stored = store::load_in(&mut tx, &slot.site, &id).await?.ok_or_else(|| slot.empty())?;
        tx.commit().await?;
        if let Some(replaced) = &replaced {
            self.outside.extensions.tell(|sink| sink.revoked(slot, replaced));
        }
        Ok(Some(Put { connection: stored.connection, created: old.is_none(), replaced }))
    }

    async fn insert(&self, tx: &mut Tx, new: &NewConnection) -> Result<ConnectionId> {
        let base = &self.outside.base;
        let id = insert(base, tx, self.actor, new).await?;
        if let Owner::Agent(agent) = &self.slot.owner {
            grant_to_owner(base, tx, &self.slot.site, self.actor, agent, &id).await?;
        }
        Ok(id)
    }

    /// Whether what comes is not the account that is there: another subject, or another server.
    fn is_another(&self, old: &Stored, old_account: Option<&SecretMap>, new: &NewConnection) -> bool {
        let before = &old.connection;
        let subject = matches!((&before.subject, &new.subject), (Some(a), Some(b)) if a != b);
        let field = self
            .definition
            .fields_deciding_hosts(FieldLevel::Connection)
            .any(|field| old_account.is_some_and(|old| said(field, old) != said(field, self.account)));
        // Compared by the same definition, so that one that names more hosts by now makes nobody somebody else.
        let hosts = match old_account {
            Some(old) => hosts(self.outside, self.definition, old).is_ok_and(|hosts| hosts == self.hosts),
            None => before.hosts == self.hosts,
        };
        subject || field || !hosts
    }

    fn connection(&self, old: Option<&Stored>) -> Result<NewConnection> {
        let old = old.map(|old| &old.connection);
        let now = self.outside.base.clock.now();
        let (subject, subject_name, identity) = match (self.known, &self.definition.identity) {
            (Some(known), _) => (known.subject.clone(), known.subject_name.clone(), known.identity),
            // Whose it is must be asked; until then it is believed to be whose it was.
            (None, provider::Identity::Step(_)) => {
                (old.and_then(|old| old.subject.clone()), old.and_then(|old| old.subject_name.clone()), Identity::Unverified)
            }
            (None, provider::Identity::Static(members)) => {
                let (subject, name) = stated_subject(members, self.account);
                (subject, name, Identity::Owner)
            }
            (None, provider::Identity::None { .. }) => (None, None, Identity::Owner),
        };
        Ok(NewConnection {
            site: self.slot.site.clone(),
            provider: self.slot.provider.clone(),
            owner: self.slot.owner.clone(),
            name: self.slot.name.clone(),
            account: self.account.clone(),
            tokens: match self.known {
                Some(known) => known.tokens.clone(),
                None => tokens(self.definition, self.account, now)?,
            },
            app_config: self.client.as_ref().map(|config| config.id.clone()),
            client_id: self.client.as_ref().and_then(|config| config.client_id.clone()),
            subject,
            subject_name,
            identity,
            wanted_scopes: match self.known {
                Some(known) => known.wanted_scopes.clone(),
                None => self.definition.needed_scopes(),
            },
            hosts: self.hosts.to_vec(),
            call_hosts: self.definition.call_hosts(&vars(self.account)),
        })
    }
}

/// What an account says in a field, however it is written there: 993 as "993", and nothing as the default.
pub(crate) fn said(field: &Field, account: &SecretMap) -> Option<String> {
    let text = match account.expose().get(&field.name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    Some(text).filter(|text| !text.is_empty()).or_else(|| field.default.clone())
}

/// Whose an account is by its own members: the id and the name that the definition takes out of them.
pub(super) fn stated_subject(members: &[(String, Template)], account: &SecretMap) -> (Option<String>, Option<String>) {
    let vars = vars(account);
    let text = |name: &str| {
        let (_, template) = members.iter().find(|(known, _)| known == name)?;
        template.render(&vars).ok().flatten().map(|text| text.expose().to_owned())
    };
    (text("id"), text("username").or_else(|| text("display_name")).or_else(|| text("email")))
}

/// Holds what a writer said about what is there against what is.
///
/// # Errors
/// `precondition_failed` where it is not so, `precondition_required` where something had to be said.
pub fn check(precondition: &Precondition, present: Option<&Connection>) -> Result<()> {
    let failed = |text: &'static str| Err(Error::new(Code::PreconditionFailed, text));
    if precondition.if_none && present.is_some() {
        return failed("there is an account already");
    }
    match (&precondition.if_match, present) {
        (Some(_), None) => return failed("there is no account any more"),
        (Some(IfMatch::Tags(tags)), Some(present)) if !tags.contains(&etag(present)) => {
            return failed("the account changed since you read it; read it again and start from that");
        }
        (Some(_), Some(_)) => return Ok(()),
        (None, _) => {}
    }
    if present.is_some_and(|present| present.renewal != Renewal::None) && !precondition.replace {
        return Err(Error::new(
            Code::PreconditionRequired,
            "the stored tokens may have been renewed since you read them: send If-Match with the account's ETag, or replace=true",
        ));
    }
    Ok(())
}

/// What a caller gave, with the connection's own fields checked and brought into one form. Everything else stays as it is.
fn accept(outside: &Outside, definition: &Definition, mut account: SecretMap) -> Result<SecretMap> {
    for field in definition.fields_of(FieldLevel::Connection) {
        let entered = match account.expose().get(&field.name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(Error::new(Code::InvalidRequest, format!("{}: it is a text", field.name))),
        };
        // What an account of another kind is made of came from the provider; only a static one is its fields.
        let needed = definition.kind == Kind::Static || field.normalize == Some(Normalize::HttpsOrigin);
        if entered.is_empty() && !(needed && (field.required || field.default.is_some())) {
            continue;
        }
        let Some(accepted) = field.accept(&entered)? else { continue };
        if field.normalize == Some(Normalize::HttpsOrigin) {
            let url = url::Url::parse(&accepted).map_err(Error::internal)?;
            outside.upstream.guard().check_url(&url)?;
        }
        // What says the same already stays as it came: a number is read back as a number.
        if accepted != entered {
            account.expose_mut().insert(field.name.clone(), Value::String(accepted));
        }
    }
    if definition.kind != Kind::Static && account.expose().get("access_token").is_some_and(|token| token == "") {
        return Err(Error::new(Code::InvalidRequest, "access_token: it is empty; to end the account, delete it"));
    }
    if account.expose().is_empty() {
        return Err(Error::new(Code::InvalidRequest, "the account is empty; to end it, delete it"));
    }
    if account.to_json().expose().len() > MAX_ACCOUNT {
        return Err(Error::new(Code::PayloadTooLarge, format!("an account has at most {MAX_ACCOUNT} bytes")));
    }
    Ok(account)
}

/// The hosts that the account's secrets may be sent to, each that the account itself decides checked by the guard.
pub(crate) fn hosts(outside: &Outside, definition: &Definition, account: &SecretMap) -> Result<Vec<String>> {
    hosts_with(outside, definition, &vars(account))
}

/// The same where more is known than the account.
pub(crate) fn hosts_with(outside: &Outside, definition: &Definition, vars: &Vars<'_>) -> Result<Vec<String>> {
    let Some(proxy) = &definition.proxy else { return Ok(Vec::new()) };
    proxy
        .hosts
        .iter()
        .map(|rule| {
            let host = rule.render(vars)?;
            if let HostRule::Instance(_) = rule {
                let wrong = |_| Error::new(Code::InvalidRequest, "the account names no server, or none that is one");
                outside.upstream.guard().check_url(&url::Url::parse(&format!("https://{host}/")).map_err(wrong)?)?;
            }
            Ok(host)
        })
        .collect()
}

/// What templates see of an account that was stored whole: its fields and its tokens are the same object.
pub(super) fn vars(account: &SecretMap) -> Vars<'_> {
    Vars { fields: Some(account), account: Some(account), ..Vars::default() }
}

fn is_token(definition: &Definition, name: &str) -> bool {
    let is_credential = |field: &Field| field.secret || matches!(field.role, Some(Role::Token | Role::Password));
    TOKEN_MEMBERS.contains(&name) || definition.field(name).is_some_and(is_credential)
}

fn same_tokens(definition: &Definition, a: &SecretMap, b: &SecretMap) -> bool {
    let tokens = |account: &SecretMap| -> SecretMap {
        let members = account.expose().iter().filter(|(name, _)| is_token(definition, name));
        SecretMap::new(members.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
    };
    tokens(a) == tokens(b)
}

/// The plain facts about the tokens of an account that came whole, from outside.
pub(crate) fn tokens(definition: &Definition, account: &SecretMap, now: Timestamp) -> Result<Tokens> {
    let renewal = answer::renewal_of(definition, account);
    let unminted = renewal == Renewal::Remint && account.text("access_token").is_none();
    // What can be minted and was not yet has nothing that serves: the first use mints it, and nobody before.
    let expires_at = if unminted { Some(now) } else { expires_at(account, now)? };
    let life = expires_at.filter(|end| *end > now).map(|end| end.since(now)).or(definition.refresh.access_ttl);
    let scopes = match account.expose().get("scope") {
        Some(Value::String(text)) => {
            let separator = definition.oauth2.as_ref().map_or(" ", |oauth2| oauth2.scope_separator_out.as_str());
            let separated = |c: char| c.is_whitespace() || (!separator.is_empty() && separator.contains(c));
            Some(text.split(separated).filter(|scope| !scope.is_empty()).map(str::to_owned).collect())
        }
        Some(Value::Array(items)) => Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        _ => None,
    };
    // When the tokens were issued nobody said; the refresh window is then told from their end.
    let issued_at = None;
    Ok(Tokens {
        renewal,
        issued_at,
        expires_at,
        usual_life: life.map(|life| i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
        refresh_expires_at: None,
        refresh_at: due_at(definition, renewal, issued_at, expires_at, None).filter(|_| !unminted),
        scopes,
    })
}

/// When the access token ends, as far as the account says: `expires_at` or `token_expires_at` (seconds since the Unix
/// epoch, or RFC 3339), or `expires_in` from now. Zero and the empty text say nothing.
fn expires_at(account: &SecretMap, now: Timestamp) -> Result<Option<Timestamp>> {
    let unreadable = |name: &str| Error::new(Code::InvalidRequest, format!("{name}: it is a number of seconds"));
    let seconds = |value: &Value| -> Option<i64> {
        match value {
            Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|f| f as i64)),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    };
    let given = |name: &'static str| {
        let value = account.expose().get(name)?;
        let said = !value.is_null() && value.as_str() != Some("") && value.as_i64() != Some(0);
        said.then_some((name, value))
    };
    if let Some((name, value)) = ["expires_at", "token_expires_at"].into_iter().find_map(given) {
        let moment = || value.as_str()?.trim().parse::<jiff::Timestamp>().ok().map(|moment| Timestamp(moment.as_microsecond()));
        let end = seconds(value).map(Timestamp::from_unix_seconds).or_else(moment);
        return end.map(Some).ok_or_else(|| unreadable(name));
    }
    match given("expires_in") {
        None => Ok(None),
        Some((name, value)) => {
            let life = seconds(value).and_then(|life| u64::try_from(life).ok()).ok_or_else(|| unreadable(name))?;
            Ok(Some(now.plus(std::time::Duration::from_secs(life))))
        }
    }
}

/// The app whose client is taken to have minted the tokens, as when connecting.
async fn client_of(outside: &Outside, slot: &Slot) -> Result<Option<app_config::AppConfig>> {
    app_config::applying(outside, &slot.site, &slot.provider, &slot.owner).await
}

/// Gives an account to whoever takes a copy, before it is stored. No transaction is open: they may take their time.
async fn hand_over(outside: &Outside, slot: &Slot, account: &SecretMap) -> Result<()> {
    let refused = |error: Error| {
        Error::new(Code::StorageFailed, "the account could not be handed on; nothing was stored").with_detail(error)
    };
    outside.extensions.hand_over(slot, account).await.map_err(refused)
}

/// What an account seals, for comparing. One that cannot be opened is like nothing that could come.
async fn opened(base: &Base, stored: &Stored) -> Option<SecretMap> {
    match open_account(base, &stored.connection, stored.sealed.as_deref()?).await {
        Ok(account) => Some(account),
        Err(error) => {
            tracing::error!(connection.id = %stored.connection.id, error = ?error, "an account that is replaced cannot be opened");
            None
        }
    }
}

async fn load(base: &Base, slot: &Slot) -> Result<Option<Stored>> {
    stored_slot_now(&base.db, &slot.site, &slot.provider, &slot.owner, &slot.name).await
}

async fn record(
    base: &Base,
    tx: &mut Tx,
    actor: &Actor,
    slot: &Slot,
    action: &'static str,
    id: &ConnectionId,
    mut facts: Value,
) -> Result<()> {
    if let Value::Object(members) = &mut facts {
        for (name, value) in [("provider", json!(slot.provider)), ("owner", json!(slot.owner)), ("name", json!(slot.name))] {
            members.insert(name.to_owned(), value);
        }
    }
    base.audit.record(tx, Event::new(&slot.site, actor, action).connection(id).facts(facts)).await
}
