//! What the start of a container waits for: what has to be there, or comes before it in this plan.

use model::action::Noun;
use model::ledger::Accepted;
use model::name::Name;
use model::shared::Shared;

use super::gates::LOOK_AGAIN;
use super::{Blocked, Pass, Ready};

impl Pass<'_, '_> {
    /// The actions that come before a start. `switching`: it takes a running one's place, and what it depends on was
    /// there when that began.
    pub(super) fn needs(
        &self,
        name: &Name,
        accepted: &Accepted,
        switching: bool,
    ) -> Result<Vec<usize>, Blocked> {
        self.has_image(accepted)?;
        if let Some(why) = self.blocked.get(name) {
            return Err(Blocked {
                why: why.clone(),
                until: Some(self.later(LOOK_AGAIN)),
                error: true,
            });
        }
        if let Some(blocked) = self.resting_container(&Noun::Container(name.clone()), accepted) {
            return Err(blocked);
        }
        self.nobody_left_behind(name)?;
        if !switching {
            self.dependencies(name, &accepted.spec)?;
        }
        self.volumes_are_lent(&accepted.spec)?;
        self.links_can_be_told(&accepted.spec)?;
        self.surrounded(&accepted.spec)?;
        if let Some(a) = accepted.attachments.iter().find(|a| self.is_misplaced(a)) {
            let why = format!("has no address yet in network {} as it is now", a.network);
            return Err(Blocked::wait(why));
        }
        self.addresses_are_free(name, accepted)?;
        let mut after = self.networks_for(accepted)?;
        after.extend(self.made_known(name, accepted)?);
        Ok(after)
    }

    /// The same of one on trial. Its names and ports are not among it: it has none yet.
    pub(super) fn trial_needs(&self, name: &Name, new: &Accepted) -> Result<Vec<usize>, Blocked> {
        self.has_image(new)?;
        self.nobody_left_behind(name)?;
        self.dependencies(name, &new.spec)?;
        self.volumes_are_lent(&new.spec)?;
        self.links_can_be_told(&new.spec)?;
        self.surrounded(&new.spec)?;
        self.addresses_are_free(name, new)?;
        self.volumes_for(&new.spec)?;
        self.contents_for(&new.spec)?;
        let nameless = Accepted {
            ports: Shared::default(),
            ..new.clone()
        };
        let mut after = self.networks_for(new)?;
        after.extend(self.made_known(name, &nameless)?);
        Ok(after)
    }

    /// Whether the new one could be started at once, were the old one not there.
    pub(super) fn way_is_clear(&self, name: &Name, new: &Accepted) -> Result<(), Blocked> {
        if let Some(blocked) = self.resting_container(&Noun::Container(name.clone()), new) {
            return Err(blocked);
        }
        self.links_can_be_told(&new.spec)?;
        self.surrounded(&new.spec)?;
        self.networks_for(new)?;
        self.volumes_for(&new.spec)?;
        self.contents_for(&new.spec)?;
        self.joined(&new.spec)?;
        self.owner_is_ready(&new.spec)?;
        self.made_known(name, new).map(drop)
    }

    fn has_image(&self, accepted: &Accepted) -> Result<(), Blocked> {
        match accepted.image {
            Some(_) => Ok(()),
            None => Err(self.waits_for_image(&accepted.spec.image.key())),
        }
    }

    fn addresses_are_free(&self, name: &Name, accepted: &Accepted) -> Result<(), Blocked> {
        for a in &accepted.attachments {
            if let Some((ip, other)) = self.living_on(a, name) {
                return Err(Blocked::wait(format!(
                    "waits for address {ip} in network {}, which container {other} still has",
                    a.network
                )));
            }
        }
        Ok(())
    }

    pub(super) fn networks_for(&self, accepted: &Accepted) -> Result<Vec<usize>, Blocked> {
        let mut after = Vec::new();
        for a in &accepted.attachments {
            match self.networks.get(&a.network) {
                Some(Ready::Now) => {}
                Some(Ready::After(index)) => after.push(*index),
                Some(Ready::Waits(why)) => return Err(Blocked::wait(why.clone())),
                None => return Err(Blocked::wait(format!("waits for network {}", a.network))),
            }
        }
        Ok(after)
    }

    /// Firewall and name server know it before it runs.
    fn made_known(&self, name: &Name, accepted: &Accepted) -> Result<Vec<usize>, Blocked> {
        let mut after = Vec::new();
        if accepted.attachments.is_empty() {
            return Ok(after);
        }
        for ready in [self.firewall_for(accepted), self.dns_for(name, accepted)] {
            match ready {
                Ready::Now => {}
                Ready::After(index) => after.push(index),
                Ready::Waits(why) => return Err(Blocked::wait(why)),
            }
        }
        Ok(after)
    }
}
