//! What containers see of them, under each runtime.

use std::fs;
use std::path::Path;

use model::spec::{Propagation, RuntimeChoice, TmpfsMount, VolumeSource, VolumeUse};
use runtime::error::RuntimeError;

use super::*;
use crate::shimhost::kill;

/// The embedded runtime, then the others.
const RUNTIMES: [Option<&str>; 3] = [None, Some("crun"), Some("runc")];

fn under(i: &mut Instance, runtime: Option<&str>) {
    if let Some(name) = runtime {
        i.spec.runtime = RuntimeChoice::External(name.to_owned());
    }
}

fn volume(source: &Path, target: &str, read_only: bool) -> VolumeUse {
    VolumeUse {
        source: VolumeSource::Bind {
            source: source.to_path_buf(),
            create: false,
            propagation: Propagation::Rprivate,
            require_mount: false,
        },
        target: target.to_owned(),
        read_only,
    }
}

fn tmpfs(target: &str) -> TmpfsMount {
    TmpfsMount {
        target: target.to_owned(),
        size: None,
        mode: None,
    }
}

#[test]
fn a_user_reads_what_modes_and_owners_allow_in_every_run_under_every_runtime() {
    for runtime in RUNTIMES {
        let memory = Memory::new();
        let files = [
            owned(config("app", "/etc/deep/er/app.conf", "setting"), 0o640, 0, 34),
            owned(config("closed", "/closed", "x"), 0o600, 0, 0),
            owned(secret("mine", "hidden"), 0o400, 33, 0),
            owned(secret("roots", "x"), 0o400, 0, 0),
        ];
        let script = "cd /run/secrets; \
            echo $(stat -c '%a %u:%g' /etc/deep/er/app.conf . mine) $(cat mine /etc/deep/er/app.conf); \
            cat roots /closed 2>/dev/null && echo open; \
            for f in /etc/deep/er/app.conf mine; do ( : >> $f ) 2>/dev/null && echo writable; done; \
            echo end; exec sleep 1000";
        let mut i = memory.container(script, &files);
        i.spec.user = Some("www".to_owned());
        under(&mut i, runtime);
        memory.host.start(&i);
        let lines = [
            "640 0:34 755 0:0 400 33:0 hiddensetting".to_owned(),
            "end".to_owned(),
        ];
        for run in 1..=3 {
            let said = memory.until_said(&i, run * 2);
            assert_eq!(said[(run - 1) * 2..], lines, "{runtime:?}, run {run}");
            kill(memory.host.state(&i).payload.unwrap());
        }
        memory.host.runtime.stop(&i.id, "SIGKILL", LONG).unwrap();
    }
}

#[test]
fn every_runtime_mounts_them_alike() {
    let mut all = Vec::new();
    let hosts = own_mounts();
    for runtime in RUNTIMES {
        let memory = Memory::new();
        let mut i = memory.container(
            "exec sleep 1000",
            &[config("app", "/etc/app.conf", "one"), secret("key", "hidden")],
        );
        under(&mut i, runtime);
        memory.host.start(&i);
        let mut seen = Vec::new();
        for at in ["/etc/app.conf", "/run/secrets"] {
            let (mut options, count) = memory.mounts(&i, at);
            assert_eq!(count, 1);
            options.sort();
            seen.push(options);
        }
        all.push(seen);
        memory.host.runtime.remove(&i.id, &i.name).unwrap();
    }
    for (seen, runtime) in all.iter().zip(RUNTIMES) {
        for (options, wanted) in seen.iter().zip(["nodev nosuid ro", "nodev noexec nosuid ro"]) {
            let flags: Vec<&str> = options.iter().map(String::as_str).collect();
            let flags: Vec<&str> = flags.into_iter().filter(|o| *o != "relatime").collect();
            assert_eq!(flags.join(" "), wanted, "{runtime:?}");
        }
    }
    assert_eq!(own_mounts(), hosts, "nothing is mounted on the host");
}

#[test]
fn a_read_only_root_a_tmpfs_and_a_volume_above_are_no_hindrance() {
    for runtime in RUNTIMES {
        let memory = Memory::new();
        let files = [
            config("app", "/etc/app/app.conf", "one"),
            config("pid", "/var/run/app/x.conf", "two"),
            config("hosts", "/etc/hosts", "three"),
            secret("key", "hidden"),
        ];
        let script = "cat /etc/app/app.conf /etc/app/other /var/run/app/x.conf /etc/hosts /run/secrets/key; echo; \
            echo > /run/x && echo run; { echo > /x; } 2>/dev/null || echo read-only; exec sleep 1000";
        let mut i = memory.container(script, &files);
        let above = memory.host.dir.path().join("above");
        fs::create_dir_all(&above).unwrap();
        fs::write(above.join("other"), "of the volume ").unwrap();
        i.spec.read_only = true;
        i.spec.tmpfs = vec![tmpfs("/run"), tmpfs("/var/run/app")];
        i.spec.volumes = vec![volume(&above, "/etc/app", false)];
        under(&mut i, runtime);
        memory.host.start(&i);
        let said = memory.until_said(&i, 3);
        assert_eq!(
            said,
            ["oneof the volume twothreehidden", "run", "read-only"],
            "{runtime:?}"
        );
        // The place is made where the volume's data lie, and stays empty there.
        assert_eq!(fs::read_to_string(above.join("app.conf")).unwrap(), "");
        memory.host.runtime.stop(&i.id, "SIGKILL", LONG).unwrap();
    }
}

#[test]
fn a_read_only_volume_above_has_to_have_the_place() {
    let memory = Memory::new();
    let files = [config("app", "/etc/app/app.conf", "one")];
    let mut i = memory.container("cat /etc/app/app.conf; exec sleep 1000", &files);
    let above = memory.host.dir.path().join("above");
    fs::create_dir_all(&above).unwrap();
    i.spec.volumes = vec![volume(&above, "/etc/app", true)];
    let error = memory.host.runtime.prepare(&i).unwrap_err();
    assert!(matches!(error, RuntimeError::Prepare(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("/etc/app/app.conf") && text.contains("mounted read-only: make an empty file"),
        "{text}"
    );
    fs::write(above.join("app.conf"), "").unwrap();
    memory.host.start(&i);
    assert_eq!(memory.seen(&i, "/etc/app/app.conf"), "one");
}

#[test]
fn a_program_or_account_may_be_a_config() {
    let memory = Memory::new();
    let files = [
        owned(
            config("entry", "/entry", "#!/bin/sh\nid -u; exec sleep 1000\n"),
            0o755,
            0,
            0,
        ),
        config("passwd", "/etc/passwd", "app:x:77:77::/:/bin/sh\n"),
    ];
    let mut i = memory.container("", &files);
    i.spec.command = Some(vec!["/entry".to_owned()]);
    i.spec.user = Some("app".to_owned());
    memory.host.start(&i);
    assert_eq!(memory.until_said(&i, 1), ["77"]);
}

#[test]
fn two_things_in_one_place_are_refused_with_both_names() {
    let memory = Memory::new();
    let somewhere = memory.host.dir.path().to_path_buf();
    let refused = |files: &[File], change: &dyn Fn(&mut Instance)| {
        let mut i = memory.container("true", files);
        change(&mut i);
        let error = memory.host.runtime.prepare(&i).unwrap_err().to_string();
        memory.host.runtime.remove(&i.id, &i.name).unwrap();
        error
    };
    let text = refused(
        &[config("a", "/x/../etc/y", ""), config("b", "/etc//y", "")],
        &|_| (),
    );
    assert!(
        text.contains("config b: its target /etc/y is taken by config a"),
        "{text}"
    );
    let text = refused(&[config("a", "/y", "")], &|i| {
        i.spec.volumes = vec![volume(&somewhere, "/y/", false)];
    });
    assert!(
        text.contains("config a: its target /y is taken by a volume"),
        "{text}"
    );
    let text = refused(&[secret("key", "")], &|i| {
        i.spec.tmpfs = vec![tmpfs("/run/secrets/deep")]
    });
    assert!(
        text.contains("a tmpfs at /run/secrets/deep: this is where secrets are"),
        "{text}"
    );
    let text = refused(&[config("a", "relative", "")], &|_| ());
    assert!(
        text.contains("config a: target \"relative\" is no absolute path"),
        "{text}"
    );
    let text = refused(&[config("a", "/proc/version", "")], &|_| ());
    assert!(
        text.contains("config a: its target /proc/version is the kernel's"),
        "{text}"
    );
}
