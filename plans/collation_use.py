"""Where an expression's value depends on how a column's text is sorted or folded; no I/O.

The copy and the comparison evaluate an expression on the source, the stream in a
target.  What a COLLATE clause stands on is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import pgparse  # type: ignore[import-not-found]  # it has no stubs

from plans.statements.tree import nodes


class Use(Enum):
    """What of a collation a value depends on."""

    ORDER = "order"
    CASE = "case"  # and what is a letter
    EQUALITY = "equality"  # which only a nondeterministic collation has of its own


_ORDERS = frozenset({"<", "<=", ">", ">="})
_FOLDS = frozenset({"~", "!~", "~*", "!~*", "~~*", "!~~*"})
_FOLDING = frozenset({"lower", "upper", "initcap", "casefold"})
_NO_TEXT = frozenset({
    "length", "char_length", "character_length", "octet_length", "bit_length", "ascii", "strpos",
    "position", "md5", "sha256", "encode", "convert_to", "to_number", "to_date", "to_timestamp",
})  # fmt: skip
_TEXT_TYPES = frozenset({"text", "varchar", "bpchar", "name", "citext"})
_BETWEEN = frozenset({
    "AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN", "AEXPR_BETWEEN_SYM", "AEXPR_NOT_BETWEEN_SYM",
})  # fmt: skip


def collation_uses(text: str) -> frozenset[tuple[str, Use]]:
    """The columns whose collation an expression that parses may depend on, and how."""
    return frozenset(
        (column, use)
        for kind, node in nodes(pgparse.parse(f"SELECT {text}"))
        if (use := _use(kind, node)) is not None
        for column in _texts(node)
    )


def _use(kind: str, node: Any) -> Use | None:  # noqa: ANN401 - JSON
    match kind:
        case "A_Expr":
            return _use_of_operator(str(node["kind"]), node["name"][-1]["String"]["sval"])
        case "MinMaxExpr":
            return Use.ORDER
        case "CaseExpr" if "arg" in node:
            return Use.EQUALITY
        case "FuncCall":
            name = _function(node)
            return Use.CASE if name in _FOLDING or name.startswith("regexp_") else None
        case _:
            return None


def _use_of_operator(kind: str, operator: str) -> Use | None:
    if kind in _BETWEEN or operator in _ORDERS:
        return Use.ORDER
    if kind == "AEXPR_SIMILAR" or operator in _FOLDS:
        return Use.CASE
    return Use.EQUALITY if operator in {"=", "<>", "~~", "!~~"} else None


def _function(node: dict[str, Any]) -> str:
    return str(node["funcname"][-1]["String"]["sval"])


def _texts(tree: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """The columns whose text may be in the value of this part of an expression."""
    if isinstance(tree, list):
        for part in tree:
            yield from _texts(part)
    elif isinstance(tree, dict):
        for kind, node in tree.items():
            if kind == "ColumnRef":
                yield str(node["fields"][-1]["String"]["sval"])
            elif not _has_no_text(kind, node):
                yield from _texts(node)


def _has_no_text(kind: str, node: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether a node's value is no text of what is in it, or one of a collation that it names."""
    if kind == "TypeCast":
        return node["typeName"]["names"][-1]["String"]["sval"] not in _TEXT_TYPES
    return kind == "CollateClause" or (kind == "FuncCall" and _function(node) in _NO_TEXT)
