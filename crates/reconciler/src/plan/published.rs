//! Published ports of one container, with those picked that were left open.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use model::families::Families;
use model::firewall::{PortRule, Protocol};
use model::image::Image;
use model::name::Name;
use model::network::Attachment;
use model::observed::{Look, overlaps};
use model::shared::Shared;
use model::spec::{ContainerSpec, PortSpec};

use super::{Blocked, Pass};
use crate::allocate::port;
use crate::resolve::{Reached, published_at};

/// Ports that `publish_all` publishes at most: an image that exposes more means "whatever comes".
const MOST_EXPOSED: usize = 256;

impl Pass<'_, '_> {
    /// The container's published ports, those left open picked.
    pub(super) fn ports(
        &mut self,
        name: &Name,
        spec: &ContainerSpec,
        image: Option<&Shared<Image>>,
        attachments: &[Attachment],
        fresh: bool,
    ) -> Result<Vec<PortRule>, Blocked> {
        let Some(targets) = Targets::of(attachments) else {
            return Ok(Vec::new());
        };
        let mut rules: Vec<PortRule> = Vec::new();
        let mut picked = BTreeSet::new();
        let exposed = match image.filter(|_| spec.publish_all) {
            Some(image) => left_to_publish(&image.config.exposed_ports, &spec.ports)?,
            None => Vec::new(),
        };
        for entry in spec.ports.iter().chain(&exposed) {
            for (host, inside) in crate::resolve::each_port(entry) {
                let mut of_entry = self.rules(name, entry, inside, &targets)?;
                let said = |rule: &PortRule| (rule.protocol, rule.at(), inside);
                let port = match host {
                    Some(port) => port,
                    // Said twice, it is published once.
                    None if of_entry.iter().all(|rule| picked.contains(&said(rule))) => continue,
                    None => self.picked(name, entry, &of_entry, &rules, fresh)?,
                };
                if host.is_none() {
                    picked.extend(of_entry.iter().map(said));
                }
                of_entry.iter_mut().for_each(|rule| rule.host_port = port);
                rules.extend(of_entry);
            }
        }
        rules.sort();
        rules.dedup();
        Ok(rules)
    }

    /// One for each address that this container port is published at, the host port left open.
    fn rules(
        &self,
        name: &Name,
        entry: &PortSpec,
        inside: u16,
        targets: &Targets,
    ) -> Result<Vec<PortRule>, Blocked> {
        let rule = |at: IpAddr| {
            let mut allow: Vec<IpNet> = entry.allow.iter().map(IpNet::trunc).collect();
            allow.sort();
            allow.dedup();
            let (target_ip, bridge) = targets.of_family(at)?;
            Some(PortRule {
                protocol: entry.protocol,
                host_ip: Some(at).filter(|ip| !ip.is_unspecified()),
                host_port: 0,
                target_ip,
                target_port: inside,
                bridge: Arc::clone(bridge),
                allow,
                container: name.clone(),
                service: self.place(name).map(|place| place.service.clone()),
            })
        };
        let places = published_at(entry, &self.input.desired.settings, targets.reached());
        places
            .map(|at| {
                rule(at).ok_or_else(|| {
                    let lacks = match at {
                        IpAddr::V4(_) => "IPv4; leave the address out, or name an IPv6 one",
                        IpAddr::V6(_) => "IPv6; give one a `subnet6`",
                    };
                    Blocked::error(format!(
                        "port {inside}/{} is published at {at}, but none of its networks has {lacks}",
                        entry.protocol
                    ))
                })
            })
            .collect()
    }

    /// The port picked before, or a new one that nobody wants, has, or listens on: one for all these rules of an entry.
    fn picked(
        &mut self,
        name: &Name,
        entry: &PortSpec,
        rules: &[PortRule],
        own: &[PortRule],
        fresh: bool,
    ) -> Result<u16, Blocked> {
        let Some(rule) = rules.first() else { return Ok(0) };
        // Picked once for all instances of a service.
        let service = self.service(name);
        // The same whatever families its networks have.
        let at = entry
            .ip
            .unwrap_or(self.input.desired.settings.default_host_ip.into());
        let key = port::key(service.as_str(), rule.target_port, rule.protocol, at);
        let wanted = self.wanted_ports(rule.protocol, service);
        let taken = |port: u16, listeners: bool| {
            rules.iter().any(|rule| {
                let same = |(at, range): &(IpAddr, (u16, u16))| {
                    (range.0..=range.1).contains(&port) && overlaps(*at, rule.at())
                };
                let mine = own.iter().any(|r| {
                    r.protocol == rule.protocol && r.host_port == port && overlaps(r.at(), rule.at())
                });
                mine || wanted.iter().any(same)
                    || (listeners && self.foreign_listener(rule.protocol, rule.at(), port).is_some())
            })
        };
        if let Some(kept) = self
            .ledger
            .picked_ports
            .get(&key)
            .filter(|port| !taken(**port, fresh))
        {
            return Ok(*kept);
        }
        if let Look::Unknown(why) = &self.input.observed.listeners {
            return Err(Blocked::wait(format!(
                "cannot see which host ports are free: {why}"
            )));
        }
        let picked = port::pick(|port| taken(port, true)).ok_or_else(|| {
            Blocked::error(format!(
                "no host port of {:?} is free for port {}",
                port::PICKED,
                rule.target_port
            ))
        })?;
        self.ledger.picked_ports.insert(key, picked);
        Ok(picked)
    }

    /// Host ports that others have, have written, or had picked.
    fn wanted_ports(&self, protocol: Protocol, service: &Name) -> Vec<(IpAddr, (u16, u16))> {
        let settings = &self.input.desired.settings;
        let written = self.input.desired.containers.values().flat_map(|c| &c.spec.ports);
        // Networks may get the other family later.
        let places =
            |p: &PortSpec| published_at(p, settings, Reached::BY_BOTH).zip(std::iter::repeat(p.host));
        let written = written.filter(|p| p.protocol == protocol).flat_map(places);
        let written = written.filter_map(|(at, host)| Some((at, host?)));
        let others = self.ledger.containers.iter();
        let others = others.filter(|(name, _)| self.service(name) != service);
        let accepted = others.flat_map(|(_, e)| {
            e.current.ports.iter().chain(
                e.next
                    .as_ref()
                    .map(|n| n.accepted.ports.as_slice())
                    .unwrap_or_default(),
            )
        });
        let accepted = accepted
            .filter(|r| r.protocol == protocol)
            .map(|r| (r.at(), (r.host_port, r.host_port)));
        let own = format!("{service}/");
        let picked = self
            .ledger
            .picked_ports
            .iter()
            .filter(|(key, _)| !key.starts_with(&own));
        let of_protocol = format!("/{protocol}/");
        let picked = picked
            .filter(|(key, _)| key.contains(&of_protocol))
            .flat_map(|(_, port)| EVERYWHERE.map(|at| (at, (*port, *port))));
        written.chain(accepted).chain(picked).collect()
    }
}

const EVERYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
];

/// The interfaces that published ports lead to, by family: of those that this host is the gateway of, the ones with the
/// default route, where there is one.
struct Targets(Families<Target<Ipv4Addr>, Target<Ipv6Addr>>);

/// An address, and the bridge that leads to it.
type Target<A> = (A, Arc<str>);

impl Targets {
    fn of(attachments: &[Attachment]) -> Option<Self> {
        let routed = || attachments.iter().filter(|a| !a.link.is_lan());
        let four = || routed().filter_map(|a| Some((a.v4()?, a)));
        let six = || routed().filter_map(|a| Some((a.v6()?, a)));
        let out = four().find(|(v4, _)| v4.gateway.is_some());
        let out6 = six().find(|(v6, _)| v6.gateway.is_some());
        let bridge = |a: &Attachment| Arc::from(a.bridge.as_str());
        let v4 = out.or_else(|| four().next()).map(|(v4, a)| (v4.ip, bridge(a)));
        let v6 = out6.or_else(|| six().next()).map(|(v6, a)| (v6.ip, bridge(a)));
        Families::new(v4, v6).map(Self)
    }

    fn reached(&self) -> Reached {
        Reached {
            v4: self.0.v4().is_some(),
            v6: self.0.v6().is_some(),
        }
    }

    /// Address and bridge of the one of this address's family.
    fn of_family(&self, at: IpAddr) -> Option<(IpAddr, &Arc<str>)> {
        match at {
            // Served by a process of ours, which reaches it either way.
            IpAddr::V4(at) if at.is_loopback() && self.0.v4().is_none() => self.of_family(EVERYWHERE[1]),
            IpAddr::V4(_) => self.0.v4().map(|(ip, bridge)| ((*ip).into(), bridge)),
            IpAddr::V6(at) if at.is_loopback() && self.0.v6().is_none() => self.of_family(EVERYWHERE[0]),
            IpAddr::V6(_) => self.0.v6().map(|(ip, bridge)| ((*ip).into(), bridge)),
        }
    }
}

/// What an image exposes and the table does not publish itself.
fn left_to_publish(exposes: &[String], published: &[PortSpec]) -> Result<Vec<PortSpec>, Blocked> {
    let exposed = exposed(exposes);
    let count: usize = exposed
        .iter()
        .map(|p| usize::from(p.container.1 - p.container.0) + 1)
        .sum();
    if count > MOST_EXPOSED {
        return Err(Blocked::error(format!(
            "publish_all: its image exposes {count} ports, more than {MOST_EXPOSED}; list those that are wanted in `ports`"
        )));
    }
    let has = |port: u16, protocol: Protocol| {
        published
            .iter()
            .any(|p| p.protocol == protocol && (p.container.0..=p.container.1).contains(&port))
    };
    let single = |entry: PortSpec| {
        let (first, last) = entry.container;
        (first..=last).map(move |port| PortSpec {
            container: (port, port),
            ..entry.clone()
        })
    };
    let all = exposed.into_iter().flat_map(single);
    Ok(all.filter(|p| !has(p.container.0, p.protocol)).collect())
}

/// `80/tcp`, `53/udp`, `80`, `7000-7010/tcp` of an image's EXPOSE; what is none of these is left out.
pub(super) fn exposed(list: &[String]) -> Vec<PortSpec> {
    let one = |text: &String| {
        let text = text.trim().to_ascii_lowercase();
        let (ports, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        let protocol = match protocol {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return None,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let container: (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (container.0 > 0 && container.0 <= container.1).then_some(PortSpec {
            ip: None,
            host: None,
            container,
            protocol,
            allow: Vec::new(),
        })
    };
    list.iter().filter_map(one).collect()
}
