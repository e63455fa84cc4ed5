//! What is damaged had anew, from where an image that has it came from.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::digest::Digest;
use model::image::ImageSource;

use super::{Damage, Part, VerifyOptions, mend};
use crate::error::LoadError;
use crate::layout::flush_directory;
use crate::record::Record;
use crate::source::{self, Found, LayerBlob};
use crate::store::{LoadOptions, Store};
use crate::{layer, registry};

impl Store {
    /// Mends all of `damage`; the first place that has everything will do.
    pub(super) fn repair(
        &self,
        record: &Record,
        damage: &[Damage],
        options: &VerifyOptions<'_>,
    ) -> Result<(), LoadError> {
        let parts: BTreeSet<Part> = damage.iter().map(|damage| damage.part).collect();
        let mut failures = Vec::new();
        for candidate in self.candidates(record) {
            let key = candidate.source.key();
            let repaired = self
                .find_again(&candidate, options.cancel)
                .and_then(|found| self.repair_from(&found, &parts, options));
            match repaired {
                Ok(()) => return Ok(()),
                Err(LoadError::Cancelled) => return Err(LoadError::Cancelled),
                Err(e) => failures.push(format!("{key}: {e}")),
            }
        }
        Err(LoadError::refused("it cannot be had anew", failures.join("; ")))
    }

    /// The image, and others that are the same one by another name: first what needs no network.
    fn candidates(&self, record: &Record) -> Vec<Arc<Record>> {
        let records = self.records();
        let mut same: Vec<_> = records
            .values()
            .filter(|other| other.id == record.id)
            .cloned()
            .collect();
        let is_far = |source: &ImageSource| matches!(source, ImageSource::Registry { .. });
        same.sort_by_key(|other| (is_far(&other.source), other.source != record.source));
        same
    }

    /// Where the image came from, asked for just this image.
    fn find_again(&self, record: &Record, cancel: &AtomicBool) -> Result<Found, LoadError> {
        let found = match &record.source {
            ImageSource::Registry { reference } => {
                let pinned = record.top.ok_or_else(|| {
                    let why =
                        "it was made, loaded or named here, and no registry is known to have it: do so again";
                    LoadError::refused(reference.clone(), why)
                })?;
                let reference = format!("{}@{pinned}", crate::added::repository(reference));
                let found = registry::find(&self.registries(), &reference, None, cancel)?;
                found.ok_or_else(|| LoadError::refused(reference, "the registry does not have it"))?
            }
            other => source::find(other)?,
        };
        if Some(found.id) != record.id {
            let why = "there is another image by now";
            return Err(LoadError::refused(record.source.key(), why));
        }
        Ok(found)
    }

    fn repair_from(
        &self,
        found: &Found,
        parts: &BTreeSet<Part>,
        options: &VerifyOptions<'_>,
    ) -> Result<(), LoadError> {
        for part in parts {
            match part {
                Part::Document(digest) => {
                    let document = found.documents.iter().find(|(known, _)| known == digest);
                    let (digest, bytes) = document.ok_or_else(|| {
                        LoadError::refused(format!("document {digest}"), "it is no longer there")
                    })?;
                    let path = self.layout.blob(digest);
                    self.layout
                        .write(&path, bytes)
                        .map_err(LoadError::io("write", &path))?;
                }
                Part::Layer(diff_id) => {
                    let blob = found.layers.iter().find(|layer| layer.diff_id == *diff_id);
                    let blob = blob.ok_or_else(|| {
                        LoadError::refused(format!("layer {diff_id}"), "it is no longer there")
                    })?;
                    self.repair_layer(*diff_id, blob, options)?;
                }
            }
        }
        Ok(())
    }

    fn repair_layer(
        &self,
        diff_id: Digest,
        blob: &LayerBlob,
        options: &VerifyOptions<'_>,
    ) -> Result<(), LoadError> {
        let cancel = options.cancel;
        let over = || cancel.load(std::sync::atomic::Ordering::Relaxed);
        let work = self.claims.work_on(diff_id, over);
        let _work = work.ok_or(LoadError::Cancelled)?;
        let how = LoadOptions {
            progress: options.fetching,
            ..LoadOptions::new(cancel)
        };
        let fresh = layer::fetch(&self.layout, blob, &self.limits, &how)?;
        let place = self.layout.layer(&diff_id);
        if place.is_dir() {
            fresh.flush()?;
            mend::mend(&fresh.root(), &place, &self.layout.tmp).map_err(LoadError::io("mend", &place))?;
            flush_directory(&place).map_err(LoadError::io("flush", &place))?;
        }
        fresh.place(&self.layout, &diff_id)
    }
}
