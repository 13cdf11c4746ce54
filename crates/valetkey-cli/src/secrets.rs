//! How a secret gets into a command: from a file, from standard input (`-`), or typed without echo. Never as an
//! argument, which other users can see in the list of processes and which shells write into their history.

use std::{
    fs::File,
    io::{IsTerminal as _, Read, Write as _},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use valetkey::secret::Secret;
use zeroize::Zeroizing;

use crate::failure::{Failure, Result};

/// The largest file that is taken for a secret.
const LARGEST: u64 = 256 * 1024;

/// Reads a whole file, or standard input for `-`. The error does not repeat what was read.
pub(crate) fn read_file(path: &Path) -> Result<Secret, String> {
    let read = |mut from: &mut dyn Read| {
        let mut bytes = Zeroizing::new(Vec::new());
        (&mut from).take(LARGEST + 1).read_to_end(&mut bytes).map(|_| bytes)
    };
    let (name, bytes) = if path == Path::new("-") {
        ("standard input".to_owned(), read(&mut std::io::stdin().lock()))
    } else {
        (path.display().to_string(), File::open(path).and_then(|mut file| read(&mut file)))
    };
    let bytes = bytes.map_err(|error| format!("{name} cannot be read: {error}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("{name} is larger than {LARGEST} bytes"));
    }
    std::str::from_utf8(&bytes).map(Secret::new).map_err(|_| format!("{name} is not text"))
}

/// Reads one secret from a file or, for `-`, from standard input; a line break at its end is not part of it.
pub(crate) fn one_from(path: &Path) -> Result<Secret> {
    let text = read_file(path).map_err(Failure::usage)?;
    let text = text.expose();
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
}

/// A new file that only we may read. One that exists is not touched.
pub(crate) fn new_file(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::failed(format!("{} is there already and stays as it is; name a new file", path.display()))
        }
        _ => Failure::failed(format!("{} cannot be made", path.display())).with_detail(error),
    })
}

/// Whether a person sits at standard input and can be asked.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for a line that may be seen.
pub(crate) fn ask(question: &str) -> Result<String> {
    say(&format!("{question}: "))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| Failure::failed("nothing could be read").with_detail(error))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks for a secret: what is typed is not shown.
pub(crate) fn ask_secret(question: &str) -> Result<Secret> {
    say(&format!("{question} (not shown): "))?;
    let mut stdin = std::io::stdin().lock();
    let silent = Silent::begin().map_err(|error| Failure::failed("the terminal could not be told to hide").with_detail(error))?;
    let typed = type_line(&mut stdin);
    drop(silent);
    say("\n")?;
    typed
}

/// Reads keys until Enter. The terminal hands over every key as it is, so the few that edit are followed here.
fn type_line(from: &mut impl Read) -> Result<Secret> {
    // Room for any secret a person types, so that no half of it is left behind by growing.
    let mut line = Zeroizing::new(Vec::with_capacity(16 * 1024));
    let mut key = [0];
    loop {
        match from.read(&mut key) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(Failure::failed("nothing could be read").with_detail(error)),
        }
        match key[0] {
            b'\r' | b'\n' => break,
            0x03 | 0x04 => return Err(Failure::failed("stopped")),
            0x08 | 0x7f => {
                // One character, which may be several bytes.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            0x15 => line.clear(),
            _ if line.len() == line.capacity() => return Err(Failure::usage("that is too long; give it in a file")),
            byte => line.push(byte),
        }
    }
    std::str::from_utf8(&line).map(Secret::new).map_err(|_| Failure::usage("what was typed is not text"))
}

/// The terminal without echo and without line editing; dropping it puts everything back.
///
/// Its own keys for interrupting are off too: a process that ends by one would leave the terminal silent.
struct Silent(Termios);

impl Silent {
    fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is nobody to tell: the terminal is gone, or it is as it was.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn say(text: &str) -> Result<()> {
    let mut err = std::io::stderr().lock();
    Ok(err.write_all(text.as_bytes()).and_then(|()| err.flush())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Result<String> {
        type_line(&mut &*keys).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn typed_secrets_can_be_corrected_and_given_up() {
        assert_eq!(typed(b"hunter2\rrest").unwrap(), "hunter2");
        assert_eq!(typed("ab\u{e4}\u{7f}c\n".as_bytes()).unwrap(), "abc");
        assert_eq!(typed(b"wrong\x15right\n").unwrap(), "right");
        assert!(typed(b"hun\x03").is_err());
    }

    #[test]
    fn a_secret_from_a_file_loses_its_last_line_break_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " two\nlines \r\n").unwrap();
        assert_eq!(one_from(file.path()).unwrap().expose(), " two\nlines ");
        std::fs::write(file.path(), vec![b'x'; 300_000]).unwrap();
        assert!(one_from(file.path()).is_err());
    }
}
