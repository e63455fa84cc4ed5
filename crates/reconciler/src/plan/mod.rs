//! The planner: from what is wanted, what is there and what was decided before to what is to be done now.
//!
//! Level-triggered: nothing is remembered but the ledger, so a pass that is lost, repeated or made by another agent
//! decides the same. Actions with edges may be run in this plan's order or left to the pass after: both end alike.

mod accept;
mod beside;
mod by_place;
mod circles;
mod claims;
pub(crate) mod cluster;
mod contents;
mod damage;
mod describe;
mod dns;
mod drive;
mod finish;
mod firewall;
mod gates;
mod health;
mod images;
mod lan;
mod lent;
mod links;
mod lost;
mod mutation;
mod needs;
mod networks;
mod newer;
mod order;
mod overlay;
mod places;
mod presence;
mod progress;
mod published;
mod remove;
mod renewed;
mod replicas;
mod resources;
mod rolling;
mod rollout;
mod schedule;
mod sharing;
mod sight;
mod subnets;
mod surroundings;
mod taken_up;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use model::action::{Action, Failures, Noun};
use model::desired::Desired;
use model::dns::DnsState;
use model::ledger::{Accepted, Ledger};
use model::name::{ContainerId, Name};
use model::observed::{Observed, ObservedContainer};
use model::plan::{Op, Plan, Planned, Reason, Wait};
use model::spec::NetworkUse;

pub use describe::{describe, describe_taken_up, describe_wait, reasons, step};
pub use finish::{awaiting, definition};
pub(crate) use health::health_of;
#[doc(hidden)]
pub use mutation::Mutation;
pub(crate) use schedule::next_due;
pub(crate) use sight::Sight;
pub(crate) use volumes::{driver, mounted};

/// Everything a pass decides by.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub desired: &'a Desired,
    pub observed: &'a Observed,
    pub ledger: &'a Ledger,
    /// Nouns with an action under way: they get no other.
    pub in_flight: &'a BTreeSet<Noun>,
    pub failures: &'a Failures,
    pub now: Timestamp,
}

/// Decides what to do now. `ids` hands out ids for new containers; those not used are forgotten.
pub fn plan(input: &Input<'_>, ids: &mut dyn FnMut() -> ContainerId) -> Plan {
    mutated(input, ids, None)
}

/// [`plan`] with a rule broken.
#[doc(hidden)]
pub fn mutated(input: &Input<'_>, ids: &mut dyn FnMut() -> ContainerId, mutation: Option<Mutation>) -> Plan {
    let mut pass = Pass::new(input, ids, mutation);
    pass.note_places();
    pass.mark_presence();
    pass.forget_containers();
    pass.accept_networks();
    pass.accept_volumes();
    pass.note_lost_volumes();
    pass.accept_contents();
    pass.note_replaced();
    pass.progress_replacements();
    pass.stamp_gone();
    pass.note_runs();
    pass.note_owners();
    pass.note_renewed();
    pass.note_contents();
    pass.hold_unhealthy();
    pass.refresh_attachments();
    pass.load_images();
    pass.accept_containers();
    pass.refresh_images();
    pass.check_images();
    pass.keep_time();
    pass.put_in_order();
    pass.note_restarts();
    pass.note_who_lives_where();
    pass.act_on_networks();
    pass.act_on_volumes();
    pass.act_on_firewall();
    pass.act_on_dns();
    pass.act_on_containers();
    pass.remove_containers();
    pass.remove_networks();
    pass.remove_volumes();
    pass.tell_of_lost_volumes();
    pass.note_health();
    pass.finish()
}

/// How far a thing is that others wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ready {
    Now,
    /// Once this action succeeded.
    After(usize),
    /// Not in this plan; why.
    Waits(String),
}

/// A pass under way: the next ledger, and what was decided so far.
struct Pass<'a, 'i> {
    input: Input<'a>,
    ids: &'i mut dyn FnMut() -> ContainerId,
    mutation: Option<Mutation>,
    ledger: Ledger,
    actions: Vec<Planned>,
    waits: Vec<Wait>,
    networks: BTreeMap<Name, Ready>,
    firewall: Ready,
    dns: Ready,
    /// What the name server should know.
    names: DnsState,
    /// The order containers are gone through: those that rely on others before them.
    order: Vec<Name>,
    /// Who relies on a name, of those that stand before it.
    relies: BTreeMap<Name, Vec<Name>>,
    /// The latest action that ends a container, by name.
    stopping: BTreeMap<Name, usize>,
    /// Containers that cannot be started for a foreign process on one of their host ports, and why.
    blocked: BTreeMap<Name, String>,
    /// Who lives on, or is to live on, an address.
    given: BTreeMap<(Name, IpAddr), Name>,
    /// Who has an address written in its table.
    reserved: BTreeMap<(Name, IpAddr), Name>,
    /// The instances of each replicated service.
    services: replicas::Services,
    /// Those published ports of services that are to be in force, sorted.
    shared_ports: Vec<model::firewall::PortRule>,
    /// What is to be let through for links.
    let_through: Vec<model::firewall::LinkRule>,
    /// Instances of replicated services that do not answer to the name of all.
    unready: BTreeSet<Name>,
    /// Instances whose replacement or restart begins in this pass.
    replacing: BTreeSet<Name>,
    /// Of an instance that is to be replaced, those of its service that wait, in the end, for that.
    stuck: BTreeMap<Name, BTreeSet<Name>>,
    /// Instances that are restarted for a config, secret or environment that changed.
    restarting: BTreeSet<Name>,
    /// The published ports that are seen to be in force.
    seen_ports: by_place::ByPlace<'a>,
    /// What is seen, by the names it carries.
    seen: BTreeMap<&'a Name, Vec<&'a ObservedContainer>>,
    /// Who has or had which place, and who lives in an old one, while containers are acted on.
    places: places::Places,
    /// What was said about a container before anything was done about it, so that nothing is said twice.
    said: BTreeSet<Noun>,
    /// The earliest deadline of those that hold nobody up.
    wake_at: Option<Timestamp>,
}

impl<'a, 'i> Pass<'a, 'i> {
    fn new(input: &Input<'a>, ids: &'i mut dyn FnMut() -> ContainerId, mutation: Option<Mutation>) -> Self {
        let mut ledger = input.ledger.clone();
        ledger.version = 1;
        Self {
            input: *input,
            ids,
            mutation,
            ledger,
            actions: Vec::new(),
            waits: Vec::new(),
            networks: BTreeMap::new(),
            firewall: Ready::Now,
            dns: Ready::Now,
            names: DnsState::default(),
            order: Vec::new(),
            relies: BTreeMap::new(),
            stopping: BTreeMap::new(),
            blocked: BTreeMap::new(),
            given: given(input.ledger),
            reserved: reserved(input.desired),
            services: BTreeMap::new(),
            shared_ports: Vec::new(),
            let_through: Vec::new(),
            unready: BTreeSet::new(),
            replacing: BTreeSet::new(),
            stuck: BTreeMap::new(),
            restarting: BTreeSet::new(),
            seen_ports: by_place::ByPlace::default(),
            seen: sight::by_name(input.observed),
            places: places::Places::default(),
            said: BTreeSet::new(),
            wake_at: None,
        }
    }

    fn broken(&self, rule: Mutation) -> bool {
        self.mutation == Some(rule)
    }

    fn busy(&self, noun: &Noun) -> bool {
        self.input.in_flight.contains(noun) && !self.broken(Mutation::BusyIsIgnored)
    }

    fn container_busy(&self, name: &Name) -> bool {
        self.busy(&Noun::Container(name.clone()))
    }

    /// Adds an action; its index is what others wait for.
    fn act(&mut self, op: Op, action: Action, after: Vec<usize>, reasons: Vec<Reason>) -> usize {
        self.actions.push(Planned {
            op,
            action,
            after,
            reasons,
        });
        self.actions.len() - 1
    }

    /// Adds a wait, one a noun: the first reason found is the one to be dealt with first.
    fn wait(&mut self, noun: Noun, why: impl Into<String>, until: Option<Timestamp>) {
        self.hold_up(
            noun,
            Blocked {
                why: why.into(),
                until,
                error: false,
            },
        );
    }

    /// Adds a wait for somebody to put something right.
    fn error(&mut self, noun: Noun, why: impl Into<String>, until: Option<Timestamp>) {
        self.hold_up(
            noun,
            Blocked {
                why: why.into(),
                until,
                error: true,
            },
        );
    }

    fn hold_up(&mut self, noun: Noun, blocked: Blocked) {
        let reasons = vec![Reason::because(blocked.why)];
        if self.said.insert(noun.clone()) {
            self.waits.push(Wait {
                noun,
                reasons,
                until: blocked.until,
                error: blocked.error,
            });
        }
    }

    /// Wants to be woken then, though nothing waits for it.
    fn wake_by(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    /// `now` plus a span; the end of time where that is past it.
    fn later(&self, span: std::time::Duration) -> Timestamp {
        after(self.input.now, span)
    }
}

fn given(ledger: &Ledger) -> BTreeMap<(Name, IpAddr), Name> {
    let of = |name: &Name, accepted: &Accepted| -> Vec<((Name, IpAddr), Name)> {
        let places = accepted.attachments.iter();
        places
            .flat_map(|a| a.ips().map(|ip| ((a.network.clone(), ip), name.clone())))
            .collect()
    };
    let entries = ledger.containers.iter().flat_map(|(name, entry)| {
        // The current one's last: it is the one that has its name.
        let all: Vec<&Accepted> = entry.all().collect();
        let all = all.into_iter().rev();
        all.flat_map(|a| of(name, a)).collect::<Vec<_>>()
    });
    entries.collect()
}

fn reserved(desired: &Desired) -> BTreeMap<(Name, IpAddr), Name> {
    let all = desired
        .containers
        .iter()
        .flat_map(|(name, c)| c.spec.networks.iter().map(move |n| (name, n)));
    let of = |(name, n): (&Name, &NetworkUse)| {
        let (v4, v6) = (n.ip.map(IpAddr::V4), n.ip6.map(IpAddr::V6));
        [v4, v6].map(|ip| Some(((n.network.clone(), ip?), name.clone())))
    };
    all.flat_map(of).flatten().collect()
}

/// A time and a span; the end of time where that is past it.
fn after(at: Timestamp, span: std::time::Duration) -> Timestamp {
    let span = SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX);
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// Why something is not done now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Blocked {
    why: String,
    until: Option<Timestamp>,
    error: bool,
}

impl Blocked {
    fn wait(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            until: None,
            error: false,
        }
    }

    fn error(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            until: None,
            error: true,
        }
    }
}
