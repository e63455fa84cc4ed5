//! Reading a content from where it comes from.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use model::content::LIMIT;
use model::spec::FileSource;

/// A file that changed so shortly before it was read may change again without a sign: a kernel's time has steps.
const SETTLED: Duration = Duration::from_secs(1);

/// Where systemd puts a service's credentials (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// What a content was, and by what it can be told that its file is still the same.
pub struct Bytes {
    pub bytes: Vec<u8>,
    pub stamp: Option<Stamp>,
}

/// Differs as soon as a file is another one, or has another content (stat(2)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why a content cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{} does not exist; make it, or take it out of the table", .0.display())]
    Missing(PathBuf),
    #[error("{} cannot be read: {}", .0.display(), .1)]
    File(PathBuf, #[source] io::Error),
    #[error("{} is no regular file", .0.display())]
    Kind(PathBuf),
    #[error("{} is too large: at most {LIMIT} bytes are delivered; use a volume", .0.display())]
    TooLarge(PathBuf),
    #[error("the content is too large: at most {LIMIT} bytes are delivered; use a volume")]
    LargeText,
    #[error("the agent's environment has no {0}; set it where the agent is started, and restart the agent")]
    Variable(String),
    #[error(
        "the agent was given no credential {0}; add LoadCredential={0}:PATH to wharf.service, and restart the agent"
    )]
    Credential(String),
}

/// The file it is read from, if it is one.
pub fn path(source: &FileSource) -> Option<PathBuf> {
    match source {
        FileSource::File(path) => Some(path.clone()),
        FileSource::Credential(name) => {
            let dir = std::env::var_os(CREDENTIALS)?;
            Some(Path::new(&dir).join(name))
        }
        FileSource::Content(_) | FileSource::Env(_) => None,
    }
}

/// What tells that its file is the same as before; none where it is no file, or none that can be looked at.
pub fn stamp(source: &FileSource) -> Option<Stamp> {
    let meta = std::fs::metadata(path(source)?).ok()?;
    Some(Stamp::of(&meta))
}

/// Its bytes.
pub fn read(source: &FileSource) -> Result<Bytes, Unreadable> {
    let text = |bytes: &[u8]| match bytes.len() as u64 > LIMIT {
        true => Err(Unreadable::LargeText),
        false => Ok(Bytes {
            bytes: bytes.to_owned(),
            stamp: None,
        }),
    };
    match source {
        FileSource::Content(content) => text(content.as_bytes()),
        FileSource::Env(name) => {
            let value = std::env::var_os(name).ok_or_else(|| Unreadable::Variable(name.clone()))?;
            text(value.as_encoded_bytes())
        }
        FileSource::File(path) => read_file(path),
        FileSource::Credential(name) => {
            let lacking = || Unreadable::Credential(name.clone());
            let path = path(source).ok_or_else(lacking)?;
            read_file(&path).map_err(|e| match e {
                Unreadable::Missing(_) => lacking(),
                other => other,
            })
        }
    }
}

fn read_file(path: &Path) -> Result<Bytes, Unreadable> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unreadable::Missing(path.to_owned()),
        _ => Unreadable::File(path.to_owned(), e),
    };
    // A FIFO or a terminal would keep us waiting.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let seen = std::fs::metadata(path).map_err(failed)?;
    if !seen.is_file() {
        return Err(Unreadable::Kind(path.to_owned()));
    }
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    if !before.is_file() {
        return Err(Unreadable::Kind(path.to_owned()));
    }
    let now = SystemTime::now();
    let mut bytes = Vec::new();
    (&file).take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Unreadable::TooLarge(path.to_owned()));
    }
    let stamp = Stamp::of(&before);
    let whole = file.metadata().is_ok_and(|after| Stamp::of(&after) == stamp);
    let stamp = (whole && settled(&before, now)).then_some(stamp);
    Ok(Bytes { bytes, stamp })
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

fn settled(meta: &std::fs::Metadata, now: SystemTime) -> bool {
    let changed = u64::try_from(meta.ctime()).ok().map(Duration::from_secs);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok();
    matches!((changed, now), (Some(changed), Some(now)) if changed + SETTLED < now)
}
