//! The bodies that the lab answers with: made to stand where a definition looks for them.

use provider_lab::script::{Said, Tree};
use serde_json::{Value, json};
use valetkey::provider::step::{FailWhen, Step, Test};

/// A way into a body, as definitions write it: `data.user.id`, `items[0].id`, `$.service[?@.id=='#pds'].endpoint`.
enum Turn {
    Member(String),
    Index(usize),
    First { member: String, equals: Value },
}

/// Puts something where a definition's path looks for it. What is on the way is made.
pub(super) fn put(tree: &mut Tree, path: &str, leaf: Tree) {
    put_at(tree, &turns(path), leaf);
}

fn put_at(tree: &mut Tree, turns: &[Turn], leaf: Tree) {
    let Some((turn, rest)) = turns.split_first() else {
        *tree = leaf;
        return;
    };
    match turn {
        Turn::Member(name) => {
            let members = members(tree);
            let at = members.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                members.push((name.clone(), Tree::Plain(Value::Null)));
                members.len() - 1
            });
            put_at(&mut members[at].1, rest, leaf);
        }
        Turn::Index(index) => {
            let items = items(tree);
            while items.len() <= *index {
                items.push(Tree::Object(Vec::new()));
            }
            put_at(&mut items[*index], rest, leaf);
        }
        Turn::First { member, equals } => {
            let marked = (member.clone(), Tree::Plain(equals.clone()));
            let items = items(tree);
            let is_it = |item: &Tree| matches!(item, Tree::Object(members) if members.contains(&marked));
            let at = items.iter().position(is_it).unwrap_or_else(|| {
                // An entry that does not pass the test comes first: the one that does must be looked for.
                items.push(Tree::Object(Vec::new()));
                items.push(Tree::Object(vec![marked.clone()]));
                items.len() - 1
            });
            put_at(&mut items[at], rest, leaf);
        }
    }
}

fn members(tree: &mut Tree) -> &mut Vec<(String, Tree)> {
    if !matches!(tree, Tree::Object(_)) {
        *tree = Tree::Object(Vec::new());
    }
    match tree {
        Tree::Object(members) => members,
        _ => unreachable!("it was made an object"),
    }
}

fn items(tree: &mut Tree) -> &mut Vec<Tree> {
    if !matches!(tree, Tree::List(_)) {
        *tree = Tree::List(Vec::new());
    }
    match tree {
        Tree::List(items) => items,
        _ => unreachable!("it was made a list"),
    }
}

/// Whether something is there.
fn has(tree: &Tree, turns: &[Turn]) -> bool {
    let Some((turn, rest)) = turns.split_first() else { return true };
    match (turn, tree) {
        (Turn::Member(name), Tree::Object(members)) => members.iter().any(|(known, member)| known == name && has(member, rest)),
        (Turn::Index(index), Tree::List(items)) => items.get(*index).is_some_and(|item| has(item, rest)),
        (Turn::First { .. }, Tree::List(items)) => items.iter().any(|item| has(item, rest)),
        _ => false,
    }
}

/// The turns of a path that the loader has taken.
fn turns(path: &str) -> Vec<Turn> {
    let mut turns = Vec::new();
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('[') {
            let (inside, after) = inside.split_once(']').unwrap_or((inside, ""));
            rest = after;
            let test = inside.strip_prefix("?@.").and_then(|test| test.split_once("=="));
            turns.push(match test {
                Some((member, literal)) => Turn::First { member: member.to_owned(), equals: literal_of(literal) },
                None => Turn::Index(inside.parse().unwrap_or_default()),
            });
            continue;
        }
        let name = rest.strip_prefix('.').unwrap_or(rest);
        let end = name.find(['.', '[']).unwrap_or(name.len());
        turns.push(Turn::Member(name[..end].to_owned()));
        rest = &name[end..];
    }
    turns
}

fn literal_of(text: &str) -> Value {
    match text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inside) => inside.into(),
        None => serde_json::from_str(text).unwrap_or_default(),
    }
}

/// What a step finds in an answer that is a success. `leaf` says what stands for each of its outputs; where the step reads
/// a list, there is one entry for each number of `entries`.
pub(super) fn success(step: &Step, entries: usize, leaf: impl Fn(&str, usize) -> Option<Tree>) -> Tree {
    let outputs = |body: &mut Tree, number: usize| {
        // `id` last: where two outputs stand in one place, it is the one that is compared.
        let named = step.out.iter().filter(|(name, _)| *name != "id").chain(step.out.iter().filter(|(name, _)| *name == "id"));
        for (name, paths) in named {
            if let (Some(path), Some(leaf)) = (paths.first(), leaf(name, number)) {
                put(body, path.as_str(), leaf);
            }
        }
    };
    let mut body = Tree::Object(Vec::new());
    match &step.list {
        None => outputs(&mut body, 0),
        Some(path) => {
            let list = (0..entries).map(|number| {
                let mut entry = Tree::Object(Vec::new());
                outputs(&mut entry, number);
                if let Some(condition) = &step.where_ {
                    fulfil(&mut entry, condition.path.as_str(), &condition.test);
                }
                entry
            });
            put(&mut body, path.as_str(), Tree::List(list.collect()));
        }
    }
    for rule in &step.fail_when {
        avoid(&mut body, rule);
    }
    body
}

/// Makes a test pass.
fn fulfil(tree: &mut Tree, path: &str, test: &Test) {
    match test {
        Test::Exists(true) if !has(tree, &turns(path)) => put(tree, path, Tree::Plain("there".into())),
        Test::Equals(value) => put(tree, path, Tree::Plain(value.clone())),
        Test::Exists(_) | Test::NotEquals(_) => {}
    }
}

/// Makes sure that a rule for failures does not apply.
fn avoid(tree: &mut Tree, rule: &FailWhen) {
    let path = rule.path.as_str();
    match &rule.test {
        Test::Exists(false) if !has(tree, &turns(path)) => put(tree, path, Tree::Plain("there".into())),
        Test::Equals(Value::Bool(value)) if !has(tree, &turns(path)) => put(tree, path, Tree::Plain((!value).into())),
        Test::NotEquals(value) => put(tree, path, Tree::Plain(value.clone())),
        Test::Exists(_) | Test::Equals(_) => {}
    }
}

/// An error as this provider words it for a step: the word where the definition looks for it.
pub(super) fn refusal(step: &Step, word: &str) -> Value {
    let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let value = if is_number { serde_json::from_str(word).unwrap_or_default() } else { Value::from(word) };
    let mut body = Tree::Object(Vec::new());
    let mut placed = false;
    for rule in &step.fail_when {
        match &rule.test {
            Test::Exists(true) => put(&mut body, rule.path.as_str(), Tree::Plain(value.clone())),
            Test::Equals(wanted) => put(&mut body, rule.path.as_str(), Tree::Plain(wanted.clone())),
            Test::NotEquals(_) | Test::Exists(false) => {}
        }
        if let Some(path) = &rule.error_path {
            put(&mut body, path.as_str(), Tree::Plain(value.clone()));
            placed = true;
        }
    }
    if let Some(path) = &step.error_path {
        put(&mut body, path.as_str(), Tree::Plain(value.clone()));
        placed = true;
    }
    if !placed && !has(&body, &turns("error")) {
        // RFC 6749 section 5.2; a number is what some providers have inside of it.
        put(&mut body, if is_number { "error.code" } else { "error" }, Tree::Plain(value));
        if !is_number {
            put(&mut body, "error_description", Tree::Plain(json!("the lab was told to answer so")));
        }
    }
    plain(&body)
}

/// The name of the first member on the way to an output, for an answer that has it twice.
pub(super) fn first_member(step: &Step, output: &str) -> Option<String> {
    let path = step.list.as_ref().or_else(|| step.out.get(output)?.first())?;
    match turns(path.as_str()).into_iter().next() {
        Some(Turn::Member(name)) => Some(name),
        _ => None,
    }
}

/// A body in which nothing is made.
fn plain(tree: &Tree) -> Value {
    match tree {
        Tree::Plain(value) => value.clone(),
        Tree::Said(_) => Value::Null,
        Tree::List(items) => items.iter().map(plain).collect(),
        Tree::Object(members) => Value::Object(members.iter().map(|(name, member)| (name.clone(), plain(member))).collect()),
    }
}

/// A value that is made for each answer.
pub(super) fn said(said: Said) -> Option<Tree> {
    Some(Tree::Said(said))
}

#[cfg(test)]
mod tests {
    use valetkey::provider::ValuePath;

    use super::*;

    #[test]
    fn what_is_put_at_a_path_is_found_there() {
        for path in
            ["id", "data.user.open_id", "items[2].id", "$.didDoc.service[?@.id=='#pds'].endpoint", "$.a[?@.on==true].b[0]"]
        {
            let mut body = Tree::Object(Vec::new());
            put(&mut body, path, Tree::Plain("here".into()));
            let body = plain(&body);
            assert_eq!(ValuePath::parse(path).unwrap().find(&body), Some(&Value::from("here")), "{path}: {body}");
        }
    }

    #[test]
    fn several_values_stand_side_by_side() {
        let mut body = Tree::Object(Vec::new());
        for (path, value) in [("items[0].id", "1"), ("items[0].snippet.title", "t"), ("next", "n")] {
            put(&mut body, path, Tree::Plain(value.into()));
        }
        assert_eq!(plain(&body), json!({ "items": [{ "id": "1", "snippet": { "title": "t" } }], "next": "n" }));
    }

    #[test]
    fn every_built_in_step_reads_the_answers_that_are_made_for_it() {
        let catalogue = valetkey::provider::Catalogue::embedded().unwrap();
        let json = http::HeaderMap::from_iter([(http::header::CONTENT_TYPE, "application/json".parse().unwrap())]);
        let mut read = 0;
        for definition in catalogue.iter() {
            let valetkey::provider::Identity::Step(step) = &definition.identity else { continue };
            let body = success(step, 1, |name, _| Some(Tree::Plain(if name == "id" { "1001" } else { "x" }.into())));
            let found = step.read(http::StatusCode::OK, &json, plain(&body).to_string().as_bytes());
            let found = found.unwrap_or_else(|failure| panic!("{}: {failure}", definition.name));
            assert_eq!(found.id.as_deref(), Some("1001"), "{}", definition.name);
            let error = refusal(step, "no_such_thing").to_string();
            assert!(step.read(http::StatusCode::BAD_REQUEST, &json, error.as_bytes()).is_err(), "{}", definition.name);
            read += 1;
        }
        assert!(read > 15, "{read}");
    }
}
