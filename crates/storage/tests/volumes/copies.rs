//! Volumes as archives, from archives, and as other volumes: whole, with all that a file has, and never anywhere else.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::sync::atomic::AtomicBool;

use storage::{Holes, Volumes};

use super::common::snapshot::Picture;
use super::common::{Member, Pack, Tar, assert_says, entries, snapshot};
use super::{Host, name, spec};
use model::spec::VolumeDriver;

static NEVER: AtomicBool = AtomicBool::new(false);

/// A volume with one of everything, whose root is somebody's.
fn furnished(host: &Host, volumes: &Volumes) -> std::path::PathBuf {
    volumes.apply(&name("from"), &spec(VolumeDriver::Local)).unwrap();
    let data = host.home("from/_data");
    let archive = Tar::of([
        Member::dir("./").mode(0o2750).owner(999, 998),
        Member::dir("d")
            .mode(0o1777)
            .owner(1, 2)
            .xattr("user.of", "a directory"),
        Member::file("d/secret", "text")
            .mode(0o4640)
            .owner(70_000, 2_500_000)
            .xattr("user.x", "\0raw"),
        Member::hardlink("d/again", "d/secret"),
        Member::symlink("away", "/etc/passwd"),
        Member::symlink("loop", "loop"),
        Member::fifo("pipe"),
        Member::character("null", 1, 3),
        Member::file(".wh.kept", "a name like any other"),
        Member::file(".wh..wh..opq", ""),
        Member::file(format!("{}/f", "long".repeat(40)), vec![7; 70_000]),
    ]);
    let imported = volumes.import(&name("from"), &archive[..], &NEVER).unwrap();
    assert!(!imported.made && imported.left_out.is_empty(), "{imported:?}");
    let holes = fs::File::create(data.join("holes")).unwrap();
    holes.write_all_at(b"end", 3 << 20).unwrap();
    data
}

#[track_caller]
fn assert_same(before: &Picture, after: &Picture, what: &str) {
    for (path, node) in before {
        assert_eq!(
            after.get(path),
            Some(node),
            "{what}: {}",
            String::from_utf8_lossy(path)
        );
    }
    assert_eq!(before.len(), after.len(), "{what}");
}

#[test]
fn a_volume_comes_back_from_its_archive_as_it_was() {
    let host = Host::new();
    let volumes = host.open();
    let data = furnished(&host, &volumes);
    let before = snapshot(&data);
    assert_eq!(
        (before[&b""[..]].owner, before[&b""[..]].permissions()),
        ((999, 998), 0o2750)
    );
    assert_eq!(before[&b"d/again"[..]].same_as, b"d/again");
    assert_eq!(before[&b"d/secret"[..]].same_as, b"d/again");
    let mut archive = Vec::new();
    volumes
        .export(&name("from"), &mut archive, Holes::Zeros, &NEVER)
        .unwrap();
    for (number, pack) in [Pack::Plain, Pack::Gzip, Pack::Zstd].into_iter().enumerate() {
        let to = name(&format!("to{number}"));
        let imported = volumes.import(&to, &pack.pack(&archive)[..], &NEVER).unwrap();
        assert!(imported.made && imported.left_out.is_empty());
        assert_same(
            &before,
            &snapshot(&host.home(to.as_str()).join("_data")),
            &format!("{pack:?}"),
        );
        assert!(host.home(to.as_str()).join("filled").exists());
    }
    volumes.clone_as(&name("from"), &name("copy"), &NEVER).unwrap();
    assert_same(&before, &snapshot(&host.home("copy/_data")), "clone");
    assert_eq!(volumes.list().unwrap().len(), 5);
    assert_eq!(entries(&host.home(".new")), Vec::<String>::new());
}

/// Bytes that a tree's files take on disk.
fn on_disk(top: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(top).unwrap();
    entries
        .map(|e| e.unwrap().metadata().unwrap().blocks() * 512)
        .sum()
}

#[test]
fn holes_stay_holes_in_a_clone_and_where_an_archive_has_them() {
    let host = Host::new();
    let volumes = host.open();
    volumes.apply(&name("from"), &spec(VolumeDriver::Local)).unwrap();
    let size = 10 << 30;
    let disk = fs::File::create(host.home("from/_data/disk")).unwrap();
    disk.set_len(size).unwrap();
    for at in [0, 4 << 30, size - 4096] {
        disk.write_all_at(&[7; 4096], at).unwrap();
    }
    let mut archive = Vec::new();
    volumes
        .export(&name("from"), &mut archive, Holes::Kept, &NEVER)
        .unwrap();
    assert!(archive.len() < 1 << 20, "{}", archive.len());
    volumes.import(&name("back"), &archive[..], &NEVER).unwrap();
    volumes.clone_as(&name("from"), &name("copy"), &NEVER).unwrap();
    for copy in ["back", "copy"] {
        let data = host.home(copy).join("_data");
        let disk = fs::File::open(data.join("disk")).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), size, "{copy}");
        assert!(on_disk(&data) < 4 << 20, "{copy}: {}", on_disk(&data));
        let mut block = [0; 8192];
        disk.read_exact_at(&mut block, (4 << 30) - 4096).unwrap();
        assert!(
            block[..4096] == [0; 4096] && block[4096..] == [7; 4096],
            "{copy}: in the middle"
        );
        disk.read_exact_at(&mut block, size - 8192).unwrap();
        assert!(
            block[..4096] == [0; 4096] && block[4096..] == [7; 4096],
            "{copy}: at the end"
        );
    }
}

#[test]
fn an_import_goes_over_what_is_there_and_leaves_the_rest() {
    let host = Host::new();
    let volumes = host.open();
    volumes.apply(&name("v"), &spec(VolumeDriver::Local)).unwrap();
    let data = host.home("v/_data");
    fs::write(data.join("mine"), "mine").unwrap();
    fs::write(data.join("both"), "old").unwrap();
    fs::create_dir(data.join("dir")).unwrap();
    fs::write(data.join("dir/in"), "in").unwrap();
    let archive = Tar::of([Member::file("both", "new"), Member::file("dir/more", "more")]);
    volumes.import(&name("v"), &archive[..], &NEVER).unwrap();
    let read = |path: &str| fs::read_to_string(data.join(path)).unwrap();
    assert_eq!(
        ["mine", "both", "dir/in", "dir/more"].map(read),
        ["mine", "new", "in", "more"]
    );
}

#[test]
fn nothing_outside_of_the_volume_is_reached() {
    let host = Host::new();
    let volumes = host.open();
    volumes.apply(&name("v"), &spec(VolumeDriver::Local)).unwrap();
    let canary = host.path("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "canary").unwrap();
    // A container may have left links of its own.
    symlink(&canary, host.home("v/_data/out")).unwrap();
    let shown = canary.display();
    for (what, hostile) in [
        ("up", Tar::of([Member::file("../canary/up", "x")])),
        (
            "its own link",
            Tar::of([
                Member::symlink("l", shown.to_string()),
                Member::file("l/through", "x"),
            ]),
        ),
        ("the volume's link", Tar::of([Member::file("out/through", "x")])),
        (
            "a hard link",
            Tar::of([
                Member::hardlink("hard", format!("{shown}/file")),
                Member::file("hard", "x"),
            ]),
        ),
        (
            "a hard link up",
            Tar::of([Member::hardlink("hard", "../../../../canary/file")]),
        ),
    ] {
        for to in ["v", "fresh"] {
            // Refused, or put inside: whichever, it ends there.
            let ended = volumes.import(&name(to), &hostile[..], &NEVER);
            if to == "fresh" && ended.is_err() {
                assert!(!host.home("fresh").exists(), "{what}");
            }
            assert_eq!(entries(&canary), ["file"], "{what} into {to}");
            assert_eq!(
                fs::read_to_string(canary.join("file")).unwrap(),
                "canary",
                "{what}"
            );
            volumes.remove(&name("fresh")).unwrap();
        }
    }
    assert_eq!(entries(&host.home(".new")), Vec::<String>::new());
}

#[test]
fn what_is_cut_off_or_no_archive_leaves_no_volume_behind() {
    let host = Host::new();
    let volumes = host.open();
    let whole = Tar::of([Member::file("a", vec![1; 9000]), Member::file("b", vec![2; 9000])]);
    for (bad, says) in [
        (&whole[..12_000], "cut off"),
        (&Pack::Gzip.pack(&whole)[..60], "import volume new"),
        (&b"this is a text, and no archive at all"[..], "import volume new"),
        (&b"BZh91AY and so on"[..], "compressed with bzip2"),
    ] {
        let error = volumes.import(&name("new"), bad, &NEVER).unwrap_err().to_string();
        assert_says(&error, &[says]);
        assert_eq!(entries(&host.roots.volumes()), [".new"], "{says}");
        assert_eq!(entries(&host.home(".new")), Vec::<String>::new(), "{says}");
    }
    let cancelled = AtomicBool::new(true);
    volumes.import(&name("new"), &whole[..], &cancelled).unwrap_err();
    for error in [
        volumes
            .export(&name("none"), std::io::sink(), Holes::Kept, &NEVER)
            .unwrap_err(),
        volumes.clone_as(&name("none"), &name("new"), &NEVER).unwrap_err(),
    ] {
        assert_says(
            &error.to_string(),
            &["there is no volume none", "wharf volume ls"],
        );
    }
    furnished(&host, &volumes);
    volumes.apply(&name("there"), &spec(VolumeDriver::Local)).unwrap();
    let error = volumes
        .clone_as(&name("from"), &name("there"), &NEVER)
        .unwrap_err();
    assert_says(&error.to_string(), &["there is a volume there already"]);
}
