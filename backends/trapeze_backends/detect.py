"""WSGI or ASGI, or an app of one server? Told by looking at the app, never by calling it and never by its name.

Sees through partials, bound methods, decorators (`__wrapped__`), classes and instances. Where nothing can be told, the
answer is "unknown" and the user is asked to say `interface`.
"""

from __future__ import annotations

import functools
import inspect
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal, NamedTuple

    Kind = Literal["asgi3", "asgi2", "wsgi", "rsgi", "aiohttp", "tornado", "factory", "unknown"]

    class Shape(NamedTuple):
        """What a callable can be called with."""

        required: int | None
        star: bool
        names: list[str]
        readable: bool

else:
    from collections import namedtuple

    Shape = namedtuple("Shape", "required star names readable")

__all__ = ["detect"]

FOREIGN = frozenset({"aiohttp", "tornado", "twisted", "unittest"})
"""Packages whose objects are callable, or look so, and speak neither."""

NATIVE = (("aiohttp", "aiohttp.web_app", "Application"), ("tornado", "tornado.routing", "Router"))
"""Interfaces of one server each: the module and the class of their apps. Who has made such an app has imported it."""


def detect(app: Any) -> Kind:
    """Return what `app` speaks."""
    if _flag(app, "_asgi_single_callable"):  # asgiref's own hints
        return "asgi3"
    if _flag(app, "_asgi_double_callable"):
        return "asgi2"
    for kind, module, name in NATIVE:
        cls = getattr(sys.modules.get(module), name, None)
        if cls is not None and isinstance(app, cls):
            return kind  # type: ignore[return-value]
    if not callable(app):
        return "rsgi" if hasattr(app, "__rsgi__") else "unknown"
    if type(app).__module__.split(".")[0] in FOREIGN:
        return "unknown"
    inner, shape = _unwrap(app), _shape(app)
    if inspect.isclass(inner):
        return _class(inner, shape)
    if _is_async(app, inner):
        return _async(shape)
    if hasattr(inner, "__rsgi__"):
        return "rsgi"
    return _sync(shape)


def _class(cls: type, shape: Shape) -> Kind:
    """A class: calling it makes an instance, so what the instance is tells."""
    if hasattr(cls, "__await__"):  # __init__(scope, receive, send)
        return "asgi3"
    if shape.required == 0 and not shape.star:
        return "factory"
    if _is_coroutine_function(getattr(cls, "__call__", None)):  # noqa: B004 (the attribute itself is looked at)
        return "asgi2" if shape.required == 1 or shape.names[:1] == ["scope"] else "unknown"
    if hasattr(cls, "__iter__") and shape.required in (2, None):  # __init__(environ, start_response)
        return "wsgi"
    return "unknown"


def _async(shape: Shape) -> Kind:
    if shape.readable and not shape.star:
        if len(shape.names) < 2:  # async def create_app()
            return "factory"
        if shape.required == 2:  # async def app(scope, protocol)
            return "rsgi"
    return "asgi3"


def _sync(shape: Shape) -> Kind:
    names = shape.names
    if not shape.readable:
        return "unknown"
    if shape.required == 0 and not shape.star and "environ" not in names:
        return "factory"
    if names[:1] in (["environ"], ["env"]):
        return "wsgi"
    if names[:1] == ["scope"]:
        return "asgi3" if len(names) >= 3 else "asgi2"
    if shape.required == 3:  # a plain function that returns an awaitable
        return "asgi3"
    return "wsgi" if shape.required == 2 else "unknown"


def _unwrap(thing: Any) -> Any:
    while isinstance(thing, (functools.partial, functools.partialmethod)):
        thing = thing.func
    return thing


def _is_coroutine_function(thing: Any) -> bool:
    thing = _unwrap(thing)
    if inspect.iscoroutinefunction(thing):
        return True
    # Before 3.12 only asyncio's function sees the marker that asgiref puts on sync callables (Django uses it); who
    # bears the marker has imported asyncio. From 3.14 on the function is deprecated.
    asyncio = sys.modules.get("asyncio")
    return sys.version_info < (3, 12) and asyncio is not None and bool(asyncio.iscoroutinefunction(thing))


def _is_async(app: Any, inner: Any) -> bool:
    if _is_coroutine_function(app):
        return True
    if inspect.isfunction(inner) or inspect.ismethod(inner) or inspect.isbuiltin(inner):
        return False
    calls = (getattr(type(inner), "__call__", None), getattr(inner, "__call__", None))  # noqa: B004
    return any(_is_coroutine_function(call) for call in calls)


def _shape(thing: Any) -> Shape:
    """What it takes; `inspect.signature` understands partials, bound methods, classes and `__wrapped__`."""
    unreadable = Shape(None, True, [], False)
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return unreadable
    required, star, names = 0, False, []
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
            required += parameter.default is parameter.empty
        elif parameter.kind is parameter.VAR_POSITIONAL:
            star = True
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            return unreadable
    return Shape(required, star, names, True)


def _flag(app: Any, name: str) -> bool:
    """Is this attribute True? A proxy that is not bound to anything yet raises whatever it likes."""
    try:
        return getattr(app, name, False) is True
    except Exception:
        return False
