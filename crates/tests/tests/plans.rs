//! `wharf plan` shows the very plan that a pass carries out.
#![allow(clippy::unwrap_used)]

use std::fs;

use serde_json::Value;
use tests::Host;

/// A host whose config dir is an overlay of another directory: what is written to that one in place is seen, and nobody
/// is notified of it. So the agent learns of an edit by being asked, and not before.
fn unnoticed() -> (Host, std::path::PathBuf) {
    let host = Host::new();
    let [files, nothing] = ["files", "nothing"].map(|name| host.dir().join(name));
    for dir in [&files, &nothing] {
        fs::create_dir(dir).unwrap();
    }
    let options = format!("lowerdir={}:{}", files.display(), nothing.display());
    let mut mount = host.ns.command("mount");
    mount
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(host.config_dir());
    assert!(mount.status().unwrap().success());
    (host, files)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Kind, name and reasons of every event so far.
fn events(host: &Host) -> Vec<[String; 3]> {
    let said = host.wharf(["events", "--json"]).ok().stdout;
    let one = |line: &str| ["kind", "name", "reason"].map(|key| json(line)[key].as_str().unwrap().to_owned());
    said.lines().map(one).collect()
}

#[test]
fn what_was_planned_is_what_was_done() {
    let (mut host, files) = unnoticed();
    let web = host.hello_table("web", &["8080:80"]);
    let db = host.busybox_table("db", "exec sleep 100000", "labels = { tier = \"front\" }");
    fs::write(files.join("web.toml"), &web).unwrap();
    fs::write(files.join("db.toml"), &db).unwrap();
    host.start_agent();
    let before = host.converge();
    let known = events(&host).len();

    fs::write(
        files.join("web.toml"),
        web.replace("8080", "8081") + "stop_grace_period = \"3s\"\n",
    )
    .unwrap();
    let edited = db.replace("front", "back").replace("100000", "100001");
    fs::write(files.join("db.toml"), edited).unwrap();
    let said = host.wharf(["plan", "--json"]);
    assert_eq!(said.code, 4, "{said:?}");
    let plan = json(&said.stdout);
    let texts: Vec<&str> = plan["actions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        texts,
        [
            "~ container web: ports 8080:80 → 8081:80 (web.toml:3)",
            "~ firewall: port 8081:80/tcp of container web (web.toml:3); port 8080:80/tcp is no longer published so",
            "-/+ container db: command sh, -c, exec sleep 100000 → sh, -c, exec sleep 100001 (db.toml:3); labels tier = front → tier = back (db.toml:5)",
            "~ container web: stop_grace_period 10s → 3s (web.toml:4)",
        ]
    );
    let ports = &plan["actions"][0]["reasons"][0];
    let wanted = serde_json::json!({ "field": "ports", "from": "8080:80", "to": "8081:80", "file": "web.toml", "line": 3 });
    assert_eq!(*ports, wanted);

    let after = host.converge();
    let done = events(&host).split_off(known);
    for action in plan["actions"].as_array().unwrap() {
        let [kind, name, text] = ["kind", "name", "text"].map(|key| action[key].as_str().unwrap());
        let (_, reasons) = text.split_once(": ").unwrap();
        let wanted = [kind, name, reasons].map(str::to_owned);
        assert!(done.contains(&wanted), "no event of {wanted:?} among {done:#?}");
    }
    let pid = |status: &model::status::Status, name: &str| {
        status.containers.iter().find(|c| c.name == name).unwrap().pid
    };
    assert_eq!(pid(&before, "web"), pid(&after, "web"));
    assert_ne!(pid(&before, "db"), pid(&after, "db"));
    assert_eq!(host.wharf(["plan"]).ok().stdout, "nothing to do\n");
}

#[test]
fn the_next_time_of_a_schedule_is_nothing_to_wait_for() {
    let mut host = Host::new();
    host.write_busybox("backup", "true", "schedule = \"yearly\"\n");
    host.start_agent();
    let status = host.converge();
    let said = host.wharf(["plan"]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (0, "nothing to do\n"),
        "{said:?}"
    );
    assert!(status.containers[0].next_run.is_some());
    let said = host.wharf(["status", "backup"]).ok();
    assert!(said.stdout.contains("next run"), "{said:?}");
}
