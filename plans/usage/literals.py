"""The values with which statements insert rows, as far as they are constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plans.statements.placeholders import parsed
from plans.statements.problems import Unparsable
from plans.statements.tree import Node, kind_of, nodes

Row = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Inserted:
    """One INSERT: the relation as it is named, and the values of each row.

    A value that is NULL, or that isn't known from the text, is None.
    """

    relation: tuple[str, ...]  # ("orders",) or ("public", "orders")
    columns: tuple[str, ...]  # () if none are named: all, in their order
    rows: tuple[Row, ...]


def inserted(text: str, parameters: Sequence[str | None] | None = None) -> Iterator[Inserted]:
    """Every INSERT of a text, those within WITH too; nothing if it doesn't parse.

    `parameters` are the values of $1, $2, …, if they are known.
    """
    if "insert" not in text.lower():
        return
    try:
        _, trees = parsed(text)
    except Unparsable:
        return
    for kind, node in nodes(trees):
        if kind == "InsertStmt" and isinstance(node, dict):
            yield _read(node, parameters or ())


def _read(node: Mapping[str, Any], parameters: Sequence[str | None]) -> Inserted:
    relation = node["relation"]
    schema = relation.get("schemaname")
    names = (*([str(schema)] if schema else []), str(relation["relname"]))
    columns = tuple(str(column["ResTarget"]["name"]) for column in node.get("cols", ()))
    _, select = kind_of(node.get("selectStmt") or {})
    return Inserted(names, columns, tuple(_rows(select, parameters)))


def _rows(select: Mapping[str, Any], parameters: Sequence[str | None]) -> Iterator[Row]:
    lists = select.get("valuesLists")
    if lists:
        for one in lists:
            yield tuple(_value(item, parameters) for item in one["List"]["items"])
    elif select.get("targetList"):
        yield tuple(
            _value(target["ResTarget"].get("val"), parameters) for target in select["targetList"]
        )
    else:
        yield ()


def _value(node: Node | None, parameters: Sequence[str | None]) -> str | None:
    match node:
        case {"TypeCast": {"arg": arg}}:
            return _value(arg, parameters)
        case {"ParamRef": {"number": int(number)}} if number <= len(parameters):
            return parameters[number - 1]
        case {"A_Const": {"sval": {**held}}}:
            return str(held.get("sval", ""))
        case {"A_Const": {"ival": {**held}}}:
            return str(held.get("ival", 0))
        case {"A_Const": {"boolval": {**held}}}:
            return "t" if held.get("boolval") else "f"
        case _:
            return None
