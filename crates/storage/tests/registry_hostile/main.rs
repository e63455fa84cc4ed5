//! Registries that lie, stall, ramble, or are after our credentials. Each is refused, and nothing of it stays.
#![allow(clippy::unwrap_used)]

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod credentials;
mod levels;
mod lists;
mod memory;
mod pushes;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::mock::{Asked, Body, Content, Mock, Reply};
use common::{Fixture, Layout, Member, Pack, Tar, assert_says, entries};
use model::image::{Image, ImageSource};
use model::spec::{RegistrySettings, Settings};
use serde_json::{Value, json};
use storage::{LoadOptions, Patience, RegistryConfig, RegistryFiles, StoreError};

/// `user:word` in base64.
const BASIC: &str = "Basic dXNlcjp3b3Jk";

fn layer(text: &str) -> Vec<u8> {
    Tar::of([Member::file("which", text), Member::file("x", vec![3; 70_000])])
}

fn image(fixture: &Fixture) -> (Layout, Content) {
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Plain, layer("1")), (Pack::Gzip, layer("2"))]);
    let content = Content::of(&layout.dir, "1");
    (layout, content)
}

fn config(settings: &Settings) -> RegistryConfig {
    patient(settings, LONG)
}

/// With a patience for silence of its own: a short one would take a busy machine for a stalled server.
fn patient(settings: &Settings, stall: Duration) -> RegistryConfig {
    RegistryConfig::new(settings, RegistryFiles::default()).with_patience(Patience {
        stall,
        tries: 3,
        backoff: Duration::from_millis(1),
        longest_wait: Duration::from_secs(2),
        ..Patience::default()
    })
}

fn pull(fixture: &Fixture, mock: &Mock) -> Result<Image, StoreError> {
    let reference = mock.reference("1");
    fixture.load(&ImageSource::Registry { reference })
}

type Change = fn(&mut Value);

/// Credentials for this registry, and whether it may be insecure.
fn known(fixture: &Fixture, registry: &str, insecure: Option<bool>) -> Settings {
    let file = fixture.path("word");
    std::fs::write(&file, "word").unwrap();
    let table = RegistrySettings {
        insecure,
        username: Some("user".to_owned()),
        password_file: Some(file),
        ..Default::default()
    };
    Settings {
        registries: [(registry.to_owned(), table)].into(),
        ..Settings::default()
    }
}

/// What a registry refuses with what it was told to do; the store stays empty.
fn refused(hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> String {
    refused_with(|_, _| {}, LONG, hook)
}

/// How long a server is waited for that stalls on purpose, and one that does not.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(300);

fn refused_with(
    change: impl FnOnce(&mut Layout, &mut Content),
    stall: Duration,
    hook: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
) -> String {
    let fixture = Fixture::new();
    let (mut layout, mut content) = image(&fixture);
    change(&mut layout, &mut content);
    let mock = Mock::start(content, hook);
    fixture.store.set_registries(patient(&Settings::default(), stall));
    let error = pull(&fixture, &mock).unwrap_err().to_string();
    assert_says(&error, &[&mock.reference("1")]);
    // What came whole before the lie may stay, as an unused layer that the next try need not fetch; no image may.
    for directory in ["tmp", "images"] {
        assert_eq!(
            entries(&fixture.path("store").join(directory)),
            Vec::<String>::new(),
            "{error}"
        );
    }
    error
}

/// Replies to requests for layers alone, which are the blobs of more than 10 kB or of gzip.
fn to_layers(asked: &Asked, sizes: &[(String, u64)]) -> Option<u64> {
    let size = sizes.iter().find(|(digest, _)| asked.path.ends_with(digest));
    size.map(|(_, size)| *size)
}

fn layers_of(fixture: &Fixture) -> (Content, Vec<(String, u64)>) {
    let (layout, content) = image(fixture);
    let top = layout.manifests[0]["digest"].as_str().unwrap().parse().unwrap();
    let manifest: Value = serde_json::from_slice(&std::fs::read(layout.blob_path(&top)).unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let sizes = layers.iter().map(|l| {
        (
            l["digest"].as_str().unwrap().to_owned(),
            l["size"].as_u64().unwrap(),
        )
    });
    (content, sizes.collect())
}

/// As [`refused`], for an answer to a request for a layer, given its size.
fn refused_layer(stall: Duration, reply: impl Fn(u64) -> Reply + Send + Sync + 'static) -> String {
    let fixture = Fixture::new();
    let (content, sizes) = layers_of(&fixture);
    let mock = Mock::start(content, move |asked| to_layers(asked, &sizes).map(&reply));
    fixture.store.set_registries(patient(&Settings::default(), stall));
    let error = pull(&fixture, &mock).unwrap_err().to_string();
    fixture.assert_empty();
    error
}

#[test]
fn layers_that_are_not_what_was_said() {
    let same = |size: u64| vec![b'x'; size as usize];
    for (name, error, needles) in [
        (
            "digest",
            refused_layer(LONG, move |size| Reply::new(200, same(size))),
            &["damaged or was changed"][..],
        ),
        (
            "longer",
            refused_layer(LONG, move |size| Reply::new(200, same(size + 1))),
            &["should have", "bytes and"],
        ),
        (
            "shorter",
            refused_layer(LONG, move |size| Reply::new(200, same(size - 1))),
            &["should have", "bytes and"],
        ),
        (
            "longer, unsaid",
            refused_layer(LONG, move |size| {
                Reply::new(200, "").body(Body::Chunked(same(size + 1)))
            }),
            &["sends more than"],
        ),
        (
            "endless",
            refused_layer(LONG, |_| Reply::new(200, "").body(Body::Endless)),
            &["sends more than"],
        ),
        (
            "shorter, unsaid",
            refused_layer(LONG, |_| Reply::new(200, "").body(Body::Chunked(vec![b'x'; 10]))),
            &["ended after 10 of", "tried 3 times"],
        ),
        (
            "cut",
            refused_layer(LONG, |size| {
                Reply::new(200, "").body(Body::Lying(size, vec![b'x'; 10]))
            }),
            &["broke", "tried 3 times"],
        ),
        (
            "stall",
            refused_layer(SHORT, |size| {
                Reply::new(200, "").body(Body::Stalled(size, vec![b'x'; 10]))
            }),
            &["sends nothing", "tried 3 times"],
        ),
        (
            "dripping",
            refused_layer(SHORT, |size| Reply::new(200, "").body(Body::Dripping(size))),
            &["next to nothing", "tried 3 times"],
        ),
        (
            "another part",
            refused_layer(LONG, |_| {
                Reply::new(206, "abc").with("Content-Range", "bytes 5-7/8")
            }),
            &["another part"],
        ),
        (
            "gone",
            refused_layer(LONG, |_| Reply::new(404, "")),
            &["has no layer"],
        ),
        (
            "teapot",
            refused_layer(LONG, |_| Reply::new(418, "no json\n")),
            &["answers 418"],
        ),
    ] {
        assert_says(&format!("{name}: {error}"), needles);
    }
}

#[test]
fn manifests_that_are_not_what_was_said() {
    let manifest = |asked: &Asked| asked.path.contains("/manifests/");
    let reply = |reply: Reply| move |asked: &Asked| manifest(asked).then(|| reply.clone());
    let oci = "application/vnd.oci.image.manifest.v1+json";
    for (name, error, needles) in [
        ("endless", refused(reply(Reply::new(200, "").body(Body::Endless))), &["more than the 4194304 bytes"][..]),
        (
            "huge",
            refused(reply(Reply::new(200, "").body(Body::Stalled(512 << 20, vec![b' '; 5 << 20])))),
            &["more than the 4194304 bytes"],
        ),
        ("deep", refused(reply(Reply::new(200, "[".repeat(1 << 20)))), &["nested more than 64"]),
        (
            "deep where nobody looks",
            refused(reply(Reply::new(200, format!("{{\"x\":{}{}}}", "[".repeat(100), "]".repeat(100))))),
            &["nested more than 64"],
        ),
        ("empty", refused(reply(Reply::new(200, ""))), &["cannot be read"]),
        ("no json", refused(reply(Reply::new(200, "<html>"))), &["cannot be read"]),
        ("stalled", refused_with(|_, _| {}, SHORT, reply(Reply::new(200, "").body(Body::Stalled(900, vec![])))), &["sends nothing", "3 times"]),
        ("dripping", refused_with(|_, _| {}, SHORT, reply(Reply::new(200, "").body(Body::Dripping(9 << 19)))), &["next to nothing"]),
        (
            "another digest",
            refused(reply(Reply::new(200, "{}").with("Docker-Content-Digest", format!("sha256:{}", "a".repeat(64))))),
            &["damaged or was changed"],
        ),
        (
            "two things at once",
            refused(reply(
                Reply::new(200, r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#)
                    .with("Content-Type", oci),
            )),
            &["calls it", "calls itself"],
        ),
        ("schema 1", refused(reply(Reply::new(200, r#"{"schemaVersion":1,"fsLayers":[]}"#))), &["schema 1"]),
        ("no such", refused(reply(Reply::new(404, ""))), &["has no manifest 1"]),
        (
            "rude",
            refused(reply(Reply::new(400, "{\"errors\":[{\"message\":\"a\\u001b[31m\\nb\"}]}"))),
            &["answers 400 (a [31m b)"],
        ),
    ] {
        assert_says(&format!("{name}: {error}"), needles);
        assert!(!error.contains('\u{1b}') && !error.contains('\n'), "{error:?}");
    }
}

#[test]
fn images_that_are_not_taken() {
    let rewrite = |change: Change| {
        move |layout: &mut Layout, content: &mut Content| {
            let top = layout.manifests[0]["digest"].as_str().unwrap().parse().unwrap();
            let bytes = std::fs::read(layout.blob_path(&top)).unwrap();
            let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
            change(&mut manifest);
            content.put(
                "/manifests/1",
                "application/vnd.oci.image.manifest.v1+json",
                manifest.to_string(),
            );
        }
    };
    let cases: [(&str, Change, &[&str]); 6] = [
        (
            "foreign layer",
            |m| {
                m["layers"][0]["mediaType"] =
                    json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
            },
            &["non-distributable"],
        ),
        (
            "many layers",
            |m| m["layers"] = json!(vec![m["layers"][0].clone(); 200]),
            &["200 layers, more than 127"],
        ),
        (
            "negative size",
            |m| m["layers"][0]["size"] = json!(-1),
            &["cannot be read"],
        ),
        (
            "config too big",
            |m| m["config"]["size"] = json!(1_u64 << 40),
            &["bytes, more than"],
        ),
        (
            "config of another size",
            |m| m["config"]["size"] = json!(20),
            &["more than the 20 bytes"],
        ),
        (
            "digest of a path",
            |m| m["config"]["digest"] = json!("sha256:../../v2/x"),
            &["64 lower-case"],
        ),
    ];
    for (name, change, needles) in cases {
        assert_says(
            &format!("{name}: {}", refused_with(rewrite(change), LONG, |_| None)),
            needles,
        );
    }
}
