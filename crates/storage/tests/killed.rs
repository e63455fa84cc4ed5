//! A load that is killed at any instruction leaves a store that opens, is clean, and loads.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Fixture, Layout, Member, Pack, Tar, entries, snapshot};
use model::image::ImageSource;
use storage::{LoadOptions, Store};

const STORE: &str = "STORAGE_TEST_STORE";
const LAYOUT: &str = "STORAGE_TEST_LAYOUT";

/// What the killed process runs: this test binary once more. By itself, with nothing asked of it, it has nothing to do.
#[test]
fn child_that_loads() {
    let (Some(store), Some(layout)) = (std::env::var_os(STORE), std::env::var_os(LAYOUT)) else {
        return;
    };
    let store = Store::open(Path::new(&store)).unwrap();
    let source = ImageSource::Oci {
        dir: PathBuf::from(layout),
        reference: None,
    };
    store.load(&source, &LoadOptions::new(&false.into())).unwrap();
}

fn child(store: &Path, layout: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_that_loads"])
        .env(STORE, store)
        .env(LAYOUT, layout);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn thirty_kills_at_random_moments() {
    let fixture = Fixture::new();
    let mut layout = Layout::new(&fixture.path("layout"));
    let layers: Vec<_> = (0..5)
        .map(|n| {
            let files = (0..150).map(|i| Member::file(format!("d{}/{n}-{i}", i / 20), vec![i as u8; 5000]));
            (if n % 2 == 0 { Pack::Gzip } else { Pack::Zstd }, Tar::of(files))
        })
        .collect();
    layout.image(None, &layers);
    let source = layout.source(None);
    let whole = fixture.load(&source).unwrap();
    let pictures: Vec<_> = whole.layers.iter().map(|layer| snapshot(layer)).collect();
    let started = std::time::Instant::now();
    let timing = fixture.path("timing");
    assert!(child(&timing, &layout.dir).status().unwrap().success());
    let span = started.elapsed().as_micros() as u64;

    let seed = std::env::var("SEED").map_or(20_260_101, |seed| seed.parse().unwrap());
    println!("seed {seed} (SEED=… sets another), a load takes {span} µs");
    let (mut state, mut interrupted) = (seed, 0);
    let root = fixture.path("killed");
    for kill in 0..30 {
        let mut process = child(&root, &layout.dir).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random(&mut state) % span));
        process.kill().unwrap();
        process.wait().unwrap();
        let left = root.join("tmp").exists() && !entries(&root.join("tmp")).is_empty();
        interrupted += usize::from(left);
        let store = Store::open(&root).unwrap();
        assert_eq!(entries(&root.join("tmp")), Vec::<String>::new(), "kill {kill}");
        // Whatever made it into the store made it whole.
        for name in entries(&root.join("layers")) {
            let good = whole
                .layers
                .iter()
                .position(|layer| layer.ends_with(&name))
                .unwrap();
            assert!(
                snapshot(&root.join("layers").join(&name)) == pictures[good],
                "kill {kill}: {name}"
            );
        }
        // Every third one goes on from where it was killed, to meet half-full stores too.
        if kill % 3 != 0 {
            let image = store.load(&source, &LoadOptions::new(&false.into())).unwrap();
            assert_eq!(image.layers.len(), 5);
            assert_eq!(entries(&root.join("tmp")), Vec::<String>::new());
            store.prune(&Default::default(), false).unwrap();
        }
    }
    println!("{interrupted} of 30 kills left something to sweep");
    assert!(interrupted > 0, "no kill hit a load at work");
}
