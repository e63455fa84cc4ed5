//! What is written, on groups made of plain files; what the kernel makes of it is asked in tests/limits.rs.

use std::fs;

use super::*;

/// A hierarchy of plain files: v1 controllers each in a directory of theirs, or v2.
struct Fake {
    dir: tempfile::TempDir,
    hierarchies: Hierarchies,
}

impl Fake {
    fn v1() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| (vec![name.to_owned()], dir.path().join(name));
        let hierarchies = Hierarchies {
            v1: ["memory", "cpu", "pids", "blkio"].map(at).into(),
            unified: None,
            others: Vec::new(),
            cpuset: Some(dir.path().join("cpuset")),
        };
        let fake = Self { dir, hierarchies };
        for (file, text) in [
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
            ("memory/memory.memsw.limit_in_bytes", "9223372036854771712"),
            ("memory/memory.soft_limit_in_bytes", "9223372036854771712"),
            ("cpu/cpu.cfs_period_us", "100000"),
            ("cpu/cpu.cfs_quota_us", "-1"),
            ("cpu/cpu.shares", "1024"),
            ("pids/pids.max", "max"),
            ("blkio/blkio.bfq.weight", "100"),
        ] {
            let (controller, name) = file.split_once('/').unwrap();
            fake.file(&format!("{controller}/w/payload/{name}"), text);
        }
        fake.file("cpuset/cpuset.cpus", "0-3\n");
        fake
    }

    fn v2() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hierarchies = Hierarchies {
            v1: Vec::new(),
            unified: Some(dir.path().into()),
            others: Vec::new(),
            cpuset: None,
        };
        let fake = Self { dir, hierarchies };
        for (name, text) in [
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("memory.low", "0"),
            ("cpu.max", "max 100000"),
            ("cpu.weight", "100"),
            ("cpuset.cpus", "\n"),
            ("pids.max", "max"),
            ("io.weight", "default 100"),
        ] {
            fake.file(&format!("w/payload/{name}"), text);
        }
        fake.file("w/cpuset.cpus.effective", "0-3\n");
        fake
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn says(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.dir.path().join(path)).unwrap();
    }

    fn payload(&self) -> CgroupSet {
        CgroupSet::new(&self.hierarchies, "/w", PAYLOAD)
    }

    /// `file value` in the order of writing.
    fn plan(&self, limits: &Limits) -> Vec<String> {
        let settings = settings::settings(&self.payload(), limits).unwrap();
        let line = |s: &Setting| format!("{} {}", s.file.file_name().unwrap().to_string_lossy(), s.value);
        settings.iter().map(line).collect()
    }

    fn refused(&self, limits: &Limits) -> String {
        apply(&self.payload(), limits).unwrap_err().to_string()
    }
}

fn all() -> Limits {
    Limits {
        memory: Some(64 << 20),
        memory_swap: Some(96 << 20),
        memory_reservation: Some(32 << 20),
        cpus_milli: Some(1500),
        cpu_shares: Some(2048),
        cpuset: None,
        pids: Some(12),
        blkio_weight: Some(300),
    }
}

#[test]
fn v1_is_written_in_its_words_and_back() {
    let fake = Fake::v1();
    assert_eq!(fake.plan(&Limits::default()), [""; 0]);
    let written = [
        "memory.limit_in_bytes 67108864",
        "memory.memsw.limit_in_bytes 100663296",
        "memory.soft_limit_in_bytes 33554432",
        "cpu.cfs_quota_us 150000",
        "cpu.shares 2048",
        "pids.max 12",
        "blkio.bfq.weight 300",
    ];
    assert_eq!(fake.plan(&all()), written);
    apply(&fake.payload(), &all()).unwrap();
    assert_eq!(fake.says("memory/w/payload/memory.limit_in_bytes"), "67108864");
    assert_eq!(fake.plan(&all()), [""; 0]);
    let back = [
        "memory.memsw.limit_in_bytes -1",
        "memory.limit_in_bytes -1",
        "memory.soft_limit_in_bytes -1",
        "cpu.cfs_quota_us -1",
        "cpu.shares 1024",
        "pids.max max",
        "blkio.bfq.weight 100",
    ];
    assert_eq!(fake.plan(&Limits::default()), back);
}

#[test]
fn v2_is_written_in_its_words_and_back() {
    let fake = Fake::v2();
    assert_eq!(fake.plan(&Limits::default()), [""; 0]);
    let written = [
        "memory.max 67108864",
        "memory.swap.max 33554432",
        "memory.low 33554432",
        "cpu.max 150000 100000",
        "cpu.weight 174",
        "pids.max 12",
        "io.weight 2930",
    ];
    assert_eq!(fake.plan(&all()), written);
    apply(&fake.payload(), &all()).unwrap();
    assert_eq!(fake.plan(&all()), [""; 0]);
    let back = [
        "memory.max max",
        "memory.swap.max max",
        "memory.low 0",
        "cpu.max max 100000",
        "cpu.weight 100",
        "pids.max max",
        "io.weight 100",
    ];
    assert_eq!(fake.plan(&Limits::default()), back);
    fake.file("w/payload/io.bfq.weight", "default 100");
    assert!(fake.plan(&all()).contains(&"io.bfq.weight 300".to_owned()));
}

/// v2 would kill instead.
#[test]
fn less_memory_than_a_running_container_holds_is_refused() {
    let fake = Fake::v2();
    fake.file("w/payload/memory.current", "104857600\n");
    fake.file("w/payload/cgroup.events", "populated 1\nfrozen 0\n");
    let error = apply(&fake.payload(), &all()).unwrap_err().to_string();
    assert!(error.contains("limits.memory cannot be lowered"), "{error}");
    assert_eq!(fake.says("w/payload/memory.max"), "max");
    assert_eq!(
        fake.says("w/payload/memory.reclaim"),
        "37748736",
        "it is tried before"
    );
    fake.file("w/payload/cgroup.events", "populated 0\nfrozen 0\n");
    apply(&fake.payload(), &all()).unwrap();
    assert_eq!(fake.says("w/payload/memory.max"), "67108864");
}

/// The kernel refuses a moment in which memory with swap is below memory.
#[test]
fn on_v1_memory_and_swap_change_in_the_order_that_keeps_them_apart() {
    let fake = Fake::v1();
    let of = |memory: u64, both: u64| Limits {
        memory: Some(memory),
        memory_swap: Some(both),
        ..Limits::default()
    };
    apply(&fake.payload(), &of(100, 200)).unwrap();
    let both = "memory.memsw.limit_in_bytes";
    let memory = "memory.limit_in_bytes";
    assert_eq!(
        fake.plan(&of(300, 400)),
        [format!("{both} 400"), format!("{memory} 300")]
    );
    assert_eq!(
        fake.plan(&of(10, 20)),
        [format!("{memory} 10"), format!("{both} 20")]
    );
    assert_eq!(
        fake.plan(&of(150, 150)),
        [format!("{memory} 150"), format!("{both} 150")]
    );
    let swap_alone = Limits {
        memory_swap: Some(50),
        ..Limits::default()
    };
    assert_eq!(
        fake.plan(&swap_alone),
        [format!("{memory} 50"), format!("{both} 50")]
    );
    assert!(Fake::v2().refused(&swap_alone).contains("needs limits.memory"));
}

#[test]
fn a_cpuset_on_v2_is_written_where_its_cores_are_there() {
    let fake = Fake::v2();
    let cores = |text: &str| Limits {
        cpuset: Some(text.to_owned()),
        ..Limits::default()
    };
    apply(&fake.payload(), &cores("1-2")).unwrap();
    assert_eq!(fake.says("w/payload/cpuset.cpus"), "1-2");
    apply(&fake.payload(), &Limits::default()).unwrap();
    assert_eq!(fake.says("w/payload/cpuset.cpus"), "\n");
    let text = fake.refused(&cores("3-4"));
    assert!(text.contains("\"3-4\"") && text.contains("\"0-3\""), "{text}");
    fake.remove("w/payload/cpuset.cpus");
    assert!(
        fake.refused(&cores("0"))
            .contains("limits.cpuset cannot be enforced")
    );
    apply(&fake.payload(), &Limits::default()).unwrap();
}

#[test]
fn what_is_missing_is_named_with_its_limit() {
    let v1 = Fake::v1();
    v1.remove("memory/w/payload/memory.memsw.limit_in_bytes");
    let text = v1.refused(&all());
    assert!(
        text.starts_with("limits.memory_swap cannot be enforced"),
        "{text}"
    );
    assert!(
        text.contains("memory.memsw.limit_in_bytes") && text.contains("swapaccount=1"),
        "{text}"
    );
    let memory = Limits {
        memory: Some(1 << 20),
        ..Limits::default()
    };
    apply(&v1.payload(), &memory).unwrap();

    let v2 = Fake::v2();
    v2.remove("w/payload/memory.max");
    let text = v2.refused(&memory);
    assert!(
        text.contains("limits.memory") && text.contains("Delegate=yes"),
        "{text}"
    );
    v2.remove("w/payload/io.weight");
    let weight = Limits {
        blkio_weight: Some(10),
        ..Limits::default()
    };
    assert!(v2.refused(&weight).contains("limits.blkio_weight cannot"));

    let nothing = Fake {
        dir: tempfile::tempdir().unwrap(),
        hierarchies: Hierarchies {
            v1: Vec::new(),
            unified: None,
            others: Vec::new(),
            cpuset: None,
        },
    };
    for (name, limits) in [
        ("memory", memory),
        ("blkio_weight", weight),
        (
            "pids",
            Limits {
                pids: Some(1),
                ..Limits::default()
            },
        ),
        (
            "cpuset",
            Limits {
                cpuset: Some("0".into()),
                ..Limits::default()
            },
        ),
    ] {
        let text = nothing.refused(&limits);
        assert!(
            text.starts_with(&format!("limits.{name} cannot be enforced")),
            "{text}"
        );
    }
    apply(&nothing.payload(), &Limits::default()).unwrap();
}
