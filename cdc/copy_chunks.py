"""Cutting large tables into chunks, so that several workers copy one, and a crash costs little.

A chunk is a range of the source table's blocks, read by their `ctid` as of one
snapshot; the last one has no end.  Chunks of one snapshot are disjoint and complete.

After a crash the chunks that are missing are copied under a later snapshot.  A row
that moved from block to block in between may then be in two chunks, or in none:

- In two: one is removed before the key is made, no matter which.  The stream starts
  at the earlier horizon and brings every change of that row since.
- In none: it was changed after the earlier horizon, or it would not have moved, and
  the stream brings it.

A row that came after the earlier horizon and went again after the later one may be in a
chunk, though the stream nets it to nothing; while it brings the chunks together, it
deletes such keys (`NetChanges.passed`).

What of a row no change tells since the earlier horizon, such as a large value that was
left alone, is the same in both.  So the table is right once the stream has passed the
latest horizon, and until then only its key holds.  A rewrite of the table (VACUUM FULL,
CLUSTER, TRUNCATE) moves rows that nobody changed; its file tells (`cdc.source_files`),
and the table is copied from the start.

Rows must be told apart for that: by a key, made of the source's, that is never two rows'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdc.copy_sql import Blocks, CopyTask, is_fresh
from cdc.lsn import LSN
from cdc.source_files import SourceFile

CHUNK_BYTES = 256 << 20
"""About what a chunk holds.  What is copied in one piece is lost to a crash as a whole."""

WHOLE_CHUNKS_MAX = 4
"""How many chunks' size a table may have and be copied in one piece nevertheless.

A piece that is a whole table is written frozen, which spares the target a second writing of
each page, and lets keys be checked by indexes alone (`toolkit.key_checks`).
"""

SHARES_MAX = 1.5
"""How much of one job's share of all bytes a table may have and be copied in one piece.

The other jobs need not wait meanwhile, as copying is less than half of the work: they build
the other tables' indexes, and then some of this one's.
"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a route's rows, as the target has noted it."""

    route: str
    number: int
    blocks: Blocks
    file: int  # the source's file that the blocks are of
    horizon: LSN | None  # None as long as it is not copied


def is_large(task: CopyTask, total_bytes: int, jobs: int, chunk_bytes: int) -> bool:
    """Whether a table is worth cutting: very large, or so large that other jobs would wait."""
    size = task.route.source.size_bytes
    share = total_bytes / jobs
    return size > WHOLE_CHUNKS_MAX * chunk_bytes or size > max(chunk_bytes, SHARES_MAX * share)


def may_be_cut(task: CopyTask, file: SourceFile) -> bool:
    """Whether chunks of different moments could be brought together."""
    route = task.route
    return (
        is_fresh(task)
        and route.source.kind == "r"
        and not file.parts
        and bool(route.key)
        and not route.source.key_deferrable
        and not route.source.has_temporal_key  # periods of two moments may overlap
        and not route.needs_full_identity
    )


def cut(task: CopyTask, file: SourceFile, chunk_bytes: int) -> list[Chunk]:
    """The chunks of a table, in the order of its blocks."""
    count = max(1, min(file.blocks, -(-task.route.source.size_bytes // chunk_bytes)))
    bounds = [file.blocks * n // count for n in range(count)]
    ends: Sequence[int | None] = [*bounds[1:], None]
    return [
        Chunk(task.route.id, number, Blocks(first, end), file.number, None)
        for number, (first, end) in enumerate(zip(bounds, ends, strict=True))
    ]
