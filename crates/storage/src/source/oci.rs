//! OCI image layouts (image-spec, image-layout.md): index → manifest → config and layers, each by its digest.

use std::sync::Arc;

use model::digest::Digest;

use super::container::Container;
use super::spec::{Config, Descriptor, Index, Manifest, Platform, digest, parse};
use super::{Found, LayerBlob, MAX_DOCUMENT, MAX_LAYERS, listed};
use crate::error::LoadError;
use crate::hash;

/// The layout's entry point.
pub const INDEX: &str = "index.json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What containerd and buildx call the whole name; their ref.name is the tag alone.
const FULL_NAME: &str = "io.containerd.image.name";

const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
/// How deep indexes may be nested.
const MAX_NESTING: usize = 4;

pub fn find(container: Container, reference: Option<&str>) -> Result<Found, LoadError> {
    check_layout(&container)?;
    let Some((bytes, stamp)) = container.document(INDEX, INDEX)? else {
        return Err(not_a_layout(&container));
    };
    let index = parse_index(&bytes, INDEX)?;
    let top = choose(&index.manifests, reference)?;
    let (descriptor, bytes) = descend(&container, top)?;
    let digest = digest(&descriptor.digest, "manifest")?;
    let manifest = parse_manifest(&bytes, &descriptor)?;
    let (id, config_bytes, config) = read_config(&container, &manifest.config)?;
    let diff_ids = config.diff_ids(manifest.layers.len())?;
    let container = Arc::new(container);
    let layers = manifest.layers.iter().zip(diff_ids);
    let layers = layers
        .map(|(descriptor, diff_id)| layer(&container, descriptor, diff_id))
        .collect::<Result<_, _>>()?;
    Ok(Found {
        stamp: Some(stamp),
        id,
        digest: Some(digest),
        config: config.execution(),
        documents: vec![(id, config_bytes), (digest, bytes)],
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

/// Goes down through nested indexes to a manifest; what is handed back has the digest it should have.
fn descend(container: &Container, top: &Descriptor) -> Result<(Descriptor, Vec<u8>), LoadError> {
    let mut descriptor = top.clone();
    for _ in 0..=MAX_NESTING {
        if MANIFEST_TYPES.contains(&descriptor.media_type.as_str()) {
            let bytes = fetch(container, &descriptor, "manifest")?;
            return Ok((descriptor, bytes));
        }
        if !INDEX_TYPES.contains(&descriptor.media_type.as_str()) {
            let what = format!("manifest {}", descriptor.digest);
            let why = format!("media type {:?} is not an image's", descriptor.media_type);
            return Err(LoadError::refused(what, why));
        }
        let bytes = fetch(container, &descriptor, "index")?;
        let index = parse_index(&bytes, &format!("index {}", descriptor.digest))?;
        let all: Vec<&Descriptor> = index.manifests.iter().collect();
        descriptor = for_this_machine(&all)?.clone();
    }
    Err(LoadError::refused(INDEX, "indexes are nested too deeply"))
}

/// The best of one image's manifests for this machine.
fn for_this_machine<'a>(all: &[&'a Descriptor]) -> Result<&'a Descriptor, LoadError> {
    if let [one] = all
        && one.platform.is_none()
    {
        return Ok(one);
    }
    let fitting = all.iter().filter(|d| d.platform.as_ref().is_some_and(fits));
    let best = fitting.min_by_key(|d| d.platform.as_ref().map_or(usize::MAX, rank));
    best.copied().ok_or_else(|| LoadError::Platform {
        wanted: format!("linux/{}", architecture()),
        available: listed(all.iter().filter_map(|d| d.platform.as_ref()).map(shown)),
    })
}

fn fits(platform: &Platform) -> bool {
    platform.os == "linux" && platform.architecture == architecture()
}

/// The plainest variant first: what runs on every machine of the architecture.
fn rank(platform: &Platform) -> usize {
    let order = ["", "v1", "v8", "v7", "v6", "v5"];
    let variant = platform.variant.as_deref().unwrap_or_default();
    order.iter().position(|v| *v == variant).unwrap_or(order.len())
}

fn shown(platform: &Platform) -> String {
    format!("{}/{}", platform.os, platform.architecture)
}

/// This machine's architecture as Go, and so OCI, calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        other => other,
    }
}

fn read_config(
    container: &Container,
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
    let bytes = fetch(container, descriptor, "config")?;
    let config: Config = parse(&bytes, &what)?;
    if !config.architecture.is_empty() && config.architecture != architecture() {
        tracing::warn!(image = %container.path().display(), architecture = config.architecture,
            "the image is for another architecture");
    }
    Ok((digest(&descriptor.digest, &what)?, bytes, config))
}

/// A document by its descriptor: size and digest are what it says.
fn fetch(container: &Container, descriptor: &Descriptor, kind: &str) -> Result<Vec<u8>, LoadError> {
    let what = format!("{kind} {}", descriptor.digest);
    let expected = digest(&descriptor.digest, kind)?;
    if descriptor.size > MAX_DOCUMENT {
        return Err(LoadError::TooLarge {
            what,
            size: descriptor.size,
            limit: MAX_DOCUMENT,
        });
    }
    let name = blob_name(&expected);
    let Some((bytes, _)) = container.document(&name, &what)? else {
        return Err(missing(container, name));
    };
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

fn layer(
    container: &Arc<Container>,
    descriptor: &Descriptor,
    diff_id: Digest,
) -> Result<LayerBlob, LoadError> {
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
        name: blob_name(&digest),
        container: Arc::clone(container),
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
