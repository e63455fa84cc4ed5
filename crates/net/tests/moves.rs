//! A UDP port moves while it is asked all the time: no answer is lost, and nobody stays behind.
#![allow(clippy::unwrap_used)]

mod host;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::{Container, HOST, Host, LOCALHOST, LONG, SECOND, Space, network, port};
use model::firewall::PortRule;
use model::firewall::Protocol::Udp;
use model::network::HostNetwork;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// How long a server thinks: long enough that answers are under way whenever a port moves.
const THOUGHT: Duration = Duration::from_millis(3);
const MOVES: u64 = 40;
/// Answers to each client between two moves.
const BETWEEN: u64 = 5;

/// A server that answers each datagram with its word and the datagram, after a moment's thought; many at a time. Ends
/// with the test's process.
fn think(space: &Space, word: &'static str) {
    let socket = space.run(|| UdpSocket::bind((ANY, 80)).unwrap());
    let answers = socket.try_clone().unwrap();
    let (asked, due) = std::sync::mpsc::channel::<(Instant, Vec<u8>, SocketAddr)>();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let answer = [word.as_bytes(), b" ", &buffer[..n]].concat();
            asked.send((Instant::now() + THOUGHT, answer, from)).unwrap();
        }
    });
    std::thread::spawn(move || {
        for (at, answer, to) in due {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            // Whoever asked may be gone.
            let _ = answers.send_to(&answer, to);
        }
    });
}

/// One that asks from one port, always with as many questions under way as said.
struct Client {
    name: String,
    socket: UdpSocket,
    under_way: usize,
    /// The number of the next question.
    next: AtomicU64,
    /// The highest number that was answered, and by whom.
    latest: Mutex<(u64, String)>,
}

impl Client {
    fn new(space: &Space, to: Ipv4Addr, under_way: usize) -> Self {
        let socket = space.run(|| {
            let socket = UdpSocket::bind((ANY, 0)).unwrap();
            socket.connect((to, 8080)).unwrap();
            socket
        });
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self {
            name: format!("{socket:?}, {under_way} under way"),
            socket,
            under_way,
            next: AtomicU64::new(0),
            latest: Mutex::default(),
        }
    }

    /// Until it is told to stop; every answer has to come.
    fn ask(&self, stop: &AtomicBool) {
        let mut waiting: VecDeque<u64> = VecDeque::new();
        while !stop.load(Ordering::Relaxed) || !waiting.is_empty() {
            while waiting.len() < self.under_way && !stop.load(Ordering::Relaxed) {
                let number = self.next.fetch_add(1, Ordering::SeqCst);
                self.socket.send(number.to_string().as_bytes()).unwrap();
                waiting.push_back(number);
            }
            let mut buffer = [0; 64];
            let n = match self.socket.recv(&mut buffer) {
                Ok(n) => n,
                Err(e) => panic!("{}: no answer to {waiting:?}: {e}", self.name),
            };
            let text = String::from_utf8_lossy(&buffer[..n]);
            let (word, number) = text.split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            let had = waiting.len();
            waiting.retain(|n| *n != number);
            assert_eq!(waiting.len() + 1, had, "{}: {number} answered twice", self.name);
            let mut latest = self.latest.lock().unwrap();
            if number >= latest.0 {
                *latest = (number, word.to_owned());
            }
        }
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < 3 * LONG, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Moves the port again and again (`rules`: to whom, the how manieth time), and sees that all clients come along.
fn move_about(
    host: &Host,
    n: &HostNetwork,
    clients: &[Client],
    moves: u64,
    rules: impl Fn(u64) -> (Vec<PortRule>, Vec<&'static str>),
) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in clients {
            scope.spawn(|| client.ask(&stop));
        }
        // Also when something fails below: nobody waits for a client then.
        let _stop = Stop(&stop);
        for i in 0..moves {
            let (ports, gone) = rules(i);
            host.apply(&[n], ports);
            // What has a number from here on is asked after the move.
            let asked: Vec<u64> = clients.iter().map(|c| c.next.load(Ordering::SeqCst)).collect();
            for (client, asked) in clients.iter().zip(asked) {
                let latest = || client.latest.lock().unwrap().clone();
                let goes_on = || latest().0 > asked + BETWEEN;
                until(&format!("{} gets no answers", client.name), goes_on);
                let by = latest().1;
                assert!(!gone.contains(&&*by), "{} stays behind with {by}", client.name);
            }
        }
    });
    let all: u64 = clients.iter().map(|c| c.next.load(Ordering::SeqCst)).sum();
    println!("{moves} moves, {all} answers, none lost");
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// From a neighbour, from the host by several addresses, from a container of the same network.
fn clients(host: &Host, sibling: &Container) -> Vec<Client> {
    let places = [
        (&host.neighbour, HOST),
        (&host.neighbour, SECOND),
        (&host.space, LOCALHOST),
        (&host.space, HOST),
        (&sibling.space, HOST),
    ];
    let of = |under_way| places.map(|(space, to)| Client::new(space, to, under_way));
    [of(1), of(16)].into_iter().flatten().collect()
}

fn servers(host: &Host, n: &HostNetwork, count: usize) -> Vec<Container> {
    let one = |(number, word): (u8, &'static str)| {
        let container = host.container(n, number);
        think(&container.space, word);
        container
    };
    (10..).zip(WORDS).take(count).map(one).collect()
}

const WORDS: [&str; 9] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight",
];

#[test]
fn slow_a_port_that_moves_loses_no_answer() {
    let host = Host::new();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (all, sibling) = (servers(&host, &n, 3), host.container(&n, 9));
    let rules = |i: u64| vec![port(Udp, None, 8080, &all[(i % 3) as usize].at, 80)];
    host.apply(&[&n], rules(0));
    let clients = clients(&host, &sibling);
    move_about(&host, &n, &clients, MOVES, |i| {
        (rules(i + 1), vec![WORDS[(i % 3) as usize]])
    });
}

#[test]
fn slow_a_port_on_one_address_that_moves_loses_no_answer() {
    let host = Host::new();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (all, sibling) = (servers(&host, &n, 3), host.container(&n, 9));
    // The same port of every address beside it, which stays where it is.
    let rules = |i: u64| {
        let moving =
            [HOST, SECOND, LOCALHOST].map(|ip| port(Udp, Some(ip), 8080, &all[(i % 2) as usize].at, 80));
        let mut rules = moving.to_vec();
        rules.push(port(Udp, None, 8080, &all[2].at, 80));
        rules
    };
    host.apply(&[&n], rules(0));
    let clients = clients(&host, &sibling);
    move_about(&host, &n, &clients, MOVES, |i| {
        (rules(i + 1), vec![WORDS[(i % 2) as usize]])
    });
}

/// One of two instances is another one each time, the other stays. `addresses`: so many are given out in turn.
fn replace_one_of_two(addresses: usize) {
    let host = Host::new();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (all, sibling) = (servers(&host, &n, addresses), host.container(&n, 9));
    let nth = |i: u64| i as usize % addresses;
    // 1 and 2, then 3 and 2, then 3 and 4, …
    let rules = |i: u64| {
        vec![
            instance(&all[nth(i + 1 + i % 2)], 1),
            instance(&all[nth(i + 2 - i % 2)], 2),
        ]
    };
    host.apply(&[&n], vec![instance(&all[0], 1)]);
    let clients = clients(&host, &sibling);
    host.apply(&[&n], vec![instance(&all[0], 1), instance(&all[1], 2)]);
    move_about(&host, &n, &clients, MOVES, |i| (rules(i), vec![WORDS[nth(i)]]));
}

fn instance(at: &Container, number: u32) -> PortRule {
    let container = match number {
        1 => "web".to_owned(),
        _ => format!("web-{number}"),
    };
    PortRule {
        container: container.parse().unwrap(),
        service: Some("web".parse().unwrap()),
        ..port(Udp, None, 8080, &at.at, 80)
    }
}

#[test]
fn slow_a_port_of_several_loses_no_answer_when_one_of_them_is_replaced() {
    replace_one_of_two(WORDS.len());
}

#[test]
fn slow_a_port_of_several_loses_no_answer_when_addresses_come_back_at_once() {
    replace_one_of_two(3);
}

/// Slots are taken over from targets that stay, which go later and come again.
#[test]
fn slow_a_port_whose_targets_come_and_go_loses_no_answer() {
    let host = Host::new();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let (all, sibling) = (servers(&host, &n, 5), host.container(&n, 9));
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    println!("seed {seed}");
    let targets = come_and_go(all.len() as u32, seed);
    let rules = |there: &[u32]| {
        let rule = |number: &u32| instance(&all[*number as usize], number + 1);
        there.iter().map(rule).collect::<Vec<_>>()
    };
    host.apply(&[&n], rules(&targets[0]));
    let clients = clients(&host, &sibling);
    move_about(&host, &n, &clients, MOVES, |i| {
        let there = &targets[i as usize + 1];
        let gone = (0..).zip(WORDS).filter(|(number, _)| !there.contains(number));
        (rules(there), gone.map(|(_, word)| word).collect())
    });
}

/// Which of so many targets are there: one more or one less each time, now and then another one.
fn come_and_go(count: u32, seed: u32) -> Vec<Vec<u32>> {
    let mut random = seed;
    let mut below = |n: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % n
    };
    let mut there = vec![0];
    let mut all = vec![there.clone()];
    for _ in 0..MOVES {
        loop {
            let (kind, one) = (below(3), below(count));
            let is_there = there.contains(&one);
            match kind {
                0 if !is_there => there.push(one),
                1 if is_there && there.len() > 1 => there.retain(|n| *n != one),
                2 if !is_there => {
                    let at = below(there.len() as u32) as usize;
                    there[at] = one;
                }
                _ => continue,
            }
            break;
        }
        all.push(there.clone());
    }
    all
}

/// What the network says about an answer reaches who sent it.
#[test]
fn errors_about_answers_find_their_way_back() {
    let host = Host::new();
    let n = network("front", 1);
    host.apply(&[&n], Vec::new());
    let all = [5, 6].map(|number| host.container(&n, number));
    let rule = |number: usize, ip, shared: bool| PortRule {
        container: if number == 0 { "web" } else { "web-2" }.parse().unwrap(),
        service: shared.then(|| "web".parse().unwrap()),
        ..port(Udp, ip, 8080, &all[number].at, 80)
    };
    for ip in [None, Some(HOST)] {
        for shared in [false, true] {
            let numbers = if shared { &[0, 1][..] } else { &[0] };
            host.apply(&[&n], numbers.iter().map(|i| rule(*i, ip, shared)).collect());
            let servers = all
                .each_ref()
                .map(|c| c.space.run(|| UdpSocket::bind((ANY, 80)).unwrap()));
            let client = host.neighbour.run(|| UdpSocket::bind((ANY, 0)).unwrap());
            client.send_to(b"?", (HOST, 8080)).unwrap();
            let mut buffer = [0; 8];
            let (server, from) = until_asked(&servers, &mut buffer);
            drop(client);
            // Nobody is there any more, and the client's host says so.
            server.connect(from).unwrap();
            let said = until_told(server);
            assert_eq!(
                said,
                Some(ErrorKind::ConnectionRefused),
                "{ip:?}, shared: {shared}"
            );
        }
    }
}

/// What comes of an answer. A socket that was closed may be open for a moment yet, in a program that another test of this
/// process is just starting.
fn until_told(server: &UdpSocket) -> Option<ErrorKind> {
    let start = Instant::now();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while start.elapsed() < LONG {
        // An error that came in between is told here.
        if let Err(e) = server.send(b"!").and_then(|_| server.recv(&mut [0; 8]))
            && e.kind() != ErrorKind::WouldBlock
        {
            return Some(e.kind());
        }
    }
    None
}

/// The one that a question comes to, and where it comes from.
fn until_asked<'a>(servers: &'a [UdpSocket], buffer: &mut [u8]) -> (&'a UdpSocket, SocketAddr) {
    let start = Instant::now();
    loop {
        for server in servers {
            server.set_nonblocking(true).unwrap();
            let got = server.recv_from(buffer);
            server.set_nonblocking(false).unwrap();
            if let Ok((_, from)) = got {
                return (server, from);
            }
        }
        assert!(start.elapsed() < LONG, "nobody was asked");
        std::thread::sleep(Duration::from_millis(1));
    }
}
