//! Archives of images, written and read.

use std::io::Write;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use storage::{ArchiveFormat, LoadOptions, StoreError};

use super::common::image::{config, digest};
use super::common::{Fixture, Layout, Member, Pack, Tar, assert_says, entries};
use super::{another, image, layer, load, names, save};

/// Each in turn, and both kinds are also what the usual sources read.
#[test]
fn what_is_saved_loads_again_byte_for_byte() {
    let fixture = Fixture::new();
    let shared = layer("shared");
    let one = image(
        &fixture.store,
        "docker.io/library/one:1",
        &[shared.clone(), layer("1")],
        json!({"Cmd": ["a"]}),
    );
    let two = image(
        &fixture.store,
        "localhost:5000/team/two:latest",
        &[shared.clone(), layer("2")],
        json!({}),
    );
    let other = fixture.store.tag(&one.key, "docker.io/library/other:x").unwrap();
    for (format, kind) in [(ArchiveFormat::Docker, "docker"), (ArchiveFormat::Oci, "oci")] {
        let archive = save(&fixture.store, &[&one.key, &two.key, &other.key], format);
        let count = archive
            .windows(10)
            .filter(|window| *window == b"etc/which\0")
            .count();
        assert_eq!(
            count,
            3 + 3,
            "{kind}: a shared layer is in it once (each names the file twice)"
        );
        assert!(
            save(&fixture.store, &[&one.key, &two.key, &other.key], format) == archive,
            "{kind}: not the same"
        );

        let store = another(&fixture, kind);
        let loaded = load(&store, &archive, None).unwrap();
        assert_eq!(names(&loaded), [&*one.key, &other.key, &two.key], "{kind}");
        for was in [&one, &two, &other] {
            let is = &store.images().unwrap()[&was.key];
            assert_eq!((is.id, &is.config), (was.id, &was.config), "{kind}");
        }
        let again = save(&store, &[&one.key, &two.key, &other.key], format);
        assert!(again == archive, "{kind}: another archive came out");

        let file = fixture.path(&format!("{kind}.tar"));
        std::fs::write(&file, &archive).unwrap();
        let source = match format {
            ArchiveFormat::Docker => model::image::ImageSource::DockerArchive {
                file,
                reference: Some("one:1".to_owned()),
            },
            ArchiveFormat::Oci => model::image::ImageSource::OciArchive {
                file,
                reference: Some(one.key.clone()),
            },
        };
        let read = another(&fixture, &format!("{kind}-read"));
        let read = read
            .load(&source, &LoadOptions::new(&AtomicBool::new(false)))
            .unwrap();
        assert_eq!(read.id, one.id);
    }
}

#[test]
fn archives_of_others_in_every_packing() {
    let fixture = Fixture::new();
    let layers = [layer("a"), layer("b")];
    let ids = layers.each_ref().map(|tar| digest(tar));
    let config = config(&ids, json!({"User": "1"})).to_string();
    let id = digest(config.as_bytes());
    // Docker's older form: a directory a layer, links to what is there already, files that mean nothing.
    let manifest = json!([{ "Config": format!("{}.json", id.hex()), "RepoTags": ["app:1", "localhost/app:2"],
                            "Layers": ["b/layer.tar", "a/layer.tar"] }]);
    let members = vec![
        Member::dir("b/"),
        Member::file("b/VERSION", "1.0"),
        Member::file("b/json", "{}"),
        Member::file("b/layer.tar", &layers[0]),
        Member::symlink("c/layer.tar", "../b/layer.tar"),
        Member::file("a/layer.tar", Pack::Zstd.pack(&layers[1])),
        Member::file("manifest.json", manifest.to_string()),
        Member::file(format!("{}.json", id.hex()), &config),
        Member::file("repositories", "{}"),
    ];
    let plain = Tar::of(members);
    let packed = [
        ("plain", plain.clone()),
        ("gzip", Pack::Gzip.pack(&plain)),
        ("gzip twice", Pack::GzipTwice.pack(&plain)),
        ("zstd", Pack::Zstd.pack(&plain)),
        ("xz", Pack::Xz(6).pack(&plain)),
        ("xz -9", Pack::Xz(9).pack(&plain)),
    ];
    for (how, archive) in packed {
        let store = another(&fixture, how);
        let loaded = load(&store, &archive, None).unwrap_or_else(|e| panic!("{how}: {e}"));
        assert_eq!(
            names(&loaded),
            ["docker.io/library/app:1", "localhost/app:2"],
            "{how}"
        );
        assert_eq!(store.images().unwrap()["localhost/app:2"].id, Some(id));
        for name in entries(&fixture.path(how).join("layers")) {
            assert!(ids.iter().any(|id| id.hex() == name));
        }
        assert_eq!(entries(&fixture.path(how).join("tmp")), Vec::<String>::new());
    }
}

/// Of layouts as buildah and skopeo write them: the name is a whole one, a tag alone, or there is none.
#[test]
fn images_without_a_name_need_one() {
    let fixture = Fixture::new();
    let archive = |reference: Option<&str>| {
        let dir = fixture.path("layout");
        // Gone or not, a new one follows.
        drop(std::fs::remove_dir_all(&dir));
        let mut layout = Layout::new(&dir);
        layout.image(reference, &[(Pack::Gzip, layer("a"))]);
        layout.archive(&fixture.path("oci.tar"), None);
        std::fs::read(fixture.path("oci.tar")).unwrap()
    };
    let store = &fixture.store;
    let whole = archive(Some("registry.example/app:7"));
    assert_eq!(
        names(&load(store, &whole, None).unwrap()),
        ["registry.example/app:7"]
    );
    assert!(store.images().unwrap()["registry.example/app:7"].digest.is_some());
    let error = load(store, &whole, Some("docker.io/library/x:1"))
        .unwrap_err()
        .to_string();
    assert_says(&error, &["has a name of its own", "tag"]);
    for nameless in [archive(Some("v1")), archive(None)] {
        let error = load(store, &nameless, None).unwrap_err().to_string();
        assert_says(&error, &["no name is with it", "--name"]);
        let loaded = load(store, &nameless, Some("docker.io/library/x:1")).unwrap();
        assert_eq!(names(&loaded), ["docker.io/library/x:1"]);
    }
}

#[test]
fn archives_that_lie_or_are_broken_leave_nothing() {
    let fixture = Fixture::new();
    let tar = layer("a");
    let good = config(&[digest(&tar)], json!({})).to_string();
    let lying = config(&[digest(b"x")], json!({})).to_string();
    let docker = |config: &str, name: &str, layer: &[u8]| {
        let manifest = json!([{ "Config": name, "RepoTags": ["x:1"], "Layers": ["l"] }]);
        Tar::of([
            Member::file("l", layer),
            Member::file(name, config),
            Member::file("manifest.json", manifest.to_string()),
        ])
    };
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(Some("x:1"), &[(Pack::Gzip, tar.clone())]);
    layout.archive(&fixture.path("oci.tar"), None);
    let oci = std::fs::read(fixture.path("oci.tar")).unwrap();
    let manifest: Value = {
        let digest: model::digest::Digest = layout.manifests[0]["digest"].as_str().unwrap().parse().unwrap();
        serde_json::from_slice(&std::fs::read(layout.blob_path(&digest)).unwrap()).unwrap()
    };
    let blob: model::digest::Digest = manifest["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    std::fs::write(layout.blob_path(&blob), Pack::Zstd.pack(&tar)).unwrap();
    layout.archive(&fixture.path("swapped.tar"), None);
    let swapped = std::fs::read(fixture.path("swapped.tar")).unwrap();
    std::fs::remove_file(layout.blob_path(&blob)).unwrap();
    layout.archive(&fixture.path("lacking.tar"), None);
    let lacking = std::fs::read(fixture.path("lacking.tar")).unwrap();

    let wrong_name = format!("{}.json", "0".repeat(64));
    let mut header = tar[..1024].to_vec();
    header.extend(b"this is no header, and that is all there is of it".repeat(30));
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "another layer",
            docker(&lying, "c.json", &tar),
            &["unpacked layer l", "digest should be"],
        ),
        (
            "another config",
            docker(&good, &wrong_name, &tar),
            &["config", "digest should be"],
        ),
        ("no layer", docker(&good, "c.json", b"{}"), &["layer blob l"]),
        (
            "a broken layer",
            docker(&good, "c.json", &header),
            &["layer blob l", "not a tar"],
        ),
        ("swapped", swapped, &["layer blob", "should"]),
        ("lacking", lacking, &["has no blobs/sha256/", "copied completely"]),
        ("cut off", oci[..oci.len() / 2].to_vec(), &["cut off"]),
        (
            "a root file system",
            tar.clone(),
            &["manifest.json", "wharf image import"],
        ),
        ("nothing", Vec::new(), &["manifest.json"]),
        ("text", b"hello".repeat(1000), &["not a tar archive"]),
        (
            "bzip2",
            b"BZh91AY&SY and more of it".to_vec(),
            &["bzip2", "not supported"],
        ),
    ];
    for (what, archive, says) in cases {
        let error = load(&fixture.store, &archive, None)
            .err()
            .unwrap_or_else(|| panic!("{what} was loaded"));
        assert_says(&format!("{what}: {error}"), says);
        fixture.assert_empty();
    }
}

/// 64 MiB of documents and a dictionary of 64 MiB are the most that is kept in memory.
#[test]
fn what_would_take_too_much_memory_is_refused() {
    let fixture = Fixture::new();
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(4_000_000));
    let members = (0..20).map(|i| Member::file(format!("{i}.json"), &big));
    let error = load(&fixture.store, &Tar::of(members), None)
        .unwrap_err()
        .to_string();
    assert_says(&error, &["its documents", "more than 67108864 bytes"]);
    let plain = Tar::of([Member::file("x", "x")]);
    let xz = std::process::Command::new("sh")
        .args(["-c", "printf x | xz --lzma2=preset=1,dict=512MiB -c"])
        .output()
        .unwrap();
    assert!(xz.status.success(), "{xz:?}");
    let error = load(&fixture.store, &xz.stdout, None).unwrap_err().to_string();
    assert_says(&error, &["needed memory too big"]);
    drop(plain);
    fixture.assert_empty();
}

/// A reader that is gone ends it.
#[test]
fn writing_that_fails_ends_the_saving() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fixture = Fixture::new();
    let made = image(&fixture.store, "docker.io/library/x:1", &[layer("a")], json!({}));
    for room in [0, 1000, 20_000] {
        let saved = fixture.store.save(
            std::slice::from_ref(&made.key),
            ArchiveFormat::Docker,
            &mut Full(room),
        );
        assert!(matches!(saved, Err(StoreError::Output(_))), "{room}");
    }
}
