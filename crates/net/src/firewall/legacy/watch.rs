//! Changes of the tables of iptables-legacy, of which the kernel tells nobody.
//!
//! It says of a table how many entries it has, of what size, and where chains begin (`struct ipt_getinfo`), for one system
//! call and without a copy of the rules. Who flushes or deletes or adds changes that; who exchanges a rule for another one
//! of the same size does not, and is left to the full pass.

use std::fs;
use std::os::fd::AsFd;

use nix::sys::socket::{SockFlag, SockProtocol, SockType, socket};

use super::{GET_INFO, INFO, LAYOUTS, Layout, named};
use crate::sys::ip_option;

/// Those that rules of ours are in.
const TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// What was last seen of them, of both families; in the network namespace of the thread that looks.
#[derive(Debug)]
pub struct LegacyWatch {
    seen: Vec<Vec<u8>>,
}

impl LegacyWatch {
    /// Looks for the first time: what is read of the rules after this and changed later will be told.
    pub fn begin() -> Self {
        Self { seen: look() }
    }

    /// Whether something is otherwise than it was when this was last asked, or begun.
    pub fn has_changed(&mut self) -> bool {
        let before = std::mem::replace(&mut self.seen, look());
        before != self.seen
    }
}

fn look() -> Vec<Vec<u8>> {
    LAYOUTS.iter().flat_map(shapes).collect()
}

/// One for each table; an empty one where nobody uses it (asking would bring it to life), or it does not say.
fn shapes(layout: &Layout) -> Vec<Vec<u8>> {
    let used = fs::read_to_string(layout.tables).unwrap_or_default();
    let opened = socket(
        layout.socket,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    );
    let shape = |table: &&str| {
        let opened = opened
            .as_ref()
            .ok()
            .filter(|_| used.lines().any(|name| name == *table))?;
        let mut info = named(table, INFO);
        ip_option(opened.as_fd(), layout.level, GET_INFO, &mut info).ok()?;
        Some(info)
    };
    TABLES
        .iter()
        .map(|table| shape(table).unwrap_or_default())
        .collect()
}
