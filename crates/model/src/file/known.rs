//! Names that the kernel defines: signals, capabilities, limits, sysctls; and what host and variable names look like.

/// signal(7), by number from 1.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SIGNAL_ALIASES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];
/// What libc leaves of the kernel's real-time signals.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// capabilities(7), without `CAP_`.
pub(super) const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Resources of setrlimit(2), in lower case and without `RLIMIT_`.
pub(super) const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A signal's number by its name (`SIGTERM`, `term`, `SIGRTMIN+3`) or number (`15`).
pub fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        let known = (1..=31).contains(&number) || (RTMIN..=RTMAX).contains(&number);
        return known.then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = SIGNALS.iter().position(|s| *s == name) {
        return i32::try_from(index + 1).ok();
    }
    if let Some((_, number)) = SIGNAL_ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(*number);
    }
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) => digits
            .parse::<i32>()
            .ok()
            .filter(|n| (0..=RTMAX - RTMIN).contains(n)),
        None => rest.is_empty().then_some(0),
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').map(|n| RTMIN + n)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').map(|n| RTMAX - n)
    } else {
        None
    }
}

/// The one spelling of a signal: `SIGTERM`, `SIGRTMIN+3`.
pub fn signal_name(text: &str) -> Option<String> {
    let number = signal_number(text)?;
    let index = usize::try_from(number - 1).ok()?;
    Some(match SIGNALS.get(index) {
        Some(name) => format!("SIG{name}"),
        None if number == RTMIN => "SIGRTMIN".to_owned(),
        None => format!("SIGRTMIN+{}", number - RTMIN),
    })
}

/// A capability without `CAP_` and in upper case, or `ALL`.
pub(super) fn capability(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    (name == "ALL" || CAPABILITIES.contains(&name)).then(|| name.to_owned())
}

/// Whose sysctl it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SysctlScope {
    Network,
    Ipc,
    /// The whole host's: not a container's to change.
    Host,
    /// Not spelled like one.
    Malformed,
}

/// Which namespace a sysctl belongs to (namespaces(7), sysctl(8)).
pub(super) fn sysctl_scope(name: &str) -> SysctlScope {
    let good = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '@' | ':'))
    };
    if !name.contains('.') || !name.split('.').all(good) {
        SysctlScope::Malformed
    } else if name.starts_with("net.") {
        SysctlScope::Network
    } else if name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.")
    {
        SysctlScope::Ipc
    } else {
        SysctlScope::Host
    }
}

/// A host name of RFC 1123 that fits into the kernel's 64 bytes.
pub(super) fn is_hostname(text: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    text.len() <= 64 && text.split('.').all(label)
}

/// A name of DNS: as a host name, longer, with `_` allowed.
pub(super) fn is_dns_name(text: &str) -> bool {
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    text.len() <= 253 && text.trim_end_matches('.').split('.').all(label)
}

/// What is wrong with the name of an environment variable.
pub(super) fn env_name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("has an empty name".to_owned());
    }
    let odd = name
        .chars()
        .find(|&c| c == '=' || c.is_whitespace() || c.is_control());
    odd.map(|c| format!("is no variable's name: it has {c:?}"))
}

/// A network device's name: 1 to 15 bytes without `/`, `:` and blanks (kernel, dev_valid_name).
pub(super) fn is_device_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text
            .chars()
            .any(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_one_spelling() {
        for (text, name) in [
            ("SIGTERM", Some("SIGTERM")),
            ("term", Some("SIGTERM")),
            ("15", Some("SIGTERM")),
            ("SIGIOT", Some("SIGABRT")),
            ("RTMIN", Some("SIGRTMIN")),
            ("SIGRTMIN+3", Some("SIGRTMIN+3")),
            ("37", Some("SIGRTMIN+3")),
            ("SIGRTMAX", Some("SIGRTMIN+30")),
            ("SIGRTMAX-30", Some("SIGRTMIN")),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN3", None),
            ("0", None),
            ("32", None),
            ("65", None),
            ("-15", None),
            ("SIGNOPE", None),
        ] {
            assert_eq!(signal_name(text).as_deref(), name, "{text}");
        }
    }

    #[test]
    fn capabilities_have_one_spelling() {
        assert_eq!(capability("CAP_net_admin").as_deref(), Some("NET_ADMIN"));
        assert_eq!(capability("all").as_deref(), Some("ALL"));
        assert_eq!(capability("CAP_NONE"), None);
        assert!(CAPABILITIES.is_sorted());
    }

    #[test]
    fn sysctls_belong_to_namespaces() {
        for (name, scope) in [
            ("net.core.somaxconn", SysctlScope::Network),
            ("kernel.shmmax", SysctlScope::Ipc),
            ("kernel.sem", SysctlScope::Ipc),
            ("fs.mqueue.msg_max", SysctlScope::Ipc),
            ("kernel.semaphore", SysctlScope::Host),
            ("vm.swappiness", SysctlScope::Host),
            ("fs.mqueue.", SysctlScope::Malformed),
            ("net..x", SysctlScope::Malformed),
            ("net/core/somaxconn", SysctlScope::Malformed),
            ("net", SysctlScope::Malformed),
        ] {
            assert_eq!(sysctl_scope(name), scope, "{name}");
        }
    }

    #[test]
    fn names_are_checked() {
        for (text, good) in [
            ("web", true),
            ("a-b.c", true),
            ("-a", false),
            ("a_b", false),
            ("", false),
            ("a..b", false),
        ] {
            assert_eq!(is_hostname(text), good, "{text}");
        }
        assert!(!is_hostname(&"a".repeat(64)), "a label has 63");
        assert!(is_device_name("br-front") && !is_device_name("a234567890123456") && !is_device_name("a/b"));
        assert!(env_name_problem("A_b.c-1").is_none());
        assert!(env_name_problem("A=B").is_some() && env_name_problem("").is_some());
    }
}
