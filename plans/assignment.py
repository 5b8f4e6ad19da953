"""Which entry of a plan speaks about which table of the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plans.catalog import Catalog, Table, TableName
from plans.load import Plan
from plans.model import TablePlan
from plans.places import Path
from plans.problems import Problems, one_of, suggestion
from plans.routes import Route

# Each compares a name with all others.  A plan with more unknown tables is one for another
# database, and not one with mistakes in writing.
SUGGESTIONS_MAX = 20


@dataclass(frozen=True, slots=True)
class Assignment:
    """A table of the source and what the plan says about it."""

    path: Path  # of the entry: ("tables", "orders")
    entry: TablePlan
    table: Table


@dataclass(frozen=True, slots=True)
class Placed:
    """A route and where the plan asks for it."""

    path: Path
    route: Route


def assign(plan: Plan, catalog: Catalog, problems: Problems) -> list[Assignment]:
    """The plan's entries whose tables can be moved; the others are problems."""
    assigned: dict[TableName, Assignment] = {}
    unknown = 0
    for name, entry in plan.tables.items():
        path: Path = ("tables", name)
        table = catalog.find(name)
        if table is None:
            unknown += 1
            suggest = unknown <= SUGGESTIONS_MAX
            _add_unknown(name, path, entry, catalog, problems, suggest=suggest)
            continue
        if other := assigned.get(table.name):
            first = other.path[-1]
            problems.add(
                path,
                f"{table.name} is assigned twice, as {first!r} too",
                "keep one of the two",
                at_key=True,
            )
            continue
        assigned[table.name] = Assignment(path, entry, table)
    kept = {name for name, one in assigned.items() if not one.entry.dropped}
    _check_schemas(catalog, problems)
    _check_kinds(assigned, kept, problems)
    _check_complete(assigned, catalog, problems)
    return [one for one in assigned.values() if not one.table.parent]


def _check_schemas(catalog: Catalog, problems: Problems) -> None:
    for index, schema in enumerate(catalog.schemas):
        if catalog.schemas_there and schema not in catalog.schemas_there:
            problems.add(
                ("source", "schemas", index), f"{catalog.database} has no schema {schema!r}",
                one_of(schema, catalog.schemas_there),
            )  # fmt: skip


def _add_unknown(
    name: str, path: Path, entry: TablePlan, catalog: Catalog, problems: Problems, *, suggest: bool
) -> None:
    schema, _, table = name.rpartition(".")
    meant = (
        {TableName(schema, table)}
        if schema
        else {TableName(schema, name) for schema in catalog.schemas}
    )
    if not meant.isdisjoint(catalog.views):
        problems.add(
            path, f"{name} is a view: it has no rows of its own",
            "take it out of the plan; each service that has all it reads gets it", at_key=True,
        )  # fmt: skip
        return
    if not meant.isdisjoint(catalog.foreign_tables):
        problems.add(
            path, f"{name} is a foreign table: its rows are in another database",
            "take it out of the plan and connect the service to that database", at_key=True,
        )  # fmt: skip
        return
    if entry.dropped:
        return  # it is gone, so there is nothing to be left behind
    known = [*_names(catalog.tables.values())] if suggest else []
    schemas = ", ".join(catalog.schemas)
    problems.add(
        path,
        f"there is no table {name!r} in {catalog.database} (schemas: {schemas})",
        " ".join([suggestion(name, known), "Or list its schema under source.schemas"]).strip(),
        at_key=True,
    )


def _names(tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        yield table.name.name
        yield str(table.name)


def _check_kinds(
    assigned: dict[TableName, Assignment], kept: set[TableName], problems: Problems
) -> None:
    for name, one in assigned.items():
        parent = one.table.parent
        if one.table.is_partition:
            problems.add(
                one.path, f"{name} is a partition of {parent}", f"assign {parent}", at_key=True
            )
        elif parent and (name in kept or parent in kept):
            problems.add(
                one.path, f"{name} inherits from {parent}; inheritance isn't supported",
                "make them partitions, or tables of their own (ALTER TABLE … NO INHERIT …)",
                at_key=True,
            )  # fmt: skip
        elif name in kept and all(column.generated is not None for column in one.table.columns):
            # COPY reads no such row, and nothing tells one from another.
            problems.add(
                one.path, f"{name} has no column that can be written",
                "drop it in the plan, or give it one", at_key=True,
            )  # fmt: skip


def _check_complete(
    assigned: dict[TableName, Assignment], catalog: Catalog, problems: Problems
) -> None:
    for name, table in catalog.tables.items():
        if name in assigned or (table.is_partition and table.parent in catalog.tables):
            continue
        written = name.name if name.schema == catalog.schemas[0] else str(name)
        if table.is_partition:
            message = f"{name} is a partition of {table.parent}, whose schema isn't listed"
            problems.add(("source", "schemas"), message, "list the schema of the partitioned table")
            continue
        problems.add(
            ("tables",), f"{name} has no owner",
            f"write {written}: SERVICE, or {written}: drop to leave it behind",
        )  # fmt: skip
