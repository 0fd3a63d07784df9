"""The end of a worker: it does not take its interpreter apart, and leaves nothing undone that would have been done."""

from __future__ import annotations

import pytest

from tests.support.site import Site

APP = """
import atexit, io, os, threading, time

class Proxy:
    "One of those that answer for somebody else, and not outside of a request."
    @property
    def __class__(self):
        raise RuntimeError("working outside of request context")

early = open("early", "a")      # of the import: frozen with it, where the worker is forked
proxy = Proxy()
parts = []
atexit.register(lambda: open("atexit", "a").write("ran\\n") and None)

class Packed(io.RawIOBase):
    "Writes at its end, and cannot do it twice."
    def flush(self):
        raise OSError("the disk is gone")

def last_words():
    threading.main_thread().join(0.1)
    with open("thread", "a") as file:
        file.write("ended\\n")

def wsgi(environ, start_response):
    if not parts:
        parts.extend([open("late", "a"), Packed()])
        threading.Thread(target=last_words).start()
    early.write("asked\\n")
    parts[0].write("asked\\n")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.parametrize("preload", ["true", "false"])
def test_files_handlers_and_threads(site: Site, preload: str) -> None:
    site.write("shop.py", APP)
    listener = site.tcp()
    server = site.up(
        f"""
        [sockets.web]
        bind = "{listener.bind}"
        [services.web]
        app = "shop:wsgi"
        workers = 1
        preload = {preload}
        """,
        listeners=[listener],
    ).ready()
    assert server.get("/").status_code == 200
    assert [(site.directory / name).read_text() for name in ("early", "late")] == ["", ""], "nothing was flushed yet"
    assert server.stop() == 0
    said = {name: (site.directory / name).read_text() for name in ("early", "late", "atexit", "thread")}
    assert said == {"early": "asked\n", "late": "asked\n", "atexit": "ran\n", "thread": "ended\n"}
