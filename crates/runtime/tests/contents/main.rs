//! Configs and secrets as containers see them: delivered, over runs, exchanged while they run, removed.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod deliver;
mod inside;
mod refresh;
#[path = "../shimhost/mod.rs"]
mod shimhost;

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::action::Instance;
use model::content::{ContentKind, Delivered};
use model::spec::RestartPolicy;
use runtime::client::Runtime;
use shimhost::{Host, busybox};

const LONG: Duration = Duration::from_secs(20);

type File = (Delivered, Vec<u8>);

/// A host whose run dir is in memory, as the product's is.
pub struct Memory {
    host: Host,
    run: tempfile::TempDir,
}

impl Memory {
    fn new() -> Self {
        let mut host = Host::new();
        let run = tempfile::tempdir_in("/dev/shm").unwrap();
        host.roots.run = run.path().join("run");
        let exe = Path::new(env!("CARGO_BIN_EXE_runtime-testbin"));
        host.runtime = Runtime::new(host.roots.clone(), &host.parent)
            .unwrap()
            .with_exe(exe);
        Self { host, run }
    }

    fn contents(&self, i: &Instance) -> PathBuf {
        self.host.roots.container_contents(&i.id)
    }

    /// A container that runs this script with these files, begun anew whenever it ends.
    fn container(&self, script: &str, files: &[File]) -> Instance {
        let mut i = busybox(&self.host, "web", script);
        i.spec.restart.policy = RestartPolicy::Always;
        i.spec.restart.backoff = Duration::from_millis(1);
        i.contents = files.iter().map(|(file, _)| file.clone()).collect();
        self.host.runtime.deliver(&i.id, files).unwrap();
        i
    }

    fn deliver(&self, i: &Instance, files: &[File]) {
        self.host.runtime.deliver(&i.id, files).unwrap();
    }

    /// A file as the payload's mount namespace shows it.
    fn seen(&self, i: &Instance, path: &str) -> String {
        let pid = self.host.running(i);
        std::fs::read_to_string(format!("/proc/{pid}/root{path}")).unwrap()
    }

    /// Options of the mount at a place in the container: of the topmost, and how many there are.
    fn mounts(&self, i: &Instance, at: &str) -> (Vec<String>, usize) {
        let pid = self.host.running(i);
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let all: Vec<Vec<String>> = table
            .lines()
            .map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .filter(|words| words[4] == at)
            .collect();
        let last = all.last().unwrap_or_else(|| panic!("{at} is no mount: {table}"));
        let mut options: Vec<String> = last[5].split(',').map(str::to_owned).collect();
        options.extend(last[6..].iter().take_while(|word| *word != "-").cloned());
        (options, all.len())
    }

    /// What the payload has said, one line each.
    fn said(&self, i: &Instance) -> Vec<String> {
        let lines = self.host.log(i).into_iter();
        lines.map(|(_, line)| line.trim_end().to_owned()).collect()
    }

    fn until_said(&self, i: &Instance, lines: usize) -> Vec<String> {
        self.host
            .until(i, "it has spoken", |_| self.said(i).len() >= lines);
        self.said(i)
    }
}

fn config(name: &str, target: &str, text: &str) -> File {
    let file = Delivered {
        kind: ContentKind::Config,
        name: name.parse().unwrap(),
        target: target.to_owned(),
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    (file, text.as_bytes().to_vec())
}

fn secret(name: &str, text: &str) -> File {
    let (file, bytes) = config(name, &format!("/run/secrets/{name}"), text);
    let file = Delivered {
        kind: ContentKind::Secret,
        mode: 0o400,
        ..file
    };
    (file, bytes)
}

fn owned((file, bytes): File, mode: u32, uid: u32, gid: u32) -> File {
    let file = Delivered {
        mode,
        uid,
        gid,
        ..file
    };
    (file, bytes)
}

/// What is mounted on the host, which nothing here may change.
fn own_mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}
