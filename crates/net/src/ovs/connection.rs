//! A conversation with ovsdb-server: JSON-RPC 1.0 over its unix socket (RFC 7047, section 4).

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SwitchError;
use super::framing::Framing;

/// Bytes of one message. A database of ten thousand ports has some ten megabytes.
const LONGEST: usize = 256 << 20;
const PIECE: usize = 1 << 16;

/// A connection. Requests are answered in turn; what the server tells by itself in between is kept for
/// [`Connection::told`].
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    socket: String,
    framing: Framing,
    requests: u64,
    told: Vec<Value>,
}

impl Connection {
    pub fn open(socket: &Path) -> Result<Self, SwitchError> {
        let text = socket.display().to_string();
        match UnixStream::connect(socket) {
            Ok(stream) => Ok(Self {
                stream,
                socket: text,
                framing: Framing::default(),
                requests: 0,
                told: Vec::new(),
            }),
            Err(source) => Err(SwitchError::Away { socket: text, source }),
        }
    }

    /// Asks, and waits for the answer.
    pub fn call(&mut self, method: &str, params: Value, until: Instant) -> Result<Value, SwitchError> {
        self.requests += 1;
        let id = self.requests;
        self.send(&json!({ "method": method, "params": params, "id": id }), until)?;
        loop {
            let message = self.receive(until)?;
            if message["id"] != json!(id) || message.get("method").is_some_and(|m| !m.is_null()) {
                self.take(message, until)?;
                continue;
            }
            if !message["error"].is_null() {
                return Err(SwitchError::Refused(message["error"].to_string()));
            }
            return Ok(message["result"].clone());
        }
    }

    /// What came by itself (`params` of `update`), without waiting.
    pub fn told(&mut self) -> Result<Vec<Value>, SwitchError> {
        self.unblocked(true)?;
        let read = self.read_all();
        self.unblocked(false)?;
        read?;
        let soon = Instant::now() + Duration::from_secs(1);
        while let Some(message) = self.parsed()? {
            self.take(message, soon)?;
        }
        Ok(std::mem::take(&mut self.told))
    }

    /// The same; waits for something to come.
    pub fn wait_told(&mut self, until: Instant) -> Result<Vec<Value>, SwitchError> {
        while self.told.is_empty() {
            let message = self.receive(until)?;
            self.take(message, until)?;
        }
        Ok(std::mem::take(&mut self.told))
    }

    fn take(&mut self, message: Value, until: Instant) -> Result<(), SwitchError> {
        match message["method"].as_str() {
            // Section 4.1.11: whoever does not answer is taken for dead.
            Some("echo") => {
                let answer = json!({ "id": message["id"], "result": message["params"], "error": null });
                self.send(&answer, until)
            }
            Some("update") => {
                self.told.push(message["params"][1].clone());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn send(&mut self, message: &Value, until: Instant) -> Result<(), SwitchError> {
        let rest = self.rest(until)?;
        let sent = self.stream.set_write_timeout(Some(rest));
        let sent = sent.and_then(|()| self.stream.write_all(message.to_string().as_bytes()));
        sent.map_err(|e| self.broken(e))
    }

    fn receive(&mut self, until: Instant) -> Result<Value, SwitchError> {
        loop {
            if let Some(message) = self.parsed()? {
                return Ok(message);
            }
            let rest = self.rest(until)?;
            let set = self.stream.set_read_timeout(Some(rest));
            set.map_err(|e| self.broken(e))?;
            self.read()?;
        }
    }

    fn parsed(&mut self) -> Result<Option<Value>, SwitchError> {
        let Some(message) = self.framing.next() else {
            return Ok(None);
        };
        let parsed = serde_json::from_slice(&message);
        parsed.map(Some).map_err(|e| self.malformed(e.to_string()))
    }

    /// All that is there.
    fn read_all(&mut self) -> Result<(), SwitchError> {
        loop {
            match self.read() {
                Ok(()) => {}
                Err(SwitchError::Silent { .. }) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    fn read(&mut self) -> Result<(), SwitchError> {
        let mut piece = [0; PIECE];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(self.broken(io::ErrorKind::ConnectionReset.into())),
            Ok(length) => {
                self.framing.push(&piece[..length]);
                match self.framing.waiting() > LONGEST {
                    true => Err(self.malformed("a message without an end".to_owned())),
                    false => Ok(()),
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(self.broken(e)),
        }
    }

    fn unblocked(&self, unblocked: bool) -> Result<(), SwitchError> {
        let set = self.stream.set_nonblocking(unblocked);
        set.map_err(|e| self.broken(e))
    }

    fn rest(&self, until: Instant) -> Result<Duration, SwitchError> {
        let rest = until.saturating_duration_since(Instant::now());
        match rest.is_zero() {
            true => Err(self.silent()),
            false => Ok(rest),
        }
    }

    fn broken(&self, source: io::Error) -> SwitchError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.silent(),
            _ => SwitchError::Io {
                socket: self.socket.clone(),
                source,
            },
        }
    }

    fn silent(&self) -> SwitchError {
        SwitchError::Silent {
            socket: self.socket.clone(),
        }
    }

    pub fn malformed(&self, what: String) -> SwitchError {
        SwitchError::Malformed {
            socket: self.socket.clone(),
            what,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
