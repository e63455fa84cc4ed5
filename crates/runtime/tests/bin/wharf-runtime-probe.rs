//! A stand-in for the `wharf` binary in this crate's tests: the processes that a container is started by.
//!
//! `prepare` is the real command; `launch BUNDLE` does what a shim does (namespaces, one start), gives the payload its
//! own standard streams, and ends with the payload's exit code.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use runtime::bundle::{CONFIG, EXTRA, Extra};
use runtime::launch::{Launch, LaunchError, clean_up, is_sealed, launch, sealed_exe, unshare};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        ["init"] => runtime::init::main(),
        ["prepare"] => runtime::prepare::child_main(),
        ["launch", bundle] => sealed(bundle),
        ["launch-sealed", bundle] => match start(Path::new(bundle)) {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(125))
            }
        },
        _ => ExitCode::from(2),
    }
}

/// Goes on from a read-only clone of this file.
fn sealed(bundle: &str) -> ExitCode {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let exe = match sealed_exe() {
        Ok(exe) => exe,
        Err(e) => {
            eprintln!("sealing: {e}");
            return ExitCode::from(125);
        }
    };
    let path = format!("/proc/self/fd/{}", exe.as_raw_fd());
    let error = std::process::Command::new(path)
        .args(["launch-sealed", bundle])
        .exec();
    eprintln!("running the sealed clone: {error}");
    ExitCode::from(125)
}

fn start(bundle: &Path) -> Result<u8, LaunchError> {
    let failed = |what: &str, e: &dyn std::fmt::Display| LaunchError::Setup(format!("{what}: {e}"));
    if !is_sealed().map_err(|e| failed("looking at our binary", &e))? {
        return Err(LaunchError::Setup("our binary is not sealed".to_owned()));
    }
    let read = |name: &str| std::fs::read(bundle.join(name)).map_err(|e| failed(name, &e));
    let extra: Extra = serde_json::from_slice(&read(EXTRA)?).map_err(|e| failed(EXTRA, &e))?;
    let config: serde_json::Value = serde_json::from_slice(&read(CONFIG)?).map_err(|e| failed(CONFIG, &e))?;
    unshare(extra.unshare, config["hostname"].as_str().unwrap_or("test"))?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let launched = launch(&Launch {
        bundle,
        stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
    })?;
    let code = wait(launched.pid).map_err(|e| failed("waiting", &e))?;
    clean_up(bundle)?;
    Ok(code)
}

/// Waits as a parent, which shows that the payload is our child. 128 + signal where one ended it.
fn wait(pid: i32) -> Result<u8, rustix::io::Errno> {
    use rustix::process::{Pid, WaitOptions, waitpid};
    let status = waitpid(Pid::from_raw(pid), WaitOptions::empty())?;
    let code = status.map_or(125, |(_, s)| {
        let signal = s.terminating_signal().map(|s| 128 + s);
        s.exit_status().or(signal).unwrap_or(125)
    });
    Ok(u8::try_from(code).unwrap_or(125))
}
