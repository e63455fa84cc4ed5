//! Open vSwitch on a host: its two daemons, with the datapath that needs no kernel module, and a database and sockets of
//! their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Host;

/// How long a start may take before the test gives up.
const LIMIT: Duration = Duration::from_secs(60);

/// Of one host. The daemons end with the host.
#[derive(Debug)]
pub struct OpenVswitch {
    dir: PathBuf,
    net: String,
    mount: String,
    run_dir: PathBuf,
}

impl OpenVswitch {
    /// Installs it there, and tells the agent, which is not started yet, where its sockets are.
    pub fn install(host: &mut Host) -> Self {
        let dir = host.dir().join("ovs");
        std::fs::create_dir(&dir).unwrap();
        let ns = format!("/proc/{}/ns", host.ns.pid());
        let switch = Self {
            net: format!("--net={ns}/net"),
            mount: format!("--mount={ns}/mnt"),
            run_dir: host.run_dir(),
            dir,
        };
        host.agent_env("OVS_RUNDIR", &switch.dir.display().to_string());
        let schema = share().join("vswitch.ovsschema");
        let database = switch.database();
        switch.run("ovsdb-tool", &["create", &text(&database), &text(&schema)]);
        switch
    }

    /// Installed, and running.
    pub fn start_on(host: &mut Host) -> Self {
        let switch = Self::install(host);
        switch.start();
        switch
    }

    fn database(&self) -> PathBuf {
        self.dir.join("conf.db")
    }

    /// Its sockets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Both daemons.
    pub fn start(&self) {
        let remote = format!("--remote=punix:{}", text(&self.dir.join("db.sock")));
        let database = text(&self.database());
        self.daemon("ovsdb-server", &[&database, &remote]);
        self.vsctl("--no-wait init");
        self.start_switch();
    }

    /// ovs-vswitchd alone.
    pub fn start_switch(&self) {
        let socket = format!("unix:{}", text(&self.dir.join("db.sock")));
        self.daemon("ovs-vswitchd", &[&socket]);
    }

    fn daemon(&self, name: &str, args: &[&str]) {
        let own = [
            format!("--pidfile={}", text(&self.dir.join(format!("{name}.pid")))),
            format!("--unixctl={}", text(&self.dir.join(format!("{name}.ctl")))),
            format!("--log-file={}", text(&self.dir.join(format!("{name}.log")))),
        ];
        let fixed = ["--detach", "--no-chdir", "-vconsole:off"];
        let all: Vec<&str> = args
            .iter()
            .copied()
            .chain(fixed)
            .chain(own.iter().map(String::as_str))
            .collect();
        self.run(name, &all);
    }

    /// Kills one of the daemons.
    pub fn kill(&self, name: &str) {
        let pid = std::fs::read_to_string(self.dir.join(format!("{name}.pid"))).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let gone = || nix::sys::signal::kill(pid, None).is_err();
        let start = Instant::now();
        while !gone() {
            assert!(start.elapsed() < LIMIT, "{name} does not die");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `ovs-vsctl` with these arguments, separated by blanks; what it said.
    pub fn vsctl(&self, args: &str) -> String {
        let all: Vec<&str> = ["--timeout=60"].into_iter().chain(args.split(' ')).collect();
        self.run("ovs-vsctl", &all)
    }

    /// `ovs-ofctl`.
    pub fn ofctl(&self, args: &str) -> String {
        let all: Vec<&str> = ["-O", "OpenFlow13"].into_iter().chain(args.split(' ')).collect();
        self.run("ovs-ofctl", &all)
    }

    /// Has a device of the host be a port of a bridge of its own, which gets the device's address. Without the kernel's
    /// datapath, tunnels find their way by such bridges alone; and the kernel, which is there as well, is kept from what
    /// comes to the device by one of its own that is down.
    pub fn take_over(&self, device: &str, address: &str) {
        let bridge = format!("br-{device}");
        self.vsctl(&format!(
            "add-br {bridge} -- set bridge {bridge} datapath_type=netdev -- add-port {bridge} {device}"
        ));
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.run(
            "bash",
            &["-euc", &format!("ip addr flush dev {device}; ip addr add {address} dev {bridge} {nodad}; ip link set {bridge} up
                ip link add off-{device} type bridge; ip link set {device} master off-{device}")],
        );
    }

    /// What a program says; none where it fails, as it does while something is being put right.
    pub fn ask(&self, program: &str, args: &str) -> Option<String> {
        let out = self.command(program).args(args.split(' ')).output().unwrap();
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let out = self.command(program).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let complained = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "{program} {args:?}: {said}{complained}{}",
            self.log()
        );
        said
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([&self.net, &self.mount])
            .arg("--")
            .arg(found(program));
        let dir = &self.dir;
        command
            .env("OVS_RUNDIR", dir)
            .env("OVS_LOGDIR", dir)
            .env("OVS_DBDIR", dir);
        command.env("OVS_SYSCONFDIR", dir).env("OVS_PKGDATADIR", share());
        // By this the host clears them away.
        command.env("WHARF_RUN_DIR", &self.run_dir);
        if let Some(libraries) = libraries() {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// The end of what ovs-vswitchd logged.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("ovs-vswitchd.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Where `./test` unpacks it.
fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    home.join(".cache/wharf/openvswitch-switch")
}

/// Installed, or unpacked into the cache.
fn found(program: &str) -> PathBuf {
    let dirs = ["usr/bin", "usr/sbin", "usr/lib/openvswitch-switch"];
    let roots = [PathBuf::from("/"), cache()];
    let all = roots
        .iter()
        .flat_map(|root| dirs.iter().map(move |dir| root.join(dir).join(program)));
    let mut there = all.filter(|path| path.exists());
    there.next().unwrap_or_else(|| {
        panic!(
            "{program} is neither installed nor below {}; ./test unpacks it",
            cache().display()
        )
    })
}

fn share() -> PathBuf {
    let installed = PathBuf::from("/usr/share/openvswitch");
    match installed.join("vswitch.ovsschema").exists() {
        true => installed,
        false => cache().join("usr/share/openvswitch"),
    }
}

/// Those of the cache, which come after the host's where it has them.
fn libraries() -> Option<PathBuf> {
    let lib = cache().join("usr/lib");
    let entries = std::fs::read_dir(lib).ok()?;
    let mut dirs = entries.filter_map(|entry| Some(entry.ok()?.path()));
    dirs.find(|dir| dir.to_string_lossy().ends_with("-linux-gnu"))
}
