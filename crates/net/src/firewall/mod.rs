//! The one nftables table, `inet wharf`: what must be in it, what is in it, and the way from one to the other.
//!
//! `render` is pure: a [`model::firewall::FirewallState`] becomes a typed description of the table. Its chains and
//! rules do not change (those of replicas come with the first of these); bridges and ports are elements of its sets and maps. `read` looks at what the kernel has;
//! `change` makes one transaction of the difference. `iptables` says the same to hosts that have no nftables, and `backend`
//! knows which of them it is. `zones` and `conntrack` have UDP flows follow their port.
//!
//! `guard` is what there is of forwarding that was off before us.
//!
//! `inside` is a table of its own, in the network namespaces of containers that ask for names there.
//!
//! Base chains of others at the forward and input hooks have a say, too: `foreign` reads them, `judge` tells what they drop, `sidedoor` keeps a way
//! (`passage`) through those that iptables keeps in nftables, `legacy` looks at those it keeps outside. `firewalld` asks the
//! firewall of that name to let our bridges through, as far as `packet` shows that its table does not.

mod allow;
mod apply;
mod backend;
mod change;
mod conntrack;
mod elements;
mod expr;
mod family;
mod firewalld;
mod foreign;
mod guard;
mod inside;
mod iptables;
mod isolated;
mod judge;
mod legacy;
mod nl;
mod packet;
mod passage;
mod peers;
mod phrase;
mod read;
mod render;
mod set;
mod sidedoor;
mod slots;
mod table;
#[cfg(test)]
mod tests;
mod tunnels;
mod userdata;
mod zones;

pub(crate) use apply::Current;
pub(crate) use backend::Backend;
pub use backend::FirewallOptions;
pub(crate) use firewalld::{Asked, Found as Firewalld, admit, dismiss, look as firewalld};
pub(crate) use guard::Guards;
pub(crate) use inside::lead_names;
pub(crate) use iptables::was_run;
pub(crate) use judge::drops;
pub use legacy::LegacyWatch;
pub(crate) use legacy::drops as legacy_drops;
pub(crate) use nl::{committed_by, is_about_us, is_of_iptables};
pub(crate) use render::{has_ipv4, has_ipv6};
