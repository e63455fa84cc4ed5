//! Every example, run as its README says, and then made to show what it promises.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use model::status::{State, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::binary::{repository, wharf};
use tests::leaks::Snapshot;
use tests::load::{Client, Load};
use tests::{From, Host, http};

/// An example on a machine of its own, below a /srv of its own.
struct Example {
    host: Host,
    name: &'static str,
}

impl Example {
    /// With an agent that has nothing to do yet. The `servers` are those the example takes from Debian's packages: they
    /// are made here, because the test's host reaches no mirror.
    fn new(name: &'static str, servers: &[&str]) -> Self {
        if !servers.is_empty() {
            let make = repository().join("tests/images/make");
            let made = Command::new(make).args(servers).output().unwrap();
            let said = String::from_utf8_lossy(&made.stderr);
            assert!(made.status.success(), "tests/images/make {servers:?}: {said}");
        }
        let mut host = Host::new();
        host.ns.sh("mount -t tmpfs srv /srv");
        host.start_agent();
        host.converge();
        Self { host, name }
    }

    fn dir(&self) -> PathBuf {
        repository().join("examples").join(self.name)
    }

    /// The example's file, as it is.
    fn table(&self) -> String {
        fs::read_to_string(self.dir().join(format!("{}.toml", self.name))).unwrap()
    }

    /// Writes the file again, with a part of it changed.
    fn change(&self, from: &str, to: &str) {
        let table = self.table();
        assert!(table.contains(from), "{from:?} is not in {table}");
        self.host
            .write_renamed(&format!("{}.toml", self.name), &table.replacen(from, to, 1));
    }

    /// The commands of the README, one after the other, as its reader has them; what they print.
    fn readme(&self) -> String {
        let readme = fs::read_to_string(self.dir().join("README.md")).unwrap();
        let (_, rest) = readme.split_once("```sh\n").unwrap();
        let (commands, _) = rest.split_once("```").unwrap();
        let config_dir = self.host.config_dir().display().to_string();
        assert!(commands.contains("/etc/containers.d/"), "{commands}");
        let commands = commands.replace("/etc/containers.d", &config_dir);
        let mut bash = self.host.ns.command("bash");
        for (name, value) in self.host.wharf_command().get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        let path = format!(
            "{}:{}",
            wharf().parent().unwrap().display(),
            std::env::var("PATH").unwrap()
        );
        let line = format!("cd {}\n{commands}", self.dir().display());
        let out = bash
            .env("PATH", path)
            .args(["-euo", "pipefail", "-c", &line])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}\n{}", self.host.evidence());
        String::from_utf8(out.stdout).unwrap()
    }

    /// What a page says, from outside.
    fn page(&self, path: &str) -> String {
        self.host
            .http_get(From::Neighbour, &format!("http://192.0.2.1:{path}"))
            .body
    }

    /// Until a page that is being brought back says this.
    fn until_page(&self, path: &str, text: &str) {
        let (start, url) = (Instant::now(), format!("http://192.0.2.1:{path}"));
        loop {
            let page = http::get(&self.host.neighbour, &url);
            if page.as_ref().is_ok_and(|p| p.status == 200 && p.body == text) {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{path} is never {text:?} but {page:?}\n{}",
                self.host.evidence()
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The file goes, and with it everything but what was there before.
    fn end(&self) {
        self.host.remove(&format!("{}.toml", self.name));
        self.host
            .until("gone", |s| s.containers.is_empty() && s.converged);
    }
}

#[test]
fn slow_two_tiers_keep_their_values() {
    let example = Example::new("two-tier", &["redis"]);
    let host = &example.host;
    let rest = Snapshot::take(host);
    let said = example.readme();
    assert!(said.ends_with("OKhello1 visits\n"), "{said}");
    let web = host.container("web");
    let first = host.container("redis");
    assert_eq!(first.health, "healthy");
    assert!(web.started_at > first.started_at, "{web:?} {first:?}");

    let pid = Pid::from_raw(first.pid.unwrap() as i32);
    kill(pid, Signal::SIGKILL).unwrap();
    let running = |restarts| {
        host.until("back", |s| {
            s.containers
                .iter()
                .any(|c| c.name == "redis" && c.restarts == restarts && c.health == "healthy")
        })
    };
    running(1);
    example.until_page("8081/greeting", "hello");
    host.wharf(["kill", "redis"]).ok();
    running(2);
    example.until_page("8081/greeting", "hello");
    assert_eq!(host.container("redis").id, first.id);

    example.change("[container.redis]\n", "[container.redis]\nhostname = \"other\"\n");
    host.converge();
    let second = host.container("redis");
    assert_ne!(second.id, first.id);
    example.until_page("8081/greeting", "hello");
    let name = host.wharf(["exec", "redis", "hostname"]).ok().stdout;
    assert_eq!(name, "other\n");
    assert_eq!(
        host.container("web").pid,
        web.pid,
        "the page itself was left alone"
    );

    example.end();
    let kept = host.wharf(["volume", "ls"]).ok().stdout;
    assert!(kept.contains("redis-data"), "{kept}");
    host.wharf(["volume", "rm", "redis-data"]).ok();
    host.converge();
    // Even then its data stays for a day, in case it was a mistake.
    let trash = host.state_dir().join("trash");
    for kept in fs::read_dir(trash).unwrap() {
        fs::remove_dir_all(kept.unwrap().path()).unwrap();
    }
    host.assert_no_leaks(&rest);
}

#[test]
fn slow_a_static_site_is_what_the_host_has() {
    let example = Example::new("static-site", &["nginx"]);
    let host = &example.host;
    let rest = Snapshot::take(host);
    let said = example.readme();
    let page = fs::read_to_string(example.dir().join("site/index.html")).unwrap();
    assert!(said.ends_with(&page), "{said}");
    let before = host.container("site");

    host.ns.sh("echo changed >/srv/static-site/site/index.html
                echo more >/srv/static-site/site/more.txt");
    assert_eq!(example.page("8082/"), "changed\n");
    assert_eq!(example.page("8082/more.txt"), "more\n");
    for place in ["/var/www/html/index.html", "/var/www/html/new", "/etc/new"] {
        let written = host.wharf(["exec", "site", "sh", "-c", &format!("echo mine >{place}")]);
        assert_ne!(written.code, 0, "{place}: {written:?}");
        assert!(written.stderr.contains("Read-only file system"), "{written:?}");
    }
    host.wharf(["exec", "site", "sh", "-c", "echo mine >/run/new"])
        .ok();
    assert_eq!(example.page("8082/"), "changed\n");
    let after = host.container("site");
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    example.end();
    host.assert_no_leaks(&rest);
}

#[test]
fn slow_a_job_runs_once_and_others_wait_for_it() {
    let mut example = Example::new("job", &["postgres"]);
    let said = example.readme();
    assert!(said.contains("the migration was here\n"), "{said}");
    let notes = "8083/cgi-bin/notes";
    example.until_page(notes, "the migration was here\na second note\n");
    let host = &mut example.host;
    let job = host.container("migrate");
    assert_eq!((job.state, job.exit_code), (State::Exited, Some(0)));
    assert!(host.container("notes").started_at > job.finished_at);
    assert!(host.container("db").started_at < job.started_at);

    host.kill_agent();
    host.start_agent();
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(host.container("migrate"), job, "another agent does not repeat it");
    host.reboot();
    host.start_agent();
    host.converge();
    let now = host.container("migrate");
    assert_eq!(
        (now.started_at, now.state),
        (job.started_at, State::Exited),
        "nor does a boot"
    );
    assert!(host.container("notes").started_at > host.container("db").started_at);
    example.until_page(notes, "the migration was here\na second note\n");
}

#[test]
fn slow_a_migration_that_fails_is_said_and_tried_again() {
    let example = Example::new("job", &["postgres"]);
    let host = &example.host;
    let sql = "/srv/job/migrations/001-notes.sql";
    host.ns.sh(&format!(
        "{}/make-images /srv/job; cp {sql} /srv/job/good; echo 'select from nowhere;' >{sql}",
        example.dir().display()
    ));
    example.change("", "");
    let job = host.until_state("migrate", State::Failed);
    assert_eq!(job.exit_code, Some(3), "what psql says of a script that failed");
    assert!(job.error.as_ref().unwrap().contains("nowhere"), "{job:?}");
    let waiting = host.wharf(["wait", "notes", "--timeout", "100ms"]);
    assert_eq!(waiting.code, 3);
    assert!(waiting.stderr.contains("migrate"), "{waiting:?}");
    host.ns.sh(&format!("cp /srv/job/good {sql}"));
    host.wharf(["start", "migrate"]).ok();
    host.wait_for("notes");
    example.until_page("8083/cgi-bin/notes", "the migration was here\n");
}

#[test]
fn slow_a_configuration_and_a_secret_reach_a_running_server() {
    let example = Example::new("config", &["nginx"]);
    let host = &example.host;
    let rest = Snapshot::take(host);
    let said = example.readme();
    assert!(
        said.contains("first\n") && said.contains("nginx from a Debian package"),
        "{said}"
    );
    let before = host.container("docs");
    let asked_with = |password: &str| {
        let url = "http://127.0.0.1:8084/";
        let line = format!("curl -sS -o /dev/null -w '%{{http_code}}' -u 'reader:{password}' {url}");
        host.ns.sh(&line)
    };
    assert_eq!(
        (asked_with("let-me-in").as_str(), asked_with("let-me").as_str()),
        ("200", "401")
    );

    host.ns.sh("sed -i s/first/second/ /srv/config/nginx.conf");
    example.until_page("8084/edition", "second\n");
    host.ns.sh("echo 'reader:{PLAIN}another' >/srv/config/passwords");
    host.until("the new password", |_| asked_with("another") == "200");
    assert_eq!(asked_with("let-me-in"), "401");
    let after = host.container("docs");
    assert_eq!(
        (after.pid, after.restarts),
        (before.pid, 0),
        "nobody was stopped for it"
    );
    example.end();
    host.assert_no_leaks(&rest);
}

#[test]
fn slow_a_new_edition_comes_and_a_broken_one_does_not() {
    let example = Example::new("start-first", &["nginx"]);
    let host = &example.host;
    let said = example.readme();
    assert!(said.ends_with("edition 1\n"), "{said}");
    let first = host.container("shop");
    let mut load = Load::new();
    load.add(&host.neighbour, Client::New, "192.0.2.1:8085");
    example.change("edition 1", "edition 2");
    let replaced = |s: &Status| s.converged && s.containers.len() == 1 && s.containers[0].id != first.id;
    host.until("the new edition alone", replaced);
    example.until_page("8085/", "edition 2\n");
    let second = host.container("shop");

    let table = example.table().replace("edition 1", "edition 2");
    let line = "[container.shop]\ncommand = [\"-g\", \"no such directive;\"]\n";
    let broken = table.replacen("[container.shop]\n", line, 1);
    host.write_renamed("start-first.toml", &broken);
    let status = host.until("taken back", |s| {
        s.containers.len() == 1 && s.containers[0].rolled_back.is_some()
    });
    let back = status.containers[0].rolled_back.as_ref().unwrap();
    assert!(
        back.log.iter().any(|line| line.contains("unknown directive")),
        "{back:?}"
    );
    assert_eq!(status.containers[0].pid, second.pid);
    host.write_renamed("start-first.toml", &table);
    host.converge();
    assert_eq!(host.container("shop").pid, second.pid);
    for (_, seen) in load.stop() {
        assert!(seen.lost.is_empty(), "{:?}", seen.lost);
        assert_eq!(seen.versions, ["1", "2"]);
    }
}

#[test]
fn slow_three_of_one_share_a_port_and_change_one_after_the_other() {
    let example = Example::new("replicas", &[]);
    let host = &example.host;
    let rest = Snapshot::take(host);
    let said = example.readme();
    assert_eq!(said.matches("hello from app").count(), 8, "{said}");
    let pid = host.container("app").pid;
    host.wharf(["stop", "app-2"]).ok();
    for _ in 0..30 {
        assert!(!example.page("8086/").contains("app-2"));
    }
    host.wharf(["start", "app-2"]).ok();
    host.until("it is asked again", |_| example.page("8086/").contains("app-2"));
    example.change("replicas = 3\n", "replicas = 5\n");
    host.wait_for("app-5");
    example.change("replicas = 3", "replicas = 1");
    host.until("one is left", |s| s.converged && s.containers.len() == 1);
    assert_eq!(
        host.container("app").pid,
        pid,
        "the first one was touched by none of that"
    );
    example.change("EDITION = \"1\"", "EDITION = \"2\"");
    host.until("three of another edition", |s| {
        s.converged && s.containers.len() == 3 && s.containers.iter().all(|c| c.pid != pid)
    });
    example.end();
    host.assert_no_leaks(&rest);
}

#[test]
fn slow_a_container_is_a_host_of_the_lan() {
    let example = Example::new("lan", &[]);
    let host = &example.host;
    let said = example.readme();
    assert!(said.contains("page"), "{said}");
    let asked = http::get_within(&host.neighbour, "http://192.0.2.80:80/", Duration::from_secs(60));
    assert!(
        asked.as_ref().is_ok_and(|page| page.body.contains("page")),
        "{asked:?}"
    );
    example.change("host_access = true", "host_access = false");
    host.until("the host's device gone", |s| {
        s.networks[0].device == "eth0" && s.converged
    });
    assert!(!host.ns.sh("ip -o link").contains("wh-"));
    example.end();
    assert!(!http::reaches(&host.neighbour, "192.0.2.80:80"));
}

#[test]
fn slow_a_volume_is_packed_and_brought_back() {
    let example = Example::new("backup", &["redis"]);
    let host = &example.host;
    let said = example.readme();
    assert!(
        said.ends_with("OK\nOK\n") || said.contains("OK\nOK\nbackup"),
        "{said}"
    );
    host.until("the run that was asked for", |s| {
        let backup = s.containers.iter().find(|c| c.name == "backup").unwrap();
        backup.last_runs.iter().any(|run| run.exit_code == 0)
    });
    host.wharf(["exec", "notes", "redis-cli", "set", "note", "lost"])
        .ok();
    host.wharf(["stop", "notes"]).ok();
    let archive = host.ns.sh("ls -d /srv/backup/archives/notes-*.tar.gz");
    // Of a file of the host's own, by the standard input: /srv is the host's alone.
    let bytes = host.ns.sh(&format!("base64 {}", archive.trim()));
    let local = host.dir().join("back.b64");
    fs::write(&local, bytes).unwrap();
    host.ns.sh(&format!("base64 -d {0} >{0}.tar.gz", local.display()));
    let local = format!("{}.tar.gz", local.display());
    host.wharf(["volume", "import", "notes-data", "-i", &local]).ok();
    host.wharf(["start", "notes"]).ok();
    host.wait_for("notes");
    host.until("it answers", |_| {
        let said = host.wharf(["exec", "notes", "redis-cli", "get", "note"]);
        said.code == 0 && said.stdout == "kept\n"
    });
}

#[test]
fn slow_a_job_runs_by_the_calendar_and_when_asked() {
    let example = Example::new("schedule", &["redis"]);
    let host = &example.host;
    let said = example.readme();
    assert!(said.contains("backup"), "{said}");
    let runs = |s: &Status| {
        let backup = s.containers.iter().find(|c| c.name == "backup").unwrap();
        assert!(
            backup.last_runs.iter().all(|run| run.exit_code == 0),
            "{backup:?}"
        );
        backup.last_runs.len()
    };
    host.until("the run that was asked for", |s| runs(s) == 1);
    host.converge();
    let before = host.container("backup");
    assert_eq!(before.state, State::Exited);
    assert!(before.next_run.is_some());
    let saved = host.ns.sh("cat /srv/schedule/backup/store-*.rdb");
    assert!(saved.starts_with("REDIS"), "{saved:?}");
    // Its nights come sooner.
    let table = example.table().replace("\"10m\"", "\"0s\"");
    host.write_renamed("schedule.toml", &table.replace("*-*-* 03:00", "*:*:0/1"));
    host.until("two more, by the calendar", |s| runs(s) >= 3);
    assert_eq!(host.container("backup").id, before.id);
}
