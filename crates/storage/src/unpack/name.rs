//! What the path of an entry means: a place in the layer, or a whiteout's instruction.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::error::EntryError;

/// Where an entry goes. Paths are lists of plain components, empty for the root.
pub enum Target {
    Path(Vec<OsString>),
    /// `.wh.NAME`: this path is not to be seen in lower layers.
    Whiteout(Vec<OsString>),
    /// `.wh..wh..opq`: nothing of lower layers is to be seen in this directory.
    Opaque(Vec<OsString>),
    /// Other `.wh..wh.` names are aufs's own bookkeeping.
    Ignored,
}

pub fn target(path: &[u8]) -> Result<Target, EntryError> {
    let mut parts = components(path)?;
    if parts.iter().any(|part| is_bookkeeping(part)) {
        return Ok(Target::Ignored);
    }
    let Some(last) = parts.pop() else {
        return Ok(Target::Path(parts));
    };
    if last == ".wh..wh..opq" {
        return Ok(Target::Opaque(parts));
    }
    let Some(hidden) = last.as_bytes().strip_prefix(b".wh.") else {
        parts.push(last);
        return Ok(Target::Path(parts));
    };
    match hidden {
        b"" | b"." => Err(EntryError::Whiteout),
        b".." => Err(EntryError::DotDot),
        _ => {
            parts.push(OsStr::from_bytes(hidden).to_owned());
            Ok(Target::Whiteout(parts))
        }
    }
}

/// The components of a path that may be absolute or start with `./`; `..` is refused, not resolved.
pub fn components(path: &[u8]) -> Result<Vec<OsString>, EntryError> {
    if path.contains(&0) {
        return Err(EntryError::Nul);
    }
    let parts = path
        .split(|b| *b == b'/')
        .filter(|part| !matches!(**part, [] | [b'.']));
    parts
        .map(|part| match part {
            b".." => Err(EntryError::DotDot),
            _ => Ok(OsStr::from_bytes(part).to_owned()),
        })
        .collect()
}

fn is_bookkeeping(part: &OsStr) -> bool {
    part.as_bytes().starts_with(b".wh..wh.") && part != ".wh..wh..opq"
}
