//! Domain names as messages have them: labels, each after its length (RFC 1035 §3.1). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a name, the root's empty label among them.
pub const MOST: usize = 255;
/// Bytes of a label.
const LABEL: u8 = 63;
/// The first two bits of a pointer to a name that was before (RFC 1035 §4.1.4).
const POINTER: u8 = 0xc0;

/// A name, written without the root's empty label.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; MOST],
    length: u8,
}

impl Name {
    /// Reads a name that is written out plainly, as a question has it, and tells where it ends. None where it is cut
    /// short, too long, or refers to something before.
    pub fn read(packet: &[u8], start: usize) -> Option<(Self, usize)> {
        let mut at = start;
        loop {
            match *packet.get(at)? {
                0 => break,
                length @ 1..=LABEL => at += 1 + usize::from(length),
                _ => return None,
            }
            if at - start >= MOST {
                return None;
            }
        }
        let mut name = Self {
            bytes: [0; MOST],
            length: u8::try_from(at - start).ok()?,
        };
        name.bytes[..at - start].copy_from_slice(&packet[start..at]);
        Some((name, at + 1))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length.into()]
    }

    /// As names are compared.
    pub fn lower(&self) -> Self {
        let mut lower = *self;
        // Lengths of labels are below the letters.
        lower.bytes[..self.length.into()].make_ascii_lowercase();
        lower
    }
}

impl std::fmt::Debug for Name {
    /// Nothing of it: what containers ask for is in no message of ours.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Name({} bytes)", self.length)
    }
}

/// The lower-case form of a name that is written with dots, as [`Name::as_bytes`] has it; none where it cannot be asked
/// for.
pub fn from_text(text: &str) -> Option<Box<[u8]>> {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    for label in text.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|l| (1..=LABEL).contains(l))?;
        bytes.push(length);
        bytes.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    (bytes.len() < MOST).then(|| bytes.into())
}

/// The labels of a name, the first one first.
pub fn labels(mut name: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let mut all = Vec::new();
    while let Some((length, rest)) = name.split_first() {
        let Some((label, rest)) = rest.split_at_checked(usize::from(*length)) else {
            break; // no name has that
        };
        all.push(label);
        name = rest;
    }
    all.into_iter()
}

/// A name of one label.
pub fn is_single(name: &[u8]) -> bool {
    name.first()
        .is_some_and(|length| usize::from(*length) + 1 == name.len())
}

/// What is before that ending of a name; none where it ends otherwise.
pub fn without_ending<'a>(name: &'a [u8], ending: &[u8]) -> Option<&'a [u8]> {
    let cut = name.len().checked_sub(ending.len())?;
    if &name[cut..] != ending {
        return None;
    }
    // It has to begin where a label does.
    let mut at = 0;
    while at < cut {
        at += 1 + usize::from(name[at]);
    }
    (at == cut && cut > 0).then(|| &name[..cut])
}

/// The address that the name of a reverse lookup stands for: `5.1.88.10.in-addr.arpa` (RFC 1035 §3.5), or 32 nibbles
/// below `ip6.arpa` (RFC 3596 §2.5).
pub fn reversed(name: &[u8]) -> Option<IpAddr> {
    if let Some(octets) = without_ending(name, b"\x07in-addr\x04arpa") {
        let octets: Option<Vec<u8>> = labels(octets).rev().map(octet).collect();
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets?).ok()?).into());
    }
    let nibbles = without_ending(name, b"\x03ip6\x04arpa")?;
    let (mut address, mut count) = (0_u128, 0);
    for label in labels(nibbles).rev() {
        let [digit] = label else { return None };
        address = address << 4 | u128::from(char::from(*digit).to_digit(16)?);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(address).into())
}

/// As it is written: `07` is not the name of an address.
fn octet(label: &[u8]) -> Option<u8> {
    let number: u8 = std::str::from_utf8(label).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == label).then_some(number)
}

/// Where a name of a record ends, which may refer to something before; none where it is cut short or refers to itself
/// or something behind.
pub fn skip(packet: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=LABEL => at += 1 + usize::from(length),
            high if high & POINTER == POINTER => {
                let to = usize::from(high & !POINTER) << 8 | usize::from(*packet.get(at + 1)?);
                return (to < start).then_some(at + 2);
            }
            _ => return None,
        }
        if at - start >= MOST {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lower(packet: &[u8]) -> Option<(Vec<u8>, usize)> {
        Name::read(packet, 0).map(|(name, end)| (name.lower().as_bytes().to_vec(), end))
    }

    #[test]
    fn names_are_read_as_they_are_and_compared_in_lower_case() {
        assert_eq!(lower(b"\x03Web\x01A\0rest"), Some((b"\x03web\x01a".to_vec(), 7)));
        assert_eq!(lower(b"\0"), Some((Vec::new(), 1)));
        let (name, _) = Name::read(b"\x03Web\0", 0).unwrap();
        assert_eq!(name.as_bytes(), b"\x03Web");
        for bad in [&b""[..], b"\x03we", b"\x03web", b"\xc0\0", b"\x40", b"\x80\0"] {
            assert_eq!(lower(bad), None, "{bad:?}");
        }
        let long = |labels: usize, last: usize| {
            let mut all = [&[63_u8][..], &[b'x'; 63]].concat().repeat(labels);
            all.push(u8::try_from(last).unwrap());
            all.extend(vec![b'x'; last]);
            all.push(0);
            all
        };
        assert_eq!(lower(&long(3, 61)).unwrap().1, 255, "the longest there is");
        assert_eq!(lower(&long(3, 62)), None);
        assert_eq!(lower(&long(9, 9)), None);
    }

    #[test]
    fn text_becomes_a_name_where_it_can_be_one() {
        assert_eq!(from_text("Web.a.").as_deref(), Some(&b"\x03web\x01a"[..]));
        for bad in ["", ".", "a..b", &"x".repeat(64), &["x"; 128].join(".")] {
            assert_eq!(from_text(bad), None, "{bad}");
        }
        assert!(from_text(&"x".repeat(63)).is_some() && from_text(&["x"; 127].join(".")).is_some());
    }

    #[test]
    fn endings_are_whole_labels() {
        let cut = |name: &str, ending: &str| {
            let (name, ending) = (from_text(name).unwrap(), from_text(ending).unwrap());
            without_ending(&name, &ending).map(<[u8]>::to_vec)
        };
        assert_eq!(cut("db.a", "a"), Some(b"\x02db".to_vec()));
        assert_eq!(cut("x.db.a.b", "a.b"), Some(b"\x01x\x02db".to_vec()));
        for (name, ending) in [("a", "a"), ("db.ba", "a"), ("db", "a"), ("a.db", "a")] {
            assert_eq!(cut(name, ending), None, "{name} {ending}");
        }
        // Bytes that look alike: `\x01a` as the end of a longer label.
        assert_eq!(without_ending(b"\x03x\x01a", b"\x01a"), None);
    }

    #[test]
    fn reverse_names_stand_for_addresses() {
        let of = |text: &str| reversed(&from_text(text).unwrap());
        assert_eq!(of("5.1.88.10.in-addr.arpa"), Some("10.88.1.5".parse().unwrap()));
        for bad in [
            "1.88.10.in-addr.arpa",
            "9.5.1.88.10.in-addr.arpa",
            "256.1.88.10.in-addr.arpa",
            "05.1.88.10.in-addr.arpa",
            "+5.1.88.10.in-addr.arpa",
            "in-addr.arpa",
            "1.0.ip6.arpa",
            "www.example",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        let nibbles = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(of(nibbles), Some("fd00:80::2".parse().unwrap()));
        assert_eq!(of(&format!("1.{nibbles}")), None);
        assert_eq!(of(&nibbles.replace("d.f", "g.f")), None);
    }

    #[test]
    fn pointers_lead_back_or_nowhere() {
        let packet = b"\x01a\0\x01b\xc0\0\xc0\x07\xc0\xff\x01c";
        assert_eq!(skip(packet, 0), Some(3));
        assert_eq!(skip(packet, 3), Some(7));
        assert_eq!(skip(packet, 7), None, "to itself");
        assert_eq!(skip(packet, 9), None, "behind the end");
        assert_eq!(skip(packet, 11), None, "cut short");
        assert_eq!(skip(&[1; 600], 0), None, "too long");
    }
}
