//! Turns a layer's tar into a directory that overlayfs takes as a lower layer.
//!
//! The archive is hostile: every path is resolved by the kernel inside the layer's own root ([`root::Root`]), the last
//! component is never followed, and nothing that exists is ever opened for writing. Whiteouts become what overlayfs
//! understands (OCI image-spec, layer.md, "Whiteouts"; kernel Documentation/filesystems/overlayfs.rst).

mod entry;
pub mod meta;
mod name;
mod root;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Timestamps;

use crate::error::{EntryError, LayerError};
use crate::tar::{Entry, Reader, Source, shown};
use name::Target;
use root::Root;
pub use root::{TRASHED_DIRECTORY, TRASHED_FILE};

/// Bytes copied at a time.
const CHUNK: usize = 128 * 1024;

/// One layer being unpacked.
struct Unpacker<'a> {
    root: Root,
    contents: Contents,
    cancel: &'a AtomicBool,
    /// Directories that had an entry of their own, whose times are set once nothing is written into them any more.
    directories: Vec<Dated>,
    buffer: Vec<u8>,
}

/// A directory, known again by its inode in case something else has taken its path meanwhile.
struct Dated {
    path: Vec<OsString>,
    inode: u64,
    times: Timestamps,
}

/// Whether files get their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    Written,
    /// They have their size and are holes throughout: for comparing everything else.
    Hollow,
}

/// Unpacks all entries into the directory `into`, which is empty. What a later entry of the same layer replaces is moved
/// to `trash`, an empty directory on the same file system; gives whether that was so of anything with content. Stops
/// early, without an error, once `cancel` is set.
pub fn unpack<S: Source>(
    reader: &mut Reader<S>,
    into: OwnedFd,
    trash: OwnedFd,
    contents: Contents,
    max_entries: u64,
    cancel: &AtomicBool,
) -> Result<bool, LayerError> {
    let mut unpacker = Unpacker {
        root: Root::new(into, trash),
        contents,
        cancel,
        directories: Vec::new(),
        buffer: vec![0; CHUNK],
    };
    let named = |name: String| move |source| LayerError::Entry { name, source };
    unpacker.start().map_err(named("\"/\"".to_owned()))?;
    let mut entries = 0;
    while let Some(entry) = reader.next_entry()? {
        entries += 1;
        if entries > max_entries {
            return Err(LayerError::Entries(max_entries));
        }
        if cancel.load(Ordering::Relaxed) {
            return Ok(false);
        }
        unpacker.take(&entry, reader)?;
    }
    unpacker.finish().map_err(named("\"/\"".to_owned()))?;
    Ok(unpacker.root.has_replaced())
}

impl Unpacker<'_> {
    fn take<S: Source>(&mut self, entry: &Entry, reader: &mut Reader<S>) -> Result<(), LayerError> {
        let named = |source| LayerError::Entry {
            name: shown(&entry.path),
            source,
        };
        match name::target(&entry.path).map_err(named)? {
            Target::Ignored => Ok(()),
            Target::Opaque(directory) => self.opaque(&directory).map_err(named),
            Target::Whiteout(path) => self.whiteout(&path).map_err(named),
            Target::Path(path) => match self.entry(entry, &path, reader) {
                Ok(()) => Ok(()),
                Err(entry::Failure::Entry(source)) => Err(named(source)),
                Err(entry::Failure::Tar(source)) => Err(source.into()),
            },
        }
    }

    /// The root may never be named by the archive: it gets the plain owner and mode, whatever the parent's setgid bit
    /// and default ACL made of it.
    fn start(&self) -> Result<(), EntryError> {
        meta::plain_directory(self.root.fd())
    }

    /// Sets the directories' times: the root's and the implied ones' first, in case an entry came for one later.
    fn finish(&self) -> Result<(), EntryError> {
        let setting = "set a directory's time";
        rustix::fs::futimens(self.root.fd(), &meta::epoch()).map_err(EntryError::io(setting))?;
        let implied = self.root.implied().iter();
        let implied = implied.map(|(path, inode)| (path, *inode, meta::epoch()));
        let described = self.directories.iter();
        let described = described.map(|dated| (&dated.path, dated.inode, dated.times.clone()));
        for (path, inode, times) in implied.chain(described) {
            let Some(fd) = self.root.open_directory(path)? else {
                continue;
            };
            if meta::inode(&fd)? == inode {
                rustix::fs::futimens(&fd, &times).map_err(EntryError::io(setting))?;
            }
        }
        Ok(())
    }
}
