"""The lifespan that is run around servers: started, failed, unknown, stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from trapeze_backends.contract import StartError
from trapeze_backends.lifespan import Lifespan


def started(app: Any, *, stop: bool = True) -> Lifespan:
    async def run() -> Lifespan:
        lifespan = Lifespan(app)
        await lifespan.start()
        if stop:
            await lifespan.stop(0.1)
        return lifespan

    return asyncio.run(run())


async def complete(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["shelf"] = "full"
    assert await receive() == {"type": "lifespan.startup"}
    await send({"type": "lifespan.startup.complete"})
    assert await receive() == {"type": "lifespan.shutdown"}
    await send({"type": "lifespan.shutdown.complete"})


def test_state_is_kept() -> None:
    assert started(complete).state == {"shelf": "full"}


def test_an_app_that_knows_none_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"

    async def returns(scope: Any, receive: Any, send: Any) -> None:
        return

    started(app)
    started(returns)
    assert capsys.readouterr().err == ""


def failing(message: Any, error: Exception | None = None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", **message})
        if error is not None:
            raise error

    return app


@pytest.mark.parametrize(
    ("app", "reason", "traceback"),
    [
        (failing({"message": "no database"}), "no database", ""),
        (failing({}), "it gave no reason", ""),
        (failing({"message": "Traceback:\n  a.py\nKeyError: 1"}), "KeyError: 1", "Traceback:\n  a.py\nKeyError: 1\n"),
        (failing({}, LookupError("no shelf")), "LookupError: no shelf", "Traceback (most recent call last)"),
    ],
)
def test_a_failed_start_has_its_reason(app: Any, reason: str, traceback: str) -> None:
    with pytest.raises(StartError) as caught:
        started(app)
    assert caught.value.message == f"the app's lifespan start-up failed: {reason}"
    assert caught.value.traceback.startswith(traceback)


def test_what_goes_wrong_at_the_end_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await asyncio.Event().wait()

    async def raises(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await receive()
        raise LookupError("no such shelf")

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "no shelf"})

    started(hangs)
    assert "the app's lifespan shutdown did not end in 0.1 s" in capsys.readouterr().err
    started(raises)
    assert "LookupError: no such shelf" in capsys.readouterr().err
    started(fails)
    assert "the app's lifespan shutdown failed: no shelf" in capsys.readouterr().err
