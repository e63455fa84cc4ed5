//! What is read, refused, and told apart.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use model::content::ContentKey;
use model::observed::Look;
use model::paths::Roots;
use model::spec::FileSource;

use super::*;

fn contents(dir: &Path) -> Contents {
    let roots = Roots {
        state: dir.join("state"),
        run: dir.join("run"),
    };
    fs::create_dir_all(&roots.run).unwrap();
    Contents::open(&roots).unwrap()
}

fn look(contents: &Contents, key: &str, source: FileSource) -> Look<String> {
    let key: ContentKey = key.parse().unwrap();
    contents.set_sources([(key.clone(), source)].into());
    contents.look()[&key].clone()
}

fn why(look: Look<String>) -> String {
    match look {
        Look::Unknown(why) => why,
        Look::Known(known) => panic!("it was read: {known}"),
    }
}

#[test]
fn a_file_is_known_by_its_content_however_it_came_there() {
    let dir = tempfile::tempdir().unwrap();
    let contents = contents(dir.path());
    let path = dir.path().join("x.conf");
    let read = || look(&contents, "config x", FileSource::File(path.clone()));
    fs::write(&path, "one").unwrap();
    let one = read();
    assert!(one.known().unwrap().starts_with("sha256:"));
    fs::write(&path, "two").unwrap();
    let two = read();
    assert_ne!(two, one, "the same length, the same inode, the same moment");
    fs::write(dir.path().join("other"), "one").unwrap();
    fs::rename(dir.path().join("other"), &path).unwrap();
    assert_eq!(read(), one);
    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("behind"), "two").unwrap();
    symlink("behind", &path).unwrap();
    assert_eq!(read(), two);
}

#[test]
fn a_secret_is_told_apart_by_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let contents = contents(dir.path());
    let source = || FileSource::Content("hunter2".to_owned());
    let public = look(&contents, "config x", source());
    let secret = look(&contents, "secret x", source());
    let hash = |l: &Look<String>| l.known().unwrap().split_once(':').unwrap().1.to_owned();
    assert_ne!(hash(&public), hash(&secret));
    assert_eq!(secret, look(&contents, "secret x", source()));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = look(&self::contents(elsewhere.path()), "secret x", source());
    assert_ne!(hash(&secret), hash(&other));
}

#[test]
fn what_cannot_be_had_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let contents = contents(dir.path());
    let path = dir.path().join("x");
    let file = || why(look(&contents, "config x", FileSource::File(path.clone())));
    assert!(file().contains("does not exist; make it"), "{}", file());
    fs::File::create(&path).unwrap().set_len((1 << 20) + 1).unwrap();
    assert!(file().contains("too large: at most 1048576 bytes"), "{}", file());
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(file().contains("no regular file"), "{}", file());
    let env = FileSource::Env("WHARF_TEST_NO_SUCH_VARIABLE".to_owned());
    assert!(why(look(&contents, "secret x", env)).contains("has no WHARF_TEST_NO_SUCH_VARIABLE; set it"));
    let credential = FileSource::Credential("none-such".to_owned());
    assert!(why(look(&contents, "secret x", credential)).contains("LoadCredential=none-such:"));
}

#[test]
fn notes_outlive_the_agent_and_go_with_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let id = ContainerId::from_bytes([7; 32]);
    let first = contents(dir.path());
    let state = |bytes: &str| ContentState {
        fingerprint: keyed::plain(bytes.as_bytes()),
        file: None,
    };
    let states = |of_b: &str| -> BTreeMap<ContentKey, ContentState> {
        let all = [("config a", "one"), ("config b", of_b)];
        all.map(|(key, bytes)| (key.parse().unwrap(), state(bytes)))
            .into()
    };
    let hosts = |ip: &str| vec![format!("{ip}\tdb")];
    first
        .note(&id, states("one"), hosts("10.0.0.2"), Some(3))
        .unwrap();
    first.doubt(&id, &states("one"), &hosts("10.0.0.2")).unwrap();
    let second = contents(dir.path());
    assert_eq!(second.delivered()[&id].outdated_run, Some(3));
    assert_eq!(second.delivered()[&id].files, states("one"));
    assert_eq!(second.delivered()[&id].hosts, hosts("10.0.0.2"));
    second.doubt(&id, &states("two"), &hosts("10.0.0.3")).unwrap();
    let third = contents(dir.path());
    let known: Vec<String> = third.delivered()[&id]
        .files
        .keys()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        known,
        ["config a"],
        "what is about to change is not what was noted any more"
    );
    assert!(third.delivered()[&id].hosts.is_empty());
    second.forget(&id).unwrap();
    assert!(second.delivered().is_empty());
    fs::write(dir.path().join(format!("run/delivered/{id}.json")), "{").unwrap();
    assert!(contents(dir.path()).delivered().is_empty());
}
