//! Where wakes come from: the shims' datagrams and the kernel's notifications.

use std::path::Path;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, warn};

use super::Wake;
use crate::places::Places;

/// Starts listening to both.
pub fn start(places: &Places, wakes: &UnboundedSender<Wake>) -> anyhow::Result<()> {
    shim_reports(&places.run_dir.join("agent.sock"), wakes.clone())?;
    kernel_reports(wakes.clone())
}

/// A shim sends a datagram at each change; what it says is not needed, a look tells more.
fn shim_reports(path: &Path, wakes: UnboundedSender<Wake>) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove the stale socket {}", path.display()));
        }
        _ => {}
    }
    let socket =
        UnixDatagram::bind(path).with_context(|| format!("cannot make the socket {}", path.display()))?;
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            if let Err(e) = socket.recv(&mut buffer).await {
                warn!("the shims' reports cannot be read: {e}");
            }
            if wakes.send(Wake::Shim).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// A thread of its own: netlink sockets belong to the network namespace of the thread that made them.
fn kernel_reports(wakes: UnboundedSender<Wake>) -> anyhow::Result<()> {
    let mut monitor = net::Monitor::new().context("cannot listen to the kernel's network notifications")?;
    std::thread::Builder::new()
        .name("wharf-monitor".to_owned())
        .spawn(move || {
            loop {
                let [a, b] = monitor.fds();
                let mut fds = [
                    PollFd::new(a, PollFlags::POLLIN),
                    PollFd::new(b, PollFlags::POLLIN),
                ];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => {
                        return error!(
                            "the wait for kernel notifications failed, only full passes see drift: {e}"
                        );
                    }
                }
                if !report(&mut monitor, &wakes) {
                    return;
                }
            }
        })
        .context("cannot start the thread for kernel notifications")?;
    Ok(())
}

/// Turns what came into wakes; false when nobody listens any more.
fn report(monitor: &mut net::Monitor, wakes: &UnboundedSender<Wake>) -> bool {
    let seen = match monitor.drain() {
        Ok(seen) => seen,
        Err(e) => {
            warn!("kernel notifications cannot be read: {e}");
            return wakes.send(Wake::Everything).is_ok();
        }
    };
    let mut list = Vec::new();
    if seen.overrun {
        list.push(Wake::Everything);
    }
    if seen.links {
        list.push(Wake::Links);
    }
    if seen.firewall {
        list.push(Wake::Firewall);
    }
    list.into_iter().all(|wake| wakes.send(wake).is_ok())
}
