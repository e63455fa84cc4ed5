//! What holds of every overlay over three hosts, whatever it is made of.

use tests::{Host, at_once, http};

use super::{ALL, Frame, LIMIT, Mesh, flow, frames, once, pairs, send_whole};

/// By name and by address, each from each, a megabyte whole; and the world by each host's own address.
pub fn all_reach_each_other(mesh: &Mesh) {
    for (from, to) in pairs() {
        let said = mesh.inside(from, &format!("ping -c1 -W5 c{to} && ping -c1 -W5 10.81.{to}.1"));
        assert!(
            said.contains(&format!("(10.81.{to}.1)")),
            "{from} to {to}: {said}"
        );
    }
    // A megabyte, whole.
    let sum = mesh.inside(2, "sha256sum </www/data");
    let got = mesh.inside(1, "wget -q -O - http://c2/data | sha256sum");
    assert_eq!(sum, got);
    // Who asked is who it says: nothing of it is translated.
    mesh.hosts[1].until("c2 tells who asked", |_| {
        let logs = mesh.hosts[1].wharf(["logs", "c2"]);
        (logs.stdout + &logs.stderr).contains("10.81.1.1]:")
    });
    // Own ports lead to own containers, and the world is reached by each host's own address.
    for n in ALL {
        let page = http::get_within(&mesh.stranger, &format!("http://198.51.100.{n}:8080/name"), LIMIT);
        assert_eq!(page.unwrap().body, format!("c{n}\n"));
        mesh.inside(n, "ping -c1 -W5 192.0.2.2");
    }
}

/// Packets are as long as fits between the hosts, and the sender refuses longer ones.
pub fn packets_fit(mesh: &Mesh, mtu: usize) {
    assert_eq!(mesh.inside(1, "cat /sys/class/net/eth0/mtu"), format!("{mtu}\n"));
    let receiver = mesh.within(2, || std::net::UdpSocket::bind("0.0.0.0:7000").unwrap());
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let send = |bytes: usize| mesh.within(1, || send_whole("10.81.2.1:7000", bytes));
    // What a ping of as many bytes is: 20 of IP and 8 more are before them.
    send(mtu - 28).unwrap();
    let mut buffer = [0; 2000];
    assert_eq!(receiver.recv(&mut buffer).unwrap(), mtu - 28);
    let refused = send(mtu - 27).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EMSGSIZE));
}

/// Nothing of the gateway is in any tunnel, whoever asks for it.
pub fn the_gateway_never_crosses(mesh: &Mesh) {
    let watch = frames(&mesh.lan);
    at_once(ALL, |n| {
        mesh.as_root(n, "ip neigh flush dev eth0");
        mesh.inside(n, "ping -c2 -W5 10.81.0.1");
        // A host is not on the overlay itself: what it sends by the gateway's address stays.
        let to = n % 3 + 1;
        let said = mesh.hosts[n - 1]
            .ns
            .command("busybox")
            .args(["ping", "-c2", "-W1", &format!("10.81.{to}.1")])
            .output();
        assert!(!said.unwrap().status.success());
        mesh.as_root(n, "ip neigh flush dev eth0");
        mesh.inside(n, &format!("ping -c1 -W5 10.81.{to}.1"));
    });
    let seen = watch.stop();
    assert!(
        seen.iter().any(|f| f.asks_for == Some([10, 81, 2, 1])),
        "nothing was seen: {seen:?}"
    );
    let gateway = [0x02, 0x57, 10, 81, 0, 1];
    let of_gateway = |f: &&Frame| {
        f.from == gateway
            || f.to == gateway
            || f.asks_for == Some([10, 81, 0, 1])
            || f.asks_from == Some([10, 81, 0, 1])
    };
    let crossed: Vec<_> = seen.iter().filter(of_gateway).collect();
    assert!(crossed.is_empty(), "{crossed:?}");
}

/// Two of the agents, one after the other.
pub fn a_killed_agent_loses_no_flow(mesh: &mut Mesh) {
    let flow = flow(mesh, 1, 2);
    flow.until_more(20);
    for n in [0, 1] {
        mesh.hosts[n].kill_agent();
        flow.until_more(20);
        mesh.hosts[n].start_agent();
        mesh.hosts[n].converge();
        flow.until_more(20);
    }
    assert_eq!(flow.stop(), 0, "datagrams without an answer");
}

/// The third host is taken out of the others' `peers`, and put back.
pub fn a_host_that_is_no_peer_any_more_is_cut_off(mesh: &Mesh) {
    let pids: Vec<_> = mesh.pids();
    for n in [1, 2] {
        mesh.write(n, &[1, 2], "");
        mesh.hosts[n - 1].wharf(["reload"]).ok();
        mesh.hosts[n - 1].converge();
    }
    once("the others reach each other", || {
        mesh.reaches(1, 2) && mesh.reaches(2, 1)
    });
    at_once([(1, 3), (2, 3), (3, 1), (3, 2)], |(from, to)| {
        assert!(!mesh.reaches(from, to), "{from} to {to}");
    });
    // And back again.
    for n in [1, 2] {
        mesh.write(n, &ALL, "");
        mesh.hosts[n - 1].wharf(["reload"]).ok();
        mesh.hosts[n - 1].converge();
    }
    at_once(pairs(), |(from, to)| mesh.until_reaches(from, to));
    assert_eq!(mesh.pids(), pids, "all in place");
}

/// IPv6 of the network goes from host to host as IPv4 does, and the gateway's stays where it is.
pub fn ipv6_goes_along(mesh: &Mesh, mtu: usize) {
    let watch = frames(&mesh.lan);
    for (from, to) in pairs() {
        let said = mesh.inside(
            from,
            &format!("ping -6 -c1 -W5 c{to}-six && ping -6 -c1 -W5 fd81::{to}:10"),
        );
        assert!(
            said.contains(&format!("(fd81::{to}:10)")),
            "{from} to {to}: {said}"
        );
    }
    let sum = mesh.inside(2, "sha256sum </www/data");
    let got = mesh.inside(1, "wget -q -O - http://[fd81::2:10]/data | sha256sum");
    assert_eq!(sum, got);
    at_once(ALL, |n| {
        let to = n % 3 + 1;
        mesh.as_root(n, "ip -6 neigh flush dev eth0");
        mesh.inside(n, "ping -6 -c2 -W5 fd81::1");
        let said = mesh.hosts[n - 1]
            .ns
            .command("busybox")
            .args(["ping", "-6", "-c1", "-W1", &format!("fd81::{to}:10")])
            .output();
        assert!(!said.unwrap().status.success());
        mesh.as_root(n, "ip -6 neigh flush dev eth0");
        mesh.inside(n, &format!("ping -6 -c1 -W5 fd81::{to}:10"));
    });
    let seen = watch.stop();
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let asked = |text: &str| seen.iter().any(|f| f.neighbour == Some(address(text)));
    assert!(asked("fd81::2:10"), "nothing was seen: {seen:?}");
    let (gateway, of_link) = gateway_of(&mesh.hosts[0]);
    assert!(!asked("fd81::1") && !asked(&of_link), "{seen:?}");
    let crossed: Vec<_> = seen
        .iter()
        .filter(|f| f.from == gateway || f.to == gateway)
        .collect();
    assert!(crossed.is_empty(), "{crossed:?}");

    let receiver = mesh.within(2, || std::net::UdpSocket::bind("[::]:7000").unwrap());
    receiver.set_read_timeout(Some(LIMIT)).unwrap();
    let send = |bytes: usize| mesh.within(1, || send_whole("[fd81::2:10]:7000", bytes));
    // 40 of IPv6 and 8 of UDP are before them.
    send(mtu - 48).unwrap();
    let mut buffer = [0; 2000];
    assert_eq!(receiver.recv(&mut buffer).unwrap(), mtu - 48);
    let refused = send(mtu - 47).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EMSGSIZE));
}

/// Its MAC address, and its address of the link.
fn gateway_of(host: &Host) -> ([u8; 6], String) {
    let shown = host
        .ns
        .sh("ip -o link show wh-mesh; ip -6 -o addr show dev wh-mesh scope link");
    let after = |word: &str| shown.split_whitespace().skip_while(|w| *w != word).nth(1);
    let mac = after("link/ether").unwrap().split(':');
    let mac: Vec<u8> = mac.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let of_link = after("inet6").unwrap().split('/').next().unwrap();
    (mac.try_into().unwrap(), of_link.to_owned())
}
