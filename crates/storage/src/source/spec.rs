//! The JSON documents of an image: OCI image-spec 1.1 (image-index.md, manifest.md, config.md), Docker's equivalents
//! (distribution, manifest v2 schema 2), and `manifest.json` of `docker save`. Unknown members are ignored, as the
//! specification wants it.

use std::collections::BTreeMap;
use std::time::Duration;

use model::digest::Digest;
use model::image::{ImageConfig, ImageHealthcheck};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::LoadError;

/// How deep JSON may be nested; real documents have less than ten levels.
const MAX_DEPTH: usize = 64;

/// Points to another document or a layer (descriptor.md).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: u64,
    pub platform: Option<Platform>,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
    /// Of a manifest; here they mean that somebody wants the document to be both.
    pub config: Option<IgnoredAny>,
    pub layers: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    /// Of an index; see [`Index::config`].
    pub manifests: Option<IgnoredAny>,
}

/// One image of `docker save`'s manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SavedImage {
    pub config: String,
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}

/// The config blob.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    pub rootfs: RootFs,
    config: Option<Execution>,
}

#[derive(Debug, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    healthcheck: Option<Healthcheck>,
}

/// Docker's extension (moby, api/types/container/config.go); durations in nanoseconds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Healthcheck {
    test: Option<Vec<String>>,
    #[serde(default)]
    interval: i64,
    #[serde(default)]
    timeout: i64,
    #[serde(default)]
    start_period: i64,
    #[serde(default)]
    start_interval: i64,
    #[serde(default)]
    retries: i64,
}

pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, LoadError> {
    if depth(bytes) > MAX_DEPTH {
        let why = format!("it is nested more than {MAX_DEPTH} levels deep");
        return Err(LoadError::refused(what, why));
    }
    serde_json::from_slice(bytes).map_err(|source| LoadError::Json {
        what: what.to_owned(),
        source,
    })
}

/// The deepest level of brackets outside of strings.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

pub fn digest(text: &str, what: &str) -> Result<Digest, LoadError> {
    text.parse().map_err(|source| LoadError::BadDigest {
        what: what.to_owned(),
        source,
    })
}

impl Config {
    /// The layers' plain digests, one for each of `layers`; refuses what Linux cannot run.
    pub fn diff_ids(&self, layers: usize) -> Result<Vec<Digest>, LoadError> {
        if !self.os.is_empty() && self.os != "linux" {
            return Err(LoadError::Platform {
                wanted: "linux".to_owned(),
                available: self.os.clone(),
            });
        }
        if self.rootfs.kind != "layers" {
            let why = format!("rootfs.type is {:?}, only \"layers\" is known", self.rootfs.kind);
            return Err(LoadError::refused("config", why));
        }
        let listed = self.rootfs.diff_ids.as_deref().unwrap_or_default();
        if listed.len() != layers {
            let why = format!("it lists {} layers, the manifest {layers}", listed.len());
            return Err(LoadError::refused("config", why));
        }
        listed
            .iter()
            .map(|text| digest(text, "config, rootfs.diff_ids"))
            .collect()
    }

    /// What it says about running the image.
    pub fn execution(self) -> ImageConfig {
        let it = self.config.unwrap_or_default();
        let set = |text: Option<String>| text.filter(|text| !text.is_empty());
        ImageConfig {
            user: set(it.user),
            env: it.env.unwrap_or_default(),
            entrypoint: it.entrypoint.unwrap_or_default(),
            cmd: it.cmd.unwrap_or_default(),
            working_dir: set(it.working_dir),
            exposed_ports: it.exposed_ports.unwrap_or_default().into_keys().collect(),
            volumes: it.volumes.unwrap_or_default().into_keys().collect(),
            labels: it.labels.unwrap_or_default(),
            stop_signal: set(it.stop_signal),
            healthcheck: it.healthcheck.and_then(Healthcheck::model),
        }
    }
}

impl Healthcheck {
    /// None where it inherits everything, which in an image means that there is none.
    fn model(self) -> Option<ImageHealthcheck> {
        let test = self.test.filter(|test| !test.is_empty())?;
        let time = |nanoseconds: i64| Duration::from_nanos(nanoseconds.try_into().unwrap_or(0));
        Some(ImageHealthcheck {
            test,
            interval: time(self.interval),
            timeout: time(self.timeout),
            start_period: time(self.start_period),
            start_interval: time(self.start_interval),
            retries: self.retries.clamp(0, u32::MAX.into()) as u32,
        })
    }
}
