"""Measures engines side by side, interleaved; see README.md beside this file."""

import argparse
import json
import os
import pathlib
import platform
import signal
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from disk import own_disk  # noqa: E402
import gaps  # noqa: E402
import idle  # noqa: E402
import names  # noqa: E402
import ports  # noqa: E402
import pulls  # noqa: E402
import repair  # noqa: E402
import report  # noqa: E402
from engines import KINDS, REPO  # noqa: E402
from host import Unable  # noqa: E402

SETTLE = 0.3
# Docker and wharf take a run of ten seconds for a good one.
GOOD_RUN = 11
RESIDENT = 19999
# key, what it is called, unit and what a unit is worth
MEASURES = [
    ("drop", "one container, until the first answer", "ms", 1e-3),
    ("drop_cpu", "CPU for it", "ms", 1e-3),
    ("restart", "kill -9 of the main process, until it answers again", "ms", 1e-3),
    ("hundred", "{count} containers, until all answer", "s", 1),
    ("hundred_cpu", "CPU for them", "s", 1),
    ("hundred_one_by_one", "{count}, one `run` after the other", "s", 1),
    ("first", "the very first container, bridge made", "ms", 1e-3),
    ("shim_pss", "memory of a shim (median)", "KiB", 1024),
    ("engine_pss", "memory of the agent or daemons", "MiB", 1 << 20),
    ("all_pss", "memory of all but the containers' own", "MiB", 1 << 20),
    ("binary", "programs", "MiB", 1 << 20),
]


def note(text):
    print(text, file=sys.stderr, flush=True)


def started(engine, ports, way, limit):
    """Seconds from the wish to the answer of the last port, and CPU seconds of all the engine's processes."""
    time.sleep(SETTLE)
    engine.host.prober.ask("probe", ports, limit)
    cpu, began = engine.host.cgroup.cpu(), engine.begin(ports, way)
    try:
        engine.finish()
    except BaseException:
        engine.host.prober.cancel()
        raise
    last = engine.host.prober.answer()
    # What is still done after the answer belongs to it too.
    time.sleep(SETTLE)
    return last - began, engine.host.cgroup.cpu() - cpu


def one_round(engine, number):
    seconds, cpu = started(engine, [20000 + number], engine.ways[0], 30)
    engine.remove([20000 + number])
    return {"drop": seconds, "drop_cpu": cpu}


def restarted(engine):
    """Seconds from the kill of the resident container's main process to the next answer on its port."""
    victim = engine.payload()
    began = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    engine.host.prober.ask("probe", [RESIDENT], 60)
    return {"restart": engine.host.prober.answer() - began}


def restarts(engines, args, raw):
    """With a pause between two rounds that makes each run a good one: engines wait after runs that were too short."""
    for number in range(args.restarts):
        time.sleep(GOOD_RUN)
        for engine in engines:
            raw[engine.name].append(tried(restarted, engine))
        note(f"restart {number + 1} of {args.restarts}")


def hundred(engine, way, count):
    ports = list(range(10000, 10000 + count))
    try:
        seconds, cpu = started(engine, ports, way, 150)
        told = engine.memory() if way == engine.ways[0] else {}
    except Unable:
        engine.remove(ports)
        raise
    engine.remove(ports)
    if told:
        return {"hundred": seconds, "hundred_cpu": cpu, **told}
    return {f"hundred_{way}": seconds, f"hundred_{way}_cpu": cpu}


def tried(work, *arguments):
    try:
        return work(*arguments)
    except Unable as e:
        note(f"  {arguments[0].name}: {e}")
        return {"unable": str(e)}


def measure(engines, args):
    raw = {e.name: [] for e in engines}
    for number in range(args.rounds):
        turn = number % max(len(engines), 1)
        for engine in engines[turn:] + engines[:turn]:
            raw[engine.name].append(tried(one_round, engine, number))
        note(f"round {number + 1} of {args.rounds}")
    restarts(engines, args, raw)
    end, took = args.begun + args.minutes * 60, 0
    for way in range(2):
        for number in range(args.hundreds):
            began = time.monotonic()
            # The slow way last, as often as there is time; its n is told.
            if way and began + took > end:
                break
            for engine in engines:
                if way < len(engine.ways):
                    raw[engine.name].append(tried(hundred, engine, engine.ways[way], args.count))
                    note(f"{args.count} containers, {number + 1} of {args.hundreds}: {engine.name} {engine.ways[way]}")
            took = time.monotonic() - began
    return raw


def table(result):
    """Minimum / median of each; the ratio is of the medians, to wharf's."""
    names = list(result["raw"])
    lines = ["| measure | unit | " + " | ".join(names) + " |", "| --- | --- |" + " --- |" * len(names)]
    for key, title, unit, worth in MEASURES:
        cells, base = [], None
        for name in names:
            values = [r[key] for r in result["raw"][name] if key in r]
            if key == "binary":
                values = [sum(result["binaries"][name].values())]
            if not any(values):
                cells.append("–")
                continue
            least, middle = min(values) / worth, statistics.median(values) / worth
            base = middle if name == "wharf" else base
            ratio = f" (×{middle / base:.1f})" if base and name != "wharf" else ""
            both = f"{least:.4g}" if len(values) == 1 else f"{least:.4g} / {middle:.4g}"
            cells.append(f"{both}{ratio}, n={len(values)}")
        if any(cell != "–" for cell in cells):
            lines.append(f"| {title.format(count=result['count'])} | {unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(result):
    lines = [report.head(result["at"], result["machine"]) + " Minimum / median; × is median to wharf's median.", "", table(result), ""]
    lines += [f"- {name}: {', '.join(f'{k} {v}' for k, v in told.items())}" for name, told in result["versions"].items()]
    lines += [f"- {name} could not be run: {why}" for name, why in result["unable"].items()]
    for name, rounds in result["raw"].items():
        failed = [r["unable"] for r in rounds if "unable" in r]
        lines += [f"- {name}: {len(failed)} measurements failed, first: {failed[0]}"] if failed else []
    return "\n".join(lines) + "\n"


def machine():
    models = [line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
              if line.startswith("model name")]
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "arch": platform.machine(),
            "model": (models or ["?"])[0], "load": round(os.getloadavg()[0], 2)}


def opened(args, work, engines, unable):
    first = {}
    for name in args.only.split(","):
        engine = KINDS[name](args, pathlib.Path(work))
        engines.append(engine)
        try:
            note(f"starting {name}")
            engine.open()
            # One container stays throughout: the first one of all makes the bridge.
            first[name] = started(engine, [RESIDENT], engine.ways[0], 30)[0]
        except Unable as e:
            note(f"{name} could not be run: {e}")
            unable[name] = str(e)
            engines.pop().close()
    return first


def whole(args):
    engines, unable = [], {}
    at, about = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), machine()
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as work:
        try:
            first = opened(args, work, engines, unable)
            versions = {e.name: e.version() for e in engines}
            raw = measure(engines, args)
            for name in raw:
                raw[name].append({"first": first[name]})
            return {"at": at, "machine": about, "versions": versions, "probe_from": args.probe_from, "count": args.count,
                    "unable": unable, "binaries": {e.name: e.binaries() for e in engines}, "raw": raw}
        finally:
            for engine in engines:
                engine.close()


def told(args, kind, result, text):
    """Printed and, unless it was a try, kept."""
    print(text)
    if not args.trial:
        stem = report.keep(REPO / "benches/results", result["at"], kind, result, text)
        note(f"kept: {stem.relative_to(REPO)}.json, .md")


def repairs(args):
    """The other measurement: from a neighbour, as whoever uses the port sees it."""
    args.probe_from = "neighbour"
    at, about = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), machine()
    with tempfile.TemporaryDirectory(prefix="wharf-bench-", ignore_cleanup_errors=True) as work:
        work = pathlib.Path(work)
        versions = repair.versions(args, work)
        found = repair.measure(args, work)
    result = {"at": at, "machine": about, "versions": versions, "repair": found}
    told(args, "repair", result, repair.summary(result))


def gaps_in(args):
    """And another: what a constant load notices while the host's firewalls are loaded anew, flushed, turned on and off."""
    args.probe_from = "neighbour"
    at, about = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), machine()
    with tempfile.TemporaryDirectory(prefix="wharf-bench-", ignore_cleanup_errors=True) as work:
        found = gaps.measure(args, pathlib.Path(work), note)
    result = {"at": at, "machine": about, "tries": args.gaps, "gaps": found}
    told(args, "gaps", result, gaps.summary(result))


def idles(args):
    """Another one: what wharf's agent costs while there is nothing to do, with few containers and with many."""
    at, about, engines, unable = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), machine(), [], {}
    args.only = "wharf"
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as work:
        try:
            opened(args, work, engines, unable)
            if unable:
                sys.exit(f"error: {unable}")
            found = idle.measured(engines[0], work, args, note)
        finally:
            for engine in engines:
                engine.close()
    told(args, "idle", {"at": at, "machine": about, **found}, idle.summary(at, about, found))


def dns(args):
    """Another one: name servers side by side."""
    at, about = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), machine()
    with tempfile.TemporaryDirectory(prefix="wharf-bench-") as work:
        found = names.measured(args, pathlib.Path(work), note)
    told(args, "dns", {"at": at, "machine": about, **found}, names.summary(at, about, found))


def many_ports(args):
    """Another one: what a thousand published ports cost, seen by a neighbour."""
    args.probe_from = "neighbour"
    at, about = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), machine()
    with tempfile.TemporaryDirectory(prefix="wharf-bench-", ignore_cleanup_errors=True) as work:
        found = ports.measured(args, pathlib.Path(work), note)
    told(args, "ports", {"at": at, "machine": about, **found}, ports.summary(at, about, found))


def images(args):
    """Another one: an image of about 1 GB, pulled from a registry on the loopback."""
    at, about = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), machine()
    with own_disk() as work:
        found = pulls.measured(args, work, note)
    told(args, "pulls", {"at": at, "machine": about, **found}, pulls.summary(at, about, found))


def main():
    parser = argparse.ArgumentParser(prog="./bench")
    parser.add_argument("--wharf", required=True)
    parser.add_argument("--rounds", type=int, default=12, help="of one container each, per engine")
    parser.add_argument("--hundreds", type=int, default=3, help="rounds of --count containers, per engine")
    parser.add_argument("--repairs", type=int, default=0, help="measure this instead: tries per kind of damage")
    parser.add_argument("--gaps", type=int, default=0, help="measure this instead: tries per thing that is done to the host's firewall")
    parser.add_argument("--kinds", default="", help="of damage: only those whose names have one of these words in them")
    parser.add_argument("--idle", nargs="?", const="100,1000", default="", help="measure this instead: what the agent costs with so many containers")
    parser.add_argument("--seconds", type=float, default=60, help="of an idle agent")
    parser.add_argument("--dns", nargs="?", const=20, type=int, default=0, help="measure this instead: rounds per name server")
    parser.add_argument("--names", type=int, default=10000, help="of the zone")
    parser.add_argument("--rate", type=int, default=10000, help="questions a second, where it is not as many as possible")
    parser.add_argument("--dns-seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--ports", nargs="?", const=20, type=int, default=0, help="measure this instead: rounds per engine, with many published ports")
    parser.add_argument("--many", type=int, default=1000, help="ports then")
    parser.add_argument("--pulls", nargs="?", const=3, type=int, default=0, help="measure this instead: rounds of pulls per engine and packing")
    parser.add_argument("--restarts", type=int, default=10, help="kills of a running container's main process, per engine")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--suite", default="trixie", help="Debian release the peers are taken from")
    parser.add_argument("--probe-from", choices=["host", "neighbour"], default="host")
    parser.add_argument("--try", dest="trial", action="store_true", help="print the results, keep none")
    parser.add_argument("--minutes", type=float, default=10, help="no one-by-one round that would end later")
    args = parser.parse_args()
    args.begun = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if args.idle:
        args.idle = [int(count) for count in args.idle.split(",")]
        return idles(args)
    if args.repairs:
        return repairs(args)
    if args.dns:
        return dns(args)
    if args.gaps:
        return gaps_in(args)
    if args.ports:
        return many_ports(args)
    if args.pulls:
        return images(args)
    result = whole(args)
    told(args, "", result, summary(result))


if __name__ == "__main__":
    main()
