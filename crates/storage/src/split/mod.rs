//! What a layer's plain tar has besides the tree it unpacks to, so that the tar can be given out again byte for byte
//! (the idea is that of vbatts/tar-split): headers, padding, trailing bytes, and content that no file in the tree has.
//!
//! It is written while the layer is unpacked, by [`Recorder`], which the tar reader reads through. [`LayerTar`] puts both
//! together again. `mended` sees to content that a later entry of the same layer replaced.
//!
//! A record is a head and one zstd stream (RFC 8878) of frames:
//!
//! ```text
//! head     "wharf layer 001\n", bytes of the plain tar (8, little endian)
//! frame    0 LENGTH BYTES                                               as they are
//!          1 PATH-LENGTH PATH SIZE INODE CRC PARTS (OFFSET LENGTH)...   content of a file of the tree
//!          2                                                            the end
//! ```
//!
//! Numbers are LEB128 (DWARF 5, 7.6) but for the CRC-32 (RFC 1952, 8), which has four bytes, little endian. A file whose
//! PARTS is 0 came whole, else that many less one parts of it did. The inode is the file's when the layer was unpacked.

mod frames;
mod mended;
mod read;
mod recorder;

pub use mended::mend;
pub use read::{LayerTar, Split};
pub use recorder::Recorder;

/// Bytes of the plain tar that a record is of, by its head.
pub fn size_of(record: &std::path::Path) -> std::io::Result<u64> {
    frames::Reader::open(record).map(|reader| reader.size)
}
