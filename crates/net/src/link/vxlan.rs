//! The tunnel of an overlay: a VXLAN device of the kernel (RFC 7348; ip-link(8), `vxlan`) as a port of the network's
//! bridge.
//!
//! A frame for everybody goes to every peer ([`peers`]); where a single address is, the device learns from what comes.
//! The gateway is on every host the same: [`seal`] keeps it from crossing.

mod peers;
mod seal;

use std::net::IpAddr;

use model::network::{HostNetwork, Tunnel};
use model::observed::ObservedTunnel;

use super::{Address, Link, Mark, change, dump, nl, veth};
use crate::error::{Doing, NetError};
use crate::names::check_device;
use crate::netlink::{Attr, Netlink, find, read_u32};
use seal::Gateway;

/// linux/if_link.h, IFLA_VXLAN_….
const ID: u16 = 1;
const LINK: u16 = 3;
const LOCAL: u16 = 4;
const LEARNING: u16 = 7;
const PORT: u16 = 15;
const LOCAL6: u16 = 17;
/// Of a network: 24 bits (RFC 7348, section 5).
const LARGEST_VNI: u32 = (1 << 24) - 1;

/// As the kernel calls the kind of device.
pub(crate) const KIND: &str = "vxlan";

/// What a device is made with. The kernel changes none of it afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Make {
    pub vni: u32,
    pub port: u16,
    pub local: Option<IpAddr>,
    pub learning: bool,
    /// The device that what is sent goes by. Where it begins at an address of the link, nothing is taken that came by
    /// another one.
    pub below: Option<u32>,
}

impl Make {
    /// From IFLA_INFO_DATA.
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        let v4 = find(data, LOCAL).and_then(|ip| <[u8; 4]>::try_from(ip).ok());
        let v6 = find(data, LOCAL6).and_then(|ip| <[u8; 16]>::try_from(ip).ok());
        let port = find(data, PORT).and_then(|port| <[u8; 2]>::try_from(port).ok());
        Some(Self {
            vni: read_u32(data, ID)?,
            port: u16::from_be_bytes(port?),
            local: v4.map(IpAddr::from).or(v6.map(IpAddr::from)),
            learning: find(data, LEARNING) == Some(&[1]),
            below: read_u32(data, LINK),
        })
    }

    fn of(tunnel: &Tunnel, below: Option<u32>) -> Self {
        Self {
            vni: tunnel.vni,
            port: tunnel.port,
            local: Some(tunnel.source()),
            learning: true,
            below,
        }
    }

    fn attr(&self) -> Attr {
        let local = self.local.map(|local| match local {
            IpAddr::V4(ip) => Attr::bytes(LOCAL, ip.octets()),
            IpAddr::V6(ip) => Attr::bytes(LOCAL6, ip.octets()),
        });
        let mut data = vec![
            Attr::u32(ID, self.vni),
            Attr::bytes(PORT, self.port.to_be_bytes()),
            Attr::u8(LEARNING, u8::from(self.learning)),
        ];
        data.extend(local);
        data.extend(self.below.map(|index| Attr::u32(LINK, index)));
        Attr::nest(nl::INFO_DATA, data)
    }
}

/// Everything that can be seen to be wrong before anything is touched.
pub(crate) fn check(n: &HostNetwork, tunnel: &Tunnel) -> Result<(), NetError> {
    let what = format!("network {}", n.name);
    check_device(&what, &tunnel.device)?;
    let why = match tunnel {
        t if t.kind != KIND => format!("a tunnel of kind {} is not made by the kernel's bridge", t.kind),
        t if t.vni == 0 || t.vni > LARGEST_VNI => format!("there is no VNI {}: 1 to {LARGEST_VNI}", t.vni),
        t if t.port == 0 => "there is no port 0".to_owned(),
        t if let Some(peer) = t.peers.iter().find(|p| p.is_ipv4() != t.local.is_ipv4()) => {
            format!("its peer {peer} is not of the family of its own end, {}", t.local)
        }
        _ => return Ok(()),
    };
    Err(NetError::invalid(what, why))
}

/// Makes the device, or puts right what is wrong with it. Its bridge is there, and so is the device that it is `below`,
/// where it is encrypted.
pub(crate) fn apply(
    route: &mut Netlink,
    mark: &Mark,
    n: &HostNetwork,
    tunnel: &Tunnel,
    below: Option<u32>,
) -> Result<(), NetError> {
    let doing = || format!("set up the tunnel {} of network {}", tunnel.device, n.name);
    let bridge = dump::link(route, &n.bridge).doing(doing)?;
    let bridge = bridge.ok_or_else(|| NetError::invalid(doing(), "its bridge vanished at once"))?;
    let make = Make::of(tunnel, below);
    let found = match veth::host_end(route, mark, &tunnel.device)? {
        Some(link) if link.vxlan.as_ref() != Some(&make) => {
            change::delete(route, link.index).doing(|| format!("remove the former {}", tunnel.device))?;
            None
        }
        other => other,
    };
    let link = match found {
        Some(link) => link,
        None => create(route, mark, n, tunnel, &make)?,
    };
    let gateway = gateway(n);
    // Closed to the gateway before anything goes through it.
    seal::ensure(route, link.index, &gateway).doing(|| {
        format!(
            "keep the gateway from crossing {} (kernel modules sch_ingress and cls_bpf)",
            tunnel.device
        )
    })?;
    peers::ensure(route, link.index, &tunnel.targets(), below)
        .doing(|| format!("tell {} of its peers", tunnel.device))?;
    connect(route, mark, n, &bridge, &link).doing(doing)
}

fn gateway(n: &HostNetwork) -> Gateway {
    Gateway {
        mac: n.mac().0,
        ip: n.v4().map(|v4| v4.gateway),
        ip6: n.v6().map(|v6| v6.gateway),
    }
}

fn create(
    route: &mut Netlink,
    mark: &Mark,
    n: &HostNetwork,
    tunnel: &Tunnel,
    make: &Make,
) -> Result<Link, NetError> {
    let attrs = [
        Attr::text(nl::IFLA_IFNAME, &tunnel.device),
        Attr::u32(nl::IFLA_GROUP, mark.group),
        Attr::nest(nl::IFLA_LINKINFO, [Attr::text(nl::INFO_KIND, KIND), make.attr()]),
    ];
    let doing = || {
        format!(
            "make the tunnel {} of network {} (VXLAN, VNI {}, port {})",
            tunnel.device, n.name, make.vni, make.port
        )
    };
    change::create(route, &attrs).doing(doing)?;
    let link = dump::link(route, &tunnel.device).doing(doing)?;
    link.ok_or_else(|| NetError::invalid(doing(), "it vanished at once"))
}

fn connect(
    route: &mut Netlink,
    mark: &Mark,
    n: &HostNetwork,
    bridge: &Link,
    link: &Link,
) -> Result<(), crate::netlink::KernelError> {
    let mut attrs = Vec::new();
    let alias = mark.alias(n.name.as_str());
    if link.alias.as_deref() != Some(&*alias) {
        attrs.push(Attr::bytes(nl::IFLA_IFALIAS, alias));
    }
    if link.group == mark.group {
        attrs.push(Attr::u32(nl::IFLA_GROUP, 0));
    }
    if let Some(mtu) = n.mtu.filter(|mtu| *mtu != link.mtu) {
        attrs.push(Attr::u32(nl::IFLA_MTU, mtu));
    }
    if link.master != Some(bridge.index) {
        attrs.push(Attr::u32(nl::IFLA_MASTER, bridge.index));
    }
    if !link.up {
        change::make_up_no_ipv6(route, link.index)?;
    }
    change::set(route, link.index, &attrs)?;
    match link.up {
        true => Ok(()),
        false => change::up(route, link.index),
    }
}

/// The tunnel as it is. `links`, `addresses`: all of the host, of which its bridge's say what it is to be closed to.
pub(crate) fn look(
    route: &mut Netlink,
    link: &Link,
    links: &[Link],
    addresses: &[Address],
) -> Result<Option<ObservedTunnel>, NetError> {
    let Some(make) = link.vxlan.as_ref() else {
        return Ok(None);
    };
    let doing = || format!("look at the tunnel {}", link.name);
    let bridge = links.iter().find(|l| Some(l.index) == link.master);
    let gateway = bridge.and_then(|bridge| {
        let own = || addresses.iter().filter(|a| a.index == bridge.index);
        let v4 = |a: &Address| match a.ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        };
        let v6 = |a: &Address| match a.ip {
            IpAddr::V6(ip) if !ip.is_unicast_link_local() => Some(ip),
            _ => None,
        };
        Some(Gateway {
            mac: bridge.mac.as_slice().try_into().ok()?,
            ip: own().find_map(v4),
            ip6: own().find_map(v6),
        })
    });
    let sealed = match gateway {
        Some(gateway) => seal::is_there(route, link.index, &gateway).doing(doing)?,
        None => false,
    };
    Ok(Some(ObservedTunnel {
        vni: make.vni,
        port: make.port,
        local: make.local,
        peers: peers::of(route, link.index).doing(doing)?,
        sealed: sealed && make.learning,
        switch: None,
        wireguard: None,
    }))
}

/// Removes one that sends what is to be encrypted as it is.
pub(crate) fn remove_unencrypted(route: &mut Netlink, mark: &Mark, device: &str) -> Result<(), NetError> {
    let open = |link: &Link| link.vxlan.as_ref().is_none_or(|made| made.below.is_none());
    match veth::host_end(route, mark, device)?.filter(open) {
        Some(link) => change::delete(route, link.index)
            .doing(|| format!("remove {device}, which does not encrypt what it sends")),
        None => Ok(()),
    }
}

/// Removes the tunnels of ours that are ports of this bridge, and what encrypts them: without it they serve nothing.
pub(crate) fn remove_from(route: &mut Netlink, mark: &Mark, bridge: u32) -> Result<(), NetError> {
    let links = dump::links(route).doing(|| "list the network devices".to_owned())?;
    let tunnels = links
        .iter()
        .filter(|l| l.kind == KIND && l.master == Some(bridge) && mark.is_on(l));
    for tunnel in tunnels {
        change::delete(route, tunnel.index).doing(|| format!("remove the tunnel {}", tunnel.name))?;
        let below = tunnel.vxlan.as_ref().and_then(|made| made.below);
        let below = links.iter().find(|l| Some(l.index) == below && mark.is_on(l));
        if let Some(below) = below.filter(|l| l.kind == super::WIREGUARD) {
            change::delete(route, below.index).doing(|| format!("remove the device {}", below.name))?;
        }
    }
    Ok(())
}
