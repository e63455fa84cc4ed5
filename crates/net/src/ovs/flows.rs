//! What keeps the gateway on its side: flows of the bridge that all passes which goes to other hosts or comes from them.
//!
//! Every host's gateway has the same addresses, so a frame of one of them that reached another host would be taken there
//! for the other one's own. Dropped are frames from and to its MAC address, ARP that is about its IP address, neighbour
//! solicitations for it, and router discovery. All else is switched as ever, on both bridges: also after somebody deleted
//! all flows.
//!
//! The database does not keep flows. After a restart of ovs-vswitchd they are missing until an agent puts them there;
//! the other hosts' flows drop meanwhile what should not have been sent.

use std::io::ErrorKind::NotFound;

use super::made::Made;
use super::openflow::{Bridge, Field, Flow};
use super::{Switch, SwitchError};
use crate::names::fnv1a;

/// Before whatever others may want with these frames.
const SEAL: u16 = 0xfff0;
/// After all that others may want; before the flow that a bridge begins with.
const SWITCHED: u16 = 1;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;

fn switched() -> Flow {
    Flow {
        priority: SWITCHED,
        fields: Vec::new(),
        normal: true,
    }
}

/// Of the bridge of the tunnels.
fn seal(made: &Made) -> Vec<Flow> {
    use Field::{ArpFrom, ArpTo, EtherType, From, Icmpv6Type, IpProtocol, SolicitationFor, To};
    let (mac, ip) = (made.mac().0, made.gateway);
    let icmpv6 = |kind: u8| vec![EtherType(IPV6), IpProtocol(ICMPV6), Icmpv6Type(kind)];
    let mut dropped = vec![
        vec![From(mac)],
        vec![To(mac)],
        vec![EtherType(ARP), ArpFrom(ip)],
        vec![EtherType(ARP), ArpTo(ip)],
        // Router solicitation and advertisement (RFC 4861).
        icmpv6(133),
        icmpv6(134),
    ];
    dropped.extend(made.gateway6.map(|gateway6| {
        let mut fields = icmpv6(135);
        fields.push(SolicitationFor(gateway6));
        fields
    }));
    let drop = |fields| Flow {
        priority: SEAL,
        fields,
        normal: false,
    };
    let dropped = dropped.into_iter().map(drop);
    dropped.chain([switched()]).collect()
}

impl Switch {
    /// Of our flows.
    fn cookie(&self) -> u64 {
        const WHARF: u64 = 0x7768_6172 << 32;
        WHARF | u64::from(fnv1a(&self.owner))
    }

    fn all_flows(made: &Made) -> [(&str, Vec<Flow>); 2] {
        [(&made.bridge, vec![switched()]), (&made.tunnels, seal(made))]
    }

    /// All of them are there, and no others with our cookie.
    pub(super) fn is_sealed(&self, made: &Made) -> Result<bool, SwitchError> {
        for (bridge, wanted) in Self::all_flows(made) {
            let seen = match Bridge::open(&self.flows_of(bridge)) {
                // Not made yet, or no more.
                Err(SwitchError::SwitchAway { source, .. }) if source.kind() == NotFound => return Ok(false),
                bridge => bridge?.flows()?,
            };
            let own: Vec<_> = seen.iter().filter(|flow| flow.cookie == self.cookie()).collect();
            let all = wanted.iter().all(|flow| own.iter().any(|seen| seen.is(flow)));
            if !all || own.len() != wanted.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts them there.
    pub(super) fn seal(&self, made: &Made) -> Result<(), SwitchError> {
        for (bridge, wanted) in Self::all_flows(made) {
            let mut bridge = Bridge::open(&self.flows_of(bridge))?;
            let seen = bridge.flows()?;
            let own = || seen.iter().filter(|flow| flow.cookie == self.cookie());
            for flow in &wanted {
                if !own().any(|seen| seen.is(flow)) {
                    bridge.add(self.cookie(), flow)?;
                }
            }
            for stale in own().filter(|seen| !wanted.iter().any(|flow| seen.is(flow))) {
                bridge.remove(stale)?;
            }
            bridge.settle()?;
        }
        Ok(())
    }
}
