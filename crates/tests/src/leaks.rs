//! The leak counter: everything of one host that could be left behind, as comparable lines.
//!
//! Take one snapshot of a host at rest, let things happen, bring it to rest again, take another: what is in the second
//! alone was left behind. The agent itself and the host's own namespaces do not count.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Host, cgroups, process};

/// What kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A network, mount, pid, uts or ipc namespace that a process of the host is in, holds open or has bound.
    Namespace,
    Mount,
    Device,
    Cgroup,
    /// An nftables table, chain, set, rule or element.
    Firewall,
    Process,
    /// A temporary file, a container's directory, anything in the run dir.
    File,
}

/// One thing, in words that stay the same as long as it is the same thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thing {
    pub kind: Kind,
    pub what: String,
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// All things of a host at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub BTreeSet<Thing>);

impl Snapshot {
    /// Looks at everything.
    pub fn take(host: &Host) -> Self {
        let mut seen = Seen {
            host,
            things: BTreeSet::new(),
        };
        seen.processes();
        seen.mounts();
        seen.devices();
        seen.groups();
        seen.firewall();
        seen.files();
        Self(seen.things)
    }

    /// What is here and was not in `before`.
    pub fn since(&self, before: &Self) -> Vec<Thing> {
        self.0.difference(&before.0).cloned().collect()
    }

    /// The things of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |t| t.kind == kind)
            .map(|t| t.what.as_str())
    }
}

impl Host {
    /// Nothing is here that was not in `rest`.
    #[track_caller]
    pub fn assert_no_leaks(&self, rest: &Snapshot) {
        let leaks: Vec<String> = Snapshot::take(self)
            .since(rest)
            .iter()
            .map(Thing::to_string)
            .collect();
        assert!(leaks.is_empty(), "left behind:\n{}", leaks.join("\n"));
    }
}

struct Seen<'a> {
    host: &'a Host,
    things: BTreeSet<Thing>,
}

impl Seen<'_> {
    fn add(&mut self, kind: Kind, what: impl Into<String>) {
        self.things.insert(Thing {
            kind,
            what: what.into(),
        });
    }

    /// Processes, and the namespaces they are in or hold open.
    fn processes(&mut self) {
        let known = own_namespaces(self.host);
        for p in process::of_host(&self.host.run_dir(), self.host.cgroup_parent()) {
            let holder = if Some(p.pid) == self.host.agent_pid() {
                "the agent".to_owned()
            } else {
                p.command.clone()
            };
            for ns in namespaces_of(p.pid).difference(&known) {
                self.add(Kind::Namespace, format!("{ns} of {holder} {}", p.cgroup));
            }
            if Some(p.pid) != self.host.agent_pid() {
                self.add(Kind::Process, format!("{} {} {}", p.pid, p.command, p.cgroup));
            }
        }
    }

    fn mounts(&mut self) {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.host.ns.pid())).unwrap();
        for line in table.lines() {
            let (place, source) = line.split_once(" - ").unwrap();
            let fields: Vec<&str> = place.split(' ').collect();
            if source.starts_with("nsfs") {
                self.add(Kind::Namespace, format!("{} bound at {}", fields[3], fields[4]));
            }
            self.add(Kind::Mount, format!("{} {}", fields[4], source));
        }
    }

    fn devices(&mut self) {
        let table = self
            .host
            .ns
            .within(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        for line in table.lines().skip(2) {
            self.add(Kind::Device, line.split(':').next().unwrap().trim());
        }
    }

    fn groups(&mut self) {
        // The parent itself is given, like the config dir.
        let parent = self.host.cgroup_parent();
        for group in cgroups::below(parent)
            .into_iter()
            .filter(|g| !g.ends_with(&parent[1..]))
        {
            self.add(Kind::Cgroup, group.display().to_string());
        }
    }

    fn firewall(&mut self) {
        let out = self
            .host
            .ns
            .command("nft")
            .args(["-j", "list", "ruleset"])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "nft: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let ruleset: Value = serde_json::from_slice(&out.stdout).unwrap();
        for object in ruleset["nftables"].as_array().unwrap() {
            for (kind, content) in object
                .as_object()
                .unwrap()
                .iter()
                .filter(|(kind, _)| *kind != "metainfo")
            {
                self.firewall_object(kind, content.clone());
            }
        }
    }

    fn firewall_object(&mut self, kind: &str, mut content: Value) {
        let elements = content.get_mut("elem").map(Value::take);
        forget_numbers(&mut content);
        let of = format!(
            "{} {}",
            content["table"].as_str().unwrap_or(""),
            content["name"].as_str().unwrap_or("")
        );
        for element in elements.iter().filter_map(Value::as_array).flatten() {
            self.add(Kind::Firewall, format!("element of {of}: {element}"));
        }
        self.add(Kind::Firewall, format!("{kind} {content}"));
    }

    /// The content store's blobs and layers stay by design; unfinished files, and all else, are looked at.
    fn files(&mut self) {
        let (state, run) = (self.host.state_dir(), self.host.run_dir());
        let mut found = Vec::new();
        for entry in list(&state) {
            if entry.ends_with("store") {
                unfinished(&entry, 4, &mut found)
            } else {
                tree(&entry, 1, &mut found)
            }
        }
        list(&run).iter().for_each(|entry| tree(entry, 1, &mut found));
        // Kept by design: decisions, that forwarding was off before the agent came, the place of configs and secrets.
        let names = [
            "ledger.json",
            "ledger.copy.json",
            "cluster.json",
            "events.jsonl",
            "events.jsonl.1",
            "run/forward_guard",
            "run/contents",
        ];
        let kept = |path: &PathBuf| names.iter().any(|name| path.ends_with(name));
        for path in found.into_iter().filter(|path| !kept(path)) {
            self.add(
                Kind::File,
                path.strip_prefix(self.host.dir()).unwrap().display().to_string(),
            );
        }
    }
}

/// Handles and counters differ between two looks at the same thing.
fn forget_numbers(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for key in ["handle", "packets", "bytes"] {
                map.remove(key);
            }
            map.values_mut().for_each(forget_numbers);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_numbers),
        _ => {}
    }
}

/// The test's own namespaces and those of the host's keeper.
fn own_namespaces(host: &Host) -> BTreeSet<String> {
    let mut own = namespaces_of(std::process::id());
    own.extend(namespaces_of(host.ns.pid()));
    own.extend(namespaces_of(host.neighbour.pid()));
    own
}

fn namespaces_of(pid: u32) -> BTreeSet<String> {
    const KINDS: [&str; 7] = ["net:[", "mnt:[", "pid:[", "uts:[", "ipc:[", "cgroup:[", "user:["];
    let places = [format!("/proc/{pid}/ns"), format!("/proc/{pid}/fd")];
    let links = places
        .iter()
        .flat_map(|place| list(Path::new(place)))
        .filter_map(|path| fs::read_link(path).ok());
    links
        .map(|l| l.display().to_string())
        .filter(|l| KINDS.iter().any(|k| l.starts_with(k)))
        .collect()
}

fn list(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .collect()
}

fn tree(path: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    found.push(path.to_owned());
    if depth > 0 && path.is_dir() {
        list(path).iter().for_each(|entry| tree(entry, depth - 1, found));
    }
}

/// Whatever calls itself temporary, and what lies in a directory that does.
fn unfinished(path: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    let name = path.file_name().unwrap().to_string_lossy();
    if ["tmp", "temp", "partial", "staging"].contains(&name.as_ref()) {
        found.extend(list(path));
    } else if name.ends_with(".tmp") || name.starts_with(".tmp") || name.contains(".partial") {
        found.push(path.to_owned());
    } else if depth > 0 && path.is_dir() && !path.is_symlink() {
        list(path)
            .iter()
            .for_each(|entry| unfinished(entry, depth - 1, found));
    }
}
