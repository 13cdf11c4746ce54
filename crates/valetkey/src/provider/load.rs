//! From a file's tree to a [`Definition`]: the top of the file, its fields and its small sections.
//!
//! The walk goes on after a mistake, so that all of them are reported at once. It builds a definition only out of a file
//! without any. Steps are read in `load_step`, the OAuth sections in `load_oauth`, the proxy in `load_proxy`, mail in `load_mail`; what can
//! only be judged on the finished definition is in `check`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    catalogue::{Problem, Trust},
    check,
    definition::{Definition, Facts, Identity, Jwt, Session, Slot, Source, Variants},
    field::{Field, FieldPattern, origin},
    load_step::Steps,
    spanned::{Item, Node, NodeValue, Problems, Table, free_texts, unknown_key},
    step::OutPaths,
    template::{Names, Template},
    url_template::{UrlTemplate, check_authority},
    value_path::ValuePath,
    words::{Auth, FieldLevel, FieldType, JwtAlg, Kind, Normalize},
};
use crate::id::ProviderName;

const TOP: &[&str] = &[
    "title",
    "kind",
    "extends",
    "setup_url",
    "api_version",
    "extra_defaults",
    "fields",
    "http",
    "variants",
    "oauth2",
    "oauth1",
    "jwt",
    "mint",
    "session",
    "mail",
    "register",
    "refresh",
    "revoke",
    "identity",
    "identity_none_reason",
    "scope_check",
    "verify",
    "resources",
    "slots",
    "proxy",
    "operations",
    "facts",
];

const FIELD: &[&str] = &[
    "label",
    "type",
    "required",
    "secret",
    "level",
    "role",
    "default",
    "options",
    "pattern",
    "normalize",
    "parse",
    "public_members",
    "description",
    "placeholder",
];

/// Where the credential or the connection to a host is decided by HTTP itself: no definition sets these.
const RESERVED_HEADERS: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why nothing says whose an account is, where a definition of entered credentials does not say it.
pub(super) const OWNERS_WORD: &str = "what the owner stored counts as verified by the owner";

/// Reads one definition out of its merged tree. All mistakes, or none.
pub(super) fn definition(name: &ProviderName, node: &Node, trust: Trust, source: Source) -> Result<Definition, Vec<Problem>> {
    let problems = Problems::default();
    let definition = Loader::start(node, trust, &problems).and_then(|loader| loader.definition(name, source));
    match (problems.is_empty(), definition) {
        (true, Some(definition)) => Ok(definition),
        (_, _) => Err(problems.into_sorted()),
    }
}

/// What every part of the walk needs: the file and the names that templates may use.
pub(super) struct Loader<'a> {
    node: &'a Node,
    pub(super) top: Table<'a>,
    pub(super) loopback_http: bool,
    pub(super) kind: Kind,
    fields: Vec<Field>,
    extras: Vec<String>,
    extra_defaults: Vec<(String, Arc<Template>)>,
    variants: Option<Arc<Variants>>,
    api_version: Option<String>,
    /// Headers of every call.
    pub(super) headers: Vec<(String, Template)>,
}

impl<'a> Loader<'a> {
    /// Reads what the rest builds on; nothing where not even the kind is known.
    fn start(node: &'a Node, trust: Trust, problems: &'a Problems) -> Option<Self> {
        let top = Table::root(node, problems);
        top.allow(TOP);
        let kind = top.needed_word::<Kind>("kind");
        let mut loader = Self {
            node,
            loopback_http: trust == Trust::Dev,
            kind: kind.unwrap_or(Kind::Static),
            fields: Vec::new(),
            extras: extras(node),
            extra_defaults: Vec::new(),
            variants: None,
            api_version: top.text("api_version").map(str::to_owned),
            headers: Vec::new(),
            top,
        };
        loader.fields = loader.read_fields();
        loader.variants = loader.read_variants().map(Arc::new);
        loader.extra_defaults = loader.read_extra_defaults();
        loader.headers = match loader.top.table("http") {
            Some(http) => {
                http.allow(&["headers"]);
                loader.header_table(&http)
            }
            None => Vec::new(),
        };
        kind.map(|_| loader)
    }

    fn definition(&self, name: &ProviderName, source: Source) -> Option<Definition> {
        let top = &self.top;
        let proxy = top.table("proxy").map(|table| self.proxy(&table));
        let steps = Steps::new(self, proxy.as_ref());
        let oauth2 = steps.oauth2();
        let mint = top.table("mint").and_then(|table| steps.token(&table));
        let session = self.session(&steps);
        let step = |key: &str| top.table(key).and_then(|table| steps.read(&table));
        let definition = Definition {
            name: name.clone(),
            title: top.needed_text("title").unwrap_or_default().to_owned(),
            kind: self.kind,
            extends: top.text("extends").and_then(|text| text.parse().ok()),
            setup_url: self.https_text("setup_url"),
            api_version: self.api_version.clone(),
            fields: self.fields.clone(),
            variants: self.variants.as_deref().cloned(),
            oauth1: steps.oauth1(),
            jwt: top.table("jwt").and_then(|table| self.jwt(&table)),
            mail: top.table("mail").map(|table| self.mail(&table)),
            register: step("register"),
            refresh: steps.refresh(oauth2.as_ref(), mint.as_ref(), session.as_ref().map(|session| &session.login)),
            revoke: top.table("revoke").and_then(|table| steps.revoke(&table)),
            identity: self.identity(&steps),
            scope_check: step("scope_check"),
            verify: step("verify"),
            slots: self.slots(),
            resources: steps.resources(),
            oauth2,
            mint,
            session,
            operations: self.operations(proxy.as_ref()),
            // A mailbox that builds on a definition for HTTP has its proxy in the tables, and nothing to proxy.
            proxy: proxy.filter(|_| !top.has("mail")),
            facts: top.table("facts").and_then(|table| self.facts(&table)),
            source,
        };
        check::whole(&definition, &steps, top);
        Some(definition)
    }

    /// The names that templates may use.
    pub(super) fn names(&self) -> Names<'_> {
        Names {
            fields: &self.fields,
            extras: &self.extras,
            extra_defaults: &self.extra_defaults,
            variants: self.variants.as_ref(),
            api_version: self.api_version.as_deref(),
        }
    }

    /// A template.
    pub(super) fn template(&self, item: &Item<'_>) -> Option<Template> {
        // Numbers and truth values may be written without quotes.
        let text = match &item.node.value {
            NodeValue::Integer(number) => number.to_string(),
            NodeValue::Bool(truth) => truth.to_string(),
            _ => item.text()?.to_owned(),
        };
        Template::parse(&text, &self.names()).map_err(|why| item.report(why)).ok()
    }

    /// A table of templates, in the order of the file.
    pub(super) fn templates(&self, table: &Table<'_>, key: &str) -> Vec<(String, Template)> {
        let Some(table) = table.table(key) else { return Vec::new() };
        table.items().filter_map(|(name, item)| Some((name.to_owned(), self.template(&item)?))).collect()
    }

    /// A URL.
    pub(super) fn url(&self, table: &Table<'_>, key: &str) -> Option<UrlTemplate> {
        let item = table.item(key)?;
        let text = item.text()?;
        UrlTemplate::parse(text, &self.names(), self.loopback_http).map_err(|why| item.report(why)).ok()
    }

    /// The `headers` of a table: names that HTTP does not reserve, values without secrets.
    pub(super) fn header_table(&self, table: &Table<'_>) -> Vec<(String, Template)> {
        let headers = self.templates(table, "headers");
        let Some(place) = table.table("headers") else { return headers };
        for (name, template) in &headers {
            if !is_header_name(name) {
                place.wrong(name, "is not a header's name");
            } else if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                place.wrong(name, "is set by us; a credential goes into proxy.inject or a step's auth");
            }
            if template.is_secret() {
                place.wrong(name, "holds a secret; a credential goes into proxy.inject or a step's auth");
            }
        }
        headers
    }

    /// These headers over those of every call.
    pub(super) fn with_common_headers(&self, own: Vec<(String, Template)>) -> Vec<(String, Template)> {
        let mut headers: Vec<(String, Template)> = self.headers.clone();
        headers.retain(|(name, _)| !own.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
        headers.extend(own);
        headers
    }

    fn read_fields(&self) -> Vec<Field> {
        let Some(table) = self.top.table("fields") else {
            self.top.missing("fields", "a table of what is entered, by name");
            return Vec::new();
        };
        table.items().filter_map(|(name, item)| self.field(name, &Table::of(&item)?)).collect()
    }

    fn field(&self, name: &str, table: &Table<'_>) -> Option<Field> {
        table.allow(FIELD);
        if !is_name(name) {
            table.wrong("", "a field's name is made of a-z, 0-9 and _");
        }
        let field = Field {
            name: name.to_owned(),
            label: table.needed_text("label").unwrap_or_default().to_owned(),
            kind: table.needed_word("type").unwrap_or(FieldType::Text),
            required: table.flag("required"),
            secret: table.flag("secret"),
            level: table.needed_word("level").unwrap_or(FieldLevel::Connection),
            role: table.word("role"),
            default: table.item("default").and_then(|item| match item.node.value {
                NodeValue::Integer(number) => Some(number.to_string()),
                _ => item.text().map(str::to_owned),
            }),
            options: table.texts("options"),
            pattern: table
                .text("pattern")
                .and_then(|text| FieldPattern::parse(text).map_err(|why| table.wrong("pattern", why)).ok()),
            normalize: table.word("normalize"),
            parse: table.word("parse"),
            public_members: table.texts("public_members"),
            description: table.text("description").map(str::to_owned),
            placeholder: table.text("placeholder").map(str::to_owned),
            loopback_http: self.loopback_http,
        };
        if field.kind == FieldType::Password && !field.secret {
            table.wrong("secret", "a password is secret: add secret = true");
        }
        if (field.kind == FieldType::Select) == field.options.is_empty() {
            table.wrong("options", "a select has options, and nothing else has");
        }
        if field.secret && field.default.is_some() {
            table.wrong("default", "a secret has no default: it would stand in this file");
        }
        if let Some(default) = &field.default {
            let (scheme, authority) = default.split_once("://").unwrap_or_default();
            let undone = field.normalize == Some(Normalize::HttpsOrigin)
                && (origin(default, self.loopback_http).as_deref() != Ok(default.as_str())
                    || check_authority(scheme, authority, self.loopback_http).is_err());
            if undone || (!field.options.is_empty() && !field.options.contains(default)) {
                table.wrong("default", "is not a value that this field takes");
            }
        }
        Some(field)
    }

    fn read_variants(&self) -> Option<Variants> {
        let table = self.top.table("variants")?;
        table.allow(&["by", "map"]);
        let by = table.needed_text("by")?;
        let Some(field) = by.strip_prefix("field.").and_then(|name| self.fields.iter().find(|field| field.name == name)) else {
            table.wrong("by", format!("\"{by}\" is not `field.NAME` of a declared field"));
            return None;
        };
        let rows = table.table_or_empty("map");
        let map: BTreeMap<_, _> =
            rows.items().filter_map(|(value, item)| Some((value.to_owned(), free_texts(&Table::of(&item)?)))).collect();
        for option in &field.options {
            if !map.contains_key(option) {
                rows.missing(option, "every option of the field has a row");
            }
        }
        Some(Variants { by: field.name.clone(), map })
    }

    fn read_extra_defaults(&self) -> Vec<(String, Arc<Template>)> {
        let Some(table) = self.top.table("extra_defaults") else { return Vec::new() };
        let default = |(name, item): (&str, Item<'_>)| {
            if !self.extras.iter().any(|extra| extra == name) {
                item.report(format!("no answer brings `extra.{name}`; an `out` must name it"));
            }
            Some((name.to_owned(), Arc::new(self.template(&item)?)))
        };
        table.items().filter_map(default).collect()
    }

    fn jwt(&self, table: &Table<'_>) -> Option<Jwt> {
        table.allow(&["alg", "key", "claims", "scopes", "backdate", "ttl"]);
        let key = table.item("key").and_then(|item| self.template(&item));
        if !key.as_ref().is_some_and(Template::is_secret) {
            table.wrong("key", "the private key is needed: a template of a secret field");
        }
        let claims = self.templates(table, "claims");
        for (name, template) in &claims {
            if name == "iat" || name == "exp" {
                table.table_or_empty("claims").wrong(name, "is set by us, from `backdate` and `ttl`");
            }
            if template.is_secret() {
                table.table_or_empty("claims").wrong(name, "holds a secret; an assertion is signed, not sealed");
            }
        }
        let ttl = table.duration("ttl");
        if !table.has("ttl") {
            table.missing("ttl", "from now to `exp`, such as \"1h\"");
        }
        Some(Jwt {
            alg: table.needed_word("alg").unwrap_or(JwtAlg::Rs256),
            key: key?,
            claims,
            scopes: table.texts("scopes"),
            backdate: table.duration("backdate").unwrap_or_default(),
            ttl: ttl?,
        })
    }

    fn session(&self, steps: &Steps<'_, '_>) -> Option<Session> {
        let table = self.top.table("session")?;
        table.allow(&["login", "resolve", "resolve_unless"]);
        let resolve: Vec<_> = table.list("resolve").iter().filter_map(|item| steps.read(&Table::of(item)?)).collect();
        for (step, item) in resolve.iter().zip(table.list("resolve")) {
            // What is looked up decides where the secrets go: it must not be told them before.
            if step.auth != Auth::None || step.is_secret() {
                item.report("a look-up carries no credential");
            }
            if !step.out.keys().any(|name| name == "id" || name.starts_with("extra.")) {
                item.report("a look-up brings `id` or an `extra.NAME`");
            }
        }
        let resolve_unless = table.text("resolve_unless").map(str::to_owned);
        if let Some(name) = &resolve_unless
            && !self.fields.iter().any(|field| field.name == *name && field.level == FieldLevel::Connection)
        {
            table.wrong("resolve_unless", format!("there is no connection field `{name}`"));
        }
        let Some(login) = table.table("login") else {
            table.missing("login", "the call that logs in");
            return None;
        };
        steps.token(&login).map(|login| Session { resolve, resolve_unless, login })
    }

    fn slots(&self) -> Vec<(String, Slot)> {
        let Some(slots) = self.top.table("slots") else { return Vec::new() };
        let slot = |(name, item): (&str, Item<'_>)| {
            let table = Table::of(&item)?;
            table.allow(&["ttl", "scopes", "out"]);
            let ttl = if table.item("ttl").is_some_and(|ttl| matches!(&ttl.node.value, NodeValue::Text(text) if text == "none")) {
                None
            } else {
                table.duration("ttl")
            };
            Some((name.to_owned(), Slot { ttl, scopes: table.texts("scopes"), out: self.out(&table) }))
        };
        slots.items().filter_map(slot).collect()
    }

    /// An `out` table.
    pub(super) fn out(&self, table: &Table<'_>) -> OutPaths {
        let Some(out) = table.table("out") else { return OutPaths::new() };
        let mut paths = OutPaths::new();
        for (name, item) in out.items() {
            let known = super::answer::OUT_NAMES;
            match name.strip_prefix("extra.") {
                None if known.contains(&name) => {}
                None => item.report(unknown_key(name, known)),
                Some(extra) if !is_name(extra) => item.report("an extra's name is made of a-z, 0-9 and _"),
                Some(extra) if known.contains(&extra) => {
                    item.report(format!("`{extra}` is a name of its own: leave out `extra.`"))
                }
                Some(_) => {}
            }
            let items = match item.node.value {
                NodeValue::List(_) => item.list().unwrap_or_default(),
                _ => vec![item],
            };
            let read = |item: &Item<'_>| ValuePath::parse(item.text()?).map_err(|why| item.report(why)).ok();
            paths.insert(name.to_owned(), items.iter().filter_map(read).collect());
        }
        paths
    }

    fn identity(&self, steps: &Steps<'_, '_>) -> Identity {
        let top = &self.top;
        let reason = top.text("identity_none_reason");
        let none = |reason: &str| Identity::None { reason: reason.to_owned() };
        let Some(item) = top.item("identity") else {
            if matches!(self.kind, Kind::Static | Kind::Mail) {
                return none(reason.unwrap_or(OWNERS_WORD));
            }
            top.missing("identity", "a step, `static = {...}`, or \"none\" with an identity_none_reason");
            return none("");
        };
        if let NodeValue::Text(text) = &item.node.value {
            if text != "none" {
                item.report(format!("\"{text}\" is not \"none\", and not a table"));
            }
            if reason.is_none_or(|reason| reason.trim().is_empty()) {
                top.missing("identity_none_reason", "say why nothing tells who the account is");
            }
            return none(reason.unwrap_or_default());
        }
        if reason.is_some() {
            top.wrong("identity_none_reason", "belongs to identity = \"none\"");
        }
        let Some(table) = Table::of(&item) else { return none("") };
        if table.has("static") {
            table.allow(&["static"]);
            let members = self.templates(&table, "static");
            let place = table.table_or_empty("static");
            place.allow(&["id", "username", "display_name", "email"]);
            if !members.iter().any(|(name, _)| name == "id") {
                place.missing("id", "an account is told apart by it");
            }
            for (name, template) in &members {
                if template.is_secret() {
                    place.wrong(name, "holds a secret; of a JSON field, public_members says what is none");
                }
            }
            return Identity::Static(members);
        }
        match steps.read(&table) {
            Some(step) => {
                if !step.out.contains_key("id") {
                    table.table_or_empty("out").missing("id", "an account is told apart by it");
                }
                Identity::Step(Box::new(step))
            }
            None => none(""),
        }
    }

    fn facts(&self, table: &Table<'_>) -> Option<Facts> {
        table.allow(&["sources", "read", "unverified"]);
        let read = table.needed_text("read").unwrap_or_default();
        let is_day = read.parse::<jiff::civil::Date>().is_ok_and(|day| day.to_string() == read);
        if table.has("read") && !is_day {
            table.wrong("read", "is the day on which the sources were read, such as \"2026-11-22\"");
        }
        if table.texts("sources").iter().all(|source| source.trim().is_empty()) {
            table.wrong("sources", "a list of who says so; at least one is needed");
        }
        // What is inherited may have been replaced since.
        let own = self.top.item("facts").is_some_and(|facts| facts.node.place.is_in_the_file_of(&self.node.place));
        for item in table.list("unverified").iter().filter(|_| own) {
            let Some(path) = item.text() else { continue };
            if !TOP.contains(&path) && !stands(self.node, path) {
                item.report(format!("there is no `{path}` in this definition"));
            }
        }
        Some(Facts { sources: table.texts("sources"), read: read.to_owned(), unverified: table.texts("unverified") })
    }

    fn https_text(&self, key: &str) -> Option<String> {
        let text = self.top.text(key)?;
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let authority = rest.split('/').next().unwrap_or_default();
        if let Err(why) = check_authority(scheme, authority, self.loopback_http) {
            self.top.wrong(key, why);
        }
        Some(text.to_owned())
    }
}

/// Whether a key stands in a table, by its path; in a list, in one of its entries.
fn stands(node: &Node, path: &str) -> bool {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    match &node.value {
        NodeValue::List(items) => items.iter().any(|item| stands(item, path)),
        _ => node.entry(key).is_some_and(|node| rest.is_none_or(|rest| stands(node, rest))),
    }
}

/// Names that answers bring as `extra.NAME`, wherever they do.
fn extras(node: &Node) -> Vec<String> {
    fn walk(node: &Node, in_out: bool, found: &mut Vec<String>) {
        match &node.value {
            NodeValue::Table(entries) => {
                for (key, node) in entries {
                    match key.strip_prefix("extra.") {
                        Some(name) if in_out => found.push(name.to_owned()),
                        _ => walk(node, key == "out", found),
                    }
                }
            }
            NodeValue::List(items) => items.iter().for_each(|item| walk(item, false, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(node, false, &mut found);
    found
}

pub(super) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

pub(super) fn is_header_name(text: &str) -> bool {
    text.parse::<http::HeaderName>().is_ok()
}
