//! With too few descriptors a walk fails: what it cannot open it does not leave out.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;

/// Set for the process that is to have few: all threads of a process have the same limit.
const CHILD: &str = "STORAGE_TEST_SCARCE";
/// More than any of the walks here takes.
const ENOUGH: u64 = 40;

/// So many descriptors more than are open, while something is done.
struct Few(u64);

impl Few {
    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // The lowest one that is free.
        let free = File::open("/").unwrap();
        let next = std::os::fd::AsRawFd::as_raw_fd(&free) as u64;
        drop(free);
        setrlimit(Resource::RLIMIT_NOFILE, next + self.0, hard).unwrap();
        let done = work();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        done
    }
}

/// With one descriptor more each time: it fails for want of them, or gives what it gives with plenty.
fn all_or_error<T: PartialEq>(what: &str, work: impl Fn(&Few) -> Result<T, FilesError>) {
    let whole = work(&Few(ENOUGH)).unwrap();
    let mut failed = 0;
    for few in 0..ENOUGH {
        match work(&Few(few)) {
            Ok(done) => assert!(done == whole, "{what} left something out with {few} descriptors"),
            Err(FilesError::Io { source, .. }) if source.raw_os_error() == Some(nix::libc::EMFILE) => {
                failed += 1;
            }
            Err(other) => panic!("{what} with {few} descriptors: {other}"),
        }
    }
    assert!(failed > 0, "{what} never had too few");
    println!("{what} failed {failed} times");
}

#[test]
fn child_that_has_few_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let overlay = Overlay::new();
    overlay
        .put("upper merged base", "both/in/it/changed")
        .put("upper merged", "both/in/new/file")
        .put("base", "kind")
        .put("upper merged", "kind/in/it/new")
        .put("upper merged", "new/in/it/file")
        .put("upper merged base", "again/in/it/same")
        .put("base", "again/in/it/gone")
        .mark("again", "trusted.overlay.opaque", b"y");
    let trees = overlay.trees(&[]);
    all_or_error("changes", |few| few.run(|| changes(&trees)));
    all_or_error("layer", |few| {
        let mut tar = Vec::with_capacity(1 << 20);
        few.run(|| layer(&trees, &mut tar, PackOptions::default()))?;
        Ok(tar)
    });
    let merged = overlay.dir.path().join("merged");
    let top = dir_fd(&merged);
    all_or_error("pack", |few| {
        let mut tar = Vec::with_capacity(1 << 20);
        few.run(|| pack_tree(&top, &mut tar, PackOptions::default()))?;
        Ok(tar)
    });
    let tar = packed(&merged);
    all_or_error("extract", |few| {
        let to = tempfile::tempdir().unwrap();
        let root = dir_fd(to.path());
        few.run(|| extract(tar.as_slice(), &Extract::careful(&root, Owners::Archive)))?;
        Ok(packed(to.path()))
    });
}

#[test]
fn with_too_few_descriptors_nothing_is_left_out() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "files::tests::scarce::child_that_has_few_descriptors"])
        .arg("--nocapture")
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let more = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}{more}");
    for what in ["changes", "layer", "pack", "extract"] {
        assert!(said.contains(&format!("{what} failed")), "{what}: {said}{more}");
    }
}
