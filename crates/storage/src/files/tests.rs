//! Archives read by GNU tar, hostile ones, and changes as overlayfs leaves them.

mod scarce;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::*;
use crate::tar::{Entry, Kind, Reader, Stream, Time, Writer};

fn dir_fd(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn run(program: &str, args: &[&str], at: &Path) -> String {
    let out = Command::new(program).args(args).current_dir(at).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn packed(top: &Path) -> Vec<u8> {
    let mut tar = Vec::new();
    pack_tree(&dir_fd(top), &mut tar, PackOptions::default()).unwrap();
    tar
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: BTreeMap::new(),
        size: 0,
        sparse: None,
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        writer.begin(entry).unwrap();
        writer.zeros(entry.size).unwrap();
    }
    writer.finish().unwrap()
}

/// What a file is, in a line.
fn looks(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let what = match meta.is_symlink() {
        true => fs::read_link(path).unwrap().display().to_string(),
        false if meta.is_file() => format!("{} bytes", meta.len()),
        false => format!("{:?}", meta.file_type()),
    };
    let owner = (meta.uid(), meta.gid());
    format!(
        "{what} {:o} {owner:?} {} links={}",
        meta.mode() & 0o7777,
        meta.mtime(),
        meta.nlink()
    )
}

#[test]
fn gnu_tar_unpacks_what_is_packed() {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    let long = "x".repeat(90);
    let deep = format!("{long}/{long}/{long}");
    fs::create_dir_all(at(&deep)).unwrap();
    fs::write(at(&format!("{deep}/file")), "deep").unwrap();
    fs::write(at("umlaut-\u{e4}"), "ä").unwrap();
    fs::write(at("f"), vec![7; 100_000]).unwrap();
    fs::hard_link(at("f"), at("g")).unwrap();
    symlink(long.repeat(2), at("l")).unwrap();
    fs::set_permissions(at("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(at("umlaut-\u{e4}"), Some(3_000_000), Some(2_999_999)).unwrap();
    rustix::fs::mknodat(CWD, at("p"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    rustix::fs::setxattr(at("f"), "user.note", b"a\0b", XattrFlags::empty()).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (5 << 20) - 3).unwrap();
    run("touch", &["-d", "1965-03-04 05:06:07 UTC", "f"], top.path());
    run("touch", &["-d", "2300-01-01 00:00:00 UTC", "p"], top.path());

    let tar = packed(top.path());
    let to = tempfile::tempdir().unwrap();
    fs::write(to.path().join("a.tar"), &tar).unwrap();
    let out = to.path().join("out");
    fs::create_dir(&out).unwrap();
    run("tar", &["-xpf", "../a.tar", "--xattrs", "--same-owner"], &out);
    let list = |dir: &Path| run("find", &[".", "-mindepth", "1", "!", "-name", "socket"], dir);
    let names = list(&out);
    let mut sorted: Vec<&str> = names.lines().collect();
    sorted.sort_unstable();
    let own = list(top.path());
    let mut expected: Vec<&str> = own.lines().collect();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    for name in expected {
        let (a, b) = (looks(&top.path().join(name)), looks(&out.join(name)));
        // The time of a link is now where it was made now.
        assert_eq!(a, b, "{name}");
    }
    assert_eq!(fs::read(out.join("f")).unwrap(), vec![7; 100_000]);
    assert!(fs::read(out.join("sparse")).unwrap().ends_with(b"\0end"));
    let mut value = [0; 8];
    let read = rustix::fs::getxattr(out.join("f"), "user.note", &mut value).unwrap();
    assert_eq!(&value[..read], b"a\0b");
    // And our own reader, with the same archive again.
    let again = to.path().join("again");
    fs::create_dir(&again).unwrap();
    let root = dir_fd(&again);
    let how = Extract::careful(&root, Owners::Archive);
    assert!(extract(tar.as_slice(), &how).unwrap().is_empty());
    assert_eq!(packed(&again), tar);
}

/// A file of 8 MiB with a block of data at each of these places.
fn holey(path: &Path, blocks: &[u64]) {
    let file = File::create(path).unwrap();
    file.set_len(8 << 20).unwrap();
    for at in blocks {
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], *at).unwrap();
    }
}

#[test]
fn holes_are_kept_the_way_gnu_tar_keeps_them() {
    let top = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(130));
    fs::create_dir(top.path().join("d".repeat(120))).unwrap();
    let last = (8 << 20) - 4096;
    let files: [(&str, &[u64]); 6] = [
        ("nothing", &[]),
        ("front", &[last]),
        ("end", &[0]),
        ("middle", &[0, last]),
        ("between", &[1 << 20, 3 << 20, 5 << 20]),
        (&long, &[4 << 20]),
    ];
    for (name, blocks) in files {
        holey(&top.path().join(name), blocks);
    }
    fs::write(top.path().join("whole"), vec![7; 70_000]).unwrap();
    fs::write(top.path().join("empty"), "").unwrap();
    let mut ours = Vec::new();
    let options = PackOptions {
        holes: true,
        ..PackOptions::default()
    };
    pack_tree(&dir_fd(top.path()), &mut ours, options).unwrap();
    assert!(ours.len() < 256 * 1024, "{}", ours.len());
    let to = tempfile::tempdir().unwrap();
    let gnus = to.path().join("gnu.tar");
    run(
        "tar",
        &["-cSf", gnus.to_str().unwrap(), "--format=pax", "."],
        top.path(),
    );
    fs::write(to.path().join("ours.tar"), &ours).unwrap();
    for made in ["read by gnu", "read by us", "gnu's"] {
        let out = to.path().join(made);
        fs::create_dir(&out).unwrap();
        match made {
            "read by gnu" => drop(run("tar", &["-xf", "../ours.tar"], &out)),
            read => {
                let tar = if read == "gnu's" {
                    fs::read(&gnus).unwrap()
                } else {
                    ours.clone()
                };
                let root = dir_fd(&out);
                extract(tar.as_slice(), &Extract::careful(&root, Owners::Archive)).unwrap();
            }
        }
        for name in [
            "nothing", "front", "end", "middle", "between", &long, "whole", "empty",
        ] {
            let (was, is) = (top.path().join(name), out.join(name));
            assert!(
                fs::read(&was).unwrap() == fs::read(&is).unwrap(),
                "{made}: {name}"
            );
            let kilobytes = fs::metadata(&is).unwrap().blocks() / 2;
            assert!(kilobytes < 1024, "{made}: {name} {kilobytes}");
        }
        assert!(!out.join("GNUSparseFile.0").exists(), "{made}");
    }
}

#[test]
fn more_than_eight_gigabytes_are_said_by_pax() {
    let mut big = entry("big", Kind::File);
    big.size = 9 << 30;
    let mut head = Vec::new();
    Writer::new(&mut head).begin(&big).unwrap();
    let mut reader = Reader::new(Stream(head.as_slice()));
    assert_eq!(reader.next_entry().unwrap().unwrap().size, 9 << 30);
}

#[test]
fn an_archive_leads_nobody_out_of_the_destination() {
    let dir = tempfile::tempdir().unwrap();
    let (out, canary) = (dir.path().join("out"), dir.path().join("canary"));
    for path in [&out, &canary] {
        fs::create_dir(path).unwrap();
    }
    fs::write(canary.join("secret"), "secret").unwrap();
    let lead = |to: &str| entry("x/l", Kind::Symlink(to.as_bytes().to_vec()));
    let file = |path: &str| Entry {
        size: 3,
        ..entry(path, Kind::File)
    };
    let absolute = canary.to_str().unwrap();
    let hostile = [
        vec![lead(absolute), file("x/l/new")],
        vec![lead("../../canary"), file("x/l/secret")],
        vec![
            lead("../../canary"),
            entry("x/l", Kind::Directory),
            file("x/l/new"),
        ],
        vec![file("../canary/new")],
        vec![file("x/../../canary/new")],
        vec![entry("x/h", Kind::HardLink(b"../canary/secret".to_vec()))],
        vec![
            lead("../../canary"),
            entry("x/h", Kind::HardLink(b"x/l/secret".to_vec())),
        ],
        vec![
            lead("../../canary/secret"),
            entry("x/h", Kind::HardLink(b"x/l".to_vec())),
            file("x/h"),
        ],
        vec![file(&format!("{absolute}/new"))],
        vec![file("y/new")],
    ];
    for (n, entries) in hostile.iter().enumerate() {
        let root = dir_fd(&out);
        let how = Extract {
            rename: Some((b"x".to_vec(), b"there".to_vec())),
            ..Extract::careful(&root, Owners::Archive)
        };
        let result = extract(archive(entries).as_slice(), &how);
        // The one that ends in a file of its own is fine; whatever they end in, nothing came out or in.
        assert!(result.is_err() || n == 7, "{n}: {result:?}");
        let names: Vec<_> = fs::read_dir(&canary)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"], "{n}");
        assert_eq!(
            fs::read_to_string(canary.join("secret")).unwrap(),
            "secret",
            "{n}"
        );
        assert_eq!(fs::metadata(canary.join("secret")).unwrap().nlink(), 1, "{n}");
        fs::remove_dir_all(&out).unwrap();
        fs::create_dir(&out).unwrap();
    }
}

#[test]
fn what_gives_rights_is_left_out_where_files_become_ours() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir_fd(dir.path());
    let mut file = entry("f", Kind::File);
    (file.mode, file.uid) = (0o6755, 1000);
    file.xattrs.insert(b"user.a".to_vec(), b"1".to_vec());
    file.xattrs.insert(b"trusted.a".to_vec(), b"1".to_vec());
    let device = entry("d", Kind::Character(1, 3));
    let left = extract(
        archive(&[file, device]).as_slice(),
        &Extract::careful(&root, Owners::Own),
    )
    .unwrap();
    assert_eq!(left, [("d".into(), "it is a device")]);
    let meta = fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, 0));
    let mut value = [0; 4];
    let path = dir.path().join("f");
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut value), Ok(1));
    assert!(rustix::fs::getxattr(&path, "trusted.a", &mut value).is_err());
}

/// Trees as overlayfs would show them; its marks in the upper one.
struct Overlay {
    dir: tempfile::TempDir,
}

impl Overlay {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for tree in ["upper", "merged", "base"] {
            fs::create_dir(dir.path().join(tree)).unwrap();
        }
        Self { dir }
    }

    /// A file, or a directory where the path ends in a slash, in these trees.
    fn put(&self, trees: &str, path: &str) -> &Self {
        for tree in trees.split(' ') {
            let at = self.dir.path().join(tree).join(path);
            fs::create_dir_all(if path.ends_with('/') {
                &at
            } else {
                at.parent().unwrap()
            })
            .unwrap();
            if !path.ends_with('/') {
                fs::write(&at, path).unwrap();
            }
        }
        self
    }

    fn whiteout(&self, path: &str) -> &Self {
        let at = self.dir.path().join("upper").join(path);
        rustix::fs::mknodat(CWD, at, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        self
    }

    fn mark(&self, path: &str, mark: &str, value: &[u8]) -> &Self {
        let at = self.dir.path().join("upper").join(path);
        rustix::fs::setxattr(at, mark, value, XattrFlags::empty()).unwrap();
        self
    }

    fn trees(&self, ours: &[&str]) -> Trees {
        // Directories that nobody touched have the same time in all trees.
        run(
            "find",
            &[".", "-type", "d", "-exec", "touch", "-d", "@0", "{}", "+"],
            self.dir.path(),
        );
        let open = |tree: &str| dir_fd(&self.dir.path().join(tree));
        Trees {
            upper: open("upper"),
            merged: open("merged"),
            base: open("base"),
            ours: ours.iter().map(PathBuf::from).collect(),
        }
    }

    fn listed(&self, ours: &[&str]) -> Vec<String> {
        let letter = |kind| ["C", "A", "D"][usize::from(u8::from(kind))];
        let changes = changes(&self.trees(ours)).unwrap();
        changes
            .iter()
            .map(|c| format!("{} {}", letter(c.kind), c.path))
            .collect()
    }

    fn layer(&self) -> Vec<String> {
        let mut tar = Vec::new();
        layer(&self.trees(&[]), &mut tar, PackOptions::default()).unwrap();
        let mut reader = Reader::new(Stream(tar.as_slice()));
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        names
    }
}

#[test]
fn deep_changes_do_not_touch_what_is_above_them() {
    let all = "upper merged base";
    let overlay = Overlay::new();
    overlay
        .put(all, "a/b/changed")
        .put("merged base", "a/b/kept")
        .put("upper merged", "a/c/new");
    assert_eq!(
        overlay.listed(&[]),
        ["C /a", "C /a/b/changed", "A /a/c", "A /a/c/new"]
    );
    assert_eq!(overlay.layer(), ["a/", "a/b/", "a/b/changed", "a/c/", "a/c/new"]);
}

#[test]
fn deleted_opaque_and_moved_directories() {
    let overlay = Overlay::new();
    overlay
        .put("upper merged base", "d/")
        .put("base", "d/gone")
        .whiteout("d/gone")
        .put("base", "o/old")
        .put("base", "o/same")
        .put("upper merged", "o/same")
        .put("upper merged", "o/new")
        .mark("o", "trusted.overlay.opaque", b"y")
        .put("base", "r/was")
        .put("upper merged", "r/")
        .put("merged", "r/moved/here")
        .mark("r", "trusted.overlay.redirect", b"/elsewhere")
        .put("upper", "never/")
        .whiteout("never/there");
    assert_eq!(
        overlay.listed(&[]),
        [
            "C /d",
            "D /d/gone",
            "C /o",
            "A /o/new",
            "D /o/old",
            "C /o/same",
            "C /r",
            "A /r/moved",
            "A /r/moved/here",
            "D /r/was"
        ]
    );
    let layer = overlay.layer();
    for name in ["d/.wh.gone", "o/.wh.old", "o/same", "r/moved/here", "r/.wh.was"] {
        assert!(layer.iter().any(|n| n == name), "{name} in {layer:?}");
    }
}

#[test]
fn places_for_mounts_are_no_changes() {
    let ours = ["/etc/hosts", "/run/secrets", "/data/deep", "/proc"];
    let overlay = Overlay::new();
    let empty = |path: &str| {
        overlay.put("upper merged", path);
        for tree in ["upper", "merged"] {
            fs::write(overlay.dir.path().join(tree).join(path), "").unwrap();
        }
    };
    overlay
        .put("upper merged base", "etc/")
        .put("upper merged", "run/secrets/")
        .put("upper merged", "proc/");
    overlay.put("upper merged", "data/deep/");
    empty("etc/hosts");
    assert_eq!(overlay.listed(&ours), [""; 0]);
    overlay
        .put("upper merged", "data/own")
        .put("upper merged", "etc/hosts2");
    assert_eq!(
        overlay.listed(&ours),
        ["A /data", "A /data/own", "C /etc", "A /etc/hosts2"]
    );
}

#[test]
fn a_name_that_would_be_a_whiteout_is_no_layer() {
    let overlay = Overlay::new();
    overlay.put("upper merged", ".wh.x");
    let refused = layer(&overlay.trees(&[]), Vec::new(), PackOptions::default()).unwrap_err();
    assert!(refused.to_string().contains(".wh."), "{refused}");
}

#[test]
fn names_are_bytes() {
    let top = tempfile::tempdir().unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"a\xff\nb");
    fs::write(top.path().join(odd), "x").unwrap();
    let tar = packed(top.path());
    let to = tempfile::tempdir().unwrap();
    let root = dir_fd(to.path());
    extract(tar.as_slice(), &Extract::careful(&root, Owners::Own)).unwrap();
    assert!(to.path().join(odd).is_file());
}
