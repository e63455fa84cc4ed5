//! The host crates of one agent, side by side.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use net::Net;
use net::dns::NameServer;
use net::relay::Relay;
use runtime::client::Runtime;
use storage::{Store, Volumes};

use crate::around::Around;
use crate::contents::Contents;
use crate::places::Places;

/// What the agent acts through. Blocking: called from threads that may wait.
pub struct Host {
    pub net: Net,
    pub store: Store,
    pub runtime: Runtime,
    pub volumes: Volumes,
    pub names: NameServer,
    pub contents: Contents,
    pub around: Around,
    /// There when forwarding was off before us, of IPv4 and of IPv6; of this boot, as the settings are.
    guards: Mutex<[PathBuf; 2]>,
}

impl Host {
    /// Opens all three; the locks are held already.
    pub fn open(places: &Places) -> anyhow::Result<Arc<Self>> {
        let roots = places.roots();
        let exe = Path::new("/proc/self/exe");
        let net = Net::new(&owner(places)).context("cannot speak with the kernel about networks")?;
        let net = net.with_relay(Relay::new(&roots.run, exe));
        let guards = ["forward_guard", "forward_guard6"].map(|name| roots.run.join(name));
        if guards[0].exists() {
            net.keep_forward_guard();
        }
        if guards[1].exists() {
            net.keep_forward_guard6();
        }
        Ok(Arc::new(Self {
            net,
            guards: Mutex::new(guards),
            store: Store::open(&roots.store()).context("cannot open the image store")?,
            volumes: Volumes::open(&roots).context("cannot open the volumes")?,
            names: NameServer::new(&roots.run, exe),
            contents: Contents::open(&roots)?,
            around: Around::new(),
            runtime: Runtime::new(roots, places.cgroup_parent())
                .context("cannot set up the container runtime")?,
        }))
    }
}

impl Host {
    /// Remembers that forwarding is on for our bridges alone, for an agent that finds the table gone; or that it no
    /// longer is.
    pub fn remember_guard(&self) -> std::io::Result<()> {
        let guards = self.guards.lock().unwrap_or_else(PoisonError::into_inner);
        keep(&guards[0], self.net.forward_guard())?;
        keep(&guards[1], self.net.forward_guard6())
    }
}

/// Makes the file be there, or not.
fn keep(file: &Path, wanted: bool) -> std::io::Result<()> {
    match (wanted, file.exists()) {
        (true, false) => std::fs::write(file, ""),
        (false, true) => std::fs::remove_file(file),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_of_the_guard_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("forward_guard");
        for wanted in [false, true, true, false, false] {
            keep(&file, wanted).unwrap();
            assert_eq!(file.exists(), wanted);
        }
    }
}
