//! Finding images in layouts and archives, and noticing whatever was tampered with.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::image::{config, digest, docker_archive};
use common::{Fixture, Layout, Member, Pack, Tar, assert_says};
use model::image::ImageSource;
use serde_json::{Value, json};

fn layer(text: &str) -> Vec<u8> {
    Tar::of([Member::file("which", text)])
}

fn which(fixture: &Fixture, source: &ImageSource) -> String {
    let image = fixture.load(source).unwrap();
    std::fs::read_to_string(image.layers.last().unwrap().join("which")).unwrap()
}

/// Loads from the layout and from an archive of it; both must fail, with these words.
#[track_caller]
fn refused(fixture: &Fixture, layout: &Layout, reference: Option<&str>, needles: &[&str]) {
    let archive = layout.archive(&fixture.path("refused.tar"), reference);
    for source in [layout.source(reference), archive] {
        let error = fixture.load(&source).unwrap_err().to_string();
        assert_says(&error, needles);
        assert_says(&error, &[&source.key()]);
    }
    fixture.assert_empty();
}

#[test]
fn a_reference_picks_the_image() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(Some("one"), &[(Pack::Gzip, layer("1"))]);
    assert_eq!(which(&fixture, &layout.source(None)), "1");
    let second = layout.image(Some("two"), &[(Pack::Zstd, layer("2"))]);
    let archive = layout.archive(&fixture.path("a.tar"), Some("two"));
    assert_eq!(which(&fixture, &archive), "2");
    assert_eq!(which(&fixture, &layout.source(Some("one"))), "1");
    assert_eq!(
        which(&fixture, &layout.source(Some(second["digest"].as_str().unwrap()))),
        "2"
    );
    let error = fixture.load(&layout.source(None)).unwrap_err().to_string();
    assert_says(&error, &["several images", ":REF", "one, two"]);
    let error = fixture
        .load(&layout.source(Some("three")))
        .unwrap_err()
        .to_string();
    assert_says(&error, &["no \"three\"", "one, two"]);
}

#[test]
fn the_machines_platform_is_picked_from_nested_indexes() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut manifests = Vec::new();
    let platforms = [
        ("linux", "other", ""),
        ("linux", arch, "v3"),
        ("linux", arch, ""),
        ("windows", arch, ""),
        ("unknown", "unknown", ""),
    ];
    for (os, architecture, variant) in platforms {
        let name = format!("{os}/{architecture}/{variant}");
        let manifest = layout.manifest(&[(Pack::Gzip, layer(&name))], json!({}));
        let mut descriptor = layout.add_manifest(None, &manifest);
        descriptor["platform"] = json!({"os": os, "architecture": architecture, "variant": variant});
        manifests.push(descriptor);
    }
    let index_type = "application/vnd.oci.image.index.v1+json";
    let nested = |layout: &Layout, manifests: &[Value]| {
        let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests});
        layout.described(index_type, index.to_string().as_bytes())
    };
    layout.manifests = vec![nested(&layout, &[nested(&layout, &manifests)])];
    // A nested index needs a platform or to be alone.
    layout.write_index();
    assert_eq!(which(&fixture, &layout.source(None)), format!("linux/{arch}/"));
    layout.manifests = manifests.clone();
    layout.write_index();
    assert_eq!(which(&fixture, &layout.source(None)), format!("linux/{arch}/"));
    layout.manifests = vec![nested(&layout, &[manifests[0].clone(), manifests[3].clone()])];
    layout.write_index();
    let error = fixture.load(&layout.source(None)).unwrap_err().to_string();
    assert_says(&error, &["nothing for linux/", "linux/other, windows/"]);
    let mut deep = manifests[2].clone();
    for _ in 0..6 {
        deep = nested(
            &layout,
            &[json!({"mediaType": deep["mediaType"], "digest": deep["digest"], "size": deep["size"]})],
        );
    }
    layout.manifests = vec![deep];
    layout.write_index();
    let error = fixture.load(&layout.source(None)).unwrap_err().to_string();
    assert_says(&error, &["nested too deeply"]);
}

#[test]
fn every_digest_and_size_is_checked() {
    let fixture = Fixture::new();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    type Damage = fn(&mut Layout, Value);
    let cases: Vec<(&str, Damage, Vec<&str>)> = vec![
        (
            "manifest",
            |l, d| flip(l, &d["digest"]),
            vec!["manifest sha256:", "damaged", "its digest should be"],
        ),
        (
            "manifest size",
            |l, mut d| {
                d["size"] = json!(5);
                l.manifests = vec![d];
                l.write_index()
            },
            vec!["manifest sha256:", "should have 5 bytes"],
        ),
        (
            "manifest gone",
            |l, d| remove(l, &d["digest"]),
            vec!["has no blobs/sha256/"],
        ),
        (
            "config",
            |l, d| {
                let m = read(l, &d);
                flip(l, &m["config"]["digest"])
            },
            vec!["config sha256:", "its digest should be"],
        ),
        (
            "config gone",
            |l, d| {
                let m = read(l, &d);
                remove(l, &m["config"]["digest"])
            },
            vec!["has no blobs/sha256/"],
        ),
        (
            "layer",
            |l, d| {
                let m = read(l, &d);
                flip(l, &m["layers"][0]["digest"])
            },
            vec!["layer blob sha256:", "its digest should be"],
        ),
        (
            "layer gone",
            |l, d| {
                let m = read(l, &d);
                remove(l, &m["layers"][0]["digest"])
            },
            vec!["has no blobs/sha256/"],
        ),
        (
            "layer cut",
            |l, d| {
                let m = read(l, &d);
                cut(l, &m["layers"][0]["digest"])
            },
            vec!["cut off", "bytes"],
        ),
        (
            "layer size",
            |l, d| change(l, &d, |m| m["layers"][0]["size"] = json!(7)),
            vec!["should have 7 bytes"],
        ),
        (
            "diff id",
            |l, d| rewrite_config(l, &d, |c| c["rootfs"]["diff_ids"][0] = json!(digest(b"other"))),
            vec!["unpacked layer sha256:", "its digest should be"],
        ),
        (
            "diff id count",
            |l, d| rewrite_config(l, &d, |c| c["rootfs"]["diff_ids"] = json!([])),
            vec!["lists 0 layers, the manifest 1"],
        ),
        (
            "algorithm",
            |l, d| change(l, &d, |m| m["layers"][0]["digest"] = json!("md5:00")),
            vec!["\"md5\" is not supported"],
        ),
        (
            "traversal",
            |l, d| {
                change(l, &d, |m| {
                    m["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")
                })
            },
            vec!["64 lower-case"],
        ),
        (
            "no json",
            |l, _| std::fs::write(l.dir.join("index.json"), "{").unwrap(),
            vec!["index.json cannot be read", "line 1"],
        ),
        (
            "deep json",
            |l, _| std::fs::write(l.dir.join("index.json"), "[".repeat(100_000)).unwrap(),
            vec!["index.json: it is nested more than 64"],
        ),
        (
            "empty",
            |l, _| {
                l.manifests.clear();
                l.write_index()
            },
            vec!["lists no images"],
        ),
        (
            "big index",
            |l, _| std::fs::write(l.dir.join("index.json"), " ".repeat(5 << 20)).unwrap(),
            vec!["index.json has 5242880 bytes"],
        ),
        (
            "big manifest",
            |l, mut d| {
                d["size"] = json!(5 << 20);
                l.manifests = vec![d];
                l.write_index()
            },
            vec!["has 5242880 bytes, more than"],
        ),
        (
            "foreign",
            |l, d| {
                change(l, &d, |m| {
                    m["layers"][0]["mediaType"] =
                        json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
                })
            },
            vec!["non-distributable"],
        ),
        (
            "foreign oci",
            |l, d| {
                change(l, &d, |m| {
                    m["layers"][0]["mediaType"] =
                        json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")
                })
            },
            vec!["non-distributable"],
        ),
        (
            "encrypted",
            |l, d| {
                change(l, &d, |m| {
                    m["layers"][0]["mediaType"] =
                        json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
                })
            },
            vec!["+encrypted\" is not a layer's"],
        ),
        (
            "artifact",
            |l, d| {
                change(l, &d, |m| {
                    m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
                })
            },
            vec!["an artifact's, not an image's"],
        ),
        (
            "both at once",
            |l, d| change(l, &d, |m| m["manifests"] = json!([])),
            vec!["something else at once"],
        ),
        (
            "schema 1",
            |l, d| change(l, &d, |m| m["schemaVersion"] = json!(1)),
            vec!["schema version 1"],
        ),
        (
            "unknown type",
            |l, mut d| {
                d["mediaType"] = json!("text/plain");
                l.manifests = vec![d];
                l.write_index()
            },
            vec!["not an image's"],
        ),
        (
            "windows",
            |l, d| rewrite_config(l, &d, |c| c["os"] = json!("windows")),
            vec!["nothing for linux, only for windows"],
        ),
        (
            "layers",
            |l, d| change(l, &d, |m| m["layers"] = json!(vec![m["layers"][0].clone(); 128])),
            vec!["128 layers, more than 127"],
        ),
        (
            "version",
            |l, _| std::fs::write(l.dir.join("oci-layout"), r#"{"imageLayoutVersion":"2.0"}"#).unwrap(),
            vec!["version \"2.0\""],
        ),
    ];
    for (i, (name, damage, needles)) in cases.into_iter().enumerate() {
        let mut layout = Layout::new(&fixture.path(&format!("layout{i}")));
        let manifest = layout.manifest(&[(Pack::Gzip, layer(name))], json!({}));
        let descriptor = layout.add_manifest(None, &manifest);
        assert_eq!(descriptor["mediaType"], manifest_type);
        damage(&mut layout, descriptor);
        refused(&fixture, &layout, None, &needles);
    }
}

fn path(layout: &Layout, digest: &Value) -> PathBuf {
    layout.blob_path(&digest.as_str().unwrap().parse().unwrap())
}

fn read(layout: &Layout, descriptor: &Value) -> Value {
    serde_json::from_slice(&std::fs::read(path(layout, &descriptor["digest"])).unwrap()).unwrap()
}

fn flip(layout: &Layout, digest: &Value) {
    let mut bytes = std::fs::read(path(layout, digest)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path(layout, digest), bytes).unwrap();
}

fn cut(layout: &Layout, digest: &Value) {
    let bytes = std::fs::read(path(layout, digest)).unwrap();
    std::fs::write(path(layout, digest), &bytes[..bytes.len() - 9]).unwrap();
}

fn remove(layout: &Layout, digest: &Value) {
    std::fs::remove_file(path(layout, digest)).unwrap();
}

/// A manifest that says something else, with digests that hold.
fn change(layout: &mut Layout, descriptor: &Value, how: impl FnOnce(&mut Value)) {
    let mut manifest = read(layout, descriptor);
    how(&mut manifest);
    layout.manifests.clear();
    layout.add_manifest(None, &manifest);
}

fn rewrite_config(layout: &mut Layout, descriptor: &Value, how: impl FnOnce(&mut Value)) {
    let manifest = read(layout, descriptor);
    let mut config = read(layout, &manifest["config"]);
    how(&mut config);
    let described = layout.described(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    change(layout, descriptor, |m| m["config"] = described);
}

#[test]
fn what_is_not_there_or_not_an_image_is_named() {
    let fixture = Fixture::new();
    let file = |name: &str| fixture.path(name);
    std::fs::write(file("text"), "hello").unwrap();
    std::fs::write(file("gz"), Pack::Gzip.pack(&layer("x"))).unwrap();
    std::fs::write(file("plain.tar"), layer("x")).unwrap();
    std::fs::create_dir(file("dir")).unwrap();
    nix::unistd::mkfifo(&file("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut layout = Layout::new(&file("layout"));
    layout.image(None, &[(Pack::Gzip, layer("x"))]);
    layout.archive(&file("whole.tar"), None);
    let whole = std::fs::read(file("whole.tar")).unwrap();
    std::fs::write(file("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    let oci = |name: &str| ImageSource::Oci {
        dir: file(name),
        reference: None,
    };
    let oci_archive = |name: &str| ImageSource::OciArchive {
        file: file(name),
        reference: None,
    };
    let docker = |name: &str| ImageSource::DockerArchive {
        file: file(name),
        reference: None,
    };
    let rootfs = |name: &str| ImageSource::Rootfs { dir: file(name) };
    let cases = [
        (oci("missing"), "does not exist"),
        (oci("text"), "is not a directory"),
        (oci("dir"), "has no index.json in it"),
        (oci_archive("missing"), "does not exist"),
        (oci_archive("dir"), "is not a regular file"),
        (oci_archive("fifo"), "is not a regular file"),
        (oci_archive("text"), "cut off"),
        (oci_archive("gz"), "is compressed with gzip: decompress it first"),
        (oci_archive("plain.tar"), "has no index.json in it"),
        (oci_archive("cut.tar"), "cut off"),
        (docker("missing"), "does not exist"),
        (
            docker("whole.tar"),
            "has no manifest.json in it: is it an archive written by `docker save`?",
        ),
        (rootfs("missing"), "does not exist"),
        (rootfs("text"), "is not a directory"),
        (
            ImageSource::Rootfs {
                dir: "relative".into(),
            },
            "not an absolute path",
        ),
        (
            ImageSource::Registry {
                reference: "docker.io/library/NGINX:1".into(),
            },
            "not one of an image",
        ),
    ];
    for (source, why) in cases {
        let error = fixture.load(&source).unwrap_err().to_string();
        assert_says(&error, &[&source.key(), why]);
    }
    // A FIFO where a blob should be must not hang either.
    let manifest = path(&layout, &layout.manifests[0]["digest"]);
    std::fs::remove_file(&manifest).unwrap();
    nix::unistd::mkfifo(&manifest, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = fixture.load(&layout.source(None)).unwrap_err().to_string();
    assert_says(&error, &["is not a regular file"]);
    fixture.assert_empty();
}

#[test]
fn a_rootfs_is_its_own_only_layer() {
    let fixture = Fixture::new();
    let dir = fixture.path("rootfs");
    std::fs::create_dir(&dir).unwrap();
    let image = fixture.load(&ImageSource::Rootfs { dir: dir.clone() }).unwrap();
    assert_eq!(
        (image.id, image.digest, image.layers),
        (None, None, vec![dir.clone()])
    );
    let images = fixture.store.images().unwrap();
    assert_eq!(
        images.keys().cloned().collect::<Vec<_>>(),
        [format!("rootfs:{}", dir.display())]
    );
}

#[test]
fn the_config_is_handed_on() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let manifest = layout.manifest(&[], json!({
        "User": "web:web", "Env": ["A=1", "B=2"], "Entrypoint": ["/e"], "Cmd": ["c", "d"], "WorkingDir": "/w",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/data": {}}, "Labels": {"k": "v"},
        "StopSignal": "SIGQUIT", "Unknown": [1, 2],
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000_u64, "Timeout": 1_500_000_000,
            "StartPeriod": 0, "StartInterval": 250_000_000, "Retries": 5}
    }));
    layout.add_manifest(Some("full"), &manifest);
    let nothing = layout.manifest(
        &[],
        json!({"Env": null, "Cmd": null, "User": "", "Healthcheck": {"Test": []}}),
    );
    layout.add_manifest(Some("nothing"), &nothing);
    let image = fixture.load(&layout.source(Some("full"))).unwrap();
    let config = image.config;
    assert_eq!(config.user.as_deref(), Some("web:web"));
    assert_eq!(
        (config.env, config.entrypoint, config.cmd),
        (
            vec!["A=1".to_owned(), "B=2".to_owned()],
            vec!["/e".to_owned()],
            vec!["c".to_owned(), "d".to_owned()]
        )
    );
    assert_eq!(
        (config.working_dir.as_deref(), config.stop_signal.as_deref()),
        (Some("/w"), Some("SIGQUIT"))
    );
    assert_eq!(
        (config.exposed_ports, config.volumes),
        (
            vec!["53/udp".to_owned(), "80/tcp".to_owned()],
            vec!["/data".to_owned()]
        )
    );
    assert_eq!(config.labels["k"], "v");
    let health = config.healthcheck.unwrap();
    assert_eq!(
        (health.interval, health.timeout),
        (Duration::from_secs(30), Duration::from_millis(1500))
    );
    assert_eq!(
        (health.start_period, health.start_interval),
        (Duration::ZERO, Duration::from_millis(250))
    );
    assert_eq!(
        (health.retries, health.test),
        (5, vec!["CMD".to_owned(), "true".to_owned()])
    );
    assert_eq!(image.id.unwrap().to_string(), manifest["config"]["digest"]);
    let empty = fixture.load(&layout.source(Some("nothing"))).unwrap().config;
    assert_eq!(empty, Default::default());
}

#[test]
fn docker_archives_old_and_new() {
    let fixture = Fixture::new();
    let (one, two) = (layer("1"), layer("2"));
    let config_of = |layers: &[&Vec<u8>]| {
        let ids: Vec<_> = layers.iter().map(|l| digest(l)).collect();
        config(&ids, json!({"Cmd": ["x"]})).to_string()
    };
    let (first, second) = (config_of(&[&one, &two]), config_of(&[&one]));
    let (first_id, second_id) = (digest(first.as_bytes()), digest(second.as_bytes()));
    let manifest = json!([
        {"Config": format!("{}.json", first_id.hex()), "RepoTags": ["app:1", "localhost:5000/app:latest"],
         "Layers": ["a/layer.tar", "b/layer.tar"]},
        {"Config": format!("blobs/sha256/{}", second_id.hex()), "RepoTags": null,
         "Layers": [format!("blobs/sha256/{}", digest(&one).hex())]},
        {"Config": "odd", "RepoTags": ["registry.example/team/odd"], "Layers": ["hard"]},
    ]);
    let members = vec![
        Member::dir("a"),
        Member::symlink("a/layer.tar", format!("../blobs/sha256/{}", digest(&one).hex())),
        Member::symlink("b/layer.tar", "../c/layer.tar"),
        Member::file("c/layer.tar", &two),
        Member::hardlink("hard", "c/layer.tar"),
        Member::symlink("evil", "../../../etc/passwd"),
        Member::symlink("loop", "loop"),
        Member::file(format!("{}.json", first_id.hex()), &first),
        Member::file(format!("blobs/sha256/{}", second_id.hex()), &second),
        Member::file("odd", config_of(&[&two])),
        Member::file(format!("blobs/sha256/{}", digest(&one).hex()), &one),
        Member::file("manifest.json", manifest.to_string()),
    ];
    let source = |reference| docker_archive(&fixture.path("docker.tar"), reference, members.clone());
    for reference in ["app:1", "docker.io/library/app:1", "localhost:5000/app"] {
        let image = fixture.load(&source(Some(reference))).unwrap();
        assert_eq!(
            (image.layers.len(), image.id, image.digest),
            (2, Some(first_id), None)
        );
        assert_eq!(std::fs::read(image.layers[1].join("which")).unwrap(), b"2");
    }
    assert_eq!(
        which(&fixture, &source(Some("registry.example/team/odd:latest"))),
        "2"
    );
    let error = fixture.load(&source(Some("app"))).unwrap_err().to_string();
    assert_says(&error, &["no \"app\"", "app:1, localhost:5000/app:latest"]);
    assert_says(
        &fixture.load(&source(None)).unwrap_err().to_string(),
        &["several images"],
    );
    for (layers, config, why) in [
        (json!(["evil"]), "odd", "has no evil in it"),
        (json!(["loop"]), "odd", "has no loop in it"),
        (json!(["a/layer.tar"]), "odd", "unpacked layer sha256:"),
        (json!(["hard", "hard"]), "odd", "lists 1 layers, the manifest 2"),
        (json!(["hard"]), "missing", "has no missing in it"),
        (
            json!(["hard"]),
            "0000000000000000000000000000000000000000000000000000000000000000.json",
            "its digest should be",
        ),
    ] {
        let mut members = members.clone();
        members.push(Member::file(format!("{}.json", "0".repeat(64)), "{}"));
        let manifest = json!([{"Config": config, "Layers": layers}]);
        members.push(Member::file("manifest.json", manifest.to_string()));
        let fixture = Fixture::new();
        let source = docker_archive(&fixture.path("bad.tar"), None, members);
        assert_says(&fixture.load(&source).unwrap_err().to_string(), &[why]);
        fixture.assert_empty();
    }
}
