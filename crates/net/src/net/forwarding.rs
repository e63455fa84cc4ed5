//! Forwarding of IPv6: turned on for networks that have it, without the host losing what it hears of routers.

use std::sync::atomic::Ordering;

use model::network::HostNetwork;

use super::Net;
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

    /// What is not forwarded but for our bridges.
    pub(super) fn guards(&self) -> Guards {
        Guards {
            v4: self.forward_guard(),
            v6: self.forward_guard6(),
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
