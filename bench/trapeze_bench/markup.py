"""HTML and SVG from Python: what is put in is text, and is escaped, unless it was made here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["Markup", "join", "raw", "table", "tag"]

VOID = {"meta", "use", "line", "rect", "circle", "path"}


class Markup(str):
    """Text that is markup, and stays as it is."""

    __slots__ = ()


def raw(text: str) -> Markup:
    """Mark a text of our own as markup."""
    return Markup(text)


def join(*parts: str) -> Markup:
    """One after the other; what is no markup is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part, quote=False) for part in parts))


def tag(_name: str, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element. `class_` is written class, `stroke_width` stroke-width; None and False leave an attribute out."""
    words = [_name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key if key == "viewBox" or key == "preserveAspectRatio" else key.rstrip("_").replace("_", "-")
        words.append(name if value is True else f'{name}="{escape(_plain(value))}"')
    body = "" if _name in VOID else f"{join(*children)}</{_name}>"
    end = "/>" if _name in VOID and _name != "meta" else ">"
    return Markup(f"<{' '.join(words)}{end}{body}")


def _plain(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = ()) -> Markup:
    """A table whose first column names the rows; the columns in `words` are no numbers. It scrolls in itself."""
    heads = [tag("th", each, scope="col", class_="w" if at in words else None) for at, each in enumerate(head)]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", each, class_="w" if at in words else None) for at, each in enumerate(row[1:], 1)),
        )
        for row in rows
    ]
    made = tag("table", tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *body))
    return tag("div", made, class_="scroll", tabindex="0", role="region", aria_label=caption)
