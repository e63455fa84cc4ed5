//! What has to be watched so that no change of a path's meaning is missed.
//!
//! A path means something else as soon as any of its components does: a link on the way is swapped, a directory is
//! replaced, what was missing appears. So each path is walked as the kernel does (path_resolution(7)), and every name
//! looked up on the way is noted in the real directory it was looked up in.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// Links followed at most, as the kernel does (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What matters in one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Every name.
    pub all: bool,
    /// These names.
    pub names: BTreeSet<OsString>,
}

impl Interest {
    /// Whether a change of this name matters.
    pub fn covers(&self, name: &OsStr) -> bool {
        self.all || self.names.contains(name)
    }
}

/// Directories by their real paths, so that none is there twice, and what matters in each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trails(pub BTreeMap<PathBuf, Interest>);

impl Trails {
    /// Whatever leads to this path, and what is there.
    pub fn path(&mut self, path: &Path) {
        self.follow(path);
    }

    /// Whatever leads to this directory, and everything directly in it.
    pub fn directory(&mut self, path: &Path) {
        if let Some(real) = self.follow(path).filter(|real| real.is_dir()) {
            self.0.entry(real).or_default().all = true;
        }
    }

    /// Walks a path, noting each name; where it ends, if it ends somewhere.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let mut ahead = parts(&path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == "/" {
                at = PathBuf::from("/");
                continue;
            }
            if part == ".." {
                at.pop();
                continue;
            }
            self.0.entry(at.clone()).or_default().names.insert(part.clone());
            let next = at.join(&part);
            match std::fs::read_link(&next) {
                Ok(target) => {
                    links += 1;
                    ahead.extend(parts(&target));
                }
                // Not a link (readlink(2)).
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => at = next,
                Err(_) => return None,
            }
            if links > MAX_LINKS {
                return None;
            }
        }
        Some(at)
    }
}

/// The components, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter(|c| *c != Component::CurDir)
        .map(|c| c.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_name_on_the_way_is_noted_where_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("releases/1/conf")).unwrap();
        fs::write(root.join("releases/1/conf/web.toml"), "").unwrap();
        symlink("releases/1", root.join("current")).unwrap();
        symlink("current/../../current/conf/web.toml", root.join("web.toml")).unwrap();
        let mut trails = Trails::default();
        trails.path(&root.join("web.toml"));
        let names = |at: &str| -> Vec<String> {
            let names = &trails.0[&root.join(at)].names;
            names.iter().map(|n| n.to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(""), ["current", "releases", "web.toml"]);
        assert_eq!(names("releases"), ["1"]);
        assert_eq!(names("releases/1"), ["conf"]);
        assert_eq!(names("releases/1/conf"), ["web.toml"]);
        assert!(trails.0[Path::new("/")].covers(OsStr::new(root.components().nth(1).unwrap().as_os_str())));
    }

    #[test]
    fn what_is_missing_or_leads_in_a_circle_is_noted_as_far_as_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let mut trails = Trails::default();
        trails.directory(&root.join("not/there"));
        trails.path(&root.join("a"));
        let here = &trails.0[&root];
        assert!(
            here.covers(OsStr::new("not")) && here.covers(OsStr::new("a")) && here.covers(OsStr::new("b"))
        );
        assert!(!here.all && !here.covers(OsStr::new("there")));
    }
}
