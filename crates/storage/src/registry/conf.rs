//! registries.conf, as podman, buildah and skopeo have it: containers-registries.conf(5) of containers/image, version 2.
//!
//! What counts here is where an image's name leads: `[[registry]]` with prefixes, locations, mirrors, `blocked` and
//! `insecure`. It is read at every pull. A file that cannot be read is an error: it may be the one that blocks.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::RegistryError;

/// Most bytes that one file may have.
const MAX_FILE: u64 = 1 << 20;

/// Its tables by prefix.
#[derive(Debug, Default)]
pub struct Conf(BTreeMap<String, (Entry, PathBuf)>);

/// `[[registry]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Entry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

/// `[[registry.mirror]]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    registry: Vec<Entry>,
    /// Of version 1.
    registries: Option<toml::Table>,
}

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `HOST[:PORT]/PATH`.
    pub name: String,
    pub insecure: bool,
}

/// Where a name leads: mirrors in order, then what they mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leads {
    pub mirrors: Vec<Place>,
    /// None where no table is about the name.
    pub own: Option<Place>,
}

impl Conf {
    /// Reads `file` and what is in the directory `FILE.d`, in the order of names; of tables with the same prefix the last
    /// one counts. No file, no tables.
    pub fn read(file: &Path) -> Result<Self, RegistryError> {
        let mut conf = Self::default();
        conf.add(file)?;
        for path in dropins(file)? {
            conf.add(&path)?;
        }
        Ok(conf)
    }

    fn add(&mut self, path: &Path) -> Result<(), RegistryError> {
        let text = match super::read_limited(path, MAX_FILE) {
            Ok(text) => text,
            Err(e) if is_absent(&e) => return Ok(()),
            Err(e) => return Err(bad(path, &e.to_string())),
        };
        let file: File = toml::from_str(&text).map_err(|e| bad(path, e.to_string().trim_end()))?;
        if file.registries.is_some() {
            let why = "it is of version 1, which is no longer read: write [[registry]] tables (containers-registries.conf(5))";
            return Err(bad(path, why));
        }
        for entry in file.registry {
            let prefix = match (&entry.prefix, &entry.location) {
                (Some(prefix), _) if !prefix.is_empty() => prefix.clone(),
                (_, Some(location)) if !location.is_empty() => location.clone(),
                _ => return Err(bad(path, "a [[registry]] has neither prefix nor location")),
            };
            let everywhere = |m: &Mirror| m.pull_from_mirror.as_deref().is_none_or(|p| p == "all");
            if entry.mirror_by_digest_only && !entry.mirror.iter().all(everywhere) {
                let why = format!("registry {prefix:?} has both mirror-by-digest-only and pull-from-mirror");
                return Err(bad(path, &why));
            }
            if let Some(mirror) = entry.mirror.iter().find(|m| !m.is_understood()) {
                let why = format!(
                    "mirror {:?} has pull-from-mirror = {:?}: it is all, digest-only or tag-only",
                    mirror.location, mirror.pull_from_mirror
                );
                return Err(bad(path, &why));
            }
            self.0.insert(prefix, (entry, path.to_owned()));
        }
        Ok(())
    }

    /// Where `name` (`HOST[:PORT]/PATH`) is to be asked for. `by_digest`: the reference has one. An error where it is
    /// blocked.
    pub fn leads(&self, name: &str, by_digest: bool) -> Result<Leads, RegistryError> {
        let matching = self
            .0
            .iter()
            .filter_map(|(prefix, found)| Some((matched(prefix, name)?, prefix, found)));
        let Some((length, _, (entry, path))) =
            matching.max_by_key(|(length, prefix, _)| (*length, prefix.len()))
        else {
            return Ok(Leads::default());
        };
        if entry.blocked {
            return Err(RegistryError::refused(
                name,
                format!("it is blocked by {}", path.display()),
            ));
        }
        let rest = &name[length..];
        let place = |location: &str, insecure| Place {
            name: format!("{}{rest}", location.trim_end_matches('/')),
            insecure,
        };
        let counts = |m: &&Mirror| m.has(by_digest) && (by_digest || !entry.mirror_by_digest_only);
        let mirrors = entry.mirror.iter().filter(counts);
        let own = entry.location.as_deref().filter(|location| !location.is_empty());
        Ok(Leads {
            mirrors: mirrors.map(|m| place(&m.location, m.insecure)).collect(),
            own: Some(match own {
                Some(location) => place(location, entry.insecure),
                None => Place {
                    name: name.to_owned(),
                    insecure: entry.insecure,
                },
            }),
        })
    }
}

impl Mirror {
    fn is_understood(&self) -> bool {
        !self.location.is_empty()
            && matches!(
                self.pull_from_mirror.as_deref(),
                None | Some("all" | "digest-only" | "tag-only")
            )
    }

    fn has(&self, by_digest: bool) -> bool {
        match self.pull_from_mirror.as_deref() {
            Some("digest-only") => by_digest,
            Some("tag-only") => !by_digest,
            _ => true,
        }
    }
}

/// How many bytes of the name the prefix stands for: whole parts of it, or a host below `*.DOMAIN`.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split('/').next().unwrap_or_default();
        let below = host.len() > domain.len() && host.ends_with(domain) && domain.starts_with('.');
        return below.then_some(host.len());
    }
    let prefix = prefix.trim_end_matches('/');
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

/// `*.conf` in the directory beside.
fn dropins(file: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let dir = file.with_extension("conf.d");
    let failed = |e: io::Error| bad(&dir, &e.to_string());
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    Ok(paths)
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn bad(path: &Path, why: &str) -> RegistryError {
    RegistryError::refused(path.display().to_string(), why)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    struct Etc(tempfile::TempDir);

    impl Etc {
        fn new(text: &str) -> Self {
            let etc = Self(tempfile::tempdir().unwrap());
            std::fs::write(etc.file(), text).unwrap();
            etc
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("registries.conf")
        }

        fn dropin(&self, name: &str, text: &str) {
            let dir = self.0.path().join("registries.conf.d");
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(name), text).unwrap();
        }

        fn leads(&self, name: &str, by_digest: bool) -> Vec<String> {
            let leads = Conf::read(&self.file()).unwrap().leads(name, by_digest).unwrap();
            let told = |p: Place| p.name + if p.insecure { " insecure" } else { "" };
            leads.mirrors.into_iter().chain(leads.own).map(told).collect()
        }

        fn refused(&self, name: &str) -> String {
            let read = Conf::read(&self.file()).and_then(|conf| conf.leads(name, false));
            read.unwrap_err().to_string()
        }
    }

    /// The cases of the man page.
    #[test]
    fn prefixes_locations_and_mirrors() {
        let etc = Etc::new(
            r#"
            unqualified-search-registries = ["example.com"]
            [[registry]]
            prefix = "example.com/foo"
            insecure = false
            location = "internal-registry-for-example.com/bar"
            [[registry.mirror]]
            location = "example-mirror-0.local/mirror-for-foo"
            [[registry.mirror]]
            location = "example-mirror-1.local/mirrors/foo"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry]]
            prefix = "example.com/foo/deep"
            [[registry]]
            location = "plain.example:5000"
            insecure = true
            [[registry]]
            prefix = "*.sub.example"
            location = "one.example/all"
            [[registry]]
            location = "digests.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "near.example"
            "#,
        );
        for (name, by_digest, leads) in [
            (
                "example.com/foo/image",
                false,
                &[
                    "example-mirror-0.local/mirror-for-foo/image",
                    "internal-registry-for-example.com/bar/image",
                ][..],
            ),
            (
                "example.com/foo",
                true,
                &[
                    "example-mirror-0.local/mirror-for-foo",
                    "example-mirror-1.local/mirrors/foo insecure",
                    "internal-registry-for-example.com/bar",
                ],
            ),
            ("example.com/foo/deep/er", false, &["example.com/foo/deep/er"]),
            ("example.com/foot", false, &[]),
            ("example.com/other", false, &[]),
            ("plain.example:5000/x", false, &["plain.example:5000/x insecure"]),
            ("plain.example/x", false, &[]),
            ("a.b.sub.example/x/y", false, &["one.example/all/x/y"]),
            ("sub.example/x", false, &[]),
            ("digests.example/x", false, &["digests.example/x"]),
            (
                "digests.example/x",
                true,
                &["near.example/x", "digests.example/x"],
            ),
        ] {
            assert_eq!(etc.leads(name, by_digest), leads, "{name}");
        }
    }

    #[test]
    fn a_later_file_has_the_say_and_a_broken_one_is_an_error() {
        let etc = Etc::new("[[registry]]\nlocation = 'a.example'\nblocked = true\n");
        assert!(
            etc.refused("a.example/x")
                .contains("a.example/x: it is blocked by")
        );
        etc.dropin("50.conf", "[[registry]]\nlocation = 'a.example'\n[[registry]]\nprefix = 'b.example'\nlocation = 'c.example'");
        etc.dropin(
            "60.conf",
            "[[registry]]\nprefix = 'b.example'\nlocation = 'd.example'",
        );
        etc.dropin("70.txt", "[");
        assert_eq!(etc.leads("a.example/x", false), ["a.example/x"]);
        assert_eq!(etc.leads("b.example/x", false), ["d.example/x"]);
        for (text, why) in [
            ("[", "80.conf"),
            ("[[registry]]", "neither prefix nor location"),
            ("[registries.search]\nregistries = []", "version 1"),
            (
                "[[registry]]\nlocation='x'\n[[registry.mirror]]\nlocation='y'\npull-from-mirror='never'",
                "it is all, digest-only or tag-only",
            ),
        ] {
            etc.dropin("80.conf", text);
            let error = etc.refused("z.example/x");
            assert!(error.contains("80.conf") && error.contains(why), "{error}");
        }
        assert!(
            Conf::read(Path::new("/nowhere/registries.conf"))
                .unwrap()
                .0
                .is_empty()
        );
    }
}
