//! One layer: a tar archive of entries in the order given, honest or malicious, compressed or plain.

use std::io::Write;
use std::path::Path;

use tar::{EntryType, Header};

/// How the layer's blob is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// What follows `application/vnd.oci.image.layer.v1.tar`.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }

    /// The blob.
    pub fn pack(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => tar.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(tar, 1).unwrap(),
        }
    }
}

/// Collects entries. Names are written as given, `..` and leading slashes too: bad archives are made here as well.
#[derive(Clone, Debug, Default)]
pub struct LayerBuilder {
    tar: Vec<u8>,
    pub(crate) compression: Compression,
}

impl LayerBuilder {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// How it is stored.
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// A directory.
    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(name, EntryType::Directory, mode, "", &[], (0, 0))
    }

    /// A file.
    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(name, EntryType::Regular, mode, "", content, (0, 0))
    }

    /// A file with the content of another.
    pub fn file_from(self, name: &str, mode: u32, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let content = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.file(name, mode, &content)
    }

    /// A symbolic link.
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, 0o777, target, &[], (0, 0))
    }

    /// A hard link.
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Link, 0o644, target, &[], (0, 0))
    }

    /// A character device.
    pub fn device(self, name: &str, major: u32, minor: u32) -> Self {
        self.entry(name, EntryType::Char, 0o666, "", &[], (major, minor))
    }

    /// A FIFO.
    pub fn fifo(self, name: &str) -> Self {
        self.entry(name, EntryType::Fifo, 0o644, "", &[], (0, 0))
    }

    fn entry(
        mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        link: &str,
        content: &[u8],
        dev: (u32, u32),
    ) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_device_major(dev.0).unwrap();
        header.set_device_minor(dev.1).unwrap();
        // Written raw: the crate's own setters refuse the names that bad archives are made of.
        let raw = header.as_mut_bytes();
        assert!(
            name.len() <= 100 && link.len() <= 100,
            "{name} -> {link}: too long for ustar"
        );
        raw[..name.len()].copy_from_slice(name.as_bytes());
        raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    /// The archive.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = self.tar.clone();
        tar.resize(tar.len() + 1024, 0);
        tar
    }
}
