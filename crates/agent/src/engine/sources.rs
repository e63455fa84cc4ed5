//! Where wakes come from: the shims' datagrams and the kernel's notifications.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, warn};

use super::Wake;
use crate::around;
use crate::places::Places;

/// How often what the kernel tells nobody of is looked at: two small files a bridge.
const LOOK: Duration = Duration::from_secs(1);

/// The bridges whose settings were all right when they were last looked at.
#[derive(Clone, Debug, Default)]
pub struct Bridges(Arc<Mutex<Vec<String>>>);

impl Bridges {
    /// Those of the latest look.
    pub fn set(&self, bridges: Vec<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bridges;
    }

    /// Whether a setting of one was turned off since. Asked once: what is done about it sets them anew.
    fn take_turned_off(&self) -> bool {
        let mut bridges = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let off = !bridges.iter().all(|bridge| net::bridge_settings_are_on(bridge));
        if off {
            bridges.clear();
        }
        off
    }
}

/// Starts listening to all of them.
pub fn start(places: &Places, wakes: &UnboundedSender<Wake>, bridges: &Bridges) -> anyhow::Result<()> {
    shim_reports(&places.run_dir.join("agent.sock"), wakes.clone())?;
    mount_reports(wakes.clone())?;
    kernel_reports(wakes.clone(), bridges.clone())
}

/// A thread of its own, which sleeps until something is mounted or unmounted: proc(5), "mountinfo".
fn mount_reports(wakes: UnboundedSender<Wake>) -> anyhow::Result<()> {
    let mounts = std::fs::File::open(around::MOUNTINFO)
        .with_context(|| format!("cannot open {} to be told of mounts", around::MOUNTINFO))?;
    std::thread::Builder::new()
        .name("wharf-mounts".to_owned())
        .spawn(move || {
            loop {
                let mut fds = [PollFd::new(mounts.as_fd(), PollFlags::POLLPRI)];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => {
                        return error!("the wait for mounts failed, only full passes see them: {e}");
                    }
                }
                if wakes.send(Wake::Mounts).is_err() {
                    return;
                }
            }
        })
        .context("cannot start the thread that waits for mounts")?;
    Ok(())
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
fn kernel_reports(wakes: UnboundedSender<Wake>, bridges: Bridges) -> anyhow::Result<()> {
    let mut monitor = net::Monitor::new().context("cannot listen to the kernel's network notifications")?;
    std::thread::Builder::new()
        .name("wharf-monitor".to_owned())
        .spawn(move || {
            let mut looked = Instant::now();
            loop {
                if looked.elapsed() >= LOOK {
                    looked = Instant::now();
                    if bridges.take_turned_off() && wakes.send(Wake::Links).is_err() {
                        return;
                    }
                }
                let [a, b] = monitor.fds();
                let mut fds = [
                    PollFd::new(a, PollFlags::POLLIN),
                    PollFd::new(b, PollFlags::POLLIN),
                ];
                // Rounded up, so that the time is over when it wakes.
                let rest = u16::try_from(LOOK.saturating_sub(looked.elapsed()).as_millis() + 1);
                match poll(&mut fds, PollTimeout::from(rest.unwrap_or(u16::MAX))) {
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
        list.push(Wake::Firewall(seen.by));
    }
    list.into_iter().all(|wake| wakes.send(wake).is_ok())
}
