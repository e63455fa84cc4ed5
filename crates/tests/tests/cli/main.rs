//! The command line as users and their scripts have it: exit codes, what goes to which stream, the shapes of answers;
//! and the stock docker client on the same socket.
#![allow(clippy::unwrap_used)]

mod by_hand;
mod docker;
mod images;
mod offline;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use model::status::State;
use serde_json::Value;
use tests::client::Said;
use tests::{Host, binary};

use offline::assert_plan;

/// Prints a line a second, on both streams, and ends at SIGTERM at once.
const TALK: &str =
    r#"trap "exit 0" TERM; n=0; while :; do n=$((n+1)); echo "out $n"; echo "err $n" >&2; sleep 0.1; done"#;

/// `web` with ports and a health of its own, `talk` that writes to both streams.
fn with_two() -> Host {
    let mut host = Host::new();
    host.write(
        "web.toml",
        &host.hello_table("web", &["8080:80", "8080:80/udp", "127.0.0.1:8081:80"]),
    );
    host.write("talk.toml", &talk(&host, ""));
    host.start_agent();
    host.converge();
    host
}

fn talk(host: &Host, more: &str) -> String {
    let image = host.busybox_image();
    format!("[container.talk]\nimage = \"{image}\"\ncommand = [\"sh\", \"-c\", '''{TALK}''']\n{more}\n")
}

/// It failed with this code, one `error: …` line with these words, and nothing on stdout.
#[track_caller]
fn assert_error(said: &Said, code: i32, words: &[&str]) {
    assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{said:?}");
    let lines: Vec<&str> = said.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{said:?}");
    assert!(lines[0].starts_with("error: "), "{said:?}");
    for word in words {
        assert!(lines[0].contains(word), "no {word:?} in {said:?}");
    }
}

fn json(said: &Said) -> Value {
    assert_eq!(said.stderr, "", "{said:?}");
    serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

/// A command that goes on; killed with the value.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn wharf(host: &Host, args: &[&str]) -> Self {
        let mut command = host.wharf_command();
        command.args(args);
        Self::start(command)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// The first line with this in it; a panic when the output ends before.
    fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "ended without {text:?}");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn end(mut self) -> i32 {
        while !self.line().is_empty() {}
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(start.elapsed() < Duration::from_secs(30), "does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a shell line says on both streams; `$WHARF` is the program.
fn pipe(host: &Host, line: &str) -> String {
    let out = host
        .ns
        .command("bash")
        .args(["-c", line])
        .env("WHARF", binary::wharf())
        .env("WHARF_CONFIG_DIR", host.config_dir())
        .env("WHARF_RUN_DIR", host.run_dir())
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let host = with_two();
    for command in [
        "ps",
        "status --json",
        "inspect web talk",
        "logs web",
        "events",
        "schema",
        "completions bash",
    ] {
        let said = pipe(
            &host,
            &format!("for i in 1 2 3; do \"$WHARF\" {command} | head -c1 >/dev/null; done"),
        );
        assert_eq!(said, "", "{command}");
    }
    let said = pipe(&host, "\"$WHARF\" ps -a | head -1");
    assert!(
        said.starts_with("CONTAINER ID") && said.lines().count() == 1,
        "{said}"
    );
}

#[test]
fn status_has_the_contracts_keys() {
    let host = with_two();
    let status = json(&host.wharf(["status", "--json"]).ok());
    let top = "generation converged config_dir firewall firewall_note version errors containers networks volumes images";
    assert_eq!(keys(&status), words(top));
    let web = &status["containers"][1];
    assert_eq!(
        keys(web),
        words(
            "name service instance role id state health pid restarts image image_id image_digest created_at started_at
             finished_at exit_code signal oom_killed hold rolled_back next_run last_runs networks ports file error"
        )
    );
    assert_eq!(
        keys(&web["networks"]["default"]),
        words("device ip ip6 mac gateway gateway6")
    );
    assert_eq!(
        keys(&web["ports"][0]),
        words("ip host container protocol allow open_to closed_by unjudged")
    );
    let network = &status["networks"][0];
    assert_eq!(
        keys(network),
        words("name driver device subnet range gateway subnet6 gateway6 peers public_key containers error")
    );
    assert_eq!(
        keys(&status["images"][0]),
        words("ref id digest size used_by error")
    );
    let config_dir = host.config_dir().display().to_string();
    assert_eq!(
        (&status["converged"], &status["config_dir"]),
        (&true.into(), &config_dir.into())
    );
    assert_eq!(
        (&web["role"], &web["file"], &web["state"]),
        (&"active".into(), &"web.toml".into(), &"running".into())
    );
    assert_eq!((&web["health"], &web["hold"]), (&"none".into(), &Value::Null));
    assert_eq!(web["id"].as_str().unwrap().len(), 64);
    for digest in ["image_id", "image_digest"] {
        assert!(web[digest].as_str().unwrap().starts_with("sha256:"), "{web}");
    }
    let text = host.wharf(["status"]).ok();
    assert!(
        text.stdout.starts_with("NAME ") && text.stdout.ends_with("\nconverged\n"),
        "{text:?}"
    );
    assert!(text.stderr.is_empty());
    let one = host.wharf(["status", "web"]).ok();
    assert!(
        one.stdout.contains("web") && !one.stdout.contains("talk"),
        "{one:?}"
    );
    assert_error(&host.wharf(["status", "nobody"]), 1, &["nobody", "wharf status"]);
    host.write("bad.toml", "nonsense\n");
    let bad = host.wharf(["status", "--json"]);
    assert_eq!(bad.code, 3, "{bad:?}");
    let bad = json(&bad);
    assert_eq!(
        keys(&bad["errors"][0]),
        words("file line column message hint also")
    );
    assert_eq!(
        (&bad["converged"], &bad["errors"][0]["file"]),
        (&false.into(), &"bad.toml".into())
    );
    assert_eq!(
        host.wharf(["status", "web"]).code,
        0,
        "the error does not concern it"
    );
}

#[test]
fn wait_plan_and_reload() {
    let host = with_two();
    host.wharf(["wait"]).ok();
    host.wharf(["wait", "web", "talk"]).ok();
    assert_error(&host.wharf(["wait", "nobody"]), 1, &["nobody", "wharf status"]);
    assert_eq!(host.wharf(["plan"]).ok().stdout, "nothing to do\n");
    assert_eq!(
        json(&host.wharf(["plan", "--json"]).ok()),
        serde_json::json!({ "actions": [] })
    );
    let job = "command = [\"false\"]\nrestart = \"no\"\n";
    let image = host.busybox_image();
    host.write(
        "job.toml",
        &format!("[container.job]\nimage = \"{image}\"\n{job}"),
    );
    host.until_state("job", State::Failed);
    for args in [
        &["wait", "--timeout", "200ms"][..],
        &["wait", "job", "--timeout", "200ms"],
    ] {
        let late = host.wharf(args);
        assert_eq!((late.code, late.stdout.as_str()), (3, ""), "{late:?}");
        assert!(late.stderr.contains("job: failed"), "{late:?}");
        let last = late.stderr.lines().last().unwrap();
        assert!(last.starts_with("error: ") && last.contains("200ms"), "{late:?}");
    }
    host.wharf(["wait", "web", "--timeout", "200ms"]).ok();
    let answer: Value =
        serde_json::from_str(&host.wharf(["wait", "job", "--timeout", "0s", "--json"]).stdout).unwrap();
    assert_eq!(answer["reached"], false);
    host.remove("job.toml");
    let said = host.wharf(["plan"]);
    assert_eq!(said.code, 4, "its removal waits for the grace: {said:?}");
    assert!(said.stdout.contains("container job"), "{said:?}");
    assert_plan(&host.wharf(["plan", "--json"]));
    host.until("job gone", |s| s.converged && s.containers.len() == 2);
    let said = host.wharf(["reload"]).ok();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("", ""));
    assert_eq!(json(&host.wharf(["reload", "--json"]).ok())["converged"], true);
}

#[test]
fn ps_inspect_and_port() {
    let host = with_two();
    let ps = host.wharf(["ps"]).ok().stdout;
    let head: Vec<&str> = ps
        .lines()
        .next()
        .unwrap()
        .split("   ")
        .filter(|c| !c.is_empty())
        .collect();
    let columns = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    assert_eq!(head.iter().map(|c| c.trim()).collect::<Vec<_>>(), columns);
    assert!(ps.contains("0.0.0.0:8080->80/tcp") && ps.contains("Up "), "{ps}");
    host.wharf(["stop", "talk"]).ok();
    let count = |args: &[&str]| host.wharf(args).ok().stdout.lines().count();
    assert_eq!([count(&["ps"]), count(&["ps", "-a"])], [2, 3]);
    assert_eq!([count(&["ps", "-q"]), count(&["ps", "-aq"])], [1, 2]);
    let id = host.wharf(["ps", "-q"]).ok().stdout.trim().to_owned();
    assert_eq!(id.len(), 12);
    let rows = json(&host.wharf(["ps", "-a", "--json"]).ok());
    let of = |name: &str| {
        rows.as_array()
            .unwrap()
            .iter()
            .find(|r| r["Names"][0] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (&of("/web")["State"], &of("/talk")["State"]),
        (&"running".into(), &"exited".into())
    );
    assert!(
        of("/talk")["Status"].as_str().unwrap().starts_with("Exited ("),
        "{}",
        of("/talk")
    );
    let both = json(&host.wharf(["inspect", "web", "talk"]).ok());
    assert_eq!(both.as_array().unwrap().len(), 2);
    let by_id = json(&host.wharf(["inspect", &id]).ok());
    assert_eq!(
        (&by_id[0]["Name"], &by_id[0]["State"]["Running"]),
        (&"/web".into(), &true.into())
    );
    assert_eq!(
        by_id[0]["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"],
        "8080"
    );
    assert_error(&host.wharf(["inspect", "nobody"]), 1, &["nobody"]);
    let all = host.wharf(["port", "web"]).ok().stdout;
    assert_eq!(
        all,
        "80/tcp -> 0.0.0.0:8080\n80/tcp -> 127.0.0.1:8081\n80/udp -> 0.0.0.0:8080\n"
    );
    assert_eq!(
        host.wharf(["port", "web", "80/udp"]).ok().stdout,
        "0.0.0.0:8080\n"
    );
    assert_eq!(host.wharf(["port", "web", "80"]).ok().stdout.lines().count(), 2);
    assert_eq!(
        json(&host.wharf(["port", "web", "--json"]).ok())
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert_error(&host.wharf(["port", "web", "443"]), 1, &["443/tcp", "web"]);
    assert_error(&host.wharf(["port", "nobody"]), 1, &["nobody"]);
}

#[test]
fn networks_and_images() {
    let host = with_two();
    let text = host.wharf(["network", "ls"]).ok().stdout;
    assert!(
        text.starts_with("NAME ") && text.contains("default") && text.contains("talk, web"),
        "{text}"
    );
    let list = json(&host.wharf(["network", "ls", "--json"]).ok());
    let one = json(&host.wharf(["network", "inspect", "default"]).ok());
    assert_eq!(list[0], one);
    assert_error(
        &host.wharf(["network", "inspect", "nobody"]),
        1,
        &["nobody", "network ls"],
    );
    let text = host.wharf(["image", "ls"]).ok().stdout;
    assert!(text.starts_with("REF ") && text.lines().count() == 3, "{text}");
    let list = json(&host.wharf(["image", "ls", "--json"]).ok());
    assert_eq!(keys(&list[0]), words("ref id digest size used_by error"));
    let text = host.wharf(["image", "ls", "--digests"]).ok().stdout;
    let digest = list[0]["digest"].as_str().unwrap();
    assert!(
        text.starts_with("REF ") && text.contains("DIGEST") && text.contains(digest),
        "{text}"
    );
    let ids = host.wharf(["image", "ls", "-q"]).ok().stdout;
    let id = &list[0]["id"].as_str().unwrap()["sha256:".len()..][..12];
    assert!(ids.lines().any(|line| line == id), "{ids}");
}

#[test]
fn logs_of_both_streams_over_rotated_files() {
    let mut host = Host::new();
    let image = host.busybox_image();
    let many = "i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo line $i; done; echo last >&2; exec sleep 1000";
    host.write(
        "many.toml",
        &format!(
            "[container.many]\nimage = \"{image}\"\ncommand = [\"sh\", \"-c\", \"{many}\"]\nstop_grace_period = \"0s\"\n\
             [container.many.logging]\nmax_size = \"8K\"\nmax_files = 10\n"
        ),
    );
    host.start_agent();
    host.converge();
    let mut follow = Running::wharf(&host, &["logs", "-f", "many"]);
    follow.line_with("line 500");
    host.until("the last line", |_| {
        host.wharf(["logs", "many"]).ok().stderr == "last\n"
    });
    let all = host.wharf(["logs", "many"]).ok();
    let wanted: String = (1..=500).map(|n| format!("line {n}\n")).collect();
    assert_eq!(
        (all.stdout, all.stderr.as_str()),
        (wanted, "last\n"),
        "over rotated files"
    );
    let some = host.wharf(["logs", "--tail", "3", "many"]).ok();
    assert_eq!(
        (some.stdout.as_str(), some.stderr.as_str()),
        ("line 499\nline 500\n", "last\n")
    );
    assert_eq!(host.wharf(["logs", "--tail", "0", "many"]).ok().stdout, "");
    let stamped = host.wharf(["logs", "-t", "--tail", "2", "many"]).ok().stdout;
    let (time, rest) = stamped.split_once(' ').unwrap();
    assert_eq!(rest, "line 500\n");
    let since = |t: &str| host.wharf(["logs", "--since", t, "many"]).ok().stdout;
    assert!(since(time).ends_with("line 500\n"));
    assert_eq!(since("1h").lines().count(), 500);
    assert_eq!(since("2200-01-01T00:00:00Z"), "");
    assert_error(
        &host.wharf(["logs", "--since", "yesterday", "many"]),
        1,
        &["yesterday", "10m"],
    );
    assert_error(&host.wharf(["logs", "nobody"]), 1, &["nobody"]);
    host.remove("many.toml");
    assert_eq!(follow.end(), 0, "it ends with the container");
}

#[test]
fn events_kept_and_followed() {
    let host = with_two();
    let text = host.wharf(["events"]).ok().stdout;
    assert!(
        text.lines().any(|l| l.contains(" container web create: ")),
        "{text}"
    );
    for line in host.wharf(["events", "--json"]).ok().stdout.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(keys(&event), words("time kind name type reason attributes"));
    }
    let mut follow = Running::wharf(&host, &["events", "--follow"]);
    follow.line_with("container web create");
    host.wharf(["kill", "talk"]).ok();
    follow.line_with("container talk die: ended by signal 9");
    follow.line_with("container talk start");
}
