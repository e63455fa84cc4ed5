//! Forwarding of IPv6: turned on for networks that have it, without the host losing what it hears of routers. And what
//! holds of both families where forwarding was off: that it is for our bridges alone.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use model::firewall::FirewallBridge;
use model::network::HostNetwork;

use super::{Net, lock};
use crate::error::{Doing, NetError};
use crate::firewall::Guards;
use crate::{link, sysctl};

/// `accept_ra`: heard, also by a host that forwards.
const ALWAYS: u32 = 2;
/// Heard by hosts that do not.
const NO_ROUTER: u32 = 1;

impl Net {
    /// Whether the host forwards IPv6 packets, and still hears of routers where it did before we turned that on.
    pub fn forwarding6(&self) -> Result<bool, NetError> {
        if !self.publishes() {
            return Ok(true);
        }
        if !forwards()? {
            return Ok(false);
        }
        // Who forwarded before us hears what it wants to hear.
        if !self.forward_guard6() {
            return Ok(true);
        }
        let uplinks = self.devices(|seen| seen.uplinks.clone())?;
        Ok(uplinks.iter().all(|name| hears(name) != Some(NO_ROUTER)))
    }

    /// Forwarding of IPv6 was off on this host before us: see [`Net::forward_guard`].
    pub fn forward_guard6(&self) -> bool {
        self.guarded6.load(Ordering::Relaxed)
    }

    /// See [`Net::keep_forward_guard`].
    pub fn keep_forward_guard6(&self) {
        self.guarded6.store(true, Ordering::Relaxed);
    }

    /// What is not forwarded but for our bridges, which are these.
    pub(super) fn guards(&self, ours: &[FirewallBridge]) -> Result<Guards, NetError> {
        Ok(Guards {
            v4: self.forward_guard(),
            v6: self.forward_guard6(),
            others: self.bridges_of_others(ours)?,
        })
    }

    /// Bridges that are there and not ours. One that gets its mark yet is known by its name.
    pub(super) fn bridges_of_others(&self, ours: &[FirewallBridge]) -> Result<BTreeSet<String>, NetError> {
        let known = |name: &str| ours.iter().any(|bridge| bridge.bridge == name);
        // A name that is no text is one that nobody can be told of.
        let told = |name: &str| !name.contains(char::REPLACEMENT_CHARACTER);
        self.devices(|seen| {
            let others = seen.links.iter().filter(|(_, l)| l.kind == "bridge" && !l.ours);
            let names = others.map(|(name, _)| name.clone());
            names.filter(|name| told(name) && !known(name)).collect()
        })
    }

    /// Bridges of others came or went since the firewall was last looked at, and matter to it: it is to be looked at again.
    ///
    /// # Errors
    /// Where the devices cannot be listed.
    pub fn guards_are_outdated(&self) -> Result<bool, NetError> {
        let guards = lock(&self.ruleset).as_ref().map(|known| {
            let state = known.state.as_ref().unwrap_or(&known.salvaged);
            (known.guards.clone(), state.bridges.clone())
        });
        match guards {
            Some((guards, ours)) => Ok(guards.are_outdated(&self.bridges_of_others(&ours)?)),
            None => Ok(false),
        }
    }

    /// To be asked before the table is made that is to guard it: notes that forwarding was off.
    pub(super) fn beware_of_forwarding6(&self) -> Result<(), NetError> {
        if !forwards()? {
            self.guarded6.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Turns it on, the table being there. Routes that were learned of routers are lost with that where those are not
    /// heard always, and what they tell later is not heard: so they are.
    pub(super) fn forward6(&self) -> Result<(), NetError> {
        if self.forward_guard6() {
            let uplinks = link::uplinks(&mut self.route(), &self.mark)
                .doing(|| "see where the host hears of IPv6 routers".to_owned())?;
            for uplink in uplinks {
                if hears(&uplink.name) == Some(NO_ROUTER) {
                    sysctl::ensure(&sysctl::accept_ra(&uplink.name), ALWAYS)?;
                }
            }
        }
        sysctl::ensure(sysctl::FORWARD6, 1).map(drop)
    }

    /// Turns it off again where we turned it on; before the table goes that guards it.
    pub(super) fn forward6_no_more(&self) -> Result<(), NetError> {
        if self.guarded6.swap(false, Ordering::Relaxed) && sysctl::exists(sysctl::FORWARD6) {
            sysctl::ensure(sysctl::FORWARD6, 0)?;
        }
        Ok(())
    }
}

/// Refuses on a kernel that cannot.
pub(super) fn check(n: &HostNetwork) -> Result<(), NetError> {
    if n.v6().is_none() || sysctl::exists(sysctl::FORWARD6) {
        return Ok(());
    }
    let why = "this kernel has no IPv6 (`ipv6.disable=1`, or built without it): leave out `subnet6`";
    Err(NetError::invalid(format!("network {}", n.name), why))
}

fn forwards() -> Result<bool, NetError> {
    Ok(sysctl::exists(sysctl::FORWARD6) && sysctl::read(sysctl::FORWARD6)? != 0)
}

/// None where there is no such device any more, or no IPv6 on it.
fn hears(device: &str) -> Option<u32> {
    sysctl::read(&sysctl::accept_ra(device)).ok()
}
