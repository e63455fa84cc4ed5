//! Images from registries and into them: OCI distribution-spec 1.1 and Docker's registry API v2.
//!
//! Top-down: [`find`] gets manifest and config from where `routes` and `conf` say that a name leads; `download` a layer as
//! it is unpacked; `push` decides what a registry is still to be given, and `upload` gives it; `login` and `search` are what
//! their names say. All `ask` through `session`, which knows where the registry is (`endpoint`), shows who we are (`auth`,
//! `challenge`, `credentials`), follows redirects and has patience; `wire`, `body` and `tls` are the connections. Nothing a
//! server says is believed before its digest holds.

mod ask;
mod auth;
mod body;
mod challenge;
mod conf;
mod credentials;
mod download;
mod endpoint;
mod error;
mod find;
mod login;
mod proxy;
mod reference;
mod routes;
mod search;
mod session;
mod tls;
mod upload;
mod wire;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::digest::Digest;
use model::spec::{RegistrySettings, Settings};

pub use ask::Aim;
pub use body::Source as Bytes;
pub use credentials::Login;
pub use download::Download;
pub use error::RegistryError;
pub use find::find;
pub use login::LoggedIn;
pub use proxy::Proxies;
pub use reference::Reference;
pub use routes::{Route, push_route};
pub use search::{Hit, MOST_HITS};
pub use session::Session;
pub use tls::system_authorities;
pub use upload::{Begun, Blob, Mount};

/// How registries are reached: the `[registry]` tables and `registries.search` of the settings, and other engines' files.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    registries: BTreeMap<String, RegistrySettings>,
    search: Vec<String>,
    files: RegistryFiles,
    proxies: Proxies,
    patience: Patience,
    /// Said for this one time.
    login: Option<Login>,
}

/// Files of docker and podman that count here too. None of them need exist; all are read at every pull.
#[derive(Clone, Debug, Default)]
pub struct RegistryFiles {
    /// Logins, first the ones that go before: docker's `config.json`, containers-auth.json(5).
    pub logins: Vec<PathBuf>,
    /// containers-registries.conf(5); further ones are in the directory of this name with `.d` behind it.
    pub conf: Option<PathBuf>,
    /// Directories with one `HOST[:PORT]` for each registry that has authorities and certificates of its own:
    /// containers-certs.d(5).
    pub certificates: Vec<PathBuf>,
    /// Where our own logins are kept; one of `logins`.
    pub own: Option<PathBuf>,
}

impl RegistryFiles {
    /// Where they are on this host for this user, whose home is `home`; `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG` and
    /// `$CONTAINERS_REGISTRIES_CONF` are honoured.
    pub fn of_this_host(home: Option<&Path>) -> Self {
        let set = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let user = rustix::process::geteuid().as_raw();
        let docker = set("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
        let everybody = PathBuf::from("/etc/containers/auth.json");
        let named = set("REGISTRY_AUTH_FILE");
        let logins = [
            named.clone(),
            Some(PathBuf::from(format!("/run/containers/{user}/auth.json"))),
            home.map(|home| home.join(".config/containers/auth.json")),
            docker.map(|dir| dir.join("config.json")),
            Some(everybody.clone()),
        ];
        let conf = set("CONTAINERS_REGISTRIES_CONF");
        Self {
            logins: logins.into_iter().flatten().collect(),
            conf: Some(conf.unwrap_or_else(|| PathBuf::from("/etc/containers/registries.conf"))),
            certificates: ["/etc/containers/certs.d", "/etc/docker/certs.d"]
                .map(PathBuf::from)
                .to_vec(),
            own: Some(named.unwrap_or(everybody)),
        }
    }
}

impl RegistryConfig {
    /// From the settings, and from these files.
    pub fn new(settings: &Settings, files: RegistryFiles) -> Self {
        let lower = |(name, table): (&String, &RegistrySettings)| (name.to_ascii_lowercase(), table.clone());
        Self {
            registries: settings.registries.iter().map(lower).collect(),
            search: settings.search.clone(),
            files,
            proxies: Proxies::default(),
            patience: Patience::default(),
            login: None,
        }
    }

    /// The same as whom this says, at its registry.
    pub fn with_login(self, login: Login) -> Self {
        Self {
            login: Some(login),
            ..self
        }
    }

    /// The same by these proxies.
    pub fn with_proxies(self, proxies: Proxies) -> Self {
        Self { proxies, ..self }
    }

    /// The same with another patience than the default.
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    fn settings(&self, registry: &str) -> Option<&RegistrySettings> {
        self.registries.get(registry)
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self::new(&Settings::default(), RegistryFiles::default())
    }
}

/// A small file of somebody else's; what is beyond `most` bytes is cut off.
fn read_limited(path: &Path, most: u64) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
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
