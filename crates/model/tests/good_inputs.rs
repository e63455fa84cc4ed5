//! What is written well is accepted, means what it says, and between them the good inputs use every key that works.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not their helpers"
)]

use std::fs;
use std::path::Path;

use model::diagnostic::Location;
use model::file::keys::{DESIRED, Key, SETTINGS, Type};
use model::file::{Outcome, Source, parse, parse_all, parse_settings, render};
use model::spec::{ContainerSpec, ParsedFile};

fn good(name: &str) -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/good")
        .join(name);
    Source::new(name, fs::read_to_string(path).unwrap())
}

fn accepted(main: &Source, drop_ins: &[Source]) -> ParsedFile {
    match parse(main, drop_ins) {
        Outcome::Parsed(parsed) => parsed,
        Outcome::Broken { diagnostics, .. } => {
            let sources: Vec<Source> = [std::slice::from_ref(main), drop_ins].concat();
            panic!("{}", render(&diagnostics, &sources, false))
        }
    }
}

/// The only container of a table's body.
fn container(body: &str) -> ContainerSpec {
    let source = Source::new("a.toml", format!("[container.a]\n{body}\n"));
    let mut parsed = accepted(&source, &[]);
    assert_eq!(parsed.containers.len(), 1);
    parsed.containers.remove(0).spec
}

#[test]
fn good_files_are_accepted_as_they_are_meant() {
    for name in [
        "container.toml",
        "network.toml",
        "overlay.toml",
        "ovs.toml",
        "lan.toml",
        "image.toml",
        "empty.toml",
        "dotted.toml",
        "schedule.toml",
        "content.toml",
    ] {
        insta::assert_debug_snapshot!(name, accepted(&good(name), &[]));
    }
    let settings = parse_settings(&good("settings.toml")).unwrap();
    insta::assert_debug_snapshot!("settings.toml", settings);
    let nothing = parse_settings(&Source::new("wharf.toml", "")).unwrap();
    assert_eq!(nothing, model::spec::Settings::default());
}

/// Whether a row's key, or a table's by name, is written somewhere in the value.
fn written(value: &toml::Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return true;
    };
    match value {
        toml::Value::Array(items) => items.iter().any(|item| written(item, path)),
        toml::Value::Table(table) if *first == "*" => table.values().any(|inner| written(inner, rest)),
        toml::Value::Table(table) => {
            table.get(*first).is_some_and(|inner| written(inner, rest))
                // What is inside of a table by name has the path of the table (ulimits, depends_on).
                || table.values().any(|inner| inner.is_table() && written_below(inner, path))
        }
        _ => false,
    }
}

fn written_below(value: &toml::Value, path: &[&str]) -> bool {
    path.len() == 1 && value.get(path[0]).is_some()
}

#[test]
fn the_good_files_use_every_key_that_works() {
    let text = |names: &[&str]| {
        let values = names.iter().map(|n| good(n).text.parse::<toml::Table>().unwrap());
        values.map(toml::Value::Table).collect::<Vec<_>>()
    };
    let desired = text(&[
        "container.toml",
        "network.toml",
        "overlay.toml",
        "ovs.toml",
        "lan.toml",
        "image.toml",
        "content.toml",
        "schedule.toml",
    ]);
    assert_eq!(missing(DESIRED, &desired, true), Vec::<&str>::new());
    assert_eq!(
        missing(SETTINGS, &text(&["settings.toml"]), true),
        Vec::<&str>::new()
    );
}

/// The keys that are written nowhere in the files: of those that work, or of the others.
fn missing(keys: &'static [Key], files: &[toml::Value], works: bool) -> Vec<&'static str> {
    let absent = |key: &&Key| {
        let path: Vec<&str> = key.path.split('.').collect();
        key.status.works() == works && !files.iter().any(|file| written(file, &path))
    };
    keys.iter().filter(absent).map(|key| key.path).collect()
}

/// Everything of the contract is read and checked today: all that is wrong with it is that it is too early.
#[test]
fn what_comes_later_is_refused_for_that_alone() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/later");
    let mut seen = Vec::new();
    for name in ["container.toml", "other.toml", "settings.toml"] {
        let source = Source::new(name, fs::read_to_string(dir.join(name)).unwrap());
        seen.push(toml::Value::Table(source.text.parse::<toml::Table>().unwrap()));
        let diagnostics = match name {
            "settings.toml" => parse_settings(&source).unwrap_err(),
            _ => match parse(&source, &[]) {
                Outcome::Broken { diagnostics, .. } => diagnostics,
                Outcome::Parsed(_) => panic!("{name} was accepted"),
            },
        };
        let other: Vec<_> = diagnostics
            .iter()
            .filter(|d| !d.message.contains("not supported yet"))
            .collect();
        assert!(other.is_empty(), "{other:#?}");
        insta::assert_snapshot!(format!("later_{name}"), render(&diagnostics, &[source], false));
    }
    assert_eq!(missing(DESIRED, &seen[..2], false), Vec::<&str>::new());
    assert_eq!(missing(SETTINGS, &seen[2..], false), Vec::<&str>::new());
}

#[test]
fn line_ends_and_byte_order_marks_are_taken() {
    let source = Source::new(
        "a.toml",
        "\u{feff}[container.a]\r\nrootfs = '/srv'\r\nhostname = 5\r\n",
    );
    let Outcome::Broken { diagnostics, .. } = parse(&source, &[]) else {
        panic!("accepted")
    };
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert_eq!(diagnostics[0].at.to_string(), "a.toml:3:12");
}

#[test]
fn thousands_of_tables_are_no_trouble() {
    let table = |n| {
        format!(
            "[container.c{n}]\nrootfs = '/srv'\nports = ['{}:80']\nenv = {{ N = '{n}' }}\n",
            n + 1024
        )
    };
    let text: String = (0..5000).map(table).collect();
    let parsed = accepted(&Source::new("many.toml", text), &[]);
    assert_eq!(parsed.containers.len(), 5000);
    assert_eq!(
        parsed.containers.iter().map(|c| c.origin.line).max(),
        Some(4 * 4999 + 1)
    );
}

#[test]
fn values_that_mean_the_same_are_equal() {
    let base = "rootfs = '/srv'\n";
    for (one, other) in [
        ("stop_grace_period = '60s'", "stop_grace_period = '1m'"),
        ("ports = ['8080:80']", "ports = [{ host = 8080, container = 80 }]"),
        ("ports = ['8080:80']", "ports = ['8080:80/tcp']"),
        (
            "ports = ['8080:80']",
            "ports = [{ host = '8080', container = '80', protocol = 'tcp' }]",
        ),
        ("ports = ['1:1', '2:2']", "ports = ['2:2', '1:1']"),
        ("ports = ['7000-7001:70-71']", "ports = ['7000-7001:70-71/tcp']"),
        ("restart = 'no'", "restart = { policy = 'no' }"),
        ("restart = 'no'", "[container.a.restart]\npolicy = 'no'"),
        ("command = 'a \"b c\"'", "command = ['a', 'b c']"),
        ("stop_signal = 'SIGTERM'", "stop_signal = '15'"),
        ("stop_signal = 'hup'", "stop_signal = 'SIGHUP'"),
        (
            "cap_add = ['net_admin', 'CAP_CHOWN']",
            "cap_add = ['CHOWN', 'NET_ADMIN', 'NET_ADMIN']",
        ),
        ("logging = { max_size = '1M' }", "logging.max_size = 1048576"),
        (
            "logging = { max_size = '1024K' }",
            "logging = { max_size = '1M' }",
        ),
        (
            "sysctls = { 'net.core.somaxconn' = 5 }",
            "sysctls = { 'net.core.somaxconn' = '5' }",
        ),
        ("ulimits = { nofile = 5 }", "ulimits = { nofile = '5:5' }"),
        (
            "ulimits = { nofile = -1 }",
            "ulimits = { nofile = { soft = 'unlimited', hard = -1 } }",
        ),
        ("env = { A = '1', B = '2' }", "env = { B = '2', A = '1' }"),
        ("tmpfs = ['/a/', '/b']", "tmpfs = ['/b', '/a']"),
        ("devices = ['/dev/fuse']", "devices = ['/dev/fuse:/dev/fuse:mwr']"),
        ("enabled = true", "# nothing"),
        ("networks = []", ""),
        (
            "read_only = false\nhostname = 'x'",
            "hostname = \"x\" # comment\nread_only = false",
        ),
    ] {
        let (one, other) = (format!("{base}{one}"), format!("{base}{other}"));
        assert_eq!(container(&one), container(&other), "{one}\n---\n{other}");
    }
    assert_ne!(
        container(&format!("{base}ports = ['80:80']")),
        container(&format!("{base}ports = ['0.0.0.0:80:80']"))
    );
}

#[test]
fn order_of_tables_and_comments_change_nothing() {
    let one = Source::new(
        "x.toml",
        "[container.a]\nrootfs = '/a'\n[container.a.restart]\npolicy = 'no'\n[container.b]\nrootfs = '/b'\n[network.n]\n",
    );
    let other = Source::new(
        "x.toml",
        "# hello\n[network.n]\n[container.b]\nrootfs = '''/b'''\n\n[container.a.restart]\npolicy = \"no\"\n[container.a]\nrootfs = '/a' # there\n",
    );
    let (one, other) = (accepted(&one, &[]), accepted(&other, &[]));
    let specs = |f: &ParsedFile| {
        f.containers
            .iter()
            .map(|c| (c.name.clone(), c.spec.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(specs(&one), specs(&other));
    assert_eq!(one.networks[0].spec, other.networks[0].spec);
}

#[test]
fn origins_name_the_place_of_each_key() {
    let source = Source::new(
        "web.toml",
        "# top\n[container.web]\nimage = 'oci:/x'\n  ports = ['80']\n[container.web.restart]\npolicy = 'no'\n",
    );
    let origin = accepted(&source, &[]).containers.remove(0).origin;
    assert_eq!(
        (origin.file.as_str(), origin.line, origin.column),
        ("web.toml", 2, 1)
    );
    assert_eq!(origin.key("ports").to_string(), "web.toml:4:3");
    assert_eq!(origin.key("restart").to_string(), "web.toml:5:1");
    assert_eq!(origin.key("restart.policy").to_string(), "web.toml:6:1");
    assert_eq!(origin.key("not.written"), origin.location());
    let dotted = accepted(&good("dotted.toml"), &[]).containers.remove(0).origin;
    assert_eq!(
        (dotted.line, dotted.column),
        (1, 11),
        "the name, where there is no header"
    );
}

#[test]
fn drop_ins_merge_tables_and_replace_the_rest() {
    let main = Source::new(
        "web.toml",
        "[container.web]\nimage = 'oci:/x'\nports = ['80:80', '81:81']\nenv = { A = '1', B = '2' }\nrestart = { policy = 'no', backoff = '2s' }\n",
    );
    let first = Source::new(
        "web.toml.d/10-a.toml",
        "\n[container.web]\nports = ['90:90']\nenv.B = '3'\n[container.other]\nrootfs = '/o'\n",
    );
    let second = Source::new(
        "web.toml.d/20-b.toml",
        "[container.web]\nenv.C = '4'\nrestart.backoff = '3s'\n",
    );
    let parsed = accepted(&main, &[first, second]);
    let names: Vec<&str> = parsed.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["other", "web"]);
    let web = &parsed.containers[1];
    assert_eq!(web.spec.ports.len(), 1);
    assert_eq!(web.spec.ports[0].host, Some((90, 90)));
    let env: Vec<String> = web.spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=1", "B=3", "C=4"]);
    assert_eq!(web.spec.restart.backoff.as_secs(), 3);
    assert_eq!(web.spec.restart.policy, model::spec::RestartPolicy::No);
    assert_eq!(web.origin.file, "web.toml");
    assert_eq!(web.origin.key("image").to_string(), "web.toml:2:1");
    assert_eq!(web.origin.key("ports").to_string(), "web.toml.d/10-a.toml:3:1");
    assert_eq!(web.origin.key("env.C").to_string(), "web.toml.d/20-b.toml:2:5");
    assert_eq!(parsed.containers[0].origin.file, "web.toml.d/10-a.toml");
    assert_eq!(parsed.file, "web.toml");
}

#[test]
fn errors_in_drop_ins_name_the_drop_in() {
    let main = Source::new("web.toml", "[container.web]\nimage = 'oci:/x'\n");
    let over = Source::new("web.toml.d/x.toml", "[container.web]\n\nread_only = 1\n");
    let Outcome::Broken {
        diagnostics,
        declares,
    } = parse(&main, &[over])
    else {
        panic!("accepted")
    };
    assert_eq!(diagnostics.len(), 1);
    assert_eq!(diagnostics[0].at.to_string(), "web.toml.d/x.toml:3:13");
    assert_eq!(diagnostics[0].tables, ["container.web"]);
    assert_eq!(declares, [("container".to_owned(), "web".parse().unwrap())]);
}

#[test]
fn a_broken_file_still_tells_what_it_declares() {
    let source = Source::new(
        "x.toml",
        "[container.web]\nimage = oci\n[network.front]\n[container.db]\nx = [\n[volume.v]\n[image.Bad]\n",
    );
    let Outcome::Broken {
        diagnostics,
        declares,
    } = parse(&source, &[])
    else {
        panic!("accepted")
    };
    assert_eq!(
        diagnostics[0].at,
        Location {
            file: "x.toml".to_owned(),
            line: Some(2),
            column: Some(9)
        }
    );
    let shown: Vec<String> = declares
        .iter()
        .map(|(kind, name)| format!("{kind}.{name}"))
        .collect();
    for wanted in ["container.web", "container.db", "network.front"] {
        assert!(shown.iter().any(|s| s == wanted), "{wanted} is not in {shown:?}");
    }
}

#[test]
fn an_image_by_name_is_found_in_every_file_of_the_directory() {
    let user = Source::new("a.toml", "[container.a]\nimage = 'base'\n");
    let image = Source::new("b.toml", "[image.base]\npull = 'oci:/srv/base'\n");
    let alone = accepted(&user, &[]);
    let key = alone.containers[0].spec.image.key();
    assert_eq!(
        key, "docker.io/library/base:latest",
        "alone it is an image of docker.io"
    );
    let outcomes = parse_all(&[(user, vec![]), (image, vec![])], &["docker.io".to_owned()]);
    let Outcome::Parsed(parsed) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(parsed.containers[0].spec.image.key(), "oci:/srv/base");
}

/// Every key of the table is known to a reader: a date, which no key takes, is an error of that very key.
#[test]
fn every_key_is_read() {
    for (keys, settings) in [(DESIRED, false), (SETTINGS, true)] {
        for key in keys
            .iter()
            .filter(|key| !key.path.ends_with('*') && !matches!(key.ty, Type::Named))
        {
            let text = sample(key);
            let source = Source::new("x.toml", text.clone());
            let diagnostics = if settings {
                parse_settings(&source).unwrap_err()
            } else {
                match parse(&source, &[]) {
                    Outcome::Broken { diagnostics, .. } => diagnostics,
                    Outcome::Parsed(_) => panic!("{text} was accepted"),
                }
            };
            let said = diagnostics
                .iter()
                .any(|d| d.message.contains("not a date") && d.message.contains(key.name()));
            assert!(said, "{text}\n{diagnostics:#?}");
            if !key.status.works() {
                let refused = diagnostics
                    .iter()
                    .any(|d| d.message.contains("not supported yet"));
                assert!(refused, "{text}\n{diagnostics:#?}");
            }
        }
    }
}

/// A file that sets the key to a date. Keys inside of lists and tables by name get one around them.
fn sample(key: &Key) -> String {
    let inside_list = ["container.*.ports", "container.*.volumes"];
    let inside_map = ["container.*.ulimits", "container.*.depends_on"];
    let parent = key.parent();
    let date = format!("{} = 1979-05-27", key.name());
    if inside_list.contains(&parent) {
        let extra = if parent.ends_with("ports") {
            ""
        } else {
            "type = 'bind', "
        };
        let extra = if key.name() == "type" { "" } else { extra };
        let last = parent.rsplit('.').next().unwrap();
        return format!("[container.a]\n{last} = [{{ {extra}{date} }}]\n");
    }
    let named = parent.replace(".*", ".a");
    if inside_map.contains(&parent) {
        return format!("[{named}]\nnofile = {{ {date} }}\n");
    }
    if parent.is_empty() {
        format!("{date}\n")
    } else {
        format!("[{named}]\n{date}\n")
    }
}
