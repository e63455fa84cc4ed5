//! Two overlays of one host are told apart by port and VNI.

use std::collections::BTreeMap;

use model::spec::{NetworkDriver, NetworkSpec, Parsed};

use super::{Findings, Party, Tables};

/// Finds those that cannot be.
pub(super) fn check(tables: &Tables<'_>, found: &mut Findings) {
    let mut by_number: BTreeMap<(u16, u32), Vec<&Parsed<NetworkSpec>>> = BTreeMap::new();
    for network in tables.networks() {
        let overlay = network.spec.overlay.as_ref();
        let overlay = overlay.filter(|_| network.spec.driver == NetworkDriver::Overlay);
        if let Some((overlay, vni)) = overlay.and_then(|o| Some((o, o.vni?))) {
            by_number.entry((overlay.port, vni)).or_default().push(network);
        }
    }
    for ((port, vni), list) in by_number.into_iter().filter(|(_, list)| list.len() > 1) {
        let parties: Vec<Party<'_>> = list
            .iter()
            .map(|n| Party::of("network", n, "overlay.vni"))
            .collect();
        let names: Vec<&str> = list.iter().map(|n| n.name.as_str()).collect();
        let message = format!(
            "VNI {vni} at port {port} is of networks {}: what comes cannot be told apart",
            names.join(" and ")
        );
        found.contradiction(message, "give each of them another `vni`", &parties);
    }
}
