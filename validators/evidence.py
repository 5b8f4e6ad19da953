"""What was read of a key on both sides, and what it proves; no I/O.

While the leader is written to, a difference may only mean that the follower is
not there yet.  One round of rechecking a key is: read it on the leader, wait
until the follower has applied everything up to now, read it on the follower,
read it on the leader again.

* The follower shows what the leader showed before or after: it has *healed*.
* The leader's row stayed the same version through two rounds, and the follower
  showed the same wrong version in both: the difference is *real*.  The version
  (xmin) matters: a row that is deleted and inserted over and over again with
  the same content would look the same each time.  And what the follower had
  must be visible on the leader by then: a commit is in the log, and may be on
  the follower, before the leader shows it.
* Anything else is settled by another round, or never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from validators.sides import Key

Rows = tuple[tuple[int, int], ...]
"""The rows that one side has of a key: ascending pairs of a row hash and its count."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One side's rows of a key, and the sum of their versions."""

    rows: Rows = ()
    version: int = 0


ABSENT = Reading()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round saw of a key."""

    before: Reading  # of the leader
    follower: Reading
    after: Reading  # of the leader
    is_visible: bool = True  # in `after`, all that was in the log when the follower was read


class Verdict(Enum):
    """What the rounds up to now prove."""

    HEALED = "healed"
    REAL = "real"
    OPEN = "open"


def judge(last: Round | None, now: Round) -> Verdict:
    """What two consecutive rounds prove."""
    if now.follower.rows in (now.before.rows, now.after.rows):
        return Verdict.HEALED
    if now.is_visible and now.before == now.after and now == last:
        return Verdict.REAL
    return Verdict.OPEN


@dataclass(frozen=True, slots=True)
class Counts:
    """How many rows differ, and how."""

    missing: int = 0  # the leader has them, the follower has not
    extra: int = 0  # the other way round
    different: int = 0  # both have the key, with other values

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.missing + other.missing,
            self.extra + other.extra,
            self.different + other.different,
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.different)


def count(leader: Rows, follower: Rows) -> Counts:
    """The rows of one key that have no equal on the other side."""
    ours, theirs = Counter(dict(leader)), Counter(dict(follower))
    lacking, surplus = (ours - theirs).total(), (theirs - ours).total()
    both = min(lacking, surplus)
    return Counts(lacking - both, surplus - both, both)


def readings(found: Iterable[tuple[Key, int, int, int]]) -> dict[Key, Reading]:
    """What one side has of each key, from row hashes, their counts and versions."""
    gathered: dict[Key, Reading] = {}
    several: dict[Key, tuple[Counter[int], list[int]]] = {}
    for key, hashed, rows, version in found:
        # Nearly every key has one row, and there may be a million of them.
        if (known := gathered.get(key)) is None:
            gathered[key] = Reading(((hashed, rows),), version)
            continue
        # But a column that is no key may have one value in a million rows.
        if key not in several:
            several[key] = Counter(dict(known.rows)), [known.version]
        counts, versions = several[key]
        counts[hashed] += rows
        versions.append(version)
    for key, (counts, versions) in several.items():
        gathered[key] = Reading(tuple(sorted(counts.items())), sum(versions))
    return gathered


def share(new: dict[Key, Reading], known: Mapping[Key, Reading]) -> None:
    """Hold what is as it was only once: there may be a hundred thousand keys at a time."""
    for key, reading in new.items():
        if (before := known.get(key)) == reading and before is not None:
            new[key] = before
