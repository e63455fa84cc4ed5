//! The process's own side: from exec to nobody's child, and the word that it is ready.
//!
//! daemon(7) has the steps; the one that waits until all is made, and hears why it was not, is "SysV daemons", 14 and
//! 15 there.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process::ExitCode;

use rustix::fs::Mode;

use super::sys::{self, Side};

/// What the process that was called reads when all went well.
const READY: &str = "ready";

/// Forks twice, so that what goes on is nobody's child and leads no session it could get a terminal in. There `set_up`
/// is called, and `serve` with what it made; the code is what the process is to leave with. In the process that was
/// called this returns when `set_up` has: successfully, or with one line on standard error that says why not.
///
/// To be called with one thread only, before anything is opened: inherited descriptors but the standard three are
/// closed. The standard three are `set_up`'s to part with, by [`leave_surroundings`] and nix's `dup2_stdin`.
///
/// # Errors
/// Where the descriptors cannot be closed, or there can be no pipe or process.
pub fn run<T>(
    set_up: impl FnOnce() -> Result<T, String>,
    serve: impl FnOnce(T) -> ExitCode,
) -> io::Result<ExitCode> {
    sys::close_inherited()?;
    Ok(match fork_twice()? {
        Role::Called(pipe) => report(pipe),
        Role::Detached(pipe) => go_on(pipe, set_up, serve),
    })
}

enum Role {
    /// The process that was called, which somebody waits for.
    Called(PipeReader),
    /// The one that stays.
    Detached(PipeWriter),
}

fn fork_twice() -> io::Result<Role> {
    let (reader, writer) = io::pipe()?;
    if let Side::Parent(pid) = sys::fork()? {
        drop(writer);
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
        return Ok(Role::Called(reader));
    }
    drop(reader);
    let forked = nix::unistd::setsid()
        .map_err(io::Error::from)
        .and_then(|_| sys::fork());
    match forked {
        Ok(Side::Child) => Ok(Role::Detached(writer)),
        Ok(Side::Parent(_)) => sys::leave(0),
        Err(_) => sys::leave(1),
    }
}

/// Passes on what the other says: nothing but "ready" is good.
fn report(mut pipe: PipeReader) -> ExitCode {
    let mut text = String::new();
    let read = pipe.read_to_string(&mut text);
    if read.is_ok() && text == READY {
        return ExitCode::SUCCESS;
    }
    let why = match text.as_str() {
        "" => "it ended while it was getting ready",
        why => why,
    };
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

fn go_on<T>(
    mut pipe: PipeWriter,
    set_up: impl FnOnce() -> Result<T, String>,
    serve: impl FnOnce(T) -> ExitCode,
) -> ExitCode {
    let made = set_up();
    let text = made.as_ref().map_or_else(String::as_str, |_| READY);
    // Nobody reading is no reason to leave: the agent died, its successor will find this process.
    let _ = pipe.write_all(text.as_bytes());
    drop(pipe);
    match made {
        Ok(made) => {
            sys::trim_heap();
            serve(made)
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Away from where it was started: standard output and error, the working directory, the umask, and the name that
/// `ps` and `top` show, which would be "exe" for what is executed through /proc/self/exe. Gives /dev/null, for
/// standard input when that is done with.
///
/// # Errors
/// Where /dev/null cannot be opened, or one of them cannot be left.
pub fn leave_surroundings(umask: Mode) -> io::Result<File> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(umask);
    // It goes on as well under another name.
    let _ = rustix::thread::set_name(c"wharf");
    Ok(null)
}
