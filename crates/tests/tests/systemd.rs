//! The agent as a service of systemd (INTERFACE §5), on a machine of namespaces that systemd runs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use model::status::{ContainerStatus, State, Status};
use tests::SystemdHost;
use tests::binary::{self, repository};
use tests::images::busybox;

/// `[container.NAME]` of a shell that, asked to stop by its own signal, takes a moment, says so, and goes.
fn witness(host: &SystemdHost, name: &str, needs: &[&str]) -> String {
    let image = host.oci_dir("busybox", &busybox());
    let script = "trap 'sleep 0.3; echo gone; exit 0' USR1; echo ready; while :; do sleep 0.05; done";
    format!(
        "[container.{name}]\nimage = {image:?}\ncommand = [\"sh\", \"-c\", {script:?}]\nstop_signal = \"SIGUSR1\"\n\
         depends_on = {needs:?}\n"
    )
}

/// Who said this word, in the order of the times. Read from their logs, so also while the machine is off.
fn said(host: &SystemdHost, before: &Status, word: &str) -> Vec<String> {
    let mut all = Vec::new();
    for row in &before.containers {
        let dir = host.state_dir().join("containers").join(row.id.as_ref().unwrap());
        let text = fs::read_to_string(dir.join("log/container.log")).unwrap_or_default();
        // The last line may be half written.
        let lines = text
            .lines()
            .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        let times = lines.filter(|l| l["log"] == format!("{word}\n"));
        all.extend(times.map(|l| (l["time"].as_str().unwrap().to_owned(), row.name.clone())));
    }
    all.sort();
    all.into_iter().map(|(_, name)| name).collect()
}

/// Starts the agent, and waits until every witness listens, for the `times`th time.
fn start_witnesses(host: &SystemdHost, times: usize) -> Status {
    let status = host.start_wharf();
    host.until("witnesses", |h| {
        said(h, &status, "ready").len() == times * status.containers.len()
    });
    status
}

fn short_id(row: &ContainerStatus) -> &str {
    &row.id.as_ref().expect("it was created")[..12]
}

fn group_of(host: &SystemdHost, pid: &str) -> String {
    // The machine below may have v1 hierarchies as well; the host does not see them.
    host.sh(&format!("sed -n s/^0:://p /proc/{pid}/cgroup"))
}

/// Pids on the host, by its own count, of the processes of wharf with this first argument.
fn processes(host: &SystemdHost, what: &str) -> Vec<String> {
    let found = host.run("pgrep", &["-f", &format!("^wharf {what}")]);
    found.stdout.lines().map(str::to_owned).collect()
}

const SCOPE: &str = "/wharf.slice/wharf-containers.scope";

#[test]
fn slow_the_service_serves_and_its_end_touches_no_container() {
    let host = SystemdHost::new();
    host.write("web.toml", &host.hello_table("web", 8080));
    let web = host.start_wharf().containers[0].clone();
    assert!(host.page(8080).body.starts_with("hello from web"));
    assert_eq!(
        host.property("wharf", "StatusText"),
        "1 of 1 containers as declared"
    );
    host.sh("systemctl is-enabled wharf.service wharf.socket");
    let found = host.run(
        "systemd-analyze",
        &[
            "verify",
            "--man=no",
            "wharf.service",
            "wharf.socket",
            "wharf.slice",
        ],
    );
    assert_eq!((found.code, found.stderr.as_str()), (0, ""), "{found:?}");

    // The shim and its payload live in the scope, under the eyes of the process that keeps it, and in no other group.
    let group = format!("{SCOPE}/web-{}", short_id(&web));
    let shims = processes(&host, "shim");
    assert_eq!(shims.len(), 1);
    assert_eq!(group_of(&host, &shims[0]), format!("{group}/shim"));
    assert_eq!(
        group_of(&host, &web.pid.unwrap().to_string()),
        format!("{group}/payload")
    );
    let holds = processes(&host, "hold");
    assert_eq!(holds.len(), 1);
    assert_eq!(group_of(&host, &holds[0]), format!("{SCOPE}/hold"));
    let agent = host.property("wharf", "MainPID");
    // The name server is taken along to the scope.
    host.until("the agent is alone in its group", |h| {
        h.sh("cat /sys/fs/cgroup/system.slice/wharf.service/cgroup.procs") == agent
    });
    for dns in processes(&host, "dns") {
        assert_eq!(group_of(&host, &dns), format!("{SCOPE}/dns"));
    }
    // What systemd gave the agent is for the agent alone.
    for pid in [&shims[0], &holds[0], &web.pid.unwrap().to_string()] {
        let given = host.sh(&format!("tr '\\0' '\\n' </proc/{pid}/environ"));
        let leaked = |name: &&str| given.lines().any(|line| line.starts_with(*name));
        let names = [
            "NOTIFY_SOCKET",
            "WATCHDOG_",
            "LISTEN_",
            "INVOCATION_ID",
            "JOURNAL_STREAM",
        ];
        assert_eq!(names.iter().find(|n| leaked(n)), None, "{given}");
    }

    host.sh("systemctl restart wharf");
    assert_eq!(
        host.container("web").pid,
        web.pid,
        "restarted: {}",
        host.evidence()
    );
    assert!(host.page(8080).body.starts_with("hello from web"));
    let second = host.property("wharf", "MainPID");
    assert_ne!(second, agent);

    host.sh(&format!("kill -9 {second}"));
    assert!(host.page(8080).body.starts_with("hello from web"));
    host.until("another agent", |h| {
        let now = h.property("wharf", "MainPID");
        now != "0" && now != second && h.property("wharf", "ActiveState") == "active"
    });
    host.converge();
    assert_eq!(host.container("web").pid, web.pid);
    assert_eq!(processes(&host, "hold"), holds);

    host.sh("systemctl reload wharf");
    host.sh(&format!("kill -HUP {}", host.property("wharf", "MainPID")));
    host.until("ready again", |h| h.property("wharf", "ActiveState") == "active");
    assert_eq!(host.container("web").pid, web.pid);
}

#[test]
fn slow_the_watchdog_ends_an_agent_that_hangs() {
    let host = SystemdHost::with_settings("WatchdogSec=10s");
    host.write("web.toml", &host.hello_table("web", 8080));
    let web = host.start_wharf().containers[0].clone();
    let agent = host.property("wharf", "MainPID");
    host.sh(&format!("kill -STOP {agent}"));
    assert!(
        host.page(8080).body.starts_with("hello from web"),
        "nobody needs the agent for that"
    );
    host.until("another agent", |h| {
        let now = h.property("wharf", "MainPID");
        now != "0" && now != agent && h.property("wharf", "ActiveState") == "active"
    });
    host.converge();
    assert_eq!(host.container("web").pid, web.pid);
    assert!(host.journal().contains("Watchdog timeout"), "{}", host.journal());
}

#[test]
fn slow_after_a_power_cut_everything_is_up_again() {
    let mut host = SystemdHost::new();
    let web = host.hello_table("web", 8080) + "depends_on = { other = \"healthy\" }\n";
    let check = "[container.other.healthcheck]\nhttp = { port = 80 }\nstart_interval = \"50ms\"\n";
    host.write("web.toml", &web);
    host.write("other.toml", &(host.hello_table("other", 8081) + check));
    let before = host.start_wharf();
    host.page(8080);
    host.crash();
    // While it was off: what a restart of the machine finds is what the directory says by then.
    host.write("third.toml", &host.hello_table("third", 8082));
    host.boot();
    host.until("the agent", |h| h.property("wharf", "ActiveState") == "active");
    let after = host.converge();
    for (port, name) in [(8080, "web"), (8081, "other"), (8082, "third")] {
        assert!(host.page(port).body.starts_with(&format!("hello from {name}")));
    }
    for row in &before.containers {
        let now = after.containers.iter().find(|c| c.name == row.name).unwrap();
        assert_eq!(now.id, row.id, "the same container, started again");
        assert_eq!(now.state, State::Running);
    }
    let began = |name: &str| {
        after
            .containers
            .iter()
            .find(|c| c.name == name)
            .unwrap()
            .started_at
    };
    assert!(began("other") < began("web"), "{after:#?}");
    assert_eq!(processes(&host, "shim").len(), 3);
}

#[test]
fn slow_a_stopped_agent_is_started_by_the_use_of_its_socket() {
    let host = SystemdHost::new();
    host.write("web.toml", &host.hello_table("web", 8080));
    let web = host.start_wharf().containers[0].clone();
    assert_eq!(
        host.sh("stat -c '%a %U:%G' /run/wharf/wharf.sock"),
        "660 root:wharf"
    );

    host.sh("systemctl stop wharf 2>/dev/null");
    assert_eq!(host.property("wharf", "ActiveState"), "inactive");
    assert!(
        host.page(8080).body.starts_with("hello from web"),
        "containers go on"
    );
    host.sh(&format!("kill -0 {}", web.pid.unwrap()));
    // A file that is written meanwhile is found by the agent that is started by being asked.
    host.write("other.toml", &host.hello_table("other", 8081));
    assert_eq!(host.wharf(&["wait", "other"]).ok().code, 0);
    assert_eq!(host.property("wharf", "ActiveState"), "active");
    assert_eq!(host.container("web").pid, web.pid);
    assert!(host.page(8081).body.starts_with("hello from other"));
}

#[test]
fn slow_a_stopped_scope_ends_all_containers_in_order_and_leaves_nothing() {
    let host = SystemdHost::new();
    for (name, needs) in [("a", &["c"][..]), ("b", &[]), ("c", &["b"])] {
        host.write(&format!("{name}.toml"), &witness(&host, name, needs));
    }
    let rows = start_witnesses(&host, 1);
    host.sh("systemctl stop wharf 2>/dev/null");
    host.sh("systemctl stop wharf-containers.scope");
    let order = ["a", "c", "b"];
    assert_eq!(
        said(&host, &rows, "gone"),
        order,
        "each by its own stop signal, dependants first"
    );
    assert_eq!(host.run("pgrep", &["-f", "^wharf"]).stdout, "");
    assert_ne!(
        host.run("test", &["-e", &format!("/sys/fs/cgroup{SCOPE}")]).code,
        0
    );
    assert_eq!(host.property("wharf-containers.scope", "ActiveState"), "inactive");

    // And with the agent running: it is stopped first, and starts nothing again.
    start_witnesses(&host, 2);
    host.sh("systemctl stop wharf-containers.scope 2>/dev/null");
    assert_eq!(said(&host, &rows, "gone")[3..], order);
    assert_eq!(host.property("wharf", "ActiveState"), "inactive");
    assert_eq!(host.run("pgrep", &["-f", "^wharf"]).stdout, "");
}

#[test]
fn slow_a_shutdown_gives_containers_their_own_signal_and_time() {
    let mut host = SystemdHost::new();
    host.write("a.toml", &witness(&host, "a", &[]));
    let before = start_witnesses(&host, 1);
    host.power_off();
    assert_eq!(said(&host, &before, "gone"), ["a"]);
    host.boot();
    host.until("the agent", |h| h.property("wharf", "ActiveState") == "active");
    assert_eq!(host.converge().containers[0].state, State::Running);
}

#[test]
fn slow_the_scope_is_made_again_when_all_in_it_was_killed() {
    let host = SystemdHost::new();
    host.write("web.toml", &host.hello_table("web", 8080));
    host.start_wharf();
    let hold = processes(&host, "hold");
    // Its keeper alone: the containers keep the scope, and another one takes its place.
    host.sh(&format!("kill -9 {}", hold.join(" ")));
    host.sh("systemctl restart wharf");
    let second = processes(&host, "hold");
    assert_eq!(second.len(), 1);
    assert_ne!(second, hold);
    assert_eq!(group_of(&host, &second[0]), format!("{SCOPE}/hold"));
    // All of it, which systemd may or may not take for the end of the scope.
    let before = host.container("web").pid.unwrap();
    host.sh("systemctl kill --signal=KILL wharf-containers.scope");
    host.until("another run", |h| {
        h.container("web").pid.is_some_and(|pid| pid != before)
    });
    host.converge();
    assert!(host.page(8080).body.starts_with("hello from web"));
    assert_eq!(host.property("wharf-containers.scope", "ActiveState"), "active");
    assert_eq!(host.property("wharf-containers.scope", "ControlGroup"), SCOPE);
    assert_eq!(processes(&host, "hold").len(), 1);
}

#[test]
fn slow_a_scope_that_ended_is_made_again() {
    let host = SystemdHost::new();
    host.start_wharf();
    let invocation = host.property("wharf-containers.scope", "InvocationID");
    // Nothing else is in it.
    host.sh("systemctl kill --signal=KILL wharf-containers.scope");
    // By then the agent may have made it again.
    host.until("the end of the scope", |h| {
        h.property("wharf-containers.scope", "ActiveState") != "active"
            || h.property("wharf-containers.scope", "InvocationID") != invocation
    });
    host.write("web.toml", &host.hello_table("web", 8080));
    assert!(host.page(8080).body.starts_with("hello from web"));
    assert_ne!(
        host.property("wharf-containers.scope", "InvocationID"),
        invocation
    );
    assert_eq!(processes(&host, "hold").len(), 1);
}

/// A secret by `LoadCredential=`, which is at `/srv/key` of the machine.
fn secret_table(host: &SystemdHost) -> String {
    let image = host.oci_dir("busybox", &busybox());
    format!(
        "[container.web]\nimage = {image:?}\ncommand = [\"sleep\", \"100000\"]\nstop_grace_period = \"0s\"\n\
         secrets = [\"tls_key\"]\n\
         [secret.tls_key]\ncredential = \"key\"\nmode = \"0440\"\nuid = 101\ngid = 102\n"
    )
}

/// The container sees these bytes, as its table says; they are in memory, and nowhere else on the machine.
fn has_secret(host: &SystemdHost, secret: &str) {
    let inside = |line: &str| host.wharf(&["exec", "web", "sh", "-c", line]).ok().stdout;
    assert_eq!(inside("cat /run/secrets/tls_key"), secret);
    assert_eq!(
        inside("stat -c '%a %u %g' /run/secrets/tls_key; stat -f -c %T /run/secrets/tls_key"),
        "440 101 102\ntmpfs\n"
    );
    assert_ne!(
        host.run("findmnt", &["-n", "-t", "tmpfs", "-T", "/run/wharf"])
            .stdout,
        ""
    );
    assert_eq!(host.sh(&format!("grep -rlF {secret} /run/wharf | wc -l")), "1");
    kept_nowhere(host, secret);
    let journal = host.run("journalctl", &["--no-pager", "-o", "json"]).stdout;
    assert!(!journal.contains(secret));
    for said in [&["status", "--json"][..], &["inspect", "web"], &["events"]] {
        assert!(!host.wharf(said).ok().stdout.contains(secret), "wharf {said:?}");
    }
    // Who is called with it, or has it in its environment. The machine's processes are among those of this one.
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let text = fs::read(process.path().join(file)).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(secret), "{process:?}");
        }
    }
    for shim in processes(host, "shim") {
        let given = host.sh(&format!("tr '\\0' '\\n' </proc/{shim}/environ"));
        assert!(!given.contains("CREDENTIALS_DIRECTORY"), "{given}");
    }
}

/// Also while the machine is off.
fn kept_nowhere(host: &SystemdHost, secret: &str) {
    let found = Command::new("grep")
        .args(["-rlaF", secret])
        .arg(host.state_dir())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn slow_a_credential_is_a_secret_through_restarts_and_a_power_cut() {
    let mut host = SystemdHost::with_settings("LoadCredential=key:/srv/key");
    let write = |host: &SystemdHost, secret: &str| {
        fs::create_dir_all(host.srv()).unwrap();
        fs::write(host.srv().join("key"), secret).unwrap();
    };
    // Nobody's word, in no other test.
    let [first, second] = [1, 2].map(|n| format!("correct-horse-{}-{n}", std::process::id()));
    let (first, second) = (first.as_str(), second.as_str());
    write(&host, first);
    host.write("web.toml", &secret_table(&host));
    let web = host.start_wharf().containers[0].clone();
    has_secret(&host, first);

    // Another agent has the same one, and what it reads is no change.
    host.sh("systemctl restart wharf");
    host.converge();
    assert_eq!(host.container("web").pid, web.pid);
    has_secret(&host, first);

    // Without an agent there is no credential either; the next run sees the secret all the same.
    host.sh("systemctl stop wharf wharf.socket");
    host.sh(&format!("kill -9 {}", web.pid.unwrap()));
    host.until("another run", |h| {
        let runs = h.run("pgrep", &["-f", "^sleep 100000"]).stdout;
        runs.lines().any(|pid| pid.parse() != Ok(web.pid.unwrap()))
    });
    // systemd reads it at the agent's start.
    write(&host, second);
    host.sh("systemctl start wharf.socket wharf");
    host.until("the new one inside", |h| {
        h.wharf(&["exec", "web", "cat", "/run/secrets/tls_key"]).stdout == second
    });
    let now = host.converge().containers[0].clone();
    assert_eq!(now.id, web.id, "begun anew, and the same");
    has_secret(&host, second);

    host.crash();
    kept_nowhere(&host, first);
    kept_nowhere(&host, second);
    host.boot();
    host.until("the agent", |h| h.property("wharf", "ActiveState") == "active");
    assert_eq!(host.converge().containers[0].id, web.id);
    has_secret(&host, second);
}

/// `./install --destdir DIR ARGS`.
fn install(dir: &std::path::Path, args: &[&str]) {
    let mut command = Command::new(repository().join("install"));
    command.arg("--destdir").arg(dir).args(args);
    let out = command.env("WHARF_BIN", binary::wharf()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Every file below a directory, by its path there.
fn files(dir: &std::path::Path) -> Vec<String> {
    let out = Command::new("find")
        .arg(dir)
        .args(["-type", "f", "-printf", "%P\n"])
        .output()
        .unwrap();
    let mut all: Vec<String> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    all.sort();
    all
}

#[test]
fn an_installation_is_repeatable_keeps_what_users_wrote_and_can_be_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), &[]);
    let first = files(dir.path());
    for file in [
        "usr/local/bin/wharf",
        "usr/local/lib/systemd/system/wharf.service",
        "etc/wharf/wharf.toml",
    ] {
        assert!(first.iter().any(|f| f == file), "no {file}: {first:#?}");
    }
    let unit = fs::read_to_string(dir.path().join("usr/local/lib/systemd/system/wharf.service")).unwrap();
    assert!(
        unit.contains("ExecStart=@/usr/local/bin/wharf wharf agent\n"),
        "{unit}"
    );
    // The defaults are what the agent takes.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let settings = dir.path().join("etc/wharf/wharf.toml");
    let valid = |text: &str| {
        fs::write(&settings, text).unwrap();
        let mut command = Command::new(binary::wharf());
        command
            .arg("validate")
            .arg(dir.path().join("etc/containers.d"))
            .arg("--settings")
            .arg(&settings);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    };
    let text = fs::read_to_string(&settings).unwrap();
    valid(&text);
    // Every line that is a setting, and no sentence: those have a blank after the sign.
    let on: Vec<&str> = text
        .lines()
        .map(|l| l.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(l))
        .collect();
    valid(&on.join("\n"));

    fs::write(&settings, "# mine\n").unwrap();
    install(dir.path(), &[]);
    assert_eq!(files(dir.path()), first);
    assert_eq!(fs::read_to_string(&settings).unwrap(), "# mine\n");
    install(dir.path(), &["--uninstall"]);
    assert_eq!(files(dir.path()), ["etc/wharf/wharf.toml"]);
    assert!(dir.path().join("etc/containers.d").is_dir());
}
