//! Files that are there as they were or as they are to be, and never in between.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a file has to outlive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outlives {
    /// The agent: the kernel's memory is good enough.
    Agent,
    /// A power cut as well: when the call returns it is on disk, as is its name (fsync(2)).
    Power,
}

/// Writes it beside, 0600, and renames it over `path`. A failure leaves the old one in force. There is to be one writer
/// of a path at a time. Gives what the file was when it was written: what is at `path` later may be somebody else's.
pub fn write(path: &Path, body: &[u8], outlives: Outlives) -> io::Result<Metadata> {
    let beside = beside(path);
    // What a writer that died left may have another owner or mode.
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(body)?;
    if outlives == Outlives::Power {
        file.sync_data()?;
    }
    let written = file.metadata()?;
    fs::rename(&beside, path)?;
    if let (Some(dir), Outlives::Power) = (path.parent(), outlives) {
        File::open(dir)?.sync_all()?;
    }
    Ok(written)
}

/// `NAME.new`, in the same directory.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_a_dead_writer_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for (outlives, body) in [(Outlives::Agent, "one"), (Outlives::Power, "two")] {
            fs::write(dir.path().join("a.json.new"), "half of someth").unwrap();
            write(&path, body.as_bytes(), outlives).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), body);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_failure_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"old", Outlives::Agent).unwrap();
        fs::create_dir(dir.path().join("a.new")).unwrap();
        write(&path, b"new", Outlives::Power).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
