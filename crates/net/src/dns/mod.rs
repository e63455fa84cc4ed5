//! The name server: `wharf dns`, a process of its own that containers may talk to, and the agent's handle on it.
//!
//! It is one unprivileged process that can open no file: what containers send is parsed there and nowhere else. It
//! listens on sockets the agent bound (the gateway of each network, port 53), knows the names it was last given, and
//! asks the servers it was given for all others. It outlives the agent, and lives iff it holds the lock on
//! `RUN_DIR/dns/lock`.
//!
//! Agent's side: [`NameServer`], with [`bind`], [`resolv`], [`spawn`]. Both sides: [`control`], [`files`]. The process:
//! [`start`], [`sandbox`], [`server`], on the pure [`name`], [`message`],
//! [`zone`], [`cache`] and [`upstreams`].

mod bind;
mod cache;
pub(crate) mod control;
pub(crate) mod files;
mod limits;
mod message;
mod name;
mod name_server;
mod resolv;
pub(crate) mod sandbox;
mod server;
pub(crate) mod spawn;
pub(crate) mod start;
mod upstreams;
mod zone;

pub use name_server::NameServer;
pub(crate) use name_server::stop;
pub use start::main;
