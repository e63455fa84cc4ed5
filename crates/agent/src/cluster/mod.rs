//! Hosts of one network that find each other by etcd.
//!
//! A task of its own speaks with etcd ([`session`]): it keeps two leases alive, writes who and where this host is and what
//! its containers are called ([`records`]), and hears of the others. What it heard is on disk, is seen by each look at the
//! host as a plain value ([`model::cluster`]), and stays while etcd is away. What is decided is in pure functions
//! ([`decide`]).

mod decide;
mod etcd;
mod mirror;
mod ranges;
mod records;
mod session;
mod state;
mod tell;
mod wanted;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use model::cluster::ClusterState;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use session::Session;
use state::{State, StateFile};
pub use wanted::Wanted;

use crate::engine::Wake;
use crate::events::Events;

/// The rest of the agent's end of it.
pub struct Cluster {
    wanted: watch::Sender<Arc<Wanted>>,
    seen: Arc<Seen>,
    /// Until it is started.
    begins_with: Mutex<Option<(StateFile, State)>>,
}

/// What is seen now; none without etcd.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Option<ClusterState>>);

impl Seen {
    pub fn get(&self) -> Option<ClusterState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether that is something else than before.
    pub fn set(&self, state: Option<ClusterState>) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let differs = *seen != state;
        *seen = state;
        differs
    }
}

impl Cluster {
    /// With what the agent before knew. Nobody is asked yet.
    pub fn open(state_dir: &Path) -> Self {
        let file = StateFile::new(state_dir);
        let state = file.read();
        let known = (!state.networks.is_empty()).then(|| ClusterState {
            trouble: None,
            networks: state.networks.clone(),
        });
        let seen = Seen::default();
        seen.set(known);
        Self {
            wanted: watch::channel(Arc::default()).0,
            seen: Arc::new(seen),
            begins_with: Mutex::new(Some((file, state))),
        }
    }

    /// From now on etcd is spoken with, as soon as somebody wants that.
    pub fn start(&self, wakes: UnboundedSender<Wake>, events: Arc<Events>) {
        let begin = self
            .begins_with
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((file, state)) = begin {
            let session = Session::new(
                self.wanted.subscribe(),
                Arc::clone(&self.seen),
                (file, state),
                wakes,
                events,
            );
            tokio::spawn(session.run());
        }
    }

    /// What the others are to know from now on.
    pub fn set_wanted(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let differs = **before != wanted;
            if differs {
                *before = Arc::new(wanted);
            }
            differs
        });
    }

    /// What etcd said last.
    pub fn seen(&self) -> Option<ClusterState> {
        self.seen.get()
    }
}

/// The addresses that hosts are registered with, this one's among them.
pub fn ends(seen: Option<&ClusterState>) -> BTreeSet<IpAddr> {
    let networks = seen.into_iter().flat_map(|seen| seen.networks.values());
    let of = |network: &model::cluster::ClusterNetwork| {
        let others = network.hosts.values().map(|host| host.address);
        others.chain(network.address).collect::<Vec<_>>()
    };
    networks.flat_map(of).collect()
}
