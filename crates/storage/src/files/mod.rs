//! Files of a tree that somebody else may be writing to: looked at, packed into archives, unpacked into, compared with
//! what it was made from.
//!
//! Everything is done by descriptor below a root: no link leads out of it, nothing is opened that is not a regular file or
//! a directory, and a name that means something else from one call to the next ends in an error or in a file of the same
//! tree. Nothing here knows what a container is, or mounts anything.

mod changes;
mod compare;
mod extract;
mod kernel;
mod owners;
mod pack;
mod path;
mod places;

use std::io::{self, BufReader, Read};
use std::path::PathBuf;

pub use changes::{Change, changes, layer};
pub use compare::{ChangeKind, Trees};
pub use extract::{Extract, extract};
pub use kernel::Fds;
pub use owners::Owners;
pub use pack::{PackOptions, pack, pack_tree};
pub use path::{PathStat, Target, stat, target};
pub use places::Links;

use crate::tar::TarError;

/// Why files could not be read or written. The text is for users, who know which container or directory it is about.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}: there is no such file or directory", .0.display())]
    NotFound(PathBuf),
    #[error("{}: not a directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("the archive: {0}")]
    Tar(#[from] TarError),
    #[error("{}: {why}", path.display())]
    Refused { path: PathBuf, why: String },
    /// Whoever was to be given an archive takes no more of it.
    #[error("cannot write the archive: {0}")]
    Output(#[source] io::Error),
}

impl FilesError {
    fn io<E: Into<io::Error>>(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |e| Self::Io {
            doing,
            path,
            source: e.into(),
        }
    }

    fn refused(path: impl Into<PathBuf>, why: impl Into<String>) -> Self {
        Self::Refused {
            path: path.into(),
            why: why.into(),
        }
    }
}

/// The plain bytes of an archive that may be compressed: gzip, zstd or xz.
pub fn plain<'a>(archive: impl Read + 'a) -> Result<Box<dyn Read + 'a>, FilesError> {
    let buffered = BufReader::with_capacity(128 * 1024, archive);
    crate::inflate::inflate(buffered).map_err(|e| FilesError::refused("the archive", e.to_string()))
}

#[cfg(test)]
mod tests;
