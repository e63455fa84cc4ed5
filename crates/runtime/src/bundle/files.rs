//! `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname` as Docker writes them.

use std::net::IpAddr;

use model::links;
use model::spec::NetworkMode;

use super::BundleInput;

/// What the container is called: its `hostname`, the host's name in the host's network, else its own name. In another
/// container's network that one's: what is said here then gives way to what it turns out to be at the start.
pub fn hostname(input: &BundleInput<'_>) -> String {
    let instance = input.instance;
    match (&instance.spec.hostname, &instance.spec.network_mode) {
        (Some(name), _) => name.clone(),
        (None, NetworkMode::Host) if !input.host.hostname.is_empty() => input.host.hostname.clone(),
        (None, NetworkMode::Container(owner)) => owner.to_string(),
        (None, _) => instance.name.to_string(),
    }
}

/// The three files, by name in the bundle directory.
pub fn files(input: &BundleInput<'_>, hostname: &str) -> Vec<(&'static str, String)> {
    vec![
        ("hosts", hosts(input, hostname)),
        ("resolv.conf", resolv_conf(input)),
        ("hostname", format!("{hostname}\n")),
    ]
}

fn hosts(input: &BundleInput<'_>, hostname: &str) -> String {
    let instance = input.instance;
    let mut text = match instance.spec.network_mode {
        NetworkMode::Host => {
            let mut text = input.host.hosts.clone();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }
        _ => LOCAL_HOSTS.to_owned(),
    };
    for (name, ip) in &instance.spec.extra_hosts {
        text.push_str(&format!("{ip}\t{name}\n"));
    }
    text.push_str(
        &links::lines(&instance.links)
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    );
    for attachment in &instance.attachments {
        let others = attachment.aliases.iter().filter(|alias| *alias != hostname);
        let names: String = others.map(|alias| format!(" {alias}")).collect();
        for ip in attachment.ips() {
            text.push_str(&format!("{ip}\t{hostname}{names}\n"));
        }
    }
    text
}

const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Given servers replace the host's; of the host's, those on its loopback are left out unless its network is shared:
/// nothing answers there inside.
fn resolv_conf(input: &BundleInput<'_>) -> String {
    let instance = input.instance;
    let spec = &instance.spec;
    let given = if instance.dns.is_empty() {
        &spec.dns
    } else {
        &instance.dns
    };
    let shared = spec.network_mode == NetworkMode::Host;
    if shared && given.is_empty() && spec.dns_search.is_empty() {
        return input.host.resolv_conf.clone();
    }
    let mut text = String::new();
    for server in given {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for line in input.host.resolv_conf.lines() {
        let mut words = line.split_whitespace();
        let keep = match words.next() {
            Some("nameserver") => {
                let local = words
                    .next()
                    .and_then(|w| w.parse::<IpAddr>().ok())
                    .is_some_and(|ip| ip.is_loopback());
                given.is_empty() && (shared || !local)
            }
            Some("search" | "domain") => spec.dns_search.is_empty(),
            Some(word) => !word.starts_with(['#', ';']),
            None => false,
        };
        if keep {
            text.push_str(line.trim());
            text.push('\n');
        }
    }
    if !spec.dns_search.is_empty() {
        text.push_str(&format!("search {}\n", spec.dns_search.join(" ")));
    }
    // Containers' names are asked for as they are before search domains are tried, as Docker has it: otherwise each of
    // them goes out to the world with the first domain behind it, and comes back as whatever that answers.
    let by_name = spec.dns.is_empty() && !instance.dns.is_empty();
    if by_name && !text.contains("ndots:") {
        text.push_str("options ndots:0\n");
    }
    text
}
