//! What somebody took from running containers, or scribbled over, behind our back; and putting it right.
//!
//! The ordinary look at containers ([`crate::observe`]) is cheap and made often. This one asks for what never changes by
//! itself: the directories a container stands on, its bundle, its socket, its place among the control groups. What is
//! inside of a container's file system or network is its own affair.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use model::action::Instance;
use model::damage::{Damage, Mend};
use model::name::ContainerId;
use model::observed::{Look, ObservedContainer, Phase};
use model::spec::LogDriver;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bundle::{CONFIG, EXTRA};
use crate::cgroup::{CgroupSet, PAYLOAD, SHIM, limits};
use crate::client::{Runtime, RuntimeError, bundle};
use crate::members;
use crate::shim::files::{self, ContainerFile, ExitFile, Files, RunRecord, ShimConfig, ShimState};
use crate::shim::protocol::{self, Command, Request};
use crate::shim::start::group_name;

type Result<T> = std::result::Result<T, RuntimeError>;
type Containers = BTreeMap<ContainerId, Look<ObservedContainer>>;

/// How long a shim whose own record is lost may take to say where it stands.
const PATIENCE: Duration = Duration::from_millis(500);

/// What of its directories is never deleted, nor written to in place, while a container runs.
const KEPT: &[&str] = &["container.json", "run.json", "exit.json", "upper", "work", "log"];
const OF_THIS_BOOT: &[&str] = &[CONFIG, EXTRA, "shim.json", "state.json", "shim.sock", "shim.lock"];

/// How closely is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether all is there: a few system calls.
    There,
    /// And whether every file can be read.
    Legible,
}

/// Whether a container has a shim: it holds the lock, or somebody deleted the lock's file and it lives all the same.
pub(crate) fn has_shim(files: &Files) -> io::Result<bool> {
    if detach::lock::is_held(&files.lock())? {
        return Ok(true);
    }
    if files.lock().exists() {
        return Ok(false);
    }
    let state: Option<ShimState> = legible(&files.shim_state())?;
    Ok(state.is_some_and(|state| files::lives(state.shim)))
}

/// One of the small files; none where there is none, or none that can be understood.
pub(crate) fn legible<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match files::read(path) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(None)
        }
        other => other,
    }
}

/// What a live shim says of itself where its record is lost; none where it does not answer.
pub(crate) fn ask_shim(files: &Files) -> Option<ShimState> {
    let socket = files.socket();
    if !socket.exists() {
        return None;
    }
    let reply = protocol::call(&socket, &Request::new(Command::Status), PATIENCE).ok()?;
    Some(reply.state)
}

impl Runtime {
    /// What is wrong with a live container; empty where all is well, or it does not run.
    pub fn damage_of(&self, seen: &ObservedContainer, depth: Depth) -> Vec<Damage> {
        self.looks().mind_moves(self.hierarchies());
        self.damage(seen, depth)
    }

    /// The same of all of these that can be seen.
    pub fn damages(&self, containers: &Containers, depth: Depth) -> BTreeMap<ContainerId, Vec<Damage>> {
        self.looks().mind_moves(self.hierarchies());
        let known = containers
            .iter()
            .filter_map(|(id, look)| Some((id, look.known()?)));
        let damaged = known.map(|(id, seen)| (id, self.damage(seen, depth)));
        damaged
            .filter(|(_, list)| !list.is_empty())
            .map(|(id, list)| (id.clone(), list))
            .collect()
    }

    fn damage(&self, seen: &ObservedContainer, depth: Depth) -> Vec<Damage> {
        if !matches!(
            seen.phase,
            Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. }
        ) {
            return Vec::new();
        }
        let mut found = Vec::new();
        if depth != Depth::There || !self.looks().is_whole(&seen.id) {
            let files = Files::new(self.roots(), &seen.id);
            found.extend(of_what_it_stands_on(&files));
            found.extend(of_files(&files, depth));
            if found.is_empty() {
                self.looks().note_whole(&seen.id);
            }
        }
        found.extend(self.of_group(seen));
        found
    }

    /// Where word of such damage comes from: directories (or a control file) with the names in them that matter.
    pub fn watched(&self, seen: &ObservedContainer) -> Vec<(PathBuf, &'static [&'static str])> {
        if !matches!(
            seen.phase,
            Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. }
        ) {
            return Vec::new();
        }
        let files = Files::new(self.roots(), &seen.id);
        let mut watched = vec![(files.state, KEPT), (files.run, OF_THIS_BOOT)];
        if let Some(dir) = self.group(seen).child(PAYLOAD).v2_dir() {
            watched.push((dir.join("cgroup.events"), &[]));
        }
        watched
    }

    /// Puts right in place what can be. Files that cannot be understood are set aside under another name.
    pub fn mend(&self, i: &Instance) -> Result<()> {
        let files = Files::new(self.roots(), &i.id);
        let _gate = self.gate(&i.id)?;
        let Some(state) = self.shim_state_asked(&i.id)? else {
            return Ok(());
        };
        mend_identity(&files, i)?;
        set_aside_illegible::<RunRecord>(&files.run_record())?;
        set_aside_illegible::<ExitFile>(&files.exit())?;
        set_aside_illegible::<ShimState>(&files.shim_state())?;
        if !bundle_is_legible(&files) {
            for path in bundle_files(&files) {
                set_aside_illegible::<Value>(&path)?;
            }
            bundle::write(self, i, &files)?;
        }
        self.mend_group(i, &state)?;
        self.mend_log(i, &files)?;
        // It writes down where it stands with every change of what it works by.
        self.update(&i.id, &i.shim_policy())
    }

    /// Without its directory a log goes nowhere: the shim opens it anew when it is told of one after none.
    fn mend_log(&self, i: &Instance, files: &Files) -> Result<()> {
        let dir = files.log();
        if dir.is_dir() {
            return Ok(());
        }
        std::fs::create_dir(&dir).map_err(RuntimeError::file("make", &dir))?;
        let mut policy = i.shim_policy();
        policy.logging.driver = LogDriver::None;
        self.update(&i.id, &policy)
    }

    fn group(&self, seen: &ObservedContainer) -> CgroupSet {
        self.group_of(&group_name(&seen.name, &seen.id))
    }

    fn of_group(&self, seen: &ObservedContainer) -> Option<Damage> {
        let (Phase::Running { pid } | Phase::Paused { pid }) = seen.phase else {
            return None;
        };
        let payload = || self.group(seen).child(PAYLOAD);
        if self.looks().is_in(&seen.id, pid, payload)? {
            return None;
        }
        let payload = payload();
        let what = match payload.dirs().iter().all(|dir| dir.is_dir()) {
            true => "its processes were moved out of their control group",
            false => "its control group is gone",
        };
        Some(in_place(what))
    }

    /// Made anew with its limits and device rules where it is gone; its processes, wherever they are, into it again.
    fn mend_group(&self, i: &Instance, state: &ShimState) -> Result<()> {
        let both = self.group_of(&group_name(&i.name, &i.id));
        let (shim, payload) = (both.child(SHIM), both.child(PAYLOAD));
        let failed = |source| RuntimeError::Cgroup {
            id: i.id.clone(),
            doing: "put right",
            source,
        };
        if !shim.dirs().iter().all(|dir| dir.is_dir()) {
            shim.create().map_err(failed)?;
        }
        if members::is_in(state.shim.pid, &shim) == Some(false) {
            shim.enter(state.shim.pid.cast_signed()).map_err(failed)?;
        }
        let Some(process) = state.payload.filter(|p| files::lives(*p)) else {
            return Ok(());
        };
        if !payload.dirs().iter().all(|dir| dir.is_dir()) {
            let refused = |why: String| RuntimeError::Refused {
                id: i.id.clone(),
                why,
            };
            crate::embedded::renew_cgroup(&Files::new(self.roots(), &i.id).run)
                .map_err(|e| refused(e.to_string()))?;
            limits::apply(&payload, &i.spec.limits).map_err(|e| refused(e.to_string()))?;
        }
        members::gather(process.pid, &payload).map_err(failed)
    }
}

fn in_place(what: impl Into<String>) -> Damage {
    Damage {
        what: what.into(),
        mend: Mend::InPlace,
    }
}

/// What nobody can be given back while its processes run.
fn of_what_it_stands_on(files: &Files) -> Vec<Damage> {
    let restart = |what: String| Damage {
        what,
        mend: Mend::Restart,
    };
    let mut found = Vec::new();
    for dir in ["upper", "work"].map(|name| files.state.join(name)) {
        if is_gone(&dir) {
            let what = format!("its writable layer's directory {} is gone", dir.display());
            found.push(restart(what));
        }
    }
    if is_gone(&files.socket()) {
        let what = format!("its shim cannot be reached, {} is gone", files.socket().display());
        found.push(restart(what));
    }
    found
}

fn of_files(files: &Files, depth: Depth) -> Vec<Damage> {
    let mut found = Vec::new();
    let mut tell = |path: &Path, word: &str| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        found.push(in_place(format!("its {name} {word}")));
    };
    let needed = [files.container(), files.shim_state(), files.log()];
    for path in needed.iter().chain(&bundle_files(files)) {
        if is_gone(path) {
            tell(path, "is gone");
        }
    }
    if depth == Depth::There {
        return found;
    }
    let mut tell = |path: PathBuf, bad: bool| {
        if bad {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            found.push(in_place(format!("its {name} cannot be understood")));
        }
    };
    tell(files.container(), illegible::<ContainerFile>(&files.container()));
    tell(files.shim_state(), illegible::<ShimState>(&files.shim_state()));
    tell(files.run_record(), illegible::<RunRecord>(&files.run_record()));
    tell(files.exit(), illegible::<ExitFile>(&files.exit()));
    tell(files.config(), illegible::<ShimConfig>(&files.config()));
    for path in [files.run.join(CONFIG), files.run.join(EXTRA)] {
        let bad = illegible::<Value>(&path);
        tell(path, bad);
    }
    found
}

/// Surely not there: what cannot be looked at may be.
fn is_gone(path: &Path) -> bool {
    matches!(std::fs::metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound)
}

/// There, readable, and not what it should be.
fn illegible<T: DeserializeOwned>(path: &Path) -> bool {
    matches!(
        files::read::<T>(path),
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
    )
}

fn bundle_files(files: &Files) -> [PathBuf; 3] {
    [files.config(), files.run.join(CONFIG), files.run.join(EXTRA)]
}

fn bundle_is_legible(files: &Files) -> bool {
    let config: Option<ShimConfig> = legible(&files.config()).unwrap_or(None);
    config.is_some()
        && bundle_files(files)
            .iter()
            .all(|path| matches!(legible::<Value>(path), Ok(Some(_))))
}

/// `container.json`, written anew where it is gone or cannot be understood.
pub(crate) fn mend_identity(files: &Files, i: &Instance) -> Result<()> {
    let path = files.container();
    set_aside_illegible::<ContainerFile>(&path)?;
    if path.exists() || !files.state.is_dir() {
        return Ok(());
    }
    let container = ContainerFile {
        id: i.id.clone(),
        name: i.name.clone(),
        created_at: Timestamp::now(),
    };
    files::write(&path, &container).map_err(RuntimeError::file("write", &path))
}

/// Renames a file that cannot be understood, so that it can be looked into, and is in nobody's way.
fn set_aside_illegible<T: DeserializeOwned>(path: &Path) -> Result<()> {
    if !illegible::<T>(path) {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{}", Timestamp::now().as_second()));
    let aside = path.with_file_name(name);
    tracing::warn!(path = %path.display(), aside = %aside.display(), "cannot be understood, and was set aside");
    std::fs::rename(path, &aside).map_err(RuntimeError::file("set aside", path))
}
