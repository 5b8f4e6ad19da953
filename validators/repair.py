"""Repairing rows that differ, while applications write and the stream goes on.

Theory of operation.  A row is repaired only on the evidence of a recheck: the
leader's row is read, a marker passes, the follower's row is read, and the leader's
is still the same version.  Then, in one transaction of the follower, the applier is
kept from writing, the follower's row is locked and read again, and so is the
leader's.  If both are as they were, the leader's row has not changed since before
the marker, and every later change of it comes by the stream, after this transaction.
So the leader's row is written, read back, and committed.

A row that changes meanwhile is left to the stream, and looked at again later.  A
repair that is killed leaves whole transactions behind; running it again goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import psycopg

from cdc.crash import crash_point
from validators.evidence import ABSENT, Counts, Reading, count
from validators.fingerprint import Extents
from validators.lookup import alike
from validators.mismatches import groups_that_fit
from validators.recheck import CatchUp, Limits, Recheck
from validators.repair_write import NO_ROWS, Refused, RowWriter
from validators.session import Ends
from validators.sides import Key, Pair
from validators.visibility import all_visible

KEYS_PER_TURN = 250
"""The stream waits for so many rows at most: some milliseconds."""

ROUNDS_MAX = 10
BACKOFF_S = 0.1
VISIBLE_S_MAX = 0.2  # for commits of the leader to be seen, while the stream waits
CHANGING = "the row kept changing; it is left to the stream"
NOT_CAUGHT_UP = "whether the follower has applied the leader's changes is unknown"


@dataclass(slots=True)
class Repaired:
    """What became of the keys that were to be repaired."""

    inserted: int = 0
    deleted: int = 0
    updated: int = 0
    equal: int = 0  # nothing was to be done any more
    left: dict[Key, str] = field(default_factory=dict)  # with the reason

    @property
    def written(self) -> int:
        """Rows that were repaired."""
        return self.inserted + self.deleted + self.updated

    def note(self, counts: Counts) -> None:
        """Count what was written of one key."""
        self.inserted += counts.missing
        self.deleted += counts.extra
        self.updated += counts.different

    def __add__(self, other: Repaired) -> Repaired:
        return Repaired(
            self.inserted + other.inserted,
            self.deleted + other.deleted,
            self.updated + other.updated,
            self.equal + other.equal,
            self.left | other.left,
        )


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Both sides of a key, a marker apart."""

    leader: Reading
    follower: Reading


@dataclass(frozen=True, slots=True)
class Repair:
    """Repairs rows of one pair."""

    ends: Ends
    pair: Pair
    extents: Extents
    writer: RowWriter
    catch_up: CatchUp
    hold: Callable[[], None]  # raises once somebody else may decide who leads
    limits: Limits

    def run(self, keys: Sequence[Key]) -> Repaired:
        """Repair the rows of these keys; those that cannot be are left, with the reason."""
        done = Repaired()
        open_, refused = list(keys), dict[Key, str]()
        for number in range(ROUNDS_MAX):
            if number:
                time.sleep(BACKOFF_S * number)
            evidence, moving = self._evidence(open_, done)
            if moving is None:
                done.left |= dict.fromkeys(open_, NOT_CAUGHT_UP)
                return done
            open_ = moving
            for group in self._groups(list(evidence)):
                open_ += self._repair(group, evidence, done, refused)
            if not open_:
                break
        done.left |= dict.fromkeys(open_, CHANGING)
        if refused:
            self._together(refused, done)
        return done

    def _groups(self, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        if not self.pair.key:  # each look at a table without a key is a scan
            yield from [keys] if keys else []
            return
        for same in alike(keys):
            for start in range(0, len(same), KEYS_PER_TURN):
                some = same[start : start + KEYS_PER_TURN]
                yield from groups_that_fit(self.ends, self.pair, self.extents, some)

    def _evidence(
        self, keys: Sequence[Key], done: Repaired
    ) -> tuple[dict[Key, _Evidence], list[Key] | None]:
        """What proves that keys differ, and those that change; None if that cannot be told."""
        look = Recheck(self.ends, self.pair, self.extents, self.limits)
        before = look.read_leader(keys)
        if not self.catch_up(self.limits.catch_up_s):
            return {}, None
        follower = look.read_follower(keys)
        is_visible = self.ends.ask_leader(partial(all_visible, timeout_s=self.limits.visible_s))
        after = look.read_leader(keys)
        proven: dict[Key, _Evidence] = {}
        moving = []
        for key in keys:
            ours, theirs = after.get(key, ABSENT), follower.get(key, ABSENT)
            if ours.rows == theirs.rows:
                done.equal += 1
            elif is_visible and before.get(key, ABSENT) == ours:
                proven[key] = _Evidence(ours, theirs)
            else:
                moving.append(key)
        return proven, moving

    def _repair(
        self,
        keys: Sequence[Key],
        evidence: Mapping[Key, _Evidence],
        done: Repaired,
        refused: dict[Key, str],
    ) -> list[Key]:
        """Repair some keys in a transaction; returns those that are to be looked at again.

        If the follower refuses them, the halves are tried apart, down to single rows.
        """
        try:
            written = self._write(keys, evidence)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            return list(keys)
        except (Refused, psycopg.DataError, psycopg.IntegrityError) as error:
            if len(keys) == 1:
                refused[keys[0]] = str(error).strip().splitlines()[0]
                return []
            middle = len(keys) // 2
            return [
                *self._repair(keys[:middle], evidence, done, refused),
                *self._repair(keys[middle:], evidence, done, refused),
            ]
        for key in written:
            done.note(count(evidence[key].leader.rows, evidence[key].follower.rows))
        return [key for key in keys if key not in written]

    def _together(self, refused: dict[Key, str], done: Repaired) -> None:
        """Once more, all that was refused in one transaction: rows may be in each other's way."""
        keys = list(refused)
        evidence, _ = self._evidence(keys, done)
        again: set[Key] = set()
        if evidence:
            try:
                again = self._write(list(evidence), evidence)
            except (Refused, psycopg.Error):
                again = set()
        for key in again:
            done.note(count(evidence[key].leader.rows, evidence[key].follower.rows))
        done.left |= {key: reason for key, reason in refused.items() if key not in again}

    def _write(self, keys: Sequence[Key], evidence: Mapping[Key, _Evidence]) -> set[Key]:
        """Write the keys whose rows are still as they were; all of these, or none."""
        self.ends.check()
        with self.writer.turn() as cursor:
            self.writer.lock(cursor, keys)
            follower = self.writer.follower(cursor, keys)
            if not self.ends.ask_leader(partial(all_visible, timeout_s=VISIBLE_S_MAX)):
                return set()
            leader = self.ends.ask_leader(
                partial(self.writer.leader, extent=self.extents.leader, keys=keys)
            )
            firm = [
                key
                for key in keys
                if leader.get(key, NO_ROWS).reading == evidence[key].leader
                and follower.get(key, NO_ROWS).reading.rows == evidence[key].follower.rows
            ]
            if not firm:
                return set()
            self.writer.write(firm, leader, follower)
            written = self.writer.follower(cursor, firm)
            for key in firm:
                if written.get(key, NO_ROWS).reading.rows != leader.get(key, NO_ROWS).reading.rows:
                    raise Refused("the follower holds another row than the one that was written")
            crash_point("repair.written")
            self.hold()
        crash_point("repair.committed")
        return set(firm)
