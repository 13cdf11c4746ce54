//! What an import settles in batches and at its end: slots that are taken, grants, what came from where.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use super::{
    BATCH, Conflict, Counts, DATA_MACHINE, Import, Inserted, LENT, LENT_ANEW, LeftOut, Lent, OnConflict, Plain, Ready, Report,
    Rest, Row, TOOK_PLACE, ToGrant, Waiting, arrivals, grant, store,
};
use crate::{
    audit::Event,
    base::Outside,
    connection::{
        self, Owed, Stored, UpstreamWish,
        import::{Arrival, Coming},
    },
    db::Tx,
    error::{Code, Error, Result},
    grant::{ForWhom, NewGrant},
    id::{AccountName, AgentId, ConnectionId, ProviderName, UserId},
    principal::{Actor, Owner},
    provider::Definition,
    scope,
    secret::SecretMap,
};

impl Import {
    /// What an account is described and sealed from.
    pub(super) fn coming(
        &self,
        (id, provider, definition, owner, name): (ConnectionId, &ProviderName, &Option<Arc<Definition>>, &Owner, &AccountName),
        Plain(account): Plain,
        incomplete: bool,
    ) -> Coming {
        // Its owner's own app, else the site's, as when connecting.
        let app = self.apps.get(&(provider.clone(), owner.clone())).or_else(|| self.apps.get(&(provider.clone(), Owner::Site)));
        Coming {
            id,
            site: self.site.clone(),
            provider: provider.clone(),
            definition: definition.clone(),
            owner: owner.clone(),
            name: name.clone(),
            account,
            app: app.cloned(),
            needs_reauth: incomplete.then_some("unreadable"),
            trusted: self.header.trust_identities,
            seal: !self.header.dry_run,
        }
    }

    /// Has the accounts that wait described and sealed, and those before them inserted. Both go on while more items are taken.
    pub(super) async fn seal_waiting(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let outside = self.outside.clone();
        let sealing = tokio::task::spawn_blocking(move || -> Result<Vec<Ready>> {
            let ready = |one: Waiting| Ok((arrivals::arrive(&outside, one.coming)?, one.row, one.kind));
            waiting.into_iter().map(ready).collect()
        });
        match self.sealing.replace(sealing) {
            Some(before) => self.insert(before.await.map_err(Error::internal)??).await,
            None => Ok(()),
        }
    }

    /// Inserts all accounts that came.
    pub(super) async fn insert_all(&mut self) -> Result<()> {
        self.seal_waiting().await?;
        if let Some(last) = self.sealing.take() {
            self.insert(last.await.map_err(Error::internal)??).await?;
        }
        self.settle_inserted().await
    }

    /// Begins to insert accounts, once what became of those before them is settled; and writes down what came from where so far.
    async fn insert(&mut self, ready: Vec<Ready>) -> Result<()> {
        self.settle_inserted().await?;
        let (arrivals, rows): (Vec<Arrival>, Vec<(Row, &'static str)>) =
            ready.into_iter().map(|(arrival, row, kind)| (arrival, (row, kind))).unzip();
        let done = self.rows_to_put(store::BATCH);
        let (base, site, actor) = (self.outside.base.clone(), self.site.clone(), self.actor.clone());
        let mut tx = Arc::clone(&self.tx).lock_owned().await;
        self.inserting = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let taken = arrivals::insert_free(&base, &mut tx, &site, &actor, &arrivals).await?;
            let taken = taken.into_iter().map(|arrival| arrival.id.clone()).collect();
            store::put(&mut tx, &site, DATA_MACHINE, &done, base.clock.now()).await?;
            Ok(Inserted { arrivals, rows, taken })
        })));
        Ok(())
    }

    /// Notes what became of the accounts that were being inserted. A slot that is taken is a conflict.
    async fn settle_inserted(&mut self) -> Result<()> {
        let Some(inserting) = self.inserting.take() else { return Ok(()) };
        let Inserted { arrivals, rows, taken } = inserting.await.map_err(Error::internal)??;
        for (arrival, (row, kind)) in arrivals.iter().zip(rows) {
            let in_the_way = taken.contains(&arrival.id);
            if in_the_way && self.header.on_conflict != OnConflict::Replace {
                self.done(kind, false, false, row, "another account in this place")?;
                continue;
            }
            if in_the_way {
                self.take_place(arrival).await?;
            }
            self.note_arrival(arrival, &row);
            self.done(kind, true, in_the_way, row, "")?;
        }
        Ok(())
    }

    /// Inserts an account in the place of another, which ends.
    async fn take_place(&mut self, arrival: &Arrival) -> Result<()> {
        let (provider, owner, name) = (&arrival.provider, &arrival.owner, &arrival.name);
        let there = connection::stored_slot(&mut *self.tx.lock().await, &self.site, provider, owner, name).await?;
        let ended = match there {
            Some(there) => self.end_replaced(&there.connection.id).await?,
            None => None,
        };
        let base = &self.outside.base;
        let mut tx = self.tx.lock().await;
        let one = std::slice::from_ref(arrival);
        if !arrivals::insert_free(base, &mut tx, &self.site, &self.actor, one).await?.is_empty() {
            return Err(Error::new(Code::Conflict, "an account changes all the time; import again"));
        }
        let Some(ended) = ended else { return Ok(()) };
        // Once it is there, so that it counts among those that a revocation of everything would end, too.
        let came = connection::load_in(&mut tx, &self.site, &arrival.id).await?;
        let Some(Stored { connection: came, sealed: Some(sealed), .. }) = came else {
            return Err(Error::internal("an account that was inserted is not there"));
        };
        let by = connection::open_account(base, &came, &sealed).await?;
        owe(&self.outside, &mut tx, &self.actor, &ended, &by).await
    }

    /// Ends a connection whose place another takes. Says what something is owed for: nothing where it was over, nor in a dry
    /// run, in which nothing ends and there may be no key to seal under.
    pub(super) async fn end_replaced(&mut self, id: &ConnectionId) -> Result<Option<Stored>> {
        let mut tx = self.tx.lock().await;
        // What is owed for must be what is erased: the newest tokens and no others.
        store::lock_connection(&mut tx, &self.site, id).await?;
        let there = connection::load_in(&mut tx, &self.site, id).await?;
        if !connection::erase(&mut tx, &self.site, id, &self.actor, TOOK_PLACE, self.outside.base.clock.now()).await? {
            return Ok(None);
        }
        if let Some(there) = &there {
            self.ended.push((there.connection.slot(), id.clone()));
        }
        Ok(there.filter(|_| !self.header.dry_run))
    }

    pub(super) fn note_arrival(&mut self, arrival: &Arrival, row: &Row) {
        if arrival.is_unverified() {
            self.report.unverified += 1;
        }
        self.note(&row.item, row.position, &arrival.owner, &arrival.provider, &arrival.name, &arrival.id);
    }

    /// Keeps in mind what later items and the report need to know of a connection.
    pub(super) fn note(
        &mut self,
        item: &str,
        position: i64,
        owner: &Owner,
        provider: &ProviderName,
        name: &AccountName,
        id: &ConnectionId,
    ) {
        if provider.as_str() == "email_imap" {
            self.mailboxes.insert(item.to_owned(), id.clone());
        }
        let reached = match owner {
            Owner::Site => true,
            // Its agents reached a person's account wherever the policy said so.
            Owner::User(user) => self.agent_owners.contains(user),
            Owner::Agent(agent) => {
                self.owned.push((item.to_owned(), agent.clone(), id.clone(), position));
                false
            }
        };
        if reached {
            self.reached.push((owner.clone(), provider.clone(), name.clone(), id.clone()));
        }
    }

    /// An agent's own account brings its agent's grants, as if it had been stored here.
    pub(super) async fn grant_to_owners(&mut self) -> Result<()> {
        let mut grants = Vec::new();
        for (account, agent, connection, position) in std::mem::take(&mut self.owned) {
            let item = format!("owner-grant/{account}");
            // Also where it was taken back since: it was given once.
            if self.known.contains_key(&item) {
                continue;
            }
            if !self.agents.contains_key(&agent) {
                self.report.agents_missing.insert(agent);
                continue;
            }
            let note = "comes with the agent's own account".to_owned();
            for whom in [ForWhom::Unattended, ForWhom::Operators] {
                grants.push(NewGrant { note: note.clone(), ..NewGrant::proxy(&agent, &connection, whom) });
            }
            self.granted.insert((agent, connection));
            let row = Row { item, digest: String::new(), target: None, rest: None, position };
            self.done("owner_grant", true, false, row, "")?;
            if grants.len() >= BATCH {
                grant::create_many(&self.outside.base, &mut *self.tx.lock().await, &self.site, &self.actor, &grants).await?;
                grants.clear();
            }
            self.put_rows(store::BATCH).await?;
        }
        grant::create_many(&self.outside.base, &mut *self.tx.lock().await, &self.site, &self.actor, &grants).await
    }

    /// What was lent to agents becomes grants for the same operations, whoever calls: Data Machine asked for the agent only.
    ///
    /// Not with `reveal`: there the platform opened the mailbox and the agent never saw its password. The platform goes on
    /// asking whether the agent may `MAIL /read`; whoever wants the agent itself to log in grants that.
    pub(super) async fn lend(&mut self) -> Result<()> {
        for Lent { row, account, owner, agent, operations, changed } in std::mem::take(&mut self.lent) {
            let Some(connection) = self.mailboxes.get(&account).cloned() else {
                self.leave_out("grant", &row, "there is no such mailbox".to_owned())?;
                continue;
            };
            if !self.agents.contains_key(&agent) {
                self.report.agents_missing.insert(agent.clone());
                self.leave_out("grant", &row, format!("there is no agent {agent}"))?;
                continue;
            }
            let given = |whom| NewGrant {
                operations: Some(operations.clone().into()),
                note: LENT.to_owned(),
                grantor: owner.user().cloned(),
                ..NewGrant::proxy(&agent, &connection, whom)
            };
            let grants = [given(ForWhom::Unattended), given(ForWhom::Operators)];
            if changed {
                self.take_back(&agent, &connection).await?;
            }
            grant::create_many(&self.outside.base, &mut *self.tx.lock().await, &self.site, &self.actor, &grants).await?;
            self.granted.insert((agent, connection.clone()));
            let row = Row { target: Some(connection.to_string()), ..row };
            self.done("grant", true, changed, row, "")?;
        }
        Ok(())
    }

    /// Takes back what was lent to an agent before: at the source, too, a new permission takes the place of the old one.
    async fn take_back(&mut self, agent: &AgentId, connection: &ConnectionId) -> Result<()> {
        let base = &self.outside.base;
        let mut tx = self.tx.lock().await;
        let lent = (agent, connection, LENT);
        let ended = store::revoke_grants(&mut tx, &self.site, lent, &self.actor, LENT_ANEW, base.clock.now()).await?;
        for grant in ended {
            let event = Event::new(&self.site, &self.actor, "grant.revoke")
                .agent(agent)
                .connection(connection)
                .facts(json!({ "grant": grant, "reason": LENT_ANEW }));
            base.audit.record(&mut tx, event).await?;
        }
        Ok(())
    }

    /// What agents reached before because nobody asked: now somebody has to say so.
    pub(super) fn list_ungranted(&mut self) {
        let mut agents_of: HashMap<&UserId, Vec<&AgentId>> = HashMap::new();
        for (agent, owner) in self.agents.iter().filter_map(|(agent, owner)| Some((agent, owner.as_ref()?))) {
            agents_of.entry(owner).or_default().push(agent);
        }
        for (owner, provider, name, connection) in std::mem::take(&mut self.reached) {
            let before: Vec<&AgentId> = match &owner {
                Owner::Site => self.agents.keys().collect(),
                Owner::User(user) => agents_of.get(user).cloned().unwrap_or_default(),
                Owner::Agent(_) => Vec::new(),
            };
            let granted = |agent: &AgentId| self.granted.contains(&(agent.clone(), connection.clone()));
            let agents: Vec<AgentId> = before.into_iter().filter(|agent| !granted(agent)).cloned().collect();
            if !agents.is_empty() {
                self.report.to_grant.push(ToGrant { connection, provider, owner, name, agents });
            }
        }
    }

    /// Writes down what came from where, if that much is waiting.
    pub(super) async fn put_rows(&mut self, at_least: usize) -> Result<()> {
        let rows = self.rows_to_put(at_least);
        store::put(&mut *self.tx.lock().await, &self.site, DATA_MACHINE, &rows, self.outside.base.clock.now()).await
    }

    /// What is to be written down of what came from where; nothing while less than that is waiting.
    fn rows_to_put(&mut self, at_least: usize) -> Vec<Row> {
        if self.rows.len() < at_least {
            return Vec::new();
        }
        let mut rows = std::mem::take(&mut self.rows);
        // Of two things with one name the later counts; PostgreSQL takes no row twice in one statement.
        let mut names = HashSet::with_capacity(rows.len());
        let last: Vec<bool> = rows.iter().rev().map(|row| names.insert(row.item.as_str())).collect();
        let mut last = last.into_iter().rev();
        rows.retain(|_| last.next().unwrap_or(true));
        rows
    }

    /// Counts an item that was done, and remembers it; or says what is in its way.
    pub(super) fn done(&mut self, kind: &'static str, done: bool, took: bool, row: Row, in_the_way: &'static str) -> Result<()> {
        let counts = self.count(kind);
        match (done, took) {
            (true, true) => counts.replaced += 1,
            (true, false) => counts.created += 1,
            (false, _) => {
                counts.skipped += 1;
                self.report.conflicts.push(Conflict { item: row.item, why: in_the_way });
                return Ok(());
            }
        }
        if matches!(kind, "config" | "account")
            && let Some(provider) = row.item.split('/').nth(1)
        {
            self.fresh.insert(provider.parse()?);
        }
        self.rows.push(row);
        Ok(())
    }

    /// Where somebody has no account, the site's stood in at the source, and so it does here: for providers that nothing came
    /// of before, so that an operator's word on one that something did stays.
    pub(super) async fn let_fall_back(&mut self) -> Result<()> {
        let came = |item: &String| {
            let (kind, rest) = item.split_once('/')?;
            matches!(kind, "config" | "account").then(|| rest.split('/').next().unwrap_or_default().to_owned())
        };
        let before: HashSet<String> = self.known.keys().filter_map(came).collect();
        for provider in std::mem::take(&mut self.fresh) {
            if !before.contains(provider.as_str()) {
                scope::set_imported(&self.outside.base, &mut *self.tx.lock().await, &self.site, &self.actor, &provider).await?;
            }
        }
        Ok(())
    }

    pub(super) fn leave_out(&mut self, kind: &'static str, row: &Row, why: String) -> Result<()> {
        self.count(kind).skipped += 1;
        self.report.left_out.push(LeftOut { item: row.item.clone(), why });
        Ok(())
    }

    pub(super) fn count(&mut self, kind: &'static str) -> &mut Counts {
        self.report.counts.entry(kind).or_default()
    }

    pub(super) fn definition(&self, provider: &ProviderName) -> Option<Arc<Definition>> {
        self.outside.catalogue.get(provider).cloned()
    }

    pub(super) fn check_provider(&self, provider: &ProviderName) -> Result<()> {
        match self.providers.contains(provider) {
            true => Ok(()),
            false => {
                Err(Error::new(Code::InvalidRequest, format!("the provider `{provider}` is not in the header of the import")))
            }
        }
    }

    /// The report so far, for whoever shows how it goes on.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// Owes the provider the tokens of a connection that ended here, and says that it ended. Nothing is owed where what took its
/// place lives on one of the same tokens.
pub(super) async fn owe(outside: &Outside, tx: &mut Tx, actor: &Actor, ended: &Stored, by: &SecretMap) -> Result<()> {
    let (base, there) = (&outside.base, &ended.connection);
    let account = match &ended.sealed {
        Some(sealed) => connection::open_account(base, there, sealed).await.ok(),
        None => None,
    };
    let owed = if account.as_ref().is_some_and(|account| share_a_token(account, by)) {
        Owed::Skipped("what took its place has the same token".to_owned())
    } else {
        let definition = outside.catalogue.get(&there.provider).map(AsRef::as_ref);
        let wish = UpstreamWish::IfPossible;
        connection::owe_revocation(base, tx, definition, there, account.as_ref(), wish, TOOK_PLACE).await?
    };
    let facts = json!({ "provider": there.provider, "owner": there.owner, "reason": TOOK_PLACE, "revocation": owed });
    let event = Event::new(&there.site, actor, "connection.revoke").connection(&there.id).facts(facts);
    base.audit.record(tx, event).await
}

/// Whether a revocation of one account's tokens would end one of the other's.
fn share_a_token(one: &SecretMap, two: &SecretMap) -> bool {
    let same = |name: &str| one.text(name).is_some_and(|text| two.text(name).is_some_and(|other| text.matches(&other)));
    TOKENS.into_iter().any(same)
}

/// The members by which revocations name a token.
const TOKENS: [&str; 2] = ["access_token", "refresh_token"];

/// What is left over, as it is stored; nothing for nothing.
pub(super) fn text_of(rest: &Rest) -> Result<Option<String>> {
    if rest.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(rest).map(Some).map_err(Error::internal)
}
