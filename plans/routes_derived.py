"""Routes of rows that are computed from another service's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from plans.assignment import Assignment, Placed
from plans.catalog import Catalog, Column, Table, TableName
from plans.expressions import Expression
from plans.model import Derive
from plans.places import Path
from plans.problems import Problems, one_of, suggestion
from plans.routes import Kind, Route, RouteColumn
from plans.source_row import over_row

DEFAULT_SCHEMA = "public"  # of `into: service.table`


def derived_routes(
    assignment: Assignment, targets: Mapping[str, Catalog] | None, problems: Problems
) -> Iterator[Placed]:
    """The routes of the entry's `derive`; they exist for dropped tables too."""
    derives = assignment.entry.derive
    same_target = Counter(derive.into for derive in derives)
    seen: Counter[str] = Counter()
    for index, derive in enumerate(derives):
        seen[derive.into] += 1
        number = f"#{seen[derive.into]}" if same_target[derive.into] > 1 else ""
        path: Path = (*assignment.path, "derive", index)
        table = _target_table(derive, path, targets, problems)
        route = _route(assignment.table, derive, number, table, path, problems)
        masked = frozenset(c.name for c in route.columns if c.reads & set(assignment.entry.mask))
        yield Placed(path, replace(route, masked=masked))


def target_of(derive: Derive) -> tuple[str, TableName]:
    """The service and table that `into` names."""
    service, *name = derive.into.split(".")
    schema, table = name if len(name) > 1 else (DEFAULT_SCHEMA, name[0])
    return service, TableName(schema, table)


def _target_table(
    derive: Derive, path: Path, targets: Mapping[str, Catalog] | None, problems: Problems
) -> Table | None:
    service, name = target_of(derive)
    catalog = (targets or {}).get(service)
    if catalog is None:
        return None
    table = catalog.tables.get(name)
    if table is None:
        known = [part for table in catalog.tables for part in (table.name, str(table))]
        problems.add(
            (*path, "into"), f"{service}'s database {catalog.database} has no table {name}",
            suggestion(name.name, known) or f"create it in {service}'s revisions",
        )  # fmt: skip
    return table


def _route(
    source: Table, derive: Derive, number: str, target: Table | None, path: Path, problems: Problems
) -> Route:
    service, name = target_of(derive)
    expressions = {
        (*path, part, column): over_row(text, source, (*path, part, column), problems)
        for part, texts in (("key", derive.key), ("columns", derive.columns))
        for column, text in texts.items()
    }
    where = over_row(derive.where, source, (*path, "where"), problems) if derive.where else None
    if target is not None:
        _check_filled(target, expressions, path, problems)
    return Route(
        id=f"{service}:{source.name}>{name}{number}",
        service=service,
        owner=service,
        kind=Kind.DERIVED,
        source=source,
        target=name,
        columns=tuple(
            _column(str(here[-1]), expression, target) for here, expression in expressions.items()
        ),
        key=tuple(derive.key),
        where=where.text if where else None,
        where_reads=where.reads if where else frozenset(),
        fixed=tuple(
            (column, text)
            for column, text in derive.key.items()
            if not expressions[*path, "key", column].reads
        ),
    )


def _column(name: str, expression: Expression, target: Table | None) -> RouteColumn:
    there = _find(target, name) if target else None
    return RouteColumn(
        name=name,
        expression=expression.text,
        reads=expression.reads,
        type=there.type if there else "",
        plain=expression.plain,
        binary=False,  # the expression's type need not be the column's
    )


def _find(table: Table, name: str) -> Column | None:
    return next((column for column in table.columns if column.name == name), None)


def _check_filled(
    target: Table, expressions: Mapping[Path, Expression], path: Path, problems: Problems
) -> None:
    for here in expressions:
        column = _find(target, str(here[-1]))
        if column is None:
            known = [column.name for column in target.columns]
            message = f"{target.name} has no column {here[-1]!r}"
            problems.add(here, message, one_of(str(here[-1]), known), at_key=True)
        elif column.generated is not None:
            problems.add(here, f"{target.name} generates {here[-1]!r} itself", at_key=True)
    filled = {here[-1] for here in expressions}
    for column in target.columns:
        if column.name not in filled and _must_be_filled(column):
            problems.add(path, f"{target.name}.{column.name} is NOT NULL and has no expression")


def _must_be_filled(column: Column) -> bool:
    has_value = column.default is not None or column.identity or column.generated is not None
    return column.not_null and not has_value
