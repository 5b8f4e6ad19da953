"""The columns that a trigger sets in the row that is being written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plans.statements.parts import Trigger
from plans.statements.problems import Unparsable
from plans.statements.tree import nodes, parse_procedure

# PostgreSQL's module spi has them, in C: the column is their first argument.
_BY_ARGUMENT = frozenset({"moddatetime", "insert_username"})


def columns_set(trigger: Trigger) -> frozenset[str]:
    """The columns of NEW that the trigger assigns to, as far as its function tells.

    None of a trigger that does not run before each row: what it assigns is not written.
    """
    if not trigger.before_row:
        return frozenset()
    routine = trigger.routine
    if routine.name in _BY_ARGUMENT:
        return frozenset(trigger.arguments[:1])
    if routine.language != "plpgsql":
        return frozenset()
    try:
        (tree, *_) = parse_procedure(routine.definition)
    except (Unparsable, ValueError):
        return frozenset()  # is told elsewhere
    return frozenset(_set_in(tree.get("PLpgSQL_function", {})))


def _set_in(function: dict[str, Any]) -> Iterator[str]:
    new, variables = function.get("new_varno"), function.get("datums", [])
    for number in _targets(function.get("action", {})):
        field = variables[number].get("PLpgSQL_recfield", {}) if number < len(variables) else {}
        if field and field["recparentno"] == new:
            yield str(field["fieldname"])


def _targets(action: Any) -> Iterator[int]:  # noqa: ANN401 - JSON
    """The numbers of the variables that statements set, by ``:=`` or INTO."""
    for kind, fields in nodes(action):
        if kind == "PLpgSQL_stmt_assign":
            yield int(fields.get("varno", 0))
        elif kind == "PLpgSQL_row":
            yield from (int(one["varno"]) for one in fields.get("fields", []) if "varno" in one)
