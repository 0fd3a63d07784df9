"""Stands for small JSON APIs: Flask, a rule with a parameter, a list of twenty objects made into JSON."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request

__all__ = ["wsgi"]

ITEMS = [{"id": number, "name": f"item {number}", "price": number * 1.19, "tags": ["a", "b"]} for number in range(100)]

wsgi = Flask(__name__)


@wsgi.get("/")
@wsgi.get("/items")
def items() -> Response:
    """The first of them: `?limit=20`."""
    limit = request.args.get("limit", 20, type=int)
    return jsonify(items=ITEMS[:limit], total=len(ITEMS))


@wsgi.get("/items/<int:number>")
def item(number: int) -> Response | tuple[Response, int]:
    """One of them."""
    if number >= len(ITEMS):
        return jsonify(error="no such item"), 404
    return jsonify(ITEMS[number])
