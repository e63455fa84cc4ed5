//! What is on the host and not ours, and the law that it stays as it is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::LazyLock;

use ipnet::Ipv4Net;
use model::action::Action;
use model::observed::ObservedLink;
use model::plan::Plan;

use super::host::Host;

/// Another engine's bridge, with a container of it, and the device that the host is on its LAN by.
pub fn links() -> BTreeMap<String, ObservedLink> {
    let bridge = ObservedLink {
        kind: "bridge".to_owned(),
        ours: false,
        up: true,
        index: 0,
        below: None,
        mtu: 1500,
        master: None,
        isolated: false,
        addresses: vec![Ipv4Net::new(Ipv4Addr::new(172, 17, 0, 1), 16).unwrap()],
        route_localnet: false,
        addresses6: Vec::new(),
        ipv6: model::observed::Ipv6State::Off,
        tunnel: None,
    };
    let veth = ObservedLink {
        kind: "veth".to_owned(),
        master: Some("docker0".to_owned()),
        addresses: Vec::new(),
        ..bridge.clone()
    };
    let eth0 = ObservedLink {
        kind: String::new(),
        index: 2,
        addresses: vec![Ipv4Net::new(Ipv4Addr::new(192, 0, 2, 1), 24).unwrap()],
        ..bridge.clone()
    };
    [("docker0", bridge), ("veth4711", veth), ("eth0", eth0)]
        .map(|(name, link)| (name.to_owned(), link))
        .into()
}

/// No plan changes or removes what does not carry our mark.
pub fn plan(plan: &Plan, host: &Host) -> Result<(), String> {
    for planned in &plan.actions {
        let devices = match &planned.action {
            Action::RemoveNetwork { bridge, .. } => std::slice::from_ref(bridge),
            Action::ApplyNetwork { network } => std::slice::from_ref(&network.bridge),
            Action::RemoveContainer { host_devices, .. } => host_devices,
            _ => continue,
        };
        let foreign = |device: &&String| host.links.get(*device).is_some_and(|link| !link.ours);
        if let Some(device) = devices.iter().find(foreign) {
            return Err(format!("{device}, which is not ours, is touched"));
        }
    }
    Ok(())
}

/// However things went, it is all as it was.
pub fn truth(host: &Host) -> Result<(), String> {
    static AS_IT_WAS: LazyLock<BTreeMap<String, ObservedLink>> = LazyLock::new(links);
    let foreign = host.links.iter().filter(|(_, link)| !link.ours);
    if foreign.eq(AS_IT_WAS.iter()) {
        Ok(())
    } else {
        Err("a device that is not ours is not as it was".to_owned())
    }
}
