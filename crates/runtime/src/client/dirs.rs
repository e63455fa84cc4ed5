//! A container's directories. They appear whole and vanish at once: what was cut off halfway bears another name.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use model::action::Instance;
use model::name::ContainerId;
use model::paths::Roots;

use super::{Result, RuntimeError};
use crate::damage::{has_shim, mend_identity};
use crate::observe;
use crate::shim::files::{self, ContainerFile, Files, ShimState};

/// Names of directories that are being made, and of those being removed.
const MAKING: &str = ".new-";
const GOING: &str = ".gone-";

/// The directories that hold the containers' ones.
pub fn make_roots(roots: &Roots) -> Result<()> {
    for dir in parents(roots) {
        make_dir(&dir)?;
    }
    Ok(())
}

/// Both directories of a container, if they are not there.
pub fn make(files: &Files, i: &Instance) -> Result<()> {
    make_dir(&files.run)?;
    if is_whole(files) {
        return make_again(files, i);
    }
    let fresh = aside(&files.state, MAKING);
    remove_tree(&fresh)?;
    remove_tree(&files.state)?;
    for dir in [
        &fresh,
        &fresh.join("upper"),
        &fresh.join("work"),
        &fresh.join("log"),
    ] {
        make_dir(dir)?;
    }
    // The root of the container's filesystem, as everybody in it sees it.
    set_mode(&fresh.join("upper"), 0o755)?;
    let container = ContainerFile {
        id: i.id.clone(),
        name: i.name.clone(),
        created_at: Timestamp::now(),
    };
    let path = fresh.join("container.json");
    files::write(&path, &container).map_err(RuntimeError::file("write", &path))?;
    fs::rename(&fresh, &files.state).map_err(RuntimeError::file("make", &files.state))
}

/// It was made whole once. A power cut while it was made leaves an empty `container.json`; where that is missing,
/// somebody deleted it, and what else is there may be data.
fn is_whole(files: &Files) -> bool {
    match fs::metadata(files.container()) {
        Ok(meta) => meta.len() > 0,
        Err(_) => files.state.join("upper").is_dir(),
    }
}

/// What was taken of a container that is there, or scribbled over, behind our back.
fn make_again(files: &Files, i: &Instance) -> Result<()> {
    mend_identity(files, i)?;
    for name in ["upper", "work", "log"] {
        let dir = files.state.join(name);
        if !dir.exists() {
            make_dir(&dir)?;
            if name == "upper" {
                set_mode(&dir, 0o755)?;
            }
        }
    }
    Ok(())
}

/// Both directories go. The kept one last: as long as it is there, the container is seen, and removed again.
pub fn remove(roots: &Roots, id: &ContainerId) -> Result<()> {
    let files = Files::new(roots, id);
    remove_tree(&files.run)?;
    remove_tree(&aside(&files.state, MAKING))?;
    let gone = aside(&files.state, GOING);
    remove_tree(&gone)?;
    match fs::rename(&files.state, &gone) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(RuntimeError::file("remove", &files.state)(e)),
        Ok(()) => remove_tree(&gone),
    }
}

/// Removes what was left half made or half removed, and what an earlier boot left in the run dir.
pub fn sweep(roots: &Roots, boot_id: &str) -> Result<()> {
    let [kept, run] = parents(roots);
    for name in names(&kept)? {
        let half = name.starts_with(MAKING) || name.starts_with(GOING);
        if half {
            remove_tree(&kept.join(name))?;
        }
    }
    for id in observe::ids(&kept).map_err(RuntimeError::file("list", &kept))? {
        let files = Files::new(roots, &id);
        if !is_whole(&files) && !locked(&files)? {
            remove(roots, &id)?;
        }
    }
    for id in observe::ids(&run).map_err(RuntimeError::file("list", &run))? {
        let files = Files::new(roots, &id);
        let state: Option<ShimState> = files::read(&files.shim_state()).unwrap_or(None);
        let stale = state.is_some_and(|state| state.boot_id != boot_id) || !files.state.exists();
        if stale && !locked(&files)? {
            remove_tree(&files.run)?;
        }
    }
    sweep_contents(roots)
}

/// What configs and secrets held of containers that are not there, or were another boot's.
fn sweep_contents(roots: &Roots) -> Result<()> {
    let all = roots.run.join("contents");
    for id in observe::ids(&all).map_err(RuntimeError::file("list", &all))? {
        let files = Files::new(roots, &id);
        let there = files.state.exists() && files.run.exists();
        if !there && !locked(&files)? {
            remove_tree(&roots.container_contents(&id))?;
        }
    }
    Ok(())
}

/// Removes the container's groups in hierarchies that only an external runtime uses; nothing of ours runs there now.
pub fn remove_groups(parent: &str, group: &str) -> Result<()> {
    let mounts = Path::new("/sys/fs/cgroup");
    for hierarchy in names(mounts)? {
        let dir = mounts.join(hierarchy).join(parent.trim_matches('/')).join(group);
        remove_group(&dir).map_err(RuntimeError::file("remove", &dir))?;
    }
    Ok(())
}

/// A group's files are the kernel's: only directories can be, and have to be removed.
fn remove_group(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn locked(files: &Files) -> Result<bool> {
    has_shim(files).map_err(RuntimeError::file("ask for the lock on", &files.lock()))
}

fn parents(roots: &Roots) -> [PathBuf; 2] {
    [roots.state.join("containers"), roots.run.join("containers")]
}

/// `/a/ID` as `/a/.new-ID`.
fn aside(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}{name}"))
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(RuntimeError::file("list", dir))?;
    let names = entries.map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()));
    names
        .collect::<io::Result<_>>()
        .map_err(RuntimeError::file("list", dir))
}

/// 0700: what lies here may hold secrets. Above a container's own, directories are left as they are.
fn make_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(RuntimeError::file("make", dir))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(RuntimeError::file("set the mode of", path))
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(RuntimeError::file("remove", dir)),
    }
}
