//! Configs, secrets and environment files of the simulated host: what their sources hold, and what containers have.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::action::Instance;
use model::content::{ContentKey, ContentRecord, ContentState, OnChange, Then, keys_of};
use model::ledger::Ledger;
use model::name::ContainerId;
use model::observed::{Look, Phase};
use model::spec::{ContainerSpec, FileSource, MountedFileSpec};

use super::files::name;
use super::host::{Host, Real};
use super::rng::Rng;

/// Configs and secrets there may be tables of, each.
pub const TABLES: u64 = 2;

/// By what is looked for.
pub type Known = BTreeMap<ContentKey, String>;

/// What the sources hold, and what became of it.
#[derive(Default)]
pub struct Contents {
    /// What differs from the first version; the rest holds that.
    sources: BTreeMap<ContentKey, Look<String>>,
    /// The files of a container.
    pub files: BTreeMap<ContainerId, Known>,
    /// What the program was begun with, or told of since.
    pub told: BTreeMap<ContainerId, Known>,
    /// Its environment, read once.
    pub environment: BTreeMap<ContainerId, Known>,
    /// Noted by the agent beside the files.
    pub records: BTreeMap<ContainerId, ContentRecord>,
}

pub fn env_file() -> std::path::PathBuf {
    "/etc/default/app".into()
}

/// A table as somebody may write it.
pub fn table(number: u64, rng: &mut Rng) -> MountedFileSpec {
    MountedFileSpec {
        source: FileSource::File(format!("/srv/x{number}").into()),
        target: None,
        mode: *rng.pick(&[0o444, 0o400]),
        uid: 0,
        gid: 0,
        on_change: match rng.below(5) {
            0 => OnChange::None,
            1 => OnChange::Replace,
            2 => OnChange::Signal("SIGHUP".to_owned()),
            _ => OnChange::Restart,
        },
    }
}

impl Contents {
    /// What a source holds; the first version where nobody changed it.
    fn source(&self, key: &ContentKey) -> Look<String> {
        let first = || Look::Known("sha256:1".to_owned());
        self.sources.get(key).cloned().unwrap_or_else(first)
    }

    /// Somebody edits, or takes away.
    pub fn change(&mut self, rng: &mut Rng) {
        let number = rng.below(TABLES);
        let key = match rng.below(3) {
            0 => ContentKey::Config(name(&format!("x{number}"))),
            1 => ContentKey::Secret(name(&format!("x{number}"))),
            _ => ContentKey::EnvFile(env_file()),
        };
        let look = match rng.below(5) {
            0 => Look::Unknown("/srv/x does not exist".to_owned()),
            n => Look::Known(format!("sha256:{n}")),
        };
        self.sources.insert(key, look);
    }

    /// Everything gets another content at once.
    pub fn edit_all(&mut self) {
        let all: Vec<ContentKey> = self.seen().into_keys().collect();
        for key in all {
            self.sources.insert(key, Look::Known("sha256:edited".to_owned()));
        }
    }

    /// Somebody writes this, or takes it away and says why it cannot be read.
    pub fn set(&mut self, key: &str, look: Look<&str>) {
        let look = match look {
            Look::Known(version) => Look::Known(format!("sha256:{version}")),
            Look::Unknown(why) => Look::Unknown(why),
        };
        self.sources.insert(key.parse().unwrap(), look);
    }

    pub fn heal(&mut self) {
        self.sources.retain(|_, look| look.known().is_some());
    }

    /// The run dir is memory.
    pub fn forget(&mut self) {
        self.files.clear();
        self.told.clear();
        self.environment.clear();
        self.records.clear();
    }

    /// A container is gone.
    pub fn drop_all_of(&mut self, id: &ContainerId) {
        self.files.remove(id);
        self.told.remove(id);
        self.environment.remove(id);
        self.records.remove(id);
    }

    /// Of everything a ledger or a directory may ask for.
    pub fn seen(&self) -> BTreeMap<ContentKey, Look<String>> {
        let tables = (0..TABLES).map(|n| name(&format!("x{n}")));
        let all = tables.flat_map(|n| [ContentKey::Config(n.clone()), ContentKey::Secret(n)]);
        let all = all.chain([ContentKey::EnvFile(env_file())]);
        all.map(|key| (key.clone(), self.source(&key))).collect()
    }

    /// All that an instance sees, as it is now.
    fn read(&self, instance: &Instance) -> Result<BTreeMap<ContentKey, ContentState>, String> {
        let one = |file: &model::content::Delivered| {
            let fingerprint = match self.source(&file.key()) {
                Look::Known(known) => known,
                Look::Unknown(why) => return Err(why),
            };
            let file = Some(file.clone());
            let key = file.as_ref().map(|f| f.key()).ok_or("no file")?;
            Ok((key, ContentState { fingerprint, file }))
        };
        instance.contents.iter().map(one).collect()
    }

    /// Before a container is prepared or started.
    pub fn give(&mut self, instance: &Instance) -> Result<(), String> {
        let states = self.read(instance)?;
        if !self.environment.contains_key(&instance.id) {
            let mut environment = Known::new();
            for key in keys_of(&instance.spec).filter(|key| key.table().is_none()) {
                match self.source(&key) {
                    Look::Known(known) => drop(environment.insert(key, known)),
                    Look::Unknown(why) => return Err(why),
                }
            }
            self.environment.insert(instance.id.clone(), environment);
        }
        self.put(&instance.id, &states);
        self.note(&instance.id, states, None);
        let noted = self.records.get_mut(&instance.id).unwrap();
        noted.hosts = model::links::lines(&instance.links);
        for (key, known) in &self.environment[&instance.id] {
            let state = ContentState {
                fingerprint: known.clone(),
                file: None,
            };
            noted.files.insert(key.clone(), state);
        }
        Ok(())
    }

    fn put(&mut self, id: &ContainerId, states: &BTreeMap<ContentKey, ContentState>) {
        let files = states.iter().map(|(key, s)| (key.clone(), s.fingerprint.clone()));
        self.files.insert(id.clone(), files.collect());
    }

    /// Before any of it is written: cut off from here on, what is about to change is known no more.
    fn doubt(&mut self, id: &ContainerId, states: &BTreeMap<ContentKey, ContentState>) {
        if let Some(noted) = self.records.get_mut(id) {
            noted
                .files
                .retain(|key, had| states.get(key).is_none_or(|state| state == had));
        }
    }

    fn note(
        &mut self,
        id: &ContainerId,
        files: BTreeMap<ContentKey, ContentState>,
        outdated_run: Option<u64>,
    ) {
        let record = self.records.entry(id.clone()).or_default();
        record.files.retain(|key, _| key.table().is_none());
        record.files.extend(files);
        record.outdated_run = outdated_run;
    }

    /// Whoever changed these wanted nobody to be told: should the table ask for more from now on, that is for what
    /// changes from then on.
    fn tell_nobody(&mut self, id: &ContainerId, states: &BTreeMap<ContentKey, ContentState>) {
        let noted = self.records.entry(id.clone()).or_default();
        let changed = states
            .iter()
            .filter(|(key, state)| noted.files.get(*key) != Some(state));
        let told = self.told.entry(id.clone()).or_default();
        told.extend(changed.map(|(key, state)| (key.clone(), state.fingerprint.clone())));
    }

    /// A program begins, or looks at its files because it was told to.
    pub fn tell(&mut self, id: &ContainerId) {
        let files = self.files.get(id).cloned().unwrap_or_default();
        self.told.insert(id.clone(), files);
    }
}

impl Host {
    /// Brings a running container what changed. Cut off halfway, it may be anywhere.
    pub(super) fn renew(
        &mut self,
        instance: &Instance,
        planned: &BTreeMap<ContentKey, ContentState>,
        run_no: u64,
        then: &Then,
        now: Timestamp,
        half: bool,
    ) -> Result<(), String> {
        let id = &instance.id;
        let states = self.contents.read(instance)?;
        if states != *planned {
            return Ok(());
        }
        let told_nobody = *then == Then::Nothing && !half;
        if told_nobody {
            self.contents.tell_nobody(id, &states);
        }
        self.contents.doubt(id, &states);
        self.contents.put(id, &states);
        let early = half && run_no.is_multiple_of(2);
        if early {
            return Ok(());
        }
        if matches!(then, Then::Signal { .. }) {
            if self.containers.get(id).is_none_or(|c| c.seen.run_no != run_no) {
                // There is another run to be told.
                return Ok(());
            }
            self.contents.tell(id);
        }
        let Then::Restart { .. } = then else {
            if !half {
                self.contents.note(id, states, None);
                let noted = self.contents.records.get_mut(id).unwrap();
                noted.hosts = model::links::lines(&instance.links);
            }
            return Ok(());
        };
        let run = self.containers.get(id).map_or(run_no, |c| c.seen.run_no);
        self.contents.note(id, states, Some(run));
        if !half {
            self.begin_anew(id, now);
        }
        Ok(())
    }
}

/// Whether what there is takes another container.
pub fn asks_for_another(real: &Real, host: &Host, ledger: &Ledger) -> bool {
    let Some(instance) = &real.instance else {
        return false;
    };
    let id = &real.seen.id;
    let differs = |of: &BTreeMap<ContainerId, Known>, key: &ContentKey| {
        let had = of.get(id).and_then(|known| known.get(key)).cloned();
        had.map(Look::Known) != Some(host.contents.source(key))
    };
    keys_of(&instance.spec).any(|key| match ledger.contents.get(&key) {
        None => differs(&host.contents.environment, &key),
        Some(entry) => {
            let noted = host.contents.records.get(id).and_then(|r| r.files.get(&key));
            let (kind, name) = key.table().unwrap();
            let file = Some(entry.spec.delivered(kind, name));
            let another = noted.is_none_or(|state| state.file != file);
            entry.spec.on_change == OnChange::Replace && (another || differs(&host.contents.files, &key))
        }
    })
}

/// Who runs has what there is, and knows it. What was refused once stays as it was.
pub fn has_everything(real: &Real, spec: &ContainerSpec, host: &Host, ledger: &Ledger) -> Result<(), String> {
    let (id, name) = (&real.seen.id, &real.seen.name);
    let entry = ledger.containers.get(name);
    let refused = entry.is_none_or(|e| e.rejected.is_some() || e.current.id != *id);
    if refused || !real.running() {
        return Ok(());
    }
    for key in keys_of(spec) {
        let Look::Known(now) = host.contents.source(&key) else {
            continue;
        };
        let has =
            |of: &BTreeMap<ContainerId, Known>| of.get(id).and_then(|known| known.get(&key)) == Some(&now);
        let Some(entry) = ledger.contents.get(&key) else {
            if !has(&host.contents.environment) {
                return Err(format!(
                    "container {name} runs in the environment of another {key}"
                ));
            }
            continue;
        };
        if !has(&host.contents.files) {
            return Err(format!("container {name} has another {key}"));
        }
        if entry.spec.on_change != OnChange::None && !has(&host.contents.told) {
            return Err(format!("container {name} does not know of its {key}"));
        }
    }
    Ok(())
}

/// A run is ended for a content only where one that asks for it changed since that run began, or where nobody is there
/// to be told.
pub fn ends_no_run_for_nothing(
    host: &Host,
    ledger: &Ledger,
    instance: &Instance,
    then: &Then,
) -> Result<(), String> {
    let Some(real) = host.containers.get(&instance.id).filter(|real| real.running()) else {
        return Ok(());
    };
    let Then::Restart { .. } = then else { return Ok(()) };
    let told = host.contents.told.get(&instance.id);
    let asks = keys_of(&instance.spec).any(|key| {
        let wants = ledger
            .contents
            .get(&key)
            .is_some_and(|e| e.spec.on_change == OnChange::Restart);
        let knows = told.and_then(|told| told.get(&key)).cloned().map(Look::Known);
        let states = host
            .contents
            .records
            .get(&instance.id)
            .and_then(|r| r.files.get(&key));
        let file = instance.contents.iter().find(|file| file.key() == key);
        let another_file = states.is_none_or(|state| state.file.as_ref() != file);
        wants && (another_file || knows != Some(host.contents.source(&key)))
    });
    let pending = host
        .contents
        .records
        .get(&instance.id)
        .is_some_and(|r| r.outdated_run == Some(real.seen.run_no));
    if asks || pending || matches!(real.seen.phase, Phase::Backoff { .. }) {
        Ok(())
    } else {
        Err(format!(
            "container {} is restarted though no content asks for it",
            instance.name
        ))
    }
}
