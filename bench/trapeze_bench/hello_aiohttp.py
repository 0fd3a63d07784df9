"""The app of `hello` for servers that serve apps of their own kind: aiohttp's."""

from __future__ import annotations

from aiohttp import web

from trapeze_bench import hello

__all__ = ["app"]


async def _answer(request: web.Request) -> web.Response:
    return web.Response(body=hello.BODY, content_type="text/plain")


app = web.Application()
app.router.add_get("/", _answer)
