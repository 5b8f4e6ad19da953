"""`validate --continuous`: round after round, told once, and out of a cutover's way."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.following import following
from tests.small_shop import SmallShop, small_shop
from tests.verbs import DBSPLIT, VERB_S_MAX
from toolkit.continuous import Pace, keep_validating
from toolkit.servers import Server
from toolkit.servers_watchdog import wait_until


@pytest.fixture
def shop(source_server: Server, target_server: Server, tmp_path: Path) -> Iterator[SmallShop]:
    with small_shop(source_server, target_server, tmp_path) as one:
        one.follow()
        yield one


class Watching:
    """The process, and the lines that it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("event") == name]

    def rounds(self, more: int) -> None:
        """Wait for so many more rounds that began after this."""
        wanted = len(self.events("round")) + more + 1  # one may be under way
        assert wait_until(lambda: len(self.events("round")) >= wanted, timeout_s=VERB_S_MAX)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(VERB_S_MAX)
        self._thread.join(10)
        return code

    def discard(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))


@contextmanager
def watching(shop: SmallShop) -> Iterator[Watching]:
    verbs = shop.verbs
    process = subprocess.Popen(
        [str(DBSPLIT), "validate", str(verbs.plan), "--continuous", "--every", "0.2", "--json"],
        env=verbs._environment({}),
        cwd=verbs.plan.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    watch = Watching(process)
    try:
        yield watch
    finally:
        watch.discard()


def spoil(shop: SmallShop, subject: str) -> None:
    with psycopg.connect(shop.targets["crm"]) as target:
        target.execute("UPDATE tickets SET subject = %s WHERE id = 77", [subject])


@pytest.mark.long
def test_a_difference_is_told_once_and_closed_once(shop: SmallShop) -> None:
    (right,) = shop.ask("source", "SELECT subject FROM tickets WHERE id = 77")
    with shop.verbs.stream(shop.source), watching(shop) as watch:
        watch.rounds(1)
        assert watch.events("differs") == []
        spoil(shop, "planted")
        watch.rounds(2)
        (told,) = watch.events("differs")
        assert (told["table"], told["new"], told["open"]) == ("public.tickets", 1, 1)
        assert told["examples"][0]["key"] == {"id": "77"}
        status = shop.verbs.json("status")["validation"]
        assert status["runs"] == "continuous"
        (table,) = [one for one in status["tables"] if one["table"] == "public.tickets"]
        assert (table["state"], table["differing"]) == ("different", 1)
        assert table["equal_age_s"] > table["age_s"]
        assert "crm: 3 of 4 tables proven equal" in shop.verbs("status").out
        shop.verbs.refused("validate", code=4, says="running already", hint="SIGTERM")
        spoil(shop, right[0])
        watch.rounds(2)
        (closed,) = watch.events("closed")
        assert (closed["closed"], closed["open"]) == (1, 0)
        assert len(watch.events("differs")) == 1
        spoil(shop, "planted again")
        watch.rounds(1)
        assert watch.end() == 5
    assert not watch.lines[-1]["consistent"]
    proven = watch.events("proven")
    assert {one["table"] for one in proven} >= {"public.orders", "public.visits"}
    assert all(one["as_of"] and one["at"] for one in proven)


@pytest.mark.long
@pytest.mark.release
def test_one_that_is_killed_time_and_again_tells_all_the_same(shop: SmallShop) -> None:
    (right,) = shop.ask("source", "SELECT subject FROM tickets WHERE id = 77")
    with shop.verbs.stream(shop.source):
        for after_s in (0.8, 1.1, 1.4):  # while it starts, connects and compares
            with watching(shop):
                time.sleep(after_s)
        spoil(shop, "planted")
        with watching(shop) as watch:
            assert wait_until(lambda: bool(watch.events("differs")), timeout_s=VERB_S_MAX)
            watch.rounds(1)
        with watching(shop) as watch:  # it knows what the one before has told
            watch.rounds(1)
            assert watch.end() == 5
        assert watch.events("differs") == []
        spoil(shop, right[0])
        with watching(shop) as watch:
            watch.rounds(1)
            assert watch.end() == 0
        assert watch.events("differs") == []
        assert [told["closed"] for told in watch.events("closed")] == [1]
        assert shop.value("source", "SELECT count(*) FROM dbsplit.told_difference") == 0
        assert shop.verbs.json("validate")["consistent"] is True
    assert shop.value("source", "SELECT count(*) FROM dbsplit.difference") == 0


@pytest.mark.long
def test_a_cutover_goes_its_way_and_what_follows_then_is_compared(shop: SmallShop) -> None:
    with shop.verbs.stream(shop.source), watching(shop) as watch:
        watch.rounds(1)
        moved = shop.verbs.json("cutover", "--yes")
        assert moved["outcome"] == "moved"
        watch.rounds(2)
        assert watch.end() == 0
        assert watch.events("differs") == []
        assert watch.lines[-1]["consistent"]
        directions = shop.ask("source", "SELECT DISTINCT direction FROM dbsplit.validated")
        assert ("rollback",) in directions


def test_one_that_is_paused_by_an_operator_ends_when_it_is_told_to(shop: SmallShop) -> None:
    with shop.verbs.stream(shop.source):
        shop.verbs("throttle", "--pause")
        with watching(shop) as watch:
            assert wait_until(lambda: bool(watch.events("throttled")), timeout_s=VERB_S_MAX)
            assert watch.end() == 0
        assert watch.lines[-1]["rounds"] == 0
        shop.verbs("throttle", "--resume")


def test_a_single_result_is_not_to_be_had_of_many_rounds(shop: SmallShop) -> None:
    shop.verbs.refused("validate", "--continuous", "--repair", code=2, says="has no --repair")


def test_a_move_that_nobody_ends_is_told_and_comparing_goes_on(
    source_server: Server, target_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.continuous.DEAD_S_MAX", 0.2)
    said: list[str] = []

    def say(step: str, _details: object) -> None:
        said.append(step)
        if step == "round":
            raise KeyboardInterrupt

    with following(source_server, target_server, tmp_path, tables="t: a\nu: b\n") as databases:
        databases.execute(
            "CREATE SCHEMA odd; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (i int)"
        )
        databases.prepare()
        databases.copy()
        databases.execute("UPDATE dbsplit.service SET phase = 'draining'")
        split = databases.open()
        watched = threading.Thread(
            target=keep_validating,
            args=(split, split.routes, say),
            kwargs={"pace": Pace(every_s=0), "still": lambda: None, "stop": threading.Event()},
            daemon=True,
        )
        watched.start()
        watched.join(VERB_S_MAX)
        assert said[-1:] == ["round"]
    assert said.count("stuck") == 1
