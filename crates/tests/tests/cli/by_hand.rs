//! start, stop, restart, kill.

use model::status::State;
use tests::process;

use super::{assert_error, talk, with_two};

#[test]
fn start_stop_restart_and_kill_by_hand() {
    let host = with_two();
    let named =
        |args: &[&str], name: &str| assert_eq!(host.wharf(args).ok().stdout, format!("{name}\n"), "{args:?}");
    named(&["start", "web"], "web");
    let before = host.container("web");
    named(&["restart", "web"], "web");
    let after = host.container("web");
    assert_eq!(after.state, State::Running);
    assert!(
        after.pid != before.pid && !process::alive(before.pid.unwrap()),
        "it is so when the call returns"
    );
    assert_eq!((&after.id, &after.networks), (&before.id, &before.networks));
    named(&["stop", "web"], "web");
    assert_eq!(host.container("web").state, State::Stopped);
    named(&["stop", "web"], "web");
    host.converge();
    let status = host.wharf(["status"]).ok().stdout;
    assert!(
        status.contains("stopped") && status.contains("web: stopped by hand"),
        "{status}"
    );
    assert_error(&host.wharf(["kill", "web"]), 1, &["web", "not running"]);
    named(&["start", "web"], "web");
    named(&["start", "web"], "web");
    assert_eq!(host.container("web").hold, None);
    named(&["stop", "web"], "web");
    named(&["restart", "web"], "web");
    assert_eq!(host.container("web").hold, None, "a restart lifts a hold");
    let before = host.container("talk");
    named(&["kill", "-s", "TERM", "talk"], "talk");
    host.until("talk again", |s| {
        s.containers
            .iter()
            .any(|c| c.name == "talk" && c.restarts == before.restarts + 1 && c.pid.is_some())
    });
    assert_error(&host.wharf(["kill", "-s", "NONSENSE", "talk"]), 1, &["NONSENSE"]);
    for command in ["start", "stop", "restart", "kill"] {
        assert_error(&host.wharf([command, "nobody"]), 1, &["nobody", "wharf ps"]);
    }
    let some = host.wharf(["stop", "nobody", "web", "talk"]);
    assert_eq!((some.code, some.stdout.as_str()), (1, "web\ntalk\n"), "{some:?}");
    assert!(
        some.stderr.ends_with("error: 1 of 3 could not be done\n"),
        "{some:?}"
    );
}

#[test]
fn a_hold_is_lifted_by_a_change_of_the_table() {
    let host = with_two();
    host.wharf(["stop", "talk"]).ok();
    host.wharf(["reload"]).ok();
    assert_eq!(host.container("talk").state, State::Stopped);
    host.write("talk.toml", &talk(&host, "# only a comment"));
    host.converge();
    assert_eq!(host.container("talk").state, State::Stopped);
    host.write("talk.toml", &talk(&host, "env = { A = \"b\" }"));
    host.converge();
    let talk = host.container("talk");
    assert_eq!((talk.state, talk.hold), (State::Running, None));
}
