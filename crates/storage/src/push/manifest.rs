//! The manifest that is pushed: the one that the image came with where every layer is there as it names it, else one
//! made of it (OCI image-spec, manifest.md).

use std::collections::BTreeMap;

use model::digest::Digest;
use serde_json::{Value, json};

use super::layers::Shipped;
use super::listed;
use crate::describe::{Blob, Described, Document};
use crate::error::LoadError;
use crate::source::oci::MANIFEST_TYPES;
use crate::source::spec::parse;

/// Its bytes and what they are.
pub fn of(
    described: &Described,
    shipped: &BTreeMap<Digest, Shipped>,
) -> Result<(Vec<u8>, String), LoadError> {
    let blobs: Vec<&Blob> = described
        .layers
        .iter()
        .map(|layer| &shipped[&layer.diff_id].blob)
        .collect();
    if let Some(own) = &described.manifest
        && is_of(own, &blobs)?
    {
        return Ok((own.bytes.clone(), media_type(own)?));
    }
    let layers: Vec<Value> = blobs.into_iter().map(descriptor).collect();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": described.config.digest.to_string(),
            "size": described.config.bytes.len(),
        },
        "layers": layers,
    });
    if let Some(own) = &described.manifest {
        let own: Value = parse(&own.bytes, "manifest")?;
        if let Some(annotations) = own.get("annotations") {
            manifest["annotations"] = annotations.clone();
        }
    }
    Ok((manifest.to_string().into_bytes(), MANIFEST_TYPES[0].to_owned()))
}

/// Whether it names just these blobs.
fn is_of(own: &Document, blobs: &[&Blob]) -> Result<bool, LoadError> {
    let listed = listed(&own.bytes)?;
    let same =
        |(layer, blob): (&crate::source::spec::Descriptor, &&Blob)| layer.digest == blob.digest.to_string();
    Ok(listed.len() == blobs.len() && listed.iter().zip(blobs).all(same))
}

/// By its own word. One without is OCI's: Docker's always have it.
fn media_type(own: &Document) -> Result<String, LoadError> {
    let own: Value = parse(&own.bytes, "manifest")?;
    let said = own.get("mediaType").and_then(Value::as_str);
    Ok(said.unwrap_or(MANIFEST_TYPES[0]).to_owned())
}

fn descriptor(blob: &Blob) -> Value {
    json!({ "mediaType": oci(&blob.media_type), "digest": blob.digest.to_string(), "size": blob.size })
}

/// What OCI calls the same thing: a manifest speaks one language.
fn oci(media_type: &str) -> String {
    let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar");
    match docker.map(|kind| kind.trim_start_matches('.')) {
        Some("") => "application/vnd.oci.image.layer.v1.tar".to_owned(),
        Some(kind) => format!("application/vnd.oci.image.layer.v1.tar+{kind}"),
        None => media_type.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::oci;

    #[test]
    fn docker_s_types_in_oci_s_words() {
        let plain = "application/vnd.oci.image.layer.v1.tar";
        for (docker, expected) in [
            ("application/vnd.docker.image.rootfs.diff.tar", plain.to_owned()),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                format!("{plain}+gzip"),
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                format!("{plain}+zstd"),
            ),
            (&format!("{plain}+zstd"), format!("{plain}+zstd")),
        ] {
            assert_eq!(oci(docker), expected);
        }
    }
}
