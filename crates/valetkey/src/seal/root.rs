//! Root keys: what wraps the data keys. They are never in the database.
//!
//! 1. A root key is a line of text, `vkroot1_<43 characters>_<checksum>`; several lines load together. The first is
//!    current: it wraps new data keys. The others still open what they wrapped.
//! 2. A key's id is derived from the key, so that a wrong key is known as wrong before anything is opened with it.
//! 3. The lines come from one source: a file that nobody else may read, or an environment variable.
//! 4. To change the root key: [`add_new_current`], load it in every process, `rotate::rewrap`, then [`drop_others`].

use std::{
    fmt, fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{Aad, LessSafeKey, Nonce},
    digest,
    hkdf::{HKDF_SHA256, Salt},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::envelope::{self, NONCE, TAG};
use crate::{
    error::{Code, Error, Result},
    id,
    secret::Secret,
};

/// The name of a root key: 16 hex digits derived from the key. It is no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootKeyId(String);

impl RootKeyId {
    /// An id as it stands in the database.
    pub(super) fn stored(id: String) -> Self {
        Self(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One root key. Zeroised on drop; `Debug` prints its id only.
pub struct RootKey {
    id: RootKeyId,
    key: Zeroizing<[u8; 32]>,
    wrapping: LessSafeKey,
}

impl RootKey {
    /// A new key from the operating system's generator.
    pub fn generate() -> Result<Self> {
        Self::new(Zeroizing::new(id::random()?))
    }

    fn new(key: Zeroizing<[u8; 32]>) -> Result<Self> {
        let id = RootKeyId(hex::encode(&labelled_digest("valetkey root key id v1", &key)[..8]));
        let extracted = Salt::new(HKDF_SHA256, b"valetkey root key v1").extract(&*key);
        let wrapping = envelope::gcm(&*envelope::expand(&extracted, b"valetkey data key wrap v1")?)?;
        Ok(Self { id, key, wrapping })
    }

    /// Reads one line.
    fn parse(line: &str) -> Option<Result<Self>> {
        let (body, checksum) = line.strip_prefix(PREFIX)?.split_at_checked(43)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).ok()?);
        let key = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
        (checksum.strip_prefix('_')? == checksum_of(&key)).then(|| Self::new(key))
    }

    /// The id.
    pub fn id(&self) -> &RootKeyId {
        &self.id
    }

    /// The line that stands for this key in a file or a variable.
    pub fn to_line(&self) -> Secret {
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.key.as_slice()));
        Secret::new(format!("{PREFIX}{}_{}", *body, checksum_of(&self.key)))
    }

    /// Wraps a data key, bound to its place in the ring.
    pub(super) fn wrap(&self, slot: &Slot<'_>, data_key: &[u8; 32]) -> Result<Vec<u8>> {
        let nonce = id::random::<NONCE>()?;
        let mut out = Vec::with_capacity(1 + NONCE + 32 + TAG);
        out.push(WRAP_FORMAT);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(data_key);
        let tag = self
            .wrapping
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(slot.bound()), &mut out[1 + NONCE..])
            .map_err(|_| Error::internal("a data key could not be wrapped"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens a wrapped data key; nothing when it was not wrapped by this key for this place.
    pub(super) fn unwrap(&self, slot: &Slot<'_>, wrapped: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
        let (format, rest) = wrapped.split_first()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        if *format != WRAP_FORMAT {
            return None;
        }
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.wrapping.open_in_place(nonce, Aad::from(slot.bound()), &mut buffer).ok()?;
        <[u8; 32]>::try_from(&*opened).ok().map(Zeroizing::new)
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({})", self.id)
    }
}

/// Which data key it is. A wrapped key copied to another site, provider or version does not open there.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    pub(super) site: &'a str,
    pub(super) provider: &'a str,
    pub(super) version: i64,
    pub(super) id: &'a str,
}

impl Slot<'_> {
    fn bound(&self) -> Vec<u8> {
        let mut bytes = vec![WRAP_FORMAT];
        for part in [self.site, self.provider, self.id] {
            envelope::put(&mut bytes, part.as_bytes());
        }
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes
    }
}

/// The loaded root keys: one current, and others that still open what they wrapped.
#[derive(Debug)]
pub struct RootKeys {
    current: RootKey,
    others: Vec<RootKey>,
}

impl RootKeys {
    /// One key alone.
    pub fn single(current: RootKey) -> Self {
        Self { current, others: Vec::new() }
    }

    /// Reads lines. Empty lines and lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// [`Code::KeyUnavailable`] with the number of the first line that is no key. The line itself is not repeated.
    pub fn parse(text: &Secret) -> Result<Self> {
        let mut keys = Vec::new();
        for (at, line) in text.expose().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match RootKey::parse(line) {
                Some(key) => keys.push(key?),
                None => {
                    return Err(unavailable(format!(
                        "line {} is no root key: a key is `{PREFIX}`, 43 characters, `_` and 6 digits, and its digits must fit; \
                         look for a missing or mistyped character",
                        at + 1
                    )));
                }
            }
        }
        let mut keys = keys.into_iter();
        let current = keys.next().ok_or_else(|| unavailable("there is no root key in it"))?;
        Ok(Self { current, others: keys.collect() })
    }

    /// The key that wraps new data keys.
    pub fn current(&self) -> &RootKey {
        &self.current
    }

    /// The ids of all loaded keys, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = &RootKeyId> {
        self.all().map(RootKey::id)
    }

    /// The loaded key with this id.
    pub(super) fn find(&self, id: &str) -> Option<&RootKey> {
        self.all().find(|key| key.id.as_str() == id)
    }

    fn all(&self) -> impl Iterator<Item = &RootKey> {
        std::iter::once(&self.current).chain(&self.others)
    }
}

/// Where root keys are read from.
#[derive(Clone, Debug)]
pub enum RootSource {
    /// A file of lines.
    File(PathBuf),
    /// The lines themselves, from `VALETKEY_ROOT_KEY`.
    Text(Secret),
}

impl RootSource {
    /// Takes the one source that was given, or the default file.
    ///
    /// `flag` is `--root-key-file`, `text` is `VALETKEY_ROOT_KEY`, `file` is `VALETKEY_ROOT_KEY_FILE`. `default` is
    /// `root.key` in the data folder on SQLite; PostgreSQL has none.
    ///
    /// # Errors
    /// [`Code::InvalidConfig`] when more than one is given, [`Code::KeyUnavailable`] when none is.
    pub fn choose(
        flag: Option<PathBuf>,
        text: Option<Secret>,
        file: Option<PathBuf>,
        default: Option<PathBuf>,
    ) -> Result<RootSource> {
        let given: Vec<&str> = [
            (flag.is_some(), "--root-key-file"),
            (text.is_some(), "VALETKEY_ROOT_KEY"),
            (file.is_some(), "VALETKEY_ROOT_KEY_FILE"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
        .collect();
        if given.len() > 1 {
            return Err(Error::new(
                Code::InvalidConfig,
                format!("the root key is given more than once: {}; keep one", given.join(" and ")),
            ));
        }
        match (text, flag.or(file).or(default)) {
            (Some(text), _) => Ok(Self::Text(text)),
            (None, Some(path)) => Ok(Self::File(path)),
            (None, None) => Err(unavailable(
                "PostgreSQL needs the root key given, the same to every replica: set --root-key-file, VALETKEY_ROOT_KEY_FILE or \
                 VALETKEY_ROOT_KEY",
            )),
        }
    }

    /// Reads the keys; nothing when the file does not exist.
    ///
    /// # Errors
    /// [`Code::KeyUnavailable`], saying what to do, when the file may be read by others, belongs to somebody else, is no
    /// file, or holds no key.
    pub fn load(&self) -> Result<Option<RootKeys>> {
        match self {
            Self::Text(text) => {
                RootKeys::parse(text).map(Some).map_err(|error| unavailable(format!("VALETKEY_ROOT_KEY: {}", error.message())))
            }
            Self::File(path) => match read(path)? {
                Some(text) => parse_file(path, &text).map(Some),
                None => Ok(None),
            },
        }
    }
}

impl fmt::Display for RootSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("VALETKEY_ROOT_KEY"),
        }
    }
}

/// Makes a new root key and the file that holds it, with mode 0600. Nothing that exists is ever replaced.
///
/// Call it only where there is no data key yet (decisions 8): `ring::start` does.
pub(super) fn create(path: &Path) -> Result<RootKeys> {
    let key = RootKey::generate()?;
    write(path, &file_text(&key), Write::New)?;
    Ok(RootKeys::single(key))
}

/// Makes a new root key and writes it as the first line of the file; all old lines stay. Returns its id.
///
/// # Errors
/// [`Code::KeyUnavailable`] when the file cannot be read or written; it is then as it was.
pub fn add_new_current(path: &Path) -> Result<RootKeyId> {
    let (path, text) = existing(path)?;
    parse_file(&path, &text)?;
    let key = RootKey::generate()?;
    let all = Secret::new(format!("{}{}", file_text(&key).expose(), text.expose()));
    write(&path, &all, Write::Replace)?;
    Ok(key.id)
}

/// Removes every line but the first key from the file. Returns the ids that went.
///
/// `in_use` are the root keys that data keys are still wrapped by (`rotate::roots_in_use`).
///
/// # Errors
/// [`Code::KeyUnavailable`] when a key that would go is still in use; the file is then as it was.
pub fn drop_others(path: &Path, in_use: &[RootKeyId]) -> Result<Vec<RootKeyId>> {
    let (path, text) = existing(path)?;
    let keys = parse_file(&path, &text)?;
    if let Some(needed) = in_use.iter().find(|id| *id != keys.current.id()) {
        return Err(unavailable(format!("data keys are still wrapped by root key {needed}; re-wrap them first, then remove it")));
    }
    let gone: Vec<RootKeyId> = keys.others.iter().map(|key| key.id.clone()).filter(|id| id != keys.current.id()).collect();
    write(&path, &file_text(&keys.current), Write::Replace)?;
    Ok(gone)
}

fn existing(path: &Path) -> Result<(PathBuf, Secret)> {
    // Replacing a file replaces a link to it; so the link is followed first.
    let path = fs::canonicalize(path).map_err(|error| file_error(path, "cannot be found", &error))?;
    let text = read(&path)?.ok_or_else(|| unavailable(format!("the root key file {} does not exist", path.display())))?;
    Ok((path, text))
}

fn parse_file(path: &Path, text: &Secret) -> Result<RootKeys> {
    RootKeys::parse(text).map_err(|error| unavailable(format!("{}: {}", path.display(), error.message())))
}

/// Reads a key file after looking at who else could have read it.
fn read(path: &Path) -> Result<Option<Secret>> {
    // Not blocking, so that a pipe in its place cannot hold the start up. What is checked is what was opened.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(path, "cannot be opened", &error)),
    };
    let about = file.metadata().map_err(|error| file_error(path, "cannot be looked at", &error))?;
    let shown = path.display();
    if !about.is_file() {
        return Err(unavailable(format!("the root key file {shown} is not a regular file")));
    }
    let us = rustix::process::geteuid().as_raw();
    if about.uid() != us && about.uid() != 0 {
        return Err(unavailable(format!(
            "the root key file {shown} belongs to user {}, and this process runs as user {us}: run `chown {us} {shown}`",
            about.uid()
        )));
    }
    if about.mode() & 0o077 != 0 {
        return Err(unavailable(format!("the root key file {shown} can be read by others: run `chmod 600 {shown}`")));
    }
    if about.len() > LARGEST_FILE {
        return Err(unavailable(format!(
            "the root key file {shown} is larger than {LARGEST_FILE} bytes; it holds something else"
        )));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_FILE as usize + 1));
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|error| file_error(path, "cannot be read", &error))?;
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Some(Secret::new(text))),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(unavailable(format!("the root key file {shown} is not text; it holds something else")))
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Write {
    New,
    Replace,
}

/// Writes the whole file or nothing: a file beside it, made durable, then put in its place.
fn write(path: &Path, text: &Secret, how: Write) -> Result<()> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| file_error(path, &what, &error)
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", hex::encode(id::random::<6>()?)));
    let beside = Beside(PathBuf::from(beside));
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside.0).map_err(failed("cannot be written"))?;
    file.write_all(text.expose().as_bytes()).and_then(|()| file.sync_all()).map_err(failed("cannot be written"))?;
    match how {
        // A link fails where a file exists already, a rename would replace it.
        Write::New => fs::hard_link(&beside.0, path),
        Write::Replace => fs::rename(&beside.0, path),
    }
    .map_err(failed("cannot be put in its place"))?;
    drop(beside);
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("may not outlive a power failure"))
}

/// The file beside; gone when this is dropped, also after an error.
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

fn file_text(key: &RootKey) -> Secret {
    Secret::new(format!(
        "# Valet Key root key {}. Without it nothing that is stored can be opened.\n\
         # Keep a copy in a safe place, apart from the database and its backups.\n{}\n",
        key.id,
        key.to_line().expose()
    ))
}

pub(super) fn unavailable(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Code::KeyUnavailable, message)
}

fn file_error(path: &Path, what: &str, error: &std::io::Error) -> Error {
    unavailable(format!("the root key file {} {what}: {error}", path.display()))
}

fn checksum_of(key: &[u8; 32]) -> String {
    hex::encode(&labelled_digest("valetkey root key checksum v1", key)[..3])
}

fn labelled_digest(label: &str, key: &[u8; 32]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(label.as_bytes());
    context.update(&[0]);
    context.update(key);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

const PREFIX: &str = "vkroot1_";
const WRAP_FORMAT: u8 = 1;
const LARGEST_FILE: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SLOT: Slot<'static> = Slot { site: "default", provider: "github", version: 1, id: "dek_1" };

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn load(path: &Path) -> Result<Option<RootKeys>> {
        RootSource::File(path.to_owned()).load()
    }

    #[test]
    fn a_line_comes_back_as_the_same_key() {
        let key = RootKey::generate().unwrap();
        let again = RootKeys::parse(&key.to_line()).unwrap();
        assert_eq!(again.current().id(), key.id());
        assert_eq!(*again.current().key, *key.key);
    }

    #[test]
    fn a_line_with_any_character_changed_or_missing_is_refused_by_number_and_not_repeated() {
        let line = RootKey::generate().unwrap().to_line().expose().to_owned();
        for at in 0..line.len() {
            let mut mistyped = line.clone().into_bytes();
            mistyped[at] = if mistyped[at] == b'A' { b'B' } else { b'A' };
            let mistyped = String::from_utf8(mistyped).unwrap();
            let shorter = format!("{}{}", &line[..at], &line[at + 1..]);
            for text in [&mistyped, &shorter] {
                let error = RootKeys::parse(&Secret::new(format!("# mine\n\n{text}\n"))).unwrap_err();
                assert_eq!(error.code(), Code::KeyUnavailable);
                assert!(error.message().starts_with("line 3 "), "{error}");
                assert!(!format!("{error:?}").contains(&line[8..20]));
            }
        }
    }

    #[test]
    fn the_first_line_is_current_and_all_load() {
        let (one, two) = (RootKey::generate().unwrap(), RootKey::generate().unwrap());
        let text = format!("# new\r\n{}\r\n\n# old\n  {}  \n", one.to_line().expose(), two.to_line().expose());
        let keys = RootKeys::parse(&Secret::new(text)).unwrap();
        assert_eq!(keys.ids().collect::<Vec<_>>(), [one.id(), two.id()]);
        assert_eq!(keys.current().id(), one.id());
        assert!(keys.find(two.id().as_str()).is_some());
    }

    #[test]
    fn a_text_without_a_key_is_refused() {
        for text in ["", "\n# only words\n"] {
            assert_eq!(RootKeys::parse(&Secret::new(text)).unwrap_err().code(), Code::KeyUnavailable);
        }
    }

    #[test]
    fn debug_of_a_root_key_shows_its_id_only() {
        let keys = RootKeys::single(RootKey::generate().unwrap());
        let line = keys.current().to_line().expose().to_owned();
        let shown = format!("{keys:?} {:?}", RootSource::Text(Secret::new(line.as_str())));
        assert!(shown.contains(keys.current().id().as_str()));
        assert!(!shown.contains(&line[8..51]));
    }

    #[test]
    fn a_wrapped_key_opens_in_its_own_slot_under_its_own_root_only() {
        let (root, other) = (RootKey::generate().unwrap(), RootKey::generate().unwrap());
        let wrapped = root.wrap(&SLOT, &[9; 32]).unwrap();
        assert_eq!(*root.unwrap(&SLOT, &wrapped).unwrap(), [9; 32]);
        assert!(other.unwrap(&SLOT, &wrapped).is_none());
        let elsewhere = [
            Slot { site: "other", ..SLOT },
            Slot { provider: "gitlab", ..SLOT },
            Slot { version: 2, ..SLOT },
            Slot { id: "dek_2", ..SLOT },
        ];
        assert!(elsewhere.iter().all(|slot| root.unwrap(slot, &wrapped).is_none()));
        assert!((0..wrapped.len()).all(|at| root.unwrap(&SLOT, &wrapped[..at]).is_none()));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_that_helps() {
        let line = RootKey::generate().unwrap().to_line();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o666, 0o677] {
            let (_folder, path) = file(line.expose(), mode);
            let error = load(&path).unwrap_err();
            assert_eq!(error.code(), Code::KeyUnavailable, "{mode:o}");
            assert!(error.message().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        for mode in [0o600, 0o400] {
            let (_folder, path) = file(line.expose(), mode);
            assert!(load(&path).unwrap().is_some(), "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_or_no_text_is_refused() {
        let (folder, path) = file(&"#".repeat(70_000), 0o600);
        assert_eq!(load(&path).unwrap_err().code(), Code::KeyUnavailable);
        assert_eq!(load(folder.path()).unwrap_err().code(), Code::KeyUnavailable);
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(load(&path).unwrap_err().code(), Code::KeyUnavailable);
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(load(&pipe).unwrap_err().code(), Code::KeyUnavailable);
    }

    #[test]
    fn a_file_that_does_not_exist_is_nothing_and_not_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load(&folder.path().join("root.key")).unwrap().is_none());
    }

    #[test]
    fn a_new_file_is_for_us_only_and_never_replaces_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let made = create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(load(&path).unwrap().unwrap().current().id(), made.current().id());
        assert_eq!(create(&path).unwrap_err().code(), Code::KeyUnavailable);
        assert_eq!(load(&path).unwrap().unwrap().current().id(), made.current().id());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing stays beside it");
    }

    #[test]
    fn a_new_current_key_is_put_first_and_the_old_ones_stay_until_nothing_needs_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let old = create(&path).unwrap().current().id().clone();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let new = add_new_current(&link).unwrap();
        assert_eq!(load(&path).unwrap().unwrap().ids().collect::<Vec<_>>(), [&new, &old]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        assert_eq!(drop_others(&path, &[new.clone(), old.clone()]).unwrap_err().code(), Code::KeyUnavailable);
        assert_eq!(load(&path).unwrap().unwrap().ids().count(), 2);
        assert_eq!(drop_others(&path, std::slice::from_ref(&new)).unwrap(), [old]);
        assert_eq!(load(&path).unwrap().unwrap().ids().collect::<Vec<_>>(), [&new]);
    }

    #[test]
    fn one_source_is_taken_and_two_are_refused_by_name() {
        let (a, b) = (|| Some(PathBuf::from("a")), || Some(PathBuf::from("b")));
        let text = || Some(Secret::new("vkroot1_"));
        assert!(matches!(RootSource::choose(a(), None, None, b()), Ok(RootSource::File(path)) if path == Path::new("a")));
        assert!(matches!(RootSource::choose(None, None, a(), b()), Ok(RootSource::File(path)) if path == Path::new("a")));
        assert!(matches!(RootSource::choose(None, text(), None, b()), Ok(RootSource::Text(_))));
        assert!(matches!(RootSource::choose(None, None, None, b()), Ok(RootSource::File(path)) if path == Path::new("b")));
        assert_eq!(RootSource::choose(None, None, None, None).unwrap_err().code(), Code::KeyUnavailable);
        let error = RootSource::choose(None, text(), a(), b()).unwrap_err();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.message().contains("VALETKEY_ROOT_KEY and VALETKEY_ROOT_KEY_FILE"), "{error}");
    }
}
