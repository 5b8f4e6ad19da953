"""What `plan explain` reckons and draws, without a server."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plans.catalog import Column, Table, TableName
from plans.routes import Kind, Route, RouteColumn
from toolkit.explain.crossings import Crossing, End, Sort
from toolkit.explain.outlook import Index, Measured, Planned
from toolkit.explain.picture.arrangement import WIDTH, arrange
from toolkit.explain.picture.drawing import wrapped
from toolkit.explain.picture.scene import Bundle, Scene, Tile
from toolkit.explain.picture.treemap import Rect, treemap
from toolkit.explain.predictions import (
    Range,
    Size,
    about,
    catch_up_seconds,
    compare_seconds,
    copy_seconds,
    size_of,
)
from toolkit.stages import STAGES, stages_of_run

NAME = TableName("public", "orders")
WEIGHTS = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60)
SIDES = st.floats(10, 2000)
LENGTH = st.integers(0, 10**9)


@given(WEIGHTS, SIDES, SIDES)
def test_tiles_are_inside_as_large_as_their_weights_and_do_not_overlap(
    weights: list[float], width: float, height: float
) -> None:
    room = Rect(7, 11, width, height)
    tiles = treemap(weights, room)
    assert len(tiles) == len(weights)
    slack = 1e-6 * (width + height)
    for tile, weight in zip(tiles, weights, strict=True):
        assert room.x - slack <= tile.x
        assert tile.right <= room.right + slack
        assert room.y - slack <= tile.y
        assert tile.bottom <= room.bottom + slack
        share = weight / sum(weights) * width * height
        assert tile.width * tile.height == pytest.approx(share, rel=1e-4, abs=slack)
    # What two have in common would be missing elsewhere, so it is enough to look at pairs.
    for number, one in enumerate(tiles):
        for other in tiles[number + 1 :]:
            across = min(one.right, other.right) - max(one.x, other.x)
            down = min(one.bottom, other.bottom) - max(one.y, other.y)
            assert min(across, down) <= slack


@given(WEIGHTS)
def test_the_same_weights_give_the_same_tiles(weights: list[float]) -> None:
    room = Rect(0, 0, 300, 200)
    assert treemap(weights, room) == treemap(weights, room)


def test_a_tile_without_weight_is_refused_and_a_room_without_size_is_not() -> None:
    with pytest.raises(ValueError, match="weight"):
        treemap([1, 0], Rect(0, 0, 10, 10))
    assert treemap([], Rect(0, 0, 10, 10)) == []
    assert {tile.width * tile.height for tile in treemap([3, 2, 1], Rect(0, 0, 10, 0))} == {0}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=80))
def test_a_wrapped_name_is_whole(name: str) -> None:
    lines = wrapped(name, 90, 11)
    assert not lines or "".join(lines) == name


def test_names_break_where_their_words_end() -> None:
    assert wrapped("production_job_history", 75, 10) == ["production_", "job_history"]
    assert wrapped("extraordinarily", 40, 10) == []


def route(kind: Kind, names: tuple[str, ...], where: str | None = None) -> Route:
    columns = tuple(Column(name=n, type="integer", is_portable=True) for n in ("a", "b", "c"))
    table = Table(name=NAME, kind="r", columns=columns, primary_key=("a",), size_bytes=80_000)
    return Route(
        id="s:public.orders", service="s", owner="s", kind=kind, source=table, target=NAME,
        columns=tuple(
            RouteColumn(name, name, frozenset({name}), "integer", name, binary=True)
            for name in names
        ),
        key=("a",), where=where,
    )  # fmt: skip


def measured(*, heap: int = 80_000, analyzed: bool = True) -> Measured:
    return Measured(
        heap_bytes=heap, analyzed=analyzed, inserted=5, updated=2, deleted=1,
        indexes=(Index(frozenset("a"), 1000), Index(frozenset("bc"), 500)),
    )  # fmt: skip


def test_a_whole_table_has_the_size_that_it_has() -> None:
    got = size_of(route(Kind.WHOLE, ("a", "b", "c")), Planned(50, 40), Planned(50, 40), measured())
    assert got == Size(50, 80_000, 1500)


def test_a_part_has_its_share_of_rows_columns_and_indexes() -> None:
    rows = size_of(
        route(Kind.ROWS, ("a", "b", "c"), "b > 0"), Planned(25, 40), Planned(100, 40), measured()
    )
    assert rows == Size(25, 20_000, 375)
    # (28 + 6) of (28 + 40) bytes of each row; the index over b and c does not come along
    columns = size_of(route(Kind.COLUMNS, ("a", "b")), Planned(50, 6), Planned(50, 40), measured())
    assert columns == Size(50, 40_000, 1000)


def test_an_empty_table_is_empty_whatever_the_planner_guesses() -> None:
    empty = measured(heap=0, analyzed=False)
    guess = Planned(1270, 40)
    assert size_of(route(Kind.WHOLE, ("a", "b", "c")), guess, guess, empty) == Size(0, 0, 0)


def test_a_small_table_that_was_never_analyzed_is_not_taken_for_ten_pages() -> None:
    one_page = measured(heap=8192, analyzed=False)
    guess = Planned(1270, 40)
    assert size_of(route(Kind.WHOLE, ("a", "b", "c")), guess, guess, one_page).rows == 127


PLANNED = st.builds(Planned, LENGTH, st.integers(0, 10**4))
MEASURED = st.builds(
    lambda heap, analyzed: measured(heap=heap, analyzed=analyzed), LENGTH, st.booleans()
)


@given(PLANNED, PLANNED, MEASURED, st.sampled_from([Kind.WHOLE, Kind.COLUMNS, Kind.ROWS]))
def test_a_part_is_never_larger_than_its_table(
    rows: Planned, whole: Planned, of: Measured, kind: Kind
) -> None:
    got = size_of(route(kind, ("a", "b", "c")), rows, whole, of)
    assert 0 <= got.data_bytes <= 80_000
    assert 0 <= got.index_bytes <= 1500
    assert 0 <= got.rows <= rows.rows


@given(st.lists(st.builds(Size, LENGTH, LENGTH, LENGTH), max_size=9),
       st.builds(Size, LENGTH, LENGTH, LENGTH))  # fmt: skip
def test_more_to_do_takes_longer_and_a_range_is_one(some: list[Size], more: Size) -> None:
    for seconds in (copy_seconds, compare_seconds):
        before, after = seconds(some), seconds([*some, more])
        assert 0 <= before.low <= before.high
        assert before.low < after.low
        assert before.high < after.high


def test_what_is_not_known_is_not_reckoned_with() -> None:
    assert catch_up_seconds(Range(60, 120), None) is None
    known = catch_up_seconds(Range(60, 120), 1000.0)
    assert known is not None
    assert known.low < known.high


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (Range(0.2, 0.9), "about a second"),
        (Range(2.6, 7.4), "about 3 to 7 s"),
        (Range(4.0, 4.3), "about 4 s"),
        (Range(170, 365), "about 3 to 6 min"),
        (Range(4000, 9000), "about 1 to 2 h"),
        (Range(86_400 * 2, 86_400 * 123.4), "about 2 to 120 d"),
    ],
)
def test_times_are_said_no_more_exactly_than_they_are_known(seconds: Range, said: str) -> None:
    assert about(seconds) == said


def test_run_walks_the_list_up_to_where_it_was_told() -> None:
    order = [stage.name for stage in STAGES]
    assert order == ["prepare", "copy", "stream", "validate", "cutover", "complete"]
    assert [stage.name for stage in stages_of_run(None)] == order[:3]
    assert [stage.name for stage in stages_of_run("following")] == order[:3]
    assert [stage.name for stage in stages_of_run("ready")] == order[:4]
    assert [stage.name for stage in stages_of_run(None, copied=True)] == ["stream"]
    assert [stage.name for stage in stages_of_run("ready", copied=True)] == order[2:4]


def scene(counts: list[int], sizes: list[int]) -> Scene:
    """Services with so many tables each, and a bundle of each sort between any two."""
    services = tuple(f"s{number}" for number in range(len(counts)))
    ends = [End(s, TableName("public", f"t{n}")) for s, many in zip(services, counts, strict=True)
            for n in range(many)]  # fmt: skip
    tiles = tuple(
        Tile(id=f"tile-{n}", end=end, label=end.table.name,
             kind="reference" if n % 5 == 4 else "whole", note="",
             size=Size(1, sizes[n % len(sizes)]), writes=0, heat=0, row="table-1")
        for n, end in enumerate(ends)
    )  # fmt: skip
    bundles = tuple(
        Bundle(f"bundle-{a}-{b}-{sort.name}", sort, a, b, ((f"crossing-{n}", Crossing(
            sort=sort, name="view v", begin=End(a, NAME), end=End(b, NAME), how="")),))
        for n, (a, b) in enumerate(combinations(services, 2)) for sort in (Sort.KEY, Sort.COPY)
    )  # fmt: skip
    return Scene(services, tiles, bundles)


@example([1, 14, 14], [0])
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.lists(st.integers(0, 10**10), min_size=1, max_size=20),
)
def test_regions_hold_their_tiles_and_labels_lie_beside_them(
    counts: list[int], sizes: list[int]
) -> None:
    drawn = scene(counts, sizes)
    got = arrange(drawn)
    assert {tile.id for tile in drawn.tiles} == got.places.keys()
    for number, region in enumerate(got.regions):
        assert region.box.x >= -0.01
        assert region.box.right <= WIDTH + 0.01
        assert region.box.bottom <= got.height + 0.01
        assert not any(region.box.meets(other.box) for other in got.regions[number + 1 :])
        for _, rect in region.tiles:
            assert region.box.x <= rect.x
            assert rect.right <= region.box.right + 0.01
            assert rect.bottom <= region.box.bottom + 0.01
            assert min(rect.width, rect.height) > 0
    assert len(got.links) == len(drawn.bundles)
    if len(counts) > 3:
        for number, link in enumerate(got.links):
            assert not any(link.pill.meets(region.box) for region in got.regions)
            assert not any(link.pill.meets(other.pill) for other in got.links[number + 1 :])
