//! The creator of a process in a running container: forked from the shim, it enters and clones, and is gone.
//!
//! The order is that of `embedded::payload`, for the same reasons: what needs the host (files, control groups, the oom
//! score) comes before the namespaces are joined, and every descriptor but the pipe is closed before anything that can
//! be seen from inside exists. Where the filter may be loaded without rights (no_new_privs), they are given up before
//! the clone, so that even a container with CAP_SYS_PTRACE finds nothing worth taking over.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use oci_spec::runtime::{Process, User, UserBuilder};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};

use super::ExecSpec;
use super::group;
use crate::embedded::{Doing, Plan, limits, payload, sys};
use crate::launch::{LaunchError, Report, take_stdio};
use crate::prepare::{UserFiles, image_file, resolve_user};

/// No specification is longer, in bytes; execve(2) takes less.
const MOST: u64 = 8 << 20;

/// What a creator works on.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Directory of the container's bundle.
    pub bundle: &'a Path,
    /// Its payload, by pidfd.
    pub payload: BorrowedFd<'a>,
    /// The control groups, by their directories.
    pub groups: &'a [PathBuf],
    /// A file with the [`ExecSpec`] as JSON.
    pub spec: BorrowedFd<'a>,
    pub stdio: [BorrowedFd<'a>; 3],
}

/// Forks the creator. Gives its pid and the pipe it and the process report to: lines of [`Report`], until execve or the
/// end of both.
pub fn begin(entry: &Entry<'_>) -> io::Result<(i32, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    match sys::fork()? {
        Some(pid) => Ok((pid, reader)),
        None => {
            drop(reader);
            be_creator(entry, sys::leak(writer))
        }
    }
}

fn be_creator(entry: &Entry<'_>, report: BorrowedFd<'static>) -> ! {
    let error = match read(entry) {
        Err(error) => error,
        Ok((spec, plan)) => match create(entry, &spec, plan, report) {
            Ok(()) => sys::exit_now(0),
            Err(error) => error,
        },
    };
    Report::failure(&error).send(report);
    sys::exit_now(0);
}

fn read(entry: &Entry<'_>) -> Result<(ExecSpec, Plan), LaunchError> {
    sys::not_dumpable().doing(|| "hiding this process".to_owned())?;
    // The descriptor it comes in may be one of those that become 0, 1 and 2.
    let what = || "reading what is to be run".to_owned();
    let mut file = File::from(entry.spec.try_clone_to_owned().doing(what)?);
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0)).doing(what)?;
    file.take(MOST).read_to_end(&mut text).doing(what)?;
    let spec = serde_json::from_slice(&text).doing(what)?;
    Ok((spec, Plan::read(entry.bundle)?))
}

fn create(
    entry: &Entry<'_>,
    spec: &ExecSpec,
    plan: Plan,
    report: BorrowedFd<'static>,
) -> Result<(), LaunchError> {
    payload::set_oom_score(&plan)?;
    group::enter(entry.groups)
        .map_err(|(dir, e)| LaunchError::Setup(format!("entering control group {}: {e}", dir.display())))?;
    let payload = entry.payload.try_clone_to_owned();
    let payload = payload.doing(|| "finding the container".to_owned())?;
    take_stdio(entry.stdio)?;
    sys::new_session_keyring().doing(|| "making a session keyring".to_owned())?;
    join(payload)?;
    // From here on no descriptor of the host is open but the pipe and what is passed on (CVE-2024-21626).
    sys::close_all_but(report).doing(|| "closing descriptors".to_owned())?;
    let user = who(spec, &plan)?;
    let plan = plan.with_process(|own| process(own, spec, user), spec.privileged)?;
    own_stdio(&plan, spec.tty);
    limits(&plan)?;
    let early = plan.no_new_privileges();
    if early {
        payload::take_identity(&plan)?;
    }
    let (go, told) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "making a pipe".to_owned())?;
    match sys::clone_sibling(0).doing(|| "forking".to_owned())? {
        Some(pid) => {
            drop(go);
            Report::Pid { pid }.send(report);
            // Its pid is in the pipe before it can have ended. Where it was killed already there is nobody to tell.
            let _ = rustix::io::write(&told, b"g");
            Ok(())
        }
        None => {
            drop(told);
            become_process(&plan, spec, go, early, report)
        }
    }
}

/// All of the payload's namespaces at once, so that it is the same payload's (setns(2) with a pidfd). The pid namespace
/// is that of processes made from now on.
fn join(payload: OwnedFd) -> Result<(), LaunchError> {
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    let joined = nix::sched::setns(&payload, all);
    // It is closed with all the others.
    std::mem::forget(payload);
    match joined {
        Err(nix::Error::ESRCH) => Err(LaunchError::Setup("it has ended meanwhile".to_owned())),
        result => result.doing(|| "entering the container".to_owned()),
    }
}

/// A user by the container's own files, as they are now, and a home for it.
fn who(spec: &ExecSpec, plan: &Plan) -> Result<Option<Who>, LaunchError> {
    let Some(user) = spec.user.as_deref().filter(|user| !user.is_empty()) else {
        return Ok(None);
    };
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "opening the root".to_owned())?;
    let files = UserFiles {
        passwd: image_file(root.as_fd(), "/etc/passwd")?,
        group: image_file(root.as_fd(), "/etc/group")?,
    };
    let found = resolve_user(user, &[], &files).map_err(LaunchError::NotExecutable)?;
    let own = resolve_user(&plan.user().uid().to_string(), &[], &files);
    let build = || {
        let umask = plan.user().umask().unwrap_or(0o022);
        let user = UserBuilder::default().uid(found.uid).gid(found.gid).umask(umask);
        user.additional_gids(found.additional_gids.clone()).build()
    };
    Ok(Some(Who {
        user: build().doing(|| "taking on the user".to_owned())?,
        home: found.home,
        own_home: own.map(|own| own.home).unwrap_or_default(),
    }))
}

struct Who {
    user: User,
    home: String,
    /// What HOME is where nobody said anything else.
    own_home: String,
}

/// The payload's process with what is asked for in its place.
fn process(own: &mut Process, spec: &ExecSpec, who: Option<Who>) {
    own.set_args(Some(spec.args.clone()));
    let mut env = own.env().clone().unwrap_or_default();
    if let Some(who) = who {
        let default = format!("HOME={}", who.own_home);
        if let Some(home) = env.iter_mut().find(|entry| **entry == default) {
            *home = format!("HOME={}", who.home);
        }
        own.set_user(who.user);
    }
    if spec.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    for entry in &spec.env {
        set(&mut env, entry);
    }
    own.set_env(Some(env));
    if let Some(dir) = spec.working_dir.as_deref().filter(|dir| !dir.is_empty()) {
        own.set_cwd(own.cwd().join(dir));
    }
}

/// Sets a variable; a bare NAME takes it away, as Docker does.
fn set(env: &mut Vec<String>, entry: &str) {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let wanted = name(entry);
    env.retain(|old| name(old) != wanted);
    if entry.contains('=') {
        env.push(entry.to_owned());
    }
}

/// Terminal and pipes are the user's, who may open them again by /dev/stdout.
fn own_stdio(plan: &Plan, tty: bool) {
    let (uid, gid) = (plan.user().uid(), plan.user().gid());
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let pipe =
            rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        // A terminal stays its group's. Only a convenience: whoever has the descriptor can use it.
        let gid = (!tty).then_some(Gid::from_raw(gid));
        if tty || pipe {
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), gid);
        }
    }
}

/// The process before it is one, in the container's pid namespace.
fn become_process(plan: &Plan, spec: &ExecSpec, go: OwnedFd, early: bool, report: BorrowedFd<'static>) -> ! {
    let run = || -> Result<Infallible, LaunchError> {
        let mut byte = [0; 1];
        match rustix::io::read(&go, &mut byte) {
            Ok(1) => {}
            // The creator was killed: nobody waits for this one.
            _ => sys::exit_now(125),
        }
        drop(go);
        rustix::process::setsid().doing(|| "making a session".to_owned())?;
        if spec.tty {
            rustix::process::ioctl_tiocsctty(io::stdin())
                .doing(|| "taking the terminal for its own".to_owned())?;
        }
        if !early {
            payload::take_identity(plan)?;
        }
        payload::run_program(plan, report)
    };
    let error = match run() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    Report::failure(&error).send(report);
    sys::exit_now(error.exit_code());
}
