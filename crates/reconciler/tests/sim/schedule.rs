//! Schedules, mounts and the way to the network on the simulated host, and the laws of what waits for them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use model::action::{Action, Instance, Noun};
use model::ledger::Ledger;
use model::name::ContainerId;
use model::observed::{ExitRecord, Look, ObservedContainer, Phase};
use model::plan::{Op, Plan};
use model::spec::{Condition, ContainerSpec, Dependency, RestartPolicy, UpdateSpec};
use model::surroundings::Surroundings;
use reconciler::plan::Input;

use super::files::name;
use super::host::{Host, Real};
use super::rng::Rng;

const MOUNTS: [&str; 2] = ["/srv/nfs", "/srv/usb"];
const TIMES: [&str; 4] = ["*:*:0/20", "minutely", "*:0/5", "hourly"];

/// Some of what a table can wait for.
pub fn dress(spec: &mut ContainerSpec, number: u64, rng: &mut Rng) {
    if number > 0 && rng.one_in(3) {
        let on = name(&format!("c{}", rng.below(number)));
        let (condition, restart) = (Condition::Started, true);
        spec.depends_on.insert(on, Dependency { condition, restart });
    }
    if rng.one_in(5) {
        spec.schedule = Some(rng.pick(&TIMES).parse().unwrap());
        spec.restart.policy = *rng.pick(&[RestartPolicy::No, RestartPolicy::No, RestartPolicy::OnFailure]);
        spec.update = UpdateSpec::default();
        spec.randomized_delay = Duration::from_secs(*rng.pick(&[0, 0, 30]));
        spec.persistent = rng.one_in(2);
    }
    if rng.one_in(6) {
        spec.requires_mounts = vec![PathBuf::from(rng.pick(&MOUNTS))];
    }
    spec.after_network_online = rng.one_in(8);
}

/// Another time for what has one.
pub fn edit(spec: &mut ContainerSpec, rng: &mut Rng) {
    if spec.schedule.is_some() {
        spec.schedule = Some(rng.pick(&TIMES).parse().unwrap());
    } else {
        spec.requires_mounts = vec![PathBuf::from(rng.pick(&MOUNTS))];
    }
}

/// Seldom enough that there is time between two runs to see that nothing is left to do.
pub fn calm(spec: &mut ContainerSpec) {
    if spec.schedule.is_some() {
        spec.schedule = Some("*:0/5".parse().unwrap());
        spec.randomized_delay = Duration::ZERO;
    }
}

/// Something is mounted, or not any more; the host's cable is pulled, or put back.
pub fn disturb(around: &mut Surroundings, rng: &mut Rng) {
    let path = PathBuf::from(rng.pick(&MOUNTS));
    match &mut around.mounts {
        Look::Known(mounts) if rng.one_in(2) => {
            if !mounts.remove(&path) {
                mounts.insert(path);
            }
        }
        _ => around.online = Look::Known(rng.one_in(2)),
    }
}

pub fn heal(around: &mut Surroundings) {
    around.mounts = Look::Known(MOUNTS.iter().map(PathBuf::from).collect::<BTreeSet<_>>());
    around.online = Look::Known(true);
}

/// What holds of every plan.
pub fn plan(input: &Input<'_>, plan: &Plan, host: &Host) -> Result<(), String> {
    for planned in &plan.actions {
        if let Action::StartContainer { instance } = &planned.action {
            starts_where_it_can(input, instance)?;
            if instance.spec.schedule.is_some() && planned.op != Op::Replace {
                starts_when_due(input, plan, instance)?;
            }
        }
    }
    restarts_with_others(input, plan)?;
    for (name, entry) in &input.ledger.containers {
        let busy = input.in_flight.contains(&Noun::Container(name.clone()));
        let real = host.containers.get(&entry.current.id);
        let seen = input
            .observed
            .containers
            .known()
            .and_then(|all| all.get(&entry.current.id));
        let ended = real.and_then(|r| ended(r, &entry.current.spec));
        if let Some(exit) =
            ended.filter(|_| !busy && entry.next.is_none() && seen.is_some_and(|l| l.known().is_some()))
            && entry.current.finished_run != Some(exit.run_no)
            && let Some(due) = input.ledger.timetables.get(name).and_then(|t| t.due)
            && plan.ledger.timetables.get(name).and_then(|t| t.due) == Some(due)
        {
            return Err(format!(
                "the run of {name} that was due at {due} ended, and is repeated"
            ));
        }
    }
    Ok(())
}

fn ended<'r>(real: &'r Real, spec: &ContainerSpec) -> Option<&'r ExitRecord> {
    let exit = real.seen.last_exit.as_ref()?;
    let done = match spec.restart.policy {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => exit.code == 0,
        RestartPolicy::No => true,
    };
    let latest = real.seen.phase == Phase::Exited && exit.run_no == real.seen.run_no;
    (latest && done && !exit.requested && spec.schedule.is_some()).then_some(exit)
}

/// Who runs since before what it is to be restarted with is stopped once that runs.
fn restarts_with_others(input: &Input<'_>, plan: &Plan) -> Result<(), String> {
    let phase = |id: &ContainerId| {
        let all = input.observed.containers.known()?;
        all.get(id)?.known().map(|c| &c.phase)
    };
    for (name, before) in &input.ledger.containers {
        let now = plan.ledger.containers.get(name).map(|e| &e.current);
        let Some(now) = now.filter(|now| now.id == before.current.id && !now.stale) else {
            continue;
        };
        let runs = matches!(phase(&now.id), Some(Phase::Running { .. }));
        if !runs || input.in_flight.contains(&Noun::Container(name.clone())) {
            continue;
        }
        let wanted = before.current.spec.depends_on.iter();
        for (on, _) in wanted.filter(|(_, d)| d.restart && d.condition == Condition::Started) {
            let steady = input.ledger.containers.get(on).filter(|e| e.next.is_none());
            let is = steady.map(|e| &e.current.id);
            let there = is.is_some_and(|id| matches!(phase(id), Some(Phase::Running { .. })));
            let kept = plan.ledger.containers.get(on).map(|e| &e.current.id) == is;
            let was = before.current.begun_with.get(on);
            // Of several instances each waits for its turn, and says so.
            let noun = Noun::Container(name.clone());
            let waits = before.place.is_some() && plan.waits.iter().any(|w| w.noun == noun);
            if there && kept && !waits && was.is_some_and(|was| Some(was) != is) {
                return Err(format!("{name} is not restarted with {on}, which was replaced"));
            }
        }
    }
    Ok(())
}

fn starts_where_it_can(input: &Input<'_>, instance: &Instance) -> Result<(), String> {
    let (around, name) = (&input.observed.around, &instance.name);
    let mounts = around.mounts.known();
    let missing = |path: &&PathBuf| !mounts.is_some_and(|all| all.contains(*path));
    if let Some(path) = instance.spec.requires_mounts.iter().find(missing) {
        return Err(format!(
            "{name} is started though {} is not mounted",
            path.display()
        ));
    }
    if instance.spec.after_network_online && around.online != Look::Known(true) {
        return Err(format!("{name} is started before the network is online"));
    }
    Ok(())
}

fn starts_when_due(input: &Input<'_>, plan: &Plan, instance: &Instance) -> Result<(), String> {
    let name = &instance.name;
    let of = |ledger: &'_ Ledger| ledger.timetables.get(name).cloned();
    let Some(due) = of(&plan.ledger).and_then(|t| t.due) else {
        return Err(format!("{name} is started before its time"));
    };
    let before = of(input.ledger);
    if before.as_ref().is_some_and(|t| t.due == Some(due)) {
        return Ok(());
    }
    let settled = before.is_some_and(|t| due <= t.since.min(input.now));
    if due > input.now || settled {
        return Err(format!("{name} is started for {due}, at {}", input.now));
    }
    let here_since = input.observed.around.here_since.min(input.now);
    if !instance.spec.persistent && due < here_since {
        return Err(format!("{name} makes up for {due}, which nobody asks for"));
    }
    Ok(())
}

/// When there is nothing left to do, nothing is owed, and who is to be restarted with others was.
pub fn settled(host: &Host, ledger: &Ledger) -> Result<(), String> {
    for (name, entry) in &ledger.containers {
        let current = &entry.current;
        let live = host.containers.get(&current.id).is_some_and(Real::live);
        let table = ledger.timetables.get(name);
        if table.is_some_and(|t| t.due.is_some()) && !live {
            return Err(format!("a run of {name} is owed"));
        }
        for (on, dependency) in current.spec.depends_on.iter().filter(|(_, d)| d.restart && live) {
            let Some(is) = ledger.containers.get(on).map(|e| &e.current.id) else {
                // One that was taken back may name what is gone for good: there is nothing to be begun with.
                continue;
            };
            let seen = host.containers.get(is).map(|real| &real.seen);
            let awaited = |seen: &ObservedContainer| match dependency.condition {
                // A job that runs is not as it should be before its end.
                Condition::Completed => seen.phase != Phase::Exited,
                // It waits for its first time, and is not as it should be before that.
                Condition::Started | Condition::Healthy => seen.run_no == 0 && seen.last_exit.is_none(),
            };
            if seen.is_some_and(awaited) {
                continue;
            }
            if current.begun_with.get(on) != Some(is) {
                return Err(format!("{name} was not restarted with {on}"));
            }
        }
    }
    Ok(())
}
