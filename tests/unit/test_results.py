"""How a row that differs is shown."""

from __future__ import annotations

from validators.results import TEXT_MAX, ColumnDifference, Difference


def shown(leader: str | None, follower: str | None) -> tuple[str | None, str | None]:
    column = ColumnDifference("c", leader, follower)
    (short,) = Difference(("1",), "different", (column,)).shortened().columns
    assert all(len(text) <= TEXT_MAX for text in (short.leader, short.follower) if text)
    return short.leader, short.follower


def test_what_differs_is_seen_however_far_back_it_is() -> None:
    long = "9" * 5000
    leader, follower = shown(f"{long}1", f"{long}2")
    assert leader is not None
    assert follower is not None
    assert (leader[0], leader[-1], follower[-1]) == ("…", "1", "2")
    leader, follower = shown(long, f"{long} ")
    assert leader != follower


def test_a_text_that_was_cut_says_so_and_a_short_one_is_whole() -> None:
    assert shown("a" * TEXT_MAX, None) == ("a" * TEXT_MAX, None)
    leader, follower = shown("b" * 5000, "short")
    assert leader == "b" * (TEXT_MAX - 2) + "…"
    assert follower == "short"
