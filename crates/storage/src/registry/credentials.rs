//! Who we are to a registry: from the settings, else from docker's `config.json` (docker/cli, config file format).

use std::collections::BTreeMap;
use std::path::Path;

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

/// What was found, and what a user should know when that is not enough.
#[derive(Default)]
pub struct Known {
    pub credentials: Option<Credentials>,
    pub note: Option<String>,
}

/// Looks for the registry in the settings, then in docker's file; both are read now, so a new login counts at once.
pub fn find(
    registry: &str,
    settings: Option<&RegistrySettings>,
    docker: Option<&Path>,
) -> Result<Known, RegistryError> {
    if let Some((user, path)) = settings.and_then(|s| s.username.as_ref().zip(s.password_file.as_ref())) {
        let read = read(path).map_err(|source| RegistryError::Password {
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
    Ok(docker.map_or_else(Known::default, |path| from_docker(registry, path)))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
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
fn from_docker(registry: &str, path: &Path) -> Known {
    let note = |note: String| Known {
        credentials: None,
        note: Some(note),
    };
    let text = match read(path) {
        Ok(text) => text,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Known::default();
        }
        Err(e) => return note(format!("{} cannot be read: {e}", path.display())),
    };
    let config: DockerConfig = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(e) => return note(format!("{} cannot be read: {e}", path.display())),
    };
    let wanted = host(registry);
    let mut entries = config.auths.iter().filter(|(key, _)| host(key) == wanted);
    if let Some(credentials) = entries.find_map(|(_, entry)| understood(entry)) {
        return Known {
            credentials: Some(credentials),
            note: None,
        };
    }
    let helper = config.cred_helpers.iter().find(|(key, _)| host(key) == wanted);
    match helper.map(|(_, name)| name).or(config.creds_store.as_ref()) {
        Some(helper) => note(format!(
            "{} leaves its credentials to the helper {helper:?}, and helpers are not supported yet",
            path.display()
        )),
        None => Known::default(),
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

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
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
            "credsStore": "desktop",
        });
        std::fs::write(&path, text.to_string()).unwrap();
        let known = |registry: &str| find(registry, None, Some(&path)).unwrap();
        assert!(known("docker.io").credentials == password("hub", "a:b"));
        assert!(known("localhost:5000").credentials == password("u", "p"));
        assert!(known("r.io").credentials == password("x", "y"));
        assert!(known("token.io").credentials == Some(Credentials::Identity("T".to_owned())));
        for registry in ["helped.io", "odd.io", "localhost:5001", "r.io:443"] {
            let known = known(registry);
            assert!(known.credentials.is_none(), "{registry}");
            assert!(known.note.unwrap().contains("\"desktop\""), "{registry}");
        }
        std::fs::write(&path, "{").unwrap();
        assert!(
            known("docker.io")
                .note
                .unwrap()
                .contains("config.json cannot be read")
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
        let known = find("r.io", Some(&settings), None).unwrap();
        assert!(known.credentials == password("me", "secret word"));
        assert_eq!(format!("{:?}", known.credentials), "Some(Credentials(…))");
        std::fs::remove_file(&file).unwrap();
        let error = find("r.io", Some(&settings), None).err().unwrap().to_string();
        assert!(
            error.contains("password file") && error.contains("r.io"),
            "{error}"
        );
        settings.username = None;
        assert!(find("r.io", Some(&settings), None).unwrap().credentials.is_none());
    }
}
