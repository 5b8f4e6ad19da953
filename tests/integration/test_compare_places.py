# ruff: noqa: S608 -- all of the SQL is the tests' own
"""Values that change places within a row: what a hash of each column for itself would not see."""

from __future__ import annotations

import pytest

from tests.integration.test_compare import Bench, counts
from tests.integration.test_compare_typed import TRAPS


@pytest.fixture
def bench(source_db: str, target_db: str) -> Bench:
    return Bench(source_db, target_db)


@pytest.mark.parametrize("constraint", ["", "NOT NULL"])
def test_values_that_change_places_within_a_row_are_found(bench: Bench, constraint: str) -> None:
    """Each column has a seed of its own: else two of a type would stand for each other."""
    traps = {type_: (ours, theirs) for type_, ours, theirs in TRAPS.values()}
    types = list(traps)
    columns = ", ".join(
        f"{c}{n} {type_} {constraint}" for n, type_ in enumerate(types) for c in "ab"
    )
    pairs = ", ".join(f"({a})::{t}, ({b})::{t}" for t, (a, b) in traps.items())
    bench.both(
        f"CREATE TABLE public.t (id int PRIMARY KEY, {columns})",
        f"INSERT INTO public.t SELECT i, {pairs} FROM generate_series(0, 99) AS i",
    )
    bench.target(
        *(f"UPDATE public.t SET a{n} = b{n}, b{n} = a{n} WHERE id = {n}" for n in range(len(types)))
    )
    # The same in both columns, but another value.
    both = [f"UPDATE public.t SET a{n} = b{n}" for n in range(len(types))]
    bench.source(*(f"{change} WHERE id = {50 + n}" for n, change in enumerate(both)))
    bench.target(
        *(f"UPDATE public.t SET b{n} = a{n} WHERE id = {50 + n}" for n in range(len(types)))
    )
    assert counts(bench.result()) == ("different", 0, 0, 2 * len(types))
