"""The names of a query's output columns, as PostgreSQL chooses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plans.statements.ranges import Level
from plans.statements.tree import Node, kind_of, strings

_UNNAMED = "?column?"


def output_columns(targets: Sequence[Node], level: Level) -> tuple[str, ...] | None:
    """The names of a target list; None if a ``*`` in it isn't known."""
    names: list[str] = []
    for target in targets:
        fields = target.get("ResTarget", {})
        if "name" in fields:
            names.append(str(fields["name"]))
            continue
        starred = _starred(fields.get("val", {}), level)
        if starred is None:
            return None
        names.extend(starred)
    return tuple(names)


def _starred(value: Node, level: Level) -> Sequence[str] | None:
    parts = value.get("ColumnRef", {}).get("fields", [])
    if not parts or "A_Star" not in parts[-1]:
        return [_named_after(value)]
    qualifier = strings(parts)
    if not qualifier:
        return level.star()
    for ranges in level.visible():
        for one in ranges:
            if one.alias == qualifier[-1]:
                return None if one.is_open else list(one.columns)
    return None


def _named_after(value: Node) -> str:
    kind, fields = kind_of(value)
    match kind:
        case "ColumnRef":
            return (strings(fields["fields"]) or [_UNNAMED])[-1]
        case "FuncCall":
            return strings(fields["funcname"])[-1]
        case "TypeCast":
            inner = _named_after(fields["arg"])
            return strings(fields["typeName"]["names"])[-1] if inner == _UNNAMED else inner
        case "CollateClause" | "A_Indirection":
            return _named_after(fields.get("arg", {}))
        case "SubLink":
            return _of_subquery(fields)
        case _:
            return _KEYWORDS.get(kind, _UNNAMED)


def _of_subquery(fields: Mapping[str, Any]) -> str:
    match fields:
        case {"subLinkType": "EXISTS_SUBLINK"}:
            return "exists"
        case {"subLinkType": "ARRAY_SUBLINK"}:
            return "array"
        case {"subselect": {"SelectStmt": {"targetList": [{"ResTarget": target}, *_]}}}:
            return str(target["name"]) if "name" in target else _named_after(target.get("val", {}))
        case _:
            return _UNNAMED


_KEYWORDS = {
    "CaseExpr": "case",
    "CoalesceExpr": "coalesce",
    "A_ArrayExpr": "array",
    "RowExpr": "row",
}
