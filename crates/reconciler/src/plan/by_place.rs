//! Finding a published port among a thousand.

use std::cell::Cell;

use model::firewall::PortRule;

/// Ports by where they are asked for.
#[derive(Default)]
pub(super) struct ByPlace<'p> {
    all: Vec<&'p PortRule>,
    /// After the one that was found last: whoever asks has his own in the same order.
    next: Cell<usize>,
}

impl<'p> ByPlace<'p> {
    pub(super) fn of(ports: &'p [PortRule]) -> Self {
        let mut all: Vec<&PortRule> = ports.iter().collect();
        all.sort_by_key(|rule| rule.place());
        let next = Cell::new(0);
        Self { all, next }
    }

    /// Whether one of them is this one, whatever its names.
    pub(super) fn has(&self, rule: &PortRule) -> bool {
        let next = self.next.get();
        let is = |at: usize| self.all.get(at).is_some_and(|r| same_port(r, rule));
        if is(next) {
            self.next.set(next + 1);
            return true;
        }
        let place = rule.place();
        let first = self.all.partition_point(|r| r.place() < place);
        let mut there = (first..self.all.len()).take_while(|at| self.all[*at].place() == place);
        let found = there.find(|at| is(*at));
        self.next.set(found.map_or(first, |at| at + 1));
        found.is_some()
    }
}

/// Equal but for the names, which are for messages only.
fn same_port(a: &PortRule, b: &PortRule) -> bool {
    // Whoever adds a field is asked here.
    let PortRule {
        protocol,
        host_ip,
        host_port,
        target_ip,
        target_port,
        bridge,
        allow,
        container: _,
        service: _,
    } = a;
    (protocol, host_ip, host_port) == (&b.protocol, &b.host_ip, &b.host_port)
        && (target_ip, target_port) == (&b.target_ip, &b.target_port)
        && (bridge, allow) == (&b.bridge, &b.allow)
}

#[cfg(test)]
mod tests {
    use model::firewall::Protocol;

    use super::*;

    fn rule(host_port: u16, target: u8) -> PortRule {
        PortRule {
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port,
            target_ip: [10, 0, 0, target].into(),
            target_port: 80,
            bridge: "wh-net1".into(),
            allow: Vec::new(),
            container: "web".parse().unwrap(),
            service: None,
        }
    }

    #[test]
    fn in_whatever_order_they_are_asked_for_those_are_found_that_there_are() {
        // Of every second port two targets, one of which is asked for by another name.
        let there: Vec<PortRule> = (1..40)
            .step_by(2)
            .flat_map(|n| [rule(n, 2), rule(n, 3)])
            .collect();
        let all = ByPlace::of(&there);
        let asked: Vec<(u16, u8)> = (0..42)
            .flat_map(|n| [2, 3, 4].map(|target| (n, target)))
            .collect();
        let is_there = |(port, target): &(u16, u8)| port % 2 == 1 && *port < 40 && *target < 4;
        let has = |(port, target): &(u16, u8)| {
            let named = PortRule {
                container: "other".parse().unwrap(),
                ..rule(*port, *target)
            };
            all.has(&rule(*port, *target)) && all.has(&named)
        };
        for asked in [asked.clone(), asked.into_iter().rev().collect()] {
            for one in asked.iter().chain(asked.iter().step_by(7)) {
                assert_eq!(has(one), is_there(one), "{one:?}");
            }
        }
        assert!(!ByPlace::default().has(&rule(1, 2)));
    }
}
