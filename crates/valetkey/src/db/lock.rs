//! The lock on a data folder: on SQLite one process at a time has the database, and others can find it.
//!
//! The lock is `flock` on `valetkey.lock`; the kernel lets go of it when the process dies, however it dies. The
//! file's text says who holds it, for the message to a second process, and never decides anything.
//!
//! A folder that others may write to is not taken: whoever can put a file there can put a database in place of ours.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Code, Error, Result};

/// The held lock; dropping it lets go.
#[derive(Debug)]
pub struct DataLock {
    file: File,
}

impl DataLock {
    /// Takes the lock on a data folder, waiting up to `patience` for a former holder to end.
    ///
    /// Errors: `invalid_config` where others may write to the folder or to what is in it; `conflict` where somebody holds it.
    pub async fn take(dir: &Path, patience: Duration) -> Result<Self> {
        refuse_what_others_may_change(dir)?;
        let path = path(dir);
        let open = || {
            std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|e| {
                Error::new(
                    Code::InvalidConfig,
                    format!("cannot open {}; check that the folder is yours to write", path.display()),
                )
                .with_detail(e)
            })
        };
        let mut file = open()?;
        let deadline = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let who = holder(dir).unwrap_or_else(|| "another process".to_owned());
                    return Err(Error::new(
                        Code::Conflict,
                        format!("{} is in use by {who}; stop it first, or talk to it instead", dir.display()),
                    ));
                }
                Err(errno) => return Err(Error::internal(errno)),
            }
        }
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "process {}", std::process::id())
        };
        write(&mut file).map_err(Error::internal)?;
        Ok(Self { file })
    }
}

impl Drop for DataLock {
    fn drop(&mut self) {
        // The text goes first, so that nobody reads the name of a process that has let go.
        let _ = self.file.set_len(0);
    }
}

/// Who says they hold the lock on a data folder, if anybody does.
pub fn holder(dir: &Path) -> Option<String> {
    let mut file = File::open(path(dir)).ok()?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let text = text.trim();
    Some(if text.is_empty() { "another process".to_owned() } else { text.to_owned() })
}

fn refuse_what_others_may_change(dir: &Path) -> Result<()> {
    let files = ["valetkey.db", "valetkey.db-wal", "valetkey.db-shm", "valetkey.lock"].map(|name| dir.join(name));
    for path in std::iter::once(dir).chain(files.iter().map(PathBuf::as_path)) {
        let mode = match std::fs::metadata(path) {
            Ok(metadata) => metadata.permissions().mode() & 0o777,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                let text = format!("cannot look at {}; check that the folder is yours", path.display());
                return Err(Error::new(Code::InvalidConfig, text).with_detail(error));
            }
        };
        if mode & 0o022 != 0 {
            let text = format!(
                "others may change {0} (mode {mode:o}); look whether somebody did, then run `chmod go-w {0}`",
                path.display()
            );
            return Err(Error::new(Code::InvalidConfig, text));
        }
    }
    Ok(())
}

fn path(dir: &Path) -> PathBuf {
    dir.join("valetkey.lock")
}
