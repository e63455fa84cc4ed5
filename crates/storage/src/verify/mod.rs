//! `verify`: whether the store still holds what it was given, and `--repair`, which fetches anew what it does not.
//!
//! A layer is put together again as its tar and hashed, and unpacked once more beside it without content, by the same
//! code as when it came: what that tree says of names, owners, modes, times and attributes the layer has to say too.

mod layer;
mod mend;
mod repair;
mod trees;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use model::digest::Digest;
use model::image::Image;
use serde::Serialize;

use crate::error::StoreError;
use crate::hash;
use crate::record::Record;
use crate::registry::{Progress, Report};
use crate::store::Store;

/// Most findings that are told of one layer.
const MAX_TOLD: usize = 100;

/// How images are looked at, and who hears of it.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Fetch anew what is damaged.
    pub repair: bool,
    /// Once it is set, [`Store::verify`] ends soon with [`StoreError::Stopped`].
    pub cancel: &'a AtomicBool,
    /// Of each layer's plain tar, by its digest, what has been read: all are told of at the beginning, with nothing done.
    pub looking: Report<'a>,
    /// What is fetched anew from a registry.
    pub fetching: Report<'a>,
}

impl<'a> VerifyOptions<'a> {
    /// Looks, changes nothing and tells nobody meanwhile.
    pub fn new(cancel: &'a AtomicBool) -> Self {
        Self {
            repair: false,
            cancel,
            looking: None,
            fetching: None,
        }
    }
}

/// What was found out about one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Its key.
    pub image: String,
    /// Nothing is wrong with it, or no longer.
    pub ok: bool,
    /// What was wrong with it when it was looked at.
    pub damage: Vec<Damage>,
    /// It was mended.
    pub repaired: bool,
    /// Why it could not be.
    pub not_repaired: Option<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// `config sha256:…`, `manifest sha256:…`, `layer sha256:…`.
    pub what: String,
    /// The file in the layer, where it is one.
    pub path: Option<String>,
    pub why: String,
    #[serde(skip)]
    part: Part,
}

/// What has to be had anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Document(Digest),
    Layer(Digest),
}

/// What was found out about layers, so that one which several images have is looked at once.
type Looked = BTreeMap<Digest, Vec<Damage>>;

impl Store {
    /// All images that are known of, also those that lack something: what [`Store::verify`] can be asked about.
    pub fn known_images(&self) -> BTreeMap<String, Image> {
        let records = self.records();
        let images = records
            .iter()
            .map(|(key, record)| (key.clone(), record.image(&self.layout)));
        images.collect()
    }

    /// Looks whether everything of the images `keys` is as it was when it came. With `repair` what is not is fetched anew
    /// from where the image came from; running containers go on with what they have meanwhile.
    pub fn verify(&self, keys: &[String], options: &VerifyOptions<'_>) -> Result<Vec<Verified>, StoreError> {
        self.announce(keys, options.looking);
        let mut looked = Looked::new();
        let mut all = Vec::new();
        for key in keys {
            let record = self.records().get(key).cloned();
            let record = record.ok_or_else(|| StoreError::NoImage { key: key.clone() })?;
            // A layer is not to go while it is looked at.
            let _pins = self
                .claims
                .pin([&record.layers[..], &record.diff_ids, &record.blobs].concat());
            let damage = self.damage(&record, &mut looked, options)?;
            let mut verified = Verified {
                image: key.clone(),
                ok: damage.is_empty(),
                damage,
                repaired: false,
                not_repaired: None,
            };
            if options.repair && !verified.ok {
                self.repair_and_look(&record, &mut verified, &mut looked, options)?;
            }
            all.push(verified);
        }
        Ok(all)
    }

    /// Tells of all layers that will be looked at, so that the whole of it is known from the start. One that cannot be
    /// opened is found out when its turn comes.
    fn announce(&self, keys: &[String], looking: Report<'_>) {
        let Some(report) = looking else { return };
        let records = self.records();
        let wanted = keys.iter().filter_map(|key| records.get(key));
        let layers: BTreeSet<Digest> = wanted.flat_map(|record| self.all_layers(record)).collect();
        for layer in layers {
            if let Ok(Ok(tar)) = self.tar_of(layer) {
                let total = tar.size();
                report(Progress {
                    layer,
                    done: 0,
                    total,
                });
            }
        }
    }

    fn repair_and_look(
        &self,
        record: &Record,
        verified: &mut Verified,
        looked: &mut Looked,
        options: &VerifyOptions<'_>,
    ) -> Result<(), StoreError> {
        if let Err(error) = self.repair(record, &verified.damage, options) {
            if options.cancel.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(StoreError::Stopped);
            }
            verified.not_repaired = Some(error.or_full(&self.layout.root).to_string());
            return Ok(());
        }
        for damage in &verified.damage {
            if let Part::Layer(diff_id) = damage.part {
                looked.remove(&diff_id);
            }
        }
        let left = self.damage(record, looked, options)?;
        verified.ok = left.is_empty();
        verified.repaired = verified.ok;
        verified.not_repaired = left
            .first()
            .map(|left| format!("{} is still wrong: {}", left.what, left.why));
        Ok(())
    }

    fn damage(
        &self,
        record: &Record,
        looked: &mut Looked,
        options: &VerifyOptions<'_>,
    ) -> Result<Vec<Damage>, StoreError> {
        let mut damage = Vec::new();
        for digest in &record.blobs {
            let kind = match Some(*digest) {
                id if id == record.id => "config",
                digest if digest == record.digest => "manifest",
                _ => "index",
            };
            let path = self.layout.blob(digest);
            let why = match std::fs::read(&path) {
                Err(e) => format!("it cannot be read: {e}"),
                Ok(bytes) if hash::of(&bytes) != *digest => "its content is not what it was".to_owned(),
                Ok(_) => continue,
            };
            damage.push(Damage {
                what: format!("{kind} {digest}"),
                path: None,
                why,
                part: Part::Document(*digest),
            });
        }
        for diff_id in self.all_layers(record) {
            let known = looked.get(&diff_id).cloned();
            let found = match known {
                Some(found) => found,
                None => self.layer_damage(diff_id, options)?,
            };
            damage.extend(found.iter().cloned());
            looked.insert(diff_id, found);
        }
        Ok(damage)
    }

    fn all_layers(&self, record: &Record) -> Vec<Digest> {
        let mut all = if record.diff_ids.is_empty() {
            &record.layers
        } else {
            &record.diff_ids
        }
        .clone();
        all.sort();
        all.dedup();
        all
    }
}
