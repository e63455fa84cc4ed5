//! One line of Docker's json-file log: `{"log":"…\n","stream":"stdout","time":"…"}`.

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout = 0,
    Stderr = 1,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Appends one line. Bytes that are no UTF-8 become U+FFFD, as Docker has it: JSON has no other place for them.
pub fn push(out: &mut Vec<u8>, stream: Stream, piece: &[u8], time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in piece.utf8_chunks() {
        push_escaped(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.as_str().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut plain = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[plain..at]);
        plain = at + 1;
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&text[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_from_the_json() {
        let every: String = (0..0x300)
            .filter_map(char::from_u32)
            .chain("\u{2028}\u{2029}😀\n".chars())
            .collect();
        let mut out = Vec::new();
        push(&mut out, Stream::Stderr, every.as_bytes(), "T");
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["log"], every);
        assert_eq!(value["stream"], "stderr");
        assert_eq!(value["time"], "T");
        assert_eq!(
            out.iter().filter(|&&b| b == b'\n').count(),
            1,
            "one line is one line"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut out = Vec::new();
        push(&mut out, Stream::Stdout, b"a\xffb\xc3\n", "T");
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["log"], "a\u{fffd}b\u{fffd}\n");
    }
}
