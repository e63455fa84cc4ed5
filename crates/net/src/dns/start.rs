//! From exec to a server that is ready: lock, rights given up. What it is besides, [`detach`] does.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use detach::{heap, lock};
use rustix::fs::Mode;

use super::files::{self, Files, Process};
use super::sandbox;
use super::server::Server;

/// What the server keeps of free memory.
const HEAP: heap::Limits = heap::Limits {
    trim_threshold: 64 << 10,
    top_pad: 16 << 10,
    mmap_threshold: 128 << 10,
};

/// Entry point of `wharf dns`: to be called before anything large is touched or a thread is started. Returns in the
/// process that was called when the server is ready or has failed to be, and in the server itself when it leaves.
pub fn main() -> ExitCode {
    heap::keep_small(HEAP);
    let serve = |(_lock, mut server): (File, Server)| {
        let Err(_gone) = server.run();
        ExitCode::FAILURE
    };
    detach::run(set_up, serve).unwrap_or_else(|e| {
        eprintln!("error: cannot begin a name server: {e}");
        ExitCode::FAILURE
    })
}

/// The server, and the lock it lives by.
fn set_up() -> Result<(File, Server), String> {
    let run_dir = std::env::var_os("WHARF_RUN_DIR")
        .ok_or("WHARF_RUN_DIR is not set: the name server is started by the agent, not by hand")?;
    let files = Files::new(Path::new(&run_dir));
    let told = |what: String| move |e: io::Error| format!("cannot {what}: {e}");
    let lock = lock::take(&files.lock)
        .map_err(told(format!("lock {}", files.lock.display())))?
        .ok_or_else(|| format!("a name server for {} runs already", files.dir.display()))?;
    Process::own()
        .and_then(|process| files::write(&files.process, &process))
        .map_err(told(format!("write {}", files.process.display())))?;
    let control = leave_surroundings().map_err(told("let go of its standard streams".to_owned()))?;
    let server = Server::new(control).map_err(told("watch its control socket".to_owned()))?;
    sandbox::enter().map_err(told("give up its rights".to_owned()))?;
    Ok((lock, server))
}

/// Away from where it was started. Gives what was standard input: the control socket.
pub fn leave_surroundings() -> io::Result<OwnedFd> {
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = detach::leave_surroundings(Mode::from_raw_mode(0o077))?;
    nix::unistd::dup2_stdin(&null)?;
    rustix::io::ioctl_fionbio(&control, true)?;
    Ok(control)
}
