//! From exec to a shim that is ready: parameters, lock, cgroup, namespaces, socket. What it is besides, [`detach`] does.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use detach::{heap, lock};
use model::name::{ContainerId, Name};
use model::paths::Roots;
use rustix::fs::Mode;

use super::files::{self, Files, ShimConfig};
use super::supervise::{Launcher, Shim};
use super::sys;
use crate::bundle::Unshare;
use crate::cgroup::{CgroupError, CgroupSet, Hierarchies, PAYLOAD, SHIM};
use crate::launch::{self, is_sealed, sealed_exe};

/// What a shim and a container's init keep of free memory.
pub const HEAP: heap::Limits = heap::Limits {
    arenas: 1,
    trim_threshold: 16 << 10,
    top_pad: 4 << 10,
    mmap_threshold: 32 << 10,
};

/// Runs the shim this process was executed as: returns in the process that was called, when the shim is ready or has
/// failed to be, and in the shim itself when it leaves.
pub fn main(launcher: Launcher) -> ExitCode {
    heap::keep_small(HEAP);
    let serve = |mut shim: Shim| {
        shim.supervise();
        ExitCode::SUCCESS
    };
    let done = seal().and_then(|()| detach::run(|| become_shim(launcher), serve));
    done.unwrap_or_else(|e| {
        eprintln!("error: cannot begin a shim: {e}");
        ExitCode::FAILURE
    })
}

/// Goes on from a read-only clone of the binary, if this is not one: containers get to see the shim's /proc/PID/exe.
fn seal() -> io::Result<()> {
    if is_sealed()? {
        return Ok(());
    }
    let exe = sealed_exe()?;
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| "wharf".into());
    let path = format!("/proc/self/fd/{}", exe.as_raw_fd());
    Err(Command::new(path).arg0(name).args(args).exec())
}

fn become_shim(launcher: Launcher) -> Result<Shim, String> {
    // Standard input is the gate (`client::gate`), let go of when all is made.
    let null = detach::leave_surroundings(Mode::from_raw_mode(0o022))
        .map_err(|e| format!("cannot leave where it was started: {e}"))?;
    let shim = set_up(launcher)?;
    nix::unistd::dup2_stdin(&null).map_err(|e| format!("cannot let go of its standard input: {e}"))?;
    Ok(shim)
}

fn set_up(launcher: Launcher) -> Result<Shim, String> {
    let (roots, files) = places()?;
    let config: ShimConfig = files::read(&files.config())
        .map_err(|e| format!("cannot read {}: {e}", files.config().display()))?
        .ok_or_else(|| format!("there is no {}", files.config().display()))?;
    let lock = take_lock(&files.lock())?;
    let told = |what: &str, e: &dyn std::fmt::Display| format!("cannot {what}: {e}");
    files::remove(&files.shim_state()).map_err(|e| told("remove the state of the last shim", &e))?;
    let payload = enter_cgroup(&config).map_err(|e| e.to_string())?;
    own_namespaces(&config, &files)?;
    Shim::new(launcher, roots, files, config, payload, lock)
        .map_err(|e| told("open its socket and write its state", &e))
}

/// Moves into `PARENT/NAME-ID12/shim`; the payload's group is the one beside it.
fn enter_cgroup(config: &ShimConfig) -> Result<CgroupSet, CgroupError> {
    let hierarchies = Hierarchies::detect()?;
    let name = group_name(&config.name, &config.id);
    let both = CgroupSet::new(&hierarchies, &config.cgroup_parent, &name);
    let own = both.child(SHIM);
    own.create()?;
    own.enter(0)?;
    let payload = both.child(PAYLOAD);
    payload.create()?;
    Ok(payload)
}

/// `NAME-ID12`.
pub fn group_name(name: &Name, id: &ContainerId) -> String {
    format!("{name}-{}", id.short())
}

/// Where it works, from the environment.
fn places() -> Result<(Roots, Files), String> {
    let get = |key: &str| {
        std::env::var_os(key)
            .ok_or_else(|| format!("{key} is not set: a shim is started by the agent, not by hand"))
    };
    let id = get("WHARF_CONTAINER_ID")?;
    let id: ContainerId = id
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("WHARF_CONTAINER_ID {id:?} is not a container id"))?;
    let roots = Roots {
        state: PathBuf::from(get("WHARF_STATE_DIR")?),
        run: PathBuf::from(get("WHARF_RUN_DIR")?),
    };
    let files = Files::new(&roots, &id);
    Ok((roots, files))
}

/// The lock that says "this container has a shim" for as long as the descriptor is open.
fn take_lock(path: &Path) -> Result<OwnedFd, String> {
    match lock::take(path) {
        Ok(Some(file)) => Ok(file.into()),
        Ok(None) => Err("this container has a shim already".to_owned()),
        Err(e) => Err(format!("cannot lock {}: {e}", path.display())),
    }
}

/// Moves into new namespaces, which live as long as the shim stays in them, and into those of others that it shares.
fn own_namespaces(config: &ShimConfig, files: &Files) -> Result<(), String> {
    let own = Unshare {
        net: config.own_net,
        uts: config.hostname.is_some(),
        ipc: config.own_ipc,
    };
    launch::unshare(own, config.hostname.as_deref().unwrap_or_default()).map_err(|e| e.to_string())?;
    crate::join::enter(&files.run, &config.shared).map_err(|e| e.to_string())?;
    if config.own_net {
        sys::loopback_up().map_err(|e| format!("cannot bring lo up in its network namespace: {e}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_shim_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.lock");
        let held = take_lock(&path).unwrap();
        assert!(take_lock(&path).unwrap_err().contains("has a shim already"));
        drop(held);
        take_lock(&path).unwrap();
    }
}
