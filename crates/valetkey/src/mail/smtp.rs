//! A login to a submission server (RFC 6409): SMTP (RFC 5321) with AUTH (RFC 4954). No mail is sent.

use zeroize::Zeroizing;

use super::{Line, Security, Server, sasl, starttls_missing};
use crate::{
    error::{Code, Error, Result},
    provider::MailMechanism,
    upstream::Upstream,
};

pub(super) async fn log_in(line: Line, upstream: &Upstream, server: &Server, mechanisms: &[MailMechanism]) -> Result<()> {
    let mut smtp = Smtp { line, keywords: Vec::new() };
    match smtp.reply().await?.code {
        220 => {}
        // RFC 5321 section 3.1: no service here, or not now.
        400..=499 | 554 => return Err(sasl::not_now()),
        _ => return Err(no_smtp()),
    }
    smtp.hello().await?;
    if server.security == Security::StartTls {
        if !smtp.keywords.iter().any(|keyword| keyword == "STARTTLS") || smtp.command("STARTTLS").await?.code != 220 {
            return Err(starttls_missing());
        }
        smtp.line = smtp.line.secure(upstream, &server.host).await?;
        // What was said in the clear does not count any more (RFC 3207 section 4.2).
        smtp.hello().await?;
    }
    smtp.authenticate(server, mechanisms).await?;
    // The answer changes nothing, so it is not waited for.
    let _ = smtp.send("QUIT").await;
    Ok(())
}

struct Smtp {
    line: Line,
    /// What EHLO brought, in capitals.
    keywords: Vec<String>,
}

struct Reply {
    code: u16,
    lines: Vec<String>,
}

impl Smtp {
    async fn hello(&mut self) -> Result<()> {
        // A client without a name of its own says an address (RFC 5321 section 4.1.4); which one is of no use to anybody.
        let reply = self.command("EHLO [127.0.0.1]").await?;
        match reply.code {
            250 => self.keywords = reply.lines.into_iter().skip(1).map(|line| line.trim().to_ascii_uppercase()).collect(),
            400..=499 => return Err(sasl::not_now()),
            _ => return Err(no_smtp()),
        }
        Ok(())
    }

    async fn authenticate(&mut self, server: &Server, mechanisms: &[MailMechanism]) -> Result<()> {
        // `AUTH=` is how it was written before RFC 2554.
        let offers = |name: &str| {
            let lists = self.keywords.iter().filter_map(|keyword| keyword.strip_prefix("AUTH"));
            lists.flat_map(|list| list.split([' ', '='])).any(|known| known == name)
        };
        let exchange = sasl::choose(mechanisms, server, offers).ok_or_else(|| sasl::not_offered(server))?;
        let mut command = Zeroizing::new(format!("AUTH {}", exchange.mechanism));
        let mut responses = exchange.responses;
        if exchange.starts
            && let Some(first) = responses.pop_front()
        {
            command.push(' ');
            command.push_str(&first);
        }
        let mut reply = self.command(&command).await?;
        loop {
            match reply.code {
                235 => return Ok(()),
                334 => {
                    let response = responses.pop_front().ok_or_else(sasl::confused)?;
                    reply = self.command(&response).await?;
                }
                // RFC 4954 section 6: a temporary failure.
                400..=499 => return Err(sasl::not_now()),
                // A command or mechanism that is not known, although it was offered.
                500..=504 => return Err(sasl::confused()),
                505..=599 => return Err(sasl::refused(server)),
                _ => return Err(sasl::confused()),
            }
        }
    }

    async fn command(&mut self, text: &str) -> Result<Reply> {
        self.send(text).await?;
        self.reply().await
    }

    async fn send(&mut self, text: &str) -> Result<()> {
        let line = Zeroizing::new(format!("{text}\r\n"));
        self.line.write(line.as_bytes()).await
    }

    /// A reply of one or more lines, each with the same code (RFC 5321 section 4.2.1).
    async fn reply(&mut self) -> Result<Reply> {
        let mut reply = Reply { code: 0, lines: Vec::new() };
        loop {
            let line = self.line.read().await?;
            let code = line.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
            let code: u16 = code.and_then(|code| code.parse().ok()).ok_or_else(no_smtp)?;
            if !reply.lines.is_empty() && reply.code != code {
                return Err(no_smtp());
            }
            reply.code = code;
            let rest = line.get(3..).unwrap_or_default();
            let more = match rest.as_bytes().first() {
                None | Some(b' ') => false,
                Some(b'-') => true,
                Some(_) => return Err(no_smtp()),
            };
            reply.lines.push(rest.get(1..).unwrap_or_default().to_owned());
            if !more {
                return Ok(reply);
            }
        }
    }
}

fn no_smtp() -> Error {
    Error::new(Code::UpstreamInvalid, "what answers there is no SMTP server that takes mail from programs; check host and port")
}
