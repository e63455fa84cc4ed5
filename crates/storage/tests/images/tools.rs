//! Our archives in skopeo, theirs in ours, digests compared. Fails where the tool is missing.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use storage::ArchiveFormat;
use tests::engines::{Engine, Podman};

use super::common::image::digest;
use super::common::{Fixture, Member, Tar};
use super::{another, image, layer, load, save};

fn skopeo(policy: &Path, args: &[&str]) -> String {
    let output = Command::new("skopeo")
        .arg("--policy")
        .arg(policy)
        .args(args)
        .output();
    let output = output.expect("skopeo must be installed for this test");
    assert!(
        output.status.success(),
        "skopeo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn our_archives_in_skopeo_and_its_in_ours() {
    let fixture = Fixture::new();
    let policy = fixture.path("policy.json");
    std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let layers = [layer("a"), layer("b")];
    let one = image(
        &fixture.store,
        "docker.io/library/one:1",
        &layers,
        json!({"Cmd": ["/x"], "Env": ["A=b"]}),
    );
    let two = image(
        &fixture.store,
        "registry.example:5000/two:2",
        &layers[..1],
        json!({}),
    );
    let path = |name: &str| fixture.path(name).to_str().unwrap().to_owned();
    let diff_ids: Vec<String> = layers.iter().map(|tar| digest(tar).to_string()).collect();
    for (format, kind) in [
        (ArchiveFormat::Docker, "docker-archive"),
        (ArchiveFormat::Oci, "oci-archive"),
    ] {
        let file = path(&format!("{kind}.tar"));
        std::fs::write(&file, save(&fixture.store, &[&one.key, &two.key], format)).unwrap();
        let reference = if kind == "docker-archive" {
            "one:1"
        } else {
            &*one.key
        };
        let from = format!("{kind}:{file}:{reference}");
        let config: Value = serde_json::from_str(&skopeo(&policy, &["inspect", "--config", &from])).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids), "{kind}");
        assert_eq!(config["config"]["Cmd"], json!(["/x"]));
        // There and back, by each form that it writes.
        for to in ["docker-archive", "oci-archive"] {
            let back = path(&format!("{kind}-{to}.tar"));
            let reference = "registry.example:5000/back:3";
            skopeo(&policy, &["copy", &from, &format!("{to}:{back}:{reference}")]);
            let store = another(&fixture, &format!("{kind}-{to}"));
            let loaded = load(&store, &std::fs::read(&back).unwrap(), None).unwrap();
            assert_eq!(loaded[0].reference, reference, "{kind} to {to}");
            let described = store.describe(reference).unwrap();
            let ids: Vec<String> = described
                .layers
                .iter()
                .map(|layer| layer.diff_id.to_string())
                .collect();
            assert_eq!(ids, diff_ids, "{kind} to {to}");
            assert_eq!(described.image.config, one.config);
        }
    }
}

/// The layers of the image of that name, by their diff_ids.
fn layers_of(podman: &Podman, name: &str) -> Value {
    podman.inspect(name)["RootFS"]["Layers"].clone()
}

/// Podman takes no layer that has a name twice.
fn ordinary(text: &str) -> Vec<u8> {
    Tar::of([
        Member::dir("etc"),
        Member::file("etc/which", text.repeat(3000)),
        Member::hardlink("etc/other", "etc/which"),
        Member::symlink("link", "etc/which"),
        Member::file("setuid", "x").mode(0o4755).owner(12, 34),
        Member::file(".wh.hidden", ""),
    ])
}

#[test]
fn our_archives_in_podman_and_its_in_ours() {
    let fixture = Fixture::new();
    let podman = Podman::alone(&fixture.path("podman"));
    let [flag, policy] = podman.policy();
    let layers = ["a", "b"].map(ordinary);
    let one = image(
        &fixture.store,
        "docker.io/library/one:1",
        &layers,
        json!({"Cmd": ["/x"]}),
    );
    let two = image(
        &fixture.store,
        "registry.example:5000/two:2",
        &layers[..1],
        json!({}),
    );
    let ids: Vec<String> = layers.iter().map(|tar| digest(tar).to_string()).collect();
    let expected = [(&one.key, json!(ids)), (&two.key, json!(ids[..1]))];
    for (format, kind) in [
        (ArchiveFormat::Docker, "docker-archive"),
        (ArchiveFormat::Oci, "oci-archive"),
    ] {
        let file = fixture.path(&format!("{kind}.tar")).to_str().unwrap().to_owned();
        // Of an OCI archive podman takes one image.
        let count = if format == ArchiveFormat::Docker { 2 } else { 1 };
        let keys: Vec<&str> = expected[..count].iter().map(|(key, _)| key.as_str()).collect();
        std::fs::write(&file, save(&fixture.store, &keys, format)).unwrap();
        podman.run(&["load", "--quiet", &flag, &policy, "--input", &file]);
        for (key, ids) in &expected[..count] {
            assert_eq!(layers_of(&podman, key), *ids, "{kind} {key}");
        }
        let back = fixture
            .path(&format!("{kind}-back.tar"))
            .to_str()
            .unwrap()
            .to_owned();
        let several: &[&str] = if count == 2 {
            &["--multi-image-archive"]
        } else {
            &[]
        };
        podman.run(
            &[
                &["save", "--quiet", "--format", kind, "--output", &back],
                several,
                &keys,
            ]
            .concat(),
        );
        let store = another(&fixture, kind);
        let mut loaded: Vec<String> = load(&store, &std::fs::read(&back).unwrap(), None)
            .unwrap()
            .into_iter()
            .map(|one| one.reference)
            .collect();
        loaded.sort();
        assert_eq!(loaded, keys, "{kind}");
        for (key, ids) in &expected[..count] {
            let described = store.describe(key).unwrap();
            let found: Vec<String> = described
                .layers
                .iter()
                .map(|layer| layer.diff_id.to_string())
                .collect();
            assert_eq!(json!(found), *ids, "{kind} {key}");
        }
        podman.run(&["rmi", "--all", "--force"]);
    }
}
