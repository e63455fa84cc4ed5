//! Images from registries: OCI distribution-spec 1.1 and Docker's registry API v2, pulling only.
//!
//! Top-down: [`find`] gets manifest and config; `download` a layer as it is unpacked; both ask through `session`, which
//! knows where the registry is (`endpoint`), shows who we are (`auth`, `challenge`, `credentials`), follows redirects
//! and has patience; `wire` and `tls` are the connections. Nothing a server says is believed before its digest holds.

mod auth;
mod challenge;
mod credentials;
mod download;
mod endpoint;
mod error;
mod find;
mod reference;
mod session;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use model::digest::Digest;
use model::spec::{RegistrySettings, Settings};

pub use download::Download;
pub use error::RegistryError;
pub use find::find;
pub use reference::Reference;
pub use session::Session;
pub use tls::system_authorities;

/// How registries are reached: the `[registry]` tables and `registries.search` of the settings, and docker's file.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    registries: BTreeMap<String, RegistrySettings>,
    search: Vec<String>,
    /// `~/.docker/config.json`, read at every pull.
    docker_config: Option<PathBuf>,
    patience: Patience,
}

impl RegistryConfig {
    /// From the settings; `docker_config` need not exist.
    pub fn new(settings: &Settings, docker_config: Option<PathBuf>) -> Self {
        let lower = |(name, table): (&String, &RegistrySettings)| (name.to_ascii_lowercase(), table.clone());
        Self {
            registries: settings.registries.iter().map(lower).collect(),
            search: settings.search.clone(),
            docker_config,
            patience: Patience::default(),
        }
    }

    /// The same with another patience than the default.
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Where the docker client of this user keeps its logins: `$DOCKER_CONFIG/config.json`, else below `$HOME`.
    pub fn docker_config_path() -> Option<PathBuf> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let dir = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
        dir.map(|dir| dir.join("config.json"))
    }

    fn settings(&self, registry: &str) -> Option<&RegistrySettings> {
        self.registries.get(registry)
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self::new(&Settings::default(), None)
    }
}

/// How long and how often something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A server that sends (next to) nothing for this long is given up, and asked again.
    pub stall: Duration,
    /// Tries of one request, and of a layer that makes no progress.
    pub tries: u32,
    /// The pause after the first failed try, doubling up to `backoff_max`.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// The longest `Retry-After` that is waited for.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            tries: 6,
            backoff: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
            longest_wait: Duration::from_secs(60),
        }
    }
}

/// How far the transfer of one layer is. A layer that is there already is told as done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Of the layer's blob.
    pub layer: Digest,
    /// Bytes, compressed as they come.
    pub done: u64,
    pub total: u64,
}

/// Whom to tell about progress; called from several threads.
pub type Report<'a> = Option<&'a (dyn Fn(Progress) + Sync)>;
