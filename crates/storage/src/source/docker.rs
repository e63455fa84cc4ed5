//! Archives of `docker save` (moby image-spec v1.2, "Combined Image JSON + Filesystem Changeset Format"), which podman,
//! buildah and skopeo write too. They carry no compressed digests: layers are held to the config's diff_ids, and the
//! config to its own file name where that is a digest.

use std::sync::Arc;

use model::digest::Digest;

use super::container::Container;
use super::spec::{Config, SavedImage, parse};
use super::{Found, LayerBlob, MAX_LAYERS, Origin, StreamedImage, listed, oci};
use crate::error::LoadError;
use crate::hash;

pub const MANIFEST: &str = "manifest.json";

pub fn find(container: Container, reference: Option<&str>) -> Result<Found, LoadError> {
    let Some((bytes, stamp)) = container.document(MANIFEST, MANIFEST)? else {
        return Err(LoadError::NotInside {
            container: container.path().to_owned(),
            name: MANIFEST.to_owned(),
            wanted: "an archive written by `docker save`",
        });
    };
    let images: Vec<SavedImage> = parse(&bytes, MANIFEST)?;
    let image = choose(&images, reference)?;
    let found = assemble(&Arc::new(container), image)?;
    Ok(Found { stamp, ..found })
}

/// All images of an archive.
pub fn all(container: &Arc<Container>) -> Result<Vec<StreamedImage>, LoadError> {
    let Some((bytes, _)) = container.document(MANIFEST, MANIFEST)? else {
        return Ok(Vec::new());
    };
    let images: Vec<SavedImage> = parse(&bytes, MANIFEST)?;
    let images = images.into_iter().map(|image| {
        Ok(StreamedImage {
            found: assemble(container, &image)?,
            names: image.repo_tags.unwrap_or_default(),
        })
    });
    images.collect()
}

/// The image: its config read, its layers named.
fn assemble(container: &Arc<Container>, image: &SavedImage) -> Result<Found, LoadError> {
    if image.layers.len() > MAX_LAYERS {
        let why = format!("it has {} layers, more than {MAX_LAYERS}", image.layers.len());
        return Err(LoadError::refused(MANIFEST, why));
    }
    let (id, bytes) = read_config(container, &image.config)?;
    let config: Config = parse(&bytes, "config")?;
    let diff_ids = config.diff_ids(image.layers.len())?;
    let layers = image.layers.iter().zip(diff_ids);
    let layers = layers
        .map(|(name, diff_id)| layer(container, name, diff_id))
        .collect::<Result<_, _>>()?;
    Ok(Found {
        stamp: None,
        id,
        digest: None,
        top: None,
        config: config.execution(),
        documents: vec![(id, bytes)],
        layers,
    })
}

fn choose<'a>(images: &'a [SavedImage], reference: Option<&str>) -> Result<&'a SavedImage, LoadError> {
    let tags = || images.iter().flat_map(|image| image.repo_tags.iter().flatten());
    let available = || listed(tags().cloned());
    let Some(reference) = reference else {
        return match images {
            [one] => Ok(one),
            [] => Err(LoadError::refused(MANIFEST, "it lists no images")),
            _ => Err(LoadError::Ambiguous {
                available: available(),
            }),
        };
    };
    let wanted = whole(reference);
    let is_meant = |image: &&SavedImage| image.repo_tags.iter().flatten().any(|tag| whole(tag) == wanted);
    images.iter().find(is_meant).ok_or_else(|| LoadError::Reference {
        reference: reference.to_owned(),
        available: available(),
    })
}

/// A tag with what Docker lets one leave out: the registry, `library/`, `:latest`.
fn whole(tag: &str) -> String {
    let (domain, path) = match tag.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", tag.to_owned()),
        None => ("docker.io", format!("library/{tag}")),
    };
    let suffix = if path.contains([':', '@']) { "" } else { ":latest" };
    format!("{domain}/{path}{suffix}")
}

fn read_config(container: &Container, name: &str) -> Result<(Digest, Vec<u8>), LoadError> {
    let what = format!("config {name}");
    let Some((bytes, _)) = container.document(name, &what)? else {
        return Err(oci::missing(container, name.to_owned()));
    };
    let actual = hash::of(&bytes);
    match digest_in(name) {
        Some(expected) if expected != actual => Err(LoadError::Digest {
            what,
            expected,
            actual,
        }),
        _ => Ok((actual, bytes)),
    }
}

/// The digest that a file name states: `HEX.json` or `blobs/sha256/HEX`.
fn digest_in(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next()?;
    let hex = last
        .strip_suffix(".json")
        .or(last.strip_suffix(".tar"))
        .unwrap_or(last);
    format!("sha256:{hex}").parse().ok()
}

fn layer(container: &Arc<Container>, name: &str, diff_id: Digest) -> Result<LayerBlob, LoadError> {
    let Some(size) = container.layer_size(name)? else {
        return Err(oci::missing(container, name.to_owned()));
    };
    Ok(LayerBlob {
        diff_id,
        digest: None,
        size,
        origin: Origin::Container(Arc::clone(container), name.to_owned()),
    })
}
