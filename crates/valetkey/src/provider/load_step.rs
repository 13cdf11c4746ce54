//! Reading one step of a definition file, and filling in what every call at this provider has in common.

use http::Method;
use serde_json::Value;

use super::{
    load::Loader,
    only::Only,
    proxy::{Inject, Proxy},
    spanned::{Item, NodeValue, Table},
    step::{ClientStyle, FailWhen, JsonTemplate, NextPage, OutPaths, Step, Test, Where},
    template::Template,
    url_template::UrlTemplate,
    value_path::ValuePath,
    words::{Auth, BodyFormat, ClientAuth, ExpiresAtFormat, Kind, OAuth1Signature, Select},
};

/// The keys of every step.
const STEP: &[&str] = &[
    "method",
    "url",
    "query",
    "form",
    "json",
    "headers",
    "auth",
    "secret_in_query",
    "format",
    "fail_when",
    "error_path",
    "out",
    "default_expires_in",
    "expires_at_format",
    "expires_from",
    "list",
    "next",
    "where",
    "select",
    "slot",
    "only",
];

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Reads steps with what they have in common at this provider.
pub(super) struct Steps<'l, 'a> {
    pub(super) loader: &'l Loader<'a>,
    client: ClientStyle,
    inject: Vec<Inject>,
    separator: String,
    token_types: Vec<String>,
}

/// What a step has before its table is read.
#[derive(Default)]
pub(super) struct Basis<'b> {
    /// Keys that the table has beside those of a step.
    pub(super) more_keys: &'b [&'b str],
    pub(super) method: Option<Method>,
    pub(super) url: Option<UrlTemplate>,
    pub(super) form: Vec<(String, Template)>,
    pub(super) auth: Option<Auth>,
    pub(super) format: Option<BodyFormat>,
    pub(super) brings_token: bool,
    /// A step whose answers look the same.
    pub(super) like: Option<&'b Step>,
}

impl<'l, 'a> Steps<'l, 'a> {
    pub(super) fn new(loader: &'l Loader<'a>, proxy: Option<&Proxy>) -> Self {
        let oauth2 = loader.top.table_or_empty("oauth2");
        let text = |key: &str, default: &str| oauth2.text(key).unwrap_or(default).to_owned();
        let separator = text("scope_separator", " ");
        let mut token_types: Vec<String> = oauth2.texts("token_types").iter().map(|kind| kind.to_ascii_lowercase()).collect();
        if loader.kind == Kind::OAuth2 && token_types.is_empty() {
            token_types.push("bearer".to_owned());
        }
        Self {
            client: ClientStyle {
                auth: oauth2.word("client_auth").unwrap_or(ClientAuth::None),
                id_param: text("client_id_param", "client_id"),
                secret_param: text("client_secret_param", "client_secret"),
                signature: loader.top.table_or_empty("oauth1").word("signature").unwrap_or(OAuth1Signature::HmacSha1),
            },
            inject: proxy.map(|proxy| proxy.inject.clone()).unwrap_or_default(),
            separator: text("scope_separator_out", &separator),
            token_types,
            loader,
        }
    }

    pub(super) fn client(&self) -> &ClientStyle {
        &self.client
    }

    pub(super) fn separator_out(&self) -> &str {
        &self.separator
    }

    /// A step as it stands in its table.
    pub(super) fn read(&self, table: &Table<'_>) -> Option<Step> {
        self.read_on(table, Basis::default())
    }

    /// A step whose answer brings a token.
    pub(super) fn token(&self, table: &Table<'_>) -> Option<Step> {
        self.read_on(table, Basis { brings_token: true, ..Basis::default() })
    }

    /// A step whose table adds to something.
    pub(super) fn read_on(&self, table: &Table<'_>, basis: Basis<'_>) -> Option<Step> {
        let keys: Vec<&str> = STEP.iter().chain(basis.more_keys).copied().collect();
        table.allow(&keys);
        let loader = self.loader;
        let like = basis.like;
        let method = self.method(table).or(basis.method);
        if method.is_none() && !table.has("method") {
            table.missing("method", "");
        }
        let url = loader.url(table, "url").or(basis.url);
        if url.is_none() && !table.has("url") {
            table.missing("url", "");
        }
        let mut form = basis.form;
        for (name, template) in loader.templates(table, "form") {
            form.retain(|(known, _)| *known != name);
            form.push((name, template));
        }
        let mut out = match (like, loader.kind) {
            (Some(like), _) => like.out.clone(),
            (None, Kind::OAuth2) if basis.brings_token => standard_out(),
            (None, Kind::OAuth1) if basis.brings_token => oauth1_out(),
            (None, _) => OutPaths::new(),
        };
        out.extend(loader.out(table));
        let brings_token = basis.brings_token;
        let step = Step {
            method: method?,
            url: url?,
            query: loader.templates(table, "query"),
            form,
            json: table.item("json").and_then(|item| self.json(&item)),
            headers: loader.with_common_headers(loader.header_table(table)),
            auth: table.word("auth").or(basis.auth).unwrap_or(Auth::None),
            client: self.client.clone(),
            inject: Vec::new(),
            format: table.word("format").or(basis.format).or(like.map(|like| like.format)).unwrap_or(BodyFormat::Json),
            fail_when: match table.has("fail_when") {
                true => table.list("fail_when").iter().filter_map(fail_when).collect(),
                false => like.map(|like| like.fail_when.clone()).unwrap_or_default(),
            },
            error_path: self.path(table, "error_path").or_else(|| like.and_then(|like| like.error_path.clone())),
            out,
            default_expires_in: table.duration("default_expires_in").or(like.and_then(|like| like.default_expires_in)),
            expires_at_format: table
                .word("expires_at_format")
                .or(like.map(|like| like.expires_at_format))
                .unwrap_or(ExpiresAtFormat::Seconds),
            expires_from: table.word("expires_from").or(like.and_then(|like| like.expires_from)),
            scope_separator: self.separator.clone(),
            secret_in_query: table.flag("secret_in_query"),
            list: self.path(table, "list"),
            next: table.item("next").and_then(|item| self.next_page(&Table::of(&item)?)),
            where_: table.item("where").and_then(|item| {
                let (path, test) = test(&Table::of(&item)?, &[])?;
                Some(Where { path, test })
            }),
            select: table.word("select"),
            slot: table.text("slot").map(str::to_owned),
            only: table.list("only").iter().filter_map(only).collect(),
            brings_token,
            token_types: if brings_token { self.token_types.clone() } else { Vec::new() },
            terminal_errors: Vec::new(),
        };
        let step = match step.auth {
            Auth::Proxy => Step { inject: self.inject.clone(), ..step },
            _ => step,
        };
        self.check(&step, table);
        Some(step)
    }

    fn check(&self, step: &Step, table: &Table<'_>) {
        let in_query = step.query.iter().find(|(_, template)| template.is_secret());
        if !step.secret_in_query {
            if let Some((name, _)) = in_query {
                table
                    .table_or_empty("query")
                    .wrong(name, "a secret in a query ends in logs: state secret_in_query = true if it must be");
            }
            if step.url.is_secret() {
                table.wrong("url", "a secret in a URL ends in logs: state secret_in_query = true if it must be");
            }
        }
        let has_body = !step.form.is_empty() || step.json.is_some();
        if step.method == Method::GET && has_body {
            table.wrong("method", "a GET has no body");
        }
        if !step.form.is_empty() && step.json.is_some() {
            table.wrong("json", "a call has a form or a JSON body, not both");
        }
        match step.auth {
            Auth::Client => {
                if step.method == Method::GET || step.json.is_some() {
                    table.wrong("auth", "`client` may need a form body; use client_basic here");
                }
                for name in [&self.client.id_param, &self.client.secret_param] {
                    if step.form.iter().any(|(known, _)| known == name) {
                        table.table_or_empty("form").wrong(name, "is added by auth = \"client\"");
                    }
                }
            }
            Auth::Proxy if self.inject.is_empty() => table.wrong("auth", "`proxy` needs a proxy.inject"),
            Auth::Signed if self.loader.kind != Kind::OAuth1 => table.wrong("auth", "`signed` belongs to kind = \"oauth1\""),
            Auth::Jwt if self.loader.kind != Kind::JwtBearer => table.wrong("auth", "`jwt` belongs to kind = \"jwt_bearer\""),
            _ => {}
        }
        if (step.where_.is_some() || step.select.is_some() || step.slot.is_some() || step.next.is_some()) && step.list.is_none() {
            table.missing("list", "where, next, select and slot are about its entries");
        }
        if let Some(next) = &step.next
            && step.query.iter().any(|(name, _)| *name == next.query)
        {
            table.table_or_empty("query").wrong(&next.query, "is what `next` adds");
        }
        if table.has("only") && table.list("only").is_empty() {
            table.wrong("only", "an empty list would let no call pass: leave it out where a choice binds nothing");
        }
        if !step.only.is_empty() && step.select != Some(Select::User) {
            table.wrong("only", "binds to what a person chooses: it needs select = \"user\"");
        }
        if step.brings_token && !step.out.contains_key("access_token") {
            table.table_or_empty("out").missing("access_token", "this call brings a token");
        }
    }

    fn method(&self, table: &Table<'_>) -> Option<Method> {
        let text = table.text("method")?;
        let method = METHODS.into_iter().find(|method| method.as_str() == text);
        if method.is_none() {
            table.wrong("method", format!("\"{text}\" is not one of GET, POST, PUT, PATCH, DELETE"));
        }
        method
    }

    pub(super) fn path(&self, table: &Table<'_>, key: &str) -> Option<ValuePath> {
        let item = table.item(key)?;
        ValuePath::parse(item.text()?).map_err(|why| item.report(why)).ok()
    }

    fn next_page(&self, table: &Table<'_>) -> Option<NextPage> {
        table.allow(&["path", "query"]);
        let (path, query) = (self.path(table, "path"), table.text("query"));
        if path.is_none() && !table.has("path") {
            table.missing("path", "where a page says where the next one begins");
        }
        if query.is_none() && !table.has("query") {
            table.missing("query", "the parameter that takes it");
        }
        Some(NextPage { path: path?, query: query?.to_owned() })
    }

    fn json(&self, item: &Item<'_>) -> Option<JsonTemplate> {
        match &item.node.value {
            NodeValue::Text(_) => self.loader.template(item).map(JsonTemplate::Text),
            NodeValue::Integer(number) => Some(JsonTemplate::Plain(Value::from(*number))),
            NodeValue::Bool(truth) => Some(JsonTemplate::Plain(Value::Bool(*truth))),
            NodeValue::List(_) => Some(JsonTemplate::List(item.list()?.iter().filter_map(|item| self.json(item)).collect())),
            NodeValue::Table(_) => {
                let members = Table::of(item)?;
                Some(JsonTemplate::Object(
                    members.items().filter_map(|(name, item)| Some((name.to_owned(), self.json(&item)?))).collect(),
                ))
            }
            NodeValue::Other(_) => {
                item.wrong("a text, a number, a truth value, a list or a table");
                None
            }
        }
    }
}

/// What a token answer holds in RFC 6749 section 5.1.
fn standard_out() -> OutPaths {
    let names = ["access_token", "refresh_token", "expires_in", "scope", "token_type"];
    names.into_iter().filter_map(|name| Some((name.to_owned(), vec![ValuePath::parse(name).ok()?]))).collect()
}

/// What the answers of RFC 5849 sections 2.1 and 2.3 hold.
fn oauth1_out() -> OutPaths {
    let names = [("access_token", "oauth_token"), ("token_secret", "oauth_token_secret")];
    names.into_iter().filter_map(|(name, path)| Some((name.to_owned(), vec![ValuePath::parse(path).ok()?]))).collect()
}

fn fail_when(item: &Item<'_>) -> Option<FailWhen> {
    let table = Table::of(item)?;
    let (path, test) = test(&table, &["error", "error_path"])?;
    let error = table.text("error").map(str::to_owned);
    if error.as_ref().is_some_and(|word| !super::load::is_name(word)) {
        table.wrong("error", "a word of our own is made of a-z, 0-9 and _");
    }
    let error_path =
        table.item("error_path").and_then(|item| ValuePath::parse(item.text()?).map_err(|why| item.report(why)).ok());
    Some(FailWhen { path, test, error, error_path })
}

fn test(table: &Table<'_>, more_keys: &[&str]) -> Option<(ValuePath, Test)> {
    let keys: Vec<&str> = ["path", "exists", "equals", "not_equals"].iter().chain(more_keys).copied().collect();
    table.allow(&keys);
    let text = table.needed_text("path")?;
    let path = ValuePath::parse(text).map_err(|why| table.wrong("path", why)).ok()?;
    let tests = [
        table.truth("exists").map(Test::Exists),
        table.item("equals").and_then(|item| scalar(&item)).map(Test::Equals),
        table.item("not_equals").and_then(|item| scalar(&item)).map(Test::NotEquals),
    ];
    let mut given = tests.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(test), None) => Some((path, test)),
        _ => {
            table.wrong("path", "comes with one of exists, equals, not_equals");
            None
        }
    }
}

fn scalar(item: &Item<'_>) -> Option<Value> {
    match &item.node.value {
        NodeValue::Text(text) => Some(Value::String(text.clone())),
        NodeValue::Integer(number) => Some(Value::from(*number)),
        NodeValue::Bool(truth) => Some(Value::Bool(*truth)),
        _ => {
            item.wrong("a text, a whole number or a truth value");
            None
        }
    }
}

/// A call that may be made where a person chooses: a pattern, or a table with the member of the body that names the entry.
fn only(item: &Item<'_>) -> Option<Only> {
    let parsed = match &item.node.value {
        NodeValue::Table(_) => {
            let table = Table::of(item)?;
            table.allow(&["path", "json"]);
            let (path, member) = (table.needed_text("path"), table.needed_text("json"));
            Only::parse(path?, Some(member?))
        }
        _ => Only::parse(item.text()?, None),
    };
    parsed.map_err(|error| item.report(error.message())).ok()
}
