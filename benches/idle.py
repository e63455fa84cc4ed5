"""What the agent costs while nothing is to be done: see README.md beside this file."""

import os
import pathlib
import signal
import statistics
import subprocess
import time

import report
from engines import REPO, Wharf, pss
from host import Unable, run

# A bridge takes 1,023 ports and a /24 has 253 addresses for containers.
PER_NETWORK = 200
STEP = 50
HARMLESS = REPO / "crates/tests/harmless-calls"
# Until one full pass has been made: what was changed a moment ago is read again by it.
SETTLE = 35


def cpu(pid):
    """CPU seconds of a process, threads that have ended among them (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def declare(engine, first, last):
    """Containers first…last, a port each, in networks of PER_NETWORK."""
    for number in range(first, last):
        network = f"n{number // PER_NETWORK}"
        path = engine.config / f"{network}.toml"
        if not path.exists():
            path.write_text(f"[network.{network}]\n")
        text = (f'[container.c{number}]\nimage = "oci:{engine.work}/hello"\nnetworks = ["{network}"]\n'
                f'ports = ["{20000 + number}:80"]\n')
        hidden = engine.config / f".c{number}.new"
        hidden.write_text(text)
        hidden.rename(engine.config / f"c{number}.toml")


def grow(engine, count, note):
    """In steps, so that a machine that cannot take so many says so early."""
    have = len(list(engine.config.glob("c*.toml")))
    while have < count:
        more = min(have + STEP, count)
        began = time.monotonic()
        declare(engine, have, more)
        engine.client("wait", "--timeout", "300s")
        have = more
        note(f"{have} containers ({time.monotonic() - began:.1f} s)")


def idle(engine, seconds):
    """The share of a core that the agent takes, full passes among it."""
    pid = engine.agent
    began, before = time.monotonic(), cpu(pid)
    time.sleep(seconds)
    return (cpu(pid) - before) / (time.monotonic() - began)


def passes(engine, tries):
    """CPU seconds of the agent for a full pass each, asked for by `wharf reload`; the answer to it is part of that."""
    found = []
    for _ in range(tries):
        before = cpu(engine.agent)
        engine.client("reload")
        # What follows the answer belongs to it too.
        time.sleep(0.5)
        found.append(cpu(engine.agent) - before)
    return found


def calls(engine, work):
    """The system calls of one full pass: how many of each kind, and those that change something."""
    log = pathlib.Path(work) / "calls"
    tracer = subprocess.Popen(["strace", "-f", "-yy", "-s", "64", "-o", str(log), "-p", str(engine.agent)],
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        # It says so once it has all threads.
        tracer.stderr.readline()
        time.sleep(1)
        engine.client("reload")
        time.sleep(0.5)
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate()
    counts = {}
    for line in log.read_text(errors="replace").splitlines():
        name = line.split(None, 1)[1].split("(", 1)[0]
        if name.isidentifier():
            counts[name] = counts.get(name, 0) + 1
    told = subprocess.run(["grep", "-vE", "-f", str(HARMLESS), str(log)], capture_output=True, text=True).stdout
    kept = os.environ.get("WHARF_BENCH_CALLS")
    if kept:
        pathlib.Path(kept).write_bytes(log.read_bytes())
    return counts, told.splitlines()


def measured(engine, work, args, note):
    found = {"idle": {}, "pass": {}, "memory": {}, "calls": {}, "changing": {}}
    for count in args.idle:
        grow(engine, count, note)
        time.sleep(SETTLE)
        found["idle"][count] = [idle(engine, args.seconds)]
        note(f"{count} containers: {found['idle'][count][0] * 100:.4f} % of a core")
        found["memory"][count] = pss(engine.agent)
        found["pass"][count] = passes(engine, 10)
        found["calls"][count], found["changing"][count] = calls(engine, work)
    return found


def table(found):
    lines = ["| containers | idle, % of a core | full pass, CPU ms (minimum / median) | memory, MiB | system calls of a pass | that change something |",
             "| --- | --- | --- | --- | --- | --- |"]
    for count, shares in found["idle"].items():
        each = [v * 1000 for v in found["pass"][count]]
        lines.append(f"| {count} | {statistics.median(shares) * 100:.4f} | {min(each):.2f} / {statistics.median(each):.2f} | "
                     f"{found['memory'][count] / (1 << 20):.2f} | {sum(found['calls'][count].values())} | {len(found['changing'][count])} |")
    lines += [f"\n{count}: {line}" for count, told in found["changing"].items() for line in told[:20]]
    return "\n".join(lines)


def summary(at, about, found):
    return f"{report.head(at, about)}\n\n{table(found)}\n"
