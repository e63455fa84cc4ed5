//! Noticing at once that a shim is gone, or another process of ours: a wait on its pidfd each.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use model::name::ContainerId;
use model::observed::{Observed, Phase};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tracing::warn;

use super::{Wake, sys};
use crate::host::Host;

/// One wait for each live shim, one for the name server, and one for the relay.
pub struct ShimWatches {
    wakes: UnboundedSender<Wake>,
    tasks: BTreeMap<ContainerId, JoinHandle<()>>,
    /// One that is alive could not be waited for.
    has_gaps: bool,
    names: Option<JoinHandle<()>>,
    relay: Option<JoinHandle<()>>,
}

impl ShimWatches {
    /// None yet.
    pub fn new(wakes: UnboundedSender<Wake>) -> Self {
        Self {
            wakes,
            tasks: BTreeMap::new(),
            has_gaps: false,
            names: None,
            relay: None,
        }
    }

    /// Waits for the name server's end, where it runs by the latest look.
    pub fn follow_names(&mut self, host: &Host, observed: &Observed) {
        let runs = matches!(observed.dns.known(), Some(Some(_)));
        let waits = self.names.as_ref().is_some_and(|task| !task.is_finished());
        if waits || !runs {
            return;
        }
        match host.names.pidfd() {
            Ok(Some(pidfd)) => self.names = Some(self.wait(pidfd, "the name server", || Wake::Names)),
            Ok(None) => {}
            Err(e) => warn!("the name server cannot be watched, the full pass has to find its end: {e}"),
        }
    }

    /// Waits for the end of the relay for loopback addresses, where it runs by the latest look: it is looked at with the firewall.
    pub fn follow_relay(&mut self, host: &Host, observed: &Observed) {
        let firewall = observed.firewall.known().and_then(Option::as_ref);
        let runs =
            firewall.is_some_and(|state| state.ports.iter().any(|r| r.is_relayed() || r.at().is_ipv6()));
        let waits = self.relay.as_ref().is_some_and(|task| !task.is_finished());
        if waits || !runs {
            return;
        }
        match host.net.relay().map_or(Ok(None), |relay| relay.pidfd()) {
            Ok(Some(pidfd)) => {
                self.relay = Some(self.wait(pidfd, "the relay", || Wake::Firewall(None)));
            }
            Ok(None) => {}
            Err(e) => warn!("the relay cannot be watched, the full pass has to find its end: {e}"),
        }
    }

    /// Waits for exactly the shims that are alive by the latest look. `changed`: it showed something else than the one
    /// before.
    pub fn follow(&mut self, host: &Host, observed: &Observed, changed: bool) {
        let settled = !self.has_gaps && !self.tasks.values().any(JoinHandle::is_finished);
        if settled && !changed {
            return;
        }
        let Some(containers) = observed.containers.known() else {
            return;
        };
        let alive = |id: &ContainerId| {
            containers.get(id).and_then(|l| l.known()).is_some_and(|c| {
                matches!(
                    c.phase,
                    Phase::Created | Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. }
                )
            })
        };
        self.tasks.retain(|id, task| {
            let keep = alive(id) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        self.has_gaps = false;
        for id in containers.keys().filter(|id| alive(id)) {
            if !self.tasks.contains_key(id) {
                self.has_gaps |= !self.start(host, id);
            }
        }
    }

    /// False where it cannot be waited for, or not yet.
    fn start(&mut self, host: &Host, id: &ContainerId) -> bool {
        let pidfd = match host.runtime.shim_pidfd(id) {
            Ok(Some(fd)) => fd,
            Ok(None) => return false,
            Err(e) => {
                warn!(%id, "its shim cannot be watched, the full pass has to find its end: {e}");
                return false;
            }
        };
        let task = self.wait(pidfd, "a shim", || Wake::Shim);
        self.tasks.insert(id.clone(), task);
        true
    }

    fn wait(&self, pidfd: OwnedFd, what: &'static str, wake: fn() -> Wake) -> JoinHandle<()> {
        let wakes = self.wakes.clone();
        tokio::spawn(async move {
            match sys::readable(pidfd) {
                Ok(fd) => match fd.readable().await {
                    // The receiver only goes away with the process.
                    Ok(_) => drop(wakes.send(wake())),
                    Err(e) => warn!("{what} cannot be waited for: {e}"),
                },
                Err(e) => warn!("{what} cannot be waited for: {e}"),
            }
        })
    }
}

impl Drop for ShimWatches {
    fn drop(&mut self) {
        for task in self.tasks.values().chain(&self.names).chain(&self.relay) {
            task.abort();
        }
    }
}
