"""From a job to gunicorn's own Config: a conf.py, options, and the fields that mean the same for every backend."""

from __future__ import annotations

import os
import sys

from trapeze_backends.contract import Problem, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trapeze_backends.contract import Job

__all__ = ["CLASSES", "GREEN", "OWNED", "check_options", "interface_of", "last_line", "make_config", "what_it_lacks"]

_SUPERVISOR = "the supervisor does that"

OWNED = {
    "bind": "the sockets of the service are bound by the supervisor",
    "backlog": "it belongs to the socket",
    "workers": "use the field `workers`",
    "daemon": "the supervisor runs in the foreground",
    "pidfile": _SUPERVISOR,
    "user": "use the field `user`",
    "group": "use the field `group`",
    "umask": "use the field `umask`",
    "initgroups": "use the field `user`",
    "chdir": "use the fields `cwd` and `app_dir`",
    "reload": "use the field `reload`",
    "reload_engine": "use the field `reload`",
    "reload_extra_files": "use the field `reload`",
    "preload_app": "there is no gunicorn master process to load it",
    "timeout": "there is no gunicorn master process to enforce it",
    "graceful_timeout": "use the field `stop_timeout`",
    "reuse_port": "the sockets of the service are bound by the supervisor",
    "proc_name": _SUPERVISOR,
    "default_proc_name": _SUPERVISOR,
    "wsgi_app": "use the field `app`",
    "paste": "use the field `app`",
    "root_path": "use the field `root_path`",
    "check_config": "use `trapeze check`",
    "print_config": "use `trapeze config`",
    **dict.fromkeys(("control_socket", "control_socket_mode", "control_socket_disable"), "there is no gunicorn master"),
}
"""Settings that belong to the supervisor, each with the reason."""

MASTER_HOOKS = frozenset(
    ["on_starting", "on_reload", "when_ready", "pre_fork", "pre_exec", "child_exit", "nworkers_changed", "on_exit"]
)
"""Hooks that only a gunicorn master process calls."""

FIELDS = {
    "threads": "threads",
    "keepalive": "keepalive",
    "accesslog": "access_log",
    "forwarded_allow_ips": "trusted_proxies",
    "proxy_allow_ips": "trusted_proxies",
}
"""Settings that are fields with one meaning for every backend; either may be used, not both."""

CLASSES = {
    "sync": "wsgi",
    "gthread": "wsgi",
    "gevent": "wsgi",
    "gevent_pywsgi": "wsgi",
    "gevent_wsgi": "wsgi",
    "eventlet": "wsgi",
    "tornado": "wsgi",
    "asgi": "asgi",
}
"""Worker classes of gunicorn's own and what they speak; others are taken at their word."""

GREEN = {"gevent": "gevent", "gevent_pywsgi": "gevent", "gevent_wsgi": "gevent", "eventlet": "eventlet"}
"""Worker classes of green threads, and the package that they need."""

DEFAULT_THREADS = 4


def interface_of(worker_class: object) -> str | None:
    """Return what a worker class speaks, None when only it knows."""
    if not isinstance(worker_class, str):
        return None
    if "uvicorn" in worker_class.lower():
        return "asgi"
    return CLASSES.get(worker_class)


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text that says something, or its kind when there is none."""
    lines = [line.strip() for line in str(error).splitlines() if any(letter.isalpha() for letter in line)]
    return lines[-1] if lines else type(error).__name__


def check_options(job: Job) -> list[Problem]:
    """Return what is wrong with `options`; imports gunicorn's config only if there are any."""
    problems: list[Problem] = []
    options = dict(job.options)
    conf = options.pop("config", None)
    if conf is not None:
        problems += _check_file(conf)
    worker_class = options.get("worker_class", "asgi" if job.interface == "asgi" else None)
    problems += _check_class(worker_class, job)
    if job.threads is not None and worker_class not in (None, "gthread", "sync"):
        problems.append(Problem("threads", f"gunicorn's {worker_class} workers have no threads", "leave it out"))
    for setting, field in FIELDS.items():
        if setting in options and getattr(job, field) not in (None, False):
            problems.append(Problem(f"options.{setting}", f"set twice: it is the same as the field `{field}`"))
    if options:
        problems += _check_values(options)
    return problems


def _check_file(conf: object) -> list[Problem]:
    if not isinstance(conf, str):
        return [Problem("options.config", "must be the name of a file")]
    path = conf.removeprefix("file:")
    if conf.startswith("python:"):
        return []
    try:
        with open(path, "rb") as file:
            compile(file.read(), path, "exec", dont_inherit=True)
    except OSError as error:
        return [Problem("options.config", f"cannot read {path}: {error.strerror}")]
    except (SyntaxError, ValueError) as error:
        return [Problem("options.config", f"{path}: {error}")]
    return []


def _check_class(name: object, job: Job) -> list[Problem]:
    if name is None:
        return []
    problems = []
    speaks = interface_of(name)
    if speaks and job.interface not in ("auto", speaks):
        problems.append(
            Problem(
                "options.worker_class",
                f"{name} workers serve {speaks.upper()} apps, not {job.interface.upper()}",
                'use "asgi"' if job.interface == "asgi" else 'use "gthread"',
            )
        )
    if isinstance(name, str) and "worker_class" in job.options and (lacking := what_it_lacks(name)):
        problems.append(Problem("options.worker_class", *lacking))
    return problems


def what_it_lacks(name: str) -> tuple[str, str] | None:
    """Return why this gunicorn cannot load its worker class *name*, and a hint, as far as that is seen from outside.

    The class itself is not imported: gevent and eventlet have to patch first.
    """
    from trapeze_backends.installed import is_installed, version_of

    if not _has_class(name):
        from difflib import get_close_matches

        close = get_close_matches(name, [each for each in _supported() if each != name], n=1)
        hint = f'did you mean "{close[0]}"?' if close and name not in CLASSES else "use another class"
        return f"gunicorn {version_of('gunicorn')} has no worker class {name!r}", hint
    package = GREEN.get(name) or ("tornado" if name == "tornado" else "")
    if package and not is_installed(package):
        return f"{package} is not installed in {sys.prefix}", f"pip install {package}"
    if package == "gevent" and _mentions_packaging() and not is_installed("packaging"):
        return f"gunicorn's gevent workers need packaging, which is not installed in {sys.prefix}", (
            "pip install packaging"
        )
    return None


def _has_class(name: str) -> bool:
    """Is it known to gunicorn by this name? A dotted path and an egg's are somebody else's, and not looked at."""
    plain = name.lstrip("#")
    if "." in name or name.startswith("egg:") or plain in _supported():
        return True
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        points = distribution("gunicorn").entry_points
    except PackageNotFoundError:
        return True  # it has no metadata: not for us to say
    return any(point.group == "gunicorn.workers" and point.name == plain for point in points)


def _supported() -> list[str]:
    from gunicorn.workers import SUPPORTED_WORKERS

    return list(SUPPORTED_WORKERS)


def _mentions_packaging() -> bool:
    """Does the module of the gevent classes import it? Some versions of gunicorn do, and none depends on it."""
    import gunicorn.workers

    try:
        with open(os.path.join(os.path.dirname(gunicorn.workers.__file__), "ggevent.py"), "rb") as file:
            return b"from packaging" in file.read()
    except OSError:
        return False


def _check_values(options: dict[str, Any]) -> list[Problem]:
    from gunicorn.config import Config

    config = Config()
    problems = []
    for name, value in options.items():
        if name in OWNED:
            problems.append(Problem(f"options.{name}", f"gunicorn's {name} has no place here: {OWNED[name]}"))
        elif name in MASTER_HOOKS:
            problems.append(Problem(f"options.{name}", "only a gunicorn master process calls it, and there is none"))
        elif name not in config.settings:
            problems.append(Problem(f"options.{name}", "gunicorn has no such setting", _similar(name, config.settings)))
        else:
            problem = _set(config, name, value)
            if problem:
                problems.append(Problem(f"options.{name}", problem))
    return problems


def _set(config: Any, name: str, value: object) -> str:
    """Set one value; returns what gunicorn has against it."""
    try:
        config.set(name, value)
    except Exception as error:  # its validators raise ValueError, TypeError, AttributeError, ConfigError...
        return f"{value!r}: {error}"
    return ""


def _similar(name: str, names: Any) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def make_config(job: Job) -> Any:
    """Return gunicorn's Config: its defaults, then the conf.py, then options, then the fields of the service.

    Raises:
        StartError: the conf.py fails, or a value is not accepted.
    """
    from gunicorn.config import Config

    config = Config()
    options = dict(job.options)
    said = _load_file(config, options.pop("config", None), job)
    for name, value in options.items():
        _must_set(config, name, value, f"options.{name}")
        said.add(name)
    if "worker_class" not in said and job.interface == "asgi":
        config.set("worker_class", "asgi")
    _apply_fields(config, job, said)
    config.trapeze_trusts = _trusted(config, said)
    for name, value in config.env.items():  # gunicorn does it in each worker, but before the app is imported
        os.environ[name] = value
    return config


def _apply_fields(config: Any, job: Job, said: set[str]) -> None:
    """The fields with one meaning everywhere."""
    if job.threads is not None:
        config.set("threads", job.threads)
        said.add("threads")
    if job.keepalive is not None:
        config.set("keepalive", max(int(job.keepalive + 0.5), 0))
    if "secure_scheme_headers" not in said:
        config.set("secure_scheme_headers", {})  # `proxied` does it for every server alike; here any Unix peer would do
    if job.trusted_proxies is not None:
        # What is left to gunicorn (SCRIPT_NAME from a proxy, the PROXY protocol) goes by the same list.
        peers = ",".join(peer for peer in job.trusted_proxies if peer != "unix")
        for setting in ("forwarded_allow_ips", "proxy_allow_ips"):
            config.set(setting, peers)
        said.discard("forwarded_allow_ips")
        _check_unix_peers(config, job)
    config.set("workers", max(job.workers, 1))
    config.set("graceful_timeout", max(int(job.patience), 1))
    config.set("backlog", job.backlog)
    if "control_socket_disable" in config.settings:
        config.set("control_socket_disable", True)
    name = config.settings["worker_class"].get()
    if "worker_class" not in said and name == "sync":
        name = "gthread"
        config.set("worker_class", name)
    if name == "gthread" and "threads" not in said:
        config.set("threads", DEFAULT_THREADS)


def _check_unix_peers(config: Any, job: Job) -> None:
    unix = any(listener.address.startswith("unix:") for listener in job.listeners)
    if unix and config.proxy_protocol not in (False, "off") and not {"unix", "*"} & set(job.trusted_proxies or ()):
        reason = "gunicorn believes it of everybody behind a Unix socket, trusted_proxies of nobody"
        raise StartError(f"options.proxy_protocol: {reason}", hint='add "unix" to trusted_proxies, or use TCP')


def _trusted(config: Any, said: set[str]) -> list[str] | None:
    """Whom gunicorn's own settings trust, if anybody has set them. A Unix peer always counts there."""
    if "forwarded_allow_ips" not in said and "FORWARDED_ALLOW_IPS" not in os.environ:
        return None
    return [*config.forwarded_allow_ips, "unix"]


def _must_set(config: Any, name: str, value: object, where: str) -> None:
    problem = _set(config, name, value)
    if problem:
        raise StartError(f"{where}: {problem}")


def _load_file(config: Any, conf: str | None, job: Job) -> set[str]:
    """Run a conf.py; what the supervisor owns is left out with one line on stderr. Returns the names it set."""
    if not conf:
        return set()
    said, ignored = set(), []
    for name, value in _run_file(conf).items():
        if name not in config.settings:
            continue
        if name in OWNED or name in MASTER_HOOKS:
            ignored.append(name)
            continue
        _must_set(config, name.lower(), value, f"{conf}: {name}")
        said.add(name)
    if ignored and job.index == 0:
        print(
            f"{conf}: ignored, they belong to the supervisor: {', '.join(sorted(ignored))}", file=sys.stderr, flush=True
        )
    return said


def _run_file(conf: str) -> dict[str, Any]:
    from trapeze_backends.loading import run_user_code

    if conf.startswith("python:"):
        name = conf.removeprefix("python:")

        def imported() -> dict[str, Any]:
            __import__(name)
            return vars(sys.modules[name])

        return dict(run_user_code(f"importing {name} failed", imported))
    path = conf.removeprefix("file:")
    names: dict[str, Any] = {"__file__": os.path.abspath(path), "__name__": "__config__"}

    def executed() -> dict[str, Any]:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec", dont_inherit=True), names)
        return names

    return run_user_code(f"{path} failed", executed)
