"""What a constant load of new connections notices when the host's firewall is flushed, loaded anew, turned on or off, and
when the bridge is deleted: see README.md beside this file."""

import os
import pathlib
import socket
import socketserver
import statistics
import struct
import threading
import time

import engines
import report
from damage import PORT
from host import HOST, NEIGHBOUR, Asking, Unable, enter_net
from scene import WharfScene

FIREWALLS = engines.REPO / "tests/hosts/firewalls"
BUS = "unix:path=/mnt/root/run/dbus/system_bus_socket"
OUTSIDE = 9000
# Seconds between two connections, of a load, until what was done is begun, and until one counts as failed.
EVERY, LOAD, AHEAD, PATIENCE = 0.01, 6.0, 1.0, 2.5
# An answer that took longer had to be asked for twice.
LATE = 0.1


class Kind:
    """`before`: what the host has been made like; `act`: what is done to it, by shell lines among the firewalls' files."""

    def __init__(self, title, act, before="", old=False):
        self.title, self.act, self.before, self.old = title, act, before, old


UFW, FIREWALLD, LEGACY = "ufw --force enable", "FIREWALLD", "iptables-legacy -t nat -N THEIRS || true"
OLD = "kernel without owners of tables: "
KINDS = [
    Kind("nothing", "true"),
    Kind("`nft flush ruleset`", "nft flush ruleset"),
    Kind(OLD + "`nft flush ruleset`", "nft flush ruleset", old=True),
    Kind("`iptables -t nat -F` (nftables)", "iptables-nft -t nat -F", "iptables-nft -t nat -N THEIRS || true"),
    Kind("`iptables -t nat -F` (legacy)", "iptables-legacy -t nat -F", LEGACY),
    Kind("`iptables -F` where ufw is on", "iptables -F", UFW),
    Kind("`ip link del` of the bridge", "ip link del BRIDGE"),
    Kind("`ufw enable`", UFW, "ufw --force disable"),
    Kind("`ufw reload`", "ufw reload", UFW),
    Kind("`ufw disable`", "ufw disable", UFW),
    Kind("`firewall-cmd --reload`", "firewall-cmd --reload", FIREWALLD),
    Kind("`firewall-cmd --complete-reload`", "firewall-cmd --complete-reload", FIREWALLD),
]
LOADS = {"in": "to the published port", "out": "from the container", "names": "its questions for names"}


class Shop(WharfScene):
    """A host with the firewalls' programs, one container, and a server outside."""

    firewalld = False

    def open(self):
        self.engine.more_env = dict(self.engine.more_env, DBUS_SYSTEM_BUS_ADDRESS=BUS)
        super().open()
        self.firewalls("open")
        net = f"/proc/{self.host.neighbour.pid}/ns/net"
        self.host.child(lambda: serve(net), {})
        self.container(PORT)
        pid = self.pid(PORT)
        inner = f"/proc/{pid}/ns/net"
        server = pathlib.Path(f"/proc/{pid}/root/etc/resolv.conf").read_text().split("nameserver ", 1)[1].split()[0]
        child = self.host.child
        self.loads = {"in": (child(lambda: enter_net(net), {"load": load}), HOST, PORT),
                      "out": (child(lambda: enter_net(inner), {"load": load}), NEIGHBOUR, OUTSIDE),
                      "names": (child(lambda: enter_net(inner), {"load": names}), server, f"c{PORT}")}
        return self

    def firewalls(self, *argv):
        return self.host.run(FIREWALLS, *argv, env={"WHARF_RUN_DIR": str(self.engine.work / "run")})

    def made_like(self, before):
        if before == FIREWALLD and not self.firewalld:
            self.firewalls("firewalld")
            self.firewalld = True
        elif before != FIREWALLD and before:
            self.firewalls("sh", before)
        self.settle(PORT)
        self.page(PORT)(10)

    def one(self, kind):
        """Of each load: what it noticed; and the command's own time."""
        act = kind.act.replace("BRIDGE", self.bridge(PORT))
        for child, *where in self.loads.values():
            child.ask("load", *where)
        time.sleep(AHEAD)
        began = time.monotonic()
        said = None
        try:
            self.firewalls("sh", act)
        except Unable as e:
            said = e
        ended = time.monotonic()
        tries = {name: child.answer() for name, (child, *_) in self.loads.items()}
        if said:
            raise said
        return {"command": ended - began, **{name: noticed(all_of_it, began) for name, all_of_it in tries.items()}}


def noticed(tries, began):
    """`tries`: when each began, and how long it took; none where nothing came. The gap is from the first that failed or was
    late to the first after all of them that was answered at once."""
    bad = [at for at, took in tries if took is None or took > LATE]
    found = {"tries": len(tries), "failed": sum(took is None for _, took in tries), "late": 0, "gap": 0.0, "over": 0.0}
    found["late"] = len(bad) - found["failed"]
    if bad:
        after = [at for at, took in tries if at > bad[-1]]
        end = after[0] if after else bad[-1]
        found.update(gap=end - bad[0], over=end - began)
    return found


# What children do.


def serve(net):
    enter_net(net)

    class Answer(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(100)
            self.request.sendall(b"hello from outside")

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads, request_queue_size = True, True, 128
    server = Server((NEIGHBOUR, OUTSIDE), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()


class Connection(Asking):
    def __init__(self, at, port):
        self.began = time.monotonic()
        super().__init__(at, port)

    def step(self):
        """Whether it is over; an answer that is refused is none."""
        return super().step() or self.over

    def answered(self):
        return b"hello from" in self.got


class Question:
    """RFC 1035, 4.1: recursion desired, one question, type A, class IN."""

    def __init__(self, server, name):
        self.began, self.good = time.monotonic(), False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        try:
            self.socket.connect((server, 53))
            self.socket.send(struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1))
        except OSError:
            # No route, or refused: no answer.
            pass

    def step(self):
        try:
            answer = self.socket.recv(512)
            self.good = answer[3] & 15 == 0 and struct.unpack(">H", answer[6:8])[0] > 0
            return self.good
        except OSError:
            return False

    def answered(self):
        return self.good


def load(at, port):
    return constant(lambda: Connection(at, port))


def names(server, name):
    return constant(lambda: Question(server, name))


def constant(make):
    """A fresh one every 10 ms, whatever became of those before; the last ones are waited for."""
    began, number, asking, done = time.monotonic(), 0, [], []
    while number * EVERY < LOAD or asking:
        now = time.monotonic()
        if number * EVERY < LOAD and now >= began + number * EVERY:
            asking.append(make())
            number += 1
        for one in list(asking):
            over = one.step()
            if over or time.monotonic() - one.began > PATIENCE:
                took = time.monotonic() - one.began if one.answered() else None
                done.append((one.began, took))
                asking.remove(one)
                one.socket.close()
        time.sleep(0.001)
    return sorted(done, key=lambda d: d[0])


def measure(args, work, note):
    """Kind → tries."""
    import repair
    found, old = {}, {"LD_PRELOAD": repair.old_kernel(work)}
    kinds = [k for k in KINDS if not args.kinds or any(word in k.title for word in args.kinds.split(","))]
    for number, kind in enumerate(kinds):
        engine = engines.Wharf(args, pathlib.Path(work), f"gap-{number}")
        engine.more_env = old if kind.old else {}
        scene = Shop(engine)
        try:
            scene.open()
            for _ in range(args.gaps):
                scene.made_like(kind.before)
                found.setdefault(kind.title, []).append(scene.one(kind))
        except Unable as e:
            note(f"  {kind.title}: {e}")
            found.setdefault(kind.title, []).append({"unable": str(e)})
        finally:
            scene.close()
        note(f"{kind.title}: {len(found[kind.title])}")
    return found


def table(found):
    lines = ["| what was done | its own time, s | " + " | ".join(LOADS.values()) + " |", "| --- |" + " --- |" * (len(LOADS) + 1)]
    for title, tries in found.items():
        good = [t for t in tries if "unable" not in t]
        if not good:
            lines.append(f"| {title} | {tries[0]['unable'].splitlines()[0]} |" + " |" * len(LOADS))
            continue
        own = statistics.median(t["command"] for t in good)
        lines.append(f"| {title} | {own:.2f} | " + " | ".join(cell([t[name] for t in good]) for name in LOADS) + " |")
    return "\n".join(lines)


def cell(tries):
    count, failed, late = (sum(t[key] for t in tries) for key in ("tries", "failed", "late"))
    gaps = [t["gap"] * 1000 for t in tries]
    if not failed + late:
        return f"none of {count}"
    return (f"{failed} failed, {late} late of {count}; gap {min(gaps):.0f} / {statistics.median(gaps):.0f} / {max(gaps):.0f}, "
            f"over {statistics.median(t['over'] for t in tries) * 1000:.0f} after it was begun")


def summary(result):
    return (f"{report.head(result['at'], result['machine'])} "
            f"{result['tries']} tries of each, a fresh connection every {EVERY * 1000:.0f} ms over {LOAD:.0f} s.\n\n"
            f"Late: answered after more than {LATE * 1000:.0f} ms. Failed: not within {PATIENCE} s. Gaps in ms, minimum / median / "
            f"most: from the first of these to the first after all of them that was answered at once.\n\n{table(result['gaps'])}\n")
