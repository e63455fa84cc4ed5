"""Measures engines side by side, interleaved; see README.md beside this file."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("WHARF_CACHE", pathlib.Path.home() / ".cache/wharf"))
HOST, NEIGHBOUR = "192.0.2.1", "192.0.2.2"
CLONE_NEWNET = 0x40000000


class Unable(Exception):
    """An engine cannot be run here, and why."""


def run(*argv, **kw):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **kw)
    if done.returncode != 0:
        raise Unable(f"{' '.join(map(str, argv))[-200:]}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


class Net:
    """A network and mount namespace held by a sleeper, and a neighbour on a wire."""

    def __init__(self):
        self.keepers = [self._hold(), self._hold()]
        host, neighbour = self.pids = [k.pid for k in self.keepers]
        self.inside("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", f"/proc/{neighbour}/ns/net")
        for pid, address in ((host, HOST), (neighbour, NEIGHBOUR)):
            enter = ("nsenter", f"--net=/proc/{pid}/ns/net", "--")
            run(*enter, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
            run(*enter, "ip", "link", "set", "eth0", "up")
        self.inside("ip", "route", "add", "default", "via", NEIGHBOUR)

    @staticmethod
    def _hold():
        script = "ip link set lo up && echo up && exec setpriv --pdeathsig KILL sleep infinity"
        keeper = subprocess.Popen(["unshare", "--net", "--mount", "--propagation", "private", "--", "sh", "-c", script],
                                  stdout=subprocess.PIPE, text=True)
        if keeper.stdout.readline() != "up\n":
            raise Unable("namespaces cannot be made here")
        return keeper

    def enter(self):
        return ["nsenter", f"--net=/proc/{self.pids[0]}/ns/net", f"--mount=/proc/{self.pids[0]}/ns/mnt", "--"]

    def inside(self, *argv, **kw):
        return run(*self.enter(), *argv, **kw)

    def close(self):
        for keeper in self.keepers:
            keeper.kill()
            keeper.wait()


def enter_neighbour(net):
    """Moves this thread; sockets it makes from now on belong to the neighbour."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/{net.pids[1]}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(fd)


def first_answer(port, limit=90.0):
    """Asks until the page comes; the time of its arrival."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            # A SYN that got lost is sent again after 1 s (tcp(7)): that would be measured instead of the engine.
            with socket.create_connection((HOST, port), timeout=0.02) as s:
                s.settimeout(2)
                s.sendall(b"GET / HTTP/1.0\r\n\r\n")
                if b"hello from" in b"".join(iter(lambda: s.recv(4096), b"")):
                    return time.monotonic()
        except OSError:
            pass
        time.sleep(0.001)
    raise Unable(f"no answer on port {port} within {limit:.0f} s")


def answers(net, ports):
    """When the last of the ports had answered, asked from the neighbour."""
    def work(port):
        enter_neighbour(net)
        return first_answer(port)

    # Threads of an executor of its own: they stay in the neighbour's namespace and end with it.
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(len(ports), 8)) as pool:
        return max(pool.map(work, ports))


def machine_cpu():
    """CPU seconds this machine has spent working since boot (proc_stat(5))."""
    user, nice, system, _, _, irq, softirq = map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def pss(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def processes():
    """pid → command line, of every process."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                pass
    return found


class Wharf:
    name = "wharf"
    start_note = "file dropped by rename"

    def __init__(self, args, work):
        self.binary, self.work = pathlib.Path(args.wharf).resolve(), work / "wharf"
        self.config = self.work / "containers.d"
        self.config.mkdir(parents=True)
        run(REPO / "examples/quickstart/make-image", self.work)
        self.parent = f"/wharf-bench-{os.getpid()}"
        self.env = dict(os.environ, WHARF_CONFIG_DIR=str(self.config), WHARF_STATE_DIR=str(self.work / "state"),
                        WHARF_RUN_DIR=str(self.work / "run"), WHARF_CGROUP_PARENT=self.parent)
        self.net = Net()
        self.log = open(self.work / "agent.log", "w")
        self.agent = subprocess.Popen(self.net.enter() + [str(self.binary), "agent", "--settings", str(self.work / "none.toml")],
                                      env=self.env, stdout=self.log, stderr=self.log)
        for _ in range(500):
            if (self.work / "run/wharf.sock").exists():
                break
            time.sleep(0.01)
        self.client("wait")

    def client(self, *argv):
        return self.net.inside(self.binary, *argv, env=self.env)

    def version(self):
        return run(self.binary, "--version").strip()

    def start(self, ports):
        for port in ports:
            text = f'[container.c{port}]\nimage = "oci:{self.work}/hello"\nports = ["{port}:80"]\n'
            fresh = self.config / f".c{port}.new"
            fresh.write_text(text)
            fresh.rename(self.config / f"c{port}.toml")

    def remove(self, ports):
        for port in ports:
            (self.config / f"c{port}.toml").unlink()
        for _ in range(2000):
            if not json.loads(subprocess.run(self.net.enter() + [str(self.binary), "status", "--json"], env=self.env,
                                             capture_output=True, text=True).stdout)["containers"]:
                return
            time.sleep(0.02)
        raise Unable("containers are not removed")

    def memory(self):
        mark = f"WHARF_RUN_DIR={self.work / 'run'}".encode()
        shims = []
        for pid, command in processes().items():
            if command.startswith("wharf shim"):
                try:
                    if mark in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                        shims.append(pss(pid))
                except OSError:
                    pass
        return {"shim_pss": max(shims, default=0), "shims": len(shims), "engine_pss": pss(self.agent.pid)}

    def binary_size(self):
        return self.binary.stat().st_size

    def close(self):
        self.agent.send_signal(signal.SIGTERM)
        self.agent.wait(timeout=30)
        self.net.close()
        subprocess.run(["sh", "-c", f"find /sys/fs/cgroup -depth -type d -path '*{self.parent}*' -exec rmdir {{}} + 2>/dev/null"])


class Peer:
    """An engine of Debian's, unpacked into a folder, run from there in namespaces of its own."""

    packages, daemon, programs, shim = "", None, [], ""
    start_note = "run -d -p begun"

    def __init__(self, args, work):
        self.work = work / self.name
        self.work.mkdir()
        self.root = CACHE / "peers" / f"{args.suite}-{self.name}"
        if not (self.root / "usr/bin").is_dir():
            fresh = self.root.with_suffix(f".{os.getpid()}")
            fresh.parent.mkdir(parents=True, exist_ok=True)
            run("mmdebstrap", "--variant=minbase", f"--include={self.packages}", args.suite, fresh)
            fresh.rename(self.root)
        self.net, self.server = Net(), None
        self.mounts()
        self.daemon_start()
        run(REPO / "examples/quickstart/make-image", self.work)
        self.load()

    def mounts(self):
        root, state = self.root, self.work / "state"
        state.mkdir()
        self.net.inside("sh", "-euc", f"""
            umount /sys/fs/cgroup/unified 2>/dev/null || true
            mount --bind {root} {root}; cd {root}
            for d in proc dev sys; do mount --rbind /$d $d; done
            mkdir -p mnt; mount --bind {self.work} mnt
            mkdir -p var/lib/{self.store}; mount --bind {state} var/lib/{self.store}
            mount -t tmpfs run run; mount -t tmpfs tmp tmp; mkdir -p run/lock""")

    def command(self, *argv):
        return self.net.enter() + ["chroot", str(self.root), *map(str, argv)]

    def inside(self, *argv):
        return run(*self.command(*argv))

    def daemon_start(self):
        pass

    def version(self):
        return self.inside(self.name, "--version").strip()

    def run_one(self, port):
        self.inside(self.name, "run", "-d", "--name", f"c{port}", "-p", f"{port}:80", *self.run_flags, "hello")

    run_flags = []

    def start(self, ports):
        with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(self.run_one, ports))

    def remove(self, ports):
        self.inside(self.name, "rm", "-f", *[f"c{p}" for p in ports])

    def own(self):
        """Processes whose root is the peer's tree."""
        found = {}
        for pid, command in processes().items():
            try:
                if os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink(f"/proc/{self.net.pids[0]}/ns/mnt"):
                    found[pid] = command
            except OSError:
                pass
        return found

    def memory(self):
        own = self.own()
        shims = [pss(pid) for pid, c in own.items() if self.shim in c.split(" ")[0]]
        engine = sum(pss(pid) for pid, c in own.items() if any(c.split(" ")[0].endswith(d) for d in self.daemons))
        return {"shim_pss": max(shims, default=0), "shims": len(shims), "engine_pss": engine}

    def binary_size(self):
        return sum((self.root / p).stat().st_size for p in self.programs)

    def close(self):
        for pid in [p for p in self.own() if p not in self.net.pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.net.close()


class Podman(Peer):
    name, store, shim, daemons = "podman", "containers", "conmon", []
    packages = "podman,crun,conmon,netavark,aardvark-dns,nftables,iptables,passt,skopeo,ca-certificates"
    programs = ["usr/bin/podman", "usr/bin/conmon", "usr/bin/crun", "usr/lib/podman/netavark"]
    run_flags = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]

    def load(self):
        self.inside("skopeo", "copy", "--insecure-policy", "oci:/mnt/hello:latest", "containers-storage:localhost/hello:latest")


class Docker(Peer):
    name, store, shim = "docker", "docker", "containerd-shim"
    daemons = ["dockerd", "containerd"]
    packages = "docker.io,docker-cli,containerd,runc,iptables,nftables,skopeo,ca-certificates"
    programs = ["usr/sbin/dockerd", "usr/bin/docker", "usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/sbin/runc"]

    def daemon_start(self):
        log = open(self.work / "dockerd.log", "w")
        self.server = subprocess.Popen(self.command("dockerd", "--default-ulimit", "nofile=1024:1024"), stdout=log, stderr=log)
        for _ in range(300):
            if subprocess.run(self.command("docker", "info"), capture_output=True).returncode == 0:
                return
            if self.server.poll() is not None:
                break
            time.sleep(0.1)
        raise Unable("dockerd: " + (self.work / "dockerd.log").read_text()[-600:])

    def load(self):
        self.inside("skopeo", "copy", "--insecure-policy", "oci:/mnt/hello:latest", "docker-archive:/mnt/hello.tar:hello:latest")
        self.inside("docker", "load", "-i", "/mnt/hello.tar")

    def close(self):
        if self.server:
            self.server.terminate()
            try:
                self.server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                pass
        super().close()


def one_drop(engine, port):
    """Seconds and CPU seconds from the wish to the first answer."""
    cpu, begin = machine_cpu(), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(answers, engine.net, [port])
        engine.start([port])
        seconds = asked.result() - begin
    return {"drop": seconds, "drop_cpu": machine_cpu() - cpu}


def hundred(engine, count):
    ports = list(range(10000, 10000 + count))
    begin = time.monotonic()
    engine.start(ports)
    seconds = answers(engine.net, ports) - begin
    return {"hundred": seconds, **engine.memory()}


def measure(engines, args):
    raw = {e.name: {"rounds": [], "hundred": []} for e in engines}
    for number in range(args.rounds):
        for engine in engines[number % len(engines):] + engines[:number % len(engines)]:
            port = 20000 + number
            raw[engine.name]["rounds"].append(one_drop(engine, port))
            engine.remove([port])
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    for number in range(args.hundreds):
        for engine in engines:
            try:
                raw[engine.name]["hundred"].append(hundred(engine, args.count))
            except Unable as e:
                raw[engine.name]["hundred"].append({"unable": str(e)})
            engine.remove(range(10000, 10000 + args.count))
        print(f"hundred {number + 1} of {args.hundreds}", file=sys.stderr)
    return raw


def table(raw, sizes):
    lines = ["| engine | measure | n | min | median |", "| --- | --- | --- | --- | --- |"]
    for name, of in raw.items():
        for key in ("drop", "drop_cpu", "hundred", "shim_pss", "engine_pss"):
            values = [r[key] for r in of["rounds"] + of["hundred"] if key in r]
            if values:
                lines.append(f"| {name} | {key} | {len(values)} | {min(values):.6g} | {statistics.median(values):.6g} |")
        lines.append(f"| {name} | binary | 1 | {sizes[name]} | {sizes[name]} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="./bench")
    parser.add_argument("--wharf", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--hundreds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--only", default="wharf,podman,docker")
    parser.add_argument("--suite", default="trixie", help="Debian release the peers are taken from")
    args = parser.parse_args()
    engines, unable = [], {}
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as work:
        try:
            for kind in (Wharf, Podman, Docker):
                if kind.name in args.only.split(","):
                    try:
                        engines.append(kind(args, pathlib.Path(work)))
                    except Unable as e:
                        unable[kind.name] = str(e)
                        print(f"{kind.name} could not be run: {e}", file=sys.stderr)
            raw = measure(engines, args)
            sizes = {e.name: e.binary_size() for e in engines}
            result = {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "machine": {"kernel": platform.release(), "cpus": os.cpu_count(), "arch": platform.machine()},
                "versions": {e.name: e.version() for e in engines},
                "starts": {e.name: e.start_note for e in engines},
                "unable": unable, "binary": sizes, "raw": raw,
            }
        finally:
            for engine in engines:
                engine.close()
    out = REPO / "benches/results" / (time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + ".json")
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(raw, sizes))
    for name, why in unable.items():
        print(f"\n{name} could not be run: {why}")
    print(f"\nraw: {out.relative_to(REPO)}", file=sys.stderr)


if __name__ == "__main__":
    main()
