//! A host on a network over several hosts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::network::Tunnel;
use model::spec::*;
use model::surroundings::Way;

use super::{Lab, name, spec};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The network: 10.81.0.0/16, VNI 4200, and what else is said of it.
pub fn overlay(overlay: OverlaySpec) -> NetworkSpec {
    NetworkSpec {
        driver: NetworkDriver::Overlay,
        subnet: Some("10.81.0.0/16".parse().unwrap()),
        overlay: Some(OverlaySpec {
            vni: Some(4200),
            ..overlay
        }),
        ..NetworkSpec::default()
    }
}

/// `web` on `mesh`, which is that network, on a host that is 192.0.2.1 and has a way to two others.
pub fn on_mesh(mesh: NetworkSpec) -> Lab {
    let mut web = spec();
    web.networks = vec![NetworkUse::new(name("mesh"))];
    let mut lab = Lab::new(&[("web", web)]);
    lab.networks.insert(name("mesh"), mesh);
    let from = Way::From {
        source: ip("192.0.2.1"),
        mtu: 1500,
    };
    lab.host.around.ways = BTreeMap::from([
        (ip("0.0.0.0"), from),
        (ip("192.0.2.1"), Way::Own),
        (ip("192.0.2.2"), from),
        (ip("192.0.2.3"), from),
    ]);
    lab
}

/// Of `mesh`.
pub fn tunnel(lab: &Lab) -> &Tunnel {
    let driver = &lab.ledger.networks["mesh"].network.driver;
    driver.tunnel().unwrap_or_else(|| panic!("{driver:?}"))
}
