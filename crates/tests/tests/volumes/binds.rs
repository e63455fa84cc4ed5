//! Binds: which mounts below them come and go with the host's, and what is read-only or refused.

use std::fs;
use std::path::{Path, PathBuf};

use model::status::State;
use tests::Host;
use tests::client::{Said, row};

/// A directory that is a mount of its own on the host, shared with whoever takes it along.
fn shared(host: &Host) -> PathBuf {
    let dir = host.dir().join("shared");
    fs::create_dir(&dir).unwrap();
    let shown = dir.display();
    host.ns.sh(&format!(
        "mount --bind {shown} {shown}; mount --make-rshared {shown}"
    ));
    dir
}

/// Mounts memory on a directory below it, with a file that says its name.
fn mount_below(host: &Host, dir: &Path, name: &str) {
    let at = dir.join(name);
    let at = at.display();
    host.ns.sh(&format!(
        "mkdir -p {at}; mount -t tmpfs {name} {at}; echo {name} >{at}/file"
    ));
}

/// A container `name` with the directory at `/x`.
fn write_bound(host: &Host, name: &str, dir: &Path, more: &str) {
    let volume = format!(
        "volumes = [{{ type = \"bind\", source = {:?}, target = \"/x\"{more} }}]\ncap_add = [\"SYS_ADMIN\"]\n",
        dir.to_str().unwrap()
    );
    host.write_busybox(name, "exec sleep 1000", &volume);
}

fn sh(host: &Host, name: &str, line: &str) -> Said {
    host.wharf(["exec", name, "sh", "-c", line])
}

#[test]
fn mounts_come_along_as_the_propagation_says() {
    let mut host = Host::new();
    let dir = shared(&host);
    mount_below(&host, &dir, "before");
    for word in ["rprivate", "rslave", "rshared"] {
        write_bound(&host, word, &dir, &format!(", propagation = \"{word}\""));
    }
    write_bound(&host, "unsaid", &dir, "");
    host.start_agent();
    host.converge();
    mount_below(&host, &dir, "later");
    for (name, ties) in [
        ("unsaid", false),
        ("rprivate", false),
        ("rslave", true),
        ("rshared", true),
    ] {
        assert_eq!(
            sh(&host, name, "cat /x/before/file").ok().stdout,
            "before\n",
            "{name}"
        );
        let later = sh(&host, name, "cat /x/later/file");
        assert_eq!(later.code == 0, ties, "{name}: {later:?}");
    }
    // What goes away on the host goes with who is tied to it, and with nobody else.
    host.ns.sh(&format!("umount {}/before", dir.display()));
    for (name, stays) in [
        ("unsaid", true),
        ("rprivate", true),
        ("rslave", false),
        ("rshared", false),
    ] {
        assert_eq!(sh(&host, name, "cat /x/before/file").code == 0, stays, "{name}");
    }
    // The other way only what is shared.
    for (name, reaches) in [
        ("unsaid", false),
        ("rprivate", false),
        ("rslave", false),
        ("rshared", true),
    ] {
        let line =
            format!("mkdir /x/of-{name} && mount -t tmpfs own /x/of-{name} && echo own >/x/of-{name}/file");
        sh(&host, name, &line).ok();
        let seen = host.ns.sh(&format!("ls {}/of-{name}", dir.display()));
        assert_eq!(seen == "file\n", reaches, "{name}: {seen:?}");
    }
    // A new run begins with what is mounted by then, tied or not.
    host.wharf(["restart", "rprivate"]).ok();
    host.wait_for("rprivate");
    assert_eq!(sh(&host, "rprivate", "cat /x/later/file").ok().stdout, "later\n");
    host.ns.sh(&format!("umount {}/of-rshared", dir.display()));
    assert_ne!(sh(&host, "rshared", "cat /x/of-rshared/file").code, 0);
}

#[test]
fn a_tie_to_a_mount_that_the_host_does_not_share_is_refused() {
    let mut host = Host::new();
    let dir = host.dir().join("private");
    fs::create_dir(&dir).unwrap();
    for word in ["rslave", "rshared"] {
        write_bound(&host, word, &dir, &format!(", propagation = \"{word}\""));
    }
    host.start_agent();
    for word in ["rslave", "rshared"] {
        let error = host.until_state(word, State::Failed).error.unwrap();
        assert!(
            error.contains(&format!("propagation \"{word}\" at /x"))
                && error.contains(dir.to_str().unwrap())
                && error.contains("mount --make-rshared"),
            "{error}"
        );
    }
}

#[test]
fn a_read_only_bind_is_read_only_below_mounts_too() {
    let mut host = Host::new();
    let dir = host.dir().join("tree");
    fs::create_dir(&dir).unwrap();
    mount_below(&host, &dir, "one");
    mount_below(&host, &dir.join("one"), "two");
    let shown = dir.display();
    let volumes = format!("volumes = [\"{shown}:/ro:ro\", \"{shown}:/rw\"]\n");
    host.write_busybox("box", "exec sleep 1000", &volumes);
    host.start_agent();
    host.converge();
    for at in ["", "/one", "/one/two"] {
        let refused = sh(&host, "box", &format!("echo x >/ro{at}/new"));
        assert!(
            refused.code != 0 && refused.stderr.contains("Read-only"),
            "{at}: {refused:?}"
        );
        sh(&host, "box", &format!("echo x >/rw{at}/new")).ok();
        assert_eq!(
            sh(&host, "box", &format!("cat /ro{at}/new")).ok().stdout,
            "x\n",
            "{at}"
        );
    }
    // It is the container that may not write: the host's mounts are as they were.
    host.ns.sh(&format!("echo host >{shown}/one/two/host"));
}

#[test]
fn nothing_is_written_below_a_disk_that_is_not_there() {
    let mut host = Host::new();
    let dir = host.dir().join("disk");
    fs::create_dir(&dir).unwrap();
    write_bound(&host, "box", &dir, ", require_mount = true");
    host.start_agent();
    let failed = host.until_state("box", State::Failed);
    let error = failed.error.unwrap();
    assert!(
        error.contains(dir.to_str().unwrap()) && error.contains("mount"),
        "{error}"
    );
    let shown = dir.display();
    host.ns.sh(&format!("mount -t tmpfs disk {shown}"));
    host.wait_for("box");
    sh(&host, "box", "echo data >/x/file").ok();
    assert_eq!(host.ns.sh(&format!("cat {shown}/file")), "data\n");
    // Gone again, it keeps the next run from starting, and the directory below it stays empty.
    host.ns.sh(&format!("umount {shown}"));
    assert_eq!(
        sh(&host, "box", "cat /x/file").ok().stdout,
        "data\n",
        "who runs has it still"
    );
    host.wharf(["kill", "box"]).ok();
    // First it is its end by a signal that is told, until the next run was tried.
    host.until("held up by the missing disk", |s| {
        let held = row(s, "box");
        held.state == State::Backoff
            && (held.error.as_deref()).is_some_and(|error| error.contains("is not a mount point"))
    });
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    host.ns.sh(&format!("mount -t tmpfs disk {shown}"));
    host.wait_for("box");
}
