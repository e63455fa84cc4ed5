"""One engine with its containers, as somebody finds it who damages it: where its devices, processes and files are."""

import json
import os
import pathlib
import re
import select
import shutil
import socket
import struct
import subprocess
import time

from host import HOST, Unable, command, enter_net, probe, run

# A container of every engine: with a volume, a limit of processes, and a port of its own on a network with names.
PIDS_LIMIT = 50
POLL = 0.0005


class Scene:
    """`since`: when the container of a port was last seen to begin."""

    def __init__(self, engine):
        self.engine, self.since = engine, {}

    def open(self):
        self.engine.open()
        self.host = self.engine.host
        net = f"/proc/{self.host.inside.pid}/ns/net"
        # It has this machine's tools, whatever the engine's own tree has.
        self.hand = self.host.child(lambda: enter_net(net), {"act": act, "run": command, "probe": probe})
        self.asker = self.host.child(lambda: None, {"resolve": resolve})
        return self

    def close(self):
        self.engine.close()

    def container(self, port):
        """Starts the container of this port where it was not yet."""
        if port not in self.since:
            self.start(port)
            self.page(port)(30)
            self.since[port] = time.monotonic()

    # What is there.

    def ip(self, *argv):
        return json.loads(self.hand.do("run", ["ip", "-j", *argv], None))

    def inner(self, port):
        """Index of the host's end of the container's veth, and the container's MAC."""
        told = run("nsenter", f"--net=/proc/{self.pid(port)}/ns/net", "ip", "-j", "link", "show", "eth0")
        return json.loads(told)[0]["link_index"], json.loads(told)[0]["address"]

    def veth(self, port):
        index, _ = self.inner(port)
        return next(link["ifname"] for link in self.ip("link") if link["ifindex"] == index)

    def bridge(self, port):
        index, _ = self.inner(port)
        return next(link["master"] for link in self.ip("link") if link["ifindex"] == index)

    def shim(self, port):
        return int(pathlib.Path(f"/proc/{self.pid(port)}/stat").read_text().rsplit(")", 1)[1].split()[1])

    def groups(self, port):
        """The container's own group in each hierarchy: its directory, and what that hierarchy has of this host's."""
        found, own = {}, self.id(port)[:12]
        for line in pathlib.Path(f"/proc/{self.pid(port)}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for root, (kind, options) in self.host.cgroup.dirs.items():
                same = kind == "cgroup2" if controllers == "" else controllers in options.split(",")
                if same and own in path:
                    found[root.parent / path.lstrip("/")] = root
        # The kernel tells of the v2 one: last, so that the others are done by then.
        return dict(sorted(found.items(), key=lambda f: self.host.cgroup.dirs[f[1]][0] == "cgroup2"))

    def tables(self):
        """The firewall's tables: one that was made again has another handle."""
        return self.hand.do("run", ["nft", "-a", "list", "tables"], None), self.hand.do("run", ["nft", "-j", "list", "tables"], None)

    # What is done to it: each gives a function that does it and tells when it began and when it was done.

    def tool(self, *argv):
        def act():
            began, ended, code, said = self.hand.do("act", [str(a) for a in argv])
            if code != 0:
                raise Refused(said)
            return began, ended
        return act

    # How it is seen that it was put right: each gives a function that waits for it and tells when.

    def page(self, port, at=HOST):
        asker = self.host.prober if at == HOST else self.hand
        return lambda limit: asker.do("probe", [port], limit, at, True)

    def page_by_rules(self, port):
        """A page, and the port's rules are there: docker's proxy answers without them."""
        def seen(limit):
            end = time.monotonic() + limit
            answered = self.page(port)(limit)
            while str(port) not in self.hand.do("run", ["nft", "list", "ruleset"], None):
                if time.monotonic() > end:
                    raise Unable("the port answers, its rules are not there again")
                time.sleep(0.005)
                answered = time.monotonic()
            return answered
        return seen

    def name(self, port):
        """A query from the container's own network namespace to the server in its resolv.conf."""
        pid = self.pid(port)
        text = pathlib.Path(f"/proc/{pid}/root/etc/resolv.conf").read_text()
        server = re.search(r"^nameserver (\S+)", text, re.M)[1]
        return lambda limit: self.asker.do("resolve", pid, server, f"c{port}{self.domain}", limit)

    def another_run(self, port):
        """The old process has ended, and a page has come: of a new one."""
        old = os.pidfd_open(self.pid(port))

        def seen(limit):
            end = time.monotonic() + limit
            poll = select.poll()
            poll.register(old, select.POLLIN)
            ended = poll.poll(limit * 1000)
            os.close(old)
            if not ended:
                raise Unable("the process goes on, nobody watches it")
            self.since[port] = self.page(port)(max(end - time.monotonic(), 0.1))
            return self.since[port]
        return seen

    def same_run(self, port, predicate):
        """It is so again, and the container was not touched for it."""
        process = os.pidfd_open(self.pid(port))

        def seen(limit):
            at = until(predicate)(limit)
            poll = select.poll()
            poll.register(process, select.POLLIN)
            ended = poll.poll(0)
            os.close(process)
            if ended:
                raise Unable("the container was ended for it")
            return at
        return seen


class WharfScene(Scene):
    domain = ""

    def open(self):
        super().open()
        self.volumes = self.engine.work / "state/volumes"
        return self

    def start(self, port):
        text = (f'[container.c{port}]\nimage = "oci:{self.engine.work}/hello"\nports = ["{port}:80"]\n'
                f'volumes = ["data{port}:/data"]\nlimits.pids = {PIDS_LIMIT}\n')
        hidden = self.engine.config / f".c{port}.new"
        hidden.write_text(text)
        hidden.rename(self.engine.config / f"c{port}.toml")

    def status(self):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self.engine.work / "run/wharf.sock"))
            asking.sendall(b"GET /wharf/v1/status HTTP/1.0\r\nHost: wharf\r\n\r\n")
            got = b""
            while more := asking.recv(1 << 16):
                got += more
        return json.loads(got.split(b"\r\n\r\n", 1)[1])

    def row(self, port):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            found = [c for c in self.status()["containers"] if c["name"] == f"c{port}" and c["pid"]]
            if found:
                return found[0]
            time.sleep(0.02)
        raise Unable(f"c{port} does not run")

    def pid(self, port):
        return self.row(port)["pid"]

    def id(self, port):
        return self.row(port)["id"]

    def upper(self, port):
        return self.state(port) / "upper"

    def layer(self, port):
        return next((self.engine.work / "state/store/layers").iterdir())

    def state(self, port):
        return self.engine.work / "state/containers" / self.id(port)

    def run_dir(self, port):
        return self.engine.work / "run/containers" / self.id(port)

    def volume_of(self, port):
        return self.volumes / f"data{port}/_data"

    def names(self):
        return json.loads((self.engine.work / "run/dns/process.json").read_text())["pid"]

    def files(self, port):
        """Word → file, of what is kept of it."""
        state, here = self.state(port), self.run_dir(port)
        return {"ledger": self.engine.work / "state/ledger.json", "record": state / "container.json",
                "bundle": here / "config.json", "shim": here / "state.json", "socket": here / "shim.sock",
                "directory": state, "runtime directory": here}

    def table(self):
        return "inet", "wharf"

    def rule(self, port):
        return "delete", "element", "inet", "wharf", "ports_any", f"{{ tcp . {port} }}"

    def settle(self, port):
        """Until all is as it should be."""
        try:
            self.engine.client("wait", "--timeout", "20s")
        except Unable:
            # A volume's data is gone until its containers were started since.
            self.engine.client("restart", f"c{port}")
            self.engine.client("wait", "--timeout", "20s")
            self.since[port] = time.monotonic()


class PeerScene(Scene):
    def open(self):
        super().open()
        self.host.run(self.engine.name, "network", "create", "bench")
        return self

    def start(self, port):
        self.host.run(self.engine.name, "run", "-d", "--restart", "always", "--network", "bench",
                      "--pids-limit", PIDS_LIMIT, "-v", f"data{port}:/data", "--name", f"c{port}", "-p", f"{port}:80", "hello")

    def inspect(self, port):
        return json.loads(self.host.run(self.engine.name, "inspect", f"c{port}"))[0]

    def pid(self, port):
        pid = self.inspect(port)["State"]["Pid"]
        if not pid:
            raise Unable("does not run")
        return pid

    def id(self, port):
        return self.inspect(port)["Id"]

    def upper(self, port):
        return self.outside(self.inspect(port)["GraphDriver"]["Data"]["UpperDir"])

    def layer(self, port):
        return self.outside(self.inspect(port)["GraphDriver"]["Data"]["LowerDir"].split(":")[-1])

    def outside(self, path):
        """A path of its tree, as seen from here: what is mounted in there is seen by it alone."""
        return pathlib.Path(f"/proc/{self.host.inside.pid}/root") / str(path).lstrip("/")

    def volume_of(self, port):
        return self.volumes / f"data{port}/_data"

    def rule(self, port):
        """The rule that leads the port to the container."""
        for line in self.hand.do("run", ["nft", "-a", "list", "ruleset"], None).splitlines():
            if found := re.match(r"table (\w+) (\S+) {", line):
                table = found.groups()
            elif found := re.match(r"\s+chain (\S+) {", line):
                chain = found[1]
            elif f"dport {port}" in line and "dnat" in line:
                return "delete", "rule", *table, chain, "handle", line.rsplit("# handle ", 1)[1]
        raise Unable("there is no rule for the port")

    def settle(self, port):
        pass


class PodmanScene(PeerScene):
    domain = ".dns.podman"

    def open(self):
        super().open()
        self.volumes = self.engine.work / "state/storage/volumes"
        return self

    def names(self):
        return int(self.outside("run/containers/networks/aardvark-dns/aardvark.pid").read_text())

    def files(self, port):
        kept = self.engine.work / "state/storage/overlay-containers" / self.id(port) / "userdata"
        here = self.outside("run/containers/storage/overlay-containers") / self.id(port) / "userdata"
        return {"ledger": self.engine.work / "state/storage/db.sql", "bundle": kept / "config.json",
                "shim": self.outside("run/crun") / self.id(port) / "status", "socket": kept / "ctl",
                "directory": kept.parent, "runtime directory": here.parent}

    def table(self):
        return "inet", "netavark"


class DockerScene(PeerScene):
    domain = ""

    def open(self):
        super().open()
        self.volumes = self.engine.work / "state/volumes"
        return self

    def files(self, port):
        kept = self.engine.work / "state/containers" / self.id(port)
        here = self.outside("run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby") / self.id(port)
        address = (here / "address").read_text().removeprefix("unix://")
        return {"ledger": self.engine.work / "state/network/files/local-kv.db", "record": kept / "config.v2.json",
                "bundle": here / "config.json", "shim": self.outside("run/docker/runtime-runc/moby") / self.id(port) / "state.json",
                "socket": self.outside(address), "directory": kept, "runtime directory": here}

    def table(self):
        return "ip", "nat"


SCENES = {"wharf": WharfScene, "podman": PodmanScene, "docker": DockerScene}


class Refused(Exception):
    """The kernel did not let it be damaged."""


def until(predicate):
    """Looks at it every half millisecond."""
    def seen(limit):
        end = time.monotonic() + limit
        while not predicate():
            if time.monotonic() > end:
                raise Unable("it is as it was left")
            time.sleep(POLL)
        return time.monotonic()
    return seen


def by_hand(*deeds):
    """Damage done by this process itself."""
    def act():
        began = time.monotonic()
        for deed in deeds:
            deed()
        return began, time.monotonic()
    return act


def remove(path, aside):
    """A file, or a whole directory at one blow: what is made anew meanwhile is not to be removed as well."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return path.unlink()
    try:
        path.rename(aside)
        path = aside
    except OSError:
        # On another file system: engines that have one there make nothing anew.
        pass
    shutil.rmtree(path, ignore_errors=True)


# What a child does on request.


def act(argv):
    began = time.monotonic()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return began, time.monotonic(), done.returncode, done.stderr.strip()[-300:]


def resolve(pid, server, name, limit):
    """When a query of type A was answered; a fresh one every 2 ms."""
    enter_net(f"/proc/{pid}/ns/net")
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    end, number = time.monotonic() + limit, 0
    while time.monotonic() < end:
        number += 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.002)
            try:
                asking.connect((server, 53))
                # RFC 1035, 4.1: recursion desired, one question, type A, class IN.
                asking.send(struct.pack(">6H", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1))
                answer = asking.recv(512)
                # No error, and at least one answer.
                if answer[3] & 15 == 0 and struct.unpack(">H", answer[6:8])[0]:
                    return time.monotonic()
            except (TimeoutError, OSError):
                time.sleep(0.0005)
    raise Unable("names are not answered")
