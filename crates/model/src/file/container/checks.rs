//! What contradicts itself within one container table.

use crate::spec::{ContainerSpec, NamespaceMode, NetworkMode, RestartPolicy, UpdateStrategy};

use super::super::reader::Table;

pub(super) fn check(table: &Table<'_>, spec: &ContainerSpec) {
    network_mode(table, spec);
    replicas(table, spec);
    schedule(table, spec);
    sysctls(table, spec);
    privileges(table, spec);
    links(table, spec);
}

fn network_mode(table: &Table<'_>, spec: &ContainerSpec) {
    let mode = match &spec.network_mode {
        NetworkMode::Bridge => return,
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
    };
    let ports = match &spec.network_mode {
        NetworkMode::None => "without a network nothing can be published",
        NetworkMode::Container(_) => "publish them on the container whose network this is",
        _ => "the program's own ports are open as they are",
    };
    let either = "take one of the two out";
    let hints = [
        ("ports", ports),
        ("publish_all", ports),
        ("networks", either),
        ("links", either),
    ];
    for (key, hint) in hints.into_iter().filter(|(key, _)| table.has(key)) {
        let message = format!("`{key}` does not go with network_mode = \"{mode}\"");
        table.fault(Some(key), message, hint);
    }
    if matches!(spec.network_mode, NetworkMode::Container(_)) {
        for key in ["hostname", "dns", "dns_search", "extra_hosts"]
            .into_iter()
            .filter(|k| table.has(k))
        {
            let message = format!("`{key}` does not go with network_mode = \"{mode}\"");
            table.fault(
                Some(key),
                message,
                "set it on the container whose network this is",
            );
        }
    }
}

fn replicas(table: &Table<'_>, spec: &ContainerSpec) {
    if spec.replicas < 2 {
        return;
    }
    let fault = |why: &str, hint: &str| {
        table.fault(
            Some("replicas"),
            format!("`replicas` above 1 does not go with {why}"),
            hint,
        );
    };
    let fixed = |u: &crate::spec::NetworkUse| u.ip.is_some() || u.ip6.is_some() || u.mac.is_some();
    if spec.networks.iter().any(fixed) {
        fault("a fixed ip or mac", "only one instance can have it");
    }
    if spec.schedule.is_some() {
        fault("a schedule", "a job runs once at a time");
    }
}

fn schedule(table: &Table<'_>, spec: &ContainerSpec) {
    if spec.schedule.is_none() {
        for key in ["randomized_delay", "persistent"]
            .into_iter()
            .filter(|k| table.has(k))
        {
            let message = format!("`{key}` means nothing without a schedule");
            table.fault(Some(key), message, "write schedule = \"daily\", or take it out");
        }
        return;
    }
    if spec.restart.policy == RestartPolicy::Always {
        let message = "a container with a schedule cannot have the restart policy \"always\"".to_owned();
        table.fault(
            Some("restart"),
            message,
            "its runs end; write \"no\" or \"on-failure\"",
        );
    }
    if spec.update.strategy == UpdateStrategy::StartFirst {
        let message = "a container with a schedule cannot be updated start-first".to_owned();
        table.fault(Some("update"), message, "write strategy = \"recreate\"");
    }
}

/// A sysctl of a namespace that is the host's would change the host.
fn sysctls(table: &Table<'_>, spec: &ContainerSpec) {
    let network = spec.sysctls.keys().find(|name| name.starts_with("net."));
    let ipc = spec.sysctls.keys().find(|name| !name.starts_with("net."));
    let own_network = matches!(spec.network_mode, NetworkMode::Bridge | NetworkMode::None);
    if let Some(name) = network.filter(|_| !own_network) {
        let message = format!("`sysctls` sets {name}, but the network is not the container's own");
        table.fault(
            Some("sysctls"),
            message,
            "use network_mode \"bridge\", or set it on the host",
        );
    }
    if let Some(name) = ipc.filter(|_| spec.ipc != NamespaceMode::Private) {
        let message = format!("`sysctls` sets {name}, but ipc is not the container's own");
        table.fault(
            Some("sysctls"),
            message,
            "use ipc = \"private\", or set it on the host",
        );
    }
}

fn privileges(table: &Table<'_>, spec: &ContainerSpec) {
    let both = spec.cap_add.iter().find(|name| spec.cap_drop.contains(name));
    if let Some(name) = both {
        let message = format!("{name} is in `cap_add` and in `cap_drop`");
        table.fault(Some("cap_drop"), message, "keep it in one of the two");
    }
}

/// In /etc/hosts the alias of a link stands beside other names.
fn links(table: &Table<'_>, spec: &ContainerSpec) {
    let named = spec
        .links
        .iter()
        .find(|link| spec.extra_hosts.contains_key(link.alias.as_str()));
    if let Some(link) = named {
        let message = format!(
            "{} is an alias in `links` and a name in `extra_hosts`",
            link.alias
        );
        table.fault(
            Some("links"),
            message,
            "give the link another alias: \"NAME:ALIAS\"",
        );
    }
}
