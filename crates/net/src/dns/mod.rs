//! The name server: `wharf dns`, a process of its own that containers may talk to, and the agent's handle on it.
//!
//! It is one unprivileged process that can open no file: what containers send is parsed there and nowhere else. It
//! listens on sockets the agent bound (the gateway of each network, port 53), knows the names it was last given, and
//! asks the servers it was given for all others. It outlives the agent, and lives iff it holds the lock on
//! `RUN_DIR/dns/lock`.
//!
//! Agent's side: [`NameServer`], with [`bind`], [`resolv`], [`spawn`]. Both sides: [`control`], [`files`]. The process:
//! [`start`], [`sandbox`], [`server`], on the pure [`zone`] and [`message`].

mod bind;
mod control;
mod files;
mod message;
mod name_server;
mod resolv;
mod sandbox;
mod server;
mod spawn;
mod start;
mod zone;

pub use name_server::NameServer;
pub use start::main;
