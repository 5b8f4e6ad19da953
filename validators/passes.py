"""A table whose keys have no order to read by, in two passes over ranges of its blocks.

The first sums up the hashes of all rows, by buckets.  Only if sums differ, the second
reads hash and place of the rows in these buckets, and the keys of those that are not on
both sides.

All ranges of a pass are read under one snapshot of each side.  Without it a row that is
written meanwhile, and so comes to lie elsewhere, might be in no range at all: if it is
missing on the follower, the sums would be equal.  A snapshot keeps its server from cleaning
up, so it is let go while nothing may be read for long, and the pass begins anew; and a
comparison that is killed begins the table anew, since its snapshots went with it.  After
the course's `snapshot_s_max` it is given up, and so is the table: what was not read to the
end is not equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, TypeVar

from psycopg import errors, sql

from cdc.connect import Connection
from cdc.crash import crash_point
from plans.errors import NotReady
from validators.blocks import Blocks, cut
from validators.crew import Team
from validators.fingerprint import Extents, bucket_count, digest_of, from_table, read_buckets
from validators.moment import REWRITTEN, is_as_it_was
from validators.results import ChunkHash, Step
from validators.scans import Course, ahead
from validators.session import Ends, Held, Reader, held, read_rows
from validators.sides import Key, Pair, Side
from validators.units import MODULUS, Chunks, Sizes

if TYPE_CHECKING:
    from validators.opened import Keys, Rows

T = TypeVar("T")

ROWS_PER_SUM: Final = 16
"""In each range, on average; with less, as much would be sent as there is."""
PASSES_MAX: Final = 3
PAUSE_S_MAX: Final = 30.0
"""A pause that is longer lets the snapshots go."""
KEYS_HELD: Final = 50_000
"""While it is settled a key takes some 2 kB; without a key the table is scanned for each lot."""
ROWS_PER_LOOK: Final = 5_000

_ROWS = (
    "SELECT count(*), string_agg(int8send(r.h) || tidsend(r.t) || int2send(r.b), '') FROM"
    " (SELECT {hash} AS h, ctid AS t, ({bucket} & 32767)::int2 AS b FROM {table}"
    " WHERE {where} AND {blocks} AND {bucket} = ANY($1::int4[]) OFFSET 0) AS r"
)
BYTES_PER_ROW: Final = 16


class _PausedForLong(Exception):
    """The snapshots have to be let go."""


@dataclass(slots=True)
class Passes:
    """One pair's way through its blocks; iterating gives keys, the rest comes with it."""

    team: Team
    pair: Pair
    extents: Extents
    course: Course
    sizes: Sizes
    rows: int = 0  # of the leader
    digest: str = ""
    sums: int = 0  # of hashes, that were compared
    step: Step = "fingerprint"
    read: int = 0  # rows of the leader, about, in this pass
    chunks: tuple[ChunkHash, ...] = ()  # a place is none to name rows by
    _ends_at: float = inf  # of time.monotonic(): the snapshot is given up then
    _held: Held | None = None

    @property
    def ends(self) -> Ends:
        """Those that are there from the first to the last."""
        return self.team.ends

    def differing(self) -> Iterator[Sequence[Key]]:
        """Keys that differ, at the end; after each range an empty sequence."""
        unlike: list[int] = []
        for _ in self._under_one_snapshot(partial(self._sum_up, unlike)):
            yield ()
        if not unlike:
            return
        from validators.opened import Keys

        self.step = "open"
        with ExitStack() as stack:
            keys = Keys(stack)
            for _ in self._under_one_snapshot(partial(self._open, tuple(unlike), keys)):
                yield ()
            yield from keys.groups(KEYS_HELD)

    def _under_one_snapshot(self, one_pass: Callable[[], Iterator[None]]) -> Iterator[None]:
        """The pass, begun anew when its snapshots were let go, or do not show the rows."""
        for _ in range(PASSES_MAX):
            self.read = 0
            if self.course.moment is None:
                self._ends_at = time.monotonic() + self.course.snapshot_s_max
            try:
                with held(self.ends, self.pair) as self._held:
                    yield from one_pass()
                    if all(self.ends.both(is_as_it_was, self.pair)):
                        return
            except _PausedForLong:
                self.course.wait()
                continue
            except errors.QueryCanceled:
                self._require_time()
                raise
            if self.course.moment is not None:
                break
        else:
            raise NotReady(
                "it was rewritten, or the comparison paused for long,"
                f" {PASSES_MAX} times while it was read",
                hint="repeat the command at a quieter time",
            )
        raise NotReady(REWRITTEN, hint="repeat the command")

    def _sum_up(self, differing: list[int]) -> Iterator[None]:
        """Pass 1: all rows."""
        differing.clear()
        self.rows = digest = 0
        buckets = self._buckets()
        parts = self._parts(max(self.sizes.rows_per_unit, buckets * ROWS_PER_SUM))

        def read(blocks: Blocks, connection: Connection, side: Side) -> Chunks:
            reader = Reader(connection, self.ends.hashing)
            extent = self.extents.of(self.pair, side)
            planner = self._planner(blocks)
            return read_buckets(
                reader, side, extent=extent, buckets=buckets, blocks=blocks, planner=planner
            )

        sums = None
        for leader, follower in ahead(self._begun(parts, read), self.team):
            self.rows += leader.total
            self.read = self.rows
            self.sums += leader.count
            digest += leader.digest
            if len(parts) > 1 or leader != follower:
                from validators.differing import Sums

                sums = sums or (Sums(buckets), Sums(buckets))
                sums[0].add(leader)
                sums[1].add(follower)
            crash_point("validate.range")
            yield
        self.digest = digest_of(self.rows, digest % MODULUS)
        if sums is not None:
            differing += sums[0].differing(sums[1])

    def _open(self, differing: Sequence[int], keys: Keys) -> Iterator[None]:
        """Pass 2: the rows in buckets that differ."""
        from validators.opened import OpenedRows, parts_of, unlike

        keys.clear()
        buckets = self._buckets()
        parts = self._parts(self.sizes.rows_per_unit)

        def read(blocks: Blocks, connection: Connection, side: Side) -> bytes:
            return self._read_rows(connection, side, blocks, buckets, differing)

        with ExitStack() as stack:
            rows = max(self.rows, self.extents.rows_estimated)
            files = parts_of(rows * len(differing) // buckets)
            ours, theirs = OpenedRows(stack, files), OpenedRows(stack, files)
            for number, (leader, follower) in enumerate(
                ahead(self._begun(parts, read), self.team), 1
            ):
                ours.add(leader)
                theirs.add(follower)
                self.read = self.rows * number // len(parts)
                crash_point("validate.opened")
                yield
            for number in range(files):
                self._add_keys(keys, *unlike(ours.part(number), theirs.part(number)))
                yield

    def _buckets(self) -> int:
        return bucket_count(self.extents.rows_estimated, self.sizes.rows_per_chunk)

    def _parts(self, rows: int) -> list[tuple[Blocks, Blocks]]:
        """Ranges of the leader's and the follower's blocks, with about so many rows."""
        leader, follower = self.extents.leader, self.extents.follower
        if leader.blocks is None or follower.blocks is None:
            return [(Blocks(), Blocks())]
        parts = min(self.extents.rows_estimated // rows, max(leader.blocks, follower.blocks))
        parts = max(1, parts)
        return list(zip(cut(leader.blocks, parts), cut(follower.blocks, parts), strict=True))

    def _begun(
        self,
        parts: Sequence[tuple[Blocks, Blocks]],
        read: Callable[[Blocks, Connection, Side], T],
    ) -> Iterator[Callable[[], tuple[T, T]]]:
        assert self._held is not None  # noqa: S101 -- begun within a pass only
        for number, (leader, follower) in enumerate(parts):
            self._pause()
            ends = self.team.turn(len(parts) - number)
            self._held.join(ends)

            def some(
                connection: Connection,
                side: Side,
                leader: Blocks = leader,
                follower: Blocks = follower,
            ) -> T:
                return read(leader if side is self.pair.leader else follower, connection, side)

            yield ends.begin(some, self.pair)

    def _pause(self) -> None:
        self._require_time()
        if self.course.moment is not None:
            self.course.wait()
        elif not self.course.pause(PAUSE_S_MAX):
            raise _PausedForLong

    def _require_time(self) -> None:
        if time.monotonic() >= self._ends_at:
            raise NotReady(
                f"its rows were not read within {self.course.snapshot_s_max:g} s, after which their"
                " snapshot is given up: it keeps the server from cleaning up"
                " (limits.snapshot_s_max of a plan, --snapshot-limit of compare)",
                hint="allow more, read it at a quieter time, or with more --jobs",
            )

    def _planner(self, blocks: Blocks) -> Mapping[str, str]:
        """The settings to read these blocks with; no statement outlives the snapshot's time."""
        if self._ends_at == inf:
            return blocks.planner
        left_ms = max(1, round((self._ends_at - time.monotonic()) * 1000))
        return {**blocks.planner, "statement_timeout": f"{left_ms}ms"}

    def _read_rows(
        self,
        connection: Connection,
        side: Side,
        blocks: Blocks,
        buckets: int,
        differing: Sequence[int],
    ) -> bytes:
        hashing = self.ends.hashing
        query = sql.SQL(_ROWS).format(
            hash=side.row_hash(hashing),
            bucket=side.bucket(hashing, buckets),
            table=from_table(side, self.extents.of(self.pair, side)),
            where=side.scanned,
            blocks=blocks.condition,
        )
        planner = self._planner(blocks)
        ((rows, raw),) = read_rows(
            connection, side.schemas, query, [list(differing)], planner=planner
        )
        if rows * BYTES_PER_ROW != len(raw or b""):
            raise ValueError(f"{len(raw or b'')} bytes are not {rows} rows")
        return raw or b""

    def _add_keys(self, keys: Keys, ours: Rows, theirs: Rows) -> None:
        """The keys of rows that are not on both sides; a key's rows are all in one part."""
        found: dict[Key, None] = {}
        for side, rows in ((self.pair.leader, ours), (self.pair.follower, theirs)):
            if not self.pair.key:
                found |= dict.fromkeys((str(number),) for number in rows["hash"].tolist())
                continue
            ask = self.ends.ask_leader if side is self.pair.leader else self.ends.ask_follower
            for start in range(0, len(rows), ROWS_PER_LOOK):
                self._require_time()
                some = rows[start : start + ROWS_PER_LOOK]
                for key in ask(partial(self._read_keys, side, some)):
                    found[key] = None
        keys.add(found)

    def _read_keys(self, side: Side, rows: Rows, connection: Connection) -> list[Key]:
        """The keys of rows, by their places; rows of other partitions may lie in the same."""
        places = zip(rows["block"].tolist(), rows["offset"].tolist(), strict=True)
        query = sql.SQL(
            "SELECT {hash}, {keys} FROM {table} WHERE {where} AND ctid = ANY({places}::tid[])"
        )
        wanted = set(rows["hash"].tolist())
        found = read_rows(
            connection,
            side.schemas,
            query.format(
                hash=side.row_hash(self.ends.hashing),
                keys=sql.SQL(", ").join(side.key_texts),
                table=from_table(side, self.extents.of(self.pair, side)),
                where=side.scanned,
                places=sql.Literal("{" + ",".join(f'"({b},{o})"' for b, o in places) + "}"),
            ),
        )
        return [tuple(key) for hashed, *key in found if hashed in wanted]
