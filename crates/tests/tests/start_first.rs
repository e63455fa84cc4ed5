//! `update.strategy = "start-first"`: updates under load that lose nobody, and versions that never become healthy.
//!
//! 3 updates; `WHARF_UPDATES=20` makes it as many as one likes.
#![allow(clippy::unwrap_used)]

use model::status::{ContainerStatus, Status};
use tests::load::{Client, Load};
use tests::{Host, host};

fn updates() -> u64 {
    std::env::var("WHARF_UPDATES").map_or(3, |n| n.parse().expect("WHARF_UPDATES is a number"))
}

/// The table of a version; `ready_ms` below 0: it never becomes healthy.
fn table(host: &Host, version: &str, ready_ms: i64, update: &str) -> String {
    host.version_table(version, ready_ms, "", update)
}

/// A host whose container `web` is of version 0, and the load on it.
fn loaded(update: &str) -> (Host, Load) {
    let mut host = Host::new();
    host.write("web.toml", &table(&host, "0", 0, update));
    host.start_agent();
    host.converge();
    let mut load = Load::new();
    let outside = format!("{}:8080", host::ADDRESS);
    for client in [
        Client::New,
        Client::Kept,
        Client::Datagram,
        Client::Flow,
        Client::Burst,
    ] {
        load.add(&host.neighbour, client, &outside);
    }
    for client in [Client::New, Client::Flow, Client::Burst] {
        load.add(&host.ns, client, "127.0.0.1:8080");
    }
    load.add(&host.ns, Client::Kept, &outside);
    (host, load)
}

/// Ends the load: nobody may have lost anything, and who answered came in this order, the last of them to everybody.
fn nobody_lost(load: Load, versions: &[String]) {
    load.until_asked_again();
    let mut requests = 0;
    for (client, seen) in load.stop() {
        let lost = seen.lost.len();
        println!("{client:?}: {} answers, {lost} lost", seen.answers);
        assert!(seen.lost.is_empty(), "{client:?} lost {lost}: {:?}", seen.lost);
        assert!(seen.answers > 0, "{client:?} asked nothing");
        // Nobody is led back to one that was replaced.
        let ordered: Vec<&String> = versions.iter().filter(|v| seen.versions.contains(v)).collect();
        assert_eq!(ordered, seen.versions.iter().collect::<Vec<_>>(), "{client:?}");
        assert_eq!(seen.versions.last(), versions.last(), "{client:?}");
        requests += seen.answers;
    }
    println!("{requests} requests, 0 lost");
}

fn rows<'a>(status: &'a Status, role: &'a str) -> impl Iterator<Item = &'a ContainerStatus> {
    status
        .containers
        .iter()
        .filter(move |c| c.name == "web" && c.role == role)
}

fn active(status: &Status) -> &ContainerStatus {
    rows(status, "active").next().unwrap()
}

/// Waits until the active one is another one than that, and alone.
fn until_replaced(host: &Host, old: &ContainerStatus) -> ContainerStatus {
    let status = host.until("replaced, and nobody beside it", |s| {
        s.containers.len() == 1 && active(s).id != old.id && s.converged
    });
    active(&status).clone()
}

/// Asks until the version that is meant to answer does.
fn until_answered(host: &Host, version: &str) {
    host.until(&format!("version {version} answers"), |_| {
        let page = host.http_get(tests::From::Neighbour, &format!("http://{}:8080/", host::ADDRESS));
        page.body.trim() == format!("version {version}")
    });
}

#[test]
fn slow_updates_under_load_lose_nobody() {
    let (host, load) = loaded("drain = \"500ms\"");
    let count = updates();
    let mut old = host.container("web");
    for n in 1..=count {
        host.write_renamed(
            "web.toml",
            &table(&host, &n.to_string(), 200, "drain = \"500ms\""),
        );
        let new = until_replaced(&host, &old);
        assert_ne!(
            new.networks["default"].ip, old.networks["default"].ip,
            "an address of its own"
        );
        assert_eq!(new.restarts, 0);
        old = new;
    }
    until_answered(&host, &count.to_string());
    let versions: Vec<String> = (0..=count).map(|n| n.to_string()).collect();
    nobody_lost(load, &versions);
    let status = host.converge();
    assert_eq!(status.containers.len(), 1);
    let events = host.wharf(["events"]).ok().stdout;
    assert!(events.contains("takes the place of"), "{events}");
}

#[test]
fn slow_a_version_that_never_becomes_healthy_is_taken_back() {
    let (mut host, load) = loaded("drain = \"100ms\"");
    let before = host.container("web");
    host.write_renamed(
        "web.toml",
        &table(&host, "bad", -1, "timeout = \"1s\"\ndrain = \"100ms\""),
    );
    host.until("tried beside the old one", |s| {
        rows(s, "trial").any(|c| c.pid.is_some()) && active(s).id == before.id
    });
    let status = host.until("taken back", |s| {
        active(s).rolled_back.is_some() && s.containers.len() == 1
    });
    let web = active(&status);
    assert_eq!(
        (&web.id, web.pid, web.restarts),
        (&before.id, before.pid, 0),
        "the old one stays"
    );
    let back = web.rolled_back.clone().unwrap();
    assert!(back.reason.contains("not healthy within 1s"), "{back:?}");
    assert!(back.log.iter().any(|l| l == "this is version bad"), "{back:?}");
    let said = host.wharf(["status", "web"]).stdout;
    assert!(
        said.contains("not healthy within 1s") && said.contains("this is version bad"),
        "{said}"
    );
    assert_eq!(host.wharf(["status"]).code, 3, "not converged: {said}");
    assert_eq!(
        host.wharf(["wait", "web", "--timeout", "10s"]).code,
        0,
        "it runs as accepted"
    );

    // Another agent does not try it again.
    let tries = || {
        let log = host.log();
        log.matches("-/+ container web").count()
    };
    let tried = tries();
    assert_eq!(tried, 1, "{}", host.log_tail(40));
    host.kill_agent();
    host.start_agent();
    host.wharf(["reload"]);
    assert_eq!(host.log().matches("-/+ container web").count(), tried);
    let again = host.container("web");
    assert_eq!((again.id, again.rolled_back), (before.id.clone(), Some(back)));

    // What is put right is taken.
    host.write_renamed("web.toml", &table(&host, "good", 0, "drain = \"100ms\""));
    let new = until_replaced(&host, &before);
    assert_eq!(new.rolled_back, None);
    until_answered(&host, "good");
    nobody_lost(load, &["0".to_owned(), "good".to_owned()]);
}

#[test]
fn slow_an_agent_that_is_killed_goes_on_where_it_was() {
    let (mut host, load) = loaded("drain = \"2s\"");
    let before = host.container("web");
    host.write_renamed("web.toml", &table(&host, "1", 1500, "drain = \"2s\""));
    let status = host.until("on trial", |s| rows(s, "trial").any(|c| c.pid.is_some()));
    let trial = rows(&status, "trial").next().unwrap().clone();
    assert!(!status.converged);
    host.kill_agent();
    host.start_agent();
    let status = host.until("draining", |s| rows(s, "draining").next().is_some());
    assert_eq!(active(&status).id, trial.id, "it is the one that was on trial");
    assert_eq!(rows(&status, "draining").next().unwrap().id, before.id);
    host.kill_agent();
    host.start_agent();
    let new = until_replaced(&host, &before);
    assert_eq!((new.id, new.pid, new.restarts), (trial.id, trial.pid, 0));
    nobody_lost(load, &["0".to_owned(), "1".to_owned()]);
}

#[test]
fn a_change_while_on_trial_drops_the_trial_and_tries_the_newer_one() {
    let mut host = Host::new();
    let update = "drain = \"0s\"";
    host.write("web.toml", &table(&host, "0", 0, update));
    host.start_agent();
    host.converge();
    let before = host.container("web");
    host.write_renamed("web.toml", &table(&host, "never", -1, update));
    let status = host.until("on trial", |s| rows(s, "trial").any(|c| c.pid.is_some()));
    let trial = rows(&status, "trial").next().unwrap().clone();
    host.write_renamed("web.toml", &table(&host, "2", 0, update));
    let new = until_replaced(&host, &before);
    assert_ne!(new.id, trial.id);
    assert_eq!(new.rolled_back, None, "it was not the definition's fault");
    until_answered(&host, "2");
}

#[test]
fn a_stop_by_hand_ends_the_trial_too() {
    let mut host = Host::new();
    host.write("web.toml", &table(&host, "0", 0, ""));
    host.start_agent();
    host.converge();
    host.write_renamed("web.toml", &table(&host, "never", -1, ""));
    host.until("on trial", |s| rows(s, "trial").any(|c| c.pid.is_some()));
    host.wharf(["stop", "web"]).ok();
    let status = host.until("stopped, and alone", |s| s.containers.len() == 1 && s.converged);
    assert_eq!(
        (active(&status).pid, active(&status).hold.is_some()),
        (None, true)
    );
    host.remove("web.toml");
    host.until("gone", |s| s.containers.is_empty() && s.converged);
}

#[test]
fn without_a_check_it_takes_over_once_it_has_run_for_a_moment() {
    let mut host = Host::new();
    let table = |word: &str| {
        let more = format!(
            "env = {{ WORD = {word:?} }}\nrestart = \"always\"\nupdate = {{ strategy = \"start-first\", drain = \"100ms\" }}"
        );
        host.busybox_table(
            "web",
            "echo $WORD; [ $WORD != bad ] || exit 7; exec sleep 1000",
            &more,
        )
    };
    let (good, bad, better) = (table("good"), table("bad"), table("better"));
    host.write("web.toml", &good);
    host.start_agent();
    host.converge();
    let before = host.container("web");
    host.write_renamed("web.toml", &bad);
    let status = host.until("taken back", |s| {
        active(s).rolled_back.is_some() && s.containers.len() == 1
    });
    let back = active(&status).rolled_back.clone().unwrap();
    assert!(back.reason.contains("exit code 7"), "{back:?}");
    assert_eq!(back.log, ["bad"]);
    assert_eq!(active(&status).pid, before.pid);
    host.write_renamed("web.toml", &better);
    let new = until_replaced(&host, &before);
    // Its shim works by its policy now: it comes again by itself.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(new.pid.unwrap()).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let again = host.until("there again", |s| {
        active(s).restarts == 1 && active(s).pid.is_some_and(|pid| Some(pid) != new.pid)
    });
    assert_eq!(active(&again).id, new.id);
}

#[test]
fn what_only_one_may_hold_is_recreated_and_that_is_said() {
    let mut host = Host::new();
    let table = |word: &str| {
        let more = format!(
            "env = {{ WORD = {word:?} }}\nvolumes = [\"data:/data\"]\nupdate = {{ strategy = \"start-first\" }}\n[volume.data]\nexclusive = true"
        );
        host.busybox_table("web", "exec sleep 1000", &more)
    };
    let (first, second) = (table("one"), table("two"));
    host.write("web.toml", &first);
    host.start_agent();
    host.converge();
    let before = host.container("web");
    host.write_renamed("web.toml", &second);
    until_replaced(&host, &before);
    let events = host.wharf(["events"]).ok().stdout;
    assert!(events.contains("volume data is exclusive"), "{events}");
}
