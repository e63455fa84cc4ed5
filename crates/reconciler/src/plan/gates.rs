//! What keeps an action from being tried right now: failures that rest, foreign listeners, shared addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use model::action::Noun;
use model::firewall::Protocol;
use model::name::{ContainerId, Name};
use model::observed::{Listener, Look, overlaps};
use model::plan::fingerprint;
use model::restart;
use model::spec::RestartSpec;
use serde::Serialize;

use super::{Blocked, Pass, after};

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
    pub(super) fn foreign_listener(
        &self,
        protocol: Protocol,
        ip: Option<Ipv4Addr>,
        port: u16,
    ) -> Option<String> {
        let listeners = match &self.input.observed.listeners {
            Look::Known(list) => list,
            Look::Unknown(why) => {
                return Some(format!(
                    "cannot see whether host port {port}/{protocol} is free: {why}"
                ));
            }
        };
        let taken = |l: &&Listener| {
            l.protocol == protocol
                && l.port == port
                && match l.ip {
                    IpAddr::V4(at) => overlaps(ip, Some(at)),
                    IpAddr::V6(at) => at.is_unspecified(),
                }
        };
        let listener = listeners.iter().find(taken)?;
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

    /// Another container that lives on this address now, or may: where a stale one lives is not written any more.
    pub(super) fn living_on(&self, network: &Name, ip: Ipv4Addr, but: &Name) -> Option<Name> {
        let others = self.ledger.containers.iter().filter(|(name, _)| *name != but);
        others
            .filter(|(name, entry)| {
                let mut on = entry.all().filter(|a| {
                    a.attachments
                        .iter()
                        .any(|at| at.network == *network && (at.ip == ip || a.stale))
                });
                on.any(|a| self.container_busy(name) || self.look_at(a).may_be_live())
            })
            .map(|(name, _)| name.clone())
            .next()
    }
}
