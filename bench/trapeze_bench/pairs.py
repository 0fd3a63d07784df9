"""The two backends that come with trapeze, and the same servers run natively, with the hello app."""

from __future__ import annotations

from collections.abc import Callable

from trapeze_bench.natives import NATIVES
from trapeze_bench.served import HELLO
from trapeze_bench.targets import WORKERS, Target, program

__all__ = ["NATIVE", "OURS", "PAIRS"]


def _trapeze(interface: str) -> Callable[[int], list[str]]:
    words = ["serve", HELLO[interface].app, "--workers", str(WORKERS), "--bind"]
    return lambda port: [*program("trapeze"), *words, f"127.0.0.1:{port}"]


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
