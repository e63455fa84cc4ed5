//! The firewall's part of [`Net`].

use std::sync::atomic::Ordering;

use model::firewall::{Backend, FirewallBridge, FirewallState, LinkRule, PortRule};
use model::network::{Driver, HostNetwork};
use model::observed::{BackendSeen, ForeignDrop};

use super::{Net, lock};
use crate::error::{Doing, NetError};
use crate::firewall::{Asked, Current, Firewalld, LegacyWatch};
use crate::netlink::Netlink;
use crate::{firewall, sysctl};

/// What there is to be done when its rules are loaded anew, or a zone of it was changed.
const SHUT: &str = "firewalld does not let its networks through";
/// See [`firewall::Guards`].
const OUTDATED: &str = "bridges of others came or went, whose own packets it lets alone";

/// What one look at the firewall shows.
#[derive(Debug)]
pub struct FirewallLook {
    /// See [`Net::firewall`].
    pub state: Option<FirewallState>,
    /// Why there is none, where something is there: for users.
    pub wrong: Option<&'static str>,
    /// Something of ours is there, be it damaged.
    pub there: bool,
    /// See [`Net::foreign_drops`].
    pub foreign_drops: Result<Vec<ForeignDrop>, NetError>,
    /// What keeps from telling who reaches a port, for users.
    pub unjudged: Option<String>,
}

impl Net {
    /// Makes the firewall know the bridge, then turns forwarding on.
    pub(super) fn shielded(&self, n: &HostNetwork) -> Result<(), NetError> {
        if !self.publishes() {
            return Ok(());
        }
        // Held until both are done: a removal of the table turns forwarding off again.
        let mut filter = self.filter();
        // Or it need not be.
        let forwarded = n.v4().is_none() || self.forwarding()?;
        if !forwarded {
            self.guarded.store(true, Ordering::Relaxed);
        }
        if n.v6().is_some() {
            self.beware_of_forwarding6()?;
        }
        self.shield(&mut filter, n)?;
        if !forwarded {
            sysctl::ensure(sysctl::FORWARD, 1)?;
        }
        match n.v6() {
            Some(_) => self.forward6(),
            None => Ok(()),
        }
    }

    fn shield(&self, filter: &mut Netlink, n: &HostNetwork) -> Result<(), NetError> {
        let current = self.backend.current(filter)?;
        let known = current.state.as_ref().unwrap_or(&current.salvaged);
        // Of what a network does not tell, whoever applies the whole state has the say.
        let before = known.bridges.iter().find(|b| b.bridge == n.bridge);
        let wanted = FirewallBridge::of(n, before.and_then(|b| b.dns_port));
        let tunnel = match &n.driver {
            Driver::Overlay(tunnel) => tunnel.rule(),
            _ => None,
        };
        let (v4, v6) = (self.forward_guard(), self.forward_guard6());
        let right = current.state.as_ref().is_some_and(|state| {
            state.bridges.contains(&wanted) && tunnel.iter().all(|t| state.tunnels.contains(t))
        }) && (current.guards.v4 || !v4)
            && (current.guards.v6 || !v6 || n.v6().is_none());
        if right {
            return Ok(());
        }
        let mut state = current.state.unwrap_or(current.salvaged);
        state.bridges.retain(|b| b.bridge != n.bridge);
        state.bridges.push(wanted);
        let leads = |port: &PortRule| *port.bridge != n.bridge || n.has_family_of(port.target_ip);
        state.ports.retain(leads);
        let leads = |link: &LinkRule| n.isolated && n.has_family_of(link.to);
        state.links.retain(|link| link.bridge != n.bridge || leads(link));
        if let Some(tunnel) = tunnel {
            state
                .tunnels
                .retain(|t| (t.port, t.vni) != (tunnel.port, tunnel.vni));
            state.tunnels.push(tunnel);
        }
        // Still the same hold of the socket: no other change of ours falls between the look and this.
        self.set(filter, &state.sorted())
    }

    /// What was read before is of before.
    fn set(&self, filter: &mut Netlink, state: &FirewallState) -> Result<(), NetError> {
        *lock(&self.ruleset) = None;
        let guards = self.guards(&state.bridges)?;
        self.backend.apply(filter, &mut self.route(), state, &guards)
    }

    /// What the rules are kept in.
    pub fn backend(&self) -> BackendSeen {
        BackendSeen {
            kind: self.backend.kind,
            remark: self.backend.remark(),
            unjudged: None,
        }
    }

    /// Who looks for changes of it now and then, where the kernel tells of none: from now on, so before the rules are
    /// looked at for the first time.
    pub fn watch_legacy(&self) -> Option<LegacyWatch> {
        self.backend.is_legacy().then(LegacyWatch::begin)
    }

    /// There is a firewall of ours.
    pub(super) fn publishes(&self) -> bool {
        self.backend.kind != Backend::None
    }

    /// What our table holds, read back from the kernel; none where there is no table, or where its chains, rules or
    /// sets are not exactly what they must be, where it is not protected as the kernel can, where a way of
    /// ours through a chain of iptables is missing, or where flows to changed UDP ports are to be forgotten yet. An error where
    /// the table is somebody else's.
    ///
    /// With a relay, its ports are part of it.
    pub fn firewall(&self) -> Result<Option<FirewallState>, NetError> {
        Ok(self.look_at_firewall()?.state)
    }

    /// All that there is to see of it, of one moment.
    pub fn look_at_firewall(&self) -> Result<FirewallLook, NetError> {
        let mut filter = self.filter();
        let mut ruleset = lock(&self.ruleset);
        // The number of the ruleset's generation tells whether anything of it changed since.
        let now = self.backend.generation(&mut filter)?;
        let known = ruleset.take().filter(|known| now != 0 && known.generation == now);
        let current = match known {
            Some(known) => known,
            None => self.backend.current(&mut filter)?,
        };
        let current = ruleset.insert(current);
        if current.guards.v4 {
            self.keep_forward_guard();
        }
        if current.guards.v6 {
            self.keep_forward_guard6();
        }
        let asked = lock(&self.asked);
        let (state, wrong) = match &current.state {
            None => (None, current.wrong),
            Some(state) if !is_let_through(current, state, asked.as_ref()) => (None, Some(SHUT)),
            Some(state)
                if current
                    .guards
                    .are_outdated(&self.bridges_of_others(&state.bridges)?) =>
            {
                (None, Some(OUTDATED))
            }
            Some(state) => match self.with_loopback(state)? {
                None => (
                    None,
                    Some("ports on loopback addresses are not served as they should be"),
                ),
                whole => (whole, None),
            },
        };
        Ok(FirewallLook {
            wrong,
            foreign_drops: match self.publishes() {
                true => foreign_drops(current, asked.as_ref()),
                // Whoever does without us sees to it himself.
                false => Ok(Vec::new()),
            },
            state,
            there: current.there,
            unjudged: current.unjudged.clone(),
        })
    }

    /// With the ports that the relay serves; none where it does not serve what it should.
    fn with_loopback(&self, state: &FirewallState) -> Result<Option<FirewallState>, NetError> {
        let mut state = state.clone();
        let Some(relay) = &self.relay else {
            return Ok(Some(state));
        };
        let Some(bound) = relay.bound(&state.ports)? else {
            return Ok(None);
        };
        state.ports.extend(bound);
        Ok(Some(state.sorted()))
    }

    /// Makes our table hold this, in one transaction from whatever there is.
    ///
    /// Flows to UDP ports that changed are forgotten, so that they follow the change.
    ///
    /// Where there are bridges, forwarding is on afterwards, of the families that they have: the table that guards it is there first. Where the forward
    /// or input chain of iptables (in nftables: `ip filter FORWARD`, `INPUT`) drops what it has no rule for, the same
    /// transaction makes a way through it: a chain `WHARF-FORWARD` or `WHARF-INPUT` and one jump to it, both marked.
    ///
    /// firewalld is asked over D-Bus to let the bridges through; what it says to that is no failure of this, but seen by
    /// the next look.
    pub fn apply_firewall(&self, state: &FirewallState) -> Result<(), NetError> {
        if !self.publishes() {
            return self.leave_to_others(state);
        }
        self.leave_firewalld(state)?;
        // Held until forwarding is on: see `shielded`.
        let mut filter = self.filter();
        let forward = firewall::has_ipv4(state) && !self.forwarding()?;
        if forward {
            self.guarded.store(true, Ordering::Relaxed);
        }
        let (table, bound) = without_loopback(state);
        if self.relay.is_none() && !bound.is_empty() {
            let why = "there is no relay to serve it";
            return Err(NetError::invalid("a port published on a loopback address", why));
        }
        let ipv6 = firewall::has_ipv6(state);
        match ipv6 {
            true => self.beware_of_forwarding6()?,
            // Without a network of IPv6 there is nothing to guard it.
            false => self.forward6_no_more()?,
        }
        self.set(&mut filter, &table)?;
        if forward {
            sysctl::ensure(sysctl::FORWARD, 1)?;
        }
        if ipv6 {
            self.forward6()?;
        }
        drop(filter);
        if let Some(relay) = &self.relay {
            relay.apply(&state.ports)?;
        }
        self.ask_firewalld(state)
    }

    /// Without a firewall of ours: what one of before left goes, with what it had turned on; ports that the relay has are
    /// served.
    fn leave_to_others(&self, state: &FirewallState) -> Result<(), NetError> {
        let mut filter = self.filter();
        let left = self.backend.is_left(&mut filter)? || self.forward_guard() || self.forward_guard6();
        drop(filter);
        if left {
            self.remove_firewall()?;
        }
        let (told, _) = without_loopback(state);
        self.set(&mut self.filter(), &told)?;
        match &self.relay {
            Some(relay) => relay.apply(&state.ports),
            None => Ok(()),
        }
    }

    /// Removes our table; absent is fine. The host's loopback is closed to our bridges first.
    ///
    /// Where forwarding was off before us it is turned off again before its guard goes with the table; from then on
    /// [`Net::forward_guard`] says no.
    pub fn remove_firewall(&self) -> Result<(), NetError> {
        self.leave_firewalld(&FirewallState::default())?;
        let mut filter = self.filter();
        // Also an answer to whose the table is, before anything is touched.
        let current = self.backend.current(&mut filter)?;
        for link in self
            .look()?
            .0
            .iter()
            .filter(|l| l.kind == "bridge" && self.mark.is_on(l))
        {
            sysctl::ensure(&sysctl::route_localnet(&link.name), 0)?;
        }
        if current.guards.v4 || self.forward_guard() {
            sysctl::ensure(sysctl::FORWARD, 0)?;
        }
        if current.guards.v6 {
            self.keep_forward_guard6();
        }
        self.forward6_no_more()?;
        if let Some(relay) = &self.relay {
            relay.apply(&[])?;
        }
        *lock(&self.ruleset) = None;
        self.backend.remove(&mut filter, &mut self.route())?;
        self.guarded.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What others' firewalls drop of our bridges' traffic and is not ours to change: what is there, and what to do, for
    /// users. Of forward and input chains of nftables, of firewalld, and of iptables-legacy.
    pub fn foreign_drops(&self) -> Result<Vec<ForeignDrop>, NetError> {
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

/// What is the table's, and the ports on loopback addresses that are the relay's.
fn without_loopback(state: &FirewallState) -> (FirewallState, Vec<PortRule>) {
    let mut table = state.clone();
    let (bound, ports) = table.ports.into_iter().partition(PortRule::is_relayed);
    table.ports = ports;
    (table, bound)
}

/// firewalld does, or there is nothing to be done about it.
fn is_let_through(current: &Current, state: &FirewallState, asked: Option<&Asked>) -> bool {
    let Some(firewalld) = &current.firewalld else {
        return true;
    };
    firewalld.was_asked(&firewalld.shut(&state.bridges), asked)
}

fn foreign_drops(current: &Current, asked: Option<&Asked>) -> Result<Vec<ForeignDrop>, NetError> {
    let state = current.state.as_ref().unwrap_or(&current.salvaged);
    let mut out = firewall::drops(&current.foreign, state, !current.legacy);
    if let Some(firewalld) = &current.firewalld {
        out.extend(firewalld.drops_of(&state.bridges, asked));
        out.extend(firewalld.drops_of_peers(&state.peers));
    }
    if !current.legacy {
        out.extend(firewall::legacy_drops(state)?);
    }
    Ok(out)
}

/// firewalld's part: what it is asked for our bridges.
impl Net {
    /// Asks it to let through these bridges where it does not. What it says is kept: see [`FirewallLook`].
    fn ask_firewalld(&self, state: &FirewallState) -> Result<(), NetError> {
        let Some(firewalld) = self.firewalld()? else {
            lock(&self.asked).take();
            return Ok(());
        };
        let shut = firewalld.shut(&state.bridges);
        if firewalld.was_asked(&shut, lock(&self.asked).as_ref()) {
            return Ok(());
        }
        // Nobody waits for it but who asks: neither lock is held.
        let (owner, answers) = firewall::admit(&shut);
        // What it said is about the rules it has now.
        let later = self.firewalld()?.unwrap_or(firewalld);
        *lock(&self.asked) = Some(later.noted(owner, answers));
        Ok(())
    }

    /// Has it forget those bridges of ours that are none of these. A device that is somebody else's stays where it is.
    fn leave_firewalld(&self, state: &FirewallState) -> Result<(), NetError> {
        let Some(firewalld) = self.firewalld()? else {
            return Ok(());
        };
        let mut gone = firewalld.zoned();
        for bridge in &state.bridges {
            gone.remove(&bridge.bridge);
        }
        if !gone.is_empty() {
            let links = self.look()?.0;
            let foreign = |name: &String| links.iter().any(|l| l.name == *name && !self.mark.is_on(l));
            gone.retain(|name| !foreign(name));
        }
        firewall::dismiss(&gone).map_err(|source| NetError::Firewalld {
            bridges: gone.into_iter().collect::<Vec<_>>().join(", "),
            source,
        })
    }

    fn firewalld(&self) -> Result<Option<Firewalld>, NetError> {
        firewall::firewalld(&mut self.filter()).doing(|| "look at the rules of firewalld".to_owned())
    }
}
