"""Reads and writes of each table, by who does them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from plans.catalog import TableName
from plans.statements.model import Touch
from plans.usage.model import Actor, Usage, Used

# Less than a minute of statistics says as little of a day as a minute does.
DAYS_MIN: Final = 1 / (24 * 60)


@dataclass(frozen=True, slots=True)
class Amount:
    """How often something was done."""

    calls: float = 0.0
    per_day: float = 0.0
    statements: int = 0  # different ones, executed or not

    @property
    def weight(self) -> float:
        """For comparison; a statement in code, which may never run, counts as one call a day."""
        return self.per_day + self.statements

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.calls + other.calls,
            self.per_day + other.per_day,
            self.statements + other.statements,
        )

    def most(self, other: Amount) -> Amount:
        """The greater of both: two origins may have seen the same calls."""
        return max(self, other, key=lambda one: (one.weight, one.calls, one.statements))


By = Mapping[str, Amount]
"""By role, service or column."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What is done to one table, by the names that `tally` was asked for."""

    writes: By = field(default_factory=dict)
    reads: By = field(default_factory=dict)
    inserts: By = field(default_factory=dict)  # writes that bring rows, directly
    hidden: By = field(default_factory=dict)  # writes through functions, triggers and COPY
    columns: Mapping[str, By] = field(default_factory=dict)  # that are written
    columns_read: Mapping[str, By] = field(default_factory=dict)


IDLE: Final = Activity()


def tally(usage: Usage, name_of: Callable[[Actor], str | None]) -> dict[TableName, Activity]:
    """Each table's activity; `name_of` says whose an actor's statements are, None for nobody's.

    Within an origin of statements amounts add up, of several the greatest counts.
    """
    days = {one.name: one.days for one in usage.origins}
    found: dict[TableName, _Tally] = defaultdict(_Tally)
    for used in usage.used:
        name = name_of(used.actor)
        if name is None or used.statement.verb == "ddl":
            continue
        amount = _amount(used, days.get(used.origin))
        for touch in used.statement.touches:
            found[touch.table].add(used, touch, name, amount)
    return {table: one.activity() for table, one in found.items()}


def _amount(used: Used, days: float | None) -> Amount:
    if used.calls is None or days is None:
        return Amount(statements=1)
    return Amount(used.calls, used.calls / max(days, DAYS_MIN), 1)


Cell = tuple[str, str, str]  # kind, column or "", name


class _Tally:
    """One table's amounts by origin, until all are in."""

    def __init__(self) -> None:
        self._cells: dict[Cell, dict[str, Amount]] = defaultdict(lambda: defaultdict(Amount))

    def add(self, used: Used, touch: Touch, name: str, amount: Amount) -> None:
        for cell in _cells(used, touch, name):
            self._cells[cell][used.origin] += amount

    def activity(self) -> Activity:
        rows: dict[str, dict[str, Amount]] = defaultdict(dict)
        columns: dict[str, dict[str, dict[str, Amount]]] = defaultdict(lambda: defaultdict(dict))
        for (kind, column, name), by_origin in sorted(self._cells.items()):
            amount = Amount()
            for one in by_origin.values():
                amount = amount.most(one)
            if column:
                columns[kind][column][name] = amount
            else:
                rows[kind][name] = amount
        return Activity(
            writes=rows["write"],
            reads=rows["read"],
            inserts=rows["insert"],
            hidden=rows["hidden"],
            columns=columns["write"],
            columns_read=columns["read"],
        )


def _cells(used: Used, touch: Touch, name: str) -> Iterable[Cell]:
    kind = "write" if touch.writes else "read"
    yield kind, "", name
    for column in touch.columns:
        yield kind, column, name
    if touch.writes:
        verb = used.statement.verb
        if touch.via or verb in ("copy", "merge", "call", "do"):
            yield "hidden", "", name
        elif verb == "insert":
            yield "insert", "", name


def share(by: By, name: str) -> float:
    """The part of `name` in all; 0 if there is nothing."""
    total = sum(one.weight for one in by.values())
    return by[name].weight / total if name in by and total else 0.0


def total(by: By) -> Amount:
    """All together."""
    return sum(by.values(), Amount())


def rate(amount: Amount, noun: str) -> str:
    """How often, in words: "12,840 writes/day", "31 writes" of less than a day, "writes"."""
    if not amount.calls:
        return noun
    if amount.per_day > amount.calls:
        return f"{amount.calls:,.0f} {noun}"
    shown = f"{amount.per_day:,.0f}" if amount.per_day >= 1 else f"{amount.per_day:.1g}"
    return f"{shown} {noun}/day"
