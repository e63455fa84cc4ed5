//! Networks: accepted with subnet and device decided, then made, put right, or made anew.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::action::{Action, Noun};
use model::desired::Declared;
use model::families::Families;
use model::ledger::{ContainerEntry, NetworkEntry};
use model::name::{ContainerId, Name};
use model::network::{Driver, HostNetwork, Subnet6};
use model::observed::{Ipv6State, Look, ObservedLink};
use model::plan::{Op, Reason};
use model::spec::NetworkSpec;

use super::resources::uses;
use super::{Blocked, Pass, Ready, lan, overlay};
use crate::allocate::{device, subnet};
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
            let shown = differences(new, links).is_empty();
            let left =
                |o: &HostNetwork| o.bridge != new.bridge && links.get(&o.bridge).is_some_and(|l| l.ours);
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
        let (driver, mtu) = self.decide_driver(name, spec, before.as_ref())?;
        let keeps = |e: &NetworkEntry| {
            let same = e.spec == *spec && e.network.driver == driver;
            let ranged = || {
                self.decide_range(name, spec, Some(e))
                    .is_ok_and(|range| e.network.v4().is_none_or(|v4| v4.range == range))
            };
            same && !self.must_move(e) && self.has_its_gateways(e) && ranged()
        };
        if let Some(mut entry) = before.clone().filter(keeps) {
            entry.origin.clone_from(&declared.origin);
            self.ledger.networks.insert(name.clone(), entry);
            return Ok(());
        }
        let v6 = self.decide_v6(name, spec, before.as_ref())?;
        let network = HostNetwork {
            driver,
            mtu,
            ..self.decide_network(name, spec, before.as_ref(), v6)?
        };
        let replacing = before.as_ref().and_then(|b| {
            let device = |n: &HostNetwork| {
                let driver = (std::mem::discriminant(&n.driver), n.is_lan(), overlay::make(n));
                let v4 = n.v4().map(|v4| (v4.subnet, v4.gateway));
                (n.bridge.clone(), v4, n.mtu, driver)
            };
            // Of a LAN there is nothing to be made anew: each container is attached as the network is then.
            let lans = b.network.is_lan() && network.is_lan();
            let anew = !lans && device(&b.network) != device(&network);
            b.replacing.clone().or_else(|| anew.then(|| b.network.clone()))
        });
        let asked_elsewhere = |b: &NetworkEntry| {
            let lans = b.network.is_lan() && network.is_lan();
            b.spec.dns != spec.dns || lans && b.network.host_addresses() != network.host_addresses()
        };
        if before.as_ref().is_some_and(asked_elsewhere) {
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
            .filter(|r| ["dns", "host_access"].contains(&r.field.as_str()));
        dns.map(|r| Reason {
            field: format!("network {name}: {}", r.field),
            ..r
        })
        .collect()
    }

    /// What of its table gives a network other IPv6 on the device it has, in the pass that finds out.
    pub(super) fn other_ipv6(&self, name: &Name, entry: &NetworkEntry) -> Option<Vec<Reason>> {
        let before = self.input.ledger.networks.get(name)?;
        let of = |e: &NetworkEntry| e.network.v6().map(|v6| (v6.subnet, v6.gateway));
        if of(before) == of(entry) {
            return None;
        }
        let changes = diff::network(&before.spec, &entry.spec, &entry.origin).into_iter();
        let keys = ["subnet6", "gateway6", "ipv6"];
        let reasons: Vec<Reason> = changes
            .map(|c| c.reason)
            .filter(|r| keys.contains(&r.field.as_str()))
            .collect();
        (!reasons.is_empty()).then_some(reasons)
    }

    fn decide_network(
        &self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
        v6: Option<Subnet6>,
    ) -> Result<HostNetwork, Blocked> {
        let v4 = self.decide_v4(name, spec, before)?;
        let neither = || Blocked::error("it has neither IPv4 nor IPv6; take out `ipv4 = false`");
        let ip = Families::new(v4, v6).ok_or_else(neither)?;
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
        Ok(HostNetwork {
            name: name.clone(),
            bridge,
            ip,
            mtu: spec.mtu,
            internal: spec.internal,
            isolated: !spec.icc,
            driver: Default::default(),
        })
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
        let lacks = self.lacks_ground(&entry.network);
        let lacks = lacks.or_else(|| self.lacks_switch(&entry.network));
        if let Some(blocked) = lacks.filter(|_| entry.gone_since.is_none()) {
            let why = format!("waits for network {name}: {}", blocked.why);
            self.hold_up(noun, blocked);
            return Ready::Waits(why);
        }
        let shown = differences(&entry.network, links);
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
        old: Option<&HostNetwork>,
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
                None => self.other_ipv6(name, entry).unwrap_or(shown),
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
    fn may_apply(&self, network: &HostNetwork, old: Option<&HostNetwork>) -> Result<(), Blocked> {
        let ours = !network.is_lan() || network.driver.below().is_some_and(|below| below.host_access);
        if let Some(link) = self.link(&network.bridge).filter(|l| ours && !l.ours) {
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
        if let Err(why) = self.foreign() {
            return Err(Blocked::wait(format!(
                "cannot see whether its subnet is free: {why}"
            )));
        }
        // The host may well have an address in a LAN that it is on.
        let subnets = || network.subnets().filter(|_| !network.is_lan());
        let foreign = |net| self.foreign_overlap(net).map(|clash| (net, clash));
        if let Some((net, (device, address))) = subnets().find_map(foreign) {
            return Err(Blocked::error(format!(
                "subnet {net} collides with {address} on the host's {device}; use another subnet"
            )));
        }
        let links = self.input.observed.links.known().into_iter().flatten();
        let mut others = links.filter(|(name, link)| {
            link.ours && **name != network.bridge && old.is_none_or(|o| o.bridge != **name)
        });
        let left = |link: &ObservedLink| {
            let taken = |net: &IpNet| all_addresses(link).any(|a| subnet::overlap(a, *net));
            subnets().find(taken)
        };
        if let Some((device, net)) = others.find_map(|(device, link)| Some((device, left(link)?))) {
            return Err(Blocked::wait(format!("{device} still has an address in {net}")));
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

pub(super) fn all_addresses(link: &ObservedLink) -> impl Iterator<Item = IpNet> {
    let six = link.addresses6.iter().copied().map(IpNet::V6);
    link.addresses.iter().copied().map(IpNet::V4).chain(six)
}

/// What of a network asks for another device.
pub(super) fn why_anew(entry: &NetworkEntry, old: &HostNetwork) -> Vec<Reason> {
    let new = &entry.network;
    let mtu = |n: &HostNetwork| n.mtu.map_or_else(|| "the kernel's".to_owned(), |m| m.to_string());
    let four = |n: &HostNetwork| n.v4().map(|v4| (v4.subnet, v4.gateway));
    let subnet = |n: &HostNetwork| four(n).map(|(subnet, _)| subnet.to_string()).unwrap_or_default();
    let gateway = |n: &HostNetwork| {
        four(n)
            .map(|(_, gateway)| gateway.to_string())
            .unwrap_or_default()
    };
    let fields = [
        ("bridge", old.bridge.clone(), new.bridge.clone()),
        (
            "ipv4",
            four(old).is_some().to_string(),
            four(new).is_some().to_string(),
        ),
        ("subnet", subnet(old), subnet(new)),
        ("gateway", gateway(old), gateway(new)),
        ("mtu", mtu(old), mtu(new)),
    ];
    let of_overlay = overlay::make(old).into_iter().zip(overlay::make(new));
    let of_overlay = of_overlay.map(|((field, from), (_, to))| (field, from, to));
    let (moved, turned) = (
        subnet(old) != subnet(new),
        four(old).is_some() != four(new).is_some(),
    );
    // Another subnet has another gateway, and without IPv4 there is none of both: that goes without saying.
    let told = |field: &str| !(moved && field == "gateway" || turned && field == "subnet");
    let changed = fields
        .into_iter()
        .chain(of_overlay)
        .filter(|(field, from, to)| from != to && told(field));
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

/// How the devices differ from what was accepted.
fn differences(network: &HostNetwork, links: &BTreeMap<String, ObservedLink>) -> Vec<Reason> {
    if network.is_lan() {
        return lan::differences(network, links);
    }
    let mut reasons = of_bridge(network, links.get(&network.bridge));
    reasons.extend(overlay::differences(network, links));
    reasons
}

fn of_bridge(network: &HostNetwork, link: Option<&ObservedLink>) -> Vec<Reason> {
    let device = &network.bridge;
    let Some(link) = link else {
        return vec![Reason::because(format!("device {device} is missing"))];
    };
    let mut reasons = Vec::new();
    let mut check = |good: bool, text: &dyn Fn() -> String| {
        if !good {
            reasons.push(Reason::because(text()));
        }
    };
    let kind = match network.driver {
        Driver::Ovs { .. } => "ovs",
        _ => "bridge",
    };
    check(link.ours && link.kind == kind, &|| {
        format!("{device} is not wharf's bridge")
    });
    check(link.up, &|| format!("{device} is down"));
    if let Some(v4) = network.v4() {
        let (gateway, prefix) = (v4.gateway, v4.subnet.prefix_len());
        let has = Ipv4Net::new(gateway, prefix).is_ok_and(|a| link.addresses.contains(&a));
        check(has, &|| format!("{device} lacks the address {gateway}/{prefix}"));
    } else if let Some(net) = link.addresses.first() {
        check(false, &|| {
            format!("{device} has the address {net}, and its network no IPv4")
        });
    }
    check(network.mtu.is_none_or(|mtu| mtu == link.mtu), &|| {
        format!("{device} has mtu {}", link.mtu)
    });
    check(link.route_localnet, &|| {
        format!("route_localnet of {device} is off")
    });
    reasons.extend(differences6(network.v6(), device, link));
    reasons
}

/// The same of its IPv6. An address of somebody else, or of the subnet before, would be answered for.
fn differences6(network: Option<&Subnet6>, device: &str, link: &ObservedLink) -> Vec<Reason> {
    let wanted = network.and_then(|v6| Ipv6Net::new(v6.gateway, v6.subnet.prefix_len()).ok());
    let lacks = wanted.filter(|net| !link.addresses6.contains(net));
    let lacks = lacks.map(|net| format!("{device} lacks the address {net}"));
    let others = link.addresses6.iter().filter(|net| Some(**net) != wanted);
    let others = others.map(|net| format!("{device} has the address {net}, which is not its network's"));
    let state = match (network, link.ipv6) {
        (None, Ipv6State::On | Ipv6State::Wrong) => {
            Some(format!("{device} has IPv6, which is not its network's"))
        }
        (Some(_), Ipv6State::Wrong) => Some(format!("IPv6 of {device} is not set up as it should be")),
        // Said above.
        (Some(_), Ipv6State::Off | Ipv6State::On) | (None, Ipv6State::Off) => None,
    };
    lacks
        .into_iter()
        .chain(others)
        .chain(state)
        .map(Reason::because)
        .collect()
}
