//! Where wakes come from: the shims' datagrams and the kernel's notifications.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use model::firewall::Backend;
use net::Net;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::net::UnixDatagram;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, warn};

use super::Wake;
use crate::around;
use crate::places::Places;

/// How often what the kernel may have told nobody of is looked at: two small files a bridge (who writes to them by another
/// mount of /proc is not seen by who watches them), and the shape of the tables of iptables-legacy, a system call each.
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
pub fn start(
    places: &Places,
    wakes: &UnboundedSender<Wake>,
    bridges: &Bridges,
    net: &Net,
) -> anyhow::Result<()> {
    shim_reports(&places.run_dir.join("agent.sock"), wakes.clone())?;
    reports_around(wakes.clone())?;
    let iptables = net.backend().kind == Backend::Iptables;
    let told = Told {
        wakes: wakes.clone(),
        bridges: bridges.clone(),
        legacy: net.watch_legacy(),
    };
    kernel_reports(net.watch_switch(), told, iptables)
}

/// A thread of its own, which sleeps until something is mounted or unmounted (proc(5), "mountinfo") or the clock is set.
fn reports_around(wakes: UnboundedSender<Wake>) -> anyhow::Result<()> {
    let mounts = std::fs::File::open(around::MOUNTINFO)
        .with_context(|| format!("cannot open {} to be told of mounts", around::MOUNTINFO))?;
    let clock = set_clock().context("cannot make a timer to be told of a clock that is set")?;
    std::thread::Builder::new()
        .name("wharf-around".to_owned())
        .spawn(move || {
            loop {
                let mut fds = [
                    PollFd::new(mounts.as_fd(), PollFlags::POLLPRI),
                    PollFd::new(clock.as_fd(), PollFlags::POLLIN),
                ];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => {
                        return error!(
                            "the wait for mounts and the clock failed, only full passes see them: {e}"
                        );
                    }
                }
                let [mounted, set] = fds.map(|fd| fd.any().unwrap_or(true));
                if set {
                    forget_set_clock(&clock);
                }
                let told = [(mounted, Wake::Around), (set, Wake::Clock)];
                let mut told = told.into_iter().filter(|(so, _)| *so);
                if !told.all(|(_, wake)| wakes.send(wake).is_ok()) {
                    return;
                }
            }
        })
        .context("cannot start the thread that waits for mounts and the clock")?;
    Ok(())
}

/// A timer that never ends, and is readable once CLOCK_REALTIME was set: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET.
fn set_clock() -> nix::Result<TimerFd> {
    let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
    let never = Expiration::OneShot(TimeSpec::new(i64::MAX, 0));
    let told = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(never, told)?;
    Ok(timer)
}

/// From now on it tells of the next time.
fn forget_set_clock(timer: &TimerFd) {
    // ECANCELED, which is what it is read for; EAGAIN where there was nothing.
    let _ = timer.wait();
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
fn kernel_reports(switch: net::SwitchWatch, mut told: Told, iptables: bool) -> anyhow::Result<()> {
    let monitor = net::Monitor::new().context("cannot listen to the kernel's network notifications")?;
    let mut monitor = monitor.heeding_iptables(iptables).with_switch(switch);
    std::thread::Builder::new()
        .name("wharf-monitor".to_owned())
        .spawn(move || {
            let mut looked = Instant::now();
            loop {
                if looked.elapsed() >= LOOK {
                    looked = Instant::now();
                    if !told.look() {
                        return;
                    }
                }
                let fds = monitor.fds().into_iter().chain(monitor.switch_fds());
                let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
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
                if !report(&mut monitor, &told.wakes) {
                    return;
                }
            }
        })
        .context("cannot start the thread for kernel notifications")?;
    Ok(())
}

/// What is looked at now and then, and who is told.
struct Told {
    wakes: UnboundedSender<Wake>,
    bridges: Bridges,
    legacy: Option<net::LegacyWatch>,
}

impl Told {
    /// Looks; false when nobody listens any more.
    fn look(&mut self) -> bool {
        let legacy = self.legacy.as_mut().is_some_and(net::LegacyWatch::has_changed);
        let changed = [
            (self.bridges.take_turned_off(), Wake::Links),
            (legacy, Wake::Firewall(None)),
        ];
        let mut changed = changed.into_iter().filter(|(so, _)| *so);
        changed.all(|(_, wake)| self.wakes.send(wake).is_ok())
    }
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
    if monitor.switch_has_news() || seen.links {
        list.push(Wake::Links);
    }
    if seen.way_out {
        list.push(Wake::Around);
    }
    if seen.firewall {
        list.push(Wake::Firewall(seen.by));
    }
    list.into_iter().all(|wake| wakes.send(wake).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_nobody_sets_says_nothing() {
        let timer = set_clock().unwrap();
        let mut fds = [PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_u8)), Ok(0));
        forget_set_clock(&timer);
    }
}
