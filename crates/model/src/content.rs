//! Contents: files of containers (configs, secrets) and environment files, which count as much as what a table says.
//!
//! Bytes are in none of these types: they go from their source to the run dir, and nowhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::shared::Shared;
pub use crate::spec::OnChange;
use crate::spec::{ContainerSpec, FileSource, MountedFileSpec, Origin};

/// The largest content, in bytes: as Kubernetes has it for ConfigMaps and Secrets.
pub const LIMIT: u64 = 1 << 20;

/// Which kind of table a delivered file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentKind {
    Config,
    Secret,
}

/// A file that a container sees, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Delivered {
    pub kind: ContentKind,
    pub name: Name,
    /// Absolute path inside; `/run/secrets/NAME` for secrets.
    pub target: String,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Delivered {
    /// What it is kept and looked for under.
    pub fn key(&self) -> ContentKey {
        ContentKey::of(self.kind, self.name.clone())
    }
}

/// What has a content that is looked at. As text: `config NAME`, `secret NAME`, `env_file PATH`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ContentKey {
    Config(Name),
    Secret(Name),
    EnvFile(PathBuf),
}

/// The text is no [`ContentKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither \"config NAME\", \"secret NAME\" nor \"env_file PATH\"")]
pub struct ContentKeyError(String);

impl ContentKey {
    /// A table's.
    pub fn of(kind: ContentKind, name: Name) -> Self {
        match kind {
            ContentKind::Config => Self::Config(name),
            ContentKind::Secret => Self::Secret(name),
        }
    }

    /// Kind and name of its table; none for an environment file, which has none.
    pub fn table(&self) -> Option<(ContentKind, &Name)> {
        match self {
            Self::Config(name) => Some((ContentKind::Config, name)),
            Self::Secret(name) => Some((ContentKind::Secret, name)),
            Self::EnvFile(_) => None,
        }
    }

    /// The key of a container's table that names it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Config(_) => "configs",
            Self::Secret(_) => "secrets",
            Self::EnvFile(_) => "env_file",
        }
    }
}

impl fmt::Display for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(name) => write!(f, "config {name}"),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::EnvFile(path) => write!(f, "env_file {}", path.display()),
        }
    }
}

impl FromStr for ContentKey {
    type Err = ContentKeyError;

    fn from_str(text: &str) -> Result<Self, ContentKeyError> {
        let wrong = || ContentKeyError(text.to_owned());
        let (kind, rest) = text.split_once(' ').ok_or_else(wrong)?;
        match kind {
            "config" => rest.parse().map(Self::Config).map_err(|_| wrong()),
            "secret" => rest.parse().map(Self::Secret).map_err(|_| wrong()),
            "env_file" => Ok(Self::EnvFile(PathBuf::from(rest))),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for ContentKey {
    type Error = ContentKeyError;

    fn try_from(text: String) -> Result<Self, ContentKeyError> {
        text.parse()
    }
}

impl From<ContentKey> for String {
    fn from(key: ContentKey) -> Self {
        key.to_string()
    }
}

/// Everything of a container that has a content of its own: what it names in `configs`, `secrets` and `env_file`.
pub fn keys_of(spec: &ContainerSpec) -> impl Iterator<Item = ContentKey> + '_ {
    let configs = spec.configs.iter().cloned().map(ContentKey::Config);
    let secrets = spec.secrets.iter().cloned().map(ContentKey::Secret);
    let env = spec.env_file.iter().cloned().map(ContentKey::EnvFile);
    configs.chain(secrets).chain(env)
}

impl MountedFileSpec {
    /// The file a container sees of it.
    pub fn delivered(&self, kind: ContentKind, name: &Name) -> Delivered {
        let target = match kind {
            ContentKind::Secret => format!("/run/secrets/{name}"),
            ContentKind::Config => self.target.clone().unwrap_or_else(|| format!("/{name}")),
        };
        Delivered {
            kind,
            name: name.clone(),
            target,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
        }
    }
}

/// A `[config.NAME]` or `[secret.NAME]` as last accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentEntry {
    pub spec: Shared<MountedFileSpec>,
    pub origin: Shared<Origin>,
}

/// What a container has of something: a content by its fingerprint, and the file it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentState {
    /// Equal for equal bytes. Of a secret it says nothing without a key that lasts until the next boot, whose own
    /// fingerprint it begins with: `KEY:HASH`.
    pub fingerprint: String,
    /// None for an environment file, which is read once and in no place inside.
    pub file: Option<Delivered>,
}

/// Whether two fingerprints are of different bytes; those made with different keys cannot be compared, and are not.
pub fn differ(a: &str, b: &str) -> bool {
    let key = |text: &str| text.split_once(':').map(|(key, _)| key.to_owned());
    a != b && key(a) == key(b)
}

/// What a container's files hold, noted beside them in the run dir.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentRecord {
    pub files: BTreeMap<ContentKey, ContentState>,
    /// Lines of `/etc/hosts` that lead to the containers it is linked to.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Runs up to the one of this number are to be ended for it: they began before all of it was there.
    #[serde(default)]
    pub outdated_run: Option<u64>,
}

/// What follows once changed files are in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "then")]
pub enum Then {
    /// The program sees the new files, and is not told.
    Nothing,
    /// These signals to its main process, by names with SIG.
    Signal { signals: Vec<String> },
    /// The run is ended, and another one of the same container begun.
    Restart {
        signal: String,
        grace: std::time::Duration,
    },
}

/// Where the bytes of everything looked at come from.
pub type Sources = BTreeMap<ContentKey, FileSource>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_text() {
        for text in ["config a.conf", "secret tls_key", "env_file /etc/default/a b"] {
            assert_eq!(text.parse::<ContentKey>().unwrap().to_string(), text);
        }
        for text in ["config", "config A", "file /x", ""] {
            assert!(text.parse::<ContentKey>().is_err(), "{text}");
        }
    }
}
