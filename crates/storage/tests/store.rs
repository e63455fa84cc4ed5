//! The store as a whole: loading again, loading at once, listing, pruning, cancelling, opening after a crash.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "store/garbage.rs"]
mod garbage;

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Fixture, Layout, Member, Pack, Tar, assert_says, entries};
use storage::{InUse, LoadOptions, Store, StoreError};

fn layer(text: &str) -> Vec<u8> {
    Tar::of([
        Member::file("which", text),
        Member::dir("d"),
        Member::file("d/x", vec![1; 9000]),
    ])
}

fn keys(store: &Store) -> Vec<String> {
    store.images().unwrap().into_keys().collect()
}

#[test]
fn threads_may_share_a_store() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Store>();
}

#[test]
fn directories_are_closed_to_others() {
    let fixture = Fixture::new();
    let mode = |name: &str| fixture.path(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("store"), 0o710);
    for name in [
        "store/blobs",
        "store/blobs/sha256",
        "store/layers",
        "store/images",
        "store/tmp",
    ] {
        assert_eq!(mode(name), 0o700, "{name}");
    }
}

#[test]
fn loading_again_reads_no_layer_and_survives_reopening() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let descriptor = layout.image(Some("a"), &[(Pack::Gzip, layer("1")), (Pack::Zstd, layer("2"))]);
    let image = fixture.load(&layout.source(Some("a"))).unwrap();
    assert_eq!(image.digest.unwrap().to_string(), descriptor["digest"]);
    let manifest = std::fs::read(layout.blob_path(&image.digest.unwrap())).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let sizes = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["size"].as_u64().unwrap());
    assert_eq!(image.size, sizes.sum::<u64>());
    assert_eq!(entries(&fixture.path("store/blobs/sha256")).len(), 2);
    for layer in manifest["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap().parse().unwrap();
        std::fs::remove_file(layout.blob_path(&digest)).unwrap();
    }
    assert_eq!(fixture.load(&layout.source(Some("a"))).unwrap(), image);
    let again = Store::open(&fixture.path("store")).unwrap();
    assert_eq!(again.images().unwrap().into_values().collect::<Vec<_>>(), [image]);
}

#[test]
fn many_loads_at_once_share_their_layers() {
    let fixture = Fixture::new();
    let shared = Tar::of((0..300).map(|i| Member::file(i.to_string(), vec![i as u8; 2000])));
    let sources: Vec<_> = (0..8)
        .map(|i| {
            let mut layout = Layout::new(&fixture.path(&format!("layout{i}")));
            layout.image(
                None,
                &[(Pack::Gzip, shared.clone()), (Pack::Gzip, layer(&i.to_string()))],
            );
            layout.source(None)
        })
        .collect();
    std::thread::scope(|scope| {
        for source in sources.iter().chain(&sources) {
            let fixture = &fixture;
            scope.spawn(move || fixture.load(source).unwrap());
        }
    });
    assert_eq!(fixture.store.images().unwrap().len(), 8);
    assert_eq!(entries(&fixture.path("store/layers")).len(), 9);
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
}

#[test]
fn a_changed_source_is_not_listed_and_a_vanished_one_is() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, layer("1"))]);
    let archive = layout.archive(&fixture.path("a.tar"), None);
    let (dir_key, archive_key) = (layout.source(None).key(), archive.key());
    let dir_image = fixture.load(&layout.source(None)).unwrap();
    fixture.load(&archive).unwrap();
    assert_eq!(keys(&fixture.store), [archive_key.clone(), dir_key.clone()]);
    // Another file behind the same path.
    layout.archive(&fixture.path("b.tar"), None);
    std::fs::rename(fixture.path("b.tar"), fixture.path("a.tar")).unwrap();
    assert_eq!(keys(&fixture.store), [&*dir_key]);
    fixture.load(&archive).unwrap();
    std::fs::remove_file(fixture.path("a.tar")).unwrap();
    assert_eq!(keys(&fixture.store), [archive_key.clone(), dir_key.clone()]);
    layout.manifests.clear();
    layout.image(None, &[(Pack::Gzip, layer("2"))]);
    assert_eq!(keys(&fixture.store), [&*archive_key]);
    assert_ne!(fixture.load(&layout.source(None)).unwrap(), dir_image);
    std::fs::remove_dir_all(&layout.dir).unwrap();
    assert_eq!(keys(&fixture.store), [archive_key, dir_key]);
}

#[test]
fn an_image_whose_layer_is_gone_is_not_listed_and_loads_again() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, layer("1"))]);
    let image = fixture.load(&layout.source(None)).unwrap();
    std::fs::remove_dir_all(&image.layers[0]).unwrap();
    assert_eq!(keys(&fixture.store), Vec::<String>::new());
    assert_eq!(fixture.load(&layout.source(None)).unwrap(), image);
    assert_eq!(keys(&fixture.store).len(), 1);
}

#[test]
fn pruning_keeps_what_is_asked_for_and_what_it_shares() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(
        Some("a"),
        &[(Pack::Gzip, layer("shared")), (Pack::Gzip, layer("a"))],
    );
    layout.image(
        Some("b"),
        &[(Pack::Gzip, layer("shared")), (Pack::Gzip, layer("b"))],
    );
    let a = fixture.load(&layout.source(Some("a"))).unwrap();
    let b = fixture.load(&layout.source(Some("b"))).unwrap();
    std::fs::create_dir(fixture.path("store/layers/not-a-digest")).unwrap();
    let all: InUse = [&a.key, &b.key].into_iter().collect();
    assert_eq!(fixture.store.prune(&all, false).unwrap(), Default::default());
    let keep: InUse = [&a.key].into_iter().collect();
    let dry = fixture.store.prune(&keep, true).unwrap();
    assert_eq!(keys(&fixture.store).len(), 2);
    let pruned = fixture.store.prune(&keep, false).unwrap();
    assert_eq!(pruned.images, [b.key]);
    assert!(pruned.bytes > 9000, "{pruned:?}");
    assert_eq!(dry, pruned);
    assert_eq!(keys(&fixture.store), [a.key]);
    assert!(a.layers.iter().all(|layer| layer.is_dir()));
    assert!(!b.layers[1].exists());
    assert_eq!(entries(&fixture.path("store/blobs/sha256")).len(), 2);
    fixture.store.prune(&InUse::default(), false).unwrap();
    assert_eq!(entries(&fixture.path("store/layers")), ["not-a-digest"]);
    for directory in ["blobs/sha256", "images", "tmp"] {
        assert_eq!(
            entries(&fixture.path("store").join(directory)),
            Vec::<String>::new()
        );
    }
}

/// Loads and prunes of everything at the same time: whatever a load returns was whole at that moment.
#[test]
fn pruning_does_not_take_layers_from_a_load_at_work() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let layers: Vec<_> = (0..4).map(|i| (Pack::Gzip, layer(&i.to_string()))).collect();
    layout.image(None, &layers);
    let source = layout.source(None);
    let keep: InUse = [source.key()].into_iter().collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                fixture.store.prune(&keep, false).unwrap();
            }
        });
        // A panic in between would leave the other thread at work for ever.
        let results = (0..30).map(|_| {
            let image = fixture.load(&source).map_err(|e| e.to_string())?;
            let whole = image.layers.iter().all(|layer| layer.join("d/x").exists());
            for layer in &image.layers[..2] {
                std::fs::remove_dir_all(layer).map_err(|e| e.to_string())?;
            }
            Ok::<bool, String>(whole)
        });
        let results: Vec<_> = results.collect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(results, vec![Ok(true); 30]);
    });
}

#[test]
fn a_cancelled_load_ends_and_leaves_nothing() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let many = Tar::of((0..8_000).map(|i| Member::file(format!("d{}/{i}", i / 100), "x")));
    layout.image(None, &[(Pack::Gzip, many)]);
    let cancel = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            fixture
                .store
                .load(&layout.source(None), &LoadOptions::new(&cancel))
        });
        while entries(&fixture.path("store/tmp")).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        cancel.store(true, Ordering::Relaxed);
        load.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, StoreError::Cancelled { .. }), "{error}");
    assert_says(&error.to_string(), &["cancelled", &layout.source(None).key()]);
    fixture.assert_empty();
    cancel.store(false, Ordering::Relaxed);
    fixture
        .store
        .load(&layout.source(None), &LoadOptions::new(&cancel))
        .unwrap();
}

#[test]
fn opening_sweeps_and_drops_records_it_cannot_read() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, layer("1"))]);
    fixture.load(&layout.source(None)).unwrap();
    let left = fixture.path("store/tmp/1-2/root/a/b");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("file"), "").unwrap();
    std::os::unix::fs::symlink("/", left.join("link")).unwrap();
    nix::unistd::mkfifo(&left.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(fixture.path("store/tmp/file"), "").unwrap();
    std::fs::write(fixture.path("store/images/torn.json"), "{\"version\":").unwrap();
    let store = Store::open(&fixture.path("store")).unwrap();
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
    assert_eq!(entries(&fixture.path("store/images")).len(), 1);
    assert_eq!(keys(&store).len(), 1);
}

#[test]
fn a_full_disk_is_said_and_gone_when_there_is_room() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let noise: Vec<u8> = (0..1_500_000_u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    layout.image(
        Some("big"),
        &[(Pack::Zstd, Tar::of([Member::file("big", &noise)]))],
    );
    layout.image(Some("small"), &[(Pack::Zstd, layer("small"))]);
    let small_disk = fixture.path("disk");
    std::fs::create_dir(&small_disk).unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let mount = |flags, options: &str| {
        nix::mount::mount(Some("tmpfs"), &small_disk, Some("tmpfs"), flags, Some(options)).unwrap();
    };
    let none = nix::mount::MsFlags::empty();
    for (options, larger) in [("size=2m", "size=20m"), ("nr_inodes=11", "nr_inodes=100")] {
        mount(none, options);
        let store = Store::open(&small_disk.join("store")).unwrap();
        let reference = if options.contains("size") { "big" } else { "small" };
        let error = store
            .load(&layout.source(Some(reference)), &LoadOptions::new(&false.into()))
            .unwrap_err()
            .to_string();
        assert_says(
            &error,
            &[
                "no space left",
                "disk/store",
                &layout.source(Some(reference)).key(),
            ],
        );
        assert_eq!(entries(&small_disk.join("store/tmp")), Vec::<String>::new());
        assert_eq!(keys(&store), Vec::<String>::new());
        if reference == "big" {
            store
                .load(&layout.source(Some("small")), &LoadOptions::new(&false.into()))
                .unwrap();
        }
        mount(nix::mount::MsFlags::MS_REMOUNT, larger);
        store
            .load(&layout.source(Some(reference)), &LoadOptions::new(&false.into()))
            .unwrap();
        nix::mount::umount(&small_disk).unwrap();
    }
}
