"""The kinds of damage. Each is a function of a scene and a port that gives two: one that does it and tells when it began
and when it was done, and one that waits, so long at most, until it was put right, and tells when that was."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal
import time
import typing

from host import Unable
from scene import HOST, Refused, by_hand, remove, until

LOCAL = "127.0.0.1"
PORT = 19999


@dataclasses.dataclass(frozen=True)
class Kind:
    """`own`: it needs a container of its own, since that is ended, or loses something for good. `aged`: engines wait longer
    after runs that were short, so the run that ends was a good one. `without`: engines that have no such thing, and why.
    `target`: milliseconds."""

    title: str
    make: typing.Callable
    repaired: str
    group: str
    own: bool = False
    aged: bool = False
    target: int | None = None
    without: dict = dataclasses.field(default_factory=dict)


# Firewall.


def flushed(scene, port):
    """The kernel passes over a table that has an owner, and says nothing."""
    before, answered = scene.tables(), scene.page_by_rules(port)

    def seen(limit):
        at = answered(limit)
        if scene.tables() == before:
            raise Refused("passed over")
        return at
    return scene.tool("nft", "flush", "ruleset"), seen


def table_deleted(scene, port):
    return scene.tool("nft", "delete", "table", *scene.table()), scene.page_by_rules(port)


def rule_deleted(scene, port):
    return scene.tool("nft", *scene.rule(port)), scene.page_by_rules(port)


# Network.


def on_bridge(*words):
    """`ip` with the name of the bridge in place of BRIDGE."""
    def make(scene, port):
        bridge = scene.bridge(port)
        return scene.tool("ip", *(bridge if w == "BRIDGE" else w for w in words)), scene.page(port)
    return make


def on_veth(*words):
    def make(scene, port):
        veth = scene.veth(port)
        return scene.tool("ip", *(veth if w == "VETH" else w for w in words)), scene.page(port)
    return make


def forgotten(scene, port):
    # It was learned by this page.
    scene.page(port)(5)
    veth, (_, mac) = scene.veth(port), scene.inner(port)
    return scene.tool("bridge", "fdb", "del", mac, "dev", veth, "master"), scene.page(port)


def own_forgotten(scene, port):
    bridge = scene.bridge(port)
    mac = next(link["address"] for link in scene.ip("link") if link["ifname"] == bridge)
    return scene.tool("bridge", "fdb", "del", mac, "dev", bridge, "self"), scene.page(port)


def switched_off(name, at=HOST):
    def make(scene, port):
        path = f"/proc/sys/net/ipv4/{name.replace('BRIDGE', scene.bridge(port) if 'BRIDGE' in name else '')}"
        # The kernel drops what it learned of routes with the setting: what was let through before is not now.
        return scene.tool("sh", "-c", f"echo 0 >{path}"), scene.page(port, at)
    return make


# Processes.


def killed(*which):
    def make(scene, port):
        pids = [getattr(scene, who)(port) for who in which]
        kill = [lambda pid=pid: os.kill(pid, signal.SIGKILL) for pid in pids]
        return by_hand(*kill), scene.another_run(port)
    return make


def names_killed(scene, port):
    pid = scene.names()
    return by_hand(lambda: os.kill(pid, signal.SIGKILL)), scene.name(port)


# Control groups.


def moved_out(also_removed):
    def make(scene, port):
        pid, groups = scene.pid(port), scene.groups(port)
        listed = pathlib.Path(f"/proc/{pid}/cgroup")
        before = listed.read_text(), limits_of(groups)

        def act():
            began = time.monotonic()
            for group, root in groups.items():
                leave(group, root)
                if also_removed:
                    removed(group)
            return began, time.monotonic()

        def whole():
            return listed.read_text() == before[0] and limits_of(groups) == before[1]
        return act, scene.same_run(port, whole)
    return make


def leave(group, root):
    elsewhere = root / "elsewhere"
    if not elsewhere.exists():
        elsewhere.mkdir()
        for key in ("cpuset.cpus", "cpuset.mems"):
            if (elsewhere / key).exists():
                (elsewhere / key).write_text((root / key).read_text())
    for pid in (group / "cgroup.procs").read_text().split():
        (elsewhere / "cgroup.procs").write_text(pid)


def removed(group):
    """At once, or not at all: the engine may be quick."""
    try:
        group.rmdir()
    except OSError as e:
        if e.errno not in (errno.EBUSY, errno.ENOENT):
            raise


def limits_of(groups):
    found = {}
    for group in groups:
        try:
            found[group] = (group / "pids.max").read_text() if (group / "pids.max").exists() else group.is_dir()
        except OSError:
            found[group] = False
    return found


# Files.


def upper_gone(scene, port):
    upper = scene.upper(port)
    act = by_hand(lambda: shutil.rmtree(upper))
    if scene.engine.name == "wharf":
        # Nobody can give a running container another one: it is started on an empty one.
        return act, scene.another_run(port)
    return act, scene.same_run(port, upper.is_dir)


def layer_gone(scene, port):
    layer = scene.layer(port)
    program = layer / "hello"
    return by_hand(lambda: remove(layer, scene.engine.work / "aside")), scene.same_run(port, program.exists)


def volume_gone(scene, port):
    data = scene.volume_of(port)
    act = by_hand(lambda: shutil.rmtree(data))
    if scene.engine.name != "wharf":
        return act, scene.same_run(port, data.is_dir)

    def told():
        status = scene.status()
        return all(any(row["error"] for row in status[kind] if row["name"] == name)
                   for kind, name in (("volumes", f"data{port}"), ("containers", f"c{port}")))

    def seen(limit):
        there = scene.same_run(port, data.is_dir)(limit)
        return max(there, until(told)(limit))
    return act, seen


def file_damaged(which, scribbled, ends=False):
    """`ends`: nobody can speak to the container's shim any more, or what it stands on is gone."""
    def make(scene, port):
        path = scene.files(port)[which]
        aside = scene.engine.work / "aside"

        def whole():
            try:
                text = path.read_bytes()
            except OSError:
                return False
            # A file that is not JSON is whole as long as it is not what was written over it.
            return text.lstrip()[:1] in b"{[" and parses(text) if path.suffix == ".json" else text != b"scribble"
        act = by_hand(lambda: path.write_bytes(b"scribble")) if scribbled else by_hand(lambda: remove(path, aside))
        if ends and scene.engine.name == "wharf":
            return act, scene.another_run(port)
        return act, scene.same_run(port, path.exists if ends else whole)
    return make


def parses(text):
    try:
        json.loads(text)
        return True
    except ValueError:
        return False


PAGE, FRESH = "a page through the published port", "a page from a new process of the container"
RULES, THERE = PAGE + ", and its rules are there", FRESH + "; peers: it is there again"
WHOLE = "the file is there and can be read, the container runs on"
SAME = "back in its groups, with its limits, the container runs on"
DAEMON = {"docker": "its daemon answers names; `docker.service` starts that again after 2 s"}
NO_RECORD = {"podman": "all is in its database"}
PROXY = {"docker": "127.0.0.1 goes through its proxy"}
NET, SOON = dict(group="network", target=50), dict(own=True, aged=True, target=100, group="process")
ENDED = dict(own=True, aged=True, group="state")

KINDS = [
    Kind("process killed", killed("pid"), FRESH, **SOON),
    Kind("shim killed", killed("shim"), FRESH, **SOON),
    Kind("shim and process killed", killed("shim", "pid"), FRESH, **SOON),
    Kind("name server killed", names_killed, "a name is answered in the container", group="process", target=100, without=DAEMON),
    Kind("`nft flush ruleset`", flushed, RULES, group="firewall", target=50),
    Kind("nftables table deleted", table_deleted, RULES, group="firewall", target=50),
    Kind("the port's element (peers: rule) deleted", rule_deleted, RULES, group="firewall", target=50),
    Kind("bridge deleted", on_bridge("link", "del", "BRIDGE"), PAGE, **NET),
    Kind("bridge set down", on_bridge("link", "set", "BRIDGE", "down"), PAGE, **NET),
    Kind("veth deleted", on_veth("link", "del", "VETH"), PAGE, **NET),
    Kind("veth set down", on_veth("link", "set", "VETH", "down"), PAGE, **NET),
    Kind("veth taken off its bridge", on_veth("link", "set", "VETH", "nomaster"), PAGE, **NET),
    Kind("bridge's address deleted", on_bridge("addr", "flush", "dev", "BRIDGE"), PAGE, **NET),
    Kind("bridge's route deleted", on_bridge("route", "flush", "dev", "BRIDGE", "proto", "kernel"), PAGE, **NET),
    Kind("container's FDB entry deleted", forgotten, PAGE + " (a bridge learns it again by itself)", **NET),
    Kind("bridge's own FDB entry deleted", own_forgotten, PAGE, **NET),
    Kind("`ip_forward` off", switched_off("ip_forward"), PAGE, **NET),
    Kind("`forwarding` of the bridge off", switched_off("conf/BRIDGE/forwarding"), PAGE, **NET),
    Kind("`route_localnet` off", switched_off("conf/BRIDGE/route_localnet", LOCAL), "a page through 127.0.0.1", without=PROXY, **NET),
    Kind("moved out of its control groups", moved_out(False), SAME, group="state"),
    Kind("its control groups removed", moved_out(True), SAME, group="state"),
    Kind("upper directory removed", upper_gone, THERE, **ENDED),
    Kind("image's layer removed", layer_gone, "the layer is there again", group="state"),
    Kind("volume's directory removed", volume_gone, "there again, and its loss is in `status`", group="state", own=True),
    Kind("ledger deleted", file_damaged("ledger", False), WHOLE, group="state"),
    Kind("ledger scribbled over", file_damaged("ledger", True), WHOLE, group="state"),
    Kind("container's record deleted", file_damaged("record", False), WHOLE, group="state", without=NO_RECORD),
    Kind("container's record scribbled over", file_damaged("record", True), WHOLE, group="state", without=NO_RECORD),
    Kind("its bundle's config.json deleted", file_damaged("bundle", False), WHOLE, group="state"),
    Kind("its bundle's config.json scribbled over", file_damaged("bundle", True), WHOLE, group="state"),
    Kind("its run's state deleted", file_damaged("shim", False), WHOLE, group="state"),
    Kind("its run's state scribbled over", file_damaged("shim", True), WHOLE, group="state"),
    Kind("its shim's socket deleted", file_damaged("socket", False, True), THERE, **ENDED),
    Kind("its directory deleted", file_damaged("directory", False, True), THERE, **ENDED),
    Kind("its runtime directory deleted", file_damaged("runtime directory", False, True), THERE, **ENDED),
]


def port_of(kind):
    return 19000 + KINDS.index(kind) if kind.own else PORT
