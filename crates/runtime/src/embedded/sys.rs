//! Kernel calls that need `unsafe`: clone3, mount_setattr, prctl, seccomp, sessions of keys, signals.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// What fork(2) and clone3(2) give: none in the new process, its pid in the old one.
pub type Forked = Option<i32>;

/// fork(2). The caller is single-threaded, so the child may do all it likes.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: fork itself has no requirement; callers have one thread, so no lock is held by a thread that vanishes.
    let pid = checked(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok((pid != 0).then_some(pid as i32))
}

/// clone3(2) without a new stack (it goes on as after fork) into new namespaces, as a sibling: CLONE_PARENT.
pub fn clone_sibling(namespaces: c_int) -> io::Result<Forked> {
    // SAFETY: all-zero is a valid clone_args (no stack, no pointers).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PARENT) as u64;
    // SAFETY: `args` is live and its size passed; without CLONE_VM the child has its own copy of our memory. It keeps
    // libc's cached thread id, which only pthread calls look at, and none is made before execve.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) })?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Ends the process without running exit handlers of the process it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no requirement.
    unsafe { libc::_exit(code) }
}

/// MOUNT_ATTR_* of mount_setattr(2), and its propagation (MS_SHARED, MS_SLAVE, MS_PRIVATE; 0 leaves it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

/// mount_setattr(2) on the mount a descriptor is the root of, and on those below.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, change: MountAttributes) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let attr = Attr {
        set: change.set,
        clear: change.clear,
        propagation: change.propagation,
        userns: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` is live and its size passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    checked(result).map(|_| ())
}

/// Closes every descriptor from 3 on but one.
pub fn close_all_but(keep: BorrowedFd<'_>) -> io::Result<()> {
    let keep = keep.as_raw_fd().cast_unsigned();
    close_range(3, keep.saturating_sub(1), 0)?;
    close_range(keep + 1, u32::MAX, 0)
}

/// Closes every descriptor from 3 on.
pub fn close_all() -> io::Result<()> {
    close_range(3, u32::MAX, 0)
}

/// Marks every descriptor from 3 on to be closed by execve.
pub fn cloexec_all() -> io::Result<()> {
    close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the process is single-threaded and about to execve; owners of closed descriptors are never dropped
    // (they are forgotten, or the process ends by execve or _exit).
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(|_| ())
}

/// Default dispositions for all signals and an empty mask, as a program started by hand would find them. Also for the
/// two that libc keeps to itself and that whoever started us may have left ignored.
pub fn reset_signals() -> io::Result<()> {
    /// As large as any architecture's `struct sigaction` of the kernel; all zero is SIG_DFL.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_SIZE: usize = 8;
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        let old = std::ptr::null_mut::<u64>();
        // SAFETY: the new action is live and large enough; the old one is not asked for.
        let result =
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), old, SET_SIZE) };
        checked(result)?;
    }
    let (none, old) = (0u64, std::ptr::null_mut::<u64>());
    // SAFETY: the new set is live and of the size given; the old one is not asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            old,
            SET_SIZE,
        )
    };
    checked(result).map(|_| ())
}

/// Waits for any signal (sigwaitinfo(2)); they are all blocked.
pub fn wait_signal() -> io::Result<c_int> {
    let all = nix::sys::signal::SigSet::all();
    // SAFETY: the set is live; what is known of the signal besides its number is not asked for.
    let signal = unsafe { libc::sigwaitinfo(all.as_ref(), std::ptr::null_mut()) };
    checked(libc::c_long::from(signal)).map(|s| s as c_int)
}

/// Sends any signal, real-time ones included, to a child that is not waited for yet.
pub fn send_signal(child: c_int, signal: c_int) -> io::Result<()> {
    // SAFETY: kill has no requirement.
    checked(libc::c_long::from(unsafe { libc::kill(child, signal) })).map(|_| ())
}

/// A descriptor that whoever executed this process left open for it; none where that number is not open.
pub fn inherited(number: std::os::fd::RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: F_GETFD has no requirement.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and nobody owns it: it was open before this program began. It stays so until execve, exit
    // or close_all_but.
    Some(unsafe { BorrowedFd::borrow_raw(number) })
}

fn prctl(option: c_int, argument: libc::c_ulong) -> io::Result<c_int> {
    // SAFETY: only used with options whose arguments are plain numbers.
    let result = unsafe { libc::prctl(option, argument, 0, 0, 0) };
    checked(libc::c_long::from(result)).map(|r| r as c_int)
}

/// Whether a capability is in the bounding set; none where the kernel does not know it.
pub fn bounding_has(capability: u32) -> Option<bool> {
    prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability))
        .ok()
        .map(|r| r == 1)
}

/// Takes a capability out of the bounding set.
pub fn bounding_drop(capability: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability)).map(|_| ())
}

/// Orphans of our descendants become our children (PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map(|_| ())
}

/// Nobody without CAP_SYS_PTRACE looks into this process until it has called execve.
pub fn not_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0).map(|_| ())
}

/// Loads a filter for this thread (seccomp(2)).
pub fn load_seccomp(program: &[seccompiler::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: seccompiler's instruction is #[repr(C)] with the kernel's layout; the kernel copies `len` of them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const filter,
        )
    };
    checked(result).map(|_| ())
}

/// Leaves the session keyring of whoever started us for a fresh one. Kernels without keyrings have none to leave.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<u8>(),
        )
    };
    match checked(result) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Sets a limit by its number (getrlimit(2)).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` is live; the old limit is not asked for; 0 is this process.
    let result = unsafe { libc::prlimit(0, resource as _, &raw const limit, std::ptr::null_mut()) };
    checked(libc::c_long::from(result)).map(|_| ())
}

/// Our own hard limit.
pub fn hard_limit(resource: u32) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is live; no new limit is set; 0 is this process.
    let result = unsafe { libc::prlimit(0, resource as _, std::ptr::null(), &raw mut limit) };
    checked(libc::c_long::from(result)).map(|_| limit.rlim_max)
}

/// The descriptor without its owner: it stays open until execve or exit.
pub fn leak(fd: OwnedFd) -> BorrowedFd<'static> {
    let raw = fd.as_fd().as_raw_fd();
    std::mem::forget(fd);
    // SAFETY: nobody closes it any more but the end of the process or close_all_but, which ends its uses.
    unsafe { BorrowedFd::borrow_raw(raw) }
}
