"""Patching the standard library for green threads, before the app is imported."""

from __future__ import annotations

import sys

__all__ = ["is_patched", "patch_eventlet"]


def is_patched() -> bool:
    """Are threads green ones here, all on one event loop?"""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("thread"):
        return True
    eventlet = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))


def patch_eventlet() -> None:
    """Patch for eventlet, without the page of advice that its import prints in each worker."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import eventlet
    eventlet.monkey_patch()
