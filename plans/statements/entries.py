"""Entries of FROM as ranges: tables, joins, subqueries, functions, and their aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plans.statements.names import Relation
from plans.statements.ranges import Origin, Range
from plans.statements.tree import Node, nodes, strings


def of_relation(relation: Relation, node: Mapping[str, Any]) -> Range:
    """A table or view under the alias that it has here."""
    alias = node.get("alias", {})
    known = relation.columns or ()
    renamed = [*strings(alias.get("colnames")), *known[len(strings(alias.get("colnames"))) :]]
    return Range(
        alias=alias.get("aliasname", node.get("relname", "")),
        columns={
            shown: tuple((table, column) for table in relation.tables)
            for shown, column in zip(renamed, known, strict=False)
        },
        tables=relation.tables,
        # An alias hides the name, and with it the schema.
        schema=None if alias else relation.name.schema,
        is_open=relation.columns is None,
    )


def derived(alias: str, columns: Sequence[str] | None, *, is_hidden: bool = False) -> Range:
    """A subquery, WITH query or function; what it reads was taken down with it."""
    return Range(
        alias,
        dict.fromkeys(columns or (), ()),
        is_open=columns is None,
        is_hidden=is_hidden,
    )


def joined(alias: Mapping[str, Any], ranges: Sequence[Range]) -> Range:
    """A join with an alias, which hides those inside it."""
    columns: dict[str, tuple[Origin, ...]] = {}
    for one in ranges:
        for name, behind in one.columns.items():
            columns[name] = (*columns.get(name, ()), *behind)
    renamed = strings(alias.get("colnames"))
    shown = [*renamed, *list(columns)[len(renamed) :]]
    return Range(
        alias["aliasname"],
        dict(zip(shown, columns.values(), strict=False)),
        tuple(table for one in ranges for table in one.tables),
        is_open=any(one.is_open for one in ranges),
    )


def version(target: Range, alias: str) -> Range:
    """The target of a write as it was before, or is after."""
    return Range(alias, target.columns, target.tables, is_open=target.is_open, is_hidden=True)


def aliased(
    renamed: Sequence[Node] | None, columns: Sequence[str] | None
) -> tuple[str, ...] | None:
    """Columns after an alias's own names for the first of them."""
    names = strings(renamed)
    if columns is None:
        # How many columns there are isn't known, so the named ones aren't all.
        return None
    return (*names, *columns[len(names) :])


def target_columns(targets: Sequence[Node] | None) -> list[str]:
    """The columns that an INSERT or a SET names."""
    found = (target.get("ResTarget", {}).get("name") for target in targets or ())
    return [str(name) for name in found if name]


def function_name(fields: Mapping[str, Any]) -> str:
    """What a function in FROM is called when it has no alias."""
    for kind, node in nodes(fields):
        if kind == "FuncCall":
            return strings(node["funcname"])[-1]
    return ""
