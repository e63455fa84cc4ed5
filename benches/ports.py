"""What many published ports cost: see README.md beside this file."""

import json
import pathlib
import statistics
import time

import report
from engines import KINDS, REPO
from host import HOST, Host, Unable, run

HERE = pathlib.Path(__file__).resolve().parent
# Where the directly reached server, the one port, the many, those added to them, and a started container's are.
DIRECT, ONE, MANY, ADDED, STARTED = 80, 19000, 20000, 22000, 30000
CONNECTIONS = 2000
# What connections lead to: key, what it is called.
WAYS = [("direct", "to a server of the host's own"), ("one", "to the only published port"),
        ("direct_many", "to a server of the host's own, beside {many} published ports"),
        ("one_many", "to that one port, beside {many} others"), ("many", "to one of {many} ports")]


def begin(engine, ports):
    """One container with all of these, named by the first."""
    name = f"c{ports[0]}"
    if engine.name == "wharf":
        return declare(engine, name, ports)
    published = " ".join(f"-p {port}:80" for port in ports)
    began = time.monotonic()
    engine.host.inside.ask("run", ["sh", "-c", f"{engine.name} run -d --restart always --name {name} {published} hello >/dev/null"], None)
    return began


def declare(engine, name, ports):
    hidden, seen = engine.config / f".{name}.new", engine.config / f"{name}.toml"
    each = ", ".join(f'"{port}:80"' for port in ports)
    hidden.write_text(f'[container.{name}]\nimage = "oci:{engine.work}/hello"\nports = [{each}]\n')
    began = time.monotonic()
    hidden.rename(seen)
    return began


def started(engine, ports, limit):
    """Seconds until the last of its ports answered."""
    engine.host.prober.ask("probe", [ports[0], ports[-1]], limit)
    began = begin(engine, ports)
    try:
        engine.finish()
    except BaseException:
        engine.host.prober.cancel()
        raise
    return engine.host.prober.answer() - began


def connections(engine, first, last):
    told = run(*Host._net(engine.host.neighbour), engine.work.parent / "connects", HOST, first, last, CONNECTIONS)
    return json.loads(told)


def added(engine, count, tries):
    """Seconds from a file with one port more to an answer on that port; its container goes on."""
    took, before = [], main_process(engine)
    for number in range(tries):
        time.sleep(0.3)
        port = ADDED + number
        engine.host.prober.ask("probe", [port], 30)
        began = declare(engine, f"c{MANY}", [*range(MANY, MANY + count), *range(ADDED, port + 1)])
        took.append(engine.host.prober.answer() - began)
    if main_process(engine) != before:
        raise Unable("the container was replaced for a port")
    return took


def main_process(engine):
    return json.loads(engine.client("inspect", f"c{MANY}"))[0]["State"]["Pid"]


def starts(engine, count, tries):
    """Seconds of containers with so many ports and with one, in turn."""
    found = {"start_one": [], "start_many": []}
    for _ in range(tries):
        for key, ports in (("start_one", [STARTED]), ("start_many", list(range(STARTED, STARTED + count)))):
            time.sleep(0.3)
            found[key].append(started(engine, ports, 240))
            engine.remove([STARTED])
    return found


def of_one(engine, args, note):
    """All that is measured of an engine but connections."""
    found = {}
    if engine.name == "wharf":
        found["added"] = added(engine, args.many, args.ports)
        note(f"wharf: {args.ports} ports added to {args.many}")
    engine.remove([MANY])
    found.update(starts(engine, args.many // 2, max(2, args.ports // 4)))
    note(f"{engine.name}: containers with {args.many // 2} ports")
    return found


def rounds(engines, raw, args, ways):
    for number in range(args.ports):
        turn = number % max(len(engines), 1)
        for engine in engines[turn:] + engines[:turn]:
            for key, (first, last) in ways.items():
                raw[engine.name].setdefault(key, []).append(connections(engine, first, last))


def opened(args, work, note):
    engines, unable = [], {}
    run("gcc", "-O2", "-o", work / "connects", HERE / "connects.c")
    for name in args.only.split(","):
        engine = KINDS[name](args, work)
        engines.append(engine)
        try:
            note(f"starting {name}")
            engine.open()
            run("gcc", "-static", "-O2", "-o", engine.work / "direct", REPO / "examples/quickstart/hello.c")
            engine.host.start(engine.work / "direct" if name == "wharf" else "/mnt/direct", log="/dev/null")
            started(engine, [ONE], 60)
        except Unable as e:
            note(f"{name} could not be run: {e}")
            unable[name] = str(e)
            engines.pop().close()
    return engines, unable


def measured(args, work, note):
    engines, unable = opened(args, work, note)
    try:
        raw, versions = {e.name: {} for e in engines}, {e.name: e.version() for e in engines}
        rounds(engines, raw, args, {"direct": (DIRECT, DIRECT), "one": (ONE, ONE)})
        for engine in engines:
            took = started(engine, list(range(MANY, MANY + args.many)), 300)
            raw[engine.name]["first_many"] = [took]
            note(f"{engine.name}: {args.many} ports after {took:.2f} s")
        last = MANY + args.many - 1
        rounds(engines, raw, args, {"direct_many": (DIRECT, DIRECT), "one_many": (ONE, ONE), "many": (MANY, last)})
        for engine in engines:
            raw[engine.name].update(of_one(engine, args, note))
        return {"many": args.many, "versions": versions, "unable": unable, "raw": raw}
    finally:
        for engine in engines:
            engine.close()


def table(found):
    names, many = list(found["raw"]), found["many"]
    lines = ["| measure | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for key, title in WAYS:
        cells = []
        for name in names:
            told = found["raw"][name][key]
            base = statistics.median(t["p50"] for t in found["raw"][name]["direct"])
            middle = statistics.median(t["p50"] for t in told)
            cells.append(f"{min(t['p50'] for t in told):.1f} / {middle:.1f} (×{middle / base:.2f})")
        lines.append(f"| connection {title.format(many=many)}, µs | " + " | ".join(cells) + " |")
    for key, title in (("added", f"one port more than {many}, ms"), ("start_one", "container with one port, ms"),
                       ("start_many", f"container with {many // 2} ports, ms"), ("first_many", f"container with {many} ports, ms")):
        cells = []
        for name in names:
            told = found["raw"][name].get(key)
            cells.append(f"{min(told) * 1e3:.1f} / {statistics.median(told) * 1e3:.1f}, n={len(told)}" if told else "–")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += [f"\n{name}: {', '.join(f'{k} {v}' for k, v in told.items())}" for name, told in found["versions"].items()]
    lines += [f"\n{name} could not be run: {why}" for name, why in found["unable"].items()]
    return "\n".join(lines)


def summary(at, about, found):
    text = f"Minimum / median; of connections: of the medians of {CONNECTIONS} each; × is to a direct one."
    return f"{report.head(at, about)} {text}\n\n{table(found)}\n"
