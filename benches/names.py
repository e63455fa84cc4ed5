"""Name servers side by side: see README.md beside this file."""

import ipaddress
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import report
from engines import REPO, Peer
from host import Host, Unable, run

GATEWAY, FIRST, PREFIX = "10.90.0.1", "10.90.1.0", 16
# The cores of the server and of whoever asks.
SERVER, ASKER = 0, 1
WINDOW, SOURCES = 64, 8
HERE = pathlib.Path(__file__).resolve().parent


def address(number):
    return str(ipaddress.ip_address(FIRST) + number)


class Server:
    """One name server at GATEWAY, in a host of its own, on a core of its own. What asks is on the other end of a wire."""

    def __init__(self, args, work):
        self.args, self.work, self.host = args, work / self.name, None
        self.work.mkdir()

    def open(self):
        self.host = Host(f"names-{self.name}", self.prepare, "neighbour")
        inside, neighbour = self.host.inside, self.host.neighbour
        run(*Host._net(inside), "ip", "addr", "add", f"{GATEWAY}/{PREFIX}", "dev", "eth0")
        for number in range(SOURCES):
            run(*Host._net(neighbour), "ip", "addr", "add", f"{address(number)}/{PREFIX}", "dev", "eth0")
        self.begin()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self.ask(0.1, 8, 0)["answered"]:
                return
        raise Unable("it does not answer")

    def prepare(self):
        os.sched_setaffinity(0, {SERVER})

    def ask(self, seconds, window, rate):
        """What the asker found, and the CPU seconds of the server meanwhile."""
        before = self.host.cgroup.cpu()
        told = run(*Host._net(self.host.neighbour), "taskset", "-c", str(ASKER), self.work.parent / "asker", GATEWAY, FIRST,
                   SOURCES, self.args.names, seconds, window, rate)
        return {**json.loads(told), "cpu": self.host.cgroup.cpu() - before}

    def close(self):
        if self.host:
            self.host.close()


class Wharf(Server):
    name = "wharf"

    def begin(self):
        each = {f"c{n}": {"endpoints": {"bench": {"ips": [address(n)], "names": [f"c{n}"]}}} for n in range(self.args.names)}
        network = {"gateways": [GATEWAY], "subnets": [f"10.90.0.0/{PREFIX}"], "bridge": "eth0", "internal": False, "hosts": {}}
        state = {"networks": {"bench": network}, "containers": each, "upstreams": []}
        (self.work / "state.json").write_text(json.dumps({"state": state, "upstreams": []}))
        self.host.run(sys.executable, HERE / "give_names.py", pathlib.Path(self.args.wharf).resolve(), self.work / "run",
                      self.work / "state.json", GATEWAY)

    def version(self):
        return run(self.args.wharf, "--version").strip()


class OfDebian(Server):
    """Unpacked into a folder with the others, run from there."""

    label = "names"
    packages = "aardvark-dns,dnsmasq-base"
    store, env = "names", {}

    def open(self):
        from engines import CACHE
        self.root = CACHE / "peers" / f"{self.args.suite}-names"
        if not (self.root / "usr/bin").is_dir():
            Peer.unpack(self)
        (self.work / "state").mkdir()
        super().open()

    def prepare(self):
        super().prepare()
        Peer.prepare(self)


class Aardvark(OfDebian):
    name = "aardvark-dns"

    def begin(self):
        folder = self.work / "config"
        folder.mkdir()
        lines = [GATEWAY] + [f"{n:064x} {address(n)}  c{n}" for n in range(self.args.names)]
        (folder / "bench").write_text("\n".join(lines) + "\n")
        self.host.start("/usr/lib/podman/aardvark-dns", "--config", "/mnt/config", "--port", "53", "run", log="/mnt/log")

    def version(self):
        return self.host.run("/usr/lib/podman/aardvark-dns", "--version").strip()


class Dnsmasq(OfDebian):
    name = "dnsmasq"

    def begin(self):
        (self.work / "hosts").write_text("".join(f"{address(n)} c{n}\n" for n in range(self.args.names)))
        self.host.start("/usr/sbin/dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
                        "--addn-hosts=/mnt/hosts", f"--listen-address={GATEWAY}", "--bind-interfaces", "--user=root",
                        "--pid-file=", "--log-facility=/mnt/log.txt", log="/mnt/log")

    def version(self):
        return self.host.run("/usr/sbin/dnsmasq", "--version").splitlines()[0]


KINDS = (Wharf, Aardvark, Dnsmasq)
# key, what it is called, unit, what a unit is worth, and whether more is better
MEASURES = [
    ("qps", "answers a second, as fast as it goes", "1/s", 1, True),
    ("cpu_each", "CPU for an answer then", "µs", 1e-6, False),
    ("p99", "99 of 100 answered within, then", "µs", 1, False),
    ("calm_p50", "at {rate} a second: half within", "µs", 1, False),
    ("calm_p99", "99 of 100 within", "µs", 1, False),
    ("calm_p999", "999 of 1,000 within", "µs", 1, False),
    ("calm_cpu", "CPU of one second of that", "ms", 1e-3, False),
]


def one_round(server, args):
    fast = server.ask(args.dns_seconds, WINDOW, 0)
    calm = server.ask(args.dns_seconds, WINDOW, args.rate)
    return {"qps": fast["answered"] / fast["seconds"], "cpu_each": fast["cpu"] / max(fast["answered"], 1), "p99": fast["p99"],
            "calm_p50": calm["p50"], "calm_p99": calm["p99"], "calm_p999": calm["p999"],
            "calm_cpu": calm["cpu"] / calm["seconds"], "fast": fast, "calm": calm}


def measured(args, work, note):
    run("gcc", "-O2", "-o", work / "asker", HERE / "asker.c")
    servers, unable, versions = [], {}, {}
    try:
        for kind in KINDS:
            server = kind(args, work)
            servers.append(server)
            try:
                note(f"starting {server.name}")
                server.open()
                versions[server.name] = server.version()
            except Unable as e:
                note(f"{server.name} could not be run: {e}")
                unable[server.name] = str(e)
                servers.pop().close()
        raw = {s.name: [] for s in servers}
        for number in range(args.dns):
            turn = number % max(len(servers), 1)
            for server in servers[turn:] + servers[:turn]:
                raw[server.name].append(one_round(server, args))
            note(f"round {number + 1} of {args.dns}: "
                 + ", ".join(f"{name} {rounds[-1]['qps']:.0f}/s" for name, rounds in raw.items()))
        return {"names": args.names, "rate": args.rate, "versions": versions, "unable": unable, "raw": raw}
    finally:
        for server in servers:
            server.close()


def cell(values, worth, more, base):
    best = (max if more else min)(values) / worth
    middle = statistics.median(values) / worth
    ratio = f" (×{middle / base:.2f})" if base else ""
    return middle, f"{best:.4g} / {middle:.4g}{ratio}"


def table(found):
    names = list(found["raw"])
    count = {name: len(rounds) for name, rounds in found["raw"].items()}
    lines = ["| measure | unit | " + " | ".join(f"{name}, n={count[name]}" for name in names) + " |",
             "| --- | --- |" + " --- |" * len(names)]
    for key, title, unit, worth, more in MEASURES:
        cells, base = [], None
        for name in names:
            middle, text = cell([r[key] for r in found["raw"][name]], worth, more, base)
            base = middle if name == "wharf" else base
            cells.append(text)
        lines.append(f"| {title.format(rate=found['rate'])} | {unit} | " + " | ".join(cells) + " |")
    for name, rounds in found["raw"].items():
        for way in ("fast", "calm"):
            bad = {k: sum(r[way][k] for r in rounds) for k in ("wrong", "lost")}
            if any(bad.values()):
                lines.append(f"\n{name}, {way}: {bad['wrong']} wrong answers, {bad['lost']} lost")
    lines += [f"\n{name}: {told}" for name, told in found["versions"].items()]
    lines += [f"\n{name} could not be run: {why}" for name, why in found["unable"].items()]
    return "\n".join(lines)


def summary(at, about, found):
    text = f"{found['names']} names; best / median; × is median to wharf's median."
    return f"{report.head(at, about)} {text}\n\n{table(found)}\n"
