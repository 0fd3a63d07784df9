"""From a job to uWSGI's command line, and what of `options` has no place there."""

from __future__ import annotations

import os
import signal
import sys

from trapeze_backends.contract import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from trapeze_backends.contract import Job

__all__ = ["THREADS", "check_options", "check_program", "find_program", "server_words", "version_said"]

THREADS = 4
DEFAULTS = {
    "socket-timeout": 10,  # seconds that it waits for a client in the middle of a request; 4 lose slow ones
    "chunked-input-timeout": 10,
    "chunked-input-limit": 16 * 2**20,  # of one chunk
    "buffer-size": 32768,  # for the head of a request; cookies alone come to more than 4096
}
"""Where its own defaults are too small."""

_MASTER = "there is no uWSGI master process"
_SOCKETS = "the sockets of the service are bound by the supervisor"
_SUPERVISOR = "the supervisor does that"
_LOG = "use the field `access_log`; whatever is written goes to stdout and stderr"
_APP = "use the fields `app` and `app_dir`"

ITS_OWN = ("UWSGI_ORIGINAL_PROC_NAME", "UWSGI_RELOADS")
"""What uWSGI itself puts into the environment of what it starts."""

OWNED: dict[str, tuple[str, ...]] = {
    _SOCKETS: (
        "socket", "protocol", "listen", "http", "https", "fastrouter", "rawrouter", "sslrouter", "forkptyrouter",
        "map-socket", "chmod", "chmod-socket", "chown-socket", "reuse-port", "freebind", "vacuum", "shutdown-sockets",
    ),
    "use the field `workers`": ("processes", "workers", "idle", "die-on-idle", "cheap"),
    "use the field `threads`": ("threads",),
    "threads are what it is served by": (
        "async", "gevent", "asyncio", "greenlet", "ugreen", "loop", "coroae", "tornado", "fiber", "thunder-lock",
    ),
    _MASTER: (
        "master", "timer", "rbtimer", "signal", "signal-timer", "signal-rbtimer", "farm", "stats", "stats-server",
        "master-fifo", "notify-socket", "snmp", "udp", "heartbeat", "propagate-touch", "lazy", "lazy-apps",
        "worker-exec", "worker-exec2", "reload-mercy", "worker-reload-mercy", "die-on-term", "exit-on-reload",
        "no-orphans", "check-interval", "forkbomb-delay", "ini", "xml", "xmlconfig", "yaml", "yml", "json", "js",
        "config", "inherit", "include", "zerg", "zerg-server", "zerg-fallback", "enable-metrics", "mules",
    ),
    "use the field `max_requests`": ("max-requests", "max-requests-delta", "min-worker-lifetime"),
    "use the field `max_age`": ("max-worker-lifetime", "max-worker-lifetime-delta"),
    "use the field `max_rss`": ("reload-on-as", "reload-on-rss", "evil-reload-on-as", "evil-reload-on-rss"),
    "use the field `request_timeout`": ("harakiri",),
    "use the field `watch`": ("py-autoreload", "py-auto-reload", "python-autoreload", "python-auto-reload"),
    "use the fields `user` and `group`": ("uid", "gid", "add-gid", "immediate-uid", "immediate-gid", "chroot"),
    "use the field `umask`": ("umask",),
    "use the field `nice`": ("prio",),
    "use the field `rlimits`": ("limit-as", "limit-nproc", "max-fd"),
    "use the field `cwd`": ("chdir", "chdir2", "force-cwd"),
    "use the field `env`": ("env", "envdir", "early-envdir", "unenv"),
    "use the field `venv`": ("virtualenv", "venv", "home", "pyhome"),
    "use the field `root_path`": ("mount", "manage-script-name"),
    _APP: (
        "module", "wsgi", "wsgi-file", "file", "callable", "eval", "paste", "paste-logger", "pyargv", "pythonpath",
        "python-path", "pp", "need-app", "worker-mount", "single-interpreter", "vhost", "vhost-host", "pymodule-alias",
    ),
    _LOG: ("logger", "req-logger", "logger-req", "logto", "logto2", "logformat", "logdate", "disable-logging"),
    _SUPERVISOR: (
        "daemonize", "daemonize2", "pidfile", "pidfile2", "safe-pidfile", "safe-pidfile2", "stop", "reload", "pause",
        "suspend", "resume", "auto-procname", "procname", "no-server", "enable-threads", "help", "version",
    ),
}  # fmt: skip
"""Why an option has no place here, and which those are."""

PREFIXES = {
    "emperor": _MASTER, "vassal": _MASTER, "spooler": _MASTER, "mule": _MASTER, "legion": _MASTER, "touch-": _MASTER,
    "cron": _MASTER, "unique-cron": _MASTER, "attach-": _MASTER, "smart-attach-": _MASTER, "subscri": _MASTER,
    "log-": _LOG, "cheaper": "use the field `workers`", "harakiri-": "use the field `request_timeout`",
    "procname-": _SUPERVISOR, "http-": _SOCKETS, "gevent-": "threads are what it is served by",
}  # fmt: skip


def server_words(job: Job, sockets: list[Any]) -> list[str]:
    """The command line, without the program and without what names the app."""
    plugins = _plugins(job.options)
    words = [*_option_words(plugins)]  # first: options that come with a plugin are unknown before it
    words += ["--need-app", "--single-interpreter", "--enable-threads", "--wsgi-disable-file-wrapper"]
    words += ["--disable-logging", "--threads", str(job.threads or THREADS), "--listen", str(job.backlog)]
    for name, value in DEFAULTS.items():
        if name not in job.options:
            words += [f"--{name}", str(value)]
    # Or a client that knows where an answer ends may ask again on a connection that is about to be closed.
    words += ["--add-header", "Connection: close"]
    for sock in sockets:
        words += ["--http-socket", f"fd://{sock.fileno()}"]
    for number in sorted({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, job.stop_signal}):
        # Given back to Python once uWSGI has set its own handlers. The function notes the signal, and writes to the
        # wakeup descriptor, as Python's own handler does.
        words += ["--hook-accepting", f"unix_signal:{int(number)} PyErr_SetInterruptEx"]
    if sys.prefix != sys.base_prefix:
        words += ["--virtualenv", sys.prefix]
    return [*words, *_option_words({name: value for name, value in job.options.items() if name not in plugins})]


def _option_words(options: dict[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if name == "binary-path" or value is False:  # which is for us
            continue
        for each in value if isinstance(value, list) else [value]:
            yield f"--{name}"
            if each is not True:
                yield str(each)


def check_options(job: Job, path: str) -> list[Problem]:
    """Return what has no place there, or is unknown. `path`: of the program; "" for pyuwsgi."""
    problems = []
    for name, value in job.options.items():
        if why := _why_not(name):
            problems.append(Problem(f"options.{name}", f"uWSGI's {name} has no place here: {why}"))
        elif isinstance(value, dict):
            problems.append(Problem(f"options.{name}", "expected text, a number, true, or a list of such"))
    own = [name for name in sorted(os.environ) if name.startswith("UWSGI_") and name not in ITS_OWN]
    if own and "uwsgi" not in sys.modules:
        reason = f"uWSGI would take {own[0]} of the environment for one of its options"
        problems.append(Problem("env", reason, "write it among the options, or unset it"))
    if job.options and job.mode == "check" and not problems:
        problems += _unknown(job.options, path)
    return problems


def _unknown(options: dict[str, Any], path: str) -> list[Problem]:
    """Only uWSGI knows its options: there are eight hundred, by version and plugins."""
    pyuwsgi = [sys.executable, "-c", "import pyuwsgi; pyuwsgi.run(['--help'])"]
    words = [path, *_option_words(_plugins(options)), "--help"] if path else pyuwsgi
    shown = output_of(words).replace("|", " ").split()  # "-b|--buffer-size"
    known = {word[2:] for word in shown if word.startswith("--")}
    if not known:
        return []
    from difflib import get_close_matches

    problems = []
    for name in options:
        if name not in known:
            close = get_close_matches(name, [each for each in known if not _why_not(each)], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "uwsgi --help shows them"
            problems.append(Problem(f"options.{name}", "uWSGI has no such option", hint))
    return problems


def _plugins(options: dict[str, Any]) -> dict[str, Any]:
    """Those options that say where its Python is: distributions make a plugin of it."""
    return {name: value for name, value in options.items() if name.startswith(("plugin", "need-plugin"))}


def output_of(words: list[str]) -> str:
    """What a program says in a few seconds; "" if it fails."""
    import subprocess

    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def version_said(path: str) -> str:
    """Version of the program."""
    return output_of([path, "--version"]).strip() if path else ""


def find_program() -> str:
    """Return the path of `uwsgi`: the one of this environment, or the first on the PATH; "" if there is none."""
    for directory in (os.path.join(sys.prefix, "bin"), *os.environ.get("PATH", os.defpath).split(os.pathsep)):
        path = os.path.join(directory, "uwsgi")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""


def check_program(job: Job, path: str) -> list[Problem]:
    """Return what is wrong with the program; looked at in a check only, it takes a moment."""
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        return [Problem("options.binary-path", f"{path}: there is no such program")]
    if job.mode != "check":
        return []
    said = output_of([path, *_option_words(_plugins(job.options)), "--python-version"]).strip()
    if not said:
        hint = 'a plugin, as distributions have it? options = { plugins = "python3" }'
        return [Problem("backend", f"{path} has no Python in it", hint)]
    if said.split(".")[:2] != [str(number) for number in sys.version_info[:2]]:
        ours = ".".join(map(str, sys.version_info[:2]))
        reason = f"{path} is made for Python {said}, and {sys.prefix} has {ours}"
        return [Problem("backend", reason, "pip install pyuwsgi, or 'trapeze-server[uwsgi]'")]
    return []


def _why_not(name: str) -> str:
    if name.endswith("-socket"):
        return _SOCKETS
    for why, names in OWNED.items():
        if name in names:
            return why
    return next((why for prefix, why in PREFIXES.items() if name.startswith(prefix)), "")
