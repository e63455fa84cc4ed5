"""Starts `wharf dns` and gives it names, as the agent does: give_names.py WHARF RUN_DIR STATE.json ADDRESS."""

import array
import json
import os
import pathlib
import socket
import subprocess
import sys


def ask(control, request, fds=()):
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    control.sendmsg([json.dumps(request).encode()], beside)
    reply = json.loads(control.recv(65536))
    if reply["answer"] == "failed":
        sys.exit(f"error: {reply['why']}")
    return reply


def main(wharf, run_dir, state, address):
    folder = pathlib.Path(run_dir) / "dns"
    folder.mkdir(parents=True, mode=0o700)
    path = str(folder / "control.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(8)
    # It is ready when this process has ended; the server itself is nobody's child.
    subprocess.run([wharf, "dns"], stdin=listener, env={"WHARF_RUN_DIR": run_dir}, check=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(path)
    ask(control, {"ask": "hello"})
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    # As the agent does.
    udp.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    for each in (udp, tcp):
        each.setblocking(False)
        each.bind((address, 53))
    tcp.listen(128)
    ask(control, {"ask": "listen", "place": {"gateway": {"ip": address, "port": 53}}}, [udp.fileno(), tcp.fileno()])
    memory = os.memfd_create("names")
    with open(state, "rb") as text:
        os.write(memory, text.read())
    os.lseek(memory, 0, os.SEEK_SET)
    ask(control, {"ask": "give"}, [memory])


main(*sys.argv[1:])
