//! Networks on Open vSwitch, as far as [`Net`] has to do with them beside other bridges.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use model::network::{Attachment, HostNetwork};

use super::Net;
use crate::error::NetError;
use crate::link;
use crate::ovs::{SwitchError, SwitchWatch};

impl Net {
    /// Whether some network is made of Open vSwitch: otherwise it is left alone, there or not.
    pub fn want_switch(&self, wanted: bool) {
        self.switch.set_wanted(wanted);
    }

    /// Why networks cannot be made of Open vSwitch now; none where they can, or none is.
    pub fn switch_trouble(&self) -> Option<String> {
        self.switch.look()?.err()
    }

    /// Who listens to it.
    pub fn watch_switch(&self) -> SwitchWatch {
        SwitchWatch::new(Arc::clone(&self.switch))
    }

    /// As [`Net::apply_bridge`].
    pub(super) fn apply_switch(&self, n: &HostNetwork) -> Result<(), NetError> {
        let doing = || format!("set up network {}", n.name);
        self.switch.set_wanted(true);
        let known = self.switch.has(&n.bridge).map_err(because(doing))?;
        link::look_at_switch(&mut self.route(), &self.mark, &n.bridge, known)?;
        self.shielded(n)?;
        let kernel = link::kernel_has_datapath()?;
        self.switch.apply(n, kernel).map_err(because(doing))?;
        link::apply_gateway(&mut self.route(), &self.mark, n)
    }

    /// Removes the bridge where Open vSwitch has it as ours; whether that was so.
    pub(super) fn remove_from_switch(&self, bridge: &str) -> Result<bool, NetError> {
        if !self.switch.is_wanted() {
            return Ok(false);
        }
        let found = link::links(&mut self.route());
        let there = found.is_ok_and(|links| {
            let mut links = links.iter();
            links.any(|link| link.name == bridge && link::is_of_switch(link))
        });
        match self.switch.remove(bridge) {
            Ok(Some(pen)) => {
                link::remove_pen(&mut self.route(), &self.mark, &pen)?;
                Ok(true)
            }
            Ok(None) if there => {
                link::remove_left(&mut self.route(), &self.mark, bridge)?;
                Ok(true)
            }
            // Another driver's.
            Ok(None) => Ok(false),
            Err(SwitchError::ForeignBridge { .. } | SwitchError::Away { .. }) if !there => Ok(false),
            Err(e) => Err(because(|| format!("remove the bridge {bridge}"))(e)),
        }
    }

    /// As [`Net::attach`].
    pub(super) fn attach_to_switch(
        &self,
        netns: BorrowedFd<'_>,
        a: &Attachment,
        whose: &str,
    ) -> Result<(), NetError> {
        let doing = || format!("connect {} of container {whose} to {}", a.host_device, a.bridge);
        let mut place = self.switch.place(&a.bridge).map_err(because(doing))?;
        let pen = place.pen();
        let fresh = link::attach_to_port(&mut self.route(), &self.mark, netns, a, whose, pen.as_deref())?;
        let connected = place.connect(&a.host_device, whose, fresh);
        connected.map_err(because(doing))
    }

    /// As [`Net::detach`].
    pub(super) fn detach_from_switch(&self, device: &str) -> Result<(), NetError> {
        if !self.switch.is_wanted() {
            return Ok(());
        }
        let gone = self.switch.disconnect(device);
        gone.map_err(because(|| format!("remove the port {device}")))
    }
}

fn because(doing: impl FnOnce() -> String) -> impl FnOnce(SwitchError) -> NetError {
    |source| NetError::Switch {
        doing: doing(),
        source,
    }
}
