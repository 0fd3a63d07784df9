"""A web service whose code and configuration change while it runs."""

from __future__ import annotations

from tests.support.server import Listener, Trapeze
from tests.support.site import Site
from tests.support.wait import until

__all__ = ["APP", "BROKEN", "Shop"]

APP = """
def app(environ, start_response):
    import os
    body = {body}.encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

BROKEN = """
def connect():
    raise RuntimeError("no database configured")

connect()
"""


class Shop:
    """A web service whose code and configuration change."""

    def __init__(self, site: Site, more: str = "", *, web: str = "", sockets: str = "", workers: int = 2) -> None:
        self.site = site
        self.listener: Listener = site.tcp()
        self.code("'one'")
        self.server: Trapeze = site.up(
            self.text(more, web=web, sockets=sockets, workers=workers), listeners=[self.listener]
        ).ready()

    def text(self, more: str = "", *, web: str = "", sockets: str = "", workers: int = 2) -> str:
        return f"""
            [sockets.web]
            bind = "{self.listener.bind}"
            {sockets}
            [services.web]
            app = "shop"
            workers = {workers}
            {web}
            {more}
            """

    def configure(self, *args: str, **options: str | int) -> None:
        self.site.write("trapeze.toml", self.text(*args, **options))  # type: ignore[arg-type]

    def code(self, body: str) -> None:
        self.site.write("shop.py", APP.replace("{body}", body))

    def alone(self) -> None:
        """Wait until the old generation has gone: one that was asked to leave may still have accepted something."""

        def gone() -> bool:
            web = self.server.service()
            return all(process["generation"] == web["generation"] for process in web["processes"])

        until(gone, what="the old generation to go")

    def get(self) -> str:
        return self.listener.get("/").text
