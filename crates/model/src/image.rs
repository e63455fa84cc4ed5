//! Images as the store hands them out and as a container uses them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where an image comes from. Its [`key`](ImageSource::key) is the noun it is planned under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum ImageSource {
    /// A registry reference, normalised by docker.io's rules: `docker.io/library/nginx:1.27`.
    Registry { reference: String },
    /// `oci:DIR[:REF]`, an OCI image layout.
    Oci { dir: PathBuf, reference: Option<String> },
    /// `oci-archive:FILE[:REF]`, the same in a tar file.
    OciArchive {
        file: PathBuf,
        reference: Option<String>,
    },
    /// `docker-archive:FILE[:REF]`, what `docker save` writes.
    DockerArchive {
        file: PathBuf,
        reference: Option<String>,
    },
    /// The key `rootfs`: a directory used as the read-only lower layer.
    Rootfs { dir: PathBuf },
}

impl ImageSource {
    /// The text form, as users write it; one key, one image.
    pub fn key(&self) -> String {
        let with = |kind: &str, path: &PathBuf, reference: &Option<String>| match reference {
            Some(r) => format!("{kind}:{}:{r}", path.display()),
            None => format!("{kind}:{}", path.display()),
        };
        match self {
            Self::Registry { reference } => reference.clone(),
            Self::Oci { dir, reference } => with("oci", dir, reference),
            Self::OciArchive { file, reference } => with("oci-archive", file, reference),
            Self::DockerArchive { file, reference } => with("docker-archive", file, reference),
            Self::Rootfs { dir } => format!("rootfs:{}", dir.display()),
        }
    }
}

/// A registry reference as Docker shows it: without what it adds by itself.
pub fn familiar(reference: &str) -> &str {
    match reference.strip_prefix("docker.io/") {
        Some(rest) => rest.strip_prefix("library/").unwrap_or(rest),
        None => reference,
    }
}

/// An image that is in the store whole: every layer unpacked, every digest checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// [`ImageSource::key`] it was asked for by.
    pub key: String,
    /// Digest of the config blob (Docker's image id); none for a rootfs.
    pub id: Option<Digest>,
    /// Digest of the manifest; none for a rootfs and for archives without one.
    pub digest: Option<Digest>,
    /// Bytes of the unpacked layers' blobs, compressed as they came.
    pub size: u64,
    /// Absolute directories, bottom first, as overlayfs lower layers.
    pub layers: Vec<PathBuf>,
    pub config: ImageConfig,
}

/// What an image says about running it (OCI image-spec, config.md). Absent lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub user: Option<String>,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: Option<String>,
    /// `80/tcp` forms, as declared by EXPOSE.
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub healthcheck: Option<ImageHealthcheck>,
}

/// Docker's HEALTHCHECK in an image config; zero durations mean "default".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageHealthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}
