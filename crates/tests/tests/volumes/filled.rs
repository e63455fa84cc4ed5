//! What a new volume gets of the image, and how long an anonymous one and memory last.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::XattrFlags;
use tests::Host;

/// CAP_NET_RAW, permitted and effective (linux/capability.h, struct vfs_cap_data).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Files of every kind in `site`, and busybox.
fn fill(root: &Path) {
    let at = |path: &str| root.join(path);
    for dir in ["bin", "site/sub"] {
        fs::create_dir_all(at(dir)).unwrap();
    }
    fs::copy("/bin/busybox", at("bin/busybox")).unwrap();
    symlink("busybox", at("bin/sh")).unwrap();
    fs::write(at("site/tool"), "tool").unwrap();
    fs::write(at("site/sub/file"), "file").unwrap();
    fs::hard_link(at("site/tool"), at("site/again")).unwrap();
    symlink("sub/file", at("site/link")).unwrap();
    let fifo = rustix::fs::Mode::from_raw_mode(0o622);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("site/fifo"),
        rustix::fs::FileType::Fifo,
        fifo,
        0,
    )
    .unwrap();
    for (path, owner, mode) in [
        ("site", (12, 34), 0o2750),
        ("site/sub", (56, 78), 0o1777),
        ("site/tool", (1000, 1001), 0o4751),
        ("site/sub/file", (3_000_000, 0), 0o600),
    ] {
        chown(at(path), Some(owner.0), Some(owner.1)).unwrap();
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::lchown(at("site/link"), Some(7), Some(8)).unwrap();
    for (path, name, value) in [
        ("site", "user.of", &b"the directory"[..]),
        ("site/tool", "user.note", b"\0raw"),
        ("site/tool", "security.capability", &CAPABILITY),
    ] {
        rustix::fs::setxattr(at(path), name, value, XattrFlags::empty()).unwrap();
    }
    let time = UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    for path in ["site/tool", "site/sub/file", "site/sub", "site"] {
        File::open(at(path)).unwrap().set_modified(time).unwrap();
    }
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(path, name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

/// All that a copy has to say as its original does.
fn looks(path: &Path) -> String {
    let meta = path.symlink_metadata().unwrap();
    let (kind, target) = (meta.file_type(), fs::read_link(path).ok());
    // Its own links' times are when they were made.
    let time = if kind.is_symlink() { 0 } else { meta.mtime() };
    let content = kind.is_file().then(|| fs::read_to_string(path).unwrap());
    let attributes: Vec<_> = ["user.of", "user.note", "security.capability"]
        .iter()
        .map(|name| attribute(path, name).filter(|_| !kind.is_symlink()))
        .collect();
    format!(
        "{:o} {}:{} fifo {} {target:?} {time} {content:?} {attributes:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        kind.is_fifo()
    )
}

/// An image of that tree, made by GNU tar and `wharf image import`.
fn imported(host: &Host) -> PathBuf {
    let (root, archive) = (host.dir().join("root"), host.dir().join("root.tar"));
    fs::create_dir(&root).unwrap();
    fill(&root);
    host.ns.sh(&format!(
        "tar --xattrs --xattrs-include='*' -cf {} -C {} .",
        archive.display(),
        root.display()
    ));
    host.wharf(["image", "import", archive.to_str().unwrap(), "site:1"])
        .ok();
    root
}

/// The container's file, as the host sees it.
fn of_container(host: &Host, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{path}", host.container("box").pid.unwrap()))
}

#[test]
fn a_new_volume_gets_owners_attributes_and_links_of_the_image() {
    let mut host = Host::new();
    host.start_agent();
    let root = imported(&host);
    host.write(
        "box.toml",
        "[container.box]\nimage = \"site:1\"\npull = \"never\"\ncommand = [\"/bin/busybox\", \"sleep\", \"1000\"]\n\
         stop_signal = \"SIGKILL\"\nvolumes = [\"named:/site\"]\n",
    );
    host.converge();
    let assert_same = |what: &str| {
        for path in ["", "/sub", "/tool", "/again", "/sub/file", "/link", "/fifo"] {
            let (was, is) = (
                root.join(format!("site{path}")),
                of_container(&host, &format!("/site{path}")),
            );
            assert_eq!(looks(&is), looks(&was), "{what}: {path}");
        }
        let inode = |path: &str| of_container(&host, path).metadata().unwrap().ino();
        assert_eq!(inode("/site/tool"), inode("/site/again"), "{what}");
    };
    assert_same("named");
    let before = host.container("box").id;
    host.write(
        "box.toml",
        "[container.box]\nimage = \"site:1\"\npull = \"never\"\ncommand = [\"/bin/busybox\", \"sleep\", \"1000\"]\n\
         stop_signal = \"SIGKILL\"\nvolumes = [\"/site\"]\n",
    );
    host.until("replaced", |s| s.converged && s.containers[0].id != before);
    assert_same("anonymous");
}

/// How many files of that name lie below the state directory.
fn found(host: &Host, name: &str) -> usize {
    let state = host.state_dir();
    // What goes away while it is looked through is none of them.
    let list = host.ns.sh(&format!(
        "find {} -name {name} 2>/dev/null || true",
        state.display()
    ));
    list.lines().count()
}

#[test]
fn an_anonymous_volume_goes_with_its_container() {
    let table = |env: &str| format!("volumes = [\"/anon\"]\nenv = {{ A = \"{env}\" }}\n");
    let host = Host::with_box(&table("1"));
    let sh = |line: &str| host.wharf(["exec", "box", "sh", "-c", line]).ok().stdout;
    sh("echo kept >/anon/only-here");
    assert_eq!(found(&host, "only-here"), 1);
    host.wharf(["kill", "box"]).ok();
    host.until("again", |s| {
        s.containers[0].restarts == 1 && s.containers[0].pid.is_some()
    });
    assert_eq!(sh("cat /anon/only-here"), "kept\n");
    let before = host.container("box").id;
    host.write_busybox("box", "exec sleep 1000", &table("2"));
    host.until("replaced", |s| s.converged && s.containers[0].id != before);
    assert_eq!(sh("ls /anon"), "");
    host.until("deleted", |_| found(&host, "only-here") == 0);
    assert!(host.status().volumes.is_empty(), "it has no name");
    sh("echo again >/anon/only-here");
    host.remove_all();
    host.until("gone", |s| s.containers.is_empty() && s.converged);
    host.until("deleted", |_| found(&host, "only-here") == 0);
}

#[test]
fn memory_has_the_size_and_mode_that_is_asked_for() {
    let host = Host::with_box(
        "volumes = [{ type = \"tmpfs\", target = \"/plain\" }, { type = \"tmpfs\", target = \"/mem\", size = \"1M\", mode = \"0750\" }, \
         { type = \"tmpfs\", target = \"/locked\", read_only = true }]\ntmpfs = [\"/short:size=64K,mode=0711\"]\n",
    );
    let sh = |line: &str| host.wharf(["exec", "box", "sh", "-c", line]);
    let mode = |path: &str| sh(&format!("stat -c %a {path}")).ok().stdout;
    let size = |path: &str| {
        sh(&format!("echo $(($(stat -f -c '%b * %S' {path})))"))
            .ok()
            .stdout
    };
    assert_eq!(
        ["/plain", "/mem", "/short"].map(mode),
        ["1777\n", "750\n", "711\n"]
    );
    assert_eq!(["/mem", "/short"].map(size), ["1048576\n", "65536\n"]);
    sh("dd if=/dev/zero of=/mem/x bs=64k count=16").ok();
    let full = sh("dd if=/dev/zero of=/short/x bs=1k count=65");
    assert!(
        full.code != 0 && full.stderr.contains("No space left"),
        "{full:?}"
    );
    assert_ne!(sh("echo x >/locked/x").code, 0);
}
