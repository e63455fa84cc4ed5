//! The payload before it is one: from its new namespaces to execve.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::error::Doing;
use super::identity::{self, Sets};
use super::path::{self, Make};
use super::{Plan, devices, hide, mounts, overlay, program, sys};
use crate::launch::{LaunchError, Report};
use crate::{init, join};

/// Never comes back: the program runs, or the reason why not was reported.
pub fn become_payload(plan: &Plan, report: BorrowedFd<'static>) -> ! {
    let error = match run(plan, report) {
        Ok(never) => match never {},
        Err(error) => plan.named(error),
    };
    Report::failure(&error).send(report);
    sys::exit_now(error.exit_code());
}

fn run(plan: &Plan, report: BorrowedFd<'static>) -> Result<Infallible, LaunchError> {
    sys::not_dumpable().doing(|| "hiding this process".to_owned())?;
    rustix::process::setsid().doing(|| "making a session".to_owned())?;
    sys::new_session_keyring().doing(|| "making a session keyring".to_owned())?;
    rustix::process::umask(Mode::empty());
    set_oom_score(plan)?;
    plan.enter_cgroup()?;
    let root = build_root(plan)?;
    overlay::pivot(root).doing(|| "entering the container's root".to_owned())?;
    // From here on no descriptor of the host is open: none can be reached through /proc/self/fd (CVE-2024-21626).
    sys::close_all_but(report).doing(|| "closing descriptors".to_owned())?;
    super::limits(plan)?;
    take_identity(plan)?;
    if plan.extra.init {
        run_under_init(plan, report)
    } else {
        run_program(plan, report)
    }
}

/// Written through the host's /proc while it is there. Below the shim's own value it takes CAP_SYS_RESOURCE.
pub fn set_oom_score(plan: &Plan) -> Result<(), LaunchError> {
    let Some(score) = plan.process.oom_score_adj() else {
        return Ok(());
    };
    let file = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(file).doing(|| format!("reading {file}"))?;
    if now.trim() == score.to_string() {
        return Ok(());
    }
    std::fs::write(file, score.to_string()).doing(|| format!("setting the oom score to {score}"))
}

/// All mounts, in the host's view: the root is not entered before it is whole. Descriptors opened here are closed by
/// number afterwards, so that none is forgotten.
fn build_root(plan: &Plan) -> Result<BorrowedFd<'static>, LaunchError> {
    let none = Vec::new();
    let mounts = plan.spec.mounts().as_ref().unwrap_or(&none);
    let shared = join::shared_memory(&plan.dir, &plan.extra.shared)?;
    let given = shared.as_ref().map(|tree| (Path::new("/dev/shm"), tree));
    let prepared = mounts::prepare_with(mounts, given)?;
    let linux = plan.spec.linux().clone().unwrap_or_default();
    let from_host = mounts.iter().any(|m| {
        let tied = |o: &String| matches!(o.as_str(), "shared" | "rshared" | "slave" | "rslave");
        m.options().iter().flatten().any(tied)
    });
    mounts::cut_propagation(from_host).doing(|| "leaving the host's mounts".to_owned())?;
    let root = sys::leak(overlay::mount(&plan.extra.overlay, true, &plan.rootfs())?);
    for mount in &prepared {
        mounts::make(root, mount)?;
    }
    let dev = Path::new("/dev");
    if mounts
        .iter()
        .any(|m| m.destination() == dev && m.typ().as_deref() == Some("tmpfs"))
    {
        devices::defaults(root)?;
    }
    devices::wanted(root, linux.devices().as_deref().unwrap_or_default())?;
    hide::sysctls(root, &linux.sysctl().clone().unwrap_or_default())?;
    make_working_dir(plan, root)?;
    hide::lock(root, linux.readonly_paths().as_deref().unwrap_or_default())?;
    hide::mask(root, linux.masked_paths().as_deref().unwrap_or_default())?;
    if plan.spec.root().as_ref().and_then(|r| r.readonly()) == Some(true) {
        hide::lock_root(root)?;
    }
    prepared.into_iter().for_each(std::mem::forget);
    shared.into_iter().for_each(std::mem::forget);
    Ok(root)
}

/// As Docker does, the working directory is made where the image lacks it.
fn make_working_dir(plan: &Plan, root: BorrowedFd<'_>) -> Result<(), LaunchError> {
    let cwd = plan.process.cwd();
    path::create(root, cwd, Make::Directory)
        .map(drop)
        .map_err(|e| bad_working_dir(cwd, &e))
}

fn bad_working_dir(cwd: &Path, error: &io::Error) -> LaunchError {
    let why = match error.raw_os_error() {
        Some(libc::ELOOP) => "it leads through a link of /proc, or in circles".to_owned(),
        Some(libc::ENOTDIR) => "it is not a directory".to_owned(),
        _ => error.to_string(),
    };
    LaunchError::Setup(format!("working_dir {}: {why}", cwd.display()))
}

/// The order matters: bounding set and ids while we may, then the directory and the program with the user's own
/// rights, then what cannot be undone. Without no_new_privs loading a filter takes CAP_SYS_ADMIN, so there it comes
/// before the capabilities go.
pub fn take_identity(plan: &Plan) -> Result<(), LaunchError> {
    let cwd = plan.process.cwd();
    let sets = Sets::of(plan.process.capabilities().as_ref());
    let as_root = enter(cwd);
    identity::become_user(plan.process.user(), &sets)?;
    if !plan.no_new_privileges() {
        load_filter(plan)?;
    }
    identity::finish(&sets)?;
    if as_root.is_err() {
        enter(cwd).map_err(|e| bad_working_dir(cwd, &e))?;
    }
    check_working_dir(cwd)
}

/// What is left to do for a process that is who it is to be.
pub fn run_program(plan: &Plan, report: BorrowedFd<'_>) -> Result<Infallible, LaunchError> {
    execute(plan, &get_ready(plan, report)?)
}

/// The same, by a child: this process goes on as the container's init.
fn run_under_init(plan: &Plan, report: BorrowedFd<'_>) -> Result<Infallible, LaunchError> {
    let ready = get_ready(plan, report)?;
    init::part()?;
    execute(plan, &ready)
}

/// A program that was found, and the root it is in.
struct Ready {
    root: OwnedFd,
    program: PathBuf,
    file: CString,
}

/// All but the execve.
fn get_ready(plan: &Plan, report: BorrowedFd<'_>) -> Result<Ready, LaunchError> {
    rustix::process::umask(Mode::from_raw_mode(plan.process.user().umask().unwrap_or(0o022)));
    sys::reset_signals().doing(|| "resetting signals".to_owned())?;
    let root: OwnedFd = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening the root".to_owned())?;
    let program = program::find(
        root.as_fd(),
        command(plan)?,
        search_path(plan),
        plan.process.cwd(),
    )?;
    let file = CString::new(program.as_os_str().as_bytes()).doing(|| "reading the command".to_owned())?;
    Report::Ready.send(report);
    if plan.no_new_privileges() {
        rustix::thread::set_no_new_privs(true).doing(|| "giving up new privileges".to_owned())?;
        load_filter(plan)?;
    }
    Ok(Ready { root, program, file })
}

fn execute(plan: &Plan, ready: &Ready) -> Result<Infallible, LaunchError> {
    let (args, env) = (strings(&plan.args), strings(&plan.env));
    match nix::unistd::execve(&ready.file, &args, &env) {
        Ok(never) => match never {},
        Err(e) => Err(program::explain(ready.root.as_fd(), &ready.program, &e.into())),
    }
}

fn load_filter(plan: &Plan) -> Result<(), LaunchError> {
    match &plan.seccomp {
        Some(filter) => sys::load_seccomp(filter).doing(|| "loading the seccomp filter".to_owned()),
        None => Ok(()),
    }
}

fn strings(list: &[CString]) -> Vec<&CStr> {
    list.iter().map(CString::as_c_str).collect()
}

fn command(plan: &Plan) -> Result<&str, LaunchError> {
    let first = plan.process.args().as_deref().and_then(<[String]>::first);
    first
        .map(String::as_str)
        .ok_or_else(|| LaunchError::Setup("there is no command".to_owned()))
}

fn search_path(plan: &Plan) -> &str {
    let env = plan.process.env().as_deref().unwrap_or_default();
    env.iter()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or_default()
}

fn enter(cwd: &Path) -> io::Result<()> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let dir = path::open(&root, cwd, OFlags::PATH | OFlags::DIRECTORY)?;
    Ok(rustix::process::fchdir(&dir)?)
}

/// The kernel says "(unreachable)" of a directory that is outside the root.
fn check_working_dir(cwd: &Path) -> Result<(), LaunchError> {
    let here = rustix::process::getcwd(Vec::new()).map_err(|e| bad_working_dir(cwd, &e.into()))?;
    if here.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(LaunchError::Setup(format!(
            "working_dir {}: it is outside the container",
            cwd.display()
        )))
    }
}
