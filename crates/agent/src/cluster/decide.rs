//! From what is in etcd and what this host wants to what is written there next, and to what the planner is told. Pure.
//!
//! A part of a subnet is taken by a change that holds only if nobody wrote to any part since it was looked at: so no two
//! hosts get parts that overlap, be they leased or written in tables.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::Ipv4Net;
use model::cluster::{ClusterHost, ClusterNetwork};
use model::name::Name;

use super::etcd::{Change, Entry};
use super::mirror::Mirror;
use super::ranges::{choose, overlap};
use super::records::{self, HostRecord, NamesRecord, RangeRecord, Subject};
use super::state::Leases;
use super::wanted::{Wanted, WantedNetwork};

/// This host.
#[derive(Clone, Debug)]
pub struct Me {
    pub id: String,
    pub name: String,
    pub leases: Leases,
    /// Where it reaches etcd from, or the world.
    pub found: Option<IpAddr>,
}

/// What follows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The next change; none where all is as it should be.
    pub change: Option<Change>,
    pub told: BTreeMap<Name, ClusterNetwork>,
}

/// One network's entries.
#[derive(Default)]
struct Found<'a> {
    hosts: BTreeMap<String, &'a Entry>,
    ranges: BTreeMap<Ipv4Net, &'a Entry>,
    names: BTreeMap<String, &'a Entry>,
}

/// Decides about all networks.
pub fn decide(mirror: &Mirror, wanted: &Wanted, me: &Me) -> Decision {
    let mut found: BTreeMap<Name, Found<'_>> = BTreeMap::new();
    for (key, entry) in &mirror.entries {
        let Some((network, subject)) = records::read_key(key) else {
            continue;
        };
        let of = found.entry(network).or_default();
        match subject {
            Subject::Host(id) => drop(of.hosts.insert(id, entry)),
            Subject::Range(range) => drop(of.ranges.insert(range, entry)),
            Subject::Names(id) => drop(of.names.insert(id, entry)),
        }
    }
    let mut decision = Decision::default();
    let nothing = Found::default();
    for (name, network) in &wanted.networks {
        let settled = Settle {
            name,
            network,
            found: found.get(name).unwrap_or(&nothing),
            address: network
                .local
                .or(wanted.settings.as_ref().and_then(|s| s.host))
                .or(me.found),
            me,
            revision: mirror.at.revision,
        };
        let (told, change) = settled.settle();
        decision.told.insert(name.clone(), told);
        decision.change = decision.change.or(change);
    }
    let left = found
        .iter()
        .filter(|(name, _)| !wanted.networks.contains_key(*name));
    decision.change = decision.change.or_else(|| withdraw(left, me));
    decision
}

/// What is left of this host where it is no more.
fn withdraw<'a>(left: impl Iterator<Item = (&'a Name, &'a Found<'a>)>, me: &Me) -> Option<Change> {
    let of = |(name, found): (&Name, &Found<'_>)| {
        let host = found
            .hosts
            .contains_key(&me.id)
            .then(|| records::host_key(name, &me.id));
        let names = found
            .names
            .contains_key(&me.id)
            .then(|| records::names_key(name, &me.id));
        let ranges = found
            .own_ranges(me, None)
            .map(|range| records::range_key(name, range));
        host.into_iter().chain(names).chain(ranges).collect::<Vec<_>>()
    };
    let deletes = left.map(of).find(|deletes| !deletes.is_empty())?;
    Some(Change {
        deletes,
        ..Change::default()
    })
}

impl Found<'_> {
    fn own_ranges(&self, me: &Me, address: Option<IpAddr>) -> impl Iterator<Item = Ipv4Net> {
        self.ranges
            .iter()
            .filter(move |(_, entry)| is_of(entry, me, address))
            .map(|(range, _)| *range)
    }

    /// Those of others, and whose.
    fn others(&self, me: &Me, address: Option<IpAddr>) -> Vec<(Ipv4Net, String)> {
        let whose = |entry: &Entry| match records::read::<RangeRecord>(&entry.value) {
            Some(record) => format!("host {}", record.who()),
            None => "an unknown host".to_owned(),
        };
        let others = self.ranges.iter().filter(|(_, entry)| !is_of(entry, me, address));
        others.map(|(range, entry)| (*range, whose(entry))).collect()
    }
}

/// Also of the one this host was before its state dir was lost: nobody else has its name and its address.
fn is_of(entry: &Entry, me: &Me, address: Option<IpAddr>) -> bool {
    let was = |record: &RangeRecord| record.name == me.name && Some(record.address) == address;
    records::read::<RangeRecord>(&entry.value).is_some_and(|record| record.host == me.id || was(&record))
}

/// A network under decision.
struct Settle<'a> {
    name: &'a Name,
    network: &'a WantedNetwork,
    found: &'a Found<'a>,
    address: Option<IpAddr>,
    me: &'a Me,
    revision: i64,
}

impl Settle<'_> {
    fn settle(&self) -> (ClusterNetwork, Option<Change>) {
        let mut told = self.others();
        told.address = self.address;
        let registered = self
            .may_register()
            .and_then(|address| Ok((address, self.range()?)));
        let (address, range) = match registered {
            Ok(registered) => registered,
            Err(why) => {
                told.refused = Some(why);
                return (told, None);
            }
        };
        let change = self.change(address, range);
        told.range = self.is_held(range).then_some(range);
        (told, change)
    }

    /// The address it is registered with.
    fn may_register(&self) -> Result<IpAddr, String> {
        let address = self.address.ok_or(
            "this host's address towards the others cannot be found out; write `host` under [cluster] in the settings",
        )?;
        if self.network.encrypted == Some(None) {
            return Err("this host's key cannot be seen, without which the others do not hear it".to_owned());
        }
        let Some(entry) = self.found.hosts.get(&self.me.id) else {
            return Ok(address);
        };
        match records::read::<HostRecord>(&entry.value) {
            Some(other) if entry.lease != self.me.leases.alive && other.address != address => Err(format!(
                "host {} goes by the same id as this one, {}: where a host was copied, stop one's agent and remove cluster.json from its state dir",
                other.who(),
                self.me.id
            )),
            _ => Ok(address),
        }
    }

    /// The part of the subnet that is to be this host's.
    fn range(&self) -> Result<Ipv4Net, String> {
        let others = self.found.others(self.me, self.address);
        if let Some(range) = self.network.range {
            return match others.iter().find(|(other, _)| overlap(*other, range)) {
                Some((other, whose)) => {
                    Err(format!("range {range} overlaps {other} of {whose}; use another"))
                }
                None => Ok(range),
            };
        }
        let before = self.network.before;
        let owned = || self.found.own_ranges(self.me, self.address);
        let kept = owned()
            .find(|range| Some(*range) == before)
            .or_else(|| owned().next());
        let taken: Vec<Ipv4Net> = others.into_iter().map(|(range, _)| range).collect();
        choose(self.network.subnet, kept.or(before), &taken).map_err(|e| e.to_string())
    }

    fn is_held(&self, range: Ipv4Net) -> bool {
        let entry = self.found.ranges.get(&range);
        entry.is_some_and(|entry| is_of(entry, self.me, None) && entry.lease == self.me.leases.ranges)
    }

    fn change(&self, address: IpAddr, range: Ipv4Net) -> Option<Change> {
        let (me, name) = (self.me, self.name);
        let mut change = Change::default();
        let whose = RangeRecord {
            host: me.id.clone(),
            name: me.name.clone(),
            address,
        };
        let key = records::range_key(name, range);
        let entry = self.found.ranges.get(&range);
        put(&mut change, entry, key.clone(), &whose, me.leases.ranges);
        if !entry.is_some_and(|entry| is_of(entry, me, None)) {
            let written = self.found.ranges.values().map(|entry| entry.written);
            let known = written.fold(self.revision, i64::max);
            change.unless_written.push((records::ranges_prefix(name), known));
            change.unless_there.extend(entry.is_none().then_some(key));
        }
        let key = records::host_key(name, &me.id);
        let host = self.host(address, range);
        put(
            &mut change,
            self.found.hosts.get(&me.id),
            key,
            &host,
            me.leases.alive,
        );
        self.change_names(&mut change);
        change
            .deletes
            .extend(self.given_up(range).map(|range| records::range_key(name, range)));
        let nothing = change.puts.is_empty() && change.deletes.is_empty();
        (!nothing).then_some(change)
    }

    fn host(&self, address: IpAddr, range: Ipv4Net) -> HostRecord {
        HostRecord {
            name: self.me.name.clone(),
            address,
            range,
            subnet: self.network.subnet,
            vni: self.network.vni,
            port: self.network.port,
            tunnel: self.network.tunnel.clone(),
            key: self.network.encrypted.flatten(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn change_names(&self, change: &mut Change) {
        let Some(names) = &self.network.names else {
            return;
        };
        let key = records::names_key(self.name, &self.me.id);
        let entry = self.found.names.get(&self.me.id);
        let names = NamesRecord { names: names.clone() };
        if !names.names.is_empty() {
            put(change, entry, key, &names, self.me.leases.alive);
        } else if entry.is_some() {
            change.deletes.push(key);
        }
    }

    /// Parts it had before, once nobody here has an address in them.
    fn given_up(&self, range: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
        let moved = self.network.before == Some(range);
        let used = move |own: &Ipv4Net| {
            self.network
                .in_use
                .iter()
                .any(|ip| own.contains(ip) && !range.contains(ip))
        };
        let own = self.found.own_ranges(self.me, self.address);
        own.filter(move |own| moved && *own != range && !used(own))
    }

    /// The other hosts, as far as they can be reached.
    fn others(&self) -> ClusterNetwork {
        let mut told = ClusterNetwork::default();
        let wanted = self.network;
        for (id, entry) in self.found.hosts.iter().filter(|(id, _)| **id != self.me.id) {
            let Some(host) = records::read::<HostRecord>(&entry.value) else {
                told.left_out.push(format!(
                    "what etcd has under {} cannot be understood: that host is left out",
                    entry.key
                ));
                continue;
            };
            if let Some(why) = host.misfit(wanted) {
                told.left_out.push(why);
                continue;
            }
            let names = self.found.names.get(id);
            let names = names.and_then(|entry| records::read::<NamesRecord>(&entry.value));
            let host = ClusterHost {
                name: records::clean(&host.name),
                address: host.address,
                key: host.key,
                range: host.range,
                names: names.unwrap_or_default().sound(),
            };
            told.hosts.insert(id.clone(), host);
        }
        told
    }
}

/// Where it is not there as it should be.
fn put<T>(change: &mut Change, entry: Option<&&Entry>, key: String, record: &T, lease: i64)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
{
    let same =
        |entry: &Entry| entry.lease == lease && records::read::<T>(&entry.value).as_ref() == Some(record);
    if !entry.is_some_and(|entry| same(entry)) {
        change.puts.push((key, records::write(record), lease));
    }
}

#[cfg(test)]
mod tests;
