//! The system journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): events with fields that can be asked for.
//!
//! Used only where our standard error leads to the journal (`$JOURNAL_STREAM`, systemd.exec(5)): then an event's text is
//! not written there as well.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use model::event::Event;

const SOCKET: &str = "/run/systemd/journal/socket";
/// What one datagram surely takes; reasons that are longer are cut.
const MOST: usize = 60 << 10;

/// A socket to the journal.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// None where nobody reads the journal for us.
    pub fn connect() -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = std::fs::metadata("/proc/self/fd/2").ok()?;
        is_stream(&stream, stderr.dev(), stderr.ino()).then_some(())?;
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        Some(Self(socket))
    }

    /// Sends one event; false where it could not be.
    pub fn send(&self, event: &Event) -> bool {
        self.0.send(&entry(event)).is_ok()
    }
}

/// `DEVICE:INODE` of the stream that systemd connected.
fn is_stream(text: &str, device: u64, inode: u64) -> bool {
    let numbers = text.split_once(':');
    numbers.is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// `WHARF_EVENT=`, `WHARF_CONTAINER=` (or what else it is about) and its attributes, beside what every entry has.
fn entry(event: &Event) -> Vec<u8> {
    let noun = match event.name.as_str() {
        "" => event.kind.clone(),
        name => format!("{} {name}", event.kind),
    };
    let warning = matches!(event.what.as_str(), "error" | "die" | "lost" | "oom");
    let mut bytes = Vec::new();
    field(
        &mut bytes,
        "MESSAGE",
        &format!("{noun}: {}: {}", event.what, event.reason),
    );
    field(&mut bytes, "PRIORITY", if warning { "4" } else { "6" });
    field(&mut bytes, "SYSLOG_IDENTIFIER", "wharf");
    field(&mut bytes, "WHARF_EVENT", &event.what);
    field(&mut bytes, "WHARF_KIND", &event.kind);
    field(&mut bytes, &format!("WHARF_{}", key(&event.kind)), &event.name);
    field(&mut bytes, "WHARF_REASON", &event.reason);
    for (name, value) in &event.attributes {
        field(&mut bytes, &format!("WHARF_{}", key(name)), value);
    }
    bytes
}

/// Upper case, digits and underscores, as the journal takes names: `exitCode` as `EXIT_CODE`.
fn key(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        });
    }
    text
}

/// `NAME=value`, or with its length where the value has more than one line.
fn field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(MOST / 4);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = &value.as_bytes()[..end];
    bytes.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn event(reason: &str) -> Event {
        Event {
            time: Timestamp::UNIX_EPOCH,
            kind: "container".into(),
            name: "web".into(),
            what: "die".into(),
            reason: reason.into(),
            attributes: [("exitCode".to_owned(), "1".to_owned())].into(),
        }
    }

    #[test]
    fn an_entry_has_a_field_for_all_there_is_to_ask_for() {
        let text = String::from_utf8(entry(&event("exited with 1"))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "MESSAGE=container web: die: exited with 1",
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=wharf",
                "WHARF_EVENT=die",
                "WHARF_KIND=container",
                "WHARF_CONTAINER=web",
                "WHARF_REASON=exited with 1",
                "WHARF_EXIT_CODE=1",
            ]
        );
    }

    #[test]
    fn what_has_several_lines_comes_with_its_length_and_forges_no_field() {
        let bytes = entry(&event("a\nPRIORITY=0"));
        let at = bytes.windows(13).position(|w| w == b"WHARF_REASON\n").unwrap();
        assert_eq!(bytes[at + 13..at + 21], 12u64.to_le_bytes());
        assert_eq!(&bytes[at + 21..at + 34], b"a\nPRIORITY=0\n");
    }

    #[test]
    fn a_stream_is_ours_by_device_and_inode() {
        assert!(is_stream("8:42", 8, 42));
        assert!(!is_stream("8:43", 8, 42) && !is_stream("", 8, 42));
    }
}
