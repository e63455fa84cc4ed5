//! Executing the shim.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use model::action::Instance;
use model::paths::Roots;

use super::{Result, RuntimeError};

/// Starts a shim; returns when it is ready. It is nobody's child, and gets nothing of ours but what it needs: not the
/// notify socket, not sockets or credentials systemd gave us, no descriptor but the gate, until it is ready.
pub fn shim(exe: &Path, roots: &Roots, i: &Instance, gate: OwnedFd) -> Result<()> {
    let failed = |why: String| RuntimeError::Spawn {
        name: i.name.clone(),
        why,
    };
    let mut child = Command::new(exe)
        .arg0("wharf")
        .args(["shim", i.name.as_str()])
        .env_clear()
        .env("WHARF_RUN_DIR", &roots.run)
        .env("WHARF_STATE_DIR", &roots.state)
        .env("WHARF_CONTAINER_ID", i.id.as_str())
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(gate)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("cannot execute {}: {e}", exe.display())))?;
    // Not to the end of the stream: who reports is the child, and that has said all when it has ended.
    let status = child.wait().map_err(|e| failed(e.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = stderr.read_to_string(&mut text);
    }
    let why = text.trim().trim_start_matches("error: ");
    Err(failed(if why.is_empty() {
        format!("it ended with {status}")
    } else {
        why.to_owned()
    }))
}
