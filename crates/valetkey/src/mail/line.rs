//! A connection that is spoken over in lines, with a bound on each and on all of them.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    error::{Code, Error, Result},
    upstream::Upstream,
};

/// The longest line that a server may say, in bytes. RFC 5321 section 4.5.3.1.5 allows 512, IMAP names no bound.
const MAX_LINE: usize = 8 * 1024;
/// The most that a server may say before or after TLS began, in bytes.
const MAX_ALL: usize = 64 * 1024;

pub(super) struct Line {
    wire: Wire,
    /// What came and was not read yet.
    buffer: Vec<u8>,
    /// How much came in all.
    came: usize,
}

enum Wire {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl Line {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { wire: Wire::Plain(stream), buffer: Vec::new(), came: 0 }
    }

    pub(super) fn secured(stream: TlsStream<TcpStream>) -> Self {
        Self { wire: Wire::Secured(Box::new(stream)), buffer: Vec::new(), came: 0 }
    }

    /// Begins TLS on a plain connection.
    pub(super) async fn secure(self, upstream: &Upstream, host: &str) -> Result<Self> {
        // What came in the clear after the agreement would be taken for what the secured server says (CVE-2011-0411).
        if !self.buffer.is_empty() {
            return Err(Error::new(
                Code::UpstreamInvalid,
                "the server went on in the clear after it agreed to STARTTLS; somebody on the way may have put that in",
            ));
        }
        match self.wire {
            Wire::Plain(stream) => Ok(Self::secured(upstream.secure(stream, host).await?)),
            Wire::Secured(_) => Err(Error::internal("TLS was begun twice")),
        }
    }

    /// One line without its end.
    pub(super) async fn read(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if end > MAX_LINE {
                    return Err(too_much());
                }
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned());
            }
            if self.buffer.len() > MAX_LINE || self.came >= MAX_ALL {
                return Err(too_much());
            }
            let mut chunk = [0; 2048];
            let read = match &mut self.wire {
                Wire::Plain(stream) => stream.read(&mut chunk).await,
                Wire::Secured(stream) => stream.read(&mut chunk).await,
            };
            match read.map_err(broken)? {
                0 => return Err(broken("it closed the connection")),
                length => {
                    self.came += length;
                    self.buffer.extend_from_slice(&chunk[..length]);
                }
            }
        }
    }

    /// Says something; whoever calls it ends the line.
    pub(super) async fn write(&mut self, text: &[u8]) -> Result<()> {
        let written = match &mut self.wire {
            Wire::Plain(stream) => stream.write_all(text).await,
            Wire::Secured(stream) => match stream.write_all(text).await {
                Ok(()) => stream.flush().await,
                Err(error) => Err(error),
            },
        };
        written.map_err(broken)
    }
}

fn broken(why: impl std::fmt::Display) -> Error {
    Error::new(Code::UpstreamUnreachable, "the connection broke off before the login was done; try again later").with_detail(why)
}

fn too_much() -> Error {
    Error::new(Code::UpstreamInvalid, "the server says more than a mail server would")
}
