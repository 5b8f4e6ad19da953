"""Which tables a round begins with, and which differences are told."""

from __future__ import annotations

from dataclasses import replace

from plans.routes import Route
from tests.invented_validation import result, route
from toolkit.continuous import SMALL_ROWS, in_groups
from toolkit.differences import Way
from toolkit.open_differences import OpenDifferences
from toolkit.state import Direction
from validators.results import Difference

ORDERS = route("shop", "orders")


def large(one: Route) -> Route:
    return replace(one, source=replace(one.source, rows_estimated=SMALL_ROWS + 1))


def test_what_was_compared_longest_ago_comes_first_and_what_never_was_before_that() -> None:
    items, parts = large(route("shop", "items")), large(route("shop", "parts"))
    people = large(route("crm", "people"))
    ages = {items.id: 5.0, parts.id: 90.0, people.id: None}
    assert in_groups([items, parts, people], ages) == [[people], [parts], [items]]


def test_small_tables_of_a_service_are_compared_together_and_large_ones_alone() -> None:
    parts, leads, items = route("shop", "parts"), route("crm", "leads"), large(ORDERS)
    ages = {items.id: 50.0, ORDERS.id: 50.0, parts.id: 1.0, leads.id: 20.0}
    groups = in_groups([leads, items, parts], ages)
    assert groups == [[items], [leads], [parts]]
    small = route("shop", "small")
    assert in_groups([parts, leads, small], {**ages, small.id: 30.0}) == [[small, parts], [leads]]


def news(sink: OpenDifferences, *keys: str, reason: str = "") -> tuple[int, int, int]:
    """How many are new, closed, open."""
    way = Way(ORDERS, Direction.CUTOVER)
    sink.begin(way)
    sink.take(way, [Difference((key,), "different") for key in keys])
    told = sink.news(result(ORDERS, state="different", reason=reason))
    return len(told.new), len(told.closed), told.open


def test_a_difference_is_news_once_and_so_is_its_end() -> None:
    sink = OpenDifferences()
    assert news(sink, "1", "2") == (2, 0, 2)
    assert news(sink, "1", "2") == (0, 0, 2)
    assert news(sink, "2", "3") == (1, 1, 2)
    assert news(sink) == (0, 2, 0)
    assert news(sink, "1") == (1, 0, 1)


def test_a_comparison_that_came_to_no_end_closes_nothing() -> None:
    sink = OpenDifferences()
    news(sink, "1", "2")
    assert news(sink, "3", reason="the server went away") == (1, 0, 3)
    assert news(sink, "1", "2", "3") == (0, 0, 3)
