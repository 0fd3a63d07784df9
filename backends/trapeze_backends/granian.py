"""granian's worker classes on inherited sockets, one or more for each socket, in this very process.

granian itself is a program that binds and forks; the classes below it are not its public interface. So only the
versions are taken that were tried (`KNOWN`), and what is used of them stands in `granian_server` alone.
"""

from __future__ import annotations

import sys

from trapeze_backends.contract import Backend, Problem
from trapeze_backends.installed import is_installed, version_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from trapeze_backends.contract import Job
    from trapeze_backends.worker import Worker

__all__ = ["GranianBackend", "backend", "unknown_version"]

KNOWN, NEXT = "2.8.9", "2.9"
"""Versions from the first on and before the second are as `granian_server` expects them. Older ones are stopped in
another way (2.7), or leave an answer of a WSGI app that fails in the middle without an end (2.8.7)."""

WANTED = f"'granian>={KNOWN},<{NEXT}'"
"""The same as pip wants it."""

BOUND = "the sockets of the service are bound by the supervisor"
PROCESS = "there is no granian main process"
OWNED = {
    "target": "use the field `app`",
    "address": BOUND,
    "host": BOUND,
    "port": BOUND,
    "uds": BOUND,
    "uds_permissions": BOUND,
    "backlog": "it belongs to the socket",
    "interface": "use the field `interface`",
    "workers": "use the field `workers`",
    "factory": "use the field `factory`",
    "working_dir": "use the field `cwd`",
    "env_files": "use the field `env_file`",
    "url_path_prefix": "use the field `root_path`",
    "log_access": "use the field `access_log`",
    "log_access_format": "use the field `access_log`, which has one format for all servers",
    "log_enabled": "its log is that of a main process",
    "log_level": "its log is that of a main process",
    "log_dictconfig": "its log is that of a main process",
    "respawn_failed_workers": "the supervisor replaces workers",
    "respawn_interval": "the supervisor replaces workers",
    "workers_lifetime": "use the field `max_age`",
    "workers_max_rss": "use the field `max_rss`",
    "rss_sample_interval": "use the field `max_rss`",
    "rss_samples": "use the field `max_rss`",
    "workers_kill_timeout": "use the field `stop_timeout`",
    "task_impl": "requests are tasks of asyncio here: those that do not end have to be cancelled",
    "process_name": "the supervisor names processes",
    "pid_file": PROCESS,
    "metrics_enabled": PROCESS,
    "metrics_scrape_interval": PROCESS,
    "metrics_address": PROCESS,
    "metrics_port": PROCESS,
    **dict.fromkeys(
        ["reload", "reload_paths", "reload_ignore_dirs", "reload_ignore_patterns", "reload_ignore_paths"],
        "use the field `watch`",
    ),
    **dict.fromkeys(["reload_filter", "reload_tick", "reload_ignore_worker_failure"], "use the field `watch`"),
}
"""Settings that belong to the supervisor, each with the reason."""

FIELDS = {"blocking_threads": "threads"}
"""Settings that are fields with one meaning for every backend; either may be used, not both."""

NUMBERS = {
    "backpressure": 1,
    "blocking_threads": 1,
    "blocking_threads_idle_timeout": 5,
    "runtime_blocking_threads": 1,
    "runtime_threads": 1,
}
"""Settings that are whole numbers, each with the least."""
CHOICES = {
    "http": ("auto", "1", "2"),
    "loop": ("auto", "asyncio", "uvloop", "rloop"),
    "runtime_mode": ("auto", "mt", "st"),
    "websockets": (True, False),
}
TABLES = {
    "http1_settings": ("header_read_timeout", "keep_alive", "max_buffer_size", "pipeline_flush"),
    "http2_settings": (
        *("adaptive_window", "initial_connection_window_size", "initial_stream_window_size", "keep_alive_interval"),
        *("keep_alive_timeout", "max_concurrent_streams", "max_frame_size", "max_headers_size", "max_send_buffer_size"),
    ),
}
"""Settings that are tables, with their keys."""
TLS = frozenset(
    ["ssl_cert", "ssl_key", "ssl_key_password", "ssl_protocol_min", "ssl_ca", "ssl_crl", "ssl_client_verify"]
)


WSGI_LACKS = {"latin_headers": "granian makes an empty text of them for WSGI apps; ASGI apps get them"}
"""Promises that it cannot keep for WSGI apps."""


class GranianBackend(Backend):
    """WSGI by a pool of threads, ASGI on asyncio or, where it is installed, uvloop."""

    name = "granian"
    interfaces = frozenset({"wsgi", "asgi"})
    speaks = frozenset({"websocket", "http2"})
    fields = {"threads": "native", "keepalive": "native"}
    lacks = WSGI_LACKS

    def version(self) -> str:
        """Version of granian."""
        return version_of("granian")

    def check(self, job: Job) -> list[Problem]:
        """Not installed, or of a version whose classes are others; options that it does not have."""
        if not is_installed("granian"):
            return [Problem("backend", f"granian is not installed in {sys.prefix}", f"pip install {WANTED}")]
        version = self.version()
        if not _is_known(version):
            return [Problem("backend", *unknown_version(version))]
        if job.interface == "asgi":
            self.lacks = {}
            self.fields = {**self.fields, "threads": "no: serves ASGI apps by an event loop, not by threads"}
        problems = [
            Problem(f"options.{setting}", f"set twice: it is the same as the field `{field}`")
            for setting, field in FIELDS.items()
            if setting in job.options and getattr(job, field) is not None
        ]
        for name, value in job.options.items():
            problems += _check_option(name, value)
        return problems

    def preload(self, job: Job, interface: str) -> None:
        """The compiled part, which starts its threads when it serves, and what drives it."""
        __import__(f"trapeze_backends.granian_{interface}")
        if interface == "asgi":
            from trapeze_backends.granian_asgi import loop_name

            name = loop_name(job)
            if name != "asyncio":
                __import__(name)

    def run(self, app: Any, sockets: list[socket.socket], worker: Worker) -> None:
        """Serve until the worker is asked to stop, then drain."""
        name = f"trapeze_backends.granian_{worker.interface}"
        __import__(name)
        sys.modules[name].run(app, sockets, worker)


def _is_known(version: str) -> bool:
    return _numbers(KNOWN) <= _numbers(version) < _numbers(NEXT)


def _numbers(version: str) -> list[int]:
    """For comparisons: "2.8.9rc1" is as 2.8, and what is no version as none."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return numbers


def unknown_version(version: str) -> tuple[str, str]:
    """What is said of a version that we do not know, and what to do about it."""
    what = f"granian {version or 'of unknown version'} is not one that trapeze knows (from {KNOWN} on, before {NEXT})"
    return what, f"pip install {WANTED}"


def _check_option(name: str, value: Any) -> list[Problem]:
    field = f"options.{name}"
    if name in OWNED:
        return [Problem(field, f"granian's {name} has no place here: {OWNED[name]}")]
    if name in NUMBERS:
        right = type(value) is int and value >= NUMBERS[name]
        return [] if right else [Problem(field, f"expected a number from {NUMBERS[name]} on, got {value!r}")]
    if name in CHOICES:
        right = any(type(value) is type(choice) and value == choice for choice in CHOICES[name])
        known = ", ".join(str(choice).lower() for choice in CHOICES[name])
        return [] if right else [Problem(field, f"{value!r} is none of {known}")]
    if name in TABLES:
        return _check_table(field, value, TABLES[name])
    if name in TLS:
        return []
    return [_unknown(field, name, [*NUMBERS, *CHOICES, *TABLES, *TLS])]


def _check_table(field: str, value: Any, known: tuple[str, ...]) -> list[Problem]:
    if not isinstance(value, dict):
        return [Problem(field, f"expected a table with some of {', '.join(known)}, got {value!r}")]
    return [_unknown(f"{field}.{key}", key, list(known)) for key in value if key not in known]


def _unknown(field: str, name: str, known: list[str]) -> Problem:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return Problem(field, "granian has no such setting", f"did you mean {close[0]!r}?" if close else "")


backend = GranianBackend
