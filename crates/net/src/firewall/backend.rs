//! Which packet filter the rules are kept in: nf_tables by our own table, iptables, or none.
//!
//! What another backend was given by an agent of before is taken away once this one has the rules: both hold meanwhile,
//! so that nothing is open in between. Until then the rules count as not what they must be.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::firewall::{Backend as Kind, FirewallState};
use model::spec::FirewallChoice;

use super::apply::{self, Current, Keeper};
use super::guard::Guards;
use super::iptables::{Iptables, Variant};
use super::read;
use crate::error::{Doing, NetError};
use crate::netlink::Netlink;

/// How the rules are to be kept.
#[derive(Clone, Debug)]
pub struct FirewallOptions {
    pub choice: FirewallChoice,
    /// Others can change the nftables table, as on kernels that cannot keep them from it.
    pub shared: bool,
    /// Where the programs of iptables are looked for, as PATH has it.
    pub path: OsString,
    /// A file of this boot that outlives the agent, for what iptables was given.
    pub note: Option<PathBuf>,
}

impl Default for FirewallOptions {
    fn default() -> Self {
        Self {
            choice: FirewallChoice::Auto,
            shared: false,
            path: std::env::var_os("PATH").unwrap_or_default(),
            note: None,
        }
    }
}

/// The one in use.
pub(crate) struct Backend {
    pub kind: Kind,
    /// Where the kernel has nf_tables.
    keeper: Option<Keeper>,
    iptables: Iptables,
    /// What none was told: it has no other place for that.
    told: Mutex<Option<FirewallState>>,
}

impl Backend {
    pub fn new(filter: &mut Netlink, owner: &str, options: FirewallOptions) -> Result<Self, NetError> {
        let there = read::generation(filter).is_ok();
        let kind = match options.choice {
            FirewallChoice::Nftables => Kind::Nftables,
            FirewallChoice::Iptables => Kind::Iptables,
            FirewallChoice::None => Kind::None,
            FirewallChoice::Auto if there => Kind::Nftables,
            FirewallChoice::Auto => Kind::Iptables,
        };
        let keeper = (there || kind == Kind::Nftables).then(|| Keeper::new(filter, owner, options.shared));
        Ok(Self {
            kind,
            keeper: keeper.transpose()?,
            iptables: Iptables::new(owner, options.path, options.note),
            told: Mutex::default(),
        })
    }

    /// For users: what is to be known of it beyond its name.
    pub fn remark(&self) -> Option<String> {
        match self.kind {
            Kind::Nftables => None,
            Kind::None => Some("nothing is published, masqueraded or kept apart by wharf".to_owned()),
            Kind::Iptables => {
                let which = match self.iptables.version() {
                    Ok(version) => format!("{} {}", version.variant, version.number),
                    Err(_) => "iptables".to_owned(),
                };
                Some(format!(
                    "{which}: a change is made table by table, not in one transaction"
                ))
            }
        }
    }

    /// The number of the ruleset by which what was read is known to be so still; 0 where nothing tells.
    pub fn generation(&self, filter: &mut Netlink) -> Result<u32, NetError> {
        if self.keeper.is_none() {
            return Ok(0);
        }
        read::generation(filter).doing(|| "read the nftables ruleset".to_owned())
    }

    /// The rules are in tables of which the kernel tells no change.
    pub fn is_legacy(&self) -> bool {
        let version = || {
            self.iptables
                .version()
                .is_ok_and(|v| v.variant == Variant::Legacy)
        };
        self.kind == Kind::Iptables && version()
    }

    /// Reads what is there.
    pub fn current(&self, filter: &mut Netlink) -> Result<Current, NetError> {
        let keeper = self.keeper.as_ref();
        let nftables = keeper.map(|keeper| apply::current(filter, keeper)).transpose()?;
        let nftables = nftables.unwrap_or_default();
        match self.kind {
            Kind::Nftables => Ok(match self.iptables.noted() {
                None => nftables,
                Some((state, guards)) => Current {
                    guards: nftables.guards.or(&guards),
                    salvaged: match nftables.there {
                        true => nftables.state.unwrap_or(nftables.salvaged),
                        false => state,
                    },
                    // So it is not as it must be.
                    state: None,
                    wrong: Some("rules of the backend before this one are there still"),
                    there: true,
                    ..nftables
                },
            }),
            Kind::Iptables => self.of_iptables(filter, nftables),
            Kind::None => Ok(Current {
                state: self
                    .told()
                    .clone()
                    .filter(|_| !nftables.there && self.iptables.noted().is_none()),
                there: nftables.there || self.iptables.noted().is_some(),
                // Whoever does without us sees to it himself.
                foreign: Vec::new(),
                firewalld: None,
                // What it was told is no ruleset.
                generation: 0,
                ..nftables
            }),
        }
    }

    fn of_iptables(&self, filter: &mut Netlink, nftables: Current) -> Result<Current, NetError> {
        let looked = self.iptables.look()?;
        // The number counts changes by iptables-nft; it has to be that of before this look as well.
        let same = looked.variant == Variant::Nft && self.generation(filter)? == nftables.generation;
        let left = nftables.there;
        let given = looked.there || !left;
        let wrong = match left {
            true => "rules of the backend before this one are there still",
            false => "the rules of iptables were changed by somebody else, or a change of them was cut off",
        };
        Ok(Current {
            generation: if same { nftables.generation } else { 0 },
            wrong: looked
                .there
                .then_some(wrong)
                .filter(|_| left || looked.state.is_none()),
            state: looked.state.filter(|_| !left),
            there: looked.there || left,
            salvaged: if given {
                looked.salvaged
            } else {
                nftables.state.unwrap_or(nftables.salvaged)
            },
            guards: looked.guards.or(&nftables.guards),
            foreign: nftables.foreign,
            firewalld: nftables.firewalld,
            legacy: looked.variant == Variant::Legacy,
            unjudged: looked.behind_others.then(|| BEHIND.to_owned()),
        })
    }

    /// Makes it say this, and nothing else say it any more.
    pub fn apply(
        &self,
        filter: &mut Netlink,
        route: &mut Netlink,
        state: &FirewallState,
        guards: &Guards,
    ) -> Result<(), NetError> {
        match (self.kind, &self.keeper) {
            (Kind::Nftables, Some(keeper)) => {
                apply::apply(filter, route, keeper, state, guards)?;
                self.leave_iptables(filter, route)
            }
            (Kind::Nftables, None) => Err(NetError::invalid(
                "cannot change the nftables rules",
                "they were never looked for; start the agent again",
            )),
            (Kind::Iptables, _) => {
                self.iptables.apply(filter, route, state, guards)?;
                self.leave_nftables(filter, route)
            }
            (Kind::None, _) => {
                self.leave_nftables(filter, route)?;
                self.leave_iptables(filter, route)?;
                *self.told() = Some(state.clone());
                Ok(())
            }
        }
    }

    /// Removes all of it, whichever has it; absent is fine.
    pub fn remove(&self, filter: &mut Netlink, route: &mut Netlink) -> Result<(), NetError> {
        *self.told() = None;
        match &self.keeper {
            Some(keeper) if self.kind == Kind::Nftables => apply::remove(filter, route, keeper)?,
            _ => self.leave_nftables(filter, route)?,
        }
        match self.kind {
            Kind::Iptables => self.iptables.remove(filter, route),
            _ => self.leave_iptables(filter, route),
        }
    }

    /// There is something that an agent gave another backend.
    pub fn is_left(&self, filter: &mut Netlink) -> Result<bool, NetError> {
        let keeper = self.keeper.as_ref().filter(|_| self.kind != Kind::Nftables);
        let table = keeper.map(|keeper| apply::current(filter, keeper)).transpose()?;
        let noted = self.kind != Kind::Iptables && self.iptables.noted().is_some();
        Ok(noted || table.is_some_and(|current| current.there))
    }

    fn leave_nftables(&self, filter: &mut Netlink, route: &mut Netlink) -> Result<(), NetError> {
        match &self.keeper {
            Some(keeper) if apply::current(filter, keeper)?.there => apply::remove(filter, route, keeper),
            _ => Ok(()),
        }
    }

    fn leave_iptables(&self, filter: &mut Netlink, route: &mut Netlink) -> Result<(), NetError> {
        match self.iptables.noted() {
            Some(_) => self.iptables.remove(filter, route),
            None => Ok(()),
        }
    }

    fn told(&self) -> MutexGuard<'_, Option<FirewallState>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What keeps it from being told who reaches a port.
const BEHIND: &str = "rules of others that come before wharf's in the chain FORWARD of iptables";
