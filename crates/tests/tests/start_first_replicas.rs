//! `update.strategy = "start-first"` with `replicas`, under load on the port they share: one after the other beside the
//! one before, and a version that never becomes healthy is tried on one alone.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use model::status::{ContainerStatus, Status};
use tests::load::{Client, Load};
use tests::{Host, host};

const NAMES: [&str; 3] = ["web", "web-2", "web-3"];
/// For what must come, on however busy a machine.
const LONG: Duration = Duration::from_secs(120);

/// The table of a version; `ready_ms` below 0: it never becomes healthy.
fn table(host: &Host, version: &str, ready_ms: i64) -> String {
    let mut update = "drain = \"300ms\"".to_owned();
    // Of those that become healthy none is given up, however busy the machine.
    if ready_ms < 0 {
        update += "\ntimeout = \"2s\"";
    }
    host.version_table(version, ready_ms, "replicas = 3", &update)
}

/// Three healthy instances of version 0, and the load on their port.
fn loaded() -> (Host, Load) {
    let mut host = Host::new();
    host.write("web.toml", &table(&host, "0", 0));
    host.start_agent();
    host.converge();
    let mut load = Load::new();
    let outside = format!("{}:8080", host::ADDRESS);
    for client in [
        Client::New,
        Client::New,
        Client::Kept,
        Client::Kept,
        Client::Datagram,
    ] {
        load.add(&host.neighbour, client, &outside);
    }
    load.add(&host.ns, Client::New, "127.0.0.1:8080");
    (host, load)
}

/// Ends the load after one more look of everybody: nobody may have lost anything; what each was answered with last.
fn nobody_lost(load: Load) -> Vec<String> {
    load.until_asked_again();
    let mut last = Vec::new();
    for (client, seen) in load.stop() {
        println!("{client:?}: {} answers, {} lost", seen.answers, seen.lost.len());
        assert!(seen.lost.is_empty(), "{client:?} lost {:?}", seen.lost);
        assert!(seen.answers > 0, "{client:?} asked nothing");
        last.push(seen.versions.last().unwrap().clone());
    }
    last
}

fn rows<'s>(status: &'s Status, role: &'s str) -> impl Iterator<Item = &'s ContainerStatus> {
    status.containers.iter().filter(move |c| c.role == role)
}

/// Which container has which name.
fn active(status: &Status) -> BTreeMap<String, ContainerStatus> {
    let all = rows(status, "active");
    all.map(|c| (c.name.clone(), c.clone())).collect()
}

/// What holds at every moment of an update: as many serve as are asked for, and one at a time is on trial.
fn no_fewer_than_three(host: &Host, status: &Status) {
    let serving = active(status);
    assert_eq!(serving.keys().collect::<Vec<_>>(), NAMES, "{}", host.evidence());
    for row in serving.values() {
        assert_eq!(row.health, "healthy", "{status:#?}\n{}", host.evidence());
    }
    let trials = rows(status, "trial").count();
    assert!(trials <= 1, "{trials} at a time\n{}", host.evidence());
}

fn until(host: &Host, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let start = Instant::now();
    loop {
        let status = host.status();
        no_fewer_than_three(host, &status);
        if wanted(&status) {
            return status;
        }
        assert!(start.elapsed() < LONG, "never {what}\n{}", host.evidence());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// None of those of before is left, and nobody is beside the three.
fn all_replaced(before: &BTreeMap<String, ContainerStatus>, now: &Status) -> bool {
    let other = active(now).values().all(|c| before[&c.name].id != c.id);
    other && now.converged && now.containers.len() == NAMES.len()
}

#[test]
fn slow_three_instances_are_replaced_under_load_and_nobody_is_lost() {
    let (host, load) = loaded();
    let mut before = active(&host.status());
    for version in ["1", "2"] {
        host.write_renamed("web.toml", &table(&host, version, 200));
        let status = until(&host, "replaced", |s| all_replaced(&before, s));
        let after = active(&status);
        for (name, row) in &after {
            assert_eq!(row.restarts, 0, "{name}");
            let (new, old) = (&row.networks["default"], &before[name].networks["default"]);
            assert_ne!(new.ip, old.ip, "{name} has an address of its own");
        }
        before = after;
    }
    assert!(nobody_lost(load).iter().all(|version| version == "2"));
    let events = host.wharf(["events"]).ok().stdout;
    for name in NAMES {
        let taken = events.lines().filter(|l| l.contains("takes the place of"));
        assert!(taken.clone().any(|l| l.contains(name)), "{name}: {events}");
        assert_eq!(taken.count(), 2 * NAMES.len(), "{events}");
    }
}

#[test]
fn slow_a_version_that_never_becomes_healthy_is_tried_on_one_and_taken_back() {
    let (mut host, load) = loaded();
    let before = active(&host.status());
    host.write_renamed("web.toml", &table(&host, "bad", -1));
    let status = until(&host, "taken back", |s| {
        s.containers.len() == NAMES.len() && s.containers.iter().all(|c| c.error.is_some())
    });
    let after = active(&status);
    let runs = |all: &BTreeMap<String, ContainerStatus>| -> Vec<_> {
        all.values().map(|c| (c.id.clone(), c.pid, c.restarts)).collect()
    };
    assert_eq!(
        runs(&after),
        runs(&before),
        "nobody of those who served was touched"
    );
    let tried: Vec<&ContainerStatus> = after.values().filter(|c| c.rolled_back.is_some()).collect();
    assert_eq!(tried.len(), 1, "{after:#?}");
    let back = tried[0].rolled_back.as_ref().unwrap();
    assert!(back.reason.contains("was not healthy within 2s"), "{back:?}");
    assert!(back.log.contains(&"this is version bad".to_owned()), "{back:?}");
    for other in after.values().filter(|c| c.rolled_back.is_none()) {
        let error = other.error.as_ref().unwrap();
        let why = format!("the change failed on container {}", tried[0].name);
        assert!(error.contains(&why), "{error}");
    }
    assert_eq!(host.wharf(["status"]).code, 3);
    assert_eq!(host.wharf(["wait", "web", "--timeout", "20s"]).code, 0);

    // Another agent does not try it again either.
    host.kill_agent();
    host.start_agent();
    host.wharf(["reload"]);
    let again = host.status();
    no_fewer_than_three(&host, &again);
    assert_eq!(
        (rows(&again, "trial").count(), runs(&active(&again))),
        (0, runs(&before))
    );

    // What is put right is taken, by all.
    host.write_renamed("web.toml", &table(&host, "good", 0));
    let status = until(&host, "replaced", |s| all_replaced(&before, s));
    assert!(
        status
            .containers
            .iter()
            .all(|c| c.rolled_back.is_none() && c.error.is_none())
    );
    assert!(nobody_lost(load).iter().all(|version| version == "good"));
}
