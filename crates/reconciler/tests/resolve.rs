//! Contradictions over tables and files: one error names every party, what takes part is held, the rest goes on.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

use model::desired::Desired;
use model::file::{Outcome, Source};
use model::image::ImageSource;
use model::name::Name;
use model::spec::*;
use reconciler::resolve::{Broken, resolve};

/// Files `a.toml`, `b.toml`, … of these texts.
fn files(texts: &[&str]) -> Desired {
    let (mut parsed, mut broken) = (Vec::new(), Vec::new());
    for (text, letter) in texts.iter().zip('a'..) {
        let file = format!("{letter}.toml");
        match model::file::parse(&Source::new(file.clone(), *text), &[]) {
            Outcome::Parsed(content) => parsed.push(content),
            Outcome::Broken {
                diagnostics,
                declares,
            } => broken.push(Broken {
                file,
                diagnostics,
                declares,
            }),
        }
    }
    resolve(&parsed, &broken, &Settings::default())
}

fn errors(desired: &Desired) -> Vec<String> {
    let line = |e: &model::diagnostic::Diagnostic| {
        let also: Vec<String> = e.also.iter().map(|l| format!(" + {l}")).collect();
        format!("{}{}: {}", e.at, also.concat(), e.message)
    };
    desired.errors.iter().map(line).collect()
}

fn names<T>(map: &std::collections::BTreeMap<Name, T>) -> Vec<&str> {
    map.keys().map(Name::as_str).collect()
}

const IMAGE: &str = "image = \"oci:/srv/i\"";

fn container(name: &str, rest: &str) -> String {
    format!("[container.{name}]\n{IMAGE}\n{rest}\n")
}

/// Texts of the files; the only error; what is left of the containers.
fn case(texts: &[&str], error: &str, left: &[&str]) {
    let desired = files(texts);
    assert_eq!(errors(&desired), [error]);
    assert_eq!(names(&desired.containers), left, "{error}");
}

#[test]
fn a_name_is_declared_once() {
    let a = container("web", "") + &container("other", "");
    let b = container("web", "");
    case(
        &[&a, &b],
        "a.toml:1:1 + b.toml:1:1: container web is declared twice",
        &["other"],
    );
    let disabled = container("web", "enabled = false");
    let desired = files(&[&a, &disabled]);
    assert_eq!(errors(&desired), [""; 0]);
    assert_eq!(names(&desired.containers), ["other", "web"]);
}

#[test]
fn a_host_port_is_published_once() {
    let a = container("a", "ports = [\"80:80\"]");
    let b = container("b", "ports = [\"10.0.0.1:80:80\", \"9000:90\"]");
    let c = container("c", "ports = [\"80:80/udp\", \"127.0.0.1:9001:80\"]");
    case(
        &[&a, &b, &c],
        "a.toml:3:1 + b.toml:3:1: host port 80/tcp is published twice: by container a and container b",
        &["c"],
    );
    let one = container("a", "ports = [\"10.0.0.1:80:80\"]");
    let two = container("b", "ports = [\"10.0.0.2:80:80\"]");
    assert_eq!(
        errors(&files(&[&one, &two])),
        [""; 0],
        "two addresses are two ports"
    );
    let range = container("a", "ports = [\"7000-7010:7000-7010\"]");
    let inside = container("b", "ports = [\"7010:80\"]");
    case(
        &[&range, &inside],
        "a.toml:3:1 + b.toml:3:1: host port 7010/tcp is published twice: by container a and container b",
        &[],
    );
    let own = container("a", "ports = [\"80:80\", \"80:81\"]");
    case(
        &[&own],
        "a.toml:3:1 + a.toml:3:1: host port 80/tcp is published twice: by container a",
        &[],
    );
}

#[test]
fn nothing_is_published_at_a_tunnels_port() {
    let mesh = "[network.mesh]\ndriver = \"overlay\"\nsubnet = \"10.81.0.0/16\"\n[network.mesh.overlay]\nvni = 7\n\
                local = \"192.0.2.1\"\npeers = []\n";
    let taken = container("a", "ports = [\"4780-4790:4780-4790/udp\"]");
    let beside = container(
        "b",
        "ports = [\"4789:80\", \"192.0.2.9:4789:53/udp\", \"127.0.0.1::53/udp\"]",
    );
    let desired = files(&[mesh, &beside]);
    assert_eq!(errors(&desired), [""; 0]);
    let other = container("c", "ports = [\"4789:80\"]");
    case(
        &[mesh, &taken, &other],
        "b.toml:3:1 + a.toml:1:1: port 4789/udp is the tunnel's of network mesh, and container a publishes it",
        &["c"],
    );
}

#[test]
fn what_is_named_is_declared() {
    let text = container("web", "networks = [\"fornt\"]") + "[network.front]\n";
    let desired = files(&[&text]);
    assert_eq!(
        errors(&desired),
        ["a.toml:3:1: container web names network fornt, which is not declared"]
    );
    assert_eq!(desired.errors[0].hint.as_deref(), Some("did you mean front?"));
    assert_eq!(names(&desired.networks), ["default", "front"]);
    let mut share = spec();
    share.network_mode = NetworkMode::Container("db".parse().unwrap());
    let desired = coded(vec![("web", share)], Vec::new());
    assert_eq!(
        errors(&desired),
        ["a.toml:1:1: container web names container db, which is not declared"]
    );
    let default = container("web", "networks = [\"default\"]");
    assert_eq!(errors(&files(&[&default])), [""; 0]);
}

#[test]
fn a_name_in_a_broken_file_is_held_and_known() {
    let good = container("web", "networks = [\"front\"]");
    let bad = "[network.front]\nsubnet = 3\n[container.x]\n";
    let desired = files(&[&good, bad]);
    assert_eq!(names(&desired.containers), ["web"], "{:?}", errors(&desired));
    assert!(desired.held.files.contains("b.toml"));
    assert!(desired.held.networks.contains("front") && desired.held.containers.contains("x"));
}

#[test]
fn subnets_and_addresses_do_not_meet() {
    let overlap =
        "[network.a]\nsubnet = \"10.1.0.0/16\"\n[network.b]\nsubnet = \"10.1.2.0/24\"\n[network.c]\n";
    let desired = files(&[overlap]);
    assert_eq!(
        errors(&desired),
        ["a.toml:2:1 + a.toml:4:1: subnet 10.1.0.0/16 of network a overlaps 10.1.2.0/24 of network b"]
    );
    assert_eq!(names(&desired.networks), ["c", "default"]);
}

#[test]
fn fixed_addresses_fit_and_are_given_once() {
    let fixed = |ip: &str| {
        let mut usage = NetworkUse::new("n".parse().unwrap());
        usage.ip = Some(ip.parse().unwrap());
        let mut spec = spec();
        spec.networks = vec![usage];
        spec
    };
    for (ip, what) in [
        ("10.1.0.5", ""),
        (
            "10.2.0.5",
            "a.toml:1:1: address 10.2.0.5 of container web is no host address of network n (10.1.0.0/24)",
        ),
        (
            "10.1.0.255",
            "a.toml:1:1: address 10.1.0.255 of container web is no host address of network n (10.1.0.0/24)",
        ),
        (
            "10.1.0.1",
            "a.toml:1:1: address 10.1.0.1 of container web is the gateway of network n",
        ),
    ] {
        assert_eq!(
            errors(&coded(vec![("web", fixed(ip))], Vec::new())).concat(),
            what
        );
    }
    let (a, b, c) = (fixed("10.1.0.5"), fixed("10.1.0.5"), fixed("10.1.0.6"));
    let desired = coded(vec![("a", a), ("b", b), ("c", c)], Vec::new());
    assert_eq!(names(&desired.containers), ["c"]);
    assert_eq!(
        errors(&desired),
        ["a.toml:1:1 + a.toml:2:1: address 10.1.0.5 in network n is given to a and b"]
    );
}

/// Tables whose keys the file format may not take yet.
fn coded(list: Vec<(&str, ContainerSpec)>, volumes: Vec<(&str, bool)>) -> Desired {
    let origin = |line| Origin {
        file: "a.toml".to_owned(),
        line,
        column: 1,
        ..Origin::default()
    };
    let containers = list
        .into_iter()
        .zip(1..)
        .map(|((name, spec), line)| Parsed {
            name: name.parse().unwrap(),
            spec,
            origin: origin(line),
        })
        .collect();
    let volume = |exclusive| VolumeSpec {
        driver: VolumeDriver::Local,
        device: None,
        options: Vec::new(),
        labels: Default::default(),
        keep: true,
        exclusive,
    };
    let volumes = volumes
        .into_iter()
        .map(|(name, exclusive)| Parsed {
            name: name.parse().unwrap(),
            spec: volume(exclusive),
            origin: origin(99),
        })
        .collect();
    let subnet = Some("10.1.0.0/24".parse().unwrap());
    let network = NetworkSpec {
        subnet,
        ..NetworkSpec::default()
    };
    let networks = vec![Parsed {
        name: "n".parse().unwrap(),
        spec: network,
        origin: origin(90),
    }];
    let file = ParsedFile {
        file: "a.toml".to_owned(),
        containers,
        networks,
        volumes,
        ..ParsedFile::default()
    };
    resolve(&[file], &[], &Settings::default())
}

fn spec() -> ContainerSpec {
    ContainerSpec::new(ImageSource::Rootfs { dir: "/srv".into() })
}

fn needs(names: &[(&str, Condition)]) -> ContainerSpec {
    let mut spec = spec();
    for (name, condition) in names {
        spec.depends_on.insert(
            name.parse().unwrap(),
            Dependency {
                condition: *condition,
                restart: false,
            },
        );
    }
    spec
}

#[test]
fn circles_are_one_error_with_all_in_it() {
    use Condition::Started;
    let desired = coded(
        vec![
            ("a", needs(&[("b", Started)])),
            ("b", needs(&[("c", Started)])),
            ("c", needs(&[("a", Started)])),
            ("d", needs(&[("a", Started)])),
            ("e", spec()),
        ],
        Vec::new(),
    );
    assert_eq!(
        errors(&desired),
        ["a.toml:1:1 + a.toml:2:1 + a.toml:3:1: containers wait for each other: a → b → c → a"]
    );
    assert_eq!(names(&desired.containers), ["d", "e"]);
    let own = coded(vec![("a", needs(&[("a", Started)]))], Vec::new());
    assert_eq!(
        errors(&own),
        ["a.toml:1:1: containers wait for each other: a → a"]
    );
}

#[test]
fn conditions_that_can_never_hold_are_refused() {
    let waits = needs(&[("job", Condition::Completed)]);
    let desired = coded(vec![("a", waits.clone()), ("job", spec())], Vec::new());
    let error =
        "a.toml:1:1 + a.toml:2:1: container a waits for job to complete, which is always started again";
    assert_eq!(errors(&desired), [error]);
    let mut once = spec();
    once.restart.policy = RestartPolicy::No;
    assert_eq!(
        errors(&coded(vec![("a", waits), ("job", once)], Vec::new())),
        [""; 0]
    );
}

#[test]
fn replicas_are_told_apart() {
    let mut many = spec();
    many.replicas = 3;
    let mut shares = spec();
    shares.network_mode = NetworkMode::Container("many".parse().unwrap());
    let desired = coded(vec![("many", many.clone()), ("one", shares)], Vec::new());
    assert!(errors(&desired)[0].contains("does not say which of many's 3 replicas"));
    let desired = coded(vec![("many", many.clone()), ("many-3", spec())], Vec::new());
    assert!(errors(&desired)[0].contains("container many-3 has the name of an instance of many"));
    many.volumes.push(VolumeUse {
        source: VolumeSource::Named("data".parse().unwrap()),
        target: "/data".to_owned(),
        read_only: false,
    });
    let desired = coded(vec![("many", many.clone())], vec![("data", true)]);
    assert!(errors(&desired)[0].contains("has 3 replicas and the exclusive volume data"));
    assert_eq!(
        errors(&coded(vec![("many", many)], vec![("data", false)])),
        [""; 0]
    );
}

#[test]
fn an_exclusive_volume_has_one_container() {
    let volume = "[volume.data]\nexclusive = true\n";
    let mounts = |name| container(name, "volumes = [\"data:/data\", \"data:/again\"]");
    let texts = [volume.to_owned(), mounts("a"), mounts("b"), container("c", "")];
    let error =
        "a.toml:2:1 + b.toml:3:1 + c.toml:3:1: volume data is exclusive, and containers a, b mount it";
    case(&texts.each_ref().map(String::as_str), error, &["c"]);
    let desired = files(&[volume, &mounts("a")]);
    assert_eq!(errors(&desired), Vec::<String>::new());
}

#[test]
fn links_lead_to_others_on_the_same_network() {
    let nets = "[network.a]\n[network.b]\n";
    let web = |rest: &str| container("web", rest);
    let db = |rest: &str| container("db", rest);
    let refused = |web: &str, db: &str, error: &str, left: &[&str]| case(&[nets, web, db], error, left);
    let linked = web("links = [\"db:database\"]");
    let fine = files(&[nets, &linked, &db("")]);
    assert_eq!(errors(&fine), [""; 0]);
    refused(
        &linked,
        "",
        "b.toml:3:1: container web names container db, which is not declared",
        &[],
    );
    refused(
        &web("links = [\"web:me\"]"),
        &db(""),
        "b.toml:3:1: container web is linked to itself",
        &["db"],
    );
    refused(
        &web("links = [\"db:web\"]"),
        &db(""),
        "b.toml:3:1: container web has its own name as the alias of a link",
        &["db"],
    );
    refused(
        &web("links = [\"db\"]\nnetworks = [\"a\"]"),
        &db("networks = [\"b\"]"),
        "b.toml:3:1 + c.toml:3:1: container web is linked to db, but they share no network",
        &[],
    );
    refused(
        &linked,
        &db("network_mode = \"host\""),
        "b.toml:3:1 + c.toml:3:1: container web is linked to db, which has no network of its own: network_mode = \"host\"",
        &[],
    );
    refused(
        &linked,
        &db("links = [\"web\"]"),
        "c.toml:3:1 + b.toml:3:1: containers wait for each other: db → web → db",
        &[],
    );
    refused(
        &web("links = [\"db-2\"]"),
        &db("replicas = 2"),
        "b.toml:3:1: container web names db-2, which is one of the 2 instances of container db",
        &["db", "db-2"],
    );
}

/// Where each of a container's volumes is from, as `SOURCE:TARGET[:ro]`.
fn mounts(desired: &Desired, container: &str) -> Vec<String> {
    let uses = desired.containers[container].spec.volumes.iter();
    let line = |usage: &VolumeUse| {
        let source = match &usage.source {
            VolumeSource::Named(name) => name.to_string(),
            VolumeSource::Bind { source, .. } => source.display().to_string(),
            VolumeSource::Anonymous => "anonymous".to_owned(),
            VolumeSource::Tmpfs { .. } => "tmpfs".to_owned(),
        };
        format!(
            "{source}:{}{}",
            usage.target,
            if usage.read_only { ":ro" } else { "" }
        )
    };
    uses.map(line).collect()
}

const LENDER: &str =
    "volumes = [\"d:/d\", \"/srv/b:/b:ro\", \"r:/r\", { type = \"tmpfs\", target = \"/t\" }]";

#[test]
fn volumes_of_others_are_written_out() {
    let desired = files(&[
        &container("data", LENDER),
        &container("all", "volumes_from = [\"data\"]"),
        &container(
            "read",
            "volumes_from = [\"data:ro\"]\nvolumes = [\"own:/d\"]\ntmpfs = [\"/r\"]",
        ),
        &container("chain", "volumes_from = [\"read\"]\nvolumes = [\"more:/more\"]"),
        &container("both", "volumes_from = [\"data\", \"chain\"]"),
    ]);
    assert_eq!(errors(&desired), [""; 0]);
    assert_eq!(mounts(&desired, "all"), ["/srv/b:/b:ro", "d:/d", "r:/r"]);
    assert_eq!(mounts(&desired, "read"), ["/srv/b:/b:ro", "own:/d"]);
    assert_eq!(
        mounts(&desired, "chain"),
        ["/srv/b:/b:ro", "own:/d", "more:/more"]
    );
    assert_eq!(
        mounts(&desired, "both"),
        ["/srv/b:/b:ro", "own:/d", "more:/more", "r:/r"]
    );
    assert_eq!(mounts(&desired, "data").len(), 4, "the lender keeps what it has");
}

#[test]
fn an_anonymous_volume_that_is_lent_has_a_name_and_is_not_kept() {
    let lender = container("data", "volumes = [\"/d\", \"/e\"]");
    let desired = files(&[&lender, &container("app", "volumes_from = [\"data\"]")]);
    assert_eq!(errors(&desired), [""; 0]);
    let lent = mounts(&desired, "data");
    assert_eq!(mounts(&desired, "app"), lent);
    assert!(lent.iter().all(|m| m.starts_with("data-")), "{lent:?}");
    assert_eq!(desired.volumes.len(), 2);
    assert!(
        desired
            .volumes
            .values()
            .all(|v| !v.spec.keep && v.spec.driver == VolumeDriver::Local)
    );
    let alone = files(&[&lender]);
    assert_eq!(mounts(&alone, "data"), ["anonymous:/d", "anonymous:/e"]);
    // Of several instances each has its own.
    let several = container("data", "replicas = 2\nvolumes = [\"/d\"]");
    let desired = files(&[&several, &container("app", "volumes_from = [\"data\"]")]);
    let said = errors(&desired).join("\n");
    assert!(
        said.contains("each of whose 2 instances has one of its own at /d"),
        "{said}"
    );
}

#[test]
fn volumes_from_nobody_and_in_a_circle_are_errors() {
    let off = container("data", "enabled = false\nvolumes = [\"d:/d\"]");
    let app = container("app", "volumes_from = [\"data\"]");
    let said = errors(&files(&[&off, &app])).join("\n");
    assert!(
        said.contains("names container data, which is not declared"),
        "{said}"
    );
    let one = container("one", "volumes = [\"a:/a\"]\nvolumes_from = [\"two\"]");
    let two = container("two", "volumes = [\"b:/b\"]\nvolumes_from = [\"one\"]");
    let said = errors(&files(&[&one, &two])).join("\n");
    assert!(said.contains("wait for each other: one → two → one"), "{said}");
    // An exclusive volume is nobody else's either.
    let exclusive = "[volume.d]\nexclusive = true\n";
    let said = errors(&files(&[exclusive, &container("data", LENDER), &app])).join("\n");
    assert!(
        said.contains("volume d is exclusive, and containers app, data mount it"),
        "{said}"
    );
}

#[test]
fn who_has_volumes_from_a_table_that_is_held_is_held_too() {
    let app = container("app", "volumes_from = [\"data\"]");
    let chain = container("chain", "volumes_from = [\"app\"]");
    let web = container("web", "");
    // Another one claims the same host port.
    let data = container("data", &format!("{LENDER}\nports = [\"8080:80\"]"));
    let other = container("other", "ports = [\"8080:80\"]");
    let desired = files(&[&data, &app, &chain, &other, &web]);
    assert_eq!(names(&desired.containers), ["web"]);
    let held: Vec<&str> = desired.held.containers.iter().map(Name::as_str).collect();
    assert_eq!(held, ["app", "chain", "data", "other"]);
}
