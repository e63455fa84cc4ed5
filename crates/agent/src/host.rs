//! The host crates of one agent, side by side.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use model::spec::FirewallChoice;
use net::dns::NameServer;
use net::relay::Relay;
use net::{FirewallOptions, Net};
use runtime::client::Runtime;
use storage::{Store, Volumes};

use crate::around::Around;
use crate::cluster::Cluster;
use crate::config_dir;
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
    pub cluster: Cluster,
    /// There when forwarding was off before us, of IPv4 and of IPv6; of this boot, as the settings are.
    guards: Mutex<[PathBuf; 2]>,
}

impl Host {
    /// Opens all three; the locks are held already.
    pub fn open(places: &Places) -> anyhow::Result<Arc<Self>> {
        let roots = places.roots();
        let exe = Path::new("/proc/self/exe");
        let options = FirewallOptions {
            choice: firewall_choice(places),
            note: Some(roots.run.join("iptables.json")),
            ..FirewallOptions::default()
        };
        let net = Net::with_firewall(&owner(places), options)
            .context("cannot speak with the kernel about networks")?;
        let net = net.with_relay(Relay::new(&roots.run, exe));
        let net = net.with_key_file(roots.state.join("wireguard.key"));
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
            cluster: Cluster::open(&roots.state),
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

/// What the settings say at the start. While they cannot be read it is what they said last.
fn firewall_choice(places: &Places) -> FirewallChoice {
    let file = places.roots().state.join("firewall.json");
    let last = || serde_json::from_slice(&std::fs::read(&file).ok()?).ok();
    let Ok(settings) = config_dir::read_settings(&places.settings) else {
        return last().unwrap_or(FirewallChoice::Auto);
    };
    let choice = settings.firewall;
    if last().unwrap_or(FirewallChoice::Auto) != choice {
        let text = serde_json::to_vec(&choice).expect("a word is plain data");
        if let Err(e) = std::fs::write(&file, text) {
            tracing::warn!("cannot note the firewall backend in {}: {e}", file.display());
        }
    }
    choice
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
