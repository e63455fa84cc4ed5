//! What well-meant layers become on disk.
#![allow(clippy::unwrap_used)]

mod common;

use common::snapshot::{CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK};
use common::tarball::{Spelling, seal};
use common::{Fixture, Layout, Member, Pack, Tar, snapshot};

#[test]
fn a_layer_is_the_same_however_it_is_compressed() {
    let fixture = Fixture::new();
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    for pack in [Pack::Plain, Pack::Gzip, Pack::GzipTwice, Pack::Zstd] {
        let name = format!("{pack:?}");
        let layer = Tar::of([Member::file(&name, &content)]);
        let mut layout = Layout::new(&fixture.path(&name));
        layout.image(None, &[(pack, layer)]);
        let image = fixture.load(&layout.source(None)).unwrap();
        assert_eq!(std::fs::read(image.layers[0].join(&name)).unwrap(), content);
    }
}

#[test]
fn owners_modes_times_and_types_are_kept() {
    let fixture = Fixture::new();
    let layer = fixture
        .unpack(Tar::of([
            Member::dir("./").mode(0o750).owner(5, 6),
            Member::dir("d/").mode(0o1777).owner(1, 2),
            Member::file("d/suid", "x").mode(0o6755).owner(1000, 1000),
            Member::file("d/fine", "y").pax("mtime", "1234.567890123"),
            Member::file("d/old", "").pax("mtime", "-1.25"),
            Member::file("d/far", "").owner(4_294_967_294, 3_000_000),
            Member::symlink("d/link", "/anywhere").owner(7, 8),
            Member::hardlink("same", "d/suid"),
            Member::fifo("fifo").mode(0o622),
            Member::character("null", 1, 3).mode(0o666),
            Member {
                flag: b'4',
                ..Member::character("disk", 259, 70_000)
            },
        ]))
        .unwrap();
    let tree = snapshot(&layer);
    let at = |path: &str| &tree[path.as_bytes()];
    assert_eq!((at("").mode, at("").owner), (DIRECTORY | 0o750, (5, 6)));
    assert_eq!((at("d").mode, at("d").owner), (DIRECTORY | 0o1777, (1, 2)));
    assert_eq!(at("d").mtime, (1_600_000_000, 0));
    assert_eq!(
        (at("d/suid").mode, at("d/suid").owner),
        (FILE | 0o6755, (1000, 1000))
    );
    assert_eq!(at("d/fine").mtime, (1234, 567_890_123));
    assert_eq!(at("d/old").mtime, (-2, 750_000_000));
    assert_eq!(at("d/far").owner, (4_294_967_294, 3_000_000));
    assert_eq!((at("d/link").kind(), at("d/link").owner), (SYMLINK, (7, 8)));
    assert_eq!(at("d/link").content, b"/anywhere");
    assert_eq!(at("d/link").mtime, (1_600_000_000, 0));
    assert_eq!(at("same").same_as, b"d/suid");
    assert_eq!(at("fifo").mode, FIFO | 0o622);
    assert_eq!(
        (at("null").mode, at("null").device),
        (CHARACTER | 0o666, rustix::fs::makedev(1, 3))
    );
    assert_eq!(at("disk").device, rustix::fs::makedev(259, 70_000));
}

#[test]
fn a_store_below_a_setgid_directory_with_acls_unpacks_the_same() {
    let fixture = Fixture::new();
    let parent = fixture.path("shared");
    std::fs::create_dir(&parent).unwrap();
    let acl = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 9, 0, 0, 0, 4, 0, 7, 0, 255, 255, 255, 255,
        16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255,
    ];
    rustix::fs::setxattr(
        &parent,
        "system.posix_acl_default",
        &acl,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    std::os::unix::fs::chown(&parent, Some(0), Some(1234)).unwrap();
    std::fs::set_permissions(&parent, std::os::unix::fs::PermissionsExt::from_mode(0o2775)).unwrap();
    let store = storage::Store::open(&parent.join("store")).unwrap();
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(
        None,
        &[(
            Pack::Gzip,
            Tar::of([
                Member::file("implied/file", "x"),
                Member::dir("d").mode(0o700),
                Member::fifo("d/p"),
                Member::file("d/.wh.x", ""),
            ]),
        )],
    );
    let image = store
        .load(&layout.source(None), &storage::LoadOptions::new(&false.into()))
        .unwrap();
    let tree = snapshot(&image.layers[0]);
    assert_eq!(
        (tree[&b"implied"[..]].mode, tree[&b"implied"[..]].owner),
        (DIRECTORY | 0o755, (0, 0))
    );
    assert_eq!(tree[&b"d"[..]].mode, DIRECTORY | 0o700);
    assert_eq!(tree[&b""[..]].mode, DIRECTORY | 0o755);
    for (path, node) in &tree {
        assert_eq!((node.owner.1, node.xattrs.len()), (0, 0), "{path:?}");
    }
}

#[test]
fn whiteouts_are_what_overlayfs_understands_and_spare_their_own_layer() {
    let fixture = Fixture::new();
    let layer = fixture
        .unpack(Tar::of([
            Member::file("gone/.wh.file", ""),
            Member::file("before", "kept"),
            Member::file(".wh.before", ""),
            Member::file(".wh.after", ""),
            Member::file("after", "kept"),
            Member::dir("dir-before"),
            Member::file("dir-before/x", "kept"),
            Member::file(".wh.dir-before", ""),
            Member::file(".wh.dir-after", ""),
            Member::dir("dir-after"),
            Member::file(".wh.implied", ""),
            Member::file("implied/x", "kept"),
            Member::file("opaque/early", "kept"),
            Member::file("opaque/.wh..wh..opq", ""),
            Member::file("opaque/late", "kept"),
            Member::dir("opaque"),
            Member::dir(".wh..wh.plnk"),
            Member::file(".wh..wh.plnk/1.2", "aufs"),
        ]))
        .unwrap();
    let tree = snapshot(&layer);
    let at = |path: &str| &tree[path.as_bytes()];
    assert_eq!((at("gone/file").mode, at("gone/file").device), (CHARACTER, 0));
    for path in [
        "before",
        "after",
        "dir-before/x",
        "implied/x",
        "opaque/early",
        "opaque/late",
    ] {
        assert_eq!(at(path).content, b"kept", "{path}");
    }
    for (path, opaque) in [
        ("gone", false),
        ("dir-before", true),
        ("dir-after", true),
        ("implied", true),
        ("opaque", true),
    ] {
        let mark = at(path)
            .xattrs
            .get(&b"trusted.overlay.opaque"[..])
            .map(Vec::as_slice);
        assert_eq!(mark, opaque.then_some(&b"y"[..]), "{path}");
    }
    assert!(
        tree.keys().all(|path| !path.windows(4).any(|w| w == b".wh.")),
        "{:?}",
        tree.keys()
    );
}

#[test]
fn overlayfs_shows_what_the_layers_mean() {
    let fixture = Fixture::new();
    let lower = Tar::of([
        Member::file("d/a", "1"),
        Member::file("d/b", "1"),
        Member::file("o/old", "1"),
        Member::file("f", "1"),
        Member::dir("became-file"),
        Member::file("became-file/x", "1"),
        Member::file("became-dir", "1"),
    ]);
    let upper = Tar::of([
        Member::file("d/.wh.a", ""),
        Member::file("o/.wh..wh..opq", ""),
        Member::file("o/new", "2"),
        Member::file("became-file", "2"),
        Member::file("became-dir/x", "2"),
        Member::file(".wh.f", ""),
        Member::file("f/x", "2"),
    ]);
    let mut layout = Layout::new(&fixture.path("layout"));
    // The lowest layer comes twice: overlayfs would refuse it.
    layout.image(
        None,
        &[
            (Pack::Gzip, upper.clone()),
            (Pack::Gzip, lower),
            (Pack::Gzip, upper),
        ],
    );
    let image = fixture.load(&layout.source(None)).unwrap();
    assert_eq!(image.layers.len(), 2);
    let target = fixture.path("merged");
    std::fs::create_dir(&target).unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let lowers: Vec<String> = image
        .layers
        .iter()
        .rev()
        .map(|layer| layer.display().to_string())
        .collect();
    let options = format!("lowerdir={}", lowers.join(":"));
    nix::mount::mount(
        Some("overlay"),
        &target,
        Some("overlay"),
        nix::mount::MsFlags::MS_RDONLY,
        Some(&*options),
    )
    .unwrap();
    let tree = snapshot(&target);
    let files: Vec<_> = tree
        .iter()
        .filter(|(_, node)| node.kind() != DIRECTORY)
        .map(|(path, node)| {
            format!(
                "{}={}",
                String::from_utf8_lossy(path),
                String::from_utf8_lossy(&node.content)
            )
        })
        .collect();
    assert_eq!(
        files,
        ["became-dir/x=2", "became-file=2", "d/b=1", "f/x=2", "o/new=2"]
    );
    nix::mount::umount(&target).unwrap();
}

#[test]
fn a_layer_that_hides_everything_is_the_lowest_one_used() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let hidden = Tar::of([Member::file("hidden", "")]);
    let seen = Tar::of([Member::file(".wh..wh..opq", ""), Member::file("seen", "")]);
    layout.image(None, &[(Pack::Gzip, hidden), (Pack::Gzip, seen)]);
    let image = fixture.load(&layout.source(None)).unwrap();
    assert_eq!(image.layers.len(), 1);
    assert!(image.layers[0].join("seen").exists());
}

#[test]
fn files_land_behind_links_in_the_same_layer() {
    let fixture = Fixture::new();
    let layer = fixture
        .unpack(Tar::of([
            Member::dir("usr/bin"),
            Member::symlink("bin", "usr/bin"),
            Member::file("bin/tool", "1"),
            Member::symlink("run", "/var/run/./deep"),
            Member::file("run/made", "2"),
            Member::symlink("usr/up", "../../../../var"),
            Member::file("usr/up/x", "3"),
            Member::hardlink("linked", "bin/tool"),
            Member::file("bin/.wh.hidden", ""),
        ]))
        .unwrap();
    let tree = snapshot(&layer);
    assert_eq!(tree[&b"usr/bin/tool"[..]].content, b"1");
    assert_eq!(tree[&b"bin"[..]].content, b"usr/bin");
    assert_eq!(tree[&b"var/run/deep/made"[..]].content, b"2");
    assert_eq!(tree[&b"var/x"[..]].content, b"3");
    assert_eq!(tree[&b"linked"[..]].same_as, b"linked");
    assert_eq!(tree[&b"usr/bin/tool"[..]].same_as, b"linked");
    assert_eq!(tree[&b"usr/bin/hidden"[..]].mode, CHARACTER);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let fixture = Fixture::new();
    let layer = fixture
        .unpack(Tar::of([
            Member::file("a", "old"),
            Member::hardlink("a2", "a"),
            Member::file("a", "new"),
            Member::dir("d"),
            Member::file("d/inside", ""),
            Member::file("d", "now a file"),
            Member::symlink("l", "d"),
            Member::dir("l"),
            Member::file("l/x", "1"),
            Member::dir("kept").mode(0o700),
            Member::file("kept/x", "1"),
            Member::dir("kept").mode(0o711),
            Member::hardlink("a", "a"),
        ]))
        .unwrap();
    let tree = snapshot(&layer);
    let at = |path: &str| &tree[path.as_bytes()];
    assert_eq!(
        (&at("a").content[..], &at("a2").content[..]),
        (&b"new"[..], &b"old"[..])
    );
    assert_eq!(at("d").content, b"now a file");
    assert_eq!((at("l").kind(), &at("l/x").content[..]), (DIRECTORY, &b"1"[..]));
    assert_eq!(
        (at("kept").permissions(), &at("kept/x").content[..]),
        (0o711, &b"1"[..])
    );
}

#[test]
fn extended_attributes_are_kept_but_not_overlayfs_own() {
    let fixture = Fixture::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = fixture
        .unpack(Tar::of([
            Member::file("ping", "x")
                .owner(3, 3)
                .mode(0o755)
                .xattr("security.capability", capability),
            Member::hardlink("ping2", "ping").owner(3, 3),
            Member::file("f", "")
                .xattr("user.k", b"a\n=\0b")
                .xattr("trusted.overlay.redirect", "/etc"),
            Member::dir("d")
                .xattr("trusted.overlay.opaque", "y")
                .xattr("user.overlay.opaque", "y")
                .xattr("user.d", "1"),
            Member::symlink("l", "f")
                .xattr("user.k", "not possible")
                .xattr("trusted.k", "1"),
            Member::fifo("p").xattr("trusted.k", "2"),
        ]))
        .unwrap();
    let tree = snapshot(&layer);
    let names = |path: &str| -> Vec<(String, Vec<u8>)> {
        let xattrs = &tree[path.as_bytes()].xattrs;
        xattrs
            .iter()
            .map(|(k, v)| (String::from_utf8(k.clone()).unwrap(), v.clone()))
            .collect()
    };
    assert_eq!(
        names("ping"),
        [("security.capability".to_owned(), capability.to_vec())]
    );
    assert_eq!(names("f"), [("user.k".to_owned(), b"a\n=\0b".to_vec())]);
    assert_eq!(names("d"), [("user.d".to_owned(), b"1".to_vec())]);
    assert_eq!(names("l"), [("trusted.k".to_owned(), b"1".to_vec())]);
    assert_eq!(names("p"), [("trusted.k".to_owned(), b"2".to_vec())]);
}

#[test]
fn long_names_and_big_numbers_in_every_spelling() {
    let fixture = Fixture::new();
    let deep = format!("{}/{}", "a".repeat(90), "b".repeat(90));
    for spelling in [Spelling::Pax, Spelling::PaxOnly, Spelling::Gnu, Spelling::Ustar] {
        let link = format!("/{}", "c".repeat(200));
        let file = Member::file(&deep, format!("{spelling:?}"))
            .owner(3_000_000, 4_000_000_000)
            .spelled(spelling);
        let layer = fixture
            .unpack(Tar::of([file, Member::symlink("link", &link).spelled(spelling)]))
            .unwrap();
        let tree = snapshot(&layer);
        let node = &tree[deep.as_bytes()];
        assert_eq!(node.content, format!("{spelling:?}").as_bytes());
        assert_eq!(node.owner, (3_000_000, 4_000_000_000));
        assert_eq!(node.mtime.0, 1_600_000_000);
        assert_eq!(tree[&b"link"[..]].content, link.as_bytes());
    }
}

#[test]
fn names_need_not_be_utf8_and_old_archives_have_no_magic() {
    let fixture = Fixture::new();
    let mut v7 = [0; 512];
    v7[..8].copy_from_slice(b"v7-file\0");
    v7[100..107].copy_from_slice(b"000640 ");
    v7[108..116].copy_from_slice(b"     0 \0");
    v7[124..136].copy_from_slice(b"          1 ");
    v7[136..148].copy_from_slice(b"00000000001\0");
    seal(&mut v7);
    let mut tar = Tar::default();
    tar.push(&Member::file(b"\xff\xfe\n", "1"));
    tar.push(&Member {
        flag: 0,
        ..Member::file("v7-dir/", "")
    });
    tar.push(&Member {
        flag: b'g',
        ..Member::file("pax_global_header", "18 comment=ignored\n")
    });
    tar.verbatim(&v7);
    tar.verbatim(&[&b"x"[..], &[0; 511]].concat());
    // No blocks of zeros at the end.
    let tree = snapshot(&fixture.unpack(tar.bytes()).unwrap());
    assert_eq!(tree[&b"\xff\xfe\n"[..]].content, b"1");
    assert_eq!(tree[&b"v7-dir"[..]].kind(), DIRECTORY);
    assert_eq!(
        (
            tree[&b"v7-file"[..]].permissions(),
            &tree[&b"v7-file"[..]].content[..]
        ),
        (0o640, &b"x"[..])
    );
    assert_eq!(tree.len(), 4);
}

#[test]
fn an_empty_layer_and_data_after_the_end_are_fine() {
    let fixture = Fixture::new();
    assert_eq!(snapshot(&fixture.unpack(Vec::new()).unwrap()).len(), 1);
    assert_eq!(snapshot(&fixture.unpack(vec![0; 1024]).unwrap()).len(), 1);
    let mut padded = Tar::of([Member::file("f", "")]);
    padded.extend([0; 10_240]);
    padded.extend(b"signature of some kind");
    assert_eq!(snapshot(&fixture.unpack(padded).unwrap()).len(), 2);
}

/// GNU tar is the judge: the same sparse file in every format that it writes.
#[test]
fn sparse_files_of_gnu_tar() {
    let fixture = Fixture::new();
    let source = fixture.path("source");
    std::fs::create_dir(&source).unwrap();
    let file = std::fs::File::create(source.join("sparse")).unwrap();
    for i in 0..40_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, format!("part {i}").as_bytes(), i * 100_000).unwrap();
    }
    file.set_len(5_000_000).unwrap();
    drop(file);
    let content = std::fs::read(source.join("sparse")).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=1.0"],
        &["--format=pax", "--sparse-version=0.1"],
    ] {
        let output = std::process::Command::new("tar")
            .args(["-S", "-C"])
            .arg(&source)
            .args(format)
            .args(["-cf", "-", "sparse"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.len() < 1_000_000, "tar found no holes");
        let layer = fixture.unpack(output.stdout).unwrap();
        assert!(
            std::fs::read(layer.join("sparse")).unwrap() == content,
            "{format:?}"
        );
        let blocks = std::os::unix::fs::MetadataExt::blocks(&layer.join("sparse").metadata().unwrap());
        assert!(blocks * 512 < 1_000_000, "{format:?}: {blocks} blocks");
    }
}
