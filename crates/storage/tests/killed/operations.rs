//! Everything that changes the store or the volumes, and what brings images to a registry, killed at random moments: no
//! damaged layer or image is ever there, no volume in halves, nothing is left over, and the same works again.
//!
//! Another operation is another line of [`OPERATIONS`]. `WHARF_KILLS` says how often altogether.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use model::image::ImageSource;
use model::paths::Roots;
use serde_json::json;
use storage::{ArchiveFormat, GcPolicy, InUse, LoadOptions, PushOptions, Round, Store, Volumes};
use tests::random::Random;
use tests::registry::Registry;

use super::common::image::digest;
use super::common::snapshot::Picture;
use super::common::{Layout, Member, Pack, Tar, entries, in_memory, snapshot};

static NEVER: AtomicBool = AtomicBool::new(false);

/// Its name, and what is done over and over until it is killed.
type Operation = (&'static str, fn(&World));

const OPERATIONS: &[Operation] = &[
    ("load", |w| {
        w.load();
        w.prune();
    }),
    ("pull", |w| {
        w.pull();
        w.prune();
    }),
    ("push", |w| {
        w.push();
        w.prune();
    }),
    ("remove", |w| {
        w.load();
        w.remove();
    }),
    ("collect", |w| {
        w.load();
        w.collect();
    }),
    ("commit", |w| {
        w.commit();
        w.prune();
    }),
    ("archive", |w| {
        let mut archive = fs::File::open(w.path("saved.tar")).unwrap();
        w.store.load_archive(&mut archive, None, &NEVER).unwrap();
        w.prune();
    }),
    ("import", |w| {
        let archive = fs::read(w.path("volume.tar")).unwrap();
        let to = "imported".parse().unwrap();
        w.volumes.import(&to, &archive[..], &NEVER).unwrap();
        w.volumes.remove(&to).unwrap();
        w.volumes.empty_trash(Timestamp::MAX).unwrap();
    }),
    ("clone", |w| {
        let (from, to) = ("kept".parse().unwrap(), "cloned".parse().unwrap());
        w.volumes.remove(&to).unwrap();
        w.volumes.clone_as(&from, &to, &NEVER).unwrap();
        w.volumes.empty_trash(Timestamp::MAX).unwrap();
    }),
];

/// The images of layouts, and of the registry: what they are called, how their layers are packed, what those are made from.
const LAYOUTS: [(&str, Pack, u8); 2] = [("gzip", Pack::Gzip, 10), ("zstd", Pack::Zstd, 20)];
/// The image that is made here.
const MADE: &str = "docker.io/library/made:1";
/// The file that tells where the registry is.
const REGISTRY: &str = "registry";

/// A store, volumes, and what is brought into them.
struct World {
    dir: PathBuf,
    store: Store,
    volumes: Volumes,
    /// The address of Debian's `docker-registry`, which lives as long as the test.
    registry: String,
}

impl World {
    fn open(dir: &Path) -> Self {
        let roots = Roots {
            state: dir.join("state"),
            run: dir.join("run"),
        };
        Self {
            dir: dir.to_owned(),
            store: Store::open(&roots.store()).unwrap(),
            volumes: Volumes::open(&roots).unwrap(),
            registry: fs::read_to_string(dir.join(REGISTRY)).unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn load(&self) {
        for (name, _, _) in LAYOUTS {
            let source = ImageSource::Oci {
                dir: self.path(name),
                reference: None,
            };
            self.store.load(&source, &LoadOptions::new(&NEVER)).unwrap();
        }
    }

    fn pull(&self) {
        for (name, _, _) in LAYOUTS {
            self.pull_as(&format!("{}/app:{name}", self.registry));
        }
    }

    fn pull_as(&self, reference: &str) {
        let source = ImageSource::Registry {
            reference: reference.to_owned(),
        };
        self.store.load(&source, &LoadOptions::new(&NEVER)).unwrap();
    }

    /// To a repository of its own each time, where nothing is yet; and what is there then is what was here.
    fn push(&self) {
        self.commit();
        let since = Timestamp::now().as_nanosecond();
        let reference = format!("{}/made-{}-{since}:1", self.registry, std::process::id());
        self.store.tag(MADE, &reference).unwrap();
        let options = PushOptions {
            cancel: &NEVER,
            login: None,
            progress: None,
        };
        self.store.push(&reference, &options).unwrap();
        self.prune();
        self.pull_as(&reference);
        let layers = self.store.describe(&reference).unwrap().layers;
        let plain = fs::read(self.path("layer.tar")).unwrap();
        assert_eq!(layers.len(), 1);
        assert_eq!(layers[0].diff_id, digest(&plain));
    }

    fn prune(&self) {
        self.store.prune(&InUse::default(), false).unwrap();
    }

    fn remove(&self) {
        for key in self.store.images().unwrap().into_keys() {
            self.store.remove(&key, &InUse::default()).unwrap();
        }
    }

    fn collect(&self) {
        let policy = GcPolicy {
            max_age: Some(Duration::from_secs(1)),
            keep_free: 0,
        };
        let later = Timestamp::now() + Duration::from_secs(3600);
        for now in [Timestamp::now(), later] {
            let round = Round {
                now,
                free: 50,
                thorough: true,
            };
            let garbage = self.store.collect(&InUse::default(), &policy, &round).unwrap();
            self.store.discard(garbage).unwrap();
        }
    }

    fn commit(&self) {
        let tar = fs::read(self.path("layer.tar")).unwrap();
        let layer = self.store.add_layer(&mut &tar[..], &NEVER).unwrap();
        let config = json!({ "architecture": "amd64", "os": "linux", "config": {},
                             "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] } });
        let config = config.to_string();
        self.store
            .add_image(MADE, config.as_bytes(), &[layer.diff_id])
            .unwrap();
    }

    /// What there is, is whole, and there is nothing else.
    fn check(&self, good: &Good, when: &str) {
        let store = self.path("state/store");
        let none = Vec::<String>::new();
        assert_eq!(entries(&store.join("tmp")), none, "{when}");
        for hex in entries(&store.join("layers")) {
            let at = store.join("layers").join(&hex);
            assert!(
                snapshot(&at) == good.layers[&hex],
                "{when}: layer {hex} is damaged"
            );
        }
        for (key, image) in self.store.images().unwrap() {
            assert!(image.layers.iter().all(|layer| layer.is_dir()), "{when}: {key}");
            for layer in self.store.describe(&key).unwrap().layers {
                let mut plain = Vec::new();
                let mut tar = self.store.layer_tar(&layer.diff_id).unwrap();
                tar.read_to_end(&mut plain).unwrap();
                assert_eq!(digest(&plain), layer.diff_id, "{when}: {key}");
            }
        }
        let volumes = self.volumes.list().unwrap();
        for (name, volume) in &volumes {
            assert!(
                snapshot(&volume.path) == good.volume,
                "{when}: volume {name} is not whole"
            );
        }
        let named = entries(&self.path("state/volumes"));
        assert_eq!(named.len(), volumes.len() + 1, "{when}: {named:?}");
        assert!(volumes.contains_key("kept"), "{when}");
        assert_eq!(entries(&self.path("state/volumes/.new")), none, "{when}");
        assert_eq!(entries(&self.path("state/trash/.going")), none, "{when}");
    }

    /// All of it works, and nothing is left of it.
    fn heal(&self, operation: fn(&Self), when: &str) {
        operation(self);
        self.prune();
        for part in ["layers", "tars", "images", "tmp", "blobs/sha256"] {
            let left = entries(&self.path("state/store").join(part));
            assert_eq!(left, Vec::<String>::new(), "{when}: {part}");
        }
        for name in self.volumes.list().unwrap().into_keys() {
            if name.as_str() != "kept" {
                self.volumes.remove(&name).unwrap();
            }
        }
        self.volumes.empty_trash(Timestamp::MAX).unwrap();
        assert_eq!(entries(&self.path("state/trash")), [".going"], "{when}");
    }
}

/// How everything looks where it was never disturbed.
struct Good {
    layers: BTreeMap<String, Picture>,
    volume: Picture,
}

fn files(salt: u8) -> Vec<u8> {
    Tar::of((0..80).map(|i| Member::file(format!("d{}/{salt}-{i}", i / 20), vec![i as u8 ^ salt; 5000])))
}

fn furnish(dir: &Path, registry: &Registry) -> Good {
    fs::write(dir.join(REGISTRY), registry.address()).unwrap();
    for name in ["state", "run"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    for (name, pack, salt) in LAYOUTS {
        let mut layout = Layout::new(&dir.join(name));
        layout.image(None, &[(pack, files(1)), (pack, files(salt))]);
        registry.push(&layout.source(None).key(), &format!("app:{name}"));
    }
    fs::write(dir.join("layer.tar"), files(30)).unwrap();
    let members = (0..60).map(|i| Member::file(format!("v{i}"), vec![i as u8; 20_000]));
    let archive = Tar::of([Member::dir("./").mode(0o750)].into_iter().chain(members));
    fs::write(dir.join("volume.tar"), &archive).unwrap();
    let world = World::open(dir);
    let kept = "kept".parse().unwrap();
    world.volumes.import(&kept, &archive[..], &NEVER).unwrap();
    world.load();
    world.commit();
    let keys = [MADE.to_owned()];
    let mut saved = fs::File::create(dir.join("saved.tar")).unwrap();
    world
        .store
        .save(&keys, ArchiveFormat::Docker, &mut saved)
        .unwrap();
    let layers = dir.join("state/store/layers");
    let picture = |hex: String| (hex.clone(), snapshot(&layers.join(hex)));
    let good = Good {
        layers: entries(&layers).into_iter().map(picture).collect(),
        volume: snapshot(&dir.join("state/volumes/kept/_data")),
    };
    world.prune();
    good
}

const WORLD: &str = "STORAGE_TEST_WORLD";
const OPERATION: &str = "STORAGE_TEST_OPERATION";

/// What the killed process runs: this test binary once more. By itself, with nothing asked of it, it has nothing to do.
#[test]
fn child_that_operates() {
    let (Some(dir), Ok(name)) = (std::env::var_os(WORLD), std::env::var(OPERATION)) else {
        return;
    };
    let operation = OPERATIONS.iter().find(|(known, _)| *known == name).unwrap().1;
    let world = World::open(Path::new(&dir));
    fs::write(world.path("begun"), "").unwrap();
    loop {
        operation(&world);
    }
}

#[test]
fn slow_everything_is_killed_at_random_moments() {
    let kills: usize = std::env::var("WHARF_KILLS").map_or(200, |text| text.parse().unwrap());
    let dir = in_memory();
    let registry = Registry::start(&dir.path().join("registry.d"));
    let good = furnish(dir.path(), &registry);
    let spans = spans(&World::open(dir.path()));
    let (mut random, mut interrupted) = (Random::seeded(), BTreeMap::new());
    for kill in 0..kills {
        let (name, operation) = OPERATIONS[kill % OPERATIONS.len()];
        let when = format!("kill {kill} in {name}");
        kill_in(dir.path(), name, random.below(spans[name]));
        let left = ["state/store/tmp", "state/volumes/.new", "state/trash/.going"];
        let left = left.iter().any(|at| !entries(&dir.path().join(at)).is_empty());
        *interrupted.entry(name).or_insert(0) += usize::from(left);
        let world = World::open(dir.path());
        world.check(&good, &when);
        // Every third one goes on from where it was killed, to meet what is there already.
        if !(kill / OPERATIONS.len()).is_multiple_of(3) {
            world.heal(operation, &when);
        }
    }
    println!("of {kills} kills left something to sweep: {interrupted:?}");
    let hit = interrupted.values().filter(|count| **count > 0).count();
    assert!(hit > OPERATIONS.len() / 2 || kills < 200, "{interrupted:?}");
}

/// Microseconds that twice of each take where nobody disturbs it: it is killed at any moment of the first two rounds.
fn spans(world: &World) -> BTreeMap<&'static str, u64> {
    let span = |(name, operation): &Operation| {
        let begun = Instant::now();
        operation(world);
        operation(world);
        (*name, begun.elapsed().as_micros() as u64)
    };
    let spans = OPERATIONS.iter().map(span).collect();
    println!("µs of two rounds: {spans:?}");
    spans
}

/// Runs an operation in another process, and kills that after so many microseconds of work.
fn kill_in(dir: &Path, name: &str, after: u64) {
    let begun = dir.join("begun");
    drop(fs::remove_file(&begun));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "operations::child_that_operates"])
        .env(WORLD, dir)
        .env(OPERATION, name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !begun.exists() {
        assert_eq!(child.try_wait().unwrap(), None, "{name} failed by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_micros(after));
    assert_eq!(child.try_wait().unwrap(), None, "{name} failed by itself");
    child.kill().unwrap();
    child.wait().unwrap();
}
