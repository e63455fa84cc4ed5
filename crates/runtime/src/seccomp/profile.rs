//! Profiles: Docker's default, and reading one from a user's file.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::compile::{CompileError, compile};

/// Why a user's profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("it is not a seccomp profile in Docker's or the OCI's JSON form: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its {0} cannot be expressed: {1}")]
    Build(&'static str, String),
    #[error("a rule of it has both `name` and `names`, or neither: write `names`")]
    Names,
    #[error("minKernel {0:?} is no kernel version: write it as \"5.15\"")]
    Kernel(String),
    #[error(transparent)]
    Compile(#[from] CompileError),
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

/// Reads a profile from a user's file: the OCI form, or Docker's with `includes` and `excludes`, for a container with
/// these capabilities on a kernel of this version.
///
/// Calls this machine does not have are passed over, as everywhere; what is not understood otherwise is an error, and so
/// is what cannot be compiled. Of the architectures only the native one counts: 32-bit calls end the process, whatever
/// the profile says of them.
pub fn read_profile(
    text: &str,
    capabilities: &BTreeSet<String>,
    kernel: (u32, u32),
) -> Result<LinuxSeccomp, ProfileError> {
    let file: ProfileFile = serde_json::from_str(text)?;
    file.covers_this_machine()?;
    if !file.flags.is_empty() || file.listener_path.is_some() {
        return Err(ProfileError::Compile(CompileError::Flags));
    }
    let mut calls = Vec::new();
    for rule in file.syscalls.into_iter().flatten() {
        if rule.applies(capabilities, kernel)? {
            calls.push(rule.call()?);
        }
    }
    let mut profile = LinuxSeccompBuilder::default()
        .default_action(file.default_action)
        .architectures(vec![native()])
        .syscalls(calls);
    if let Some(errno) = file.default_errno_ret {
        profile = profile.default_errno_ret(errno);
    }
    let profile = profile
        .build()
        .map_err(|e| ProfileError::Build("rules", e.to_string()))?;
    // Found now and not as the container starts.
    compile(&profile)?;
    Ok(profile)
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
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Vec<serde_json::Value>,
    listener_path: Option<String>,
    syscalls: Option<Vec<ProfileRule>>,
}

/// Docker's way to name architectures: one, and the ones its kernel runs as well.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    /// Read so that a name that is none is found.
    #[serde(rename = "subArchitectures")]
    _below: Option<Vec<Arch>>,
}

impl ProfileFile {
    fn covers_this_machine(&self) -> Result<(), ProfileError> {
        let listed = self.architectures.iter().flatten().copied();
        let mapped = self.arch_map.iter().flatten().map(|m| m.architecture);
        let named: Vec<Arch> = listed.chain(mapped).collect();
        let here = [native(), Arch::ScmpArchNative];
        if named.is_empty() || named.iter().any(|arch| here.contains(arch)) {
            Ok(())
        } else {
            Err(ProfileError::Compile(CompileError::Architecture))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProfileRule {
    names: Option<Vec<String>>,
    /// As the first profiles wrote it.
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Conditions>,
    excludes: Option<Conditions>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

impl ProfileRule {
    /// Docker's rule: all that is included must be there, nothing that is excluded may.
    fn applies(&self, capabilities: &BTreeSet<String>, kernel: (u32, u32)) -> Result<bool, ProfileError> {
        let has = |cap: &String| capabilities.contains(cap.strip_prefix("CAP_").unwrap_or(cap));
        let machine = if cfg!(target_arch = "x86_64") {
            "amd64"
        } else {
            "arm64"
        };
        let here = |arch: &String| arch == machine;
        if let Some(only) = &self.includes {
            let elsewhere = only
                .arches
                .as_ref()
                .is_some_and(|arches| !arches.is_empty() && !arches.iter().any(here));
            if elsewhere
                || !only.caps.iter().flatten().all(has)
                || kernel < only.kernel()?.unwrap_or_default()
            {
                return Ok(false);
            }
        }
        let Some(never) = &self.excludes else {
            return Ok(true);
        };
        let new_enough = never.kernel()?.is_some_and(|from| kernel >= from);
        Ok(!new_enough && !never.caps.iter().flatten().any(has) && !never.arches.iter().flatten().any(here))
    }

    fn call(self) -> Result<LinuxSyscall, ProfileError> {
        let names = match (self.names, self.name) {
            (Some(names), None) => names,
            (None, Some(name)) => vec![name],
            _ => return Err(ProfileError::Names),
        };
        let mut call = LinuxSyscallBuilder::default().names(names).action(self.action);
        if let Some(errno) = self.errno_ret {
            call = call.errno_ret(errno);
        }
        if let Some(args) = self.args.filter(|args| !args.is_empty()) {
            call = call.args(args);
        }
        call.build()
            .map_err(|e| ProfileError::Build("call", e.to_string()))
    }
}

impl Conditions {
    fn kernel(&self) -> Result<Option<(u32, u32)>, ProfileError> {
        let Some(text) = &self.min_kernel else {
            return Ok(None);
        };
        kernel_version(text)
            .map(Some)
            .ok_or_else(|| ProfileError::Kernel(text.clone()))
    }
}

/// The first two numbers of a kernel's release (`6.1.0-13-amd64`).
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
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
        let profile = read_profile(text, &BTreeSet::new(), KERNEL).unwrap();
        let kept: Vec<_> = profile
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|s| s.names())
            .collect();
        assert_eq!(kept, ["mkdir", "chown"]);
        assert!(read_profile("{}", &BTreeSet::new(), KERNEL).is_err());
    }

    const KERNEL: (u32, u32) = (5, 15);

    fn error(text: &str) -> String {
        read_profile(text, &BTreeSet::new(), KERNEL)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_a_profile_says_and_nobody_understands_is_refused() {
        let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
        assert!(error(r#"{"defaultAction": "SCMP_ACT_SHOUT"}"#).contains("SCMP_ACT_SHOUT"));
        assert!(error(&rule(r#"{"names": ["read"], "action": "DENY"}"#)).contains("DENY"));
        assert!(
            error(&rule(r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#)).contains("not supported")
        );
        assert!(error(&rule(r#"{"action": "SCMP_ACT_LOG"}"#)).contains("`names`"));
        let kernel = r#"{"names": ["read"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "new"}}"#;
        assert!(error(&rule(kernel)).contains("minKernel \"new\""));
        let op = r#"{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1, "op": "IS"}]}"#;
        assert!(error(&rule(op)).contains("IS"));
        let sixth = r#"{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}"#;
        assert!(
            error(&rule(sixth)).contains("condition"),
            "{}",
            error(&rule(sixth))
        );
        let only = |what: &str| error(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", {what}}}"#));
        assert!(only(r#""architectures": ["SCMP_ARCH_S390X"]"#).contains("architecture"));
        assert!(only(r#""architectures": ["SCMP_ARCH_PDP11"]"#).contains("SCMP_ARCH_PDP11"));
        let map =
            r#""archMap": [{"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}]"#;
        assert!(only(map).contains("architecture"));
        assert!(only(r#""flags": ["SECCOMP_FILTER_FLAG_LOG"]"#).contains("flags"));
    }

    /// The shape of Docker's own file: maps, nulls, comments, calls of other machines, kernels.
    #[test]
    fn dockers_own_form_is_understood() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": [
              {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
              {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
            "syscalls": [
              {"names": ["read", "_llseek", "set_tls"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "",
               "includes": {}, "excludes": {}},
              {"name": "write", "action": "SCMP_ACT_ALLOW", "args": []},
              {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
              {"names": ["mseal"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
              {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"minKernel": "5.8"}}]}"#;
        let calls = |kernel| {
            let profile = read_profile(text, &BTreeSet::new(), kernel).unwrap();
            let calls = profile.syscalls().clone().unwrap();
            calls.iter().map(|c| c.names()[0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(calls(KERNEL), ["read", "write", "ptrace"]);
        assert_eq!(calls((6, 10)), ["read", "write", "ptrace", "mseal"]);
        assert_eq!(calls((4, 7)), ["read", "write", "bpf"]);
        assert_eq!(kernel_version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("5.15-rc3"), Some((5, 15)));
    }
}
