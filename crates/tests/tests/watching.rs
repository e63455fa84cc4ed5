//! Changes are noticed without anybody asking: the full pass is ten minutes away, and every look at what became of a
//! change is one that does not read the directory (`wharf ps`, `wharf events`).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::Host;

const LONG: &str = "[agent]\nfull_pass = \"10m\"\nremoval_grace = \"2s\"\n";

/// No agent yet.
fn host() -> Host {
    let host = Host::new();
    fs::write(host.settings(), LONG).unwrap();
    host
}

/// An agent that has read what is there.
fn started() -> Host {
    let mut host = host();
    host.start_agent();
    host.converge();
    host
}

/// A table without a port: how it answers is not what is tested here.
fn table(host: &Host, name: &str, more: &str) -> String {
    format!("{}{more}\n", host.hello_table(name, &[]))
}

fn hostname(name: &str) -> String {
    format!("hostname = \"{name}\"")
}

/// Docker's rows, as `wharf ps -a --json` gives them: what the last pass saw, and no new one.
fn rows(host: &Host) -> Vec<Value> {
    let said = host.wharf(["ps", "-a", "--json"]).ok();
    serde_json::from_str(&said.stdout).unwrap()
}

fn running(host: &Host) -> Vec<String> {
    let rows = rows(host);
    let names = rows.iter().filter(|r| r["State"] == "running");
    names
        .map(|r| r["Names"][0].as_str().unwrap().trim_start_matches('/').to_owned())
        .collect()
}

/// Its id and what it is called inside.
fn inspect(host: &Host, name: &str) -> Option<(u64, String)> {
    let said = host.wharf(["inspect", name]);
    let value: Value = serde_json::from_str(&said.stdout).ok()?;
    let of = &value[0];
    let pid = of["State"]["Pid"].as_u64().filter(|p| *p > 0)?;
    Some((pid, of["Config"]["Hostname"].as_str()?.to_owned()))
}

#[track_caller]
fn until(host: &Host, what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "never noticed: {what}\n{:#?}\n{}",
            rows(host),
            host.log_tail(60)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn until_running(host: &Host, names: &[&str]) {
    until(host, &format!("{names:?} and nothing else"), || {
        running(host) == names && rows(host).len() == names.len()
    });
}

/// The container is called so inside: its definition was taken up.
#[track_caller]
fn until_called(host: &Host, name: &str, called: &str) {
    until(host, &format!("{name} is called {called}"), || {
        running(host).iter().any(|n| n == name)
            && inspect(host, name).is_some_and(|(_, hostname)| hostname == called)
    });
}

#[track_caller]
fn until_event(host: &Host, text: &str) {
    until(host, &format!("an event with {text:?}"), || {
        host.wharf(["events"]).ok().stdout.contains(text)
    });
}

fn swap(link: &Path, target: &str) {
    let fresh = link.with_file_name(".fresh-link");
    symlink(target, &fresh).unwrap();
    fs::rename(fresh, link).unwrap();
}

#[test]
fn files_written_renamed_in_edited_and_removed() {
    let host = started();
    host.write("a.toml", &table(&host, "a", ""));
    until_running(&host, &["a"]);
    host.write_renamed("b.toml", &table(&host, "b", ""));
    until_running(&host, &["a", "b"]);
    fs::write(host.dir().join("elsewhere"), table(&host, "c", "")).unwrap();
    fs::hard_link(host.dir().join("elsewhere"), host.config_dir().join("c.toml")).unwrap();
    until_running(&host, &["a", "b", "c"]);
    host.write("a.toml", &table(&host, "a", &hostname("edited")));
    until_called(&host, "a", "edited");
    host.write_renamed("b.toml", &table(&host, "b", &hostname("renamed")));
    until_called(&host, "b", "renamed");
    host.remove("a.toml");
    fs::rename(host.config_dir().join("b.toml"), host.config_dir().join("b.off")).unwrap();
    until_running(&host, &["c"]);
}

#[test]
fn a_mode_that_lets_others_write_and_its_mending() {
    let host = started();
    host.write("a.toml", &table(&host, "a", ""));
    until_running(&host, &["a"]);
    host.ns
        .sh(&format!("chmod 666 {}/a.toml", host.config_dir().display()));
    until_event(&host, "writable by everybody");
    assert_eq!(running(&host), ["a"], "it stays as last accepted");
    host.write("a.toml", &table(&host, "a", &hostname("mended")));
    host.ns
        .sh(&format!("chmod 644 {}/a.toml", host.config_dir().display()));
    until_called(&host, "a", "mended");
}

#[test]
fn a_symlinked_file_whose_target_is_edited_replaced_and_whose_link_is_swapped() {
    let host = host();
    let away = host.dir().join("away");
    fs::create_dir_all(away.join("one")).unwrap();
    fs::create_dir_all(away.join("two")).unwrap();
    let file = |dir: &str| away.join(dir).join("web.toml");
    fs::write(file("one"), table(&host, "web", &hostname("first"))).unwrap();
    fs::write(file("two"), table(&host, "web", &hostname("two"))).unwrap();
    symlink("one", away.join("current")).unwrap();
    let link = host.config_dir().join("web.toml");
    symlink(file("one"), &link).unwrap();
    let mut host = host;
    host.start_agent();
    until_called(&host, "web", "first");
    fs::write(file("one"), table(&host, "web", &hostname("edited"))).unwrap();
    until_called(&host, "web", "edited");
    fs::write(away.join("fresh"), table(&host, "web", &hostname("replaced"))).unwrap();
    fs::rename(away.join("fresh"), file("one")).unwrap();
    until_called(&host, "web", "replaced");
    swap(&link, file("two").to_str().unwrap());
    until_called(&host, "web", "two");
    // A link somewhere in the middle of the target's path.
    swap(&link, away.join("current/web.toml").to_str().unwrap());
    until_called(&host, "web", "replaced");
    swap(&away.join("current"), "two");
    until_called(&host, "web", "two");
    // A link that leads nowhere is an error, and its target's coming ends it.
    swap(&link, away.join("later/web.toml").to_str().unwrap());
    until_event(&host, "leads nowhere");
    fs::create_dir(away.join("later")).unwrap();
    fs::write(
        away.join("later/web.toml"),
        table(&host, "web", &hostname("later")),
    )
    .unwrap();
    until_called(&host, "web", "later");
}

#[test]
fn a_config_dir_that_is_a_symlink_and_one_below_a_symlink_swapped() {
    let host = host();
    let dir = host.dir().to_owned();
    for (tree, name) in [("v1", "one"), ("v2", "two"), ("v3", "three")] {
        fs::create_dir_all(dir.join(tree).join("conf.d")).unwrap();
        let file = dir.join(tree).join("conf.d/web.toml");
        fs::write(file, table(&host, "web", &hostname(name))).unwrap();
    }
    fs::remove_dir(host.config_dir()).unwrap();
    symlink("v1/conf.d", host.config_dir()).unwrap();
    let mut host = host;
    host.start_agent();
    until_called(&host, "web", "one");
    swap(&host.config_dir(), "v2/conf.d");
    until_called(&host, "web", "two");
    host.write("web.toml", &table(&host, "web", &hostname("edited")));
    until_called(&host, "web", "edited");
    // A link above it.
    symlink("v1", dir.join("active")).unwrap();
    swap(&host.config_dir(), "active/conf.d");
    until_called(&host, "web", "one");
    swap(&dir.join("active"), "v3");
    until_called(&host, "web", "three");
}

#[test]
fn a_kubernetes_like_data_swap() {
    let host = host();
    let dir = host.config_dir();
    let version = |n: &str, called: &str| {
        let at = dir.join(format!("..{n}"));
        fs::create_dir(&at).unwrap();
        fs::write(at.join("web.toml"), table(&host, "web", &hostname(called))).unwrap();
    };
    version("2026_01", "first");
    symlink("..2026_01", dir.join("..data")).unwrap();
    symlink("..data/web.toml", dir.join("web.toml")).unwrap();
    version("2026_02", "second");
    let mut host = host;
    host.start_agent();
    until_called(&host, "web", "first");
    swap(&dir.join("..data"), "..2026_02");
    until_called(&host, "web", "second");
    fs::remove_dir_all(dir.join("..2026_01")).unwrap();
    fs::write(
        dir.join("..2026_02/web.toml"),
        table(&host, "web", &hostname("in-place")),
    )
    .unwrap();
    until_called(&host, "web", "in-place");
}

#[test]
fn a_directory_removed_and_made_anew_and_replaced_by_rename() {
    let host = started();
    host.write("web.toml", &table(&host, "web", &hostname("first")));
    until_called(&host, "web", "first");
    let (pid, _) = inspect(&host, "web").unwrap();
    fs::remove_dir_all(host.config_dir()).unwrap();
    until_event(&host, "does not exist; nothing is removed");
    fs::create_dir(host.config_dir()).unwrap();
    until_event(&host, "another directory than before and holds no files");
    // Well over the removal grace, and still it runs: nothing may be concluded from an empty directory made anew.
    std::thread::sleep(Duration::from_secs(3));
    host.wharf(["reload"]).ok();
    assert_eq!(inspect(&host, "web").unwrap(), (pid, "first".to_owned()));
    assert_eq!(host.wharf(["status"]).code, 3, "it is an error");
    host.write("web.toml", &table(&host, "web", &hostname("second")));
    until_called(&host, "web", "second");
    let fresh = host.dir().join("fresh.d");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join("web.toml"), table(&host, "web", &hostname("third"))).unwrap();
    fs::write(fresh.join("two.toml"), table(&host, "two", "")).unwrap();
    fs::rename(host.config_dir(), host.dir().join("old.d")).unwrap();
    fs::rename(&fresh, host.config_dir()).unwrap();
    until_called(&host, "web", "third");
    until_running(&host, &["two", "web"]);
    // And the new one is watched, also for the last file's end: that is a wish again.
    host.write("web.toml", &table(&host, "web", &hostname("fourth")));
    until_called(&host, "web", "fourth");
    host.remove_all();
    until_running(&host, &[]);
}

#[test]
fn drop_ins_that_appear_are_edited_and_removed() {
    let host = started();
    host.write("web.toml", &table(&host, "web", &hostname("plain")));
    until_called(&host, "web", "plain");
    let drop_in = |called: &str| format!("[container.web]\n{}\n", hostname(called));
    for round in ["one", "two"] {
        host.write("web.toml.d/10.toml", &drop_in(round));
        until_called(&host, "web", round);
        host.write("web.toml.d/20.toml", &drop_in("stronger"));
        until_called(&host, "web", "stronger");
        let fresh = host.config_dir().join("web.toml.d/.20.swp");
        fs::write(&fresh, drop_in("edited")).unwrap();
        fs::rename(fresh, host.config_dir().join("web.toml.d/20.toml")).unwrap();
        until_called(&host, "web", "edited");
        host.remove("web.toml.d/20.toml");
        until_called(&host, "web", round);
        fs::remove_dir_all(host.config_dir().join("web.toml.d")).unwrap();
        until_called(&host, "web", "plain");
    }
}

#[test]
fn an_editors_save_keeps_the_container() {
    let mut host = host();
    // Longer than the replacement of a container takes on however busy a machine: that is done while the file is away.
    fs::write(host.settings(), LONG.replace("\"2s\"", "\"20s\"")).unwrap();
    host.start_agent();
    host.converge();
    let text = table(&host, "web", "");
    host.write("web.toml", &text);
    host.write("mark.toml", &table(&host, "mark", ""));
    until_running(&host, &["mark", "web"]);
    let (pid, _) = inspect(&host, "web").unwrap();
    let saved = |n: &str| {
        // What comes after it is taken up, so the save was.
        host.write("mark.toml", &table(&host, "mark", &hostname(n)));
        until_called(&host, "mark", n);
        assert_eq!(inspect(&host, "web").map(|(pid, _)| pid), Some(pid), "{n}");
    };
    // vim with a backup: the file moved away, then written anew, then the backup removed.
    let path = |name: &str| host.config_dir().join(name);
    fs::rename(path("web.toml"), path("web.toml~")).unwrap();
    host.write("web.toml", &format!("# vim\n{text}"));
    fs::remove_file(path("web.toml~")).unwrap();
    saved("vim");
    host.write_renamed("web.toml", &format!("# renamed over\n{text}"));
    saved("renamed");
    // Removed, seen as removed, and back within the grace.
    host.remove("web.toml");
    saved("removed");
    host.write("web.toml", &format!("# back\n{text}"));
    saved("back");
    // It is not removed when that time is over.
    std::thread::sleep(Duration::from_secs(21));
    saved("later");
}

#[test]
fn a_git_checkout_of_another_branch() {
    let host = started();
    let git = |line: &str| {
        let out = Command::new("bash")
            .args(["-euc", line])
            .current_dir(host.config_dir())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    };
    let commit = "git add . && git -c user.name=t -c user.email=t@example.org commit -qm .";
    git("git init -q -b one .");
    host.write("same.toml", &table(&host, "same", ""));
    host.write("web.toml", &table(&host, "web", &hostname("one")));
    host.write("only.toml", &table(&host, "only", ""));
    git(commit);
    until_running(&host, &["only", "same", "web"]);
    let (same, _) = inspect(&host, "same").unwrap();
    git("git checkout -qb two && git rm -q only.toml");
    host.write("web.toml", &table(&host, "web", &hostname("two")));
    host.write("new.toml", &table(&host, "new", ""));
    git(commit);
    until_called(&host, "web", "two");
    until_running(&host, &["new", "same", "web"]);
    git("git checkout -q one");
    until_called(&host, "web", "one");
    until_running(&host, &["only", "same", "web"]);
    assert_eq!(inspect(&host, "same").unwrap().0, same);
}

#[test]
fn a_config_dir_that_does_not_exist_yet() {
    let host = host();
    fs::remove_dir(host.config_dir()).unwrap();
    let real = host.dir().join("not/there/yet");
    symlink("not/there/yet", host.config_dir()).unwrap();
    let mut host = host;
    host.start_agent();
    until_event(&host, "does not exist");
    fs::create_dir(host.dir().join("not")).unwrap();
    fs::create_dir_all(&real).unwrap();
    fs::write(real.join("web.toml"), table(&host, "web", "")).unwrap();
    until_running(&host, &["web"]);
}

#[test]
fn many_files_at_once_in_a_directory_made_just_before() {
    let host = started();
    for round in 0..5 {
        let dir = host.config_dir();
        fs::remove_dir_all(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        host.write("web.toml", &table(&host, "web", &hostname(&format!("r{round}"))));
        until_called(&host, "web", &format!("r{round}"));
    }
}

#[test]
fn reload_and_sighup_look_at_everything() {
    let mut host = Host::new();
    let path = host.config_dir().join("web.toml");
    fs::write(host.settings(), LONG).unwrap();
    host.start_agent();
    host.write("web.toml", &table(&host, "web", ""));
    until_running(&host, &["web"]);
    // Written through a mapping or not closed yet: nobody tells, and that is what a reload is for.
    let mut open = fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut open, hostname("reloaded").as_bytes()).unwrap();
    host.wharf(["reload"]).ok();
    until_called(&host, "web", "reloaded");
    std::io::Write::write_all(&mut open, b"\nlabels = { by = \"hangup\" }\n").unwrap();
    kill(Pid::from_raw(host.agent_pid().unwrap() as i32), Signal::SIGHUP).unwrap();
    until(&host, "the label", || {
        rows(&host).iter().any(|r| r["Labels"]["by"] == "hangup")
    });
}

/// Who names what the agent does not know has perhaps written it a moment ago.
#[test]
fn for_an_unknown_name_the_files_are_read_again() {
    let mut host = Host::new();
    fs::write(host.settings(), LONG).unwrap();
    host.start_agent();
    host.write("web.toml", &table(&host, "web", ""));
    until_running(&host, &["web"]);
    // Not closed yet: nobody tells of it.
    let path = host.config_dir().join("web.toml");
    let mut open = fs::OpenOptions::new().append(true).open(path).unwrap();
    let said = host.wharf(["inspect", "late"]);
    assert!(said.code == 1 && said.stderr.contains("late"), "{said:?}");
    std::io::Write::write_all(&mut open, table(&host, "late", "").as_bytes()).unwrap();
    let said = host.wharf(["inspect", "late"]).ok();
    assert!(said.stdout.contains("\"/late\""), "{said:?}");
    until_running(&host, &["late", "web"]);
    host.wharf(["logs", "late"]).ok();
}
