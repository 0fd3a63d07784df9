"""Process managers that serve nothing themselves: circus with chaussette on its socket, supervisord with gunicorn."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from trapeze_bench import procfs
from trapeze_bench.natives import NATIVES
from trapeze_bench.peers.base import Actor, Peer, Said, command, ordered
from trapeze_bench.served import Served
from trapeze_bench.targets import Running, program, started

__all__ = [
    "CIRCUS",
    "CIRCUS_LINE",
    "SUPERVISORD",
    "SUPERVISOR_LINE",
    "circus",
    "circusctl",
    "supervisorctl",
    "supervisord",
]

CIRCUS_LINE = "pip install circus"
SUPERVISOR_LINE = "pip install supervisor"


def circus(directory: str, sections: str) -> list[str]:
    """Write circus.ini; return the command line of circusd."""
    path = os.path.join(directory, "circus.ini")
    with open(path, "w") as file:
        file.write(f"[circus]\nendpoint = ipc://{directory}/ctl\npubsub_endpoint = ipc://{directory}/pub\n\n{sections}")
    return [command("circusd") or "circusd", path]


def circusctl(server: Running, *words: str) -> Said:
    """Order something of circusd."""
    argv = [command("circusctl") or "circusctl", "--endpoint", f"ipc://{server.directory}/ctl", *words]
    return ordered(server, argv, f"circusctl {' '.join(words)}")


def supervisord(directory: str, sections: str, descriptors: int = 1024) -> list[str]:
    """Write supervisord.conf; return the command line of supervisord."""
    path = os.path.join(directory, "supervisord.conf")
    with open(path, "w") as file:
        file.write(
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={directory}/supervisord.pid\n"
            f"minfds={descriptors}\n\n[unix_http_server]\nfile={directory}/supervisor.sock\n\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
            f"[supervisorctl]\nserverurl=unix://{directory}/supervisor.sock\n\n{sections}"
        )
    return [command("supervisord") or "supervisord", "-c", path]


def supervisorctl(server: Running, *words: str) -> Said:
    """Order something of supervisord."""
    argv = [command("supervisorctl") or "supervisorctl", "-c", os.path.join(server.directory, "supervisord.conf")]
    return ordered(server, [*argv, *words], f"supervisorctl {' '.join(words)}")


class Circus(Actor):
    """circusd, whose children are the workers."""

    def reload(self) -> Said:
        """The new workers are started before the old ones are stopped; it waits."""
        return circusctl(self.server, "reload", "web", "--waiting")


@contextmanager
def _circus(served: Served, port: int, directory: str) -> Iterator[Actor]:
    argv = [*program("chaussette"), "--fd", "$(circus.sockets.web)", served.app]
    sections = (
        f"[watcher:web]\ncmd = {' '.join(argv)}\nuse_sockets = True\ncopy_env = True\n"
        f"numprocesses = {served.workers}\nworking_dir = {served.app_dir}\n\n"
        f"[socket:web]\nhost = 127.0.0.1\nport = {port}\n"
    )
    with started("circus", circus(directory, sections), str(served.app_dir), directory) as server:
        server.port = port
        yield Circus(server, served)


class Supervised(Actor):
    """supervisord, whose child is gunicorn's master."""

    def workers(self) -> list[int]:
        """gunicorn's."""
        found: Mapping[int, int] = {}
        for pid in procfs.children(self.master):
            found = {**found, **procfs.children(pid)}
        return sorted(found, key=lambda pid: (found[pid], pid))

    def reload(self) -> Said:
        """As most deploys do it. (`supervisorctl signal HUP` is gunicorn's own reload, and in the table as such.)"""
        return supervisorctl(self.server, "restart", "web")


@contextmanager
def _supervisord(served: Served, port: int, directory: str) -> Iterator[Actor]:
    words = " ".join(NATIVES["gunicorn-sync"].words(served, port)).replace("%", "%%")
    sections = f"[program:web]\ncommand={words}\ndirectory={served.app_dir}\nredirect_stderr=true\n"
    sections += "stdout_logfile=NONE\n"
    with started("supervisord", supervisord(directory, sections), str(served.app_dir), directory) as server:
        server.port = port
        yield Supervised(server, served)


def _circus_installed() -> bool:
    return command("circusd") is not None and importlib.util.find_spec("chaussette") is not None


CIRCUS = Peer("circus+chaussette", "wsgi", _circus, f"{CIRCUS_LINE} chaussette", _circus_installed)
SUPERVISORD = Peer(
    "supervisord+gunicorn",
    "wsgi",
    _supervisord,
    f"{SUPERVISOR_LINE} gunicorn",
    lambda: command("supervisord") is not None and NATIVES["gunicorn-sync"].is_installed,
)
