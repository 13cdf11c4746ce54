//! URLs with values in them, made so that no value can change where the request goes.
//!
//! The host is fixed in the definition, or it is a whole origin that was checked when the account was connected
//! (`{{field.instance}}/oauth/token`, `{{extra.pds}}/xrpc/...`), or a constant of `[variants]`. Everything else that is
//! filled in is one piece of the path and is percent-encoded, slashes too; a piece that would make a dot segment is an
//! error. The query is not part of the template: steps have a table for it.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, Serializer};

use super::{
    field::{is_loopback, origin},
    template::{Names, Part, Slot, Template, Var, Vars},
};
use crate::error::{Code, Error, Result};

/// All but the unreserved characters of RFC 3986.
const PIECE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A URL with values in it.
#[derive(Clone)]
pub struct UrlTemplate {
    source: String,
    base: Base,
    path: Vec<Part>,
}

#[derive(Clone)]
enum Base {
    /// `https://host[:port]`, and the host with its port.
    Fixed { origin: String, host: String },
    /// A whole origin.
    Instance(Slot),
    /// `https://` and a host name of `[variants]`.
    Variant(Slot),
}

impl UrlTemplate {
    /// Reads a template. `loopback_http` lets `http://` pass for loopback hosts, in definitions for development.
    pub(super) fn parse(text: &str, names: &Names<'_>, loopback_http: bool) -> Result<Self, String> {
        let template = Template::parse(text, names)?;
        let mut parts = template.parts().to_vec();
        let base = match parts.remove(0) {
            Part::Value(slot) => {
                let from_field = matches!(&slot.var, Var::Field(field) if field.is_origin);
                if !slot.is_plain() || !(from_field || matches!(slot.var, Var::Extra { .. })) {
                    return Err("a URL starts with https://, with a field that has normalize = \"https_origin\", or with an \
                                extra"
                        .to_owned());
                }
                Base::Instance(slot)
            }
            Part::Text(text) => {
                let Some((scheme, rest)) = text.split_once("://") else { return Err("a URL starts with https://".to_owned()) };
                match parts.first() {
                    Some(Part::Value(slot)) if rest.is_empty() => {
                        if scheme != "https" || !matches!(slot.var, Var::Variant { .. }) || !slot.is_plain() {
                            return Err("a template in the host of a URL is a whole origin: leave out the scheme, and use a \
                                        field with normalize = \"https_origin\" or an extra"
                                .to_owned());
                        }
                        let Part::Value(slot) = parts.remove(0) else { return Err("a URL needs a host".to_owned()) };
                        check_variant(&slot.var, loopback_http)?;
                        Base::Variant(slot)
                    }
                    more => {
                        let (authority, path) = match rest.find('/') {
                            Some(slash) => rest.split_at(slash),
                            None if more.is_some() => return Err("a template cannot be part of a host name".to_owned()),
                            None => (rest, ""),
                        };
                        let host = check_authority(scheme, authority, loopback_http)?;
                        let origin = format!("{scheme}://{host}");
                        if !path.is_empty() {
                            parts.insert(0, Part::Text(path.to_owned()));
                        }
                        Base::Fixed { origin, host }
                    }
                }
            }
        };
        match parts.first() {
            None => {}
            Some(Part::Text(path)) if path.starts_with('/') => {}
            Some(_) => return Err("a host is followed by `/` or by nothing".to_owned()),
        }
        for part in &parts {
            match part {
                Part::Text(text) => check_path(text)?,
                Part::Value(slot) if slot.is_host() => return Err("the filter `host` belongs into proxy.hosts".to_owned()),
                Part::Value(_) => {}
            }
        }
        Ok(Self { source: text.to_owned(), base, path: parts })
    }

    /// The URL with its values, without a query. Holds a secret only where the definition says `secret_in_query`.
    pub fn render(&self, vars: &Vars<'_>) -> Result<String> {
        let mut url = self.origin(vars)?;
        let start = url.len();
        for part in &self.path {
            match part {
                Part::Text(text) => url.push_str(text),
                Part::Value(slot) => {
                    let value = slot.render(vars)?;
                    if value.is_empty() {
                        return Err(slot.missing());
                    }
                    url.extend(utf8_percent_encode(&value, PIECE));
                }
            }
        }
        // A value of `..` is made of unreserved characters; encoding does not help against it.
        if url[start..].split('/').any(|segment| segment == "." || segment == "..") {
            return Err(Error::new(Code::PathRefused, "a stored value would lead to another path at the provider"));
        }
        Ok(url)
    }

    /// The host it goes to with these values, in lower case, with its port where that is another than the scheme's.
    pub fn host(&self, vars: &Vars<'_>) -> Result<String> {
        let origin = self.origin(vars)?;
        Ok(origin.split_once("://").map_or(origin.as_str(), |(_, host)| host).to_ascii_lowercase())
    }

    fn origin(&self, vars: &Vars<'_>) -> Result<String> {
        match &self.base {
            Base::Fixed { origin, .. } => Ok(origin.clone()),
            Base::Instance(slot) => {
                let value = slot.render(vars)?;
                if value.is_empty() {
                    return Err(slot.missing());
                }
                origin(&value, slot.var.takes_loopback_http())
                    .map_err(|_| Error::new(Code::HostRefused, "the account's server address cannot be used; connect it again"))
            }
            Base::Variant(slot) => {
                let host = slot.render(vars)?;
                if host.is_empty() {
                    return Err(slot.missing());
                }
                Ok(format!("https://{}", *host))
            }
        }
    }

    /// The host and port it always goes to; absent where an instance or a variant decides.
    pub fn fixed_host(&self) -> Option<&str> {
        match &self.base {
            Base::Fixed { host, .. } => Some(host),
            Base::Instance(_) | Base::Variant(_) => None,
        }
    }

    /// What decides the origin, where that is not fixed.
    pub(super) fn instance(&self) -> Option<&Slot> {
        match &self.base {
            Base::Instance(slot) | Base::Variant(slot) => Some(slot),
            Base::Fixed { .. } => None,
        }
    }

    /// The URL as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub(super) fn path_parts(&self) -> &[Part] {
        &self.path
    }

    /// Every value in it.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        let in_path = self.path.iter().filter_map(|part| match part {
            Part::Value(slot) => Some(slot),
            Part::Text(_) => None,
        });
        self.instance().into_iter().chain(in_path)
    }

    /// Whether it can hold a secret.
    pub fn is_secret(&self) -> bool {
        self.path.iter().any(|part| matches!(part, Part::Value(slot) if slot.is_secret()))
    }
}

/// Checks what stands between `://` and the path; returns the host with its port, in lower case.
pub(super) fn check_authority(scheme: &str, authority: &str, loopback_http: bool) -> Result<String, String> {
    let url = url::Url::parse(&format!("{scheme}://{authority}")).map_err(|_| "a URL needs a host".to_owned())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| "a URL needs a host".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() || !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err("a URL has no user name, and its query stands in a table of its own".to_owned());
    }
    match scheme {
        "https" => {}
        "http" if is_loopback(host) && loopback_http => {}
        "http" if is_loopback(host) => {
            return Err("http:// to a loopback host is taken in definitions for development only".to_owned());
        }
        _ => return Err("a URL starts with https://".to_owned()),
    }
    // The parser lets `*` and other signs pass as a name. An address in brackets is the one host with colons.
    if !host.starts_with('[') && !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err("a host is made of letters, digits, `-` and `.`".to_owned());
    }
    let host = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    // A host that the parser had to rewrite is not the one that a reader of the file sees.
    if !host.eq_ignore_ascii_case(authority) {
        return Err(format!("write the host as `{host}`"));
    }
    if !loopback_http && leads_inward(url.host()) {
        return Err(
            "a host is a name out there; addresses and localhost are taken in definitions for development only".to_owned()
        );
    }
    Ok(host)
}

/// Whether a host leads to this machine or its network by its spelling alone. Nothing is looked up: what a name stands for
/// is judged whenever a call is made.
fn leads_inward(host: Option<url::Host<&str>>) -> bool {
    match host {
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => true,
        None => false,
    }
}

/// Checks every host that `[variants]` may put into a URL.
fn check_variant(var: &Var, loopback_http: bool) -> Result<(), String> {
    let Var::Variant { name, variants, .. } = var else { return Ok(()) };
    for host in variants.map.values().filter_map(|row| row.get(name)) {
        check_authority("https", host, loopback_http).map_err(|why| format!("`{host}` of [variants]: {why}"))?;
    }
    Ok(())
}

fn check_path(text: &str) -> Result<(), String> {
    if text.contains(['?', '#']) {
        return Err("a URL has no query and no fragment here; parameters stand in a table of their own".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&b)) {
        return Err("a URL holds only characters that stand in a path as they are".to_owned());
    }
    if text.contains("//") || text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("a URL has no empty and no dot segments".to_owned());
    }
    Ok(())
}

impl fmt::Display for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UrlTemplate({})", self.source)
    }
}

impl Serialize for UrlTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}
