"""What one applier has still to do: bounded in memory, then on disk, then not taken."""

from __future__ import annotations

import random
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from cdc.lsn import LSN
from cdc.messages import NONE, Messages
from cdc.parts import NO_ROWS, Announcement, Part
from cdc.pgoutput import Relation, RelationColumn
from cdc.replication import Keepalive
from cdc.spool import Block, Spool
from plans.catalog import TableName

Open = Callable[[int], Spool]


@pytest.fixture
def spool_with() -> Iterator[Open]:
    with ExitStack() as cleanup:

        def open_spool(spill_bytes_max: int) -> Spool:
            one = Spool(bytes_max=100, spill_bytes_max=spill_bytes_max)
            return cleanup.enter_context(closing(one))

        yield open_spool


def block(number: int, size: int = 50) -> Block:
    rows = Messages.of([number.to_bytes(4, "big").ljust(size, b"x")])
    return [Part(rows, rows.relations, ())]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """For this process, as on a disk that is full then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def told(some: Block) -> list[tuple[list[bytes], list[int], list[object]]]:
    """What is in a block."""
    return [
        ([part.rows[n] for n in range(len(part.rows))], part.relations.tolist(), [*part.others])
        for part in some
    ]


def take_all(spool: Spool) -> list[Block]:
    found = []
    while one := spool.get(0):
        found.append(one)
    return found


def all_told(blocks: list[Block]) -> list[object]:
    return [told(one) for one in blocks]


def test_what_does_not_fit_goes_to_disk_and_comes_back_in_order(spool_with: Open) -> None:
    spool = spool_with(1 << 20)
    blocks = [block(n) for n in range(100)]
    for one in blocks[:60]:
        assert spool.put(one, 0)
    assert spool.spilled_bytes > 0
    found = [spool.get(0) for _ in range(30)]
    for one in blocks[60:]:
        assert spool.put(one, 0)
    assert all_told(found + take_all(spool)) == all_told(blocks)
    assert spool.spilled_bytes == 0
    assert spool.idle


def test_everything_that_an_applier_takes_can_go_to_disk(spool_with: Open) -> None:
    spool = spool_with(1 << 20)
    relation = Relation(1, "public", "t", "d", (RelationColumn("id", 23, -1, in_key=True),))
    rows = Messages.of([b"row" * 100])
    table = TableName("public", "t")
    items = [
        Part(rows, rows.relations, [(1, Announcement(relation, table, table))]),
        Part(NONE, NO_ROWS, [(0, Keepalive(LSN(7), reply_requested=False)), (0, b"C")]),
    ]
    assert spool.put(block(1, 200), 0)
    assert spool.put(items, 0)
    assert spool.spilled_bytes > 0
    assert told(take_all(spool)[1]) == told(items)


def test_without_a_file_a_full_queue_takes_nothing(spool_with: Open) -> None:
    spool = spool_with(0)
    assert spool.put(block(1, 200), 0)  # one always may come, however large
    assert not spool.put(block(2), 0)
    assert told(spool.get(0)) == told(block(1, 200))
    assert not spool.idle, "it was taken out, and nobody said that it is written"
    assert spool.put(block(2), 0)


def test_a_full_file_takes_nothing_until_it_was_read(spool_with: Open) -> None:
    spool = spool_with(500)
    put = 0
    while spool.put(block(put), 0):
        put += 1
    assert 0 < spool.spilled_bytes <= 1_500
    assert len(take_all(spool)) == put
    assert spool.put(block(put), 0)
    assert all_told(take_all(spool)) == all_told([block(put)])


def test_a_full_disk_takes_nothing_until_it_was_read(spool_with: Open) -> None:
    """It is no failure: the reader waits, as if the file were full."""
    spool, put = spool_with(1 << 20), 0
    with no_file_larger_than(5_000):
        while spool.put(block(put), 0):
            put += 1
        assert 0 < spool.spilled_bytes <= 5_000
        assert told(spool.get(0)) == told(block(0))
        assert not spool.put(block(put), 0)
    assert spool.put(block(put), 0)
    assert all_told(take_all(spool)) == all_told([block(n) for n in range(1, put + 1)])


def test_after_the_file_was_read_memory_is_used_again(spool_with: Open) -> None:
    spool = spool_with(1 << 20)
    for number in range(10):
        assert spool.put(block(number), 0)
    take_all(spool)
    assert spool.put(block(11), 0)
    assert spool.spilled_bytes == 0


def test_what_is_given_up_takes_everything_and_keeps_nothing(spool_with: Open) -> None:
    spool = spool_with(1 << 20)
    for number in range(10):
        assert spool.put(block(number), 0)
    spool.close()
    assert spool.put(block(11), 0)


def test_two_threads_lose_and_swap_nothing(spool_with: Open) -> None:
    spool = spool_with(4_000)
    blocks = [block(n, size) for n, size in enumerate(random.Random(1).choices((20, 90), k=2_000))]  # noqa: S311

    def write() -> None:
        for one in blocks:
            while not spool.put(one, 0.05):
                pass

    thread = threading.Thread(target=write)
    thread.start()
    found: list[Block] = []
    while len(found) < len(blocks):
        if one := spool.get(1):
            found.append(one)
    thread.join()
    assert all_told(found) == all_told(blocks)
