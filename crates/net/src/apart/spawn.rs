//! Executing a server.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::{SocketAddrUnix, bind, listen};

use super::files::{self, Files};
use super::{Role, frame};
use crate::NetError;

/// Starts one; returns when it waits for what it is to know. It is nobody's child, and gets nothing of ours but its
/// control socket.
pub fn start(role: &Role, run_dir: &Path, exe: &Path, files: &Files) -> Result<(), NetError> {
    let failed = |why: String| NetError::invalid(format!("cannot start `wharf {}`", role.command), why);
    let socket = control_socket(files)
        .map_err(|e| failed(format!("its control socket {}: {e}", files.socket.display())))?;
    let mut command = detach::command(exe);
    command
        .arg(role.command)
        .env("WHARF_RUN_DIR", run_dir)
        .stdin(socket);
    detach::start(command).map_err(|why| failed(why.to_string()))
}

/// A listening socket in the place of an older one. Its directory is root's alone, and so is whoever may connect.
fn control_socket(at: &Files) -> io::Result<OwnedFd> {
    at.make_dir()?;
    files::remove(&at.socket)?;
    let socket = frame::socket()?;
    bind(&socket, &SocketAddrUnix::new(&at.socket)?)?;
    std::fs::set_permissions(&at.socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&socket, 8)?;
    Ok(socket)
}
