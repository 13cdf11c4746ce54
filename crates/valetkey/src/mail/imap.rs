//! A login to IMAP (RFC 9051, and RFC 3501, which differs in nothing that is used here).

use std::collections::VecDeque;

use zeroize::Zeroizing;

use super::{Credential, Line, Security, Server, sasl, starttls_missing};
use crate::{
    error::{Code, Error, Result},
    provider::MailMechanism,
    upstream::Upstream,
};

/// Response codes that say "not now" rather than "not you" (RFC 5530).
const NOT_NOW: [&str; 4] = ["[UNAVAILABLE]", "[INUSE]", "[LIMIT]", "[SERVERBUG]"];

pub(super) async fn log_in(line: Line, upstream: &Upstream, server: &Server, mechanisms: &[MailMechanism]) -> Result<()> {
    let mut imap = Imap { line, commands: 0, capabilities: Vec::new() };
    imap.greeting().await?;
    if server.security == Security::StartTls {
        imap.ask_capabilities().await?;
        if !imap.can("STARTTLS") || !matches!(imap.command("STARTTLS").await?, Answer::Ok) {
            return Err(starttls_missing());
        }
        imap.line = imap.line.secure(upstream, &server.host).await?;
    }
    // What was said in the clear does not count any more (RFC 9051 section 6.2.1).
    imap.ask_capabilities().await?;
    imap.authenticate(server, mechanisms).await?;
    // The answer changes nothing, so it is not waited for.
    let _ = imap.send("LOGOUT").await;
    Ok(())
}

struct Imap {
    line: Line,
    commands: u32,
    capabilities: Vec<String>,
}

enum Answer {
    Ok,
    /// With what was said, in capitals.
    No(String),
    Bad,
    /// The server waits for more.
    Continue,
}

impl Imap {
    async fn greeting(&mut self) -> Result<()> {
        let line = self.line.read().await?;
        let mut words = line.split(' ');
        match (words.next(), words.next().map(str::to_ascii_uppercase).as_deref()) {
            (Some("*"), Some("OK")) => Ok(()),
            (Some("*"), Some("BYE")) => Err(sasl::not_now()),
            // Before STARTTLS this is an attack (RFC 9051 section 11.1), and after it nothing would be checked.
            (Some("*"), Some("PREAUTH")) => {
                Err(Error::new(Code::UpstreamInvalid, "the server lets anybody in without a login, so nothing can be checked"))
            }
            _ => Err(no_imap()),
        }
    }

    async fn ask_capabilities(&mut self) -> Result<()> {
        self.capabilities.clear();
        match self.command("CAPABILITY").await? {
            Answer::Ok => Ok(()),
            _ => Err(no_imap()),
        }
    }

    fn can(&self, what: &str) -> bool {
        self.capabilities.iter().any(|known| known == what)
    }

    async fn authenticate(&mut self, server: &Server, mechanisms: &[MailMechanism]) -> Result<()> {
        if let Some(exchange) = sasl::choose(mechanisms, server, |name| self.can(&format!("AUTH={name}"))) {
            let mut command = Zeroizing::new(format!("AUTHENTICATE {}", exchange.mechanism));
            let mut responses = exchange.responses;
            if exchange.starts
                && self.can("SASL-IR")
                && let Some(first) = responses.pop_front()
            {
                command.push(' ');
                command.push_str(&first);
            }
            return self.converse(&command, responses, server).await;
        }
        match &server.credential {
            // The command of the same name, for servers without SASL. Literals hold any character.
            Credential::Password(password) if mechanisms.contains(&MailMechanism::Login) && !self.can("LOGINDISABLED") => {
                let (user, password) = (&server.user, password.expose());
                let rest = [format!("{user} {{{}}}", password.len()), password.to_owned()];
                let responses = rest.into_iter().map(Zeroizing::new).collect();
                self.converse(&format!("LOGIN {{{}}}", user.len()), responses, server).await
            }
            _ => Err(sasl::not_offered(server)),
        }
    }

    /// A command that the server may ask more about, until it decides.
    async fn converse(&mut self, command: &str, mut responses: VecDeque<Zeroizing<String>>, server: &Server) -> Result<()> {
        let mut answer = self.command(command).await?;
        loop {
            match answer {
                Answer::Ok => return Ok(()),
                Answer::No(text) if NOT_NOW.iter().any(|code| text.starts_with(code)) => return Err(sasl::not_now()),
                Answer::No(_) => return Err(sasl::refused(server)),
                Answer::Bad => return Err(sasl::confused()),
                Answer::Continue => {
                    let mut response = responses.pop_front().ok_or_else(sasl::confused)?;
                    response.push_str("\r\n");
                    self.line.write(response.as_bytes()).await?;
                    answer = self.answer().await?;
                }
            }
        }
    }

    async fn command(&mut self, text: &str) -> Result<Answer> {
        self.send(text).await?;
        self.answer().await
    }

    async fn send(&mut self, text: &str) -> Result<()> {
        self.commands += 1;
        let line = Zeroizing::new(format!("v{} {text}\r\n", self.commands));
        self.line.write(line.as_bytes()).await
    }

    async fn answer(&mut self) -> Result<Answer> {
        let tag = format!("v{} ", self.commands);
        loop {
            let line = self.line.read().await?;
            if line == "+" || line.starts_with("+ ") {
                return Ok(Answer::Continue);
            }
            if let Some(untagged) = line.strip_prefix("* ") {
                self.note(untagged)?;
                continue;
            }
            let text = line.strip_prefix(&tag).ok_or_else(no_imap)?.to_ascii_uppercase();
            let (status, rest) = text.split_once(' ').unwrap_or((&text, ""));
            return match status {
                "OK" => Ok(Answer::Ok),
                "NO" => Ok(Answer::No(rest.to_owned())),
                "BAD" => Ok(Answer::Bad),
                _ => Err(no_imap()),
            };
        }
    }

    /// What comes beside an answer.
    fn note(&mut self, untagged: &str) -> Result<()> {
        let text = untagged.to_ascii_uppercase();
        let mut words = text.split(' ');
        match words.next() {
            Some("CAPABILITY") => self.capabilities = words.map(str::to_owned).collect(),
            Some("BYE") => return Err(sasl::not_now()),
            _ => {}
        }
        Ok(())
    }
}

fn no_imap() -> Error {
    Error::new(Code::UpstreamInvalid, "what answers there is no IMAP server; check host and port")
}
