//! Configs, secrets and environment files: a change of their content acts at once, as their tables say.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use model::status::ContainerStatus;
use tests::Host;

/// Says what it begins with, and on SIGHUP what it sees then.
const PROGRAM: &str = "trap 'echo told: $(cat /etc/app.conf)' HUP; trap 'exit 0' TERM; \
                       echo begun: $(cat /etc/app.conf); while :; do sleep 1 & wait $!; done";

const WAYS: [(&str, &str); 4] = [
    ("anew", "restart"),
    ("told", "signal:HUP"),
    ("other", "replace"),
    ("quiet", "none"),
];

/// A container for each way a change may act, all with the content of one file.
fn all_ways(file: &Path) -> (Host, Vec<ContainerStatus>) {
    let mut host = Host::new();
    let image = host.busybox_image();
    for (name, on_change) in WAYS {
        let text = format!(
            "[container.{name}]\nimage = {image:?}\ncommand = ['sh', '-c', {PROGRAM:?}]\nconfigs = ['{name}']\n\
             stop_grace_period = '2s'\n\
             [config.{name}]\nfile = {file:?}\ntarget = '/etc/app.conf'\non_change = '{on_change}'\n"
        );
        host.write(&format!("{name}.toml"), &text);
    }
    host.start_agent();
    let status = host.converge();
    // Running is not yet having read it, nor having a trap for the signal.
    for (name, _) in WAYS {
        log_with(&host, name, "begun: one");
    }
    (host, status.containers)
}

fn of<'a>(all: &'a [ContainerStatus], name: &str) -> &'a ContainerStatus {
    all.iter().find(|c| c.name == name).unwrap()
}

fn inside(host: &Host, name: &str, path: &str) -> String {
    let said = host.wharf(["exec", name, "cat", path]);
    said.ok().stdout.trim().to_owned()
}

/// The lines of a container's log, once `wanted` is among them.
fn log_with(host: &Host, name: &str, wanted: &str) -> String {
    let read = || host.wharf(["logs", name]).stdout;
    host.until(&format!("{wanted:?} in the log of {name}"), |_| {
        read().lines().any(|line| line.ends_with(wanted))
    });
    read()
}

/// Every container has that content, in the way it should.
fn followed(host: &Host, before: &[ContainerStatus], content: &str) -> Vec<ContainerStatus> {
    let after = host.converge().containers;
    for (name, _) in WAYS {
        assert_eq!(inside(host, name, "/etc/app.conf"), content, "{name}");
        assert_eq!(of(&after, name).restarts, 0, "{name} did not crash");
    }
    let kept = |name: &str| {
        let (a, b) = (of(before, name), of(&after, name));
        (a.id == b.id, a.pid == b.pid)
    };
    assert_eq!(kept("anew"), (true, false), "begun anew, and the same");
    assert_eq!(kept("told"), (true, true));
    assert_eq!(kept("other"), (false, false));
    assert_eq!(kept("quiet"), (true, true));
    log_with(host, "anew", &format!("begun: {content}"));
    log_with(host, "told", &format!("told: {content}"));
    assert!(!log_with(host, "quiet", "begun: one").contains("told:"));
    after
}

#[test]
fn a_changed_config_acts_as_its_table_says_however_it_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.conf");
    fs::write(&file, "one").unwrap();
    let (host, first) = all_ways(&file);
    for (name, _) in WAYS {
        assert_eq!(inside(&host, name, "/etc/app.conf"), "one");
    }
    // As an editor does.
    fs::write(dir.path().join(".app.conf.new"), "two").unwrap();
    fs::rename(dir.path().join(".app.conf.new"), &file).unwrap();
    let second = followed(&host, &first, "two");
    // As `>` does.
    fs::write(&file, "three").unwrap();
    let third = followed(&host, &second, "three");
    // The same bytes are no change.
    fs::write(&file, "three").unwrap();
    let same = host.converge().containers;
    let pids = |all: &[ContainerStatus]| -> Vec<Option<u32>> { all.iter().map(|c| c.pid).collect() };
    assert_eq!(pids(&same), pids(&third));
}

#[test]
fn a_config_behind_links_is_followed_when_a_link_is_swapped() {
    let dir = tempfile::tempdir().unwrap();
    for (release, content) in [("1", "one"), ("2", "two")] {
        fs::create_dir_all(dir.path().join(release)).unwrap();
        fs::write(dir.path().join(release).join("app.conf"), content).unwrap();
    }
    symlink("1", dir.path().join("current")).unwrap();
    let (host, first) = all_ways(&dir.path().join("current/app.conf"));
    symlink("2", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), dir.path().join("current")).unwrap();
    followed(&host, &first, "two");
}

#[test]
fn nobody_has_to_ask_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.conf");
    fs::write(&file, "one").unwrap();
    let (host, _) = all_ways(&file);
    fs::write(&file, "two").unwrap();
    log_with(&host, "told", "told: two");
    log_with(&host, "anew", "begun: two");
    log_with(&host, "other", "begun: two");
}

#[test]
fn an_agent_that_was_killed_goes_on_with_what_was_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.conf");
    fs::write(&file, "one").unwrap();
    let (mut host, first) = all_ways(&file);
    host.kill_agent();
    host.start_agent();
    let again = host.converge().containers;
    for (name, _) in WAYS {
        assert_eq!(of(&first, name).pid, of(&again, name).pid, "{name}");
    }
    host.kill_agent();
    fs::write(&file, "two").unwrap();
    host.start_agent();
    followed(&host, &first, "two");
}

#[test]
fn what_a_table_says_itself_and_its_mode_are_followed_as_well() {
    let mut host = Host::new();
    let image = host.busybox_image();
    let write = |host: &Host, content: &str, more: &str| {
        host.write(
            "web.toml",
            &format!(
                "[container.web]\nimage = {image:?}\ncommand = ['sleep', '1000']\nstop_grace_period = '0s'\n\
                 configs = ['app.conf']\n[config.'app.conf']\ncontent = '''{content}'''\n\
                 on_change = 'none'\n{more}"
            ),
        );
    };
    write(&host, "one", "");
    host.start_agent();
    let first = of(&host.converge().containers, "web").clone();
    assert_eq!(inside(&host, "web", "/app.conf"), "one");
    write(&host, "two", "mode = '0640'\nuid = 7\ngid = 8\n");
    let second = of(&host.converge().containers, "web").clone();
    assert_eq!(inside(&host, "web", "/app.conf"), "two");
    let owner = host.wharf(["exec", "web", "stat", "-c", "%a %u %g", "/app.conf"]);
    assert_eq!(owner.ok().stdout.trim(), "640 7 8");
    assert_eq!((&first.id, first.pid), (&second.id, second.pid));
    write(&host, "two", "target = '/etc/other.conf'\n");
    let third = of(&host.converge().containers, "web").clone();
    assert_ne!(third.id, second.id, "another place takes another container");
    assert_eq!(inside(&host, "web", "/etc/other.conf"), "two");
}

/// Every file below a directory that holds these bytes.
fn holding(dir: &Path, bytes: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holding(&path, bytes));
        } else if kind.is_file() && fs::read(&path).is_ok_and(|all| contains(&all, bytes)) {
            found.push(path);
        }
    }
    found
}

fn contains(all: &[u8], bytes: &str) -> bool {
    all.windows(bytes.len()).any(|part| part == bytes.as_bytes())
}

/// Whether any process of the machine was called with it.
fn called_with(bytes: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.map(|entry| entry.path().join("cmdline"))
        .any(|path| fs::read(path).is_ok_and(|line| contains(&line, bytes)))
}

#[test]
fn a_secret_is_where_it_should_be_and_nowhere_else() {
    let mut host = Host::new();
    let image = host.busybox_image();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    // Nobody's word, in no other test.
    let secret = |n: u32| format!("correct-horse-{}-{n}", std::process::id());
    fs::write(&file, secret(1)).unwrap();
    host.write(
        "web.toml",
        &format!(
            "[container.web]\nimage = {image:?}\ncommand = ['sleep', '1000']\nstop_grace_period = '0s'\n\
             secrets = ['tls_key', 'own']\n\
             [secret.tls_key]\nfile = {file:?}\non_change = 'none'\n\
             [secret.own]\nfile = {file:?}\nmode = '0440'\nuid = 101\ngid = 102\non_change = 'none'\n"
        ),
    );
    host.start_agent();
    host.converge();
    fs::write(&file, secret(2)).unwrap();
    host.until("the new secret inside", |_| {
        inside(&host, "web", "/run/secrets/tls_key") == secret(2)
    });
    let owners = host.wharf(["exec", "web", "sh", "-c", "stat -c '%a %u %g' /run/secrets/*"]);
    assert_eq!(owners.ok().stdout, "440 101 102\n400 0 0\n");
    let refused = host.wharf(["exec", "web", "sh", "-c", "echo x >/run/secrets/tls_key"]);
    assert_ne!(refused.code, 0, "it is read-only: {refused:?}");
    let said = ["inspect web", "status --json", "plan --json", "events", "ps"];
    for n in [1, 2] {
        assert_eq!(holding(&host.state_dir(), &secret(n)), [""; 0].map(PathBuf::from));
        assert!(!host.log().contains(&secret(n)), "the agent's log");
        assert!(!called_with(&secret(n)), "a command line");
        for command in said {
            let said = host.wharf(command.split(' ')).ok();
            assert!(!said.stdout.contains(&secret(n)), "wharf {command}");
        }
    }
    assert_eq!(holding(&host.run_dir(), &secret(1)), [""; 0].map(PathBuf::from));
    let delivered = holding(&host.run_dir(), &secret(2));
    assert_eq!(delivered.len(), 2, "one file each: {delivered:?}");
    host.remove_all();
    host.until("all gone", |s| s.containers.is_empty());
    assert_eq!(holding(&host.run_dir(), &secret(2)), [""; 0].map(PathBuf::from));
}

#[test]
fn a_changed_environment_file_makes_another_container() {
    let mut host = Host::new();
    let image = host.busybox_image();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.env");
    fs::write(&file, "GREETING=one\n").unwrap();
    host.write(
        "web.toml",
        &format!(
            "[container.web]\nimage = {image:?}\ncommand = ['sleep', '1000']\nstop_grace_period = '0s'\n\
             env_file = [{file:?}]\n"
        ),
    );
    host.start_agent();
    let first = of(&host.converge().containers, "web").clone();
    let greeting = |host: &Host| {
        let said = host.wharf(["exec", "web", "sh", "-c", "echo $GREETING"]);
        said.ok().stdout.trim().to_owned()
    };
    assert_eq!(greeting(&host), "one");
    fs::write(&file, "GREETING=two\n").unwrap();
    let second = of(&host.converge().containers, "web").clone();
    assert_eq!(greeting(&host), "two");
    assert_ne!(first.id, second.id);
    // While nobody looks.
    host.reboot();
    fs::write(&file, "GREETING=three\n").unwrap();
    host.start_agent();
    host.converge();
    assert_eq!(greeting(&host), "three");
}

#[test]
fn what_cannot_be_read_is_an_error_on_those_who_use_it_and_stops_nobody() {
    let mut host = Host::new();
    let image = host.busybox_image();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.conf");
    let table = |name: &str| {
        format!(
            "[container.{name}]\nimage = {image:?}\ncommand = ['sleep', '1000']\nstop_grace_period = '0s'\n\
             configs = ['app']\n"
        )
    };
    host.write("app.toml", &format!("[config.app]\nfile = {file:?}\n"));
    host.write("a.toml", &table("a"));
    host.start_agent();
    let expected = format!("config app: {} does not exist; make it", file.display());
    host.until(&expected, |s| {
        let error = |c: &ContainerStatus| c.error.clone().unwrap_or_default();
        s.containers.iter().any(|c| error(c).starts_with(&expected))
    });
    fs::write(&file, "one").unwrap();
    let running = of(&host.converge().containers, "a").clone();
    assert_eq!(inside(&host, "a", "/app"), "one");
    fs::File::create(&file).unwrap().set_len(2 << 20).unwrap();
    host.write("b.toml", &table("b"));
    let status = host.until("both in error", |s| {
        s.containers.iter().filter(|c| c.error.is_some()).count() == 2
    });
    let (a, b) = (of(&status.containers, "a"), of(&status.containers, "b"));
    assert!(a.error.as_ref().unwrap().contains("too large"), "{a:?}");
    assert_eq!(
        (&a.id, a.pid),
        (&running.id, running.pid),
        "it goes on with what it has"
    );
    assert_eq!(b.pid, None);
    assert!(!status.converged);
    assert_eq!(inside(&host, "a", "/app"), "one");
    fs::write(&file, "two").unwrap();
    host.converge();
    for name in ["a", "b"] {
        assert_eq!(inside(&host, name, "/app"), "two");
    }
}
