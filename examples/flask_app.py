"""A Flask app, as an object and as a factory.

trapeze serve examples.flask_app:app
trapeze serve "examples.flask_app:create_app()"
"""

from __future__ import annotations

import os

from flask import Flask, Response, jsonify, request


def create_app() -> Flask:
    """Make the app."""
    app = Flask(__name__)

    @app.get("/")
    def index() -> str:
        return "hello from Flask\n"

    @app.get("/healthz")
    def healthz() -> str:
        return "ok\n"

    @app.get("/whoami")
    def whoami() -> Response:
        return jsonify(pid=os.getpid(), client=request.remote_addr, url=request.url)

    @app.post("/echo")
    def echo() -> Response:
        return Response(request.get_data(), mimetype=request.mimetype or "application/octet-stream")

    return app


app = create_app()
