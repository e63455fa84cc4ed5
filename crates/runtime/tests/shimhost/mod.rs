//! A host of a test's own for shims: state and run dir, cgroup parent, and the end of everything when it is dropped.

#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use model::action::Instance;
use model::image::{Image, ImageConfig, ImageSource};
use model::name::{ContainerId, Name};
use model::observed::{Look, ObservedContainer, Phase};
use model::paths::Roots;
use model::spec::{ContainerSpec, RestartPolicy};
use runtime::client::Runtime;
use runtime::shim::files::{ContainerFile, Files, Process, ShimConfig, ShimState, lives, write};
use runtime::shim::protocol::{Reply, Request, call};

/// Given to `start` where nothing is to be attached.
pub const NOTHING: fn(BorrowedFd<'_>) -> Result<(), String> = |_| Ok(());

pub struct Host {
    pub dir: tempfile::TempDir,
    pub roots: Roots,
    pub runtime: Runtime,
    pub parent: String,
}

impl Host {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = format!(
            "/wharf-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let roots = Roots {
            state: dir.path().join("state"),
            run: dir.path().join("run"),
        };
        let exe = Path::new(env!("CARGO_BIN_EXE_runtime-testbin"));
        let runtime = Runtime::new(roots.clone(), &parent).unwrap().with_exe(exe);
        Self {
            dir,
            roots,
            runtime,
            parent,
        }
    }

    /// An instance whose payload is this argv run as a plain process; its bundle is written.
    pub fn fake(&self, name: &str, argv: &[&str]) -> Instance {
        let i = instance(name, argv);
        self.write_fake(&i);
        i
    }

    /// Writes what `prepare` would, for a payload that is a plain process.
    pub fn write_fake(&self, i: &Instance) {
        let files = self.files(i);
        for dir in [
            &files.run,
            &files.state,
            &files.state.join("upper"),
            &files.state.join("work"),
        ] {
            fs::create_dir_all(dir).unwrap();
        }
        let container = ContainerFile {
            id: i.id.clone(),
            name: i.name.clone(),
            created_at: jiff::Timestamp::now(),
        };
        write(&files.container(), &container).unwrap();
        write(&files.run.join("fake.json"), &i.spec.command).unwrap();
        let config = ShimConfig {
            id: i.id.clone(),
            name: i.name.clone(),
            cgroup_parent: self.parent.clone(),
            hostname: Some(format!("{}-host", i.name)),
            own_net: true,
            own_ipc: true,
            shared: Default::default(),
            told: ShimConfig::told(i),
            policy: i.shim_policy(),
        };
        write(&files.config(), &config).unwrap();
    }

    pub fn files(&self, i: &Instance) -> Files {
        Files::new(&self.roots, &i.id)
    }

    pub fn start(&self, i: &Instance) {
        self.runtime.start(i, &NOTHING).unwrap();
    }

    pub fn look(&self, i: &Instance) -> ObservedContainer {
        match self.runtime.observe_one(&i.id) {
            Some(Look::Known(seen)) => seen,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&self, i: &Instance) -> ShimState {
        self.runtime
            .shim_state(&i.id)
            .unwrap()
            .expect("the shim should live")
    }

    pub fn ask(&self, i: &Instance, request: &Request) -> Reply {
        call(&self.files(i).socket(), request, Duration::from_secs(60)).unwrap()
    }

    /// Looks until it is so; a minute is for ever.
    pub fn until(
        &self,
        i: &Instance,
        what: &str,
        so: impl Fn(&ObservedContainer) -> bool,
    ) -> ObservedContainer {
        for _ in 0..12_000 {
            let seen = self.look(i);
            if so(&seen) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited for ever until {what}: {:?}", self.look(i));
    }

    pub fn running(&self, i: &Instance) -> u32 {
        let seen = self.until(i, "it runs", |seen| matches!(seen.phase, Phase::Running { .. }));
        match seen.phase {
            Phase::Running { pid } => pid,
            _ => unreachable!("just seen"),
        }
    }

    pub fn exited(&self, i: &Instance) -> ObservedContainer {
        self.until(i, "it has exited", |seen| seen.phase == Phase::Exited)
    }

    /// The lines of the log, oldest first, as they were written.
    pub fn log(&self, i: &Instance) -> Vec<(String, String)> {
        let mut all = String::new();
        for number in (0..100).rev() {
            let path = runtime::log::file::path(&self.files(i).log(), number);
            all.push_str(&fs::read_to_string(path).unwrap_or_default());
        }
        // What is being written is not told yet.
        all.truncate(all.rfind('\n').map_or(0, |end| end + 1));
        let value = |line: &str| -> BTreeMap<String, String> { serde_json::from_str(line).unwrap() };
        all.lines()
            .map(value)
            .map(|line| (line["stream"].clone(), line["log"].clone()))
            .collect()
    }

    /// Directories of this host in any cgroup hierarchy, and what is below.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for hierarchy in hierarchies() {
            walk(&hierarchy.join(self.parent.trim_start_matches('/')), &mut found);
        }
        found
    }

    /// Nothing of a removed container is left.
    pub fn assert_gone(&self, i: &Instance) {
        let files = self.files(i);
        assert!(!files.run.exists() && !files.state.exists());
        let group = format!("{}-{}", i.name, i.id.short());
        let left: Vec<_> = self
            .cgroups()
            .into_iter()
            .filter(|dir| dir.to_string_lossy().contains(&group))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (id, look) in self.runtime.observe().unwrap_or_default() {
            if let Look::Known(seen) = look
                && let Err(e) = self.runtime.remove(&id, &seen.name)
            {
                eprintln!("leftover: {e}");
            }
        }
        // Deepest first.
        for dir in self.cgroups().into_iter().rev() {
            if let Err(e) = fs::remove_dir(&dir) {
                eprintln!("leftover: {}: {e}", dir.display());
            }
        }
    }
}

/// Every mounted cgroup hierarchy.
fn hierarchies() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from("/sys/fs/cgroup")];
    let entries = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    all.extend(entries.map(|e| e.path()).filter(|path| path.is_dir()));
    all
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    found.push(dir.to_owned());
    for entry in entries.flatten().filter(|e| e.path().is_dir()) {
        walk(&entry.path(), found);
    }
}

pub fn instance(name: &str, argv: &[&str]) -> Instance {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes[4..8].copy_from_slice(&std::process::id().to_be_bytes());
    let name: Name = name.parse().unwrap();
    let source = ImageSource::Rootfs {
        dir: PathBuf::from("/"),
    };
    let mut spec = ContainerSpec::new(source.clone());
    spec.command = Some(argv.iter().map(|&arg| arg.to_owned()).collect());
    spec.restart.policy = RestartPolicy::No;
    Instance {
        id: ContainerId::from_bytes(bytes),
        service: name.clone(),
        name,
        number: 1,
        rev: 1,
        spec,
        image: Image {
            key: source.key(),
            id: None,
            digest: None,
            size: 0,
            layers: vec![PathBuf::from("/")],
            config: ImageConfig::default(),
        },
        attachments: Vec::new(),
        dns: Vec::new(),
        volumes: Default::default(),
        joins: Default::default(),
        contents: Vec::new(),
        links: Vec::new(),
    }
}

/// Kills a process of this test's by pidfd, after a look that it is the one.
pub fn kill(process: Process) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let pid = Pid::from_raw(process.pid.cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    assert!(lives(process), "{process:?} should live");
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
}

/// Which namespaces a process is in.
pub fn namespaces(pid: u32) -> Vec<PathBuf> {
    ["net", "uts", "ipc"]
        .iter()
        .map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap())
        .collect()
}

/// A root with busybox and all its tools and some accounts, and an instance that runs this script in it.
pub fn busybox(host: &Host, name: &str, script: &str) -> Instance {
    let root = host.dir.path().join("rootfs");
    if !root.exists() {
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/www"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let tools = std::process::Command::new("/bin/busybox")
            .arg("--list")
            .output()
            .unwrap();
        let tools = String::from_utf8(tools.stdout).unwrap();
        for tool in tools.lines().filter(|tool| *tool != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/home/www:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nvideo:x:44:www\n").unwrap();
    }
    let mut i = instance(name, &["/bin/sh", "-c", script]);
    i.image.layers = vec![root.clone()];
    i.spec.image = ImageSource::Rootfs { dir: root };
    i
}

/// Compiles a static C program into a directory.
pub fn compile(source: &str, to: &Path) {
    let file = to.with_extension("c");
    fs::write(&file, source).unwrap();
    let mut gcc = std::process::Command::new("gcc");
    let done = gcc
        .args(["-static", "-O1", "-o"])
        .arg(to)
        .arg(&file)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The processes of a pid namespace, by the link of one of them.
pub fn lives_in(namespace: &Path) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<u32> = pids
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace))
        .collect();
    found.sort_unstable();
    found
}
