"""wrk: its script, its command line, and what it says. Pure, apart from looking for it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence

from trapeze_bench.loadresult import LEVELS, Found
from trapeze_bench.requestlist import Asked

__all__ = ["command", "find", "read", "script", "version"]

MARK = "trapeze-bench: "
TIMEOUT = 10
"""Seconds until a request counts as lost. wrk counts those that are answered later; the others it does not know."""

DONE = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '%s{"micros":%%d,"requests":%%d,"connect":%%d,"read":%%d,"write":%%d,"status":%%d,"timeout":%%d,' ..
    '"latencies":[%s,%%.3f]}\\n',
    summary.duration, summary.requests, e.connect, e.read, e.write, e.status, e.timeout,
    %s, latency.max / 1000))
end
"""


def find() -> str | None:
    """Where it is; None if it is not installed."""
    return shutil.which("wrk")


def version(program: str) -> str:
    """As "4.1.0"; empty if it does not say."""
    done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return found[0] if found else ""


def script(asked: Sequence[Asked]) -> str:
    """The script in Lua: what is asked for, in turn, and figures that wrk itself would not print.

    With a single request wrk makes it once and does not call back: that is the faster way.
    """
    first = asked[0]
    lines = [f"wrk.method = {_text(first.method)}", f"wrk.path = {_text(first.path)}"]
    lines += ['wrk.headers["Host"] = "localhost"']
    if len(asked) == 1:
        lines += [f"wrk.headers[{_text(name)}] = {_text(value)}" for name, value in first.fields.items()]
        lines += [f"wrk.body = {_text(first.body)}"] if first.body else []
    else:
        lines += ["made, turn, threads = {}, 0, 0"]  # global: `setup` sets them from outside
        lines += ["function setup(thread) thread:set('turn', threads); threads = threads + 1 end"]
        lines += ["function init(args)"]
        for number, each in enumerate(asked, 1):
            fields = ", ".join(f"[{_text(name)}] = {_text(value)}" for name, value in each.fields.items())
            body = _text(each.body) if each.body else "nil"
            words = f"{_text(each.method)}, {_text(each.path)}, {{{fields}}}, {body}"
            lines += [f"  made[{number}] = wrk.format({words})"]
        lines += ["end", f"function request() turn = turn % {len(asked)} + 1; return made[turn] end"]
    percentiles = ", ".join(f"latency:percentile({level}) / 1000" for level in LEVELS.values())
    formats = ",".join("%.3f" for _ in LEVELS)
    return "\n".join(lines) + "\n" + DONE % (MARK, formats, percentiles)


def _text(value: str | bytes) -> str:
    """A string of Lua, whatever is in it."""
    data = value.encode() if isinstance(value, str) else value
    return (
        '"' + "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03d}" for byte in data) + '"'
    )


def command(program: str, path: str, port: int, connections: int, seconds: float, threads: int = 1) -> list[str]:
    """The command line. wrk knows whole seconds only.

    Args:
        program: where wrk is.
        path: of the script.
        port: of 127.0.0.1.
        connections: in all.
        seconds: rounded, at least 1.
        threads: of wrk, no more than connections.
    """
    threads = min(threads, connections)
    words = [f"-t{threads}", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "--timeout", f"{TIMEOUT}s", "-s", path]
    return [program, *words, f"http://127.0.0.1:{port}/"]


def read(text: str) -> Found:
    """What the script has printed.

    Raises:
        ValueError: it has not.
    """
    line = next((line for line in text.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise ValueError(f"wrk says: {text.strip() or 'nothing'}")
    found = json.loads(line.removeprefix(MARK))
    errors = {kind: found[kind] for kind in ("connect", "read", "write", "timeout", "status") if found[kind]}
    latencies = dict(zip([*LEVELS, "max"], found["latencies"], strict=True))
    return Found(1e6 * found["requests"] / found["micros"], latencies, errors, found["requests"])
