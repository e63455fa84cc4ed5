//! Named volumes: made, changed, removed and fetched back, over boots, by calls that are killed at any instruction.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "volumes/copies.rs"]
mod copies;
#[path = "volumes/servers.rs"]
mod servers;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{assert_says, entries};
use model::name::Name;
use model::paths::Roots;
use model::spec::{VolumeDriver, VolumeSpec};
use storage::{TRASH_KEPT, Volumes};
use tempfile::TempDir;
use tests::random::Random;

struct Host {
    dir: TempDir,
    roots: Roots,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots {
            state: dir.path().join("state"),
            run: dir.path().join("run"),
        };
        fs::create_dir(&roots.state).unwrap();
        fs::create_dir(&roots.run).unwrap();
        Self { dir, roots }
    }

    fn open(&self) -> Volumes {
        Volumes::open(&self.roots).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.roots.volumes().join(name)
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn spec(driver: VolumeDriver) -> VolumeSpec {
    VolumeSpec {
        driver,
        device: None,
        options: Vec::new(),
        labels: BTreeMap::new(),
        keep: true,
        exclusive: false,
    }
}

fn bind(device: &Path) -> VolumeSpec {
    VolumeSpec {
        device: Some(device.to_owned()),
        ..spec(VolumeDriver::Bind)
    }
}

fn refused(volumes: &Volumes, volume: &str, spec: &VolumeSpec) -> String {
    volumes.apply(&name(volume), spec).unwrap_err().to_string()
}

#[test]
fn a_local_volume_is_a_directory_that_stays_as_it_is() {
    let host = Host::new();
    let volumes = host.open();
    volumes.apply(&name("site"), &spec(VolumeDriver::Local)).unwrap();
    let made = volumes.list().unwrap().remove(&name("site")).unwrap();
    assert_eq!(made.path, host.home("site").join("_data"));
    let meta = fs::metadata(&made.path).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o755, 0, 0),
        "whatever the umask"
    );
    fs::write(made.path.join("page"), "data").unwrap();
    fs::set_permissions(&made.path, fs::Permissions::from_mode(0o1777)).unwrap();

    let mut labelled = spec(VolumeDriver::Local);
    labelled.labels.insert("tier".into(), "front".into());
    for wanted in [&labelled, &labelled] {
        volumes.apply(&name("site"), wanted).unwrap();
        let now = host.open().list().unwrap().remove(&name("site")).unwrap();
        assert_eq!((&now.spec, now.created_at), (wanted, made.created_at));
    }
    assert_eq!(fs::read_to_string(made.path.join("page")).unwrap(), "data");
    assert_eq!(fs::metadata(&made.path).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn a_bind_volume_is_its_device_and_never_made_or_removed() {
    let host = Host::new();
    let volumes = host.open();
    let device = host.path("srv");
    assert_says(
        &refused(&volumes, "disk", &bind(&device)),
        &["volume disk", "srv does not exist", "make it"],
    );
    fs::write(&device, "").unwrap();
    assert_says(
        &refused(&volumes, "disk", &bind(&device)),
        &["is not a directory"],
    );
    fs::remove_file(&device).unwrap();
    assert_says(
        &refused(&volumes, "disk", &bind(Path::new("srv"))),
        &["not an absolute path"],
    );
    assert_says(
        &refused(&volumes, "disk", &spec(VolumeDriver::Bind)),
        &["needs device"],
    );
    assert!(volumes.list().unwrap().is_empty());

    fs::create_dir(&device).unwrap();
    fs::write(device.join("file"), "data").unwrap();
    volumes.apply(&name("disk"), &bind(&device)).unwrap();
    assert_eq!(volumes.list().unwrap()[&name("disk")].path, device);
    volumes.remove(&name("disk")).unwrap();
    assert!(volumes.list().unwrap().is_empty());
    volumes.empty_trash(jiff::Timestamp::MAX).unwrap();
    assert_eq!(fs::read_to_string(device.join("file")).unwrap(), "data");
}

#[test]
fn a_tmpfs_volume_comes_back_empty_after_a_boot() {
    let host = Host::new();
    let volumes = host.open();
    volumes
        .apply(&name("scratch"), &spec(VolumeDriver::Tmpfs))
        .unwrap();
    let path = volumes.list().unwrap()[&name("scratch")].path.clone();
    assert!(path.starts_with(&host.roots.run));
    fs::write(path.join("x"), vec![1; 10_000]).unwrap();
    // The same boot: an agent that starts again finds it.
    assert!(
        host.open().list().unwrap()[&name("scratch")]
            .path
            .join("x")
            .exists()
    );

    fs::remove_dir_all(&host.roots.run).unwrap();
    assert!(volumes.list().unwrap().is_empty(), "to be applied again");
    fs::create_dir(&host.roots.run).unwrap();
    assert_eq!(
        entries(&host.open().list().unwrap()[&name("scratch")].path),
        Vec::<String>::new()
    );
    fs::write(path.join("y"), "").unwrap();
    volumes.remove(&name("scratch")).unwrap();
    assert!(!path.exists());
}

#[test]
fn what_is_left_in_memory_without_a_volume_goes_when_opened() {
    let host = Host::new();
    let volumes = host.open();
    for volume in ["kept", "orphan"] {
        volumes.apply(&name(volume), &spec(VolumeDriver::Tmpfs)).unwrap();
    }
    fs::remove_dir_all(host.home("orphan")).unwrap();
    host.open();
    assert_eq!(entries(&host.roots.run.join("volumes")), [".going", "kept"]);
}

#[test]
fn a_volume_that_holds_data_keeps_its_driver() {
    let host = Host::new();
    let volumes = host.open();
    let device = host.path("srv");
    fs::create_dir(&device).unwrap();
    volumes.apply(&name("v"), &spec(VolumeDriver::Local)).unwrap();
    fs::write(host.home("v/_data/x"), "data").unwrap();
    for other in [bind(&device), spec(VolumeDriver::Tmpfs)] {
        let text = refused(&volumes, "v", &other);
        assert_says(&text, &["volume v: it holds data in", "wharf volume rm v"]);
        assert_eq!(
            volumes.list().unwrap()[&name("v")].spec,
            spec(VolumeDriver::Local)
        );
    }
    fs::remove_file(host.home("v/_data/x")).unwrap();
    // Empty it may become anything, and a bind's data are not its own.
    for other in [
        bind(&device),
        spec(VolumeDriver::Local),
        spec(VolumeDriver::Tmpfs),
        bind(&device),
    ] {
        volumes.apply(&name("v"), &other).unwrap();
        assert_eq!(volumes.list().unwrap()[&name("v")].spec, other);
    }
    assert_eq!(entries(&host.home("v")), ["volume.json"]);
}

#[test]
fn data_that_vanished_are_a_new_volume() {
    let host = Host::new();
    let volumes = host.open();
    volumes.apply(&name("v"), &spec(VolumeDriver::Local)).unwrap();
    fs::write(host.home("v/filled"), "").unwrap();
    fs::remove_dir(host.home("v/_data")).unwrap();
    assert!(volumes.list().unwrap().is_empty());
    volumes.apply(&name("v"), &spec(VolumeDriver::Local)).unwrap();
    assert_eq!(entries(&host.home("v")), ["_data", "volume.json"]);
}

#[test]
fn data_without_a_record_are_taken_over_and_never_lost() {
    let host = Host::new();
    fs::create_dir_all(host.home("found/_data")).unwrap();
    fs::write(host.home("found/_data/x"), "data").unwrap();
    fs::create_dir_all(host.home("damaged/_data")).unwrap();
    fs::write(host.home("damaged/volume.json"), "{").unwrap();
    fs::create_dir_all(host.home("odd/other")).unwrap();
    fs::write(host.home("README"), "not ours").unwrap();
    let volumes = host.open();
    assert_eq!(
        volumes
            .list()
            .unwrap()
            .keys()
            .map(Name::as_str)
            .collect::<Vec<_>>(),
        ["damaged", "found"]
    );
    for volume in ["found", "damaged", "odd"] {
        volumes.apply(&name(volume), &spec(VolumeDriver::Local)).unwrap();
        assert!(
            fs::read_to_string(host.home(volume).join("volume.json"))
                .unwrap()
                .ends_with('}')
        );
    }
    assert_eq!(fs::read_to_string(host.home("found/_data/x")).unwrap(), "data");
    // What was no volume was put away, not deleted.
    let trash = entries(&host.roots.state.join("trash"));
    let odd = trash.iter().find(|entry| entry.ends_with("-volume-odd")).unwrap();
    assert!(host.roots.state.join("trash").join(odd).join("other").exists());
}

#[test]
fn a_removed_volume_can_be_fetched_back_for_a_day() {
    let host = Host::new();
    let volumes = host.open();
    assert_eq!(volumes.remove(&name("never")).unwrap(), None);
    let mut kept = Vec::new();
    for round in 0..3 {
        volumes.apply(&name("v"), &spec(VolumeDriver::Local)).unwrap();
        fs::write(host.home("v/_data/x"), round.to_string()).unwrap();
        kept.push(volumes.remove(&name("v")).unwrap().unwrap());
        assert!(volumes.list().unwrap().is_empty());
    }
    for (round, place) in kept.iter().enumerate() {
        assert_eq!(
            fs::read_to_string(place.join("_data/x")).unwrap(),
            round.to_string()
        );
    }
    let now = jiff::Timestamp::now();
    let foreign = host.roots.state.join("trash/17-notes");
    fs::create_dir(&foreign).unwrap();
    assert_eq!(volumes.empty_trash(now).unwrap(), 0);
    // Back in its place it is the volume again.
    fs::rename(&kept[0], host.home("v")).unwrap();
    assert_eq!(volumes.list().unwrap().len(), 1);
    let tomorrow = now + TRASH_KEPT;
    assert!(volumes.empty_trash(tomorrow + Duration::from_secs(60)).unwrap() > 0);
    assert_eq!(entries(&host.roots.state.join("trash")), [".going", "17-notes"]);
    assert_eq!(fs::read_to_string(host.home("v/_data/x")).unwrap(), "0");
}

const ROOT: &str = "STORAGE_TEST_VOLUMES";

/// What the killed process runs: this test binary once more. By itself, with nothing asked of it, it has nothing to do.
#[test]
fn child_that_changes_volumes() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    let roots = Roots {
        state: root.join("state"),
        run: root.join("run"),
    };
    let volumes = Volumes::open(&roots).unwrap();
    let mut round = 0u64;
    loop {
        round += 1;
        let volume = name(&format!("v{}", round % 3));
        let mut wanted = spec(VolumeDriver::Local);
        wanted.labels.insert("round".into(), round.to_string());
        volumes.apply(&volume, &wanted).unwrap();
        let data = roots.volumes().join(volume.as_str()).join("_data");
        fs::write(data.join("round"), round.to_string()).unwrap();
        volumes
            .apply(&name("memory"), &spec(VolumeDriver::Tmpfs))
            .unwrap();
        if round.is_multiple_of(5) {
            volumes.remove(&volume).unwrap();
            volumes.remove(&name("memory")).unwrap();
        }
        if round.is_multiple_of(20) {
            volumes.empty_trash(jiff::Timestamp::MAX).unwrap();
        }
    }
}

#[test]
fn kills_at_random_moments_leave_whole_volumes() {
    let host = Host::new();
    let (mut random, mut swept) = (Random::seeded(), 0);
    let kept = name("kept");
    host.open().apply(&kept, &spec(VolumeDriver::Local)).unwrap();
    fs::write(host.home("kept/_data/x"), "data").unwrap();
    for kill in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_changes_volumes"])
            .env(ROOT, host.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(5_000 + random.below(40_000)));
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "kill {kill}: it failed by itself"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let left = host.home(".new");
        swept += usize::from(left.exists() && !entries(&left).is_empty());
        let volumes = host.open();
        assert_eq!(entries(&left), Vec::<String>::new());
        for (found, volume) in volumes.list().unwrap() {
            assert!(volume.path.is_dir(), "kill {kill}: {found}");
            volumes.apply(&found, &volume.spec).unwrap();
        }
        // No directory is there that is no volume.
        let named = entries(&host.roots.volumes());
        assert_eq!(named.len(), volumes.list().unwrap().len() + 1, "{named:?}");
        assert_eq!(
            fs::read_to_string(host.home("kept/_data/x")).unwrap(),
            "data",
            "kill {kill}"
        );
    }
    println!("{swept} of 25 kills left something to sweep");
}
