"""Patching the standard library for green threads, before the app is imported."""

from __future__ import annotations

__all__ = ["patch_eventlet"]


def patch_eventlet() -> None:
    """Patch for eventlet, without the page of advice that its import prints in each worker."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import eventlet
    eventlet.monkey_patch()
