//! The little of D-Bus that it takes to ask one service a question: connect, say who we are, call, read the answer
//! (D-Bus Specification: "Authentication Protocol", "Message Protocol", "Message Bus").

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the system's bus is, where `DBUS_SYSTEM_BUS_ADDRESS` does not say.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
/// The bus itself, as a service.
pub const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// Longer answers than this are none to questions of ours.
const LONGEST: usize = 1 << 20;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
/// Header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// A connection to the system's bus.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    /// All has to be over by then.
    until: Instant,
}

/// Whom a call is for.
#[derive(Clone, Copy)]
pub struct Service<'a> {
    pub name: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
}

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The bus cannot be reached, or does not answer.
    #[error("the system's D-Bus: {0}")]
    Bus(#[from] io::Error),
    /// It was answered with an error.
    #[error("{name}: {text}")]
    Refused { name: String, text: String },
}

/// What an answer begins with; no question of ours has a longer one.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Text(String),
    Texts(Vec<String>),
    Number(u32),
}

impl Bus {
    /// Connects. All that is done with it may take that long together.
    pub fn system(limit: Duration) -> Result<Self, CallError> {
        let mut bus = Self {
            stream: UnixStream::connect(address()?)?,
            serial: 0,
            until: Instant::now() + limit,
        };
        bus.authenticate()?;
        bus.call(of_bus(), "Hello", &[])?;
        Ok(bus)
    }

    /// The unique name of whoever has that one now; none where nobody has. Starts nobody.
    pub fn owner(&mut self, name: &str) -> Result<Option<String>, CallError> {
        match self.call(of_bus(), "GetNameOwner", &[name]) {
            Ok(Value::Text(owner)) => Ok(Some(owner)),
            Ok(_) => Err(malformed().into()),
            Err(CallError::Refused { name, .. }) if name == "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// The process behind a unique name, as the bus's own process id namespace has it.
    pub fn pid(&mut self, owner: &str) -> Result<u32, CallError> {
        match self.call(of_bus(), "GetConnectionUnixProcessID", &[owner])? {
            Value::Number(pid) => Ok(pid),
            _ => Err(malformed().into()),
        }
    }

    /// Calls a method that takes texts.
    pub fn call(&mut self, of: Service<'_>, member: &str, args: &[&str]) -> Result<Value, CallError> {
        self.serial += 1;
        let call = message(self.serial, of, member, args);
        self.ready()?;
        self.stream.write_all(&call)?;
        loop {
            // Signals and the like come in between.
            let answer = self.receive()?;
            if answer.to != Some(self.serial) {
                continue;
            }
            return match answer.kind {
                RETURN => Ok(answer.value),
                _ => Err(CallError::Refused {
                    name: answer.error.unwrap_or_default(),
                    text: match answer.value {
                        Value::Text(text) => text,
                        _ => String::new(),
                    },
                }),
            };
        }
    }

    /// By our uid, which the kernel tells the bus.
    fn authenticate(&mut self) -> io::Result<()> {
        let uid = nix::unistd::geteuid().to_string();
        let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.ready()?;
        self.stream
            .write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            self.ready()?;
            self.stream.read_exact(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, said));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    /// One message, whole.
    fn receive(&mut self) -> io::Result<Answer> {
        // The fixed part of the header, and the length of its fields.
        let mut bytes = vec![0; 16];
        self.fill(&mut bytes)?;
        let head = Reader::new(&bytes)?;
        let fields = head.u32_at(12)? as usize;
        let body = head.u32_at(4)? as usize;
        if fields > LONGEST || body > LONGEST {
            return Err(malformed());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.fill(&mut rest)?;
        bytes.extend(rest);
        answer(&bytes, fields)
    }

    fn fill(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.ready()?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => bytes = &mut bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next read or write ends in time.
    fn ready(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.set_write_timeout(Some(left))
    }
}

fn of_bus() -> Service<'static> {
    Service {
        name: BUS,
        path: BUS_PATH,
        interface: BUS,
    }
}

/// The socket's path. Of an address list the first that is one (D-Bus Specification, "Server Addresses").
fn address() -> io::Result<PathBuf> {
    let Some(list) = std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS") else {
        return Ok(SYSTEM_BUS.into());
    };
    let list = list.to_string_lossy().into_owned();
    let path = |address: &str| {
        let pairs = address.strip_prefix("unix:")?.split(',');
        pairs
            .filter_map(|pair| pair.strip_prefix("path="))
            .next_back()
            .map(PathBuf::from)
    };
    list.split(';').find_map(path).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!("DBUS_SYSTEM_BUS_ADDRESS={list:?} has no unix:path=…"),
        )
    })
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "an answer that is cut short or malformed",
    )
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn text(out: &mut Vec<u8>, text: &str) {
    align(out, 4);
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

/// A method call, in little-endian order.
fn message(serial: u32, of: Service<'_>, member: &str, args: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    args.iter().for_each(|arg| text(&mut body, arg));
    let mut out = vec![b'l', CALL, 0, 1];
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(serial.to_le_bytes());
    // The length of the fields, once they are there.
    out.extend([0; 4]);
    let fields = [
        (PATH, 'o', of.path),
        (DESTINATION, 's', of.name),
        (INTERFACE, 's', of.interface),
        (MEMBER, 's', member),
    ];
    for (field, kind, value) in fields {
        align(&mut out, 8);
        out.extend([field, 1, kind as u8, 0]);
        text(&mut out, value);
    }
    if !args.is_empty() {
        align(&mut out, 8);
        out.extend([SIGNATURE, 1, b'g', 0, args.len() as u8]);
        out.extend("s".repeat(args.len()).as_bytes());
        out.push(0);
    }
    let fields = (out.len() - 16) as u32;
    out[12..16].copy_from_slice(&fields.to_le_bytes());
    align(&mut out, 8);
    out.extend(body);
    out
}

struct Answer {
    kind: u8,
    /// The call it answers.
    to: Option<u32>,
    error: Option<String>,
    value: Value,
}

/// `fields`: the length of the header's fields, without what aligns them.
fn answer(bytes: &[u8], fields: usize) -> io::Result<Answer> {
    let mut head = Reader::new(bytes)?;
    let (mut to, mut error, mut signature) = (None, None, String::new());
    head.at = 16;
    while head.at < 16 + fields {
        head.align(8);
        let field = head.byte()?;
        match (field, head.signature()?.as_str()) {
            (REPLY_SERIAL, "u") => to = Some(head.number()?),
            (ERROR_NAME, "s") => error = Some(head.text()?),
            (SIGNATURE, "g") => signature = head.signature()?,
            (_, "s" | "o") => drop(head.text()?),
            (_, "g") => drop(head.signature()?),
            (_, "u") => drop(head.number()?),
            _ => return Err(malformed()),
        }
    }
    head.align(8);
    let kind = bytes[1];
    let value = match kind {
        RETURN | ERROR => head.value(&signature)?,
        _ => Value::Nothing,
    };
    Ok(Answer {
        kind,
        to,
        error,
        value,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> io::Result<Self> {
        let little = match bytes.first() {
            Some(b'l') => true,
            Some(b'B') => false,
            _ => return Err(malformed()),
        };
        Ok(Self { bytes, at: 0, little })
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(length).ok_or_else(malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32_at(&self, at: usize) -> io::Result<u32> {
        let four: [u8; 4] = self
            .bytes
            .get(at..at + 4)
            .and_then(|four| four.try_into().ok())
            .ok_or_else(malformed)?;
        Ok(match self.little {
            true => u32::from_le_bytes(four),
            false => u32::from_be_bytes(four),
        })
    }

    fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        let number = self.u32_at(self.at)?;
        self.at += 4;
        Ok(number)
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.number()? as usize;
        self.terminated(length)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = self.byte()?.into();
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> io::Result<String> {
        let text = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(text).map_err(|_| malformed())
    }

    fn value(&mut self, signature: &str) -> io::Result<Value> {
        if signature.starts_with('s') {
            return Ok(Value::Text(self.text()?));
        }
        if signature.starts_with('u') {
            return Ok(Value::Number(self.number()?));
        }
        if !signature.starts_with("as") {
            return Ok(Value::Nothing);
        }
        let length = self.number()? as usize;
        let end = self.at.checked_add(length).ok_or_else(malformed)?;
        let mut texts = Vec::new();
        while self.at < end {
            texts.push(self.text()?);
        }
        Ok(Value::Texts(texts))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const OF: Service<'_> = Service {
        name: "org.example",
        path: "/org/example",
        interface: "org.example.Zone",
    };

    /// What we write is read by the same rules as what we are told.
    #[test]
    fn a_call_is_laid_out_as_the_specification_says() {
        let call = message(7, OF, "add", &["wharf", "br0"]);
        assert_eq!(&call[..4], b"l\x01\0\x01");
        let head = Reader::new(&call).unwrap();
        let (body, fields) = (
            head.u32_at(4).unwrap() as usize,
            head.u32_at(12).unwrap() as usize,
        );
        assert_eq!(head.u32_at(8).unwrap(), 7);
        assert_eq!(call.len(), 16 + fields.next_multiple_of(8) + body);
        let mut args = Reader::new(&call).unwrap();
        args.at = call.len() - body;
        assert_eq!(args.text().unwrap(), "wharf");
        assert_eq!(args.text().unwrap(), "br0");
        assert_eq!(answer(&call, fields).unwrap().to, None);
    }

    fn told(order: u8, signature: &str, body: &[u8]) -> (Vec<u8>, usize) {
        let number = |n: u32| {
            if order == b'l' {
                n.to_le_bytes()
            } else {
                n.to_be_bytes()
            }
        };
        let mut out = vec![order, RETURN, 0, 1];
        out.extend(number(body.len() as u32));
        out.extend(number(1));
        out.extend([0; 4]);
        out.extend([REPLY_SERIAL, 1, b'u', 0]);
        out.extend(number(3));
        out.extend([SIGNATURE, 1, b'g', 0, signature.len() as u8]);
        out.extend(signature.as_bytes());
        out.push(0);
        let fields = out.len() - 16;
        align(&mut out, 8);
        out.extend(body);
        (out, fields)
    }

    #[test]
    fn answers_are_read_in_either_order() {
        let (text, fields) = told(b'l', "s", b"\x02\0\0\0ab\0");
        let found = answer(&text, fields).unwrap();
        assert_eq!((found.to, found.value), (Some(3), Value::Text("ab".to_owned())));
        let (number, fields) = told(b'B', "u", b"\0\0\x01\0");
        let found = answer(&number, fields).unwrap();
        assert_eq!((found.to, found.value), (Some(3), Value::Number(256)));
        let (texts, fields) = told(b'l', "as", b"\x0f\0\0\0\x01\0\0\0a\0\0\0\x02\0\0\0bc\0");
        let texts = answer(&texts, fields).unwrap().value;
        assert_eq!(texts, Value::Texts(vec!["a".to_owned(), "bc".to_owned()]));
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let (whole, fields) = told(b'l', "s", b"\x02\0\0\0ab\0");
        for length in 0..whole.len() {
            assert!(answer(&whole[..length], fields).is_err(), "{length}");
        }
        let (lying, fields) = told(b'l', "as", b"\xff\xff\xff\xff\x01\0\0\0a\0");
        assert!(answer(&lying, fields).is_err());
    }
}
