//! Looking again at containers of which nothing changed: whatever does change is seen all the same.

#![allow(clippy::unwrap_used)] // a test that cannot go on should panic

mod shimhost;

use std::fs;
use std::time::{Duration, SystemTime};

use model::action::Instance;
use model::observed::{Look, ObservedContainer, Phase};
use runtime::damage::Depth;
use shimhost::{Host, busybox, kill};
use stamp::Stamp;

/// Looks until what is found is what the next looks go by: nothing changed for a while.
fn at_rest(host: &Host, i: &Instance) -> ObservedContainer {
    let files = host.files(i);
    for _ in 0..12_000 {
        let now = SystemTime::now();
        let dirs = [
            files.state.as_path(),
            &files.run,
            &host.roots.state.join("containers"),
        ];
        let settled = dirs.map(|dir| Stamp::of(dir).unwrap().is_settled(now));
        let seen = look(host, i);
        if settled == [true; 3] && matches!(seen.phase, Phase::Running { .. }) {
            // Once to note it, once to go by it.
            assert_eq!(damage(host, &seen), [""; 0]);
            let again = look(host, i);
            assert_eq!(again, seen);
            return again;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it does not come to rest: {:?}", host.look(i));
}

fn look(host: &Host, i: &Instance) -> ObservedContainer {
    match host.runtime.observe().unwrap().remove(&i.id) {
        Some(Look::Known(seen)) => seen,
        other => panic!("{other:?}"),
    }
}

fn damage(host: &Host, seen: &ObservedContainer) -> Vec<String> {
    let found = host.runtime.damage_of(seen, Depth::There);
    found.into_iter().map(|damage| damage.what).collect()
}

fn started(host: &Host) -> Instance {
    let i = busybox(host, "web", "exec sleep 1000");
    host.runtime.prepare(&i).unwrap();
    host.start(&i);
    host.running(&i);
    i
}

#[test]
fn slow_whatever_is_taken_from_a_container_at_rest_is_missed() {
    let host = Host::new();
    let i = started(&host);
    let files = host.files(&i);
    let before = at_rest(&host, &i);
    for (path, what) in [
        (files.state.join("upper"), "upper"),
        (files.container(), "container.json"),
        (files.shim_state(), "state.json"),
        (files.run.join("config.json"), "config.json"),
    ] {
        let aside = host.dir.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let found = damage(&host, &look(&host, &i));
        assert!(found.iter().any(|said| said.contains(what)), "{what}: {found:?}");
        fs::rename(&aside, &path).unwrap();
        assert_eq!(damage(&host, &look(&host, &i)), [""; 0], "{what} is back");
        assert_eq!(at_rest(&host, &i), before);
    }
}

#[test]
fn the_end_of_a_run_or_of_a_shim_is_seen_of_a_container_at_rest() {
    let host = Host::new();
    let i = started(&host);
    let before = at_rest(&host, &i);
    host.runtime
        .restart(&i.id, "SIGKILL", Duration::from_secs(20))
        .unwrap();
    let after = at_rest(&host, &i);
    assert!(
        after.run_no > before.run_no && after.last_exit.is_some(),
        "{after:?}"
    );
    let state = host.state(&i);
    // Nothing in its directories changes by that.
    kill(state.shim);
    for _ in 0..12_000 {
        if look(&host, &i).phase == Phase::Lost {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(look(&host, &i).phase, Phase::Lost);
    kill(state.payload.unwrap());
    host.runtime.remove(&i.id, &i.name).unwrap();
    assert!(host.runtime.observe().unwrap().is_empty());
}

#[test]
fn what_was_written_to_in_place_is_read_again_once_it_is_told() {
    let host = Host::new();
    let i = started(&host);
    at_rest(&host, &i);
    let text = fs::read_to_string(host.files(&i).container()).unwrap();
    fs::write(host.files(&i).container(), text.replace("\"web\"", "\"bew\"")).unwrap();
    host.runtime.forget_look(&i.id);
    assert_eq!(look(&host, &i).name.as_str(), "bew");
}

#[test]
fn a_process_that_is_moved_out_of_its_group_is_missed_at_rest() {
    let host = Host::new();
    let i = started(&host);
    let seen = at_rest(&host, &i);
    let Phase::Running { pid } = seen.phase else {
        panic!("{seen:?}")
    };
    let payload = host
        .cgroups()
        .into_iter()
        .find(|dir| dir.ends_with("payload"))
        .unwrap();
    let beside = payload.with_file_name("shim");
    fs::write(beside.join("cgroup.procs"), pid.to_string()).unwrap();
    let found = damage(&host, &look(&host, &i));
    assert!(found.iter().any(|said| said.contains("moved out")), "{found:?}");
    fs::write(payload.join("cgroup.procs"), pid.to_string()).unwrap();
    assert_eq!(damage(&host, &look(&host, &i)), [""; 0]);
}
