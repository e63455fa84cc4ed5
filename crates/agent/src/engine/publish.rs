//! What the rest of the world is told after a look and a pass: events, and one consistent picture.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::diagnostic::{Diagnostic, Location};
use model::health::{HealthState, Verdict};
use model::ledger::Ledger;
use model::name::ContainerId;
use model::status::Status;

use super::{Engine, Snapshot};
use crate::observe;
use crate::places::Places;

impl Engine {
    pub(super) fn publish(&mut self, mut status: Status) {
        self.passes += 1;
        fill_in(&mut status, &self.places);
        self.last_words.add(&mut status, &self.places.roots());
        status.errors.extend(self.settings_errors.iter().cloned());
        if let Some(error) = &self.ledger_error {
            status
                .errors
                .push(Diagnostic::new(Location::file("."), error.clone()));
        }
        status.converged &= status.errors.is_empty();
        let snapshot = Snapshot {
            status: Arc::new(status),
            ledger: Arc::clone(&self.ledger),
            observed: Arc::clone(&self.observed),
            busy: self.in_flight.clone(),
            passes: self.passes,
            search: self.desired.settings.search.clone(),
        };
        self.published.send_replace(Arc::new(snapshot));
    }

    /// One more pass was made, and all is as it was told.
    pub(super) fn publish_again(&mut self) {
        self.passes += 1;
        let before = Arc::clone(&self.published.borrow());
        let snapshot = Snapshot {
            passes: self.passes,
            ..Snapshot::clone(&before)
        };
        self.published.send_replace(Arc::new(snapshot));
    }

    /// An event for each verdict that turned, as Docker has them.
    pub(super) fn tell_of_health(&self, before: &BTreeMap<ContainerId, HealthState>) {
        for (id, state) in &self.observed.health {
            let was = before
                .get(id)
                .filter(|b| b.run_no == state.run_no)
                .map(|b| b.verdict);
            if state.verdict == Verdict::Starting || was == Some(state.verdict) {
                continue;
            }
            if let Some((name, _)) = self.ledger.accepted().find(|(_, a)| a.id == *id) {
                let verdict = state.verdict.as_str();
                let reason = match state.output.trim() {
                    "" => verdict.to_owned(),
                    output => format!("{verdict}: {output}"),
                };
                self.events
                    .emit("container", name.as_str(), "health_status", reason);
            }
        }
    }
}

/// What the pure part cannot know.
fn fill_in(status: &mut Status, places: &Places) {
    status.config_dir = places.config_dir.display().to_string();
    status.version = env!("CARGO_PKG_VERSION").to_owned();
}

/// What there is to be seen before the first pass.
pub(super) fn blank(places: &Places, ledger: &Ledger) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        status: Arc::new(empty_status(places)),
        ledger: Arc::new(ledger.clone()),
        observed: Arc::new(observe::blank()),
        busy: BTreeSet::new(),
        passes: 0,
        search: Vec::new(),
    })
}

/// Before the first pass.
fn empty_status(places: &Places) -> Status {
    let mut status = Status {
        generation: 0,
        converged: false,
        config_dir: String::new(),
        firewall: String::new(),
        firewall_note: None,
        version: String::new(),
        errors: Vec::new(),
        containers: Vec::new(),
        networks: Vec::new(),
        volumes: Vec::new(),
        images: Vec::new(),
    };
    fill_in(&mut status, places);
    status
}
