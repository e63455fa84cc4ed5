//! Profiles: Docker's default, and reading one from a user's file.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

/// Why a user's profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("it is not a seccomp profile in Docker's or the OCI's JSON form: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its {0} cannot be expressed: {1}")]
    Build(&'static str, String),
}

/// Docker's default profile for a container with these capabilities (`SYS_ADMIN`, without `CAP_`).
///
/// All that is not listed gives EPERM. Calls for which a capability is needed are allowed together with it, so that
/// `cap_add` alone suffices. Only the native 64-bit architecture is named: 32-bit calls end the process.
pub fn default_profile(capabilities: &BTreeSet<String>) -> Result<LinuxSeccomp, ProfileError> {
    let mut rules = vec![allow(ALWAYS)?];
    if cfg!(target_arch = "x86_64") {
        rules.push(allow(&["arch_prctl", "modify_ldt"])?);
    }
    // AF_VSOCK reaches the hypervisor, past every network namespace.
    rules.push(allow_if(
        "socket",
        arg(0, 40, None, LinuxSeccompOperator::ScmpCmpNe)?,
    )?);
    for persona in PERSONALITIES {
        rules.push(allow_if(
            "personality",
            arg(0, *persona, None, LinuxSeccompOperator::ScmpCmpEq)?,
        )?);
    }
    for (_, names) in BY_CAPABILITY
        .iter()
        .filter(|(cap, _)| capabilities.contains(*cap))
    {
        rules.push(allow(names)?);
    }
    if !capabilities.contains("SYS_ADMIN") {
        let no_namespaces = arg(0, NAMESPACE_FLAGS, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)?;
        rules.push(allow_if("clone", no_namespaces)?);
        // Its flags lie in memory where no filter sees them; ENOSYS makes libraries fall back to clone.
        rules.push(errno("clone3", libc::ENOSYS)?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(vec![native()])
        .syscalls(rules)
        .build()
        .map_err(|e| ProfileError::Build("rules", e.to_string()))
}

/// Reads a profile from a user's file: the OCI form, or Docker's with `includes` and `excludes`.
pub fn read_profile(text: &str, capabilities: &BTreeSet<String>) -> Result<LinuxSeccomp, ProfileError> {
    let file: ProfileFile = serde_json::from_str(text)?;
    let rules = file.syscalls.into_iter().filter(|r| r.applies(capabilities));
    let mut profile = LinuxSeccompBuilder::default()
        .default_action(file.default_action)
        .architectures(vec![native()])
        .syscalls(rules.map(|r| r.call).collect::<Vec<_>>());
    if let Some(errno) = file.default_errno_ret {
        profile = profile.default_errno_ret(errno);
    }
    profile
        .build()
        .map_err(|e| ProfileError::Build("rules", e.to_string()))
}

fn native() -> Arch {
    if cfg!(target_arch = "x86_64") {
        Arch::ScmpArchX86_64
    } else {
        Arch::ScmpArchAarch64
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileFile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<ProfileRule>,
}

#[derive(Deserialize)]
struct ProfileRule {
    #[serde(flatten)]
    call: LinuxSyscall,
    #[serde(default)]
    includes: Conditions,
    #[serde(default)]
    excludes: Conditions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    caps: Vec<String>,
    arches: Vec<String>,
}

impl ProfileRule {
    /// Docker's rule: all that is included must be there, nothing that is excluded may. `minKernel` is always met:
    /// the highest one in use is far below wharf's floor.
    fn applies(&self, capabilities: &BTreeSet<String>) -> bool {
        let has = |cap: &String| capabilities.contains(cap.strip_prefix("CAP_").unwrap_or(cap));
        let machine = if cfg!(target_arch = "x86_64") {
            "amd64"
        } else {
            "arm64"
        };
        let here = |arch: &String| arch == machine;
        self.includes.caps.iter().all(has)
            && (self.includes.arches.is_empty() || self.includes.arches.iter().any(here))
            && !self.excludes.caps.iter().any(has)
            && !self.excludes.arches.iter().any(here)
    }
}

fn allow(names: &[&str]) -> Result<LinuxSyscall, ProfileError> {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, None)
}

fn allow_if(name: &str, condition: LinuxSeccompArg) -> Result<LinuxSyscall, ProfileError> {
    rule(&[name], LinuxSeccompAction::ScmpActAllow, None, Some(condition))
}

fn errno(name: &str, errno: i32) -> Result<LinuxSyscall, ProfileError> {
    rule(
        &[name],
        LinuxSeccompAction::ScmpActErrno,
        Some(errno as u32),
        None,
    )
}

fn rule(
    names: &[&str],
    action: LinuxSeccompAction,
    errno: Option<u32>,
    condition: Option<LinuxSeccompArg>,
) -> Result<LinuxSyscall, ProfileError> {
    let mut rule = LinuxSyscallBuilder::default()
        .names(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>())
        .action(action);
    if let Some(errno) = errno {
        rule = rule.errno_ret(errno);
    }
    if let Some(condition) = condition {
        rule = rule.args(vec![condition]);
    }
    rule.build()
        .map_err(|e| ProfileError::Build("call", e.to_string()))
}

fn arg(
    index: usize,
    value: u64,
    two: Option<u64>,
    op: LinuxSeccompOperator,
) -> Result<LinuxSeccompArg, ProfileError> {
    let arg = LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .value_two(two.unwrap_or(0))
        .op(op);
    arg.build()
        .map_err(|e| ProfileError::Build("condition", e.to_string()))
}

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// PER_LINUX and PER_LINUX32, each also with UNAME26, and the question for the current one.
const PERSONALITIES: &[u64] = &[0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Allowed to all, by what they are about.
#[rustfmt::skip]
const ALWAYS: &[&str] = &[
    // files by path
    "access", "chdir", "chmod", "chown", "creat", "faccessat", "faccessat2", "fchmodat", "fchmodat2", "fchownat",
    "futimesat", "lchown", "link", "linkat", "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at",
    "newfstatat", "open", "openat", "openat2", "readlink", "readlinkat", "rename", "renameat", "renameat2", "rmdir",
    "stat", "statfs", "statx", "symlink", "symlinkat", "truncate", "umask", "unlink", "unlinkat", "utime",
    "utimensat", "utimes",
    // extended attributes
    "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr",
    "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr",
    "setxattrat",
    // files by descriptor
    "cachestat", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fallocate",
    "fchdir", "fchmod", "fchown", "fcntl", "fdatasync", "flock", "fstat", "fstatfs", "fsync", "ftruncate", "getcwd",
    "getdents", "getdents64", "ioctl", "lseek", "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64",
    "pwritev", "pwritev2", "read", "readahead", "readv", "sendfile", "splice", "sync", "sync_file_range", "syncfs",
    "tee", "vmsplice", "write", "writev",
    // waiting for files, and notifications
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait",
    "epoll_wait_old", "eventfd", "eventfd2", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup", "io_submit", "poll",
    "ppoll", "pselect6", "select", "signalfd", "signalfd4",
    // memory
    "brk", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2",
    "mlockall", "mmap", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "remap_file_pages",
    // processes and their limits
    "alarm", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "get_robust_list",
    "get_thread_area", "getcpu", "getitimer", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrlimit",
    "getrusage", "getsid", "gettid", "ioprio_get", "ioprio_set", "pause", "pidfd_open", "pidfd_send_signal",
    "prctl", "prlimit64", "process_mrelease", "process_vm_readv", "process_vm_writev", "ptrace", "restart_syscall",
    "rseq", "set_robust_list", "set_thread_area", "set_tid_address", "setitimer", "setpgid", "setpriority",
    "setrlimit", "setsid", "sysinfo", "times", "uname", "vfork", "wait4", "waitid",
    // who they are
    "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid", "getuid", "setfsgid", "setfsuid",
    "setgid", "setgroups", "setregid", "setresgid", "setresuid", "setreuid", "setuid",
    // signals
    "kill", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_tgsigqueueinfo", "sigaltstack", "tgkill", "tkill",
    // scheduling, locks
    "futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    "sched_yield",
    // time; setting it needs its capability, which the kernel asks for itself
    "adjtimex", "clock_adjtime", "clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep",
    "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create",
    "timerfd_gettime", "timerfd_settime",
    // sockets
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom",
    "recvmmsg", "recvmsg", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
    // System V and POSIX queues, semaphores, shared memory
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget",
    "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt", "shmget",
    // giving up rights, randomness
    "getrandom", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
];

/// Allowed with a capability.
#[rustfmt::skip]
const BY_CAPABILITY: &[(&str, &[&str])] = &[
    ("BPF", &["bpf"]),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("PERFMON", &["perf_event_open"]),
    ("SYSLOG", &["syslog"]),
    ("SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "listmount",
        "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl",
        "quotactl_fd", "setdomainname", "sethostname", "setns", "statmount", "syslog", "umount2", "unshare",
    ]),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "settimeofday"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
];

#[cfg(test)]
mod tests {
    use super::super::numbers;
    use super::*;

    fn names(capabilities: &[&str]) -> BTreeSet<String> {
        let caps = capabilities.iter().map(|&c| c.to_owned()).collect();
        let profile = default_profile(&caps).unwrap();
        profile
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|s| s.names().clone())
            .collect()
    }

    #[test]
    fn every_name_is_a_call_of_this_table_or_only_of_another_architecture() {
        for name in ALWAYS.iter().chain(BY_CAPABILITY.iter().flat_map(|(_, n)| *n)) {
            assert!(
                numbers::number(name).is_some() || !cfg!(target_arch = "x86_64"),
                "{name}"
            );
        }
        assert_eq!(ALWAYS.iter().collect::<BTreeSet<_>>().len(), ALWAYS.len());
    }

    #[test]
    fn what_reaches_the_host_is_allowed_to_nobody_or_with_its_capability_only() {
        let plain = names(&["CHOWN", "MKNOD"]);
        for name in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "reboot",
            "init_module",
            "kexec_load",
            "open_by_handle_at",
            "userfaultfd",
            "io_uring_setup",
            "perf_event_open",
            "swapon",
            "pivot_root",
            "chroot",
        ] {
            assert!(!plain.contains(name), "{name}");
        }
        assert!(names(&["SYS_ADMIN"]).contains("mount"));
        assert!(names(&["SYS_CHROOT"]).contains("chroot"));
        assert!(!names(&["SYS_ADMIN"]).contains("keyctl"));
    }

    #[test]
    fn a_users_profile_keeps_dockers_conditions() {
        let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [], "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["chown"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
        let profile = read_profile(text, &BTreeSet::new()).unwrap();
        let kept: Vec<_> = profile
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|s| s.names())
            .collect();
        assert_eq!(kept, ["mkdir", "chown"]);
        assert!(read_profile("{}", &BTreeSet::new()).is_err());
    }
}
