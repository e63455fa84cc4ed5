//! `[container.NAME]`.

mod checks;
mod health;
mod mounts;
mod networks;
mod ports;
mod process;

pub(super) use mounts::mode;

use crate::image::ImageSource;
use crate::name::Name;
use crate::spec::{
    Condition, ContainerSpec, Dependency, LogDriver, Logging, PullPolicy, RestartPolicy, RestartSpec,
    RuntimeChoice, UpdateSpec, UpdateStrategy,
};

use super::image_ref;
use super::known;
use super::reader::{Item, Table};
use super::tree::Value;

/// Reads one table. A spec comes back even where there are errors; the caller looks for those.
pub(super) fn read(table: &Table<'_>) -> ContainerSpec {
    let mut spec = ContainerSpec::new(source(table));
    image_keys(table, &mut spec);
    program_keys(table, &mut spec);
    table.set("ports", &mut spec.ports, ports::read);
    table.set("publish_all", &mut spec.publish_all, Item::boolean);
    networks::read(table, &mut spec);
    mounts::read(table, &mut spec);
    process::read(table, &mut spec);
    order_keys(table, &mut spec);
    let job = spec.schedule.is_some();
    if job {
        spec.restart.policy = RestartPolicy::No;
    }
    table.set("restart", &mut spec.restart, |item| restart(item, job));
    table.set("healthcheck", &mut spec.healthcheck, health::read);
    process::limits(table, &mut spec);
    table.set("update", &mut spec.update, update);
    table.set("logging", &mut spec.logging, logging);
    checks::check(table, &spec);
    spec
}

/// `image` or `rootfs`; a stand-in where neither can be read.
fn source(table: &Table<'_>) -> ImageSource {
    let image = table.get("image").map(|item| image(&item));
    let rootfs = table.get("rootfs").map(|item| item.path());
    let nothing = ImageSource::Rootfs { dir: "/".into() };
    match (image, rootfs) {
        (Some(_), Some(_)) => {
            let message = "a container has either `image` or `rootfs`, not both".to_owned();
            table.fault(Some("rootfs"), message, "take one of them out");
            nothing
        }
        (Some(image), None) => image.unwrap_or(nothing),
        (None, Some(dir)) => dir.map_or(nothing, |dir| ImageSource::Rootfs { dir }),
        (None, None) => {
            table.missing(
                "image",
                "write image = \"oci:/path/to/layout\", or rootfs = \"/path\"",
            );
            nothing
        }
    }
}

/// An image: the name of an `[image.NAME]` table, else a reference.
pub(super) fn image(item: &Item<'_>) -> Option<ImageSource> {
    let text = item.text()?;
    let table = text.parse::<Name>().ok();
    if let Some(known) = table.and_then(|name| item.report.images.get(&name)) {
        return Some(known.clone());
    }
    image_reference(item)
}

/// An image that is no table's name.
pub(super) fn image_reference(item: &Item<'_>) -> Option<ImageSource> {
    match image_ref::parse(item.text()?, &item.report.search) {
        Ok(source) => Some(source),
        Err(error) => {
            item.fault(error.problem, error.hint);
            None
        }
    }
}

fn image_keys(table: &Table<'_>, spec: &mut ContainerSpec) {
    table.set("pull", &mut spec.pull, |item| {
        Some(match item.word()?.0 {
            "always" => PullPolicy::Always,
            "never" => PullPolicy::Never,
            "newer" => PullPolicy::Newer,
            _ => PullPolicy::Missing,
        })
    });
    table.set("update_check", &mut spec.update_check, Item::some_duration);
    table.set("labels", &mut spec.labels, |item| {
        item.texts(|name| match name {
            "" => Some("has an empty name".to_owned()),
            own if own.starts_with("wharf.") => {
                Some(format!("has {own}: names that begin with wharf. are wharf's own"))
            }
            _ => None,
        })
    });
    table.set("enabled", &mut spec.enabled, Item::boolean);
    table.set("replicas", &mut spec.replicas, Item::integer);
    table.set("runtime", &mut spec.runtime, runtime);
}

fn runtime(item: &Item<'_>) -> Option<RuntimeChoice> {
    let text = item.filled()?;
    if text == "embedded" {
        return Some(RuntimeChoice::Embedded);
    }
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.contains('/') {
        return item.absolute(&text).map(RuntimeChoice::External);
    }
    if !text.chars().all(name) || text.starts_with(['.', '-', '_']) {
        item.fault(
            format!("must be the name or path of an OCI runtime, not {text:?}"),
            "write \"embedded\", \"crun\" or \"/usr/bin/runc\"",
        );
        return None;
    }
    Some(RuntimeChoice::External(text))
}

fn program_keys(table: &Table<'_>, spec: &mut ContainerSpec) {
    table.fill("command", &mut spec.command, arguments);
    table.fill("entrypoint", &mut spec.entrypoint, arguments);
    table.set("env", &mut spec.env, |item| item.texts(known::env_name_problem));
    table.set("env_file", &mut spec.env_file, |item| item.each(Item::path));
    table.fill("user", &mut spec.user, user);
    table.set("groups", &mut spec.groups, |item| {
        item.each(|group| {
            let text = group.filled()?;
            if text.contains(':') || text.contains(char::is_whitespace) {
                group.fault(format!("must be a group's name or number, not {text:?}"), "");
            }
            Some(text)
        })
    });
    spec.groups.sort();
    table.fill("working_dir", &mut spec.working_dir, Item::path_text);
    table.fill("hostname", &mut spec.hostname, hostname);
    table.fill("stop_signal", &mut spec.stop_signal, signal);
    table.set("stop_grace_period", &mut spec.stop_grace_period, Item::duration);
}

/// A list of words, or a string split into them as a shell does.
fn arguments(item: &Item<'_>) -> Option<Vec<String>> {
    match &item.node.value {
        Value::Array(_) => {
            let words = item.each(Item::string)?;
            if words.first().is_some_and(String::is_empty) {
                item.fault("has an empty program name", "the first word is the program");
            }
            Some(words)
        }
        Value::String(_) => match super::shell::split(item.text()?) {
            Ok(words) if words.first().is_none_or(String::is_empty) => {
                item.fault("is empty", "write the program and its arguments");
                None
            }
            Ok(words) => Some(words),
            Err(error) => {
                item.fault(
                    error.to_string(),
                    "a list needs no quoting: [\"sh\", \"-c\", \"…\"]",
                );
                None
            }
        },
        _ => {
            item.mismatch("a string or an array of strings", None);
            None
        }
    }
}

fn user(item: &Item<'_>) -> Option<String> {
    let text = item.filled()?;
    let parts: Vec<&str> = text.split(':').collect();
    let good = |part: &&str| !part.is_empty() && !part.contains(char::is_whitespace);
    if parts.len() > 2 || !parts.iter().all(good) {
        item.fault(format!("must be USER or USER:GROUP, not {text:?}"), "");
        return None;
    }
    Some(text)
}

fn hostname(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if !known::is_hostname(text) {
        item.fault(
            format!("must be a host name, not {text:?}"),
            "letters, digits and inner '-', at most 63 between dots and 64 in all",
        );
        return None;
    }
    Some(text.to_owned())
}

pub(super) fn signal(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let name = known::signal_name(text);
    if name.is_none() {
        item.fault(
            format!("must be a signal, not {text:?}"),
            "write \"SIGTERM\", \"TERM\" or \"15\"",
        );
    }
    name
}

fn order_keys(table: &Table<'_>, spec: &mut ContainerSpec) {
    table.set("depends_on", &mut spec.depends_on, |item| {
        if let Value::Array(_) = &item.node.value {
            let started = |name| (name, dependency(Condition::Started));
            return Some(item.each(Item::name)?.into_iter().map(started).collect());
        }
        let read = |(name, _, item): (&str, _, Item<'_>)| Some((item.named(name)?, depends(&item)?));
        Some(item.entries()?.into_iter().filter_map(read).collect())
    });
    table.set("requires_mounts", &mut spec.requires_mounts, |item| {
        item.each(Item::path)
    });
    spec.requires_mounts.sort();
    table.set(
        "after_network_online",
        &mut spec.after_network_online,
        Item::boolean,
    );
    table.fill("schedule", &mut spec.schedule, |item| {
        item.or_fault(item.text()?.parse())
    });
    table.set("randomized_delay", &mut spec.randomized_delay, Item::duration);
    table.set("persistent", &mut spec.persistent, Item::boolean);
}

fn dependency(condition: Condition) -> Dependency {
    Dependency {
        condition,
        restart: false,
    }
}

fn depends(item: &Item<'_>) -> Option<Dependency> {
    if let Value::String(_) = &item.node.value {
        return condition(item).map(dependency);
    }
    let table = item.table()?;
    let mut found = dependency(Condition::Started);
    table.set("condition", &mut found.condition, condition);
    table.set("restart", &mut found.restart, Item::boolean);
    Some(found)
}

fn condition(item: &Item<'_>) -> Option<Condition> {
    Some(match item.word()?.0 {
        "healthy" => Condition::Healthy,
        "completed" => Condition::Completed,
        _ => Condition::Started,
    })
}

fn restart(item: &Item<'_>, job: bool) -> Option<RestartSpec> {
    let mut spec = RestartSpec::default();
    if job {
        spec.policy = RestartPolicy::No;
    }
    if let Value::String(_) = &item.node.value {
        spec.policy = policy(item)?;
        return Some(spec);
    }
    let table = item.table()?;
    table.set("policy", &mut spec.policy, policy);
    table.set("backoff", &mut spec.backoff, Item::some_duration);
    table.set("backoff_max", &mut spec.backoff_max, Item::some_duration);
    table.set("reset_after", &mut spec.reset_after, Item::duration);
    if spec.backoff > spec.backoff_max {
        let key = if table.has("backoff_max") {
            "backoff_max"
        } else {
            "backoff"
        };
        let message = "`restart.backoff` is longer than `restart.backoff_max`".to_owned();
        table.fault(
            Some(key),
            message,
            "the delay doubles from the first to the second",
        );
    }
    Some(spec)
}

fn policy(item: &Item<'_>) -> Option<RestartPolicy> {
    Some(match item.word()?.0 {
        "on-failure" => RestartPolicy::OnFailure,
        "no" => RestartPolicy::No,
        _ => RestartPolicy::Always,
    })
}

fn update(item: &Item<'_>) -> Option<UpdateSpec> {
    let table = item.table()?;
    let mut spec = UpdateSpec::default();
    table.set("strategy", &mut spec.strategy, |item| {
        Some(match item.word()?.0 {
            "start-first" => UpdateStrategy::StartFirst,
            _ => UpdateStrategy::Recreate,
        })
    });
    table.set("drain", &mut spec.drain, Item::duration);
    table.set("timeout", &mut spec.timeout, Item::some_duration);
    table.set("parallelism", &mut spec.parallelism, Item::integer);
    Some(spec)
}

fn logging(item: &Item<'_>) -> Option<Logging> {
    let table = item.table()?;
    let mut spec = Logging::default();
    table.set("driver", &mut spec.driver, |item| {
        Some(match item.word()?.0 {
            "journald" => LogDriver::Journald,
            "none" => LogDriver::None,
            _ => LogDriver::File,
        })
    });
    table.set("max_size", &mut spec.max_size, Item::size);
    table.set("max_files", &mut spec.max_files, Item::integer);
    Some(spec)
}
