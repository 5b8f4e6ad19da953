from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans.catalog import TableName
from plans.errors import GateClosed
from toolkit.sequences import Numbers, State, next_numbers

SEQUENCE = TableName("public", "orders_id_seq")
UP = State(last=100, increment=1, minimum=1, maximum=2**63 - 1)
DOWN = State(last=-100, increment=-1, minimum=-(2**63), maximum=-1)


def test_one_owner_goes_on_behind_the_gap() -> None:
    assert next_numbers(SEQUENCE, UP, 100, gap=1000) == Numbers(SEQUENCE, 1101, 1)


def test_a_sequence_that_counts_down_goes_on_below() -> None:
    assert next_numbers(SEQUENCE, DOWN, -100, gap=10) == Numbers(SEQUENCE, -111, -1)


def test_a_used_up_range_is_refused_with_its_end() -> None:
    state = State(last=32000, increment=1, minimum=1, maximum=32767)
    with pytest.raises(GateClosed, match="ends at 32767"):
        next_numbers(SEQUENCE, state, 32000, gap=1000)


@given(
    highest=st.integers(-(10**9), 10**9),
    gap=st.integers(0, 5000),
    step=st.integers(-50, 50).filter(bool),
    places=st.integers(2, 6),
)
def test_places_never_issue_a_number_twice_nor_one_that_was_used(
    highest: int, gap: int, step: int, places: int
) -> None:
    state = State(last=highest, increment=step, minimum=-(2**63), maximum=2**63 - 1)
    seen: set[int] = set()
    for place in range(places):
        new = next_numbers(SEQUENCE, state, highest, gap=gap, place=place, places=places)
        issued = [new.start + n * new.increment for n in range(200)]
        assert all((one - highest) * step > gap * step * step for one in issued)
        assert not seen & set(issued)
        seen |= set(issued)


@given(step=st.integers(2, 50), places=st.integers(2, 4), highest=st.integers(0, 10**6))
def test_blocks_handed_out_by_an_application_do_not_overlap(
    step: int, places: int, highest: int
) -> None:
    """Hibernate and its like take `step` numbers for each one that they draw."""
    state = State(last=highest, increment=step, minimum=1, maximum=2**63 - 1)
    blocks: set[int] = set()
    for place in range(places):
        new = next_numbers(SEQUENCE, state, highest, gap=10, place=place, places=places)
        starts = islice(range(new.start, 2**62, new.increment), 50)
        for start in starts:
            block = set(range(start, start + step))
            assert not blocks & block
            blocks |= block
