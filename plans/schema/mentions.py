"""Which words a function's body speaks, as the only trace of what it touches.

PostgreSQL records no dependencies for bodies that are strings (PL/pgSQL, and SQL
without BEGIN ATOMIC).  Every word that could be a name is taken for one, also
inside of string literals, where dynamic SQL lies; comments are not read, nor are
reserved words where SQL has them as such, or a table called "order" would be in
every sorted query.  So a mention may be a false alarm, and never is missed unless
the name is put together at run time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# Words that name a table or function only in quotes, or behind a dot (pg_get_keywords(), R).
_RESERVED = frozenset(
    """
    all analyse analyze and any array as asc asymmetric both case cast check collate column
    constraint create current_catalog current_date current_role current_time current_timestamp
    current_user default deferrable desc distinct do else end except false fetch for foreign from
    grant group having in initially intersect into lateral leading limit localtime localtimestamp
    not null offset on only or order placing primary references returning select session_user some
    symmetric system_user table then to trailing true union unique user using variadic when where
    window with
    """.split()  # noqa: SIM905 - a line a word would be a page
)

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

_NAME = re.compile(r"\s*[\w$]+\s*")


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
    is_name = _NAME.fullmatch(body) is not None  # for format() or regclass, say: no SQL
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
            case "word" | "quoted":
                word = _folded(token[0])
                if token[0].lower() in _RESERVED and before is None and not is_name:
                    word = None
            case "string" | "dollar":
                before = None
                yield from _inside(token[0])
            case _:
                before = None
    if word is not None:
        yield Mention(word, before)


def _folded(token: str) -> str:
    return token[1:-1].replace('""', '"') if token.startswith('"') else token.lower()


def _inside(literal: str) -> Iterator[Mention]:
    """The words of a string, which may be SQL to be executed or a name for regclass."""
    if literal.startswith("'"):
        yield from _mentions(literal[1:-1].replace("''", "'"))
    else:
        tag = literal[: literal.index("$", 1) + 1]
        yield from _mentions(literal[len(tag) : -len(tag)])
