//! The table `ip wharf_names` in the network namespace of a container that asks for names there.
//!
//! The name server has a port of its own in it, so that port 53 is left to the container, on all addresses if it wants it.
//! Questions for port 53 of [`INSIDE`] are led there, and answers come from there, header by header: no connection
//! tracking begins to look at the container's packets for this. Where it does for the container's own sake, it sees the
//! server's port in both directions.

use std::net::Ipv4Addr;

use model::dns::INSIDE;

use super::change::{Step, step_in};
use super::expr::Expr;
use super::family::Family;
use super::nl;
use super::phrase::{destination_of, destination_port, protocol, source_of, source_port};
use super::render::rule;
use super::table::{Chain, Hook, Rule};
use crate::error::{Doing, NetError};
use crate::netlink::{Attr, Message, Netlink, flag};

const TABLE: &str = "wharf_names";
/// Where names are asked (RFC 1035).
const DOMAIN: u16 = 53;
/// Before connection tracking looks, and after it did.
const BEFORE_TRACKING: i32 = -300;
const AFTER_TRACKING: i32 = 300;
/// Protocol number, and where the header has its checksum.
const TRANSPORTS: [(u8, u32); 2] = [(17, 6), (6, 16)];
/// Where both headers have their ports.
const SOURCE: u32 = 0;
const DESTINATION: u32 = 2;

/// Makes the table say so, in the namespace of the socket. `port`: the server's.
pub(crate) fn lead_names(filter: &mut Netlink, port: u16) -> Result<(), NetError> {
    let chains = [questions(port), answers(port)];
    let steps = steps(&chains);
    let (messages, doing): (Vec<Message>, Vec<String>) =
        steps.into_iter().map(|step| (step.message, step.doing)).unzip();
    let led = filter.batch(nl::SUBSYSTEM, 0, &messages);
    led.or_else(|refused| {
        let what = refused.at.and_then(|at| doing.get(at)).cloned();
        Err(refused.error).doing(|| what.unwrap_or_else(|| "change its nftables ruleset".to_owned()))
    })
}

fn questions(port: u16) -> Chain {
    let asked = [
        is(destination_of(Family::V4, 0), INSIDE),
        is_port(destination_port(0), DOMAIN),
    ];
    let comment = "to where the name server listens";
    let rules = led(comment, asked, |checksum| write(DESTINATION, port, checksum));
    chain("questions", BEFORE_TRACKING, rules)
}

fn answers(port: u16) -> Chain {
    let answered = [
        is(source_of(Family::V4, 0), INSIDE),
        is_port(source_port(0), port),
    ];
    let comment = "from where it was asked";
    let rules = led(comment, answered, |checksum| write(SOURCE, DOMAIN, checksum));
    chain("answers", AFTER_TRACKING, rules)
}

/// What has this address and this port, by either transport.
fn led(
    comment: &'static str,
    [address, port]: [Vec<Expr>; 2],
    write: impl Fn(u32) -> Vec<Expr>,
) -> [Rule; 2] {
    TRANSPORTS.map(|(transport, checksum)| {
        let exprs = [
            address.clone(),
            protocol(transport),
            port.clone(),
            write(checksum),
        ];
        rule(comment, exprs)
    })
}

fn chain(name: &'static str, priority: i32, rules: [Rule; 2]) -> Chain {
    Chain {
        name,
        kind: "filter",
        hook: Hook::Output,
        priority,
        rules: rules.into(),
    }
}

fn is(address: Expr, ip: Ipv4Addr) -> Vec<Expr> {
    let value = ip.octets().to_vec();
    vec![address, Expr::Equal { reg: 0, value }]
}

fn is_port(loaded: Expr, port: u16) -> Vec<Expr> {
    let value = port.to_be_bytes().to_vec();
    vec![loaded, Expr::Equal { reg: 0, value }]
}

fn write(offset: u32, port: u16, checksum: u32) -> Vec<Expr> {
    let value = port.to_be_bytes().to_vec();
    let written = Expr::WritePort {
        offset,
        from: 0,
        checksum,
    };
    vec![Expr::Load { to: 0, value }, written]
}

/// One that is there is replaced.
fn steps(chains: &[Chain]) -> Vec<Step> {
    let table = |operation, flags, what: &str| {
        let doing = format!("{what} its nftables table ip {TABLE}");
        let attrs = [Attr::text(nl::TABLE_NAME, TABLE)];
        step_in(nl::IPV4, operation, flags, &attrs, doing)
    };
    let mut steps = vec![
        table(nl::NEWTABLE, flag::CREATE, "make"),
        table(nl::DELTABLE, 0, "remove"),
        table(nl::NEWTABLE, flag::CREATE, "make"),
    ];
    for chain in chains {
        steps.push(new_chain(chain));
        steps.extend(chain.rules.iter().map(|rule| new_rule(chain, rule)));
    }
    steps
}

fn new_chain(chain: &Chain) -> Step {
    let hook = [
        Attr::be32(nl::HOOK_NUM, chain.hook as u32),
        Attr::be32(nl::HOOK_PRIORITY, chain.priority as u32),
    ];
    let attrs = [
        Attr::text(nl::CHAIN_TABLE, TABLE),
        Attr::text(nl::CHAIN_NAME, chain.name),
        Attr::nest(nl::CHAIN_HOOK, hook),
        Attr::text(nl::CHAIN_TYPE, chain.kind),
    ];
    let doing = format!("make its nftables chain {}", chain.name);
    step_in(nl::IPV4, nl::NEWCHAIN, flag::CREATE, &attrs, doing)
}

fn new_rule(chain: &Chain, rule: &Rule) -> Step {
    let exprs: Vec<Attr> = rule.exprs.iter().map(Expr::attr).collect();
    let attrs = [
        Attr::text(nl::RULE_TABLE, TABLE),
        Attr::text(nl::RULE_CHAIN, chain.name),
        Attr::nest(nl::RULE_EXPRESSIONS, exprs),
        Attr::bytes(nl::RULE_USERDATA, nl::comment(rule.comment)),
    ];
    let doing = format!("add a rule to its nftables chain {}", chain.name);
    step_in(nl::IPV4, nl::NEWRULE, flag::CREATE | flag::APPEND, &attrs, doing)
}
