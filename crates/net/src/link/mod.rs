//! Network devices, their addresses and routes, over rtnetlink(7).

mod below;
mod bridge;
mod change;
mod dump;
mod entry;
mod filter;
mod online;
mod plug;
mod route;
mod sender;
mod uplink;
mod veth;
mod vxlan;
mod way;
mod wireguard;

use std::net::{IpAddr, Ipv6Addr};

use crate::names::fnv1a;

pub(crate) use below::apply as apply_lan;
pub(crate) use bridge::{apply_bridge, check as check_bridge, look as look_at_bridge, remove_bridge};
pub(crate) use dump::{address_of, addresses, links};
pub(crate) use entry::{is_of_neighbours, is_of_own_entry, is_there as own_entry_is_there};
pub(crate) use filter::filtered;
pub(crate) use online::is_online;
pub(crate) use plug::{
    apply_gateway, attach as attach_to_port, is_of_switch, kernel_has_datapath, look_at_switch, remove_left,
    remove_pen,
};
pub(crate) use route::are_there as routes_are_there;
pub(crate) use uplink::uplinks;
pub(crate) use veth::{attach, detach};
pub(crate) use vxlan::{
    KIND as TUNNEL, apply as apply_tunnel, check as check_tunnel, look as look_at_tunnel, remove_unencrypted,
};
pub(crate) use way::way_to;
pub(crate) use wireguard::{KIND as WIREGUARD, apply as apply_wireguard};

/// What everything is 1500 bytes long on where nobody says otherwise.
pub(crate) const DEFAULT_MTU: u32 = 1500;

/// rtnetlink's message types and attributes (linux/rtnetlink.h, if_link.h, if_addr.h, if_bridge.h, veth.h).
mod nl {
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const GETNEIGH: u16 = 30;
    pub const GETNSID: u16 = 90;

    pub const IFLA_ADDRESS: u16 = 1;
    pub const IFLA_IFNAME: u16 = 3;
    pub const IFLA_MTU: u16 = 4;
    pub const IFLA_LINK: u16 = 5;
    pub const IFLA_MASTER: u16 = 10;
    pub const IFLA_LINKINFO: u16 = 18;
    pub const IFLA_IFALIAS: u16 = 20;
    pub const IFLA_AF_SPEC: u16 = 26;
    pub const IFLA_GROUP: u16 = 27;
    pub const IFLA_NET_NS_FD: u16 = 28;
    pub const IFLA_EXT_MASK: u16 = 29;
    pub const IFLA_LINK_NETNSID: u16 = 37;
    pub const INFO_KIND: u16 = 1;
    pub const INFO_DATA: u16 = 2;
    pub const INFO_SLAVE_KIND: u16 = 4;
    pub const INFO_SLAVE_DATA: u16 = 5;
    pub const BR_FORWARD_DELAY: u16 = 1;
    pub const BR_STP_STATE: u16 = 5;
    pub const BRPORT_MODE: u16 = 4;
    pub const BRPORT_ISOLATED: u16 = 33;
    pub const VETH_INFO_PEER: u16 = 1;
    pub const INET6_ADDR_GEN_MODE: u16 = 8;
    pub const RTEXT_FILTER_SKIP_STATS: u32 = 8;

    pub const IFA_ADDRESS: u16 = 1;
    pub const IFA_LOCAL: u16 = 2;
    pub const IFA_BROADCAST: u16 = 4;
    pub const RTA_DST: u16 = 1;
    pub const RTA_OIF: u16 = 4;
    pub const RTA_GATEWAY: u16 = 5;
    pub const RTA_PRIORITY: u16 = 6;
    pub const RTA_PREFSRC: u16 = 7;
    pub const RTA_TABLE: u16 = 15;
    pub const RT_TABLE_MAIN: u32 = 254;
    pub const RT_TABLE_LOCAL: u32 = 255;
    pub const NETNSA_NSID: u16 = 1;
    pub const NETNSA_FD: u16 = 3;

    pub const IFF_UP: u32 = 1;
}

/// A device as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub kind: String,
    pub alias: Option<String>,
    /// See [`Mark::group`].
    pub group: u32,
    pub up: bool,
    pub mtu: u32,
    pub mac: Vec<u8>,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// A veth's other end: its index there, and the number of its namespace as seen from here.
    pub peer: Option<u32>,
    pub peer_netns: Option<u32>,
    pub hairpin: bool,
    /// A bridge's port that reaches no other such port. (That it takes in its own container's frames alone is not said.)
    pub isolated: bool,
    /// A bridge's, in hundredths of a second.
    pub forward_delay: u32,
    pub stp: bool,
    /// A VXLAN device's.
    pub vxlan: Option<vxlan::Make>,
}

/// An address of a device, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub index: u32,
    pub ip: IpAddr,
    pub prefix: u8,
}

/// The address in fe80::/64 that belongs to a MAC address (RFC 4291, appendix A).
pub(crate) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// AF_INET or AF_INET6.
fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }) as u8
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Four or sixteen bytes.
fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}

/// How this agent's devices are known: the alias, and, from the instant a device is made until it has its alias,
/// a group number of ours (the one mark the kernel takes in the message that creates a device).
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    prefix: String,
    /// `group` of rtnetlink.
    pub group: u32,
    /// There is a firewall of ours: so what the host's devices forward is ours to say, 127.0.0.1 included.
    pub published: bool,
}

impl Mark {
    pub fn new(owner: &str, published: bool) -> Self {
        Self {
            prefix: format!("wharf:{owner}:"),
            group: fnv1a(owner) & 0x3fff_ffff | 1 << 30,
            published,
        }
    }

    /// The alias of a device that serves this (a network, a container).
    pub fn alias(&self, text: &str) -> String {
        let mut alias = format!("{}{text}", self.prefix);
        let mut end = alias.len().min(255);
        while !alias.is_char_boundary(end) {
            end -= 1;
        }
        alias.truncate(end);
        alias
    }

    /// The device is this agent's.
    pub fn is_on(&self, link: &Link) -> bool {
        match &link.alias {
            Some(alias) => alias.starts_with(&self.prefix),
            None => link.group == self.group,
        }
    }
}

/// Whose a device is, for messages.
pub(crate) fn owner_of(link: &Link) -> String {
    match &link.alias {
        Some(alias) => match alias.strip_prefix("wharf:").and_then(|rest| rest.split_once(':')) {
            Some((owner, what)) => format!("another wharf agent ({owner}, for {what})"),
            None => format!("somebody else (a {}, alias {alias:?})", link.kind_text()),
        },
        None => format!("somebody else (a {})", link.kind_text()),
    }
}

impl Link {
    pub fn kind_text(&self) -> &str {
        if self.kind.is_empty() {
            "physical or unnamed kind of device"
        } else {
            &self.kind
        }
    }
}
