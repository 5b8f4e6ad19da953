"""The statements of the stages, from the very functions that the verbs run them with.

What depends on values of the moment, such as the numbers that sequences go on with, or
on tables that are not there yet, is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from cdc.copy_sql import largest_first, statements_of
from plans.schema.ddl import Statement
from toolkit import fence_sql, fencing
from toolkit.complete import retiring_statement
from toolkit.explain.outlook import Outlook
from toolkit.fence import Fence
from toolkit.identities import identity_statement, unidentified
from toolkit.initial import copy_tasks
from toolkit.sides import source_fences, source_tables, target_fences
from toolkit.source_log import publication_statement, slot_statement

SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Command:
    """One statement, or several that belong together, and the server that runs it."""

    where: str  # "source" or a service
    sql: str
    about: str = ""  # "indexes, keys and triggers"


def commands(outlook: Outlook) -> Mapping[str, tuple[Command, ...]]:
    """The statements of each stage that has any."""
    return {
        "prepare": tuple(_prepare(outlook)),
        "copy": tuple(_copy(outlook)),
        "cutover": tuple(_cutover(outlook)),
        "complete": tuple(
            _command(SOURCE, retiring_statement(table.name))
            for table in source_tables(outlook.split, outlook.split.plan.services)
        ),
    }


def _prepare(outlook: Outlook) -> Iterator[Command]:
    split = outlook.split
    for where in (SOURCE, *split.plan.services):
        yield Command(where, outlook.control, "control schema")
    for service, schema in outlook.schemas.items():
        yield from _ddl(service, schema.before_data, "schema up to the data")
        if service in outlook.revisions:
            yield Command(service, outlook.revisions[service], "hand-written revisions")
    for relation in unidentified(split):
        yield _command(SOURCE, identity_statement(relation))
    yield _command(SOURCE, publication_statement(split))
    yield _command(SOURCE, slot_statement(split))


def _copy(outlook: Outlook) -> Iterator[Command]:
    split = outlook.split
    for task in sorted(copy_tasks(split, split.plan.services), key=largest_first):
        route, told = task.route, statements_of(task)
        if told.empty is not None:
            yield _command(route.service, told.empty, route.id)
        yield _command(SOURCE, told.read, route.id)
        yield _command(route.service, told.write, route.id)
    for service, schema in outlook.schemas.items():
        yield from _ddl(service, schema.after_data, "indexes, keys and triggers")
        yield Command(service, "ANALYZE", "statistics")


def _cutover(outlook: Outlook) -> Iterator[Command]:
    split = outlook.split
    services = tuple(split.plan.services)
    for service in services if split.targets else ():
        yield _command(service, fence_sql.REFUSE, "closing the target")
        closing = (
            *target_fences(split, service, owned=True),
            *target_fences(split, service, owned=False),
        )
        yield from _fences(service, closing, "closing the target")
    yield _command(SOURCE, fence_sql.REFUSE, "fence")
    yield from _fences(SOURCE, source_fences(split, services, {}), "fence")


def _fences(where: str, fences: Iterable[Fence], about: str) -> Iterator[Command]:
    """One command for each relation, as they are one transaction."""
    for one in fencing.in_order(fences):
        for relation in one.relations:
            text = ";\n".join(s.as_string(None) for s in fence_sql.create(one, relation))
            yield Command(where, text, f"{about}: {relation}")


def _ddl(service: str, statements: Iterable[Statement], about: str) -> Iterator[Command]:
    for statement in statements:
        yield Command(service, statement.create, about)


def _command(where: str, statement: sql.Composed, about: str = "") -> Command:
    return Command(where, statement.as_string(None), about)
