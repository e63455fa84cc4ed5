//! What layers are known by: every compressed blob that a manifest in the store names for a layer, and where on the
//! registry in question it was met.

use std::collections::{BTreeMap, BTreeSet};

use model::digest::Digest;
use model::image::ImageSource;

use crate::describe::{Blob, Described};
use crate::registry::{Reference, Route};
use crate::store::Store;

/// How many blobs are tried for one layer, and how many repositories for one blob.
const MOST: usize = 4;
/// How many repositories the registry is asked to let us mount from.
const MOST_SOURCES: usize = 8;

/// By diff_id.
pub struct Blobs(BTreeMap<Digest, Vec<Known>>);

/// A blob that a layer is known as.
pub struct Known {
    pub blob: Blob,
    /// On the same registry, but not the one that is pushed to.
    pub repositories: BTreeSet<String>,
}

impl Blobs {
    /// Of the image's layers: first those that its own manifest names.
    pub fn collect(store: &Store, described: &Described, route: &Route) -> Self {
        let own = described.layers.iter().map(|layer| (layer.diff_id, Vec::new()));
        let mut blobs = Self(own.collect());
        blobs.add(described, route);
        let keys: Vec<String> = store.records().keys().cloned().collect();
        for key in keys.iter().filter(|key| **key != described.source.key()) {
            // One that is damaged, or no image at all, knows nothing.
            if let Ok(other) = store.describe(key) {
                blobs.add(&other, route);
            }
        }
        blobs
    }

    /// Best first.
    pub fn of(&self, diff_id: &Digest) -> impl Iterator<Item = &Known> {
        self.0.get(diff_id).into_iter().flatten().take(MOST)
    }

    /// All that there may be something to mount from.
    pub fn repositories(&self) -> Vec<String> {
        let all = self.0.values().flatten().flat_map(|known| &known.repositories);
        let all: BTreeSet<&String> = all.collect();
        all.into_iter().take(MOST_SOURCES).cloned().collect()
    }

    fn add(&mut self, image: &Described, route: &Route) {
        let repository = home(&image.source, route);
        for layer in &image.layers {
            let (Some(found), Some(blob)) = (self.0.get_mut(&layer.diff_id), &layer.blob) else {
                continue;
            };
            let at = found.iter().position(|known| known.blob.digest == blob.digest);
            let at = at.unwrap_or_else(|| {
                found.push(Known {
                    blob: blob.clone(),
                    repositories: BTreeSet::new(),
                });
                found.len() - 1
            });
            found[at].repositories.extend(repository.clone());
        }
    }
}

/// The repository that the image is of, where it is another one of the same registry.
fn home(source: &ImageSource, route: &Route) -> Option<String> {
    let ImageSource::Registry { reference } = source else {
        return None;
    };
    let reference = Reference::parse(reference).ok()?;
    let registry = reference.registry.as_deref()?;
    let repository = reference.repository(registry);
    (registry == route.registry && repository != route.repository).then_some(repository)
}
