"""What it costs to pull an image: see README.md beside this file."""

import os
import pathlib
import shutil
import statistics
import subprocess
import time

import report
from engines import CACHE, KINDS
from host import Host, Unable, run
from pulled_image import PACKED, REPOSITORY, blob, make_image

REGISTRY = "127.0.0.1:5000"
# The least that could be done, with the tools of a shell; and the same with everything on disk at the end.
FLOORS = {"floor": "", "floor_flushed": "; sync -f ."}
ASK = "import socket; socket.create_connection(('127.0.0.1', 5000), 1)"


def registry_program():
    """Debian's, unpacked into the cache as `./test` does."""
    at = CACHE / "docker-registry"
    if not (at / "usr/bin/docker-registry").exists():
        fresh = at.with_suffix(f".{os.getpid()}")
        fresh.mkdir(parents=True)
        run("sh", "-euc", "apt-get download -q docker-registry; dpkg-deb -x docker-registry_*.deb .; rm docker-registry_*.deb", cwd=fresh)
        fresh.rename(at)
    return at / "usr/bin/docker-registry"


def begin_registry(host, store, work):
    """In the engine's network namespace, but not in its cgroup: what it costs is not the engine's."""
    settings, log = work / "registry.yml", work / "registry.log"
    settings.write_text("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
                        f"storage: {{filesystem: {{rootdirectory: {store}}}, cache: {{blobdescriptor: inmemory}}}}\nhttp: {{addr: '{REGISTRY}'}}\n")
    inside = Host._net(host.inside)
    with open(log, "w") as out:
        process = subprocess.Popen([*inside, registry_program(), "serve", settings], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    for _ in range(200):
        if subprocess.run([*inside, "python3", "-c", ASK], stderr=subprocess.DEVNULL).returncode == 0:
            return process
        time.sleep(0.05)
    process.kill()
    raise Unable(f"docker-registry: {log.read_text()[-500:]}")


class Puller:
    """An engine, its registry, and how it pulls and forgets."""

    def __init__(self, engine, store):
        self.engine, self.name, self.host = engine, engine.name, engine.host
        self.registry = begin_registry(engine.host, store, engine.work)

    def pull(self, kind):
        reference = f"{REGISTRY}/{REPOSITORY}:{kind}"
        if self.name == "wharf":
            self.engine.client("image", "pull", reference)
        elif self.name == "podman":
            self.host.run("podman", "pull", "-q", "--tls-verify=false", reference)
        else:
            self.host.run("docker", "pull", "-q", reference)

    def forget(self, kind):
        reference = f"{REGISTRY}/{REPOSITORY}:{kind}"
        if self.name == "wharf":
            self.engine.client("image", "rm", reference)
        else:
            self.host.run(self.name, "rmi", reference)

    def close(self):
        self.registry.terminate()
        self.registry.wait()


class Floor:
    """All layers at once, each `zcat | tar x` into a directory of its own, from the registry's own files."""

    def __init__(self, name, work, store, layers):
        self.name, self.then = name, FLOORS[name]
        self.work, self.store, self.layers = work / name, store, layers
        self.work.mkdir()
        self.host = Host(name.replace("_", "-"), lambda: None, "host")

    def pull(self, kind):
        each = "".join(f"mkdir {n}; {PACKED[kind].back} < {blob(self.store, layer[kind][0])} | tar x -C {n} & "
                       for n, layer in enumerate(self.layers))
        self.host.run("sh", "-euc", f"cd {self.work}; {each} wait{self.then}")

    def forget(self, _):
        shutil.rmtree(self.work)
        self.work.mkdir()

    def close(self):
        self.host.close()


def one(puller, kind):
    """Seconds, and CPU seconds of all its processes, also those that tidy up after the answer."""
    run("sync")
    time.sleep(1)
    cpu, began = puller.host.cgroup.cpu(), time.monotonic()
    puller.pull(kind)
    took = time.monotonic() - began
    time.sleep(0.5)
    found = {"wall": took, "cpu": puller.host.cgroup.cpu() - cpu}
    puller.forget(kind)
    until_idle(puller.host.cgroup)
    return found


def until_idle(cgroup):
    """Engines go on removing files after they have answered."""
    for _ in range(60):
        cpu = cgroup.cpu()
        time.sleep(1)
        if cgroup.cpu() - cpu < 0.05:
            return
    raise Unable("it is still busy a minute after the image was removed")


def opened(args, work, store, note):
    pullers, engines, unable = [], [], {}
    for name in args.only.split(","):
        engine = KINDS[name](args, work)
        engines.append(engine)
        try:
            note(f"starting {name}")
            engine.open()
            pullers.append(Puller(engine, store))
        except Unable as e:
            note(f"{name} could not be run: {e}")
            unable[name] = str(e)
            engines.pop().close()
    return pullers, engines, unable


def measured(args, work, note):
    store = work / "registry"
    image = make_image(args, store, work, note)
    pullers, engines, unable = opened(args, work, store, note)
    try:
        pullers += [Floor(name, work, store, image["layers"]) for name in FLOORS]
        raw = {puller.name: {kind: [] for kind in PACKED} for puller in pullers}
        versions = {engine.name: engine.version() for engine in engines}
        for number in range(args.pulls):
            turn = number % len(pullers)
            for kind in PACKED:
                for puller in pullers[turn:] + pullers[:turn]:
                    found = one(puller, kind)
                    raw[puller.name][kind].append(found)
                    note(f"round {number + 1} of {args.pulls}, {kind}: {puller.name} {found['wall']:.1f} s, CPU {found['cpu']:.1f} s")
        return {"image": image, "versions": versions, "unable": unable, "raw": raw}
    finally:
        for puller in pullers:
            if isinstance(puller, (Puller, Floor)):
                puller.close()
        for engine in engines:
            engine.close()


def table(found):
    names = list(found["raw"])
    lines = ["| measure | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for kind in PACKED:
        for key, title in (("wall", "wall"), ("cpu", "CPU")):
            cells = []
            for name in names:
                values = [told[key] for told in found["raw"][name][kind]]
                base = statistics.median(told[key] for told in found["raw"][names[0]][kind])
                cells.append(f"{min(values):.2f} / {statistics.median(values):.2f} (×{statistics.median(values) / base:.2f})")
            lines.append(f"| {kind}, {title}, s | " + " | ".join(cells) + " |")
    lines += [f"\n{name}: {', '.join(f'{k} {v}' for k, v in told.items())}" for name, told in found["versions"].items()]
    lines += [f"\n{name} could not be run: {why}" for name, why in found["unable"].items()]
    return "\n".join(lines)


def summary(at, about, found):
    image = found["image"]
    packed = ", ".join(f"{image[kind] >> 20} MiB as {kind}" for kind in PACKED)
    text = (f"Minimum / median of {len(next(iter(found['raw'].values()))['gzip'])}; × is median to the first column's. "
            f"{len(image['layers'])} layers, {image['entries']} entries, {image['bytes'] >> 20} MiB, {packed}.")
    return f"{report.head(at, about)} {text}\n\n{table(found)}\n"
