//! The name server: `wharf dns`, a process of its own that containers may talk to, and the agent's handle on it.
//!
//! It is one unprivileged process that can open no file: what containers send is parsed there and nowhere else. It
//! listens on sockets the agent bound (the gateway of each network, port 53, or inside the network namespace of a
//! container that reaches none), knows the names it was last given, and asks the servers it was given for all others. It outlives the agent, and lives iff it holds the lock on
//! `RUN_DIR/dns/lock`.
//!
//! How such a process begins, is talked to and gives up its rights is in [`crate::apart`]. Agent's side: [`NameServer`],
//! with [`bind`], [`inside`], [`resolv`]. Both sides: [`control`]. The process: [`server`], on the pure [`name`], [`message`],
//! [`zone`], [`cache`] and [`upstreams`].

mod bind;
mod cache;
mod control;
mod inside;
mod limits;
mod message;
mod name;
mod name_server;
mod resolv;
mod server;
mod upstreams;
mod zone;

pub use crate::apart::Process;
pub use inside::Namespace;
pub use name_server::{NameServer, Namespaces};

/// Entry point of `wharf dns`: to be called before anything large is touched or a thread is started. Returns in the
/// process that was called when the server is ready or has failed to be, and in the server itself when it leaves.
pub fn main() -> std::process::ExitCode {
    crate::apart::main::<server::Server>()
}
