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


def check_worker(service: Service) -> None:
    """Add what is wrong with the fields of one web app's workers."""
    spec = service.spec
    if isinstance(spec.health, str) and not spec.health.startswith("/"):
        service.wrong("health", f"expected a path, got {got(spec.health)}", 'as in "/healthz"')
    for field in ("warm", "after_fork"):
        value = getattr(spec, field)
        if value is not None and not _FUNCTION.fullmatch(value):
            service.wrong(field, f"expected module:function, got {got(value)}", 'as in "shop.db:reconnect"')
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
    if spec.warm is not None and spec.preload is False:
        service.wrong("warm", "goes with preload", "leave one of them out")
