//! The one place of the command line where the compiler takes our word.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Has SIGPIPE end this process again, as every tool does whose reader has gone away (`wharf ps | head -1`): Rust's
/// runtime ignores it. For clients only: a daemon must not end for that.
pub fn end_with_the_reader() {
    at_sigpipe(SigHandler::SigDfl);
}

/// Has a write fail instead, from now on: there is something to put back, and a connection that its other end may close.
pub fn outlive_the_reader() {
    at_sigpipe(SigHandler::SigIgn);
}

fn at_sigpipe(handler: SigHandler) {
    debug_assert!(matches!(handler, SigHandler::SigDfl | SigHandler::SigIgn));
    // SAFETY: neither disposition is a handler: nothing of ours runs in a signal's context.
    let before = unsafe { signal(Signal::SIGPIPE, handler) };
    before.expect("SIGPIPE may be ignored or not");
}
