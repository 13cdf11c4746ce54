//! What is kept of a dump's tables, and which WordPress of those in it is meant.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Choice, Dump, Error, MAX_KEPT,
    rows::{AccessRow, AgentRow, Cell, PrincipalAccessRow, Text, TokenRow},
};

/// The option with the accounts.
const AUTH_DATA: &str = "datamachine_auth_data";
/// The options that are kept.
const OPTIONS: [&str; 6] = [AUTH_DATA, "datamachine_external_tokens", "auth_key", "auth_salt", "siteurl", "home"];

/// The tables that matter, by the ends of their names; a longer end stands before one that it ends in.
const KINDS: [(&str, Kind); 7] = [
    ("datamachine_agent_principal_access", Kind::PrincipalAccess),
    ("datamachine_agent_access", Kind::Access),
    ("datamachine_agent_tokens", Kind::Tokens),
    ("datamachine_agents", Kind::Agents),
    ("sitemeta", Kind::Sitemeta),
    ("options", Kind::Options),
    ("users", Kind::Users),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Options,
    Sitemeta,
    Agents,
    Tokens,
    Access,
    PrincipalAccess,
    Users,
}

impl Kind {
    /// A table's kind, and what stands before it in the name.
    fn of(table: &str) -> Option<(Self, &str)> {
        KINDS.iter().find_map(|(end, kind)| Some((*kind, table.strip_suffix(end)?)))
    }

    /// The columns that are kept.
    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Options => &["option_name", "option_value"],
            Self::Sitemeta => &["site_id", "meta_key", "meta_id", "meta_value"],
            Self::Agents => AgentRow::COLUMNS,
            Self::Tokens => TokenRow::COLUMNS,
            Self::Access => AccessRow::COLUMNS,
            Self::PrincipalAccess => PrincipalAccessRow::COLUMNS,
            Self::Users => &["ID"],
        }
    }

    /// Which of them names the option that a row holds.
    fn option_name(self) -> Option<usize> {
        match self {
            Self::Options => Some(0),
            Self::Sitemeta => Some(1),
            _ => None,
        }
    }
}

/// What a statement does with a row that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// `INSERT`: there must be none.
    Insert,
    /// `INSERT IGNORE`: the old one stays.
    Ignore,
    /// `REPLACE`: the new one counts.
    Replace,
}

/// A statement that brings rows into a table that matters.
pub(super) struct Insert {
    table: String,
    kind: Kind,
    prefix: String,
    mode: Mode,
    /// For each value of a row, which kept column it is.
    slots: Vec<Option<usize>>,
    cells: Vec<Cell>,
}

impl Insert {
    /// The table's name.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Which cell a row's value goes to; none if it is not kept, or if the row is known to be another option's.
    pub(super) fn slot(&self, value: usize) -> Option<usize> {
        let slot = (*self.slots.get(value)?)?;
        match self.kind.option_name().and_then(|name| self.cells[name].as_ref()) {
            Some(name) if !is_kept(name.as_deref()) => None,
            _ => Some(slot),
        }
    }

    /// The values that a row has.
    pub(super) fn width(&self) -> usize {
        self.slots.len()
    }

    /// Fills a cell.
    pub(super) fn put(&mut self, slot: usize, value: Option<Vec<u8>>) {
        self.cells[slot] = Some(value);
    }
}

fn is_kept(name: Option<&[u8]>) -> bool {
    name.is_some_and(|name| OPTIONS.iter().any(|kept| kept.as_bytes() == name))
}

/// The rows of one table.
enum Rows {
    Options(BTreeMap<String, Text>),
    /// By network and key; with the row's number, because keys may repeat and WordPress takes the first.
    Sitemeta(BTreeMap<(u64, String), (u64, Text)>),
    Agents(BTreeMap<u64, AgentRow>),
    Tokens(BTreeMap<u64, TokenRow>),
    Access(BTreeMap<u64, AccessRow>),
    PrincipalAccess(BTreeMap<u64, PrincipalAccessRow>),
    Users(BTreeSet<u64>),
}

struct Table {
    rows: Rows,
    /// The bytes that its rows count for.
    bytes: usize,
}

impl Table {
    fn new(kind: Kind) -> Self {
        let rows = match kind {
            Kind::Options => Rows::Options(BTreeMap::new()),
            Kind::Sitemeta => Rows::Sitemeta(BTreeMap::new()),
            Kind::Agents => Rows::Agents(BTreeMap::new()),
            Kind::Tokens => Rows::Tokens(BTreeMap::new()),
            Kind::Access => Rows::Access(BTreeMap::new()),
            Kind::PrincipalAccess => Rows::PrincipalAccess(BTreeMap::new()),
            Kind::Users => Rows::Users(BTreeSet::new()),
        };
        Self { rows, bytes: 0 }
    }
}

/// The tables of every WordPress in a database, by prefix and kind.
#[derive(Default)]
struct Database {
    found: BTreeMap<(String, Kind), Table>,
    /// The columns of the tables that matter, where the dump says them.
    columns: HashMap<String, Vec<String>>,
}

/// The tables of a dump. It may be of several databases, and two of them may hold a WordPress with the same prefix.
pub(super) struct Tables {
    /// The database that statements are for.
    here: Database,
    /// Its name, where a statement said it.
    name: Option<String>,
    /// Those that statements were for before.
    others: BTreeMap<Option<String>, Database>,
    left: usize,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self { here: Database::default(), name: None, others: BTreeMap::new(), left: MAX_KEPT }
    }

    /// The statements that follow are for this database.
    pub(super) fn used(&mut self, name: String) -> Result<(), Error> {
        let name = Some(name);
        if name != self.name {
            // A name is at most that long.
            self.charge(1024)?;
            let next = self.others.remove(&name).unwrap_or_default();
            let before = std::mem::replace(&mut self.here, next);
            self.others.insert(std::mem::replace(&mut self.name, name), before);
        }
        Ok(())
    }

    /// How many bytes may still be kept.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Whether a table matters.
    pub(super) fn matters(table: &str) -> bool {
        Kind::of(table).is_some()
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes).ok_or(Error::TooMuch)?;
        Ok(())
    }

    /// A table is made, empty.
    pub(super) fn created(&mut self, table: &str, columns: Vec<String>) -> Result<(), Error> {
        let Some((kind, prefix)) = Kind::of(table) else { return Ok(()) };
        self.emptied(table);
        self.charge(table.len() * 2 + columns.iter().map(|name| name.len() + 24).sum::<usize>() + 256)?;
        // A plugin's table that only ends like one of WordPress's.
        if matches!(kind, Kind::Options | Kind::Sitemeta) && !kind.columns().iter().all(|name| has(&columns, name)) {
            self.here.columns.insert(table.to_owned(), Vec::new());
            return Ok(());
        }
        self.here.columns.insert(table.to_owned(), columns);
        self.here.found.insert((prefix.to_owned(), kind), Table::new(kind));
        Ok(())
    }

    /// A table is dropped or emptied.
    pub(super) fn emptied(&mut self, table: &str) {
        if let Some((kind, prefix)) = Kind::of(table)
            && let Some(table) = self.here.found.get_mut(&(prefix.to_owned(), kind))
        {
            self.left += table.bytes;
            *table = Table::new(kind);
        }
    }

    /// Rows come for a table, in columns that the statement names or the table had when it was made.
    pub(super) fn insert(&mut self, table: &str, columns: Option<Vec<String>>, mode: Mode) -> Result<Option<Insert>, Error> {
        let Some((kind, prefix)) = Kind::of(table) else { return Ok(None) };
        let columns = match &columns {
            Some(columns) => columns,
            None => self.here.columns.get(table).ok_or_else(|| Error::NoColumns { table: table.to_owned() })?,
        };
        let slots: Vec<_> =
            columns.iter().map(|column| kind.columns().iter().position(|kept| kept.eq_ignore_ascii_case(column))).collect();
        if kind.option_name().is_some_and(|name| !slots.contains(&Some(name))) {
            return Ok(None);
        }
        let key = (prefix.to_owned(), kind);
        if !self.here.found.contains_key(&key) {
            self.charge(table.len() + 256)?;
            self.here.found.insert(key, Table::new(kind));
        }
        let cells = vec![None; kind.columns().len()];
        Ok(Some(Insert { table: table.to_owned(), kind, prefix: prefix.to_owned(), mode, slots, cells }))
    }

    /// A row is whole.
    pub(super) fn row(&mut self, insert: &mut Insert, offset: u64) -> Result<(), Error> {
        let mut cells: Vec<Cell> = insert.cells.iter_mut().map(Option::take).collect();
        if let Some(name) = insert.kind.option_name()
            && !is_kept(cells[name].as_ref().and_then(|name| name.as_deref()))
        {
            return Ok(());
        }
        let bytes = cells.iter().flatten().flatten().map(Vec::len).sum::<usize>() + 64 * cells.len();
        self.charge(bytes)?;
        let fault = |column| Error::Value { table: insert.table.clone(), column, offset };
        let duplicate = || Error::Duplicate { table: insert.table.clone(), offset };
        let Some(table) = self.here.found.get_mut(&(insert.prefix.clone(), insert.kind)) else { return Ok(()) };
        table.bytes += bytes;
        let fresh = match &mut table.rows {
            Rows::Options(rows) => {
                let name = text(&mut cells[0]).ok_or(fault("option_name"))?;
                keep(rows, name, cells[1].take().flatten().unwrap_or_default().into(), insert.mode)
            }
            Rows::Sitemeta(rows) => {
                let site: u64 = number(&mut cells[0]).ok_or(fault("site_id"))?;
                let id = number(&mut cells[2]).ok_or(fault("meta_id"))?;
                let key = text(&mut cells[1]).ok_or(fault("meta_key"))?;
                let value = cells[3].take().flatten().unwrap_or_default();
                let first = rows.get(&(site, key.clone())).is_none_or(|(other, _)| id < *other);
                if first {
                    rows.insert((site, key), (id, value.into()));
                }
                true
            }
            Rows::Agents(rows) => {
                AgentRow::read(&mut cells).map(|row| keep(rows, row.agent_id, row, insert.mode)).map_err(fault)?
            }
            Rows::Tokens(rows) => {
                TokenRow::read(&mut cells).map(|row| keep(rows, row.token_id, row, insert.mode)).map_err(fault)?
            }
            Rows::Access(rows) => AccessRow::read(&mut cells).map(|row| keep(rows, row.id, row, insert.mode)).map_err(fault)?,
            Rows::PrincipalAccess(rows) => {
                PrincipalAccessRow::read(&mut cells).map(|row| keep(rows, row.id, row, insert.mode)).map_err(fault)?
            }
            Rows::Users(rows) => {
                // A plugin's table may end like WordPress's own; what has no number is no user.
                rows.extend(number(&mut cells[0]));
                true
            }
        };
        if fresh { Ok(()) } else { Err(duplicate()) }
    }

    /// The WordPress that is meant, and what the dump has of it.
    pub(super) fn choose(mut self, choice: &Choice) -> Result<Dump, Error> {
        self.others.insert(self.name.take(), std::mem::take(&mut self.here));
        let mut meant: Vec<Option<String>> =
            self.others.iter().filter(|(_, database)| database.is_meant(choice)).map(|(name, _)| name.clone()).collect();
        if meant.len() > 1 {
            return Err(Error::Databases { names: meant.into_iter().map(Option::unwrap_or_default).collect() });
        }
        let Some(database) = meant.pop().and_then(|name| self.others.remove(&name)) else {
            // None is meant; together they say what there is.
            let found = self.others.into_values().flat_map(|database| database.found).collect();
            return Database { found, columns: HashMap::new() }.choose(choice);
        };
        let mut elsewhere = Vec::new();
        for (name, other) in self.others {
            let prefixes: BTreeSet<&str> = other.found.keys().map(|(prefix, _)| &**prefix).collect();
            let name = name.unwrap_or_default();
            let traces = prefixes.iter().flat_map(|prefix| other.traces(prefix));
            elsewhere.extend(traces.map(|what| format!("{what} of the database {name}")));
        }
        let mut dump = database.choose(choice)?;
        dump.unused.extend(elsewhere);
        Ok(dump)
    }
}

impl Database {
    /// Whether something of Data Machine is in it; under the prefix that was asked for, if one was.
    fn is_meant(&self, choice: &Choice) -> bool {
        let mut prefixes = self.found.keys().map(|(prefix, _)| prefix);
        let asked = choice.table_prefix.as_ref();
        prefixes.any(|prefix| asked.is_none_or(|asked| asked == prefix) && self.traces(prefix).next().is_some())
    }

    /// The WordPress that is meant, and what the database has of it.
    fn choose(mut self, choice: &Choice) -> Result<Dump, Error> {
        let prefixes: BTreeSet<&str> = self.found.keys().map(|(prefix, _)| &**prefix).collect();
        // Only a network has blogs: beside a single site, `wp_2_` is a site of its own.
        let is_blog = |prefix: &str| {
            base_of(prefix, &prefixes).is_some_and(|base| self.found.contains_key(&(base.to_owned(), Kind::Sitemeta)))
        };
        let bases: Vec<&str> = prefixes.iter().copied().filter(|&prefix| !is_blog(prefix)).collect();
        let table_prefix = match &choice.table_prefix {
            Some(prefix) if prefixes.contains(&**prefix) => prefix.clone(),
            Some(_) => return Err(Error::NoSuchPrefix { prefixes: bases.iter().map(|&prefix| prefix.to_owned()).collect() }),
            None => {
                let meant: Vec<String> =
                    bases.iter().filter(|prefix| self.traces(prefix).next().is_some()).map(|&prefix| prefix.to_owned()).collect();
                match <[String; 1]>::try_from(meant) {
                    Ok([prefix]) => prefix,
                    Err(meant) if meant.is_empty() => {
                        return Err(Error::Nothing { prefixes: bases.iter().map(|&prefix| prefix.to_owned()).collect() });
                    }
                    Err(prefixes) => match &choice.likely_prefix {
                        Some(likely) if prefixes.contains(likely) => likely.clone(),
                        _ => return Err(Error::Ambiguous { prefixes }),
                    },
                }
            }
        };
        let mut unused: Vec<String> =
            prefixes.iter().filter(|prefix| ***prefix != *table_prefix).flat_map(|prefix| self.traces(prefix)).collect();
        let network = self.network(&table_prefix, choice)?;
        let mut take = |kind| self.found.remove(&(table_prefix.clone(), kind)).map(|table| table.rows);
        let mut options = match take(Kind::Options) {
            Some(Rows::Options(rows)) => rows,
            _ => BTreeMap::new(),
        };
        let mut meta = BTreeMap::new();
        if let (Some(Rows::Sitemeta(rows)), Some(network)) = (take(Kind::Sitemeta), network) {
            for ((site, key), (_, value)) in rows {
                if site == network {
                    meta.insert(key, value);
                } else if key == AUTH_DATA {
                    unused.push(format!("{AUTH_DATA} of network {site} in {table_prefix}sitemeta"));
                }
            }
            if options.contains_key(AUTH_DATA) {
                unused.push(format!("{AUTH_DATA} in {table_prefix}options, which a network does not read"));
            }
        }
        // A network reads and writes these for all of its blogs; a single site has them among its own.
        let mut shared = |name: &str| {
            let value = if network.is_some() { meta.remove(name) } else { options.remove(name) };
            value.map(Text::into_secret)
        };
        let (auth_data, auth_key, auth_salt) = (shared(AUTH_DATA), shared("auth_key"), shared("auth_salt"));
        let tokens = options.remove("datamachine_external_tokens");
        Ok(Dump {
            network,
            auth_data,
            auth_key,
            auth_salt,
            external_tokens: tokens.map(Text::into_secret),
            siteurl: options.remove("siteurl"),
            home: options.remove("home"),
            agents: match take(Kind::Agents) {
                Some(Rows::Agents(rows)) => Some(rows.into_values().collect()),
                _ => None,
            },
            tokens: match take(Kind::Tokens) {
                Some(Rows::Tokens(rows)) => Some(rows.into_values().collect()),
                _ => None,
            },
            access: match take(Kind::Access) {
                Some(Rows::Access(rows)) => Some(rows.into_values().collect()),
                _ => None,
            },
            principal_access: match take(Kind::PrincipalAccess) {
                Some(Rows::PrincipalAccess(rows)) => Some(rows.into_values().collect()),
                _ => None,
            },
            users: match take(Kind::Users) {
                Some(Rows::Users(rows)) => Some(rows),
                _ => None,
            },
            unused,
            table_prefix,
        })
    }

    /// What under a prefix is Data Machine's.
    fn traces(&self, prefix: &str) -> impl Iterator<Item = String> {
        let found = self.found.iter().filter(move |((of, _), _)| of == prefix);
        found.filter_map(move |((prefix, kind), table)| {
            let name = |end: &str| format!("{prefix}{end}");
            match (&table.rows, kind) {
                (Rows::Options(rows), _) => {
                    let option = rows.keys().find(|name| name.starts_with("datamachine_"))?;
                    Some(format!("{option} in {}", name("options")))
                }
                (Rows::Sitemeta(rows), _) => {
                    rows.keys().find(|(_, key)| key == AUTH_DATA)?;
                    Some(format!("{AUTH_DATA} in {}", name("sitemeta")))
                }
                (Rows::Agents(rows), _) if !rows.is_empty() => Some(name("datamachine_agents")),
                (Rows::Tokens(rows), _) if !rows.is_empty() => Some(name("datamachine_agent_tokens")),
                _ => None,
            }
        })
    }

    /// The network's number, where the tables are a network's.
    fn network(&self, prefix: &str, choice: &Choice) -> Result<Option<u64>, Error> {
        let rows = match self.found.get(&(prefix.to_owned(), Kind::Sitemeta)) {
            Some(Table { rows: Rows::Sitemeta(rows), .. }) => Some(rows),
            _ => None,
        };
        if let Some(number) = choice.network {
            let networks: BTreeSet<u64> = rows.into_iter().flat_map(BTreeMap::keys).map(|(site, _)| *site).collect();
            return match networks.contains(&number) {
                true => Ok(Some(number)),
                false => Err(Error::NoSuchNetwork { networks: networks.into_iter().collect() }),
            };
        }
        let Some(rows) = rows else { return Ok(None) };
        let networks: Vec<u64> = rows.keys().filter(|(_, key)| key == AUTH_DATA).map(|(site, _)| *site).collect();
        match networks[..] {
            [] => Ok(Some(rows.keys().next().map_or(1, |(site, _)| *site))),
            [network] => Ok(Some(network)),
            _ => Err(Error::Networks { networks }),
        }
    }
}

/// The prefix of the network whose blog has this one: `wp_` for `wp_7_`, if it is in the dump too.
fn base_of<'p>(prefix: &'p str, prefixes: &BTreeSet<&str>) -> Option<&'p str> {
    let base = prefix.strip_suffix('_')?.trim_end_matches(|c: char| c.is_ascii_digit());
    (base.len() + 1 < prefix.len() && base.ends_with('_') && prefixes.contains(base)).then_some(base)
}

fn has(columns: &[String], name: &str) -> bool {
    columns.iter().any(|column| column.eq_ignore_ascii_case(name))
}

fn text(cell: &mut Cell) -> Option<String> {
    String::from_utf8(cell.take()??).ok()
}

fn number(cell: &mut Cell) -> Option<u64> {
    text(cell)?.parse().ok()
}

/// Keeps a row as its statement says; false if there must not be one already.
fn keep<K: Ord, V>(rows: &mut BTreeMap<K, V>, key: K, row: V, mode: Mode) -> bool {
    match mode {
        Mode::Replace => {
            rows.insert(key, row);
            true
        }
        Mode::Ignore => {
            rows.entry(key).or_insert(row);
            true
        }
        Mode::Insert if rows.contains_key(&key) => false,
        Mode::Insert => rows.insert(key, row).is_none(),
    }
}
