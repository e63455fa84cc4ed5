//! Pulling from Debian's docker-registry: by tag and digest, refreshed, with a login, cut off, killed, at once.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "push/mod.rs"]
mod push;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use common::{Fixture, Layout, Member, Pack, Tar, assert_says, entries, in_memory, killed, snapshot};
use model::image::{Image, ImageSource};
use model::spec::{RegistrySettings, Settings};
use serde_json::json;
use storage::{InUse, LoadOptions, Patience, Progress, RegistryConfig, RegistryFiles, Store, StoreError};
use tests::cutter::{Cutter, Way};
use tests::registry::{Options, PASSWORD, Registry, USER};

fn layer(text: &str) -> Vec<u8> {
    Tar::of([
        Member::file("which", text),
        Member::dir("d"),
        Member::file("d/x", vec![7; 9000]),
    ])
}

/// A layer that does not shrink.
fn noise(seed: u32, size: u32) -> Vec<u8> {
    let bytes: Vec<u8> = (0..size / 4)
        .flat_map(|i| {
            (i ^ seed)
                .wrapping_mul(2_654_435_761)
                .rotate_left(i % 31)
                .to_le_bytes()
        })
        .collect();
    Tar::of([Member::file("noise", bytes)])
}

fn source(reference: &str) -> ImageSource {
    ImageSource::Registry {
        reference: reference.to_owned(),
    }
}

fn refresh(store: &Store, reference: &str) -> Result<Image, StoreError> {
    let cancel = AtomicBool::new(false);
    let options = LoadOptions {
        refresh: true,
        ..LoadOptions::new(&cancel)
    };
    store.load(&source(reference), &options)
}

/// How many of the agent's own requests were of that kind, once `expected` of them are in the log.
fn requests(registry: &Registry, method: &str, path: &str, expected: usize) -> usize {
    registry.requests(&["wharf/", method, path], expected)
}

/// Quick to give up, for registries that are not there.
fn hasty(settings: &Settings) -> RegistryConfig {
    RegistryConfig::new(settings, RegistryFiles::default()).with_patience(Patience {
        tries: 2,
        backoff: Duration::from_millis(1),
        ..Patience::default()
    })
}

#[test]
fn by_tag_by_digest_and_by_both() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    let packs = [Pack::Gzip, Pack::Zstd, Pack::Plain, Pack::GzipTwice];
    let layers: Vec<_> = packs
        .iter()
        .enumerate()
        .map(|(i, pack)| (*pack, layer(&i.to_string())))
        .collect();
    let descriptor = layout.image(Some("one"), &layers);
    let tagged = registry.push(&format!("{}:one", layout.source(None).key()), "some/app:1");
    let untagged = tagged.strip_suffix(":1").unwrap();
    let digest = descriptor["digest"].as_str().unwrap();

    let reports = Mutex::new(Vec::new());
    let cancel = AtomicBool::new(false);
    let note = |progress: Progress| reports.lock().unwrap().push(progress);
    let options = LoadOptions {
        progress: Some(&note),
        ..LoadOptions::new(&cancel)
    };
    let image = fixture.store.load(&source(&tagged), &options).unwrap();
    assert_eq!(image.key, tagged);
    assert_eq!(image.digest.unwrap().to_string(), digest);
    let local = fixture.load(&layout.source(Some("one"))).unwrap();
    assert_eq!(
        (&image.layers, image.id, &image.config),
        (&local.layers, local.id, &local.config)
    );
    assert_eq!(
        std::fs::read_to_string(image.layers[3].join("which")).unwrap(),
        "3"
    );
    let reports = reports.into_inner().unwrap();
    let done: u64 = reports
        .iter()
        .filter(|p| p.done == p.total)
        .map(|p| p.total)
        .sum();
    assert_eq!(done, image.size, "{reports:?}");
    assert_eq!(reports.iter().filter(|p| p.done == 0).count(), 4);

    for reference in [
        format!("{untagged}@{digest}"),
        format!("{tagged}@{digest}"),
        format!("{untagged}:no@{digest}"),
    ] {
        let pulled = fixture.load(&source(&reference)).unwrap();
        assert_eq!((pulled.key, pulled.layers), (reference, image.layers.clone()));
    }
    // All of it was there: the layers were asked for once.
    assert_eq!(requests(&registry, "GET", "/blobs/", 8), 8);
    let listed = fixture.store.listing().unwrap();
    let listed = listed.iter().find(|listed| listed.image.key == tagged).unwrap();
    assert_eq!(listed.pinned.unwrap().to_string(), digest);
    assert!(listed.pulled.is_some());
}

#[test]
fn an_index_leads_to_this_machine_s_image() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    let own = tests::images::builder::architecture();
    let mut manifests = Vec::new();
    for (os, architecture) in [("linux", "mips64le"), ("linux", own), ("linux", "s390x")] {
        let mut manifest = layout.manifest(&[(Pack::Gzip, layer(architecture))], json!({}));
        // skopeo sees to the config being the platform's.
        let config = json!({"architecture": architecture, "os": os, "config": {}, "rootfs": {"type": "layers",
            "diff_ids": [common::image::digest(&layer(architecture))]}});
        manifest["config"] = layout.described(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let mut descriptor = layout.described(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        );
        descriptor["platform"] = json!({"os": os, "architecture": architecture});
        manifests.push(descriptor);
    }
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests}).to_string();
    let mut descriptor = layout.described(index_type, index.as_bytes());
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "all"});
    layout.add(descriptor.clone());
    let reference = registry.push(&format!("{}:all", layout.source(None).key()), "app:1");
    let image = fixture.load(&source(&reference)).unwrap();
    assert_eq!(
        std::fs::read_to_string(image.layers[0].join("which")).unwrap(),
        own
    );
    assert_eq!(image.digest.unwrap().to_string(), manifests[1]["digest"]);
    assert_eq!(
        fixture.store.listing().unwrap()[0].pinned.unwrap().to_string(),
        descriptor["digest"]
    );
    assert_eq!(entries(&fixture.path("store/blobs/sha256")).len(), 3);
    let by_index = format!(
        "{}@{}",
        reference.strip_suffix(":1").unwrap(),
        descriptor["digest"].as_str().unwrap()
    );
    assert_eq!(fixture.load(&source(&by_index)).unwrap().layers, image.layers);
    // Nothing but a look at the tag is needed to know that it is the same.
    assert_eq!(refresh(&fixture.store, &reference).unwrap(), image);
    assert_eq!(requests(&registry, "HEAD", "/manifests/", 1), 1);
    assert_eq!(requests(&registry, "GET", "/manifests/", 4), 4);
}

#[test]
fn a_refresh_asks_and_a_registry_that_is_gone_takes_nothing_away() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(
        Some("old"),
        &[(Pack::Gzip, layer("base")), (Pack::Gzip, layer("old"))],
    );
    layout.image(
        Some("new"),
        &[(Pack::Gzip, layer("base")), (Pack::Gzip, layer("new"))],
    );
    let key = layout.source(None).key();
    let reference = registry.push(&format!("{key}:old"), "app:1");
    let old = fixture.load(&source(&reference)).unwrap();
    let pulled = fixture.store.listing().unwrap()[0].pulled;
    registry.push(&format!("{key}:new"), "app:1");
    assert_eq!(
        fixture.load(&source(&reference)).unwrap(),
        old,
        "without a refresh nobody is asked"
    );
    assert_eq!(requests(&registry, "", "/manifests/", 1), 1);
    assert_eq!(requests(&registry, "GET", "/blobs/", 3), 3);
    let new = refresh(&fixture.store, &reference).unwrap();
    assert_eq!(
        std::fs::read_to_string(new.layers[1].join("which")).unwrap(),
        "new"
    );
    assert_eq!(
        requests(&registry, "GET", "/blobs/", 5),
        5,
        "the config and the one new layer"
    );
    assert!(fixture.store.listing().unwrap()[0].pulled > pulled);

    // A container may still stand on the old one.
    let mut in_use = InUse::default();
    in_use.add(&old);
    assert_eq!(
        fixture.store.prune(&in_use, false).unwrap().images,
        Vec::<String>::new()
    );
    assert!(old.layers.iter().all(|layer| layer.is_dir()));
    fixture
        .store
        .prune(&[&reference].into_iter().collect(), false)
        .unwrap();
    assert!(!old.layers[1].exists() && new.layers.iter().all(|layer| layer.is_dir()));

    drop(registry);
    fixture.store.set_registries(hasty(&Settings::default()));
    let error = refresh(&fixture.store, &reference).unwrap_err().to_string();
    assert_says(
        &error,
        &[&reference, "cannot be reached", "refused", "tried 2 times"],
    );
    assert_eq!(fixture.load(&source(&reference)).unwrap(), new);
    assert_eq!(fixture.store.images().unwrap().len(), 1);
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
}

#[test]
fn removing_takes_what_nobody_else_has() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(
        Some("a"),
        &[(Pack::Gzip, layer("base")), (Pack::Gzip, layer("a"))],
    );
    layout.image(
        Some("b"),
        &[(Pack::Gzip, layer("base")), (Pack::Gzip, layer("b"))],
    );
    let key = layout.source(None).key();
    let [a, b] = ["a", "b"].map(|tag| registry.push(&format!("{key}:{tag}"), &format!("app:{tag}")));
    let image = fixture.load(&source(&a)).unwrap();
    let kept = fixture.load(&source(&b)).unwrap();
    let mut in_use = InUse::default();
    in_use.add(&image);
    assert_says(
        &fixture.store.remove(&a, &in_use).unwrap_err().to_string(),
        &[&a, "in use"],
    );
    assert!(fixture.store.remove(&a, &InUse::default()).unwrap().bytes > 9000);
    assert!(!image.layers[1].exists() && kept.layers.iter().all(|layer| layer.is_dir()));
    assert_eq!(
        fixture.store.images().unwrap().into_keys().collect::<Vec<_>>(),
        [b]
    );
    assert_says(
        &fixture
            .store
            .remove(&a, &InUse::default())
            .unwrap_err()
            .to_string(),
        &["no image", &a],
    );
    assert_eq!(fixture.load(&source(&a)).unwrap(), image);
    assert_eq!(requests(&registry, "GET", "/blobs/", 7), 7);
}

#[test]
fn a_login_from_the_settings_or_from_docker() {
    let fixture = Fixture::new();
    let options = Options {
        login: true,
        ..Options::default()
    };
    let registry = Registry::start_as(&fixture.path("registry"), options);
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, layer("1"))]);
    let reference = registry.push(&layout.source(None).key(), "app:1");
    let try_with = |settings: &Settings, docker: Option<&Path>| {
        let files = RegistryFiles {
            logins: docker.into_iter().map(Path::to_owned).collect(),
            ..RegistryFiles::default()
        };
        let config = RegistryConfig::new(settings, files);
        fixture.store.set_registries(config);
        let loaded = fixture.load(&source(&reference));
        fixture.store.prune(&InUse::default(), false).unwrap();
        loaded.map_err(|e| e.to_string())
    };
    let with = |password: &str| {
        let file = fixture.path("password");
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let table = RegistrySettings {
            username: Some(USER.to_owned()),
            password_file: Some(file),
            ..Default::default()
        };
        Settings {
            registries: [(registry.address(), table)].into(),
            ..Settings::default()
        }
    };
    let none = Settings::default();
    assert_says(
        &try_with(&none, None).unwrap_err(),
        &[
            "refuses access",
            "username and password_file",
            &registry.address(),
        ],
    );
    assert_says(
        &try_with(&with("wrong"), None).unwrap_err(),
        &["refuses access", "check the user name and password"],
    );
    try_with(&with(PASSWORD), None).unwrap();
    let docker = fixture.path("config.json");
    let wrong =
        json!({"auths": {"127.0.0.1:1": {"auth": "dGVzdGVyOnNlY3JldA=="}}, "credsStore": "not-there"});
    std::fs::write(&docker, wrong.to_string()).unwrap();
    assert_says(
        &try_with(&none, Some(&docker)).unwrap_err(),
        &["refuses access", "docker-credential-not-there: No such file"],
    );
    let right = json!({"auths": {registry.address(): {"auth": "dGVzdGVyOnNlY3JldA=="}}});
    std::fs::write(&docker, right.to_string()).unwrap();
    try_with(&none, Some(&docker)).unwrap();
}

#[test]
fn a_transfer_that_is_cut_goes_on_where_it_was() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    let layers = [
        (Pack::Gzip, noise(1, 3 << 20)),
        (Pack::Zstd, noise(2, 3 << 20)),
        (Pack::Gzip, layer("top")),
    ];
    layout.image(None, &layers);
    let direct = registry.push(&layout.source(None).key(), "app:1");
    let whole = fixture.load(&source(&direct)).unwrap();
    let server = SocketAddr::from(([127, 0, 0, 1], registry.port()));
    let cutter = Cutter::start(server, Way::Down, 12, 500_000);
    let store = Store::open(&fixture.path("second")).unwrap();
    store.set_registries(RegistryConfig::default().with_patience(Patience {
        // Small answers can be hit several times in a row.
        tries: 20,
        backoff: Duration::from_millis(1),
        ..Patience::default()
    }));
    let image = store.load(
        &source(&format!("{}/app:1", cutter.address)),
        &LoadOptions::new(&false.into()),
    );
    let image = image.unwrap();
    assert!(cutter.cuts() >= 5, "only {} cuts", cutter.cuts());
    for (cut, whole) in image.layers.iter().zip(&whole.layers) {
        assert!(snapshot(cut) == snapshot(whole));
    }
    assert!(
        requests(&registry, "\" 206 ", "/blobs/", 1) >= 1,
        "{}",
        registry.log()
    );
    assert_eq!(entries(&fixture.path("second/tmp")), Vec::<String>::new());
}

#[test]
fn child_that_pulls() {
    let Some((store, reference)) = killed::given() else {
        return;
    };
    let image = store.load(&source(&reference), &LoadOptions::new(&false.into()));
    assert_eq!(image.unwrap().layers.len(), 4);
}

#[test]
fn killed_while_pulling() {
    let fixture = Fixture::within(in_memory());
    let registry = Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    let layers: Vec<_> = (0..4).map(|n| (Pack::Gzip, noise(n, 1 << 20))).collect();
    layout.image(None, &layers);
    let reference = registry.push(&layout.source(None).key(), "app:1");
    killed::kill(&fixture, 12, "child_that_pulls", &reference, &source(&reference));
}
