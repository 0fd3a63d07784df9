"""An nginx of our own: to say what the load generator can do at most here, and in front of all contestants alike."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trapeze_bench.interrupts import held, released
from trapeze_bench.targets import Failed, free_port, until

__all__ = ["Nginx", "config", "find", "running", "version"]

KEPT = 128
"""Idle connections to the server behind it that it keeps. Without, each request would open one."""

CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log error;
worker_rlimit_nofile 4096;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    client_max_body_size 0;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 1000000000;
    upstream app {{
        {servers}
        {keepalive}
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection {connection};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
    server {{
        listen 127.0.0.1:{empty} backlog=4096;
        location / {{ return 200 "hello, world\\n"; }}
    }}
}}
"""


def config(*, upstream: Sequence[str], port: int, empty: int, root: bool, kept: int = KEPT) -> str:
    """The configuration.

    Args:
        upstream: where the contestants listen: "127.0.0.1:8000", "unix:/run/web.sock"; of several, who has least
            to do is asked.
        port: port that passes on to it.
        empty: port of `return 200`.
        root: we are root: then its worker would be somebody else, who may not enter a private directory.
        kept: idle connections to the server behind it that it keeps; 0: a new one for each request.
    """
    user = "user root root;" if root else ""
    keepalive, connection = (f"keepalive {kept};", '""') if kept else ("", "close")
    servers = " ".join(f"server {each} max_fails=0;" for each in upstream)
    servers = f"least_conn; {servers}" if len(upstream) > 1 else servers
    return CONFIG.format(user=user, servers=servers, port=port, empty=empty, keepalive=keepalive, connection=connection)


class Nginx:
    """One that runs."""

    def __init__(self, upstream: int, port: int, empty: int) -> None:
        self.upstream = upstream
        """Port on which each contestant has to listen in its turn."""
        self.port = port
        self.empty = empty


def find() -> str | None:
    """Where it is; None if it is not installed. It often lies where only root looks."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def version(program: str) -> str:
    """As "1.22.1"."""
    done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"nginx/([\d.]+)", done.stderr)
    return found[1] if found else ""


@contextmanager
def running(program: str, upstream: Sequence[str] = (), kept: int = KEPT) -> Iterator[Nginx]:
    """Run it on free ports, with files in a directory of its own, and stop it at the end.

    Args:
        program: nginx.
        upstream: where the servers behind it listen; none: on a port of 127.0.0.1, `Nginx.upstream`.
        kept: see `config`.

    Raises:
        Failed: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="trapeze-nginx-") as directory, held():
        nginx = Nginx(free_port(), free_port(), free_port())
        behind = upstream or [f"127.0.0.1:{nginx.upstream}"]
        text = config(upstream=behind, port=nginx.port, empty=nginx.empty, root=os.getuid() == 0, kept=kept)
        Path(directory, "nginx.conf").write_text(text)
        with open(os.path.join(directory, "stderr"), "wb") as stderr:
            popen = subprocess.Popen(
                [program, "-p", directory, "-c", "nginx.conf", "-e", "error.log"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                process_group=0,
            )
        try:
            with released():
                until(lambda: _listens(popen, nginx.empty, directory), "nginx to listen", patience=10.0)
                yield nginx
        finally:
            if popen.poll() is None:
                popen.send_signal(signal.SIGTERM)
            try:
                popen.wait(10)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


def _listens(popen: subprocess.Popen[bytes], port: int, directory: str) -> bool:
    if popen.poll() is not None:
        lines = Path(directory, "stderr").read_text(errors="replace").strip().splitlines()
        said = lines[-1].replace(directory, "") if lines else "it said nothing"
        raise Failed(f"nginx ended with status {popen.returncode}: {said}")
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
