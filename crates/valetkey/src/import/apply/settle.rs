//! What an import settles in batches and at its end: slots that are taken, grants, what came from where.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    BATCH, Conflict, Counts, DATA_MACHINE, Import, LeftOut, Lent, OnConflict, Plain, Ready, Report, Rest, Row, TOOK_PLACE,
    ToGrant, Waiting, arrivals, erase, grant, store,
};
use crate::{
    connection::{
        self,
        import::{Arrival, Coming},
    },
    error::{Code, Error, Result},
    grant::{ForWhom, NewGrant},
    id::{AccountName, AgentId, ConnectionId, ProviderName, UserId},
    principal::Owner,
    provider::Definition,
    scope,
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

    /// Has the accounts that wait described and sealed, and meanwhile inserts those that were before them.
    pub(super) async fn seal_waiting(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let outside = self.outside.clone();
        let sealing = tokio::task::spawn_blocking(move || -> Result<Vec<Ready>> {
            let ready = |one: Waiting| Ok((arrivals::arrive(&outside, one.coming)?, one.row, one.kind));
            waiting.into_iter().map(ready).collect()
        });
        match self.arriving.replace(sealing) {
            Some(before) => self.insert(before.await.map_err(Error::internal)??).await,
            None => Ok(()),
        }
    }

    /// Inserts all accounts that came.
    pub(super) async fn insert_all(&mut self) -> Result<()> {
        self.seal_waiting().await?;
        match self.arriving.take() {
            Some(last) => self.insert(last.await.map_err(Error::internal)??).await,
            None => Ok(()),
        }
    }

    /// Inserts accounts. A slot that is taken is a conflict.
    async fn insert(&mut self, ready: Vec<Ready>) -> Result<()> {
        let (arrivals, rest): (Vec<Arrival>, Vec<(Row, &'static str)>) =
            ready.into_iter().map(|(arrival, row, kind)| (arrival, (row, kind))).unzip();
        let outside = self.outside.clone();
        let base = &outside.base;
        let taken = arrivals::insert_free(base, &mut self.tx, &self.site, &self.actor, &arrivals).await?;
        let taken: HashSet<ConnectionId> = taken.into_iter().map(|arrival| arrival.id.clone()).collect();
        for (arrival, (row, kind)) in arrivals.iter().zip(rest) {
            let mut took = false;
            if taken.contains(&arrival.id) {
                if self.header.on_conflict != OnConflict::Replace {
                    self.done(kind, false, false, row, "another account in this place")?;
                    continue;
                }
                let (provider, owner, name) = (&arrival.provider, &arrival.owner, &arrival.name);
                if let Some(there) = connection::stored_slot(&mut self.tx, &self.site, provider, owner, name).await? {
                    let id = &there.connection.id;
                    if erase(&mut self.tx, &self.site, id, &self.actor, TOOK_PLACE, base.clock.now()).await? {
                        self.ended.push((there.connection.slot(), id.clone()));
                    }
                }
                let one = std::slice::from_ref(arrival);
                if !arrivals::insert_free(base, &mut self.tx, &self.site, &self.actor, one).await?.is_empty() {
                    return Err(Error::new(Code::Conflict, "an account changes all the time; import again"));
                }
                took = true;
            }
            self.note_arrival(arrival, &row);
            self.done(kind, true, took, row, "")?;
        }
        self.put_rows(store::BATCH).await
    }

    pub(super) fn note_arrival(&mut self, arrival: &Arrival, row: &Row) {
        if arrival.is_unverified() {
            self.report.unverified += 1;
        }
        self.note(row.item.clone(), row.position, &arrival.owner, &arrival.provider, &arrival.name, &arrival.id);
    }

    /// Keeps in mind what later items and the report need to know of a connection.
    pub(super) fn note(
        &mut self,
        item: String,
        position: i64,
        owner: &Owner,
        provider: &ProviderName,
        name: &AccountName,
        id: &ConnectionId,
    ) {
        if provider.as_str() == "email_imap" {
            self.mailboxes.insert(item.clone(), id.clone());
        }
        let reached = match owner {
            Owner::Site => true,
            // Its agents reached a person's account wherever the policy said so.
            Owner::User(user) => self.agent_owners.contains(user),
            Owner::Agent(agent) => {
                self.owned.push((item, agent.clone(), id.clone(), position));
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
                grant::create_many(&self.outside.base, &mut self.tx, &self.site, &self.actor, &grants).await?;
                grants.clear();
            }
            self.put_rows(store::BATCH).await?;
        }
        grant::create_many(&self.outside.base, &mut self.tx, &self.site, &self.actor, &grants).await
    }

    /// What was lent to agents becomes grants for the same operations, whoever calls: Data Machine asked for the agent only.
    ///
    /// Not with `reveal`: there the platform opened the mailbox and the agent never saw its password. The platform goes on
    /// asking whether the agent may `MAIL /read`; whoever wants the agent itself to log in grants that.
    pub(super) async fn lend(&mut self) -> Result<()> {
        for Lent { row, account, owner, agent, operations } in std::mem::take(&mut self.lent) {
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
                note: "lent at Data Machine".to_owned(),
                grantor: owner.user().cloned(),
                ..NewGrant::proxy(&agent, &connection, whom)
            };
            let grants = [given(ForWhom::Unattended), given(ForWhom::Operators)];
            grant::create_many(&self.outside.base, &mut self.tx, &self.site, &self.actor, &grants).await?;
            self.granted.insert((agent, connection.clone()));
            let row = Row { target: Some(connection.to_string()), ..row };
            self.done("grant", true, false, row, "")?;
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
        if self.rows.len() >= at_least.max(1) {
            // Of two things with one name the later counts; PostgreSQL takes no row twice in one statement.
            let mut names = HashSet::new();
            self.rows.reverse();
            self.rows.retain(|row| names.insert(row.item.clone()));
            self.rows.reverse();
            store::put(&mut self.tx, &self.site, DATA_MACHINE, &self.rows, self.outside.base.clock.now()).await?;
            self.rows.clear();
        }
        Ok(())
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
                scope::set_imported(&self.outside.base, &mut self.tx, &self.site, &self.actor, &provider).await?;
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

/// What is left over, as it is stored; nothing for nothing.
pub(super) fn text_of(rest: &Rest) -> Result<Option<String>> {
    if rest.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(rest).map(Some).map_err(Error::internal)
}
