//! What the store remembers of an image: one JSON file each, written whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use model::digest::Digest;
use model::image::{Image, ImageConfig, ImageSource};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::layout::Layout;
use crate::source::{self, Stamp};

/// Raised when an older record cannot be read as it is; such a record is set aside and the image loaded again.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub source: ImageSource,
    pub stamp: Option<Stamp>,
    pub id: Option<Digest>,
    pub digest: Option<Digest>,
    pub size: u64,
    /// By diff_id, bottom first, each once.
    pub layers: Vec<Digest>,
    /// All of its layers, as the config has them. Empty where an older version did not note them.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
    /// Config and manifest.
    pub blobs: Vec<Digest>,
    pub config: ImageConfig,
    /// Of what the reference led to at the registry.
    #[serde(default)]
    pub top: Option<Digest>,
    /// When it was brought in, or last became another image.
    #[serde(default)]
    pub pulled: Option<Timestamp>,
}

/// An image in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub image: Image,
    /// When it was pulled or loaded; none where an older version of the agent did not note it.
    pub pulled: Option<Timestamp>,
    /// Of what its reference led to at the registry: the index where there is one (Docker's RepoDigest), else the
    /// manifest. None for what is from no registry.
    pub pinned: Option<Digest>,
}

impl Record {
    /// A record of nothing but a directory used as it is.
    pub fn rootfs(source: ImageSource) -> Self {
        Self {
            version: VERSION,
            source,
            stamp: None,
            id: None,
            digest: None,
            size: 0,
            layers: Vec::new(),
            diff_ids: Vec::new(),
            blobs: Vec::new(),
            config: ImageConfig::default(),
            top: None,
            pulled: Some(Timestamp::now()),
        }
    }

    /// Whether both are of the same image, whenever each was brought in.
    pub fn is_like(&self, other: &Self) -> bool {
        let timeless = |record: &Self| Self {
            pulled: None,
            ..record.clone()
        };
        timeless(self) == timeless(other)
    }

    /// A record of an image that was found; `layers` are those of its layers that can be seen.
    pub fn found(source: ImageSource, found: &source::Found, layers: Vec<Digest>) -> Self {
        Self {
            stamp: found.stamp,
            id: Some(found.id),
            digest: found.digest,
            top: found.top,
            size: found.layers.iter().map(|layer| layer.size).sum(),
            layers,
            diff_ids: found.layers.iter().map(|layer| layer.diff_id).collect(),
            blobs: found.documents.iter().map(|(digest, _)| *digest).collect(),
            config: found.config.clone(),
            ..Self::rootfs(source)
        }
    }

    pub fn image(&self, layout: &Layout) -> Image {
        let layers = match &self.source {
            ImageSource::Rootfs { dir } => vec![dir.clone()],
            _ => self.layers.iter().map(|id| layout.layer(id)).collect(),
        };
        Image {
            key: self.source.key(),
            id: self.id,
            digest: self.digest,
            size: self.size,
            layers,
            config: self.config.clone(),
        }
    }

    pub fn bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// All records. One that cannot be understood is set aside, in `damaged/`: loading the image again writes it anew.
pub fn read_all(layout: &Layout) -> Result<BTreeMap<String, Record>, StoreError> {
    let listing = || StoreError::io("list", &layout.images);
    let mut records = BTreeMap::new();
    for entry in std::fs::read_dir(&layout.images).map_err(listing())? {
        let path = entry.map_err(listing())?.path();
        let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        match understand(&bytes) {
            Some(record) if layout.record(&record.source.key()) == path => {
                records.insert(record.source.key(), record);
            }
            _ => set_aside(layout, &path)?,
        }
    }
    Ok(records)
}

fn understand(bytes: &[u8]) -> Option<Record> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    (record.version == VERSION).then_some(record)
}

fn set_aside(layout: &Layout, path: &Path) -> Result<(), StoreError> {
    let dir = layout.root.join("damaged");
    std::fs::create_dir_all(&dir).map_err(StoreError::io("make the directory", &dir))?;
    let aside = dir.join(path.file_name().unwrap_or_default());
    let shown = aside.display();
    tracing::warn!(path = %path.display(), aside = %shown, "an image record cannot be understood and was set aside; the image is loaded again");
    std::fs::rename(path, &aside).map_err(StoreError::io("set aside", path))
}
