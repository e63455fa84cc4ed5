//! The ledger on disk: whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use model::ledger::Ledger;

/// The format written.
const VERSION: u32 = 1;

/// Reads it; a fresh one where there is none. A damaged one is never taken for an empty one: everything that runs
/// would count as nobody's.
pub fn read(path: &Path) -> anyhow::Result<Ledger> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Ledger {
                version: VERSION,
                ..Ledger::default()
            });
        }
        Err(e) => return Err(e).with_context(|| format!("cannot read the ledger {}", path.display())),
    };
    let ledger: Ledger = serde_json::from_str(&text).with_context(|| {
        format!(
            "the ledger {} is damaged; restore it from a backup, or move it away to have every container made anew",
            path.display()
        )
    })?;
    if ledger.version != VERSION {
        bail!(
            "the ledger {} has format {}, this wharf knows {VERSION}",
            path.display(),
            ledger.version
        );
    }
    Ok(ledger)
}

/// Writes it beside, syncs, renames over, syncs the directory (invariant 5). A failure leaves the old one in force.
pub fn write(path: &Path, ledger: &Ledger) -> anyhow::Result<()> {
    let dir = path.parent().context("the ledger has a directory")?;
    let beside = path.with_extension("json.tmp");
    let body = serde_json::to_vec(ledger).context("the ledger is plain data")?;
    let doing = || format!("cannot write the ledger {}", path.display());
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .with_context(doing)?;
    file.write_all(&body)
        .and_then(|()| file.sync_data())
        .with_context(doing)?;
    std::fs::rename(&beside, path).with_context(doing)?;
    File::open(dir).and_then(|d| d.sync_all()).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_as_written_and_a_damaged_one_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.json");
        let mut ledger = read(&path).unwrap();
        ledger.generation = 7;
        write(&path, &ledger).unwrap();
        assert_eq!(read(&path).unwrap(), ledger);
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("is damaged"));
        std::fs::write(
            &path,
            serde_json::to_string(&Ledger { version: 9, ..ledger }).unwrap(),
        )
        .unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("format 9"));
    }
}
