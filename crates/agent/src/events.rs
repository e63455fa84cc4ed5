//! Events: a bounded ring of what happened, and everybody who follows it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use jiff::Timestamp;
use model::event::Event;
use model::name::ContainerId;
use model::observed::{Look, ObservedContainer, Phase};
use tokio::sync::broadcast;

/// How many are kept.
const KEPT: usize = 1000;

/// The ring and its followers.
pub struct Events {
    ring: Mutex<VecDeque<Event>>,
    followers: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            ring: Mutex::new(VecDeque::new()),
            followers: broadcast::channel(KEPT).0,
        }
    }
}

impl Events {
    /// Records one event and tells the followers.
    pub fn emit(&self, kind: &str, name: &str, what: &str, reason: impl Into<String>) {
        self.record(Event {
            time: Timestamp::now(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            what: what.to_owned(),
            reason: reason.into(),
            attributes: BTreeMap::new(),
        });
    }

    /// Records an event that is complete.
    pub fn record(&self, event: Event) {
        tracing::info!(kind = %event.kind, name = %event.name, "{}: {}", event.what, event.reason);
        let mut ring = self
            .ring
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // Nobody following is the usual case and no error.
        drop(self.followers.send(event));
    }

    /// What is kept, oldest first, and what comes from now on, without a gap between the two.
    pub fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let ring = self
            .ring
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        (ring.iter().cloned().collect(), self.followers.subscribe())
    }
}

type Containers = BTreeMap<ContainerId, Look<ObservedContainer>>;

/// The events that two looks at the containers tell of: starts, ends, restarts.
pub fn transitions(before: &Containers, after: &Containers, now: Timestamp) -> Vec<Event> {
    let known = |map: &Containers, id: &ContainerId| map.get(id).and_then(Look::known).cloned();
    after
        .iter()
        .filter_map(|(id, look)| Some((known(before, id), look.known()?)))
        .flat_map(|(old, new)| of_one(old.as_ref(), new, now))
        .collect()
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
    let running = |c: &ObservedContainer| matches!(c.phase, Phase::Running { .. });
    if running(new) && old.is_some_and(|o| !running(o) || o.run_no != new.run_no) {
        tell("start", format!("run {}", new.run_no), BTreeMap::new());
    }
    if new.phase == Phase::Lost && old.is_some_and(|o| o.phase != Phase::Lost) {
        tell("lost", "its shim is gone".to_owned(), BTreeMap::new());
    }
    events
}
