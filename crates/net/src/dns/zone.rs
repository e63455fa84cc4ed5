//! Who sees which names. Pure.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use model::dns::{DnsContainer, DnsNetwork, DnsState};
use model::name::Name;

/// All names, laid out for looking up.
#[derive(Debug, Default)]
pub struct Zone {
    networks: Vec<Network>,
    clients: HashMap<Ipv4Addr, Client>,
}

/// What somebody with a certain address may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The networks whose names it sees.
    networks: Box<[usize]>,
    /// Whether other names are asked for elsewhere on its behalf.
    pub forward: bool,
}

#[derive(Debug)]
struct Network {
    name: String,
    subnet: Ipv4Net,
    names: HashMap<Box<str>, Vec<Ipv4Addr>>,
    /// By address, the first name of who has it.
    reverse: HashMap<Ipv4Addr, Box<str>>,
}

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known<'a> {
    Addresses(Vec<Ipv4Addr>),
    /// What an address is called.
    Pointer(&'a str),
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
        };
        // The host asks as a gateway. It has servers of its own for other names; asking them here could go in circles.
        for (index, network) in state.networks.values().enumerate() {
            let networks = [index].into();
            let forward = false;
            zone.clients.insert(network.gateway, Client { networks, forward });
        }
        let networks: Vec<_> = state.networks.iter().collect();
        for container in state.containers.values() {
            zone.add(&networks, container);
        }
        zone
    }

    fn add(&mut self, networks: &[(&Name, &DnsNetwork)], container: &DnsContainer) {
        let on: Vec<_> = container
            .endpoints
            .iter()
            .filter_map(|(name, endpoint)| {
                // A network that is not listed has no name server.
                let index = networks.binary_search_by_key(&name, |(n, _)| n).ok()?;
                Some((index, endpoint))
            })
            .collect();
        let client = Client {
            networks: on.iter().map(|(index, _)| *index).collect(),
            forward: on.iter().any(|(index, _)| !networks[*index].1.internal),
        };
        for (index, endpoint) in on {
            self.networks[index].add(endpoint.ip, &endpoint.names);
            self.clients.insert(endpoint.ip, client.clone());
        }
    }

    /// The client with that address: a container, or the host itself. None is anybody else.
    pub fn client(&self, source: Ipv4Addr) -> Option<&Client> {
        self.clients.get(&source)
    }

    /// Looks a name up: in lower case, without a dot at the end.
    pub fn look_up(&self, client: &Client, name: &str) -> Known<'_> {
        if let Some(address) = reversed(name) {
            return self.reverse(client, address);
        }
        let mut found: Vec<Ipv4Addr> = Vec::new();
        for index in &client.networks {
            for address in self.networks[*index].addresses(name) {
                if !found.contains(address) {
                    found.push(*address);
                }
            }
        }
        if found.is_empty() {
            Known::Foreign
        } else {
            Known::Addresses(found)
        }
    }

    fn reverse(&self, client: &Client, address: Ipv4Addr) -> Known<'_> {
        let Some(index) = self.networks.iter().position(|n| n.subnet.contains(&address)) else {
            return Known::Foreign;
        };
        let seen = client.networks.contains(&index);
        match self.networks[index].reverse.get(&address).filter(|_| seen) {
            Some(name) => Known::Pointer(name),
            None => Known::Nothing,
        }
    }
}

impl Network {
    fn new(name: &Name, network: &DnsNetwork) -> Self {
        Self {
            name: name.as_str().to_ascii_lowercase(),
            subnet: network.subnet,
            names: HashMap::new(),
            reverse: HashMap::new(),
        }
    }

    fn add(&mut self, ip: Ipv4Addr, names: &[String]) {
        for name in names {
            let name = name.trim_end_matches('.').to_ascii_lowercase().into_boxed_str();
            self.reverse.entry(ip).or_insert_with(|| name.clone());
            let addresses = self.names.entry(name).or_default();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
    }

    /// The addresses of `NAME` or `NAME.NETWORK`.
    fn addresses(&self, name: &str) -> &[Ipv4Addr] {
        let short = || name.strip_suffix(self.name.as_str())?.strip_suffix('.');
        let found = self.names.get(name).or_else(|| self.names.get(short()?));
        found.map_or(&[], Vec::as_slice)
    }
}

/// The address a reverse name asks for: `5.1.88.10.in-addr.arpa` (RFC 1035 §3.5).
fn reversed(name: &str) -> Option<Ipv4Addr> {
    let text = name.strip_suffix(".in-addr.arpa")?;
    let [a, b, c, d] = text.parse::<Ipv4Addr>().ok()?.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

#[cfg(test)]
mod tests {
    use model::dns::DnsEndpoint;

    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    /// `a`: web 10.1.0.2 and db 10.1.0.3 (alias store); `b`: db 10.2.0.3 and secret 10.2.0.9 (alias store); `in`, which
    /// is internal: web 10.3.0.2 and lonely 10.3.0.4.
    fn zone() -> Zone {
        let mut state = DnsState::default();
        for (name, second) in [("a", 1), ("b", 2), ("in", 3)] {
            let network = DnsNetwork {
                gateway: Ipv4Addr::new(10, second, 0, 1),
                subnet: format!("10.{second}.0.0/24").parse().unwrap(),
                bridge: format!("br-{name}"),
                internal: name == "in",
            };
            state.networks.insert(name.parse().unwrap(), network);
        }
        for (container, network, address, names) in [
            ("web", "a", "10.1.0.2", vec!["web"]),
            ("web", "in", "10.3.0.2", vec!["web", "Front"]),
            ("db", "a", "10.1.0.3", vec!["db", "store"]),
            ("db", "b", "10.2.0.3", vec!["db"]),
            ("secret", "b", "10.2.0.9", vec!["secret", "store", "a.b"]),
            ("lonely", "in", "10.3.0.4", vec!["lonely"]),
            ("lonely", "gone", "10.9.0.4", vec!["lonely"]),
        ] {
            let endpoint = DnsEndpoint {
                ip: ip(address),
                names: names.into_iter().map(str::to_owned).collect(),
            };
            let container: &mut DnsContainer =
                state.containers.entry(container.parse().unwrap()).or_default();
            container.endpoints.insert(network.parse().unwrap(), endpoint);
        }
        Zone::new(&state)
    }

    fn ask(zone: &Zone, source: &str, name: &str) -> String {
        let client = zone.client(ip(source)).unwrap();
        match zone.look_up(client, name) {
            Known::Addresses(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Known::Pointer(name) => name.to_owned(),
            Known::Nothing => "nothing".to_owned(),
            Known::Foreign => "foreign".to_owned(),
        }
    }

    #[test]
    fn names_are_seen_by_those_who_share_a_network() {
        let zone = zone();
        for (source, name, answer) in [
            ("10.1.0.2", "web", "10.1.0.2 10.3.0.2"),
            ("10.1.0.2", "front", "10.3.0.2"),
            ("10.1.0.2", "db", "10.1.0.3"),
            ("10.1.0.2", "store", "10.1.0.3"),
            ("10.1.0.2", "secret", "foreign"),
            ("10.1.0.2", "a.b", "foreign"),
            ("10.1.0.2", "db.b", "foreign"),
            ("10.1.0.2", "db.a", "10.1.0.3"),
            ("10.1.0.2", ".a", "foreign"),
            ("10.1.0.2", "a", "foreign"),
            ("10.3.0.2", "db", "10.1.0.3"),
            ("10.1.0.3", "db", "10.1.0.3 10.2.0.3"),
            ("10.1.0.3", "db.b", "10.2.0.3"),
            ("10.1.0.3", "store", "10.1.0.3 10.2.0.9"),
            ("10.2.0.9", "web", "foreign"),
            ("10.2.0.9", "a.b", "10.2.0.9"),
            ("10.3.0.4", "web", "10.3.0.2"),
            ("10.1.0.1", "db", "10.1.0.3"),
            ("10.1.0.1", "secret", "foreign"),
        ] {
            assert_eq!(ask(&zone, source, name), answer, "{source} asks {name}");
        }
    }

    #[test]
    fn addresses_have_names_for_those_who_share_a_network() {
        let zone = zone();
        for (source, name, answer) in [
            ("10.1.0.2", "3.0.1.10.in-addr.arpa", "db"),
            ("10.1.0.2", "9.0.2.10.in-addr.arpa", "nothing"),
            ("10.1.0.2", "77.0.1.10.in-addr.arpa", "nothing"),
            ("10.1.0.2", "4.0.9.10.in-addr.arpa", "foreign"),
            ("10.1.0.2", "8.8.8.8.in-addr.arpa", "foreign"),
            ("10.1.0.2", "1.8.8.8.8.in-addr.arpa", "foreign"),
            ("10.2.0.9", "9.0.2.10.in-addr.arpa", "secret"),
        ] {
            assert_eq!(ask(&zone, source, name), answer, "{source} asks {name}");
        }
    }

    #[test]
    fn only_containers_with_a_way_out_ask_elsewhere() {
        let zone = zone();
        for (source, forward) in [
            ("10.1.0.2", Some(true)),
            ("10.3.0.2", Some(true)),
            ("10.3.0.4", Some(false)),
            ("10.1.0.1", Some(false)),
            ("10.1.0.77", None),
            ("10.9.0.4", None),
            ("127.0.0.1", None),
            ("8.8.8.8", None),
        ] {
            assert_eq!(zone.client(ip(source)).map(|c| c.forward), forward, "{source}");
        }
    }
}
