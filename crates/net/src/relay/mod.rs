//! The relay: `wharf relay`, a process of its own that serves published ports on `[::1]`.
//!
//! A packet for ::1 cannot be translated to a container: what is sent there never leaves the loopback device. So one
//! process without privileges listens on the sockets that the agent bound there, and passes on what it gets. It outlives
//! the agent, and lives iff it holds the lock on `RUN_DIR/relay/lock`. Only what is published on `[::1]`, or on all IPv6
//! addresses of the host, is served; all other addresses are the firewall's.
//!
//! Agent's side: [`Relay`]. Both sides: [`control`]. The process: [`start`], [`server`], with [`stream`] and
//! [`datagrams`]. How such a process begins, is talked to and gives up its rights it has from [`crate::dns`].

mod control;
mod datagrams;
mod handle;
mod poller;
mod server;
mod start;
mod stream;

pub(crate) use control::is_bound;
pub use handle::Relay;
pub use start::main;
