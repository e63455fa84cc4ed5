//! Links from a container to others (`links`), as Docker had them before networks had names: lines of `/etc/hosts`, and
//! variables of the environment.
//!
//! Spelled as in <https://docs.docker.com/engine/network/links/>, ranges of ports as dockerd does.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::firewall::Protocol;
use crate::name::Name;
use crate::spec::ContainerSpec;

/// The containers that one of this table waits for, and is stopped before: what it depends on, and what it is linked to.
pub fn relied_on(spec: &ContainerSpec) -> impl Iterator<Item = &Name> {
    let linked = spec.links.iter().map(|link| &link.container);
    spec.depends_on.keys().chain(linked)
}

/// What a container is told of one that it is linked to, everything decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// The table; of a replicated one all instances.
    pub target: Name,
    pub alias: String,
    /// Where the alias leads to.
    pub ips: Vec<IpAddr>,
    /// The address in the environment: of the first instance.
    pub ip: Option<IpAddr>,
    /// What it listens on, as far as its image and its table say, TCP before UDP.
    pub ports: Vec<(Protocol, u16)>,
    /// Its environment, NAME=VALUE each: the image's and the table's.
    pub env: Vec<String>,
}

impl Linked {
    /// Its lines of `/etc/hosts`.
    pub fn lines(&self) -> Vec<String> {
        let own = Some(self.target.as_str()).filter(|name| *name != self.alias);
        let more = own.map(|name| format!(" {name}")).unwrap_or_default();
        let lines = self.ips.iter().map(|ip| format!("{ip}\t{}{more}", self.alias));
        lines.collect()
    }

    /// Its variables, NAME=VALUE each, for this container.
    pub fn variables(&self, own: &Name) -> Vec<String> {
        let prefix = self.alias.to_ascii_uppercase().replace('-', "_");
        let mut out = self.of_ports(&prefix);
        out.push(format!("{prefix}_NAME=/{own}/{}", self.alias));
        // What every image sets says nothing about this one.
        let told = |entry: &&String| !entry.starts_with("HOME=") && !entry.starts_with("PATH=");
        out.extend(
            self.env
                .iter()
                .filter(told)
                .map(|entry| format!("{prefix}_ENV_{entry}")),
        );
        out
    }

    fn of_ports(&self, prefix: &str) -> Vec<String> {
        let Some(ip) = self.ip else { return Vec::new() };
        let url = |protocol: Protocol, port: u16| match ip {
            IpAddr::V4(ip) => format!("{protocol}://{ip}:{port}"),
            IpAddr::V6(ip) => format!("{protocol}://[{ip}]:{port}"),
        };
        let mut out = Vec::new();
        if let Some((protocol, port)) = self.ports.first() {
            out.push(format!("{prefix}_PORT={}", url(*protocol, *port)));
        }
        for run in self
            .ports
            .chunk_by(|a, b| a.0 == b.0 && a.1.checked_add(1) == Some(b.1))
        {
            for (protocol, port) in run {
                let of = name(prefix, *protocol, *port);
                out.push(format!("{of}={}", url(*protocol, *port)));
                out.push(format!("{of}_ADDR={ip}"));
                out.push(format!("{of}_PORT={port}"));
                out.push(format!("{of}_PROTO={protocol}"));
            }
            if let [(protocol, start), .., (_, end)] = *run {
                let of = name(prefix, protocol, start);
                out.push(format!("{of}_START={}", url(protocol, start)));
                out.push(format!("{of}_PORT_START={start}"));
                out.push(format!("{of}_END={}", url(protocol, end)));
                out.push(format!("{of}_PORT_END={end}"));
            }
        }
        out
    }
}

fn name(prefix: &str, protocol: Protocol, port: u16) -> String {
    format!(
        "{prefix}_PORT_{port}_{}",
        protocol.to_string().to_ascii_uppercase()
    )
}

/// All lines of these.
pub fn lines(links: &[Linked]) -> Vec<String> {
    links.iter().flat_map(Linked::lines).collect()
}

/// A hosts file with these lines in the place of those that lead by the same names; all others stay as they are.
pub fn renewed(hosts: &str, links: &[Linked]) -> String {
    let of_links = |line: &&str| {
        let name = line.split_whitespace().nth(1);
        links.iter().any(|link| name == Some(&link.alias))
    };
    let kept = hosts.lines().filter(|line| !of_links(line)).map(str::to_owned);
    kept.chain(lines(links)).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn db() -> Linked {
        Linked {
            target: "db".parse().unwrap(),
            alias: "data-base".to_owned(),
            ips: vec!["172.17.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            ip: Some("172.17.0.5".parse().unwrap()),
            ports: vec![
                (Protocol::Tcp, 5432),
                (Protocol::Tcp, 7000),
                (Protocol::Tcp, 7001),
                (Protocol::Udp, 7002),
            ],
            env: ["PATH=/bin", "HOME=/", "PG_VERSION=17", "A=b=c"]
                .map(str::to_owned)
                .to_vec(),
        }
    }

    #[test]
    fn variables_are_spelled_as_docker_does() {
        insta::assert_snapshot!(db().variables(&"web".parse().unwrap()).join("\n"), @"
        DATA_BASE_PORT=tcp://172.17.0.5:5432
        DATA_BASE_PORT_5432_TCP=tcp://172.17.0.5:5432
        DATA_BASE_PORT_5432_TCP_ADDR=172.17.0.5
        DATA_BASE_PORT_5432_TCP_PORT=5432
        DATA_BASE_PORT_5432_TCP_PROTO=tcp
        DATA_BASE_PORT_7000_TCP=tcp://172.17.0.5:7000
        DATA_BASE_PORT_7000_TCP_ADDR=172.17.0.5
        DATA_BASE_PORT_7000_TCP_PORT=7000
        DATA_BASE_PORT_7000_TCP_PROTO=tcp
        DATA_BASE_PORT_7001_TCP=tcp://172.17.0.5:7001
        DATA_BASE_PORT_7001_TCP_ADDR=172.17.0.5
        DATA_BASE_PORT_7001_TCP_PORT=7001
        DATA_BASE_PORT_7001_TCP_PROTO=tcp
        DATA_BASE_PORT_7000_TCP_START=tcp://172.17.0.5:7000
        DATA_BASE_PORT_7000_TCP_PORT_START=7000
        DATA_BASE_PORT_7000_TCP_END=tcp://172.17.0.5:7001
        DATA_BASE_PORT_7000_TCP_PORT_END=7001
        DATA_BASE_PORT_7002_UDP=udp://172.17.0.5:7002
        DATA_BASE_PORT_7002_UDP_ADDR=172.17.0.5
        DATA_BASE_PORT_7002_UDP_PORT=7002
        DATA_BASE_PORT_7002_UDP_PROTO=udp
        DATA_BASE_NAME=/web/data-base
        DATA_BASE_ENV_PG_VERSION=17
        DATA_BASE_ENV_A=b=c
        ");
    }

    #[test]
    fn without_ports_there_are_a_name_and_an_environment() {
        let bare = Linked {
            ports: Vec::new(),
            env: Vec::new(),
            ..db()
        };
        assert_eq!(
            bare.variables(&"web".parse().unwrap()),
            ["DATA_BASE_NAME=/web/data-base"]
        );
    }

    #[test]
    fn a_hosts_file_keeps_what_is_not_of_the_links() {
        let before = "127.0.0.1\tlocalhost\n10.0.0.9\tdata-base db\n# db\n10.0.0.9 db\n";
        let after = renewed(before, &[db()]);
        insta::assert_snapshot!(after, @"
        127.0.0.1	localhost
        # db
        10.0.0.9 db
        172.17.0.5	data-base db
        fd00::5	data-base db
        ");
        assert_eq!(renewed(&after, &[db()]), after);
        let gone = Linked {
            ips: Vec::new(),
            ..db()
        };
        assert_eq!(
            renewed(&after, &[gone]),
            "127.0.0.1\tlocalhost\n# db\n10.0.0.9 db\n"
        );
    }
}
