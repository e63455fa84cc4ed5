//! Rows of those that run beside the active one during a start-first update.

use model::ledger::{Accepted, ContainerEntry};
use model::observed::{ObservedContainer, Phase};
use model::status::{ContainerStatus, State};

use super::{View, endpoints, pid};
use crate::plan::health_of;

impl View<'_> {
    /// The one on trial and the one that drains, where there are such, in the words of the active one's row.
    pub(super) fn beside(&self, entry: &ContainerEntry, active: &ContainerStatus) -> Vec<ContainerStatus> {
        let trial = entry.next.iter().filter(|n| n.phase.is_beside());
        let trial = trial.map(|n| self.other(&n.accepted, active, "trial"));
        let draining = entry.draining.iter();
        let draining = draining.map(|d| self.other(&d.accepted, active, "draining"));
        trial.chain(draining).collect()
    }

    fn other(&self, accepted: &Accepted, active: &ContainerStatus, role: &str) -> ContainerStatus {
        let seen = self.seen(accepted);
        let health = health_of(self.input.observed, accepted);
        ContainerStatus {
            role: role.to_owned(),
            id: Some(accepted.id.to_string()),
            state: state(seen, role),
            health: health.map_or("none", |h| h.verdict.as_str()).to_owned(),
            pid: seen.and_then(pid),
            restarts: seen.map_or(0, |c| c.restarts),
            image: accepted.spec.image.key(),
            image_id: accepted.image_id.map(|d| d.to_string()),
            image_digest: accepted.image_digest.map(|d| d.to_string()),
            created_at: seen.map(|c| c.created_at),
            started_at: seen.and_then(|c| c.started_at),
            finished_at: None,
            exit_code: None,
            signal: None,
            oom_killed: false,
            hold: None,
            rolled_back: None,
            networks: endpoints(accepted),
            // Nothing is led to it.
            ports: Vec::new(),
            error: None,
            ..active.clone()
        }
    }
}

fn state(seen: Option<&ObservedContainer>, role: &str) -> State {
    match seen.map(|c| &c.phase) {
        Some(Phase::Running { .. }) => State::Running,
        Some(Phase::Paused { .. }) => State::Paused,
        Some(Phase::Backoff { .. }) => State::Backoff,
        _ if role == "trial" => State::Creating,
        _ => State::Removing,
    }
}
