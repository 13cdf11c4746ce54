//! Reading the section `proxy`: where a credential may go, how it gets there, and what is never called.

use super::{
    credential_query::CredentialQuery,
    load::{Loader, is_header_name},
    pattern::PathPattern,
    proxy::{HostRule, Inject, Proxy},
    spanned::{Item, Table},
    template::{Part, Template, Var},
    url_template::check_authority,
    words::Kind,
};

const PROXY: &[&str] = &[
    "base_url",
    "hosts",
    "path_allow",
    "headers",
    "inject",
    "strip_query",
    "slots",
    "credential_paths",
    "credential_paths_none_reason",
    "credential_query",
    "body_parameters",
    "allow_encoded_slashes",
    "allow_method_override",
    "allow_batch",
];

impl Loader<'_> {
    /// The section `proxy`.
    pub(super) fn proxy(&self, table: &Table<'_>) -> Proxy {
        table.allow(PROXY);
        let hosts: Vec<HostRule> = table.list("hosts").iter().filter_map(|item| self.host(item)).collect();
        if hosts.is_empty() {
            table.wrong("hosts", "at least one host is needed");
        }
        let base_url = self.url(table, "base_url");
        if let Some(url) = &base_url {
            if url.is_secret() {
                table.wrong("base_url", "holds a secret; a credential goes into proxy.inject");
            }
            let covered = match url.fixed_host() {
                Some(host) => hosts.iter().any(|rule| matches!(rule, HostRule::Exact(known) if known == host)),
                None => {
                    let wanted = url.as_str().split("}}").next().unwrap_or_default().to_owned() + "|host}}";
                    hosts.iter().any(|rule| matches!(rule, HostRule::Instance(template) if template.as_str() == wanted))
                }
            };
            if !covered {
                table.wrong("base_url", "its host is not among proxy.hosts");
            }
        }
        let path_allow = self.path_allow(table, &hosts);
        let credential_paths: Vec<PathPattern> = patterns(&table.list("credential_paths"));
        let reason = table.text("credential_paths_none_reason").map(str::to_owned);
        let brings_tokens = matches!(self.kind, Kind::OAuth1 | Kind::OAuth2 | Kind::Session | Kind::JwtBearer);
        if brings_tokens && !table.has("credential_paths") {
            table.missing(
                "credential_paths",
                "what mints, refreshes, lists or revokes credentials at these hosts is never proxied",
            );
        }
        if brings_tokens && credential_paths.is_empty() && table.has("credential_paths") && reason.is_none() {
            table.missing("credential_paths_none_reason", "an empty list needs a reason");
        }
        if reason.as_ref().is_some_and(|reason| reason.trim().is_empty() || !credential_paths.is_empty()) {
            table.wrong("credential_paths_none_reason", "says in words why the list is empty, and only then");
        }
        if table.flag("body_parameters") && !table.has("credential_query") {
            table.missing("credential_query", "body_parameters says where its rules hold");
        }
        Proxy {
            base_url,
            hosts,
            path_allow,
            headers: self.with_common_headers(self.header_table(table)),
            inject: table.list("inject").iter().filter_map(|item| self.inject(item)).collect(),
            strip_query: table.texts("strip_query"),
            slots: table.texts("slots"),
            credential_paths,
            credential_paths_none_reason: reason,
            credential_query: table.list("credential_query").iter().filter_map(credential_query).collect(),
            body_parameters: table.flag("body_parameters"),
            allow_encoded_slashes: table.flag("allow_encoded_slashes"),
            allow_method_override: table.flag("allow_method_override"),
            allow_batch: table.flag("allow_batch"),
        }
    }

    /// The section `operations`: names that a grant may use, each with the patterns it stands for.
    pub(super) fn operations(&self, proxy: Option<&Proxy>) -> Vec<(String, Vec<PathPattern>)> {
        let Some(table) = self.top.table("operations") else { return Vec::new() };
        if proxy.is_none() {
            self.top.wrong("operations", "names calls through the proxy, and there is none");
        }
        let is_name = |name: &str| {
            (1..=64).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b))
        };
        let read = |(name, item): (&str, Item<'_>)| {
            if !is_name(name) {
                item.report("an operation's name is 1 to 64 of a-z, 0-9, `_`, `.` and `-`");
            }
            let items = item.list()?;
            let found = patterns(&items);
            // Without one it would stand for reading and for deleting alike.
            if items.is_empty() || found.iter().any(|pattern| pattern.method().is_none()) {
                item.report("an operation is a list of patterns, each with its method");
            }
            Some((name.to_owned(), found))
        };
        table.items().filter_map(read).collect()
    }

    /// An exact host name, or `{{field.x|host}}`, `{{extra.x|host}}`.
    fn host(&self, item: &Item<'_>) -> Option<HostRule> {
        const FORM: &str = "a host is an exact name, or {{field.NAME|host}} or {{extra.NAME|host}} of an instance";
        let text = item.text()?;
        if text.contains("{{") {
            let template = Template::parse(text, &self.names()).map_err(|why| item.report(why)).ok()?;
            let fine = match template.parts() {
                [Part::Value(slot)] => {
                    let of_instance =
                        matches!(&slot.var, Var::Field(field) if field.is_origin) || matches!(slot.var, Var::Extra { .. });
                    slot.is_host() && of_instance
                }
                _ => false,
            };
            if !fine {
                item.report(format!("{FORM}; a field needs normalize = \"https_origin\""));
            }
            return Some(HostRule::Instance(template));
        }
        // A port is part of a loopback address in development, and of nothing else.
        let scheme = if self.loopback_http { "http" } else { "https" };
        let host = check_authority(scheme, text, self.loopback_http).or_else(|_| check_authority("https", text, false));
        let is_name = |host: &str| {
            let port_is_fine =
                self.loopback_http && super::field::is_loopback(host.rsplit_once(':').map_or(host, |(name, _)| name));
            host == text && (!host.contains(':') || port_is_fine) && (host.contains('.') || port_is_fine)
        };
        match host {
            Ok(host) if is_name(&host) => Some(HostRule::Exact(host)),
            _ => {
                item.report(FORM);
                None
            }
        }
    }

    fn path_allow(&self, table: &Table<'_>, hosts: &[HostRule]) -> Vec<(String, Vec<PathPattern>)> {
        let Some(allow) = table.table("path_allow") else { return Vec::new() };
        let read = |(host, item): (&str, Item<'_>)| {
            if !hosts.iter().any(|rule| matches!(rule, HostRule::Exact(known) if known == host)) {
                item.report("is not one of proxy.hosts");
            }
            Some((host.to_owned(), patterns(&item.list()?)))
        };
        allow.items().filter_map(read).collect()
    }

    fn inject(&self, item: &Item<'_>) -> Option<Inject> {
        let table = Table::of(item)?;
        let place = table.needed_text("in")?;
        let template = |key: &str| {
            if !table.has(key) {
                table.missing(key, "");
            }
            table.item(key).and_then(|item| self.template(&item))
        };
        let keys: &[&str] = match place {
            "header" | "query" | "form" | "json" => &["in", "name", "value", "omit_empty"],
            "basic" => &["in", "user", "password"],
            _ => &["in"],
        };
        table.allow(keys);
        match place {
            "basic" => Some(Inject::Basic { user: template("user")?, password: template("password")? }),
            "oauth1_signature" => {
                if self.kind != Kind::OAuth1 {
                    table.wrong("in", "oauth1_signature belongs to kind = \"oauth1\"");
                }
                Some(Inject::Oauth1Signature)
            }
            "header" | "query" | "form" | "json" => {
                let name = table.needed_text("name")?.to_owned();
                let (value, omit_empty) = (template("value")?, table.flag("omit_empty"));
                Some(match place {
                    "header" => {
                        let hop = ["host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "trailer"];
                        if !is_header_name(&name) || hop.contains(&name.to_ascii_lowercase().as_str()) {
                            table.wrong("name", "is not a header that can carry a credential");
                        }
                        Inject::Header { name, value, omit_empty }
                    }
                    "query" => Inject::Query { name, value, omit_empty },
                    "form" => Inject::Form { name, value, omit_empty },
                    _ => Inject::Json { name, value, omit_empty },
                })
            }
            other => {
                table.wrong("in", format!("\"{other}\" is not one of header, query, form, json, basic, oauth1_signature"));
                None
            }
        }
    }
}

fn patterns(items: &[Item<'_>]) -> Vec<PathPattern> {
    let read = |item: &Item<'_>| PathPattern::parse(item.text()?).map_err(|error| item.report(error.message())).ok();
    items.iter().filter_map(read).collect()
}

fn credential_query(item: &Item<'_>) -> Option<CredentialQuery> {
    let table = Table::of(item)?;
    table.allow(&["name", "contains"]);
    Some(CredentialQuery {
        name: table.needed_text("name")?.to_owned(),
        contains: table.text("contains").unwrap_or_default().to_owned(),
    })
}
