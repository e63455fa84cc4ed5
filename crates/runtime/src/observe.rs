//! Looking at a container: a few small files and one question about a lock. Nothing is changed, nobody is asked.
//! [`crate::looks`] spares it for those of which nothing changed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use model::name::ContainerId;
use model::observed::{Look, ObservedContainer, Phase};
use model::paths::Roots;

use crate::damage::{ask_shim, has_shim, legible};
use crate::shim::files::{
    self, ContainerFile, ExitFile, Files, Process, RunRecord, ShimConfig, ShimState, Stage,
};

/// One container; none where nothing of it is there, or nothing but what a removal has yet to sweep up.
pub fn one(roots: &Roots, boot_id: &str, id: &ContainerId) -> Option<Look<ObservedContainer>> {
    one_with_shim(roots, boot_id, id).map(|(look, _)| look)
}

/// The same with the shim's process, where a live one says which it is.
pub(crate) fn one_with_shim(
    roots: &Roots,
    boot_id: &str,
    id: &ContainerId,
) -> Option<(Look<ObservedContainer>, Option<Process>)> {
    match look(&Files::new(roots, id), boot_id) {
        Ok(found) => found.map(|(seen, shim)| (Look::Known(seen), shim)),
        Err(e) => Some((Look::Unknown(format!("container {}: {e}", id.short())), None)),
    }
}

/// What the files of one container say.
#[derive(Debug)]
struct Found {
    locked: bool,
    state: Option<ShimState>,
    run: Began,
    exit: Option<ExitFile>,
}

/// What is known of the latest run's beginning.
#[derive(Debug)]
enum Began {
    Never,
    Known(RunRecord),
    /// There is a record, but a power cut left it unreadable.
    Torn,
}

fn look(files: &Files, boot_id: &str) -> io::Result<Option<(ObservedContainer, Option<Process>)>> {
    // Before all else: a shim that leaves writes its exit record first and lets go of the lock last.
    let locked = has_shim(files)?;
    let state: Option<ShimState> = legible(&files.shim_state())?;
    let mut state = state.filter(|state| state.boot_id == boot_id);
    if locked && state.is_none() {
        // On its way in or out it does not answer; otherwise somebody took its word away.
        state = ask_shim(files);
    }
    let Some(container) = identity(files, locked, state.as_ref())? else {
        return Ok(None);
    };
    let found = Found {
        locked,
        state,
        run: began(files)?,
        // One that cannot be understood is none: the run it was about counts as cut off.
        exit: legible(&files.exit())?,
    };
    let live = found.state.as_ref().filter(|_| locked);
    let shim = live.map(|state| state.shim);
    Ok(Some((found.describe(container), shim)))
}

/// Who it is. Where the state dir was deleted or scribbled over behind our back, the shim or the run dir may still know.
fn identity(files: &Files, locked: bool, state: Option<&ShimState>) -> io::Result<Option<ContainerFile>> {
    let path = files.container();
    match std::fs::metadata(&path) {
        // Made by a power cut: the container was being made, nothing of it ever ran.
        Ok(meta) if meta.len() == 0 && !locked => return Ok(None),
        Ok(_) => {
            if let Some(container) = legible(&path)? {
                return Ok(Some(container));
            }
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) if !locked => return Ok(None),
        Err(_) => {}
    }
    let config: Option<ShimConfig> = legible(&files.config())?;
    let of_shim = state.map(|state| (state.id.clone(), state.name.clone()));
    let known = of_shim.or_else(|| config.map(|config| (config.id, config.name)));
    Ok(known.map(|(id, name)| ContainerFile {
        id,
        name,
        created_at: Timestamp::UNIX_EPOCH,
    }))
}

fn began(files: &Files) -> io::Result<Began> {
    match files::read(&files.run_record()) {
        Ok(None) => Ok(Began::Never),
        Ok(Some(record)) => Ok(Began::Known(record)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(Began::Torn)
        }
        Err(e) => Err(e),
    }
}

impl Found {
    fn describe(self, container: ContainerFile) -> ObservedContainer {
        let live = self.state.as_ref().filter(|_| self.locked);
        let run = match &self.run {
            Began::Known(record) => Some(record),
            Began::Never | Began::Torn => None,
        };
        let record = self.exit.as_ref().map(|exit| &exit.record);
        let run_no = [run.map(|r| r.run_no), record.map(|r| r.run_no)]
            .into_iter()
            .flatten()
            .max();
        let counts = [
            run.map(|r| r.counts.restarts),
            self.exit.as_ref().map(|e| e.counts.restarts),
        ];
        let restarts = counts.into_iter().flatten().max();
        let started_at = run.map(|r| r.started_at).or(record.map(|r| r.started_at));
        ObservedContainer {
            id: container.id,
            name: container.name,
            created_at: container.created_at,
            phase: self.phase(),
            rev: live.map_or(0, |state| state.rev),
            run_no: live.map_or(run_no.unwrap_or(0), |state| state.run_no),
            restarts: live.map_or(restarts.unwrap_or(0), |state| state.counts.restarts),
            started_at: live.map_or(started_at, |state| state.started_at.or(started_at)),
            last_exit: self.exit.map(|exit| exit.record),
        }
    }

    fn phase(&self) -> Phase {
        match (self.locked, &self.state) {
            (true, Some(state)) => match (state.stage, state.payload) {
                (Stage::Running, Some(payload)) if state.paused => Phase::Paused { pid: payload.pid },
                (Stage::Running, Some(payload)) => Phase::Running { pid: payload.pid },
                (Stage::Backoff { until }, _) => Phase::Backoff { until },
                (Stage::Leaving, _) => Phase::Exited,
                (Stage::Created | Stage::Running, _) => Phase::Created,
            },
            // On its way in or out; which way, does not matter: it is started by asking again.
            (true, None) if self.ended() => Phase::Exited,
            (true, None) => Phase::Created,
            (false, _) if self.ended() => Phase::Exited,
            (false, state) => match (&self.run, &self.exit, state) {
                (Began::Never, None, None) => Phase::Prepared,
                _ => Phase::Lost,
            },
        }
    }

    /// The latest run has ended, and its shim said that none follows.
    fn ended(&self) -> bool {
        let Some(exit) = &self.exit else {
            return false;
        };
        let latest = match &self.run {
            Began::Known(run) => run.run_no <= exit.record.run_no,
            Began::Never => true,
            Began::Torn => false,
        };
        exit.last && latest
    }
}

/// The ids that have an entry in this directory. What has another name is no container.
pub(crate) fn ids(dir: &Path) -> io::Result<BTreeSet<ContainerId>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut ids = BTreeSet::new();
    for entry in entries {
        if let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            ids.insert(id);
        }
    }
    Ok(ids)
}
