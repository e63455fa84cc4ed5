//! `container:NAME` for networks, processes and ipc.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use model::action::Instance;
use model::observed::{ObservedContainer, Phase};
use model::spec::{NamespaceMode, NetworkMode, RestartPolicy, RuntimeChoice};

use runtime::shim::files::process;

use super::shimhost::{Host, NOTHING, kill, lives_in, namespaces};
use super::{beside, container, said, until_said};

fn pid_namespace(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap()
}

/// Has one live in all of the other's namespaces.
fn join(i: &mut Instance, owner: &Instance) {
    let of_owner = NamespaceMode::Container(owner.name.clone());
    i.spec.network_mode = NetworkMode::Container(owner.name.clone());
    i.spec.pid = of_owner.clone();
    i.spec.ipc = of_owner;
    i.joins.net = Some(owner.id.clone());
    i.joins.pid = Some(owner.id.clone());
    i.joins.ipc = Some(owner.id.clone());
}

const OWNER: &str = "echo shared > /dev/shm/note; echo up; exec sleep 1000";
const SHARER: &str = "hostname; echo $HOSTNAME; cat /etc/hosts /etc/hostname /dev/shm/note; echo mine > /dev/shm/other; \
    tr '\\0' ' ' < /proc/1/cmdline; echo; ip link show lo | grep -c UP; echo up; sleep 1000 & exec sleep 1000";

fn check(owner_runtime: RuntimeChoice, sharer_runtime: RuntimeChoice) {
    let host = Host::new();
    let mut owner = container(&host, "db", OWNER);
    owner.spec.hostname = Some("the-db".to_owned());
    owner.spec.extra_hosts = [("git.example".to_owned(), "10.0.0.9".parse().unwrap())].into();
    owner.spec.runtime = owner_runtime;
    let mut sharer = container(&host, "side", SHARER);
    sharer.spec.runtime = sharer_runtime;
    // Prepared before it is known which container the owner is, as an agent may.
    join(&mut sharer, &owner);
    let joins = std::mem::take(&mut sharer.joins);
    host.runtime.prepare(&sharer).unwrap();
    sharer.joins = joins;
    let error = host.runtime.start(&sharer, &NOTHING).unwrap_err().to_string();
    assert!(
        error.contains("container db, whose network it shares, is not running"),
        "{error}"
    );

    host.start(&owner);
    until_said(&host, &owner, "up");
    host.start(&sharer);
    let text = until_said(&host, &sharer, "up\n");
    let (first, second) = (host.running(&owner), host.running(&sharer));
    assert_eq!(namespaces(first), namespaces(second));
    assert_eq!(pid_namespace(first), pid_namespace(second));
    assert!(host.runtime.netns(&owner.id).unwrap().is_some());
    let expected = "sleep 1000 \n1\nup\n";
    assert!(text.starts_with("the-db\nthe-db\n"), "{text}");
    assert!(
        text.contains("10.0.0.9\tgit.example\n") && text.contains("\nthe-db\nshared\n"),
        "{text}"
    );
    assert!(text.ends_with(expected), "{text}");
    let seen = beside(
        &host,
        &sharer,
        "hostname; echo $HOSTNAME; cat /dev/shm/note; tr '\\0' ' ' < /proc/1/cmdline",
    );
    assert_eq!(seen, "the-db\nthe-db\nshared\nsleep 1000 ");
    let note = format!("/proc/{first}/root/dev/shm/other");
    assert_eq!(fs::read_to_string(note).unwrap(), "mine\n");

    // It goes with all that is its own, and nothing of the owner's.
    host.runtime
        .stop(&sharer.id, "SIGKILL", Duration::from_secs(20))
        .unwrap();
    assert_eq!(host.running(&owner), first);
    let mut left = lives_in(&pid_namespace(first));
    // What was orphaned falls to the owner's first process, which may leave it unreaped.
    left.retain(|pid| process(*pid).is_some());
    assert_eq!(left, [first]);
    host.runtime.remove(&sharer.id, &sharer.name).unwrap();
    host.assert_gone(&sharer);
}

#[test]
fn a_container_lives_in_anothers_namespaces() {
    check(RuntimeChoice::Embedded, RuntimeChoice::Embedded);
}

#[test]
fn an_external_runtimes_container_lives_in_anothers_namespaces() {
    check(
        RuntimeChoice::Embedded,
        RuntimeChoice::External("runc".to_owned()),
    );
}

#[test]
fn another_external_runtimes_container_does_so_too() {
    check(
        RuntimeChoice::Embedded,
        RuntimeChoice::External("crun".to_owned()),
    );
}

#[test]
fn an_external_runtimes_namespaces_are_shared() {
    check(
        RuntimeChoice::External("runc".to_owned()),
        RuntimeChoice::Embedded,
    );
}

#[test]
fn sharers_of_processes_end_with_their_owner_and_find_its_next_run() {
    let host = Host::new();
    let mut owner = container(&host, "db", OWNER);
    owner.spec.restart.policy = RestartPolicy::Always;
    let mut sharer = container(&host, "side", "exec sleep 1000");
    sharer.spec.restart.policy = RestartPolicy::Always;
    sharer.spec.restart.backoff = Duration::from_millis(5);
    sharer.spec.restart.backoff_max = Duration::from_millis(20);
    join(&mut sharer, &owner);
    host.start(&owner);
    until_said(&host, &owner, "up");
    host.start(&sharer);
    host.running(&sharer);
    kill(host.state(&owner).payload.unwrap());
    host.until(&owner, "its second run", |seen| {
        seen.run_no == 2 && matches!(seen.phase, Phase::Running { .. })
    });
    host.until(&sharer, "it lives with the second run", |seen| match seen.phase {
        Phase::Running { pid } if seen.run_no > 1 => {
            let owner = host.state(&owner).payload.unwrap().pid;
            fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == pid_namespace(owner))
        }
        _ => false,
    });
    // Once its owner is gone, so is what it could begin in.
    host.runtime
        .stop(&owner.id, "SIGKILL", Duration::from_secs(20))
        .unwrap();
    let told = |seen: &ObservedContainer| {
        seen.last_exit
            .as_ref()
            .and_then(|e| e.error.clone())
            .unwrap_or_default()
    };
    // The last words of a run that its owner's end came into may be others.
    host.until(&sharer, "it says so", |seen| {
        told(seen).contains("container db, whose")
    });
    assert_eq!(said(&host, &sharer), "");
}

#[test]
fn the_hosts_ipc_is_shared() {
    let host = Host::new();
    let mut i = container(&host, "ipc", "ls -d /dev/shm /dev/mqueue; exec sleep 1000");
    i.spec.ipc = NamespaceMode::Host;
    host.start(&i);
    until_said(&host, &i, "/dev/mqueue\n/dev/shm\n");
    let own = namespaces(std::process::id());
    assert_eq!(namespaces(host.running(&i))[2], own[2]);
}
