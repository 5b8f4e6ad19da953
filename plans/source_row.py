"""A plan's expression on the row of one source table."""

from __future__ import annotations

from plans.catalog import Column, Table
from plans.expressions import Expression, read_expression
from plans.places import Path
from plans.problems import Problems, one_of


def over_row(text: str, table: Table, path: Path, problems: Problems) -> Expression:
    """Parse an expression of the plan; add what is wrong with it on this table."""
    expression = read_expression(text)
    for problem in expression.problems:
        problems.add(path, problem, "an expression is immutable SQL over one source row")
    columns = {column.name: column for column in table.columns}
    for name in sorted(expression.reads):
        if name not in columns:
            problems.add(path, f"{table.name} has no column {name!r}", one_of(name, columns))
        elif columns[name].generated is not None:
            problems.add(
                path,
                f"{name!r} is a generated column, which the replication stream doesn't carry",
                f"write its expression instead: {columns[name].generated}",
            )
    return expression


def known_columns(
    names: tuple[str, ...], table: Table, path: Path, problems: Problems
) -> frozenset[str]:
    """Those of `names` that are columns of the table; the others are problems."""
    known = {column.name for column in table.columns}
    for index, name in enumerate(names):
        if name not in known:
            problems.add(
                (*path, index), f"{table.name} has no column {name!r}", one_of(name, known)
            )
    return frozenset(names) & known


def generated_reads(column: Column) -> frozenset[str]:
    """The columns from which a generated column is computed."""
    return read_expression(column.generated).reads if column.generated else frozenset()
