//! Drift of what wharf itself lives by: directories, control groups, state files, the ledger, volumes. It comes back, says
//! what it found, and whoever is not concerned keeps running.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use model::event::Event;
use model::status::Status;
use tests::client::pids;
use tests::{From, Host, cgroups, process};

/// `web` publishes a port, `box` has a volume.
fn with_two() -> Host {
    let mut host = Host::new();
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    let volume = "volumes = [\"data:/data\"]\nlimits.pids = 50\n";
    host.write("box.toml", &host.busybox_table("box", "exec sleep 1000", volume));
    host.start_agent();
    host.converge();
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    host
}

fn state_of(host: &Host, name: &str) -> PathBuf {
    let id = host.container(name).id.unwrap();
    host.state_dir().join("containers").join(id)
}

fn run_of(host: &Host, name: &str) -> PathBuf {
    let id = host.container(name).id.unwrap();
    host.run_dir().join("containers").join(id)
}

fn events(host: &Host) -> Vec<Event> {
    let said = host.wharf(["events", "--json"]).ok().stdout;
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits for an event like this one.
fn until_event(host: &Host, kind: &str, name: &str, what: &str, reason: &str) {
    host.until(&format!("event {kind} {name} {what}: {reason}"), |_| {
        events(host).iter().any(|e| {
            (e.kind.as_str(), e.name.as_str(), e.what.as_str()) == (kind, name, what)
                && e.reason.contains(reason)
        })
    });
}

fn set_asides(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    names
        .filter(|n| n.to_string_lossy().contains(".damaged-"))
        .count()
}

fn inside(host: &Host, line: &str) -> String {
    host.wharf(["exec", "box", "sh", "-c", line]).ok().stdout
}

#[test]
fn a_removed_writable_layer_costs_that_container_a_restart_and_nobody_else() {
    let host = with_two();
    let before = pids(&host.status());
    inside(&host, "echo gone > /file");
    fs::remove_dir_all(state_of(&host, "box").join("upper")).unwrap();
    let after = host.until("started again", |s| {
        s.converged && pids(s).get("box").is_some_and(|pid| *pid != before["box"])
    });
    assert_eq!(pids(&after)["web"], before["web"]);
    assert_eq!(
        inside(&host, "test -e /file || echo fresh > /other; cat /other"),
        "fresh\n"
    );
    until_event(&host, "container", "box", "stop", "writable layer's directory");
}

#[test]
fn a_removed_directory_of_a_container_costs_it_a_restart() {
    let host = with_two();
    let before = pids(&host.status());
    for dir in [state_of(&host, "box"), run_of(&host, "web")] {
        // At once: the agent is quick, and what it makes anew is not to be removed as well.
        let aside = host.dir().join("aside");
        fs::rename(dir, &aside).unwrap();
        fs::remove_dir_all(aside).unwrap();
    }
    host.until("started again", |s| {
        let now = pids(s);
        s.converged && now.len() == 2 && now.iter().all(|(name, pid)| before[name] != *pid)
    });
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    assert_eq!(inside(&host, "echo ok > /file; cat /file"), "ok\n");
}

#[test]
fn slow_files_of_a_container_that_were_deleted_or_scribbled_over_are_written_again_in_place() {
    let host = with_two();
    let before = pids(&host.status());
    let (state, run) = (state_of(&host, "box"), run_of(&host, "box"));
    let files = [
        state.join("container.json"),
        run.join("config.json"),
        run.join("wharf.json"),
        run.join("shim.json"),
        run.join("state.json"),
    ];
    let well = |path: &Path| {
        fs::read(path).is_ok_and(|text| serde_json::from_slice::<serde_json::Value>(&text).is_ok())
    };
    for path in &files {
        fs::remove_file(path).unwrap();
        host.until(&format!("{} again", path.display()), |s| {
            s.converged && well(path)
        });
        fs::write(path, "scribble").unwrap();
        host.until(&format!("{} whole", path.display()), |s| {
            s.converged && well(path)
        });
    }
    assert_eq!(set_asides(&state) + set_asides(&run), files.len());
    fs::write(state.join("run.json"), "scribble").unwrap();
    host.until("set aside", |_| set_asides(&state) == 2);
    fs::remove_dir_all(state.join("log")).unwrap();
    host.until("a log again", |_| state.join("log").is_dir());
    assert_eq!(pids(&host.converge()), before);
    until_event(&host, "container", "box", "repair", "config.json");
    // What was written again is what the next run is made of.
    host.wharf(["restart", "box"]).ok();
    host.converge();
    // Its shell becomes that a moment later.
    host.until("its program runs", |_| {
        inside(&host, "cat /proc/1/comm") == "sleep\n"
    });
}

#[test]
fn a_shim_without_its_lock_file_or_socket_is_found() {
    let host = with_two();
    let before = pids(&host.status());
    fs::remove_file(run_of(&host, "web").join("shim.lock")).unwrap();
    host.wharf(["reload"]).ok();
    assert_eq!(pids(&host.converge()), before, "it is known by its process");
    fs::remove_file(run_of(&host, "box").join("shim.sock")).unwrap();
    let after = host.until("started again", |s| {
        s.converged && pids(s).get("box").is_some_and(|pid| *pid != before["box"])
    });
    assert_eq!(pids(&after)["web"], before["web"]);
    assert_eq!(inside(&host, "echo reached"), "reached\n");
}

/// Moves a process out of its groups, wherever it is in one, into groups of the test's own beside them.
fn move_out(host: &Host, pid: u32) {
    let own = cgroups::below(host.cgroup_parent());
    for payload in own.iter().filter(|group| group.ends_with("payload")) {
        let procs = fs::read_to_string(payload.join("cgroup.procs")).unwrap();
        if procs.lines().any(|line| line == pid.to_string()) {
            let elsewhere = payload.parent().unwrap().with_file_name("elsewhere");
            fs::create_dir_all(&elsewhere).unwrap();
            fs::write(elsewhere.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }
}

fn is_in_its_group(host: &Host, name: &str) -> bool {
    let c = host.container(name);
    let text = fs::read_to_string(format!("/proc/{}/cgroup", c.pid.unwrap())).unwrap();
    let own = format!("/{name}-{}/payload", &c.id.unwrap()[..12]);
    text.contains(&own) && !text.contains("/elsewhere")
}

#[test]
fn processes_moved_out_of_their_control_group_are_moved_back() {
    let host = with_two();
    let before = pids(&host.status());
    move_out(&host, before["box"]);
    // On v1 the kernel tells nobody.
    host.wharf(["reload"]).ok();
    host.until("back", |_| is_in_its_group(&host, "box"));
    assert_eq!(pids(&host.converge()), before);
    until_event(
        &host,
        "container",
        "box",
        "repair",
        "moved out of their control group",
    );
}

#[test]
fn a_removed_control_group_is_made_again_with_its_limits() {
    let host = with_two();
    let before = pids(&host.status());
    move_out(&host, before["box"]);
    let own = format!("box-{}/payload", &host.container("box").id.unwrap()[..12]);
    let groups = cgroups::below(host.cgroup_parent());
    for group in groups.iter().rev().filter(|g| g.ends_with(&own)) {
        // The agent may have moved it back already.
        drop(fs::remove_dir(group));
    }
    host.wharf(["reload"]).ok();
    host.until("back", |_| is_in_its_group(&host, "box"));
    let limited = cgroups::below(host.cgroup_parent()).into_iter().any(|group| {
        group.ends_with(&own)
            && fs::read_to_string(group.join("pids.max")).is_ok_and(|max| max.trim() == "50")
    });
    assert!(limited, "its limit of processes is in force");
    assert_eq!(pids(&host.converge()), before);
    // The one that was made is watched as the one before: on v2 nobody has to ask for a look.
    move_out(&host, before["box"]);
    host.until("back without being asked", |_| is_in_its_group(&host, "box"));
}

#[test]
fn route_localnet_turned_off_comes_back_though_the_kernel_tells_nobody() {
    let host = with_two();
    let before = pids(&host.status());
    let bridge = host.status().networks[0].device.clone();
    let setting = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
    host.ns.sh(&format!("echo 0 > {setting}"));
    host.until("on again", |_| {
        host.ns.sh(&format!("cat {setting}")).trim() == "1"
    });
    host.http_get(From::Host, "http://127.0.0.1:8080/");
    assert_eq!(pids(&host.converge()), before);
    until_event(&host, "network", "default", "repair", "");
}

#[test]
fn a_killed_name_server_comes_back_and_says_so() {
    let host = with_two();
    let before = pids(&host.status());
    let server = process::of_host(&host.run_dir(), host.cgroup_parent())
        .into_iter()
        .find(|p| p.command.contains("wharf dns"))
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    until_event(&host, "dns", "", "repair", "does not run");
    assert!(inside(&host, "nslookup web").contains("Address"));
    assert_eq!(pids(&host.converge()), before);
}

fn box_error(status: &Status) -> Option<&str> {
    let row = status.containers.iter().find(|c| c.name == "box");
    row?.error.as_deref()
}

#[test]
fn a_removed_volume_is_made_again_and_said_to_be_lost_until_its_container_is_restarted() {
    let host = with_two();
    let before = pids(&host.status());
    inside(&host, "echo precious > /data/file");
    let data = host.state_dir().join("volumes/data/_data");
    fs::remove_dir_all(&data).unwrap();
    let told = |s: &Status| box_error(s).is_some() && s.volumes.iter().any(|v| v.error.is_some());
    let lost = host.until("made again", |s| data.is_dir() && told(s));
    assert_eq!(pids(&lost), before, "what it has open is the last there is of it");
    assert!(
        box_error(&lost).unwrap().contains("wharf restart box"),
        "{lost:#?}"
    );
    let volume = lost.volumes.iter().find(|v| v.name == "data").unwrap();
    assert!(
        volume.error.as_ref().unwrap().contains("data is gone"),
        "{volume:?}"
    );
    assert!(!lost.converged);
    until_event(&host, "volume", "data", "error", "data is gone");
    host.wharf(["restart", "box"]).ok();
    let well = host.converge();
    assert_eq!(pids(&well)["web"], before["web"]);
    assert_eq!(
        well.volumes.iter().find(|v| v.name == "data").unwrap().error,
        None
    );
    assert_eq!(inside(&host, "echo new > /data/file; cat /data/file"), "new\n");
    assert!(data.join("file").exists());
}

#[test]
fn a_ledger_deleted_or_scribbled_over_under_an_agent_is_written_again() {
    let mut host = with_two();
    host.expect_error("the ledger");
    let before = host.status();
    let ledger = host.state_dir().join("ledger.json");
    let well =
        || fs::read(&ledger).is_ok_and(|t| serde_json::from_slice::<model::ledger::Ledger>(&t).is_ok());
    fs::remove_file(&ledger).unwrap();
    host.until("there again", |_| well());
    fs::write(&ledger, "scribble").unwrap();
    host.until("whole again", |_| well());
    assert_eq!(set_asides(&host.state_dir()), 1);
    until_event(&host, "agent", "ledger", "repair", "somebody else wrote");
    assert_eq!(host.converge().containers, before.containers);
}

#[test]
fn without_its_ledger_the_next_agent_takes_back_what_runs() {
    let mut host = with_two();
    host.expect_error("the ledger");
    let before = host.status();
    let ledger = host.state_dir().join("ledger.json");
    let damages: [fn(&Path); 2] = [
        |ledger| fs::remove_file(ledger).unwrap(),
        |ledger| fs::write(ledger, "\0\0\0\0").unwrap(),
    ];
    for damage in damages {
        host.kill_agent();
        damage(&ledger);
        host.start_agent();
        let after = host.converge();
        assert_eq!(
            after.containers, before.containers,
            "same addresses, same processes"
        );
        host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
    }
    // After a boot there is only the copy on disk.
    host.reboot();
    fs::remove_file(&ledger).unwrap();
    host.start_agent();
    let after = host.converge();
    let leases = |s: &Status| -> Vec<_> {
        s.containers
            .iter()
            .map(|c| (c.id.clone(), c.networks.clone()))
            .collect()
    };
    assert_eq!(leases(&after), leases(&before));
    assert_eq!(set_asides(&host.state_dir()), 1);
}

#[test]
fn without_anything_of_its_ledger_it_comes_up_and_says_so() {
    let mut host = with_two();
    host.expect_error("the ledger");
    host.kill_agent();
    for copy in ["state/ledger.json", "state/ledger.copy.json", "run/ledger.json"] {
        fs::write(host.dir().join(copy), "{").unwrap();
    }
    host.start_agent();
    until_event(&host, "agent", "ledger", "repair", "made anew");
    host.until("all anew", |s| s.converged && pids(s).len() == 2);
    host.http_get(From::Neighbour, "http://192.0.2.1:8080/");
}

#[test]
fn a_deleted_layer_is_unpacked_again() {
    let host = with_two();
    let before = pids(&host.status());
    let layers = host.state_dir().join("store/layers");
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&layers).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let all = names();
    for name in &all {
        fs::remove_dir_all(layers.join(name)).unwrap();
    }
    host.until("all there again", |s| s.converged && names() == all);
    assert_eq!(pids(&host.converge()), before, "nobody is restarted for it");
    host.wharf(["restart", "box"]).ok();
    host.converge();
    assert_eq!(inside(&host, "echo whole"), "whole\n");
}

#[test]
fn damaged_image_records_are_set_aside_and_nobody_is_restarted() {
    let mut host = with_two();
    let before = pids(&host.status());
    host.kill_agent();
    let store = host.state_dir().join("store");
    for entry in fs::read_dir(store.join("images")).unwrap() {
        fs::write(entry.unwrap().path(), "scribble").unwrap();
    }
    host.start_agent();
    let after = host.converge();
    assert_eq!(pids(&after), before);
    assert_eq!(fs::read_dir(store.join("damaged")).unwrap().count(), 2);
    assert!(after.images.iter().all(|i| i.id.is_some()), "{:?}", after.images);
}
