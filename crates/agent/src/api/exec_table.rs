//! The exec sessions this agent knows: those that were made, those that run, and for a while how others ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::name::ContainerId;
use runtime::exec::ExecHandle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::exec::Config;
use super::problem::Problem;
use crate::engine::fresh_id;

type Result<T> = std::result::Result<T, Problem>;

/// How long it is remembered how a session ended, and how long one that was made may wait for its start.
const REMEMBERED: Duration = Duration::from_secs(300);

/// How long a session that is being started is waited for by those who need it running; dockerd's.
const STARTING: Duration = Duration::from_secs(10);

/// Sessions known at a time; more are refused until some are forgotten.
const MOST: usize = 4096;

/// All sessions of this agent.
#[derive(Debug, Default)]
pub struct Execs {
    all: Mutex<BTreeMap<String, Exec>>,
    /// Told of every change of a phase.
    changed: watch::Sender<()>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Exec {
    pub container: ContainerId,
    pub config: Config,
    pub phase: Phase,
    /// When it came to this phase.
    since: Instant,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Made,
    Starting,
    /// Its pid on the host.
    Running(u32, Arc<ExecHandle>),
    /// Its exit code.
    Ended(i32),
}

impl Execs {
    pub(super) fn make(&self, container: ContainerId, config: Config) -> Result<String> {
        let mut all = self.lock();
        all.retain(|_, e| !e.is_forgotten());
        if all.len() >= MOST {
            return Err(Problem::conflict(format!(
                "{MOST} exec sessions are known; wait for some to end"
            )));
        }
        let id = fresh_id().to_string();
        let exec = Exec {
            container,
            config,
            phase: Phase::Made,
            since: Instant::now(),
        };
        all.insert(id.clone(), exec);
        Ok(id)
    }

    /// What is to be started; one is started once.
    pub(super) fn claim(&self, id: &str) -> Result<(ContainerId, Config)> {
        let mut all = self.lock();
        let exec = all.get_mut(id).ok_or_else(|| unknown(id))?;
        match exec.phase {
            Phase::Made => {}
            Phase::Starting | Phase::Running(..) => {
                return Err(Problem::conflict(format!("exec {id} is already running")));
            }
            Phase::Ended(_) => return Err(Problem::conflict(format!("exec {id} has already run"))),
        }
        exec.phase = Phase::Starting;
        Ok((exec.container.clone(), exec.config.clone()))
    }

    pub(super) fn set(&self, id: &str, phase: Phase) {
        if let Some(exec) = self.lock().get_mut(id) {
            exec.phase = phase;
            exec.since = Instant::now();
        }
        self.changed.send_replace(());
    }

    pub(super) fn get(&self, id: &str) -> Result<Exec> {
        self.lock().get(id).cloned().ok_or_else(|| unknown(id))
    }

    /// What a running session is resized and killed by. Clients ask while it is still being started.
    pub(super) async fn running(&self, id: &str) -> Result<Arc<ExecHandle>> {
        let mut changes = self.changed.subscribe();
        let wait = async {
            loop {
                match self.get(id)?.phase {
                    Phase::Running(_, session) => return Ok(session),
                    Phase::Ended(_) => return Err(Problem::conflict(format!("exec {id} is not running"))),
                    Phase::Made | Phase::Starting => {}
                }
                changes.changed().await.map_err(|_| Problem::leaving())?;
            }
        };
        let late = |_| Err(Problem::conflict(format!("exec {id} was not started yet")));
        timeout(STARTING, wait).await.unwrap_or_else(late)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Exec>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Exec {
    fn is_forgotten(&self) -> bool {
        let waits = matches!(self.phase, Phase::Made | Phase::Ended(_));
        waits && self.since.elapsed() >= REMEMBERED
    }
}

fn unknown(id: &str) -> Problem {
    Problem::not_found(format!("No such exec instance: {id}"))
}
