"""A host for one engine: namespaces and a cgroup subtree of its own, and a child process that lives there and runs what
it is told. Nothing of the machine's own firewall, addresses or cgroup mounts is touched."""

import ctypes
import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import traceback

HOST, NEIGHBOUR = "192.0.2.1", "192.0.2.2"
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWNET = 0x00020000, 0x02000000, 0x40000000
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Unable(Exception):
    """An engine cannot be run here, and why."""


def run(*argv, **kw):
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, **kw)
    if done.returncode != 0:
        raise Unable(f"{' '.join(map(str, argv))[-200:]}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def checked(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


class Child:
    """A forked process that takes one request at a time: JSON lines over a socket pair. It ends with its parent."""

    def __init__(self, setup, actions):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            self._live(theirs, setup, actions)
        theirs.close()
        self.stream = ours.makefile("rw")
        try:
            self.answer()
        except Exception:
            self.close()
            raise

    @staticmethod
    def _live(link, setup, actions):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, give_up)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        stream = link.makefile("rw")
        steps = ((setup, ()),)
        while steps:
            for act, arguments in steps:
                try:
                    reply = {"ok": act(*arguments)}
                except Exception as e:
                    reply = {"unable": str(e) if isinstance(e, (Unable, OSError)) else traceback.format_exc()}
                stream.write(json.dumps(reply) + "\n")
                stream.flush()
            line = stream.readline()
            request = json.loads(line) if line else None
            steps = request and ((actions[request[0]], request[1:]),)
        os._exit(0)

    def ask(self, *request):
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()

    def answer(self):
        line = self.stream.readline()
        reply = json.loads(line) if line else {"unable": "the helper process ended"}
        if "unable" in reply:
            raise Unable(reply["unable"])
        return reply["ok"]

    def do(self, *request):
        self.ask(*request)
        return self.answer()

    def cancel(self):
        """Ends what it is at; what it answers does not matter."""
        try:
            os.kill(self.pid, signal.SIGUSR1)
            self.answer()
        except (ProcessLookupError, Unable):
            pass

    def close(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        self.stream.close()


class Cgroup:
    """A subtree of the same name in every hierarchy of this machine: v1, v2 or both."""

    def __init__(self, name):
        mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
        self.dirs = {pathlib.Path(m[1]) / name: m[2:4] for m in mounts if m[2] in ("cgroup", "cgroup2")}
        for path, (kind, options) in self.dirs.items():
            path.mkdir()
            if "cpuset" in options.split(","):
                for key in ("cpuset.cpus", "cpuset.mems"):
                    (path / key).write_text((path.parent / key).read_text())
        v1 = [p for p, (_, options) in self.dirs.items() if "cpuacct" in options.split(",")]
        self.counter = v1[0] if v1 else next(p for p, (kind, _) in self.dirs.items() if kind == "cgroup2")

    def join(self):
        """Makes it this process's, and what this process sees of cgroups."""
        for path in self.dirs:
            (path / "cgroup.procs").write_text(str(os.getpid()))
        checked(LIBC.unshare(CLONE_NEWCGROUP), "a cgroup namespace")
        for path, (kind, _) in self.dirs.items():
            if kind == "cgroup2":
                # Controllers are passed on by groups without processes alone (cgroups(7)).
                (path / "engine").mkdir()
                (path / "engine/cgroup.procs").write_text(str(os.getpid()))
                for controller in (path / "cgroup.controllers").read_text().split():
                    (path / "cgroup.subtree_control").write_text(f"+{controller}")
            run("mount", "--bind", path, path.parent)

    def cpu(self):
        """CPU seconds of all that ever ran in here."""
        if (self.counter / "cpuacct.usage").exists():
            return int((self.counter / "cpuacct.usage").read_text()) / 1e9
        return int((self.counter / "cpu.stat").read_text().split()[1]) / 1e6

    def pids(self):
        found = set()
        for path in self.dirs:
            for procs in path.rglob("cgroup.procs"):
                try:
                    found.update(map(int, procs.read_text().split()))
                except OSError:
                    pass
        return found

    def close(self):
        """Ends what is left in here, then removes it."""
        for _ in range(200):
            left = self.pids()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        for path in self.dirs:
            for below in sorted([path, *(p for p in path.rglob("*") if p.is_dir())], key=lambda p: -len(p.parts)):
                for _ in range(20):
                    try:
                        below.rmdir()
                        break
                    except FileNotFoundError:
                        break
                    except OSError as e:
                        if e.errno != errno.EBUSY:
                            raise
                        time.sleep(0.05)


class Host:
    """Where one engine runs. `inside` is a process there (after `prepare`, which may chroot), `prober` asks for pages."""

    def __init__(self, name, prepare, probe_from):
        self.children, self.daemons = [], {}
        self.cgroup = Cgroup(f"wharf-bench-{os.getpid()}-{name}")
        try:
            self.inside = self.child(lambda: self._enter(prepare), {"run": command, "start": daemon, "wait": wait})
            self.neighbour = self.child(self._wire, {"probe": probe})
            run(*self._net(self.inside), "ip", "route", "add", "default", "via", NEIGHBOUR)
            net = f"/proc/{self.inside.pid}/ns/net"
            self.prober = self.neighbour if probe_from == "neighbour" else self.child(lambda: enter_net(net), {"probe": probe})
        except BaseException:
            self.close()
            raise

    def child(self, setup, actions):
        child = Child(setup, actions)
        self.children.append(child)
        return child

    @staticmethod
    def _net(child):
        return "nsenter", f"--net=/proc/{child.pid}/ns/net", "--"

    def _enter(self, prepare):
        checked(LIBC.unshare(CLONE_NEWNET | CLONE_NEWNS), "network and mount namespaces")
        run("mount", "--make-rprivate", "/")
        run("ip", "link", "set", "lo", "up")
        self.cgroup.join()
        prepare()

    def _wire(self):
        checked(LIBC.unshare(CLONE_NEWNET), "a network namespace")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(self.inside.pid))
        for enter, address in (((), NEIGHBOUR), (self._net(self.inside), HOST)):
            run(*enter, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
            run(*enter, "ip", "link", "set", "eth0", "up")

    def run(self, *argv, env=None):
        return self.inside.do("run", [str(a) for a in argv], env)

    def start(self, *argv, log, env=None):
        """Starts a daemon; its log's path is as seen from inside."""
        pid = self.inside.do("start", [str(a) for a in argv], str(log), env)
        self.daemons[pid] = argv[0]
        return pid

    def processes(self):
        """pid → command line of what runs in here, without this script's own."""
        found = {}
        for pid in self.cgroup.pids() - {c.pid for c in self.children}:
            try:
                found[pid] = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                pass
        return found

    def close(self):
        for pid in self.daemons:
            try:
                os.kill(pid, signal.SIGTERM)
                self.inside.do("wait", pid, 20.0)
            except (ProcessLookupError, Unable, OSError):
                pass
        for child in reversed(self.children):
            child.close()
        self.cgroup.close()


# What a child does on request.

STARTED = {}


def give_up(*_):
    raise Unable("given up")


def command(argv, env):
    return run(*argv, env=env and dict(os.environ, **env))


def daemon(argv, log, env):
    with open(log, "w") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                                   env=env and dict(os.environ, **env))
    STARTED[process.pid] = process
    return process.pid


def wait(pid, limit):
    """The exit status of a daemon; none while it runs."""
    try:
        return STARTED[pid].wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return None


def enter_net(path):
    with open(path) as net:
        checked(LIBC.setns(net.fileno(), CLONE_NEWNET), "the host's network namespace")


def probe(ports, limit, at=HOST, calm=False):
    """When the last of the ports had answered; they are asked one after the other. `calm`: less often after a second."""
    end = time.monotonic() + limit
    for port in ports:
        first_answer(at, port, end, time.monotonic() + 1 if calm else end)
    return time.monotonic()


def first_answer(at, port, end, calm_from):
    """Every 2 ms a fresh connection, without waiting for the ones before: an engine that holds the port before the
    container listens leaves connections hanging, and a lost SYN comes again after 1 s only (tcp(7)). At most 64 hang."""
    asking = []
    try:
        while time.monotonic() < end:
            asking.append(Asking(at, port))
            if len(asking) > 64:
                asking.pop(0).close()
            calm = time.monotonic() > calm_from
            later = time.monotonic() + (0.05 if calm else 0.002)
            while True:
                for one in list(asking):
                    if one.step():
                        return
                    if one.over:
                        asking.remove(one)
                        one.close()
                rest = later - time.monotonic()
                if rest <= 0:
                    break
                time.sleep(min(rest, (0.01 if calm else 0.0003) if asking else rest))
        raise Unable(f"no answer on port {port} in time")
    finally:
        for one in asking:
            one.close()


class Asking:
    """One request, without blocking."""

    def __init__(self, at, port):
        self.got, self.sent, self.over = b"", False, False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.over = self.socket.connect_ex((at, port)) not in (0, errno.EINPROGRESS)

    def step(self):
        """Goes on as far as it can; whether the page has come."""
        try:
            if not self.sent:
                self.socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
                self.sent = True
            more = self.socket.recv(4096)
            self.got += more
            self.over = not more
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as e:
            self.over = e.errno not in (errno.ENOTCONN, errno.EAGAIN)
        return b"hello from" in self.got

    def close(self):
        self.socket.close()
