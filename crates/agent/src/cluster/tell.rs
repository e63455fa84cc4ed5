//! The events that two states of the cluster tell of.

use std::collections::BTreeMap;

use model::cluster::{ClusterHost, ClusterNetwork};
use model::name::Name;

type Networks = BTreeMap<Name, ClusterNetwork>;

/// Network, type and reason of each: hosts that came and went or moved, and this host's part of the subnet.
pub fn turns(before: &Networks, after: &Networks) -> Vec<(Name, &'static str, String)> {
    let nothing = ClusterNetwork::default();
    let of = |(name, new): (&Name, &ClusterNetwork)| {
        let old = before.get(name).unwrap_or(&nothing);
        let told = hosts(old, new).into_iter().chain(range(old, new));
        told.map(|(what, why)| (name.clone(), what, why))
            .collect::<Vec<_>>()
    };
    after.iter().flat_map(of).collect()
}

fn hosts(old: &ClusterNetwork, new: &ClusterNetwork) -> Vec<(&'static str, String)> {
    let who = |host: &ClusterHost| format!("host {} ({}, {})", host.name, host.address, host.range);
    let place = |host: &ClusterHost| (host.address, host.range);
    let mut told = Vec::new();
    for (id, host) in &new.hosts {
        match old.hosts.get(id) {
            None => told.push(("join", format!("{} is there", who(host)))),
            Some(was) if place(was) != place(host) => {
                told.push((
                    "join",
                    format!(
                        "{} is there, which was at {} with {}",
                        who(host),
                        was.address,
                        was.range
                    ),
                ));
            }
            Some(_) => {}
        }
    }
    let gone = old.hosts.iter().filter(|(id, _)| !new.hosts.contains_key(*id));
    told.extend(gone.map(|(_, host)| ("leave", format!("{} is there no more", who(host)))));
    told
}

fn range(old: &ClusterNetwork, new: &ClusterNetwork) -> Option<(&'static str, String)> {
    let (is, was) = (new.range?, old.range);
    if was == Some(is) {
        return None;
    }
    let why = match was {
        None => format!("{is} of it is this host's"),
        Some(was) => format!(
            "{is} of it is this host's, which had {was}: containers with addresses of that are started again"
        ),
    };
    Some(("lease", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ranges_are_told_of() {
        let host = |address: &str| ClusterHost {
            name: "b".to_owned(),
            address: address.parse().unwrap(),
            key: None,
            range: "10.81.2.0/24".parse().unwrap(),
            names: BTreeMap::new(),
        };
        let network = |hosts: &[(&str, &str)], range: &str| ClusterNetwork {
            hosts: hosts
                .iter()
                .map(|(id, at)| ((*id).to_owned(), host(at)))
                .collect(),
            range: range.parse().ok(),
            ..ClusterNetwork::default()
        };
        let told = |a: &ClusterNetwork, b: &ClusterNetwork| -> Vec<String> {
            let of = |n: &ClusterNetwork| Networks::from([("mesh".parse().unwrap(), n.clone())]);
            let all = turns(&of(a), &of(b));
            all.into_iter()
                .map(|(_, what, why)| format!("{what}: {why}"))
                .collect()
        };
        let none = network(&[], "");
        let one = network(&[("b", "192.0.2.2")], "10.81.1.0/24");
        assert_eq!(
            told(&none, &one),
            [
                "join: host b (192.0.2.2, 10.81.2.0/24) is there",
                "lease: 10.81.1.0/24 of it is this host's"
            ]
        );
        assert!(told(&one, &one).is_empty());
        let moved = network(&[("b", "192.0.2.3")], "10.81.3.0/24");
        assert_eq!(
            told(&one, &moved),
            [
                "join: host b (192.0.2.3, 10.81.2.0/24) is there, which was at 192.0.2.2 with 10.81.2.0/24",
                "lease: 10.81.3.0/24 of it is this host's, which had 10.81.1.0/24: containers with addresses of that are started again"
            ]
        );
        assert_eq!(
            told(&one, &none),
            ["leave: host b (192.0.2.2, 10.81.2.0/24) is there no more"]
        );
    }
}
