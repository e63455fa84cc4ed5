//! Beside other firewalls: iptables (in nftables and outside), hand-written nftables, firewalld's layout.
#![allow(clippy::unwrap_used)]

mod host;

use std::net::Ipv4Addr;

use host::{Container, HOST, Host, LOCALHOST, NEIGHBOUR, ask, network, port, refuse, refuse_all, serve};
use model::firewall::FirewallState;
use model::firewall::Protocol::{self, Tcp, Udp};
use model::network::HostNetwork;

const BOTH: [Protocol; 2] = [Tcp, Udp];
const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// ufw's way: policy drop, chains of its own in front, a reject at the end.
const UFW: &str = "iptables -P FORWARD DROP; iptables -N ufw-before-forward; iptables -N ufw-reject-forward;
    iptables -A FORWARD -j ufw-before-forward; iptables -A FORWARD -j ufw-reject-forward;
    iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT;
    iptables -A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT";
/// Docker's.
const DOCKER: &str = "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN;
    iptables -N DOCKER; iptables -A FORWARD -j DOCKER-USER; iptables -A FORWARD -o docker0 -j DOCKER;
    iptables -A FORWARD -i docker0 ! -o docker0 -j ACCEPT";
/// Policy accept, but a last word: as RHEL's iptables-services.
const REJECT: &str = "iptables -A FORWARD -p icmp -j ACCEPT; iptables -A FORWARD -m comment --comment 'last word' -j REJECT --reject-with icmp-host-prohibited";

struct Shop {
    host: Host,
    front: HostNetwork,
    closed: HostNetwork,
    web: Container,
    inner: Container,
    sibling: Container,
    state: FirewallState,
}

fn shop(host: Host) -> Shop {
    let (front, mut closed) = (network("front", 1), network("closed", 2));
    closed.internal = true;
    host.apply(&[&front, &closed], Vec::new());
    let web = host.container(&front, 5);
    serve(&web.space, ANY, 80, "web");
    let inner = host.container(&closed, 5);
    serve(&inner.space, ANY, 80, "inner");
    let sibling = host.container(&closed, 6);
    serve(&host.neighbour, ANY, 9000, "lan");
    let ports = BOTH.map(|p| port(p, None, 8080, &web.at, 80)).to_vec();
    let state = host.apply(&[&front, &closed], ports);
    Shop {
        host,
        front,
        closed,
        web,
        inner,
        sibling,
        state,
    }
}

impl Shop {
    /// As the agent does: look, and apply where it is not right.
    fn repair(&self) {
        self.host.space.run(|| {
            assert_eq!(
                self.host.net.firewall().unwrap(),
                None,
                "nothing was to be put right"
            );
            self.host.net.apply_firewall(&self.state).unwrap();
            assert_eq!(self.host.net.firewall().unwrap().as_ref(), Some(&self.state));
        });
    }

    fn works(&self) {
        self.host
            .neighbour
            .sh(&format!("ip route replace 10.88.0.0/16 via {HOST}"));
        for protocol in BOTH {
            assert_eq!(
                ask(&self.host.neighbour, protocol, HOST, 8080),
                format!("web {NEIGHBOUR}")
            );
            assert_eq!(
                ask(&self.web.space, protocol, NEIGHBOUR, 9000),
                format!("lan {HOST}")
            );
            assert!(ask(&self.host.space, protocol, LOCALHOST, 8080).starts_with("web "));
            // Itself, by the host.
            assert!(ask(&self.web.space, protocol, HOST, 8080).starts_with("web "));
            assert!(ask(&self.sibling.space, protocol, self.inner.ip(), 80).starts_with("inner "));
        }
        refuse_all(
            "beside another firewall",
            &[
                (&self.host.neighbour, self.web.ip(), 80),
                (&self.inner.space, NEIGHBOUR, 9000),
                (&self.web.space, self.inner.ip(), 80),
            ],
        );
        assert_eq!(told(&self.host), Vec::<String>::new());
    }
}

/// What is said of others' firewalls.
fn told(host: &Host) -> Vec<String> {
    let drops = host.space.run(|| host.net.foreign_drops().unwrap());
    drops.into_iter().map(|drop| drop.told).collect()
}

/// The foreign firewall as its own tools show it, without what is ours in it.
fn theirs(host: &Host) -> String {
    host.space
        .sh("iptables-save | grep -v '^#' | grep -v WHARF- | sed -E 's/\\[[0-9:]+\\]//' || true")
}

fn a_way_through(firewall: &str, bridge_nf: bool) {
    let shop = shop(Host::with_bridge_nf(Some(bridge_nf)));
    shop.works();
    shop.host.space.sh(firewall);
    let before = theirs(&shop.host);
    refuse(&shop.host.neighbour, Udp, HOST, 8080);
    shop.repair();
    shop.works();
    assert_eq!(theirs(&shop.host), before);
    let saved = shop
        .host
        .space
        .sh("iptables-save; iptables -S; iptables -L -n -v");
    for part in [
        "-A FORWARD -m comment --comment \"wharf:test\" -j WHARF-FORWARD",
        "-A WHARF-FORWARD -o wh-front -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        "-A WHARF-FORWARD -i wh-closed -o wh-closed -j ACCEPT",
    ] {
        assert!(saved.contains(part), "{part} in {saved}");
    }
    for damage in [
        "iptables -F; iptables -P FORWARD DROP",
        "iptables -F WHARF-FORWARD",
        "iptables -D FORWARD -m comment --comment wharf:test -j WHARF-FORWARD",
        "iptables -D FORWARD -m comment --comment wharf:test -j WHARF-FORWARD; iptables -A FORWARD -j WHARF-FORWARD",
        "iptables -I WHARF-FORWARD -j DROP",
        "iptables -A WHARF-FORWARD -j ACCEPT",
        "iptables -I FORWARD -j WHARF-FORWARD",
        "x=$(iptables-save -t filter); iptables -F; iptables -X; printf '%s\\n' \"$x\" | iptables-restore",
        "iptables -F; iptables -X; iptables -P FORWARD DROP",
        "nft delete table ip filter; iptables -P FORWARD DROP",
    ] {
        shop.host.space.sh(damage);
        let before = theirs(&shop.host);
        shop.repair();
        shop.works();
        assert_eq!(theirs(&shop.host), before, "{damage}");
    }
    // A network that goes, and then everything.
    let less = FirewallState {
        bridges: shop
            .state
            .bridges
            .iter()
            .filter(|b| !b.internal)
            .cloned()
            .collect(),
        ..shop.state.clone()
    };
    shop.host
        .space
        .run(|| shop.host.net.apply_firewall(&less).unwrap());
    assert!(!shop.host.space.sh("iptables-save").contains(&shop.closed.bridge));
    let before = theirs(&shop.host);
    shop.host.space.run(|| shop.host.net.remove_firewall().unwrap());
    assert_eq!(theirs(&shop.host), before);
    assert!(!shop.host.space.sh("iptables-save").contains("WHARF"));
    assert!(!shop.host.space.sh("iptables-save").contains(&shop.front.bridge));
}

#[test]
fn slow_a_way_through_ufws_forward_chain() {
    a_way_through(UFW, true);
}

#[test]
fn slow_a_way_through_dockers_forward_chain() {
    a_way_through(DOCKER, false);
}

#[test]
fn slow_a_way_through_a_forward_chain_that_rejects() {
    a_way_through(REJECT, true);
}

#[test]
fn a_forward_chain_that_lets_through_is_left_alone() {
    let shop = shop(Host::new());
    let right = |line: &str| {
        shop.host.space.sh(line);
        let listed = shop.host.space.sh("nft -a list table ip filter");
        shop.host.space.run(|| {
            assert_eq!(
                shop.host.net.firewall().unwrap().as_ref(),
                Some(&shop.state),
                "{line}"
            );
            shop.host.net.apply_firewall(&shop.state).unwrap();
        });
        assert_eq!(
            shop.host.space.sh("nft -a list table ip filter"),
            listed,
            "{line}"
        );
    };
    right("iptables -A FORWARD -s 198.51.100.0/24 -j DROP");
    right("iptables -A FORWARD -j ACCEPT; iptables -P FORWARD DROP");
    // Once it no longer drops, what was added is taken away.
    shop.host.space.sh("iptables -D FORWARD -j ACCEPT");
    shop.repair();
    shop.works();
    shop.host.space.sh("iptables -P FORWARD ACCEPT");
    shop.repair();
    assert!(!shop.host.space.sh("iptables-save").contains("WHARF"));
    // A chain that somebody else's rules lead to stays, empty, and is no reason to do it again and again.
    shop.host.space.sh("iptables -P FORWARD DROP");
    shop.repair();
    shop.host
        .space
        .sh("iptables -N THEIRS; iptables -A THEIRS -j WHARF-FORWARD; iptables -P FORWARD ACCEPT");
    shop.repair();
    shop.host.space.run(|| shop.host.net.remove_firewall().unwrap());
    assert!(
        shop.host
            .space
            .sh("iptables -S THEIRS")
            .contains("-j WHARF-FORWARD")
    );
}

#[test]
fn another_agents_way_through_is_refused() {
    let shop = shop(Host::new());
    shop.host
        .space
        .sh("iptables -P FORWARD DROP; iptables -N WHARF-FORWARD; iptables -A FORWARD -m comment --comment wharf:other -j WHARF-FORWARD");
    // A rule of iptables has its comment as a match; those of an agent have it with the rule.
    shop.host.space.sh(
        "nft 'flush chain ip filter FORWARD; insert rule ip filter FORWARD jump WHARF-FORWARD comment \"wharf:other\"'",
    );
    let before = shop.host.space.sh("nft -a list table ip filter");
    shop.host.space.run(|| {
        let message = shop.host.net.apply_firewall(&shop.state).unwrap_err().to_string();
        insta::assert_snapshot!(message, @"the chain WHARF-FORWARD of iptables: it is there already and belongs to another wharf agent (other); if that is gone for good, run `iptables -F WHARF-FORWARD`, `iptables -D FORWARD -j WHARF-FORWARD` and `iptables -X WHARF-FORWARD`");
    });
    assert_eq!(shop.host.space.sh("nft -a list table ip filter"), before);
}

#[test]
fn a_hand_written_chain_that_drops_is_named_until_it_lets_through() {
    let shop = shop(Host::new());
    let drops = || told(&shop.host);
    assert_eq!(drops(), Vec::<String>::new());
    let fine = [
        "add table inet open; add chain inet open f { type filter hook forward priority 0; policy accept; };
         add rule inet open f ip saddr 198.51.100.0/24 drop",
        "add table inet wide; add chain inet wide f { type filter hook forward priority 0; policy drop; };
         add chain inet wide every; add rule inet wide every counter accept; add rule inet wide f counter jump every",
        "add table inet elsewhere; add chain inet elsewhere f { type filter hook input priority 0; policy drop; };
         delete table inet elsewhere",
    ];
    for line in fine {
        shop.host.space.sh(&format!("nft '{line}'"));
        assert_eq!(drops(), Vec::<String>::new(), "{line}");
    }
    shop.host.space.sh(
        "nft 'add table inet site; add chain inet site forward { type filter hook forward priority 10; policy drop; };
           add rule inet site forward ct state established accept; add rule inet site forward iifname \"wh-closed\" oifname \"wh-closed\" accept'",
    );
    refuse(&shop.host.neighbour, Udp, HOST, 8080);
    let told = drops();
    assert_eq!(told.len(), 1, "{told:?}");
    insta::assert_snapshot!(told[0], @r#"the nftables chain `inet site forward` drops what is forwarded to and from wh-front, so that containers there are cut off and their published ports dead; add to it: `nft 'insert rule inet site forward iifname { "wh-front" } accept; insert rule inet site forward oifname { "wh-front" } accept'` (the table inet wharf sees to it that nothing but published ports is reached), and the same in the file it is loaded from"#);
    // What it says helps, and then it says no more.
    let advice = told[0].split('`').nth(3).unwrap();
    shop.host.space.sh(advice);
    shop.works();
    // The same with a rule at the end, and by a pattern.
    shop.host.space.sh(
        "nft 'flush chain inet site forward; chain inet site forward { policy accept; }; add chain inet site last;
           add rule inet site last log; add rule inet site last reject; add rule inet site forward jump last'",
    );
    assert_eq!(drops().len(), 1);
    shop.host.space.sh(
        "nft 'insert rule inet site forward iifname \"wh-*\" accept; insert rule inet site forward oifname \"wh-*\" accept'",
    );
    shop.works();
    // Dropping them by name is no letting through.
    shop.host.space.sh(
        "nft 'flush chain inet site forward; add rule inet site forward iifname \"wh-*\" drop; add rule inet site forward oifname \"wh-*\" drop; add rule inet site forward drop'",
    );
    assert_eq!(drops().len(), 1);
}

/// The rules of firewalld 1.3 and 2.3, without what does not matter; nobody is on the bus who could be asked.
#[test]
fn what_firewalld_drops_is_told_once_it_cannot_be_asked() {
    let shop = shop(Host::new());
    shop.host.space.sh(
        "nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; };
           add chain inet firewalld filter_INPUT { type filter hook input priority 10; policy accept; };
           add chain inet firewalld policies; add chain inet firewalld trusted; add rule inet firewalld trusted accept;
           add chain inet firewalld public; add rule inet firewalld public tcp dport 22 accept;
           add rule inet firewalld filter_FORWARD ct state { established, related } accept;
           add rule inet firewalld filter_FORWARD ct status dnat accept;
           add rule inet firewalld filter_FORWARD jump policies;
           add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited;
           add rule inet firewalld filter_INPUT ct state { established, related } accept;
           add rule inet firewalld filter_INPUT iifname \"lo\" accept; add rule inet firewalld filter_INPUT jump policies;
           add rule inet firewalld filter_INPUT reject with icmpx admin-prohibited'",
    );
    // Nobody has been asked: to be put right.
    let state = || shop.host.space.run(|| shop.host.net.firewall().unwrap());
    assert_eq!(state(), None);
    assert_eq!(told(&shop.host), Vec::<String>::new());
    shop.repair();
    let bridges = [&shop.closed.bridge, &shop.front.bridge];
    let said = told(&shop.host);
    assert_eq!(said.len(), 2, "{said:?}");
    for (said, bridge) in said.iter().zip(bridges) {
        let what = format!(
            "firewalld drops what containers at {bridge} ask the host and what is to leave their network"
        );
        assert!(said.starts_with(&what), "{said}");
    }
    // Others' rules about a bridge that it does not let through after all.
    let rule = |rule: &str| {
        shop.host
            .space
            .sh(&format!("nft 'insert rule inet firewalld policies {rule}'"))
    };
    for bridge in bridges {
        rule(&format!("iifname \"{bridge}\" tcp dport 22 accept"));
        rule(&format!("iifname \"{bridge}\" jump public"));
    }
    assert_eq!(state(), None, "with other rules it is asked again");
    shop.repair();
    assert_eq!(told(&shop.host).len(), 2);
    for bridge in bridges {
        rule(&format!("iifname \"{bridge}\" goto trusted"));
    }
    assert_eq!(state(), Some(shop.state.clone()));
    shop.works();
    // While it loads its rules anew it drops everything, and that is nothing to tell.
    shop.host.space.sh(
        "nft 'add table inet firewalld_policy_drop; add chain inet firewalld_policy_drop filter_forward { type filter hook forward priority 9; policy drop; }'",
    );
    assert_eq!(told(&shop.host), Vec::<String>::new());
    shop.host.space.sh("nft delete table inet firewalld_policy_drop");
    // Told to be strict, it drops what is published.
    shop.host.space.sh(
        "nft 'flush chain inet firewalld filter_FORWARD; add rule inet firewalld filter_FORWARD jump policies; add rule inet firewalld filter_FORWARD drop'",
    );
    let said = told(&shop.host);
    assert!(
        matches!(&said[..], [one] if one.contains("published ports of wh-front") && one.contains("StrictForwardPorts")),
        "{said:?}"
    );
}

#[test]
fn the_rules_of_iptables_legacy_are_judged() {
    let shop = shop(Host::new());
    let drops = || told(&shop.host);
    shop.host.space.sh("iptables-legacy -S");
    assert_eq!(drops(), Vec::<String>::new());
    shop.host
        .space
        .sh("iptables-legacy -A FORWARD -i wh-front -j DROP; iptables-legacy -P FORWARD DROP");
    refuse(&shop.host.neighbour, Udp, HOST, 8080);
    let told = drops();
    assert_eq!(told.len(), 2, "{told:?}");
    insta::assert_snapshot!(told[1], @"the forward chain of iptables-legacy drops what is forwarded to and from wh-front, so that containers there are cut off and their published ports dead; run `iptables-legacy -I FORWARD -i wh-front -j ACCEPT` and `iptables-legacy -I FORWARD -o wh-front -j ACCEPT` (nftables sees to it that nothing but published ports is reached), and have it so after a boot, or move that firewall to iptables-nft");
    for text in &told {
        for advice in [text.split('`').nth(1).unwrap(), text.split('`').nth(3).unwrap()] {
            shop.host.space.sh(advice);
        }
    }
    shop.works();
}

#[test]
fn the_monitor_tells_of_what_iptables_does_to_forwarded_packets() {
    let shop = shop(Host::new());
    shop.host.space.sh("iptables -P FORWARD DROP");
    shop.repair();
    let monitor = shop.host.space.run(|| net::Monitor::new().unwrap());
    let told = |line: &str| {
        shop.host.space.sh(line);
        monitor.drain().unwrap().firewall
    };
    assert!(told("iptables -F"));
    assert!(told("iptables -P INPUT DROP"));
    assert!(told(
        "nft 'add table ip own; add chain ip own i { type filter hook input priority 0; }'"
    ));
    assert!(told("iptables -P FORWARD ACCEPT"));
    assert!(told("iptables -I FORWARD -j ACCEPT"));
    assert!(told(
        "nft 'add table inet site; add chain inet site f { type filter hook forward priority 0; policy drop; }'"
    ));
    assert!(!told(
        "iptables -N OTHER; iptables -A OTHER -j ACCEPT; iptables -A OUTPUT -p icmp -j ACCEPT"
    ));
}

/// Servers on the gateway's port 53 and beside it; who may ask which.
fn ask_the_host(shop: &Shop, open: u16, shut: &[u16]) {
    for (network, who) in [(&shop.front, &shop.web), (&shop.closed, &shop.inner)] {
        let gateway = host::gateway(network);
        for protocol in BOTH {
            let told = ask(&who.space, protocol, gateway, open);
            assert!(told.starts_with("names "), "{protocol} {open}: {told}");
        }
        for port in shut {
            refuse_all(
                "the host's own",
                &[(&who.space, gateway, *port), (&who.space, HOST, *port)],
            );
        }
        refuse_all("the host's other address", &[(&who.space, HOST, open)]);
    }
    refuse_all("from outside", &[(&shop.host.neighbour, HOST, open)]);
}

#[test]
fn slow_questions_for_names_get_through_an_input_chain_that_drops() {
    let mut shop = shop(Host::new());
    for port in [53, 54, 5300] {
        serve(
            &shop.host.space,
            ANY,
            port,
            if port == 54 { "own" } else { "names" },
        );
    }
    shop.host.space.sh(
        "iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p icmp -j ACCEPT;
         iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    );
    let before = theirs(&shop.host);
    refuse(&shop.web.space, Udp, host::gateway(&shop.front), 53);
    shop.repair();
    assert_eq!(theirs(&shop.host), before);
    ask_the_host(&shop, 53, &[54, 5300]);
    let saved = shop
        .host
        .space
        .sh("iptables-save; iptables -S; iptables -L -n -v");
    for part in [
        "-A INPUT -m comment --comment \"wharf:test\" -j WHARF-INPUT",
        "-A WHARF-INPUT -d 10.88.1.0/24 -i wh-front -p udp -m udp --dport 53 -j ACCEPT",
        "-A WHARF-INPUT -d 10.88.2.0/24 -i wh-closed -p tcp -m tcp --dport 53 -j ACCEPT",
    ] {
        assert!(saved.contains(part), "{part} in {saved}");
    }
    assert!(!saved.contains("WHARF-FORWARD"), "{saved}");
    for damage in [
        "iptables -F WHARF-INPUT",
        "iptables -D INPUT -m comment --comment wharf:test -j WHARF-INPUT",
        "iptables -A WHARF-INPUT -j ACCEPT",
        "x=$(iptables-save -t filter); iptables -F; iptables -X; printf '%s\\n' \"$x\" | iptables-restore",
    ] {
        shop.host.space.sh(damage);
        shop.repair();
        ask_the_host(&shop, 53, &[54]);
        assert_eq!(theirs(&shop.host), before, "{damage}");
    }
    // Where 53 is somebody else's, it stays closed, and the name server's own port is open.
    for bridge in &mut shop.state.bridges {
        bridge.dns_port = Some(5300);
    }
    shop.host
        .space
        .run(|| shop.host.net.apply_firewall(&shop.state).unwrap());
    ask_the_host(&shop, 5300, &[54]);
    assert!(!shop.host.space.sh("iptables-save").contains("--dport 53 "));
    shop.host.space.run(|| shop.host.net.remove_firewall().unwrap());
    assert_eq!(theirs(&shop.host), before);
    assert!(!shop.host.space.sh("iptables-save").contains("WHARF"));
}

#[test]
fn an_input_chain_that_drops_names_is_told_of_until_it_lets_them_through() {
    let shop = shop(Host::new());
    let drops = || told(&shop.host);
    shop.host.space.sh(
        "nft 'add table inet site; add chain inet site input { type filter hook input priority 0; policy drop; };
           add rule inet site input iif lo accept; add rule inet site input ct state established accept;
           add rule inet site input tcp dport { 22, 53 } accept; add rule inet site input iifname eth0 udp dport 53 accept'",
    );
    let told = drops();
    assert_eq!(told.len(), 1, "{told:?}");
    insta::assert_snapshot!(told[0], @r#"the nftables chain `inet site input` drops what containers at wh-closed, wh-front ask the host, so that names do not resolve there; add to it: `nft 'insert rule inet site input iifname { "wh-closed", "wh-front" } meta l4proto { tcp, udp } th dport { 53 } accept'`, and the same in the file it is loaded from"#);
    let advice = told[0].split('`').nth(3).unwrap();
    shop.host.space.sh(advice);
    assert_eq!(drops(), Vec::<String>::new());
    for helps in [
        "udp dport 53 accept",
        "meta l4proto { tcp, udp } th dport 53 accept",
        "iifname \"wh-*\" accept",
        "accept",
    ] {
        shop.host.space.sh("nft flush chain inet site input");
        assert_eq!(drops().len(), 1);
        shop.host
            .space
            .sh(&format!("nft 'add rule inet site input {helps}'"));
        assert_eq!(drops(), Vec::<String>::new(), "{helps}");
    }
    shop.host
        .space
        .sh("nft delete table inet site; iptables-legacy -P INPUT DROP");
    let told = drops();
    assert_eq!(told.len(), 2, "{told:?}");
    insta::assert_snapshot!(told[1], @"the input chain of iptables-legacy drops what containers at wh-front ask the host, so that names do not resolve there; run `iptables-legacy -I INPUT -i wh-front -p udp --dport 53 -j ACCEPT` and `iptables-legacy -I INPUT -i wh-front -p tcp --dport 53 -j ACCEPT`, and have it so after a boot, or move that firewall to iptables-nft");
    for text in &told {
        for advice in [text.split('`').nth(1).unwrap(), text.split('`').nth(3).unwrap()] {
            shop.host.space.sh(advice);
        }
    }
    assert_eq!(drops(), Vec::<String>::new());
}
