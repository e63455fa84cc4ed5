//! All that is known of an image: for inspect, history, save and push.

use jiff::Timestamp;
use model::digest::Digest;
use model::image::{Image, ImageSource};

use crate::claims::Pins;
use crate::error::{LoadError, StoreError};
use crate::source::spec::{Config, Manifest, parse};
use crate::store::Store;
use crate::{hash, tree};

/// An image's documents and layers. Nothing of it is pruned while this lives.
pub struct Described {
    pub image: Image,
    pub source: ImageSource,
    /// What its digest is the image's id.
    pub config: Document,
    /// As it came; none of what came without one (Docker's archives) or was made here. Its layers are the compressed ones.
    pub manifest: Option<Document>,
    /// Of what its reference led to at the registry: an index where there is one, else the manifest.
    pub top: Option<Digest>,
    /// When it was brought in or made.
    pub pulled: Option<Timestamp>,
    /// All of them, bottom first; one that occurs twice is there twice.
    pub layers: Vec<DescribedLayer>,
    _pins: Pins,
}

/// A JSON document, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedLayer {
    pub diff_id: Digest,
    /// Bytes of the plain tar; none where an older version kept no record of it.
    pub size: Option<u64>,
    /// How it came, by the manifest.
    pub blob: Option<Blob>,
}

/// A layer as it lies at a registry. The store does not keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

impl Store {
    /// The config and manifest documents of the image `key`, checked against their digests, and its layers.
    pub fn describe(&self, key: &str) -> Result<Described, StoreError> {
        let unknown = || StoreError::NoImage { key: key.to_owned() };
        let record = self.records().get(key).cloned().ok_or_else(unknown)?;
        let pins = [&record.layers[..], &record.diff_ids, &record.blobs].concat();
        let pins = self.claims.pin(pins);
        let Some(id) = record.id else {
            return Err(StoreError::Unfit {
                key: key.to_owned(),
                why: "it is a directory, which has no layers and no config".to_owned(),
            });
        };
        let bad = |source| StoreError::Load {
            key: key.to_owned(),
            source,
        };
        let config = self.document("config", id).map_err(bad)?;
        let manifest = record.digest.map(|digest| self.document("manifest", digest));
        let manifest = manifest.transpose().map_err(bad)?;
        let layers = self.layers_of(&config, manifest.as_ref()).map_err(bad)?;
        Ok(Described {
            image: record.image(&self.layout),
            source: record.source.clone(),
            config,
            manifest,
            top: record.top,
            pulled: record.pulled,
            layers,
            _pins: pins,
        })
    }

    /// Bytes of the files of a layer that is here, as Docker shows a layer's size. Walks through all of them.
    pub fn content_size(&self, diff_id: &Digest) -> Result<u64, StoreError> {
        let layer = self.layout.layer(diff_id);
        match tree::content_of(&layer) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(StoreError::NoLayer { diff_id: *diff_id })
            }
            other => other.map_err(StoreError::io("measure", &layer)),
        }
    }

    fn document(&self, kind: &str, digest: Digest) -> Result<Document, LoadError> {
        let path = self.layout.blob(&digest);
        let bytes = std::fs::read(&path).map_err(LoadError::io("read", &path))?;
        match hash::of(&bytes) {
            actual if actual == digest => Ok(Document { digest, bytes }),
            actual => Err(LoadError::Digest {
                what: format!("{kind} {digest}"),
                expected: digest,
                actual,
            }),
        }
    }

    fn layers_of(
        &self,
        config: &Document,
        manifest: Option<&Document>,
    ) -> Result<Vec<DescribedLayer>, LoadError> {
        let parsed: Config = parse(&config.bytes, "config")?;
        let count = parsed.rootfs.diff_ids.as_ref().map_or(0, Vec::len);
        let diff_ids = parsed.diff_ids(count)?;
        let mut blobs = blobs(manifest)?.into_iter();
        let layers = diff_ids.into_iter().map(|diff_id| DescribedLayer {
            diff_id,
            size: self.plain_size(&diff_id),
            blob: blobs.next(),
        });
        Ok(layers.collect())
    }
}

fn blobs(manifest: Option<&Document>) -> Result<Vec<Blob>, LoadError> {
    let Some(manifest) = manifest else {
        return Ok(Vec::new());
    };
    let what = format!("manifest {}", manifest.digest);
    let parsed: Manifest = parse(&manifest.bytes, &what)?;
    let blob = |layer: crate::source::spec::Descriptor| {
        Ok(Blob {
            digest: crate::source::spec::digest(&layer.digest, &what)?,
            media_type: layer.media_type,
            size: layer.size,
        })
    };
    parsed.layers.into_iter().map(blob).collect()
}
