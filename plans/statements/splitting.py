"""A text cut into statements, as psql would send them, each with its line.

It is cut before it is parsed, so that one statement that the parser doesn't know
costs none of the others.  psql's own commands and the data of COPY are left out; its
``\\copy`` is COPY.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from plans.statements.lexing import Token, tokens

_DATA_END = re.compile(r"^\\\.[^\S\n]*$", re.MULTILINE)
_COPY_IN = re.compile(r"copy\b.*\bfrom\s+(?:program\s+)?stdin\b", re.IGNORECASE | re.DOTALL)
_SENDS = ("\\g", "\\crosstabview", "\\watch")  # psql commands that send what was typed
_LINE_END = re.compile(r";[^\S\n]*$", re.MULTILINE)
_COPIES = "\\copy "
_BODY_OPENS, _BODY_CASE = re.compile(r"begin\s+atomic\b", re.IGNORECASE), frozenset({"case"})


@dataclass(frozen=True, slots=True)
class Part:
    """A statement's text and the line on which it begins."""

    text: str
    line: int


@dataclass(slots=True)
class _Splitter:
    text: str
    depth: int = 0  # of parentheses
    ends_due: int = 0  # of BEGIN ATOMIC and CASE
    kept: list[str] = field(default_factory=list)
    begins: int | None = None

    def parts(self) -> Iterator[Part]:
        newlines = [at.start() for at in re.finditer("\n", self.text)]
        for begins, text in self._statements():
            yield Part(text, bisect_right(newlines, begins - 1) + 1)

    def _statements(self) -> Iterator[tuple[int, str]]:
        position = 0
        while position < len(self.text):
            for token in tokens(self.text, position):
                position = token.end
                if token.text == "\\":
                    line = self._meta_command(token)
                    position = token.start + len(line)
                    if line.startswith(_SENDS):
                        yield from self._take()
                    elif line.startswith(_COPIES):
                        yield token.start, line[1:].rstrip("\\; ")
                    break
                if token.text == ";" and self.depth <= 0 and not self.ends_due:
                    is_copy = _COPY_IN.match("".join(self.kept).lstrip())
                    yield from self._take()
                    if is_copy:
                        position = self._after_data(position)
                        break
                    continue
                self._keep(token)
        yield from self._take()

    def _meta_command(self, token: Token) -> str:
        line = self.text[token.start :].partition("\n")[0]
        return line.partition("\\\\")[0] + "\\\\" if "\\\\" in line else line

    def _after_data(self, position: int) -> int:
        found = _DATA_END.search(self.text, position)
        if found is None or self.text[position:].lstrip(" \t\r")[:1] != "\n":
            return position
        return found.end()

    def _keep(self, token: Token) -> None:
        if self.begins is None:
            if token.kind in ("space", "comment"):
                return
            self.begins = token.start
        self.kept.append(token.text)
        if token.kind == "other":
            self.depth += {"(": 1, ")": -1}.get(token.text, 0)
        elif token.kind == "word":
            self._count_ends(token)

    def _count_ends(self, token: Token) -> None:
        word = token.text.lower()
        if (word == "begin" and _BODY_OPENS.match(self.text, token.start)) or (
            self.ends_due and word in _BODY_CASE
        ):
            self.ends_due += 1
        elif self.ends_due and word == "end":
            self.ends_due -= 1

    def _take(self) -> Iterator[tuple[int, str]]:
        if self.begins is not None:
            yield self.begins, "".join(self.kept).rstrip()
        self.kept, self.begins, self.depth, self.ends_due = [], None, 0, 0


def split(text: str) -> Iterator[Part]:
    """The statements of `text`; comments before the first word of one are left out."""
    return _Splitter(text).parts()


def after_broken(part: Part) -> Part | None:
    """The text behind the first semicolon that a statement which isn't SQL has swallowed.

    An open parenthesis or quote hides the ends of all statements after it.  None if
    there is no such semicolon.
    """
    for token in tokens(part.text):
        end = None
        if token.kind == "open" or token.text[0] in "\"'":
            found = _LINE_END.search(token.text)
            end = token.start + found.end() if found else None
        elif token.text == ";":
            end = token.end
        if end is not None:
            return Part(part.text[end:], part.line + part.text.count("\n", 0, end))
    return None
