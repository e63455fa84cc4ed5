//! Invariant 7 of ARCHITECTURE.md: who may depend on whom, as `cargo metadata` says it is.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Normal dependencies by package name; those for tests and build scripts are nobody's concern here.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args([
            "--filter-platform",
            &format!("{}-unknown-linux-gnu", std::env::consts::ARCH),
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap()))
        .collect();
    let normal = |dep: &&Value| {
        dep["dep_kinds"]
            .as_array()
            .unwrap()
            .iter()
            .any(|kind| kind["kind"].is_null())
    };
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    nodes
        .iter()
        .map(|node| {
            let deps = node["deps"].as_array().unwrap().iter().filter(normal);
            let names = deps
                .map(|d| name_of[d["pkg"].as_str().unwrap()].to_owned())
                .collect();
            (name_of[node["id"].as_str().unwrap()].to_owned(), names)
        })
        .collect()
}

/// Everything a package is built with in the end.
fn reached(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(name) = open.pop() {
        open.extend(graph[&name].iter().filter(|d| seen.insert((*d).clone())).cloned());
    }
    seen
}

#[test]
fn model_and_reconciler_know_no_runtime_kernel_or_clock() {
    let graph = dependencies();
    for pure in ["model", "reconciler"] {
        let reached = reached(&graph, pure);
        assert!(reached.contains("serde"), "the graph was read: {reached:?}");
        for impure in [
            "tokio",
            "mio",
            "nix",
            "rustix",
            "libc",
            "hyper",
            "notify",
            "chrono",
            "rand",
            "getrandom",
        ] {
            assert!(!reached.contains(impure), "{pure} is built with {impure}");
        }
    }
}

#[test]
fn siblings_do_not_see_each_other_and_only_the_agent_knows_all() {
    let graph = dependencies();
    let siblings = ["reconciler", "net", "storage", "runtime"];
    for one in siblings {
        let reached = reached(&graph, one);
        assert!(reached.contains("model"), "{one} speaks in the model's nouns");
        for other in siblings.iter().chain(&["agent", "tests"]).filter(|o| **o != one) {
            assert!(!reached.contains(*other), "{one} sees {other}");
        }
    }
    assert!(
        graph["model"]
            .iter()
            .all(|d| !siblings.contains(&d.as_str()) && d != "agent")
    );
    assert!(siblings.iter().all(|s| graph["agent"].contains(*s)));
}

/// What a shim is made of is there once for each container.
#[test]
fn detach_is_a_leaf_of_system_calls() {
    let graph = dependencies();
    let direct: Vec<&str> = graph["detach"].iter().map(String::as_str).collect();
    assert_eq!(direct, ["libc", "nix", "rustix", "thiserror"]);
    let reached = reached(&graph, "detach");
    for large in ["model", "serde", "serde_json", "tokio", "jiff"] {
        assert!(!reached.contains(large), "detach is built with {large}");
    }
    for one in ["net", "runtime", "agent"] {
        assert!(graph[one].contains("detach"), "{one} starts what outlives it");
    }
    for one in ["reconciler", "storage"] {
        assert!(
            !graph[one].contains("detach"),
            "{one} starts nothing that outlives it"
        );
    }
}

/// jiff and std bring clocks along, so the words themselves are looked for.
#[test]
fn nothing_pure_asks_what_time_it_is() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut open = vec![root.join("model/src"), root.join("reconciler/src")];
    let mut read = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            read += 1;
            for clock in ["Timestamp::now", "Zoned::now", "Instant::now", "SystemTime"] {
                assert!(!text.contains(clock), "{} asks {clock}", path.display());
            }
        }
    }
    assert!(read > 40, "only {read} files were found");
}
