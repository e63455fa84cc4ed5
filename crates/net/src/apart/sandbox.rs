//! Giving up every right but that to talk over sockets of the internet families.

use std::collections::BTreeMap;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// `nobody` and `nogroup` everywhere (the kernel's overflowuid).
const NOBODY: u32 = 65534;
/// Address space, bytes: no more than a flood may take.
const ADDRESS_SPACE: u64 = 512 << 20;

/// Makes this process nobody: for good, and with no way to become somebody by executing anything. `open_files`: the most
/// descriptors it may have.
pub fn enter(open_files: u64) -> io::Result<()> {
    limit_resources(open_files)?;
    nix::unistd::setgroups(&[])?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    // The kernel empties all sets but the inheritable one with the last uid 0 (capabilities(7)).
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    restrict_calls()
}

fn limit_resources(open_files: u64) -> io::Result<()> {
    for (resource, most) in [
        (Resource::RLIMIT_NOFILE, open_files),
        (Resource::RLIMIT_AS, ADDRESS_SPACE),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
    ] {
        let (_, hard) = getrlimit(resource)?;
        let limit = most.min(hard);
        setrlimit(resource, limit, limit)?;
    }
    Ok(())
}

/// Sets no_new_privs and refuses every system call that is not on the list, in this thread and what it starts.
pub fn restrict_calls() -> io::Result<()> {
    let program = program().map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

/// Refused calls give EPERM: a libc that tries something new goes on without it.
fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let family = |family: i32| {
        let family = family.unsigned_abs().into();
        SeccompRule::new(vec![SeccompCondition::new(
            0,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            family,
        )?])
    };
    rules.insert(
        libc::SYS_socket,
        vec![family(libc::AF_INET)?, family(libc::AF_INET6)?],
    );
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
}

/// What a loop over sockets needs, what memory and time need, and how a process ends. No path, no process, no mapping
/// that could be executed but those that are there (files cannot be opened).
const ALLOWED: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// A filter holds for the thread that loads it.
    #[test]
    fn no_file_process_or_local_socket_is_left() {
        let refused = std::thread::spawn(|| {
            let path = std::env::current_exe().unwrap();
            restrict_calls().unwrap();
            UdpSocket::bind("127.0.0.1:0").unwrap_err();
            let socket = rustix::net::socket(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::DGRAM,
                None,
            );
            assert!(socket.is_ok());
            [
                File::open(&path).unwrap_err(),
                File::create("/tmp/wharf-dns-attack").unwrap_err(),
                std::fs::read_dir("/").map(drop).unwrap_err(),
                UnixDatagram::unbound().map(drop).unwrap_err(),
                Command::new(&path).spawn().map(drop).unwrap_err(),
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::CONT)
                    .unwrap_err()
                    .into(),
            ]
            .map(|e: io::Error| e.raw_os_error())
        });
        assert_eq!(refused.join().unwrap(), [Some(libc::EPERM); 6]);
    }
}
