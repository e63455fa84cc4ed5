//! Executing `wharf dns`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::net::{SocketAddrUnix, bind, listen};

use super::control;
use super::files::{self, Files};
use crate::NetError;

/// Starts the server; returns when it waits for what it is to know. It is nobody's child, and gets nothing of ours but
/// its control socket.
pub fn start(run_dir: &Path, exe: &Path, files: &Files) -> Result<(), NetError> {
    start_as("dns", run_dir, exe, files)
}

/// The same for another process of this kind. `command`: what it is told to be.
pub fn start_as(command: &str, run_dir: &Path, exe: &Path, files: &Files) -> Result<(), NetError> {
    let what = command;
    let failed = |why: String| NetError::invalid(format!("cannot start `wharf {what}`"), why);
    let socket = control_socket(files)
        .map_err(|e| failed(format!("its control socket {}: {e}", files.socket.display())))?;
    let mut command = detach::command(exe);
    command.arg(what).env("WHARF_RUN_DIR", run_dir).stdin(socket);
    detach::start(command).map_err(|why| failed(why.to_string()))
}

/// A listening socket in the place of an older one. Its directory is root's alone, and so is whoever may connect.
fn control_socket(at: &Files) -> io::Result<OwnedFd> {
    at.make_dir()?;
    files::remove(&at.socket)?;
    let socket = control::socket()?;
    bind(&socket, &SocketAddrUnix::new(&at.socket)?)?;
    std::fs::set_permissions(&at.socket, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listen(&socket, 8)?;
    Ok(socket)
}
