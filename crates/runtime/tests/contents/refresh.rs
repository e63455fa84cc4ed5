//! Exchanging them in running containers.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use model::observed::Phase;
use model::spec::RuntimeChoice;
use runtime::error::RuntimeError;

use super::*;
use crate::shimhost::{compile, kill};

/// Reads both files for ever. Each holds one number, of 8 digits, over and over; it says what is wrong and ends, or when
/// it is told to, that it saw nothing wrong. Numbers may go back if it is told so.
const READER: &str = r#"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static volatile sig_atomic_t over;
static void end(int s) { (void)s; over = 1; }
static char text[1 << 20];
static long look(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) { perror(path); exit(10); }
    long have = 0, got;
    while ((got = read(fd, text + have, sizeof text - have)) > 0) have += got;
    close(fd);
    if (got < 0) { perror(path); exit(11); }
    if (have != 80000) { printf("%s: %ld bytes\n", path, have); exit(12); }
    for (long at = 8; at < have; at += 8)
        if (memcmp(text, text + at, 8)) { printf("%s: a mixture\n", path); exit(13); }
    text[8] = 0;
    return atol(text);
}
int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IONBF, 0);
    signal(SIGTERM, end);
    long config = 0, secret = 0, reads = 0, changes = 0;
    printf("reading\n");
    while (!over) {
        long now = look("/etc/app.conf");
        if (now < config && argc == 1) { printf("back from %ld to %ld\n", config, now); return 14; }
        changes += now != config;
        config = now;
        now = look("/run/secrets/key");
        if (now < secret) { printf("secret back from %ld to %ld\n", secret, now); return 15; }
        secret = now;
        reads++;
    }
    printf("%ld reads, %ld versions, last %ld\n", reads, changes, config);
    return 0;
}
"#;

fn version(number: usize) -> [File; 2] {
    let text = format!("{number:08}").repeat(10_000);
    [config("app", "/etc/app.conf", &text), secret("key", &text)]
}

/// Exchanges them so many times under a reader; gives how many mounts lay there at most.
fn under_a_reader(times: usize, beneath: bool, change: impl FnOnce(&mut Instance)) -> usize {
    let memory = Memory::new();
    let mut i = memory.container("", &version(1));
    i.spec.restart.policy = RestartPolicy::No;
    let lower = i.image.layers[0].clone();
    compile(READER, &lower.join("reader"));
    let mut command = vec!["/reader".to_owned()];
    command.extend((!beneath).then(|| "back".to_owned()));
    i.spec.command = Some(command);
    change(&mut i);
    memory.host.start(&i);
    memory.until_said(&i, 1);
    let hosts = own_mounts();
    let mut most = 0;
    let mut took = Vec::new();
    for number in 2..=times {
        memory.deliver(&i, &version(number));
        let began = Instant::now();
        let exchanged = memory.host.runtime.refresh_as(&i.id, beneath);
        took.push(began.elapsed());
        assert_eq!(exchanged.unwrap(), 1, "version {number}: {:?}", memory.said(&i));
        assert!(
            memory
                .seen(&i, "/etc/app.conf")
                .starts_with(&format!("{number:08}"))
        );
        let mounts = memory.mounts(&i, "/etc/app.conf").1;
        most = most.max(mounts);
        let old = fs::read_dir(memory.contents(&i).join("old")).unwrap().count();
        assert_eq!(old + 1, mounts, "a file for each mount, and no other");
    }
    took.sort();
    println!(
        "an exchange takes {:?}, at best {:?}",
        took[took.len() / 2],
        took[0]
    );
    assert_eq!(memory.host.runtime.refresh_as(&i.id, beneath).unwrap(), 0);
    assert_eq!(own_mounts(), hosts, "nothing is mounted on the host");
    let (options, _) = memory.mounts(&i, "/etc/app.conf");
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.iter().any(|o| o == option), "{options:?}");
    }
    let tied = |o: &String| o.contains(':');
    assert!(!options.iter().any(tied), "tied to no other mount: {options:?}");
    memory.host.runtime.stop(&i.id, "SIGTERM", LONG).unwrap();
    let exit = memory.host.look(&i).last_exit.unwrap();
    let said = memory.said(&i);
    assert_eq!((exit.code, exit.signal), (0, None), "{said:?}");
    println!("{}", said.last().unwrap());
    // A new run has one mount and needs no old file.
    memory.host.start(&i);
    memory.until_said(&i, said.len() + 1);
    assert_eq!(memory.mounts(&i, "/etc/app.conf").1, 1);
    memory.deliver(&i, &version(times + 1));
    memory.host.runtime.refresh_as(&i.id, beneath).unwrap();
    let old = fs::read_dir(memory.contents(&i).join("old")).unwrap().count();
    assert_eq!(old, usize::from(!beneath || !can_put_beneath()));
    most
}

/// MOVE_MOUNT_BENEATH came with Linux 6.5.
fn can_put_beneath() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 5)
}

#[test]
fn a_reader_always_has_a_whole_file_and_never_an_older_one() {
    let most = under_a_reader(60, true, |_| ());
    assert!(!can_put_beneath() || most == 1, "{most} mounts pile up");
}

#[test]
fn a_reader_has_a_whole_file_where_mounts_can_only_be_put_on_top() {
    let most = under_a_reader(140, false, |_| ());
    assert!((60..=64).contains(&most), "{most} mounts pile up");
}

#[test]
fn a_reader_under_an_external_runtime_has_a_whole_file_too() {
    for runtime in ["crun", "runc"] {
        under_a_reader(10, true, |i| {
            i.spec.runtime = RuntimeChoice::External(runtime.to_owned());
            i.spec.read_only = true;
        });
    }
}

#[test]
fn under_an_init_and_a_read_only_root_it_is_the_same() {
    under_a_reader(5, true, |i| {
        i.spec.init = true;
        i.spec.read_only = true;
        i.spec.user = Some("0:0".to_owned());
    });
}

/// Exchanges the config of a container, and is killed when the new mount is there and the old one still on top.
fn cut_off(memory: &Memory, i: &Instance) {
    let payload = memory.host.state(i).payload.unwrap();
    let request = serde_json::json!({
        "payload": { "pid": payload.pid, "start": payload.start },
        "files": [{
            "source": memory.contents(i).join("configs/app"),
            "target": "/etc/app.conf",
            "attributes": 7,
        }],
        "beneath": true,
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_runtime-testbin"))
        .arg("refresh-half")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(&request).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let output = child.wait_with_output().unwrap();
    if can_put_beneath() {
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
    }
}

#[test]
fn one_that_was_cut_off_is_completed_by_the_next() {
    let memory = Memory::new();
    let i = memory.container("exec sleep 1000", &[config("app", "/etc/app.conf", "1")]);
    memory.host.start(&i);
    let refresh = || memory.host.runtime.refresh_contents(&i.id).unwrap();
    let old = || fs::read_dir(memory.contents(&i).join("old")).unwrap().count();
    for round in 0..4 {
        // Once with nothing changed since, once with another version delivered.
        for text in [format!("{round} a"), format!("{round} b")] {
            memory.deliver(&i, &[config("app", "/etc/app.conf", &text)]);
            cut_off(&memory, &i);
            if round % 2 == 0 {
                refresh();
                assert_eq!(memory.seen(&i, "/etc/app.conf"), text);
            }
        }
        refresh();
        assert_eq!(memory.seen(&i, "/etc/app.conf"), format!("{round} b"));
        if can_put_beneath() && round == 0 {
            assert_eq!((memory.mounts(&i, "/etc/app.conf").1, old()), (1, 0));
        }
        memory.deliver(&i, &[config("app", "/etc/app.conf", &format!("{round} c"))]);
        assert_eq!(refresh(), 1);
        assert_eq!(memory.seen(&i, "/etc/app.conf"), format!("{round} c"));
        assert_eq!(refresh(), 0);
    }
    assert!(old() < 8, "{} old files", old());
}

#[test]
fn whatever_way_mounts_were_exchanged_before_the_newest_is_seen() {
    let memory = Memory::new();
    let i = memory.container("exec sleep 1000", &[config("app", "/etc/app.conf", "1")]);
    memory.host.start(&i);
    for (number, beneath) in [false, false, true, false, true, true, false]
        .into_iter()
        .enumerate()
    {
        let text = format!("version {number}");
        memory.deliver(&i, &[config("app", "/etc/app.conf", &text)]);
        assert_eq!(memory.host.runtime.refresh_as(&i.id, beneath).unwrap(), 1);
        assert_eq!(memory.seen(&i, "/etc/app.conf"), text);
    }
    kill(memory.host.state(&i).payload.unwrap());
    memory.host.until(&i, "the next run", |seen| {
        seen.run_no == 2 && matches!(seen.phase, Phase::Running { .. })
    });
    assert_eq!(memory.seen(&i, "/etc/app.conf"), "version 6");
    assert_eq!(
        memory.mounts(&i, "/etc/app.conf").1,
        1,
        "a run begins with one mount"
    );
}

#[test]
fn every_run_that_begins_or_goes_on_after_a_refresh_has_the_new_file() {
    let memory = Memory::new();
    let file = |n: usize| [config("app", "/etc/app.conf", &format!("{n}\n"))];
    // Runs that end at once, so that a refresh meets them in every state.
    let mut i = memory.container("cat /etc/app.conf; usleep 3000; cat /etc/app.conf", &file(0));
    i.spec.restart.backoff_max = Duration::from_millis(2);
    memory.host.start(&i);
    memory.until_said(&i, 2);
    for number in 1..=25 {
        memory.deliver(&i, &file(number));
        memory.host.runtime.refresh_contents(&i.id).unwrap();
        let run = memory.host.state(&i).run_no;
        let told = memory.said(&i).len();
        memory
            .host
            .until(&i, "two runs more", |seen| seen.run_no >= run + 2);
        // What was read before this is at most what one look takes, and what it had read already.
        let said = memory.said(&i);
        let late: Vec<&String> = said[told..].iter().skip(2).collect();
        let wrong = late.iter().any(|line| **line != number.to_string());
        assert!(!wrong, "after version {number}: {late:?}");
    }
}

#[test]
fn one_that_is_paused_sees_it_when_it_goes_on_and_one_that_ended_in_its_next_run() {
    let memory = Memory::new();
    let file = |text: &str| [config("app", "/etc/app.conf", text), secret("key", text)];
    let mut i = memory.container(
        "trap 'cat /etc/app.conf /run/secrets/key; echo' HUP; echo up; while :; do sleep 0.01; done",
        &file("old"),
    );
    i.spec.restart.policy = RestartPolicy::No;
    memory.host.start(&i);
    memory.until_said(&i, 1);
    memory.host.runtime.pause(&i.id).unwrap();
    memory.deliver(&i, &file("new"));
    assert_eq!(memory.host.runtime.refresh_contents(&i.id).unwrap(), 1);
    assert!(memory.host.runtime.signal(&i.id, 1, "SIGHUP").unwrap());
    memory.host.runtime.unpause(&i.id).unwrap();
    assert_eq!(memory.until_said(&i, 2)[1], "newnew");
    memory.host.runtime.stop(&i.id, "SIGKILL", LONG).unwrap();
    memory.deliver(&i, &file("newer"));
    assert_eq!(memory.host.runtime.refresh_contents(&i.id).unwrap(), 0);
    memory.host.start(&i);
    assert_eq!(memory.seen(&i, "/etc/app.conf"), "newer");
    assert_eq!(memory.seen(&i, "/run/secrets/key"), "newer");
    let unknown = instance_of(&memory);
    assert_eq!(memory.host.runtime.refresh_contents(&unknown.id).unwrap(), 0);
}

fn instance_of(memory: &Memory) -> Instance {
    busybox(&memory.host, "unknown", "true")
}

#[test]
fn a_directory_of_secrets_made_anew_is_seen_again() {
    let memory = Memory::new();
    let i = memory.container("exec sleep 1000", &[secret("key", "one")]);
    memory.host.start(&i);
    assert_eq!(memory.seen(&i, "/run/secrets/key"), "one");
    fs::remove_dir_all(memory.contents(&i)).unwrap();
    memory.deliver(&i, &[secret("key", "two")]);
    assert_eq!(memory.host.runtime.refresh_contents(&i.id).unwrap(), 1);
    assert_eq!(memory.seen(&i, "/run/secrets/key"), "two");
    let (options, _) = memory.mounts(&i, "/run/secrets");
    assert!(options.iter().any(|o| o == "noexec"), "{options:?}");
}

#[test]
fn whatever_a_container_makes_of_the_path_nothing_outside_is_touched() {
    let memory = Memory::new();
    let outside = memory.run.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("app.conf"), "the host's").unwrap();
    let shown = outside.display().to_string();
    for (link, beneath) in [
        (shown.clone(), true),
        (format!("../../../../../../..{shown}"), false),
        ("/proc/1/root/tmp".to_owned(), true),
        ("/proc/self/cwd".to_owned(), true),
        ("loop".to_owned(), false),
    ] {
        let script = format!(
            "mv /etc/app /etc/was; ln -s {link} /etc/app; ln -s loop /etc/loop; mkdir -p {shown}; \
             echo own > {shown}/app.conf; echo done; exec sleep 1000"
        );
        let i = memory.container(&script, &[config("app", "/etc/app/app.conf", "old")]);
        memory.host.start(&i);
        memory.until_said(&i, 1);
        let hosts = own_mounts();
        memory.deliver(&i, &[config("app", "/etc/app/app.conf", "new")]);
        match memory.host.runtime.refresh_as(&i.id, beneath) {
            // Inside, where the link leads to there.
            Ok(1) => assert_eq!(memory.seen(&i, &format!("{shown}/app.conf")), "new", "{link}"),
            Ok(other) => panic!("{link}: {other} were exchanged"),
            Err(RuntimeError::Contents { why, .. }) => {
                assert!(!link.contains("outside"), "{link}: {why}");
                assert!(why.contains("/etc/app/app.conf"), "{why}");
            }
            Err(e) => panic!("{link}: {e}"),
        }
        assert_eq!(
            memory.seen(&i, "/etc/was/app.conf"),
            "old",
            "moved away by its own doing"
        );
        assert_eq!(
            fs::read_to_string(outside.join("app.conf")).unwrap(),
            "the host's"
        );
        assert_eq!(own_mounts(), hosts, "nothing is mounted on the host");
        memory.host.runtime.remove(&i.id, &i.name).unwrap();
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn an_image_cannot_have_them_put_outside_either() {
    let memory = Memory::new();
    let outside = memory.run.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let i = memory.container("exec sleep 1000", &[config("app", "/conf/app.conf", "inside")]);
    let root = i.image.layers[0].clone();
    symlink(&outside, root.join("conf")).unwrap();
    memory.host.start(&i);
    let shown = outside.display();
    assert_eq!(memory.seen(&i, &format!("{shown}/app.conf")), "inside");
    memory.deliver(&i, &[config("app", "/conf/app.conf", "again")]);
    assert_eq!(memory.host.runtime.refresh_contents(&i.id).unwrap(), 1);
    assert_eq!(memory.seen(&i, &format!("{shown}/app.conf")), "again");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_signal_and_a_restart_are_about_one_run() {
    let memory = Memory::new();
    let i = memory.container(
        "trap 'echo told' HUP; echo up; while :; do sleep 0.01; done",
        &[config("app", "/etc/app.conf", "")],
    );
    memory.host.start(&i);
    memory.until_said(&i, 1);
    let runtime = &memory.host.runtime;
    assert!(runtime.signal(&i.id, 1, "SIGHUP").unwrap());
    assert_eq!(memory.until_said(&i, 2)[1], "told");
    assert!(runtime.signal(&i.id, 1, "SIGNOTHING").is_err());
    assert!(!runtime.signal(&i.id, 7, "SIGKILL").unwrap());
    assert!(!runtime.restart_run(&i.id, 7, "SIGKILL", LONG).unwrap());
    for text in ["one", "two"] {
        memory.deliver(&i, &[config("app", "/etc/app.conf", text)]);
    }
    assert!(memory.contents(&i).join("old/app.2").exists());
    assert!(runtime.restart_run(&i.id, 1, "SIGKILL", LONG).unwrap());
    assert_eq!(memory.seen(&i, "/etc/app.conf"), "two");
    assert!(
        !memory.contents(&i).join("old").exists(),
        "nobody has the old ones any more"
    );
    let seen = memory.host.look(&i);
    assert_eq!((seen.run_no, seen.restarts), (2, 0), "it is no crash");
    assert!(!runtime.restart_run(&i.id, 1, "SIGKILL", LONG).unwrap());
    assert!(!runtime.signal(&i.id, 1, "SIGKILL").unwrap());
    assert_eq!(memory.host.look(&i).run_no, 2);
    runtime.stop(&i.id, "SIGKILL", LONG).unwrap();
    assert!(!runtime.signal(&i.id, 2, "SIGHUP").unwrap());
    assert!(!runtime.restart_run(&i.id, 2, "SIGKILL", LONG).unwrap());
}
