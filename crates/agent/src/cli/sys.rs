//! The one place of the command line where the compiler takes our word.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Has SIGPIPE end this process again, as every tool does whose reader has gone away (`wharf ps | head -1`): Rust's
/// runtime ignores it. For clients only: a daemon must not end for that.
pub fn end_with_the_reader() {
    // SAFETY: the default disposition is no handler: nothing of ours runs in a signal's context.
    let before = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    before.expect("the default disposition may be set for SIGPIPE");
}
