"""What of a batch is staged, and as what: the lines that go into the stage, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from cdc.batch import TableBatch
from cdc.compaction import NetChanges, NetRows
from cdc.net import Net
from cdc.rows import Unchanged
from cdc.stage import plain_writer

APPEARING = b"i"
"""Rows that are staged only to have their keys noted."""


@dataclass(frozen=True, slots=True)
class Staged:
    """What of a batch lies in its stage, and what does not."""

    batch: TableBatch
    rows: int  # that lie in it
    present: bool
    removed: bool  # rows that are gone, or old images by which others are
    partial: bool  # some of the present rows lack values
    renamed: int = 0  # rows that have another key than before
    changing: Mapping[Unchanged, int] = field(default_factory=dict)
    """How many rows are to be updated, if direct, by the values that they lack."""
    appearing: Sequence[bytes] = ()  # rows to be copied straight into the table, in its format
    appear: int = 0  # so many, whichever way they come there
    inserting: bool = False  # rows are to be inserted as they lie in the stage


def of_net(batch: TableBatch, net: Net, tracked: Collection[str]) -> tuple[Staged, Iterator[bytes]]:
    """Rows that were netted side by side, where what they lack has a number."""
    stage = batch.to.stage
    gone = list(batch.gone())
    lines = [stage.lines(b"g", gone)]
    rows = len(gone)
    for lacking, some in net.change.items():
        number = batch.to.parts[lacking] if lacking else None
        lines.append(stage.lines(b"p" if lacking else b"u", some, number))
        rows += len(some)
    if net.appearing and (op := _staged_as(batch, tracked)):
        lines.append(stage.lines(op, net.appear()))
        rows += net.appearing
    return _direct(
        batch,
        rows,
        removed=bool(gone),
        changing={lacking: len(some) for lacking, some in net.change.items()},
        appearing=net.appearing,
        copied=lambda: [net.copied],
    ), chain.from_iterable(lines)


def of_plain(
    batch: TableBatch, changes: NetChanges, tracked: Collection[str]
) -> tuple[Staged, Iterator[bytes]]:
    """Rows that are written as they came, found by their key."""
    appearing, changing = changes.coming()
    stage = batch.to.stage
    gone = [*batch.gone(), *(old for old, _ in changes.renamed())]
    # An old row may be an update that came in part.
    lines: list[Iterator[bytes]] = [map(stage.partial_writer(b"g"), gone)]
    rows = len(gone) + sum(map(len, changing.values()))
    for lacking, some in changing.items():
        if lacking:
            write = stage.blank_writer(b"p", batch.to.parts.get(lacking, 0), lacking)
            lines.append(map(write, some))
        else:
            lines.append(stage.lines(b"u", some))
    if appearing and (op := _staged_as(batch, tracked)):
        lines.append(stage.lines(op, appearing))
        rows += len(appearing)
    return _direct(
        batch,
        rows,
        removed=bool(gone),
        changing={lacking: len(some) for lacking, some in changing.items()},
        appearing=len(appearing),
        copied=lambda: list(map(plain_writer(len(stage.columns)), appearing)),
    ), chain.from_iterable(lines)


def _staged_as(batch: TableBatch, tracked: Collection[str]) -> bytes | None:
    """As what rows that appear are staged; None if they are only copied into the table."""
    if not batch.to.stage.binary:
        return b"n"
    return APPEARING if any(f.flow.route in tracked for f in batch.to.flows) else None


def _direct(
    batch: TableBatch,
    rows: int,
    *,
    removed: bool,
    changing: Mapping[Unchanged, int],
    appearing: int,
    copied: Callable[[], Sequence[bytes]],
) -> Staged:
    """What is written as it came."""
    binary = batch.to.stage.binary
    return Staged(
        batch,
        rows,
        present=False,
        removed=removed,
        partial=False,
        changing=changing,
        appearing=copied() if appearing and binary else (),
        appear=appearing,
        inserting=bool(appearing) and not binary,
    )


def of_keyed(batch: TableBatch, changes: NetChanges) -> tuple[Staged, Iterator[bytes]]:
    """Rows of a table with a key, for the statements that take any of them."""
    stage = batch.to.stage
    present = dict(changes.present())
    partial = changes.partial()
    renamed = list(changes.renamed())
    rows = list(map(stage.partial_writer(b"g"), batch.gone()))
    rows += [stage.partial_writer(b"k", number)(old) for number, (old, _) in enumerate(renamed)]
    if batch.to.needs_full_rows:
        rows += map(stage.partial_writer(b"b"), changes.before())
    is_removed = bool(rows)
    whole, new = stage.writer(b"u"), stage.writer(b"n")
    numbers = {key: number for number, (_, key) in enumerate(renamed)}
    for key, row in present.items():
        # To followers with rows of several moments, any row may be new.
        is_new = batch.to.of_several_moments or changes.is_new(key)
        if key in partial or key in numbers:
            write = stage.partial_writer(b"n" if is_new else b"u", numbers.get(key))
            rows.append(write(row))
        else:
            rows.append(new(row) if is_new else whole(row))
    staged = Staged(
        batch,
        len(rows),
        present=bool(present),
        removed=is_removed,
        partial=bool(partial),
        renamed=len(renamed),
    )
    return staged, iter(rows)


def of_multiset(batch: TableBatch, changes: NetRows) -> tuple[Staged, Iterator[bytes]]:
    """Rows of a table without a key, each with how many copies come or go."""
    stage = batch.to.stage
    rows = list(changes.rows())
    staged = Staged(
        batch,
        len(rows),
        present=any(count > 0 for _, count in rows),
        removed=any(count < 0 for _, count in rows),
        partial=False,
    )
    write = stage.partial_writer
    # Any of them may be new.
    return staged, (write(b"n" if count > 0 else b"g", count)(row) for row, count in rows)
