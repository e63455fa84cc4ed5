//! Hosts against an etcd that is a map: the rules of its transactions are all that counts here.

use super::*;
use crate::cluster::etcd::{Below, Moment};

#[derive(Default)]
struct Fake {
    revision: i64,
    entries: BTreeMap<String, Entry>,
}

impl Fake {
    fn mirror(&self) -> Mirror {
        Mirror::of(Below {
            at: Moment {
                cluster: 1,
                revision: self.revision,
            },
            entries: self.entries.values().cloned().collect(),
        })
    }

    fn carry_out(&mut self, change: &Change) -> Option<i64> {
        let written = |(prefix, at): &(String, i64)| {
            let mut all = self.entries.iter();
            all.any(|(key, entry)| key.starts_with(prefix) && entry.written > *at)
        };
        let there = |key: &String| self.entries.contains_key(key);
        if change.unless_written.iter().any(written) || change.unless_there.iter().any(there) {
            return None;
        }
        self.revision += 1;
        for (key, value, lease) in &change.puts {
            let entry = Entry {
                key: key.clone(),
                value: value.clone().into_bytes(),
                written: self.revision,
                lease: *lease,
            };
            self.entries.insert(key.clone(), entry);
        }
        change
            .deletes
            .iter()
            .for_each(|key| drop(self.entries.remove(key)));
        Some(self.revision)
    }

    fn put(&mut self, key: &str, value: &str) {
        let puts = vec![(key.to_owned(), value.to_owned(), 0)];
        let change = Change {
            puts,
            ..Change::default()
        };
        self.carry_out(&change).unwrap();
    }

    /// What the host is told once all it wants is written.
    fn settle(&mut self, host: &Host) -> ClusterNetwork {
        for _ in 0..20 {
            let mut decision = decide(&self.mirror(), &host.wanted(), &host.me);
            match decision.change {
                Some(change) => drop(self.carry_out(&change).unwrap()),
                None => return decision.told.remove(&mesh()).unwrap(),
            }
        }
        panic!("it never ends: {:?}", self.entries);
    }

    fn keys(&self) -> Vec<&str> {
        self.entries
            .keys()
            .map(|key| key.strip_prefix("/wharf/v1/networks/mesh/").unwrap())
            .collect()
    }
}

struct Host {
    me: Me,
    network: WantedNetwork,
}

fn mesh() -> Name {
    "mesh".parse().unwrap()
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

impl Host {
    fn new(n: u8) -> Self {
        let leases = Leases {
            ttl: 300,
            alive: 100 + i64::from(n),
            ranges: 200 + i64::from(n),
        };
        Self {
            me: Me {
                id: format!("id{n}"),
                name: format!("host{n}"),
                leases,
                found: Some(format!("192.0.2.{n}").parse().unwrap()),
            },
            network: WantedNetwork {
                subnet: net("10.81.0.0/16"),
                range: None,
                before: None,
                local: None,
                tunnel: "vxlan".to_owned(),
                vni: 4200,
                port: 4789,
                encrypted: None,
                in_use: Vec::new(),
                names: None,
            },
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            networks: BTreeMap::from([(mesh(), self.network.clone())]),
            ..Wanted::default()
        }
    }
}

fn range(told: &ClusterNetwork) -> String {
    told.range
        .map_or_else(|| "none".to_owned(), |range| range.to_string())
}

#[test]
fn hosts_register_and_hear_of_each_other() {
    let mut etcd = Fake::default();
    let (mut a, b) = (Host::new(1), Host::new(2));
    let ips = vec!["10.81.0.2".parse().unwrap()];
    a.network.names = Some(BTreeMap::from([("web".to_owned(), ips.clone())]));
    // Nothing is told to be this host's before it is.
    assert_eq!(
        range(&decide(&etcd.mirror(), &a.wanted(), &a.me).told[&mesh()]),
        "none"
    );
    assert_eq!(range(&etcd.settle(&a)), "10.81.0.0/24");
    let told = etcd.settle(&b);
    assert_eq!(range(&told), "10.81.1.0/24");
    let other = ClusterHost {
        name: "host1".to_owned(),
        address: "192.0.2.1".parse().unwrap(),
        key: None,
        range: net("10.81.0.0/24"),
        names: BTreeMap::from([("web".to_owned(), ips)]),
    };
    assert_eq!(told.hosts, BTreeMap::from([("id1".to_owned(), other)]));
    let keys = [
        "hosts/id1",
        "hosts/id2",
        "names/id1",
        "ranges/10.81.0.0-24",
        "ranges/10.81.1.0-24",
    ];
    assert_eq!(etcd.keys(), keys);
    assert_eq!(
        etcd.entries["/wharf/v1/networks/mesh/hosts/id1"].lease,
        a.me.leases.alive
    );
    assert_eq!(
        etcd.entries["/wharf/v1/networks/mesh/ranges/10.81.0.0-24"].lease,
        a.me.leases.ranges
    );
    // With other leases, all is written anew on those; without names, those go.
    (a.me.leases.alive, a.me.leases.ranges) = (7, 8);
    a.network.names = Some(BTreeMap::new());
    assert_eq!(range(&etcd.settle(&a)), "10.81.0.0/24");
    assert_eq!(etcd.entries["/wharf/v1/networks/mesh/hosts/id1"].lease, 7);
    assert!(!etcd.keys().contains(&"names/id1"));
    // Where the network is no more, nothing of this host is, and all of the others.
    let change = decide(&etcd.mirror(), &Wanted::default(), &a.me).change.unwrap();
    etcd.carry_out(&change).unwrap();
    assert_eq!(etcd.keys(), ["hosts/id2", "ranges/10.81.1.0-24"]);
    assert_eq!(decide(&etcd.mirror(), &Wanted::default(), &a.me).change, None);
}

#[test]
fn parts_never_overlap_however_hosts_race() {
    for seed in 0..100_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = |below: usize| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        let mut etcd = Fake::default();
        let mut hosts: Vec<(Host, Mirror)> = (1..=6).map(|n| (Host::new(n), Mirror::default())).collect();
        for (host, _) in &mut hosts {
            host.network.range =
                [None, None, Some(net("10.81.0.0/23")), Some(net("10.81.1.128/25"))][random(4)];
            host.network.before = [None, Some(net("10.81.1.0/24"))][random(2)];
        }
        for _ in 0..120 {
            let number = random(hosts.len());
            let (host, mirror) = &mut hosts[number];
            if random(3) == 0 {
                *mirror = etcd.mirror();
            }
            if let Some(change) = decide(mirror, &host.wanted(), &host.me).change {
                match etcd.carry_out(&change) {
                    Some(revision) => mirror.note(&change, revision),
                    None => *mirror = etcd.mirror(),
                }
            }
        }
        let told: Vec<ClusterNetwork> = hosts.iter().map(|(host, _)| etcd.settle(host)).collect();
        for (n, a) in told.iter().enumerate() {
            assert!(a.range.is_some() != a.refused.is_some(), "seed {seed}: {told:#?}");
            assert!(
                hosts[n].0.network.range.is_some() || a.range.is_some(),
                "seed {seed}: {told:#?}"
            );
            let clashes = |b: &ClusterNetwork| a.range.zip(b.range).is_some_and(|(a, b)| overlap(a, b));
            assert!(!told[n + 1..].iter().any(clashes), "seed {seed}: {told:#?}");
        }
    }
}

#[test]
fn a_part_before_is_asked_for_again_and_another_one_where_it_was_lost() {
    let mut etcd = Fake::default();
    let (mut a, mut b) = (Host::new(1), Host::new(2));
    a.network.before = Some(net("10.81.5.0/24"));
    assert_eq!(range(&etcd.settle(&a)), "10.81.5.0/24");
    b.network.before = Some(net("10.81.5.0/24"));
    b.network.in_use = vec!["10.81.5.9".parse().unwrap()];
    assert_eq!(range(&etcd.settle(&b)), "10.81.0.0/24");
    // The other one stays with it though it was not in force here yet.
    assert_eq!(range(&etcd.settle(&b)), "10.81.0.0/24");
    // A part is kept as long as somebody here has an address in it.
    a.network.range = Some(net("10.81.6.0/24"));
    a.network.in_use = vec!["10.81.5.2".parse().unwrap()];
    assert_eq!(range(&etcd.settle(&a)), "10.81.6.0/24");
    a.network.before = a.network.range;
    etcd.settle(&a);
    assert!(etcd.keys().contains(&"ranges/10.81.5.0-24"));
    a.network.in_use.clear();
    etcd.settle(&a);
    assert!(!etcd.keys().contains(&"ranges/10.81.5.0-24"));
}

#[test]
fn what_cannot_be_is_refused_with_whose_it_is() {
    let mut etcd = Fake::default();
    let (a, mut b) = (Host::new(1), Host::new(2));
    etcd.settle(&a);
    b.network.range = Some(net("10.81.0.128/25"));
    let refused = |told: ClusterNetwork| told.refused.unwrap();
    assert_eq!(
        refused(etcd.settle(&b)),
        "range 10.81.0.128/25 overlaps 10.81.0.0/24 of host host1 (192.0.2.1); use another"
    );
    let mut copied = Host::new(3);
    copied.me.id = "id1".to_owned();
    let why = refused(etcd.settle(&copied));
    assert!(
        why.starts_with("host host1 (192.0.2.1) goes by the same id as this one, id1"),
        "{why}"
    );
    // But one that lost its state dir takes up what it had.
    let mut reborn = Host::new(1);
    (reborn.me.id, reborn.me.leases.ranges) = ("new".to_owned(), 9);
    assert_eq!(range(&etcd.settle(&reborn)), "10.81.0.0/24");
    assert_eq!(
        etcd.keys()
            .iter()
            .filter(|key| key.starts_with("ranges/"))
            .count(),
        1
    );
    let mut lost = Host::new(4);
    lost.me.found = None;
    assert!(refused(etcd.settle(&lost)).contains("write `host` under [cluster]"));
    // What is said of them all the same is who is there.
    assert_eq!(etcd.settle(&lost).hosts.len(), 2);
}

#[test]
fn what_others_wrote_is_not_believed_blindly() {
    let mut etcd = Fake::default();
    let host = Host::new(1);
    let good = records::write(
        &Settle {
            name: &mesh(),
            network: &host.network,
            found: &Found::default(),
            address: None,
            me: &host.me,
            revision: 0,
        }
        .host("192.0.2.9".parse().unwrap(), net("10.81.9.0/24")),
    );
    for (id, value) in [
        ("empty", String::new()),
        ("text", "\"a\"".to_owned()),
        ("half", good[..good.len() / 2].to_owned()),
        ("number", good.replace("\"192.0.2.9\"", "5")),
        ("loopback", good.replace("192.0.2.9", "127.0.0.1")),
        ("subnet", good.replace("10.81.0.0/16", "10.82.0.0/16")),
        ("range", good.replace("10.81.9.0/24", "10.99.9.0/24")),
        ("vni", good.replace("4200", "4300")),
        ("deep", "[".repeat(100_000)),
        (
            "well",
            good.replace("host1", "h\\u0007\\u001b[31m")
                .replace("\"vni\"", "\"new\":{},\"vni\""),
        ),
    ] {
        etcd.put(&format!("/wharf/v1/networks/mesh/hosts/{id}"), &value);
    }
    etcd.put("/wharf/v1/networks/mesh/hosts/../../x", "{}");
    etcd.put("/wharf/v1/networks/mesh/ranges/10.81.0.0-24", "garbage");
    etcd.put("/wharf/v1/networks/mesh/ranges/nothing", "{}");
    let names = r#"{"names":{"db":["10.81.9.2"],"Bad Name":["10.81.9.3"],"":["10.81.9.3"],"none":[]}}"#;
    etcd.put("/wharf/v1/networks/mesh/names/well", names);
    let told = etcd.settle(&host);
    assert_eq!(told.hosts.keys().collect::<Vec<_>>(), ["well"]);
    let well = &told.hosts["well"];
    assert_eq!(well.name, "h[31m", "nothing that a terminal would obey");
    assert_eq!(well.names.keys().collect::<Vec<_>>(), ["db"]);
    assert_eq!(told.left_out.len(), 9, "{:#?}", told.left_out);
    assert_eq!(
        range(&told),
        "10.81.1.0/24",
        "what cannot be understood is taken all the same"
    );
}

#[test]
fn encrypted_hosts_tell_their_keys_and_leave_out_who_has_none() {
    let mut etcd = Fake::default();
    let [mut a, mut b, c] = [1, 2, 3].map(Host::new);
    a.network.encrypted = Some(None);
    let untold = etcd.settle(&a);
    assert!(untold.refused.unwrap().contains("key cannot be seen"));
    assert!(etcd.keys().is_empty());
    let key = |n| model::wireguard::PublicKey::from_bytes([n; 32]);
    a.network.encrypted = Some(Some(key(1)));
    b.network.encrypted = Some(Some(key(2)));
    for host in [&a, &b, &c] {
        etcd.settle(host);
    }
    let told = etcd.settle(&a);
    let keys: Vec<_> = told.hosts.values().map(|host| host.key).collect();
    assert_eq!(keys, [Some(key(2))]);
    assert_eq!(
        told.left_out,
        ["host host3 (192.0.2.3) has encryption none, this one wireguard: it is left out"]
    );
    let told = etcd.settle(&c);
    assert!(told.hosts.is_empty() && told.left_out.len() == 2, "{told:?}");
    // A key that is another one by now is written anew; while it cannot be seen, what was written stays.
    b.network.encrypted = Some(Some(key(4)));
    etcd.settle(&b);
    b.network.encrypted = Some(None);
    etcd.settle(&b);
    let told = etcd.settle(&a);
    assert_eq!(told.hosts["id2"].key, Some(key(4)));
}
