from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.crew import Crew, Job, Postponed

Run = Callable[[int], None]


@contextmanager
def nothing() -> Iterator[int]:
    yield 0


def job(name: str, run: Run = lambda _: None, **more: object) -> Job[int]:
    return Job(name=name, run=run, **more)  # type: ignore[arg-type]


class Floor:
    """Where jobs are done, and what may not be there at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done: list[str] = []
        self.begun: list[str] = []
        self.sharing: Counter[str] = Counter()
        self.claiming: Counter[str] = Counter()
        self.wrong: list[str] = []

    def work(self, one: Job[int]) -> None:
        with self.lock:
            self.begun.append(one.name)
            if missing := set(one.needs) - set(self.done):
                self.wrong.append(f"{one.name} began before {missing}")
            self.sharing[one.shares] += bool(one.shares)
            self.claiming.update(one.claims)
            for place in {one.shares, *one.claims} - {""}:
                if self.claiming[place] + bool(self.claiming[place] and self.sharing[place]) > 1:
                    self.wrong.append(f"{one.name} is not alone on {place}")
        time.sleep(0.0005)
        with self.lock:
            self.sharing[one.shares] -= bool(one.shares)
            self.claiming.subtract(one.claims)
            self.done.append(one.name)


PLACES = st.sampled_from(["", "", "a", "b"])
CLAIMS = st.sampled_from([(), (), ("a",), ("b",), ("a", "b")])


@st.composite
def crews(draw: st.DrawFn) -> list[Job[int]]:
    """Jobs that need some of those before them, in an order that tells nothing."""
    found: list[Job[int]] = []
    for number in range(draw(st.integers(1, 14))):
        names = [one.name for one in found]
        shares, claims = draw(PLACES), draw(CLAIMS)
        found.append(
            job(
                f"job {number}",
                rank=draw(st.integers(0, 2)),
                weight=draw(st.integers(0, 5)),
                needs=draw(st.lists(st.sampled_from(names), max_size=3)) if names else (),
                shares=shares if shares not in claims else "",
                claims=claims,
            )
        )
    return draw(st.permutations(found))


def on(floor: Floor, jobs: Sequence[Job[int]]) -> list[Job[int]]:
    """The jobs, done on a floor."""

    def run(one: Job[int]) -> Run:
        return lambda _: floor.work(one)

    return [
        Job(
            name=one.name,
            run=run(one),
            rank=one.rank,
            weight=one.weight,
            needs=one.needs,
            shares=one.shares,
            claims=one.claims,
        )
        for one in jobs
    ]


@settings(max_examples=150)
@given(jobs=crews(), workers=st.integers(1, 4))
def test_all_jobs_are_done_once_after_what_they_need_and_alone_where_they_must_be(
    jobs: list[Job[int]], workers: int
) -> None:
    floor = Floor()
    crew = Crew(on(floor, jobs))
    crew.work(workers, nothing)
    assert not floor.wrong
    assert sorted(floor.done) == sorted(one.name for one in jobs)
    assert crew.left == []


@settings(max_examples=80)
@given(jobs=crews(), workers=st.integers(1, 3), data=st.data())
def test_what_is_postponed_is_left_with_all_that_needs_it_and_nothing_else(
    jobs: list[Job[int]], workers: int, data: st.DataObject
) -> None:
    late = data.draw(st.sampled_from([one.name for one in jobs]))
    floor = Floor()

    def postpone(_: int) -> None:
        raise Postponed

    crew = Crew(
        Job(name=o.name, run=postpone, needs=o.needs, shares=o.shares, claims=o.claims)
        if o.name == late
        else o
        for o in on(floor, jobs)
    )
    crew.work(workers, nothing)
    left = {late}
    for _ in jobs:
        left |= {one.name for one in jobs if left & set(one.needs)}
    assert set(crew.left) == left
    assert set(floor.done) == {one.name for one in jobs} - left


def test_one_worker_takes_the_lowest_rank_and_then_the_heaviest() -> None:
    done: list[str] = []
    jobs = [
        job("light", lambda _: done.append("light"), weight=1),
        job("later", lambda _: done.append("later"), rank=1, weight=100),
        job("heavy", lambda _: done.append("heavy"), weight=9),
        job("freed", lambda _: done.append("freed"), weight=50, needs=["heavy"]),
    ]
    Crew(jobs).work(1, nothing)
    assert done == ["heavy", "freed", "light", "later"]


def test_what_the_longest_way_leads_from_goes_before_what_is_heavy() -> None:
    done: list[str] = []
    jobs = [
        job("heavy", lambda _: done.append("heavy"), weight=5),
        job("first", lambda _: done.append("first"), weight=1),
        job("second", lambda _: done.append("second"), weight=2, needs=["first", "before"]),
        job("third", lambda _: done.append("third"), weight=3, needs=["second"]),
    ]
    Crew(jobs).work(1, nothing)
    assert done == ["first", "heavy", "second", "third"]


def test_a_failure_ends_it_and_is_raised_after_what_is_in_hand() -> None:
    done: list[str] = []
    other = threading.Event()

    def fail(_: int) -> None:
        assert other.wait(10)
        raise LookupError("no such table")

    def slow(_: int) -> None:
        other.set()
        time.sleep(0.05)
        done.append("slow")

    jobs = [
        job("fails", fail, weight=2),
        job("slow", slow, weight=1),
        job("next", lambda _: done.append("next"), rank=1),
    ]
    crew = Crew(jobs)
    with pytest.raises(LookupError, match="no such table"):
        crew.work(2, nothing)
    assert crew.failed
    assert done == ["slow"]


def test_a_worker_that_cannot_be_equipped_ends_it() -> None:
    @contextmanager
    def broken() -> Iterator[int]:
        if time.monotonic() > 0:
            raise OSError("no connection")
        yield 0

    with pytest.raises(OSError, match="no connection"):
        Crew([job("a")]).work(2, broken)


def test_jobs_that_wait_for_each_other_are_told_and_not_waited_for() -> None:
    crew = Crew([job("a", needs=["b"]), job("b", needs=["a"]), job("c")])
    with pytest.raises(ValueError, match="these wait for each other: a, b"):
        crew.work(2, nothing)


def test_thousands_of_jobs_are_handed_out_in_no_time() -> None:
    many = [job(f"copy {n}") for n in range(4000)]
    names = frozenset(one.name for one in many)
    last = [job(f"build {n}", needs=names) for n in range(20)]
    began = time.process_time()
    Crew([*many, *last]).work(2, nothing)
    assert time.process_time() - began < 5
