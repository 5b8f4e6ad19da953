"""Adding up what became of a table's candidates; no I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence

from validators.evidence import Counts
from validators.mismatches import how_of
from validators.recheck import Limits, Settled
from validators.results import ChunkHash, Difference, How, State, TableResult
from validators.sides import Key, Pair

UNSETTLED = "some rows changed too often to be compared"
HIDDEN = (
    "a statement that writes to the leader, or a commit there, takes so long that some rows may be"
    " about to change (a role with pg_read_all_stats can tell them apart)"
)


class Tally:
    """The result of one pair while it grows."""

    def __init__(self, pair: Pair, limits: Limits) -> None:
        self.rows = 0
        self.fingerprint = ""
        self.chunks: tuple[ChunkHash, ...] = ()
        self.sums = 0  # of hashes, that were compared
        self.found = 0  # keys that differed at first sight
        self.reason = ""  # set: no more rechecks
        self._pair = pair
        self._limits = limits
        self._counts = Counts()
        self._healed = 0
        self._unverified = 0
        self._unsettled = ""  # why some are not
        self._held: list[tuple[Key, How]] = []
        self._examples: list[Difference] = []
        self._started = time.monotonic()

    @property
    def settled(self) -> int:
        """Keys of which it is known whether they differ."""
        return self.found - self._unverified

    def add(self, keys: Sequence[Key], settled: Settled) -> None:
        """Count what a recheck of these keys brought."""
        self.found += len(keys)
        self._healed += settled.healed
        self._unverified += len(settled.unsettled)
        if settled.unsettled:
            self._unsettled = UNSETTLED if settled.is_visible else HIDDEN
        for key, counts in settled.differing.items():
            self._counts += counts
            if len(self._held) < self._limits.differences_held:
                self._held.append((key, how_of(counts)))

    def leave(self, keys: Sequence[Key]) -> None:
        """Count keys that are not rechecked."""
        self.found += len(keys)
        self._unverified += len(keys)

    @property
    def examples_wanted(self) -> int:
        """How many more differences are to be shown."""
        return self._limits.examples - len(self._examples)

    def show(self, differences: Sequence[Difference]) -> None:
        """Keep as many of these as are still wanted."""
        some = differences[: self.examples_wanted]
        self._examples += [difference.shortened() for difference in some]

    def result(self) -> TableResult:
        """What was found."""
        return self._result(self._state(), self.reason or self._unsettled)

    def unreadable(self, error: Exception) -> TableResult:
        """The result where the comparison came to no end: what was found by then is found."""
        state: State = "different" if self._counts else "unverified"
        return self._result(state, str(error).strip() or type(error).__name__)

    def _collision_bound(self) -> float:
        """See `TableResult.collision_bound`."""
        by_sum = self.sums * 2.0**-62  # a sum modulo nearly 2**63, of hashes that may be equal
        return by_sum + self.found * (len(self._pair.columns) + 1) * 2.0**-64

    def _state(self) -> State:
        if self._counts:
            return "different"
        return "unverified" if self._unverified else "equal"

    def _result(self, state: State, reason: str) -> TableResult:
        return TableResult(
            table=self._pair.table,
            service=self._pair.service,
            route=self._pair.route,
            state=state,
            rows=self.rows,
            missing=self._counts.missing,
            extra=self._counts.extra,
            different=self._counts.different,
            unverified=self._unverified,
            healed=self._healed,
            differences=tuple(
                Difference(key if self._pair.key else (), how) for key, how in self._held
            ),
            examples=tuple(self._examples),
            reason=reason,
            fingerprint=self.fingerprint,
            chunks=self.chunks,
            scope=self._pair.scope,
            collision_bound=self._collision_bound(),
            elapsed_s=time.monotonic() - self._started,
        )
