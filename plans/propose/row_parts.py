"""A table's rows, by a column whose value tells which service wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from plans.catalog import Column, Table
from plans.expressions import quoted, read_expression
from plans.propose.evidence import Evidence
from plans.propose.roles import Roles
from plans.propose.tally import Activity
from plans.propose.yaml_text import flow
from plans.usage.model import ColumnValues, Values

# A person reads them.
SUGGESTIONS_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class RowParts:
    """Predicates of which exactly one is true for every row, whatever it holds."""

    predicates: Mapping[str, str]
    why: str


def row_parts(
    table: Table,
    writers: Sequence[str],
    activity: Activity,
    evidence: Evidence,
    roles: Roles,
) -> RowParts | None:
    """Parts by row, if all inserts were seen with values that differ by service.

    The last part is everything that isn't in the others, so that no row is in none.
    """
    if not all(name in activity.inserts for name in writers) or activity.hidden:
        return None
    found = []
    for column in table.columns:
        if not column.not_null or _is_updated(column, activity):
            continue
        values = _values(table, column, evidence, roles)
        if None in values or set(values) != set(writers):
            continue
        known = {name: one.known for name, one in values.items() if name is not None}
        if any(one.others or not one.known for one in values.values()) or not _differ(known):
            continue
        found.append((sum(map(len, known.values())), column, known))
    if not found:
        return None
    _, column, known = min(found, key=lambda one: one[0])
    why = "; ".join(f"{name} inserts {_shown(column, known[name])}" for name in sorted(known))
    return RowParts(_predicates(column, known), why)


def rows_suggested(
    table: Table,
    owner: str,
    writers: Sequence[str],
    activity: Activity,
    evidence: Evidence,
    roles: Roles,
) -> tuple[str, ...]:
    """Entries for a person to choose from and to finish, as YAML in one line each.

    By columns with few values; by what some inserts are known to bring, if that is so.
    """
    if len([name for name in writers if name in activity.inserts]) < 2:
        return ()
    others = [name for name in writers if name != owner]
    suggested = list(_half_known(table, writers, evidence, roles))
    for column, values in _discriminators(table, evidence):
        listed = ", ".join(_literal(value) for value in values.common)
        parts = dict.fromkeys((*others, owner), f"{_name(column)} IN (…)")
        of = f"of {listed}" if listed else f"of {values.distinct} values"
        suggested.append(f"split_rows: {flow(parts)}  # {of}")
    return tuple(suggested[:SUGGESTIONS_MAX])


def _half_known(
    table: Table, writers: Sequence[str], evidence: Evidence, roles: Roles
) -> Iterator[str]:
    """Columns into which all services but one insert known values: the one may have the rest."""
    for column in table.columns:
        values = _values(table, column, evidence, roles)
        known = {
            name: values[name].known
            for name in writers
            if name in values and values[name].known and not values[name].others
        }
        rest = [name for name in writers if name not in known]
        if column.not_null and len(rest) == 1 and _differ(known):
            last = _among(column, frozenset[str]().union(*known.values()), is_not=True)
            parts = {**{name: _among(column, held) for name, held in known.items()}, rest[0]: last}
            yield f"split_rows: {flow(parts)}  # if {rest[0]} never inserts the others"


def _is_updated(column: Column, activity: Activity) -> bool:
    """Whether more writes set the column than bring rows, so that rows may change sides."""
    by = activity.columns.get(column.name, {})
    return any(
        name not in activity.inserts or amount.statements > activity.inserts[name].statements
        for name, amount in by.items()
    )


def _values(
    table: Table, column: Column, evidence: Evidence, roles: Roles
) -> dict[str | None, Values]:
    """What each service inserts into a column; None for those that are nobody's."""
    found: dict[str | None, Values] = {}
    for (name, column_name, actor), one in evidence.usage.inserted.items():
        if name == table.name and column_name == column.name:
            service = roles.service_of(actor)
            before = found.get(service, Values())
            found[service] = Values(before.known | one.known, before.others or one.others)
    return found


def _differ(known: Mapping[str, frozenset[str]]) -> bool:
    sets = list(known.values())
    return len(frozenset[str]().union(*sets)) == sum(map(len, sets))


def _predicates(column: Column, known: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """The part with most values gets what is left, too: new values are more likely its own."""
    last = max(known, key=lambda name: (len(known[name]), name))
    named = {name: values for name, values in known.items() if name != last}
    parts = {name: _among(column, values) for name, values in named.items()}
    return {**parts, last: _among(column, frozenset[str]().union(*named.values()), is_not=True)}


def _among(column: Column, values: frozenset[str], *, is_not: bool = False) -> str:
    name = _name(column)
    if len(values) == 1:
        return f"{name} {'<>' if is_not else '='} {_literal(next(iter(values)))}"
    listed = ", ".join(map(_literal, sorted(values)))
    return f"{name} {'NOT IN' if is_not else 'IN'} ({listed})"


def _name(column: Column) -> str:
    """The column in an expression, without quotes where they aren't needed."""
    return column.name if read_expression(column.name).plain == column.name else quoted(column.name)


def _shown(column: Column, values: frozenset[str]) -> str:
    return f"{column.name} {', '.join(sorted(values))}"


def _literal(value: str) -> str:
    return sql.Literal(value).as_string()


def _discriminators(table: Table, evidence: Evidence) -> Iterator[tuple[Column, ColumnValues]]:
    """Columns with few values, enums first; keys to other tables tell nothing by themselves."""
    pointing = {
        name
        for key in evidence.catalog.foreign_keys
        if key.table == table.name
        for name in key.columns
    }
    found = []
    for place, column in enumerate(table.columns):
        values = evidence.statistics.columns.get((table.name, column.name))
        if values and column.not_null and column.name not in pointing | set(table.key):
            is_flag = column.type in ("boolean", "smallint", "integer")
            found.append((is_flag, values.distinct, place, column, values))
    for *_, column, values in sorted(found, key=lambda one: one[:3]):
        yield column, values
