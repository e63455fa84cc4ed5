//! Pushing to Debian's docker-registry, and what the next one pulls.

mod lines;
mod tokens;

use std::sync::Mutex;

use storage::{Login, PushOptions, PushProgress, PushStep, Pushed};

use super::*;

pub fn push(store: &Store, reference: &str) -> Result<Pushed, StoreError> {
    push_as(store, reference, None)
}

fn push_as(store: &Store, reference: &str, login: Option<&Login>) -> Result<Pushed, StoreError> {
    let options = PushOptions {
        cancel: &AtomicBool::new(false),
        login,
        progress: None,
    };
    store.push(reference, &options)
}

/// Pushes, and what became of each layer.
fn steps(store: &Store, reference: &str) -> (Pushed, Vec<PushStep>) {
    let last = Mutex::new(std::collections::BTreeMap::new());
    let note = |p: PushProgress| drop(last.lock().unwrap().insert(p.layer, p.step));
    let options = PushOptions {
        cancel: &AtomicBool::new(false),
        login: None,
        progress: Some(&note),
    };
    let pushed = store.push(reference, &options).unwrap();
    (pushed, last.into_inner().unwrap().into_values().collect())
}

/// An image of these layers in the store, under a name of that registry.
pub fn made(fixture: &Fixture, reference: &str, layers: &[Vec<u8>]) -> Image {
    let never = AtomicBool::new(false);
    let layers: Vec<_> = layers
        .iter()
        .map(|tar| fixture.store.add_layer(&mut &tar[..], &never).unwrap())
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
    let config = common::image::config(&diff_ids, json!({ "Cmd": ["x"] })).to_string();
    fixture
        .store
        .add_image(reference, config.as_bytes(), &diff_ids)
        .unwrap()
}

/// A store of its own that has pulled it: byte for byte the same trees.
#[track_caller]
pub fn pulled_elsewhere(
    fixture: &Fixture,
    reference: &str,
    config: RegistryConfig,
    original: &Image,
) -> Image {
    let dir = tempfile::tempdir_in(fixture.dir.path()).unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.set_registries(config);
    let image = store
        .load(&source(reference), &LoadOptions::new(&false.into()))
        .unwrap();
    assert_eq!((image.id, &image.config), (original.id, &original.config));
    assert_eq!(image.layers.len(), original.layers.len());
    for (one, other) in image.layers.iter().zip(&original.layers) {
        assert!(snapshot(one) == snapshot(other), "{} differs", one.display());
    }
    image
}

#[test]
fn what_was_pulled_goes_on_under_its_digest() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let mut layout = Layout::new(&fixture.path("layout"));
    let packs = [Pack::Gzip, Pack::Zstd, Pack::Plain];
    let layers: Vec<_> = packs
        .iter()
        .map(|pack| (*pack, layer(&format!("{pack:?}"))))
        .collect();
    let digest = layout.image(None, &layers)["digest"].as_str().unwrap().to_owned();
    let from = registry.push(&layout.source(None).key(), "team/app:1");
    let image = fixture.load(&source(&from)).unwrap();
    let to = format!("{}/other/name:2", registry.address());
    fixture.store.tag(&from, &to).unwrap();
    let (pushed, how) = steps(&fixture.store, &to);
    assert_eq!(
        (pushed.digest.to_string(), pushed.unchanged, pushed.compressed),
        (digest.clone(), true, 0)
    );
    let mounted = PushStep::Mounted {
        from: "team/app".to_owned(),
    };
    assert_eq!(how, vec![mounted; 3]);
    assert_eq!(
        requests(&registry, "PATCH", "", 0) + registry.requests(&["wharf/", "PUT", "/blobs/"], 1),
        1,
        "the config alone"
    );
    // The same once more, and pinned: nothing is left to be sent.
    let (again, how) = steps(&fixture.store, &to);
    assert_eq!((again, how), (pushed, vec![PushStep::Exists; 3]));
    let pinned = format!("{}@{digest}", from.strip_suffix(":1").unwrap());
    fixture.load(&source(&pinned)).unwrap();
    assert_eq!(push(&fixture.store, &pinned).unwrap().digest.to_string(), digest);
    assert_eq!(registry.requests(&["wharf/", "PUT", "/blobs/"], 1), 1);
    let other = pulled_elsewhere(&fixture, &to, RegistryConfig::default(), &image);
    assert_eq!(other.digest.unwrap().to_string(), digest);
    let listed = fixture.store.listing().unwrap();
    let listed = listed.iter().find(|listed| listed.image.key == to).unwrap();
    assert_eq!(listed.pinned.unwrap().to_string(), digest);
}

#[test]
fn elsewhere_layers_are_compressed_anew_and_always_alike() {
    let fixture = Fixture::new();
    let [near, far] = ["near", "far"].map(|name| Registry::start(&fixture.path(name)));
    let mut layout = Layout::new(&fixture.path("layout"));
    let layers = [
        (Pack::Zstd, layer("base")),
        (Pack::Gzip, noise(5, 600_000)),
        (Pack::Zstd, layer("base")),
    ];
    layout.image(None, &layers);
    let from = near.push(&layout.source(None).key(), "app:1");
    let image = fixture.load(&source(&from)).unwrap();
    let to = format!("{}/deep/er/app:1", far.address());
    fixture.store.tag(&from, &to).unwrap();
    let (pushed, how) = steps(&fixture.store, &to);
    assert_eq!((pushed.unchanged, pushed.compressed), (false, 2));
    assert_eq!(how, vec![PushStep::Pushed; 2]);
    pulled_elsewhere(&fixture, &to, RegistryConfig::default(), &image);
    // From now on it is known by what was pushed.
    let (again, how) = steps(&fixture.store, &to);
    assert_eq!(
        (again.digest, again.unchanged, how),
        (pushed.digest, true, vec![PushStep::Exists; 2])
    );
    assert_eq!(fixture.load(&source(&to)).unwrap().digest, Some(pushed.digest));
    // Whoever pushes the same, pushes the same.
    let second = Fixture::new();
    second.load(&source(&from)).unwrap();
    second.store.tag(&from, &to).unwrap();
    assert_eq!(push(&second.store, &to).unwrap().digest, pushed.digest);
    assert_eq!(
        far.requests(&["wharf/", "PUT", "/blobs/"], 3),
        3,
        "two layers and a config, once"
    );
    // A digest cannot be had that way, and nothing is sent for it.
    let pinned = format!("{}/app@{}", near.address(), image.digest.unwrap());
    fixture.load(&source(&pinned)).unwrap();
    std::fs::remove_dir_all(fixture.path("near/data")).unwrap();
    let error = push(&fixture.store, &pinned).unwrap_err().to_string();
    assert_says(&error, &[&pinned, "does not have it as it was", "by a tag"]);
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
}

#[test]
fn what_was_made_here_is_pulled_by_others() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let reference = format!("{}/made:1", registry.address());
    let image = made(&fixture, &reference, &[layer("low"), layer("high")]);
    let pushed = push(&fixture.store, &reference).unwrap();
    assert_eq!(
        (pushed.unchanged, pushed.compressed, pushed.tag.as_deref()),
        (false, 2, Some("1"))
    );
    pulled_elsewhere(&fixture, &reference, RegistryConfig::default(), &image);
    // skopeo checks every digest on its way.
    let copied = std::process::Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--src-tls-verify=false"])
        .arg(format!("docker://{reference}"))
        .arg(format!("oci:{}:1", fixture.path("copy").display()))
        .output()
        .unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let copy = ImageSource::Oci {
        dir: fixture.path("copy"),
        reference: Some("1".to_owned()),
    };
    assert_eq!(fixture.load(&copy).unwrap().digest, Some(pushed.digest));

    let local = layout_of(&fixture);
    for (key, says) in [(local.as_str(), "wharf image tag"), ("nobody/here:1", "no image")] {
        assert_says(&push(&fixture.store, key).unwrap_err().to_string(), &[key, says]);
    }
    fixture.store.set_registries(hasty(&Settings::default()));
    drop(registry);
    let error = push(&fixture.store, &reference).unwrap_err().to_string();
    assert_says(
        &error,
        &["push of", &reference, "cannot be reached", "tried 2 times"],
    );
}

fn layout_of(fixture: &Fixture) -> String {
    let mut layout = Layout::new(&fixture.path("layout"));
    layout.image(None, &[(Pack::Gzip, layer("x"))]);
    fixture.load(&layout.source(None)).unwrap().key
}

#[test]
fn a_login_is_shown_where_one_is_wanted() {
    let fixture = Fixture::new();
    let options = Options {
        login: true,
        ..Options::default()
    };
    let registry = Registry::start_as(&fixture.path("registry"), options);
    let file = fixture.path("etc/auth.json");
    let files = || RegistryFiles {
        logins: vec![fixture.path("docker.json"), file.clone()],
        own: Some(file.clone()),
        ..RegistryFiles::default()
    };
    let config = RegistryConfig::new(&Settings::default(), files());
    fixture.store.set_registries(config.clone());
    let reference = format!("{}/app:1", registry.address());
    let image = made(&fixture, &reference, &[layer("secret")]);
    let error = push(&fixture.store, &reference).unwrap_err().to_string();
    assert_says(&error, &["refuses access", "wharf login", &registry.address()]);
    let wrong = Login::password(&registry.address(), USER, "wrong");
    let error = push_as(&fixture.store, &reference, Some(&wrong))
        .unwrap_err()
        .to_string();
    assert_says(&error, &["refuses access", "may push there"]);
    let right = Login::password(&registry.address(), USER, PASSWORD);
    push_as(&fixture.store, &reference, Some(&right)).unwrap();

    // Kept, it counts for everybody.
    let never = AtomicBool::new(false);
    let address = registry.address();
    let error = config.log_in(&address, USER, "wrong", &never).unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(!file.exists(), "only what was let in is kept");
    let kept = config.log_in(&address, USER, PASSWORD, &never).unwrap();
    assert_eq!((kept.registry, kept.file), (address.clone(), file.clone()));
    push(&fixture.store, &reference).unwrap();
    pulled_elsewhere(&fixture, &reference, config.clone(), &image);
    config.log_out(&address).unwrap();
    push(&fixture.store, &reference).unwrap_err();
    assert_says(
        &config.log_out(&address).unwrap_err().to_string(),
        &["has no login for it"],
    );
    // One that would never be looked at is refused.
    let auths = json!({ "auths": { &address: { "auth": "eDp5" } } });
    std::fs::write(fixture.path("docker.json"), auths.to_string()).unwrap();
    let error = config.log_in(&address, USER, PASSWORD, &never).unwrap_err();
    assert_says(&error.to_string(), &["docker.json", "goes before", "auth.json"]);
    assert_says(
        &config.log_out(&address).unwrap_err().to_string(),
        &["docker.json has one"],
    );
}

/// A mirror in front: pulls go through it, pushes past it.
#[test]
fn a_mirror_is_pulled_from_and_not_pushed_to() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let options = Options {
        mirror_of: Some(registry.port()),
        ..Options::default()
    };
    let mirror = Registry::start_as(&fixture.path("mirror"), options);
    let table = RegistrySettings {
        mirror_of: Some(registry.address()),
        ..Default::default()
    };
    let settings = Settings {
        registries: [(mirror.address(), table)].into(),
        ..Settings::default()
    };
    let config = RegistryConfig::new(&settings, RegistryFiles::default());
    fixture.store.set_registries(config.clone());
    let reference = format!("{}/app:1", registry.address());
    let image = made(&fixture, &reference, &[layer("one")]);
    push(&fixture.store, &reference).unwrap();
    assert_eq!(mirror.requests(&["wharf/"], 0), 0);
    let before = registry.requests(&["wharf/", "/blobs/"], 1);
    pulled_elsewhere(&fixture, &reference, config.clone(), &image);
    assert!(mirror.requests(&["wharf/", "GET", "/blobs/"], 2) >= 2);
    assert_eq!(
        registry.requests(&["wharf/", "/blobs/"], before),
        before,
        "{}",
        registry.log()
    );
}

/// What is deleted there is gone for pulls, and what is here stays.
#[test]
fn a_manifest_that_was_deleted_at_the_registry() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let reference = format!("{}/app:1", registry.address());
    let image = made(&fixture, &reference, &[layer("one")]);
    let digest = push(&fixture.store, &reference).unwrap().digest;
    let url = format!("http://{}/v2/app/manifests/{digest}", registry.address());
    let deleted = std::process::Command::new("curl")
        .args(["-sS", "-f", "-X", "DELETE", &url])
        .output()
        .unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
    let error = refresh(&fixture.store, &reference).unwrap_err().to_string();
    assert_says(&error, &[&reference, "has no manifest 1"]);
    let pinned = format!("{}/app@{digest}", registry.address());
    let other = Store::open(&fixture.path("other")).unwrap();
    let error = other
        .load(&source(&pinned), &LoadOptions::new(&false.into()))
        .unwrap_err()
        .to_string();
    assert_says(&error, &[&format!("has no manifest {digest}")]);
    assert_eq!(fixture.load(&source(&reference)).unwrap().layers, image.layers);
    // Pushed again, it is there again.
    push(&fixture.store, &reference).unwrap();
    pulled_elsewhere(&fixture, &reference, RegistryConfig::default(), &image);
}

#[test]
fn search_looks_through_the_list_of_repositories() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    for name in ["team/web", "team/worker", "web-tools", "db"] {
        let reference = format!("{}/{name}:1", registry.address());
        made(&fixture, &reference, &[layer("x")]);
        push(&fixture.store, &reference).unwrap();
    }
    let never = AtomicBool::new(false);
    let config = RegistryConfig::default();
    let names = |term: &str, limit| {
        let hits = config.search(&registry.address(), term, limit, &never).unwrap();
        hits.into_iter().map(|hit| hit.name).collect::<Vec<_>>()
    };
    assert_eq!(names("web", 10), ["team/web", "web-tools"]);
    assert_eq!(names("web", 1), ["team/web"]);
    assert_eq!(names("none", 10), Vec::<String>::new());
    let (places, term) = config.search_in(&format!("{}/team/w", registry.address()));
    assert_eq!((places, term.as_str()), (vec![registry.address()], "team/w"));
    assert_eq!(names(&term, 10), ["team/web", "team/worker"]);
    let (places, all) = config.search_in(&registry.address());
    assert_eq!((places, names(&all, 10).len()), (vec![registry.address()], 4));
    assert_eq!(
        config.search_in("nginx"),
        (vec!["docker.io".to_owned()], "nginx".to_owned())
    );
}
