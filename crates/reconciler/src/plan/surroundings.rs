//! What a container waits for that nobody here makes: mount points, and the host's way to the network.

use model::observed::Look;
use model::spec::ContainerSpec;

use super::{Blocked, Mutation, Pass};

impl Pass<'_, '_> {
    /// `requires_mounts` and `after_network_online`. Asked before a start only: what runs is not stopped for them.
    pub(super) fn surrounded(&self, spec: &ContainerSpec) -> Result<(), Blocked> {
        if self.broken(Mutation::MountsAreIgnored) {
            return Ok(());
        }
        let around = &self.input.observed.around;
        for path in &spec.requires_mounts {
            let path_text = path.display();
            match &around.mounts {
                Look::Known(mounts) if mounts.contains(path) => {}
                Look::Known(_) => {
                    return Err(Blocked::wait(format!(
                        "waits for {path_text} to be a mount point"
                    )));
                }
                Look::Unknown(why) => {
                    let why = format!("cannot see whether {path_text} is a mount point: {why}");
                    return Err(Blocked::wait(why));
                }
            }
        }
        match &around.online {
            _ if !spec.after_network_online => Ok(()),
            Look::Known(true) => Ok(()),
            Look::Known(false) => Err(Blocked::wait(
                "waits for the host's network to be online: a device that is up, with an address and a default route",
            )),
            Look::Unknown(why) => {
                let why = format!("cannot see whether the host's network is online: {why}");
                Err(Blocked::wait(why))
            }
        }
    }
}
