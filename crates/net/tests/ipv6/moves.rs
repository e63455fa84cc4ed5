//! Ports that lead elsewhere, or to several: flows of UDP and their answers go with them.

use super::*;
use host::on_every_backend;

on_every_backend! {
    a_port_moves_and_udp_flows_move_with_it
    a_port_of_several_is_shared_and_flows_stay_where_they_began
}

fn a_port_moves_and_udp_flows_move_with_it(on: On) {
    let host = on.dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (web(&host, &n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "new");
    let socket = |space: &Space, to: Ipv6Addr| {
        space.run(|| {
            let socket = UdpSocket::bind((ANY, 0)).unwrap();
            socket.connect((to, 8080)).unwrap();
            socket.set_read_timeout(Some(host::LONG)).unwrap();
            socket
        })
    };
    let early = socket(&host.neighbour, HOST6);
    early.send(b"?").unwrap();
    let _ = early.recv(&mut [0; 8]);
    host.apply(&[&n], published(&a, 8080));
    let flows = [
        early,
        socket(&host.neighbour, SECOND6),
        socket(&host.space, HOST6),
        socket(&b.space, HOST6),
    ];
    for (to, word) in [(&a, "web "), (&b, "new "), (&a, "web ")] {
        host.apply(&[&n], published(to, 8080));
        for flow in &flows {
            assert!(talk_long(flow).starts_with(word), "{flow:?}");
        }
    }
    // Whom a list leaves out now is left out in the middle of a flow.
    let mut closed = published(&a, 8080);
    closed
        .iter_mut()
        .for_each(|rule| rule.allow.push("fd00:99::/64".parse().unwrap()));
    host.apply(&[&n], closed);
    host::talk(&flows[1], host::PATIENCE).unwrap_err();
    host.apply(&[&n], Vec::new());
    for protocol in BOTH {
        refuse(&host.neighbour, protocol, HOST6, 8080);
    }
}

#[test]
fn an_answer_that_is_under_way_when_its_port_moves_arrives() {
    let host = Host::dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let (a, b) = (host.container(&n, 5), host.container(&n, 6));
    serve(&b.space, ANY, 80, "new");
    let heard = a.space.run(|| UdpSocket::bind((ANY, 80)).unwrap());
    heard.set_read_timeout(Some(host::LONG)).unwrap();
    for (from, to) in [
        (&host.neighbour, HOST6),
        (&host.space, SECOND6),
        (&b.space, HOST6),
    ] {
        host.apply(&[&n], published(&a, 8080));
        let asks = from.run(|| UdpSocket::bind((ANY, 0)).unwrap());
        asks.connect((to, 8080)).unwrap();
        asks.set_read_timeout(Some(host::LONG)).unwrap();
        asks.send(b"?").unwrap();
        let (_, sender) = heard.recv_from(&mut [0; 8]).unwrap();
        host.apply(&[&n], published(&b, 8080));
        heard.send_to(b"late", sender).unwrap();
        let mut buffer = [0; 64];
        let count = asks.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"late");
        assert!(talk_long(&asks).starts_with("new "));
    }
}

fn a_port_of_several_is_shared_and_flows_stay_where_they_began(on: On) {
    let host = on.dual(None);
    let n = dual("front", 1);
    host.apply(&[&n], Vec::new());
    let servers = [5, 6].map(|number| host.container(&n, number));
    for (server, word) in servers.iter().zip(["one", "two"]) {
        serve(&server.space, ANY, 80, word);
    }
    let rules = |count: usize| -> Vec<PortRule> {
        let instance = |at: usize, ip| {
            BOTH.map(|p| PortRule {
                container: ["web", "web-2"][at].parse().unwrap(),
                service: Some("web".parse().unwrap()),
                ..port6(p, ip, 8080, &servers[at].at, 80)
            })
        };
        (0..count)
            .flat_map(|at| [instance(at, None), instance(at, Some(SECOND6))].concat())
            .collect()
    };
    let state = host.apply(&[&n], rules(2));
    assert_eq!(host.space.run(|| host.net.firewall().unwrap()), Some(state));
    for to in [HOST6, SECOND6] {
        for protocol in BOTH {
            let mut heard = std::collections::BTreeSet::new();
            for _ in 0..64 {
                heard.insert(ask(&host.neighbour, protocol, to, 8080)[..3].to_owned());
            }
            assert_eq!(heard.len(), 2, "{protocol} {to}: {heard:?}");
        }
    }
    let flows: Vec<UdpSocket> = (0..8)
        .map(|_| {
            host.neighbour.run(|| {
                let flow = UdpSocket::bind((ANY, 0)).unwrap();
                flow.connect((HOST6, 8080)).unwrap();
                flow
            })
        })
        .collect();
    let said: Vec<String> = flows.iter().map(talk_long).collect();
    let again: Vec<String> = flows.iter().map(talk_long).collect();
    assert_eq!(said, again);
    host.apply(&[&n], rules(1));
    assert!(flows.iter().map(talk_long).all(|word| word.starts_with("one ")));
    host.apply(&[&n], rules(2));
    assert!(flows.iter().map(talk_long).all(|word| !word.is_empty()));
    // Whom the list leaves out now is out in the middle of a flow, whatever slot that has.
    let mut closed = rules(2);
    closed
        .iter_mut()
        .for_each(|rule| rule.allow.push("fd00:99::/64".parse().unwrap()));
    host.apply(&[&n], closed);
    std::thread::scope(|scope| {
        for flow in &flows {
            scope.spawn(|| host::talk(flow, host::PATIENCE).unwrap_err());
        }
    });
}
