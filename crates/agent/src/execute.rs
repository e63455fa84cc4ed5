//! Carrying out one action: no decisions here, only calls into the host crates.

use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;

use model::action::{Action, Instance};
use model::dns::INSIDE;
use model::name::ContainerId;
use net::dns::{Namespace, Process};
use storage::LoadOptions;

use crate::contents::deliver;
use crate::host::Host;

/// Runs an action to its end. Blocking. The text of an error is for users.
pub fn run(host: &Host, action: &Action) -> Result<(), String> {
    // Tests that kill the agent read from these lines what it was doing.
    let _ended = Phase::begin(phase(action));
    carry_out(host, action)
}

/// Says when a part of the work begins and ends.
struct Phase(&'static str);

impl Phase {
    fn begin(name: &'static str) -> Self {
        tracing::debug!(target: "wharf::action", "begin {name}");
        Self(name)
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        tracing::debug!(target: "wharf::action", "end {}", self.0);
    }
}

fn phase(action: &Action) -> &'static str {
    match action {
        Action::LoadImage { .. } => "unpack",
        Action::ApplyVolume { .. } | Action::RemoveVolume { .. } => "volume",
        Action::ApplyDns { .. } => "dns",
        Action::RestartUnhealthy { .. } => "restart",
        Action::MendContainer { .. } => "mend",
        Action::PrepareContainer { .. } | Action::StartContainer { .. } => "create",
        Action::ApplyNetwork { .. } | Action::RemoveNetwork { .. } | Action::RepairAttachments { .. } => {
            "network"
        }
        Action::ApplyFirewall { .. } => "firewall",
        Action::UpdateContainer { .. } | Action::DeliverContents { .. } => "update",
        Action::StopContainer { .. } | Action::RemoveContainer { .. } => "remove",
    }
}

fn carry_out(host: &Host, action: &Action) -> Result<(), String> {
    match action {
        Action::LoadImage { source, refresh } => {
            let never = AtomicBool::new(false);
            let options = LoadOptions {
                refresh: *refresh,
                ..LoadOptions::new(&never)
            };
            host.store.load(source, &options).map(drop).map_err(chain)
        }
        Action::ApplyVolume { name, spec } => host.volumes.apply(name, spec).map_err(chain),
        Action::RemoveVolume { name } => host.volumes.remove(name).map(drop).map_err(chain),
        Action::ApplyDns { state } => {
            let namespace = |id: &ContainerId| namespace(host, id, id.short());
            host.names.apply(state, &namespace).map_err(chain)
        }
        Action::RestartUnhealthy {
            id,
            run_no,
            signal,
            grace,
            ..
        } => host
            .runtime
            .restart_unhealthy(id, *run_no, signal, *grace)
            .map_err(chain),
        Action::ApplyNetwork { network } => guarded(host, host.net.apply_bridge(network).map_err(chain)),
        Action::RemoveNetwork { bridge, .. } => host.net.remove_bridge(bridge).map_err(chain),
        Action::ApplyFirewall { state } if state.bridges.is_empty() && state.ports.is_empty() => {
            guarded(host, host.net.remove_firewall().map_err(chain))
        }
        Action::ApplyFirewall { state } => guarded(host, host.net.apply_firewall(state).map_err(chain)),
        Action::PrepareContainer { instance } => {
            volumes_at_hand(host, instance)?;
            deliver::give(host, instance)?;
            host.runtime.prepare(instance).map_err(chain)
        }
        Action::DeliverContents {
            instance,
            contents,
            run_no,
            then,
        } => deliver::renew(host, instance, contents, *run_no, then),
        Action::StartContainer { instance } => start(host, instance),
        Action::RepairAttachments { instance } => repair(host, instance),
        Action::MendContainer { instance } => host.runtime.mend(instance).map_err(chain),
        Action::UpdateContainer { id, policy, .. } => host.runtime.update(id, policy).map_err(chain),
        Action::StopContainer {
            id, signal, grace, ..
        } => host.runtime.stop(id, signal, *grace).map_err(chain),
        Action::RemoveContainer {
            id,
            name,
            signal,
            grace,
            host_devices,
        } => {
            host.runtime.stop(id, signal, *grace).map_err(chain)?;
            for device in host_devices {
                host.net.detach(device).map_err(chain)?;
            }
            host.runtime.remove(id, name).map_err(chain)?;
            host.contents
                .forget(id)
                .map_err(|e| format!("cannot remove the note of what it was given: {e}"))
        }
    }
}

/// After what may have turned forwarding on, or off again.
fn guarded(host: &Host, result: Result<(), String>) -> Result<(), String> {
    let remembered = host
        .remember_guard()
        .map_err(|e| format!("cannot note in the run dir whether forwarding was off: {e}"));
    result.and(remembered)
}

/// Whoever touches a volume of a server that does not answer hangs: no container is begun with one.
fn volumes_at_hand(host: &Host, instance: &Instance) -> Result<(), String> {
    let mut volumes = instance.volumes.iter();
    volumes.try_for_each(|(name, path)| host.volumes.at_hand(name, path).map_err(chain))
}

fn start(host: &Host, instance: &Instance) -> Result<(), String> {
    volumes_at_hand(host, instance)?;
    deliver::give(host, instance)?;
    let attach = |netns: BorrowedFd<'_>| {
        attach(host, instance, netns)?;
        hear(host, instance)
    };
    host.runtime.start(instance, &attach).map_err(chain)
}

/// Names are answered before it runs, where it asks in its own network namespace.
fn hear(host: &Host, instance: &Instance) -> Result<(), String> {
    if !instance.dns.contains(&INSIDE.into()) {
        return Ok(());
    }
    match namespace(host, &instance.id, instance.name.as_str())? {
        Some(namespace) => host.names.listen_inside(&instance.id, &namespace).map_err(chain),
        None => Ok(()),
    }
}

/// The network namespace of a container that has one of its own, and a shim.
fn namespace(host: &Host, id: &ContainerId, whose: &str) -> Result<Option<Namespace>, String> {
    let kept = host.runtime.kept_netns(id).map_err(chain)?;
    Ok(kept.map(|(netns, pidfd, shim)| Namespace {
        whose: whose.to_owned(),
        netns,
        pidfd,
        keeper: Process {
            pid: shim.pid,
            start_time: shim.start,
        },
    }))
}

fn repair(host: &Host, instance: &Instance) -> Result<(), String> {
    let netns = host
        .runtime
        .netns(&instance.id)
        .map_err(chain)?
        .ok_or_else(|| format!("{} has no shim, and so no network namespace", instance.name))?;
    attach(host, instance, netns.as_fd())
}

fn attach(host: &Host, instance: &Instance, netns: BorrowedFd<'_>) -> Result<(), String> {
    let _ended = Phase::begin("network");
    for attachment in &instance.attachments {
        host.net
            .attach(netns, attachment, instance.name.as_str())
            .map_err(chain)?;
    }
    Ok(())
}

/// An error with its causes, without saying anything twice.
pub fn chain(error: impl Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}
