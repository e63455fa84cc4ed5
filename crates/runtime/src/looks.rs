//! What the last looks at containers showed, kept for as long as it can be told that nothing changed since.
//!
//! The small files of a container are replaced by renames, and what it stands on are entries of the same two directories:
//! as long as these two are as they were, so is everything that a look reads or looks for. That its shim holds the lock
//! needs no question while that very process lives. Only live containers are kept: the others change by what comes.
//!
//! Files that somebody writes to in place do not show so: word of that comes from inotify(7), and then a container is to
//! be forgotten here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use model::name::ContainerId;
use model::observed::{Look, ObservedContainer, Phase};
use model::paths::Roots;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stamp::Stamp;

use crate::cgroup::{CgroupSet, Hierarchies, Moves};
use crate::members;
use crate::observe;
use crate::shim::files::{self, Process};

type Containers = BTreeMap<ContainerId, Look<ObservedContainer>>;

/// Of one runtime, shared by all that look.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    kept: BTreeMap<ContainerId, Kept>,
    listed: Option<Listed>,
    /// None before the first question.
    moves: Option<Moves>,
    /// How often something may have been moved.
    moved: u64,
}

/// The entries of the two directories that containers have theirs in.
#[derive(Debug)]
struct Listed {
    stamps: [Stamp; 2],
    ids: BTreeSet<ContainerId>,
}

#[derive(Debug)]
struct Kept {
    stamps: [Stamp; 2],
    /// Readable once its shim has ended.
    shim: OwnedFd,
    seen: ObservedContainer,
    /// Since these stamps were taken, all that it stands on was found there.
    whole: bool,
    /// This process of it was found in its control group, and none was moved since.
    inside: Option<u32>,
}

impl Looks {
    /// Every container that has a directory of ours.
    pub fn all(&self, roots: &Roots, boot_id: &str) -> io::Result<Containers> {
        let places = [&roots.state, &roots.run].map(|root| root.join("containers"));
        let mut state = self.lock();
        let (ids, stamps_of_both) = state.ids(&places)?;
        state.forget_ended();
        let mut found = Vec::with_capacity(ids.len());
        let open = places.map(|dir| File::open(dir).ok());
        for id in &ids {
            let stamps = match &open {
                [Some(kept), Some(run)] => both([kept, run].map(|dir| Stamp::of_entry(dir, id.as_str()))),
                _ => None,
            };
            let look = state.look(roots, boot_id, id, stamps);
            found.extend(look.map(|look| (id.clone(), look)));
        }
        state.kept.retain(|id, _| ids.contains(id));
        state.listed = stamps_of_both.map(|stamps| Listed { stamps, ids });
        Ok(found.into_iter().collect())
    }

    /// Whether all that it stands on was found there, and is.
    pub fn is_whole(&self, id: &ContainerId) -> bool {
        self.lock().kept.get(id).is_some_and(|kept| kept.whole)
    }

    /// All that it stands on was just found there.
    pub fn note_whole(&self, id: &ContainerId) {
        if let Some(kept) = self.lock().kept.get_mut(id) {
            kept.whole = true;
        }
    }

    /// Whether its process is in its control group everywhere; none where it has ended. `group` makes the group's name.
    pub fn is_in(&self, id: &ContainerId, pid: u32, group: impl FnOnce() -> CgroupSet) -> Option<bool> {
        let asked = {
            let state = self.lock();
            if state.kept.get(id).is_some_and(|kept| kept.inside == Some(pid)) {
                return Some(true);
            }
            state.moved
        };
        let inside = members::is_in(pid, &group())?;
        let mut state = self.lock();
        let still = state.moved == asked;
        if let Some(kept) = state.kept.get_mut(id) {
            kept.inside = (inside && still).then_some(pid);
        }
        Some(inside)
    }

    /// Asks whether anything may have been moved between control groups since this was last asked; where that is so, or
    /// nobody can tell, each process is looked up again.
    pub fn mind_moves(&self, hierarchies: &Hierarchies) {
        let mut state = self.lock();
        let moves = state.moves.get_or_insert_with(|| Moves::watch(hierarchies));
        if moves.may_have_been() {
            state.moved += 1;
            state.kept.values_mut().for_each(|kept| kept.inside = None);
        }
    }

    /// Something of it was written to in place.
    pub fn forget(&self, id: &ContainerId) {
        self.lock().kept.remove(id);
    }

    /// Nobody can say what was written to.
    pub fn forget_all(&self) {
        let mut state = self.lock();
        state.kept.clear();
        state.listed = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn look(
        &mut self,
        roots: &Roots,
        boot_id: &str,
        id: &ContainerId,
        stamps: Option<[Stamp; 2]>,
    ) -> Option<Look<ObservedContainer>> {
        if let Some(kept) = self.kept.get(id)
            && stamps == Some(kept.stamps)
        {
            return Some(Look::Known(kept.seen.clone()));
        }
        self.kept.remove(id);
        let taken = SystemTime::now();
        let (look, shim) = observe::one_with_shim(roots, boot_id, id)?;
        let settled = stamps.filter(|stamps| stamps.iter().all(|stamp| stamp.is_settled(taken)));
        if let (Look::Known(seen), Some(stamps)) = (&look, settled)
            && is_live(&seen.phase)
            && let Some(shim) = shim.and_then(pidfd)
        {
            let kept = Kept {
                stamps,
                shim,
                seen: seen.clone(),
                whole: false,
                inside: None,
            };
            self.kept.insert(id.clone(), kept);
        }
        Some(look)
    }

    /// What is listed, and the stamps it can be kept by. Taken out of here for the time of a look.
    fn ids(&mut self, places: &[PathBuf; 2]) -> io::Result<(BTreeSet<ContainerId>, Option<[Stamp; 2]>)> {
        let taken = SystemTime::now();
        let stamps = both([Stamp::of(&places[0]), Stamp::of(&places[1])]);
        if let Some(listed) = self.listed.take().filter(|listed| stamps == Some(listed.stamps)) {
            return Ok((listed.ids, stamps));
        }
        let mut ids = observe::ids(&places[0])?;
        ids.append(&mut observe::ids(&places[1])?);
        let settled = stamps.filter(|stamps| stamps.iter().all(|stamp| stamp.is_settled(taken)));
        Ok((ids, settled))
    }

    /// One question for all of them.
    fn forget_ended(&mut self) {
        let mut fds: Vec<PollFd<'_>> = self
            .kept
            .values()
            .map(|kept| PollFd::new(&kept.shim, PollFlags::IN))
            .collect();
        let polled = poll(&mut fds, Some(&Timespec::default()));
        let ended: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        match polled {
            Ok(0) => {}
            Ok(_) => {
                let mut ended = ended.into_iter();
                self.kept.retain(|_, _| !ended.next().unwrap_or(true));
            }
            // Whoever cannot be asked is looked at.
            Err(_) => self.kept.clear(),
        }
    }
}

fn both(stamps: [Option<Stamp>; 2]) -> Option<[Stamp; 2]> {
    let [a, b] = stamps;
    Some([a?, b?])
}

fn is_live(phase: &Phase) -> bool {
    matches!(
        phase,
        Phase::Created | Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. }
    )
}

/// Opened first, compared then: the descriptor is of the process that has this start.
fn pidfd(process: Process) -> Option<OwnedFd> {
    let fd = pidfd_open(Pid::from_raw(process.pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    files::lives(process).then_some(fd)
}
