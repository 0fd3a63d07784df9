"""Mode serve: from the job to a server that accepts, in two halves: what a zygote does once, what each worker does."""

from __future__ import annotations

import os
import socket
import sys
from socket import socket as Socket  # noqa: N812  (the plain class: what patches the module later leaves this name alone)

from trapeze_backends import registry
from trapeze_backends.contract import StartError
from trapeze_backends.detect import detect
from trapeze_backends.features import field_problems, is_program
from trapeze_backends.loading import call_factory, call_hook, failure, load, use_app_dir
from trapeze_backends.proxied import proxied, trusted_by
from trapeze_backends.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from trapeze_backends.contract import Backend, Job
    from trapeze_backends.notify import Notifier

__all__ = [
    "Loaded",
    "adopt",
    "begin",
    "choose_interface",
    "import_app",
    "load_app",
    "prepare_app",
    "prepared_backend",
    "run",
    "serve",
    "spelt",
]


class Loaded:
    """An app that has been imported, and what is to serve it."""

    __slots__ = ("app", "backend", "interface")

    def __init__(self, app: Any, interface: str, backend: Backend) -> None:
        self.app = app
        self.interface = interface
        self.backend = backend


def serve(job: Job, notifier: Notifier) -> None:
    """Import the app and run it on the inherited sockets; returns when the worker has drained.

    Raises:
        StartError: it cannot start.
    """
    sockets = adopt(job)
    run(job, notifier, import_app(job), sockets)


def import_app(job: Job) -> Loaded:
    """Import the app and make up our mind about what serves it; for a server that is a program, it stays None.

    Raises:
        StartError: there is no such app, or it fails, or nothing can serve it.
    """
    backend = begin(job)
    if backend is not None and is_program(backend):
        return Loaded(None, job.interface if job.interface != "auto" else min(backend.interfaces), backend)
    return load_app(job, backend)


def begin(job: Job) -> Backend | None:
    """Get this interpreter ready for the app, and the backend; None when only the app can tell which it is.

    Raises:
        StartError: the backend is not known or not installed, or cannot do what the job asks for.
    """
    # What Python does on SIGINT (a traceback from wherever it is) helps nobody here, until a server is in charge.
    import _signal

    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if sys.stdout is not None and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # a pipe: or what the app prints would show up much later
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    use_app_dir(job.app_dir)
    return prepared_backend(job)


def load_app(job: Job, backend: Backend | None) -> Loaded:
    """Import the app itself.

    Raises:
        StartError: there is no such app, or it fails, or this backend cannot serve it.
    """
    app, interface = choose_interface(load(job), job)
    if backend is None:
        job.backend = registry.auto(interface)
        backend = prepared_backend(job)
    assert backend is not None
    if interface not in backend.interfaces:
        served = " and ".join(spelt(each) for each in sorted(backend.interfaces))
        raise StartError(
            f"{job.app} is {_article(interface)} app and {backend.name} serves {served} only",
            hint=f'backend = "{registry.auto(interface)}" serves it',
        )
    return Loaded(app, interface, backend)


def run(job: Job, notifier: Notifier, loaded: Loaded, sockets: list[socket.socket] | None = None) -> None:
    """Serve what has been imported; returns when the worker has drained.

    Raises:
        StartError: it cannot start.
    """
    backend = loaded.backend
    if is_program(backend):
        from trapeze_backends.program import become

        become(job, notifier, backend, adopt(job) if sockets is None else sockets)
    app, sockets, worker = prepare_app(job, notifier, loaded, sockets)
    try:
        backend.run(app, sockets, worker)
        if worker.is_ready:
            # It may leave of its own accord (max_requests): said before, an exit 0 is no failure.
            worker.stop()
    except Exception as error:
        if worker.is_ready or isinstance(error, StartError):
            raise
        raise failure(f"{backend.name} failed", error) from None
    if not worker.is_ready and not worker.stopping:
        raise StartError(f"{backend.name} ended before it accepted connections")


def prepare_app(
    job: Job, notifier: Notifier, loaded: Loaded, sockets: list[socket.socket] | None = None
) -> tuple[Any, list[socket.socket], Worker]:
    """Return the app with all around it that the fields of the service ask for, its sockets, and the worker.

    Raises:
        StartError: `after_fork` failed, or the app is not healthy.
    """
    app, interface, backend = loaded.app, loaded.interface, loaded.backend
    job.backend = backend.name
    if sockets is None:
        sockets = adopt(job)
    worker = Worker(job, notifier, interface=interface, backend=backend.name, version=backend.version())
    worker.holds(sockets)
    worker.app = app
    if job.after_fork:
        call_hook("after_fork", job.after_fork, job.app_dir)
    if interface in ("wsgi", "asgi"):
        app = _wrapped(app, worker, trusted_by(job, backend))
    _listen(job, sockets, interface)
    return app, sockets, worker


def _wrapped(app: Any, worker: Worker, trusted: list[str]) -> Any:
    """What is done around every WSGI and ASGI app. For apps of one server that server's backend does it."""
    job, interface = worker.job, worker.interface
    if job.root_path:
        from trapeze_backends.mounted import mounted

        app = mounted(app, interface, job.root_path)
    if interface == "wsgi":
        worker.check_wsgi_health(app)
    if job.access_log:
        from trapeze_backends.accesslog import logged

        app = logged(app, interface)
    return proxied(worker.measure(app), interface, trusted, worker.waits)


def prepared_backend(job: Job) -> Backend | None:
    """Return the backend, told to prepare for the app; None when only the app can tell which it is.

    Raises:
        StartError: it is not known or not installed, or cannot do what the job asks for.
    """
    if job.backend == "auto":
        if job.interface == "auto":
            return None
        job.backend = registry.auto(job.interface)
    backend = registry.get(job.backend)
    problems = backend.check(job) or field_problems(backend, job)
    if problems:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StartError(f"{first.field}: {first.reason}{more}", hint=first.hint)
    backend.prepare(job)
    return backend


def choose_interface(app: Any, job: Job) -> tuple[Any, str]:
    """Return the app, made and wrapped as need be, and what it speaks: "wsgi", "asgi", "aiohttp" or "tornado".

    Raises:
        StartError: that cannot be told, or no backend speaks it.
    """
    kind = detect(app)
    if kind == "factory" and job.interface == "auto":
        if job.index == 0:
            text = f"{job.app} looks like a factory and is called; say so by factory = true"
            print(text, file=sys.stderr, flush=True)
        app = call_factory(app, job.app)
        kind = detect(app)
    if job.interface in ("wsgi", "asgi"):
        kind = "wsgi" if job.interface == "wsgi" else "asgi2" if kind == "asgi2" else "asgi3"
    elif job.interface != "auto" and kind != job.interface:
        raise _another(app, kind, job)
    if kind == "asgi2":
        return _single(app), "asgi"
    if kind in ("asgi3", "wsgi"):
        return app, kind[:4]
    if kind in ("aiohttp", "tornado"):
        return app, kind
    raise _cannot_tell(app, kind, job)


def _another(app: Any, kind: str, job: Job) -> StartError:
    hint = "does it make the app? factory = true" if kind == "factory" else 'interface = "auto" looks at it'
    return StartError(f"{job.app} is no {job.interface} app, it is {type(app).__name__}", hint=hint)


def _cannot_tell(app: Any, kind: str, job: Job) -> StartError:
    package = type(app).__module__.split(".")[0]
    if not callable(app):
        return StartError(
            f"{job.app} is no app: {type(app).__name__} cannot be called", hint='name the app itself: "module:object"'
        )
    if package == "twisted":
        return StartError(
            f"{job.app} is a {package} app, which speaks neither WSGI nor ASGI",
            hint=f"run it by {package}'s own server, as a command with {{fd:{job.service}}}",
        )
    if package in ("aiohttp", "tornado"):
        return StartError(
            f"{job.app} is {type(app).__name__} of {package}, and no app of it",
            hint="name the object of aiohttp.web.Application or tornado.web.Application",
        )
    if kind == "rsgi":
        return StartError(f"{job.app} is an RSGI app, which no backend here serves")
    return StartError(f"cannot tell whether {job.app} speaks WSGI or ASGI", hint='say it: interface = "wsgi" or "asgi"')


def _single(app: Any) -> Any:
    """An ASGI 2 app (scope) -> (receive, send) as ASGI 3."""

    async def asgi3(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    return asgi3


def spelt(interface: str) -> str:
    """Return the name of an interface as people write it."""
    return interface.upper() if interface in ("wsgi", "asgi") else interface


def _article(interface: str) -> str:
    return f"{'an' if interface[0] == 'a' else 'a'} {spelt(interface)}"


def _listen(job: Job, sockets: list[socket.socket], interface: str) -> None:
    """Sockets that are this worker's own are listened on from now on, all others are already. Servers for ASGI apps
    call listen() themselves, after the app's start-up."""
    for sock, listener in zip(sockets, job.listeners, strict=True):
        if interface in ("wsgi", "tornado") and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(listener.backlog)


def adopt(job: Job) -> list[socket.socket]:
    """Take over the listening sockets: family and protocol are read off each; the app's own children get none."""
    # The app may have set one while it was imported. It is for the app's own connections: our listeners would get it.
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)
    sockets = []
    for listener in job.listeners:
        sock = Socket(fileno=listener.fd)
        sock.set_inheritable(False)
        sockets.append(sock)
    socket.setdefaulttimeout(timeout)
    return sockets
