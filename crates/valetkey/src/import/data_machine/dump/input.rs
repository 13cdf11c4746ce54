//! The bytes of a dump: unpacked as they come, looked at through a small window.

use std::io::{BufReader, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;
use memchr::{memchr, memmem};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use zeroize::Zeroizing;

use super::Error;

/// The window's size: larger than whatever has to be seen at once.
const WINDOW: usize = 64 << 10;
/// The most memory that unpacking may use for what came before (RFC 8878 3.1.1.1.2 asks for 8 MiB at least; `zstd --long`
/// takes 128 MiB).
const MAX_ZSTD_WINDOW: u64 = 128 << 20;

/// A dump as plain bytes, told from a packed one by its first bytes.
pub(super) fn unpacked<'r>(mut source: impl Read + 'r) -> Result<Box<dyn Read + 'r>, Error> {
    let mut first = Vec::new();
    source.by_ref().take(6).read_to_end(&mut first)?;
    let whole = |first: Vec<u8>| Cursor::new(first).chain(source);
    match &first[..] {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(BufReader::new(whole(first))))),
        // The second is a frame to be skipped (RFC 8878 3.1.2), with which some tools begin.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Ok(Box::new(Frames { source: Some(BufReader::new(whole(first))), frame: None }))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(Error::Packed("xz")),
        [b'B', b'Z', b'h', ..] => Err(Error::Packed("bzip2")),
        [b'P', b'K', 3, 4, ..] => Err(Error::Packed("zip")),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err(Error::Utf16),
        _ => Ok(Box::new(whole(first))),
    }
}

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;
/// A source whose next four bytes were looked at.
type Peeked<R> = Chain<Cursor<Vec<u8>>, Source<R>>;

/// The frames of a zstd file, one after the other.
struct Frames<R: Read> {
    /// Between two frames, the source; in a frame, its decoder holds it.
    source: Option<Source<R>>,
    frame: Option<StreamingDecoder<Peeked<R>, FrameDecoder>>,
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let fault = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        loop {
            if let Some(frame) = &mut self.frame {
                let length = frame.read(buffer)?;
                if length > 0 || buffer.is_empty() {
                    return Ok(length);
                }
                self.source = self.frame.take().map(|frame| frame.into_inner().into_inner().1);
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            let mut magic = Vec::new();
            source.by_ref().take(4).read_to_end(&mut magic)?;
            if magic.is_empty() {
                return Ok(0);
            }
            if matches!(magic[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
                skip_frame(&mut source)?;
                self.source = Some(source);
                continue;
            }
            let peeked = Cursor::new(magic).chain(source);
            self.frame = Some(StreamingDecoder::new_with_max_window_size(peeked, MAX_ZSTD_WINDOW).map_err(fault)?);
        }
    }
}

/// Passes over a frame that holds nothing of the file, behind its first four bytes: its length, and so many bytes.
fn skip_frame(source: &mut impl Read) -> std::io::Result<()> {
    let mut length = [0; 4];
    source.read_exact(&mut length)?;
    let length = u64::from(u32::from_le_bytes(length));
    match std::io::copy(&mut source.take(length), &mut std::io::sink())? == length {
        true => Ok(()),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A window on plain bytes.
pub(super) struct Input<R> {
    source: R,
    window: Zeroizing<Vec<u8>>,
    from: usize,
    to: usize,
    /// The offset of the window's first byte.
    offset: u64,
    ended: bool,
}

impl<R: Read> Input<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, window: Zeroizing::new(vec![0; WINDOW]), from: 0, to: 0, offset: 0, ended: false }
    }

    /// The offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset + self.from as u64
    }

    /// What the window shows: at least so many bytes (up to the window's size), or all that are left.
    pub(super) fn see(&mut self, least: usize) -> Result<&[u8], Error> {
        while self.to - self.from < least && !self.ended {
            if self.from > 0 {
                self.window.copy_within(self.from..self.to, 0);
                self.offset += self.from as u64;
                self.to -= self.from;
                self.from = 0;
            }
            match self.source.read(&mut self.window[self.to..]) {
                Ok(0) => self.ended = true,
                Ok(length) => self.to += length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(&self.window[self.from..self.to])
    }

    /// Goes on by so many bytes of those in sight.
    pub(super) fn pass(&mut self, length: usize) {
        self.from = (self.from + length).min(self.to);
    }

    /// The next byte.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, Error> {
        if self.from < self.to {
            return Ok(Some(self.window[self.from]));
        }
        Ok(self.see(1)?.first().copied())
    }

    /// Takes the next byte, which has to be there.
    pub(super) fn take(&mut self) -> Result<u8, Error> {
        let byte = self.peek()?.ok_or(Error::Ended)?;
        self.pass(1);
        Ok(byte)
    }

    /// Whether these bytes come next.
    pub(super) fn starts_with(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        Ok(self.see(bytes.len())?.starts_with(bytes))
    }

    /// Goes to the end of the line.
    pub(super) fn pass_line(&mut self) -> Result<(), Error> {
        loop {
            let seen = self.see(1)?;
            if seen.is_empty() {
                return Ok(());
            }
            match memchr(b'\n', seen) {
                Some(at) => {
                    self.pass(at + 1);
                    return Ok(());
                }
                None => {
                    let length = seen.len();
                    self.pass(length);
                }
            }
        }
    }

    /// Goes behind the end of a comment, which has to be there.
    pub(super) fn pass_comment(&mut self) -> Result<(), Error> {
        loop {
            let seen = self.see(2)?;
            if seen.len() < 2 {
                return Err(Error::Ended);
            }
            match memmem::find(seen, b"*/") {
                Some(at) => {
                    self.pass(at + 2);
                    return Ok(());
                }
                // The last byte may be the star.
                None => {
                    let length = seen.len() - 1;
                    self.pass(length);
                }
            }
        }
    }
}
