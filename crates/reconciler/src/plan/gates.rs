//! What keeps an action from being tried right now: failures that rest, foreign listeners, shared addresses.

use std::net::IpAddr;
use std::time::Duration;

use model::action::Noun;
use model::firewall::Protocol;
use model::ledger::{Accepted, ContainerEntry};
use model::name::{ContainerId, Name};
use model::network::Attachment;
use model::observed::{Listener, Look, overlaps};
use model::plan::fingerprint;
use model::restart;
use model::spec::RestartSpec;
use serde::Serialize;

use super::places::homes;
use super::{Blocked, Pass, after, dns};

/// Where names are asked (RFC 1035).
const DOMAIN: u16 = 53;

/// How often a port that somebody else holds is looked at again: sockets that close tell nobody.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Pass<'_, '_> {
    /// The wait after a failure, if it was this that failed and its time is not yet over.
    pub(super) fn resting<T: Serialize>(
        &self,
        noun: &Noun,
        id: Option<&ContainerId>,
        what: &T,
        backoff: &RestartSpec,
    ) -> Option<Blocked> {
        let failure = self.input.failures.get(noun)?;
        let same = failure.id.as_ref() == id && (failure.of.is_empty() || failure.of == fingerprint(what));
        let again = after(failure.at, restart::delay(backoff, failure.count));
        // A failure from the future is a clock that was set back: better tried early than an hour late.
        let over = self.input.now >= again || failure.at > self.input.now;
        (same && !over).then(|| Blocked {
            why: failure.message.clone(),
            until: Some(again),
            error: true,
        })
    }

    /// Who else holds this host port, as a sentence.
    pub(super) fn foreign_listener(&self, protocol: Protocol, at: IpAddr, port: u16) -> Option<String> {
        let listeners = match &self.input.observed.listeners {
            Look::Known(list) => list,
            Look::Unknown(why) => {
                return Some(format!(
                    "cannot see whether host port {port}/{protocol} is free: {why}"
                ));
            }
        };
        // One on `::` that takes IPv4 too is listed for `0.0.0.0` as well.
        let taken = |l: &&Listener| l.protocol == protocol && l.port == port && overlaps(at, l.ip);
        // Of every address, those at which names are asked are left to the name server.
        let others = |l: &&Listener| !at.is_unspecified() || !self.is_asked_at(l.ip, port);
        let listener = listeners.iter().filter(taken).find(others)?;
        if self.is_asked_at(listener.ip, port) {
            return Some(format!(
                "host port {port}/{protocol} is taken at {at}: there the name server answers containers; publish it on \
                 another address, or on every one, which leaves out this one"
            ));
        }
        let at = match listener.ip {
            IpAddr::V4(at) => format!("{at}:{port}"),
            IpAddr::V6(at) => format!("[{at}]:{port}"),
        };
        let by = match &listener.holder {
            Some((pid, command)) => format!("process {pid} ({command})"),
            None => "another process".to_owned(),
        };
        Some(format!(
            "host port {port}/{protocol} is taken: {by} listens on {at}/{protocol}; stop it or publish another port"
        ))
    }

    /// The name server listens there.
    fn is_asked_at(&self, ip: IpAddr, port: u16) -> bool {
        let mut places = dns::places(&self.ledger, &self.input.observed.dns_ports);
        port == DOMAIN && places.any(|place| place == ip)
    }

    /// An address of this place that another container lives on now, or may.
    pub(super) fn living_on(&self, place: &Attachment, but: &Name) -> Option<(IpAddr, Name)> {
        let others = self.around(place).into_iter().filter(|name| *name != but);
        let others = others.filter_map(|name| Some((name, self.ledger.containers.get(name)?)));
        let shared = |a: &Accepted| {
            let mut ips = place.ips();
            ips.find(|ip| homes(a).any(|(network, other)| *network == place.network && other == *ip))
        };
        let on = |(name, entry): (&Name, &ContainerEntry)| {
            let mut all = entry.all().filter_map(|a| Some((a, shared(a)?)));
            let lives = |a: &Accepted| self.container_busy(name) || self.look_at(a).may_be_live();
            all.find_map(|(a, ip)| lives(a).then(|| (ip, name.clone())))
        };
        others.filter_map(on).next()
    }
}
