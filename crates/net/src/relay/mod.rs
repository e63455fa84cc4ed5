//! The relay: `wharf relay`, a process of its own that serves published ports on `[::1]`, and on 127.0.0.1 those of
//! containers without IPv4.
//!
//! A packet for ::1 cannot be translated to a container: what is sent there never leaves the loopback device. Nor can one
//! of IPv4 be translated to IPv6. So one process without privileges listens on the sockets that the agent bound there, and
//! passes on what it gets. It outlives the agent, and lives iff it holds the lock on `RUN_DIR/relay/lock`. Only what is
//! published on such an address, or on all IPv6 addresses of the host, is served; all other addresses are the firewall's.
//!
//! How such a process begins, is talked to and gives up its rights is in [`crate::apart`]. Agent's side: [`Relay`]. Both
//! sides: [`control`]. The process: [`server`], with [`stream`] and [`datagrams`].

mod control;
mod datagrams;
mod handle;
mod server;
mod stream;
mod token;

pub use handle::Relay;

/// Entry point of `wharf relay`: to be called before anything large is touched or a thread is started. Returns in the
/// process that was called when the relay is ready or has failed to be, and in the relay itself when it leaves.
pub fn main() -> std::process::ExitCode {
    crate::apart::main::<server::Server>()
}
