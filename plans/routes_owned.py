"""Routes of rows that keep their shape: whole tables, parts of them, read-only copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from plans.assignment import Assignment, Placed
from plans.catalog import Catalog, Column, Table
from plans.expressions import quoted
from plans.model import DROP
from plans.places import Path
from plans.problems import Problems
from plans.routes import Kind, Route, RouteColumn
from plans.source_row import generated_reads, known_columns, over_row


@dataclass(frozen=True, slots=True)
class _Part:
    """What one service gets of a table."""

    path: Path
    service: str
    owner: str
    kind: Kind
    columns: frozenset[str]
    where: str | None = None


def owned_routes(
    assignment: Assignment, targets: Mapping[str, Catalog] | None, problems: Problems
) -> Iterator[Placed]:
    """The routes into tables of the same name and shape."""
    for part in _parts(assignment, problems):
        _check_part(part, assignment.table, problems)
        table = _target(part, assignment.table, targets, problems)
        yield Placed(part.path, _route(part, assignment, table, problems))


def _parts(one: Assignment, problems: Problems) -> Iterator[_Part]:
    dropped = known_columns(one.entry.drop, one.table, (*one.path, "drop"), problems)
    kept = frozenset(column.name for column in one.table.columns) - dropped
    entry = one.entry
    known_columns(entry.mask, one.table, (*one.path, "mask"), problems)
    if entry.split_columns:
        yield from _column_parts(one, dropped, problems)
    elif entry.split_rows:
        for service, where in entry.split_rows.items():
            path: Path = (*one.path, "split_rows", service)
            if service != DROP:
                yield _Part(path, service, service, Kind.ROWS, kept, where)
            else:
                over_row(where, one.table, path, problems)
    elif entry.owner and not entry.dropped:
        yield _Part(one.path, entry.owner, entry.owner, Kind.WHOLE, kept)
        for index, service in enumerate(entry.reference_in):
            path = (*one.path, "reference_in", index)
            yield _Part(path, service, entry.owner, Kind.REFERENCE, kept)


def _column_parts(one: Assignment, dropped: frozenset[str], problems: Problems) -> Iterator[_Part]:
    path: Path = (*one.path, "split_columns")
    key = set(one.table.key)
    if not key:
        problems.add(
            path, f"{one.table.name} has no key by which the parts of a row belong together",
            "add a primary key, or give the whole table to one service",
        )  # fmt: skip
    if one.table.has_deferrable_key:
        problems.add(
            path, f"{one.table.name} has a deferrable key, which two rows may have within a"
            " transaction: their parts could not be told apart",
            "make the key NOT DEFERRABLE, choose another unique index (REPLICA IDENTITY USING"
            " INDEX …), or give the whole table to one service",
        )  # fmt: skip
    generated = {column.name for column in one.table.columns if column.generated is not None}
    owners: dict[str, str] = dict.fromkeys(dropped, DROP)
    for service, names in (one.entry.split_columns or {}).items():
        here: Path = (*path, service)
        columns = known_columns(names, one.table, here, problems)
        for name in names:
            other = owners.setdefault(name, service)
            if other != service and name not in key | generated:
                problems.add(
                    (*here, names.index(name)),
                    f"{name!r} is in {other} too" if other != DROP else f"{name!r} is dropped too",
                    "every column but the key has one owner",
                )
        yield _Part(here, service, service, Kind.COLUMNS, columns)
    for column in one.table.columns:
        if column.name not in owners:
            problems.add(
                path, f"{column.name!r} is in no part",
                "give it to one of the services, or list it under drop",
            )  # fmt: skip


def _check_part(part: _Part, table: Table, problems: Problems) -> None:
    for name in table.key:
        if name not in part.columns:
            problems.add(
                part.path,
                f"{name!r} is missing; it belongs to the key of {table.name}",
                "every part has the whole key",
            )
    for column in table.columns:
        absent = sorted(generated_reads(column) - part.columns)
        if column.name in part.columns and absent:
            problems.add(
                part.path,
                f"{column.name!r} is generated from {', '.join(map(repr, absent))}, which"
                f" {part.service} doesn't get",
                f"leave {column.name!r} with them, or list it under drop",
            )


def _target(
    part: _Part, source: Table, targets: Mapping[str, Catalog] | None, problems: Problems
) -> Table:
    """The table in the target; the source's own before there is one."""
    catalog = (targets or {}).get(part.service)
    if catalog is None:
        return source
    table = catalog.tables.get(source.name)
    if table is None:
        problems.add(
            part.path, f"{part.service}'s database {catalog.database} has no table {source.name}",
            "run dbsplit prepare",
        )  # fmt: skip
    return table or source


def _route(part: _Part, one: Assignment, target: Table, problems: Problems) -> Route:
    source = one.table
    where = over_row(part.where, source, part.path, problems) if part.where else None
    columns = [
        _column(column, target, part, problems)
        for column in source.columns
        if column.name in part.columns and column.generated is None
    ]
    suffix = ":reference" if part.kind is Kind.REFERENCE else ""
    return Route(
        id=f"{part.service}:{source.name}{suffix}",
        service=part.service,
        owner=part.owner,
        kind=part.kind,
        source=source,
        target=source.name,
        columns=tuple(columns),
        generated=tuple(
            column.name
            for column in source.columns
            if column.name in part.columns and column.generated is not None
        ),
        key=tuple(name for name in source.key if name in part.columns),
        where=where.text if where else None,
        where_reads=where.reads if where else frozenset(),
        masked=part.columns & frozenset(one.entry.mask),
    )


def _column(column: Column, target: Table, part: _Part, problems: Problems) -> RouteColumn:
    there = next((other for other in target.columns if other.name == column.name), None)
    if there is None or there.generated is not None:
        what = "has no such column" if there is None else "generates it"
        problems.add(
            part.path,
            f"{column.name!r}: {target.name} in {part.service}'s database {what}",
            "if the source has changed, `dbsplit plan refresh`; if the target has, undo it there",
        )
    type_ = there.type if there else column.type
    return RouteColumn(
        name=column.name,
        expression=quoted(column.name),
        reads=frozenset({column.name}),
        type=type_,
        plain=column.name,
        binary=column.is_portable and type_ == column.type,
    )
