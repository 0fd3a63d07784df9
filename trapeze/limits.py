"""Signals and resource limits by name."""

from __future__ import annotations

import resource
import signal

from trapeze.spec import ServiceSpec

__all__ = [
    "INFINITY",
    "limit_names",
    "parse_rlimit",
    "parse_signal",
    "parse_size",
    "rlimit_pairs",
    "signal_name",
    "stop_signum",
]

INFINITY = -1
_LARGEST = 2**63 - 1
_NO_STOP = frozenset({signal.SIGSTOP, signal.SIGCONT, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""Signals that cannot make a process leave."""


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(value: int | str) -> int:
    """A size in bytes: 536870912, "512M", "1.5G" (powers of 1024; "MB" and "MiB" are the same as "M").

    ValueError with a reason.
    """
    if isinstance(value, int):
        if value < 1:
            raise ValueError("a size is at least 1 byte")
        return value
    text = value.strip().upper().removesuffix("B").removesuffix("I")
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "")
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError(f'expected a number of bytes or "512M", got "{value}"') from None
    if size < 1:
        raise ValueError("a size is at least 1 byte")
    return size


def limit_names() -> dict[str, int]:
    """`nofile`, `core`, ... to the numbers of this system."""
    return {name[7:].lower(): getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}


def parse_rlimit(value: int | str) -> tuple[int, int]:
    """A limit as (soft, hard), INFINITY for none: 1024, "unlimited", "1024:65536", "1024:unlimited".

    ValueError with a reason.
    """
    if isinstance(value, int):
        return _number(value), _number(value)
    soft_text, colon, hard_text = value.partition(":")
    soft = _limit(soft_text)
    hard = _limit(hard_text) if colon else soft
    if hard != INFINITY and (soft == INFINITY or soft > hard):
        raise ValueError(f"the soft limit {soft_text.strip()} is above the hard limit {hard_text.strip()}")
    return soft, hard


def _limit(text: str) -> int:
    text = text.strip()
    if text in ("unlimited", "infinity"):
        return INFINITY
    if not (text.isascii() and text.isdecimal()):
        raise ValueError('expected a number, "unlimited" or "soft:hard"')
    return _number(int(text) if len(text) < 20 else _LARGEST + 1)


def _number(value: int) -> int:
    if value < 0:
        raise ValueError('a limit is not negative; for none write "unlimited"')
    if value > _LARGEST:
        raise ValueError('the limit is too large; for none write "unlimited"')
    return value


def rlimit_pairs(spec: ServiceSpec) -> dict[str, tuple[int, int]]:
    """The limits of a service that was checked, as {"nofile": (1024, 65536)}; -1 is no limit."""
    return {name: parse_rlimit(value) for name, value in spec.rlimits.items()}


def parse_signal(text: str) -> int:
    """ "TERM", "SIGTERM", "term", "15" or "RTMIN+3" to the number. ValueError with a reason."""
    word = text.strip().upper()
    name = word if word.startswith("SIG") else "SIG" + word
    if word.isascii() and word.isdecimal():
        number = int(word) if len(word) < 4 else 0
    elif name in signal.Signals.__members__:
        number = int(signal.Signals[name])
    elif name.startswith("SIGRTMIN+") and name[9:].isdecimal() and len(name) < 13:
        number = signal.SIGRTMIN + int(name[9:])
    else:
        raise ValueError("there is no such signal")
    if number not in signal.valid_signals():
        raise ValueError("there is no such signal")
    return number


def signal_name(number: int) -> str:
    """Return the name of a signal as kill(1) and setpriv(1) know it: "TERM", "RTMIN+3"."""
    if number >= signal.SIGRTMIN:
        return f"RTMIN+{number - signal.SIGRTMIN}"
    return signal.Signals(number).name.removeprefix("SIG")


def stop_signum(spec: ServiceSpec) -> int:
    """Number of the stop signal. ValueError for one that does not exist or stops nothing."""
    number = parse_signal(spec.stop_signal)
    if number in _NO_STOP:
        raise ValueError("this signal does not end a process")
    return number
