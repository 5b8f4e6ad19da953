"""Processes, servers, connections, disks and locks fail at random; nothing is lost or doubled.

Each run is a seed: `DBSPLIT_CHAOS_SEED=17 DBSPLIT_CHAOS_RUNS=1 pytest -m chaos` repeats one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.chaos.disk import Disk, disk
from tests.chaos.faults import Place, Servers, place, servers
from tests.chaos.matrix import Drawn, drawn
from tests.chaos.split import ChaosSplit, chaos_split
from tests.conftest import require_version

FIRST = int(os.environ.get("DBSPLIT_CHAOS_SEED", "0"))
RUNS = int(os.environ.get("DBSPLIT_CHAOS_RUNS", "40"))

NTH = {"copy.table": 2, "copy.data": 3, "copy.built": 3, "stream.received": 20}
LATE = ("copy.copied", "copy.keys", "copy.caught_up")  # passed by a copy that was killed before
COPY = ("copy", "--chunk-mb", "1")


@pytest.fixture(scope="session")
def pairs() -> Iterator[Callable[[str], Servers]]:
    """Two servers of each version, started when they are first wanted."""
    with ExitStack() as stack:
        small = stack.enter_context(disk())
        anywhere = Disk(small.place, is_small=False)
        found: dict[str, Servers] = {}

        def of(version: str) -> Servers:
            require_version(version)
            if version not in found:
                found[version] = stack.enter_context(servers(version, small, anywhere))
            return found[version]

        yield of


@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_nothing_is_lost_or_doubled(
    seed: int, pairs: Callable[[str], Servers], tmp_path: Path
) -> None:
    run = drawn(seed)
    with place(pairs(run.cell.version)) as where, chaos_split(where, tmp_path) as split:
        try:
            Chaos(run, where, split).go()
        except BaseException as error:
            error.add_note(f"{run}\n{split.log}")
            raise
        finally:
            where.heal()


class Chaos:
    """One run."""

    def __init__(self, run: Drawn, where: Place, split: ChaosSplit) -> None:
        self._run = run
        self._where = where
        self._split = split
        self._chance = Random(f"faults {run.seed}")  # noqa: S311 - not a secret
        self._point = f"{run.cell.point}:{NTH.get(run.cell.point, 1)}"

    def go(self) -> None:
        verb = self._run.cell.point.partition(".")[0]
        {
            "prepare": self._prepare,
            "copy": self._copy,
            "stream": self._stream,
            "cutover": self._move,
        }[verb]()
        self._split.prove()

    def _prepare(self) -> None:
        self._split.die(self._point, "prepare")
        self._disturbed("prepare")
        self._follow(copied=False)

    def _copy(self) -> None:
        self._split.finish("prepare")
        if self._run.cell.point in LATE:
            self._split.die("copy.chunk:2", *COPY)
        self._split.die(self._point, *COPY)
        self._disturbed(*COPY)
        self._follow()

    def _stream(self) -> None:
        self._follow(live=False)
        self._split.ensure_stream(at=self._point)
        self._split.await_stream_killed(self._point)
        self._split.ensure_stream()
        for fault in self._run.faults:
            time.sleep(self._chance.uniform(0, 0.6))
            self._befall(fault)
            if self._run.kills:
                self._split.kill_stream()
            self._split.ensure_stream()
        self._where.heal()
        self._split.await_live()

    def _move(self) -> None:
        self._follow()
        self._split.die(self._point, "cutover", "--yes")
        self._disturbed("cutover", "--yes")
        assert self._split.moved
        if self._chance.random() < 0.5:
            self._split.prove()
            self._disturbed("rollback", "--yes")
            assert not self._split.moved

    def _follow(self, *, copied: bool = True, live: bool = True) -> None:
        """Bring the split to where it follows, with nothing in its way."""
        self._where.heal()
        self._split.finish("prepare")
        self._split.finish(*COPY)
        if live:
            self._split.await_live()

    def _disturbed(self, *words: str) -> None:
        """Run a verb while faults befall it, once for each; then let it come to its end."""
        for fault in self._run.faults:
            verb = self._split.start(*words)
            time.sleep(self._chance.uniform(0, 0.8))
            self._befall(fault)
            if self._run.kills and self._chance.random() < 0.5:
                verb.kill()
            self._split.end(verb)
        self._where.heal()
        self._split.finish(*words)

    def _befall(self, fault: Callable[[Place, Random], str]) -> None:
        self._split.log.append(fault(self._where, self._chance))
