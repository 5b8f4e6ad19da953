"""What the source's own views, functions and triggers touch, read from their definitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from plans.catalog import TableName
from plans.statements.ledger import Use, Uses
from plans.statements.model import Statement, Touch, Verb
from plans.statements.names import Names
from plans.statements.parts import Routine
from plans.statements.reach import reach
from plans.statements.row_columns import columns_set
from plans.statements.scope import Scope

ObjectKind = Literal["view", "materialized view", "function", "procedure", "trigger"]
_ROUTINES: dict[str, ObjectKind] = {"p": "procedure"}


@dataclass(frozen=True, slots=True)
class SourceObject:
    """A view, function or trigger, and what it touches when it is used."""

    kind: ObjectKind
    name: str  # "public.v", "public.f(integer)", "t on public.orders"
    statement: Statement  # its text is the definition; `via` doesn't name the object itself
    table: TableName | None = None  # a trigger's own
    sets: frozenset[str] = frozenset()  # columns of the row that a trigger sets at an UPDATE
    fires_on: frozenset[str] = frozenset()  # the columns of its UPDATE OF; none are any


def read_objects(
    scope: Scope, *, search_path: Sequence[str] | None = None
) -> tuple[SourceObject, ...]:
    """All of the source's views, functions and triggers, ordered by kind and name.

    Those of extensions are left out.  `search_path` is that of the sessions that call the
    functions, by default the catalog's schemas; a function's own setting goes before it.
    """
    path = scope.catalog.schemas if search_path is None else search_path
    names = Names(scope, tuple(path))
    found = [*_views(scope, names), *_routines(scope, names), *_triggers(scope, names)]
    return tuple(sorted(found, key=lambda one: (one.kind, one.name)))


def _views(scope: Scope, names: Names) -> Iterator[SourceObject]:
    for view in scope.views.values():
        uses = Uses((Use(view.name, "read", None),))
        yield SourceObject(
            "materialized view" if view.is_materialized else "view",
            str(view.name),
            _statement(view.definition, "select", uses, names),
        )


def _routines(scope: Scope, names: Names) -> Iterator[SourceObject]:
    for routine in (one for several in scope.routines.values() for one in several):
        if not routine.of_extension:
            yield SourceObject(
                _ROUTINES.get(routine.kind, "function"),
                f"{routine.schema}.{routine.name}({routine.arguments})",
                _of_routine(routine, names),
            )


def _triggers(scope: Scope, names: Names) -> Iterator[SourceObject]:
    for trigger in (one for several in scope.triggers.values() for one in several):
        yield SourceObject(
            "trigger",
            f"{trigger.name} on {trigger.relation}",
            _of_routine(trigger.routine, names),
            trigger.relation,
            columns_set(trigger) if "update" in trigger.events else frozenset(),
            trigger.columns,
        )


def _of_routine(routine: Routine, names: Names) -> Statement:
    return _statement(routine.definition, "call", Uses(routines=(routine,)), names)


def _statement(text: str, verb: Verb, uses: Uses, names: Names) -> Statement:
    reached = reach(uses, names)
    touches = tuple(
        Touch(one.table, one.columns, one.writes, one.via[1:]) for one in reached.touches
    )
    return Statement(text, 1, verb, touches, reached.unproven)
