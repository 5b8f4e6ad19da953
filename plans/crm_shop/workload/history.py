"""What the writers did: an append-only file for each, which an audit reads afterwards.

A transaction leaves two lines.  The first names its effects and is in the hands of the
operating system before COMMIT is sent, so it survives a kill -9 of the writer; the second
is the outcome.  A first line without a second one is a transaction of unknown outcome.

Effects are chosen so that later writes do not hide them.  A row effect says that so many
rows with a key of their own (a token used only once) came or went.  A count effect says
which number a row's counter, increased by every write to that row, had reached.

Weakness: lines are not forced to the disk, so a crash of the whole machine may lose the
last ones.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

SUFFIX = ".jsonl"


class Outcome(Enum):
    """How a transaction ended, as its writer knows it."""

    ACKNOWLEDGED = "ack"  # the server answered COMMIT
    VOID = "void"  # rolled back, on purpose or by an error: it must have left nothing
    UNKNOWN = "unknown"  # the connection was lost during COMMIT


@dataclass(frozen=True, slots=True)
class RowEffect:
    """`change` rows with this key came (or went, if negative); 0: they were rolled back."""

    subject: str
    key: str
    change: int
    content: str | None = None  # of the row that came, as the database printed it


@dataclass(frozen=True, slots=True)
class CountEffect:
    """The row's counter went from ``reached - 1`` to `reached`."""

    subject: str
    key: str
    reached: int
    content: str | None = None  # of the row at this count


@dataclass(slots=True)
class Transaction:
    """One attempt of one operation."""

    id: str
    operation: str
    at: float  # seconds since the epoch, before COMMIT
    rows: Sequence[RowEffect] = field(default_factory=list)
    counts: Sequence[CountEffect] = field(default_factory=list)
    outcome: Outcome = Outcome.UNKNOWN
    ended_at: float | None = None
    took_ms: float = 0.0  # from the start of the attempt to the acknowledgement
    paused_ms: float = 0.0  # from the start of the first attempt that failed; 0: none failed


class HistoryFile:
    """The history of one writer; used by one thread."""

    def __init__(self, directory: Path, writer: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{writer}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        self._file = os.open(self.path, flags, 0o644)

    def begin(self, transaction: Transaction) -> None:
        """Record the effects; afterwards COMMIT may be sent."""
        self._append([_begin(transaction)])

    def settle(self, transaction: Transaction, outcome: Outcome, *, paused_ms: float = 0.0) -> None:
        """Record the outcome of what `begin` recorded."""
        transaction.outcome = outcome
        transaction.paused_ms = paused_ms
        self._append([_end(transaction)])

    def void(self, transaction: Transaction) -> None:
        """Record a transaction for which no COMMIT was sent."""
        transaction.outcome = Outcome.VOID
        self._append([_begin(transaction), _end(transaction)])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _append(self, records: Iterable[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        os.write(self._file, lines.encode())


def read_histories(directory: Path) -> Iterator[Transaction]:
    """All transactions of all writers, of each writer in its order."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        yield from _read(path)


def _begin(transaction: Transaction) -> dict[str, Any]:
    return {
        "begin": transaction.id,
        "op": transaction.operation,
        "at": transaction.at,
        "rows": [[e.subject, e.key, e.change, e.content] for e in transaction.rows],
        "counts": [[e.subject, e.key, e.reached, e.content] for e in transaction.counts],
    }


def _end(transaction: Transaction) -> dict[str, Any]:
    transaction.ended_at = time.time()
    return {
        "end": transaction.id,
        "outcome": transaction.outcome.value,
        "at": transaction.ended_at,
        "took_ms": round(transaction.took_ms, 1),
        "paused_ms": round(transaction.paused_ms, 1),
    }


def _read(path: Path) -> Iterator[Transaction]:
    open_: dict[str, Transaction] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                break  # cut off by a kill: its COMMIT was not sent, or its outcome is unknown
            record = json.loads(line)
            if "begin" in record:
                open_[record["begin"]] = _transaction(record)
                continue
            transaction = open_.pop(record["end"])
            transaction.outcome = Outcome(record["outcome"])
            transaction.ended_at = record["at"]
            transaction.took_ms = record["took_ms"]
            transaction.paused_ms = record["paused_ms"]
            yield transaction
    yield from open_.values()


def _transaction(record: dict[str, Any]) -> Transaction:
    return Transaction(
        id=record["begin"],
        operation=record["op"],
        at=record["at"],
        rows=[RowEffect(*effect) for effect in record["rows"]],
        counts=[CountEffect(*effect) for effect in record["counts"]],
    )
