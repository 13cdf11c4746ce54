//! A TOML file as a tree in which everything knows its place, and the walk over it that reports every mistake.
//!
//! serde stops at the first mistake and forgets where a value came from once two files are merged. This tree keeps the
//! place of every key through `extends`, so a mistake in an inherited value points into the file that has it.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{catalogue::Problem, words::Word};

/// Where something stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: Arc<str>,
    line: usize,
    column: usize,
}

/// A value and the place of its key; in a list, its own place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: NodeValue,
}

#[derive(Clone, Debug)]
pub(super) enum NodeValue {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Node>),
    /// In the order of the file.
    Table(Vec<(String, Node)>),
    /// A kind of value that no key takes.
    Other(&'static str),
}

impl Node {
    /// Reads a file. The problems are those of TOML itself, repeated keys among them.
    pub(super) fn parse(file: &Arc<str>, text: &str) -> Result<Self, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        let start = Place { file: file.clone(), line: 1, column: 1 };
        if errors.is_empty() {
            return Ok(Node { place: start, value: table_value(file, text, table.get_ref()) });
        }
        let problem = |error: &toml::de::Error| {
            let place = error.span().map_or_else(|| start.clone(), |span| place(file, text, span.start));
            place.problem("", error.message().to_owned())
        };
        Err(errors.iter().map(problem).collect())
    }

    /// This table on top of another. Tables merge key by key; everything else replaces, and so do the tables `identity`,
    /// `scopes` and `facts`, of which half would mean something else. The reason for a key's being empty
    /// (`KEY_none_reason`) goes with the value that it explained.
    pub(super) fn on_top_of(self, base: Node) -> Node {
        match (base.value, self.value) {
            (NodeValue::Table(mut entries), NodeValue::Table(over)) => {
                let replaced = |reason: &str| {
                    let explained = reason.strip_suffix("_none_reason");
                    over.iter().any(|(key, _)| explained == Some(key))
                };
                entries.retain(|(known, _)| !replaced(known));
                for (key, node) in over {
                    match entries.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, known)) if matches!(key.as_str(), "identity" | "scopes" | "facts") => *known = node,
                        Some((_, known)) => {
                            let below =
                                std::mem::replace(known, Node { place: node.place.clone(), value: NodeValue::Bool(false) });
                            *known = node.on_top_of(below);
                        }
                        None => entries.push((key, node)),
                    }
                }
                Node { place: self.place, value: NodeValue::Table(entries) }
            }
            (_, value) => Node { place: self.place, value },
        }
    }

    fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Text(_) => "a text",
            NodeValue::Integer(_) => "a number",
            NodeValue::Bool(_) => "true or false",
            NodeValue::List(_) => "a list",
            NodeValue::Table(_) => "a table",
            NodeValue::Other(kind) => kind,
        }
    }

    /// One entry of a table.
    pub(super) fn entry(&self, key: &str) -> Option<&Node> {
        match &self.value {
            NodeValue::Table(entries) => entries.iter().find(|(known, _)| known == key).map(|(_, node)| node),
            _ => None,
        }
    }
}

impl Place {
    /// Whether both stand in one file.
    pub(super) fn is_in_the_file_of(&self, other: &Place) -> bool {
        self.file == other.file
    }

    fn problem(&self, key: &str, message: String) -> Problem {
        Problem { file: self.file.to_string(), line: self.line, column: self.column, key: key.to_owned(), message }
    }
}

fn place(file: &Arc<str>, text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Place {
        file: file.clone(),
        line: before.bytes().filter(|b| *b == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

fn table_value(file: &Arc<str>, text: &str, table: &DeTable<'_>) -> NodeValue {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let node = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        let place = place(file, text, key.span().start);
        (key.get_ref().to_string(), Node { place, value: value_of(file, text, value.get_ref()) })
    };
    NodeValue::Table(entries.into_iter().map(node).collect())
}

fn value_of(file: &Arc<str>, text: &str, value: &DeValue<'_>) -> NodeValue {
    match value {
        DeValue::String(text) => NodeValue::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(NodeValue::Other("a number too large"), NodeValue::Integer),
        DeValue::Boolean(truth) => NodeValue::Bool(*truth),
        DeValue::Float(_) => NodeValue::Other("a fraction"),
        DeValue::Datetime(_) => NodeValue::Other("a date"),
        DeValue::Array(items) => NodeValue::List(
            items
                .iter()
                .map(|item| Node { place: place(file, text, item.span().start), value: value_of(file, text, item.get_ref()) })
                .collect(),
        ),
        DeValue::Table(table) => table_value(file, text, table),
    }
}

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Notes a mistake.
    pub(super) fn add(&self, place: &Place, key: &str, message: impl Into<String>) {
        self.0.borrow_mut().push(place.problem(key, message.into()));
    }

    /// All mistakes, in the order of the files, each once.
    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A table of the file, with the words to report about it.
///
/// Every reader returns nothing both where a key is missing and where its value is wrong; the latter is noted. So a
/// walk goes on and finds the other mistakes.
#[derive(Clone)]
pub(super) struct Table<'a> {
    entries: &'a [(String, Node)],
    place: &'a Place,
    path: String,
    problems: &'a Problems,
}

/// A value with the words to report about it.
pub(super) struct Item<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
    problems: &'a Problems,
}

impl<'a> Table<'a> {
    /// The table of a whole file.
    pub(super) fn root(node: &'a Node, problems: &'a Problems) -> Self {
        let entries = match &node.value {
            NodeValue::Table(entries) => entries.as_slice(),
            _ => &[],
        };
        Self { entries, place: &node.place, path: String::new(), problems }
    }

    /// An item as a table; nothing where it is something else.
    pub(super) fn of(item: &Item<'a>) -> Option<Self> {
        match &item.node.value {
            NodeValue::Table(entries) => {
                Some(Self { entries, place: &item.node.place, path: item.path.clone(), problems: item.problems })
            }
            _ => {
                item.wrong("a table");
                None
            }
        }
    }

    /// The table under this key; nothing where there is none.
    pub(super) fn table(&self, key: &str) -> Option<Self> {
        Self::of(&self.item(key)?)
    }

    /// The table under this key; an empty one where there is none.
    pub(super) fn table_or_empty(&self, key: &str) -> Self {
        match self.item(key) {
            Some(item) => Self::of(&item).unwrap_or_else(|| self.empty(key)),
            None => self.empty(key),
        }
    }

    fn empty(&self, key: &str) -> Self {
        Self { entries: &[], place: self.place, path: self.key(key), problems: self.problems }
    }

    /// Reports every key that is not among these, with the nearest that is.
    pub(super) fn allow(&self, known: &[&str]) {
        for (key, node) in self.entries {
            if !known.contains(&key.as_str()) {
                self.problems.add(&node.place, &self.key(key), unknown_key(key, known));
            }
        }
    }

    /// The entries, in the order of the file.
    pub(super) fn items(&self) -> impl Iterator<Item = (&'a str, Item<'a>)> + use<'a> {
        let table = self.clone();
        self.entries.iter().map(move |(key, node)| (key.as_str(), table.item_of(key, node)))
    }

    /// One entry.
    pub(super) fn item(&self, key: &str) -> Option<Item<'a>> {
        self.entries.iter().find(|(known, _)| known == key).map(|(key, node)| self.item_of(key, node))
    }

    fn item_of(&self, key: &str, node: &'a Node) -> Item<'a> {
        Item { node, path: self.key(key), problems: self.problems }
    }

    /// Whether there is such an entry.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(known, _)| known == key)
    }

    /// The name of an entry with the tables it stands in.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Reports a mistake at an entry, or at the table where the entry is missing.
    pub(super) fn wrong(&self, key: &str, message: impl Into<String>) {
        let place = self.item(key).map_or(self.place, |item| &item.node.place);
        self.problems.add(place, &self.key(key), message);
    }

    /// Reports an entry that must be there and is not.
    pub(super) fn missing(&self, key: &str, why: &str) {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        self.wrong(key, format!("is needed and missing{why}"));
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.item(key)?.text()
    }

    /// A text that must be there.
    pub(super) fn needed_text(&self, key: &str) -> Option<&'a str> {
        match self.item(key) {
            Some(item) => item.text(),
            None => {
                self.missing(key, "");
                None
            }
        }
    }

    /// A truth value; absent is false.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.truth(key).unwrap_or(false)
    }

    /// A truth value.
    pub(super) fn truth(&self, key: &str) -> Option<bool> {
        let item = self.item(key)?;
        match item.node.value {
            NodeValue::Bool(truth) => Some(truth),
            _ => {
                item.wrong("true or false");
                None
            }
        }
    }

    /// One word of a closed list.
    pub(super) fn word<W: Word>(&self, key: &str) -> Option<W> {
        self.item(key)?.word()
    }

    /// One word of a closed list that must be there.
    pub(super) fn needed_word<W: Word>(&self, key: &str) -> Option<W> {
        match self.item(key) {
            Some(item) => item.word(),
            None => {
                self.missing(key, &format!("one of {}", all_words::<W>()));
                None
            }
        }
    }

    /// A duration.
    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        let item = self.item(key)?;
        match item.text().map(duration) {
            Some(Some(duration)) => Some(duration),
            Some(None) => {
                item.report("a duration is a number and one of s, m, h, d, such as \"15m\"; at most 10 years");
                None
            }
            None => None,
        }
    }

    /// A list of texts; absent is empty.
    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        self.list(key).iter().filter_map(|item| item.text().map(str::to_owned)).collect()
    }

    /// The items of a list; absent is empty.
    pub(super) fn list(&self, key: &str) -> Vec<Item<'a>> {
        let Some(item) = self.item(key) else { return Vec::new() };
        item.list().unwrap_or_default()
    }
}

impl<'a> Item<'a> {
    /// Reports that the value is of another kind than it must be.
    pub(super) fn wrong(&self, wanted: &str) {
        self.report(format!("must be {wanted}, and is {}", self.node.kind()));
    }

    /// Reports a mistake here.
    pub(super) fn report(&self, message: impl Into<String>) {
        self.problems.add(&self.node.place, &self.path, message);
    }

    /// A text.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            NodeValue::Text(text) => Some(text),
            _ => {
                self.wrong("a text");
                None
            }
        }
    }

    /// One word of a closed list.
    pub(super) fn word<W: Word>(&self) -> Option<W> {
        let text = self.text()?;
        let word = W::read(text);
        if word.is_none() {
            self.report(format!("\"{text}\" is not one of {}", all_words::<W>()));
        }
        word
    }

    /// The items of a list.
    pub(super) fn list(&self) -> Option<Vec<Item<'a>>> {
        match &self.node.value {
            NodeValue::List(items) => {
                let item =
                    |(at, node): (usize, &'a Node)| Item { node, path: format!("{}[{at}]", self.path), problems: self.problems };
                Some(items.iter().enumerate().map(item).collect())
            }
            _ => {
                self.wrong("a list");
                None
            }
        }
    }
}

fn all_words<W: Word>() -> String {
    W::ALL.iter().map(|word| word.word()).collect::<Vec<_>>().join(", ")
}

/// `15m`, `60d`: a number from 1 and a unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const TEN_YEARS: u64 = 10 * 365 * 24 * 3600;
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse::<u64>().ok()?.checked_mul(seconds)?;
    (1..=TEN_YEARS).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// What to say of a key that is not known.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => format!("unknown key; the keys here are {}", known.join(", ")),
    }
}

/// The known word that differs least, if it differs little.
fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let best = known.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    (best.0 <= 2.max(word.len() / 3)).then_some(best.1)
}

/// How many letters must be added, removed or changed (Levenshtein), for short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            let least = changed.min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// A table of texts as a map; used where names are free.
pub(super) fn free_texts(table: &Table<'_>) -> BTreeMap<String, String> {
    table.items().filter_map(|(key, item)| Some((key.to_owned(), item.text()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Arc<str> {
        Arc::from("x.toml")
    }

    #[test]
    fn every_key_knows_its_line_and_column() {
        let node = Node::parse(&file(), "a = 1\n[b]\n  c = \"é\"\nd = { e = true }\n").unwrap();
        let at = |node: &Node| (node.place.line, node.place.column);
        let b = node.entry("b").unwrap();
        assert_eq!((at(b), at(b.entry("c").unwrap())), ((2, 2), (3, 3)));
        assert_eq!(at(b.entry("d").unwrap().entry("e").unwrap()), (4, 7));
    }

    #[test]
    fn several_mistakes_of_syntax_are_all_reported() {
        let problems = Node::parse(&file(), "a = 1\na = 2\nb = \n").unwrap_err();
        assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, seconds) in [("15m", 900), ("60d", 60 * 86400), ("1s", 1), ("2h", 7200)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)));
        }
        for text in ["", "m", "15", "15 m", "-1m", "0s", "1.5h", "15min", "99999999999999999999d", "4000d", "1é", "+1m"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearest_key_is_suggested_only_when_it_is_near() {
        assert_eq!(nearest("autorize_url", &["token_url", "authorize_url"]), Some("authorize_url"));
        assert_eq!(nearest("colour", &["token_url", "authorize_url"]), None);
    }
}
