"""What uWSGI says while it starts, fifteen lines about itself, is kept until it serves; if it ends before, that is why.

It ends by exit(3), in the middle of a call: neither `finally` nor anything else of Python runs. So the C library is
asked to call us.
"""

from __future__ import annotations

import atexit
import os
from typing import Any

from trapeze_backends.contract import StartError
from trapeze_backends.worker import Worker

__all__ = ["Quiet", "reason_in"]

LINES = 12
"""The last so many lines are shown when it fails."""


class Quiet:
    """From now on stderr goes into memory."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._memory = os.memfd_create("uwsgi")
        self._stderr = os.dup(2)
        os.dup2(self._memory, 2)
        atexit.register(self._ended)
        self._held = _at_exit(self._ended)

    def over(self) -> str:
        """Give stderr back, and to it what is more than noise; returns all that was said."""
        if self._stderr < 0:
            return ""
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        self._stderr = -1
        said = os.pread(self._memory, os.fstat(self._memory).st_size, 0).decode("utf-8", "replace")
        os.close(self._memory)
        atexit.unregister(self._ended)
        for line in said.splitlines():
            if line.startswith("!!!"):
                os.write(2, f"{line}\n".encode())
        return said

    def _ended(self) -> None:
        """The process ends."""
        if self._stderr >= 0:
            said = self.over()
            tail = "".join(f"{line}\n" for line in said.splitlines()[-LINES:])
            self._worker.fail(StartError(f"uWSGI did not start: {reason_in(said)}", traceback=tail))


def reason_in(said: str) -> str:
    """Return the line that says why, of what uWSGI has said."""
    noise = ("!!!", "getopt_long() error", "uWSGI running as root", "*** ")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(noise)] or lines
    return lines[-1] if lines else "it said nothing"


def _at_exit(function: Any) -> Any:
    """Have C's exit() call `function`; returns what must be kept. Without libffi it is not called."""
    try:
        from _ctypes import FUNCFLAG_CDECL, CFuncPtr, _SimpleCData, addressof, call_function, dlopen, dlsym

        class Pointer(_SimpleCData):  # type: ignore[type-arg]
            """c_void_p, without the milliseconds that `ctypes` takes."""

            _type_ = "P"

        class Callback(CFuncPtr):
            """void (*)(void *)"""

            _flags_ = FUNCFLAG_CDECL
            _argtypes_ = (Pointer,)
            _restype_ = None

        held = Callback(lambda _: function())
        itself: Any = None
        address = Pointer.from_address(addressof(held)).value
        call_function(dlsym(dlopen(itself, 2), "__cxa_atexit"), (Pointer(address), None, None))
    except (ImportError, AttributeError, OSError, TypeError):
        return None
    return held
