//! The events that two ledgers tell of: what was decided, beside what was done for it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::event::Event;
use model::ledger::{ContainerEntry, Ledger};
use model::name::Name;

/// Replaced, refused, held, released, its table gone or back, finished; and data that was lost.
pub fn turns(before: &Ledger, after: &Ledger, now: Timestamp) -> Vec<Event> {
    let mut turns = Turns {
        now,
        events: Vec::new(),
    };
    for (name, new) in &after.containers {
        if let Some(old) = before.containers.get(name) {
            turns.container(name, old, new);
        }
    }
    for (name, hold) in after.holds.iter().filter(|(n, _)| !before.holds.contains_key(*n)) {
        turns.tell(
            "container",
            name,
            "hold",
            format!("is to stay stopped: {}", hold.reason),
        );
    }
    let lifted = before.holds.keys().filter(|n| !after.holds.contains_key(*n));
    for name in lifted.filter(|n| after.containers.contains_key(*n)) {
        turns.tell("container", name, "release", "is to run again".to_owned());
    }
    for (name, since) in &after.volumes_lost {
        if before.volumes_lost.get(name) != Some(since) {
            let why = "its directory was removed behind wharf's back, and its data is gone; it is made again, empty";
            turns.tell("volume", name, "error", why.to_owned());
        }
    }
    turns.events
}

struct Turns {
    now: Timestamp,
    events: Vec<Event>,
}

impl Turns {
    fn container(&mut self, name: &Name, old: &ContainerEntry, new: &ContainerEntry) {
        if old.current.id != new.current.id {
            let why = format!(
                "{} took the place of {}",
                new.current.id.short(),
                old.current.id.short()
            );
            self.tell("container", name, "replace", why);
        }
        if let Some(rejected) = new.rejected.as_ref().filter(|r| old.rejected.as_ref() != Some(r)) {
            self.tell("container", name, "reject", rejected.reason.clone());
        }
        match (old.gone_since, new.gone_since) {
            (None, Some(_)) => self.tell("container", name, "gone", "its table is gone".to_owned()),
            (Some(_), None) => self.tell("container", name, "back", "its table is there again".to_owned()),
            _ => {}
        }
        if new.current.finished && !old.current.finished {
            let code = new.current.finished_code.unwrap_or_default();
            self.tell(
                "container",
                name,
                "finish",
                format!("its job is done, exit code {code}"),
            );
        }
    }

    fn tell(&mut self, kind: &str, name: &Name, what: &str, reason: String) {
        self.events.push(Event {
            time: self.now,
            kind: kind.to_owned(),
            name: name.to_string(),
            what: what.to_owned(),
            reason,
            attributes: BTreeMap::new(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ledger::Hold;

    #[test]
    fn a_hold_and_its_end_are_told_once() {
        let name: Name = "web".parse().unwrap();
        let (free, mut held) = (Ledger::default(), Ledger::default());
        let hold = Hold {
            reason: "by hand".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            fingerprint: String::new(),
        };
        held.holds.insert(name, hold);
        let told = |a: &Ledger, b: &Ledger| -> Vec<String> {
            let all = turns(a, b, Timestamp::UNIX_EPOCH);
            all.into_iter()
                .map(|e| format!("{}: {}", e.what, e.reason))
                .collect()
        };
        assert_eq!(told(&free, &held), ["hold: is to stay stopped: by hand"]);
        assert!(told(&held, &held).is_empty());
        assert!(told(&held, &free).is_empty(), "gone with its container");
    }

    #[test]
    fn a_lost_volume_is_told_of_each_time() {
        let mut lost = Ledger::default();
        lost.volumes_lost
            .insert("data".parse().unwrap(), Timestamp::UNIX_EPOCH);
        let mut again = Ledger::default();
        again
            .volumes_lost
            .insert("data".parse().unwrap(), Timestamp::from_second(9).unwrap());
        for (a, b, events) in [
            (&Ledger::default(), &lost, 1),
            (&lost, &again, 1),
            (&lost, &lost, 0),
        ] {
            assert_eq!(turns(a, b, Timestamp::UNIX_EPOCH).len(), events);
        }
    }
}
