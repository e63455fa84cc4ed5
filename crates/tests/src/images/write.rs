//! Putting an image on disk: OCI layout (image-spec, image-layout.md), its archive, and docker's archive.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::builder::{ImageBuilder, Parts};

/// Bytes with a type, known by their digest.
#[derive(Clone, Debug)]
pub struct Blob {
    pub media_type: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Of bytes.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            bytes,
        }
    }

    /// Of a document.
    pub fn json(media_type: &str, value: &Value) -> Self {
        Self::new(media_type, serde_json::to_vec(value).unwrap())
    }

    /// Its digest, without the algorithm.
    pub fn hex(&self) -> String {
        sha256(&self.bytes)
    }

    /// What points at it.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": format!("sha256:{}", self.hex()), "size": self.bytes.len() })
    }
}

/// Hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl ImageBuilder {
    /// An OCI layout directory with one image, tagged `latest`; its parts.
    pub fn oci_dir(&self, dir: &Path) -> Parts {
        let parts = self.parts();
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (name, bytes) in oci_files(&parts) {
            fs::write(dir.join(name), bytes).unwrap();
        }
        parts
    }

    /// The same as one archive.
    pub fn oci_archive(&self, file: &Path) -> Parts {
        let parts = self.parts();
        archive(file, oci_files(&parts));
        parts
    }

    /// What `docker save` writes: `manifest.json`, a config and plain layers.
    pub fn docker_archive(&self, file: &Path, tag: &str) -> Parts {
        let parts = self.parts();
        let config = format!("{}.json", parts.config.hex());
        let layers: Vec<String> = parts
            .tars
            .iter()
            .map(|tar| format!("{}/layer.tar", sha256(tar)))
            .collect();
        let manifest = json!([{ "Config": config, "RepoTags": [tag], "Layers": layers }]);
        let mut files = vec![(config.clone(), parts.config.bytes.clone())];
        files.extend(layers.into_iter().zip(parts.tars.iter().cloned()));
        files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()));
        archive(file, files);
        parts
    }
}

fn oci_files(parts: &Parts) -> Vec<(String, Vec<u8>)> {
    let mut entry = parts.manifest.descriptor();
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    let blobs = parts.layers.iter().chain([&parts.config, &parts.manifest]);
    let mut files: Vec<_> = blobs
        .map(|b| (format!("blobs/sha256/{}", b.hex()), b.bytes.clone()))
        .collect();
    files.push((
        "oci-layout".to_owned(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    ));
    files.push(("index.json".to_owned(), serde_json::to_vec(&index).unwrap()));
    files
}

fn archive(file: &Path, files: Vec<(String, Vec<u8>)>) {
    let mut tar = tar::Builder::new(fs::File::create(file).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.finish().unwrap();
}
