//! What the agent's probes find on the simulated host, and jobs that end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::health::{HealthState, Verdict};
use model::ledger::Ledger;
use model::name::ContainerId;
use model::observed::Phase;
use model::spec::{Healthcheck, RestartPolicy};

use super::host::{Host, Real};
use super::rng::Rng;

impl Host {
    /// The agent's probes: what it goes on with after its death, and what it drops for another check.
    pub fn follow(&mut self, ledger: &Ledger) {
        let checks: BTreeMap<ContainerId, Healthcheck> = ledger
            .accepted()
            .filter_map(|(_, a)| {
                let check = model::health::check(&a.spec.healthcheck, a.image.as_deref())?;
                Some((a.id.clone(), check))
            })
            .collect();
        let (probed, containers) = (&self.probed, &self.containers);
        self.health.retain(|id, state| {
            let run = containers.get(id).filter(|c| c.live()).map(|c| c.seen.run_no);
            let same = probed.get(id).is_none_or(|before| checks.get(id) == Some(before));
            same && checks.contains_key(id) && run == Some(state.run_no)
        });
        for (id, real) in self.containers.iter().filter(|(_, c)| c.running()) {
            if checks.contains_key(id) && !self.health.contains_key(id) {
                let started = real.seen.started_at.unwrap_or(Timestamp::UNIX_EPOCH);
                let anew = probed
                    .get(id)
                    .is_some_and(|before| checks.get(id) != Some(before));
                let kept = ledger.health.get(id).filter(|_| !anew).cloned();
                let kept = kept.filter(|s| s.run_no == real.seen.run_no);
                let state = kept.unwrap_or_else(|| HealthState::new(real.seen.run_no, started));
                self.health.insert(id.clone(), state);
            }
        }
        self.probed = checks;
    }

    /// Memory is lost.
    pub fn forget(&mut self) {
        self.health.clear();
        self.probed.clear();
    }

    /// Time for a probe. Once all is calm, everything is found well.
    pub fn probe(&mut self, mut rng: Option<&mut Rng>, now: Timestamp) {
        for state in self.health.values_mut() {
            let verdict = match &mut rng {
                None => Verdict::Healthy,
                Some(rng) => match rng.below(12) {
                    0..=3 => Verdict::Healthy,
                    4 => Verdict::Unhealthy,
                    _ => continue,
                },
            };
            if state.verdict != verdict {
                state.since = now;
            }
            state.verdict = verdict;
            state.probed_at = Some(now);
            state.output = if verdict == Verdict::Unhealthy {
                format!("no answer at {now}")
            } else {
                String::new()
            };
        }
    }

    /// Once all is calm, jobs come to a good end.
    pub fn finish_jobs(&mut self, ledger: &Ledger, now: Timestamp) {
        let job = |c: &Real| {
            // One that is tried beside another one has a policy of its own.
            let accepted = ledger.accepted().find(|(_, a)| a.id == c.seen.id);
            let wanted = accepted.map(|(_, a)| a.spec.restart.policy);
            let policy = wanted.or_else(|| Some(c.instance.as_ref()?.spec.restart.policy));
            c.running() && policy == Some(RestartPolicy::No)
        };
        let done: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, c)| job(c))
            .map(|(id, _)| id.clone())
            .collect();
        for id in done {
            self.end(&id, now, 0, false, Phase::Exited);
        }
    }
}
