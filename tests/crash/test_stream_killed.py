"""kill -9 of `stream`, in both directions: started again, it goes on where it was."""

from __future__ import annotations

import random
import time

import pytest

from tests.crash.line import Line
from tests.crash.points import STREAM

RANDOM_KILLS = 6
PASSES = {"stream.confirmed": 3}
"""Of a point that is passed each second; the others come with every batch."""


@pytest.mark.parametrize("moved", [False, True], ids=["forward", "back"])
def test_the_stream_killed_at_every_point_under_load(line: Line, moved: bool) -> None:  # noqa: FBT001
    line.follow()
    if moved:
        line.done("cutover")
    for point in STREAM:
        line.kill_stream()
        line.stream_killed_at(point, nth=PASSES.get(point, 20))
        line.start_stream()
        line.writes_flow()
    line.prove()
    assert line.kills == 2 * len(STREAM)


@pytest.mark.release  # chaos kills it so, too
def test_the_stream_killed_at_random_times_under_load(line: Line) -> None:
    line.follow()
    for number in range(RANDOM_KILLS):
        time.sleep(random.uniform(0, 1.5))  # noqa: S311
        line.kill_stream()
        time.sleep(random.uniform(0, 0.5))  # noqa: S311
        line.start_stream()
        if number == RANDOM_KILLS // 2:
            line.done("cutover")
    line.prove()
    line.done("rollback")
    line.prove()
    assert line.kills == RANDOM_KILLS


def test_the_stream_killed_within_one_large_transaction(line: Line) -> None:
    """A transaction of several batches is applied wholly or not at all."""
    line.follow()
    line.kill_stream()
    line.write_many(60_000)
    for nth in (2, 4):  # the large transaction is staged in pieces
        line.stream_killed_at("stream.staged", nth=nth)
    line.start_stream()
    line.prove()
