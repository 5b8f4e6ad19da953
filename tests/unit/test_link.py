"""What followers of one process hold in memory together."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cdc.link import Link


def link(sharing: int) -> Link:
    return Link(
        split="s", service="a", stream="s/a", origin="o", echoes=frozenset(), foreign=frozenset(),
        leader_dsn="", follower_dsn="", flows=(), sharing=sharing,
    )  # fmt: skip


def test_one_alone_has_all() -> None:
    assert link(1).share(1000) == 1000


@pytest.mark.parametrize("sharing", range(2, 11))
def test_several_have_a_quarter_more_together(sharing: int) -> None:
    assert 1200 < link(sharing).share(1000) * sharing <= 1250


def test_none_has_less_than_an_eighth_nor_more_than_one_of_fewer() -> None:
    shares = [link(sharing).share(1000) for sharing in range(1, 40)]
    assert all(fewer >= more for fewer, more in pairwise(shares))
    assert min(shares) == 125
