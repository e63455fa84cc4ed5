//! Keeping a login in the file of logins, or with the helper that the file names; and taking it out again.
//!
//! The file is containers-auth.json(5), docker's format. It is replaced whole, and what else is in it stays.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::super::error::RegistryError;
use super::{MAX_FILE, helper, host, server};

/// Only one at a time reads and writes it.
static WRITING: Mutex<()> = Mutex::new(());

/// Where a login went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the file itself, in base64: whoever may read it knows it.
    File,
    /// With this credential helper.
    Helper(String),
}

/// Keeps user and password for a registry (`HOST[:PORT]`).
pub fn keep(file: &Path, registry: &str, user: &str, password: &str) -> Result<Kept, RegistryError> {
    let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut config = read(file)?;
    let (entry, kept) = match helper_for(&config, registry) {
        Some(name) => {
            let stored = helper::store(&name, &server(registry), user, password);
            stored.map_err(|why| refused(file, &format!("it leaves logins to a helper: {why}")))?;
            (json!({}), Kept::Helper(name))
        }
        None => {
            let auth = STANDARD.encode(format!("{user}:{password}"));
            (json!({ "auth": auth }), Kept::File)
        }
    };
    let auths = auths(file, &mut config)?;
    auths.retain(|key, _| !is_of(key, registry));
    auths.insert(registry.to_owned(), entry);
    write(file, &config)?;
    Ok(kept)
}

/// Takes out what is kept for the registry. False where there was nothing.
pub fn forget(file: &Path, registry: &str) -> Result<bool, RegistryError> {
    let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut config = read(file)?;
    let mut known = false;
    if let Some(name) = helper_for(&config, registry) {
        let erased = helper::erase(&name, &server(registry));
        known = erased.map_err(|why| refused(file, &format!("it leaves logins to a helper: {why}")))?;
    }
    let auths = auths(file, &mut config)?;
    let before = auths.len();
    auths.retain(|key, _| !is_of(key, registry));
    if auths.len() < before {
        known = true;
        write(file, &config)?;
    }
    Ok(known)
}

/// Which of `files` has a login for all of the registry, before any in `file` counts.
pub fn before(file: &Path, files: &[PathBuf], registry: &str) -> Option<PathBuf> {
    let earlier = files.iter().take_while(|other| *other != file);
    let mut knowing =
        earlier.filter(|other| super::from_file(registry, registry, other).credentials.is_some());
    knowing.next().cloned()
}

/// Whether the key is of all of the registry; those with paths are somebody's own affair.
fn is_of(key: &str, registry: &str) -> bool {
    (key.contains("://") || !key.contains('/')) && host(key) == registry
}

fn helper_for(config: &Map<String, Value>, registry: &str) -> Option<String> {
    let named = config.get("credHelpers").and_then(Value::as_object);
    let own = named.and_then(|all| all.iter().find(|(key, _)| host(key) == registry));
    let name = own.map(|(_, name)| name).or_else(|| config.get("credsStore"));
    Some(name?.as_str().filter(|name| !name.is_empty())?.to_owned())
}

fn auths<'a>(
    file: &Path,
    config: &'a mut Map<String, Value>,
) -> Result<&'a mut Map<String, Value>, RegistryError> {
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    auths
        .as_object_mut()
        .ok_or_else(|| refused(file, "its \"auths\" is no object: mend it or put it away"))
}

fn read(file: &Path) -> Result<Map<String, Value>, RegistryError> {
    let text = match super::super::read_limited(file, MAX_FILE) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        Err(e) => return Err(refused(file, &format!("it cannot be read: {e}"))),
    };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    // What serde says of it may quote it.
    serde_json::from_str(&text).map_err(|e| {
        let at = format!("line {}, column {}", e.line(), e.column());
        refused(
            file,
            &format!("it is no JSON object as it should be ({at}): mend it or put it away"),
        )
    })
}

/// Whole or not at all, for its owner alone. A link stays one.
fn write(file: &Path, config: &Map<String, Value>) -> Result<(), RegistryError> {
    let failed = |e: io::Error| refused(file, &format!("it cannot be written: {e}"));
    let mut text = serde_json::to_vec_pretty(config).map_err(|e| failed(e.into()))?;
    text.push(b'\n');
    let place = match fs::canonicalize(file) {
        Ok(place) => place,
        Err(e) if e.kind() == ErrorKind::NotFound => file.to_owned(),
        Err(e) => return Err(failed(e)),
    };
    replace(&place, &text).map_err(failed)
}

fn replace(place: &Path, text: &[u8]) -> io::Result<()> {
    let dir = place.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.ok_or_else(|| io::Error::other("it is in no directory"))?;
    DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.join(format!(".{name}.{}", std::process::id()));
    // One that was left by a process that was killed.
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, place));
    if let Err(e) = written {
        // It may never have been made; the first error is the one that tells.
        drop(fs::remove_file(&aside));
        return Err(e);
    }
    File::open(dir)?.sync_all()
}

fn refused(file: &Path, why: &str) -> RegistryError {
    RegistryError::refused(file.display().to_string(), why)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::super::Credentials;
    use super::*;

    fn known(file: &Path, registry: &str) -> Option<Credentials> {
        let files = [file.to_owned()];
        super::super::find(registry, &format!("{registry}/x"), None, &files)
            .unwrap()
            .credentials
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        let (user, password) = (user.to_owned(), password.to_owned());
        Some(Credentials::Password { user, password })
    }

    #[test]
    fn a_login_is_kept_and_taken_out_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/er/auth.json");
        assert!(!forget(&file, "r.io").unwrap());
        assert!(!file.exists());
        assert_eq!(keep(&file, "r.io", "me", "a:b").unwrap(), Kept::File);
        assert!(known(&file, "r.io") == password("me", "a:b"));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut text: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        text["auths"]["https://index.docker.io/v1/"] = json!({ "auth": "eDp5" });
        text["auths"]["r.io/team"] = json!({ "auth": "dDp1" });
        text["HttpHeaders"] = json!({ "X": "y" });
        fs::write(&file, text.to_string()).unwrap();
        keep(&file, "docker.io", "new", "word").unwrap();
        assert!(known(&file, "docker.io") == password("new", "word"));
        assert!(known(&file, "r.io") == password("me", "a:b"));
        assert!(forget(&file, "r.io").unwrap());
        let rest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(
            rest["auths"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["docker.io", "r.io/team"]
        );
        assert_eq!(rest["HttpHeaders"]["X"], "y");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link_and_what_is_broken_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.json"), dir.path().join("link.json"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        keep(&link, "r.io", "u", "p").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(known(&real, "r.io").is_some());
        for broken in ["{", "[]", r#"{"auths":[]}"#] {
            fs::write(&real, broken).unwrap();
            let error = keep(&link, "r.io", "u", "p").unwrap_err().to_string();
            assert!(
                error.contains("link.json") && error.contains("mend it"),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&real).unwrap(), broken);
        }
    }
}
