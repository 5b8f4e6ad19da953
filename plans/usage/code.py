"""The string literals of source code, with their lines.

Python is read by its own parser, other languages by the shape of their strings, which
most of them share.  What is put together at run time is seen only in part.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

HOLE: Final = "{}"
"""Stands where a program puts in a value."""


@dataclass(frozen=True, slots=True)
class String:
    """A string literal's text and its first line, from 1."""

    text: str
    line: int


def python_strings(source: str) -> Iterator[String] | None:
    """The strings of Python code, joined ones as one; None if it isn't Python (of now)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on other people's escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _below(tree)


def _below(node: ast.AST) -> Iterator[String]:
    text = _text(node)
    if text is not None:
        yield String(text, getattr(node, "lineno", 1))
        return
    for child in ast.iter_child_nodes(node):
        yield from _below(child)


def _text(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) or HOLE for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            before, behind = _text(left), _text(right)
            if before is None and behind is None:
                return None
            return (HOLE if before is None else before) + (HOLE if behind is None else behind)
        case ast.BinOp(left=left, op=ast.Mod()):
            return _text(left)
        case _:
            return None


_STRINGS = re.compile(
    r"""
      (?P<comment>/\*.*?\*/|//[^\n]*|^[ \t]*(?:\#(?!\{)|--)[^\n]*)
    | (?P<here><<[-~]?(?P<q>['"]?)(?P<end>[A-Z]\w*)(?P=q)[^\n]*\n)(?P<doc>.*?)\n[ \t]*(?P=end)\b
    | r(?P<hashes>\#+)"(?P<raw>.*?)"(?P=hashes)
    | \"\"\"(?P<block>.*?)\"\"\"
    | @\$?"(?P<verbatim>(?:[^"]|"")*)"
    | "(?P<double>(?:[^"\\]|\\.)*)"
    | `(?P<back>(?:[^`\\]|\\.)*)`
    | '(?P<single>(?:[^'\\\n]|\\.)*)'
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_KINDS: Final = ("doc", "raw", "block", "verbatim", "double", "back", "single")
_ESCAPES: Final = {"n": "\n", "t": " ", "r": " ", "\n": "\n", "0": ""}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
# Two literals are one text if nothing but a sign of joining stands between them.
_JOINED = re.compile(r"[ \t]*(?:\+|\.|\.\.|&|\\)?[ \t]*(?:\r?\n[ \t]*)?(?:\+|\.|&|\|\|)?[ \t]*$")
_HAS_SIGN = re.compile(r"[+.&\\]")
# A value that is put in between two literals, or behind one: + id + … and PHP's . $id
_PUT_IN = r"[ \t]*(?:\n[ \t]*)?(?:[+&]|\.(?=[ \t]*\$)|\.(?=[ \t]))[ \t]*[\w$(]"
_BETWEEN = re.compile(_PUT_IN + r"[^;{}=\n]*[+&.][ \t]*(?:\r?\n[ \t]*)?$")
_BEHIND = re.compile(_PUT_IN)


def code_strings(source: str) -> Iterator[String]:
    """The strings of code in any language; those joined by + . or & as one, with `HOLE`s."""
    before: String | None = None
    end, line, counted = 0, 1, 0
    for match in _STRINGS.finditer(source):
        kind = next((kind for kind in _KINDS if match[kind] is not None), None)
        if kind is None:
            continue  # a comment
        between = source[end : match.start()]
        text = _plain(match[kind], kind)
        joins = _JOINED.match(between) and (_HAS_SIGN.search(between) or "\n" in between)
        if before is not None and joins:
            before = String(before.text + "\n" * between.count("\n") + text, before.line)
        elif before is not None and _BETWEEN.match(between):
            lines = "\n" * between.count("\n")
            before = String(before.text + HOLE + lines + text, before.line)
        else:
            if before is not None:
                yield _ended(before, between)
            line += source.count("\n", counted, match.start(kind))
            counted = match.start(kind)
            before = String(text, line)
        end = match.end()
    if before is not None:
        yield _ended(before, source[end:])


def _ended(string: String, behind: str) -> String:
    return String(string.text + HOLE, string.line) if _BEHIND.match(behind) else string


def _plain(text: str, kind: str) -> str:
    if kind in ("double", "single", "back"):
        return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)
    return text.replace('""', '"') if kind == "verbatim" else text
