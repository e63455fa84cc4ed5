//! The stock docker client on the same socket.

use std::time::{SystemTime, UNIX_EPOCH};

use model::status::State;

use super::{Running, with_two};

#[test]
fn the_docker_client_looks() {
    let host = with_two();
    let docker = |args: &[&str]| host.docker(args);
    let version = docker(&["version"]).ok().stdout;
    assert!(
        version.contains("Server") && version.contains("API version"),
        "{version}"
    );
    let info = docker(&["info"]).ok();
    assert!(
        info.stdout.contains(" Running: 2") && !info.stderr.contains("ERROR"),
        "{info:?}"
    );
    let ps = docker(&["ps", "-a", "--format", "{{.Names}} {{.State}} {{.Ports}}"])
        .ok()
        .stdout;
    assert!(
        ps.contains("web running") && ps.contains("0.0.0.0:8080->80/tcp"),
        "{ps}"
    );
    assert_eq!(
        docker(&["ps", "-q"]).ok().stdout,
        host.wharf(["ps", "-q"]).ok().stdout
    );
    assert_eq!(docker(&["ps", "-aq", "-n", "1"]).ok().stdout.lines().count(), 1);
    for (filter, count) in [
        ("name=we", 1),
        ("status=running", 2),
        ("status=exited", 0),
        ("label=none", 0),
    ] {
        let found = docker(&["ps", "-aq", "--filter", filter]).ok().stdout;
        assert_eq!(found.lines().count(), count, "{filter}");
    }
    let pid = docker(&["inspect", "-f", "{{.State.Pid}} {{.Name}}", "web"])
        .ok()
        .stdout;
    assert_eq!(pid, format!("{} /web\n", host.container("web").pid.unwrap()));
    assert_eq!(docker(&["inspect", "nobody"]).code, 1);
    assert!(
        docker(&["port", "web"])
            .ok()
            .stdout
            .contains("80/tcp -> 0.0.0.0:8080")
    );
    host.until("two lines", |_| {
        host.wharf(["logs", "talk"]).stdout.lines().count() > 2
    });
    let logs = docker(&["logs", "--tail", "2", "talk"]).ok();
    assert_eq!(
        logs.stdout.lines().count() + logs.stderr.lines().count(),
        2,
        "{logs:?}"
    );
}

#[test]
fn the_docker_client_acts_and_follows() {
    let host = with_two();
    let says = |args: &[&str]| host.docker(args);
    let mut command = host.docker_command();
    command.args(["logs", "-f", "--since", "1h", "talk"]);
    let mut logs = Running::start(command);
    logs.line_with("out 1");
    let mut command = host.docker_command();
    command.args([
        "events",
        "--since",
        "1h",
        "--filter",
        "type=container",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ]);
    let mut events = Running::start(command);
    events.line_with("create web");
    assert_eq!(says(&["stop", "web"]).ok().stdout, "web\n");
    assert_eq!(host.container("web").state, State::Stopped);
    events.line_with("die web");
    assert_eq!(says(&["stop", "web"]).ok().stdout, "web\n");
    assert_eq!(says(&["start", "web"]).ok().stdout, "web\n");
    assert_eq!(host.container("web").state, State::Running);
    let before = host.container("web").pid;
    assert_eq!(says(&["restart", "-t", "1", "web"]).ok().stdout, "web\n");
    assert_ne!(host.container("web").pid, before);
    assert_eq!(says(&["kill", "web"]).ok().stdout, "web\n");
    host.until_state("web", State::Running);
    assert_eq!(says(&["kill", "nobody"]).code, 1);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let in_a_second = (since_1970.as_secs() + 1).to_string();
    let past = says(&[
        "events",
        "--since",
        "1h",
        "--until",
        &in_a_second,
        "--filter",
        "container=talk",
        "--format",
        "{{.Action}}",
    ]);
    assert!(past.clone().ok().stdout.contains("create"), "{past:?}");
    host.remove("talk.toml");
    events.line_with("destroy talk");
    assert_eq!(logs.end(), 0, "it ends with the container");
    assert_eq!(
        says(&["run", "-d", "nginx"]).code,
        125,
        "a route that is not built is an error"
    );
}
