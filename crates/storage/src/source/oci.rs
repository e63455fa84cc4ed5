//! OCI images (image-spec, image-layout.md): index → manifest → config and layers, each by its digest. In a layout that
//! begins with `index.json`; a registry comes in at [`descend`] with the document that its tag leads to.

use std::sync::Arc;

use model::digest::Digest;

use super::container::Container;
use super::platform::{architecture, for_this_machine};
use super::spec::{Config, Descriptor, Index, Manifest, digest, parse};
use super::{Found, LayerBlob, MAX_DOCUMENT, MAX_LAYERS, Origin, StreamedImage, listed};
use crate::error::LoadError;
use crate::hash;

/// The layout's entry point.
pub const INDEX: &str = "index.json";
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd and buildx call the whole name; their ref.name is the tag alone.
pub const FULL_NAME: &str = "io.containerd.image.name";

pub const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
pub const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
pub const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
pub const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
/// How deep indexes may be nested.
const MAX_NESTING: usize = 4;

/// A place that has documents and layers by their digests.
pub trait Documents {
    /// The bytes of the document; size and digest are checked by the caller.
    fn read(&self, descriptor: &Descriptor, digest: &Digest, what: &str) -> Result<Vec<u8>, LoadError>;
    /// For messages.
    fn name(&self) -> String;
    fn layer(&self, digest: &Digest) -> Origin;
}

impl Documents for Arc<Container> {
    fn read(&self, _: &Descriptor, digest: &Digest, what: &str) -> Result<Vec<u8>, LoadError> {
        let name = blob_name(digest);
        let document = self.document(&name, what)?;
        document
            .map(|(bytes, _)| bytes)
            .ok_or_else(|| missing(self, name))
    }

    fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn layer(&self, digest: &Digest) -> Origin {
        Origin::Container(Arc::clone(self), blob_name(digest))
    }
}

pub fn find(container: Container, reference: Option<&str>) -> Result<Found, LoadError> {
    check_layout(&container)?;
    let Some((bytes, stamp)) = container.document(INDEX, INDEX)? else {
        return Err(not_a_layout(&container));
    };
    let index = parse_index(&bytes, INDEX)?;
    let top = choose(&index.manifests, reference)?;
    let found = image(&Arc::new(container), top)?;
    Ok(Found { stamp, ..found })
}

/// All images of a layout, by the names they have there. A name that is a tag alone says nothing of whose.
pub fn all(container: &Arc<Container>) -> Result<Vec<StreamedImage>, LoadError> {
    check_layout(container)?;
    let Some((bytes, _)) = container.document(INDEX, INDEX)? else {
        return Err(not_a_layout(container));
    };
    let index = parse_index(&bytes, INDEX)?;
    let mut tops: Vec<(Option<&str>, Vec<&Descriptor>)> = Vec::new();
    for descriptor in &index.manifests {
        let name = whole_name(descriptor);
        match tops.iter_mut().find(|(known, _)| *known == name) {
            Some((_, same)) => same.push(descriptor),
            None => tops.push((name, vec![descriptor])),
        }
    }
    let images = tops.into_iter().map(|(name, descriptors)| {
        let top = match descriptors[..] {
            [one] => one,
            _ if descriptors.iter().all(|d| d.platform.is_some()) => for_this_machine(&descriptors)?,
            _ => {
                return Err(LoadError::refused(
                    INDEX,
                    "it has several images of one name, or without any",
                ));
            }
        };
        Ok(StreamedImage {
            names: name.map(str::to_owned).into_iter().collect(),
            found: image(container, top)?,
        })
    });
    images.collect()
}

fn whole_name(descriptor: &Descriptor) -> Option<&str> {
    let short = name(descriptor).filter(|name| name.contains(['/', ':']));
    annotation(descriptor, FULL_NAME).or(short)
}

fn image(container: &Arc<Container>, top: &Descriptor) -> Result<Found, LoadError> {
    let bytes = fetch_manifest(container, top)?;
    let (descriptor, bytes) = descend(container, top, bytes)?;
    assemble(container, &descriptor, bytes)
}

/// The image of a manifest: its config read, its layers named.
pub fn assemble(
    place: &impl Documents,
    descriptor: &Descriptor,
    manifest: Vec<u8>,
) -> Result<Found, LoadError> {
    let digest = digest(&descriptor.digest, "manifest")?;
    let parsed = parse_manifest(&manifest, descriptor)?;
    let (id, config_bytes, config) = read_config(place, &parsed.config)?;
    let diff_ids = config.diff_ids(parsed.layers.len())?;
    let layers = parsed.layers.iter().zip(diff_ids);
    let layers = layers
        .map(|(descriptor, diff_id)| layer(place, descriptor, diff_id))
        .collect::<Result<_, _>>()?;
    Ok(Found {
        stamp: None,
        id,
        digest: Some(digest),
        top: None,
        config: config.execution(),
        documents: vec![(id, config_bytes), (digest, manifest)],
        layers,
    })
}

fn not_a_layout(container: &Container) -> LoadError {
    LoadError::NotInside {
        container: container.path().to_owned(),
        name: INDEX.to_owned(),
        wanted: "an OCI image layout (made with skopeo, buildah or `docker buildx build -o type=oci`)",
    }
}

/// `oci-layout` is not always written; where it is, it names the version.
fn check_layout(container: &Container) -> Result<(), LoadError> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    let Some((bytes, _)) = container.document("oci-layout", "oci-layout")? else {
        return Ok(());
    };
    let layout: Layout = parse(&bytes, "oci-layout")?;
    if layout.image_layout_version.starts_with("1.") {
        return Ok(());
    }
    let why = format!("version {:?} is not supported, 1 is", layout.image_layout_version);
    Err(LoadError::refused("oci-layout", why))
}

fn parse_index(bytes: &[u8], what: &str) -> Result<Index, LoadError> {
    let index: Index = parse(bytes, what)?;
    let own = index.media_type.as_deref();
    if index.config.is_some() || index.layers.is_some() || own.is_some_and(|own| !INDEX_TYPES.contains(&own))
    {
        return Err(LoadError::refused(
            what,
            "it is an index and something else at once",
        ));
    }
    Ok(index)
}

fn parse_manifest(bytes: &[u8], descriptor: &Descriptor) -> Result<Manifest, LoadError> {
    let what = format!("manifest {}", descriptor.digest);
    let manifest: Manifest = parse(bytes, &what)?;
    let own = manifest.media_type.as_deref();
    if manifest.manifests.is_some() || own.is_some_and(|own| own != descriptor.media_type) {
        return Err(LoadError::refused(
            what,
            "it is a manifest and something else at once",
        ));
    }
    if manifest.schema_version != 2 {
        let why = format!(
            "schema version {} is not supported, 2 is",
            manifest.schema_version
        );
        return Err(LoadError::refused(what, why));
    }
    if manifest.layers.len() > MAX_LAYERS {
        let why = format!("it has {} layers, more than {MAX_LAYERS}", manifest.layers.len());
        return Err(LoadError::refused(what, why));
    }
    Ok(manifest)
}

/// The descriptor in index.json that the user means.
fn choose<'a>(all: &'a [Descriptor], reference: Option<&str>) -> Result<&'a Descriptor, LoadError> {
    let names = || listed(all.iter().filter_map(|d| name(d).map(str::to_owned)));
    let meant: Vec<&Descriptor> = match reference {
        None => all.iter().collect(),
        Some(wanted) => all.iter().filter(|d| is_named(d, wanted)).collect(),
    };
    match (meant.as_slice(), reference) {
        ([one], _) => Ok(one),
        ([], Some(reference)) => Err(LoadError::Reference {
            reference: reference.to_owned(),
            available: names(),
        }),
        ([], None) => Err(LoadError::refused(INDEX, "it lists no images")),
        // One image for several platforms, without an index of its own.
        (several, _)
            if several
                .iter()
                .all(|d| d.platform.is_some() && name(d) == name(several[0])) =>
        {
            for_this_machine(several)
        }
        (several, Some(_)) => Ok(several[0]),
        (_, None) => Err(LoadError::Ambiguous { available: names() }),
    }
}

fn name(descriptor: &Descriptor) -> Option<&str> {
    annotation(descriptor, REF_NAME)
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations.as_ref()?.get(key).map(String::as_str)
}

fn is_named(descriptor: &Descriptor, wanted: &str) -> bool {
    let names = [name(descriptor), annotation(descriptor, FULL_NAME)];
    names.contains(&Some(wanted)) || descriptor.digest == wanted
}

/// Goes down from the document `top` through nested indexes to a manifest; what is handed back has the digest it
/// should have, as `bytes`, the document itself, has.
pub fn descend(
    place: &impl Documents,
    top: &Descriptor,
    mut bytes: Vec<u8>,
) -> Result<(Descriptor, Vec<u8>), LoadError> {
    let mut descriptor = top.clone();
    for _ in 0..=MAX_NESTING {
        if is_manifest(&descriptor)? {
            return Ok((descriptor, bytes));
        }
        let index = parse_index(&bytes, &format!("index {}", descriptor.digest))?;
        let all: Vec<&Descriptor> = index.manifests.iter().collect();
        descriptor = for_this_machine(&all)?.clone();
        bytes = fetch_manifest(place, &descriptor)?;
    }
    Err(LoadError::refused(INDEX, "indexes are nested too deeply"))
}

/// Whether it is an image's manifest and not an index; anything else is refused.
fn is_manifest(descriptor: &Descriptor) -> Result<bool, LoadError> {
    let media_type = descriptor.media_type.as_str();
    if MANIFEST_TYPES.contains(&media_type) {
        return Ok(true);
    }
    if INDEX_TYPES.contains(&media_type) {
        return Ok(false);
    }
    let what = format!("manifest {}", descriptor.digest);
    let why = format!("media type {media_type:?} is not an image's");
    Err(LoadError::refused(what, why))
}

fn fetch_manifest(place: &impl Documents, descriptor: &Descriptor) -> Result<Vec<u8>, LoadError> {
    let kind = match is_manifest(descriptor)? {
        true => "manifest",
        false => "index",
    };
    fetch(place, descriptor, kind)
}

fn read_config(
    place: &impl Documents,
    descriptor: &Descriptor,
) -> Result<(Digest, Vec<u8>, Config), LoadError> {
    let what = format!("config {}", descriptor.digest);
    if !CONFIG_TYPES.contains(&descriptor.media_type.as_str()) {
        let why = format!(
            "media type {:?} is an artifact's, not an image's",
            descriptor.media_type
        );
        return Err(LoadError::refused(what, why));
    }
    let bytes = fetch(place, descriptor, "config")?;
    let config: Config = parse(&bytes, &what)?;
    if !config.architecture.is_empty() && config.architecture != architecture() {
        tracing::warn!(
            image = place.name(),
            architecture = config.architecture,
            "the image is for another architecture"
        );
    }
    Ok((digest(&descriptor.digest, &what)?, bytes, config))
}

/// A document by its descriptor: size and digest are what it says.
fn fetch(place: &impl Documents, descriptor: &Descriptor, kind: &str) -> Result<Vec<u8>, LoadError> {
    let what = format!("{kind} {}", descriptor.digest);
    let expected = digest(&descriptor.digest, kind)?;
    if descriptor.size > MAX_DOCUMENT {
        return Err(LoadError::TooLarge {
            what,
            size: descriptor.size,
            limit: MAX_DOCUMENT,
        });
    }
    let bytes = place.read(descriptor, &expected, &what)?;
    let size = bytes.len() as u64;
    if size != descriptor.size {
        return Err(LoadError::Size {
            what,
            expected: descriptor.size,
            actual: size,
        });
    }
    match hash::of(&bytes) {
        actual if actual == expected => Ok(bytes),
        actual => Err(LoadError::Digest {
            what,
            expected,
            actual,
        }),
    }
}

fn layer(place: &impl Documents, descriptor: &Descriptor, diff_id: Digest) -> Result<LayerBlob, LoadError> {
    let what = format!("layer {}", descriptor.digest);
    let media_type = descriptor.media_type.as_str();
    if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        let why = "it is not in the image but to be fetched elsewhere (non-distributable): not supported";
        return Err(LoadError::refused(what, why));
    }
    if !LAYER_TYPES.contains(&media_type) {
        let why = format!("media type {media_type:?} is not a layer's that is supported");
        return Err(LoadError::refused(what, why));
    }
    let digest = digest(&descriptor.digest, "layer")?;
    Ok(LayerBlob {
        diff_id,
        digest: Some(digest),
        size: descriptor.size,
        origin: place.layer(&digest),
    })
}

pub fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A blob that something points to is not there.
pub fn missing(container: &Container, name: String) -> LoadError {
    LoadError::NotInside {
        container: container.path().to_owned(),
        name,
        wanted: "copied completely",
    }
}
