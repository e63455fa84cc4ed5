use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

const GOOD: &str = "[container.web]\nrootfs = \"/srv\"\n";

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn only_error(dir: &Path) -> Diagnostic {
    let contents = read(dir, &[]);
    assert_eq!(contents.broken.len(), 1, "{contents:?}");
    contents.broken[0].diagnostics[0].clone()
}

#[test]
fn toml_files_count_and_others_do_not() {
    let dir = dir();
    for name in ["b.toml", "a.toml", ".hidden.toml", "c.toml~", "readme.md"] {
        std::fs::write(
            dir.path().join(name),
            GOOD.replace("web", &name[..1].replace('.', "x")),
        )
        .unwrap();
    }
    let contents = read(dir.path(), &[]);
    let names: Vec<_> = contents.files.iter().map(|f| f.file.as_str()).collect();
    assert_eq!(names, ["a.toml", "b.toml"], "{contents:?}");
}

#[test]
fn what_is_no_regular_file_is_an_error_on_that_file() {
    let dir = dir();
    let path = dir.path().join("x.toml");
    std::fs::create_dir(&path).unwrap();
    assert!(only_error(dir.path()).message.contains("is a directory"));
    std::fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(only_error(dir.path()).message.contains("is a FIFO"));
    std::fs::remove_file(&path).unwrap();
    symlink("/dev/zero", &path).unwrap();
    assert!(only_error(dir.path()).message.contains("is a device"));
    std::fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    assert!(only_error(dir.path()).message.contains("leads nowhere"));
    std::fs::remove_file(&path).unwrap();
    symlink("x.toml", &path).unwrap();
    assert!(only_error(dir.path()).message.contains("leads to itself"));
}

#[test]
fn a_file_others_can_write_is_refused_with_what_to_run() {
    let dir = dir();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, GOOD).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let error = only_error(dir.path());
    assert_eq!(error.hint.unwrap(), "run `chmod o-w x.toml`");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
    std::os::unix::fs::chown(&path, Some(0), Some(12)).unwrap();
    assert!(only_error(dir.path()).message.contains("group 12"));
    std::os::unix::fs::chown(&path, Some(12), Some(0)).unwrap();
    assert!(only_error(dir.path()).message.contains("user 12"));
}

#[test]
fn huge_and_not_utf8_files_are_refused() {
    let dir = dir();
    let path = dir.path().join("x.toml");
    File::create(&path).unwrap().set_len(100 << 20).unwrap();
    assert!(only_error(dir.path()).message.contains("at most"));
    std::fs::write(&path, b"[container.web]\nimage = \"\xff\"\n").unwrap();
    assert_eq!(only_error(dir.path()).at.line, Some(2));
}

#[test]
fn a_missing_directory_is_no_wish_to_remove_everything() {
    let contents = read(Path::new("/nonexistent/containers.d"), &[]);
    assert!(contents.unreadable.unwrap().message.contains("does not exist"));
}

#[test]
fn slow_what_is_read_again_is_the_same_until_something_changed() {
    let dir = dir();
    let (web, sub) = (dir.path().join("web.toml"), dir.path().join("web.toml.d"));
    std::fs::write(&web, GOOD).unwrap();
    let mut reader = Reader::default();
    let mut before = reader.read(dir.path(), &[]);
    let target = dir.path().join("target");
    std::fs::write(&target, GOOD).unwrap();
    let changes: [(&str, &dyn Fn()); 7] = [
        ("written", &|| {
            std::fs::write(&web, "[container.x]\nrootfs = \"/srv\"\n").unwrap()
        }),
        ("refused", &|| {
            std::fs::set_permissions(&web, std::fs::Permissions::from_mode(0o666)).unwrap()
        }),
        ("allowed", &|| {
            std::fs::set_permissions(&web, std::fs::Permissions::from_mode(0o644)).unwrap()
        }),
        ("a drop-in", &|| {
            std::fs::create_dir(&sub).unwrap();
            std::fs::write(sub.join("a.toml"), "[container.x]\nhostname = \"y\"\n").unwrap();
        }),
        ("no drop-in", &|| std::fs::remove_dir_all(&sub).unwrap()),
        ("a link", &|| {
            std::fs::remove_file(&web).unwrap();
            symlink("target", &web).unwrap();
        }),
        ("its target", &|| std::fs::write(&target, "").unwrap()),
    ];
    for (what, change) in changes {
        // At once, and once the stamps can be gone by.
        for _ in 0..2 {
            let same = std::sync::Arc::ptr_eq(&reader.read(dir.path(), &[]), &before);
            assert!(same || !before.broken.is_empty(), "before {what}");
            while stamp::Stamp::of(&web).is_some_and(|s| !s.is_settled(SystemTime::now())) {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        change();
        let after = reader.read(dir.path(), &[]);
        assert!(!std::sync::Arc::ptr_eq(&after, &before), "{what}");
        let anew = read(dir.path(), &[]);
        assert_eq!(
            (&after.files, &after.sources),
            (&anew.files, &anew.sources),
            "{what}"
        );
        before = after;
    }
    assert!(!std::sync::Arc::ptr_eq(
        &reader.read(dir.path(), &["x".to_owned()]),
        &before
    ));
}

#[test]
fn a_file_that_goes_before_its_stamp_can_be_gone_by_is_missed() {
    let dir = dir();
    let old = dir.path().join("old.toml");
    std::fs::write(&old, GOOD).unwrap();
    while stamp::Stamp::of(&old).is_some_and(|s| !s.is_settled(SystemTime::now())) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut reader = Reader::default();
    reader.read(dir.path(), &[]);
    let young = dir.path().join("young.toml");
    std::fs::write(&young, "[container.y]\nrootfs = \"/srv\"\n").unwrap();
    assert_eq!(reader.read(dir.path(), &[]).files.len(), 2);
    std::fs::remove_file(&young).unwrap();
    assert_eq!(reader.read(dir.path(), &[]).files.len(), 1);
    // Nor is the error of one that could not be read there any more.
    symlink("nowhere", &young).unwrap();
    assert_eq!(reader.read(dir.path(), &[]).broken.len(), 1);
    std::fs::remove_file(&young).unwrap();
    assert_eq!(reader.read(dir.path(), &[]).broken.len(), 0);
}

#[test]
fn drop_ins_are_merged_and_watched() {
    let dir = dir();
    std::fs::write(dir.path().join("web.toml"), GOOD).unwrap();
    let sub = dir.path().join("web.toml.d");
    std::fs::create_dir(&sub).unwrap();
    std::fs::write(
        sub.join("10-host.toml"),
        "[container.web]\nhostname = \"other\"\n",
    )
    .unwrap();
    let contents = read(dir.path(), &[]);
    assert_eq!(
        contents.files[0].containers[0].spec.hostname.as_deref(),
        Some("other"),
        "{contents:?}"
    );
    assert!(contents.watched.0[&sub.canonicalize().unwrap()].all);
}
