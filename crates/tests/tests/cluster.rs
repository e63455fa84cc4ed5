//! Hosts that find each other by a real etcd: nobody's table names another host.
//!
//! Host N has 198.51.100.N on the LAN, etcd 198.51.100.100. Each has a container cN on the network `mesh`.
#![allow(clippy::unwrap_used)]

mod mesh;

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use mesh::{Flow, flow_between, once};
use model::status::{NetworkStatus, PeerStatus};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tests::ovs::OpenVswitch;
use tests::{Etcd, Host, Lan};

const PREFIX: &str = "/wharf/v1/networks/mesh/";

struct Cluster {
    hosts: Vec<Host>,
    etcd: Etcd,
    lan: Lan,
    lease: &'static str,
    /// Further lines of each host's `[cluster]`.
    settings: String,
    /// Of each host with Open vSwitch.
    switches: Vec<OpenVswitch>,
}

impl Cluster {
    /// An etcd, and no hosts yet.
    fn new(lease: &'static str) -> Self {
        Self::around(lease, Etcd::on)
    }

    fn around(lease: &'static str, etcd: fn(&Lan, &str) -> Etcd) -> Self {
        let lan = Lan::new();
        Self {
            hosts: Vec::new(),
            etcd: etcd(&lan, "198.51.100.100"),
            lan,
            lease,
            settings: String::new(),
            switches: Vec::new(),
        }
    }

    /// Two hosts that know each other.
    fn of_two(lease: &'static str) -> Self {
        let mut cluster = Self::new(lease);
        for n in [1, 2] {
            cluster.add(n, "");
            cluster.hosts[n - 1].start_agent();
        }
        cluster.until_all_know(&[1, 2]);
        cluster
    }

    /// One more, whose agent is not started. `more` are further keys of the network.
    fn add(&mut self, n: usize, more: &str) {
        let host = Host::new();
        self.lan.join(&host.ns, &format!("198.51.100.{n}/24"));
        let settings = format!(
            "[cluster]\netcd = [{:?}]\nlease = {:?}\n{}",
            self.etcd.url(),
            self.lease,
            self.settings
        );
        std::fs::write(host.settings(), settings).unwrap();
        let line = format!("mkdir -p /www; echo c{n} >/www/name; exec httpd -f -p 80 -h /www");
        host.write_busybox(&format!("c{n}"), &line, "networks = [\"mesh\"]\n");
        host.write("mesh.toml", &table(more));
        self.hosts.push(host);
    }

    fn host(&self, n: usize) -> &Host {
        &self.hosts[n - 1]
    }

    fn mesh(&self, n: usize) -> NetworkStatus {
        let networks = self.host(n).status().networks;
        networks
            .into_iter()
            .find(|network| network.name == "mesh")
            .unwrap()
    }

    fn range(&self, n: usize) -> Ipv4Net {
        self.mesh(n).range.expect("it is registered").parse().unwrap()
    }

    fn ip(&self, n: usize) -> Ipv4Addr {
        self.host(n).container(&format!("c{n}")).networks["mesh"]
            .ip
            .as_ref()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Each converged, with all the others as its peers, and their containers reached by name.
    fn until_all_know(&self, all: &[usize]) {
        for n in all {
            let others: Vec<String> = all
                .iter()
                .filter(|o| *o != n)
                .map(|o| format!("198.51.100.{o}"))
                .collect();
            self.until_peers(*n, &others);
            self.host(*n).converge();
        }
        for (from, to) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))) {
            once(
                &format!("c{from} asks c{to} by name: {}", self.host(from).evidence()),
                || self.page(from, &format!("c{to}")) == format!("c{to}\n"),
            );
            once(&format!("c{from} asks c{to} by address"), || {
                self.page(from, &self.ip(to).to_string()) == format!("c{to}\n")
            });
        }
    }

    fn until_peers(&self, n: usize, others: &[String]) {
        let is_so = |network: &NetworkStatus| {
            let peers: Vec<&String> = network.peers.iter().map(|peer| &peer.address).collect();
            network.name == "mesh" && peers == others.iter().collect::<Vec<_>>()
        };
        self.host(n)
            .until(&format!("peers {others:?}"), |s| s.networks.iter().any(is_so));
    }

    /// What the container of a host gets of another one.
    fn page(&self, from: usize, of: &str) -> String {
        let line = format!("timeout 3 wget -q -O - http://{of}/name");
        self.host(from)
            .wharf(["exec", &format!("c{from}"), "sh", "-c", &line])
            .stdout
    }

    fn socket(&self, n: usize, at: &str) -> UdpSocket {
        let pid = self.host(n).container(&format!("c{n}")).pid.unwrap();
        let netns = File::open(format!("/proc/{pid}/ns/net")).unwrap();
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
                UdpSocket::bind(at).unwrap()
            });
            made.join().unwrap()
        })
    }

    /// Datagrams from c1 to c2, one after the other.
    fn flow(&self) -> Flow {
        let server = self.socket(2, "0.0.0.0:7002");
        let client = self.socket(1, "0.0.0.0:0");
        flow_between(server, client, format!("{}:7002", self.ip(2)))
    }

    fn pid(&self, n: usize) -> Option<u32> {
        self.host(n).container(&format!("c{n}")).pid
    }

    /// What etcd has of the network, by what is behind its prefix: values and leases.
    fn entries(&self) -> Vec<(String, Value, String)> {
        let end = PREFIX.replace("mesh/", "mesh0");
        let question = json!({ "key": STANDARD.encode(PREFIX), "range_end": STANDARD.encode(end) });
        let answer = self.etcd.ask("/v3/kv/range", &question);
        let text =
            |value: &Value| String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap();
        let entry = |kv: &Value| {
            let key = text(&kv["key"]).strip_prefix(PREFIX).unwrap().to_owned();
            let lease = kv["lease"].as_str().unwrap_or("0").to_owned();
            (key, serde_json::from_str(&text(&kv["value"])).unwrap(), lease)
        };
        answer["kvs"]
            .as_array()
            .map(|kvs| kvs.iter().map(entry).collect())
            .unwrap_or_default()
    }

    /// The leases that what a host wrote is on, ended at once: as after their time without a sign of life.
    fn revoke(&self, n: usize) {
        let address = format!("198.51.100.{n}");
        let mut own: Vec<String> = self
            .entries()
            .into_iter()
            .filter(|(_, value, _)| value["address"] == address)
            .map(|(_, _, lease)| lease)
            .collect();
        own.dedup();
        assert_eq!(own.len(), 2, "{:?}", self.entries());
        for lease in own {
            self.etcd.ask("/v3/lease/revoke", &json!({ "ID": lease }));
        }
    }

    fn events(&self, n: usize) -> String {
        self.host(n).wharf(["events"]).ok().stdout
    }
}

fn table(more: &str) -> String {
    format!(
        "[network.mesh]\ndriver = \"overlay\"\nsubnet = \"10.81.0.0/16\"\n{more}\n[network.mesh.overlay]\nvni = 4200\n"
    )
}

#[test]
fn hosts_that_start_together_find_each_other_and_a_third_joins() {
    let mut cluster = Cluster::new("5m");
    for n in [1, 2] {
        cluster.add(n, "");
    }
    let running: Vec<_> = cluster
        .hosts
        .iter_mut()
        .map(|host| host.spawn_agent(&["--once"]))
        .collect();
    for mut agent in running {
        assert!(agent.wait().unwrap().success());
    }
    for host in &mut cluster.hosts {
        host.start_agent();
    }
    cluster.until_all_know(&[1, 2]);
    let mut ranges = vec![cluster.range(1), cluster.range(2)];
    ranges.sort();
    let wanted: Vec<Ipv4Net> = ["10.81.0.0/24", "10.81.1.0/24"]
        .map(|range| range.parse().unwrap())
        .into();
    assert_eq!(ranges, wanted);
    for n in [1, 2] {
        assert!(cluster.range(n).contains(&cluster.ip(n)));
    }
    let peer = PeerStatus {
        address: "198.51.100.2".to_owned(),
        from: "etcd".to_owned(),
        host: Some("host".to_owned()),
        range: Some(cluster.range(2).to_string()),
    };
    assert_eq!(cluster.mesh(1).peers, [peer]);
    let pids = [1, 2].map(|n| cluster.pid(n));
    // A third one, with a part that its table names.
    cluster.add(3, "range = \"10.81.7.0/24\"");
    cluster.hosts[2].start_agent();
    cluster.until_all_know(&[1, 2, 3]);
    assert_eq!(cluster.range(3).to_string(), "10.81.7.0/24");
    assert_eq!([1, 2].map(|n| cluster.pid(n)), pids, "nobody was touched for it");
    assert!(
        cluster
            .events(1)
            .contains("host host (198.51.100.3, 10.81.7.0/24) is there")
    );
    // One that has the network no more is gone at once, and its part is free.
    cluster.host(3).remove_all();
    cluster.until_peers(1, &["198.51.100.2".to_owned()]);
    once("nothing is left of it", || {
        cluster
            .entries()
            .iter()
            .all(|(key, value, _)| value["address"] != "198.51.100.3" && !key.contains("10.81.7.0"))
    });
    assert_eq!(cluster.page(1, "c3"), "");
}

#[test]
fn while_etcd_is_away_all_stays() {
    let mut cluster = Cluster::of_two("5m");
    let pids = [1, 2].map(|n| cluster.pid(n));
    let (ranges, ips) = (
        [cluster.range(1), cluster.range(2)],
        [cluster.ip(1), cluster.ip(2)],
    );
    let flow = cluster.flow();
    flow.until_more(20);
    cluster.etcd.stop();
    cluster
        .host(1)
        .until("that etcd is away is told, and all counts as converged", |s| {
            let mut errors = s.networks.iter().filter_map(|network| network.error.as_ref());
            s.converged && errors.any(|error| error.contains("does not answer since"))
        });
    let error = cluster.mesh(1).error.unwrap();
    assert!(
        error.starts_with("etcd http://198.51.100.100:2379 does not answer since"),
        "{error}"
    );
    assert!(
        error.ends_with("; the peers that were known last stay"),
        "{error}"
    );
    flow.until_more(20);
    // An agent that begins anew meanwhile goes on, and makes a container that reaches the others.
    cluster.hosts[0].kill_agent();
    flow.until_more(20);
    cluster.hosts[0].start_agent();
    cluster
        .host(1)
        .write_busybox("late", "exec sleep 1000", "networks = [\"mesh\"]\n");
    cluster.host(1).wait_for("late");
    let late: Ipv4Addr = cluster.host(1).container("late").networks["mesh"]
        .ip
        .as_ref()
        .unwrap()
        .parse()
        .unwrap();
    assert!(ranges[0].contains(&late));
    let asked = cluster.host(1).wharf([
        "exec",
        "late",
        "sh",
        "-c",
        "timeout 30 wget -q -O - http://c2/name",
    ]);
    assert_eq!(asked.stdout, "c2\n", "{asked:?}{}", cluster.host(1).evidence());
    flow.until_more(20);
    cluster.etcd.start();
    for n in [1, 2] {
        cluster.host(n).until("all is well", |s| {
            s.converged && s.networks.iter().all(|network| network.error.is_none())
        });
    }
    once("the new name is known", || {
        cluster.page(2, "late").is_empty() && {
            let found = cluster.host(2).wharf(["exec", "c2", "nslookup", "late"]).stdout;
            found.contains(&late.to_string())
        }
    });
    cluster.until_all_know(&[1, 2]);
    // One that comes back with nothing in it, and then one that lost a host's leases: each is told anew who is there.
    cluster.etcd.stop();
    cluster.etcd.forget();
    cluster.etcd.start();
    once("both are registered again", || {
        cluster
            .entries()
            .iter()
            .filter(|(key, _, _)| key.starts_with("hosts/"))
            .count()
            == 2
    });
    cluster.until_all_know(&[1, 2]);
    flow.until_more(20);
    cluster.revoke(2);
    cluster.until_all_know(&[1, 2]);
    flow.until_more(20);
    assert_eq!([cluster.range(1), cluster.range(2)], ranges);
    assert_eq!([cluster.ip(1), cluster.ip(2)], ips);
    assert_eq!([1, 2].map(|n| cluster.pid(n)), pids);
    flow.stop();
    let events = cluster.events(1);
    assert!(events.contains("etcd answers again"), "{events}");
}

#[test]
fn a_host_that_is_gone_is_dropped_after_its_lease_and_comes_back_as_it_was() {
    let mut cluster = Cluster::of_two("10s");
    let (range, ip) = (cluster.range(2), cluster.ip(2));
    // Off with the host: agent, containers, devices.
    cluster.hosts[1].reboot();
    cluster.lan.join(&cluster.hosts[1].ns, "198.51.100.2/24");
    cluster.until_peers(1, &[]);
    assert!(
        cluster
            .events(1)
            .contains(&format!("host host (198.51.100.2, {range}) is there no more"))
    );
    assert!(cluster.page(1, "c2").is_empty());
    // A newcomer does not get its part of the subnet.
    cluster.add(3, "");
    cluster.hosts[2].start_agent();
    cluster.until_all_know(&[1, 3]);
    assert_ne!(cluster.range(3), range);
    cluster.hosts[1].start_agent();
    cluster.until_all_know(&[1, 2, 3]);
    assert_eq!((cluster.range(2), cluster.ip(2)), (range, ip));
}

#[test]
fn a_part_that_was_lost_is_given_up_and_one_that_overlaps_is_refused() {
    let mut cluster = Cluster::of_two("5m");
    let lost = cluster.range(2);
    // As if it had been away for more than a day, its container running all the while, and its part another's by now.
    cluster.hosts[1].kill_agent();
    cluster.revoke(2);
    cluster.add(3, &format!("range = \"{lost}\""));
    cluster.hosts[2].start_agent();
    cluster.until_all_know(&[1, 3]);
    let pids = [1, 3].map(|n| cluster.pid(n));
    cluster.hosts[1].start_agent();
    cluster.host(2).until("another part is leased", |s| {
        s.networks
            .iter()
            .any(|n| n.name == "mesh" && n.range.as_ref().is_some_and(|r| *r != lost.to_string()))
    });
    cluster.host(2).until("it has an address of that", |s| {
        let ip = s
            .containers
            .iter()
            .find_map(|c| c.networks.get("mesh")?.ip.as_ref()?.parse().ok());
        s.converged && ip.is_some_and(|ip: Ipv4Addr| !lost.contains(&ip))
    });
    cluster.until_all_know(&[1, 2, 3]);
    assert_eq!(
        [1, 3].map(|n| cluster.pid(n)),
        pids,
        "the others were not touched"
    );
    let events = cluster.events(2);
    let told =
        format!("is this host's, which had {lost}: containers with addresses of that are started again");
    assert!(events.contains(&told), "{events}");
    // A written range that overlaps another host's is refused, and nothing of the network changes.
    let before = (cluster.range(2), cluster.ip(2));
    cluster
        .host(2)
        .write_renamed("mesh.toml", &table("range = \"10.81.0.0/17\""));
    let told = cluster.host(2).until("it is refused", |s| {
        s.networks
            .iter()
            .filter_map(|n| n.error.as_ref())
            .any(|error| error.contains("overlaps"))
    });
    let errors: Vec<_> = told.networks.iter().filter_map(|n| n.error.clone()).collect();
    assert!(
        errors[0].starts_with("range 10.81.0.0/17 overlaps 10.81."),
        "{errors:?}"
    );
    assert!(errors[0].contains("of host host (198.51.100."), "{errors:?}");
    once("its container reaches the others", || {
        cluster.page(2, "c1") == "c1\n"
    });
    cluster.host(2).write_renamed("mesh.toml", &table(""));
    cluster.until_all_know(&[1, 2, 3]);
    assert_eq!((cluster.range(2), cluster.ip(2)), before);
}

/// What becomes of the tunnel is up to the kernel here (`./test --vm` has one with WireGuard); who is to be spoken with by
/// which key is not.
#[test]
fn encrypted_hosts_tell_each_other_their_keys() {
    let mut cluster = Cluster::new("5m");
    for n in [1, 2, 3] {
        let encryption = if n == 3 {
            ""
        } else {
            "encryption = \"wireguard\"\nport = 51820\n"
        };
        cluster.add(n, "");
        cluster.host(n).write("mesh.toml", &(table("") + encryption));
        cluster.hosts[n - 1].start_agent();
    }
    for (n, other) in [(1, 2), (2, 1)] {
        cluster.until_peers(n, &[format!("198.51.100.{other}")]);
        let own = cluster.mesh(n).public_key.unwrap();
        let told = |(key, value, _): &(String, Value, String)| {
            key.starts_with("hosts/") && value["key"] == own.as_str()
        };
        once("its key is in etcd", || {
            cluster.entries().iter().filter(|e| told(e)).count() == 1
        });
    }
    // Who does not encrypt is nobody they would send to.
    let told = cluster.host(3).until("the others are left out", |s| {
        s.networks
            .iter()
            .any(|n| n.error.as_ref().is_some_and(|e| e.contains("encryption")))
    });
    let mesh = told.networks.iter().find(|n| n.name == "mesh").unwrap();
    assert!(mesh.peers.is_empty() && mesh.public_key.is_none(), "{mesh:?}");
}

/// `ca` of the settings says who vouches for etcd; whoever is not told sends nothing there, and says why.
#[test]
fn etcd_is_asked_by_https_and_known_by_its_certificate() {
    let mut cluster = Cluster::around("5m", Etcd::secured);
    let ca = format!("ca = {:?}\n", cluster.etcd.ca());
    cluster.settings.clone_from(&ca);
    for n in [1, 2] {
        cluster.add(n, "");
        cluster.hosts[n - 1].start_agent();
    }
    cluster.until_all_know(&[1, 2]);
    cluster.settings.clear();
    cluster.add(3, "");
    cluster.hosts[2].start_agent();
    let is_told = |text: &str| text.contains("https://198.51.100.100:2379") && text.contains("certificate");
    cluster.host(3).until("the certificate is told of", |s| {
        let errors = s.networks.iter().filter_map(|n| n.error.as_deref());
        !s.converged && errors.into_iter().any(is_told)
    });
    assert!(cluster.events(3).lines().any(is_told), "{}", cluster.events(3));
    assert_eq!(cluster.mesh(1).peers.len(), 1, "nothing was registered");
    let settings = std::fs::read_to_string(cluster.host(3).settings()).unwrap();
    std::fs::write(cluster.host(3).settings(), settings + &ca).unwrap();
    cluster.until_all_know(&[1, 2, 3]);
}

#[test]
fn networks_of_open_vswitch_find_their_peers_too() {
    let mut cluster = Cluster::new("5m");
    // What comes from a veth is read without the kernel, which would fill in checksums.
    cluster.etcd.ns.sh("ethtool -K eth1 tx off >/dev/null");
    let table = table("").replace("\"overlay\"", "\"ovs\"") + "tunnel = \"geneve\"\ndatapath = \"netdev\"\n";
    for n in [1, 2, 3] {
        cluster.add(n, "");
        let switch = OpenVswitch::start_on(&mut cluster.hosts[n - 1]);
        switch.take_over("eth1", &format!("198.51.100.{n}/24"));
        cluster.switches.push(switch);
        cluster.host(n).write("mesh.toml", &table);
    }
    for n in [1, 2] {
        cluster.hosts[n - 1].start_agent();
    }
    cluster.until_all_know(&[1, 2]);
    cluster.hosts[2].start_agent();
    cluster.until_all_know(&[1, 2, 3]);
    let pids = [1, 2].map(|n| cluster.pid(n));
    cluster.host(3).remove_all();
    cluster.until_peers(1, &["198.51.100.2".to_owned()]);
    assert_eq!(cluster.page(1, "c3"), "");
    once("c2 is reached still", || cluster.page(1, "c2") == "c2\n");
    assert_eq!([1, 2].map(|n| cluster.pid(n)), pids, "nobody was touched");
}
