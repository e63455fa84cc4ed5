//! From exec to a server that is ready: double fork, lock, rights given up.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use super::files::{self, Files, Process};
use super::sandbox;
use super::server::Server;
use super::sys::{self, Side};

/// What the parent reads when all went well.
const READY: &str = "ready";

/// Entry point of `wharf dns`: to be called before anything large is touched or a thread is started. Returns in the
/// process that was called when the server is ready or has failed to be, and in the server itself when it leaves.
pub fn main() -> ExitCode {
    sys::keep_heap_small();
    match begin() {
        Ok(Role::Parent(pipe)) => report(pipe),
        Ok(Role::Server(pipe)) => become_server(pipe),
        Err(e) => {
            eprintln!("error: cannot begin a name server: {e}");
            ExitCode::FAILURE
        }
    }
}

enum Role {
    Parent(PipeReader),
    Server(PipeWriter),
}

/// Forks twice, so that the server is nobody's child and leads no session it could get a terminal in.
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
        Ok(Side::Child) => Ok(Role::Server(writer)),
        Ok(Side::Parent(_)) => sys::leave(0),
        Err(_) => sys::leave(1),
    }
}

/// Passes on what the server says: nothing but "ready" is good.
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
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

fn become_server(mut pipe: PipeWriter) -> ExitCode {
    let made = set_up();
    let text = made.as_ref().map_or_else(String::as_str, |_| READY);
    // Nobody reading is no reason to leave: the agent died, its successor will find the server.
    let _ = pipe.write_all(text.as_bytes());
    drop(pipe);
    match made {
        Ok((_lock, mut server)) => {
            sys::trim_heap();
            let Err(_gone) = server.run();
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// The server, and the lock it lives by.
fn set_up() -> Result<(File, Server), String> {
    let run_dir = std::env::var_os("WHARF_RUN_DIR")
        .ok_or("WHARF_RUN_DIR is not set: the name server is started by the agent, not by hand")?;
    let files = Files::new(Path::new(&run_dir));
    let told = |what: String| move |e: io::Error| format!("cannot {what}: {e}");
    let lock = files::take_lock(&files.lock)
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
fn leave_surroundings() -> io::Result<OwnedFd> {
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Only what `ps` and `top` show.
    let _ = rustix::thread::set_name(c"wharf");
    rustix::io::ioctl_fionbio(&control, true)?;
    Ok(control)
}
