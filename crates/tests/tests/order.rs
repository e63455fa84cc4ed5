//! Order: dependencies over files, at start and at boot, jobs, and the way back.
#![allow(clippy::unwrap_used)]

use model::status::{State, Status};
use tests::Host;
use tests::client::row;

/// When each container last began.
fn began(status: &Status, name: &str) -> impl PartialOrd + std::fmt::Debug + use<> {
    row(status, name).started_at.unwrap()
}

/// `db` is healthy once it has been up for a moment, `migrate` is a job that needs it, `web` needs both.
fn chain(host: &Host) {
    host.write_busybox(
        "web",
        "exec sleep 1000",
        "depends_on = { db = \"healthy\", migrate = \"completed\" }\n",
    );
    host.write_busybox(
        "migrate",
        "echo migrated; sleep 0.2",
        "depends_on = { db = \"healthy\" }\nrestart = \"no\"\n",
    );
    host.write_busybox("db",
        "sleep 0.3; touch /tmp/ok; exec sleep 1000",
        "[container.db.healthcheck]\nexec = [\"test\", \"-e\", \"/tmp/ok\"]\nstart_interval = \"50ms\"\nstart_period = \"1m\"\n",
    );
}

#[test]
fn it_starts_in_order_and_jobs_run_once() {
    let mut host = Host::new();
    chain(&host);
    host.start_agent();
    let status = host.converge();
    assert!(began(&status, "db") < began(&status, "migrate"));
    assert!(began(&status, "migrate") < began(&status, "web"));
    let job = host.container("migrate");
    assert_eq!((job.state, job.exit_code), (State::Exited, Some(0)));
    assert!(
        host.container("web").started_at > job.finished_at,
        "completed, not just begun"
    );
    // Neither another agent nor a look runs it again.
    host.kill_agent();
    host.start_agent();
    host.wharf(["reload"]).ok();
    host.converge();
    assert_eq!(host.container("migrate"), job);
    assert_eq!(host.wharf(["logs", "migrate"]).ok().stdout, "migrated\n");
}

#[test]
fn after_a_power_cut_the_order_is_kept_and_the_job_is_not_repeated() {
    let mut host = Host::new();
    chain(&host);
    host.start_agent();
    let before = host.converge();
    host.reboot();
    host.start_agent();
    let after = host.converge();
    assert!(began(&after, "db") > began(&before, "web"));
    assert!(began(&after, "db") < began(&after, "web"));
    assert_eq!(
        began(&after, "migrate"),
        began(&before, "migrate"),
        "a job runs once"
    );
}

#[test]
fn a_job_that_was_cut_off_runs_again() {
    let mut host = Host::new();
    host.write_busybox("job", "echo began; exec sleep 1000", "restart = \"no\"\n");
    host.start_agent();
    let before = host.until_state("job", State::Running);
    host.reboot();
    host.start_agent();
    let after = host.until_state("job", State::Running);
    assert!(after.started_at > before.started_at);
}

#[test]
fn what_a_dependent_waits_for_is_said() {
    let mut host = Host::new();
    host.write_busybox("job", "echo no such table >&2; exit 7", "restart = \"no\"\n");
    host.write_busybox("web", "exec sleep 1000", "depends_on = { job = \"completed\" }\n");
    host.start_agent();
    let job = host.until_state("job", State::Failed);
    assert_eq!(job.exit_code, Some(7));
    host.until("its last words are shown", |s| {
        let words = |e: &String| e.contains("no such table");
        s.containers.iter().any(|c| c.error.as_ref().is_some_and(words))
    });
    let web = host.container("web");
    assert!(
        web.pid.is_none() && web.error.as_ref().is_none_or(|e| e.contains("job")),
        "{web:?}"
    );
    let said = host.wharf(["wait", "web", "--timeout", "100ms"]);
    assert_eq!(said.code, 3);
    assert!(said.stderr.contains("job"), "{said:?}");
    // Put right, everything goes on.
    host.write_busybox("job", "true", "restart = \"no\"\n");
    host.converge();
}

#[test]
fn dependents_stop_first() {
    let mut host = Host::new();
    // A trap lets each say when it was told to stop; both take their time.
    let line = "trap 'sleep 0.3; exit 0' TERM; while true; do sleep 0.05; done";
    let more = "stop_signal = \"SIGTERM\"\n";
    let table = |name: &str, extra: &str| {
        let text = host.busybox_table(name, line, extra);
        text.replace("stop_signal = \"SIGKILL\"\n", more)
    };
    host.write("db.toml", &table("db", ""));
    host.write("web.toml", &table("web", "depends_on = [\"db\"]\n"));
    host.write("edge.toml", &table("edge", "depends_on = [\"web\"]\n"));
    host.start_agent();
    host.converge();
    host.remove_all();
    host.until("all gone", |s| s.containers.is_empty());
    let events = host.wharf(["events", "--json"]).ok().stdout;
    let gone: Vec<String> = events
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .filter(|e| e["kind"] == "container" && e["type"] == "remove")
        .map(|e| e["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(gone, ["edge", "web", "db"]);
}

#[test]
fn a_dependency_without_a_check_cannot_be_waited_for_to_be_healthy() {
    let mut host = Host::new();
    host.write_busybox("db", "exec sleep 1000", "");
    host.write_busybox("web", "exec sleep 1000", "depends_on = { db = \"healthy\" }\n");
    host.start_agent();
    host.until("said", |s| {
        let error = |c: &model::status::ContainerStatus| c.error.clone().unwrap_or_default();
        let row = s
            .containers
            .iter()
            .any(|c| c.name == "web" && error(c).contains("health"));
        row || s.errors.iter().any(|e| e.message.contains("health"))
    });
}
