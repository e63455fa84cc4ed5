//! `exec`: codes, streams, terminals, rights; and that nothing is left behind.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::leaks::Snapshot;
use tests::process::until_pid_of;
use tests::{Host, process};

fn said(host: &Host, args: &[&str]) -> (i32, String, String) {
    let said = host.wharf(std::iter::once("exec").chain(args.iter().copied()));
    (said.code, said.stdout, said.stderr)
}

#[test]
fn the_commands_code_and_streams_come_through() {
    let host = Host::with_box("env = { COLOUR = \"blue\" }\n");
    let sh = |line: &str| said(&host, &["box", "sh", "-c", line]);
    assert_eq!(
        sh("echo out; echo err >&2; exit 7"),
        (7, "out\n".into(), "err\n".into())
    );
    assert_eq!(sh("echo $COLOUR $0"), (0, "blue sh\n".into(), String::new()));
    assert_eq!(sh("kill -9 $$").0, 137);
    let found = said(
        &host,
        &[
            "-u",
            "user",
            "-w",
            "/srv",
            "-e",
            "A=b c",
            "box",
            "sh",
            "-c",
            "id -u; pwd; echo $A $HOME",
        ],
    );
    assert_eq!(found, (0, "1000\n/srv\nb c /home\n".into(), String::new()));
    let (code, _, err) = said(&host, &["box", "no-such-program"]);
    assert_eq!(code, 127, "{err}");
    assert!(err.contains("no-such-program"), "{err}");
    let (code, _, err) = said(&host, &["box", "/etc/passwd"]);
    assert_eq!(code, 126, "{err}");
    let (code, _, err) = said(&host, &["nobody", "true"]);
    assert_eq!(code, 125, "{err}");
    assert!(err.contains("nobody"), "{err}");
    let (code, _, err) = said(&host, &["-u", "ghost", "box", "true"]);
    assert!(code == 125 || code == 126, "{code} {err}");
    assert!(err.contains("ghost"), "{err}");
}

#[test]
fn what_is_typed_comes_in_and_its_end_too() {
    let host = Host::with_box("");
    let mut cat = host
        .wharf_command()
        .args(["exec", "-i", "box", "sh", "-c", "wc -c; echo done"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 3 << 20]).unwrap();
    drop(stdin);
    let out = cat.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), "3145728\ndone");
    assert!(out.status.success());
}

#[test]
fn a_session_sees_what_the_container_sees_and_no_more() {
    let host = Host::with_box("");
    let sh = |line: &str| said(&host, &["box", "sh", "-c", line]).1;
    let own = sh("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status");
    let first = sh("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status");
    assert_eq!(own, first, "the rights of the first process");
    for kind in ["mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let of = |pid: &str| sh(&format!("readlink /proc/{pid}/ns/{kind}"));
        assert!(of("1").contains(kind), "{kind}");
        assert_eq!(of("1"), of("self"), "{kind}");
    }
    assert_eq!(
        sh("ls /proc/self/fd").split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    // A group of its own below the container's, where that has no limits to keep.
    let (own, first) = (sh("cat /proc/self/cgroup"), sh("cat /proc/1/cgroup"));
    for (own, first) in own.lines().zip(first.lines()) {
        assert!(own.starts_with(first), "{own} is not below {first}");
    }
    // The attack of CVE-2019-5736: the program that entered the container is not to be had for writing.
    let attack = "for p in /proc/[0-9]*; do (: > $p/exe) 2>/dev/null && echo wrote $p; done; echo end";
    assert_eq!(
        sh(attack)
            .lines()
            .filter(|l| l.contains("wrote") && !l.contains("/proc/1 "))
            .count(),
        0
    );
}

#[test]
fn slow_a_thousand_sessions_leave_nothing() {
    let host = Host::with_box("");
    said(&host, &["box", "true"]);
    let rest = Snapshot::take(&host);
    let before = host.container("box");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    assert_eq!(said(&host, &["box", "true"]).0, 0);
                }
            });
        }
    });
    assert_eq!(host.container("box"), before);
    host.assert_no_leaks(&rest);
}

#[test]
fn a_session_ends_with_its_agent() {
    let mut host = Host::with_box("");
    let mut client = host
        .wharf_command()
        .args(["exec", "box", "sh", "-c", "echo $$; exec sleep 1003"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = until_pid_of(&["sleep", "1003"]);
    host.kill_agent();
    process::until_gone(pid);
    assert_eq!(client.wait().unwrap().code(), Some(125));
    host.start_agent();
    assert_eq!(said(&host, &["box", "true"]).0, 0);
}

#[test]
fn a_paused_container_waits() {
    let host = Host::with_box("");
    host.wharf(["pause", "box"]).ok();
    assert_eq!(host.container("box").state, model::status::State::Paused);
    host.until("converged", |s| s.converged);
    let (code, _, err) = said(&host, &["box", "true"]);
    assert_eq!(code, 125);
    assert!(err.contains("paused"), "{err}");
    assert_eq!(host.wharf(["pause", "box"]).code, 1);
    host.wharf(["unpause", "box"]).ok();
    assert_eq!(said(&host, &["box", "true"]).0, 0);
    // A stop thaws it.
    host.wharf(["pause", "box"]).ok();
    host.wharf(["stop", "box"]).ok();
}

#[test]
fn a_client_that_goes_away_takes_its_command_along() {
    let host = Host::with_box("");
    let agents = format!("/proc/{}/fd", host.agent_pid().unwrap());
    let open = || std::fs::read_dir(&agents).unwrap().count();
    said(&host, &["box", "true"]);
    let before = open();
    let gone = |args: &[&str], seconds: &str, input: Option<usize>, signal: Signal| {
        let mut client = host
            .wharf_command()
            .arg("exec")
            .args(args)
            .args(["box", "sh", "-c", &format!("sleep {seconds} & wait")])
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .spawn()
            .unwrap();
        if let (Some(bytes), Some(mut stdin)) = (input, client.stdin.take()) {
            stdin.write_all(&vec![b'x'; bytes]).unwrap();
        }
        let sleep = until_pid_of(&["sleep", seconds]);
        kill(Pid::from_raw(client.id() as i32), signal).unwrap();
        assert!(!client.wait().unwrap().success());
        process::until_gone(sleep);
    };
    // Ctrl-C, of a command that is silent.
    gone(&[], "10031", None, Signal::SIGINT);
    gone(&["-t"], "10032", None, Signal::SIGINT);
    // Its input has ended before.
    gone(&["-i"], "10033", None, Signal::SIGKILL);
    // More input than anybody reads.
    gone(&["-i"], "10034", Some(200_000), Signal::SIGKILL);
    // Nothing is kept of them in the agent.
    let start = Instant::now();
    while open() > before {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{} open, {before} before",
            open()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_that_only_stops_talking_hears_the_end() {
    let host = Host::with_box("");
    // Its standard input ends at once; the command knows, and the client hears what it says later.
    let line = "cat; while [ ! -e /go ]; do sleep 0.05; done; echo late; exit 9";
    let client = host
        .wharf_command()
        .args(["exec", "-i", "box", "sh", "-c", line])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    said(&host, &["box", "touch", "/go"]);
    let out = client.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stdout), (Some(9), b"late\n".to_vec()));
}

#[test]
fn no_kind_of_standard_input_holds_a_session_up() {
    let host = Host::with_box("");
    let shell = |line: &str| {
        let mut command = host.ns.command("bash");
        command.args(["-c", line]).env("WHARF", tests::binary::wharf());
        command.env("WHARF_RUN_DIR", host.run_dir()).stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Open to the end, with nothing in it.
        let stdin = child.stdin.take();
        let out = child.wait_with_output().unwrap();
        drop(stdin);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout) + &text(out.stderr))
    };
    let is = |line: &str, code: i32, wanted: &str| {
        let (ended, shown) = shell(line);
        assert!(
            ended == Some(code) && shown.contains(wanted),
            "{line}: {ended:?} {shown:?}"
        );
    };
    is("$WHARF exec box cat; echo over", 0, "over\n");
    is("$WHARF exec box echo one <&-", 0, "one\n");
    is("$WHARF exec -i box cat <&-; echo over", 0, "over\n");
    is("$WHARF exec -i box echo two", 0, "two\n");
    is("$WHARF exec -t box tty; echo over", 0, "/dev/pts/0\r\nover\n");
    is("$WHARF exec -t box sh -c 'exit 6'", 6, "");
    is("$WHARF exec -it box sh", 125, "leave out -t");
    is("yes | $WHARF exec -i box head -n 1", 0, "y\n");
    // What is put into the background neither holds the session up nor ends with it.
    is(
        "$WHARF exec box sh -c 'sleep 10035 & echo three'; echo over",
        0,
        "three\nover\n",
    );
    is(
        "$WHARF exec -t box sh -c 'trap \"\" HUP; sleep 10036 & echo four'; echo over",
        0,
        "four\r\nover\n",
    );
    for seconds in ["10035", "10036"] {
        until_pid_of(&["sleep", seconds]);
    }
    is("$WHARF exec -d box sh -c 'sleep 10037; :'", 0, "");
    until_pid_of(&["sleep", "10037"]);
    is("$WHARF exec -d box no-such-program", 127, "no-such-program");
    is("$WHARF exec -d box /etc/passwd", 126, "/etc/passwd");
}
