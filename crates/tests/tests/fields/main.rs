//! What an edit of each single key does to what runs, against the reconciler's table of classes: full tables on one host,
//! one key of each edited, all at the same time.
#![allow(clippy::unwrap_used)]

mod cases;

use std::collections::BTreeMap;
use std::fs;

use cases::{Case, Kind};
use model::file::keys::{self, DESIRED, Key, Type};
use model::status::{ContainerStatus, State};
use reconciler::diff::Class;
use reconciler::diff::classes;
use tests::Host;
use tests::images::{LayerBuilder, busybox};

/// Tables whose every key that works has to have a case.
const KINDS: [&str; 6] = [
    "container.*.",
    "network.*.",
    "volume.*.",
    "image.*.",
    "config.*.",
    "secret.*.",
];

/// Before or after such an edit the bridge is missing, or somebody else's (see `lans.rs`); or it takes Open vSwitch (see
/// `ovs.rs`), or a kernel with WireGuard (see `bin/vm-checks`) or with NFS (see `tests/vm/nfs`).
const ELSEWHERE: [&str; 7] = [
    "network.*.adopt",
    "network.*.overlay.tunnel",
    "network.*.overlay.datapath",
    "network.*.overlay.vlan",
    "network.*.overlay.encryption",
    "network.*.overlay.keys",
    "volume.*.options",
];

/// The things on the host that cases speak of.
fn things(host: &mut Host) -> BTreeMap<&'static str, String> {
    let dir = host.dir().to_owned();
    let credentials = dir.join("credentials");
    fs::create_dir(&credentials).unwrap();
    host.agent_env("CREDENTIALS_DIRECTORY", &credentials.display().to_string());
    for (name, text) in [("a", "E=1\n"), ("b", "E=2\n")] {
        fs::write(dir.join(format!("env-{name}")), text).unwrap();
        fs::write(credentials.join(format!("key-{name}")), text).unwrap();
        host.agent_env(&format!("WHARF_TEST_{}", name.to_uppercase()), text.trim());
    }
    host.ns.sh("ip addr add 192.0.2.7/24 dev eth0");
    host.ns
        .sh("ip link add par-a type veth peer name par-b; ip link set par-a up; ip link set par-b up");
    for (name, peer) in [("a", "192.0.2.2\n"), ("b", "192.0.2.3\n")] {
        fs::write(dir.join(format!("peers-{name}")), peer).unwrap();
    }
    fs::write(
        dir.join("seccomp.json"),
        r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [] }"#,
    )
    .unwrap();
    for root in ["root-a", "root-b"] {
        let bin = dir.join(root).join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for tool in ["sleep", "true"] {
            std::os::unix::fs::symlink("busybox", bin.join(tool)).unwrap();
        }
    }
    fs::create_dir_all(dir.join("bind-a")).unwrap();
    fs::create_dir_all(dir.join("bind-b")).unwrap();
    let other = busybox().layer(LayerBuilder::new().file("other", 0o644, b"other\n"));
    BTreeMap::from([
        ("IMAGE", host.busybox_image()),
        ("OTHER", host.oci_dir("other", &other)),
        ("DIR", dir.display().to_string()),
    ])
}

/// Works by the key table, and so do all parts of it that a case needs.
fn works(path: &str) -> bool {
    let mut parts = path.match_indices('.').map(|(at, _)| &path[..at]).skip(1);
    let above = parts.all(|part| keys::find(DESIRED, part).is_none_or(|key| key.status.works()));
    above && keys::find(DESIRED, path).is_some_and(|key| key.status.works())
}

/// There is another value to edit it to.
fn can_change(key: &Key) -> bool {
    match key.ty {
        Type::Words(words) => words.iter().filter(|(_, status)| status.works()).count() > 1,
        // Its keys have their cases.
        Type::Table | Type::Named => false,
        _ => key.name() != "*",
    }
}

#[test]
fn every_key_that_works_has_a_case() {
    let missing: Vec<&str> = DESIRED
        .iter()
        .filter(|key| KINDS.iter().any(|kind| key.path.starts_with(kind)))
        .filter(|key| works(key.path) && can_change(key))
        .map(|key| key.path)
        .filter(|path| !ELSEWHERE.contains(path))
        .filter(|path| cases::all().iter().all(|case| case.path != *path))
        .collect();
    assert!(
        missing.is_empty(),
        "no case for fields {missing:?} in tests/fields/cases.rs"
    );
    for case in cases::all() {
        assert!(
            keys::find(DESIRED, case.path).is_some(),
            "there is no key {}",
            case.path
        );
        assert_ne!(case.before, case.after, "{}", case.path);
    }
}

fn fill(text: &str, things: &BTreeMap<&'static str, String>) -> String {
    things.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("@{name}@"), value)
    })
}

/// All tables, with the keys of the cases before or after the edit.
fn tables(cases: &[Case], after: bool, things: &BTreeMap<&'static str, String>) -> String {
    let mut text = fill(cases::AROUND, things);
    if works("config.*.content") && works("secret.*.file") {
        text += &fill(cases::FILES, things);
    }
    for (number, case) in cases.iter().enumerate() {
        let numbered = case.table(number, after);
        text += &fill(&numbered, things);
    }
    text
}

fn seen(host: &Host) -> BTreeMap<String, ContainerStatus> {
    let all = host.status().containers;
    all.into_iter().map(|c| (c.name.clone(), c)).collect()
}

fn converge(host: &Host) -> Option<String> {
    let said = host.wharf(["wait", "--timeout", "100s"]);
    (said.code != 0).then_some(said.stderr)
}

/// What became of one container is what its key's class says.
fn judge(
    case: &Case,
    class: Class,
    before: &ContainerStatus,
    after: Option<&ContainerStatus>,
) -> Option<String> {
    let Some(after) = after else {
        return (class != Class::Presence).then(|| "is gone".to_owned());
    };
    let same = (before.id == after.id, before.pid == after.pid);
    let wanted = match class {
        Class::OnChange => match case.on_change().unwrap() {
            r#""restart""# => (true, false),
            r#""replace""# => (false, false),
            _ => (true, true),
        },
        _ if class.keeps_the_process() => (true, true),
        _ if class.keeps_the_container() => (true, false),
        _ => (false, false),
    };
    let words = |(id, pid): (bool, bool)| match (id, pid) {
        (true, true) => "goes on",
        (true, false) => "is started again",
        (false, _) => "is replaced",
    };
    let good = words(same) == words(wanted) && (after.state == before.state);
    (!good).then(|| {
        format!(
            "{} is \"{class}\" {}, so the container {}; it {} ({:?}, {:?})",
            case.path,
            case.on_change().unwrap_or_default(),
            words(wanted),
            words(same),
            before.state,
            after.state,
        )
    })
}

#[test]
fn slow_an_edit_of_each_key_does_what_its_class_says() {
    let mut host = Host::new();
    let things = things(&mut host);
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| case.kind != Kind::Refused && works(case.path))
        .collect();
    host.write("all.toml", &tables(&cases, false, &things));
    host.start_agent();
    assert_eq!(converge(&host), None, "{}", host.evidence());
    let before = seen(&host);
    assert!(
        before
            .values()
            .all(|c| c.state == State::Running || c.name.contains("job")),
        "{before:#?}"
    );
    host.write_renamed("all.toml", &tables(&cases, true, &things));
    let kept = |name: &str| {
        cases
            .iter()
            .enumerate()
            .any(|(n, c)| c.container(n) == name && c.path == "container.*.enabled")
    };
    host.until("the table that was disabled to go", |s| {
        !s.containers.iter().any(|c| kept(&c.name))
    });
    let mut wrong: Vec<String> = converge(&host).into_iter().collect();
    let after = seen(&host);
    for (number, case) in cases.iter().enumerate() {
        let name = case.container(number);
        let class = case.class.or_else(|| classes::of(case.path)).unwrap();
        wrong.extend(judge(case, class, &before[&name], after.get(&name)));
    }
    // What nobody edited.
    let anchor = (&before["anchor"], &after["anchor"]);
    assert_eq!((&anchor.0.id, anchor.0.pid), (&anchor.1.id, anchor.1.pid));
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), host.evidence());
}

#[test]
fn what_is_refused_leaves_everything_as_it_is() {
    let mut host = Host::new();
    let things = things(&mut host);
    let cases: Vec<Case> = cases::all()
        .into_iter()
        .filter(|case| case.kind == Kind::Refused && works(case.path))
        .collect();
    assert!(!cases.is_empty());
    host.write("all.toml", &tables(&cases, false, &things));
    host.start_agent();
    assert_eq!(converge(&host), None, "{}", host.evidence());
    let before = seen(&host);
    host.write_renamed("all.toml", &tables(&cases, true, &things));
    host.wharf(["reload"]).ok();
    let status = host.status();
    assert!(!status.converged);
    for (number, case) in cases.iter().enumerate() {
        assert_eq!(classes::of(case.path), Some(Class::Refused), "{}", case.path);
        let name = case.container(number);
        let now = host.container(&name);
        assert_eq!(
            (&now.id, now.pid),
            (&before[&name].id, before[&name].pid),
            "{}",
            case.path
        );
    }
    let plan = host.wharf(["plan"]);
    assert_eq!(plan.code, 4);
    let lines = plan.stdout.lines().filter(|l| l.starts_with("? volume "));
    assert_eq!(lines.count(), cases.len(), "{plan:?}");
}
