//! Attributes: type, length, value, padded to four bytes (linux/netlink.h `struct nlattr`).

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// An attribute to be sent, or to be compared with what the kernel sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attr {
    kind: u16,
    body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    Bytes(Vec<u8>),
    Nested(Vec<Attr>),
}

impl Attr {
    pub fn bytes(kind: u16, value: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            body: Body::Bytes(value.into()),
        }
    }

    /// Text with its closing NUL.
    pub fn text(kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        Self::bytes(kind, bytes)
    }

    pub fn u8(kind: u16, value: u8) -> Self {
        Self::bytes(kind, [value])
    }

    /// Host order, as rtnetlink has it.
    pub fn u32(kind: u16, value: u32) -> Self {
        Self::bytes(kind, value.to_ne_bytes())
    }

    /// Network order, as netfilter has it.
    pub fn be32(kind: u16, value: u32) -> Self {
        Self::bytes(kind, value.to_be_bytes())
    }

    pub fn nest(kind: u16, inner: impl Into<Vec<Attr>>) -> Self {
        Self {
            kind,
            body: Body::Nested(inner.into()),
        }
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        let kind = match &self.body {
            Body::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                self.kind
            }
            Body::Nested(inner) => {
                inner.iter().for_each(|attr| attr.write(out));
                self.kind | NESTED
            }
        };
        let length = u16::try_from(out.len() - start).expect("attributes are cut into pieces below 64 KiB");
        out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        out[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }

    /// Whether the kernel's value says the same: everything of ours is there in the same order, and whatever the
    /// kernel tells beyond it is zero (the default of an option that was not given).
    pub fn says(&self, actual: &[u8]) -> bool {
        let inner = match &self.body {
            Body::Bytes(bytes) => return bytes == actual,
            Body::Nested(inner) => inner,
        };
        let mut rest: Vec<(u16, &[u8])> = Attrs(actual).collect();
        for wanted in inner {
            let Some(at) = rest.iter().position(|(kind, _)| *kind == wanted.kind) else {
                return false;
            };
            if !wanted.says(rest.remove(at).1) {
                return false;
            }
        }
        rest.iter().all(|(_, value)| value.iter().all(|byte| *byte == 0))
    }
}

/// The attributes in a piece of a message; ends where the bytes make no sense.
#[derive(Clone, Copy)]
pub(crate) struct Attrs<'a>(pub &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0;
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(HEADER..length)?;
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & TYPE_MASK, value))
    }
}

/// The first attribute of that type.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    Attrs(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

pub(crate) fn read_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind).and_then(|value| u32_at(value, 0))
}

pub(crate) fn read_be32(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind).and_then(|value| be32_at(value, 0))
}

pub(crate) fn read_text(bytes: &[u8], kind: u16) -> Option<String> {
    find(bytes, kind).map(text)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn be32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(attr: &Attr) -> Vec<u8> {
        let mut out = Vec::new();
        attr.write(&mut out);
        out
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = written(&Attr::nest(
            7,
            [Attr::text(1, "eth0"), Attr::u8(2, 9), Attr::be32(3, 0x0102_0304)],
        ));
        assert_eq!(bytes.len() % 4, 0);
        let inner = find(&bytes, 7).unwrap();
        assert_eq!(read_text(inner, 1).as_deref(), Some("eth0"));
        assert_eq!(find(inner, 2), Some(&[9][..]));
        assert_eq!(read_be32(inner, 3), Some(0x0102_0304));
        assert_eq!(find(inner, 4), None);
    }

    #[test]
    fn broken_bytes_end_the_reading() {
        for bytes in [&[1][..], &[200, 0, 1, 0], &[2, 0, 1, 0], &[0; 8]] {
            assert!(Attrs(bytes).count() <= 1, "{bytes:?}");
        }
    }

    #[test]
    fn a_kernel_answer_may_add_defaults_and_nothing_else() {
        let ours = Attr::nest(1, [Attr::be32(1, 5)]);
        let says = |theirs: Attr| ours.says(find(&written(&theirs), 1).unwrap());
        assert!(says(Attr::nest(1, [Attr::be32(1, 5)])));
        assert!(says(Attr::nest(1, [Attr::be32(1, 5), Attr::be32(2, 0)])));
        assert!(!says(Attr::nest(1, [Attr::be32(1, 5), Attr::be32(2, 1)])));
        assert!(!says(Attr::nest(1, [Attr::be32(1, 6)])));
        assert!(!says(Attr::nest(1, [])));
    }
}
