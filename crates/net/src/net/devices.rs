//! Devices and addresses as they were last read, for as long as the kernel tells of no change.
//!
//! A socket of its own listens to rtnetlink(7) for that. Notifications are queued before the call that makes the change
//! returns, so an empty queue says that what was read is still so; where the queue ran over, the kernel says that, too.

use std::collections::{BTreeMap, BTreeSet};

use model::observed::{ForeignAddress, ForeignAddress6, Ipv6State, ObservedLink, ObservedTunnel};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Net, any6_of, lock, net_of, net6_of};
use crate::error::{Doing, NetError};
use crate::link;
use crate::monitor::{concerns_devices, drain, listen, messages};

/// RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_TC, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR,
/// RTNLGRP_IPV6_ROUTE.
const GROUPS: [u32; 7] = [1, 3, 4, 5, 7, 9, 11];

/// What is remembered.
#[derive(Default)]
pub(super) struct Devices {
    /// None before the first look.
    changes: Option<Socket>,
    seen: Option<Seen>,
}

/// One look.
pub(super) struct Seen {
    /// Without the settings of bridges, of which the kernel tells nobody.
    pub links: BTreeMap<String, ObservedLink>,
    /// Addresses of devices that are not ours.
    pub foreign: Vec<ForeignAddress>,
    pub foreign6: Vec<ForeignAddress6>,
    /// All of IPv6.
    addresses6: Vec<link::Address>,
    /// Devices that routers may be advertised on.
    pub uplinks: Vec<String>,
}

impl Devices {
    /// Whether anything may be different since this was last asked.
    fn have_changed(&mut self) -> std::io::Result<bool> {
        let Some(changes) = &self.changes else {
            self.changes = Some(listen(NETLINK_ROUTE, &GROUPS)?);
            return Ok(true);
        };
        let known = self.seen.as_ref().map(|seen| &seen.addresses6);
        let mut news = false;
        let lost = drain(changes, |datagram| {
            news |= messages(datagram)
                .any(|(kind, payload)| concerns_devices(kind, payload) && !is_of_known(known, kind, payload));
        })?;
        Ok(news || lost)
    }
}

/// An IPv6 address that is there is told of each time a router advertises its subnet.
fn is_of_known(known: Option<&Vec<link::Address>>, kind: u16, payload: &[u8]) -> bool {
    const NEW_ADDRESS: u16 = 20;
    let address = (kind == NEW_ADDRESS).then(|| link::address_of(payload)).flatten();
    address
        .zip(known)
        .is_some_and(|(address, known)| known.contains(&address))
}

impl Net {
    /// Something of what is there now.
    pub(super) fn devices<T>(&self, take: impl FnOnce(&Seen) -> T) -> Result<T, NetError> {
        let mut devices = lock(&self.devices);
        let changed = devices.have_changed();
        if changed.doing(|| "listen to changes of devices".to_owned())? {
            devices.seen = None;
        }
        let seen = match devices.seen.take() {
            Some(seen) => seen,
            None => self.read_devices()?,
        };
        Ok(take(devices.seen.insert(seen)))
    }

    /// An address of ours has its routes, and where it is a bridge's, the bridge takes what is sent to it. One of IPv6 is
    /// nothing without that of the link, by which neighbours are asked for.
    fn is_reached(
        &self,
        links: &[link::Link],
        addresses6: &[link::Address],
        address: &link::Address,
    ) -> Result<bool, NetError> {
        let mut route = self.route();
        let bridge = links
            .iter()
            .find(|l| l.index == address.index && l.kind == "bridge");
        if let Some(bridge) = bridge {
            let doing = || format!("look at the forwarding entry of the bridge {}", bridge.name);
            let of_link = |a: &link::Address| {
                let own = <[u8; 6]>::try_from(&*bridge.mac).map(link::link_local);
                a.index == bridge.index && own.is_ok_and(|own| a.ip == own)
            };
            if address.ip.is_ipv6() && !addresses6.iter().any(of_link) {
                return Ok(false);
            }
            if !link::own_entry_is_there(&mut route, bridge.index, &bridge.mac).doing(doing)? {
                return Ok(false);
            }
        }
        link::routes_are_there(&mut route, address).doing(|| "list the routes".to_owned())
    }

    /// Those of ours, by their index.
    fn tunnels(
        &self,
        links: &[link::Link],
        addresses: &[link::Address],
    ) -> Result<BTreeMap<u32, ObservedTunnel>, NetError> {
        let mut tunnels = BTreeMap::new();
        let ours = links
            .iter()
            .filter(|l| l.kind == link::TUNNEL && self.mark.is_on(l));
        for link in ours {
            let seen = link::look_at_tunnel(&mut self.route(), link, links, addresses)?;
            tunnels.extend(seen.map(|seen| (link.index, seen)));
        }
        Ok(tunnels)
    }

    fn read_devices(&self) -> Result<Seen, NetError> {
        let (links, mut addresses) = self.look()?;
        let addresses6: Vec<link::Address> = addresses.iter().filter(|a| a.ip.is_ipv6()).copied().collect();
        let names: BTreeMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
        let ours = |index: u32| links.iter().any(|l| l.index == index && self.mark.is_on(l));
        let theirs = || addresses.iter().filter(|a| !ours(a.index));
        let device = |a: &link::Address| Some((*names.get(&a.index)?).to_owned());
        let foreign = theirs().filter_map(|a| {
            Some(ForeignAddress {
                device: device(a)?,
                address: net_of(a)?,
            })
        });
        let foreign = foreign.collect();
        let foreign6 = theirs().filter_map(|a| {
            Some(ForeignAddress6 {
                device: device(a)?,
                address: net6_of(a)?,
            })
        });
        let foreign6 = foreign6.collect();
        let own = links
            .iter()
            .filter(|l| !self.mark.is_on(l) && l.master.is_none() && l.name != "lo");
        let uplinks = own.filter(|l| l.kind != "bridge").map(|l| l.name.clone());
        let uplinks = uplinks.collect();
        for at in (0..addresses.len()).rev() {
            let address = addresses[at];
            if ours(address.index) && !self.is_reached(&links, &addresses6, &address)? {
                addresses.remove(at);
            }
        }
        let tunnels = self.tunnels(&links, &addresses)?;
        let filtered = match links.iter().any(|l| l.isolated && self.mark.is_on(l)) {
            true => link::filtered(&mut self.route()).doing(|| "list the filters of ports".to_owned())?,
            false => BTreeSet::new(),
        };
        let observe = |l: &link::Link| {
            let own = || addresses.iter().filter(|a| a.index == l.index);
            let master = l.master.and_then(|index| names.get(&index));
            let is_below = matches!(l.kind.as_str(), "macvlan" | "ipvlan") && l.peer_netns.is_none();
            let carrier = l.vxlan.as_ref().and_then(|made| made.below);
            let below = l.peer.filter(|_| is_below).or(carrier);
            let below = below.and_then(|index| names.get(&index));
            // Those of its link are all that it has.
            let inside = l.kind == link::WIREGUARD && self.mark.is_on(l);
            let observed = ObservedLink {
                index: l.index,
                below: below.map(|name| (*name).to_owned()),
                kind: l.kind.clone(),
                ours: self.mark.is_on(l),
                up: l.up,
                mtu: l.mtu,
                master: master.map(|name| (*name).to_owned()),
                addresses: own().filter_map(net_of).collect(),
                isolated: l.isolated && filtered.contains(&l.index),
                route_localnet: false,
                addresses6: match inside {
                    true => own().filter_map(any6_of).collect(),
                    false => own().filter_map(net6_of).collect(),
                },
                ipv6: match own().any(|a| a.ip.is_ipv6()) {
                    true => Ipv6State::On,
                    false => Ipv6State::Off,
                },
                tunnel: tunnels.get(&l.index).cloned(),
            };
            (l.name.clone(), observed)
        };
        let links = links.iter().map(observe).collect();
        Ok(Seen {
            links,
            foreign,
            foreign6,
            addresses6,
            uplinks,
        })
    }
}
