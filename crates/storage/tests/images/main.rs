//! Layers given out again, images made here, archives written and read, damage found and mended.
#![allow(clippy::unwrap_used)]

mod archives;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod layers;
mod tools;

use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::image::{config, digest};
use common::{Fixture, Member, Tar};
use model::digest::Digest;
use serde_json::{Value, json};
use storage::{ArchiveFormat, Loaded, Store, StoreError};

/// A layer with files of several kinds, another one for each text.
fn layer(text: &str) -> Vec<u8> {
    Tar::of([
        Member::dir("etc"),
        Member::file("etc/which", text),
        Member::file("etc/big", text.repeat(50_000)),
        Member::hardlink("etc/other-name", "etc/big"),
        Member::symlink("link", "etc/which"),
        Member::file("etc/replaced", "first"),
        Member::file("etc/replaced", "second"),
        Member::file("setuid", "x").mode(0o4755).owner(12, 34),
        Member::file(".wh.hidden", ""),
        Member::character("null", 1, 3),
    ])
}

fn read(tar: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tar.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn add(store: &Store, tar: &[u8]) -> Result<storage::NewLayer, StoreError> {
    store.add_layer(&mut &*tar, &AtomicBool::new(false))
}

/// An image of these layers under that name.
fn image(store: &Store, name: &str, layers: &[Vec<u8>], execution: Value) -> model::image::Image {
    let layers: Vec<_> = layers.iter().map(|tar| add(store, tar).unwrap()).collect();
    let ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
    let config = config(&ids, execution).to_string();
    store.add_image(name, config.as_bytes(), &ids).unwrap()
}

fn save(store: &Store, keys: &[&str], format: ArchiveFormat) -> Vec<u8> {
    let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let mut out = Vec::new();
    store.save(&keys, format, &mut out).unwrap();
    out
}

fn load(store: &Store, archive: &[u8], name: Option<&str>) -> Result<Vec<Loaded>, StoreError> {
    store.load_archive(&mut &*archive, name, &AtomicBool::new(false))
}

fn names(loaded: &[Loaded]) -> Vec<&str> {
    loaded.iter().map(|loaded| loaded.reference.as_str()).collect()
}

fn verify(store: &Store, repair: bool) -> Vec<storage::Verified> {
    let keys: Vec<String> = store.known_images().into_keys().collect();
    let never = AtomicBool::new(false);
    let options = storage::VerifyOptions {
        repair,
        ..storage::VerifyOptions::new(&never)
    };
    store.verify(&keys, &options).unwrap()
}

/// A store of its own beside the fixture's.
fn another(fixture: &Fixture, name: &str) -> Store {
    Store::open(&fixture.path(name)).unwrap()
}

fn file_of(root: &Path, layer: &[u8]) -> std::path::PathBuf {
    root.join("store/layers").join(digest(layer).hex())
}

#[test]
fn an_image_made_here_is_one_like_any_other() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let layers = [layer("a"), layer("b")];
    let made = image(
        store,
        "docker.io/library/made:1",
        &layers,
        json!({"Cmd": ["/etc/which"]}),
    );
    assert_eq!(made.config.cmd, ["/etc/which"]);
    assert_eq!(made.digest, None);
    assert_eq!(store.images().unwrap()[&made.key], made);
    let again = Store::open(&fixture.path("store")).unwrap();
    assert_eq!(again.images().unwrap()[&made.key], made);
    // `pull = "missing"` asks nobody.
    let source = model::image::ImageSource::Registry {
        reference: made.key.clone(),
    };
    assert_eq!(fixture.load(&source).unwrap(), made);

    let described = store.describe(&made.key).unwrap();
    let sizes: Vec<_> = described
        .layers
        .iter()
        .map(|layer| (layer.diff_id, layer.size))
        .collect();
    let expected = layers.iter().map(|tar| (digest(tar), Some(tar.len() as u64)));
    assert_eq!(sizes, expected.collect::<Vec<_>>());
    assert!(described.manifest.is_none() && described.layers[0].blob.is_none());
    assert_eq!(Some(digest(&described.config.bytes)), made.id);

    let tagged = store.tag(&made.key, "localhost:5000/other:2").unwrap();
    assert_eq!((tagged.id, &tagged.layers), (made.id, &made.layers));
    store.remove(&made.key, &Default::default()).unwrap();
    assert_eq!(
        store.images().unwrap().into_values().collect::<Vec<_>>(),
        [tagged]
    );
    for tar in &layers {
        fixture.assert_gives_out(tar);
    }
}

#[test]
fn what_makes_no_image_is_refused() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let tar = layer("a");
    let held = add(store, &tar).unwrap();
    let good = config(&[held.diff_id], json!({})).to_string();
    let not_here = digest(b"x");
    let other = config(&[not_here], json!({})).to_string();
    for (name, config, layers, says) in [
        ("docker.io/library/x:1", "{}", &[held.diff_id][..], "config"),
        (
            "docker.io/library/x:1",
            &*other,
            &[held.diff_id],
            "rootfs.diff_ids",
        ),
        ("docker.io/library/x:1", &*other, &[not_here], "is not here"),
        ("oci:/x", &*good, &[held.diff_id], "NAME:TAG"),
        ("X", &*good, &[held.diff_id], "lower-case"),
        (
            &*format!("x@{not_here}"),
            &*good,
            &[held.diff_id],
            "a digest cannot be given",
        ),
    ] {
        let error = store
            .add_image(name, config.as_bytes(), layers)
            .unwrap_err()
            .to_string();
        common::assert_says(&error, &[says]);
    }
    assert!(add(store, b"no tar at all, but long enough to look at: no").is_err());
    assert!(matches!(
        store.describe("nothing"),
        Err(StoreError::NoImage { .. })
    ));
    assert!(matches!(
        store.layer_tar(&not_here),
        Err(StoreError::NoLayer { .. })
    ));
    drop(held);
    store.prune(&Default::default(), false).unwrap();
    fixture.assert_empty();
}

#[test]
fn what_is_being_made_is_not_pruned() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let tar = layer("a");
    let held = add(store, &tar).unwrap();
    store.prune(&Default::default(), false).unwrap();
    let config = config(&[held.diff_id], json!({})).to_string();
    let image = store
        .add_image("docker.io/library/x:1", config.as_bytes(), &[held.diff_id])
        .unwrap();
    drop(held);
    // Nor what is being read.
    let described = store.describe(&image.key).unwrap();
    let mut reading = store.layer_tar(&digest(&tar)).unwrap();
    store.prune(&Default::default(), false).unwrap();
    assert!(read(&mut reading).unwrap() == tar);
    drop((described, reading));
    store.prune(&Default::default(), false).unwrap();
    fixture.assert_empty();
}

/// A layer below one that hides everything is not mounted, and is a part of the image all the same.
#[test]
fn layers_that_are_not_seen_are_kept() {
    let fixture = Fixture::new();
    let below = layer("below");
    let above = Tar::of([Member::file(".wh..wh..opq", ""), Member::file("f", "x")]);
    let layers = [below.clone(), above, below];
    let made = image(&fixture.store, "docker.io/library/x:1", &layers, json!({}));
    assert_eq!(made.layers.len(), 2);
    let in_use = [made.key.clone()].into_iter().collect();
    fixture.store.prune(&in_use, false).unwrap();
    let described = fixture.store.describe(&made.key).unwrap();
    assert_eq!(described.layers.len(), 3);
    for layer in &layers {
        fixture.assert_gives_out(layer);
    }
}
