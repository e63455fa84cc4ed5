//! Events: a bounded ring of what happened, kept over restarts, and everybody who follows it.

mod kept;
pub mod turns;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use model::event::Event;
use model::name::ContainerId;
use model::observed::{Look, ObservedContainer, Phase};
use tokio::sync::broadcast;

use kept::Kept;

use crate::journal::Journal;

/// How many are kept.
const KEPT: usize = 4096;
/// How far a follower may be behind.
const BEHIND: usize = 1024;

/// The ring and its followers.
pub struct Events {
    ring: Mutex<Ring>,
    followers: broadcast::Sender<Event>,
    journal: Option<Journal>,
}

struct Ring {
    events: VecDeque<Event>,
    kept: Kept,
}

impl Events {
    /// With what earlier agents recorded in this file.
    pub fn open(path: &Path) -> Self {
        let (kept, events) = Kept::open(path, KEPT);
        Self {
            ring: Mutex::new(Ring { events, kept }),
            followers: broadcast::channel(BEHIND).0,
            journal: Journal::connect(),
        }
    }

    /// Records one event and tells the followers.
    pub fn emit(&self, kind: &str, name: &str, what: &str, reason: impl Into<String>) {
        self.emit_with(kind, name, what, reason, []);
    }

    /// The same with attributes.
    pub fn emit_with<const N: usize>(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        reason: impl Into<String>,
        attributes: [(&str, String); N],
    ) {
        self.record(Event {
            time: Timestamp::now(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            what: what.to_owned(),
            reason: reason.into(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v)).into(),
        });
    }

    /// Records an event that is complete.
    pub fn record(&self, event: Event) {
        if !self.journal.as_ref().is_some_and(|journal| journal.send(&event)) {
            tracing::info!(kind = %event.kind, name = %event.name, "{}: {}", event.what, event.reason);
        }
        let mut ring = self.lock();
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.kept.append(&event);
        ring.events.push_back(event.clone());
        // Nobody following is the usual case and no error.
        drop(self.followers.send(event));
    }

    /// What is kept, oldest first, and what comes from now on, without a gap between the two.
    pub fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let ring = self.lock();
        (ring.events.iter().cloned().collect(), self.followers.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Containers = BTreeMap<ContainerId, Look<ObservedContainer>>;

/// The events that two looks at the containers tell of: starts, ends, restarts.
pub fn transitions(before: &Containers, after: &Containers, now: Timestamp) -> Vec<Event> {
    let known = |map: &Containers, id: &ContainerId| map.get(id).and_then(Look::known).cloned();
    after
        .iter()
        .filter_map(|(id, look)| Some((before.get(id), known(before, id), look.known()?)))
        .flat_map(|(seen, old, new)| match (seen, old) {
            // Made and begun between two looks.
            (None, _) => of_one(Some(&unborn(new)), new, now),
            (Some(_), old) => of_one(old.as_ref(), new, now),
        })
        .collect()
}

/// What a container was before anything of it was.
fn unborn(of: &ObservedContainer) -> ObservedContainer {
    ObservedContainer {
        phase: Phase::Prepared,
        run_no: 0,
        restarts: 0,
        started_at: None,
        last_exit: None,
        ..of.clone()
    }
}

fn of_one(old: Option<&ObservedContainer>, new: &ObservedContainer, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    let mut tell = |what: &str, reason: String, attributes: BTreeMap<String, String>| {
        let name = new.name.to_string();
        events.push(Event {
            time: now,
            kind: "container".into(),
            name,
            what: what.into(),
            reason,
            attributes,
        });
    };
    let ended = new
        .last_exit
        .as_ref()
        .filter(|e| old.and_then(|o| o.last_exit.as_ref()) != Some(*e));
    if let (Some(exit), Some(_)) = (ended, old) {
        let reason = match (&exit.error, exit.signal) {
            (Some(error), _) => error.clone(),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => format!("exited with {}", exit.code),
        };
        let attributes = [("exitCode".to_owned(), exit.code.to_string())];
        tell("die", reason, BTreeMap::from(attributes));
    }
    let out_of_memory = ended.is_some_and(|e| e.oom_killed);
    if out_of_memory && old.is_some() {
        tell(
            "oom",
            "the kernel killed a process of it for memory".to_owned(),
            BTreeMap::new(),
        );
    }
    let runs = |c: &ObservedContainer| matches!(c.phase, Phase::Running { .. } | Phase::Paused { .. });
    let paused = |c: &ObservedContainer| matches!(c.phase, Phase::Paused { .. });
    if runs(new) && old.is_some_and(|o| !runs(o) || o.run_no != new.run_no) {
        let ended = new.last_exit.as_ref();
        let again = ended.is_some_and(|exit| exit.run_no + 1 == new.run_no && !exit.requested);
        let why = if again { ", restarted by its policy" } else { "" };
        tell("start", format!("run {}{why}", new.run_no), BTreeMap::new());
    }
    if let Some(old) = old.filter(|o| o.run_no == new.run_no && runs(o) && runs(new)) {
        match (paused(old), paused(new)) {
            (false, true) => tell(
                "pause",
                "its processes are kept from running".to_owned(),
                BTreeMap::new(),
            ),
            (true, false) => tell("unpause", "its processes go on".to_owned(), BTreeMap::new()),
            _ => {}
        }
    }
    if new.phase == Phase::Lost && old.is_some_and(|o| o.phase != Phase::Lost) {
        tell("lost", "its shim is gone".to_owned(), BTreeMap::new());
    }
    events
}
