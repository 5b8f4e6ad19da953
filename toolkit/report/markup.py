"""HTML and SVG, escaped by construction.

Whatever is a plain string is escaped; only what `element` itself returned goes in as it is.
So a table named `<script>` stays a name.  Characters that would not be seen are written as
escapes: two values that differ are not to look alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from plans.printable import visible

_VOID = frozenset({"meta", "br", "hr"})


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """One element; None children and attributes are left out, `class_` is class."""
    start = f"<{name}{''.join(map(_attribute, attributes.items()))}>"
    if name in _VOID:
        return Markup(start)
    return Markup(f"{start}{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Markup:
    """Several pieces as one."""
    return Markup("".join(_escaped(part) for part in parts if part is not None))


def with_code(text: str) -> Markup:
    """A sentence whose `backticked` parts are set as code."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick without its partner is just a character
        return join([text])
    return join(element("code", piece) if i % 2 else piece for i, piece in enumerate(pieces))


def _escaped(part: str) -> str:
    return part if isinstance(part, Markup) else escape(visible(part))


def _attribute(item: tuple[str, str | float | None]) -> str:
    name, value = item
    if value is None:
        return ""
    text = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
    return f' {name.rstrip("_").replace("_", "-")}="{escape(visible(text))}"'
