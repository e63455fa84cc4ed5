//! The starter's side: nothing handed on unasked, and one line back if it fails.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Why a process did not get ready. The text is for users, as the end of a sentence.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot execute {}: {source}", exe.display())]
    Execute { exe: PathBuf, source: io::Error },
    #[error("cannot wait for it: {0}")]
    Wait(#[source] io::Error),
    /// In its own words.
    #[error("{0}")]
    Told(String),
    #[error("it ended with {0}")]
    Ended(ExitStatus),
}

/// This binary, to be executed as another of its commands. It gets nothing of ours unless it is added: no environment
/// (so no notify socket, and no sockets or credentials that systemd gave us), no standard streams, no working
/// directory, and no descriptor, as all of ours are closed on exec.
pub fn command(exe: &Path) -> Command {
    let mut command = Command::new(exe);
    command
        .arg0("wharf")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Executes a command that detaches itself by [`run`](crate::run); returns when it is ready.
///
/// # Errors
/// Where it cannot be executed, or says that it did not get ready.
pub fn start(mut command: Command) -> Result<(), StartError> {
    let spawned = command.stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|source| StartError::Execute {
        exe: command.get_program().into(),
        source,
    })?;
    // Not to the end of the stream: who reports is the child, and that has said all when it has ended.
    let status = child.wait().map_err(StartError::Wait)?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut text);
    }
    Err(match text.trim().trim_start_matches("error: ") {
        "" => StartError::Ended(status),
        why => StartError::Told(why.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command(Path::new("/bin/sh"));
        command.args(["-c", script]);
        command
    }

    #[test]
    fn nothing_is_handed_on() {
        let mut command = shell("cat /proc/$$/environ; readlink /proc/$$/cwd /proc/$$/fd/0 /proc/$$/fd/2");
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "/\n/dev/null\n/dev/null\n"
        );
    }

    #[test]
    fn what_it_says_is_passed_on() {
        start(shell("exit 0")).unwrap();
        let why = |script| start(shell(script)).unwrap_err().to_string();
        assert_eq!(why("echo error: no room >&2; exit 1"), "no room");
        assert_eq!(why("exit 3"), "it ended with exit status: 3");
        let missing = start(command(Path::new("/nonexistent/wharf"))).unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("cannot execute /nonexistent/wharf: "),
            "{missing}"
        );
    }
}
