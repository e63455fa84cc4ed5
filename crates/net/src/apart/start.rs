//! From exec to a server that is ready: lock, rights given up. What it is besides, [`detach`] does.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use detach::{heap, lock};
use rustix::fs::Mode;

use super::files::{self, Files, Process};
use super::{Server, sandbox};

/// What a server keeps of free memory.
const HEAP: heap::Limits = heap::Limits {
    arenas: 1,
    trim_threshold: 64 << 10,
    top_pad: 16 << 10,
    mmap_threshold: 128 << 10,
};

/// Entry point of such a process: to be called before anything large is touched or a thread is started. Returns in the
/// process that was called when the server is ready or has failed to be, and in the server itself when it leaves.
pub(crate) fn main<S: Server>() -> ExitCode {
    heap::keep_small(HEAP);
    let serve = |(_lock, mut server): (File, S)| {
        let Err(_gone) = server.run();
        ExitCode::FAILURE
    };
    detach::run(set_up, serve).unwrap_or_else(|e| {
        eprintln!("error: cannot begin `wharf {}`: {e}", S::ROLE.command);
        ExitCode::FAILURE
    })
}

/// The server, and the lock it lives by.
fn set_up<S: Server>() -> Result<(File, S), String> {
    let command = S::ROLE.command;
    let run_dir = std::env::var_os("WHARF_RUN_DIR").ok_or_else(|| {
        format!("WHARF_RUN_DIR is not set: `wharf {command}` is started by the agent, not by hand")
    })?;
    let files = Files::new(Path::new(&run_dir), &S::ROLE);
    let told = |what: String| move |e: io::Error| format!("cannot {what}: {e}");
    let lock = lock::take(&files.lock)
        .map_err(told(format!("lock {}", files.lock.display())))?
        .ok_or_else(|| format!("another one for {} runs already", files.dir.display()))?;
    Process::own()
        .and_then(|process| files::write(&files.process, &process))
        .map_err(told(format!("write {}", files.process.display())))?;
    let control = leave_surroundings().map_err(told("let go of its standard streams".to_owned()))?;
    let server = S::new(control).map_err(told("watch its control socket".to_owned()))?;
    sandbox::enter(S::ROLE.open_files).map_err(told("give up its rights".to_owned()))?;
    Ok((lock, server))
}

/// Away from where it was started. Gives what was standard input: the control socket.
fn leave_surroundings() -> io::Result<OwnedFd> {
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = detach::leave_surroundings(Mode::from_raw_mode(0o077))?;
    nix::unistd::dup2_stdin(&null)?;
    rustix::io::ioctl_fionbio(&control, true)?;
    Ok(control)
}
