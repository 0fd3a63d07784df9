"""A FastAPI app with start-up and shutdown, JSON in and out, and a WebSocket.

trapeze serve examples.fastapi_app:app --workers 4
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

state = {"started": False}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what the app needs before the first request, close it after the last."""
    state["started"] = True
    yield
    state["started"] = False


app = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    """Something to buy."""

    name: str
    price: float


@app.get("/", response_class=PlainTextResponse)
async def index() -> str:
    """One line."""
    return "hello from FastAPI\n"


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    """Has start-up run?"""
    return {"started": state["started"]}


@app.get("/whoami")
async def whoami(request: Request) -> dict[str, Any]:
    """Who answers, and whom it sees."""
    client = request.client.host if request.client else None
    return {"pid": os.getpid(), "client": client, "url": str(request.url)}


@app.post("/items")
async def create(item: Item) -> Item:
    """Answer with what came, checked."""
    return item


@app.websocket("/ws")
async def ws(socket: WebSocket) -> None:
    """Say back what is said."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass
