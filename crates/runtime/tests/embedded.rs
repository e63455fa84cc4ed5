//! What a container of the embedded runtime is, seen from inside.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use model::spec::{
    NamespaceMode, NetworkMode, Propagation, Seccomp, TmpfsMount, Ulimit, VolumeSource, VolumeUse,
};
use support::{Container, compile};

/// Its output; it must have ended well.
fn out(container: &Container) -> String {
    let ran = container.run();
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

fn bind(source: &Path, target: &str, read_only: bool) -> VolumeUse {
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

#[test]
fn a_program_runs_as_pid_1_with_its_name_and_files() {
    let container =
        Container::sh("echo $$ $(hostname) $HOME; cat /etc/hostname; grep -c localhost /etc/hosts");
    assert_eq!(out(&container), "1 web /root\nweb\n2\n");
}

#[test]
fn exit_codes_and_signals_come_through() {
    assert_eq!(Container::sh("exit 42").run().code, 42);
    let killed = Container::sh("sh -c 'kill -9 $$'; exit $?").run();
    assert_eq!(killed.code, 137, "{killed:?}");
}

#[test]
fn capabilities_are_dockers_default_and_nothing_new_can_be_gained() {
    let script =
        "grep -E '^(Cap|NoNewPrivs|Seccomp):?' /proc/self/status | grep -v filters | tr -d '\\t'; umask";
    let text = out(&Container::sh(script));
    let expected = "CapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\n\
        CapBnd:00000000a80425fb\nCapAmb:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n0022\n";
    assert_eq!(text, expected);
}

#[test]
fn another_user_has_its_groups_and_no_capabilities() {
    let script = "id -u; id -g; id -G; grep -E 'CapEff|CapPrm' /proc/self/status | tr -d '\\t'; echo $HOME";
    let container = Container::sh(script).with(|s| s.user = Some("www".into()));
    assert_eq!(
        out(&container),
        "33\n34\n34 44\nCapPrm:0000000000000000\nCapEff:0000000000000000\n/var/www\n"
    );
}

#[test]
fn only_standard_streams_are_open() {
    // ls itself opens the directory: one more. No pipe: the shell that makes one holds its ends for a moment.
    assert_eq!(out(&Container::sh("ls /proc/self/fd")), "0\n1\n2\n3\n");
    // `&&` keeps the shell from becoming ls.
    assert_eq!(out(&Container::sh("ls /proc/1/fd && true")), "0\n1\n2\n");
}

#[test]
fn signals_are_as_a_program_expects_them() {
    let container = Container::new(&["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]);
    let text = out(&container).replace(['\t', ' '], "");
    assert_eq!(
        text,
        "SigBlk:0000000000000000\nSigIgn:0000000000000000\nSigCgt:0000000000000000\n"
    );
}

const CALLS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
static void say(const char *name, long r) { printf("%s %s\n", name, r < 0 ? strerrorname_np(errno) : "ok"); }
int main(void) {
    say("unshare", unshare(CLONE_NEWUSER));
    say("mount", mount("none", "/tmp", "tmpfs", 0, ""));
    say("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
    say("bpf", syscall(SYS_bpf, 0, 0, 0));
    say("clone3", syscall(SYS_clone3, 0, 0));
    say("new-call", syscall(600));
    say("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
    say("vsock", socket(40, SOCK_STREAM, 0));
    say("unix", socket(AF_UNIX, SOCK_STREAM, 0));
    say("mknod-block", mknod("/tmp/disk", S_IFBLK | 0600, makedev(254, 0)));
    say("open-block", open("/tmp/disk", O_RDONLY));
    say("mknod-char", mknod("/tmp/kmsg", S_IFCHR | 0600, makedev(1, 11)));
    say("open-char", open("/tmp/kmsg", O_RDONLY));
    say("open-null", open("/dev/null", O_RDWR));
    say("exe-write", open("/proc/self/exe", O_WRONLY));
    return 0;
}
"#;

#[test]
fn calls_and_devices_that_reach_the_host_are_refused() {
    let container = Container::new(&["/bin/calls"]);
    compile(CALLS, &container.image().join("bin/calls"));
    let expected = "unshare EPERM\nmount EPERM\nkeyctl EPERM\nbpf EPERM\nclone3 ENOSYS\nnew-call ENOSYS\n\
        ptrace ok\nvsock EPERM\nunix ok\nmknod-block ok\nopen-block EPERM\nmknod-char ok\nopen-char EPERM\n\
        open-null ok\nexe-write ETXTBSY\n";
    assert_eq!(out(&container), expected);
}

#[test]
fn hidden_paths_are_empty_and_locked_ones_read_only() {
    let script = "for f in kcore keys timer_list interrupts sched_debug latency_stats; do
            [ -e /proc/$f ] && wc -c < /proc/$f; done
        ls /sys/firmware | wc -l
        (echo x > /proc/sys/kernel/hostname) 2>&1 | sed 's/.*: //'
        mkdir /sys/x 2>&1 | sed 's/.*: //'; mkdir /sys/fs/cgroup/x 2>&1 | sed 's/.*: //'
        umount /proc/kcore 2>&1 | sed 's/.*: //'";
    let text = out(&Container::sh(script));
    let (masked, rest): (Vec<_>, Vec<_>) = text.lines().partition(|l| l.parse::<u32>().is_ok());
    assert!(masked.len() >= 2 && masked.iter().all(|n| *n == "0"), "{text}");
    let ro = "Read-only file system";
    assert_eq!(rest, [ro, ro, ro, "Operation not permitted"]);
}

#[test]
fn a_read_only_root_still_has_its_volumes_and_tmpfs() {
    let container = Container::sh(
        "for f in /x /tmp/x /data/x /fixed/x /fixed/below/x /dev/shm/x; do (: > $f) 2>/dev/null && echo $f; done; true",
    );
    let (data, fixed) = (container.beside("data"), container.beside("fixed"));
    fs::create_dir(fixed.join("below")).unwrap();
    let container = container.with(|s| {
        s.read_only = true;
        s.volumes = vec![bind(&data, "/data", false), bind(&fixed, "/fixed", true)];
        s.tmpfs = vec![TmpfsMount {
            target: "/tmp".into(),
            size: Some(65536),
            mode: None,
        }];
    });
    assert_eq!(out(&container), "/tmp/x\n/data/x\n/dev/shm/x\n");
    assert!(data.join("x").exists());
}

#[test]
fn what_is_written_stays_in_the_upper_layer() {
    let container = Container::sh("echo new > /etc/new; rm /etc/group; mount | grep ' on / '");
    let mounts = out(&container);
    assert!(mounts.starts_with("overlay on / type overlay (rw,"), "{mounts}");
    assert!(!container.image().join("etc/new").exists());
    assert!(container.image().join("etc/group").exists());
    assert_eq!(
        fs::read_to_string(container.state_dir().join("upper/etc/new")).unwrap(),
        "new\n"
    );
    let left = fs::read_dir(container.bundle_dir().join("rootfs"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "the host sees the root");
}

#[test]
fn many_layers_lie_over_each_other_in_order() {
    let mut container = Container::sh("cat /which; ls /layers | wc -l");
    let base = container.beside("layers");
    for number in 0..120 {
        let layer = base.join(format!("{number:0>100}"));
        fs::create_dir_all(layer.join("layers")).unwrap();
        fs::write(layer.join("which"), format!("{number}\n")).unwrap();
        fs::write(layer.join("layers").join(number.to_string()), "").unwrap();
        container.instance.image.layers.push(layer);
    }
    assert_eq!(out(&container), "119\n120\n");
}

#[test]
fn mount_targets_that_lead_out_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let container = Container::sh("cat /escape/file /up/file; ls -d /real");
    let data = container.beside("data");
    fs::write(data.join("file"), "data\n").unwrap();
    let image = container.image();
    symlink(outside.path(), image.join("escape")).unwrap();
    symlink("../../../../../../real", image.join("up")).unwrap();
    fs::remove_file(image.join("etc/resolv.conf")).ok();
    symlink(
        "../run/systemd/resolve/stub-resolv.conf",
        image.join("etc/resolv.conf"),
    )
    .unwrap();
    let container =
        container.with(|s| s.volumes = vec![bind(&data, "/escape", false), bind(&data, "/up", false)]);
    assert_eq!(out(&container), "data\ndata\n/real\n");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn kernel_filesystems_are_not_put_behind_links() {
    for place in ["proc", "sys", "dev"] {
        let container = Container::sh("true");
        symlink("tmp", container.image().join(place)).unwrap();
        let ran = container.run_unchecked();
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(
            ran.stderr
                .contains("a link or a file where this directory must be"),
            "{ran:?}"
        );
    }
    let container = Container::sh("true");
    let data = container.beside("data");
    let container = container.with(|s| s.volumes = vec![bind(&data, "/proc/sys/x", false)]);
    let ran = container.run_unchecked();
    assert_eq!(ran.code, 125, "{ran:?}");
}

#[test]
fn a_volume_inside_proc_is_refused() {
    let container = Container::sh("true");
    let data = container.beside("data");
    let container = container.with(|s| s.volumes = vec![bind(&data, "/proc/self", false)]);
    let ran = container.run_unchecked();
    assert!(ran.stderr.contains("/proc"), "{ran:?}");
    assert_eq!(ran.code, 125, "{ran:?}");
}

#[test]
fn a_working_dir_through_descriptors_is_refused() {
    for dir in [
        "/proc/self/fd/7",
        "/proc/self/fd/3/../../../..",
        "/proc/1/root",
        "/link",
    ] {
        let container = Container::sh("pwd").with(|s| s.working_dir = Some(dir.into()));
        symlink("/proc/self/fd/5", container.image().join("link")).unwrap();
        let ran = container.run_unchecked();
        assert_eq!(ran.code, 125, "{dir}: {ran:?}");
        assert!(ran.stderr.contains("working_dir"), "{dir}: {ran:?}");
    }
    let made = Container::sh("pwd").with(|s| s.working_dir = Some("/srv/new".into()));
    assert_eq!(out(&made), "/srv/new\n");
}

#[test]
fn our_binary_is_not_run_and_not_written() {
    let container = Container::new(&["/proc/self/exe"]);
    let ran = container.run_unchecked();
    assert_eq!(ran.code, 126, "{ran:?}");
    let container = Container::new(&["/bin/trick"]);
    fs::write(container.image().join("bin/trick"), "#!/proc/self/exe\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(container.image().join("bin/trick"), mode).unwrap();
    assert_eq!(container.run_unchecked().code, 126);
}

#[test]
fn limits_and_sysctls_are_set() {
    let container = Container::sh("ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_forward").with(|s| {
        let limit = Ulimit {
            soft: Some(100),
            hard: Some(200),
        };
        s.ulimits = BTreeMap::from([("nofile".into(), limit)]);
        s.sysctls = BTreeMap::from([("net.ipv4.ip_forward".into(), "1".into())]);
    });
    assert_eq!(out(&container), "100\n200\n1\n");
}

#[test]
fn a_limit_above_ours_is_named() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|l| l.strip_prefix("CapEff:\t")).unwrap();
    let may_raise = u64::from_str_radix(held, 16).unwrap() & 1 << 24 != 0;
    let container = Container::sh("ulimit -Hc").with(|s| {
        let limit = Ulimit {
            soft: Some(0),
            hard: None,
        };
        s.ulimits = BTreeMap::from([("memlock".into(), limit)]);
    });
    let ran = container.run();
    if may_raise {
        assert_eq!(ran.code, 0, "{ran:?}");
    } else {
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(ran.stderr.contains("container web: ulimit memlock"), "{ran:?}");
    }
}

#[test]
fn failing_to_start_says_why_in_a_users_words() {
    let code_and_text = |container: Container| {
        let error = container.prepare().unwrap_err();
        let ran = container.run_unchecked();
        assert_eq!(ran.code, error.exit_code(), "{ran:?}");
        assert_eq!(ran.stderr.trim(), error.to_string());
        (ran.code, ran.stderr)
    };
    let (code, text) = code_and_text(Container::new(&["foo"]));
    assert_eq!(code, 127);
    assert!(
        text.contains("the command \"foo\" was not found in the image's PATH"),
        "{text}"
    );
    let (code, text) = code_and_text(Container::new(&["/etc/passwd"]));
    assert_eq!(code, 126);
    assert!(text.contains("not executable"), "{text}");
    let script = Container::new(&["/bin/script"]);
    fs::write(script.image().join("bin/script"), "#!/bin/bash\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(script.image().join("bin/script"), mode).unwrap();
    let (code, text) = code_and_text(script);
    assert_eq!(code, 127);
    assert!(text.contains("wants interpreter /bin/bash"), "{text}");
}

#[test]
fn a_user_or_volume_that_is_not_there_is_refused_before_anything_starts() {
    let ghost = Container::sh("true").with(|s| s.user = Some("ghost".into()));
    let text = ghost.prepare().unwrap_err().to_string();
    assert!(
        text.starts_with("container web: there is no user \"ghost\""),
        "{text}"
    );
    let missing = Container::sh("true").with(|s| s.volumes = vec![bind(Path::new("/no/such"), "/x", false)]);
    let text = missing.prepare().unwrap_err().to_string();
    assert!(text.contains("/no/such"), "{text}");
    let no_program = Container::new(&["/data/run"]);
    let data = no_program.beside("data");
    fs::copy("/bin/busybox", data.join("run")).unwrap();
    let from_volume = no_program.with(|s| s.volumes = vec![bind(&data, "/data", true)]);
    assert_eq!(from_volume.prepare().unwrap().program, Path::new("/data/run"));
}

#[test]
fn hostile_account_files_are_refused() {
    let container = Container::sh("true");
    let passwd = container.image().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = container.prepare().unwrap_err().to_string();
    assert!(text.contains("/etc/passwd is not a file"), "{text}");
    fs::remove_file(&passwd).unwrap();
    symlink("../../../../../../../../etc/shadow", &passwd).unwrap();
    assert_eq!(container.prepare().unwrap().user.uid, 0);
}

#[test]
fn rights_that_are_asked_for_are_given() {
    let container = Container::sh("mount -t tmpfs none /mnt && unshare -n true && echo yes").with(|s| {
        s.cap_add = vec!["SYS_ADMIN".into()];
    });
    fs::create_dir(container.image().join("mnt")).unwrap();
    assert_eq!(out(&container), "yes\n");
    let privileged =
        Container::sh("mkdir /sys/fs/cgroup/pids/x && rmdir /sys/fs/cgroup/pids/x; ls /dev/vda /dev/null")
            .with(|s| s.privileged = true);
    let ran = privileged.run();
    assert!(ran.stdout.contains("/dev/null"), "{ran:?}");
    let without = Container::sh("grep -E 'NoNew|Seccomp:' /proc/self/status | tr -d '\\t'").with(|s| {
        s.no_new_privileges = false;
        s.user = Some("www".into());
    });
    assert_eq!(out(&without), "NoNewPrivs:0\nSeccomp:2\n");
    let unconfined = Container::sh("grep Seccomp: /proc/self/status | tr -d '\\t'")
        .with(|s| s.seccomp = Seccomp::Unconfined);
    assert_eq!(out(&unconfined), "Seccomp:0\n");
}

#[test]
fn an_own_seccomp_profile_is_applied() {
    let container = Container::sh("mkdir /tmp/x 2>&1 | sed 's/.*: //'");
    let profile = container.beside("profiles").join("no-mkdir.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    fs::write(&profile, text).unwrap();
    let container = container.with(|s| s.seccomp = Seccomp::Profile(profile));
    assert_eq!(out(&container), "No space left on device\n");
}

#[test]
fn the_container_sees_only_its_own_control_groups() {
    let text = out(&Container::sh("cut -d: -f2- /proc/self/cgroup | grep -v name="));
    let outside = text.lines().filter(|l| !l.ends_with(":/")).collect::<Vec<_>>();
    // cpuset is no hierarchy of ours yet: there it is where the test itself is.
    assert!(outside.iter().all(|l| l.starts_with("cpuset:")), "{text}");
}

#[test]
fn host_modes_share_what_they_name() {
    let container =
        Container::sh("ls /proc | grep -c '^[0-9]'; readlink /proc/self/ns/ipc; readlink /proc/self/ns/net")
            .with(|s| {
                s.pid = NamespaceMode::Host;
                s.ipc = NamespaceMode::Host;
                s.network_mode = NetworkMode::Host;
            });
    let text = out(&container);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].parse::<u32>().unwrap() > 2, "{text}");
    let own = |name: &str| {
        fs::read_link(format!("/proc/self/ns/{name}"))
            .unwrap()
            .display()
            .to_string()
    };
    assert_eq!(lines[1..], [own("ipc"), own("net")]);
    let private = out(&Container::sh(
        "readlink /proc/self/ns/ipc; readlink /proc/self/ns/net",
    ));
    assert!(!private.contains(&own("ipc")) && !private.contains(&own("net")));
}

#[test]
fn the_second_start_finds_what_the_first_wrote() {
    let container = Container::sh("cat /etc/count 2>/dev/null; echo x >> /etc/count");
    assert_eq!(out(&container), "");
    assert_eq!(out(&container), "x\n");
    assert_eq!(out(&container), "x\nx\n");
}

#[test]
fn our_file_is_read_only_from_where_it_runs() {
    use std::os::fd::AsRawFd;
    let sealed = runtime::launch::sealed_exe().unwrap();
    let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
    // Without O_TRUNC the kernel first says that the file is being run.
    let error = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(path)
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS));
}
