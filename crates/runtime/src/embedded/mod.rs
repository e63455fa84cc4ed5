//! The embedded OCI runtime: from a bundle on disk to a payload whose execve has succeeded.
//!
//! Two processes of ours take part, both forked from the shim and so single-threaded. The *creator* ([`create`]) reads
//! and compiles everything, enters the payload's control groups and clones; the *payload* ([`payload`]) builds its own
//! view of the world from inside its new namespaces and becomes the program. Whatever fails is told to the shim through
//! a pipe that execve closes.
//!
//! Until execve the payload still is our binary. Nobody in the container can reach it: its pid namespace is new, it is
//! not dumpable, and where the host's pid namespace is shared, or the command is `/proc/self/exe` in some disguise,
//! two things stand against CVE-2019-5736: the program and its interpreters are looked up with magic links refused,
//! and the shim runs from a read-only clone of its mount ([`sealed_exe`]), so that writing to the file gives EROFS.

mod devices;
mod error;
mod hide;
mod identity;
pub(crate) mod mounts;
mod options;
mod overlay;
mod path;
mod payload;
mod program;
mod sealed;
pub(crate) mod sys;

pub(crate) use error::Doing;
pub(crate) use identity::available as available_capabilities;
pub(crate) use overlay::mount as mount_overlay;
pub(crate) use path::{Make, create as create_path, open as open_path};
pub(crate) use program::find as find_program;
pub use sealed::{is_sealed, sealed_exe};

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::bundle::{CONFIG, EXTRA, Extra, ROOTFS};
use crate::cgroup::{CgroupSet, DeviceRule, Hierarchies, PAYLOAD};
use crate::launch::LaunchError;
use crate::seccomp::{self, Program};

/// A bundle, read and compiled.
pub(crate) struct Plan {
    pub dir: PathBuf,
    pub spec: Spec,
    pub extra: Extra,
    process: Process,
    args: Vec<CString>,
    env: Vec<CString>,
    seccomp: Option<Program>,
}

impl Plan {
    /// Reads `config.json` and `wharf.json`.
    pub fn read(dir: &Path) -> Result<Self, LaunchError> {
        let extra: Extra = read_json(&dir.join(EXTRA))?;
        let spec: Spec = read_json(&dir.join(CONFIG))?;
        let process = spec.process().clone().unwrap_or_default();
        let strings = |list: &Option<Vec<String>>| {
            let list = list.iter().flatten().map(|s| CString::new(s.as_str()));
            list.collect::<Result<Vec<_>, _>>()
                .doing(|| "reading the command".to_owned())
        };
        let filter = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
        let seccomp = filter.map(seccomp::compile).transpose();
        Ok(Self {
            args: strings(process.args())?,
            env: strings(process.env())?,
            seccomp: seccomp.doing(|| "preparing seccomp".to_owned())?,
            dir: dir.to_path_buf(),
            spec,
            extra,
            process,
        })
    }

    /// An error with whose it is.
    pub fn named(&self, error: LaunchError) -> LaunchError {
        LaunchError::of_code(
            error.exit_code(),
            format!("container {}: {error}", self.extra.name),
        )
    }

    /// Where the root is mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join(ROOTFS)
    }

    /// The payload's control group, made and with its device rules.
    fn enter_cgroup(&self) -> Result<(), LaunchError> {
        let hierarchies = Hierarchies::detect().doing(|| "looking for control groups".to_owned())?;
        let place = &self.extra.cgroup;
        let group = CgroupSet::new(&hierarchies, &place.parent, &place.name).child(PAYLOAD);
        let resources = self.spec.linux().as_ref().and_then(|l| l.resources().as_ref());
        let rules = resources.and_then(|r| r.devices().as_ref());
        let rules: Vec<DeviceRule> = rules.into_iter().flatten().map(DeviceRule::from).collect();
        let make = || {
            group.create()?;
            group.set_devices(&rules)?;
            group.enter(0)
        };
        make().doing(|| "setting up control groups".to_owned())
    }

    fn namespaces(&self) -> i32 {
        let listed = self.spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let flag = |kind| match kind {
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            _ => 0,
        };
        let listed = listed.into_iter().flatten().filter(|n| n.path().is_none());
        listed.fold(libc::CLONE_NEWNS, |all, n| all | flag(n.typ()))
    }
}

fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, LaunchError> {
    let text = std::fs::read(file).doing(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text).doing(|| format!("reading {}", file.display()))
}

/// The creator's work: clones the payload and gives its pid. In the payload itself it does not return.
pub(crate) fn create(plan: &Plan, report: BorrowedFd<'static>) -> Result<i32, LaunchError> {
    std::fs::create_dir_all(plan.rootfs()).doing(|| format!("making {}", plan.rootfs().display()))?;
    plan.enter_cgroup()?;
    let cloned =
        sys::clone_sibling(plan.namespaces()).doing(|| "making the container's namespaces".to_owned())?;
    match cloned {
        Some(pid) => Ok(pid),
        None => payload::become_payload(plan, report),
    }
}
