//! `valetkey provider`: outside services, and the site's own apps there.

mod trial;

use std::{collections::HashSet, path::PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};
use valetkey::{
    Code, Error, app_config, connect,
    principal::Owner,
    provider::{Catalogue, Definition, Problem},
};

use super::{
    Session,
    owner::{Acting, Whose, found_by_policy, scope},
    scope_policies,
};
use crate::{
    client::segment,
    failure::{Failure, Result},
    opened::DATABASE,
    output::{cell, facts, items, table},
    secrets,
    settings::Place,
};

/// Providers.
#[derive(Debug, Subcommand)]
pub(crate) enum Provider {
    /// List the providers, and which of them can be connected now
    List,
    /// Show a provider's definition
    Show {
        /// Its name
        name: String,
    },
    /// Check definition files, and report every mistake with its place
    Check {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Try definitions against a stand-in that plays their provider and misbehaves; needs no broker and no network
    ///
    /// What passes is lab-conformant: our engine can carry the definition out, and survives the misbehaviour. The stand-in
    /// plays what the definition says, so this does not show that the provider's facts are right. Ends with 1 where a check
    /// is red.
    Try(trial::Try),
    /// Tell the broker of your own app at a provider; asks for what is not given
    Configure(Configure),
    /// Show or set whose account applies where a call leaves that to the provider
    Policy(scope_policies::Policy),
    /// Show whose app at a provider its policy gives to a person and an agent, secrets masked
    Context {
        /// The provider
        name: String,
        #[command(flatten)]
        acting: Acting,
    },
    /// Forget your app at a provider; connections that its client made keep working
    Forget {
        /// The provider
        name: String,
        #[command(flatten)]
        owner: Whose,
    },
}

/// An app at a provider.
#[derive(Args, Debug)]
pub(crate) struct Configure {
    /// The provider
    name: String,
    #[command(flatten)]
    owner: Whose,
    /// A value that is no secret; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// A secret value, from a file; - is standard input; may be repeated
    #[arg(long, value_name = "KEY=FILE", value_parser = pair)]
    secret_file: Vec<(String, String)>,
}

impl Provider {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        match self {
            Self::List => match built_in(session)? {
                Some(catalogue) => {
                    let providers: Vec<Value> = catalogue.iter().map(|definition| summary(definition)).collect();
                    session.out.show(&json!({ "providers": providers }), list)
                }
                None => session.ask(Method::GET, "/v1/providers", None, list).await,
            },
            Self::Show { name } => {
                if let Some(catalogue) = built_in(session)? {
                    return session.out.show(&details(&catalogue, &name)?, show);
                }
                let path = format!("/v1/providers/{}", segment(&name)?);
                session.ask(Method::GET, &path, None, show).await
            }
            Self::Check { files } => check(session, &files),
            Self::Try(trial) => trial.run(session).await,
            Self::Configure(configure) => configure.run(session).await,
            Self::Policy(policy) => policy.run(session).await,
            Self::Context { name, acting } => {
                let answer = session
                    .with(async |client| {
                        let path = format!("/v1/providers/{}/config/context", segment(&name)?);
                        client.call(Method::GET, &acting.query(client, &path).await?, None).await
                    })
                    .await?;
                session.out.show(&answer, |answer| found_by_policy(answer, app))
            }
            Self::Forget { name, owner } => {
                let answer = session
                    .with(async |client| {
                        let owner = owner.owner(client).await?;
                        client.call(Method::DELETE, &app_path(&name, &owner)?, None).await
                    })
                    .await?;
                session.out.show(&answer, |_| format!("the app at {name} is forgotten"))
            }
        }
    }
}

/// The definitions as this command knows them, where there is no broker yet that could be asked.
fn built_in(session: &Session) -> Result<Option<Catalogue>> {
    let nobody = matches!(&session.settings.place, Place::Folder(dir) if !dir.join(DATABASE).exists());
    if nobody {
        session.out.note("There is no broker yet: this is what one would know.");
        catalogue(session).map(Some)
    } else {
        Ok(None)
    }
}

/// What the API says of a provider in a list, where nobody has told of an app yet.
fn summary(definition: &Definition) -> Value {
    json!({
        "name": definition.name,
        "title": definition.title,
        "kind": definition.kind.to_string(),
        "needs_app": !app_config::is_configured(definition, None),
        "configured": app_config::is_configured(definition, None),
        "entered": definition.is_entered(),
        "waits_for": connect::is_connectable(definition).err().map(|why| why.message().to_owned()),
    })
}

fn details(catalogue: &Catalogue, name: &str) -> Result<Value> {
    let definition = catalogue.get(&name.parse()?).ok_or_else(|| {
        Error::new(Code::NotFound, format!("there is no provider `{name}`; `valetkey provider list` shows those there are"))
    })?;
    let whole = definition.to_json()?;
    let mut details = summary(definition);
    details["setup_url"] = json!(definition.setup_url);
    details["scopes"] = json!(definition.needed_scopes());
    details["hosts"] = whole.pointer("/proxy/hosts").cloned().unwrap_or_else(|| json!([]));
    details["fields"] = whole.get("fields").cloned().unwrap_or_default();
    details["source"] = whole.get("source").cloned().unwrap_or_default();
    details["definition"] = whole;
    Ok(details)
}

fn catalogue(session: &Session) -> Result<Catalogue> {
    let built_in = Catalogue::embedded()?;
    match &session.settings.providers {
        None => Ok(built_in),
        Some(folder) => built_in.with_folder(folder, session.settings.trust).map_err(|problems| Failure::usage(lines(&problems))),
    }
}

/// Where an owner's app at a provider is.
pub(super) fn app_path(name: &str, owner: &Owner) -> Result<String> {
    Ok(format!("/v1/providers/{}/config/{}", segment(name)?, scope(owner)?))
}

impl Configure {
    async fn run(self, session: &Session) -> Result<()> {
        let answer = session
            .with(async |client| {
                let path = format!("/v1/providers/{}", segment(&self.name)?);
                let provider = client.call(Method::GET, &path, None).await?;
                let owner = self.owner.owner(client).await?;
                let form = Form { provider: &provider, level: "app", set: &self.set, files: &self.secret_file };
                let values = form.values(secrets::can_ask())?;
                let stored = client.call(Method::PATCH, &app_path(&self.name, &owner)?, Some(&json!({ "values": values }))).await;
                stored.map_err(|failure| how_to_give(failure, "--set"))
            })
            .await?;
        session.out.show(&answer, app)
    }
}

/// A form that was refused, with how to give what is missing in it where nobody could be asked. `plain` is the command's option for
/// what is no secret.
pub(super) fn how_to_give(failure: Failure, plain: &str) -> Failure {
    if failure.code() != "invalid_request" || secrets::can_ask() {
        return failure;
    }
    failure
        .with_detail(format!("nobody can be asked here: give a value by {plain} KEY=VALUE, a secret by --secret-file KEY=FILE"))
}

/// What a command line gives of a provider's form.
pub(super) struct Form<'a> {
    /// What the API says of the provider.
    pub(super) provider: &'a Value,
    /// Which of its fields: `app` or `connection`.
    pub(super) level: &'static str,
    /// The values that are no secret.
    pub(super) set: &'a [(String, String)],
    /// The secrets, each by its file.
    pub(super) files: &'a [(String, String)],
}

impl Form<'_> {
    /// The values that were given, and the answers to what is missing where somebody can be asked.
    pub(super) fn values(&self, may_ask: bool) -> Result<Map<String, Value>> {
        let fields: Vec<&Value> =
            items(self.provider, "fields").iter().filter(|field| cell(field, "/level") == self.level).collect();
        let is_secret = |key: &str| {
            let field = fields.iter().find(|field| cell(field, "/name") == key);
            field.map(|field| field.get("secret") == Some(&Value::Bool(true)))
        };
        let mut values = Map::new();
        let mut take = |key: &str, value: &str| match values.insert(key.to_owned(), value.into()) {
            None => Ok(()),
            Some(_) => Err(Failure::usage(format!("{key} is given twice"))),
        };
        for (key, value) in self.set {
            if is_secret(key) == Some(true) {
                return Err(Failure::usage(format!(
                    "{key} is a secret: give it by --secret-file {key}=FILE, or - for standard input"
                )));
            }
            take(key, value)?;
        }
        let mut from_stdin = 0;
        for (key, path) in self.files {
            from_stdin += usize::from(path == "-");
            if from_stdin > 1 {
                return Err(Failure::usage("standard input holds one secret"));
            }
            take(key, secrets::one_from(path.as_ref())?.expose())?;
        }
        let given: HashSet<String> = values.keys().cloned().collect();
        if from_stdin == 0 && may_ask {
            for field in fields.iter().filter(|field| !given.contains(&cell(field, "/name"))) {
                if let Some(value) = ask(field)? {
                    values.insert(cell(field, "/name"), value.into());
                }
            }
        }
        Ok(values)
    }
}

/// Asks for one field. Nothing typed is nothing given: the default counts, or the stored secret stays.
fn ask(field: &Value) -> Result<Option<String>> {
    let mut question = cell(field, "/label");
    for hint in ["/description", "/placeholder", "/default"] {
        let text = cell(field, hint);
        if !text.is_empty() {
            question.push_str(&format!(" ({text})"));
        }
    }
    let typed = if field.get("secret") == Some(&Value::Bool(true)) {
        secrets::ask_secret(&question)?.expose().to_owned()
    } else {
        secrets::ask(&question)?
    };
    Ok((!typed.is_empty()).then_some(typed))
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// Checks files as if they lay on top of the definitions that are there. Needs no database.
fn check(session: &Session, files: &[PathBuf]) -> Result<()> {
    let catalogue = catalogue(session)?;
    let mut problems: Vec<Problem> =
        files.iter().filter_map(|file| catalogue.check_file(file, session.settings.trust).err()).flatten().collect();
    problems.sort();
    problems.dedup();
    session.out.show(&json!({ "problems": problems }), |_| match problems.as_slice() {
        [] => format!("{} without a mistake", if files.len() == 1 { "1 file" } else { "all files" }),
        problems => lines(problems),
    })?;
    if problems.is_empty() { Ok(()) } else { Err(Failure::silent()) }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| crate::output::plain(&problem.to_string())).collect::<Vec<_>>().join("\n")
}

fn list(answer: &Value) -> String {
    let row = |provider: &Value| {
        let waits = cell(provider, "/waits_for");
        let now = if waits.is_empty() { "yes".to_owned() } else { waits };
        vec![cell(provider, "/name"), cell(provider, "/title"), cell(provider, "/kind"), cell(provider, "/configured"), now]
    };
    let heads = ["name", "title", "kind", "configured", "can be connected"];
    table(&heads, items(answer, "providers").iter().map(row).collect(), "there is no provider")
}

fn show(provider: &Value) -> String {
    let operations = provider.pointer("/definition/operations").and_then(Value::as_object);
    let operations: Vec<&str> = operations.into_iter().flat_map(|named| named.keys()).map(String::as_str).collect();
    // Where it is no word it is a file, or a text, by its name.
    let source = ["/source/file", "/source/text", "/source"].map(|at| cell(provider, at));
    let source = source.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    let about = facts(&[
        ("name", cell(provider, "/name")),
        ("title", cell(provider, "/title")),
        ("kind", cell(provider, "/kind")),
        ("your app is made at", cell(provider, "/setup_url")),
        ("callback to register", cell(provider, "/callback_url")),
        ("configured", cell(provider, "/configured")),
        ("waits for", cell(provider, "/waits_for")),
        ("scopes", cell(provider, "/scopes")),
        ("hosts", cell(provider, "/hosts")),
        ("operations by name", operations.join(", ")),
        ("defined in", source),
        ("sources", cell(provider, "/definition/facts/sources")),
        ("read on", cell(provider, "/definition/facts/read")),
        ("unverified", cell(provider, "/definition/facts/unverified")),
    ]);
    let row =
        |field: &Value| ["/name", "/label", "/level", "/required", "/secret", "/description"].map(|at| cell(field, at)).to_vec();
    let heads = ["field", "label", "level", "required", "secret", "about"];
    format!("{about}\n\n{}", table(&heads, items(provider, "fields").iter().map(row).collect(), "it has no fields"))
}

pub(super) fn app(answer: &Value) -> String {
    let mut lines = vec![("provider", cell(answer, "/provider")), ("owner", cell(answer, "/owner"))];
    let values = answer.get("values").and_then(Value::as_object);
    lines.extend(values.into_iter().flatten().map(|(name, value)| {
        let shown = if value == app_config::MASK { "(secret, stored)".to_owned() } else { crate::output::word(value) };
        (name.as_str(), shown)
    }));
    facts(&lines)
}
