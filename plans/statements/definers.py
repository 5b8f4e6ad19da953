"""Views and functions that a text creates, for the statements after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plans.statements.bodies import language_of, setting_of
from plans.statements.names import Names
from plans.statements.parts import Routine, View
from plans.statements.tree import Node, strings

_INPUTS = frozenset({"FUNC_PARAM_IN", "FUNC_PARAM_INOUT", "FUNC_PARAM_DEFAULT"})
_VARIADIC, _OUT = "FUNC_PARAM_VARIADIC", "FUNC_PARAM_OUT"


def created_routine(fields: Mapping[str, Any], text: str, names: Names) -> Routine:
    """The function of a CREATE FUNCTION or CREATE PROCEDURE statement."""
    *schema, name = strings(fields["funcname"])
    parameters = [node["FunctionParameter"] for node in fields.get("parameters", [])]
    modes = [parameter.get("mode", "FUNC_PARAM_DEFAULT") for parameter in parameters]
    inputs = [one for one, mode in zip(parameters, modes, strict=True) if mode in _INPUTS]
    is_procedure = bool(fields.get("is_procedure"))
    outputs = modes.count(_OUT) if is_procedure else 0
    return Routine(
        schema=schema[-1] if schema else next(iter(names.path), "public"),
        name=name,
        kind="p" if is_procedure else "f",
        language=language_of(fields),
        arguments=", ".join(
            ".".join(strings(one.get("argType", {}).get("names"))) for one in inputs
        ),
        definition=text,
        args_min=sum("defexpr" not in one for one in inputs),
        args_max=None if _VARIADIC in modes else len(inputs) + outputs,
        search_path=setting_of(fields, "search_path"),
    )


def created_view(
    relation: Mapping[str, Any], query: Node, columns: Sequence[Node] | None, names: Names
) -> None:
    """Make a view known under its name."""
    name = names.new(relation)
    names.views[name] = View(name, tuple(strings(columns)), tree=query)
