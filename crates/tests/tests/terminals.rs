//! `wharf exec -it` as a person has it: keys, answers, Ctrl-C, sizes, and the own terminal as before in the end.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tests::leaks::Snapshot;
use tests::process::until_pid_of;
use tests::pty::Pty;
use tests::{Host, process};

/// More than ten million characters, no two lines alike.
const LINES: u32 = 1_500_000;

fn terminal(host: &Host, args: &[&str]) -> Pty {
    let mut command = host.wharf_command();
    command.args(["exec", "-it"]).args(args);
    Pty::spawn(&command)
}

/// A shell that has shown its prompt.
fn shell(host: &Host) -> Pty {
    let mut pty = terminal(host, &["-e", "PS1=here> ", "box", "sh"]);
    pty.until("here> ");
    pty
}

#[test]
fn a_shell_answers_is_interrupted_and_follows_the_size() {
    let host = Host::with_box("");
    let mut pty = shell(&host);
    assert_ne!(pty.modes(), pty.modes_before(), "raw while it runs");
    pty.type_in("echo $((40+2)) answers\r");
    let shown = pty.until("42 answers");
    assert!(shown.contains("echo $((40+2)) answers"), "echoed: {shown:?}");
    pty.until("here> ");

    pty.type_in("sleep 10041\r");
    let sleep = until_pid_of(&["sleep", "10041"]);
    pty.type_in("\x03");
    pty.until("here> ");
    process::until_gone(sleep);
    pty.type_in("echo still $((1+1))\r");
    pty.until("still 2");
    pty.until("here> ");

    pty.type_in("stty size; tty\r");
    pty.until("24 80");
    pty.until("/dev/pts/");
    pty.until("here> ");
    pty.type_in("trap 'stty size' WINCH; echo set $((6*7))\r");
    pty.until("set 42");
    pty.until("here> ");
    pty.resize(33, 101);
    // The shell runs the trap when it reads the next line.
    pty.type_in("while [ \"$(stty size)\" != '33 101' ]; do sleep 0.1; done; echo now $(stty size)\r");
    pty.until("now 33 101");
    pty.until("here> ");

    pty.type_in("exit 7\r");
    assert_eq!(pty.end(), 7);
    assert_eq!(pty.modes(), pty.modes_before(), "as it was");
}

#[test]
fn the_own_terminal_is_as_before_whatever_happens() {
    let mut host = Host::with_box("");
    let ends = |mut pty: Pty| {
        let code = pty.end();
        let shown = String::from_utf8_lossy(pty.shown()).into_owned();
        assert_eq!(pty.modes(), pty.modes_before(), "{shown}");
        (code, shown)
    };
    for (args, code, words) in [
        (&["nobody", "sh"][..], 125, "nobody"),
        (&["box", "no-such-program"], 127, "no-such-program"),
        (&["box", "/etc/passwd"], 126, "/etc/passwd"),
        (&["-u", "ghost", "box", "sh"], 126, "ghost"),
        (&["box", "sh", "-c", "stty raw -echo; exit 5"], 5, ""),
        (&["box", "sh", "-c", "kill -9 $$"], 137, ""),
    ] {
        let (ended, shown) = ends(terminal(&host, args));
        assert_eq!(ended, code, "{args:?}: {shown}");
        assert!(shown.contains(words), "{args:?}: {shown}");
    }
    // A signal ends the client, and what it ran.
    let pty = terminal(&host, &["box", "sleep", "10042"]);
    let sleep = until_pid_of(&["sleep", "10042"]);
    kill(Pid::from_raw(pty.pid() as i32), Signal::SIGTERM).unwrap();
    ends(pty);
    process::until_gone(sleep);
    // The same once it has surely begun.
    let pty = shell(&host);
    kill(Pid::from_raw(pty.pid() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(ends(pty).0, 143);
    // The agent goes away.
    let pty = shell(&host);
    host.kill_agent();
    assert_eq!(ends(pty).0, 125);
}

#[test]
fn a_hundred_terminals_leave_nothing() {
    let host = Host::with_box("");
    assert_eq!(terminal(&host, &["box", "true"]).end(), 0);
    let rest = Snapshot::take(&host);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..25 {
                    let mut pty = terminal(&host, &["box", "sh", "-c", "tty; read line; exit $line"]);
                    pty.until("/dev/pts/");
                    pty.type_in(format!("{n}\r"));
                    assert_eq!(pty.end(), n, "{}", String::from_utf8_lossy(pty.shown()));
                }
            });
        }
    });
    let left = host.wharf(["exec", "box", "sh", "-c", "ls /dev/pts"]).ok().stdout;
    assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["ptmx"]);
    host.assert_no_leaks(&rest);
}

#[test]
fn ten_megabytes_come_out_of_a_terminal_whole() {
    let host = Host::with_box("");
    let line = format!("seq 1 {LINES} >/big; stty raw; echo START; cat /big; echo END");
    let mut pty = terminal(&host, &["box", "sh", "-c", &line]);
    assert_eq!(pty.end(), 0);
    let mut wanted = String::from("START\n");
    (1..=LINES).for_each(|n| writeln!(wanted, "{n}").unwrap());
    wanted += "END\n";
    assert!(wanted.len() > 10_000_000);
    assert_eq!(pty.shown().len(), wanted.len());
    assert!(pty.shown() == wanted.as_bytes(), "other bytes than were written");
}

#[test]
fn ten_megabytes_pasted_into_a_terminal_come_whole() {
    let host = Host::with_box("");
    let mut pasted = String::new();
    (1..=LINES).for_each(|n| writeln!(pasted, "{n}").unwrap());
    let line = format!(
        "stty raw -echo; echo ready; head -c {} | sha256sum; stty sane; exit 4",
        pasted.len()
    );
    let mut pty = terminal(&host, &["box", "sh", "-c", &line]);
    pty.until("ready");
    pty.type_in(&pasted);
    let sum: String = Sha256::digest(&pasted)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    pty.until(&sum);
    assert_eq!(pty.end(), 4);
}
