//! The one table that says what a changed field does (INTERFACE, "What a change does"). `docs/changes.md` is written from
//! it, a test on a real host edits every field and compares.

use std::fmt;

/// What a change asks for; of several changes the last one here counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// An image is loaded; a container that was made from the same content is not touched.
    Load,
    /// Refused with an error as long as the thing is there.
    Refused,
    /// It appears or goes as if its table did.
    Presence,
    /// Instances are added, or those with the highest numbers go.
    Instances,
    /// Only what is remembered: nothing that runs is told.
    Record,
    /// The names that others resolve.
    Names,
    /// The firewall: published ports, ways out.
    Firewall,
    /// The way to other hosts: its device, whom it goes to.
    Tunnel,
    /// The shim is told.
    Shim,
    /// Where it is mounted the new content is put in place, and `on_change` followed.
    OnChange,
    /// Those that live with it are started again: the same containers with new processes.
    Restart,
    /// The network's device is made anew; what hangs on it is started again, with new addresses where they changed.
    Recreate,
    /// A new container takes the place of the one before, by `update.strategy`.
    Replace,
}

use Class::*;

impl Class {
    /// As it stands in the docs.
    pub fn word(self) -> &'static str {
        match self {
            Record => "in place",
            Names => "in place (names)",
            Firewall => "in place (firewall)",
            Tunnel => "in place (the tunnel)",
            Shim => "in place (its supervisor is told)",
            OnChange => "by `on_change`",
            Instances => "instances come or go",
            Restart => "containers are started again",
            Recreate => "the network is made anew",
            Replace => "replaces the container",
            Presence => "as if the table came or went",
            Load => "the image is loaded",
            Refused => "refused",
        }
    }

    /// The main process of a container lives on.
    pub fn keeps_the_process(self) -> bool {
        matches!(
            self,
            Record | Names | Firewall | Tunnel | Shim | Instances | Load | Refused
        )
    }

    /// The container stays the same one.
    pub fn keeps_the_container(self) -> bool {
        self.keeps_the_process() || matches!(self, Restart | Recreate)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Every key of every table, by its path in the table of keys. A key below another one that is not here has the class of
/// the one above it.
pub const CLASSES: &[(&str, Class)] = &[
    ("container.*.image", Replace),
    ("container.*.rootfs", Replace),
    ("container.*.pull", Record),
    ("container.*.update_check", Record),
    ("container.*.command", Replace),
    ("container.*.entrypoint", Replace),
    ("container.*.env", Replace),
    ("container.*.env_file", Replace),
    ("container.*.user", Replace),
    ("container.*.groups", Replace),
    ("container.*.working_dir", Replace),
    ("container.*.hostname", Replace),
    ("container.*.labels", Record),
    ("container.*.replicas", Instances),
    ("container.*.enabled", Presence),
    ("container.*.ports", Firewall),
    ("container.*.publish_all", Firewall),
    ("container.*.networks", Replace),
    ("container.*.networks.*.aliases", Names),
    // It has done its work in the order of the list.
    ("container.*.networks.*.priority", Record),
    ("container.*.network_mode", Replace),
    ("container.*.links", Replace),
    ("container.*.dns", Replace),
    ("container.*.dns_search", Replace),
    ("container.*.extra_hosts", Replace),
    ("container.*.volumes", Replace),
    ("container.*.volumes_from", Replace),
    ("container.*.secrets", Replace),
    ("container.*.configs", Replace),
    ("container.*.read_only", Replace),
    ("container.*.tmpfs", Replace),
    ("container.*.init", Replace),
    ("container.*.stop_signal", Shim),
    ("container.*.stop_grace_period", Shim),
    ("container.*.cap_add", Replace),
    ("container.*.cap_drop", Replace),
    ("container.*.privileged", Replace),
    ("container.*.no_new_privileges", Replace),
    ("container.*.devices", Replace),
    ("container.*.sysctls", Replace),
    ("container.*.ulimits", Replace),
    ("container.*.userns", Replace),
    ("container.*.pid", Replace),
    ("container.*.ipc", Replace),
    ("container.*.seccomp", Replace),
    ("container.*.runtime", Replace),
    ("container.*.depends_on", Record),
    ("container.*.requires_mounts", Record),
    ("container.*.after_network_online", Record),
    ("container.*.restart", Shim),
    ("container.*.healthcheck", Shim),
    ("container.*.limits", Shim),
    ("container.*.update", Record),
    ("container.*.logging", Shim),
    ("container.*.logging.driver", Replace),
    ("container.*.schedule", Record),
    ("container.*.randomized_delay", Record),
    ("container.*.persistent", Record),
    ("network.*.driver", Recreate),
    // The device has another MAC address, and the firewall other rules.
    ("network.*.ipv4", Recreate),
    ("network.*.subnet", Recreate),
    ("network.*.gateway", Recreate),
    // Addresses that were given stay; the next ones come from it.
    ("network.*.range", Record),
    ("network.*.internal", Firewall),
    // And the ports of its device; containers that run get other routes.
    ("network.*.icc", Firewall),
    ("network.*.mtu", Recreate),
    ("network.*.masquerade", Firewall),
    ("network.*.bridge", Recreate),
    // The name server stands in their resolv.conf; those with a `dns` of their own are left alone.
    ("network.*.dns", Restart),
    // On the device there is; a program looks for its addresses when it begins.
    ("network.*.subnet6", Restart),
    ("network.*.gateway6", Restart),
    ("network.*.range6", Record),
    ("network.*.ipv6", Restart),
    ("network.*.masquerade6", Firewall),
    ("network.*.adopt", Recreate),
    // Nothing of the host is made anew: the containers are put below another device.
    ("network.*.parent", Restart),
    // Names are asked at the host's address.
    ("network.*.host_access", Restart),
    ("network.*.overlay", Recreate),
    // Another tunnel has another mtu; a bridge of Open vSwitch is of one datapath; each port has the tag.
    ("network.*.overlay.tunnel", Recreate),
    ("network.*.overlay.encryption", Recreate),
    ("network.*.overlay.datapath", Recreate),
    ("network.*.overlay.vlan", Recreate),
    ("network.*.overlay.vni", Tunnel),
    ("network.*.overlay.port", Tunnel),
    // Another family has another mtu.
    ("network.*.overlay.local", Tunnel),
    ("network.*.overlay.peers", Tunnel),
    ("network.*.overlay.peers_file", Tunnel),
    ("network.*.overlay.keys", Tunnel),
    ("network.*.overlay.names", Names),
    // Data is never lost to a change of its table.
    ("volume.*.driver", Refused),
    ("volume.*.device", Refused),
    ("volume.*.options", Record),
    ("volume.*.labels", Record),
    ("volume.*.keep", Record),
    ("volume.*.exclusive", Record),
    ("image.*.pull", Load),
    ("image.*.build", Load),
    ("image.*.push", Load),
    ("config.*.file", OnChange),
    ("config.*.content", OnChange),
    ("config.*.target", Replace),
    ("config.*.mode", OnChange),
    ("config.*.uid", OnChange),
    ("config.*.gid", OnChange),
    ("config.*.on_change", Record),
    ("secret.*.file", OnChange),
    ("secret.*.env", OnChange),
    ("secret.*.credential", OnChange),
    ("secret.*.mode", OnChange),
    ("secret.*.uid", OnChange),
    ("secret.*.gid", OnChange),
    ("secret.*.on_change", Record),
];

/// The class of a key by its path (`container.*.limits.memory`): its own, or that of the nearest above it.
pub fn of(path: &str) -> Option<Class> {
    let row = CLASSES.iter().find(|(name, _)| *name == path);
    row.map(|(_, class)| *class).or_else(|| {
        of(path
            .rsplit_once('.')
            .filter(|(above, _)| above.matches('.').count() > 1)?
            .0)
    })
}

/// Whether keys below this one have classes of their own.
pub fn has_parts(path: &str) -> bool {
    let below = |name: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    CLASSES.iter().any(|(name, _)| below(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use model::file::keys::DESIRED;
    use model::image::ImageSource;
    use model::spec::{ContainerSpec, NetworkSpec};
    use serde::Serialize;

    use super::*;

    fn fields<T: Serialize>(spec: T) -> Vec<String> {
        let value = serde_json::to_value(spec).unwrap();
        value.as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_key_has_its_class_and_every_class_its_key() {
        let keys: BTreeSet<&str> = DESIRED.iter().map(|key| key.path).collect();
        for (path, _) in CLASSES {
            assert!(keys.contains(path), "there is no key {path}");
        }
        for key in DESIRED.iter().filter(|key| key.path.matches('.').count() == 2) {
            assert!(
                CLASSES.iter().any(|(path, _)| *path == key.path),
                "no class for {}",
                key.path
            );
        }
        let nested = DESIRED.iter().filter(|key| key.path.matches('.').count() > 2);
        for key in nested.filter(|key| key.name() != "*") {
            assert!(of(key.path).is_some(), "no class for {}", key.path);
        }
        let once: BTreeSet<_> = CLASSES.iter().map(|(path, _)| path).collect();
        assert_eq!(once.len(), CLASSES.len());
    }

    #[test]
    fn every_field_of_a_table_is_one_of_its_keys() {
        let container = ContainerSpec::new(ImageSource::Rootfs { dir: "/srv".into() });
        for field in fields(container) {
            assert!(of(&format!("container.*.{field}")).is_some(), "{field}");
        }
        for field in fields(NetworkSpec::default()) {
            assert!(of(&format!("network.*.{field}")).is_some(), "{field}");
        }
    }

    #[test]
    fn the_nearest_above_counts() {
        assert_eq!(of("container.*.limits.memory"), Some(Shim));
        assert_eq!(of("container.*.networks.*.aliases"), Some(Names));
        assert_eq!(of("container.*.networks.*.ip"), Some(Replace));
        assert_eq!(of("container.*.nothing"), None);
    }
}
