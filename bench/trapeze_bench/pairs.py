"""The two backends that come with trapeze, and the same servers run natively, with the hello app."""

from __future__ import annotations

from collections.abc import Callable

from trapeze_bench.natives import NATIVES
from trapeze_bench.served import HELLO
from trapeze_bench.targets import WORKERS, Target, program

__all__ = ["NATIVE", "OURS", "PAIRS", "not_preloaded"]


def _trapeze(interface: str) -> Callable[[int], list[str]]:
    words = ["serve", HELLO[interface].app, "--workers", str(WORKERS), "--bind"]
    return lambda port: [*program("trapeze"), *words, f"127.0.0.1:{port}"]


def not_preloaded(target: Target) -> Target:
    """A start of ours whose workers import the app each for itself."""
    words = ["env", "TRAPEZE_SERVICES__WEB__PRELOAD=false"]
    return Target(f"{target.name}, not preloaded", lambda port: [*words, *target.argv(port)])


def _native(name: str, interface: str) -> Callable[[int], list[str]]:
    return lambda port: NATIVES[name].words(HELLO[interface], port)


OURS = {
    "gunicorn": Target("trapeze+gunicorn", _trapeze("wsgi")),
    "uvicorn": Target("trapeze+uvicorn", _trapeze("asgi")),
}
NATIVE = {
    "gunicorn": Target("gunicorn", _native("gunicorn-gthread", "wsgi")),
    "uvicorn": Target("uvicorn", _native("uvicorn", "asgi")),
}
PAIRS = [(backend, OURS[backend], NATIVE[backend]) for backend in OURS]
