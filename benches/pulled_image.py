"""An image for `pulls.py`, laid down as a registry keeps it on disk."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tarfile
from typing import NamedTuple

from engines import CACHE, Docker, Podman
from names import OfDebian

LAYERS, REPOSITORY = 5, "bench"
MANIFEST, CONFIG = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# What a peer keeps there while it runs, or has mounted.
NO_PART = {"proc", "sys", "dev", "run", "tmp", "mnt"}


class Packing(NamedTuple):
    """How a layer is packed, what that is called, and the way back."""
    pack: str
    media: str
    back: str


PACKED = {"gzip": Packing("gzip -6 -n", "application/vnd.oci.image.layer.v1.tar+gzip", "gzip -dc"),
          "zstd": Packing("zstd -q -3", "application/vnd.oci.image.layer.v1.tar+zstd", "zstd -qdc")}


def make_image(args, store, work, note):
    """Layers of Debian's files, packed in each way; says what they are. The tags are named by the way."""
    found = list(members(trees(args, work)))
    layers, part, done, whole = [], [], 0, sum(size for *_, size in found)
    for number, (path, name, size) in enumerate(found, 1):
        part.append((path, name))
        done += size
        if done >= whole * (len(layers) + 1) / LAYERS or number == len(found):
            layers.append(make_layer(part, store, work))
            note(f"layer {len(layers)} of {LAYERS}: {layers[-1]['bytes'] >> 20} MiB")
            part = []
    config = {"architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine), "os": "linux",
              "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"] for layer in layers]}}
    for kind in PACKED:
        tag(store, kind, layers, json.dumps(config).encode())
    return {"layers": layers, "entries": len(found), "bytes": sum(layer["bytes"] for layer in layers),
            **{kind: sum(layer[kind][1] for layer in layers) for kind in PACKED}}


def trees(args, work):
    """What the peers and the name servers are made of: about 1 GB, files of all sizes."""
    for name, packages in (("docker", Docker.packages), ("podman", Podman.packages), ("names", OfDebian.packages)):
        peer = Docker(args, work, label=f"tree-{name}")
        peer.packages, peer.root = packages, CACHE / "peers" / f"{args.suite}-{name}"
        if not (peer.root / "usr/bin").is_dir():
            peer.unpack()
        yield peer.root


def members(roots):
    """(path, name in the image, bytes on disk), in order."""
    for root in roots:
        for folder, inner, files in os.walk(root):
            at = os.path.relpath(folder, root)
            inner[:] = sorted(d for d in inner if os.path.normpath(os.path.join(at, d)) not in NO_PART)
            for name in [".", *sorted(files), *(d for d in inner if os.path.islink(os.path.join(folder, d)))]:
                path = os.path.join(folder, name)
                yield path, os.path.normpath(os.path.join(root.name, at, name)), os.lstat(path).st_blocks * 512


def make_layer(part, store, work):
    plain, packed = work / "layer.tar", work / "layer.packed"
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
        for path, name in part:
            archive.add(path, name, recursive=False)
    layer = {"bytes": plain.stat().st_size, "diff_id": digest(plain)}
    for kind, packing in PACKED.items():
        with open(plain, "rb") as source, open(packed, "wb") as to:
            subprocess.run(packing.pack.split(), stdin=source, stdout=to, check=True)
        layer[kind] = (digest(packed), packed.stat().st_size)
        shutil.move(packed, blob(store, layer[kind][0]))
    plain.unlink()
    return layer


def digest(path):
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def blob(store, told):
    """Where the registry looks for a blob (distribution, registry/storage/paths.go)."""
    number = told.removeprefix("sha256:")
    path = store / "docker/registry/v2/blobs/sha256" / number[:2] / number / "data"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def keep(store, data):
    told = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob(store, told).write_bytes(data)
    return told


def tag(store, kind, layers, config):
    """Config and manifest, and the links that lead to them and to the layers."""
    described = [{"mediaType": PACKED[kind].media, "digest": layer[kind][0], "size": layer[kind][1]} for layer in layers]
    about = {"mediaType": CONFIG, "digest": keep(store, config), "size": len(config)}
    manifest = keep(store, json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": about, "layers": described}).encode())
    places = {f"_layers/{blob['digest'].replace(':', '/')}": blob["digest"] for blob in [about, *described]}
    name = manifest.replace(":", "/")
    for place in (f"_manifests/revisions/{name}", f"_manifests/tags/{kind}/current", f"_manifests/tags/{kind}/index/{name}"):
        places[place] = manifest
    for place, told in places.items():
        link = store / "docker/registry/v2/repositories" / REPOSITORY / place / "link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(told)
