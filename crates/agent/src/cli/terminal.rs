//! Our own terminal, while a session has it.

use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The terminal in raw mode (termios(3)): every key goes to the session, Ctrl-C too. As before when dropped, so nothing
/// may end this process before that: neither a signal (see [`Raw::told_to_end`]) nor a reader that has gone away.
pub struct Raw {
    before: Termios,
    signals: [Signal; 4],
}

impl Raw {
    /// The standard input has to be a terminal.
    pub fn enter() -> std::io::Result<Self> {
        let signals = [
            signal(SignalKind::hangup())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::quit())?,
            signal(SignalKind::terminate())?,
        ];
        super::sys::outlive_the_reader();
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before, signals })
    }

    /// Waits for a signal that asks this process to end; gives its number.
    pub async fn told_to_end(&mut self) -> u8 {
        let [hangup, interrupt, quit, terminate] = &mut self.signals;
        tokio::select! {
            _ = hangup.recv() => 1,
            _ = interrupt.recv() => 2,
            _ = quit.recv() => 3,
            _ = terminate.recv() => 15,
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing is left to be told to: the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether the standard input is a terminal.
pub fn is_terminal() -> bool {
    isatty(stdin())
}

/// Rows and columns; none where there is no terminal.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdin()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
