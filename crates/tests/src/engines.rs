//! The host's other engines, as Debian has them, with storage, mounts and control groups of their own: what goes from one
//! to the other is held against what wharf says of it.
//!
//! Docker and podman are asked in the same words. What ends a test ends them: all of it carries the host's mark.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::Said;
use crate::{Host, docker};

/// Only a failing test waits this long.
const LIMIT: Duration = Duration::from_secs(60);

/// Somebody who has images by name, and is asked for them as docker is.
pub trait Engine {
    /// A command, its arguments to follow.
    fn command(&self) -> Command;

    /// Runs it to its end; what it printed.
    #[track_caller]
    fn run<A: AsRef<OsStr>>(&self, args: &[A]) -> String {
        let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
        let out = self.command().args(&args).output().unwrap();
        let said = Said::from(out);
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        said.stdout
    }

    /// What its `run` wants besides, so that it stays where the test may be.
    fn run_flags(&self) -> Vec<String>;

    /// What it knows of an image.
    #[track_caller]
    fn inspect(&self, image: &str) -> Value {
        let found: Value = serde_json::from_str(&self.run(&["image", "inspect", image])).unwrap();
        found[0].clone()
    }
}

/// A program that is installed, or unpacked into the cache by `./test` from that package.
pub fn program(name: &str, package: &str) -> PathBuf {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let unpacked = home.join(format!(".cache/wharf/{package}/usr/bin/{name}"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::iter::once(unpacked).chain(std::env::split_paths(&path).map(|dir| dir.join(name)));
    all.find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is neither installed nor below ~/.cache/wharf; ./test unpacks it"))
}

/// A dockerd on a host's network that touches neither its firewall nor its addresses.
pub struct Dockerd<'h> {
    host: &'h Host,
    dir: PathBuf,
    child: Child,
}

impl<'h> Dockerd<'h> {
    /// Starts one, with the containerd that it starts itself, and waits until it answers.
    pub fn start(host: &'h Host) -> Self {
        let dir = host.dir().join("dockerd");
        fs::create_dir(&dir).unwrap();
        // The machine's own settings are for the machine's own dockerd.
        fs::write(dir.join("daemon.json"), "{}").unwrap();
        let child = spawn(host, &dir);
        let mut dockerd = Self { host, dir, child };
        let begun = Instant::now();
        while !dockerd.answers() {
            let ended = dockerd.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < LIMIT,
                "dockerd does not come: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        dockerd
    }

    fn answers(&self) -> bool {
        let out = self.command().arg("version").output();
        out.unwrap().status.success()
    }
}

impl Engine for Dockerd<'_> {
    fn command(&self) -> Command {
        let mut command = self.host.ns.command(docker::client());
        command
            .env("DOCKER_HOST", format!("unix://{}/sock", self.dir.display()))
            .env("DOCKER_CONFIG", self.dir.join("client"))
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    fn run_flags(&self) -> Vec<String> {
        // The daemon was told.
        Vec::new()
    }
}

impl Drop for Dockerd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let all: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- end of dockerd's log\n{}",
                all[all.len().saturating_sub(60)..].join("\n")
            );
        }
        // It ends its containers and its containerd when it is asked to.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < LIMIT && self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Its mounts are its own, and so is `/run`: it is not to find a containerd of the machine's there. Where the kernel has
/// AppArmor it would load a profile, for the whole machine; it takes it for turned off.
const ALONE: &str = r#"
mount -t tmpfs run /run
enabled=/sys/module/apparmor/parameters/enabled
[ ! -e $enabled ] || mount --bind /dev/null $enabled
exec "$@"
"#;

fn spawn(host: &Host, dir: &Path) -> Child {
    let programs = [
        program("dockerd", "docker.io"),
        program("containerd", "containerd"),
        program("containerd-shim-runc-v2", "containerd"),
    ];
    let own = programs
        .iter()
        .filter_map(|program| program.parent())
        .map(Path::to_owned);
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(own.chain(std::env::split_paths(&rest))).unwrap();
    let log = File::create(dir.join("log")).unwrap();
    let mut command = host.ns.command("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .args(["sh", "-euc", ALONE, "sh"])
        .arg(&programs[0])
        .args(["--storage-driver", "vfs", "--bridge", "none"])
        .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
        .args(["--ip-forward=false", "--userland-proxy=false"])
        .args(["--cgroup-parent", &format!("{}/docker", host.cgroup_parent())])
        .arg("--host")
        .arg(format!("unix://{}/sock", dir.display()));
    for (flag, name) in [
        ("--config-file", "daemon.json"),
        ("--data-root", "data"),
        ("--exec-root", "exec"),
        ("--pidfile", "pid"),
    ] {
        command.arg(flag).arg(dir.join(name));
    }
    command
        .env("PATH", path)
        .env("WHARF_RUN_DIR", host.run_dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A podman with a storage and directories of its own.
pub struct Podman {
    dir: PathBuf,
    /// What is run first, so that it is in its network namespace.
    enter: Vec<String>,
    host: Option<Mark>,
}

/// Whose it is.
struct Mark {
    run_dir: PathBuf,
    cgroup_parent: String,
}

impl Podman {
    /// On a network without anything, in this directory.
    pub fn alone(dir: &Path) -> Self {
        Self::entered(
            dir,
            vec!["unshare".into(), "--mount".into(), "--net".into()],
            None,
        )
    }

    /// On a host's network.
    pub fn on(host: &Host) -> Self {
        let net = format!("--net=/proc/{}/ns/net", host.ns.pid());
        let enter = ["nsenter", &net, "--", "unshare", "--mount"].map(String::from);
        let mark = Mark {
            run_dir: host.run_dir(),
            cgroup_parent: host.cgroup_parent().to_owned(),
        };
        Self::entered(&host.dir().join("podman"), enter.to_vec(), Some(mark))
    }

    fn entered(dir: &Path, enter: Vec<String>, host: Option<Mark>) -> Self {
        fs::create_dir(dir).unwrap();
        fs::write(
            dir.join("policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )
        .unwrap();
        // Limits cannot be raised everywhere, and there is no journal here; crun refuses hosts with both cgroup v1 and v2.
        let settings = format!(
            "[containers]\nlog_driver = \"k8s-file\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\nconmon_path = [{:?}]\n",
            program("conmon", "conmon")
        );
        fs::write(dir.join("containers.conf"), settings).unwrap();
        Self {
            dir: dir.to_owned(),
            enter,
            host,
        }
    }

    /// What commands want that may ask for signatures.
    pub fn policy(&self) -> [String; 2] {
        let policy = self.dir.join("policy.json");
        ["--signature-policy".to_owned(), policy.display().to_string()]
    }
}

impl Engine for Podman {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.enter[0]);
        command
            .args(&self.enter[1..])
            .arg("--")
            .arg(program("podman", "podman"));
        command.args(["--storage-driver", "vfs"]);
        for (flag, name) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
            ("--network-config-dir", "networks"),
        ] {
            command.arg(flag).arg(self.dir.join(name));
        }
        command
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("XDG_RUNTIME_DIR", &self.dir)
            .stdin(Stdio::null());
        if let Some(host) = &self.host {
            command.env("WHARF_RUN_DIR", &host.run_dir);
        }
        command
    }

    fn run_flags(&self) -> Vec<String> {
        let host = self.host.as_ref().expect("one that runs containers has a host");
        vec![format!("--cgroup-parent={}/podman", host.cgroup_parent)]
    }
}
