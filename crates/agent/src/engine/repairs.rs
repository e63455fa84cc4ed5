//! Telling a repair from a change: what was in force already, and is done once more, was undone by somebody else.

use std::collections::BTreeMap;
use std::time::Duration;

use model::action::{Action, Noun};
use model::plan::fingerprint;
use net::Changer;
use tokio::time::Instant;

/// How long a change of the firewall is taken for the cause of a repair that ends.
const RECENT: Duration = Duration::from_secs(10);

/// What was last in force, and who changed something of it.
#[derive(Debug, Default)]
pub struct Repairs {
    applied: BTreeMap<Noun, String>,
    changer: Option<(Changer, Instant)>,
}

impl Repairs {
    /// The kernel told who changed the firewall.
    pub fn note_changer(&mut self, by: Option<Changer>) {
        if let Some(by) = by {
            self.changer = Some((by, Instant::now()));
        }
    }

    /// Who changed what this is about, where the kernel told.
    pub fn changer_of(&self, noun: &Noun) -> Option<&Changer> {
        let (by, at) = self.changer.as_ref()?;
        (*noun == Noun::Firewall && at.elapsed() < RECENT).then_some(by)
    }

    /// Books a success; true where it put right what somebody else had undone.
    pub fn is_repair(&mut self, action: &Action) -> bool {
        match action {
            Action::RepairAttachments { .. } | Action::MendContainer { .. } => true,
            Action::ApplyNetwork { .. }
            | Action::ApplyFirewall { .. }
            | Action::ApplyDns { .. }
            | Action::ApplyVolume { .. } => {
                let of = fingerprint(action);
                self.applied.insert(action.noun(), of.clone()) == Some(of)
            }
            Action::RemoveNetwork { .. } | Action::RemoveVolume { .. } => {
                self.applied.remove(&action.noun());
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::dns::DnsState;

    #[test]
    fn the_same_once_more_is_a_repair_and_another_one_is_not() {
        let mut repairs = Repairs::default();
        let apply = |upstream: &str| Action::ApplyDns {
            state: DnsState {
                upstreams: vec![upstream.parse().unwrap()],
                ..DnsState::default()
            },
        };
        let told: Vec<bool> = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"]
            .map(|upstream| repairs.is_repair(&apply(upstream)))
            .into();
        assert_eq!(told, [false, true, false, false]);
    }

    #[test]
    fn who_changed_the_firewall_changed_nothing_else() {
        let mut repairs = Repairs::default();
        assert_eq!(repairs.changer_of(&Noun::Firewall), None);
        repairs.note_changer(Some(Changer {
            pid: 7,
            name: "nft".to_owned(),
        }));
        assert_eq!(
            repairs.changer_of(&Noun::Firewall).unwrap().to_string(),
            "nft (pid 7)"
        );
        assert_eq!(repairs.changer_of(&Noun::Dns), None);
    }
}
