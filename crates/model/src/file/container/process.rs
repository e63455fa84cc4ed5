//! What the program may do: capabilities, namespaces, limits, filters.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::spec::{ContainerSpec, Limits, NamespaceMode, Seccomp, Ulimit, UserNamespace};

use super::super::known::{self, SysctlScope};
use super::super::reader::{Item, Table};
use super::super::suggest;
use super::super::tree::Value;

pub(super) fn read(table: &Table<'_>, spec: &mut ContainerSpec) {
    table.set("init", &mut spec.init, Item::boolean);
    table.set("cap_add", &mut spec.cap_add, capabilities);
    table.set("cap_drop", &mut spec.cap_drop, capabilities);
    table.set("privileged", &mut spec.privileged, Item::boolean);
    table.set("no_new_privileges", &mut spec.no_new_privileges, Item::boolean);
    table.set("sysctls", &mut spec.sysctls, sysctls);
    table.set("ulimits", &mut spec.ulimits, ulimits);
    table.set("userns", &mut spec.userns, |item| {
        Some(match item.word()?.0 {
            "auto" => UserNamespace::Auto,
            _ => UserNamespace::Host,
        })
    });
    table.set("pid", &mut spec.pid, namespace);
    table.set("ipc", &mut spec.ipc, namespace);
    table.set("seccomp", &mut spec.seccomp, seccomp);
}

/// Sorted and each once: their order says nothing.
fn capabilities(item: &Item<'_>) -> Option<Vec<String>> {
    let mut names = item.each(|entry| {
        let text = entry.text()?;
        let name = known::capability(text);
        if name.is_none() {
            let upper = text.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            let hint = suggest::nearest(bare, &known::CAPABILITIES)
                .map_or("capabilities(7) lists them".to_owned(), |near| {
                    format!("did you mean \"{near}\"?")
                });
            entry.fault(format!("must be a capability, not {text:?}"), &hint);
        }
        name
    })?;
    names.sort();
    names.dedup();
    Some(names)
}

fn sysctls(item: &Item<'_>) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (name, entry, inner) in item.entries()? {
        let problem = match known::sysctl_scope(name) {
            SysctlScope::Network | SysctlScope::Ipc => None,
            SysctlScope::Host => Some((
                format!("`{}` belongs to the whole host, not to a container", inner.label),
                "a container has net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.*; set others in /etc/sysctl.d",
            )),
            SysctlScope::Malformed => Some((
                format!("`{}` is no sysctl's name", inner.label),
                "quote the whole name: \"net.core.somaxconn\" = \"1024\"",
            )),
        };
        if let Some((message, hint)) = problem {
            item.report.push(&entry.key, message, Some(hint.to_owned()));
            continue;
        }
        let value = match &inner.node.value {
            Value::Integer(Some(n)) => Some(n.to_string()),
            _ => inner.filled(),
        };
        found.extend(value.map(|value| (name.to_owned(), value)));
    }
    Some(found)
}

fn ulimits(item: &Item<'_>) -> Option<BTreeMap<String, Ulimit>> {
    let mut found = BTreeMap::new();
    for (name, entry, inner) in item.entries()? {
        if !known::ULIMITS.contains(&name) {
            let hint = suggest::nearest(name, &known::ULIMITS)
                .map_or(format!("known: {}", known::ULIMITS.join(", ")), |near| {
                    format!("did you mean `{near}`?")
                });
            let message = format!("`{}` is no limit of setrlimit(2)", inner.label);
            item.report.push(&entry.key, message, Some(hint));
            continue;
        }
        let Some(limit) = ulimit(&inner) else { continue };
        if above(limit.soft, limit.hard) {
            inner.fault("has a soft limit above its hard one", "");
        }
        found.insert(name.to_owned(), limit);
    }
    Some(found)
}

/// None is unlimited, above everything.
fn above(soft: Option<u64>, hard: Option<u64>) -> bool {
    match (soft, hard) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(soft), Some(hard)) => soft > hard,
    }
}

/// A number for both, `SOFT:HARD`, or a table.
fn ulimit(item: &Item<'_>) -> Option<Ulimit> {
    match &item.node.value {
        Value::String(text) => {
            let (soft, hard) = text.split_once(':').unwrap_or((text, text));
            Some(Ulimit {
                soft: limit_text(item, soft)?,
                hard: limit_text(item, hard)?,
            })
        }
        Value::Table(_) => {
            let table = item.table()?;
            let (mut soft, mut hard) = (None, None);
            table.fill("soft", &mut soft, limit_value);
            table.fill("hard", &mut hard, limit_value);
            for key in ["soft", "hard"].into_iter().filter(|key| !table.has(key)) {
                table.missing(key, "write both, or one number for both");
            }
            Some(Ulimit {
                soft: soft?,
                hard: hard?,
            })
        }
        _ => {
            let both = limit_value(item)?;
            Some(Ulimit {
                soft: both,
                hard: both,
            })
        }
    }
}

fn limit_value(item: &Item<'_>) -> Option<Option<u64>> {
    match &item.node.value {
        Value::Integer(Some(n)) => limit_text(item, &n.to_string()),
        Value::String(text) => limit_text(item, text),
        _ => {
            item.mismatch("a number or \"SOFT:HARD\"", None);
            None
        }
    }
}

fn limit_text(item: &Item<'_>, text: &str) -> Option<Option<u64>> {
    if matches!(text, "-1" | "unlimited") {
        return Some(None);
    }
    item.parse_part(text, "a number, or -1 for unlimited").map(Some)
}

fn namespace(item: &Item<'_>) -> Option<NamespaceMode> {
    Some(match item.word()? {
        ("host", _) => NamespaceMode::Host,
        ("container:", name) => NamespaceMode::Container(item.named(name)?),
        _ => NamespaceMode::Private,
    })
}

fn seccomp(item: &Item<'_>) -> Option<Seccomp> {
    let text = item.text()?;
    if text.starts_with('/') {
        return item
            .absolute(text)
            .map(|path| Seccomp::Profile(PathBuf::from(path)));
    }
    Some(match item.word()?.0 {
        "unconfined" => Seccomp::Unconfined,
        _ => Seccomp::Default,
    })
}

/// What setting up a container takes, with room to spare; Docker's bound too.
const LEAST_MEMORY: u64 = 6 << 20;

/// `[container.NAME.limits]`.
pub(super) fn limits(table: &Table<'_>, spec: &mut ContainerSpec) {
    let Some(table) = table.table("limits") else {
        return;
    };
    let mut found = Limits::default();
    table.fill("memory", &mut found.memory, Item::size);
    table.fill("memory_swap", &mut found.memory_swap, Item::size);
    table.fill("memory_reservation", &mut found.memory_reservation, Item::size);
    table.fill("cpus", &mut found.cpus_milli, cpus);
    table.fill("cpu_shares", &mut found.cpu_shares, Item::integer);
    table.fill("cpuset", &mut found.cpuset, cpuset);
    table.fill("pids", &mut found.pids, Item::integer);
    table.fill("blkio_weight", &mut found.blkio_weight, Item::integer);
    if found.memory.is_some_and(|memory| memory < LEAST_MEMORY) {
        let message = "`limits.memory` is below 6M, with which no container gets to run".to_owned();
        table.fault(Some("memory"), message, "write a size like \"64M\"");
    }
    if found.memory.is_none() && found.memory_swap.is_some() {
        let message = "`limits.memory_swap` needs `limits.memory`".to_owned();
        table.fault(Some("memory_swap"), message, "it counts memory and swap together");
    }
    if let (Some(memory), Some(swap)) = (found.memory, found.memory_swap)
        && swap < memory
    {
        let message = "`limits.memory_swap` is below `limits.memory`".to_owned();
        table.fault(Some("memory_swap"), message, "it counts memory and swap together");
    }
    if let (Some(memory), Some(kept)) = (found.memory, found.memory_reservation)
        && kept > memory
    {
        let message = "`limits.memory_reservation` is above `limits.memory`".to_owned();
        table.fault(Some("memory_reservation"), message, "");
    }
    spec.limits = found;
}

/// Cores in thousandths.
fn cpus(item: &Item<'_>) -> Option<u64> {
    let cores = match &item.node.value {
        Value::Float(n) => *n,
        Value::Integer(Some(n)) if (0..=1024).contains(n) => f64::from(i32::try_from(*n).ok()?),
        Value::Integer(_) => -1.0,
        _ => {
            item.mismatch("a number of cores", Some("write 0.5 or 2"));
            return None;
        }
    };
    // Also false for NaN.
    if !(0.01..=1024.0).contains(&cores) {
        item.fault("must be from 0.01 to 1024 cores", "");
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 10 and 1,024,000"
    )]
    Some((cores * 1000.0).round() as u64)
}

/// `0-3,5`, as cpuset(7) takes it.
fn cpuset(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let cpu = |part: &str| part.parse::<u16>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => cpu(first).zip(cpu(last)).is_some_and(|(a, b)| a <= b),
        None => cpu(part).is_some(),
    };
    if !text.split(',').all(range) {
        item.fault(format!("must be a list of CPUs like \"0-3,5\", not {text:?}"), "");
        return None;
    }
    Some(text.to_owned())
}
