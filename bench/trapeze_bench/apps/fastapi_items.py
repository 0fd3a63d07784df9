"""Stands for JSON APIs with types: FastAPI, what comes in and what goes out checked by pydantic."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Path, Query
from pydantic import BaseModel, Field

__all__ = ["asgi"]

asgi = FastAPI(openapi_url=None)


class Item(BaseModel):
    """Something to buy."""

    name: str = Field(min_length=1, max_length=100)
    price: float = Field(gt=0)
    tags: list[str] = Field(default=[], max_length=10)


class Stored(Item):
    """With what the shop adds."""

    id: int
    with_tax: float


@asgi.get("/")
async def index() -> dict[str, str]:
    """Something for a probe."""
    return {"status": "ok"}


@asgi.get("/items/{number}")
async def read(number: Annotated[int, Path(ge=0)], limit: Annotated[int, Query(ge=1, le=100)] = 3) -> list[Stored]:
    """Some items from this one on."""
    return [
        Stored(id=each, name=f"item {each}", price=each + 0.5, tags=["a"], with_tax=(each + 0.5) * 1.19)
        for each in range(number, number + limit)
    ]


@asgi.post("/items")
async def create(item: Item) -> Stored:
    """Answer with what came, checked."""
    return Stored(id=1, name=item.name, price=item.price, tags=item.tags, with_tax=item.price * 1.19)
