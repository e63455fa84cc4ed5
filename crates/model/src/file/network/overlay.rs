//! `[network.NAME.overlay]`, and what it asks of the rest of its network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::file::reader::{Item, Table};
use crate::spec::{NetworkDriver, NetworkSpec, OverlaySpec};
use crate::wireguard::PublicKey;

/// Its UDP port where none is written (RFC 8926).
const GENEVE: u16 = 6081;
/// WireGuard's, as its own tools have it in their examples.
const WIREGUARD: u16 = 51820;

/// Reads the table.
pub(super) fn read(table: &Table<'_>) -> OverlaySpec {
    let mut spec = OverlaySpec::default();
    let word = |item: &Item<'_>| item.word().map(|(word, _)| word.to_owned());
    let ip = |item: &Item<'_>| item.parsed::<IpAddr>("an IP address");
    table.set("tunnel", &mut spec.tunnel, word);
    table.fill("vni", &mut spec.vni, Item::integer);
    table.set("encryption", &mut spec.encryption, word);
    if spec.is_encrypted() {
        spec.port = WIREGUARD;
    } else if spec.tunnel == "geneve" {
        spec.port = GENEVE;
    }
    table.set("port", &mut spec.port, Item::integer);
    table.fill("local", &mut spec.local, host);
    table.set("peers", &mut spec.peers, |item| item.each(host));
    table.fill("peers_file", &mut spec.peers_file, Item::path);
    spec.by_cluster = !table.has("peers") && !table.has("peers_file");
    table.set("names", &mut spec.names, |item| {
        let read = |(name, _, item): (&str, _, Item<'_>)| Some((item.named(name)?, ip(&item)?));
        Some(item.entries()?.into_iter().filter_map(read).collect())
    });
    table.set("keys", &mut spec.keys, keys);
    table.set("datapath", &mut spec.datapath, word);
    table.set("vlan", &mut spec.vlan, Item::integer);
    spec
}

/// The hosts' public keys, by their addresses.
fn keys(item: &Item<'_>) -> Option<BTreeMap<IpAddr, PublicKey>> {
    let mut keys = BTreeMap::new();
    for (address, _, item) in item.entries()? {
        let Ok(address) = address.parse::<IpAddr>() else {
            item.fault("is not of an IP address: the keys are ADDRESS = \"KEY\"", "");
            continue;
        };
        if let Some(key) = item.parsed("a public key of WireGuard") {
            keys.insert(address, key);
        }
    }
    Some(keys)
}

/// An address that a host of the underlay can have.
pub(in crate::file) fn host(item: &Item<'_>) -> Option<IpAddr> {
    let ip: IpAddr = item.parsed("an IP address")?;
    let broadcast = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip == broadcast {
        item.fault(
            format!("has {ip}, which is no address that other hosts reach"),
            "",
        );
        return None;
    }
    Some(ip)
}

/// Driver and table belong together, and what all hosts have to agree on is written.
pub(super) fn check(table: &Table<'_>, inner: Option<&Table<'_>>, spec: &NetworkSpec) {
    let over_hosts = matches!(spec.driver, NetworkDriver::Overlay | NetworkDriver::Ovs);
    if over_hosts && !spec.icc {
        let message = "`icc = false` does not go with an overlay".to_owned();
        let hint = "its containers reach each other over several hosts, which is what it is for";
        table.fault(Some("icc"), message, hint);
    }
    let Some((inner, overlay)) = inner.zip(spec.overlay.as_ref()) else {
        if over_hosts && !table.has("overlay") {
            table.missing(
                "overlay",
                "add a table [network.NAME.overlay] with `vni` and `peers`",
            );
        }
        return;
    };
    if !over_hosts {
        let message = "`overlay` is for `driver = \"overlay\"` or \"ovs\"".to_owned();
        return table.fault(Some("overlay"), message, "write one of these");
    }
    if overlay.vni.is_none() && !inner.has("vni") {
        inner.missing(
            "vni",
            "a number from 1 to 16777215, the same on every host of this network",
        );
    }
    if spec.driver == NetworkDriver::Overlay {
        of_kernel(inner, overlay);
    }
    encryption(inner, spec, overlay);
    families(inner, overlay);
    agreed(table, spec, overlay);
    names(inner, spec, overlay);
}

/// What only Open vSwitch has.
fn of_kernel(inner: &Table<'_>, overlay: &OverlaySpec) {
    let only = |key: &str, what: String| {
        let message = format!("{what} is for `driver = \"ovs\"` only");
        inner.fault(Some(key), message, "an overlay of the kernel is VXLAN");
    };
    if overlay.tunnel != "vxlan" {
        only("tunnel", format!("`overlay.tunnel = {:?}`", overlay.tunnel));
    }
    for key in ["datapath", "vlan"].into_iter().filter(|key| inner.has(key)) {
        only(key, format!("`overlay.{key}`"));
    }
}

/// Who is to be spoken with has a key of its own.
fn encryption(inner: &Table<'_>, spec: &NetworkSpec, overlay: &OverlaySpec) {
    if !overlay.is_encrypted() {
        if inner.has("keys") {
            let message = "`overlay.keys` is for `encryption = \"wireguard\"`".to_owned();
            inner.fault(Some("keys"), message, "write that, or leave the keys out");
        }
        return;
    }
    if spec.driver == NetworkDriver::Ovs {
        let message = "`overlay.encryption = \"wireguard\"` does not go with `driver = \"ovs\"`".to_owned();
        inner.fault(
            Some("encryption"),
            message,
            "use `driver = \"overlay\"`, the kernel's VXLAN",
        );
    }
    let keyless = |peer: &&IpAddr| !overlay.keys.contains_key(*peer);
    if let Some(peer) = overlay.peers.iter().find(keyless) {
        let message = format!("`overlay.keys` lacks the public key of {peer}");
        let hint = "`wharf network inspect` on that host shows it, once it has the network: with `peers = []` to begin with";
        inner.fault(Some("peers"), message, hint);
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = overlay.keys.values().find(|key| !seen.insert(**key)) {
        let message = format!("`overlay.keys` has {twice} twice: each host has a key of its own");
        inner.fault(Some("keys"), message, "");
    }
}

/// The ends of a tunnel are of one family.
fn families(inner: &Table<'_>, overlay: &OverlaySpec) {
    let mut ends = overlay.local.iter().chain(&overlay.peers);
    let Some(first) = ends.next() else { return };
    if let Some(other) = ends.find(|end| end.is_ipv4() != first.is_ipv4()) {
        let key = if overlay.peers.contains(other) {
            "peers"
        } else {
            "local"
        };
        let message = format!("{other} and {first} are of different families: a tunnel is IPv4 or IPv6");
        inner.fault(
            Some(key),
            message,
            "name every host by addresses of the same family",
        );
    }
}

/// Hosts that pick subnets or addresses each for themselves would pick the same ones.
fn agreed(table: &Table<'_>, spec: &NetworkSpec, overlay: &OverlaySpec) {
    if overlay.peers.is_empty() && overlay.peers_file.is_none() {
        return;
    }
    // Beside IPv4, an address of IPv6 has the same number.
    let [subnet, range] = match spec.ipv4 {
        true => ["subnet", "range"],
        false => ["subnet6", "range6"],
    };
    // One that is written but wrong has its own error.
    if !table.has(subnet) {
        table.missing(
            subnet,
            "an overlay with peers has one subnet, the same on every host",
        );
    }
    if !table.has(range) {
        let hint =
            "a part of the subnet that is this host's alone, so that no two hosts give out the same address";
        table.missing(range, hint);
    }
}

fn names(inner: &Table<'_>, spec: &NetworkSpec, overlay: &OverlaySpec) {
    let of_four = spec.subnet.map(IpNet::V4).filter(|_| spec.ipv4);
    let of_six = spec.subnet6.map(IpNet::V6).filter(|_| !spec.ipv4);
    let Some(subnet) = of_four.or(of_six) else { return };
    // What is beside IPv4 may be picked by each host.
    let outside = |ip: &IpAddr| !subnet.contains(ip) && (ip.is_ipv4() || !spec.ipv4);
    if let Some((name, ip)) = overlay.names.iter().find(|(_, ip)| outside(ip)) {
        let message = format!("`overlay.names.{name}` {ip} is not inside of the subnet {subnet}");
        inner.fault(Some("names"), message, "");
    }
}
