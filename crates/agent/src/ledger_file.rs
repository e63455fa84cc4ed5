//! The ledger on disk: whole or not at all, with copies for the day somebody deletes it or scribbles over it.
//!
//! Nothing is ever done by a damaged ledger, and a damaged one is never taken for an empty one: everything that runs
//! would count as nobody's. It is set aside under another name, and a copy takes its place. The copies, one on disk and
//! one in the run dir, are written after what the ledger was written for has begun.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use jiff::Timestamp;
use model::ledger::Ledger;
use model::paths::Roots;
use tracing::warn;

use crate::whole_file::{self, Outlives};

/// The format written.
const VERSION: u32 = 1;

/// The ledger's file, and what it was when it was last written.
#[derive(Debug)]
pub struct LedgerFile {
    path: PathBuf,
    copies: [PathBuf; 2],
    written: Option<Stamp>,
    /// What the copies do not hold yet.
    uncopied: Option<Vec<u8>>,
    /// Of what was written last, in bytes: the next one is about as long.
    length: usize,
}

/// What differs once somebody else wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What a look at one file gave.
enum Read {
    Whole(Box<Ledger>),
    Absent,
    /// Why it cannot be understood.
    Damaged(String),
}

impl LedgerFile {
    /// Below these roots; nothing is read yet.
    pub fn new(roots: &Roots) -> Self {
        let path = roots.ledger();
        Self {
            copies: [
                roots.run.join("ledger.json"),
                path.with_file_name("ledger.copy.json"),
            ],
            path,
            written: None,
            uncopied: None,
            length: 0,
        }
    }

    /// Reads it; a fresh one where there never was one. Where it is missing or damaged, the latest copy that is whole,
    /// and what was found and done, for people.
    pub fn read(&mut self) -> anyhow::Result<(Ledger, Option<String>)> {
        // Before it is read: a change meanwhile is to be seen.
        let before = stamp(&self.path);
        let found = match read(&self.path)? {
            Read::Whole(ledger) => {
                self.written = before;
                return Ok((*ledger, None));
            }
            Read::Absent => None,
            Read::Damaged(why) => {
                let aside = set_aside(&self.path)?;
                let text = format!(
                    "cannot be understood ({why}) and was set aside as {}",
                    aside.display()
                );
                Some(text)
            }
        };
        let copy = self.latest_copy()?;
        let name = self.path.display();
        let text = match (found, copy.as_ref().map(|(_, from)| from.display())) {
            (None, None) => None,
            (None, Some(from)) => Some(format!(
                "the ledger {name} was deleted; what was decided is taken from {from}"
            )),
            (Some(found), Some(from)) => Some(format!(
                "the ledger {name} {found}; what was decided is taken from {from}"
            )),
            (Some(found), None) => Some(format!(
                "the ledger {name} {found}, and there is no copy: what runs is nobody's, and every container is made anew"
            )),
        };
        let fresh = Ledger {
            version: VERSION,
            ..Ledger::default()
        };
        Ok((copy.map_or(fresh, |(ledger, _)| ledger), text))
    }

    fn latest_copy(&self) -> anyhow::Result<Option<(Ledger, PathBuf)>> {
        let changed = |path: &&PathBuf| stamp(path).map(|s| s.changed);
        let mut copies: Vec<&PathBuf> = self.copies.iter().collect();
        copies.sort_by_key(changed);
        for path in copies.into_iter().rev() {
            match read(path)? {
                Read::Whole(ledger) => return Ok(Some((*ledger, path.clone()))),
                Read::Absent => {}
                Read::Damaged(why) => {
                    warn!(path = %path.display(), "a copy of the ledger is damaged as well: {why}")
                }
            }
        }
        Ok(None)
    }

    /// Writes it beside, syncs, renames over, syncs the directory (invariant 5). A failure leaves the old one in force. The
    /// copies are of before until [`Self::copy`].
    pub fn write(&mut self, ledger: &Ledger) -> anyhow::Result<()> {
        // They are never more than one behind.
        self.copy();
        let mut body = Vec::with_capacity(self.length + self.length / 8);
        serde_json::to_writer(&mut body, ledger).context("the ledger is plain data")?;
        self.length = body.len();
        let written = whole_file::write(&self.path, &body, Outlives::Power)
            .with_context(|| format!("cannot write the ledger {}", self.path.display()))?;
        self.written = Some(Stamp::of(&written));
        self.uncopied = Some(body);
        Ok(())
    }

    /// The copies are not up to date.
    pub fn is_ahead(&self) -> bool {
        self.uncopied.is_some()
    }

    /// Writes the copies, where they are not up to date: what the ledger was written for need not wait for that.
    pub fn copy(&mut self) {
        let Some(body) = self.uncopied.take() else {
            return;
        };
        for copy in &self.copies {
            if let Err(e) = whole_file::write(copy, &body, Outlives::Agent) {
                warn!(path = %copy.display(), "a copy of the ledger cannot be written: {e}");
            }
        }
    }

    /// Whether somebody else deleted it, or wrote to it, since it was last written or read here: what is left is set
    /// aside. What was found, for people.
    pub fn take_aside_if_touched(&mut self) -> Option<String> {
        let before = self.written?;
        let now = stamp(&self.path);
        if now == Some(before) {
            return None;
        }
        self.written = None;
        let name = self.path.display();
        if now.is_none() {
            return Some(format!("the ledger {name} was deleted, and is written again"));
        }
        let aside = match set_aside(&self.path) {
            Ok(aside) => format!("what it held is kept as {}", aside.display()),
            Err(e) => format!("what it held cannot be kept: {e:#}"),
        };
        Some(format!(
            "somebody else wrote to the ledger {name}, and it is written again; {aside}"
        ))
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    std::fs::metadata(path).ok().as_ref().map(Stamp::of)
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Read> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Read::Absent),
        Err(e) => return Err(e).with_context(|| format!("cannot read the ledger {}", path.display())),
    };
    // A ledger of a later version is not damaged: it is not ours to replace.
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(&bytes)
        && let Some(version) = object.get("version").and_then(serde_json::Value::as_u64)
        && version != u64::from(VERSION)
    {
        bail!(
            "the ledger {} has format {version}, this wharf knows {VERSION}",
            path.display()
        );
    }
    Ok(match serde_json::from_slice(&bytes) {
        Ok(ledger) => Read::Whole(Box::new(ledger)),
        Err(e) => Read::Damaged(e.to_string()),
    })
}

/// Renames it to a name that says since when; nothing of that name is there.
fn set_aside(path: &Path) -> anyhow::Result<PathBuf> {
    let now = Timestamp::now().as_second();
    let name = |n: u32| {
        path.with_extension(format!(
            "json.damaged-{now}{}",
            if n == 0 { String::new() } else { format!("-{n}") }
        ))
    };
    let aside = (0..)
        .map(name)
        .find(|aside| !aside.exists())
        .context("there is a free name")?;
    std::fs::rename(path, &aside).with_context(|| format!("cannot set {} aside", path.display()))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path) -> LedgerFile {
        let roots = Roots {
            state: dir.join("state"),
            run: dir.join("run"),
        };
        std::fs::create_dir_all(&roots.state).unwrap();
        std::fs::create_dir_all(&roots.run).unwrap();
        LedgerFile::new(&roots)
    }

    fn ledger(generation: u64) -> Ledger {
        Ledger {
            version: VERSION,
            generation,
            ..Ledger::default()
        }
    }

    fn set_asides(dir: &Path) -> usize {
        let names = std::fs::read_dir(dir.join("state")).unwrap();
        names
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .contains("damaged")
            })
            .count()
    }

    #[test]
    fn it_is_read_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(file(dir.path()).read().unwrap(), (ledger(0), None));
        file(dir.path()).write(&ledger(7)).unwrap();
        assert_eq!(file(dir.path()).read().unwrap(), (ledger(7), None));
        assert_eq!(
            file(dir.path()).take_aside_if_touched(),
            None,
            "nothing was written here"
        );
    }

    #[test]
    fn a_missing_or_damaged_one_is_set_aside_and_a_copy_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = file(dir.path());
        one.write(&ledger(7)).unwrap();
        one.copy();
        let path = dir.path().join("state/ledger.json");
        for garbage in [&b"{"[..], b"\xff\xfe", b"", b"{\"version\":1}"] {
            std::fs::write(&path, garbage).unwrap();
            let (found, told) = file(dir.path()).read().unwrap();
            assert_eq!(found, ledger(7));
            assert!(told.unwrap().contains("was set aside as"));
            assert!(!path.exists());
        }
        assert_eq!(set_asides(dir.path()), 4);
        let (found, told) = file(dir.path()).read().unwrap();
        assert_eq!(found, ledger(7));
        assert!(told.unwrap().contains("was deleted"));
        // After a boot there is only the copy on disk.
        std::fs::remove_file(dir.path().join("run/ledger.json")).unwrap();
        assert_eq!(file(dir.path()).read().unwrap().0, ledger(7));
        std::fs::write(dir.path().join("state/ledger.copy.json"), "[]").unwrap();
        std::fs::write(&path, "[]").unwrap();
        let (found, told) = file(dir.path()).read().unwrap();
        assert_eq!(found, ledger(0));
        assert!(told.unwrap().contains("made anew"));
    }

    #[test]
    fn copies_are_never_more_than_one_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, path) = (file(dir.path()), dir.path().join("state/ledger.json"));
        let mut copied = |generation, at_once: bool| {
            one.write(&ledger(generation)).unwrap();
            assert!(one.is_ahead());
            if at_once {
                one.copy();
                assert!(!one.is_ahead());
            }
            let kept = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            let found = file(dir.path()).read().unwrap().0;
            std::fs::write(&path, kept).unwrap();
            found.generation
        };
        assert_eq!(copied(1, false), 0);
        assert_eq!(copied(2, false), 1);
        assert_eq!(copied(3, true), 3);
        assert_eq!(copied(4, false), 3);
    }

    #[test]
    fn one_of_a_later_version_is_refused_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = file(dir.path());
        one.write(&Ledger {
            version: 9,
            ..ledger(1)
        })
        .unwrap();
        assert!(one.read().unwrap_err().to_string().contains("format 9"));
        assert_eq!(set_asides(dir.path()), 0);
    }

    #[test]
    fn what_somebody_else_does_to_it_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut one = file(dir.path());
        one.write(&ledger(1)).unwrap();
        assert_eq!(one.take_aside_if_touched(), None);
        let path = dir.path().join("state/ledger.json");
        std::fs::write(&path, "scribble").unwrap();
        assert!(
            one.take_aside_if_touched()
                .unwrap()
                .contains("somebody else wrote")
        );
        one.write(&ledger(1)).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(one.take_aside_if_touched().unwrap().contains("was deleted"));
        assert_eq!(one.take_aside_if_touched(), None);
        assert_eq!(set_asides(dir.path()), 1);
    }
}
