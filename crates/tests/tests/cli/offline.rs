//! Without an agent: what needs none, and what says that it does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;
use tests::client::Said;
use tests::{Host, binary};

use super::{assert_error, json, keys, words};

#[test]
fn without_an_agent() {
    let host = Host::new();
    let socket = host.run_dir().join("wharf.sock").display().to_string();
    for args in [
        &["ps"][..],
        &["status"],
        &["plan"],
        &["wait"],
        &["reload"],
        &["logs", "web"],
        &["events"],
        &["stop", "web"],
        &["network", "ls"],
        &["image", "ls"],
        &["image", "push", "x"],
        &["logout"],
        &["search", "x"],
        &["cp", "web:/etc", "etc"],
        &["diff", "web"],
        &["export", "web"],
        &["commit", "web", "made"],
    ] {
        assert_error(&host.wharf(args), 1, &["no agent", &socket, "wharf agent"]);
    }
    for args in [
        &["frobnicate"][..],
        &["ps", "--nonsense"],
        &["stop"],
        &["wait", "--timeout", "soon"],
    ] {
        let said = host.wharf(args);
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
        assert!(said.stderr.starts_with("error: "), "{said:?}");
    }
    assert_eq!(host.wharf(["--help"]).ok().stderr, "");
    assert!(host.wharf(["--version"]).ok().stdout.starts_with("wharf "));
}

#[test]
fn validate_and_plan_offline() {
    let host = Host::new();
    host.write("web.toml", &host.hello_table("web", &["8080:80"]));
    let good = host.wharf(["validate"]).ok();
    assert!(
        good.stdout.contains("no errors") && good.stderr.is_empty(),
        "{good:?}"
    );
    let good = json(&host.wharf(["validate", "--json"]).ok());
    assert_eq!(good, serde_json::json!({ "valid": true, "errors": [] }));
    let plan = host.wharf(["plan", "--offline"]);
    assert_eq!((plan.code, plan.stderr.as_str()), (4, ""), "{plan:?}");
    assert!(
        plan.stdout.lines().any(|l| l.contains(" container web: ")),
        "{plan:?}"
    );
    assert_plan(&host.wharf(["plan", "--offline", "--json"]));
    host.write("bad.toml", "[container.bad]\nrootfs = \"/srv\"\nprots = []\n");
    let bad = host.wharf(["validate"]);
    assert_eq!(bad.code, 1, "{bad:?}");
    for word in ["bad.toml:3:1: ", "prots = []", "^", "ports"] {
        assert!(bad.stdout.contains(word), "no {word:?}: {bad:?}");
    }
    assert!(
        bad.stderr.starts_with("error: 1 error in ") && bad.stderr.lines().count() == 1,
        "{bad:?}"
    );
    let said = host.wharf(["validate", "--json"]);
    assert_eq!(said.code, 1);
    let bad = json(&said);
    assert_eq!(bad["valid"], false);
    let error = &bad["errors"][0];
    assert_eq!(keys(error), words("file line column message hint also"));
    assert_eq!(
        (&error["file"], &error["line"], &error["column"]),
        (&"bad.toml".into(), &3.into(), &1.into())
    );
    let said = host.wharf(["plan", "--offline", "--json"]);
    assert_eq!(said.code, 1, "{said:?}");
    serde_json::from_str::<Value>(&said.stdout).expect("one object alone on stdout");
    let other = host.dir().join("other");
    fs::create_dir(&other).unwrap();
    host.wharf(["validate".as_ref(), other.as_os_str()]).ok();
    let nothing = host
        .wharf(["plan".as_ref(), "--offline".as_ref(), other.as_os_str()])
        .ok();
    assert_eq!(nothing.stdout, "nothing to do\n");
    assert_eq!(host.wharf(["validate", "/nonexistent/dir"]).code, 1);
}

/// A repository of such files, as its CI checks it.
const WEB: &str = r#"# The site.
[container.web]
image = "docker.io/library/nginx:1.27"
ports = ["8080:80", "127.0.0.1:8443:443"]
networks = ["front"]
volumes = ["site:/usr/share/nginx/html:ro", "cache:/var/cache/nginx"]
env_file = ["/etc/default/web"]
depends_on = ["db"]

[network.front]
subnet = "10.80.0.0/24"
"#;

const DB: &str = r#"
[container.db]
image = "oci-archive:/srv/images/db.tar"
networks = ["front"]
volumes = ["/srv/db:/data"]
restart = "on-failure"

[volume.site]
labels = { tier = "front" }

[image.base]
pull = "docker.io/library/debian:12"
"#;

const PLAN: &str = "\
+ image docker.io/library/debian:12: kept here ahead of use (db.toml:12)
+ image docker.io/library/nginx:1.27: container web uses it (web.toml:3)
+ image oci-archive:/srv/images/db.tar: container db uses it (db.toml:3)
+ network front: is declared (web.toml:10)
+ volume cache: container web mounts it (web.toml:6)
+ volume site: is declared (db.toml:8)
+ firewall: the table is not there
+ dns: the name server does not run
? container web: waits for image docker.io/library/nginx:1.27
? container db: waits for image oci-archive:/srv/images/db.tar
";

#[test]
fn plan_offline_needs_nothing_but_the_files_and_is_always_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("containers.d");
    fs::create_dir(&files).unwrap();
    for path in [dir.path(), &files] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(files.join("web.toml"), WEB).unwrap();
    fs::write(files.join("db.toml"), DB).unwrap();
    // A copy, as whoever runs it may not reach the one that was built.
    let wharf = dir.path().join("wharf");
    fs::copy(binary::wharf(), &wharf).unwrap();
    let plan = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&wharf);
        command.args(["plan", "--offline"]).arg(&files).args(args);
        command
            .env_clear()
            .env("WHARF_SETTINGS", dir.path().join("none.toml"));
        Said::from(command.output().unwrap())
    };
    let text = plan(&[]);
    assert_eq!(
        (text.code, text.stderr.as_str(), text.stdout.as_str()),
        (4, "", PLAN)
    );
    let as_json = plan(&["--json"]);
    assert_eq!((plan(&[]), plan(&["--json"])), (text, as_json.clone()));
    assert_plan(&as_json);
    let first = &json(&as_json)["actions"][0];
    let reason = &first["reasons"][0];
    assert_eq!(
        (
            &first["op"],
            &first["kind"],
            &first["name"],
            &reason["file"],
            &reason["line"]
        ),
        (
            &"create".into(),
            &"image".into(),
            &"docker.io/library/debian:12".into(),
            &"db.toml".into(),
            &12.into()
        )
    );
    fs::write(files.join("db.toml"), DB.replace("image", "imag")).unwrap();
    let broken = plan(&[]);
    assert_eq!(broken.code, 1);
    assert!(broken.stdout.contains("db.toml:3:1: "), "{broken:?}");
    assert!(broken.stderr.starts_with("error: "), "{broken:?}");
    for name in ["db.toml", "web.toml"] {
        fs::remove_file(files.join(name)).unwrap();
    }
    let nothing = plan(&[]);
    assert_eq!(
        (nothing.code, nothing.stdout.as_str()),
        (0, "nothing to do\n"),
        "{nothing:?}"
    );
}

#[track_caller]
pub fn assert_plan(said: &Said) {
    assert_eq!(said.code, 4, "{said:?}");
    let plan = json(said);
    assert_eq!(keys(&plan), words("actions"));
    for action in plan["actions"].as_array().unwrap() {
        assert!(
            keys(action).is_superset(&words("op kind name reasons")),
            "{action}"
        );
        let ops = words("create update replace remove wait");
        assert!(ops.contains(action["op"].as_str().unwrap()), "{action}");
        for reason in action["reasons"].as_array().unwrap() {
            assert_eq!(keys(reason), words("field from to file line"), "{reason}");
        }
    }
}

#[test]
fn schema_completions_and_manual_pages() {
    let host = Host::new();
    let schema = json(&host.wharf(["schema"]).ok());
    assert!(schema["properties"]["container"].is_object(), "{schema}");
    for shell in ["bash", "zsh", "fish"] {
        let said = host.wharf(["completions", shell]).ok();
        assert!(said.stdout.contains("wharf") && said.stderr.is_empty());
    }
    assert_eq!(host.wharf(["completions", "cmd.exe"]).code, 2);
    let dir = host.dir().join("man");
    let said = host.wharf(["man".as_ref(), dir.as_os_str()]).ok();
    assert_eq!((said.stdout, said.stderr), (String::new(), String::new()));
    for page in ["wharf.1", "wharf-status.1", "wharf-network-ls.1"] {
        assert!(dir.join(page).is_file(), "{page}");
    }
}
