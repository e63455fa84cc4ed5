//! Devices and addresses as they were last read, for as long as the kernel tells of no change.
//!
//! A socket of its own listens to rtnetlink(7) for that. Notifications are queued before the call that makes the change
//! returns, so an empty queue says that what was read is still so; where the queue ran over, the kernel says that, too.

use std::collections::BTreeMap;

use model::observed::{ForeignAddress, ObservedLink};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{Net, lock, net_of};
use crate::error::{Doing, NetError};
use crate::link;
use crate::monitor::{concerns_devices, drain, listen, messages};

/// RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE.
const GROUPS: [u32; 4] = [1, 3, 5, 7];

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
}

impl Devices {
    /// Whether anything may be different since this was last asked.
    fn have_changed(&mut self) -> std::io::Result<bool> {
        let Some(changes) = &self.changes else {
            self.changes = Some(listen(NETLINK_ROUTE, &GROUPS)?);
            return Ok(true);
        };
        let mut news = false;
        let lost = drain(changes, |datagram| {
            news |= messages(datagram).any(|(kind, payload)| concerns_devices(kind, payload));
        })?;
        Ok(news || lost)
    }
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

    /// An address of ours has its routes, and where it is a bridge's, the bridge takes what is sent to it.
    fn is_reached(&self, links: &[link::Link], address: &link::Address) -> Result<bool, NetError> {
        let mut route = self.route();
        let bridge = links
            .iter()
            .find(|l| l.index == address.index && l.kind == "bridge");
        if let Some(bridge) = bridge {
            let doing = || format!("look at the forwarding entry of the bridge {}", bridge.name);
            if !link::own_entry_is_there(&mut route, bridge.index, &bridge.mac).doing(doing)? {
                return Ok(false);
            }
        }
        link::routes_are_there(&mut route, address).doing(|| "list the routes".to_owned())
    }

    fn read_devices(&self) -> Result<Seen, NetError> {
        let (links, mut addresses) = self.look()?;
        let names: BTreeMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
        let ours = |index: u32| links.iter().any(|l| l.index == index && self.mark.is_on(l));
        let foreign = addresses.iter().filter(|a| !ours(a.index));
        let foreign = foreign.filter_map(|a| {
            Some(ForeignAddress {
                device: (*names.get(&a.index)?).to_owned(),
                address: net_of(a)?,
            })
        });
        let foreign = foreign.collect();
        for at in (0..addresses.len()).rev() {
            let address = addresses[at];
            if ours(address.index) && !self.is_reached(&links, &address)? {
                addresses.remove(at);
            }
        }
        let observe = |l: &link::Link| {
            let own = addresses.iter().filter(|a| a.index == l.index);
            let master = l.master.and_then(|index| names.get(&index));
            let observed = ObservedLink {
                kind: l.kind.clone(),
                ours: self.mark.is_on(l),
                up: l.up,
                mtu: l.mtu,
                master: master.map(|name| (*name).to_owned()),
                addresses: own.filter_map(net_of).collect(),
                route_localnet: false,
            };
            (l.name.clone(), observed)
        };
        let links = links.iter().map(observe).collect();
        Ok(Seen { links, foreign })
    }
}
