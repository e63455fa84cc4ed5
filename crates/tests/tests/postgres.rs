//! PostgreSQL in a container, on a named volume: what it said was committed is there, however often it and the agent
//! are killed.
//!
//! 5 kills of the server and 2 of the agent; `WHARF_PG_KILLS=50` makes it 50 and 10. `WHARF_SEED` repeats a run's pauses.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::Host;
use tests::binary::repository;
use tests::random::Random;

/// The published port, from outside.
const SERVER: &str = "192.0.2.1:5432";
/// Rows that are committed at least between two kills.
const PROGRESS: usize = 20;
/// Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(120);

/// A session in PostgreSQL's protocol 3.0 (its manual, "Frontend/Backend Protocol"): as user postgres, whom the image
/// lets in as he is.
struct Session(TcpStream);

impl Session {
    /// From the thread's own network namespace.
    fn open() -> io::Result<Self> {
        let address: SocketAddr = SERVER.parse().unwrap();
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut session = Self(stream);
        let mut hello = 0x3_0000_u32.to_be_bytes().to_vec();
        hello.extend(b"user\0postgres\0\0");
        session.send(&hello)?;
        session.until_ready()?;
        Ok(session)
    }

    /// One statement; the first column of what it gives.
    fn query(&mut self, sql: &str) -> io::Result<Vec<String>> {
        self.0.write_all(b"Q")?;
        self.send(format!("{sql}\0").as_bytes())?;
        self.until_ready()
    }

    /// A message's length, which counts itself, and its body.
    fn send(&mut self, body: &[u8]) -> io::Result<()> {
        let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
        message.extend(body);
        self.0.write_all(&message)
    }

    /// Reads messages until the server waits for the next statement.
    fn until_ready(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let mut body = vec![0; length - 4];
            self.0.read_exact(&mut body)?;
            match head[0] {
                b'Z' => return Ok(rows),
                b'E' => {
                    return Err(io::Error::other(
                        String::from_utf8_lossy(&body).replace('\0', " "),
                    ));
                }
                // The number of columns (2 bytes), the first one's length (4), itself.
                b'D' => {
                    let end = 6 + u32::from_be_bytes(body[2..6].try_into().unwrap()) as usize;
                    rows.push(String::from_utf8_lossy(&body[6..end]).into_owned());
                }
                _ => {}
            }
        }
    }
}

/// Somebody elsewhere who writes numbered rows, one a transaction, without a pause, and books what was acknowledged.
struct Writer {
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(net: File) -> Self {
        let (stop, tried, acknowledged): (Arc<AtomicBool>, Arc<AtomicU64>, Arc<Mutex<Vec<u64>>>) =
            Default::default();
        let (ends, number, books) = (stop.clone(), tried.clone(), acknowledged.clone());
        let thread = thread::spawn(move || {
            setns(&net, CloneFlags::CLONE_NEWNET).unwrap();
            while !ends.load(Ordering::Relaxed) {
                let Ok(mut session) = Session::open() else {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                };
                while !ends.load(Ordering::Relaxed) {
                    let n = number.fetch_add(1, Ordering::Relaxed);
                    match session.query(&format!("insert into rows values ({n})")) {
                        Ok(_) => books.lock().unwrap().push(n),
                        Err(_) => break,
                    }
                }
            }
        });
        Self {
            stop,
            tried,
            acknowledged,
            thread: Some(thread),
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Until more rows than `before` were acknowledged.
    fn goes_on(&self, before: usize, host: &Host) {
        let start = Instant::now();
        while self.count() < before + PROGRESS {
            assert!(
                start.elapsed() < LIMIT,
                "no rows are written:\n{}",
                host.evidence()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn table(hostname: &str) -> String {
    let make = repository().join("tests/images/make");
    let made = Command::new(make).arg("postgres").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let archive = String::from_utf8(made.stdout).unwrap();
    // Killed more often than a server is in its life: it need not wait longer each time.
    format!(
        "[container.db]\nimage = \"oci-archive:{}\"\nhostname = {hostname:?}\nports = [\"5432:5432\"]\n\
         volumes = [\"rows:/var/lib/postgresql/data\"]\nrestart = {{ backoff_max = \"100ms\" }}\n",
        archive.trim()
    )
}

fn kill_9(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
}

/// Every acknowledged row is there, and no row that nobody wrote.
fn assert_all_there(host: &Host, writer: &Writer) -> usize {
    let rows = host.neighbour.within(|| {
        let start = Instant::now();
        loop {
            let asked = Session::open().and_then(|mut s| s.query("select n from rows order by n"));
            match asked {
                Ok(rows) => return rows,
                Err(e) => assert!(start.elapsed() < LIMIT, "{e}\n{}", host.evidence()),
            }
            thread::sleep(Duration::from_millis(30));
        }
    });
    let there: BTreeSet<u64> = rows.iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!(there.len(), rows.len(), "no row is there twice");
    let acknowledged = writer.acknowledged.lock().unwrap();
    let lost: Vec<&u64> = acknowledged.iter().filter(|n| !there.contains(n)).collect();
    assert!(
        lost.is_empty(),
        "committed and lost: {lost:?}\n{}",
        host.evidence()
    );
    assert!(there.iter().all(|n| *n < writer.tried.load(Ordering::Relaxed)));
    there.len()
}

#[test]
fn slow_committed_rows_outlive_every_kill() {
    let kills: u64 = std::env::var("WHARF_PG_KILLS").map_or(5, |n| n.parse().expect("a number"));
    let agent_kills = (kills / 5).max(2);
    let mut random = Random::seeded();
    let mut host = Host::new();
    host.write("db.toml", &table("first"));
    host.start_agent();
    host.wait_for("db");
    let first = host.container("db");
    host.neighbour.within(|| {
        let mut session = Session::open().unwrap();
        session.query("create table rows (n bigint primary key)").unwrap();
    });
    let net = File::open(format!("/proc/{}/ns/net", host.neighbour.pid())).unwrap();
    let mut writer = Writer::start(net);
    for n in 1..=kills {
        let before = writer.count();
        writer.goes_on(before, &host);
        thread::sleep(Duration::from_millis(random.below(300)));
        let server = host.container("db").pid.unwrap();
        // Spread over the run: the agent dies as well, before or after.
        let with_agent = n * agent_kills / kills > (n - 1) * agent_kills / kills;
        let agent_first = with_agent && random.below(2) == 0;
        if agent_first {
            host.kill_agent();
        }
        kill_9(server);
        if with_agent {
            if !agent_first {
                host.kill_agent();
            }
            host.start_agent();
        }
        host.until("restarted", |s| {
            s.containers
                .iter()
                .any(|c| c.restarts == n && c.pid.is_some_and(|pid| pid != server))
        });
    }
    let before = writer.count();
    writer.goes_on(before, &host);
    writer.end();
    let rows = assert_all_there(&host, &writer);
    host.wait_for("db");
    let last = host.container("db");
    assert_eq!((last.id, last.restarts), (first.id.clone(), kills));
    // Another container has them too.
    host.write("db.toml", &table("second"));
    host.until("replaced", |s| s.converged && s.containers[0].id != first.id);
    assert_eq!(assert_all_there(&host, &writer), rows);
    eprintln!("{kills} kills of the server and {agent_kills} of the agent: {rows} rows, all there");
}
