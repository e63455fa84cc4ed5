//! What configs, secrets and environment files hold: read where they come from, told apart by fingerprints, and noted
//! when a container was given it.
//!
//! The bytes go from their source to the runtime's files of a container, and into nothing else.

pub mod deliver;
mod keyed;
mod records;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use model::action::Instance;
use model::content::{ContentKey, ContentKind, ContentRecord, ContentState, Delivered, Sources, keys_of};
use model::desired::Desired;
use model::ledger::Ledger;
use model::name::ContainerId;
use model::observed::Look;
use model::paths::Roots;
use model::spec::FileSource;

use keyed::Key;
use records::Records;
use source::{Bytes, Stamp, Unreadable};

/// The sources of everything containers see, and the notes of what each has.
pub struct Contents {
    key: Key,
    records: Records,
    sources: Mutex<Sources>,
    /// Fingerprints of files that did not change since.
    known: Mutex<BTreeMap<ContentKey, (Stamp, String)>>,
}

/// Files as they are delivered, and what is noted of them.
pub struct Parcel {
    pub files: Vec<(Delivered, Vec<u8>)>,
    pub states: BTreeMap<ContentKey, ContentState>,
}

impl Contents {
    /// Notes lie in the run dir: they are as short-lived as what they are about.
    pub fn open(roots: &Roots) -> anyhow::Result<Self> {
        let path = roots.run.join("contents.key");
        let key = Key::settle(&path).with_context(|| {
            format!(
                "cannot make {}, by which changed secrets are noticed",
                path.display()
            )
        })?;
        let dir = roots.run.join("delivered");
        let records = Records::open(&dir).with_context(|| format!("cannot open {}", dir.display()))?;
        Ok(Self {
            key,
            records,
            sources: Mutex::default(),
            known: Mutex::default(),
        })
    }

    /// From now on this is what is looked at.
    pub fn set_sources(&self, sources: Sources) {
        lock(&self.known).retain(|key, _| sources.contains_key(key));
        *lock(&self.sources) = sources;
    }

    /// The fingerprint of everything there is a source of.
    pub fn look(&self) -> BTreeMap<ContentKey, Look<String>> {
        let sources = lock(&self.sources).clone();
        let look = |(key, source): (ContentKey, FileSource)| {
            let seen = match self.fingerprint(&key, &source) {
                Ok(fingerprint) => Look::Known(fingerprint),
                Err(e) => Look::Unknown(e.to_string()),
            };
            (key, seen)
        };
        sources.into_iter().map(look).collect()
    }

    /// What the containers' files hold, by the notes.
    pub fn delivered(&self) -> BTreeMap<ContainerId, ContentRecord> {
        self.records.all()
    }

    /// Reads everything an instance sees, as it is now.
    ///
    /// # Errors
    /// A sentence that says what could not be read, and why.
    pub fn parcel(&self, instance: &Instance) -> Result<Parcel, String> {
        let mut parcel = Parcel {
            files: Vec::new(),
            states: BTreeMap::new(),
        };
        for file in &instance.contents {
            let key = file.key();
            let source = lock(&self.sources).get(&key).cloned();
            let source = source.ok_or_else(|| format!("{key} is not declared any more"))?;
            let bytes = source::read(&source).map_err(|e| format!("{key}: {e}"))?;
            let state = ContentState {
                fingerprint: self.fingerprint_of(&key, &bytes.bytes),
                file: Some(file.clone()),
            };
            parcel.states.insert(key, state);
            parcel.files.push((file.clone(), bytes.bytes));
        }
        Ok(parcel)
    }

    /// Notes what a container has from now on. `hosts`: the lines of its links. `outdated`: the run that began before, and is to be ended for it.
    pub fn note(
        &self,
        id: &ContainerId,
        states: BTreeMap<ContentKey, ContentState>,
        hosts: Vec<String>,
        outdated: Option<u64>,
    ) -> std::io::Result<()> {
        let mut record = self.records.of(id).unwrap_or_default();
        record.files.retain(|key, _| key.table().is_none());
        record.files.extend(states);
        record.hosts = hosts;
        record.outdated_run = outdated;
        self.records.write(id, &record)
    }

    /// Notes, before a running container is brought what changed, that what its files hold is not known from now on: cut
    /// off in the middle, they are written again, even where their sources hold what they held before.
    pub fn doubt(
        &self,
        id: &ContainerId,
        states: &BTreeMap<ContentKey, ContentState>,
        hosts: &[String],
    ) -> std::io::Result<()> {
        let Some(mut record) = self.records.of(id) else {
            return Ok(());
        };
        let (noted, led) = (record.files.len(), record.hosts == hosts);
        record
            .files
            .retain(|key, had| states.get(key).is_none_or(|state| state == had));
        if record.files.len() == noted && led {
            return Ok(());
        }
        record.hosts.retain(|_| led);
        self.records.write(id, &record)
    }

    /// Notes what the environment files of a container hold, the first time it is made ready: they are read then, and
    /// no more.
    pub fn note_environment(&self, instance: &Instance) -> Result<(), String> {
        let mut record = self.records.of(&instance.id).unwrap_or_default();
        let mut news = false;
        for key in keys_of(&instance.spec).filter(|key| key.table().is_none()) {
            let ContentKey::EnvFile(path) = &key else { continue };
            if record.files.contains_key(&key) {
                continue;
            }
            let bytes = source::read(&FileSource::File(path.clone())).map_err(|e| format!("{key}: {e}"))?;
            let state = ContentState {
                fingerprint: self.fingerprint_of(&key, &bytes.bytes),
                file: None,
            };
            record.files.insert(key, state);
            news = true;
        }
        if !news {
            return Ok(());
        }
        self.records
            .write(&instance.id, &record)
            .map_err(|e| format!("cannot note in the run dir what {} was given: {e}", instance.name))
    }

    /// A container is gone.
    pub fn forget(&self, id: &ContainerId) -> std::io::Result<()> {
        self.records.remove(id)
    }

    fn fingerprint(&self, key: &ContentKey, source: &FileSource) -> Result<String, Unreadable> {
        if let Some(stamp) = source::stamp(source)
            && let Some((known, fingerprint)) = lock(&self.known).get(key)
            && *known == stamp
        {
            return Ok(fingerprint.clone());
        }
        let Bytes { bytes, stamp } = source::read(source)?;
        let fingerprint = self.fingerprint_of(key, &bytes);
        match stamp {
            Some(stamp) => lock(&self.known).insert(key.clone(), (stamp, fingerprint.clone())),
            None => lock(&self.known).remove(key),
        };
        Ok(fingerprint)
    }

    /// A secret's says nothing to whoever has not the key, so that no guess can be checked against it.
    fn fingerprint_of(&self, key: &ContentKey, bytes: &[u8]) -> String {
        match key {
            ContentKey::Secret(_) => self.key.fingerprint(bytes),
            ContentKey::Config(_) | ContentKey::EnvFile(_) => keyed::plain(bytes),
        }
    }
}

/// Where everything is read that is declared, or that a container still sees.
pub fn sources(desired: &Desired, ledger: &Ledger) -> Sources {
    let mut sources = Sources::new();
    for (key, entry) in &ledger.contents {
        sources.insert(key.clone(), entry.spec.source.clone());
    }
    for (kind, tables) in [
        (ContentKind::Config, &desired.configs),
        (ContentKind::Secret, &desired.secrets),
    ] {
        for (name, table) in tables {
            sources.insert(ContentKey::of(kind, name.clone()), table.spec.source.clone());
        }
    }
    let specs = desired.containers.values().map(|c| &*c.spec);
    let accepted = ledger.accepted().map(|(_, accepted)| &*accepted.spec);
    for key in specs.chain(accepted).flat_map(keys_of) {
        if let ContentKey::EnvFile(path) = &key {
            let source = FileSource::File(path.clone());
            sources.insert(key, source);
        }
    }
    sources
}

/// A file that a table names, whole.
///
/// # Errors
/// A sentence that says why it cannot be had.
pub fn read_file(path: &std::path::Path) -> Result<Vec<u8>, String> {
    let read = source::read(&FileSource::File(path.to_owned()));
    read.map(|read| read.bytes).map_err(|e| e.to_string())
}

/// The paths of the host that they lie at.
pub fn paths(sources: &Sources) -> impl Iterator<Item = PathBuf> + '_ {
    sources.values().filter_map(source::path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
