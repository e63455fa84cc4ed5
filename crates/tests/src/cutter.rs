//! A bad line: passes bytes on to a server until a connection has had its share, then cuts it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::random::Random;

/// Whose bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the server sends.
    Down,
    /// What the client sends.
    Up,
}

/// Listens until the process ends.
pub struct Cutter {
    pub address: SocketAddr,
    cuts: Arc<AtomicUsize>,
}

impl Cutter {
    /// The first `cuts` connections that carry enough are cut after a random number of bytes up to `most`.
    pub fn start(server: SocketAddr, way: Way, cuts: usize, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let random = Arc::new(Mutex::new(Random::seeded()));
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else {
                    return;
                };
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (counted, other) = match way {
                    Way::Down => ((server, client), (up, down)),
                    Way::Up => ((up, down), (server, client)),
                };
                let (random, made) = (Arc::clone(&random), Arc::clone(&counter));
                std::thread::spawn(move || drop(copy(other.0, other.1, u64::MAX)));
                std::thread::spawn(move || {
                    let share = random.lock().unwrap().below(most);
                    let share = if made.load(Ordering::Relaxed) < cuts {
                        share
                    } else {
                        u64::MAX
                    };
                    if copy(counted.0, counted.1, share).is_ok_and(|cut| cut) {
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { address, cuts: made }
    }

    /// How many were cut.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

/// Whether it ended because the share was used up.
fn copy(mut from: TcpStream, mut to: TcpStream, share: u64) -> std::io::Result<bool> {
    let (mut left, mut buffer) = (share, vec![0; 8192]);
    loop {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = if most == 0 {
            0
        } else {
            from.read(&mut buffer[..most])?
        };
        if read == 0 {
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
            return Ok(left == 0);
        }
        to.write_all(&buffer[..read])?;
        left -= read as u64;
    }
}
