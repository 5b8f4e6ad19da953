"""Where an expression compares the text of an enum with a constant.

The server refuses a constant that is no value of an enum, but not one that the enum's text
is compared with.  After a value was renamed, ``state::text = 'sent'`` is true of no row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pgparse  # type: ignore[import-not-found]  # it has no stubs

from plans.statements.tree import constant, nodes, strings

_COMPARES = frozenset({"=", "<>"})  # as the parser writes those of IN, ANY, IS DISTINCT FROM too
_TEXTS = frozenset({"text", "varchar", "bpchar", "name"})


def compared_texts(expression: str, columns: Collection[str]) -> Iterator[tuple[str, str]]:
    """Each of the columns whose text is compared with a constant, with that constant.

    `expression` has been parsed before, by `plans.expressions`.
    """
    for kind, fields in nodes(pgparse.parse(f"SELECT {expression}")):
        if kind == "A_Expr" and set(strings(fields["name"])) <= _COMPARES:
            one, other = fields.get("lexpr"), fields.get("rexpr")
            for column, values in ((_text_of(one), other), (_text_of(other), one)):
                if column in columns:
                    yield from ((column, value) for value in _constants(values))
        elif kind == "CaseExpr" and (column := _text_of(fields.get("arg"))) in columns:
            for when in fields["args"]:
                yield from ((column, value) for value in _constants(when["CaseWhen"]["expr"]))


def _text_of(node: Any) -> str:  # noqa: ANN401 - JSON
    """The column whose text a node is, or ""."""
    match node:
        case {"TypeCast": {"arg": arg, "typeName": {"names": names}}}:
            if strings(names)[-1] not in _TEXTS:
                return ""
            match arg:
                case {"ColumnRef": {"fields": [{"String": {"sval": str(name)}}]}}:
                    return name
                case _:
                    return _text_of(arg)
        case _:
            return ""


def _constants(node: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    match node:
        case {"List": {"items": items}} | {"A_ArrayExpr": {"elements": items}}:
            for item in items:
                yield from _constants(item)
        case _:
            if (value := constant(node)) is not None:
                yield value
