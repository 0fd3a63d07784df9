"""What counts as safe to fork after an import, and what does not: each in an interpreter of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parents[2] / "backends"

SCRIPT = """
import sys
sys.path.insert(0, {package!r})
from trapeze_backends import forkclean
before = forkclean.look()

exec(compile(open("app.py").read(), {directory!r} + "/app.py", "exec"))
found = forkclean.find(before, {directory!r})
import json, os
print(json.dumps([found.unsafe, found.warnings, found.reason]))
sys.stdout.flush()
os._exit(0)
"""


def judge(directory: Path, app: str) -> tuple[list[str], list[str], str]:
    """What is found after `app` has run: unsafe, warnings, the reason in one line."""
    (directory / "app.py").write_text(app)
    script = SCRIPT.format(package=str(BACKENDS), directory=str(directory))
    done = subprocess.run([sys.executable, "-c", script], cwd=directory, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    unsafe, warnings, reason = json.loads(done.stdout.splitlines()[-1])
    return unsafe, warnings, reason


CLEAN = {
    "nothing": "",
    "an executor that was not used": "from concurrent.futures import ThreadPoolExecutor as T; pool = T(4)",
    "a thread that has ended": """
import threading
for _ in range(20):
    t = threading.Thread(target=lambda: None); t.start(); t.join()
""",
    "a pool that was shut down": """
from concurrent.futures import ThreadPoolExecutor as T
with T(4) as pool: list(pool.map(str, range(100)))
""",
    "syslog": """
import logging.handlers, socket
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); server.bind("log")
handler = logging.handlers.SysLogHandler("log")
""",
    "a multiprocessing queue": "import multiprocessing as m; q = m.Queue(); e = m.Event()",
    "a socketpair": "import socket; pair = socket.socketpair()",
    "a socket that is not connected": "import socket; s = [socket.socket(), socket.socket(type=socket.SOCK_DGRAM)]",
    "a socket that was closed": """
import socket
server = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(server.getsockname())
c.close(); server.close()
""",
    "a log file": 'log = open("x.log", "a")',
    "a child that has ended": 'import subprocess; subprocess.run(["true"])',
    "numpy": """
import numpy
a = numpy.ones((400, 400)); assert (a @ a)[0, 0] == 400
""",
    "import grpc": "import grpc",
    "gevent": "from gevent import monkey; monkey.patch_all(); import gevent; gevent.sleep(0)",
    "eventlet": """
import warnings; warnings.simplefilter("ignore")
import eventlet; eventlet.monkey_patch(); eventlet.sleep(0)
""",
}


@pytest.mark.parametrize("what", CLEAN)
def test_safe(what: str, tmp_path: Path) -> None:
    if what in ("numpy", "import grpc"):
        pytest.importorskip("numpy" if what == "numpy" else "grpc")
    assert judge(tmp_path, CLEAN[what]) == ([], [], "")


UNSAFE = {
    "a thread": (
        """
import threading, time
def poll(): time.sleep(60)
threading.Thread(target=poll, name="poller", daemon=True).start()
""",
        "thread 'poller' (app.py)",
    ),
    "a thread of a class": (
        """
import threading, time
class Poller(threading.Thread):
    def run(self): time.sleep(60)
Poller(name="poller", daemon=True).start()
""",
        "thread 'poller' (app.py)",
    ),
    "a thread below threading": (
        """
import _thread, time
begun = _thread.allocate_lock(); begun.acquire()
def poll():
    begun.release()
    time.sleep(60)
_thread.start_new_thread(poll, ())
begun.acquire()
""",
        "thread (app.py)",
    ),
    "a pool that was used": (
        "from concurrent.futures import ThreadPoolExecutor as T; pool = T(1); pool.submit(int).result()",
        "thread 'ThreadPoolExecutor-0_0' (futures/thread.py)",
    ),
    "a timer": (
        "import threading; t = threading.Timer(60, int); t.daemon = True; t.name = 'again'; t.start()",
        "thread 'again' (",
    ),
    "a connection": (
        """
import socket
server = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(server.getsockname())
other, _ = server.accept(); server.close()
""",
        "connection to 127.0.0.1:",
    ),
    "a listener": ('import socket; s = socket.create_server(("127.0.0.1", 0))', "listens on 127.0.0.1:"),
    "an IPv6 listener": (
        'import socket; s = socket.create_server(("::1", 0), family=socket.AF_INET6)',
        "listens on [::1]:",
    ),
    "a connected datagram socket": (
        'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(("127.0.0.1", 8125))',
        "connection to 127.0.0.1:8125",
    ),
    "a Unix connection": (
        """
import socket
server = socket.socket(socket.AF_UNIX); server.bind("db.sock"); server.listen()
c = socket.socket(socket.AF_UNIX); c.connect("db.sock"); server.close()
""",
        "connection to unix:db.sock",
    ),
    "a Unix connection to an abstract name": (
        """
import os, socket
name = f"\\0db{os.getpid()}"
server = socket.socket(socket.AF_UNIX); server.bind(name); server.listen()
c = socket.socket(socket.AF_UNIX); c.connect(name); server.close()
""",
        "connection to unix:@db",
    ),
    "a Unix listener": (
        'import socket; s = socket.socket(socket.AF_UNIX); s.bind("x.sock"); s.listen()',
        "listens on unix:x.sock",
    ),
    "a child process": (
        'import subprocess; p = subprocess.Popen(["cat"], stdin=subprocess.PIPE)',
        "child process ",
    ),
    "a grpc channel": (
        """
import grpc
channel = grpc.insecure_channel("127.0.0.1:1"); channel.subscribe(lambda state: None, try_to_connect=True)
""",
        "thread",
    ),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_unsafe(what: str, tmp_path: Path) -> None:
    if "grpc" in what:
        pytest.importorskip("grpc")
    app, reason = UNSAFE[what]
    unsafe, _, line = judge(tmp_path, app)
    assert unsafe and unsafe[0].startswith(reason)
    assert line.startswith(reason)


def test_native_threads_are_named(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    unsafe = judge(tmp_path, UNSAFE["a grpc channel"][0])[0]
    assert any(text.startswith("native threads (") and "x " in text for text in unsafe), unsafe


@pytest.mark.parametrize(
    ("app", "warning"),
    [
        ("import asyncio; loop = asyncio.new_event_loop()", "an event loop (eventpoll)"),
        (
            "import sqlite3; c = sqlite3.connect('x.db'); c.execute('create table t (a)'); c.commit()",
            "an SQLite database (",
        ),
        ("import ctypes; fd = ctypes.CDLL(None).inotify_init1(0)", "a watch of files (inotify)"),
    ],
)
def test_doubtful(app: str, warning: str, tmp_path: Path) -> None:
    unsafe, warnings, _ = judge(tmp_path, app)
    assert unsafe == []
    assert len(warnings) == 1 and warnings[0].startswith(warning)


def test_more_threads_than_openblas_makes_are_unsafe(tmp_path: Path) -> None:
    """The allowance is for OpenBLAS's own; where it is not loaded there is none."""
    app = """
import ctypes
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
sleep = ctypes.cast(libc.sleep, ctypes.c_void_p)
assert libc.pthread_create(ctypes.byref(thread), None, sleep, ctypes.c_void_p(60)) == 0
"""
    unsafe = judge(tmp_path, app)[0]
    assert len(unsafe) == 1 and unsafe[0].startswith("native thread (python")
    pytest.importorskip("numpy")
    assert judge(tmp_path, f"import numpy\n{app * 20}")[0][0].startswith("native threads (python")


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    app = """
import threading, time
for number in range(8):
    threading.Thread(target=time.sleep, args=(60,), name=f"t{number}", daemon=True).start()
"""
    line = judge(tmp_path, app)[2]
    assert line.startswith("thread 't0'") and line.endswith("; and 3 more")
