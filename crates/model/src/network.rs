//! Networks and a container's place in them, resolved to addresses and device names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::families::Families;
use crate::firewall::TunnelRule;
use crate::name::Name;
use crate::wireguard::WireGuard;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// The text is not `02:00:00:00:00:01`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address: it looks like 02:42:ac:11:00:02")]
pub struct MacError(String);

impl MacAddr {
    /// The locally administered unicast address that belongs to a lease: of IPv4 `02:57` and the address (as Docker did),
    /// of IPv6 `02:66` and its last four bytes, differently for each of the prefixes before those.
    pub fn of_lease(ip: impl Into<IpAddr>) -> Self {
        let (of, [a, b, c, d]) = match ip.into() {
            IpAddr::V4(ip) => (0x57, ip.octets()),
            IpAddr::V6(ip) => (0x66, folded(ip)),
        };
        Self([0x02, of, a, b, c, d])
    }
}

/// Another one for each address of a prefix of 96 bits, as far as four bytes go; the prefix counts by its FNV-1a hash.
fn folded(ip: Ipv6Addr) -> [u8; 4] {
    let [prefix @ .., a, b, c, d] = ip.octets();
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = prefix.iter().fold(0x811c_9dc5, step);
    (hash ^ u32::from_be_bytes([a, b, c, d])).to_be_bytes()
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            Err(bad())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// A network with everything decided: what `net` makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNetwork {
    pub name: Name,
    /// The device that the host has in it: a bridge, or what gives the host access to a macvlan. At most 15 characters
    /// (`wh-…` unless the user named it).
    pub bridge: String,
    /// What it has of each family.
    #[serde(flatten)]
    pub ip: Families<Subnet4, Subnet6>,
    pub mtu: Option<u32>,
    pub internal: bool,
    /// Containers do not reach each other but over links (`icc = false`).
    #[serde(default)]
    pub isolated: bool,
    #[serde(default)]
    pub driver: Driver,
}

impl HostNetwork {
    /// Its IPv4, where it has some.
    pub fn v4(&self) -> Option<&Subnet4> {
        self.ip.v4()
    }

    /// Its IPv6, where it has some.
    pub fn v6(&self) -> Option<&Subnet6> {
        self.ip.v6()
    }

    /// Its subnets, IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.ip.each(|v4| IpNet::V4(v4.subnet), |v6| IpNet::V6(v6.subnet))
    }

    /// Of the family of this address.
    pub fn has_family_of(&self, ip: IpAddr) -> bool {
        self.subnets().any(|net| net.addr().is_ipv4() == ip.is_ipv4())
    }

    /// That of its bridge, which keeps it when ports come and go; on every host of an overlay the same.
    pub fn mac(&self) -> MacAddr {
        let gateway = self.ip.first(|v4| IpAddr::V4(v4.gateway), |v6| v6.gateway.into());
        MacAddr::of_lease(gateway)
    }
}

/// A network's IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet4 {
    pub subnet: Ipv4Net,
    /// The bridge's own address; of a network that was there before ([`HostNetwork::is_lan`]), its router's.
    pub gateway: Ipv4Addr,
    /// The part of the subnet leases are taken from; the subnet when none.
    pub range: Option<Ipv4Net>,
    /// Packets of the subnet that leave by another device get the host's address.
    pub masquerade: bool,
}

/// A network's IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet6 {
    pub subnet: Ipv6Net,
    /// The host's address in it, or that of the LAN's router.
    pub gateway: Ipv6Addr,
    /// The part of the subnet leases are taken from; the subnet when none.
    pub range: Option<Ipv6Net>,
    /// Packets of the subnet that leave by another device get the host's address (NAT66).
    pub masquerade: bool,
}

/// What a network is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Driver {
    /// A bridge. `adopt`: one that exists already is joined, and stays when the network goes.
    Bridge {
        #[serde(default)]
        adopt: bool,
    },
    /// Interfaces below a device of the host, with MAC addresses of their own.
    Macvlan(Below),
    /// Interfaces below a device of the host that share its MAC address.
    Ipvlan(Below),
    /// A bridge with a VXLAN device of the kernel as a port.
    Overlay(Tunnel),
    /// A bridge of Open vSwitch with a tunnel to each peer.
    Ovs {
        tunnel: Tunnel,
        datapath: String,
        vlan: u16,
    },
}

/// What interfaces hang below.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    pub parent: Parent,
    /// The host has an interface there as well, by which it reaches those of containers.
    pub host_access: bool,
}

/// A device of the host with interfaces below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub name: String,
    /// Its number when it was last seen (`ip link`); 0: never. A device that is made anew has another one, and what was
    /// below the one before went with that.
    #[serde(default)]
    pub index: u32,
}

impl Driver {
    /// What its interfaces are below, where they are.
    pub fn below(&self) -> Option<&Below> {
        match self {
            Self::Macvlan(below) | Self::Ipvlan(below) => Some(below),
            Self::Bridge { .. } | Self::Overlay(_) | Self::Ovs { .. } => None,
        }
    }

    /// What leads to the other hosts, where something does.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match self {
            Self::Overlay(tunnel) | Self::Ovs { tunnel, .. } => Some(tunnel),
            Self::Bridge { .. } | Self::Macvlan(_) | Self::Ipvlan(_) => None,
        }
    }

    /// As tables have it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Bridge { .. } => "bridge",
            Self::Macvlan { .. } => "macvlan",
            Self::Ipvlan { .. } => "ipvlan",
            Self::Overlay(_) => "overlay",
            Self::Ovs { .. } => "ovs",
        }
    }
}

impl Default for Driver {
    fn default() -> Self {
        Self::Bridge { adopt: false }
    }
}

/// The way to the other hosts of an overlay, with everything decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// `vxlan`, `gre`, `geneve`. In the ledger it stands beside the kind of driver.
    #[serde(rename = "tunnel")]
    pub kind: String,
    /// The kernel's tunnel device, a port of the network's bridge; of Open vSwitch, the bridge that the tunnels are ports of.
    #[serde(default)]
    pub device: String,
    pub vni: u32,
    pub port: u16,
    /// This host's end.
    pub local: IpAddr,
    /// The other hosts, sorted, without this one.
    pub peers: Vec<IpAddr>,
    /// None: it is not encrypted.
    #[serde(default)]
    pub wireguard: Option<WireGuard>,
}

impl HostNetwork {
    /// It was there before: router, and who else is on it, are not ours. The host forwards nothing to or from it, and the
    /// firewall knows nothing of it.
    pub fn is_lan(&self) -> bool {
        self.driver.below().is_some() || self.driver == Driver::Bridge { adopt: true }
    }

    /// The host's addresses in it that are ours to give, with the prefix of what is reached by each: gateways, or what
    /// `host_access` reaches the containers' part of a LAN by, which is the first address of that.
    pub fn host_addresses(&self) -> Vec<IpNet> {
        let net = |ip: IpAddr, prefix| IpNet::new(ip, prefix).ok();
        let all = if !self.is_lan() {
            self.ip.each(
                |v4| net(v4.gateway.into(), v4.subnet.prefix_len()),
                |v6| net(v6.gateway.into(), v6.subnet.prefix_len()),
            )
        } else if self.driver.below().is_some_and(|below| below.host_access) {
            let four = |v4: &Subnet4| {
                let range = v4.range?;
                let first = range.hosts().find(|ip| *ip != v4.gateway)?;
                net(first.into(), range.prefix_len())
            };
            let six = |v6: &Subnet6| {
                let range = v6.range?;
                // The first address of the subnet is that of every router (RFC 4291).
                let good = |ip: &Ipv6Addr| *ip != v6.gateway && *ip != v6.subnet.network();
                net(range.hosts().find(good)?.into(), range.prefix_len())
            };
            self.ip.each(four, six)
        } else {
            return Vec::new();
        };
        all.flatten().collect()
    }

    /// The device of the host that it is, or is below: for messages.
    pub fn device(&self) -> &str {
        match self.driver.below() {
            Some(below) if !below.host_access => &below.parent.name,
            _ => &self.bridge,
        }
    }

    /// How a container's interface hangs on it.
    pub fn link(&self) -> Link {
        match &self.driver {
            Driver::Macvlan(below) => Link::Macvlan(below.parent.clone()),
            Driver::Ipvlan(below) => Link::Ipvlan(below.parent.clone()),
            Driver::Bridge { adopt: true } => Link::Adopted,
            Driver::Bridge { adopt: false } | Driver::Overlay(_) => Link::Bridge,
            Driver::Ovs { vlan, .. } => Link::Ovs { vlan: *vlan },
        }
    }

    /// Names of the devices that are the network's own.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        let tunnel = self.driver.tunnel();
        let wireguard = tunnel.and_then(|tunnel| tunnel.wireguard.as_ref());
        [self.bridge.as_str()]
            .into_iter()
            .chain(tunnel.map(|tunnel| tunnel.device.as_str()))
            .chain(wireguard.map(|wireguard| wireguard.device.as_str()))
    }
}

impl Tunnel {
    /// Who may send to it. One that is encrypted takes nothing but what was, by itself.
    pub fn rule(&self) -> Option<TunnelRule> {
        self.wireguard.is_none().then(|| TunnelRule {
            port: self.port,
            vni: self.vni,
            peers: self.peers.clone(),
        })
    }

    /// What its packets come from: this host's end, or its address inside of what encrypts them.
    pub fn source(&self) -> IpAddr {
        match &self.wireguard {
            Some(wireguard) => wireguard.key.inside().addr().into(),
            None => self.local,
        }
    }

    /// Where its packets go to, sorted: the peers, or their addresses inside.
    pub fn targets(&self) -> Vec<IpAddr> {
        let Some(wireguard) = &self.wireguard else {
            return self.peers.clone();
        };
        let inside = wireguard.keys.values().map(|key| key.inside().addr().into());
        let mut targets: Vec<IpAddr> = inside.collect();
        targets.sort();
        targets
    }
}

/// An interface's IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address4 {
    pub ip: Ipv4Addr,
    pub prefix: u8,
    /// The default route goes here; only one attachment of a container has one.
    pub gateway: Option<Ipv4Addr>,
}

/// An interface's IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address6 {
    pub ip: Ipv6Addr,
    pub prefix: u8,
    /// The default route goes here; only one attachment of a container has one.
    pub gateway: Option<Ipv6Addr>,
}

/// How an interface hangs on its network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Link {
    /// A veth whose host end is a port of a bridge.
    #[default]
    Bridge,
    /// A veth whose host end is a port of a bridge that is not ours.
    Adopted,
    /// The device inside is a macvlan below the parent; the host has no end of it.
    Macvlan(Parent),
    /// The same with ipvlan.
    Ipvlan(Parent),
    /// A veth whose host end is a port of a bridge of Open vSwitch. `vlan`: its tag, 0 for none.
    Ovs { vlan: u16 },
}

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub network: Name,
    /// Name inside: `eth0`, `eth1`, ….
    pub device: String,
    /// Name of the veth's host end: `wh-…`, at most 15 characters, unique on the host.
    pub host_device: String,
    /// The bridge the host end is a port of.
    pub bridge: String,
    /// What it has of each family: what the network has.
    #[serde(flatten)]
    pub ip: Families<Address4, Address6>,
    pub mac: MacAddr,
    pub mtu: Option<u32>,
    /// Names it is known by on that network (its own first).
    pub aliases: Vec<String>,
    /// A port of its bridge that reaches no other such port (bridge(8), `isolated`); the gateway is on-link then and all
    /// else is reached by it.
    #[serde(default)]
    pub isolated: bool,
    #[serde(default)]
    pub link: Link,
}

impl Link {
    /// On a network that was there before: see [`HostNetwork::is_lan`].
    pub fn is_lan(&self) -> bool {
        match self {
            Self::Adopted | Self::Macvlan(_) | Self::Ipvlan(_) => true,
            Self::Bridge | Self::Ovs { .. } => false,
        }
    }

    /// The host has no end of it.
    pub fn is_inside_alone(&self) -> bool {
        matches!(self, Self::Macvlan(_) | Self::Ipvlan(_))
    }
}

impl Attachment {
    /// Its IPv4, where it has some.
    pub fn v4(&self) -> Option<&Address4> {
        self.ip.v4()
    }

    /// Its IPv6, where it has some.
    pub fn v6(&self) -> Option<&Address6> {
        self.ip.v6()
    }

    /// Its addresses, IPv4 first.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.places().map(|(ip, ..)| ip)
    }

    /// The same, each with the bits of its subnet's prefix and where the default route goes.
    pub fn places(&self) -> impl Iterator<Item = (IpAddr, u8, Option<IpAddr>)> + use<> {
        self.ip.each(
            |v4| (IpAddr::V4(v4.ip), v4.prefix, v4.gateway.map(IpAddr::V4)),
            |v6| (IpAddr::V6(v6.ip), v6.prefix, v6.gateway.map(IpAddr::V6)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::PublicKey;

    #[test]
    fn every_driver_is_read_back_from_the_ledger() {
        let tunnel = Tunnel {
            kind: "vxlan".to_owned(),
            device: "wh-0a1b2c3d.vx".to_owned(),
            vni: 4200,
            port: 4789,
            local: "192.0.2.1".parse().unwrap(),
            peers: vec!["192.0.2.2".parse().unwrap()],
            wireguard: None,
        };
        let key: PublicKey = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap();
        let encrypted = Tunnel {
            wireguard: Some(WireGuard {
                device: "wh-0a1b2c3d.wg".to_owned(),
                key,
                port: 51820,
                keys: [("192.0.2.2".parse().unwrap(), key)].into(),
            }),
            ..tunnel.clone()
        };
        let below = |host_access| Below {
            parent: Parent {
                name: "eth0".to_owned(),
                index: 2,
            },
            host_access,
        };
        let (datapath, vlan) = ("system".to_owned(), 7);
        for driver in [
            Driver::default(),
            Driver::Bridge { adopt: true },
            Driver::Macvlan(below(true)),
            Driver::Ipvlan(below(false)),
            Driver::Overlay(tunnel.clone()),
            Driver::Overlay(encrypted),
            Driver::Ovs {
                tunnel,
                datapath,
                vlan,
            },
        ] {
            let text = serde_json::to_string(&driver).unwrap();
            assert_eq!(serde_json::from_str::<Driver>(&text).unwrap(), driver, "{text}");
        }
    }

    #[test]
    fn every_link_is_read_back_from_the_ledger() {
        let parent = Parent {
            name: "eth0".to_owned(),
            index: 2,
        };
        for link in [
            Link::Bridge,
            Link::Adopted,
            Link::Macvlan(parent.clone()),
            Link::Ipvlan(parent),
            Link::Ovs { vlan: 7 },
        ] {
            let text = serde_json::to_string(&link).unwrap();
            assert_eq!(serde_json::from_str::<Link>(&text).unwrap(), link, "{text}");
        }
    }

    #[test]
    fn macs_are_read_written_and_derived() {
        let mac: MacAddr = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "02:42",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:00:02",
            "zz:42:ac:11:00:02",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
        assert_eq!(
            MacAddr::of_lease(Ipv4Addr::new(10, 88, 0, 2)).to_string(),
            "02:57:0a:58:00:02"
        );
        let of = |text: &str| MacAddr::of_lease(text.parse::<Ipv6Addr>().unwrap());
        let (one, next, other) = (of("fd00::2"), of("fd00::3"), of("fd00::1:0:0:2"));
        assert!(
            one != next && one != other && one == of("fd00::2"),
            "{one} {next} {other}"
        );
        assert_eq!(
            one.0[..2],
            [0x02, 0x66],
            "of a single device, locally administered"
        );
    }

    #[test]
    fn networks_and_places_of_before_are_read_back_from_the_ledger() {
        let read = |text: &str| serde_json::from_str::<HostNetwork>(text).unwrap();
        let old = read(
            r#"{"name":"n","bridge":"wh-n","subnet":"10.80.0.0/24","gateway":"10.80.0.1","range":null,"mtu":null,
                "internal":false,"masquerade":false,"v6":{"subnet":"fd00:80::/64","gateway":"fd00:80::1","range":null,
                "masquerade":true},"isolated":true,"driver":{"kind":"bridge","adopt":false}}"#,
        );
        assert_eq!(
            old.v4().map(|v4| (v4.gateway, v4.masquerade)),
            Some(([10, 80, 0, 1].into(), false))
        );
        assert!(old.v6().is_some() && old.isolated);
        let older = r#"{"name":"n","bridge":"wh-n","subnet":"10.80.0.0/24","gateway":"10.80.0.1","range":null,"mtu":null,
            "internal":false,"masquerade":true}"#;
        assert_eq!(read(older).subnets().count(), 1);
        let alone = HostNetwork {
            ip: Families::V6(old.v6().unwrap().clone()),
            ..old.clone()
        };
        for network in [old, alone] {
            let text = serde_json::to_string(&network).unwrap();
            assert_eq!(read(&text), network, "{text}");
        }
        let place = r#"{"network":"n","device":"eth0","host_device":"wh-x","bridge":"wh-n","ip":"10.80.0.2","prefix":24,
            "mac":"02:57:0a:50:00:02","gateway":"10.80.0.1","mtu":null,"aliases":["web"]}"#;
        let place: Attachment = serde_json::from_str(place).unwrap();
        assert_eq!(place.ips().collect::<Vec<_>>(), [IpAddr::from([10, 80, 0, 2])]);
        let text = serde_json::to_string(&place).unwrap();
        assert_eq!(
            serde_json::from_str::<Attachment>(&text).unwrap(),
            place,
            "{text}"
        );
    }
}
