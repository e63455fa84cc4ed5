//! The simple keys, one by one, as the container sees them.

use std::collections::BTreeMap;
use std::fs;

use model::spec::{ContainerSpec, DeviceUse, NetworkMode, Seccomp, TmpfsMount, Ulimit};

use super::container;
use super::shimhost::Host;
use super::support::Container;

/// Its output; it must have ended well.
fn out(script: &str, change: impl FnOnce(&mut ContainerSpec)) -> String {
    let ran = Container::sh(script).with(change).run();
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

fn refused(script: &str, change: impl FnOnce(&mut ContainerSpec)) -> String {
    let host = Host::new();
    let mut i = container(&host, "web", script);
    change(&mut i.spec);
    host.runtime.prepare(&i).unwrap_err().to_string()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn user_and_groups() {
    let ids = "id -u; id -g; id -G";
    assert_eq!(out(ids, |s| s.user = Some("www".into())), "33\n34\n34 44\n");
    assert_eq!(
        out(ids, |s| s.user = Some("1000:1001".into())),
        "1000\n1001\n1001\n"
    );
    let grouped = |s: &mut ContainerSpec| {
        s.user = Some("1000".into());
        s.groups = words("video 77");
    };
    assert_eq!(out(ids, grouped), "1000\n0\n0 44 77\n");
    let text = refused(ids, |s| s.groups = words("ghosts"));
    assert!(text.contains("no group \"ghosts\""), "{text}");
}

#[test]
fn hostname_and_working_dir() {
    let script = "hostname; echo $HOSTNAME; cat /etc/hostname; pwd";
    let named = |s: &mut ContainerSpec| {
        s.hostname = Some("box.example".into());
        s.working_dir = Some("/var".into());
    };
    assert_eq!(
        out(script, named),
        "box.example\nbox.example\nbox.example\n/var\n"
    );
    assert_eq!(out(script, |_| ()), "web\nweb\nweb\n/\n");
}

#[test]
fn extra_hosts_and_name_servers() {
    let script = "grep example /etc/hosts; cat /etc/resolv.conf";
    let text = out(script, |s| {
        s.extra_hosts = BTreeMap::from([("git.example".into(), "10.0.0.9".parse().unwrap())]);
        s.dns = vec!["192.0.2.7".parse().unwrap()];
        s.dns_search = words("a.example b.example");
    });
    assert!(
        text.starts_with("10.0.0.9\tgit.example\nnameserver 192.0.2.7\n"),
        "{text}"
    );
    assert!(text.ends_with("search a.example b.example\n"), "{text}");
    assert_eq!(text.matches("nameserver").count(), 1, "{text}");
}

#[test]
fn environment_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    fs::write(&file, "# a comment\nFROM_FILE=1\nBOTH=file\n").unwrap();
    let text = out("echo $FROM_FILE $BOTH", |s| {
        s.env_file = vec![file.clone()];
        s.env = BTreeMap::from([("BOTH".into(), "table".into())]);
    });
    assert_eq!(text, "1 table\n");
    fs::write(&file, "no assignment\n").unwrap();
    let text = refused("true", |s| s.env_file = vec![file.clone()]);
    assert!(
        text.contains("line 1: \"no assignment\" is not NAME=VALUE"),
        "{text}"
    );
    let text = refused("true", |s| s.env_file = vec![dir.path().join("none")]);
    assert!(
        text.contains("reading env_file") && text.contains("none"),
        "{text}"
    );
}

#[test]
fn sysctls() {
    let read = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    let text = out(read, |s| {
        s.sysctls = BTreeMap::from([
            ("net.ipv4.ip_unprivileged_port_start".into(), "80".into()),
            ("kernel.msgmax".into(), "4096".into()),
        ]);
    });
    assert_eq!(text, "80\n4096\n");
    let text = refused("true", |s| {
        s.sysctls = BTreeMap::from([("vm.swappiness".into(), "1".into())])
    });
    assert!(
        text.contains("sysctl vm.swappiness would change the host"),
        "{text}"
    );
    let shared = |s: &mut ContainerSpec| {
        s.network_mode = NetworkMode::Host;
        s.sysctls = BTreeMap::from([("net.ipv4.ip_forward".into(), "1".into())]);
    };
    assert!(refused("true", shared).contains("would change the host"));
    let ran = Container::sh("true")
        .with(|s| s.sysctls = BTreeMap::from([("net.ipv4.no_such".into(), "1".into())]))
        .run();
    assert!(
        ran.code == 125 && ran.stderr.contains("sysctl net.ipv4.no_such"),
        "{ran:?}"
    );
}

#[test]
fn ulimits() {
    let limit = |soft, hard| Ulimit {
        soft: Some(soft),
        hard: Some(hard),
    };
    let text = out("ulimit -n; ulimit -Hn; ulimit -c", |s| {
        s.ulimits = BTreeMap::from([("nofile".into(), limit(99, 101)), ("core".into(), limit(0, 0))]);
    });
    assert_eq!(text, "99\n101\n0\n");
    // Above what the kernel lets anybody have, whatever their rights.
    let beyond = |s: &mut ContainerSpec| s.ulimits = BTreeMap::from([("nofile".into(), limit(1, 1 << 40))]);
    let host = Host::new();
    let mut i = container(&host, "web", "true");
    beyond(&mut i.spec);
    let text = match host.runtime.prepare(&i) {
        Err(e) => e.to_string(),
        // Only with CAP_SYS_RESOURCE is it the kernel's to say.
        Ok(()) => {
            host.start(&i);
            host.exited(&i).last_exit.unwrap().error.unwrap()
        }
    };
    assert!(
        text.contains("container web: ulimit nofile") || text.contains("ulimit nofile"),
        "{text}"
    );
    let text = refused("true", |s| {
        s.ulimits = BTreeMap::from([("files".into(), limit(1, 1))])
    });
    assert!(
        text.contains("no ulimit \"files\": use one of") && text.contains("nofile"),
        "{text}"
    );
}

#[test]
fn devices() {
    let script = "ls -l /dev/talk | cut -c1; (: > /dev/talk) && echo writes; (: < /dev/talk) 2>/dev/null || echo reads not";
    let device = |host: &str, access: &str| DeviceUse {
        host: host.into(),
        container: "/dev/talk".into(),
        access: access.into(),
    };
    let text = out(script, |s| s.devices = vec![device("/dev/kmsg", "w")]);
    assert_eq!(text, "c\nwrites\nreads not\n");
    let text = refused(script, |s| s.devices = vec![device("/dev/no-such", "rwm")]);
    assert!(text.contains("/dev/no-such"), "{text}");
    let text = refused(script, |s| s.devices = vec![device("/etc/passwd", "rwm")]);
    assert!(text.contains("/etc/passwd is not a device"), "{text}");
}

#[test]
fn read_only_and_tmpfs() {
    let script = "(: > /x) 2>/dev/null || echo locked; : > /run/x && echo open; stat -c %a /run; df -k /run | tail -1 | tr -s ' ' | cut -d' ' -f2";
    let text = out(script, |s| {
        s.read_only = true;
        s.tmpfs = vec![TmpfsMount {
            target: "/run".into(),
            size: Some(1 << 20),
            mode: Some(0o700),
        }];
    });
    assert_eq!(text, "locked\nopen\n700\n1024\n");
}

#[test]
fn capabilities() {
    let effective = "grep CapEff /proc/self/status | cut -f2";
    assert_eq!(out(effective, |_| ()), "00000000a80425fb\n");
    let dropped = |s: &mut ContainerSpec| s.cap_drop = words("MKNOD NET_RAW");
    assert_eq!(out(effective, dropped), "00000000a00405fb\n");
    let none = |s: &mut ContainerSpec| s.cap_drop = words("ALL");
    assert_eq!(out(effective, none), "0000000000000000\n");
    let only = |s: &mut ContainerSpec| {
        s.cap_drop = words("ALL");
        s.cap_add = words("NET_ADMIN");
    };
    assert_eq!(out(effective, only), "0000000000001000\n");
    let text = refused("true", |s| s.cap_add = words("FLY"));
    assert!(text.contains("no capability FLY"), "{text}");
}

#[test]
fn privileges() {
    let script = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; ls /dev/kmsg 2>/dev/null; mkdir /sys/fs/cgroup/x 2>/dev/null; true";
    assert_eq!(out(script, |_| ()), "NoNewPrivs:1\nSeccomp:2\n");
    assert_eq!(
        out(script, |s| s.no_new_privileges = false),
        "NoNewPrivs:0\nSeccomp:2\n"
    );
    let all = |s: &mut ContainerSpec| s.privileged = true;
    assert!(out(script, all).ends_with("Seccomp:0\n/dev/kmsg\n"));
}

/// With rights to gain a set-user-id program gains them; without it does not.
#[test]
fn set_user_id_programs() {
    for (no_new_privileges, uid) in [(true, "33\n"), (false, "0\n")] {
        let container = Container::new(&["/bin/rise"]).with(|s| {
            s.user = Some("www".into());
            s.no_new_privileges = no_new_privileges;
        });
        let program = container.image().join("bin/rise");
        super::support::compile(
            "#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf(\"%d\\n\", (int)geteuid()); return 0; }",
            &program,
        );
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
        fs::set_permissions(&program, mode).unwrap();
        let ran = container.run();
        assert_eq!(ran.stdout, uid, "{ran:?}");
    }
}

#[test]
fn seccomp_profiles() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("profile.json");
    let use_it = |s: &mut ContainerSpec| s.seccomp = Seccomp::Profile(profile.clone());
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["sethostname", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "excludes": {"caps": ["CAP_NET_ADMIN"]}}]}"#;
    fs::write(&profile, text).unwrap();
    let script = "hostname x 2>&1 | sed 's/.*: //'; mkdir /tmp/d 2>&1 | sed 's/.*: //'";
    assert_eq!(
        out(script, use_it),
        "No space left on device\nInput/output error\n"
    );
    let with_capability = |s: &mut ContainerSpec| {
        use_it(s);
        s.cap_add = words("NET_ADMIN");
    };
    assert_eq!(out(script, with_capability), "No space left on device\n");
    for (text, says) in [
        ("not json", "not a seccomp profile"),
        (r#"{"defaultAction": "SCMP_ACT_EXPLODE"}"#, "SCMP_ACT_EXPLODE"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}"#,
            "SCMP_ARCH_PDP11",
        ),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "not supported"),
    ] {
        fs::write(&profile, text).unwrap();
        let error = refused("true", use_it);
        assert!(
            error.contains("seccomp profile") && error.contains(says),
            "{error}"
        );
        assert!(error.contains("profile.json"), "{error}");
    }
    fs::remove_file(&profile).unwrap();
    assert!(refused("true", use_it).contains("reading seccomp profile"));
}
