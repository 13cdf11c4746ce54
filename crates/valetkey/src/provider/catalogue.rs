//! The catalogue: all definitions, the built-in ones and the operator's on top.
//!
//! 1. Each file becomes a tree in which every key knows its place.
//! 2. `extends` is resolved by merging trees, the nearer one on top. A file may extend the one of the same name that
//!    it covers; a circle is an error.
//! 3. The merged tree is read. A catalogue is made of definitions without a mistake, or not at all: a provider that
//!    silently went missing would look like an outage.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use include_dir::{Dir, include_dir};
use serde::Serialize;

use super::{
    definition::{Definition, Source},
    load,
    spanned::{Node, NodeValue, Place, Problems},
};
use crate::{
    error::{Code, Error, Result},
    id::ProviderName,
};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../providers");

/// The largest definition file, in bytes. The largest built-in one has about 5 KB.
const MAX_FILE: u64 = 256 * 1024;

/// The most definition files in a folder.
const MAX_FILES: usize = 2000;

/// The most definitions that stand below another one.
const DEEPEST: usize = 16;

/// How far a definition is trusted to name plain HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Https only.
    #[default]
    Normal,
    /// `http://` passes for loopback hosts: for development against a stand-in on this machine, and for tests.
    Dev,
}

/// A mistake in a definition file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key, with the tables it stands in; empty where the file as a whole is meant.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Problem {
    fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, key: String::new(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// All definitions, by name.
#[derive(Clone, Default)]
pub struct Catalogue {
    definitions: BTreeMap<ProviderName, Arc<Definition>>,
    /// The files of each name, the lowest first. The last one counts; it may extend the one below.
    layers: BTreeMap<ProviderName, Vec<Layer>>,
}

#[derive(Clone)]
struct Layer {
    tree: Arc<Node>,
    trust: Trust,
    source: Source,
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.definitions.keys()).finish()
    }
}

impl Catalogue {
    /// The built-in definitions.
    pub fn embedded() -> Result<Self> {
        let read = |file: &include_dir::File<'_>| {
            let path = file.path().to_str()?;
            let name = path.strip_suffix(".toml")?;
            Some((name.to_owned(), format!("providers/{path}"), file.contents_utf8().unwrap_or_default().to_owned()))
        };
        let files = EMBEDDED.files().filter_map(read).map(|(name, file, text)| (name, file, text, Source::Embedded)).collect();
        Self::default().with(files, Trust::Normal).map_err(|problems| invalid(&problems))
    }

    /// The same catalogue with every `*.toml` of a folder on top. A file covers a definition of the same name, and may
    /// `extends` it.
    pub fn with_folder(self, folder: &Path, trust: Trust) -> Result<Self, Vec<Problem>> {
        let shown = folder.display().to_string();
        let unreadable = |error: std::io::Error| vec![Problem::of_file(&shown, format!("cannot be read: {error}"))];
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let hidden = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
            if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
                paths.push(path);
            }
        }
        if paths.len() > MAX_FILES {
            return Err(vec![Problem::of_file(&shown, format!("holds more than {MAX_FILES} definitions"))]);
        }
        paths.sort();
        let (mut files, mut problems) = (Vec::new(), Vec::new());
        for path in paths {
            match read_file(&path) {
                Ok(file) => files.push(file),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { self.with(files, trust) } else { Err(problems) }
    }

    /// The same catalogue with one definition on top, handed over as text.
    pub fn with_text(self, name: &ProviderName, text: &str, trust: Trust) -> Result<Self, Vec<Problem>> {
        let file = format!("{name}.toml");
        self.with(vec![(name.as_str().to_owned(), file.clone(), text.to_owned(), Source::Text(file))], trust)
    }

    /// Reads one file as if it lay on top of this catalogue, and changes nothing.
    pub fn check_file(&self, path: &Path, trust: Trust) -> Result<Definition, Vec<Problem>> {
        let file = read_file(path).map_err(|problem| vec![problem])?;
        let mut checked = Self { definitions: BTreeMap::new(), layers: self.layers.clone() };
        let name = checked.push(file, trust)?;
        checked.build(&name).map(|definition| (*definition).clone())
    }

    /// The definition with this name.
    pub fn get(&self, name: &ProviderName) -> Option<&Arc<Definition>> {
        self.definitions.get(name)
    }

    /// All definitions, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.definitions.values()
    }

    /// How many definitions there are.
    pub fn len(&self) -> usize {
        self.definitions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
    }

    fn with(mut self, files: Vec<(String, String, String, Source)>, trust: Trust) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        for file in files {
            if let Err(more) = self.push(file, trust) {
                problems.extend(more);
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let names: Vec<ProviderName> = self.layers.keys().cloned().collect();
        for name in names {
            match self.build(&name) {
                Ok(definition) => {
                    self.definitions.insert(name, definition);
                }
                Err(more) => problems.extend(more),
            }
        }
        // A mistake in an inherited value shows up in every definition that inherits it.
        problems.sort();
        problems.dedup();
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    fn push(
        &mut self,
        (name, file, text, source): (String, String, String, Source),
        trust: Trust,
    ) -> Result<ProviderName, Vec<Problem>> {
        let name: ProviderName =
            name.parse().map_err(|error: Error| vec![Problem::of_file(&file, format!("{}: \"{name}\"", error.message()))])?;
        let tree = Arc::new(Node::parse(&Arc::from(file.as_str()), &text)?);
        self.layers.entry(name.clone()).or_default().push(Layer { tree, trust, source });
        Ok(name)
    }

    fn build(&self, name: &ProviderName) -> Result<Arc<Definition>, Vec<Problem>> {
        let Some((at, layer)) = self.layers.get(name).and_then(|layers| Some((layers.len() - 1, layers.last()?))) else {
            return Err(vec![Problem::of_file(name.as_str(), "is not a known definition")]);
        };
        let tree = self.merged(name, at, &mut Vec::new())?;
        load::definition(name, &tree, layer.trust, layer.source.clone()).map(Arc::new)
    }

    /// The tree of one layer with what it extends beneath it.
    fn merged(&self, name: &ProviderName, at: usize, above: &mut Vec<(ProviderName, usize)>) -> Result<Node, Vec<Problem>> {
        let Some(layer) = self.layers.get(name).and_then(|layers| layers.get(at)) else {
            return Err(vec![Problem::of_file(name.as_str(), "is not a known definition")]);
        };
        let tree = (*layer.tree).clone();
        let Some(extends) = tree.entry("extends") else { return Ok(tree) };
        let wrong = |place: &Place, message: String| {
            let problems = Problems::default();
            problems.add(place, "extends", message);
            Err(problems.into_sorted())
        };
        let NodeValue::Text(text) = &extends.value else {
            return wrong(&extends.place, "must be the name of a definition".to_owned());
        };
        let below = match text.parse::<ProviderName>() {
            Ok(base) if base == *name => at.checked_sub(1).map(|below| (base, below)),
            Ok(base) => self.layers.get(&base).map(|layers| (base, layers.len() - 1)),
            Err(_) => None,
        };
        let Some((base, below)) = below else {
            return wrong(&extends.place, format!("there is no definition \"{text}\" to build on"));
        };
        above.push((name.clone(), at));
        if above.contains(&(base.clone(), below)) {
            let circle: Vec<&str> = above.iter().map(|(name, _)| name.as_str()).collect();
            return wrong(&extends.place, format!("goes round in a circle: {} -> {base}", circle.join(" -> ")));
        }
        if above.len() > DEEPEST {
            return wrong(&extends.place, format!("builds on more than {DEEPEST} definitions, one on top of the other"));
        }
        let base = self.merged(&base, below, above)?;
        Ok(tree.on_top_of(base))
    }
}

fn read_file(path: &Path) -> Result<(String, String, String, Source), Problem> {
    let shown = path.display().to_string();
    let problem = |message: String| Problem::of_file(&shown, message);
    let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else {
        return Err(problem("its name is not UTF-8".to_owned()));
    };
    let size = std::fs::metadata(path).map_err(|error| problem(format!("cannot be read: {error}")))?.len();
    if size > MAX_FILE {
        return Err(problem(format!("is larger than {MAX_FILE} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    Ok((name.to_owned(), shown.clone(), text, Source::File(path.to_owned())))
}

/// The built-in definitions are tested; a mistake in one is a defect of ours.
fn invalid(problems: &[Problem]) -> Error {
    let list: Vec<String> = problems.iter().map(Problem::to_string).collect();
    Error::new(Code::InvalidDefinition, "a built-in provider definition is wrong; the log says which")
        .with_detail(list.join("\n"))
}
