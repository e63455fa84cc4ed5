//! Beside Debian's firewalls themselves: ufw, firewalld, an nftables ruleset written by hand. Whatever they do, what is
//! published is reached by whom it is for, and by nobody else; containers reach the world, and names resolve.
#![allow(clippy::unwrap_used)]

use std::process::Child;
use std::time::{Duration, Instant};

use model::status::{PortStatus, Status};
use tests::{From, Host, at_once, http};

const LIMIT: Duration = Duration::from_secs(60);

/// A web server on the network front, one beside it, one on another network; and a server in the world.
struct Shop {
    host: Host,
    world: Child,
}

impl Drop for Shop {
    fn drop(&mut self) {
        drop(self.world.kill());
        drop(self.world.wait());
    }
}

impl Shop {
    fn new() -> Self {
        let mut host = Host::new();
        host.open_firewalls();
        host.write(
            "net.toml",
            "[network.front]\nsubnet = \"10.90.1.0/24\"\n[network.back]\nsubnet = \"10.90.2.0/24\"\n",
        );
        let ports = "ports = [\"8080:80\", { host = 8081, container = 80, allow = [\"198.51.100.0/24\"] }, \
                     \"127.0.0.1:8082:80\"]\n";
        let web = format!(
            "[container.web]\nimage = {:?}\n{ports}networks = [\"front\"]\n",
            host.hello_image()
        );
        host.write("web.toml", &web);
        host.write_busybox("peer", "exec sleep 1000", "networks = [\"front\"]\n");
        host.write_busybox("other", "exec sleep 1000", "networks = [\"back\"]\n");
        let pages = host.dir().join("world");
        std::fs::create_dir(&pages).unwrap();
        std::fs::write(pages.join("index.html"), "the world").unwrap();
        let world = host
            .neighbour
            .command("busybox")
            .args(["httpd", "-f", "-p", "9000", "-h"])
            .arg(pages)
            .spawn()
            .unwrap();
        Self { host, world }
    }

    fn start(&mut self) -> Status {
        self.host.start_agent();
        self.host.converge()
    }

    fn page(&self, container: &str, url: &str) -> Option<String> {
        let at = url.trim_start_matches("http://").trim_end_matches('/');
        let (host, port) = at.split_once(':').unwrap_or((at, "80"));
        let line = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {host} {port}");
        let said = self.host.wharf(["exec", container, "sh", "-c", &line]);
        let (head, body) = said.stdout.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    /// Everything there is to see of it from a while after `when` on.
    #[track_caller]
    fn holds(&self, when: &str) {
        let told = |what: &str| format!("{when}: {what}\n{}\n{}", self.host.evidence(), self.rules());
        let until = |what: &str, so: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !so() {
                assert!(start.elapsed() < LIMIT, "{}", told(&format!("never {what}")));
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let (host, neighbour) = (&self.host, &self.host.neighbour);
        let published = || http::get(neighbour, "http://192.0.2.1:8080/").is_ok();
        until("a page from the LAN", &published);
        let loopback = || http::get(&host.ns, "http://127.0.0.1:8082/").is_ok();
        until("a page by the loopback", &loopback);
        let hairpin = || self.page("other", "http://192.0.2.1:8080/").is_some();
        until("a page from another network by the host's address", &hairpin);
        let world = || self.page("other", "http://192.0.2.2:9000/").as_deref() == Some("the world");
        until("a page from the world", &world);
        let names = || self.page("peer", "http://web/").is_some();
        until("a page by name", &names);
        let reached_by: [(&str, &(dyn Fn() -> bool + Sync)); 3] = [
            ("8081 is reached by whom `allow` does not name", &|| {
                http::reaches(neighbour, "192.0.2.1:8081")
            }),
            ("8082 is reached by another host, on the loopback's port", &|| {
                http::reaches(neighbour, "192.0.2.1:8082")
            }),
            ("8081 from a container", &|| {
                self.page("other", "http://192.0.2.1:8081/").is_some()
            }),
        ];
        at_once(reached_by, |(what, reached)| {
            assert!(!reached(), "{}", told(what));
        });
        let status = self.host.converge();
        let complaints: Vec<_> = status.networks.iter().filter_map(|n| n.error.clone()).collect();
        assert!(complaints.is_empty(), "{}", told(&complaints.join("\n")));
        assert!(
            ports(&status).iter().all(|p| p.closed_by.is_none()),
            "{}",
            told("closed")
        );
    }

    fn rules(&self) -> String {
        self.host.firewall("nft list ruleset")
    }

    /// Neither rule nor zone speaks of us once nothing is declared.
    fn leaves_no_trace(&self) {
        self.host.remove_all();
        self.host
            .until("all gone", |s| s.converged && s.networks.is_empty());
        let rules = self.rules();
        // firewalld keeps the chains of a zone that was once used.
        let ours = |line: &&str| line.contains("wh-") || line.to_lowercase().contains("wharf");
        let left: Vec<&str> = rules
            .lines()
            .filter(ours)
            .filter(|line| !line.contains("_wharf"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn ports(status: &Status) -> Vec<PortStatus> {
    tests::client::row(status, "web").ports.clone()
}

/// A neighbour reaches a port of the host that is none of ours.
fn reaches_the_host(shop: &Shop, container: &str) -> bool {
    let mut server = shop
        .host
        .ns
        .command("busybox")
        .args(["httpd", "-f", "-p", "7000", "-h"])
        .arg(shop.host.dir().join("world"))
        .spawn()
        .unwrap();
    shop.host.http_get(From::Host, "http://192.0.2.1:7000/");
    let asked: [&(dyn Fn() -> bool + Sync); 2] =
        [&|| http::reaches(&shop.host.neighbour, "192.0.2.1:7000"), &|| {
            shop.page(container, "http://192.0.2.1:7000/").is_some()
        }];
    let reached = at_once(asked, |reached| reached());
    server.kill().unwrap();
    server.wait().unwrap();
    reached.contains(&true)
}

fn beside_ufw(kind: &str) {
    let mut shop = Shop::new();
    for (name, from) in [("iptables", "iptables"), ("ip6tables", "ip6tables")] {
        shop.host.firewall(&format!(
            "update-alternatives --quiet --set {name} /usr/sbin/{from}-{kind}"
        ));
    }
    shop.host.firewall("ufw --force enable");
    shop.start();
    shop.holds("started beside ufw");
    assert!(!reaches_the_host(&shop, "other"), "ufw closes it");
    for act in [
        "ufw reload",
        "ufw allow 22/tcp",
        "ufw disable",
        "ufw --force enable",
        "ufw reload",
        "ufw --force reset; ufw --force enable",
        "iptables -t nat -F",
        "iptables -F FORWARD; ufw reload",
        "nft flush ruleset; ufw --force enable",
    ] {
        shop.host.firewall(act);
        shop.holds(act);
    }
    assert!(!reaches_the_host(&shop, "other"), "ufw closes it still");
    shop.leaves_no_trace();
    shop.host
        .firewall("ufw reload; ufw status | grep -q '^Status: active'");
}

#[test]
fn slow_beside_ufw() {
    beside_ufw("nft");
}

#[test]
fn slow_firewalld_first() {
    let mut shop = Shop::new();
    shop.host.start_firewalld();
    shop.start();
    shop.holds("started beside firewalld");
    let zone = "firewall-cmd --zone=wharf --list-interfaces";
    assert_eq!(shop.host.firewall(zone).split_whitespace().count(), 2);
    let kept = shop.host.firewall("firewall-cmd --permanent --list-all-zones");
    assert!(!kept.contains("wh-"), "at run time only: {kept}");
    assert!(!reaches_the_host(&shop, "other"), "firewalld closes it");
    let events = |shop: &Shop| shop.host.wharf(["events"]).ok().stdout;
    for act in [
        "firewall-cmd --reload",
        "firewall-cmd --complete-reload",
        "firewall-cmd --zone=wharf --remove-interface=wh-front",
        "firewall-cmd --add-service=http",
        "nft flush ruleset; firewall-cmd --reload",
    ] {
        shop.host.firewall(act);
        shop.holds(act);
    }
    // Why it was put right is said as it was.
    let told = events(&shop);
    assert!(
        told.contains("firewalld does not let its networks through"),
        "{told}"
    );
    // One of the networks goes, and with it what firewalld was told of it.
    shop.host.remove("other.toml");
    shop.host
        .write("net.toml", "[network.front]\nsubnet = \"10.90.1.0/24\"\n");
    shop.host.until("gone", |s| s.converged && s.networks.len() == 1);
    assert_eq!(shop.host.firewall(zone).trim(), "wh-front");
    shop.leaves_no_trace();
}

#[test]
fn slow_wharf_first_then_firewalld() {
    let mut shop = Shop::new();
    shop.start();
    shop.host.start_firewalld();
    shop.holds("firewalld started");
    // It is killed, and its rules stay: nobody can be asked for what comes then.
    shop.host.ns.sh("kill -KILL $(cat /mnt/firewalld.pid)");
    shop.holds("firewalld killed");
    let third = shop
        .host
        .busybox_table("third", "exec sleep 1000", "networks = [\"more\"]\n");
    shop.host.write(
        "more.toml",
        &format!("[network.more]\nsubnet = \"10.90.3.0/24\"\n{third}"),
    );
    let status = shop.host.until("told", |s| {
        s.networks
            .iter()
            .any(|n| n.error.as_ref().is_some_and(|e| e.contains("no firewalld")))
    });
    assert!(
        status
            .networks
            .iter()
            .filter(|n| n.error.is_some())
            .all(|n| n.name == "more"),
        "{status:#?}"
    );
    shop.host.start_firewalld();
    shop.host.until("asked", |s| {
        s.converged && s.networks.iter().all(|n| n.error.is_none())
    });
    shop.holds("firewalld started again");
    assert!(shop.page("third", "http://192.0.2.2:9000/").is_some());
    shop.host.remove("more.toml");
    // Ended in order it takes its rules with it.
    shop.host
        .ns
        .sh("kill -TERM $(cat /mnt/firewalld.pid); while nft list table inet firewalld >/dev/null 2>&1; do sleep 0.05; done");
    shop.holds("firewalld stopped");
    shop.leaves_no_trace();
}

#[test]
fn slow_firewalld_has_the_last_word_where_somebody_gave_it() {
    let mut shop = Shop::new();
    let file = shop.host.firewall_file("/usr/lib/firewalld/zones/wharf.xml");
    let zone =
        std::fs::read_to_string(tests::binary::repository().join("systemd/wharf-firewalld.xml")).unwrap();
    shop.host.ns.sh(&format!("rm {file}"));
    shop.host.start_firewalld();
    // No such zone.
    shop.host.start_agent();
    let error = |status: &Status, of: &str| {
        let network = status.networks.iter().find(|n| n.name == of);
        network.and_then(|n| n.error.clone()).unwrap_or_default()
    };
    let status = shop
        .host
        .until("told", |s| error(s, "front").contains("no zone wharf"));
    assert!(error(&status, "back").contains("`./install`"), "{status:#?}");
    // What is published is let through all the same.
    shop.host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    shop.host.ns.sh(&format!("cat >{file} <<'EOF'\n{zone}\nEOF"));
    shop.host.firewall("firewall-cmd --reload");
    shop.holds("the zone is there");
    // Somebody's own choice of a zone.
    shop.host
        .firewall("firewall-cmd --zone=public --change-interface=wh-front");
    let status = shop
        .host
        .until("told", |s| error(s, "front").contains("in its zone public"));
    assert_eq!(error(&status, "back"), "");
    shop.host
        .firewall("firewall-cmd --zone=public --remove-interface=wh-front");
    shop.holds("it is out of that zone");
    // Told to be strict, firewalld drops what is published, and the ports say so.
    shop.host
        .firewall("sed -i s/^StrictForwardPorts=.*/StrictForwardPorts=yes/ /etc/firewalld/firewalld.conf; firewall-cmd --reload");
    let closed = |s: &Status| -> Vec<Option<String>> { ports(s).into_iter().map(|p| p.closed_by).collect() };
    let firewalld = Some("firewalld".to_owned());
    shop.host.until("told", |s| {
        closed(s) == [firewalld.clone(), firewalld.clone(), None]
    });
    assert!(!http::reaches(&shop.host.neighbour, "192.0.2.1:8080"));
    let shown = shop.host.wharf(["status", "web"]).stdout;
    assert!(shown.contains("closed by firewalld"), "{shown}");
    shop.host
        .firewall("sed -i s/^StrictForwardPorts=.*/StrictForwardPorts=no/ /etc/firewalld/firewalld.conf; firewall-cmd --reload");
    shop.holds("not strict any more");
}

/// As Debian's examples of /etc/nftables.conf for a server and a router have it.
const BY_HAND: &str = "flush ruleset
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
        ct state invalid drop
        icmp type echo-request accept
        tcp dport 22 accept
    }
    chain forward { type filter hook forward priority filter; policy drop; ct state established,related accept; }
    chain output { type filter hook output priority filter; }
}
";

#[test]
fn slow_beside_a_ruleset_written_by_hand() {
    let mut shop = Shop::new();
    let file = shop.host.dir().join("nftables.conf");
    std::fs::write(&file, BY_HAND).unwrap();
    let load = format!("nft -f {}", file.display());
    shop.start();
    shop.host.ns.sh(&load);
    let said = |s: &Status| -> Vec<String> {
        let errors = s.networks.iter().filter_map(|n| n.error.clone());
        errors.collect()
    };
    let status = shop.host.until("told", |s| {
        said(s)
            .iter()
            .filter(|e| e.contains("inet filter forward") && e.contains("inet filter input"))
            .count()
            == 2
    });
    let closed: Vec<_> = ports(&status).into_iter().map(|p| p.closed_by).collect();
    let by = Some("the nftables chain `inet filter forward`".to_owned());
    assert_eq!(closed, [by.clone(), by, None]);
    assert!(!http::reaches(&shop.host.neighbour, "192.0.2.1:8080"));
    // This host reaches it as ever.
    shop.host.http_get(From::Host, "http://127.0.0.1:8082/");
    // What it says helps.
    let advice: Vec<String> = said(&status)[0]
        .split('`')
        .filter(|part| part.starts_with("nft 'insert"))
        .map(str::to_owned)
        .collect();
    assert_eq!(advice.len(), 2, "{status:#?}");
    for line in &advice {
        shop.host.ns.sh(line);
    }
    // Of rules in chains of others nobody tells; the next full pass sees them.
    shop.host.wharf(["reload"]).ok();
    shop.holds("what was advised is done");
    // Loaded again, without it, and then with it.
    shop.host.ns.sh(&load);
    shop.host.until("told", |s| said(s).len() == 2);
    let lines: Vec<&str> = advice
        .iter()
        .map(|a| a.trim_start_matches("nft '").trim_end_matches('\''))
        .collect();
    std::fs::write(
        &file,
        format!("{BY_HAND}{}\n", lines.join("\n").replace("; ", "\n")),
    )
    .unwrap();
    shop.host.ns.sh(&load);
    shop.holds("it is in the file it is loaded from");
    shop.host.ns.sh("nft delete table inet filter");
    shop.holds("the ruleset is gone");
}

#[test]
fn status_says_who_can_reach_each_port() {
    let mut shop = Shop::new();
    let status = shop.start();
    let open: Vec<_> = ports(&status).into_iter().map(|p| (p.host, p.open_to)).collect();
    let wanted = [(8080, "everybody"), (8081, "sources"), (8082, "host")];
    assert_eq!(open, wanted.map(|(port, to)| (port, to.to_owned())));
    let shown = shop.host.wharf(["status", "web"]).stdout;
    for line in [
        "  0.0.0.0:8080->80/tcp is open to everybody\n",
        "  0.0.0.0:8081->80/tcp is open to 198.51.100.0/24 and this host\n",
        "  127.0.0.1:8082->80/tcp is open to this host\n",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
}
