//! Health: what a verdict makes of a container, and what of it is remembered.

use std::collections::BTreeMap;

use model::action::{Action, Noun};
use model::health::{HealthState, Verdict};
use model::ledger::{Accepted, Hold, Ledger};
use model::name::{ContainerId, Name};
use model::observed::{Observed, ObservedContainer, Phase};
use model::plan::{Op, Reason, fingerprint};
use model::spec::{Healthcheck, OnFailure};

use super::presence::Wish;
use super::sight::Sight;
use super::{Mutation, Pass};

/// Characters of a probe's output that go into a sentence.
const SAID: usize = 200;

/// What the latest look says of a container whose health is asked and that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Health<'o> {
    pub(crate) verdict: Verdict,
    /// What the latest failed probe said.
    output: &'o str,
}

impl Health<'_> {
    /// `is unhealthy: connection refused`.
    pub(crate) fn sentence(self) -> String {
        let verdict = self.verdict.as_str();
        match first_line(self.output) {
            Some(line) if self.verdict == Verdict::Unhealthy => format!("is {verdict}: {line}"),
            _ => format!("is {verdict}"),
        }
    }
}

/// Health as of an observation; none where nothing is asked, or nothing runs.
pub(crate) fn health_of<'o>(observed: &'o Observed, accepted: &Accepted) -> Option<Health<'o>> {
    let Sight::Seen(seen) = Sight::of(observed, &accepted.id) else {
        return None;
    };
    if !matches!(seen.phase, Phase::Running { .. } | Phase::Paused { .. }) || check(accepted).is_none() {
        return None;
    }
    // What another run was found to be says nothing of this one.
    let state = state_of(observed, &accepted.id);
    Some(state.map_or(
        Health {
            verdict: Verdict::Starting,
            output: "",
        },
        |s| Health {
            verdict: s.verdict,
            output: &s.output,
        },
    ))
}

/// The check that applies to a container, as far as its image is known.
pub(super) fn check(accepted: &Accepted) -> Option<Healthcheck> {
    model::health::check(&accepted.spec.healthcheck, accepted.image.as_deref())
}

fn state_of<'o>(observed: &'o Observed, id: &ContainerId) -> Option<&'o HealthState> {
    let Sight::Seen(seen) = Sight::of(observed, id) else {
        return None;
    };
    observed.health.get(id).filter(|s| s.run_no == seen.run_no)
}

fn first_line(output: &str) -> Option<String> {
    let line = output.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(SAID).collect())
}

impl<'a> Pass<'a, '_> {
    pub(super) fn health(&self, accepted: &Accepted) -> Option<Health<'a>> {
        match self.look_at(accepted) {
            Sight::Seen(_) => health_of(self.input.observed, accepted),
            Sight::Absent | Sight::Unknown(_) => None,
        }
    }

    /// Puts a hold on what is to be stopped for failed health. One that is about to be replaced is left to that.
    pub(super) fn hold_unhealthy(&mut self) {
        let mut holds = Vec::new();
        for (name, entry) in &self.ledger.containers {
            let wanted = entry.next.is_none() && !matches!(self.wish(name), Wish::Gone);
            let current = &entry.current;
            if !wanted || self.ledger.holds.contains_key(name) || self.container_busy(name) {
                continue;
            }
            let stop = check(current).is_some_and(|c| c.on_failure == OnFailure::Stop);
            let health = self.health(current).filter(|h| h.verdict == Verdict::Unhealthy);
            if let Some(health) = health.filter(|_| stop && self.runs(current)) {
                let reason = format!(
                    "{}; stopped for that by on_failure = \"stop\": `wharf start {name}` runs it again",
                    health.sentence()
                );
                let fingerprint = fingerprint(&current.spec);
                let at = self.input.now;
                holds.push((
                    name.clone(),
                    Hold {
                        reason,
                        at,
                        fingerprint,
                    },
                ));
            }
        }
        self.ledger.holds.extend(holds);
    }

    fn runs(&self, accepted: &Accepted) -> bool {
        matches!(self.look_at(accepted), Sight::Seen(c) if matches!(c.phase, Phase::Running { .. }))
    }

    /// What the verdict on a running one asks for.
    pub(super) fn mend(
        &mut self,
        name: &Name,
        accepted: &Accepted,
        seen: &ObservedContainer,
        after: Vec<usize>,
    ) {
        if !matches!(seen.phase, Phase::Running { .. }) {
            return;
        }
        let noun = Noun::Container(name.clone());
        let (Some(health), Some(check)) = (self.health(accepted), check(accepted)) else {
            return;
        };
        match (health.verdict, check.on_failure) {
            (Verdict::Healthy, _) => {}
            (Verdict::Starting, _) => {
                self.wait(noun, "runs, and its health check has no verdict yet", None);
            }
            (Verdict::Unhealthy, OnFailure::Restart) => self.restart_unhealthy(name, accepted, health, after),
            (Verdict::Unhealthy, OnFailure::Stop | OnFailure::None) => {
                self.error(noun, health.sentence(), None);
            }
        }
    }

    fn restart_unhealthy(&mut self, name: &Name, accepted: &Accepted, health: Health<'_>, after: Vec<usize>) {
        let noun = Noun::Container(name.clone());
        if let Some(blocked) = self.resting_stop(&noun, accepted) {
            return self.hold_up(noun, blocked);
        }
        let Some(run_no) = state_of(self.input.observed, &accepted.id).map(|s| s.run_no) else {
            return;
        };
        let action = Action::RestartUnhealthy {
            id: accepted.id.clone(),
            name: name.clone(),
            run_no,
            signal: accepted.stop_signal(),
            grace: accepted.spec.stop_grace_period,
        };
        self.act(
            Op::Update,
            action,
            after,
            vec![Reason::because(health.sentence())],
        );
    }

    /// Remembers verdicts: when one changes, and not at each probe.
    pub(super) fn note_health(&mut self) {
        if self.broken(Mutation::HealthIsForgotten) {
            return self.ledger.health.clear();
        }
        let before = checks(self.input.ledger);
        let mut noted = BTreeMap::new();
        for (_, accepted) in self.ledger.accepted() {
            let id = &accepted.id;
            let Some(check) = check(accepted) else { continue };
            if before.get(id).is_some_and(|b| *b != check) {
                // What the check before found counts no more.
                continue;
            }
            let known = self.input.ledger.health.get(id);
            let state = match (known, state_of(self.input.observed, id)) {
                (Some(known), Some(seen)) if (known.run_no, known.verdict) == (seen.run_no, seen.verdict) => {
                    known
                }
                (_, Some(seen)) => seen,
                (Some(known), None) => known,
                (None, None) => continue,
            };
            noted.insert(id.clone(), state.clone());
        }
        self.ledger.health = noted;
    }
}

fn checks(ledger: &Ledger) -> BTreeMap<&ContainerId, Healthcheck> {
    let all = ledger.accepted();
    all.filter_map(|(_, a)| Some((&a.id, check(a)?))).collect()
}
