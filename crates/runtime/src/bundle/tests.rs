use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use model::families::Families;
use model::image::{Image, ImageConfig, ImageSource};
use model::name::ContainerId;
use model::network::{Address4, Address6, Attachment, MacAddr};
use model::spec::*;

use super::*;

fn instance() -> Instance {
    let source = ImageSource::Rootfs {
        dir: "/srv/root".into(),
    };
    Instance {
        id: ContainerId::from_bytes([0xab; 32]),
        name: "web".parse().unwrap(),
        service: "web".parse().unwrap(),
        number: 1,
        rev: 1,
        spec: ContainerSpec::new(source.clone()),
        image: Image {
            key: source.key(),
            id: None,
            digest: None,
            size: 0,
            layers: vec!["/layers/1".into(), "/layers/2".into()],
            config: ImageConfig {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["serve".into()],
                env: vec!["A=image".into(), "PATH=/image".into()],
                working_dir: Some("/srv".into()),
                ..ImageConfig::default()
            },
        },
        attachments: Vec::new(),
        dns: Vec::new(),
        volumes: Default::default(),
        joins: Default::default(),
        contents: Vec::new(),
        links: Vec::new(),
    }
}

fn host() -> Host {
    Host {
        resolv_conf:
            "# comment\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example\noptions edns0\n".into(),
        hosts: "127.0.0.1 thehost\n".into(),
        hostname: "thehost".into(),
        kernel: (5, 15),
        shm: true,
        capabilities: ["CHOWN", "KILL", "MKNOD", "NET_RAW", "SYS_ADMIN", "SYS_CHROOT"]
            .map(String::from)
            .into(),
        devices: BTreeMap::new(),
        seccomp_profile: None,
        env_files: Vec::new(),
    }
}

fn try_build(instance: &Instance, host: &Host) -> Result<Bundle, BundleError> {
    let user = ResolvedUser {
        home: "/root".into(),
        ..ResolvedUser::default()
    };
    build(&BundleInput {
        instance,
        user: &user,
        host,
        bundle_dir: Path::new("/run/b"),
        state_dir: Path::new("/state/c"),
        contents_dir: Path::new("/run/c"),
        servers_dir: Path::new("/run/nfs"),
        cgroup_parent: "/wharf",
    })
}

fn built(change: impl FnOnce(&mut Instance)) -> Bundle {
    let mut instance = instance();
    change(&mut instance);
    try_build(&instance, &host()).unwrap()
}

fn args(bundle: &Bundle) -> Vec<String> {
    bundle.spec.process().as_ref().unwrap().args().clone().unwrap()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn entrypoint_and_command_combine_as_in_docker() {
    assert_eq!(args(&built(|_| ())), words("/entry serve"));
    let command = |i: &mut Instance| i.spec.command = Some(words("other -x"));
    assert_eq!(args(&built(command)), words("/entry other -x"));
    let entrypoint = |i: &mut Instance| i.spec.entrypoint = Some(words("/mine"));
    assert_eq!(args(&built(entrypoint)), words("/mine"));
    let both = |i: &mut Instance| {
        entrypoint(i);
        command(i);
    };
    assert_eq!(args(&built(both)), words("/mine other -x"));
    let mut nothing = instance();
    nothing.image.config = ImageConfig::default();
    assert!(matches!(
        try_build(&nothing, &host()),
        Err(BundleError::NoCommand(_))
    ));
}

#[test]
fn the_environment_is_overridden_in_place_and_ends_with_home() {
    let mut instance = instance();
    instance.spec.env = BTreeMap::from([("A".to_owned(), "table".to_owned()), ("B".into(), "x=y".into())]);
    let mut host = host();
    host.env_files = vec![("/e".into(), "# c\n\nF=1\nA=file\n".into())];
    let bundle = try_build(&instance, &host).unwrap();
    let env = bundle.spec.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(
        env,
        words("PATH=/image HOSTNAME=web A=table F=1 B=x=y HOME=/root")
    );
    host.env_files = vec![("/e".into(), "ok=1\nnot this\n".into())];
    let error = try_build(&instance, &host).unwrap_err().to_string();
    assert!(error.contains("/e, line 2"), "{error}");
}

#[test]
fn capabilities_follow_dockers_rules_within_what_the_host_can_give() {
    let bounding = |bundle: Bundle| {
        let process = bundle.spec.process().clone().unwrap();
        let set = process
            .capabilities()
            .clone()
            .unwrap()
            .bounding()
            .clone()
            .unwrap();
        set.iter().map(|c| c.to_string()).collect::<BTreeSet<_>>()
    };
    let set = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(
        bounding(built(|_| ())),
        set(&["CHOWN", "KILL", "MKNOD", "NET_RAW", "SYS_CHROOT"])
    );
    assert_eq!(
        bounding(built(|i| i.spec.cap_drop = words("ALL"))),
        BTreeSet::new()
    );
    let one = built(|i| {
        i.spec.cap_drop = words("ALL");
        i.spec.cap_add = words("SYS_ADMIN");
    });
    assert_eq!(bounding(one), set(&["SYS_ADMIN"]));
    assert_eq!(bounding(built(|i| i.spec.privileged = true)), host().capabilities);
    let mut missing = instance();
    missing.spec.cap_add = words("SYS_TIME");
    assert!(matches!(
        try_build(&missing, &host()),
        Err(BundleError::MissingCapability { .. })
    ));
    missing.spec.cap_add = words("FLY");
    assert!(matches!(
        try_build(&missing, &host()),
        Err(BundleError::UnknownCapability { .. })
    ));
}

#[test]
fn mounts_go_parents_first_and_a_volume_replaces_ours() {
    let bundle = built(|i| {
        let bind = |target: &str| VolumeUse {
            source: VolumeSource::Bind {
                source: "/src".into(),
                create: false,
                propagation: Propagation::Rprivate,
                require_mount: false,
            },
            target: target.into(),
            read_only: true,
        };
        i.spec.volumes = vec![bind("/data/deep/er"), bind("/data"), bind("/etc/hosts")];
        i.spec.tmpfs = vec![TmpfsMount {
            target: "/dev/shm".into(),
            size: Some(4096),
            mode: None,
        }];
    });
    let mounts = bundle.spec.mounts().clone().unwrap();
    let targets: Vec<_> = mounts
        .iter()
        .map(|m| m.destination().display().to_string())
        .collect();
    assert_eq!(
        targets,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/data",
            "/etc/resolv.conf",
            "/etc/hostname",
            "/etc/hosts",
            "/dev/shm",
            "/data/deep/er"
        ]
    );
    assert_eq!(mounts[6].options().clone().unwrap(), words("rbind rprivate rro"));
}

#[test]
fn configs_and_secrets_are_mounted_after_everything_that_could_hide_them() {
    use model::content::{ContentKind, Delivered};
    let file = |kind, name: &str, target: &str| Delivered {
        kind,
        name: name.parse().unwrap(),
        target: target.into(),
        mode: 0o400,
        uid: 0,
        gid: 0,
    };
    let contents = vec![
        file(ContentKind::Config, "a.conf", "/a"),
        file(ContentKind::Secret, "key", "/run/secrets/key"),
        file(ContentKind::Config, "hosts", "/etc/hosts"),
        file(ContentKind::Secret, "other", "/run/secrets/other"),
    ];
    let with = |change: fn(&mut Instance)| {
        let mut i = instance();
        i.contents = contents.clone();
        change(&mut i);
        try_build(&i, &host())
    };
    let bundle = with(|i| {
        i.spec.tmpfs = ["/run", "/a/b/c/d", "/var/run"]
            .map(|target| TmpfsMount {
                target: target.into(),
                size: None,
                mode: None,
            })
            .into();
    });
    let mounts = bundle.unwrap().spec.mounts().clone().unwrap();
    let ours: Vec<String> = mounts[mounts.len() - 3..]
        .iter()
        .map(|m| {
            let (from, to) = (m.source().clone().unwrap(), m.destination());
            let options = m.options().clone().unwrap().join(",");
            format!("{} {} {options}", from.display(), to.display())
        })
        .collect();
    assert_eq!(
        ours,
        [
            "/run/c/configs/a.conf /a bind,rprivate,ro,nosuid,nodev",
            "/run/c/configs/hosts /etc/hosts bind,rprivate,ro,nosuid,nodev",
            "/run/c/secrets /run/secrets bind,rprivate,ro,nosuid,nodev,noexec",
        ]
    );
    let hosts = mounts
        .iter()
        .filter(|m| m.destination() == Path::new("/etc/hosts"));
    assert_eq!(hosts.count(), 1, "in place of ours");
    let refused = with(|i| i.image.config.volumes = vec!["/run/secrets/".into()]).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("container web: a volume at /run/secrets:"),
        "{refused}"
    );
}

#[test]
fn hosts_and_resolv_conf_are_the_containers_or_in_host_mode_the_hosts() {
    let text = |bundle: &Bundle, name: &str| bundle.files.iter().find(|f| f.0 == name).unwrap().1.clone();
    let bundle = built(|i| {
        i.spec.extra_hosts = BTreeMap::from([("git.example".into(), "10.0.0.9".parse().unwrap())]);
        i.attachments = vec![Attachment {
            network: "default".parse().unwrap(),
            device: "eth0".into(),
            host_device: "wh-x".into(),
            bridge: "wh-b".into(),
            ip: Families::Both(
                Address4 {
                    ip: Ipv4Addr::new(10, 88, 0, 2),
                    prefix: 24,
                    gateway: None,
                },
                Address6 {
                    ip: "fd00:88::2".parse().unwrap(),
                    prefix: 64,
                    gateway: None,
                },
            ),
            mac: MacAddr([2; 6]),
            mtu: None,
            aliases: words("web www"),
            isolated: false,
            link: Default::default(),
        }];
    });
    assert!(
        text(&bundle, "hosts").ends_with("10.0.0.9\tgit.example\n10.88.0.2\tweb www\nfd00:88::2\tweb www\n")
    );
    assert_eq!(
        text(&bundle, "resolv.conf"),
        "nameserver 192.0.2.1\nsearch example\noptions edns0\n"
    );
    assert_eq!(text(&bundle, "hostname"), "web\n");
    let given = built(|i| i.dns = vec!["10.88.0.1".parse().unwrap()]);
    assert_eq!(
        text(&given, "resolv.conf"),
        "nameserver 10.88.0.1\nsearch example\noptions edns0\noptions ndots:0\n"
    );
    let shared = built(|i| i.spec.network_mode = NetworkMode::Host);
    assert!(text(&shared, "resolv.conf").contains("127.0.0.53"));
    assert_eq!(text(&shared, "hosts"), "127.0.0.1 thehost\n");
    assert_eq!(text(&shared, "hostname"), "thehost\n");
    assert!(!shared.extra.unshare.net);
}

#[test]
fn what_belongs_to_the_host_is_refused() {
    let refused = |change: &dyn Fn(&mut ContainerSpec)| {
        let mut instance = instance();
        change(&mut instance.spec);
        try_build(&instance, &host()).unwrap_err().to_string()
    };
    let sysctl = |name: &str| BTreeMap::from([(name.to_owned(), "1".to_owned())]);
    assert!(refused(&|s| s.sysctls = sysctl("kernel.panic")).contains("would change the host"));
    assert!(refused(&|s| s.sysctls = sysctl("net.../x")).contains("would change the host"));
    let host_net = |s: &mut ContainerSpec| {
        s.network_mode = NetworkMode::Host;
        s.sysctls = sysctl("net.ipv4.ip_forward");
    };
    assert!(refused(&host_net).contains("would change the host"));
    let ulimit = Ulimit {
        soft: None,
        hard: None,
    };
    assert!(refused(&|s| s.ulimits = BTreeMap::from([("files".into(), ulimit)])).contains("nofile"));
    let external = |s: &mut ContainerSpec| {
        s.init = true;
        s.runtime = RuntimeChoice::External("runc".into());
    };
    assert!(refused(&external).contains("`init` is not there with an external runtime"));
    let joined = |s: &mut ContainerSpec| {
        s.network_mode = NetworkMode::Container("db".parse().unwrap());
        s.hostname = Some("mine".into());
    };
    assert!(refused(&joined).contains("hostname is that of container db"));
    let joined_sysctl = |s: &mut ContainerSpec| {
        s.network_mode = NetworkMode::Container("db".parse().unwrap());
        s.sysctls = sysctl("net.ipv4.ip_forward");
    };
    assert!(refused(&joined_sysctl).contains("would change the host"));
}

#[test]
fn who_shares_namespaces_makes_none_of_those() {
    let owner = ContainerId::from_bytes([7; 32]);
    let bundle = built(|i| {
        i.spec.network_mode = NetworkMode::Container("db".parse().unwrap());
        i.spec.pid = NamespaceMode::Container("db".parse().unwrap());
        i.spec.ipc = NamespaceMode::Container("db".parse().unwrap());
        i.joins.net = Some(owner.clone());
        i.joins.pid = Some(owner.clone());
    });
    let none = Unshare {
        net: false,
        uts: false,
        ipc: false,
    };
    assert_eq!(bundle.extra.unshare, none);
    let named = |id| {
        Some(Owner {
            name: "db".into(),
            id,
        })
    };
    let shared = &bundle.extra.shared;
    assert_eq!(
        (&shared.net, &shared.pid),
        (&named(Some(owner.clone())), &named(Some(owner.clone())))
    );
    assert_eq!(shared.ipc, named(None));
    let kinds: Vec<String> = bundle
        .spec
        .linux()
        .as_ref()
        .unwrap()
        .namespaces()
        .iter()
        .flatten()
        .map(|n| n.typ().to_string())
        .collect();
    assert_eq!(kinds, ["mnt", "cgroup"]);
    let source = |target: &str| {
        let mounts = bundle.spec.mounts().as_ref().unwrap();
        let found = mounts
            .iter()
            .find(|m| m.destination() == Path::new(target))
            .unwrap();
        found.source().clone().unwrap()
    };
    assert_eq!(
        source("/etc/hosts"),
        Path::new("/run").join(owner.as_str()).join("hosts")
    );
    assert_eq!(source("/dev/shm"), Path::new("/run/b/shm"));
    let without = Host { shm: false, ..host() };
    let mut host_ipc = instance();
    host_ipc.spec.ipc = NamespaceMode::Host;
    let mounts = try_build(&host_ipc, &without)
        .unwrap()
        .spec
        .mounts()
        .clone()
        .unwrap();
    let shm = mounts
        .iter()
        .find(|m| m.destination() == Path::new("/dev/shm"))
        .unwrap();
    assert_eq!(shm.typ().as_deref(), Some("tmpfs"));
}

#[test]
fn a_bundle_survives_being_written_and_read() {
    let bundle = built(|_| ());
    let spec: Spec = serde_json::from_str(&serde_json::to_string(&bundle.spec).unwrap()).unwrap();
    let extra: Extra = serde_json::from_str(&serde_json::to_string(&bundle.extra).unwrap()).unwrap();
    assert_eq!((spec, extra), (bundle.spec, bundle.extra));
}
