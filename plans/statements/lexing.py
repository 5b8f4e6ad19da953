"""SQL text cut into what a scanner tells apart: strings, comments, words, the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["space", "comment", "string", "name", "word", "parameter", "other", "open"]
_TOKENS = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<estring>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
    | (?P<name>(?:[uU]&)?"(?:[^"]|"")*")
    | (?P<dollar>\$(?:[A-Za-z_\u0080-\uffff][\w]*)?\$)
    | (?P<parameter>\$\d+)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<quote>['"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
# What makes a tree one level deeper, each to the left of the next; AND and OR don't.
_LINKS = re.compile(
    r"[-+*/<>=~!@#%^&|`?:]|\b(?:at|between|collate|except|in|intersect|is|isnull|join|like|ilike"
    r"|not|notnull|operator|overlaps|similar|union)\b",
    re.IGNORECASE,
)
_BEFORE_BODY = frozenset({"as", "do"})
_BLOCK = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text; "open" is a string or comment without its end."""

    kind: Kind
    start: int
    text: str

    @property
    def end(self) -> int:
        """The position after it."""
        return self.start + len(self.text)


def tokens(text: str, start: int = 0) -> Iterator[Token]:
    """The text's tokens from `start`, without a gap between them."""
    position = start
    while position < len(text):
        token = _token(text, position)
        yield token
        position = token.end


def _token(text: str, position: int) -> Token:
    found = _TOKENS.match(text, position)
    if found is None:
        raise AssertionError("the last alternative matches everything")
    kind = str(found.lastgroup)
    match kind:
        case "block":
            end = _block_end(text, found.end())
            return _closed("comment", text, position, end)
        case "dollar":
            end = text.find(found[0], found.end())
            return _closed("string", text, position, end + len(found[0]) if end >= 0 else None)
        case "quote":
            return Token("open", position, text[position:])
        case "estring" | "string":
            return Token("string", position, found[0])
        case "number":
            return Token("other", position, found[0])
        case "space" | "comment" | "name" | "word" | "parameter":
            return Token(kind, position, found[0])
        case _:
            return Token("other", position, found[0])


def _closed(kind: Kind, text: str, start: int, end: int | None) -> Token:
    if end is None:
        return Token("open", start, text[start:])
    return Token(kind, start, text[start:end])


def _block_end(text: str, position: int) -> int | None:
    depth = 1
    for mark in _BLOCK.finditer(text, position):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return None


def may_have_chain(text: str, length: int) -> bool:
    """Whether `text` has more operators than `length` at all; quick."""
    return sum(1 for _ in _LINKS.finditer(text)) > length


def has_chain(text: str, length: int) -> bool:
    """Whether more operators than `length` stand in one row, as in ``a + b + c``.

    About that deep a tree is.  The bodies of functions and DO blocks count, other strings
    don't: they are data.
    """
    counts, before = [0], ""
    for token in tokens(text):
        if token.kind == "string" and before in _BEFORE_BODY:
            if has_chain(token.text[1:-1].strip("$"), length):
                return True
        elif token.kind in ("other", "word"):
            _count(token.text, counts)
            if counts[-1] > length:
                return True
        if token.kind not in ("space", "comment"):
            before = token.text.lower()
    return False


def _count(code: str, counts: list[int]) -> None:
    """Count an operator among those in the same parentheses, since the last comma."""
    if code == "(":
        counts.append(0)
    elif code == ")" and len(counts) > 1:
        counts.pop()
    elif code in ",;":
        counts[-1] = 0
    elif _LINKS.fullmatch(code):
        counts[-1] += 1
