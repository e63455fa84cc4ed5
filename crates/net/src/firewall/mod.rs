//! The one nftables table, `inet wharf`: what must be in it, what is in it, and the way from one to the other.
//!
//! `render` is pure: a [`model::firewall::FirewallState`] becomes a typed description of the table. Its chains and
//! rules never change; bridges and ports are elements of its sets and maps. `read` looks at what the kernel has;
//! `change` makes one transaction of the difference.

mod apply;
mod change;
mod conntrack;
mod elements;
mod expr;
mod nl;
mod read;
mod render;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use apply::{apply, current, remove};
pub(crate) use nl::TABLE;
