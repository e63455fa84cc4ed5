//! The second backend: the same meaning in the tables of iptables and ip6tables, for hosts without nf_tables.
//!
//! `render` is pure: a [`model::firewall::FirewallState`] becomes chains of ours, as `iptables-restore` takes them. What
//! closes something is in the table `mangle` (`drops`), where nobody accepts a packet before us and a drop is the end of
//! it; what leads and translates is in `nat` (`ports`); what has to get past the filters of others is in `filter`
//! (`ways`). `shown` reads what `iptables-save` prints; `orders` makes one input of the difference, which the program
//! carries out table by table: each at once, all of them not. So `mangle` comes first, and last where something goes.
//!
//! The kernel keeps no whole of ours to be read back, and each version prints rules in words of its own. So what was
//! given is noted together with what was printed of it then (`note`): as long as the same is printed, the same is there.

mod apply;
mod drops;
mod note;
mod orders;
mod ports;
mod programs;
mod render;
mod shown;
#[cfg(test)]
mod tests;
mod ways;

pub(crate) use apply::Iptables;
pub(crate) use programs::{Variant, was_run};
pub(crate) use render::is_own;
