//! Who we are to a registry: from the settings, else from the files of docker and podman (docker/cli, config file format;
//! containers-auth.json(5)) and the helpers that they name.

mod helper;
pub mod keep;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::spec::RegistrySettings;
use serde::Deserialize;

use super::endpoint::DOCKER_IO;
use super::error::RegistryError;

/// Most bytes a password file or docker's configuration may have.
const MAX_FILE: u64 = 1 << 20;

/// What is shown to a registry or its token service.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// A refresh token, exchanged for short-lived ones.
    Identity(String),
}

/// Nothing secret gets into a log by accident.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// The value of an `Authorization` header (RFC 7617). None where a token service is needed.
    pub fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Identity(_) => None,
        }
    }
}

/// What somebody says to be at one registry: it counts before all that is written down.
#[derive(Clone, Debug)]
pub struct Login {
    registry: String,
    credentials: Credentials,
}

impl Login {
    /// By name and password. `registry` is `HOST[:PORT]`, or a URL as docker's clients write it.
    pub fn password(registry: &str, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (user, password) = (user.into(), password.into());
        Self {
            registry: host(registry),
            credentials: Credentials::Password { user, password },
        }
    }

    /// By a refresh token.
    pub fn identity(registry: &str, token: impl Into<String>) -> Self {
        Self {
            registry: host(registry),
            credentials: Credentials::Identity(token.into()),
        }
    }

    /// `HOST[:PORT]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub(super) fn is_for(&self, registry: &str) -> bool {
        self.registry == host(registry)
    }

    pub(super) fn known(&self) -> Known {
        Known {
            credentials: Some(self.credentials.clone()),
            note: None,
        }
    }
}

/// What was found, and what a user should know when that is not enough.
#[derive(Default)]
pub struct Known {
    pub credentials: Option<Credentials>,
    pub note: Option<String>,
}

/// Looks for the repository (`HOST[:PORT]/PATH`) in its registry's settings, then in the files in their order; all are read
/// now, so a new login counts at once.
pub fn find(
    registry: &str,
    repository: &str,
    settings: Option<&RegistrySettings>,
    files: &[PathBuf],
) -> Result<Known, RegistryError> {
    if let Some((user, path)) = settings.and_then(|s| s.username.as_ref().zip(s.password_file.as_ref())) {
        let read = super::read_limited(path, MAX_FILE).map_err(|source| RegistryError::Password {
            registry: registry.to_owned(),
            path: path.clone(),
            source,
        })?;
        let credentials = Credentials::Password {
            user: user.clone(),
            password: read.trim_end_matches(['\n', '\r']).to_owned(),
        };
        return Ok(Known {
            credentials: Some(credentials),
            note: None,
        });
    }
    let mut notes = Vec::new();
    for path in files {
        let known = from_file(registry, repository, path);
        if known.credentials.is_some() {
            return Ok(known);
        }
        notes.extend(known.note);
    }
    Ok(Known {
        credentials: None,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// A file that is broken keeps nobody from pulling what is public, so it is only a note.
fn from_file(registry: &str, repository: &str, path: &Path) -> Known {
    let note = |note: String| Known {
        credentials: None,
        note: Some(note),
    };
    let text = match super::read_limited(path, MAX_FILE) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Known::default();
        }
        Err(e) => return note(format!("{} cannot be read: {e}", path.display())),
    };
    let config: File = match serde_json::from_str(&text) {
        Ok(config) => config,
        // What serde says of it may quote it.
        Err(e) => {
            let at = format!("line {}, column {}", e.line(), e.column());
            return note(format!("{} is no JSON as it should be: {at}", path.display()));
        }
    };
    let wanted = host(registry);
    let mut helpers = config.cred_helpers.iter();
    let own = helpers.find(|(key, _)| host(key) == wanted).map(|(_, name)| name);
    let written = || in_file(&config, &wanted, repository);
    let Some(helper) = own.or_else(|| config.creds_store.as_ref().filter(|_| written().is_none())) else {
        return Known {
            credentials: written(),
            note: None,
        };
    };
    match helper::ask(helper, &server(&wanted)) {
        Ok(credentials) => Known {
            credentials: credentials.or_else(written),
            note: None,
        },
        Err(why) => note(format!("{} leaves it to a helper: {why}", path.display())),
    }
}

/// What the file itself holds: of keys with a path (containers-auth.json(5)) the longest that the repository is below.
fn in_file(config: &File, wanted: &str, repository: &str) -> Option<Credentials> {
    let length = |key: &String| match key.contains("://") {
        // A URL of older days, with a path that says nothing.
        true => (host(key) == wanted).then_some(0),
        false => {
            let path = key
                .split_once('/')
                .map_or("", |(_, path)| path)
                .trim_end_matches('/');
            let own = repository.split_once('/').map_or("", |(_, path)| path);
            let rest = own.strip_prefix(path);
            let below = path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (host(key) == wanted && below).then_some(path.len())
        }
    };
    let mut found: Vec<_> = config
        .auths
        .iter()
        .filter_map(|(key, entry)| Some((length(key)?, understood(entry)?)))
        .collect();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().next().map(|(_, credentials)| credentials)
}

/// What helpers know a registry by: Docker's own by a URL.
fn server(registry: &str) -> String {
    match registry {
        DOCKER_IO => "https://index.docker.io/v1/".to_owned(),
        other => other.to_owned(),
    }
}

fn understood(entry: &Entry) -> Option<Credentials> {
    if let Some(token) = entry.identitytoken.clone().filter(|token| !token.is_empty()) {
        return Some(Credentials::Identity(token));
    }
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let (Some(user), Some(password)) = (filled(&entry.username), filled(&entry.password)) {
        return Some(Credentials::Password { user, password });
    }
    let decoded = STANDARD.decode(entry.auth.as_ref()?.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Credentials::Password {
        user: user.to_owned(),
        // Old clients padded it.
        password: password.trim_end_matches('\0').to_owned(),
    })
}

/// A key of `auths` is a host, or a URL of older days; Docker's own registry has several names.
fn host(key: &str) -> String {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_IO.to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    #[test]
    fn docker_s_file_in_all_its_spellings() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let auth = |text: &str| STANDARD.encode(text);
        let text = serde_json::json!({
            "auths": {
                "https://index.docker.io/v1/": { "auth": auth("hub:a:b") },
                "localhost:5000": { "auth": auth("u:p\0\0") },
                "https://r.io/v2/": { "username": "x", "password": "y" },
                "token.io": { "auth": auth("u:"), "identitytoken": "T" },
                "helped.io": {},
                "odd.io": { "auth": "%%%" },
            },
            "credsStore": "desktop-that-is-not-there",
        });
        std::fs::write(&path, text.to_string()).unwrap();
        let files = [path.clone()];
        let known = |registry: &str| find(registry, &format!("{registry}/a/b"), None, &files).unwrap();
        assert!(known("docker.io").credentials == password("hub", "a:b"));
        assert!(known("localhost:5000").credentials == password("u", "p"));
        assert!(known("r.io").credentials == password("x", "y"));
        assert!(known("token.io").credentials == Some(Credentials::Identity("T".to_owned())));
        for registry in ["helped.io", "odd.io", "localhost:5001", "r.io:443"] {
            let known = known(registry);
            assert!(known.credentials.is_none(), "{registry}");
            let note = known.note.unwrap();
            assert!(
                note.contains("docker-credential-desktop-that-is-not-there: No such file"),
                "{note}"
            );
        }
        std::fs::write(&path, "{").unwrap();
        assert!(
            known("docker.io")
                .note
                .unwrap()
                .contains("config.json is no JSON as it should be: line 1, column 1")
        );
        std::fs::remove_file(&path).unwrap();
        assert!(known("docker.io").note.is_none());
    }

    #[test]
    fn settings_come_first_and_their_file_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "secret word\r\n").unwrap();
        let mut settings = RegistrySettings {
            username: Some("me".to_owned()),
            password_file: Some(file.clone()),
            ..Default::default()
        };
        let known = find("r.io", "r.io/x", Some(&settings), &[]).unwrap();
        assert!(known.credentials == password("me", "secret word"));
        assert_eq!(format!("{:?}", known.credentials), "Some(Credentials(…))");
        std::fs::remove_file(&file).unwrap();
        let error = find("r.io", "r.io/x", Some(&settings), &[])
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("password file") && error.contains("r.io"),
            "{error}"
        );
        settings.username = None;
        assert!(
            find("r.io", "r.io/x", Some(&settings), &[])
                .unwrap()
                .credentials
                .is_none()
        );
    }

    /// The example of the man page, and files that come one after the other.
    #[test]
    fn keys_with_paths_and_several_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: serde_json::Value| {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
            dir.path().join(name)
        };
        let auth = |user: &str| serde_json::json!({ "auth": STANDARD.encode(format!("{user}:p")) });
        let first = write(
            "auth.json",
            serde_json::json!({ "auths": {
                "my.io/ns/user/image": auth("image"),
                "my.io/ns/user": auth("user"),
                "my.io/ns": auth("ns"),
                "my.io": auth("all"),
            }}),
        );
        let broken = write("broken.json", serde_json::json!([]));
        let second = write(
            "config.json",
            serde_json::json!({ "auths": { "my.io": auth("late"), "other.io": auth("other") } }),
        );
        let files = [first, broken, second];
        for (repository, user) in [
            ("my.io/ns/user/image", "image"),
            ("my.io/ns/user/images", "user"),
            ("my.io/ns/use", "ns"),
            ("my.io/x", "all"),
            ("other.io/x/y", "other"),
        ] {
            let registry = repository.split('/').next().unwrap();
            let known = find(registry, repository, None, &files).unwrap();
            assert!(known.credentials == password(user, "p"), "{repository}");
        }
        let none = find("none.io", "none.io/x", None, &files).unwrap();
        assert!(none.credentials.is_none() && none.note.unwrap().contains("broken.json"));
    }
}
