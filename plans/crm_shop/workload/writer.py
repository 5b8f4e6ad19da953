"""One writer: operations in turn, retried as an application would.

A retry is a new transaction with new tokens.  An operation of unknown outcome is not
retried: the application cannot know whether that would do it twice.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import psycopg

from plans.crm_shop.workload.attempt import Attempt, NothingToDo, RollBack
from plans.crm_shop.workload.history import HistoryFile, Outcome, Transaction
from plans.crm_shop.workload.routing import RoutingUnreadable
from plans.crm_shop.workload.session import OutcomeUnknown, Session, describe

RETRY_S_MAX = 30.0
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.01, 0.1  # the pause to be seen is well below a second
REPEATABLE_READ_SHARE = 0.2
LATE_S_MAX = 0.5  # a writer that fell behind its rate does not catch up more than this


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that an application does, and how often it does it."""

    name: str
    weight: float
    act: Callable[[Attempt], None]
    bulk: bool = False  # expected to take long


@dataclass(slots=True)
class Tally:
    """What one writer, or all of them, have done so far."""

    acknowledged: int = 0
    rolled_back: int = 0  # on purpose
    retried: int = 0  # attempts that failed
    indeterminate: int = 0
    given_up: int = 0
    crashed: int = 0  # writers that a bug of an operation ended
    max_pause_ms: float = 0.0  # from the start of the first failed attempt to the next success
    slowest_ms: float = 0.0  # one transaction that succeeded, bulk operations aside
    operations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str = ""

    def __iadd__(self, other: Tally) -> Tally:
        """Add up."""
        self.acknowledged += other.acknowledged
        self.rolled_back += other.rolled_back
        self.retried += other.retried
        self.indeterminate += other.indeterminate
        self.given_up += other.given_up
        self.crashed += other.crashed
        self.max_pause_ms = max(self.max_pause_ms, other.max_pause_ms)
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)
        self.operations = self.operations + other.operations
        self.errors = self.errors + other.errors
        self.last_error = other.last_error or self.last_error
        return self


@dataclass(slots=True)
class Signals:
    """What the writers are told."""

    stop: Event = field(default_factory=Event)
    go: Event = field(default_factory=Event)


class Writer:
    """The applications of one role, as one connection of theirs."""

    def __init__(  # noqa: PLR0913 - each is named
        self,
        name: str,
        operations: Sequence[Operation],
        *,
        place: Callable[[], str],
        history_dir: Path,
        interval_s: float,
        seed: str,
        retry_s_max: float = RETRY_S_MAX,
    ) -> None:
        self.name = name
        self.tally = Tally()
        self.idle = Event()
        self._operations = operations
        self._session = Session(place, name=name)
        self._history = HistoryFile(history_dir, f"{name}-{seed}")
        self._interval_s = interval_s
        self._seed = seed
        self._retry_s_max = retry_s_max
        self._chance = random.Random(f"{seed} {name}")  # noqa: S311 - not a secret
        self._memory: dict[str, list[str]] = {}
        self._number = 0
        self._failing_since: float | None = None
        self._signals = Signals()

    def run(self, signals: Signals) -> None:
        """Work until told to stop."""
        self._signals = signals
        due = time.monotonic() + self._interval_s * self._chance.random()
        weights = [operation.weight for operation in self._operations]
        try:
            while not signals.stop.is_set():
                self._wait_for_go()
                if signals.stop.wait(max(0.0, due - time.monotonic())):
                    break
                [operation] = self._chance.choices(self._operations, weights)
                self._perform(operation)
                due = max(due + self._interval_s, time.monotonic() - LATE_S_MAX)
        finally:
            self.tally.crashed += not signals.stop.is_set()
            self.idle.set()
            self._session.close()
            self._history.close()

    def _wait_for_go(self) -> None:
        """Rest while paused; `idle` says that no transaction is open."""
        while not self._signals.go.is_set() and not self._signals.stop.is_set():
            self.idle.set()
            self._signals.go.wait(0.05)
        self.idle.clear()

    def _perform(self, operation: Operation) -> None:
        """Try until it succeeds, or for as long as an application would."""
        give_up_at = time.monotonic() + self._retry_s_max
        backoff_s = BACKOFF_S_MIN
        while not self._attempt(operation):
            if time.monotonic() > give_up_at:
                self.tally.given_up += 1
                return
            if self._signals.stop.wait(backoff_s * self._chance.uniform(0.5, 1.0)):
                return
            backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)

    def _attempt(self, operation: Operation) -> bool:
        """Whether this operation is over: done, rolled back on purpose, or unknown."""
        started = time.monotonic()
        self._number += 1
        transaction = Transaction(f"{self.name}-{self._number}", operation.name, time.time())
        try:
            self._transact(operation, transaction, started)
        except NothingToDo:
            self._session.roll_back()
        except RollBack:
            self._session.roll_back()
            self._history.void(transaction)
            self.tally.rolled_back += 1
        except OutcomeUnknown as error:
            self._session.close()
            self._history.settle(transaction, Outcome.UNKNOWN)
            self.tally.indeterminate += 1
            self._failed(str(error), started)
        except (psycopg.Error, RoutingUnreadable) as error:
            self._session.roll_back()
            self._history.void(transaction)
            self.tally.retried += 1
            self._failed(describe(error), started)
            return False
        return True

    def _transact(self, operation: Operation, transaction: Transaction, started: float) -> None:
        repeatable_read = self._chance.random() < REPEATABLE_READ_SHARE
        attempt = Attempt(
            self._session.begin(repeatable_read=repeatable_read),
            chance=self._chance,
            token=self._token,
            memory=self._memory,
        )
        # The lists are the same: what an attempt did is known however it ends.
        transaction.rows, transaction.counts = attempt.rows, attempt.counts
        operation.act(attempt)
        transaction.at = time.time()  # with the rows locked: later writers of them come later
        self._history.begin(transaction)
        self._session.commit()
        attempt.acknowledged()
        self._succeeded(operation, transaction, started)

    def _succeeded(self, operation: Operation, transaction: Transaction, started: float) -> None:
        now = time.monotonic()
        transaction.took_ms = (now - started) * 1000
        paused_ms = 0.0 if self._failing_since is None else (now - self._failing_since) * 1000
        self._failing_since = None
        self._history.settle(transaction, Outcome.ACKNOWLEDGED, paused_ms=paused_ms)
        self.tally.acknowledged += 1
        self.tally.operations[operation.name] += 1
        self.tally.max_pause_ms = max(self.tally.max_pause_ms, paused_ms)
        if not operation.bulk:
            self.tally.slowest_ms = max(self.tally.slowest_ms, transaction.took_ms)

    def _failed(self, error: str, started: float) -> None:
        if self._failing_since is None:
            self._failing_since = started
        self.tally.errors[error.split(":")[0]] += 1
        self.tally.last_error = error

    def _token(self) -> str:
        self._number += 1
        return f"{self.name}-{self._seed}-{self._number}"
