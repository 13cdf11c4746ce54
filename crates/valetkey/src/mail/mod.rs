//! Mailboxes: where their servers are, whether an account opens them, and what of it is handed out.
//!
//! 1. [`servers`] reads the definition's servers out of an account: host, port, security, user, and a password or an access
//!    token. Hosts are what the definition says and the person entered; none is guessed.
//! 2. [`check`] logs in to those that the definition wants checked: IMAP (RFC 9051 section 6.2) and SMTP (RFC 4954).
//!    Nothing is read there, and no mail is sent. TLS begins with the connection or by STARTTLS (RFC 8314); where neither is
//!    to be had nothing is sent, so that a password never goes out in the clear.
//! 3. [`revealed`] is what an agent is handed: the proxy speaks HTTP, so a mailbox is delivered by reveal alone.
//!
//! The client is our own, of lines: a login is ten of them in either protocol, and `async-imap` with `lettre` would bring
//! parsers and builders for all the rest.

mod imap;
mod line;
mod sasl;
mod smtp;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use serde_json::{Map, Value, json};

use self::line::Line;
use crate::{
    base::Outside,
    error::{Code, Error, Result},
    provider::{Definition, MailCheck, MailMechanism, MailServer, Template, Vars},
    secret::{Secret, SecretMap},
    upstream::Upstream,
};

/// How long one server may take for all of it. A wrong password is answered late on purpose by many.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Reading mail.
    Imap,
    /// Sending mail.
    Smtp,
}

impl Protocol {
    /// Its name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Imap => "imap",
            Protocol::Smtp => "smtp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Imap => "IMAP",
            Protocol::Smtp => "SMTP",
        })
    }
}

/// How a connection is secured. There is no third way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// STARTTLS, which the server must offer.
    StartTls,
}

impl Security {
    /// Its name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Security::Tls => "ssl",
            Security::StartTls => "starttls",
        }
    }
}

/// What opens a mailbox.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A password, most often one made for a single app.
    Password(Secret),
    /// An OAuth 2.0 access token.
    Token(Secret),
}

/// A server of a mailbox, with what opens it.
#[derive(Clone, Debug)]
pub struct Server {
    /// What it is for.
    pub protocol: Protocol,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    pub security: Security,
    /// Who logs in.
    pub user: String,
    /// With what.
    pub credential: Credential,
    /// What it is needed for, as the definition says.
    pub operations: Vec<String>,
}

impl Server {
    /// An error with the name of the server in it: a mailbox has two.
    fn named(&self, error: &Error) -> Error {
        let text = format!("{} at {}:{}: {}", self.protocol, self.host, self.port, error.message());
        Error::new(error.code(), text).with_detail(error.detail().unwrap_or_default())
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Where the account logged in.
    pub logged_in: Vec<Protocol>,
}

/// The servers of an account, IMAP first. None where the definition has no mailbox.
///
/// # Errors
/// `invalid_request` or `not_configured` for what is missing or wrong, with the server's protocol; `no_credentials` where
/// there is no access token.
pub fn servers(definition: &Definition, account: &SecretMap) -> Result<Vec<Server>> {
    let Some(mail) = &definition.mail else { return Ok(Vec::new()) };
    let vars = Vars { fields: Some(account), account: Some(account), ..Vars::default() };
    [(Protocol::Imap, &mail.imap), (Protocol::Smtp, &mail.smtp)]
        .into_iter()
        .filter_map(|(protocol, defined)| Some((protocol, defined.as_ref()?)))
        .filter_map(|(protocol, defined)| server(protocol, defined, account, &vars).transpose())
        .collect()
}

/// Logs in to each server of an account that the definition wants checked, and out again. Absent servers are not asked for;
/// a definition without a mailbox has nothing to check.
///
/// # Errors
/// With the server's name in the text: `login_refused` for a wrong user name, password or token; `upstream_unreachable` for
/// a host that is not there or a server that is busy; `tls_failed`; `starttls_missing`; `upstream_timeout`;
/// `upstream_invalid` for what is no mail server or says more than it may; `address_refused`. And those of [`servers`].
pub async fn check(outside: &Outside, definition: &Definition, account: &SecretMap) -> Result<Checked> {
    check_within(&outside.upstream, definition, account, DEADLINE).await
}

async fn check_within(upstream: &Upstream, definition: &Definition, account: &SecretMap, time: Duration) -> Result<Checked> {
    let Some(mail) = &definition.mail else { return Ok(Checked::default()) };
    let servers = servers(definition, account)?;
    if servers.is_empty() {
        return Err(Error::new(Code::InvalidRequest, "the account names no mail server; enter its host"));
    }
    let mut checked = Checked::default();
    // One after the other: a wrong password is tried once, or a provider that counts would lock the account sooner.
    for server in &servers {
        let wanted = match server.protocol {
            Protocol::Imap => MailCheck::ImapLogin,
            Protocol::Smtp => MailCheck::SmtpAuth,
        };
        if !mail.check.contains(&wanted) {
            continue;
        }
        match tokio::time::timeout(time, log_in(upstream, server, &mail.mechanisms)).await {
            Ok(Ok(())) => checked.logged_in.push(server.protocol),
            Ok(Err(error)) => return Err(server.named(&error)),
            Err(_) => return Err(server.named(&too_late())),
        }
    }
    Ok(checked)
}

fn too_late() -> Error {
    Error::new(
        Code::UpstreamTimeout,
        "the server did not answer in time; check host and port, and whether TLS begins at once or by STARTTLS",
    )
}

async fn log_in(upstream: &Upstream, server: &Server, mechanisms: &[MailMechanism]) -> Result<()> {
    let stream = upstream.dial(&server.host, server.port).await?;
    let line = match server.security {
        Security::Tls => Line::secured(upstream.secure(stream, &server.host).await?),
        Security::StartTls => Line::plain(stream),
    };
    match server.protocol {
        Protocol::Imap => imap::log_in(line, upstream, server, mechanisms).await,
        Protocol::Smtp => smtp::log_in(line, upstream, server, mechanisms).await,
    }
}

fn starttls_missing() -> Error {
    Error::new(
        Code::StarttlsMissing,
        "the server does not offer STARTTLS, or somebody on the way took the offer out; nothing was sent. If its TLS begins \
         at once, say so and name that port",
    )
}

/// What of a mailbox is handed out: for each server that serves an operation which `may` allows, a member `imap` or `smtp`
/// with `host`, `port`, `security` (`ssl` or `starttls`), `user`, and either `password` or `access_token` with the ready
/// `mechanism` and `initial_response` (Base64) of a SASL login.
///
/// # Errors
/// `not_authenticated` where the account lacks something or says to go without encryption; `no_credentials` where no server
/// serves what is allowed.
pub fn revealed(definition: &Definition, account: &SecretMap, may: impl Fn(&str) -> bool) -> Result<SecretMap> {
    let mechanisms = definition.mail.as_ref().map(|mail| mail.mechanisms.as_slice()).unwrap_or_default();
    let again = |error: Error| Error::new(Code::NotAuthenticated, format!("{}; connect it again", error.message()));
    let mut shown = SecretMap::default();
    for server in servers(definition, account).map_err(again)? {
        if server.operations.iter().any(|operation| may(operation)) {
            shown.expose_mut().insert(server.protocol.as_str().to_owned(), Value::Object(members(&server, mechanisms)));
        }
    }
    if shown.expose().is_empty() {
        return Err(Error::new(Code::NoCredentials, "the mailbox has no server for what is granted; connect it with one"));
    }
    Ok(shown)
}

fn members(server: &Server, mechanisms: &[MailMechanism]) -> Map<String, Value> {
    let mut members = Map::from_iter([
        ("host".to_owned(), json!(server.host)),
        ("port".to_owned(), json!(server.port)),
        ("security".to_owned(), json!(server.security.as_str())),
        ("user".to_owned(), json!(server.user)),
    ]);
    match &server.credential {
        Credential::Password(password) => drop(members.insert("password".to_owned(), json!(password.expose()))),
        Credential::Token(token) => {
            members.insert("access_token".to_owned(), json!(token.expose()));
            if let Some(exchange) = sasl::choose(mechanisms, server, |_| true)
                && let Some(first) = exchange.responses.front()
            {
                members.insert("mechanism".to_owned(), json!(exchange.mechanism.as_str()));
                members.insert("initial_response".to_owned(), json!(first.as_str()));
            }
        }
    }
    members
}

/// One server; nothing where it has no host.
fn server(protocol: Protocol, defined: &MailServer, account: &SecretMap, vars: &Vars<'_>) -> Result<Option<Server>> {
    let wrong = |why: &str| Error::new(Code::InvalidRequest, format!("{protocol}: {why}"));
    let text = |template: &Template| Ok::<_, Error>(template.render(vars)?.map(|text| text.expose().trim().to_owned()));
    let Some(host) = text(&defined.host)? else { return Ok(None) };
    let port = text(&defined.port)?.and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0);
    let port = port.ok_or_else(|| wrong("the port is a number from 1 to 65535"))?;
    let security = match text(&defined.security)?.unwrap_or_default().to_ascii_lowercase().as_str() {
        "ssl" => Security::Tls,
        // Data Machine, and PHP before it, say `tls` for STARTTLS.
        "tls" | "starttls" => Security::StartTls,
        _ => return Err(wrong("no mailbox is spoken to without encryption: it is ssl or tls")),
    };
    let user = match first(&defined.user, vars)? {
        Some(user) => user,
        None => account.text("email").ok_or_else(|| wrong("the account names no user"))?,
    };
    let credential = match defined.password.is_empty() {
        true => Credential::Token(
            account
                .text("access_token")
                .ok_or_else(|| Error::new(Code::NoCredentials, format!("{protocol}: the account has no access token")))?,
        ),
        false => Credential::Password(first(&defined.password, vars)?.ok_or_else(|| wrong("the account has no password"))?),
    };
    // Each stands in a line of the protocol, between NULs or between characters of code 1.
    let (Credential::Password(secret) | Credential::Token(secret)) = &credential;
    if [&user, secret].iter().any(|text| text.expose().chars().any(char::is_control)) {
        return Err(wrong("the user name or the password holds a control character"));
    }
    let (user, operations) = (user.expose().to_owned(), defined.operations.clone());
    Ok(Some(Server { protocol, host, port, security, user, credential, operations }))
}

/// The first template that renders to something.
fn first(templates: &[Template], vars: &Vars<'_>) -> Result<Option<Secret>> {
    for template in templates {
        if let Some(text) = template.render(vars)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}
