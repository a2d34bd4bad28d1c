"""The command line without its start: a server that has imported everything forks for each command.

``with commands() as path`` gives a folder of programs, ``actsec`` and ``python``, to be put first on PATH. Each
``actsec`` is a process of its own with its own arguments, directory, environment and streams, as from a shell; what it
is spared is the seconds that importing torch takes. Audits run their jobs in that process.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from runs import ENVIRONMENT

CLIENT = """#!{python} -SE
import array, json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = json.dumps({{"argv": sys.argv, "cwd": os.getcwd(), "environ": dict(os.environ)}}).encode()
    streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
    server.sendmsg([len(told).to_bytes(8, "big")], [streams])
    server.sendall(told)
    code = server.recv(1)
sys.exit(code[0] if code else 70)
"""


@contextlib.contextmanager
def commands() -> Iterator[Path]:
    """A folder of programs that ask the server, which lives as long as the block."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listening:
        address = f"{place}/server"  # short: a socket's path has 107 characters at most
        for name, text in {
            "actsec": CLIENT.format(python=sys.executable, address=address),
            "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
        }.items():
            (Path(place) / name).write_text(text)
            (Path(place) / name).chmod(0o755)
        listening.bind(address)
        listening.listen()
        server = subprocess.Popen([sys.executable, __file__], stdin=listening, env=ENVIRONMENT)
        try:
            yield Path(place)
        finally:
            server.terminate()
            server.wait()


def serve() -> None:
    """Fork for every connection to the socket that is stdin."""
    import actsec.running.runner  # noqa: F401  # what takes the seconds
    from actsec.command_line.cli import cli

    cli.context_settings["default_map"] = {name: {"executor": "serial"} for name in ("audit", "resume")}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)  # or a descriptor received later would get this number
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    from actsec.command_line.cli import main

    head, extra, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(extra[0][2])
    told = b""
    while len(told) < int.from_bytes(head, "big"):
        told += connection.recv(65536)
    asked = json.loads(told)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    sys.argv = asked["argv"]
    code = 70
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([code]))
        os._exit(0)


if __name__ == "__main__":
    serve()
