//! Pushes over lines that break, and to registries that will not have much at once.

use std::sync::Arc;

use common::mock::{Asked, Mock, Reply};
use common::shelf::Shelf;

use super::*;

fn patient() -> RegistryConfig {
    RegistryConfig::default().with_patience(Patience {
        tries: 20,
        backoff: Duration::from_millis(1),
        ..Patience::default()
    })
}

#[test]
fn a_push_that_is_cut_gets_there() {
    let fixture = Fixture::new();
    let registry = Registry::start(&fixture.path("registry"));
    let server = SocketAddr::from(([127, 0, 0, 1], registry.port()));
    for way in [Way::Up, Way::Down] {
        // Answers to pushes are short.
        let most = if way == Way::Up { 500_000 } else { 700 };
        let cutter = Cutter::start(server, way, 10, most);
        fixture.store.set_registries(patient());
        let reference = format!("{}/{}:1", cutter.address, format!("{way:?}").to_lowercase());
        let noises = [
            noise(way as u32 + 1, 2 << 20),
            noise(way as u32 + 7, 1 << 20),
            layer("top"),
        ];
        let image = made(&fixture, &reference, &noises);
        push(&fixture.store, &reference).unwrap();
        assert!(cutter.cuts() >= 5, "only {} cuts", cutter.cuts());
        let direct = reference.replace(&cutter.address.to_string(), &registry.address());
        pulled_elsewhere(&fixture, &direct, RegistryConfig::default(), &image);
        assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
    }
}

/// What the shelf has is what was pushed, and every layer of it unpacks to what it was.
#[track_caller]
fn assert_there(shelf: &Shelf, pushed: &Pushed) {
    let (kind, bytes) = shelf.manifest("1").unwrap();
    assert_eq!(kind, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(common::image::digest(&bytes), pushed.digest);
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for part in manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .chain([&manifest["config"]])
    {
        let blob = shelf.blob(part["digest"].as_str().unwrap()).unwrap();
        assert_eq!(blob.len() as u64, part["size"].as_u64().unwrap());
    }
}

/// Every request with more than 100 kB is cut off once in its middle.
fn cut_twice() -> common::mock::Cut {
    let left = std::sync::atomic::AtomicUsize::new(2);
    Box::new(move |asked: &Asked| {
        let length: usize = asked.header("content-length")?.parse().ok()?;
        let cut = length > 100_000 && left.load(std::sync::atomic::Ordering::Relaxed) > 0;
        cut.then(|| {
            left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            length / 2
        })
    })
}

#[test]
fn a_registry_that_knows_how_far_it_was_gets_the_rest() {
    for forgets in [false, true] {
        let fixture = Fixture::new();
        fixture.store.set_registries(patient());
        let shelf = Arc::new(Shelf::default());
        let serving = Arc::clone(&shelf);
        let mock = Mock::start_cutting(cut_twice(), move |asked| serving.answer(asked, forgets));
        made(&fixture, &mock.reference("1"), &[noise(3, 3 << 20)]);
        let pushed = push(&fixture.store, &mock.reference("1")).unwrap();
        assert_there(&shelf, &pushed);
        let puts: Vec<Asked> = mock
            .asked()
            .into_iter()
            .filter(|a| a.method == "PUT" && a.path.contains("/blobs/"))
            .collect();
        let (large, patches) = (
            puts.iter().filter(|a| a.cut).count(),
            mock.asked().iter().filter(|a| a.method == "PATCH").count(),
        );
        assert!(large >= 1 && patches >= 1, "{puts:?}");
        let begun = mock
            .asked_for("/blobs/uploads/")
            .iter()
            .filter(|a| a.method == "POST")
            .count();
        match forgets {
            false => {
                assert_eq!(begun, 2, "one for the layer, one for the config");
                let ranges: Vec<_> = mock
                    .asked()
                    .iter()
                    .filter_map(|a| a.header("content-range").map(str::to_owned))
                    .collect();
                assert!(ranges.iter().all(|range| !range.starts_with("0-")), "{ranges:?}");
            }
            true => assert!(begun > 2),
        }
    }
}

#[test]
fn one_that_will_not_have_much_at_once_gets_it_in_pieces() {
    let fixture = Fixture::new();
    fixture.store.set_registries(patient());
    let shelf = Arc::new(Shelf::default());
    let serving = Arc::clone(&shelf);
    let mock = Mock::start(common::mock::Content::default(), move |asked| {
        if asked.raw.len() > 1 << 20 {
            return Some(Reply::new(413, "<html>too large</html>"));
        }
        serving.answer(asked, false)
    });
    made(&fixture, &mock.reference("1"), &[noise(4, 3 << 20)]);
    let pushed = push(&fixture.store, &mock.reference("1")).unwrap();
    assert_there(&shelf, &pushed);
    let sizes: Vec<usize> = mock
        .asked()
        .iter()
        .filter(|a| a.method == "PATCH")
        .filter_map(|a| a.header("content-length")?.parse().ok())
        .collect();
    assert!(
        sizes.iter().filter(|size| **size <= 1 << 20).count() >= 3,
        "{sizes:?}"
    );
}

/// Where an upload goes is the registry's to say, and who we are is for the registry alone.
#[test]
fn an_upload_may_be_elsewhere_and_gets_no_credentials_there() {
    let fixture = Fixture::new();
    let shelf = Arc::new(Shelf::default());
    let (there, here) = (Arc::clone(&shelf), Arc::clone(&shelf));
    let elsewhere = Mock::start(common::mock::Content::default(), move |asked| {
        there.answer(asked, false)
    });
    let to = format!("http://127.0.0.1:{}", elsewhere.address.port());
    let mock = Mock::start(common::mock::Content::default(), move |asked| {
        if asked.path != "/v2/" && asked.header("authorization").is_none() {
            return Some(Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let mut reply = here.answer(asked, false)?;
        for (name, value) in &mut reply.headers {
            if name == "Location" {
                *value = format!("{to}{value}");
            }
        }
        Some(reply)
    });
    fixture
        .store
        .set_registries(patient().with_login(Login::password(&mock.name(), "user", "word")));
    made(&fixture, &mock.reference("1"), &[layer("x")]);
    let pushed = push(&fixture.store, &mock.reference("1")).unwrap();
    assert_there(&shelf, &pushed);
    let (put, asked) = (elsewhere.asked_for("/blobs/uploads/"), mock.asked());
    assert_eq!(put.len(), 2);
    assert!(
        elsewhere
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
    assert!(
        asked
            .iter()
            .all(|a| a.method != "PUT" || a.path.contains("/manifests/"))
    );
}

#[test]
fn a_push_can_be_cancelled() {
    let fixture = Fixture::new();
    let shelf = Shelf::default();
    let mock = Mock::start(common::mock::Content::default(), move |asked| {
        let stalled = asked.method == "PUT";
        stalled
            .then(|| Reply::new(201, "").body(common::mock::Body::Stalled(9, vec![])))
            .or_else(|| shelf.answer(asked, false))
    });
    made(&fixture, &mock.reference("1"), &[layer("x")]);
    let cancel = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        let (cancel, store, reference) = (&cancel, &fixture.store, mock.reference("1"));
        let push = scope.spawn(move || {
            let options = PushOptions {
                cancel,
                login: None,
                progress: None,
            };
            store.push(&reference, &options).unwrap_err()
        });
        while mock.asked().iter().all(|asked| asked.method != "PUT") {
            std::thread::sleep(Duration::from_millis(1));
        }
        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        push.join().unwrap()
    });
    assert!(matches!(error, StoreError::Stopped), "{error}");
    assert_eq!(entries(&fixture.path("store/tmp")), Vec::<String>::new());
}
