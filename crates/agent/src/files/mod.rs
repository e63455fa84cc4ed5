//! Files of containers, read and written by a short-lived child of ours (`wharf files`): where it goes for that, it holds
//! nothing, and if it is led astray or never comes back it is ended with the request it works for.
//!
//! | on | first | then |
//! | --- | --- | --- |
//! | its standard input | the [`Order`], in a frame | an archive, for [`Task::Extract`] |
//! | its standard output | a [`Head`], in a frame | what was asked for; for [`Task::Extract`] another [`Head`] |

pub mod child;
mod instance;
mod job;

pub use instance::instance_of;
pub use job::{Failure, Job};

use std::io::{self, Read, Write};
use std::path::PathBuf;

use runtime::rootfs::View;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use storage::files::PathStat;

/// Neither an order nor a head is longer, in bytes.
const LONGEST: u32 = 4 << 20;

/// What is to be done, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub view: View,
    pub task: Task,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// What a path leads to.
    Stat { path: PathBuf },
    /// The same, and then what is there, as an archive.
    Archive { path: PathBuf },
    /// An archive unpacked into a directory that is there.
    Extract {
        path: PathBuf,
        /// A directory and something else do not take each other's place.
        keep_kinds: bool,
    },
    /// The whole root, without what is mounted in it, as an archive.
    Export,
    /// What changed, as JSON.
    Changes,
    /// The same as a layer.
    Layer,
}

/// What came of it, or will.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Head {
    Stat(PathStat),
    /// It can be done; for [`Task::Extract`] the second time: it is done.
    Ready,
    Refused(Refused),
}

/// Why not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refused {
    pub why: Why,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    NotFound,
    /// What was asked for cannot be.
    Bad,
    ReadOnly,
    /// Something went wrong.
    Failed,
}

/// Writes a value with its length before it.
fn send<T: Serialize>(mut to: impl Write, value: &T) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&text)?;
    to.flush()
}

fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_as_it_went_and_leaves_the_rest() {
        let mut bytes = Vec::new();
        send(&mut bytes, &Head::Ready).unwrap();
        bytes.extend_from_slice(b"the archive");
        let mut from = bytes.as_slice();
        assert!(matches!(receive(&mut from).unwrap(), Head::Ready));
        assert_eq!(from, b"the archive");
        let cut: io::Result<Head> = receive(&bytes[..6]);
        assert!(cut.is_err());
    }
}
