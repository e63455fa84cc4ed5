//! Images into registries.
//!
//! The store keeps no compressed layers. So a layer is first looked for where it is to go, as the blobs that manifests
//! here know it by, then mounted from a repository of the same registry, and only then compressed anew. Where all of them
//! are found so, the manifest goes as it came, and so does its digest.

mod blobs;
mod layers;
mod manifest;
mod spool;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use model::digest::Digest;
use model::image::ImageSource;

use crate::describe::Described;
use crate::error::{LoadError, StoreError};
use crate::record::Record;
use crate::registry::{self, Aim, Login, Reference, RegistryConfig, Session};
use crate::source::spec::{Descriptor, Manifest, parse};
use crate::store::Store;
use blobs::Blobs;

/// How an image is to be pushed.
#[derive(Clone, Copy)]
pub struct PushOptions<'a> {
    /// Setting it ends the push soon with [`StoreError::Stopped`].
    pub cancel: &'a AtomicBool,
    /// Who pushes, where it is not whom the settings and files name.
    pub login: Option<&'a Login>,
    /// Told how each layer is coming on; called from several threads, and from within futures: it does not block.
    pub progress: Option<&'a (dyn Fn(PushProgress) + Sync)>,
}

/// How far one layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushProgress {
    /// The layer's diff_id.
    pub layer: Digest,
    pub step: PushStep,
}

/// What is being done, or was done, about a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushStep {
    Waiting,
    /// Bytes of the plain tar.
    Compressing {
        done: u64,
        total: u64,
    },
    /// Bytes of the compressed blob.
    Pushing {
        done: u64,
        total: u64,
    },
    /// The repository had it.
    Exists,
    /// The registry had it, in this repository.
    Mounted {
        from: String,
    },
    Pushed,
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// `HOST[:PORT]/PATH`.
    pub repository: String,
    pub tag: Option<String>,
    /// Of the manifest.
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    /// The manifest is the very one that the image came with.
    pub unchanged: bool,
    /// Layers that had to be compressed anew.
    pub compressed: usize,
}

impl Store {
    /// Pushes the image `key` to the registry, repository and tag that it is named by. Blobs go before what points to
    /// them, so a push that breaks off leaves nothing that can be pulled and is not whole.
    pub fn push(&self, key: &str, options: &PushOptions<'_>) -> Result<Pushed, StoreError> {
        let described = self.describe(key)?;
        let pushed = self.try_push(&described, options);
        pushed.map_err(|error| match error.or_full(&self.layout.root) {
            LoadError::Cancelled => StoreError::Stopped,
            source => StoreError::Push {
                key: key.to_owned(),
                source,
            },
        })
    }

    fn try_push(&self, described: &Described, options: &PushOptions<'_>) -> Result<Pushed, LoadError> {
        let ImageSource::Registry { reference } = &described.source else {
            let why = "only what is named by a registry can be pushed: give it a name with `wharf image tag`";
            return Err(LoadError::refused("image", why));
        };
        let reference = Reference::parse(reference)?;
        let config = self.registries();
        let config = match options.login {
            Some(login) => Arc::new(RegistryConfig::clone(&config).with_login(login.clone())),
            None => config,
        };
        let route = registry::push_route(&config, &reference)?;
        let blobs = Blobs::collect(self, described, &route);
        let aim = Aim::Push {
            sources: blobs.repositories(),
        };
        let session = Session::new(&config, route, aim)?;
        let shipped = layers::Ship {
            store: self,
            session: &session,
            options,
            blobs: &blobs,
            may_compress: reference.digest.is_none(),
        }
        .all(&described.layers)?;
        let (bytes, media_type) = manifest::of(described, &shipped)?;
        let digest = crate::hash::of(&bytes);
        if let Some(pinned) = reference.digest.filter(|pinned| *pinned != digest) {
            return Err(other_digest(&pinned, &digest));
        }
        self.push_config(described, &session, options)?;
        let watch = session.watch(options.cancel);
        let names = [
            reference.digest.map(|digest| digest.to_string()),
            reference.tag.clone(),
        ];
        for name in names.into_iter().flatten() {
            session.put_manifest(&name, &media_type, &bytes, watch)?;
        }
        self.note_pushed(described, digest, &bytes)?;
        Ok(Pushed {
            repository: format!("{}/{}", session.endpoint.name, session.repository),
            tag: reference.tag,
            digest,
            size: bytes.len() as u64,
            unchanged: described
                .manifest
                .as_ref()
                .is_some_and(|own| own.digest == digest),
            compressed: shipped.values().filter(|shipped| shipped.anew).count(),
        })
    }

    fn push_config(
        &self,
        described: &Described,
        session: &Session,
        options: &PushOptions<'_>,
    ) -> Result<(), LoadError> {
        let watch = session.watch(options.cancel);
        let config = &described.config;
        let size = config.bytes.len() as u64;
        if session.has_blob(&config.digest, size, watch)? {
            return Ok(());
        }
        let blob = registry::Blob {
            what: format!("config {}", config.digest),
            digest: config.digest,
            size,
            source: registry::Bytes::Here(config.bytes.clone().into()),
        };
        Ok(session.send_blob(&blob, None, watch, &|_| {})?)
    }

    /// From now on the image is known by the manifest that was pushed: the next push finds its layers, and the name is
    /// known to lead there.
    fn note_pushed(&self, described: &Described, digest: Digest, bytes: &[u8]) -> Result<(), LoadError> {
        let key = described.source.key();
        let record = self.records().get(&key).cloned();
        // Somebody may have given the name to another image meanwhile.
        let Some(record) = record.filter(|record| record.id == Some(described.config.digest)) else {
            return Ok(());
        };
        self.keep(&[(digest, bytes)])?;
        self.remember(Record {
            digest: Some(digest),
            top: Some(digest),
            blobs: vec![described.config.digest, digest],
            ..Record::clone(&record)
        })
        .map(drop)
    }
}

fn other_digest(pinned: &Digest, digest: &Digest) -> LoadError {
    let why = format!("what would be pushed has the digest {digest}: push it by a tag");
    LoadError::refused(format!("manifest {pinned}"), why)
}

/// The layers that a manifest lists.
fn listed(bytes: &[u8]) -> Result<Vec<Descriptor>, LoadError> {
    parse::<Manifest>(bytes, "manifest").map(|manifest| manifest.layers)
}
