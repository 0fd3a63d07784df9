"""From the text "module:object" to the app, with an error message for each way in which that goes wrong."""

from __future__ import annotations

import sys

from trapeze_backends.contract import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType, TracebackType
    from typing import Any, TypeVar

    from trapeze_backends.contract import Job

    Result = TypeVar("Result")

__all__ = [
    "call_factory",
    "call_hook",
    "failure",
    "find_module",
    "load",
    "run_user_code",
    "split",
    "use_app_dir",
]

HERE = __file__[: __file__.rfind("/") + 1]
DEFAULT_NAMES = ("app", "application")


def use_app_dir(directory: str) -> None:
    """Put `directory` first on sys.path."""
    if directory:
        while directory in sys.path:
            sys.path.remove(directory)
        sys.path.insert(0, directory)


def split(text: str, *, what: str = "an app") -> tuple[str, str, tuple[Any, ...] | None]:
    """Return module, dotted object ("" when none is named), and the arguments of a call or None.

    Args:
        text: what the user wrote.
        what: what it should name, for the message.

    Raises:
        StartError: it has no such form.
    """
    module, _, name = text.partition(":")
    arguments: tuple[Any, ...] | None = None
    if name.endswith(")") and "(" in name:
        name, _, inside = name[:-1].partition("(")
        arguments = _literals(text, inside)
    wrong = [part for part in (*module.split("."), *(name.split(".") if name else ())) if not part.isidentifier()]
    if wrong:
        hint = 'write it as "package.module:object"'
        if "/" in module or module.endswith(".py"):
            dotted = module.removesuffix(".py").strip("./").replace("/", ".")
            hint = f'it names a module, not a file: "{dotted}{":" + name if name else ""}"'
        raise StartError(f"{text!r} does not name {what}", hint=hint)
    return module, name, arguments


def _literals(text: str, inside: str) -> tuple[Any, ...]:
    if not inside.strip():
        return ()
    import ast

    try:
        return tuple(ast.literal_eval(f"({inside},)"))
    except (ValueError, SyntaxError):
        raise StartError(f"{text!r}: only literals can be passed") from None


def find_module(text: str) -> str | None:
    """Return why the top package of "module:object" cannot be found, or None when it can. Imports nothing of it."""
    try:
        top = split(text)[0].split(".")[0]
    except StartError as error:
        return f"{error.message}, {error.hint}"
    if top in sys.modules:
        return None
    for finder in sys.meta_path:
        if finder.find_spec(top, None) is not None:
            return None
    return f"no module named {top!r}"


def load(job: Job) -> Any:
    """Import the app that `job` names; factories that were announced are called.

    Raises:
        StartError: there is no such module or object, or the app's own code failed (then with its traceback).
    """
    module_name, name, arguments = split(job.app)
    module = _import(module_name, job.app_dir)
    app = _attribute(module, name) if name else _default(module)
    if arguments is not None:
        return call_factory(app, job.app, arguments)
    return call_factory(app, job.app) if job.factory else app


def call_factory(factory: Any, text: str, arguments: tuple[Any, ...] = ()) -> Any:
    """Call a factory; what it returns is awaited when it is a coroutine.

    Raises:
        StartError: it cannot be called, or raised.
    """
    if not callable(factory):
        what = type(factory).__name__
        raise StartError(f"{text} is not a factory: {what} cannot be called", hint="leave factory out")
    try:
        made = factory(*arguments)
        if hasattr(made, "__await__") and hasattr(made, "send"):  # a coroutine, not an app that can be awaited
            import asyncio

            made = asyncio.run(made)
    except (Exception, SystemExit) as error:
        raise failure(f"the factory {text} failed", error) from None
    if made is None:
        raise StartError(f"the factory {text} returned None", hint="it must return the app")
    return made


def run_user_code(what: str, function: Callable[[], Result]) -> Result:
    """Call `function`, which runs code of the user's.

    Raises:
        StartError: it raised; `what` says what failed.
    """
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise failure(what, error) from None


def call_hook(field: str, text: str, app_dir: str) -> None:
    """Call "module:function" of a field of the service (`warm`, `after_fork`).

    Raises:
        StartError: there is no such function, or it raised; the message names the field.
    """
    try:
        function, arguments = _function(text, app_dir)
    except StartError as error:
        raise StartError(f"{field}: {error.message}", hint=error.hint, traceback=error.traceback) from None
    if not callable(function):
        raise StartError(f"{field}: {text} cannot be called, it is {type(function).__name__}")
    made = run_user_code(f"{field} {text} failed", lambda: function(*arguments))
    if hasattr(made, "__await__") and hasattr(made, "close"):
        made.close()
        raise StartError(f"{field}: {text} is asynchronous", hint="no event loop runs yet: make it a plain function")


def _function(text: str, app_dir: str) -> tuple[Any, tuple[Any, ...]]:
    module_name, name, arguments = split(text, what="a function")
    if not name:
        raise StartError(f"{text!r} names no function", hint='write it as "package.module:function"')
    return _attribute(_import(module_name, app_dir), name), arguments or ()


def _import(name: str, app_dir: str) -> ModuleType:
    try:
        __import__(name)
        return sys.modules[name]
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}.") and _own_frames(error.__traceback__) is None:
            where = f"looked in {app_dir} and in {sys.prefix}" if app_dir else f"looked in {sys.prefix}"
            raise StartError(f"no module named {missing!r}", hint=_similar(name, app_dir) or where) from None
        raise failure(f"importing {name} failed", error) from None


def failure(what: str, error: BaseException) -> StartError:
    """Return an error of code that is not ours: its last line as the message, its traceback without our frames."""
    import traceback

    frames = _own_frames(error.__traceback__)
    if frames is None and not isinstance(error, SyntaxError):
        frames = error.__traceback__  # ours alone: then it is ours that matters
    lines = traceback.format_exception(type(error), error, frames)
    last = traceback.format_exception_only(type(error), error)[-1].strip()
    hint = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"the app needs {error.name.split('.')[0]!r}: install it into {sys.prefix}"
    return StartError(f"{what}: {last}", traceback="".join(lines), hint=hint)


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """Skip our frames and those of the import machinery; None when there are no others."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen importlib") and not file.startswith(HERE):
            return trace
        trace = trace.tb_next
    return None


def _attribute(module: ModuleType, name: str) -> Any:
    thing: Any = module
    said = module.__name__
    for part in name.split("."):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            kind = "module" if thing is module else "object"
            names = [other for other in dir(thing) if not other.startswith("_")]
            raise StartError(f"{kind} {said} has no attribute {part!r}", hint=_did_you_mean(part, names)) from None
        said = f"{said}.{part}" if thing is not module else said
    return thing


def _default(module: ModuleType) -> Any:
    for name in DEFAULT_NAMES:
        if hasattr(module, name):
            return getattr(module, name)
    makers = ("create_", "make_", "get_")
    found = [name for name, thing in vars(module).items() if callable(thing) and name.startswith(makers)]
    hint = f'is it a factory? "{module.__name__}:{found[0]}()"' if found else f'name it: "{module.__name__}:object"'
    raise StartError(f"module {module.__name__} has neither 'app' nor 'application'", hint=hint)


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, list(words), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _similar(name: str, app_dir: str) -> str:
    import os

    try:
        entries = os.listdir(app_dir or ".")
    except OSError:
        return ""
    return _did_you_mean(name.split(".")[0], {entry.split(".")[0] for entry in entries if not entry.startswith(".")})
