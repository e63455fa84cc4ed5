//! A bounded, constant load of requests on a server, and what became of each.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use nix::sched::{CloneFlags, setns};

use crate::http::any_port;
use crate::namespace::Namespace;
use crate::{Host, images};

/// How long a request may take. Only a lost one takes this long.
const TRY: Duration = Duration::from_secs(5);
/// Datagrams of a burst.
const BURST: u64 = 8;
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(5);

impl Host {
    /// `[container.web]`, updated start-first, whose program answers with its version. `ready_ms` below 0: it never
    /// becomes healthy. `more` and `update` are further keys of the table and of its `update`.
    pub fn version_table(&self, version: &str, ready_ms: i64, more: &str, update: &str) -> String {
        let image = self.oci_dir("patient", &images::patient());
        format!(
            "[container.web]
image = {image:?}
ports = [\"8080:80\", \"8080:80/udp\"]
env = {{ VERSION = \"{version}\", READY_MS = \"{ready_ms}\", LAST = \"this is version {version}\" }}
{more}
[container.web.healthcheck]
http = {{ port = 80, path = \"/health\" }}
start_interval = \"50ms\"
interval = \"200ms\"
start_period = \"10m\"
[container.web.update]
strategy = \"start-first\"
{update}
"
        )
    }
}

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A connection for each request.
    New,
    /// One connection for as many requests as the server answers on it.
    Kept,
    /// A datagram from a port of its own each time.
    Datagram,
    /// Datagrams from one port.
    Flow,
    /// Several datagrams at once, from one port.
    Burst,
}

/// What one client saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub answers: u64,
    /// What went wrong, one line a request.
    pub lost: Vec<String>,
    /// Who answered, in order, each change once.
    pub versions: Vec<String>,
}

/// Clients that ask until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<(Client, Arc<AtomicU64>, JoinHandle<Seen>)>,
}

impl Load {
    /// None yet.
    pub fn new() -> Self {
        Self {
            stop: Arc::default(),
            clients: Vec::new(),
        }
    }

    /// One more client, in this namespace.
    pub fn add(&mut self, ns: &Namespace, client: Client, address: &str) {
        let net = std::fs::File::open(format!("/proc/{}/ns/net", ns.pid())).unwrap();
        let address: SocketAddr = address.parse().unwrap();
        let stop = Arc::clone(&self.stop);
        let ended = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            setns(&net, CloneFlags::CLONE_NEWNET).expect("the namespace is there as long as its test");
            ask_on(client, address, &stop, &count)
        });
        self.clients.push((client, ended, thread));
    }

    /// Waits until every client has seen the end of a request that it began after this call.
    pub fn until_asked_again(&self) {
        let ended = || {
            self.clients
                .iter()
                .map(|(_, ended, _)| ended.load(Ordering::Relaxed))
        };
        // The first one's end from now on may be that of a request that was begun before.
        let wanted: Vec<u64> = ended().map(|count| count + 2).collect();
        let start = Instant::now();
        while ended().zip(&wanted).any(|(count, wanted)| count < *wanted) {
            assert!(start.elapsed() < 12 * TRY, "a client asks no more");
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends all clients; what each of them saw.
    pub fn stop(self) -> Vec<(Client, Seen)> {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter();
        all.map(|(client, _, thread)| (client, thread.join().unwrap()))
            .collect()
    }
}

impl Default for Load {
    fn default() -> Self {
        Self::new()
    }
}

fn ask_on(client: Client, address: SocketAddr, stop: &AtomicBool, ended: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    let mut kept = None;
    let flow = UdpSocket::bind(any_port(&address)).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let began = SystemTime::now();
        let answer = match client {
            Client::New => Kept::to(address).and_then(|mut c| c.get(true)),
            Client::Kept => on_kept(&mut kept, address),
            Client::Datagram => {
                UdpSocket::bind(any_port(&address)).and_then(|s| datagrams(&s, address, seen.answers, 1))
            }
            Client::Flow => datagrams(&flow, address, seen.answers, 1),
            Client::Burst => datagrams(&flow, address, seen.answers * BURST, BURST),
        };
        match answer {
            Ok(body) => {
                seen.answers += 1;
                let version = body.trim().rsplit(' ').next().unwrap_or_default().to_owned();
                if seen.versions.last() != Some(&version) {
                    seen.versions.push(version);
                }
            }
            Err(e) => {
                kept = None;
                let at = began.elapsed().unwrap_or_default();
                let since = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                seen.lost.push(format!(
                    "request {} (at {:.6}, for {at:?}): {e}",
                    seen.answers,
                    since.as_secs_f64()
                ));
            }
        }
        ended.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    seen
}

/// A connection that goes on until the server says otherwise.
struct Kept {
    stream: BufReader<TcpStream>,
    open: bool,
}

impl Kept {
    fn to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TRY)?;
        stream.set_read_timeout(Some(TRY))?;
        let stream = BufReader::new(stream);
        Ok(Self { stream, open: true })
    }

    fn get(&mut self, last: bool) -> io::Result<String> {
        let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let connection = if last { "close" } else { "keep-alive" };
        let request = format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        for first in std::iter::once(true).chain(std::iter::repeat(false)) {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(odd("the connection ended without an answer"));
            }
            let text = line.trim();
            if first && !text.starts_with("HTTP/1.1 200 ") {
                return Err(odd(text));
            }
            if let Some(value) = text.strip_prefix("Content-Length: ") {
                length = value.parse().map_err(|_| odd(text))?;
            }
            self.open &= text != "Connection: close";
            if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

fn on_kept(kept: &mut Option<Kept>, address: SocketAddr) -> io::Result<String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Kept::to(address)?,
    };
    let body = connection.get(false)?;
    *kept = Some(connection).filter(|c| c.open);
    Ok(body)
}

/// Sends as many, numbered from there on, and waits for the answers to all; the last one's.
fn datagrams(socket: &UdpSocket, address: SocketAddr, first: u64, count: u64) -> io::Result<String> {
    socket.set_read_timeout(Some(TRY))?;
    for number in first..first + count {
        socket.send_to(number.to_string().as_bytes(), address)?;
    }
    let mut waiting: BTreeSet<u64> = (first..first + count).collect();
    let mut last = String::new();
    let mut answer = [0; 1500];
    while !waiting.is_empty() {
        let n = socket.recv(&mut answer)?;
        let text = String::from_utf8_lossy(&answer[..n]).into_owned();
        let number = text.split(' ').next().and_then(|number| number.parse().ok());
        // What comes late is the answer to another one.
        let is_new = number.is_some_and(|number| waiting.remove(&number));
        if is_new && number == Some(first + count - 1) {
            last = text;
        }
    }
    Ok(last)
}
