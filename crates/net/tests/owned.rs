//! The table as a kernel with owned tables keeps it (Linux 6.9 on): nobody but the agent changes it while that lives, it
//! outlives the agent, and the next one takes it over. On an older kernel the same is repaired instead, which the other tests see to.
#![allow(clippy::unwrap_used)]

mod host;

use std::process::Command;

use host::{Container, HOST, Host, NEIGHBOUR, Space, ask, network, port, serve};
use model::firewall::FirewallState;
use model::firewall::Protocol::{Tcp, Udp};
use net::Net;

/// What others do to it; each would cut off everything.
const ATTACKS: &[&str] = &[
    "nft flush ruleset",
    "nft delete table inet wharf",
    "nft flush table inet wharf",
    "nft flush chain inet wharf forward",
    "nft insert rule inet wharf forward drop",
    "nft flush map inet wharf ports_any",
    "nft delete element inet wharf bridges '{ wh-front }'",
    "nft 'add table inet wharf { flags dormant; }'",
];

struct Shop {
    host: Host,
    web: Container,
    state: FirewallState,
}

fn shop(host: Host) -> Shop {
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let web = host.container(&n, 5);
    serve(&web.space, std::net::Ipv4Addr::UNSPECIFIED, 80, "web");
    let state = host.apply(
        &[&n],
        vec![
            port(Tcp, None, 8080, &web.at, 80),
            port(Udp, None, 8080, &web.at, 80),
        ],
    );
    Shop { host, web, state }
}

impl Shop {
    fn serves(&self) {
        assert_eq!(
            ask(&self.host.neighbour, Tcp, HOST, 8080),
            format!("web {NEIGHBOUR}")
        );
        assert_eq!(
            ask(&self.host.neighbour, Udp, HOST, 8080),
            format!("web {NEIGHBOUR}")
        );
    }

    fn seen(&self) -> Option<FirewallState> {
        self.host.space.run(|| self.host.net.firewall().unwrap())
    }

    /// The agent is gone.
    fn kill(self) -> (Space, Space, Container, FirewallState) {
        let Host {
            space,
            neighbour,
            net,
            ..
        } = self.host;
        drop(net);
        (space, neighbour, self.web, self.state)
    }
}

/// Whether the command did it.
fn tries(space: &Space, line: &str) -> bool {
    space.run(|| {
        Command::new("sh")
            .args(["-c", line])
            .output()
            .unwrap()
            .status
            .success()
    })
}

/// Linux 6.9 brought what this is about.
fn kernel_keeps_tables() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(6), Some(9))
}

#[test]
fn nobody_but_the_agent_changes_the_table() {
    let shop = shop(Host::new());
    shop.serves();
    for attack in ATTACKS {
        tries(&shop.host.space, attack);
        if kernel_keeps_tables() {
            assert_eq!(shop.seen().as_ref(), Some(&shop.state), "{attack}");
            shop.serves();
        }
        shop.host
            .space
            .run(|| shop.host.net.apply_firewall(&shop.state).unwrap());
        shop.serves();
    }
}

#[test]
fn the_table_outlives_its_agent_and_is_the_next_ones_at_once() {
    let shop = shop(Host::new());
    let (space, neighbour, web, state) = shop.kill();
    assert_eq!(ask(&neighbour, Tcp, HOST, 8080), format!("web {NEIGHBOUR}"));
    let net = space.run(|| Net::new("test").unwrap());
    space.run(|| {
        if kernel_keeps_tables() {
            assert_eq!(net.firewall().unwrap(), Some(state.clone()));
        }
        net.apply_firewall(&state).unwrap();
    });
    for attack in ATTACKS.iter().filter(|_| kernel_keeps_tables()) {
        tries(&space, attack);
        space.run(|| assert_eq!(net.firewall().unwrap().as_ref(), Some(&state), "{attack}"));
    }
    let less = FirewallState {
        ports: Vec::new(),
        ..state.clone()
    };
    space.run(|| net.apply_firewall(&less).unwrap());
    host::refuse(&neighbour, Tcp, HOST, 8080);
    drop(net);
    // What was done to it in between is seen and put right.
    for attack in ATTACKS.iter().filter(|line| !line.contains("dormant")) {
        let net = space.run(|| Net::new("test").unwrap());
        space.run(|| net.apply_firewall(&state).unwrap());
        drop(net);
        assert!(tries(&space, attack), "{attack}");
        let net = space.run(|| Net::new("test").unwrap());
        space.run(|| {
            assert_ne!(net.firewall().unwrap().as_ref(), Some(&state), "{attack}");
            net.apply_firewall(&state).unwrap();
        });
        assert_eq!(
            ask(&neighbour, Tcp, HOST, 8080),
            format!("web {NEIGHBOUR}"),
            "{attack}"
        );
    }
    let net = space.run(|| Net::new("test").unwrap());
    space.run(|| {
        net.remove_firewall().unwrap();
        assert_eq!(net.firewall().unwrap(), None);
    });
    assert_eq!(space.sh("nft list tables"), "");
    drop(web);
}

/// An agent that ends while its successor starts lets go of its locks before it lets go of its sockets.
#[test]
fn a_table_is_waited_for_while_its_last_agent_ends() {
    let shop = shop(Host::new());
    let (space, state) = (&shop.host.space, &shop.state);
    let next = space.run(|| Net::new("test").unwrap());
    space.run(|| {
        if kernel_keeps_tables() {
            assert_eq!(next.firewall().unwrap(), None, "it is not the next one's yet");
            let held = next.apply_firewall(state).unwrap_err().to_string();
            assert!(
                held.contains("is held by another program (netlink port "),
                "{held}"
            );
        }
    });
    let old = shop.host.net;
    space.run(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| next.apply_firewall(state).unwrap());
            scope.spawn(move || drop(old));
        });
        assert_eq!(next.firewall().unwrap().as_ref(), Some(state));
    });
}

/// Traffic goes on all the while: no packet of a hundred connections falls into a gap.
#[test]
fn an_older_agents_table_is_taken_over_without_a_gap() {
    let shop = shop(Host::shared());
    let (space, neighbour, web, state) = shop.kill();
    let done = std::sync::atomic::AtomicBool::new(false);
    let next = space.run(|| Net::new("test").unwrap());
    std::thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || count < 100 {
                assert_eq!(ask(&neighbour, Tcp, HOST, 8080), format!("web {NEIGHBOUR}"));
                count += 1;
            }
        });
        space.run(|| {
            if kernel_keeps_tables() {
                assert_eq!(next.firewall().unwrap(), None, "it is not protected yet");
            }
            next.apply_firewall(&state).unwrap();
            assert_eq!(next.firewall().unwrap().as_ref(), Some(&state));
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        knocking.join().unwrap();
    });
    // And back again, as after a boot of an older kernel.
    drop(next);
    let shared = space.run(|| Net::sharing_its_table("test").unwrap());
    space.run(|| shared.apply_firewall(&state).unwrap());
    assert!(tries(&space, "nft delete table inet wharf"));
    drop(web);
}

#[test]
fn a_table_whose_agent_is_gone_for_good_is_refused_and_can_be_removed_by_it_alone() {
    let shop = shop(Host::new());
    let (space, _neighbour, web, _state) = shop.kill();
    let other = space.run(|| Net::new("other").unwrap());
    space.run(|| {
        other.firewall().unwrap_err();
        other.remove_firewall().unwrap_err();
    });
    drop(other);
    let own = space.run(|| Net::new("test").unwrap());
    space.run(|| own.remove_firewall().unwrap());
    assert_eq!(space.sh("nft list tables"), "");
    drop(web);
}
