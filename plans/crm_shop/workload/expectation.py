"""What must be in the database after a history, and what contradicts it.  No I/O.

Each key has a set of numbers of rows that are right: the sum of what was acknowledged,
plus any part of what is of unknown outcome.  Counters work alike, from the number that
the first recorded transaction on the row found.

A sum cannot see one lost and one doubled increment of the same row.  The numbers reached
can: two acknowledged transactions never reach the same one, unless the second did not see
the first, which means that the first was lost.

Weakness: an increment that was lost before this history's first write to that row is not
seen.  Which write was first is told by the clock, so it must not be set back in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from plans.crm_shop.workload.history import CountEffect, Outcome, RowEffect, Transaction

Observed = Mapping[str, tuple[int, str | None]]
"""Key → how many rows, or what the counter says; and the content."""


class Kind(Enum):
    """What is wrong."""

    MISSING = "missing"  # acknowledged, and not there
    DOUBLED = "doubled"  # there more often than acknowledged
    PHANTOM = "phantom"  # rolled back or deleted, and there
    ALTERED = "altered"  # there, with another content
    TORN = "torn"  # a transaction of unknown outcome that is there in part


@dataclass(frozen=True, slots=True)
class Fault:
    """One contradiction between the history and the data."""

    kind: Kind
    subject: str
    key: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.subject} {self.key}: {self.text}"


@dataclass(slots=True)
class RowsOfKey:
    """What transactions did to the rows of one key."""

    acknowledged: int = 0
    unknown: list[int] = field(default_factory=list)
    contents: set[str] = field(default_factory=set)
    operations: list[tuple[str, Outcome]] = field(default_factory=list)

    def add(self, effect: RowEffect, transaction: Transaction) -> None:
        """Take one effect into account."""
        self.operations.append((transaction.operation, transaction.outcome))
        if transaction.outcome is Outcome.VOID or effect.change == 0:
            return
        if effect.content is not None and effect.change > 0:
            self.contents.add(effect.content)
        if transaction.outcome is Outcome.ACKNOWLEDGED:
            self.acknowledged += effect.change
        else:
            self.unknown.append(effect.change)

    def allowed(self) -> set[int]:
        """Every number of rows that the history permits."""
        return {max(0, number) for number in _sums(self.acknowledged, self.unknown)}

    def __str__(self) -> str:
        return ", ".join(f"{operation} ({how.value})" for operation, how in self.operations)


@dataclass(slots=True)
class CountOfKey:
    """What transactions did to one counter."""

    first_at: float = float("inf")
    found: int = 0  # by the first of them
    acknowledged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    contents: dict[int, set[str]] = field(default_factory=dict)

    def add(self, effect: CountEffect, transaction: Transaction) -> None:
        """Take one effect into account."""
        if transaction.outcome is Outcome.VOID:
            # It read the counter, too: where nothing else did, that is what it was.
            if self.first_at == float("inf"):
                self.found = effect.reached - 1
            return
        if transaction.at < self.first_at:
            self.first_at, self.found = transaction.at, effect.reached - 1
        if effect.content is not None:
            self.contents.setdefault(effect.reached, set()).add(effect.content)
        known = transaction.outcome is Outcome.ACKNOWLEDGED
        (self.acknowledged if known else self.unknown).append(effect.reached)


@dataclass(slots=True)
class Expectation:
    """All that a history says about the data."""

    rows: dict[str, dict[str, RowsOfKey]] = field(default_factory=dict)
    counts: dict[str, dict[str, CountOfKey]] = field(default_factory=dict)
    unknown: list[Transaction] = field(default_factory=list)

    def add(self, transaction: Transaction) -> None:
        """Take one transaction into account."""
        for row in transaction.rows:
            of_subject = self.rows.setdefault(row.subject, {})
            of_subject.setdefault(row.key, RowsOfKey()).add(row, transaction)
        for count in transaction.counts:
            counts = self.counts.setdefault(count.subject, {})
            counts.setdefault(count.key, CountOfKey()).add(count, transaction)
        if transaction.outcome is Outcome.UNKNOWN:
            self.unknown.append(transaction)


def judge_rows(subject: str, expected: Mapping[str, RowsOfKey], seen: Observed) -> Iterator[Fault]:
    """The keys of a row subject whose rows contradict the history."""
    for key, rows in expected.items():
        number, content = seen.get(key, (0, None))
        allowed = rows.allowed()
        if number not in allowed:
            text = f"{number} rows after {rows}"
            yield Fault(_kind(number, allowed), subject, key, 1, text)
        elif number and rows.contents and content not in rows.contents:
            text = f"holds {content!r}, was written as {sorted(rows.contents)}"
            yield Fault(Kind.ALTERED, subject, key, 1, text)


def judge_counts(
    subject: str, expected: Mapping[str, CountOfKey], seen: Observed
) -> Iterator[Fault]:
    """The counters that contradict the history; each lost or doubled increment counts."""
    for key, count in expected.items():
        if key not in seen:
            if count.acknowledged:
                yield Fault(Kind.MISSING, subject, key, len(count.acknowledged), "no such row")
            continue
        number, content = seen[key]
        allowed = _sums(count.found + len(count.acknowledged), [1] * len(count.unknown))
        text = (
            f"says {number}; was {count.found}, and {len(count.acknowledged)} increments were"
            f" acknowledged, {len(count.unknown)} are unknown"
        )
        twice = sum(times - 1 for times in Counter(count.acknowledged).values())
        lost = max(twice, min(allowed) - number)
        doubled = number + lost - max(allowed)
        if lost > 0:
            yield Fault(Kind.MISSING, subject, key, lost, text)
        if doubled > 0:
            yield Fault(Kind.DOUBLED, subject, key, doubled, text)
        right = count.contents.get(number)
        if right and content not in right and lost <= 0 and doubled <= 0:
            text = f"at {number} holds {content!r}, was written as {sorted(right)}"
            yield Fault(Kind.ALTERED, subject, key, 1, text)


def judge_whole(
    unknown: Iterable[Transaction],
    rows: Mapping[str, Mapping[str, RowsOfKey]],
    seen: Mapping[str, Observed],
) -> Iterator[Fault]:
    """The transactions of unknown outcome of which a part is there, and a part is not."""
    for transaction in unknown:
        own = [
            effect
            for effect in transaction.rows
            if effect.change > 0 and len(rows[effect.subject][effect.key].operations) == 1
        ]
        there = [effect.key in seen.get(effect.subject, {}) for effect in own]
        if any(there) and not all(there):
            effect = own[there.index(False)]
            text = f"{transaction.operation} {transaction.id} is there without it"
            yield Fault(Kind.TORN, effect.subject, effect.key, 1, text)


def _kind(number: int, allowed: set[int]) -> Kind:
    if max(allowed) == 0:
        return Kind.PHANTOM
    return Kind.DOUBLED if number > max(allowed) else Kind.MISSING


def _sums(known: int, unknown: Iterable[int]) -> set[int]:
    sums = {known}
    for change in unknown:
        sums |= {number + change for number in sums}
    return sums
