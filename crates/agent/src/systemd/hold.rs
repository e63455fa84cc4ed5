//! `wharf hold`: the process that keeps the containers' scope when no container is there, and empties it in order when
//! systemd stops it.
//!
//! It lives in the scope's leaf `hold/`, because a group whose controllers are on for the groups below holds no process
//! itself. Systemd runs it in the scope's own group; it moves, leaves a copy of itself behind and returns, so that who
//! asked for the scope knows when it is ready.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal, setsid};

use super::stop_order;

/// Its leaf.
const LEAF: &str = "hold";
/// The leaf of a container's shim.
const SHIM: &str = runtime::cgroup::SHIM;
const STAY: &str = "--stay";
const READY: &str = "ready";
/// Between two looks whether a container has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Whether somebody keeps the scope.
pub fn is_kept(scope: &Path) -> bool {
    !pids(&scope.join(LEAF)).is_empty()
}

/// Ends who keeps it, without a word to the containers. Returns when that was asked for: whoever looks again sees it.
pub fn end(scope: &Path) {
    let leaf = scope.join(LEAF);
    for pid in pids(&leaf) {
        ask_to_stop(pid, &leaf);
    }
}

/// Entry point of `wharf hold [SCOPE]`, SCOPE being the group's directory, and the caller's own by default.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(2).map(PathBuf::from).collect();
    let done = match args.as_slice() {
        [] => own_group().and_then(|scope| settle(&scope)),
        [stay, scope] if stay.as_os_str() == STAY => return stay_in(scope),
        [scope] => settle(scope),
        _ => Err("usage: wharf hold [SCOPE]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The directory of the group this process is in.
fn own_group() -> Result<PathBuf, String> {
    let failed = |why: String| format!("cannot find this process's own control group: {why}");
    let text = fs::read_to_string("/proc/self/cgroup").map_err(|e| failed(e.to_string()))?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = group.ok_or_else(|| failed("there is no cgroup v2".to_owned()))?;
    let hierarchies = runtime::cgroup::Hierarchies::detect().map_err(|e| failed(e.to_string()))?;
    let root = hierarchies.mounted().pop().map(|(_, root)| root.to_path_buf());
    Ok(root
        .ok_or_else(|| failed("none is mounted".to_owned()))?
        .join(group))
}

/// Moves into the leaf and leaves one there that stays.
fn settle(scope: &Path) -> Result<(), String> {
    let leaf = scope.join(LEAF);
    let at = |e: io::Error| format!("cannot move into {}: {e}", leaf.display());
    match fs::create_dir(&leaf) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at(e)),
        _ => {}
    }
    fs::write(leaf.join("cgroup.procs"), "0").map_err(at)?;
    let mut child = detach::command(Path::new("/proc/self/exe"))
        .args(["hold", STAY])
        .arg(scope)
        .envs(
            ["WHARF_RUN_DIR", "PATH"]
                .into_iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start wharf hold: {e}"))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(|e| format!("cannot hear from wharf hold: {e}"))?;
    }
    match line.trim() {
        READY => Ok(()),
        "" => Err("wharf hold ended at once".to_owned()),
        why => Err(why.to_owned()),
    }
}

/// Stays until the scope is stopped, then stops what is in it.
fn stay_in(scope: &Path) -> ExitCode {
    let orders = match prepare() {
        Ok(orders) => orders,
        Err(e) => {
            println!("wharf hold cannot set itself up: {e}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        match orders.wait() {
            // What a stopped scope sends, see its KillSignal.
            Ok(Signal::SIGURG) => {
                stop_all(scope);
                return ExitCode::SUCCESS;
            }
            // For this process alone: nobody wants the containers to end.
            Ok(Signal::SIGTERM) => return ExitCode::SUCCESS,
            Ok(_) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Sheds what was inherited and says that all is well; gives the signals to wait for.
fn prepare() -> io::Result<SigSet> {
    detach::close_inherited()?;
    let mut orders = SigSet::empty();
    for signal in [Signal::SIGURG, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        orders.add(signal);
    }
    orders.thread_set_mask()?;
    setsid()?;
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}")?;
    stdout.flush()?;
    // Whoever reads the pipe waits for its end no longer.
    let null = fs::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(orders)
}

/// Stops the agent, that would start the containers again; has every shim stop its container, wave after wave; and
/// kills what no shim cared for.
fn stop_all(scope: &Path) {
    // Not by a dependency of the units: that would also end an agent whose scope was killed. Where the agent is no
    // service, or was stopped before, there is nothing to stop, and systemctl says so to nobody.
    let _ = Command::new("systemctl")
        .args(["stop", "--quiet", "wharf.service"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    for wave in waves(scope) {
        for shim in &wave {
            let procs = scope.join(shim).join(SHIM);
            pids(&procs).into_iter().for_each(|pid| ask_to_stop(pid, &procs));
        }
        // The shims know the grace periods; systemd knows when patience ends altogether.
        while wave.iter().any(|group| has_shim(scope, group)) {
            sleep(LOOK);
        }
    }
    for group in groups(scope) {
        // Already gone, at best.
        let _ = fs::write(scope.join(group).join("cgroup.kill"), "1");
    }
}

/// The containers there are, in the order the agent left; those it did not know go first.
fn waves(scope: &Path) -> stop_order::Waves {
    let run_dir = std::env::var_os("WHARF_RUN_DIR").map(PathBuf::from);
    // An order that cannot be read does not keep a host from shutting down: all at once, then.
    let order = run_dir
        .and_then(|dir| stop_order::read(&dir).ok())
        .unwrap_or_default();
    sorted(groups(scope), &order)
}

fn sorted(mut there: BTreeSet<String>, order: &stop_order::Waves) -> stop_order::Waves {
    let mut waves: stop_order::Waves = order
        .iter()
        .map(|wave| wave.iter().filter_map(|group| there.take(group)).collect())
        .collect();
    waves.insert(0, there.into_iter().collect());
    waves
}

/// The containers' groups.
fn groups(scope: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(scope).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != LEAF)
        .collect()
}

fn has_shim(scope: &Path, group: &str) -> bool {
    !pids(&scope.join(group).join(SHIM)).is_empty()
}

/// The processes of one group; none where it is gone.
fn pids(group: &Path) -> BTreeSet<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// As init asks a service. The process is held by a descriptor before it is looked up again: numbers are used anew.
fn ask_to_stop(pid: i32, group: &Path) {
    let held = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Some(held) = held
        && pids(group).contains(&pid)
    {
        // It may have ended by itself.
        let _ = pidfd_send_signal(&held, rustix::process::Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_and_strangers_go_first() {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let wave = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let order = vec![wave(&["web-1"]), wave(&["app-1", "gone-1"]), wave(&["db-1"])];
        assert_eq!(
            sorted(set(&["db-1", "odd-1", "app-1", "web-1"]), &order),
            [
                wave(&["odd-1"]),
                wave(&["web-1"]),
                wave(&["app-1"]),
                wave(&["db-1"])
            ]
        );
        assert_eq!(sorted(set(&["a", "b"]), &Vec::new()), [wave(&["a", "b"])]);
    }

    #[test]
    fn a_scope_that_is_not_there_is_kept_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_kept(dir.path()));
        assert!(groups(dir.path()).is_empty());
    }
}
