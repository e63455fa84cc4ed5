//! `start` and `restart` of programs that are over before anybody could see them run.
#![allow(clippy::unwrap_used)]

use model::status::State;
use tests::Host;

/// Writes `job.toml`, whose program fails at once.
fn job(host: &Host, more: &str) {
    let table = host.busybox_table("job", "exit 7", more);
    host.write("job.toml", &table);
}

#[test]
fn a_job_that_fails_at_once_was_started_all_the_same() {
    let mut host = Host::new();
    job(&host, "restart = \"no\"\n");
    host.start_agent();
    host.until_state("job", State::Failed);
    for command in ["start", "restart", "start", "restart", "start", "restart"] {
        host.wharf([command, "job"]).ok();
        let after = host.until_state("job", State::Failed);
        assert_eq!(after.exit_code, Some(7));
    }
}

#[test]
fn a_program_that_is_not_there_could_not_be_started() {
    let mut host = Host::new();
    let table = host.busybox_table(
        "job",
        "exit 7",
        "restart = \"no\"\nentrypoint = [\"/not/there\"]\n",
    );
    host.write("job.toml", &table);
    host.start_agent();
    host.until_state("job", State::Failed);
    for command in ["start", "restart"] {
        let said = host.wharf([command, "job"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("/not/there"), "{said:?}");
    }
}

#[test]
fn restart_starts_what_was_stopped_by_hand() {
    let mut host = Host::new();
    host.write("box.toml", &host.busybox_table("box", "exec sleep 1000", ""));
    host.start_agent();
    host.converge();
    host.wharf(["stop", "box"]).ok();
    assert_eq!(host.container("box").state, State::Stopped);
    host.wharf(["restart", "box"]).ok();
    let after = host.container("box");
    assert_eq!((after.state, after.hold), (State::Running, None));
}
