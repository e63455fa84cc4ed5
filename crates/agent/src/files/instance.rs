//! A container as the ledger has it, with what finding its files takes.

use model::action::Instance;
use model::content::{ContentKey, ContentKind};
use model::ledger::Accepted;
use model::name::Name;
use model::status::ContainerStatus;

use crate::engine::Snapshot;

/// None where it was never made, or is none of the ledger's.
pub fn instance_of(snapshot: &Snapshot, c: &ContainerStatus, accepted: &Accepted) -> Option<Instance> {
    let image = accepted.image.as_ref()?;
    let name: Name = c.name.parse().ok()?;
    let observed = snapshot.observed.volumes.known();
    let volumes = observed.into_iter().flatten();
    let volumes = volumes.map(|(name, volume)| (name.clone(), volume.path.clone()));
    let config = |name: &Name| {
        let key = ContentKey::of(ContentKind::Config, name.clone());
        let entry = snapshot.ledger.contents.get(&key)?;
        Some(entry.spec.delivered(ContentKind::Config, name))
    };
    Some(Instance {
        id: accepted.id.clone(),
        service: c.service.parse().unwrap_or_else(|_| name.clone()),
        name,
        number: c.instance,
        rev: accepted.rev,
        spec: (*accepted.spec).clone(),
        image: (**image).clone(),
        attachments: accepted.attachments.to_vec(),
        dns: Vec::new(),
        volumes: volumes.collect(),
        joins: accepted.joins.clone(),
        contents: accepted.spec.configs.iter().filter_map(config).collect(),
        links: Vec::new(),
    })
}
