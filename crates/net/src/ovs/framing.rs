//! Where one JSON text ends and the next one begins: JSON-RPC over a stream has nothing between them (RFC 7047,
//! section 4).

/// Finds the ends, however the bytes come.
#[derive(Debug, Default)]
pub(super) struct Framing {
    bytes: Vec<u8>,
    /// Bytes that were looked at.
    seen: usize,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Framing {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that wait for the end of their message.
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }

    /// The next whole message.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        while let Some(byte) = self.bytes.get(self.seen) {
            self.seen += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        let rest = self.bytes.split_off(self.seen);
                        self.seen = 0;
                        return Some(std::mem::replace(&mut self.bytes, rest));
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let stream = br#"{"id":1,"s":"}{\"]"}  {"a":[{"b":"\\"}]}{"c":{}}"#;
        let whole = |pieces: usize| {
            let mut framing = Framing::default();
            let mut found = Vec::new();
            for piece in stream.chunks(pieces) {
                framing.push(piece);
                while let Some(message) = framing.next() {
                    let value: serde_json::Value = serde_json::from_slice(&message).unwrap();
                    found.push(value.to_string());
                }
            }
            assert_eq!(framing.waiting(), 0);
            found
        };
        let all = whole(stream.len());
        assert_eq!(all.len(), 3);
        for pieces in 1..stream.len() {
            assert_eq!(whole(pieces), all, "in pieces of {pieces}");
        }
    }

    #[test]
    fn half_a_message_waits() {
        let mut framing = Framing::default();
        framing.push(b"{\"a\":");
        assert_eq!(framing.next(), None);
        assert_eq!(framing.waiting(), 5);
        framing.push(b"1}");
        assert_eq!(framing.next().unwrap(), b"{\"a\":1}");
    }
}
