//! Where what arrives is put aside until all of it is there, so that no transaction waits for whoever sends it.
//!
//! It may be much, so it goes to a file; and it is full of credentials, so nothing of it is written in the clear: piece by
//! piece it is sealed under a key that is nowhere but in this process's memory (AES-256-GCM; a key of its own for every
//! spool, and the piece's number as nonce). The file has no name: nobody else can open it, and it is gone with the process,
//! however that ends.

use std::{
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::{
    db::DbConfig,
    error::{Code, Error, Result},
    id,
};

/// How many bytes are sealed together.
const PIECE: usize = 256 * 1024;
/// The length of a seal (AES-GCM).
const TAG: usize = 16;
/// The longest spool: far more than any source brings, and an end for one that never stops.
pub const LARGEST: u64 = 4 << 30;

/// What is put aside, while it arrives.
pub struct Spool {
    sealed: Sealed,
    waiting: Zeroizing<Vec<u8>>,
    taken: u64,
}

/// What was put aside, from its beginning.
pub struct Spooled {
    sealed: Sealed,
    /// How many pieces there are in all; `sealed` counts those that were read.
    pieces: u64,
}

/// The file, and the only key to it.
struct Sealed {
    file: File,
    key: LessSafeKey,
    pieces: u64,
}

/// The folder for a spool: the one of the data, which is the operator's own, or the system's for passing files where the
/// data is elsewhere.
pub fn folder(config: &DbConfig) -> PathBuf {
    match config {
        DbConfig::Sqlite { dir, .. } => dir.clone(),
        DbConfig::Postgres { .. } => std::env::temp_dir(),
    }
}

impl Spool {
    /// An empty spool in a folder.
    ///
    /// # Errors
    /// `storage_failed` where no file can be made there.
    pub fn new(folder: &Path) -> Result<Self> {
        let key = Zeroizing::new(id::random::<32>()?);
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| Error::internal("a key could not be set up"))?;
        let file = tempfile::tempfile_in(folder).map_err(failed)?;
        let sealed = Sealed { file, key: LessSafeKey::new(key), pieces: 0 };
        Ok(Self { sealed, waiting: Zeroizing::new(Vec::with_capacity(PIECE)), taken: 0 })
    }

    /// Takes bytes; whole pieces go to the file.
    ///
    /// # Errors
    /// `payload_too_large` beyond [`LARGEST`]; `storage_failed` where the disk is full.
    pub async fn write(mut self, mut bytes: &[u8]) -> Result<Self> {
        self.taken += bytes.len() as u64;
        if self.taken > LARGEST {
            return Err(Error::new(Code::PayloadTooLarge, format!("an import has at most {LARGEST} bytes")));
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            bytes = later;
            if self.waiting.len() == PIECE {
                self = self.put().await?;
            }
        }
        Ok(self)
    }

    /// Ends it: from now on it is read.
    pub async fn whole(self) -> Result<Spooled> {
        let Self { sealed, .. } = if self.waiting.is_empty() { self } else { self.put().await? };
        let pieces = sealed.pieces;
        Spooled { sealed, pieces }.again().await
    }

    /// Seals what waits and writes it.
    async fn put(mut self) -> Result<Self> {
        blocking(move || {
            let nonce = self.sealed.nonce();
            let tag = self.sealed.key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.waiting);
            let tag = tag.map_err(|_| Error::internal("a piece could not be sealed"))?;
            self.sealed.file.write_all(&self.waiting).and_then(|()| self.sealed.file.write_all(tag.as_ref())).map_err(failed)?;
            self.waiting.clear();
            Ok(self)
        })
        .await
    }
}

impl Spooled {
    /// The same, from its beginning.
    pub async fn again(self) -> Result<Self> {
        blocking(move || {
            let mut spooled = self;
            spooled.sealed.pieces = 0;
            spooled.sealed.file.rewind().map_err(failed)?;
            Ok(spooled)
        })
        .await
    }

    /// The next bytes; none at the end. It reads a file: call it where nobody waits for the thread.
    ///
    /// # Errors
    /// `storage_failed` where the file cannot be read, or is not what was written.
    pub fn read(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>> {
        if self.sealed.pieces == self.pieces {
            return Ok(None);
        }
        let mut piece = Zeroizing::new(Vec::with_capacity(PIECE + TAG));
        let most = (PIECE + TAG) as u64;
        (&self.sealed.file).take(most).read_to_end(&mut piece).map_err(failed)?;
        let nonce = self.sealed.nonce();
        let opened = self.sealed.key.open_in_place(nonce, Aad::empty(), &mut piece);
        let length = opened.map_err(|_| failed("a piece is not what was written"))?.len();
        piece.truncate(length);
        Ok(Some(piece))
    }
}

impl Sealed {
    /// The number of the piece, counted on: no two share one.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.pieces.to_be_bytes());
        self.pieces += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn failed(why: impl std::fmt::Display) -> Error {
    Error::new(Code::StorageFailed, "what arrives could not be put aside; is the disk full?").with_detail(why)
}

/// Files are read and written where nobody else waits.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn all(spooled: &mut Spooled) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = spooled.read().unwrap() {
            all.extend_from_slice(&piece);
        }
        all
    }

    #[tokio::test]
    async fn what_is_put_aside_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut spool = Spool::new(dir.path()).unwrap();
            for part in bytes.chunks(100_003) {
                spool = spool.write(part).await.unwrap();
            }
            let mut spooled = spool.whole().await.unwrap();
            let once = all(&mut spooled);
            let twice = all(&mut spooled.again().await.unwrap());
            assert!(once == bytes && twice == bytes, "{length}");
        }
    }

    #[tokio::test]
    async fn the_file_has_no_name_and_holds_nothing_in_the_clear() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path()).unwrap().write(&b"canary".repeat(PIECE)).await.unwrap().whole().await.unwrap();
        assert_eq!(spool.sealed.file.metadata().unwrap().nlink(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut raw = Vec::new();
        (&spool.sealed.file).read_to_end(&mut raw).unwrap();
        assert!(raw.len() > 6 * PIECE);
        assert!(!raw.windows(6).any(|window| window == b"canary"));
    }

    #[tokio::test]
    async fn a_file_that_was_changed_is_an_error_and_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path()).unwrap().write(b"canary").await.unwrap().whole().await.unwrap();
        std::os::unix::fs::FileExt::write_all_at(&spool.sealed.file, b"x", 2).unwrap();
        let error = spool.read().map(|_| ()).unwrap_err();
        assert_eq!(error.code(), Code::StorageFailed);
        assert!(!format!("{error:?}").contains("canary"));
    }
}
