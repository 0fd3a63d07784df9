"""Real nginx in front of an app: listens on a socket of ours, by the protocol of its own binary upgrade (NGINX="N;").

The listening socket exists before nginx runs, so the first request waits in its backlog and nothing has to be polled.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.support.server import Listener, listen_tcp
from tests.support.wait import until

__all__ = ["Nginx", "certify", "program"]

CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include site.conf;
}}
"""

SITE = """\
upstream app {{
    server {upstream};
    {keepalive}
}}
server {{
    listen {address};
    location / {{
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_next_upstream off;
    }}
}}
"""


def program(name: str) -> str:
    """Path of a system program; skips the test where it is not installed, fails it with CI=true."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


class Nginx:
    """One nginx.

    Args:
        upstream: where it passes requests to.
        directory: its own.
        keepalive: idle upstream connections that it keeps; 0: none.
        site: makes another text for its http block, of the address that it is to listen on.
    """

    def __init__(
        self, upstream: str = "", *, directory: Path, keepalive: int = 0, site: Callable[[str], str] | None = None
    ) -> None:
        self.directory = directory
        self.listener: Listener = listen_tcp()
        self.url = self.listener.url
        self._program = program("nginx")
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        (directory / "nginx.conf").write_text(
            CONFIG.format(
                user="user root root;" if os.getuid() == 0 else "",
                directory=directory,
            )
        )
        kept = f"keepalive {keepalive};" if keepalive else ""
        text = SITE.format(upstream=upstream, keepalive=kept, address=self.listener.address)
        (directory / "site.conf").write_text(text if site is None else site(self.listener.address))

    def start(self) -> Self:
        """Start it; requests may be sent at once."""
        self.listener.sock.setblocking(False)  # the flag is shared, and nginx counts on it
        with open(self.directory / "stderr", "wb") as err:
            self._process = subprocess.Popen(
                [self._program, "-p", str(self.directory), "-c", "nginx.conf", "-e", "error.log"],
                env={**os.environ, "NGINX": f"{self.listener.fd};"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                pass_fds=[self.listener.fd],
                start_new_session=True,
            )
        self.listener.sock.close()
        return self

    @property
    def pid(self) -> int:
        """Of its master."""
        assert self._process is not None, "not started"
        return self._process.pid

    def signal(self, signum: int) -> None:
        """Send a signal to its master."""
        assert self._process is not None, "not started"
        self._process.send_signal(signum)

    def kill(self) -> None:
        """Kill its master and its workers at once."""
        assert self._process is not None, "not started"
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def again(self) -> None:
        """Start it once more, where it listened before."""
        sock = until(self._bound, what="the address to be free")  # its workers die after it
        assert sock is not None
        self.listener.sock = sock
        self.listener.fd = self.listener.sock.fileno()
        self.start()

    def _bound(self) -> socket.socket | None:
        host, port = self.listener.address.split(":")
        try:
            return socket.create_server((host, int(port)), backlog=2048)
        except OSError:
            return None

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """One request through nginx."""
        return self.listener.get(path, **options)

    @property
    def errors(self) -> str:
        """Its error log: "" when nothing went wrong (one notice about inherited sockets apart)."""
        lines = (self.directory / "error.log").read_text().splitlines()
        return "\n".join(line for line in lines if "using inherited sockets" not in line)

    def close(self) -> None:
        """Stop it at once; raises AssertionError if it had already gone."""
        self.listener.close()
        process = self._process
        if process is None:
            return
        code = process.poll()
        if code is not None:
            said = (self.directory / "stderr").read_text() + self.errors
            raise AssertionError(f"nginx had exited with {code}: {said}")
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def certify(key: Path, certificate: Path) -> None:
    """A certificate that nobody trusts."""
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=shop.example",
    ]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
