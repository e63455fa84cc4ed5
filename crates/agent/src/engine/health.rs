//! Probing: a task for each run whose health is asked. What comes of a probe is decided by [`model::health`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use model::health::{HealthState, ProbeResult, Verdict};
use model::ledger::{Accepted, Ledger};
use model::name::ContainerId;
use model::observed::{Observed, Phase};
use model::spec::Healthcheck;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Wake;
use crate::host::Host;

/// What the probes know, written by their tasks and read by the loop.
type States = Arc<Mutex<BTreeMap<ContainerId, HealthState>>>;

/// One task for each run that has a check.
pub struct Probers {
    wakes: UnboundedSender<Wake>,
    states: States,
    tasks: BTreeMap<ContainerId, Prober>,
    /// The revision of the ledger they follow.
    revision: u64,
}

struct Prober {
    run: Run,
    task: JoinHandle<()>,
}

/// What is probed: another run, or another check, is begun anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    run_no: u64,
    started_at: Timestamp,
    check: Healthcheck,
}

impl Probers {
    /// None yet.
    pub fn new(wakes: UnboundedSender<Wake>) -> Self {
        Self {
            wakes,
            states: States::default(),
            tasks: BTreeMap::new(),
            revision: 0,
        }
    }

    /// What is probed follows that revision of the ledger already, and goes on.
    pub fn are_settled(&self, revision: u64) -> bool {
        self.revision == revision && !self.tasks.values().any(|prober| prober.task.is_finished())
    }

    /// Probes exactly the runs that are there by the latest look, and gives what is known of them so far. The ledger comes
    /// with its revision.
    pub fn follow(
        &mut self,
        host: &Arc<Host>,
        (ledger, revision): (&Ledger, u64),
        observed: &Observed,
    ) -> BTreeMap<ContainerId, HealthState> {
        let Some(runs) = runs(ledger, observed) else {
            // What cannot be seen is as it was.
            return self.known();
        };
        self.revision = revision;
        // What another check found counts no more.
        let mut anew = BTreeSet::new();
        self.tasks.retain(|id, prober| {
            let run = runs.get(id);
            let keep = run == Some(&prober.run) && !prober.task.is_finished();
            if !keep {
                prober.task.abort();
            }
            if run.is_some_and(|run| run.check != prober.run.check) {
                anew.insert(id.clone());
            }
            keep
        });
        // One that is paused is as healthy as it was.
        lock(&self.states).retain(|id, state| {
            let run = runs.get(id).map(|run| run.run_no);
            run.map_or_else(|| is_paused(observed, id), |run_no| run_no == state.run_no)
        });
        for (id, run) in runs {
            if !self.tasks.contains_key(&id) {
                let remembered = if anew.contains(&id) {
                    None
                } else {
                    // A new agent goes on where the one before was.
                    let known = lock(&self.states).get(&id).cloned();
                    known.or_else(|| ledger.health.get(&id).cloned())
                };
                self.start(host, id, run, remembered);
            }
        }
        self.known()
    }

    /// What is known so far.
    pub fn known(&self) -> BTreeMap<ContainerId, HealthState> {
        lock(&self.states).clone()
    }

    fn start(&mut self, host: &Arc<Host>, id: ContainerId, run: Run, remembered: Option<HealthState>) {
        let state = remembered
            .filter(|state| state.run_no == run.run_no)
            .unwrap_or_else(|| HealthState::new(run.run_no, run.started_at));
        lock(&self.states).insert(id.clone(), state.clone());
        let prober = probe(
            Arc::clone(host),
            Arc::clone(&self.states),
            self.wakes.clone(),
            id.clone(),
            run.clone(),
            state,
        );
        let task = tokio::spawn(prober);
        self.tasks.insert(id, Prober { run, task });
    }
}

impl Drop for Probers {
    fn drop(&mut self) {
        for prober in self.tasks.values() {
            prober.task.abort();
        }
    }
}

/// Every run that is to be probed; none where the containers could not be seen.
fn runs(ledger: &Ledger, observed: &Observed) -> Option<BTreeMap<ContainerId, Run>> {
    let containers = observed.containers.known()?;
    let run = |a: &Accepted| {
        let check = model::health::check(&a.spec.healthcheck, a.image.as_deref())?;
        let seen = containers.get(&a.id)?.known()?;
        let run = Run {
            run_no: seen.run_no,
            started_at: seen.started_at?,
            check,
        };
        matches!(seen.phase, Phase::Running { .. }).then(|| (a.id.clone(), run))
    };
    Some(ledger.accepted().filter_map(|(_, a)| run(a)).collect())
}

fn is_paused(observed: &Observed, id: &ContainerId) -> bool {
    let seen = observed.containers.known().and_then(|all| all.get(id));
    seen.and_then(|look| look.known())
        .is_some_and(|c| matches!(c.phase, Phase::Paused { .. }))
}

/// Probes one run for as long as nobody aborts it.
async fn probe(
    host: Arc<Host>,
    states: States,
    wakes: UnboundedSender<Wake>,
    id: ContainerId,
    run: Run,
    mut state: HealthState,
) {
    // The shim may not know: it was started anew, or the agent before died between the verdict and the word.
    let mut told = None;
    loop {
        if told != Some(state.verdict) && state.verdict != Verdict::Starting {
            told = tell(&host, &id, &state).await.then_some(state.verdict);
        }
        tokio::time::sleep(until(state.next_probe(&run.check))).await;
        let Some(result) = ask(&host, &id, &run).await else {
            return;
        };
        let next = state.after_probe(&run.check, run.started_at, &result);
        lock(&states).insert(id.clone(), next.clone());
        let turned = next.verdict != state.verdict;
        state = next;
        if turned && wakes.send(Wake::Health).is_err() {
            return;
        }
    }
}

/// One probe; none where wharf itself broke off, which is said and ends the prober until the next pass.
async fn ask(host: &Arc<Host>, id: &ContainerId, run: &Run) -> Option<ProbeResult> {
    let (host, id, run) = (Arc::clone(host), id.clone(), run.clone());
    let asked = tokio::task::spawn_blocking(move || {
        host.runtime
            .probe(&id, run.run_no, &run.check.probe, run.check.timeout)
    });
    asked
        .await
        .inspect_err(|e| warn!("a probe broke off inside wharf: {e}"))
        .ok()
}

/// Tells the shim, which counts good runs by it.
async fn tell(host: &Arc<Host>, id: &ContainerId, state: &HealthState) -> bool {
    let (host, id) = (Arc::clone(host), id.clone());
    let (run_no, healthy) = (state.run_no, state.verdict == Verdict::Healthy);
    let told = tokio::task::spawn_blocking(move || host.runtime.tell_health(&id, run_no, healthy));
    match told.await {
        Ok(Ok(())) => true,
        Ok(Err(e)) => {
            warn!("a shim cannot be told of its container's health: {e}");
            false
        }
        Err(e) => {
            warn!("telling a shim of its container's health broke off: {e}");
            false
        }
    }
}

fn until(at: Option<Timestamp>) -> Duration {
    let wait = at.map(|at| at.duration_since(Timestamp::now()));
    wait.and_then(|wait| wait.try_into().ok())
        .unwrap_or(Duration::ZERO)
}

fn lock(states: &States) -> std::sync::MutexGuard<'_, BTreeMap<ContainerId, HealthState>> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}
