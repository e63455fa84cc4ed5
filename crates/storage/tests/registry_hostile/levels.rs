//! Lies at each level, from the manifest's sizes down to the layer's plain bytes; streams that are cut or swell.

use storage::{Limits, Proxies, Store};

use super::*;

/// The error of pulling an image whose parts were exchanged after it was made.
fn refused_image(change: impl FnOnce(&Layout, &mut Value, &mut Content)) -> String {
    refused_with(
        |layout, content| {
            let top = layout.manifests[0]["digest"].as_str().unwrap().parse().unwrap();
            let bytes = std::fs::read(layout.blob_path(&top)).unwrap();
            let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
            change(layout, &mut manifest, content);
            let kind = "application/vnd.oci.image.manifest.v1+json";
            content.put("/manifests/1", kind, manifest.to_string());
        },
        LONG,
        |_| None,
    )
}

fn digest_of(part: &Value) -> String {
    part["digest"].as_str().unwrap().to_owned()
}

#[test]
fn wrong_digests_and_sizes_at_each_level() {
    let other_config = |_: &Layout, manifest: &mut Value, content: &mut Content| {
        let size = manifest["config"]["size"].as_u64().unwrap() as usize;
        let path = format!("/blobs/{}", digest_of(&manifest["config"]));
        content.put(&path, "", vec![b' '; size]);
    };
    let other_diff_id = |layout: &Layout, manifest: &mut Value, content: &mut Content| {
        let wrong = common::image::digest(b"something else");
        let config = common::image::config(&[wrong, wrong], json!({})).to_string();
        manifest["config"] = layout.described("application/vnd.oci.image.config.v1+json", config.as_bytes());
        content.put(&format!("/blobs/{}", digest_of(&manifest["config"])), "", config);
    };
    let sized = |size: u64| {
        move |_: &Layout, manifest: &mut Value, _: &mut Content| manifest["layers"][0]["size"] = json!(size)
    };
    for (name, error, needles) in [
        (
            "config",
            refused_image(other_config),
            &["config sha256:", "damaged or was changed"][..],
        ),
        (
            "diff_id",
            refused_image(other_diff_id),
            &["unpacked layer", "damaged or was changed"],
        ),
        (
            "no size",
            refused_image(sized(0)),
            &["layer blob sha256:", "damaged"],
        ),
        ("small", refused_image(sized(10)), &["should have 10 bytes and"]),
        ("huge", refused_image(sized(u64::MAX)), &["bytes and"]),
        (
            "too large for a number",
            refused_image(|_, m, _| m["layers"][0]["size"] = json!(1e30)),
            &["cannot be read"],
        ),
    ] {
        assert_says(&format!("{name}: {error}"), needles);
    }
}

/// An image of one layer whose blob is as it is given, its own digest right.
fn with_blob(fixture: &Fixture, media_type: &str, blob: &[u8], plain: &[u8]) -> Content {
    let mut layout = Layout::new(&fixture.path("layout"));
    let mut manifest = layout.manifest(&[(Pack::Plain, plain.to_vec())], json!({}));
    manifest["layers"] = json!([layout.described(media_type, blob)]);
    layout.add_manifest(None, &manifest);
    Content::of(&layout.dir, "1")
}

#[test]
fn streams_that_end_early_or_swell() {
    for (pack, says) in [(Pack::Gzip, ""), (Pack::Zstd, ""), (Pack::Plain, "")] {
        let fixture = Fixture::new();
        let plain = layer("whole");
        let packed = pack.pack(&plain);
        let content = with_blob(&fixture, pack.media_type(), &packed[..packed.len() / 2], &plain);
        let mock = Mock::start(content, |_| None);
        fixture.store.set_registries(config(&Settings::default()));
        assert_says(
            &pull(&fixture, &mock).unwrap_err().to_string(),
            &["layer sha256:", says],
        );
        fixture.assert_empty();
        // Eight megabytes of nothing, for a store that takes one.
        let plain = Tar::of([Member::file("zeros", vec![0; 8 << 20])]);
        let content = with_blob(&fixture, pack.media_type(), &pack.pack(&plain), &plain);
        let mock = Mock::start(content, |_| None);
        let limits = Limits {
            bytes: 1 << 20,
            ..Limits::default()
        };
        let store = Store::with_limits(&fixture.path("small"), limits).unwrap();
        store.set_registries(config(&Settings::default()));
        let reference = mock.reference("1");
        let source = ImageSource::Registry { reference };
        let error = store.load(&source, &LoadOptions::new(&false.into())).unwrap_err();
        assert_says(&error.to_string(), &["unpacks to more than the 1048576 bytes"]);
        assert_eq!(entries(&fixture.path("small/tmp")), Vec::<String>::new());
    }
}

/// A registry elsewhere sends nobody to this machine's own services.
#[test]
fn a_redirect_to_this_machine_from_elsewhere() {
    let fixture = Fixture::new();
    let own = Mock::start(Content::default(), |_| None);
    for host in ["localhost", "127.0.0.1", "[::1]", "0.0.0.0", "127.1.2.3"] {
        let to = format!("http://{host}:{}/secret", own.address.port());
        // As a proxy it answers for anybody.
        let proxy = Mock::start(Content::default(), move |asked| {
            let reply = match asked.path.contains("/manifests/") {
                true => Reply::new(307, "").with("Location", to.clone()),
                false => Reply::new(200, "{}"),
            };
            // Nobody speaks TLS with it.
            (asked.method != "CONNECT").then_some(reply)
        });
        let url = format!("http://{}", proxy.address);
        let settings = known(&fixture, "far.example", Some(true));
        let config = config(&settings).with_proxies(Proxies::new(&url, &url, ""));
        fixture.store.set_registries(config);
        let reference = "far.example/app:1".to_owned();
        let error = fixture.load(&ImageSource::Registry { reference }).unwrap_err();
        assert_says(&error.to_string(), &["this machine itself"]);
    }
    assert_eq!(own.asked().len(), 0);
}
