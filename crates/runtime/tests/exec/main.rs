//! Further processes in running containers.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod attacks;
mod life;
#[path = "../shimhost/mod.rs"]
mod shimhost;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use model::action::Instance;
use model::observed::Phase;
use model::spec::{RestartPolicy, RuntimeChoice};
use runtime::client::{ExecEnd, ExecIo, ExecSession, ExecSpec, RuntimeError};
use shimhost::{Host, busybox};

/// For ever.
const PATIENCE: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(60);

fn spec(args: &[&str]) -> ExecSpec {
    ExecSpec {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..ExecSpec::default()
    }
}

fn sh(script: &str) -> ExecSpec {
    spec(&["/bin/sh", "-c", script])
}

fn all_of(fd: &OwnedFd) -> thread::JoinHandle<Vec<u8>> {
    let mut file = File::from(fd.try_clone().unwrap());
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A terminal ends with EIO; what came before is kept.
        let _ = file.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs to the end: how it ended, what it wrote to its terminal or to its output, and what to its error output.
fn run(host: &Host, i: &Instance, spec: &ExecSpec) -> (ExecEnd, String, String) {
    let session = host.runtime.exec(&i.id, spec, None).unwrap();
    let (out, err) = match &session.io {
        ExecIo::Terminal(master) => (all_of(master), None),
        ExecIo::Pipes { stdout, stderr, .. } => (all_of(stdout), Some(all_of(stderr))),
    };
    let end = session.wait().unwrap();
    let text = |thread: thread::JoinHandle<Vec<u8>>| String::from_utf8(thread.join().unwrap()).unwrap();
    (end, text(out), err.map(text).unwrap_or_default())
}

fn ok(host: &Host, i: &Instance, script: &str) -> String {
    let (end, out, err) = run(host, i, &sh(script));
    assert_eq!(
        (end.code, end.error.as_deref(), err.as_str()),
        (0, None, ""),
        "{out}"
    );
    out
}

fn started(host: &Host, name: &str) -> Instance {
    let i = busybox(host, name, "echo up; exec sleep 100000");
    host.start(&i);
    host.until(&i, "it is up", |_| host.log(&i).len() == 1);
    i
}

/// Waits until it is so; a minute is for ever.
fn until(what: &str, so: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        if so() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("waited for ever until {what}");
}

/// Everything in the payload's groups, in any hierarchy.
fn processes(host: &Host) -> Vec<String> {
    let mut pids: Vec<String> = host
        .cgroups()
        .iter()
        .filter(|dir| dir.to_string_lossy().contains("/payload"))
        .flat_map(|dir| {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            procs.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    pids.sort();
    pids.dedup();
    pids
}

fn exec_groups(host: &Host) -> Vec<String> {
    let all = host.cgroups();
    let names = all
        .iter()
        .map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("exec-")).collect()
}

fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = entries.filter_map(|e| fs::read_link(e.path()).ok());
    let mut targets: Vec<String> = targets
        .map(|t| t.to_string_lossy().split(':').next().unwrap().to_owned())
        .collect();
    targets.sort();
    targets
}

/// What the shim holds when nobody talks to it: the listening socket alone of its sockets.
fn at_rest(host: &Host, i: &Instance) -> Vec<String> {
    let shim = host.state(i).shim.pid;
    let sockets = || {
        let all = descriptors(shim);
        all.iter().filter(|kind| *kind == "socket").count()
    };
    until("the last caller is forgotten", || sockets() == 1);
    descriptors(shim)
}

/// Nothing of a session is left: no process but the payload, no group, no descriptor of the shim's.
fn assert_clean(host: &Host, i: &Instance, before: &[String]) {
    let shim = host.state(i).shim.pid;
    let left = || (exec_groups(host), processes(host).len(), descriptors(shim));
    let none = (Vec::new(), 1, before.to_vec());
    let begun = std::time::Instant::now();
    while left() != none {
        assert!(begun.elapsed() < PATIENCE, "{:?} is left, not {none:?}", left());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_process_has_the_payloads_rights_and_place() {
    let host = Host::new();
    let look = "grep -E 'Cap|Seccomp:|NoNewPrivs|SigBlk|SigIgn|Groups|Uid' /proc/self/status; cat /proc/self/limits /proc/self/oom_score_adj; umask; for n in mnt pid net uts ipc cgroup; do readlink /proc/self/ns/$n; done; cut -d: -f2- /proc/self/cgroup | sed 's,/exec-[0-9]*$,,'; ls /proc/self/fd | wc -l; hostname; pwd; env | grep -v SHLVL | sort";
    let mut i = busybox(&host, "same", &format!("{look}; echo up; exec sleep 100000"));
    i.spec.ulimits.insert(
        "nofile".to_owned(),
        model::spec::Ulimit {
            soft: Some(100),
            hard: Some(200),
        },
    );
    i.spec.env.insert("COLOUR".to_owned(), "red".to_owned());
    i.spec.cap_drop = vec!["CHOWN".to_owned()];
    host.start(&i);
    host.until(&i, "it is up", |_| {
        host.log(&i).iter().any(|(_, line)| line == "up\n")
    });
    let own: String = host.log(&i).iter().map(|(_, line)| line.as_str()).collect();
    let theirs = ok(&host, &i, look);
    let own = own.replace("up\n", "");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    for (own, theirs) in lines(&own).iter().zip(&lines(&theirs)) {
        // The cgroup namespace's root is the payload's group: "/" there.
        assert_eq!(theirs.trim_end_matches('/'), own.trim_end_matches('/'));
    }
    assert_eq!(lines(&own).len(), lines(&theirs).len());
    assert!(theirs.contains("COLOUR=red"));
    assert!(!exec_groups(&host).iter().any(|_| true));
}

#[test]
fn what_is_asked_for_is_what_it_gets() {
    let host = Host::new();
    let mut i = busybox(&host, "asked", "echo up; exec sleep 100000");
    i.spec.env.insert("A".to_owned(), "1".to_owned());
    i.spec.env.insert("B".to_owned(), "2".to_owned());
    host.start(&i);
    host.running(&i);
    let mut asked = sh(
        "id; echo $HOME $A ${B-gone} $C ${TERM-none}; pwd; grep CapEff /proc/self/status; echo err >&2; exit 41",
    );
    asked.user = Some("www".to_owned());
    asked.env = ["A=3", "B", "C=4"].map(str::to_owned).to_vec();
    asked.working_dir = Some("/tmp".to_owned());
    let (end, out, err) = run(&host, &i, &asked);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!((end.code, end.error, end.timed_out), (41, None, false));
    assert_eq!(lines[0], "uid=33(www) gid=34(www) groups=44(video)");
    assert_eq!(lines[1..3], ["/home/www 3 gone 4 none", "/tmp"]);
    assert_eq!(lines[3], "CapEff:\t0000000000000000");
    assert_eq!(err, "err\n");

    let status = "grep -E 'CapEff|Seccomp:' /proc/self/status";
    let plain = ok(&host, &i, status);
    let mut privileged = sh(status);
    privileged.privileged = true;
    let (_, all, _) = run(&host, &i, &privileged);
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    let ours = ours.lines().find(|line| line.starts_with("CapEff")).unwrap();
    assert_eq!(all, format!("{ours}\nSeccomp:\t0\n"));
    assert!(plain.contains("Seccomp:\t2") && !plain.contains(ours));

    // What is piped in and whoever opens it again by its name.
    asked = sh("cat /dev/stdin > /dev/stdout");
    asked.stdin = true;
    asked.user = Some("33:34".to_owned());
    let session = host.runtime.exec(&i.id, &asked, None).unwrap();
    let ExecIo::Pipes { stdin, stdout, .. } = session.io else {
        panic!("no terminal was asked for");
    };
    let out = all_of(&stdout);
    File::from(stdin.unwrap()).write_all(b"through").unwrap();
    assert_eq!(out.join().unwrap(), b"through");
}

#[test]
fn a_signal_and_what_cannot_be_run_have_dockers_codes() {
    let host = Host::new();
    let i = started(&host, "codes");
    let root = host.dir.path().join("rootfs");
    fs::write(root.join("etc/text"), "text").unwrap();
    let code = |asked: &ExecSpec| {
        let session = host.runtime.exec(&i.id, asked, None).unwrap();
        let end = session.wait().unwrap();
        assert_eq!(session.wait().unwrap(), end);
        (end.code, session.pid, end.error.unwrap_or_default())
    };
    let (signal, pid, error) = code(&sh("kill -9 $$"));
    assert!((signal, error.as_str()) == (137, "") && pid > 1);
    let (missing, pid, error) = code(&spec(&["no-such-command"]));
    assert_eq!((missing, pid), (127, 0));
    assert!(error.contains("\"no-such-command\" was not found"), "{error}");
    let (denied, _, error) = code(&spec(&["/etc/text"]));
    assert!(
        denied == 126 && error.contains("not executable"),
        "{denied} {error}"
    );
    let mut asked = spec(&["true"]);
    asked.working_dir = Some("/nowhere".to_owned());
    let (code_of, _, error) = code(&asked);
    assert!(code_of == 125 && error.contains("/nowhere"), "{code_of} {error}");
    asked = spec(&["true"]);
    asked.user = Some("nobody-here".to_owned());
    let (code_of, _, error) = code(&asked);
    assert!(
        code_of == 126 && error.contains("nobody-here"),
        "{code_of} {error}"
    );
    let (code_of, _, error) = code(&spec(&["true", "a\0b"]));
    assert!(code_of == 125 && error.contains("nul"), "{code_of} {error}");
    let empty = host.runtime.exec(&i.id, &spec(&[]), None);
    assert!(matches!(empty, Err(RuntimeError::Refused { .. })));
    // More than fits into one frame of the shim's socket.
    let long = "x".repeat(100_000);
    let (_, out, _) = run(&host, &i, &spec(&["sh", "-c", "echo ${#1}", "sh", &long]));
    assert_eq!(out, "100000\n");
}

#[test]
fn slow_a_thousand_processes_leave_nothing() {
    let host = Host::new();
    let i = started(&host, "many");
    let shim = host.state(&i).shim.pid;
    let before = at_rest(&host, &i);
    let payload = processes(&host);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..250 {
                    let session = host.runtime.exec(&i.id, &spec(&["/bin/true"]), None).unwrap();
                    let end = session.wait().unwrap();
                    assert_eq!((end.code, end.error), (0, None));
                }
            });
        }
    });
    assert_clean(&host, &i, &before);
    assert_eq!(processes(&host), payload);
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(
        children.split_whitespace().count(),
        1,
        "the payload alone: {children}"
    );
    assert_eq!(host.look(&i).restarts, 0);
}

/// Ten megabytes that a lost, doubled or swapped piece shows in.
fn pattern() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(11 << 20);
    for n in 0_u32.. {
        if bytes.len() >= 10 << 20 {
            break;
        }
        bytes.extend_from_slice(format!("{n:07}\n").as_bytes());
    }
    bytes
}

#[test]
fn ten_megabytes_come_whole_through_pipes_and_through_a_terminal() {
    let host = Host::new();
    let i = started(&host, "bulk");
    let sent = pattern();
    let mut cat = spec(&["cat"]);
    cat.stdin = true;
    let session = host.runtime.exec(&i.id, &cat, None).unwrap();
    let ExecIo::Pipes { stdin, stdout, .. } = &session.io else {
        panic!("no terminal was asked for");
    };
    let out = all_of(stdout);
    let mut input = File::from(stdin.as_ref().unwrap().try_clone().unwrap());
    let bytes = sent.clone();
    let writer = thread::spawn(move || input.write_all(&bytes).unwrap());
    writer.join().unwrap();
    // The session's own descriptor keeps the pipe open; the end of input is what its owner says it is.
    let ExecSession { io, .. } = session;
    let ExecIo::Pipes { stdin, .. } = io else {
        panic!("no terminal was asked for");
    };
    drop(stdin);
    assert!(out.join().unwrap() == sent);

    // Out of a terminal: newlines are what it makes of them.
    let numbers = sent.len() / 8 - 1;
    let mut seq = sh(&format!("seq -w 0 {numbers}"));
    seq.tty = true;
    let (end, out, _) = run(&host, &i, &seq);
    assert_eq!(end.code, 0);
    assert!(
        out.replace("\r\n", "\n").into_bytes() == sent,
        "{} bytes",
        out.len()
    );

    // And into one.
    let mut count = sh("stty raw -echo; echo ready; head -c 10485760 | sha256sum");
    count.tty = true;
    let session = host.runtime.exec(&i.id, &count, None).unwrap();
    let ExecIo::Terminal(master) = &session.io else {
        panic!("a terminal was asked for");
    };
    let mut terminal = File::from(master.try_clone().unwrap());
    let mut ready = [0; 5];
    terminal.read_exact(&mut ready).unwrap();
    let out = all_of(master);
    terminal.write_all(&sent[..10_485_760]).unwrap();
    assert_eq!(session.wait().unwrap().code, 0);
    let theirs = String::from_utf8(out.join().unwrap()).unwrap();
    let file = host.dir.path().join("sent");
    fs::write(&file, &sent[..10_485_760]).unwrap();
    let ours = std::process::Command::new("sha256sum")
        .arg(&file)
        .output()
        .unwrap()
        .stdout;
    assert_eq!(
        theirs.split_whitespace().next(),
        String::from_utf8(ours).unwrap().split_whitespace().next()
    );
}

#[test]
fn a_hundred_terminals_are_opened_and_closed() {
    let host = Host::new();
    let i = started(&host, "terminals");
    let before = at_rest(&host, &i);
    let mut asked = sh(
        "tty; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l $(tty) | cut -c1-10; echo $TERM; echo > /dev/tty && exit 3",
    );
    asked.tty = true;
    for _ in 0..10 {
        let sessions: Vec<_> = (0..10)
            .map(|_| host.runtime.exec(&i.id, &asked, None).unwrap())
            .collect();
        for session in sessions {
            let ExecIo::Terminal(master) = &session.io else {
                panic!("a terminal was asked for");
            };
            let out = String::from_utf8(all_of(master).join().unwrap()).unwrap();
            assert_eq!(session.wait().unwrap().code, 3, "{out}");
            let lines: Vec<_> = out.lines().collect();
            assert!(lines[0].starts_with("/dev/pts/"), "{out}");
            assert_eq!(lines[1..], ["all", "crw--w----", "xterm", ""], "{out}");
        }
    }
    assert_clean(&host, &i, &before);
    assert_eq!(ok(&host, &i, "ls /dev/pts"), "ptmx\n");
}

/// Reads from a terminal until this was seen.
fn expect(terminal: &mut File, text: &str) -> String {
    let mut seen = String::new();
    let mut bytes = [0; 1000];
    while !seen.contains(text) {
        let len = terminal.read(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
    seen
}

#[test]
fn a_terminal_has_a_size_and_passes_ctrl_c_on() {
    let host = Host::new();
    let i = started(&host, "screen");
    let mut asked = spec(&["sh"]);
    asked.tty = true;
    asked.stdin = true;
    asked.user = Some("www".to_owned());
    let session = host.runtime.exec(&i.id, &asked, None).unwrap();
    let ExecIo::Terminal(master) = &session.io else {
        panic!("a terminal was asked for");
    };
    let mut terminal = File::from(master.try_clone().unwrap());
    session.resize(33, 111).unwrap();
    terminal.write_all(b"stty size; echo re''ady\n").unwrap();
    let seen = expect(&mut terminal, "ready");
    assert!(seen.contains("33 111"), "{seen}");
    terminal.write_all(b"exit 7\n").unwrap();
    assert_eq!(session.wait().unwrap().code, 7);

    asked.args = sh("trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.01; done").args;
    let session = host.runtime.exec(&i.id, &asked, None).unwrap();
    let ExecIo::Terminal(master) = &session.io else {
        panic!("a terminal was asked for");
    };
    let mut terminal = File::from(master.try_clone().unwrap());
    expect(&mut terminal, "ready");
    session.resize(44, 122).unwrap();
    expect(&mut terminal, "44 122");
    assert_eq!(session.wait().unwrap().code, 5);

    // Its program runs when the session is there, and so is in the terminal's foreground.
    asked.args = spec(&["cat"]).args;
    let session = host.runtime.exec(&i.id, &asked, None).unwrap();
    let ExecIo::Terminal(master) = &session.io else {
        panic!("a terminal was asked for");
    };
    let mut terminal = File::from(master.try_clone().unwrap());
    terminal.write_all(b"\x03").unwrap();
    assert_eq!(session.wait().unwrap().code, 130);

    let pipes = host.runtime.exec(&i.id, &sh("exit 0"), None).unwrap();
    assert!(matches!(pipes.resize(1, 1), Err(RuntimeError::Refused { .. })));
}
