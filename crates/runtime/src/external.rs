//! An OCI runtime of the host (`runtime = "crun"`, `"runc"`, a path) in place of the embedded one, on the same bundle.
//!
//! It runs in a mount namespace of the creator's own, where the overlay is mounted for it, so that the host sees no
//! more of it than of an embedded container's. `create` and `start` leave the payload an orphan that falls to the
//! shim, its nearest subreaper.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Mount, Spec};
use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount};

use crate::bundle::{CONFIG, mounts::SHARED_SHM};
use crate::cgroup::{CgroupSet, Hierarchies, PAYLOAD, limits};
use crate::embedded::{Doing, Plan, mount_overlay, sys, write_sysctls};
use crate::join;
use crate::launch::LaunchError;
use crate::shim::files::{self, ShimConfig};

/// Has the runtime start the payload, and gives its pid.
pub(crate) fn create(plan: &Plan, runtime: &str) -> Result<i32, LaunchError> {
    // The shim blocks signals, and a runtime hands its mask on to the payload.
    sys::reset_signals().doing(|| "resetting signals".to_owned())?;
    private_mounts(runtime)?;
    let dir = plan.dir.join("external");
    fs::create_dir_all(dir.join("state")).doing(|| format!("making {}", dir.display()))?;
    fs::create_dir_all(plan.rootfs()).doing(|| format!("making {}", plan.rootfs().display()))?;
    mount_overlay(&plan.extra.overlay, true, &plan.rootfs()).map(drop)?;
    put_shared_memory(plan)?;
    write_network_sysctls(plan)?;
    write_config(plan, &dir)?;
    // What an earlier run left behind, whose payload has ended: without it there is nothing to delete.
    let _ = quietly(Cli::new(plan, runtime).command(&["delete", "--force"]));
    empty_cgroup(plan)?;
    let cli = Cli::new(plan, runtime);
    let pid_file = dir.join("pid");
    let mut create = cli.global();
    create
        .arg("create")
        .arg("--bundle")
        .arg(&dir)
        .arg("--pid-file")
        .arg(&pid_file)
        .arg(&plan.extra.id);
    cli.run(create, "create")?;
    let started = limit(plan).and_then(|()| cli.run(cli.command(&["start"]), "start"));
    if let Err(error) = started {
        let _ = quietly(cli.command(&["delete", "--force"]));
        return Err(error);
    }
    let pid = fs::read_to_string(&pid_file).doing(|| format!("reading {}", pid_file.display()))?;
    pid.trim()
        .parse()
        .doing(|| format!("reading {}", pid_file.display()))
}

/// Has it forget the container.
pub(crate) fn delete(plan: &Plan, runtime: &str) -> Result<(), LaunchError> {
    if !plan.dir.join("external/state").is_dir() {
        return Ok(());
    }
    let cli = Cli::new(plan, runtime);
    cli.run(cli.command(&["delete", "--force"]), "delete")
}

/// crun does not run where v1 and v2 are mounted side by side, so it is not shown the v2 one.
fn private_mounts(runtime: &str) -> Result<(), LaunchError> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .doing(|| "making a mount namespace".to_owned())?;
    let cut = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", cut).doing(|| "leaving the host's mounts".to_owned())?;
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if Path::new(runtime).file_name().is_some_and(|n| n == "crun") && hybrid.is_dir() {
        let _ = unmount(hybrid, UnmountFlags::DETACH);
    }
    Ok(())
}

/// The group is made anew by the runtime; crun refuses one that is there with processes, runc one it did not make.
fn empty_cgroup(plan: &Plan) -> Result<(), LaunchError> {
    let place = &plan.extra.cgroup;
    let clear = || {
        let hierarchies = Hierarchies::detect()?;
        CgroupSet::new(&hierarchies, &place.parent, &place.name)
            .child(PAYLOAD)
            .remove()
    };
    clear().doing(|| "clearing the container's control group".to_owned())
}

/// The group the runtime made is given the limits before anything of the payload runs in it; in the bundle's own
/// configuration there are none, as they may change while it runs. Those of an update since are written by the shim.
fn limit(plan: &Plan) -> Result<(), LaunchError> {
    let what = || "limiting the container".to_owned();
    let config: Option<ShimConfig> = files::read(&plan.dir.join("shim.json")).doing(what)?;
    let Some(config) = config else {
        return Ok(());
    };
    let hierarchies = Hierarchies::detect().doing(what)?;
    let place = &plan.extra.cgroup;
    let payload = CgroupSet::new(&hierarchies, &place.parent, &place.name).child(PAYLOAD);
    limits::apply(&payload, &config.policy.limits).map_err(|e| LaunchError::Setup(e.to_string()))
}

/// Where a shared ipc namespace's `/dev/shm` is to be found by the runtime, in this mount namespace alone.
fn put_shared_memory(plan: &Plan) -> Result<(), LaunchError> {
    let Some(tree) = join::shared_memory(&plan.dir, &plan.extra.shared)? else {
        return Ok(());
    };
    let at = plan.dir.join(SHARED_SHM);
    fs::create_dir_all(&at).doing(|| format!("making {}", at.display()))?;
    move_mount(&tree, c"", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .doing(|| "mounting the shared /dev/shm".to_owned())
}

/// runc takes the network namespace it is started in for the host's, and refuses to set anything of it. It is started in
/// the container's, where we are too.
fn write_network_sysctls(plan: &Plan) -> Result<(), LaunchError> {
    let all = plan.spec.linux().as_ref().and_then(|l| l.sysctl().clone());
    let ours = all.unwrap_or_default().into_iter();
    let root = fs::File::open("/").doing(|| "opening /".to_owned())?;
    write_sysctls(
        root.as_fd(),
        &ours.filter(|(name, _)| is_of_network(name)).collect(),
    )
}

fn is_of_network(sysctl: &str) -> bool {
    sysctl.starts_with("net.")
}

/// The bundle's configuration with what the runtime must be told: whose namespaces these are, and where the root is.
fn write_config(plan: &Plan, dir: &Path) -> Result<(), LaunchError> {
    let mut spec = plan.spec.clone();
    let (unshare, shared) = (plan.extra.unshare, &plan.extra.shared);
    let pids = join::pids_path(&plan.dir, shared)?;
    let adapt = |spec: &mut Spec| -> Result<(), oci_spec::OciSpecError> {
        let mut linux = spec.linux().clone().unwrap_or_default();
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        for (kind, name, not_the_hosts) in [
            (
                LinuxNamespaceType::Network,
                "net",
                unshare.net || shared.net.is_some(),
            ),
            (
                LinuxNamespaceType::Uts,
                "uts",
                unshare.uts || shared.net.is_some(),
            ),
            (
                LinuxNamespaceType::Ipc,
                "ipc",
                unshare.ipc || shared.ipc.is_some(),
            ),
        ] {
            if not_the_hosts {
                let path = format!("/proc/{}/ns/{name}", std::process::id());
                namespaces.push(LinuxNamespaceBuilder::default().typ(kind).path(path).build()?);
            }
        }
        if let Some(path) = pids {
            let pid = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Pid);
            namespaces.push(pid.path(path).build()?);
        }
        if shared.net.is_some() {
            // It would be set in the owner's namespace: to what it is.
            let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
            spec.set_hostname(Some(here));
            spec.set_process(Some(plan.process.clone()));
        }
        linux.set_namespaces(Some(namespaces));
        let rest = linux.sysctl().clone().unwrap_or_default().into_iter();
        linux.set_sysctl(Some(rest.filter(|(name, _)| !is_of_network(name)).collect()));
        spec.set_mounts(spec.mounts().clone().map(of_files));
        spec.set_linux(Some(linux));
        if let Some(mut root) = spec.root().clone() {
            root.set_path(plan.rootfs());
            spec.set_root(Some(root));
        }
        Ok(())
    };
    adapt(&mut spec).doing(|| "adapting the bundle".to_owned())?;
    let text = serde_json::to_vec(&spec).doing(|| "adapting the bundle".to_owned())?;
    let file = dir.join(CONFIG);
    fs::write(&file, text).doing(|| format!("writing {}", file.display()))
}

/// crun 1.8 takes the source of a recursively read-only bind for a directory. Below a file nothing is mounted.
fn of_files(mut mounts: Vec<Mount>) -> Vec<Mount> {
    for mount in &mut mounts {
        let source = mount.source().as_deref();
        if mount.typ().as_deref() == Some("bind") && source.is_some_and(|s| s.exists() && !s.is_dir()) {
            let plain = |option: &String| {
                if option == "rro" {
                    "ro".to_owned()
                } else {
                    option.clone()
                }
            };
            let options = mount
                .options()
                .as_ref()
                .map(|all| all.iter().map(plain).collect());
            mount.set_options(options);
        }
    }
    mounts
}

fn quietly(mut command: Command) -> std::io::Result<bool> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command.status()?.success())
}

/// The runtime's command line.
struct Cli<'a> {
    runtime: &'a str,
    id: &'a str,
    dir: PathBuf,
}

impl<'a> Cli<'a> {
    fn new(plan: &'a Plan, runtime: &'a str) -> Self {
        Self {
            runtime,
            id: &plan.extra.id,
            dir: plan.dir.join("external"),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log.json")
    }

    fn global(&self) -> Command {
        let mut command = Command::new(self.runtime);
        command.arg("--root").arg(self.dir.join("state"));
        command
            .arg("--log")
            .arg(self.log())
            .args(["--log-format", "json"]);
        command
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.global();
        command.args(words).arg(self.id);
        command
    }

    /// `create` passes our standard streams on to the payload; what the runtime itself has to say is in its log.
    fn run(&self, mut command: Command, what: &str) -> Result<(), LaunchError> {
        let _ = fs::remove_file(self.log());
        let name = self.runtime;
        let status = match command.status() {
            Ok(status) => status,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(LaunchError::Setup(format!(
                    "runtime {name:?} is not installed on this host: install it, or leave `runtime` out"
                )));
            }
            Err(e) => return Err(LaunchError::Setup(format!("running {name}: {e}"))),
        };
        if status.success() {
            return Ok(());
        }
        let said = self.said().unwrap_or_else(|| status.to_string());
        let code = match &said {
            s if s.contains("executable file") && s.contains("not found") => 127,
            s if s.contains("no such file or directory") && s.contains("exec") => 127,
            s if s.contains("ermission denied") && s.contains("exec") => 126,
            _ => 125,
        };
        Err(LaunchError::of_code(code, format!("{name} {what}: {said}")))
    }

    /// The last error in its log.
    fn said(&self) -> Option<String> {
        let text = fs::read_to_string(self.log()).ok()?;
        let message = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let error = line["level"]
                .as_str()
                .is_none_or(|l| l == "error" || l == "fatal");
            error.then(|| line["msg"].as_str().map(str::to_owned)).flatten()
        };
        text.lines().rev().find_map(message)
    }
}
