//! What a change does, and what it leaves alone.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use tests::client::pids;
use tests::{From, Host, http};

fn table(host: &Host, n: usize, more: &str) -> String {
    host.hello_table(&format!("c{n:02}"), &[&format!("{}:80", 8000 + n)]) + more
}

/// `count` containers, one file each.
fn many(count: usize) -> (Host, BTreeMap<String, u32>) {
    let mut host = Host::new();
    for n in 0..count {
        host.write(&format!("c{n:02}.toml"), &table(&host, n, ""));
    }
    host.start_agent();
    let pids = pids(&host.converge());
    assert_eq!(pids.len(), count);
    (host, pids)
}

/// What differs, by name.
fn changed(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) -> Vec<String> {
    let names = before.keys().chain(after.keys());
    let mut changed: Vec<String> = names
        .filter(|n| before.get(*n) != after.get(*n))
        .cloned()
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

fn reload_and_pids(host: &Host) -> BTreeMap<String, u32> {
    host.wharf(["reload"]).ok();
    pids(&host.converge())
}

#[test]
fn slow_editing_one_of_fifty_keeps_the_other_forty_nine() {
    let (host, before) = many(50);
    for n in [0, 49] {
        host.http_get(From::Neighbour, &format!("http://192.0.2.1:{}/", 8000 + n));
    }
    host.write_renamed("c07.toml", &table(&host, 7, "env = { EDITED = \"yes\" }\n"));
    let after = reload_and_pids(&host);
    assert_eq!(changed(&before, &after), ["c07"]);
    host.http_get(From::Neighbour, "http://192.0.2.1:8007/");
    host.remove("c08.toml");
    host.until("c08 gone", |s| s.containers.len() == 49);
    assert_eq!(changed(&after, &reload_and_pids(&host)), ["c08"]);
    host.remove_all();
    host.until("all gone", |s| s.containers.is_empty());
}

#[test]
fn what_does_not_matter_changes_nothing() {
    let (host, before) = many(3);
    let image = host.hello_image();
    let generation = host.status().generation;
    // Comments, order, spelling.
    host.write(
        "c00.toml",
        &format!("# a word\n[container.c00]\nports = ['8000:80']\n\nimage = '{image}' # same\n"),
    );
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    // Moved to another file, together with another one's.
    host.write("all.toml", &(table(&host, 1, "") + &table(&host, 2, "")));
    host.remove("c01.toml");
    host.remove("c02.toml");
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    let status = host.until("moved", |s| {
        s.containers
            .iter()
            .all(|c| c.name == "c00" || c.file.as_deref() == Some("all.toml"))
    });
    assert!(status.errors.is_empty(), "{:?}", status.errors);
    assert_eq!(
        status.generation, generation,
        "nothing was accepted that was not there before"
    );
}

#[test]
fn ports_and_labels_change_on_the_running_container() {
    let (host, before) = many(2);
    host.write(
        "c00.toml",
        &(host.hello_table("c00", &["8500:80", "8501:80/udp"]) + "labels = { tier = \"front\" }\n"),
    );
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    host.http_get(From::Neighbour, "http://192.0.2.1:8500/");
    host.http_get(From::Host, "http://127.0.0.1:8500/");
    assert!(http::ask_udp(&host.neighbour, "192.0.2.1:8501", "?").is_ok());
    assert!(
        !http::reaches(&host.neighbour, "192.0.2.1:8000"),
        "the port before is closed"
    );
    // A port moves from one running container to another.
    host.write("c00.toml", &host.hello_table("c00", &["8001:80"]));
    host.write("c01.toml", &host.hello_table("c01", &["8500:80"]));
    assert_eq!(changed(&before, &reload_and_pids(&host)), [""; 0]);
    assert!(
        host.http_get(From::Neighbour, "http://192.0.2.1:8500/")
            .body
            .contains("hello from")
    );
}

#[test]
fn the_plan_says_what_it_would_do_and_does_nothing() {
    let (host, before) = many(1);
    let converged = host.wharf(["plan"]);
    assert_eq!(converged.code, 0, "{converged:?}");
    host.wharf(["stop", "c00"]).ok();
    assert_eq!(host.wharf(["plan"]).code, 0, "a hold is as wished");
    host.wharf(["start", "c00"]).ok();
    let after = pids(&host.converge());
    assert_eq!(changed(&before, &after), ["c00"]);
}
