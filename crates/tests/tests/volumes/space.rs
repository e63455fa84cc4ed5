//! Room on the disk: what is collected, what is pruned, and what happens when there is none.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tests::Host;
use tests::images::{LayerBuilder, busybox};

/// Bytes that nothing makes smaller.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut random = tests::random::Random::seeded();
    (0..bytes.div_ceil(8))
        .flat_map(|_| random.bits().to_le_bytes())
        .collect()
}

/// An image that nothing else is like, with a file of so many such bytes.
pub fn image(host: &Host, name: &str, bytes: usize) -> String {
    let layer = LayerBuilder::new().file(name, 0o644, &noise(bytes));
    host.oci_dir(name, &busybox().layer(layer))
}

fn keys(host: &Host) -> Vec<String> {
    host.status()
        .images
        .into_iter()
        .map(|image| image.reference)
        .collect()
}

fn has(host: &Host, image: &str) -> bool {
    keys(host).iter().any(|key| key == image)
}

/// `box` that runs, and `extra`, an image that a table kept and no longer does.
fn with_unused(settings: &str) -> (Host, String) {
    let mut host = Host::new();
    fs::write(host.settings(), settings).unwrap();
    host.write_busybox("box", "exec sleep 1000", "");
    let extra = image(&host, "extra", 4096);
    host.write("extra.toml", &format!("[image.extra]\npull = {extra:?}\n"));
    host.start_agent();
    host.converge();
    assert!(has(&host, &extra), "{:?}", keys(&host));
    (host, extra)
}

fn set(host: &Host, settings: &str) {
    fs::write(host.settings(), settings).unwrap();
}

#[test]
fn an_image_that_nothing_wants_goes_by_itself() {
    let (host, extra) = with_unused("[gc]\nmax_age = \"1s\"\n");
    let runs = host.container("box");
    for _ in 0..3 {
        host.wharf(["reload"]).ok();
        assert!(has(&host, &extra), "a table keeps it");
    }
    // While a file cannot be read it is not known what is wanted.
    host.write("broken.toml", "[image.what");
    host.remove("extra.toml");
    host.until("the file is told of", |s| s.errors.len() == 1);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    host.wharf(["reload"]);
    assert!(has(&host, &extra));
    host.remove("broken.toml");
    host.until("it is gone", |s| {
        host.wharf(["reload"]);
        s.converged && s.images.iter().all(|image| image.reference != extra)
    });
    let events = host.wharf(["events"]).ok().stdout;
    let line = events.lines().find(|l| l.contains("gc.max_age")).unwrap();
    assert!(line.contains("remove") && line.contains(&extra), "{line}");
    assert_eq!(host.container("box").pid, runs.pid);
    assert!(has(&host, &runs.image));
}

/// Makes what the store noted a long time ago.
fn age(host: &Host) {
    let store = host.state_dir().join("store");
    let old = Value::from("2020-01-01T00:00:00Z");
    for record in fs::read_dir(store.join("images")).unwrap() {
        let path = record.unwrap().path();
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["pulled"] = old.clone();
        fs::write(&path, record.to_string()).unwrap();
    }
    let path = store.join("unused.json");
    let mut unused: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    unused
        .as_object_mut()
        .unwrap()
        .values_mut()
        .for_each(|since| *since = old.clone());
    fs::write(&path, unused.to_string()).unwrap();
}

#[test]
fn a_full_disk_takes_images_sooner_and_only_where_it_is_asked_to() {
    let (mut host, extra) = with_unused("[gc]\nmax_age = \"0s\"\nkeep_free = \"0%\"\n");
    host.remove("extra.toml");
    host.until("nothing wants it", |s| s.converged);
    host.wharf(["reload"]).ok();
    assert!(host.stop_agent().success());
    age(&host);
    host.start_agent();
    host.converge();
    host.wharf(["reload"]).ok();
    assert!(has(&host, &extra), "both are turned off");
    // No disk is as free as that.
    set(&host, "[gc]\nmax_age = \"0s\"\nkeep_free = \"99%\"\n");
    host.until("it is gone", |s| {
        host.wharf(["reload"]);
        s.images.iter().all(|image| image.reference != extra)
    });
    let events = host.wharf(["events"]).ok().stdout;
    assert!(
        events
            .lines()
            .any(|l| l.contains("gc.keep_free") && l.contains(&extra)),
        "{events}"
    );
    host.converge();
}

fn prune(host: &Host, more: &[&str]) -> Value {
    let args = ["prune", "--json"].iter().chain(more);
    serde_json::from_str(&host.wharf(args).ok().stdout).unwrap()
}

fn in_trash(host: &Host) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.state_dir().join("trash")).unwrap();
    entries
        .map(|e| e.unwrap().path())
        .filter(|p| !p.ends_with(".going"))
        .collect()
}

#[test]
fn prune_takes_what_nothing_uses_and_never_what_is_kept() {
    let (host, extra) = with_unused("");
    host.write_busybox(
        "box",
        "exec sleep 1000",
        "volumes = [\"used:/used\", \"left:/left\"]\n",
    );
    host.converge();
    host.write_busybox("box", "exec sleep 1000", "volumes = [\"used:/used\"]\n");
    host.remove("extra.toml");
    host.until("one is left over", |s| {
        s.converged && s.volumes.iter().any(|v| v.used_by.is_empty())
    });
    let would = prune(&host, &["--dry-run"]);
    assert_eq!(would["images"][0]["ref"], extra.as_str(), "{would}");
    assert!(
        would["layers"].as_u64().unwrap() >= 1 && would["bytes"].as_u64().unwrap() > 0,
        "{would}"
    );
    assert_eq!(
        (&would["volumes"], &would["trash"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    assert!(has(&host, &extra), "a dry run changes nothing");
    let did = prune(&host, &[]);
    assert_eq!(
        (&did["images"], &did["bytes"]),
        (&would["images"], &would["bytes"])
    );
    assert!(!has(&host, &extra));
    let volumes =
        |host: &Host| -> Vec<String> { host.status().volumes.into_iter().map(|v| v.name).collect() };
    assert_eq!(volumes(&host), ["left", "used"]);
    let said = host.wharf(["prune"]).ok().stdout;
    assert!(said.contains("0 layers and 0 B were removed"), "{said}");

    // Docker's client, on the same.
    let df = host.docker(["system", "df"]).ok().stdout;
    assert!(df.contains("Images") && df.contains("Local Volumes"), "{df}");
    host.docker(["system", "df", "-v"]).ok();
    host.docker(["volume", "prune", "--force"]).ok();
    host.docker(["system", "prune", "--all", "--volumes", "--force"])
        .ok();
    assert_eq!(volumes(&host), ["left", "used"], "those are for anonymous ones");
    host.docker(["volume", "prune", "--all", "--force"]).ok();
    assert_eq!(volumes(&host), ["used"]);
    assert_eq!(in_trash(&host).len(), 1);
    assert_eq!(
        prune(&host, &[])["trash"],
        Value::Array(vec![]),
        "it could still be fetched back"
    );
    let refused = host.wharf(["prune", "--trash"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("--force"),
        "{refused:?}"
    );
    assert_eq!(prune(&host, &["--trash", "--force"])["trash"][0]["name"], "left");
    assert!(in_trash(&host).is_empty());
    assert_eq!(volumes(&host), ["used"]);
}

/// The host's state dir is a file system of its own, which is in the way of who clears up.
pub struct Small<'a>(pub &'a Host);

impl Drop for Small<'_> {
    fn drop(&mut self) {
        self.0
            .ns
            .sh(&format!("umount -l {}", self.0.state_dir().display()));
    }
}

#[test]
fn a_full_disk_is_told_of_disturbs_nobody_and_heals() {
    let mut host = Host::new();
    let state = host.state_dir();
    fs::create_dir_all(&state).unwrap();
    host.ns.sh(&format!(
        "mount -t tmpfs -o size=24M,mode=0710 small {}",
        state.display()
    ));
    host.write_busybox(
        "box",
        "n=0; while :; do n=$((n+1)); echo $n > /run/n; done",
        "tmpfs = [\"/run\"]\n",
    );
    host.start_agent();
    let _small = Small(&host);
    host.converge();
    let runs = host.container("box");
    let big = image(&host, "big", 32 << 20);
    host.write(
        "big.toml",
        &format!(
            "[container.big]\nimage = {big:?}\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"SIGKILL\"\n"
        ),
    );
    let told = host.until("the reason is told", |s| {
        s.containers
            .iter()
            .any(|c| c.error.as_ref().is_some_and(|e| e.contains("no space left")))
    });
    let error = told.containers.iter().find_map(|c| c.error.clone()).unwrap();
    assert!(error.contains("free some"), "{error}");
    let now = host.container("box");
    assert_eq!((now.pid, now.restarts), (runs.pid, 0));
    // As the host sees it.
    let root = format!("/proc/{}/root", host.agent_pid().unwrap());
    let seen = PathBuf::from(format!("{root}{}", state.display()));
    let count = |at: &str| fs::read_dir(seen.join(at)).unwrap().count();
    assert_eq!(count("store/layers"), 1, "nothing half is there");
    // A copy that does not fit is none.
    let archive = host.dir().join("big.tar");
    fs::write(host.dir().join("blob"), vec![7; 40 << 20]).unwrap();
    host.ns.sh(&format!(
        "tar -cf {} -C {} blob",
        archive.display(),
        host.dir().display()
    ));
    let said = host.wharf(["volume", "import", "copy", "-i", archive.to_str().unwrap()]);
    assert!(
        said.code == 1 && said.stderr.contains("no space left"),
        "{said:?}"
    );
    assert!(!seen.join("volumes/copy").exists());
    assert_eq!(count("volumes/.new"), 0);
    host.ns
        .sh(&format!("mount -o remount,size=200M {}", state.display()));
    host.wait_for("big");
    host.wharf(["volume", "import", "copy", "-i", archive.to_str().unwrap()])
        .ok();
    host.converge();
    assert_eq!(host.container("box").pid, runs.pid);
    assert_eq!(count("store/tmp"), 0);
}
