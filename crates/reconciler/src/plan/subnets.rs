//! Subnets of networks: those that tables name, and picked ones of both families, against all that is taken.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::ledger::NetworkEntry;
use model::name::Name;
use model::network::{HostNetwork, Subnet4, Subnet6};
use model::observed::Look;
use model::spec::NetworkSpec;

use super::{Blocked, Pass};
use crate::allocate::subnet;

impl<'a> Pass<'a, '_> {
    /// A picked subnet that the host has taken meanwhile is given up, as long as nobody lives in it.
    pub(super) fn must_move(&self, entry: &NetworkEntry) -> bool {
        let four = entry.spec.subnet.is_none();
        let six = entry.spec.subnet6.is_none();
        let mut picked = entry.network.subnets().filter(|net| match net {
            IpNet::V4(_) => four,
            IpNet::V6(_) => six,
        });
        picked.any(|net| self.was_taken(entry, net))
    }

    fn was_taken(&self, entry: &NetworkEntry, net: IpNet) -> bool {
        self.foreign_overlap(net).is_some()
            && self
                .input
                .observed
                .links
                .known()
                .is_some_and(|l| !l.contains_key(&entry.network.bridge))
            && !self.has_live_users(&entry.network.name)
    }

    /// Its IPv4, where it has some.
    pub(super) fn decide_v4(
        &self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
    ) -> Result<Option<Subnet4>, Blocked> {
        if !spec.ipv4 {
            return Ok(None);
        }
        let subnet = self.decide_subnet(name, spec, before)?;
        Ok(Some(Subnet4 {
            subnet,
            gateway: self.decide_gateway(spec, subnet, before),
            range: self.decide_range(name, spec, before)?,
            masquerade: spec.masquerade,
        }))
    }

    fn decide_subnet(
        &self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
    ) -> Result<Ipv4Net, Blocked> {
        if let Some(net) = spec.subnet {
            return self.written_subnet(name, net.into()).map(|()| net);
        }
        let kept = before
            .filter(|b| b.spec.subnet.is_none())
            .and_then(|b| Some((b, b.network.v4()?.subnet)));
        if let Some((_, net)) = kept.filter(|(b, net)| !self.was_taken(b, (*net).into())) {
            return Ok(net);
        }
        let taken = self.taken_subnets(name)?;
        let pool = &self.input.desired.settings.pool;
        subnet::pick(pool, &taken).ok_or_else(|| {
            Blocked::error("no free /24 is left in settings' [network] pool; give the network a subnet, or widen the pool")
        })
    }

    /// Its IPv6, where it asks for some.
    pub(super) fn decide_v6(
        &mut self,
        name: &Name,
        spec: &NetworkSpec,
        before: Option<&NetworkEntry>,
    ) -> Result<Option<Subnet6>, Blocked> {
        if !spec.has_ipv6() {
            return Ok(None);
        }
        let subnet = match spec.subnet6 {
            Some(net) => self.written_subnet(name, net.into()).map(|()| net),
            None => self.picked_subnet6(name, before),
        }?;
        Ok(Some(Subnet6 {
            subnet,
            gateway: self.decide_gateway6(spec, subnet, before),
            range: spec.range6,
            masquerade: spec.masquerade6,
        }))
    }

    fn picked_subnet6(&mut self, name: &Name, before: Option<&NetworkEntry>) -> Result<Ipv6Net, Blocked> {
        let kept = before
            .filter(|b| b.spec.subnet6.is_none())
            .and_then(|b| Some((b, b.network.v6()?.subnet)));
        if let Some((_, net)) = kept.filter(|(b, net)| !self.was_taken(b, (*net).into())) {
            return Ok(net);
        }
        let taken = self.taken_subnets(name)?;
        let pool = self.pool6();
        subnet::pick6(pool, &taken).ok_or_else(|| {
            Blocked::error(format!(
                "no free /64 is left in {pool} ([network] pool6 of the settings); give the network a `subnet6`, or widen the pool"
            ))
        })
    }

    /// The settings', else this host's own, which is made when it is first asked for. What new containers are called is
    /// handed in at random as well.
    fn pool6(&mut self) -> Ipv6Net {
        if let Some(pool) = self.input.desired.settings.pool6.or(self.ledger.pool6) {
            return pool;
        }
        let random = (self.ids)();
        *self.ledger.pool6.insert(subnet::own_pool6(&random))
    }

    /// What no network may be put into: addresses of the host, subnets of other networks, those that tables name.
    fn taken_subnets(&self, name: &Name) -> Result<Vec<IpNet>, Blocked> {
        let unseen = |why: &String| Blocked::wait(format!("cannot see which subnets are free: {why}"));
        let foreign = self.foreign().map_err(|why| unseen(&why))?;
        let ours = self.ledger.networks.values().filter(|n| n.network.name != *name);
        let ours = ours.flat_map(|n| {
            n.network
                .subnets()
                .chain(n.replacing.iter().flat_map(HostNetwork::subnets))
        });
        let declared = self.input.desired.networks.values();
        let declared = declared.flat_map(|n| {
            let six = n.spec.subnet6.map(IpNet::V6);
            n.spec.subnet.map(IpNet::V4).into_iter().chain(six)
        });
        Ok(foreign.map(|(_, net)| net).chain(ours).chain(declared).collect())
    }

    /// A written subnet against those that others keep: declared ones were compared with each other before.
    fn written_subnet(&self, name: &Name, net: IpNet) -> Result<(), Blocked> {
        let mut others = self.ledger.networks.iter().filter(|(other, _)| *other != name);
        let clash = others.find_map(|(other, e)| {
            let spec = self.input.desired.networks.get(other).map(|d| &d.spec);
            let mut picked = e.network.subnets().filter(|net| match net {
                IpNet::V4(_) => spec.is_none_or(|s| s.subnet.is_none()),
                IpNet::V6(_) => spec.is_none_or(|s| s.subnet6.is_none()),
            });
            let clash = picked.find(|picked| subnet::overlap(*picked, net))?;
            Some((other, e, clash))
        });
        match clash {
            None => Ok(()),
            Some((other, entry, picked)) => {
                let why = format!("subnet {net} overlaps {picked} of network {other}");
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
    pub(super) fn foreign_overlap(&self, net: IpNet) -> Option<(&'a str, IpNet)> {
        self.foreign()
            .ok()?
            .find(|(_, address)| subnet::overlap(*address, net))
    }

    /// All of these, by device; or why they are not known.
    pub(super) fn foreign(&self) -> Result<impl Iterator<Item = (&'a str, IpNet)> + use<'a>, String> {
        let observed = self.input.observed;
        let (four, six) = match (&observed.foreign_addresses, &observed.foreign_addresses6) {
            (Look::Known(four), Look::Known(six)) => (four, six),
            (Look::Unknown(why), _) | (_, Look::Unknown(why)) => return Err(why.clone()),
        };
        let four = four.iter().map(|f| (f.device.as_str(), IpNet::V4(f.address)));
        let six = six.iter().map(|f| (f.device.as_str(), IpNet::V6(f.address)));
        Ok(four.chain(six))
    }
}
