//! A layer as its tar again.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;

use tests::random::Random;

use super::common::image::digest;
use super::common::{Fixture, Layout, Pack, assert_says, entries};
use super::{Member, Tar, add, file_of, layer, read};
use storage::{LoadOptions, StoreError};

/// Deeper than a path can say, which a chain of links makes possible.
#[test]
fn files_whose_path_is_too_long_to_be_said() {
    let fixture = Fixture::new();
    let part = "d".repeat(200);
    let chain = vec![part.as_str(); 18].join("/");
    let mut members = vec![Member::dir(&chain), Member::symlink("l1", &chain)];
    for i in 1..8 {
        members.push(Member::dir(format!("l{i}/{part}")));
        members.push(Member::symlink(format!("l{}", i + 1), format!("l{i}/{part}")));
    }
    members.push(Member::file("l8/file", "deep"));
    members.push(Member::file("l8/file", "deeper"));
    members.push(Member::file("flat", "flat"));
    fixture.unpack(Tar::of(members)).unwrap();
}

#[test]
fn content_that_a_later_entry_replaced_is_kept_once() {
    let fixture = Fixture::new();
    let noise: Vec<u8> = (0..600_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let tar = Tar::of([
        Member::file("a", &noise),
        Member::hardlink("b", "a"),
        Member::dir("d"),
        Member::file("d/deep", "in a directory that goes"),
        Member::hardlink("d/link", "d/deep"),
        Member::file("a", "other"),
        Member::file("b", "another"),
        Member::file("d", "no directory any more"),
        Member::file("a", &noise),
    ]);
    fixture.unpack(tar.clone()).unwrap();
    let record = fixture.path("store/tars").join(digest(&tar).hex());
    let size = record.metadata().unwrap().size();
    assert!(size < 3 * noise.len() as u64 / 2, "{size} bytes");
}

#[test]
fn an_ordinary_layer_has_a_small_record() {
    let fixture = Fixture::new();
    let noise = |seed: u32| -> Vec<u8> {
        (0..5_000_u32)
            .flat_map(|i| (i ^ seed).wrapping_mul(2_654_435_761).to_le_bytes())
            .collect()
    };
    let files = (0..200).map(|i| Member::file(format!("usr/share/thing-{i}"), noise(i)));
    let tar = Tar::of(files);
    fixture.unpack(tar.clone()).unwrap();
    let record = fixture.path("store/tars").join(digest(&tar).hex());
    let size = record.metadata().unwrap().size();
    assert!(size < tar.len() as u64 / 100, "{size} bytes of {}", tar.len());
}

#[test]
fn damage_ends_the_reading_with_an_error_that_names_it() {
    let fixture = Fixture::new();
    let tar = layer("a");
    let root = fixture.unpack(tar.clone()).unwrap();
    let says = |needles: &[&str]| {
        let mut again = fixture.store.layer_tar(&digest(&tar)).unwrap();
        let error = read(&mut again).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Other);
        assert!(error.get_ref().unwrap().is::<StoreError>());
        assert_says(&error.to_string(), needles);
        assert_says(&error.to_string(), &["is damaged", "verify --repair"]);
    };
    let whole = std::fs::read(root.join("etc/big")).unwrap();
    let mut changed = whole.clone();
    changed[40_000] ^= 1;
    std::fs::write(root.join("etc/big"), &changed).unwrap();
    says(&["etc/big", "its content is not what it was"]);
    std::fs::write(root.join("etc/big"), &whole[1..]).unwrap();
    says(&["etc/big", "it should have 50000 bytes and has 49999"]);
    std::fs::write(root.join("etc/big"), &whole).unwrap();
    fixture.assert_gives_out(&tar);
    std::fs::remove_file(root.join("setuid")).unwrap();
    says(&["setuid", "No such file"]);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("setuid"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    says(&["setuid", "no longer a regular file"]);
    std::fs::remove_file(root.join("setuid")).unwrap();
    // What it would lead to is not looked at.
    std::os::unix::fs::symlink("/etc/hostname", root.join("setuid")).unwrap();
    says(&["setuid"]);
}

#[test]
fn records_that_are_damaged_or_gone_say_so() {
    let fixture = Fixture::new();
    let tar = layer("a");
    fixture.unpack(tar.clone()).unwrap();
    let record = fixture.path("store/tars").join(digest(&tar).hex());
    let whole = std::fs::read(&record).unwrap();
    let mut random = Random::seeded();
    for _ in 0..200 {
        let mut changed = whole.clone();
        let at = random.below(whole.len() as u64) as usize;
        changed[at] ^= 1 << random.below(8);
        if random.below(4) == 0 {
            changed.truncate(at);
        }
        std::fs::write(&record, &changed).unwrap();
        let read = fixture
            .store
            .layer_tar(&digest(&tar))
            .map(|mut tar| read(&mut tar));
        // A few bits of zstd's own head mean nothing.
        if let Ok(Ok(bytes)) = read {
            assert!(bytes == tar, "byte {at}");
        }
    }
    std::fs::remove_file(&record).unwrap();
    let error = fixture.store.layer_tar(&digest(&tar)).err().unwrap();
    assert_says(
        &error.to_string(),
        &["older wharf", "image pull", "verify --repair"],
    );
}

/// What an older version brought in is fetched once more where somebody asks for it anew, and only then.
#[test]
fn a_layer_without_a_record_gets_one_from_its_source() {
    let fixture = Fixture::new();
    let tar = layer("a");
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, tar.clone())]);
    let image = fixture.load(&layout.source(None)).unwrap();
    let record = fixture.path("store/tars").join(digest(&tar).hex());
    let inode = image.layers[0].metadata().unwrap().ino();
    std::fs::remove_file(&record).unwrap();
    assert_eq!(fixture.load(&layout.source(None)).unwrap(), image);
    assert!(!record.exists());
    let cancel = AtomicBool::new(false);
    let options = LoadOptions {
        refresh: true,
        ..LoadOptions::new(&cancel)
    };
    fixture.store.load(&layout.source(None), &options).unwrap();
    fixture.assert_gives_out(&tar);
    assert_eq!(image.layers[0].metadata().unwrap().ino(), inode, "the tree stays");
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
}

#[test]
fn a_cancelled_layer_leaves_nothing() {
    let fixture = Fixture::new();
    let cancel = AtomicBool::new(true);
    let added = fixture.store.add_layer(&mut &*layer("a"), &cancel);
    assert!(matches!(added, Err(StoreError::Stopped)));
    fixture.assert_empty();
}

#[test]
fn the_same_layer_twice_is_one() {
    let fixture = Fixture::new();
    let tar = layer("a");
    let first = add(&fixture.store, &tar).unwrap();
    let inode = file_of(fixture.dir.path(), &tar).metadata().unwrap().ino();
    let second = add(&fixture.store, &tar).unwrap();
    assert_eq!((first.diff_id, first.size), (second.diff_id, tar.len() as u64));
    assert_eq!(file_of(fixture.dir.path(), &tar).metadata().unwrap().ino(), inode);
    assert_eq!(entries(&fixture.path("store/tars")).len(), 1);
}
