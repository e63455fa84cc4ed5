//! Notes of what each container was given, one file a container.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::content::ContentRecord;
use model::name::ContainerId;
use tracing::warn;

use crate::whole_file::{self, Outlives};

/// The directory, and what is in it: nobody else writes there.
pub struct Records {
    dir: PathBuf,
    all: Mutex<BTreeMap<ContainerId, ContentRecord>>,
}

impl Records {
    /// Reads what an earlier agent noted. What cannot be read counts as never noted: it is delivered once more.
    pub fn open(dir: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            match id.and_then(|id| Some((id, read(&path)?))) {
                Some((id, record)) => drop(all.insert(id, record)),
                None => std::fs::remove_file(&path)?,
            }
        }
        let all = Mutex::new(all);
        let dir = dir.to_owned();
        Ok(Self { dir, all })
    }

    pub fn all(&self) -> BTreeMap<ContainerId, ContentRecord> {
        self.lock().clone()
    }

    pub fn of(&self, id: &ContainerId) -> Option<ContentRecord> {
        self.lock().get(id).cloned()
    }

    /// Whole or not at all. Not synced: the run dir lasts no longer than the kernel does.
    pub fn write(&self, id: &ContainerId, record: &ContentRecord) -> io::Result<()> {
        whole_file::write(&self.path(id), &serde_json::to_vec(record)?, Outlives::Agent)?;
        self.lock().insert(id.clone(), record.clone());
        Ok(())
    }

    pub fn remove(&self, id: &ContainerId) -> io::Result<()> {
        self.lock().remove(id);
        match std::fs::remove_file(self.path(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn path(&self, id: &ContainerId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, ContentRecord>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Option<ContentRecord> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return None;
    }
    let text = std::fs::read(path).map_err(|e| e.to_string());
    let record = text.and_then(|text| serde_json::from_slice(&text).map_err(|e| e.to_string()));
    record
        .map_err(|why| warn!(file = %path.display(), "a note of delivered files is lost: {why}"))
        .ok()
}
