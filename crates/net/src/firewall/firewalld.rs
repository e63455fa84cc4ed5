//! firewalld: whether its table lets our bridges through, and how it is asked to.
//!
//! Nobody but firewalld can change that table, so it is asked over D-Bus: each bridge gets into its zone `wharf`, whose
//! file `./install` puts in place, for as long as firewalld runs (nothing is written to its configuration). Whatever is in
//! that zone is ours; a bridge that somebody has put into another one stays there.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use model::firewall::{Carrier, FirewallBridge, PeerRule};
use model::observed::ForeignDrop;

use super::foreign::{self, ForeignChain, Hook, Verdict, expressions, immediate};
use super::judge::heeds_peer;
use super::packet::{Chains, Packet, from_device};
use super::passage::names_port;
use super::read::FoundRule;
use super::{nl, peers};
use crate::dbus::{Bus, CallError, Service, Value};
use crate::netlink::{Attr, KernelError, Netlink, find, read_be32};

/// The table of its nftables backend. Its iptables backend has rules where every iptables has them.
const TABLE: &str = "firewalld";
/// There while it loads its rules anew, which takes a moment: it drops new connections so long.
const WHILE_RELOADING: &str = "firewalld_policy_drop";
/// Our zone.
pub const ZONE: &str = "wharf";
const NAME: &str = "org.fedoraproject.FirewallD1";
/// How long it may take to answer all that it is asked at once. It needs some ten milliseconds for each, and is busy for
/// a second or two while it starts.
const PATIENCE: Duration = Duration::from_secs(10);

/// Its table, as it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its number in the kernel: each load makes it anew.
    table: Option<Vec<u8>>,
    chains: Chains,
    /// The base chains that decide, and for what.
    bases: Vec<(Hook, String)>,
}

/// What it said when it was asked to let a bridge through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is in our zone.
    Done,
    /// Somebody has put it into another zone.
    Elsewhere(String),
    /// It knows no such zone as ours.
    NoZone,
    /// Nobody by that name is on the bus, or not of this network namespace.
    Away,
    Failed(String),
}

/// It was asked. What it says does not change before it or its rules are others.
#[derive(Debug)]
pub struct Asked {
    rules: u64,
    /// The connection of the one who was asked.
    owner: Option<String>,
    pub answers: BTreeMap<String, Answer>,
}

/// Such a table decides nothing for good, or is judged here.
pub fn is_its(chain: &ForeignChain) -> bool {
    chain.family == nl::INET && (chain.table == TABLE || chain.table == WHILE_RELOADING)
}

/// A change of that table concerns what is for our bridges.
pub fn concerns(family: u8, table: Option<&str>) -> bool {
    family == nl::INET && table == Some(TABLE)
}

/// Its table, where it has one; nothing else is looked at.
pub fn look(filter: &mut Netlink) -> Result<Option<Found>, KernelError> {
    let mut there = || {
        table(filter)?;
        let chains = foreign::chains(filter)?;
        read(filter, &chains)
    };
    match there() {
        // It is just being made anew: whoever asks is told so by the kernel, and asks again.
        Err(e) if e.is(libc::ENOENT) || e.is(libc::EINTR) => Ok(None),
        other => other,
    }
}

/// The number of its table; an error where there is no such table.
fn table(filter: &mut Netlink) -> Result<Option<Vec<u8>>, KernelError> {
    let ask = nl::payload(nl::INET, &[Attr::text(nl::TABLE_NAME, TABLE)]);
    let reply = filter.get(nl::kind(nl::GETTABLE), &ask)?;
    Ok(reply.and_then(|reply| Some(find(nl::attrs(&reply.payload), nl::TABLE_HANDLE)?.to_vec())))
}

/// Its table, where it has one.
pub fn read(filter: &mut Netlink, foreign: &[ForeignChain]) -> Result<Option<Found>, KernelError> {
    let its = foreign
        .iter()
        .filter(|c| (c.family, c.table.as_str()) == (nl::INET, TABLE));
    let bases: Vec<(Hook, String)> = its.map(|c| (c.hook, c.name.clone())).collect();
    if bases.is_empty() {
        return Ok(None);
    }
    let table = match table(filter) {
        // Gone since its chains were listed.
        Err(e) if e.is(libc::ENOENT) => return Ok(None),
        other => other?,
    };
    let chains = foreign::table_rules(filter, nl::INET, TABLE)?;
    Ok(Some(Found { table, chains, bases }))
}

impl Found {
    /// Bridges of which it drops what they need: what goes out, what goes on within them, and questions for names.
    pub fn shut(&self, bridges: &[FirewallBridge]) -> BTreeSet<String> {
        let shut = bridges.iter().filter(|b| self.is_shut(b));
        shut.map(|b| b.bridge.clone()).collect()
    }

    fn is_shut(&self, bridge: &FirewallBridge) -> bool {
        let name = bridge.bridge.as_str();
        let (within, port) = (Some(name), Some(names_port(bridge)));
        // A device that it knows nothing of.
        let out = Some("").filter(|_| !bridge.internal);
        let packet = |to, port| Packet { from: name, to, port };
        self.drops(Hook::Forward, packet(within, None))
            || out.is_some_and(|_| self.drops(Hook::Forward, packet(out, None)))
            || self.drops(Hook::Input, packet(None, port))
    }

    fn drops(&self, hook: Hook, packet: Packet<'_>) -> bool {
        let mut bases = self.bases.iter().filter(|(of, _)| *of == hook);
        bases.any(|(_, chain)| packet.is_dropped(&self.chains, chain) == Some(true))
    }

    /// Connections to published ports of that bridge are dropped as well: it is told to be strict about those it has no
    /// rule for (firewalld.conf(5), StrictForwardPorts).
    fn drops_published(&self, bridge: &str) -> bool {
        let any = Packet {
            from: "",
            to: Some(bridge),
            port: None,
        };
        let forward = self.bases.iter().filter(|(of, _)| *of == Hook::Forward);
        let mut rules = forward.filter_map(|(_, chain)| self.chains.get(chain)).flatten();
        !rules.any(lets_published_through) && self.drops(Hook::Forward, any)
    }

    /// Devices in our zone.
    pub fn zoned(&self) -> BTreeSet<String> {
        let chain = format!("filter_IN_{ZONE}");
        let rules = self.chains.values().flatten();
        let leads = rules.filter(|rule| foreign::called(rule).as_deref() == Some(&chain));
        leads.filter_map(from_device).collect()
    }

    /// Tells other rules from these.
    fn digest(&self) -> u64 {
        const STEADY: [&str; 5] = ["meta", "cmp", "payload", "lookup", "immediate"];
        let mut hasher = DefaultHasher::new();
        // The same rules, loaded anew: it may have learned of our zone meanwhile.
        self.table.hash(&mut hasher);
        for (chain, rules) in &self.chains {
            chain.hash(&mut hasher);
            let parts = rules.iter().flat_map(expressions);
            // Others count what goes by.
            let steady = parts.filter(|(name, _)| STEADY.contains(&name.as_str()));
            steady.for_each(|part| part.hash(&mut hasher));
        }
        hasher.finish()
    }

    /// These bridges are shut, and it need not be asked (again): it has answered for them.
    pub fn was_asked(&self, shut: &BTreeSet<String>, asked: Option<&Asked>) -> bool {
        let Some(asked) = asked.filter(|asked| asked.rules == self.digest()) else {
            return shut.is_empty();
        };
        let told = |bridge| asked.answers.contains_key(bridge);
        let failed = asked.answers.values().any(Answer::is_for_now);
        shut.iter().all(told) && !(failed && owner() != asked.owner)
    }

    /// Notes what was said while it had these rules.
    pub fn noted(&self, owner: Option<String>, answers: BTreeMap<String, Answer>) -> Asked {
        let rules = self.digest();
        Asked {
            rules,
            owner,
            answers,
        }
    }
}

impl Found {
    /// What it goes on dropping, and what to do.
    pub fn drops_of(&self, bridges: &[FirewallBridge], asked: Option<&Asked>) -> Vec<ForeignDrop> {
        let shut = self.shut(bridges);
        // Where it was not asked yet it will be.
        let said = asked.into_iter().flat_map(|asked| &asked.answers);
        let said: BTreeMap<&String, &Answer> = said.filter(|(bridge, _)| shut.contains(*bridge)).collect();
        let mut out: Vec<ForeignDrop> = said
            .into_iter()
            .map(|(bridge, answer)| self.complaint(bridge, complain(bridge, answer)))
            .collect();
        let open = bridges
            .iter()
            .filter(|b| !b.internal && !shut.contains(&b.bridge));
        let strict = open.filter(|b| self.drops_published(&b.bridge));
        out.extend(strict.map(|b| self.complaint(&b.bridge, strict_about(&b.bridge))));
        out
    }

    fn complaint(&self, bridge: &str, told: String) -> ForeignDrop {
        ForeignDrop {
            by: TABLE.to_owned(),
            bridges: vec![bridge.to_owned()],
            ports: self.drops_published(bridge),
            told,
        }
    }
}

/// What peers of networks send.
impl Found {
    /// Those of whose packets no zone of it lets any in, whatever device they come by: which one that is, and in which
    /// zone, is not asked. What to do, by how they send.
    pub fn drops_of_peers(&self, peers: &[PeerRule]) -> Vec<ForeignDrop> {
        let mut shut: BTreeMap<Carrier, BTreeSet<&str>> = BTreeMap::new();
        for rule in peers.iter().filter(|rule| !self.may_let_in(rule)) {
            shut.entry(rule.carrier).or_default().insert(&rule.bridge);
        }
        let one = |(carrier, bridges): (Carrier, BTreeSet<&str>)| ForeignDrop {
            by: TABLE.to_owned(),
            bridges: bridges.iter().map(|&bridge| bridge.to_owned()).collect(),
            ports: false,
            told: shut_to_peers(carrier, &bridges),
        };
        shut.into_iter().map(one).collect()
    }

    fn may_let_in(&self, peer: &PeerRule) -> bool {
        let rules = || self.chains.values().flatten();
        let accepts = |rule: &&FoundRule| {
            let mut parts = expressions(rule).into_iter();
            parts.any(|(name, data)| name == "immediate" && matches!(immediate(data), Verdict::Accept))
        };
        let (_, port) = peers::protocol_and_port(peer.carrier);
        let by_device = |from: &str| {
            let packet = Packet { from, to: None, port };
            !self.drops(Hook::Input, packet)
        };
        // One that it knows nothing of, and those that it knows and are not the host's own.
        let known: BTreeSet<String> = rules().filter_map(from_device).collect();
        let zoned = self.zoned();
        let mut known = known
            .iter()
            .filter(|name| *name != "lo" && !zoned.contains(*name));
        rules().filter(accepts).any(|rule| heeds_peer(rule, peer))
            || by_device("")
            || known.any(|d| by_device(d))
    }
}

fn shut_to_peers(carrier: Carrier, bridges: &BTreeSet<&str>) -> String {
    let bridges: Vec<&str> = bridges.iter().copied().collect();
    let what = match carrier {
        Carrier::Udp { port } => format!("--add-port={port}/udp"),
        Carrier::Gre => "--add-protocol=gre".to_owned(),
    };
    format!(
        "firewalld drops what the other hosts of {} send ({carrier}), so that their containers are not reached; run \
         `firewall-cmd --permanent --zone=ZONE {what}` with the zone of the device that leads to them (`firewall-cmd \
         --get-active-zones`), and then `firewall-cmd --reload`",
        bridges.join(", "),
    )
}

fn complain(bridge: &str, answer: &Answer) -> String {
    let what = format!(
        "firewalld drops what containers at {bridge} ask the host and what is to leave their network"
    );
    let by_hand = format!("run `firewall-cmd --zone={ZONE} --add-interface={bridge}`");
    match answer {
        Answer::Done => format!(
            "{what}, though {bridge} is in its zone {ZONE}: that zone was changed; `firewall-cmd --info-zone={ZONE}` shows \
             it, and its target has to be ACCEPT"
        ),
        Answer::Elsewhere(zone) => format!(
            "{what}: it has {bridge} in its zone {zone}, where somebody has put it; run `firewall-cmd --zone={zone} \
             --remove-interface={bridge}`, with --permanent too where it is so in its configuration, and it goes to the \
             zone {ZONE}; or have the zone {zone} let it through"
        ),
        Answer::NoZone => format!(
            "{what}: it knows no zone {ZONE}; run `./install`, which puts that zone's file in place, or {NEW_ZONE}, and \
             then `firewall-cmd --reload`"
        ),
        Answer::Away => format!(
            "{what}, and there is no firewalld on the system's D-Bus that could be asked to let it through: its rules were \
             left behind; start it again, or remove them with `nft delete table inet {TABLE}`"
        ),
        Answer::Failed(why) => {
            format!("{what}, and it could not be asked to let it through ({why}); {by_hand}")
        }
    }
}

/// What makes our zone without its file.
const NEW_ZONE: &str = "`firewall-cmd --permanent --new-zone=wharf`, `firewall-cmd --permanent --zone=wharf \
     --set-target=ACCEPT`, `firewall-cmd --permanent --zone=wharf --add-service=dns --add-protocol=icmp \
     --add-rich-rule='rule priority=32767 reject'`";

fn strict_about(bridge: &str) -> String {
    format!(
        "firewalld drops connections to published ports of {bridge}: it is told to (StrictForwardPorts=yes in \
         /etc/firewalld/firewalld.conf); where they are to be reached, set it to no and run `firewall-cmd --reload`, or let \
         them through with a policy of firewalld's"
    )
}

/// `ct status dnat accept`, by the key (linux/netfilter/nf_tables.h, NFT_CT_STATUS).
fn lets_published_through(rule: &FoundRule) -> bool {
    const KEY: u16 = 2;
    const STATUS: u32 = 2;
    let is = |name: &str, data: &[u8]| name == "ct" && read_be32(data, KEY) == Some(STATUS);
    let parts = expressions(rule);
    let accepts =
        |(name, data): &(String, &[u8])| name == "immediate" && matches!(immediate(data), Verdict::Accept);
    parts.iter().any(|(name, data)| is(name, data)) && parts.iter().any(accepts)
}

impl Answer {
    /// Another firewalld may answer otherwise.
    fn is_for_now(&self) -> bool {
        matches!(self, Self::Away | Self::Failed(_))
    }
}

/// Who is firewalld now; none also where the bus cannot be asked.
fn owner() -> Option<String> {
    Bus::system(PATIENCE).ok()?.owner(NAME).ok()?
}

/// The zones' part of it.
fn zones(owner: &str) -> Service<'_> {
    Service {
        name: owner,
        path: "/org/fedoraproject/FirewallD1",
        interface: "org.fedoraproject.FirewallD1.zone",
    }
}

/// A firewalld that is of our network namespace.
struct Daemon {
    bus: Bus,
    owner: String,
}

impl Daemon {
    fn find() -> Result<Option<Self>, CallError> {
        let mut bus = Bus::system(PATIENCE)?;
        let Some(owner) = bus.owner(NAME)? else {
            return Ok(None);
        };
        let pid = bus.pid(&owner)?;
        // Where its process cannot be seen, its table here has to do.
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/net")).ok();
        let (theirs, ours) = (of(&pid.to_string()), of("thread-self"));
        let same = theirs.is_none() || theirs == ours;
        Ok(same.then_some(Self { bus, owner }))
    }

    fn call(&mut self, member: &str, args: &[&str]) -> Result<Value, CallError> {
        self.bus.call(zones(&self.owner), member, args)
    }

    fn admit(&mut self, bridge: &str) -> Answer {
        match self.try_admit(bridge) {
            Ok(answer) => answer,
            Err(CallError::Refused { text, .. }) if text.starts_with("INVALID_ZONE") => Answer::NoZone,
            Err(e) => Answer::Failed(e.to_string()),
        }
    }

    fn try_admit(&mut self, bridge: &str) -> Result<Answer, CallError> {
        match self.call("getZoneOfInterface", &[bridge])? {
            Value::Text(zone) if zone == ZONE => return Ok(Answer::Done),
            Value::Text(zone) if !zone.is_empty() => return Ok(Answer::Elsewhere(zone)),
            _ => {}
        }
        self.call("addInterface", &[ZONE, bridge])?;
        Ok(Answer::Done)
    }
}

/// Asks it to let these bridges through; what it said of each, and who said it.
pub fn admit(bridges: &BTreeSet<String>) -> (Option<String>, BTreeMap<String, Answer>) {
    let same = |answer: Answer| bridges.iter().map(|b| (b.clone(), answer.clone())).collect();
    let mut daemon = match Daemon::find() {
        Ok(Some(daemon)) => daemon,
        Ok(None) => return (None, same(Answer::Away)),
        Err(e) => return (None, same(Answer::Failed(e.to_string()))),
    };
    let answers = bridges.iter().map(|b| (b.clone(), daemon.admit(b))).collect();
    (Some(daemon.owner), answers)
}

/// Takes these out of our zone. Where there is no firewalld any more there is no such zone.
pub fn dismiss(bridges: &BTreeSet<String>) -> Result<(), CallError> {
    if bridges.is_empty() {
        return Ok(());
    }
    let Some(mut daemon) = Daemon::find()? else {
        return Ok(());
    };
    for bridge in bridges {
        match daemon.call("removeInterface", &[ZONE, bridge]) {
            Err(CallError::Refused { text, .. })
                if text.starts_with("UNKNOWN_INTERFACE") || text.starts_with("ZONE_CONFLICT") => {}
            other => drop(other?),
        }
    }
    Ok(())
}
