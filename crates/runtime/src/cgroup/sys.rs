//! bpf(2) for device programs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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

/// Loads a program and attaches it to a group, which then holds it.
pub fn attach_device_program(group: &File, program: &[Instruction]) -> io::Result<()> {
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
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut attach = Attach {
        target: number(group.as_raw_fd()),
        program: number(loaded.as_raw_fd()),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &mut attach).map(|_| ())
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
        let mut load = Load {
            program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
            instruction_count: code.len() as u32,
            instructions: code.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
        };
        let fd = bpf(BPF_PROG_LOAD, &mut load).unwrap() as RawFd;
        // SAFETY: the kernel has just made this descriptor for us alone.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}
