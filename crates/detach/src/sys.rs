//! System and C library calls that no crate offers safely.

use std::io;

use crate::heap::Limits;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Side {
    Parent(i32),
    Child,
}

/// fork(2). The caller has one thread only.
pub fn fork() -> io::Result<Side> {
    // SAFETY: callers start no threads, so the child may do anything the parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(pid)),
    }
}

/// Ends the process without running destructors or exit handlers, for the middle one of a double fork.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor above the standard three (close_range(2)), whoever left them open. To be called first thing
/// in a process, when nothing of it owns one.
///
/// # Errors
/// Those of close_range(2).
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: called first thing in the process, when nothing of it owns a descriptor above 2.
    match unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn limit_heap(limits: Limits) {
    #[cfg(target_env = "gnu")]
    for (what, bytes) in [
        (libc::M_ARENA_MAX, limits.arenas),
        (libc::M_TRIM_THRESHOLD, limits.trim_threshold),
        (libc::M_TOP_PAD, limits.top_pad),
        (libc::M_MMAP_THRESHOLD, limits.mmap_threshold),
    ] {
        // SAFETY: mallopt(3) only changes how the allocator behaves; a value it dislikes it ignores.
        unsafe { libc::mallopt(what, bytes) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = limits;
}

/// Gives unused heap back to the kernel (malloc_trim(3)).
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions.
    unsafe {
        libc::malloc_trim(0)
    };
}
