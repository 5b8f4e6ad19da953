"""Holding the histories against the databases where the data are now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from plans.crm_shop.workload.expectation import (
    Expectation,
    Fault,
    Kind,
    Observed,
    judge_counts,
    judge_rows,
    judge_whole,
)
from plans.crm_shop.workload.history import Outcome, read_histories
from plans.crm_shop.workload.subject import Subjects
from plans.crm_shop.workload.subjects import SUBJECTS

CONNECT_S_MAX = 10
EXAMPLES_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryReport:
    """What became of every transaction that a writer sent."""

    acknowledged: int
    indeterminate: int
    void: int  # rolled back, or failed for certain
    effects: int  # keys and counters that were looked up
    missing: int
    doubled: int
    phantom: int
    altered: int
    torn: int
    examples: tuple[str, ...]
    max_pause_ms: float

    @property
    def faults(self) -> int:
        """All contradictions; nothing less than zero is a pass."""
        return self.missing + self.doubled + self.phantom + self.altered + self.torn

    @property
    def whole(self) -> bool:
        """Whether something was acknowledged, and all of it is there exactly once."""
        return self.acknowledged > 0 and self.faults == 0


def check_history(
    history_dir: Path, places: Mapping[str, str], subjects: Subjects = SUBJECTS
) -> HistoryReport:
    """Compare all that was acknowledged with what is there; the writers must be at rest.

    `places` maps each service to the conninfo of the database that now owns its tables,
    with a user that may read them.  Raise psycopg.Error if one cannot be read, and
    KeyError if a history tells of a subject or a service that is not given.
    """
    expectation = Expectation()
    outcomes: Counter[Outcome] = Counter()
    max_pause_ms = 0.0
    for transaction in read_histories(history_dir):
        expectation.add(transaction)
        outcomes[transaction.outcome] += 1
        max_pause_ms = max(max_pause_ms, transaction.paused_ms)
    seen = _observe(expectation, places, subjects)
    faults = _judge(expectation, seen)
    numbers = Counter[Kind]()
    for fault in faults:
        numbers[fault.kind] += fault.number
    return HistoryReport(
        acknowledged=outcomes[Outcome.ACKNOWLEDGED],
        indeterminate=outcomes[Outcome.UNKNOWN],
        void=outcomes[Outcome.VOID],
        effects=sum(len(keys) for keys in _wanted(expectation).values()),
        missing=numbers[Kind.MISSING],
        doubled=numbers[Kind.DOUBLED],
        phantom=numbers[Kind.PHANTOM],
        altered=numbers[Kind.ALTERED],
        torn=numbers[Kind.TORN],
        examples=tuple(map(str, faults[:EXAMPLES_MAX])),
        max_pause_ms=max_pause_ms,
    )


def _observe(
    expectation: Expectation, places: Mapping[str, str], subjects: Subjects
) -> dict[str, Observed]:
    """The state of all keys that the history names, from one snapshot of each service."""
    wanted = _wanted(expectation)
    seen: dict[str, Observed] = {}
    for service in sorted({subjects[name].service for name in wanted}):
        with psycopg.connect(places[service], connect_timeout=CONNECT_S_MAX) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            for name, keys in wanted.items():
                if subjects[name].service == service:
                    seen[name] = subjects[name].observe(connection, keys)
    return seen


def _wanted(expectation: Expectation) -> dict[str, Collection[str]]:
    return {**expectation.rows, **expectation.counts}


def _judge(expectation: Expectation, seen: Mapping[str, Observed]) -> list[Fault]:
    faults: list[Fault] = []
    for name, rows in expectation.rows.items():
        faults += judge_rows(name, rows, seen[name])
    for name, counts in expectation.counts.items():
        faults += judge_counts(name, counts, seen[name])
    faults += judge_whole(expectation.unknown, expectation.rows, seen)
    return faults
