//! What is wrong with a file, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in a file of the config dir.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Location {
    /// Relative to the config dir.
    pub file: String,
    /// From 1; none where there is no line (a directory, an unreadable file).
    pub line: Option<u32>,
    /// From 1, in characters.
    pub column: Option<u32>,
}

impl Location {
    /// The file as a whole.
    pub fn file(file: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            column: None,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        for part in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{part}")?;
        }
        Ok(())
    }
}

/// One error: what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Diagnostic {
    #[serde(flatten)]
    pub at: Location,
    pub message: String,
    pub hint: Option<String>,
    /// The other places that take part in a contradiction.
    #[serde(default)]
    pub also: Vec<Location>,
    /// Byte range in the file's text, for drawing the caret.
    #[serde(skip)]
    pub span: Option<(usize, usize)>,
    /// The tables this error is about, as `container.web`; empty: the whole file.
    #[serde(skip)]
    pub tables: Vec<String>,
}

impl Diagnostic {
    /// An error at a place, without a hint.
    pub fn new(at: Location, message: impl Into<String>) -> Self {
        Self {
            at,
            message: message.into(),
            hint: None,
            also: Vec::new(),
            span: None,
            tables: Vec::new(),
        }
    }

    /// The same with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
