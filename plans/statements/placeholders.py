"""The placeholders of drivers, turned into parameters that the parser knows.

Tried in turn, until one parses: the text with psycopg's ``%s`` and ``%(name)s``; the
text itself; with ``:name``, psql's ``:'name'`` and MyBatis' ``#{name}``; with ``?``; and,
for texts of pg_stat_statements, with a constant for ``$1`` where no parameter may stand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from plans.statements.lexing import Token, tokens
from plans.statements.problems import Unparsable
from plans.statements.tree import Node, parse

_PERCENT = re.compile(r"%s\b|%\(\w+\)s\b|%[bt]\b")
_COLON = re.compile(r"(?<![:\w\])]):[A-Za-z_]\w*|[#$]\{[^}]*\}|__\[POSTCOMPILE_\w+\]")
_PSQL = re.compile(r"(?<![:\w]):(?:'\w+'|\"\w+\")")
# psycopg2 and some mappers put a list, or rows, in the place of one placeholder.
_LIST = re.compile(r"\b(IN|VALUES)(\s+)(\$\d+)", re.IGNORECASE)
_NUMBERED = re.compile(r"\$(\d{1,5})\b")
_QUESTION = re.compile(r"\?+")
_AFTER_OPERAND = re.compile(r"""[\w"')\]]\s*\Z""")
_KEYWORD_AT_END = re.compile(
    r"\b(?:and|or|not|in|like|ilike|between|values|limit|offset|select|when|then|else|set|by|"
    r"where|on|interval|returning|having|any|all|is|from|to|using|case)\s*\Z",
    re.IGNORECASE,
)


def parsed(text: str) -> tuple[str, list[Node]]:
    """The text as it was parsed, and its trees.  Raises Unparsable, about the text itself."""
    problem: Unparsable | None = None
    tried: set[str] = set()
    for variant in _variants(text):
        if variant in tried:
            continue
        tried.add(variant)
        try:
            return variant, parse(variant)
        except Unparsable as error:
            if problem is None or variant == text:
                problem = error
    raise problem or Unparsable("it is empty")


def _variants(text: str) -> Iterator[str]:
    fresh = _Numbers(text)
    named = text
    if _PERCENT.search(text):
        named = _with_lists(_outside(text, lambda code: _percent(code, fresh)))
        yield named
    yield text
    colons = _with_lists(_outside(_PSQL.sub(fresh, named), lambda code: _COLON.sub(fresh, code)))
    yield colons
    last = colons
    if "?" in text:
        yield _with_lists(_outside(colons, lambda code: _questions_where_no_operator(code, fresh)))
        last = _outside(colons, lambda code: _QUESTION.sub(lambda at: _question(at, fresh), code))
        yield _with_lists(last)
    if "$" in last:
        yield "".join("'0'" if token.kind == "parameter" else token.text for token in tokens(last))


def _with_lists(text: str) -> str:
    return _LIST.sub(r"\1\2(\3)", text)


class _Numbers:
    """Gives every placeholder a parameter of its own: each may have another type."""

    def __init__(self, text: str) -> None:
        self._last = max((int(number) for number in _NUMBERED.findall(text)), default=0)

    def __call__(self, _: re.Match[str]) -> str:
        self._last += 1
        return f" ${self._last} "


def _percent(code: str, fresh: _Numbers) -> str:
    changed = _PERCENT.sub(fresh, code)
    return changed.replace("%%", "%") if changed != code else code


def _question(found: re.Match[str], fresh: _Numbers) -> str:
    # JDBC writes the operator ? as ??.
    return fresh(found) if len(found[0]) == 1 else "?"


def _questions_where_no_operator(code: str, fresh: _Numbers) -> str:
    done, end = "", 0
    for found in _QUESTION.finditer(code):
        done += code[end : found.start()]
        operand_before = _AFTER_OPERAND.search(done) and not _KEYWORD_AT_END.search(done)
        done += found[0] if operand_before and len(found[0]) == 1 else _question(found, fresh)
        end = found.end()
    return done + code[end:]


def _outside(text: str, change: Callable[[str], str]) -> str:
    """`text`, changed everywhere but in strings, quoted names and comments."""
    return "".join(change(run) if is_code else run for is_code, run in _runs(tokens(text)))


def _runs(found: Iterator[Token]) -> Iterator[tuple[bool, str]]:
    code = ""
    for token in found:
        if token.kind in ("string", "name", "comment", "open"):
            yield True, code
            code = ""
            yield False, token.text
        else:
            code += token.text
    yield True, code
