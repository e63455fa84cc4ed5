//! What a network is made of in the database: two bridges with their ports, and how they are marked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::network::{Driver, HostNetwork, MacAddr};
use serde::{Deserialize, Serialize};

use super::row::{Bridge, Interface, Pairs, Port};
use crate::names::fnv1a;

/// Keys of `external_ids`.
const OWNER: &str = "wharf-owner";
const NETWORK: &str = "wharf-network";
const CONTAINER: &str = "wharf-container";
pub(super) const ROLE: &str = "wharf-role";
/// Of the network's bridge: a [`Made`].
const MADE: &str = "wharf-made";
/// Whose role it is to be a way to a peer.
pub(super) const TUNNEL: &str = "tunnel";

/// What a network was made with; its peers are its tunnels. It is kept with the bridge, so that a look can tell whether
/// all is as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub network: String,
    pub bridge: String,
    /// The bridge of the tunnels.
    pub tunnels: String,
    pub datapath: String,
    /// Of the gateway and of containers; 0 for none.
    pub vlan: u16,
    pub mtu: Option<u32>,
    pub gateway: Ipv4Addr,
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// `vxlan`, `gre`, `geneve`.
    pub kind: String,
    pub vni: u32,
    pub port: u16,
    pub local: IpAddr,
}

impl Made {
    /// With the peers; none where the network is not made of Open vSwitch. One without IPv4 is refused before.
    pub fn of(n: &HostNetwork) -> Option<(Self, &[IpAddr])> {
        let Driver::Ovs {
            tunnel,
            datapath,
            vlan,
        } = &n.driver
        else {
            return None;
        };
        let made = Self {
            network: n.name.to_string(),
            bridge: n.bridge.clone(),
            tunnels: tunnel.device.clone(),
            datapath: datapath.clone(),
            vlan: *vlan,
            mtu: n.mtu,
            gateway: n.v4()?.gateway,
            gateway6: n.v6().map(|v6| v6.gateway),
            kind: tunnel.kind.clone(),
            vni: tunnel.vni,
            port: tunnel.port,
            local: tunnel.local,
        };
        Some((made, &tunnel.peers))
    }

    /// As the bridge says.
    pub fn read(bridge: &Bridge) -> Option<Self> {
        serde_json::from_str(bridge.external_ids.get(MADE)?).ok()
    }

    /// The gateway's, the same on every host.
    pub fn mac(&self) -> MacAddr {
        MacAddr::of_lease(self.gateway)
    }

    fn ids(&self, owner: &str, role: &str) -> Pairs {
        let ids = [(OWNER, owner), (NETWORK, &self.network), (ROLE, role)];
        ids.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// The network's own bridge: the gateway's port, and the wire to the tunnels.
    pub fn inner(&self, owner: &str) -> WantedBridge {
        let mut external_ids = self.ids(owner, "network");
        let made = serde_json::to_string(self).expect("names, numbers and addresses are JSON");
        external_ids.insert(MADE.to_owned(), made);
        let gateway = WantedPort {
            kind: "internal".to_owned(),
            mtu: self.mtu,
            tag: self.vlan,
            ..WantedPort::new(self.bridge.clone(), self.ids(owner, "gateway"))
        };
        let wire = wire(self.wire("out"), self.wire("in"), self.ids(owner, "wire"));
        WantedBridge {
            name: self.bridge.clone(),
            datapath: self.datapath.clone(),
            mac: Some(self.mac().to_string()),
            ports: vec![gateway, wire],
            external_ids,
            all: true,
        }
    }

    /// The bridge of the tunnels.
    pub fn outer(&self, owner: &str, peers: &[IpAddr]) -> WantedBridge {
        let own = WantedPort {
            kind: "internal".to_owned(),
            ..WantedPort::new(self.tunnels.clone(), self.ids(owner, "own"))
        };
        let wire = wire(self.wire("in"), self.wire("out"), self.ids(owner, "wire"));
        let tunnels = peers.iter().map(|peer| self.tunnel(owner, *peer));
        WantedBridge {
            name: self.tunnels.clone(),
            datapath: self.datapath.clone(),
            mac: None,
            ports: [own, wire].into_iter().chain(tunnels).collect(),
            external_ids: self.ids(owner, "tunnels"),
            all: true,
        }
    }

    fn wire(&self, end: &str) -> String {
        let stem = self.tunnels.split('.').next().unwrap_or_default();
        format!("{stem}.{end}")
    }

    /// The device that keeps what comes to containers' host ends from the kernel.
    pub fn pen_name(&self) -> String {
        self.wire("off")
    }

    /// Where it needs one: the kernel's own datapath takes what comes to its ports.
    pub fn pen(&self) -> Option<String> {
        (self.datapath == "netdev").then(|| self.pen_name())
    }

    /// Takes what comes from the peer to this host's end, and nothing else.
    pub fn tunnel(&self, owner: &str, peer: IpAddr) -> WantedPort {
        let name = format!("wh-{:08x}.to", fnv1a(&format!("{} {peer}", self.network)));
        let mut options: Pairs = [
            ("remote_ip", peer.to_string()),
            ("local_ip", self.local.to_string()),
            ("key", self.vni.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        if self.kind != "gre" {
            options.insert("dst_port".to_owned(), self.port.to_string());
        }
        WantedPort {
            kind: self.kind.clone(),
            options,
            protected: true,
            ..WantedPort::new(name, self.ids(owner, TUNNEL))
        }
    }

    /// The host end of a container's interface.
    pub fn container(&self, owner: &str, device: &str, whose: &str) -> WantedPort {
        let mut external_ids = self.ids(owner, "container");
        external_ids.insert(CONTAINER.to_owned(), whose.to_owned());
        WantedPort {
            tag: self.vlan,
            ..WantedPort::new(device.to_owned(), external_ids)
        }
    }
}

fn wire(name: String, to: String, external_ids: Pairs) -> WantedPort {
    WantedPort {
        kind: "patch".to_owned(),
        options: [("peer".to_owned(), to)].into(),
        ..WantedPort::new(name, external_ids)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedBridge {
    pub name: String,
    pub datapath: String,
    pub mac: Option<String>,
    pub ports: Vec<WantedPort>,
    pub external_ids: Pairs,
    /// Tunnels of ours that are not among the ports go.
    pub all: bool,
}

impl WantedBridge {
    /// All but the ways to peers, which stay as they are.
    pub fn without_tunnels(&self) -> Self {
        let mut rest = self.clone();
        rest.ports.retain(|port| port.external_ids[ROLE] != TUNNEL);
        rest.all = false;
        rest
    }

    /// Names of its ports.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.ports.iter().map(|port| port.name.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedPort {
    pub name: String,
    pub kind: String,
    pub options: Pairs,
    pub mtu: Option<u32>,
    pub tag: u16,
    pub protected: bool,
    pub external_ids: Pairs,
}

impl WantedPort {
    fn new(name: String, external_ids: Pairs) -> Self {
        Self {
            name,
            kind: String::new(),
            options: Pairs::new(),
            mtu: None,
            tag: 0,
            protected: false,
            external_ids,
        }
    }

    pub fn tag(&self) -> Option<i64> {
        (self.tag != 0).then(|| self.tag.into())
    }

    pub fn is(&self, port: &Port, interface: &Interface) -> bool {
        self.has_port(port) && self.has_interface(interface)
    }

    pub fn has_port(&self, port: &Port) -> bool {
        let plain = port.vlan_mode.is_none() || port.vlan_mode.as_deref() == Some("access");
        (port.tag, port.protected, plain) == (self.tag(), self.protected, true)
            && has_all(&port.external_ids, &self.external_ids)
    }

    pub fn has_interface(&self, interface: &Interface) -> bool {
        interface.kind == self.kind
            && interface.options == self.options
            && self
                .mtu
                .is_none_or(|mtu| interface.mtu_request == Some(mtu.into()))
    }
}

/// It carries this agent's mark.
pub(super) fn is_ours(external_ids: &Pairs, owner: &str) -> bool {
    external_ids.get(OWNER).is_some_and(|whose| whose == owner)
}

/// The container port of ours, as somebody else sees it.
pub(super) fn is_container(external_ids: &Pairs) -> bool {
    external_ids.get(ROLE).is_some_and(|role| role == "container")
}

/// Whose port it is.
pub(super) fn container_of(external_ids: &Pairs) -> &str {
    external_ids.get(CONTAINER).map_or("", String::as_str)
}

/// For messages.
pub(super) fn whose(external_ids: &Pairs) -> String {
    match external_ids.get(OWNER) {
        Some(owner) => format!("another wharf agent ({owner})"),
        None => "somebody else".to_owned(),
    }
}

/// Whatever else there may be.
pub(super) fn has_all(there: &Pairs, wanted: &Pairs) -> bool {
    wanted.iter().all(|(key, value)| there.get(key) == Some(value))
}
