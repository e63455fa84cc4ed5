//! How much memory hostile answers take: counted in a process of its own, by the kernel (proc(5), VmHWM).

use storage::{PushOptions, Store};
use tests::memory::peak;

use super::*;

const CHILD: &str = "STORAGE_TEST_MEMORY";
/// Bytes that a process may grow by.
const MOST: u64 = 64 << 20;

/// What the child is to do.
fn work(what: &str, name: &str, fixture: &Fixture) -> Result<(), String> {
    let reference = format!("{name}/app:1");
    fixture.store.set_registries(patient(&Settings::default(), LONG));
    let never = AtomicBool::new(false);
    match what {
        "search" => config(&Settings::default())
            .search(name, "none", 10, &never)
            .map(drop)
            .map_err(|e| e.to_string()),
        "push" => {
            let added = fixture.store.add_layer(&mut &layer("x")[..], &never).unwrap();
            let config = common::image::config(&[added.diff_id], json!({})).to_string();
            let layers = [added.diff_id];
            fixture
                .store
                .add_image(&reference, config.as_bytes(), &layers)
                .unwrap();
            let options = PushOptions {
                cancel: &never,
                login: None,
                progress: None,
            };
            fixture
                .store
                .push(&reference, &options)
                .map(drop)
                .map_err(|e| e.to_string())
        }
        _ => fixture
            .load(&ImageSource::Registry { reference })
            .map(drop)
            .map_err(|e| e.to_string()),
    }
}

#[test]
fn child_that_asks() {
    let Ok(given) = std::env::var(CHILD) else {
        return;
    };
    let (what, name) = given.split_once(' ').unwrap();
    let fixture = Fixture::new();
    let before = peak(std::process::id());
    let result = work(what, name, &fixture);
    let grown = peak(std::process::id()) - before;
    drop(Store::open(&fixture.path("store")).unwrap());
    println!("grown: {grown}");
    println!("said: {}", result.err().unwrap_or_default());
}

/// Bytes that a process grows by that does this with the mock, and its error.
fn grown(what: &str, mock: &Mock) -> (u64, String) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::child_that_asks", "--nocapture"])
        .env(CHILD, format!("{what} {}", mock.name()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |start: &str| {
        said.lines()
            .find_map(|line| line.split_once(start))
            .map(|(_, rest)| rest.to_owned())
    };
    let grown =
        line("grown: ").unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    (grown.parse().unwrap(), line("said: ").unwrap_or_default())
}

/// A layer of zeros that says it is a file of this size.
fn bomb(pack: Pack, size: usize) -> (Content, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    layout.image(None, &[(pack, Tar::of([Member::file("zeros", vec![0; size])]))]);
    (Content::of(&layout.dir, "1"), dir)
}

#[test]
fn slow_no_answer_fills_the_memory() {
    let endless = |part: &'static str| {
        move |asked: &Asked| {
            asked
                .path
                .contains(part)
                .then(|| Reply::new(200, "").body(Body::Endless))
        }
    };
    let huge = |asked: &Asked| {
        let body = || Body::Stalled(512 << 20, vec![b' '; 5 << 20]);
        asked
            .path
            .contains("/manifests/")
            .then(|| Reply::new(200, "").body(body()))
    };
    let deep = |asked: &Asked| {
        let body = || format!("{{\"x\":{}", "[".repeat(4_000_000));
        asked
            .path
            .contains("/manifests/")
            .then(|| Reply::new(200, body()))
    };
    let head = |asked: &Asked| {
        let lots = || "x".repeat(64 << 20);
        asked
            .path
            .contains("/manifests/")
            .then(|| Reply::new(200, "{}").with("X-Much", lots()))
    };
    let (gzip, _gzip) = bomb(Pack::Gzip, 300 << 20);
    let (zstd, _zstd) = bomb(Pack::Zstd, 300 << 20);
    let fixture = Fixture::new();
    let (_, content) = image(&fixture);
    let uploads = |asked: &Asked| {
        let upload = asked.path.contains("/blobs/uploads/");
        upload.then(|| Reply::new(400, "").body(Body::Endless))
    };
    let list = |asked: &Asked| {
        let page = || json!({ "repositories": vec!["x".repeat(200); 15_000] }).to_string();
        let next = || format!("</v2/_catalog?n=1000&last={}>; rel=\"next\"", asked.path.len());
        asked
            .path
            .contains("_catalog")
            .then(|| Reply::new(200, page()).with("Link", next()))
    };
    let cases = [
        (
            "pull",
            Mock::start(content.clone(), endless("/manifests/")),
            "more than the",
        ),
        (
            "pull",
            Mock::start(content.clone(), endless("/blobs/")),
            "more than the",
        ),
        ("pull", Mock::start(content.clone(), huge), "more than the"),
        ("pull", Mock::start(content.clone(), deep), "nested more than"),
        ("pull", Mock::start(content, head), "broke"),
        ("pull", Mock::start(gzip, |_| None), ""),
        ("pull", Mock::start(zstd, |_| None), ""),
        ("push", Mock::start(Content::default(), uploads), "answers 400"),
        ("search", Mock::start(Content::default(), list), "next page"),
    ];
    for (number, (what, mock, says)) in cases.iter().enumerate() {
        let (grown, said) = grown(what, mock);
        eprintln!("{number} {what}: {} kB, {said}", grown / 1024);
        assert_says(&said, &[says]);
        assert!(grown < MOST, "{number} {what}: {grown} bytes");
    }
}

/// An image of several layers of zeros, packed so.
fn wide(pack: Pack, layers: usize, size: usize) -> (Content, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path());
    let layer = |number| Tar::of([Member::file(format!("zeros{number}"), vec![0; size])]);
    let layers: Vec<_> = (0..layers).map(|n| (pack, layer(n))).collect();
    layout.image(None, &layers);
    (Content::of(&layout.dir, "1"), dir)
}

#[test]
fn slow_large_windows_and_dictionaries_are_had_one_at_a_time_and_larger_ones_not_at_all() {
    let zstd = Pack::ZstdWindow;
    let accepted = [
        wide(zstd(23), 5, 24 << 20),
        wide(zstd(25), 5, 48 << 20),
        wide(Pack::Xz(8), 5, 48 << 20),
    ];
    let refused = [wide(zstd(27), 5, 1 << 20), wide(Pack::Xz(9), 5, 80 << 20)];
    for (content, _dir) in accepted {
        let (grown, said) = grown("pull", &Mock::start(content, |_| None));
        eprintln!("{} kB, {said}", grown / 1024);
        assert_eq!(said, "");
        assert!(grown < MOST, "{grown} bytes");
    }
    let said = refused.map(|(content, _dir)| grown("pull", &Mock::start(content, |_| None)).1);
    assert_says(
        &said[0],
        &["takes 128 MiB of memory", "32 MiB are accepted", "--long"],
    );
    assert_says(&said[1], &["needed memory too big"]);
}
