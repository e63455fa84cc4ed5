//! `wharf-containers.scope`: the control group containers live in, made once through systemd and delegated to us.
//!
//! A slice cannot be delegated, and the service's own group would take every container along at its end, so it is a
//! scope. Only on hosts whose one hierarchy is cgroup v2: elsewhere systemd does not delegate controllers, and groups
//! are plain directories as on a host without it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use runtime::cgroup::{Hierarchies, Mode};
use tracing::info;

use super::hold;

/// The unit's name without its suffix.
const NAME: &str = "wharf-containers";
const SLICE: &str = "wharf.slice";
/// The run dir of the agent that is this host's service; others have plain groups, for there is one scope.
const SERVICE_RUN_DIR: &str = "/run/wharf";

/// What the scope is like. The service comes after it, so at a shutdown the agent is gone before containers are stopped;
/// said here, as a unit that another one's file names is kept by systemd when it has ended, and cannot be made again.
/// Its stop signal is one that does nothing to who does not ask for it: every process of a
/// scope gets it, but containers are to get their own signals, in order, which `wharf hold` sees to. The time is for
/// the longest grace period there may be; whoever is left after it is killed.
const PROPERTIES: &[&str] = &[
    "Delegate=yes",
    "TasksMax=infinity",
    "KillSignal=SIGURG",
    "TimeoutStopSec=10min",
    "Before=wharf.service",
    "After=network.target",
    "RequiresMountsFor=/var/lib/wharf",
];

/// The processes beside the containers' that outlive the agent: `wharf dns`, `wharf relay`. Each has a leaf of its name.
const HELPERS: [&str; 2] = ["dns", "relay"];

/// Of 50 ms each: an older one may just be going away.
const TRIES: u32 = 40;

/// The containers' scope.
#[derive(Debug)]
pub struct Scope {
    /// `/wharf.slice/wharf-containers.scope`.
    group: String,
    dir: PathBuf,
    /// Where the hierarchy is mounted.
    root: PathBuf,
    run_dir: PathBuf,
}

impl Scope {
    /// Where it is or will be; none where systemd does not manage this host, or not by cgroup v2.
    pub fn of_this_host(run_dir: &Path) -> anyhow::Result<Option<Self>> {
        // sd_booted(3), and that it is the one that answers us.
        let booted = Path::new("/run/systemd/system").is_dir() && Path::new("/run/systemd/private").exists();
        if !booted || run_dir != Path::new(SERVICE_RUN_DIR) {
            return Ok(None);
        }
        let hierarchies = Hierarchies::detect().context("cannot find this host's control groups")?;
        let (Mode::V2, Some((_, root))) = (hierarchies.mode(), hierarchies.mounted().pop()) else {
            return Ok(None);
        };
        let init = fs::read_to_string("/proc/1/cgroup").context("cannot read /proc/1/cgroup")?;
        Ok(managed(&init).map(|top| {
            let group = format!("{top}/{SLICE}/{NAME}.scope");
            Self {
                dir: root.join(group.trim_start_matches('/')),
                group,
                root: root.to_owned(),
                run_dir: run_dir.to_owned(),
            }
        }))
    }

    /// Its path below the hierarchy's root.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Whether it is there, and the process that keeps it.
    pub fn is_kept(&self) -> bool {
        hold::is_kept(&self.dir)
    }

    /// Makes it, or the process that keeps it, where missing.
    pub fn keep(&self) -> anyhow::Result<()> {
        if self.is_kept() {
            return Ok(());
        }
        let mut why = String::new();
        for _ in 0..TRIES {
            // One that is empty is going away, though it may not know yet.
            let alive = self.is_populated() && is_active()?;
            let made = if alive { self.hold() } else { self.make() };
            let out = made.with_context(|| format!("cannot make {NAME}.scope for containers to live in"))?;
            // It may have been empty for a moment, and ended, before its keeper was in it: then it never ends again, and
            // is not what systemd stops. With the keeper in it what systemd says holds.
            if out.status.success() && (!alive || is_active()?) {
                info!(group = %self.group, "containers live in {NAME}.scope");
                return Ok(());
            }
            if out.status.success() {
                hold::end(&self.dir);
                "it ended meanwhile".clone_into(&mut why);
            } else {
                String::from_utf8_lossy(&out.stderr).trim().clone_into(&mut why);
            }
            sleep(Duration::from_millis(50));
        }
        bail!(
            "cannot make {NAME}.scope for containers to live in: {why}; look at `systemctl status {NAME}.scope`, or give --cgroup-parent /wharf to do without"
        )
    }

    /// Takes name server and relay in, which outlive the agent too: they start in the service's group, as the agent's
    /// children. Those that an earlier agent left there are taken in as well.
    pub fn adopt_helpers(&self) -> io::Result<()> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else {
            return Ok(());
        };
        let pids = fs::read_to_string(self.root.join(own).join("cgroup.procs"))?;
        let helpers = pids
            .lines()
            .filter_map(|pid| Some((pid, helper(pid, &self.run_dir)?)));
        for (pid, name) in helpers {
            let leaf = self.dir.join(name);
            fs::create_dir_all(&leaf)?;
            match fs::write(leaf.join("cgroup.procs"), pid) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                moved => moved?,
            }
        }
        Ok(())
    }

    /// Whether there are processes in it or below (cgroup-v2.rst, `cgroup.events`).
    fn is_populated(&self) -> bool {
        fs::read_to_string(self.dir.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"))
    }

    /// Has systemd make it around a `wharf hold`.
    fn make(&self) -> io::Result<Output> {
        let mut command = Command::new("systemd-run");
        command
            .args(["--scope", "--quiet", "--collect", "--no-ask-password"])
            .args([format!("--unit={NAME}"), format!("--slice={SLICE}")])
            .arg("--description=Containers kept by wharf")
            .args(PROPERTIES.iter().flat_map(|p| ["-p", p]))
            // Our own program, also when its file was replaced since.
            .arg(format!("/proc/{}/exe", std::process::id()))
            .arg("hold");
        self.run(command)
    }

    /// Gives a scope that is there another `wharf hold`.
    fn hold(&self) -> io::Result<Output> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("wharf").arg("hold").arg(&self.dir);
        self.run(command)
    }

    fn run(&self, mut command: Command) -> io::Result<Output> {
        command
            .env_clear()
            .env("WHARF_RUN_DIR", &self.run_dir)
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
    }
}

/// Which of these of this run dir a process is.
fn helper(pid: &str, run_dir: &Path) -> Option<&'static str> {
    let read = |what: &str| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let mark = [b"WHARF_RUN_DIR=", run_dir.as_os_str().as_bytes()].concat();
    let line = read("cmdline");
    let is = |name: &&str| line == [b"wharf\0", name.as_bytes(), b"\0"].concat();
    let name = HELPERS.into_iter().find(is)?;
    read("environ")
        .split(|&b| b == 0)
        .any(|var| var == mark)
        .then_some(name)
}

fn is_active() -> anyhow::Result<bool> {
    let out = Command::new("systemctl")
        .args(["is-active", "--quiet", &format!("{NAME}.scope")])
        .stdin(Stdio::null())
        .output()
        .context("cannot run systemctl")?;
    Ok(out.status.success())
}

/// The group below which systemd keeps everything, by where it is itself; none where pid 1 is outside of what we see.
fn managed(init: &str) -> Option<&str> {
    let own = init.lines().find_map(|line| line.strip_prefix("0::"))?;
    let top = own.strip_suffix("/init.scope")?;
    (!top.starts_with("/..")).then_some(top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemds_own_place_tells_where_all_is() {
        assert_eq!(managed("0::/init.scope\n"), Some(""));
        assert_eq!(managed("0::/machine/h1/init.scope\n"), Some("/machine/h1"));
        assert_eq!(managed("0::/../../init.scope\n"), None);
        assert_eq!(managed("0::/\n"), None, "no systemd");
        assert_eq!(managed("4:memory:/init.scope\n"), None, "not v2");
    }

    #[test]
    fn an_agent_with_a_run_dir_of_its_own_has_no_scope() {
        assert!(Scope::of_this_host(Path::new("/run/wharf-2")).unwrap().is_none());
    }
}
