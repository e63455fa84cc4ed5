//! Images as one archive, for `docker load`, podman, skopeo and our own.
//!
//! Both kinds are an OCI layout (image-spec, image-layout.md) in a tar, layers plain; Docker's has `manifest.json` besides,
//! as Docker itself has written it since version 25. The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use model::digest::Digest;
use model::image::ImageSource;
use serde_json::{Value, json};

use crate::describe::Described;
use crate::error::StoreError;
use crate::hash;
use crate::source::MANIFEST;
use crate::source::oci::{
    CONFIG_TYPES, FULL_NAME, INDEX, INDEX_TYPES, LAYER_TYPES, MANIFEST_TYPES, REF_NAME, blob_name,
};
use crate::store::Store;
use crate::tar::{Entry, Kind, Time, Writer};

/// Bytes copied at a time.
const CHUNK: usize = 128 * 1024;

/// The kind of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// What `docker save` writes, and `docker load` takes.
    #[default]
    Docker,
    /// An OCI layout and nothing else.
    Oci,
}

/// An image, and all the names that it is to have in the archive.
struct Saved {
    described: Described,
    /// References in full, with a tag.
    names: Vec<String>,
    manifest: (Digest, Vec<u8>),
}

impl Store {
    /// Writes the images `keys` as one archive; layers that several have are in it once. Every layer's digest is checked
    /// as it is written: a damaged one ends it with [`StoreError::Damaged`].
    pub fn save(
        &self,
        keys: &[String],
        format: ArchiveFormat,
        out: &mut dyn Write,
    ) -> Result<(), StoreError> {
        let images = self.to_be_saved(keys)?;
        let mut archive = Archive {
            tar: Writer::new(out),
            written: BTreeSet::new(),
        };
        archive.document("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        for image in &images {
            for layer in &image.described.layers {
                archive.layer(self, layer.diff_id)?;
            }
            let config = &image.described.config;
            archive.blob(config.digest, &config.bytes)?;
            archive.blob(image.manifest.0, &image.manifest.1)?;
        }
        archive.document(INDEX, &index(&images))?;
        if format == ArchiveFormat::Docker {
            archive.document(MANIFEST, &images.iter().map(docker_manifest).collect())?;
        }
        archive.tar.finish().map(drop).map_err(StoreError::Output)
    }

    /// Each image once, with all names it was asked for by; before anything is written it is known that all is there.
    fn to_be_saved(&self, keys: &[String]) -> Result<Vec<Saved>, StoreError> {
        let mut images: Vec<Saved> = Vec::new();
        let mut known: BTreeMap<Digest, usize> = BTreeMap::new();
        for key in keys {
            let described = self.describe(key)?;
            let name = match &described.source {
                ImageSource::Registry { reference } if !reference.contains('@') => Some(reference.clone()),
                _ => None,
            };
            let at = match known.get(&described.config.digest) {
                Some(at) => *at,
                None => {
                    known.insert(described.config.digest, images.len());
                    images.push(self.saved(described)?);
                    images.len() - 1
                }
            };
            let names = &mut images[at].names;
            names.extend(name.filter(|name| !names.contains(name)));
        }
        Ok(images)
    }

    fn saved(&self, described: Described) -> Result<Saved, StoreError> {
        let mut layers = Vec::new();
        for layer in &described.layers {
            // Its error says what is the matter with it.
            let size = self.layer_tar(&layer.diff_id)?.size();
            layers.push(json!({ "mediaType": LAYER_TYPES[0], "digest": layer.diff_id, "size": size }));
        }
        let config = &described.config;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPES[0],
            "config": { "mediaType": CONFIG_TYPES[0], "digest": config.digest, "size": config.bytes.len() },
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        Ok(Saved {
            described,
            names: Vec::new(),
            manifest: (hash::of(&bytes), bytes),
        })
    }
}

/// One descriptor for each name. The whole name by both keys: podman before 4.4 knows the second one alone, and reads
/// Docker's kind of archive as a layout too.
fn index(images: &[Saved]) -> Value {
    let descriptors = images.iter().flat_map(|image| {
        let plain = json!({
            "mediaType": MANIFEST_TYPES[0],
            "digest": image.manifest.0,
            "size": image.manifest.1.len(),
        });
        let named = image.names.iter().map(|name| {
            let mut descriptor = plain.clone();
            descriptor["annotations"] = json!({ FULL_NAME: name, REF_NAME: name });
            descriptor
        });
        let named: Vec<Value> = named.collect();
        if named.is_empty() { vec![plain] } else { named }
    });
    json!({
        "schemaVersion": 2,
        "mediaType": INDEX_TYPES[0],
        "manifests": descriptors.collect::<Vec<_>>(),
    })
}

/// Names in full, as podman has them: in Docker's short form podman would take them for its own.
fn docker_manifest(image: &Saved) -> Value {
    let names = &image.names;
    let layers = image
        .described
        .layers
        .iter()
        .map(|layer| blob_name(&layer.diff_id));
    json!({
        "Config": blob_name(&image.described.config.digest),
        "RepoTags": if names.is_empty() { Value::Null } else { json!(names) },
        "Layers": layers.collect::<Vec<_>>(),
    })
}

/// The tar being written.
struct Archive<'a> {
    tar: Writer<&'a mut dyn Write>,
    written: BTreeSet<Digest>,
}

impl Archive<'_> {
    fn document(&mut self, name: &str, value: &Value) -> Result<(), StoreError> {
        self.member(name, value.to_string().as_bytes())
    }

    fn blob(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        match self.written.insert(digest) {
            true => self.member(&blob_name(&digest), bytes),
            false => Ok(()),
        }
    }

    fn layer(&mut self, store: &Store, diff_id: Digest) -> Result<(), StoreError> {
        if !self.written.insert(diff_id) {
            return Ok(());
        }
        let mut tar = store.layer_tar(&diff_id)?;
        self.begin(&blob_name(&diff_id), Kind::File, tar.size())?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match tar.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self.tar.data(&buffer[..read]).map_err(StoreError::Output)?,
                Err(e) => return Err(StoreError::of_layer(e)),
            }
        }
    }

    fn member(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.begin(name, Kind::File, bytes.len() as u64)?;
        self.tar.data(bytes).map_err(StoreError::Output)
    }

    fn directory(&mut self, name: &str) -> Result<(), StoreError> {
        self.begin(name, Kind::Directory, 0)
    }

    fn begin(&mut self, name: &str, kind: Kind, size: u64) -> Result<(), StoreError> {
        let entry = Entry {
            path: name.as_bytes().to_vec(),
            mode: if kind == Kind::Directory { 0o755 } else { 0o644 },
            kind,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: BTreeMap::new(),
            size,
            sparse: None,
        };
        self.tar.begin(&entry).map_err(StoreError::Output)
    }
}
