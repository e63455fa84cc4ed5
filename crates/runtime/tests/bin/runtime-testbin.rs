//! Stands in for `wharf` in this crate's tests: `shim NAME` and `prepare`.
//!
//! `agent STATE_DIR RUN_DIR CGROUP_PARENT` starts the instance on its standard input, to be killed while it does;
//! `prepare-only` prepares it. `refresh-half` is killed in the middle of a `refresh`. `deliver-for-ever STATE_DIR RUN_DIR CGROUP_PARENT ID` delivers contents. `exec STATE_DIR RUN_DIR CGROUP_PARENT ID SCRIPT` runs a script in a container.
//!
//! Where a bundle has a `fake.json`, a plain process is started by that argv in place of a container: what is tested
//! then is the shim alone.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};

use model::action::Instance;
use model::content::{ContentKind, Delivered};
use model::paths::Roots;
use nix::sys::signal::{SigSet, SigmaskHow};
use runtime::client::{ExecSpec, Runtime};
use runtime::launch::{Launch, LaunchError, Launched, launch};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("shim") => runtime::shim::start::main(fake_or_launch),
        Some("agent") => agent(true),
        Some("prepare-only") => agent(false),
        Some("init") => runtime::init::main(),
        Some("exec") => exec(),
        Some("deliver-for-ever") => deliver(),
        Some("refresh-half") => refresh_half(),
        Some("refresh") => runtime::contents::child_main(),
        Some("prepare") => runtime::prepare::child_main(),
        _ => ExitCode::from(2),
    }
}

fn agent(to_the_end: bool) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let start = || -> Result<(), Box<dyn std::error::Error>> {
        let [state, run, parent] = &args[..] else {
            return Err("wrong usage".into());
        };
        let roots = Roots {
            state: state.into(),
            run: run.into(),
        };
        let instance: Instance = serde_json::from_reader(std::io::stdin())?;
        let runtime = Runtime::new(roots, parent)?;
        runtime.prepare(&instance)?;
        if to_the_end {
            runtime.start(&instance, &|_| Ok(()))?;
        }
        Ok(())
    };
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Delivers one version after the other, to be killed meanwhile; says so after the first.
fn deliver() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        let [state, run, parent, id] = &args[..] else {
            return Err("wrong usage".into());
        };
        let roots = Roots {
            state: state.into(),
            run: run.into(),
        };
        let (runtime, id) = (Runtime::new(roots, parent)?, id.parse()?);
        for version in (b'a'..=b'z').cycle() {
            let file = |kind, name: &str| -> Result<_, Box<dyn std::error::Error>> {
                let file = Delivered {
                    kind,
                    name: name.parse()?,
                    target: format!("/{name}"),
                    mode: 0o640,
                    uid: 33,
                    gid: 34,
                };
                Ok((file, vec![version; 200_000]))
            };
            let files = [
                file(ContentKind::Config, "a")?,
                file(ContentKind::Config, "b")?,
                file(ContentKind::Secret, "key")?,
            ];
            runtime.deliver(&id, &files)?;
            if version == b'a' {
                std::io::stdout().write_all(b".")?;
                std::io::stdout().flush()?;
            }
        }
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// `refresh`, killed when it is to take the old mount off.
fn refresh_half() -> ExitCode {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let filter = || -> Result<(), Box<dyn std::error::Error>> {
        let rules = [(libc::SYS_umount2, Vec::new())].into();
        let (allow, kill) = (SeccompAction::Allow, SeccompAction::KillProcess);
        let filter = SeccompFilter::new(rules, allow, kill, std::env::consts::ARCH.try_into()?)?;
        let program: BpfProgram = filter.try_into()?;
        Ok(apply_filter(&program)?)
    };
    match filter() {
        Ok(()) => runtime::contents::child_main(),
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a script in a container and waits, to be killed meanwhile.
fn exec() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let run = || -> Result<(), Box<dyn std::error::Error>> {
        let [state, run, parent, id, script] = &args[..] else {
            return Err("wrong usage".into());
        };
        let roots = Roots {
            state: state.into(),
            run: run.into(),
        };
        let spec = ExecSpec {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            ..ExecSpec::default()
        };
        let session = Runtime::new(roots, parent)?.exec(&id.parse()?, &spec, None)?;
        session.wait()?;
        Ok(())
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn fake_or_launch(l: &Launch<'_>) -> Result<Launched, LaunchError> {
    match std::fs::read(l.bundle.join("fake.json")) {
        Ok(json) => fake(l, &json).map_err(|e| LaunchError::NotFound(e.to_string())),
        Err(_) => launch(l),
    }
}

fn fake(l: &Launch<'_>, json: &[u8]) -> std::io::Result<Launched> {
    let argv: Vec<String> = serde_json::from_slice(json)?;
    let [stdin, stdout, stderr] = l.stdio;
    let stdio = |fd: std::os::fd::BorrowedFd<'_>| fd.as_fd().try_clone_to_owned().map(Stdio::from);
    // The shim blocks signals, and a command inherits that; a container's launcher resets it in the child.
    let none = SigSet::empty();
    let before = none.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let child = Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(stdio(stdin)?)
        .stdout(stdio(stdout)?)
        .stderr(stdio(stderr)?)
        .spawn();
    before.thread_set_mask()?;
    let child = child?;
    let pid = child.id().cast_signed();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    Ok(Launched { pid, pidfd })
}
