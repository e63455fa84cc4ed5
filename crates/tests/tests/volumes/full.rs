//! A file system that is full: what is pulled, loaded or committed onto it is refused with the reason, nothing of it is
//! left, who runs goes on, and with room the same works.

use std::fs;
use std::path::PathBuf;

use tests::Host;
use tests::client::Said;
use tests::images::busybox;
use tests::registry::Registry;

use super::space::{Small, image, noise};

/// The host's state dir becomes a file system of its own: ext4 in a file, or in memory where the machine gives nobody a
/// loop device.
fn small(host: &Host, mebibytes: u64) {
    let (state, file) = (host.state_dir(), host.dir().join("disk"));
    fs::create_dir_all(&state).unwrap();
    fs::File::create(&file).unwrap().set_len(mebibytes << 20).unwrap();
    let (state, file) = (state.display(), file.display());
    println!(
        "{}",
        host.ns.sh(&format!(
            "mkfs.ext4 -q -m 0 {file}
             mount -o loop {file} {state} || mount -t tmpfs -o size={mebibytes}M small {state}
             chmod 710 {state}; findmnt -no FSTYPE,SIZE {state}"
        ))
    );
}

/// Takes all room but this.
fn fill(host: &Host, mebibytes: u64) {
    let state = host.state_dir().display().to_string();
    host.ns.sh(&format!(
        "free=$(df --output=avail -B1M {state} | tail -1); fallocate -l $((free - {mebibytes}))M {state}/filler"
    ));
}

/// What is in the store, by its directories, as the host sees it.
fn stored(host: &Host) -> Vec<(&'static str, Vec<PathBuf>)> {
    let seen = format!(
        "/proc/{}/root{}",
        host.agent_pid().unwrap(),
        host.state_dir().display()
    );
    let parts = ["tmp", "images", "layers", "tars", "blobs/sha256"];
    let list = |part: &'static str| {
        let entries = fs::read_dir(format!("{seen}/store/{part}")).unwrap();
        let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
        all.sort();
        (part, all)
    };
    parts.map(list).into()
}

fn counted(host: &Host) -> u64 {
    let said = host.wharf(["exec", "box", "cat", "/run/n"]).ok().stdout;
    // It may be in the middle of writing.
    said.trim().parse().unwrap_or(0)
}

#[test]
fn a_pull_a_load_and_a_commit_that_do_not_fit_leave_nothing_and_disturb_nobody() {
    let mut host = Host::new();
    small(&host, 256);
    let registry = host.ns.within(|| Registry::start(&host.dir().join("registry")));
    let source = image(&host, "pulled", 32 << 20);
    host.ns.within(|| registry.push(&source, "app:1"));
    let pulled = format!("localhost:{}/app:1", registry.port());
    let archive = host.dir().join("loaded.tar");
    let layer = tests::images::LayerBuilder::new().file("loaded", 0o644, &noise(33 << 20));
    busybox().layer(layer).docker_archive(&archive, "loaded:1");
    host.write_busybox(
        "box",
        "n=0; while :; do n=$((n+1)); echo $n > /run/n; done",
        "tmpfs = [\"/run\"]\n",
    );
    host.start_agent();
    let _small = Small(&host);
    host.converge();
    host.wharf([
        "exec",
        "box",
        "dd",
        "if=/dev/urandom",
        "of=/root/big",
        "bs=1M",
        "count=30",
    ])
    .ok();
    let (runs, before) = (host.container("box"), stored(&host));
    fill(&host, 12);
    let all: [&[&str]; 3] = [
        &["image", "pull", &pulled],
        &["image", "load", "-i", archive.to_str().unwrap()],
        &["commit", "box", "made:1"],
    ];
    for args in all {
        let count = counted(&host);
        let said: Said = host.wharf(args);
        println!("{args:?}: {}", said.stderr.trim());
        for words in ["no space left", host.state_dir().to_str().unwrap(), "free some"] {
            assert!(
                said.code == 1 && said.stderr.contains(words),
                "{args:?}: {words}: {said:?}"
            );
        }
        assert_eq!(stored(&host), before, "{args:?}");
        host.until("it counts on", |_| counted(&host) > count);
    }
    let now = host.container("box");
    assert_eq!((now.pid, now.restarts), (runs.pid, 0));
    host.ns.sh(&format!("rm {}/filler", host.state_dir().display()));
    for args in all {
        host.wharf(args).ok();
    }
    let line = "sha256sum /root/big";
    let sum = |name: &str| host.wharf(["exec", name, "sh", "-c", line]).ok().stdout;
    for (name, image) in [("again", "made:1"), ("loaded", "loaded:1"), ("pulled", &pulled)] {
        host.write(
            &format!("{name}.toml"),
            &format!("[container.{name}]\nimage = {image:?}\npull = \"never\"\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"SIGKILL\"\n"),
        );
        host.wait_for(name);
    }
    assert_eq!(sum("again"), sum("box"));
    host.wharf(["image", "verify"]).ok();
    assert_eq!(host.container("box").pid, runs.pid);
    assert!(stored(&host)[0].1.is_empty());
}
