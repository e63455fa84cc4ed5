//! bpf(2) for device programs, fanotify(7) for writes to control files.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::devices::Instruction;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// First fields of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// … for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// … for BPF_PROG_QUERY.
#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a live #[repr(C)] value whose size is passed along; the kernel reads and writes no more
    // than that, and pointers in it refer to buffers that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn number(fd: RawFd) -> u32 {
    fd.cast_unsigned()
}

/// Device programs attached to a group itself.
pub fn device_programs(group: &File) -> io::Result<u32> {
    let mut query = Query {
        target: number(group.as_raw_fd()),
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        programs: 0,
        count: 0,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut query)?;
    Ok(query.count)
}

/// Has the kernel check a program; it is gone with the descriptor.
fn load_device_program(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut load = Load {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut load)? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads a program and attaches it to a group, which then holds it.
pub fn attach_device_program(group: &File, program: &[Instruction]) -> io::Result<()> {
    let loaded = load_device_program(program)?;
    let mut attach = Attach {
        target: number(group.as_raw_fd()),
        program: number(loaded.as_raw_fd()),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &mut attach).map(|_| ())
}

/// A nonblocking descriptor of which something can be read once any file of these file systems was written to.
pub fn writes_below<'p>(mounted: impl Iterator<Item = &'p Path>) -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID;
    // SAFETY: plain numbers in, a descriptor or -1 out.
    let fd = unsafe { libc::fanotify_init(flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else has it.
    let told = unsafe { OwnedFd::from_raw_fd(fd) };
    for path in mounted {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mark = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        // SAFETY: the path is a C string that outlives the call.
        let marked = unsafe {
            libc::fanotify_mark(
                told.as_raw_fd(),
                mark,
                libc::FAN_MODIFY,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if marked != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::super::devices::{Access, DeviceKind, DeviceRule, program};
    use super::*;

    /// The verifier is the judge of every kind of block.
    #[test]
    fn the_kernel_accepts_the_program() {
        let rule = |allow, kind, major, access| DeviceRule {
            allow,
            kind,
            major,
            minor: major,
            access,
        };
        let some = Access {
            mknod: true,
            read: false,
            write: true,
        };
        let all = Access {
            mknod: true,
            read: true,
            write: true,
        };
        let code = program(&[
            rule(false, DeviceKind::All, None, all),
            rule(true, DeviceKind::Character, None, some),
            rule(false, DeviceKind::Block, Some(u32::MAX), some),
            rule(true, DeviceKind::Block, Some(8), all),
        ]);
        load_device_program(&code).unwrap();
    }
}
