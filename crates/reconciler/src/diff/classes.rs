//! The one table that says what a changed field does (INTERFACE, "What a change does").

/// What a change asks for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Only what is remembered: the container is not told.
    Record,
    /// Published ports: the firewall.
    Ports,
    /// The shim is told.
    Shim,
    /// A new container takes its place.
    Replace,
}

/// Every field of a container table. What is not here would be replaced; a test says that none is missing.
pub const CONTAINER: &[(&str, Class)] = &[
    ("image", Class::Replace),
    ("pull", Class::Record),
    ("update_check", Class::Record),
    ("command", Class::Replace),
    ("entrypoint", Class::Replace),
    ("env", Class::Replace),
    ("env_file", Class::Replace),
    ("user", Class::Replace),
    ("groups", Class::Replace),
    ("working_dir", Class::Replace),
    ("hostname", Class::Replace),
    ("labels", Class::Record),
    ("replicas", Class::Record),
    ("enabled", Class::Record),
    ("ports", Class::Ports),
    ("publish_all", Class::Ports),
    // Aliases alone are a record: see `diff::container`.
    ("networks", Class::Replace),
    ("network_mode", Class::Replace),
    ("links", Class::Replace),
    ("dns", Class::Replace),
    ("dns_search", Class::Replace),
    ("extra_hosts", Class::Replace),
    ("volumes", Class::Replace),
    ("volumes_from", Class::Replace),
    ("secrets", Class::Replace),
    ("configs", Class::Replace),
    ("read_only", Class::Replace),
    ("tmpfs", Class::Replace),
    ("init", Class::Replace),
    ("stop_signal", Class::Shim),
    ("stop_grace_period", Class::Shim),
    ("cap_add", Class::Replace),
    ("cap_drop", Class::Replace),
    ("privileged", Class::Replace),
    ("no_new_privileges", Class::Replace),
    ("devices", Class::Replace),
    ("sysctls", Class::Replace),
    ("ulimits", Class::Replace),
    ("userns", Class::Replace),
    ("pid", Class::Replace),
    ("ipc", Class::Replace),
    ("seccomp", Class::Replace),
    ("runtime", Class::Replace),
    ("depends_on", Class::Record),
    ("requires_mounts", Class::Record),
    ("after_network_online", Class::Record),
    ("restart", Class::Shim),
    ("healthcheck", Class::Shim),
    ("limits", Class::Shim),
    ("update", Class::Record),
    // Sizes alone are for the shim: see `diff::container`.
    ("logging", Class::Replace),
    ("schedule", Class::Record),
    ("randomized_delay", Class::Record),
    ("persistent", Class::Record),
];

/// The class of a container's field.
pub fn of_container(field: &str) -> Class {
    let row = CONTAINER.iter().find(|(name, _)| *name == field);
    row.map_or(Class::Replace, |(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use model::image::ImageSource;
    use model::spec::ContainerSpec;

    use super::*;

    #[test]
    fn every_field_of_a_container_has_its_class() {
        let spec = ContainerSpec::new(ImageSource::Rootfs { dir: "/srv".into() });
        let value = serde_json::to_value(spec).unwrap();
        let fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut listed: Vec<&str> = CONTAINER.iter().map(|(name, _)| *name).collect();
        listed.sort_unstable();
        assert_eq!(listed, fields);
    }
}
