//! Things that belong to no container the status lists: the leak counter for a host with containers running.

use model::status::Status;

use crate::Host;
use crate::leaks::{Kind, Snapshot, Thing};

/// What nobody in `status` owns, among the things that name their container, and veths in excess of the attachments.
pub fn orphans(host: &Host, status: &Status) -> Vec<Thing> {
    let snapshot = Snapshot::take(host);
    let mut orphans: Vec<Thing> = snapshot
        .0
        .iter()
        .filter(|t| is_orphan(t, status))
        .cloned()
        .collect();
    let wanted: usize = status
        .containers
        .iter()
        .filter(|c| c.pid.is_some())
        .map(|c| c.networks.len())
        .sum();
    let devices = host
        .ns
        .sh("ip -o link show type veth | grep -vc ' eth0@' || true");
    if devices.trim().parse::<usize>().unwrap() != wanted {
        let what = format!("{} veths for {wanted} attachments", devices.trim());
        orphans.push(Thing {
            kind: Kind::Device,
            what,
        });
    }
    orphans
}

fn is_orphan(thing: &Thing, status: &Status) -> bool {
    let about_a_container = match thing.kind {
        // The name server is the host's, and so is the relay.
        Kind::Process => !thing.what.contains("wharf dns") && !thing.what.contains("wharf relay"),
        Kind::Namespace => !thing.what.contains("of the agent"),
        Kind::Cgroup => thing
            .what
            .split("/wharf-test-")
            .nth(1)
            .is_some_and(|rest| rest.contains('/')),
        Kind::File => thing.what.contains("containers/"),
        Kind::Mount | Kind::Device | Kind::Firewall => false,
    };
    about_a_container && !status.containers.iter().any(|c| owns(c, &thing.what))
}

fn owns(container: &model::status::ContainerStatus, what: &str) -> bool {
    let id = container.id.as_deref().unwrap_or("no id yet");
    let short = &id[..id.len().min(12)];
    what.contains(short) || what.contains(&format!("wharf shim {} ", container.name))
}
