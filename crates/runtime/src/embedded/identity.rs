//! Who the payload is: limits, user and groups, capabilities.

use std::collections::HashSet;
use std::io;

use oci_spec::runtime::{Capability, LinuxCapabilities, PosixRlimit, PosixRlimitType, User};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::error::Doing;
use super::sys;
use crate::launch::LaunchError;

/// Sets the limits; a hard one above our own needs CAP_SYS_RESOURCE, which not every host gives.
pub fn limits(limits: &[PosixRlimit]) -> Result<(), LaunchError> {
    for limit in limits {
        let (number, name) = resource(limit.typ());
        match sys::set_limit(number, limit.soft(), limit.hard()) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(LaunchError::Setup(too_high(limit)));
            }
            result => {
                result.doing(|| format!("setting ulimit {name} to {}:{}", limit.soft(), limit.hard()))?
            }
        }
    }
    Ok(())
}

/// Why a limit cannot be set by a process without CAP_SYS_RESOURCE; none where it can.
pub fn beyond(limit: &PosixRlimit) -> Option<String> {
    let own = sys::hard_limit(resource(limit.typ()).0).ok()?;
    (limit.hard() > own).then(|| too_high(limit))
}

fn too_high(limit: &PosixRlimit) -> String {
    let (number, name) = resource(limit.typ());
    format!(
        "ulimit {name}: a hard limit of {} is above the one wharf has itself ({}), and it may not raise it here: lower it, or raise wharf's own limit",
        shown(limit.hard()),
        own(number)
    )
}

fn shown(limit: u64) -> String {
    if limit == u64::MAX {
        "unlimited".to_owned()
    } else {
        limit.to_string()
    }
}

fn own(number: u32) -> String {
    sys::hard_limit(number).map_or_else(|_| "unknown".to_owned(), shown)
}

fn resource(kind: PosixRlimitType) -> (u32, &'static str) {
    use PosixRlimitType as T;
    match kind {
        T::RlimitAs => (libc::RLIMIT_AS, "as"),
        T::RlimitCore => (libc::RLIMIT_CORE, "core"),
        T::RlimitCpu => (libc::RLIMIT_CPU, "cpu"),
        T::RlimitData => (libc::RLIMIT_DATA, "data"),
        T::RlimitFsize => (libc::RLIMIT_FSIZE, "fsize"),
        T::RlimitLocks => (libc::RLIMIT_LOCKS, "locks"),
        T::RlimitMemlock => (libc::RLIMIT_MEMLOCK, "memlock"),
        T::RlimitMsgqueue => (libc::RLIMIT_MSGQUEUE, "msgqueue"),
        T::RlimitNice => (libc::RLIMIT_NICE, "nice"),
        T::RlimitNofile => (libc::RLIMIT_NOFILE, "nofile"),
        T::RlimitNproc => (libc::RLIMIT_NPROC, "nproc"),
        T::RlimitRss => (libc::RLIMIT_RSS, "rss"),
        T::RlimitRtprio => (libc::RLIMIT_RTPRIO, "rtprio"),
        T::RlimitRttime => (libc::RLIMIT_RTTIME, "rttime"),
        T::RlimitSigpending => (libc::RLIMIT_SIGPENDING, "sigpending"),
        T::RlimitStack => (libc::RLIMIT_STACK, "stack"),
    }
}

/// The sets of the OCI configuration as the kernel's.
#[derive(Clone, Copy, Debug)]
pub struct Sets {
    bounding: CapabilitySet,
    held: CapabilitySets,
}

impl Sets {
    /// Nothing given is nothing allowed.
    pub fn of(capabilities: Option<&LinuxCapabilities>) -> Self {
        let set = |list: Option<&HashSet<Capability>>| {
            let bit = |c: &Capability| CapabilitySet::from_bits_retain(1 << number(*c));
            list.into_iter().flatten().map(bit).collect::<CapabilitySet>()
        };
        let get = |f: fn(&LinuxCapabilities) -> &Option<HashSet<Capability>>| {
            set(capabilities.and_then(|c| f(c).as_ref()))
        };
        Self {
            bounding: get(LinuxCapabilities::bounding),
            held: CapabilitySets {
                effective: get(LinuxCapabilities::effective),
                permitted: get(LinuxCapabilities::permitted),
                inheritable: get(LinuxCapabilities::inheritable),
            },
        }
    }
}

/// A capability's number (linux/capability.h): the order of this list.
fn number(capability: Capability) -> u32 {
    use Capability as C;
    const ORDER: [Capability; 41] = [
        C::Chown,
        C::DacOverride,
        C::DacReadSearch,
        C::Fowner,
        C::Fsetid,
        C::Kill,
        C::Setgid,
        C::Setuid,
        C::Setpcap,
        C::LinuxImmutable,
        C::NetBindService,
        C::NetBroadcast,
        C::NetAdmin,
        C::NetRaw,
        C::IpcLock,
        C::IpcOwner,
        C::SysModule,
        C::SysRawio,
        C::SysChroot,
        C::SysPtrace,
        C::SysPacct,
        C::SysAdmin,
        C::SysBoot,
        C::SysNice,
        C::SysResource,
        C::SysTime,
        C::SysTtyConfig,
        C::Mknod,
        C::Lease,
        C::AuditWrite,
        C::AuditControl,
        C::Setfcap,
        C::MacOverride,
        C::MacAdmin,
        C::Syslog,
        C::WakeAlarm,
        C::BlockSuspend,
        C::AuditRead,
        C::Perfmon,
        C::Bpf,
        C::CheckpointRestore,
    ];
    ORDER.iter().position(|c| *c == capability).unwrap_or(63) as u32
}

/// Names (without `CAP_`) of the capabilities in our own bounding set: what can be given to a container.
pub fn available() -> std::collections::BTreeSet<String> {
    use std::str::FromStr;
    let held = capabilities(None)
        .map(|s| s.permitted)
        .unwrap_or(CapabilitySet::empty());
    NAMES
        .iter()
        .filter(|name| {
            Capability::from_str(name).is_ok_and(|c| {
                let n = number(c);
                sys::bounding_has(n) == Some(true) && held.contains(CapabilitySet::from_bits_retain(1 << n))
            })
        })
        .map(|&name| name.to_owned())
        .collect()
}

#[rustfmt::skip]
const NAMES: &[&str] = &[
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

/// Drops from the bounding set what is not given, then becomes the user, keeping what is held for [`finish`].
pub fn become_user(user: &User, sets: &Sets) -> Result<(), LaunchError> {
    for capability in 0..64 {
        let Some(has) = sys::bounding_has(capability) else {
            break;
        };
        let wanted = sets
            .bounding
            .contains(CapabilitySet::from_bits_retain(1 << capability));
        if wanted && !has {
            return Err(LaunchError::Setup(format!(
                "capability {} is not wharf's to give here",
                NAMES.get(capability as usize).unwrap_or(&"?")
            )));
        }
        if !wanted && has {
            sys::bounding_drop(capability).doing(|| format!("dropping capability {capability}"))?;
        }
    }
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|&g| Gid::from_raw(g))
        .collect();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    set_keep_capabilities(true).doing(|| "keeping capabilities".to_owned())?;
    set_thread_groups(&groups).doing(|| "setting the additional groups".to_owned())?;
    set_thread_res_gid(gid, gid, gid).doing(|| format!("becoming group {}", user.gid()))?;
    set_thread_res_uid(uid, uid, uid).doing(|| format!("becoming user {}", user.uid()))?;
    set_keep_capabilities(false).doing(|| "giving up capabilities".to_owned())?;
    // Becoming another user emptied the effective set; loading a filter may still need it.
    let mut all = capabilities(None).doing(|| "reading capabilities".to_owned())?;
    all.effective = all.permitted;
    set_capabilities(None, all).doing(|| "raising capabilities".to_owned())
}

/// The final capabilities; ambient ones there are none.
pub fn finish(sets: &Sets) -> Result<(), LaunchError> {
    clear_ambient_capability_set().doing(|| "clearing ambient capabilities".to_owned())?;
    set_capabilities(None, sets.held).doing(|| "setting capabilities".to_owned())
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernels_order() {
        for (at, name) in NAMES.iter().enumerate() {
            assert_eq!(number(Capability::from_str(name).unwrap()), at as u32, "{name}");
        }
        assert_eq!(CapabilitySet::SYS_ADMIN.bits(), 1 << number(Capability::SysAdmin));
        assert_eq!(
            CapabilitySet::CHECKPOINT_RESTORE.bits(),
            1 << number(Capability::CheckpointRestore)
        );
    }
}
