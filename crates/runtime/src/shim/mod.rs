//! The shim: one small process a container that outlives the agent. It starts the payload, reads its output into the
//! log, restarts it by the policy it was given, and writes down how it ended.
//!
//! It lives iff it holds the lock on `shim.lock`. The container's network, uts and ipc namespaces are its own, so they
//! last from run to run; pid and mount namespaces are the payload's. It is one thread in a poll loop: [`supervise`] is
//! the table of what happens on what, `model::restart` decides what follows a run's end.
//!
//! Order within the room: [`files`] and [`protocol`] are shared with the agent; [`start`] makes the process,
//! [`supervise`] is its life, [`run`] one run of the payload, [`clients`] its socket, `sessions` the processes it
//! runs beside the payload.

pub mod clients;
pub mod files;
mod freezer;
mod freezes;
pub mod protocol;
pub mod run;
mod sessions;
pub mod signal;
pub mod start;
pub mod supervise;
pub(crate) mod sys;

use std::process::ExitCode;

/// Entry point of `wharf shim NAME`: to be called before anything large is touched or a thread is started.
pub fn main() -> ExitCode {
    start::main(crate::launch::launch)
}
