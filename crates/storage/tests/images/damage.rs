//! Damage of every kind is found, named, and mended where the image can be had anew.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use storage::Verified;

use super::common::image::digest;
use super::common::snapshot::CHARACTER;
use super::common::{Fixture, Layout, Member, Pack, Tar, assert_says, entries, snapshot};
use super::{image, layer, verify};

/// An image from a layout, which can be had anew.
fn loaded(fixture: &Fixture, tar: &[u8]) -> (Layout, PathBuf) {
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, tar.to_vec())]);
    let image = fixture.load(&layout.source(None)).unwrap();
    (layout, image.layers[0].clone())
}

fn tree() -> Vec<u8> {
    Tar::of([
        Member::dir("etc").mode(0o750).owner(1, 2),
        Member::file("etc/a", "content of a"),
        Member::hardlink("etc/b", "etc/a"),
        Member::file("etc/c", "c").xattr("user.note", "kept"),
        Member::dir("etc/d"),
        Member::file("etc/d/e", "e"),
        Member::symlink("link", "etc/a"),
        Member::file(".wh.gone", ""),
        Member::file("etc/f/.wh..wh..opq", ""),
        Member::fifo("fifo"),
        Member::file("empty", ""),
    ])
}

fn told(verified: &[Verified]) -> String {
    let damage = verified.iter().flat_map(|image| &image.damage);
    damage
        .map(|damage| {
            format!(
                "{} {}: {}\n",
                damage.what,
                damage.path.as_deref().unwrap_or("-"),
                damage.why
            )
        })
        .collect()
}

#[test]
fn a_good_store_is_good() {
    let fixture = Fixture::new();
    loaded(&fixture, &tree());
    image(
        &fixture.store,
        "docker.io/library/x:1",
        &[layer("a"), tree(), layer("b")],
        json!({}),
    );
    let verified = verify(&fixture.store, false);
    assert_eq!(told(&verified), "");
    assert!(verified.len() == 2 && verified.iter().all(|image| image.ok && !image.repaired));
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
}

/// One kind after the other: what was done, what has to be said.
#[test]
fn every_kind_of_damage_is_named_and_mended() {
    type Harm = fn(&Path);
    fn write_over(path: &Path, text: &str) {
        let time = path.metadata().unwrap().modified().unwrap();
        let file = std::fs::File::options()
            .write(true)
            .truncate(true)
            .open(path)
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
        file.set_modified(time).unwrap();
    }
    let harms: Vec<(Harm, &[&str])> = vec![
        (
            |root| write_over(&root.join("etc/a"), "Content of a"),
            &["\"etc/a\"", "its content is not what it was"],
        ),
        (
            |root| write_over(&root.join("etc/a"), "longer than it was before"),
            &["\"etc/a\"", "should have 12 bytes"],
        ),
        (
            |root| std::fs::remove_file(root.join("etc/a")).unwrap(),
            &["\"etc/a\"", "No such file"],
        ),
        (
            |root| std::fs::remove_file(root.join("etc/b")).unwrap(),
            &["\"etc/b\": it is gone"],
        ),
        (
            |root| std::fs::remove_file(root.join("empty")).unwrap(),
            &["\"empty\": it is gone"],
        ),
        (
            |root| std::fs::remove_dir_all(root.join("etc/d")).unwrap(),
            &["\"etc/d\"", "it is gone"],
        ),
        (
            |root| std::fs::write(root.join("etc/more"), "x").unwrap(),
            &["\"etc/more\": it was not there"],
        ),
        (
            |root| std::fs::create_dir_all(root.join("etc/deep/er")).unwrap(),
            &["\"etc/deep\": it was not there"],
        ),
        (
            |root| std::fs::set_permissions(root.join("etc/c"), PermissionsExt::from_mode(0o4777)).unwrap(),
            &["\"etc/c\": its mode was 0644 and is 4777"],
        ),
        (
            |root| std::os::unix::fs::chown(root.join("etc"), Some(7), Some(8)).unwrap(),
            &["\"etc\": its owner was 1:2 and is 7:8"],
        ),
        (
            |root| {
                rustix::fs::setxattr(
                    root.join("etc/c"),
                    "user.note",
                    b"else",
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap()
            },
            &["\"etc/c\"", "attributes"],
        ),
        (
            |root| {
                rustix::fs::setxattr(
                    root.join("etc"),
                    "trusted.overlay.opaque",
                    b"y",
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap()
            },
            &["\"etc\"", "attributes"],
        ),
        (
            |root| {
                std::fs::remove_file(root.join("link")).unwrap();
                std::os::unix::fs::symlink("/elsewhere", root.join("link")).unwrap();
            },
            &["\"link\": it leads elsewhere"],
        ),
        (
            |root| {
                std::fs::remove_file(root.join("gone")).unwrap();
                std::fs::write(root.join("gone"), "").unwrap();
            },
            &["\"gone\": it is something else"],
        ),
        (
            |root| {
                std::fs::remove_dir_all(root.join("etc/d")).unwrap();
                std::os::unix::fs::symlink("/etc", root.join("etc/d")).unwrap();
            },
            &["\"etc/d", "it is something else"],
        ),
        (
            |root| {
                std::fs::remove_file(root.join("etc/b")).unwrap();
                std::fs::copy(root.join("etc/a"), root.join("etc/b")).unwrap();
            },
            &["\"etc/a\": its number of names was 2 and is 1"],
        ),
        (
            |root| std::fs::remove_file(root.join("fifo")).unwrap(),
            &["\"fifo\": it is gone"],
        ),
        (|root| std::fs::remove_dir_all(root).unwrap(), &["it is not here"]),
    ];
    for (number, (harm, says)) in harms.into_iter().enumerate() {
        let fixture = Fixture::new();
        let tar = tree();
        let (_layout, root) = loaded(&fixture, &tar);
        let picture = || {
            let mut picture = snapshot(&root);
            // A whiteout has no time of its own.
            picture
                .values_mut()
                .filter(|node| node.kind() == CHARACTER)
                .for_each(|node| node.mtime = (0, 0));
            picture
        };
        let was = picture();
        harm(&root);
        let found = verify(&fixture.store, false);
        assert!(!found[0].ok, "harm {number}");
        assert_says(&format!("{number}: {}", told(&found)), says);
        let mended = verify(&fixture.store, true);
        assert!(mended[0].ok && mended[0].repaired, "harm {number}: {mended:?}");
        assert!(picture() == was, "harm {number}: not as it was");
        fixture.assert_gives_out(&tar);
        assert_eq!(told(&verify(&fixture.store, false)), "", "harm {number}");
        assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
    }
}

/// What is as it should be is not touched: a container that runs has it open.
#[test]
fn mending_leaves_alone_what_is_good() {
    let fixture = Fixture::new();
    let (_layout, root) = loaded(&fixture, &tree());
    let inode = |path: &str| root.join(path).symlink_metadata().unwrap().ino();
    let were = [
        inode(""),
        inode("etc"),
        inode("etc/a"),
        inode("link"),
        inode("etc/d/e"),
    ];
    std::fs::write(root.join("etc/c"), "damaged").unwrap();
    assert!(verify(&fixture.store, true)[0].repaired);
    let are = [
        inode(""),
        inode("etc"),
        inode("etc/a"),
        inode("link"),
        inode("etc/d/e"),
    ];
    assert_eq!(are, were);
}

#[test]
fn all_damaged_files_of_a_layer_are_named_at_once() {
    let fixture = Fixture::new();
    let tar = Tar::of((0..300).map(|i| Member::file(format!("f{i}"), vec![i as u8; 70_000])));
    let (_layout, root) = loaded(&fixture, &tar);
    for i in [3, 77, 200] {
        let mut bytes = std::fs::read(root.join(format!("f{i}"))).unwrap();
        bytes[65_000 + i] ^= 1;
        std::fs::write(root.join(format!("f{i}")), bytes).unwrap();
    }
    std::fs::remove_file(root.join("f5")).unwrap();
    let found = told(&verify(&fixture.store, false));
    // What was removed changed the time of where it was.
    assert_says(
        &found,
        &["\"f3\"", "\"f77\"", "\"f200\"", "\"f5\"", "\"/\": its time"],
    );
    assert_eq!(found.lines().count(), 5, "{found}");
    for i in 0..300 {
        std::fs::write(root.join(format!("f{i}")), "x").unwrap();
    }
    let found = told(&verify(&fixture.store, false));
    assert_eq!(found.lines().count(), 101);
    assert_says(&found, &["and 201 more"]);
}

#[test]
fn documents_and_records_are_looked_at_too() {
    let fixture = Fixture::new();
    let tar = tree();
    loaded(&fixture, &tar);
    let blobs = fixture.path("store/blobs/sha256");
    let record = fixture.path("store/tars").join(digest(&tar).hex());
    for name in entries(&blobs) {
        std::fs::write(blobs.join(name), "{}").unwrap();
    }
    std::fs::write(&record, "no record").unwrap();
    let found = told(&verify(&fixture.store, false));
    assert_says(
        &found,
        &[
            "config sha256:",
            "manifest sha256:",
            "layer sha256:",
            "the record of its tar cannot be read",
        ],
    );
    assert!(verify(&fixture.store, true)[0].repaired);
    fixture.assert_gives_out(&tar);
    std::fs::remove_file(&record).unwrap();
    assert_says(&told(&verify(&fixture.store, false)), &["older wharf"]);
    assert!(verify(&fixture.store, true)[0].repaired);
    fixture.assert_gives_out(&tar);
}

#[test]
fn what_cannot_be_had_anew_says_so() {
    let fixture = Fixture::new();
    let tar = tree();
    let made = image(
        &fixture.store,
        "docker.io/library/made:1",
        std::slice::from_ref(&tar),
        json!({}),
    );
    std::fs::write(made.layers[0].join("etc/c"), "damaged").unwrap();
    let verified = verify(&fixture.store, true);
    assert!(!verified[0].ok && !verified[0].repaired);
    assert_says(
        verified[0].not_repaired.as_deref().unwrap(),
        &["made, loaded or named here"],
    );
    assert_says(
        &std::fs::read_to_string(made.layers[0].join("etc/c")).unwrap(),
        &["damaged"],
    );

    let other = Fixture::new();
    let (mut layout, root) = loaded(&other, &tar);
    std::fs::remove_file(root.join("etc/c")).unwrap();
    layout.manifests.clear();
    layout.image(None, &[(Pack::Gzip, layer("another"))]);
    let verified = verify(&other.store, true);
    assert_says(
        verified[0].not_repaired.as_deref().unwrap(),
        &["another image by now"],
    );
    std::fs::remove_dir_all(&layout.dir).unwrap();
    let verified = verify(&other.store, true);
    assert_says(verified[0].not_repaired.as_deref().unwrap(), &["does not exist"]);
    assert_eq!(entries(&other.path("store/tmp")), Vec::<String>::new());
}

/// By its digest: the tag has moved on meanwhile.
#[test]
fn damage_is_fetched_anew_from_the_registry() {
    let fixture = Fixture::new();
    let registry = tests::registry::Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    let tar = tree();
    layout.image(Some("old"), &[(Pack::Gzip, tar.clone())]);
    layout.image(Some("new"), &[(Pack::Gzip, layer("new"))]);
    let push = |tag: &str| registry.push(&format!("{}:{tag}", layout.source(None).key()), "app:1");
    let reference = push("old");
    let image = fixture
        .load(&model::image::ImageSource::Registry { reference })
        .unwrap();
    push("new");
    std::fs::write(image.layers[0].join("etc/c"), "damaged").unwrap();
    std::fs::remove_file(fixture.path("store/tars").join(digest(&tar).hex())).unwrap();
    assert!(!verify(&fixture.store, false)[0].ok);
    let mended = verify(&fixture.store, true);
    assert!(mended[0].repaired, "{mended:?}");
    fixture.assert_gives_out(&tar);
    drop(registry);
    std::fs::write(image.layers[0].join("etc/c"), "damaged").unwrap();
    let left = verify(&fixture.store, true);
    assert!(!left[0].ok && left[0].not_repaired.is_some(), "{left:?}");
}
