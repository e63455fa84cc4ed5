//! Replicas on a real host: one port of several instances, names of those that are healthy, rolling changes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::status::{ContainerStatus, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::host::{ADDRESS, From};
use tests::{Host, http};

/// For what must come, on however busy a machine.
const LONG: Duration = Duration::from_secs(60);
/// Requests after which one of three that was never among those who answered gets nothing: (2/3)^80 is below 10^-14.
const TRIES: usize = 80;

const CHECK: &str = "[container.web.healthcheck]
http = { port = 80 }
interval = \"200ms\"
timeout = \"2s\"
retries = 3
start_interval = \"50ms\"
on_failure = \"none\"
";

fn table(host: &Host, replicas: u32, more: &str) -> String {
    let hello = host.hello_table("web", &["8080:80"]);
    format!("{hello}replicas = {replicas}\n{more}\n{CHECK}")
}

fn url() -> String {
    format!("http://{ADDRESS}:8080/")
}

/// The machine that answers, by its name.
fn answer(host: &Host) -> std::io::Result<String> {
    let page = http::get(&host.neighbour, &url())?;
    let name = page.body.split_whitespace().find(|word| word.starts_with("web"));
    Ok(name
        .unwrap_or(&page.body)
        .trim_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned())
}

/// Who answers, of many.
fn answering(host: &Host) -> BTreeSet<String> {
    (0..TRIES)
        .map(|_| answer(host).unwrap_or_else(|e| panic!("{e}\n{}", host.evidence())))
        .collect()
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|n| (*n).to_owned()).collect()
}

fn of<'s>(status: &'s Status, name: &str) -> Option<&'s ContainerStatus> {
    status.containers.iter().find(|c| c.name == name)
}

/// Waits until exactly these share the port.
fn until_shared(host: &Host, wanted: &[&str]) {
    let start = Instant::now();
    loop {
        let listing = host
            .ns
            .sh("nft list map inet wharf ports_any_slots; nft list map inet wharf ports_any");
        let there: BTreeSet<String> = listing
            .split('"')
            .filter_map(|part| part.split_once('@').map(|(name, _)| name.to_owned()))
            .collect();
        if there == names(wanted) {
            return;
        }
        assert!(
            start.elapsed() < LONG,
            "{there:?} share the port, not {wanted:?}\n{}",
            host.evidence()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn several_instances_share_a_port_and_the_one_that_hangs_gets_nothing() {
    let mut host = Host::new();
    host.write("web.toml", &table(&host, 3, ""));
    host.start_agent();
    let status = host.converge();
    let all = ["web", "web-2", "web-3"];
    for (name, number) in all.iter().zip(1..) {
        let shown = of(&status, name).unwrap();
        assert_eq!((shown.service.as_str(), shown.instance), ("web", number));
    }
    until_shared(&host, &all);
    assert_eq!(answering(&host), names(&all));
    // It hangs: whoever came to it would wait in vain.
    let pid = Pid::from_raw(i32::try_from(of(&status, "web-2").unwrap().pid.unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    until_shared(&host, &["web", "web-3"]);
    assert_eq!(answering(&host), names(&["web", "web-3"]));
    kill(pid, Signal::SIGCONT).unwrap();
    until_shared(&host, &all);
    assert_eq!(answering(&host), names(&all));
    // By hand.
    host.wharf(["stop", "web-3"]).ok();
    until_shared(&host, &["web", "web-2"]);
    host.wharf(["start", "web-3"]).ok();
    until_shared(&host, &all);
    // All of the service at once.
    host.wharf(["wait", "web", "--timeout", "60s"]).ok();
    let shown: Status = serde_json::from_str(&host.wharf(["status", "web", "--json"]).ok().stdout).unwrap();
    assert_eq!(shown.containers.len(), 3);
}

#[test]
fn names_of_a_service_lead_to_its_instances() {
    let mut host = Host::new();
    let client = host.busybox_table("client", "sleep 1000000", "");
    host.write("web.toml", &(table(&host, 3, "") + &client));
    host.start_agent();
    let status = host.converge();
    let ip = |name: &str| of(&status, name).unwrap().networks["default"].ip.clone().unwrap();
    let found = |name: &str| -> BTreeSet<String> {
        let said = host.wharf(["exec", "client", "nslookup", name]);
        let own = said.stdout.split("Name:").skip(1).collect::<String>();
        let words = own
            .split_whitespace()
            .filter(|w| w.parse::<std::net::Ipv4Addr>().is_ok());
        words.map(str::to_owned).collect()
    };
    let all: BTreeSet<String> = ["web", "web-2", "web-3"].iter().map(|n| ip(n)).collect();
    assert_eq!(found("web"), all);
    assert_eq!(found("web-1"), BTreeSet::from([ip("web")]));
    assert_eq!(found("web-3"), BTreeSet::from([ip("web-3")]));
    let pid = of(&status, "web-3").unwrap().pid.unwrap();
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGSTOP).unwrap();
    let start = Instant::now();
    while found("web") != BTreeSet::from([ip("web"), ip("web-2")]) {
        assert!(start.elapsed() < LONG, "{:?}\n{}", found("web"), host.evidence());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(found("web-3"), BTreeSet::from([ip("web-3")]));
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGCONT).unwrap();
}

#[test]
fn scaling_touches_nobody_else() {
    let mut host = Host::new();
    host.write("web.toml", &table(&host, 3, ""));
    host.start_agent();
    let first = host.converge();
    let (id, pid) = (
        of(&first, "web").unwrap().id.clone(),
        of(&first, "web").unwrap().pid,
    );
    host.write_renamed("web.toml", &table(&host, 1, ""));
    let status = host.until("one is left", |s| s.containers.len() == 1 && s.converged);
    assert_eq!(
        (
            of(&status, "web").unwrap().id.clone(),
            of(&status, "web").unwrap().pid
        ),
        (id.clone(), pid)
    );
    until_shared(&host, &["web"]);
    assert_eq!(answering(&host), names(&["web"]));
    host.write_renamed("web.toml", &table(&host, 2, ""));
    let status = host.until("two are there", |s| s.containers.len() == 2 && s.converged);
    assert_eq!(
        (
            of(&status, "web").unwrap().id.clone(),
            of(&status, "web").unwrap().pid
        ),
        (id, pid)
    );
    until_shared(&host, &["web", "web-2"]);
    assert_eq!(answering(&host), names(&["web", "web-2"]));
}

#[test]
fn a_rolling_change_keeps_the_port_answering() {
    let mut host = Host::new();
    host.write("web.toml", &table(&host, 3, "env = { V = \"1\" }"));
    host.start_agent();
    let before = host.converge();
    until_shared(&host, &["web", "web-2", "web-3"]);
    host.write_renamed("web.toml", &table(&host, 3, "env = { V = \"2\" }"));
    let mut lost: Vec<String> = Vec::new();
    let start = Instant::now();
    loop {
        lost.extend(answer(&host).err().map(|e| e.to_string()));
        let status = host.status();
        let up = status.containers.iter().filter(|c| c.health == "healthy").count();
        assert!(up >= 2, "only {up} of 3 are up at a time\n{}", host.evidence());
        let replaced = |c: &&ContainerStatus| of(&before, &c.name).is_some_and(|b| b.id != c.id);
        if status.converged && status.containers.iter().filter(replaced).count() == 3 {
            break;
        }
        assert!(start.elapsed() < LONG, "{}", host.evidence());
    }
    // Nobody is led to one that is not there. A request that one of the three was just answering when it was told to
    // stop may be cut off: this program leaves at once.
    assert!(lost.len() <= 3, "{lost:?}");
    until_shared(&host, &["web", "web-2", "web-3"]);
    assert_eq!(answering(&host), names(&["web", "web-2", "web-3"]));
}

#[test]
fn a_change_that_fails_is_tried_on_one_alone() {
    let mut host = Host::new();
    host.write("web.toml", &table(&host, 3, ""));
    host.start_agent();
    host.converge();
    host.expect_error("no-such-program");
    host.write_renamed(
        "web.toml",
        &table(&host, 3, "entrypoint = [\"/no-such-program\"]"),
    );
    let told = |c: &ContainerStatus| {
        c.error
            .as_ref()
            .is_some_and(|e| e.contains("the change failed on container web"))
    };
    let status = host.until("the others say why they stay", |s| {
        s.containers.iter().filter(|c| told(c)).count() == 2
    });
    assert!(!status.converged);
    until_shared(&host, &["web", "web-2", "web-3"]);
    assert_eq!(host.http_get(From::Neighbour, &url()).status, 200);
    assert_eq!(answering(&host), names(&["web", "web-2", "web-3"]));
}

/// A config that the instances are restarted for.
fn config(text: &str) -> String {
    format!("[config.site]\ncontent = \"{text}\"\ntarget = \"/etc/site\"\n")
}

#[test]
fn a_changed_config_restarts_one_instance_after_the_other() {
    let mut host = Host::new();
    let web = table(&host, 3, "configs = [\"site\"]");
    host.write("web.toml", &(web.clone() + &config("one")));
    host.start_agent();
    let before = host.converge();
    until_shared(&host, &["web", "web-2", "web-3"]);
    host.write_renamed("web.toml", &(web + &config("two")));
    let start = Instant::now();
    loop {
        let status = host.status();
        let up = status.containers.iter().filter(|c| c.health == "healthy").count();
        assert!(up >= 2, "only {up} of 3 are up at a time\n{}", host.evidence());
        let same = |c: &ContainerStatus| of(&before, &c.name).is_some_and(|b| b.id == c.id);
        assert!(status.containers.iter().all(same), "{}", host.evidence());
        let restarted =
            |c: &&ContainerStatus| c.pid.is_some() && of(&before, &c.name).is_some_and(|b| b.pid != c.pid);
        if status.converged && status.containers.iter().filter(restarted).count() == 3 {
            break;
        }
        assert!(start.elapsed() < LONG, "{}", host.evidence());
    }
    until_shared(&host, &["web", "web-2", "web-3"]);
    assert_eq!(answering(&host), names(&["web", "web-2", "web-3"]));
    // Which is whose is a label of each.
    let said = host.wharf(["inspect", "web-2"]).ok().stdout;
    let inspected: serde_json::Value = serde_json::from_str(&said).unwrap();
    let labels = &inspected[0]["Config"]["Labels"];
    assert_eq!(
        (&labels["wharf.service"], &labels["wharf.instance"]),
        (&"web".into(), &"2".into()),
        "{labels}"
    );
}
