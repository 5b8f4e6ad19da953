"""Which words a function's body speaks, as the only trace of what it touches.

PostgreSQL records no dependencies for bodies that are strings (PL/pgSQL, and SQL
without BEGIN ATOMIC).  Every word that could be a name is taken for one, also
inside of string literals, where dynamic SQL lies; comments are not read.  So a
mention may be a false alarm, and never is missed unless the name is put together
at run time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<quoted> "(?:[^"]|"")*" )
    | (?P<string> '(?:[^']|'')*' )
    | (?P<dollar> \$(?P<tag>[A-Za-z_0-9\x80-\U0010ffff]*)\$ .*? \$(?P=tag)\$ )
    | (?P<word> [A-Za-z_\x80-\U0010ffff][\w$]* )
    | (?P<dot> \s*\.\s* )
    | (?P<call> \s*\( )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


class Mention(NamedTuple):
    """A name in a body, as the server would fold it."""

    name: str
    schema: str | None = None  # the word before its dot, whatever that is
    call: bool = False  # an opening parenthesis follows


def mentions(body: str) -> frozenset[Mention]:
    """Every word of `body` that could name something."""
    return frozenset(_mentions(body))


def _mentions(body: str) -> Iterator[Mention]:
    before: str | None = None  # the word before a dot
    word: str | None = None
    for token in _TOKEN.finditer(body):
        kind = token.lastgroup
        if kind == "dot" and word is not None:
            yield Mention(word, before)
            before, word = word, None
            continue
        if word is not None:
            yield Mention(word, before, call=kind == "call")
            before = word = None
        match kind:
            case "word":
                word = token[0].lower()
            case "quoted":
                word = token[0][1:-1].replace('""', '"')
            case "string" | "dollar":
                before = None
                yield from _inside(token[0])
            case _:
                before = None
    if word is not None:
        yield Mention(word, before)


def _inside(literal: str) -> Iterator[Mention]:
    """The words of a string, which may be SQL to be executed or a name for regclass."""
    if literal.startswith("'"):
        yield from _mentions(literal[1:-1].replace("''", "'"))
    else:
        tag = literal[: literal.index("$", 1) + 1]
        yield from _mentions(literal[len(tag) : -len(tag)])
