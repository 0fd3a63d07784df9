"""What a process finds when it starts. `facts.py WIRE [stay]` writes it as a line of JSON; apps import `facts`."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import sys
from typing import Any

__all__ = ["facts"]


def _status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").partition(":\t")[::2] for line in file)


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listdir itself used
    return found


def _listens_on(fd: int) -> str | None:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            name = sock.getsockname()
            return name if isinstance(name, str) else f"{name[0]}:{name[1]}"
    except OSError:
        return None


def _death_signal() -> int:
    import ctypes

    number = ctypes.c_int()  # of the thread that asks
    ctypes.CDLL(None).prctl(2, ctypes.byref(number), 0, 0, 0)
    return number.value


def facts() -> dict[str, Any]:
    """Everything that a spawn sets."""
    descriptors = _descriptors()
    umask = os.umask(0)
    os.umask(umask)
    status = _status()
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "pgid": os.getpgid(0),
        "sid": os.getsid(0),
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": os.getgroups(),
        "cwd": os.getcwd(),
        "umask": f"{umask:04o}",
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "env": dict(os.environ),
        "argv": sys.argv,
        "fds": descriptors,
        "sockets": {fd: address for fd in descriptors if (address := _listens_on(int(fd))) is not None},
        "death_signal": _death_signal(),
        "blocked": status["SigBlk"],
        "ignored": status["SigIgn"],
    }


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    found = facts()
    wire = os.open(sys.argv[1], os.O_WRONLY)
    os.write(wire, f"{json.dumps(found)}\n".encode())
    if "stay" in sys.argv[2:]:
        signal.pause()
