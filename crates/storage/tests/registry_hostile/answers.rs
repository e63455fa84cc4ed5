//! Servers that are odd, busy or lie halfway.

use super::*;

#[test]
fn nested_indexes_and_docker_s_types() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let mut manifest = layout.manifest(&[(Pack::Gzip, layer("docker"))], json!({}));
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    manifest["mediaType"] = json!(docker);
    manifest["config"]["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
    manifest["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
    let platform = json!({"os": "linux", "architecture": tests::images::builder::architecture()});
    let mut top = layout.described(docker, manifest.to_string().as_bytes());
    for kind in [
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.index.v1+json",
    ] {
        top["platform"] = platform.clone();
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [top]});
        top = layout.described(kind, index.to_string().as_bytes());
    }
    layout.add(top);
    let mock = Mock::start(Content::of(&layout.dir, "1"), |_| None);
    let image = pull(&fixture, &mock).unwrap();
    assert_eq!(
        std::fs::read_to_string(image.layers[0].join("which")).unwrap(),
        "docker"
    );
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let fixture = Fixture::new();
    let (_, content) = image(&fixture);
    let count = AtomicUsize::new(0);
    // Two refusals for every good answer, from the first question on.
    let mock = Mock::start(content, move |asked| {
        let busy = asked.path != "/v2/" && count.fetch_add(1, Ordering::Relaxed) % 3 != 2;
        let status = [429, 503][count.load(Ordering::Relaxed) % 2];
        busy.then(|| Reply::new(status, "").with("Retry-After", "0"))
    });
    fixture
        .store
        .set_registries(RegistryConfig::default().with_patience(Patience {
            tries: 20,
            backoff: Duration::from_millis(1),
            ..Patience::default()
        }));
    pull(&fixture, &mock).unwrap();
    assert!(mock.asked().len() >= 12, "{}", mock.asked().len());
    let patient = refused(|asked| {
        asked
            .path
            .contains("manifests")
            .then(|| Reply::new(429, r#"{"errors":[{"message":"pull rate"}]}"#).with("Retry-After", "3600"))
    });
    assert_says(&patient, &["answers 429 (pull rate)", "tried 1 times"]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_again() {
    let fixture = Fixture::new();
    let (content, sizes) = layers_of(&fixture);
    let cut = AtomicUsize::new(0);

    let plain = layer("1");
    let mock = Mock::start(content, move |asked| {
        let size = to_layers(asked, &sizes)?;
        (size == plain.len() as u64).then(|| match cut.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::new(200, "").body(Body::Lying(size, plain[..40_000].to_vec())),
            _ => Reply::new(200, plain.clone()),
        })
    });
    fixture.store.set_registries(config(&Settings::default()));
    let image = pull(&fixture, &mock).unwrap();
    assert_eq!(
        std::fs::read_to_string(image.layers[0].join("which")).unwrap(),
        "1"
    );
    let resumed = mock
        .asked()
        .iter()
        .filter(|asked| asked.header("range").is_some())
        .count();
    assert_eq!(resumed, 1);
}

#[test]
fn the_second_half_of_another_blob_does_not_fit() {
    let fixture = Fixture::new();
    let (content, sizes) = layers_of(&fixture);
    let plain = layer("1");
    let mock = Mock::start(content, move |asked| {
        let size = to_layers(asked, &sizes)?;
        let range = asked.header("range").is_some();
        (size == plain.len() as u64).then(|| match range {
            false => Reply::new(200, "").body(Body::Lying(size, plain[..40_000].to_vec())),
            true => Reply::new(206, vec![b'!'; plain.len() - 40_000])
                .with("Content-Range", format!("bytes 40000-{}/{size}", size - 1)),
        })
    });
    fixture.store.set_registries(config(&Settings::default()));
    assert_says(
        &pull(&fixture, &mock).unwrap_err().to_string(),
        &["damaged or was changed"],
    );
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
}
