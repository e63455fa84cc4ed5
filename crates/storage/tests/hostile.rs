//! Layers that mean harm: nothing of theirs may be seen, followed or written outside the layer.
#![allow(clippy::unwrap_used)]

mod common;

use common::tarball::{Spelling, seal};
use common::{Fixture, Layout, Member, Pack, Tar, assert_says, entries, snapshot};
use storage::{Limits, LoadOptions, Store};

#[test]
fn dot_dot_is_refused_by_name_wherever_it_is_spelled() {
    for path in [
        "../out",
        "a/../../out",
        "a/..",
        "/../out",
        "./..",
        "a/.wh...",
        ".wh.../x/../y",
    ] {
        for spelling in [Spelling::Pax, Spelling::PaxOnly, Spelling::Gnu] {
            let error = Fixture::new().refuse(Tar::of([Member::file(path, "").spelled(spelling)]));
            assert_says(&error, &[&format!("entry \"{path}\""), "\"..\""]);
        }
    }
}

#[test]
fn paths_that_cannot_be_are_refused_by_name() {
    let long = "n".repeat(256);
    let cases: [(Member, &str); 8] = [
        (
            Member::file("a", "").pax("path", "a\0b"),
            "pax header is malformed",
        ),
        (Member::file(&long, ""), "File name too long"),
        (Member::file("/.", ""), "only a directory can stand for the root"),
        (
            Member::symlink(".", "x"),
            "only a directory can stand for the root",
        ),
        (Member::file("d/.wh.", ""), "whiteout of no file"),
        (Member::file("d/.wh..", ""), "whiteout of no file"),
        (
            Member::file("f", "").pax("uid", "4294967295"),
            "owner 4294967295:0 is not possible",
        ),
        (
            Member::file("f", "").pax("gid", "99999999999"),
            "not possible on Linux",
        ),
    ];
    for (member, why) in cases {
        assert_says(&Fixture::new().refuse(Tar::of([member])), &[why]);
    }
}

/// Every way out that a link can promise, tried with every kind of entry behind it.
#[test]
fn links_never_lead_out_of_the_layer() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let before = snapshot(&outside);
    let absolute = outside.display().to_string();
    let up = format!("{}{}", "../".repeat(30), absolute.trim_start_matches('/'));
    for target in [&absolute, &up, "/proc/self/root", "/proc/self/cwd", "/dev/fd"] {
        let layer = fixture
            .unpack(Tar::of([
                Member::symlink("l", target),
                Member::file("l/new", target),
                Member::file("l/victim", "overwritten"),
                Member::dir("l/dir").mode(0o777),
                Member::symlink("l/sym", "x"),
                Member::fifo("l/fifo"),
                Member::hardlink("l/hard", "l/victim"),
                Member::file("l/.wh.victim2", ""),
                Member::file("l/.wh..wh..opq", ""),
                Member::symlink("l2", "l"),
                Member::file("l2/through-two", ""),
            ]))
            .unwrap();
        let inside = layer.join(absolute.trim_start_matches('/'));
        if target.contains("outside") {
            assert_eq!(std::fs::read(inside.join("victim")).unwrap(), b"overwritten");
            assert!(inside.join("through-two").exists());
        }
        assert_eq!(snapshot(&outside), before, "{target}");
    }
}

/// The last component is a link to the outside, and an entry of every kind takes its place.
#[test]
fn an_entry_replaces_a_link_and_does_not_go_through_it() {
    let fixture = Fixture::new();
    let victim = fixture.path("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let before = std::fs::metadata(&victim).unwrap();
    let target = victim.display().to_string();
    let kinds = [
        Member::file("l", "overwritten")
            .mode(0o777)
            .owner(1, 1)
            .xattr("user.x", "y"),
        Member::dir("l").mode(0o777).owner(1, 1),
        Member::symlink("l", "elsewhere")
            .owner(1, 1)
            .xattr("trusted.x", "y"),
        Member::fifo("l").mode(0o777).owner(1, 1).xattr("trusted.x", "y"),
        Member::character("l", 1, 3).mode(0o777).owner(1, 1),
        Member::hardlink("l", "other").mode(0o777).owner(1, 1),
        Member::file(".wh.l", ""),
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let marker = Member::file("marker", i.to_string());
        fixture
            .unpack(Tar::of([
                marker,
                Member::file("other", ""),
                Member::symlink("l", &target),
                kind,
            ]))
            .unwrap();
        let after = std::fs::metadata(&victim).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::read(&victim).unwrap(), b"untouched");
        assert_eq!(
            (after.mode(), after.uid(), after.ctime_nsec()),
            (before.mode(), before.uid(), before.ctime_nsec())
        );
    }
}

#[test]
fn links_swapped_between_entries_are_looked_at_anew() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let target = outside.display().to_string();
    let layer = fixture
        .unpack(Tar::of([
            Member::dir("d"),
            Member::file("d/1", "in d"),
            Member::symlink("d", &target),
            Member::file("d/2", "behind the link"),
            Member::symlink("d", "other"),
            Member::file("d/3", "in other"),
            Member::dir("d"),
            Member::file("d/4", "in d again"),
            Member::dir("e/sub"),
            Member::file("e/sub/x", ""),
            Member::symlink("e", &target),
            Member::file("e/sub/y", ""),
        ]))
        .unwrap();
    assert_eq!(entries(&outside), Vec::<String>::new());
    assert_eq!(entries(&layer.join("d")), ["4"]);
    assert_eq!(entries(&layer.join("other")), ["3"]);
    assert_eq!(entries(&layer.join(target.trim_start_matches('/'))), ["2", "sub"]);
}

#[test]
fn directory_times_are_not_set_through_a_link_that_came_later() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let before = std::fs::metadata(&outside).unwrap().modified().unwrap();
    fixture
        .unpack(Tar::of([
            Member::dir("d"),
            Member::symlink("d", outside.display().to_string()),
        ]))
        .unwrap();
    assert_eq!(std::fs::metadata(&outside).unwrap().modified().unwrap(), before);
}

#[test]
fn hard_links_to_the_outside_and_to_nothing_are_refused() {
    let fixture = Fixture::new();
    let victim = fixture.path("victim");
    std::fs::write(&victim, "secret").unwrap();
    let path = victim.display().to_string();
    let up = format!("{}{}", "../".repeat(30), path.trim_start_matches('/'));
    for target in [&path, &up, "missing", "d/missing", "", "/", "f/x", ".."] {
        let error = Fixture::new().refuse(Tar::of([
            Member::dir("d"),
            Member::file("f", ""),
            Member::hardlink("h", target),
        ]));
        assert_says(&error, &["entry \"h\"", "hard link target"]);
    }
    let error = Fixture::new().refuse(Tar::of([Member::dir("d"), Member::hardlink("h", "d")]));
    assert_says(&error, &["entry \"h\"", "is a directory"]);
    // Through a link that escapes: stays inside, where there is nothing.
    let parent = fixture.dir.path().display().to_string();
    let error = Fixture::new().refuse(Tar::of([
        Member::symlink("l", &parent),
        Member::hardlink("h", "l/victim"),
    ]));
    assert_says(&error, &["entry \"h\"", "hard link target"]);
    // To a link itself, not to what it points to.
    let layer = fixture
        .unpack(Tar::of([Member::symlink("l", &path), Member::hardlink("h", "l")]))
        .unwrap();
    assert_eq!(std::fs::read_link(layer.join("h")).unwrap(), victim);
}

#[test]
fn devices_and_fifos_in_the_way_are_replaced_and_never_opened() {
    let fixture = Fixture::new();
    // Opening a FIFO would hang, writing to /dev/null's number would lose the content.
    let layer = fixture
        .unpack(Tar::of([
            Member::fifo("fifo"),
            Member::file("fifo", "1"),
            Member::character("null", 1, 3),
            Member::file("null", "2"),
            Member::fifo("dir"),
            Member::dir("dir"),
            Member::file("dir/x", "3"),
            Member::fifo("again"),
            Member::fifo("again"),
            Member::fifo("linked"),
            Member::hardlink("fifo2", "linked"),
        ]))
        .unwrap();
    let tree = snapshot(&layer);
    for (path, content) in [("fifo", "1"), ("null", "2"), ("dir/x", "3")] {
        assert_eq!(tree[path.as_bytes()].content, content.as_bytes());
    }
    for way in [
        Member::fifo("way"),
        Member::character("way", 1, 3),
        Member::file("way", ""),
    ] {
        let error = Fixture::new().refuse(Tar::of([way, Member::file("way/x", "")]));
        assert_says(
            &error,
            &["entry \"way/x\"", "\"way\" is in its way and is not a directory"],
        );
    }
}

#[test]
fn link_loops_end_in_an_error() {
    let error = Fixture::new().refuse(Tar::of([
        Member::symlink("a", "b"),
        Member::symlink("b", "a"),
        Member::file("a/x", ""),
    ]));
    assert_says(&error, &["entry \"a/x\"", "symbolic links"]);
    // Each doubles the path: fifty links, a million billion components.
    let doubling = (0..50).map(|i| Member::symlink(format!("l{i}"), format!("l{n}/l{n}", n = i + 1)));
    let error = Fixture::new().refuse(Tar::of(doubling.chain([Member::file("l0/x", "")])));
    assert_says(&error, &["entry \"l0/x\"", "symbolic links"]);
}

/// Deeper than PATH_MAX, descriptors and stacks: it unpacks, and it can be removed again.
#[test]
fn directories_nested_through_links_can_be_removed() {
    let fixture = Fixture::new();
    let mut members = vec![Member::dir("l0")];
    for i in 0..6 {
        let steps = (1..=350).map(|depth| Member::dir(format!("l{i}/{}", "d/".repeat(depth))));
        members.extend(steps);
        members.push(Member::symlink(
            format!("l{}", i + 1),
            format!("l{i}/{}", "d/".repeat(350)),
        ));
    }
    let error = {
        let mut bad = members.clone();
        bad.push(Member::file("..", ""));
        fixture.refuse(Tar::of(bad))
    };
    assert_says(&error, &["\"..\""]);
    fixture.unpack(Tar::of(members)).unwrap();
    fixture.store.prune(&Default::default(), false).unwrap();
    fixture.assert_empty();
}

#[test]
fn broken_archives_say_what_is_wrong() {
    let whole = Tar::of([Member::file("f", vec![7; 5000])]);
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    let mut endless = Tar::default();
    endless.push(&Member {
        flag: b'L',
        content: vec![b'x'; 2 << 20],
        ..Member::new(b'L', "x")
    });
    let mut huge = [0; 512];
    huge.copy_from_slice(&Tar::of([Member::file("f", "")])[..512]);
    huge[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
    seal(&mut huge);
    let mut negative = huge;
    negative[124..136].fill(0xff);
    seal(&mut negative);
    let zeros_between = [&[0; 512][..], &whole].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (whole[..2000].to_vec(), "cut off"),
        (whole[..100].to_vec(), "cut off"),
        (flipped, "checksum is wrong"),
        (b"<html>not found</html>".repeat(100), "not a tar archive"),
        (endless.end(), "header of 2097152 bytes"),
        (huge.to_vec(), "cut off"),
        (negative.to_vec(), "size is not a number"),
        (zeros_between, "header follows a block of zeros"),
        (
            Tar::of([Member::new(b'M', "multi")]),
            "its type 'M' is not supported",
        ),
        (
            Tar::of([Member::file("f", "").pax("GNU.sparse.major", "9")]),
            "sparse file is not supported",
        ),
        (Tar::of([sparse("0,3,2,3", 9, 6)]), "map of holes does not fit"),
        (Tar::of([sparse("0,3", 2, 3)]), "map of holes does not fit"),
        (
            Tar::of([sparse("0,99999999999999999999", 9, 3)]),
            "map of holes is malformed",
        ),
        (
            Tar::of([sparse("9223372036854775807,9223372036854775807", 9, 3)]),
            "map of holes does not fit",
        ),
        (
            Tar::of([Member {
                content: b"99 path=x\n".to_vec(),
                ..Member::new(b'x', "x")
            }]),
            "pax header",
        ),
        (b"BZh91AY&SY".to_vec(), "compressed with bzip2"),
        (b"\xfd7zXZ\0 garbage".to_vec(), "cannot read the archive"),
        (b"\x1f\x8b garbage".to_vec(), "cannot read the archive"),
        (b"\x28\xb5\x2f\xfd garbage".to_vec(), "cannot read the archive"),
    ];
    for (layer, why) in cases {
        let error = Fixture::new().refuse(layer);
        assert_says(&error, &["image oci:", "layer sha256:", why]);
    }
}

fn sparse(map: &str, size: u64, data: usize) -> Member {
    Member::file("f", vec![1; data])
        .pax("GNU.sparse.map", map)
        .pax("GNU.sparse.size", size.to_string())
}

#[test]
fn limits_hold_for_bombs() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        bytes: 1 << 20,
        entries: 100,
    };
    let store = Store::with_limits(&dir.path().join("store"), limits).unwrap();
    let bomb = Tar::of([Member::file("zeros", vec![0; 3 << 20])]);
    let crowd = Tar::of((0..101).map(|i| Member::file(i.to_string(), "")));
    let behind_the_end = [Tar::of([]), vec![0; 2 << 20]].concat();
    for (layer, why) in [
        (bomb, "unpacks to more than the 1048576 bytes"),
        (crowd, "more than the 100 entries"),
        (behind_the_end, "unpacks to more than"),
    ] {
        for pack in [Pack::Gzip, Pack::Zstd, Pack::Plain] {
            let mut layout = Layout::new(&dir.path().join("layout"));
            layout.image(None, &[(pack, layer.clone())]);
            let error = store
                .load(&layout.source(None), &LoadOptions::new(&false.into()))
                .unwrap_err();
            assert_says(&error.to_string(), &[why]);
            assert_eq!(entries(&dir.path().join("store/tmp")), Vec::<String>::new());
        }
    }
}
