//! Tables of cases.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use model::families::Families;
use model::ledger::Lease;
use model::name::{ContainerId, Name};
use model::network::{HostNetwork, Subnet4, Subnet6};

use super::{address, address6, device, port, subnet};

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn network(subnet: &str, range: Option<&str>) -> HostNetwork {
    let subnet = net(subnet);
    HostNetwork {
        name: "front".parse().unwrap(),
        bridge: "wh-front".to_owned(),
        ip: Families::V4(Subnet4 {
            subnet,
            gateway: subnet.hosts().next().unwrap(),
            range: range.map(net),
            masquerade: true,
        }),
        mtu: None,
        internal: false,
        isolated: false,
        driver: Default::default(),
    }
}

fn lease(
    leases: &mut BTreeMap<String, Lease>,
    network: &HostNetwork,
    key: &str,
    now: Timestamp,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    let of = (&network.name, network.v4().unwrap());
    address::lease(leases, of, key, now, taken)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn all_addresses_but_the_networks_own_are_given_once_then_none() {
    let network = network("10.0.0.0/29", None);
    let mut leases: BTreeMap<String, Lease> = BTreeMap::new();
    let mut given: Vec<Ipv4Addr> = Vec::new();
    for n in 0..6 {
        let key = format!("front/c{n}");
        let taken = |ip| given.contains(&ip);
        let ip = lease(&mut leases, &network, &key, at(n), taken);
        given.extend(ip);
    }
    let text: Vec<String> = given.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
}

#[test]
fn a_lease_is_kept_and_the_least_recently_used_one_is_given_away_first() {
    let network = network("10.0.0.0/30", None);
    let wide = network_of_range("10.0.0.0/24", "10.0.0.128/31");
    let mut leases = BTreeMap::new();
    let first = lease(&mut leases, &network, "front/a", at(1), |_| false).unwrap();
    assert_eq!(
        lease(&mut leases, &network, "front/a", at(2), |_| false),
        Some(first)
    );
    assert_eq!(
        leases["front/a"].used_at,
        at(1),
        "a kept lease is not written again"
    );
    assert_eq!(
        lease(&mut leases, &network, "front/b", at(3), |_| false),
        Some(first),
        "the only one there is"
    );
    assert!(!leases.contains_key("front/a"));
    let mut leases = BTreeMap::new();
    let x = lease(&mut leases, &wide, "front/x", at(9), |_| false).unwrap();
    let y = lease(&mut leases, &wide, "front/y", at(5), |_| false).unwrap();
    assert_ne!(x, y);
    assert_eq!(
        lease(&mut leases, &wide, "front/z", at(10), |_| false),
        Some(y),
        "unused for longest"
    );
}

fn network_of_range(subnet: &str, range: &str) -> HostNetwork {
    network(subnet, Some(range))
}

#[test]
fn addresses_come_from_the_range() {
    let network = network_of_range("10.0.0.0/24", "10.0.0.64/26");
    let ip = lease(&mut BTreeMap::new(), &network, "front/a", at(0), |_| false).unwrap();
    assert!(net("10.0.0.64/26").contains(&ip), "{ip}");
}

#[test]
fn subnets_avoid_what_is_taken() {
    let pools = [net("10.88.0.0/23"), net("10.99.0.0/26")];
    let taken = [net("10.88.0.9/32"), net("10.88.1.0/25")].map(IpNet::V4);
    assert_eq!(subnet::pick(&pools, &[]), Some(net("10.88.0.0/24")));
    assert_eq!(subnet::pick(&pools, &taken[..1]), Some(net("10.88.1.0/24")));
    assert_eq!(subnet::pick(&pools, &taken), Some(net("10.99.0.0/26")));
    assert_eq!(subnet::pick(&pools, &[net("10.0.0.0/8").into()]), None);
}

#[test]
fn subnets_of_ipv6_are_64s_of_the_pool() {
    let net = |text: &str| text.parse::<Ipv6Net>().unwrap();
    let pool = net("fd00:88::/48");
    assert_eq!(subnet::pick6(pool, &[]), Some(net("fd00:88::/64")));
    let taken = [net("fd00:88::9/128"), net("fd00:88:0:1::/72")].map(IpNet::V6);
    assert_eq!(subnet::pick6(pool, &taken), Some(net("fd00:88:0:2::/64")));
    assert_eq!(
        subnet::pick6(net("fd00:88:0:5::/64"), &taken),
        Some(net("fd00:88:0:5::/64"))
    );
    assert_eq!(subnet::pick6(pool, &[net("fd00::/16").into()]), None);
    let id = ContainerId::from_bytes([0x12; 32]);
    assert_eq!(subnet::own_pool6(&id), net("fd12:1212:1212::/48"));
}

#[test]
fn addresses_of_ipv6_are_those_of_ipv4_by_number_where_they_are_free() {
    let network = network("10.0.0.0/24", None);
    let v6 = |range: Option<&str>| Subnet6 {
        subnet: "fd00::/64".parse().unwrap(),
        gateway: "fd00::7".parse().unwrap(),
        range: range.map(|range| range.parse().unwrap()),
        masquerade: true,
    };
    let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let mut leases: BTreeMap<String, Lease> = BTreeMap::new();
    let mut give = |v6: &Subnet6, of: &str, last: u8, second: i64, taken: &[Ipv6Addr]| {
        let key = format!("front/{of}");
        let like = (key.as_str(), Some(Ipv4Addr::new(10, 0, 0, last)));
        address6::lease(&mut leases, &network, v6, like, at(second), |ip| {
            taken.contains(&ip)
        })
    };
    let whole = v6(None);
    assert_eq!(give(&whole, "a", 20, 1, &[]), Some(ip("fd00::14")));
    assert_eq!(give(&whole, "a", 21, 2, &[]), Some(ip("fd00::14")), "kept");
    // Of the gateway, of the routers (the first), of another one, and of one that has it written.
    assert_eq!(give(&whole, "b", 7, 3, &[]), Some(ip("fd00::1")));
    assert_eq!(give(&whole, "c", 0, 4, &[]), Some(ip("fd00::2")));
    assert_eq!(give(&whole, "d", 20, 5, &[ip("fd00::3")]), Some(ip("fd00::4")));
    let two = v6(Some("fd00::10/127"));
    assert_eq!(give(&two, "e", 1, 6, &[]), Some(ip("fd00::11")));
    assert_eq!(give(&two, "f", 1, 9, &[]), Some(ip("fd00::10")));
    assert_eq!(
        give(&two, "g", 1, 10, &[]),
        Some(ip("fd00::11")),
        "unused for longest"
    );
    assert_eq!(give(&two, "h", 1, 11, &[ip("fd00::10"), ip("fd00::11")]), None);
    assert_eq!(leases["front/e"].ip.v6(), None);
}

#[test]
fn an_address_of_ipv6_alone_is_kept_when_the_network_gets_ipv4_and_loses_it() {
    let v6 = Subnet6 {
        subnet: "fd00::/64".parse().unwrap(),
        gateway: "fd00::1".parse().unwrap(),
        range: Some("fd00::10/127".parse().unwrap()),
        masquerade: true,
    };
    let alone = HostNetwork {
        ip: Families::V6(v6.clone()),
        ..network("10.0.0.0/24", None)
    };
    let both = HostNetwork {
        ip: network("10.0.0.0/24", None).ip.with_v6(v6.clone()),
        ..alone.clone()
    };
    let mut leases: BTreeMap<String, Lease> = BTreeMap::new();
    let give = |leases: &mut BTreeMap<String, Lease>, of: &HostNetwork, key: &str, ip, second| {
        address6::lease(leases, of, &v6, (key, ip), at(second), |_| false)
    };
    let first = give(&mut leases, &alone, "front/a", None, 1);
    assert_eq!(first, Some("fd00::10".parse().unwrap()));
    let four = lease(&mut leases, &both, "front/a", at(2), |_| false);
    assert_eq!(four, Some(Ipv4Addr::new(10, 0, 0, 2)));
    assert_eq!(give(&mut leases, &both, "front/a", four, 3), first);
    assert_eq!(lease(&mut leases, &both, "front/a", at(4), |_| false), four);
    assert_eq!(give(&mut leases, &alone, "front/a", None, 5), first, "and back");
    assert_eq!(leases["front/a"].ip.v4().copied(), four, "should it return");
    // The one unused for longest gives its place away, and its lease where there is nothing else in it.
    let second = give(&mut leases, &alone, "front/b", None, 6);
    assert_eq!(second, Some("fd00::11".parse().unwrap()));
    assert_eq!(give(&mut leases, &alone, "front/c", None, 7), first);
    assert_eq!(
        (leases["front/a"].ip.v6(), leases["front/a"].ip.v4().copied()),
        (None, four)
    );
    assert_eq!(give(&mut leases, &alone, "front/d", None, 8), second);
    assert!(!leases.contains_key("front/b"));
    let text = serde_json::to_string(&leases).unwrap();
    assert_eq!(
        serde_json::from_str::<BTreeMap<String, Lease>>(&text).unwrap(),
        leases
    );
}

#[test]
fn picked_ports_are_the_lowest_free_ones_of_the_range() {
    assert_eq!(port::pick(|_| false), Some(32_768));
    assert_eq!(port::pick(|p| p < 40_000), Some(40_000));
    assert_eq!(port::pick(|_| true), None);
}

#[test]
fn device_names_fit_and_differ() {
    let id = ContainerId::from_bytes([0xab; 32]);
    assert_eq!(device::host_device(&id, 0), "wh-ababababab.0");
    assert_eq!(device::host_device(&id, 35).len(), 15);
    for (name, plain) in [
        ("front", true),
        ("a-network-with-a-long-name", false),
        ("dotted.name", false),
    ] {
        let name: Name = name.parse().unwrap();
        let device = device::bridge(&name, |_| false);
        assert!(
            device.len() <= 15 && device.starts_with("wh-") && !device.contains('.'),
            "{device}"
        );
        assert_eq!(device == format!("wh-{name}"), plain);
        let other = device::bridge(&name, |d| d == device);
        assert!(other != device && other.len() <= 15, "{other}");
    }
}
