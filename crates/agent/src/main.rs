//! wharf, the host agent: the daemon, its API and its command line.
//!
//! One binary with several lives. The shim and the look into an image branch off before anything large is touched;
//! everything else goes through [`cli`].

mod api;
mod around;
mod cli;
mod cluster;
mod config_dir;
mod contents;
mod engine;
mod events;
mod execute;
mod files;
mod host;
mod instance_lock;
mod journal;
mod ledger_file;
mod observe;
mod places;
mod report;
mod systemd;
mod trail;
mod watch;
mod whole_file;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|a| a.to_str()) {
        Some("shim") => runtime::shim::main(),
        Some("dns") => net::dns::main(),
        Some("relay") => net::relay::main(),
        Some("hold") => systemd::hold::main(),
        Some("init") => runtime::init::main(),
        Some("refresh") => runtime::contents::child_main(),
        Some("files") => files::child::main(),
        Some("prepare") => runtime::prepare::child_main(),
        _ => cli::main(),
    }
}
