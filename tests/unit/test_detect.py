"""WSGI or ASGI: every kind of object that is seen in the wild."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, import-untyped"

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from trapeze_backends.detect import detect


async def asgi(scope, receive, send): ...
def wsgi(environ, start_response): ...
def generator(environ, start_response):
    yield b""


def with_default(environ, start_response, extra=None): ...
def asgi2(scope): ...
def sync_returning_coroutine(scope, receive, send):
    return asgi(scope, receive, send)


def create_app(): ...
def create_app_with_config(config=None): ...
async def create_async(): ...
async def rsgi(scope, protocol): ...


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def bare(function: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Asgi:
    async def __call__(self, scope, receive, send): ...

    async def method(self, scope, receive, send): ...


class AsgiStar:
    async def __call__(self, *args, **kwargs): ...


class AsgiSyncCall:
    def __call__(self, scope, receive, send):
        return asgi(scope, receive, send)


class Asgi2:
    def __init__(self, scope): ...

    async def __call__(self, receive, send): ...


class Asgi2With:
    def __init__(self, scope, extra=None): ...

    async def __call__(self, receive, send): ...


class Asgi3Await:
    def __init__(self, scope, receive, send): ...

    def __await__(self):
        yield


class WsgiClass:
    def __init__(self, environ, start_response): ...

    def __iter__(self):
        yield b""


class Wsgi:
    def __call__(self, environ, start_response): ...

    def method(self, environ, start_response): ...


class Application:
    def __init__(self): ...

    async def __call__(self, scope, receive, send): ...


class Rsgi:
    def __rsgi__(self, scope, protocol): ...


class Hinted:
    _asgi_single_callable = True

    def __call__(self, *args): ...


class HintedDouble:
    _asgi_double_callable = True

    def __call__(self, *args): ...


SPECIMENS: list[tuple[str, Any, str]] = [
    ("async function", asgi, "asgi3"),
    ("partial of it", functools.partial(asgi), "asgi3"),
    ("partial of partial", functools.partial(functools.partial(asgi)), "asgi3"),
    ("instance with async __call__", Asgi(), "asgi3"),
    ("partial of that instance", functools.partial(Asgi()), "asgi3"),
    ("instance with async __call__(*args)", AsgiStar(), "asgi3"),
    ("bound async method", Asgi().method, "asgi3"),
    ("ASGI2 class", Asgi2, "asgi2"),
    ("ASGI2 function", asgi2, "asgi2"),
    ("partial of ASGI2 class", functools.partial(Asgi2With, extra=1), "asgi2"),
    ("ASGI3 class with __await__", Asgi3Await, "asgi3"),
    ("decorated with wraps", wrapped(asgi), "asgi3"),
    ("decorated without wraps", bare(asgi), "unknown"),
    ("plain function that returns a coroutine", sync_returning_coroutine, "asgi3"),
    ("instance, plain __call__ returning a coroutine", AsgiSyncCall(), "asgi3"),
    ("lambda of three", lambda s, r, t: asgi(s, r, t), "asgi3"),
    ("asgiref's hint", Hinted(), "asgi3"),
    ("asgiref's other hint", HintedDouble(), "asgi2"),
    ("WSGI function", wsgi, "wsgi"),
    ("lambda of two", lambda e, s: wsgi(e, s), "wsgi"),
    ("WSGI generator", generator, "wsgi"),
    ("WSGI with a default", with_default, "wsgi"),
    ("partial with a keyword", functools.partial(with_default, extra=1), "wsgi"),
    ("WSGI decorated with wraps", wrapped(wsgi), "wsgi"),
    ("WSGI class", WsgiClass, "wsgi"),
    ("WSGI instance", Wsgi(), "wsgi"),
    ("WSGI bound method", Wsgi().method, "wsgi"),
    ("factory", create_app, "factory"),
    ("factory with optional config", create_app_with_config, "factory"),
    ("async factory", create_async, "factory"),
    ("class to be made", Application, "factory"),
    ("RSGI object", Rsgi(), "rsgi"),
    ("RSGI function", rsgi, "rsgi"),
    ("Mock", Mock(), "unknown"),
    ("a module's name", "shop.wsgi", "unknown"),
    ("None", None, "unknown"),
]


@pytest.mark.parametrize(("app", "kind"), [s[1:] for s in SPECIMENS], ids=[s[0] for s in SPECIMENS])
def test_specimen(app: Any, kind: str) -> None:
    assert detect(app) == kind


def flask() -> Any:
    from flask import Flask

    return Flask("shop")


def flask_middleware() -> Any:
    from werkzeug.middleware.proxy_fix import ProxyFix

    app = flask()
    app.wsgi_app = ProxyFix(app.wsgi_app)
    return app.wsgi_app


def quart() -> Any:
    from quart import Quart

    return Quart("shop")


def starlette() -> Any:
    from starlette.applications import Starlette

    return Starlette()


def fastapi() -> Any:
    from fastapi import FastAPI

    return FastAPI()


def django_wsgi() -> Any:
    from django.core.handlers.wsgi import WSGIHandler

    return WSGIHandler.__new__(WSGIHandler)


def django_asgi() -> Any:
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler.__new__(ASGIHandler)


def django_function() -> Any:
    from django.core.asgi import get_asgi_application

    return get_asgi_application


def wsgi_to_asgi() -> Any:
    from asgiref.wsgi import WsgiToAsgi

    return WsgiToAsgi(wsgi)


def proxy_headers() -> Any:
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    return ProxyHeadersMiddleware(asgi)


def marked() -> Any:
    from asgiref.sync import markcoroutinefunction

    @markcoroutinefunction
    def middleware(scope, receive, send):
        return asgi(scope, receive, send)

    return middleware


def aiohttp() -> Any:
    from aiohttp.web import Application

    return Application()


def tornado() -> Any:
    from tornado.web import Application

    class Shop(Application):
        """What people write."""

    return Shop([])


def tornado_router() -> Any:
    from tornado.routing import RuleRouter

    return RuleRouter([])


def aiohttp_function() -> Any:
    async def make() -> Any:
        return aiohttp()

    return make


FRAMEWORKS: list[tuple[Callable[[], Any], str]] = [
    (flask, "wsgi"),
    (lambda: flask().wsgi_app, "wsgi"),
    (flask_middleware, "wsgi"),
    (quart, "asgi3"),
    (lambda: quart().asgi_app, "asgi3"),
    (starlette, "asgi3"),
    (fastapi, "asgi3"),
    (django_wsgi, "wsgi"),
    (django_asgi, "asgi3"),
    (django_function, "factory"),
    (wsgi_to_asgi, "asgi3"),
    (proxy_headers, "asgi3"),
    (marked, "asgi3"),
    (aiohttp, "aiohttp"),
    (tornado, "tornado"),
    (tornado_router, "tornado"),
    (aiohttp_function, "factory"),
]


@pytest.mark.parametrize(("make", "kind"), FRAMEWORKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_framework(make: Callable[[], Any], kind: str) -> None:
    assert detect(make()) == kind


def test_looking_does_not_call() -> None:
    class Loud:
        def __call__(self, *args: Any) -> None:
            raise AssertionError("called")

    detect(Loud())
    detect(Loud)
