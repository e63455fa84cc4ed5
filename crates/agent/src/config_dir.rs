//! Reading the config dir: which files count, whose they may be, and what they hold.
//!
//! Whatever is wrong with one file is an error on that file; the others go on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use model::diagnostic::{Diagnostic, Location};
use model::file::{self, Outcome, Source};
use model::spec::{ParsedFile, Settings};
use reconciler::resolve::Broken;
use rustix::fs::{CWD, Mode, OFlags};

use crate::trail::Trails;

mod reader;
#[cfg(test)]
mod tests;

pub use reader::Reader;

/// The largest file that is read, in bytes: thousands of containers fit, and a mistaken link to a disk image does not.
const MAX_FILE: u64 = 4 << 20;

/// What one look at the directory gave.
#[derive(Debug, Default)]
pub struct Contents {
    pub files: Vec<ParsedFile>,
    pub broken: Vec<Broken>,
    /// The directory as a whole cannot be trusted: nothing may be removed.
    pub unreadable: Option<Diagnostic>,
    /// There is no such directory, which is why.
    pub missing: bool,
    /// The files' texts, for drawing carets.
    pub sources: Vec<Source>,
    /// What a change of which changes the answer: the directory itself, drop-ins, whatever is behind symlinks.
    pub watched: Trails,
    /// Which directory it was, and whether any file that counts is in it.
    pub seen: Option<(Identity, bool)>,
}

/// A directory as such: another one in its place differs, also where the inode number is used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub device: u64,
    pub inode: u64,
    pub made: Option<SystemTime>,
}

/// A directory that was opened, which it is, and what of its entries counts.
struct Listing {
    handle: File,
    identity: Identity,
    /// Sorted.
    names: Vec<String>,
    /// Entries called `*.toml.d`.
    drop_ins: BTreeSet<String>,
    /// See [`stamp::is_local`].
    local: bool,
}

/// Reads every `*.toml` with its drop-ins, in name order. `search`: the settings' `registries.search`.
pub fn read(dir: &Path, search: &[String]) -> Contents {
    Reader::default().read_anew(dir, search)
}

/// The settings file; the defaults where there is none.
pub fn read_settings(path: &Path) -> Result<Settings, Vec<Diagnostic>> {
    let name = path.display().to_string();
    match read_file(path, &name) {
        Ok(None) => Ok(Settings::default()),
        Ok(Some(bytes)) => {
            let source = Source::from_bytes(&name, &bytes).map_err(|d| vec![d])?;
            file::parse_settings(&source)
        }
        Err(problem) => Err(vec![problem]),
    }
}

/// Which directory it is, and its files that count, sorted.
fn list(dir: &Path) -> Result<Listing, Diagnostic> {
    let whole = |message: String, hint: &str| Diagnostic::new(Location::file("."), message).hint(hint);
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => whole(
            format!(
                "the config dir {} does not exist; nothing is removed meanwhile",
                dir.display()
            ),
            "make it with `mkdir -p`, or name another with --config-dir",
        ),
        _ => whole(
            format!("the config dir {} cannot be read: {e}", dir.display()),
            "nothing is removed meanwhile",
        ),
    };
    let handle = File::open(dir).map_err(failed)?;
    let meta = handle.metadata().map_err(failed)?;
    if !meta.is_dir() {
        return Err(whole(
            format!("{} is not a directory", dir.display()),
            "name a directory with --config-dir",
        ));
    }
    if let Some((message, hint)) = untrusted(&meta, &dir.display().to_string()) {
        return Err(whole(message, &hint));
    }
    let (mut names, mut drop_ins) = (Vec::new(), BTreeSet::new());
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", handle.as_raw_fd())).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if let Some(name) = name.to_str() {
            if counts(name) {
                names.push(name.to_owned());
            } else if name.ends_with(".toml.d") {
                drop_ins.insert(name.to_owned());
            }
        } else if name.as_encoded_bytes().ends_with(b".toml") {
            return Err(whole(
                format!(
                    "{} has a file name that is not UTF-8: {}",
                    dir.display(),
                    name.display()
                ),
                "rename that file",
            ));
        }
    }
    names.sort();
    let identity = Identity {
        device: meta.dev(),
        inode: meta.ino(),
        made: meta.created().ok(),
    };
    Ok(Listing {
        local: stamp::is_local(&handle),
        handle,
        identity,
        names,
        drop_ins,
    })
}

/// `*.toml`, not hidden and no editor's backup.
fn counts(name: &str) -> bool {
    name.ends_with(".toml") && !name.starts_with('.') && !name.ends_with('~')
}

/// Parses what could be read, all at once: an `[image.NAME]` may stand in another file than the container that uses it.
fn parse(whole: Vec<(Source, Vec<Source>)>, search: &[String], contents: &mut Contents) {
    for ((main, drop_ins), outcome) in whole.iter().zip(file::parse_all(&whole, search)) {
        contents
            .sources
            .extend([main].into_iter().chain(drop_ins).cloned());
        match outcome {
            Outcome::Parsed(parsed) => contents.files.push(parsed),
            Outcome::Broken {
                diagnostics,
                declares,
            } => {
                contents.broken.push(Broken {
                    file: main.file.clone(),
                    diagnostics,
                    declares,
                });
            }
        }
    }
}

/// Reads one file with its drop-ins; what cannot be read is booked as broken.
fn read_one(
    dir: &Path,
    name: &str,
    has_drop_ins: bool,
    contents: &mut Contents,
) -> Option<(Source, Vec<Source>)> {
    let path = dir.join(name);
    contents.watched.path(&path);
    let read = source(&path, name).and_then(|main| match main {
        // Vanished between the listing and the look: as if it had never been listed.
        None => Ok(None),
        Some(main) if has_drop_ins => Ok(Some((main, drop_ins(dir, name, contents)?))),
        Some(main) => Ok(Some((main, Vec::new()))),
    });
    read.unwrap_or_else(|problem| {
        contents.broken.push(Broken {
            file: name.to_owned(),
            diagnostics: vec![problem],
            declares: Vec::new(),
        });
        None
    })
}

/// `NAME.toml.d/*.toml`, in name order.
fn drop_ins(dir: &Path, name: &str, contents: &mut Contents) -> Result<Vec<Source>, Diagnostic> {
    let sub = dir.join(format!("{name}.d"));
    let relative = format!("{name}.d");
    contents.watched.directory(&sub);
    let entries = match std::fs::read_dir(&sub) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(Diagnostic::new(
                Location::file(relative),
                format!("cannot be read: {e}"),
            ));
        }
    };
    let meta = std::fs::metadata(&sub)
        .map_err(|e| Diagnostic::new(Location::file(relative.clone()), format!("cannot be read: {e}")))?;
    if let Some((message, hint)) = untrusted(&meta, &sub.display().to_string()) {
        return Err(Diagnostic::new(Location::file(relative), message).hint(hint));
    }
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| counts(n))
        .collect();
    names.sort();
    let mut sources = Vec::new();
    for drop_in in names {
        let shown = format!("{relative}/{drop_in}");
        let path = sub.join(&drop_in);
        contents.watched.path(&path);
        if let Some(source) = source(&path, &shown)? {
            sources.push(source);
        }
    }
    Ok(sources)
}

/// A file's text; none when it is not there.
fn source(path: &Path, shown: &str) -> Result<Option<Source>, Diagnostic> {
    read_file(path, shown)?
        .map(|bytes| Source::from_bytes(shown, &bytes))
        .transpose()
}

/// Reads a regular file of a trusted owner. A FIFO or device is never opened for reading: what a path leads to is
/// looked at through an O_PATH descriptor first, and that very object is then opened.
fn read_file(path: &Path, shown: &str) -> Result<Option<Vec<u8>>, Diagnostic> {
    let at = || Location::file(shown);
    let failed = |what: &str, e: std::io::Error| Diagnostic::new(at(), format!("{what}: {e}"));
    let seen = match rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) if path.symlink_metadata().is_err() => return Ok(None),
        Err(rustix::io::Errno::NOENT) => {
            return Err(Diagnostic::new(at(), "is a symbolic link that leads nowhere")
                .hint("remove it, or make its target"));
        }
        Err(rustix::io::Errno::LOOP) => {
            return Err(Diagnostic::new(at(), "is a symbolic link that leads to itself").hint("remove it"));
        }
        Err(e) => return Err(failed("cannot be opened", e.into())),
    };
    let meta = seen.metadata().map_err(|e| failed("cannot be looked at", e))?;
    if let Some(kind) = not_regular(&meta) {
        return Err(Diagnostic::new(at(), format!("is {kind}, not a regular file"))
            .hint("only regular files hold desired state: move it away, or rename it so that it does not end in .toml"));
    }
    if let Some((message, hint)) = untrusted(&meta, shown) {
        return Err(Diagnostic::new(at(), message).hint(hint));
    }
    if meta.len() > MAX_FILE {
        return Err(Diagnostic::new(
            at(),
            format!("has {} bytes; a file may have at most {MAX_FILE}", meta.len()),
        )
        .hint("split it into several files"));
    }
    let file = File::open(format!("/proc/self/fd/{}", seen.as_raw_fd()))
        .map_err(|e| failed("cannot be opened", e))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed("cannot be read", e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Diagnostic::new(
            at(),
            format!("grew over {MAX_FILE} bytes while it was read"),
        ));
    }
    Ok(Some(bytes))
}

/// What a thing is, if it is no regular file.
fn not_regular(meta: &std::fs::Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    if kind.is_file() {
        return None;
    }
    Some(if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    })
}

/// Why somebody else could have written it, and what to run. Root's and our own files count, writable by nobody else
/// (nor by a group other than root's).
fn untrusted(meta: &std::fs::Metadata, shown: &str) -> Option<(String, String)> {
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != me {
        return Some((
            format!(
                "belongs to user {}, who could have root run anything by it",
                meta.uid()
            ),
            format!("run `chown root {shown}`"),
        ));
    }
    if meta.mode() & 0o002 != 0 {
        return Some((
            "is writable by everybody".to_owned(),
            format!("run `chmod o-w {shown}`"),
        ));
    }
    if meta.mode() & 0o020 != 0 && meta.gid() != 0 {
        return Some((
            format!("is writable by group {}", meta.gid()),
            format!("run `chmod g-w {shown}` or `chgrp root {shown}`"),
        ));
    }
    None
}
