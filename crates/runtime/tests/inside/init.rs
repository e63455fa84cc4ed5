//! `init = true`: reaping, signals, codes; and what a container can do to it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use model::action::Instance;
use model::spec::{NamespaceMode, Seccomp};

use super::shimhost::{Host, lives_in};
use super::support::{Container, PROBE};
use super::{beside, container, said, until_said};

const LONG: Duration = Duration::from_secs(20);

fn with_init(host: &Host, name: &str, script: &str) -> Instance {
    let mut i = container(host, name, script);
    i.spec.init = true;
    i
}

#[test]
fn the_init_is_process_one_and_ends_with_the_programs_code() {
    let host = Host::new();
    let i = with_init(
        &host,
        "tiny",
        "tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm; [ $$ != 1 ] && echo other; exit 42",
    );
    host.start(&i);
    let exit = host.exited(&i).last_exit.unwrap();
    assert_eq!((exit.code, exit.signal), (42, None));
    assert_eq!(said(&host, &i), "wharf init wharf\nother\n");
    let killed = with_init(&host, "killed", "kill -9 $$");
    host.start(&killed);
    assert_eq!(host.exited(&killed).last_exit.unwrap().code, 137);
}

#[test]
fn orphans_are_reaped_and_signals_passed_on() {
    let host = Host::new();
    let script = "trap 'echo got usr1' USR1; trap 'echo got 37' 37; trap 'exit 5' TERM
        for n in 1 2 3 4 5 6 7 8; do (sleep 0 & ) ; done
        echo up; while :; do sleep 0.05; done";
    let i = with_init(&host, "reaper", script);
    host.start(&i);
    until_said(&host, &i, "up");
    let init = host.running(&i);
    host.until(&i, "no zombie is left", |_| {
        let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
        !lives_in(&namespace).iter().any(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        })
    });
    let seen = beside(&host, &i, "tr '\\0' ' ' < /proc/1/cmdline; cat /proc/self/comm");
    assert_eq!(seen, "wharf init cat\n");
    host.runtime.kill(&i.id, "SIGUSR1").unwrap();
    until_said(&host, &i, "got usr1");
    host.runtime.kill(&i.id, "SIGRTMIN+3").unwrap();
    until_said(&host, &i, "got 37");
    host.runtime.stop(&i.id, "SIGTERM", LONG).unwrap();
    let exit = host.look(&i).last_exit.unwrap();
    assert_eq!((exit.code, exit.signal, exit.requested), (5, None, true));
}

#[test]
fn it_has_the_programs_rights_and_little_memory() {
    let host = Host::new();
    let mut i = with_init(&host, "small", "echo up; exec sleep 1000");
    i.spec.user = Some("www".to_owned());
    host.start(&i);
    until_said(&host, &i, "up");
    let status = fs::read_to_string(format!("/proc/{}/status", host.running(&i))).unwrap();
    let get = |key: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(key));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(get("Uid"), "33\t33\t33\t33");
    assert_eq!(get("CapEff"), "0000000000000000");
    assert_eq!(
        (get("NoNewPrivs"), get("Seccomp")),
        ("1".to_owned(), "2".to_owned())
    );
    let anonymous: u64 = get("RssAnon").trim_end_matches(" kB").parse().unwrap();
    assert!(anonymous < 4096, "{anonymous} kB");
    let open = fs::read_dir(format!("/proc/{}/fd", host.running(&i)))
        .unwrap()
        .count();
    assert_eq!(open, 3, "nothing but the standard streams");
}

/// Root in the container, with more and more rights, tries to write to what the host will run next.
#[test]
fn nobody_inside_writes_to_our_binary() {
    let host = Host::new();
    let before = fs::read(env!("CARGO_BIN_EXE_runtime-testbin")).unwrap();
    let attack = "exec 2>&1
        (: > /proc/1/exe) && echo WRITTEN
        (: >> /proc/1/exe) && echo WRITTEN
        cp /bin/busybox /proc/1/exe && echo WRITTEN
        rm -f /proc/1/exe && echo WRITTEN
        mount -o remount,bind,rw /proc/1/exe && echo REMOUNTED
        for f in /proc/1/map_files/*; do (: >> $f) && echo WRITTEN; done
        ls /proc/1/fd/ /proc/1/root && echo LOOKED
        (: > /proc/1/exe)
        echo done";
    let attempts: [(&str, &[&str]); 3] = [
        ("plain", &[]),
        ("admin", &["SYS_ADMIN"]),
        ("tracer", &["SYS_PTRACE"]),
    ];
    for (name, capabilities) in attempts {
        let mut i = with_init(&host, name, attack);
        i.spec.cap_add = capabilities.iter().map(|c| c.to_string()).collect();
        i.spec.seccomp = Seccomp::Unconfined;
        host.start(&i);
        host.exited(&i);
        let text = said(&host, &i);
        assert!(text.ends_with("done\n"), "{name}: {text}");
        assert!(
            !text.contains("WRITTEN") && !text.contains("REMOUNTED"),
            "{name}: {text}"
        );
        // Who may look into other processes gets as far as the file, and finds it read-only.
        let tracer = name == "tracer";
        assert_eq!(text.contains("LOOKED"), tracer, "{name}: {text}");
        let last = if tracer {
            "Read-only file system"
        } else {
            "Permission denied"
        };
        assert!(
            text.trim_end().trim_end_matches("done").contains(last),
            "{name}: {text}"
        );
    }
    assert_eq!(fs::read(env!("CARGO_BIN_EXE_runtime-testbin")).unwrap(), before);
}

#[test]
fn in_the_hosts_processes_it_still_reaps_and_ends() {
    let host = Host::new();
    let mut i = with_init(&host, "hosted", "(sleep 1000 &); echo up; [ $$ -gt 2 ] && exit 6");
    i.spec.pid = NamespaceMode::Host;
    host.start(&i);
    assert_eq!(host.exited(&i).last_exit.unwrap().code, 6);
    host.runtime.remove(&i.id, &i.name).unwrap();
    host.assert_gone(&i);
}

#[test]
fn a_program_that_cannot_run_is_told_as_without_an_init() {
    for (program, code) in [("/bin/nothing", 127), ("/etc/passwd", 126)] {
        let with = Container::new(&[program]).with(|s| s.init = true).run_unchecked();
        let without = Container::new(&[program]).run_unchecked();
        assert_eq!((with.code, without.code), (code, code), "{with:?}");
        assert_eq!(with.stderr, without.stderr);
    }
    let garbage = Container::new(&["/bin/garbage"]).with(|s| s.init = true);
    fs::write(garbage.image().join("bin/garbage"), "no program\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(garbage.image().join("bin/garbage"), mode).unwrap();
    let ran = garbage.run_unchecked();
    assert_eq!(ran.code, 126, "{ran:?}");
    assert!(
        ran.stderr
            .contains("container web: /bin/garbage is not a program"),
        "{ran:?}"
    );
}

#[test]
fn by_hand_it_does_nothing() {
    let ran = Command::new(PROBE).arg("init").output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    let text = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(text.contains("init = true"), "{text}");
}
