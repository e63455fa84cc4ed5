//! What others drop of IPv6: seen, told of, and passed where that can be.

use super::*;

#[test]
fn the_rules_of_ip6tables_legacy_are_judged() {
    let host = Host::dual(None);
    let (n, four) = (dual("front", 1), network("four", 4));
    host.apply(&[&n, &four], Vec::new());
    let c = web(&host, &n, 5);
    host.apply(&[&n, &four], published(&c, 8080));
    let told = || host.space.run(|| host.net.foreign_drops().unwrap());
    host.space.sh("ip6tables-legacy -S");
    assert!(told().is_empty(), "{:?}", told());
    host.space
        .sh("ip6tables-legacy -A FORWARD -i wh-front -j DROP; ip6tables-legacy -P FORWARD DROP");
    refuse(&host.neighbour, Tcp, HOST6, 8080);
    let drops = told();
    let [drop] = &drops[..] else {
        panic!("{drops:?}");
    };
    assert_eq!(
        (drop.by.as_str(), &drop.bridges[..]),
        ("ip6tables-legacy", &["wh-front".to_owned()][..])
    );
    for advice in [1, 3].map(|at| drop.told.split('`').nth(at).unwrap()) {
        assert!(advice.starts_with("ip6tables-legacy -I FORWARD"), "{advice}");
        host.space.sh(advice);
    }
    assert!(told().is_empty(), "{:?}", told());
    assert_eq!(
        ask(&host.neighbour, Tcp, HOST6, 8080),
        format!("web {NEIGHBOUR6}")
    );
}

/// Rules of ip6tables as ufw and Docker leave them: what none is about is dropped.
#[test]
fn a_way_through_what_ip6tables_drops() {
    let mut host = Host::dual(None);
    host.net = host.space.run(|| net::Net::sharing_its_table("test").unwrap());
    let (n, four) = (dual("front", 1), network("four", 4));
    host.apply(&[&n, &four], Vec::new());
    let c = web(&host, &n, 5);
    let state = host.apply(&[&n, &four], published(&c, 8080));
    host.space.sh(
        "ip6tables -P FORWARD DROP; ip6tables -A FORWARD -m conntrack --ctstate INVALID -j DROP;
         ip6tables -P INPUT DROP; ip6tables -A INPUT -p ipv6-icmp -j ACCEPT",
    );
    let theirs = || {
        host.space
            .sh("ip6tables-save | grep -v '^#' | grep -v WHARF- | sed -E 's/\\[[0-9:]+\\]//'")
    };
    let before = theirs();
    serve(&host.space, gateway6(&n), 53, "names");
    refuse(&host.neighbour, Tcp, HOST6, 8080);
    host.space.run(|| {
        assert_eq!(host.net.firewall().unwrap(), None, "nothing was to be put right");
        host.net.apply_firewall(&state).unwrap();
        assert_eq!(host.net.firewall().unwrap().as_ref(), Some(&state));
    });
    for protocol in BOTH {
        assert_eq!(
            ask(&host.neighbour, protocol, HOST6, 8080),
            format!("web {NEIGHBOUR6}")
        );
        assert!(ask(&c.space, protocol, gateway6(&n), 53).starts_with("names "));
        refuse(&c.space, protocol, HOST6, 53);
    }
    assert_eq!(theirs(), before);
    // ip6tables shows it, and takes what it shows.
    let shown = host.space.sh("ip6tables-save");
    assert!(
        shown.contains("-A WHARF-INPUT -d fd00:88:1::/64 -i wh-front -p udp"),
        "{shown}"
    );
    assert!(!shown.contains("wh-four"), "{shown}");
    host.space.sh("ip6tables-save | ip6tables-restore");
    host.space.run(|| {
        assert!(host.net.foreign_drops().unwrap().is_empty());
        host.net.remove_firewall().unwrap();
    });
    assert!(!host.space.sh("ip6tables-save").contains("WHARF"));
    // A chain that is none of ip6tables' is told of, at the network that it concerns.
    host.apply(&[&n, &four], Vec::new());
    host.space
        .sh("nft 'add table ip6 site; add chain ip6 site forward { type filter hook forward priority 0; policy drop; }'");
    let told = host.space.run(|| host.net.foreign_drops().unwrap());
    let [told] = &told[..] else {
        panic!("{told:?}");
    };
    assert!(told.told.contains("insert rule ip6 site forward"), "{told:?}");
    assert_eq!(told.bridges, ["wh-front"]);
}
