//! The look at what is only waited for: mount points, the way to the network, time zones; and at what overlays go by:
//! the files of their peers, and the ways to them.

mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::cluster::ClusterState;
use model::desired::Desired;
use model::ledger::Ledger;
use model::network::{Driver, HostNetwork};
use model::observed::Look;
use model::spec::{NetworkDriver, OverlaySpec};
use model::surroundings::{Surroundings, Way};
use net::Net;

use crate::cluster;

/// The agent's own mount namespace (proc(5)); poll(2) tells of its changes.
pub const MOUNTINFO: &str = "/proc/self/mountinfo";
/// Where the time zone database may be (tzfile(5)).
const ZONES: [&str; 2] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo"];
/// localtime(5).
const LOCALTIME: &str = "/etc/localtime";

/// What tables ask for: the rest is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    mounts: BTreeSet<PathBuf>,
    online: bool,
    /// A container has a schedule.
    clock: bool,
    zones: BTreeSet<String>,
    /// The ends of overlays, as tables name them.
    ends: BTreeSet<IpAddr>,
    peers_files: BTreeSet<PathBuf>,
    /// A network is made of Open vSwitch, or was.
    switch: bool,
    /// An overlay is encrypted, or was.
    encryption: bool,
}

impl Wanted {
    /// By the files as they are, and by what was accepted before.
    pub fn by(desired: &Desired, ledger: &Ledger) -> Self {
        let declared = desired.containers.values().map(|d| &d.spec);
        let accepted = ledger.accepted().map(|(_, a)| &a.spec);
        let mut wanted = Self::default();
        for spec in declared.chain(accepted) {
            wanted.mounts.extend(spec.requires_mounts.iter().cloned());
            wanted.online |= spec.after_network_online;
            wanted.clock |= spec.schedule.is_some();
            let zone = spec.schedule.as_ref().and_then(|s| s.zone_name());
            wanted.zones.extend(zone.map(str::to_owned));
        }
        for overlay in overlays(desired, ledger) {
            // The world, for one that names nobody.
            wanted.ends.insert(Ipv4Addr::UNSPECIFIED.into());
            wanted.ends.extend(overlay.peers.iter().chain(&overlay.local));
            wanted.peers_files.extend(overlay.peers_file.clone());
            wanted.encryption |= overlay.is_encrypted();
        }
        // Whether this host has them still.
        let accepted = ledger.networks.values().map(|entry| &entry.network);
        wanted
            .ends
            .extend(accepted.filter_map(|n| Some(n.driver.tunnel()?.local)));
        wanted.switch = uses_switch(desired, ledger);
        wanted
    }
}

/// Those of the files as they are, and those accepted before.
fn overlays<'a>(desired: &'a Desired, ledger: &'a Ledger) -> impl Iterator<Item = &'a OverlaySpec> {
    let declared = desired.networks.values().map(|d| &d.spec);
    let accepted = ledger.networks.values().map(|e| &e.spec);
    declared.chain(accepted).filter_map(|spec| spec.overlay.as_ref())
}

fn uses_switch(desired: &Desired, ledger: &Ledger) -> bool {
    let of_switch = |n: &HostNetwork| matches!(n.driver, Driver::Ovs { .. });
    let mut declared = desired.networks.values();
    let mut accepted = ledger.networks.values();
    declared.any(|d| d.spec.driver == NetworkDriver::Ovs)
        || accepted.any(|e| of_switch(&e.network) || e.replacing.as_ref().is_some_and(of_switch))
}

/// The files that overlays have their peers from.
pub fn peers_files(desired: &Desired, ledger: &Ledger) -> BTreeSet<PathBuf> {
    let files = overlays(desired, ledger).filter_map(|overlay| overlay.peers_file.clone());
    files.collect()
}

/// The eyes for it.
pub struct Around {
    wanted: Mutex<Wanted>,
    here_since: Timestamp,
}

impl Around {
    /// From now on somebody is here.
    pub fn new() -> Self {
        Self {
            wanted: Mutex::default(),
            here_since: Timestamp::now(),
        }
    }

    /// What the next look is for.
    pub fn set_wanted(&self, wanted: Wanted) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }

    /// Open vSwitch is to be looked at.
    pub fn wants_switch(&self) -> bool {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).switch
    }

    pub fn look(&self, net: &Net, cluster: Option<ClusterState>) -> Surroundings {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let zones = wanted.zones.into_iter();
        let peers = peers::look(&wanted.peers_files);
        let mut ends = wanted.ends;
        ends.extend(peers.values().filter_map(Look::known).flatten());
        ends.extend(cluster::ends(cluster.as_ref()));
        Surroundings {
            ways: ways(net, &ends),
            peers,
            cluster,
            switch: net.switch_trouble().map_or(Look::Known(()), Look::Unknown),
            wireguard: wanted.encryption.then(|| {
                let key = net.wireguard_key();
                key.map_or_else(|e| Look::Unknown(e.to_string()), Look::Known)
            }),
            mounts: mounts(&wanted.mounts),
            online: match wanted.online {
                true => net
                    .is_online()
                    .map_or_else(|e| Look::Unknown(e.to_string()), Look::Known),
                false => Look::Known(false),
            },
            zone: match wanted.clock {
                true => host_zone(),
                false => TimeZone::UTC,
            },
            zones: zones
                .filter_map(|name| Some((name.clone(), named(&name)?)))
                .collect(),
            here_since: self.here_since,
        }
    }
}

/// Where one cannot be found out, that is as if it were not there: nothing is taken away for it.
fn ways(net: &Net, ends: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, Way> {
    let one = |end: &IpAddr| match net.way_to(*end) {
        Ok(way) => Some((*end, way?)),
        Err(e) => {
            tracing::warn!("the way to {end} cannot be seen: {e}");
            None
        }
    };
    ends.iter().filter_map(one).collect()
}

/// Those of the paths that are mount points. By their names alone: a path on a server that does not answer is not
/// touched.
fn mounts(wanted: &BTreeSet<PathBuf>) -> Look<BTreeSet<PathBuf>> {
    if wanted.is_empty() {
        return Look::Known(BTreeSet::new());
    }
    match std::fs::read(MOUNTINFO) {
        Ok(text) => {
            let all = model::mounts::parse(&text).map(|mounted| mounted.point);
            Look::Known(all.filter(|path| wanted.contains(path)).collect())
        }
        Err(e) => Look::Unknown(format!("cannot read {MOUNTINFO}: {e}")),
    }
}

/// `TZ` as the agent was given it, else the host's; UTC where it says nothing that can be read.
fn host_zone() -> TimeZone {
    let of_env = std::env::var("TZ").ok().filter(|tz| !tz.is_empty());
    let zone = match of_env.as_deref().map(|tz| tz.trim_start_matches(':')) {
        Some(path) if path.starts_with('/') => read("local", Path::new(path)),
        Some(name) => named(name).or_else(|| TimeZone::posix(name).ok()),
        None => read("local", Path::new(LOCALTIME)),
    };
    zone.unwrap_or(TimeZone::UTC)
}

fn named(name: &str) -> Option<TimeZone> {
    let files = ZONES.iter().map(|dir| Path::new(dir).join(name));
    files.into_iter().find_map(|file| read(name, &file))
}

fn read(name: &str, file: &Path) -> Option<TimeZone> {
    TimeZone::tzif(name, &std::fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_looked_for() {
        let wanted = BTreeSet::from([PathBuf::from("/proc"), PathBuf::from("/proc/self")]);
        assert_eq!(
            mounts(&wanted),
            Look::Known(BTreeSet::from([PathBuf::from("/proc")]))
        );
    }

    #[test]
    fn a_zone_nobody_knows_is_none() {
        assert!(named("Europe/Atlantis").is_none());
    }
}
