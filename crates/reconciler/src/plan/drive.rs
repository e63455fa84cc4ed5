//! Containers: prepared, started, told, repaired and stopped, one step of each a pass.

use model::action::{Action, Instance, Joins, Noun, ShimPolicy};
use model::damage::Mend;
use model::image::Image;
use model::ledger::{Accepted, ContainerEntry, ReplacePhase};
use model::name::Name;
use model::network::Link;
use model::observed::{ObservedContainer, Phase};
use model::plan::{Op, Reason};
use model::spec::ContainerSpec;

use super::accept::{content_text, is_prepared};
use super::presence::Wish;
use super::sight::{Sight, is_live};
use super::{Blocked, Pass};
use crate::diff;

/// A step that is to be taken, with what it needs.
struct Step<'e> {
    name: &'e Name,
    accepted: &'e Accepted,
    op: Op,
    reasons: Vec<Reason>,
    after: Vec<usize>,
    /// It takes a running one's place: what it depends on was there when that began.
    switching: bool,
}

impl<'a> Pass<'a, '_> {
    /// One step nearer for every container that is wanted.
    pub(super) fn act_on_containers(&mut self) {
        for name in self.order.clone() {
            let noun = Noun::Container(name.clone());
            if self.busy(&noun) {
                self.wait(noun, "is being changed", None);
                continue;
            }
            let Some(entry) = self.ledger.containers.get(&name).cloned() else {
                continue;
            };
            if matches!(self.wish(&name), Wish::Gone) {
                continue;
            }
            let begun = self.actions.len();
            let after = self.remove_strays(&name, &entry);
            self.drive(&name, &entry, after);
            self.drive_draining(&name, &entry, begun);
        }
    }

    fn drive(&mut self, name: &Name, entry: &ContainerEntry, after: Vec<usize>) {
        let Some(next) = &entry.next else {
            return self.drive_current(name, &entry.current, after);
        };
        let contents = self.content_reasons(&entry.current, &next.accepted);
        let reasons = || {
            let mut reasons = replace_reasons(&entry.current, &next.accepted);
            reasons.extend(contents.clone());
            reasons.extend(next.fallback.iter().map(Reason::because));
            reasons
        };
        let held = self.ledger.holds.contains_key(name);
        match next.phase {
            // It cannot take the place of one that ended meanwhile: that one is wanted again. Nor is it waited for where
            // the old one is to be stopped in any case.
            ReplacePhase::Preparing if held || !self.look_at(&entry.current).may_be_live() => {
                self.drive_current(name, &entry.current, after);
            }
            // Others may wait for it to be gone.
            ReplacePhase::Preparing if entry.current.stale && is_prepared(self.look_at(&next.accepted)) => {
                self.drive_current(name, &entry.current, after);
            }
            ReplacePhase::Preparing if is_prepared(self.look_at(&next.accepted)) => {
                // Its predecessor may have to wait for long.
                if let Sight::Seen(seen) = self.look_at(&entry.current) {
                    self.mend(name, &entry.current, seen, after);
                }
                let why = "is prepared, and waits for what it needs";
                self.wait(Noun::Container(name.clone()), why, None);
            }
            ReplacePhase::Preparing => self.prepare(name, &next.accepted, after, reasons()),
            ReplacePhase::Switching if held => self.halt(name, &entry.current, &next.accepted, after),
            ReplacePhase::Switching => self.switch(name, &entry.current, &next.accepted, after, reasons()),
            ReplacePhase::Reverting => {
                let why = "the new one could not be started: the old one is taken back";
                self.remove_one(name, &next.accepted, vec![Reason::because(why)], after);
            }
            ReplacePhase::Trial | ReplacePhase::Dropping => {
                self.drive_beside(name, entry, next, after, reasons());
            }
        }
    }

    fn prepare(&mut self, name: &Name, next: &Accepted, after: Vec<usize>, reasons: Vec<Reason>) {
        if let Sight::Unknown(why) = self.look_at(next) {
            return self.unseen(name, why);
        }
        if let Err(blocked) = self
            .volumes_for(&next.spec)
            .and_then(|_| self.contents_for(&next.spec))
        {
            return self.hold_up(Noun::Container(name.clone()), blocked);
        }
        if let Some(instance) = self.instance(name, next) {
            self.act(Op::Replace, Action::PrepareContainer { instance }, after, reasons);
        }
    }

    fn switch(
        &mut self,
        name: &Name,
        old: &Accepted,
        new: &Accepted,
        after: Vec<usize>,
        reasons: Vec<Reason>,
    ) {
        for sight in [self.look_at(old), self.look_at(new)] {
            if let Sight::Unknown(why) = sight {
                return self.unseen(name, why);
            }
        }
        if self.look_at(old).is_up()
            && !self.has_to_leave(old)
            && let Err(blocked) = self.way_is_clear(name, new)
        {
            // Stopped now, it would only be missed.
            return self.hold_up(Noun::Container(name.clone()), blocked);
        }
        let stopped = if self.look_at(old).may_be_live() {
            let Some(stop) = self.stop(name, old, Op::Replace, reasons.clone(), after.clone()) else {
                return;
            };
            vec![stop]
        } else if new.stale && self.look_at(new).may_be_live() {
            let Some(stop) = self.stop(name, new, Op::Replace, reasons.clone(), after.clone()) else {
                return;
            };
            vec![stop]
        } else {
            after
        };
        self.start(Step {
            name,
            accepted: new,
            op: Op::Replace,
            reasons,
            after: stopped,
            switching: true,
        });
    }

    /// Held in the middle of a switch: nobody is started, and who is still there is stopped.
    fn halt(&mut self, name: &Name, old: &Accepted, new: &Accepted, after: Vec<usize>) {
        for accepted in [old, new] {
            match self.look_at(accepted) {
                Sight::Unknown(why) => return self.unseen(name, why),
                Sight::Seen(c) if is_live(c) => return self.stop_held(name, accepted, after),
                Sight::Seen(_) | Sight::Absent => {}
            }
        }
    }

    fn stop_held(&mut self, name: &Name, accepted: &Accepted, after: Vec<usize>) {
        let why = self.ledger.holds.get(name).map_or("", |h| h.reason.as_str());
        let reason = Reason::because(format!("is to stay stopped: {why}"));
        self.stop(name, accepted, Op::Update, vec![reason], after);
    }

    pub(super) fn drive_current(&mut self, name: &Name, accepted: &Accepted, after: Vec<usize>) {
        let held = self.ledger.holds.contains_key(name);
        match self.look_at(accepted) {
            Sight::Unknown(why) => self.unseen(name, why),
            Sight::Seen(c) if is_live(c) && held => self.stop_held(name, accepted, after),
            Sight::Seen(c) if is_live(c) && accepted.stale => self.stop_stale(name, accepted, after),
            Sight::Seen(c) if is_live(c) && self.stands_on_nothing(accepted) => {
                let reasons = self.damage_of(accepted, Mend::Restart);
                self.stop(name, accepted, Op::Update, reasons, after);
            }
            sight if sight.is_up() => self.keep(name, accepted, sight, after),
            Sight::Seen(c) if is_live(c) && self.waits_for_its_time(name, accepted) => {
                let why = "its start was cut off, and no run of it is due now";
                self.stop(name, accepted, Op::Update, vec![Reason::because(why)], after);
            }
            _ if held || accepted.finished => {}
            _ if self.waits_for_its_time(name, accepted) => self.make_ready(name, accepted, after),
            sight => {
                let (op, reasons) = start_reasons(accepted, sight);
                self.start(Step {
                    name,
                    accepted,
                    op,
                    reasons,
                    after,
                    switching: false,
                });
            }
        }
    }

    /// Stops one that is to be started again, unless what keeps its networks from being as they should would keep it down.
    fn stop_stale(&mut self, name: &Name, accepted: &Accepted, after: Vec<usize>) {
        let may_stay = self.lost_owner(accepted).is_none() && !self.is_made_anew(accepted);
        if may_stay && let Err(blocked) = self.networks_for(accepted) {
            return self.hold_up(Noun::Container(name.clone()), blocked);
        }
        let reasons = self.why_stale(accepted);
        self.stop(name, accepted, Op::Replace, reasons, after);
    }

    fn why_stale(&self, accepted: &Accepted) -> Vec<Reason> {
        if let Some(why) = self.renewed(accepted) {
            return vec![Reason::because(why)];
        }
        let mut reasons = vec![Reason::because(match self.lost_owner(accepted) {
            Some(why) => format!("{why}: it is started again there"),
            None if accepted.joins == Joins::default() => {
                "its network changed: it is started again on it as it is now".to_owned()
            }
            None => "what it was joined to changed: it is started again".to_owned(),
        })];
        for a in &accepted.attachments {
            let entry = self.ledger.networks.get(&a.network);
            reasons.extend(
                entry
                    .into_iter()
                    .flat_map(|e| self.other_name_servers(&a.network, e)),
            );
            let six = entry.and_then(|e| self.other_ipv6(&a.network, e)).into_iter();
            reasons.extend(six.flatten().map(|r| Reason {
                field: format!("network {}: {}", a.network, r.field),
                ..r
            }));
            if let Some((entry, old)) = entry.and_then(|e| Some((e, e.replacing.as_ref()?))) {
                let of_it = super::networks::why_anew(entry, old).into_iter();
                reasons.extend(of_it.map(|r| Reason {
                    field: format!("network {}: {}", a.network, r.field),
                    ..r
                }));
            }
        }
        reasons
    }

    fn unseen(&mut self, name: &Name, why: &str) {
        self.wait(
            Noun::Container(name.clone()),
            format!("cannot be looked at: {why}"),
            None,
        );
    }

    /// Keeps a running one as it should be.
    fn keep(&mut self, name: &Name, accepted: &Accepted, sight: Sight<'_>, after: Vec<usize>) {
        let Sight::Seen(seen) = sight else { return };
        let broken = self.broken_interfaces(accepted);
        if !broken.is_empty() {
            return self.repair(name, accepted, broken, after);
        }
        if seen.rev != accepted.rev {
            return self.tell(name, accepted, seen, after);
        }
        if self.put_right(name, accepted, &after) || self.renew_contents(name, accepted, seen, &after) {
            return;
        }
        self.mend(name, accepted, seen, after);
    }

    fn tell(&mut self, name: &Name, accepted: &Accepted, seen: &ObservedContainer, after: Vec<usize>) {
        let noun = Noun::Container(name.clone());
        if let Some(blocked) = self.resting_container(&noun, accepted) {
            return self.hold_up(noun, blocked);
        }
        let before = self.input.ledger.containers.get(name).map(|e| &e.current);
        let mut reasons: Vec<Reason> = before
            .map(|b| diff::container(&b.spec, &accepted.spec, &accepted.origin))
            .unwrap_or_default()
            .into_iter()
            .filter(|c| c.class == diff::Class::Shim)
            .map(|c| c.reason)
            .collect();
        let entry = self.ledger.containers.get(name);
        if reasons.is_empty() && entry.is_some_and(|e| e.draining.is_some()) {
            let why = "is on trial no more: its shim works by the table's restart policy from now on";
            reasons.push(Reason::because(why));
        }
        if reasons.is_empty() {
            let text = format!(
                "its shim works by revision {} of its settings, not by {}",
                seen.rev, accepted.rev
            );
            reasons.push(Reason::because(text));
        }
        let policy = ShimPolicy::of(accepted.rev, &accepted.spec, accepted.image.as_deref());
        let action = Action::UpdateContainer {
            id: accepted.id.clone(),
            name: name.clone(),
            policy,
        };
        self.act(Op::Update, action, after, reasons);
    }

    fn broken_interfaces(&self, accepted: &Accepted) -> Vec<Reason> {
        if self.input.observed.links.known().is_none() {
            return Vec::new();
        }
        let what = |a: &model::network::Attachment| {
            let device = &a.host_device;
            match self.link(device) {
                None => Some(format!("interface {} is missing its host end {device}", a.device)),
                Some(l) if !l.up => Some(format!("{device} is down")),
                Some(l) if l.master.as_deref() != Some(&a.bridge) => {
                    Some(format!("{device} is not on {}", a.bridge))
                }
                Some(l) if l.isolated != a.isolated => Some(match a.isolated {
                    true => format!("{device} is not isolated from its neighbours on {}", a.bridge),
                    false => format!("{device} is isolated from its neighbours on {}", a.bridge),
                }),
                Some(_) => None,
            }
        };
        // One below a device of the host has no end here: what becomes of it is the container's own affair.
        let with_ends = accepted.attachments.iter().filter(|a| !a.link.is_inside_alone());
        // What is a port of Open vSwitch is not known while that is away.
        let unseen = self.input.observed.around.switch.known().is_none();
        let with_ends = with_ends.filter(|a| !(unseen && matches!(a.link, Link::Ovs { .. })));
        with_ends.filter_map(what).map(Reason::because).collect()
    }

    fn repair(&mut self, name: &Name, accepted: &Accepted, reasons: Vec<Reason>, mut after: Vec<usize>) {
        let noun = Noun::Container(name.clone());
        if let Some(blocked) = self.resting_container(&noun, accepted) {
            return self.hold_up(noun, blocked);
        }
        match self.networks_for(accepted) {
            Err(blocked) => self.hold_up(noun, blocked),
            Ok(needs) => {
                after.extend(needs);
                if let Some(instance) = self.instance(name, accepted) {
                    self.act(Op::Update, Action::RepairAttachments { instance }, after, reasons);
                }
            }
        }
    }

    pub(super) fn resting_container(&self, noun: &Noun, accepted: &Accepted) -> Option<Blocked> {
        self.resting(noun, Some(&accepted.id), &accepted.spec, &accepted.spec.restart)
    }

    /// Starts it, once everything it needs is there or in this plan.
    fn start(&mut self, step: Step<'_>) {
        let ready = self
            .needs(step.name, step.accepted, step.switching)
            .and_then(|needs| {
                self.volumes_for(&step.accepted.spec)?;
                self.contents_for(&step.accepted.spec)?;
                Ok((needs, self.joined(&step.accepted.spec)?))
            });
        match ready {
            Err(blocked) => self.hold_up(Noun::Container(step.name.clone()), blocked),
            Ok((needs, joined)) => {
                let accepted = self.join(step.name, step.accepted, joined);
                self.note_begun_with(step.name, &accepted);
                let Some(instance) = self.instance(step.name, &accepted) else {
                    return;
                };
                let mut after = step.after;
                after.extend(needs);
                after.sort_unstable();
                after.dedup();
                self.act(step.op, Action::StartContainer { instance }, after, step.reasons);
            }
        }
    }

    /// It is to be stopped in any case: a network of it changed, or waits for it to be gone.
    pub(super) fn has_to_leave(&self, old: &Accepted) -> bool {
        old.stale || self.is_made_anew(old)
    }

    /// The device of one of its networks is to go, which it does once nobody lives there.
    fn is_made_anew(&self, accepted: &Accepted) -> bool {
        let networks = &self.ledger.networks;
        let anew = |name: &Name| networks.get(name).is_some_and(|n| n.replacing.is_some());
        accepted.attachments.iter().any(|a| anew(&a.network))
    }

    /// Everything decided about one container, for `runtime`; none while its image is not there.
    pub(super) fn instance(&mut self, name: &Name, accepted: &Accepted) -> Option<Box<Instance>> {
        let instance = accepted.image.clone().map(|image| {
            Box::new(Instance {
                id: accepted.id.clone(),
                name: name.clone(),
                service: self.service(name).clone(),
                number: self.place(name).map_or(1, |place| place.number),
                rev: accepted.rev,
                spec: ContainerSpec::clone(&accepted.spec),
                image: Image::clone(&image),
                attachments: accepted.attachments.to_vec(),
                dns: self.name_servers(accepted),
                volumes: self.known_paths(&accepted.spec),
                joins: accepted.joins.clone(),
                contents: self.files_of(&accepted.spec),
                links: self.links_of(accepted),
            })
        });
        if instance.is_none() {
            let blocked = self.waits_for_image(&accepted.spec.image.key());
            self.hold_up(Noun::Container(name.clone()), blocked);
        }
        instance
    }

    fn stop(
        &mut self,
        name: &Name,
        accepted: &Accepted,
        op: Op,
        reasons: Vec<Reason>,
        mut after: Vec<usize>,
    ) -> Option<usize> {
        let noun = Noun::Container(name.clone());
        if let Some(failure) = self.resting_stop(&noun, accepted) {
            self.hold_up(noun, failure);
            return None;
        }
        after.extend(self.stops_before(name));
        match self.stop_sharers(name, &accepted.id) {
            Ok(sharers) => after.extend(sharers),
            Err(blocked) => {
                self.hold_up(noun, blocked);
                return None;
            }
        }
        after.extend(self.out_of_traffic(name));
        after.sort_unstable();
        after.dedup();
        let action = Action::StopContainer {
            id: accepted.id.clone(),
            name: name.clone(),
            signal: accepted.stop_signal(),
            grace: accepted.spec.stop_grace_period,
        };
        let index = self.act(op, action, after, reasons);
        self.stopping.insert(name.clone(), index);
        Some(index)
    }

    /// A stop or removal that failed rests as well.
    pub(super) fn resting_stop(&self, noun: &Noun, accepted: &Accepted) -> Option<Blocked> {
        // They are booked without a fingerprint: a failed start does not hold up a stop.
        self.resting(noun, Some(&accepted.id), &accepted.id, &accepted.spec.restart)
    }
}

fn replace_reasons(old: &Accepted, new: &Accepted) -> Vec<Reason> {
    let changes = diff::container(&old.spec, &new.spec, &new.origin);
    let mut reasons: Vec<Reason> = changes.into_iter().map(|c| c.reason).collect();
    if old.image_id != new.image_id && !reasons.iter().any(|r| r.field == "image") {
        let at = new.origin.key("image");
        reasons.push(Reason {
            field: format!("content of image {}", new.spec.image.key()),
            from: Some(content_text(old)),
            to: Some(content_text(new)),
            file: Some(at.file).filter(|f| !f.is_empty()),
            line: at.line,
        });
    }
    reasons
}

fn start_reasons(accepted: &Accepted, sight: Sight<'_>) -> (Op, Vec<Reason>) {
    let because = |text: &str| vec![Reason::because(text)];
    match sight {
        Sight::Seen(c) => {
            let why = match c.phase {
                Phase::Prepared => return (Op::Create, because("is prepared")),
                Phase::Created => return (Op::Create, because("its payload was not started yet")),
                Phase::Lost => "is gone without a word from its shim (killed, or the machine went down)",
                Phase::Exited => "is not running",
                Phase::Running { .. } | Phase::Paused { .. } | Phase::Backoff { .. } => "is running",
            };
            (Op::Update, because(why))
        }
        Sight::Absent | Sight::Unknown(_) => {
            let at = accepted.origin.location();
            let declared = Reason {
                field: "is declared".to_owned(),
                from: None,
                to: None,
                file: Some(at.file).filter(|f| !f.is_empty()),
                line: at.line,
            };
            (Op::Create, vec![declared])
        }
    }
}
