//! A program on a terminal of its own, with us at the keyboard.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// How long anything may take before the test gives up. No test measures by it.
const LIMIT: Duration = Duration::from_secs(60);

/// The program, and the side of the terminal where people sit.
#[derive(Debug)]
pub struct Pty {
    master: File,
    /// Kept open: its modes are read after the program has ended, too.
    slave: OwnedFd,
    before: Termios,
    child: Child,
    heard: Vec<u8>,
    /// How much of it was waited for already.
    seen: usize,
}

impl Pty {
    /// Starts it with a fresh terminal of 24 rows and 80 columns for all its streams, and for its controlling one.
    pub fn spawn(command: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        tcsetwinsize(&master, size(24, 80)).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        let mut child = Command::new("setsid");
        child
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => child.env(name, value),
                None => child.env_remove(name),
            };
        }
        let before = tcgetattr(&slave).unwrap();
        let end = || slave.try_clone().unwrap();
        let child = child.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self {
            master: master.into(),
            slave,
            before,
            child,
            heard: Vec::new(),
            seen: 0,
        }
    }

    /// The program's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What tcgetattr(3) gives, as comparable text.
    pub fn modes(&self) -> String {
        format!("{:?}", tcgetattr(&self.slave).unwrap())
    }

    /// The same before the program was started.
    pub fn modes_before(&self) -> String {
        format!("{:?}", self.before)
    }

    /// Types; reads meanwhile, as a terminal that nobody reads from takes no more at some point.
    pub fn type_in(&mut self, text: impl AsRef<[u8]>) {
        let mut left = text.as_ref();
        let start = Instant::now();
        while !left.is_empty() {
            assert!(start.elapsed() < LIMIT, "takes no more keys:\n{}", self.tail());
            self.wait(PollFlags::POLLIN | PollFlags::POLLOUT);
            self.listen();
            match self.master.write(left) {
                Ok(n) => left = &left[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Waits until this was shown, after what was waited for last; gives all that was shown in between.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        let start = Instant::now();
        let mut looked = self.seen;
        loop {
            let fresh = &self.heard[looked..];
            if let Some(at) = fresh.windows(text.len()).position(|w| w == text.as_bytes()) {
                let shown = &self.heard[self.seen..looked + at + text.len()];
                self.seen += shown.len();
                return String::from_utf8_lossy(shown).into_owned();
            }
            // It may have begun to come.
            looked = looked.max(self.heard.len().saturating_sub(text.len()));
            assert!(start.elapsed() < LIMIT, "never {text:?}:\n{}", self.tail());
            self.wait(PollFlags::POLLIN);
            self.listen();
        }
    }

    /// Makes it another size: whoever has it in the foreground is told by SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, size(rows, columns)).unwrap();
    }

    /// Reads on until the program has ended; its exit code, or 128 and the signal.
    pub fn end(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap();
            self.listen();
            if let Some(status) = ended {
                return status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(start.elapsed() < LIMIT, "does not end:\n{}", self.tail());
            self.wait(PollFlags::POLLIN);
        }
    }

    /// All that was shown so far.
    pub fn shown(&self) -> &[u8] {
        &self.heard
    }

    fn wait(&self, what: PollFlags) {
        let mut fds = [PollFd::new(self.master.as_fd(), what)];
        poll(&mut fds, PollTimeout::from(20_u16)).unwrap();
    }

    fn listen(&mut self) {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.master.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => self.heard.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => panic!("{e}"),
            }
        }
    }

    fn tail(&self) -> String {
        let from = self.heard.len().saturating_sub(2000);
        String::from_utf8_lossy(&self.heard[from..]).into_owned()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
