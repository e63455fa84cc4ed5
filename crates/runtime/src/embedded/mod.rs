//! The embedded OCI runtime: from a bundle on disk to a payload whose execve has succeeded.
//!
//! Two processes of ours take part, both forked from the shim and so single-threaded. The *creator* ([`create`]) reads
//! and compiles everything, makes the payload's control groups and clones; the *payload* ([`payload`]) builds its own
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
pub(crate) mod payload;
mod program;
mod sealed;
pub(crate) mod sys;

pub(crate) use error::Doing;
pub(crate) use hide::sysctls as write_sysctls;
pub(crate) use identity::{available as available_capabilities, beyond as beyond_ours};
pub(crate) use options::attributes as mount_attributes;
pub(crate) use overlay::mount as mount_overlay;
pub(crate) use path::{Make, create as create_path, magic as filesystem_magic, open as open_path};
pub(crate) use program::find as find_program;
pub use sealed::{is_sealed, sealed_exe};

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxNamespaceType, Process, Spec, User};

use crate::bundle::{CONFIG, EXTRA, Extra, ROOTFS};
use crate::cgroup::{CgroupSet, DeviceRule, Hierarchies, PAYLOAD};
use crate::launch::{LaunchError, Report};
use crate::seccomp::{self, Program};
use crate::{init, join};

/// A bundle, read and compiled.
pub(crate) struct Plan {
    pub dir: PathBuf,
    pub spec: Spec,
    pub extra: Extra,
    pub process: Process,
    args: Vec<CString>,
    env: Vec<CString>,
    seccomp: Option<Program>,
}

impl Plan {
    /// Reads `config.json` and `wharf.json`.
    pub fn read(dir: &Path) -> Result<Self, LaunchError> {
        let extra: Extra = read_json(&dir.join(EXTRA))?;
        let spec: Spec = read_json(&dir.join(CONFIG))?;
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_env(Some(environment(&process, &spec, &extra)));
        let filter = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
        let seccomp = filter.map(seccomp::compile).transpose();
        Ok(Self {
            args: strings(process.args().as_deref())?,
            env: strings(process.env().as_deref())?,
            seccomp: seccomp.doing(|| "preparing seccomp".to_owned())?,
            dir: dir.to_path_buf(),
            spec,
            extra,
            process,
        })
    }

    /// The same container with another process: its own, changed so. Whatever user that is has the capabilities that
    /// user would have had as the payload; a privileged one has all there are, and no filter.
    pub fn with_process(
        mut self,
        change: impl FnOnce(&mut Process),
        privileged: bool,
    ) -> Result<Self, LaunchError> {
        change(&mut self.process);
        let own = self
            .process
            .capabilities()
            .as_ref()
            .and_then(|c| c.bounding().clone());
        let bounding = if privileged {
            available_capabilities()
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect()
        } else {
            own.unwrap_or_default()
        };
        let held = if self.process.user().uid() == 0 {
            bounding.clone()
        } else {
            HashSet::new()
        };
        self.process.set_capabilities(Some(sets(bounding, held)));
        if privileged {
            self.seccomp = None;
        }
        self.args = strings(self.process.args().as_deref())?;
        self.env = strings(self.process.env().as_deref())?;
        Ok(self)
    }

    /// Who its process is.
    pub fn user(&self) -> &User {
        self.process.user()
    }

    /// Whether its process can never gain rights by execve.
    pub fn no_new_privileges(&self) -> bool {
        self.process.no_new_privileges() == Some(true)
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

    fn cgroup(&self) -> Result<CgroupSet, LaunchError> {
        let hierarchies = Hierarchies::detect().doing(|| "looking for control groups".to_owned())?;
        let place = &self.extra.cgroup;
        Ok(CgroupSet::new(&hierarchies, &place.parent, &place.name).child(PAYLOAD))
    }

    /// The payload's control group, made and with its device rules.
    fn make_cgroup(&self) -> Result<(), LaunchError> {
        let group = self.cgroup()?;
        let resources = self.spec.linux().as_ref().and_then(|l| l.resources().as_ref());
        let rules = resources.and_then(|r| r.devices().as_ref());
        let rules: Vec<DeviceRule> = rules.into_iter().flatten().map(DeviceRule::from).collect();
        let make = || {
            group.create()?;
            group.set_devices(&rules)
        };
        make().doing(|| "setting up control groups".to_owned())
    }

    /// Moves the payload in, and makes that the top of what it sees of control groups. It does so itself: were its
    /// creator in there as well, a limit of one process would be one too few.
    fn enter_cgroup(&self) -> Result<(), LaunchError> {
        let what = || "entering control groups".to_owned();
        self.cgroup()?.enter(0).doing(what)?;
        match self.makes(LinuxNamespaceType::Cgroup) {
            true => nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP).doing(what),
            false => Ok(()),
        }
    }

    /// Whether it has a new namespace of this kind.
    fn makes(&self, kind: LinuxNamespaceType) -> bool {
        let listed = self.spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        let mut new = listed.into_iter().flatten().filter(|n| n.path().is_none());
        new.any(|n| n.typ() == kind)
    }

    /// Made by the clone; an init makes its mount namespace itself, once it runs.
    fn namespaces(&self) -> i32 {
        let mounts = if self.extra.init { 0 } else { libc::CLONE_NEWNS };
        let pids = if self.makes(LinuxNamespaceType::Pid) {
            libc::CLONE_NEWPID
        } else {
            0
        };
        mounts | pids
    }
}

/// The process's; HOSTNAME, unless the table sets it, is that of the network's owner where that is shared.
fn environment(process: &Process, spec: &Spec, extra: &Extra) -> Vec<String> {
    let mut env = process.env().clone().unwrap_or_default();
    if extra.shared.net.is_some() {
        let written = format!("HOSTNAME={}", spec.hostname().as_deref().unwrap_or_default());
        let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let entry = env.iter_mut().find(|entry| **entry == written);
        entry
            .into_iter()
            .for_each(|entry| *entry = format!("HOSTNAME={here}"));
    }
    env
}

fn sets(bounding: HashSet<Capability>, held: HashSet<Capability>) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding));
    sets.set_effective(Some(held.clone()));
    sets.set_permitted(Some(held));
    sets.set_inheritable(Some(HashSet::new()));
    sets.set_ambient(Some(HashSet::new()));
    sets
}

fn strings(list: Option<&[String]>) -> Result<Vec<CString>, LaunchError> {
    let list = list.unwrap_or_default().iter().map(|s| CString::new(s.as_str()));
    list.collect::<Result<Vec<_>, _>>()
        .doing(|| "reading the command".to_owned())
}

/// Sets the resource limits of the process.
pub(crate) fn limits(plan: &Plan) -> Result<(), LaunchError> {
    identity::limits(plan.process.rlimits().as_deref().unwrap_or_default())
}

fn read_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, LaunchError> {
    let text = std::fs::read(file).doing(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text).doing(|| format!("reading {}", file.display()))
}

/// Makes the payload's control group of a bundle again, with its device rules.
pub(crate) fn renew_cgroup(bundle: &Path) -> Result<(), LaunchError> {
    Plan::read(bundle)?.make_cgroup()
}

/// The creator's work: clones the payload and gives its pid. In the payload itself it does not return.
pub(crate) fn create(plan: &Plan, report: BorrowedFd<'static>) -> Result<i32, LaunchError> {
    std::fs::create_dir_all(plan.rootfs()).doing(|| format!("making {}", plan.rootfs().display()))?;
    plan.make_cgroup()?;
    join::enter_pids(&plan.dir, &plan.extra.shared)?;
    match sys::clone_sibling(plan.namespaces()).map_err(|e| join::refused(&plan.extra.shared, e))? {
        Some(pid) => Ok(pid),
        None if plan.extra.init => {
            let error = match init::become_init(&plan.dir, report) {
                Ok(never) => match never {},
                Err(error) => plan.named(error),
            };
            Report::failure(&error).send(report);
            sys::exit_now(error.exit_code());
        }
        None => payload::become_payload(plan, report),
    }
}
