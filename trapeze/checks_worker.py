"""Checks of what a worker of a web app does beside serving: health, preloading, recycling."""

from __future__ import annotations

import re

from trapeze.checks_process import Service
from trapeze.limits import parse_size
from trapeze.problems import got

__all__ = ["SLOWEST_BEAT", "check_worker"]

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
SLOWEST_BEAT = 2.0
"""Seconds after which a worker that is well has beaten: the loops of gunicorn's classes go round once a second."""
_FUNCTION = re.compile(rf"{_DOTTED}:{_DOTTED}")


def _is_peer(entry: str) -> bool:
    if entry in ("unix", "*"):
        return True
    from ipaddress import ip_network

    try:
        ip_network(entry, strict=False)
    except ValueError:
        return False
    return True


def check_worker(service: Service) -> None:
    """Add what is wrong with the fields of one web app's workers."""
    spec = service.spec
    if isinstance(spec.health, str) and not spec.health.startswith("/"):
        service.wrong("health", f"expected a path, got {got(spec.health)}", 'as in "/healthz"')
    for field in ("warm", "after_fork"):
        value = getattr(spec, field)
        if value is not None and not _FUNCTION.fullmatch(value):
            service.wrong(field, f"expected module:function, got {got(value)}", 'as in "shop.db:reconnect"')
    _limits(service)
    for entry in spec.trusted_proxies or ():
        if not _is_peer(entry):
            hint = 'an address, a network as "10.0.0.0/8", "unix", or "*"'
            service.wrong("trusted_proxies", f"{got(entry)} names no proxy", hint)
    if spec.python is not None and spec.venv is not None:
        service.wrong("python", "goes without venv, which has a Python of its own", "leave one of them out")
    if spec.warm is not None and spec.preload is False:
        service.wrong("warm", "goes with preload", "leave one of them out")


def _limits(service: Service) -> None:
    """Recycling and hung workers."""
    spec = service.spec
    if spec.max_rss is not None:
        try:
            parse_size(spec.max_rss)
        except ValueError as error:
            service.wrong("max_rss", str(error))
    if 0 < spec.heartbeat_timeout < SLOWEST_BEAT:
        reason = f"expected 0 or at least {SLOWEST_BEAT:g}, got {spec.heartbeat_timeout:g}"
        service.wrong("heartbeat_timeout", reason, "servers that are well beat about once a second")
    if spec.max_requests_jitter is not None and not spec.max_requests:
        service.wrong("max_requests_jitter", "goes with max_requests", "set max_requests too")
