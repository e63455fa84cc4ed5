//! Sockets the service manager opened for us (sd_listen_fds(3)).

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use anyhow::{Context, bail};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::sys::{take_descriptor, take_var};

/// The first descriptor passed in (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// The API socket of `wharf.socket`, if it was passed in; the variables are gone from the environment then.
pub fn from_env() -> anyhow::Result<Option<UnixListener>> {
    let [count, pid, _names] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"].map(take_var);
    let (Some(count), Some(pid)) = (count, pid) else {
        return Ok(None);
    };
    if pid.to_str() != Some(std::process::id().to_string().as_str()) {
        return Ok(None);
    }
    let count: RawFd = count
        .to_str()
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("LISTEN_FDS={} is no number", count.display()))?;
    let mut found = None;
    for number in FIRST..FIRST.saturating_add(count) {
        let fd = take_descriptor(number).with_context(|| format!("descriptor {number} of LISTEN_FDS"))?;
        if found.is_some() || !listens(&fd).with_context(|| format!("descriptor {number} of LISTEN_FDS"))? {
            bail!("wharf takes one listening unix socket from LISTEN_FDS, the API's: see wharf.socket");
        }
        found = Some(UnixListener::from(fd));
    }
    Ok(found)
}

/// Whether it is a stream socket of the unix kind that listens.
fn listens(fd: &OwnedFd) -> io::Result<bool> {
    let fd = fd.as_fd();
    let stream = match getsockopt(&fd, sockopt::SockType) {
        Err(nix::errno::Errno::ENOTSOCK) => return Ok(false),
        kind => kind? == SockType::Stream,
    };
    let unix = rustix::net::sockopt::socket_domain(fd)? == rustix::net::AddressFamily::UNIX;
    Ok(stream && unix && getsockopt(&fd, sockopt::AcceptConn)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listening_unix_socket_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(listens(&listener.into()).unwrap());
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!listens(&a.into()).unwrap());
        let inet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!listens(&inet.into()).unwrap());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!listens(&file.into()).unwrap());
    }
}
