//! The firewall's part of [`Net`].

use std::sync::atomic::Ordering;

use model::firewall::{FirewallBridge, FirewallState};
use model::network::BridgeNetwork;

use super::{Net, lock};
use crate::error::{Doing, NetError};
use crate::firewall::Current;
use crate::netlink::Netlink;
use crate::{firewall, sysctl};

/// What one look at the firewall shows.
#[derive(Debug)]
pub struct FirewallLook {
    /// See [`Net::firewall`].
    pub state: Option<FirewallState>,
    /// Something of ours is there, be it damaged.
    pub there: bool,
    /// See [`Net::foreign_drops`].
    pub foreign_drops: Result<Vec<String>, NetError>,
}

impl Net {
    /// Makes the firewall know the bridge, then turns forwarding on.
    pub(super) fn shielded(&self, n: &BridgeNetwork) -> Result<(), NetError> {
        // Held until both are done: a removal of the table turns forwarding off again.
        let mut filter = self.filter();
        let forwarded = self.forwarding()?;
        if !forwarded {
            self.guarded.store(true, Ordering::Relaxed);
        }
        self.shield(&mut filter, n)?;
        if !forwarded {
            sysctl::ensure(sysctl::FORWARD, 1)?;
        }
        Ok(())
    }

    fn shield(&self, filter: &mut Netlink, n: &BridgeNetwork) -> Result<(), NetError> {
        let current = firewall::current(filter, &self.keeper)?;
        let known = current.state.as_ref().unwrap_or(&current.salvaged);
        let wanted = FirewallBridge {
            bridge: n.bridge.clone(),
            subnet: n.subnet.trunc(),
            masquerade: n.masquerade,
            internal: n.internal,
            // Of what a network does not tell, whoever applies the whole state has the say.
            dns_port: known
                .bridges
                .iter()
                .find(|b| b.bridge == n.bridge)
                .and_then(|b| b.dns_port),
        };
        let guarded = self.guarded.load(Ordering::Relaxed);
        let right = current
            .state
            .as_ref()
            .is_some_and(|state| state.bridges.contains(&wanted))
            && (current.guarded || !guarded);
        if right {
            return Ok(());
        }
        let mut state = current.state.unwrap_or(current.salvaged);
        state.bridges.retain(|b| b.bridge != n.bridge);
        state.bridges.push(wanted);
        // Still the same hold of the socket: no other change of ours falls between the look and this.
        firewall::apply(filter, &mut self.route(), &self.keeper, &state.sorted(), guarded)
    }

    /// What our table holds, read back from the kernel; none where there is no table, or where its chains, rules or
    /// sets are not exactly what they must be, where it is not protected as the kernel can, where a way of
    /// ours through a chain of iptables is missing, or where flows to changed UDP ports are to be forgotten yet. An error where
    /// the table is somebody else's.
    pub fn firewall(&self) -> Result<Option<FirewallState>, NetError> {
        Ok(self.look_at_firewall()?.state)
    }

    /// All that there is to see of it, of one moment.
    pub fn look_at_firewall(&self) -> Result<FirewallLook, NetError> {
        let mut filter = self.filter();
        let mut ruleset = lock(&self.ruleset);
        // The number of the ruleset's generation tells whether anything of it changed since.
        let now = firewall::generation(&mut filter).doing(|| "read the nftables ruleset".to_owned())?;
        let known = ruleset.take().filter(|known| now != 0 && known.generation == now);
        let current = match known {
            Some(known) => known,
            None => firewall::current(&mut filter, &self.keeper)?,
        };
        let current = ruleset.insert(current);
        if current.guarded {
            self.guarded.store(true, Ordering::Relaxed);
        }
        Ok(FirewallLook {
            foreign_drops: foreign_drops(current),
            state: current.state.clone(),
            there: current.there,
        })
    }

    /// Makes our table hold this, in one transaction from whatever there is.
    ///
    /// Flows to UDP ports that changed are forgotten, so that they follow the change.
    ///
    /// Where there are bridges, forwarding is on afterwards: the table that guards it is there first. Where the forward
    /// or input chain of iptables (in nftables: `ip filter FORWARD`, `INPUT`) drops what it has no rule for, the same
    /// transaction makes a way through it: a chain `WHARF-FORWARD` or `WHARF-INPUT` and one jump to it, both marked.
    pub fn apply_firewall(&self, state: &FirewallState) -> Result<(), NetError> {
        // Held until forwarding is on: see `shielded`.
        let mut filter = self.filter();
        let forward = !state.bridges.is_empty() && !self.forwarding()?;
        if forward {
            self.guarded.store(true, Ordering::Relaxed);
        }
        let guarded = self.guarded.load(Ordering::Relaxed);
        firewall::apply(&mut filter, &mut self.route(), &self.keeper, state, guarded)?;
        if forward {
            sysctl::ensure(sysctl::FORWARD, 1)?;
        }
        Ok(())
    }

    /// Removes our table; absent is fine. The host's loopback is closed to our bridges first.
    ///
    /// Where forwarding was off before us it is turned off again before its guard goes with the table; from then on
    /// [`Net::forward_guard`] says no.
    pub fn remove_firewall(&self) -> Result<(), NetError> {
        let mut filter = self.filter();
        // Also an answer to whose the table is, before anything is touched.
        let current = firewall::current(&mut filter, &self.keeper)?;
        for link in self
            .look()?
            .0
            .iter()
            .filter(|l| l.kind == "bridge" && self.mark.is_on(l))
        {
            sysctl::ensure(&sysctl::route_localnet(&link.name), 0)?;
        }
        if current.guarded || self.forward_guard() {
            sysctl::ensure(sysctl::FORWARD, 0)?;
        }
        firewall::remove(&mut filter, &mut self.route(), &self.keeper)?;
        self.guarded.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What others' firewalls drop of our bridges' traffic and is not ours to change: what is there, and what to do, for
    /// users. Of forward and input chains of nftables, of firewalld, and of iptables-legacy.
    pub fn foreign_drops(&self) -> Result<Vec<String>, NetError> {
        self.look_at_firewall()?.foreign_drops
    }

    /// Forwarding was off on this host before us, so what concerns no bridge of ours is not forwarded.
    ///
    /// [`Net::apply_bridge`] finds that out and the table keeps it; whoever wants it to last when the table is lost
    /// (a foreign `nft flush ruleset`) remembers it and says so with [`Net::keep_forward_guard`] after [`Net::new`].
    pub fn forward_guard(&self) -> bool {
        self.guarded.load(Ordering::Relaxed)
    }

    /// See [`Net::forward_guard`]; takes effect with the next change of the firewall.
    pub fn keep_forward_guard(&self) {
        self.guarded.store(true, Ordering::Relaxed);
    }
}

fn foreign_drops(current: &Current) -> Result<Vec<String>, NetError> {
    let state = current.state.as_ref().unwrap_or(&current.salvaged);
    let mut out = firewall::drops(&current.foreign, &state.bridges);
    out.extend(firewall::legacy_drops(&state.bridges)?);
    Ok(out)
}
