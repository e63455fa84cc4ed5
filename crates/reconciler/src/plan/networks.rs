//! Networks: accepted with subnet and device decided, then made, put right, or made anew.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use model::action::{Action, Noun};
use model::desired::Declared;
use model::ledger::{ContainerEntry, NetworkEntry};
use model::name::{ContainerId, Name};
use model::network::BridgeNetwork;
use model::observed::{Look, ObservedLink};
use model::plan::{Op, Reason};
use model::spec::NetworkSpec;

use super::resources::uses;
use super::{Blocked, Pass, Ready};
use crate::allocate::{address::gateway_of, device, subnet};
use crate::diff;

impl<'a> Pass<'a, '_> {
    /// Takes up what the files say of networks that are declared or used.
    pub(super) fn accept_networks(&mut self) {
        let needed = self.needed_networks();
        let now = self.input.now;
        let names: Vec<Name> = self.ledger.networks.keys().cloned().collect();
        for name in names {
            let gone = !needed.contains(&name) && !self.network_is_held(&name);
            if let Some(entry) = self.ledger.networks.get_mut(&name) {
                entry.gone_since = gone.then(|| entry.gone_since.map_or(now, |since| since.min(now)));
            }
        }
        self.forget_networks();
        let desired = self.input.desired;
        for name in needed {
            let noun = Noun::Network(name.clone());
            if let Some(declared) = desired.networks.get(&name)
                && !self.busy(&noun)
                && let Err(blocked) = self.accept_network(&name, declared)
            {
                self.networks.insert(name, Ready::Waits(blocked.why.clone()));
                self.hold_up(noun, blocked);
            }
        }
    }

    /// What was made anew is no longer under replacement once the host shows it.
    pub(super) fn note_replaced(&mut self) {
        let Some(links) = self.input.observed.links.known() else {
            return;
        };
        for entry in self.ledger.networks.values_mut() {
            let (new, old) = (&entry.network, &entry.replacing);
            let shown = differences(new, links.get(&new.bridge)).is_empty();
            let left =
                |o: &BridgeNetwork| o.bridge != new.bridge && links.get(&o.bridge).is_some_and(|l| l.ours);
            if shown && !old.as_ref().is_some_and(left) {
                entry.replacing = None;
            }
        }
    }

    /// Declared by a table, or used by a container that is wanted.
    fn needed_networks(&self) -> BTreeSet<Name> {
        let desired = self.input.desired;
        let declared = desired
            .networks
            .iter()
            .filter(|(_, n)| !n.origin.file.is_empty())
            .map(|(n, _)| n.clone());
        let used = desired
            .containers
            .values()
            .flat_map(|c| uses(&c.spec))
            .map(|u| u.network);
        declared
            .chain(used.filter(|n| desired.networks.contains_key(n)))
            .collect()
    }

    fn accept_network(&mut self, name: &Name, declared: &'a Declared<NetworkSpec>) -> Result<(), Blocked> {
        let spec = &declared.spec;
        let before = self.ledger.networks.get(name).cloned();
        let keeps = |e: &NetworkEntry| e.spec == *spec && !self.must_move(e);
        if let Some(mut entry) = before.clone().filter(keeps) {
            entry.origin.clone_from(&declared.origin);
            self.ledger.networks.insert(name.clone(), entry);
            return Ok(());
        }
        let network = self.decide_network(name, spec, before.as_ref())?;
        let replacing = before.as_ref().and_then(|b| {
            let device = |n: &BridgeNetwork| (n.bridge.clone(), n.subnet, n.gateway, n.mtu);
            let anew = device(&b.network) != device(&network);
            b.replacing.clone().or_else(|| anew.then(|| b.network.clone()))
        });
        if before.as_ref().is_some_and(|b| b.spec.dns != spec.dns) {
            self.renew_name_servers(name);
        }
        let origin = declared.origin.clone();
        let entry = NetworkEntry {
            network,
            spec: spec.clone(),
            origin,
            gone_since: None,
            replacing,
        };
        self.ledger.networks.insert(name.clone(), entry);
        Ok(())
    }

    /// Those on a network that has, or has no more, the name server are started again to ask elsewhere.
    fn renew_name_servers(&mut self, network: &Name) {
        let on_it: BTreeSet<ContainerId> = self
            .ledger
            .accepted()
            .filter(|(_, a)| a.attachments.iter().any(|at| at.network == *network))
            .filter(|(_, a)| a.spec.dns.is_empty() && self.look_at(a).may_be_live())
            .map(|(_, a)| a.id.clone())
            .collect();
        for entry in self.ledger.containers.values_mut() {
            for accepted in entry.all_mut() {
                accepted.stale |= on_it.contains(&accepted.id);
            }
        }
    }

    /// Why they are, in the pass that finds out.
    pub(super) fn other_name_servers(&self, name: &Name, entry: &NetworkEntry) -> Vec<Reason> {
        let before = self.input.ledger.networks.get(name);
        let changes = before.map(|b| diff::network(&b.spec, &entry.spec, &entry.origin));
        let dns = changes
            .into_iter()
            .flatten()
            .map(|c| c.reason)
            .filter(|r| r.field == "dns");
        dns.map(|r| Reason {
            field: format!("network {name}: dns"),
            ..r
        })
        .collect()
    }

    /// A picked subnet that the host has taken meanwhile is given up, as long as nobody lives in it.
    fn must_move(&self, entry: &NetworkEntry) -> bool {
        let net = entry.network.subnet;
        entry.spec.subnet.is_none()
            && self.foreign_overlap(net).is_some()
            && self
                .input
                .observed
                .links
                .known()
                .is_some_and(|l| !l.contains_key(&entry.network.bridge))
            && !self.has_live_users(&entry.network.name)
    }

    fn decide_network(
        &self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
    ) -> Result<BridgeNetwork, Blocked> {
        let net = self.decide_subnet(name, spec, before)?;
        let kept = before
            .filter(|b| b.spec.bridge.is_none())
            .map(|b| b.network.bridge.clone());
        let bridge = spec.bridge.clone().or(kept).unwrap_or_else(|| {
            let written = |d: &str| {
                self.input
                    .desired
                    .networks
                    .values()
                    .any(|n| n.spec.bridge.as_deref() == Some(d))
            };
            let used = |d: &str| {
                self.ledger
                    .networks
                    .values()
                    .any(|n| n.network.bridge == d && n.network.name != *name)
            };
            device::bridge(name, |d| written(d) || used(d))
        });
        Ok(BridgeNetwork {
            name: name.clone(),
            bridge,
            subnet: net,
            gateway: gateway_of(spec, net),
            range: spec.range,
            mtu: spec.mtu,
            internal: spec.internal,
            masquerade: spec.masquerade,
        })
    }

    fn decide_subnet(
        &self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
    ) -> Result<Ipv4Net, Blocked> {
        if let Some(net) = spec.subnet {
            return self.written_subnet(name, net);
        }
        let kept = before
            .filter(|b| b.spec.subnet.is_none() && !self.must_move(b))
            .map(|b| b.network.subnet);
        if let Some(net) = kept {
            return Ok(net);
        }
        let foreign = match &self.input.observed.foreign_addresses {
            Look::Known(list) => list.iter().map(|f| f.address),
            Look::Unknown(why) => {
                return Err(Blocked::wait(format!("cannot see which subnets are free: {why}")));
            }
        };
        let ours = self
            .ledger
            .networks
            .values()
            .filter(|n| n.network.name != *name)
            .flat_map(|n| std::iter::once(n.network.subnet).chain(n.replacing.as_ref().map(|r| r.subnet)));
        let declared = self.input.desired.networks.values().filter_map(|n| n.spec.subnet);
        let taken: Vec<Ipv4Net> = foreign.chain(ours).chain(declared).collect();
        let pool = &self.input.desired.settings.pool;
        subnet::pick(pool, &taken).ok_or_else(|| {
            Blocked::error("no free /24 is left in settings' [network] pool; give the network a subnet, or widen the pool")
        })
    }

    /// A written subnet against those that others keep: declared ones were compared with each other before.
    fn written_subnet(&self, name: &Name, net: Ipv4Net) -> Result<Ipv4Net, Blocked> {
        let mut others = self.ledger.networks.iter().filter(|(other, _)| *other != name);
        let clash = others.find(|(other, e)| {
            let written = self
                .input
                .desired
                .networks
                .get(*other)
                .and_then(|d| d.spec.subnet);
            written.is_none() && subnet::overlap(e.network.subnet, net)
        });
        match clash {
            None => Ok(net),
            Some((other, entry)) => {
                let why = format!(
                    "subnet {net} overlaps {} of network {other}",
                    entry.network.subnet
                );
                let leaves = entry.gone_since.is_some() || self.network_is_held(other);
                if leaves {
                    return Err(Blocked::wait(format!("waits: {why}")));
                }
                Err(Blocked::error(format!(
                    "{why}, which was picked for it; use another subnet"
                )))
            }
        }
    }

    /// Device and address of the host, without us, in this subnet.
    fn foreign_overlap(&self, net: Ipv4Net) -> Option<(&'a str, Ipv4Net)> {
        let list = self.input.observed.foreign_addresses.known()?;
        let clash = list.iter().find(|f| subnet::overlap(f.address, net))?;
        Some((clash.device.as_str(), clash.address))
    }

    /// Makes, puts right or makes anew what the host does not show as accepted.
    pub(super) fn act_on_networks(&mut self) {
        let names: Vec<Name> = self.ledger.networks.keys().cloned().collect();
        for name in names {
            let Some(entry) = self.ledger.networks.get(&name).cloned() else {
                continue;
            };
            let ready = self.act_on_network(&name, entry);
            // What was refused in `accept_networks` stands as it was accepted before; others wait all the same.
            self.networks.entry(name).or_insert(ready);
        }
    }

    fn act_on_network(&mut self, name: &Name, entry: NetworkEntry) -> Ready {
        let noun = Noun::Network(name.clone());
        if self.busy(&noun) {
            self.wait(noun, "is being changed", None);
            return Ready::Waits(format!("waits for network {name}"));
        }
        let links = match &self.input.observed.links {
            Look::Known(links) => links,
            Look::Unknown(why) => {
                let why = format!("the host's devices cannot be looked at: {why}");
                self.wait(noun, why.clone(), None);
                return Ready::Waits(format!("waits for network {name}: {why}"));
            }
        };
        let shown = differences(&entry.network, links.get(&entry.network.bridge));
        let old = entry
            .replacing
            .as_ref()
            .filter(|o| links.get(&o.bridge).is_some_and(|l| l.ours));
        let old = old.filter(|o| o.bridge != entry.network.bridge || !shown.is_empty());
        if shown.is_empty() && old.is_none() {
            return Ready::Now;
        }
        if entry.gone_since.is_some() && !self.has_live_users(name) && !self.has_users_that_stay(name) {
            return Ready::Waits(format!("network {name} is being removed"));
        }
        match self.change_network(name, &entry, old, shown) {
            Ok(ready) => ready,
            Err(blocked) => {
                let why = format!("waits for network {name}: {}", blocked.why);
                self.hold_up(noun, blocked);
                Ready::Waits(why)
            }
        }
    }

    /// Whether some container that is as last accepted, and wanted so, has a place in it: its table may have an error, or
    /// what it says now may have been taken back.
    fn has_users_that_stay(&self, network: &Name) -> bool {
        let entries = self.ledger.containers.values();
        let mut staying = entries
            .filter(|e| e.gone_since.is_none())
            .flat_map(ContainerEntry::all);
        staying.any(|a| a.attachments.iter().any(|at| at.network == *network))
    }

    fn change_network(
        &mut self,
        name: &Name,
        entry: &NetworkEntry,
        old: Option<&BridgeNetwork>,
        shown: Vec<Reason>,
    ) -> Result<Ready, Blocked> {
        if entry.replacing.is_some() && self.has_live_users(name) {
            return Err(Blocked::wait(
                "its containers are stopped first, and started again on it as it is then",
            ));
        }
        let mut after = Vec::new();
        if let Some(old) = old {
            if let Some(blocked) = self.resting(
                &Noun::Network(name.clone()),
                None,
                &old.bridge,
                &Default::default(),
            ) {
                return Err(blocked);
            }
            let reasons = why_anew(entry, old);
            let action = Action::RemoveNetwork {
                name: name.clone(),
                bridge: old.bridge.clone(),
            };
            after.push(self.act(Op::Replace, action, Vec::new(), reasons));
        }
        self.may_apply(&entry.network, old)?;
        let known = self.input.ledger.networks.contains_key(name);
        let op = match (old.is_some(), known) {
            (true, _) => Op::Replace,
            (false, true) => Op::Update,
            (false, false) => Op::Create,
        };
        let reasons = if op == Op::Create {
            vec![created(entry)]
        } else {
            match &entry.replacing {
                Some(old) => why_anew(entry, old),
                None => shown,
            }
        };
        let network = entry.network.clone();
        Ok(Ready::After(self.act(
            op,
            Action::ApplyNetwork { network },
            after,
            reasons,
        )))
    }

    /// What forbids making this device now.
    fn may_apply(&self, network: &BridgeNetwork, old: Option<&BridgeNetwork>) -> Result<(), Blocked> {
        if let Some(link) = self.link(&network.bridge).filter(|l| !l.ours) {
            let kind = if link.kind.is_empty() {
                "device"
            } else {
                &link.kind
            };
            return Err(Blocked::error(format!(
                "{kind} {} is there already and is not wharf's; name another with `bridge`, or remove it",
                network.bridge
            )));
        }
        match &self.input.observed.foreign_addresses {
            Look::Known(_) => {}
            Look::Unknown(why) => {
                return Err(Blocked::wait(format!(
                    "cannot see whether its subnet is free: {why}"
                )));
            }
        }
        if let Some((device, address)) = self.foreign_overlap(network.subnet) {
            return Err(Blocked::error(format!(
                "subnet {} collides with {address} on the host's {device}; use another subnet",
                network.subnet
            )));
        }
        let links = self.input.observed.links.known().into_iter().flatten();
        let mut others = links.filter(|(name, link)| {
            link.ours && **name != network.bridge && old.is_none_or(|o| o.bridge != **name)
        });
        if let Some((device, _)) =
            others.find(|(_, l)| l.addresses.iter().any(|a| subnet::overlap(*a, network.subnet)))
        {
            return Err(Blocked::wait(format!(
                "{device} still has an address in {}",
                network.subnet
            )));
        }
        match self.resting(
            &Noun::Network(network.name.clone()),
            None,
            network,
            &Default::default(),
        ) {
            Some(blocked) => Err(blocked),
            None => Ok(()),
        }
    }
}

/// What of a network asks for another device.
pub(super) fn why_anew(entry: &NetworkEntry, old: &BridgeNetwork) -> Vec<Reason> {
    let new = &entry.network;
    let mtu = |n: &BridgeNetwork| n.mtu.map_or_else(|| "the kernel's".to_owned(), |m| m.to_string());
    let fields = [
        ("bridge", old.bridge.clone(), new.bridge.clone()),
        ("subnet", old.subnet.to_string(), new.subnet.to_string()),
        ("gateway", old.gateway.to_string(), new.gateway.to_string()),
        ("mtu", mtu(old), mtu(new)),
    ];
    let moved = old.subnet != new.subnet;
    let changed = fields
        .into_iter()
        // Another subnet has another gateway: that goes without saying.
        .filter(|(field, from, to)| from != to && !(moved && *field == "gateway"));
    let one = |(field, from, to): (&str, String, String)| {
        let at = entry.origin.key(field);
        Reason {
            field: field.to_owned(),
            from: Some(from),
            to: Some(to),
            file: Some(at.file).filter(|f| !f.is_empty()),
            line: at.line,
        }
    };
    let reasons: Vec<Reason> = changed.map(one).collect();
    if reasons.is_empty() {
        return vec![Reason::because("its device is made anew")];
    }
    reasons
}

fn created(entry: &NetworkEntry) -> Reason {
    let declared = !entry.origin.file.is_empty();
    Reason {
        field: if declared {
            "is declared"
        } else {
            "a container uses it"
        }
        .to_owned(),
        from: None,
        to: None,
        file: Some(entry.origin.file.clone()).filter(|_| declared),
        line: Some(entry.origin.line).filter(|_| declared),
    }
}

/// How the device differs from what was accepted.
fn differences(network: &BridgeNetwork, link: Option<&ObservedLink>) -> Vec<Reason> {
    let device = &network.bridge;
    let Some(link) = link else {
        return vec![Reason::because(format!("device {device} is missing"))];
    };
    let mut reasons = Vec::new();
    let mut check = |good: bool, text: String| {
        if !good {
            reasons.push(Reason::because(text));
        }
    };
    check(
        link.ours && link.kind == "bridge",
        format!("{device} is not wharf's bridge"),
    );
    check(link.up, format!("{device} is down"));
    let address = Ipv4Net::new(network.gateway, network.subnet.prefix_len());
    let has = address.is_ok_and(|a| link.addresses.contains(&a));
    check(
        has,
        format!(
            "{device} lacks the address {}/{}",
            network.gateway,
            network.subnet.prefix_len()
        ),
    );
    check(
        network.mtu.is_none_or(|mtu| mtu == link.mtu),
        format!("{device} has mtu {}", link.mtu),
    );
    check(link.route_localnet, format!("route_localnet of {device} is off"));
    reasons
}
