//! The end of a pass: order, generation, and when to look again.

use std::collections::BTreeMap;

use model::action::Noun;
use model::content::{ContentKey, ContentState};
use model::digest::Digest;
use model::ledger::Ledger;
use model::plan::{Plan, Planned, Reason, Wait, fingerprint};
use model::shared::Shared;
use model::spec::{ContainerSpec, MountedFileSpec, NetworkSpec, VolumeSpec};

use super::Pass;

/// Tells a definition from others for [`model::ledger::Rejected`]: what the table says, and the image and the contents it
/// was tried with.
pub fn definition(
    spec: &ContainerSpec,
    image: Option<&Digest>,
    contents: &BTreeMap<ContentKey, ContentState>,
) -> String {
    if contents.is_empty() {
        return fingerprint(&(spec, image));
    }
    fingerprint(&(spec, image, contents))
}

impl Pass<'_, '_> {
    pub(super) fn finish(mut self) -> Plan {
        if wishes(self.input.ledger) != wishes(&self.ledger) {
            self.ledger.generation = self.input.ledger.generation.saturating_add(1);
        }
        let now = self.input.now;
        let taken_up = self.taken_up();
        Plan {
            taken_up,
            wake_at: self
                .waits
                .iter()
                .filter_map(|w| w.until)
                .chain(self.wake_at)
                .min()
                .map(|at| at.max(now)),
            actions: self.actions,
            waits: self.waits,
            ledger: self.ledger,
        }
    }
}

/// What holds those up that are done after others, as long as these are under way.
pub fn awaiting(actions: &[Planned]) -> Vec<Wait> {
    let first = |planned: &Planned| {
        let before = actions.get(*planned.after.first()?)?.action.noun();
        let what = match &before {
            Noun::Firewall => "the firewall".to_owned(),
            Noun::Dns => "the name server".to_owned(),
            noun => noun.to_string(),
        };
        Some(Wait {
            noun: planned.action.noun(),
            reasons: vec![Reason::because(format!("waits for {what}"))],
            until: None,
            error: false,
        })
    };
    actions.iter().filter_map(first).collect()
}

/// What of a ledger is the desired state as accepted.
#[allow(
    clippy::type_complexity,
    reason = "four lists side by side, compared and thrown away"
)]
fn wishes(
    ledger: &Ledger,
) -> (
    Vec<(&str, &Shared<ContainerSpec>)>,
    Vec<(&str, &Shared<NetworkSpec>)>,
    Vec<(&str, &Shared<VolumeSpec>)>,
    Vec<(&ContentKey, &Shared<MountedFileSpec>)>,
) {
    let containers = ledger.containers.iter().map(|(name, e)| {
        (
            name.as_str(),
            e.next.as_ref().map_or(&e.current.spec, |n| &n.accepted.spec),
        )
    });
    let networks = ledger.networks.iter().map(|(name, n)| (name.as_str(), &n.spec));
    let volumes = ledger.volumes.iter().map(|(name, v)| (name.as_str(), &v.spec));
    (
        containers.collect(),
        networks.collect(),
        volumes.collect(),
        ledger.contents.iter().map(|(key, c)| (key, &c.spec)).collect(),
    )
}
