//! Each layer to where it is to be, the cheapest way there is.

use std::collections::BTreeMap;

use model::digest::Digest;

use super::blobs::Blobs;
use super::spool::Spool;
use super::{PushOptions, PushProgress, PushStep};
use crate::describe::{Blob, DescribedLayer};
use crate::error::LoadError;
use crate::parallel;
use crate::registry::{self, Begun, Mount, Session};
use crate::store::Store;

/// Layers at a time: compressing one keeps a core busy while others are on the wire.
const PARALLEL: usize = 3;
/// What is made here (OCI image-spec, layer.md).
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layer that the repository has now.
pub struct Shipped {
    pub blob: Blob,
    /// It was compressed anew.
    pub anew: bool,
}

/// What shipping takes.
pub struct Ship<'a> {
    pub store: &'a Store,
    pub session: &'a Session,
    pub options: &'a PushOptions<'a>,
    pub blobs: &'a Blobs,
    /// False where only the very blobs that the manifest names will do.
    pub may_compress: bool,
}

impl Ship<'_> {
    /// All of them, by diff_id; after an error none is begun any more.
    pub fn all(&self, layers: &[DescribedLayer]) -> Result<BTreeMap<Digest, Shipped>, LoadError> {
        let each: BTreeMap<Digest, &DescribedLayer> =
            layers.iter().map(|layer| (layer.diff_id, layer)).collect();
        let mut order: Vec<&DescribedLayer> = Vec::new();
        for layer in layers {
            if order.iter().all(|other| other.diff_id != layer.diff_id) {
                self.tell(&layer.diff_id, PushStep::Waiting);
                order.push(each[&layer.diff_id]);
            }
        }
        let shipped = parallel::each(&order, PARALLEL, |layer, _| self.one(layer))?;
        Ok(order.iter().map(|layer| layer.diff_id).zip(shipped).collect())
    }

    fn one(&self, layer: &DescribedLayer) -> Result<Shipped, LoadError> {
        let diff_id = layer.diff_id;
        let begun = match self.found(&diff_id)? {
            Found::There(blob, step) => {
                self.tell(&diff_id, step);
                return Ok(Shipped { blob, anew: false });
            }
            Found::Not(begun) => begun,
        };
        if !self.may_compress {
            let why = "the registry does not have it as it was, and compressed anew it is not what the image's digest \
                       stands for: push it by a tag";
            return Err(LoadError::refused(format!("layer {diff_id}"), why));
        }
        let blob = self.compressed(layer, begun)?;
        self.tell(&diff_id, PushStep::Pushed);
        Ok(Shipped { blob, anew: true })
    }

    /// As one of the blobs that it is known as.
    fn found(&self, diff_id: &Digest) -> Result<Found, LoadError> {
        let watch = self.session.watch(self.options.cancel);
        for known in self.blobs.of(diff_id) {
            if self
                .session
                .has_blob(&known.blob.digest, known.blob.size, watch)?
            {
                return Ok(Found::There(known.blob.clone(), PushStep::Exists));
            }
        }
        let mut begun = None;
        for known in self.blobs.of(diff_id) {
            for from in &known.repositories {
                match self.session.mount(&known.blob.digest, from, watch)? {
                    Mount::Done => {
                        let step = PushStep::Mounted { from: from.clone() };
                        return Ok(Found::There(known.blob.clone(), step));
                    }
                    Mount::Begun(upload) => begun = Some(upload),
                    Mount::Not => {}
                }
            }
        }
        Ok(Found::Not(begun))
    }

    fn compressed(&self, layer: &DescribedLayer, begun: Option<Begun>) -> Result<Blob, LoadError> {
        let (diff_id, cancel) = (layer.diff_id, self.options.cancel);
        let spool = Spool::compress(self.store, &diff_id, cancel, |done, total| {
            self.tell(&diff_id, PushStep::Compressing { done, total });
        })?;
        let blob = Blob {
            media_type: GZIP.to_owned(),
            digest: spool.digest,
            size: spool.size,
        };
        let watch = self.session.watch(cancel);
        if self.session.has_blob(&blob.digest, blob.size, watch)? {
            return Ok(blob);
        }
        let upload = registry::Blob {
            what: format!("layer {diff_id}"),
            digest: blob.digest,
            size: blob.size,
            source: registry::Bytes::File(spool.file),
        };
        let total = blob.size;
        let tell = |done| self.tell(&diff_id, PushStep::Pushing { done, total });
        self.session.send_blob(&upload, begun, watch, &tell)?;
        Ok(blob)
    }

    fn tell(&self, layer: &Digest, step: PushStep) {
        if let Some(progress) = self.options.progress {
            progress(PushProgress { layer: *layer, step });
        }
    }
}

enum Found {
    There(Blob, PushStep),
    /// An upload that was begun in vain can still be used.
    Not(Option<Begun>),
}
