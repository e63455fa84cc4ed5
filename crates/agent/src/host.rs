//! The host crates of one agent, side by side.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use net::Net;
use runtime::client::Runtime;
use storage::Store;

use crate::places::Places;

/// What the agent acts through. Blocking: called from threads that may wait.
pub struct Host {
    pub net: Net,
    pub store: Store,
    pub runtime: Runtime,
    /// There when forwarding was off before us; of this boot, as the setting is.
    guard: PathBuf,
}

impl Host {
    /// Opens all three; the locks are held already.
    pub fn open(places: &Places) -> anyhow::Result<Arc<Self>> {
        let roots = places.roots();
        let net = Net::new(&owner(places)).context("cannot speak with the kernel about networks")?;
        let guard = roots.run.join("forward_guard");
        if guard.exists() {
            net.keep_forward_guard();
        }
        Ok(Arc::new(Self {
            net,
            guard,
            store: Store::open(&roots.store()).context("cannot open the image store")?,
            runtime: Runtime::new(roots, &places.cgroup_parent)
                .context("cannot set up the container runtime")?,
        }))
    }
}

impl Host {
    /// Remembers that forwarding is on for our bridges alone, for an agent that finds the table gone.
    pub fn remember_guard(&self) -> std::io::Result<()> {
        if self.net.forward_guard() && !self.guard.exists() {
            std::fs::write(&self.guard, "")?;
        }
        Ok(())
    }
}

/// Marks what belongs to this agent: short, and the same for the same state dir, whatever version wrote it.
fn owner(places: &Places) -> String {
    let dir = places
        .state_dir
        .canonicalize()
        .unwrap_or_else(|_| places.state_dir.clone());
    model::plan::fingerprint(&dir.display().to_string())[..8].to_owned()
}
