//! A byte stream cut into lines, long ones into pieces, as Docker's log copier does.

/// A line longer than this many bytes comes in pieces; all but its last lack the newline.
pub const LONGEST: usize = 16 << 10;

/// What of a stream was read but is no whole line yet.
#[derive(Debug, Default)]
pub struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes more bytes and gives out each line (with its newline) or full piece.
    pub fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = LONGEST - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let newline = window.iter().position(|&b| b == b'\n');
            let taken = newline.map_or(window.len(), |at| at + 1);
            let (piece, rest) = bytes.split_at(taken);
            bytes = rest;
            if newline.is_some() && self.partial.is_empty() {
                emit(piece);
                continue;
            }
            self.partial.extend_from_slice(piece);
            if newline.is_some() {
                emit(&self.take());
            } else if self.partial.len() == LONGEST {
                self.emit_piece(&mut emit);
            }
        }
    }

    /// The unfinished rest, which is then forgotten.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Gives out a full piece, but never half a character: its bytes wait for the rest.
    fn emit_piece(&mut self, emit: &mut impl FnMut(&[u8])) {
        let full = self.take();
        let start = full.iter().rposition(|&b| b & 0xc0 != 0x80).unwrap_or(0);
        let cut = match full.len() - start {
            1..=3 if cut_short(&full[start..]) => start,
            _ => full.len(),
        };
        emit(&full[..cut]);
        self.partial.extend_from_slice(&full[cut..]);
    }
}

/// Whether this is the beginning of a longer UTF-8 sequence.
fn cut_short(tail: &[u8]) -> bool {
    std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut splitter = Splitter::default();
        let mut out = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk, |piece| out.push(piece.to_vec()));
        }
        (out, splitter.take())
    }

    #[test]
    fn lines_come_whole_however_they_were_read() {
        let (out, rest) = pieces(&[b"on", b"e\ntwo\n\nthr", b"ee"]);
        assert_eq!(out, [&b"one\n"[..], b"two\n", b"\n"]);
        assert_eq!(rest, b"three");
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_only_the_last_has_the_newline() {
        let mut long = vec![b'x'; 2 * LONGEST + 5];
        long.push(b'\n');
        for size in [1, 100, LONGEST, LONGEST + 1, 1 << 20] {
            let (out, rest) = pieces(&long.chunks(size).collect::<Vec<_>>());
            assert_eq!(
                out.iter().map(Vec::len).collect::<Vec<_>>(),
                [LONGEST, LONGEST, 6],
                "{size}"
            );
            assert!(rest.is_empty());
        }
        let mut exact = vec![b'x'; LONGEST];
        exact.push(b'\n');
        assert_eq!(pieces(&[&exact]).0[1], b"\n");
    }

    #[test]
    fn a_piece_never_ends_within_a_character() {
        let mut long = vec![b'x'; LONGEST - 1];
        long.extend("é\n".bytes());
        let (out, _) = pieces(&[&long]);
        assert_eq!(out[0].len(), LONGEST - 1);
        assert_eq!(out[1], "é\n".as_bytes());
        let garbage = vec![0x80; LONGEST + 1];
        assert_eq!(pieces(&[&garbage]).0[0].len(), LONGEST);
        let lone = vec![0xff; LONGEST + 1];
        assert_eq!(pieces(&[&lone]).0[0].len(), LONGEST);
    }
}
