//! From exec to a shim that is ready: parameters, double fork, lock, cgroup, namespaces, socket.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use model::name::{ContainerId, Name};
use model::paths::Roots;
use nix::fcntl::{FcntlArg, fcntl};

use super::files::{self, Files, ShimConfig};
use super::supervise::{Launcher, Shim};
use super::sys::{self, Side};
use crate::bundle::Unshare;
use crate::cgroup::{CgroupError, CgroupSet, Hierarchies, PAYLOAD, SHIM};
use crate::launch::{self, is_sealed, sealed_exe};

/// What the parent reads when all went well.
const READY: &str = "ready";

/// Runs the shim this process was executed as: returns in the process that was called, when the shim is ready or has
/// failed to be, and in the shim itself when it leaves.
pub fn main(launcher: Launcher) -> ExitCode {
    sys::keep_heap_small();
    match seal().and_then(|()| begin()) {
        Ok(Role::Parent(pipe)) => report(pipe),
        Ok(Role::Shim(pipe)) => become_shim(launcher, pipe),
        Err(e) => {
            eprintln!("error: cannot begin a shim: {e}");
            ExitCode::FAILURE
        }
    }
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

enum Role {
    Parent(PipeReader),
    Shim(PipeWriter),
}

/// Forks twice, so that the shim is nobody's child and leads no session it could get a terminal in.
fn begin() -> io::Result<Role> {
    sys::close_inherited()?;
    let (reader, writer) = io::pipe()?;
    if let Side::Parent(pid) = sys::fork()? {
        drop(writer);
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
        return Ok(Role::Parent(reader));
    }
    drop(reader);
    let forked = nix::unistd::setsid()
        .map_err(io::Error::from)
        .and_then(|_| sys::fork());
    match forked {
        Ok(Side::Child) => Ok(Role::Shim(writer)),
        Ok(Side::Parent(_)) => sys::leave(0),
        Err(_) => sys::leave(1),
    }
}

/// Passes on what the shim says: nothing but "ready" is good.
fn report(mut pipe: PipeReader) -> ExitCode {
    let mut text = String::new();
    let read = pipe.read_to_string(&mut text);
    if read.is_ok() && text == READY {
        return ExitCode::SUCCESS;
    }
    let why = if text.is_empty() {
        "it ended while it was getting ready"
    } else {
        text.as_str()
    };
    eprintln!("error: the shim did not start: {why}");
    ExitCode::FAILURE
}

fn become_shim(launcher: Launcher, mut pipe: PipeWriter) -> ExitCode {
    // The pipe is what the caller listens to, not the standard streams. Standard input is the gate (`client::gate`),
    // let go of when all is made.
    let made = quiet()
        .map_err(|e| format!("cannot open /dev/null: {e}"))
        .and_then(|null| Ok((set_up(launcher)?, null)))
        .and_then(|(shim, null)| match nix::unistd::dup2_stdin(&null) {
            Ok(()) => Ok(shim),
            Err(e) => Err(format!("cannot let go of its standard input: {e}")),
        });
    let text = made.as_ref().map_or_else(String::as_str, |_| READY);
    // Nobody reading is no reason to leave: the agent died, its successor will find the shim.
    let _ = pipe.write_all(text.as_bytes());
    drop(pipe);
    match made {
        Ok(mut shim) => {
            sys::trim_heap();
            shim.supervise();
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Output away from wherever it went. Gives /dev/null.
fn quiet() -> io::Result<File> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Executed through /proc/self/exe, the process would be called "exe". Only what `ps` and `top` show.
    let _ = rustix::thread::set_name(c"wharf");
    Ok(null)
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

/// The lock that says "this container has a shim" for as long as the descriptor is open (fcntl(2), OFD locks).
fn take_lock(path: &Path) -> Result<OwnedFd, String> {
    let told = |e: io::Error| format!("cannot lock {}: {e}", path.display());
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(told)?;
    match try_lock(&file).map_err(told)? {
        true => Ok(file.into()),
        false => Err("this container has a shim already".to_owned()),
    }
}

/// Takes an exclusive lock for as long as the open file lives, in whichever processes; false if somebody has it.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file_lock())) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Whether somebody holds the lock; asking does not take it.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    let mut lock = whole_file_lock();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn whole_file_lock() -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or(1),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
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
    fn a_lock_is_seen_and_ends_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.lock");
        assert!(!is_locked(&path).unwrap());
        let held = take_lock(&path).unwrap();
        assert!(is_locked(&path).unwrap());
        assert!(take_lock(&path).unwrap_err().contains("has a shim already"));
        drop(held);
        assert!(!is_locked(&path).unwrap());
        take_lock(&path).unwrap();
    }
}
