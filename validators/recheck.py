"""Settling candidates while the leader is written to; see `validators.evidence`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cdc.connect import Connection
from validators.evidence import ABSENT, Counts, Reading, Round, Rows, Verdict, count, judge, share
from validators.fingerprint import Extents
from validators.lookup import Lookup, read_keys
from validators.session import Ends
from validators.sides import Key, Pair, Side
from validators.visibility import all_visible

CatchUp = Callable[[float], bool]
"""Wait, at most so many seconds, until the follower has applied all that the
leader had committed when it was called.  False if that cannot be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one table's comparison may use."""

    catch_up_s: float = 30.0
    visible_s: float = 1.0  # for commits of the leader to be seen, in each round
    rounds: int = 20  # a row that changes between all of them stays unverified
    backoff_s: float = 0.02  # doubled every round
    backoff_s_max: float = 1.0
    keys_per_round: int = 5_000
    candidates: int = 2_000_000  # beyond that, keys are unverified without a recheck
    differences_held: int = 10_000  # whoever wants all of them is handed them
    examples: int = 20


@dataclass(slots=True)
class Settled:
    """What became of the candidates."""

    differing: dict[Key, Counts] = field(default_factory=dict)
    healed: int = 0
    unsettled: list[Key] = field(default_factory=list)
    caught_up: bool = True  # False once the follower's position could not be told
    is_visible: bool = True  # False: in the last round, commits of the leader may have been hidden


@dataclass(frozen=True, slots=True)
class Recheck:
    """Reads keys of one pair."""

    ends: Ends
    pair: Pair
    extents: Extents
    limits: Limits

    def settle(self, keys: Sequence[Key], catch_up: CatchUp) -> Settled:
        """Recheck until every key is healed or really different, or the rounds are used up."""
        settled = Settled(unsettled=list(keys))
        before = self.read_leader(keys)
        last: dict[Key, Round] = {}
        follower: dict[Key, Reading] = {}
        for number in range(self.limits.rounds):
            if number:
                time.sleep(self._backoff_s(number))
            if not catch_up(self.limits.catch_up_s):
                settled.caught_up = False
                break
            seen = self.read_follower(settled.unsettled)
            share(seen, follower)
            follower = seen
            is_visible = settled.is_visible = self.ends.ask_leader(self._all_visible)
            after = self.read_leader(settled.unsettled)
            share(after, before)
            rounds = {
                key: Round(
                    before=before.get(key, ABSENT),
                    follower=follower.get(key, ABSENT),
                    after=after.get(key, ABSENT),
                    is_visible=is_visible,
                )
                for key in settled.unsettled
            }
            _note(settled, last, rounds)
            if not settled.unsettled:
                break
            last, before = rounds, after  # read after this round is before the next
        return settled

    def compare_now(self, keys: Sequence[Key]) -> Settled:
        """Compare once, where nothing changes any more."""
        settled = Settled()
        leader, follower = self.read_leader(keys), self.read_follower(keys)
        for key in keys:
            ours, theirs = leader.get(key, ABSENT).rows, follower.get(key, ABSENT).rows
            _note_difference(settled, key, ours, theirs)
        return settled

    def read_leader(self, keys: Sequence[Key]) -> dict[Key, Reading]:
        """What the leader holds of the keys."""
        return self.ends.ask_leader(lambda c: self._read(c, self.pair.leader, keys))

    def read_follower(self, keys: Sequence[Key]) -> dict[Key, Reading]:
        """What the follower holds of the keys."""
        return self.ends.ask_follower(lambda c: self._read(c, self.pair.follower, keys))

    def _read(self, connection: Connection, side: Side, keys: Sequence[Key]) -> dict[Key, Reading]:
        how = Lookup(hashing=self.ends.hashing, same_text=True)
        extent = self.extents.of(self.pair, side)
        return read_keys(connection, side, extent=extent, keys=keys, how=how)

    def _all_visible(self, connection: Connection) -> bool:
        return all_visible(connection, self.limits.visible_s)

    def _backoff_s(self, number: int) -> float:
        wait_s: float = self.limits.backoff_s * 2.0 ** (number - 1)
        return min(wait_s, self.limits.backoff_s_max)


def _note(settled: Settled, last: dict[Key, Round], rounds: dict[Key, Round]) -> None:
    unsettled = []
    for key, now in rounds.items():
        match judge(last.get(key), now):
            case Verdict.HEALED:
                settled.healed += 1
            case Verdict.REAL:
                _note_difference(settled, key, now.after.rows, now.follower.rows)
            case Verdict.OPEN:
                unsettled.append(key)
    settled.unsettled = unsettled


def _note_difference(settled: Settled, key: Key, leader: Rows, follower: Rows) -> None:
    if counts := count(leader, follower):
        settled.differing[key] = counts
    else:
        settled.healed += 1
