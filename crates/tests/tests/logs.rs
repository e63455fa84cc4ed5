//! `wharf logs` of much, over rotations: nothing is lost, and all is in order.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use tests::Host;

const LINES: usize = 100_000;

/// Both streams, as fast as they take it, once somebody has said so; larger than ten log files.
const TALK: &str = r#"while [ ! -e /go ]; do sleep 0.05; done; awk 'BEGIN {
    for (i = 1; i <= 100000; i++) { print "line " i; if (i % 1000 == 0) print "error " i >"/dev/stderr" }
}'; exec sleep 1000"#;

fn host() -> Host {
    let mut host = Host::new();
    let image = host.busybox_image();
    host.write(
        "talk.toml",
        &format!(
            "[container.talk]\nimage = \"{image}\"\ncommand = [\"sh\", \"-c\", '''{TALK}''']\n\
             stop_signal = \"SIGKILL\"\n[container.talk.logging]\nmax_size = \"512K\"\nmax_files = 40\n"
        ),
    );
    host.start_agent();
    host.converge();
    host
}

struct Follower {
    child: Child,
}

impl Follower {
    fn start(host: &Host) -> Self {
        let child = host
            .wharf_command()
            .args(["logs", "-f", "talk"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Reads to the last line; each is the one after the one before.
    fn read_all(&mut self) {
        let out = BufReader::new(self.child.stdout.take().unwrap());
        let mut lines = out.lines();
        for n in 1..=LINES {
            let line = lines.next().map(Result::unwrap);
            assert_eq!(line, Some(format!("line {n}")), "followed");
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn is_whole(text: &str) {
    let mut lines = text.lines();
    for n in 1..=LINES {
        assert_eq!(lines.next(), Some(format!("line {n}").as_str()));
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn a_hundred_thousand_lines_over_rotations_are_whole_and_in_order() {
    let host = host();
    let mut followers = [Follower::start(&host), Follower::start(&host)];
    host.wharf(["exec", "talk", "touch", "/go"]).ok();
    std::thread::scope(|scope| {
        for follower in &mut followers {
            scope.spawn(|| follower.read_all());
        }
    });
    host.until("all is kept", |_| {
        host.wharf(["logs", "--tail", "1", "talk"])
            .ok()
            .stdout
            .ends_with("line 100000\n")
            || host
                .wharf(["logs", "--tail", "101", "talk"])
                .ok()
                .stdout
                .contains("line 100000\n")
    });
    let errors: String = (1..=100).map(|n| format!("error {n}000\n")).collect();
    let said = host.wharf(["logs", "talk"]).ok();
    is_whole(&said.stdout);
    assert_eq!(said.stderr, errors);
    let dir = host
        .state_dir()
        .join("containers")
        .join(host.container("talk").id.unwrap())
        .join("log");
    let files = std::fs::read_dir(&dir).unwrap().count();
    assert!(files > 10, "{files} files in {}: it rotated", dir.display());

    // The last ones, and with their times, from a time on: over several files, too.
    let last = host.wharf(["logs", "-t", "--tail", "30000", "talk"]).ok();
    let lines: Vec<(&str, &str)> = last.stdout.lines().map(|l| l.split_once(' ').unwrap()).collect();
    assert_eq!(lines.len() + last.stderr.lines().count(), 30_000);
    assert!(
        lines.is_sorted_by_key(|(time, _)| time.trim_end_matches('Z')),
        "times in order"
    );
    let (time, first) = lines[0];
    let since = host.wharf(["logs", "--since", time, "talk"]).ok().stdout;
    assert!(since.lines().any(|line| line == first) && since.ends_with("line 100000\n"));
    assert!(since.lines().count() >= lines.len());
}
