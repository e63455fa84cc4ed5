//! The host's name server as a process, and one of the world outside that it asks.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::{Host, process};

/// The pid of the host's own name server.
pub fn server(host: &Host) -> u32 {
    let own = format!("WHARF_RUN_DIR={}", host.run_dir().display());
    let is = |pid: &u32| {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
        let environ = read("environ");
        read("cmdline") == b"wharf\0dns\0" && environ.split(|&b| b == 0).any(|v| v == own.as_bytes())
    };
    process::pids().find(is).expect("it is a process of its own")
}

/// A server on the neighbour that knows one address for every name.
pub struct Upstream {
    /// In lower case, in order, each repetition left out.
    names: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Upstream {
    pub fn start(host: &Host) -> Self {
        let (udp, tcp) = host.neighbour.within(|| {
            (
                UdpSocket::bind("0.0.0.0:53").unwrap(),
                TcpListener::bind("0.0.0.0:53").unwrap(),
            )
        });
        udp.set_read_timeout(Some(std::time::Duration::from_millis(50)))
            .unwrap();
        tcp.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (a, b) = (Arc::clone(&stop), Arc::clone(&stop));
        let names: Arc<Mutex<Vec<String>>> = Arc::default();
        let (by_udp, by_tcp) = (Arc::clone(&names), Arc::clone(&names));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !a.load(Ordering::Relaxed) {
                if let Ok((n, from)) = udp.recv_from(&mut buffer) {
                    by_udp.lock().unwrap().push(asked_for(&buffer[..n]));
                    udp.send_to(&answer(&buffer[..n]), from).unwrap();
                }
            }
        });
        let streams = std::thread::spawn(move || {
            while !b.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = tcp.accept() else {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let mut head = [0; 2];
                if stream.read_exact(&mut head).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(head))];
                    stream.read_exact(&mut query).unwrap();
                    by_tcp.lock().unwrap().push(asked_for(&query));
                    let reply = answer(&query);
                    stream
                        .write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes())
                        .unwrap();
                    stream.write_all(&reply).unwrap();
                }
            }
        });
        Self {
            names,
            stop,
            threads: vec![datagrams, streams],
        }
    }

    /// The names that were asked for.
    pub fn asked(&self) -> Vec<String> {
        let mut names = self.names.lock().unwrap().clone();
        names.dedup();
        names
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// The name of the question, in lower case.
fn asked_for(query: &[u8]) -> String {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    labels.join(".")
}

/// The question back with one A record (RFC 1035, section 4).
fn answer(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|&b| b == 0).unwrap() + 5;
    let mut reply = query[..end].to_vec();
    reply[2] = 0x81;
    reply[3] = 0x80;
    reply[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7]);
    reply
}

/// A question for the addresses of a name (RFC 1035, section 4).
pub fn query(name: &str) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// As it goes over TCP.
pub fn frame(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap();
    [&length.to_be_bytes(), packet].concat()
}

/// The address in the last record of an answer to [`query`]; none where it has no record.
pub fn told(reply: &[u8]) -> Option<std::net::Ipv4Addr> {
    let answers = u16::from_be_bytes([reply[6], reply[7]]);
    let last: [u8; 4] = reply[reply.len() - 4..].try_into().unwrap();
    (answers > 0).then(|| last.into())
}
