//! Networks, names, volumes, images and limits: each rule with the smallest host that shows it.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where its world is not as it was made"
)]

mod lab;
mod sim;

use std::collections::BTreeSet;

use lab::{Lab, lines, name, spec};
use model::action::{Action, Noun};
use model::firewall::{Backend, Protocol};
use model::image::ImageSource;
use model::observed::{BackendSeen, ForeignDrop, Phase};
use model::spec::*;
use model::status::{NetworkStatus, State};

fn network(octet: u8, internal: bool) -> NetworkSpec {
    NetworkSpec {
        subnet: Some(format!("10.80.{octet}.0/24").parse().unwrap()),
        internal,
        ..NetworkSpec::default()
    }
}

/// `web` on `back`, which is internal, and `front`.
fn on_two() -> Lab {
    let mut web = spec();
    web.networks = vec![NetworkUse::new(name("back")), NetworkUse::new(name("front"))];
    let mut lab = Lab::new(&[("web", web)]);
    lab.networks.insert(name("back"), network(1, true));
    lab.networks.insert(name("front"), network(2, false));
    lab
}

#[test]
fn several_networks_are_joined_in_order_and_the_first_with_a_way_out_has_the_default_route() {
    let mut lab = on_two();
    assert!(lab.settle().is_empty());
    let places = |lab: &Lab| -> Vec<(String, String, bool)> {
        let list = &lab.ledger.containers["web"].current.attachments;
        list.iter()
            .map(|a| {
                (
                    a.device.clone(),
                    a.network.to_string(),
                    a.v4().unwrap().gateway.is_some(),
                )
            })
            .collect()
    };
    let place = |device: &str, network: &str, way_out| (device.to_owned(), network.to_owned(), way_out);
    assert_eq!(
        places(&lab),
        [place("eth0", "back", false), place("eth1", "front", true)]
    );
    let servers: Vec<String> = lab.started[0].dns.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.80.1.1", "10.80.2.1"]);
    // The first one gets a way out: the route moves there.
    lab.networks.insert(name("back"), network(1, false));
    assert!(lab.settle().is_empty());
    assert_eq!(
        places(&lab),
        [place("eth0", "back", true), place("eth1", "front", false)]
    );
    assert_eq!(lab.seen("web").run_no, 2);
}

#[test]
fn aliases_and_allow_lists_change_in_place() {
    let mut lab = on_two();
    lab.spec("web").ports = vec![PortSpec {
        ip: None,
        host: Some((8080, 8080)),
        container: (80, 80),
        protocol: Protocol::Tcp,
        allow: vec!["192.168.0.0/16".parse().unwrap()],
    }];
    lab.settle();
    let allowed = |lab: &Lab| lab.host.firewall.as_ref().unwrap().ports[0].allow.clone();
    assert_eq!(allowed(&lab), ["192.168.0.0/16".parse().unwrap()]);
    let id = lab.id("web");
    lab.spec("web").networks[0].aliases = vec![name("www")];
    lab.spec("web").networks[0].priority = 7;
    lab.spec("web").ports[0].allow = vec!["10.0.0.0/8".parse().unwrap()];
    assert!(lab.settle().is_empty());
    assert_eq!((lab.id("web"), lab.seen("web").run_no), (id, 1));
    assert_eq!(allowed(&lab), ["10.0.0.0/8".parse().unwrap()]);
    let names = &lab.host.dns.as_ref().unwrap().containers["web"].endpoints["back"].names;
    assert_eq!(names, &["web", "www"]);
}

#[test]
fn a_fixed_address_and_mac_are_given_and_another_one_replaces() {
    let mut lab = on_two();
    let mac = "02:00:00:00:00:07".parse().unwrap();
    lab.spec("web").networks[1].ip = Some("10.80.2.77".parse().unwrap());
    lab.spec("web").networks[1].mac = Some(mac);
    lab.settle();
    let before = lab.id("web");
    let place = lab.ledger.containers["web"].current.attachments[1].clone();
    assert_eq!(
        (place.v4().unwrap().ip.to_string().as_str(), place.mac),
        ("10.80.2.77", mac)
    );
    lab.spec("web").networks[1].ip = Some("10.80.2.78".parse().unwrap());
    lab.settle();
    assert_ne!(lab.id("web"), before);
    assert_eq!(
        lab.host.dns.as_ref().unwrap().containers["web"].endpoints["front"].ips[0].to_string(),
        "10.80.2.78"
    );
}

#[test]
fn what_an_image_exposes_is_published_once_and_kept() {
    let mut lab = Lab::new(&[("web", spec())]);
    lab.spec("web").publish_all = true;
    lab.spec("web").ports = vec![PortSpec {
        ip: None,
        host: Some((8080, 8080)),
        container: (80, 80),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
    }];
    lab.host.exposes = ["80", "53/UDP", "7000-7002/tcp", "9/sctp", "x"]
        .map(str::to_owned)
        .to_vec();
    lab.settle();
    let published = |lab: &Lab| -> BTreeSet<(u16, u16, String)> {
        let rules = &lab.host.firewall.as_ref().unwrap().ports;
        rules
            .iter()
            .map(|r| (r.target_port, r.host_port, r.protocol.to_string()))
            .collect()
    };
    let first = published(&lab);
    let inside: Vec<(u16, &str)> = first.iter().map(|(port, _, p)| (*port, p.as_str())).collect();
    assert_eq!(
        inside,
        [
            (53, "udp"),
            (80, "tcp"),
            (7000, "tcp"),
            (7001, "tcp"),
            (7002, "tcp")
        ]
    );
    lab.spec("web").command = Some(vec!["other".to_owned()]);
    lab.settle();
    assert_eq!(published(&lab), first, "its successor has the same");
    lab.host.exposes = vec!["1-65535/tcp".to_owned()];
    lab.host
        .sources
        .insert(lab.containers["web"].image.key(), Some(2));
    let said = lab.settle();
    assert!(said[0].contains("more than 256"), "{said:?}");
}

#[test]
fn names_are_answered_before_a_container_starts_and_nothing_that_runs_is_touched_for_them() {
    let mut lab = Lab::new(&[("web", spec())]);
    lab.pass();
    let plan = lab.plan();
    assert!(
        lab.host.dns.as_ref().unwrap().containers.contains_key("web"),
        "{:?}",
        lines(&plan)
    );
    lab.settle();
    lab.host.dns = None;
    let plan = lab.plan();
    assert_eq!(lines(&plan), ["+ dns: the name server does not run"]);
    // A second one waits while the server cannot be had, and says why; the first runs on.
    lab.containers.insert(name("z"), spec());
    let plan = lab.plan();
    let failure = model::action::Failure {
        message: "port 53 is taken".to_owned(),
        id: None,
        count: 3,
        at: lab.now,
        of: plan.actions[0].action.subject().1,
    };
    lab.failures.insert(Noun::Dns, failure);
    let plan = lab.plan();
    assert_eq!(
        lines(&plan),
        [
            "? dns: port 53 is taken",
            "? container z: waits for the name server: port 53 is taken"
        ]
    );
    assert!(lab.runs("web"));
}

#[test]
fn a_network_without_names_has_the_hosts_servers_and_a_list_of_ones_own_is_kept() {
    let mut lab = on_two();
    for network in lab.networks.values_mut() {
        network.dns = false;
    }
    lab.settle();
    assert!(lab.started[0].dns.is_empty() && lab.host.dns.is_none());
    lab.networks.get_mut("front").unwrap().dns = true;
    assert!(lab.settle().is_empty());
    assert_eq!(
        lab.started[1].dns,
        ["10.80.2.1".parse::<std::net::IpAddr>().unwrap()],
        "it is started again to ask there"
    );
    lab.spec("web").dns = vec!["192.0.2.53".parse().unwrap()];
    lab.settle();
    assert_eq!(lab.started.last().unwrap().dns, lab.containers["web"].dns);
}

fn mounts(volume: &str) -> VolumeUse {
    VolumeUse {
        source: VolumeSource::Named(name(volume)),
        target: "/data".to_owned(),
        read_only: false,
    }
}

fn with_volume() -> Lab {
    let mut db = spec();
    db.volumes = vec![mounts("data")];
    Lab::new(&[("db", db)])
}

#[test]
fn a_volume_is_there_before_who_mounts_it_and_stays_after() {
    let mut lab = with_volume();
    let plan = lab.pass();
    assert!(
        lines(&plan).contains(&"+ volume data: container db mounts it (all.toml:1)".to_owned()),
        "{:?}",
        lines(&plan)
    );
    assert!(lab.settle().is_empty());
    let path = &lab.host.volumes["data"].path;
    assert_eq!(&lab.started[0].volumes["data"], path);
    let shown = lab.status().volumes;
    assert_eq!(
        (
            shown[0].name.as_str(),
            shown[0].driver.as_str(),
            shown[0].kept,
            &shown[0].used_by
        ),
        ("data", "local", true, &vec!["db".to_owned()])
    );
    assert_eq!(shown[0].path, path.display().to_string());
    lab.containers.clear();
    lab.settle();
    assert!(lab.host.volumes.contains_key("data"));
    assert_eq!(lab.status().volumes[0].used_by, Vec::<String>::new());
}

#[test]
fn a_volume_goes_with_its_table_and_its_users_when_the_table_says_so() {
    let mut lab = with_volume();
    let mut table = VolumeSpec {
        keep: false,
        ..VolumeSpec::default()
    };
    lab.volumes.insert(name("data"), table.clone());
    lab.settle();
    assert!(!lab.status().volumes[0].kept);
    table.labels.insert("tier".to_owned(), "back".to_owned());
    lab.volumes.insert(name("data"), table);
    let plan = lab.pass();
    assert_eq!(
        lines(&plan),
        ["~ volume data: labels none → tier = back (all.toml:1)"]
    );
    // The table alone: it is still mounted.
    lab.volumes.clear();
    assert!(lab.settle().is_empty());
    assert!(lab.host.volumes.contains_key("data"));
    lab.containers.clear();
    lab.pass();
    lab.settle();
    assert!(lab.host.volumes.is_empty() && lab.ledger.volumes.is_empty());
}

#[test]
fn a_volume_whose_table_comes_back_as_it_is_removed_was_not_lost() {
    let table = VolumeSpec {
        keep: false,
        ..VolumeSpec::default()
    };
    let mut lab = Lab::new(&[]);
    lab.volumes.insert(name("data"), table.clone());
    lab.settle();
    lab.volumes.clear();
    lab.pass();
    let plan = lab.pass();
    assert_eq!(
        lines(&plan),
        ["- volume data: its table is gone, and keep = false (all.toml)"]
    );
    lab.volumes.insert(name("data"), table);
    assert_eq!(lines(&lab.plan()), ["+ volume data: is declared (all.toml:1)"]);
    assert!(lab.settle().is_empty());
}

#[test]
fn a_volume_with_data_is_not_made_of_something_else() {
    let mut lab = with_volume();
    lab.settle();
    let bind = VolumeSpec {
        driver: VolumeDriver::Bind,
        device: Some("/srv/x".into()),
        ..VolumeSpec::default()
    };
    lab.volumes.insert(name("data"), bind);
    let said = lab.settle();
    assert!(
        said[0].starts_with("? volume data: is there already with driver local"),
        "{said:?}"
    );
    assert!(lab.runs("db"));
    assert!(!lab.status().converged);
    assert_eq!(lab.host.volumes["data"].spec.driver, VolumeDriver::Local);
}

fn from_registry(pull: PullPolicy) -> Lab {
    let mut web = spec();
    web.image = ImageSource::Registry {
        reference: "registry.example/i2:latest".to_owned(),
    };
    web.pull = pull;
    Lab::new(&[("web", web)])
}

fn asks(lab: &mut Lab) -> usize {
    let mut count = 0;
    for _ in 0..12 {
        let plan = lab.pass();
        let refresh = |p: &&model::plan::Planned| matches!(p.action, Action::LoadImage { refresh: true, .. });
        count += plan.actions.iter().filter(refresh).count();
    }
    count
}

#[test]
fn pull_always_asks_the_registry_once_for_each_container_that_is_made() {
    let mut lab = from_registry(PullPolicy::Always);
    assert_eq!(asks(&mut lab), 1);
    assert!(lab.runs("web"));
    lab.reboot();
    assert_eq!(asks(&mut lab), 0, "a reboot makes no new one");
    // The registry has another one by now, and it is taken with the next change.
    let key = lab.containers["web"].image.key();
    lab.host.sources.insert(key.clone(), Some(2));
    assert_eq!(asks(&mut lab), 0);
    let before = lab.ledger.containers["web"].current.image_id;
    lab.spec("web").command = Some(vec!["other".to_owned()]);
    assert_eq!(asks(&mut lab), 1);
    assert!(lab.runs("web"));
    assert_ne!(lab.ledger.containers["web"].current.image_id, before);
    // Without the registry what runs stays, and the change waits with its error.
    lab.host.sources.insert(key, None);
    lab.spec("web").command = Some(vec!["third".to_owned()]);
    lab.pass();
    lab.pass();
    assert!(lab.runs("web"));
    let shown = lab.shown("web");
    assert_eq!(
        shown.error.as_deref(),
        Some("waits for image registry.example/i2:latest: no such file")
    );
    assert!(!lab.status().converged);
}

#[test]
fn pull_missing_asks_for_what_is_not_there_and_always_is_for_the_next_one() {
    let mut lab = from_registry(PullPolicy::Missing);
    assert_eq!(asks(&mut lab), 0);
    assert!(lab.runs("web"));
    lab.spec("web").pull = PullPolicy::Always;
    assert_eq!(asks(&mut lab), 0);
    assert_eq!(lab.seen("web").run_no, 1);
}

#[test]
fn limits_are_told_to_the_shim() {
    let mut lab = Lab::new(&[("web", spec())]);
    lab.settle();
    lab.spec("web").limits.memory = Some(64 << 20);
    let plan = lab.pass();
    let told = plan.actions.iter().find_map(|p| match &p.action {
        Action::UpdateContainer { policy, .. } => policy.limits.memory,
        _ => None,
    });
    assert_eq!(told, Some(64 << 20));
    assert!(lab.settle().is_empty());
    assert_eq!(lab.seen("web").run_no, 1);
    assert!(matches!(lab.seen("web").phase, Phase::Running { .. }));
    assert_eq!(lab.shown("web").state, State::Running);
}

#[test]
fn an_image_table_is_meant_by_its_name() {
    let table = Parsed {
        name: name("app"),
        spec: ImageSpec {
            pull: Some(ImageSource::Registry {
                reference: "registry.example/app:7".to_owned(),
            }),
            ..ImageSpec::default()
        },
        origin: Origin::default(),
    };
    let mut web = spec();
    web.image = ImageSource::Registry {
        reference: "docker.io/library/app:latest".to_owned(),
    };
    let container = Parsed {
        name: name("web"),
        spec: web,
        origin: Origin::default(),
    };
    let file = ParsedFile {
        file: "a.toml".to_owned(),
        containers: vec![container],
        images: vec![table],
        ..ParsedFile::default()
    };
    let desired = reconciler::resolve::resolve(&[file], &[], &Settings::default());
    assert_eq!(
        desired.containers["web"].spec.image.key(),
        "registry.example/app:7"
    );
}

#[test]
fn a_foreign_firewall_in_the_way_is_named_at_the_networks_and_is_nothing_to_wait_for() {
    let mut lab = on_two();
    assert!(lab.settle().is_empty());
    assert!(lab.status().networks.iter().all(|n| n.error.is_none()));
    let bridges = lab.ledger.networks.values();
    let concerned = bridges.map(|n| n.network.bridge.clone()).collect::<Vec<_>>();
    let drop = |by: &str, bridges: &[String], ports| ForeignDrop {
        by: by.to_owned(),
        bridges: bridges.to_vec(),
        ports,
        told: format!("{by} drops"),
    };
    lab.host.foreign_drops = vec![
        drop("chain inet mine input", &concerned, false),
        drop("chain inet mine forward", &concerned[..1], true),
    ];
    let status = lab.status();
    let said = |n: &NetworkStatus| n.error.clone().unwrap_or_default();
    for network in &status.networks {
        assert!(said(network).contains("inet mine input"), "{status:#?}");
        let first = network.device == concerned[0];
        assert_eq!(said(network).contains("inet mine forward"), first, "{status:#?}");
    }
    assert!(status.converged);
}

#[test]
fn what_the_firewall_is_made_with_says_who_is_let_in() {
    let port = |ip: &str, number| PortSpec {
        ip: Some(ip.parse().unwrap()),
        host: Some((number, number)),
        container: (80, 80),
        protocol: Protocol::Tcp,
        allow: Vec::new(),
    };
    let mut web = spec();
    web.ports = vec![port("0.0.0.0", 8080), port("127.0.0.1", 8081), port("::1", 8082)];
    let mut lab = Lab::new(&[("web", web)]);
    assert!(lab.settle().is_empty());
    let seen = |lab: &mut Lab, kind, unjudged: Option<&str>| {
        let remark = Some("which one".to_owned());
        let unjudged = unjudged.map(str::to_owned);
        lab.host.backend = BackendSeen {
            kind,
            remark,
            unjudged,
        };
        let status = lab.status();
        assert_eq!(status.firewall_note.as_deref(), Some("which one"));
        let ports = status.containers[0].ports.iter();
        let said: Vec<String> = ports
            .map(|p| format!("{} {} {:?}", p.host, p.open_to, p.unjudged))
            .collect();
        (status.firewall, said)
    };
    let (word, said) = seen(&mut lab, Backend::Iptables, Some("others"));
    assert_eq!(word, "iptables");
    assert_eq!(
        said,
        [
            "8080 everybody Some(\"others\")",
            "8081 host None",
            "8082 host None"
        ]
    );
    let (word, said) = seen(&mut lab, Backend::None, None);
    assert_eq!(word, "none");
    assert_eq!(said, ["8080 nobody None", "8081 nobody None", "8082 host None"]);
}

fn lent() -> Lab {
    let mut data = spec();
    data.volumes = vec![mounts("d")];
    let mut app = spec();
    app.volumes = vec![mounts("d")];
    app.volumes_from = vec!["data".to_owned()];
    Lab::new(&[("data", data), ("app", app)])
}

#[test]
fn who_has_its_volumes_from_another_begins_after_that_one_and_needs_it_no_more() {
    let mut lab = lent();
    assert!(lab.settle().is_empty());
    let order: Vec<&str> = lab.started.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(order, ["data", "app"]);
    let app = lab.ledger.containers["app"].current.id.clone();
    // Replaced, it stays the lender; the other one goes on as it is.
    lab.spec("data").hostname = Some("other".to_owned());
    assert!(lab.settle().is_empty());
    assert_eq!(lab.ledger.containers["app"].current.id, app);
}
