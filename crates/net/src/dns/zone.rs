//! Who sees which names. Pure.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use model::dns::{DnsContainer, DnsNetwork, DnsState};
use model::name::{ContainerId, Name};

use super::limits::Allowance;
use super::message::kind;
use super::name;

/// All names, laid out for looking up. Names are as messages have them, in lower case.
#[derive(Debug, Default)]
pub struct Zone {
    networks: Vec<Network>,
    clients: HashMap<IpAddr, Client>,
    /// The addresses of those that ask in their own network namespaces.
    inside: HashMap<ContainerId, IpAddr>,
}

/// What somebody with a certain address may ask.
#[derive(Clone, Debug)]
pub struct Client {
    /// The networks whose names it sees.
    networks: Box<[usize]>,
    /// Whether other names are asked for elsewhere on its behalf.
    pub forward: bool,
    asked: Cell<Allowance>,
}

#[derive(Debug)]
struct Network {
    name: Box<[u8]>,
    subnets: Vec<IpNet>,
    names: HashMap<Box<[u8]>, Named>,
    /// By address, the first name of who has it.
    reverse: HashMap<IpAddr, Box<[u8]>>,
}

/// Who has a name.
#[derive(Debug, Default)]
struct Named {
    ips: Vec<IpAddr>,
    /// Counts answers, so that each begins with another address. Questions for IPv6 that mostly come together with
    /// those for IPv4 are counted by themselves.
    turn: [Cell<usize>; 2],
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<'a> {
    /// It is a container's: its addresses of the family asked for were put into the list, if there are any.
    Ours,
    /// What an address is called.
    Pointer(&'a [u8]),
    /// It has no record, but there may be names below it: a network.
    Above,
    /// An address of ours with no name that this client may see.
    Nothing,
    /// Not ours.
    Foreign,
}

impl Zone {
    pub fn new(state: &DnsState) -> Self {
        let mut zone = Self {
            networks: state
                .networks
                .iter()
                .map(|(name, n)| Network::new(name, n))
                .collect(),
            clients: HashMap::new(),
            inside: state.inside.clone().into_iter().collect(),
        };
        // The host asks as a gateway. It has servers of its own for other names; asking them here could go in circles.
        for (index, network) in state.networks.values().enumerate() {
            let host = Client {
                networks: [index].into(),
                forward: false,
                asked: Cell::new(Allowance::UNUSED),
            };
            for gateway in &network.gateways {
                zone.clients.insert(*gateway, host.clone());
            }
        }
        let networks: Vec<_> = state.networks.iter().collect();
        for container in state.containers.values() {
            zone.add(&networks, container);
        }
        for (ip, seen) in &state.guests {
            let on = seen.iter().filter_map(|name| place_of(&networks, name));
            zone.clients
                .entry(*ip)
                .or_insert_with(|| client(&networks, on.collect()));
        }
        for (network, (_, given)) in zone.networks.iter_mut().zip(&networks) {
            network.add_hosts(&given.hosts);
        }
        zone
    }

    fn add(&mut self, networks: &[(&Name, &DnsNetwork)], container: &DnsContainer) {
        let on: Vec<_> = container
            .endpoints
            .iter()
            .filter_map(|(name, endpoint)| {
                // A network that is not listed has no name server.
                Some((place_of(networks, name)?, endpoint))
            })
            .collect();
        let client = client(networks, on.iter().map(|(index, _)| *index).collect());
        for (index, endpoint) in on {
            self.networks[index].add(&endpoint.ips, &endpoint.names);
            for ip in &endpoint.ips {
                self.clients.insert(*ip, client.clone());
            }
        }
    }

    /// The client with that address: a container, or the host itself. None is anybody else.
    pub fn client(&self, source: IpAddr) -> Option<&Client> {
        self.clients.get(&source)
    }

    /// The address that a container is known by, which asks in its own network namespace.
    pub fn inside(&self, id: &ContainerId) -> Option<IpAddr> {
        self.inside.get(id).copied()
    }

    /// Looks a name up. `found` gets the addresses that a question of this type asks for.
    pub fn look_up(&self, client: &Client, asked: &[u8], kind: u16, found: &mut Vec<IpAddr>) -> Known<'_> {
        found.clear();
        let (mut first, mut above) = (None, false);
        for index in &client.networks {
            let network = &self.networks[*index];
            let Some(named) = network.find(asked) else {
                above |= *network.name == *asked && name::is_single(asked);
                continue;
            };
            first = first.or(Some(named));
            for ip in named.ips.iter().filter(|ip| is_asked_for(kind, **ip)) {
                if first.is_some_and(|first| std::ptr::eq(first, named)) || !found.contains(ip) {
                    found.push(*ip);
                }
            }
        }
        if let Some(first) = first {
            first.rotate(kind, found);
            return Known::Ours;
        }
        if above {
            return Known::Above;
        }
        match name::reversed(asked) {
            Some(address) => self.reverse(client, address),
            None => Known::Foreign,
        }
    }

    fn reverse(&self, client: &Client, address: IpAddr) -> Known<'_> {
        let Some(index) = self.networks.iter().position(|n| n.has(address)) else {
            return Known::Foreign;
        };
        let seen = client.networks.contains(&index);
        match self.networks[index].reverse.get(&address).filter(|_| seen) {
            Some(name) => Known::Pointer(name),
            None => Known::Nothing,
        }
    }
}

fn place_of(networks: &[(&Name, &DnsNetwork)], name: &Name) -> Option<usize> {
    networks.binary_search_by_key(&name, |(n, _)| n).ok()
}

/// Somebody who is on these.
fn client(all: &[(&Name, &DnsNetwork)], networks: Box<[usize]>) -> Client {
    Client {
        forward: networks.iter().any(|index| !all[*index].1.internal),
        networks,
        asked: Cell::new(Allowance::UNUSED),
    }
}

impl Client {
    /// Counts a question; false where it is one too many for this second.
    pub fn may_ask(&self, each_second: f64, now: Instant) -> bool {
        let mut asked = self.asked.get();
        let may = asked.take(each_second, now);
        self.asked.set(asked);
        may
    }
}

/// Whether a question of that type asks for such an address.
fn is_asked_for(kind: u16, ip: IpAddr) -> bool {
    match kind {
        kind::A => ip.is_ipv4(),
        kind::AAAA => ip.is_ipv6(),
        kind::ANY => true,
        _ => false,
    }
}

impl Named {
    fn rotate(&self, kind: u16, found: &mut [IpAddr]) {
        if found.len() < 2 {
            return;
        }
        let turn = &self.turn[usize::from(kind == kind::AAAA)];
        found.rotate_left(turn.get() % found.len());
        turn.set(turn.get().wrapping_add(1));
    }
}

impl Network {
    fn new(name: &Name, network: &DnsNetwork) -> Self {
        Self {
            // One that is no name in DNS ends no name that is asked for.
            name: name::from_text(name.as_str()).unwrap_or_default(),
            subnets: network.subnets.clone(),
            names: HashMap::new(),
            reverse: HashMap::new(),
        }
    }

    fn add(&mut self, ips: &[IpAddr], names: &[String]) {
        for name in names.iter().filter_map(|name| name::from_text(name)) {
            for ip in ips {
                self.reverse.entry(*ip).or_insert_with(|| name.clone());
            }
            let named = self.names.entry(name).or_default();
            for ip in ips {
                if !named.ips.contains(ip) {
                    named.ips.push(*ip);
                }
            }
        }
    }

    /// Names of containers on other hosts. Those of our own go before them.
    fn add_hosts(&mut self, hosts: &BTreeMap<String, Vec<IpAddr>>) {
        let is_own = |name: &String| name::from_text(name).is_some_and(|name| self.names.contains_key(&name));
        let others: Vec<_> = hosts.iter().filter(|(name, _)| !is_own(name)).collect();
        for (name, ips) in others {
            self.add(ips, std::slice::from_ref(name));
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }

    /// Who has `NAME` or `NAME.NETWORK`.
    fn find(&self, asked: &[u8]) -> Option<&Named> {
        let short = || name::without_ending(asked, &self.name).filter(|_| !self.name.is_empty());
        self.names.get(asked).or_else(|| self.names.get(short()?))
    }
}

#[cfg(test)]
mod tests {
    use model::dns::DnsEndpoint;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// `a`: web 10.1.0.2 and db 10.1.0.3 (alias store), both with IPv6; `b`: db 10.2.0.3 and secret 10.2.0.9 (alias
    /// store), and far, db and store on other hosts; `in`, which is internal: web 10.3.0.2 and lonely 10.3.0.4.
    fn zone() -> Zone {
        let mut state = DnsState::default();
        for (name, second) in [("a", 1), ("b", 2), ("in", 3)] {
            let network = DnsNetwork {
                gateways: vec![ip(&format!("10.{second}.0.1")), ip(&format!("fd00:{second}::1"))],
                subnets: [format!("10.{second}.0.0/24"), format!("fd00:{second}::/64")]
                    .map(|subnet| subnet.parse().unwrap())
                    .into(),
                bridge: format!("br-{name}"),
                internal: name == "in",
                hosts: BTreeMap::new(),
            };
            state.networks.insert(name.parse().unwrap(), network);
        }
        let hosts = [
            ("Far", "10.2.0.77"),
            ("db", "10.2.0.78"),
            ("no..name", "10.2.0.79"),
        ];
        let hosts = hosts.map(|(name, at)| (name.to_owned(), vec![ip(at)]));
        state.networks.get_mut("b").unwrap().hosts = hosts.into();
        for (container, network, addresses, names) in [
            ("web", "a", "10.1.0.2 fd00:1::2", vec!["web"]),
            ("web", "in", "10.3.0.2", vec!["web", "Front"]),
            ("db", "a", "10.1.0.3 fd00:1::3", vec!["db", "store"]),
            ("db", "b", "10.2.0.3", vec!["db"]),
            ("secret", "b", "10.2.0.9", vec!["secret", "store", "a.b"]),
            ("lonely", "in", "10.3.0.4", vec!["lonely"]),
            ("lonely", "gone", "10.9.0.4", vec!["lonely"]),
        ] {
            let endpoint = DnsEndpoint {
                ips: addresses.split(' ').map(ip).collect(),
                names: names.into_iter().map(str::to_owned).collect(),
            };
            let container: &mut DnsContainer =
                state.containers.entry(container.parse().unwrap()).or_default();
            container.endpoints.insert(network.parse().unwrap(), endpoint);
        }
        Zone::new(&state)
    }

    fn ask(zone: &Zone, source: &str, name: &str, kind: u16) -> String {
        let (client, mut found) = (zone.client(ip(source)).unwrap(), Vec::new());
        let name = name::from_text(name).unwrap();
        match zone.look_up(client, &name, kind, &mut found) {
            Known::Ours if found.is_empty() => "no data".to_owned(),
            Known::Ours => {
                found.sort();
                found
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            Known::Pointer(name) => {
                let labels = name::labels(name).map(|l| String::from_utf8_lossy(l).into_owned());
                labels.collect::<Vec<_>>().join(".")
            }
            Known::Above => "above".to_owned(),
            Known::Nothing => "nothing".to_owned(),
            Known::Foreign => "foreign".to_owned(),
        }
    }

    #[test]
    fn names_are_seen_by_those_who_share_a_network() {
        let zone = zone();
        for (source, name, answer) in [
            ("10.1.0.2", "web", "10.1.0.2 10.3.0.2"),
            ("fd00:1::2", "web", "10.1.0.2 10.3.0.2"),
            ("10.1.0.2", "front", "10.3.0.2"),
            ("10.1.0.2", "db", "10.1.0.3"),
            ("10.1.0.2", "store", "10.1.0.3"),
            ("10.1.0.2", "secret", "foreign"),
            ("10.1.0.2", "a.b", "foreign"),
            ("10.1.0.2", "db.b", "foreign"),
            ("10.1.0.2", "db.a", "10.1.0.3"),
            ("10.1.0.2", "a", "above"),
            ("10.1.0.2", "b", "foreign"),
            ("10.1.0.2", "far", "foreign"),
            ("10.3.0.2", "db", "10.1.0.3"),
            ("10.1.0.3", "db", "10.1.0.3 10.2.0.3"),
            ("10.1.0.3", "db.b", "10.2.0.3"),
            ("10.1.0.3", "store", "10.1.0.3 10.2.0.9"),
            ("10.1.0.3", "far", "10.2.0.77"),
            ("10.1.0.3", "far.b", "10.2.0.77"),
            ("10.2.0.9", "web", "foreign"),
            ("10.2.0.9", "a.b", "10.2.0.9"),
            ("10.2.0.9", "db", "10.2.0.3"),
            ("10.3.0.4", "web", "10.3.0.2"),
            ("10.1.0.1", "db", "10.1.0.3"),
            ("fd00:1::1", "db", "10.1.0.3"),
            ("10.1.0.1", "secret", "foreign"),
        ] {
            assert_eq!(ask(&zone, source, name, kind::A), answer, "{source} asks {name}");
        }
    }

    #[test]
    fn each_family_is_asked_for_by_itself() {
        let zone = zone();
        for (name, kind, answer) in [
            ("web", kind::AAAA, "fd00:1::2"),
            ("web", kind::ANY, "10.1.0.2 10.3.0.2 fd00:1::2"),
            ("front", kind::AAAA, "no data"),
            ("db.a", kind::AAAA, "fd00:1::3"),
            ("db", kind::PTR, "no data"),
            ("nobody", kind::AAAA, "foreign"),
        ] {
            assert_eq!(ask(&zone, "10.1.0.2", name, kind), answer, "{name} {kind}");
        }
    }

    #[test]
    fn addresses_have_names_for_those_who_share_a_network() {
        let zone = zone();
        let v6 = |host: &str, second| {
            format!("{host}.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.{second}.0.0.0.0.0.d.f.ip6.arpa")
        };
        for (source, name, answer) in [
            ("10.1.0.2", "3.0.1.10.in-addr.arpa".to_owned(), "db"),
            ("10.1.0.2", "9.0.2.10.in-addr.arpa".to_owned(), "nothing"),
            ("10.1.0.2", "77.0.1.10.in-addr.arpa".to_owned(), "nothing"),
            ("10.1.0.2", "4.0.9.10.in-addr.arpa".to_owned(), "foreign"),
            ("10.1.0.2", "8.8.8.8.in-addr.arpa".to_owned(), "foreign"),
            ("10.1.0.2", "1.8.8.8.8.in-addr.arpa".to_owned(), "foreign"),
            ("10.2.0.9", "9.0.2.10.in-addr.arpa".to_owned(), "secret"),
            ("10.2.0.9", "77.0.2.10.in-addr.arpa".to_owned(), "far"),
            ("10.2.0.9", "78.0.2.10.in-addr.arpa".to_owned(), "nothing"),
            ("10.1.0.2", v6("3", 1), "db"),
            ("10.2.0.9", v6("3", 1), "nothing"),
            ("10.1.0.2", v6("3", 9), "foreign"),
        ] {
            assert_eq!(
                ask(&zone, source, &name, kind::PTR),
                answer,
                "{source} asks {name}"
            );
        }
    }

    #[test]
    fn addresses_take_turns_whatever_else_is_asked() {
        let zone = zone();
        let (client, mut found) = (zone.client(ip("10.1.0.3")).unwrap(), Vec::new());
        let store = name::from_text("store").unwrap();
        let mut firsts = Vec::new();
        for _ in 0..4 {
            zone.look_up(client, &store, kind::AAAA, &mut found);
            zone.look_up(client, &store, kind::A, &mut found);
            firsts.push(found[0]);
        }
        assert_eq!(firsts[..2], firsts[2..]);
        assert_ne!(firsts[0], firsts[1]);
    }

    #[test]
    fn only_containers_with_a_way_out_ask_elsewhere() {
        let zone = zone();
        for (source, forward) in [
            ("10.1.0.2", Some(true)),
            ("fd00:1::2", Some(true)),
            ("10.3.0.2", Some(true)),
            ("10.3.0.4", Some(false)),
            ("10.1.0.1", Some(false)),
            ("fd00:1::1", Some(false)),
            ("10.1.0.77", None),
            ("fd00:1::77", None),
            ("10.2.0.77", None),
            ("10.9.0.4", None),
            ("127.0.0.1", None),
            ("8.8.8.8", None),
        ] {
            assert_eq!(zone.client(ip(source)).map(|c| c.forward), forward, "{source}");
        }
    }
}
