//! `init = true`: a first process that reaps what is orphaned in the container, forwards signals to the program, and
//! ends with its code.
//!
//! It is our own binary, executed anew by the payload's first process from the read-only clone the shim runs from
//! ([`crate::launch::sealed_exe`]), before it has entered anything: so it finds its libraries on the host, carries
//! nothing of the shim's memory, and shows as `wharf init`. It then becomes the payload as any other would, up to the
//! program's execve, which a child of it makes. What is left has the rights of the program and not more: user,
//! capabilities, filter. Nobody in the container looks into it (it is not dumpable), and `/proc/1/exe` gives EROFS to
//! whoever would write to it.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::SigSet;
use rustix::fs::FileType;
use rustix::process::{Pid, WaitOptions, WaitStatus, setpgid, wait};

use crate::embedded::{Doing, Plan, payload, sys};
use crate::launch::{LaunchError, Report};

/// What the process is told by: the bundle's directory and the number of the descriptor reports go to.
const BUNDLE: &str = "WHARF_INIT_BUNDLE";
const REPORT: &str = "WHARF_INIT_REPORT";

/// Executes it in place of this process: the payload's first one, with its descriptors 0, 1 and 2.
pub(crate) fn become_init(bundle: &Path, report: BorrowedFd<'_>) -> Result<Infallible, LaunchError> {
    let text = |bytes: Vec<u8>| CString::new(bytes).doing(|| "reading the bundle's path".to_owned());
    let mut place = format!("{BUNDLE}=").into_bytes();
    place.extend(bundle.as_os_str().as_bytes());
    let env = [
        text(place)?,
        text(format!("{REPORT}={}", report.as_raw_fd()).into_bytes())?,
    ];
    rustix::io::fcntl_setfd(report, rustix::io::FdFlags::empty())
        .doing(|| "passing on the report's pipe".to_owned())?;
    nix::unistd::execve(c"/proc/self/exe", &[c"wharf", c"init"], &env)
        .doing(|| "executing the container's init".to_owned())
}

/// Entry point of `wharf init`: to be called before anything large is touched or a thread is started.
pub fn main() -> ExitCode {
    let Some((bundle, report)) = told() else {
        eprintln!("error: an init is started with its container (`init = true`), not by hand");
        return ExitCode::from(2);
    };
    detach::heap::keep_small(crate::shim::start::HEAP);
    // Executed through /proc/self/exe, the process would be called "exe".
    let _ = rustix::thread::set_name(c"wharf");
    let begin = || {
        sys::not_dumpable().doing(|| "hiding this process".to_owned())?;
        rustix::io::fcntl_setfd(report, rustix::io::FdFlags::CLOEXEC)
            .doing(|| "taking the report's pipe".to_owned())?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .doing(|| "making the container's mount namespace".to_owned())?;
        Plan::read(&bundle)
    };
    match begin() {
        Ok(plan) => payload::become_payload(&plan, report),
        Err(error) => {
            Report::failure(&error).send(report);
            ExitCode::FAILURE
        }
    }
}

/// None unless started by [`become_init`].
fn told() -> Option<(PathBuf, BorrowedFd<'static>)> {
    let bundle = PathBuf::from(std::env::var_os(BUNDLE)?);
    let number: RawFd = std::env::var(REPORT).ok()?.parse().ok()?;
    let report = sys::inherited(number).filter(|_| number > 2)?;
    let stat = rustix::fs::fstat(report).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::Fifo).then_some((bundle, report))
}

/// Parts ways: comes back in the program to be, in a process group of its own. In the init it never does.
pub(crate) fn part() -> Result<(), LaunchError> {
    // In a pid namespace that is another's, orphans would fall to that one's first process.
    sys::become_subreaper().doing(|| "becoming the parent of orphans".to_owned())?;
    // From before there is a child: none of its ends is missed.
    SigSet::all()
        .thread_block()
        .doing(|| "blocking signals".to_owned())?;
    match sys::fork().doing(|| "forking the program".to_owned())? {
        None => {
            // Or a program that signals its whole group would have the init tell it once more.
            setpgid(None, None).doing(|| "making a process group".to_owned())?;
            sys::reset_signals().doing(|| "resetting signals".to_owned())
        }
        Some(program) => watch(program),
    }
}

/// Until the program ends: reaps, and passes on what is sent here.
fn watch(program: i32) -> ! {
    // The report's pipe says by its end that the program runs.
    let _ = sys::close_all();
    // Nothing below the program's working directory is kept busy.
    let _ = rustix::process::chdir(c"/");
    loop {
        match sys::wait_signal() {
            Ok(libc::SIGCHLD) | Err(_) => {
                if let Some(code) = reap(program) {
                    sys::exit_now(code);
                }
            }
            // The terminal's to this group, which is not the program's.
            Ok(libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => {}
            // It may have ended this instant; that comes as the next signal.
            Ok(signal) => drop(sys::send_signal(program, signal)),
        }
    }
}

/// Takes all that has ended; the program's code if it is among it, 128 and the signal where one ended it.
fn reap(program: i32) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if Some(pid) == Pid::from_raw(program) {
            code = ended(status);
        }
    }
    code
}

fn ended(status: WaitStatus) -> Option<i32> {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}
