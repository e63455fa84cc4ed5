//! Configs, secrets and environment files: what a change of each does, and what cannot be had.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use jiff::SignedDuration;
use lab::{Lab, lines, name, spec};
use model::action::Action;
use model::content::{OnChange, Then};
use model::file::{Outcome, Source, parse};
use model::observed::{Look, Phase};
use model::spec::{FileSource, MountedFileSpec, Settings, UpdateStrategy};
use model::status::State;
use reconciler::resolve::resolve;

fn table(on_change: OnChange) -> MountedFileSpec {
    MountedFileSpec {
        source: FileSource::File("/srv/x0".into()),
        target: None,
        mode: 0o444,
        uid: 0,
        gid: 0,
        on_change,
    }
}

/// `web`, running with config and secret `x0`.
fn running(config: OnChange, secret: OnChange) -> Lab {
    let mut web = spec();
    web.configs = vec![name("x0")];
    web.secrets = vec![name("x0")];
    let mut lab = Lab::new(&[("web", web)]);
    lab.configs.insert(name("x0"), table(config));
    lab.secrets.insert(name("x0"), table(secret));
    assert!(lab.settle().is_empty());
    assert!(lab.runs("web"));
    lab
}

fn signal(name: &str) -> OnChange {
    OnChange::Signal(name.to_owned())
}

/// Id and run of `web`.
fn run(lab: &Lab) -> (String, u64) {
    (lab.id("web").to_string(), lab.seen("web").run_no)
}

#[test]
fn each_change_acts_as_its_table_says() {
    for (on_change, same_id, same_run) in [
        (OnChange::None, true, true),
        (signal("SIGHUP"), true, true),
        (OnChange::Restart, true, false),
        (OnChange::Replace, false, true),
    ] {
        let mut lab = running(on_change.clone(), OnChange::None);
        let before = run(&lab);
        lab.host.contents.set("config x0", Look::Known("other"));
        let plan = lab.plan();
        assert!(
            lines(&plan)[0].ends_with("container web: config x0 changed: its content (all.toml:1)"),
            "{:?}",
            lines(&plan)
        );
        assert!(lab.settle().is_empty(), "{on_change:?}");
        let after = run(&lab);
        assert_eq!(
            (before.0 == after.0, before.1 == after.1),
            (same_id, same_run),
            "{on_change:?}"
        );
        assert_eq!(lab.seen("web").restarts, 0, "{on_change:?} is no crash");
        let files = &lab.host.contents.files[&lab.id("web")];
        assert_eq!(files[&"config x0".parse().unwrap()], "sha256:other");
    }
}

fn then_of(lab: &mut Lab) -> Then {
    let plan = lab.plan();
    let mut deliveries = plan.actions.into_iter().filter_map(|p| match p.action {
        Action::DeliverContents { then, .. } => Some(then),
        _ => None,
    });
    deliveries.next().unwrap()
}

#[test]
fn of_several_changes_the_strongest_counts() {
    let mut lab = running(signal("SIGHUP"), signal("SIGUSR1"));
    for key in ["config x0", "secret x0"] {
        lab.host.contents.set(key, Look::Known("other"));
    }
    let signals = vec!["SIGHUP".to_owned(), "SIGUSR1".to_owned()];
    assert_eq!(then_of(&mut lab), Then::Signal { signals });
    let mut lab = running(signal("SIGHUP"), OnChange::Restart);
    for key in ["config x0", "secret x0"] {
        lab.host.contents.set(key, Look::Known("other"));
    }
    assert!(matches!(then_of(&mut lab), Then::Restart { signal, .. } if signal == "SIGTERM"));
}

#[test]
fn mode_and_owner_count_and_on_change_alone_does_not() {
    let mut lab = running(OnChange::Restart, OnChange::None);
    let before = run(&lab);
    lab.configs.get_mut("x0").unwrap().on_change = OnChange::None;
    assert!(lab.settle().is_empty());
    assert_eq!(run(&lab), before);
    lab.configs.get_mut("x0").unwrap().mode = 0o400;
    assert_eq!(then_of(&mut lab), Then::Nothing);
    let lines = lines(&lab.plan());
    assert_eq!(
        lines,
        ["~ container web: config x0 changed: its mode (all.toml:1)"]
    );
    assert!(lab.settle().is_empty());
    lab.configs.get_mut("x0").unwrap().target = Some("/etc/x0".to_owned());
    assert!(lab.settle().is_empty());
    assert_ne!(run(&lab).0, before.0, "another place takes another container");
}

#[test]
fn a_restart_that_was_cut_off_is_made_once() {
    let mut lab = running(OnChange::Restart, OnChange::None);
    let before = run(&lab);
    lab.host.contents.set("config x0", Look::Known("other"));
    for _ in 0..3 {
        let plan = lab.plan();
        // Run 1 is an odd one: the files are noted, and the run is not ended.
        lab.host
            .apply(&plan.actions[0].action, lab.now, true)
            .unwrap_err();
        assert_eq!(run(&lab), before);
    }
    assert!(lab.settle().is_empty());
    assert_eq!(run(&lab), (before.0, before.1 + 1));
}

/// What was written and not noted is not what the note says, though the source is that again.
#[test]
fn what_is_changed_back_while_it_is_written_is_written_once_more() {
    let mut lab = running(OnChange::None, OnChange::None);
    let before = run(&lab);
    lab.host.contents.set("config x0", Look::Known("other"));
    let planned = lab.plan().actions.remove(0).action;
    lab.host.apply(&planned, lab.now, true).unwrap_err();
    lab.host.contents.set("config x0", Look::Known("1"));
    assert!(lab.settle().is_empty());
    let files = &lab.host.contents.files[&lab.id("web")];
    assert_eq!(files[&"config x0".parse().unwrap()], "sha256:1");
    assert_eq!(run(&lab), before);
}

#[test]
fn a_run_that_began_before_its_files_were_there_is_told_as_well() {
    let mut lab = running(signal("SIGHUP"), OnChange::None);
    lab.host.contents.set("config x0", Look::Known("other"));
    let planned = lab.plan().actions.remove(0).action;
    // Between the plan and its files another run begins.
    let (id, now) = (lab.id("web"), lab.now);
    let crash = Action::RestartUnhealthy {
        id: id.clone(),
        name: name("web"),
        run_no: 1,
        signal: "SIGTERM".to_owned(),
        grace: std::time::Duration::ZERO,
    };
    lab.host.apply(&crash, now, false).unwrap();
    lab.host.tick(now + SignedDuration::from_secs(1));
    lab.host.apply(&planned, now, false).unwrap();
    assert!(lab.settle().is_empty());
    let told = &lab.host.contents.told[&id];
    assert_eq!(told[&"config x0".parse().unwrap()], "sha256:other");
    assert_eq!(lab.seen("web").run_no, 2, "it is not begun once more");
}

#[test]
fn one_that_waits_to_be_restarted_is_not_kept_waiting() {
    let mut lab = running(signal("SIGHUP"), OnChange::None);
    let id = lab.id("web");
    let until = lab.now + jiff::SignedDuration::from_secs(3600);
    lab.host.containers.get_mut(&id).unwrap().seen.phase = Phase::Backoff { until };
    lab.host.contents.set("config x0", Look::Known("other"));
    lab.pass();
    assert!(lab.runs("web"));
}

#[test]
fn a_paused_one_gets_it_when_it_goes_on() {
    let mut lab = running(OnChange::Restart, OnChange::None);
    let id = lab.id("web");
    let container = &mut lab.host.containers.get_mut(&id).unwrap().seen;
    let Phase::Running { pid } = container.phase else {
        panic!("it runs")
    };
    container.phase = Phase::Paused { pid };
    lab.host.contents.set("config x0", Look::Known("other"));
    let plan = lab.plan();
    assert!(plan.actions.is_empty());
    assert!(
        lines(&plan)[0].ends_with("which reaches it when it is unpaused"),
        "{:?}",
        lines(&plan)
    );
    lab.host.containers.get_mut(&id).unwrap().seen.phase = Phase::Running { pid };
    assert!(lab.settle().is_empty());
    assert_eq!(run(&lab).1, 2);
}

#[test]
fn what_cannot_be_read_stops_nobody_and_lets_nobody_begin() {
    let mut lab = running(OnChange::Replace, OnChange::Restart);
    let before = run(&lab);
    lab.host
        .contents
        .set("secret x0", Look::Unknown("/srv/x0 does not exist".to_owned()));
    lab.host.contents.set("config x0", Look::Known("other"));
    let mut second = spec();
    second.secrets = vec![name("x0")];
    lab.containers.insert(name("late"), second);
    for _ in 0..5 {
        lab.pass();
    }
    assert_eq!(run(&lab), before);
    for of in ["web", "late"] {
        let error = lab.shown(of).error.unwrap();
        assert!(
            error.ends_with("secret x0: /srv/x0 does not exist"),
            "{of}: {error}"
        );
    }
    assert_eq!(lab.shown("web").state, State::Running);
    assert_eq!(lab.shown("late").state, State::Failed);
    assert!(!lab.status().converged);
    lab.host.contents.set("secret x0", Look::Known("new"));
    assert!(lab.settle().is_empty());
    assert_ne!(run(&lab).0, before.0);
    assert!(lab.runs("late"));
}

#[test]
fn an_environment_file_replaces_and_a_reboot_alone_does_not() {
    let mut web = spec();
    web.env_file = vec![sim::contents::env_file()];
    let mut lab = Lab::new(&[("web", web)]);
    assert!(lab.settle().is_empty());
    let first = lab.id("web");
    lab.reboot();
    lab.host.contents.forget();
    assert!(lab.settle().is_empty());
    assert_eq!(lab.id("web"), first);
    lab.host
        .contents
        .set("env_file /etc/default/app", Look::Known("other"));
    let told = lines(&lab.plan());
    assert!(
        told[0].contains("env_file /etc/default/app changed: its content"),
        "{told:?}"
    );
    assert!(lab.settle().is_empty());
    let second = lab.id("web");
    assert_ne!(second, first);
    // While the machine is down.
    lab.reboot();
    lab.host.contents.forget();
    lab.host
        .contents
        .set("env_file /etc/default/app", Look::Known("third"));
    assert!(lab.settle().is_empty());
    assert_ne!(lab.id("web"), second);
}

/// Whoever undoes a change before it was made keeps the container that runs, whatever was prepared or tried by then.
#[test]
fn what_is_as_it_was_again_replaces_nobody() {
    for strategy in [UpdateStrategy::Recreate, UpdateStrategy::StartFirst] {
        let mut web = spec();
        web.env_file = vec![sim::contents::env_file()];
        web.update.strategy = strategy;
        let mut lab = Lab::new(&[("web", web)]);
        assert!(lab.settle().is_empty());
        let before = run(&lab);
        let key = "env_file /etc/default/app";
        lab.host.contents.set(key, Look::Known("other"));
        let begun = lab.plan();
        lab.ledger = begun.ledger;
        // Put back before anybody read it.
        lab.host.contents.set(key, Look::Known("1"));
        for planned in &begun.actions {
            lab.host.apply(&planned.action, lab.now, false).unwrap();
        }
        assert_eq!(lab.host.containers.len(), 2, "{strategy:?}");
        assert!(lab.settle().is_empty());
        assert_eq!(
            (run(&lab), lab.host.containers.len()),
            (before, 1),
            "{strategy:?}"
        );
    }
}

/// The errors of these files, each with its places.
fn errors(text: &str) -> Vec<String> {
    let Outcome::Parsed(file) = parse(&Source::new("a.toml", text), &[]) else {
        panic!("{text}")
    };
    let desired = resolve(&[file], &[], &Settings::default());
    let line = |e: &model::diagnostic::Diagnostic| format!("{}: {}", e.at, e.message);
    desired.errors.iter().map(line).collect()
}

#[test]
fn what_a_container_names_is_declared_and_has_a_place_of_its_own() {
    let web = "[container.web]\nrootfs = '/srv'\n";
    let config = |name: &str, target: &str| format!("[config.{name}]\ncontent = ''\ntarget = '{target}'\n");
    assert_eq!(
        errors(&format!(
            "{web}configs = ['nginx_con']\n{}",
            config("nginx_conf", "/a")
        )),
        ["a.toml:3:1: container web names config nginx_con, which is not declared"]
    );
    assert_eq!(
        errors(&format!("{web}secrets = ['a']\n{}", config("a", "/a"))),
        ["a.toml:3:1: container web names secret a, which is not declared"]
    );
    assert_eq!(
        errors(&format!(
            "{web}configs = ['a', 'b']\n{}{}",
            config("a", "/x"),
            config("b", "/x")
        )),
        ["a.toml:3:1: config a and config b want /x and /x in container web"]
    );
    assert_eq!(
        errors(&format!(
            "{web}configs = ['a']\nvolumes = ['v:/etc/nginx']\n{}",
            config("a", "/etc/nginx/x")
        )),
        [
            "a.toml:4:1: config a at /etc/nginx/x and the volume at /etc/nginx of container web are in each other's way"
        ]
    );
    let beside = format!("{web}configs = ['a']\ntmpfs = ['/run']\nvolumes = ['v:/etc/nginx.d']\n");
    assert_eq!(errors(&format!("{beside}{}", config("a", "/etc/nginx"))), [""; 0]);
}
