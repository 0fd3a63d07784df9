"""JSON Schema of the configuration file, for editors: `#:schema ./trapeze.schema.json` at the top of the file."""

from __future__ import annotations

from typing import Any

import msgspec

from trapeze.spec import Config

__all__ = ["schema"]


def schema() -> dict[str, Any]:
    """The schema as plain data; titles and descriptions come from the structs."""
    made = msgspec.json.schema(Config)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "trapeze.toml", **made}
