"""How soon what somebody took away or changed is right again, by kind: see README.md beside this file."""

import pathlib
import statistics
import subprocess
import sys
import threading
import time

import engines
import report
from damage import KINDS, port_of
from host import Unable
from scene import SCENES, Refused

# Docker and wharf take a run of ten seconds for a good one.
GOOD_RUN = 11
# Seconds until something counts as not repaired at the first try, and at those after it.
PATIENCE, LESS_PATIENCE = 10, 3
# So many tries without a repair, and no more are made.
NEVER = 2
# More than two repairs of one thing a second, for long, are taken for a fight with somebody else.
REST = 0.35
# Of those that peers do repair, so many are enough.
PEER_TRIES = 10
# Peers mostly let time pass: so many of each do so side by side.
SHARES = 3
# What a host that was damaged may answer with.
FAILED = (Unable, OSError, LookupError, ValueError, StopIteration)
STOP = threading.Event()
OLD = "wharf, kernel without owners of tables"


class Lane:
    """One engine being damaged by some kinds, one after the other. `found`: tries by kind; a text is what went wrong."""

    def __init__(self, column, engine, make, kinds, tries):
        self.column, self.engine, self.make, self.tries, self.scene = column, engine, make, tries, None
        self.kinds = [k for k in kinds if engine not in k.without]
        self.found = {kind.title: [] for kind in self.kinds}

    def live(self):
        """Kinds of which more tries are to be made."""
        def wanted(kind):
            tries = self.found[kind.title]
            return len(tries) < self.tries and not (len(tries) >= NEVER and all(isinstance(t, str) for t in tries))
        return [kind for kind in self.kinds if wanted(kind)]

    def one_round(self):
        self.start_ahead([kind for kind in self.live() if kind.aged])
        for kind in self.live():
            if not STOP.is_set():
                self.found[kind.title].append(self.one(kind))

    def start_ahead(self, kinds):
        """So that their first runs become good ones at the same time."""
        try:
            for kind in kinds:
                self.opened().container(port_of(kind))
        except FAILED:
            # The try itself says so.
            self.close()

    def opened(self):
        if self.scene is None:
            self.scene = SCENES[self.engine](self.make())
            self.scene.open()
        return self.scene

    def one(self, kind):
        """Seconds to the repair: from the end of the damage, and from before it began."""
        try:
            scene, port = self.opened(), port_of(kind)
            scene.container(port)
            if kind.aged:
                time.sleep(max(0, scene.since[port] + GOOD_RUN - time.monotonic()))
            act, repaired = kind.make(scene, port)
            began, ended = act()
            at = repaired(LESS_PATIENCE if self.found[kind.title] else PATIENCE)
            scene.settle(port)
            time.sleep(REST if self.engine == "wharf" else 0)
            return {"after": at - ended, "whole": at - began}
        except Refused as e:
            return f"refused: {e}"
        except FAILED as e:
            print(f"  {self.column}: {kind.title}: {e}", file=sys.stderr, flush=True)
            # Whatever it left: the next one finds a fresh host.
            self.close()
            return str(e)

    def close(self):
        if self.scene is not None:
            self.scene.close()
            self.scene = None


def in_turn(lanes):
    """A round of each, until none has more to do: while one is at it, the others' containers grow old."""
    try:
        while any(lane.live() for lane in lanes) and not STOP.is_set():
            for lane in lanes:
                lane.one_round()
    finally:
        for lane in lanes:
            lane.close()


def phases(args, work):
    """What is run one after the other; of each, what is run side by side; of that, what is run in turn."""
    count = iter(range(10_000))

    def maker(engine, column, env=None):
        def make():
            made = engines.KINDS[engine](args, work, f"{column}-{next(count)}")
            made.more_env = env or {}
            return made
        return make
    wanted, quick = args.only.split(","), [k for k in KINDS if k.group == "process"]
    slow = [k for k in KINDS if k.group != "process"]
    chosen = [k for k in KINDS if not args.kinds or any(word in k.title for word in args.kinds.split(","))]

    def of(kinds):
        return [k for k in kinds if k in chosen]
    all_of_them = []
    if "wharf" in wanted:
        all_of_them.append([[Lane("wharf", "wharf", maker("wharf", "wharf"), of(KINDS), args.repairs)]])
        old = {"LD_PRELOAD": old_kernel(work)}
        firewall = of([k for k in KINDS if k.group == "firewall"])
        all_of_them.append([[Lane(OLD, "wharf", maker("wharf", "old", old), firewall, args.repairs)]])
    peers = [p for p in ("docker", "podman") if p in wanted]
    tries = min(args.repairs, PEER_TRIES)
    all_of_them.append([[Lane(p, p, maker(p, p), of(quick), tries) for p in peers]])
    shares = [(p, of(slow[share::SHARES])) for p in peers for share in range(SHARES)]
    return all_of_them + [[[Lane(p, p, maker(p, p), kinds, tries)] for p, kinds in shares]]


def old_kernel(work):
    made = pathlib.Path(work) / "old_kernel.so"
    source = pathlib.Path(__file__).with_name("old_kernel.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", made, source], check=True)
    return str(made)


def measure(args, work):
    """Column → kind → tries."""
    found = {}
    for phase in phases(args, work):
        threads = [threading.Thread(target=in_turn, args=(lanes,)) for lanes in phase]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            # Each closes what it has open, after the try it is at.
            STOP.set()
            for thread in threads:
                if thread.is_alive():
                    thread.join()
            raise
        for lane in (lane for lanes in phase for lane in lanes):
            found.setdefault(lane.column, {}).update(lane.found)
    return found


def cell(kind, tries, engine):
    if engine in kind.without:
        return f"– ({kind.without[engine]})"
    if not tries:
        return ""
    good = [t for t in tries if not isinstance(t, str)]
    if not good:
        why = tries[0].splitlines()[0]
        if why.startswith("refused"):
            return "the kernel does not let it be"
        told = "" if why.startswith("no answer") else f": {why}"
        return f"not within {PATIENCE} s{told} (n={len(tries)})"
    after = [t["after"] * 1000 for t in good]
    told = f"{min(after):.1f} / {statistics.median(after):.1f} / {max(after):.1f}"
    whole = statistics.median(t["whole"] for t in good) * 1000
    missed = f", {len(tries) - len(good)} not" if len(good) < len(tries) else ""
    return f"{told} ({whole:.1f}), n={len(good)}{missed}"


def table(found):
    """One row a kind, in milliseconds."""
    names = [n for n in ("wharf", "docker", "podman") if n in found]
    lines = ["| what was done | " + " | ".join(names) + " | repaired when |", "| --- |" + " --- |" * (len(names) + 1)]
    for kind in KINDS:
        if not any(kind.title in tries for tries in found.values()):
            continue
        cells = [cell(kind, found[n].get(kind.title, []), n) for n in names]
        if OLD in found and kind.title in found[OLD] and names[0] == "wharf":
            cells[0] += "; where it does not: " + cell(kind, found[OLD][kind.title], "wharf")
        lines.append(f"| {kind.title} | " + " | ".join(cells) + f" | {kind.repaired} |")
    return "\n".join(lines)


def too_slow(found):
    """What of wharf's is not within the target, by the longer of the two times."""
    told = []
    for column in ("wharf", OLD):
        for kind in KINDS:
            good = [t["whole"] * 1000 for t in found.get(column, {}).get(kind.title, []) if not isinstance(t, str)]
            if kind.target and good and max(good) > kind.target:
                told.append(f"- {column}: {kind.title}: {sum(g > kind.target for g in good)} of {len(good)} tries over the "
                            f"target of {kind.target} ms, median {statistics.median(good):.1f}, most {max(good):.1f}")
    return told


def summary(result):
    found = result["repair"]
    lines = [report.head(result["at"], result["machine"]),
             "", "Minimum / median / most, ms, from the end of the command that did it; in brackets the median from before that "
             "command was begun.", "", table(found), ""]
    lines += [f"- {name}: {', '.join(f'{k} {v}' for k, v in told.items())}" for name, told in result["versions"].items()]
    return "\n".join(lines + too_slow(found)) + "\n"


def versions(args, work):
    told = {}
    for name in args.only.split(","):
        engine = engines.KINDS[name](args, work, f"version-{name}")
        try:
            engine.open()
            told[name] = engine.version()
        except Unable as e:
            told[name] = {"could not be run": str(e)}
        finally:
            engine.close()
    return told
