"""Values as YAML text, quoted wherever they could be read as something else."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from plans.printable import printable

WIDTH: Final = 100

_PLAIN = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*", re.ASCII)
# What YAML 1.1 or 1.2 takes for something else than a text.
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def scalar(text: str) -> str:
    """A text, quoted if it has to be."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f").replace("\x85", "\\x85")


def flow(value: Any) -> str:  # noqa: ANN401 - what YAML holds
    """A value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(k))}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(flow, value)) + "]"
    return json.dumps(value)


def block(key: str, value: Any, indent: int) -> Iterator[str]:  # noqa: ANN401 - what YAML holds
    """A key with its value, in as many lines as it needs."""
    pad = " " * indent
    line = f"{pad}{scalar(key)}: {flow(value)}"
    if len(line) <= WIDTH or isinstance(value, str) or not value:
        yield line
    elif isinstance(value, Mapping):
        yield f"{pad}{scalar(key)}:"
        for name, below in value.items():
            yield from block(str(name), below, indent + 2)
    elif isinstance(value, Sequence):
        yield f"{pad}{scalar(key)}:"
        for item in value:
            yield f"{pad}  - {flow(item)}"


def comment(text: str, indent: int, hanging: int = 0) -> Iterator[str]:
    """A comment, wrapped; `hanging` is how much further its later lines are indented."""
    pad = " " * indent + "# "
    yield from textwrap.wrap(
        # printable(): nothing ends the comment's line, or is not allowed in YAML.
        printable(text), WIDTH, initial_indent=pad, subsequent_indent=pad + " " * hanging,
        break_long_words=False, break_on_hyphens=False,
    ) or [pad.rstrip()]  # fmt: skip
