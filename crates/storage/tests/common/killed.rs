//! Loads that are killed at any instruction.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::image::ImageSource;
use storage::{InUse, LoadOptions, Store};
use tests::random::Random;

use super::{Fixture, entries, snapshot};

/// Where the child is told of its store.
pub const STORE: &str = "STORAGE_TEST_STORE";
/// What of: a layout's directory, or a reference.
pub const SOURCE: &str = "STORAGE_TEST_SOURCE";

/// What a test that is to be killed was given: itself once more as another process. None in the process that runs all
/// tests, where it has nothing to do.
pub fn given() -> Option<(Store, String)> {
    let store = std::env::var_os(STORE)?;
    Some((
        Store::open(Path::new(&store)).unwrap(),
        std::env::var(SOURCE).ok()?,
    ))
}

/// Has the test called `child` load `source` so many times over, each time killed at a random moment; what is in the
/// store then is whole, and nothing else is. Gives how many kills left something to sweep.
pub fn kill(fixture: &Fixture, kills: usize, child: &str, told: &str, source: &ImageSource) -> usize {
    let load = |store: &Path| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", child])
            .env(STORE, store)
            .env(SOURCE, told);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let whole = fixture.load(source).unwrap();
    let pictures: Vec<_> = whole.layers.iter().map(|layer| snapshot(layer)).collect();
    // The fastest of three: of one that had to wait for others most moments are after the end.
    let timed = |n: u32| {
        let begun = Instant::now();
        let status = load(&fixture.path(&format!("timing-{n}"))).status();
        assert!(status.unwrap().success());
        begun.elapsed().as_micros() as u64
    };
    let span = (0..3).map(timed).min().unwrap();

    let (mut random, mut interrupted) = (Random::seeded(), 0);
    println!("a load takes {span} µs");
    let root = fixture.path("killed");
    // None hit at all is improbable enough to go on for.
    for kill in 0..3 * kills {
        if kill >= kills && interrupted > 0 {
            break;
        }
        let mut process = load(&root).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random.below(span)));
        process.kill().unwrap();
        process.wait().unwrap();
        let left = root.join("tmp").exists() && !entries(&root.join("tmp")).is_empty();
        interrupted += usize::from(left);
        let store = Store::open(&root).unwrap();
        assert_eq!(entries(&root.join("tmp")), Vec::<String>::new(), "kill {kill}");
        // Whatever made it into the store made it whole.
        for name in entries(&root.join("layers")) {
            let good = whole.layers.iter().position(|layer| layer.ends_with(&name));
            assert!(
                snapshot(&root.join("layers").join(&name)) == pictures[good.unwrap()],
                "kill {kill}: {name}"
            );
            let diff_id = format!("sha256:{name}").parse().unwrap();
            std::io::copy(&mut store.layer_tar(&diff_id).unwrap(), &mut std::io::sink()).unwrap();
        }
        // Every third one goes on from where it was killed, to meet half-full stores too.
        if kill % 3 != 0 {
            let image = store.load(source, &LoadOptions::new(&false.into())).unwrap();
            assert_eq!(image.id, whole.id);
            assert_eq!(entries(&root.join("tmp")), Vec::<String>::new());
            store.prune(&InUse::default(), false).unwrap();
        }
    }
    println!("{interrupted} of {kills} kills or more left something to sweep");
    interrupted
}
