//! The text of a file, and places in it.

use crate::diagnostic::{Diagnostic, Location};

/// One file's text, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Relative to the config dir: `web.toml`, `web.toml.d/10-x.toml`.
    pub file: String,
    pub text: String,
}

impl Source {
    /// A file that is text already.
    pub fn new(file: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            text: text.into(),
        }
    }

    /// A file's bytes. What is not UTF-8 is an error that names the first such byte's place.
    pub fn from_bytes(file: impl Into<String>, bytes: &[u8]) -> Result<Self, Diagnostic> {
        let file = file.into();
        let error = match std::str::from_utf8(bytes) {
            Ok(text) => {
                return Ok(Self {
                    file,
                    text: text.to_owned(),
                });
            }
            Err(error) => error,
        };
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
        let byte = bytes[error.valid_up_to()];
        let at = Self { file, text: good };
        let end = at.text.len();
        let mut diagnostic = at.diagnostic(
            end..end,
            format!("the file is not UTF-8: there is a byte 0x{byte:02x} here"),
        );
        diagnostic.span = None;
        Err(diagnostic.hint("save the file as UTF-8; TOML has no other encoding"))
    }

    /// Line and column, both from 1, the column in characters.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        self.position_in(&self.line_starts(), offset)
    }

    /// Where each line begins: worth keeping when many places of one text are asked for.
    pub(super) fn line_starts(&self) -> Vec<usize> {
        let after = self
            .text
            .bytes()
            .enumerate()
            .filter(|(_, b)| *b == b'\n')
            .map(|(i, _)| i + 1);
        std::iter::once(0).chain(after).collect()
    }

    /// [`Source::position`] with the lines known.
    pub(super) fn position_in(&self, starts: &[usize], offset: usize) -> (u32, u32) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = starts.partition_point(|start| *start <= offset).max(1);
        let start = starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text[start..offset].chars().count() + 1;
        (small(line), small(column))
    }

    /// The place of a byte.
    pub fn location(&self, offset: usize) -> Location {
        let (line, column) = self.position(offset);
        Location {
            file: self.file.clone(),
            line: Some(line),
            column: Some(column),
        }
    }

    /// An error at a byte range.
    pub fn diagnostic(&self, span: std::ops::Range<usize>, message: impl Into<String>) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(self.location(span.start), message);
        diagnostic.span = Some((span.start, span.end));
        diagnostic
    }
}

/// Files are far smaller than 4 GB; a larger number is cut rather than wrapped.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let source = Source::new("a.toml", "a = 1\nü = 2\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(6), (2, 1));
        assert_eq!(source.position(8), (2, 2), "ü has two bytes");
        assert_eq!(source.position(7), (2, 1), "inside of ü");
        assert_eq!(source.position(999), (3, 1));
    }

    #[test]
    fn bytes_that_are_not_utf8_have_a_place() {
        let error = Source::from_bytes("a.toml", b"a = 1\nb = \"\xff\"\n").unwrap_err();
        assert_eq!(error.at.to_string(), "a.toml:2:6");
        assert!(error.message.contains("0xff"), "{}", error.message);
        assert!(Source::from_bytes("a.toml", "é".as_bytes()).is_ok());
    }
}
