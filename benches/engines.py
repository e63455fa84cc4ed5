"""The engines: how each is started, told of containers, and looked at."""

import json
import os
import pathlib
import statistics
import subprocess
import time

from host import Host, Unable, run

REPO = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("WHARF_CACHE", pathlib.Path.home() / ".cache/wharf"))


def pss(pid):
    """Proportional set size in bytes (proc_pid_smaps(5))."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Engine:
    """`ways` are the ways to start many at once; the first is compared."""

    ways = ["at_once"]

    # Of its processes, beside what it needs.
    more_env = {}

    def __init__(self, args, work, label=None):
        self.label = label or self.name
        self.args, self.work, self.host = args, work / self.label, None
        self.work.mkdir()

    def prepare(self):
        pass

    def open(self):
        self.host = Host(self.label, self.prepare, self.args.probe_from)

    def finish(self):
        """Waits until what `begin` began is done."""
        self.host.inside.answer()

    def is_shim(self, command):
        return os.path.basename(command[0]) == self.shim

    def memory(self):
        """Bytes, of all processes but the containers' own."""
        own = {pid: c for pid, c in self.host.processes().items() if c[0] != "/hello"}
        each = {pid: pss(pid) for pid in own}
        shims = [each[pid] for pid, c in own.items() if self.is_shim(c)]
        engine = [each[pid] for pid, c in own.items() if os.path.basename(c[0]) in self.daemons and not self.is_shim(c)]
        return {"shim_pss": statistics.median(shims) if shims else 0, "shims": len(shims),
                "engine_pss": sum(engine), "all_pss": sum(each.values())}

    def payload(self):
        """The main process of the one container there is."""
        found = [pid for pid, c in self.host.processes().items() if c[0] == "/hello"]
        if len(found) != 1:
            raise Unable(f"{len(found)} payloads run where one should")
        return found[0]

    def close(self):
        if self.host:
            self.host.close()


class Wharf(Engine):
    name, daemons = "wharf", ["wharf"]

    def open(self):
        super().open()
        self.binary, self.config = pathlib.Path(self.args.wharf).resolve(), self.work / "containers.d"
        self.config.mkdir()
        run(REPO / "examples/quickstart/make-image", self.work)
        self.env = dict(WHARF_CONFIG_DIR=str(self.config), WHARF_STATE_DIR=str(self.work / "state"),
                        WHARF_RUN_DIR=str(self.work / "run"), WHARF_CGROUP_PARENT="/wharf", **self.more_env)
        log = self.work / "agent.log"
        self.agent = self.host.start(self.binary, "agent", "--settings", self.work / "none.toml", log=log, env=self.env)
        for _ in range(500):
            if (self.work / "run/wharf.sock").exists():
                break
            time.sleep(0.01)
        try:
            self.client("wait")
        except Unable as e:
            raise Unable(f"{e}\n{log.read_text()[-800:]}") from e

    def client(self, *argv):
        return self.host.run(self.binary, *argv, env=self.env)

    def version(self):
        return {"version": self.client("--version").strip()}

    def begin(self, ports, way):
        """All files are written first and then renamed into place."""
        fresh = []
        for port in ports:
            text = f'[container.c{port}]\nimage = "oci:{self.work}/hello"\nports = ["{port}:80"]\n'
            fresh.append((self.config / f".c{port}.new", self.config / f"c{port}.toml"))
            fresh[-1][0].write_text(text)
        began = time.monotonic()
        for hidden, seen in fresh:
            hidden.rename(seen)
        return began

    def finish(self):
        pass

    def remove(self, ports):
        for port in ports:
            (self.config / f"c{port}.toml").unlink(missing_ok=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            # Its exit status tells whether all is as wished: both are answers.
            told = self.host.run("sh", "-c", '"$0" status --json || [ $? = 3 ]', self.binary, env=self.env)
            if not {f"c{p}" for p in ports} & {c["name"] for c in json.loads(told)["containers"]}:
                return
            time.sleep(0.05)
        raise Unable("containers are not removed")

    def is_shim(self, command):
        return command[0].startswith("wharf shim") or (os.path.basename(command[0]) == "wharf" and "shim" in command[1:2])

    def binaries(self):
        return {"wharf": self.binary.stat().st_size}


class Peer(Engine):
    """An engine of Debian's, unpacked into a folder, run from there."""

    ways, env = ["four_at_a_time", "one_by_one"], {}

    def open(self):
        self.root = CACHE / "peers" / f"{self.args.suite}-{self.name}"
        if not (self.root / "usr/bin").is_dir():
            self.unpack()
        (self.work / "state").mkdir()
        super().open()
        self.begin_daemon()
        run(REPO / "examples/quickstart/make-image", self.work)
        self.load()

    def unpack(self):
        fresh = self.root.with_suffix(f".{os.getpid()}")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        wanted = ["Created-By: Packages", "Component: main", "Origin: Debian", "Label: Debian"]
        mirror = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)", *wanted], capture_output=True, text=True)
        # In a mount namespace: one that is killed leaves no mounts, through which a removal would reach this machine.
        run("unshare", "--mount", "mmdebstrap", "--variant=minbase", f"--include={self.packages}", self.args.suite, fresh,
            *mirror.stdout.split()[:1])
        fresh.rename(self.root)

    def prepare(self):
        """In the host's own mount namespace: the peer's tree becomes /."""
        run("sh", "-euc", f"""
            mount --bind {self.root} {self.root}; cd {self.root}
            for d in proc dev sys; do mount --rbind /$d $d; done
            mkdir -p mnt var/lib/{self.store}
            mount --bind {self.work} mnt
            mount --bind {self.work}/state var/lib/{self.store}
            mount -t tmpfs run run; mount -t tmpfs tmp tmp; mkdir -p run/lock""")
        os.chroot(self.root)
        os.chdir("/")
        os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", **self.env)

    def begin_daemon(self):
        pass

    def begin(self, ports, way):
        one = f"{self.name} run -d --restart always --name c$1 -p $1:80 hello >/dev/null"
        if len(ports) == 1:
            script = f"set -- {ports[0]}; exec {one}"
        elif way == "one_by_one":
            script = f"for port in {' '.join(map(str, ports))}; do set -- $port; {one} || exit 1; done"
        else:
            script = f"printf '%s\\n' {' '.join(map(str, ports))} | xargs -n 1 -P 4 sh -c 'exec {one}' run"
        began = time.monotonic()
        self.host.inside.ask("run", ["sh", "-c", script], None)
        return began

    def remove(self, ports):
        names = " ".join(f"c{p}" for p in ports)
        self.host.run("sh", "-c", f"printf '%s\\n' {names} | xargs -n 25 -P 4 {self.name} rm -f {self.rm_flags}")

    def binaries(self):
        return {p: (self.root / p).stat().st_size for p in self.programs}


class Podman(Peer):
    name, store, shim, daemons, rm_flags = "podman", "containers", "conmon", [], "-t 0"
    packages = "podman,crun,conmon,netavark,aardvark-dns,nftables,iptables,passt,skopeo,ca-certificates"
    programs = ["usr/bin/podman", "usr/bin/conmon", "usr/bin/crun", "usr/lib/podman/netavark"]
    env = {"CONTAINERS_CONF_OVERRIDE": "/mnt/containers.conf"}

    def prepare(self):
        super().prepare()
        # There is no systemd in here, and limits cannot be raised everywhere; logs go to a file, as with the others.
        pathlib.Path("/mnt/containers.conf").write_text(
            '[containers]\nlog_driver = "k8s-file"\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n')
        # Its networks are no part of the tree, which is used again.
        networks = pathlib.Path("/etc/containers/networks")
        networks.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "networks", networks)
        # crun takes cgroups either as v1 or as v2.
        while os.path.ismount("/sys/fs/cgroup/unified"):
            run("umount", "-l", "/sys/fs/cgroup/unified")

    def load(self):
        self.host.run("skopeo", "copy", "--insecure-policy", "oci:/mnt/hello:latest", "containers-storage:localhost/hello:latest")

    def version(self):
        told = json.loads(self.host.run("podman", "info", "--format", "json"))
        host = told["host"]
        return {"version": told["version"]["Version"], "runtime": host["ociRuntime"]["version"].splitlines()[0],
                "conmon": host["conmon"]["version"], "network": host["networkBackendInfo"]["version"],
                "storage": told["store"]["graphDriverName"], "logs": host["logDriver"], "cgroups": host["cgroupVersion"]}


class Docker(Peer):
    name, store, shim, rm_flags = "docker", "docker", "containerd-shim-runc-v2", ""
    daemons = ["dockerd", "containerd"]
    packages = "docker.io,docker-cli,containerd,runc,iptables,nftables,skopeo,ca-certificates"
    programs = ["usr/sbin/dockerd", "usr/sbin/docker-proxy", "usr/bin/docker", "usr/bin/containerd",
                "usr/bin/containerd-shim-runc-v2", "usr/sbin/runc"]

    def begin_daemon(self):
        server = self.host.start("dockerd", "--default-ulimit", "nofile=1024:1024", "--data-root", "/var/lib/docker",
                                 "--exec-root", "/run/docker", "--pidfile", "/run/docker.pid",
                                 "--host", "unix:///run/docker.sock", log="/mnt/dockerd.log")
        end = time.monotonic() + 60
        while time.monotonic() < end and self.host.inside.do("wait", server, 0.1) is None:
            try:
                self.host.run("docker", "version")
                return
            except Unable:
                pass
        raise Unable("dockerd: " + (self.work / "dockerd.log").read_text()[-1200:])

    def load(self):
        self.host.run("skopeo", "copy", "--insecure-policy", "oci:/mnt/hello:latest", "docker-archive:/mnt/hello.tar:hello:latest")
        self.host.run("docker", "load", "-i", "/mnt/hello.tar")

    def version(self):
        told = json.loads(self.host.run("docker", "info", "--format", "{{json .}}"))
        return {"version": told["ServerVersion"], "runtime": told["DefaultRuntime"], "storage": told["Driver"],
                "logs": told["LoggingDriver"], "cgroups": told["CgroupVersion"]}


KINDS = {kind.name: kind for kind in (Wharf, Podman, Docker)}
