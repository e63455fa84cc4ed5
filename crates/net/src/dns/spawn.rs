//! Executing `wharf dns`.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::files::{self, Files};
use crate::NetError;

/// Starts the server; returns when it waits for what it is to know. It is nobody's child, and gets nothing of ours but
/// its control socket.
pub fn start(run_dir: &Path, exe: &Path, control: &Files) -> Result<(), NetError> {
    let failed = |why: String| NetError::invalid("cannot start the name server (`wharf dns`)", why);
    let socket = control_socket(control)
        .map_err(|e| failed(format!("its control socket {}: {e}", control.socket.display())))?;
    let mut child = Command::new(exe)
        .arg0("wharf")
        .arg("dns")
        .env_clear()
        .env("WHARF_RUN_DIR", run_dir)
        .current_dir("/")
        .stdin(socket)
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

/// A listening socket in the place of an older one. Its directory is root's alone, and so is whoever may connect.
fn control_socket(control: &Files) -> io::Result<OwnedFd> {
    control.make_dir()?;
    files::remove(&control.socket)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    bind(&socket, &SocketAddrUnix::new(&control.socket)?)?;
    std::fs::set_permissions(
        &control.socket,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    listen(&socket, 8)?;
    Ok(socket)
}
