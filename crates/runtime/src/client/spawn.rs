//! Executing the shim.

use std::os::fd::OwnedFd;
use std::path::Path;

use model::action::Instance;
use model::paths::Roots;

use super::{Result, RuntimeError};

/// Starts a shim; returns when it is ready. It is nobody's child, and gets nothing of ours but what it needs: not the
/// notify socket, not sockets or credentials systemd gave us, no descriptor but the gate, until it is ready.
pub fn shim(exe: &Path, roots: &Roots, i: &Instance, gate: OwnedFd) -> Result<()> {
    let mut command = detach::command(exe);
    command
        .args(["shim", i.name.as_str()])
        .env("WHARF_RUN_DIR", &roots.run)
        .env("WHARF_STATE_DIR", &roots.state)
        .env("WHARF_CONTAINER_ID", i.id.as_str())
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .stdin(gate);
    detach::start(command).map_err(|why| RuntimeError::Spawn {
        name: i.name.clone(),
        why: why.to_string(),
    })
}
