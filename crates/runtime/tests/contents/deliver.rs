//! The files on the host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

/// Path below a directory, mode, owner and what is in it.
fn tree(dir: &Path) -> BTreeMap<String, (u32, u32, u32, String)> {
    let mut all = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir_now) = todo.pop() {
        for entry in fs::read_dir(&dir_now).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                todo.push(path.clone());
            }
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            let text = if meta.is_file() {
                fs::read_to_string(&path).unwrap()
            } else {
                String::new()
            };
            all.insert(name, (meta.mode() & 0o7777, meta.uid(), meta.gid(), text));
        }
    }
    all
}

fn of(mode: u32, uid: u32, gid: u32, text: &str) -> (u32, u32, u32, String) {
    (mode, uid, gid, text.to_owned())
}

#[test]
fn exactly_what_is_wanted_is_there_with_modes_and_owners() {
    let memory = Memory::new();
    let files = [
        owned(config("a", "/a", "one"), 0o4750, 33, 34),
        config("b", "/b", ""),
        owned(secret("key", "hidden"), 0o440, 33, 0),
    ];
    let i = memory.container("true", &files);
    let dir = memory.contents(&i);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&dir), mode(dir.parent().unwrap())), (0o700, 0o700));
    let expected: BTreeMap<String, _> = [
        ("configs", of(0o700, 0, 0, "")),
        ("configs/a", of(0o4750, 33, 34, "one")),
        ("configs/b", of(0o644, 0, 0, "")),
        ("secrets", of(0o755, 0, 0, "")),
        ("secrets/key", of(0o440, 33, 0, "hidden")),
    ]
    .map(|(name, what)| (name.to_owned(), what))
    .into();
    assert_eq!(tree(&dir), expected);
    let inode = |name: &str| fs::metadata(dir.join(name)).unwrap().ino();
    let before = (inode("configs/a"), inode("secrets/key"), inode("secrets"));
    memory.deliver(&i, &files);
    assert_eq!(tree(&dir), expected);
    let after = (inode("configs/a"), inode("secrets/key"), inode("secrets"));
    assert_eq!(before, after, "what is so already is not touched");

    memory.deliver(
        &i,
        &[
            owned(config("a", "/a", "one"), 0o600, 33, 34),
            secret("key", "other"),
        ],
    );
    let expected: BTreeMap<String, _> = [
        ("configs", of(0o700, 0, 0, "")),
        ("configs/a", of(0o600, 33, 34, "one")),
        ("secrets", of(0o755, 0, 0, "")),
        ("secrets/key", of(0o400, 0, 0, "other")),
    ]
    .map(|(name, what)| (name.to_owned(), what))
    .into();
    assert_eq!(tree(&dir), expected);
    assert_eq!(inode("secrets"), after.2, "containers have this very directory");
}

#[test]
fn what_somebody_put_in_a_files_place_is_replaced_and_not_followed() {
    let memory = Memory::new();
    let files = [
        config("a", "/a", "one"),
        config("b", "/b", "two"),
        secret("key", "hidden"),
    ];
    let i = memory.container("true", &files);
    let dir = memory.contents(&i);
    let outside = memory.run.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    fs::remove_file(dir.join("configs/a")).unwrap();
    symlink(&outside, dir.join("configs/a")).unwrap();
    fs::remove_file(dir.join("configs/b")).unwrap();
    fs::create_dir_all(dir.join("configs/b/c")).unwrap();
    fs::write(dir.join("secrets/more"), "").unwrap();
    fs::create_dir_all(dir.join("new/rubbish")).unwrap();
    memory.deliver(&i, &files);
    let texts: Vec<String> = ["configs/a", "configs/b", "secrets/key"]
        .iter()
        .map(|name| fs::read_to_string(dir.join(name)).unwrap())
        .collect();
    assert_eq!(texts, ["one", "two", "hidden"]);
    assert_eq!(tree(&dir).len(), 5);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
}

#[test]
fn killed_at_any_instant_it_leaves_whole_files_and_is_completed_by_the_next() {
    let memory = Memory::new();
    let i = memory.container("true", &[]);
    let dir = memory.contents(&i);
    let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let whole = |text: &str| {
        let version = text.chars().next().unwrap();
        text.len() == 200_000 && text.chars().all(|c| c == version)
    };
    let mut halfway = 0;
    for round in 0..40 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let mut child = Command::new(env!("CARGO_BIN_EXE_runtime-testbin"))
            .arg("deliver-for-ever")
            .args([&memory.host.roots.state, &memory.host.roots.run])
            .args([&memory.host.parent, i.id.as_str()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It says so when it has delivered once.
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        std::thread::sleep(Duration::from_micros(seed % 10_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = tree(&dir);
        halfway += usize::from(left.contains_key("new"));
        for name in ["configs/a", "configs/b", "secrets/key"] {
            let (_, uid, gid, text) = &left[name];
            assert!(whole(text), "round {round}: {name} has {} bytes", text.len());
            assert_eq!((*uid, *gid), (33, 34));
        }
        let last = round % 2 == 0;
        let files = if last {
            vec![config("a", "/a", "end")]
        } else {
            vec![]
        };
        memory.deliver(&i, &files);
        let left: Vec<String> = tree(&dir).into_keys().collect();
        let expected: &[&str] = if last { &["configs", "configs/a"] } else { &[] };
        assert_eq!(left, expected);
    }
    println!("killed with a file half made: {halfway}");
}

#[test]
fn a_removed_container_leaves_nothing_and_orphans_are_swept() {
    let memory = Memory::new();
    let files = [config("a", "/a", "one"), secret("key", "hidden")];
    let i = memory.container("exec sleep 1000", &files);
    memory.host.start(&i);
    memory.host.running(&i);
    memory.host.runtime.remove(&i.id, &i.name).unwrap();
    memory.host.assert_gone(&i);
    let contents = memory.host.roots.run.join("contents");
    assert_eq!(fs::read_dir(&contents).unwrap().count(), 0);

    // Delivered, and then the agent died: the container was never made.
    let orphan = memory.container("true", &files);
    let kept = memory.container("exec sleep 1000", &files);
    memory.host.start(&kept);
    memory.host.running(&kept);
    memory.host.runtime.sweep().unwrap();
    assert!(!memory.contents(&orphan).exists());
    assert_eq!(memory.seen(&kept, "/a"), "one");
    memory.host.runtime.stop(&kept.id, "SIGKILL", LONG).unwrap();
    memory.host.runtime.sweep().unwrap();
    assert!(memory.contents(&kept).exists(), "it may be started again");
    memory.host.runtime.remove(&kept.id, &kept.name).unwrap();
    assert_eq!(fs::read_dir(&contents).unwrap().count(), 0);
}

#[test]
fn nothing_of_a_secret_is_in_the_state_dir_or_the_bundle() {
    let memory = Memory::new();
    let files = [secret("key", "very-hidden-indeed")];
    let i = memory.container("exec sleep 1000", &files);
    memory.host.start(&i);
    assert_eq!(memory.seen(&i, "/run/secrets/key"), "very-hidden-indeed");
    let found = Command::new("grep")
        .args(["-rl", "very-hidden-indeed"])
        .args([&memory.host.roots.state, &memory.host.roots.run])
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let only = memory.contents(&i).join("secrets/key");
    assert_eq!(found.trim(), only.to_str().unwrap());
}
