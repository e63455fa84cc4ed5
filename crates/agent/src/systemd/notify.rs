//! Telling the service manager how it goes (sd_notify(3), sd_watchdog_enabled(3)).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use tracing::warn;

use super::sys::take_var;

/// How long a message may wait for a manager that is busy, before it is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where messages to the service manager go; nowhere without one.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Option<Arc<Channel>>);

#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    manager: SocketAddr,
    watchdog: Option<Duration>,
    ready: AtomicBool,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    status: String,
    beat: Option<Instant>,
}

/// By `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, which are gone from the environment then.
pub(super) fn from_env() -> anyhow::Result<Notifier> {
    let socket = take_var("NOTIFY_SOCKET");
    let (usec, pid) = (take_var("WATCHDOG_USEC"), take_var("WATCHDOG_PID"));
    let Some(socket) = socket.filter(|s| !s.is_empty()) else {
        return Ok(Notifier::default());
    };
    let watchdog = match usec {
        Some(usec) if ours(pid.as_deref()) => Some(interval(&usec)?),
        _ => None,
    };
    Notifier::to(&socket, watchdog)
}

/// Whether a watchdog waits for this process, and not for the one it was started from.
fn ours(pid: Option<&OsStr>) -> bool {
    pid.is_none_or(|pid| pid == OsStr::new(&std::process::id().to_string()))
}

fn interval(usec: &OsStr) -> anyhow::Result<Duration> {
    let number = usec.to_str().and_then(|u| u.parse().ok()).filter(|&u| u > 0);
    let number =
        number.with_context(|| format!("WATCHDOG_USEC={} is no number of microseconds", usec.display()))?;
    Ok(Duration::from_micros(number))
}

impl Notifier {
    fn to(address: &OsStr, watchdog: Option<Duration>) -> anyhow::Result<Self> {
        let manager = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(address),
            _ => bail!("NOTIFY_SOCKET={} is no unix socket", address.display()),
        };
        let manager =
            manager.with_context(|| format!("NOTIFY_SOCKET={} is no unix socket", address.display()))?;
        let socket = UnixDatagram::unbound().context("cannot make a socket to the service manager")?;
        socket
            .set_write_timeout(Some(PATIENCE))
            .context("cannot set up the socket to the service manager")?;
        Ok(Self(Some(Arc::new(Channel {
            socket,
            manager,
            watchdog,
            ready: AtomicBool::new(false),
            said: Mutex::default(),
        }))))
    }

    /// The service has started, or is done with reading everything anew. Said once, and once after each `reloading`.
    pub fn ready(&self) {
        if let Some(channel) = &self.0
            && !channel.ready.swap(true, Ordering::Relaxed)
        {
            channel.tell("READY=1");
        }
    }

    /// One line for people; the same line again is not sent.
    pub fn status(&self, line: &str) {
        let Some(channel) = &self.0 else { return };
        let mut said = channel.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.status != line {
            channel.tell(&format!("STATUS={}", line.replace('\n', " ")));
            line.clone_into(&mut said.status);
        }
    }

    /// Everything is read anew, until `ready`.
    pub fn reloading(&self) {
        let Some(channel) = &self.0 else { return };
        channel.ready.store(false, Ordering::Relaxed);
        match clock_gettime(ClockId::CLOCK_MONOTONIC) {
            Ok(now) => {
                let usec = Duration::from(now).as_micros();
                channel.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
            }
            Err(e) => warn!("the service manager is not told of a reload, there is no clock: {e}"),
        }
    }

    /// The service ends.
    pub fn stopping(&self) {
        if let Some(channel) = &self.0 {
            channel.tell("STOPPING=1");
        }
    }

    /// How often `progress` has to be called at least: half of what the watchdog waits for.
    pub fn watchdog_every(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog.map(|interval| interval / 2)
    }

    /// The work goes on. Gives the time by which this has to be said again; none without a watchdog.
    pub fn progress(&self) -> Option<Instant> {
        self.progress_at(Instant::now())
    }

    fn progress_at(&self, now: Instant) -> Option<Instant> {
        let (channel, every) = (self.0.as_ref()?, self.watchdog_every()?);
        let mut said = channel.said.lock().unwrap_or_else(PoisonError::into_inner);
        // A busy loop turns thousands of times a second; the manager need not hear of each.
        if said.beat.is_none_or(|last| now - last >= every / 2) {
            channel.tell("WATCHDOG=1");
            said.beat = Some(now);
        }
        said.beat.map(|last| last + every)
    }
}

impl Channel {
    fn tell(&self, message: &str) {
        if let Err(e) = self.send(message) {
            let what = message.split('=').next().unwrap_or_default();
            warn!("the service manager cannot be told {what}: {e}");
        }
    }

    fn send(&self, message: &str) -> io::Result<()> {
        self.socket
            .send_to_addr(message.as_bytes(), &self.manager)
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(watchdog: Option<Duration>) -> (UnixDatagram, Notifier) {
        let name = format!(
            "wharf-test-notify-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = Notifier::to(OsStr::new(&format!("@{name}")), watchdog).unwrap();
        (manager, notifier)
    }

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut buffer = [0; 256];
        while let Ok(n) = manager.recv(&mut buffer) {
            all.push(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
        all
    }

    #[test]
    fn ready_is_said_once_and_again_after_a_reload() {
        let (manager, notifier) = manager(None);
        for _ in 0..3 {
            notifier.ready();
            notifier.status("2 of 2");
        }
        assert_eq!(heard(&manager), ["READY=1", "STATUS=2 of 2"]);
        notifier.reloading();
        notifier.ready();
        notifier.ready();
        let said = heard(&manager);
        assert!(said[0].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{said:?}");
        assert_eq!(said[1..], ["READY=1"]);
        notifier.stopping();
        assert_eq!(heard(&manager), ["STOPPING=1"]);
    }

    #[test]
    fn the_watchdog_hears_of_progress_often_enough_and_not_of_every_turn() {
        let (manager, notifier) = manager(Some(Duration::from_secs(8)));
        let now = Instant::now();
        let by = notifier.progress_at(now).unwrap();
        assert_eq!(by, now + Duration::from_secs(4));
        for turn in 0..1000 {
            notifier.progress_at(now + Duration::from_millis(turn));
        }
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
        assert_eq!(notifier.progress_at(by), Some(by + Duration::from_secs(4)));
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        let notifier = Notifier::default();
        notifier.ready();
        assert_eq!(notifier.progress(), None);
        assert_eq!(notifier.watchdog_every(), None);
    }

    #[test]
    fn odd_values_are_refused_by_name() {
        let e = Notifier::to(OsStr::new("vsock:2:3"), None)
            .unwrap_err()
            .to_string();
        assert!(e.contains("NOTIFY_SOCKET=vsock:2:3"), "{e}");
        let e = interval(OsStr::new("soon")).unwrap_err().to_string();
        assert!(e.contains("WATCHDOG_USEC=soon"), "{e}");
    }

    #[test]
    fn a_watchdog_for_another_process_is_not_ours() {
        assert!(ours(None));
        assert!(ours(Some(OsStr::new(&std::process::id().to_string()))));
        assert!(!ours(Some(OsStr::new("1"))));
    }
}
