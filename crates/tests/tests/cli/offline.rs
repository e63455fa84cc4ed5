//! Without an agent: what needs none, and what says that it does.

use std::fs;

use serde_json::Value;
use tests::Host;
use tests::client::Said;

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
