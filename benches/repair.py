"""How long a published port is gone when somebody takes away what it needs: see README.md beside this file."""

import json
import pathlib
import statistics
import time

from host import Unable

PORT = 19999
# Not from /sys, which shows the devices of the namespace that it was mounted in.
BRIDGE = "bridge=$(ip -o link show type bridge | sed -n 's/^[0-9]*: \\(wh-[^:@]*\\).*/\\1/p' | head -1); "
VETH = BRIDGE + "veth=$(ip -o link show master $bridge | sed -n 's/^[0-9]*: \\([^:@]*\\).*/\\1/p' | head -1); "
# The shim shows as `wharf shim NAME`, in this host's processes alone: it says in its environment whose it is.
SHIM = (
    "for p in /proc/[0-9]*; do "
    "tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^wharf shim' || continue; "
    "tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -qx \"WHARF_RUN_DIR=$WHARF_RUN_DIR\" || continue; "
    "shim=${p#/proc/}; break; done; [ -n \"$shim\" ]; "
)
CHILD = SHIM + "child=$(cut -d' ' -f1 /proc/$shim/task/$shim/children); "
# What is done, by name. Where the kernel protects a thing (a table with an owner), the tool says so, and nothing is gone.
DAMAGES = {
    "nft flush ruleset": "nft flush ruleset",
    "nft table deleted": "nft delete table inet wharf || true",
    "nft maps flushed": "nft -j list maps | tr '{' '\\n' | sed -n 's/.*\"table\": \"wharf\", \"name\": \"\\([a-z0-9_-]*\\)\".*/\\1/p' | while read m; do nft flush map inet wharf $m || true; done",
    "bridge deleted": BRIDGE + "ip link del $bridge",
    "bridge down": BRIDGE + "ip link set $bridge down",
    "veth deleted": VETH + "ip link del $veth",
    "veth off its bridge": VETH + "ip link set $veth nomaster",
    "address deleted": BRIDGE + "ip addr flush dev $bridge",
    "route deleted": BRIDGE + "ip route flush dev $bridge proto kernel",
    "ip_forward off": "echo 0 >/proc/sys/net/ipv4/ip_forward",
    "process killed": CHILD + "kill -9 $child",
    # The shim alone would not be missed until the agent ends what it left running.
    "shim and process killed": CHILD + "kill -9 $shim $child",
}


def tries(engine, count):
    """Seconds from the end of the damage to the first page that came by a connection made after it, by kind."""
    found = {kind: [] for kind in DAMAGES}
    for _ in range(count):
        for kind, line in DAMAGES.items():
            try:
                engine.host.run("sh", "-c", line, env=engine.env)
                began = time.monotonic()
                engine.host.prober.ask("probe", [PORT], 20)
                found[kind].append(engine.host.prober.answer() - began)
            except Unable as e:
                found[kind].append(str(e))
            engine.client("wait", "--timeout", "20s")
            # More than two repairs a second for long are taken for a fight with somebody else.
            time.sleep(0.6)
    return found


def table(found):
    lines = ["| what was done | minimum / median / most, ms | n |", "| --- | --- | --- |"]
    for kind, values in found.items():
        good = [v * 1000 for v in values if not isinstance(v, str)]
        told = f"{min(good):.1f} / {statistics.median(good):.1f} / {max(good):.1f}" if good else values[0]
        lines.append(f"| {kind} | {told} | {len(good)} |")
    return "\n".join(lines)


def keep(folder: pathlib.Path, at, about, found):
    stem = folder / (at.replace(":", "").replace("-", "") + "-repair")
    stem.with_suffix(".json").write_text(json.dumps({"at": at, "machine": about, "repair": found}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(f"{at}, kernel {about['kernel']}, {about['cpus']} CPUs, load before: {about['load']}.\n\n{table(found)}\n")
