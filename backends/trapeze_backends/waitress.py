"""waitress on inherited sockets: WSGI by a pool of threads, behind a loop that reads requests and sends answers."""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of
from trapeze_backends.optioncheck import BOUND, check_names, check_twice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["WaitressBackend", "backend"]

OWNED = {
    "host": BOUND,
    "port": BOUND,
    "listen": BOUND,
    "sockets": BOUND,
    "unix_socket": BOUND,
    "unix_socket_perms": BOUND,
    "ipv4": BOUND,
    "ipv6": BOUND,
    "backlog": "it belongs to the socket",
    "url_prefix": "use the field `root_path`",
    "server_name": "it is the address of the socket",
    "trusted_proxy_count": "use the field `trusted_proxies`",
    "trusted_proxy_headers": "use the field `trusted_proxies`",
    "clear_untrusted_proxy_headers": "use the field `trusted_proxies`",
    "log_untrusted_proxy_headers": "use the field `trusted_proxies`",
    "asyncore_loop_timeout": "the loop is not waitress's own",
    "asyncore_use_poll": "the loop is not waitress's own",
}
"""Settings that belong to the supervisor, or are fields of the service, each with the reason."""

FIELDS = {"threads": "threads", "channel_timeout": "keepalive", "trusted_proxy": "trusted_proxies"}
"""Settings that are fields with one meaning for every backend; either may be used, not both."""


class WaitressBackend(Backend):
    """WSGI, by 4 threads unless another number is asked for."""

    name = "waitress"
    interfaces = frozenset({"wsgi"})
    fields = {"threads": "native", "keepalive": "native"}

    def version(self) -> str:
        """Version of waitress."""
        return version_of("waitress")

    def check(self, job: Job) -> list[Problem]:
        """Not installed; options that are the supervisor's, or that waitress does not know."""
        if not is_installed("waitress"):
            return [Problem("backend", f"waitress is not installed in {sys.prefix}", "pip install waitress")]
        return _check_options(job) if job.options else []

    def trusted(self, job: Job) -> list[str] | None:
        """What `trusted_proxy` says: one address, "*", or "localhost", which is what waitress calls a Unix peer."""
        said = job.options.get("trusted_proxy")
        if said is None:
            return None
        return ["unix" if said == "localhost" else str(said)]

    def preload(self, job: Job, interface: str) -> None:
        """waitress, and what the look-up of an address imports."""
        for module in ("trapeze_backends.waitress_server", "encodings.idna"):
            __import__(module)

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, then drain."""
        from trapeze_backends.waitress_server import run

        run(app, sockets, worker)


def _check_options(job: Job) -> list[Problem]:
    from waitress.adjustments import Adjustments

    known = [name for name, _ in Adjustments._params if name not in OWNED]
    problems = check_names("waitress", job.options, known, OWNED) + check_twice(job.options, job, FIELDS)
    for name, value in job.options.items():
        if name in known and name != "trusted_proxy":  # that one is ours to interpret, and warns
            try:
                Adjustments(**{name: value})
            except (ValueError, TypeError) as error:
                problems.append(Problem(f"options.{name}", f"waitress: {error}"))
    return problems


backend = WaitressBackend
